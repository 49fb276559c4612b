/* Salvage: what is damaged is cut out, so that the rest can be read on. Only an operator asks for it, offline.
 *
 * A damaged stretch is refused (proof.c), and a reader that comes to it gets no further. Here each closed segment
 * that is not what its manifest says is written anew from what can still be proven, and the offsets that are
 * missing from it are told. It is the only place where bytes below the durable mark go.
 *
 * What is kept, of each stretch between two anchors:
 *
 *     its headers lead from the one anchor to the other    every batch that has its checksum
 *     they do not, but those of another stretch do         every batch that has its checksum and its epoch, and
 *                                                          goes on by offset from a neighbour: the checksum does
 *                                                          not cover the offset
 *     no stretch of the segment is right                   the same if the length is, and a batch is not: else it may
 *                                                          be another segment's file, and nothing is
 *
 * Behind a batch whose length leads nowhere the rest of the stretch is given up: bytes of a message may look like
 * a batch. Without a manifest the second line holds. What is kept keeps its bytes.
 *
 *     <base>.log.salvage.swap written, synced ─► manifest and indexes unlinked, synced ─► renamed, synced
 *
 * A crash leaves the old segment, with or without its manifest, and a stray that the next start unlinks: the
 * operator runs it again. Manifest and indexes are made by the first look at the new segment. The active segment
 * is closed first if it is damaged. A missing segment becomes a gap, or moves the start. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>
#include <stdlib.h>

struct salvage {
    struct log *log;
    struct segment *s;
    uint8_t *bytes; /* all of its file */
    size_t n;
    struct hf_file *to;
    uint64_t at;
    int64_t covered; /* offsets below it were kept, told as lost, or never there */
    bool torn;       /* something was left out since the last batch that was kept */
    bool ours;       /* the file is this segment's */
};

/* ---- one batch ---- */

static bool whole_at(const struct salvage *x, uint64_t pos, uint64_t end, struct batch_info *b) {
    return pos < end && batch_parse(x->bytes + pos, (size_t)(end - pos), b) == HF_OK &&
           batch_crc_ok(x->bytes + pos, b);
}

static int64_t end_of(const struct batch_info *b) {
    return b->base_offset + b->last_offset_delta + 1;
}

/* It goes on where the last one that was kept ended, or the next one goes on where it ends. */
static bool hangs_together(const struct salvage *x, uint64_t pos, const struct batch_info *b) {
    struct batch_info next;
    if (b->base_offset < x->covered || end_of(b) > x->s->next->base) return false;
    if (b->leader_epoch != partition_epoch_at(x->s->p, b->base_offset)) return false;
    if (b->base_offset == x->covered && !x->torn) return true;
    if (pos + b->size == x->n) return end_of(b) == x->s->next_offset;
    return whole_at(x, pos + b->size, x->n, &next) && next.base_offset == end_of(b);
}

static enum hf_err keep(struct salvage *x, uint64_t pos, const struct batch_info *b) {
    enum hf_err e = env_write(x->to, x->at, x->bytes + pos, b->size);
    if (e) return e;
    if (x->torn || x->s->gaps == 0) rescue_lost(x->s->p, x->covered, b->base_offset);
    x->torn = false;
    x->at += b->size;
    x->covered = end_of(b);
    return HF_OK;
}

/* ---- stretches ---- */

struct stretch {
    uint64_t from, end;
    uint32_t chain, want; /* over the headers: in front of it, and behind it */
};

static enum hf_err stretch_at(const struct salvage *x, uint64_t pos, struct stretch *out) {
    struct segment *s = x->s;
    struct anchor from, to;
    uint32_t number;
    bool last;
    enum hf_err e = index_anchors(s, pos, &number, &from, &to, &last);
    if (e) return e;
    *out = (struct stretch){from.pos, s->size, from.chain,
                            s->unproven >= s->size ? s->unproven_chain : s->chain};
    if (last || to.pos >= s->size) return HF_OK;
    out->end = to.pos;
    out->want = to.chain;
    return HF_OK;
}

