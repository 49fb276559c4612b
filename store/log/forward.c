/* One partition, brought from the checkpoint's facts to where it goes on, by two sources that are merged by
 * offset: the journal, whose entries come in order, and the segment itself.
 *
 *     forward_load        folder, segment files and indexes as the facts have them
 *     forward_replay      the batches of an entry. Only where it begins behind the recovered end is the segment
 *                         scanned, up to that entry: those bytes were synced in the segment [L1], so a gap there
 *                         is damage
 *     forward_finish      the scan goes on as far as it finds whole batches that follow: what acks≤1 producers
 *                         wrote. What is behind them goes, and the ceiling is kept [L6]
 *
 * All that is kept is written again: its pages may be clean and readable, and lost, if a sync had failed before
 * [L10].
 *
 * Where a partition jumps to its ceiling, the segment that is named by it is left to the first batch that
 * comes: thousands of partitions would each make three files here, and sync them, before the first answer. */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

static enum hf_err refuse(struct log_partition *p, uint64_t pos, const char *why) {
    char path[LOG_PATH];
    struct segment *s = partition_active(p);
    if (s)
        segment_path(s, "log", path);
    else
        topic_folder_path(p->topic, p->number, path);
    damage_tell(p->log,
                &(struct log_damage){.file = path, .byte = pos, .offset = p->end.offset, .what = why});
    return HF_ECORRUPT;
}

/* ---- its files, and where the checkpoint left it ---- */

struct listing {
    struct log_partition *p;
    struct tail all;
    bool failed;
    enum hf_err e;
};

static bool list_segment(void *arg, const char *name) {
    struct listing *x = arg;
    struct tail *t = &x->all;
    long long base;
    int n = 0;
    if (swap_is_stray(name)) t->strays = true;
    if (strlen(name) != 24 || sscanf(name, "%20lld.log%n", &base, &n) != 1 || n != 24) return true;
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        int64_t *grown = realloc(t->base, cap * sizeof *grown);
        if (!grown) {
            x->failed = true;
            return false;
        }
        t->base = grown;
        t->cap = cap;
    }
    t->base[t->count++] = base;
    return true;
}

static enum hf_err list_segments(struct log_partition *p, struct tail *out) {
    struct listing x = {0};
    char path[LOG_PATH];
    topic_folder_path(p->topic, p->number, path);
    enum hf_err e = env_list(p->log->env, path, list_segment, &x);
    if (x.failed) e = HF_ENOMEM;
    if (e) {
        free(x.all.base);
        return e == HF_ENOTFOUND ? refuse(p, 0, "the folder is missing") : e;
    }
    *out = x.all;
    return HF_OK;
}

static bool unlink_stray(void *arg, const char *name) {
    struct listing *x = arg;
    char folder[LOG_PATH], path[LOG_PATH * 2];
    if (!swap_is_stray(name)) return true;
    topic_folder_path(x->p->topic, x->p->number, folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    x->e = env_unlink(x->p->log->env, path);
    x->p->dirty_dir = true;
    return x->e == HF_OK;
}

/* Swaps that never happened leave files, which are nobody's [L21]. */
static enum hf_err unlink_strays(struct log_partition *p) {
    struct listing x = {.p = p};
    char folder[LOG_PATH];
    if (!p->tail->strays) return HF_OK;
    topic_folder_path(p->topic, p->number, folder);
    enum hf_err e = env_list(p->log->env, folder, unlink_stray, &x);
    return e ? e : x.e;
}

static enum hf_err unlink_left_over(struct log_partition *p, int64_t base) {
    static const char *const ext[] = {"log", "index", "timeindex", "manifest"};
    struct segment named = {.p = p, .base = base};
    for (int i = 0; i < 4; i++) {
        char path[LOG_PATH];
        segment_path(&named, ext[i], path);
        enum hf_err e = rescue_on(p->log) ? aside_move(p->log, path) : env_unlink(p->log->env, path);
        if (e && e != HF_ENOTFOUND) return e;
    }
    p->dirty_dir = true;
    return HF_OK;
}

/* Segments up to the checkpoint's active one; what is newer stays in the tail. */
static enum hf_err add_segments(struct log_partition *p, const struct facts *f) {
    struct tail *t = p->tail;
    for (t->at = 0; t->at < t->count && t->base[t->at] <= f->base; t->at++) {
        struct segment *s = segment_add(p, t->base[t->at]);
        if (!s) return HF_ENOMEM;
        s->sealed = s->base < f->base;
    }
    struct segment *active = partition_active(p);
    if (!active || active->base != f->base) return refuse(p, 0, "a segment is missing");
    active->size = f->pos;
    active->chain = f->chain;
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *x = index_file_of(active, i);
        x->entries = x->written = f->sums[i].entries;
        x->crc = f->sums[i].crc;
    }
    active->max_ts = f->max_ts;
    active->max_ts_offset = f->max_ts_offset;
    active->timed = true;
    return HF_OK;
}

