/* Compaction: what goes, what stays, and who notices. The crash simulation has the rest. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 5, SECOND_US = 1000000 };

/* ---- a compacted topic "t" with small segments ---- */

static void open_with(struct fixture *f, uint64_t seed, int64_t lag_ms, int64_t ratio) {
    fixture_open(f, seed);
    fixture_stop(f);
    f->options.retention_check_ms = 100;
    fixture_start(f);
    struct log_topic_config config = {.partitions = 1};
    log_settings_put(&config.settings, LOG_CLEANUP_POLICY, LOG_CLEANUP_COMPACT);
    log_settings_put(&config.settings, LOG_SEGMENT_BYTES, 1024);
    log_settings_put(&config.settings, LOG_DIRTY_RATIO, ratio);
    log_settings_put(&config.settings, LOG_DELETE_RETENTION, 60000);
    log_settings_put(&config.settings, LOG_COMPACTION_LAG, lag_ms);
    fixture_create(f, "t", config);
}

static void open_compacted(struct fixture *f, uint64_t seed) {
    open_with(f, seed, 0, 1);
}

static struct log_partition *partition(struct fixture *f) {
    return log_partition(f->log, HF_STR("t"), 0);
}

/* One record; NULL: none. */
static enum hf_err put(struct fixture *f, const char *key, const char *value, const struct producing *by,
                       struct log_appended *out) {
    struct batch_builder b;
    hf_str bytes;
    uint8_t batch[4096];
    struct answer a = {0};
    batch_builder_init(&b, sizeof batch);
    batch_builder_begin(&b, env_wall_ms(f->env));
    hf_str k = key ? hf_str_of(key) : (hf_str){0}, v = value ? hf_str_of(value) : (hf_str){0};
    assert_int_equal(batch_builder_add(&b, k, v, NULL, 0), HF_OK);
    assert_int_equal(batch_builder_finish(&b, &bytes), HF_OK);
    memcpy(batch, bytes.p, bytes.n);
    batch_builder_fini(&b);
    if (by) {
        hf_put_be64(batch + 43, (uint64_t)by->producer);
        hf_put_be16(batch + 51, (uint16_t)by->epoch);
        hf_put_be32(batch + 53, (uint32_t)by->sequence);
    }
    batch_set_append_time(batch, env_wall_ms(f->env));
    enum hf_err e = log_append(f->log, partition(f), batch, bytes.n, LOG_ACK_DURABLE, answered, &a);
    for (int i = 0; !e && i < 1000 && a.calls == 0; i++) fixture_run(f, 1);
    if (!e) assert_int_equal(a.calls, 1);
    if (out) *out = a.result;
    return e ? e : a.result.e;
}

/* Values "<from>" and up to "<to>", their keys k0…k4 in turn. */
static void put_many(struct fixture *f, int from, int to) {
    for (int i = from; i < to; i++) {
        char key[8], value[64];
        snprintf(key, sizeof key, "k%d", i % KEYS);
        snprintf(value, sizeof value, "%d", i);
        assert_int_equal(put(f, key, value, NULL, NULL), HF_OK);
    }
}

static uint64_t compactions(struct fixture *f) {
    struct log_stats s;
    log_stats(f->log, &s);
    return s.compactions;
}

/* Time for a checkpoint, and for the compaction of what it made safe. */
static void let_pass(struct fixture *f, int seconds) {
    for (int i = 0; i < seconds; i++) {
        hf_sim_advance(f->sim, SECOND_US);
        fixture_run(f, 20);
    }
}

static void compact(struct fixture *f) {
    uint64_t before = compactions(f);
    for (int i = 0; i < 200 && compactions(f) == before; i++) let_pass(f, 1);
    assert_true(compactions(f) > before);
}

