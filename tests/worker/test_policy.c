/* Retries, dead letters, and telling an outage from poison, in virtual time. */
#include "worker/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct policy fresh(void) {
    struct policy p;
    policy_init(&p, &(struct policy_options){.concurrency = 8});
    return p;
}

static struct judgement fails(struct policy *p, uint64_t key, int32_t attempts, bool probe, int64_t now) {
    struct result r = {
        .how = ENDED_FAILED, .delay_ms = -1, .key_hash = key, .attempts = attempts, .probe = probe};
    struct judgement j = policy_judge(p, &r, now, 12345);
    policy_check(p);
    return j;
}

static void succeed(struct policy *p, bool probe, int64_t now) {
    struct result r = {.how = ENDED_DONE, .probe = probe};
    assert_int_equal(policy_judge(p, &r, now, 0).fate, FATE_SETTLE);
    policy_check(p);
}

static void backoff_is_exponential_with_full_jitter(void **state) {
    (void)state;
    struct policy p = fresh();
    int64_t most[] = {1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 512000, 600000, 600000};
    for (int32_t a = 1; a <= 12; a++) {
        int64_t longest = 0, shortest = INT64_MAX;
        for (uint64_t r = 0; r < 1000000; r += 37) {
            int64_t d = policy_backoff(&p, a, r);
            longest = d > longest ? d : longest;
            shortest = d < shortest ? d : shortest;
        }
        assert_true(shortest == 1);
        assert_true(longest <= most[a - 1] && longest > most[a - 1] - most[a - 1] / 10);
    }
}

static void the_sixteenth_failure_is_a_dead_letter(void **state) {
    (void)state;
    struct policy p = fresh();
    for (int32_t a = 0; a < 15; a++) {
        struct judgement j = fails(&p, 1, a, false, a);
        assert_int_equal(j.fate, FATE_RETRY);
        assert_int_equal(j.attempts, a + 1);
    }
    struct judgement j = fails(&p, 1, 15, false, 15);
    assert_int_equal(j.fate, FATE_DEAD);
    assert_string_equal(j.reason, "exhausted");
    struct result r = {.how = ENDED_TIMEOUT, .delay_ms = -1, .attempts = 15};
    assert_string_equal(policy_judge(&p, &r, 16, 0).reason, "timeout");
}

static void busy_and_unavailable_are_no_attempts(void **state) {
    (void)state;
    struct policy p = fresh();
    struct result r = {.how = ENDED_BUSY, .delay_ms = 700, .attempts = 15};
    struct judgement j = policy_judge(&p, &r, 0, 0);
    assert_int_equal(j.fate, FATE_RETRY);
    assert_int_equal(j.attempts, 15);
    assert_int_equal(j.delay_ms, 700);
    r.how = ENDED_UNAVAILABLE;
    assert_int_equal(policy_judge(&p, &r, 0, 0).attempts, 15);
}

static void the_handlers_own_delay_is_taken(void **state) {
    (void)state;
    struct policy p = fresh();
    struct result r = {.how = ENDED_FAILED, .delay_ms = 5000};
    assert_int_equal(policy_judge(&p, &r, 0, 0).delay_ms, 5000);
}

static void poison_of_two_keys_is_no_outage(void **state) {
    (void)state;
    struct policy p = fresh();
    for (int i = 0; i < 100; i++) (void)fails(&p, (uint64_t)(i % 2), 0, false, i);
    assert_int_equal(p.state, POLICY_NORMAL);
}

static void a_success_between_failures_is_no_outage(void **state) {
    (void)state;
    struct policy p = fresh();
    for (int i = 0; i < 100; i++) {
        (void)fails(&p, (uint64_t)(i % 7), 0, false, i);
        if (i % 15 == 14) succeed(&p, false, i);
    }
    assert_int_equal(p.state, POLICY_NORMAL);
}

static void an_outage_is_probed_and_costs_the_backlog_no_attempts(void **state) {
    (void)state;
    struct policy p = fresh();
    bool probe;
    int64_t now = 0;
    for (int i = 0; i < POLICY_OUTAGE_FAILURES; i++) (void)fails(&p, (uint64_t)(i % 3), 0, false, now);
    assert_int_equal(p.state, POLICY_PROBING);
    /* Those still under way do not count. */
    assert_int_equal(fails(&p, 9, 4, false, now).attempts, 4);
    assert_false(policy_may_start(&p, 0, now, &probe));
    int64_t expected = 1000, last = now;
    for (int i = 0; i < 10; i++) {
        now = policy_next(&p);
        assert_true(now - last == expected);
        assert_false(policy_may_start(&p, 0, now - 1, &probe));
        assert_true(policy_may_start(&p, 0, now, &probe));
        assert_true(probe);
        assert_false(policy_may_start(&p, 1, now + 100000, &probe)); /* one in flight */
        assert_int_equal(fails(&p, 1, 0, true, now).attempts, 1);
        last = now;
        expected = expected * 2 > 60000 ? 60000 : expected * 2;
    }
}

static void recovery_is_complete_within_ten_seconds(void **state) {
    (void)state;
    struct policy p = fresh();
    bool probe;
    for (int i = 0; i < POLICY_OUTAGE_FAILURES; i++) (void)fails(&p, (uint64_t)(i % 3), 0, false, 0);
    int64_t now = 1000;
    assert_true(policy_may_start(&p, 0, now, &probe));
    succeed(&p, true, now);
    assert_int_equal(p.state, POLICY_RECOVERING);
    assert_int_equal(p.pause_ms, 500); /* halved */
    int starts = 0;
    for (int64_t t = now; t <= now + POLICY_RECOVERY_MS; t++)
        if (policy_may_start(&p, 0, t, &probe)) {
            if (!probe) break;
            starts++;
            succeed(&p, true, t);
        }
    assert_true(starts >= 2);
    assert_true(policy_may_start(&p, 7, now + POLICY_RECOVERY_MS, &probe));
    assert_false(probe);
    assert_int_equal(p.state, POLICY_NORMAL);
}

static void a_failure_while_recovering_probes_again(void **state) {
    (void)state;
    struct policy p = fresh();
    bool probe;
    for (int i = 0; i < POLICY_OUTAGE_FAILURES; i++) (void)fails(&p, (uint64_t)(i % 3), 0, false, 0);
    assert_true(policy_may_start(&p, 0, 1000, &probe));
    succeed(&p, true, 1000);
    assert_true(policy_may_start(&p, 0, 1500, &probe));
    (void)fails(&p, 1, 0, true, 1500);
    assert_int_equal(p.state, POLICY_PROBING);
    assert_int_equal(p.pause_ms, 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backoff_is_exponential_with_full_jitter),
        cmocka_unit_test(the_sixteenth_failure_is_a_dead_letter),
        cmocka_unit_test(busy_and_unavailable_are_no_attempts),
        cmocka_unit_test(the_handlers_own_delay_is_taken),
        cmocka_unit_test(poison_of_two_keys_is_no_outage),
        cmocka_unit_test(a_success_between_failures_is_no_outage),
        cmocka_unit_test(an_outage_is_probed_and_costs_the_backlog_no_attempts),
        cmocka_unit_test(recovery_is_complete_within_ten_seconds),
        cmocka_unit_test(a_failure_while_recovering_probes_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
