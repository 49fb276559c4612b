/* The database store over PostgreSQL: the dedup row and the effect in one transaction.
 *
 *     holdfast_dedup(consumer_group, origin, message_id, fingerprint, done_ms,
 *                    PRIMARY KEY (consumer_group, origin, message_id))
 *
 * message_id is bytea because an id may be any bytes; convert_from(message_id, 'UTF8') shows it. Rows come in
 * the order of done_ms, so a BRIN index serves expiry at next to no cost for each insert.
 *
 * INSERT … ON CONFLICT DO NOTHING waits while another transaction has the same key uncommitted, then inserts
 * if that one rolled back. Inserting first makes the row the lock: the second worker waits before its
 * effect, not after. The wait has the command time-out: then the statement is cancelled, and the answer is
 * BUSY.
 *
 * The handler runs statements of its own on the connection. Which SQLSTATE they met decides whether a failure
 * is an attempt, but libpq keeps no code on the connection: an event procedure sees every result and
 * remembers the last error that is not merely "current transaction is aborted" (25P02).
 *
 * Failure: a connection that broke is dropped, BEGIN is tried once on a fresh one. A COMMIT whose answer is
 * lost may have happened: UNAVAILABLE, and the next begin finds the row or does not. */
#include "pool.h"
#include "store.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <libpq-events.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct dedup_store {
    struct dedup_options options;
    struct pool pool; /* of struct connection */
    char *conninfo;
};

enum { SQLSTATE = 6, NUMBER_TEXT = 24, CANCEL_WAIT_MS = 1000 };

struct connection {
    PGconn *pg;
    int64_t command_timeout_ms;
    char sqlstate[SQLSTATE]; /* of the last error in this transaction; "" without one */
};

/* The advisory lock keeps two workers that start together from creating the table at once, which IF NOT
 * EXISTS does not. Its number is "holdfast" in ASCII. */
static const char setup_sql[] =
    "DO $$ BEGIN IF to_regclass('holdfast_dedup') IS NULL THEN"
    " PERFORM pg_advisory_xact_lock(7525356130374578036);"
    " CREATE TABLE IF NOT EXISTS holdfast_dedup (consumer_group text NOT NULL, origin text NOT NULL,"
    " message_id bytea NOT NULL, fingerprint bigint NOT NULL, done_ms bigint NOT NULL,"
    " PRIMARY KEY (consumer_group, origin, message_id));"
    " CREATE INDEX IF NOT EXISTS holdfast_dedup_done ON holdfast_dedup USING brin (done_ms);"
    " END IF; END $$";

static const char insert_sql[] =
    "INSERT INTO holdfast_dedup (consumer_group, origin, message_id, fingerprint, done_ms) "
    "VALUES ($1, $2, $3, $4::bigint, $5::bigint) ON CONFLICT DO NOTHING";

static const char lookup_sql[] =
    "SELECT fingerprint FROM holdfast_dedup WHERE consumer_group = $1 AND origin = $2 AND message_id = $3";

static const char expire_sql[] =
    "DELETE FROM holdfast_dedup WHERE ctid = ANY (ARRAY("
    "SELECT ctid FROM holdfast_dedup WHERE done_ms <= $1::bigint LIMIT $2::bigint))";

/* ---- failures ---- */

static bool is_temporary(const char *sqlstate) {
    static const char *const codes[] = {
        "40001", /* serialization_failure */
        "40P01", /* deadlock_detected */
        "55P03", /* lock_not_available */
        "57014", /* query_canceled: our time-out */
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(sqlstate, codes[i]) == 0) return true;
    return false;
}

static int remember_error(PGEventId event, void *info, void *arg) {
    if (event != PGEVT_RESULTCREATE) return 1;
    const char *code = PQresultErrorField(((PGEventResultCreate *)info)->result, PG_DIAG_SQLSTATE);
    struct connection *c = arg;
    if (code && strcmp(code, "25P02") != 0) (void)snprintf(c->sqlstate, sizeof c->sqlstate, "%s", code);
    return 1;
}

