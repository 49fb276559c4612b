/* The schedule's behaviour, one at a time, on the engine in memory (seed 0: everything in order). */
#include "bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- delivery ---- */

static void creates_the_destination_and_keeps_what_the_producer_said(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-delay=1s", "a=1", "hf-message-id=order-1/paid", "hf-created-at=77",
        "a=2", NULL);
    pass(&b, 999);
    assert_int_equal(topic(&b, "t", 1)->n, 0);
    pass(&b, 1);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 1);
    assert_string_equal(t->rows[0].headers,
                        "a=1;hf-message-id=order-1/paid;hf-created-at=77;a=2;hf-due=1767225601000;");
    assert_true(t->rows[0].at_ms == START + 1000);
    close_bench(&b);
}

static void what_is_past_due_goes_at_once_with_the_time_it_asked_for(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-due=5", NULL);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 1);
    assert_has(&t->rows[0], "hf-due=5;");
    assert_has(&t->rows[0], "hf-created-at=1767225600000;");
    assert_has(&t->rows[0], "hf-message-id=holdfast.delay/0/0@1767225600000;");
    close_bench(&b);
}

static void messages_without_a_key_stay_together_and_others_follow_their_key(void **state) {
    (void)state;
    for (int crc = 0; crc < 2; crc++) {
        struct bench b;
        open_bench(&b, &(struct memory_options){0});
        b.options.crc32_partitioner = crc;
        assert_int_equal(memory_engine_topic_create(b.m, HF_STR("t"), 8), HF_OK);
        start(&b);
        put(&b, NULL, "1", "hf-topic=t", "hf-delay=1s", NULL);
        put(&b, NULL, "2", "hf-topic=t", "hf-delay=1s", NULL);
        put(&b, "foobar", "3", "hf-topic=t", "hf-delay=1s", NULL);
        put(&b, "foobar", "4", "hf-topic=t", "hf-delay=1s", "hf-partition=5", NULL);
        pass(&b, 1000);
        struct reading *t = topic(&b, "t", 8);
        assert_int_equal(t->n, 4);
        int32_t of[5] = {0};
        for (size_t i = 0; i < 4; i++) of[atoi(t->rows[i].value)] = t->rows[i].partition;
        assert_int_equal(of[1], of[2]);
        assert_int_equal(of[3], crc ? 0x9ef61f95u % 8 : (uint32_t)hf_partition_of_key(HF_STR("foobar"), 8));
        assert_int_equal(of[4], 5);
        close_bench(&b);
    }
}

/* ---- what cannot be delivered ---- */

static void rejects_with_the_reason_what_its_topic_cannot_take(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){.no_auto_create = true});
    assert_int_equal(memory_engine_topic_create(b.m, HF_STR("t"), 2), HF_OK);
    start(&b);
    put(&b, "k", "gone", "hf-topic=missing", "hf-delay=1ms", "a=1", NULL);
    put(&b, "k", "beyond", "hf-topic=t", "hf-delay=2ms", "hf-partition=2", NULL);
    put(&b, "k", "good", "hf-topic=t", "hf-delay=3ms", NULL);
    pass(&b, 10);
    struct reading *r = topic(&b, HF_TOPIC_REJECTED, 1);
    assert_int_equal(r->n, 2);
    assert_string_equal(r->rows[0].value, "gone");
    assert_has(&r->rows[0], "a=1;");
    assert_has(&r->rows[0], "hf-origin=missing;");
    assert_has(&r->rows[0], "hf-reason=no such topic, and it may not be created;");
    assert_has(&r->rows[1], "hf-origin=t;");
    assert_has(&r->rows[1], "hf-reason=partition out of range;");
    assert_int_equal(topic(&b, "t", 2)->n, 1);
    struct schedule_stats stats;
    schedule_stats(b.s, &stats);
    assert_int_equal(stats.rejected, 2);
    assert_int_equal(stats.fired, 1);
    assert_true(b.events[SCHEDULE_REJECTED] > 0);
    close_bench(&b);
}

