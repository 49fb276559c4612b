/* The coordinator against a naive model, on an engine where everything comes late and in any legal order.
 *
 * A seed makes producers that prepare, decide, repeat themselves, contradict themselves, vanish; groups that
 * read their checks or don't, and answer or don't; operators; faults; and crashes at any step. The model is
 * told only what was appended, in the order of appending, and knows the rules of transactions.md. In the end
 * everything that was decided must be visible exactly as decided, every outcome as the model says, and on the
 * way:
 *
 *   P1  a transaction's messages are all visible or none (after a crash, and at rest)
 *   P2  nothing is visible that is not committed, nothing twice
 *   P3  a transaction has at most one check that its group has not read
 *   P4  what is undecided is still there: every half of it is counted by the coordinator
 *   P5  checks of a transaction are numbered 1, 2, 3 … without gap or repetition
 *
 *     test_txn_model [--seeds N] [--seed S] */
#include "base/names.h"
#include "world.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS = 12, HALVES = 400, RECORDS = 4000, TOPICS = 3, GROUPS = 2, ATTEMPTS = 3 };

struct model_half {
    int id; /* transaction */
    int topic;
    bool delayed;
    bool in; /* belongs to its transaction */
    char message[24];
    char value[16];
};

struct model_txn {
    bool known;
    enum txn_state state; /* TXN_NONE, PREPARED, COMMITTED, ROLLED_BACK */
};

/* One record of holdfast.txn, or an operator's decision (partition -1). */
struct model_record {
    int32_t partition;
    int64_t offset;
    int half; /* of a prepare; -1 */
    int id;
    bool commit;
    bool lost; /* was not durable when the process died */
    enum txn_outcome outcome;
};

struct model {
    struct world w;
    uint64_t seed;
    struct model_txn txns[IDS];
    struct model_half halves[HALVES];
    int half_count;
    struct model_record records[RECORDS];
    int record_count;
    int crashes, operators, parked;
};

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (condition) break;                                                                                \
        printf("seed %llu: line %d: %s\n", (unsigned long long)m->seed, __LINE__, #condition);               \
        exit(1);                                                                                             \
    } while (0)

static const char *group_name(int id) {
    return id % GROUPS ? "odd" : "even";
}
static const char *topic_name(int topic) {
    static const char *const names[TOPICS] = {"orders", "stock", "mail"};
    return names[topic];
}
static void id_name(int id, char out[16]) {
    snprintf(out, 16, "txn-%d", id);
}

static unsigned dice(struct model *m, unsigned n) {
    return (unsigned)(world_random(&m->w) % n);
}

/* ---- the rules, naively ---- */

static enum txn_outcome apply_prepare(struct model *m, int half) {
    struct model_half *h = &m->halves[half];
    struct model_txn *t = &m->txns[h->id];
    bool again = false;
    for (int i = 0; i < half; i++)
        again |= m->halves[i].in && m->halves[i].id == h->id && h->message[0] &&
                 strcmp(m->halves[i].message, h->message) == 0;
    if (txn_state_decided(t->state)) return TXN_CONTRADICTED;
    if (again) return TXN_REPEATED;
    t->state = TXN_PREPARED;
    h->in = true;
    return TXN_APPLIED;
}

static enum txn_outcome apply_decision(struct model *m, int id, bool commit) {
    struct model_txn *t = &m->txns[id];
    enum txn_state wanted = commit ? TXN_COMMITTED : TXN_ROLLED_BACK;
    if (t->state == TXN_NONE) return TXN_UNKNOWN_ID;
    if (t->state == wanted) return TXN_REPEATED;
    if (txn_state_decided(t->state)) return TXN_CONTRADICTED;
    t->state = wanted;
    return TXN_APPLIED;
}

static enum txn_outcome apply(struct model *m, struct model_record *r) {
    r->outcome = r->half >= 0 ? apply_prepare(m, r->half) : apply_decision(m, r->id, r->commit);
    return r->outcome;
}

static enum txn_outcome note(struct model *m, struct model_record r) {
    CHECK(r.offset >= 0);
    CHECK(m->record_count < RECORDS);
    m->records[m->record_count] = r;
    return apply(m, &m->records[m->record_count++]);
}

/* After a crash: what was appended and never became readable is gone. */
struct surviving {
    struct model *m;
    int32_t partition;
};

