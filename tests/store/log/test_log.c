/* Append, read, close, open: the straight path, and what each crash leaves of it. */
#include "fixture.h"

#include <string.h>

static void what_is_appended_can_be_read(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, 1);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    assert_int_equal(append(&f, "t", "a", LOG_ACK_DURABLE), 0);
    assert_int_equal(append(&f, "t", "b", LOG_ACK_WRITTEN), 1);
    assert_int_equal(append(&f, "t", "c", LOG_ACK_DURABLE), 2);
    assert_string_equal(contents(&f, "t"), "0:a 1:b 2:c");
    fixture_close(&f);
}

static void a_clean_stop_keeps_all_without_a_gap(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, 2);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    append(&f, "t", "a", LOG_ACK_WRITTEN);
    append(&f, "t", "b", LOG_ACK_DURABLE);
    fixture_stop(&f);
    fixture_start(&f);
    assert_int_equal(append(&f, "t", "c", LOG_ACK_DURABLE), 2);
    assert_string_equal(contents(&f, "t"), "0:a 1:b 2:c");
    fixture_close(&f);
}

static void an_answer_to_acks_all_survives_power_loss(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed < 50; seed++) {
        struct fixture f;
        fixture_open(&f, seed);
        fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
        append(&f, "t", "a", LOG_ACK_DURABLE);
        append(&f, "t", "b", LOG_ACK_DURABLE);
        fixture_crash(&f, HF_SIM_POWER_LOSS);
        fixture_start(&f);
        assert_string_equal(contents(&f, "t"), "0:a 1:b");
        assert_int_equal(append(&f, "t", "c", LOG_ACK_DURABLE), 2);
        fixture_crash(&f, HF_SIM_POWER_LOSS);
        fixture_start(&f);
        assert_string_equal(contents(&f, "t"), "0:a 1:b 2:c");
        fixture_close(&f);
    }
}

static void an_answer_to_acks_one_survives_the_process(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, 3);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    append(&f, "t", "a", LOG_ACK_WRITTEN);
    append(&f, "t", "b", LOG_ACK_WRITTEN);
    fixture_crash(&f, HF_SIM_PROCESS_DEATH);
    fixture_start(&f);
    assert_string_equal(contents(&f, "t"), "0:a 1:b");
    int64_t next = append(&f, "t", "c", LOG_ACK_WRITTEN);
    assert_true(next > 2); /* the tail may have been lost: numbers that were shown are not used again */
    struct log_bounds b;
    log_bounds(log_partition(f.log, HF_STR("t"), 0), &b);
    assert_int_equal(b.leader_epoch, 1);
    int32_t found;
    int64_t end;
    assert_int_equal(log_epoch_end(log_partition(f.log, HF_STR("t"), 0), 0, &found, &end), HF_OK);
    assert_int_equal(end, next);
    assert_int_equal(log_epoch_end(log_partition(f.log, HF_STR("t"), 0), 1, &found, &end), HF_OK);
    assert_int_equal(end, next + 1);
    assert_int_equal(log_epoch_end(log_partition(f.log, HF_STR("t"), 0), 2, &found, &end), HF_EEND);
    fixture_close(&f);
}

static void a_topic_with_more_offsets_than_one_record_drops_is_not_deleted(void **state) {
    (void)state;
    enum { MANY = 65536 };
    static hf_str keys[MANY];
    struct fixture f;
    struct outcome o = {0};
    fixture_open_large(&f, 1);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    for (int i = 0; i < MANY; i++) keys[i] = HF_STR("offset/of a group");
    assert_int_equal(log_topic_delete(f.log, HF_STR("t"), keys, MANY, ended, &o), HF_ELIMIT);
    struct log_topic_info info;
    assert_int_equal(log_topic(f.log, HF_STR("t"), &info), HF_OK);
    assert_int_equal(log_topic_delete(f.log, HF_STR("t"), keys, MANY - 1, ended, &o), HF_OK);
    wait_for(&f, &o);
    assert_int_equal(o.e, HF_OK);
    assert_int_equal(log_topic(f.log, HF_STR("t"), &info), HF_ENOTFOUND);
    fixture_close(&f);
}

static void segments_roll_and_stay_readable(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, 4);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    char text[1500];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    for (int i = 0; i < 100; i++) append(&f, "t", text, i % 3 ? LOG_ACK_DURABLE : LOG_ACK_WRITTEN);
    struct log_stats s;
    log_stats(f.log, &s);
    assert_true(s.segments > 8);
    assert_int_equal(s.rolls, s.segments - 2); /* a first one each for t and the state */
    for (int round = 0; round < 3; round++) {
        struct log_partition *p = log_partition(f.log, HF_STR("t"), 0);
        for (int64_t i = 0; i < 100; i++) {
            struct log_slice slice;
            assert_int_equal(log_read(f.log, p, i, 100, true, &slice), HF_OK);
            assert_true(slice.size > 1400 && slice.first_offset == i);
            log_pin_release(slice.pin);
        }
        if (round == 0) fixture_stop(&f);
        if (round == 1) fixture_crash(&f, HF_SIM_PROCESS_DEATH);
        if (round < 2) fixture_start(&f);
    }
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_appended_can_be_read),
        cmocka_unit_test(a_clean_stop_keeps_all_without_a_gap),
        cmocka_unit_test(an_answer_to_acks_all_survives_power_loss),
        cmocka_unit_test(an_answer_to_acks_one_survives_the_process),
        cmocka_unit_test(a_topic_with_more_offsets_than_one_record_drops_is_not_deleted),
        cmocka_unit_test(segments_roll_and_stay_readable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
