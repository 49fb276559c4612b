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
 * Everything given out is a fresh copy, freed by the next call on the same object, so that a sanitizer sees
 * whoever keeps what was borrowed.
 *
 * Invariants (memory_engine_check):
 *   M1  records of a partition: offsets and sequences increase; start ≤ first offset; last offset < stable
 *   M2  stable ≤ next; serving ticket ≤ next ticket; all tickets between them belong to started operations
 *   M3  commits in effect form a prefix of the commits started */
#include "memory.h"

#include "base/names.h"
#include "batch.h"
#include "engine_ops.h"

#include <assert.h>
#include <stdlib.h>
#include <uthash.h>
#include <utlist.h>

enum { VALUE_MAX = 64 << 10 };

struct stored {
    struct engine_record r;
    void *memory; /* everything that r points to */
};

struct tickets {
    uint64_t next, serving;
};

struct op;

struct partition {
    struct stored *records;
    size_t first, count, cap; /* records[first .. first+count) */
    int64_t start, stable, next;
    struct tickets tickets;
    const struct op *drew_last; /* one ticket an operation, however many records */
};

struct topic {
    hf_str name;
    int32_t partition_count; /* 0: no such topic (being created, or only watched) */
    struct partition *partitions;
    bool creating, deleted;
    uint64_t next_sequence;
    int64_t last_ms;
    void (*watch)(void *arg);
    void *watch_arg;
    bool fresh; /* records became readable: call watch */
    struct topic *next_deleted;
    UT_hash_handle hh;
};

struct pair {
    hf_str key, value;
    UT_hash_handle hh;
};

struct run {
    uint64_t id, bucket;
    struct hf_buf bytes;
    bool named;
    UT_hash_handle hh;
};

struct writer {
    struct engine_run_writer base;
    struct run *run;
};

struct cursor {
    struct engine_cursor base;
    hf_str topic;
    int32_t partition;
    int64_t position;
    struct stored given;
};

enum op_kind { OP_APPEND, OP_COMMIT, OP_SEAL, OP_CREATE };

struct touch {
    struct topic *topic;
    int32_t partition;
    uint64_t ticket;
};

struct out {
    struct topic *topic;
    int32_t partition;
    struct stored stored;
};

struct op {
    enum op_kind kind;
    bool effected;
    enum hf_err doomed; /* an earlier commit failed, and this one was started before that was told */
    enum hf_err result;
    engine_done *done;
    void *arg;
    uint64_t ticket; /* of a commit among commits */
    struct touch *touches;
    size_t touch_count;
    struct out *outs;
    size_t out_count;
    struct engine_put *puts;
    size_t put_count;
    struct engine_low_water *lows;
    size_t low_count;
    uint64_t *added, *dropped;
    size_t added_count, dropped_count;
    struct writer *writer;
    uint64_t *id;
    struct topic *topic; /* of a creation */
    struct op *prev, *next;
};

struct fault {
    uint64_t calls, skip;
    int times;
    enum hf_err e, rate_e;
    unsigned per_mille;
};

struct memory_engine {
    struct engine base;
    struct memory_options options;
    uint64_t random;
    struct topic *topics, *deleted;
    struct pair *state;
    struct run *runs;
    uint64_t next_run;
    struct op *ops;
    struct tickets commits;
    hf_str got; /* what the last state_get gave */
    struct fault faults[MEMORY_CALLS];
};

static struct memory_engine *memory_of(struct engine *e) {
    return (struct memory_engine *)e;
}

/* ---- memory, chance, faults ---- */

static void *grab(size_t n) {
    void *p = calloc(1, n ? n : 1);
    if (!p) abort();
    return p;
}

static hf_str dup_str(hf_str s) {
    if (!s.p) return s;
    char *p = grab(s.n);
    if (s.n) memcpy(p, s.p, s.n);
    return hf_str_make(p, s.n);
}

static void free_str(hf_str s) {
    free((void *)(uintptr_t)s.p);
}

