/* Thousands of partitions: open files stay few, nothing that was answered is lost, a checkpoint ends. */
#include "fixture.h"

enum { PARTITIONS = 3000, FILES = 64, ROUNDS = 2 };

static void open_many(struct fixture *f, uint64_t seed) {
    fixture_open(f, seed);
    fixture_stop(f);
    f->options.open_files = FILES;
    fixture_start(f);
    struct log_topic_config config = {.partitions = PARTITIONS};
    log_settings_put(&config.settings, LOG_SEGMENT_BYTES, 256 << 20);
    log_settings_put(&config.settings, LOG_RETENTION_MS, -1);
    struct outcome o = {0};
    assert_int_equal(log_topic_create(f->log, HF_STR("t"), &config, ended, &o), HF_OK);
    while (o.calls == 0) fixture_turn(f);
    assert_int_equal(o.e, HF_OK);
}

static struct log_partition *number(struct fixture *f, int i) {
    struct log_partition *p = log_partition(f->log, HF_STR("t"), i);
    assert_non_null(p);
    return p;
}

/* As the server does: nothing is begun while the log is crowded. */
static void append_to(struct fixture *f, int i, enum log_ack ack) {
    uint8_t batch[4096];
    struct answer a = {0};
    for (int turns = 0; log_crowded(f->log); turns++) {
        assert_true(turns < 10000);
        fixture_turn(f);
    }
    char text[3000]; /* so that three of them have an entry in the index */
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    size_t n = make_batch(batch, text, 1, NULL);
    assert_int_equal(log_append(f->log, number(f, i), batch, n, ack, answered, &a), HF_OK);
    for (int turns = 0; turns < 1000 && a.calls == 0; turns++) fixture_turn(f);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.result.e, HF_OK);
}

static void append_to_all(struct fixture *f) {
    for (int i = 0; i < PARTITIONS; i++) append_to(f, i, i % 2 ? LOG_ACK_WRITTEN : LOG_ACK_DURABLE);
}

static void expect_in(struct fixture *f, int first, int64_t count) {
    for (int i = first; i < PARTITIONS; i++) {
        int64_t found = 0;
        struct engine_cursor *c;
        struct engine_record r;
        assert_int_equal(engine_cursor_open(log_engine(f->log), HF_STR("t"), i, &c), HF_OK);
        while (engine_cursor_next(c, &r) == HF_OK) found++;
        engine_cursor_close(c);
        assert_int_equal(found, count);
    }
}

static void expect_in_all(struct fixture *f, int64_t count) {
    expect_in(f, 0, count);
}

static void open_files_stay_few_while_thousands_of_partitions_are_written(void **state) {
    (void)state;
    struct fixture f;
    struct log_stats s;
    open_many(&f, 1);
    for (int round = 0; round < ROUNDS; round++) append_to_all(&f);
    log_stats(f.log, &s);
    assert_true(s.open_files <= FILES * 3 / 2);
    assert_true(s.checkpoints >= 1);
    expect_in_all(&f, ROUNDS);
    fixture_stop(&f);
    fixture_start(&f);
    log_stats(f.log, &s);
    assert_true(s.open_files <= FILES);
    expect_in_all(&f, ROUNDS);
    fixture_close(&f);
}

static void room_of_segments_that_are_opened_again_and_again_stays_small(void **state) {
    (void)state;
    struct fixture f;
    uint64_t before, after;
    open_many(&f, 4);
    assert_int_equal(env_space(f.env, &before), HF_OK);
    for (int round = 0; round < 10; round++)
        for (int i = 0; i < 4 * FILES; i++) append_to(&f, i, LOG_ACK_DURABLE);
    assert_int_equal(env_space(f.env, &after), HF_OK);
    assert_true(before - after < 32 << 20); /* 2,560 small messages */
    fixture_close(&f);
}

static void a_crash_start_opens_few_files_and_finds_the_tails_of_thousands(void **state) {
    (void)state;
    struct fixture f;
    struct log_stats s;
    open_many(&f, 2);
    for (int round = 0; round < 3; round++) append_to_all(&f);
    log_stats(f.log, &s);
    for (uint64_t before = s.checkpoints; s.checkpoints < before + 2; log_stats(f.log, &s)) {
        hf_sim_advance(f.sim, 1000000); /* its facts name all of them, and their indexes */
        fixture_turn(&f);
        append_to(&f, 0, LOG_ACK_DURABLE);
    }
    fixture_crash(&f, HF_SIM_PROCESS_DEATH);
    fixture_start(&f);
    log_stats(f.log, &s);
    assert_true(s.open_files_most <= FILES * 2);
    expect_in(&f, 1, 3);
    append_to_all(&f);
    expect_in(&f, 1, 4);
    fixture_close(&f);
}

static void appends_beyond_the_limit_are_refused_not_lost(void **state) {
    (void)state;
    struct fixture f;
    open_many(&f, 3);
    enum hf_err e = HF_OK;
    struct answer a = {0};
    int begun = 0;
    for (int i = 0; i < PARTITIONS && !e; i++) { /* without a turn of the loop between them */
        uint8_t batch[4096];
        size_t n = make_batch(batch, "message", 1, NULL);
        e = log_append(f.log, number(&f, i), batch, n, LOG_ACK_WRITTEN, answered, &a);
        if (!e) begun++;
    }
    assert_int_equal(e, HF_EAGAIN);
    assert_true(begun >= FILES && begun <= FILES * 3 / 2);
    for (int turns = 0; turns < 10000 && a.calls < begun; turns++) fixture_turn(&f);
    assert_int_equal(a.calls, begun);
    append_to(&f, PARTITIONS - 1, LOG_ACK_WRITTEN);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_files_stay_few_while_thousands_of_partitions_are_written),
        cmocka_unit_test(room_of_segments_that_are_opened_again_and_again_stays_small),
        cmocka_unit_test(a_crash_start_opens_few_files_and_finds_the_tails_of_thousands),
        cmocka_unit_test(appends_beyond_the_limit_are_refused_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
