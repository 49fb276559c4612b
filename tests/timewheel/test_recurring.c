/* Recurring schedules and delay levels, one behaviour at a time, on the engine in memory. */
#include "bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MINUTE = 60000, HOUR = 60 * MINUTE };

static struct schedule_stats stats_of(const struct bench *b) {
    struct schedule_stats stats;
    schedule_stats(b->s, &stats);
    return stats;
}

static size_t runs_of(struct bench *b) {
    return topic(b, "t", 1)->n;
}

static void open_and_start(struct bench *b) {
    open_bench(b, &(struct memory_options){0});
    assert_int_equal(memory_engine_topic_create(b->m, HF_STR("t"), 1), HF_OK);
    start(b);
}

/* ---- the series ---- */

static void fires_at_each_of_its_times_under_identities_of_their_own(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=*/5 * * * *", "hf-id=job", "a=1", NULL);
    for (int minute = 0; minute < 60; minute++) pass(&b, MINUTE);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 12);
    for (int64_t i = 0; i < 12; i++) {
        char identity[100], due[40];
        int64_t at = START + (i + 1) * 5 * MINUTE;
        (void)snprintf(identity, sizeof identity, "hf-message-id=holdfast.delay/0/0@%lld#%lld;",
                       (long long)START, (long long)at);
        (void)snprintf(due, sizeof due, "hf-due=%lld;", (long long)at);
        assert_has(&t->rows[i], identity);
        assert_has(&t->rows[i], due);
        assert_has(&t->rows[i], "a=1;");
        assert_has(&t->rows[i], "hf-created-at=1767225600000;");
        assert_null(strstr(t->rows[i].headers, "hf-cron"));
        assert_true(t->rows[i].at_ms == at);
        assert_string_equal(t->rows[i].value, "v");
    }
    assert_int_equal(pending(&b), 1);
    close_bench(&b);
}

static void keeps_the_identity_that_the_producer_gave(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", "hf-message-id=report", NULL);
    for (int i = 0; i < 3; i++) pass(&b, MINUTE);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 3);
    assert_has(&t->rows[0], "hf-message-id=report#1767225660000;");
    assert_has(&t->rows[2], "hf-message-id=report#1767225780000;");
    close_bench(&b);
}

static void runs_missed_in_an_outage_are_one_run(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", NULL);
    b.wall += 10 * MINUTE + 5000;
    b.mono += 10 * MINUTE + 5000;
    crash(&b);
    run(&b);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 1);
    assert_has(&t->rows[0], "hf-due=1767225660000;");
    pass(&b, MINUTE - 5000);
    t = topic(&b, "t", 1);
    assert_int_equal(t->n, 2);
    assert_has(&t->rows[1], "hf-due=1767226260000;"); /* 11 minutes after the start */
    close_bench(&b);
}

static void follows_its_time_zone(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=0 9 * * *", "hf-tz=Europe/Berlin", "hf-id=job", NULL);
    pass(&b, 8 * HOUR - 1);
    assert_int_equal(runs_of(&b), 0);
    pass(&b, 1);
    assert_int_equal(runs_of(&b), 1);
    pass(&b, 24 * HOUR - 1);
    assert_int_equal(runs_of(&b), 1);
    pass(&b, 1);
    assert_int_equal(runs_of(&b), 2);
    close_bench(&b);
}

static void a_crash_at_any_step_neither_loses_nor_doubles_a_run(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", NULL);
    for (int i = 0; i < 40; i++) {
        b.wall += MINUTE;
        b.mono += MINUTE;
        for (int k = 0; k < i % 8; k++) {
            schedule_step(b.s, b.wall, b.mono);
            memory_engine_step(b.m);
        }
        crash(&b);
        run(&b);
        assert_int_equal(runs_of(&b), (size_t)i + 1);
        assert_int_equal(pending(&b), 1);
    }
    close_bench(&b);
}

/* ---- change and cancel ---- */

