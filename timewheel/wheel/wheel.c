/* The timing wheel.
 *
 * The problem: millions of timers, most far away, inserted and expired at a few tens of nanoseconds each and
 * at few bytes each. A binary heap touches log n cache lines for each (an order of magnitude slower at ten
 * million), and a list for each tick needs a link, an owner and a cache miss for each timer.
 *
 * The design is the hierarchical wheel of Varghese and Lauck ("Hashed and Hierarchical Timing Wheels", 1987,
 * scheme 7): a clock with seven hands. A tick is a number of seven digits in base 256; level L has a slot for
 * each value of digit L. A timer lies at the level of the highest digit in which its due tick differs from
 * the present, in the slot of its own digit there:
 *
 *     present   00.00.12.34.56.78.9a
 *     due       00.00.12.34.61.02.03      first difference at level 2: slot 0x61 of level 2
 *
 * When the present reaches a slot of level L > 0, its timers are placed again (a cascade): they now agree
 * with the present in digit L, so each goes to a lower level. A timer moves at most six times, and mostly as
 * often as its delay has digits: three times for a day of milliseconds.
 *
 * What others do. Linux (timer.c since 4.8) does not cascade: timers far away are rounded to the granularity
 * of their level, which makes them late by up to an eighth; we promise the millisecond. Kafka's purgatory
 * puts the buckets of such a wheel into a priority queue (DelayQueue) to skip empty ones, at a heap operation
 * for each bucket and an object with two links for each timer. Tokio's wheel has six levels of 64 slots with
 * a bit for each slot and intrusive lists: close to this one, but an intrusive list chases a pointer into a
 * cold line for each timer at each cascade.
 *
 * Here a slot is a queue of chunks: 512 bytes with the payloads in a row, and behind them as many bytes of
 * each due tick as the level leaves open. A cascade therefore streams through memory; a timer costs 8 bytes
 * at level 0 (the slot is its due tick), 12 at levels 1 to 4 (32 low bits), 16 above, plus an eight-byte link
 * for each chunk. Chunks come from a pool that grows by slabs; an emptied chunk goes back at once, so a
 * cascade needs no more memory than it frees but for one chunk in each target slot.
 *
 * The price: no removal from the middle. Owners mark what a payload names as dead, and drop it when it comes
 * out.
 *
 * Order. Equal due ticks come out in order of insertion: if a timer was inserted later than another with the
 * same due, the present was as late or later, so its level is the same or lower. If the same, it is queued
 * behind; if lower, the present has entered the slot of the first, which was cascaded at that moment. A
 * cascade keeps the order of the queue.
 *
 * Skipping. A level has a bit for each slot. The next event lies in the first slot of the lowest level that
 * has any, because a timer of a higher level differs from the present in a higher digit and so comes later.
 * An empty year is one look at 28 words.
 *
 * Invariants (wheel_check):
 *   W1  a timer at level L, slot s: due agrees with `present` above digit L, its digit L is s, and s is
 * greater than the present's digit L; or L = 0 and s is not smaller W2  a slot's bit is set if and only if it
 * has timers W3  count is the number of timers in all slots; every chunk is in one slot or in the pool W4
 * bytes <= max_bytes W5  there are as many chunks as the present timers can ever need (chunks_needed)
 *
 * Failure: only an insert takes memory, and one that gets none changes nothing. A cascade cannot fail,
 * because of W5: however timers lie, each slot has at most one chunk that is not full at its tail, the slot
 * being read one more at its head, and timers only move to levels whose chunks hold as many or more. */
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
    SLAB_CHUNKS = 128,
};

struct chunk {
    struct chunk *next;
    uint8_t data[CHUNK_DATA]; /* payloads, then due bytes */
};
_Static_assert(sizeof(struct chunk) == CHUNK_BYTES, "a chunk is eight cache lines");

struct slab {
    struct slab *next;
    struct chunk chunks[SLAB_CHUNKS];
};

