/* The memory engine under the contract: seed 0 (everything in order) and many others. */
#include "contract.h"
#include "store/engine/memory.h"

#include <stdlib.h>

static void *open_world(uint64_t seed) {
    struct memory_engine *m;
    memory_engine_open(&(struct memory_options){.seed = seed, .record_max = CONTRACT_RECORD_MAX}, &m);
    return m;
}

static void close_world(void *w) {
    memory_engine_close(w);
}

static struct engine *engine_of(void *w) {
    return memory_engine_engine(w);
}

static void step(void *w) {
    memory_engine_step(w);
    memory_engine_check(w);
}

static void reopen(void *w, enum contract_stop how) {
    if (how == CONTRACT_CLEAN) memory_engine_settle(w);
    memory_engine_crash(w);
    memory_engine_check(w);
}

static void topic_create(void *w, hf_str topic, int32_t partitions) {
    if (memory_engine_topic_create(w, topic, partitions)) abort();
}

static void append(void *w, hf_str topic, int32_t partition, int64_t now_ms, hf_str key, hf_str value,
                   const struct hf_header *headers, size_t header_count) {
    if (memory_engine_append(w, topic, partition, now_ms, key, value, headers, header_count) < 0) abort();
}

int main(int argc, char **argv) {
    static const struct contract_factory factory = {.name = "memory",
                                                    .open = open_world,
                                                    .close = close_world,
                                                    .engine = engine_of,
                                                    .step = step,
                                                    .reopen = reopen,
                                                    .topic_create = topic_create,
                                                    .append = append};
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 30; /* --seeds N */
    return engine_contract_run(&factory, 0, seeds);
}
