/* One new segment takes the place of a group of old ones: whole, or not at all [L21].
 *
 *     BUILD    <base>.{log,index,timeindex,manifest}.<id>.swap written; nobody knows of them
 *     FILES    synced          ─┐ the record says that they are there
 *     FOLDER   synced          ─┘
 *     RECORD   one entry SWAP in the journal, synced: from here on it has happened
 *     APPLY    the four renamed over <base>.{…}, the row of segments changed in memory
 *     UNLINK   the files of the other old ones, a few in each step
 *
 * What a crash leaves: before RECORD, files that end in .swap and belong to nobody: recovery unlinks them.
 * After it, the entry in the journal: recovery renames what still ends in .swap with its id (their names were
 * durable, so what has gone is renamed durably) and unlinks the old ones. In which order renames and unlinks
 * reach the disk does not matter while the entry is read again. It is read until a checkpoint has ended that
 * began behind it, and a checkpoint begins only while no swap is between RECORD and its end: so the
 * partition's folder is dirty then, and synced by it.
 *
 * The id keeps two swaps apart that begin at the same base: replay never takes the half-written files of a
 * later one for those of an earlier one.
 *
 * A new segment may be empty: it is there all the same, since the manifest of the one before it says so. The
 * next run takes it into a group with its neighbours.
 *
 * Readers: those that hold pins on old segments go on with them; the next read finds the new one. */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const extensions[] = {"index", "timeindex", "manifest", "log"};

enum { EXTENSIONS = 4, UNLINKS = 4 };

static void swap_path(const struct log_partition *p, int64_t base, const char *ext, uint64_t id,
                      char out[LOG_PATH]) {
    char folder[LOG_PATH];
    topic_folder_path(p->topic, p->number, folder);
    int n = snprintf(out, LOG_PATH, "%s/%020lld.%s", folder, (long long)base, ext);
    if (id) n += snprintf(out + n, LOG_PATH - (size_t)n, ".%016llx.swap", (unsigned long long)id);
    assert(n > 0 && n < LOG_PATH);
}

bool swap_is_stray(const char *name) {
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".swap") == 0;
}

/* ---- BUILD ---- */

static enum hf_err room_for(struct compaction *c) {
    uint64_t bytes, need = 0;
    for (const struct segment *s = c->first; s != c->upto; s = s->next) need += s->size;
    enum hf_err e = env_space(c->log->env, &bytes);
    return !e && bytes < c->log->o.reserve_bytes + need ? HF_ENOSPC : e;
}

/* The object of the new segment, in nobody's row; its pin keeps it open. */
enum hf_err swap_begin(struct compaction *c) {
    enum hf_err e = room_for(c);
    if (e) return e;
    struct segment *s = segment_new(c->p, c->first->base);
    if (!s) return HF_ENOMEM;
    s->swap = env_random(c->log->env) | 1;
    s->sized = s->timed = s->tracked = true;
    s->next_offset = s->base;
    s->follows = c->upto->base;
    s->pin.count = 1;
    c->made = s;
    e = segment_open_new(s);
    return e ? e : index_create(s);
}

enum hf_err swap_append(struct compaction *c, hf_str bytes) {
    struct segment *s = c->made;
    struct batch_info b;
    enum hf_err e = batch_parse((const uint8_t *)bytes.p, bytes.n, &b);
    if (!e && s->size + bytes.n > LOG_SEGMENT_MAX) e = HF_ELIMIT;
    if (!e) e = env_write(s->file, s->size, bytes.p, bytes.n);
    if (e) return e;
    index_add(s, (const uint8_t *)bytes.p, &b, s->size, b.base_offset);
    s->gaps += b.base_offset != s->next_offset;
    s->next_offset = b.base_offset + b.last_offset_delta + 1;
    s->size += bytes.n;
    s->allocated = s->size;
    return HF_OK;
}

static void unlink_made(struct compaction *c) {
    if (c->p->gone) return; /* they go with the folder */
    for (int i = 0; i < EXTENSIONS; i++) {
        char path[LOG_PATH];
        swap_path(c->p, c->made->base, extensions[i], c->made->swap, path);
        enum hf_err e = env_unlink(c->log->env, path);
        if (e && e != HF_ENOTFOUND) log_fail(c->log, e, path);
    }
    c->p->dirty_dir = true; /* a clean stop leaves no such name */
    partition_mark_dirty(c->p);
}

