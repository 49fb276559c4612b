/* Proof: bytes that were on the disk before this process are believed only after they were checked.
 *
 * A segment's bytes are proven stretch by stretch, on their first read: a stretch lies between two anchors of
 * the manifest, and is right if each batch in it has its checksum and the chain over the headers leads from
 * the one anchor to the other. A bit for each stretch remembers that; when all are proven, nothing is asked
 * any more. What this process wrote needs no proof.
 *
 *     first look          segment opened: trailer, length, index files; what does not fit is made again
 *     proof_at, _range    a reader comes: the stretches it wants
 *     scrub.c             all others, slowly
 *
 *     manifest    index files  batches    then
 *     --------    -----------  -------    ----
 *     whole       whole        right      served
 *     whole       otherwise    right      indexes are made again, and told
 *     not whole   any          right      manifest and indexes are made again, and told
 *     whole       any          damaged    the stretch is refused (HF_ECORRUPT) and told
 *     not whole   any          damaged    the same, with all behind it, which nothing proves
 *
 * Nothing is ever cut away here: that takes an operator (verify.c).
 *
 * [L19] No byte that was there before this process is served, walked or indexed before its stretch is proven.
 */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdlib.h>

enum { WINDOW = 64 << 10, IMAGE_MAX = 64 << 20, CRC_FROM = 21, MANIFEST_BIT = 1 << 2 };

/* ---- telling ---- */

void damage_tell(struct log *l, const struct log_damage *d) {
    if (d->rebuilt)
        l->stats.rebuilt++;
    else
        l->stats.damages++;
    if (l->o.damaged)
        l->o.damaged(l->o.damaged_arg, d);
    else
        env_log(l->env, d->rebuilt ? ENV_WARN : ENV_ERROR, d->rebuilt ? "rebuilt" : "damaged",
                "file=%s byte=%llu offset=%lld reason=\"%s\"", d->file, (unsigned long long)d->byte,
                (long long)d->offset, d->what);
}

/* Once for each place, however often it is read. */
void damage_in(struct segment *s, uint64_t byte, int64_t offset, const char *what) {
    if (s->reported == byte + 1) return;
    s->reported = byte + 1;
    char path[LOG_PATH];
    segment_path(s, "log", path);
    damage_tell(s->log, &(struct log_damage){.file = path, .byte = byte, .offset = offset, .what = what});
}

/* ---- walking over batches, each with its checksum ---- */

struct walk {
    struct segment *s;
    uint64_t pos, end; /* the batch to be looked at next; where to stop */
    int64_t next;      /* its offset; -1: any */
    uint32_t chain;
    bool gaps;        /* offsets may be left out */
    uint32_t skipped; /* places where they were */
    const char *why;  /* what is wrong at pos */
    uint64_t at;      /* the last batch, its header, and what it says */
    struct batch_info b;
    uint8_t head[BATCH_HEADER];
    struct hf_file *file;
    uint8_t *window; /* whole pages, so that it may be read past the page cache */
    uint64_t window_at;
    size_t window_n;
    bool lent; /* the window is somebody's, and holds all that the walk comes by */
};

static enum hf_err walk_begin(struct walk *w, struct segment *s, uint64_t pos, uint64_t end) {
    *w = (struct walk){.s = s, .pos = pos, .end = end, .next = -1};
    enum hf_err e = segment_open(s);
    if (e) return e;
    w->file = s->file;
    w->window = aligned_alloc(LOG_PAGE, WINDOW);
    return w->window ? HF_OK : HF_ENOMEM;
}

/* Over what the disk has, past the page cache; `have`, if that covers it, was read before. */
static enum hf_err walk_disk(struct walk *w, const struct proof_bytes *have) {
    char path[LOG_PATH];
    if (have && have->offset <= w->pos && have->offset + have->n >= w->end) {
        free(w->window);
        w->window = have->p;
        w->window_at = have->offset;
        w->window_n = have->n;
        w->lent = true;
        return HF_OK;
    }
    segment_path(w->s, "log", path);
    return env_open(w->s->log->env, path, ENV_READ | ENV_DIRECT, &w->file);
}

