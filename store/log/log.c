/* The log as a whole: open, step, close, and what happens when the disk fails.
 *
 * A failure of a sync, or of a write that must not fail, is final [L12]: the log remembers the first, answers
 * nobody any more, and the process is to exit; the next start finds out what is really on the disk. */
#include "log_internal.h"

#include <stdlib.h>

static const struct log_options defaults = {
    .default_partitions = 1,
    .segment_bytes = 256 << 20,
    .message_max = 1 << 20,
    .journal_file_bytes = 16 << 20,
    .checkpoint_bytes = 64 << 20,
    .reserve_bytes = 64 << 20,
    .retention_check_ms = 30000,
    .anchor_bytes = 256 << 10,
    .scrub_interval_ms = INT64_C(7) * 86400 * 1000,
    .scrub_bytes_s = 8 << 20,
    .compaction_bytes = 32 << 20,
};

void log_fail(struct log *l, enum hf_err e, const char *what) {
    if (l->failed) return;
    l->failed = e;
    env_log(l->env, ENV_ERROR, "log_failed", "what=\"%s\" reason=\"%s\"", what, hf_err_text(e));
}

enum hf_err log_failed(const struct log *l) {
    return l->failed;
}

void log_ready(struct log *l, struct completion *c) {
    c->next = NULL;
    if (l->ready)
        l->ready_last->next = c;
    else
        l->ready = c;
    l->ready_last = c;
}

/* ---- producer ids ---- */

static void ids_reserved(void *arg, enum hf_err e) {
    struct log *l = arg;
    if (!e) l->pid_limit = l->pid_asked;
    l->pid_asked = 0;
}

/* Numbers below the limit on disk may be handed out; half of a block is always ready. */
static void ids_step(struct log *l) {
    if (!l->open || l->closing || l->failed || l->pid_asked > 0) return;
    if (l->pid_limit - l->next_pid > LOG_ID_BLOCK / 2) return;
    uint8_t value[8];
    int64_t limit = l->pid_limit + LOG_ID_BLOCK;
    hf_put_be64(value, (uint64_t)limit);
    struct engine_put put = {HF_STR("log/producer-ids"), hf_str_make(value, sizeof value)};
    struct engine_commit c = {.now_ms = env_wall_ms(l->env), .puts = &put, .put_count = 1};
    if (commit_start(l, &c, NULL, NULL, ids_reserved, l) == HF_OK) l->pid_asked = limit;
    if (l->pid_asked && hf_mutate(33)) l->pid_limit = limit;
}

enum hf_err log_producer_id(struct log *l, int64_t *id) {
    if (l->failed) return l->failed;
    if (l->next_pid >= l->pid_limit) return HF_EAGAIN;
    *id = l->next_pid++;
    return HF_OK;
}

static bool ids_ready(struct log *l) {
    return l->next_pid < l->pid_limit;
}

/* ---- step ---- */

static void run_ready(struct log *l) {
    if (l->ready && !hf_mutate(18)) gathered_write(l); /* [L18] */
    struct completion *c = l->ready, *last = l->ready_last;
    while (c && !l->failed) { /* those that come meanwhile wait for the next step */
        l->ready = c->next;
        if (!l->ready) l->ready_last = NULL;
        bool end = c == last;
        c->run(c, true);
        c = end ? NULL : l->ready;
    }
}

static void tell_watchers(struct log *l) {
    while (l->moved && !l->failed) {
        struct log_partition *p = l->moved;
        l->moved = p->moved_next;
        p->moved = false;
        if (!p->gone && l->watch && p->topic != l->state_topic) l->watch(l->watch_arg, p);
        if (!p->gone && p->topic->watch) p->topic->watch(p->topic->watch_arg);
        partition_unref(p);
    }
}

/* What the wall clock would show had it not leapt ahead (docs/timewheel.md). */
int64_t log_time_ms(struct log *l) {
    int64_t wall_ms = env_wall_ms(l->env), mono_ms = env_mono_us(l->env) / 1000, delta = wall_ms - mono_ms;
    bool first = l->trusted_delta_ms == INT64_MIN;
    if (!first && delta > l->trusted_delta_ms + ENGINE_CLOCK_LEAP_MS) return mono_ms + l->trusted_delta_ms;
    if (first || delta > l->trusted_delta_ms) l->trusted_delta_ms = delta;
    return wall_ms;
}

int64_t log_step(struct log *l) {
    if (l->failed) return 1000;
    (void)log_time_ms(l); /* small steps ahead are believed one by one */
    psync_background(l, env_mono_us(l->env));
    checkpoint_step(l);
    journal_kick(l);
    run_ready(l);
    tell_watchers(l);
    ids_step(l);
    state_step(l);
    retention_step(l);
    compaction_step(l);
    scrub_step(l);
    journal_prepare(l);
    trash_step(l);
    segment_evict(l);
    journal_kick(l);
    bool more = l->ready || l->moved || l->trash;
    int64_t wait_ms = more ? 0 : l->dirty ? 100 : 1000;
    int64_t others_ms[] = {journal_wait(l), retention_wait(l), compaction_wait(l), scrub_wait(l)};
    for (int i = 0; i < 4; i++)
        if (others_ms[i] < wait_ms) wait_ms = others_ms[i];
    return wait_ms;
}

