/* What is left after the process above ended, cleanly or not. */
#include "contract_internal.h"

static const hf_str ours = {"holdfast.delay", 14};
static const hf_str none = {NULL, 0};

static void count_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    (void)id, (void)bucket, (void)bytes;
    ++*(size_t *)arg;
}

static size_t runs_named(struct world *t) {
    size_t n = 0;
    engine_run_each(eng(t), count_run, &n);
    return n;
}

static void everything_durable_survives(struct world *t, enum contract_stop how) {
    t->f->topic_create(t->w, ours, 2);
    uint64_t sequences[2][5];
    for (int i = 0; i < 10; i++) must_append(t, ours, i % 2, 100 + i, HF_STR("k"), HF_STR("v"));
    for (int32_t p = 0; p < 2; p++) {
        struct engine_cursor *c = NULL;
        struct engine_record r;
        assert_int_equal(engine_cursor_open(eng(t), ours, p, &c), HF_OK);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(engine_cursor_next(c, &r), HF_OK);
            sequences[p][i] = r.sequence;
        }
        engine_cursor_close(c);
    }
    uint64_t named = sealed_run(t, 1, 5000), unnamed = sealed_run(t, 2, 10);
    const struct engine_put put = {HF_STR("key"), HF_STR("value")};
    must_commit(t, &(struct engine_commit){
                       .puts = &put, .put_count = 1, .runs_added = &named, .runs_added_count = 1});
    t->f->reopen(t->w, how);
    assert_true(hf_str_is(engine_state_get(eng(t), HF_STR("key")), "value"));
    assert_int_equal(runs_named(t), 1);
    uint8_t byte = 0;
    assert_int_equal(engine_run_read(eng(t), named, 4999, &byte, 1), HF_OK);
    assert_int_equal(byte, (uint8_t)(4999 * 7));
    assert_int_equal(engine_run_read(eng(t), unnamed, 0, &byte, 1), HF_ENOTFOUND);
    uint64_t last = 0;
    for (int32_t p = 0; p < 2; p++) {
        struct engine_cursor *c = NULL;
        struct engine_record r;
        assert_int_equal(engine_cursor_open(eng(t), ours, p, &c), HF_OK);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(engine_cursor_next(c, &r), HF_OK);
            assert_true(r.sequence == sequences[p][i]);
            last = r.sequence > last ? r.sequence : last;
        }
        engine_cursor_close(c);
    }
    must_append(t, ours, 0, 500, HF_STR("k"), HF_STR("v"));
    struct engine_cursor *c = NULL;
    struct engine_record r;
    assert_int_equal(engine_cursor_open(eng(t), ours, 0, &c), HF_OK);
    for (int i = 0; i < 6; i++) assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_true(r.sequence > last);
    engine_cursor_close(c);
}

static void what_is_durable_survives_a_clean_stop(void **state) {
    everything_durable_survives(*state, CONTRACT_CLEAN);
}

static void what_is_durable_survives_a_crash(void **state) {
    everything_durable_survives(*state, CONTRACT_CRASH);
}

/* Commits 0, 1, 2 … each write to two partitions and the state; a crash strikes anywhere. */
static void a_crash_leaves_a_prefix_of_the_commits_each_whole(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, HF_STR("a"), 2);
    uint32_t next = 0;
    for (int round = 0; round < 30; round++) {
        enum { BURST = 8 };
        struct note notes[BURST] = {0};
        uint32_t first = next, durable = first;
        for (int i = 0; i < BURST; i++, next++) {
            uint8_t number[4];
            hf_put_be32(number, next + 1);
            const struct engine_out outs[] = {{HF_STR("a"), 0, none, hf_str_make(number, 4), NULL, 0},
                                              {HF_STR("a"), 1, none, hf_str_make(number, 4), NULL, 0}};
            const struct engine_put put = {HF_STR("last"), hf_str_make(number, 4)};
            start_commit(t,
                         &(struct engine_commit){
                             .now_ms = round, .outs = outs, .out_count = 2, .puts = &put, .put_count = 1},
                         &notes[i]);
        }
        for (int i = 0; i < round % 5; i++) t->f->step(t->w);
        for (int i = 0; i < BURST; i++)
            if (notes[i].times) durable = first + (uint32_t)i + 1;
        int64_t end = stable_end(t, HF_STR("a"), 0);
        t->f->reopen(t->w, CONTRACT_CRASH);
        assert_true(stable_end(t, HF_STR("a"), 0) >= end);
        hf_str last = engine_state_get(eng(t), HF_STR("last"));
        uint32_t have = last.n ? hf_get_be32(last.p) : 0;
        assert_true(have >= durable && have <= next);
        assert_int_equal(count_records(t, HF_STR("a"), 0), have);
        assert_int_equal(count_records(t, HF_STR("a"), 1), have);
        next = have;
    }
}