static void walk_end(struct walk *w) {
    if (w->file && w->file != w->s->file) env_close(w->file);
    if (!w->lent) free(w->window);
    w->window = NULL;
    w->file = NULL;
}

static enum hf_err wrong(struct walk *w, const char *why) {
    w->why = why;
    return HF_ECORRUPT;
}

/* *n bytes at `at`, at most what the window holds, at least `least`. */
static enum hf_err bytes_at(struct walk *w, uint64_t at, size_t least, const uint8_t **p, size_t *n) {
    if (at < w->window_at || at + least > w->window_at + w->window_n) {
        w->window_at = at / LOG_PAGE * LOG_PAGE;
        uint64_t left = (w->end - w->window_at + LOG_PAGE - 1) / LOG_PAGE * LOG_PAGE;
        w->window_n = 0;
        assert(!w->lent);
        enum hf_err e =
            env_read(w->file, w->window_at, w->window, left < WINDOW ? (size_t)left : WINDOW, &w->window_n);
        if (e) return e;
        if (w->window_at + w->window_n < at + least)
            return wrong(w, "the file ends here, and must be longer");
    }
    *p = w->window + (at - w->window_at);
    *n = w->window_n - (size_t)(at - w->window_at);
    return HF_OK;
}

static enum hf_err check_sum(struct walk *w) {
    uint64_t at = w->pos + CRC_FROM, end = w->pos + w->b.size;
    uint32_t crc = 0;
    while (at < end) {
        const uint8_t *p;
        size_t n;
        enum hf_err e = bytes_at(w, at, 1, &p, &n);
        if (e) return e;
        if (n > end - at) n = (size_t)(end - at);
        crc = hf_crc32c(crc, p, n);
        at += n;
    }
    return crc == w->b.crc ? HF_OK : wrong(w, "the batch does not match its checksum");
}

/* The next batch: w->b, its header in w->head, its place w->at. HF_EEND: the end was reached exactly.
 * HF_ECORRUPT: w->why tells what is wrong at w->pos. */
static enum hf_err walk_next(struct walk *w) {
    const uint8_t *p;
    size_t n;
    if (w->pos == w->end) return HF_EEND;
    if (w->end - w->pos < BATCH_HEADER) return wrong(w, "no batch fits in here");
    enum hf_err e = bytes_at(w, w->pos, BATCH_HEADER, &p, &n);
    if (e) return e;
    memcpy(w->head, p, BATCH_HEADER);
    e = batch_parse(w->head, (size_t)(w->end - w->pos), &w->b);
    if (e == HF_EEND) return wrong(w, "a batch that is longer than what is left");
    if (e) return wrong(w, "no batch begins here");
    if (w->next >= 0 && w->b.base_offset != w->next && (!w->gaps || w->b.base_offset < w->next))
        return wrong(w, "the offset does not follow the one before");
    e = check_sum(w);
    if (e) return e;
    w->chain = hf_crc32c(w->chain, w->head, BATCH_HEADER);
    w->skipped += w->next >= 0 && w->b.base_offset != w->next;
    w->next = w->b.base_offset + w->b.last_offset_delta + 1;
    w->at = w->pos;
    w->pos += w->b.size;
    return HF_OK;
}

/* ---- stretches ---- */

static void is_proven(struct segment *s) {
    free(s->proven);
    s->proven = NULL;
    s->unproven = s->proven_from = s->proven_to = 0;
}

static bool bit(const struct segment *s, uint32_t i) {
    return s->proven && (s->proven[i / 8] >> (i % 8) & 1);
}

/* Without memory the stretch is proven again the next time. */
static void set_bit(struct segment *s, uint32_t i) {
    uint32_t all = s->stretches;
    if (!s->proven) {
        s->proven = calloc(1, all / 8 + 1);
        s->proven_count = 0;
    }
    if (!s->proven || bit(s, i)) return;
    s->proven[i / 8] = (uint8_t)(s->proven[i / 8] | 1u << (i % 8));
    if (++s->proven_count == all) is_proven(s);
}

