/* The whole path of transactions on the real log and a machine that crashes: producers → holdfast.txn →
 * coordinator → destinations, with process death and loss of power at any operation, in recovery too.
 *
 * tests/support/simulation.h says how it is called; the rules that it breaks are in docs/transactions.md.
 *
 * Topics have one to three partitions; a producer's records go to any. Producers know what every client
 * knows: what they sent, and what was acknowledged. After a crash they send again what was not, with the same
 * hf-message-id, or give up if they set none; some send a half again when all is over, as a network does that
 * delivers twice. Some contradict themselves, and some vanish before they decide: then the checker, a member
 * of the group, reads the check and answers, and commits its offset. In some lives a sync fails, or the disk
 * is full for a while. Promises:
 *
 *   S1  a transaction's messages are all visible or none, at every start
 *   S2  no message is visible twice, and none of a transaction that nobody committed
 *   S3  what was visible stays visible
 *   S5  a check's attempt is on its topic once, and attempts ascend
 *   S4  in the end every transaction is decided as its producer or checker said, and all its messages are
 *       visible if it was committed, none if not */
#include "base/names.h"
#include "env/sim.h"
#include "mutations.h"
#include "simulation.h"
#include "store/engine/batch.h"
#include "store/log/log.h"
#include "txn/txn.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TXNS = 24, HALVES = 3, PARTITIONS_MAX = 3, STEPS_MAX = 200000, BATCH_MAX = 4096, CHECK_MS = 200 };

static const char *const topics[] = {"orders", "stock", "mail"};

enum what { NOT_SENT, SENT, ACKED };

struct producer {
    int halves;
    bool commits;     /* what its local transaction says */
    bool vanishes;    /* before its decision */
    bool contradicts; /* says the opposite afterwards */
    bool repeats;     /* a half arrives again after the decision */
    bool nameless;    /* no hf-message-id: it dares not send a half again, and gives up */
    enum what half[HALVES], decision, opposite;
    bool said;    /* its decision left it, whatever the answer */
    bool visible; /* was seen at some start */
};

struct sim_run {
    uint64_t seed;
    struct hf_sim *sim;
    struct log *log;
    struct engine *engine;
    struct txn *t;
    int64_t next_ms;
    struct producer producers[TXNS];
    struct batch_builder builder;
    int crashes, powers, checks_answered, failures;
    int32_t partitions;
    bool offset_busy;
    bool struck, full; /* in this life: a fault was met; the disk has no space */
    char broken[200];
};

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if ((condition) || r->broken[0]) break;                                                              \
        snprintf(r->broken, sizeof r->broken, "line %d: %s", __LINE__, #condition);                          \
    } while (0)

static uint64_t below(struct sim_run *r, uint64_t n) {
    return hf_sim_random(r->sim) % n;
}

/* ---- producers ---- */

static void on_appended(void *arg, const struct log_appended *a) {
    enum what *what = arg;
    if (*what == SENT && !a->e) *what = ACKED; /* else the log has failed: the next life tells */
}

static void append(struct sim_run *r, int id, const struct hf_header *headers, size_t n, const char *value,
                   enum what *what) {
    char key[16];
    hf_str batch;
    snprintf(key, sizeof key, "%d", id);
    int32_t partition = (int32_t)below(r, (uint64_t)r->partitions);
    struct log_partition *p = log_partition(r->log, HF_STR(HF_TOPIC_TXN), partition);
    if (!p) return;
    batch_builder_begin(&r->builder, 1);
    enum hf_err e = batch_builder_add(&r->builder, hf_str_of(key), hf_str_of(value), headers, n);
    if (!e) e = batch_builder_finish(&r->builder, &batch);
    assert(e == HF_OK);
    *what = SENT;
    e = log_append(r->log, p, (uint8_t *)(uintptr_t)batch.p, batch.n, LOG_ACK_DURABLE, on_appended, what);
    if (e) *what = NOT_SENT;
}

