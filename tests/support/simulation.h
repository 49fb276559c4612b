/* How every simulation is called (sim_store, sim_schedule, sim_txn):
 *
 *     PROGRAM [--seeds N]                  N seeds from 1 on
 *     PROGRAM --seed S [--seeds N]         seed S alone, or N seeds from S on
 *     PROGRAM --seed S --verbose           one seed, every step told: how a failure is looked into
 *     PROGRAM --mutations [--seeds N]      breaks each ordering rule in turn, with N seeds from 1 on
 *     PROGRAM --mutation M [--seeds N]     breaks that one
 *
 * Same seed, same life. A seed that once failed is kept in a list at the top of its simulation and runs again before
 * every run of many from seed 1 on. tests/crash/sim_million runs very many. */
#ifndef TESTS_SUPPORT_SIMULATION_H
#define TESTS_SUPPORT_SIMULATION_H

#include <stdbool.h>
#include <stdint.h>

struct simulation {
    uint64_t first, seeds;
    bool verbose, mutations;
    int mutation; /* 0: all */
};

/* seeds: how many where nothing says. False: usage was printed. */
bool simulation_arguments(int argc, char **argv, uint64_t seeds, struct simulation *out);

/* Runs the seeds that were asked for, those that are kept (0 ends them) before the others. run says by itself what is
 * wrong and returns false; then no further one is run. In which seed an assertion failed is said, too. */
bool simulation_run(const struct simulation *s, const uint64_t *kept, bool (*run)(uint64_t seed));

#endif
