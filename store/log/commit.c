/* Many records at once, all or nothing: moves of the scheduler, decisions, offset commits, topic changes.
 *
 *    commit_start        journal: form          journal: synced
 *  ──► RESERVED ─────────────► IN A GROUP ──────────────────► APPLIED ──► done
 *       offsets and room        the bytes are on               bytes enter the segments [L4],
 *       in every partition,     their way                      high watermarks move, state changes,
 *       none of the bytes                                      starts move, runs go
 *
 * Before RESERVED anything may fail and nothing has happened: batches are built, room is made in every
 * partition, state entries are made. Afterwards only the log as a whole can fail. A part stands in its
 * partition's row like any batch that waits: nothing behind it is seen before it [L3].
 *
 * A commit without records and starts changes nothing durable and is done at once. */
#include "log_internal.h"

#include <stdlib.h>

enum { STATE_BATCH = 1 << 20, STATE_VALUE_MAX = 64 << 10, STATE_KEY_MAX = 4 << 10 };

static void answered(struct completion *x, bool tell) {
    struct commit *c = (struct commit *)x;
    engine_done *done = c->done;
    void *arg = c->arg;
    commit_free(c);
    if (tell && done) done(arg, HF_OK);
}

void commit_free(struct commit *c) {
    struct log *l = c->log;
    l->commit_count--;
    l->commit_bytes -= c->counted;
    for (size_t i = 0; i < c->part_count; i++) partition_unref(c->parts[i].p);
    for (size_t i = 0; i < c->start_count; i++) partition_unref(c->starts[i].p);
    free(c->parts);
    free(c->starts);
    free(c->runs);
    hf_buf_fini(&c->bytes);
    free(c);
}

/* ---- what is asked ---- */

static enum hf_err check_sizes(const struct engine_commit *c) {
    if (c->out_count > ENGINE_OUTS_MAX || c->put_count > ENGINE_OUTS_MAX) return HF_ELIMIT;
    size_t bytes = 0;
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *o = &c->outs[i];
        bytes += o->key.n + o->value.n;
        for (size_t k = 0; k < o->header_count; k++) bytes += o->headers[k].key.n + o->headers[k].value.n;
    }
    for (size_t i = 0; i < c->put_count; i++) {
        if (c->puts[i].value.n > STATE_VALUE_MAX || c->puts[i].key.n > STATE_KEY_MAX) return HF_ELIMIT;
        bytes += c->puts[i].key.n + c->puts[i].value.n;
    }
    return bytes > ENGINE_COMMIT_BYTES ? HF_ELIMIT : HF_OK;
}

static struct log_partition *destination(struct log *l, hf_str topic, int32_t number) {
    struct log_partition *p = topic_partition(l, topic, number);
    return p && p->topic->phase == TOPIC_LIVE ? p : NULL;
}

/* Records of one partition form a chain in the order given: next[i] is the one after i, -1 the end. */
struct binding {
    struct log_partition **p; /* partitions in order of first appearance */
    int32_t *first, *last, *next;
    size_t count;
};

static enum hf_err bind(struct log *l, const struct engine_commit *c, struct binding *b) {
    struct log_partition *p = NULL;
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *o = &c->outs[i];
        bool again = i > 0 && o->partition == o[-1].partition && hf_str_eq(o->topic, o[-1].topic);
        if (!again) p = destination(l, o->topic, o->partition);
        if (!p || p == l->state.p) return HF_ENOTFOUND;
        size_t size = BATCH_HEADER + batch_record_size(o->key, o->value, o->headers, o->header_count);
        if (size > p->topic->config.message_max) return HF_ELIMIT;
        b->next[i] = -1;
        if (p->chain < 0) {
            p->chain = (int32_t)b->count;
            b->p[b->count] = p;
            b->first[b->count++] = (int32_t)i;
        } else {
            b->next[b->last[p->chain]] = (int32_t)i;
        }
        b->last[p->chain] = (int32_t)i;
    }
    return HF_OK;
}

static void unbind(struct binding *b) {
    for (size_t i = 0; i < b->count; i++) b->p[i]->chain = -1;
}

/* ---- building ---- */

struct build {
    struct log *l;
    struct commit *c;
    struct part *x;
    struct batch_builder builder;
    int64_t now_ms;
};

