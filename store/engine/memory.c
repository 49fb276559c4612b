/* How things are late. Everything that changes the world (a client's append, a commit, a seal, the creation
 * of a topic) is an operation in one list:
 *
 *     started ──effect──▶ effected ──complete──▶ gone (its done was called)
 *        │                    │
 *        └───────crash────────┴───▶ gone, silently; of the started ones a legal part takes effect first
 *
 * Offsets, sequences and timestamps are given out at the start (as the log does), records become readable and
 * state changes at the effect. Order is kept by tickets, as at a counter: an operation draws one from each
 * partition that it writes to, and each commit draws one from the commits; it may take effect when all of its
 * tickets are next. An operation that fails gives its tickets back unused, which leaves a hole in the
 * offsets: legal, and worth testing.
 *
 * Invariants (memory_engine_check):
 *   M1  records of a partition: offsets and sequences increase; start ≤ first offset; last offset < stable
 *   M2  stable ≤ next; serving ticket ≤ next ticket; all tickets between them belong to started operations
 *   M3  commits in effect form a prefix of the commits started */
#include "memory_internal.h"

#include "base/names.h"
#include "batch.h"

#include <assert.h>
#include <stdlib.h>

enum { VALUE_MAX = 64 << 10 };

/* ---- starting operations ---- */

static enum hf_err op_topic(struct engine *e, hf_str name, bool create, int32_t *partitions) {
    struct memory_engine *m = memory_of(e);
    enum hf_err injected = memory_fault(m, MEMORY_TOPIC);
    if (injected) return injected;
    struct topic *t = memory_topic_find(m, name);
    if (t) {
        *partitions = t->partition_count;
        return HF_OK;
    }
    if (!create || m->options.no_auto_create || !hf_topic_name_ok(name)) return HF_ENOTFOUND;
    t = memory_topic_entry(m, name);
    if (t->creating) return HF_EAGAIN;
    t->creating = true;
    struct op *op = memory_grab(sizeof *op);
    op->kind = OP_CREATE;
    op->topic = t;
    DL_APPEND(m->ops, op);
    return HF_EAGAIN;
}

static int64_t op_stable_ms(struct engine *e, hf_str topic) {
    struct topic *t = memory_topic_find(memory_of(e), topic);
    int64_t least = INT64_MAX;
    struct op *op;
    DL_FOREACH (memory_of(e)->ops, op) {
        for (size_t i = 0; !op->effected && i < op->out_count; i++)
            if (op->outs[i].topic == t && op->outs[i].stored.r.timestamp_ms < least)
                least = op->outs[i].stored.r.timestamp_ms;
    }
    return least;
}

static void draw(struct op *op, struct topic *t, int32_t partition) {
    struct partition *p = &t->partitions[partition];
    if (p->drew_last == op) return;
    p->drew_last = op;
    op->touches = realloc(op->touches, (op->touch_count + 1) * sizeof *op->touches);
    if (!op->touches) abort();
    op->touches[op->touch_count++] = (struct touch){t, partition, p->tickets.next++};
}

static void add_out(struct op *op, struct topic *t, int32_t partition, const struct engine_record *r) {
    struct partition *p = &t->partitions[partition];
    struct out *out = &op->outs[op->out_count++];
    *out = (struct out){t, partition, memory_record_copy(r)};
    struct engine_record *mine = &out->stored.r;
    if (hf_topic_is_ours(t->name) && mine->timestamp_ms < t->last_ms) mine->timestamp_ms = t->last_ms;
    if (mine->timestamp_ms > t->last_ms) t->last_ms = mine->timestamp_ms;
    mine->offset = p->next++;
    mine->sequence = t->next_sequence++;
    draw(op, t, partition);
}

int64_t memory_engine_append(struct memory_engine *m, hf_str topic, int32_t partition, int64_t now_ms,
                             hf_str key, hf_str value, const struct hf_header *headers, size_t header_count) {
    if (!memory_partition_at(m, topic, partition)) return -1;
    struct op *op = memory_grab(sizeof *op);
    op->kind = OP_APPEND;
    op->outs = memory_grab(sizeof *op->outs);
    const struct engine_record r = {
        .timestamp_ms = now_ms, .key = key, .value = value, .headers = headers, .header_count = header_count};
    add_out(op, memory_topic_find(m, topic), partition, &r);
    DL_APPEND(m->ops, op);
    return op->outs[0].stored.r.offset;
}

