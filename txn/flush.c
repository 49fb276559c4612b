/* The one commit under way.
 *
 * A commit carries everything at once: how far the topic is processed, every transaction that changed, moves
 * and checks as far as they fit, decided ids, exceptions. While it is under way the coordinator goes on
 * reading, so that the next one serves all who came meanwhile: group commit. There is never a second one,
 * since a later commit may hold only if every earlier one does.
 *
 *     intake ──► dirty ─┐
 *     moves queue ──────┼──► flight_build ──► engine_commit ──► … ──► flown: free what ended
 *     checks queue ─────┘          │ refused                      └─► failed: txn_reload
 *                                  └─► undone: queues and dirty marks are as before
 *
 * Refused at once (nothing happened): no room or busy waits; a destination that went away or a record too
 * large cannot be told from the outside, so the next commits carry one effect each (`attended`), and the one
 * that is refused again is to blame. */
#include "internal.h"

#include <assert.h>
#include <stdlib.h>

enum { ARENA_MAX = 16 << 20 };

/* ---- lists that grow ---- */

static void *grown(struct flight *f, void *list, size_t count, size_t *room, size_t size) {
    if (count < *room) return list;
    size_t more = *room ? *room * 2 : 64;
    void *bigger = realloc(list, more * size);
    if (!bigger) {
        f->e = HF_ENOMEM;
        return NULL;
    }
    *room = more;
    return bigger;
}

struct engine_out *flight_out(struct flight *f) {
    void *list = grown(f, f->outs, f->out_count, &f->out_room, sizeof *f->outs);
    if (!list) return NULL;
    f->outs = list;
    return &f->outs[f->out_count++];
}

struct engine_put *flight_put(struct flight *f) {
    void *list = grown(f, f->puts, f->put_count, &f->put_room, sizeof *f->puts);
    if (!list) return NULL;
    f->puts = list;
    return &f->puts[f->put_count++];
}

static struct engine_low_water *flight_low(struct flight *f) {
    void *list = grown(f, f->lows, f->low_count, &f->low_room, sizeof *f->lows);
    if (!list) return NULL;
    f->lows = list;
    return &f->lows[f->low_count++];
}

bool flight_room(const struct flight *f, size_t outs, size_t bytes) {
    if (f->out_count == 0) return true; /* one transaction always fits: the limits see to it */
    return f->out_count + outs <= EFFECTS_MAX && f->effect_bytes + bytes <= EFFECT_BYTES_MAX;
}

void flight_ends(struct flight *f, struct live *x) {
    x->flying = true;
    x->flight_next = NULL;
    *f->ending_tail = x;
    f->ending_tail = &x->flight_next;
}

/* ---- put together ---- */

static void reset(struct flight *f) {
    hf_arena_fini(&f->arena);
    hf_arena_init(&f->arena, ARENA_MAX);
    f->out_count = f->put_count = f->low_count = f->effect_bytes = 0;
    f->e = HF_OK;
    f->ending = f->checks = NULL;
    f->ending_tail = &f->ending;
    f->checks_tail = &f->checks;
    f->effects = 0;
    f->words = f->forgotten = 0;
    f->moved = f->moved_halves = f->rejected = 0;
}

/* x is decided and, if committed, moved by this commit: only its id is remembered. */
static void collect_end(struct txn *t, struct flight *f, struct live *x) {
    uint64_t word = txn_decided_word(live_group(x), live_id(x), x->state);
    enum hf_err e = txn_decided_add(&t->decided, word, x->decided_ms);
    if (e) {
        f->e = e;
        return;
    }
    f->words++;
    if (x->stored && !hf_mutate(203)) stored_live_gone(f, x);
}

