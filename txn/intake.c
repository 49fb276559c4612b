/* Records of holdfast.txn, in the order of acceptance, and what they change.
 *
 * With one partition the order of acceptance is the order of offsets. With several the cursors' heads are
 * merged by sequence. A head is safe to take when no record with a smaller sequence can still become
 * readable in another partition: timestamps never decrease along sequences, and the engine says below which
 * timestamp nothing comes any more (engine_stable_ms), so a head older than that is safe.
 *
 * Nothing here has an effect outside memory. What changed is marked dirty and goes into the next commit,
 * together with how far the topic is processed; a record that was processed and not stored is processed again
 * after a restart, in the same order. Bodies are not kept. */
#include "internal.h"

#include "base/hash.h"

#include <assert.h>
#include <stdlib.h>

/* ---- cursors ---- */

static void on_records(void *arg) {
    ((struct txn *)arg)->wants = true;
}

enum hf_err intake_open(struct txn *t) {
    int32_t partitions = 0;
    enum hf_err e = engine_topic(t->engine, HF_STR(HF_TOPIC_TXN), true, &partitions);
    if (e) return e;
    if (partitions > TXN_PARTITIONS_MAX) return HF_ELIMIT;
    t->inputs = calloc((size_t)partitions, sizeof *t->inputs);
    if (!t->inputs) return HF_ENOMEM;
    t->input_count = partitions;
    for (int32_t p = 0; p < partitions && !e; p++) {
        e = engine_cursor_open(t->engine, HF_STR(HF_TOPIC_TXN), p, &t->inputs[p].records);
        if (!e) e = engine_cursor_open(t->engine, HF_STR(HF_TOPIC_TXN), p, &t->inputs[p].bodies);
    }
    if (e) {
        intake_close(t);
        return e;
    }
    engine_watch(t->engine, HF_STR(HF_TOPIC_TXN), on_records, t);
    return HF_OK;
}

void intake_close(struct txn *t) {
    if (t->input_count > 0) engine_watch(t->engine, HF_STR(HF_TOPIC_TXN), NULL, NULL);
    for (int32_t p = 0; p < t->input_count; p++) {
        engine_cursor_close(t->inputs[p].records);
        engine_cursor_close(t->inputs[p].bodies);
    }
    free(t->inputs);
    t->inputs = NULL;
    t->input_count = 0;
}

static void head_fill(struct txn *t, int32_t p) {
    struct input *in = &t->inputs[p];
    if (in->has_head || in->retry_ms > t->now_ms) return;
    enum hf_err e = engine_cursor_next(in->records, &in->head);
    in->has_head = e == HF_OK;
    in->retry_ms = 0;
    if (e == HF_OK || e == HF_EEND) return;
    in->retry_ms = t->now_ms + DAMAGE_RETRY_MS;
    engine_cursor_seek(in->records, in->next);
    txn_tell(t, "txn_log_damaged", "partition=%d offset=%lld reason=\"%s\"", p, (long long)in->next,
             hf_err_text(e));
}

/* The partition whose head is next, -1: none is safe. */
static int32_t head_next(struct txn *t) {
    int32_t best = -1;
    bool damaged = false;
    for (int32_t p = 0; p < t->input_count; p++) {
        head_fill(t, p);
        struct input *in = &t->inputs[p];
        damaged |= in->retry_ms > t->now_ms;
        if (in->has_head && (best < 0 || in->head.sequence < t->inputs[best].head.sequence)) best = p;
    }
    if (best < 0 || t->input_count == 1) return best;
    if (damaged) return -1; /* what comes first cannot be known */
    bool safe = t->inputs[best].head.timestamp_ms < engine_stable_ms(t->engine, HF_STR(HF_TOPIC_TXN));
    return safe ? best : -1;
}

/* ---- what a record changes ---- */

static enum txn_state state_of(struct txn *t, const struct live *x, hf_str group, hf_str id) {
    return x ? x->state : txn_decided_find(&t->decided, group, id);
}

static uint64_t message_hash(hf_str id) {
    static const struct hf_siphash_key key = {0x68662d6d65737361u, 0x67652d6964000000u};
    if (!id.p) return 0;
    uint64_t h = hf_siphash(key, id.p, id.n);
    return h ? h : 1;
}

static size_t record_bytes(const struct engine_record *r) {
    size_t n = r->key.n + r->value.n + 16;
    for (size_t i = 0; i < r->header_count; i++) n += r->headers[i].key.n + r->headers[i].value.n + 8;
    return n;
}

static bool beyond_limits(struct txn *t, const struct live *x, size_t bytes) {
    size_t largest = engine_record_max(t->engine, HF_STR(HF_TOPIC_TXN));
    if (largest > ADDED_PER_HALF && bytes > largest - ADDED_PER_HALF) return true; /* its move could not be */
    if (!x) return HASH_COUNT(t->table) >= t->o.live_max || bytes > t->o.bytes_max;
    return x->half_count >= t->o.halves_max || x->bytes + bytes > t->o.bytes_max;
}

