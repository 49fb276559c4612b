/* Segments: files, preallocation, pins.
 *
 * The active segment's file is preallocated in steps that double, so that a write cannot run out of space
 * [L15]. A roll trims the file and starts the next one, named by the offset that comes next. Files are opened
 * on demand and kept in a row, most recently used first, of bounded length. A segment that is dirty stays
 * open through the descriptor that dirtied it: only that one is told of a failed write-back.
 *
 * Bytes enter by write, not by a store into a mapping. Both end in the page cache, survive the death of the
 * process, and are there for sendfile at once. But a store into a fresh page first faults, has the page
 * filled with zeros, and faults again after each background sync, which protects it from writing; a write
 * puts the bytes straight into new pages. Measured in docs/storage.md. And a disk that fails answers a write
 * with an error, a store with SIGBUS. Batches too small to be worth a call each are gathered first [L18].
 *
 *            create            partition_room: full        psync ended
 *     (none) ───────► active ───────────────────► sealed ─────────────► sealed, clean: may be closed
 *                                                                            │ partition_start_move
 *     freed ◄── last pin released ── taken out of its partition ◄────────────┘ or topic deleted
 *
 * What lies in a file that this process did not write is looked at when it is opened, and proven when it is
 * read (proof.c). */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

void segment_path(const struct segment *s, const char *ext, char out[LOG_PATH]) {
    char folder[LOG_PATH];
    topic_folder_path(s->p->topic, s->p->number, folder);
    int n = snprintf(out, LOG_PATH, "%s/%020lld.%s", folder, (long long)s->base, ext);
    if (s->swap) n += snprintf(out + n, LOG_PATH - (size_t)n, ".%016llx.swap", (unsigned long long)s->swap);
    assert(n > 0 && n < LOG_PATH);
}

/* An object in nobody's row. */
struct segment *segment_new(struct log_partition *p, int64_t base) {
    struct segment *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->p = p;
    s->log = p->log;
    s->base = base;
    s->max_ts = s->time_last = -1;
    s->max_ts_offset = base;
    s->first_ts = -1;
    s->since_us = env_mono_us(p->log->env);
    s->follows = -1;
    p->log->stats.segments++;
    return s;
}

/* An object for a file that is there, or will be; keeps the partition's row ascending. */
struct segment *segment_add(struct log_partition *p, int64_t base) {
    struct segment *s = segment_new(p, base);
    if (!s) return NULL;
    assert(!p->segments || p->segments->prev->base < base);
    DL_APPEND(p->segments, s);
    return s;
}

/* ---- small batches on their way in [L18] ---- */

void gathered_write(struct log *l) {
    struct gathered *g = &l->gathered;
    struct segment *s = g->s;
    if (!s) return;
    g->s = NULL;
    enum hf_err e = env_write(s->file, g->pos, g->bytes, g->n);
    if (e) log_fail(l, e, "write of a segment");
}

static void write_gathered_of(struct segment *s) {
    if (s->log->gathered.s == s) gathered_write(s->log);
}

/* True if the bytes wait in memory now. */
static bool gather(struct segment *s, uint64_t pos, const void *bytes, size_t n) {
    struct gathered *g = &s->log->gathered;
    if (n >= LOG_GATHER_EACH) return false;
    if (!g->bytes && !(g->bytes = malloc(LOG_GATHER))) return false;
    if (!g->s) *g = (struct gathered){s, pos, 0, g->bytes};
    assert(g->s == s && g->pos + g->n == pos && n <= LOG_GATHER - g->n);
    memcpy(g->bytes + g->n, bytes, n);
    g->n += n;
    return true;
}

/* ---- open files, least recently used ones closed ---- */

enum { LOOKS = 64 };

static void touch(struct segment *s) {
    struct log *l = s->log;
    if (l->lru == s) return;
    DL_DELETE2(l->lru, s, lru_prev, lru_next);
    DL_PREPEND2(l->lru, s, lru_prev, lru_next);
}

static bool busy(const struct segment *s) {
    if (s->dirty || s->index_dirty || s->pin.count > 0) return true;
    return !s->p || s->p->sync.running;
}

/* Closes what was not used for long. What is in the way of that is done first: an idle active segment gives
 * back its preallocation, a dirty one is synced, and a later call closes it. */
void segment_evict(struct log *l) {
    struct segment *s = l->lru ? l->lru->lru_prev : NULL;
    for (size_t seen = 0; s && s != l->lru && l->open_files > l->o.open_files && seen < LOOKS; seen++) {
        struct segment *before = s->lru_prev;
        /* Before recovery has read it, what lies behind the size may be what acks≤1 producers wrote. */
        if (l->open && !busy(s) && s->allocated > s->size && segment_trim(s)) return;
        if (!busy(s)) {
            segment_close(s);
        } else if (l->open && s->p && !s->pin.count && !s->p->sync.running) {
            if (l->syncing_count < LOG_SYNC_EVICT) psync_begin(s->p, false);
            return; /* it may have ended at once and changed the row */
        }
        s = before;
    }
}

