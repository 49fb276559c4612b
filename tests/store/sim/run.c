/* One seed from the first start to the last look: lives that end in a crash, a clean stop, or a failed log.
 *
 *     open ─► sweep ─► steps … ─► crash ─► restart ─► open …            (process death, loss of power)
 *       └─ crashes in recovery ─────────────┘
 *                          └────► close ─► restart, or loss of power ─► open …
 *                          └────► the log has failed (a sync did): the process ends ─► open …
 *
 * When enough was done: a clean stop, loss of power, and a last sweep. */
#include "run.h"

#include <stdarg.h>
#include <stdio.h>

uint64_t run_below(struct run *r, uint64_t n) {
    return n ? hf_sim_random(r->sim) % n : 0;
}

void run_note(struct run *r, const char *fmt, ...) {
    if (!r->verbose) return;
    va_list values;
    va_start(values, fmt);
    fprintf(stderr, "%8llu  ", (unsigned long long)hf_sim_operations(r->sim));
    vfprintf(stderr, fmt, values);
    fputc('\n', stderr);
    va_end(values);
}

static void arm_fault(struct run *r) {
    if (run_one_in(r, 12))
        hf_sim_fail_sync_at(r->sim, 1 + run_below(r, 10), ".log");
    else if (run_one_in(r, 24))
        hf_sim_fail_sync_at(r->sim, 1 + run_below(r, 60), NULL);
    else if (run_one_in(r, 12))
        hf_sim_fail_at(r->sim, 1 + run_below(r, 400), run_one_in(r, 3) ? HF_ENOSPC : HF_EIO);
}

/* Faults of recovery are over; what is looked at now is not to fail. */
static void disarm_fault(struct run *r) {
    r->faulted = r->faulted || hf_sim_failed(r->sim);
    hf_sim_fail_at(r->sim, 0, HF_OK);
}

/* A fault has struck in this life: also one of its start, whose sync may end long after. */
bool run_struck(const struct run *r) {
    return r->faulted || hf_sim_failed(r->sim);
}

/* Every named point of the store: a quarter of the lives end at one. */
const char *const run_points[] = {
    "checkpoint.begun",
    "checkpoint.synced",
    "checkpoint.snapshot_synced",
    "checkpoint.superblock_synced",
    "checkpoint.ended",
    "commit.part_applied",
    "compaction.ended",
    "journal.file_begun",
    "journal.written",
    "journal.synced",
    "partition.synced",
    "recovery.cut",
    "recovery.journal_begun",
    "recovery.partition_cut",
    "recovery.replayed",
    "recovery.state_replayed",
    "run.synced",
    "segment.created",
    "segment.rolled",
    "store.made",
    "swap.applied",
    "swap.ended",
    "swap.recorded",
    "swap.renamed",
    "topic.altered",
    "topic.deleted",
    "topic.folders_synced",
    "topic.grown",
    NULL,
};

static const char *draw_point(struct run *r) {
    size_t n = 0;
    while (run_points[n]) n++;
    return run_points[run_below(r, n)];
}

/* Compaction comes by seldom: where much is written to its topic, it is struck more often. */
static bool arm_compaction(struct run *r, enum hf_sim_crash kind) {
    static const char *const points[] = {"swap.recorded", "swap.renamed", "swap.applied", "swap.ended",
                                         "compaction.ended"};
    if (!r->keyed || !run_one_in(r, 3)) return false;
    hf_sim_crash_at_point(r->sim, points[run_below(r, 5)], 1 + run_below(r, 3), kind);
    return true;
}

static void arm(struct run *r) {
    enum hf_sim_crash kind = (enum hf_sim_crash)run_below(r, HF_SIM_CRASH_KINDS);
    static const uint64_t within[] = {30, 200, 800, 2000};
    if (arm_compaction(r, kind)) {
        arm_fault(r);
        return;
    }
    if (run_one_in(r, 4))
        hf_sim_crash_at_point(r->sim, draw_point(r), 1 + run_below(r, 6), kind);
    else
        hf_sim_crash_at(r->sim, 1 + run_below(r, within[run_below(r, 4)]), kind);
    arm_fault(r);
}

