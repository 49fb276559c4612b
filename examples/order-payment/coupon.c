/* Worker of orders.paid, strategy `state`: the coupon is used. The message carries the coupon's version; what
 * is not newer than the row changes nothing, so repetitions and late arrivals are harmless without
 * remembering any message. */
#include "shop.h"

#include <inttypes.h>
#include <stdio.h>

#define USE                                                                                                  \
    "INSERT INTO coupon_usage AS u (code, order_id, uses, version) VALUES ($1, $2, 1, $3) "                  \
    "ON CONFLICT (code) DO UPDATE SET order_id = excluded.order_id, uses = u.uses + 1, "                     \
    "version = excluded.version"

static hf_verdict use(hf_delivery *d, void *arg) {
    struct order o;
    hf_verdict v = faults(d, arg, &o);
    if (v != HF_DONE || !o.coupon[0]) return v;
    char version[24];
    hf_str header = hf_delivery_header(d, "hf-version");
    (void)snprintf(version, sizeof version, "%.*s", (int)header.n, header.p ? header.p : "0");
    PGconn *pg = dedup_wanted() ? hf_delivery_postgres(d) : own_postgres();
    int n = pg_run(pg, dedup_wanted() ? USE " WHERE u.version < excluded.version" : USE, o.coupon, o.id,
                   version, NULL);
    if (n < 0) return hf_fail(d, HF_RETRY, PQerrorMessage(pg));
    return n == 0 ? hf_stale(d) : HF_DONE;
}

int main(void) {
    return run_worker((hf_worker_options){.group = "coupon",
                                          .topics = "orders.paid",
                                          .effect = dedup_wanted() ? HF_EFFECT_STATE : HF_EFFECT_NONE,
                                          .database = dedup_wanted() ? setting("SHOP_POSTGRES", NULL) : NULL,
                                          .handler = use});
}