static enum hf_err flush_batch(struct build *b) {
    if (b->builder.count == 0) return HF_OK;
    hf_str batch;
    enum hf_err e = batch_builder_finish(&b->builder, &batch);
    if (e) return e;
    hf_buf_str(&b->c->bytes, batch);
    b->x->size += batch.n;
    b->x->end += b->builder.count; /* a count so far; the offset when it is assigned */
    batch_builder_begin(&b->builder, b->now_ms);
    return hf_buf_failed(&b->c->bytes);
}

static void begin_part(struct build *b, struct log_partition *p) {
    b->x = &b->c->parts[b->c->part_count++];
    *b->x = (struct part){.c = b->c, .p = p, .from = b->c->bytes.n};
    partition_ref(p);
    batch_builder_begin(&b->builder, b->now_ms);
}

static enum hf_err add_record(struct build *b, size_t most, hf_str key, hf_str value,
                              const struct hf_header *headers, size_t n) {
    if (b->builder.count > 0 && b->builder.buf.n + batch_record_size(key, value, headers, n) > most) {
        enum hf_err e = flush_batch(b);
        if (e) return e;
    }
    return batch_builder_add(&b->builder, key, value, headers, n);
}

static enum hf_err build_outs(struct build *b, const struct engine_commit *in, const struct binding *bound) {
    enum hf_err e = HF_OK;
    for (size_t i = 0; !e && i < bound->count; i++) {
        struct log_partition *p = bound->p[i];
        begin_part(b, p);
        for (int32_t k = bound->first[i]; !e && k >= 0; k = bound->next[k]) {
            const struct engine_out *o = &in->outs[k];
            e = add_record(b, p->topic->config.message_max, o->key, o->value, o->headers, o->header_count);
        }
        if (!e) e = flush_batch(b);
    }
    return e;
}

static enum hf_err put_record(struct build *b, hf_str key, hf_str value) {
    return add_record(b, STATE_BATCH, key, value, NULL, 0);
}

static enum hf_err build_runs(struct build *b, const struct engine_commit *in) {
    enum hf_err e = HF_OK;
    char key[32];
    uint8_t value[16];
    hf_put_be64(value, b->l->next_run);
    if (in->runs_added_count > 0) e = put_record(b, HF_STR("log/run-ids"), hf_str_make(value, 8));
    for (size_t i = 0; !e && i < in->runs_added_count; i++) {
        struct run *r;
        if (!run_sealed(b->l, in->runs_added[i], &r)) return HF_ENOTFOUND;
        run_key(r->id, key);
        hf_put_be64(value, r->bucket);
        hf_put_be64(value + 8, r->bytes);
        e = put_record(b, hf_str_of(key), hf_str_make(value, sizeof value));
    }
    for (size_t i = 0; !e && i < in->runs_dropped_count; i++) {
        run_key(in->runs_dropped[i], key);
        e = put_record(b, hf_str_of(key), (hf_str){0});
    }
    return e;
}

static enum hf_err build_state(struct build *b, const struct engine_commit *in) {
    if (in->put_count + in->runs_added_count + in->runs_dropped_count == 0) return HF_OK;
    begin_part(b, b->l->state.p);
    enum hf_err e = HF_OK;
    for (size_t i = 0; !e && i < in->put_count; i++) e = put_record(b, in->puts[i].key, in->puts[i].value);
    if (!e) e = build_runs(b, in);
    return e ? e : flush_batch(b);
}

static enum hf_err take_starts(struct log *l, struct commit *c, const struct engine_commit *in) {
    for (size_t i = 0; i < in->low_water_count; i++) {
        const struct engine_low_water *w = &in->low_waters[i];
        struct log_partition *p = destination(l, w->topic, w->partition);
        if (!p) return HF_ENOTFOUND;
        int64_t offset = w->offset < p->high.offset ? w->offset : p->high.offset;
        if (offset <= p->start) continue;
        c->starts[c->start_count++] = (struct start_move){p, offset};
        partition_ref(p);
    }
    return HF_OK;
}

