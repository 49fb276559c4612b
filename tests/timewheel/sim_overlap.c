#include "sim_overlap.h"

#include "base/names.h"
#include "store/engine/engine_ops.h"

#include <assert.h>

/* ---- the witness ---- */

static struct overlap *witness; /* of the one machine that runs */
static struct engine_ops real, watched;

static hf_str header_of(const struct engine_out *out, const char *name) {
    return model_header(out->headers, out->header_count, name);
}

static bool is_next(const struct engine_out *out) {
    return hf_str_is(out->topic, HF_TOPIC_DELAY) && hf_str_is(header_of(out, HF_HDR_OP), "next");
}

/* The next run's record follows the run, if that is delivered. */
static bool follows_its_run(const struct engine_out *outs, size_t i) {
    return i > 0 && hf_str_eq(outs[i - 1].topic, header_of(&outs[i], HF_HDR_TOPIC)) &&
           hf_str_eq(outs[i - 1].value, outs[i].value);
}

static void count(struct noted *n, const struct engine_commit *c) {
    for (size_t i = 0; i < c->out_count; i++) {
        const struct engine_out *out = &c->outs[i];
        if (is_next(out))
            n->left_out += !follows_its_run(c->outs, i);
        else if (hf_str_is(out->topic, HF_TOPIC_DELAY))
            n->held++;
        else if (hf_str_is(out->topic, HF_TOPIC_REJECTED))
            n->rejected++;
        else
            n->fired++;
    }
}

static void note_decisions(struct overlap *o, const struct engine_commit *c) {
    for (size_t i = 0; i < c->out_count; i++) {
        if (!is_next(&c->outs[i])) continue;
        int64_t expect = model_header_number(c->outs[i].headers, c->outs[i].header_count, HF_HDR_EXPECT);
        struct op *run = model_of_sequence(o->model, (uint64_t)expect);
        if (!run || !run->group) continue;
        run->decided = true;
        run->committed = engine_committed(o->engine, hf_str_of(model_groups[run->group - 1]),
                                          hf_str_of(model_topics[run->topic]), run->destination);
    }
}

static void on_done(void *arg, enum hf_err e) {
    struct noted *n = arg;
    n->busy = false;
    if (!e) {
        n->o->fired += n->fired;
        n->o->rejected += n->rejected;
        n->o->held += n->held;
        n->o->left_out += n->left_out;
        n->o->all_left_out += n->left_out;
        n->o->drops += n->drops;
    }
    n->done(n->arg, e);
}

static enum hf_err watched_commit(struct engine *e, const struct engine_commit *c, engine_done *done,
                                  void *arg) {
    struct noted *n = witness->noted;
    while (n < witness->noted + OVERLAP_COMMITS_MAX && n->busy) n++;
    assert(n < witness->noted + OVERLAP_COMMITS_MAX);
    *n = (struct noted){.o = witness, .done = done, .arg = arg, .drops = c->runs_dropped_count > 0};
    count(n, c);
    enum hf_err error = real.commit(e, c, on_done, n);
    if (error) return error;
    n->busy = true;
    note_decisions(witness, c);
    return HF_OK;
}

/* ---- the groups ---- */

static void on_offset(void *arg, enum hf_err e) {
    struct overlap *o = arg;
    o->under_way--;
    o->offsets += !e;
}

/* As the coordinator does; -1: an operator takes the offset away. */
static enum hf_err commit_offset(struct overlap *o, int group, int topic, int32_t partition, int64_t offset,
                                 int64_t now_ms) {
    struct hf_buf key;
    uint8_t value[8];
    hf_put_be64(value, (uint64_t)offset);
    hf_buf_init(&key, 1024);
    engine_offset_key(&key, hf_str_of(model_groups[group]), hf_str_of(model_topics[topic]), partition);
    hf_str v = offset < 0 ? (hf_str){NULL, 0} : hf_str_make(value, sizeof value);
    struct engine_put put = {hf_buf_view(&key), v};
    struct engine_commit c = {.now_ms = now_ms, .puts = &put, .put_count = 1};
    enum hf_err e = engine_commit(o->engine, &c, on_offset, o);
    hf_buf_fini(&key);
    if (!e) o->under_way++;
    return e;
}

/* Up to the end, a little behind it, anywhere; or what was committed is taken away. */
static int64_t some_offset(struct model *m, int64_t end) {
    uint64_t way = model_random(&m->random) % 10, any = model_random(&m->random);
    if (way < 5) return end;
    int64_t behind = (int64_t)(any % (way < 8 ? 4 : (uint64_t)end + 1));
    return way == 9 ? -1 : end > behind ? end - behind : 0;
}

enum hf_err overlap_step(struct overlap *o, int64_t now_ms) {
    enum { AT_ONCE_MAX = 4 };
    struct model *m = o->model;
    if (!m->recurs || o->under_way == AT_ONCE_MAX) return HF_OK;
    int group = (int)(model_random(&m->random) % GROUPS), topic = (int)(model_random(&m->random) % TOPICS);
    int32_t partition = (int32_t)(model_random(&m->random) % (uint64_t)model_partitions[topic]);
    int64_t start, end;
    if (!model_chance(m, o->often[group])) return HF_OK;
    if (engine_bounds(o->engine, hf_str_of(model_topics[topic]), partition, &start, &end)) return HF_OK;
    enum hf_err e = commit_offset(o, group, topic, partition, some_offset(m, end), now_ms);
    return e == HF_EAGAIN ? HF_OK : e;
}

enum hf_err overlap_catch_up(struct overlap *o, int64_t now_ms) {
    enum hf_err e = HF_OK;
    for (int topic = 0; topic < TOPICS; topic++) {
        for (int32_t partition = 0; partition < model_partitions[topic]; partition++) {
            int64_t start, end;
            if (engine_bounds(o->engine, hf_str_of(model_topics[topic]), partition, &start, &end)) continue;
            for (int group = 0; group < GROUPS && !e; group++)
                e = commit_offset(o, group, topic, partition, end, now_ms);
        }
    }
    return e;
}

/* ---- lives ---- */

void overlap_draw(struct overlap *o, struct model *m) {
    static const unsigned often[] = {0, 2, 6, 20};
    o->model = m;
    for (int i = 0; m->recurs && i < GROUPS; i++) o->often[i] = often[model_random(&m->random) % 4];
}

void overlap_begin(struct overlap *o, struct engine *e) {
    witness = o;
    o->engine = e;
    real = watched = *e->ops;
    watched.commit = watched_commit;
    e->ops = &watched;
}

/* What is under way is never heard of again. */
void overlap_end(struct overlap *o) {
    memset(o->noted, 0, sizeof o->noted);
    o->under_way = 0;
    o->fired = o->rejected = o->held = o->left_out = 0;
    o->engine = NULL;
}

const char *overlap_check(const struct overlap *o, const struct schedule_stats *stats) {
    if (stats->skipped != o->left_out) return "other runs were left out than were counted";
    if (stats->fired != o->fired) return "others were delivered than were counted";
    return stats->held != o->held || stats->rejected != o->rejected
               ? "others were held or rejected than were counted"
               : NULL;
}
