/* The problem: many messages at once, yet one at a time for a key, yet a committed offset that never passes
 * an unsettled message.
 *
 *     partition   unsettled: 17 ─ 19 ─ 20 ─ 24        settled: 18, 21, 22, 23 (they are just not in the list)
 *     lanes       key a: 17 ─ 20      key b: 19 ─ 24  the head is ready, runs or waits; the rest is blocked
 *     ready       19                                  the heads that may run, first come first served
 *     wheel       17                                  the heads that wait
 *
 *                 add, head of lane                core_start
 *     (fetched) ─────────────────────▶ READY ──────────────────▶ RUNNING ──── core_settle ───▶ (the caller's)
 *         │                            ▲  ▲                       │  │
 *         │ add, not head              │  └──── core_wake ──── WAITING ◀── core_wait
 *         └─────────▶ BLOCKED ─────────┘                             │
 *                            the head was settled                    └ core_forget ▶ ORPHAN ─ settle, wait ▶
 *
 * Order by key uses one lane for each key, by partition one lane in all; without order, and for messages
 * without a key, there is no lane and nothing blocks.
 *
 * A waiting message is named on the wheel by slot and generation, not by its address, so that a partition
 * that goes away takes its messages along at once and the timer finds an empty slot.
 *
 * Invariants (core_check):
 *   1. a partition's list is ascending in offsets, and all are below `next`;
 *   2. in a lane all but the head are BLOCKED, and the head is not;
 *   3. a READY message is on the ready list, a WAITING one in its slot, others are in neither;
 *   4. the position that is committed is the first unsettled offset, or `next`: nothing unsettled is below;
 *   5. running counts RUNNING and ORPHAN messages. */
#include "core.h"

#include "timewheel/wheel/wheel.h"

#include <assert.h>
#include <stdlib.h>

#define HASH_NONFATAL_OOM          1
#define uthash_nonfatal_oom(added) (out_of_memory = true)
#include <uthash.h>
#include <utlist.h>

struct core_lane {
    struct core_message *head; /* DL list by lane_prev, lane_next */
    UT_hash_handle hh;
    size_t n;
    char key[]; /* a copy: the message whose key it was may be gone */
};

struct core_part {
    struct core_part *prev, *next_part;
    struct core_message *unsettled; /* DL list, ascending */
    struct core_lane *lanes;        /* by key */
    struct core_lane *only;         /* ORDER_PARTITION */
    struct marks known;             /* what the last owner told; of use until `next` has passed it */
    int64_t next;                   /* the next offset to be fetched; -1: not known */
    int32_t held, running, buffer;
    bool full, marks_full, draining, dirty, paused;
    int32_t number;
    char topic[];
};

struct slot {
    struct core_message *message; /* NULL: free */
    uint32_t generation;
    uint32_t free_next; /* of a free one: the next free one plus 1 */
};

struct core {
    struct core_options options;
    struct policy policy;
    struct core_part *parts;
    struct core_message *ready; /* DL list by ready_prev, ready_next */
    struct wheel *wheel;
    struct slot *slot;
    uint32_t slot_count, slot_room, slot_free; /* slot_free: first free one plus 1 */
    int32_t running;
};

/* ---- opening ---- */

enum hf_err core_open(const struct core_options *options, int64_t now_ms, struct core **out) {
    struct core *c = calloc(1, sizeof *c);
    if (!c) return HF_ENOMEM;
    c->options = *options;
    policy_init(&c->policy, &options->policy);
    enum hf_err e = wheel_open(&(struct wheel_options){.start = now_ms}, &c->wheel);
    if (e) {
        free(c);
        return e;
    }
    *out = c;
    return HF_OK;
}

static void no_drop(struct core_message *m, void *arg) {
    (void)m;
    (void)arg;
    abort(); /* core_close promises that nothing is held */
}

void core_close(struct core *c) {
    if (!c) return;
    assert(!c->ready && c->running == 0);
    while (c->parts) core_forget(c, c->parts, no_drop, NULL);
    wheel_close(c->wheel);
    free(c->slot);
    free(c);
}

