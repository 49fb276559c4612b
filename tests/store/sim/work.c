/* The life of a store, one step after the other, chosen by the seed: what is done to it (work_append.c,
 * work_commit.c, work_topics.c), readers, time, a disk that fills. */
#include "work.h"

enum { LAZY_TOPIC = 3, KEYED_TOPIC = 4 };

hf_str work_topic_name(struct run *r, int topic) {
    return hf_str_of(r->model->topics[topic].name);
}

struct attempt *work_attempt(struct run *r) {
    if (r->attempt_count == ATTEMPTS_MAX) return NULL;
    struct attempt *a = &r->attempts[r->attempt_count++];
    *a = (struct attempt){.run = r, .topic = -1};
    return a;
}

/* A topic that serves, and one of its partitions; false if the draw fell on one that does not. Where nobody
 * asks for durability, one topic is kept free of commits and producers too: their syncs would cover its
 * bytes. */
bool work_draw_partition(struct run *r, bool lazy, int *topic, int *partition) {
    *topic = r->keyed && run_one_in(r, 2) ? KEYED_TOPIC : (int)run_below(r, TOPICS);
    const struct model_topic *t = &r->model->topics[*topic];
    if (t->phase != TOPIC_LIVE) return false;
    if (!lazy && r->durable_in_ten == 0 && *topic == LAZY_TOPIC) return false;
    *partition = (int)run_below(r, (uint64_t)t->partitions);
    return true;
}

int64_t work_end_of(struct log_partition *p) {
    struct log_bounds b;
    log_bounds(p, &b);
    return b.end;
}

/* ---- readers ---- */

static void shown(struct run *r, int topic, int partition, const struct krecord *k) {
    model_shown(r->model, topic, partition, k, false);
}

static void read_somewhere(struct run *r, struct run_totals *totals) {
    int topic, partition;
    struct log_bounds b;
    if (!work_draw_partition(r, true, &topic, &partition)) return;
    struct log_partition *p = log_partition(r->log, work_topic_name(r, topic), partition);
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
    for (size_t i = 0; i < PRODUCERS; i++) work_producer_renew(&r->producers[i]);
}

void work_resume(struct run *r) {
    r->attempt_count = 0;
    for (size_t i = 0; i < PRODUCERS; i++) r->producers[i].resend = 0;
    /* An id before anything else has happened: its block must be durable by then. */
    if (run_one_in(r, 2)) work_producer_begin(r, &r->producers[run_below(r, PRODUCERS)]);
}

void work_step(struct run *r, struct run_totals *totals) {
    uint64_t what = run_below(r, 100);
    if (what < 22)
        work_append_plain(r, totals);
    else if (what < 36)
        work_append_idempotent(r, totals);
    else if (what < 46)
        work_commit(r, totals);
    else if (what < 54)
        read_somewhere(r, totals);
    else if (what < 57)
        work_change_topics(r, totals);
    else if (what < 59)
        work_write_run(r);
    else if (what < 61)
        release_pin(r);
    else if (what < 62)
        fill_or_free_disk(r);
    else if (what < 64)
        work_alter_topic(r, totals);
    else if (what < 66)
        work_delete_records(r, totals);
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
