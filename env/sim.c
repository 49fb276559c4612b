/* The simulated machine: one clock, one order of operations, one seed.
 *
 * Every operation (sim_calls.c) passes sim_strike(), which counts it, feeds the trace, and says whether the
 * machine crashes in it. The operation then does part of itself, and from then on the machine is dead: calls give
 * HF_ECRASHED and change nothing until hf_sim_restart. The disk's uncertain part is settled there, by the kind of
 * crash:
 *
 *     alive ── sim_strike(), hf_sim_crash ──→ dead(kind) ── hf_sim_restart ──→ alive
 *                                                  process death: cache stays, clean pages may leave it
 *                                                  power loss: sim_file_power_loss, sim_dirs_power_loss
 *
 * Three streams of random numbers come from the seed: the machine's own choices, env_random, and the test's,
 * so that one more draw by the test does not change what the disk does with the same operations.
 *
 * Out of memory ends the test: a simulator that fails is no machine that fails. */
#include "sim_internal.h"

#include <assert.h>
#include <stdlib.h>

static const int64_t DEFAULT_WALL_MS = INT64_C(1767225600000); /* 2026-01-01 */
static const uint64_t DEFAULT_CAPACITY = 1 << 30;

/* ---- random numbers, trace ---- */

uint64_t sim_scramble(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
uint64_t sim_next(struct sim_random *r) {
    return sim_scramble(r->s += UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t sim_below(struct hf_sim *sim, uint64_t n) {
    return sim_next(&sim->random) % n;
}

enum sim_luck sim_luck(struct hf_sim *sim) {
    return (enum sim_luck)sim_below(sim, SIM_LUCKS);
}

uint64_t sim_pick(struct hf_sim *sim, enum sim_luck luck, uint64_t n) {
    if (luck == SIM_OLDEST) return 0;
    if (luck == SIM_NEWEST || (luck == SIM_MOSTLY_NEWEST && !sim_one_in(sim, 8))) return n - 1;
    return sim_below(sim, n);
}

static void sim_mix(struct hf_sim *sim, uint64_t x) {
    sim->trace = sim_scramble(sim->trace ^ x) + UINT64_C(0x9e3779b97f4a7c15);
}

void *sim_grow(void *v, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return v;
    *cap = *cap ? 2 * *cap : 8;
    v = realloc(v, *cap * size);
    assert(v);
    return v;
}

/* ---- crash points and mutations ---- */

static struct hf_sim_cell *cell_of(struct hf_sim_hits *hits, const char *point) {
    for (size_t i = 0; i < hits->count; i++)
        if (hits->cells[i].point == point) return &hits->cells[i];
    for (size_t i = 0; i < hits->count; i++) /* the same literal of another source file */
        if (strcmp(hits->cells[i].point, point) == 0) return &hits->cells[i];
    assert(hits->count < HF_SIM_POINTS_MAX);
    hits->cells[hits->count] = (struct hf_sim_cell){.point = point};
    return &hits->cells[hits->count++];
}

static void die(struct hf_sim *sim, const char *point) {
    sim->dead = true;
    sim->crashed_at = point;
    sim->crash_in = 0;
    sim_mix(sim, 0xdead);
}

bool sim_strike(struct hf_sim *sim, const char *point, uint64_t what) {
    sim->operations++;
    sim->now_us++;
    sim_mix(sim, what);
    struct hf_sim_cell *cell = sim->options.hits ? cell_of(sim->options.hits, point) : NULL;
    if (cell) cell->passed++;
    if (sim->crash_in == 0) return false;
    if (sim->crash_point && strcmp(sim->crash_point, point) != 0) return false;
    if (--sim->crash_in > 0) return false;
    if (cell) cell->crashed[sim->crash_kind]++;
    die(sim, point);
    return true;
}

/* Not of an overlay, whose machine does not crash. */
void env_point(struct hf_env *env, const char *name) {
    struct hf_sim *sim = sim_of(env);
    if (env->ops == &sim_ops && !sim->dead) (void)sim_strike(sim, name, strlen(name));
}

static int mutation = -1; /* not asked yet */

bool hf_mutate(int n) {
    if (mutation < 0) {
        const char *asked = getenv("HF_MUTATE");
        mutation = asked ? atoi(asked) : 0;
    }
    return n > 0 && n == mutation;
}

void hf_sim_set_mutation(int n) {
    mutation = n;
}

void hf_sim_hits_print(const struct hf_sim_hits *hits, FILE *to) {
    fprintf(to, "%-32s %12s %14s %11s\n", "crash point", "passed", "process death", "power loss");
    for (size_t i = 0; i < hits->count; i++) {
        const struct hf_sim_cell *c = &hits->cells[i];
        fprintf(to, "%-32s %12llu %14llu %11llu\n", c->point, (unsigned long long)c->passed,
                (unsigned long long)c->crashed[HF_SIM_PROCESS_DEATH],
                (unsigned long long)c->crashed[HF_SIM_POWER_LOSS]);
    }
}

size_t hf_sim_hits_empty(const struct hf_sim_hits *hits, const char **point) {
    size_t empty = 0;
    if (point) *point = NULL;
    for (size_t i = 0; i < hits->count; i++)
        for (size_t kind = 0; kind < HF_SIM_CRASH_KINDS; kind++)
            if (hits->cells[i].crashed[kind] == 0 && empty++ == 0 && point) *point = hits->cells[i].point;
    return empty;
}

/* ---- faults ---- */

enum hf_err sim_fault(struct hf_sim *sim, enum sim_call call) {
    if (sim->fail_syncs && call != SIM_CALL_SYNC) return HF_OK;
    if (sim->fail_stays && sim->fail_with == HF_ENOSPC && call != SIM_CALL_TAKES_SPACE) return HF_OK;
    if (sim->fail_in == 0 || --sim->fail_in > 0) return HF_OK;
    sim->failed = true;
    if (sim->fail_stays) sim->fail_in = 1;
    return sim->fail_with == HF_ENOSPC && call != SIM_CALL_TAKES_SPACE ? HF_EIO : sim->fail_with;
}

/* ---- the machine ---- */

enum hf_err hf_sim_open(uint64_t seed, const struct hf_sim_options *options, struct hf_sim **out) {
    struct hf_sim *sim = calloc(1, sizeof *sim);
    if (!sim) return HF_ENOMEM;
    sim->env.ops = &sim_ops;
    sim->options = *options;
    sim->random.s = sim_scramble(seed);
    sim->env_random.s = sim_scramble(seed ^ UINT64_C(0x5bd1e995));
    sim->test_random.s = sim_scramble(seed ^ UINT64_C(0xc2b2ae35));
    sim->discard_random.s = sim_scramble(seed ^ UINT64_C(0x27d4eb2f));
    static const uint64_t odds[] = {1, 10, 100, 1000};
    sim->discard_odds = odds[sim_next(&sim->discard_random) % (sizeof odds / sizeof odds[0])];
    sim->wall_ahead_ms = options->wall_ms ? options->wall_ms : DEFAULT_WALL_MS;
    sim->capacity = options->capacity_bytes ? options->capacity_bytes : DEFAULT_CAPACITY;
    sim->boot_id = sim_next(&sim->random);
    sim->crashed_at = "";
    sim->root = sim_inode_make(sim, true);
    sim_inode_ref(sim->root);
    *out = sim;
    return HF_OK;
}

void hf_sim_close(struct hf_sim *sim) {
    if (!sim) return;
    assert(sim->open_files == 0);
    while (sim->sync_count > 0) sim_sync_forget(sim, 0);
    sim_discards_forget(sim);
    sim_dirs_power_loss(sim); /* changes may tie folders in a ring */
    sim_inode_unref(sim, sim->root);
    assert(!sim->first);
    free(sim);
}

struct hf_env *hf_sim_env(struct hf_sim *sim) {
    return &sim->env;
}

void hf_sim_advance(struct hf_sim *sim, int64_t us) {
    assert(us >= 0);
    sim->now_us += us;
}

int64_t hf_sim_next_us(const struct hf_sim *sim) {
    if (sim->sync_count == 0 || sim->dead) return -1;
    int64_t due = sim->syncs[sim_sync_first(sim)].due_us;
    return due > sim->now_us ? due - sim->now_us : 0;
}

void hf_sim_set_wall(struct hf_sim *sim, int64_t ms) {
    sim->wall_ahead_ms = ms - sim->now_us / 1000;
}

uint64_t hf_sim_random(struct hf_sim *sim) {
    return sim_next(&sim->test_random);
}

void hf_sim_crash_at(struct hf_sim *sim, uint64_t n, enum hf_sim_crash kind) {
    sim->crash_in = n;
    sim->crash_kind = kind;
    sim->crash_point = NULL;
}

void hf_sim_crash_at_point(struct hf_sim *sim, const char *point, uint64_t n, enum hf_sim_crash kind) {
    hf_sim_crash_at(sim, n, kind);
    sim->crash_point = point;
}

void hf_sim_crash(struct hf_sim *sim, enum hf_sim_crash kind) {
    sim->crash_kind = kind;
    die(sim, "");
}

bool hf_sim_dead(const struct hf_sim *sim) {
    return sim->dead;
}

enum hf_sim_crash hf_sim_crash_kind(const struct hf_sim *sim) {
    return sim->crash_kind;
}

const char *hf_sim_crashed_at(const struct hf_sim *sim) {
    return sim->crashed_at;
}

/* What the power cut left. */
static void lose_power(struct hf_sim *sim) {
    for (struct sim_inode *i = sim->first; i; i = i->next)
        if (!i->is_dir) sim_file_power_loss(sim, i);
    sim_dirs_power_loss(sim);
    sim->boot_id = sim_next(&sim->random);
    sim->boot_us = sim->now_us;
}

void hf_sim_restart(struct hf_sim *sim) {
    assert(sim->open_files == 0);
    while (sim->sync_count > 0) sim_sync_forget(sim, sim->sync_count - 1);
    sim_discards_forget(sim);
    if (sim->dead && sim->crash_kind == HF_SIM_POWER_LOSS) lose_power(sim);
    for (struct sim_inode *i = sim->first; i; i = i->next)
        if (!i->is_dir) sim_file_evict(sim, i);
    sim->dead = false;
    sim->locked = false;
    sim->crash_in = 0;
    sim->fail_in = 0;
    sim->failed = false;
    sim_mix(sim, sim->boot_id);
}

uint64_t hf_sim_operations(const struct hf_sim *sim) {
    return sim->operations;
}

uint64_t hf_sim_trace(const struct hf_sim *sim) {
    return sim->trace;
}

void hf_sim_fail_at(struct hf_sim *sim, uint64_t n, enum hf_err e) {
    sim->fail_in = n;
    sim->fail_with = e;
    sim->fail_syncs = sim->fail_stays = false;
    sim->fail_suffix = NULL;
    sim->failed = false;
}

void hf_sim_fail_from(struct hf_sim *sim, uint64_t n, enum hf_err e) {
    hf_sim_fail_at(sim, n, e);
    sim->fail_stays = true;
}

void hf_sim_fail_sync_at(struct hf_sim *sim, uint64_t n, const char *suffix) {
    assert(!suffix || strlen(suffix) < SIM_SUFFIX);
    hf_sim_fail_at(sim, n, HF_EIO);
    sim->fail_syncs = true;
    sim->fail_suffix = suffix;
}

bool hf_sim_failed(const struct hf_sim *sim) {
    return sim->failed;
}

uint64_t hf_sim_errors_logged(const struct hf_sim *sim) {
    return sim->errors_logged;
}

void hf_sim_set_capacity(struct hf_sim *sim, uint64_t bytes) {
    sim->capacity = bytes;
}

enum hf_err hf_sim_damage(struct hf_sim *sim, const char *path, uint64_t offset, uint8_t mask) {
    struct sim_inode *i = sim_lookup(sim, path);
    if (!i || i->is_dir) return HF_ENOTFOUND;
    if (offset >= i->size) return HF_ERANGE;
    i->slab->cache[offset] ^= mask;
    i->slab->disk[offset] ^= mask;
    return HF_OK;
}

void hf_sim_check(const struct hf_sim *sim) {
    sim_disk_check(sim);
}