/* Goes on until `settled`, waiting for the disk. Blocks: start and stop only. */
enum hf_err log_settle(struct log *l, bool (*settled)(struct log *l)) {
    for (int idle = 0; !l->failed && idle < 3;) {
        checkpoint_step(l);
        compaction_step(l);
        journal_kick(l);
        run_ready(l);
        if (settled(l)) return l->failed;
        if (l->failed) break;
        if (!l->journal.spares && l->journal.phase == JOURNAL_FORMED) journal_prepare(l);
        idle = env_wait(l->env) == 0 && !l->ready ? idle + 1 : 0;
    }
    return l->failed ? l->failed : HF_EIO;
}

/* ---- open ---- */

static enum hf_err settle_options(struct log *l, const struct log_options *given) {
    struct log_options o = *given;
    if (o.default_partitions == 0) o.default_partitions = defaults.default_partitions;
    if (o.segment_bytes == 0) o.segment_bytes = defaults.segment_bytes;
    if (o.message_max == 0) o.message_max = defaults.message_max;
    if (o.journal_file_bytes == 0) o.journal_file_bytes = defaults.journal_file_bytes;
    for (enum log_setting i = 0; i < LOG_SETTINGS; i++)
        if (!log_settings_has(&o.settings, i)) o.settings.value[i] = log_setting_infos[i].fallback;
    o.settings.value[LOG_SEGMENT_BYTES] = (int64_t)o.segment_bytes;
    o.settings.value[LOG_MESSAGE_MAX] = (int64_t)o.message_max;
    if (o.checkpoint_bytes == 0) o.checkpoint_bytes = defaults.checkpoint_bytes;
    if (o.reserve_bytes == 0) o.reserve_bytes = defaults.reserve_bytes;
    if (o.retention_check_ms == 0) o.retention_check_ms = defaults.retention_check_ms;
    if (o.anchor_bytes == 0) o.anchor_bytes = defaults.anchor_bytes;
    if (o.scrub_interval_ms == 0) o.scrub_interval_ms = defaults.scrub_interval_ms;
    if (o.scrub_bytes_s == 0) o.scrub_bytes_s = defaults.scrub_bytes_s;
    if (o.compaction_bytes == 0) o.compaction_bytes = defaults.compaction_bytes;
    if (o.open_files == 0) o.open_files = LOG_OPEN_FILES;
    if (o.ids_max == 0) o.ids_max = LOG_PARTITIONS_MAX;
    l->o = o;
    bool pages = o.journal_file_bytes % LOG_PAGE == 0 && o.journal_file_bytes >= 16 * LOG_PAGE;
    bool sane = o.segment_bytes >= 1024 && o.segment_bytes <= LOG_SEGMENT_MAX / 2 &&
                o.journal_file_bytes <= (1u << 30) && o.default_partitions > 0;
    return pages && sane ? HF_OK : HF_EINVAL;
}

static enum hf_err start(struct log *l) {
    enum hf_err e = state_init(l);
    if (!e) e = topics_init(l);
    if (!e) e = recovery_run(l);
    if (e) return e;
    l->next_pid = l->pid_limit = state_number(l, "log/producer-ids", 1);
    l->open = true;
    l->opening = "reserving producer ids";
    l->retention.next_us = env_mono_us(l->env) + l->o.retention_check_ms * 1000;
    ids_step(l);
    return log_settle(l, ids_ready);
}

enum hf_err log_open(struct hf_env *env, const struct log_options *options, struct log **out) {
    struct log *l = calloc(1, sizeof *l);
    if (!l) return HF_ENOMEM;
    l->engine.ops = &log_engine_ops;
    l->env = env;
    l->trusted_delta_ms = INT64_MIN;
    l->opening = "reading the options";
    l->journal.log = l->checkpoint.log = l->compaction.log = l;
    l->rescue.to = options->rescue;
    l->rescue.on = options->rescue != NULL;
    l->free_checked_us = INT64_MIN / 2;
    l->next_run = 1;
    enum hf_err e = settle_options(l, options);
    if (!e) e = start(l);
    if (e) {
        env_log(env, ENV_ERROR, "open_failed", "while=\"%s\" reason=\"%s\"", l->opening, hf_err_text(e));
        log_abandon(l);
        return e;
    }
    *out = l;
    return HF_OK;
}

/* ---- close ---- */

static bool quiet(struct log *l) {
    bool nothing = journal_idle(l) && !l->commits && !l->flush && !l->ceilings;
    return nothing && !l->compaction.p && checkpoint_idle(l) && l->syncs == 0 && !l->ready;
}

