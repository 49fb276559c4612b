#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void open_with(struct fixture *f, uint64_t seed, struct log_options options) {
    *f = (struct fixture){.options = options};
    assert_int_equal(
        hf_sim_open(seed, &(struct hf_sim_options){.verbose = getenv("VERBOSE") != NULL}, &f->sim), HF_OK);
    f->env = hf_sim_env(f->sim);
    fixture_start(f);
}

void fixture_open(struct fixture *f, uint64_t seed) {
    open_with(f, seed,
              (struct log_options){
                  .segment_bytes = 16 << 10,
                  .journal_file_bytes = 64 << 10,
                  .checkpoint_bytes = 128 << 10,
                  .reserve_bytes = 1 << 20,
                  .anchor_bytes = 4 << 10,
                  .auto_create = true,
              });
}

void fixture_open_large(struct fixture *f, uint64_t seed) {
    open_with(f, seed,
              (struct log_options){
                  .segment_bytes = 1 << 20,
                  .journal_file_bytes = 16 << 20,
                  .checkpoint_bytes = 32 << 20,
                  .message_max = (64 << 10) + BATCH_HEADER,
                  .reserve_bytes = 1 << 20,
                  .auto_create = true,
              });
}

void fixture_start(struct fixture *f) {
    assert_int_equal(log_open(f->env, &f->options, &f->log), HF_OK);
    log_check(f->log);
}

void fixture_stop(struct fixture *f) {
    assert_int_equal(log_close(f->log), HF_OK);
    f->log = NULL;
    hf_sim_restart(f->sim);
}

void fixture_crash(struct fixture *f, enum hf_sim_crash kind) {
    hf_sim_crash(f->sim, kind);
    log_abandon(f->log);
    f->log = NULL;
    hf_sim_restart(f->sim);
}

void fixture_close(struct fixture *f) {
    if (f->log) assert_int_equal(log_close(f->log), HF_OK);
    f->log = NULL;
    hf_sim_close(f->sim);
}

void fixture_turn(struct fixture *f) {
    (void)log_step(f->log);
    (void)env_wait(f->env);
    (void)log_step(f->log);
}

static void turn(struct fixture *f) {
    fixture_turn(f);
    log_check(f->log);
}

void fixture_run(struct fixture *f, int steps) {
    for (int i = 0; i < steps; i++) turn(f);
}

void ended(void *arg, enum hf_err e) {
    struct outcome *o = arg;
    o->calls++;
    o->e = e;
}

void wait_for(struct fixture *f, struct outcome *o) {
    for (int i = 0; i < 1000 && o->calls == 0; i++) turn(f);
    assert_int_equal(o->calls, 1);
}

void fixture_create(struct fixture *f, const char *topic, struct log_topic_config config) {
    struct outcome o = {0};
    assert_int_equal(log_topic_create(f->log, hf_str_of(topic), &config, ended, &o), HF_OK);
    wait_for(f, &o);
    assert_int_equal(o.e, HF_OK);
}

size_t make_batch(uint8_t out[4096], const char *text, int count, const struct producing *by) {
    struct batch_builder b;
    hf_str bytes;
    batch_builder_init(&b, 4096);
    batch_builder_begin(&b, 1000);
    for (int i = 0; i < count; i++)
        assert_int_equal(batch_builder_add(&b, (hf_str){0}, hf_str_of(text), NULL, 0), HF_OK);
    assert_int_equal(batch_builder_finish(&b, &bytes), HF_OK);
    memcpy(out, bytes.p, bytes.n);
    batch_builder_fini(&b);
    if (by) {
        hf_put_be64(out + 43, (uint64_t)by->producer);
        hf_put_be16(out + 51, (uint16_t)by->epoch);
        hf_put_be32(out + 53, (uint32_t)by->sequence);
    }
    batch_set_append_time(out, 1000);
    return bytes.n;
}

void answered(void *arg, const struct log_appended *result) {
    struct answer *a = arg;
    a->calls++;
    a->result = *result;
}

enum hf_err begin_append(struct fixture *f, const char *topic, const char *text, enum log_ack ack,
                         const struct producing *by, struct answer *a) {
    uint8_t batch[4096];
    *a = (struct answer){0};
    size_t n = make_batch(batch, text, 1, by);
    struct log_partition *p = log_partition(f->log, hf_str_of(topic), 0);
    assert_non_null(p);
    return log_append(f->log, p, batch, n, ack, answered, a);
}

int64_t append(struct fixture *f, const char *topic, const char *text, enum log_ack ack) {
    struct answer a;
    assert_int_equal(begin_append(f, topic, text, ack, NULL, &a), HF_OK);
    assert_int_equal(a.calls, 0);
    for (int i = 0; i < 1000 && a.calls == 0; i++) turn(f);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.result.e, HF_OK);
    return a.result.base_offset;
}

const char *contents(struct fixture *f, const char *topic) {
    static char text[1 << 16];
    struct engine_cursor *c;
    struct engine_record r;
    size_t n = 0;
    text[0] = 0;
    struct engine *e = log_engine(f->log);
    assert_int_equal(engine_cursor_open(e, hf_str_of(topic), 0, &c), HF_OK);
    while (engine_cursor_next(c, &r) == HF_OK)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld:%.*s", n ? " " : "", (long long)r.offset,
                              (int)r.value.n, r.value.p);
    engine_cursor_close(c);
    return text;
}

uint64_t seal_run(struct fixture *f, size_t n) {
    struct engine_run_writer *w;
    struct outcome o = {0};
    uint64_t id = 0;
    assert_int_equal(engine_run_begin(log_engine(f->log), 1, &w), HF_OK);
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)(i * 7);
        assert_int_equal(engine_run_append(w, &byte, 1), HF_OK);
    }
    engine_run_seal(w, &id, ended, &o);
    wait_for(f, &o);
    assert_int_equal(o.e, HF_OK);
    return id;
}
