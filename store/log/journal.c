/* The journal: one row of groups for all that must be durable or atomic. Formats: docs/storage.md.
 *
 * Nothing is gathered as it comes: a group is *formed* at the moment when the disk is free, out of what waits
 * then: ceilings asked for, commits in their order, tails of partitions in which somebody waits for a sync.
 * So one sync serves all who came while the last one ran, and order needs no thought but here:
 *
 *  - a commit goes in behind the tails of its partitions [L1]; commits go in by order of their start;
 *  - a tail reaches up to the first room reserved by a commit that is in no group yet;
 *  - a tail of more than LOG_TAIL_MAX goes to its segment by a sync of the partition instead, and commits
 *    behind it wait for that.
 *
 *          something waits              a file has room            sync ended
 *     IDLE ─────────────────► FORMED ─────────────────► SYNCING ──────────────► IDLE, those who waited go
 *                               └ no spare file: waits     └ error: the log has failed [L12]
 *
 * Files are written once with zeros, synced, then used again and again: a sync of bytes that need no new
 * block and no new size is the cheapest there is. A file is free for use again when a checkpoint's LSN lies
 * beyond it.
 *
 * Invariants: one group at a time is written and synced [L7]; all groups below `durable` are synced and
 * applied; LSNs ascend, file sequences are never used twice. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>
#include <stdlib.h>

enum { GROW_STEP = 256 << 10, GROW_EVERY_US = 1000, GROUP_KEEP = 2 << 20 };

static uint64_t lsn_of(uint64_t seq, uint64_t at) {
    return seq << 32 | at;
}

void journal_path(uint32_t slot, char out[LOG_PATH]) {
    snprintf(out, LOG_PATH, "journal/%05u.journal", slot);
}

/* ---- bytes ---- */

static void journal_head_encode(const struct journal_head *h, uint8_t out[HF_SECTOR]) {
    memset(out, 0, HF_SECTOR);
    memcpy(out, "HFJF", 4);
    hf_put_be32(out + 4, 1);
    hf_put_be64(out + 8, h->seq);
    hf_put_be64(out + 16, h->size);
    hf_put_be64(out + 24, h->incarnation);
    hf_put_be32(out + 508, hf_crc32c(0, out, 508));
}

bool journal_head_decode(const uint8_t *p, struct journal_head *out) {
    if (memcmp(p, "HFJF", 4) != 0 || hf_get_be32(p + 508) != hf_crc32c(0, p, 508)) return false;
    *out = (struct journal_head){hf_get_be64(p + 8), hf_get_be64(p + 16), hf_get_be64(p + 24)};
    return hf_get_be32(p + 4) == 1 && out->seq > 0 && out->seq <= UINT32_MAX;
}

/* Fills in crc. */
static void group_head_encode(struct group_head *h, uint8_t out[GROUP_HEADER]) {
    memset(out, 0, GROUP_HEADER);
    memcpy(out, "HFJG", 4);
    hf_put_be32(out + 4, h->payload);
    hf_put_be64(out + 8, h->lsn);
    hf_put_be64(out + 16, h->incarnation);
    hf_put_be64(out + 24, h->durable);
    hf_put_be32(out + 32, h->chain);
    hf_put_be32(out + 36, h->payload_crc);
    hf_put_be32(out + 40, h->entries);
    h->crc = hf_crc32c(0, out, 60);
    hf_put_be32(out + 60, h->crc);
}

bool group_head_decode(const uint8_t *p, struct group_head *out) {
    if (memcmp(p, "HFJG", 4) != 0 || hf_get_be32(p + 60) != hf_crc32c(0, p, 60)) return false;
    *out = (struct group_head){
        .payload = hf_get_be32(p + 4),
        .lsn = hf_get_be64(p + 8),
        .incarnation = hf_get_be64(p + 16),
        .durable = hf_get_be64(p + 24),
        .chain = hf_get_be32(p + 32),
        .payload_crc = hf_get_be32(p + 36),
        .entries = hf_get_be32(p + 40),
        .crc = hf_get_be32(p + 60),
    };
    return true;
}

/* ---- files ---- */

size_t journal_payload_max(const struct log *l) {
    return (size_t)l->o.journal_file_bytes - HF_SECTOR - GROUP_HEADER - HF_SECTOR;
}