struct slot {
    struct chunk *head, *tail; /* NULL: empty */
    uint32_t read;             /* timers taken from head */
    uint32_t fill;             /* timers put into tail */
};

struct wheel {
    int64_t present; /* every timer with an earlier due tick has come out */
    size_t count;
    size_t wide; /* of these, how many lie at levels with eight bytes of due tick */
    size_t max_bytes;
    size_t bytes;
    struct chunk *pool;
    size_t chunks;
    struct slab *slabs;
    uint64_t bits[LEVELS][WORDS];
    struct slot slots[LEVELS][SLOTS];
};

/* How a chunk is laid out at each level. */
static const struct layout {
    uint32_t capacity;
    uint32_t due_bytes;
} layouts[LEVELS] = {{63, 0}, {42, 4}, {42, 4}, {42, 4}, {42, 4}, {31, 8}, {31, 8}};

static bool is_wide(int level) {
    return layouts[level].due_bytes == 8;
}

enum { WIDE_CAPACITY = 31, NARROW_CAPACITY = 42 }; /* the least of each */

/* ---- pool ---- */

/* Chunks that `count` timers, `wide` of them wide, can occupy at most (W5). */
static size_t chunks_needed(size_t count, size_t wide) {
    size_t full = wide / WIDE_CAPACITY + (count - wide) / NARROW_CAPACITY;
    size_t slots = count < LEVELS * SLOTS ? count : LEVELS * SLOTS;
    return full + slots + 2;
}

static enum hf_err add_slab(struct wheel *w) {
    if (w->max_bytes && w->bytes + sizeof(struct slab) > w->max_bytes) return HF_ELIMIT;
    struct slab *s = malloc(sizeof *s);
    if (!s) return HF_ENOMEM;
    s->next = w->slabs;
    w->slabs = s;
    w->bytes += sizeof *s;
    for (int i = SLAB_CHUNKS - 1; i >= 0; i--) {
        s->chunks[i].next = w->pool;
        w->pool = &s->chunks[i];
    }
    w->chunks += SLAB_CHUNKS;
    return HF_OK;
}

static struct chunk *take_chunk(struct wheel *w) {
    struct chunk *c = w->pool;
    assert(c);
    w->pool = c->next;
    c->next = NULL;
    return c;
}

static void give_chunk(struct wheel *w, struct chunk *c) {
    c->next = w->pool;
    w->pool = c;
}

/* ---- bits ---- */

static void set_bit(struct wheel *w, int level, uint32_t slot) {
    w->bits[level][slot / 64] |= UINT64_C(1) << (slot % 64);
}

static void clear_bit(struct wheel *w, int level, uint32_t slot) {
    w->bits[level][slot / 64] &= ~(UINT64_C(1) << (slot % 64));
}

/* The first slot with timers, or -1. By W1 none lies before the present's digit. */
static int first_slot(const struct wheel *w, int level) {
    for (int i = 0; i < WORDS; i++)
        if (w->bits[level][i]) return i * 64 + __builtin_ctzll(w->bits[level][i]);
    return -1;
}

/* ---- slots ---- */

static int level_of(int64_t due, int64_t present) {
    uint64_t difference = (uint64_t)(due ^ present);
    return difference ? (63 - __builtin_clzll(difference)) / DIGIT : 0;
}

static uint32_t digit_of(int64_t tick, int level) {
    return (uint32_t)((uint64_t)tick >> (level * DIGIT)) & (SLOTS - 1);
}

/* The first tick of a slot, given that the present agrees with it above. */
static int64_t slot_start(const struct wheel *w, int level, uint32_t slot) {
    int shift = level * DIGIT;
    int64_t above = w->present >> shift >> DIGIT << DIGIT << shift;
    return above | (int64_t)slot << shift;
}

