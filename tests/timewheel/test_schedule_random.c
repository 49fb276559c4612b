/* The schedule against a naive model, on the engine in memory: random operations, faults, crashes at any
 * step.
 *
 *     test_schedule_random [--seeds N] [--seed S]
 *
 * The model knows one rule: records in order of acceptance, an operation accepted at or after the due time of
 * its victim is too late. From it follow the outcome of each operation and the order of each destination.
 * Checked: each destination holds exactly the expected messages in the expected order; none has a timestamp
 * below its hf-due; outcomes; pages and counts of what is pending. */
#include "schedule_model.h"

#include "base/names.h"
#include "store/engine/memory.h"
#include "timewheel/schedule/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DELAY_PARTITIONS = 2 };

static uint64_t first_seed = 1, seeds = 150, running;

struct world {
    struct model model;
    struct memory_engine *m;
    struct schedule *schedule;
    int64_t wall, mono;
    struct schedule_options options;
    int32_t looking_at;
    size_t next; /* the first op that the model does not know */
    unsigned crashes;
};

static uint64_t rnd(struct world *w) {
    return model_random(&w->model.random);
}
static bool chance(struct world *w, unsigned percent) {
    return model_chance(&w->model, percent);
}

/* ---- records ---- */

static void note(void *arg, const struct engine_record *r) {
    struct world *w = arg;
    struct op *o = model_op_of(&w->model, r->value);
    if (o->accepted) return;
    o->accepted = true;
    o->source = w->looking_at;
    o->offset = r->offset;
    o->seq = r->sequence;
    o->at_ms = r->timestamp_ms;
}

/* Records were appended in the order of their sequences; one is known to the model when all before it are. */
static void look_for_accepted(struct world *w) {
    for (w->looking_at = 0; w->looking_at < DELAY_PARTITIONS; w->looking_at++)
        memory_engine_each(w->m, HF_STR(HF_TOPIC_DELAY), w->looking_at, note, w);
    for (; w->next < w->model.op_count; w->next++) {
        struct op *o = &w->model.ops[w->next];
        if (o->lost) continue;
        if (!o->accepted) break;
        model_accept(&w->model, o);
    }
}

static void act(struct world *w) {
    struct op *o = model_act(&w->model, w->wall);
    if (!o) return;
    struct op_record r;
    model_record(&w->model, o, &r);
    int64_t at = memory_engine_append(w->m, HF_STR(HF_TOPIC_DELAY), (int32_t)(rnd(w) % DELAY_PARTITIONS),
                                      w->wall, r.key, r.value, r.headers, r.header_count);
    assert_true(at >= 0);
}

/* ---- checks ---- */

struct reading {
    struct world *w;
    struct op **expected;
    size_t n, at;
};

static void check_moved(void *arg, const struct engine_record *r) {
    struct reading *read = arg;
    struct op *o = model_op_of(&read->w->model, r->value);
    if (read->at >= read->n || read->expected[read->at] != o)
        fail_msg("offset %lld holds seq %llu, not seq %llu", (long long)r->offset, (unsigned long long)o->seq,
                 read->at < read->n ? (unsigned long long)read->expected[read->at]->seq : 0);
    read->at++;
    const char *wrong = model_check_moved(o, r);
    if (wrong) fail_msg("offset %lld: %s", (long long)r->offset, wrong);
}

/* What has been delivered is the beginning of what is expected; at the end all of it. */
static void check_destinations(struct world *w, bool all) {
    static struct op *expected[OPS_MAX];
    for (int t = 0; t < TOPICS; t++) {
        for (int32_t p = 0; p < model_partitions[t]; p++) {
            struct reading read = {w, expected, model_expected(&w->model, t, p, expected), 0};
            memory_engine_each(w->m, hf_str_of(model_topics[t]), p, check_moved, &read);
            if (all && read.at != read.n)
                fail_msg("%s/%d: %zu of %zu arrived; the first missing is op %zu due %lld", model_topics[t],
                         p, read.at, read.n, (size_t)(expected[read.at] - w->model.ops),
                         (long long)expected[read.at]->place_due);
        }
    }
}