static enum dedup_answer failed(const struct connection *c, struct dedup_detail *detail) {
    if (is_temporary(c->sqlstate))
        return dedup_say_busy(detail, DEDUP_LOCKED_RETRY_MS, PQerrorMessage(c->pg));
    return dedup_say(detail, DEDUP_UNAVAILABLE, "postgres: %s", PQerrorMessage(c->pg));
}

static bool is_broken(const struct connection *c) {
    return PQstatus(c->pg) != CONNECTION_OK;
}

/* ---- statements with a time-out ---- */

static int64_t monotonic_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits until the connection can be read. False: the deadline has passed. */
static bool wait_readable(const PGconn *pg, int64_t deadline_ms) {
    struct pollfd p = {.fd = PQsocket(pg), .events = POLLIN};
    for (;;) {
        int64_t left = deadline_ms - monotonic_ms();
        if (left <= 0) return false;
        int n = poll(&p, 1, (int)left);
        if (n > 0 || (n < 0 && errno != EINTR)) return true;
    }
}

/* Until the statement's answer is complete. A failure of the socket ends it too: PQgetResult then tells. */
static bool wait_result(PGconn *pg, int64_t deadline_ms) {
    while (PQisBusy(pg)) {
        if (!wait_readable(pg, deadline_ms)) return false;
        if (!PQconsumeInput(pg)) return true;
    }
    return true;
}

static void cancel(PGconn *pg) {
    char why[256];
    PGcancel *c = PQgetCancel(pg);
    (void)PQcancel(c, why, sizeof why); /* if it fails, the second wait ends in a dropped connection */
    PQfreeCancel(c);
}

struct parameters {
    int count;
    const char *values[5];
    int lengths[5];
    int formats[5];
};

static void add(struct parameters *p, hf_str value, int format) {
    p->values[p->count] = value.p;
    p->lengths[p->count] = (int)value.n;
    p->formats[p->count++] = format;
}

/* Runs one statement. NULL: not answered in time even after it was cancelled, or never sent; the connection
 * must go. Else a result that the caller clears. */
static PGresult *run(struct connection *c, const char *sql, const struct parameters *p) {
    static const struct parameters none = {.count = 0};
    if (!p) p = &none;
    if (!PQsendQueryParams(c->pg, sql, p->count, NULL, p->values, p->lengths, p->formats, 0)) return NULL;
    if (!wait_result(c->pg, monotonic_ms() + c->command_timeout_ms)) {
        cancel(c->pg);
        if (!wait_result(c->pg, monotonic_ms() + CANCEL_WAIT_MS)) return NULL;
    }
    PGresult *r = PQgetResult(c->pg);
    PGresult *more;
    while (wait_result(c->pg, monotonic_ms() + CANCEL_WAIT_MS) && (more = PQgetResult(c->pg))) PQclear(more);
    return r;
}

