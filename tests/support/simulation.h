/* How every simulation is called (sim_store, sim_schedule, sim_txn):
 *
 *     PROGRAM [--seeds N]                  N seeds from 1 on
 *     PROGRAM --seed S [--seeds N]         seed S alone, or N seeds from S on
 *     PROGRAM --seed S --verbose           one seed, every step told: how a failure is looked into
 *     PROGRAM --mutations [--seeds N]      breaks each ordering rule in turn, with N seeds from 1 on
 *     PROGRAM --mutation M [--seeds N]     breaks that one
 *
 * Same seed, same life. tests/crash/sim_million runs very many of them. */
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

#endif