static bool headers_proven(const struct salvage *x, const struct stretch *t) {
    struct batch_info b;
    uint64_t pos = t->from;
    uint32_t chain = t->chain;
    if (t->end > x->n) return false;
    while (pos < t->end && batch_parse(x->bytes + pos, (size_t)(t->end - pos), &b) == HF_OK) {
        chain = hf_crc32c(chain, x->bytes + pos, BATCH_HEADER);
        pos += b.size;
    }
    return pos == t->end && chain == t->want;
}

/* Where the batch behind this one begins; 0: its length leads nowhere. */
static uint64_t behind(const struct salvage *x, uint64_t pos, uint64_t end, bool proven) {
    struct batch_info b, next;
    if (batch_parse(x->bytes + pos, (size_t)(end - pos), &b)) return 0;
    bool leads = proven || pos + b.size == end || whole_at(x, pos + b.size, end, &next);
    return leads ? pos + b.size : 0;
}

static enum hf_err copy(struct salvage *x, const struct stretch *t, bool proven) {
    uint64_t end = t->end < x->n ? t->end : x->n;
    enum hf_err e = HF_OK;
    for (uint64_t pos = t->from, next; !e && pos < end; pos = next) {
        struct batch_info b;
        bool good = whole_at(x, pos, end, &b) && (proven || hangs_together(x, pos, &b));
        next = good ? pos + b.size : behind(x, pos, end, proven);
        if (good) e = keep(x, pos, &b);
        x->torn = x->torn || !good;
        if (next == 0) break;
    }
    return e;
}

static enum hf_err each_stretch(struct salvage *x,
                                enum hf_err (*fn)(struct salvage *x, const struct stretch *t)) {
    struct stretch t = {0};
    enum hf_err e = HF_OK;
    for (uint64_t pos = 0; !e && pos < x->s->size && pos < x->n; pos = t.end) {
        e = stretch_at(x, pos, &t);
        if (!e) e = fn(x, &t);
    }
    return e;
}

/* Batches that are not what the chain says, and one of them is damaged where it stands: the others are right
 * around it. All of them right would be another segment's. */
static bool is_torn(const struct salvage *x, const struct stretch *t) {
    struct batch_info b, before = {0};
    for (uint64_t pos = t->from; pos < t->end; pos += b.size, before = b) {
        if (batch_parse(x->bytes + pos, (size_t)(t->end - pos), &b)) return false;
        if (pos == 0 && b.base_offset != x->s->base) return false;
        if (!batch_crc_ok(x->bytes + pos, &b)) return behind(x, pos, t->end, false) > 0;
        if (pos > t->from && (b.base_offset != end_of(&before) || b.leader_epoch != before.leader_epoch))
            return true;
    }
    return false;
}

static enum hf_err look_at_stretch(struct salvage *x, const struct stretch *t) {
    if (!x->ours) x->ours = headers_proven(x, t);
    if (!x->ours && x->s->gaps == 0 && x->s->allocated == x->s->size) x->ours = is_torn(x, t);
    return HF_OK;
}

static enum hf_err copy_stretch(struct salvage *x, const struct stretch *t) {
    bool proven = headers_proven(x, t);
    if (proven || x->ours) return copy(x, t, proven);
    x->torn = true;
    return HF_OK;
}

static enum hf_err copy_all(struct salvage *x) {
    const struct segment *s = x->s;
    x->ours = s->unproven >= s->size && s->unproven_chain == ~s->chain; /* no manifest (proof.c) */
    enum hf_err e = each_stretch(x, look_at_stretch);
    if (!e) e = each_stretch(x, copy_stretch);
    x->torn = x->torn || x->n < s->size;
    return e;
}

/* ---- one segment ---- */

static enum hf_err load(struct salvage *x) {
    struct segment *s = x->s;
    uint64_t size;
    enum hf_err e = env_size(s->file, &size);
    if (e) return e;
    x->n = (size_t)(size < s->size ? size : s->size);
    x->bytes = malloc(x->n + 1);
    if (!x->bytes) return HF_ENOMEM;
    return env_read(s->file, 0, x->bytes, x->n, &x->n);
}

