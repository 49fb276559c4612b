/* Reading back: slices as the broker serves them, cursors as schedule and coordinator read, state, runs; and
 * after each start all of it, for the model to judge. */
#include "run.h"

#include <stdio.h>

enum { SLICE_MAX = 32 << 10 };

static hf_str topic_name(struct run *r, int topic) {
    return hf_str_of(r->model->topics[topic].name);
}

struct slice_reading {
    struct run *r;
    int topic, partition;
    void (*fn)(struct run *r, int topic, int partition, const struct krecord *k);
    struct krecord first;
    bool any;
    int32_t epoch; /* of the batch before */
};

static bool note_record(void *arg, const struct krecord *k) {
    struct slice_reading *s = arg;
    if (!s->any) s->first = *k;
    s->any = true;
    s->fn(s->r, s->topic, s->partition, k);
    return true;
}

/* M8: a client's batch is as it was sent, but for its place and, with LogAppendTime, its times. */
static void compare_batch(struct run *r, int topic, const struct krecord *first, const uint8_t *p, size_t n) {
    struct message *x = model_find(r->model, first->id);
    uint8_t made[KBATCH_MAX];
    if (!x || x->commit >= 0) return;
    bool compacted = r->model->topics[topic].compacted;
    size_t size = kbatch_make(x->id, x->count, &x->producer, compacted, made);
    if (compacted && (kbatch_count(p) != (int32_t)x->count || p[22] & 64)) return; /* written again */
    bool timed = r->model->topics[topic].append_time || r->model->topics[topic].internal;
    bool same =
        size == n && memcmp(p + 8, made + 8, 4) == 0 && p[16] == 2 && memcmp(p + 43, made + 43, n - 43) == 0;
    if (same && !timed) same = memcmp(p + 16, made + 16, n - 16) == 0;
    if (!same) model_broken(r->model, "M8", "the batch of message %u has other bytes", x->id);
}

/* M13: the batch's epoch is not below the one before, and is listed as one that reaches over it. */
static void compare_epoch(struct slice_reading *s, const uint8_t *p, int64_t end) {
    struct model *m = s->r->model;
    struct log_partition *partition = log_partition(s->r->log, topic_name(s->r, s->topic), s->partition);
    int32_t epoch = (int32_t)hf_get_be32(p + 12), found = -1;
    int64_t epoch_end = -1;
    enum hf_err e = log_epoch_end(partition, epoch, &found, &epoch_end);
    if (epoch < s->epoch || e || found != epoch || epoch_end < end)
        model_broken(m, "M13", "%s-%d: a batch up to %lld has epoch %d after %d, listed as %d up to %lld",
                     m->topics[s->topic].name, s->partition, (long long)end, epoch, s->epoch, found,
                     (long long)epoch_end);
    s->epoch = epoch;
}

static int64_t read_batches(struct slice_reading *s, const uint8_t *p, size_t n, int64_t expected) {
    struct model *m = s->r->model;
    for (size_t at = 0; at < n && !m->broken;) {
        int64_t base;
        int32_t count;
        s->any = false;
        size_t size = kbatch_read(p + at, n - at, note_record, s);
        if (m->broken) break;
        if (size == 0 || !kbatch_span(p + at, n - at, &base, &count) || base < expected) {
            model_broken(m, "M8", "%s-%d: no whole batch at byte %zu of %zu read for offset %lld",
                         m->topics[s->topic].name, s->partition, at, n, (long long)expected);
            break;
        }
        if (s->any) compare_batch(s->r, s->topic, &s->first, p + at, size);
        compare_epoch(s, p + at, base + count);
        expected = base + count;
        at += size;
    }
    return expected;
}

static uint64_t sum_of(const uint8_t *p, size_t n) {
    uint64_t sum = n;
    for (size_t i = 0; i < n; i++) sum = (sum ^ p[i]) * UINT64_C(1099511628211);
    return sum;
}

enum hf_err sweep_slice(struct run *r, int topic, int partition, int64_t offset, size_t max_bytes,
                        void (*fn)(struct run *r, int topic, int partition, const struct krecord *k),
                        int64_t *next, struct pinned *pin) {
    static uint8_t bytes[SLICE_MAX];
    struct log_partition *p = log_partition(r->log, topic_name(r, topic), partition);
    struct log_slice slice = {0};
    if (!p) return HF_ENOTFOUND;
    enum hf_err e = log_read(r->log, p, offset, max_bytes, true, &slice);
    if (e) return e;
    size_t got = 0;
    if (slice.size > SLICE_MAX)
        model_broken(r->model, "M8", "a slice of %zu bytes for %zu", slice.size, max_bytes);
    else if (slice.size > 0)
        e = env_read(slice.file, slice.position, bytes, slice.size, &got);
    if (!e && got == slice.size && got > 0) {
        struct slice_reading s = {.r = r, .topic = topic, .partition = partition, .fn = fn};
        int64_t base;
        int32_t count;
        if (kbatch_span(bytes, got, &base, &count) && base + count <= offset)
            model_broken(r->model, "M8", "a slice for offset %lld begins at %lld", (long long)offset,
                         (long long)base);
        *next = read_batches(&s, bytes, got, 0);
    } else if (!e) {
        e = HF_EEND;
    }
    if (pin && !pin->slice.pin && slice.pin && !e)
        *pin = (struct pinned){slice, sum_of(bytes, got)};
    else if (slice.pin)
        log_pin_release(slice.pin);
    return e;
}

