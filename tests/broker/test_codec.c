/* The codec against itself (every API, version and direction, random messages made by walking the tables) and
 * against bytes written by hand. Frames made by other people's libraries are in frames.py. */
#include "broker/codec.h"
#include "broker/kafka_errors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ARENA_MAX = 16 << 20, ROUNDS = 20 };

static uint64_t rng;

static uint64_t next_random(void) {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static hf_str random_str(struct hf_arena *a, bool nullable) {
    if (nullable && next_random() % 3 == 0) return (hf_str){NULL, 0};
    size_t n = next_random() % 20;
    if (next_random() % 10 == 0) n = 120 + next_random() % 200;
    char *p = hf_arena_alloc(a, n);
    for (size_t i = 0; i < n; i++) p[i] = (char)next_random();
    return (hf_str){p, n};
}

static void fill_shape(struct hf_arena *a, const struct kafka_shape *shape, int16_t version, void *message);

static void fill_scalar(struct hf_arena *a, const struct kafka_field *f, int16_t version, void *at) {
    bool nullable = version >= f->null_from;
    switch (f->type) {
    case KAFKA_TYPE_BOOL: *(bool *)at = next_random() & 1; break;
    case KAFKA_TYPE_I8: *(int8_t *)at = (int8_t)next_random(); break;
    case KAFKA_TYPE_I16: *(int16_t *)at = (int16_t)next_random(); break;
    case KAFKA_TYPE_I32: *(int32_t *)at = (int32_t)next_random(); break;
    case KAFKA_TYPE_I64: *(int64_t *)at = (int64_t)next_random(); break;
    case KAFKA_TYPE_UUID:
        for (int i = 0; i < 16; i++) ((uint8_t *)at)[i] = (uint8_t)next_random();
        break;
    case KAFKA_TYPE_STRING:
    case KAFKA_TYPE_BYTES: *(hf_str *)at = random_str(a, nullable); break;
    case KAFKA_TYPE_RECORDS: ((struct kafka_records *)at)->bytes = random_str(a, nullable); break;
    case KAFKA_TYPE_SHAPE: fill_shape(a, f->shape(), version, at); break;
    }
}

static void fill_shape(struct hf_arena *a, const struct kafka_shape *shape, int16_t version, void *message) {
    for (size_t i = 0; i < shape->field_count; i++) {
        const struct kafka_field *f = &shape->fields[i];
        uint8_t *at = (uint8_t *)message + f->at;
        if (version < f->from || version > f->to) continue;
        if (f->list) {
            size_t size = f->type == KAFKA_TYPE_SHAPE ? f->shape()->size : sizeof(struct kafka_records);
            int32_t count = (int32_t)(next_random() % 4);
            if (version >= f->null_from && next_random() % 3 == 0) count = -1;
            uint8_t *p = count > 0 ? hf_arena_array(a, (size_t)count, size) : NULL;
            static const size_t steps[] = {1, 1, 2, 4, 8, 16, sizeof(hf_str), sizeof(hf_str), 0};
            if (f->type != KAFKA_TYPE_SHAPE) size = steps[f->type];
            for (int32_t k = 0; k < count; k++) fill_scalar(a, f, version, p + (size_t)k * size);
            memcpy(at, &p, sizeof(p));
            memcpy((uint8_t *)message + f->count_at, &count, sizeof(count));
        } else if (f->type == KAFKA_TYPE_SHAPE) {
            void *p = next_random() & 1 ? hf_arena_alloc(a, f->shape()->size) : NULL;
            if (p) fill_shape(a, f->shape(), version, p);
            memcpy(at, &p, sizeof(p));
        } else {
            fill_scalar(a, f, version, at);
        }
    }
}

/* Encodes, decodes, encodes: the bytes agree. Cut anywhere, or with a byte too many, the message is refused.
 */
static void check_round_trip(const struct kafka_shape *shape, int16_t version, bool flexible) {
    struct hf_arena a;
    hf_arena_init(&a, ARENA_MAX);
    struct hf_buf first, second;
    hf_buf_init(&first, 1 << 20);
    hf_buf_init(&second, 1 << 20);
    void *message = kafka_blank(&a, shape), *again = NULL;
    fill_shape(&a, shape, version, message);
    kafka_encode(&first, NULL, shape, version, flexible, message);
    assert_int_equal(hf_buf_failed(&first), HF_OK);
    hf_buf_u8(&first, 0);
    for (size_t n = 0; n <= first.n; n++) {
        /* A copy of its own size, so that a sanitizer sees the first byte read past it. */
        uint8_t *copy = malloc(n ? n : 1);
        memcpy(copy, first.p, n);
        struct hf_reader r = hf_reader_of(copy, n);
        enum hf_err e = kafka_decode(&a, shape, version, flexible, &r, &again);
        if (n == first.n - 1) {
            assert_int_equal(e, HF_OK);
            kafka_encode(&second, NULL, shape, version, flexible, again);
        } else {
            assert_int_equal(e, HF_EINVAL);
        }
        free(copy);
    }
    assert_int_equal(second.n, first.n - 1);
    assert_memory_equal(second.p, first.p, second.n);
    hf_buf_fini(&second);
    hf_buf_fini(&first);
    hf_arena_fini(&a);
}

static void every_message_of_every_version_survives_a_round_trip(void **state) {
    (void)state;
    rng = 0x9e3779b97f4a7c15;
    print_message("seed %llu\n", (unsigned long long)rng);
    for (size_t i = 0; i < kafka_api_count; i++) {
        const struct kafka_api *api = &kafka_apis[i];
        for (int16_t version = api->min; version <= api->max; version++)
            for (int round = 0; round < ROUNDS; round++) {
                check_round_trip(api->request(), version, version >= api->flexible_from);
                check_round_trip(api->response(), version, version >= api->flexible_from);
            }
    }
}

/* Random damage: whatever comes out, nothing is read out of bounds and no more is held than the limit. */
static void damaged_messages_are_refused_or_decoded_but_never_harmful(void **state) {
    (void)state;
    rng = 88172645463325252ULL;
    for (int round = 0; round < 20000; round++) {
        const struct kafka_api *api = &kafka_apis[next_random() % kafka_api_count];
        int16_t version = (int16_t)(api->min + (int)(next_random() % (uint64_t)(api->max - api->min + 1)));
        bool flexible = version >= api->flexible_from;
        struct hf_arena a;
        hf_arena_init(&a, 64 << 10);
        struct hf_buf buf;
        hf_buf_init(&buf, 1 << 20);
        void *message = kafka_blank(&a, api->request());
        fill_shape(&a, api->request(), version, message);
        kafka_encode(&buf, NULL, api->request(), version, flexible, message);
        hf_arena_fini(&a);
        for (int k = 0; buf.n && k < 3; k++)
            buf.p[next_random() % buf.n] = (uint8_t)(next_random() & 1 ? 0xff : next_random());
        struct hf_reader r = hf_reader_of(buf.p, buf.n);
        void *out = NULL;
        enum hf_err e = kafka_decode(&a, api->request(), version, flexible, &r, &out);
        assert_true(e == HF_OK || e == HF_EINVAL || e == HF_ENOMEM);
        assert_true(a.taken <= a.max);
        hf_arena_fini(&a);
        hf_buf_fini(&buf);
    }
}

static void counts_are_checked_before_memory_is_taken(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, ARENA_MAX);
    /* Metadata 1: an array of 2^31 - 1 topics in a frame of 14 bytes. */
    static const uint8_t body[] = {0x7f, 0xff, 0xff, 0xff, 0, 1, 'a', 0, 1, 'b', 0, 1, 'c', 0};
    struct hf_reader r = hf_reader_of(body, sizeof(body));
    void *out = NULL;
    const struct kafka_api *api = kafka_api_of(KAFKA_API_metadata);
    assert_int_equal(kafka_decode(&a, api->request(), 1, false, &r, &out), HF_EINVAL);
    assert_true(a.taken <= 4096);
    hf_arena_fini(&a);
}

