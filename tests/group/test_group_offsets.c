/* Committed offsets: durable before they are answered, never back, gone with their topic or group. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void an_offset_is_shown_and_answered_only_when_durable(void **state) {
    struct fixture *f = *state;
    char a[256];
    int32_t generation = stable_alone(f, a);
    struct committed c = {.n = 1};
    const struct group_offset o = {HF_STR("t"), 0, 5, 7, HF_STR("meta")};
    const struct group_commit r = {{HF_STR("g"), hf_str_of(a), {NULL, 0}, generation}, &o, 1};
    group_commit(f->gs, f->now_ms, &r, on_committed, &c);
    groups_check(f->gs);
    assert_int_equal(c.times, 0);
    assert_true(offset_of(f) == -1);
    fixture_settle(f);
    assert_true(c.times == 1 && c.all == GROUP_OK && c.each[0] == GROUP_OK);
    assert_true(offset_of(f) == 5);
    assert_true(engine_committed(memory_engine_engine(f->m), HF_STR("g"), HF_STR("t"), 0) == 5);
}

static void only_members_of_the_generation_commit_while_there_are_members(void **state) {
    struct fixture *f = *state;
    char a[256];
    assert_int_equal(commit_offset(f, "", -1, 1), GROUP_OK); /* a simple consumer */
    int32_t generation = stable_alone(f, a);
    assert_int_equal(commit_offset(f, "", -1, 2), GROUP_UNKNOWN_MEMBER);
    assert_int_equal(commit_offset(f, a, generation + 1, 2), GROUP_ILLEGAL_GENERATION);
    assert_int_equal(commit_offset(f, "x", generation, 2), GROUP_UNKNOWN_MEMBER);
    assert_true(offset_of(f) == 1);
    assert_int_equal(commit_offset(f, a, generation, 2), GROUP_OK);
    struct joined j = {0};
    struct group_join r = fixture_join(a, NULL);
    join(f, &r, &j); /* the leader joins again: completing */
    assert_int_equal(commit_offset(f, a, j.generation, 3), GROUP_REBALANCING);
    assert_int_equal(leave(f, a), GROUP_OK);
    assert_int_equal(commit_offset(f, "", -1, 4), GROUP_OK);
    assert_true(offset_of(f) == 4);
}

static void a_commit_of_a_group_that_was_never_heard_of_is_an_illegal_generation(void **state) {
    struct fixture *f = *state;
    assert_int_equal(commit_offset(f, "x", 3, 1), GROUP_ILLEGAL_GENERATION);
    assert_int_equal(state_of(f), GROUP_DEAD);
}

static void each_offset_of_a_commit_has_its_own_result(void **state) {
    (void)state;
    struct fixture f;
    char large[4097] = {0};
    fixture_open(&f, 0, &(struct groups_options){.offsets_max = 2});
    struct committed c = {.n = 5};
    const struct group_offset o[] = {{HF_STR("t"), 0, 5, 7, HF_STR("meta")},
                                     {HF_STR("t"), 1, 5, 7, hf_str_make(large, 4097)},
                                     {HF_STR(""), 2, 5, 7, HF_STR("meta")},
                                     {HF_STR("t"), 3, 5, 7, hf_str_make(large, 4096)},
                                     {HF_STR("t"), 4, 5, 7, HF_STR("")}};
    const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, o, 5};
    group_commit(f.gs, f.now_ms, &r, on_committed, &c);
    fixture_settle(&f);
    static const enum group_result expected[] = {GROUP_OK, GROUP_METADATA_TOO_LARGE, GROUP_INVALID_ID,
                                                 GROUP_OK, GROUP_LIMIT};
    for (int i = 0; i < 5; i++) assert_int_equal(c.each[i], expected[i]);
    assert_true(offset_of(&f) == 5);
    fixture_close(&f);
}

static void collect(void *arg, const struct group_offset *o) {
    char *text = arg;
    size_t n = strlen(text);
    snprintf(text + n, 256 - n, "%.*s-%d=%lld ", (int)o->topic.n, o->topic.p, o->partition,
             (long long)o->offset);
}

