/* Worker of orders.paid, strategy `database`: the goods leave the warehouse. The row is inserted in the
 * transaction that already holds the dedup row, so both commit or neither: once. */
#include "shop.h"

#include <stdio.h>

static hf_verdict ship(hf_delivery *d, void *arg) {
    struct order o;
    hf_verdict v = faults(d, arg, &o);
    if (v != HF_DONE) return v;
    PGconn *pg = dedup_wanted() ? hf_delivery_postgres(d) : own_postgres();
    char quantity[16];
    (void)snprintf(quantity, sizeof quantity, "%d", o.quantity);
    int n = pg_run(pg, "INSERT INTO inventory (order_id, sku, quantity) VALUES ($1, $2, $3)", o.id, o.sku,
                   quantity, NULL);
    return n == 1 ? HF_DONE : hf_fail(d, HF_RETRY, PQerrorMessage(pg));
}

int main(void) {
    return run_worker((hf_worker_options){.group = "inventory",
                                          .topics = "orders.paid",
                                          .effect = dedup_wanted() ? HF_EFFECT_DATABASE : HF_EFFECT_NONE,
                                          .database = dedup_wanted() ? setting("SHOP_POSTGRES", NULL) : NULL,
                                          .handler = ship});
}
