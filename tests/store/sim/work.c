/* The life of a store: appends with each acknowledgement, idempotent producers that send again, commits over
 * several partitions with state, low-water and runs, topics that come and go, readers, time. Each step does
 * one of them, chosen by the seed. */
#include "run.h"

#include <stdio.h>

enum { LAZY_TOPIC = 3, KEYED_TOPIC = 4 };

static hf_str topic_name(struct run *r, int topic) {
    return hf_str_of(r->model->topics[topic].name);
}

static struct attempt *attempt(struct run *r) {
    if (r->attempt_count == ATTEMPTS_MAX) return NULL;
    struct attempt *a = &r->attempts[r->attempt_count++];
    *a = (struct attempt){.run = r, .topic = -1};
    return a;
}

/* A topic that serves, and one of its partitions; false if the draw fell on one that does not. Where nobody
 * asks for durability, one topic is kept free of commits and producers too: their syncs would cover its
 * bytes. */
static bool draw_partition(struct run *r, bool lazy, int *topic, int *partition) {
    *topic = r->keyed && run_one_in(r, 2) ? KEYED_TOPIC : (int)run_below(r, TOPICS);
    const struct model_topic *t = &r->model->topics[*topic];
    if (t->phase != TOPIC_LIVE) return false;
    if (!lazy && r->durable_in_ten == 0 && *topic == LAZY_TOPIC) return false;
    *partition = (int)run_below(r, (uint64_t)t->partitions);
    return true;
}

static int64_t end_of(struct log_partition *p) {
    struct log_bounds b;
    log_bounds(p, &b);
    return b.end;
}

/* ---- appends ---- */

static void appended(void *arg, const struct log_appended *result) {
    struct attempt *a = arg;
    struct message *x = a->message;
    struct run *r = a->run;
    run_note(r, "message %u answered %s offset %lld%s", x->id, hf_err_name(result->e),
             (long long)result->base_offset, result->duplicate ? " duplicate" : "");
    if (result->e) {
        model_unanswered(x);
        return;
    }
    model_answered(r->model, x, result->base_offset, a->durable);
    for (size_t i = 0; a->producer && i < a->producer->recent_count; i++)
        if (a->producer->recent[i] == x) a->producer->answered[i] = true;
}

static enum hf_err send(struct run *r, struct message *x, bool durable, struct producer_sim *producer) {
    uint8_t batch[KBATCH_MAX];
    struct attempt *a = attempt(r);
    struct log_partition *p = log_partition(r->log, topic_name(r, x->topic), x->partition);
    if (!a || !p) return HF_EAGAIN;
    durable = durable || x->wants_durable;
    x->floor = end_of(p);
    a->message = x;
    a->durable = durable;
    a->producer = producer;
    size_t n = kbatch_make(x->id, x->count, &x->producer, r->model->topics[x->topic].compacted, batch);
    enum fate before = x->fate;
    x->fate = FATE_WAITING;
    enum hf_err e = log_append(r->log, p, batch, n, durable ? LOG_ACK_DURABLE : LOG_ACK_WRITTEN, appended, a);
    run_note(r, "message %u (%u records, producer %lld sequence %d) to %s-%d acks=%s: %s", x->id, x->count,
             (long long)x->producer.id, x->producer.sequence, r->model->topics[x->topic].name, x->partition,
             durable ? "all" : "1", hf_err_name(e));
    if (e) x->fate = hf_sim_dead(r->sim) ? FATE_UNKNOWN : before;
    return e;
}

static void append_plain(struct run *r, struct run_totals *totals) {
    int topic, partition;
    if (!draw_partition(r, true, &topic, &partition)) return;
    bool durable = run_below(r, 10) < r->durable_in_ten;
    struct message *x =
        model_message(r->model, topic, partition, 1 + (uint32_t)run_below(r, MODEL_MESSAGE_RECORDS), durable);
    if (!x) return;
    x->fate = FATE_REFUSED;
    if (send(r, x, durable, NULL))
        totals->refused++;
    else
        totals->messages++;
}

/* ---- idempotent producers ---- */

static void producer_renew(struct producer_sim *p) {
    *p = (struct producer_sim){.id = -1};
}