static void free_made(struct compaction *c) {
    struct segment *s = c->made;
    c->made = NULL;
    if (!s) return;
    s->p = NULL;
    log_pin_release(&s->pin);
}

/* No sync of its files is under way. */
void swap_discard(struct compaction *c) {
    if (c->made) unlink_made(c);
    free_made(c);
}

void swap_forget(struct compaction *c) {
    free_made(c);
    free(c->old);
    c->old = NULL;
    c->stage = SWAP_NONE;
    c->swapping = false;
}

/* ---- FILES, FOLDER ---- */

static void sync_ended(struct env_sync *s, enum hf_err e) {
    struct compaction *c = s->arg;
    c->log->syncs--;
    c->waiting--;
    if (e) log_fail(c->log, e, "sync of a compaction");
}

static void sync_file(struct compaction *c, int i, struct hf_file *f) {
    c->sync[i] = (struct env_sync){.file = f, .done = sync_ended, .arg = c};
    c->waiting++;
    c->log->syncs++;
    env_sync_begin(c->log->env, &c->sync[i]);
}

static void sync_folder(struct compaction *c) {
    c->stage = SWAP_FOLDER;
    if (c->p->gone || hf_mutate(22)) return; /* the folder has another name; nothing of it matters any more */
    topic_folder_path(c->p->topic, c->p->number, c->folder);
    c->sync[0] = (struct env_sync){.dir = c->folder, .done = sync_ended, .arg = c};
    c->waiting++;
    c->log->syncs++;
    env_sync_begin(c->log->env, &c->sync[0]);
}

/* HF_ENOSPC: nothing happened. */
enum hf_err swap_go(struct compaction *c) {
    struct segment *s = c->made;
    s->sealed = true;
    index_seal(s);
    enum hf_err e = c->log->failed;
    for (int i = 0; !e && i < INDEX_FILES; i++)
        if (index_file_of(s, i)->entries > index_file_of(s, i)->written) e = HF_ENOSPC;
    if (!e) e = manifest_write(s);
    if (e) return e;
    c->phase = COMPACTION_SWAP;
    c->stage = SWAP_FILES;
    if (hf_mutate(20)) return HF_OK;
    sync_file(c, 0, s->file);
    for (int i = 0; i < INDEX_FILES; i++) sync_file(c, i + 1, index_file_of(s, i)->file);
    return HF_OK;
}

/* ---- RECORD ---- */

static void recorded(struct commit *x) {
    struct compaction *c = x->after_arg;
    env_point(c->log->env, "swap.recorded");
    if (c->stage == SWAP_RECORD) c->stage = SWAP_APPLY;
}

static void record(struct compaction *c) {
    enum hf_err e = HF_ECLOSED;
    if (!c->p->gone && !c->log->closing) {
        struct swap_record r = {c->p, c->made->base, c->made->follows, c->made->swap};
        e = commit_swap(c->log, &r, recorded, c);
    }
    if (e == HF_EAGAIN) return; /* the next step */
    c->swapping = !e;
    c->stage = e ? SWAP_NONE : SWAP_RECORD;
    if (e) compaction_give_up(c, e);
    if (!e && hf_mutate(23)) c->stage = SWAP_APPLY;
}

/* ---- APPLY ---- */

static void rename_made(struct compaction *c) {
    for (int i = 0; i < EXTENSIONS; i++) {
        char from[LOG_PATH], to[LOG_PATH];
        swap_path(c->p, c->made->base, extensions[i], c->made->swap, from);
        swap_path(c->p, c->made->base, extensions[i], 0, to);
        enum hf_err e = env_rename(c->log->env, from, to);
        if (e) log_fail(c->log, e, to);
        env_point(c->log->env, "swap.renamed");
    }
}