static enum hf_err sync_dirty(struct log *l) {
    struct log_partition *p, *next;
    DL_FOREACH_SAFE2(l->dirty, p, next, dirty_next) {
        if (l->syncing_count >= LOG_SYNC_BLOCKED) break;
        psync_begin(p, false);
    }
    while (l->syncing_count > 0 && !l->failed)
        if (env_wait(l->env) == 0) return HF_EIO;
    return l->failed;
}

/* At start all partitions come by. What is dirty by then is synced, many at a time, so that it can be closed.
 * Twice: a manifest is written behind the first sync. */
enum hf_err segment_settle(struct log *l) {
    for (int i = 0; i < 2 && l->open_files > l->o.open_files && !l->failed; i++) {
        struct segment *s, *next;
        enum hf_err e = sync_dirty(l);
        if (e) return e;
        DL_FOREACH_SAFE2(l->lru, s, next, lru_next) {
            if (!busy(s)) segment_close(s);
        }
    }
    return l->failed;
}

/* Writing to it would open one more file where far too many are open already. */
bool segments_crowded(const struct log_partition *p) {
    const struct log *l = p->log;
    return l->open && !p->segments->prev->file && l->open_files >= l->o.open_files / 2 * 3;
}

static void opened(struct segment *s, struct hf_file *f) {
    s->file = f;
    DL_PREPEND2(s->log->lru, s, lru_prev, lru_next);
    log_opened_file(s->log);
}

enum hf_err segment_open(struct segment *s) {
    if (s->file) {
        touch(s);
        return HF_OK;
    }
    char path[LOG_PATH];
    segment_path(s, "log", path);
    struct hf_file *f;
    enum hf_err e = env_open(s->log->env, path, ENV_WRITE, &f);
    if (e == HF_ENOTFOUND) damage_in(s, 0, s->base, "the file is missing");
    if (e) return e == HF_ENOTFOUND ? HF_ECORRUPT : e;
    uint64_t size;
    e = env_size(f, &size);
    if (e) {
        env_close(f);
        return e;
    }
    s->allocated = size;
    opened(s, f);
    if (!s->sized) {
        /* After a crash recovery looks at the active one itself. */
        e = s->sealed || s->log->clean ? proof_first_look(s, size) : HF_OK;
        if (e) {
            segment_close(s);
            return e;
        }
        s->sized = true;
    }
    segment_evict(s->log);
    return HF_OK;
}

void segment_close(struct segment *s) {
    write_gathered_of(s);
    index_close(s);
    if (!s->file) return;
    env_close(s->file);
    s->file = NULL;
    DL_DELETE2(s->log->lru, s, lru_prev, lru_next);
    s->log->open_files--;
}

/* ---- room ---- */

/* As much again as there is: a segment that was closed, and trimmed for that, goes on from its size. */
static uint64_t next_room(uint64_t allocated) {
    if (allocated < LOG_ALLOC_MIN) return LOG_ALLOC_MIN;
    return allocated < LOG_ALLOC_MAX ? allocated / LOG_PAGE * LOG_PAGE : LOG_ALLOC_MAX;
}

static enum hf_err allocate(struct segment *s, uint64_t upto) {
    while (s->allocated < upto) {
        uint64_t n = next_room(s->allocated);
        if (s->allocated + n < upto) n = (upto - s->allocated + LOG_PAGE - 1) / LOG_PAGE * LOG_PAGE;
        uint64_t most = s->p->topic->config.segment_bytes;
        if (s->allocated < most && s->allocated + n > most && most >= upto) n = most - s->allocated;
        enum hf_err e = env_allocate(s->file, s->allocated, n);
        if (e) {
            uint64_t size; /* what failed may have happened in part */
            if (env_size(s->file, &size) == HF_OK && size > s->allocated) s->allocated = size;
            return e;
        }
        s->allocated += n;
    }
    return HF_OK;
}

/* Room for `room` more bytes. */
enum hf_err segment_writable(struct segment *s, uint64_t room) {
    enum hf_err e = segment_open(s);
    if (!e && s->cut) e = HF_ECORRUPT;
    return e ? e : allocate(s, s->size + room);
}

enum hf_err segment_create(struct log_partition *p, int64_t base, uint64_t room, struct segment **out) {
    struct segment *s = segment_add(p, base);
    if (!s) return HF_ENOMEM;
    char path[LOG_PATH];
    segment_path(s, "log", path);
    struct hf_file *f;
    enum hf_err e = env_open(p->log->env, path, ENV_CREATE, &f);
    if (!e) {
        opened(s, f);
        s->sized = s->tracked = true;
        e = env_truncate(f, 0);
        if (!e) e = index_clear(s); /* power loss may have left names of an earlier one with this base */
        if (!e) e = segment_writable(s, room);
    }
    if (e) {
        segment_remove(s, true);
        return e;
    }
    s->dirty = s->timed = true;
    p->dirty_dir = true;
    partition_mark_dirty(p);
    *out = s;
    return HF_OK;
}

