// As header.c: the public header as C++17, without designated initialisers, which that standard lacks.
#include <holdfast/holdfast.h>

static hf_verdict paid(hf_delivery *d, void *) {
    return hf_delivery_value(d).n ? HF_DONE : hf_retry_in(d, HF_SECONDS(5));
}

int main() {
    hf_message m = {};
    m.topic = "orders.unpaid";
    m.key = HF_STR("1042");
    m.partition = HF_PARTITION(0);
    hf_worker_options w = {};
    w.size = sizeof w;
    w.handler = paid;
    return m.key.n == 4 && m.partition == 1 && w.size == sizeof w ? 0 : 1;
}
