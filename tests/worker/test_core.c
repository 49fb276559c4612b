/* The worker's core against what a user relies on, under random events in virtual time: one at a time for a
 * key and in order, nothing lost, the committed offset never beyond something unsettled, and a new owner goes
 * on where the old one was. Owners come and go; only the commit passes between them.
 *
 *     test_core [--seeds N]      each seed prints itself when it fails */
#include "worker/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MESSAGES = 400, KEYS = 7, CONCURRENCY = 5, BUFFER = 40 };

static uint64_t seed_of_random;
static int seeds = 300, seed;

static uint32_t rnd(uint32_t below) {
    seed_of_random ^= seed_of_random << 13;
    seed_of_random ^= seed_of_random >> 7;
    seed_of_random ^= seed_of_random << 17;
    return (uint32_t)(seed_of_random >> 11) % below;
}

struct message {
    struct core_message core;
    char key[2];
};

/* The log, and what is true of it. */
struct world {
    enum core_order order;
    bool exists[MESSAGES]; /* compacted ones do not */
    int key[MESSAGES];     /* -1: none */
    int settled[MESSAGES]; /* how often */
    bool held[MESSAGES];   /* by this owner, unsettled */
    int failed[MESSAGES];  /* attempts that were committed or are this owner's */
    int64_t committed;
    char metadata[MARKS_TEXT_SIZE];
    int recorded[MESSAGES]; /* attempts as of the last commit */
    bool recorded_settled[MESSAGES];
    bool whole; /* the last commit told everything */
    int64_t now;
    struct core *core;
    struct core_part *part;
    struct message *running[CONCURRENCY];
    int running_count;
    int64_t fetched;
};

static void own(struct world *w) {
    struct core_options o = {
        .order = w->order, .buffer = BUFFER, .policy = {.attempts = 1000, .concurrency = CONCURRENCY}};
    assert_int_equal(core_open(&o, w->now, &w->core), HF_OK);
    assert_int_equal(core_assign(w->core, "t", 0, w->committed, w->metadata, strlen(w->metadata), &w->part),
                     HF_OK);
    w->fetched = w->committed < 0 ? 0 : w->committed;
    memcpy(w->failed, w->recorded, sizeof w->failed);
    w->running_count = 0;
    memset(w->held, 0, sizeof w->held);
}

static void fetch(struct world *w) {
    for (uint32_t n = rnd(20); n > 0 && w->fetched < MESSAGES && !core_full(w->part); n--, w->fetched++) {
        int64_t o = w->fetched;
        if (!w->exists[o]) continue;
        bool wanted = core_wanted(w->part, o);
        /* A new owner skips exactly what the last commit told as settled. */
        assert_int_equal(wanted, !w->recorded_settled[o]);
        if (!wanted) continue;
        if (rnd(50) == 0) { /* no memory for it: it is fetched again, by this owner or the next */
            core_not_taken(w->part, o);
            return;
        }
        struct message *m = calloc(1, sizeof *m);
        m->key[0] = (char)('a' + w->key[o]);
        m->core.offset = o;
        if (w->key[o] >= 0) m->core.key = hf_str_make(m->key, 1);
        assert_int_equal(core_add(w->core, w->part, &m->core), HF_OK);
        assert_int_equal(m->core.attempts, w->recorded[o]);
        w->held[o] = true;
    }
}

static bool same_lane(const struct world *w, int64_t a, int64_t b) {
    if (w->order == CORE_ORDER_NONE) return false;
    return w->order == CORE_ORDER_PARTITION || (w->key[a] >= 0 && w->key[a] == w->key[b]);
}

static void start(struct world *w) {
    struct core_message *m;
    while ((m = core_start(w->core, w->now))) {
        assert_true(w->running_count < CONCURRENCY);
        for (int i = 0; i < w->running_count; i++)
            assert_false(same_lane(w, w->running[i]->core.offset, m->offset));
        /* All earlier ones of its lane are settled: in order, and a failed one holds its lane. */
        for (int64_t o = 0; o < m->offset; o++)
            if (w->exists[o] && same_lane(w, o, m->offset)) assert_true(w->settled[o] > 0 && !w->held[o]);
        w->running[w->running_count++] = (struct message *)m;
    }
}

