/* A checkpoint makes the journal short: what it names is durable in segments, so older groups are needed by
 * nobody. It runs beside all else, one step at a time, in the order that [L11] demands:
 *
 *   IDLE ─► facts of all partitions noted in memory, with the journal's durable LSN
 *        ─► PARTITIONS   every partition that was dirty then is synced, a few at a time
 *        ─► SNAPSHOT     the facts are written and synced
 *        ─► SUPERBLOCK   the one of this generation's parity names them, synced
 *        ─► IDLE         journal files below the LSN are free
 *
 * A full disk puts it off; nothing else may fail here [L12]. A superblock that found no room may lie there all
 * the same, and after a crash name its snapshot: so it is what is tried again, before any snapshot is written.
 *
 * Why the facts may be old when they are written: they say that bytes up to a place are in the segment; a
 * sync that begins later covers them, and what came later is in the journal behind the LSN, or found by a
 * scan. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>

enum { RETRY_US = 1000000 };

bool checkpoint_idle(const struct log *l) {
    return l->checkpoint.phase == CHECKPOINT_IDLE;
}

/* Journal bytes from one to the next. Thousands of dirty partitions make one dear, so it comes less often. */
static uint64_t interval(const struct log *l) {
    uint64_t times = l->dirty_count / LOG_CHECKPOINT_DIRTY;
    if (times > LOG_CHECKPOINT_TIMES) times = LOG_CHECKPOINT_TIMES;
    return times > 1 ? times * l->o.checkpoint_bytes : l->o.checkpoint_bytes;
}

/* The same for whoever keeps room: not less than the last one needed. */
uint64_t checkpoint_bytes(const struct log *l) {
    uint64_t now = interval(l);
    return now > l->checkpoint.bytes ? now : l->checkpoint.bytes;
}

static void mark_dirty(struct log *l) {
    struct checkpoint *c = &l->checkpoint;
    struct log_partition *p;
    if (hf_mutate(11) || (hf_mutate(15) && !l->open)) return;
    DL_FOREACH2(l->dirty, p, dirty_next) {
        p->owed = p->todo = true;
        p->checkpoint_serial = p->sync.serial + 1;
        DL_APPEND2(c->todo, p, todo_prev, todo_next);
        c->owed++;
    }
}

static void write_and_sync(struct log *l, const char *name, const void *bytes, size_t n);

/* Or goes on with the last one, if that has come as far as its superblock. */
void checkpoint_begin(struct log *l, bool clean) {
    struct checkpoint *c = &l->checkpoint;
    assert(c->phase == CHECKPOINT_IDLE);
    if (c->unsure) {
        c->phase = CHECKPOINT_SUPERBLOCK;
        write_and_sync(l, "superblock", c->sector, sizeof c->sector);
        return;
    }
    c->number++;
    c->clean = clean;
    c->lsn = l->journal.durable;
    c->chain = l->journal.durable_chain;
    snapshot_encode(l, c->generation + 1, clean, &c->snapshot);
    if (hf_buf_failed(&c->snapshot)) {
        hf_buf_fini(&c->snapshot); /* no memory: tried again after the next interval */
        c->last_us = env_mono_us(l->env) - LOG_CHECKPOINT_US + RETRY_US;
        return;
    }
    c->phase = CHECKPOINT_PARTITIONS;
    mark_dirty(l);
    c->bytes = interval(l);
    l->journal.since_checkpoint = 0;
    if (hf_mutate(12)) journal_recycle(l, c->lsn);
    env_point(l->env, "checkpoint.begun");
}

/* ---- partitions ---- */

static void take_off(struct log_partition *p) {
    if (p->todo) DL_DELETE2(p->log->checkpoint.todo, p, todo_prev, todo_next);
    p->todo = false;
}

/* It is synced, or gone. */
void checkpoint_leave(struct log_partition *p) {
    if (!p->owed) return;
    take_off(p);
    p->owed = false;
    p->log->checkpoint.owed--;
}

/* What cannot begin now, because a compaction is about to swap segments there, stays to be tried again. */
static void begin(struct log_partition *p) {
    psync_begin(p, false);
    if (p->sync.running) take_off(p);
    if (p->sync.running || p->todo || !p->owed) return;
    p->todo = true;
    DL_APPEND2(p->log->checkpoint.todo, p, todo_prev, todo_next);
}

/* A sync of it has ended. One that had begun before the facts were noted does not count. */
void checkpoint_synced(struct log_partition *p) {
    if (!p->owed) return;
    if (p->sync.serial >= p->checkpoint_serial)
        checkpoint_leave(p);
    else if (!p->todo)
        begin(p);
}

/* Begins the next syncs; those that run come back through checkpoint_synced. A few at a time while the log
 * serves, so that the journal has the disk for itself most of the time. True when all is synced. */
static bool sync_partitions(struct log *l) {
    struct checkpoint *c = &l->checkpoint;
    size_t most = l->open && !l->closing ? LOG_SYNC_CHECKPOINT : LOG_SYNC_BLOCKED;
    struct log_partition *p, *next;
    DL_FOREACH_SAFE2(c->todo, p, next, todo_next) {
        if (l->syncing_count >= most || l->failed) break;
        begin(p);
    }
    return c->owed == 0;
}

