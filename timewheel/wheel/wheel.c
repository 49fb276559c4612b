/* The timing wheel.
 *
 * The problem: millions of timers, most far away, inserted and expired at a few tens of nanoseconds each and
 * at few bytes each. docs/timewheel.md compares the layouts that were measured; bench/wheel measures them.
 *
 * The design is the hierarchical wheel of Varghese and Lauck ("Hashed and Hierarchical Timing Wheels", 1987,
 * scheme 7): a clock with seven hands. A tick is a number of seven digits in base 256; level L has a slot for
 * each value of digit L. A timer lies at the level of the highest digit in which its due tick differs from
 * the present, in the slot of its own digit there:
 *
 *     present   00.00.12.34.56.78.9a
 *     due       00.00.12.34.61.02.03      first difference at level 2: slot 0x61 of level 2
 *
 * A slot is a queue of chunks: 512 bytes with the payloads in a row, and behind them as many bytes of each
 * due tick as the level leaves open: a timer costs 8 bytes at level 0 (the slot is its due tick), 12 at
 * levels 1 to 4 (32 low bits), 16 above, plus an eight-byte link for each chunk. Chunks come from a pool that
 * grows by slabs; an emptied chunk goes back at once.
 *
 * When the present enters a slot of level L > 0, its timers go one of two ways.
 *
 *     many    they are placed again (a cascade): they now agree with the present in digit L, so each goes to
 *             a lower level. This streams through memory, some ten nanoseconds a timer and level.
 *     few     (they fit on the stack, a few hundred KiB) they are sorted at once, by radix, and come out from
 *             there: the levels below are skipped. Ten million timers over a day are placed twice and sorted
 *             once instead of being placed four times, and never lie alone in a chunk each.
 *
 * So at each level at most one slot, the one the present is in, has a sorted run; what is inserted meanwhile
 * into the same stretch of time lies in slots of lower levels, and the earliest of all runs and slots is
 * next.
 *
 * The price: no removal from the middle. Owners mark what a payload names as dead, drop it when it comes out,
 * and may have all the dead swept out at once when they have become many (sweep.c).
 *
 * Order. Equal due ticks come out in order of insertion: if a timer was inserted later than another with the
 * same due, the present was as late or later, so its level is the same or lower. If the same, it is queued
 * behind. If lower, the present has entered the slot of the first, which was then sorted or cascaded: sorted
 * ones (of the highest level first) come before what lies in slots, cascaded ones are in front of their
 * queue. Sorting is stable, and a cascade keeps the order of the queue.
 *
 * Skipping. A level has a bit for each slot. The next event of all slots lies in the first slot of the lowest
 * level that has any, because a timer of a higher level differs from the present in a higher digit and so
 * comes later. An empty year is one look at 28 words.
 *
 * Invariants (wheel_check):
 *   W1  a timer at level L, slot s: due agrees with `present` above digit L, its digit L is s, and s is
 *       greater than the present's digit L; or L = 0 and s is not smaller
 *   W2  a slot's bit is set if and only if it has timers; it counts them; a level's bits in `queued` and
 *       `sorted` are set if and only if one of its slots, its run has some
 *   W3  count is the number of timers in all slots and runs; every chunk is in one slot or in the pool
 *   W4  bytes <= max_bytes
 *   W5  there are as many chunks as the present timers can ever need (chunks_needed)
 *   W6  runs lie on the stack below its top, without overlap, ascending by due; none has a timer before the
 *       present; all of level L's agree with the present above digit L - 1
 *
 * Failure: only an insert takes memory, and one that gets none changes nothing. Entering a slot cannot fail:
 * a cascade because of W5 (however timers lie, each slot has at most one chunk that is not full at its tail,
 * the slot being read one more at its head, and timers only move to levels whose chunks hold as many or
 * more), sorting because what does not fit on the stack is cascaded. */
#include "wheel_internal.h"

enum { SORT_BY_HAND = 32 }; /* up to so many are sorted by insertion */

/* ---- memory ---- */

static enum hf_err add_slab(struct wheel *w) {
    if (w->max_bytes && w->bytes + sizeof(struct slab) > w->max_bytes) return HF_ELIMIT;
    struct slab *s = aligned_alloc(SLAB_BYTES, sizeof *s);
    if (!s) return HF_ENOMEM;
    s->next = w->slabs;
    w->slabs = s;
    w->bytes += sizeof *s;
    for (int i = SLAB_CHUNKS - 1; i >= 0; i--) give_chunk(w, &s->chunks[i]);
    w->chunks += SLAB_CHUNKS;
    return HF_OK;
}