static void all_offsets_of_a_group_are_listed_in_order_and_survive_a_restart(void **state) {
    struct fixture *f = *state;
    char text[256] = "";
    struct committed c = {.n = 4};
    const struct group_offset o[] = {{HF_STR("b"), 10, 1, -1, HF_STR("")},
                                     {HF_STR("b"), 2, 2, -1, HF_STR("")},
                                     {HF_STR("a"), 0, 3, -1, HF_STR("")},
                                     {HF_STR("b"), 2, 4, -1, HF_STR("")}};
    const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, o, 4};
    group_commit(f->gs, f->now_ms, &r, on_committed, &c);
    fixture_settle(f);
    group_offset_each(f->gs, HF_STR("g"), collect, text);
    assert_string_equal(text, "a-0=3 b-2=4 b-10=1 ");
    fixture_restart(f);
    text[0] = 0;
    group_offset_each(f->gs, HF_STR("g"), collect, text);
    assert_string_equal(text, "a-0=3 b-2=4 b-10=1 ");
    assert_int_equal(state_of(f), GROUP_EMPTY);
}

static void a_busy_engine_makes_commits_wait_in_line(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, &(struct groups_options){.waiting_offsets_max = 5});
    memory_engine_fail(f.m, MEMORY_COMMIT, HF_EAGAIN, 0, 3);
    struct committed c[8] = {{0}};
    for (int i = 0; i < 8; i++) {
        c[i].n = 1;
        const struct group_offset o = {HF_STR("t"), 0, i, 7, HF_STR("meta")};
        const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, &o, 1};
        group_commit(f.gs, f.now_ms, &r, on_committed, &c[i]);
        groups_check(f.gs);
    }
    fixture_settle(&f); /* six failures: two retries, then in */
    for (int i = 0; i < 8; i++) {
        assert_int_equal(c[i].times, 1);
        assert_int_equal(c[i].each[0], i < 5 ? GROUP_OK : GROUP_UNAVAILABLE);
    }
    assert_true(offset_of(&f) == 4);
    fixture_close(&f);
}

static void a_commit_that_fails_changes_nothing(void **state) {
    struct fixture *f = *state;
    assert_int_equal(commit_offset(f, "", -1, 1), GROUP_OK);
    memory_engine_fail(f->m, MEMORY_COMMIT, HF_ENOSPC, 0, 1);
    assert_int_equal(commit_offset(f, "", -1, 2), GROUP_UNAVAILABLE);
    memory_engine_fail(f->m, MEMORY_COMMIT_DONE, HF_EIO, 0, 1);
    assert_int_equal(commit_offset(f, "", -1, 3), GROUP_UNAVAILABLE);
    assert_true(offset_of(f) == 1);
}

static void count_key(void *arg, hf_str key) {
    assert_true(hf_str_starts(key, HF_STR("offset/")));
    ++*(int *)arg;
}

/* Also of a commit that is under way: its key is dropped with the topic, and its completion brings nothing
 * back. */
static void the_offsets_of_a_deleted_topic_are_gone(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct fixture f;
        int keys = 0;
        fixture_open(&f, seed, NULL);
        assert_int_equal(memory_engine_topic_create(f.m, HF_STR("t"), 2), HF_OK);
        assert_int_equal(commit_offset(&f, "", -1, 1), GROUP_OK);
        struct committed c = {.n = 1};
        const struct group_offset o = {HF_STR("t"), 1, 9, 7, HF_STR("meta")};
        const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, &o, 1};
        group_commit(f.gs, f.now_ms, &r, on_committed, &c);
        groups_topic_keys(f.gs, HF_STR("t"), count_key, &keys);
        assert_int_equal(keys, 2);
        groups_topic_deleted(f.gs, f.now_ms, HF_STR("t"));
        fixture_settle(&f);
        assert_int_equal(c.times, 1);
        assert_true(offset_of(&f) == -1);
        struct groups_stats s;
        groups_stats(f.gs, &s);
        assert_int_equal(s.offsets, 0);
        fixture_close(&f);
    }
}

