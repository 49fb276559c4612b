/* What wheel.c and sweep.c share: the layout of a wheel. The story is told in wheel.c. */
#ifndef TIMEWHEEL_WHEEL_WHEEL_INTERNAL_H
#define TIMEWHEEL_WHEEL_WHEEL_INTERNAL_H

#include "wheel.h"

#include <assert.h>
#include <stdlib.h>

enum {
    LEVELS = 7,
    DIGIT = 8,
    SLOTS = 1 << DIGIT,
    WORDS = SLOTS / 64,
    CHUNK_BYTES = 512,
    CHUNK_DATA = CHUNK_BYTES - 8,
    SLAB_BYTES = 64 << 10,
    SLAB_CHUNKS = SLAB_BYTES / CHUNK_BYTES - 1,
    SORT_MAX = 16384,
};

struct chunk {
    struct chunk *next;
    uint8_t data[CHUNK_DATA]; /* payloads, then due bytes */
};
_Static_assert(sizeof(struct chunk) == CHUNK_BYTES, "a chunk is eight cache lines");

struct slab { /* aligned to its size, so that a chunk finds it */
    struct slab *next;
    uint32_t used; /* chunks not in the pool; counted by a sweep alone */
    bool keep;
    _Alignas(CHUNK_BYTES) struct chunk chunks[SLAB_CHUNKS];
};
_Static_assert(sizeof(struct slab) == SLAB_BYTES, "a slab is as large as its alignment");

struct slot {
    struct chunk *head, *tail; /* NULL: empty */
    uint32_t read;             /* timers taken from head */
    uint32_t fill;             /* timers put into tail */
    size_t count;
};

struct sorted { /* what is left of a slot that was sorted when the present entered it: a part of the stack */
    size_t at, end;
};

struct wheel {
    int64_t present; /* every timer with an earlier due tick has come out */
    size_t count;
    size_t wide; /* of these, how many lie at levels with eight bytes of due tick */
    size_t max_bytes;
    size_t bytes;
    struct chunk *pool;
    size_t chunks;
    size_t sure; /* so many inserts need no look at the pool */
    struct slab *slabs;
    struct wheel_timer *stack; /* sort_max timers, and as much scratch for sorting */
    size_t sort_max;
    size_t top;                 /* of the stack */
    struct sorted runs[LEVELS]; /* of each level's slot that the present is in */
    uint32_t sorted;            /* a bit for each level with a run that is not empty */
    uint32_t queued;            /* a bit for each level with a slot that has timers */
    uint64_t bits[LEVELS][WORDS];
    struct slot slots[LEVELS][SLOTS];
};

/* How a chunk is laid out at each level. */
static const struct layout {
    uint32_t capacity;
    uint32_t due_bytes;
} layouts[LEVELS] = {{63, 0}, {42, 4}, {42, 4}, {42, 4}, {42, 4}, {31, 8}, {31, 8}};

enum { WIDE_CAPACITY = 31, NARROW_CAPACITY = 42 }; /* the least of each */

static inline bool is_wide(int level) {
    return layouts[level].due_bytes == 8;
}

/* Chunks that `count` timers, `wide` of them wide, can occupy at most (W5). */
static inline size_t chunks_needed(size_t count, size_t wide) {
    size_t full = wide / WIDE_CAPACITY + (count - wide) / NARROW_CAPACITY;
    size_t slots = count < LEVELS * SLOTS ? count : LEVELS * SLOTS;
    return full + slots + 2;
}

static inline struct chunk *take_chunk(struct wheel *w) {
    struct chunk *c = w->pool;
    assert(c);
    w->pool = c->next;
    c->next = NULL;
    return c;
}

static inline void give_chunk(struct wheel *w, struct chunk *c) {
    c->next = w->pool;
    w->pool = c;
}

void end_run(struct wheel *w, int level); /* it is empty */

static inline struct slab *slab_of(const struct chunk *c) {
    return (struct slab *)((uintptr_t)c & ~(uintptr_t)(SLAB_BYTES - 1));
}

static inline void set_bit(struct wheel *w, int level, uint32_t slot) {
    w->bits[level][slot / 64] |= UINT64_C(1) << (slot % 64);
    w->queued |= 1u << level;
}

static inline void clear_bit(struct wheel *w, int level, uint32_t slot) {
    uint64_t *bits = w->bits[level];
    bits[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
    uint64_t any = 0;
    for (int i = 0; i < WORDS; i++) any |= bits[i];
    if (!any) w->queued &= ~(1u << level);
}

static inline int level_of(int64_t due, int64_t present) {
    uint64_t difference = (uint64_t)(due ^ present);
    return difference ? (63 - __builtin_clzll(difference)) / DIGIT : 0;
}

static inline uint32_t digit_of(int64_t tick, int level) {
    return (uint32_t)((uint64_t)tick >> (level * DIGIT)) & (SLOTS - 1);
}

/* The first tick of a slot, given that the present agrees with it above. */
static inline int64_t slot_start(const struct wheel *w, int level, uint32_t slot) {
    int shift = level * DIGIT;
    int64_t above = w->present >> shift >> DIGIT << DIGIT << shift;
    return above | (int64_t)slot << shift;
}

static inline uint32_t chunk_end(const struct slot *s, const struct chunk *c, int level) {
    return c == s->tail ? s->fill : layouts[level].capacity;
}

static inline uint64_t payload_at(const struct chunk *c, uint32_t i) {
    uint64_t payload;
    memcpy(&payload, c->data + i * 8, 8);
    return payload;
}

/* Timer i of a chunk; start is the slot's first tick. */
static inline struct wheel_timer timer_at(const struct chunk *c, uint32_t i, int level, int64_t start) {
    const struct layout *l = &layouts[level];
    struct wheel_timer t = {.due = start, .payload = payload_at(c, i)};
    const uint8_t *due_at = c->data + l->capacity * 8 + i * l->due_bytes;
    if (l->due_bytes == 4) {
        uint32_t low;
        memcpy(&low, due_at, 4);
        t.due = (start & ~(int64_t)UINT32_MAX) | low;
    } else if (l->due_bytes == 8) {
        memcpy(&t.due, due_at, 8);
    }
    return t;
}

static inline void prefetch_chunk(const struct chunk *c) {
    for (size_t i = 0; c && i < sizeof *c; i += 64) __builtin_prefetch((const char *)c + i);
}

#endif
