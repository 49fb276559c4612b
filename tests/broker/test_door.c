/* What the door lets in, and what it says of the rest. */
#include "broker/door.h"

#include "base/crc32c.h"
#include "store/engine/compress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <zlib.h>

enum { BATCH_MAX = 8 << 20, DECOMPRESSED_MAX = 1 << 20 };

static struct door *door;
static struct batch_builder builder;
static struct door_refusal no;

static int set_up(void **state) {
    (void)state;
    batch_builder_init(&builder, BATCH_MAX);
    return door_open(DECOMPRESSED_MAX, &door) == HF_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    batch_builder_fini(&builder);
    door_close(door);
    return 0;
}

/* "there" has four partitions; "new" may be created with one; others may not. */
static enum hf_err destination(void *arg, hf_str topic, int32_t *partitions) {
    (void)arg;
    *partitions = hf_str_is(topic, "there") ? 4 : 1;
    return hf_str_is(topic, "there") || hf_str_is(topic, "new") ? HF_OK : HF_ENOTFOUND;
}

static struct door_target to(const char *topic) {
    return (struct door_target){
        .topic = hf_str_of(topic), .version = 9, .message_max = 1 << 20, .destination = destination};
}

static enum hf_err check(const char *topic, const void *p, size_t n) {
    struct door_target target = to(topic);
    no = (struct door_refusal){0};
    return door_check(door, &target, p, n, &no);
}

/* A batch of records, each with its own headers: "name=value name=value", a record a line. */
static hf_str batch_of(const char *lines) {
    static char text[2000];
    (void)snprintf(text, sizeof(text), "%s", lines);
    batch_builder_begin(&builder, 1000);
    char *line_state = NULL;
    for (char *line = strtok_r(text, "\n", &line_state); line; line = strtok_r(NULL, "\n", &line_state)) {
        struct hf_header headers[8];
        size_t n = 0;
        char *word_state = NULL;
        for (char *word = strtok_r(line, " ", &word_state); word; word = strtok_r(NULL, " ", &word_state)) {
            char *equals = strchr(word, '=');
            *equals = 0;
            headers[n++] = (struct hf_header){hf_str_of(word), hf_str_of(equals + 1)};
        }
        assert_int_equal(batch_builder_add(&builder, HF_STR("k"), HF_STR("v"), headers, n), HF_OK);
    }
    hf_str out;
    assert_int_equal(batch_builder_finish(&builder, &out), HF_OK);
    return out;
}

static enum hf_err check_records(const char *topic, const char *lines) {
    hf_str b = batch_of(lines);
    return check(topic, b.p, b.n);
}

static void reseal(uint8_t *batch, size_t n) {
    hf_put_be32(batch + 17, (uint32_t)hf_crc32c(0, batch + 21, n - 21));
}

/* ---- any topic ---- */

static void a_whole_batch_may_enter_a_plain_topic(void **state) {
    (void)state;
    assert_int_equal(check_records("plain", "hf-due=nonsense\nx=y"), HF_OK);
}

static void a_compacted_topic_takes_no_record_without_key(void **state) {
    (void)state;
    struct door_target target = to("table");
    target.keyed = true;
    hf_str b = batch_of("x=y\nx=y");
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_OK);
    assert_int_equal(batch_builder_add(&builder, (hf_str){0}, HF_STR("v"), NULL, 0), HF_OK);
    assert_int_equal(batch_builder_finish(&builder, &b), HF_OK);
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_INVALID_RECORD);
    assert_int_equal(no.record, 2);
    assert_string_equal(no.header, "key");
    assert_int_equal(check("plain", b.p, b.n), HF_OK);
}

static void the_mark_of_compaction_is_not_a_producers(void **state) {
    (void)state;
    hf_str b = batch_of("x=y");
    uint8_t *p = (uint8_t *)(uintptr_t)b.p;
    p[22] |= BATCH_ATTR_HORIZON;
    reseal(p, b.n);
    assert_int_equal(check("plain", p, b.n), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_INVALID_RECORD);
}

static void what_is_no_batch_is_refused(void **state) {
    (void)state;
    hf_str b = batch_of("a=b");
    uint8_t copy[500] = {0};
    memcpy(copy, b.p, b.n);
    assert_int_equal(check("plain", NULL, 0), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_INVALID_RECORD);
    for (size_t n = 1; n < b.n; n++) assert_int_equal(check("plain", copy, n), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_CORRUPT_MESSAGE);
    assert_int_equal(check("plain", copy, b.n + 1), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_INVALID_RECORD);
    copy[16] = 1;
    assert_int_equal(check("plain", copy, b.n), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_UNSUPPORTED_FOR_MESSAGE_FORMAT);
    copy[16] = 2;
    copy[b.n - 1] ^= 1;
    assert_int_equal(check("plain", copy, b.n), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_CORRUPT_MESSAGE);
    copy[b.n - 1] ^= 1;
    assert_int_equal(check("plain", copy, b.n), HF_OK);
}

