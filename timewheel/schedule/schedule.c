/* The schedule: holds messages until they are due.
 *
 * The problem: a hundred million messages may wait, some for a second and some for a year, and each must
 * reach its topic exactly once, in order of (effective due, sequence), at its millisecond, in bounded memory,
 * through any crash.
 *
 * The design is a log-structured merge tree whose key is the place in time, with a timing wheel as its
 * memory:
 *
 *     holdfast.delay --accept--> active gathering --checkpoint--> runs --merge--> larger runs
 *                                (wheel)            (frozen)        |               |
 *                                   \__________________\____________\_______________\___ fire --> topics
 *
 * accept.c     reads each record once, decides what it does to its id, puts messages into the wheel
 * gather.c     the messages in memory: chunks of bodies, a wheel of pointers
 * checkpoint.c writes what has not been fired when memory is full, and lets the log go
 * run.c        sorted files: what checkpoints and merges write
 * merge.c      keeps the number of runs small
 * fire.c       merges wheel and runs by place, moves what is due, moves the mark
 * ids.c        what is known of ids, in memory and in runs of their own
 * clock.c      inside time, leaps, monotonic deadlines
 * due.c        what is due when, for those who look
 * counts.c     how much pends for each destination
 * list.c       pages, one by id, outcomes
 * recurring.c  hf-cron: the next run of a message that fires
 * levels.c     hf-delay: level3
 *
 * Messages of a run are read in order of firing, block after block, straight into the moves. Nothing is
 * loaded ahead: a window of twenty million messages costs one block of each run, like any other. The other
 * way (rows of references to the log in the wheel, read back when due) was rejected: what is due together was
 * not accepted together, so firing would read the log at random, and decompress a batch for each message.
 *
 * Durable state: runs; "delay/mark" (in each commit of moves); "delay/base" (checkpoint.c); "delay/clock". A
 * start reads them, opens the runs at the mark, and reads the log again from the base: operations come to the
 * same decisions as before (accept.c), and messages at or before the mark are left out.
 *
 * Invariants (schedule_check):
 *
 *   S1  mark <= started <= taken: durable, committing, taken from their sources
 *
 *   S2  every accepted message is at exactly one of: at or before `taken`; live in a gathering; in one run,
 *       unless a tombstone with its place is in a gathering or a run
 *
 *   S3  nothing readable and unread can have a place at or before limit_ms, or cancel one (fire.c)
 *
 *   S4  what is known of ids at the base is in runs of ids; later knowledge is in the gatherings
 *
 *   S5  every source's head lies behind `taken`
 *
 *   S6  the counts of all destinations sum up to what pends (counts.c)
 *
 * Failure. A commit that fails takes all later ones with it; the schedule then throws its memory away and
 * starts again from durable state (rewind), as after a crash. So does it when memory runs out in the middle
 * of something. No space, a busy engine, a topic not yet created: it waits and is late. A run or a topic that
 * cannot be read: it stops and says so. */
#include "schedule_state.h"

#include "base/names.h"

enum { KEY_MAX = 2048, REST_MS = 60000 };

/* ---- small things ---- */

void schedule_tell(struct schedule *s, enum schedule_event what, const char *text) {
    if (s->o.event) s->o.event(s->o.arg, what, text);
}

