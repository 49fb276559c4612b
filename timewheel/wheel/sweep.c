/* Sweeping: timers that their owner has given up leave the wheel all at once, and the memory that is then
 * free goes back to the machine.
 *
 * A timer cannot be taken out of the middle of a chunk in O(1), but a quarter of all timers can be taken out
 * in one walk: an owner who sweeps whenever a quarter of what the wheel holds is dead pays for each cancel a
 * visit to four timers, in the order in which they lie, and the wheel never holds more than four thirds of
 * what lives. Live timers move forward within their slot's queue, so their order stays.
 *
 *     before   [a x b x x] -> [c d x e f] -> [x g]        x: dead
 *     after    [a b c d e] -> [f g]                       one chunk to the pool
 *
 * Then chunks lie scattered over slabs. As many slabs are emptied as are not needed (W5), those with the
 * fewest chunks in use: their chunks are copied to free ones in the slabs that stay. It needs no memory, so
 * it cannot fail. */
#include "wheel_internal.h"

struct sweep {
    struct wheel *w;
    bool (*dead)(void *arg, uint64_t payload);
    void *arg;
    size_t removed;
};

/* ---- timers ---- */

struct spot { /* in a slot's queue */
    struct chunk *c;
    uint32_t i;
};

static void step(struct spot *s, uint32_t capacity) {
    if (++s->i < capacity) return;
    s->c = s->c->next;
    s->i = 0;
}

static void copy_timer(int level, struct spot from, struct spot to) {
    const struct layout *l = &layouts[level];
    size_t due = (size_t)l->capacity * 8;
    memcpy(to.c->data + to.i * 8, from.c->data + from.i * 8, 8);
    memcpy(to.c->data + due + to.i * l->due_bytes, from.c->data + due + from.i * l->due_bytes, l->due_bytes);
}

static void cut_queue(struct wheel *w, int level, uint32_t digit, struct chunk *last, uint32_t fill) {
    struct slot *s = &w->slots[level][digit];
    struct chunk *spent = last ? last->next : s->head;
    while (spent) {
        struct chunk *next = spent->next;
        give_chunk(w, spent);
        spent = next;
    }
    if (!last) {
        *s = (struct slot){0};
        clear_bit(w, level, digit);
        return;
    }
    last->next = NULL;
    s->tail = last;
    s->fill = fill;
}

static void sweep_slot(struct sweep *x, int level, uint32_t digit) {
    struct wheel *w = x->w;
    struct slot *s = &w->slots[level][digit];
    uint32_t capacity = layouts[level].capacity, fill = 0;
    struct spot from = {s->head, s->read}, to = {s->head, 0};
    struct chunk *last = NULL;
    size_t live = 0;
    for (size_t left = s->count; left > 0; left--, step(&from, capacity)) {
        if (from.i == 0) prefetch_chunk(from.c->next);
        if (x->dead(x->arg, payload_at(from.c, from.i))) continue;
        copy_timer(level, from, to);
        last = to.c;
        fill = to.i + 1;
        live++;
        step(&to, capacity);
    }
    size_t removed = s->count - live;
    x->removed += removed;
    if (is_wide(level)) w->wide -= removed;
    s->count = live;
    s->read = 0;
    cut_queue(w, level, digit, last, fill);
}

static void sweep_run(struct sweep *x, int level) {
    struct sorted *r = &x->w->runs[level];
    size_t to = r->at;
    for (size_t i = r->at; i < r->end; i++)
        if (!x->dead(x->arg, x->w->stack[i].payload)) x->w->stack[to++] = x->w->stack[i];
    x->removed += r->end - to;
    r->end = to;
    if (r->at == r->end) end_run(x->w, level);
}

/* ---- slabs ---- */

static void each_chunk(struct wheel *w, void (*fn)(struct wheel *w, struct slot *s, struct chunk **link)) {
    for (int level = 0; level < LEVELS; level++)
        for (uint32_t digit = 0; digit < SLOTS; digit++) {
            struct slot *s = &w->slots[level][digit];
            for (struct chunk **link = &s->head; *link; link = &(*link)->next) fn(w, s, link);
        }
}

static void count_used(struct wheel *w, struct slot *s, struct chunk **link) {
    (void)w, (void)s;
    slab_of(*link)->used++;
}

static void move_chunk(struct wheel *w, struct slot *s, struct chunk **link) {
    struct chunk *old = *link;
    if (slab_of(old)->keep) return;
    struct chunk *c = take_chunk(w);
    *c = *old;
    *link = c;
    if (s->tail == old) s->tail = c;
}

/* Marks the `stay` slabs that have the most chunks in use. */
static void choose(struct wheel *w, size_t stay) {
    size_t with[SLAB_CHUNKS + 1] = {0};
    for (struct slab *s = w->slabs; s; s = s->next) s->used = 0;
    each_chunk(w, count_used);
    for (struct slab *s = w->slabs; s; s = s->next) with[s->used]++;
    size_t least = SLAB_CHUNKS, more = 0; /* all with more than `least` stay, and some with just so many */
    while (least > 0 && more + with[least] < stay) more += with[least--];
    size_t some = stay - more;
    for (struct slab *s = w->slabs; s; s = s->next) {
        s->keep = s->used > least || (s->used == least && some > 0);
        some -= s->keep && s->used == least;
    }
}

static void keep_pool(struct wheel *w) {
    struct chunk *all = w->pool;
    w->pool = NULL;
    while (all) {
        struct chunk *next = all->next;
        if (slab_of(all)->keep) give_chunk(w, all);
        all = next;
    }
}

static void free_slabs(struct wheel *w) {
    for (struct slab **link = &w->slabs; *link;) {
        struct slab *s = *link;
        if (s->keep) {
            link = &s->next;
            continue;
        }
        *link = s->next;
        w->bytes -= sizeof *s;
        w->chunks -= SLAB_CHUNKS;
        free(s);
    }
}

static void trim(struct wheel *w) {
    size_t slabs = w->chunks / SLAB_CHUNKS;
    size_t stay = (chunks_needed(w->count, w->wide) + SLAB_CHUNKS - 1) / SLAB_CHUNKS;
    if (stay >= slabs) return;
    choose(w, stay);
    keep_pool(w);
    each_chunk(w, move_chunk);
    free_slabs(w);
    w->sure = 0;
}

size_t wheel_sweep(struct wheel *w, bool (*dead)(void *arg, uint64_t payload), void *arg) {
    struct sweep x = {.w = w, .dead = dead, .arg = arg};
    for (int level = 0; level < LEVELS; level++) {
        if (w->sorted >> level & 1) sweep_run(&x, level);
        for (uint32_t digit = 0; digit < SLOTS; digit++)
            if (w->slots[level][digit].head) sweep_slot(&x, level, digit);
    }
    w->count -= x.removed;
    trim(w);
    return x.removed;
}