static void check_outcomes(struct world *w) {
    for (size_t i = 0; i < w->model.op_accepted; i++) {
        struct op *o = w->model.by_seq[i];
        enum schedule_outcome got;
        enum hf_err e = schedule_outcome_of(w->schedule, o->source, o->offset, &got);
        if (e == HF_EAGAIN) continue;
        if (e == HF_ENOTFOUND) got = SCHEDULE_SCHEDULED;
        if (e && e != HF_ENOTFOUND) fail_msg("outcome: %s", hf_err_name(e));
        if (got != o->outcome)
            fail_msg("op %zu (seq %llu): %s, expected %s", (size_t)(o - w->model.ops),
                     (unsigned long long)o->seq, schedule_outcome_text(got),
                     schedule_outcome_text(o->outcome));
    }
}

struct listing {
    struct world *w;
    struct op **expected;
    size_t n, at;
};

static void check_item(void *arg, const struct schedule_item *item) {
    struct listing *l = arg;
    struct op *o = model_op_of(&l->w->model, item->value);
    assert_true(l->at < l->n);
    assert_ptr_equal(o, l->expected[l->at]);
    assert_true(item->place.due_ms == o->place_due && item->place.sequence == o->seq);
    assert_true(item->source_offset == o->offset && item->source_partition == o->source);
    l->at++;
}

/* Only when the schedule has read everything and nothing is under way. */
static void check_listing(struct world *w) {
    static struct op *expected[OPS_MAX];
    struct schedule_stats stats;
    schedule_stats(w->schedule, &stats);
    if (!stats.caught_up || !schedule_idle(w->schedule) || w->next < w->model.op_count ||
        schedule_failed(w->schedule))
        return;
    struct listing l = {w, expected, 0, 0};
    int topic = (int)(rnd(w) % (TOPICS + 1));
    size_t pending = 0, of_topic[TOPICS] = {0};
    for (size_t i = 0; i < w->model.op_accepted; i++) {
        struct op *o = w->model.by_seq[i];
        bool fired = o->place_due < stats.mark.due_ms ||
                     (o->place_due == stats.mark.due_ms && o->seq <= stats.mark.sequence);
        if (o->end != LIVE || fired) continue;
        pending++;
        of_topic[o->topic]++;
        if (topic == TOPICS || o->topic == topic) expected[l.n++] = o;
    }
    model_sort(expected, l.n);
    struct schedule_query q = {.limit = 1 + rnd(w) % 40};
    if (topic < TOPICS) q.topic = hf_str_of(model_topics[topic]);
    if (stats.pending != pending)
        fail_msg("%llu pending, expected %zu", (unsigned long long)stats.pending, pending);
    for (int t = 0; t < TOPICS; t++) {
        struct schedule_pending p = schedule_pending(w->schedule, hf_str_of(model_topics[t]));
        assert_int_equal(p.messages, of_topic[t]);
        assert_true((p.bytes > 0) == (of_topic[t] > 0));
    }
    for (bool more = true; more;)
        assert_int_equal(schedule_list(w->schedule, &q, check_item, &l, &q.after, &more), HF_OK);
    assert_int_equal(l.at, l.n);
}

/* ---- the run ---- */

static void open_schedule(struct world *w) {
    for (int tries = 0;; tries++) {
        enum hf_err e =
            schedule_open(memory_engine_engine(w->m), &w->options, w->wall, w->mono, &w->schedule);
        if (e == HF_OK) return;
        if (tries > 100) fail_msg("schedule_open: %s", hf_err_name(e));
    }
}

static void pass_time(struct world *w) {
    int64_t ms = chance(w, 3) ? model_delay(&w->model) : (int64_t)(rnd(w) % 30);
    w->mono += ms;
    w->wall += ms;
    if (chance(w, 1)) w->wall -= (int64_t)(rnd(w) % 2000); /* stepped back */
}

static void step(struct world *w) {
    memory_engine_step(w->m);
    look_for_accepted(w);
    schedule_step(w->schedule, w->wall, w->mono);
    schedule_check(w->schedule);
    if (schedule_failed(w->schedule)) fail_msg("failed: %s", hf_err_name(schedule_failed(w->schedule)));
}

static void crash(struct world *w) {
    memory_engine_crash(w->m);
    schedule_close(w->schedule);
    look_for_accepted(w);
    for (size_t i = w->next; i < w->model.op_count; i++) w->model.ops[i].lost = !w->model.ops[i].accepted;
    look_for_accepted(w);
    w->crashes++;
    open_schedule(w);
}

static void count_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    (void)id, (void)bucket, (void)bytes;
    ++*(size_t *)arg;
}

