/* Membership, one behaviour at a time. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void a_new_member_is_given_an_id_first_and_then_leads_alone(void **state) {
    struct fixture *f = *state;
    char id[256];
    int32_t generation = stable_alone(f, id);
    assert_int_equal(generation, 1);
    assert_memory_equal(id, "client-", 7);
    assert_int_equal(beat(f, id, generation), GROUP_OK);
    assert_int_equal(beat(f, id, generation + 1), GROUP_ILLEGAL_GENERATION);
    assert_int_equal(beat(f, "somebody", generation), GROUP_UNKNOWN_MEMBER);
}

static void an_old_client_joins_without_the_detour(void **state) {
    struct fixture *f = *state;
    struct joined j = {0};
    join_at_once(f, "g", &j);
    assert_int_equal(j.result, GROUP_OK);
    assert_int_equal(j.generation, 1);
}

/* The first is stable, a second comes: the first hears of it by its heartbeat, joins again, and both go on in
 * the next generation. */
static int32_t two_members(struct fixture *f, char first[256], char second[256]) {
    int32_t generation = stable_alone(f, first);
    struct joined ja = {0}, jb = {0};
    struct synced sa = {0}, sb = {0};
    join_new(f, &jb, second);
    assert_int_equal(jb.times, 0);
    assert_int_equal(state_of(f), GROUP_PREPARING);
    assert_int_equal(beat(f, first, generation), GROUP_REBALANCING);
    struct group_join r = fixture_join(first, NULL);
    join(f, &r, &ja);
    assert_true(ja.times == 1 && jb.times == 1);
    assert_true(ja.result == GROUP_OK && jb.result == GROUP_OK);
    assert_int_equal(ja.generation, generation + 1);
    assert_int_equal(jb.generation, generation + 1);
    assert_string_equal(ja.leader, first);
    assert_string_equal(jb.leader, first);
    assert_true(ja.member_count == 2 && jb.member_count == 0);
    assert_string_equal(ja.metadata[1], "m");
    sync_as(f, second, jb.generation, NULL, 0, &sb);
    assert_int_equal(sb.times, 0);
    const struct group_assignment a[] = {{hf_str_of(second), HF_STR("two")},
                                         {hf_str_of(first), HF_STR("one")}};
    sync_as(f, first, ja.generation, a, 2, &sa);
    assert_true(sa.times == 1 && sb.times == 1);
    assert_string_equal(sa.assignment, "one");
    assert_string_equal(sb.assignment, "two");
    assert_int_equal(state_of(f), GROUP_STABLE);
    return ja.generation;
}

static void a_second_member_begins_a_rebalance_that_both_finish(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    two_members(f, a, b);
}

static void a_member_that_leaves_begins_a_rebalance(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = two_members(f, a, b);
    assert_int_equal(leave(f, a), GROUP_OK); /* the leader */
    assert_int_equal(leave(f, a), GROUP_UNKNOWN_MEMBER);
    assert_int_equal(beat(f, b, generation), GROUP_REBALANCING);
    struct joined j = {0};
    struct group_join r = fixture_join(b, NULL);
    join(f, &r, &j);
    assert_int_equal(j.times, 1);
    assert_string_equal(j.leader, b);
    assert_int_equal(leave(f, b), GROUP_OK);
    assert_int_equal(state_of(f), GROUP_EMPTY);
}

static void a_silent_member_is_dropped_after_its_session(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = two_members(f, a, b);
    for (int i = 0; i < 9; i++) {
        fixture_advance(f, 1000);
        assert_int_equal(beat(f, a, generation), GROUP_OK);
    }
    fixture_advance(f, 1000);
    assert_int_equal(beat(f, a, generation), GROUP_REBALANCING);
    assert_int_equal(beat(f, b, generation), GROUP_UNKNOWN_MEMBER);
}

static void whoever_misses_the_rebalance_timeout_is_dropped(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = stable_alone(f, a);
    struct joined j = {0};
    join_new(f, &j, b);
    for (int i = 0; i < 29; i++) { /* alive, but it does not join */
        fixture_advance(f, 1000);
        assert_int_equal(beat(f, a, generation), GROUP_REBALANCING);
        assert_int_equal(j.times, 0);
    }
    fixture_advance(f, 1000);
    assert_int_equal(j.times, 1);
    assert_int_equal(j.result, GROUP_OK);
    assert_string_equal(j.leader, b);
    assert_int_equal(j.member_count, 1);
    assert_int_equal(beat(f, a, generation), GROUP_UNKNOWN_MEMBER);
}

