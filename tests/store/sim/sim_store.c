/* The crash simulation of the store.
 *
 * tests/support/simulation.h says how it is called. It fails on a broken promise, and on a crash point that no
 * crash of a kind struck; with --mutations, if no seed notices one. HF_MUTATE=n in the environment breaks the
 * n-th rule (docs/storage.md) for any run. */
#include "mutations.h"
#include "run.h"
#include "simulation.h"

#include <stdio.h>
#include <time.h>

enum {
    ENOUGH_SEEDS = 1000, /* to strike every point; fewer may miss some */
};

static struct run run;
static struct model model;
static struct hf_sim_hits hits;
static struct run_totals totals;
static bool verbose;

static bool run_one(uint64_t seed) {
    if (run_seed(&run, &model, seed, &hits, verbose, &totals)) return true;
    printf("seed %llu: %s\n", (unsigned long long)seed, model.violation);
    return false;
}

static void print_totals(double seconds) {
    const struct run_totals *t = &totals;
#define N(x) (unsigned long long)t->x
    printf(
        "%llu seeds in %.1f s: %llu operations, %llu crashes (%llu of power, %llu in recovery), %llu clean "
        "stops, %llu failed logs\n",
        N(seeds), seconds, N(operations), N(crashes), N(power_losses), N(recoveries_crashed), N(clean_stops),
        N(failures));
    printf(
        "%llu messages, %llu refused, %llu sent again, %llu of them duplicates; %llu commits, %llu reads, "
        "topics %llu created, %llu grown, %llu altered, %llu deleted, starts moved %llu, %llu compactions\n",
        N(messages), N(refused), N(resent), N(duplicates), N(commits), N(reads), N(topics_created), N(grown),
        N(altered), N(topics_deleted), N(starts_moved), N(compactions));
#undef N
}

/* Every point was crashed at by each kind, and every point there is, is known. */
static bool all_struck(void) {
    const char *point;
    size_t empty = hf_sim_hits_empty(&hits, &point);
    if (empty > 0) printf("%zu crash points were passed and never struck, \"%s\" first\n", empty, point);
    for (size_t i = 0; run_points[i]; i++) {
        size_t k = 0;
        while (k < hits.count && strcmp(hits.cells[k].point, run_points[i]) != 0) k++;
        if (k < hits.count) continue;
        printf("crash point \"%s\" was never passed\n", run_points[i]);
        empty++;
    }
    return empty == 0;
}

/* Seeds that once found a fault, in the store or in the machine. */
static const uint64_t kept_seeds[] = {100562, 115186, 0};

static int run_many(const struct simulation *s) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (!simulation_run(s, kept_seeds, run_one)) return 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    hf_sim_hits_print(&hits, stdout);
    print_totals((double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
    return s->seeds >= ENOUGH_SEEDS && !all_struck();
}

/* ---- mutations ---- */

static bool run_mutated(uint64_t seed, char *why, size_t size) {
    if (run_seed(&run, &model, seed, NULL, false, &totals)) return true;
    snprintf(why, size, "%s", model.violation);
    return false;
}

static int run_mutations(uint64_t seeds, int only) {
    return mutations_missed(only ? (int[]){only, 0} : (int[]){MUTATIONS, 0}, seeds, run_mutated) > 0;
}

int main(int argc, char **argv) {
    struct simulation s;
    if (!simulation_arguments(argc, argv, ENOUGH_SEEDS, &s)) return 2;
    verbose = s.verbose;
    return s.mutations ? run_mutations(s.seeds, s.mutation) : run_many(&s);
}
