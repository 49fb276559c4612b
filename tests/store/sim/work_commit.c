/* Commits over several partitions, with puts of state, low-water, and runs that are named and dropped; and the runs
 * that are written for them. */
#include "work.h"

#include <stdio.h>

/* ---- commits ---- */

struct commit_made {
    struct engine_out outs[4];
    struct engine_put puts[STATE_KEYS + 1];
    struct engine_low_water low;
    uint64_t added, dropped;
    uint8_t values[4][KVALUE_MAX], value[256];
    char keys[STATE_KEYS + 1][8], out_keys[4];
};

static void committed(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_commit *c = a->commit;
    run_note(a->run, "commit %d answered %s", (int)(c - a->run->model->commits), hf_err_name(e));
    if (e)
        model_uncommitted(a->run->model, c, false);
    else
        model_committed(a->run->model, c);
}

static void commit_outs(struct run *r, struct model_commit *c, struct commit_made *made,
                        struct engine_commit *out) {
    int32_t number = (int32_t)(c - r->model->commits);
    c->first = r->model->message_count;
    for (uint64_t n = run_below(r, 5); n > 0; n--) {
        int topic, partition;
        if (!work_draw_partition(r, false, &topic, &partition)) continue;
        struct message *x = model_message(r->model, topic, partition, 1, true);
        if (!x) break;
        x->commit = number;
        if (x->time_ms >= 0) x->time_ms = out->now_ms;
        x->fate = FATE_REFUSED;
        struct log_partition *p = log_partition(r->log, work_topic_name(r, topic), partition);
        if (p) x->floor = work_end_of(p);
        size_t k = c->count++;
        size_t size = kvalue(x->id, 0, made->values[k]);
        made->out_keys[k] = kkey(x->id, 0);
        made->outs[k] = (struct engine_out){.topic = work_topic_name(r, topic),
                                            .partition = partition,
                                            .key = hf_str_make(&made->out_keys[k], 1),
                                            .value = hf_str_make(made->values[k], size)};
    }
    out->outs = made->outs;
    out->out_count = c->count;
}

static void commit_puts(struct run *r, struct model_commit *c, struct commit_made *made,
                        struct engine_commit *out) {
    uint32_t number = (uint32_t)(c - r->model->commits) + 1;
    hf_put_be32(made->value, number);
    memset(made->value + 4, (int)number, sizeof made->value - 4);
    hf_str value = hf_str_make(made->value, 4 + number % 200);
    for (int k = 0; k < STATE_KEYS; k++) {
        if (!run_one_in(r, 4)) continue;
        bool drop = run_one_in(r, 5);
        c->puts[k] = drop ? -1 : 1;
        snprintf(made->keys[k], sizeof made->keys[k], "s/%d", k);
        made->puts[out->put_count++] =
            (struct engine_put){hf_str_of(made->keys[k]), drop ? (hf_str){NULL, 0} : value};
    }
    int topic = (int)run_below(r, TOPICS);
    if (r->model->topics[topic].phase == TOPIC_LIVE && run_one_in(r, 4)) {
        c->topic_key = topic;
        c->topic_generation = r->model->topics[topic].generation;
        snprintf(made->keys[STATE_KEYS], sizeof made->keys[STATE_KEYS], "g/%d", topic);
        made->puts[out->put_count++] = (struct engine_put){hf_str_of(made->keys[STATE_KEYS]), value};
    }
    out->puts = made->puts;
}

static void commit_low_water(struct run *r, struct model_commit *c, struct commit_made *made,
                             struct engine_commit *out) {
    int topic = 2, partition = (int)run_below(r, 2);
    struct model_topic *t = &r->model->topics[topic];
    int64_t start, stable;
    if (!run_one_in(r, 8) || t->phase != TOPIC_LIVE) return;
    if (engine_bounds(r->engine, work_topic_name(r, topic), partition, &start, &stable) || stable <= start)
        return;
    c->low_topic = topic;
    c->low_partition = partition;
    c->low = start + (int64_t)run_below(r, (uint64_t)(stable - start) < 40 ? (uint64_t)(stable - start) : 40);
    if (t->asked[partition] < c->low) t->asked[partition] = c->low;
    made->low = (struct engine_low_water){work_topic_name(r, topic), partition, c->low};
    out->low_waters = &made->low;
    out->low_water_count = 1;
}