enum hf_err core_assign(struct core *c, const char *topic, int32_t partition, int64_t position,
                        const char *metadata, size_t n, struct core_part **out) {
    size_t name = strlen(topic) + 1;
    struct core_part *p = calloc(1, sizeof *p + name);
    if (!p) return HF_ENOMEM;
    if (c->options.order == CORE_ORDER_PARTITION && !(p->only = calloc(1, sizeof *p->only))) {
        free(p);
        return HF_ENOMEM;
    }
    memcpy(p->topic, topic, name);
    p->number = partition;
    p->buffer = c->options.buffer;
    p->next = position;
    if (marks_parse(&p->known, position, metadata, n) == HF_ENOMEM) {
        free(p->only);
        free(p);
        return HF_ENOMEM;
    }
    DL_APPEND2(c->parts, p, prev, next_part);
    *out = p;
    return HF_OK;
}

struct core_part *core_find(struct core *c, const char *topic, int32_t partition) {
    struct core_part *p;
    DL_FOREACH2(c->parts, p, next_part) {
        if (p->number == partition && strcmp(p->topic, topic) == 0) return p;
    }
    return NULL;
}

struct core_part *core_first(struct core *c) {
    return c->parts;
}
struct core_part *core_next_part(struct core_part *p) {
    return p->next_part;
}
const char *core_part_topic(const struct core_part *p) {
    return p->topic;
}
int32_t core_part_number(const struct core_part *p) {
    return p->number;
}
struct policy *core_policy(struct core *c) {
    return &c->policy;
}
int32_t core_running(const struct core *c) {
    return c->running;
}
int32_t core_part_running(const struct core_part *p) {
    return p->running;
}

int64_t core_held(const struct core *c) {
    int64_t n = 0;
    const struct core_part *p;
    DL_FOREACH2(c->parts, p, next_part) n += p->held;
    return n;
}

/* ---- lanes ---- */

static void make_ready(struct core *c, struct core_message *m) {
    m->state = CORE_READY;
    DL_APPEND2(c->ready, m, ready_prev, ready_next);
}

/* HF_ENOMEM; *out NULL: this message has no order. */
static enum hf_err lane_of(struct core *c, struct core_part *p, const struct core_message *m,
                           struct core_lane **out) {
    *out = p->only;
    if (c->options.order != CORE_ORDER_KEY || !m->key.p) return HF_OK;
    struct core_lane *lane;
    HASH_FIND(hh, p->lanes, m->key.p, m->key.n, lane);
    if (!lane) {
        bool out_of_memory = false;
        lane = calloc(1, sizeof *lane + m->key.n);
        if (!lane) return HF_ENOMEM;
        lane->n = m->key.n;
        if (m->key.n) memcpy(lane->key, m->key.p, m->key.n);
        HASH_ADD_KEYPTR(hh, p->lanes, lane->key, lane->n, lane);
        if (out_of_memory) {
            free(lane);
            return HF_ENOMEM;
        }
    }
    *out = lane;
    return HF_OK;
}

/* Takes m out of its lane; whoever comes to its head becomes ready. */
static void leave_lane(struct core *c, struct core_part *p, struct core_message *m) {
    struct core_lane *lane = m->lane;
    if (!lane) return;
    bool was_head = lane->head == m;
    DL_DELETE2(lane->head, m, lane_prev, lane_next);
    m->lane = NULL;
    if (lane->head) {
        if (was_head && !p->draining) make_ready(c, lane->head);
    } else if (lane != p->only) {
        HASH_DEL(p->lanes, lane);
        free(lane);
    }
}

bool core_behind(const struct core_part *p, int64_t offset) {
    return offset < p->next;
}

bool core_wanted(struct core_part *p, int64_t offset) {
    assert(offset >= p->next);
    p->next = offset + 1;
    p->dirty = true;
    return !marks_settled(&p->known, offset);
}

void core_not_taken(struct core_part *p, int64_t offset) {
    assert(p->next == offset + 1 && (!p->unsettled || p->unsettled->prev->offset < offset));
    p->next = offset;
}

enum hf_err core_add(struct core *c, struct core_part *p, struct core_message *m) {
    assert(!p->unsettled || p->unsettled->prev->offset < m->offset);
    enum hf_err e = lane_of(c, p, m, &m->lane);
    if (e) return e;
    const struct mark *tried = marks_tried(&p->known, m->offset);
    if (tried && tried->attempts > m->attempts) m->attempts = tried->attempts;
    if (tried) m->first_failed_s = tried->first_failed_s;
    m->part = p;
    m->probe = false;
    DL_APPEND2(p->unsettled, m, prev, next);
    p->held++;
    m->state = CORE_BLOCKED;
    if (m->lane) DL_APPEND2(m->lane->head, m, lane_prev, lane_next);
    if ((!m->lane || m->lane->head == m) && !p->draining) make_ready(c, m);
    return HF_OK;
}