static void *dup_array(const void *p, size_t count, size_t size) {
    void *copy = grab(count * size);
    if (count) memcpy(copy, p, count * size);
    return copy;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t chance(struct memory_engine *m, uint64_t below) {
    uint64_t z = m->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % below;
}

static bool coin(struct memory_engine *m) {
    return m->options.seed && chance(m, 2);
}

static enum hf_err fault(struct memory_engine *m, enum memory_call call) {
    struct fault *f = &m->faults[call];
    f->calls++;
    if (f->times != 0) {
        if (f->skip > 0)
            f->skip--;
        else {
            if (f->times > 0) f->times--;
            return f->e;
        }
    }
    return f->per_mille && chance(m, 1000) < f->per_mille ? f->rate_e : HF_OK;
}

void memory_engine_fail(struct memory_engine *m, enum memory_call call, enum hf_err e, uint64_t skip,
                        int times) {
    m->faults[call].e = e;
    m->faults[call].skip = skip;
    m->faults[call].times = times;
}

void memory_engine_fail_rate(struct memory_engine *m, enum memory_call call, enum hf_err e,
                             unsigned per_mille) {
    m->faults[call].rate_e = e;
    m->faults[call].per_mille = per_mille;
}

uint64_t memory_engine_calls(const struct memory_engine *m, enum memory_call call) {
    return m->faults[call].calls;
}

/* ---- records ---- */

static hf_str pack(char **at, hf_str s) {
    if (!s.p) return s;
    hf_str copy = {*at, s.n};
    if (s.n) memcpy(*at, s.p, s.n);
    *at += s.n;
    return copy;
}

static struct stored record_copy(const struct engine_record *r) {
    size_t n = sizeof(struct hf_header) * r->header_count + r->key.n + r->value.n + 1;
    for (size_t i = 0; i < r->header_count; i++) n += r->headers[i].key.n + r->headers[i].value.n;
    struct stored s = {.r = *r, .memory = grab(n)};
    struct hf_header *headers = s.memory;
    char *at = (char *)(headers + r->header_count);
    s.r.key = pack(&at, r->key);
    s.r.value = pack(&at, r->value);
    for (size_t i = 0; i < r->header_count; i++) {
        headers[i].key = pack(&at, r->headers[i].key);
        headers[i].value = pack(&at, r->headers[i].value);
    }
    s.r.headers = headers;
    return s;
}

static void partition_push(struct partition *p, struct stored s) {
    if (p->first + p->count == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 16;
        p->records = realloc(p->records, p->cap * sizeof *p->records);
        if (!p->records) abort();
    }
    p->records[p->first + p->count++] = s;
    p->stable = s.r.offset + 1;
}

static void partition_drop_below(struct partition *p, int64_t offset) {
    while (p->count > 0 && p->records[p->first].r.offset < offset) {
        free(p->records[p->first++].memory);
        p->count--;
    }
    if (p->start < offset) p->start = offset;
}

/* Index of the first record at or after offset. */
static size_t partition_find(const struct partition *p, int64_t offset) {
    size_t low = 0, high = p->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (p->records[p->first + mid].r.offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* ---- topics ---- */

static struct topic *topic_entry(struct memory_engine *m, hf_str name) {
    struct topic *t;
    HASH_FIND(hh, m->topics, name.p, name.n, t);
    if (t) return t;
    t = grab(sizeof *t);
    t->name = dup_str(name);
    t->last_ms = INT64_MIN;
    t->next_sequence = 1;
    HASH_ADD_KEYPTR(hh, m->topics, t->name.p, t->name.n, t);
    return t;
}

static struct topic *topic_find(struct memory_engine *m, hf_str name) {
    struct topic *t;
    HASH_FIND(hh, m->topics, name.p, name.n, t);
    return t && t->partition_count > 0 ? t : NULL;
}

static struct partition *partition_at(struct memory_engine *m, hf_str topic, int32_t number) {
    struct topic *t = topic_find(m, topic);
    return t && number >= 0 && number < t->partition_count ? &t->partitions[number] : NULL;
}

static void topic_serve(struct topic *t, int32_t partitions) {
    t->partition_count = partitions;
    t->partitions = grab((size_t)partitions * sizeof *t->partitions);
    t->creating = false;
}

static void topic_free(struct topic *t) {
    for (int32_t i = 0; i < t->partition_count; i++) {
        partition_drop_below(&t->partitions[i], INT64_MAX);
        free(t->partitions[i].records);
    }
    free(t->partitions);
    free_str(t->name);
    free(t);
}

enum hf_err memory_engine_topic_create(struct memory_engine *m, hf_str name, int32_t partitions) {
    struct topic *t = topic_entry(m, name);
    if (t->partition_count > 0) return HF_EEXIST;
    topic_serve(t, partitions);
    return HF_OK;
}

static void state_delete(struct memory_engine *m, struct pair *p) {
    HASH_DEL(m->state, p);
    free_str(p->key);
    free_str(p->value);
    free(p);
}

static void op_time_floor(struct engine *e, hf_str topic, int64_t ms) {
    struct topic *t = topic_entry(memory_of(e), topic);
    if (t->last_ms < ms) t->last_ms = ms;
}

static void op_watch(struct engine *e, hf_str topic, void (*fn)(void *arg), void *arg) {
    struct topic *t = topic_entry(memory_of(e), topic);
    t->watch = fn;
    t->watch_arg = arg;
}

/* Is this "offset/" group 0 topic 0 partition? */
static bool key_is_offset_of(hf_str key, hf_str topic) {
    if (!hf_str_starts(key, HF_STR("offset/"))) return false;
    const char *end = key.p + key.n, *zero = memchr(key.p, 0, key.n);
    if (!zero || (size_t)(end - zero - 1) <= topic.n) return false;
    return memcmp(zero + 1, topic.p, topic.n) == 0 && zero[1 + topic.n] == 0;
}

enum hf_err memory_engine_topic_delete(struct memory_engine *m, hf_str name) {
    struct topic *t = topic_find(m, name);
    if (!t) return HF_ENOTFOUND;
    HASH_DEL(m->topics, t);
    t->deleted = true; /* operations under way still point to it */
    LL_PREPEND2(m->deleted, t, next_deleted);
    if (t->watch) op_watch(&m->base, name, t->watch, t->watch_arg);
    struct pair *p, *tmp;
    HASH_ITER (hh, m->state, p, tmp)
        if (key_is_offset_of(p->key, name)) state_delete(m, p);
    return HF_OK;
}

static enum hf_err op_topic(struct engine *e, hf_str name, bool create, int32_t *partitions) {
    struct memory_engine *m = memory_of(e);
    enum hf_err injected = fault(m, MEMORY_TOPIC);
    if (injected) return injected;
    struct topic *t = topic_find(m, name);
    if (t) {
        *partitions = t->partition_count;
        return HF_OK;
    }
    if (!create || m->options.no_auto_create || !hf_topic_name_ok(name)) return HF_ENOTFOUND;
    t = topic_entry(m, name);
    if (t->creating) return HF_EAGAIN;
    t->creating = true;
    struct op *op = grab(sizeof *op);
    op->kind = OP_CREATE;
    op->topic = t;
    DL_APPEND(m->ops, op);
    return HF_EAGAIN;
}

static size_t op_record_max(struct engine *e, hf_str topic) {
    struct memory_engine *m = memory_of(e);
    return topic_find(m, topic) ? m->options.record_max : 0;
}

static enum hf_err op_bounds(struct engine *e, hf_str topic, int32_t partition, int64_t *start,
                             int64_t *stable_end) {
    struct partition *p = partition_at(memory_of(e), topic, partition);
    if (!p) return HF_ENOTFOUND;
    *start = p->start;
    *stable_end = p->stable;
    return HF_OK;
}

static int64_t op_stable_ms(struct engine *e, hf_str topic) {
    struct topic *t = topic_find(memory_of(e), topic);
    int64_t least = INT64_MAX;
    struct op *op;
    DL_FOREACH (memory_of(e)->ops, op) {
        for (size_t i = 0; !op->effected && i < op->out_count; i++)
            if (op->outs[i].topic == t && op->outs[i].stored.r.timestamp_ms < least)
                least = op->outs[i].stored.r.timestamp_ms;
    }
    return least;
}

/* ---- starting operations ---- */

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
    *out = (struct out){t, partition, record_copy(r)};
    struct engine_record *mine = &out->stored.r;
    if (hf_topic_is_ours(t->name) && mine->timestamp_ms < t->last_ms) mine->timestamp_ms = t->last_ms;
    if (mine->timestamp_ms > t->last_ms) t->last_ms = mine->timestamp_ms;
    mine->offset = p->next++;
    mine->sequence = t->next_sequence++;
    draw(op, t, partition);
}

int64_t memory_engine_append(struct memory_engine *m, hf_str topic, int32_t partition, int64_t now_ms,
                             hf_str key, hf_str value, const struct hf_header *headers, size_t header_count) {
    if (!partition_at(m, topic, partition)) return -1;
    struct op *op = grab(sizeof *op);
    op->kind = OP_APPEND;
    op->outs = grab(sizeof *op->outs);
    const struct engine_record r = {
        .timestamp_ms = now_ms, .key = key, .value = value, .headers = headers, .header_count = header_count};
    add_out(op, topic_find(m, topic), partition, &r);
    DL_APPEND(m->ops, op);
    return op->outs[0].stored.r.offset;
}

static enum hf_err commit_allowed(struct memory_engine *m, const struct engine_commit *c) {
    if (c->out_count > ENGINE_OUTS_MAX) return HF_ELIMIT;
    size_t bytes = 0;
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *o = &c->outs[i];
        if (!partition_at(m, o->topic, o->partition)) return HF_ENOTFOUND;
        size_t n = batch_record_size(o->key, o->value, o->headers, o->header_count);
        if (n > m->options.record_max || o->header_count > ENGINE_HEADERS_MAX) return HF_ELIMIT;
        bytes += n;
    }
    for (size_t i = 0; i < c->put_count; i++)
        if (c->puts[i].value.n > VALUE_MAX) return HF_ELIMIT;
    for (size_t i = 0; i < c->low_water_count; i++)
        if (!partition_at(m, c->low_waters[i].topic, c->low_waters[i].partition)) return HF_ENOTFOUND;
    if (bytes > ENGINE_COMMIT_BYTES) return HF_ELIMIT;
    return m->commits.next - m->commits.serving >= m->options.commits_max ? HF_EAGAIN : HF_OK;
}

static enum hf_err op_commit(struct engine *e, const struct engine_commit *c, engine_done *done, void *arg) {
    struct memory_engine *m = memory_of(e);
    enum hf_err refused = fault(m, MEMORY_COMMIT);
    if (!refused) refused = commit_allowed(m, c);
    if (refused) return refused;
    struct op *op = grab(sizeof *op);
    *op = (struct op){.kind = OP_COMMIT, .done = done, .arg = arg, .ticket = m->commits.next++};
    op->outs = grab(c->out_count * sizeof *op->outs);
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *o = &c->outs[i];
        const struct engine_record r = {.timestamp_ms = c->now_ms,
                                        .key = o->key,
                                        .value = o->value,
                                        .headers = o->headers,
                                        .header_count = o->header_count};
        add_out(op, topic_find(m, o->topic), o->partition, &r);
    }
    op->puts = grab(c->put_count * sizeof *op->puts);
    op->put_count = c->put_count;
    for (size_t i = 0; i < c->put_count; i++)
        op->puts[i] = (struct engine_put){dup_str(c->puts[i].key), dup_str(c->puts[i].value)};
    op->lows = dup_array(c->low_waters, c->low_water_count, sizeof *c->low_waters);
    op->low_count = c->low_water_count;
    for (size_t i = 0; i < op->low_count; i++) op->lows[i].topic = dup_str(op->lows[i].topic);
    op->added = dup_array(c->runs_added, c->runs_added_count, sizeof *c->runs_added);
    op->added_count = c->runs_added_count;
    op->dropped = dup_array(c->runs_dropped, c->runs_dropped_count, sizeof *c->runs_dropped);
    op->dropped_count = c->runs_dropped_count;
    DL_APPEND(m->ops, op);
    return HF_OK;
}

