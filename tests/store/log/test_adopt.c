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
static void open_both(struct source *s, struct fixture *f) {
    *s = (struct source){0};
    assert_int_equal(hf_sim_open(99, &(struct hf_sim_options){0}, &s->sim), HF_OK);
    s->env = hf_sim_env(s->sim);
    fixture_open(f, 1);
    fixture_create(f, "t", (struct log_topic_config){.partitions = 1});
}

static void close_both(struct source *s, struct fixture *f) {
    fixture_close(f);
    env_close(s->file);
    hf_sim_close(s->sim);
}

static void begin_file(struct source *s, int64_t base) {
    char name[32];
    snprintf(name, sizeof name, "%020lld.log", (long long)base);
    env_close(s->file);
    assert_int_equal(env_open(s->env, name, ENV_CREATE, &s->file), HF_OK);
    s->at = 0;
}

enum { ATTRIBUTES = 21, PRODUCER = 43 };

static void put(struct source *s, int64_t offset, const char *text, uint16_t attributes, int64_t producer) {
    uint8_t batch[4096];
    size_t n = make_batch(batch, text, 1, NULL);
    hf_put_be16(batch + ATTRIBUTES, attributes);
    hf_put_be64(batch + PRODUCER, (uint64_t)producer);
    batch_set_append_time(batch, 1000); /* the checksum */
    batch_set_place(batch, offset, 7);
    assert_int_equal(env_write(s->file, s->at, batch, n), HF_OK);
    s->at += n;
}

static void put_marker(struct source *s, int64_t offset, int64_t producer, bool commit) {
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
    assert_int_equal(env_write(s->file, s->at, batch, bytes.n), HF_OK);
    s->at += bytes.n;
    batch_builder_fini(&b);
}

static enum hf_err adopt(struct fixture *f, struct source *s, struct log_adopted *out) {
    return log_adopt(f->log, log_partition(f->log, HF_STR("t"), 0), s->env, out);
}

static void told(void *arg, const struct log_damage *d) {
    int *count = arg;
    (void)d;
    ++*count;
}

static void records_keep_their_offsets(void **state) {
    struct fixture f;
    struct source s;
    struct log_adopted got;
    int damages = 0;
    (void)state;
    open_both(&s, &f);
    begin_file(&s, 100);
    put(&s, 100, "a", 0, -1);
    put(&s, 101, "b", 0, 5);
    begin_file(&s, 102);
    put(&s, 110, "c", 0, 5);
    put(&s, 4000000000, "d", 0, -1); /* further than an index can say from here */
    assert_int_equal(adopt(&f, &s, &got), HF_OK);
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
    close_both(&s, &f);
}

static void what_was_not_committed_is_left_out(void **state) {
    struct fixture f;
    struct source s;
    struct log_adopted got;
    (void)state;
    open_both(&s, &f);
    begin_file(&s, 0);
    put(&s, 0, "yes", BATCH_ATTR_TRANSACTIONAL, 1);
    put(&s, 1, "no", BATCH_ATTR_TRANSACTIONAL, 2);
    put_marker(&s, 2, 1, true);
    put(&s, 3, "plain", 0, -1);
    begin_file(&s, 4);
    put_marker(&s, 4, 2, false);
    put(&s, 5, "later", BATCH_ATTR_TRANSACTIONAL, 2);
    put_marker(&s, 6, 2, true);
    put(&s, 7, "open", BATCH_ATTR_TRANSACTIONAL, 1);
    assert_int_equal(adopt(&f, &s, &got), HF_OK);
    assert_int_equal(got.left_out, 5);
    assert_int_equal(got.end, 8);
    assert_string_equal(contents(&f, "t"), "0:yes 3:plain 5:later");
    assert_int_equal(append(&f, "t", "next", LOG_ACK_DURABLE), 8);
    fixture_stop(&f);
    fixture_start(&f);
    assert_string_equal(contents(&f, "t"), "0:yes 3:plain 5:later 8:next");
    close_both(&s, &f);
}

static void a_damaged_folder_is_refused_whole(void **state) {
    struct fixture f;
    struct source s;
    struct log_adopted got;
    (void)state;
    open_both(&s, &f);
    begin_file(&s, 0);
    put(&s, 0, "a", 0, -1);
    uint64_t second = s.at;
    put(&s, 1, "b", 0, -1);
    assert_int_equal(env_write(s.file, s.at - 2, "x", 1), HF_OK);
    assert_int_equal(adopt(&f, &s, &got), HF_ECORRUPT);
    assert_string_equal(got.file, "00000000000000000000.log");
    assert_int_equal(got.byte, second);
    assert_string_equal(contents(&f, "t"), "");
    close_both(&s, &f);
}

static void only_an_empty_partition_takes_in(void **state) {
    struct fixture f;
    struct source s;
    struct log_adopted got;
    (void)state;
    open_both(&s, &f);
    assert_int_equal(adopt(&f, &s, &got), HF_ENOTFOUND); /* no segments */
    begin_file(&s, 0);
    put(&s, 0, "a", 0, -1);
    (void)append(&f, "t", "mine", LOG_ACK_DURABLE);
    assert_int_equal(adopt(&f, &s, &got), HF_EEXIST);
    assert_string_equal(contents(&f, "t"), "0:mine");
    close_both(&s, &f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_keep_their_offsets),
        cmocka_unit_test(what_was_not_committed_is_left_out),
        cmocka_unit_test(a_damaged_folder_is_refused_whole),
        cmocka_unit_test(only_an_empty_partition_takes_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