static void transactional_batches_are_refused_by_name(void **state) {
    (void)state;
    hf_str b = batch_of("a=b");
    uint8_t *p = (uint8_t *)(uintptr_t)b.p;
    p[22] = BATCH_ATTR_TRANSACTIONAL;
    reseal(p, b.n);
    assert_int_equal(check("plain", p, b.n), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_INVALID_TXN_STATE);
    assert_non_null(strstr(no.reason, "transactions are not supported"));
}

static void codecs_are_checked_against_the_version(void **state) {
    (void)state;
    hf_str b = batch_of("a=b");
    uint8_t *p = (uint8_t *)(uintptr_t)b.p;
    struct door_target target = to("plain");
    p[22] = BATCH_ZSTD;
    reseal(p, b.n);
    target.version = 6;
    assert_int_equal(door_check(door, &target, p, b.n, &no), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_UNSUPPORTED_COMPRESSION_TYPE);
    target.version = 7;
    assert_int_equal(door_check(door, &target, p, b.n, &no),
                     HF_OK); /* what is inside is the consumers' business */
    p[22] = 5;
    reseal(p, b.n);
    assert_int_equal(door_check(door, &target, p, b.n, &no), HF_EINVAL);
}

static void batches_over_the_topics_limit_are_refused(void **state) {
    (void)state;
    hf_str b = batch_of("a=b");
    struct door_target target = to("plain");
    target.message_max = b.n;
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_OK);
    target.message_max = b.n - 1;
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_MESSAGE_TOO_LARGE);
}

/* ---- topics of ours ---- */

static void clients_write_to_delay_and_txn_alone(void **state) {
    (void)state;
    static const char *const closed[] = {"holdfast.rejected", "holdfast.check.g", "holdfast.unheard-of"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(check_records(closed[i], "hf-topic=there hf-delay=1s"), HF_EINVAL);
        assert_int_equal(no.error, KAFKA_TOPIC_AUTHORIZATION_FAILED);
    }
    assert_int_equal(check_records("holdfast.delay", "hf-topic=there hf-delay=1s"), HF_OK);
    assert_int_equal(check_records("holdfast.txn", "hf-op=prepare hf-group=g hf-topic=new"), HF_OK);
    assert_int_equal(check_records("holdfast.txn", "hf-op=commit hf-group=g"), HF_OK);
}

static void the_record_and_the_header_are_named(void **state) {
    (void)state;
    assert_int_equal(
        check_records("holdfast.delay", "hf-topic=there hf-due=1\nhf-topic=there hf-due=1 hf-delay=1s"),
        HF_EINVAL);
    assert_int_equal(no.error, KAFKA_INVALID_RECORD);
    assert_int_equal(no.record, 1);
    assert_string_equal(no.header, "hf-delay");
    assert_int_equal(check_records("holdfast.delay", "hf-due=1"), HF_EINVAL);
    assert_int_equal(no.record, 0);
    assert_string_equal(no.header, "hf-topic");
}

static void destinations_must_exist_or_be_creatable(void **state) {
    (void)state;
    assert_int_equal(check_records("holdfast.delay", "hf-topic=new hf-delay=1s"), HF_OK);
    assert_int_equal(check_records("holdfast.delay", "hf-topic=missing hf-delay=1s"), HF_EINVAL);
    assert_string_equal(no.header, "hf-topic");
    assert_int_equal(check_records("holdfast.delay", "hf-topic=there hf-delay=1s hf-partition=3"), HF_OK);
    assert_int_equal(check_records("holdfast.delay", "hf-topic=there hf-delay=1s hf-partition=4"), HF_EINVAL);
    assert_string_equal(no.header, "hf-partition");
    assert_int_equal(check_records("holdfast.delay", "hf-op=cancel hf-topic=missing hf-id=1"), HF_OK);
}

/* A batch whose records are gzip of n zero bytes. */
static size_t bomb(uint8_t *out, size_t room, size_t n) {
    hf_str b = batch_of("hf-topic=there hf-delay=1s");
    memcpy(out, b.p, BATCH_HEADER);
    uint8_t *zeros = calloc(1, n);
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = zeros;
    z.avail_in = (unsigned)n;
    z.next_out = out + BATCH_HEADER;
    z.avail_out = (unsigned)(room - BATCH_HEADER);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t size = BATCH_HEADER + z.total_out;
    deflateEnd(&z);
    free(zeros);
    out[22] = BATCH_GZIP;
    hf_put_be32(out + BATCH_LENGTH_AT, (uint32_t)(size - BATCH_OVERHEAD));
    reseal(out, size);
    return size;
}

