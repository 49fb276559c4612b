/* Makes one partition's files durable: segments, indexes, folder. Three ask for it: a large tail in front of
 * an acks=all batch [L1], the background (unsynced bytes are kept few), and the checkpoint [L11].
 *
 * A job notes the place up to which all is in the segments (`applied`), asks for a sync of every dirty file,
 * and of the folder if a roll changed it [L13]. When the last has come back, that place is durable. One job a
 * partition at a time; what becomes dirty meanwhile waits for the next.
 *
 *     idle ──psync_begin──► running ──last completion──► idle, durable moved
 *                              └─── any error ──► the log has failed [L12] */
#include "log_internal.h"

#include <stdlib.h>

struct psync_request {
    struct psync_request *prev, *next;
    struct env_sync s;
    struct log_partition *p;
    char dir[];
};

static void finish(struct log_partition *p) {
    struct log *l = p->log;
    p->sync.running = false;
    DL_DELETE2(l->syncing, p, sync.prev, sync.next);
    l->syncing_count--;
    env_point(l->env, "partition.synced");
    if (!p->gone) {
        if (p->sync.upto.offset > p->synced.offset) p->synced = p->sync.upto;
        partition_durable(p, p->sync.upto);
        partition_settle(p);
        partition_want(p, p->want);
        if (l->open) partition_start_trim(p); /* else the first checkpoint does it, behind the replay */
        struct segment *s;
        bool dirty = false;
        DL_FOREACH (p->segments, s) {
            manifest_close(s);
            dirty = dirty || s->dirty || s->index_dirty;
            if (!s->index_dirty) index_rest(s);
        }
        if (!dirty && !p->dirty_dir) partition_mark_clean(p);
        if (p->durable.offset < p->end.offset) psync_note(p);
        checkpoint_synced(p);
    }
    partition_unref(p);
}

static void ended(struct env_sync *s, enum hf_err e) {
    struct psync_request *r = s->arg;
    struct log_partition *p = r->p;
    DL_DELETE(p->sync.requests, r);
    free(r);
    p->log->syncs--;
    if (e && !hf_mutate(16)) log_fail(p->log, e, "sync of a segment");
    assert(p->sync.waiting > 0);
    if (--p->sync.waiting > 0 || p->log->failed) return;
    struct log *l = p->log;
    finish(p);
    checkpoint_step(l);
}

/* Without memory the log fails: a request left out would be a promise broken. */
static void ask(struct log_partition *p, struct hf_file *f, const char *dir, bool urgent) {
    size_t n = dir ? strlen(dir) + 1 : 0;
    struct psync_request *r = malloc(sizeof *r + n);
    if (!r) {
        log_fail(p->log, HF_ENOMEM, "sync");
        return;
    }
    r->p = p;
    DL_APPEND(p->sync.requests, r);
    bool blocks = !p->log->open || p->log->closing; /* then it asks for many at a time */
    r->s =
        (struct env_sync){.file = f, .urgent = urgent, .patient = blocks && !urgent, .done = ended, .arg = r};
    if (dir) {
        memcpy(r->dir, dir, n);
        r->s.dir = r->dir;
    }
    p->sync.waiting++;
    p->log->syncs++;
    env_sync_begin(p->log->env, &r->s);
}

static bool holds_reserved(const struct segment *s) {
    for (const struct part *x = s->p->parts; x; x = x->next)
        if (x->at.seg == s) return true;
    return false;
}

static void ask_segment(struct segment *s, bool with_index, bool urgent) {
    struct log_partition *p = s->p;
    if (p->log->gathered.s == s && !hf_mutate(34)) gathered_write(p->log);
    if (s->dirty) {
        s->dirty = holds_reserved(s); /* which is filled later, through this descriptor */
        ask(p, s->file, NULL, urgent);
    }
    if (!s->index_dirty || (!with_index && !s->sealed)) return;
    /* Behind the facts of a clean stop nothing is written any more. */
    bool last = p->log->checkpoint.clean && !checkpoint_idle(p->log);
    enum hf_err e = last ? HF_OK : index_flush(s);
    if (e) log_fail(p->log, e, "index");
    s->index_dirty = false;
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        if (f->entries > f->written) s->index_dirty = true;
        if (f->file && f->unsynced) ask(p, f->file, NULL, urgent);
        f->unsynced = false;
    }
}