static struct journal_file *file_new(struct journal *j) {
    struct journal_file *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->slot = j->next_slot++;
    f->size = j->log->o.journal_file_bytes;
    char path[LOG_PATH];
    journal_path(f->slot, path);
    enum hf_err e = env_open(j->log->env, path, ENV_CREATE, &f->file);
    if (!e) e = env_allocate(f->file, 0, f->size);
    if (!e) return f;
    if (f->file) { /* a full disk is tried again and again: nothing of a try may stay */
        env_close(f->file);
        enum hf_err gone = env_unlink(j->log->env, path);
        if (gone) e = gone;
    }
    free(f);
    if (e != HF_ENOSPC) log_fail(j->log, e, path);
    return NULL;
}

static enum hf_err write_zeros(struct journal *j, struct journal_file *f) {
    uint64_t n = f->size - j->grown < GROW_STEP ? f->size - j->grown : GROW_STEP;
    uint8_t *zeros = calloc(1, (size_t)n);
    if (!zeros) return HF_ENOMEM;
    enum hf_err e = env_write(f->file, j->grown, zeros, (size_t)n);
    free(zeros);
    if (e) return e;
    env_writeback(f->file, j->grown, n); /* else one long sync at the end holds up those of groups */
    j->grown += n;
    return HF_OK;
}

static void grow_named(struct env_sync *s, enum hf_err e) {
    struct log *l = s->arg;
    l->syncs--;
    if (e) {
        log_fail(l, e, "sync of journal/");
        return;
    }
    struct journal *j = &l->journal;
    DL_APPEND(j->spares, j->growing);
    j->growing = NULL;
    journal_kick(l);
}

static void grow_filled(struct env_sync *s, enum hf_err e) {
    struct log *l = s->arg;
    l->syncs--;
    if (e) {
        log_fail(l, e, "sync of a journal file");
        return;
    }
    l->syncs++;
    l->journal.grow_dir = (struct env_sync){.dir = "journal", .done = grow_named, .arg = l};
    if (hf_mutate(27))
        grow_named(&l->journal.grow_dir, HF_OK);
    else
        env_sync_begin(l->env, &l->journal.grow_dir);
}

static size_t count_files(const struct journal_file *head) {
    size_t n = 0;
    const struct journal_file *f;
    DL_FOREACH (head, f) {
        n++;
    }
    return n;
}

/* Files that a checkpoint's worth of groups needs, and some: more are not made, groups wait. */
static size_t files_max(const struct log *l) {
    return (size_t)(checkpoint_bytes(l) / l->o.journal_file_bytes) * 3 + 4;
}

/* While the log serves, a file is filled slowly: many zeros on their way to the disk hold up the syncs of
 * groups. Unless a group waits for the file. */
static bool grow_now(struct log *l) {
    struct journal *j = &l->journal;
    if (!l->open || j->phase == JOURNAL_FORMED) return true;
    int64_t now_us = env_mono_us(l->env);
    if (now_us < j->grow_next_us) return false;
    j->grow_next_us = now_us + GROW_EVERY_US;
    return true;
}

/* Keeps one spare ready, a step at a time: never in the way of a group. */
void journal_prepare(struct log *l) {
    struct journal *j = &l->journal;
    if (!j->growing) {
        if (j->spares || (l->open && count_files(j->files) >= files_max(l))) return;
        j->growing = file_new(j);
        j->grown = 0;
        if (!j->growing) return;
    }
    if (j->grown == j->growing->size || !grow_now(l)) return; /* being synced; or not yet */
    enum hf_err e = write_zeros(j, j->growing);
    if (e && e != HF_ENOMEM) log_fail(l, e, "journal file");
    if (e || j->grown < j->growing->size) return;
    l->syncs++;
    j->grow_sync = (struct env_sync){.file = j->growing->file, .done = grow_filled, .arg = l};
    env_sync_begin(l->env, &j->grow_sync);
}

/* Milliseconds until the next step; INT64_MAX: it has nothing to do. */
int64_t journal_wait(const struct log *l) {
    const struct journal *j = &l->journal;
    if (!j->growing || j->grown == j->growing->size) return INT64_MAX;
    return j->phase == JOURNAL_FORMED ? 0 : GROW_EVERY_US / 1000;
}

