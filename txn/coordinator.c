/* The coordinator: half messages wait here until their transaction is decided.
 *
 * The problem. A producer stores messages, runs its local transaction, and says commit or rollback; it may
 * die anywhere in between. Messages become visible all at once or not at all, exactly once, whatever crashes,
 * and nothing undecided is thrown away.
 *
 * The design. The topic holdfast.txn is the only input; the coordinator reads it in the order of acceptance
 * and keeps, for each transaction that is not finished, its state and where its half messages lie (not the
 * messages). The stored state is a snapshot at a place of the topic, moved on by each commit together with
 * the effects of all records up to that place: outgoing records, changed transactions, decided ids, and the
 * place itself are one engine_commit. So a crash leaves either all of a step or none, and a restart goes on
 * at the place.
 *
 *       holdfast.txn ──intake──► state of transactions ──flush──► one engine_commit:
 *                                   ▲        │                      moves ──► destinations, holdfast.delay
 *              timers, operators ───┘        └─ what changed        checks ──► holdfast.check.<group>
 *                                                                   state, low-water
 *
 * Rejected: rebuilding states by reading the topic again from the oldest half message. It needs no state for
 * prepares, but every answer would then have to be the same in the second reading, under other limits and at
 * another time; and the start would take as long as the oldest transaction is old.
 *
 * Failure. A refused commit changes nothing and is tried again (flush.c). A commit that fails under way is
 * undone by loading the stored state. When the engine is fenced or has failed, the coordinator stops.
 *
 * Invariants (txn_check):
 *   T1  a decision never changes (live_set_state asserts it)
 *   T2  an id is in the table or among the decided ones, never in both, but while the commit is under way that
 *       moves it from one to the other
 *   T3  half messages of a partition ascend, lie below what is processed, and above the released start
 *   T4  committed: in the queue of moves, or planned, or flying. Prepared: a check is queued, planned, asked
 *       or outstanding: exactly one of them. Parked: none
 *   T5  checks sent - checks read is 0 or 1, and 1 if and only if one is asked, outstanding or to be sent
 *       again
 *   T6  what is stored is not ahead of what is processed */
#include "internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- tell ---- */

void txn_tell(struct txn *t, const char *name, const char *fmt, ...) {
    if (!t->o.event) return;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    t->o.event(t->o.event_arg, name, text);
}

void txn_fail(struct txn *t, enum hf_err e, const char *where) {
    if (t->failed) return;
    t->failed = e;
    t->wants = true;
    txn_tell(t, "txn_stopped", "where=\"%s\" reason=\"%s\"", where, hf_err_text(e));
}

/* ---- open and close ---- */

static void set_default(int64_t *option, int64_t value) {
    if (*option == 0) *option = value;
}

static enum hf_err options_of(const struct txn_options *given, struct txn_options *o) {
    *o = *given;
    set_default(&o->check_after_ms, HF_SECONDS(6));
    set_default(&o->check_interval_ms, HF_SECONDS(30));
    set_default(&o->id_memory_ms, HF_DAYS(7));
    set_default(&o->destination_wait_ms, HF_MINUTES(10));
    if (o->check_attempts == 0) o->check_attempts = 15;
    if (o->halves_max == 0) o->halves_max = 1000;
    if (o->bytes_max == 0) o->bytes_max = 4 << 20;
    if (o->live_max == 0) o->live_max = 100000;
    if (o->id_memory_bytes == 0) o->id_memory_bytes = 16 << 20;
    bool negative = o->check_after_ms < 0 || o->check_interval_ms < 0 || o->id_memory_ms < 0 ||
                    o->destination_wait_ms < 0 || o->check_attempts < 0;
    bool beyond = o->halves_max > TXN_HALVES_MAX || o->bytes_max > TXN_BYTES_MAX || o->live_max > INT32_MAX;
    return negative || beyond ? HF_EINVAL : HF_OK;
}

static void forget_all(struct txn *t) {
    if (t->wheel) live_clear(t);
    for (size_t i = 0; i < TXN_EXCEPTIONS_MAX; i++) {
        free(t->exceptions[i]);
        t->exceptions[i] = NULL;
    }
    check_close(t);
    txn_decided_fini(&t->decided);
}

/* Once holdfast.txn serves: cursors, and what is stored. Failed: nothing is loaded. HF_EAGAIN: not yet. */
static enum hf_err start(struct txn *t) {
    enum hf_err e = t->input_count > 0 ? HF_OK : intake_open(t);
    if (!e) e = txn_decided_init(&t->decided, t->o.id_memory_ms, t->o.id_memory_bytes);
    if (!e) e = stored_load(t);
    t->loaded = !e;
    if (e) forget_all(t);
    return e;
}

enum hf_err txn_open(struct engine *engine, const struct txn_options *options, int64_t now_ms,
                     struct txn **out) {
    struct txn_options o;
    enum hf_err e = options_of(options, &o);
    if (e) return e;
    struct txn *t = calloc(1, sizeof *t);
    if (!t) return HF_ENOMEM;
    t->engine = engine;
    t->o = o;
    t->now_ms = now_ms < 0 ? 0 : now_ms;
    t->slot_free = UINT32_MAX;
    t->wants = true;
    e = wheel_open(&(struct wheel_options){.start = t->now_ms}, &t->wheel);
    if (!e) e = start(t);
    if (e == HF_EAGAIN) e = HF_OK;
    if (e) {
        txn_close(t);
        return e;
    }
    *out = t;
    return HF_OK;
}

void txn_close(struct txn *t) {
    if (!t) return;
    while (t->waiters) {
        struct waiter *w = t->waiters;
        t->waiters = w->next;
        w->done(w->arg, HF_ECLOSED, TXN_UNKNOWN_ID);
        free(w);
    }
    forget_all(t);
    flush_close(t);
    intake_close(t);
    wheel_close(t->wheel);
    free(t->slots);
    free(t);
}

