#include "schedule_model.h"

#include "base/names.h"

#include <stdio.h>
#include <stdlib.h>

const char *const model_topics[TOPICS] = {"alpha", "beta", "gamma"};
const int32_t model_partitions[TOPICS] = {1, 3, 2};

uint64_t model_random(uint64_t *s) { /* splitmix64 */
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

bool model_chance(struct model *m, unsigned percent) {
    return model_random(&m->random) % 100 < percent;
}

static struct op *last_of(struct model *m, const struct op *o) {
    struct op *found = NULL;
    for (size_t i = 0; i < m->op_accepted; i++) {
        struct op *p = m->by_seq[i];
        bool schedules = p->end != NONE;
        if (schedules && p->topic == o->topic && p->id == o->id) found = p;
    }
    return found;
}

static void decide(struct model *m, struct op *o) {
    o->end = o->kind == CANCEL ? NONE : LIVE;
    o->outcome = SCHEDULE_SCHEDULED;
    int64_t asked = o->delay >= 0 ? o->at_ms + o->delay : o->due;
    o->place_due = asked > o->at_ms ? asked : o->at_ms;
    if (o->id < 0) return;
    struct op *last = last_of(m, o);
    bool pending = last && last->end == LIVE && last->place_due > o->at_ms;
    bool delivered = last && last->end == LIVE && !pending;
    bool cancelled = last && last->end == DEAD;
    if (o->kind == CANCEL || o->kind == MOVE) {
        o->end = NONE;
        o->outcome = delivered                ? SCHEDULE_ALREADY_DELIVERED
                     : cancelled              ? SCHEDULE_CANCELLED
                     : !last                  ? SCHEDULE_UNKNOWN
                     : o->kind == CANCEL      ? SCHEDULE_CANCELLED
                     : last->seq != o->expect ? SCHEDULE_CHANGED
                                              : SCHEDULE_MOVED;
        if (o->outcome == SCHEDULE_MOVED) o->end = LIVE;
        if (pending && o->outcome != SCHEDULE_CHANGED) last->end = DEAD;
        return;
    }
    if (pending && o->kind != PLAIN) {
        o->end = NONE;
        o->outcome = SCHEDULE_KEPT;
    } else if (last && o->kind == ONCE) {
        o->end = NONE;
        o->outcome = SCHEDULE_FINISHED;
    } else if (pending) {
        last->end = DEAD;
        o->outcome = SCHEDULE_REPLACED;
    }
}

void model_accept(struct model *m, struct op *o) {
    decide(m, o);
    m->by_seq[m->op_accepted++] = o;
}

/* ---- operations ---- */

int64_t model_delay(struct model *m) {
    static const int64_t scales[] = {1, 20, 300, 5000, 100000, 40000000};
    int64_t scale = scales[model_random(&m->random) % 6];
    return (int64_t)(model_random(&m->random) % (uint64_t)scale);
}

struct op *model_act(struct model *m, int64_t wall_ms) {
    static const enum kind kinds[] = {PLAIN, PLAIN, PLAIN, KEEP, ONCE, CANCEL, CANCEL, MOVE, MOVE};
    if (m->op_count == OPS_MAX) return NULL;
    struct op *o = &m->ops[m->op_count++];
    uint64_t *s = &m->random;
    *o = (struct op){
        .topic = (int)(model_random(s) % TOPICS), .id = -1, .due = -1, .delay = -1, .partition = -1};
    if (model_chance(m, 60)) {
        o->id = (int)(model_random(s) % IDS);
        o->kind = kinds[model_random(s) % (sizeof kinds / sizeof kinds[0])];
    }
    o->key = (int)(model_random(s) % 5);
    if (model_chance(m, 10)) o->partition = (int32_t)(model_random(s) % (uint64_t)model_partitions[o->topic]);
    if (model_chance(m, 50) && !m->absolute)
        o->delay = model_delay(m);
    else
        o->due = wall_ms + model_delay(m) - (model_chance(m, 10) ? 1000 : 0);
    if (model_chance(m, 30) && o->due >= 0) o->due += 500 - o->due % 500; /* many at once, or very many */
    if (model_chance(m, 30) && o->due >= 0) o->due = wall_ms + 20000 - wall_ms % 20000;
    if (o->kind == MOVE) {
        struct op *last = last_of(m, o);
        o->expect = last ? last->seq + (model_chance(m, 20) ? 1 : 0) : 7;
    }
    return o;
}

static void add(struct op_record *r, const char *name, const char *text) {
    r->headers[r->header_count++] = (struct hf_header){hf_str_of(name), hf_str_of(text)};
}

static const char *number(struct op_record *r, int slot, const char *prefix, int64_t v) {
    (void)snprintf(r->texts[slot], sizeof r->texts[slot], "%s%lld", prefix, (long long)v);
    return r->texts[slot];
}

void model_record(const struct model *m, const struct op *o, struct op_record *r) {
    static const char *const conflicts[] = {[KEEP] = "keep", [ONCE] = "once"};
    r->header_count = 0;
    r->key = hf_str_of(number(r, 0, "k", o->key));
    r->value = hf_str_of(number(r, 1, "", o - m->ops));
    add(r, "x-own", "kept");
    add(r, HF_HDR_TOPIC, model_topics[o->topic]);
    if (o->id >= 0) add(r, HF_HDR_ID, number(r, 2, "id-", o->id));
    if (o->kind == CANCEL) add(r, HF_HDR_OP, "cancel");
    if (o->kind != CANCEL && o->delay >= 0) add(r, HF_HDR_DELAY, number(r, 3, "", o->delay));
    if (o->kind != CANCEL && o->delay < 0) add(r, HF_HDR_DUE, number(r, 3, "", o->due));
    if (o->kind == KEEP || o->kind == ONCE) add(r, HF_HDR_ON_CONFLICT, conflicts[o->kind]);
    if (o->kind == MOVE) {
        add(r, HF_HDR_OP, "move");
        add(r, HF_HDR_EXPECT, number(r, 4, "", (int64_t)o->expect));
    }
    if (o->partition >= 0) add(r, HF_HDR_PARTITION, number(r, 5, "", o->partition));
}

struct op *model_op_of(struct model *m, hf_str value) {
    int64_t i;
    if (hf_str_int(value, &i) || i < 0 || (size_t)i >= m->op_count) return NULL;
    return &m->ops[i];
}

/* ---- destinations ---- */

static int by_place(const void *a, const void *b) {
    const struct op *x = *(struct op *const *)a, *y = *(struct op *const *)b;
    if (x->place_due != y->place_due) return x->place_due < y->place_due ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void model_sort(struct op **ops, size_t n) {
    qsort(ops, n, sizeof ops[0], by_place);
}

static int32_t destination(const struct op *o) {
    char key[16];
    (void)snprintf(key, sizeof key, "k%d", o->key);
    return o->partition >= 0 ? o->partition : hf_partition_of_key(hf_str_of(key), model_partitions[o->topic]);
}

size_t model_expected(struct model *m, int topic, int32_t partition, struct op **out) {
    size_t n = 0;
    for (size_t i = 0; i < m->op_accepted; i++) {
        struct op *o = m->by_seq[i];
        if (o->end == LIVE && o->topic == topic && destination(o) == partition) out[n++] = o;
    }
    model_sort(out, n);
    return n;
}

/* {NULL, 0} if it is not there exactly once. */
static hf_str header(const struct engine_record *r, const char *name) {
    hf_str found = {NULL, 0};
    for (size_t i = 0; i < r->header_count; i++) {
        if (!hf_str_is(r->headers[i].key, name)) continue;
        if (found.p) return (hf_str){NULL, 0};
        found = r->headers[i].value;
    }
    return found;
}

static int64_t header_number(const struct engine_record *r, const char *name) {
    int64_t v = -1;
    return hf_str_int(header(r, name), &v) ? -1 : v;
}

const char *model_check_moved(const struct op *o, const struct engine_record *r) {
    char identity[100];
    int64_t due = header_number(r, HF_HDR_DUE);
    (void)snprintf(identity, sizeof identity, "holdfast.delay/%d/%lld@%lld", o->source, (long long)o->offset,
                   (long long)o->at_ms);
    if (due != (o->delay >= 0 ? o->at_ms + o->delay : o->due)) return "hf-due";
    if (r->timestamp_ms < due || r->timestamp_ms < o->place_due) return "early";
    if (header_number(r, HF_HDR_CREATED_AT) != o->at_ms) return "hf-created-at";
    if (!hf_str_is(header(r, HF_HDR_MESSAGE_ID), identity)) return "hf-message-id";
    if (!hf_str_is(header(r, "x-own"), "kept")) return "own header";
    if (header(r, HF_HDR_TOPIC).p || header(r, HF_HDR_ID).p) return "control header left";
    return NULL;
}