static void at_end(struct log_partition *p, struct place end) {
    p->end = p->journaled = p->durable = p->high = p->synced = end;
}

/* Where the checkpoint says that its batches end; or, if a start had jumped and nothing had come since, where
 * it would have gone on [L6]: there its last epoch begins. */
static void at_facts(struct log_partition *p, const struct facts *f) {
    p->end = (struct place){partition_active(p), f->pos, f->next};
    if (p->epochs[p->epoch_count - 1].start > f->next && !hf_mutate(36)) partition_jump(p, f->next);
    at_end(p, p->end);
}

/* The index as the checkpoint synced it, or made again. */
static enum hf_err settle_index(struct segment *s, const struct facts *f) {
    s->max_ts = f->max_ts; /* opening it saw entries that the checkpoint does not know */
    s->max_ts_offset = f->max_ts_offset;
    /* The largest time was that of reserved room: which one is below it, only the batches know. */
    bool reserved = f->max_ts >= 0 && f->max_ts_offset >= f->next;
    return proof_after_crash(s, f->sums, reserved);
}

/* Its folder, and the segment files in it. */
static enum hf_err look_into_folder(struct log_partition *p) {
    bool ours;
    enum hf_err e = topic_folder_is(p, &ours);
    if (!e && !ours) e = rescue_on(p->log) ? rescue_folder(p) : HF_ECORRUPT;
    if (e) return e;
    p->tail = calloc(1, sizeof *p->tail);
    return p->tail ? list_segments(p, p->tail) : HF_ENOMEM;
}

enum hf_err forward_load(struct log_partition *p, const struct facts *known, bool clean) {
    struct facts facts = *known, *f = &facts;
    enum hf_err e = look_into_folder(p);
    if (!e && rescue_on(p->log)) e = rescue_facts(p, known, f);
    if (!e) e = add_segments(p, f);
    if (e) return e;
    struct segment *s = partition_active(p);
    at_facts(p, f);
    p->noted_base = p->fact_base = f->base;
    p->listed_below = f->unlisted;
    if (clean) return p->tail->at < p->tail->count ? refuse(p, 0, "a segment nobody knows") : HF_OK;
    e = segment_open(s);
    if (!e) e = settle_index(s, f);
    if (!e && s->cut && rescue_on(p->log)) e = rescue_gap(p, f->next); /* nothing can be appended to it */
    for (s = p->segments; !e && s->sealed; s = s->next)
        if (s->base >= f->unlisted)
            e = segment_open(s); /* whose first look makes or writes its manifest again */
    return e;
}

/* ---- on by what its segment has ---- */

/* What a process before this one did to it may not be synced, even if nothing is left to do. */
static enum hf_err sync_again(struct segment *s) {
    enum hf_err e = segment_open(s);
    if (e) return e;
    s->dirty = s->index_dirty = true;
    s->p->dirty_dir = true;
    partition_mark_dirty(s->p);
    return HF_OK;
}