static void the_arena_limit_ends_a_decode(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, 8192);
    uint8_t body[4 + 2000 * 2] = {0, 0, 2000 >> 8, 2000 & 0xff};
    struct hf_reader r = hf_reader_of(body, sizeof(body));
    void *out = NULL;
    assert_int_equal(kafka_decode(&a, kafka_api_of(KAFKA_API_metadata)->request(), 1, false, &r, &out),
                     HF_ENOMEM);
    assert_null(out);
    hf_arena_fini(&a);
}

static void absent_fields_read_as_their_fallbacks(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, ARENA_MAX);
    static const uint8_t body[] = {0xff, 0xff, 0xff, 0xff};
    struct hf_reader r = hf_reader_of(body, sizeof(body));
    void *out = NULL;
    assert_int_equal(kafka_decode(&a, kafka_api_of(KAFKA_API_metadata)->request(), 1, false, &r, &out),
                     HF_OK);
    const struct kafka_metadata_request *m = out;
    assert_int_equal(m->topics_count, -1);
    assert_true(m->allow_auto_topic_creation);
    hf_arena_fini(&a);
}

static void unknown_tags_are_skipped_and_descending_ones_refused(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, ARENA_MAX);
    uint8_t body[] = {2, 'x', 2, 'y', 2, 5, 1, 0xaa, 9, 2, 0xbb, 0xcc};
    const struct kafka_api *api = kafka_api_of(KAFKA_API_api_versions);
    struct hf_reader r = hf_reader_of(body, sizeof(body));
    void *out = NULL;
    assert_int_equal(kafka_decode(&a, api->request(), 3, true, &r, &out), HF_OK);
    const struct kafka_api_versions_request *m = out;
    assert_true(hf_str_is(m->client_software_name, "x"));
    body[8] = 4;
    r = hf_reader_of(body, sizeof(body));
    assert_int_equal(kafka_decode(&a, api->request(), 3, true, &r, &out), HF_EINVAL);
    hf_arena_fini(&a);
}

