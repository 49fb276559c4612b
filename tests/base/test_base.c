#include "base/arena.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/duration.h"
#include "base/names.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void every_error_has_a_text_and_a_class(void **state) {
    (void)state;
    assert_string_equal(hf_err_text(HF_ENOSPC), "no space left");
    assert_string_equal(hf_err_name(HF_ECORRUPT), "HF_ECORRUPT");
    assert_int_equal(hf_err_class_of(HF_ECORRUPT), HF_CLASS_CORRUPT);
    assert_string_equal(hf_err_text((enum hf_err)9999), "unknown error");
    assert_int_equal(hf_err_from_errno(EDQUOT), HF_ENOSPC);
}

static void buffer_stops_at_its_limit_and_keeps_its_bytes(void **state) {
    (void)state;
    struct hf_buf b;
    hf_buf_init(&b, 10);
    hf_buf_put(&b, "12345678", 8);
    assert_int_equal(hf_buf_failed(&b), HF_OK);
    hf_buf_put(&b, "abc", 3);
    assert_int_equal(hf_buf_failed(&b), HF_ELIMIT);
    assert_int_equal(b.n, 8);
    hf_buf_put(&b, "a", 1); /* the error sticks */
    assert_int_equal(b.n, 8);
    hf_buf_reset(&b);
    hf_buf_printf(&b, "%d", 123);
    assert_memory_equal(b.p, "123", 3);
    hf_buf_fini(&b);
}

static void an_arena_that_is_reset_begins_anew_in_its_first_block(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, 1 << 20);
    uint8_t *first = hf_arena_alloc(&a, 100);
    assert_non_null(first);
    memset(first, 'x', 100);
    for (int i = 0; i < 50; i++) assert_non_null(hf_arena_alloc(&a, 1000)); /* more blocks */
    hf_arena_reset(&a);
    uint8_t *again = hf_arena_alloc(&a, 100);
    assert_ptr_equal(again, first);
    for (int i = 0; i < 100; i++) assert_int_equal(again[i], 0);
    assert_true(a.taken <= 4096);
    assert_null(hf_arena_alloc(&a, 1 << 20)); /* the limit is the same */
    hf_arena_reset(&a);
    hf_arena_fini(&a);
    assert_non_null(hf_arena_alloc(&a, 100 << 10)); /* a first block that is large is not kept */
    hf_arena_reset(&a);
    assert_int_equal(a.taken, 0);
    hf_arena_reset(&a);
    hf_arena_fini(&a);
}

static void integers_travel_both_ways(void **state) {
    (void)state;
    static const int64_t values[] = {0,   1,   -1,        63,        64,        -64,      -65,
                                     127, 128, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct hf_buf b;
        hf_buf_init(&b, 64);
        hf_buf_varint(&b, values[i]);
        assert_int_equal(b.n, hf_uvarint_size(hf_zigzag(values[i])));
        hf_buf_be64(&b, (uint64_t)values[i]);
        struct hf_reader r = hf_reader_of(b.p, b.n);
        assert_true(hf_read_varint64(&r) == values[i]);
        assert_true((int64_t)hf_read_be64(&r) == values[i]);
        assert_false(r.bad);
        assert_int_equal(hf_read_u8(&r), 0);
        assert_true(r.bad);
        hf_buf_fini(&b);
    }
}

static void overlong_varints_are_bad(void **state) {
    (void)state;
    uint8_t endless[11];
    memset(endless, 0xff, sizeof endless);
    struct hf_reader r = hf_reader_of(endless, sizeof endless);
    hf_read_uvarint64(&r);
    assert_true(r.bad);
    const uint8_t too_big[] = {0xff, 0xff, 0xff, 0xff, 0x1f}; /* 33 bits */
    r = hf_reader_of(too_big, sizeof too_big);
    hf_read_uvarint32(&r);
    assert_true(r.bad);
    const uint8_t largest[] = {0xff, 0xff, 0xff, 0xff, 0x0f};
    r = hf_reader_of(largest, sizeof largest);
    assert_true(hf_read_uvarint32(&r) == UINT32_MAX && !r.bad);
}

