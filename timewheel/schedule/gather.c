/* Messages in memory: everything read from holdfast.delay since the last checkpoint that has not been fired.
 *
 * Bodies lie in chunks, in order of reading; a wheel of pointers says what is due when. A fired or dead
 * message is only counted out of its chunk, and a chunk without live ones goes back: messages of a second's
 * delay need memory for a second of them, whatever passes through.
 *
 *      active                                     frozen
 *      wheel → items in chunks   --freeze-->      sorted array of items, being written to a run
 *
 * Freezing empties the wheel, which gives the items in order of (due, insertion), and insertion is in order
 * of sequence: a sort in linear time. A frozen gathering goes on firing from its array, and is thrown away
 * whole when a commit has named its run.
 *
 * A message that is cancelled or replaced while it lies in the active gathering is marked dead. Elsewhere
 * (frozen, or in a run) it cannot be reached: a tombstone with its place is kept in the active gathering, is
 * asked for when something is fired, and goes to the next run, where merging brings both together.
 *
 * Invariants (gather_check in schedule.c): items' live counts are those of their chunks; the sum is g->live.
 */
#include "internal.h"

enum { CHUNK_BYTES = 64 << 10 };

struct chunk {
    struct chunk *prev, *next;
    size_t size, used;
    uint32_t live;
    _Alignas(16) char data[];
};

enum hf_err gather_open(struct place mark, struct gather **out) {
    int64_t present = mark.due > 0 ? mark.due - 1 : 0; /* nothing of the mark's time comes out unasked */
    struct gather *g = calloc(1, sizeof *g);
    if (!g) return HF_ENOMEM;
    enum hf_err e = wheel_open(&(struct wheel_options){.start = present}, &g->wheel);
    if (e) {
        free(g);
        return e;
    }
    *out = g;
    return HF_OK;
}

static void free_chunk(struct gather *g, struct chunk *c) {
    if (c->prev) c->prev->next = c->next;
    if (c->next) c->next->prev = c->prev;
    if (g->chunks == c) g->chunks = c->next;
    g->bytes -= c->size;
    free(c);
}

void gather_close(struct gather *g) {
    if (!g) return;
    wheel_close(g->wheel);
    while (g->chunks) free_chunk(g, g->chunks);
    free(g->sorted);
    struct tombstone *t, *next_t;
    HASH_ITER (hh, g->tombstones, t, next_t) {
        HASH_DEL(g->tombstones, t);
        free(t);
    }
    struct id_entry *i, *next_i;
    HASH_ITER (hh, g->ids, i, next_i) {
        HASH_DEL(g->ids, i);
        free(i);
    }
    free(g);
}

size_t gather_memory(const struct gather *g) {
    return g->bytes + (g->wheel ? wheel_bytes(g->wheel) : 0) + g->sorted_count * sizeof(void *);
}

static struct chunk *chunk_with_room(struct gather *g, size_t need) {
    struct chunk *c = g->chunks;
    if (c && c->size - c->used - sizeof *c >= need) return c;
    if (c && c->live == 0) free_chunk(g, c);
    size_t size = need + sizeof *c > CHUNK_BYTES ? need + sizeof *c : CHUNK_BYTES;
    c = malloc(size);
    if (!c) return NULL;
    *c = (struct chunk){.next = g->chunks, .size = size};
    if (g->chunks) g->chunks->prev = c;
    g->chunks = c;
    g->bytes += size;
    return c;
}

enum hf_err gather_add(struct gather *g, struct place place, hf_str body, struct item **out) {
    size_t need = (sizeof(struct item) + body.n + 15) & ~(size_t)15;
    struct chunk *c = chunk_with_room(g, need);
    if (!c) return HF_ENOMEM;
    struct item *i = (struct item *)(void *)(c->data + c->used);
    enum hf_err e = wheel_insert(g->wheel, place.due, (uint64_t)(uintptr_t)i);
    if (e) return e;
    *i = (struct item){.chunk = c, .place = place, .size = (uint32_t)body.n};
    memcpy(i + 1, body.p, body.n);
    c->used += need;
    c->live++;
    g->live++;
    *out = i;
    return HF_OK;
}

void gather_kill(struct gather *g, struct item *i) {
    assert(!i->dead);
    i->dead = true; /* its memory goes when the wheel gives it out */
    g->live--;
}

