/* The log's engine under the contract suite, on the simulated machine. A crash is the death of the process or
 * the loss of power, by seed. */
#include "fixture.h"
#include "tests/store/engine_contract/contract.h"

#include <stdlib.h>
#include <string.h>

static void *open_world(uint64_t seed) {
    struct fixture *f = malloc(sizeof *f);
    if (!f) abort();
    fixture_open_large(f, seed);
    return f;
}

static void close_world(void *w) {
    struct fixture *f = w;
    fixture_crash(f, HF_SIM_PROCESS_DEATH);
    fixture_close(f);
    free(f);
}

static struct engine *engine_of(void *w) {
    return log_engine(((struct fixture *)w)->log);
}

static void step(void *w) {
    fixture_run(w, 1);
}

static void reopen(void *w, enum contract_stop how) {
    struct fixture *f = w;
    if (how == CONTRACT_CLEAN)
        fixture_stop(f);
    else
        fixture_crash(f, hf_sim_random(f->sim) & 1 ? HF_SIM_POWER_LOSS : HF_SIM_PROCESS_DEATH);
    fixture_start(f);
}

static void topic_create(void *w, hf_str topic, int32_t partitions) {
    struct fixture *f = w;
    struct outcome o = {0};
    struct log_topic_config c = {.partitions = partitions};
    if (log_topic_create(f->log, topic, &c, ended, &o)) abort();
    wait_for(f, &o);
}

static void append_one(void *w, hf_str topic, int32_t partition, int64_t now_ms, hf_str key, hf_str value,
                       const struct hf_header *headers, size_t header_count) {
    struct fixture *f = w;
    struct batch_builder b;
    hf_str batch;
    (void)now_ms;
    batch_builder_init(&b, 1 << 20);
    batch_builder_begin(&b, env_wall_ms(f->env));
    if (batch_builder_add(&b, key, value, headers, header_count) || batch_builder_finish(&b, &batch)) abort();
    struct log_partition *p = log_partition(f->log, topic, partition);
    if (log_append(f->log, p, b.buf.p, batch.n, LOG_ACK_DURABLE, NULL, NULL)) abort();
    batch_builder_fini(&b);
}

int main(int argc, char **argv) {
    static const struct contract_factory factory = {.name = "log",
                                                    .open = open_world,
                                                    .close = close_world,
                                                    .engine = engine_of,
                                                    .step = step,
                                                    .reopen = reopen,
                                                    .topic_create = topic_create,
                                                    .append = append_one};
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 5; /* --seeds N */
    return engine_contract_run(&factory, 1, seeds);
}
