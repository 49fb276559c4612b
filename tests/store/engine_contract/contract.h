/* What every implementation of engine.h must do, as cmocka tests over a factory. An implementation's own test
 * program is one call:
 *
 *     static const struct contract_factory factory = {.name = "memory", .open = …};
 *     int main(void) { return engine_contract_run(&factory, 1, 50); }
 *
 * A world is one engine with its machine: folder or simulated disk, clock, options. In it topics are created
 * on demand with one partition, a record may have at most RECORD_MAX bytes, and names that begin with
 * "holdfast." are topics of ours (LogAppendTime). */
#ifndef TESTS_ENGINE_CONTRACT_H
#define TESTS_ENGINE_CONTRACT_H

#include "store/engine/engine.h"

enum { CONTRACT_RECORD_MAX = 64 << 10 };

enum contract_stop { CONTRACT_CLEAN, CONTRACT_CRASH };

struct contract_factory {
    const char *name;
    void *(*open)(uint64_t seed);
    void (*close)(void *world);
    struct engine *(*engine)(void *world);

    /* Moves things on; completions run here. Called in a loop with a limit of 100,000: an engine on a real
     * disk waits a little inside. */
    void (*step)(void *world);

    /* The process ends, cleanly or not (a clean stop may step until nothing is under way), and a new one
     * starts on what is left. The engine's address may change. */
    void (*reopen)(void *world, enum contract_stop how);

    /* Returns when it serves. */
    void (*topic_create)(void *world, hf_str topic, int32_t partitions);

    /* One record as a client's with acks=all, accepted at now_ms (or whatever the world's clock says); may
     * return before it is readable. */
    void (*append)(void *world, hf_str topic, int32_t partition, int64_t now_ms, hf_str key, hf_str value,
                   const struct hf_header *headers, size_t header_count);
};

/* Runs every test with seeds first .. first + count - 1; returns the number of failures. */
int engine_contract_run(const struct contract_factory *factory, uint64_t first, uint64_t count);

#endif
