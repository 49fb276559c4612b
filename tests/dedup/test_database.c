/* One contract suite for the database stores: SQLite and a real PostgreSQL pass the same tests. The effect is
 * a row in table `effect`. */
#include "dedup/dedup.h"
#include "dedup/version.h"

#include "base/bytes.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { SHORT_MS = 300, LONG_MS = 30000, HORIZON_MS = 10000 };

struct fixture {
    const char *name;
    char url[512];
    struct dedup *dedup;
    struct dedup *other; /* as another process would see the database */
    char group[64];
};

static struct fixture fixtures[2] = {{.name = "sqlite"}, {.name = "postgres"}};
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

static struct dedup *open_for(const char *url, int64_t timeout_ms) {
    struct dedup *d;
    struct dedup_options o = {
        .url = url, .horizon_ms = HORIZON_MS, .connections = 8, .command_timeout_ms = timeout_ms};
    assert_int_equal(dedup_open(&o, &d), HF_OK);
    assert_int_equal(dedup_kind(d), DEDUP_DATABASE);
    return d;
}

static struct dedup *open_at(const char *url) {
    return open_for(url, LONG_MS);
}

/* ---- statements in a transaction, whatever the database ---- */

static bool sqlite_sql(sqlite3 *db, const char *sql, int *number) {
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK) return false;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW && number) *number = sqlite3_column_int(stmt, 0);
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

static bool postgres_sql(PGconn *pg, const char *sql, int *number) {
    PGresult *r = PQexec(pg, sql);
    ExecStatusType status = PQresultStatus(r);
    if (status == PGRES_TUPLES_OK && PQntuples(r) && number) *number = atoi(PQgetvalue(r, 0, 0));
    PQclear(r);
    return status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
}

static bool sql(struct dedup_tx *tx, const char *text, int *number) {
    sqlite3 *db = dedup_tx_sqlite(tx);
    return db ? sqlite_sql(db, text, number) : postgres_sql(dedup_tx_postgres(tx), text, number);
}

static void commit(struct dedup_tx *tx) {
    struct dedup_detail d;
    if (dedup_commit(tx, &d) != DEDUP_RUN) fail_msg("commit: %s", d.why);
}

static void plain(struct fixture *f, const char *text, int *number) {
    struct dedup_tx *tx;
    struct dedup_detail d;
    if (dedup_begin_plain(f->dedup, &tx, &d) != DEDUP_RUN) fail_msg("begin: %s", d.why);
    assert_true(sql(tx, text, number));
    commit(tx);
}

static int effects(struct fixture *f) {
    int n = -1;
    plain(f, "SELECT count(*) FROM effect", &n);
    return n;
}

static int setup(void **state) {
    (void)state;
    (void)snprintf(fixtures[0].url, sizeof fixtures[0].url, "sqlite:%s/effects.db", getenv("HF_TEST_DIR"));
    (void)snprintf(fixtures[1].url, sizeof fixtures[1].url, "%s", getenv("HF_TEST_POSTGRES"));
    for (int i = 0; i < FIXTURES; i++) {
        fixtures[i].dedup = open_at(fixtures[i].url);
        fixtures[i].other = open_at(fixtures[i].url);
        plain(&fixtures[i], "CREATE TABLE effect (id TEXT)", NULL);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < FIXTURES; i++) {
        dedup_close(fixtures[i].dedup);
        dedup_close(fixtures[i].other);
    }
    return 0;
}

static void each_store(void (*body)(struct fixture *f)) {
    static int groups;
    for (int i = 0; i < FIXTURES; i++) {
        print_message("  on %s\n", fixtures[i].name);
        (void)snprintf(fixtures[i].group, sizeof fixtures[i].group, "g%d", ++groups);
        plain(&fixtures[i], "DELETE FROM effect", NULL);
        body(&fixtures[i]);
    }
}