static void crashed(struct run *r, struct run_totals *totals, bool power) {
    run_note(r, "==== %s at \"%s\"", power ? "power loss" : "process death", hf_sim_crashed_at(r->sim));
    r->power = r->power || power;
    r->crashes++;
    totals->crashes++;
    totals->power_losses += power;
}

/* The process ends without a crash of the machine's making; now and then the power goes with it. */
static void end_process(struct run *r, struct run_totals *totals, bool counts) {
    bool power = run_one_in(r, 3);
    hf_sim_crash(r->sim, power ? HF_SIM_POWER_LOSS : HF_SIM_PROCESS_DEATH);
    r->power = r->power || power;
    if (counts) crashed(r, totals, power);
}

void run_abandon(struct run *r) {
    work_stop(r);
    if (r->log) log_abandon(r->log);
    r->log = NULL;
}

/* What the machine did last: its kind is known to the model through r->power. */
void run_restart(struct run *r) {
    r->model->syncs_failed = r->model->syncs_failed || run_struck(r);
    r->faulted = false;
    hf_sim_restart(r->sim);
    hf_sim_set_capacity(r->sim, 1 << 30);
    r->full = false;
}

/* Opens the store and looks at everything. false: not open, either crashed or broken. */
bool run_open(struct run *r, struct run_totals *totals) {
    enum hf_err e = log_open(r->env, &r->options, &r->log);
    run_note(r, "open: %s", hf_err_name(e));
    if (e) {
        r->log = NULL;
        bool fault = hf_sim_dead(r->sim) || hf_sim_failed(r->sim);
        if (!fault) model_broken(r->model, "M0", "the store does not open: %s", hf_err_name(e));
        totals->recoveries_crashed += hf_sim_dead(r->sim);
        return false;
    }
    r->engine = log_engine(r->log);
    if (r->swept) { /* the fault is still to come, and there is nothing yet to look at */
        work_resume(r);
        return true;
    }
    disarm_fault(r);
    log_check(r->log);
    sweep_all(r);
    if (r->model->broken || hf_sim_dead(r->sim)) return false;
    if (!r->calm) arm_fault(r);
    r->power = false;
    work_resume(r);
    return true;
}

/* A clean stop makes everything durable: the model is told by the next sweep, which allows no loss. */
void run_close(struct run *r, struct run_totals *totals) {
    work_stop(r);
    enum hf_err e = log_close(r->log);
    run_note(r, "close: %s", hf_err_name(e));
    r->log = NULL;
    if (hf_sim_dead(r->sim)) return;
    if (!e) {
        totals->clean_stops++;
        for (uint32_t i = 0; i < r->model->message_count; i++) {
            struct message *x = &r->model->messages[i];
            if (x->fate == FATE_ANSWERED || x->fate == FATE_KEPT) x->durable = true;
        }
    } else if (!run_struck(r) && !r->full) {
        model_broken(r->model, "M0", "a clean stop failed: %s", hf_err_name(e));
    }
}

static void stop_cleanly(struct run *r, struct run_totals *totals) {
    run_close(r, totals);
    if (!hf_sim_dead(r->sim)) end_process(r, totals, false);
}

static bool enough(const struct run *r) {
    return r->operations >= RUN_OPERATIONS && r->crashes >= RUN_CRASHES;
}

/* Steps until the life ends in one of its ways. */
static void live(struct run *r, struct run_totals *totals) {
    uint64_t left = 50 + run_below(r, 400);
    while (!hf_sim_dead(r->sim) && !r->model->broken) {
        if (log_failed(r->log)) {
            totals->failures++;
            if (!run_struck(r))
                model_broken(r->model, "M0", "the log failed: %s", hf_err_name(log_failed(r->log)));
            end_process(r, totals, true);
            break;
        }
        if (left-- == 0) {
            struct log_stats stats;
            log_stats(r->log, &stats);
            totals->compactions += stats.compactions;
            stop_cleanly(r, totals);
            break;
        }
        work_step(r, totals);
        if (!hf_sim_dead(r->sim) && run_one_in(r, 16)) log_check(r->log);
    }
}

