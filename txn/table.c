/* Transactions that are not finished, by (group, id), with their half messages, queues and timers.
 *
 * Half messages are references, 48 bytes each, in two lists: of their transaction, in the order of
 * acceptance, and of their partition, by offset. The head of a partition's list is what pins its log.
 *
 *     live "g/1042"   halves ──► h(0/17) ──► h(0/19)
 *     live "g/1043"   halves ──► h(0/18)
 *     input 0         first ──► h(0/17) ⇄ h(0/18) ⇄ h(0/19) ◄── last
 *
 * Timers: the wheel holds (slot, generation) and cannot cancel. Only the one inserted last for a transaction
 * counts, since each insertion makes a new generation. One that fires too early for what is planned by then
 * is inserted again; so a transaction that is prepared again and again costs one timer. Memory that runs out
 * in the wheel is made good by a walk over the table at the next step. */
#include "internal.h"

#include <assert.h>
#include <stdlib.h>

enum { NO_SLOT = UINT32_MAX };

/* ---- slots ---- */

static bool slot_take(struct txn *t, struct live *x) {
    if (t->slot_free == NO_SLOT) {
        if (t->slot_count == t->slot_room) {
            uint32_t room = t->slot_room ? t->slot_room * 2 : 64;
            struct slot *bigger = realloc(t->slots, room * sizeof *bigger);
            if (!bigger) return false;
            t->slots = bigger;
            t->slot_room = room;
        }
        t->slots[t->slot_count] = (struct slot){.next_free = NO_SLOT};
        t->slot_free = t->slot_count++;
    }
    x->slot = t->slot_free;
    struct slot *s = &t->slots[x->slot];
    t->slot_free = s->next_free;
    s->x = x;
    return true;
}

static void slot_give(struct txn *t, struct live *x) {
    struct slot *s = &t->slots[x->slot];
    s->x = NULL;
    s->generation++;
    s->next_free = t->slot_free;
    t->slot_free = x->slot;
}

/* ---- birth and end ---- */

static size_t make_key(char *to, hf_str group, hf_str id) {
    memcpy(to, group.p, group.n);
    to[group.n] = 0;
    memcpy(to + group.n + 1, id.p, id.n);
    return group.n + 1 + id.n;
}

struct live *live_find(struct txn *t, hf_str group, hf_str id) {
    char key[HF_TOPIC_NAME_MAX + 1 + HF_ID_MAX];
    if (group.n > HF_TOPIC_NAME_MAX || id.n > HF_ID_MAX) return NULL;
    struct live *x;
    size_t n = make_key(key, group, id);
    HASH_FIND(hh, t->table, key, n, x);
    return x;
}

struct live *live_new(struct txn *t, hf_str group, hf_str id, uint64_t sequence) {
    assert(group.n <= HF_TOPIC_NAME_MAX && id.n <= HF_ID_MAX);
    struct live *x = calloc(1, sizeof *x + group.n + 1 + id.n);
    if (!x) return NULL;
    x->group_n = (uint16_t)group.n;
    x->id_n = (uint16_t)id.n;
    size_t n = make_key(x->key, group, id);
    x->sequence = sequence;
    x->wake_ms = x->armed_ms = NEVER_MS;
    if (!slot_take(t, x)) goto fail;
    HASH_ADD_KEYPTR(hh, t->table, x->key, n, x);
    if (!x->hh.tbl) {
        slot_give(t, x);
        goto fail;
    }
    t->stats.by_state[TXN_NONE]++;
    return x;
fail:
    free(x);
    return NULL;
}

static void half_unlink(struct txn *t, struct half *h) {
    struct input *in = &t->inputs[h->partition];
    *(h->before ? &h->before->after : &in->first) = h->after;
    *(h->after ? &h->after->before : &in->last) = h->before;
}

void live_free(struct txn *t, struct live *x) {
    check_forget(t, x);
    live_queue(t, x, QUEUE_NONE);
    live_clean(t, x);
    for (struct half *h = x->halves, *next; h; h = next) {
        next = h->next;
        half_unlink(t, h);
        free(h);
    }
    t->bytes -= x->bytes;
    t->stats.by_state[x->state]--;
    HASH_DEL(t->table, x);
    slot_give(t, x);
    free(x);
}

void live_clear(struct txn *t) {
    struct live *x, *next;
    HASH_ITER (hh, t->table, x, next) live_free(t, x);
    wheel_clear(t->wheel);
    t->dirty_bytes = 0;
    assert(!t->table && t->bytes == 0 && !t->dirty && !t->moves && !t->checks);
}