/* Goes on in the next segment file if the end has reached its base. */
static enum hf_err follow_roll(struct log_partition *p) {
    struct tail *t = p->tail;
    while (t->at < t->count && t->base[t->at] < p->end.offset) {
        enum hf_err e = unlink_left_over(p, t->base[t->at++]);
        if (e) return e;
    }
    if (t->at == t->count || t->base[t->at] != p->end.offset) return HF_OK;
    struct segment *old = partition_active(p);
    if (old->base == p->end.offset) return HF_OK;
    enum hf_err e = sync_again(old);
    if (!e) e = segment_seal(old, partition_end_of_active(p));
    struct segment *s = e ? NULL : segment_add(p, t->base[t->at++]);
    if (!s) return e ? e : HF_ENOMEM;
    e = segment_open(s);
    static const struct index_sum none[INDEX_FILES];
    unsigned bad;
    if (!e) e = index_cut(s, none, &bad);
    s->tracked = true;
    s->timed = true; /* every batch comes by below */
    p->end = (struct place){s, 0, s->base};
    return e;
}

/* The size that a crash left may lie over a hole: the cut of a roll came to the disk in part. What is behind
 * the end is to be room, as [L15] demands, before it is written. */
static enum hf_err reserve(struct log_partition *p) {
    struct segment *s = p->end.seg;
    if (p->tail->reserved == s) return HF_OK;
    enum hf_err e = segment_open(s);
    if (!e && s->allocated > 0) e = env_allocate(s->file, 0, s->allocated);
    if (!e) p->tail->reserved = s;
    return e;
}

/* A batch that belongs at the end: into the segment, indexes, producers. */
static enum hf_err keep(struct log_partition *p, const uint8_t *bytes, const struct batch_info *b,
                        bool write) {
    int64_t last = p->end.offset + b->last_offset_delta;
    enum hf_err e = reserve(p);
    if (!e) e = partition_room(p, b->size, (int64_t)b->last_offset_delta + 1);
    if (!e && b->producer_id >= 0) e = producer_room(p, b->producer_id);
    if (e) return e;
    if (write) e = segment_write(p->end.seg, p->end.pos, bytes, b->size);
    if (e) return e;
    if (b->producer_id >= 0) producer_took(p, b, p->end.offset);
    if (p->topic->config.internal) {
        uint64_t next = (uint64_t)b->base_timestamp + (uint64_t)b->last_offset_delta + 1;
        if (next > p->topic->next_sequence) p->topic->next_sequence = next;
    }
    partition_took(p, bytes, b, last);
    return HF_OK;
}

/* The next batch of the segment if it is whole and the one that follows. HF_EEND: it is not. */
static enum hf_err scan_one(struct log_partition *p, struct hf_buf *buf) {
    struct segment *s = p->end.seg;
    struct batch_info b;
    enum hf_err e = segment_open(s);
    if (!e && (p->end.pos >= s->allocated || p->tail->exact)) e = HF_EEND;
    if (!e) e = read_header(s, p->end.pos, s->allocated, &b);
    if (e) return e == HF_ECORRUPT ? HF_EEND : e;
    if (b.base_offset != p->end.offset || b.leader_epoch != partition_epoch_at(p, b.base_offset))
        return HF_EEND;
    hf_buf_reset(buf);
    uint8_t *bytes = hf_buf_room(buf, b.size);
    if (!bytes) return HF_ENOMEM;
    e = segment_read(s, p->end.pos, bytes, b.size);
    if (e) return e;
    return batch_crc_ok(bytes, &b) ? keep(p, bytes, &b, !hf_mutate(9)) : HF_EEND;
}

/* ---- rescue: behind a break ---- */

