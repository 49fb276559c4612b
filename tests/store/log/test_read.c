/* Reading against a naive model, and readers that go on where they left off while what lay there goes.
 *
 * A read is right if it begins with the batch that holds the offset and takes as many whole batches as fit, at
 * least one. The batches are unlike each other, so that the guess where an index entry lies (index.c) is far
 * off in the middle. */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>

enum { LITTLE = 900, LARGE = 200, BATCHES = LITTLE + LARGE, READS = 3000, RECORDS_MOST = 3 };

struct model {
    int64_t base[BATCHES + 1]; /* and the end */
    uint64_t pos[BATCHES + 1];
    size_t largest;
};

static struct log_partition *partition(struct fixture *f) {
    return log_partition(f->log, HF_STR("t"), 0);
}

/* ---- many batches in one segment ---- */

static void append_one(struct fixture *f, size_t value_bytes, int records) {
    static uint8_t batch[128 << 10], value[64 << 10];
    struct batch_builder b;
    hf_str bytes;
    struct answer a = {0};
    batch_builder_init(&b, sizeof batch);
    batch_builder_begin(&b, 1000);
    for (int i = 0; i < records; i++)
        assert_int_equal(batch_builder_add(&b, (hf_str){0}, hf_str_make(value, value_bytes), NULL, 0), HF_OK);
    assert_int_equal(batch_builder_finish(&b, &bytes), HF_OK);
    memcpy(batch, bytes.p, bytes.n);
    batch_builder_fini(&b);
    assert_int_equal(log_append(f->log, partition(f), batch, bytes.n, LOG_ACK_WRITTEN, answered, &a), HF_OK);
    while (a.calls == 0) fixture_turn(f);
    assert_int_equal(a.result.e, HF_OK);
}

static void fill(struct fixture *f, struct model *m) {
    for (int i = 0; i < BATCHES; i++) {
        struct log_bounds b;
        struct log_slice s;
        int records = 1 + (int)(hf_sim_random(f->sim) % RECORDS_MOST);
        append_one(f, i < LITTLE ? 4200 / (size_t)records : 60000 / (size_t)records, records);
        log_bounds(partition(f), &b);
        m->base[i + 1] = b.end;
        assert_int_equal(log_read(f->log, partition(f), m->base[i], 1 << 20, true, &s), HF_OK);
        assert_int_equal(s.position, m->pos[i]);
        m->pos[i + 1] = m->pos[i] + s.size;
        if (s.size > m->largest) m->largest = s.size;
        log_pin_release(s.pin);
    }
}

/* Gives the offset behind what was read. */
static int64_t read_as_the_model(struct fixture *f, const struct model *m, int64_t offset, size_t most) {
    struct log_slice s;
    int first = 0, end;
    while (m->base[first + 1] <= offset) first++;
    for (end = first + 1; end < BATCHES && m->pos[end + 1] - m->pos[first] <= most;) end++;
    assert_int_equal(log_read(f->log, partition(f), offset, most, true, &s), HF_OK);
    assert_int_equal(s.first_offset, m->base[first]);
    assert_int_equal(s.position, m->pos[first]);
    assert_int_equal(s.size, m->pos[end] - m->pos[first]);
    log_pin_release(s.pin);
    return m->base[end];
}

static void read_anywhere(struct fixture *f, const struct model *m) {
    for (int i = 0; i < READS; i++) {
        int64_t offset = (int64_t)(hf_sim_random(f->sim) % (uint64_t)m->base[BATCHES]);
        (void)read_as_the_model(f, m, offset, hf_sim_random(f->sim) % (8 * m->largest));
    }
}

static void read_on(struct fixture *f, const struct model *m) {
    int64_t offset = 0;
    while (offset < m->base[BATCHES])
        offset = read_as_the_model(f, m, offset, hf_sim_random(f->sim) % (8 * m->largest));
}

static void a_read_takes_the_whole_batches_that_fit(void **state) {
    (void)state;
    static struct model m;
    struct fixture f;
    struct log_topic_config config = {.partitions = 1};
    fixture_open_large(&f, 1);
    log_settings_put(&config.settings, LOG_SEGMENT_BYTES, 64 << 20);
    fixture_create(&f, "t", config);
    fill(&f, &m);
    for (int round = 0; round < 3; round++) {
        read_anywhere(&f, &m);
        read_on(&f, &m);
        if (round == 0) fixture_stop(&f);
        if (round == 1) fixture_crash(&f, HF_SIM_PROCESS_DEATH);
        if (round < 2) fixture_start(&f);
    }
    fixture_close(&f);
}