static void a_destination_deleted_while_its_messages_move_is_created_again(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    assert_int_equal(memory_engine_topic_create(b.m, HF_STR("t"), 1), HF_OK);
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-delay=1s", NULL);
    b.wall += 1000;
    b.mono += 1000;
    schedule_step(b.s, b.wall, b.mono); /* the commit is under way */
    assert_int_equal(memory_engine_topic_delete(b.m, HF_STR("t")), HF_OK);
    run(&b);
    pass(&b, 1000);
    assert_int_equal(topic(&b, "t", 1)->n, 1);
    assert_int_equal(topic(&b, HF_TOPIC_REJECTED, 1)->n, 0);
    assert_int_equal(b.events[SCHEDULE_REWOUND], 1);
    close_bench(&b);
}

static void no_space_makes_late_and_rejects_nothing(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-delay=1s", NULL);
    memory_engine_fail(b.m, MEMORY_COMMIT, HF_ENOSPC, 0, -1);
    pass(&b, 5000);
    assert_int_equal(pending(&b), 1);
    struct schedule_stats stats;
    schedule_stats(b.s, &stats);
    assert_int_equal(stats.late_ms, 4000);
    memory_engine_fail(b.m, MEMORY_COMMIT, HF_OK, 0, 0);
    pass(&b, 200);
    assert_int_equal(topic(&b, "t", 1)->n, 1);
    assert_int_equal(topic(&b, HF_TOPIC_REJECTED, 1)->n, 0);
    close_bench(&b);
}

/* ---- clocks ---- */

static void a_clock_stepped_back_makes_late_never_early(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-due=1767225610000", NULL);
    pass(&b, 9000);
    b.wall -= 3600000;
    pass(&b, 3600000);
    assert_int_equal(topic(&b, "t", 1)->n, 0); /* it is 12:00:09 again */
    pass(&b, 1000);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 1);
    assert_true(t->rows[0].at_ms == START + 10000);
    close_bench(&b);
}

/* The mark of what was due then passes nothing that is accepted now. */
static void what_comes_after_a_step_back_is_not_taken_for_fired(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    assert_int_equal(memory_engine_topic_create(b.m, HF_STR("t"), 1), HF_OK);
    put(&b, "k", "before", "hf-topic=t", "hf-delay=1s", NULL);
    memory_engine_fail(b.m, MEMORY_TOPIC, HF_EAGAIN, 0, -1);
    pass(&b, 1000); /* it is due, and waits for its topic */
    b.wall -= 800;
    put(&b, "k", "after", "hf-topic=t", "hf-delay=0", NULL);
    memory_engine_fail(b.m, MEMORY_TOPIC, HF_OK, 0, 0);
    schedule_step(b.s, b.wall, b.mono); /* the commit of the first is under way, the second is not readable */
    memory_engine_settle(b.m);
    crash(&b);
    pass(&b, 2000);
    assert_int_equal(topic(&b, "t", 1)->n, 2);
    assert_string_equal(topic(&b, "t", 1)->rows[1].value, "after");
    close_bench(&b);
}

static void a_leap_stops_firing_until_the_clock_returns_or_is_accepted(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-due=1767225700000", NULL);
    pass(&b, 1000);
    b.wall += 365 * INT64_C(86400000);
    pass(&b, 1000);
    assert_int_equal(topic(&b, "t", 1)->n, 0);
    assert_int_equal(b.events[SCHEDULE_CLOCK_LEAPT], 1);
    b.wall -= 365 * INT64_C(86400000);
    pass(&b, 1000);
    assert_int_equal(b.events[SCHEDULE_CLOCK_BACK], 1);
    assert_int_equal(topic(&b, "t", 1)->n, 0);
    b.wall += 365 * INT64_C(86400000);
    pass(&b, 1000);
    assert_int_equal(topic(&b, "t", 1)->n, 0);
    schedule_accept_clock(b.s);
    pass(&b, 1);
    assert_int_equal(topic(&b, "t", 1)->n, 1);
    close_bench(&b);
}

