/* Topics that come, grow, change their settings, lose their oldest records, and go. */
#include "work.h"

#include <stdio.h>

/* ---- topics ---- */

static void created(void *arg, enum hf_err e) {
    struct attempt *a = arg;
    struct model_topic *t = &a->run->model->topics[a->topic];
    run_note(a->run, "topic %s created: %s", t->name, hf_err_name(e));
    if (e) return; /* the log failed: the next start tells */
    struct log_topic_info info;
    t->phase = TOPIC_LIVE;
    if (log_topic(a->run->log, work_topic_name(a->run, a->topic), &info)) {
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
    struct attempt *a = work_attempt(r);
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
    enum hf_err e = log_topic_create(r->log, work_topic_name(r, topic), &config, created, a);
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
    struct attempt *a = work_attempt(r);
    if (t->phase != TOPIC_LIVE || t->internal || !a) return;
    a->topic = topic;
    char key[8];
    snprintf(key, sizeof key, "g/%d", topic);
    hf_str drop = hf_str_of(key);
    t->phase = TOPIC_DELETING;
    enum hf_err e = log_topic_delete(r->log, work_topic_name(r, topic), &drop, 1, deleted, a);
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
    if (log_topic(a->run->log, work_topic_name(a->run, a->topic), &info) || info.partitions != t->partitions)
        model_broken(a->run->model, "M16", "topic %s has grown to %d, and has not", t->name, t->partitions);
}

static void grow_topic(struct run *r, int topic, struct run_totals *totals) {
    struct model_topic *t = &r->model->topics[topic];
    struct attempt *a = work_attempt(r);
    if (t->phase != TOPIC_LIVE || t->grow_asked || t->internal || t->partitions == PARTITIONS || !a) return;
    a->topic = topic;
    a->number = t->grow_asked = t->partitions + 1;
    enum hf_err e = log_topic_grow(r->log, work_topic_name(r, topic), t->grow_asked, grown, a);
    run_note(r, "grow %s to %d: %s", t->name, t->partitions + 1, hf_err_name(e));
    totals->grown += !e;
    if (e && !hf_sim_dead(r->sim)) t->grow_asked = 0;
}

void work_change_topics(struct run *r, struct run_totals *totals) {
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
    if (log_topic(a->run->log, work_topic_name(a->run, a->topic), &info) == HF_OK &&
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

void work_alter_topic(struct run *r, struct run_totals *totals) {
    int topic = (int)run_below(r, TOPICS);
    struct model_topic *t = &r->model->topics[topic];
    if (t->phase != TOPIC_LIVE || t->internal) return;
    struct attempt *a = work_attempt(r);
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
    enum hf_err e = log_topic_alter(r->log, work_topic_name(r, topic), &s, altered, a);
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

void work_delete_records(struct run *r, struct run_totals *totals) {
    int topic, partition;
    struct log_bounds b;
    if (!work_draw_partition(r, false, &topic, &partition) || r->model->topics[topic].internal) return;
    struct log_partition *p = log_partition(r->log, work_topic_name(r, topic), partition);
    struct attempt *a = p ? work_attempt(r) : NULL;
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