/* Room for one more at this level. An insert raises the need by two chunks at most. */
static enum hf_err make_sure(struct wheel *w, int level) {
    size_t needed = chunks_needed(w->count + 1, w->wide + is_wide(level));
    while (w->chunks < needed) {
        enum hf_err e = add_slab(w);
        if (e) return e;
    }
    w->sure = 1 + (w->chunks - needed) / 2;
    return HF_OK;
}

/* ---- slots ---- */

/* The first slot with timers of a level that has some. By W1 none lies before the present's digit. */
static int first_slot(const struct wheel *w, int level) {
    int i = 0;
    while (!w->bits[level][i]) i++;
    return i * 64 + __builtin_ctzll(w->bits[level][i]);
}

/* The chunk that takes the slot's next timer; if it needs a new one, the pool has it (W5). */
static struct chunk *tail_with_room(struct wheel *w, struct slot *s, int level, uint32_t digit) {
    if (s->tail && s->fill < layouts[level].capacity) return s->tail;
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
    return c;
}

static void put(struct wheel *w, int level, int64_t due, uint64_t payload) {
    uint32_t digit = digit_of(due, level);
    struct slot *s = &w->slots[level][digit];
    const struct layout *l = &layouts[level];
    uint8_t *data = tail_with_room(w, s, level, digit)->data;
    memcpy(data + s->fill * 8, &payload, 8);
    uint8_t *due_at = data + l->capacity * 8 + s->fill * l->due_bytes;
    if (l->due_bytes == 4) {
        uint32_t low = (uint32_t)due;
        memcpy(due_at, &low, 4);
    } else if (l->due_bytes == 8) {
        memcpy(due_at, &due, 8);
        w->wide++;
    }
    s->fill++;
    s->count++;
}

/* Takes the whole slot out; its chunks are the caller's to give back. */
static struct slot take_slot(struct wheel *w, int level, uint32_t digit) {
    struct slot whole = w->slots[level][digit];
    w->slots[level][digit] = (struct slot){0};
    clear_bit(w, level, digit);
    if (is_wide(level)) w->wide -= whole.count;
    return whole;
}

static void cascade(struct wheel *w, int level, uint32_t digit) {
    int64_t start = w->present;
    struct slot whole = take_slot(w, level, digit);
    for (struct chunk *c = whole.head, *next; c; c = next) {
        next = c->next;
        prefetch_chunk(next);
        uint32_t end = chunk_end(&whole, c, level);
        for (uint32_t i = 0; i < end; i++) { /* only slots of level 0 are ever read in part */
            struct wheel_timer t = timer_at(c, i, level, start);
            put(w, level_of(t.due, start), t.due, t.payload);
        }
        give_chunk(w, c);
    }
}

/* ---- sorting: stable, by the digits below the level ---- */

typedef uint32_t histogram[SLOTS];

/* Reads the slot's timers in order and gives its chunks back; counts their digits on the way. */
static void gather_slot(struct wheel *w, int level, const struct slot *whole, struct wheel_timer *out,
                        histogram *counts) {
    int64_t start = w->present;
    for (struct chunk *c = whole->head, *next; c; c = next) {
        next = c->next;
        prefetch_chunk(next);
        uint32_t end = chunk_end(whole, c, level);
        for (uint32_t i = 0; i < end; i++) {
            *out = timer_at(c, i, level, start);
            for (int d = 0; counts && d < level; d++) counts[d][digit_of(out->due, d)]++;
            out++;
        }
        give_chunk(w, c);
    }
}

static void sort_by_hand(struct wheel_timer *t, size_t n) {
    for (size_t i = 1; i < n; i++) {
        struct wheel_timer x = t[i];
        size_t k = i;
        for (; k > 0 && t[k - 1].due > x.due; k--) t[k] = t[k - 1];
        t[k] = x;
    }
}

static void pass(const struct wheel_timer *from, size_t n, int digit, histogram at, struct wheel_timer *to) {
    uint32_t sum = 0;
    for (int i = 0; i < SLOTS; i++) {
        uint32_t count = at[i];
        at[i] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++) to[at[digit_of(from[i].due, digit)]++] = from[i];
}

/* The slot becomes its level's run, on top of the stack, where it fits. */
static void sort(struct wheel *w, int level, uint32_t digit) {
    histogram counts[LEVELS];
    struct slot whole = take_slot(w, level, digit);
    size_t n = whole.count;
    struct wheel_timer *run = w->stack + w->top, *scratch = w->stack + w->sort_max;
    w->runs[level] = (struct sorted){w->top, w->top + n};
    w->sorted |= 1u << level;
    w->top += n;
    if (n <= SORT_BY_HAND) {
        gather_slot(w, level, &whole, run, NULL);
        sort_by_hand(run, n);
        return;
    }
    memset(counts, 0, sizeof counts[0] * (size_t)level);
    struct wheel_timer *from = level % 2 ? scratch : run, *to = level % 2 ? run : scratch;
    gather_slot(w, level, &whole, from, counts);
    for (int d = 0; d < level; d++) {
        pass(from, n, d, counts[d], to);
        struct wheel_timer *swap = from;
        from = to;
        to = swap;
    }
}