static void a_relative_delay_waits_for_the_monotonic_clock_too(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct bench b;
        open_bench(&b, &(struct memory_options){0});
        start(&b);
        run(&b);
        put(&b, "k", "relative", "hf-topic=t", "hf-delay=60s", "hf-id=x", NULL);
        put(&b, "k", "absolute", "hf-topic=t", "hf-due=1767225660000", NULL);
        b.wall += 40000; /* the clock is set forward */
        if (restart) crash(&b);
        pass(&b, 20000);
        struct reading *t = topic(&b, "t", 1);
        assert_int_equal(t->n, 1);
        assert_string_equal(t->rows[0].value, "absolute");
        if (restart) crash(&b);
        pass(&b, 39999);
        assert_int_equal(topic(&b, "t", 1)->n, 1);
        pass(&b, 1);
        t = topic(&b, "t", 1);
        assert_int_equal(t->n, 2);
        assert_string_equal(t->rows[1].value, "relative");
        assert_has(&t->rows[1],
                   "hf-message-id=holdfast.delay/0/0@1767225600000;"); /* its identity survives */
        assert_has(&t->rows[1], "hf-created-at=1767225600000;");
        close_bench(&b);
    }
}

static void another_boot_forgets_monotonic_deadlines(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    run(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-delay=60s", NULL);
    b.options.boot_id = 2;
    b.wall += 60000;
    b.mono = 5;
    crash(&b);
    run(&b);
    assert_int_equal(topic(&b, "t", 1)->n, 1);
    close_bench(&b);
}

/* ---- ids ---- */

static void operations_take_effect_in_order_and_tell_what_they_did(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    start(&b);
    int64_t first = put(&b, "k", "1", "hf-topic=t", "hf-id=x", "hf-delay=10s", NULL);
    int64_t second = put(&b, "k", "2", "hf-topic=t", "hf-id=x", "hf-delay=20s", NULL);
    int64_t kept = put(&b, "k", "3", "hf-topic=t", "hf-id=x", "hf-delay=1s", "hf-on-conflict=keep", NULL);
    int64_t other = put(&b, "k", "4", "hf-topic=u", "hf-id=x", "hf-delay=30s", NULL);
    int64_t stale =
        put(&b, "k", "5", "hf-topic=t", "hf-id=x", "hf-delay=5s", "hf-op=move", "hf-expect=1", NULL);
    int64_t move =
        put(&b, "k", "6", "hf-topic=t", "hf-id=x", "hf-delay=5s", "hf-op=move", "hf-expect=2", NULL);
    int64_t cancel = put(&b, "k", "", "hf-topic=u", "hf-id=x", "hf-op=cancel", NULL);
    int64_t nothing = put(&b, "k", "", "hf-topic=u", "hf-id=y", "hf-op=cancel", NULL);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(outcome(&b, first), SCHEDULE_SCHEDULED);
        assert_int_equal(outcome(&b, second), SCHEDULE_REPLACED);
        assert_int_equal(outcome(&b, kept), SCHEDULE_KEPT);
        assert_int_equal(outcome(&b, other), SCHEDULE_SCHEDULED);
        assert_int_equal(outcome(&b, stale), SCHEDULE_CHANGED);
        assert_int_equal(outcome(&b, move), SCHEDULE_MOVED);
        assert_int_equal(outcome(&b, cancel), SCHEDULE_CANCELLED);
        assert_int_equal(outcome(&b, nothing), SCHEDULE_UNKNOWN);
        crash(&b);
        run(&b);
    }
    pass(&b, 60000);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 1);
    assert_string_equal(t->rows[0].value, "6");
    assert_int_equal(topic(&b, "u", 1)->n, 0);
    int64_t late = put(&b, "k", "", "hf-topic=t", "hf-id=x", "hf-op=cancel", NULL);
    assert_int_equal(outcome(&b, late), SCHEDULE_ALREADY_DELIVERED);
    close_bench(&b);
}

