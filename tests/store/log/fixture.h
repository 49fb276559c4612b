/* What tests of the log share: a simulated machine with a log on it, batches made by hand, and calls that go
 * on until their completion came. */
#ifndef TESTS_STORE_LOG_FIXTURE_H
#define TESTS_STORE_LOG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "env/sim.h"
#include "store/engine/batch.h"
#include "store/log/log.h"

struct fixture {
    struct hf_sim *sim;
    struct hf_env *env;
    struct log *log;
    struct log_options options;
};

/* Small files, so that rolls, recycling and checkpoints come soon. */
void fixture_open(struct fixture *f, uint64_t seed);
/* With room for commits of any legal size; a record may have 64 KiB. */
void fixture_open_large(struct fixture *f, uint64_t seed);
void fixture_close(struct fixture *f);

void fixture_start(struct fixture *f);                         /* log_open, which must succeed */
void fixture_stop(struct fixture *f);                          /* log_close, likewise */
void fixture_crash(struct fixture *f, enum hf_sim_crash kind); /* and starts the machine, not the log */
void fixture_run(struct fixture *f, int steps);                /* the loop */

void fixture_turn(struct fixture *f); /* one turn of it, without looking at every invariant */

void fixture_create(struct fixture *f, const char *topic, struct log_topic_config config);

struct producing {
    int64_t producer;
    int16_t epoch;
    int32_t sequence;
};

/* One batch with `count` records "<text>"; not idempotent unless `by`. Returns its size. */
size_t make_batch(uint8_t out[4096], const char *text, int count, const struct producing *by);

struct answer {
    int calls;
    struct log_appended result;
};
void answered(void *arg, const struct log_appended *result);

/* Starts an append of one batch. */
enum hf_err begin_append(struct fixture *f, const char *topic, const char *text, enum log_ack ack,
                         const struct producing *by, struct answer *a);
/* And waits for its answer; gives the offset. */
int64_t append(struct fixture *f, const char *topic, const char *text, enum log_ack ack);

/* All visible values of partition 0 joined by ' ', each with its offset: "0:a 1:b". */
const char *contents(struct fixture *f, const char *topic);

struct outcome {
    int calls;
    enum hf_err e;
};
void ended(void *arg, enum hf_err e);
void wait_for(struct fixture *f, struct outcome *o);

/* A run of n bytes that no commit has named yet; its id. */
uint64_t seal_run(struct fixture *f, size_t n);

#endif