static void survived(void *arg, const struct engine_record *r) {
    struct surviving *s = arg;
    for (int i = 0; i < s->m->record_count; i++)
        if (s->m->records[i].partition == s->partition && s->m->records[i].offset == r->offset &&
            s->m->records[i].lost)
            s->m->records[i].lost = s->m->records[i].outcome == TXN_MALFORMED;
}

static void forget_lost(struct model *m) {
    for (int i = 0; i < m->record_count; i++) {
        struct model_record *r = &m->records[i];
        int64_t start = 0, end = 0;
        if (r->partition < 0) continue;
        enum hf_err e =
            engine_bounds(memory_engine_engine(m->w.m), HF_STR(HF_TOPIC_TXN), r->partition, &start, &end);
        CHECK(e == HF_OK);
        if (r->lost)
            r->outcome = TXN_MALFORMED; /* lost in an earlier crash: its offset may be another's now */
        else
            r->lost = r->offset >= start;
    }
    for (int32_t p = 0; p < m->w.partitions; p++)
        memory_engine_each(m->w.m, HF_STR(HF_TOPIC_TXN), p, survived, &(struct surviving){m, p});
    memset(m->txns, 0, sizeof m->txns);
    for (int i = 0; i < m->half_count; i++) m->halves[i].in = false;
    for (int i = 0; i < m->record_count; i++)
        if (!m->records[i].lost) apply(m, &m->records[i]);
}

static void model_prepare(struct model *m, int id, const char *message) {
    struct model_half *h = &m->halves[m->half_count];
    *h = (struct model_half){.id = id, .topic = (int)dice(m, TOPICS), .delayed = dice(m, 4) == 0};
    snprintf(h->value, sizeof h->value, "v%d", m->half_count);
    snprintf(h->message, sizeof h->message, "%s", message ? message : "");
    if (!message && dice(m, 2)) snprintf(h->message, sizeof h->message, "m%d", m->half_count);
    char name[16];
    id_name(id, name);
    int32_t partition = (int32_t)dice(m, (unsigned)m->w.partitions);
    int64_t at = world_prepare(&m->w, &(struct half_spec){.group = group_name(id),
                                                          .id = name,
                                                          .topic = topic_name(h->topic),
                                                          .key = dice(m, 2) ? "key" : NULL,
                                                          .value = h->value,
                                                          .message_id = h->message[0] ? h->message : NULL,
                                                          .delay = h->delayed ? "5m" : NULL,
                                                          .partition = partition});
    note(m, (struct model_record){.partition = partition, .offset = at, .half = m->half_count++, .id = id});
}

static void model_decide(struct model *m, int id, bool commit) {
    char name[16];
    id_name(id, name);
    int32_t partition = (int32_t)dice(m, (unsigned)m->w.partitions);
    int64_t at = world_decide_at(&m->w, group_name(id), name, commit ? "commit" : "rollback", partition);
    note(m,
         (struct model_record){.partition = partition, .offset = at, .half = -1, .id = id, .commit = commit});
}

/* ---- what is visible ---- */

struct counting {
    struct model *m;
    int seen[HALVES];
    int32_t partition;
    int64_t read; /* checks: the group's offset */
    int unread[IDS];
    int attempts[IDS];
};

static void count_value(void *arg, const struct engine_record *r) {
    struct counting *c = arg;
    struct model *m = c->m;
    CHECK(r->value.n > 1 && r->value.p[0] == 'v');
    int64_t n;
    CHECK(hf_str_int(hf_str_make(r->value.p + 1, r->value.n - 1), &n) == HF_OK && n < m->half_count);
    c->seen[n]++;
}

/* Asked more than once, for a fault may be waiting for the coordinator's next question. */
static int32_t partitions_of(struct model *m, const char *topic) {
    int32_t n;
    enum hf_err e = HF_EAGAIN;
    for (int i = 0; i < 10 && e == HF_EAGAIN; i++)
        e = engine_topic(memory_engine_engine(m->w.m), hf_str_of(topic), false, &n);
    return e ? 0 : n;
}