/* Every change of a transaction's state passes here. */
void live_set_state(struct txn *t, struct live *x, enum txn_state next) {
    assert(!txn_state_decided(x->state) || next == x->state);
    t->stats.by_state[x->state]--;
    t->stats.by_state[next]++;
    x->state = next;
}

/* ---- halves ---- */

void half_link(struct txn *t, struct half *h) {
    struct input *in = &t->inputs[h->partition];
    assert(!in->last || in->last->offset < h->offset);
    h->before = in->last;
    h->after = NULL;
    *(in->last ? &in->last->after : &in->first) = h;
    in->last = h;
}

void live_add_half(struct txn *t, struct live *x, struct half *h) {
    h->next = NULL;
    *(x->last_half ? &x->last_half->next : &x->halves) = h;
    x->last_half = h;
    x->half_count++;
    x->bytes += h->bytes;
    t->bytes += h->bytes;
}

bool live_has_message(const struct live *x, uint64_t message) {
    if (!message) return false;
    for (const struct half *h = x->halves; h; h = h->next)
        if (h->message == message) return true;
    return false;
}

/* ---- lists ---- */

void live_dirty(struct txn *t, struct live *x) {
    if (x->dirty) return;
    if (!t->dirty) t->dirty_since_ms = t->now_ms;
    x->dirty = true;
    DL_APPEND2(t->dirty, x, dirty_prev, dirty_next);
    t->dirty_bytes += sizeof *x + x->id_n + (size_t)x->half_count * STORED_HALF;
}

void live_clean(struct txn *t, struct live *x) {
    if (!x->dirty) return;
    x->dirty = false;
    DL_DELETE2(t->dirty, x, dirty_prev, dirty_next);
}

void live_queue(struct txn *t, struct live *x, enum queue q) {
    if (x->queue == q) return;
    if (x->queue == QUEUE_MOVES) DL_DELETE2(t->moves, x, queue_prev, queue_next);
    if (x->queue == QUEUE_CHECKS) DL_DELETE2(t->checks, x, queue_prev, queue_next);
    x->queue = q;
    if (q == QUEUE_MOVES) DL_APPEND2(t->moves, x, queue_prev, queue_next);
    if (q == QUEUE_CHECKS) DL_APPEND2(t->checks, x, queue_prev, queue_next);
}

/* ---- timers ---- */

static void arm(struct txn *t, struct live *x) {
    struct slot *s = &t->slots[x->slot];
    uint64_t name = (uint64_t)++s->generation << 32 | x->slot;
    int64_t at = x->wake_ms < 0 ? 0 : x->wake_ms > WHEEL_TICK_MAX ? WHEEL_TICK_MAX : x->wake_ms;
    x->armed_ms = x->wake_ms;
    if (wheel_insert(t->wheel, at, name) == HF_OK) return;
    x->armed_ms = NEVER_MS; /* no memory for a timer */
    t->unarmed = true;
}

void live_wake_at(struct txn *t, struct live *x, int64_t at_ms) {
    x->wake_ms = at_ms;
    if (at_ms < x->armed_ms) arm(t, x);
}

/* Only after wheel_insert failed: every planned transaction gets its timer. */
static void arm_all(struct txn *t) {
    t->unarmed = false;
    struct live *x, *next;
    HASH_ITER (hh, t->table, x, next)
        if (x->wake_ms < x->armed_ms && !t->unarmed) arm(t, x);
}

static void fire(struct txn *t, const struct wheel_timer *timer, void (*due)(struct txn *t, struct live *x)) {
    uint32_t slot = (uint32_t)timer->payload;
    assert(slot < t->slot_count);
    struct live *x = t->slots[slot].x;
    if (!x || t->slots[slot].generation != (uint32_t)(timer->payload >> 32)) return;
    x->armed_ms = NEVER_MS;
    if (x->wake_ms > t->now_ms) {
        if (x->wake_ms != NEVER_MS) arm(t, x);
        return;
    }
    x->wake_ms = NEVER_MS;
    due(t, x);
}

void live_expire(struct txn *t, void (*due)(struct txn *t, struct live *x)) {
    struct wheel_timer timers[256];
    size_t n;
    if (t->unarmed) arm_all(t);
    do {
        n = wheel_expire(t->wheel, t->now_ms, timers, 256);
        for (size_t i = 0; i < n; i++) fire(t, &timers[i], due);
    } while (n == 256);
}
