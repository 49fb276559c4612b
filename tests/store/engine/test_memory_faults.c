/* What the memory engine adds to the contract: faults on request, topics that go away. */
#include "store/engine/memory.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct note {
    int times;
    enum hf_err e;
};

static void noted(void *arg, enum hf_err e) {
    struct note *n = arg;
    n->times++;
    n->e = e;
}

static struct memory_engine *engine_with(uint64_t seed) {
    struct memory_engine *m;
    memory_engine_open(&(struct memory_options){.seed = seed}, &m);
    assert_int_equal(memory_engine_topic_create(m, HF_STR("a"), 1), HF_OK);
    return m;
}

static enum hf_err put_number(struct memory_engine *m, uint8_t number, struct note *n) {
    const struct engine_out out = {HF_STR("a"), 0, {NULL, 0}, hf_str_make(&number, 1), NULL, 0};
    const struct engine_put put = {HF_STR("k"), hf_str_make(&number, 1)};
    return engine_commit(memory_engine_engine(m),
                         &(struct engine_commit){.outs = &out, .out_count = 1, .puts = &put, .put_count = 1},
                         noted, n);
}

static void count(void *arg, const struct engine_record *r) {
    (void)r;
    ++*(int *)arg;
}

/* Of ten commits the fifth fails in its completion, and with it those started before that was told. */
static void a_commit_that_fails_takes_the_later_ones_with_it(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct memory_engine *m = engine_with(seed);
        memory_engine_fail(m, MEMORY_COMMIT_DONE, HF_ENOSPC, 4, 1);
        struct note notes[10] = {{0, HF_OK}};
        bool expect_failure[10];
        for (uint8_t i = 0; i < 10; i++) {
            expect_failure[i] = i == 4;
            for (int k = 4; k < i; k++) expect_failure[i] |= expect_failure[k] && notes[k].times == 0;
            assert_int_equal(put_number(m, i, &notes[i]), HF_OK);
            if (seed % 2) memory_engine_step(m);
        }
        memory_engine_settle(m);
        memory_engine_check(m);
        int good = 0, records = 0;
        for (int i = 0; i < 10; i++) {
            assert_int_equal(notes[i].times, 1);
            assert_int_equal(notes[i].e, expect_failure[i] ? HF_ENOSPC : HF_OK);
            good += !expect_failure[i];
        }
        memory_engine_each(m, HF_STR("a"), 0, count, &records);
        assert_int_equal(records, good);
        memory_engine_close(m);
    }
}

static void calls_fail_when_told_and_are_counted(void **state) {
    (void)state;
    struct memory_engine *m = engine_with(1);
    struct note n = {0, HF_OK};
    memory_engine_fail(m, MEMORY_COMMIT, HF_EAGAIN, 1, 2);
    assert_int_equal(put_number(m, 1, &n), HF_OK);
    assert_int_equal(put_number(m, 2, &n), HF_EAGAIN);
    assert_int_equal(put_number(m, 2, &n), HF_EAGAIN);
    assert_int_equal(put_number(m, 2, &n), HF_OK);
    assert_int_equal(memory_engine_calls(m, MEMORY_COMMIT), 4);
    memory_engine_fail_rate(m, MEMORY_COMMIT, HF_ENOTFOUND, 1000);
    assert_int_equal(put_number(m, 3, &n), HF_ENOTFOUND);
    memory_engine_settle(m);
    assert_int_equal(n.times, 2);
    memory_engine_close(m);
}

static void a_deleted_topic_fails_commits_under_way_and_drops_its_offsets(void **state) {
    (void)state;
    struct memory_engine *m = engine_with(0);
    struct note n = {0, HF_OK};
    int32_t partitions;
    memory_engine_commit_offset(m, HF_STR("g"), HF_STR("a"), 0, 5);
    memory_engine_commit_offset(m, HF_STR("g"), HF_STR("ab"), 0, 6);
    assert_int_equal(put_number(m, 1, &n), HF_OK);
    assert_int_equal(memory_engine_topic_delete(m, HF_STR("a")), HF_OK);
    memory_engine_settle(m);
    assert_int_equal(n.e, HF_ENOTFOUND);
    assert_int_equal(engine_topic(memory_engine_engine(m), HF_STR("a"), false, &partitions), HF_ENOTFOUND);
    assert_true(engine_committed(memory_engine_engine(m), HF_STR("g"), HF_STR("a"), 0) == -1);
    assert_true(engine_committed(memory_engine_engine(m), HF_STR("g"), HF_STR("ab"), 0) == 6);
    memory_engine_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_that_fails_takes_the_later_ones_with_it),
        cmocka_unit_test(calls_fail_when_told_and_are_counted),
        cmocka_unit_test(a_deleted_topic_fails_commits_under_way_and_drops_its_offsets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