/* The engine takes it only after the deletion's record: it must not write what that one dropped. */
static void a_commit_that_waited_brings_no_offset_of_a_deleted_topic_back(void **state) {
    struct fixture *f = *state;
    memory_engine_fail(f->m, MEMORY_COMMIT, HF_EAGAIN, 0, 3);
    struct committed c = {.n = 1};
    const struct group_offset o = {HF_STR("t"), 0, 9, 7, HF_STR("meta")};
    const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, &o, 1};
    group_commit(f->gs, f->now_ms, &r, on_committed, &c);
    groups_topic_deleted(f->gs, f->now_ms, HF_STR("t"));
    fixture_settle(f);
    assert_int_equal(c.times, 1);
    assert_true(offset_of(f) == -1);
    fixture_restart(f);
    assert_true(offset_of(f) == -1);
}

static void on_deleted(void *arg, enum group_result e) {
    struct committed *c = arg;
    c->times++;
    c->all = e;
}

static void on_many_committed(void *arg, enum group_result all, const enum group_result *results) {
    struct committed *c = arg;
    (void)results;
    c->times++;
    c->all = all;
}

static void a_group_with_more_offsets_than_one_commit_takes_is_deleted_by_several(void **state) {
    (void)state;
    enum { MANY = 25000 };
    static struct group_offset many[MANY];
    struct fixture f;
    struct committed c = {0}, d = {0};
    struct groups_stats before, after;
    fixture_open(&f, 0, NULL);
    for (int32_t i = 0; i < MANY; i++) many[i] = (struct group_offset){HF_STR("t"), i, 9, 7, HF_STR("")};
    const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, many, MANY};
    group_commit(f.gs, f.now_ms, &r, on_many_committed, &c);
    fixture_settle(&f);
    assert_true(c.times == 1 && c.all == GROUP_OK);
    groups_stats(f.gs, &before);
    assert_int_equal(before.offsets, MANY);
    group_delete(f.gs, f.now_ms, HF_STR("g"), on_deleted, &d);
    for (int i = 0; i < 5; i++) fixture_settle(&f);
    assert_true(d.times == 1 && d.all == GROUP_OK);
    groups_stats(f.gs, &after);
    assert_int_equal(after.offsets, 0);
    assert_int_equal(after.commits - before.commits, 3);
    assert_int_equal(state_of(&f), GROUP_DEAD);
    fixture_restart(&f);
    assert_true(offset_of(&f) == -1);
    fixture_close(&f);
}

static void only_an_empty_group_is_deleted_and_its_offsets_stay_away(void **state) {
    struct fixture *f = *state;
    char a[256];
    struct committed d = {0};
    group_delete(f->gs, f->now_ms, HF_STR("g"), on_deleted, &d);
    assert_int_equal(d.all, GROUP_NOT_FOUND);
    int32_t generation = stable_alone(f, a);
    assert_int_equal(commit_offset(f, a, generation, 3), GROUP_OK);
    group_delete(f->gs, f->now_ms, HF_STR("g"), on_deleted, &d);
    assert_int_equal(d.all, GROUP_NOT_EMPTY);
    leave(f, a);
    d.times = 0;
    group_delete(f->gs, f->now_ms, HF_STR("g"), on_deleted, &d);
    assert_int_equal(d.times, 0); /* not before it is durable */
    fixture_settle(f);
    assert_true(d.times == 1 && d.all == GROUP_OK);
    assert_int_equal(state_of(f), GROUP_DEAD);
    fixture_restart(f);
    assert_true(offset_of(f) == -1);
}