static void collect_dirty(struct txn *t, struct flight *f) {
    for (struct live *x = f->ending; x && !f->e; x = x->flight_next) collect_end(t, f, x);
    struct live *x;
    DL_FOREACH2(t->dirty, x, dirty_next) {
        if (f->e) return;
        if (x->flying) continue; /* moved */
        if (x->state == TXN_ROLLED_BACK) {
            collect_end(t, f, x);
            if (f->e) return;
            flight_ends(f, x);
        } else {
            stored_live(f, x);
        }
    }
}

static void collect_decided(struct txn *t, struct flight *f) {
    f->forgotten = txn_decided_expired(&t->decided, t->now_ms);
    if (f->forgotten > CHUNKS_FORGOTTEN_MAX) f->forgotten = CHUNKS_FORGOTTEN_MAX;
    for (size_t i = 0; i < f->forgotten; i++) stored_chunk_gone(f, txn_decided_chunk(&t->decided, i)->number);
    if (f->words == 0) return;
    for (size_t i = f->decided_before; i < t->decided.count && !hf_mutate(202); i++)
        if (i >= f->forgotten) stored_chunk(f, txn_decided_chunk(&t->decided, i));
}

/* Halves of transactions that end with this commit still pin the log: their release is the next commit's. */
static void collect_low_waters(struct txn *t, struct flight *f) {
    for (int32_t p = 0; p < t->input_count; p++) {
        const struct input *in = &t->inputs[p];
        int64_t low = in->first && !hf_mutate(204) ? in->first->offset : in->next;
        if (low <= in->released) continue;
        struct engine_low_water *w = flight_low(f);
        if (w) *w = (struct engine_low_water){HF_STR(HF_TOPIC_TXN), p, low};
    }
    for (struct check_lane *l = t->releases; l; l = l->release_next) {
        struct engine_low_water *w = flight_low(f);
        if (w) *w = (struct engine_low_water){l->topic->name, (int32_t)(l - l->topic->lanes), l->low};
    }
}

static void build(struct txn *t, struct flight *f) {
    reset(f);
    bool tail_grows =
        t->decided.count > 0 && txn_decided_chunk(&t->decided, t->decided.count - 1)->n < TXN_CHUNK_WORDS;
    f->decided_before = t->decided.count - tail_grows;
    move_collect(t, f);
    check_collect(t, f);
    collect_dirty(t, f);
    collect_decided(t, f);
    collect_low_waters(t, f);
    for (uint64_t n = t->exception_stored; n < t->exception_next; n++)
        stored_exception(f, t->exceptions[n % TXN_EXCEPTIONS_MAX]);
    if (!hf_mutate(201)) stored_applied(t, f);
}

/* ---- refused at once ---- */

static void undo(struct txn *t, struct flight *f) {
    txn_decided_undo(&t->decided, f->words);
    for (struct live *x = f->ending; x; x = x->flight_next) x->flying = false;
    check_unsent(f);
}

static void blame(struct txn *t, struct flight *f, enum hf_err e) {
    if (t->attended == 0) {
        t->attended = ATTENDED_MAX;
        t->wants = true;
        return;
    }
    struct live *moved = f->ending;
    while (moved && moved->state != TXN_COMMITTED) moved = moved->flight_next;
    if (moved)
        move_blamed(t, moved, e);
    else if (f->checks)
        check_blamed(t, f->checks, e);
    else
        txn_fail(t, e, "commit of state");
    t->attended = ATTENDED_MAX;
    t->wants = true;
}

/* Longer and longer: each try reads the bodies anew. */
static void hold(struct txn *t) {
    t->hold_for_ms = t->hold_for_ms == 0                ? HOLD_MS
                     : t->hold_for_ms * 2 > HOLD_MS_MAX ? HOLD_MS_MAX
                                                        : t->hold_for_ms * 2;
    t->hold_ms = t->now_ms + t->hold_for_ms;
}