/* The present moves to the slot's first tick. */
static void enter(struct wheel *w, int level, uint32_t digit) {
    w->present = slot_start(w, level, digit);
    if (w->slots[level][digit].count <= w->sort_max - w->top)
        sort(w, level, digit);
    else
        cascade(w, level, digit);
}

/* ---- what is next ---- */

struct next {
    int64_t due;    /* of the first timer of the runs; WHEEL_NEVER: none */
    int run;        /* its level */
    int64_t others; /* the first due of other runs that comes before this run's timers of the same tick… */
    int64_t start;  /* of the first slot; WHEEL_NEVER: none */
    int level;
    uint32_t slot;
};

/* Of equal ones the highest level's was inserted first. `others`: up to there the run may be taken alone. */
static void next_run(const struct wheel *w, struct next *x) {
    for (uint32_t left = w->sorted; left; left &= left - 1) { /* from the lowest level up */
        int level = __builtin_ctz(left);
        int64_t due = w->stack[w->runs[level].at].due;
        if (due <= x->due) {
            if (x->due < x->others) x->others = x->due;
            x->due = due;
            x->run = level;
        } else if (due - 1 < x->others) {
            x->others = due - 1;
        }
    }
}

static struct next next_of(const struct wheel *w) {
    struct next x = {.due = WHEEL_NEVER, .others = WHEEL_NEVER, .start = WHEEL_NEVER};
    next_run(w, &x);
    if (!w->queued) return x;
    x.level = __builtin_ctz(w->queued);
    x.slot = (uint32_t)first_slot(w, x.level);
    x.start = slot_start(w, x.level, x.slot);
    return x;
}

/* ---- taking out ---- */

/* The stack ends where the last run does. */
void end_run(struct wheel *w, int level) {
    w->runs[level] = (struct sorted){0, 0};
    w->sorted &= ~(1u << level);
    w->top = 0;
    for (uint32_t left = w->sorted; left; left &= left - 1) {
        size_t end = w->runs[__builtin_ctz(left)].end;
        if (end > w->top) w->top = end;
    }
}

/* Takes timers of the next run that come before all else. */
static size_t take_sorted(struct wheel *w, const struct next *x, int64_t now, struct wheel_timer *out,
                          size_t max) {
    struct sorted *r = &w->runs[x->run];
    int64_t last = x->level > 0 || x->start == WHEEL_NEVER ? x->start - 1 : x->start;
    if (x->others < last) last = x->others;
    if (now < last) last = now;
    size_t n = 0;
    while (n < max && r->at < r->end && w->stack[r->at].due <= last) out[n++] = w->stack[r->at++];
    w->present = out[n - 1].due;
    w->count -= n;
    if (r->at == r->end) end_run(w, x->run);
    return n;
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
    }
    s->count -= n;
    w->count -= n;
    if (s->head) return n;
    *s = (struct slot){0};
    clear_bit(w, 0, digit);
    return n;
}

/* ---- public ---- */

static size_t stack_bytes(size_t sort_max) {
    return 2 * sort_max * sizeof(struct wheel_timer);
}

enum hf_err wheel_open(const struct wheel_options *options, struct wheel **out) {
    if (options->start < 0 || options->start > WHEEL_TICK_MAX) return HF_ERANGE;
    struct wheel *w = calloc(1, sizeof *w);
    size_t sort_max = options->sort_max ? options->sort_max : SORT_MAX;
    if (w) w->stack = malloc(stack_bytes(sort_max));
    if (!w || !w->stack) {
        free(w);
        return HF_ENOMEM;
    }
    w->present = options->start;
    w->max_bytes = options->max_bytes;
    w->sort_max = sort_max;
    w->bytes = sizeof *w + stack_bytes(sort_max);
    *out = w;
    return HF_OK;
}

static void free_slabs(struct wheel *w) {
    while (w->slabs) {
        struct slab *s = w->slabs;
        w->slabs = s->next;
        w->bytes -= sizeof *s;
        free(s);
    }
}

