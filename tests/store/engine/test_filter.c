/* What compaction leaves of a batch: the records that stay as they were, in the codec they came in. */
#include "base/crc32c.h"
#include "store/engine/batch.h"
#include "store/engine/compress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { RECORDS = 12, BASE = 1000, TIME = 50000, HORIZON = 99000000, ROOM = 1 << 16 };

struct record {
    const char *key, *value; /* NULL: null */
    int64_t time_ms;
};

/* Keys k0…k3 in turn; every fifth has no value; times go up and down. */
static struct record original(int i) {
    static char key[RECORDS][8], value[RECORDS][200];
    snprintf(key[i], sizeof key[i], "k%d", i % 4);
    memset(value[i], 'a' + i, sizeof value[i] - 1);
    return (struct record){key[i], i % 5 == 4 ? NULL : value[i], TIME + i * 10 % 70};
}

static void put_string(struct hf_buf *b, const char *s) {
    hf_buf_varint(b, s ? (int64_t)strlen(s) : -1);
    if (s) hf_buf_put(b, s, strlen(s));
}

/* As a producer makes it: CreateTime, id 77, epoch 3, sequence 40. */
static size_t make(int codec, uint16_t attributes, uint8_t out[ROOM]) {
    struct hf_buf records, body, all;
    hf_buf_init(&records, ROOM);
    hf_buf_init(&body, ROOM);
    hf_buf_init(&all, ROOM);
    int64_t most = 0;
    for (int i = 0; i < RECORDS; i++) {
        struct record r = original(i);
        hf_buf_reset(&body);
        hf_buf_u8(&body, 0);
        hf_buf_varint(&body, attributes & BATCH_ATTR_APPEND_TIME ? 0 : r.time_ms - TIME);
        hf_buf_varint(&body, i);
        put_string(&body, r.key);
        put_string(&body, r.value);
        hf_buf_varint(&body, 1);
        put_string(&body, "name");
        put_string(&body, i % 2 ? "content" : NULL);
        hf_buf_varint(&records, (int64_t)body.n);
        hf_buf_str(&records, hf_buf_view(&body));
        if (r.time_ms > most) most = r.time_ms;
    }
    uint8_t head[BATCH_HEADER] = {0};
    hf_buf_put(&all, head, sizeof head);
    assert_int_equal(hf_compress(codec, hf_buf_view(&records), &all), HF_OK);
    uint8_t *p = all.p;
    hf_put_be64(p, BASE);
    hf_put_be32(p + 8, (uint32_t)(all.n - 12));
    hf_put_be32(p + 12, 5);
    p[16] = 2;
    hf_put_be16(p + 21, (uint16_t)(codec | attributes));
    hf_put_be32(p + 23, RECORDS - 1);
    hf_put_be64(p + 27, TIME);
    hf_put_be64(p + 35, (uint64_t)most);
    hf_put_be64(p + 43, 77);
    hf_put_be16(p + 51, 3);
    hf_put_be32(p + 53, 40);
    hf_put_be32(p + 57, RECORDS);
    hf_put_be32(p + 17, hf_crc32c(0, p + 21, all.n - 21));
    size_t n = all.n;
    memcpy(out, p, n);
    hf_buf_fini(&records);
    hf_buf_fini(&body);
    hf_buf_fini(&all);
    return n;
}

/* ---- one run of the filter ---- */

struct run {
    unsigned keep; /* a bit for each record */
    bool must_stay, changed;
    int64_t later_ms; /* than HORIZON */
    struct hf_buf out;
    struct batch_info info; /* of what came out */
};

static bool keep(void *arg, const struct batch_info *b, const struct batch_record *r) {
    (void)b;
    const struct run *x = arg;
    return x->keep >> r->offset_delta & 1;
}

static void run(struct run *x, const uint8_t *batch, size_t n) {
    struct batch_filter *f;
    struct batch_info b;
    assert_int_equal(batch_filter_open(ROOM, &f), HF_OK);
    assert_int_equal(batch_parse(batch, n, &b), HF_OK);
    hf_buf_init(&x->out, ROOM);
    assert_int_equal(
        batch_filter_run(f, batch, &b, keep, x, x->must_stay, HORIZON + x->later_ms, &x->out, &x->changed),
        HF_OK);
    batch_filter_close(f);
    if (x->out.n == 0) return;
    assert_int_equal(batch_parse(x->out.p, x->out.n, &x->info), HF_OK);
    assert_int_equal(x->info.size, x->out.n);
    assert_true(batch_crc_ok(x->out.p, &x->info));
    assert_int_equal(x->info.base_offset, BASE);
    assert_int_equal(x->info.last_offset_delta, RECORDS - 1);
    assert_int_equal(x->info.leader_epoch, 5);
    assert_int_equal(x->info.producer_id, 77);
    assert_int_equal(hf_get_be32(x->out.p + 53), 40);
}

static bool same(hf_str s, const char *text) {
    return text ? s.p && s.n == strlen(text) && memcmp(s.p, text, s.n) == 0 : !s.p;
}

/* What is in a batch is what the bits say, as it was. */
static void check_records(const struct run *x, bool appended) {
    struct batch_iter *it;
    struct batch_record r;
    int64_t most = -1;
    assert_int_equal(batch_iter_open(ROOM, &it), HF_OK);
    assert_int_equal(batch_iter_begin(it, x->out.p, &x->info), HF_OK);
    for (int i = 0; i < RECORDS; i++) {
        if (!(x->keep >> i & 1)) continue;
        struct record want = original(i);
        assert_int_equal(batch_iter_next(it, &r), HF_OK);
        assert_int_equal(r.offset_delta, i);
        assert_true(same(r.key, want.key) && same(r.value, want.value));
        assert_int_equal(r.header_count, 1);
        assert_true(same(r.headers[0].key, "name") && same(r.headers[0].value, i % 2 ? "content" : NULL));
        if (!appended) assert_int_equal(r.timestamp_ms, want.time_ms);
        if (want.time_ms > most) most = want.time_ms;
    }
    assert_int_equal(batch_iter_next(it, &r), HF_EEND);
    if (!appended) assert_int_equal(x->info.max_timestamp, most);
    batch_iter_close(it);
}