static bool only_zeros(const uint8_t *p, size_t n) {
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* What lies behind the end in its segment comes into memory, and is cut off there. */
static enum hf_err take_rest(struct log_partition *p) {
    struct segment *s = p->end.seg;
    struct tail *t = p->tail;
    char path[LOG_PATH];
    if (s->allocated <= p->end.pos) return HF_OK;
    size_t n = (size_t)(s->allocated - p->end.pos);
    uint8_t *rest = malloc(n);
    if (!rest) return HF_ENOMEM;
    enum hf_err e = segment_read(s, p->end.pos, rest, n);
    if (!e && !only_zeros(rest, n)) {
        segment_path(s, "log", path);
        e = aside_copy(p->log, path);
        free(t->rest);
        t->rest = rest;
        t->rest_n = n;
        t->rest_at = 0;
    } else {
        free(rest);
    }
    return e ? e : segment_trim(s);
}

/* The checksum does not cover the offset: it goes on where the end is, or the batch behind it goes on where it ends. */
static bool hangs_together(const struct log_partition *p, const struct batch_info *b) {
    const struct tail *t = p->tail;
    size_t at = t->rest_at + b->size;
    struct batch_info next;
    if (b->base_offset == p->end.offset) return true;
    if (batch_parse(t->rest + at, t->rest_n - at, &next) || !batch_crc_ok(t->rest + at, &next)) return false;
    return next.base_offset == b->base_offset + b->last_offset_delta + 1;
}

/* Nor the epoch, which rises with the first batch of a segment only, and then in the next one, too. */
static bool right_epoch(const struct log_partition *p, const struct batch_info *b) {
    const struct tail *t = p->tail;
    size_t at = t->rest_at + b->size;
    struct batch_info next;
    if (b->leader_epoch == partition_epoch(p)) return true;
    if (b->leader_epoch < partition_epoch(p) || p->end.pos > 0 || t->rest_at > 0) return false;
    return batch_parse(t->rest + at, t->rest_n - at, &next) == HF_OK && next.leader_epoch == b->leader_epoch;
}

/* The next batch of the rest that is whole and lies behind the end, up to an offset. */
static bool next_of_rest(struct log_partition *p, int64_t upto, const uint8_t **at, struct batch_info *b) {
    struct tail *t = p->tail;
    while (t->rest && t->rest_at < t->rest_n && !t->exact) {
        *at = t->rest + t->rest_at;
        if (batch_parse(*at, t->rest_n - t->rest_at, b)) break; /* nothing says where the next one begins */
        bool fits = b->base_offset >= p->end.offset && right_epoch(p, b);
        bool good = fits && batch_crc_ok(*at, b) && hangs_together(p, b);
        if (good && b->base_offset >= upto) return false;
        t->rest_at += b->size;
        if (good) return true;
    }
    free(t->rest);
    t->rest = NULL;
    return false;
}

/* The scan can go no further: with what is whole behind the break, with the next file. HF_EEND: there is nothing
 * below that offset. */
static enum hf_err resume(struct log_partition *p, int64_t upto) {
    struct tail *t = p->tail;
    const uint8_t *bytes;
    struct batch_info b;
    enum hf_err e = t->rest ? HF_OK : take_rest(p);
    if (e) return e;
    if (next_of_rest(p, upto, &bytes, &b)) {
        if (b.base_offset > p->end.offset) e = rescue_gap(p, b.base_offset);
        if (!e && b.leader_epoch > partition_epoch(p))
            e = partition_epoch_add(p, b.leader_epoch, b.base_offset);
        return e ? e : keep(p, bytes, &b, true);
    }
    if (t->rest || t->exact || t->at == t->count || t->base[t->at] >= upto) return HF_EEND;
    rescue_lost(p, p->end.offset, t->base[t->at]);
    p->end.offset = t->base[t->at];
    return HF_OK;
}

/* Up to an offset, or as far as it goes. */
static enum hf_err scan(struct log_partition *p, int64_t upto) {
    struct hf_buf buf;
    hf_buf_init(&buf, LOG_SEGMENT_MAX);
    enum hf_err e = HF_OK;
    while (!e && p->end.offset < upto) {
        e = follow_roll(p);
        if (!e) e = scan_one(p, &buf);
        if (e == HF_EEND && rescue_on(p->log)) e = resume(p, upto);
    }
    hf_buf_fini(&buf);
    return e;
}

/* ---- and by what the journal has ---- */

static enum hf_err replay_batch(struct log_partition *p, const uint8_t *bytes, const struct batch_info *b) {
    int64_t next = b->base_offset + b->last_offset_delta + 1;
    if (next <= p->end.offset) return HF_OK;
    if (b->base_offset > p->end.offset) {
        enum hf_err e = scan(p, b->base_offset);
        if (e == HF_EEND && rescue_on(p->log)) e = rescue_gap(p, b->base_offset);
        if (e == HF_EEND) return refuse(p, p->end.pos, "synced bytes are missing in front of journaled ones");
        if (e) return e;
    }
    if (rescue_on(p->log) && b->base_offset != p->end.offset)
        return HF_OK; /* what the segment has is whole */
    if (b->base_offset != p->end.offset) return refuse(p, p->end.pos, "journal and segment disagree");
    enum hf_err e = follow_roll(p);
    return e ? e : keep(p, bytes, b, true);
}

enum hf_err forward_replay(struct log_partition *p, const struct replay_entry *x) {
    const uint8_t *at = x->bytes, *end = at + x->n;
    while (at < end) {
        struct batch_info b;
        enum hf_err e = batch_parse(at, (size_t)(end - at), &b);
        if (e) return HF_ECORRUPT;
        e = replay_batch(p, at, &b);
        if (e) return e;
        at += b.size;
    }
    return HF_OK;
}

/* ---- the end ---- */

/* Offsets below the ceiling may have been seen: none of them is used again [L6]. */
static enum hf_err jump(struct log_partition *p) {
    int64_t behind = partition_end_of_active(p);
    int32_t epoch = partition_epoch(p) + 1;
    enum hf_err e = partition_epoch_add(p, epoch, p->ceiling);
    if (e) return e;
    env_log(p->log->env, ENV_INFO, "ceiling_jump", "topic=%s partition=%d end=%lld goes_on_at=%lld epoch=%d",
            p->topic->name, p->number, (long long)behind, (long long)p->ceiling, epoch);
    partition_jump(p, behind);
    topic_epochs_write(p);
    return HF_OK;
}

/* Offsets that were given out, and not found, are not given again. */
static void raise_ceiling(struct log_partition *p) {
    int64_t above = p->tail->floor;
    rescue_lost(p, p->end.offset, above);
    if (p->log->rescue.unsure && p->end.offset + 2 * LOG_CEILING_STEP > above)
        above = p->end.offset + 2 * LOG_CEILING_STEP;
    if (above > p->ceiling) p->ceiling = p->ceiling_asked = above;
}

enum hf_err forward_finish(struct log_partition *p) {
    enum hf_err e = scan(p, INT64_MAX);
    if (e != HF_EEND) return e;
    struct tail *t = p->tail;
    for (e = unlink_strays(p); !e && t->at < t->count && !hf_mutate(28); t->at++)
        e = unlink_left_over(p, t->base[t->at]);
    struct segment *s = partition_active(p);
    if (!e) e = sync_again(s);
    if (!e && !hf_mutate(10)) e = segment_trim(s);
    if (rescue_on(p->log)) raise_ceiling(p);
    if (!e && rescue_on(p->log)) topic_epochs_write(p);
    if (!e && p->ceiling > p->end.offset && !hf_mutate(6)) e = jump(p);
    env_point(p->log->env, "recovery.partition_cut");
    at_end(p, p->end);
    return e;
}

void forward_forget(struct log_partition *p) {
    if (p->tail) free(p->tail->base);
    if (p->tail) free(p->tail->rest);
    free(p->tail);
    p->tail = NULL;
}
