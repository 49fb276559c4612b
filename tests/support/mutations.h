/* Breaks ordering rules one after the other (HF_MUTATE, env/env.h) and asks a simulation whether it notices.
 */
#ifndef TESTS_SUPPORT_MUTATIONS_H
#define TESTS_SUPPORT_MUTATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Runs one seed; false: a promise was broken, why says which. It may also abort, exit or run for ever. */
typedef bool mutations_run(uint64_t seed, char *why, size_t size);

/* Each of the rules, which end with 0, with seeds 1 … seeds, until one notices, each in a process of its own.
 * Prints a line a rule; returns how many were not noticed. */
int mutations_missed(const int *rules, uint64_t seeds, mutations_run *run);

#endif
