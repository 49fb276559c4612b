/* State, topics, producers: what lives beside the batches. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(struct fixture *f, const char *key, const char *value, size_t n) {
    struct outcome o = {0};
    struct engine_put p = {hf_str_of(key), hf_str_make(value, n)};
    struct engine_commit c = {.now_ms = 1, .puts = &p, .put_count = 1};
    assert_int_equal(engine_commit(log_engine(f->log), &c, ended, &o), HF_OK);
    wait_for(f, &o);
    assert_int_equal(o.e, HF_OK);
}

static uint64_t segments(struct fixture *f) {
    struct log_stats s;
    log_stats(f->log, &s);
    return s.segments;
}

/* A few keys overwritten for long, one written once: the partition stays short, all values stay right. */
static void state_stays_short_and_right_however_often_it_is_written(void **state) {
    (void)state;
    static char value[40000];
    struct fixture f;
    fixture_open(&f, 1);
    memset(value, 'v', sizeof value);
    put(&f, "once", "kept", 4);
    uint64_t most = 0;
    for (int round = 0; round < 600; round++) {
        char key[16];
        snprintf(key, sizeof key, "key/%d", round % 7);
        int n = snprintf(value, sizeof value, "%d", round);
        value[n] = 'v';
        put(&f, key, value, sizeof value);
        if (segments(&f) > most) most = segments(&f);
        if (round % 150 != 149) continue;
        fixture_crash(&f, round & 1 ? HF_SIM_POWER_LOSS : HF_SIM_PROCESS_DEATH);
        fixture_start(&f);
        for (int i = 0; i < 7; i++) {
            snprintf(key, sizeof key, "key/%d", (round - i) % 7);
            hf_str got = engine_state_get(log_engine(f.log), hf_str_of(key));
            assert_int_equal(got.n, sizeof value);
            assert_int_equal(strtol(got.p, NULL, 10), round - i);
        }
        assert_true(hf_str_is(engine_state_get(log_engine(f.log), HF_STR("once")), "kept"));
    }
    print_message("state: at most %d segments, %d at the end\n", (int)most, (int)segments(&f));
    assert_true(most < 350); /* 600 puts of 40 kB each fill a segment */
    fixture_close(&f);
}

static void a_topic_made_again_is_another_topic(void **state) {
    (void)state;
    struct fixture f;
    struct log_topic_info first, second;
    fixture_open(&f, 2);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 2});
    assert_int_equal(log_topic(f.log, HF_STR("t"), &first), HF_OK);
    append(&f, "t", "old", LOG_ACK_DURABLE);
    put(&f, "offset/of-t", "5", 1);
    struct outcome o = {0};
    hf_str key = HF_STR("offset/of-t");
    assert_int_equal(log_topic_delete(f.log, HF_STR("t"), &key, 1, ended, &o), HF_OK);
    assert_int_equal(log_topic(f.log, HF_STR("t"), &second), HF_ENOTFOUND);
    wait_for(&f, &o);
    assert_null(engine_state_get(log_engine(f.log), key).p);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    assert_int_equal(log_topic(f.log, HF_STR("t"), &second), HF_OK);
    assert_memory_not_equal(first.id.b, second.id.b, sizeof first.id.b);
    append(&f, "t", "new", LOG_ACK_DURABLE);
    for (int round = 0; round < 2; round++) {
        assert_string_equal(contents(&f, "t"), "0:new");
        fixture_crash(&f, round ? HF_SIM_PROCESS_DEATH : HF_SIM_POWER_LOSS);
        fixture_start(&f);
    }
    assert_int_equal(log_topic_by_id(f.log, first.id, &second), HF_ENOTFOUND);
    fixture_close(&f);
}

static void a_pin_keeps_the_bytes_of_a_deleted_topic(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, 3);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    append(&f, "t", "old", LOG_ACK_DURABLE);
    struct log_slice slice;
    assert_int_equal(log_read(f.log, log_partition(f.log, HF_STR("t"), 0), 0, 1000, true, &slice), HF_OK);
    struct outcome o = {0};
    assert_int_equal(log_topic_delete(f.log, HF_STR("t"), NULL, 0, ended, &o), HF_OK);
    wait_for(&f, &o);
    fixture_run(&f, 10);
    uint8_t bytes[1000];
    size_t got;
    assert_int_equal(env_read(slice.file, slice.position, bytes, slice.size, &got), HF_OK);
    assert_int_equal(got, slice.size);
    assert_non_null(memmem(bytes, got, "old", 3));
    log_pin_release(slice.pin);
    fixture_close(&f);
}