/* Asks for a number nobody had. */
static void producer_begin(struct run *r, struct producer_sim *p) {
    struct model *m = r->model;
    int topic, partition;
    int64_t id;
    if (!draw_partition(r, false, &topic, &partition) || m->id_count == sizeof m->ids / sizeof m->ids[0])
        return;
    if (log_producer_id(r->log, &id)) return;
    for (uint32_t i = 0; i < m->id_count; i++)
        if (m->ids[i] == id) model_broken(m, "M7", "producer id %lld was given out twice", (long long)id);
    m->ids[m->id_count++] = id;
    producer_renew(p);
    p->id = id;
    p->topic = topic;
    p->partition = partition;
    p->generation = m->topics[topic].generation;
    p->durable = run_one_in(r, 2);
}

/* Out of order is legal only if something answered was lost, which acks≤1 allows. */
static void producer_refused(struct run *r, struct producer_sim *p, const struct message *x, enum hf_err e) {
    if (e != HF_ERANGE && e != HF_EFENCED) return;
    bool lossy = !p->durable && !r->model->topics[p->topic].internal;
    if (!lossy)
        model_broken(r->model, "M7", "message %u of producer %lld was refused: %s", x->id, (long long)p->id,
                     hf_err_name(e));
    producer_renew(p);
}

static void producer_send_new(struct run *r, struct producer_sim *p, struct run_totals *totals) {
    if (p->recent_count == IN_FLIGHT) {
        if (!p->answered[0]) return; /* the window is full */
        memmove(p->recent, p->recent + 1, (IN_FLIGHT - 1) * sizeof(struct message *));
        memmove(p->answered, p->answered + 1, (IN_FLIGHT - 1) * sizeof p->answered[0]);
        p->recent_count--;
    }
    bool durable = p->durable || run_below(r, 15) < r->durable_in_ten;
    uint32_t count = 1 + (uint32_t)run_below(r, 3);
    struct message *x = model_message(r->model, p->topic, p->partition, count, durable);
    if (!x) return;
    x->fate = FATE_REFUSED;
    x->producer = (struct kproducer){p->id, 0, p->next_sequence};
    /* Not in the window yet, so that an answer within the call would be a fault that shows. */
    enum hf_err e = send(r, x, durable, p);
    if (e && !hf_sim_dead(r->sim)) {
        producer_refused(r, p, x, e);
        totals->refused++;
        return;
    }
    p->recent[p->recent_count] = x;
    p->answered[p->recent_count++] = false;
    p->resend = p->recent_count;
    p->next_sequence += (int32_t)count;
    totals->messages++;
}

/* Sends one of the window again: after a crash what was not answered, in order; else anything, as a client
 * does whose answer was late. The answer must name the original's place if it is there. */
static void producer_send_again(struct run *r, struct producer_sim *p, size_t which,
                                struct run_totals *totals) {
    struct message *x = p->recent[which];
    bool there = x->fate != FATE_LOST && x->fate != FATE_UNKNOWN;
    bool durable = x->wants_durable || p->durable || run_one_in(r, 3);
    enum hf_err e = send(r, x, durable, p);
    totals->resent++;
    totals->duplicates += !e && there;
    if (e && !hf_sim_dead(r->sim)) producer_refused(r, p, x, e);
    if (!e && which == p->resend) p->resend++;
}

