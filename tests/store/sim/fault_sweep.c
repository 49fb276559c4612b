/* The fault sweep: the n-th call of the store to its machine fails, for every n, in every way a call can
 * fail.
 *
 *     fault_sweep [--seed S] [--steps N] [--every K]
 *
 * One workload, decided by the seed: a store is made, used for N steps (random ones: tests/store/sim/work.c)
 * and closed. It is run again for each n from 1 on until nothing fails any more, and for each way (below);
 * and each of these twice, ended by process death and by loss of power. Then the same with the fault in the
 * recovery of a store that crashed in the middle of that work. What must hold each time:
 *
 *   F1  no answer given is taken back: the next start succeeds and the model finds everything (model.h)
 *   F2  after a failed sync the log has failed, or the start or the clean stop has: never anything else
 *   F3  who fails says so: a start that fails, and a log that fails, have logged an error
 *   F4  the store goes on: after the next start it takes more work, stops and starts
 *
 * Interrupted calls and short reads and writes end in env/posix.c and never reach the store;
 * test_posix_faults sends the contract suite through them. */
#include "run.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { AFTER_STEPS = 40 };

enum way { EIO_ONCE, ENOSPC_ONCE, SYNC_ONCE, EIO_FROM, ENOSPC_FROM, WAYS };
static const char *const way_names[WAYS] = {"EIO", "ENOSPC", "failed sync", "EIO from there on",
                                            "ENOSPC from there on"};

enum where { IN_WORK, IN_RECOVERY, WHERES };
static const char *const where_names[WHERES] = {"at work", "in recovery"};

struct point {
    enum way way;
    enum where where;
    enum hf_sim_crash crash;
    uint64_t n;
};

static struct run run;
static struct model model;
static struct run_totals totals;
static struct point at;
static uint64_t seed = 1, steps = 200, every = 1, runs, failed_logs, failed_starts;

static void on_abort(int number) {
    char text[120];
    (void)number;
    int n = snprintf(text, sizeof text, "aborted: %s, call %llu %s, then crash %d\n", way_names[at.way],
                     (unsigned long long)at.n, where_names[at.where], (int)at.crash);
    if (n > 0 && write(2, text, (size_t)n) < 0) _exit(3);
}

static void arm(struct run *r) {
    switch (at.way) {
    case SYNC_ONCE: hf_sim_fail_sync_at(r->sim, at.n, NULL); break;
    case EIO_FROM: hf_sim_fail_from(r->sim, at.n, HF_EIO); break;
    case ENOSPC_FROM: hf_sim_fail_from(r->sim, at.n, HF_ENOSPC); break;
    default: hf_sim_fail_at(r->sim, at.n, at.way == ENOSPC_ONCE ? HF_ENOSPC : HF_EIO);
    }
}

static void work(struct run *r, uint64_t count) {
    for (uint64_t i = 0; i < count && !log_failed(r->log) && !r->model->broken; i++) {
        work_step(r, &totals);
        log_check(r->log);
    }
}

static void crash(struct run *r) {
    bool power = at.crash == HF_SIM_POWER_LOSS;
    hf_sim_crash(r->sim, at.crash);
    r->power = r->power || power;
    run_abandon(r);
    model_crashed(r->model);
    run_restart(r);
}

/* The life in which the fault strikes; whether it did. F2, F3. */
static bool faulty_life(struct run *r) {
    uint64_t errors = hf_sim_errors_logged(r->sim);
    arm(r);
    bool open = run_open(r, &totals);
    if (open && at.where == IN_WORK) work(r, steps);
    bool failed = r->log && log_failed(r->log);
    if (open && !failed && !r->model->broken && at.where == IN_WORK) {
        uint64_t stops = totals.clean_stops;
        run_close(r, &totals);
        failed = totals.clean_stops == stops;
    }
    bool struck = run_struck(r);
    failed_logs += open && failed;
    failed_starts += !open;
    if (at.way == SYNC_ONCE && struck && open && !failed)
        model_broken(r->model, "F2", "a sync failed and the store went on");
    if ((!open || failed) && !r->model->broken && hf_sim_errors_logged(r->sim) == errors)
        model_broken(r->model, "F3", "%s failed without a word", open ? "the log" : "the start");
    crash(r);
    return struck;
}