/* Nothing is under way: what was sealed for a merge or a checkpoint that was given up is gone. */
static void restart(struct world *w) {
    size_t named = 0;
    schedule_close(w->schedule);
    engine_run_each(memory_engine_engine(w->m), count_run, &named);
    assert_int_equal(memory_engine_runs(w->m), named);
    open_schedule(w);
}

static void faults(struct world *w, unsigned per_mille) {
    memory_engine_fail_rate(w->m, MEMORY_COMMIT, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_COMMIT_DONE, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_TOPIC, HF_EAGAIN, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_RUN_BEGIN, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_RUN_APPEND, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_RUN_SEAL, HF_ENOSPC, per_mille);
    memory_engine_set_room(w->m, per_mille ? rnd(w) % 30000 : UINT64_MAX);
}

/* Everything that was sent is accepted, then time passes until nothing pends. */
static void drain(struct world *w) {
    faults(w, 0);
    for (int i = 0; i < 200000; i++) {
        struct schedule_stats stats;
        step(w);
        schedule_stats(w->schedule, &stats);
        bool quiet = stats.caught_up && schedule_idle(w->schedule) && w->next == w->model.op_count;
        if (quiet && stats.pending == 0) return;
        int64_t ms = quiet && stats.next_due_ms < INT64_MAX ? stats.next_due_ms - w->wall : 1;
        w->wall += ms > 1 ? ms : 1;
        w->mono += ms > 1 ? ms : 1;
    }
    fail_msg("does not come to an end: %zu of %zu accepted", w->model.op_accepted, w->model.op_count);
}

static void open_world(struct world *w, uint64_t seed) {
    *w = (struct world){.model.random = seed, .wall = 1767225600000, .mono = 5000};
    memory_engine_open(&(struct memory_options){.seed = seed}, &w->m);
    assert_int_equal(memory_engine_topic_create(w->m, HF_STR(HF_TOPIC_DELAY), DELAY_PARTITIONS), HF_OK);
    assert_int_equal(memory_engine_topic_create(w->m, HF_STR(HF_TOPIC_REJECTED), 1), HF_OK);
    for (int t = 0; t < TOPICS; t++)
        assert_int_equal(memory_engine_topic_create(w->m, hf_str_of(model_topics[t]), model_partitions[t]),
                         HF_OK);
    w->options = (struct schedule_options){.gather_bytes = 500 + rnd(w) % 100000,
                                           .replay_records = 5 + rnd(w) % 300,
                                           .checkpoint_ms = 1000,
                                           .read_records = 1 + rnd(w) % 30,
                                           .fire_records = 1 + rnd(w) % 8,
                                           .fire_bytes = 400,
                                           .commits_max = 1 + rnd(w) % 4,
                                           .block_bytes = 100 + rnd(w) % 1000,
                                           .run_bytes = 1000 + rnd(w) % 4000,
                                           .fan_in = 2 + rnd(w) % 3,
                                           .slice_bytes = 200 + rnd(w) % 2000,
                                           .random_seed = seed,
                                           .boot_id = 1};
    open_schedule(w);
}

static void run_seed(uint64_t seed) {
    static struct world w;
    open_world(&w, seed);
    bool faulty = chance(&w, 50);
    int steps = 300 + (int)(rnd(&w) % 700);
    unsigned busy = 10 + (unsigned)(rnd(&w) % 80);
    for (int i = 0; i < steps; i++) {
        if (faulty && i % 64 == 0) faults(&w, chance(&w, 50) ? 0 : 30);
        for (int k = 0; k < 3; k++)
            if (chance(&w, busy)) act(&w);
        if (chance(&w, 60)) pass_time(&w);
        step(&w);
        if (chance(&w, 1)) crash(&w);
        if (chance(&w, 3)) {
            look_for_accepted(&w);
            check_destinations(&w, false);
            check_outcomes(&w);
            check_listing(&w);
        }
    }
    drain(&w);
    check_destinations(&w, true);
    restart(&w);
    crash(&w);
    for (int i = 0; i < 50; i++) step(&w);
    check_destinations(&w, true); /* nothing twice */
    check_outcomes(&w);
    schedule_close(w.schedule);
    memory_engine_close(w.m);
}

static void agrees_with_the_model_through_crashes_and_faults(void **state) {
    (void)state;
    for (running = first_seed; running < first_seed + seeds; running++) run_seed(running);
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--seed")) first_seed = strtoull(argv[i + 1], NULL, 10);
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_the_model_through_crashes_and_faults)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) fprintf(stderr, "failing seed: --seed %llu --seeds 1\n", (unsigned long long)running);
    return failed;
}