uint64_t schedule_random(struct schedule *s) { /* splitmix64 */
    uint64_t z = s->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A destination deleted under a commit (HF_ENOTFOUND) is among what starting again mends. */
static bool may_pass(enum hf_err e) {
    return hf_err_class_of(e) == HF_CLASS_RETRY || e == HF_ENOTFOUND || e == HF_ELIMIT;
}

void schedule_trouble(struct schedule *s, enum hf_err e, const char *what) {
    if (s->rewinding || s->failed) return;
    if (may_pass(e)) {
        s->rewinding = true;
        s->count.rewinds++;
        schedule_tell(s, SCHEDULE_REWOUND, what);
    } else {
        s->failed = e;
        schedule_tell(s, SCHEDULE_DAMAGED, what);
    }
}

const char *schedule_outcome_text(enum schedule_outcome o) {
    static const char *const texts[] = {"scheduled", "kept",      "finished",          "replaced", "moved",
                                        "changed",   "cancelled", "already delivered", "unknown"};
    return o <= SCHEDULE_UNKNOWN ? texts[o] : "unknown";
}

/* ---- runs ---- */

void schedule_runs_changed(struct schedule *s) {
    s->id_run_count = s->dropping_count = 0;
    s->first_end = PLACE_END;
    s->merge_wanted = true;
    for (size_t i = 0; i < s->run_count; i++) {
        struct run *r = s->runs[i].run;
        if (r->kind == RUN_IDS)
            s->id_runs[s->id_run_count++] = r;
        else if (r->dropping)
            s->dropping_count++;
        else if (!r->merging && place_before(r->last, s->first_end))
            s->first_end = r->last;
    }
}

void schedule_id_bytes(const struct schedule *s, uint64_t *all, uint64_t *finished) {
    *all = *finished = 0;
    for (size_t i = 0; i < s->id_run_count; i++) {
        *all += s->id_runs[i]->bytes;
        *finished += s->id_runs[i]->bytes - s->id_runs[i]->pending_bytes;
    }
}

static enum hf_err room_for_a_run(struct schedule *s) {
    if (s->run_count == s->run_cap) {
        size_t cap = s->run_cap ? s->run_cap * 2 : 16;
        struct source *p = realloc(s->runs, cap * sizeof *p);
        if (!p) return HF_ENOMEM;
        s->runs = p;
        struct run **ids = realloc(s->id_runs, cap * sizeof *ids);
        if (!ids) return HF_ENOMEM;
        s->id_runs = ids;
        s->run_cap = cap;
    }
    return HF_OK;
}

enum hf_err schedule_add_run(struct schedule *s, struct run *r) {
    struct run_cursor cursor = {.head = PLACE_END};
    enum hf_err e = room_for_a_run(s);
    if (!e && r->kind == RUN_MESSAGES) e = run_cursor_open(&cursor, s->engine, r, s->taken);
    if (e) return e;
    if (r->group >= s->next_group) s->next_group = r->group + 1;
    s->runs[s->run_count++] = (struct source){r, cursor};
    schedule_runs_changed(s);
    return HF_OK;
}

enum hf_err schedule_open_run(struct schedule *s, uint64_t id, uint64_t bytes) {
    struct run *r;
    enum hf_err e = run_open(s->engine, id, bytes, &r);
    if (e) return e;
    if ((e = schedule_add_run(s, r))) run_close(r);
    return e;
}

static void remove_at(struct schedule *s, size_t i) {
    run_cursor_close(&s->runs[i].cursor);
    run_close(s->runs[i].run);
    memmove(&s->runs[i], &s->runs[i + 1], (s->run_count - i - 1) * sizeof s->runs[0]);
    s->run_count--;
    schedule_runs_changed(s);
}

void schedule_remove_run(struct schedule *s, uint64_t id) {
    for (size_t i = 0; i < s->run_count; i++) {
        if (s->runs[i].run->id != id) continue;
        remove_at(s, i);
        return;
    }
}

/* Runs whose dropping commit is durable: it moved the mark past their last place. */
static void remove_dropped(struct schedule *s) {
    for (size_t i = s->run_count; s->dropping_count > 0 && i-- > 0;)
        if (s->runs[i].run->dropping && !place_before(s->mark, s->runs[i].run->last)) remove_at(s, i);
}

/* ---- start and rewind ---- */

struct opening {
    struct schedule *s;
    enum hf_err e;
};

static void open_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    struct opening *o = arg;
    (void)bucket;
    if (!o->e) o->e = schedule_open_run(o->s, id, bytes);
}

static void read_mark(struct schedule *s) {
    hf_str v = engine_state_get(s->engine, HF_STR("delay/mark"));
    s->mark = (struct place){0, 0};
    if (v.n == 16) s->mark = (struct place){(int64_t)hf_get_be64(v.p), hf_get_be64(v.p + 8)};
    s->started = s->taken = s->buried = s->mark;
    s->limit_ms = s->mark.due - !hf_mutate(111); /* places of the mark's own time may still be unread */
}