static void refused(struct txn *t, struct flight *f, enum hf_err e) {
    undo(t, f);
    switch (e) {
    case HF_EAGAIN:
    case HF_ENOSPC:
    case HF_ENOMEM: hold(t); break;
    case HF_ENOTFOUND:
    case HF_ELIMIT: blame(t, f, e); break;
    default: txn_fail(t, e, "commit");
    }
}

/* ---- under way ---- */

static void release(struct txn *t, struct flight *f) {
    for (size_t i = 0; i < f->low_count; i++)
        if (hf_str_is(f->lows[i].topic, HF_TOPIC_TXN))
            t->inputs[f->lows[i].partition].released = f->lows[i].offset;
}

/* A failed commit undoes what was decided since, too. */
static void waiters_answer(struct txn *t, enum hf_err e) {
    for (struct waiter *w = t->waiters; w; w = w->next) {
        if (w->ready || (!w->covered && !e)) continue;
        w->ready = true;
        w->e = e;
    }
}

static void flown(void *arg, enum hf_err e) {
    struct txn *t = arg;
    struct flight *f = &t->flight;
    f->on = false;
    t->wants = true;
    waiters_answer(t, e);
    if (e == HF_EFENCED || e == HF_ECRASHED || e == HF_EIO || e == HF_ECLOSED) {
        txn_fail(t, e, "commit under way");
        return;
    }
    if (e) {
        txn_tell(t, "txn_commit_failed", "reason=\"%s\"", hf_err_text(e));
        txn_reload(t);
        return;
    }
    for (int32_t p = 0; p < t->input_count; p++) t->inputs[p].durable = f->applied[p];
    t->exception_stored = f->exceptions;
    t->stats.moved += f->moved;
    t->stats.moved_halves += f->moved_halves;
    t->stats.rejected += f->rejected;
    release(t, f);
    check_sent(t, f);
    for (struct live *x = f->ending, *next; x; x = next) {
        next = x->flight_next;
        live_free(t, x);
    }
}

/* The engine has it: what it carries is no longer waiting. */
static void started(struct txn *t, struct flight *f) {
    f->on = true;
    t->hold_for_ms = 0;
    f->exceptions = t->exception_next;
    t->asked = false;
    t->dirty_bytes = 0;
    if (t->attended > 0) t->attended--;
    txn_decided_forget(&t->decided, f->forgotten);
    for (struct waiter *w = t->waiters; w; w = w->next) w->covered = true;
    struct live *x, *next;
    DL_FOREACH_SAFE2(t->dirty, x, next, dirty_next) {
        if (!x->flying) x->stored = true;
        live_clean(t, x);
    }
    for (x = f->ending; x; x = x->flight_next) live_queue(t, x, QUEUE_NONE);
    for (x = f->checks; x; x = x->flight_next) live_queue(t, x, QUEUE_NONE);
    check_released(t);
}

void flush_start(struct txn *t) {
    struct flight *f = &t->flight;
    assert(!f->on);
    build(t, f);
    if (f->e) {
        refused(t, f, f->e);
        return;
    }
    struct engine_commit c = {.now_ms = t->now_ms,
                              .outs = f->outs,
                              .out_count = f->out_count,
                              .puts = f->puts,
                              .put_count = f->put_count,
                              .low_waters = f->lows,
                              .low_water_count = f->low_count};
    enum hf_err e = engine_commit(t->engine, &c, flown, t);
    if (e)
        refused(t, f, e);
    else
        started(t, f);
    hf_arena_fini(&f->arena);
}

bool flush_urgent(const struct txn *t) {
    if (t->moves || t->checks || t->asked || t->waiters) return true;
    if (t->exception_next > t->exception_stored || t->dirty_bytes >= DIRTY_BYTES_MAX) return true;
    if (!t->dirty) return false;
    return t->dirty_since_ms + LAZY_MS <= t->now_ms;
}

void flush_close(struct txn *t) {
    hf_arena_fini(&t->flight.arena);
    free(t->flight.outs);
    free(t->flight.puts);
    free(t->flight.lows);
}
