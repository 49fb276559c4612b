/* The smallest worker: each order counted once in SQLite, however often it is delivered.
 *
 *     cc worker.c $(pkg-config --cflags --libs holdfast) -lsqlite3 -o worker
 *     ./worker 127.0.0.1:9092 orders.placed inventory.db      ends by SIGTERM or Ctrl-C */
#include <holdfast/holdfast.h>
#include <sqlite3.h>
#include <stdio.h>

/* Our transaction is open and the dedup row is in it; the effect joins, and both commit together. */
static hf_verdict handle(hf_delivery *d, void *arg) {
    (void)arg;
    sqlite3 *db = hf_delivery_sqlite(d);
    hf_str key = hf_delivery_key(d);
    printf("%s attempt %d: %.*s\n", hf_delivery_message_id(d), (int)hf_delivery_attempt(d), (int)key.n,
           key.p);
    fflush(stdout);
    if (sqlite3_exec(db, "UPDATE counter SET orders = orders + 1", NULL, NULL, NULL))
        return hf_fail(d, HF_RETRY, sqlite3_errmsg(db)); /* again later; in the end to dlq.inventory */
    return HF_DONE;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: worker SERVER TOPIC FILE\n"), 2;
    sqlite3 *db;
    if (sqlite3_open(argv[3], &db)) return fprintf(stderr, "%s\n", sqlite3_errmsg(db)), 1;
    sqlite3_exec(
        db,
        "CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), orders INTEGER);"
        "INSERT OR IGNORE INTO counter VALUES (1, 0)",
        NULL, NULL, NULL);
    sqlite3_close(db);

    char database[512];
    (void)snprintf(database, sizeof database, "sqlite:%s", argv[3]);
    hf_worker *w;
    hf_worker_options o = {
        HF_WORKER_DEFAULTS,           .server = argv[1],    .group = "inventory", .topics = argv[2],
        .effect = HF_EFFECT_DATABASE, .database = database, .handler = handle};
    if (hf_worker_open(&o, &w) || hf_worker_stop_on_signals(w))
        return fprintf(stderr, "%s\n", hf_errmsg()), 1;
    enum hf_err e = hf_worker_run(w);
    if (e) fprintf(stderr, "%s\n", hf_errmsg());
    hf_worker_close(w);
    return e ? 1 : 0;
}