/* Old segments leave the row; their names are kept to be unlinked. */
static enum hf_err take_out(struct compaction *c) {
    size_t n = 0;
    for (const struct segment *s = c->first; s != c->upto; s = s->next) n++;
    c->old = malloc(n * sizeof *c->old);
    if (!c->old) return HF_ENOMEM;
    c->old_count = 0;
    while (c->first != c->upto) {
        struct segment *s = c->first;
        c->first = s->next;
        if (s->base != c->made->base) c->old[c->old_count++] = s->base;
        partition_leave(c->p, s);
        segment_remove(s, false);
    }
    return HF_OK;
}

static void put_in(struct compaction *c) {
    struct segment *s = c->made;
    s->swap = 0;
    s->index_dirty = false;
    for (int i = 0; i < INDEX_FILES; i++) index_file_of(s, i)->unsynced = false;
    DL_PREPEND_ELEM(c->p->segments, c->upto, s);
    c->made = NULL;
    s->pin.count--;
}

/* Its time has come when no sync runs: none begins before. */
bool swap_waits_for(const struct log_partition *p) {
    const struct compaction *c = &p->log->compaction;
    return c->p == p && c->stage == SWAP_APPLY;
}

static void apply(struct compaction *c) {
    if (c->p->sync.running && !c->p->gone) return; /* it may hold on to old files */
    if (!c->p->gone) {
        rename_made(c);
        enum hf_err e = take_out(c);
        if (!e) put_in(c);
        if (e) log_fail(c->log, e, "compaction");
    }
    if (c->log->failed) return;
    env_point(c->log->env, "swap.applied");
    c->stage = SWAP_UNLINK;
}

/* ---- UNLINK ---- */

static void unlink_one(struct compaction *c, int64_t base) {
    for (int k = 0; k < EXTENSIONS && !c->p->gone; k++) {
        char path[LOG_PATH];
        swap_path(c->p, base, extensions[k], 0, path);
        enum hf_err e = env_unlink(c->log->env, path);
        if (e && e != HF_ENOTFOUND) log_fail(c->log, e, path);
    }
}

static void unlink_some(struct compaction *c) {
    for (int i = 0; c->old_count > 0 && (i < UNLINKS || c->log->closing); i++)
        unlink_one(c, c->old[--c->old_count]);
    c->p->dirty_dir = true;
    partition_mark_dirty(c->p);
    if (c->old_count > 0) return;
    env_point(c->log->env, "swap.ended");
    swap_forget(c);
    c->first = c->upto;
    compaction_next_group(c);
}

void swap_step(struct compaction *c) {
    if (c->waiting > 0) return;
    switch (c->stage) {
    case SWAP_NONE:
    case SWAP_RECORD: break; /* the journal's sync moves it on */
    case SWAP_FILES: sync_folder(c); break;
    case SWAP_FOLDER: record(c); break;
    case SWAP_APPLY: apply(c); break;
    case SWAP_UNLINK: unlink_some(c); break;
    }
}

/* ---- recovery ---- */

static struct segment *segment_at(struct log_partition *p, int64_t base) {
    struct segment *s = p->segments;
    while (s && s->base != base) s = s->next;
    return s;
}

static enum hf_err rename_again(struct log_partition *p, int64_t base, uint64_t id) {
    for (int i = 0; i < EXTENSIONS; i++) {
        char from[LOG_PATH], to[LOG_PATH];
        swap_path(p, base, extensions[i], id, from);
        swap_path(p, base, extensions[i], 0, to);
        enum hf_err e = env_rename(p->log->env, from, to);
        if (e && e != HF_ENOTFOUND) return e;
    }
    p->dirty_dir = true; /* synced by the first checkpoint [L10] */
    partition_mark_dirty(p);
    return HF_OK;
}

/* Before anything of these segments was opened [L20]. A new segment whose old one is gone lies below a start
 * that came later: its files are strays. */
enum hf_err swap_again(struct log_partition *p, int64_t first, hf_str body) {
    struct hf_reader x = hf_reader_of(body.p, body.n);
    int64_t upto = (int64_t)hf_read_be64(&x);
    uint64_t id = hf_read_be64(&x);
    if (x.bad) return HF_ECORRUPT;
    enum hf_err e = segment_at(p, first) ? rename_again(p, first, id) : HF_OK;
    struct segment *s, *next;
    DL_FOREACH_SAFE(p->segments, s, next) {
        if (!e && s->base > first && s->base < upto && s->sealed) segment_remove(s, true);
    }
    return e;
}