static enum hf_err read_base(struct schedule *s) {
    hf_str v = engine_state_get(s->engine, HF_STR("delay/base"));
    struct hf_reader r = hf_reader_of(v.p, v.n);
    for (int32_t p = 0; p < s->partitions; p++) s->readers[p].next = 0;
    s->id_horizon_ms = s->base_horizon_ms = s->base_ms = 0;
    enum hf_err e = levels_parse(HF_STR(SCHEDULE_LEVELS), &s->levels);
    if (e || !v.p) return e;
    s->id_horizon_ms = s->base_horizon_ms = (int64_t)hf_read_be64(&r);
    s->base_ms = (int64_t)hf_read_be64(&r);
    uint32_t partitions = hf_read_be32(&r);
    if (partitions > (uint32_t)s->partitions) return HF_ECORRUPT;
    for (uint32_t p = 0; p < partitions; p++) s->readers[p].next = (int64_t)hf_read_be64(&r);
    if (r.bad) return HF_ECORRUPT;
    levels_read(&s->levels, &r);
    return HF_OK;
}

/* Everything from durable state. */
static enum hf_err load(struct schedule *s) {
    read_mark(s);
    enum hf_err e = read_base(s);
    if (!e) e = gather_open(s->mark, &s->active);
    if (e) return e;
    inside_epochs_restore(s, engine_state_get(s->engine, HF_STR("delay/clock")));
    if ((e = counts_load(&s->counts, s->engine))) return e;
    struct opening o = {s, HF_OK};
    engine_run_each(s->engine, open_run, &o);
    if (o.e) return o.e;
    for (int32_t p = 0; p < s->partitions; p++) {
        s->readers[p].peeked = false;
        engine_cursor_seek(s->readers[p].cursor, s->readers[p].next);
    }
    s->read_seq = 0;
    s->read_ms = 0;
    s->caught_up = false;
    if (s->mark.due > s->clock.inside_ms) s->clock.inside_ms = s->mark.due;
    s->checkpoint.at_ms = s->clock.inside_ms;
    engine_time_floor(s->engine, HF_STR(HF_TOPIC_DELAY), s->clock.inside_ms);
    return HF_OK;
}

/* What load made, and what was under way. */
static void unload(struct schedule *s) {
    merge_abort(s);
    checkpoint_abort(s);
    while (s->run_count) remove_at(s, s->run_count - 1);
    gather_close(s->active);
    s->active = NULL;
    counts_unload(&s->counts);
    s->batch.count = s->batch.try_count = 0;
    s->batch.reject_first = false;
    hf_buf_reset(&s->batch.bodies);
}

static void rewind_when_quiet(struct schedule *s) {
    if (s->under_way || s->clock.mono_ms < s->retry_at_mono) return;
    unload(s);
    s->rewinding = false;
    enum hf_err e = load(s);
    s->clock.dirty = true;
    if (!e) return;
    unload(s);
    s->retry_at_mono = s->clock.mono_ms + RETRY_MS;
    if (gather_open(s->mark, &s->active)) s->failed = HF_ENOMEM;
    schedule_trouble(s, e, "cannot start again from durable state");
}

static void woken(void *arg) {
    ((struct schedule *)arg)->woken = true;
}

static void fill_in(struct schedule_options *o) {
#define DEFAULT(field, value)                                                                                \
    if (o->field == 0) o->field = value
    DEFAULT(gather_bytes, 8 << 20);
    DEFAULT(read_records, 1024);
    DEFAULT(replay_records, 500000);
    DEFAULT(replay_bytes, 128 << 20);
    DEFAULT(checkpoint_ms, 600000);
    DEFAULT(fire_records, 2048);
    DEFAULT(fire_bytes, 1 << 20);
    DEFAULT(commits_max, 4);
    DEFAULT(block_bytes, 16 << 10);
    DEFAULT(run_bytes, 32 << 20);
    DEFAULT(fan_in, 8);
    DEFAULT(slice_bytes, 128 << 10);
    DEFAULT(id_memory_ms, 7 * INT64_C(86400000));
    DEFAULT(id_memory_bytes, 256 << 20);
#undef DEFAULT
    if (o->commits_max > COMMITS_MAX) o->commits_max = COMMITS_MAX;
    if (o->fire_records > ENGINE_OUTS_MAX / 2) o->fire_records = ENGINE_OUTS_MAX / 2;
    if (o->fire_bytes > ENGINE_COMMIT_BYTES / 4) o->fire_bytes = ENGINE_COMMIT_BYTES / 4;
    if (o->fan_in < 2) o->fan_in = 2;
}