void wheel_clear(struct wheel *w) {
    free_slabs(w);
    memset(w->bits, 0, sizeof w->bits);
    memset(w->slots, 0, sizeof w->slots);
    memset(w->runs, 0, sizeof w->runs);
    w->sorted = w->queued = 0;
    w->pool = NULL;
    w->chunks = w->count = w->wide = w->sure = w->top = 0;
}

void wheel_close(struct wheel *w) {
    if (!w) return;
    free_slabs(w);
    free(w->stack);
    free(w);
}

enum hf_err wheel_insert(struct wheel *w, int64_t due, uint64_t payload) {
    if (due > WHEEL_TICK_MAX) return HF_ERANGE;
    if (due < w->present) due = w->present;
    int level = level_of(due, w->present);
    if (w->sure == 0) {
        enum hf_err e = make_sure(w, level);
        if (e) return e;
    }
    w->sure--;
    put(w, level, due, payload);
    w->count++;
    return HF_OK;
}

size_t wheel_expire(struct wheel *w, int64_t now, struct wheel_timer *out, size_t max) {
    if (now > WHEEL_TICK_MAX) now = WHEEL_TICK_MAX;
    if (now < w->present) now = w->present;
    size_t n = 0;
    while (n < max) {
        struct next x = next_of(w);
        bool sorted = x.due < x.start || (x.due == x.start && x.level == 0 && x.due != WHEEL_NEVER);
        if ((sorted ? x.due : x.start) > now) {
            w->present =
                now; /* no digit that a timer's place depends on changes: now lies before all slots */
            break;
        }
        if (sorted) {
            n += take_sorted(w, &x, now, out + n, max - n);
        } else if (x.level > 0) {
            enter(w, x.level, x.slot);
        } else {
            w->present = x.start;
            n += drain(w, out + n, max - n);
        }
    }
    return n;
}

int64_t wheel_next(const struct wheel *w) {
    struct next x = next_of(w);
    return x.due < x.start ? x.due : x.start;
}

size_t wheel_count(const struct wheel *w) {
    return w->count;
}

size_t wheel_bytes(const struct wheel *w) {
    return w->bytes;
}

/* ---- invariants ---- */

/* A slot whose bit is set. */
static size_t check_slot(const struct wheel *w, int level, uint32_t digit, size_t *chunks) {
    const struct slot *s = &w->slots[level][digit];
    assert(s->head); /* W2 */
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
    assert(n > 0 && n == s->count);
    return n;
}

static size_t check_run(const struct wheel *w, int level) { /* W6 */
    const struct sorted *r = &w->runs[level];
    for (int other = 1; other < level; other++)
        assert(r->at == r->end || r->end <= w->runs[other].at || w->runs[other].end <= r->at ||
               w->runs[other].at == w->runs[other].end);
    assert(r->at <= r->end && r->end <= w->top && (w->sorted >> level & 1) == (r->at < r->end));
    for (size_t i = r->at; i < r->end; i++) {
        assert(w->stack[i].due >= w->present && level_of(w->stack[i].due, w->present) < level);
        assert(i == r->at || w->stack[i - 1].due <= w->stack[i].due);
    }
    return r->end - r->at;
}

static size_t check_level(const struct wheel *w, int level, size_t *chunks) {
    size_t n = 0;
    bool queued = false;
    for (uint32_t i = 0; i < WORDS; i++) {
        uint64_t left = w->bits[level][i];
        queued |= left != 0;
        for (; left; left &= left - 1)
            n += check_slot(w, level, i * 64 + (uint32_t)__builtin_ctzll(left), chunks);
    }
    assert(queued == (w->queued >> level & 1)); /* W2 */
    return n;
}

/* Slots without a bit are not looked at: the chunks of one that has some would be missing in the sum. */
void wheel_check(const struct wheel *w) {
    size_t n = 0, wide = 0, chunks = 0, slabs = 0, pooled = 0;
    for (int level = 0; level < LEVELS; level++) {
        size_t in_slots = check_level(w, level, &chunks);
        n += check_run(w, level) + in_slots;
        if (is_wide(level)) wide += in_slots;
    }
    for (const struct slab *s = w->slabs; s; s = s->next) slabs++;
    for (const struct chunk *c = w->pool; c; c = c->next) pooled++;
    assert(n == w->count && wide == w->wide); /* W3 */
    assert(chunks + pooled == w->chunks && w->chunks == slabs * SLAB_CHUNKS);
    assert(w->bytes == sizeof *w + stack_bytes(w->sort_max) + slabs * sizeof(struct slab));
    assert(!w->max_bytes || w->bytes <= w->max_bytes || !w->slabs);         /* W4 */
    assert(w->count == 0 || w->chunks >= chunks_needed(w->count, w->wide)); /* W5 */
}
