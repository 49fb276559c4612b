/* A partition: where things go, what waits, what is seen.
 *
 *   start        high       durable   journaled     end
 *     │ consumers see │           │         │          │
 *     ▼               ▼           ▼         ▼          ▼
 *     ├───────────────┼───────────┼─────────┼──────────┤
 *                     └ the first of the row of pending ones begins here
 *
 * Each batch that is not yet what its producer asked for stands in the row (`fifo`), in the order of
 * offsets; so does reserved room. The high watermark is where the first of the row begins, or the end: that
 * is all of [L3]. A batch leaves the row by one rule (`fulfilled`):
 *
 *     kind      leaves when
 *     WRITTEN   durable passed it, or the ceiling did and nothing in front of it waits [L5][L6]
 *     DURABLE   durable passed it (a duplicate: passed its original) [L2]
 *     PART      its commit was applied and durable passed it [L3][L4]
 *
 * durable moves when a group of the journal or a sync of the partition's files has ended; both speak of
 * prefixes [L1].
 *
 * Invariants, asserted by partition_check: start ≤ high ≤ end; durable ≤ journaled ≤ end; the row and the
 * reserved parts ascend; high is the row's first place; no part below `journaled` is in no group; segments
 * ascend and the last one ends at `end`. */
#include "log_internal.h"

#include <stdlib.h>

/* ---- life ---- */

struct log_partition *partition_new(struct log *l, struct topic *t, int32_t number) {
    struct log_partition *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->log = l;
    p->topic = t;
    p->number = number;
    p->refs = 1;
    p->chain = -1;
    p->last_time_ms = -1;
    if (partition_epoch_add(p, 0, 0)) {
        free(p);
        return NULL;
    }
    t->holders++;
    return p;
}

void partition_ref(struct log_partition *p) {
    p->refs++;
}

/* Nobody is told. */
void partition_forget_row(struct log_partition *p) {
    while (p->fifo) {
        struct pending *w = p->fifo;
        p->fifo = w->next;
        if (w->kind != PENDING_PART) pending_free(w);
    }
    p->parts = p->parts_free = NULL;
}

void partition_free(struct log_partition *p) {
    struct segment *s, *next;
    DL_FOREACH_SAFE(p->segments, s, next) {
        segment_remove(s, false);
    }
    partition_forget_row(p);
    producer_free(p);
    free(p->epochs);
    p->topic->holders--;
    free(p);
}

void partition_unref(struct log_partition *p) {
    assert(p->refs > 0);
    if (--p->refs > 0) return;
    struct topic *t = p->topic;
    partition_free(p);
    if (t->phase == TOPIC_GONE && t->holders == 0) {
        free(t->partition);
        free(t);
    }
}

/* ---- epochs: the leader epoch rises with each jump to a ceiling ---- */

int32_t partition_epoch(const struct log_partition *p) {
    return p->epochs[p->epoch_count - 1].epoch;
}

int32_t partition_epoch_at(const struct log_partition *p, int64_t offset) {
    size_t i = p->epoch_count - 1;
    while (i > 0 && p->epochs[i].start > offset) i--;
    return p->epochs[i].epoch;
}

enum hf_err partition_epoch_add(struct log_partition *p, int32_t epoch, int64_t start) {
    struct epoch *grown = realloc(p->epochs, (p->epoch_count + 1) * sizeof *grown);
    if (!grown) return HF_ENOMEM;
    p->epochs = grown;
    p->epochs[p->epoch_count++] = (struct epoch){epoch, start};
    return HF_OK;
}

/* ---- places ---- */

struct segment *partition_active(struct log_partition *p) {
    return p->segments ? p->segments->prev : NULL;
}

/* Recovery went on at a ceiling, and no batch has come since: the next one begins a segment there [L6]. Until
 * then the active one ends where its batches do, and the end lies further on. */
bool partition_jumped(const struct log_partition *p) {
    return p->epochs[p->epoch_count - 1].start == p->end.offset && p->segments->prev->base < p->end.offset;
}

/* Behind its last batch. */
int64_t partition_end_of_active(const struct log_partition *p) {
    return partition_jumped(p) ? p->segments->prev->next_offset : p->end.offset;
}

/* The last batch ends at `behind`; offsets from there on are not given out until the last epoch begins. */
void partition_jump(struct log_partition *p, int64_t behind) {
    int64_t goes_on = p->epochs[p->epoch_count - 1].start;
    assert(behind < goes_on);
    p->segments->prev->next_offset = behind;
    p->end.offset = goes_on;
}