static void cancel_ends_the_series(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", NULL);
    pass(&b, MINUTE);
    int64_t cancel = put(&b, "k", "", "hf-topic=t", "hf-op=cancel", "hf-id=job", NULL);
    assert_int_equal(outcome(&b, cancel), SCHEDULE_CANCELLED);
    pass(&b, HOUR);
    assert_int_equal(runs_of(&b), 1);
    assert_int_equal(pending(&b), 0);
    cancel = put(&b, "k", "", "hf-topic=t", "hf-op=cancel", "hf-id=job", NULL);
    assert_int_equal(outcome(&b, cancel), SCHEDULE_CANCELLED);
    close_bench(&b);
}

/* The log holds: cancel, accepted at or after the run's due time, and then the record of the next run. */
static void cancel_between_a_run_and_its_next_ends_the_series(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    b.options.read_records = 1;
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", NULL);
    const struct hf_header h[] = {{HF_STR("hf-topic"), HF_STR("t")},
                                  {HF_STR("hf-op"), HF_STR("cancel")},
                                  {HF_STR("hf-id"), HF_STR("job")}};
    b.wall += MINUTE;
    b.mono += MINUTE;
    int64_t at = memory_engine_append(b.m, HF_STR(HF_TOPIC_DELAY), 0, b.wall, HF_STR("k"), HF_STR(""), h, 3);
    for (int i = 0; i < 4; i++) schedule_step(b.s, b.wall, b.mono);
    run(&b);
    assert_int_equal(outcome(&b, at), SCHEDULE_CANCELLED);
    pass(&b, HOUR);
    assert_int_equal(runs_of(&b), 1); /* it was due when the cancel came */
    assert_int_equal(pending(&b), 0);
    close_bench(&b);
}

static void another_expression_under_the_same_id_takes_its_place(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "old", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", NULL);
    int64_t at = put(&b, "k", "new", "hf-topic=t", "hf-cron=0 * * * *", "hf-id=job", NULL);
    assert_int_equal(outcome(&b, at), SCHEDULE_REPLACED);
    pass(&b, HOUR);
    pass(&b, HOUR);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 2);
    assert_string_equal(t->rows[0].value, "new");
    at = put(&b, "k", "once", "hf-topic=t", "hf-delay=1s", "hf-id=job", NULL);
    assert_int_equal(outcome(&b, at), SCHEDULE_REPLACED);
    pass(&b, 3 * HOUR);
    assert_int_equal(runs_of(&b), 3);
    assert_int_equal(pending(&b), 0);
    close_bench(&b);
}

static void a_moved_run_leaves_the_series_as_it_is(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=0 * * * *", "hf-id=job", NULL);
    int64_t at = put(&b, "k", "v", "hf-topic=t", "hf-op=move", "hf-id=job", "hf-expect=1",
                     "hf-cron=0 * * * *", "hf-delay=90m", NULL);
    assert_int_equal(outcome(&b, at), SCHEDULE_MOVED);
    pass(&b, HOUR);
    assert_int_equal(runs_of(&b), 0);
    pass(&b, 30 * MINUTE);
    assert_int_equal(runs_of(&b), 1);
    pass(&b, 30 * MINUTE);
    assert_int_equal(runs_of(&b), 2);
    close_bench(&b);
}

struct shown {
    struct schedule *s;
    int64_t runs[5];
    size_t n;
    bool cron, stripped;
};

static void show(void *arg, const struct schedule_item *item) {
    struct shown *shown = arg;
    assert_int_equal(schedule_upcoming(shown->s, item, shown->runs, 5, &shown->n), HF_OK);
    shown->cron = hf_str_is(item->cron, "30 1 * * *") && hf_str_is(item->tz, "Europe/Berlin");
    shown->stripped = item->header_count == 1;
}

static void shows_its_next_runs(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "a=1", "hf-topic=t", "hf-cron=30 1 * * *", "hf-tz=Europe/Berlin", "hf-id=job", NULL);
    struct shown shown = {.s = b.s};
    assert_int_equal(schedule_show(b.s, HF_STR("t"), HF_STR("job"), show, &shown), HF_OK);
    assert_int_equal(shown.n, 5);
    for (int64_t i = 0; i < 5; i++) assert_true(shown.runs[i] == START + 30 * MINUTE + i * 24 * HOUR);
    assert_true(shown.cron && shown.stripped);
    close_bench(&b);
}

