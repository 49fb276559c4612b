#include "bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void on_event(void *arg, enum schedule_event what, const char *text) {
    (void)text;
    ((struct bench *)arg)->events[what]++;
}

void open_bench(struct bench *b, const struct memory_options *engine) {
    *b = (struct bench){.wall = START, .mono = 1000};
    memory_engine_open(engine, &b->m);
    assert_int_equal(memory_engine_topic_create(b->m, HF_STR(HF_TOPIC_DELAY), 1), HF_OK);
    assert_int_equal(memory_engine_topic_create(b->m, HF_STR(HF_TOPIC_REJECTED), 1), HF_OK);
    b->options = (struct schedule_options){.boot_id = 1, .random_seed = 7, .event = on_event, .arg = b};
}

void start(struct bench *b) {
    assert_int_equal(schedule_open(memory_engine_engine(b->m), &b->options, b->wall, b->mono, &b->s), HF_OK);
}

void close_bench(struct bench *b) {
    memory_engine_settle(b->m);
    schedule_close(b->s);
    memory_engine_close(b->m);
}

void crash(struct bench *b) {
    memory_engine_crash(b->m);
    schedule_close(b->s);
    start(b);
}

/* Until nothing more happens at this time. */
void run(struct bench *b) {
    for (int quiet = 0; quiet < 3;) {
        size_t left = memory_engine_step(b->m);
        int64_t wait = schedule_step(b->s, b->wall, b->mono);
        schedule_check(b->s);
        quiet = left == 0 && wait > 0 ? quiet + 1 : 0;
    }
}

void pass(struct bench *b, int64_t ms) {
    b->wall += ms;
    b->mono += ms;
    run(b);
}

/* "name=value" headers, NULL ends; a record of holdfast.delay with key and value. Returns its offset. */
int64_t put(struct bench *b, const char *key, const char *value, ...) {
    struct hf_header h[16];
    size_t n = 0;
    va_list args;
    va_start(args, value);
    for (const char *text; (text = va_arg(args, const char *));) {
        const char *eq = strchr(text, '=');
        h[n++] = (struct hf_header){hf_str_make(text, (size_t)(eq - text)), hf_str_of(eq + 1)};
    }
    va_end(args);
    int64_t offset = memory_engine_append(b->m, HF_STR(HF_TOPIC_DELAY), 0, b->wall, hf_str_of(key),
                                          hf_str_of(value), h, n);
    assert_true(offset >= 0);
    run(b);
    return offset;
}

void due_of(int i, char out[32]) {
    (void)snprintf(out, 32, "%lld", (long long)(START + 3600000 + (i * 7919LL) % 80000000));
}

void put_many(struct bench *b, int n, const char *value) {
    for (int i = 0; i < n; i++) {
        char due[32];
        due_of(i, due);
        struct hf_header h[] = {{HF_STR(HF_HDR_TOPIC), HF_STR("t")}, {HF_STR(HF_HDR_DUE), hf_str_of(due)}};
        assert_true(memory_engine_append(b->m, HF_STR(HF_TOPIC_DELAY), 0, b->wall, HF_STR("k"),
                                         hf_str_of(value), h, 2) >= 0);
        if (i % 100 == 0) run(b);
    }
    run(b);
}

/* ---- what is in a topic ---- */

static void copy(char *to, size_t size, hf_str s) {
    (void)snprintf(to, size, "%.*s", (int)s.n, s.p ? s.p : "");
}

static void read_row(void *arg, const struct engine_record *r) {
    struct reading *read = arg;
    assert_true(read->n < ROWS);
    struct row *row = &read->rows[read->n++];
    *row = (struct row){.partition = read->partition, .at_ms = r->timestamp_ms};
    copy(row->key, sizeof row->key, r->key);
    copy(row->value, sizeof row->value, r->value);
    for (size_t i = 0; i < r->header_count; i++) {
        size_t used = strlen(row->headers);
        (void)snprintf(row->headers + used, sizeof row->headers - used, "%.*s=%.*s;",
                       (int)r->headers[i].key.n, r->headers[i].key.p, (int)r->headers[i].value.n,
                       r->headers[i].value.p);
    }
}

struct reading *topic(struct bench *b, const char *name, int32_t partitions) {
    static struct reading read;
    read.n = 0;
    for (read.partition = 0; read.partition < partitions; read.partition++)
        memory_engine_each(b->m, hf_str_of(name), read.partition, read_row, &read);
    return &read;
}

void assert_has(const struct row *row, const char *header) {
    if (!strstr(row->headers, header)) fail_msg("%s is not among %s", header, row->headers);
}

enum schedule_outcome outcome(struct bench *b, int64_t offset) {
    enum schedule_outcome o = SCHEDULE_SCHEDULED;
    enum hf_err e = schedule_outcome_of(b->s, 0, offset, &o);
    assert_true(e == HF_OK || e == HF_ENOTFOUND);
    return o;
}

uint64_t pending(const struct bench *b) {
    struct schedule_stats stats;
    schedule_stats(b->s, &stats);
    return stats.pending;
}
