/* The open-transaction trap, closed by the primary key.
 *
 * A check that finds no row cannot tell "never happened" from "has not committed yet". So it first puts a
 * void row under the same key and then looks what the row is. Whichever of the two inserts commits first,
 * wins: either the local transaction's (the check reads "real" and answers commit) or the void one (the late
 * local transaction's insert fails, and it rolls back). PostgreSQL makes the second insert wait for the first
 * one's end; SQLite has one writer, so it answers busy, which is HF_UNKNOWN here: asked again later. */
#include "client.h"

#include <libpq-fe.h>
#include <sqlite3.h>
#include <string.h>

static const char table[] =
    "CREATE TABLE IF NOT EXISTS holdfast_local (id VARCHAR(512) PRIMARY KEY, real INTEGER "
    "NOT NULL)";
static const char sqlite_void[] =
    "INSERT INTO holdfast_local (id, real) VALUES (?1, 0) ON CONFLICT (id) DO NOTHING";
static const char sqlite_real[] = "SELECT real FROM holdfast_local WHERE id = ?1";
static const char sqlite_mark[] = "INSERT INTO holdfast_local (id, real) VALUES (?1, 1)";
static const char postgres_void[] =
    "INSERT INTO holdfast_local (id, real) VALUES ($1, 0) ON CONFLICT (id) DO NOTHING";
static const char postgres_real[] = "SELECT real FROM holdfast_local WHERE id = $1";
static const char postgres_mark[] = "INSERT INTO holdfast_local (id, real) VALUES ($1, 1)";

/* ---- SQLite ---- */

/* Runs a statement with one parameter. *value: first column of its only row, -1 without a row. An SQLite
 * code. */
static int sqlite_run(struct sqlite3 *db, const char *sql, const char *id, int *value) {
    sqlite3_stmt *s = NULL;
    int r = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    if (r == SQLITE_OK) r = sqlite3_bind_text(s, 1, id, -1, SQLITE_STATIC);
    if (r == SQLITE_OK) r = sqlite3_step(s);
    *value = -1;
    if (r == SQLITE_ROW) {
        *value = sqlite3_column_int(s, 0);
        r = sqlite3_step(s);
    }
    sqlite3_finalize(s);
    return r == SQLITE_DONE ? SQLITE_OK : r == SQLITE_OK ? SQLITE_ERROR : r;
}

hf_decision hf_decide_sqlite(struct sqlite3 *db, const char *insert_void, const char *is_real,
                             const char *id) {
    int value = -1;
    int r = SQLITE_OK;
    if (!insert_void && !is_real) {
        insert_void = sqlite_void;
        is_real = sqlite_real;
        r = sqlite3_exec(db, table, NULL, NULL, NULL);
    }
    if (r == SQLITE_OK) r = sqlite_run(db, insert_void, id, &value);
    if (r == SQLITE_OK) r = sqlite_run(db, is_real, id, &value);
    if (r != SQLITE_OK || value < 0) {
        (void)client_error(HF_EIO, "check of \"%s\": %s", id,
                           r ? sqlite3_errmsg(db) : "is_real found no row");
        return HF_UNKNOWN;
    }
    return value ? HF_COMMIT : HF_ROLLBACK;
}

enum hf_err hf_mark_sqlite(struct sqlite3 *db, const char *id) {
    int value = -1;
    int r = sqlite3_exec(db, table, NULL, NULL, NULL);
    if (r == SQLITE_OK) r = sqlite_run(db, sqlite_mark, id, &value);
    if (r == SQLITE_OK) return HF_OK;
    if ((r & 0xff) == SQLITE_CONSTRAINT)
        return client_error(HF_EDECIDED,
                            "mark of \"%s\": a check has decided rollback, or it is marked already", id);
    return client_error(HF_EIO, "mark of \"%s\": %s", id, sqlite3_errmsg(db));
}

/* ---- PostgreSQL ---- */

/* As sqlite_run. 0; 1: the key is taken; -1: failed. */
static int postgres_run(PGconn *db, const char *sql, const char *id, int *value) {
    const char *const values[] = {id};
    PGresult *r = PQexecParams(db, sql, 1, NULL, values, NULL, NULL, 0);
    ExecStatusType status = PQresultStatus(r);
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    int answer = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : -1;
    if (state && strcmp(state, "23505") == 0) answer = 1;
    *value = -1;
    if (status == PGRES_TUPLES_OK && PQntuples(r) == 1 && !PQgetisnull(r, 0, 0)) {
        const char *v = PQgetvalue(r, 0, 0);
        *value = *v == 't' || *v == '1';
    }
    PQclear(r);
    return answer;
}

/* Looks first: to create what exists is told as a notice each time, and within a transaction asks for a lock. */
static bool postgres_table(PGconn *db) {
    int there = -1;
    if (postgres_run(db, "SELECT to_regclass($1) IS NOT NULL", "holdfast_local", &there)) return false;
    if (there == 1) return true;
    PGresult *r = PQexec(db, table);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    PQclear(r);
    return ok;
}

hf_decision hf_decide_postgres(struct pg_conn *db, const char *insert_void, const char *is_real,
                               const char *id) {
    int value = -1;
    bool ok = true;
    if (!insert_void && !is_real) {
        insert_void = postgres_void;
        is_real = postgres_real;
        ok = postgres_table(db);
    }
    ok = ok && postgres_run(db, insert_void, id, &value) == 0 && postgres_run(db, is_real, id, &value) == 0;
    if (!ok || value < 0) {
        (void)client_error(HF_EIO, "check of \"%s\": %s", id,
                           ok ? "is_real found no row" : PQerrorMessage(db));
        return HF_UNKNOWN;
    }
    return value ? HF_COMMIT : HF_ROLLBACK;
}

enum hf_err hf_mark_postgres(struct pg_conn *db, const char *id) {
    int value = -1;
    int r = postgres_table(db) ? postgres_run(db, postgres_mark, id, &value) : -1;
    if (r == 0) return HF_OK;
    if (r > 0)
        return client_error(HF_EDECIDED,
                            "mark of \"%s\": a check has decided rollback, or it is marked already", id);
    return client_error(HF_EIO, "mark of \"%s\": %s", id, PQerrorMessage(db));
}