static enum hf_err commit_allowed(struct memory_engine *m, const struct engine_commit *c) {
    if (c->out_count > ENGINE_OUTS_MAX) return HF_ELIMIT;
    size_t bytes = 0;
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *o = &c->outs[i];
        if (!memory_partition_at(m, o->topic, o->partition)) return HF_ENOTFOUND;
        size_t n = batch_record_size(o->key, o->value, o->headers, o->header_count);
        if (n > m->options.record_max || o->header_count > ENGINE_HEADERS_MAX) return HF_ELIMIT;
        bytes += n;
    }
    for (size_t i = 0; i < c->put_count; i++)
        if (c->puts[i].value.n > VALUE_MAX) return HF_ELIMIT;
    for (size_t i = 0; i < c->low_water_count; i++)
        if (!memory_partition_at(m, c->low_waters[i].topic, c->low_waters[i].partition)) return HF_ENOTFOUND;
    if (bytes > ENGINE_COMMIT_BYTES) return HF_ELIMIT;
    return m->commits.next - m->commits.serving >= m->options.commits_max ? HF_EAGAIN : HF_OK;
}

static enum hf_err op_commit(struct engine *e, const struct engine_commit *c, engine_done *done, void *arg) {
    struct memory_engine *m = memory_of(e);
    enum hf_err refused = memory_fault(m, MEMORY_COMMIT);
    if (!refused) refused = commit_allowed(m, c);
    if (refused) return refused;
    struct op *op = memory_grab(sizeof *op);
    *op = (struct op){.kind = OP_COMMIT, .done = done, .arg = arg, .ticket = m->commits.next++};
    op->outs = memory_grab(c->out_count * sizeof *op->outs);
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *o = &c->outs[i];
        const struct engine_record r = {.timestamp_ms = c->now_ms,
                                        .key = o->key,
                                        .value = o->value,
                                        .headers = o->headers,
                                        .header_count = o->header_count};
        add_out(op, memory_topic_find(m, o->topic), o->partition, &r);
    }
    op->puts = memory_grab(c->put_count * sizeof *op->puts);
    op->put_count = c->put_count;
    for (size_t i = 0; i < c->put_count; i++)
        op->puts[i] = (struct engine_put){memory_dup_str(c->puts[i].key), memory_dup_str(c->puts[i].value)};
    op->lows = memory_dup_array(c->low_waters, c->low_water_count, sizeof *c->low_waters);
    op->low_count = c->low_water_count;
    for (size_t i = 0; i < op->low_count; i++) op->lows[i].topic = memory_dup_str(op->lows[i].topic);
    op->added = memory_dup_array(c->runs_added, c->runs_added_count, sizeof *c->runs_added);
    op->added_count = c->runs_added_count;
    op->dropped = memory_dup_array(c->runs_dropped, c->runs_dropped_count, sizeof *c->runs_dropped);
    op->dropped_count = c->runs_dropped_count;
    DL_APPEND(m->ops, op);
    return HF_OK;
}

static void op_run_seal(struct engine_run_writer *base, uint64_t *id, engine_done *done, void *arg) {
    struct memory_engine *m = memory_of(base->engine);
    struct op *op = memory_grab(sizeof *op);
    *op = (struct op){.kind = OP_SEAL, .done = done, .arg = arg, .writer = (struct writer *)base, .id = id};
    DL_APPEND(m->ops, op);
}

static void op_free(struct op *op) {
    for (size_t i = 0; i < op->out_count; i++) free(op->outs[i].stored.memory);
    for (size_t i = 0; i < op->put_count; i++) {
        memory_free_str(op->puts[i].key);
        memory_free_str(op->puts[i].value);
    }
    for (size_t i = 0; i < op->low_count; i++) memory_free_str(op->lows[i].topic);
    if (op->writer) memory_writer_free(op->writer);
    free(op->touches);
    free(op->outs);
    free(op->puts);
    free(op->lows);
    free(op->added);
    free(op->dropped);
    free(op);
}

/* ---- effects ---- */

static void effect_outs(struct op *op) {
    for (size_t i = 0; i < op->out_count; i++) {
        struct out *o = &op->outs[i];
        memory_partition_push(&o->topic->partitions[o->partition], o->stored);
        o->topic->fresh = true;
        o->stored.memory = NULL;
    }
}

static void effect_commit(struct memory_engine *m, struct op *op) {
    effect_outs(op);
    for (size_t i = 0; i < op->put_count; i++) memory_state_put(m, op->puts[i].key, op->puts[i].value);
    for (size_t i = 0; i < op->low_count; i++) {
        struct partition *p = memory_partition_at(m, op->lows[i].topic, op->lows[i].partition);
        int64_t offset = op->lows[i].offset;
        if (p && !memory_coin(m)) memory_partition_drop_below(p, offset < p->stable ? offset : p->stable);
    }
    for (size_t i = 0; i < op->added_count; i++) {
        struct run *r = memory_run_find(m, op->added[i]);
        assert(r && !r->named); /* only a sealed run may be named, and once */
        r->named = true;
    }
    for (size_t i = 0; i < op->dropped_count; i++) {
        struct run *r = memory_run_find(m, op->dropped[i]);
        assert(r && r->named);
        r->named = false; /* gone for run_each and after a crash; readable until the completion */
    }
}