/* Batches [from, end) whose checksums are right but not their chain: which one has another's epoch? Otherwise
 * they are others, or in another place, than those written. */
static enum hf_err unchained(struct segment *s, const struct anchor *from, uint64_t end) {
    struct walk w;
    enum hf_err e = walk_begin(&w, s, from->pos, end);
    while (!e && !(e = walk_next(&w))) {
        if (w.b.leader_epoch == partition_epoch_at(s->p, w.b.base_offset)) continue;
        damage_in(s, w.at, w.b.base_offset, "the leader epoch is not the one written");
        break;
    }
    if (e == HF_EEND) damage_in(s, from->pos, -1, "from here on are not the batches that were written here");
    walk_end(&w);
    return e && e != HF_EEND ? e : HF_ECORRUPT;
}

/* A stretch, and the chain at its end. */
struct stretch {
    struct anchor from;
    uint64_t end;
    uint32_t chain, number;
};

enum from_where { FROM_CACHE, FROM_DISK };

static enum hf_err prove(struct segment *s, const struct stretch *x, enum from_where where,
                         const struct proof_bytes *have) {
    struct walk w;
    const struct anchor *from = &x->from;
    enum hf_err e = walk_begin(&w, s, from->pos, x->end);
    if (!e && where == FROM_DISK) e = walk_disk(&w, have);
    w.chain = from->chain;
    w.gaps = s->gaps > 0;
    if (from->pos == 0 && !w.gaps) w.next = s->base;
    while (!e) e = walk_next(&w);
    walk_end(&w);
    if (e == HF_ECORRUPT) damage_in(s, w.pos, w.next, w.why);
    if (e != HF_EEND) return e;
    return w.chain == x->chain ? HF_OK : unchained(s, from, x->end);
}

/* The stretch that pos lies in, of a segment's bytes below `all`, whose chain is `chain` there. */
static enum hf_err stretch_at(struct segment *s, uint64_t pos, uint64_t all, uint32_t chain,
                              struct stretch *out) {
    struct anchor to;
    bool last;
    enum hf_err e = index_anchors(s, pos, &out->number, &out->from, &to, &last);
    if (e) return e;
    bool whole = last || to.pos >= all;
    out->end = whole ? all : to.pos;
    out->chain = whole ? chain : to.chain;
    return HF_OK;
}

/* Whether the batch at pos may be shown. HF_ECORRUPT: something near it is damaged, and was told. */
enum hf_err proof_at(struct segment *s, uint64_t pos) {
    if (pos >= s->unproven || (pos >= s->proven_from && pos < s->proven_to)) return HF_OK;
    struct stretch x;
    enum hf_err e = segment_open(s);
    if (!e && pos >= s->unproven) return HF_OK; /* proven by the first look */
    if (!e) e = stretch_at(s, pos, s->unproven, s->unproven_chain, &x);
    if (!e && !bit(s, x.number)) e = prove(s, &x, FROM_CACHE, NULL);
    if (e) return e;
    s->proven_from = x.from.pos;
    s->proven_to = x.end;
    set_bit(s, x.number);
    return HF_OK;
}

/* Nothing of it is believed any more. What this process appended behind `upto` is. */
static void doubt(struct segment *s, uint64_t upto, uint32_t chain) {
    free(s->proven);
    s->proven = NULL;
    s->unproven = upto;
    s->unproven_chain = chain;
    s->stretches = s->anchors.entries + 1;
    s->proven_from = s->proven_to = 0;
}

/* What there is to be read again: all of a closed segment that has its manifest, of others what was there before
 * this process. */
struct again {
    uint64_t all;
    uint32_t chain;
};

static struct again all_again(const struct segment *s) {
    bool closed = s->listed && s->tracked;
    return (struct again){closed ? s->size : s->unproven, closed ? s->chain : s->unproven_chain};
}