static void end_one(struct world *w) {
    if (w->running_count == 0) return;
    int i = (int)rnd((uint32_t)w->running_count);
    struct message *m = w->running[i];
    w->running[i] = w->running[--w->running_count];
    struct result r = {.key_hash = (uint64_t)w->key[m->core.offset] + 1,
                       .attempts = m->core.attempts,
                       .probe = m->core.probe,
                       .delay_ms = -1};
    uint32_t dice = rnd(10);
    r.how = dice < 6 ? ENDED_DONE : dice < 9 ? ENDED_FAILED : ENDED_BUSY;
    struct judgement j = policy_judge(core_policy(w->core), &r, w->now, rnd(1000));
    m->core.attempts = j.attempts;
    w->failed[m->core.offset] = j.attempts;
    if (j.fate == FATE_SETTLE) {
        w->settled[m->core.offset]++;
        w->held[m->core.offset] = false;
        core_settle(w->core, &m->core);
        free(m);
    } else {
        assert_int_equal(j.fate, FATE_RETRY);
        assert_false(core_wait(w->core, &m->core, w->now + j.delay_ms));
    }
}

static void commit(struct world *w) {
    int64_t offset;
    if (!core_position(w->part, &offset, w->metadata)) return;
    assert_true(offset >= w->committed); /* never back */
    for (int64_t o = 0; o < offset; o++)
        if (w->exists[o])
            assert_true(w->settled[o] > 0 && !w->held[o]); /* never beyond something unsettled */
    w->committed = offset;
    for (int64_t o = 0; o < MESSAGES; o++) {
        if (o < w->fetched) w->recorded_settled[o] = !w->held[o];
        w->recorded[o] = w->failed[o];
    }
}

static void drop(struct core_message *m, void *arg) {
    (void)arg;
    free(m);
}

/* Orderly: drains and commits. Or killed: what was not committed is forgotten. */
static void leave(struct world *w, bool orderly) {
    if (orderly) {
        core_drain(w->core, w->part);
        while (rnd(4) && w->running_count) end_one(w);
        core_check(w->core);
        commit(w);
    }
    core_forget(w->core, w->part, drop, NULL);
    while (w->running_count) { /* orphans */
        struct message *m = w->running[--w->running_count];
        if (rnd(2))
            core_settle(w->core, &m->core);
        else
            assert_true(core_wait(w->core, &m->core, w->now + 5));
        free(m);
    }
    core_close(w->core);
}

static void live(struct world *w, enum core_order order) {
    *w = (struct world){.order = order, .committed = -1, .now = 1000};
    for (int i = 0; i < MESSAGES; i++) {
        w->exists[i] = rnd(10) > 0;
        w->key[i] = (int)rnd(KEYS + 1) - 1;
    }
    own(w);
    for (int steps = 0; w->fetched < MESSAGES || core_held(w->core) > 0; steps++) {
        assert_true(steps < 200000); /* it ends */
        switch (rnd(12)) {
        case 0:
        case 1: fetch(w); break;
        case 2:
            w->now += rnd(3000);
            core_wake(w->core, w->now);
            break;
        case 3: commit(w); break;
        case 4:
            if (rnd(15)) break;
            leave(w, rnd(2));
            own(w);
            break;
        default: start(w); end_one(w);
        }
        core_check(w->core);
    }
    leave(w, true);
    for (int i = 0; i < MESSAGES; i++)
        if (w->exists[i]) assert_true(w->settled[i] > 0); /* nothing lost */
}

static void every_message_is_settled_in_its_order_by_whoever_owns_it(void **state) {
    (void)state;
    struct world w;
    for (seed = 1; seed <= seeds; seed++) {
        seed_of_random = (uint64_t)seed * 0x9e3779b97f4a7c15u;
        live(&w, (enum core_order)(seed % 3));
    }
}

static int tell_seed(void **state) {
    (void)state;
    printf("ended at seed %d of %d\n", seed > seeds ? seeds : seed, seeds);
    return 0;
}

static void a_full_buffer_asks_for_a_pause_until_half_is_free(void **state) {
    (void)state;
    struct core *c;
    struct core_part *p;
    struct core_options o = {.order = CORE_ORDER_NONE, .buffer = 4, .policy = {.concurrency = 10}};
    assert_int_equal(core_open(&o, 0, &c), HF_OK);
    assert_int_equal(core_assign(c, "t", 3, -1, "", 0, &p), HF_OK);
    struct message m[4] = {0};
    for (int i = 0; i < 4; i++) {
        assert_false(core_full(p));
        m[i].core.offset = i;
        assert_true(core_wanted(p, i));
        assert_int_equal(core_add(c, p, &m[i].core), HF_OK);
    }
    assert_true(core_full(p));
    core_settle(c, core_start(c, 0));
    assert_true(core_full(p));
    core_settle(c, core_start(c, 0));
    assert_false(core_full(p));
    core_settle(c, core_start(c, 0));
    core_settle(c, core_start(c, 0));
    core_close(c);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0) seeds = atoi(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_message_is_settled_in_its_order_by_whoever_owns_it, tell_seed),
        cmocka_unit_test(a_full_buffer_asks_for_a_pause_until_half_is_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
