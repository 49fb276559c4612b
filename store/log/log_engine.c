/* engine.h over the log: what schedule, transactions and groups see.
 *
 * Commits, state and runs are theirs almost as they are (commit.c, state.c, runs.c). Here are topics,
 * watches, and cursors: a cursor reads a range of whole batches into its own memory, checks each checksum,
 * and gives out the records one by one. It holds no pin and names its topic by id, so it survives deletion
 * and simply ends. */
#include "log_internal.h"

#include "base/names.h"

#include <stdlib.h>

enum { CHUNK = 64 << 10, DECOMPRESSED_MAX = 64 << 20 };

static struct log *log_of(struct engine *e) {
    return (struct log *)e;
}

static enum hf_err commit(struct engine *e, const struct engine_commit *c, engine_done *done, void *arg) {
    return commit_start(log_of(e), c, NULL, NULL, done, arg);
}

/* ---- topics ---- */

static enum hf_err start_creation(struct log *l, hf_str name) {
    if (!l->o.auto_create && !hf_topic_is_ours(name)) return HF_ENOTFOUND;
    struct log_topic_config config = {0};
    enum hf_err e = log_topic_create(l, name, &config, NULL, NULL);
    if (e == HF_OK || e == HF_EEXIST) return HF_EAGAIN;
    return e == HF_EINVAL ? HF_ENOTFOUND : e;
}

static enum hf_err topic(struct engine *e, hf_str name, bool create, int32_t *partitions) {
    struct log *l = log_of(e);
    const struct topic *t = topic_find(l, name);
    if (!t) return create ? start_creation(l, name) : HF_ENOTFOUND;
    if (t == l->state_topic) return HF_ENOTFOUND;
    if (t->phase != TOPIC_LIVE) return create ? HF_EAGAIN : HF_ENOTFOUND;
    *partitions = t->partitions;
    return HF_OK;
}

static struct topic *live_topic(struct log *l, hf_str name) {
    struct topic *t = topic_find(l, name);
    return t && t->phase == TOPIC_LIVE && t != l->state_topic ? t : NULL;
}

static struct log_partition *live_partition(struct log *l, hf_str name, int32_t number) {
    struct topic *t = live_topic(l, name);
    return t && number >= 0 && number < t->partitions ? t->partition[number] : NULL;
}

static size_t record_max(struct engine *e, hf_str name) {
    const struct topic *t = live_topic(log_of(e), name);
    return t ? t->config.message_max - BATCH_HEADER : 0;
}

static enum hf_err bounds(struct engine *e, hf_str name, int32_t number, int64_t *start,
                          int64_t *stable_end) {
    const struct log_partition *p = live_partition(log_of(e), name, number);
    if (!p) return HF_ENOTFOUND;
    *start = p->start;
    *stable_end = p->high.offset;
    return HF_OK;
}

static int64_t stable_ms(struct engine *e, hf_str name) {
    const struct topic *t = live_topic(log_of(e), name);
    int64_t least = INT64_MAX;
    for (int32_t i = 0; t && i < t->partitions; i++) {
        const struct pending *w = t->partition[i]->fifo;
        if (w && w->time_ms < least) least = w->time_ms;
    }
    return least;
}

static void time_floor(struct engine *e, hf_str name, int64_t ms) {
    struct topic *t = live_topic(log_of(e), name);
    if (t && ms > t->last_time_ms) t->last_time_ms = ms;
}

static void accept_clock(struct engine *e) {
    struct log *l = log_of(e);
    l->trusted_delta_ms = env_wall_ms(l->env) - env_mono_us(l->env) / 1000;
}

/* ---- watches: by name, so that they may come before their topic and survive it ---- */

static struct topic_watch *watch_find(struct log *l, hf_str name) {
    struct topic_watch *w;
    DL_FOREACH (l->watches, w) {
        if (hf_str_is(name, w->name)) return w;
    }
    return NULL;
}

static void watch(struct engine *e, hf_str name, void (*fn)(void *arg), void *arg) {
    struct log *l = log_of(e);
    struct topic_watch *w = watch_find(l, name);
    struct topic *t = topic_find(l, name);
    if (t) t->watch = fn;
    if (t) t->watch_arg = arg;
    if (!fn) {
        if (w) DL_DELETE(l->watches, w);
        free(w);
        return;
    }
    if (!w) {
        w = name.n < sizeof w->name ? calloc(1, sizeof *w) : NULL;
        if (!w) {
            log_fail(l, HF_ENOMEM, "watch");
            return;
        }
        memcpy(w->name, name.p, name.n);
        DL_APPEND(l->watches, w);
    }
    w->fn = fn;
    w->arg = arg;
}

/* A topic came to life. */
void watches_attach(struct topic *t, struct log *l) {
    struct topic_watch *w = watch_find(l, hf_str_of(t->name));
    if (!w) return;
    t->watch = w->fn;
    t->watch_arg = w->arg;
    partition_note_moved(t->partition[0]);
}

void watches_free(struct log *l) {
    struct topic_watch *w, *next;
    DL_FOREACH_SAFE(l->watches, w, next) {
        free(w);
    }
    l->watches = NULL;
}

/* ---- cursors ---- */

struct log_cursor {
    struct engine_cursor base;
    struct log *l;
    struct log_uuid topic;
    int32_t number;
    bool internal;
    int64_t position;
    struct hf_buf chunk;
    size_t at; /* of the batch being read, or the next one */
    bool inside;
    struct batch_info b;
    struct batch_iter *it;
};