void sweep_unpin(struct run *r, struct pinned *pin) {
    static uint8_t bytes[SLICE_MAX];
    size_t got;
    if (!pin->slice.pin) return;
    if (env_read(pin->slice.file, pin->slice.position, bytes, pin->slice.size, &got) == HF_OK &&
        (got != pin->slice.size || sum_of(bytes, got) != pin->sum))
        model_broken(r->model, "M8", "a slice at %lld changed while it was read",
                     (long long)pin->slice.first_offset);
    log_pin_release(pin->slice.pin);
    *pin = (struct pinned){0};
}

/* ---- cursors ---- */

void sweep_cursor(struct run *r, int topic, int partition, int64_t from, size_t limit) {
    struct model *m = r->model;
    struct engine_cursor *c;
    if (engine_cursor_open(r->engine, topic_name(r, topic), partition, &c)) return;
    engine_cursor_seek(c, from);
    uint64_t sequence = 0;
    int64_t time = 0, offset = -1;
    for (size_t i = 0; i < limit && !m->broken; i++) {
        struct engine_record record;
        struct krecord k;
        if (engine_cursor_next(c, &record)) break;
        k.offset = record.offset;
        if (!kvalue_parse(record.value, &k.id, &k.index)) {
            model_broken(m, "M8", "a cursor gives bytes nobody sent at offset %lld",
                         (long long)record.offset);
            break;
        }
        if (record.offset <= offset || record.offset < from || record.sequence <= sequence ||
            record.timestamp_ms < time)
            model_broken(m, "M9", "offset %lld, sequence %llu, time %lld come after %lld, %llu, %lld",
                         (long long)record.offset, (unsigned long long)record.sequence,
                         (long long)record.timestamp_ms, (long long)offset, (unsigned long long)sequence,
                         (long long)time);
        model_shown(m, topic, partition, &k, true);
        model_ordered(m, &k, record.sequence);
        offset = record.offset;
        sequence = record.sequence;
        time = record.timestamp_ms;
    }
    engine_cursor_close(c);
}

/* ---- state ---- */

struct run_sought {
    uint64_t id;
    int32_t found;
};

static void seek_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    struct run_sought *s = arg;
    (void)bucket, (void)bytes;
    if (id == s->id) s->found = 1;
}

static int32_t value_of(void *arg, enum model_thing thing, int which) {
    struct run *r = arg;
    char name[16];
    if (thing == THING_RUN) {
        struct run_sought s = {.id = r->model->runs[which].id};
        engine_run_each(r->engine, seek_run, &s);
        return s.found;
    }
    snprintf(name, sizeof name, "%c/%d", thing == THING_TOPIC_KEY ? 'g' : 's', which);
    hf_str v = engine_state_get(r->engine, hf_str_of(name));
    if (!v.p) return 0;
    if (v.n < 4) return -1;
    uint32_t number = hf_get_be32(v.p);
    return v.n == 4 + number % 200 ? (int32_t)number : -1;
}

struct keys {
    struct run *r;
    char last[32];
    int count;
};

static void count_key(void *arg, hf_str key, hf_str value) {
    struct keys *k = arg;
    (void)value;
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)key.n, key.p);
    if (strcmp(name, k->last) <= 0) model_broken(k->r->model, "M6", "keys out of order: %s", name);
    memcpy(k->last, name, sizeof name);
    k->count++;
}

/* The listing of the state agrees with single look-ups. */
static void sweep_keys(struct run *r) {
    struct keys k = {.r = r};
    int should = 0;
    for (int i = 0; i < STATE_KEYS; i++) should += value_of(r, THING_STATE, i) != 0;
    engine_state_each(r->engine, HF_STR("s/"), count_key, &k);
    if (k.count != should) model_broken(r->model, "M6", "%d keys are listed of %d", k.count, should);
}

/* ---- runs ---- */

void sweep_run_bytes(uint32_t seed, uint64_t from, uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)((seed + (from + i) / 7) * 2654435761u >> 13);
}

struct runs_listed {
    struct run *r;
    uint64_t id[RUNS_MAX];
    size_t count;
};

static void list_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    struct runs_listed *l = arg;
    struct model *m = l->r->model;
    for (uint32_t i = 0; i < m->run_count; i++) {
        const struct commit_run *x = &m->runs[i];
        if (x->phase != RUN_NAMED || x->id != id) continue;
        if (x->bucket != bucket || x->bytes != bytes)
            model_broken(m, "M11", "run %llu has %llu bytes of bucket %llu", (unsigned long long)id,
                         (unsigned long long)bytes, (unsigned long long)bucket);
        l->count++;
        return;
    }
    model_broken(m, "M11", "run %llu is there, no commit named it", (unsigned long long)id);
}

