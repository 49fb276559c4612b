/* The wheel against a naive model: a sorted array. Seeds: test_wheel [--seeds N] [--seed S]. */
#include "timewheel/wheel/wheel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint64_t first_seed = 1, seeds = 300, running;

static uint64_t rnd(uint64_t *s) { /* splitmix64 */
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static struct wheel *opened(int64_t start, size_t max_bytes) {
    struct wheel *w;
    assert_int_equal(wheel_open(&(struct wheel_options){.start = start, .max_bytes = max_bytes}, &w), HF_OK);
    return w;
}

static void insert(struct wheel *w, int64_t due, uint64_t payload) {
    assert_int_equal(wheel_insert(w, due, payload), HF_OK);
}

static void gives_each_timer_at_its_tick_and_not_before(void **state) {
    (void)state;
    static const int64_t delays[] = {0,     1,     255,        256,        257,           65535,
                                     65536, 70000, 1000000000, 4294967296, 1099511627776, 63072000000};
    for (size_t i = 0; i < sizeof delays / sizeof delays[0]; i++) {
        struct wheel *w = opened(1767225600123, 0);
        struct wheel_timer t;
        int64_t due = 1767225600123 + delays[i];
        insert(w, due, i);
        if (delays[i]) assert_int_equal(wheel_expire(w, due - 1, &t, 1), 0);
        wheel_check(w);
        assert_int_equal(wheel_expire(w, due, &t, 1), 1);
        assert_true(t.due == due && t.payload == i);
        assert_int_equal(wheel_count(w), 0);
        assert_true(wheel_next(w) == WHEEL_NEVER);
        wheel_close(w);
    }
}

static void equal_due_ticks_come_out_as_they_went_in(void **state) {
    (void)state;
    struct wheel *w = opened(0, 0);
    struct wheel_timer t[400];
    const int64_t due = 0x1234567;
    static const int64_t steps[] = {0, 5, 0x1000, 0x1200000, 0x1234500, 0x1234566, 0x1234567};
    uint64_t n = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        assert_int_equal(wheel_expire(w, steps[i], t, 1), i == 6 ? 1 : 0);
        for (int k = 0; k < 50; k++) insert(w, due, n++);
        wheel_check(w);
    }
    assert_int_equal(wheel_expire(w, due, t + 1, 399), n - 1);
    for (uint64_t i = 0; i < n; i++) assert_int_equal(t[i].payload, i);
    wheel_close(w);
}

static void what_is_past_comes_out_at_once_behind_what_waits(void **state) {
    (void)state;
    struct wheel *w = opened(1000, 0);
    struct wheel_timer t[3];
    insert(w, 1000, 1);
    insert(w, 7, 2);
    assert_int_equal(wheel_expire(w, 0, t, 3), 2); /* time does not go back */
    assert_int_equal(t[0].payload, 1);
    assert_int_equal(t[1].payload, 2);
    assert_int_equal(t[1].due, 1000);
    wheel_close(w);
}

static void an_empty_year_is_skipped_and_next_leads_there(void **state) {
    (void)state;
    struct wheel *w = opened(5, 0);
    struct wheel_timer t;
    int64_t due = INT64_C(31536000000) + 5;
    insert(w, due, 9);
    int wakes = 0;
    for (; wheel_count(w) && wakes < 8; wakes++) {
        int64_t next = wheel_next(w);
        assert_true(next <= due);
        size_t n = wheel_expire(w, next, &t, 1);
        assert_true(n == (next == due ? 1u : 0u));
    }
    assert_in_range(wakes, 1, 7);
    wheel_close(w);
}

static void memory_is_bounded_and_a_full_wheel_still_expires(void **state) {
    (void)state;
    struct wheel *w = opened(0, 2 << 20);
    uint64_t n = 0, seed = 3;
    enum hf_err e;
    while (!(e = wheel_insert(w, (int64_t)(rnd(&seed) % 100000000), n))) n++;
    assert_int_equal(e, HF_ELIMIT);
    assert_true(wheel_bytes(w) <= 2 << 20);
    assert_true(n > 30000);
    wheel_check(w);
    struct wheel_timer t[100];
    size_t got, all = 0;
    while ((got = wheel_expire(w, 100000000, t, 100))) all += got;
    assert_int_equal(all, n);
    assert_int_equal(wheel_insert(w, 100000001, 1), HF_OK);
    wheel_clear(w);
    assert_int_equal(wheel_count(w), 0);
    wheel_check(w);
    wheel_close(w);
}