static void effect_seal(struct memory_engine *m, struct op *op) {
    op->result = memory_fault(m, MEMORY_RUN_SEAL);
    if (op->result) return;
    struct run *r = op->writer->run;
    r->id = m->next_run++;
    HASH_ADD(hh, m->runs, id, sizeof r->id, r);
    *op->id = r->id;
    op->writer->run = NULL;
}

static bool to_deleted_topic(const struct op *op) {
    for (size_t i = 0; i < op->touch_count; i++)
        if (op->touches[i].topic->deleted) return true;
    return false;
}

/* Failure is a suffix: what was started after a commit that fails, and before its done, fails with it. */
static enum hf_err commit_fate(struct memory_engine *m, const struct op *op) {
    if (op->doomed) return op->doomed;
    const struct op *earlier;
    DL_FOREACH (m->ops, earlier) {
        if (earlier == op) break;
        if (earlier->kind == OP_COMMIT && earlier->effected && earlier->result) return earlier->result;
    }
    return to_deleted_topic(op) ? HF_ENOTFOUND : memory_fault(m, MEMORY_COMMIT_DONE);
}

static void doom_the_rest(struct memory_engine *m, enum hf_err e) {
    struct op *op;
    DL_FOREACH (m->ops, op) {
        if (op->kind == OP_COMMIT && !op->effected && !op->doomed) op->doomed = e;
    }
}

static void give_back_tickets(struct memory_engine *m, struct op *op) {
    for (size_t i = 0; i < op->touch_count; i++) {
        struct partition *p = &op->touches[i].topic->partitions[op->touches[i].partition];
        assert(p->tickets.serving == op->touches[i].ticket);
        p->tickets.serving++;
        if (p->drew_last == op) p->drew_last = NULL;
    }
    if (op->kind == OP_COMMIT) m->commits.serving++;
}

static void effect(struct memory_engine *m, struct op *op) {
    op->effected = true;
    switch (op->kind) {
    case OP_APPEND:
        if (!to_deleted_topic(op)) effect_outs(op);
        break;
    case OP_COMMIT:
        op->result = commit_fate(m, op);
        if (!op->result) effect_commit(m, op);
        break;
    case OP_SEAL: effect_seal(m, op); break;
    case OP_CREATE:
        if (op->topic->partition_count == 0) memory_topic_serve(op->topic, m->options.default_partitions);
        break;
    }
    give_back_tickets(m, op);
}

static bool may_take_effect(const struct memory_engine *m, const struct op *op) {
    if (op->effected) return false;
    if (op->kind == OP_COMMIT && op->ticket != m->commits.serving) return false;
    for (size_t i = 0; i < op->touch_count; i++) {
        const struct touch *t = &op->touches[i];
        if (t->topic->partitions[t->partition].tickets.serving != t->ticket) return false;
    }
    return true;
}

/* ---- steps ---- */

static void complete(struct memory_engine *m, struct op *op) {
    DL_DELETE(m->ops, op);
    engine_done *done = op->done;
    void *arg = op->arg;
    enum hf_err result = op->result;
    if (op->kind == OP_COMMIT && result) doom_the_rest(m, result);
    for (size_t i = 0; !result && i < op->dropped_count; i++)
        memory_run_delete(m, memory_run_find(m, op->dropped[i]));
    op_free(op);
    if (done) done(arg, result); /* may start new operations */
}

/* A random operation that can move, NULL if none can. Effects only: those not yet in effect. */
static struct op *pick(struct memory_engine *m, bool effects_only) {
    size_t movable = 0;
    struct op *op, *chosen = NULL;
    DL_FOREACH (m->ops, op) {
        bool can = may_take_effect(m, op) || (op->effected && !effects_only);
        if (can && memory_chance(m, ++movable) == 0) chosen = op;
    }
    return chosen;
}

static size_t count_ops(const struct memory_engine *m) {
    size_t n = 0;
    struct op *op;
    DL_COUNT(m->ops, op, n);
    return n;
}

static void call_watchers(struct memory_engine *m) {
    struct topic *t, *tmp;
    HASH_ITER (hh, m->topics, t, tmp) {
        if (!t->fresh) continue;
        t->fresh = false;
        if (t->watch) t->watch(t->watch_arg);
    }
}

size_t memory_engine_step(struct memory_engine *m) {
    size_t moves = count_ops(m);
    if (m->options.seed) moves = memory_chance(m, 2 * moves + 3);
    for (; moves > 0 && m->ops; moves--) {
        struct op *op = m->options.seed ? pick(m, false) : m->ops;
        bool started = !op->effected;
        assert(!started || may_take_effect(m, op));
        if (started) effect(m, op);
        if (!started || !m->options.seed) complete(m, op);
    }
    call_watchers(m);
    return count_ops(m);
}