static enum hf_err cursor_open(struct engine *e, hf_str name, int32_t number, struct engine_cursor **out) {
    struct log_partition *p = live_partition(log_of(e), name, number);
    if (!p) return HF_ENOTFOUND;
    struct log_cursor *c = calloc(1, sizeof *c);
    if (!c) return HF_ENOMEM;
    enum hf_err err = batch_iter_open(DECOMPRESSED_MAX, &c->it);
    if (err) {
        free(c);
        return err;
    }
    c->base.engine = e;
    c->l = log_of(e);
    c->topic = p->topic->id;
    c->number = number;
    c->internal = p->topic->config.internal;
    hf_buf_init(&c->chunk, LOG_SEGMENT_MAX);
    *out = &c->base;
    return HF_OK;
}

static void cursor_close(struct engine_cursor *base) {
    struct log_cursor *c = (struct log_cursor *)base;
    batch_iter_close(c->it);
    hf_buf_fini(&c->chunk);
    free(c);
}

static void cursor_seek(struct engine_cursor *base, int64_t offset) {
    struct log_cursor *c = (struct log_cursor *)base;
    bool ahead = c->inside && offset >= c->position && offset <= c->b.base_offset + c->b.last_offset_delta;
    c->position = offset;
    if (ahead) return;
    c->inside = false;
    hf_buf_reset(&c->chunk);
    c->at = 0;
}

static enum hf_err load_chunk(struct log_cursor *c) {
    struct topic *t = topic_find_id(c->l, &c->topic);
    struct log_partition *p = t && t->phase == TOPIC_LIVE ? t->partition[c->number] : NULL;
    if (!p) return HF_EEND;
    if (c->position < p->start) c->position = p->start;
    if (c->position >= p->high.offset) return HF_EEND;
    struct log_slice slice;
    enum hf_err e = log_read(c->l, p, c->position, CHUNK, true, &slice);
    if (e) return e;
    hf_buf_reset(&c->chunk);
    c->at = 0;
    uint8_t *to = slice.size ? hf_buf_room(&c->chunk, slice.size) : NULL;
    size_t got = 0;
    if (slice.size > 0) e = to ? env_read(slice.file, slice.position, to, slice.size, &got) : HF_ENOMEM;
    if (slice.pin) log_pin_release(slice.pin);
    if (e) return e;
    c->chunk.n = got;
    return got == slice.size ? (got ? HF_OK : HF_EEND) : HF_ECORRUPT;
}

static enum hf_err begin_batch(struct log_cursor *c) {
    if (c->at == c->chunk.n) {
        enum hf_err e = load_chunk(c);
        if (e) return e;
    }
    const uint8_t *p = c->chunk.p + c->at;
    enum hf_err e = batch_parse(p, c->chunk.n - c->at, &c->b);
    if (e || !batch_crc_ok(p, &c->b)) {
        env_log(c->l->env, ENV_ERROR, "batch_damaged", "offset=%lld", (long long)c->position);
        return HF_ECORRUPT;
    }
    e = batch_iter_begin(c->it, p, &c->b);
    if (!e) c->inside = true;
    return e;
}

static void end_batch(struct log_cursor *c) {
    int64_t next = c->b.base_offset + c->b.last_offset_delta + 1;
    if (c->position < next) c->position = next;
    c->at += c->b.size;
    c->inside = false;
}

static void describe(const struct log_cursor *c, const struct batch_record *r, struct engine_record *out) {
    int64_t offset = c->b.base_offset + r->offset_delta;
    int64_t first = c->internal ? c->b.base_timestamp : c->b.base_offset + 1;
    *out = (struct engine_record){
        .offset = offset,
        .sequence = (uint64_t)(first + r->offset_delta),
        .timestamp_ms = r->timestamp_ms,
        .key = r->key,
        .value = r->value,
        .headers = r->headers,
        .header_count = r->header_count,
    };
}

static enum hf_err cursor_next(struct engine_cursor *base, struct engine_record *out) {
    struct log_cursor *c = (struct log_cursor *)base;
    if (c->l->failed) return c->l->failed;
    for (;;) {
        struct batch_record r;
        enum hf_err e = c->inside ? HF_OK : begin_batch(c);
        if (e) return e;
        e = batch_iter_next(c->it, &r);
        if (e == HF_EEND) {
            end_batch(c);
            continue;
        }
        if (e) return e;
        int64_t offset = c->b.base_offset + r.offset_delta;
        if (offset < c->position) continue;
        describe(c, &r, out);
        c->position = offset + 1;
        return HF_OK;
    }
}

/* ---- state ---- */

static void each(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                 void *arg) {
    state_each(log_of(e), prefix, fn, arg);
}

static hf_str get(struct engine *e, hf_str key) {
    return state_get(log_of(e), key);
}

static int64_t committed(struct engine *e, hf_str group, hf_str name, int32_t number) {
    struct hf_buf key;
    hf_buf_init(&key, 4096);
    engine_offset_key(&key, group, name, number);
    hf_str value = hf_buf_failed(&key) ? (hf_str){0} : state_get(log_of(e), hf_buf_view(&key));
    hf_buf_fini(&key);
    return value.n >= 8 ? (int64_t)hf_get_be64(value.p) : -1;
}

const struct engine_ops log_engine_ops = {
    .commit = commit,
    .topic = topic,
    .record_max = record_max,
    .cursor_open = cursor_open,
    .cursor_close = cursor_close,
    .cursor_seek = cursor_seek,
    .cursor_next = cursor_next,
    .bounds = bounds,
    .stable_ms = stable_ms,
    .time_floor = time_floor,
    .accept_clock = accept_clock,
    .watch = watch,
    .state_each = each,
    .state_get = get,
    .committed = committed,
    .room = run_room,
    .run_begin = run_begin,
    .run_append = run_append,
    .run_seal = run_seal,
    .run_abort = run_abort,
    .run_discard = run_discard,
    .run_each = run_each,
    .run_read = run_read,
};