/* ---- files ---- */

static void forget_file(struct checkpoint *c) {
    if (c->file) env_close(c->file);
    c->file = NULL;
}

/* On a full disk the last checkpoint stays the newest, and this one is tried again soon. */
static void give_up(struct log *l, enum hf_err e, const char *what) {
    struct checkpoint *c = &l->checkpoint;
    forget_file(c);
    if (e != HF_ENOSPC) {
        log_fail(l, e, what);
        return;
    }
    env_log(l->env, ENV_WARN, "checkpoint_put_off", "file=%s reason=\"%s\"", what, hf_err_text(e));
    c->unsure = c->phase == CHECKPOINT_SUPERBLOCK;
    if (!c->unsure) hf_buf_fini(&c->snapshot);
    c->phase = CHECKPOINT_IDLE;
    c->last_us = env_mono_us(l->env) - LOG_CHECKPOINT_US + RETRY_US;
}

static void synced(struct env_sync *s, enum hf_err e);

static void write_and_sync(struct log *l, const char *name, const void *bytes, size_t n) {
    struct checkpoint *c = &l->checkpoint;
    char path[32];
    snprintf(path, sizeof path, "%s-%d", name, (int)((c->generation + 1) & 1));
    enum hf_err e = env_open(l->env, path, ENV_CREATE, &c->file);
    if (!e) e = env_write(c->file, 0, bytes, n);
    if (e) {
        give_up(l, e, path);
        return;
    }
    c->sync = (struct env_sync){.file = c->file, .urgent = !l->open, .done = synced, .arg = l};
    l->syncs++;
    if (c->phase == CHECKPOINT_SNAPSHOT && hf_mutate(25))
        synced(&c->sync, HF_OK);
    else
        env_sync_begin(l->env, &c->sync);
}

static void write_superblock(struct log *l) {
    struct checkpoint *c = &l->checkpoint;
    struct superblock s = {
        .generation = c->generation + 1,
        .lsn = c->lsn,
        .chain = c->chain,
        .clean = c->clean,
        .incarnation = l->journal.incarnation,
        .snapshot_bytes = c->snapshot.n,
        .snapshot_crc = hf_crc32c(0, c->snapshot.p, c->snapshot.n),
    };
    superblock_encode(&s, c->sector);
    hf_buf_fini(&c->snapshot);
    c->phase = CHECKPOINT_SUPERBLOCK;
    write_and_sync(l, "superblock", c->sector, sizeof c->sector);
}

/* Recovery will begin at these facts: what lies wholly before them and the start may go. */
static void move_facts(struct log *l) {
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        if (t->phase != TOPIC_LIVE) continue;
        for (int32_t i = 0; i < t->partitions; i++) {
            struct log_partition *p = t->partition[i];
            p->fact_base = p->noted_base;
            p->settled = p->noted_settled;
            partition_start_trim(p);
        }
    }
}

static void ended(struct log *l) {
    struct checkpoint *c = &l->checkpoint;
    c->generation++;
    c->unsure = false;
    move_facts(l);
    c->phase = CHECKPOINT_IDLE;
    c->last_us = env_mono_us(l->env);
    l->stats.checkpoints++;
    journal_recycle(l, c->lsn);
    env_point(l->env, "checkpoint.ended");
}

static void synced(struct env_sync *s, enum hf_err e) {
    struct log *l = s->arg;
    l->syncs--;
    forget_file(&l->checkpoint);
    if (e) {
        log_fail(l, e, "sync of a checkpoint");
        return;
    }
    if (l->failed) return;
    if (l->checkpoint.phase == CHECKPOINT_SNAPSHOT) {
        env_point(l->env, "checkpoint.snapshot_synced");
        write_superblock(l);
    } else {
        env_point(l->env, "checkpoint.superblock_synced");
        ended(l);
    }
}

/* ---- pace ---- */

static bool due(struct log *l) {
    if (!l->open || l->closing) return false;
    if (l->compaction.swapping) return hf_mutate(19); /* [L21] */
    if (l->journal.since_checkpoint >= interval(l)) return true;
    if (!l->dirty && l->journal.since_checkpoint == 0) return false;
    return env_mono_us(l->env) - l->checkpoint.last_us >= LOG_CHECKPOINT_US;
}

void checkpoint_step(struct log *l) {
    struct checkpoint *c = &l->checkpoint;
    if (l->failed) return;
    if (c->phase == CHECKPOINT_IDLE && due(l)) checkpoint_begin(l, false);
    if (c->phase != CHECKPOINT_PARTITIONS || !sync_partitions(l)) return;
    if (c->phase != CHECKPOINT_PARTITIONS) return; /* a sync that ended at once moved it on */
    c->phase = CHECKPOINT_SNAPSHOT;
    env_point(l->env, "checkpoint.synced");
    write_and_sync(l, "snapshot", c->snapshot.p, c->snapshot.n);
}