/* Below it every byte is in a segment. */
struct place partition_applied(const struct log_partition *p) {
    return p->parts ? p->parts->at : p->end;
}

/* Up to here the journal may be given bytes out of the segments. */
struct place partition_groupable(const struct log_partition *p) {
    return p->parts_free ? p->parts_free->at : p->end;
}

static enum hf_err roll(struct log_partition *p, uint64_t room) {
    struct segment *old = partition_active(p), *s;
    int64_t behind = partition_end_of_active(p);
    enum hf_err e = segment_create(p, p->end.offset, room, &s);
    if (e) return e;
    env_point(p->log->env, "segment.created");
    e = segment_seal(old, behind);
    env_point(p->log->env, "segment.rolled");
    if (e) log_fail(p->log, e, "trim");
    p->end = (struct place){s, 0, p->end.offset};
    p->log->stats.rolls++;
    return HF_OK;
}

enum hf_err partition_roll(struct log_partition *p) {
    assert(partition_active(p)->size > 0);
    return roll(p, 0);
}

/* Room for a run of n bytes and so many offsets behind the end, in one segment; rolls if need be. [L15]
 * Recovery rolls only where the log had rolled, which may have been at another size than is set now: behind a
 * boundary of its own it would not find what lies in the old segment. */
enum hf_err partition_room(struct log_partition *p, uint64_t n, int64_t offsets) {
    struct segment *s = partition_active(p);
    uint64_t most = p->log->open ? p->topic->config.segment_bytes : LOG_SEGMENT_MAX;
    if (n > LOG_SEGMENT_MAX / 2) return HF_ELIMIT;
    if (partition_jumped(p)) return roll(p, n);
    bool full = s->size + n > most || p->end.offset + offsets - s->base > INT32_MAX;
    if (full && s->size > 0) return roll(p, n);
    enum hf_err e = segment_writable(s, n);
    if (e) return e;
    s->dirty = true; /* stays open until what comes now is synced */
    partition_mark_dirty(p);
    return HF_OK;
}

void partition_mark_dirty(struct log_partition *p) {
    if (p->dirty || p->gone) return;
    p->dirty = true;
    p->log->dirty_count++;
    DL_APPEND2(p->log->dirty, p, dirty_prev, dirty_next);
}

void partition_mark_clean(struct log_partition *p) {
    if (!p->dirty) return;
    p->dirty = false;
    p->log->dirty_count--;
    DL_DELETE2(p->log->dirty, p, dirty_prev, dirty_next);
}

/* A batch was given the place at the end; its header is what it will be there. */
void partition_took(struct log_partition *p, const uint8_t *header, const struct batch_info *b,
                    int64_t last_offset) {
    struct segment *s = p->end.seg;
    index_add(s, header, b, p->end.pos, p->end.offset);
    s->size = p->end.pos + b->size;
    p->end = (struct place){s, s->size, last_offset + 1};
    if (b->attributes & BATCH_ATTR_APPEND_TIME) {
        if (b->max_timestamp > p->last_time_ms) p->last_time_ms = b->max_timestamp;
        if (b->max_timestamp > p->topic->last_time_ms) p->topic->last_time_ms = b->max_timestamp;
    }
}

/* ---- waiting ---- */

struct pending *pending_new(struct log *l) {
    struct pending *w = l->free_pending;
    if (w)
        l->free_pending = w->next;
    else
        w = malloc(sizeof *w);
    if (!w) return NULL;
    *w = (struct pending){.log = l};
    l->waiting++;
    return w;
}

void pending_free(struct pending *w) {
    w->log->waiting--;
    w->next = w->log->free_pending;
    w->log->free_pending = w;
}

void partition_wait(struct log_partition *p, struct pending *w) {
    w->next = NULL;
    if (p->fifo)
        p->fifo_last->next = w;
    else
        p->fifo = w;
    p->fifo_last = w;
}

/* Somebody waits for durable to reach offset. */
void partition_want(struct log_partition *p, int64_t offset) {
    if (offset > p->want) p->want = offset;
    if (p->flush || p->gone || p->want <= p->durable.offset) return;
    struct log *l = p->log;
    p->flush = true;
    partition_ref(p); /* its topic may be deleted before the next group is formed */
    p->flush_next = NULL;
    if (l->flush)
        l->flush_last->flush_next = p;
    else
        l->flush = p;
    l->flush_last = p;
}