/* The machine damages nothing in these runs: whatever a crash left must not be taken for damage. */
static void damaged(void *arg, const struct log_damage *d) {
    struct run *r = arg;
    if (run_struck(r)) return;
    /* The one is never synced, and nobody needs it; the others may be of a start that was cut off, or of a
     * checkpoint that was put off. */
    if (d->rebuilt && (strstr(d->file, "leader-epoch-checkpoint") || !strchr(d->file, '/'))) return;
    model_broken(r->model, "M0", "damage is told where there is none: %s byte %llu: %s", d->file,
                 (unsigned long long)d->byte, d->what);
}

static void draw_options(struct run *r) {
    static const uint64_t segments[] = {2048, 8192, 65536};
    static const uint64_t journals[] = {64 << 10, 64 << 10, 128 << 10};
    r->keyed = run_one_in(r, 3);
    r->options = (struct log_options){
        .default_partitions = 1,
        .segment_bytes = segments[run_below(r, 3)],
        .message_max = 8192,
        .journal_file_bytes = journals[run_below(r, 3)],
        .checkpoint_bytes = (uint64_t)8192 << run_below(r, 4),
        .reserve_bytes = 16 << 10,
        .retention_check_ms = 1 + (int64_t)run_below(r, r->keyed ? 5 : 50),
        .anchor_bytes = 512,
        .open_files = r->seed % 4 == 3 ? 2 + r->seed % 8 : 0,
        .scrub_interval_ms = 1 + (int64_t)run_below(r, 20),
        .scrub_bytes_s = 16 << 20,
        .damaged = damaged,
        .damaged_arg = r,
        .compaction_bytes = (size_t)100 << run_below(r, 8),
    };
    log_settings_put(&r->options.settings, LOG_RETENTION_MS, -1);
    log_settings_put(&r->options.settings, LOG_SEGMENT_MS, 3600000);
}

void run_last_look(struct run *r, struct run_totals *totals) {
    hf_sim_crash_at(r->sim, 0, HF_SIM_PROCESS_DEATH);
    for (int i = 0; i < 2 && !r->model->broken; i++) {
        if (!run_open(r, totals)) {
            if (!r->model->broken) model_broken(r->model, "M0", "the last start failed without a crash");
            return;
        }
        stop_cleanly(r, totals);
        model_crashed(r->model);
        r->power = true;
        hf_sim_crash(r->sim, HF_SIM_POWER_LOSS);
        run_restart(r);
    }
}

bool run_made(struct run *r, struct model *m, uint64_t seed, struct hf_sim_hits *hits, bool verbose) {
    memset(r, 0, sizeof *r);
    r->seed = seed;
    r->model = m;
    r->verbose = verbose;
    struct hf_sim_options options = {.hits = hits, .verbose = verbose};
    if (hf_sim_open(seed, &options, &r->sim)) return false;
    r->env = hf_sim_env(r->sim);
    model_init(m, seed);
    draw_options(r);
    work_start(r);
    return true;
}

bool run_seed(struct run *r, struct model *m, uint64_t seed, struct hf_sim_hits *hits, bool verbose,
              struct run_totals *totals) {
    if (!run_made(r, m, seed, hits, verbose)) return false;
    for (int life = 0; life < RUN_LIVES_MAX && !enough(r) && !m->broken; life++) {
        arm(r);
        if (run_open(r, totals)) live(r, totals);
        if (m->broken) break;
        if (hf_sim_dead(r->sim) && hf_sim_crashed_at(r->sim)[0])
            crashed(r, totals, hf_sim_crash_kind(r->sim) == HF_SIM_POWER_LOSS);
        run_abandon(r);
        model_crashed(m);
        if (!hf_sim_dead(r->sim)) end_process(r, totals, true); /* a fault while it opened */
        run_restart(r);
    }
    if (!m->broken) run_last_look(r, totals);
    if (!m->broken && !enough(r))
        model_broken(m, "M0", "only %u operations, %u crashes", r->operations, r->crashes);
    if (r->log) run_abandon(r);
    totals->seeds++;
    totals->operations += r->operations;
    hf_sim_close(r->sim);
    return !m->broken;
}