#define TEST_ON_EACH(name)                                                                                   \
    static void name##_on(struct fixture *f);                                                                \
    static void name(void **state) {                                                                         \
        (void)state;                                                                                         \
        each_store(name##_on);                                                                               \
    }                                                                                                        \
    static void name##_on(struct fixture *f)

static enum dedup_answer begin_in(struct dedup *d, struct fixture *f, const char *id, uint64_t print,
                                  struct dedup_tx **tx, struct dedup_detail *detail) {
    struct dedup_key k = {hf_str_of(f->group), HF_STR("orders.paid"), hf_str_of(id)};
    return dedup_begin(d, &k, print, 1000, tx, detail);
}

static enum dedup_answer begin(struct fixture *f, const char *id, uint64_t print, struct dedup_tx **tx) {
    struct dedup_detail d;
    return begin_in(f->dedup, f, id, print, tx, &d);
}

static void run_effect(struct fixture *f, const char *id) {
    struct dedup_tx *tx;
    assert_int_equal(begin(f, id, 1, &tx), DEDUP_RUN);
    assert_true(sql(tx, "INSERT INTO effect VALUES ('x')", NULL));
    commit(tx);
}

static bool is_sqlite(const struct fixture *f) {
    return strcmp(f->name, "sqlite") == 0;
}

/* ---- the contract ---- */

TEST_ON_EACH(row_and_effect_commit_together) {
    struct dedup_tx *tx;
    run_effect(f, "a");
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_DUPLICATE);
    assert_int_equal(effects(f), 1);
}

TEST_ON_EACH(rollback_leaves_neither_row_nor_effect) {
    struct dedup_tx *tx;
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    assert_true(sql(tx, "INSERT INTO effect VALUES ('x')", NULL));
    assert_false(dedup_rollback(tx));
    assert_int_equal(effects(f), 0);
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    assert_false(dedup_rollback(tx));
}

TEST_ON_EACH(same_identity_with_another_content_is_a_conflict) {
    struct dedup_tx *tx;
    assert_int_equal(begin(f, "a", UINT64_MAX, &tx), DEDUP_RUN);
    commit(tx);
    assert_int_equal(begin(f, "a", 5, &tx), DEDUP_CONFLICT);
    assert_int_equal(begin(f, "a", UINT64_MAX, &tx), DEDUP_DUPLICATE);
}

TEST_ON_EACH(groups_origins_and_odd_ids_do_not_mix) {
    static const char odd[] = "'; DROP TABLE effect; --\0\xff";
    struct dedup_key keys[] = {{hf_str_of(f->group), HF_STR("t"), HF_STR("x")},
                               {HF_STR("another"), HF_STR("t"), hf_str_of(f->group)},
                               {hf_str_of(f->group), HF_STR("u"), HF_STR("x")},
                               {hf_str_of(f->group), HF_STR("t"), hf_str_make(odd, sizeof odd - 1)}};
    struct dedup_tx *tx;
    struct dedup_detail d;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        assert_int_equal(dedup_begin(f->dedup, &keys[i], i, 1000, &tx, &d), DEDUP_RUN);
        commit(tx);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_int_equal(dedup_begin(f->dedup, &keys[i], i, 1000, &tx, &d), DEDUP_DUPLICATE);
}

/* ---- two at the same message ---- */

struct second {
    struct fixture *f;
    bool started;
    enum dedup_answer answer;
};

static void *begin_second(void *arg) {
    struct second *s = arg;
    struct dedup_tx *tx;
    struct dedup_detail d;
    __atomic_store_n(&s->started, true, __ATOMIC_RELEASE);
    s->answer = begin_in(s->f->other, s->f, "same", 1, &tx, &d);
    if (s->answer == DEDUP_RUN) (void)dedup_rollback(tx);
    return NULL;
}