static void writer_free(struct writer *w) {
    if (w->run) hf_buf_fini(&w->run->bytes);
    free(w->run);
    free(w);
}

static void op_free(struct op *op) {
    for (size_t i = 0; i < op->out_count; i++) free(op->outs[i].stored.memory);
    for (size_t i = 0; i < op->put_count; i++) {
        free_str(op->puts[i].key);
        free_str(op->puts[i].value);
    }
    for (size_t i = 0; i < op->low_count; i++) free_str(op->lows[i].topic);
    if (op->writer) writer_free(op->writer);
    free(op->touches);
    free(op->outs);
    free(op->puts);
    free(op->lows);
    free(op->added);
    free(op->dropped);
    free(op);
}

/* ---- effects ---- */

static void state_put(struct memory_engine *m, hf_str key, hf_str value) {
    struct pair *p;
    HASH_FIND(hh, m->state, key.p, key.n, p);
    if (p) state_delete(m, p);
    if (!value.p) return;
    p = grab(sizeof *p);
    p->key = dup_str(key);
    p->value = dup_str(value);
    HASH_ADD_KEYPTR(hh, m->state, p->key.p, p->key.n, p);
}

static struct run *run_find(struct memory_engine *m, uint64_t id) {
    struct run *r;
    HASH_FIND(hh, m->runs, &id, sizeof id, r);
    return r;
}