static void check_visible(struct model *m, bool final) {
    struct counting c = {.m = m};
    for (int topic = 0; topic < TOPICS; topic++)
        for (int32_t p = 0; p < partitions_of(m, topic_name(topic)); p++)
            memory_engine_each(m->w.m, hf_str_of(topic_name(topic)), p, count_value, &c);
    for (int32_t p = 0; p < partitions_of(m, HF_TOPIC_DELAY); p++)
        memory_engine_each(m->w.m, HF_STR(HF_TOPIC_DELAY), p, count_value, &c);
    int visible[IDS] = {0}, all[IDS] = {0};
    for (int i = 0; i < m->half_count; i++) {
        const struct model_half *h = &m->halves[i];
        CHECK(c.seen[i] <= (h->in && m->txns[h->id].state == TXN_COMMITTED)); /* P2 */
        visible[h->id] += c.seen[i];
        all[h->id] += h->in;
    }
    for (int id = 0; id < IDS; id++) {
        CHECK(visible[id] == 0 || visible[id] == all[id]); /* P1 */
        if (final && m->txns[id].state == TXN_COMMITTED) CHECK(visible[id] == all[id]);
    }
}

static void count_check(void *arg, const struct engine_record *r) {
    struct counting *c = arg;
    struct model *m = c->m;
    int64_t id, attempt = 0;
    CHECK(hf_str_int(hf_str_make(r->key.p + 4, r->key.n - 4), &id) == HF_OK && id < IDS);
    for (size_t i = 0; i < r->header_count; i++)
        if (hf_str_is(r->headers[i].key, HF_HDR_ATTEMPT))
            CHECK(hf_str_int(r->headers[i].value, &attempt) == HF_OK);
    c->unread[id] += r->offset >= c->read;
    if (c->attempts[id] && attempt != 1)
        CHECK(attempt == c->attempts[id] + 1); /* P5; parked ones begin anew */
    c->attempts[id] = (int)attempt;
}

static void check_checks(struct model *m) {
    for (int g = 0; g < GROUPS; g++) {
        struct counting c = {.m = m};
        char topic[64];
        snprintf(topic, sizeof topic, HF_TOPIC_CHECK "%s", group_name(g));
        for (int32_t p = 0; p < partitions_of(m, topic); p++) {
            c.read =
                engine_committed(memory_engine_engine(m->w.m), hf_str_of(group_name(g)), hf_str_of(topic), p);
            memory_engine_each(m->w.m, hf_str_of(topic), p, count_check, &c);
        }
        for (int id = 0; id < IDS; id++) CHECK(c.unread[id] <= 1); /* P3 */
    }
}

static void check_undecided(struct model *m) {
    for (int id = 0; id < IDS; id++) {
        char name[16];
        id_name(id, name);
        struct txn_view v;
        enum hf_err e = txn_show(m->w.t, hf_str_of(group_name(id)), hf_str_of(name), &v);
        enum txn_state expected = m->txns[id].state;
        enum txn_state got = e ? TXN_NONE : v.state == TXN_PARKED ? TXN_PREPARED : v.state;
        CHECK(got == expected);
        uint32_t halves = 0;
        for (int i = 0; i < m->half_count; i++) halves += m->halves[i].in && m->halves[i].id == id;
        if (expected == TXN_PREPARED) CHECK(v.halves == halves); /* P4 */
        m->parked += !e && v.state == TXN_PARKED;
    }
}

static void check_outcomes(struct model *m) {
    for (int i = 0; i < m->record_count; i++) {
        struct model_record *r = &m->records[i];
        if (r->lost || r->partition < 0) continue;
        CHECK(world_outcome(&m->w, r->partition, r->offset) == r->outcome);
    }
}

/* ---- events ---- */

static void produce(struct model *m) {
    int id = (int)dice(m, IDS);
    if (m->half_count + 2 > HALVES) return;
    char message[24];
    switch (dice(m, 8)) {
    case 0:
    case 1:
    case 2: model_prepare(m, id, NULL); break;
    case 3: /* said again, perhaps of another transaction's half */
        if (m->half_count == 0) break;
        snprintf(message, sizeof message, "%s", m->halves[dice(m, (unsigned)m->half_count)].message);
        model_prepare(m, id, message[0] ? message : NULL);
        break;
    case 4:
        if (dice(m, 3) == 0) model_decide(m, id, false);
        break;
    default:
        if (dice(m, 3) == 0) model_decide(m, id, true);
    }
}

