/* Limits of groups and members, what is shown of a group, and what a restart leaves of it. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void requests_beyond_the_limits_are_refused(void **state) {
    (void)state;
    struct fixture f;
    struct joined j = {0};
    fixture_open(&f, 0,
                 &(struct groups_options){
                     .members_max = 2, .groups_max = 2, .protocols_max = 2, .member_bytes_max = 1000});
    struct group_join r = fixture_join("", NULL);
    r.session_ms = 10;
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_INVALID_SESSION_TIMEOUT);
    r = fixture_join("", NULL);
    r.group = HF_STR("");
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_INVALID_ID);
    r.group = hf_str_make("a\0b", 3);
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_INVALID_ID);
    r = fixture_join("", NULL);
    r.protocol_count = 0;
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_INCONSISTENT_PROTOCOL);
    char large[1001] = {0};
    const struct group_protocol p[3] = {{HF_STR("a"), hf_str_make(large, 600)},
                                        {HF_STR("b"), hf_str_make(large, 401)},
                                        {HF_STR("c"), HF_STR("")}};
    r.protocols = p;
    r.protocol_count = 2;
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_LIMIT);
    r.protocol_count = 3;
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_LIMIT);
    r = fixture_join("", NULL);
    join(&f, &r, &j);
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_MEMBER_ID_REQUIRED);
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_FULL);
    r.group = HF_STR("h");
    join(&f, &r, &j);
    r.group = HF_STR("i");
    join(&f, &r, &j);
    assert_int_equal(j.result, GROUP_LIMIT);
    fixture_close(&f);
}

/* However many groups: what members say about themselves is bounded as a whole. */
static void the_memory_of_all_members_is_bounded(void **state) {
    (void)state;
    struct fixture f;
    struct joined j = {0};
    char metadata[60] = {0}, name[16];
    const struct group_protocol p = {HF_STR("range"), hf_str_make(metadata, sizeof metadata)};
    fixture_open(&f, 0, &(struct groups_options){.members_bytes_max = 5000});
    int taken = 0;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "g%d", i);
        struct group_join r = fixture_join("", NULL);
        r.group = hf_str_of(name);
        r.protocols = &p;
        r.needs_known_id = false;
        join(&f, &r, &j);
        assert_true(j.result == GROUP_OK || j.result == GROUP_UNAVAILABLE);
        taken += j.result == GROUP_OK;
    }
    assert_in_range(taken, 5, 20);
    fixture_advance(&f, 60000); /* all have died: there is room again */
    join_at_once(&f, "g", &j);
    assert_int_equal(j.result, GROUP_OK);
    fixture_close(&f);
}

static void count_member(void *arg, const struct group_member_view *m) {
    struct group_member_view *last = arg;
    *last = *m;
}

static void a_group_is_described_and_forgotten_when_it_is_of_no_use(void **state) {
    struct fixture *f = *state;
    char a[256];
    struct group_view v;
    struct group_member_view m;
    group_describe(f->gs, HF_STR("g"), &v, NULL, NULL);
    assert_int_equal(v.state, GROUP_DEAD);
    stable_alone(f, a);
    group_describe(f->gs, HF_STR("g"), &v, count_member, &m);
    assert_true(v.state == GROUP_STABLE && v.member_count == 1 && v.generation == 1);
    assert_true(hf_str_is(v.protocol, "range") && hf_str_is(v.protocol_type, "consumer"));
    assert_true(hf_str_is(m.id, a) && hf_str_is(m.client_id, "client") &&
                hf_str_is(m.client_host, "/127.0.0.1"));
    assert_true(hf_str_is(m.metadata, "m") && hf_str_is(m.assignment, "all"));
    leave(f, a);
    group_describe(f->gs, HF_STR("g"), &v, NULL, NULL);
    assert_int_equal(v.state, GROUP_EMPTY);
    fixture_advance(f, 600000);
    assert_int_equal(state_of(f), GROUP_DEAD);
}

static void after_a_restart_members_are_unknown_and_join_anew(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = stable_alone(f, a);
    assert_int_equal(commit_offset(f, a, generation, 42), GROUP_OK);
    fixture_restart(f);
    assert_int_equal(beat(f, a, generation), GROUP_UNKNOWN_MEMBER);
    assert_int_equal(commit_offset(f, a, generation, 43), GROUP_UNKNOWN_MEMBER);
    struct joined j = {0};
    struct group_join r = fixture_join(a, NULL);
    join(f, &r, &j);
    assert_int_equal(j.result, GROUP_UNKNOWN_MEMBER);
    stable_alone(f, b);
    assert_true(offset_of(f) == 42);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_beyond_the_limits_are_refused),
        cmocka_unit_test(the_memory_of_all_members_is_bounded),
        GROUP_TEST(a_group_is_described_and_forgotten_when_it_is_of_no_use),
        GROUP_TEST(after_a_restart_members_are_unknown_and_join_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
