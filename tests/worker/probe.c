/* A sender and a worker for test_worker.py, through the public API alone.
 *
 *     probe send SERVER TOPIC COUNT KEYS                value <i> and identity m-<i>, every third one twice
 *     probe work SERVER GROUP TOPIC KIND STORE LOG      KIND: database, external, state, poison, order;
 *                                                       HORIZON_MS in the environment: dedup.horizon
 *     probe transact SERVER API GROUP TOPIC DB COUNT
 *
 * A worker says "ready" on stdout once SIGTERM no longer kills it. The handler's effect is one row (database,
 * state) or one line in LOG (the others): "<i> <attempt> <fence> <topic>".
 * One attempt in twelve fails after nothing, one in twelve after its effect was begun. */
#include <holdfast/holdfast.h>
#include <libpq-fe.h>
#include <sqlite3.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *kind;
static int log_fd = -1;

static int die(const char *what) {
    (void)fprintf(stderr, "probe: %s: %s\n", what, hf_errmsg());
    return 1;
}

static int send_all(const char *server, const char *topic, int count, int keys) {
    hf_client *c;
    if (hf_connect(server, NULL, &c)) return die("connect");
    for (int i = 0; i < count * 2; i++) {
        char key[16], value[16], id[32];
        int n = i / 2;
        if (i % 2 && n % 3) continue; /* every third is sent twice */
        (void)snprintf(key, sizeof key, "k%d", n % keys);
        (void)snprintf(value, sizeof value, "%d", n);
        (void)snprintf(id, sizeof id, "m-%d", n);
        hf_header version = {HF_STR("hf-version"), {value, strlen(value)}};
        hf_message m = {.topic = topic,
                        .key = {key, strlen(key)},
                        .value = {value, strlen(value)},
                        .message_id = id,
                        .headers = &version,
                        .header_count = 1};
        while (hf_send_async(c, &m, NULL, NULL) == HF_EAGAIN) (void)!hf_flush(c, -1);
    }
    if (hf_flush(c, 30000)) return die("flush");
    hf_close(c);
    return 0;
}

static unsigned dice(const hf_delivery *d) {
    static _Thread_local unsigned seed;
    if (!seed) seed = (unsigned)(uintptr_t)&seed ^ (unsigned)time(NULL);
    (void)d;
    return (unsigned)rand_r(&seed) >> 4;
}

static void line(const char *text) {
    if (write(log_fd, text, strlen(text)) < 0) abort(); /* O_APPEND: one write, one line */
}

static hf_verdict write_row(hf_delivery *d, const char *sql, const char *a, const char *b) {
    struct sqlite3 *db = hf_delivery_sqlite(d);
    if (db) {
        sqlite3_stmt *s = NULL;
        if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
            return hf_fail(d, HF_RETRY, sqlite3_errmsg(db));
        sqlite3_bind_text(s, 1, a, -1, SQLITE_TRANSIENT);
        sqlite3_bind_text(s, 2, b, -1, SQLITE_TRANSIENT);
        int r = sqlite3_step(s);
        sqlite3_finalize(s);
        if (r != SQLITE_DONE) return hf_fail(d, HF_RETRY, sqlite3_errmsg(db));
        return sqlite3_changes(db) ? HF_DONE : hf_stale(d);
    }
    const char *const values[] = {a, b};
    PGresult *r = PQexecParams(hf_delivery_postgres(d), sql, 2, NULL, values, NULL, NULL, 0);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK, changed = strcmp(PQcmdTuples(r), "0") != 0;
    PQclear(r);
    if (!ok) return hf_fail(d, HF_RETRY, PQerrorMessage(hf_delivery_postgres(d)));
    return changed ? HF_DONE : hf_stale(d);
}

static hf_verdict handle(hf_delivery *d, void *arg) {
    (void)arg;
    const char *value = hf_delivery_value(d).p;
    unsigned chance = dice(d) % 12;
    struct timespec pause = {.tv_nsec = (long)(1 + dice(d) % 4) * 1000000};
    nanosleep(&pause, NULL);
    if (strcmp(kind, "poison") == 0 && atoi(value) % 10 == 3) return hf_fail(d, HF_REJECT, "poison");
    if (chance == 0) return hf_retry_in(d, 30);
    if (strcmp(kind, "database") == 0) {
        hf_verdict v =
            write_row(d, "INSERT INTO effect (id, key) VALUES ($1, $2)", value, hf_delivery_key(d).p);
        return v == HF_DONE && chance == 1 ? hf_retry_in(d, 30) : v;
    }
    char text[128];
    if (strcmp(kind, "state") == 0) {
        int n = snprintf(text, sizeof text, "%lld", (long long)hf_delivery_version(d));
        hf_column columns[] = {
            {"value", hf_delivery_value(d)}, {"Told", {text, (size_t)n}}, {"none", {NULL, 0}}};
        return hf_put_state(d, &(hf_state_row){.table = "state",
                                               .id_column = "key",
                                               .id = hf_delivery_key(d),
                                               .columns = columns,
                                               .count = 3});
    }
    (void)snprintf(text, sizeof text, "%s %d %llu %s\n", value, hf_delivery_attempt(d),
                   (unsigned long long)hf_delivery_fence(d), hf_delivery_topic(d));
    line(text);
    return HF_DONE;
}