static void a_bomb_is_refused_at_the_limit(void **state) {
    (void)state;
    uint8_t *p = malloc(1 << 20);
    size_t n = bomb(p, 1 << 20, DECOMPRESSED_MAX + 1);
    assert_int_equal(check("holdfast.delay", p, n), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_MESSAGE_TOO_LARGE);
    n = bomb(p, 1 << 20, 1000);
    assert_int_equal(check("holdfast.delay", p, n), HF_EINVAL); /* zeros are no records */
    assert_int_equal(no.error, KAFKA_CORRUPT_MESSAGE);
    free(p);
}

/* A record of n zeros, under this header beside hf-topic. */
static hf_str record_of(size_t n, const char *name, const char *value) {
    const struct hf_header h[] = {{HF_STR("hf-topic"), HF_STR("there")},
                                  {HF_STR("hf-id"), HF_STR("a")},
                                  {hf_str_of(name), hf_str_of(value)}};
    char *zeros = calloc(1, n);
    hf_str out;
    batch_builder_begin(&builder, 1000);
    assert_int_equal(batch_builder_add(&builder, HF_STR("k"), hf_str_make(zeros, n), h, 3), HF_OK);
    assert_int_equal(batch_builder_finish(&builder, &out), HF_OK);
    free(zeros);
    return out;
}

/* The same batch, its records by gzip. */
static size_t pack(hf_str batch, uint8_t *to, size_t size) {
    struct hf_buf packed;
    hf_buf_init(&packed, BATCH_MAX);
    assert_int_equal(hf_compress(1, hf_str_make(batch.p + BATCH_HEADER, batch.n - BATCH_HEADER), &packed),
                     HF_OK);
    assert_true(BATCH_HEADER + packed.n <= size);
    size_t n = BATCH_HEADER + packed.n;
    memcpy(to, batch.p, BATCH_HEADER);
    memcpy(to + BATCH_HEADER, packed.p, packed.n);
    hf_buf_fini(&packed);
    hf_put_be32(to + 8, (uint32_t)(n - 12));
    to[22] = 1;
    reseal(to, n);
    return n;
}

static void a_record_that_no_move_could_carry_is_refused(void **state) {
    (void)state;
    static uint8_t small[10000];
    struct door_target target = to("holdfast.delay");
    target.message_max = 100000;
    size_t n = pack(record_of(90000, "hf-delay", "1s"), small, sizeof small);
    assert_int_equal(door_check(door, &target, small, n, &no), HF_OK);
    n = pack(record_of(110000, "hf-delay", "1s"), small, sizeof small);
    assert_int_equal(door_check(door, &target, small, n, &no), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_MESSAGE_TOO_LARGE);
    target.topic = HF_STR("plain");
    assert_int_equal(door_check(door, &target, small, n, &no), HF_OK);
    target = to("holdfast.delay");
    target.message_max = 16 << 20;
    hf_str b = record_of((3 << 20) + 1000, "hf-delay", "1s");
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_OK);
    b = record_of((3 << 20) + 1000, "hf-cron", "@daily"); /* its next run goes with it */
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_MESSAGE_TOO_LARGE);
    b = record_of((7 << 20) - 1000, "hf-delay", "1s");
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_OK);
    b = record_of(7 << 20, "hf-delay", "1s");
    assert_int_equal(door_check(door, &target, (const uint8_t *)b.p, b.n, &no), HF_EINVAL);
    assert_int_equal(no.error, KAFKA_MESSAGE_TOO_LARGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_batch_may_enter_a_plain_topic),
        cmocka_unit_test(a_compacted_topic_takes_no_record_without_key),
        cmocka_unit_test(the_mark_of_compaction_is_not_a_producers),
        cmocka_unit_test(what_is_no_batch_is_refused),
        cmocka_unit_test(transactional_batches_are_refused_by_name),
        cmocka_unit_test(codecs_are_checked_against_the_version),
        cmocka_unit_test(batches_over_the_topics_limit_are_refused),
        cmocka_unit_test(clients_write_to_delay_and_txn_alone),
        cmocka_unit_test(the_record_and_the_header_are_named),
        cmocka_unit_test(destinations_must_exist_or_be_creatable),
        cmocka_unit_test(a_bomb_is_refused_at_the_limit),
        cmocka_unit_test(a_record_that_no_move_could_carry_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