static void run_delete(struct memory_engine *m, struct run *r) {
    HASH_DEL(m->runs, r);
    hf_buf_fini(&r->bytes);
    free(r);
}

static void effect_outs(struct op *op) {
    for (size_t i = 0; i < op->out_count; i++) {
        struct out *o = &op->outs[i];
        partition_push(&o->topic->partitions[o->partition], o->stored);
        o->topic->fresh = true;
        o->stored.memory = NULL;
    }
}

static void effect_commit(struct memory_engine *m, struct op *op) {
    effect_outs(op);
    for (size_t i = 0; i < op->put_count; i++) state_put(m, op->puts[i].key, op->puts[i].value);
    for (size_t i = 0; i < op->low_count; i++) {
        struct partition *p = partition_at(m, op->lows[i].topic, op->lows[i].partition);
        int64_t offset = op->lows[i].offset;
        if (p && !coin(m)) partition_drop_below(p, offset < p->stable ? offset : p->stable);
    }
    for (size_t i = 0; i < op->added_count; i++) {
        struct run *r = run_find(m, op->added[i]);
        assert(r && !r->named); /* only a sealed run may be named, and once */
        r->named = true;
    }
    for (size_t i = 0; i < op->dropped_count; i++) {
        struct run *r = run_find(m, op->dropped[i]);
        assert(r && r->named);
        r->named = false; /* gone for run_each and after a crash; readable until the completion */
    }
}