static enum hf_err build(struct log *l, struct commit *c, const struct engine_commit *in,
                         const struct binding *bound) {
    struct build b = {.l = l, .c = c, .now_ms = in->now_ms};
    batch_builder_init(&b.builder, (size_t)ENGINE_COMMIT_BYTES * 2);
    enum hf_err e = build_outs(&b, in, bound);
    if (!e) e = build_state(&b, in);
    if (!e) e = take_starts(l, c, in);
    if (!e && c->bytes.n + (c->part_count + c->start_count) * 64 > journal_payload_max(l)) e = HF_ELIMIT;
    batch_builder_fini(&b.builder);
    return e;
}

/* ---- reserving ---- */

/* Room in all partitions before an offset is given in any. [L4][L15] */
static enum hf_err make_room(struct commit *c) {
    for (size_t i = 0; i < c->part_count; i++) {
        enum hf_err e = partition_room(c->parts[i].p, c->parts[i].size, c->parts[i].end);
        if (e) return e;
    }
    return HF_OK;
}

static void assign_batch(struct part *x, uint8_t *batch, struct batch_info *b) {
    struct log_partition *p = x->p;
    struct topic *t = p->topic;
    int64_t ms = b->max_timestamp;
    if (t->config.internal || t->config.append_time) {
        int64_t now_ms = log_time_ms(p->log);
        if (ms > now_ms) ms = now_ms;
        if (ms < p->last_time_ms) ms = p->last_time_ms;
        if (t->config.internal && ms < t->last_time_ms) ms = t->last_time_ms;
    }
    if (t->config.internal) {
        hf_put_be64(batch + 27, t->next_sequence);
        t->next_sequence += (uint64_t)b->last_offset_delta + 1;
    }
    if (t->config.internal || ms != b->max_timestamp) batch_set_append_time(batch, ms);
    b->max_timestamp = ms;
    batch_set_place(batch, p->end.offset, partition_epoch(p));
}

static void reserve_part(struct part *x) {
    struct log_partition *p = x->p;
    int64_t first_ms = INT64_MAX;
    x->at = p->end;
    x->chain = p->end.seg->chain;
    for (int i = 0; i < INDEX_FILES; i++) x->index_count[i] = index_file_of(p->end.seg, i)->entries;
    uint8_t *at = x->c->bytes.p + x->from, *end = at + x->size;
    while (at < end) {
        struct batch_info b;
        enum hf_err e = batch_parse(at, (size_t)(end - at), &b);
        assert(!e);
        assign_batch(x, at, &b);
        if (b.max_timestamp < first_ms) first_ms = b.max_timestamp;
        partition_took(p, at, &b, p->end.offset + b.last_offset_delta);
        at += b.size;
    }
    x->end = p->end.offset;
    x->at.seg->dirty = true; /* stays open until the room is filled and synced */
    partition_mark_dirty(p);
    DL_APPEND(p->parts, x);
    if (!p->parts_free) p->parts_free = x;
    x->pending = (struct pending){
        .kind = PENDING_PART,
        .at = x->at,
        .end = x->end,
        .need = x->end,
        .time_ms = first_ms,
        .log = p->log,
        .part = x,
    };
    partition_wait(p, &x->pending);
}

/* The last thing that can fail. */
static enum hf_err hold_state(struct log *l, const struct commit *c) {
    const struct part *x = &c->parts[c->part_count ? c->part_count - 1 : 0];
    if (c->part_count == 0 || x->p != l->state.p) return HF_OK;
    return state_hold(l, c->bytes.p + x->from, x->size);
}

static void enqueue(struct log *l, struct commit *c) {
    for (size_t i = 0; i < c->part_count; i++) reserve_part(&c->parts[i]);
    if (c->part_count + c->start_count == 0 && !c->swap.p) {
        log_ready(l, &c->done_c);
        return;
    }
    c->next = NULL;
    if (l->commits)
        l->commits_last->next = c;
    else
        l->commits = c;
    l->commits_last = c;
}

/* ---- start ---- */

static struct commit *commit_new(struct log *l, const struct engine_commit *in) {
    struct commit *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    l->commit_count++;
    c->log = l;
    c->done_c.run = answered;
    hf_buf_init(&c->bytes, (size_t)ENGINE_COMMIT_BYTES * 2);
    c->starts = calloc(in->low_water_count + 1, sizeof *c->starts);
    c->runs = calloc(in->runs_added_count + in->runs_dropped_count + 1, sizeof *c->runs);
    if (c->starts && c->runs) {
        while (c->name_count < in->runs_added_count) {
            c->runs[c->name_count] = in->runs_added[c->name_count];
            c->name_count++;
        }
        while (c->drop_count < in->runs_dropped_count) {
            c->runs[c->name_count + c->drop_count] = in->runs_dropped[c->drop_count];
            c->drop_count++;
        }
        return c;
    }
    commit_free(c);
    return NULL;
}

