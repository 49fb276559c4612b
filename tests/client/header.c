/* The public header alone, as strict C11 and (header.cc) as C++: that it compiles is the test. The designated
 * initialisers are the ones that the documentation shows. */
#include <holdfast/holdfast.h>

static hf_verdict paid(hf_delivery *d, void *arg) {
    (void)arg;
    return hf_delivery_value(d).n ? HF_DONE : hf_retry_in(d, HF_SECONDS(5));
}

int main(void) {
    hf_message m = {.topic = "orders.unpaid",
                    .key = HF_STR("1042"),
                    .value = HF_STR("{}"),
                    .delay_ms = HF_MINUTES(30),
                    .id = "1042",
                    .message_id = "order-1042/unpaid"};
    hf_worker_options w = {HF_WORKER_DEFAULTS,
                           .server = "127.0.0.1:9092",
                           .group = "inventory",
                           .topics = "orders.paid",
                           .effect = HF_EFFECT_DATABASE,
                           .database = "sqlite:inventory.db",
                           .order = HF_ORDER_KEY,
                           .concurrency = 8,
                           .handler = paid};
    hf_client_options c = {HF_CLIENT_DEFAULTS, .api = "127.0.0.1:8092"};
    return m.delay_ms == 1800000 && w.size == sizeof w && c.size == sizeof c ? 0 : 1;
}