static void ended(struct txn *t, struct live *x, int64_t when_ms) {
    x->decided_ms = when_ms;
    check_forget(t, x);
    live_wake_at(t, x, NEVER_MS);
    live_queue(t, x, x->state == TXN_COMMITTED ? QUEUE_MOVES : QUEUE_NONE);
    live_dirty(t, x);
}

/* A new half message of x. */
static void prepared(struct txn *t, struct live *x, struct half *h, const struct engine_record *r,
                     const struct hf_control *c) {
    live_add_half(t, x, h);
    half_link(t, h);
    if (x->half_count == 1) x->created_ms = r->timestamp_ms;
    x->last_prepare_ms = r->timestamp_ms;
    if (c->check_after_ms >= 0)
        x->check_after_ms = c->check_after_ms;
    else if (x->half_count == 1)
        x->check_after_ms = t->o.check_after_ms;
    check_plan(t, x);
    live_dirty(t, x);
    t->dirty_bytes += STORED_HALF;
    t->stats.prepares++;
}

/* HF_ENOMEM: nothing changed; the record is to be processed later. */
static enum hf_err prepare(struct txn *t, const struct engine_record *r, int32_t partition,
                           const struct hf_control *c, enum txn_outcome *outcome) {
    struct live *x = live_find(t, c->group, r->key), *born = NULL;
    enum txn_state state = state_of(t, x, c->group, r->key);
    uint64_t message = message_hash(c->message_id);
    size_t bytes = record_bytes(r);
    enum txn_event event = TXN_PREPARE;
    if (x && live_has_message(x, message))
        event = TXN_PREPARE_AGAIN;
    else if (beyond_limits(t, x, bytes))
        event = TXN_OVERFLOW;

    struct txn_answer a = txn_state_next(state, event);
    if (a.outcome == TXN_APPLIED || a.outcome == TXN_REFUSED) {
        struct half *h = malloc(sizeof *h);
        if (h && !x) x = born = live_new(t, c->group, r->key, r->sequence);
        if (!h || !x) {
            free(h);
            return HF_ENOMEM;
        }
        if (state == TXN_PARKED) x->sent = x->counted = 0; /* its producer is back */
        live_set_state(t, x, a.next);
        if (a.outcome == TXN_APPLIED) {
            *h = (struct half){
                .offset = r->offset, .message = message, .bytes = (uint32_t)bytes, .partition = partition};
            prepared(t, x, h, r, c);
        } else {
            free(h);
            if (born) x->created_ms = r->timestamp_ms;
            ended(t, x, r->timestamp_ms);
        }
    }
    *outcome = a.outcome;
    return HF_OK;
}

enum txn_outcome intake_decide(struct txn *t, hf_str group, hf_str id, enum txn_event event,
                               int64_t when_ms) {
    struct live *x = live_find(t, group, id);
    struct txn_answer a = txn_state_next(state_of(t, x, group, id), event);
    if (a.outcome != TXN_APPLIED) return a.outcome;
    live_set_state(t, x, a.next);
    ended(t, x, when_ms);
    (event == TXN_COMMIT ? &t->stats.commits : &t->stats.rollbacks)[0]++;
    return a.outcome;
}

static enum hf_err apply(struct txn *t, const struct engine_record *r, int32_t partition) {
    struct hf_control c = {0};
    struct hf_control_error why;
    enum txn_outcome outcome = TXN_MALFORMED;
    enum hf_err e = exception_ready(t);
    if (e) return e;
    if (hf_control_txn(r->key, r->headers, r->header_count, &c, &why))
        txn_tell(t, "txn_record_malformed", "partition=%d offset=%lld header=%s reason=\"%s\"", partition,
                 (long long)r->offset, why.header, why.reason);
    else if (c.op == HF_OP_PREPARE)
        e = prepare(t, r, partition, &c, &outcome);
    else
        outcome = intake_decide(t, c.group, r->key, c.op == HF_OP_COMMIT ? TXN_COMMIT : TXN_ROLLBACK,
                                r->timestamp_ms);
    if (e) return e;
    if (outcome != TXN_APPLIED) exception_add(t, r, partition, c.group, outcome);
    t->stats.outcomes[outcome]++;
    return HF_OK;
}

bool intake_read(struct txn *t) {
    for (int n = 0; n < READ_PER_STEP; n++) {
        if (t->dirty_bytes >= DIRTY_BYTES_MAX || exceptions_full(t)) return false;
        int32_t p = head_next(t);
        if (p < 0) return false;
        struct input *in = &t->inputs[p];
        if (apply(t, &in->head, p)) return true; /* no memory: the head stays */
        in->next = in->head.offset + 1;
        in->has_head = false;
    }
    return true;
}

int64_t intake_next_ms(const struct txn *t) {
    int64_t next = NEVER_MS;
    for (int32_t p = 0; p < t->input_count; p++)
        if (t->inputs[p].retry_ms > t->now_ms && t->inputs[p].retry_ms < next) next = t->inputs[p].retry_ms;
    return next;
}