static void the_offsets_of_a_group_that_nobody_uses_are_deleted_in_time(void **state) {
    (void)state;
    enum { KEPT_MS = 1000000 };
    struct fixture f;
    char id[256];
    fixture_open(&f, 0, &(struct groups_options){.offsets_retention_ms = KEPT_MS});
    int32_t generation = stable_alone(&f, id);
    assert_int_equal(commit_offset(&f, id, generation, 5), GROUP_OK);
    for (int i = 0; i < KEPT_MS / 5000 + 10; i++) { /* a member keeps them */
        fixture_advance(&f, 5000);
        assert_int_equal(beat(&f, id, generation), GROUP_OK);
    }
    assert_int_equal(leave(&f, id), GROUP_OK);
    fixture_advance(&f, KEPT_MS - 1);
    assert_int_equal(offset_of(&f), 5);
    assert_int_equal(commit_offset(&f, "", -1, 6), GROUP_OK); /* so does a commit without one */
    fixture_advance(&f, KEPT_MS - 1);
    assert_int_equal(offset_of(&f), 6);
    fixture_restart(&f); /* and the time begins anew */
    fixture_advance(&f, KEPT_MS - 1);
    fixture_settle(&f);
    assert_int_equal(offset_of(&f), 6);
    fixture_advance(&f, 1);
    fixture_settle(&f);
    groups_check(f.gs);
    assert_int_equal(offset_of(&f), -1);
    assert_int_equal(state_of(&f), GROUP_DEAD);
    fixture_restart(&f);
    assert_int_equal(offset_of(&f), -1);
    fixture_close(&f);
}

static void without_a_retention_offsets_stay(void **state) {
    struct fixture *f = *state;
    assert_int_equal(commit_offset(f, "", -1, 6), GROUP_OK);
    fixture_advance(f, HF_DAYS(1000));
    fixture_settle(f);
    assert_int_equal(offset_of(f), 6);
}

/* Commits in every state of completion while the process dies again and again. */
static void answered_offsets_never_go_back(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct fixture f;
        enum { COMMITS = 40 };
        struct committed c[COMMITS] = {{0}};
        int64_t answered = -1;
        fixture_open(&f, seed, NULL);
        memory_engine_fail_rate(f.m, MEMORY_COMMIT, HF_EAGAIN, 200);
        memory_engine_fail_rate(f.m, MEMORY_COMMIT_DONE, HF_ENOSPC, 50);
        for (int i = 0; i < COMMITS; i++) {
            c[i].n = 1;
            const struct group_offset o = {HF_STR("t"), 0, i, 7, HF_STR("meta")};
            const struct group_commit r = {{HF_STR("g"), HF_STR(""), {NULL, 0}, -1}, &o, 1};
            group_commit(f.gs, f.now_ms, &r, on_committed, &c[i]);
            if (seed % 3) memory_engine_step(f.m);
            fixture_advance(&f, 1);
            if ((seed * 7 + (uint64_t)i) % 11 == 0) fixture_restart(&f);
            for (int k = 0; k <= i; k++)
                if (c[k].times && c[k].each[0] == GROUP_OK && k > answered) answered = k;
            int64_t shown = offset_of(&f);
            if (shown < answered || shown > i)
                fail_msg("seed %llu: %lld shown, %lld answered", (unsigned long long)seed, (long long)shown,
                         (long long)answered);
            answered = shown;
        }
        fixture_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        GROUP_TEST(an_offset_is_shown_and_answered_only_when_durable),
        GROUP_TEST(only_members_of_the_generation_commit_while_there_are_members),
        GROUP_TEST(a_commit_of_a_group_that_was_never_heard_of_is_an_illegal_generation),
        cmocka_unit_test(each_offset_of_a_commit_has_its_own_result),
        GROUP_TEST(all_offsets_of_a_group_are_listed_in_order_and_survive_a_restart),
        cmocka_unit_test(a_busy_engine_makes_commits_wait_in_line),
        GROUP_TEST(a_commit_that_fails_changes_nothing),
        cmocka_unit_test(the_offsets_of_a_deleted_topic_are_gone),
        GROUP_TEST(a_commit_that_waited_brings_no_offset_of_a_deleted_topic_back),
        cmocka_unit_test(a_group_with_more_offsets_than_one_commit_takes_is_deleted_by_several),
        GROUP_TEST(only_an_empty_group_is_deleted_and_its_offsets_stay_away),
        cmocka_unit_test(the_offsets_of_a_group_that_nobody_uses_are_deleted_in_time),
        GROUP_TEST(without_a_retention_offsets_stay),
        cmocka_unit_test(answered_offsets_never_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