static bool run_ok(struct connection *c, const char *sql, const struct parameters *p) {
    PGresult *r = run(c, sql, p);
    ExecStatusType status = PQresultStatus(r);
    PQclear(r);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* ---- opening ---- */

static void connection_close(void *arg) {
    struct connection *c = arg;
    PQfinish(c->pg);
    free(c);
}

static void ignore_notice(void *arg, const char *text) {
    (void)arg;
    (void)text;
}

/* What the URL says comes later and so overrides what stands here. */
static PGconn *connect_to(const struct dedup_store *s) {
    char connect_s[NUMBER_TEXT], user_timeout_ms[NUMBER_TEXT];
    (void)snprintf(connect_s, sizeof connect_s, "%" PRId64, (s->options.connect_timeout_ms + 999) / 1000);
    (void)snprintf(user_timeout_ms, sizeof user_timeout_ms, "%" PRId64, s->options.command_timeout_ms);
    const char *names[] = {"connect_timeout", "tcp_user_timeout", "application_name", "dbname", NULL};
    const char *values[] = {connect_s, user_timeout_ms, "holdfast", s->conninfo, NULL};
    return PQconnectdbParams(names, values, 1);
}

static void *connection_open(void *arg, struct dedup_detail *detail) {
    struct dedup_store *s = arg;
    struct connection *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->command_timeout_ms = s->options.command_timeout_ms;
    c->pg = connect_to(s);
    PQsetNoticeProcessor(c->pg, ignore_notice, NULL);
    if (PQstatus(c->pg) == CONNECTION_OK && PQregisterEventProc(c->pg, remember_error, "holdfast", c) &&
        run_ok(c, setup_sql, NULL))
        return c;
    (void)dedup_say(detail, DEDUP_UNAVAILABLE, "postgres: %s", PQerrorMessage(c->pg));
    connection_close(c);
    return NULL;
}

/* postgres:CONNINFO loses its prefix; postgres://… and postgresql://… are libpq's own. */
static const char *conninfo_of(const char *url) {
    const char *rest = strchr(url, ':') + 1;
    return strncmp(rest, "//", 2) == 0 ? url : rest;
}

static enum hf_err postgres_open(const struct dedup_options *o, struct dedup_store **out) {
    const char *conninfo = conninfo_of(o->url);
    PQconninfoOption *parsed = PQconninfoParse(conninfo, NULL);
    if (!parsed) return HF_EINVAL;
    PQconninfoFree(parsed);

    struct dedup_store *s = calloc(1, sizeof *s);
    if (!s) return HF_ENOMEM;
    s->options = *o;
    s->conninfo = strdup(conninfo);
    enum hf_err e = s->conninfo ? HF_OK : HF_ENOMEM;
    if (!e) e = pool_init(&s->pool, o->connections, connection_open, connection_close, s);
    if (e) {
        free(s->conninfo);
        free(s);
        return e;
    }
    *out = s;
    return HF_OK;
}

static void postgres_close(struct dedup_store *s) {
    pool_fini(&s->pool);
    free(s->conninfo);
    free(s);
}

static enum dedup_answer take(struct dedup_store *s, struct connection **c, struct dedup_detail *detail) {
    void *connection;
    enum dedup_answer a = pool_take(&s->pool, s->options.command_timeout_ms, &connection, detail);
    if (a != DEDUP_RUN) return a;
    *c = connection;
    (*c)->sqlstate[0] = 0;
    return DEDUP_RUN;
}

static enum dedup_answer postgres_start(struct dedup_store *s, struct dedup_detail *detail) {
    struct connection *c;
    enum dedup_answer a = take(s, &c, detail);
    if (a == DEDUP_RUN) pool_give(&s->pool, c);
    return a;
}

/* ---- transactions ---- */

/* Ends what is open and gives the connection back, or throws it away if that fails. */
static void end(struct dedup_store *s, struct connection *c) {
    bool clean = PQtransactionStatus(c->pg) == PQTRANS_IDLE || run_ok(c, "ROLLBACK", NULL);
    if (clean)
        pool_give(&s->pool, c);
    else
        pool_drop(&s->pool, c);
}

/* A connection with a transaction open on it. */
static enum dedup_answer open_transaction(struct dedup_store *s, struct connection **out,
                                          struct dedup_detail *detail) {
    for (int attempt = 0;; attempt++) {
        struct connection *c;
        enum dedup_answer a = take(s, &c, detail);
        if (a != DEDUP_RUN) return a;
        if (run_ok(c, "BEGIN", NULL)) {
            *out = c;
            return DEDUP_RUN;
        }
        a = failed(c, detail);
        pool_drop(&s->pool, c);
        if (attempt == 1) return a;
    }
}

static void add_key(struct parameters *p, const struct dedup_key *key, char group[DEDUP_GROUP_MAX + 1],
                    char origin[DEDUP_ORIGIN_MAX + 1]) {
    memcpy(group, key->group.p, key->group.n);
    group[key->group.n] = 0;
    memcpy(origin, key->origin.p, key->origin.n);
    origin[key->origin.n] = 0;
    add(p, hf_str_of(group), 0);
    add(p, hf_str_of(origin), 0);
    add(p, key->id, 1); /* binary */
}

static enum dedup_answer read_fingerprint(struct connection *c, const struct parameters *key,
                                          uint64_t fingerprint, struct dedup_detail *detail) {
    PGresult *r = run(c, lookup_sql, key);
    enum dedup_answer a;
    int64_t found = 0;
    if (PQresultStatus(r) != PGRES_TUPLES_OK)
        a = failed(c, detail);
    else if (PQntuples(r) != 1 || hf_str_int(hf_str_of(PQgetvalue(r, 0, 0)), &found) != HF_OK)
        a = dedup_say_busy(detail, 1, "the row has expired between two statements");
    else
        a = (uint64_t)found == fingerprint ? DEDUP_DUPLICATE : DEDUP_CONFLICT;
    PQclear(r);
    return a;
}

static enum dedup_answer insert(struct connection *c, const struct dedup_key *key, uint64_t fingerprint,
                                int64_t now_ms, struct dedup_detail *detail) {
    char group[DEDUP_GROUP_MAX + 1], origin[DEDUP_ORIGIN_MAX + 1], print[NUMBER_TEXT], now[NUMBER_TEXT];
    (void)snprintf(print, sizeof print, "%" PRId64, (int64_t)fingerprint);
    (void)snprintf(now, sizeof now, "%" PRId64, now_ms);
    struct parameters p = {.count = 0};
    add_key(&p, key, group, origin);
    add(&p, hf_str_of(print), 0);
    add(&p, hf_str_of(now), 0);

    PGresult *r = run(c, insert_sql, &p);
    enum dedup_answer a = PQresultStatus(r) == PGRES_COMMAND_OK ? DEDUP_RUN : failed(c, detail);
    bool inserted = a == DEDUP_RUN && strcmp(PQcmdTuples(r), "1") == 0;
    PQclear(r);
    if (a != DEDUP_RUN || inserted) return a;
    p.count = 3;
    return read_fingerprint(c, &p, fingerprint, detail);
}

static enum dedup_answer postgres_begin(struct dedup_store *s, const struct dedup_key *key,
                                        uint64_t fingerprint, int64_t now_ms, void **connection,
                                        struct dedup_detail *detail) {
    struct connection *c;
    enum dedup_answer a = open_transaction(s, &c, detail);
    if (a != DEDUP_RUN) return a;
    if (key) a = insert(c, key, fingerprint, now_ms, detail);
    if (a == DEDUP_RUN)
        *connection = c;
    else
        end(s, c);
    return a;
}

/* COMMIT of a failed transaction is answered "ROLLBACK" without an error, so the tag is looked at. */
static enum dedup_answer postgres_commit(struct dedup_store *s, void *connection,
                                         struct dedup_detail *detail) {
    struct connection *c = connection;
    PGTransactionStatusType status = PQtransactionStatus(c->pg);
    if (status != PQTRANS_INTRANS) {
        enum dedup_answer a = failed(c, detail);
        if (a == DEDUP_UNAVAILABLE && status == PQTRANS_IDLE)
            (void)dedup_say(detail, a, "postgres: the handler has ended the transaction itself");
        end(s, c);
        return a;
    }
    PGresult *r = run(c, "COMMIT", NULL);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK && strcmp(PQcmdStatus(r), "COMMIT") == 0;
    enum dedup_answer a = ok ? DEDUP_RUN : failed(c, detail);
    PQclear(r);
    end(s, c);
    return a;
}

static bool postgres_rollback(struct dedup_store *s, void *connection) {
    struct connection *c = connection;
    bool temporary = is_temporary(c->sqlstate) || is_broken(c);
    end(s, c);
    return temporary;
}

static void *postgres_native(void *connection) {
    return ((struct connection *)connection)->pg;
}

static enum dedup_answer postgres_expire(struct dedup_store *s, int64_t before_ms, int64_t now_ms,
                                         size_t limit, size_t *removed, struct dedup_detail *detail) {
    (void)now_ms;
    char before[NUMBER_TEXT], count[NUMBER_TEXT];
    (void)snprintf(before, sizeof before, "%" PRId64, before_ms);
    (void)snprintf(count, sizeof count, "%zu", limit);
    struct parameters p = {.count = 0};
    add(&p, hf_str_of(before), 0);
    add(&p, hf_str_of(count), 0);

    struct connection *c;
    enum dedup_answer a = open_transaction(s, &c, detail);
    if (a != DEDUP_RUN) return a;
    PGresult *r = run(c, expire_sql, &p);
    int64_t n = 0;
    if (PQresultStatus(r) != PGRES_COMMAND_OK || hf_str_int(hf_str_of(PQcmdTuples(r)), &n) != HF_OK)
        a = failed(c, detail);
    PQclear(r);
    if (a != DEDUP_RUN) {
        end(s, c);
        return a;
    }
    a = postgres_commit(s, c, detail);
    if (a == DEDUP_RUN) *removed = (size_t)n;
    return a;
}

/* ---- versioned state ---- */

/* libpq wants zero-terminated texts: id, columns and version are copied behind each other. */
static enum dedup_answer run_upsert(PGconn *pg, const char *sql, const struct dedup_upsert *u,
                                    struct hf_buf *texts, struct dedup_detail *detail) {
    const char *values[DEDUP_COLUMNS_MAX + 2];
    size_t at[DEDUP_COLUMNS_MAX + 2];
    for (size_t i = 0; i <= u->count; i++) {
        hf_str value = i ? u->columns[i - 1].value : u->id;
        at[i] = texts->n;
        if (value.p) hf_buf_put(texts, value.p, value.n);
        hf_buf_u8(texts, 0);
    }
    at[u->count + 1] = texts->n;
    hf_buf_printf(texts, "%" PRId64, u->version);
    hf_buf_u8(texts, 0);
    if (hf_buf_failed(texts)) return dedup_say(detail, DEDUP_UNAVAILABLE, "versioned upsert: too large");
    for (size_t i = 0; i <= u->count + 1; i++) {
        bool null = i >= 1 && i <= u->count && !u->columns[i - 1].value.p;
        values[i] = null ? NULL : (const char *)texts->p + at[i];
    }

    PGresult *r = PQexecParams(pg, sql, (int)u->count + 2, NULL, values, NULL, NULL, 0);
    enum dedup_answer a = DEDUP_RUN;
    const char *code = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    if (PQresultStatus(r) == PGRES_COMMAND_OK)
        a = strcmp(PQcmdTuples(r), "0") == 0 ? DEDUP_DUPLICATE : DEDUP_RUN;
    else if (code && is_temporary(code))
        a = dedup_say_busy(detail, DEDUP_LOCKED_RETRY_MS, PQerrorMessage(pg));
    else
        a = dedup_say(detail, DEDUP_UNAVAILABLE, "postgres: %s", PQerrorMessage(pg));
    PQclear(r);
    return a;
}

enum { UPSERT_BYTES_MAX = 16 << 20 };

static enum dedup_answer postgres_upsert(void *connection, const struct dedup_upsert *u,
                                         struct dedup_detail *detail) {
    PGconn *pg = ((struct connection *)connection)->pg;
    struct hf_buf sql, texts;
    hf_buf_init(&sql, DEDUP_SQL_MAX);
    hf_buf_init(&texts, UPSERT_BYTES_MAX);
    enum hf_err e = dedup_upsert_sql(u, &sql);
    hf_buf_u8(&sql, 0);
    if (!e) e = hf_buf_failed(&sql);
    enum dedup_answer a = e ? dedup_say(detail, DEDUP_UNAVAILABLE, "versioned upsert: %s", hf_err_text(e))
                            : run_upsert(pg, (const char *)sql.p, u, &texts, detail);
    hf_buf_fini(&sql);
    hf_buf_fini(&texts);
    return a;
}

const struct dedup_ops dedup_postgres_ops = {
    .name = "postgres",
    .kind = DEDUP_DATABASE,
    .open = postgres_open,
    .close = postgres_close,
    .start = postgres_start,
    .expire = postgres_expire,
    .begin = postgres_begin,
    .commit = postgres_commit,
    .rollback = postgres_rollback,
    .native = postgres_native,
    .upsert = postgres_upsert,
};
