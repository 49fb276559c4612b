/* The pay service: money has come for an order. Reads lines "ORDER PAYMENT" (PAYMENT numbers the payments of
 * one order: somebody may press the button twice) and answers one line each: paid, refund, refused, or again:
 * ask once more. A line "poison ID WHAT" sends a message that no handler can do anything with.
 *
 * In one SQLite transaction: the payment, the order's status, stock reserved → sold, coupon locked → used;
 * with it the message orders.paid. If the time to pay was over, the order is cancelled: then the money goes
 * back, by orders.refund. A second payment of a paid order repeats orders.paid under the same message id, and
 * whoever works on it finds that out. */
#include "shop.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct payment {
    sqlite3 *db;
    struct order order;
    int64_t version; /* of the coupon once it is used */
    char status[16]; /* of the order */
};

/* false: no such order. */
static bool load(struct payment *p, const char *order) {
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(
            p->db,
            "SELECT status, sku, quantity, coalesce(coupon, ''), coupon_version + 1 FROM orders "
            "WHERE id = ?1 AND status <> 'void'",
            -1, &s, NULL))
        die("orders", sqlite3_errmsg(p->db));
    sqlite3_bind_text(s, 1, order, -1, SQLITE_STATIC);
    bool found = sqlite3_step(s) == SQLITE_ROW;
    if (found) {
        struct order *o = &p->order;
        (void)snprintf(o->id, sizeof o->id, "%s", order);
        (void)snprintf(p->status, sizeof p->status, "%s", sqlite3_column_text(s, 0));
        (void)snprintf(o->sku, sizeof o->sku, "%s", sqlite3_column_text(s, 1));
        o->quantity = sqlite3_column_int(s, 2);
        (void)snprintf(o->coupon, sizeof o->coupon, "%s", sqlite3_column_text(s, 3));
        p->version = sqlite3_column_int64(s, 4);
    }
    sqlite3_finalize(s);
    return found;
}

/* The first statement of each local transaction: its own row. 1: written; 0: this transaction is over
 * already, *real tells how it ended; -1: failed. */