static int work(char **v) {
    kind = v[5];
    log_fd = open(v[7], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    bool table = strcmp(kind, "database") == 0 || strcmp(kind, "state") == 0,
         external = strcmp(kind, "external") == 0;
    hf_worker *w;
    hf_worker_options o = {HF_WORKER_DEFAULTS, .server = v[2],     .group = v[3],        .topics = v[4],
                           .handler = handle,  .concurrency = 6,   .retry_first_ms = 50, .retry_max_ms = 400,
                           .attempts = 50,     .session_ms = 6000, .heartbeat_ms = 1000, .lease_ms = 2000,
                           .drain_ms = 3000};
    o.effect = strcmp(kind, "database") == 0 ? HF_EFFECT_DATABASE
               : strcmp(kind, "state") == 0  ? HF_EFFECT_STATE
               : external                    ? HF_EFFECT_EXTERNAL
                                             : HF_EFFECT_NONE;
    const char *horizon = getenv("HORIZON_MS");
    o.horizon_ms = horizon ? atoll(horizon) : 0;
    o.database = table ? v[6] : NULL;
    o.redis = external ? v[6] : NULL;
    o.order = strcmp(kind, "order") == 0    ? HF_ORDER_KEY
              : strcmp(kind, "poison") == 0 ? HF_ORDER_NONE
                                            : HF_ORDER_KEY;
    if (hf_worker_open(&o, &w)) return die("open");
    if (hf_worker_stop_on_signals(w)) return die("signals");
    (void)puts("ready");
    (void)fflush(stdout);
    if (hf_worker_run(w)) return die("run");
    hf_worker_stats s = {.size = sizeof s};
    hf_worker_get_stats(w, &s);
    (void)fprintf(
        stderr,
        "delivered=%lld done=%lld duplicates=%lld stale=%lld retried=%lld dead=%lld handed_back=%lld\n",
        (long long)s.delivered, (long long)s.done, (long long)s.duplicates, (long long)s.stale,
        (long long)s.retried, (long long)s.dead, (long long)s.handed_back);
    hf_worker_close(w);
    return 0;
}

/* ---- transactions ---- */

static hf_decision local(const char *id, void *arg) {
    return hf_mark_sqlite(arg, id) == HF_OK ? HF_COMMIT : HF_ROLLBACK;
}

static hf_decision check(const hf_check *q, void *arg) {
    sqlite3 *db = NULL;
    if (sqlite3_open(arg, &db) != SQLITE_OK) return HF_UNKNOWN;
    sqlite3_busy_timeout(db, 2000);
    hf_decision d = hf_decide_sqlite(db, NULL, NULL, hf_check_id(q));
    sqlite3_close(db);
    (void)printf("checked %s %d\n", hf_check_id(q), (int)d);
    (void)fflush(stdout);
    return d;
}

/* Every fourth dies, as far as the server can tell, between its local commit and the decision; every seventh
 * before. */
static int transact(char **v) {
    hf_client *c;
    hf_producer *p;
    sqlite3 *db = NULL;
    hf_client_options o = {HF_CLIENT_DEFAULTS, .api = v[3]};
    if (hf_connect(v[2], &o, &c)) return die("connect");
    if (hf_producer_open(c, v[4], check, v[6], &p)) return die("producer");
    hf_producer_check_after(p, 500);
    if (sqlite3_open(v[6], &db) != SQLITE_OK) return die("sqlite");
    sqlite3_busy_timeout(db, 5000);
    for (int i = 0; i < atoi(v[7]); i++) {
        char id[32];
        (void)snprintf(id, sizeof id, "tx-%d", i);
        hf_message m[] = {{.topic = v[5], .key = {id, strlen(id)}, .value = {id, strlen(id)}},
                          {.topic = v[5], .key = {id, strlen(id)}, .value = HF_STR("late"), .delay_ms = 300}};
        enum hf_err e = HF_OK;
        if (i % 7 == 6)
            e = hf_prepare(p, id, m, 2);
        else if (i % 4 == 3 && !(e = hf_prepare(p, id, m, 2)))
            (void)local(id, db);
        else if (!e)
            e = hf_transact(p, id, m, 2, local, db);
        if (e) return die(id);
    }
    (void)alarm(600); /* nobody says stop */
    while (access("stop", F_OK) != 0) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    hf_producer_close(p);
    hf_close(c);
    sqlite3_close(db);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 6 && strcmp(argv[1], "send") == 0)
        return send_all(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
    if (argc == 8 && strcmp(argv[1], "work") == 0) return work(argv);
    if (argc == 8 && strcmp(argv[1], "transact") == 0) return transact(argv);
    (void)fprintf(stderr, "usage: see the top of probe.c\n");
    return 2;
}