static enum hf_err trim_all(struct log *l) {
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        for (int32_t i = 0; i < t->partitions; i++) {
            struct segment *s = partition_active(t->partition[i]);
            if (!s || !s->file) continue;
            index_seal(s);
            enum hf_err e = segment_trim(s);
            if (e) return e;
        }
    }
    return HF_OK;
}

/* Manifests are written behind the sync of their segments, and synced by another one. On a full disk some are
 * left to the next start. */
static bool tidy(struct log *l) {
    enum { TIMES = 3 };
    struct log_partition *p, *next;
    if (l->syncs > 0) return false;
    DL_FOREACH_SAFE2(l->dirty, p, next, dirty_next) {
        if (l->syncing_count >= LOG_SYNC_BLOCKED) return false;
        if (p->tidied == TIMES) continue;
        p->tidied++;
        psync_begin(p, false);
    }
    if (l->syncs > 0) return false;
    DL_FOREACH2(l->dirty, p, dirty_next) {
        if (p->tidied < TIMES) return false;
    }
    return true;
}

static enum hf_err stop(struct log *l) {
    enum hf_err e = log_settle(l, quiet);
    if (!e) e = trim_all(l);
    if (!e) e = log_settle(l, tidy);
    if (e) return e;
    uint64_t before;
    do {
        before = l->checkpoint.generation;
        checkpoint_begin(l, true);
        e = log_settle(l, quiet);
    } while (!e && l->checkpoint.generation > before && !l->checkpoint.clean); /* it was an older one */
    return e || l->checkpoint.generation > before ? e : HF_ENOSPC;
}

enum hf_err log_close(struct log *l) {
    l->closing = true;
    enum hf_err e = l->failed ? l->failed : stop(l);
    if (e && !l->failed) /* nothing is lost by that: the next start replays */
        env_log(l->env, ENV_ERROR, "close_failed", "reason=\"%s\"", hf_err_text(e));
    log_abandon(l);
    return e;
}

static void drop_waiting(struct log *l) {
    for (struct topic *t = l->topics; t; t = t->hh.next)
        for (int32_t i = 0; i < t->partitions; i++) partition_forget_row(t->partition[i]);
    while (l->ready) {
        struct completion *c = l->ready;
        l->ready = c->next;
        c->run(c, false);
    }
    while (l->commits) {
        struct commit *c = l->commits;
        l->commits = c->next;
        commit_free(c);
    }
    while (l->moved) {
        struct log_partition *p = l->moved;
        l->moved = p->moved_next;
        partition_unref(p);
    }
    while (l->flush) {
        struct log_partition *p = l->flush;
        l->flush = p->flush_next;
        partition_unref(p);
    }
    while (l->ceilings) {
        struct log_partition *p = l->ceilings;
        l->ceilings = p->asking_next;
        partition_unref(p);
    }
}

void log_abandon(struct log *l) {
    /* Completions belong to commits and appends, which go with their owners: what the caller gave stays its.
     */
    l->closing = true;
    drop_waiting(l);
    journal_close(l);
    creations_forget(l);
    retention_forget(l);
    scrub_forget(l);
    compaction_forget(l);
    alterations_forget(l);
    rescue_forget(l);
    psync_forget(l);
    if (l->checkpoint.file) env_close(l->checkpoint.file);
    if (l->checkpoint.phase != CHECKPOINT_IDLE) hf_buf_fini(&l->checkpoint.snapshot);
    l->gathered.s = NULL; /* what nobody was told of goes with the process */
    topics_free(l);
    runs_free(l);
    watches_free(l);
    state_fini(l);
    free(l->gathered.bytes);
    while (l->free_pending) {
        struct pending *w = l->free_pending;
        l->free_pending = w->next;
        free(w);
    }
    while (l->trash) {
        struct trash *t = l->trash;
        l->trash = t->next;
        free(t);
    }
    free(l);
}

/* ---- the rest ---- */

struct engine *log_engine(struct log *l) {
    return &l->engine;
}

const char *log_cluster_id(const struct log *l) {
    return l->cluster_id;
}

void log_watch(struct log *l, void (*fn)(void *arg, struct log_partition *p), void *arg) {
    l->watch = fn;
    l->watch_arg = arg;
}

void log_stats(const struct log *l, struct log_stats *out) {
    *out = l->stats;
    out->topics -= 1; /* the state's */
    out->partitions -= 1;
    out->free_bytes = l->free_bytes;
    out->open_files = l->open_files;
    out->open_files_most = l->open_files_most;
}

bool log_crowded(const struct log *l) {
    return l->open_files > l->o.open_files;
}

void log_check(struct log *l) {
    if (l->failed) return;
    for (struct topic *t = l->topics; t; t = t->hh.next)
        for (int32_t i = 0; i < t->partitions; i++)
            if (t->phase == TOPIC_LIVE) partition_check(t->partition[i]);
    uint64_t before = 0;
    const struct journal_file *f;
    DL_FOREACH (l->journal.files, f) {
        assert(f->seq > before);
        before = f->seq;
    }
    assert(l->journal.durable <= journal_next_lsn(&l->journal));
}