bool core_full(struct core_part *p) {
    if (p->held >= p->buffer || p->marks_full)
        p->full = true;
    else if (p->held <= p->buffer / 2)
        p->full = false;
    return p->full;
}

bool core_paused(const struct core_part *p) {
    return p->paused;
}
void core_set_paused(struct core_part *p, bool paused) {
    p->paused = paused;
}

/* ---- running ---- */

struct core_message *core_start(struct core *c, int64_t now_ms) {
    bool probe;
    if (!c->ready || !policy_may_start(&c->policy, c->running, now_ms, &probe)) return NULL;
    struct core_message *m = c->ready;
    DL_DELETE2(c->ready, m, ready_prev, ready_next);
    m->state = CORE_RUNNING;
    m->probe = probe;
    c->running++;
    m->part->running++;
    return m;
}

static void stop_running(struct core *c, struct core_message *m) {
    assert(m->state == CORE_RUNNING || m->state == CORE_ORPHAN);
    c->running--;
    if (m->state != CORE_RUNNING) return;
    m->part->running--;
    m->part->dirty = true;
}

static void remove_message(struct core *c, struct core_message *m) {
    struct core_part *p = m->part;
    leave_lane(c, p, m);
    DL_DELETE2(p->unsettled, m, prev, next);
    p->held--;
    m->part = NULL;
}

void core_settle(struct core *c, struct core_message *m) {
    stop_running(c, m);
    if (m->state == CORE_RUNNING) remove_message(c, m);
}

/* ---- waiting ---- */

static bool take_slot(struct core *c, struct core_message *m) {
    if (!c->slot_free && c->slot_count == c->slot_room) {
        uint32_t room = c->slot_room ? c->slot_room * 2 : 64;
        struct slot *grown = realloc(c->slot, room * sizeof *grown);
        if (!grown) return false;
        c->slot = grown;
        c->slot_room = room;
    }
    uint32_t i = c->slot_free ? c->slot_free - 1 : c->slot_count++;
    if (c->slot_free)
        c->slot_free = c->slot[i].free_next;
    else
        c->slot[i].generation = 0;
    c->slot[i].message = m;
    m->slot = i;
    return true;
}

static void free_slot(struct core *c, uint32_t i) {
    c->slot[i].message = NULL;
    c->slot[i].generation++;
    c->slot[i].free_next = c->slot_free;
    c->slot_free = i + 1;
}

bool core_wait(struct core *c, struct core_message *m, int64_t until_ms) {
    stop_running(c, m);
    if (m->state == CORE_ORPHAN) return true;
    if (m->part->draining) {
        m->state = CORE_BLOCKED;
        return false;
    }
    m->state = CORE_WAITING;
    if (take_slot(c, m)) {
        uint64_t name = (uint64_t)c->slot[m->slot].generation << 32 | m->slot;
        if (until_ms > WHEEL_TICK_MAX) until_ms = WHEEL_TICK_MAX;
        if (wheel_insert(c->wheel, until_ms, name) == HF_OK) return false;
        free_slot(c, m->slot);
    }
    make_ready(c, m);
    return false;
}

void core_wake(struct core *c, int64_t now_ms) {
    struct wheel_timer due[64];
    size_t n;
    do {
        n = wheel_expire(c->wheel, now_ms, due, 64);
        for (size_t i = 0; i < n; i++) {
            uint32_t s = (uint32_t)due[i].payload;
            struct core_message *m = c->slot[s].message;
            if (!m || c->slot[s].generation != (uint32_t)(due[i].payload >> 32)) continue;
            free_slot(c, s);
            make_ready(c, m);
        }
    } while (n == 64);
}

int64_t core_next(const struct core *c) {
    int64_t wheel = wheel_next(c->wheel);
    bool room = c->running < c->options.policy.concurrency;
    int64_t policy = c->ready && room ? policy_next(&c->policy) : INT64_MAX;
    if (wheel == WHEEL_NEVER) wheel = INT64_MAX;
    return wheel < policy ? wheel : policy;
}

/* ---- giving a partition up ---- */