static int open_payment(struct payment *p, const char *id, const char *status, bool *real) {
    char at[24];
    (void)snprintf(at, sizeof at, "%" PRId64, now_ms());
    if (run(p->db, "BEGIN IMMEDIATE", NULL) < 0) return -1;
    int n = run(
        p->db,
        "INSERT INTO payments (id, order_id, status, at_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        id, p->order.id, status, at, NULL);
    if (n == 0)
        *real = run(p->db, "UPDATE payments SET status = status WHERE id = ?1 AND status <> 'void'", id,
                    NULL) == 1;
    return n;
}

static hf_decision end(sqlite3 *db, bool commit) {
    if (run(db, commit ? "COMMIT" : "ROLLBACK", NULL) < 0) return HF_UNKNOWN;
    return commit ? HF_COMMIT : HF_ROLLBACK;
}

static bool settle_paid(sqlite3 *db, const char *order) {
    return run(db,
               "UPDATE stock SET reserved = reserved - (SELECT quantity FROM orders WHERE id = ?1), "
               "sold = sold + (SELECT quantity FROM orders WHERE id = ?1) "
               "WHERE sku = (SELECT sku FROM orders WHERE id = ?1)",
               order, NULL) == 1 &&
           run(db,
               "UPDATE coupons SET status = 'used', version = version + 1 WHERE status = 'locked' AND "
               "order_id = ?1",
               order, NULL) >= 0;
}

static hf_decision take_money(const char *id, void *arg) {
    struct payment *p = arg;
    bool real = false;
    int opened = open_payment(p, id, "paid", &real);
    if (opened < 0) return HF_UNKNOWN;
    if (opened == 0) {
        (void)end(p->db, false);
        return real ? HF_COMMIT : HF_ROLLBACK;
    }
    int n = run(p->db, "UPDATE orders SET status = 'paid' WHERE id = ?1 AND status = 'pending'", p->order.id,
                NULL);
    if (n == 1) return end(p->db, settle_paid(p->db, p->order.id));
    n = run(p->db, "UPDATE orders SET status = 'paid' WHERE id = ?1 AND status = 'paid'", p->order.id, NULL);
    return end(p->db, n == 1); /* paid twice: the message is repeated; cancelled: nothing */
}

static hf_decision give_back(const char *id, void *arg) {
    struct payment *p = arg;
    bool real = false;
    int opened = open_payment(p, id, "refund", &real);
    if (opened < 0) return HF_UNKNOWN;
    if (opened == 0) {
        (void)end(p->db, false);
        return real ? HF_COMMIT : HF_ROLLBACK;
    }
    int n = run(p->db, "UPDATE orders SET status = 'refunded' WHERE id = ?1 AND status = 'cancelled'",
                p->order.id, NULL);
    return end(p->db, n == 1);
}

static hf_decision check(const hf_check *q, void *db) {
    return hf_decide_sqlite(
        db, "INSERT INTO payments (id, status) VALUES (?1, 'void') ON CONFLICT (id) DO NOTHING",
        "SELECT status <> 'void' FROM payments WHERE id = ?1", hf_check_id(q));
}

/* A try that was rolled back (the server died before its halves were safe, or a check found nothing) has used
 * its id up: the next one has another. The message's identity stays. */
static enum hf_err transact(hf_producer *producer, struct payment *p, const char *kind, const char *topic,
                            int number, hf_local *local) {
    enum { TRIES = 20 };
    char id[64], message_id[64], version[24];
    (void)snprintf(message_id, sizeof message_id, "order-%s/%s", p->order.id, kind);
    (void)snprintf(version, sizeof version, "%" PRId64, p->version);
    hf_header headers[] = {{{"hf-version", 10}, {version, strlen(version)}}};
    hf_message m = {.topic = topic,
                    .key = {p->order.id, strlen(p->order.id)},
                    .value = order_text(&p->order),
                    .headers = headers,
                    .header_count = 1,
                    .message_id = message_id};
    enum hf_err e = HF_EDECIDED;
    for (int i = 0; i < TRIES && e == HF_EDECIDED; i++) {
        (void)snprintf(id, sizeof id, "%s-%s-%d.%d", kind, p->order.id, number, i);
        e = hf_transact(producer, id, &m, 1, local, p);
    }
    return e;
}

static const char *pay(hf_producer *producer, struct payment *p, const char *order, int number) {
    if (!load(p, order)) return "refused";
    enum hf_err e = transact(producer, p, "paid", "orders.paid", number, take_money);
    if (!load(p, order)) return "refused";
    if (strcmp(p->status, "cancelled") == 0)
        e = transact(producer, p, "refund", "orders.refund", 1, give_back);
    if (!load(p, order)) return "refused";
    if (strcmp(p->status, "refunded") == 0) return "refund";
    if (e || strcmp(p->status, "paid") != 0) {
        fprintf(stderr, "pay %s: %s\n", order, hf_errmsg());
        return "again";
    }
    return "paid";
}

static const char *send_poison(hf_client *c, const char *id, const char *what) {
    char value[80], message_id[64];
    (void)snprintf(value, sizeof value, "{\"poison\":\"%s\"}", what);
    (void)snprintf(message_id, sizeof message_id, "poison-%s", id);
    hf_header headers[] = {{{"hf-version", 10}, {"1", 1}}};
    hf_message m = {.topic = "orders.paid",
                    .key = {message_id, strlen(message_id)},
                    .value = {value, strlen(value)},
                    .headers = headers,
                    .header_count = 1,
                    .message_id = message_id};
    return hf_send(c, &m, NULL) ? "again" : "sent";
}

int main(void) {
    struct payment p = {.db = orders_open()};
    sqlite3 *for_checks = orders_open();
    hf_client *c;
    hf_producer *producer;
    if (hf_connect(setting("SHOP_SERVER", NULL),
                   &(hf_client_options){HF_CLIENT_DEFAULTS, .api = getenv("SHOP_API")}, &c))
        die("connect", hf_errmsg());
    if (hf_producer_open(c, "pay-service", check, for_checks, &producer)) die("producer", hf_errmsg());
    hf_producer_check_after(producer, atoll(setting("SHOP_CHECK_AFTER", "6000")));

    char line[200], order[32], what[32];
    int number;
    while (fgets(line, sizeof line, stdin)) {
        const char *answer = "refused";
        if (sscanf(line, "poison %31s %31s", order, what) == 2)
            answer = send_poison(c, order, what);
        else if (sscanf(line, "%31s %d", order, &number) == 2)
            answer = pay(producer, &p, order, number);
        printf("%s %s\n", answer, order);
        fflush(stdout);
    }
    hf_producer_close(producer);
    hf_close(c);
    sqlite3_close(p.db);
    sqlite3_close(for_checks);
    return 0;
}
