/* The whole path of transactions on the real log and a machine that crashes: producers → holdfast.txn →
 * coordinator → destinations, with process death and loss of power at any operation, in recovery too.
 *
 *     sim_txn [--seeds N] [--seed S]
 *
 * Producers know what every client knows: what they sent, and what was acknowledged. After a crash they send
 * again what was not, with the same hf-message-id. Some contradict themselves, and some vanish before they
 * decide: then the checker, a member of the group, reads the check and answers, and commits its offset.
 * Promises:
 *
 *   S1  a transaction's messages are all visible or none, at every start
 *   S2  no message is visible twice, and none of a transaction that nobody committed
 *   S3  what was visible stays visible
 *   S4  in the end every transaction is decided as its producer or checker said, and all its messages are
 *       visible if it was committed, none if not */
#include "base/names.h"
#include "env/sim.h"
#include "store/engine/batch.h"
#include "store/log/log.h"
#include "txn/txn.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TXNS = 24, HALVES = 3, STEPS_MAX = 200000, BATCH_MAX = 4096, CHECK_MS = 200 };

static const char *const topics[] = {"orders", "stock", "mail"};

enum what { NOT_SENT, SENT, ACKED };

struct producer {
    int halves;
    bool commits;     /* what its local transaction says */
    bool vanishes;    /* before its decision */
    bool contradicts; /* says the opposite afterwards */
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
    int crashes, powers, checks_answered;
    bool offset_busy;
};

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (condition) break;                                                                                \
        printf("seed %llu: line %d: %s\n", (unsigned long long)r->seed, __LINE__, #condition);               \
        exit(1);                                                                                             \
    } while (0)

static uint64_t below(struct sim_run *r, uint64_t n) {
    return hf_sim_random(r->sim) % n;
}

/* ---- producers ---- */

static void on_appended(void *arg, const struct log_appended *a) {
    enum what *what = arg;
    if (*what == SENT) *what = a->e ? NOT_SENT : ACKED;
}

static void append(struct sim_run *r, int id, const struct hf_header *headers, size_t n, const char *value,
                   enum what *what) {
    char key[16];
    hf_str batch;
    snprintf(key, sizeof key, "%d", id);
    struct log_partition *p = log_partition(r->log, HF_STR(HF_TOPIC_TXN), 0);
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
    append(r, id, headers, 4, value, &r->producers[id].half[half]);
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
}

/* ---- the checker ---- */

static void on_offset(void *arg, enum hf_err e) {
    struct sim_run *r = arg;
    (void)e;
    r->offset_busy = false;
}

static void commit_offset(struct sim_run *r, int64_t offset) {
    struct hf_buf key;
    uint8_t value[8];
    hf_put_be64(value, (uint64_t)offset);
    hf_buf_init(&key, 1024);
    engine_offset_key(&key, HF_STR("g"), HF_STR(HF_TOPIC_CHECK "g"), 0);
    struct engine_put put = {hf_buf_view(&key), hf_str_make(value, 8)};
    struct engine_commit c = {.now_ms = env_wall_ms(hf_sim_env(r->sim)), .puts = &put, .put_count = 1};
    r->offset_busy = engine_commit(r->engine, &c, on_offset, r) == HF_OK;
    hf_buf_fini(&key);
}

/* Reads the next check; commits its offset when the answer is acknowledged. */
static void check(struct sim_run *r) {
    struct engine_cursor *c;
    struct engine_record record;
    if (r->offset_busy) return;
    int64_t at = engine_committed(r->engine, HF_STR("g"), HF_STR(HF_TOPIC_CHECK "g"), 0);
    if (engine_cursor_open(r->engine, HF_STR(HF_TOPIC_CHECK "g"), 0, &c)) return;
    engine_cursor_seek(c, at < 0 ? 0 : at);
    if (engine_cursor_next(c, &record) == HF_OK) {
        int64_t id;
        CHECK(hf_str_int(record.key, &id) == HF_OK && id < TXNS);
        struct producer *p = &r->producers[id];
        bool known = p->vanishes && prepared(p); /* else its local transaction has not run yet */
        if (known && p->decision == NOT_SENT) send_decision(r, (int)id, p->commits, &p->decision);
        if (!known || p->decision == ACKED) {
            commit_offset(r, record.offset + 1);
            r->checks_answered++;
        }
    }
    engine_cursor_close(c);
}

/* ---- what is visible ---- */

static void count_topic(struct sim_run *r, const char *topic, int seen[TXNS][HALVES]) {
    int32_t partitions;
    if (engine_topic(r->engine, hf_str_of(topic), false, &partitions)) return;
    struct engine_cursor *c;
    enum hf_err e = engine_cursor_open(r->engine, hf_str_of(topic), 0, &c);
    CHECK(e == HF_OK);
    engine_cursor_seek(c, 0);
    struct engine_record record;
    while ((e = engine_cursor_next(c, &record)) == HF_OK) {
        int id, half;
        char value[32];
        snprintf(value, sizeof value, "%.*s", (int)record.value.n, record.value.p);
        CHECK(sscanf(value, "%d/%d", &id, &half) == 2 && id < TXNS && half < HALVES);
        seen[id][half]++;
    }
    CHECK(e == HF_EEND || hf_sim_dead(r->sim));
    engine_cursor_close(c);
}

