/* A machine that exists in memory, decided by one seed, that crashes on request.
 *
 *     struct hf_sim *sim;
 *     hf_sim_open(seed, &(struct hf_sim_options){0}, &sim);
 *     struct hf_env *env = hf_sim_env(sim);
 *     hf_sim_crash_at(sim, 17, HF_SIM_POWER_LOSS);   // at the 17th operation from now
 *     …run the code until hf_sim_dead(sim), throw its objects away (all files closed)…
 *     hf_sim_restart(sim);                           // the disk as the crash left it; run the code again
 *     hf_sim_close(sim);
 *
 * What each crash leaves is env.h's contract; env/sim_disk.c and env/sim_names.c say how it is kept. Time
 * passes only in hf_sim_advance and while the code waits (env_wait, env_sync_wait), but for a microsecond an
 * operation. Syncs end late, in an order of their own. Bytes reach the disk unasked.
 * Discarded files go in polls, in some machines soon, in others hardly ever, and not when the env is closed.
 *
 * An operation is: creating, each env_write, env_allocate, env_truncate, env_rename, env_unlink,
 * env_mkdir, env_rmdir, the begin and the end of each sync, and each env_point. A crash strikes in the middle
 * of it: the operation may have happened in part, wholly or not at all.
 *
 * One machine, one thread; and as machines share spare memory, one thread for all machines of a process. */
#ifndef ENV_SIM_H
#define ENV_SIM_H

#include "env/env.h"

#include <stdio.h>

struct hf_sim;

enum hf_sim_crash { HF_SIM_PROCESS_DEATH, HF_SIM_POWER_LOSS, HF_SIM_CRASH_KINDS };

/* How often each crash point was passed, and crashed at by each kind. The operations are points too:
 * "op.write", "op.sync_begin", "op.sync_end" and so on. Owned by the test, summed up over many
 * machines. */
enum { HF_SIM_POINTS_MAX = 256 };
struct hf_sim_hits {
    struct hf_sim_cell {
        const char *point;
        uint64_t passed, crashed[HF_SIM_CRASH_KINDS];
    } cells[HF_SIM_POINTS_MAX];
    size_t count;
};

struct hf_sim_options {
    uint64_t capacity_bytes;  /* of the disk; 0: 1 GiB */
    int64_t wall_ms;          /* wall clock at the start; 0: 2026-01-01 */
    struct hf_sim_hits *hits; /* NULL: not counted */
    bool verbose;             /* log lines go to stderr */
};

HF_CHECK enum hf_err hf_sim_open(uint64_t seed, const struct hf_sim_options *options, struct hf_sim **out);

/* Files may still be open after a crash, never otherwise. */
void hf_sim_close(struct hf_sim *sim);

/* The machine's env; it is the machine's, hf_env_close does nothing to it. */
struct hf_env *hf_sim_env(struct hf_sim *sim);

/* ---- time ---- */

void hf_sim_advance(struct hf_sim *sim, int64_t us);

/* Microseconds until the next sync under way ends; -1 if none is. */
int64_t hf_sim_next_us(const struct hf_sim *sim);

/* Sets the wall clock, forwards or back. */
void hf_sim_set_wall(struct hf_sim *sim, int64_t ms);

/* Random numbers for the test itself: a stream of its own, from the same seed. */
uint64_t hf_sim_random(struct hf_sim *sim);

/* ---- crashes ---- */

/* Crashes at the n-th operation from now, n ≥ 1. Replaces what was asked before; n = 0 takes it back. */
void hf_sim_crash_at(struct hf_sim *sim, uint64_t n, enum hf_sim_crash kind);

/* Crashes at the n-th passage of this point from now. Replaces what was asked before. */
void hf_sim_crash_at_point(struct hf_sim *sim, const char *point, uint64_t n, enum hf_sim_crash kind);

/* Crashes between two operations, now. */
void hf_sim_crash(struct hf_sim *sim, enum hf_sim_crash kind);

bool hf_sim_dead(const struct hf_sim *sim);

/* What the last crash was. */
enum hf_sim_crash hf_sim_crash_kind(const struct hf_sim *sim);

/* Which point the last crash struck; "" if none did or between operations. */
const char *hf_sim_crashed_at(const struct hf_sim *sim);

/* Starts the machine again after a crash, or the process after a clean stop. Every file must have been
 * closed: a leak asserts. A power loss moves the boot id and restarts the monotonic clock. */
void hf_sim_restart(struct hf_sim *sim);

/* Operations since the machine was made, and a hash over all of them: the same seed and the same calls
 * give the same. */
uint64_t hf_sim_operations(const struct hf_sim *sim);
uint64_t hf_sim_trace(const struct hf_sim *sim);

/* ---- faults ---- */

/* The n-th call from now that can fail, reads included, fails with e; n = 0 takes it back. HF_ENOSPC strikes
 * only what takes space and is HF_EIO elsewhere. A failing write may have happened in part. A failing sync
 * leaves its bytes readable but clean: no later sync writes them, and power loss or a direct read shows what
 * the disk has. A failing sync of a folder leaves its changes as they were. */
void hf_sim_fail_at(struct hf_sim *sim, uint64_t n, enum hf_err e);

/* As hf_sim_fail_at, and every such call after it fails too: a disk that died, or stays full. With HF_ENOSPC
 * calls that take no space go on. */
void hf_sim_fail_from(struct hf_sim *sim, uint64_t n, enum hf_err e);

/* The n-th sync begun from now fails with HF_EIO; with a suffix, of a file whose path ended so when it was
 * opened. Replaces what was asked before, as does hf_sim_fail_at. */
void hf_sim_fail_sync_at(struct hf_sim *sim, uint64_t n, const char *suffix);

/* Whether the fault asked for has struck. */
bool hf_sim_failed(const struct hf_sim *sim);

/* How many lines of level ENV_ERROR were logged since the machine was made: who fails has to say so. */
uint64_t hf_sim_errors_logged(const struct hf_sim *sim);

void hf_sim_set_capacity(struct hf_sim *sim, uint64_t bytes);

/* Inverts bits of a byte on the disk and in memory, as a rotting disk does. HF_ENOTFOUND, HF_ERANGE. */
HF_CHECK enum hf_err hf_sim_damage(struct hf_sim *sim, const char *path, uint64_t offset, uint8_t mask);

/* ---- what the tests look at ---- */

void hf_sim_hits_print(const struct hf_sim_hits *hits, FILE *to);

/* How many (point × kind) were passed but never crashed at; NULL or the first such point in *point. */
size_t hf_sim_hits_empty(const struct hf_sim_hits *hits, const char **point);

/* Asserts the invariants of the simulator itself. */
void hf_sim_check(const struct hf_sim *sim);

/* hf_mutate(n) is true for this n from now on; 0: none. Until called, the environment's HF_MUTATE decides. */
void hf_sim_set_mutation(int n);

#endif
