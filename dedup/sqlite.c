/* The database store over SQLite: the dedup row and the effect in one transaction.
 *
 *     holdfast_dedup(consumer_group, origin, message_id, fingerprint, done_ms,
 *                    PRIMARY KEY (consumer_group, origin, message_id))
 *     and an index on done_ms, for expiry
 *
 * BEGIN IMMEDIATE takes the write lock at once: a deferred transaction that finds at its first write that
 * another has written since its first read fails with SQLITE_BUSY whatever it waits. Since SQLite has one
 * writer, the pool has one connection: handlers of one process queue for it in the pool, which is fair and
 * wakes at once, and only other processes are waited for by SQLite's polling busy handler.
 *
 * The database is the user's: its journal mode and synchronous setting stay as they are. */
#include "pool.h"
#include "store.h"

#include "base/bytes.h"

#include <assert.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_MAX_BYTES = 4096 };

struct dedup_store {
    struct dedup_options options;
    struct pool pool; /* of struct connection */
    char path[PATH_MAX_BYTES];
};

struct connection {
    sqlite3 *db;
    sqlite3_stmt *insert, *lookup;
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS holdfast_dedup (consumer_group TEXT NOT NULL, origin TEXT NOT NULL, "
    "message_id BLOB NOT NULL, fingerprint INTEGER NOT NULL, done_ms INTEGER NOT NULL, "
    "PRIMARY KEY (consumer_group, origin, message_id));"
    "CREATE INDEX IF NOT EXISTS holdfast_dedup_done ON holdfast_dedup (done_ms);";

static const char insert_sql[] =
    "INSERT INTO holdfast_dedup (consumer_group, origin, message_id, fingerprint, done_ms) "
    "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";

static const char lookup_sql[] =
    "SELECT fingerprint FROM holdfast_dedup WHERE consumer_group = ?1 AND origin = ?2 AND message_id = ?3";

static const char expire_sql[] =
    "DELETE FROM holdfast_dedup WHERE rowid IN "
    "(SELECT rowid FROM holdfast_dedup WHERE done_ms <= ?1 ORDER BY done_ms LIMIT ?2)";

/* ---- opening ---- */

static void connection_close(void *arg) {
    struct connection *c = arg;
    sqlite3_finalize(c->insert);
    sqlite3_finalize(c->lookup);
    sqlite3_close_v2(c->db); /* a statement that the handler forgot keeps it until it is finalized */
    free(c);
}

static bool connection_prepare(struct connection *c, const struct dedup_store *s) {
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_EXRESCODE;
    return sqlite3_open_v2(s->path, &c->db, flags, NULL) == SQLITE_OK &&
           sqlite3_busy_timeout(c->db, (int)s->options.command_timeout_ms) == SQLITE_OK &&
           sqlite3_exec(c->db, schema, NULL, NULL, NULL) == SQLITE_OK &&
           sqlite3_prepare_v3(c->db, insert_sql, -1, SQLITE_PREPARE_PERSISTENT, &c->insert, NULL) ==
               SQLITE_OK &&
           sqlite3_prepare_v3(c->db, lookup_sql, -1, SQLITE_PREPARE_PERSISTENT, &c->lookup, NULL) ==
               SQLITE_OK;
}

static void *connection_open(void *arg, struct dedup_detail *detail) {
    struct connection *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    struct dedup_store *s = arg;
    if (connection_prepare(c, s)) return c;
    (void)dedup_say(detail, DEDUP_UNAVAILABLE, "sqlite %s: %s", s->path,
                    c->db ? sqlite3_errmsg(c->db) : "out of memory");
    connection_close(c);
    return NULL;
}

static enum hf_err sqlite_open(const struct dedup_options *o, struct dedup_store **out) {
    const char *path = o->url + strlen("sqlite:");
    size_t n = strlen(path);
    if (n == 0 || n >= PATH_MAX_BYTES) return HF_EINVAL;
    struct dedup_store *s = calloc(1, sizeof *s);
    if (!s) return HF_ENOMEM;
    s->options = *o;
    memcpy(s->path, path, n + 1);
    enum hf_err e = pool_init(&s->pool, 1, connection_open, connection_close, s);
    if (e) {
        free(s);
        return e;
    }
    *out = s;
    return HF_OK;
}

static void sqlite_close(struct dedup_store *s) {
    pool_fini(&s->pool);
    free(s);
}

static enum dedup_answer take(struct dedup_store *s, struct connection **c, struct dedup_detail *detail) {
    void *connection;
    enum dedup_answer a = pool_take(&s->pool, s->options.command_timeout_ms, &connection, detail);
    if (a == DEDUP_RUN) *c = connection;
    return a;
}

static enum dedup_answer sqlite_start(struct dedup_store *s, struct dedup_detail *detail) {
    struct connection *c;
    enum dedup_answer a = take(s, &c, detail);
    if (a == DEDUP_RUN) pool_give(&s->pool, c);
    return a;
}

/* ---- failures ---- */

static bool is_temporary(int code) {
    return (code & 0xff) == SQLITE_BUSY || (code & 0xff) == SQLITE_LOCKED;
}

static enum dedup_answer failed(sqlite3 *db, struct dedup_detail *detail) {
    if (is_temporary(sqlite3_errcode(db)))
        return dedup_say_busy(detail, DEDUP_LOCKED_RETRY_MS, sqlite3_errmsg(db));
    return dedup_say(detail, DEDUP_UNAVAILABLE, "sqlite: %s", sqlite3_errmsg(db));
}

/* Ends what is open. A connection on which even that fails is thrown away, which rolls back too. */
static void end(struct dedup_store *s, struct connection *c) {
    bool clean =
        sqlite3_get_autocommit(c->db) || sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK;
    if (clean)
        pool_give(&s->pool, c);
    else
        pool_drop(&s->pool, c);
}

/* ---- transactions ---- */

static int bind_key(sqlite3_stmt *stmt, const struct dedup_key *key) {
    int rc = sqlite3_bind_text(stmt, 1, key->group.p, (int)key->group.n, SQLITE_STATIC);
    if (!rc) rc = sqlite3_bind_text(stmt, 2, key->origin.p, (int)key->origin.n, SQLITE_STATIC);
    if (!rc) rc = sqlite3_bind_blob(stmt, 3, key->id.p, (int)key->id.n, SQLITE_STATIC);
    return rc;
}

static void unbind(sqlite3_stmt *stmt) {
    sqlite3_reset(stmt); /* its result repeats the step's */
    sqlite3_clear_bindings(stmt);
}

static enum dedup_answer insert(struct connection *c, const struct dedup_key *key, uint64_t fingerprint,
                                int64_t now_ms, struct dedup_detail *detail) {
    int rc = bind_key(c->insert, key);
    if (!rc) rc = sqlite3_bind_int64(c->insert, 4, (int64_t)fingerprint);
    if (!rc) rc = sqlite3_bind_int64(c->insert, 5, now_ms);
    if (!rc) rc = sqlite3_step(c->insert);
    enum dedup_answer a = rc == SQLITE_DONE ? DEDUP_RUN : failed(c->db, detail);
    unbind(c->insert);
    if (a != DEDUP_RUN || sqlite3_changes(c->db) == 1) return a;

    rc = bind_key(c->lookup, key);
    if (!rc) rc = sqlite3_step(c->lookup);
    if (rc == SQLITE_ROW)
        a = (uint64_t)sqlite3_column_int64(c->lookup, 0) == fingerprint ? DEDUP_DUPLICATE : DEDUP_CONFLICT;
    else
        a = failed(c->db, detail);
    unbind(c->lookup);
    return a;
}

static enum dedup_answer sqlite_begin(struct dedup_store *s, const struct dedup_key *key,
                                      uint64_t fingerprint, int64_t now_ms, void **connection,
                                      struct dedup_detail *detail) {
    struct connection *c;
    enum dedup_answer a = take(s, &c, detail);
    if (a != DEDUP_RUN) return a;
    if (sqlite3_exec(c->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        a = failed(c->db, detail);
    else if (key)
        a = insert(c, key, fingerprint, now_ms, detail);
    if (a == DEDUP_RUN)
        *connection = c;
    else
        end(s, c);
    return a;
}

static enum dedup_answer sqlite_commit(struct dedup_store *s, void *connection, struct dedup_detail *detail) {
    struct connection *c = connection;
    enum dedup_answer a = DEDUP_RUN;
    if (sqlite3_get_autocommit(c->db))
        a = dedup_say(detail, DEDUP_UNAVAILABLE,
                      "sqlite: the transaction has ended before its commit: a statement in it failed, or the "
                      "handler ended it");
    else if (sqlite3_exec(c->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        a = failed(c->db, detail);
    end(s, c);
    return a;
}

static bool sqlite_rollback(struct dedup_store *s, void *connection) {
    struct connection *c = connection;
    bool temporary = is_temporary(sqlite3_errcode(c->db));
    end(s, c);
    return temporary;
}

static void *sqlite_native(void *connection) {
    return ((struct connection *)connection)->db;
}

static enum dedup_answer sqlite_expire(struct dedup_store *s, int64_t before_ms, int64_t now_ms, size_t limit,
                                       size_t *removed, struct dedup_detail *detail) {
    (void)now_ms;
    struct connection *c;
    enum dedup_answer a = take(s, &c, detail);
    if (a != DEDUP_RUN) return a;
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(c->db, expire_sql, -1, &stmt, NULL);
    if (!rc) rc = sqlite3_bind_int64(stmt, 1, before_ms);
    if (!rc) rc = sqlite3_bind_int64(stmt, 2, limit > INT64_MAX ? INT64_MAX : (int64_t)limit);
    if (!rc) rc = sqlite3_step(stmt);
    if (rc == SQLITE_DONE)
        *removed = (size_t)sqlite3_changes(c->db);
    else
        a = failed(c->db, detail);
    sqlite3_finalize(stmt);
    end(s, c);
    return a;
}

/* ---- versioned state ---- */

static int bind_text(sqlite3_stmt *stmt, int at, hf_str value) {
    if (!value.p) return sqlite3_bind_null(stmt, at);
    return sqlite3_bind_text64(stmt, at, value.p, value.n, SQLITE_STATIC, SQLITE_UTF8);
}

static int bind_upsert(sqlite3_stmt *stmt, const struct dedup_upsert *u) {
    int rc = bind_text(stmt, 1, u->id);
    for (size_t i = 0; !rc && i < u->count; i++) rc = bind_text(stmt, (int)i + 2, u->columns[i].value);
    return rc ? rc : sqlite3_bind_int64(stmt, (int)u->count + 2, u->version);
}

static enum dedup_answer sqlite_upsert(void *connection, const struct dedup_upsert *u,
                                       struct dedup_detail *detail) {
    struct sqlite3 *db = ((struct connection *)connection)->db;
    struct hf_buf sql;
    hf_buf_init(&sql, DEDUP_SQL_MAX);
    enum hf_err e = dedup_upsert_sql(u, &sql);
    if (e) {
        hf_buf_fini(&sql);
        return dedup_say(detail, DEDUP_UNAVAILABLE, "versioned upsert: %s", hf_err_text(e));
    }
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, (const char *)sql.p, (int)sql.n, &stmt, NULL);
    if (!rc) rc = bind_upsert(stmt, u);
    if (!rc) rc = sqlite3_step(stmt);
    enum dedup_answer a = DEDUP_RUN;
    if (rc != SQLITE_DONE)
        a = failed(db, detail);
    else if (sqlite3_changes(db) == 0)
        a = DEDUP_DUPLICATE;
    sqlite3_finalize(stmt);
    hf_buf_fini(&sql);
    return a;
}

const struct dedup_ops dedup_sqlite_ops = {
    .name = "sqlite",
    .kind = DEDUP_DATABASE,
    .open = sqlite_open,
    .close = sqlite_close,
    .start = sqlite_start,
    .expire = sqlite_expire,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .native = sqlite_native,
    .upsert = sqlite_upsert,
};