static enum dedup_answer second_while_first(struct fixture *f, bool first_commits) {
    struct dedup_tx *tx;
    assert_int_equal(begin(f, "same", 1, &tx), DEDUP_RUN);
    struct second s = {.f = f};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, begin_second, &s), 0);
    while (!__atomic_load_n(&s.started, __ATOMIC_ACQUIRE)) sched_yield();
    if (first_commits)
        commit(tx);
    else
        (void)dedup_rollback(tx);
    pthread_join(thread, NULL);
    return s.answer;
}

TEST_ON_EACH(second_worker_waits_and_is_told_duplicate_after_the_commit) {
    assert_int_equal(second_while_first(f, true), DEDUP_DUPLICATE);
}

TEST_ON_EACH(second_worker_waits_and_runs_after_the_rollback) {
    assert_int_equal(second_while_first(f, false), DEDUP_RUN);
}

TEST_ON_EACH(waiting_for_another_worker_ends_in_busy) {
    struct dedup_tx *tx, *none;
    struct dedup_detail d;
    struct dedup *hasty = open_for(f->url, SHORT_MS);
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    assert_int_equal(begin_in(hasty, f, "a", 1, &none, &d), DEDUP_BUSY);
    assert_true(d.retry_ms >= 1);
    commit(tx);
    dedup_close(hasty);
    assert_int_equal(begin_in(f->other, f, "a", 1, &none, &d), DEDUP_DUPLICATE);
}

enum { THREADS = 8, MESSAGES = 25 };

static void *handle_all(void *arg) {
    struct fixture *f = arg;
    for (int i = 0; i < MESSAGES; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "crowd%d", i);
        struct dedup_tx *tx;
        struct dedup_detail d;
        for (;;) {
            enum dedup_answer a = begin(f, id, 1, &tx);
            if (a == DEDUP_DUPLICATE) break;
            if (a != DEDUP_RUN) continue;
            bool ok = sql(tx, "INSERT INTO effect VALUES ('x')", NULL);
            if (!ok) (void)dedup_rollback(tx);
            if (ok && dedup_commit(tx, &d) == DEDUP_RUN) break;
        }
    }
    return NULL;
}

TEST_ON_EACH(many_threads_do_each_effect_once) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, handle_all, f), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(effects(f), MESSAGES);
}

/* ---- failures ---- */

TEST_ON_EACH(used_up_pool_is_busy_and_gives_out_what_comes_back) {
    struct dedup *narrow;
    struct dedup_options o = {.url = f->url, .connections = 1, .command_timeout_ms = 2000};
    assert_int_equal(dedup_open(&o, &narrow), HF_OK);
    struct dedup_tx *first, *second;
    struct dedup_detail d;
    assert_int_equal(begin_in(narrow, f, "a", 1, &first, &d), DEDUP_RUN);
    assert_int_equal(begin_in(narrow, f, "b", 1, &second, &d), DEDUP_BUSY);
    assert_non_null(strstr(d.why, "pool"));
    assert_false(dedup_rollback(first));
    assert_int_equal(begin_in(narrow, f, "b", 1, &second, &d), DEDUP_RUN);
    assert_false(dedup_rollback(second));
    dedup_close(narrow);
}

TEST_ON_EACH(failed_statement_is_an_attempt_and_commits_nothing) {
    struct dedup_tx *tx;
    struct dedup_detail d;
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    assert_true(sql(tx, "INSERT INTO effect VALUES ('x')", NULL));
    assert_false(sql(tx, "INSERT INTO no_such_table VALUES (1)", NULL));
    assert_false(dedup_rollback(tx));
    assert_int_equal(effects(f), 0);

    /* PostgreSQL: the transaction has failed; a handler that says done all the same commits nothing. */
    if (is_sqlite(f)) return;
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    assert_false(sql(tx, "INSERT INTO no_such_table VALUES (1)", NULL));
    assert_false(sql(tx, "SELECT 1", NULL));
    assert_int_equal(dedup_commit(tx, &d), DEDUP_UNAVAILABLE);
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    (void)dedup_rollback(tx);
}

