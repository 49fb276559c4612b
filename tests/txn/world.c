#include "world.h"

#include "base/names.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void start(struct world *w) {
    enum hf_err e = txn_open(memory_engine_engine(w->m), &w->o, w->now_ms, &w->t);
    assert(e == HF_OK);
    w->next_ms = w->now_ms;
}

void world_open(struct world *w, const struct world_options *o) {
    *w = (struct world){.o = o->txn, .now_ms = 1000000, .random = o->seed * 2 + 1};
    struct memory_options engine = o->engine;
    engine.seed = o->seed;
    memory_engine_open(&engine, &w->m);
    w->partitions = o->txn_partitions ? o->txn_partitions : 1;
    enum hf_err e = memory_engine_topic_create(w->m, HF_STR(HF_TOPIC_TXN), w->partitions);
    assert(e == HF_OK);
    start(w);
}

void world_close(struct world *w) {
    memory_engine_crash(w->m);
    txn_close(w->t);
    memory_engine_close(w->m);
}

void world_crash(struct world *w) {
    memory_engine_crash(w->m);
    txn_close(w->t);
    start(w);
}

/* A clean stop: what is under way ends. */
void world_restart(struct world *w) {
    memory_engine_settle(w->m);
    txn_close(w->t);
    start(w);
}

uint64_t world_random(struct world *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random >> 11;
}

static size_t header(struct hf_header *h, size_t n, const char *name, const char *value) {
    if (value) h[n++] = (struct hf_header){hf_str_of(name), hf_str_of(value)};
    return n;
}

int64_t world_prepare(struct world *w, const struct half_spec *s) {
    struct hf_header h[12];
    size_t n = header(h, 0, HF_HDR_OP, "prepare");
    n = header(h, n, HF_HDR_GROUP, s->group ? s->group : "g");
    n = header(h, n, HF_HDR_TOPIC, s->topic);
    n = header(h, n, HF_HDR_KEY, s->key);
    n = header(h, n, HF_HDR_MESSAGE_ID, s->message_id);
    n = header(h, n, HF_HDR_DELAY, s->delay);
    n = header(h, n, HF_HDR_DUE, s->due);
    n = header(h, n, HF_HDR_ID, s->hf_id);
    n = header(h, n, HF_HDR_CHECK_AFTER, s->check_after);
    n = header(h, n, "plain", "kept");
    return memory_engine_append(w->m, HF_STR(HF_TOPIC_TXN), s->partition, w->now_ms, hf_str_of(s->id),
                                hf_str_of(s->value), h, n);
}

int64_t world_decide_at(struct world *w, const char *group, const char *id, const char *op,
                        int32_t partition) {
    struct hf_header h[2];
    size_t n = header(h, 0, HF_HDR_OP, op);
    n = header(h, n, HF_HDR_GROUP, group);
    return memory_engine_append(w->m, HF_STR(HF_TOPIC_TXN), partition, w->now_ms, hf_str_of(id),
                                (hf_str){NULL, 0}, h, n);
}

int64_t world_decide(struct world *w, const char *group, const char *id, const char *op) {
    return world_decide_at(w, group, id, op, 0);
}

void world_step(struct world *w) {
    memory_engine_step(w->m);
    w->next_ms = txn_step(w->t, w->now_ms);
    txn_check(w->t);
}

static void settle(struct world *w) {
    for (int i = 0; i < 100000; i++) {
        size_t busy = memory_engine_step(w->m);
        if (busy == 0 && !txn_wants(w->t) && w->next_ms > w->now_ms) return;
        w->next_ms = txn_step(w->t, w->now_ms);
        if (w->next_ms == w->now_ms && busy == 0 && !txn_wants(w->t) && i > 50000) break;
    }
    fprintf(stderr, "the coordinator does not come to rest\n");
    abort();
}

void world_run(struct world *w, int64_t ms) {
    int64_t until = w->now_ms + ms;
    settle(w);
    txn_check(w->t);
    while (w->now_ms < until) {
        w->now_ms = w->next_ms < until ? w->next_ms : until;
        w->next_ms = txn_step(w->t, w->now_ms);
        settle(w);
    }
    txn_check(w->t);
}

/* ---- what is visible ---- */

struct counting {
    const char *value;
    size_t n;
};

static void count(void *arg, const struct engine_record *r) {
    struct counting *c = arg;
    c->n += !c->value || hf_str_is(r->value, c->value);
}

static int32_t partitions_of(struct world *w, const char *topic) {
    int32_t n;
    return engine_topic(memory_engine_engine(w->m), hf_str_of(topic), false, &n) ? 0 : n;
}

size_t world_count(struct world *w, const char *topic, const char *value) {
    struct counting c = {value, 0};
    for (int32_t p = 0; p < partitions_of(w, topic); p++)
        memory_engine_each(w->m, hf_str_of(topic), p, count, &c);
    return c.n;
}

