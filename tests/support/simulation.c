/* How a simulation is called: a flag that is not known is refused, so that no run is another one than was asked for. */
#include "simulation.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool number_is(const char *flag, const char *value, struct simulation *s, bool *seeds_said) {
    char *end;
    unsigned long long n = strtoull(value, &end, 10);
    if (end == value || *end || *value == '-') return false;
    if (strcmp(flag, "--seeds") == 0) {
        s->seeds = n;
        *seeds_said = true;
    } else if (strcmp(flag, "--seed") == 0) {
        s->first = n;
        if (!*seeds_said) s->seeds = 1;
    } else if (strcmp(flag, "--mutation") == 0) {
        s->mutations = true;
        s->mutation = (int)n;
    } else {
        return false;
    }
    return true;
}

bool simulation_arguments(int argc, char **argv, uint64_t seeds, struct simulation *out) {
    struct simulation s = {.first = 1, .seeds = seeds};
    bool seeds_said = false, good = true;
    for (int i = 1; i < argc && good; i++) {
        if (strcmp(argv[i], "--verbose") == 0)
            s.verbose = true;
        else if (strcmp(argv[i], "--mutations") == 0)
            s.mutations = true;
        else if (i + 1 < argc) {
            good = number_is(argv[i], argv[i + 1], &s, &seeds_said);
            i++;
        } else
            good = false;
    }
    if (good)
        *out = s;
    else
        fprintf(stderr,
                "usage: %s [--seed S] [--seeds N] [--verbose] | --mutations | --mutation M [--seeds N]\n",
                argv[0]);
    return good;
}

/* ---- the seeds ---- */

static volatile uint64_t seed_now;

/* An assertion failed. */
static void on_abort(int number) {
    char text[64];
    (void)number;
    int n = snprintf(text, sizeof text, "seed %llu: aborted\n", (unsigned long long)seed_now);
    if (n > 0 && write(2, text, (size_t)n) < 0) _exit(3);
}

static bool run_one(uint64_t seed, bool (*run)(uint64_t seed)) {
    seed_now = seed;
    return run(seed);
}

bool simulation_run(const struct simulation *s, const uint64_t *kept, bool (*run)(uint64_t seed)) {
    bool from_the_first = s->first == 1 && s->seeds > 1;
    signal(SIGABRT, on_abort);
    for (; from_the_first && *kept; kept++)
        if (!run_one(*kept, run)) return false;
    for (uint64_t seed = s->first; seed < s->first + s->seeds; seed++)
        if (!run_one(seed, run)) return false;
    return true;
}