/* Where the stretch lies that proof_again would read at pos. HF_EEND: there is no more. */
enum hf_err proof_stretch(struct segment *s, uint64_t pos, uint64_t *from, uint64_t *end) {
    struct again again = all_again(s);
    struct stretch x;
    if (pos >= again.all) return HF_EEND;
    enum hf_err e = stretch_at(s, pos, again.all, again.chain, &x);
    if (e) return e;
    *from = x.from.pos;
    *end = x.end;
    return HF_OK;
}

/* Reads the stretch that *pos lies in from the disk, proven or not, and moves *pos behind it if it could be
 * read. `have`: it was read already, if that covers it; may be NULL. HF_EEND: there is no more. HF_ECORRUPT: told, and
 * refused from now on. */
enum hf_err proof_again(struct segment *s, uint64_t *pos, const struct proof_bytes *have) {
    struct again again = all_again(s);
    struct stretch x;
    if (*pos >= again.all) return HF_EEND;
    enum hf_err e = stretch_at(s, *pos, again.all, again.chain, &x);
    if (e) return e;
    e = prove(s, &x, FROM_DISK, have);
    if (e == HF_ECORRUPT && (s->unproven < again.all || bit(s, x.number))) doubt(s, again.all, again.chain);
    if (!e && s->unproven == again.all) set_bit(s, x.number);
    if (!e || e == HF_ECORRUPT) *pos = x.end;
    return e;
}

/* How far bytes from `from` on may be shown: *good ≤ to. Fails if that is nothing. */
enum hf_err proof_range(struct segment *s, uint64_t from, uint64_t to, uint64_t *good) {
    uint64_t pos = from;
    while (pos < to && pos < s->unproven) {
        enum hf_err e = proof_at(s, pos);
        if (e && pos == from) return e;
        if (e) {
            *good = pos;
            return HF_OK;
        }
        if (pos < s->unproven) pos = s->proven_to;
    }
    *good = to;
    return HF_OK;
}

/* Whether a segment is missing between this one and the next: who goes on from the one to the other asks.
 * What lies below the start is of no interest: power loss may bring some names of removed files back. */
bool proof_hole(struct segment *s) {
    if (s->follows < 0 || !s->next || s->next->base == s->follows || s->next->base <= s->p->start)
        return false;
    damage_in(s, s->size, s->follows, "the segment that follows is missing");
    return true;
}

/* ---- made again ---- */

/* The three files as they were, to tell where they differed. */
struct images {
    struct hf_buf file[INDEX_FILES];
};

static enum hf_err take_image(struct hf_file *f, struct hf_buf *out) {
    uint64_t size;
    size_t got = 0;
    hf_buf_init(out, IMAGE_MAX);
    enum hf_err e = env_size(f, &size);
    if (e || size == 0 || size > IMAGE_MAX) return e;
    uint8_t *p = hf_buf_room(out, (size_t)size);
    e = p ? env_read(f, 0, p, (size_t)size, &got) : HF_ENOMEM;
    out->n = e ? 0 : got;
    return e;
}

static enum hf_err take_images(struct segment *s, struct images *x) {
    enum hf_err e = HF_OK;
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        hf_buf_init(&x->file[i], IMAGE_MAX);
        if (!e) e = index_open(s, f, ENV_WRITE);
        if (!e) e = take_image(f->file, &x->file[i]);
        if (e == HF_ENOTFOUND) e = HF_OK;
    }
    return e;
}

static size_t differ(const struct hf_buf *a, const struct hf_buf *b) {
    size_t i = 0;
    while (i < a->n && i < b->n && a->p[i] == b->p[i]) i++;
    return i;
}

static void tell_rebuilt(struct segment *s, struct index_file *f, const struct hf_buf *was) {
    struct hf_buf now;
    char path[LOG_PATH];
    enum hf_err e = HF_OK;
    hf_buf_init(&now, IMAGE_MAX);
    if (f->file) e = take_image(f->file, &now);
    if (f == &s->anchors && s->sealed && s->tracked && s->next) { /* is written behind the next sync */
        uint8_t trailer[MANIFEST_TRAILER];
        manifest_encode(s, trailer);
        hf_buf_put(&now, trailer, sizeof trailer);
    }
    if (!e) {
        index_path(s, f, path);
        damage_tell(s->log, &(struct log_damage){.file = path,
                                                 .byte = differ(was, &now),
                                                 .offset = -1,
                                                 .what = "not what was written; made again from the batches",
                                                 .rebuilt = true});
    }
    hf_buf_fini(&now);
}