static void commit_runs(struct run *r, struct model_commit *c, struct commit_made *made,
                        struct engine_commit *out) {
    struct model *m = r->model;
    for (int i = 0; i < (int)m->run_count; i++) {
        struct commit_run *x = &m->runs[i];
        if (x->phase == RUN_SEALED && c->run_added < 0 && run_one_in(r, 2)) {
            c->run_added = i;
            made->added = x->id;
            out->runs_added = &made->added;
            out->runs_added_count = 1;
        } else if (x->phase == RUN_NAMED && c->run_dropped < 0 && run_one_in(r, 6)) {
            c->run_dropped = i;
            made->dropped = x->id;
            out->runs_dropped = &made->dropped;
            out->runs_dropped_count = 1;
        }
    }
}

static void commit_refused(struct run *r, struct model_commit *c) {
    bool dead = hf_sim_dead(r->sim);
    for (uint32_t i = 0; i < c->count; i++)
        r->model->messages[c->first + i].fate = dead ? FATE_UNKNOWN : FATE_REFUSED;
    model_uncommitted(r->model, c, !dead);
}

void work_commit(struct run *r, struct run_totals *totals) {
    static struct commit_made made;
    struct engine_commit out = {.now_ms = env_wall_ms(r->env)};
    struct attempt *a = work_attempt(r);
    struct model_commit *c = a ? model_commit(r->model) : NULL;
    if (!c) return;
    a->commit = c;
    commit_outs(r, c, &made, &out);
    commit_puts(r, c, &made, &out);
    commit_low_water(r, c, &made, &out);
    commit_runs(r, c, &made, &out);
    if (c->run_added >= 0) r->model->runs[c->run_added].phase = RUN_NAMING;
    if (c->run_dropped >= 0) r->model->runs[c->run_dropped].phase = RUN_DROPPING;
    for (uint32_t i = 0; i < c->count; i++) r->model->messages[c->first + i].fate = FATE_WAITING;
    c->empty = out.out_count + out.put_count + out.runs_added_count + out.runs_dropped_count == 0;
    enum hf_err e = engine_commit(r->engine, &out, committed, a);
    run_note(r, "commit %d: %zu records, %zu puts, low %lld, run +%lld -%lld: %s",
             (int)(c - r->model->commits), out.out_count, out.put_count, (long long)c->low,
             c->run_added < 0 ? -1 : (long long)made.added, c->run_dropped < 0 ? -1 : (long long)made.dropped,
             hf_err_name(e));
    if (e)
        commit_refused(r, c);
    else
        totals->commits++;
}

/* ---- runs ---- */

static void sealed(void *arg, enum hf_err e) {
    struct commit_run *x = arg;
    x->phase = e ? RUN_GONE : RUN_SEALED;
}

void work_write_run(struct run *r) {
    struct model *m = r->model;
    struct engine_run_writer *w;
    if (m->run_count == RUNS_MAX) return;
    struct commit_run *x = &m->runs[m->run_count];
    *x = (struct commit_run){.bucket = run_below(r, 3), .seed = (uint32_t)run_below(r, 1 << 30)};
    if (engine_run_begin(r->engine, x->bucket, &w)) return;
    enum hf_err e = HF_OK;
    for (uint64_t chunks = run_below(r, 4); chunks > 0 && !e; chunks--) {
        uint8_t bytes[3000];
        size_t n = 1 + run_below(r, sizeof bytes);
        sweep_run_bytes(x->seed, x->bytes, bytes, n);
        e = engine_run_append(w, bytes, n);
        x->bytes += (uint32_t)n;
    }
    if (e || run_one_in(r, 6)) {
        engine_run_abort(w);
        return;
    }
    m->run_count++;
    x->phase = RUN_SEALING;
    engine_run_seal(w, &x->id, sealed, x);
}