static void once_refuses_a_finished_id_until_it_is_forgotten(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    b.options.id_memory_ms = 100000;
    b.options.checkpoint_ms = 10000;
    start(&b);
    put(&b, "k", "1", "hf-topic=t", "hf-id=x", "hf-delay=1s", "hf-on-conflict=once", NULL);
    pass(&b, 50000);
    pass(&b, 1);
    crash(&b);
    int64_t refused = put(&b, "k", "2", "hf-topic=t", "hf-id=x", "hf-delay=1s", "hf-on-conflict=once", NULL);
    assert_int_equal(outcome(&b, refused), SCHEDULE_FINISHED);
    pass(&b, 60000);
    int64_t taken = put(&b, "k", "3", "hf-topic=t", "hf-id=x", "hf-delay=1s", "hf-on-conflict=once", NULL);
    assert_int_equal(outcome(&b, taken), SCHEDULE_SCHEDULED);
    pass(&b, 2000);
    assert_int_equal(topic(&b, "t", 1)->n, 2);
    close_bench(&b);
}

/* ---- the far tier ---- */

/* Of one id what is newest counts. It may be forgotten, but not before what is older: a message that was to
 * come in a year lies deep, and its cancel, which is over in days, above it. */
static void what_is_forgotten_of_an_id_does_not_bring_back_what_was_before(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    b.options.checkpoint_ms = 1;
    b.options.fan_in = 2;
    b.options.id_memory_ms = 10000;
    start(&b);
    put(&b, "k", "far", "hf-topic=t", "hf-delay=365d", "hf-id=x", NULL);
    pass(&b, 10);
    for (int i = 0; i < 3; i++) {
        put(&b, "k", "other", "hf-topic=u", "hf-delay=1", "hf-id=y", NULL);
        pass(&b, 10);
    }
    int64_t at = put(&b, "k", "", "hf-topic=t", "hf-op=cancel", "hf-id=x", NULL);
    assert_int_equal(outcome(&b, at), SCHEDULE_CANCELLED);
    pass(&b, 10);
    pass(&b, 20000);
    put(&b, "k", "other", "hf-topic=u", "hf-delay=1", "hf-id=y", NULL);
    pass(&b, 10);
    put(&b, "k", "near", "hf-topic=t", "hf-delay=1s", "hf-id=x", "hf-on-conflict=keep", NULL);
    assert_int_equal(pending(&b), 1);
    pass(&b, 1000);
    assert_int_equal(topic(&b, "t", 1)->n, 1);
    assert_int_equal(pending(&b), 0);
    close_bench(&b);
}

static void ignore(void *arg, const struct schedule_item *item) {
    (void)item;
    ++*(size_t *)arg;
}

static void memory_is_bounded_and_checkpoints_let_the_log_go(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    b.options.gather_bytes = 256 << 10;
    b.options.run_bytes = 1 << 20;
    b.options.fan_in = 4;
    start(&b);
    enum { MESSAGES = 20000 };
    char value[101] = {0};
    memset(value, 'v', 100);
    put_many(&b, MESSAGES, value);
    struct schedule_stats stats;
    schedule_stats(b.s, &stats);
    assert_int_equal(stats.pending, MESSAGES);
    assert_true(stats.memory_bytes < 4 << 20);
    assert_true(stats.checkpoints > 5 && stats.merges > 0);
    int64_t low, end;
    assert_int_equal(engine_bounds(memory_engine_engine(b.m), HF_STR(HF_TOPIC_DELAY), 0, &low, &end), HF_OK);
    assert_true(low > MESSAGES / 2);
    crash(&b);
    run(&b);
    assert_int_equal(pending(&b), MESSAGES);
    size_t listed = 0;
    struct schedule_query q = {.limit = 1000};
    for (bool more = true; more;)
        assert_int_equal(schedule_list(b.s, &q, ignore, &listed, &q.after, &more), HF_OK);
    assert_int_equal(listed, MESSAGES);
    pass(&b, 90000000);
    assert_int_equal(pending(&b), 0);
    schedule_stats(b.s, &stats);
    assert_int_equal(stats.runs, 0); /* spent ones are gone */
    close_bench(&b);
}