static void whoever_owes_its_sync_too_long_is_dropped(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = stable_alone(f, a);
    struct joined ja = {0}, jb = {0};
    struct synced sb = {0};
    join_new(f, &jb, b);
    struct group_join r = fixture_join(a, NULL);
    join(f, &r, &ja);
    sync_as(f, b, jb.generation, NULL, 0, &sb); /* the leader a beats, but never syncs */
    for (int i = 0; i < 30; i++) {
        assert_int_equal(beat(f, a, generation + 1), GROUP_OK);
        assert_int_equal(sb.times, 0);
        fixture_advance(f, 1000);
    }
    assert_int_equal(sb.times, 1);
    assert_int_equal(sb.result, GROUP_REBALANCING);
    assert_int_equal(beat(f, a, generation + 1), GROUP_UNKNOWN_MEMBER);
}

/* The leader takes 25 s to assign; the follower's session of 10 s does not run while its sync waits, and
 * begins anew with the answer. */
static void a_session_does_not_run_while_a_request_waits(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    stable_alone(f, a);
    struct joined ja = {0}, jb = {0};
    struct synced sa = {0}, sb = {0};
    join_new(f, &jb, b);
    fixture_advance(f, 9000);
    struct group_join r = fixture_join(a, NULL);
    join(f, &r, &ja);
    sync_as(f, b, jb.generation, NULL, 0, &sb);
    for (int i = 0; i < 25; i++) {
        fixture_advance(f, 1000);
        assert_int_equal(beat(f, a, ja.generation), GROUP_OK);
    }
    sync_as(f, a, ja.generation, NULL, 0, &sa);
    assert_int_equal(sb.times, 1);
    assert_int_equal(sb.result, GROUP_OK);
    fixture_advance(f, 9000);
    assert_int_equal(beat(f, b, jb.generation), GROUP_OK);
}

static void a_member_that_died_while_its_join_waited_is_dropped_after_its_session(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = stable_alone(f, a);
    struct joined ja = {0}, jb = {0};
    join_new(f, &jb, b);
    assert_true(group_gone(f->gs, f->now_ms, HF_STR("g"), &jb));
    groups_check(f->gs);
    assert_false(group_gone(f->gs, f->now_ms, HF_STR("g"), &jb));
    assert_false(group_gone(f->gs, f->now_ms, HF_STR("other"), &jb));
    struct group_join r = fixture_join(a, NULL);
    join(f, &r, &ja);
    fixture_advance(f, 9000);
    assert_int_equal(ja.times, 0); /* b may come back until its session ends */
    fixture_advance(f, 1000);
    assert_true(ja.times == 1 && ja.result == GROUP_OK && ja.member_count == 1);
    assert_int_equal(ja.generation, generation + 1);
    assert_int_equal(jb.times, 0);
}

static void a_member_whose_connection_broke_while_it_waited_comes_back(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    stable_alone(f, a);
    struct joined ja = {0}, jb = {0};
    struct synced sa = {0}, lost = {0}, sb = {0};
    join_new(f, &jb, b);
    assert_true(group_gone(f->gs, f->now_ms, HF_STR("g"), &jb));
    struct group_join ra = fixture_join(a, NULL), rb = fixture_join(b, NULL);
    join(f, &ra, &ja);
    fixture_advance(f, 5000);
    join(f, &rb, &jb);
    assert_true(ja.times == 1 && jb.times == 1 && jb.result == GROUP_OK);
    sync_as(f, b, jb.generation, NULL, 0, &lost);
    assert_true(group_gone(f->gs, f->now_ms, HF_STR("g"), &lost));
    groups_check(f->gs);
    const struct group_assignment all[] = {{hf_str_of(a), HF_STR("one")}, {hf_str_of(b), HF_STR("two")}};
    sync_as(f, a, ja.generation, all, 2, &sa);
    fixture_advance(f, 5000);
    sync_as(f, b, jb.generation, NULL, 0, &sb);
    assert_int_equal(lost.times, 0);
    assert_true(sb.times == 1 && sb.result == GROUP_OK);
    assert_string_equal(sb.assignment, "two");
}