static void names_that_differ_by_dot_and_underscore_only_are_refused(void **state) {
    (void)state;
    struct fixture f;
    struct log_topic_config c = {.partitions = 1};
    fixture_open(&f, 4);
    fixture_create(&f, "a.b", c);
    assert_int_equal(log_topic_create(f.log, HF_STR("a_b"), &c, NULL, NULL), HF_EINVAL);
    assert_int_equal(log_topic_create(f.log, HF_STR("a.b"), &c, NULL, NULL), HF_EEXIST);
    assert_int_equal(log_topic_create(f.log, HF_STR("../b"), &c, NULL, NULL), HF_EINVAL);
    assert_int_equal(log_topic_create(f.log, HF_STR("__holdfast_state"), &c, NULL, NULL), HF_EINVAL);
    fixture_close(&f);
}

/* ---- producers ---- */

static int64_t send(struct fixture *f, int64_t id, int16_t epoch, int32_t seq, enum log_ack ack,
                    bool *duplicate) {
    struct answer a;
    struct producing by = {id, epoch, seq};
    enum hf_err e = begin_append(f, "t", "x", ack, &by, &a);
    if (e) return -(int64_t)e;
    for (int i = 0; i < 1000 && a.calls == 0; i++) fixture_run(f, 1);
    assert_int_equal(a.calls, 1);
    if (duplicate) *duplicate = a.result.duplicate;
    return a.result.base_offset;
}

static void a_retry_is_answered_with_its_original_across_restarts(void **state) {
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct fixture f;
        bool duplicate;
        fixture_open(&f, 5);
        fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
        for (int32_t seq = 0; seq < 8; seq++)
            assert_int_equal(send(&f, 7, 0, seq, LOG_ACK_DURABLE, &duplicate), seq);
        if (how == 0) fixture_stop(&f);
        if (how == 1) fixture_crash(&f, HF_SIM_PROCESS_DEATH);
        if (how == 2) fixture_crash(&f, HF_SIM_POWER_LOSS);
        fixture_start(&f);
        for (int32_t seq = 3; seq < 8; seq++) {
            assert_int_equal(send(&f, 7, 0, seq, LOG_ACK_DURABLE, &duplicate), seq);
            assert_true(duplicate);
        }
        assert_int_equal(send(&f, 7, 0, 9, LOG_ACK_DURABLE, NULL), -HF_ERANGE);
        assert_int_equal(send(&f, 7, 0, 8, LOG_ACK_DURABLE, &duplicate), 8);
        assert_false(duplicate);
        assert_int_equal(send(&f, 7, 1, 3, LOG_ACK_DURABLE, NULL), -HF_ERANGE);
        assert_int_equal(send(&f, 7, 1, 0, LOG_ACK_DURABLE, NULL), 9);
        assert_int_equal(send(&f, 7, 0, 9, LOG_ACK_DURABLE, NULL), -HF_EFENCED);
        fixture_close(&f);
    }
}

/* The original was asked with acks=1, the retry with acks=all: its answer promises that the original stays.
 */
static void a_retry_makes_its_original_as_durable_as_it_asks(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        struct fixture f;
        bool duplicate;
        fixture_open(&f, seed);
        fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
        assert_int_equal(send(&f, 7, 0, 0, LOG_ACK_WRITTEN, &duplicate), 0);
        assert_int_equal(send(&f, 7, 0, 0, LOG_ACK_DURABLE, &duplicate), 0);
        assert_true(duplicate);
        fixture_crash(&f, HF_SIM_POWER_LOSS);
        fixture_start(&f);
        assert_string_equal(contents(&f, "t"), "0:x");
        fixture_close(&f);
    }
}

static void producer_ids_are_never_given_twice(void **state) {
    (void)state;
    struct fixture f;
    int64_t last = 0, id;
    fixture_open(&f, 6);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 6000; i++) {
            while (log_producer_id(f.log, &id) == HF_EAGAIN) fixture_run(&f, 1);
            assert_true(id > last);
            last = id;
            if (i % 1000 == 0) fixture_run(&f, 1);
        }
        fixture_crash(&f, round & 1 ? HF_SIM_POWER_LOSS : HF_SIM_PROCESS_DEATH);
        fixture_start(&f);
    }
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_stays_short_and_right_however_often_it_is_written),
        cmocka_unit_test(a_topic_made_again_is_another_topic),
        cmocka_unit_test(a_pin_keeps_the_bytes_of_a_deleted_topic),
        cmocka_unit_test(names_that_differ_by_dot_and_underscore_only_are_refused),
        cmocka_unit_test(a_retry_is_answered_with_its_original_across_restarts),
        cmocka_unit_test(a_retry_makes_its_original_as_durable_as_it_asks),
        cmocka_unit_test(producer_ids_are_never_given_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