/* An empty file for a segment that is written in one go (swap.c). */
enum hf_err segment_open_new(struct segment *s) {
    char path[LOG_PATH];
    segment_path(s, "log", path);
    struct hf_file *f;
    enum hf_err e = env_open(s->log->env, path, ENV_CREATE, &f);
    if (!e) opened(s, f);
    return e;
}

/* The first segment of a partition that is being made: an empty file, which takes no space yet. Its name is
 * durable when the folder's sync has ended [L13]. */
enum hf_err segment_first(struct log_partition *p, struct segment **out) {
    struct segment *s = segment_add(p, 0);
    if (!s) return HF_ENOMEM;
    char path[LOG_PATH];
    segment_path(s, "log", path);
    struct hf_file *f;
    enum hf_err e = env_open(p->log->env, path, ENV_CREATE, &f);
    if (e) {
        segment_remove(s, false);
        return e;
    }
    env_close(f);
    s->sized = s->tracked = s->timed = true;
    *out = s;
    return HF_OK;
}

/* ---- bytes ---- */

/* What waits in memory is taken from there: a group of the journal mostly carries what has just come. */
enum hf_err segment_read(struct segment *s, uint64_t pos, void *out, size_t n) {
    const struct gathered *g = &s->log->gathered;
    if (g->s == s && pos >= g->pos && pos + n <= g->pos + g->n) {
        memcpy(out, g->bytes + (pos - g->pos), n);
        return s->log->failed;
    }
    write_gathered_of(s);
    enum hf_err e = s->log->failed ? s->log->failed : segment_open(s);
    if (e) return e;
    size_t got;
    e = env_read(s->file, pos, out, n, &got);
    if (!e && got < n) e = HF_ECORRUPT;
    return e;
}

/* Into room that segment_writable made. Small pieces may wait until the next completion, read or sync. */
enum hf_err segment_write(struct segment *s, uint64_t pos, const void *bytes, size_t n) {
    assert(s->file && pos + n <= s->allocated);
    s->dirty = true;
    partition_mark_dirty(s->p);
    psync_note(s->p);
    const struct gathered *g = &s->log->gathered;
    if (g->s && (g->s != s || g->pos + g->n != pos || n > LOG_GATHER - g->n)) gathered_write(s->log);
    return gather(s, pos, bytes, n) ? HF_OK : env_write(s->file, pos, bytes, n);
}

/* What the journal has made durable is written back a little at a time, so that the checkpoint's sync finds
 * little left to write: it would hold up the journal's for as long as that takes. */
void segment_writeback(struct segment *s, uint64_t upto) {
    upto -= upto % LOG_WRITEBACK;
    if (!s->file || upto <= s->written_back) return;
    write_gathered_of(s);
    env_writeback(s->file, s->written_back, upto - s->written_back);
    s->written_back = upto;
}

/* Gives back what was preallocated and is not used. */
enum hf_err segment_trim(struct segment *s) {
    write_gathered_of(s);
    if (!s->file || s->allocated <= s->size) return HF_OK;
    enum hf_err e = env_truncate(s->file, s->size);
    if (e) return e;
    s->allocated = s->size;
    s->dirty = true;
    partition_mark_dirty(s->p);
    return HF_OK;
}

/* Nothing more is appended: the next batch, at next_offset or above, begins the segment behind it. */
enum hf_err segment_seal(struct segment *s, int64_t next_offset) {
    s->sealed = true;
    s->next_offset = next_offset;
    index_seal(s);
    return segment_trim(s);
}

/* ---- the end of a segment ---- */

static void free_segment(struct segment *s) {
    segment_close(s);
    s->log->stats.segments--;
    free(s->proven);
    free(s);
}

/* Takes it out of its partition. Whoever pinned it goes on reading: the file lives as long as it is open. */
void segment_remove(struct segment *s, bool unlink_files) {
    static const char *const ext[] = {"log", "index", "timeindex", "manifest"};
    for (int i = 0; unlink_files && i < 4; i++) {
        char path[LOG_PATH];
        segment_path(s, ext[i], path);
        enum hf_err e = env_unlink(s->log->env, path);
        if (e && e != HF_ENOTFOUND) log_fail(s->log, e, path);
    }
    struct log_partition *p = s->p;
    DL_DELETE(p->segments, s);
    if (unlink_files) {
        p->dirty_dir = true; /* a clean stop must not leave a name that power loss brings back */
        partition_mark_dirty(p);
    }
    s->p = NULL;
    if (s->pin.count == 0) free_segment(s);
}

void log_pin_release(struct log_pin *pin) {
    struct segment *s = (struct segment *)pin;
    assert(pin->count > 0);
    pin->count--;
    if (pin->count == 0 && !s->p) free_segment(s);
}