static void only_so_many_stray_bytes_are_passed_over(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, ARENA_MAX);
    static const uint8_t body[] = {2, 'g', 0, 0, 0, 0, 0, 0, 0}; /* OffsetFetch 7: all topics, not stable */
    const struct kafka_shape *shape = kafka_api_of(KAFKA_API_offset_fetch)->request();
    void *out = NULL;
    for (size_t stray = 0; stray <= 4; stray++) {
        struct hf_reader r = hf_reader_of(body, 5 + stray);
        assert_int_equal(kafka_decode_stray(&a, shape, 7, true, 3, &r, &out), stray <= 3 ? HF_OK : HF_EINVAL);
        r = hf_reader_of(body, 5 + stray);
        assert_int_equal(kafka_decode(&a, shape, 7, true, &r, &out), stray == 0 ? HF_OK : HF_EINVAL);
    }
    assert_int_equal(((struct kafka_offset_fetch_request *)out)->topics_count, -1);
    hf_arena_fini(&a);
}

static void a_range_of_a_file_is_a_length_and_a_splice(void **state) {
    (void)state;
    struct hf_arena a;
    hf_arena_init(&a, ARENA_MAX);
    struct hf_buf out;
    hf_buf_init(&out, 1 << 20);
    struct kafka_range range = {.fd = 3, .offset = 10, .size = 300};
    struct kafka_fetch_response_partition partition = {
        .preferred_read_replica = -1, .aborted_transactions_count = -1, .records.range = &range};
    struct kafka_fetch_response_topic topic = {
        .topic = HF_STR("t"), .partitions = &partition, .partitions_count = 1};
    struct kafka_fetch_response answer = {.topics = &topic, .topics_count = 1};
    struct kafka_splices splices;
    kafka_splices_init(&splices, &a);
    kafka_encode(&out, &splices, kafka_api_of(KAFKA_API_fetch)->response(), 12, true, &answer);
    assert_int_equal(hf_buf_failed(&out), HF_OK);
    assert_int_equal(splices.bytes, 300);
    assert_ptr_equal(splices.first->range, &range);
    assert_null(splices.first->next);
    /* The length 300 as 301, compact, stands before the place; behind it the three empty tag sections. */
    assert_int_equal(splices.first->at, out.n - 3);
    assert_int_equal(out.p[out.n - 5], 0xad);
    assert_int_equal(out.p[out.n - 4], 0x02);
    hf_buf_fini(&out);
    hf_arena_fini(&a);
}

static void a_string_too_long_for_its_field_fails_the_answer(void **state) {
    (void)state;
    struct hf_buf out;
    hf_buf_init(&out, 1 << 20);
    char *text = calloc(1, 40000);
    struct kafka_list_groups_response answer = {
        .groups = &(struct kafka_listed_group){.group_id = hf_str_make(text, 40000)}, .groups_count = 1};
    kafka_encode(&out, NULL, kafka_api_of(KAFKA_API_list_groups)->response(), 0, false, &answer);
    assert_int_equal(hf_buf_failed(&out), HF_ELIMIT);
    free(text);
    hf_buf_fini(&out);
}

static void our_errors_are_told_as_the_protocols(void **state) {
    (void)state;
    assert_int_equal(KAFKA_INVALID_RECORD, 87);
    assert_int_equal(kafka_error_of(HF_ENOSPC), KAFKA_KAFKA_STORAGE_ERROR);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_of_every_version_survives_a_round_trip),
        cmocka_unit_test(damaged_messages_are_refused_or_decoded_but_never_harmful),
        cmocka_unit_test(counts_are_checked_before_memory_is_taken),
        cmocka_unit_test(the_arena_limit_ends_a_decode),
        cmocka_unit_test(absent_fields_read_as_their_fallbacks),
        cmocka_unit_test(unknown_tags_are_skipped_and_descending_ones_refused),
        cmocka_unit_test(only_so_many_stray_bytes_are_passed_over),
        cmocka_unit_test(a_range_of_a_file_is_a_length_and_a_splice),
        cmocka_unit_test(a_string_too_long_for_its_field_fails_the_answer),
        cmocka_unit_test(our_errors_are_told_as_the_protocols),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