static enum hf_err prepare(struct log *l, struct commit *c, const struct engine_commit *in,
                           struct binding *bound) {
    enum hf_err e = bind(l, in, bound);
    if (!e) {
        c->parts = calloc(bound->count + 1, sizeof *c->parts); /* one for the state */
        e = c->parts ? build(l, c, in, bound) : HF_ENOMEM;
    }
    unbind(bound);
    if (!e) e = make_room(c);
    if (!e) e = hold_state(l, c);
    return e;
}

static enum hf_err admit(const struct log *l, const struct engine_commit *in) {
    if (l->failed) return l->failed;
    if (l->closing) return HF_ECLOSED;
    if (l->commit_count >= LOG_COMMITS_MAX || l->commit_bytes >= LOG_COMMIT_BYTES) return HF_EAGAIN;
    return check_sizes(in);
}

enum hf_err commit_start(struct log *l, const struct engine_commit *in, void (*after)(struct commit *),
                         void *after_arg, engine_done *done, void *arg) {
    enum hf_err e = admit(l, in);
    if (e) return e;
    struct commit *c = commit_new(l, in);
    if (!c) return HF_ENOMEM;
    size_t n = in->out_count + 1;
    struct binding bound = {.p = calloc(n, sizeof *bound.p)};
    int32_t *chains = calloc(n * 3, sizeof *chains);
    bound.first = chains;
    bound.last = chains ? chains + n : NULL;
    bound.next = chains ? chains + 2 * n : NULL;
    e = bound.p && chains ? prepare(l, c, in, &bound) : HF_ENOMEM;
    free(bound.p);
    free(chains);
    if (e) {
        commit_free(c);
        return e;
    }
    c->counted = c->bytes.n;
    l->commit_bytes += c->counted;
    c->after = after;
    c->after_arg = after_arg;
    c->done = done;
    c->arg = arg;
    enqueue(l, c);
    if (hf_mutate(32)) runs_drop(l, c->runs + c->name_count, c->drop_count);
    return HF_OK;
}

enum hf_err commit_swap(struct log *l, const struct swap_record *r, void (*after)(struct commit *),
                        void *after_arg) {
    struct engine_commit nothing = {0};
    if (l->failed) return l->failed;
    if (l->commit_count >= LOG_COMMITS_MAX) return HF_EAGAIN;
    struct commit *c = commit_new(l, &nothing);
    if (!c) return HF_EAGAIN;
    c->swap = *r;
    c->after = after;
    c->after_arg = after_arg;
    enqueue(l, c);
    return HF_OK;
}

/* ---- when its group is synced ---- */

void commit_apply(struct commit *c) {
    for (size_t i = 0; i < c->part_count; i++) {
        struct part *x = &c->parts[i];
        if (!x->pending.part) continue;
        x->pending.part = NULL;
        DL_DELETE(x->p->parts, x);
        enum hf_err e =
            x->p->gone ? HF_OK : segment_write(x->at.seg, x->at.pos, c->bytes.p + x->from, x->size);
        if (e) log_fail(c->log, e, "write of a segment");
        env_point(c->log->env, "commit.part_applied");
    }
}

void commit_move_starts(struct commit *c) {
    for (size_t i = 0; i < c->start_count; i++)
        if (!c->starts[i].p->gone) partition_start_move(c->starts[i].p, c->starts[i].offset);
}

void commit_finish(struct commit *c) {
    struct log *l = c->log;
    commit_move_starts(c); /* [L17] */
    for (size_t i = 0; i < c->part_count; i++)
        if (c->parts[i].p == l->state.p) state_apply(l, c->bytes.p + c->parts[i].from, c->parts[i].size);
    runs_name(l, c->runs, c->name_count);
    runs_drop(l, c->runs + c->name_count, c->drop_count);
    if (c->after) c->after(c);
    log_ready(l, &c->done_c);
}