void core_drain(struct core *c, struct core_part *p) {
    p->draining = true;
    struct core_message *m;
    DL_FOREACH (p->unsettled, m) {
        if (m->state == CORE_READY) DL_DELETE2(c->ready, m, ready_prev, ready_next);
        if (m->state == CORE_WAITING) free_slot(c, m->slot);
        if (m->state != CORE_RUNNING) m->state = CORE_BLOCKED;
    }
}

void core_each_running(struct core_part *p, void (*each)(struct core_message *m, void *arg), void *arg) {
    struct core_message *m;
    DL_FOREACH (p->unsettled, m) {
        if (m->state == CORE_RUNNING) each(m, arg);
    }
}

void core_forget(struct core *c, struct core_part *p, core_drop *drop, void *arg) {
    core_drain(c, p);
    struct core_message *m, *after;
    DL_FOREACH_SAFE(p->unsettled, m, after) {
        DL_DELETE(p->unsettled, m);
        m->lane = NULL;
        m->part = NULL;
        if (m->state == CORE_RUNNING)
            m->state = CORE_ORPHAN;
        else
            drop(m, arg);
    }
    struct core_lane *lane, *following;
    HASH_ITER (hh, p->lanes, lane, following) {
        HASH_DEL(p->lanes, lane);
        free(lane);
    }
    free(p->only);
    marks_fini(&p->known);
    DL_DELETE2(c->parts, p, prev, next_part);
    free(p);
}

/* ---- committing ---- */

bool core_dirty(const struct core_part *p) {
    return p->dirty && p->next >= 0;
}

void core_touch(struct core_part *p) {
    p->dirty = true;
}

/* The marks of the last owner that were not fetched again yet. Returns where knowledge ends. */
static int64_t tell_known(const struct core_part *p, struct marks_writer *w) {
    for (size_t i = 0; i < p->known.count; i++) {
        const struct mark *k = &p->known.mark[i];
        int64_t from = k->from > p->next ? k->from : p->next;
        for (int64_t o = from; o < k->from + k->n && !w->full; o++)
            marks_add(w, o, k->attempts, k->first_failed_s);
    }
    return p->known.next > p->next ? p->known.next : p->next;
}

bool core_position(struct core_part *p, int64_t *offset, char text[MARKS_TEXT_SIZE]) {
    if (p->next < 0) return false;
    int64_t position = p->unsettled ? p->unsettled->offset : p->next;
    struct marks_writer w;
    marks_begin(&w, position);
    struct core_message *m;
    DL_FOREACH (p->unsettled, m) marks_add(&w, m->offset, m->attempts, m->first_failed_s);
    int64_t end = tell_known(p, &w);
    p->marks_full = !marks_end(&w, end, text);
    *offset = position;
    p->dirty = false;
    return true;
}

/* ---- invariants ---- */

static void check_part(const struct core_part *p, int32_t *running, int64_t *ready) {
    int32_t held = 0, part_running = 0;
    const struct core_message *m;
    DL_FOREACH (p->unsettled, m) {
        assert(m->part == p && m->offset < p->next);                /* 1 */
        assert(!m->next || m->offset < m->next->offset);            /* 1 */
        bool head = !m->lane || m->lane->head == m;                 /* 2 */
        assert(p->draining || (m->state == CORE_BLOCKED) == !head); /* 2 */
        assert(m->state != CORE_ORPHAN);
        held++;
        part_running += m->state == CORE_RUNNING;
        *ready += m->state == CORE_READY;
    }
    assert(held == p->held && part_running == p->running);
    *running += part_running;
}

void core_check(const struct core *c) {
    int32_t running = 0;
    int64_t ready = 0, listed = 0, slots = 0;
    const struct core_part *p;
    DL_FOREACH2(c->parts, p, next_part) check_part(p, &running, &ready);
    const struct core_message *m;
    DL_FOREACH2(c->ready, m, ready_next) {
        assert(m->state == CORE_READY); /* 3 */
        listed++;
    }
    assert(listed == ready); /* 3 */
    for (uint32_t i = 0; i < c->slot_count; i++) {
        m = c->slot[i].message;
        assert(!m || (m->state == CORE_WAITING && m->slot == i)); /* 3 */
        slots += m != NULL;
    }
    assert(slots <= (int64_t)wheel_count(c->wheel));
    assert(running <= c->running); /* 5: the rest are orphans */
    policy_check(&c->policy);
}
