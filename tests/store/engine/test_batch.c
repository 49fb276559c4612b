#include "batch_fixtures.h"
#include "store/engine/batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

enum { RECORDS = 24, OUTPUT_MAX = 1 << 20 };

static const struct {
    const char *name;
    const uint8_t *p;
    size_t n;
    int codec;
} fixtures[] = {
#define FIXTURE(name, codec)                                                                                 \
    { #name, name, sizeof name, codec }
    FIXTURE(batch_plain, BATCH_NONE),
    FIXTURE(batch_gzip, BATCH_GZIP),
    FIXTURE(batch_snappy_xerial, BATCH_SNAPPY),
    FIXTURE(batch_snappy_raw, BATCH_SNAPPY),
    FIXTURE(batch_lz4, BATCH_LZ4),
    FIXTURE(batch_zstd, BATCH_ZSTD),
};
enum { FIXTURES = sizeof fixtures / sizeof fixtures[0] };

static void expect_text(hf_str s, const char *text, size_t times) {
    size_t n = strlen(text);
    assert_non_null(s.p);
    assert_int_equal(s.n, n * times);
    for (size_t i = 0; i < times; i++) assert_memory_equal(s.p + i * n, text, n);
}

/* The records that make_fixtures.py builds. */
static void expect_record(const struct batch_record *r, int i) {
    char text[32];
    assert_int_equal(r->offset_delta, i);
    assert_true(r->timestamp_ms == 1700000000000 + 10 * i);
    snprintf(text, sizeof text, "key-%d", i);
    if (i % 5 == 0)
        assert_null(r->key.p);
    else
        expect_text(r->key, text, 1);
    snprintf(text, sizeof text, "value %d;", i);
    if (i % 7 == 0)
        assert_null(r->value.p);
    else
        expect_text(r->value, text, (size_t)i);
    assert_int_equal(r->header_count, i % 4);
    for (int h = 0; h < i % 4; h++) {
        snprintf(text, sizeof text, "h%d", h);
        expect_text(r->headers[h].key, text, 1);
        snprintf(text, sizeof text, "v%d", i);
        if (h == 2)
            assert_null(r->headers[h].value.p);
        else
            expect_text(r->headers[h].value, text, 1);
    }
}

static void reads_what_another_library_wrote_with_every_codec(void **state) {
    (void)state;
    struct batch_iter *it;
    assert_int_equal(batch_iter_open(OUTPUT_MAX, &it), HF_OK);
    for (size_t f = 0; f < FIXTURES; f++) {
        struct batch_info info;
        assert_int_equal(batch_parse(fixtures[f].p, fixtures[f].n, &info), HF_OK);
        assert_int_equal(info.size, fixtures[f].n);
        assert_int_equal(info.attributes & BATCH_ATTR_CODEC, fixtures[f].codec);
        assert_int_equal(info.record_count, RECORDS);
        assert_int_equal(info.last_offset_delta, RECORDS - 1);
        assert_true(info.producer_id == 7000 + fixtures[f].codec);
        assert_int_equal(info.producer_epoch, 3);
        assert_int_equal(info.base_sequence, 41);
        assert_true(info.max_timestamp == 1700000000000 + 10 * (RECORDS - 1));
        assert_true(batch_crc_ok(fixtures[f].p, &info));
        assert_int_equal(batch_iter_begin(it, fixtures[f].p, &info), HF_OK);
        struct batch_record r;
        for (int i = 0; i < RECORDS; i++) {
            assert_int_equal(batch_iter_next(it, &r), HF_OK);
            expect_record(&r, i);
        }
        assert_int_equal(batch_iter_next(it, &r), HF_EEND);
    }
    batch_iter_close(it);
}

static void append_time_replaces_every_timestamp(void **state) {
    (void)state;
    uint8_t own[sizeof batch_gzip];
    memcpy(own, batch_gzip, sizeof own);
    batch_set_place(own, INT64_C(0x123456789a), 9);
    batch_set_append_time(own, 1800000000000);
    struct batch_info info;
    struct batch_iter *it;
    struct batch_record r;
    assert_int_equal(batch_parse(own, sizeof own, &info), HF_OK);
    assert_true(batch_crc_ok(own, &info));
    assert_true(info.base_offset == INT64_C(0x123456789a) && info.leader_epoch == 9);
    assert_int_equal(batch_iter_open(OUTPUT_MAX, &it), HF_OK);
    assert_int_equal(batch_iter_begin(it, own, &info), HF_OK);
    assert_int_equal(batch_iter_next(it, &r), HF_OK);
    assert_true(r.timestamp_ms == 1800000000000);
    batch_iter_close(it);
}

static void decompression_stops_at_the_limit(void **state) {
    (void)state;
    struct batch_iter *it;
    assert_int_equal(batch_iter_open(1000, &it), HF_OK);
    for (size_t f = 1; f < FIXTURES; f++) {
        struct batch_info info;
        struct batch_record r;
        assert_int_equal(batch_parse(fixtures[f].p, fixtures[f].n, &info), HF_OK);
        assert_int_equal(batch_iter_begin(it, fixtures[f].p, &info), HF_ELIMIT);
        assert_int_equal(batch_iter_next(it, &r), HF_EEND); /* nothing of it can be read */
    }
    batch_iter_close(it);
}

static void a_cut_batch_is_never_whole(void **state) {
    (void)state;
    for (size_t f = 0; f < FIXTURES; f++)
        for (size_t n = 0; n < fixtures[f].n; n++) {
            struct batch_info info;
            uint8_t *own = malloc(n ? n : 1);
            assert_non_null(own);
            memcpy(own, fixtures[f].p, n);
            assert_int_equal(batch_parse(own, n, &info), HF_EEND);
            free(own);
        }
}

/* Records cut at every byte while the header's length agrees with the cut. */
static void cut_records_are_corrupt(void **state) {
    (void)state;
    struct batch_iter *it;
    assert_int_equal(batch_iter_open(OUTPUT_MAX, &it), HF_OK);
    for (size_t f = 0; f < FIXTURES; f++)
        for (size_t n = BATCH_HEADER; n < fixtures[f].n; n++) {
            uint8_t *own = malloc(n);
            assert_non_null(own);
            memcpy(own, fixtures[f].p, n);
            hf_put_be32(own + BATCH_LENGTH_AT, (uint32_t)(n - BATCH_OVERHEAD));
            struct batch_info info;
            struct batch_record r;
            enum hf_err e = batch_parse(own, n, &info);
            if (!e) e = batch_iter_begin(it, own, &info);
            while (!e) e = batch_iter_next(it, &r);
            assert_int_equal(e, HF_ECORRUPT);
            free(own);
        }
    batch_iter_close(it);
}

/* Every byte set to 0xff, 0x80, 0x7f and 0x00, one and four at a time: lengths and counts huge, negative,
 * zero. */
static void damaged_bytes_do_no_harm(void **state) {
    (void)state;
    static const uint8_t values[] = {0xff, 0x80, 0x7f, 0x00};
    for (size_t f = 0; f < FIXTURES; f++)
        for (size_t at = 0; at < fixtures[f].n; at++)
            for (size_t v = 0; v < 2 * sizeof values; v++) {
                uint8_t own[sizeof batch_plain];
                size_t width = v < sizeof values ? 1 : 4;
                memcpy(own, fixtures[f].p, fixtures[f].n);
                for (size_t i = at; i < at + width && i < fixtures[f].n; i++)
                    own[i] = values[v % sizeof values];
                LLVMFuzzerTestOneInput(own, fixtures[f].n);
            }
}

static void impossible_headers_are_corrupt(void **state) {
    (void)state;
    static const struct {
        size_t at;
        uint32_t value;
        enum hf_err e;
    } rows[] = {
        {8, 48, HF_ECORRUPT},          /* length below the header's */
        {8, 0x80000000, HF_ECORRUPT},  /* negative */
        {8, INT32_MAX, HF_EEND},       /* more than there is */
        {16, 0x01000000, HF_ECORRUPT}, /* magic 1 */
        {23, 0xffffffff, HF_ECORRUPT}, /* last offset delta -1 */
        {23, RECORDS - 2, HF_ECORRUPT} /* more records than offsets */,
        {57, 0xffffffff, HF_ECORRUPT}, /* record count -1 */
        {57, INT32_MAX, HF_ECORRUPT},  /* more records than bytes */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t own[sizeof batch_plain];
        struct batch_info info = {.size = 77};
        memcpy(own, batch_plain, sizeof own);
        hf_put_be32(own + rows[i].at, rows[i].value);
        assert_int_equal(batch_parse(own, sizeof own, &info), rows[i].e);
        assert_int_equal(info.size, 77); /* untouched on failure */
    }
}

static void one_flipped_bit_breaks_the_checksum(void **state) {
    (void)state;
    struct batch_info info;
    assert_int_equal(batch_parse(batch_lz4, sizeof batch_lz4, &info), HF_OK);
    for (size_t at = 21; at < sizeof batch_lz4; at++) {
        uint8_t own[sizeof batch_lz4];
        memcpy(own, batch_lz4, sizeof own);
        own[at] ^= (uint8_t)(1u << (at % 8));
        assert_false(batch_crc_ok(own, &info));
    }
}

static void what_is_built_is_read_again(void **state) {
    (void)state;
    struct batch_builder b;
    struct batch_iter *it;
    batch_builder_init(&b, 1 << 20);
    assert_int_equal(batch_iter_open(1 << 20, &it), HF_OK);
    for (int round = 1; round <= 3; round++) {
        const struct hf_header h[] = {
            {HF_STR("a"), HF_STR("1")}, {HF_STR("a"), {NULL, 0}}, {HF_STR(""), HF_STR("")}};
        batch_builder_begin(&b, 5000 + round);
        hf_str batch = {NULL, 0};
        assert_int_equal(batch_builder_finish(&b, &batch), HF_EINVAL);
        size_t bytes = BATCH_HEADER;
        for (int i = 0; i < 100 * round; i++) {
            hf_str key = i % 3 ? HF_STR("k") : (hf_str){NULL, 0};
            assert_int_equal(batch_builder_add(&b, key, HF_STR(""), h, (size_t)i % 4), HF_OK);
            bytes += batch_record_size(key, HF_STR(""), h, (size_t)i % 4);
        }
        assert_int_equal(batch_builder_finish(&b, &batch), HF_OK);
        assert_true(batch.n <= bytes);
        struct batch_info info;
        assert_int_equal(batch_parse((const uint8_t *)batch.p, batch.n, &info), HF_OK);
        assert_true(batch_crc_ok((const uint8_t *)batch.p, &info));
        assert_int_equal(info.size, batch.n);
        assert_int_equal(info.attributes, BATCH_ATTR_APPEND_TIME);
        assert_true(info.producer_id == -1 && info.producer_epoch == -1 && info.base_sequence == -1);
        assert_int_equal(batch_iter_begin(it, (const uint8_t *)batch.p, &info), HF_OK);
        struct batch_record r;
        for (int i = 0; i < 100 * round; i++) {
            assert_int_equal(batch_iter_next(it, &r), HF_OK);
            assert_true(r.offset_delta == i && r.timestamp_ms == 5000 + round);
            assert_true((r.key.p == NULL) == (i % 3 == 0));
            assert_true(r.value.p && r.value.n == 0);
            assert_int_equal(r.header_count, i % 4);
            for (size_t j = 0; j < r.header_count; j++) assert_true(hf_str_eq(r.headers[j].key, h[j].key));
        }
        assert_int_equal(batch_iter_next(it, &r), HF_EEND);
    }
    batch_iter_close(it);
    batch_builder_fini(&b);
}

static void a_record_too_many_leaves_the_builder_as_it_was(void **state) {
    (void)state;
    struct batch_builder b;
    batch_builder_init(&b, 200);
    batch_builder_begin(&b, 1);
    char value[100] = {0};
    assert_int_equal(batch_builder_add(&b, HF_STR("k"), hf_str_make(value, 100), NULL, 0), HF_OK);
    size_t n = b.buf.n;
    assert_int_equal(batch_builder_add(&b, HF_STR("k"), hf_str_make(value, 100), NULL, 0), HF_ELIMIT);
    assert_int_equal(b.buf.n, n);
    assert_int_equal(batch_builder_add(&b, HF_STR("k"), hf_str_make(value, 10), NULL, 0), HF_OK);
    hf_str batch;
    struct batch_info info;
    assert_int_equal(batch_builder_finish(&b, &batch), HF_OK);
    assert_int_equal(batch_parse((const uint8_t *)batch.p, batch.n, &info), HF_OK);
    assert_int_equal(info.record_count, 2);
    batch_builder_fini(&b);
}

static void too_many_headers_are_a_limit_not_damage(void **state) {
    (void)state;
    static struct hf_header headers[ENGINE_HEADERS_MAX + 1];
    for (size_t i = 0; i <= ENGINE_HEADERS_MAX; i++)
        headers[i] = (struct hf_header){HF_STR("h"), HF_STR("v")};
    struct batch_builder b;
    struct batch_iter *it;
    struct batch_info info;
    struct batch_record r;
    hf_str batch;
    batch_builder_init(&b, 1 << 16);
    assert_int_equal(batch_iter_open(0, &it), HF_OK);
    for (size_t n = ENGINE_HEADERS_MAX; n <= ENGINE_HEADERS_MAX + 1; n++) {
        batch_builder_begin(&b, 1);
        assert_int_equal(batch_builder_add(&b, HF_STR("k"), HF_STR("v"), headers, n), HF_OK);
        assert_int_equal(batch_builder_finish(&b, &batch), HF_OK);
        assert_int_equal(batch_parse((const uint8_t *)batch.p, batch.n, &info), HF_OK);
        assert_int_equal(batch_iter_begin(it, (const uint8_t *)batch.p, &info), HF_OK);
        assert_int_equal(batch_iter_next(it, &r), n > ENGINE_HEADERS_MAX ? HF_ELIMIT : HF_OK);
    }
    batch_iter_close(it);
    batch_builder_fini(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_another_library_wrote_with_every_codec),
        cmocka_unit_test(append_time_replaces_every_timestamp),
        cmocka_unit_test(decompression_stops_at_the_limit),
        cmocka_unit_test(a_cut_batch_is_never_whole),
        cmocka_unit_test(cut_records_are_corrupt),
        cmocka_unit_test(damaged_bytes_do_no_harm),
        cmocka_unit_test(impossible_headers_are_corrupt),
        cmocka_unit_test(one_flipped_bit_breaks_the_checksum),
        cmocka_unit_test(what_is_built_is_read_again),
        cmocka_unit_test(a_record_too_many_leaves_the_builder_as_it_was),
        cmocka_unit_test(too_many_headers_are_a_limit_not_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
