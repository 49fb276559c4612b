/* A store with some of everything, and all that can be read of one: so that two of them can be compared. */
#ifndef TESTS_STORE_LOG_WORLD_H
#define TESTS_STORE_LOG_WORLD_H

#include "fixture.h"

enum {
    WORLD_OFFSETS = 512,
    WORLD_PARTITIONS = 3,
    WORLD_STATE = 1 << 16,
    WORLD_RUN = 9000, /* bytes */
    WORLD_MESSAGES = 240,
    WORLD_KEYS = 20,
};

struct world {
    /* Size and checksum of what is given at that offset; 0: nothing. */
    uint64_t batch[WORLD_PARTITIONS][WORLD_OFFSETS];
    char state[WORLD_STATE];
    uint32_t run;
    bool run_read;
};

struct world_place {
    const char *topic;
    int32_t partition;
};
extern const struct world_place world_places[WORLD_PARTITIONS];

/* Batches that were answered as durable. */
extern bool world_durable[WORLD_PARTITIONS][WORLD_OFFSETS];

/* Opens and fills it, over several starts, so that both superblocks and snapshots were used; then it is stopped,
 * or its process dies. */
void world_build(struct fixture *f, uint64_t seed, bool crashed);

void world_see(struct log *l, struct world *w);

/* All that was written is there to be missed. */
void world_check_filled(const struct world *w);

#endif