static void effect_seal(struct memory_engine *m, struct op *op) {
    op->result = fault(m, MEMORY_RUN_SEAL);
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
    return to_deleted_topic(op) ? HF_ENOTFOUND : fault(m, MEMORY_COMMIT_DONE);
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
        if (op->topic->partition_count == 0) topic_serve(op->topic, m->options.default_partitions);
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
    for (size_t i = 0; !result && i < op->dropped_count; i++) run_delete(m, run_find(m, op->dropped[i]));
    op_free(op);
    if (done) done(arg, result); /* may start new operations */
}

/* A random operation that can move, NULL if none can. Effects only: those not yet in effect. */
static struct op *pick(struct memory_engine *m, bool effects_only) {
    size_t movable = 0;
    struct op *op, *chosen = NULL;
    DL_FOREACH (m->ops, op) {
        bool can = may_take_effect(m, op) || (op->effected && !effects_only);
        if (can && chance(m, ++movable) == 0) chosen = op;
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
    if (m->options.seed) moves = chance(m, 2 * moves + 3);
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
            if (!coin(m)) p->next = p->stable; /* else a gap stays, as after an unclean start of the log */
        }
    }
}

void memory_engine_crash(struct memory_engine *m) {
    struct op *op, *tmp;
    while (coin(m) && (op = pick(m, true))) effect(m, op);
    DL_FOREACH_SAFE(m->ops, op, tmp) {
        DL_DELETE(m->ops, op);
        op_free(op);
    }
    struct run *r, *rtmp;
    HASH_ITER (hh, m->runs, r, rtmp)
        if (!r->named) run_delete(m, r);
    reset_after_crash(m);
}

