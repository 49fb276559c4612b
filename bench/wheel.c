/* What a timer costs: insert + expire, nanoseconds and bytes a timer, of the wheel and of two controls, a
 * binary heap and libevent's timers.
 *
 *     bench_wheel [TIMERS]...          default: 1000000 10000000
 *
 * Workloads: delays uniform over a day, exponential with a mean of a minute, all in one tick. Timers are
 * inserted at one time, then time goes on in steps of 50 ms until all are out. Controls get the uniform
 * one only; libevent's only up to a million, since ten million take a minute. */
#include "timewheel/wheel/wheel.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEP_MS = 50, BATCH = 256 };

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t rnd(uint64_t *s) {
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

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

static void report(const char *what, const char *load, size_t n, int64_t insert_ns, int64_t expire_ns,
                   size_t bytes) {
    double count = (double)n;
    printf("%-10s %-12s %9zu timers  insert %6.1f ns  expire %7.1f ns  sum %7.1f ns  %6.1f bytes\n", what,
           load, n, (double)insert_ns / count, (double)expire_ns / count,
           (double)(insert_ns + expire_ns) / count, (double)bytes / count);
    fflush(stdout);
}

static void die(const char *why) {
    fprintf(stderr, "bench_wheel: %s\n", why);
    exit(1);
}

static void run_wheel(const char *load, const int64_t *delays, size_t n) {
    struct wheel *w;
    if (wheel_open(&(struct wheel_options){.start = 1767225600000}, &w)) die("out of memory");
    int64_t start = 1767225600000, begin = now_ns();
    for (size_t i = 0; i < n; i++)
        if (wheel_insert(w, start + delays[i], i)) die("out of memory");
    int64_t inserted = now_ns();
    size_t bytes = wheel_bytes(w), out = 0, got;
    struct wheel_timer batch[BATCH];
    for (int64_t t = start; out < n; t += STEP_MS) do
            out += got = wheel_expire(w, t, batch, BATCH);
        while (got == BATCH);
    report("wheel", load, n, inserted - begin, now_ns() - inserted, bytes);
    wheel_close(w);
}

/* ---- control: a binary heap of {due, payload} ---- */

static void heap_push(struct wheel_timer *h, size_t n, struct wheel_timer t) {
    size_t i = n;
    for (; i > 0 && h[(i - 1) / 2].due > t.due; i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = t;
}

static void heap_pop(struct wheel_timer *h, size_t n) { /* n: how many are left */
    struct wheel_timer t = h[n];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1].due < h[child].due) child++;
        if (h[child].due >= t.due) break;
        h[i] = h[child];
    }
    h[i] = t;
}

static void run_heap(const int64_t *delays, size_t n) {
    struct wheel_timer *h = malloc(n * sizeof *h);
    if (!h) die("out of memory");
    int64_t begin = now_ns();
    for (size_t i = 0; i < n; i++) heap_push(h, i, (struct wheel_timer){delays[i], i});
    int64_t inserted = now_ns();
    size_t left = n;
    for (int64_t t = 0; left; t += STEP_MS)
        while (left && h[0].due <= t) heap_pop(h, --left);
    report("heap", "uniform", n, inserted - begin, now_ns() - inserted, n * sizeof *h);
    free(h);
}

/* ---- control: libevent, its clock replaced by due times within half a second ---- */

static size_t fired;

static void fire(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what, (void)arg;
    fired++;
}

static void run_libevent(const int64_t *delays, size_t n) {
    struct event_base *base = event_base_new();
    struct event *events = malloc(n * sizeof *events);
    if (!base || !events) die("out of memory");
    fired = 0;
    int64_t begin = now_ns();
    for (size_t i = 0; i < n; i++) {
        struct timeval tv = {0, (suseconds_t)(delays[i] % 500000)};
        event_assign(&events[i], base, -1, 0, fire, NULL);
        event_add(&events[i], &tv);
    }
    int64_t inserted = now_ns();
    if (inserted - begin < 500000000) { /* let all be due, so that waiting is not measured */
        struct timespec rest = {0, 500000000 - (inserted - begin)};
        nanosleep(&rest, NULL);
    }
    int64_t all_due = now_ns();
    while (fired < n) event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    report("libevent", "uniform", n, inserted - begin, now_ns() - all_due,
           n * (sizeof *events + sizeof(void *)));
    free(events);
    event_base_free(base);
}

int main(int argc, char **argv) {
    static const size_t defaults[] = {1000000, 10000000};
    static const struct {
        const char *name;
        int64_t (*delay)(uint64_t *);
    } loads[] = {{"uniform", uniform}, {"exponential", exponential}, {"one-tick", one_tick}};
    size_t runs = argc > 1 ? (size_t)argc - 1 : 2;
    for (size_t r = 0; r < runs; r++) {
        size_t n = argc > 1 ? strtoull(argv[r + 1], NULL, 10) : defaults[r];
        int64_t *delays = malloc(n * sizeof *delays);
        if (!delays || n == 0) die("usage: bench_wheel [TIMERS]...");
        for (size_t l = 3; l-- > 0;) {
            uint64_t seed = 1;
            for (size_t i = 0; i < n; i++) delays[i] = loads[l].delay(&seed);
            run_wheel(loads[l].name, delays, n);
        }
        run_heap(delays, n);
        if (n <= 1000000) run_libevent(delays, n);
        free(delays);
    }
    return 0;
}