static void sweep_runs(struct run *r) {
    struct model *m = r->model;
    struct runs_listed l = {.r = r};
    size_t named = 0;
    engine_run_each(r->engine, list_run, &l);
    for (uint32_t i = 0; i < m->run_count && !m->broken; i++) {
        const struct commit_run *x = &m->runs[i];
        uint8_t is[4096], should[4096];
        if (x->phase != RUN_NAMED) continue;
        named++;
        for (uint64_t at = 0; at < x->bytes && !m->broken; at += sizeof is) {
            size_t n = x->bytes - at < sizeof is ? (size_t)(x->bytes - at) : sizeof is;
            enum hf_err e = engine_run_read(r->engine, x->id, at, is, n);
            if (e == HF_ECRASHED) return;
            sweep_run_bytes(x->seed, at, should, n);
            if (e || memcmp(is, should, n) != 0)
                model_broken(m, "M11", "run %llu cannot be read back: %s", (unsigned long long)x->id,
                             hf_err_name(e));
        }
    }
    if (!m->broken && named != l.count) model_broken(m, "M11", "%zu runs of %zu are there", l.count, named);
}

/* ---- everything ---- */

static void sweep_record(struct run *r, int topic, int partition, const struct krecord *k) {
    model_sweep_record(r->model, topic, partition, k);
}

static void sweep_partition(struct run *r, int topic, int partition) {
    struct model *m = r->model;
    struct log_partition *p = log_partition(r->log, topic_name(r, topic), partition);
    struct log_bounds b;
    if (!p) {
        model_broken(m, "M10", "topic %s has no partition %d", m->topics[topic].name, partition);
        return;
    }
    log_bounds(p, &b);
    if (b.start > b.high || b.high > b.end || b.stable > b.end)
        model_broken(m, "M12", "bounds %lld %lld %lld", (long long)b.start, (long long)b.high,
                     (long long)b.end);
    model_start_is(m, topic, partition, b.start);
    for (int64_t at = b.start; at < b.high && !m->broken;) {
        enum hf_err e = sweep_slice(r, topic, partition, at, 8192, sweep_record, &at, NULL);
        if (e == HF_ECRASHED) return;
        if (e == HF_EEND && !m->broken) break;
        if (e)
            model_broken(m, "M1", "reading %s-%d at %lld: %s", m->topics[topic].name, partition,
                         (long long)at, hf_err_name(e));
    }
}

/* The end is past everything that was ever given out and not lost. */
static void sweep_end(struct run *r, int topic, int partition) {
    struct log_bounds b;
    log_bounds(log_partition(r->log, topic_name(r, topic), partition), &b);
    if (b.high < model_high(r->model, topic, partition))
        model_broken(r->model, "M12", "%s-%d ends at %lld, %lld was given out", r->model->topics[topic].name,
                     partition, (long long)b.high, (long long)model_high(r->model, topic, partition));
}

/* M13: look-ups by time, on topics whose records keep their producers' times. */
static void sweep_times(struct run *r, int topic, int partition) {
    struct model *m = r->model;
    struct log_partition *p = log_partition(r->log, topic_name(r, topic), partition);
    for (int i = 0; i < 2 && !m->broken; i++) {
        int64_t ms = kbatch_time((uint32_t)run_below(r, 1000)) + (int64_t)run_below(r, 3);
        int64_t should = model_offset_at(m, topic, partition, ms), offset = -1, time = -1;
        if (should == -2) return;
        enum hf_err e = log_offset_at(r->log, p, ms, &offset, &time);
        if (hf_sim_dead(r->sim)) return; /* the look-up opened a file, and the crash came */
        bool right = e == HF_EEND ? should == -1 : !e && offset == should && time >= ms;
        if (!right)
            model_broken(m, "M13", "%s-%d: the first record since %lld is %lld, the log says %s %lld",
                         m->topics[topic].name, partition, (long long)ms, (long long)should, hf_err_name(e),
                         (long long)offset);
    }
}

void sweep_all(struct run *r) {
    struct model *m = r->model;
    model_sweep_begin(m);
    for (int t = 0; t < TOPICS && !m->broken; t++) {
        struct log_topic_info info;
        bool there = log_topic(r->log, topic_name(r, t), &info) == HF_OK;
        model_topic_is(m, t, there, there ? info.id.b : NULL);
        if (there) model_altered_is(m, t, work_settings_number(&info));
        if (there) model_partitions_are(m, t, info.partitions);
        for (int p = 0; there && p < m->topics[t].partitions && !m->broken; p++) sweep_partition(r, t, p);
    }
    if (m->broken || hf_sim_dead(r->sim)) return;
    model_sweep_end(m, r->power, value_of, r);
    for (int t = 0; t < TOPICS && !m->broken; t++) {
        if (m->topics[t].phase != TOPIC_LIVE) continue;
        for (int p = 0; p < m->topics[t].partitions && !m->broken; p++) {
            if (m->topics[t].internal) sweep_cursor(r, t, p, 0, 1 << 20);
            sweep_end(r, t, p);
            sweep_times(r, t, p);
        }
    }
    if (!m->broken) sweep_keys(r);
    if (!m->broken) sweep_runs(r);
}