static void send_half(struct sim_run *r, int id, int half) {
    char value[32];
    snprintf(value, sizeof value, "%d/%d", id, half);
    const struct hf_header headers[] = {
        {HF_STR(HF_HDR_OP), HF_STR("prepare")},
        {HF_STR(HF_HDR_GROUP), HF_STR("g")},
        {HF_STR(HF_HDR_TOPIC), hf_str_of(topics[(id + half) % 3])},
        {HF_STR(HF_HDR_MESSAGE_ID), hf_str_of(value)},
    };
    append(r, id, headers, r->producers[id].nameless ? 3 : 4, value, &r->producers[id].half[half]);
}

static void send_decision(struct sim_run *r, int id, bool commit, enum what *what) {
    r->producers[id].said = true;
    const struct hf_header headers[] = {
        {HF_STR(HF_HDR_OP), commit ? HF_STR("commit") : HF_STR("rollback")},
        {HF_STR(HF_HDR_GROUP), HF_STR("g")},
    };
    append(r, id, headers, 2, "", what);
}

static bool prepared(const struct producer *p) {
    for (int h = 0; h < p->halves; h++)
        if (p->half[h] != ACKED) return false;
    return true;
}

static void produce(struct sim_run *r) {
    int id = (int)below(r, TXNS);
    struct producer *p = &r->producers[id];
    for (int h = 0; h < p->halves; h++) {
        if (p->half[h] == ACKED) continue;
        if (p->half[h] == NOT_SENT) send_half(r, id, h);
        return; /* one after the other; the decision after all */
    }
    if (p->vanishes) return;
    if (p->decision == NOT_SENT)
        send_decision(r, id, p->commits, &p->decision);
    else if (p->decision == ACKED && p->contradicts && p->opposite == NOT_SENT)
        send_decision(r, id, !p->commits, &p->opposite);
    else if (p->decision == ACKED && p->repeats && !p->nameless && below(r, 4) == 0)
        send_half(r, id, 0);
    else
        return;
    if (p->repeats && p->half[0] == SENT && p->decision == ACKED) p->repeats = false;
}

/* ---- the checker ---- */

static void on_offset(void *arg, enum hf_err e) {
    struct sim_run *r = arg;
    (void)e;
    r->offset_busy = false;
}

static void commit_offset(struct sim_run *r, int32_t partition, int64_t offset) {
    struct hf_buf key;
    uint8_t value[8];
    hf_put_be64(value, (uint64_t)offset);
    hf_buf_init(&key, 1024);
    engine_offset_key(&key, HF_STR("g"), HF_STR(HF_TOPIC_CHECK "g"), partition);
    struct engine_put put = {hf_buf_view(&key), hf_str_make(value, 8)};
    struct engine_commit c = {.now_ms = env_wall_ms(hf_sim_env(r->sim)), .puts = &put, .put_count = 1};
    r->offset_busy = engine_commit(r->engine, &c, on_offset, r) == HF_OK;
    hf_buf_fini(&key);
}

/* Reads the next check; commits its offset when the answer is acknowledged. */
static void check(struct sim_run *r) {
    struct engine_cursor *c;
    struct engine_record record;
    int32_t partition = (int32_t)below(r, (uint64_t)r->partitions);
    if (r->offset_busy) return;
    int64_t at = engine_committed(r->engine, HF_STR("g"), HF_STR(HF_TOPIC_CHECK "g"), partition);
    if (engine_cursor_open(r->engine, HF_STR(HF_TOPIC_CHECK "g"), partition, &c)) return;
    engine_cursor_seek(c, at < 0 ? 0 : at);
    if (engine_cursor_next(c, &record) == HF_OK) {
        int64_t id;
        CHECK(hf_str_int(record.key, &id) == HF_OK && id >= 0 && id < TXNS);
        if (r->broken[0]) id = 0;
        struct producer *p = &r->producers[id];
        bool known = p->vanishes && prepared(p); /* else its local transaction has not run yet */
        if (known && p->decision == NOT_SENT) send_decision(r, (int)id, p->commits, &p->decision);
        if (!known || p->decision == ACKED) {
            commit_offset(r, partition, record.offset + 1);
            r->checks_answered++;
        }
    }
    engine_cursor_close(c);
}

/* ---- what is visible ---- */