static void a_repeated_join_and_sync_are_answered_like_the_first(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    stable_alone(f, a);
    struct joined j[6] = {{0}}, ja = {0};
    join_new(f, &j[0], b);
    struct group_join r = fixture_join(b, NULL);
    for (int i = 1; i < 6; i++) join(f, &r, &j[i]); /* four may wait: the oldest two are told to try again */
    assert_true(j[0].times == 1 && j[0].result == GROUP_REBALANCING);
    assert_true(j[1].times == 1 && j[1].result == GROUP_REBALANCING);
    r = fixture_join(a, NULL);
    join(f, &r, &ja);
    for (int i = 2; i < 6; i++) {
        assert_int_equal(j[i].times, 1);
        assert_int_equal(j[i].result, GROUP_OK);
        assert_int_equal(j[i].generation, ja.generation);
    }
    struct joined again = {0};
    r = fixture_join(b, NULL);
    join(f, &r, &again); /* its answer was lost: told again, no new rebalance */
    assert_int_equal(again.generation, ja.generation);
    assert_int_equal(state_of(f), GROUP_COMPLETING);
    struct synced s[2] = {{0}}, sa = {0};
    sync_as(f, b, ja.generation, NULL, 0, &s[0]);
    sync_as(f, b, ja.generation, NULL, 0, &s[1]);
    const struct group_assignment to = {hf_str_of(b), HF_STR("two")};
    sync_as(f, a, ja.generation, &to, 1, &sa);
    assert_true(s[0].times == 1 && s[1].times == 1);
    assert_string_equal(s[1].assignment, "two");
    assert_string_equal(sa.assignment, "");
    sync_as(f, b, ja.generation, NULL, 0, &s[0]);
    assert_int_equal(s[0].times, 2);
    assert_string_equal(s[0].assignment, "two");
}

static void a_follower_that_joins_a_stable_group_again_disturbs_nobody_unless_it_changed(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = two_members(f, a, b);
    struct joined j = {0};
    struct group_join r = fixture_join(b, NULL);
    join(f, &r, &j);
    assert_true(j.times == 1 && j.generation == generation);
    assert_int_equal(state_of(f), GROUP_STABLE);
    const struct group_protocol changed = {HF_STR("range"), HF_STR("other")};
    r.protocols = &changed;
    join(f, &r, &j);
    assert_int_equal(j.times, 1);
    assert_int_equal(state_of(f), GROUP_PREPARING);
}

static void a_leader_that_joins_again_begins_a_rebalance(void **state) {
    struct fixture *f = *state;
    char a[256], b[256];
    int32_t generation = two_members(f, a, b);
    struct joined j = {0};
    struct group_join r = fixture_join(a, NULL);
    join(f, &r, &j);
    assert_int_equal(j.times, 0);
    assert_int_equal(beat(f, b, generation), GROUP_REBALANCING);
}

static void the_protocol_is_what_all_understand_and_most_prefer(void **state) {
    (void)state;
    struct fixture f;
    struct joined j[3] = {{0}};
    const struct group_protocol p0[] = {
        {HF_STR("x"), HF_STR("")}, {HF_STR("y"), HF_STR("")}, {HF_STR("z"), HF_STR("")}};
    const struct group_protocol p1[] = {{HF_STR("z"), HF_STR("")}, {HF_STR("y"), HF_STR("")}};
    const struct group_protocol p2[] = {
        {HF_STR("w"), HF_STR("")}, {HF_STR("z"), HF_STR("")}, {HF_STR("y"), HF_STR("")}};
    const struct group_protocol *all[] = {p0, p1, p2};
    const size_t counts[] = {3, 2, 3};
    fixture_open(&f, 0, &(struct groups_options){.initial_delay_ms = 3000});
    for (int i = 0; i < 3; i++) {
        struct group_join r = fixture_join("", NULL);
        r.needs_known_id = false;
        r.protocols = all[i];
        r.protocol_count = counts[i];
        join(&f, &r, &j[i]);
    }
    struct joined refused = {0};
    const struct group_protocol other = {HF_STR("w"), HF_STR("")};
    struct group_join r = fixture_join("", NULL);
    r.protocols = &other;
    join(&f, &r, &refused);
    assert_int_equal(refused.result, GROUP_INCONSISTENT_PROTOCOL);
    r = fixture_join("", NULL);
    r.protocol_type = HF_STR("connect");
    r.protocols = p1;
    join(&f, &r, &refused);
    assert_int_equal(refused.result, GROUP_INCONSISTENT_PROTOCOL);
    fixture_advance(&f, 3000);
    for (int i = 0; i < 3; i++)
        assert_string_equal(j[i].protocol, "z"); /* x and w are not everybody's; y has one vote */
    fixture_close(&f);
}