/* Takes a spare into use. Its header is synced with its first group. HF_EAGAIN: there is none yet. */
static enum hf_err next_file(struct journal *j) {
    struct journal_file *f = j->spares;
    if (!f) return HF_EAGAIN;
    uint8_t sector[HF_SECTOR];
    journal_head_encode(&(struct journal_head){j->next_seq, f->size, j->incarnation}, sector);
    enum hf_err e = env_write(f->file, 0, sector, sizeof sector);
    if (e) return e;
    DL_DELETE(j->spares, f);
    f->seq = j->next_seq++;
    DL_APPEND(j->files, f);
    j->at = HF_SECTOR;
    env_point(j->log->env, "journal.file_begun");
    return HF_OK;
}

/* Enough for a whole interval, one that is filled while a checkpoint runs, and one at hand: so that none is made
 * anew, or thrown away, from one checkpoint to the next. */
static size_t spares_max(const struct log *l) {
    return (size_t)(checkpoint_bytes(l) / l->o.journal_file_bytes) + 2;
}

/* Groups below lsn are needed no more. */
void journal_recycle(struct log *l, uint64_t lsn) {
    struct journal *j = &l->journal;
    while (j->files && j->files->seq < lsn >> 32 && j->files->next) {
        struct journal_file *f = j->files;
        DL_DELETE(j->files, f);
        f->seq = 0;
        bool wanted = count_files(j->spares) < spares_max(l);
        if (wanted && l->open && f->size == l->o.journal_file_bytes) {
            DL_APPEND(j->spares, f);
            continue;
        }
        char path[LOG_PATH];
        journal_path(f->slot, path);
        enum hf_err e = env_unlink(l->env, path);
        if (e) log_fail(l, e, path);
        env_close(f->file); /* the last to let go of it gives its blocks back, beside all else */
        free(f);
    }
    journal_kick(l);
}

/* Begins an incarnation in a fresh file, whose header is durable before anything names it. Blocks: start
 * only. */
enum hf_err journal_open(struct log *l, uint64_t next_seq) {
    struct journal *j = &l->journal;
    j->next_seq = next_seq;
    j->incarnation = env_random(l->env);
    j->chain = (uint32_t)j->incarnation;
    hf_buf_init(&j->group, l->o.journal_file_bytes);
    while (!j->spares && !l->failed) {
        journal_prepare(l);
        if (!j->growing && !j->spares) return l->failed ? l->failed : HF_ENOSPC;
        if (j->growing && j->grown == j->growing->size && env_wait(l->env) == 0) return HF_ECRASHED;
    }
    if (l->failed) return l->failed;
    enum hf_err e = env_sync_wait(l->env, NULL, "journal");
    if (!e) e = next_file(j);
    if (!e) e = env_sync_wait(l->env, j->files->prev->file, NULL);
    if (e) return e;
    j->durable = journal_next_lsn(j);
    j->durable_chain = j->chain;
    return HF_OK;
}

static void close_files(struct journal_file *head) {
    struct journal_file *f, *next;
    DL_FOREACH_SAFE(head, f, next) {
        env_close(f->file);
        free(f);
    }
}

void journal_close(struct log *l) {
    struct journal *j = &l->journal;
    close_files(j->files);
    close_files(j->spares);
    if (j->growing) {
        env_close(j->growing->file);
        free(j->growing);
    }
    while (j->commits) {
        struct commit *c = j->commits;
        j->commits = c->next;
        commit_free(c);
    }
    for (size_t i = 0; i < j->entry_count; i++) partition_unref(j->entries[i].p);
    free(j->entries);
    hf_buf_fini(&j->group);
    *j = (struct journal){.log = l};
}

uint64_t journal_next_lsn(const struct journal *j) {
    return lsn_of(j->files->prev->seq, j->at);
}

bool journal_idle(const struct log *l) {
    return l->journal.phase == JOURNAL_IDLE;
}

/* ---- forming a group ---- */

static size_t room(const struct log *l) {
    size_t used = l->journal.group.n - GROUP_HEADER, max = journal_payload_max(l);
    return used < max ? max - used : 0;
}

static struct group_entry *note(struct journal *j, struct log_partition *p) {
    if (j->entry_count == j->entry_cap) {
        size_t cap = j->entry_cap ? j->entry_cap * 2 : 64;
        struct group_entry *grown = realloc(j->entries, cap * sizeof *grown);
        if (!grown) return NULL;
        j->entries = grown;
        j->entry_cap = cap;
    }
    struct group_entry *x = &j->entries[j->entry_count];
    *x = (struct group_entry){.p = p};
    return x;
}