static void look(struct sim_run *r, bool final) {
    int seen[TXNS][HALVES] = {{0}};
    for (int i = 0; i < 3; i++) count_topic(r, topics[i], seen);
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

static void on_created(void *arg, enum hf_err e) {
    (void)arg, (void)e;
}

static bool start(struct sim_run *r) {
    struct log_options options = {.default_partitions = 1,
                                  .segment_bytes = 65536,
                                  .message_max = 8192,
                                  .journal_file_bytes = 64 << 10,
                                  .checkpoint_bytes = 8192u << below(r, 4),
                                  .reserve_bytes = 16 << 10,
                                  .auto_create = true};
    struct hf_env *env = hf_sim_env(r->sim);
    r->log = NULL;
    enum hf_err e = log_open(env, &options, &r->log);
    if (e) CHECK(hf_sim_dead(r->sim));
    if (e) return false;
    r->engine = log_engine(r->log);
    struct log_topic_config config = {.partitions = 1, .internal = true};
    e = log_topic_create(r->log, HF_STR(HF_TOPIC_TXN), &config, on_created, NULL);
    look(r, false);
    struct txn_options o = {.check_after_ms = CHECK_MS, .check_interval_ms = CHECK_MS};
    e = txn_open(r->engine, &o, env_wall_ms(env), &r->t);
    CHECK(e == HF_OK || hf_sim_dead(r->sim));
    r->next_ms = 0;
    r->offset_busy = false;
    return e == HF_OK;
}

static void crash_over(struct sim_run *r) {
    if (r->t) txn_close(r->t);
    if (r->log) log_abandon(r->log);
    r->t = NULL;
    r->log = NULL;
    for (int id = 0; id < TXNS; id++) { /* no answer: said again */
        struct producer *p = &r->producers[id];
        for (int h = 0; h < HALVES; h++)
            if (p->half[h] == SENT) p->half[h] = NOT_SENT;
        if (p->opposite == SENT) p->opposite = NOT_SENT;
    }
    hf_sim_restart(r->sim);
}

static void step(struct sim_run *r) {
    struct hf_env *env = hf_sim_env(r->sim);
    (void)env_poll(env);
    (void)log_step(r->log);
    if (hf_sim_dead(r->sim)) return;
    int64_t now_ms = env_wall_ms(env);
    if (now_ms >= r->next_ms || txn_wants(r->t)) r->next_ms = txn_step(r->t, now_ms);
    if (hf_sim_dead(r->sim)) return;
    CHECK(txn_failed(r->t) == HF_OK && log_failed(r->log) == HF_OK);
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

static void run_seed(uint64_t seed, struct hf_sim_hits *hits, int totals[3]) {
    static struct sim_run storage;
    struct sim_run *r = &storage;
    memset(r, 0, sizeof *r);
    r->seed = seed;
    enum hf_err e = hf_sim_open(seed, &(struct hf_sim_options){.hits = hits}, &r->sim);
    assert(e == HF_OK);
    batch_builder_init(&r->builder, BATCH_MAX);
    for (int id = 0; id < TXNS; id++)
        r->producers[id] = (struct producer){.halves = 1 + (int)below(r, HALVES),
                                             .commits = below(r, 3) > 0,
                                             .vanishes = below(r, 4) == 0,
                                             .contradicts = below(r, 4) == 0};
    bool done = false;
    for (int life = 0; !done; life++) {
        bool calm = life >= 12;
        enum hf_sim_crash kind = (enum hf_sim_crash)below(r, HF_SIM_CRASH_KINDS);
        hf_sim_crash_at(r->sim, calm ? 0 : 1 + below(r, UINT64_C(60) << below(r, 5)), kind);
        if (start(r)) {
            decisions_again(r);
            for (int i = 0; i < STEPS_MAX && !done && !hf_sim_dead(r->sim); i++) {
                step(r);
                done = !hf_sim_dead(r->sim) && settled(r);
            }
            CHECK(done || hf_sim_dead(r->sim));
        }
        if (done) break;
        r->crashes++;
        r->powers += kind == HF_SIM_POWER_LOSS;
        crash_over(r);
    }
    hf_sim_crash_at(r->sim, 0, HF_SIM_PROCESS_DEATH);
    look(r, true);
    hf_sim_crash(r->sim, HF_SIM_POWER_LOSS);
    crash_over(r);
    CHECK(start(r)); /* and all of it again after loss of power */
    look(r, true);
    hf_sim_crash(r->sim, HF_SIM_PROCESS_DEATH);
    txn_close(r->t);
    log_abandon(r->log);
    batch_builder_fini(&r->builder);
    hf_sim_close(r->sim);
    totals[0] += r->crashes;
    totals[1] += r->powers;
    totals[2] += r->checks_answered;
}

int main(int argc, char **argv) {
    uint64_t seeds = 400, first = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seeds") == 0) seeds = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seed") == 0) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
    }
    static struct hf_sim_hits hits;
    int totals[3] = {0};
    for (uint64_t seed = first; seed < first + seeds; seed++) run_seed(seed, &hits, totals);
    printf("%llu seeds: %d crashes, %d of power, %d checks answered\n", (unsigned long long)seeds, totals[0],
           totals[1], totals[2]);
    return seeds >= 10 && (!totals[0] || !totals[1] || !totals[2]);
}