/* Queues a timer; if the slot needs a chunk, the pool has one (W5). */
static void put(struct wheel *w, int64_t due, uint64_t payload) {
    int level = level_of(due, w->present);
    uint32_t digit = digit_of(due, level);
    struct slot *s = &w->slots[level][digit];
    const struct layout *l = &layouts[level];
    if (!s->tail || s->fill == l->capacity) {
        struct chunk *c = take_chunk(w);
        if (s->tail) {
            s->tail->next = c;
        } else {
            s->head = c;
            s->read = 0;
            set_bit(w, level, digit);
        }
        s->tail = c;
        s->fill = 0;
    }
    w->wide += is_wide(level);
    uint8_t *data = s->tail->data;
    memcpy(data + s->fill * 8, &payload, 8);
    uint8_t *due_at = data + l->capacity * 8 + s->fill * l->due_bytes;
    if (l->due_bytes == 4) {
        uint32_t low = (uint32_t)due;
        memcpy(due_at, &low, 4);
    } else if (l->due_bytes == 8) {
        memcpy(due_at, &due, 8);
    }
    s->fill++;
}

/* Timer i of a chunk; start is the slot's first tick. */
static struct wheel_timer timer_at(const struct chunk *c, uint32_t i, int level, int64_t start) {
    const struct layout *l = &layouts[level];
    struct wheel_timer t = {.due = start};
    memcpy(&t.payload, c->data + i * 8, 8);
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

static uint32_t chunk_end(const struct slot *s, const struct chunk *c, int level) {
    return c == s->tail ? s->fill : layouts[level].capacity;
}

/* The present moves to the slot's first tick; its timers go to lower levels. */
static void cascade(struct wheel *w, int level, uint32_t digit) {
    int64_t start = slot_start(w, level, digit);
    struct slot whole = w->slots[level][digit];
    w->slots[level][digit] = (struct slot){0};
    clear_bit(w, level, digit);
    w->present = start;
    for (struct chunk *c = whole.head, *next; c; c = next) {
        next = c->next;
        uint32_t end = chunk_end(&whole, c, level);
        if (is_wide(level)) w->wide -= end;
        for (uint32_t i = 0; i < end; i++) { /* only slots of level 0 are ever read in part */
            struct wheel_timer t = timer_at(c, i, level, start);
            put(w, t.due, t.payload);
        }
        give_chunk(w, c);
    }
}

/* Takes timers of the present tick. */
static size_t drain(struct wheel *w, struct wheel_timer *out, size_t max) {
    uint32_t digit = digit_of(w->present, 0);
    struct slot *s = &w->slots[0][digit];
    size_t n = 0;
    while (s->head && n < max) {
        uint32_t end = chunk_end(s, s->head, 0);
        while (s->read < end && n < max) out[n++] = timer_at(s->head, s->read++, 0, w->present);
        if (s->read < end) break;
        struct chunk *spent = s->head;
        s->head = spent->next;
        s->read = 0;
        give_chunk(w, spent);
        if (s->head) continue;
        *s = (struct slot){0};
        clear_bit(w, 0, digit);
    }
    w->count -= n;
    return n;
}

/* ---- public ---- */

enum hf_err wheel_open(const struct wheel_options *options, struct wheel **out) {
    if (options->start < 0 || options->start > WHEEL_TICK_MAX) return HF_ERANGE;
    struct wheel *w = calloc(1, sizeof *w);
    if (!w) return HF_ENOMEM;
    w->present = options->start;
    w->max_bytes = options->max_bytes;
    w->bytes = sizeof *w;
    *out = w;
    return HF_OK;
}

void wheel_clear(struct wheel *w) {
    while (w->slabs) {
        struct slab *s = w->slabs;
        w->slabs = s->next;
        free(s);
    }
    memset(w->bits, 0, sizeof w->bits);
    memset(w->slots, 0, sizeof w->slots);
    w->pool = NULL;
    w->chunks = w->count = w->wide = 0;
    w->bytes = sizeof *w;
}

void wheel_close(struct wheel *w) {
    if (!w) return;
    wheel_clear(w);
    free(w);
}

enum hf_err wheel_insert(struct wheel *w, int64_t due, uint64_t payload) {
    if (due > WHEEL_TICK_MAX) return HF_ERANGE;
    if (due < w->present) due = w->present;
    size_t needed = chunks_needed(w->count + 1, w->wide + is_wide(level_of(due, w->present)));
    while (w->chunks < needed) {
        enum hf_err e = add_slab(w);
        if (e) return e;
    }
    put(w, due, payload);
    w->count++;
    return HF_OK;
}

/* The level of the next event and its slot; -1 when the wheel is empty. */
static int next_level(const struct wheel *w, uint32_t *slot) {
    if (w->count == 0) return -1;
    for (int level = 0; level < LEVELS; level++) {
        int first = first_slot(w, level);
        if (first < 0) continue;
        *slot = (uint32_t)first;
        return level;
    }
    return -1;
}

size_t wheel_expire(struct wheel *w, int64_t now, struct wheel_timer *out, size_t max) {
    if (now > WHEEL_TICK_MAX) now = WHEEL_TICK_MAX;
    if (now < w->present) now = w->present;
    size_t n = 0;
    while (n < max) {
        uint32_t slot = 0;
        int level = next_level(w, &slot);
        int64_t at = level < 0 ? WHEEL_NEVER : slot_start(w, level, slot);
        if (at > now) {
            w->present =
                now; /* no digit that a timer's place depends on changes: now lies before all slots */
            break;
        }
        if (level > 0) {
            cascade(w, level, slot);
        } else {
            w->present = at;
            n += drain(w, out + n, max - n);
        }
    }
    return n;
}

int64_t wheel_next(const struct wheel *w) {
    uint32_t slot = 0;
    int level = next_level(w, &slot);
    return level < 0 ? WHEEL_NEVER : slot_start(w, level, slot);
}

size_t wheel_count(const struct wheel *w) {
    return w->count;
}

size_t wheel_bytes(const struct wheel *w) {
    return w->bytes;
}

/* ---- invariants ---- */

static size_t check_slot(const struct wheel *w, int level, uint32_t digit, size_t *chunks) {
    const struct slot *s = &w->slots[level][digit];
    bool bit = w->bits[level][digit / 64] >> (digit % 64) & 1;
    assert(bit == (s->head != NULL)); /* W2 */
    if (!s->head) return 0;
    size_t n = 0;
    int64_t start = slot_start(w, level, digit);
    assert(digit > digit_of(w->present, level) || (level == 0 && digit == digit_of(w->present, 0)));
    for (const struct chunk *c = s->head; c; c = c->next) {
        ++*chunks;
        uint32_t end = chunk_end(s, c, level);
        for (uint32_t i = c == s->head ? s->read : 0; i < end; i++, n++) {
            struct wheel_timer t = timer_at(c, i, level, start);
            assert(t.due >= w->present && level_of(t.due, w->present) == level); /* W1 */
            assert(digit_of(t.due, level) == digit);
        }
    }
    assert(n > 0);
    return n;
}

void wheel_check(const struct wheel *w) {
    size_t n = 0, wide = 0, chunks = 0, slabs = 0, pooled = 0;
    for (int level = 0; level < LEVELS; level++)
        for (uint32_t digit = 0; digit < SLOTS; digit++) {
            size_t in_slot = check_slot(w, level, digit, &chunks);
            n += in_slot;
            if (is_wide(level)) wide += in_slot;
        }
    for (const struct slab *s = w->slabs; s; s = s->next) slabs++;
    for (const struct chunk *c = w->pool; c; c = c->next) pooled++;
    assert(n == w->count && wide == w->wide); /* W3 */
    assert(chunks + pooled == w->chunks && w->chunks == slabs * SLAB_CHUNKS);
    assert(w->bytes == sizeof *w + slabs * sizeof(struct slab));
    assert(!w->max_bytes || w->bytes <= w->max_bytes || !w->slabs);         /* W4 */
    assert(w->count == 0 || w->chunks >= chunks_needed(w->count, w->wide)); /* W5 */
}