static void the_first_rebalance_waits_for_more_members(void **state) {
    (void)state;
    struct fixture f;
    struct joined j[3] = {{0}};
    fixture_open(&f, 0, &(struct groups_options){.initial_delay_ms = 3000});
    for (int i = 0; i < 3; i++) {
        join_at_once(&f, "g", &j[i]);
        fixture_advance(&f, 2000); /* each newcomer begins the delay anew */
        assert_int_equal(j[0].times, 0);
    }
    fixture_advance(&f, 1000);
    for (int i = 0; i < 3; i++) assert_true(j[i].times == 1 && j[i].generation == 1);
    assert_int_equal(j[0].member_count, 3);
    fixture_close(&f);
}

static void an_id_that_nobody_comes_back_for_delays_only_for_its_session(void **state) {
    struct fixture *f = *state;
    struct joined lost = {0}, j = {0};
    char id[256];
    struct group_join r = fixture_join("", NULL);
    join(f, &r, &lost);
    assert_int_equal(lost.result, GROUP_MEMBER_ID_REQUIRED);
    join_new(f, &j, id);
    assert_int_equal(j.times, 0);
    fixture_advance(f, 9999);
    assert_int_equal(j.times, 0);
    fixture_advance(f, 1);
    assert_int_equal(j.times, 1);
    assert_int_equal(leave(f, lost.member_id), GROUP_UNKNOWN_MEMBER);
}

/* ---- static members ---- */

static void join_static(struct fixture *f, const char *instance, bool can_skip, struct joined *out) {
    struct group_join r = fixture_join("", instance);
    r.can_skip = can_skip;
    join(f, &r, out);
}

static enum group_result beat_static(struct fixture *f, const char *id, const char *instance,
                                     int32_t generation) {
    const struct group_who who = {HF_STR("g"), hf_str_of(id), hf_str_of(instance), generation};
    return group_heartbeat(f->gs, f->now_ms, &who);
}

static void a_static_member_comes_back_without_a_rebalance_and_fences_its_old_self(void **state) {
    (void)state;
    for (int can_skip = 0; can_skip < 2; can_skip++) {
        struct fixture f;
        struct joined first = {0}, again = {0};
        struct synced s = {0};
        fixture_open(&f, 0, NULL);
        join_static(&f, "one", can_skip, &first);
        assert_int_equal(first.result, GROUP_OK);
        const struct group_assignment a = {hf_str_of(first.member_id), HF_STR("all")};
        sync_as(&f, first.member_id, first.generation, &a, 1, &s);
        fixture_advance(&f, 5000);
        join_static(&f, "one", can_skip, &again);
        assert_int_equal(again.result, GROUP_OK);
        assert_int_equal(again.generation, first.generation);
        assert_string_not_equal(again.member_id, first.member_id);
        assert_int_equal(state_of(&f), GROUP_STABLE);
        assert_int_equal(again.skip_assignment, can_skip);
        assert_string_equal(again.leader, can_skip ? again.member_id : first.member_id);
        assert_int_equal(again.member_count, can_skip ? 1 : 0);
        sync_as(&f, again.member_id, again.generation, NULL, 0, &s);
        assert_string_equal(s.assignment, "all");
        assert_int_equal(beat_static(&f, first.member_id, "one", first.generation), GROUP_FENCED_INSTANCE);
        assert_int_equal(beat_static(&f, again.member_id, "one", first.generation), GROUP_OK);
        struct joined fenced = {0};
        struct group_join r = fixture_join(first.member_id, "one");
        join(&f, &r, &fenced);
        assert_int_equal(fenced.result, GROUP_FENCED_INSTANCE);
        fixture_close(&f);
    }
}