/* "0:k0=7 1:k1=" …; a record without key is "2:-=…". */
static const char *shown(struct fixture *f) {
    static char text[1 << 16];
    struct engine_cursor *c;
    struct engine_record r;
    size_t n = 0;
    text[0] = 0;
    assert_int_equal(engine_cursor_open(log_engine(f->log), HF_STR("t"), 0, &c), HF_OK);
    enum hf_err e;
    while (!(e = engine_cursor_next(c, &r)))
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld:%.*s=%.*s", n ? " " : "",
                              (long long)r.offset, r.key.p ? (int)r.key.n : 1, r.key.p ? r.key.p : "-",
                              (int)r.value.n, r.value.p ? r.value.p : "");
    assert_int_equal(e, HF_EEND);
    engine_cursor_close(c);
    return text;
}

static int records(struct fixture *f) {
    int n = 0;
    for (const char *p = shown(f); (p = strchr(p, ':')); p++) n++;
    return n;
}

static int last_value(struct fixture *f, const char *key) {
    char find[16];
    const char *p = shown(f), *at = NULL;
    snprintf(find, sizeof find, ":%s=", key);
    while ((p = strstr(p, find))) at = p += strlen(find);
    return at && *at >= '0' && *at <= '9' ? atoi(at) : -1;
}

/* ---- tests ---- */

static void the_latest_record_of_each_key_stays_at_its_offset(void **state) {
    struct fixture f;
    (void)state;
    open_compacted(&f, 1);
    put_many(&f, 0, 200);
    for (int i = 0; i < 200 && records(&f) > 40; i++) let_pass(&f, 1); /* maybe by more than one run */
    assert_in_range(records(&f), KEYS, 40);                            /* the active segment is whole */
    char before[1 << 16];
    snprintf(before, sizeof before, "%s", shown(&f));
    for (const char *p = before; p && *p; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL)
        assert_int_equal(atoi(p), atoi(strchr(p, '=') + 1)); /* the offset is the number of the update */
    for (int i = 0; i < KEYS; i++)
        assert_int_equal(last_value(&f, (char[]){'k', (char)('0' + i), 0}), 195 + i);
    struct log_bounds b;
    log_bounds(partition(&f), &b);
    assert_true(b.start == 0 && b.high == 200 && b.end == 200);
    fixture_stop(&f);
    fixture_start(&f);
    assert_string_equal(shown(&f), before);
    fixture_crash(&f, HF_SIM_POWER_LOSS);
    fixture_start(&f);
    assert_string_equal(shown(&f), before);
    fixture_close(&f);
}

static void a_deletion_goes_itself_after_its_time(void **state) {
    struct fixture f;
    (void)state;
    open_compacted(&f, 2);
    assert_int_equal(put(&f, "gone", "value", NULL, NULL), HF_OK);
    assert_int_equal(put(&f, "gone", NULL, NULL, NULL), HF_OK);
    put_many(&f, 2, 60);
    compact(&f);
    assert_null(strstr(shown(&f), "gone=value"));
    assert_non_null(strstr(shown(&f), "1:gone="));
    put_many(&f, 60, 120);
    compact(&f);
    assert_non_null(strstr(shown(&f), "1:gone=")); /* younger than delete.retention.ms */
    let_pass(&f, 61);
    put_many(&f, 120, 180);
    compact(&f);
    assert_null(strstr(shown(&f), "gone"));
    fixture_close(&f);
}

static void little_memory_for_keys_takes_more_runs(void **state) {
    struct fixture f;
    (void)state;
    open_compacted(&f, 3);
    fixture_stop(&f);
    f.options.compaction_bytes = 200; /* two keys */
    fixture_start(&f);
    put_many(&f, 0, 200);
    compact(&f);
    let_pass(&f, 300);
    assert_true(compactions(&f) > 3);
    assert_in_range(records(&f), KEYS, 40);
    for (int i = 0; i < KEYS; i++)
        assert_int_equal(last_value(&f, (char[]){'k', (char)('0' + i), 0}), 195 + i);
    fixture_close(&f);
}

static void a_reader_in_the_middle_of_a_segment_is_not_disturbed(void **state) {
    struct fixture f;
    struct log_slice s;
    uint8_t before[2048], after[2048];
    size_t n = 0;
    (void)state;
    open_compacted(&f, 4);
    put_many(&f, 0, 100);
    assert_int_equal(log_read(f.log, partition(&f), 3, sizeof before, true, &s), HF_OK);
    assert_int_equal(env_read(s.file, s.position, before, s.size, &n), HF_OK);
    compact(&f);
    assert_null(strstr(shown(&f), "3:k3=3 "));
    assert_int_equal(env_read(s.file, s.position, after, s.size, &n), HF_OK);
    assert_int_equal(n, s.size);
    assert_memory_equal(before, after, n);
    log_pin_release(s.pin);
    fixture_close(&f);
}