struct finding {
    size_t nth;
    bool found;
    int32_t partition;
    struct world_record *out;
};

static void copy(char *to, size_t room, hf_str s) {
    snprintf(to, room, "%.*s", (int)s.n, s.p ? s.p : "");
}

static void take(void *arg, const struct engine_record *r) {
    struct finding *f = arg;
    if (f->found || f->nth-- > 0) return;
    f->found = true;
    struct world_record *o = f->out;
    o->partition = f->partition;
    o->offset = r->offset;
    o->timestamp_ms = r->timestamp_ms;
    o->null_key = !r->key.p;
    o->headers = r->header_count;
    copy(o->key, sizeof o->key, r->key);
    copy(o->value, sizeof o->value, r->value);
    const struct {
        const char *name;
        char *to;
        size_t room;
    } fields[] = {{HF_HDR_MESSAGE_ID, o->message_id, sizeof o->message_id},
                  {HF_HDR_CREATED_AT, o->created_at, sizeof o->created_at},
                  {HF_HDR_ORIGIN, o->origin, sizeof o->origin},
                  {HF_HDR_DUE, o->due, sizeof o->due},
                  {HF_HDR_TOPIC, o->hf_topic, sizeof o->hf_topic},
                  {HF_HDR_ID, o->hf_id, sizeof o->hf_id},
                  {HF_HDR_REASON, o->reason, sizeof o->reason},
                  {HF_HDR_ATTEMPT, o->attempt, sizeof o->attempt},
                  {HF_HDR_HALVES, o->halves, sizeof o->halves},
                  {HF_HDR_GROUP, o->group, sizeof o->group},
                  {"plain", o->plain, sizeof o->plain}};
    for (size_t i = 0; i < r->header_count; i++)
        for (size_t j = 0; j < sizeof fields / sizeof fields[0]; j++)
            if (hf_str_is(r->headers[i].key, fields[j].name))
                copy(fields[j].to, fields[j].room, r->headers[i].value);
}

bool world_record(struct world *w, const char *topic, size_t nth, struct world_record *out) {
    *out = (struct world_record){0};
    struct finding f = {.nth = nth, .out = out};
    snprintf(out->topic, sizeof out->topic, "%s", topic);
    for (int32_t p = 0; p < partitions_of(w, topic) && !f.found; p++) {
        f.partition = p;
        memory_engine_each(w->m, hf_str_of(topic), p, take, &f);
    }
    return f.found;
}

/* ---- consumers and operators ---- */

void world_read_checks_upto(struct world *w, const char *group, int64_t offset) {
    char topic[300];
    snprintf(topic, sizeof topic, HF_TOPIC_CHECK "%s", group);
    for (int32_t p = 0; p < partitions_of(w, topic); p++) {
        int64_t start, end;
        enum hf_err e = engine_bounds(memory_engine_engine(w->m), hf_str_of(topic), p, &start, &end);
        assert(e == HF_OK);
        int64_t at = offset < end ? offset : end;
        if (engine_committed(memory_engine_engine(w->m), hf_str_of(group), hf_str_of(topic), p) < at)
            memory_engine_commit_offset(w->m, hf_str_of(group), hf_str_of(topic), p, at);
    }
}

void world_read_checks(struct world *w, const char *group) {
    world_read_checks_upto(w, group, INT64_MAX);
}

enum txn_outcome world_outcome(struct world *w, int32_t partition, int64_t offset) {
    enum txn_outcome o = TXN_MALFORMED;
    enum hf_err e = HF_EAGAIN;
    for (int i = 0; i < 10000 && e == HF_EAGAIN; i++) {
        e = txn_outcome_at(w->t, partition, offset, &o);
        if (e == HF_EAGAIN) {
            world_step(w);
            if (i % 20 == 19) w->now_ms += 10;
        }
    }
    assert(e == HF_OK);
    return o;
}

enum txn_state world_state(struct world *w, const char *group, const char *id) {
    struct txn_view v;
    return txn_show(w->t, hf_str_of(group), hf_str_of(id), &v) ? TXN_NONE : v.state;
}

struct answer {
    bool done;
    enum hf_err e;
    enum txn_outcome outcome;
};

static void answered(void *arg, enum hf_err e, enum txn_outcome outcome) {
    struct answer *a = arg;
    assert(!a->done);
    *a = (struct answer){true, e, outcome};
}

enum txn_outcome world_operate(struct world *w, const char *group, const char *id, enum txn_state decision) {
    struct answer a = {0};
    enum hf_err e = txn_decide(w->t, hf_str_of(group), hf_str_of(id), decision, answered, &a);
    assert(e == HF_OK);
    for (int i = 0; i < 10000 && !a.done; i++) {
        world_step(w);
        if (i % 20 == 19) w->now_ms += 10;
    }
    assert(a.done && a.e == HF_OK);
    return a.outcome;
}