/* ---- reading ---- */

static enum hf_err op_cursor_open(struct engine *e, hf_str topic, int32_t partition,
                                  struct engine_cursor **out) {
    if (!partition_at(memory_of(e), topic, partition)) return HF_ENOTFOUND;
    struct cursor *c = grab(sizeof *c);
    c->base.engine = e;
    c->topic = dup_str(topic);
    c->partition = partition;
    *out = &c->base;
    return HF_OK;
}

static void op_cursor_close(struct engine_cursor *base) {
    struct cursor *c = (struct cursor *)base;
    free_str(c->topic);
    free(c->given.memory);
    free(c);
}

static void op_cursor_seek(struct engine_cursor *base, int64_t offset) {
    ((struct cursor *)base)->position = offset;
}

static enum hf_err op_cursor_next(struct engine_cursor *base, struct engine_record *out) {
    struct cursor *c = (struct cursor *)base;
    struct memory_engine *m = memory_of(base->engine);
    free(c->given.memory);
    c->given.memory = NULL;
    enum hf_err injected = fault(m, MEMORY_CURSOR_NEXT);
    if (injected) return injected;
    const struct partition *p = partition_at(m, c->topic, c->partition);
    if (!p) return HF_EEND;
    if (c->position < p->start) c->position = p->start;
    size_t i = partition_find(p, c->position);
    if (i == p->count) return HF_EEND;
    c->given = record_copy(&p->records[p->first + i].r);
    c->position = c->given.r.offset + 1;
    *out = c->given.r;
    return HF_OK;
}

static int64_t op_cursor_position(const struct engine_cursor *base) {
    return ((const struct cursor *)base)->position;
}

void memory_engine_each(struct memory_engine *m, hf_str topic, int32_t partition,
                        void (*fn)(void *arg, const struct engine_record *r), void *arg) {
    const struct partition *p = partition_at(m, topic, partition);
    for (size_t i = 0; p && i < p->count; i++) fn(arg, &p->records[p->first + i].r);
}

/* ---- state ---- */

static int by_key(const struct pair *a, const struct pair *b) {
    return hf_str_cmp(a->key, b->key);
}

static void op_state_each(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                          void *arg) {
    struct memory_engine *m = memory_of(e);
    HASH_SORT(m->state, by_key);
    struct pair *p, *tmp;
    HASH_ITER (hh, m->state, p, tmp)
        if (hf_str_starts(p->key, prefix)) fn(arg, p->key, p->value);
}

static hf_str op_state_get(struct engine *e, hf_str key) {
    struct memory_engine *m = memory_of(e);
    struct pair *p;
    HASH_FIND(hh, m->state, key.p, key.n, p);
    free_str(m->got);
    m->got = p ? dup_str(p->value) : (hf_str){NULL, 0};
    return m->got;
}

static int64_t op_committed(struct engine *e, hf_str group, hf_str topic, int32_t partition) {
    struct hf_buf key;
    hf_buf_init(&key, SIZE_MAX);
    engine_offset_key(&key, group, topic, partition);
    hf_str value = op_state_get(e, hf_buf_view(&key));
    hf_buf_fini(&key);
    return value.n >= 8 ? (int64_t)hf_get_be64(value.p) : -1;
}

void memory_engine_commit_offset(struct memory_engine *m, hf_str group, hf_str topic, int32_t partition,
                                 int64_t offset) {
    struct hf_buf key;
    uint8_t value[8];
    hf_buf_init(&key, SIZE_MAX);
    engine_offset_key(&key, group, topic, partition);
    hf_put_be64(value, (uint64_t)offset);
    state_put(m, hf_buf_view(&key), hf_str_make(value, sizeof value));
    hf_buf_fini(&key);
}