static void count_partition(struct sim_run *r, const char *topic, int32_t partition, int seen[TXNS][HALVES]) {
    struct engine_cursor *c;
    enum hf_err e = engine_cursor_open(r->engine, hf_str_of(topic), partition, &c);
    CHECK(e == HF_OK);
    if (e) return;
    engine_cursor_seek(c, 0);
    struct engine_record record;
    while ((e = engine_cursor_next(c, &record)) == HF_OK) {
        int id, half;
        char value[32];
        snprintf(value, sizeof value, "%.*s", (int)record.value.n, record.value.p);
        bool known = sscanf(value, "%d/%d", &id, &half) == 2 && id >= 0 && id < TXNS && half < HALVES;
        CHECK(known);
        if (known) seen[id][half]++;
    }
    CHECK(e == HF_EEND || hf_sim_dead(r->sim));
    engine_cursor_close(c);
}

static void count_topic(struct sim_run *r, const char *topic, int seen[TXNS][HALVES]) {
    int32_t partitions;
    if (engine_topic(r->engine, hf_str_of(topic), false, &partitions)) return;
    for (int32_t p = 0; p < partitions; p++) count_partition(r, topic, p, seen);
}

/* S5: those that are there; the read ones are released. */
static void look_at_attempts(struct sim_run *r, int32_t partition) {
    struct engine_cursor *c;
    struct engine_record record;
    int64_t last[TXNS] = {0};
    if (engine_cursor_open(r->engine, HF_STR(HF_TOPIC_CHECK "g"), partition, &c)) return;
    engine_cursor_seek(c, 0);
    while (engine_cursor_next(c, &record) == HF_OK) {
        int64_t id = -1, attempt = -1;
        bool ok = hf_str_int(record.key, &id) == HF_OK && id >= 0 && id < TXNS;
        for (size_t i = 0; i < record.header_count; i++)
            if (hf_str_is(record.headers[i].key, HF_HDR_ATTEMPT))
                ok = ok && hf_str_int(record.headers[i].value, &attempt) == HF_OK;
        CHECK(ok && attempt > last[id < 0 || id >= TXNS ? 0 : id]);
        if (ok) last[id] = attempt;
    }
    engine_cursor_close(c);
}

static void look(struct sim_run *r, bool final) {
    int seen[TXNS][HALVES] = {{0}};
    for (int i = 0; i < 3; i++) count_topic(r, topics[i], seen);
    for (int32_t p = 0; p < r->partitions; p++) look_at_attempts(r, p);
    if (hf_sim_dead(r->sim)) return;
    for (int id = 0; id < TXNS; id++) {
        struct producer *p = &r->producers[id];
        int visible = 0;
        for (int h = 0; h < HALVES; h++) {
            CHECK(seen[id][h] <= 1); /* S2 */
            visible += seen[id][h];
        }
        CHECK(visible == 0 || visible == p->halves);    /* S1 */
        CHECK(visible == 0 || (p->commits && p->said)); /* S2: the first word counts */
        CHECK(!p->visible || visible);                  /* S3 */
        p->visible = visible > 0;
        if (final) CHECK(p->visible == p->commits); /* S4 */
    }
}

/* ---- lives ---- */

static bool settled(struct sim_run *r) {
    struct txn_stats s;
    for (int id = 0; id < TXNS; id++) {
        const struct producer *p = &r->producers[id];
        if (!prepared(p) || p->decision != ACKED || (p->contradicts && p->opposite != ACKED && !p->vanishes))
            return false;
    }
    txn_stats(r->t, &s);
    return s.live == 0 && !txn_busy(r->t);
}

static bool met_fault(struct sim_run *r) {
    r->struck = r->struck || hf_sim_failed(r->sim);
    return r->struck;
}

static void on_created(void *arg, enum hf_err e) {
    *(int *)arg = e ? -1 : 1;
}

static enum hf_err create(struct sim_run *r, const char *name, const struct log_topic_config *config) {
    int done = 0;
    enum hf_err e = log_topic_create(r->log, hf_str_of(name), config, on_created, &done);
    if (e == HF_EEXIST) return HF_OK;
    CHECK(e == HF_OK || hf_sim_dead(r->sim) || met_fault(r));
    while (!e && !done && !hf_sim_dead(r->sim) && !log_failed(r->log)) {
        hf_sim_advance(r->sim, 1000);
        (void)env_poll(hf_sim_env(r->sim));
        (void)log_step(r->log);
    }
    return e ? e : done > 0 ? HF_OK : HF_ECRASHED;
}