/* ---- the place where a reader left off goes ---- */

enum { SMALL = 40 }; /* batches over several segments */

static void open_with_segments(struct fixture *f, uint64_t seed) {
    char text[1500];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    struct log_topic_config config = {.partitions = 1};
    log_settings_put(&config.settings, LOG_RETENTION_MS, -1); /* the records are of 1970 */
    fixture_open(f, seed);
    fixture_create(f, "t", config);
    for (int i = 0; i < SMALL; i++) append(f, "t", text, LOG_ACK_DURABLE);
}

/* Reads from there to the end, a few batches at a time, and stops in the middle when `reads` were made. */
static int64_t read_some(struct fixture *f, int64_t offset, int reads) {
    struct log_slice s;
    while (reads-- > 0) {
        uint8_t bytes[8192];
        struct batch_info b;
        size_t n = 0;
        assert_int_equal(log_read(f->log, partition(f), offset, 4000, true, &s), HF_OK);
        if (s.size == 0) break;
        assert_int_equal(s.first_offset, offset);
        assert_int_equal(env_read(s.file, s.position, bytes, s.size, &n), HF_OK);
        log_pin_release(s.pin);
        for (size_t at = 0; at < n; at += b.size) {
            assert_int_equal(batch_parse(bytes + at, n - at, &b), HF_OK);
            assert_int_equal(b.base_offset, offset);
            offset += b.last_offset_delta + 1;
        }
    }
    return offset;
}

static void a_reader_goes_on_behind_a_start_that_moved(void **state) {
    (void)state;
    struct fixture f;
    struct log_slice s;
    struct outcome o = {0};
    open_with_segments(&f, 2);
    int64_t left_off = read_some(&f, 0, 3);
    assert_int_equal(log_start_move(f.log, partition(&f), SMALL - 3, ended, &o), HF_OK);
    wait_for(&f, &o);
    assert_int_equal(o.e, HF_OK);
    for (int i = 0; i < 100; i++) { /* the checkpoint, after which the files go */
        hf_sim_advance(f.sim, 1000000);
        fixture_run(&f, 1);
    }
    struct log_stats stats;
    log_stats(f.log, &stats);
    assert_in_range(stats.segments, 1, 3);
    assert_int_equal(log_read(f.log, partition(&f), left_off, 4000, true, &s), HF_ERANGE);
    assert_int_equal(read_some(&f, SMALL - 3, SMALL), SMALL);
    fixture_close(&f);
}

static void a_reader_of_a_topic_made_again_begins_anew(void **state) {
    (void)state;
    struct fixture f;
    struct outcome o = {0};
    open_with_segments(&f, 3);
    int64_t left_off = read_some(&f, 0, 3);
    assert_int_equal(log_topic_delete(f.log, HF_STR("t"), NULL, 0, ended, &o), HF_OK);
    wait_for(&f, &o);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    for (int64_t i = 0; i <= left_off; i++) append(&f, "t", "another", LOG_ACK_DURABLE);
    assert_int_equal(read_some(&f, left_off, 1), left_off + 1);
    fixture_close(&f);
}

/* ---- batches that are still in memory [L18] ---- */

static void what_waits_in_memory_is_journaled_and_read(void **state) {
    (void)state;
    struct fixture f;
    struct answer a[3];
    fixture_open(&f, 4);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    for (int round = 0; round < 20; round++) {
        int64_t from = round * 3;
        for (int i = 0; i < 3; i++)
            assert_int_equal(
                begin_append(&f, "t", "abc", i == 1 ? LOG_ACK_DURABLE : LOG_ACK_WRITTEN, NULL, &a[i]), HF_OK);
        while (a[0].calls + a[1].calls + a[2].calls < 3) fixture_run(&f, 1);
        assert_int_equal(read_some(&f, from, 10), from + 3);
    }
    fixture_crash(&f, HF_SIM_PROCESS_DEATH);
    fixture_start(&f);
    assert_int_equal(read_some(&f, 0, 100), 60);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_takes_the_whole_batches_that_fit),
        cmocka_unit_test(a_reader_goes_on_behind_a_start_that_moved),
        cmocka_unit_test(a_reader_of_a_topic_made_again_begins_anew),
        cmocka_unit_test(what_waits_in_memory_is_journaled_and_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