static enum hf_err open_readers(struct schedule *s) {
    enum hf_err e = engine_topic(s->engine, HF_STR(HF_TOPIC_DELAY), false, &s->partitions);
    if (e) return e;
    if (s->partitions > PARTITIONS_MAX) {
        s->partitions = 0;
        return HF_ELIMIT;
    }
    for (int32_t p = 0; p < s->partitions && !e; p++)
        e = engine_cursor_open(s->engine, HF_STR(HF_TOPIC_DELAY), p, &s->readers[p].cursor);
    return e;
}

enum hf_err schedule_open(struct engine *engine, const struct schedule_options *o, int64_t now_ms,
                          int64_t mono_ms, struct schedule **out) {
    struct schedule *s = calloc(1, sizeof *s);
    if (!s) return HF_ENOMEM;
    s->engine = engine;
    s->o = *o;
    fill_in(&s->o);
    s->random = o->random_seed;
    hf_buf_init(&s->scratch, ENTRY_MAX);
    hf_buf_init(&s->key, KEY_MAX);
    enum hf_err e = batch_init(&s->batch, &s->o);
    if (!e) e = open_readers(s);
    if (!e) e = load(s);
    if (e) {
        schedule_close(s);
        return e;
    }
    inside_step(s, now_ms, mono_ms);
    s->checkpoint.at_ms = s->clock.inside_ms;
    engine_watch(engine, HF_STR(HF_TOPIC_DELAY), woken, s);
    *out = s;
    return HF_OK;
}

void schedule_close(struct schedule *s) {
    if (!s) return;
    engine_watch(s->engine, HF_STR(HF_TOPIC_DELAY), NULL, NULL);
    s->checkpoint.writer.sealing = s->merge.writer.sealing = false;
    unload(s);
    for (int32_t p = 0; p < s->partitions; p++) engine_cursor_close(s->readers[p].cursor);
    batch_fini(&s->batch);
    recurring_close(s);
    hf_buf_fini(&s->scratch);
    hf_buf_fini(&s->key);
    free(s->runs);
    free(s->id_runs);
    free(s);
}

bool schedule_idle(const struct schedule *s) {
    return s->under_way == 0;
}

enum hf_err schedule_failed(const struct schedule *s) {
    return s->failed;
}

/* ---- step ---- */

static int64_t wait_of(struct schedule *s) {
    int64_t next = fire_next(s);
    if (s->waiting) return RETRY_MS;
    if (s->clock.leapt) return 1000;
    int64_t wait = REST_MS;
    if (next <= s->clock.inside_ms)
        wait = s->under_way ? RETRY_MS
                            : 1; /* kept back by the limit: a completion or the next record moves it */
    else if (next - s->clock.inside_ms < wait)
        wait = next - s->clock.inside_ms;
    int64_t merge = s->merge_retry_mono - s->clock.mono_ms;
    return s->merge_wanted && merge > 0 && merge < wait ? merge : wait;
}

int64_t schedule_step(struct schedule *s, int64_t now_ms, int64_t mono_ms) {
    inside_step(s, now_ms, mono_ms);
    if (s->failed) return REST_MS;
    if (s->rewinding) rewind_when_quiet(s);
    if (s->rewinding || s->failed) return RETRY_MS;
    static const struct {
        enum hf_err (*slice)(struct schedule *, bool *);
        const char *what;
    } parts[] = {{accept_slice, "reading holdfast.delay"},
                 {checkpoint_slice, "a checkpoint"},
                 {fire_slice, "firing"},
                 {merge_slice, "a merge"}};
    bool more = false;
    s->waiting = s->woken = false;
    remove_dropped(s);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        enum hf_err e = parts[i].slice(s, &more);
        if (!e) continue;
        schedule_trouble(s, e, parts[i].what);
        s->retry_at_mono = mono_ms + RETRY_MS;
        return RETRY_MS;
    }
    return more ? 0 : wait_of(s);
}