static void crc32c_matches_rfc3720(void **state) {
    (void)state;
    uint8_t zeros[32] = {0};
    assert_int_equal(hf_crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(hf_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(hf_crc32c(hf_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static void durations_are_parsed_or_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum hf_err e;
        int64_t ms;
    } rows[] = {{"250ms", HF_OK, 250},
                {"30s", HF_OK, 30000},
                {"15m", HF_OK, 900000},
                {"2h", HF_OK, 7200000},
                {"7d", HF_OK, 604800000},
                {"1500", HF_OK, 1500},
                {"0", HF_OK, 0},
                {"", HF_EINVAL, 0},
                {"-5s", HF_EINVAL, 0},
                {"5 s", HF_EINVAL, 0},
                {"5w", HF_EINVAL, 0},
                {"ms", HF_EINVAL, 0},
                {"1.5s", HF_EINVAL, 0},
                {"99999999999999999999", HF_ERANGE, 0},
                {"9223372036854775807d", HF_ERANGE, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t ms = -1;
        assert_int_equal(hf_duration_parse(hf_str_of(rows[i].text), &ms), rows[i].e);
        assert_true(ms == (rows[i].e ? -1 : rows[i].ms)); /* untouched on failure */
    }
}

static void times_are_parsed_or_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum hf_err e;
        int64_t ms;
    } rows[] = {{"1767225600000", HF_OK, 1767225600000},
                {"2026-01-01T00:00:00Z", HF_OK, 1767225600000},
                {"2026-01-01T01:30:00+01:30", HF_OK, 1767225600000},
                {"2026-01-01 00:00:00.250Z", HF_OK, 1767225600250},
                {"2026-01-01T00:00:00.0001Z", HF_OK, 1767225600001}, /* up, never early */
                {"2024-02-29T00:00:00Z", HF_OK, 1709164800000},
                {"1969-12-31T23:59:59.999Z", HF_OK, -1},
                {"2026-02-29T00:00:00Z", HF_EINVAL, 0},
                {"2026-01-01T24:00:00Z", HF_EINVAL, 0},
                {"2026-01-01T00:00:00", HF_EINVAL, 0},
                {"2026-01-01", HF_EINVAL, 0},
                {"tomorrow", HF_EINVAL, 0},
                {"-1", HF_EINVAL, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t ms = -77;
        assert_int_equal(hf_time_parse(hf_str_of(rows[i].text), &ms), rows[i].e);
        assert_true(ms == (rows[i].e ? -77 : rows[i].ms));
    }
}

static void times_are_formatted_as_they_are_parsed(void **state) {
    (void)state;
    for (int64_t ms = -62167219200000; ms < 253402300799999; ms += 86399999LL * 733) {
        char text[HF_TIME_TEXT];
        int64_t back;
        hf_time_format(ms, text);
        assert_int_equal(hf_time_parse(hf_str_of(text), &back), HF_OK);
        assert_true(back == ms);
    }
}

static void topic_names_follow_kafkas_rule(void **state) {
    (void)state;
    assert_true(hf_topic_name_ok(HF_STR("orders.paid_2-x")));
    assert_false(hf_topic_name_ok(HF_STR("")));
    assert_false(hf_topic_name_ok(HF_STR("..")));
    assert_false(hf_topic_name_ok(HF_STR("a/b")));
    char longest[251];
    memset(longest, 'a', sizeof longest);
    assert_true(hf_topic_name_ok(hf_str_make(longest, 249)));
    assert_false(hf_topic_name_ok(hf_str_make(longest, 250)));
    assert_true(hf_topic_is_ours(HF_STR("holdfast.delay")));
    assert_false(hf_topic_is_ours(HF_STR("holdfast")));
    assert_true(hf_group_suffix_ok(HF_STR("order-service")));
    assert_false(hf_group_suffix_ok(HF_STR("order service")));
}

/* Values of Kafka's own UtilsTest.testMurmur2. */
static void murmur2_matches_the_java_client(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int32_t hash;
    } rows[] = {{"21", -973932308},
                {"foobar", -790332482},
                {"a-little-bit-long-string", -985981536},
                {"a-little-bit-longer-string", -1486304829},
                {"abc", 479470107}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal((int32_t)hf_murmur2(rows[i].key, strlen(rows[i].key)), rows[i].hash);
    assert_in_range(hf_partition_of_key(HF_STR("21"), 7), 0, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_has_a_text_and_a_class),
        cmocka_unit_test(buffer_stops_at_its_limit_and_keeps_its_bytes),
        cmocka_unit_test(an_arena_that_is_reset_begins_anew_in_its_first_block),
        cmocka_unit_test(integers_travel_both_ways),
        cmocka_unit_test(overlong_varints_are_bad),
        cmocka_unit_test(crc32c_matches_rfc3720),
        cmocka_unit_test(durations_are_parsed_or_refused),
        cmocka_unit_test(times_are_parsed_or_refused),
        cmocka_unit_test(times_are_formatted_as_they_are_parsed),
        cmocka_unit_test(topic_names_follow_kafkas_rule),
        cmocka_unit_test(murmur2_matches_the_java_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