static bool is_odd(void *arg, uint64_t payload) {
    (void)arg;
    return payload % 2;
}

static bool is_no_hundredth(void *arg, uint64_t payload) {
    (void)arg;
    return payload % 100 != 0;
}

static void swept_timers_do_not_come_out_and_their_memory_goes(void **state) {
    (void)state;
    struct wheel *w = opened(1000, 0);
    size_t empty = wheel_bytes(w);
    uint64_t seed = 5;
    for (uint64_t i = 0; i < 100000; i++) insert(w, 1000 + (int64_t)(rnd(&seed) % 10000000), i);
    size_t full = wheel_bytes(w) - empty;
    assert_int_equal(wheel_sweep(w, is_odd, NULL), 50000);
    wheel_check(w);
    assert_int_equal(wheel_sweep(w, is_no_hundredth, NULL), 49000);
    wheel_check(w);
    assert_true(wheel_bytes(w) - empty < full / 2); /* a chunk for each slot is what remains */
    struct wheel_timer t[64];
    size_t n, all = 0;
    int64_t before = 0;
    while ((n = wheel_expire(w, 20000000, t, 64)))
        for (size_t i = 0; i < n; i++, all++) {
            assert_true(t[i].payload % 100 == 0 && t[i].due >= before);
            before = t[i].due;
        }
    assert_int_equal(all, 1000);
    assert_int_equal(wheel_sweep(w, is_odd, NULL), 0);
    assert_int_equal(wheel_bytes(w), empty + (64 << 10)); /* one slab stays */
    wheel_close(w);
}

static void more_than_can_be_sorted_at_once_comes_out_in_order_too(void **state) {
    (void)state;
    struct wheel *w = opened(0, 0);
    struct wheel_timer t[256];
    uint64_t seed = 11, n = 0;
    int64_t latest[300] = {0};
    for (; n < 100000; n++) insert(w, 70000 + (int64_t)(rnd(&seed) % 300), n); /* in two slots of level 2 */
    size_t got, all = 0;
    int64_t before = 0;
    while ((got = wheel_expire(w, 80000, t, 256))) {
        for (size_t i = 0; i < got; i++) {
            assert_true(t[i].due >= before);
            before = t[i].due;
            assert_true(latest[before - 70000] <= (int64_t)t[i].payload);
            latest[before - 70000] = (int64_t)t[i].payload;
        }
        all += got;
        wheel_check(w);
    }
    assert_int_equal(all, n);
    wheel_close(w);
}

static void refuses_ticks_it_cannot_hold(void **state) {
    (void)state;
    struct wheel *w;
    assert_int_equal(wheel_open(&(struct wheel_options){.start = -1}, &w), HF_ERANGE);
    w = opened(0, 0);
    assert_int_equal(wheel_insert(w, WHEEL_TICK_MAX + 1, 0), HF_ERANGE);
    assert_int_equal(wheel_insert(w, WHEEL_TICK_MAX, 7), HF_OK);
    struct wheel_timer t;
    assert_int_equal(wheel_expire(w, WHEEL_TICK_MAX - 1, &t, 1), 0);
    assert_int_equal(wheel_expire(w, INT64_MAX, &t, 1), 1);
    wheel_close(w);
}

/* ---- model ---- */

enum { MODEL_MAX = 3000 };

struct model {
    struct wheel_timer timers[MODEL_MAX]; /* by due, then insertion */
    size_t n;
    int64_t present;
};

static void model_insert(struct model *m, int64_t due, uint64_t payload) {
    if (due < m->present) due = m->present;
    size_t i = m->n++;
    for (; i > 0 && m->timers[i - 1].due > due; i--) m->timers[i] = m->timers[i - 1];
    m->timers[i] = (struct wheel_timer){due, payload};
}

static int64_t random_delay(uint64_t *s) {
    return (int64_t)(rnd(s) >> (8 + rnd(s) % 56)); /* each magnitude as likely */
}