void psync_begin(struct log_partition *p, bool urgent) {
    if (p->sync.running || p->log->failed || p->gone || swap_waits_for(p)) return;
    p->sync.running = true;
    p->sync.p = p;
    p->sync.upto = partition_applied(p);
    p->sync.serial++;
    psync_leave(p);
    DL_APPEND2(p->log->syncing, p, sync.prev, sync.next);
    p->log->syncing_count++;
    partition_ref(p);
    bool with_index = p->log->checkpoint.phase == CHECKPOINT_PARTITIONS || p->log->closing || !p->log->open ||
                      p->log->open_files > p->log->o.open_files; /* then to be closed */
    p->sync.waiting = 1; /* this call's own, so that it cannot end before all was asked */
    struct segment *s;
    DL_FOREACH (p->segments, s) {
        ask_segment(s, with_index, urgent);
    }
    if (p->dirty_dir && !hf_mutate(13)) {
        char dir[LOG_PATH];
        topic_folder_path(p->topic, p->number, dir);
        ask(p, NULL, dir, urgent);
    }
    p->dirty_dir = false;
    if (--p->sync.waiting == 0 && !p->log->failed) finish(p);
}

/* The log is thrown away: what was asked for is not waited for. */
void psync_forget(struct log *l) {
    while (l->syncing) {
        struct log_partition *p = l->syncing;
        struct psync_request *r, *next;
        DL_DELETE2(l->syncing, p, sync.prev, sync.next);
        DL_FOREACH_SAFE(p->sync.requests, r, next) {
            free(r);
        }
        partition_unref(p);
    }
}

/* ---- the background ---- */

/* Those that loss of power could take: neither in the journal nor synced. */
static uint64_t unsafe_bytes(const struct log_partition *p) {
    return p->durable.seg == p->end.seg ? p->end.pos - p->durable.pos : LOG_BACKGROUND;
}

void psync_leave(struct log_partition *p) {
    if (p->unsynced) DL_DELETE2(p->log->unsynced, p, unsynced_prev, unsynced_next);
    p->unsynced = false;
}

/* Bytes have come to its segments. Those with many stand in front of those that have waited longest; while a
 * sync runs, its end notes what it left. */
void psync_note(struct log_partition *p) {
    struct log *l = p->log;
    if (p->gone || p->sync.running) return;
    bool many = unsafe_bytes(p) >= LOG_BACKGROUND;
    if (p->unsynced && (!many || p->unsynced_since_us == INT64_MIN)) return;
    psync_leave(p);
    p->unsynced = true;
    p->unsynced_since_us = many ? INT64_MIN : env_mono_us(l->env);
    p->unsynced_upto = p->end.offset + 1; /* the batch that comes now included */
    if (many)
        DL_PREPEND2(l->unsynced, p, unsynced_prev, unsynced_next);
    else
        DL_APPEND2(l->unsynced, p, unsynced_prev, unsynced_next);
}

/* Unsynced bytes are kept few: acks≤1 batches are all that loss of power can take. What the journal has made
 * durable by then waits for the checkpoint: a sync of megabytes holds up those of the journal by milliseconds,
 * and whoever waits for them. */
void psync_background(struct log *l, int64_t now_us) {
    while (l->unsynced && l->syncing_count < LOG_SYNC_BACKGROUND && !l->failed) {
        struct log_partition *p = l->unsynced;
        bool many = p->unsynced_since_us == INT64_MIN;
        if (!many && now_us - p->unsynced_since_us < LOG_BACKGROUND_US) return;
        psync_leave(p);
        if (p->synced.offset == partition_applied(p).offset || p->durable.offset >= p->end.offset) continue;
        if (!many && p->durable.offset >= p->unsynced_upto) {
            psync_note(p); /* only what came later is not safe yet */
            continue;
        }
        psync_begin(p, false);
        if (p->sync.running || p->synced.offset == partition_applied(p).offset) continue;
        psync_note(p); /* a swap waits to begin there */
        return;
    }
}