/* It left off in the middle of a segment that is not there any more. */
static void a_reader_goes_on_in_what_compaction_left(void **state) {
    struct fixture f;
    struct log_slice s;
    (void)state;
    open_compacted(&f, 14);
    put_many(&f, 0, 100);
    int64_t offset = 3;
    for (int i = 0; i < 2; i++) {
        uint8_t bytes[2048];
        struct batch_info b;
        size_t n = 0;
        assert_int_equal(log_read(f.log, partition(&f), offset, 200, true, &s), HF_OK);
        assert_int_equal(s.first_offset, offset);
        assert_int_equal(env_read(s.file, s.position, bytes, s.size, &n), HF_OK);
        for (size_t at = 0; at < n; at += b.size) {
            assert_int_equal(batch_parse(bytes + at, n - at, &b), HF_OK);
            offset = b.base_offset + b.last_offset_delta + 1;
        }
        log_pin_release(s.pin);
    }
    compact(&f);
    assert_int_equal(log_read(f.log, partition(&f), offset, 200, true, &s), HF_OK);
    uint8_t head[BATCH_HEADER];
    struct batch_info b;
    size_t n = 0;
    assert_int_equal(env_read(s.file, s.position, head, sizeof head, &n), HF_OK);
    assert_int_equal(batch_parse(head, s.size, &b), HF_OK);
    assert_int_equal(b.base_offset, s.first_offset);
    const char *left = shown(&f);
    while (left && atoi(left) < offset) left = strchr(left, ' ') ? strchr(left, ' ') + 1 : NULL;
    assert_non_null(left);
    assert_true(atoi(left) > offset);
    assert_in_range(atoi(left), b.base_offset, b.base_offset + b.last_offset_delta);
    log_pin_release(s.pin);
    fixture_close(&f);
}

static void younger_records_than_the_lag_stay(void **state) {
    struct fixture f;
    (void)state;
    open_with(&f, 5, 300000, 1);
    put_many(&f, 0, 100);
    let_pass(&f, 100);
    assert_int_equal(compactions(&f), 0);
    assert_int_equal(records(&f), 100);
    let_pass(&f, 250);
    assert_true(compactions(&f) > 0);
    assert_in_range(records(&f), KEYS, 40);
    fixture_close(&f);
}

static void compaction_waits_until_enough_is_new(void **state) {
    struct fixture f;
    (void)state;
    open_with(&f, 6, 0, 500000);
    for (int i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof key, "only%d", i);
        assert_int_equal(put(&f, key, "a value of some length", NULL, NULL), HF_OK);
    }
    compact(&f); /* all of it was new */
    uint64_t before = compactions(&f);
    put_many(&f, 100, 140);
    let_pass(&f, 60);
    assert_int_equal(compactions(&f), before);
    put_many(&f, 140, 300);
    compact(&f);
    assert_in_range(records(&f), 100 + KEYS, 170); /* of 400; how much was settled, checkpoints say */
    fixture_close(&f);
}

static void records_without_key_stay(void **state) {
    struct fixture f;
    (void)state;
    open_compacted(&f, 7);
    assert_int_equal(put(&f, NULL, "first", NULL, NULL), HF_OK);
    assert_int_equal(put(&f, NULL, "second", NULL, NULL), HF_OK);
    put_many(&f, 2, 100);
    compact(&f);
    assert_non_null(strstr(shown(&f), "0:-=first 1:-=second"));
    fixture_close(&f);
}