/* ---- runs ---- */

static enum hf_err op_run_begin(struct engine *e, uint64_t bucket, struct engine_run_writer **out) {
    enum hf_err injected = fault(memory_of(e), MEMORY_RUN_BEGIN);
    if (injected) return injected;
    struct writer *w = grab(sizeof *w);
    w->base.engine = e;
    w->run = grab(sizeof *w->run);
    w->run->bucket = bucket;
    hf_buf_init(&w->run->bytes, SIZE_MAX / 2);
    *out = &w->base;
    return HF_OK;
}

static enum hf_err op_run_append(struct engine_run_writer *base, const void *p, size_t n) {
    enum hf_err injected = fault(memory_of(base->engine), MEMORY_RUN_APPEND);
    if (injected) return injected;
    struct hf_buf *bytes = &((struct writer *)base)->run->bytes;
    hf_buf_put(bytes, p, n);
    return hf_buf_failed(bytes);
}

static void op_run_seal(struct engine_run_writer *base, uint64_t *id, engine_done *done, void *arg) {
    struct memory_engine *m = memory_of(base->engine);
    struct op *op = grab(sizeof *op);
    *op = (struct op){.kind = OP_SEAL, .done = done, .arg = arg, .writer = (struct writer *)base, .id = id};
    DL_APPEND(m->ops, op);
}

static void op_run_abort(struct engine_run_writer *base) {
    writer_free((struct writer *)base);
}

static int by_id(const struct run *a, const struct run *b) {
    return a->id < b->id ? -1 : a->id > b->id;
}

static void op_run_each(struct engine *e, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
                        void *arg) {
    struct memory_engine *m = memory_of(e);
    HASH_SORT(m->runs, by_id);
    struct run *r, *tmp;
    HASH_ITER (hh, m->runs, r, tmp)
        if (r->named) fn(arg, r->id, r->bucket, r->bytes.n);
}

static enum hf_err op_run_read(struct engine *e, uint64_t id, uint64_t offset, void *p, size_t n) {
    struct memory_engine *m = memory_of(e);
    enum hf_err injected = fault(m, MEMORY_RUN_READ);
    if (injected) return injected;
    const struct run *r = run_find(m, id);
    if (!r) return HF_ENOTFOUND;
    if (offset > r->bytes.n || n > r->bytes.n - offset) return HF_EEND;
    if (n) memcpy(p, r->bytes.p + offset, n);
    return HF_OK;
}

/* ---- the object ---- */

static const struct engine_ops memory_ops = {
    .commit = op_commit,
    .topic = op_topic,
    .record_max = op_record_max,
    .cursor_open = op_cursor_open,
    .cursor_close = op_cursor_close,
    .cursor_seek = op_cursor_seek,
    .cursor_next = op_cursor_next,
    .cursor_position = op_cursor_position,
    .bounds = op_bounds,
    .stable_ms = op_stable_ms,
    .time_floor = op_time_floor,
    .watch = op_watch,
    .state_each = op_state_each,
    .state_get = op_state_get,
    .committed = op_committed,
    .run_begin = op_run_begin,
    .run_append = op_run_append,
    .run_seal = op_run_seal,
    .run_abort = op_run_abort,
    .run_each = op_run_each,
    .run_read = op_run_read,
};

void memory_engine_open(const struct memory_options *options, struct memory_engine **out) {
    struct memory_engine *m = grab(sizeof *m);
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
        topic_free(t);
    }
    LL_FOREACH_SAFE2(m->deleted, t, ttmp, next_deleted) topic_free(t);
    struct pair *p, *ptmp;
    HASH_ITER (hh, m->state, p, ptmp) state_delete(m, p);
    struct run *r, *rtmp;
    HASH_ITER (hh, m->runs, r, rtmp) run_delete(m, r);
    free_str(m->got);
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
