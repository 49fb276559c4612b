/* Worker of orders.paid, strategy `external`: points at a service that knows nothing of us (here a table in
 * autocommit). Redis holds a claim while the handler runs and remembers the success. The fence goes with the
 * effect: a service that refused smaller fences would also be safe from a handler that was paused longer than
 * its lease. */
#include "shop.h"

#include <inttypes.h>
#include <stdio.h>

static hf_verdict award(hf_delivery *d, void *arg) {
    struct order o;
    hf_verdict v = faults(d, arg, &o);
    if (v != HF_DONE) return v;
    PGconn *service = own_postgres();
    char points[16], fence[24];
    (void)snprintf(points, sizeof points, "%d", o.quantity * 10);
    (void)snprintf(fence, sizeof fence, "%" PRIu64, hf_delivery_fence(d));
    int n = pg_run(service, "INSERT INTO points (order_id, points, fence) VALUES ($1, $2, $3)", o.id, points,
                   fence, NULL);
    return n == 1 ? HF_DONE : hf_fail(d, HF_RETRY, PQerrorMessage(service));
}

int main(void) {
    return run_worker((hf_worker_options){.group = "points",
                                          .topics = "orders.paid",
                                          .effect = dedup_wanted() ? HF_EFFECT_EXTERNAL : HF_EFFECT_NONE,
                                          .redis = dedup_wanted() ? setting("SHOP_REDIS", NULL) : NULL,
                                          .handler = award});
}
