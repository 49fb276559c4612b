/* A coordinator on the memory engine, a clock, producers and consumers, for the tests of txn/.
 *
 *     struct world w;
 *     world_open(&w, &(struct world_options){.seed = 7});
 *     world_prepare(&w, &(struct half_spec){.id = "1042", .topic = "orders", .value = "x"});
 *     world_decide(&w, "g", "1042", "commit");
 *     world_run(&w, 0);                                     // until nothing moves
 *     assert(world_count(&w, "orders", "x") == 1);
 *     world_close(&w); */
#ifndef TESTS_TXN_WORLD_H
#define TESTS_TXN_WORLD_H

#include "store/engine/memory.h"
#include "txn/txn.h"

struct world_options {
    uint64_t seed; /* of the engine; 0: in order, at once */
    int32_t txn_partitions;
    struct memory_options engine;
    struct txn_options txn;
};

struct world {
    struct memory_engine *m;
    struct txn *t;
    struct txn_options o;
    int64_t now_ms, next_ms;
    uint64_t random;
    int32_t partitions; /* of holdfast.txn */
};

struct half_spec {
    const char *group; /* "g" */
    const char *id, *topic, *key, *value, *message_id, *delay, *due, *hf_id, *check_after;
    int32_t partition; /* of holdfast.txn */
};

void world_open(struct world *w, const struct world_options *o);
void world_close(struct world *w);

/* A new process on what is durable. */
void world_crash(struct world *w);
void world_restart(struct world *w);

uint64_t world_random(struct world *w);

/* The offset in holdfast.txn. */
int64_t world_prepare(struct world *w, const struct half_spec *h);
int64_t world_decide(struct world *w, const char *group, const char *id, const char *op);
int64_t world_decide_at(struct world *w, const char *group, const char *id, const char *op,
                        int32_t partition);

/* One step of everything. */
void world_step(struct world *w);
/* Steps until nothing moves at this time, then lets ms pass, stepping whenever the coordinator asks for it.
 */
void world_run(struct world *w, int64_t ms);

/* Records of a topic with that value (NULL: all), over all partitions. */
size_t world_count(struct world *w, const char *topic, const char *value);

struct world_record {
    char topic[64], key[64], value[64], message_id[128], created_at[32], origin[64], due[32], hf_topic[64],
        hf_id[64], reason[64], attempt[16], halves[128], group[64], plain[64];
    bool null_key;
    int32_t partition;
    int64_t offset, timestamp_ms;
    size_t headers;
};
/* The nth record of a topic (over its partitions, in their order); false: there are fewer. */
bool world_record(struct world *w, const char *topic, size_t nth, struct world_record *out);

/* The consumer group has read its check topic up to the end, or its first n records. */
void world_read_checks(struct world *w, const char *group);
void world_read_checks_upto(struct world *w, const char *group, int64_t offset);

enum txn_outcome world_outcome(struct world *w, int32_t partition, int64_t offset);
/* TXN_NONE: not known. */
enum txn_state world_state(struct world *w, const char *group, const char *id);
/* An operator's decision, waited for. */
enum txn_outcome world_operate(struct world *w, const char *group, const char *id, enum txn_state decision);

#endif