/* Every batch with all that can be checked of it without a manifest. */
static enum hf_err index_again(struct segment *s, bool known, struct walk *w) {
    enum hf_err e = index_clear(s);
    if (!e) e = walk_begin(w, s, 0, s->size);
    w->gaps = s->gaps > 0 || !known;
    w->next = s->base;
    while (!e && !(e = walk_next(w))) {
        bool ours = w->b.leader_epoch == partition_epoch_at(s->p, w->b.base_offset);
        if ((!known && !ours) || (s->sealed && s->next && w->next > s->next->base)) {
            w->pos = w->at;
            e = wrong(w, "the batch does not belong here");
            break;
        }
        index_add(s, w->head, &w->b, w->at, w->b.base_offset);
    }
    walk_end(w);
    return e == HF_EEND ? HF_OK : e;
}

/* The batches were walked: what does that prove? */
static enum hf_err conclude(struct segment *s, bool known, bool damaged, const struct walk *w) {
    s->tracked = !damaged && (!known || s->chain == s->unproven_chain);
    s->listed = false;
    if (s->tracked) {
        if (!known) s->gaps = w->skipped;
        s->next_offset = w->next;
        s->timed = true;
        s->index_dirty = true; /* the trailer is to be written */
        partition_mark_dirty(s->p);
        is_proven(s);
        return HF_OK;
    }
    enum hf_err e = damaged ? HF_OK : index_drop_anchors(s);
    damage_in(s, damaged ? w->pos : 0, damaged ? w->next : -1,
              damaged ? w->why : "from here on are not the batches that were written here");
    s->unproven = s->size;
    if (known)
        s->chain = s->unproven_chain;
    else
        s->unproven_chain = ~s->chain; /* nothing proves what lies behind the damage */
    return e;
}

/* Makes indexes and anchors again, from every batch with its checksum; `known`: what the chain must be. Those
 * files are told that have a bit in `bad`. Where the batches are damaged it stops and says so, which is no
 * error here. */
static enum hf_err remake(struct segment *s, bool known, unsigned bad) {
    struct images x;
    struct walk w = {0};
    char path[LOG_PATH];
    enum hf_err e = take_images(s, &x);
    if (!e) e = index_again(s, known, &w);
    if (!e || e == HF_ECORRUPT) e = conclude(s, known, e == HF_ECORRUPT, &w);
    if (!e && s->sealed)
        index_seal(s);
    else if (!e)
        e = index_flush(s);
    s->stretches = s->anchors.entries + 1;
    segment_path(s, "log", path);
    env_log(s->log->env, ENV_INFO, "index_made", "file=%s whole=%d", path, s->tracked);
    for (int i = 0; i < INDEX_FILES; i++) {
        if (!e && (bad & 1u << i)) tell_rebuilt(s, index_file_of(s, i), &x.file[i]);
        hf_buf_fini(&x.file[i]);
    }
    return e;
}

/* ---- the first look at a segment ---- */

static void expect(struct segment *s, uint64_t size, uint32_t chain) {
    s->size = s->unproven = size;
    s->chain = s->unproven_chain = chain;
    s->tracked = true;
}

static void look_at_length(struct segment *s, uint64_t file_size) {
    if (file_size == s->size) return;
    s->cut = file_size < s->size;
    damage_in(s, s->cut ? file_size : s->size, -1,
              s->cut ? "the file ends here, and must be longer" : "the segment ends here, but not the file");
}

/* Whether the files beside the batches were whole at the last checkpoint; younger ones a crash may tear. */
static bool was_whole(const struct segment *s) {
    return s->base < s->p->listed_below;
}

/* A process before this one may have written index files and manifest without a sync, or its sync may have
 * failed: they are synced, the trailer is written again, whoever wrote it [L10]. */