int64_t schedule_read_offset(const struct schedule *s, int32_t partition) {
    return partition < s->partitions ? s->readers[partition].next : 0;
}

/* ---- numbers ---- */

static uint64_t pending(const struct schedule *s) {
    uint64_t n = s->batch.count;
    n += s->active->live - (HASH_COUNT(s->active->tombstones) - s->active->tombstones_met);
    if (s->frozen) n += s->frozen->live - (HASH_COUNT(s->frozen->tombstones) - s->frozen->tombstones_met);
    for (size_t i = 0; i < s->run_count; i++) {
        const struct source *source = &s->runs[i];
        if (source->run->kind != RUN_MESSAGES) continue;
        n += source->run->messages - source->cursor.before[0];
        n -= source->run->tombstones - source->cursor.before[1];
    }
    return n;
}

static size_t index_bytes(const struct run *r) {
    return r->block_count * sizeof(struct run_block) + r->bloom_bytes;
}

static size_t memory(const struct schedule *s) {
    size_t n = sizeof *s + gather_memory(s->active) + (s->frozen ? gather_memory(s->frozen) : 0);
    n += s->batch.bodies.cap + s->batch.texts.cap + s->batch.header_cap * sizeof(struct hf_header);
    for (size_t i = 0; i < s->run_count; i++) n += index_bytes(s->runs[i].run) + s->runs[i].cursor.block_cap;
    for (size_t i = 0; i < s->merge.output_count; i++) n += index_bytes(s->merge.outputs[i]);
    return n;
}

void schedule_stats(const struct schedule *s, struct schedule_stats *out) {
    *out = s->count;
    if (s->active) {
        out->next_due_ms = fire_next((struct schedule *)(uintptr_t)s);
        out->pending = pending(s);
        out->memory_bytes = memory(s);
        out->pending_bytes = schedule_pending(s, (hf_str){NULL, 0}).bytes;
    }
    out->late_ms = s->clock.inside_ms > out->next_due_ms ? s->clock.inside_ms - out->next_due_ms : 0;
    out->mark = (struct schedule_place){s->mark.due, s->mark.seq};
    for (size_t i = 0; i < s->run_count; i++) {
        bool ids = s->runs[i].run->kind == RUN_IDS;
        *(ids ? &out->id_runs : &out->runs) += 1;
        *(ids ? &out->id_bytes : &out->run_bytes) += s->runs[i].run->bytes;
        if (ids) out->id_index_bytes += index_bytes(s->runs[i].run);
    }
    out->id_horizon_ms = s->id_horizon_ms;
    out->read_sequence = s->read_seq;
    out->fired_per_second = due_fired_per_second(s);
    out->clock_leapt = s->clock.leapt;
    out->caught_up = s->caught_up;
}

static void count_live(void *arg, struct item *i) {
    assert(i->size > 0);
    ++*(uint64_t *)arg;
}

void schedule_check(const struct schedule *s) {
    if (s->rewinding || s->failed) return;
    assert(!place_before(s->started, s->mark) && !place_before(s->taken, s->started)); /* S1 */
    uint64_t live = 0;
    gather_each(s->active, count_live, &live);
    assert(live == s->active->live); /* S2, in part */
    wheel_check(s->active->wheel);
    for (size_t i = 0; i < s->run_count; i++) { /* S5 */
        const struct source *source = &s->runs[i];
        assert(source->run->kind != RUN_MESSAGES || place_before(s->taken, source->cursor.head));
    }
    if (s->frozen && s->frozen->sorted_at < s->frozen->sorted_count)
        assert(place_before(s->taken, s->frozen->sorted[s->frozen->sorted_at]->place));
    bool all_read = s->caught_up && s->read_ms > s->mark.due; /* also what had been fired before the start */
    assert(!all_read || s->counts.total.messages == (int64_t)pending(s)); /* S6 */
    counts_check(&s->counts);
    assert(s->under_way >= s->commits_under_way);
}