/* The entry's head; its bytes follow. NULL: no memory, nothing was added. */
static struct group_entry *entry(struct journal *j, uint8_t type, struct log_partition *p, int64_t offset,
                                 size_t bytes) {
    struct group_entry *x = note(j, p);
    if (!x || !hf_buf_room(&j->group, ENTRY_HEADER + ENTRY_PLACE + bytes)) return NULL;
    hf_buf_u8(&j->group, type);
    hf_buf_put(&j->group, "\0\0\0", 3);
    hf_buf_be32(&j->group, (uint32_t)(ENTRY_PLACE + bytes));
    hf_buf_put(&j->group, p->topic->id.b, sizeof p->topic->id.b);
    hf_buf_be32(&j->group, (uint32_t)p->number);
    hf_buf_be64(&j->group, (uint64_t)offset);
    j->group_entries++;
    j->entry_count++;
    partition_ref(p);
    return x;
}

/* How much of a segment's [from, to) fits into n bytes, in whole batches. */
static enum hf_err whole_batches(struct segment *s, uint64_t from, uint64_t to, size_t n, uint64_t *end,
                                 int64_t *next_offset) {
    uint64_t at = from;
    while (at < to) {
        struct batch_info b;
        enum hf_err e = read_header(s, at, to, &b);
        if (e) return e;
        if (at + b.size - from > n) break;
        at += b.size;
        *next_offset = b.base_offset + b.last_offset_delta + 1;
    }
    *end = at;
    return HF_OK;
}

/* Adds bytes of one segment from `journaled` on, up to `to`, as many as fit. HF_EAGAIN: none does. */
static enum hf_err add_bytes(struct log *l, struct log_partition *p, struct place to) {
    struct journal *j = &l->journal;
    struct place from = p->journaled;
    if (from.seg != to.seg) to = (struct place){from.seg, from.seg->size, from.seg->next->base};
    size_t head = ENTRY_HEADER + ENTRY_PLACE;
    if (room(l) <= head) return HF_EAGAIN;
    if (to.pos - from.pos > room(l) - head) {
        enum hf_err e = whole_batches(from.seg, from.pos, to.pos, room(l) - head, &to.pos, &to.offset);
        if (e) return e;
        if (to.pos == from.pos) return HF_EAGAIN;
    }
    size_t n = (size_t)(to.pos - from.pos);
    struct group_entry *x = entry(j, ENTRY_BYTES, p, from.offset, n);
    if (!x) return HF_ENOMEM;
    x->end = to.offset;
    x->to = to;
    uint8_t *at = hf_buf_room(&j->group, n);
    enum hf_err e = segment_read(from.seg, from.pos, at, n);
    j->group.n += n;
    p->journaled = to;
    return e;
}

static void past_the_roll(struct place *at) {
    if (at->pos == at->seg->size && at->seg->next)
        *at = (struct place){at->seg->next, 0, at->seg->next->base};
}

static uint64_t distance(struct place from, struct place to) {
    uint64_t n = 0;
    for (const struct segment *s = from.seg; s != to.seg; s = s->next) n += s->size;
    return n + to.pos - from.pos;
}

#ifdef HF_SIMULATOR
/* Mutation 1: only what somebody waits for, without the tail in front of it. */
static void skip_tail(struct log_partition *p) {
    for (const struct pending *w = p->fifo; w; w = w->next)
        if (w->kind != PENDING_WRITTEN && w->at.offset > p->journaled.offset) {
            p->journaled = w->at;
            return;
        }
}
#endif

/* Brings the journal up to `to` in this partition. HF_EAGAIN: not in this group; comes again by itself. */
static enum hf_err add_tail(struct log *l, struct log_partition *p, struct place to) {
#ifdef HF_SIMULATOR
    if (hf_mutate(1)) skip_tail(p);
#endif
    uint64_t most = LOG_TAIL_MAX < journal_payload_max(l) / 2 ? LOG_TAIL_MAX : journal_payload_max(l) / 2;
    if (p->journaled.offset >= to.offset) return HF_OK;
    if (p->sync.running && p->sync.upto.offset > p->journaled.offset &&
        distance(p->journaled, p->sync.upto) > most && !p->topic->config.internal)
        return HF_EAGAIN;
    past_the_roll(&p->journaled);
    if (distance(p->journaled, to) > most && !p->topic->config.internal) {
        psync_begin(p, true);
        return HF_EAGAIN;
    }
    while (p->journaled.offset < to.offset) {
        past_the_roll(&p->journaled);
        enum hf_err e = add_bytes(l, p, to);
        if (e) return e;
    }
    return HF_OK;
}