static void settle_files(struct segment *s) {
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        f->unsynced = f->file != NULL;
    }
    s->listed = false;
    s->index_dirty = s->p->dirty_dir = true;
    partition_mark_dirty(s->p);
}

static enum hf_err look_at_closed(struct segment *s, uint64_t file_size) {
    struct manifest m;
    unsigned bad;
    enum hf_err e = manifest_read(s, &m);
    s->size = file_size;
    if (e == HF_ENOTFOUND || e == HF_ECORRUPT) {
        return remake(s, false, was_whole(s) ? MANIFEST_BIT : 0);
    }
    if (e) return e;
    expect(s, m.length, m.chain);
    s->next_offset = m.next;
    s->gaps = m.gaps;
    s->listed = true;
    look_at_length(s, file_size);
    s->follows = m.follows;
    e = index_load(s, m.sums, &bad);
    s->stretches = s->anchors.entries + 1;
    if (!e && bad) return remake(s, true, was_whole(s) ? bad : 0);
    if (!e && !was_whole(s)) settle_files(s);
    return e;
}

/* Whether the files beside a closed segment are still what was written; they are made again if not. */
enum hf_err proof_of_indexes(struct segment *s) {
    struct manifest m;
    struct index_sum want[INDEX_FILES];
    unsigned bad;
    if (!s->listed || !s->tracked || s->index_dirty) return HF_OK;
    for (int i = 0; i < INDEX_FILES; i++)
        want[i] = (struct index_sum){index_file_of(s, i)->entries, index_file_of(s, i)->crc};
    enum hf_err e = index_load(s, want, &bad);
    if (e) return e;
    e = manifest_read(s, &m);
    if (e == HF_ENOTFOUND || e == HF_ECORRUPT) bad |= MANIFEST_BIT;
    if (!bad) return e;
    doubt(s, s->size, s->chain);
    return remake(s, true, bad);
}

/* After a clean stop the checkpoint knows all of it. */
static enum hf_err look_at_active(struct segment *s, uint64_t file_size) {
    struct index_sum want[INDEX_FILES];
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        want[i] = (struct index_sum){f->entries, f->crc};
    }
    expect(s, s->size, s->chain);
    look_at_length(s, file_size);
    unsigned bad;
    enum hf_err e = index_load(s, want, &bad);
    s->stretches = s->anchors.entries + 1;
    if (!e && bad) e = remake(s, true, bad);
    return e ? e : segment_trim(s);
}

/* The file was opened for the first time in this process: length, manifest, indexes. */
enum hf_err proof_first_look(struct segment *s, uint64_t file_size) {
    return s->sealed ? look_at_closed(s, file_size) : look_at_active(s, file_size);
}

/* The largest timestamp of all batches. */
static enum hf_err largest_time(struct segment *s) {
    struct walk w;
    enum hf_err e = walk_begin(&w, s, 0, s->size);
    s->max_ts = -1;
    while (!e && !(e = walk_next(&w))) {
        if (w.b.max_timestamp <= s->max_ts) continue;
        s->max_ts = w.b.max_timestamp;
        s->max_ts_offset = w.next - 1;
    }
    walk_end(&w);
    return e == HF_EEND || e == HF_ECORRUPT ? HF_OK : e; /* damage is told when it is read */
}

/* After a crash: the first bytes of the active segment, which the checkpoint knows, and its index files cut
 * to what was synced then. `reserved`: the largest time was one of reserved room, which only the batches
 * tell. */
enum hf_err proof_after_crash(struct segment *s, const struct index_sum want[INDEX_FILES], bool reserved) {
    expect(s, s->size, s->chain);
    if (s->allocated < s->size) look_at_length(s, s->allocated);
    unsigned bad;
    enum hf_err e = index_cut(s, want, &bad);
    if (!e && bad) e = remake(s, true, 0); /* no proof of damage: a full disk, or a crash like this one */
    if (!e && !bad && reserved) e = largest_time(s);
    s->stretches = s->anchors.entries + 1;
    return e;
}