TEST_ON_EACH(handler_that_ends_the_transaction_itself_is_found_out) {
    struct dedup_tx *tx;
    struct dedup_detail d;
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    assert_true(sql(tx, "ROLLBACK", NULL));
    assert_int_equal(dedup_commit(tx, &d), DEDUP_UNAVAILABLE);
    assert_non_null(strstr(d.why, "transaction"));
    assert_int_equal(begin(f, "a", 1, &tx), DEDUP_RUN);
    commit(tx);
}

TEST_ON_EACH(expiry_removes_batches_of_what_is_older_than_the_horizon) {
    struct dedup_detail d;
    struct dedup_tx *tx;
    plain(f, "DELETE FROM holdfast_dedup", NULL);
    char id[8];
    for (int i = 0; i < 10; i++) {
        (void)snprintf(id, sizeof id, "%d", i);
        struct dedup_key k = {hf_str_of(f->group), HF_STR("t"), hf_str_of(id)};
        assert_int_equal(dedup_begin(f->dedup, &k, 1, 1000 + i, &tx, &d), DEDUP_RUN);
        commit(tx);
    }
    size_t removed = 99;
    int64_t now = 1000 + HORIZON_MS + 6; /* seven of them have come to their end */
    assert_int_equal(dedup_expire(f->dedup, now, 4, &removed, &d), DEDUP_RUN);
    assert_int_equal(removed, 4);
    assert_int_equal(dedup_expire(f->dedup, now, 4, &removed, &d), DEDUP_RUN);
    assert_int_equal(removed, 3);
    int left = -1;
    plain(f, "SELECT min(done_ms) FROM holdfast_dedup", &left);
    assert_int_equal(left, 1007);
}