static void append_idempotent(struct run *r, struct run_totals *totals) {
    struct producer_sim *p = &r->producers[run_below(r, PRODUCERS)];
    const struct model_topic *t = &r->model->topics[p->topic];
    if (p->id < 0 || t->generation != p->generation || t->phase == TOPIC_NONE) {
        producer_begin(r, p);
        return;
    }
    if (t->phase != TOPIC_LIVE) return;
    while (p->resend < p->recent_count && p->answered[p->resend]) p->resend++;
    if (p->resend < p->recent_count) {
        producer_send_again(r, p, p->resend, totals);
        return;
    }
    size_t any = run_below(r, IN_FLIGHT);
    bool again = any < p->recent_count && p->answered[any] && p->recent[any]->fate != FATE_LOST;
    if (again && run_one_in(r, 3))
        producer_send_again(r, p, any, totals);
    else
        producer_send_new(r, p, totals);
}

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
        if (!draw_partition(r, false, &topic, &partition)) continue;
        struct message *x = model_message(r->model, topic, partition, 1, true);
        if (!x) break;
        x->commit = number;
        if (x->time_ms >= 0) x->time_ms = out->now_ms;
        x->fate = FATE_REFUSED;
        struct log_partition *p = log_partition(r->log, topic_name(r, topic), partition);
        if (p) x->floor = end_of(p);
        size_t k = c->count++;
        size_t size = kvalue(x->id, 0, made->values[k]);
        made->out_keys[k] = kkey(x->id, 0);
        made->outs[k] = (struct engine_out){.topic = topic_name(r, topic),
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
    if (engine_bounds(r->engine, topic_name(r, topic), partition, &start, &stable) || stable <= start) return;
    c->low_topic = topic;
    c->low_partition = partition;
    c->low = start + (int64_t)run_below(r, (uint64_t)(stable - start) < 40 ? (uint64_t)(stable - start) : 40);
    if (t->asked[partition] < c->low) t->asked[partition] = c->low;
    made->low = (struct engine_low_water){topic_name(r, topic), partition, c->low};
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

static void commit(struct run *r, struct run_totals *totals) {
    static struct commit_made made;
    struct engine_commit out = {.now_ms = env_wall_ms(r->env)};
    struct attempt *a = attempt(r);
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

static void write_run(struct run *r) {
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

/* ---- topics ---- */

static void created(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_topic *t = &a->run->model->topics[a->topic];
    run_note(a->run, "topic %s created: %s", t->name, hf_err_name(e));
    if (e) return; /* the log failed: the next start tells */
    struct log_topic_info info;
    t->phase = TOPIC_LIVE;
    if (log_topic(a->run->log, topic_name(a->run, a->topic), &info)) {
        model_broken(a->run->model, "M10", "topic %s was created and is not there", t->name);
        return;
    }
    if (t->uuid_known && memcmp(info.id.b, t->uuid, 16) == 0)
        model_broken(a->run->model, "M10", "topic %s has the id of the one before", t->name);
    memcpy(t->uuid, info.id.b, 16);
    t->uuid_known = true;
}

static void create_topic(struct run *r, int topic, struct run_totals *totals) {
    struct model_topic *t = &r->model->topics[topic];
    struct attempt *a = attempt(r);
    if (t->phase != TOPIC_NONE || !a) return;
    a->topic = topic;
    struct log_topic_config config = {.partitions = t->first_partitions, .internal = t->internal};
    if (t->append_time) log_settings_put(&config.settings, LOG_TIMESTAMP_TYPE, 1);
    if (t->compacted) log_settings_put(&config.settings, LOG_CLEANUP_POLICY, LOG_CLEANUP_COMPACT);
    if (t->compacted) log_settings_put(&config.settings, LOG_DIRTY_RATIO, 1);
    if (t->compacted) log_settings_put(&config.settings, LOG_SEGMENT_BYTES, (int64_t)1024 << run_below(r, 3));
    t->phase = TOPIC_CREATING;
    t->generation++;
    memset(t->released, 0, sizeof t->released);
    memset(t->asked, 0, sizeof t->asked);
    t->keep_ms = t->keep_bytes = INT64_MAX;
    t->altered = t->alter_asked = 0;
    t->partitions = t->first_partitions;
    t->grow_asked = 0;
    enum hf_err e = log_topic_create(r->log, topic_name(r, topic), &config, created, a);
    run_note(r, "create %s: %s", t->name, hf_err_name(e));
    if (e == HF_OK) totals->topics_created++;
    if (e && !hf_sim_dead(r->sim)) t->phase = TOPIC_NONE;
}

static void deleted(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_topic *t = &a->run->model->topics[a->topic];
    run_note(a->run, "topic %s deleted: %s", t->name, hf_err_name(e));
    if (e) return;
    t->phase = TOPIC_NONE;
    a->run->model->topic_keys[a->topic] = 0;
}

static void delete_topic(struct run *r, int topic, struct run_totals *totals) {
    struct model *m = r->model;
    struct model_topic *t = &m->topics[topic];
    for (uint32_t i = m->settled; i < m->commit_count; i++)
        if (m->commits[i].fate == FATE_WAITING && m->commits[i].topic_key == topic) return;
    struct attempt *a = attempt(r);
    if (t->phase != TOPIC_LIVE || t->internal || !a) return;
    a->topic = topic;
    char key[8];
    snprintf(key, sizeof key, "g/%d", topic);
    hf_str drop = hf_str_of(key);
    t->phase = TOPIC_DELETING;
    enum hf_err e = log_topic_delete(r->log, topic_name(r, topic), &drop, 1, deleted, a);
    run_note(r, "delete %s: %s", t->name, hf_err_name(e));
    if (e == HF_OK) totals->topics_deleted++;
    if (e && !hf_sim_dead(r->sim)) t->phase = TOPIC_LIVE;
}

static void grown(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_topic *t = &a->run->model->topics[a->topic];
    struct log_topic_info info;
    run_note(a->run, "topic %s grown to %lld: %s", t->name, (long long)a->number, hf_err_name(e));
    t->grow_asked = 0;
    if (e) return;
    t->partitions = (int)a->number;
    if (t->phase != TOPIC_LIVE) return; /* its deletion has begun */
    if (log_topic(a->run->log, topic_name(a->run, a->topic), &info) || info.partitions != t->partitions)
        model_broken(a->run->model, "M16", "topic %s has grown to %d, and has not", t->name, t->partitions);
}

static void grow_topic(struct run *r, int topic, struct run_totals *totals) {
    struct model_topic *t = &r->model->topics[topic];
    struct attempt *a = attempt(r);
    if (t->phase != TOPIC_LIVE || t->grow_asked || t->internal || t->partitions == PARTITIONS || !a) return;
    a->topic = topic;
    a->number = t->grow_asked = t->partitions + 1;
    enum hf_err e = log_topic_grow(r->log, topic_name(r, topic), t->grow_asked, grown, a);
    run_note(r, "grow %s to %d: %s", t->name, t->partitions + 1, hf_err_name(e));
    totals->grown += !e;
    if (e && !hf_sim_dead(r->sim)) t->grow_asked = 0;
}

static void change_topics(struct run *r, struct run_totals *totals) {
    int topic = (int)run_below(r, TOPICS);
    if (r->model->topics[topic].phase == TOPIC_NONE)
        create_topic(r, topic, totals);
    else if (run_one_in(r, 4))
        delete_topic(r, topic, totals);
    else
        grow_topic(r, topic, totals);
}

/* ---- settings, and what they do ---- */

/* The number of a change travels in a setting that has no effect. */
int64_t work_settings_number(const struct log_topic_info *info) {
    return log_settings_has(&info->settings, LOG_DELETE_RETENTION)
               ? info->settings.value[LOG_DELETE_RETENTION]
               : 0;
}

static void altered(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_topic *t = &a->run->model->topics[a->topic];
    struct log_topic_info info;
    run_note(a->run, "topic %s altered: %s", t->name, hf_err_name(e));
    if (e || t->phase != TOPIC_LIVE) return;
    if (log_topic(a->run->log, topic_name(a->run, a->topic), &info) == HF_OK &&
        work_settings_number(&info) < a->number)
        model_broken(a->run->model, "M15", "change %lld of %s was answered and is not in force",
                     (long long)a->number, t->name);
    if (a->number > t->altered) t->altered = a->number;
}

static void draw_settings(struct run *r, struct model_topic *t, struct log_settings *s) {
    static const int64_t bytes[] = {0, 500, 3000, 20000}, segment_ms[] = {10, 1000, 60000};
    int64_t now_ms = env_wall_ms(r->env);
    if (run_one_in(r, 3)) {
        int64_t keep_ms = run_one_in(r, 3) ? (int64_t)run_below(r, 5000)
                                           : now_ms - kbatch_time(0) - (int64_t)run_below(r, 1000);
        if (keep_ms < 0) keep_ms = 0;
        log_settings_put(s, LOG_RETENTION_MS, keep_ms);
        if (keep_ms < t->keep_ms) t->keep_ms = keep_ms;
    }
    if (run_one_in(r, 3)) {
        int64_t keep = bytes[run_below(r, 4)];
        log_settings_put(s, LOG_RETENTION_BYTES, keep);
        if (keep < t->keep_bytes) t->keep_bytes = keep;
    }
    if (run_one_in(r, 2)) log_settings_put(s, LOG_SEGMENT_MS, segment_ms[run_below(r, 3)]);
    if (run_one_in(r, 4)) log_settings_put(s, LOG_SEGMENT_BYTES, (int64_t)2048 << run_below(r, 6));
}

static void alter_topic(struct run *r, struct run_totals *totals) {
    int topic = (int)run_below(r, TOPICS);
    struct model_topic *t = &r->model->topics[topic];
    if (t->phase != TOPIC_LIVE || t->internal) return;
    struct attempt *a = attempt(r);
    if (!a) return;
    struct log_settings s = {0};
    a->topic = topic;
    a->number = t->alter_asked + 1;
    log_settings_put(&s, LOG_DELETE_RETENTION, a->number);
    draw_settings(r, t, &s);
    if (t->append_time) log_settings_put(&s, LOG_TIMESTAMP_TYPE, 1); /* the model knows one kind of time */
    if (t->compacted) {
        bool both = run_one_in(r, 8);
        log_settings_put(&s, LOG_CLEANUP_POLICY, LOG_CLEANUP_COMPACT | (both ? LOG_CLEANUP_DELETE : 0));
        log_settings_put(&s, LOG_DIRTY_RATIO, (int64_t)run_below(r, 1000000));
    }
    t->alter_asked = a->number;
    enum hf_err e = log_topic_alter(r->log, topic_name(r, topic), &s, altered, a);
    run_note(r, "alter %s, change %lld, keep %lld ms %lld bytes: %s", t->name, (long long)a->number,
             (long long)(log_settings_has(&s, LOG_RETENTION_MS) ? s.value[LOG_RETENTION_MS] : -1),
             (long long)(log_settings_has(&s, LOG_RETENTION_BYTES) ? s.value[LOG_RETENTION_BYTES] : -1),
             hf_err_name(e));
    totals->altered += !e;
}

static void start_moved(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_topic *t = &a->run->model->topics[a->topic];
    run_note(a->run, "%s-%d deleted up to %lld: %s", t->name, a->partition, (long long)a->number,
             hf_err_name(e));
    if (!e && t->released[a->partition] < a->number) t->released[a->partition] = a->number;
}

static void delete_records(struct run *r, struct run_totals *totals) {
    int topic, partition;
    struct log_bounds b;
    if (!draw_partition(r, false, &topic, &partition) || r->model->topics[topic].internal) return;
    struct log_partition *p = log_partition(r->log, topic_name(r, topic), partition);
    struct attempt *a = p ? attempt(r) : NULL;
    if (!a) return;
    struct model_topic *t = &r->model->topics[topic];
    log_bounds(p, &b);
    a->topic = topic;
    a->partition = partition;
    a->number = run_one_in(r, 4) ? b.high : b.start + (int64_t)run_below(r, (uint64_t)(b.high - b.start + 1));
    if (t->asked[partition] < a->number) t->asked[partition] = a->number;
    enum hf_err e = log_start_move(r->log, p, a->number, start_moved, a);
    run_note(r, "delete %s-%d up to %lld: %s", t->name, partition, (long long)a->number, hf_err_name(e));
    totals->starts_moved += !e;
}

/* ---- readers ---- */

static void shown(struct run *r, int topic, int partition, const struct krecord *k) {
    model_shown(r->model, topic, partition, k, false);
}

static void read_somewhere(struct run *r, struct run_totals *totals) {
    int topic, partition;
    struct log_bounds b;
    if (!draw_partition(r, true, &topic, &partition)) return;
    struct log_partition *p = log_partition(r->log, topic_name(r, topic), partition);
    if (!p) {
        model_broken(r->model, "M10", "topic %s has no partition %d", r->model->topics[topic].name,
                     partition);
        return;
    }
    totals->reads++;
    log_bounds(p, &b);
    if (r->model->topics[topic].internal && run_one_in(r, 2)) {
        sweep_cursor(r, topic, partition, b.start, 20);
        return;
    }
    if (b.high == b.start) return;
    int64_t back = 1 + (int64_t)run_below(r, 60);
    int64_t at = b.high - back > b.start ? b.high - back : b.start;
    struct pinned *pin = &r->pins[run_below(r, PINS)];
    bool keep = run_one_in(r, 4) && !pin->slice.pin;
    enum hf_err e = sweep_slice(r, topic, partition, at, run_below(r, 6000), shown, &at, keep ? pin : NULL);
    if (e && e != HF_EEND && !hf_sim_dead(r->sim) && !run_struck(r))
        model_broken(r->model, "M1", "reading %s-%d below its high watermark: %s",
                     r->model->topics[topic].name, partition, hf_err_name(e));
}

static void release_pin(struct run *r) {
    sweep_unpin(r, &r->pins[run_below(r, PINS)]);
}

/* ---- time and the disk ---- */

static void note_wall(struct run *r) {
    int64_t now_ms = env_wall_ms(r->env);
    if (now_ms > r->model->wall_max_ms) r->model->wall_max_ms = now_ms;
}

static void pass_time(struct run *r) {
    int64_t next = hf_sim_next_us(r->sim);
    if (run_one_in(r, 60))
        hf_sim_advance(r->sim, (int64_t)run_below(r, 40000000));
    else if (next >= 0 && run_one_in(r, 2))
        hf_sim_advance(r->sim, next);
    else
        hf_sim_advance(r->sim, (int64_t)run_below(r, 2000));
    if (run_one_in(r, 100))
        hf_sim_set_wall(r->sim, env_wall_ms(r->env) + (int64_t)run_below(r, 20000) - 10000);
    note_wall(r);
    env_poll(r->env);
    if (run_one_in(r, 4)) return; /* completions and step need not come together */
    (void)log_step(r->log);
}

/* Compaction takes many steps. */
static void pass_much_time(struct run *r) {
    for (uint64_t n = run_below(r, 60); n > 0 && !hf_sim_dead(r->sim) && !log_failed(r->log); n--)
        pass_time(r);
}

static void fill_or_free_disk(struct run *r) {
    uint64_t left;
    if (r->full) {
        hf_sim_set_capacity(r->sim, 1 << 30);
        r->full = false;
    } else if (run_one_in(r, 6) && env_space(r->env, &left) == HF_OK) {
        hf_sim_set_capacity(r->sim, (1 << 30) - left + run_below(r, 100000));
        r->full = true;
    }
}

/* ---- one step ---- */

void work_start(struct run *r) {
    static const struct model_topic topics[TOPICS] = {
        {.name = "plain", .first_partitions = 2},
        {.name = "timed.topic", .first_partitions = 1, .append_time = true},
        {.name = "holdfast.moves", .first_partitions = 2, .internal = true},
        {.name = "other", .first_partitions = 1},
        {.name = "keyed", .first_partitions = 1, .compacted = true},
    };
    static const uint64_t durable_in_ten[] = {0, 1, 5, 9};
    memcpy(r->model->topics, topics, sizeof topics);
    for (int i = 0; i < TOPICS; i++) r->model->topics[i].keep_ms = r->model->topics[i].keep_bytes = INT64_MAX;
    r->durable_in_ten = durable_in_ten[run_below(r, 4)];
    for (size_t i = 0; i < PRODUCERS; i++) producer_renew(&r->producers[i]);
}

void work_resume(struct run *r) {
    r->attempt_count = 0;
    for (size_t i = 0; i < PRODUCERS; i++) r->producers[i].resend = 0;
    /* An id before anything else has happened: its block must be durable by then. */
    if (run_one_in(r, 2)) producer_begin(r, &r->producers[run_below(r, PRODUCERS)]);
}

void work_step(struct run *r, struct run_totals *totals) {
    uint64_t what = run_below(r, 100);
    if (what < 22)
        append_plain(r, totals);
    else if (what < 36)
        append_idempotent(r, totals);
    else if (what < 46)
        commit(r, totals);
    else if (what < 54)
        read_somewhere(r, totals);
    else if (what < 57)
        change_topics(r, totals);
    else if (what < 59)
        write_run(r);
    else if (what < 61)
        release_pin(r);
    else if (what < 62)
        fill_or_free_disk(r);
    else if (what < 64)
        alter_topic(r, totals);
    else if (what < 66)
        delete_records(r, totals);
    else if (r->keyed && what < 69)
        pass_much_time(r);
    else
        pass_time(r);
    r->operations += what < 66;
    note_wall(r);
}

void work_stop(struct run *r) {
    for (size_t i = 0; i < PINS; i++) {
        if (r->pins[i].slice.pin) log_pin_release(r->pins[i].slice.pin);
        r->pins[i] = (struct pinned){0};
    }
}