/* Its header stays though its record went, and readers pass over it. */
static void a_producer_is_known_by_its_emptied_batch(void **state) {
    struct fixture f;
    struct log_appended first, again;
    (void)state;
    open_compacted(&f, 8);
    const struct producing by = {.producer = 7, .epoch = 1, .sequence = 0};
    assert_int_equal(put(&f, "k0", "mine", &by, &first), HF_OK);
    put_many(&f, 1, 100);
    compact(&f);
    assert_null(strstr(shown(&f), "mine"));
    struct log_slice s;
    uint8_t head[BATCH_HEADER];
    struct batch_info b;
    size_t n;
    assert_int_equal(log_read(f.log, partition(&f), 0, sizeof head, true, &s), HF_OK);
    assert_int_equal(env_read(s.file, s.position, head, sizeof head, &n), HF_OK);
    assert_int_equal(batch_parse(head, sizeof head, &b), HF_OK);
    assert_int_equal(b.base_offset, first.base_offset);
    assert_int_equal(b.producer_id, 7);
    assert_int_equal(b.record_count, 0);
    log_pin_release(s.pin);
    fixture_crash(&f, HF_SIM_POWER_LOSS);
    fixture_start(&f);
    assert_int_equal(put(&f, "k0", "mine", &by, &again), HF_OK);
    assert_int_equal(again.base_offset, first.base_offset);
    fixture_close(&f);
}

static void look_ups_by_time_find_what_is_left(void **state) {
    struct fixture f;
    int64_t offset, time_ms, middle_ms = 0;
    (void)state;
    open_compacted(&f, 9);
    for (int i = 0; i < 100; i++) {
        if (i == 50) middle_ms = env_wall_ms(f.env);
        put_many(&f, i, i + 1);
        hf_sim_advance(f.sim, 10000);
    }
    assert_int_equal(put(&f, "alone", "x", NULL, NULL), HF_OK);
    compact(&f);
    assert_int_equal(log_offset_at(f.log, partition(&f), 0, &offset, &time_ms), HF_OK);
    assert_int_equal(offset, atoi(shown(&f)));
    assert_int_equal(log_offset_at(f.log, partition(&f), middle_ms, &offset, &time_ms), HF_OK);
    assert_true(offset >= 50 && time_ms >= middle_ms);
    assert_int_equal(log_offset_max_time(f.log, partition(&f), &offset, &time_ms), HF_OK);
    assert_int_equal(offset, 100);
    fixture_close(&f);
}

static void a_damaged_partition_is_left_alone(void **state) {
    struct fixture f;
    (void)state;
    open_compacted(&f, 10);
    put_many(&f, 0, 40);
    fixture_stop(&f);
    assert_int_equal(hf_sim_damage(f.sim, "topics/t-0/00000000000000000000.log", 300, 2), HF_OK);
    fixture_start(&f);
    put_many(&f, 40, 100);
    let_pass(&f, 60);
    assert_int_equal(compactions(&f), 0);
    struct log_slice s;
    assert_int_equal(log_read(f.log, partition(&f), 90, 4096, true, &s), HF_OK);
    assert_int_equal(s.first_offset, 90);
    log_pin_release(s.pin);
    fixture_close(&f);
}

static int damages, rebuilt;

static void count_damage(void *arg, const struct log_damage *d) {
    (void)arg;
    damages += !d->rebuilt;
    rebuilt += d->rebuilt;
}

/* Its gaps are no damage, though nothing but the batches tells of them. */
static void the_manifest_of_a_compacted_segment_is_made_again(void **state) {
    struct fixture f;
    char before[1 << 16];
    (void)state;
    open_compacted(&f, 12);
    put_many(&f, 0, 100);
    compact(&f);
    snprintf(before, sizeof before, "%s", shown(&f));
    fixture_stop(&f);
    assert_int_equal(hf_sim_damage(f.sim, "topics/t-0/00000000000000000000.manifest", 30, 1), HF_OK);
    f.options.damaged = count_damage;
    damages = rebuilt = 0;
    for (int i = 0; i < 3; i++) {
        fixture_start(&f);
        assert_string_equal(shown(&f), before);
        fixture_stop(&f);
    }
    assert_int_equal(damages, 0);
    assert_int_equal(rebuilt, 1);
    fixture_close(&f);
}

