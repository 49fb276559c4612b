/* The place service: an order with its stock and coupon, and the two messages about it, all or nothing.
 *
 *     place            reads lines "ORDER SKU QUANTITY COUPON FAULT" and answers one line each
 *     place --check    answers check-backs for its group until its input ends
 *
 * Before the SQLite transaction two half messages are stored: orders.placed, and orders.unpaid, which comes
 * when the time to pay is over. After it, one decision makes both happen. A service that dies in between
 * (FAULT die-before or die-after), or is slower than the server waits (slow), is asked about by a check: the
 * orders table knows, and a void row keeps a late order out. */
#include "shop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct job {
    sqlite3 *db;
    struct order order;
    char fault[16];
    bool committed;
};

static bool fault_is(const struct job *j, const char *name) {
    return strcmp(j->fault, name) == 0;
}

static void die_if(const struct job *j, const char *name) {
    if (!fault_is(j, name)) return;
    trace("\"event\":\"fault\",\"what\":\"%s\",\"id\":\"%s\"", name, j->order.id);
    kill(getpid(), SIGKILL);
}

/* Twice as long as the server waits before it asks. */
static void dawdle(const struct job *j) {
    int64_t ms = 2 * atoll(setting("SHOP_CHECK_AFTER", "6000"));
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    if (!fault_is(j, "slow")) return;
    nanosleep(&t, NULL);
    trace("\"event\":\"fault\",\"what\":\"slow\",\"id\":\"%s\"", j->order.id);
}

/* A coupon that is not free makes an order without coupon. */
static bool lock_coupon(sqlite3 *db, const struct order *o) {
    int n = run(db,
                "UPDATE coupons SET status = 'locked', order_id = ?1, version = version + 1 "
                "WHERE code = ?2 AND status = 'free'",
                o->id, o->coupon, NULL);
    if (n <= 0) return n == 0;
    return run(db,
               "UPDATE orders SET coupon = ?2, coupon_version = (SELECT version FROM coupons WHERE code = "
               "?2) "
               "WHERE id = ?1",
               o->id, o->coupon, NULL) == 1;
}

static bool insert_order(sqlite3 *db, const struct order *o) {
    char quantity[16];
    (void)snprintf(quantity, sizeof quantity, "%d", o->quantity);
    return run(db, "INSERT INTO orders (id, status, sku, quantity) VALUES (?1, 'pending', ?2, ?3)", o->id,
               o->sku, quantity, NULL) == 1 &&
           run(db, "UPDATE stock SET available = available - ?2, reserved = reserved + ?2 WHERE sku = ?1",
               o->sku, quantity, NULL) == 1 &&
           lock_coupon(db, o);
}

static hf_decision place(const char *id, void *arg) {
    (void)id;
    struct job *j = arg;
    dawdle(j);
    if (run(j->db, "BEGIN IMMEDIATE", NULL) < 0) return HF_UNKNOWN;
    bool inserted = insert_order(j->db, &j->order); /* fails if a check has put a void row */
    die_if(j, "die-before");
    if (!inserted) {
        (void)run(j->db, "ROLLBACK", NULL);
        return HF_ROLLBACK;
    }
    if (run(j->db, "COMMIT", NULL) < 0) return HF_UNKNOWN;
    die_if(j, "die-after");
    j->committed = true;
    return HF_COMMIT;
}

/* Was the order placed? If not, it never will be: the void row is in its place. */
static hf_decision check(const hf_check *q, void *db) {
    hf_decision answer = hf_decide_sqlite(
        db, "INSERT INTO orders (id, status) VALUES (?1, 'void') ON CONFLICT (id) DO NOTHING",
        "SELECT status <> 'void' FROM orders WHERE id = ?1", hf_check_id(q));
    static const char *const names[] = {
        [HF_UNKNOWN] = "unknown", [HF_COMMIT] = "commit", [HF_ROLLBACK] = "rollback"};
    trace("\"event\":\"check\",\"id\":\"%s\",\"attempt\":%d,\"answer\":\"%s\"", hf_check_id(q),
          (int)hf_check_attempt(q), names[answer]);
    return answer;
}

static void serve_line(hf_producer *p, struct job *j) {
    char placed[64], unpaid[64];
    (void)snprintf(placed, sizeof placed, "order-%s/placed", j->order.id);
    (void)snprintf(unpaid, sizeof unpaid, "order-%s/unpaid", j->order.id);
    j->committed = false;
    hf_str key = {j->order.id, strlen(j->order.id)}, value = order_text(&j->order);
    hf_message halves[] = {{.topic = "orders.placed", .key = key, .value = value, .message_id = placed},
                           {.topic = "orders.unpaid",
                            .key = key,
                            .value = value,
                            .message_id = unpaid,
                            .delay_ms = atoll(setting("SHOP_DELAY", "1800000"))}};
    enum hf_err e = hf_transact(p, j->order.id, halves, 2, place, j);
    const char *answer = e ? "open" : j->committed ? "placed" : "refused"; /* open: a check will settle it */
    printf("%s %s %s\n", answer, j->order.id, e ? hf_errmsg() : "");
    fflush(stdout);
}

int main(int argc, char **argv) {
    bool checks = argc > 1 && strcmp(argv[1], "--check") == 0;
    struct job j = {.db = orders_open()};
    hf_client *c;
    hf_producer *p;
    if (hf_connect(setting("SHOP_SERVER", NULL),
                   &(hf_client_options){HF_CLIENT_DEFAULTS, .api = getenv("SHOP_API")}, &c))
        die("connect", hf_errmsg());
    if (hf_producer_open(c, "order-service", checks ? check : NULL, j.db, &p)) die("producer", hf_errmsg());
    hf_producer_check_after(p, atoll(setting("SHOP_CHECK_AFTER", "6000")));

    char line[200];
    while (fgets(line, sizeof line, stdin)) {
        struct order *o = &j.order;
        if (sscanf(line, "%31s %31s %d %31s %15s", o->id, o->sku, &o->quantity, o->coupon, j.fault) == 5)
            serve_line(p, &j);
    }
    hf_producer_close(p);
    hf_close(c);
    sqlite3_close(j.db);
    return 0;
}
