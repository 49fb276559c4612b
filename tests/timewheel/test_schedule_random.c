/* The schedule against a naive model, on the engine in memory: random operations, faults, crashes at any
 * step.
 *
 *     test_schedule_random [--seeds N] [--seed S]
 *
 * The model knows one rule: records in order of acceptance, an operation accepted at or after the due time of
 * its victim is too late. From it follow the outcome of each operation and the order of each destination.
 * Checked: each destination holds exactly the expected messages in the expected order; none has a timestamp
 * below its hf-due; outcomes; pages and counts of what is pending. */
#include "base/names.h"
#include "store/engine/memory.h"
#include "timewheel/schedule/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { OPS_MAX = 600, IDS = 6, TOPICS = 3, DELAY_PARTITIONS = 2 };

static const char *const topics[TOPICS] = {"alpha", "beta", "gamma"};
static const int32_t topic_partitions[TOPICS] = {1, 3, 2};

static uint64_t first_seed = 1, seeds = 150, running;

static uint64_t rnd(uint64_t *s) {
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static bool chance(uint64_t *s, unsigned percent) {
    return rnd(s) % 100 < percent;
}

/* ---- the model ---- */

enum kind { PLAIN, KEEP, ONCE, CANCEL, MOVE };
enum end { LIVE, DEAD, NONE };

struct op {
    enum kind kind;
    int topic, id; /* id -1: none */
    int64_t due, delay;
    uint64_t expect;
    int key;
    int32_t partition; /* asked for */
    /* once accepted */
    bool accepted, lost; /* lost: the server died before it was safe */
    int32_t source;
    int64_t offset, at_ms;
    uint64_t seq;
    int64_t place_due;
    enum end end;
    int64_t cancelled_ms; /* DEAD by cancel: when; replaced: -1 */
    enum schedule_outcome outcome;
    bool outcome_stored;
};

struct world {
    uint64_t s; /* random */
    struct memory_engine *m;
    struct schedule *schedule;
    int64_t wall, mono;
    struct schedule_options options;
    struct op ops[OPS_MAX];
    size_t op_count, op_accepted;
    struct op *by_seq[OPS_MAX + 1];
    size_t next; /* the first op that the model does not know */
    unsigned crashes;
};

static struct op *last_of(struct world *w, const struct op *o) {
    struct op *found = NULL;
    for (size_t i = 0; i < w->op_accepted; i++) {
        struct op *p = w->by_seq[i];
        bool schedules = p->end != NONE;
        if (schedules && p->topic == o->topic && p->id == o->id) found = p;
    }
    return found;
}

static void decide(struct world *w, struct op *o) {
    o->end = o->kind == CANCEL ? NONE : LIVE;
    o->outcome = SCHEDULE_SCHEDULED;
    int64_t asked = o->delay >= 0 ? o->at_ms + o->delay : o->due;
    o->place_due = asked > o->at_ms ? asked : o->at_ms;
    if (o->id < 0) return;
    struct op *last = last_of(w, o);
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

/* ---- records ---- */

static void note(void *arg, const struct engine_record *r) {
    struct world *w = arg;
    size_t i = (size_t)strtoul(r->value.p, NULL, 10);
    struct op *o = &w->ops[i];
    if (o->accepted) return;
    o->accepted = true;
    o->offset = r->offset;
    o->seq = r->sequence;
    o->at_ms = r->timestamp_ms;
}

/* Records were appended in the order of their sequences; one is known to the model when all before it are. */
static void look_for_accepted(struct world *w) {
    for (int32_t p = 0; p < DELAY_PARTITIONS; p++)
        memory_engine_each(w->m, HF_STR(HF_TOPIC_DELAY), p, note, w);
    for (; w->next < w->op_count; w->next++) {
        struct op *o = &w->ops[w->next];
        if (o->lost) continue;
        if (!o->accepted) break;
        decide(w, o);
        w->by_seq[w->op_accepted++] = o;
    }
}

static void append(struct world *w, struct op *o) {
    char value[32], id[16], due[32], expect[32], key[16], partition[16];
    struct hf_header h[10];
    size_t n = 0;
#define ADD(name, text) h[n++] = (struct hf_header){HF_STR(name), hf_str_of(text)}
    snprintf(value, sizeof value, "%zu", (size_t)(o - w->ops));
    snprintf(key, sizeof key, "k%d", o->key);
    ADD("x-own", "kept");
    ADD(HF_HDR_TOPIC, topics[o->topic]);
    if (o->id >= 0) {
        snprintf(id, sizeof id, "id-%d", o->id);
        ADD(HF_HDR_ID, id);
    }
    if (o->kind != CANCEL) {
        snprintf(due, sizeof due, "%lld", (long long)(o->delay >= 0 ? o->delay : o->due));
        if (o->delay >= 0)
            ADD(HF_HDR_DELAY, due);
        else
            ADD(HF_HDR_DUE, due);
    }
    if (o->kind == CANCEL) ADD(HF_HDR_OP, "cancel");
    if (o->kind == KEEP) ADD(HF_HDR_ON_CONFLICT, "keep");
    if (o->kind == ONCE) ADD(HF_HDR_ON_CONFLICT, "once");
    if (o->kind == MOVE) {
        snprintf(expect, sizeof expect, "%llu", (unsigned long long)o->expect);
        ADD(HF_HDR_OP, "move");
        ADD(HF_HDR_EXPECT, expect);
    }
    if (o->partition >= 0) {
        snprintf(partition, sizeof partition, "%d", o->partition);
        ADD(HF_HDR_PARTITION, partition);
    }
#undef ADD
    o->source = (int32_t)(rnd(&w->s) % DELAY_PARTITIONS);
    int64_t at = memory_engine_append(w->m, HF_STR(HF_TOPIC_DELAY), o->source, w->wall, hf_str_of(key),
                                      hf_str_of(value), h, n);
    assert_true(at >= 0);
}

static int64_t random_delay(struct world *w) {
    static const int64_t scales[] = {1, 20, 300, 5000, 100000, 40000000};
    int64_t scale = scales[rnd(&w->s) % 6];
    return (int64_t)(rnd(&w->s) % (uint64_t)scale);
}

static void act(struct world *w) {
    if (w->op_count == OPS_MAX) return;
    struct op *o = &w->ops[w->op_count++];
    *o = (struct op){.topic = (int)(rnd(&w->s) % TOPICS), .id = -1, .due = -1, .delay = -1, .partition = -1};
    if (chance(&w->s, 60)) {
        static const enum kind kinds[] = {PLAIN, PLAIN, PLAIN, KEEP, ONCE, CANCEL, CANCEL, MOVE, MOVE};
        o->id = (int)(rnd(&w->s) % IDS);
        o->kind = kinds[rnd(&w->s) % (sizeof kinds / sizeof kinds[0])];
    }
    o->key = (int)(rnd(&w->s) % 5);
    if (chance(&w->s, 10)) o->partition = (int32_t)(rnd(&w->s) % (uint64_t)topic_partitions[o->topic]);
    if (chance(&w->s, 50))
        o->delay = random_delay(w);
    else
        o->due = w->wall + random_delay(w) - (chance(&w->s, 10) ? 1000 : 0);
    if (o->kind == MOVE) {
        struct op *last = last_of(w, o);
        o->expect = last ? last->seq + (chance(&w->s, 20) ? 1 : 0) : 7;
    }
    append(w, o);
}

/* ---- checks ---- */

struct reading {
    struct world *w;
    struct op **expected;
    size_t n, at;
};

static hf_str header(const struct engine_record *r, const char *name) {
    hf_str found = {NULL, 0};
    for (size_t i = 0; i < r->header_count; i++) {
        if (!hf_str_is(r->headers[i].key, name)) continue;
        assert_null(found.p); /* once */
        found = r->headers[i].value;
    }
    return found;
}

static void check_moved(void *arg, const struct engine_record *r) {
    struct reading *read = arg;
    struct op *o = &read->w->ops[strtoul(r->value.p, NULL, 10)];
    if (read->at >= read->n || read->expected[read->at] != o)
        fail_msg("offset %lld holds op %zu (seq %llu), not op %zd (seq %llu)", (long long)r->offset,
                 (size_t)(o - read->w->ops), (unsigned long long)o->seq,
                 read->at < read->n ? read->expected[read->at] - read->w->ops : -1,
                 read->at < read->n ? (unsigned long long)read->expected[read->at]->seq : 0);
    read->at++;
    int64_t due, created;
    assert_int_equal(hf_str_int(header(r, HF_HDR_DUE), &due), HF_OK);
    assert_true(due == (o->delay >= 0 ? o->at_ms + o->delay : o->due));
    assert_true(r->timestamp_ms >= due && r->timestamp_ms >= o->place_due);
    assert_int_equal(hf_str_int(header(r, HF_HDR_CREATED_AT), &created), HF_OK);
    assert_true(created == o->at_ms);
    char identity[100];
    snprintf(identity, sizeof identity, "holdfast.delay/%d/%lld@%lld", o->source, (long long)o->offset,
             (long long)o->at_ms);
    assert_true(hf_str_is(header(r, HF_HDR_MESSAGE_ID), identity));
    assert_true(hf_str_is(header(r, "x-own"), "kept"));
    assert_null(header(r, HF_HDR_TOPIC).p);
    assert_null(header(r, HF_HDR_ID).p);
}

static int by_place(const void *a, const void *b) {
    const struct op *x = *(struct op *const *)a, *y = *(struct op *const *)b;
    if (x->place_due != y->place_due) return x->place_due < y->place_due ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static int32_t destination(const struct op *o) {
    char key[16];
    snprintf(key, sizeof key, "k%d", o->key);
    return o->partition >= 0 ? o->partition : hf_partition_of_key(hf_str_of(key), topic_partitions[o->topic]);
}

/* What has been delivered is the beginning of what is expected; at the end all of it. */
static void check_destinations(struct world *w, bool all) {
    static struct op *expected[OPS_MAX];
    for (int t = 0; t < TOPICS; t++) {
        for (int32_t p = 0; p < topic_partitions[t]; p++) {
            struct reading read = {w, expected, 0, 0};
            for (size_t i = 0; i < w->op_accepted; i++) {
                struct op *o = w->by_seq[i];
                if (o->end == LIVE && o->topic == t && destination(o) == p) expected[read.n++] = o;
            }
            qsort(expected, read.n, sizeof expected[0], by_place);
            memory_engine_each(w->m, hf_str_of(topics[t]), p, check_moved, &read);
            if (all && read.at != read.n)
                fail_msg("%s/%d: %zu of %zu arrived; the first missing is op %zu due %lld", topics[t], p,
                         read.at, read.n, (size_t)(expected[read.at] - w->ops),
                         (long long)expected[read.at]->place_due);
        }
    }
}

static void check_outcomes(struct world *w) {
    for (size_t i = 0; i < w->op_accepted; i++) {
        struct op *o = w->by_seq[i];
        enum schedule_outcome got;
        enum hf_err e = schedule_outcome_of(w->schedule, o->source, o->offset, &got);
        if (e == HF_EAGAIN) continue;
        if (e == HF_ENOTFOUND) got = SCHEDULE_SCHEDULED;
        if (e && e != HF_ENOTFOUND) fail_msg("outcome: %s", hf_err_name(e));
        if (got != o->outcome)
            fail_msg("op %zu (seq %llu): %s, expected %s", (size_t)(o - w->ops), (unsigned long long)o->seq,
                     schedule_outcome_text(got), schedule_outcome_text(o->outcome));
    }
}

struct listing {
    struct world *w;
    struct op **expected;
    size_t n, at;
};

static void check_item(void *arg, const struct schedule_item *item) {
    struct listing *l = arg;
    struct op *o = &l->w->ops[strtoul(item->value.p, NULL, 10)];
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
    if (!stats.caught_up || !schedule_idle(w->schedule) || w->next < w->op_count ||
        schedule_failed(w->schedule))
        return;
    struct listing l = {w, expected, 0, 0};
    int topic = (int)(rnd(&w->s) % (TOPICS + 1));
    size_t pending = 0;
    for (size_t i = 0; i < w->op_accepted; i++) {
        struct op *o = w->by_seq[i];
        bool fired = o->place_due < stats.mark.due_ms ||
                     (o->place_due == stats.mark.due_ms && o->seq <= stats.mark.sequence);
        if (o->end != LIVE || fired) continue;
        pending++;
        if (topic == TOPICS || o->topic == topic) expected[l.n++] = o;
    }
    qsort(expected, l.n, sizeof expected[0], by_place);
    struct schedule_query q = {.limit = 1 + rnd(&w->s) % 40};
    if (topic < TOPICS) q.topic = hf_str_of(topics[topic]);
    if (stats.pending != pending)
        fail_msg("%llu pending, expected %zu", (unsigned long long)stats.pending, pending);
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
    int64_t ms = chance(&w->s, 3) ? random_delay(w) : (int64_t)(rnd(&w->s) % 30);
    w->mono += ms;
    w->wall += ms;
    if (chance(&w->s, 1)) w->wall -= (int64_t)(rnd(&w->s) % 2000); /* stepped back */
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
    for (size_t i = w->next; i < w->op_count; i++) w->ops[i].lost = !w->ops[i].accepted;
    look_for_accepted(w);
    w->crashes++;
    open_schedule(w);
}

static void faults(struct world *w, unsigned per_mille) {
    memory_engine_fail_rate(w->m, MEMORY_COMMIT, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_COMMIT_DONE, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_TOPIC, HF_EAGAIN, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_RUN_BEGIN, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_RUN_APPEND, HF_ENOSPC, per_mille);
    memory_engine_fail_rate(w->m, MEMORY_RUN_SEAL, HF_ENOSPC, per_mille);
}

/* Everything that was sent is accepted, then time passes until nothing pends. */
static void drain(struct world *w) {
    faults(w, 0);
    for (int i = 0; i < 200000; i++) {
        struct schedule_stats stats;
        step(w);
        schedule_stats(w->schedule, &stats);
        bool quiet = stats.caught_up && schedule_idle(w->schedule) && w->next == w->op_count;
        if (quiet && stats.pending == 0) return;
        int64_t ms = quiet && stats.next_due_ms < INT64_MAX ? stats.next_due_ms - w->wall : 1;
        w->wall += ms > 1 ? ms : 1;
        w->mono += ms > 1 ? ms : 1;
    }
    fail_msg("does not come to an end: %zu of %zu accepted", w->op_accepted, w->op_count);
}

static void open_world(struct world *w, uint64_t seed) {
    *w = (struct world){.s = seed, .wall = 1767225600000, .mono = 5000};
    memory_engine_open(&(struct memory_options){.seed = seed}, &w->m);
    assert_int_equal(memory_engine_topic_create(w->m, HF_STR(HF_TOPIC_DELAY), DELAY_PARTITIONS), HF_OK);
    assert_int_equal(memory_engine_topic_create(w->m, HF_STR(HF_TOPIC_REJECTED), 1), HF_OK);
    for (int t = 0; t < TOPICS; t++)
        assert_int_equal(memory_engine_topic_create(w->m, hf_str_of(topics[t]), topic_partitions[t]), HF_OK);
    w->options = (struct schedule_options){.gather_bytes = 500 + rnd(&w->s) % 100000,
                                           .replay_records = 5 + rnd(&w->s) % 300,
                                           .checkpoint_ms = 1000,
                                           .fire_records = 1 + rnd(&w->s) % 8,
                                           .fire_bytes = 400,
                                           .commits_max = 1 + rnd(&w->s) % 4,
                                           .block_bytes = 100 + rnd(&w->s) % 1000,
                                           .run_bytes = 1000 + rnd(&w->s) % 4000,
                                           .fan_in = 2 + rnd(&w->s) % 3,
                                           .slice_bytes = 200 + rnd(&w->s) % 2000,
                                           .random_seed = seed,
                                           .boot_id = 1};
    open_schedule(w);
}

static void run_seed(uint64_t seed) {
    static struct world w;
    open_world(&w, seed);
    bool faulty = chance(&w.s, 50);
    int steps = 300 + (int)(rnd(&w.s) % 700);
    unsigned busy = 10 + (unsigned)(rnd(&w.s) % 80);
    for (int i = 0; i < steps; i++) {
        if (faulty && i % 64 == 0) faults(&w, chance(&w.s, 50) ? 0 : 30);
        for (int k = 0; k < 3; k++)
            if (chance(&w.s, busy)) act(&w);
        if (chance(&w.s, 60)) pass_time(&w);
        step(&w);
        if (chance(&w.s, 1)) crash(&w);
        if (chance(&w.s, 3)) {
            look_for_accepted(&w);
            check_destinations(&w, false);
            check_outcomes(&w);
            check_listing(&w);
        }
    }
    drain(&w);
    check_destinations(&w, true);
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