static void what_is_too_old_goes_too_if_both_policies_are_asked_for(void **state) {
    struct fixture f;
    struct outcome o = {0};
    struct log_bounds b;
    (void)state;
    open_compacted(&f, 11);
    assert_int_equal(put(&f, "old", "value", NULL, NULL), HF_OK);
    put_many(&f, 1, 60);
    compact(&f);
    assert_non_null(strstr(shown(&f), "0:old=value"));
    struct log_settings s = {0};
    log_settings_put(&s, LOG_CLEANUP_POLICY, LOG_CLEANUP_COMPACT | LOG_CLEANUP_DELETE);
    log_settings_put(&s, LOG_SEGMENT_BYTES, 1024);
    log_settings_put(&s, LOG_RETENTION_MS, 200000);
    assert_int_equal(log_topic_alter(f.log, HF_STR("t"), &s, ended, &o), HF_OK);
    wait_for(&f, &o);
    assert_int_equal(o.e, HF_OK);
    let_pass(&f, 210);
    put_many(&f, 60, 120);
    let_pass(&f, 5);
    assert_null(strstr(shown(&f), "old"));
    log_bounds(partition(&f), &b);
    assert_true(b.start > 0);
    fixture_close(&f);
}

/* Two topics wait for their compaction; one of them is deleted at one moment of it after the other. */
static void a_topic_is_deleted_at_any_moment(void **state) {
    (void)state;
    for (int steps = 0; steps < 60; steps++) {
        struct fixture f;
        struct outcome o = {0};
        open_compacted(&f, 13);
        fixture_create(&f, "u", (struct log_topic_config){.partitions = 1});
        struct log_settings s = {0};
        log_settings_put(&s, LOG_CLEANUP_POLICY, LOG_CLEANUP_COMPACT);
        log_settings_put(&s, LOG_SEGMENT_BYTES, 1024);
        log_settings_put(&s, LOG_DIRTY_RATIO, 1);
        assert_int_equal(log_topic_alter(f.log, HF_STR("u"), &s, ended, &o), HF_OK);
        wait_for(&f, &o);
        put_many(&f, 0, 40);
        for (int i = 0; i < 40; i++) (void)append(&f, "u", "without key", LOG_ACK_DURABLE);
        fixture_stop(&f);
        fixture_start(&f);
        hf_sim_advance(f.sim, SECOND_US);
        fixture_run(&f, steps / 2);
        o = (struct outcome){0};
        hf_str doomed = steps % 2 ? HF_STR("t") : HF_STR("u");
        assert_int_equal(log_topic_delete(f.log, doomed, NULL, 0, ended, &o), HF_OK);
        for (int i = 0; i < 30; i++) {
            hf_sim_advance(f.sim, 2000);
            fixture_run(&f, 2);
        }
        wait_for(&f, &o);
        assert_int_equal(o.e, HF_OK);
        assert_null(log_partition(f.log, doomed, 0));
        if (steps % 2 == 0)
            for (int i = 0; i < KEYS; i++)
                assert_int_equal(last_value(&f, (char[]){'k', (char)('0' + i), 0}), 35 + i);
        fixture_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_latest_record_of_each_key_stays_at_its_offset),
        cmocka_unit_test(a_deletion_goes_itself_after_its_time),
        cmocka_unit_test(little_memory_for_keys_takes_more_runs),
        cmocka_unit_test(a_reader_in_the_middle_of_a_segment_is_not_disturbed),
        cmocka_unit_test(a_reader_goes_on_in_what_compaction_left),
        cmocka_unit_test(younger_records_than_the_lag_stay),
        cmocka_unit_test(compaction_waits_until_enough_is_new),
        cmocka_unit_test(records_without_key_stay),
        cmocka_unit_test(a_producer_is_known_by_its_emptied_batch),
        cmocka_unit_test(look_ups_by_time_find_what_is_left),
        cmocka_unit_test(a_damaged_partition_is_left_alone),
        cmocka_unit_test(a_topic_is_deleted_at_any_moment),
        cmocka_unit_test(the_manifest_of_a_compacted_segment_is_made_again),
        cmocka_unit_test(what_is_too_old_goes_too_if_both_policies_are_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
