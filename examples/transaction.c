/* A row and a message, both or neither: the smallest transaction with check-back.
 *
 *     cc transaction.c $(pkg-config --cflags --libs holdfast) -lsqlite3 -o transaction
 *     ./transaction 127.0.0.1:9092 orders.db 1042
 *     kcat -C -b 127.0.0.1:9092 -t orders.placed -o beginning -e */
#include <holdfast/holdfast.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

/* The local transaction: the order, and the mark that says it is real. If a check was faster, the mark fails.
 */
static hf_decision place(const char *id, void *arg) {
    sqlite3 *db = arg;
    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL)) return HF_UNKNOWN;
    char *insert = sqlite3_mprintf("INSERT INTO orders (id) VALUES (%Q)", id);
    bool failed = hf_mark_sqlite(db, id) || sqlite3_exec(db, insert, NULL, NULL, NULL);
    sqlite3_free(insert);
    if (failed) {
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
        return HF_ROLLBACK;
    }
    return sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) ? HF_UNKNOWN : HF_COMMIT;
}

/* Asked when this program, or another of its group, died before it could decide. */
static hf_decision check(const hf_check *q, void *file) {
    sqlite3 *db;
    hf_decision d = HF_UNKNOWN;
    if (sqlite3_open(file, &db) == SQLITE_OK) d = hf_decide_sqlite(db, NULL, NULL, hf_check_id(q));
    sqlite3_close(db);
    return d;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: transaction SERVER FILE ORDER\n"), 2;
    sqlite3 *db;
    if (sqlite3_open(argv[2], &db)) return fprintf(stderr, "%s\n", sqlite3_errmsg(db)), 1;
    sqlite3_busy_timeout(db, 5000);
    sqlite3_exec(db, "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY)", NULL, NULL, NULL);

    hf_client *c;
    hf_producer *p;
    if (hf_connect(argv[1], NULL, &c) || hf_producer_open(c, "order-service", check, argv[2], &p))
        return fprintf(stderr, "%s\n", hf_errmsg()), 1;
    hf_message placed = {.topic = "orders.placed", .key = {argv[3], strlen(argv[3])}, .value = HF_STR("{}")};
    enum hf_err e = hf_transact(p, argv[3], &placed, 1, place, db);
    if (e)
        fprintf(stderr, "%s\n", hf_errmsg());
    else
        printf("order %s: settled\n", argv[3]);
    hf_producer_close(p);
    hf_close(c);
    sqlite3_close(db);
    return e ? 1 : 0;
}