static enum hf_err add_ceilings(struct log *l) {
    while (l->ceilings && room(l) > ENTRY_HEADER + ENTRY_PLACE) {
        struct log_partition *p = l->ceilings;
        struct group_entry *x = entry(&l->journal, ENTRY_CEILING, p, p->ceiling_asked, 0);
        if (!x) return HF_ENOMEM;
        x->ceiling = p->ceiling_asked;
        l->ceilings = p->asking_next;
        p->asking = false;
        partition_unref(p);
    }
    return HF_OK;
}

static size_t commit_size(const struct commit *c) {
    size_t swap = c->swap.p ? ENTRY_HEADER + ENTRY_PLACE + SWAP_BODY : 0;
    return (c->part_count + c->start_count) * (ENTRY_HEADER + ENTRY_PLACE) + c->bytes.n + swap;
}

static enum hf_err add_part(struct log *l, struct part *x) {
    struct journal *j = &l->journal;
    struct log_partition *p = x->p;
    struct group_entry *g = entry(j, ENTRY_BYTES, p, x->at.offset, x->size);
    if (!g) return HF_ENOMEM;
    hf_buf_put(&j->group, x->c->bytes.p + x->from, x->size);
    g->end = x->end;
    g->to = (struct place){x->at.seg, x->at.pos + x->size, x->end};
    p->journaled = g->to;
    assert(p->parts_free == x);
    p->parts_free = x->next;
    return HF_OK;
}

static enum hf_err add_swap(struct log *l, const struct swap_record *r) {
    struct journal *j = &l->journal;
    if (!entry(j, ENTRY_SWAP, r->p, r->first, SWAP_BODY)) return HF_ENOMEM;
    hf_buf_be64(&j->group, (uint64_t)r->upto);
    hf_buf_be64(&j->group, r->id);
    return HF_OK;
}

/* The commit that has waited longest. HF_EAGAIN: a tail in front of it first, or no room left. */
static enum hf_err add_commit(struct log *l, struct commit *c) {
    enum hf_err e = HF_OK;
    for (size_t i = 0; !e && i < c->part_count; i++) {
        struct part *x = &c->parts[i];
        e = x->p->gone ? HF_OK : add_tail(l, x->p, x->at);
    }
    if (!e && commit_size(c) > room(l)) e = HF_EAGAIN;
    for (size_t i = 0; !e && i < c->part_count; i++) e = add_part(l, &c->parts[i]);
    for (size_t i = 0; !e && i < c->start_count; i++)
        if (!entry(&l->journal, ENTRY_START, c->starts[i].p, c->starts[i].offset, 0)) e = HF_ENOMEM;
    if (!e && c->swap.p) e = add_swap(l, &c->swap);
    if (e) return e;
    l->commits = c->next;
    c->next = NULL;
    struct journal *j = &l->journal;
    if (j->commits)
        j->commits_last->next = c;
    else
        j->commits = c;
    j->commits_last = c;
    return HF_OK;
}

static enum hf_err add_commits(struct log *l) {
    enum hf_err e = HF_OK;
    while (!e && l->commits) e = add_commit(l, l->commits);
    return e == HF_EAGAIN ? HF_OK : e;
}

/* Tails of the partitions in which somebody waits; who is not served stays in the row. */
static enum hf_err add_tails(struct log *l) {
    struct log_partition *row = l->flush, *p;
    l->flush = l->flush_last = NULL;
    enum hf_err e = HF_OK;
    while ((p = row)) {
        row = p->flush_next;
        p->flush = false;
        if (!p->gone) {
            if (!e && p->want > p->journaled.offset) e = add_tail(l, p, partition_groupable(p));
            if (e == HF_EAGAIN) e = HF_OK;
            if (p->want > p->journaled.offset) partition_want(p, p->want);
        }
        partition_unref(p);
    }
    return e;
}

/* Memory that ran out in the middle leaves a group that must not be written: the log fails. */
static bool form(struct log *l) {
    struct journal *j = &l->journal;
    if (!l->ceilings && !l->commits && !l->flush) return false;
    hf_buf_reset(&j->group);
    static const uint8_t head[GROUP_HEADER];
    hf_buf_put(&j->group, head, sizeof head);
    j->group_entries = 0;
    enum hf_err e = add_ceilings(l);
    if (!e) e = add_commits(l);
    if (!e) e = add_tails(l);
    if (!e) e = hf_buf_failed(&j->group);
    if (e) log_fail(l, e, "group of the journal");
    return !e && j->group_entries > 0;
}