void txn_reload(struct txn *t) {
    t->stats.reloads++;
    t->attended = 0;
    t->asked = false;
    t->loaded = false; /* the next step loads */
    forget_all(t);
}

/* ---- step ---- */

static void on_due(struct txn *t, struct live *x) {
    if (x->state == TXN_COMMITTED)
        live_queue(t, x, QUEUE_MOVES);
    else
        check_due(t, x);
}

static void answer_waiters(struct txn *t) {
    struct waiter *ready = NULL, **tail = &ready, **at = &t->waiters;
    while (*at) {
        struct waiter *w = *at;
        if (w->ready || t->failed) {
            *at = w->next;
            w->next = NULL;
            *tail = w;
            tail = &w->next;
        } else {
            at = &w->next;
        }
    }
    while (ready) { /* apart from the list, since an answer may lead to the next question */
        struct waiter *w = ready;
        ready = w->next;
        t->waiter_count--;
        enum hf_err e = w->ready ? w->e : t->failed;
        w->done(w->arg, e, w->outcome);
        free(w);
    }
}

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t next_ms(const struct txn *t, bool more) {
    if (more || t->unarmed) return t->now_ms;
    int64_t next = min64(wheel_next(t->wheel), intake_next_ms(t));
    if (t->outstanding > 0) next = min64(next, t->poll_ms);
    if (t->flight.on) return next;
    if (flush_urgent(t)) return min64(next, t->hold_ms > t->now_ms ? t->hold_ms : t->now_ms);
    if (t->dirty) next = min64(next, t->dirty_since_ms + LAZY_MS);
    return next;
}

int64_t txn_step(struct txn *t, int64_t now_ms) {
    if (now_ms > t->now_ms) t->now_ms = now_ms;
    t->wants = false;
    answer_waiters(t);
    if (t->failed) return NEVER_MS;
    if (!t->loaded) {
        enum hf_err e = start(t);
        if (e && hf_err_class_of(e) != HF_CLASS_RETRY) txn_fail(t, e, "start");
        if (e) return t->now_ms + TOPIC_RETRY_MS;
    }
    bool more = intake_read(t);
    check_poll(t);
    live_expire(t, on_due);
    if (!t->flight.on && t->hold_ms <= t->now_ms && flush_urgent(t)) flush_start(t);
    return next_ms(t, more);
}

bool txn_wants(const struct txn *t) {
    return t->wants;
}

bool txn_busy(const struct txn *t) {
    return t->flight.on;
}

enum hf_err txn_failed(const struct txn *t) {
    return t->failed;
}

/* ---- operators ---- */

enum hf_err txn_decide(struct txn *t, hf_str group, hf_str id, enum txn_state decision,
                       txn_decided_done *done, void *arg) {
    assert(txn_state_decided(decision));
    if (t->failed) return t->failed;
    if (t->waiter_count >= WAITERS_MAX || !t->loaded) return HF_EAGAIN;
    struct waiter *w = calloc(1, sizeof *w);
    if (!w) return HF_ENOMEM;
    w->done = done;
    w->arg = arg;
    w->outcome =
        intake_decide(t, group, id, decision == TXN_COMMITTED ? TXN_COMMIT : TXN_ROLLBACK, t->now_ms);
    w->next = t->waiters;
    t->waiters = w;
    t->waiter_count++;
    t->wants = true;
    return HF_OK;
}

/* ---- invariants ---- */

static void check_live(const struct txn *t, const struct live *x) {
    uint64_t bytes = 0;
    uint32_t n = 0;
    for (const struct half *h = x->halves; h; h = h->next, n++) bytes += h->bytes;
    assert(n == x->half_count && bytes == x->bytes);
    bool planned = x->wake_ms != NEVER_MS, queued = x->queue != QUEUE_NONE;
    bool remembered = txn_decided_find(&t->decided, live_group(x), live_id(x)) != TXN_NONE;
    assert(!remembered || (x->flying && t->flight.on));                                          /* T2 */
    if (x->state == TXN_COMMITTED) assert(queued + planned + x->flying == 1 && !x->outstanding); /* T4 */
    if (x->state == TXN_PARKED) assert(!queued && !planned && !x->outstanding && !x->asking);
    if (x->state == TXN_PREPARED) assert(queued + planned + x->asking + x->outstanding == 1);
    assert(x->sent - x->counted == 0 || x->sent - x->counted == 1); /* T5 */
    if (x->state == TXN_PREPARED) assert((x->sent > x->counted) == (x->asking || x->outstanding || x->again));
    if (planned && !t->unarmed) assert(x->armed_ms <= x->wake_ms);
    assert(x->state != TXN_NONE && (x->half_count > 0 || x->state == TXN_ROLLED_BACK));
}

void txn_check(const struct txn *t) {
    uint64_t bytes = 0, outstanding = 0;
    for (const struct live *x = t->table; x; x = x->hh.next) {
        check_live(t, x);
        bytes += x->bytes;
        outstanding += x->outstanding;
    }
    assert(bytes == t->bytes && outstanding == t->outstanding);
    for (int32_t p = 0; p < t->input_count; p++) {
        const struct input *in = &t->inputs[p];
        int64_t below = in->released;
        for (const struct half *h = in->first; h; h = h->after) { /* T3 */
            assert(h->offset >= below && h->offset < in->next && h->partition == p);
            below = h->offset + 1;
        }
        assert(in->durable <= in->next); /* T6 */
    }
    if (t->loaded) txn_decided_check(&t->decided);
    wheel_check(t->wheel);
}