static void what_is_due_when_is_told_though_a_block_spans_days(void **state) {
    (void)state;
    enum { MESSAGES = 8000, EVERY_MS = 3000000, A_BLOCK = 250 };
    struct bench b;
    char value[101] = {0};
    memset(value, 'v', 100);
    open_bench(&b, &(struct memory_options){0});
    b.options.gather_bytes = 256 << 10;
    start(&b);
    for (int64_t i = 0; i < MESSAGES; i++) {
        char due[32];
        (void)snprintf(due, sizeof due, "%lld", (long long)(START + 1000 + i * EVERY_MS));
        struct hf_header h[] = {{HF_STR(HF_HDR_TOPIC), HF_STR("t")}, {HF_STR(HF_HDR_DUE), hf_str_of(due)}};
        assert_true(memory_engine_append(b.m, HF_STR(HF_TOPIC_DELAY), 0, b.wall, HF_STR("k"),
                                         hf_str_of(value), h, 2) >= 0);
        if (i % 100 == 0) run(&b);
    }
    pass(&b, 2000);
    struct schedule_stats stats;
    schedule_stats(b.s, &stats);
    assert_true(stats.runs > 0 && stats.fired == 1);
    uint64_t due[SCHEDULE_DUE_BUCKETS], exact[SCHEDULE_DUE_BUCKETS] = {0}, sum = 0;
    schedule_due(b.s, due);
    struct schedule_query q = {.limit = 1000};
    for (bool more = true; more;) {
        struct schedule_sum page;
        assert_int_equal(schedule_count(b.s, &q, &page, &q.after, &more), HF_OK);
        for (size_t i = 0; i < SCHEDULE_DUE_BUCKETS; i++) exact[i] += page.due[i];
    }
    for (size_t i = 0; i < SCHEDULE_DUE_BUCKETS; i++) {
        assert_in_range(due[i] + A_BLOCK * stats.runs, exact[i], exact[i] + 2 * A_BLOCK * stats.runs);
        sum += due[i];
    }
    assert_int_equal(due[0], 0); /* late */
    assert_int_equal(sum, MESSAGES - 1);
    close_bench(&b);
}

static void damage_stops_and_says_so(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){0});
    b.options.checkpoint_ms = 1;
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-delay=1h", NULL);
    pass(&b, 10);
    pass(&b, 10);
    memory_engine_fail(b.m, MEMORY_RUN_READ, HF_ECORRUPT, 0, -1);
    pass(&b, 3600000);
    assert_int_equal(schedule_failed(b.s), HF_ECORRUPT);
    assert_int_equal(b.events[SCHEDULE_DAMAGED], 1);
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creates_the_destination_and_keeps_what_the_producer_said),
        cmocka_unit_test(what_is_past_due_goes_at_once_with_the_time_it_asked_for),
        cmocka_unit_test(messages_without_a_key_stay_together_and_others_follow_their_key),
        cmocka_unit_test(rejects_with_the_reason_what_its_topic_cannot_take),
        cmocka_unit_test(a_destination_deleted_while_its_messages_move_is_created_again),
        cmocka_unit_test(no_space_makes_late_and_rejects_nothing),
        cmocka_unit_test(a_clock_stepped_back_makes_late_never_early),
        cmocka_unit_test(what_comes_after_a_step_back_is_not_taken_for_fired),
        cmocka_unit_test(a_leap_stops_firing_until_the_clock_returns_or_is_accepted),
        cmocka_unit_test(a_relative_delay_waits_for_the_monotonic_clock_too),
        cmocka_unit_test(another_boot_forgets_monotonic_deadlines),
        cmocka_unit_test(operations_take_effect_in_order_and_tell_what_they_did),
        cmocka_unit_test(once_refuses_a_finished_id_until_it_is_forgotten),
        cmocka_unit_test(what_is_forgotten_of_an_id_does_not_bring_back_what_was_before),
        cmocka_unit_test(memory_is_bounded_and_checkpoints_let_the_log_go),
        cmocka_unit_test(what_is_due_when_is_told_though_a_block_spans_days),
        cmocka_unit_test(damage_stops_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