static void a_run_is_named_by_a_crashed_commit_whole_or_not_at_all(void **state) {
    struct world *t = *state;
    for (int round = 0; round < 20; round++) {
        uint64_t id = sealed_run(t, 5, 700);
        size_t before = runs_named(t);
        const struct engine_put put = {HF_STR("run"), hf_str_make(&id, sizeof id)};
        struct note n = {0};
        start_commit(
            t,
            &(struct engine_commit){.runs_added = &id, .runs_added_count = 1, .puts = &put, .put_count = 1},
            &n);
        if (round % 3 == 0) t->f->step(t->w);
        t->f->reopen(t->w, CONTRACT_CRASH);
        hf_str got = engine_state_get(eng(t), HF_STR("run"));
        bool happened = got.n == sizeof id && memcmp(got.p, &id, sizeof id) == 0;
        assert_true(happened || n.times == 0);
        assert_int_equal(runs_named(t), before + happened);
        uint8_t bytes[700];
        assert_int_equal(engine_run_read(eng(t), id, 0, bytes, sizeof bytes),
                         happened ? HF_OK : HF_ENOTFOUND);
    }
}

static void a_dropped_run_stays_dropped(void **state) {
    struct world *t = *state;
    uint64_t id = sealed_run(t, 5, 700), newer;
    must_commit(t, &(struct engine_commit){.runs_added = &id, .runs_added_count = 1});
    must_commit(t, &(struct engine_commit){.runs_dropped = &id, .runs_dropped_count = 1});
    t->f->reopen(t->w, CONTRACT_CRASH);
    assert_int_equal(runs_named(t), 0);
    newer = sealed_run(t, 5, 1);
    assert_true(newer != id); /* an id is never used again */
}

static void the_id_of_a_run_that_nobody_named_is_not_used_again(void **state) {
    struct world *t = *state;
    uint64_t unnamed = sealed_run(t, 5, 700);
    t->f->reopen(t->w, CONTRACT_CRASH);
    assert_true(sealed_run(t, 5, 1) != unnamed);
}

static void deleted_state_stays_deleted(void **state) {
    struct world *t = *state;
    struct engine_put put = {HF_STR("k"), HF_STR("v")};
    must_commit(t, &(struct engine_commit){.puts = &put, .put_count = 1});
    put.value = none;
    must_commit(t, &(struct engine_commit){.puts = &put, .put_count = 1});
    t->f->reopen(t->w, CONTRACT_CRASH);
    assert_null(engine_state_get(eng(t), HF_STR("k")).p);
}

const struct CMUnitTest contract_restart_tests[] = {
    CONTRACT_TEST(what_is_durable_survives_a_clean_stop),
    CONTRACT_TEST(what_is_durable_survives_a_crash),
    CONTRACT_TEST(a_crash_leaves_a_prefix_of_the_commits_each_whole),
    CONTRACT_TEST(a_run_is_named_by_a_crashed_commit_whole_or_not_at_all),
    CONTRACT_TEST(a_dropped_run_stays_dropped),
    CONTRACT_TEST(the_id_of_a_run_that_nobody_named_is_not_used_again),
    CONTRACT_TEST(deleted_state_stays_deleted),
};
const size_t contract_restart_count = sizeof contract_restart_tests / sizeof contract_restart_tests[0];
