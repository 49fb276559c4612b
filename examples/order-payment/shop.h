/* What the programs of the order-payment example share: their settings, their order, a few lines of SQL, and
 * the faults that the demo plays. Nothing of it is needed to use Holdfast.
 *
 * Settings come from the environment:
 *     SHOP_SERVER    HOST:PORT of the Kafka side          SHOP_API       HOST:PORT of the HTTP side
 *     SHOP_ORDERS    the shop's SQLite file               SHOP_POSTGRES  connection of the other services
 *     SHOP_REDIS     redis://HOST:PORT                    SHOP_DEDUP     0: handlers run at least once
 *     SHOP_DELAY     how long an order may stay unpaid    SHOP_CHECK_AFTER
 * and for the demo's faults
 *     SHOP_TRACE     file to which each event is appended as one line of JSON
 *     SHOP_FAIL      percent of handler calls that fail at random
 *     SHOP_STALL     a file: the handler that manages to rename it stops in its middle, to be killed there
 */
#ifndef SHOP_H
#define SHOP_H

#include <holdfast/holdfast.h>
#include <libpq-fe.h>
#include <sqlite3.h>

/* Prints what and why, and ends the program. */
_Noreturn void die(const char *what, const char *why);

/* The variable's value; without a default it must be set. */
const char *setting(const char *name, const char *default_);

int64_t now_ms(void);

/* ---- orders ---- */

struct order {
    char id[32], sku[32], coupon[32]; /* coupon "": none */
    int quantity;
};

/* The message's value: {"order":…,"sku":…,"quantity":…,"coupon":…}. Static per thread. */
hf_str order_text(const struct order *o);

/* false: not an order. Poison of the demo is {"poison":"…"}. */
bool order_parse(hf_str text, struct order *out);

/* ---- SQL ---- */

sqlite3 *orders_open(void);

/* Runs one statement with text parameters (NULL ends them). Rows changed, or -1: see sqlite3_errmsg. */
int run(sqlite3 *db, const char *sql, ...) __attribute__((sentinel));

/* The same on PostgreSQL. */
int pg_run(PGconn *pg, const char *sql, ...) __attribute__((sentinel));

/* A connection to SHOP_POSTGRES of the calling thread's own, in autocommit. */
PGconn *own_postgres(void);

/* ---- workers ---- */

/* Opens a worker with the demo's common options and runs it until SIGTERM. The handler's arg is the group. */
int run_worker(hf_worker_options options);

bool dedup_wanted(void);

/* What the demo does to a handler in its middle: traces the call, stops once to be killed, fails at random,
 * and recognises poison. HF_DONE: go on to the effect; else the verdict to return. */
hf_verdict faults(hf_delivery *d, const char *group, struct order *o);

void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