static enum hf_err replace(struct salvage *x, const char *made) {
    static const char *const ext[] = {"manifest", "index", "timeindex"};
    struct segment *s = x->s;
    struct hf_env *env = x->log->env;
    char path[LOG_PATH], folder[LOG_PATH];
    topic_folder_path(s->p->topic, s->p->number, folder);
    segment_path(s, "log", path);
    enum hf_err e = aside_copy(x->log, path);
    for (int i = 0; !e && i < 3; i++) {
        segment_path(s, ext[i], path);
        e = env_unlink(env, path);
        if (e == HF_ENOTFOUND) e = HF_OK;
    }
    if (!e) e = env_sync_wait(env, NULL, folder);
    segment_path(s, "log", path);
    if (!e) e = env_rename(env, made, path);
    return e ? e : env_sync_wait(env, NULL, folder);
}

/* It is looked at as if it had never been. */
static enum hf_err look_anew(struct segment *s) {
    segment_close(s);
    free(s->proven);
    s->proven = NULL;
    s->sized = s->listed = s->tracked = s->cut = s->dirty = s->index_dirty = false;
    s->unproven = s->proven_from = s->proven_to = s->reported = 0;
    s->gaps = 0;
    s->follows = -1;
    partition_leave(s->p, s);
    return segment_open(s);
}

static enum hf_err rewrite(struct salvage *x) {
    struct segment *s = x->s;
    char made[LOG_PATH];
    segment_path(s, "log.salvage.swap", made);
    enum hf_err e = segment_open(s);
    if (!e) e = load(x);
    if (!e) e = env_open(x->log->env, made, ENV_CREATE, &x->to);
    if (!e) e = env_truncate(x->to, 0);
    if (!e) e = copy_all(x);
    if (!e) e = env_sync_wait(x->log->env, x->to, NULL);
    env_close(x->to);
    x->to = NULL;
    free(x->bytes);
    x->bytes = NULL;
    if (!e) e = replace(x, made);
    bool hole = s->follows >= 0 && s->follows != s->next->base;
    if (!e && (x->torn || hole)) rescue_lost(s->p, x->covered, s->next->base);
    return e ? e : look_anew(s);
}

/* ---- which ---- */

static bool is_damaged(struct segment *s) {
    uint64_t pos = 0;
    enum hf_err e = segment_open(s);
    if (e || s->cut || !s->tracked || (s->sealed && s->allocated != s->size)) return true;
    while ((e = proof_again(s, &pos, NULL)) == HF_OK) {}
    return e != HF_EEND;
}

/* The segment behind it is missing: from now on its manifest says so. */
static enum hf_err close_hole(struct salvage *x, struct segment *s) {
    char path[LOG_PATH];
    rescue_lost(s->p, s->follows, s->next->base);
    segment_close(s);
    segment_path(s, "manifest", path);
    enum hf_err e = env_unlink(x->log->env, path);
    return e && e != HF_ENOTFOUND ? e : look_anew(s);
}

static enum hf_err salvage_segment(struct salvage *x, struct segment *s) {
    x->s = s;
    x->at = 0;
    x->covered = s->base;
    x->torn = false;
    enum hf_err e = is_damaged(s) ? rewrite(x) : HF_OK;
    return !e && proof_hole(s) ? close_hole(x, s) : e;
}

static enum hf_err each_segment(struct salvage *x, struct log_partition *p) {
    if (p->segments->base > p->start) {
        rescue_lost(p, p->start, p->segments->base);
        p->start = p->segments->base;
    }
    struct segment *active = partition_active(p);
    enum hf_err e = active->size > 0 && is_damaged(active) ? partition_roll(p) : HF_OK;
    for (struct segment *s = p->segments; !e && s->next; s = s->next) e = salvage_segment(x, s);
    return e;
}

enum hf_err salvage_partition(struct log_partition *p) {
    struct salvage x = {.log = p->log};
    return each_segment(&x, p);
}

enum hf_err log_salvage(struct log *l, const struct log_rescue *to) {
    l->rescue.to = to;
    enum hf_err e = runs_salvage(l);
    if (!e) e = rescue_end(l);
    if (e) return e;
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        for (int32_t i = 0; i < t->partitions; i++) {
            e = salvage_partition(t->partition[i]);
            if (e) return e;
        }
    }
    return l->failed;
}