static void a_record_without_a_meaning_is_rejected(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=61 * * * *", "hf-id=job", NULL);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=@daily", "hf-tz=Mars/Olympus", "hf-id=job", NULL);
    struct reading *r = topic(&b, HF_TOPIC_REJECTED, 1);
    assert_int_equal(r->n, 2);
    assert_has(&r->rows[0], "hf-cron=61 * * * *;");
    assert_int_equal(pending(&b), 0);
    close_bench(&b);
}

static void checks_an_expression_and_says_what_is_wrong(void **state) {
    (void)state;
    struct bench b;
    char why[SCHEDULE_CRON_ERROR_BYTES];
    bool tz;
    open_and_start(&b);
    assert_int_equal(schedule_check_cron(b.s, HF_STR("@daily"), HF_STR("Asia/Tokyo"), why, &tz), HF_OK);
    assert_int_equal(schedule_check_cron(b.s, HF_STR("0 24 * * *"), (hf_str){NULL, 0}, why, &tz), HF_EINVAL);
    assert_true(!tz && strstr(why, "hour") && strstr(why, "0-23"));
    assert_int_equal(schedule_check_cron(b.s, HF_STR("@daily"), HF_STR("Mars"), why, &tz), HF_EINVAL);
    assert_true(tz && strstr(why, "Mars"));
    close_bench(&b);
}

/* ---- overlap ---- */

static void a_run_is_left_out_while_the_one_before_is_not_done(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", "hf-cron-overlap=skip", "hf-group=g",
        NULL);
    put(&b, "k", "other", "hf-topic=t", "hf-due=1767225660000", NULL);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 2);
    pass(&b, MINUTE);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 2); /* nobody has done it */
    assert_int_equal(stats_of(&b).skipped, 2);
    crash(&b);
    run(&b);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 2); /* known after a crash, too */
    memory_engine_commit_offset(b.m, HF_STR("g"), HF_STR("t"), 0, 1);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 3); /* it was the first of the two */
    memory_engine_commit_offset(b.m, HF_STR("g"), HF_STR("t"), 0, 2);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 3); /* the other is, the third record is not */
    memory_engine_commit_offset(b.m, HF_STR("g"), HF_STR("t"), 0, 3);
    pass(&b, MINUTE);
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 4);
    assert_null(strstr(t->rows[3].headers, "hf-cron-last"));
    close_bench(&b);
}

static void a_run_that_was_rejected_is_done(void **state) {
    (void)state;
    struct bench b;
    open_bench(&b, &(struct memory_options){.no_auto_create = true});
    start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", "hf-cron-overlap=skip", "hf-group=g",
        NULL);
    for (int i = 0; i < 3; i++) pass(&b, MINUTE);
    assert_int_equal(topic(&b, HF_TOPIC_REJECTED, 1)->n, 3);
    assert_int_equal(stats_of(&b).skipped, 0);
    close_bench(&b);
}

/* Its topic was made anew since, and what lies there now lies where the run did. */
static void a_run_that_went_with_its_topic_is_done(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    put(&b, "k", "v", "hf-topic=t", "hf-cron=* * * * *", "hf-id=job", "hf-cron-overlap=skip", "hf-group=g",
        NULL);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 1);
    assert_int_equal(memory_engine_topic_delete(b.m, HF_STR("t")), HF_OK);
    assert_int_equal(memory_engine_topic_create(b.m, HF_STR("t"), 1), HF_OK);
    put(&b, "k", "other", "hf-topic=t", "hf-delay=1s", NULL);
    pass(&b, 1000);
    assert_int_equal(runs_of(&b), 1);
    pass(&b, MINUTE - 1000);
    assert_int_equal(runs_of(&b), 2);
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 2); /* that one is there, and is not done */
    assert_int_equal(stats_of(&b).skipped, 1);
    close_bench(&b);
}