static void expire_both(struct model *m, struct wheel *w, int64_t now, size_t max) {
    struct wheel_timer got[64];
    size_t n = wheel_expire(w, now, got, max), want = 0;
    if (now < m->present) now = m->present;
    while (want < m->n && want < max && m->timers[want].due <= now) want++;
    assert_int_equal(n, want);
    for (size_t i = 0; i < n; i++) {
        assert_true(got[i].payload == m->timers[i].payload);
        assert_true(got[i].due == m->timers[i].due);
    }
    if (n < max)
        m->present = now;
    else if (n)
        m->present = got[n - 1].due;
    m->n -= n;
    memmove(m->timers, m->timers + n, m->n * sizeof m->timers[0]);
}

struct plague {
    uint64_t seed, one_in;
};

static bool is_struck(void *arg, uint64_t payload) {
    const struct plague *p = arg;
    uint64_t s = p->seed ^ payload;
    return rnd(&s) % p->one_in == 0;
}

static void sweep_both(struct model *m, struct wheel *w, uint64_t *s) {
    struct plague p = {rnd(s), 1 + rnd(s) % 8};
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        if (!is_struck(&p, m->timers[i].payload)) m->timers[n++] = m->timers[i];
    assert_int_equal(wheel_sweep(w, is_struck, &p), m->n - n);
    m->n = n;
    wheel_check(w);
}

static void run_seed(uint64_t seed) {
    static struct model m;
    uint64_t s = seed, payload = 0;
    m = (struct model){.present = random_delay(&s) / 2};
    static const size_t sort_max[] = {0, 1, 40, 300};
    struct wheel *w;
    struct wheel_options options = {.start = m.present, .sort_max = sort_max[seed % 4]};
    assert_int_equal(wheel_open(&options, &w), HF_OK);
    for (int step = 0; step < 400; step++) {
        if (rnd(&s) % 40 == 0) {
            sweep_both(&m, w, &s);
        } else if (rnd(&s) % 3) {
            size_t burst = rnd(&s) % 8 == 0 ? rnd(&s) % 300 : 1;
            int64_t due = m.present + random_delay(&s) / 4 - (rnd(&s) % 16 == 0 ? 3 : 0);
            if (due < 0) due = 0;
            for (; burst > 0 && m.n < MODEL_MAX && due <= WHEEL_TICK_MAX; burst--) {
                insert(w, due, payload);
                model_insert(&m, due, payload++);
            }
        } else {
            int64_t to = m.present;
            if (m.n && rnd(&s) % 2)
                to = m.timers[rnd(&s) % m.n].due;
            else
                to += random_delay(&s) / 4;
            if (to > WHEEL_TICK_MAX) to = WHEEL_TICK_MAX;
            expire_both(&m, w, to, 1 + rnd(&s) % 64);
        }
        assert_int_equal(wheel_count(w), m.n);
        int64_t next = wheel_next(w);
        assert_true(m.n ? next <= m.timers[0].due && next >= m.present : next == WHEEL_NEVER);
        if (step % 16 == 0) wheel_check(w);
    }
    wheel_close(w);
}

static void agrees_with_a_sorted_array(void **state) {
    (void)state;
    for (running = first_seed; running < first_seed + seeds; running++) run_seed(running);
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--seed")) first_seed = strtoull(argv[i + 1], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_each_timer_at_its_tick_and_not_before),
        cmocka_unit_test(equal_due_ticks_come_out_as_they_went_in),
        cmocka_unit_test(what_is_past_comes_out_at_once_behind_what_waits),
        cmocka_unit_test(an_empty_year_is_skipped_and_next_leads_there),
        cmocka_unit_test(memory_is_bounded_and_a_full_wheel_still_expires),
        cmocka_unit_test(swept_timers_do_not_come_out_and_their_memory_goes),
        cmocka_unit_test(more_than_can_be_sorted_at_once_comes_out_in_order_too),
        cmocka_unit_test(refuses_ticks_it_cannot_hold),
        cmocka_unit_test(agrees_with_a_sorted_array),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) fprintf(stderr, "last seed: --seed %llu\n", (unsigned long long)running);
    return failed;
}