enum hf_err gather_bury(struct gather *g, struct place victim) {
    if (gather_buried(g, victim)) return HF_OK;
    struct tombstone *t = calloc(1, sizeof *t);
    if (!t) return HF_ENOMEM;
    t->victim = victim;
    HASH_ADD(hh, g->tombstones, victim.seq, sizeof t->victim.seq, t);
    if (!t->hh.tbl) {
        free(t);
        return HF_ENOMEM;
    }
    g->bytes += sizeof *t + 16;
    return HF_OK;
}

bool gather_buried(const struct gather *g, struct place p) {
    if (!g || !g->tombstones) return false;
    struct tombstone *t;
    HASH_FIND(hh, g->tombstones, &p.seq, sizeof p.seq, t);
    return t && place_same(t->victim, p);
}

static void let_go(struct gather *g, struct item *i) {
    struct chunk *c = i->chunk;
    assert(c->live > 0);
    if (!i->dead) g->live--;
    i->dead = true;
    if (--c->live == 0 && c != g->chunks) free_chunk(g, c);
}

static struct item *frozen_head(struct gather *g, int64_t limit) {
    if (g->sorted_at == g->sorted_count) return NULL;
    struct item *i = g->sorted[g->sorted_at];
    return i->place.due <= limit ? i : NULL;
}

struct item *gather_head(struct gather *g, int64_t limit) {
    if (!g->wheel) return frozen_head(g, limit);
    for (;;) {
        if (g->due_at == g->due_count) {
            g->due_at = 0;
            g->due_count = wheel_expire(g->wheel, limit, g->due, sizeof g->due / sizeof g->due[0]);
            if (g->due_count == 0) return NULL;
        }
        struct item *i = (struct item *)(uintptr_t)g->due[g->due_at].payload;
        if (!i->dead) return i;
        g->due_at++;
        let_go(g, i);
    }
}

void gather_take(struct gather *g, struct item *head) {
    if (!g->wheel) {
        assert(g->sorted[g->sorted_at] == head);
        g->sorted_at++;
        g->live--;
        return; /* the writer of the run may still need it */
    }
    g->due_at++;
    let_go(g, head);
}

enum hf_err gather_freeze(struct gather *g) {
    size_t all = wheel_count(g->wheel) + (g->due_count - g->due_at), n = 0;
    struct item **sorted = malloc((all ? all : 1) * sizeof *sorted);
    if (!sorted) return HF_ENOMEM;
    do {
        for (; g->due_at < g->due_count; g->due_at++) {
            struct item *i = (struct item *)(uintptr_t)g->due[g->due_at].payload;
            if (i->dead)
                let_go(g, i);
            else
                sorted[n++] = i;
        }
        g->due_at = 0;
        g->due_count = wheel_expire(g->wheel, INT64_MAX, g->due, sizeof g->due / sizeof g->due[0]);
    } while (g->due_count);
    wheel_close(g->wheel);
    g->wheel = NULL;
    g->sorted = sorted;
    g->sorted_count = n;
    assert(n == g->live);
    return HF_OK;
}

static int by_place(const void *a, const void *b) {
    return place_cmp(*(const struct place *)a, *(const struct place *)b);
}

enum hf_err gather_tombstones(const struct gather *g, struct place **out, size_t *n) {
    size_t count = HASH_COUNT(g->tombstones), at = 0;
    struct place *all = malloc((count ? count : 1) * sizeof *all);
    if (!all) return HF_ENOMEM;
    for (const struct tombstone *t = g->tombstones; t; t = t->hh.next) all[at++] = t->victim;
    qsort(all, count, sizeof *all, by_place);
    *out = all;
    *n = count;
    return HF_OK;
}

static void each_in_chunk(const struct chunk *c, void (*fn)(void *arg, struct item *i), void *arg) {
    for (size_t at = 0; at < c->used;) {
        struct item *i = (struct item *)(void *)((char *)(uintptr_t)c->data + at);
        if (!i->dead) fn(arg, i);
        at += (sizeof *i + i->size + 15) & ~(size_t)15;
    }
}

void gather_each(const struct gather *g, void (*fn)(void *arg, struct item *i), void *arg) {
    if (!g->wheel) {
        for (size_t k = g->sorted_at; k < g->sorted_count; k++) fn(arg, g->sorted[k]);
        return;
    }
    for (const struct chunk *c = g->chunks; c; c = c->next) each_in_chunk(c, fn, arg);
}