/* ---- levels ---- */

static void set(void *arg, enum hf_err e) {
    *(int *)arg = e ? -1 : 1;
}

static bool set_levels(struct bench *b, const char *table) {
    int done = 0;
    bool started;
    assert_int_equal(
        schedule_set_levels(memory_engine_engine(b->m), hf_str_of(table), b->wall, set, &done, &started),
        HF_OK);
    run(b);
    assert_true(done == started);
    return started;
}

static void levels_mean_what_the_table_said_when_they_were_accepted(void **state) {
    (void)state;
    struct bench b;
    open_and_start(&b);
    assert_false(set_levels(&b, SCHEDULE_LEVELS));
    put(&b, "k", "10s", "hf-topic=t", "hf-delay=level3", NULL);
    put(&b, "k", "2h", "hf-topic=t", "hf-delay=level18", NULL);
    put(&b, "k", "the last", "hf-topic=t", "hf-delay=level99", NULL);
    assert_true(set_levels(&b, "1m 5m"));
    assert_false(set_levels(&b, "  60s 300s "));
    put(&b, "k", "5m", "hf-topic=t", "hf-delay=level2", NULL);
    put(&b, "k", "5m too", "hf-topic=t", "hf-delay=level3", NULL);
    b.wall += 10000;
    b.mono += 10000;
    crash(&b);
    run(&b);
    assert_int_equal(runs_of(&b), 1);
    b.options.checkpoint_ms = 1;
    crash(&b);
    pass(&b, 10);
    pass(&b, 5 * MINUTE - 10010);
    assert_int_equal(runs_of(&b), 3);
    put(&b, "k", "1m", "hf-topic=t", "hf-delay=level1", NULL);
    crash(&b); /* the base carries the table */
    pass(&b, MINUTE);
    assert_int_equal(runs_of(&b), 4);
    pass(&b, 2 * HOUR);
    static const char *const in_order[] = {"10s", "5m", "5m too", "1m", "2h", "the last"};
    struct reading *t = topic(&b, "t", 1);
    assert_int_equal(t->n, 6);
    for (int i = 0; i < 6; i++) assert_string_equal(t->rows[i].value, in_order[i]);
    close_bench(&b);
}

static void tables_are_checked(void **state) {
    (void)state;
    size_t n = 0;
    assert_int_equal(schedule_check_levels(HF_STR("1s  5s 2h"), &n), HF_OK);
    assert_int_equal(n, 3);
    static const char *const wrong[] = {"", "  ", "1s 5x", "1s,5s", "-1s"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(schedule_check_levels(hf_str_of(wrong[i]), &n), HF_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fires_at_each_of_its_times_under_identities_of_their_own),
        cmocka_unit_test(keeps_the_identity_that_the_producer_gave),
        cmocka_unit_test(runs_missed_in_an_outage_are_one_run),
        cmocka_unit_test(follows_its_time_zone),
        cmocka_unit_test(a_crash_at_any_step_neither_loses_nor_doubles_a_run),
        cmocka_unit_test(cancel_ends_the_series),
        cmocka_unit_test(cancel_between_a_run_and_its_next_ends_the_series),
        cmocka_unit_test(another_expression_under_the_same_id_takes_its_place),
        cmocka_unit_test(a_moved_run_leaves_the_series_as_it_is),
        cmocka_unit_test(shows_its_next_runs),
        cmocka_unit_test(a_record_without_a_meaning_is_rejected),
        cmocka_unit_test(checks_an_expression_and_says_what_is_wrong),
        cmocka_unit_test(a_run_is_left_out_while_the_one_before_is_not_done),
        cmocka_unit_test(a_run_that_was_rejected_is_done),
        cmocka_unit_test(a_run_that_went_with_its_topic_is_done),
        cmocka_unit_test(levels_mean_what_the_table_said_when_they_were_accepted),
        cmocka_unit_test(tables_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