static void records_that_stay_are_as_they_were_in_every_codec(void **state) {
    (void)state;
    static uint8_t batch[ROOM];
    for (int codec = BATCH_NONE; codec <= BATCH_ZSTD; codec++)
        for (unsigned bits = 1; bits < 1u << RECORDS; bits += 1 + bits % 97) {
            struct run x = {.keep = bits};
            run(&x, batch, make(codec, 0, batch));
            assert_true(x.changed);
            assert_int_equal(x.info.attributes & BATCH_ATTR_CODEC, codec);
            assert_int_equal(x.info.record_count, __builtin_popcount(bits));
            check_records(&x, false);
            hf_buf_fini(&x.out);
        }
}

static void a_batch_that_loses_nothing_stays_byte_for_byte(void **state) {
    (void)state;
    static uint8_t batch[ROOM];
    size_t n = make(BATCH_ZSTD, 0, batch);
    struct run first = {.keep = (1u << RECORDS) - 1}, second = first;
    run(&first, batch, n);
    assert_true(first.changed); /* it has records without value: their time is written down */
    run(&second, first.out.p, first.out.n);
    assert_false(second.changed);
    assert_int_equal(second.out.n, first.out.n);
    assert_memory_equal(second.out.p, first.out.p, first.out.n);
    hf_buf_fini(&first.out);
    hf_buf_fini(&second.out);
}

static void the_time_of_deletions_is_written_down_once_and_moves_no_timestamp(void **state) {
    (void)state;
    static uint8_t batch[ROOM];
    struct run values = {.keep = 1u << 3 | 1u << 5}, first = {.keep = 1u << 3 | 1u << 4}, second = first;
    size_t n = make(BATCH_GZIP, 0, batch);
    run(&values, batch, n);
    assert_false(values.info.attributes & BATCH_ATTR_HORIZON);
    run(&first, batch, n);
    assert_true(first.info.attributes & BATCH_ATTR_HORIZON);
    assert_int_equal(first.info.base_timestamp, HORIZON);
    check_records(&first, false);
    second.keep = 1u << 4;
    second.later_ms = 1000;
    run(&second, first.out.p, first.out.n);
    assert_int_equal(second.info.base_timestamp, HORIZON);
    check_records(&second, false);
    hf_buf_fini(&values.out);
    hf_buf_fini(&first.out);
    hf_buf_fini(&second.out);
}

static void append_time_stays(void **state) {
    (void)state;
    static uint8_t batch[ROOM];
    struct run x = {.keep = 1u << 4 | 1u << 7};
    size_t n = make(BATCH_LZ4, BATCH_ATTR_APPEND_TIME, batch);
    run(&x, batch, n);
    assert_true(x.info.attributes & BATCH_ATTR_APPEND_TIME);
    assert_int_equal(x.info.max_timestamp, (int64_t)hf_get_be64(batch + 35));
    check_records(&x, true);
    hf_buf_fini(&x.out);
}

static void an_empty_batch_is_left_only_where_it_must_stay(void **state) {
    (void)state;
    static uint8_t batch[ROOM];
    size_t n = make(BATCH_SNAPPY, 0, batch);
    struct run gone = {.keep = 0}, header = {.must_stay = true}, again = header;
    run(&gone, batch, n);
    assert_true(gone.changed);
    assert_int_equal(gone.out.n, 0);
    run(&header, batch, n);
    assert_int_equal(header.out.n, BATCH_HEADER);
    assert_int_equal(header.info.record_count, 0);
    assert_int_equal(header.info.attributes & BATCH_ATTR_CODEC, BATCH_NONE);
    assert_int_equal(header.info.max_timestamp, (int64_t)hf_get_be64(batch + 35));
    run(&again, header.out.p, header.out.n);
    assert_false(again.changed);
    assert_int_equal(again.out.n, BATCH_HEADER);
    hf_buf_fini(&gone.out);
    hf_buf_fini(&header.out);
    hf_buf_fini(&again.out);
}

static void records_that_do_not_decompress_are_refused(void **state) {
    (void)state;
    static uint8_t batch[ROOM];
    size_t n = make(BATCH_ZSTD, 0, batch);
    batch[BATCH_HEADER] ^= 1;
    struct batch_filter *f;
    struct batch_info b;
    struct run x = {.keep = 1};
    assert_int_equal(batch_filter_open(ROOM, &f), HF_OK);
    assert_int_equal(batch_parse(batch, n, &b), HF_OK);
    hf_buf_init(&x.out, ROOM);
    assert_int_equal(batch_filter_run(f, batch, &b, keep, &x, false, HORIZON, &x.out, &x.changed),
                     HF_ECORRUPT);
    assert_int_equal(x.out.n, 0);
    hf_buf_fini(&x.out);
    batch_filter_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_that_stay_are_as_they_were_in_every_codec),
        cmocka_unit_test(a_batch_that_loses_nothing_stays_byte_for_byte),
        cmocka_unit_test(the_time_of_deletions_is_written_down_once_and_moves_no_timestamp),
        cmocka_unit_test(append_time_stays),
        cmocka_unit_test(an_empty_batch_is_left_only_where_it_must_stay),
        cmocka_unit_test(records_that_do_not_decompress_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