/* One run of the workload; whether the fault struck in it. */
static bool sweep_point(struct run *r) {
    if (!run_made(r, &model, seed, NULL, false)) exit(3);
    r->calm = true;
    if (at.where == IN_RECOVERY) {
        if (!run_open(r, &totals)) model_broken(&model, "F4", "the first start failed");
        if (!model.broken) work(r, steps);
        if (!model.broken) crash(r);
    }
    r->swept = at.where == IN_WORK;
    bool struck = !model.broken && faulty_life(r);
    r->swept = false;
    hf_sim_fail_at(r->sim, 0, HF_OK);
    if (!model.broken && !run_open(r, &totals) && !model.broken)
        model_broken(&model, "F1", "the start after it failed");
    if (!model.broken) {
        work(r, AFTER_STEPS);
        if (log_failed(r->log)) model_broken(&model, "F4", "the log failed in the life after it");
        hf_sim_crash(r->sim, HF_SIM_PROCESS_DEATH);
        run_abandon(r);
        model_crashed(&model);
        run_restart(r);
    }
    if (!model.broken) run_last_look(r, &totals);
    if (!hf_sim_dead(r->sim)) hf_sim_crash(r->sim, HF_SIM_PROCESS_DEATH);
    run_abandon(r);
    hf_sim_close(r->sim);
    runs++;
    return struck;
}

/* Every n until nothing fails any more; how many promises were broken. */
static unsigned sweep_way(void) {
    unsigned wrong = 0;
    uint64_t struck = 0;
    for (at.n = 1;; at.n += every) {
        bool hit = sweep_point(&run);
        struck += hit;
        if (model.broken) {
            printf("WRONG  %s, call %llu %s, then %s: %s\n", way_names[at.way], (unsigned long long)at.n,
                   where_names[at.where], at.crash == HF_SIM_POWER_LOSS ? "power loss" : "process death",
                   model.violation);
            if (++wrong == 10) break;
        } else if (!hit) {
            break;
        }
    }
    if (struck == 0) {
        printf("WRONG  %s %s never struck\n", way_names[at.way], where_names[at.where]);
        wrong++;
    }
    printf("%-20s %-12s %-14s %6llu calls failed, %u wrong\n", way_names[at.way], where_names[at.where],
           at.crash == HF_SIM_POWER_LOSS ? "power loss" : "process death", (unsigned long long)struck, wrong);
    return wrong;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i += 2) {
        uint64_t *flag = strcmp(argv[i], "--seed") == 0    ? &seed
                         : strcmp(argv[i], "--steps") == 0 ? &steps
                         : strcmp(argv[i], "--every") == 0 ? &every
                                                           : NULL;
        if (flag && i + 1 < argc) *flag = strtoull(argv[i + 1], NULL, 10);
        if (!flag || i + 1 == argc || every == 0)
            return fprintf(stderr, "usage: fault_sweep [--seed S] [--steps N] [--every K]\n"), 2;
    }
    signal(SIGABRT, on_abort);
    unsigned wrong = 0;
    for (int where = 0; where < WHERES; where++)
        for (int way = 0; way < WAYS; way++)
            for (int crash_kind = 0; crash_kind < HF_SIM_CRASH_KINDS; crash_kind++) {
                at = (struct point){(enum way)way, (enum where)where, (enum hf_sim_crash)crash_kind, 0};
                wrong += sweep_way();
            }
    printf("seed %llu, %llu runs: %llu starts failed, %llu logs failed, %u wrong\n", (unsigned long long)seed,
           (unsigned long long)runs, (unsigned long long)failed_starts, (unsigned long long)failed_logs,
           wrong);
    return wrong > 0;
}