static bool fulfilled(const struct log_partition *p, const struct pending *w) {
    if (w->kind == PENDING_PART && w->part) return false;
    if (p->durable.offset >= w->need) return true;
    return w->kind == PENDING_WRITTEN && p->ceiling >= w->end;
}

/* Watchers of it are told with the next step. */
void partition_note_moved(struct log_partition *p) {
    if (p->moved || p->gone) return;
    struct log *l = p->log;
    p->moved = true;
    partition_ref(p);
    p->moved_next = l->moved;
    l->moved = p;
}

/* Lets those go who have what they asked for; moves the high watermark. */
void partition_settle(struct log_partition *p) {
    while (p->fifo && fulfilled(p, p->fifo)) {
        struct pending *w = p->fifo;
        p->fifo = w->next;
        if (w->kind != PENDING_PART) log_ready(p->log, &w->c);
    }
    struct place high = p->fifo && !hf_mutate(24) ? p->fifo->at : p->end;
    if (high.offset > p->high.offset) partition_note_moved(p);
    p->high = high;
}

/* Everything below `to` survives loss of power. */
void partition_durable(struct log_partition *p, struct place to) {
    if (to.offset <= p->durable.offset) return;
    p->durable = to;
    if (p->journaled.offset < to.offset) p->journaled = to;
}

/* ---- the start ---- */

static void leave(struct place *at, const struct segment *s) {
    if (at->seg == s)
        *at = (struct place){s->next, 0, s->next->base > at->offset ? s->next->base : at->offset};
}

/* A segment leaves the row: no place or hint may mean it any more. */
void partition_leave(struct log_partition *p, const struct segment *s) {
    struct place *places[] = {&p->journaled, &p->durable, &p->high, &p->synced};
    for (size_t i = 0; i < 4; i++) leave(places[i], s);
    for (size_t i = 0; i < 2; i++)
        if (p->hint[i].seg == s) p->hint[i] = (struct place){0};
}

/* Segments wholly below the start go; not while compaction works on them, not while a sync of them runs, and
 * not the one where the last checkpoint's facts lie: recovery would look for it. */
void partition_start_trim(struct log_partition *p) {
    while (p->segments->next && p->segments->next->base <= p->start && !p->sync.running) {
        struct segment *s = p->segments;
        if ((s->base >= p->fact_base && !hf_mutate(30)) || p->compacting) break;
        partition_leave(p, s);
        segment_remove(s, true);
        partition_mark_dirty(p);
    }
}

/* Nothing below offset is kept. */
void partition_start_move(struct log_partition *p, int64_t offset) {
    if (offset > p->high.offset) offset = p->high.offset;
    if (offset <= p->start) return;
    p->start = offset;
    partition_start_trim(p);
}

/* ---- the invariants ---- */

static void check_row(const struct log_partition *p) {
    int64_t last = p->durable.offset < p->high.offset ? p->high.offset : 0;
    for (const struct pending *w = p->fifo; w; w = w->next) {
        assert(w->at.offset >= last && w->at.offset <= p->end.offset);
        assert(w->need <= p->end.offset);
        last = w->at.offset;
    }
    assert(p->high.offset == (p->fifo ? p->fifo->at.offset : p->end.offset));
    const struct part *before = NULL;
    for (const struct part *x = p->parts; x; x = x->next) {
        assert(!before || x->at.offset >= before->end);
        before = x;
    }
}

void partition_check(struct log_partition *p) {
    assert(p->start <= p->high.offset && p->high.offset <= p->end.offset);
    assert(p->durable.offset <= p->journaled.offset && p->journaled.offset <= p->end.offset);
    assert(!p->parts_free || p->journaled.offset <= p->parts_free->at.offset);
    check_row(p);
    const struct segment *s, *before = NULL;
    DL_FOREACH (p->segments, s) {
        assert(s->p == p && (!before || before->base < s->base));
        assert(!s->next == !s->sealed || p->log->failed);
        assert(!s->file || s->size <= s->allocated);
        before = s;
    }
    assert(before && before == p->end.seg && before->size == p->end.pos);
    assert(!partition_jumped(p) ||
           (before->next_offset < p->end.offset && before->next_offset >= before->base));
}
