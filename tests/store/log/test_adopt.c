/* A partition folder from elsewhere is taken in: at its offsets, without what was not committed, or not at
 * all. */
#include "fixture.h"

#include <stdio.h>

struct source {
    struct hf_sim *sim;
    struct hf_env *env;
    struct hf_file *file;
    uint64_t at;
};

/* A folder without files, and a log with topic t to take it in. */
static struct source source;
static struct fixture f;

static int open_both(void **state) {
    (void)state;
    source = (struct source){0};
    assert_int_equal(hf_sim_open(99, &(struct hf_sim_options){0}, &source.sim), HF_OK);
    source.env = hf_sim_env(source.sim);
    fixture_open(&f, 1);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    return 0;
}

static int close_both(void **state) {
    (void)state;
    fixture_close(&f);
    env_close(source.file);
    hf_sim_close(source.sim);
    return 0;
}

static void begin_file(int64_t base) {
    char name[32];
    snprintf(name, sizeof name, "%020lld.log", (long long)base);
    env_close(source.file);
    assert_int_equal(env_open(source.env, name, ENV_CREATE, &source.file), HF_OK);
    source.at = 0;
}

enum { ATTRIBUTES = 21, PRODUCER = 43 };

static void put(int64_t offset, const char *text, uint16_t attributes, int64_t producer) {
    uint8_t batch[4096];
    size_t n = make_batch(batch, text, 1, NULL);
    hf_put_be16(batch + ATTRIBUTES, attributes);
    hf_put_be64(batch + PRODUCER, (uint64_t)producer);
    batch_set_append_time(batch, 1000); /* the checksum */
    batch_set_place(batch, offset, 7);
    assert_int_equal(env_write(source.file, source.at, batch, n), HF_OK);
    source.at += n;
}

static void put_marker(int64_t offset, int64_t producer, bool commit) {
    struct batch_builder b;
    const uint8_t key[4] = {0, 0, 0, commit};
    hf_str bytes;
    uint8_t batch[256];
    batch_builder_init(&b, sizeof batch);
    batch_builder_begin(&b, 1000);
    assert_int_equal(batch_builder_add(&b, hf_str_make(key, sizeof key), HF_STR("end"), NULL, 0), HF_OK);
    assert_int_equal(batch_builder_finish(&b, &bytes), HF_OK);
    memcpy(batch, bytes.p, bytes.n);
    hf_put_be16(batch + ATTRIBUTES, BATCH_ATTR_TRANSACTIONAL | BATCH_ATTR_CONTROL);
    hf_put_be64(batch + PRODUCER, (uint64_t)producer);
    batch_set_append_time(batch, 1000);
    batch_set_place(batch, offset, 7);
    assert_int_equal(env_write(source.file, source.at, batch, bytes.n), HF_OK);
    source.at += bytes.n;
    batch_builder_fini(&b);
}

static enum hf_err adopt(struct log_adopted *out) {
    return log_adopt(f.log, log_partition(f.log, HF_STR("t"), 0), source.env, out);
}

static void told(void *arg, const struct log_damage *d) {
    int *count = arg;
    (void)d;
    ++*count;
}

static void records_keep_their_offsets(void **state) {
    (void)state;
    struct log_adopted got;
    static int damages; /* the log is closed behind the test */
    begin_file(100);
    put(100, "a", 0, -1);
    put(101, "b", 0, 5);
    begin_file(102);
    put(110, "c", 0, 5);
    put(4000000000, "d", 0, -1); /* further than an index can say from here */
    assert_int_equal(adopt(&got), HF_OK);
    assert_int_equal(got.start, 100);
    assert_int_equal(got.end, 4000000001);
    assert_int_equal(got.records, 4);
    static const char *const all = "100:a 101:b 110:c 4000000000:d";
    assert_string_equal(contents(&f, "t"), all);
    f.options.damaged = told;
    f.options.damaged_arg = &damages;
    for (int i = 0; i < 2; i++) {
        fixture_stop(&f);
        fixture_start(&f);
        assert_int_equal(log_scrub(f.log), HF_OK);
        assert_string_equal(contents(&f, "t"), all);
        assert_int_equal(damages, 0);
    }
    assert_int_equal(append(&f, "t", "e", LOG_ACK_DURABLE), 4000000001);
    fixture_crash(&f, HF_SIM_POWER_LOSS);
    fixture_start(&f);
    assert_string_equal(contents(&f, "t"), "100:a 101:b 110:c 4000000000:d 4000000001:e");
    assert_int_equal(damages, 0);
}

static void what_was_not_committed_is_left_out(void **state) {
    (void)state;
    struct log_adopted got;
    begin_file(0);
    put(0, "yes", BATCH_ATTR_TRANSACTIONAL, 1);
    put(1, "no", BATCH_ATTR_TRANSACTIONAL, 2);
    put_marker(2, 1, true);
    put(3, "plain", 0, -1);
    begin_file(4);
    put_marker(4, 2, false);
    put(5, "later", BATCH_ATTR_TRANSACTIONAL, 2);
    put_marker(6, 2, true);
    put(7, "open", BATCH_ATTR_TRANSACTIONAL, 1);
    assert_int_equal(adopt(&got), HF_OK);
    assert_int_equal(got.left_out, 5);
    assert_int_equal(got.end, 8);
    assert_string_equal(contents(&f, "t"), "0:yes 3:plain 5:later");
    assert_int_equal(append(&f, "t", "next", LOG_ACK_DURABLE), 8);
    fixture_stop(&f);
    fixture_start(&f);
    assert_string_equal(contents(&f, "t"), "0:yes 3:plain 5:later 8:next");
}

static void a_damaged_folder_is_refused_whole(void **state) {
    (void)state;
    struct log_adopted got;
    begin_file(0);
    put(0, "a", 0, -1);
    uint64_t second = source.at;
    put(1, "b", 0, -1);
    assert_int_equal(env_write(source.file, source.at - 2, "x", 1), HF_OK);
    assert_int_equal(adopt(&got), HF_ECORRUPT);
    assert_string_equal(got.file, "00000000000000000000.log");
    assert_int_equal(got.byte, second);
    assert_string_equal(contents(&f, "t"), "");
}

static void only_an_empty_partition_takes_in(void **state) {
    (void)state;
    struct log_adopted got;
    assert_int_equal(adopt(&got), HF_ENOTFOUND); /* no segments */
    begin_file(0);
    put(0, "a", 0, -1);
    (void)append(&f, "t", "mine", LOG_ACK_DURABLE);
    assert_int_equal(adopt(&got), HF_EEXIST);
    assert_string_equal(contents(&f, "t"), "0:mine");
}

#define ADOPT_TEST(test) cmocka_unit_test_setup_teardown(test, open_both, close_both)

int main(void) {
    const struct CMUnitTest tests[] = {
        ADOPT_TEST(records_keep_their_offsets),
        ADOPT_TEST(what_was_not_committed_is_left_out),
        ADOPT_TEST(a_damaged_folder_is_refused_whole),
        ADOPT_TEST(only_an_empty_partition_takes_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