/* ---- write and sync ---- */

/* All that this group carried is durable now. */
static void finish(struct log *l) {
    struct journal *j = &l->journal;
    j->durable = j->end_lsn;
    j->durable_chain = j->chain;
    for (size_t i = 0; i < j->entry_count; i++) {
        struct group_entry *x = &j->entries[i];
        if (x->ceiling > x->p->ceiling) x->p->ceiling = x->ceiling;
        if (x->end > 0 && !x->p->gone) partition_durable(x->p, x->to);
    }
    struct commit *c;
    for (c = j->commits; c; c = c->next) commit_apply(c);
    for (size_t i = 0; i < j->entry_count; i++) {
        struct log_partition *p = j->entries[i].p;
        if (p->gone) continue;
        partition_settle(p);
        segment_writeback(p->durable.seg, p->durable.pos);
    }
    while ((c = j->commits)) {
        j->commits = c->next;
        commit_finish(c);
    }
    for (size_t i = 0; i < j->entry_count; i++) partition_unref(j->entries[i].p);
    j->entry_count = 0;
    j->phase = JOURNAL_IDLE;
    if (j->group.cap > GROUP_KEEP) { /* a large one was an exception: its memory goes back */
        hf_buf_fini(&j->group);
        hf_buf_init(&j->group, l->o.journal_file_bytes);
    }
}

static void synced(struct env_sync *s, enum hf_err e) {
    struct log *l = s->arg;
    l->syncs--;
    l->stats.journal_syncs++;
    if (e && !hf_mutate(16)) {
        log_fail(l, e, "sync of the journal");
        return;
    }
    if (l->failed) return;
    env_point(l->env, "journal.synced");
    if (!hf_mutate(2)) finish(l);
    l->journal.phase = JOURNAL_IDLE;
    journal_kick(l);
}

static enum hf_err write_group(struct log *l) {
    struct journal *j = &l->journal;
    size_t payload = j->group.n - GROUP_HEADER;
    uint64_t size = group_size(payload);
    if (j->at + size > j->files->prev->size) {
        enum hf_err e = next_file(j);
        if (e) return e;
    }
    if (!hf_buf_room(&j->group, size - j->group.n)) return HF_ENOMEM;
    memset(j->group.p + j->group.n, 0, size - j->group.n);
    struct group_head h = {
        .payload = (uint32_t)payload,
        .chain = j->chain,
        .payload_crc = hf_crc32c(0, j->group.p + GROUP_HEADER, payload),
        .entries = j->group_entries,
        .lsn = journal_next_lsn(j),
        .incarnation = j->incarnation,
        .durable = hf_mutate(7) ? journal_next_lsn(j) + size : j->durable,
    };
    group_head_encode(&h, j->group.p);
    enum hf_err e = env_write(j->files->prev->file, j->at, j->group.p, size);
    if (e) return e;
    j->chain = h.crc;
    j->at += size;
    j->end_lsn = journal_next_lsn(j);
    j->since_checkpoint += size;
    l->stats.journal_bytes += size;
    return HF_OK;
}

/* Writes the next group if the disk is free and something waits. */
void journal_kick(struct log *l) {
    struct journal *j = &l->journal;
    if (l->failed || !j->files || j->phase == JOURNAL_SYNCING) return;
    if (j->phase == JOURNAL_IDLE && !form(l)) return;
    j->phase = JOURNAL_FORMED;
    enum hf_err e = write_group(l);
    if (e == HF_EAGAIN) return;
    if (e) {
        log_fail(l, e, "write of the journal");
        return;
    }
    j->phase = JOURNAL_SYNCING;
    env_point(l->env, "journal.written");
    if (hf_mutate(3))
        for (struct commit *c = j->commits; c; c = c->next) commit_apply(c);
    if (hf_mutate(17))
        for (struct commit *c = j->commits; c; c = c->next) commit_move_starts(c);
    if (hf_mutate(2)) {
        finish(l);
        j->phase = JOURNAL_SYNCING;
    }
    l->syncs++;
    j->sync = (struct env_sync){.file = j->files->prev->file, .urgent = true, .done = synced, .arg = l};
    env_sync_begin(l->env, &j->sync);
}