void memory_engine_settle(struct memory_engine *m) {
    enum { FOREVER = 10000000 };
    for (int i = 0; memory_engine_step(m) > 0; i++) assert(i < FOREVER);
}

static void reset_after_crash(struct memory_engine *m) {
    m->commits = (struct tickets){0, 0};
    struct topic *t, *tmp;
    HASH_ITER (hh, m->topics, t, tmp) {
        t->creating = false;
        t->watch = NULL;
        t->fresh = false;
        for (int32_t i = 0; i < t->partition_count; i++) {
            struct partition *p = &t->partitions[i];
            p->tickets = (struct tickets){0, 0};
            p->drew_last = NULL;
            if (!memory_coin(m))
                p->next = p->stable; /* else a gap stays, as after an unclean start of the log */
        }
    }
}

void memory_engine_crash(struct memory_engine *m) {
    struct op *op, *tmp;
    while (memory_coin(m) && (op = pick(m, true))) effect(m, op);
    DL_FOREACH_SAFE(m->ops, op, tmp) {
        DL_DELETE(m->ops, op);
        op_free(op);
    }
    struct run *r, *rtmp;
    HASH_ITER (hh, m->runs, r, rtmp)
        if (!r->named) memory_run_delete(m, r);
    reset_after_crash(m);
}

/* ---- the object ---- */

static const struct engine_ops memory_ops = {
    .commit = op_commit,
    .topic = op_topic,
    .record_max = memory_record_max,
    .cursor_open = memory_cursor_open,
    .cursor_close = memory_cursor_close,
    .cursor_seek = memory_cursor_seek,
    .cursor_next = memory_cursor_next,
    .bounds = memory_bounds,
    .stable_ms = op_stable_ms,
    .time_floor = memory_time_floor,
    .watch = memory_watch,
    .state_each = memory_state_each,
    .state_get = memory_state_get,
    .committed = memory_committed,
    .room = memory_room,
    .run_begin = memory_run_begin,
    .run_append = memory_run_append,
    .run_seal = op_run_seal,
    .run_abort = memory_run_abort,
    .run_discard = memory_run_discard,
    .run_each = memory_run_each,
    .run_read = memory_run_read,
};

void memory_engine_open(const struct memory_options *options, struct memory_engine **out) {
    struct memory_engine *m = memory_grab(sizeof *m);
    m->base.ops = &memory_ops;
    m->options = *options;
    m->random = options->seed;
    m->next_run = 1;
    if (!m->options.default_partitions) m->options.default_partitions = 1;
    if (!m->options.record_max) m->options.record_max = 1 << 20;
    if (!m->options.commits_max) m->options.commits_max = 64;
    *out = m;
}

struct engine *memory_engine_engine(struct memory_engine *m) {
    return &m->base;
}

void memory_engine_close(struct memory_engine *m) {
    if (!m) return;
    memory_engine_crash(m);
    struct topic *t, *ttmp;
    HASH_ITER (hh, m->topics, t, ttmp) {
        HASH_DEL(m->topics, t);
        memory_topic_free(t);
    }
    LL_FOREACH_SAFE2(m->deleted, t, ttmp, next_deleted) memory_topic_free(t);
    struct pair *p, *ptmp;
    HASH_ITER (hh, m->state, p, ptmp) memory_state_delete(m, p);
    struct run *r, *rtmp;
    HASH_ITER (hh, m->runs, r, rtmp) memory_run_delete(m, r);
    memory_free_str(m->got);
    free(m);
}

static void partition_check(const struct partition *p) {
    for (size_t i = 0; i < p->count; i++) {
        const struct engine_record *r = &p->records[p->first + i].r;
        assert(r->offset >= p->start && r->offset < p->stable); /* M1 */
        assert(i == 0 || (r->offset > p->records[p->first + i - 1].r.offset &&
                          r->sequence > p->records[p->first + i - 1].r.sequence)); /* M1 */
    }
    assert(p->stable <= p->next && p->tickets.serving <= p->tickets.next); /* M2 */
}

void memory_engine_check(const struct memory_engine *m) {
    struct topic *t, *tmp;
    HASH_ITER (hh, m->topics, t, tmp)
        for (int32_t i = 0; i < t->partition_count; i++) partition_check(&t->partitions[i]);
    struct op *op;
    uint64_t started = 0;
    DL_FOREACH (m->ops, op) {
        if (op->kind != OP_COMMIT) continue;
        assert(op->effected ? op->ticket < m->commits.serving : op->ticket >= m->commits.serving); /* M3 */
        started += !op->effected;
    }
    assert(started == m->commits.next - m->commits.serving); /* M2 */
}
