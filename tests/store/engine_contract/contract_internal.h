/* Shared by the contract's files: the factory under test and small helpers. */
#ifndef TESTS_ENGINE_CONTRACT_INTERNAL_H
#define TESTS_ENGINE_CONTRACT_INTERNAL_H

#include "contract.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* One test's world. */
struct world {
    const struct contract_factory *f;
    void *w;
    uint64_t seed;
};

/* Where a completion is noted. */
struct note {
    int times;
    enum hf_err e;
};
void noted(void *arg, enum hf_err e);

struct engine *eng(struct world *t);

/* Starts, again after HF_EAGAIN, and waits for a commit; it must succeed. */
void must_commit(struct world *t, const struct engine_commit *c);
void start_commit(struct world *t, const struct engine_commit *c, struct note *n);

/* Appends, and waits until it is readable. */
void must_append(struct world *t, hf_str topic, int32_t partition, int64_t now_ms, hf_str key, hf_str value);
int64_t stable_end(struct world *t, hf_str topic, int32_t partition);

/* Readable records of a partition. */
size_t count_records(struct world *t, hf_str topic, int32_t partition);

/* A run with n bytes, each (uint8_t)(i * 7), sealed. */
uint64_t sealed_run(struct world *t, uint64_t bucket, size_t n);

extern const struct CMUnitTest contract_restart_tests[];
extern const size_t contract_restart_count;

#define CONTRACT_TEST(f)                                                                                     \
    { #f, f, NULL, NULL, NULL }

#endif
