/* What a timer costs: nanoseconds of CPU and bytes, of three layouts and a control.
 *
 *     bench_wheel [--layout NAME] [--load NAME] [TIMERS]...          default: 10000 1000000 10000000
 *
 *     wheel      timewheel/wheel: chunks; a slot that is entered is sorted if it is small
 *     cascade    the same without sorting: chunked FIFO buckets that cascade level by level
 *     lists      intrusive doubly linked lists in the slots of such a wheel, as in Tokio and old Linux
 *     heap       a 4-ary heap of (due, sequence)
 *
 * Loads: delays uniform over a day, exponential with a mean of a minute, all in one tick; `cancel` is
 * uniform, and when all are in, nine of ten are cancelled before time goes on. Insert, cancel and expire are
 * given for each timer inserted. Time goes on from one event to the next, by 50 ms at least. CPU time of the
 * thread is measured, so other programs disturb only through the caches. Bytes are those held for each live
 * timer when all are in, after the cancelling; lists count what is in the owner's object. */
#include "timewheel/wheel/wheel.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEP_MS = 50, BATCH = 256 };

static const int64_t start = 1767225600000;

static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t rnd(uint64_t *s) { /* splitmix64 */
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void *must(void *p) {
    if (p) return p;
    fputs("bench_wheel: out of memory\n", stderr);
    exit(1);
}

/* ---- the wheel, and the owner who marks what is dead ---- */

struct marked {
    struct wheel *w;
    uint64_t *dead; /* a bit for each */
    size_t dead_count;
};

static void *open_wheel_with(size_t n, size_t sort_max) {
    struct marked *m = must(calloc(1, sizeof *m));
    m->dead = must(calloc(n / 64 + 1, sizeof *m->dead));
    if (wheel_open(&(struct wheel_options){.start = start, .sort_max = sort_max}, &m->w)) must(NULL);
    return m;
}

static void *wheel_begin(size_t n) {
    return open_wheel_with(n, 0);
}

static void *cascade_begin(size_t n) {
    return open_wheel_with(n, 1);
}

static void wheel_add(void *x, int64_t due, uint32_t i) {
    if (wheel_insert(((struct marked *)x)->w, due, i)) must(NULL);
}

static bool is_dead(void *x, uint64_t i) {
    return ((struct marked *)x)->dead[i / 64] >> (i % 64) & 1;
}

static void wheel_cancel(void *x, uint32_t i) {
    struct marked *m = x;
    m->dead[i / 64] |= UINT64_C(1) << (i % 64);
    if (++m->dead_count * 4 < wheel_count(m->w)) return;
    wheel_sweep(m->w, is_dead, m);
    m->dead_count = 0;
}

static size_t wheel_out(void *x, int64_t now) {
    struct marked *m = x;
    struct wheel_timer batch[BATCH];
    size_t live = 0, got;
    do {
        got = wheel_expire(m->w, now, batch, BATCH);
        for (size_t i = 0; i < got; i++) live += !is_dead(m, batch[i].payload);
    } while (got == BATCH);
    return live;
}

static int64_t wheel_when(void *x) {
    return wheel_next(((struct marked *)x)->w);
}

static size_t wheel_size(void *x) {
    return wheel_bytes(((struct marked *)x)->w);
}

static void wheel_end(void *x) {
    struct marked *m = x;
    wheel_close(m->w);
    free(m->dead);
    free(m);
}

/* ---- lists: each timer links itself; seven levels of 256 slots ---- */

enum { LEVELS = 7, SLOTS = 256 };

struct node {
    struct node *next, **link; /* link: what points here */
    int64_t due;
};

struct lists {
    int64_t present;
    size_t count;
    uint64_t bits[LEVELS][SLOTS / 64];
    struct node *head[LEVELS][SLOTS], **tail[LEVELS][SLOTS];
    struct node nodes[];
};

static void *lists_begin(size_t n) {
    struct lists *l = must(calloc(1, sizeof *l + n * sizeof(struct node)));
    l->present = start;
    for (int level = 0; level < LEVELS; level++)
        for (int s = 0; s < SLOTS; s++) l->tail[level][s] = &l->head[level][s];
    return l;
}

static void link_node(struct lists *l, struct node *t) {
    uint64_t difference = (uint64_t)(t->due ^ l->present);
    int level = difference ? (63 - __builtin_clzll(difference)) / 8 : 0;
    uint32_t s = (uint32_t)(t->due >> level * 8) & (SLOTS - 1);
    t->next = NULL;
    t->link = l->tail[level][s];
    *t->link = t;
    l->tail[level][s] = &t->next;
    l->bits[level][s / 64] |= UINT64_C(1) << (s % 64);
}

static void lists_add(void *x, int64_t due, uint32_t i) {
    struct lists *l = x;
    l->nodes[i].due = due;
    link_node(l, &l->nodes[i]);
    l->count++;
}

static void lists_cancel(void *x, uint32_t i) {
    struct lists *l = x;
    struct node *t = &l->nodes[i];
    l->count--;
    *t->link = t->next;
    if (t->next) {
        t->next->link = t->link;
        return;
    }
    uint64_t difference = (uint64_t)(t->due ^ l->present);
    int level = difference ? (63 - __builtin_clzll(difference)) / 8 : 0;
    uint32_t s = (uint32_t)(t->due >> level * 8) & (SLOTS - 1);
    l->tail[level][s] = t->link;
    if (!l->head[level][s]) l->bits[level][s / 64] &= ~(UINT64_C(1) << (s % 64));
}

static int64_t lists_first(const struct lists *l, int *level, uint32_t *slot) {
    for (*level = 0; *level < LEVELS; ++*level)
        for (uint32_t i = 0; i < SLOTS / 64; i++) {
            if (!l->bits[*level][i]) continue;
            *slot = i * 64 + (uint32_t)__builtin_ctzll(l->bits[*level][i]);
            int shift = *level * 8;
            return (l->present >> shift >> 8 << 8 << shift) | (int64_t)*slot << shift;
        }
    return INT64_MAX;
}

static size_t lists_out(void *x, int64_t now) {
    struct lists *l = x;
    size_t out = 0;
    int level;
    uint32_t slot = 0;
    for (int64_t at; (at = lists_first(l, &level, &slot)) <= now;) {
        struct node *t = l->head[level][slot];
        l->present = at;
        l->head[level][slot] = NULL;
        l->tail[level][slot] = &l->head[level][slot];
        l->bits[level][slot / 64] &= ~(UINT64_C(1) << (slot % 64));
        for (struct node *next; t; t = next) {
            next = t->next;
            if (level > 0)
                link_node(l, t);
            else
                out++;
        }
    }
    l->present = now;
    l->count -= out;
    return out;
}

static int64_t lists_when(void *x) {
    int level;
    uint32_t slot;
    return lists_first(x, &level, &slot);
}

static size_t lists_size(void *x) {
    return sizeof(struct lists) + ((struct lists *)x)->count * sizeof(struct node);
}

/* ---- heap: four children, cancelled ones come out in their time ---- */

struct entry {
    int64_t due;
    uint32_t sequence; /* the timer's number */
};

struct heap {
    size_t n;
    uint64_t *dead;
    struct entry *entries;
};

static void *heap_begin(size_t n) {
    struct heap *h = must(calloc(1, sizeof *h));
    h->dead = must(calloc(n / 64 + 1, sizeof *h->dead));
    h->entries = must(malloc(n * sizeof *h->entries));
    return h;
}

static bool before(const struct entry *a, const struct entry *b) {
    return a->due < b->due || (a->due == b->due && a->sequence < b->sequence);
}

static void heap_add(void *x, int64_t due, uint32_t i) {
    struct heap *h = x;
    struct entry e = {due, i};
    size_t k = h->n++;
    for (; k > 0 && before(&e, &h->entries[(k - 1) / 4]); k = (k - 1) / 4)
        h->entries[k] = h->entries[(k - 1) / 4];
    h->entries[k] = e;
}

static void heap_cancel(void *x, uint32_t i) {
    ((struct heap *)x)->dead[i / 64] |= UINT64_C(1) << (i % 64);
}

static void heap_pop(struct heap *h) {
    struct entry e = h->entries[--h->n];
    size_t k = 0;
    for (size_t child; (child = 4 * k + 1) < h->n;) {
        size_t end = child + 4 < h->n ? child + 4 : h->n, least = child;
        while (++child < end)
            if (before(&h->entries[child], &h->entries[least])) least = child;
        if (!before(&h->entries[least], &e)) break;
        h->entries[k] = h->entries[least];
        k = least;
    }
    h->entries[k] = e;
}

static size_t heap_out(void *x, int64_t now) {
    struct heap *h = x;
    size_t out = 0;
    for (; h->n && h->entries[0].due <= now; heap_pop(h)) {
        uint32_t i = h->entries[0].sequence;
        out += !(h->dead[i / 64] >> (i % 64) & 1);
    }
    return out;
}

static int64_t heap_when(void *x) {
    struct heap *h = x;
    return h->n ? h->entries[0].due : INT64_MAX;
}

static size_t heap_size(void *x) {
    return ((struct heap *)x)->n * sizeof(struct entry);
}

static void heap_end(void *x) {
    struct heap *h = x;
    free(h->dead);
    free(h->entries);
    free(h);
}

/* ---- the measurement ---- */

static const struct layout {
    const char *name;
    void *(*begin)(size_t n);
    void (*add)(void *x, int64_t due, uint32_t i);
    void (*cancel)(void *x, uint32_t i);
    size_t (*out)(void *x, int64_t now); /* how many live ones */
    int64_t (*when)(void *x);
    size_t (*size)(void *x);
    void (*end)(void *x);
} layouts[] = {
    {"wheel", wheel_begin, wheel_add, wheel_cancel, wheel_out, wheel_when, wheel_size, wheel_end},
    {"cascade", cascade_begin, wheel_add, wheel_cancel, wheel_out, wheel_when, wheel_size, wheel_end},
    {"lists", lists_begin, lists_add, lists_cancel, lists_out, lists_when, lists_size, free},
    {"heap", heap_begin, heap_add, heap_cancel, heap_out, heap_when, heap_size, heap_end},
};

static int64_t uniform(uint64_t *s) {
    return (int64_t)(rnd(s) % 86400000);
}

static int64_t exponential(uint64_t *s) {
    return (int64_t)(-log(((double)(rnd(s) >> 11) + 1) / 9007199254740993.0) * 60000);
}

static int64_t one_tick(uint64_t *s) {
    (void)s;
    return 60000;
}

static const struct load {
    const char *name;
    int64_t (*delay)(uint64_t *seed);
    bool cancels; /* nine of ten */
} loads[] = {{"uniform", uniform, false},
             {"exponential", exponential, false},
             {"one-tick", one_tick, false},
             {"cancel", uniform, true}};

static size_t cancel_most(const struct layout *l, void *x, size_t n) {
    uint64_t seed = 7;
    size_t live = n;
    for (uint32_t i = 0; i < n; i++) {
        if (rnd(&seed) % 10 == 0) continue;
        l->cancel(x, i);
        live--;
    }
    return live;
}

static void measure(const struct layout *l, const struct load *load, const int64_t *delays, size_t n) {
    void *x = l->begin(n);
    double ns[4];
    int64_t began = cpu_ns();
    for (uint32_t i = 0; i < n; i++) l->add(x, start + delays[i], i);
    int64_t inserted = cpu_ns();
    size_t live = load->cancels ? cancel_most(l, x, n) : n;
    int64_t cancelled = cpu_ns();
    size_t bytes = l->size(x), out = 0;
    for (int64_t now = start, when; (when = l->when(x)) != INT64_MAX; now += STEP_MS) {
        if (when > now) now = when;
        out += l->out(x, now);
    }
    int64_t expired = cpu_ns(),
            whole[] = {inserted - began, cancelled - inserted, expired - cancelled, expired - began};
    if (out != live) fprintf(stderr, "%s: %zu of %zu came out\n", l->name, out, live);
    for (int i = 0; i < 4; i++) ns[i] = (double)whole[i] / (double)n;
    printf("%-8s %-12s %9zu timers  insert %6.1f  cancel %6.1f  expire %6.1f  sum %6.1f ns  %6.1f bytes\n",
           l->name, load->name, n, ns[0], ns[1], ns[2], ns[3], (double)bytes / (double)live);
    fflush(stdout);
    l->end(x);
}

static void empty_year(void) {
    struct wheel *w;
    struct wheel_timer t;
    enum { YEARS = 1000 };
    const int64_t year = INT64_C(31536000000);
    if (wheel_open(&(struct wheel_options){.start = start}, &w) ||
        wheel_insert(w, start + year * (YEARS + 1), 1))
        must(NULL);
    int64_t began = cpu_ns();
    for (int i = 1; i <= YEARS; i++)
        if (wheel_expire(w, start + year * i, &t, 1)) fputs("early\n", stderr);
    printf("wheel    a step over an empty year: %.0f ns\n", (double)(cpu_ns() - began) / YEARS);
    wheel_close(w);
}

static bool wanted(const char *filter, const char *name) {
    return !filter || strcmp(filter, name) == 0;
}

static void measure_all(size_t n, const char *layout, const char *load) {
    int64_t *delays = must(malloc(n * sizeof *delays));
    for (size_t k = 0; k < sizeof loads / sizeof loads[0]; k++) {
        if (!wanted(load, loads[k].name)) continue;
        uint64_t seed = 1;
        for (size_t i = 0; i < n; i++) delays[i] = loads[k].delay(&seed);
        for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
            if (wanted(layout, layouts[i].name)) measure(&layouts[i], &loads[k], delays, n);
    }
    free(delays);
}

int main(int argc, char **argv) {
    static const struct option flags[] = {{"layout", 1, NULL, 'L'}, {"load", 1, NULL, 'l'}, {0}};
    static const size_t defaults[] = {10000, 1000000, 10000000};
    const char *layout = NULL, *load = NULL;
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (flag == '?') return 2;
        *(flag == 'L' ? &layout : &load) = optarg;
    }
    empty_year();
    for (int i = 0; optind == argc && i < 3; i++) measure_all(defaults[i], layout, load);
    for (int i = optind; i < argc; i++) {
        size_t n = strtoull(argv[i], NULL, 10);
        if (n == 0 || n > UINT32_MAX) {
            fputs("usage: bench_wheel [--layout NAME] [--load NAME] [TIMERS]...\n", stderr);
            return 2;
        }
        measure_all(n, layout, load);
    }
    return 0;
}