static void sqlite_that_another_process_holds_is_busy(void **state) {
    (void)state;
    struct fixture *f = &fixtures[0];
    sqlite3 *db;
    assert_int_equal(sqlite3_open(f->url + strlen("sqlite:"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    struct dedup_tx *tx;
    struct dedup_detail d;
    struct dedup *hasty = open_for(f->url, SHORT_MS);
    assert_int_equal(begin_in(hasty, f, "held", 1, &tx, &d), DEDUP_BUSY);
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);

    /* A reader in between lets the transaction begin but not commit. */
    assert_int_equal(begin_in(hasty, f, "held", 1, &tx, &d), DEDUP_RUN);
    sqlite3_stmt *reader;
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT * FROM holdfast_dedup", -1, &reader, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(reader), SQLITE_ROW);
    assert_int_equal(dedup_commit(tx, &d), DEDUP_BUSY);
    sqlite3_finalize(reader);
    sqlite3_close(db);
    dedup_close(hasty);
    assert_int_equal(begin_in(f->dedup, f, "held", 1, &tx, &d), DEDUP_RUN);
    commit(tx);
}

/* ---- PostgreSQL's own failures ---- */

static struct dedup_tx *begin_or_fail(struct fixture *f, const char *id) {
    struct dedup_tx *tx;
    assert_int_equal(begin(f, id, 1, &tx), DEDUP_RUN);
    return tx;
}

static void postgres_serialisation_failure_is_no_attempt(void **state) {
    (void)state;
    struct fixture *f = &fixtures[1];
    struct dedup_detail d;
    plain(f, "CREATE TABLE IF NOT EXISTS account (id int PRIMARY KEY, n int)", NULL);
    plain(f, "INSERT INTO account VALUES (1, 0) ON CONFLICT DO NOTHING", NULL);
    plain(f, "ALTER DATABASE postgres SET default_transaction_isolation = 'repeatable read'", NULL);
    struct fixture strict = *f;
    strict.dedup = open_at(f->url);

    struct dedup_tx *one = begin_or_fail(&strict, "s1"), *two = begin_or_fail(&strict, "s2");
    assert_true(sql(one, "UPDATE account SET n = n + 1 WHERE id = 1", NULL));
    assert_int_equal(dedup_commit(one, &d), DEDUP_RUN);
    assert_false(sql(two, "UPDATE account SET n = n + 1 WHERE id = 1", NULL)); /* 40001 */
    assert_true(dedup_rollback(two));

    one = begin_or_fail(&strict, "s3"), two = begin_or_fail(&strict, "s4");
    assert_true(sql(one, "UPDATE account SET n = n + 1 WHERE id = 1", NULL));
    assert_int_equal(dedup_commit(one, &d), DEDUP_RUN);
    assert_false(sql(two, "UPDATE account SET n = n + 1 WHERE id = 1", NULL));
    assert_false(sql(two, "SELECT 1", NULL));            /* 25P02 does not hide it */
    assert_int_equal(dedup_commit(two, &d), DEDUP_BUSY); /* nor does a handler that says done */
    plain(f, "ALTER DATABASE postgres RESET default_transaction_isolation", NULL);
    dedup_close(strict.dedup);
}

static void postgres_lock_timeout_is_no_attempt(void **state) {
    (void)state;
    struct fixture *f = &fixtures[1];
    plain(f, "CREATE TABLE IF NOT EXISTS account (id int PRIMARY KEY, n int)", NULL);
    struct dedup_tx *one = begin_or_fail(f, "l1"), *two = begin_or_fail(f, "l2");
    assert_true(sql(one, "LOCK TABLE account IN ACCESS EXCLUSIVE MODE", NULL));
    assert_false(sql(two, "LOCK TABLE account IN ACCESS EXCLUSIVE MODE NOWAIT", NULL)); /* 55P03 */
    assert_true(dedup_rollback(two));
    assert_false(dedup_rollback(one));
}

static void postgres_that_cuts_connections_loses_nothing(void **state) {
    (void)state;
    struct fixture *f = &fixtures[1];
    struct dedup_detail d;
    struct fixture victim = *f;
    victim.dedup = open_at(f->url);
    for (int commits = 0; commits < 2; commits++) {
        struct dedup_tx *tx = begin_or_fail(&victim, "cut");
        int pid = 0;
        char kill[80];
        assert_true(sql(tx, "SELECT pg_backend_pid()", &pid));
        (void)snprintf(kill, sizeof kill, "SELECT pg_terminate_backend(%d, 5000)", pid);
        plain(f, kill, NULL);
        if (commits)
            assert_int_equal(dedup_commit(tx, &d), DEDUP_UNAVAILABLE);
        else {
            assert_false(sql(tx, "INSERT INTO effect VALUES ('x')", NULL));
            assert_true(dedup_rollback(tx)); /* no attempt */
        }
    }
    run_effect(&victim, "cut");

    /* Idle connections that were cut are replaced without anybody noticing. */
    plain(f,
          "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
          "WHERE pid <> pg_backend_pid() AND application_name = 'holdfast'",
          NULL);
    run_effect(&victim, "after the cut");
    dedup_close(victim.dedup);
}

static void databases_that_are_not_there_run_nothing(void **state) {
    (void)state;
    static const char *const urls[] = {"sqlite:/no/such/folder/x.db",
                                       "postgres:host=127.0.0.1 port=1 user=postgres",
                                       "postgresql://postgres@127.0.0.1:1/postgres"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct dedup *d = open_at(urls[i]);
        struct dedup_tx *tx;
        struct dedup_detail detail;
        assert_int_equal(begin_in(d, &fixtures[0], "a", 1, &tx, &detail), DEDUP_UNAVAILABLE);
        assert_true(detail.why[0]);
        dedup_close(d);
    }
}

/* ---- versioned state ---- */

static enum dedup_answer put_state(struct fixture *f, const char *id, hf_str status, int64_t version) {
    struct dedup_column columns[] = {{"status \"now\"", status}, {"seen", HF_STR("1")}};
    struct dedup_upsert u = {"coupon", "code", hf_str_of(id), "version", version, columns, 2};
    struct dedup_tx *tx;
    struct dedup_detail d;
    assert_int_equal(dedup_begin_plain(f->dedup, &tx, &d), DEDUP_RUN);
    enum dedup_answer a = dedup_tx_upsert(tx, &u, &d);
    if (a != DEDUP_RUN && a != DEDUP_DUPLICATE) fail_msg("upsert: %s", d.why);
    commit(tx);
    return a;
}

TEST_ON_EACH(newest_version_wins_in_any_order) {
    plain(f,
          "CREATE TABLE coupon (code TEXT PRIMARY KEY, \"status \"\"now\"\"\" TEXT, seen INTEGER, version "
          "BIGINT)",
          NULL);
    assert_int_equal(put_state(f, "c", HF_STR("locked"), 2), DEDUP_RUN);
    assert_int_equal(put_state(f, "c", HF_STR("free"), 1), DEDUP_DUPLICATE);   /* stale */
    assert_int_equal(put_state(f, "c", HF_STR("locked"), 2), DEDUP_DUPLICATE); /* again */
    assert_int_equal(put_state(f, "c", (hf_str){NULL, 0}, INT64_MAX), DEDUP_RUN);
    assert_int_equal(put_state(f, "c", HF_STR("used"), 3), DEDUP_DUPLICATE);
    int n = 0;
    plain(
        f,
        "SELECT count(*) FROM coupon WHERE \"status \"\"now\"\"\" IS NULL AND version = 9223372036854775807",
        &n);
    assert_int_equal(n, 1);
}

static void upsert_with_impossible_names_is_refused(void **state) {
    (void)state;
    struct hf_buf b;
    struct dedup_upsert bad[] = {{.table = "", .id_column = "i", .version_column = "v"},
                                 {.table = "t.", .id_column = "i", .version_column = "v"},
                                 {.table = "t", .id_column = "", .version_column = "v"},
                                 {.table = "t", .id_column = "i", .version_column = ""}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        hf_buf_init(&b, DEDUP_SQL_MAX);
        assert_int_equal(dedup_upsert_sql(&bad[i], &b), HF_EINVAL);
        hf_buf_fini(&b);
    }
    struct dedup_upsert wide = {
        .table = "t", .id_column = "i", .version_column = "v", .count = DEDUP_COLUMNS_MAX + 1};
    hf_buf_init(&b, DEDUP_SQL_MAX);
    assert_int_equal(dedup_upsert_sql(&wide, &b), HF_ELIMIT);
    hf_buf_fini(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_and_effect_commit_together),
        cmocka_unit_test(rollback_leaves_neither_row_nor_effect),
        cmocka_unit_test(same_identity_with_another_content_is_a_conflict),
        cmocka_unit_test(groups_origins_and_odd_ids_do_not_mix),
        cmocka_unit_test(second_worker_waits_and_is_told_duplicate_after_the_commit),
        cmocka_unit_test(second_worker_waits_and_runs_after_the_rollback),
        cmocka_unit_test(waiting_for_another_worker_ends_in_busy),
        cmocka_unit_test(many_threads_do_each_effect_once),
        cmocka_unit_test(used_up_pool_is_busy_and_gives_out_what_comes_back),
        cmocka_unit_test(failed_statement_is_an_attempt_and_commits_nothing),
        cmocka_unit_test(handler_that_ends_the_transaction_itself_is_found_out),
        cmocka_unit_test(expiry_removes_batches_of_what_is_older_than_the_horizon),
        cmocka_unit_test(sqlite_that_another_process_holds_is_busy),
        cmocka_unit_test(postgres_serialisation_failure_is_no_attempt),
        cmocka_unit_test(postgres_lock_timeout_is_no_attempt),
        cmocka_unit_test(postgres_that_cuts_connections_loses_nothing),
        cmocka_unit_test(databases_that_are_not_there_run_nothing),
        cmocka_unit_test(newest_version_wins_in_any_order),
        cmocka_unit_test(upsert_with_impossible_names_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