static void consume(struct model *m) {
    const char *group = group_name((int)dice(m, GROUPS));
    if (dice(m, 2))
        world_read_checks(&m->w, group);
    else
        world_read_checks_upto(&m->w, group, (int64_t)dice(m, 20));
}

static void no_faults(struct model *m) {
    memory_engine_fail(m->w.m, MEMORY_COMMIT, HF_OK, 0, 0);
    memory_engine_fail(m->w.m, MEMORY_COMMIT_DONE, HF_OK, 0, 0);
    memory_engine_fail(m->w.m, MEMORY_TOPIC, HF_OK, 0, 0);
}

/* An operator decides when everything appended so far is processed, so that the model knows the order. */
static void operate(struct model *m) {
    int id = (int)dice(m, IDS);
    char name[16];
    id_name(id, name);
    bool commit = dice(m, 2);
    no_faults(m);
    world_run(&m->w, 3000);
    enum txn_outcome got =
        world_operate(&m->w, group_name(id), name, commit ? TXN_COMMITTED : TXN_ROLLED_BACK);
    struct model_record r = {.partition = -1, .half = -1, .id = id, .commit = commit};
    CHECK(got == note(m, r));
    m->operators++;
}

static void fault(struct model *m) {
    static const struct {
        enum memory_call call;
        enum hf_err e;
    } faults[] = {{MEMORY_COMMIT, HF_EAGAIN},
                  {MEMORY_COMMIT, HF_ENOSPC},
                  {MEMORY_COMMIT_DONE, HF_ENOSPC},
                  {MEMORY_COMMIT_DONE, HF_ELIMIT},
                  {MEMORY_TOPIC, HF_EAGAIN}};
    unsigned i = dice(m, sizeof faults / sizeof faults[0]);
    memory_engine_fail(m->w.m, faults[i].call, faults[i].e, dice(m, 3), 1 + (int)dice(m, 3));
}

static void event(struct model *m) {
    switch (dice(m, 60)) {
    case 0:
        world_crash(&m->w);
        m->crashes++;
        forget_lost(m);
        check_visible(m, false);
        break;
    case 1: m->w.now_ms += dice(m, 20000); break;
    case 2: m->w.now_ms += dice(m, 100000); break;
    case 3: consume(m); break;
    case 4: fault(m); break;
    case 5:
        if (dice(m, 5) == 0) operate(m);
        break;
    default: {
        unsigned what = dice(m, 3);
        if (what == 0) produce(m);
        if (what == 1) m->w.now_ms += dice(m, 10);
        world_step(&m->w);
    }
    }
}

static void run_seed(uint64_t seed, int totals[3]) {
    static struct model storage;
    struct model *m = &storage;
    memset(m, 0, sizeof *m);
    m->seed = seed;
    world_open(&m->w,
               &(struct world_options){.seed = seed + 1,
                                       .txn_partitions = (int32_t)(seed % 3) + 1,
                                       .engine = {.default_partitions = (int32_t)(seed % 2) + 1},
                                       .txn = {.check_attempts = ATTEMPTS, .check_interval_ms = 3000}});
    for (int i = 0; i < 1500; i++) {
        event(m);
        if (i % 100 == 0) check_checks(m);
    }
    no_faults(m);
    world_run(&m->w, 60000);
    check_visible(m, true);
    check_checks(m);
    check_undecided(m);
    check_outcomes(m);
    world_crash(&m->w); /* and all of it again after a restart */
    world_run(&m->w, 60000);
    check_visible(m, true);
    check_undecided(m);
    check_outcomes(m);
    totals[0] += m->crashes;
    totals[1] += m->operators;
    totals[2] += m->parked;
    world_close(&m->w);
}

int main(int argc, char **argv) {
    uint64_t seeds = 200, first = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seeds") == 0) seeds = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seed") == 0) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
    }
    int totals[3] = {0};
    for (uint64_t seed = first; seed < first + seeds; seed++) run_seed(seed, totals);
    printf("%llu seeds: %d crashes, %d decisions by operators, %d seen parked\n", (unsigned long long)seeds,
           totals[0], totals[1], totals[2]);
    if (seeds >= 100 && (!totals[0] || !totals[1] || !totals[2])) {
        printf("something was never provoked\n");
        return 1;
    }
    return 0;
}