static bool start(struct sim_run *r) {
    struct log_options options = {.default_partitions = r->partitions,
                                  .segment_bytes = 65536,
                                  .message_max = 8192,
                                  .journal_file_bytes = 64 << 10,
                                  .checkpoint_bytes = 8192u << below(r, 4),
                                  .reserve_bytes = 16 << 10,
                                  .auto_create = true};
    struct hf_env *env = hf_sim_env(r->sim);
    r->log = NULL;
    enum hf_err e = log_open(env, &options, &r->log);
    if (e) CHECK(hf_sim_dead(r->sim) || met_fault(r));
    if (e) return false;
    r->engine = log_engine(r->log);
    struct log_topic_config config = {.partitions = r->partitions, .internal = true};
    e = create(r, HF_TOPIC_TXN, &config);
    if (e) return false;
    look(r, false);
    struct txn_options o = {.check_after_ms = CHECK_MS, .check_interval_ms = CHECK_MS};
    e = txn_open(r->engine, &o, env_wall_ms(env), &r->t);
    CHECK(e == HF_OK || hf_sim_dead(r->sim) || met_fault(r));
    r->next_ms = 0;
    r->offset_busy = false;
    return e == HF_OK;
}

static void crash_over(struct sim_run *r) {
    if (r->t) txn_close(r->t);
    if (r->log) log_abandon(r->log);
    r->t = NULL;
    r->log = NULL;
    r->struck = r->full = false;
    for (int id = 0; id < TXNS; id++) { /* no answer: said again */
        struct producer *p = &r->producers[id];
        for (int h = 0; h < HALVES; h++) {
            if (p->half[h] != SENT) continue;
            p->half[h] = p->nameless ? ACKED : NOT_SENT;
            if (p->nameless) p->commits = p->contradicts = p->vanishes = false;
        }
        if (p->opposite == SENT) p->opposite = NOT_SENT;
    }
    hf_sim_restart(r->sim);
}

static void arm(struct sim_run *r) {
    enum hf_sim_crash kind = (enum hf_sim_crash)below(r, HF_SIM_CRASH_KINDS);
    hf_sim_crash_at(r->sim, 1 + below(r, UINT64_C(60) << below(r, 5)), kind);
    if (below(r, 5) == 0) {
        hf_sim_fail_sync_at(r->sim, 1 + below(r, 60), NULL);
    } else if (below(r, 5) == 0) {
        hf_sim_fail_from(r->sim, 1 + below(r, 300), HF_ENOSPC);
        r->full = true;
    }
}

static void make_space(struct sim_run *r) {
    (void)met_fault(r);
    hf_sim_fail_at(r->sim, 0, HF_OK);
    r->full = false;
}

static void step(struct sim_run *r) {
    struct hf_env *env = hf_sim_env(r->sim);
    (void)env_poll(env);
    (void)log_step(r->log);
    if (hf_sim_dead(r->sim)) return;
    int64_t now_ms = env_wall_ms(env);
    if (now_ms >= r->next_ms || txn_wants(r->t)) r->next_ms = txn_step(r->t, now_ms);
    if (hf_sim_dead(r->sim)) return;
    if (log_failed(r->log)) { /* the process ends, now and then with the power */
        CHECK(met_fault(r));
        r->failures++;
        hf_sim_crash(r->sim, (enum hf_sim_crash)below(r, HF_SIM_CRASH_KINDS));
        return;
    }
    CHECK(txn_failed(r->t) == HF_OK);
    if (r->full && below(r, 200) == 0) make_space(r);
    if (below(r, 8) == 0) txn_check(r->t);
    if (below(r, 2)) produce(r);
    if (!hf_sim_dead(r->sim) && below(r, 10) == 0) check(r);
    hf_sim_advance(r->sim, (int64_t)below(r, below(r, 10) ? 300 : 30000));
}

/* A decision whose answer a crash swallowed may stand; it is never changed, only said again. */
static void decisions_again(struct sim_run *r) {
    for (int id = 0; id < TXNS; id++)
        if (r->producers[id].decision == SENT)
            send_decision(r, id, r->producers[id].commits, &r->producers[id].decision);
}

