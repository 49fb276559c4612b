#include "world.h"

#include "base/crc32c.h"

#include <stdio.h>
#include <string.h>

bool world_durable[WORLD_PARTITIONS][WORLD_OFFSETS];

/* ---- what can be read of a store ---- */

const struct world_place world_places[WORLD_PARTITIONS] = {{"plain", 0}, {"plain", 1}, {"holdfast.ours", 0}};

static void see_batches(const uint8_t *p, size_t n, uint64_t *batch) {
    struct batch_info b;
    for (size_t at = 0; at < n; at += b.size) {
        assert_int_equal(batch_parse(p + at, n - at, &b), HF_OK);
        assert_true(b.base_offset >= 0 && b.base_offset < WORLD_OFFSETS);
        batch[b.base_offset] = (uint64_t)b.size << 32 | hf_crc32c(0, p + at, b.size);
    }
}

static void see_partition(struct log *l, int i, uint64_t *batch) {
    static uint8_t bytes[64 << 10];
    struct log_partition *p = log_partition(l, hf_str_of(world_places[i].topic), world_places[i].partition);
    struct log_bounds bounds;
    if (!p) return;
    log_bounds(p, &bounds);
    for (int64_t at = bounds.start; at < bounds.high && at < WORLD_OFFSETS; at++) {
        struct log_slice s;
        size_t got = 0;
        if (log_read(l, p, at, sizeof bytes, true, &s)) continue;
        if (s.size > 0) assert_int_equal(env_read(s.file, s.position, bytes, s.size, &got), HF_OK);
        assert_int_equal(got, s.size);
        see_batches(bytes, got, batch);
        if (s.pin) log_pin_release(s.pin);
    }
}

static void see_key(void *arg, hf_str key, hf_str value) {
    struct world *w = arg;
    size_t n = strlen(w->state);
    if (hf_str_starts(key, HF_STR("log/"))) return; /* numbers that each start moves on */
    snprintf(w->state + n, WORLD_STATE - n, "%.*s=%08x ", (int)key.n, key.p, hf_crc32c(0, value.p, value.n));
}

static void see_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    static uint8_t content[WORLD_RUN];
    struct {
        struct log *l;
        struct world *w;
    } *x = arg;
    (void)bucket;
    assert_int_equal(bytes, WORLD_RUN);
    if (engine_run_read(log_engine(x->l), id, 0, content, WORLD_RUN)) return;
    x->w->run = hf_crc32c(0, content, WORLD_RUN);
    x->w->run_read = true;
}

void world_see(struct log *l, struct world *w) {
    struct {
        struct log *l;
        struct world *w;
    } x = {l, w};
    memset(w, 0, sizeof *w);
    for (int i = 0; i < WORLD_PARTITIONS; i++) see_partition(l, i, w->batch[i]);
    engine_state_each(log_engine(l), HF_STR(""), see_key, w);
    engine_run_each(log_engine(l), see_run, &x);
}

/* ---- the store ---- */

static void fill(struct fixture *f) {
    struct outcome done = {0};
    char text[64];
    fixture_create(f, "plain", (struct log_topic_config){.partitions = 2});
    fixture_create(f, "holdfast.ours", (struct log_topic_config){.partitions = 1});
    for (int i = 0; i < WORLD_MESSAGES; i++) {
        snprintf(text, sizeof text, "message %d of this test", i);
        bool ours = i % 5 == 0, all = i % 7 == 0 || ours;
        int64_t at =
            append(f, ours ? "holdfast.ours" : "plain", text, all ? LOG_ACK_DURABLE : LOG_ACK_WRITTEN);
        if (all) world_durable[ours ? 2 : 0][at] = true;
    }
    uint64_t run = seal_run(f, WORLD_RUN);
    struct engine_put puts[WORLD_KEYS];
    char keys[WORLD_KEYS][16];
    for (int i = 0; i < WORLD_KEYS; i++) {
        snprintf(keys[i], sizeof keys[i], "s/%d", i);
        puts[i] = (struct engine_put){hf_str_of(keys[i]), HF_STR("a value")};
    }
    struct engine_commit c = {
        .now_ms = 1, .puts = puts, .put_count = WORLD_KEYS, .runs_added = &run, .runs_added_count = 1};
    assert_int_equal(engine_commit(log_engine(f->log), &c, ended, &done), HF_OK);
    wait_for(f, &done);
}

void world_build(struct fixture *f, uint64_t seed, bool crashed) {
    fixture_open(f, seed);
    fixture_stop(f);
    f->options.segment_bytes = 4 << 10;
    f->options.anchor_bytes = 1 << 10;
    fixture_start(f);
    fill(f);
    if (crashed)
        fixture_crash(f, HF_SIM_PROCESS_DEATH);
    else
        fixture_stop(f);
}

void world_check_filled(const struct world *w) {
    int batches = 0, keys = 0;
    for (int p = 0; p < WORLD_PARTITIONS; p++)
        for (int i = 0; i < WORLD_OFFSETS; i++) batches += w->batch[p][i] != 0;
    for (const char *k = w->state; (k = strstr(k, "s/")); k++) keys++;
    assert_int_equal(batches, WORLD_MESSAGES);
    assert_int_equal(keys, WORLD_KEYS);
    assert_true(w->run_read);
}
