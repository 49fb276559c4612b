/* The open-transaction trap, with two connections as the local transaction and the check have them: one suite
 * for SQLite and a real PostgreSQL. Whichever commits first wins, and the other one learns it. */
#include <holdfast/holdfast.h>
#include <libpq-fe.h>
#include <sqlite3.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* A connection to one of the two databases. */
struct db {
    sqlite3 *sqlite;
    PGconn *pg;
};

struct fixture {
    struct db local, check;
};

static struct db open_db(bool postgres) {
    struct db d = {0};
    char path[512];
    if (postgres) {
        d.pg = PQconnectdb(getenv("HF_TEST_POSTGRES"));
        assert_int_equal(PQstatus(d.pg), CONNECTION_OK);
        return d;
    }
    (void)snprintf(path, sizeof path, "%s/local.db", getenv("HF_TEST_DIR"));
    assert_int_equal(sqlite3_open(path, &d.sqlite), SQLITE_OK);
    return d;
}

static void close_db(struct db *d) {
    sqlite3_close(d->sqlite);
    PQfinish(d->pg);
}

static void run(struct db *d, const char *sql) {
    if (d->pg) {
        PGresult *r = PQexec(d->pg, sql);
        if (PQresultStatus(r) != PGRES_COMMAND_OK) fail_msg("%s: %s", sql, PQerrorMessage(d->pg));
        PQclear(r);
    } else if (sqlite3_exec(d->sqlite, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fail_msg("%s: %s", sql, sqlite3_errmsg(d->sqlite));
    }
}

static enum hf_err mark(struct db *d, const char *id) {
    return d->pg ? hf_mark_postgres(d->pg, id) : hf_mark_sqlite(d->sqlite, id);
}

static hf_decision decide(struct db *d, const char *id) {
    return d->pg ? hf_decide_postgres(d->pg, NULL, NULL, id) : hf_decide_sqlite(d->sqlite, NULL, NULL, id);
}

static struct fixture fixture;

/* Each test begins in a database that holdfast_local is not in yet. */
static int open_sqlite(void **state) {
    fixture = (struct fixture){open_db(false), open_db(false)};
    run(&fixture.local, "DROP TABLE IF EXISTS holdfast_local");
    *state = &fixture;
    return 0;
}

static int open_postgres(void **state) {
    fixture = (struct fixture){open_db(true), open_db(true)};
    run(&fixture.local, "SET client_min_messages = warning");
    run(&fixture.local, "DROP TABLE IF EXISTS holdfast_local");
    run(&fixture.check, "SET lock_timeout = '100ms'");
    *state = &fixture;
    return 0;
}

static int close_both(void **state) {
    struct fixture *f = *state;
    close_db(&f->local);
    close_db(&f->check);
    return 0;
}

/* The local transaction: marks a, and ends with this. */
static void transact(struct db *d, enum hf_err marked, const char *end) {
    run(d, "BEGIN");
    assert_int_equal(mark(d, "a"), marked);
    run(d, end);
}

static void what_was_committed_is_committed(void **state) {
    struct fixture *f = *state;
    transact(&f->local, HF_OK, "COMMIT");
    assert_int_equal(decide(&f->check, "a"), HF_COMMIT);
    assert_int_equal(decide(&f->check, "a"), HF_COMMIT);
}

static void what_was_not_there_can_never_be(void **state) {
    struct fixture *f = *state;
    assert_int_equal(decide(&f->check, "a"), HF_ROLLBACK);
    transact(&f->local, HF_EDECIDED, "ROLLBACK");
    assert_int_equal(decide(&f->check, "a"), HF_ROLLBACK);
}

static void while_the_local_transaction_runs_nothing_is_known(void **state) {
    struct fixture *f = *state;
    assert_int_equal(decide(&f->check, "other"), HF_ROLLBACK);
    run(&f->local, "BEGIN");
    assert_int_equal(mark(&f->local, "a"), HF_OK);
    assert_int_equal(decide(&f->check, "a"), HF_UNKNOWN);
    run(&f->local, "COMMIT");
    assert_int_equal(decide(&f->check, "a"), HF_COMMIT);
}

static void what_was_rolled_back_is_rolled_back(void **state) {
    struct fixture *f = *state;
    transact(&f->local, HF_OK, "ROLLBACK");
    assert_int_equal(decide(&f->check, "a"), HF_ROLLBACK);
}

static void a_table_of_the_programs_own_will_do(void **state) {
    struct fixture *f = *state;
    const char *insert = f->check.pg ? "INSERT INTO orders VALUES ($1, 'void') ON CONFLICT (id) DO NOTHING"
                                     : "INSERT INTO orders VALUES (?1, 'void') ON CONFLICT (id) DO NOTHING";
    const char *real = f->check.pg ? "SELECT status <> 'void' FROM orders WHERE id = $1"
                                   : "SELECT status <> 'void' FROM orders WHERE id = ?1";
    run(&f->local, "DROP TABLE IF EXISTS orders");
    run(&f->local, "CREATE TABLE orders (id VARCHAR(40) PRIMARY KEY, status VARCHAR(40))");
    run(&f->local, "INSERT INTO orders VALUES ('placed', 'new')");
    for (int i = 0; i < 2; i++) {
        const char *id = i ? "placed" : "never";
        hf_decision d = f->check.pg ? hf_decide_postgres(f->check.pg, insert, real, id)
                                    : hf_decide_sqlite(f->check.sqlite, insert, real, id);
        assert_int_equal(d, i ? HF_COMMIT : HF_ROLLBACK);
    }
}

#define ON_BOTH(test)                                                                                        \
    cmocka_unit_test_setup_teardown(test, open_sqlite, close_both),                                          \
        cmocka_unit_test_setup_teardown(test, open_postgres, close_both)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_BOTH(what_was_committed_is_committed),
        ON_BOTH(what_was_not_there_can_never_be),
        ON_BOTH(while_the_local_transaction_runs_nothing_is_known),
        ON_BOTH(what_was_rolled_back_is_rolled_back),
        ON_BOTH(a_table_of_the_programs_own_will_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
