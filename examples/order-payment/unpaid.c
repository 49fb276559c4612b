/* Worker of orders.unpaid: the time to pay is over. One statement decides between paying and cancelling,
 * whoever comes first; stock and coupon are freed in the same transaction, beside the dedup row. */
#include "shop.h"

#include <stdio.h>

static hf_verdict unpaid(hf_delivery *d, void *arg) {
    (void)arg;
    struct order o;
    sqlite3 *db = hf_delivery_sqlite(d);
    if (!order_parse(hf_delivery_value(d), &o)) return hf_fail(d, HF_REJECT, "this is no order");
    int cancelled =
        run(db, "UPDATE orders SET status = 'cancelled' WHERE id = ?1 AND status = 'pending'", o.id, NULL);
    if (cancelled == 0) return HF_DONE; /* paid, or cancelled before */
    char quantity[16];
    (void)snprintf(quantity, sizeof quantity, "%d", o.quantity);
    bool ok = cancelled == 1 &&
              run(db, "UPDATE stock SET reserved = reserved - ?2, available = available + ?2 WHERE sku = ?1",
                  o.sku, quantity, NULL) == 1 &&
              run(db,
                  "UPDATE coupons SET status = 'free', order_id = NULL, version = version + 1 "
                  "WHERE order_id = ?1 AND status = 'locked'",
                  o.id, NULL) >= 0;
    return ok ? HF_DONE : hf_fail(d, HF_RETRY, sqlite3_errmsg(db));
}

int main(void) {
    char database[300];
    (void)snprintf(database, sizeof database, "sqlite:%s", setting("SHOP_ORDERS", NULL));
    return run_worker((hf_worker_options){.group = "unpaid",
                                          .topics = "orders.unpaid",
                                          .effect = HF_EFFECT_DATABASE,
                                          .database = database,
                                          .handler = unpaid});
}