static void a_static_member_that_is_away_keeps_its_place_for_a_session(void **state) {
    (void)state;
    struct fixture f;
    struct joined one = {0}, two = {0}, again = {0};
    struct synced s1 = {0}, s2 = {0};
    fixture_open(&f, 0, &(struct groups_options){.initial_delay_ms = 100});
    join_static(&f, "one", true, &one);
    join_static(&f, "two", true, &two);
    fixture_advance(&f, 100);
    const struct group_assignment a[] = {{hf_str_of(one.member_id), HF_STR("1")},
                                         {hf_str_of(two.member_id), HF_STR("2")}};
    sync_as(&f, two.member_id, 1, NULL, 0, &s2);
    sync_as(&f, one.member_id, 1, a, 2, &s1);
    fixture_advance(&f, 9000);
    assert_int_equal(beat_static(&f, one.member_id, "one", 1), GROUP_OK);
    join_static(&f, "two", true, &again); /* two was started anew */
    assert_int_equal(again.generation, 1);
    fixture_advance(&f, 9000);
    assert_int_equal(beat_static(&f, one.member_id, "one", 1), GROUP_OK);
    fixture_advance(&f, 1000); /* now it has died for good */
    assert_int_equal(beat_static(&f, one.member_id, "one", 1), GROUP_REBALANCING);
    fixture_close(&f);
}

static void a_static_member_may_be_removed_by_its_instance_id(void **state) {
    struct fixture *f = *state;
    struct joined one = {0};
    join_static(f, "one", true, &one);
    const struct group_leaver l[] = {
        {HF_STR(""), HF_STR("nobody")}, {HF_STR("wrong"), HF_STR("one")}, {HF_STR(""), HF_STR("one")}};
    enum group_result e[3];
    group_leave(f->gs, f->now_ms, HF_STR("g"), l, 3, e);
    assert_int_equal(e[0], GROUP_UNKNOWN_MEMBER);
    assert_int_equal(e[1], GROUP_FENCED_INSTANCE);
    assert_int_equal(e[2], GROUP_OK);
    assert_int_equal(state_of(f), GROUP_EMPTY);
}

static void a_waiting_request_of_a_fenced_instance_is_answered(void **state) {
    struct fixture *f = *state;
    char a[256];
    struct joined waiting = {0}, newer = {0};
    stable_alone(f, a);
    join_static(f, "one", true, &waiting);
    assert_int_equal(waiting.times, 0);
    join_static(f, "one", true, &newer);
    assert_int_equal(waiting.times, 1);
    assert_int_equal(waiting.result, GROUP_FENCED_INSTANCE);
    assert_int_equal(newer.times, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        GROUP_TEST(a_new_member_is_given_an_id_first_and_then_leads_alone),
        GROUP_TEST(an_old_client_joins_without_the_detour),
        GROUP_TEST(a_second_member_begins_a_rebalance_that_both_finish),
        GROUP_TEST(a_member_that_leaves_begins_a_rebalance),
        GROUP_TEST(a_silent_member_is_dropped_after_its_session),
        GROUP_TEST(whoever_misses_the_rebalance_timeout_is_dropped),
        GROUP_TEST(whoever_owes_its_sync_too_long_is_dropped),
        GROUP_TEST(a_session_does_not_run_while_a_request_waits),
        GROUP_TEST(a_member_that_died_while_its_join_waited_is_dropped_after_its_session),
        GROUP_TEST(a_member_whose_connection_broke_while_it_waited_comes_back),
        GROUP_TEST(a_repeated_join_and_sync_are_answered_like_the_first),
        GROUP_TEST(a_follower_that_joins_a_stable_group_again_disturbs_nobody_unless_it_changed),
        GROUP_TEST(a_leader_that_joins_again_begins_a_rebalance),
        cmocka_unit_test(the_protocol_is_what_all_understand_and_most_prefer),
        cmocka_unit_test(the_first_rebalance_waits_for_more_members),
        GROUP_TEST(an_id_that_nobody_comes_back_for_delays_only_for_its_session),
        cmocka_unit_test(a_static_member_comes_back_without_a_rebalance_and_fences_its_old_self),
        cmocka_unit_test(a_static_member_that_is_away_keeps_its_place_for_a_session),
        GROUP_TEST(a_static_member_may_be_removed_by_its_instance_id),
        GROUP_TEST(a_waiting_request_of_a_fenced_instance_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