/* Lives that end in crashes, then a calm one; whether everything is settled in the end. */
static bool live(struct sim_run *r) {
    for (int life = 0; !r->broken[0]; life++) {
        bool calm = life >= 12, done = false;
        if (calm)
            hf_sim_crash_at(r->sim, 0, HF_SIM_PROCESS_DEATH);
        else
            arm(r);
        if (start(r)) {
            decisions_again(r);
            for (int i = 0; i < STEPS_MAX && !done && !hf_sim_dead(r->sim) && !r->broken[0]; i++) {
                step(r);
                done = !hf_sim_dead(r->sim) && settled(r);
            }
            CHECK(done || hf_sim_dead(r->sim));
        }
        if (done) return true;
        CHECK(!calm);
        if (!hf_sim_dead(r->sim)) hf_sim_crash(r->sim, HF_SIM_PROCESS_DEATH); /* a fault while it started */
        r->crashes++;
        r->powers += hf_sim_crash_kind(r->sim) == HF_SIM_POWER_LOSS;
        crash_over(r);
    }
    return false;
}

static bool verbose;
static struct totals { int crashes, powers, checks_answered, failures; } totals;

static bool run_seed(uint64_t seed, char *why, size_t size) {
    static struct hf_sim_hits hits;
    static struct sim_run storage;
    struct sim_run *r = &storage;
    memset(r, 0, sizeof *r);
    r->seed = seed;
    enum hf_err e = hf_sim_open(seed, &(struct hf_sim_options){.hits = &hits, .verbose = verbose}, &r->sim);
    assert(e == HF_OK);
    batch_builder_init(&r->builder, BATCH_MAX);
    r->partitions = 1 + (int32_t)below(r, PARTITIONS_MAX);
    for (int id = 0; id < TXNS; id++)
        r->producers[id] = (struct producer){.halves = 1 + (int)below(r, HALVES),
                                             .commits = below(r, 3) > 0,
                                             .vanishes = below(r, 4) == 0,
                                             .contradicts = below(r, 4) == 0,
                                             .repeats = below(r, 4) == 0,
                                             .nameless = below(r, 4) == 0};
    if (live(r)) {
        hf_sim_crash_at(r->sim, 0, HF_SIM_PROCESS_DEATH);
        hf_sim_fail_at(r->sim, 0, HF_OK);
        look(r, true);
        hf_sim_crash(r->sim, HF_SIM_POWER_LOSS);
        crash_over(r);
        bool open = start(r); /* and all of it again after loss of power */
        CHECK(open);
        if (open) look(r, true);
    }
    if (!hf_sim_dead(r->sim)) hf_sim_crash(r->sim, HF_SIM_PROCESS_DEATH);
    crash_over(r);
    batch_builder_fini(&r->builder);
    hf_sim_close(r->sim);
    totals.crashes += r->crashes;
    totals.powers += r->powers;
    totals.checks_answered += r->checks_answered;
    totals.failures += r->failures;
    if (r->broken[0]) snprintf(why, size, "%s", r->broken);
    return !r->broken[0];
}

static bool run_told(uint64_t seed) {
    char why[sizeof((struct sim_run *)NULL)->broken];
    if (run_seed(seed, why, sizeof why)) return true;
    printf("seed %llu: %s\n", (unsigned long long)seed, why);
    return false;
}

/* Seeds that once found a fault: none has, yet. */
static const uint64_t kept_seeds[] = {0};

int main(int argc, char **argv) {
    struct simulation o;
    if (!simulation_arguments(argc, argv, 400, &o)) return 2;
    verbose = o.verbose;
    if (o.mutations)
        return mutations_missed(o.mutation ? (int[]){o.mutation, 0} : (int[]){MUTATIONS, 0}, o.seeds,
                                run_seed) > 0;
    if (!simulation_run(&o, kept_seeds, run_told)) return 1;
    printf("%llu seeds: %d crashes, %d of power, %d failed logs, %d checks answered\n",
           (unsigned long long)o.seeds, totals.crashes, totals.powers, totals.failures,
           totals.checks_answered);
    return o.seeds >= 100 &&
           (!totals.crashes || !totals.powers || !totals.failures || !totals.checks_answered);
}
