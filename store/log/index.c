/* The two indexes of a segment, in Kafka's layout, and the anchors of its manifest (docs/storage.md).
 *
 * They are hints that can be made again from the batches: an entry is added when at least 4096 bytes lie
 * between a batch and the last one indexed, for the batch's *last* offset, which is what Kafka's own tools
 * check. Missing entries cost a longer scan, so a full disk or a lack of memory just leaves them out. A few
 * entries are gathered in memory and written together; a sync of the partition writes them all. Look-ups
 * read a page of the file where the entry would be if batches were alike, which nearly always holds it, else
 * go on by halves; and most readers go on where the last one left off (read.c).
 *
 * An anchor is a position and the checksum of all batch headers in front of it: what lies between two anchors
 * can be proven without reading anything else [L19]. Anchors are hints no more than the others: without them
 * a longer stretch is proven at once.
 *
 * What a file must hold is known by number of entries and checksum: for a closed segment from the trailer of
 * its manifest, for the active one from the checkpoint. A file that is otherwise is made again (proof.c).
 *
 * Invariant: entries ascend strictly, in offset and position, and in timestamp and offset. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdlib.h>

enum { BUFFERED = 32 };

struct index_file *index_file_of(struct segment *s, int i) {
    return i == 0 ? &s->index : i == 1 ? &s->timeindex : &s->anchors;
}

static size_t size_of(const struct segment *s, const struct index_file *f) {
    return f == &s->index ? INDEX_ENTRY : f == &s->timeindex ? TIMEINDEX_ENTRY : ANCHOR_ENTRY;
}

void index_path(const struct segment *s, const struct index_file *f, char out[LOG_PATH]) {
    segment_path(s, f == &s->index ? "index" : f == &s->timeindex ? "timeindex" : "manifest", out);
}

/* ---- files ---- */

enum hf_err index_open(struct segment *s, struct index_file *f, unsigned flags) {
    if (f->file) return HF_OK;
    char path[LOG_PATH];
    index_path(s, f, path);
    enum hf_err e = env_open(s->log->env, path, flags, &f->file);
    if (!e) log_opened_file(s->log);
    return e;
}

static void close_file(struct segment *s, struct index_file *f) {
    if (!f->file) return;
    env_close(f->file);
    f->file = NULL;
    s->log->open_files--;
}

static enum hf_err write_out(struct segment *s, struct index_file *f) {
    uint32_t n = f->entries - f->written;
    if (n == 0) return HF_OK;
    enum hf_err e = index_open(s, f, ENV_WRITE);
    if (e == HF_ENOTFOUND) {
        e = index_open(s, f, ENV_CREATE);
        s->p->dirty_dir = true;
        partition_mark_dirty(s->p); /* the name, even if nothing can be written for lack of space */
    }
    size_t size = size_of(s, f);
    if (!e) e = env_write(f->file, (uint64_t)f->written * size, f->buf, n * size);
    if (e == HF_ENOSPC && f->file && env_truncate(f->file, (uint64_t)f->written * size)) e = HF_EIO;
    if (e) return e;
    f->crc = hf_crc32c(f->crc, f->buf, n * size);
    f->written = f->entries;
    f->unsynced = true;
    s->index_dirty = true;
    partition_mark_dirty(s->p);
    return HF_OK;
}

/* HF_ENOSPC leaves the entries in memory: they are written later or made again. */
enum hf_err index_flush(struct segment *s) {
    enum hf_err e = HF_OK;
    for (int i = 0; i < INDEX_FILES && (!e || e == HF_ENOSPC); i++) e = write_out(s, index_file_of(s, i));
    return e == HF_ENOSPC ? HF_OK : e;
}

void index_close(struct segment *s) {
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        close_file(s, f);
        free(f->buf);
        f->buf = NULL;
        f->entries = f->written;
    }
}

/* All files, empty, for a segment that is to take the place of others: theirs must not stay. */
enum hf_err index_create(struct segment *s) {
    enum hf_err e = HF_OK;
    for (int i = 0; !e && i < INDEX_FILES; i++) e = index_open(s, index_file_of(s, i), ENV_CREATE);
    return e;
}

/* What is synced need not stay open: of thousands of partitions, few write to their indexes at a time. */
void index_rest(struct segment *s) {
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        if (!f->unsynced) close_file(s, f);
    }
}

/* ---- entries ---- */

static void add(struct segment *s, struct index_file *f, const uint8_t *entry) {
    size_t size = size_of(s, f);
    if (!f->buf) f->buf = malloc(BUFFERED * size);
    if (!f->buf) return;
    if (f->entries - f->written == BUFFERED) {
        enum hf_err e = write_out(s, f);
        if (e && e != HF_ENOSPC) log_fail(s->log, e, "index");
        if (e) return;
    }
    memcpy(f->buf + (f->entries - f->written) * size, entry, size);
    f->entries++;
    s->index_dirty = true;
}

static void add_time(struct segment *s) {
    if (s->max_ts <= s->time_last) return;
    uint8_t entry[TIMEINDEX_ENTRY];
    hf_put_be64(entry, (uint64_t)s->max_ts);
    hf_put_be32(entry + 8, (uint32_t)(s->max_ts_offset - s->base));
    add(s, &s->timeindex, entry);
    s->time_last = s->max_ts;
}

static void add_anchor(struct segment *s, const uint8_t *header, uint64_t pos) {
    uint64_t every = s->log->o.anchor_bytes;
    if (pos / every > s->anchor_pos / every) {
        uint8_t entry[ANCHOR_ENTRY];
        hf_put_be32(entry, (uint32_t)pos);
        hf_put_be32(entry + 4, s->chain);
        add(s, &s->anchors, entry);
        s->anchor_pos = pos;
    }
    s->chain = hf_crc32c(s->chain, header, BATCH_HEADER);
}

/* A batch was placed at pos, behind all others. */
void index_add(struct segment *s, const uint8_t *header, const struct batch_info *b, uint64_t pos,
               int64_t base) {
    int64_t last = base + b->last_offset_delta;
    add_anchor(s, header, pos);
    if (b->max_timestamp > s->max_ts) {
        s->max_ts = b->max_timestamp;
        s->max_ts_offset = last;
    }
    if (pos == 0) s->first_ts = b->max_timestamp;
    if (pos - s->indexed_pos <= INDEX_EVERY) return;
    uint8_t entry[INDEX_ENTRY];
    hf_put_be32(entry, (uint32_t)(last - s->base));
    hf_put_be32(entry + 4, (uint32_t)pos);
    add(s, &s->index, entry);
    add_time(s);
    s->indexed_pos = pos;
}

/* The segment is full, or the server stops: its largest timestamp becomes the last entry. */
void index_seal(struct segment *s) {
    add_time(s);
    enum hf_err e = index_flush(s);
    if (e) log_fail(s->log, e, "index");
}

/* Entries [lo, lo + n): of the file, then of what is not written yet. */
static enum hf_err entries_at(struct segment *s, struct index_file *f, uint32_t lo, uint32_t n,
                              uint8_t *out) {
    size_t size = size_of(s, f), got = 0;
    uint32_t filed = lo >= f->written ? 0 : n < f->written - lo ? n : f->written - lo;
    if (filed < n) memcpy(out + filed * size, f->buf + (lo + filed - f->written) * size, (n - filed) * size);
    if (filed == 0) return HF_OK;
    enum hf_err e = index_open(s, f, ENV_WRITE);
    if (!e) e = env_read(f->file, (uint64_t)lo * size, out, filed * size, &got);
    return !e && got < filed * size ? HF_ECORRUPT : e;
}

/* ---- what is on disk at start ---- */

static enum hf_err last_entries(struct segment *s) {
    uint8_t entry[TIMEINDEX_ENTRY];
    s->indexed_pos = s->anchor_pos = 0;
    s->time_last = -1;
    enum hf_err e = HF_OK;
    if (s->index.entries > 0) {
        e = entries_at(s, &s->index, s->index.entries - 1, 1, entry);
        if (!e) s->indexed_pos = hf_get_be32(entry + 4);
    }
    if (!e && s->anchors.entries > 0) {
        e = entries_at(s, &s->anchors, s->anchors.entries - 1, 1, entry);
        if (!e) s->anchor_pos = hf_get_be32(entry);
    }
    if (!e && s->timeindex.entries > 0) {
        e = entries_at(s, &s->timeindex, s->timeindex.entries - 1, 1, entry);
        if (e) return e;
        s->time_last = (int64_t)hf_get_be64(entry);
        if (s->time_last > s->max_ts) {
            s->max_ts = s->time_last;
            s->max_ts_offset = s->base + (int64_t)hf_get_be32(entry + 8);
        }
    }
    return e;
}

/* The checksum of the first n bytes; HF_ECORRUPT: there are fewer. */
static enum hf_err sum_file(struct hf_file *f, uint64_t n, uint32_t *crc) {
    enum { STEP = 64 << 10 };
    uint8_t *buf = n ? malloc(STEP) : NULL;
    uint32_t sum = 0;
    enum hf_err e = n && !buf ? HF_ENOMEM : HF_OK;
    for (uint64_t at = 0; !e && at < n;) {
        size_t part = n - at < STEP ? (size_t)(n - at) : STEP, got = 0;
        e = env_read(f, at, buf, part, &got);
        if (!e && got < part) e = HF_ECORRUPT;
        if (!e) sum = hf_crc32c(sum, buf, part);
        at += part;
    }
    free(buf);
    if (!e) *crc = sum;
    return e;
}

/* The file begins with what is wanted: HF_ECORRUPT if not. More may follow. */
static enum hf_err take_file(struct segment *s, struct index_file *f, const struct index_sum *want) {
    uint32_t crc = 0;
    enum hf_err e = index_open(s, f, ENV_WRITE);
    if (e == HF_ENOTFOUND) return want->entries ? HF_ECORRUPT : HF_OK;
    if (!e) e = sum_file(f->file, (uint64_t)want->entries * size_of(s, f), &crc);
    if (!e && crc != want->crc) e = HF_ECORRUPT;
    if (e) return e;
    f->entries = f->written = want->entries;
    f->crc = crc;
    return HF_OK;
}

static enum hf_err nothing_behind(struct segment *s, struct index_file *f) {
    uint64_t size = 0, expected = (uint64_t)f->written * size_of(s, f);
    if (f == &s->anchors && s->sealed) expected += MANIFEST_TRAILER;
    enum hf_err e = f->file ? env_size(f->file, &size) : HF_OK;
    return e || size <= expected ? e : HF_ECORRUPT;
}

/* Notes a file that is not what is wanted, and goes on with the others. */
static enum hf_err note_bad(enum hf_err e, int i, unsigned *bad) {
    if (e != HF_ECORRUPT) return e;
    *bad |= 1u << i;
    return HF_OK;
}

/* After a clean stop, or of a closed segment: the files are exactly what is wanted. *bad has a bit for each
 * that is not. */
enum hf_err index_load(struct segment *s, const struct index_sum want[INDEX_FILES], unsigned *bad) {
    enum hf_err e = HF_OK;
    *bad = 0;
    for (int i = 0; !e && i < INDEX_FILES; i++) {
        e = take_file(s, index_file_of(s, i), &want[i]);
        if (!e) e = nothing_behind(s, index_file_of(s, i));
        e = note_bad(e, i, bad);
    }
    return e || *bad ? e : last_entries(s);
}

static enum hf_err cut(struct segment *s, struct index_file *f, uint32_t entries) {
    uint64_t size = 0, keep = (uint64_t)entries * size_of(s, f);
    if (!f->file) return HF_OK;
    enum hf_err e = env_size(f->file, &size);
    if (!e && size > keep) e = env_truncate(f->file, keep);
    if (!e && f->written != entries) e = sum_file(f->file, keep, &f->crc);
    if (e) return e;
    f->entries = f->written = entries;
    f->unsynced = true;
    s->index_dirty = true;
    partition_mark_dirty(s->p);
    return HF_OK;
}

/* After a crash: what the checkpoint says, and nothing behind it. *bad has a bit for each file that does not
 * begin so. */
enum hf_err index_cut(struct segment *s, const struct index_sum want[INDEX_FILES], unsigned *bad) {
    enum hf_err e = HF_OK;
    *bad = 0;
    for (int i = 0; !e && i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        e = note_bad(take_file(s, f, &want[i]), i, bad);
        if (!e && !(*bad & 1u << i)) e = cut(s, f, want[i].entries);
    }
    return e || *bad ? e : last_entries(s);
}

/* Empties all three, to be made again by index_add from the first batch on. */
enum hf_err index_clear(struct segment *s) {
    enum hf_err e = HF_OK;
    for (int i = 0; !e && i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        e = index_open(s, f, ENV_WRITE);
        if (e == HF_ENOTFOUND) e = HF_OK;
        f->entries = f->written = 0;
        f->crc = 0;
        if (!e && f->file) e = env_truncate(f->file, 0);
        f->unsynced = f->file != NULL;
        if (f->file) s->index_dirty = true;
    }
    if (s->index_dirty) partition_mark_dirty(s->p);
    s->indexed_pos = s->anchor_pos = 0;
    s->max_ts = s->time_last = -1;
    s->max_ts_offset = s->base;
    s->chain = 0;
    return e;
}

/* They speak of other batches than those that must be here: without them one proof covers the whole segment.
 */
enum hf_err index_drop_anchors(struct segment *s) {
    s->anchor_pos = 0;
    s->anchors.entries = s->anchors.written; /* those in memory */
    return cut(s, &s->anchors, 0);
}

/* The first n entries, in file and memory, and their checksum. Without them (no memory, a disk that cannot be
 * read) a crash costs the index its entries so far. */
struct index_sum index_sum_at(struct segment *s, struct index_file *f, uint32_t n) {
    uint32_t crc = f->crc;
    enum hf_err e = HF_OK;
    size_t size = size_of(s, f);
    if (n > f->written)
        crc = hf_crc32c(crc, f->buf, (n - f->written) * size);
    else if (n < f->written)
        e = index_open(s, f, ENV_WRITE);
    if (!e && n < f->written) e = sum_file(f->file, (uint64_t)n * size, &crc);
    return e ? (struct index_sum){0, 0} : (struct index_sum){n, crc};
}

/* ---- look-ups ---- */

/* How many of the n entries, from the first on, are below. */
static uint32_t count_below(const uint8_t *entries, uint32_t n, size_t size,
                            bool (*below)(const uint8_t *, int64_t), int64_t key) {
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (below(entries + mid * size, key))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Entries [0, n) for which below(entry, key) holds come first; gives the last of those. HF_EEND: none. They
 * are looked at a page at a time, first around the guess. */
static enum hf_err search(struct segment *s, struct index_file *f, bool (*below)(const uint8_t *, int64_t),
                          int64_t key, uint64_t guess, uint8_t *out, uint32_t *behind) {
    uint8_t page[LOG_PAGE];
    size_t size = size_of(s, f);
    uint32_t lo = 0, hi = f->entries;
    bool found = false;
    while (lo < hi) {
        uint32_t n = hi - lo < sizeof page / size ? hi - lo : (uint32_t)(sizeof page / size);
        uint32_t from = guess < lo + n / 2 ? lo : guess - n / 2 > hi - n ? hi - n : (uint32_t)guess - n / 2;
        enum hf_err e = entries_at(s, f, from, n, page);
        if (e) return e;
        uint32_t k = count_below(page, n, size, below, key);
        if (k > 0) {
            memcpy(out, page + (k - 1) * size, size);
            found = true;
            lo = from + k;
        }
        if (k < n) hi = from + k;
        guess = lo + (hi - lo) / 2;
    }
    *behind = lo;
    return found ? HF_OK : HF_EEND;
}

static bool offset_at_most(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be32(entry) <= key;
}
static bool pos_at_most(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be32(entry + 4) <= key;
}
static bool anchor_at_most(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be32(entry) <= key;
}
static bool time_below(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be64(entry) < key;
}

/* The index's entry for a place that lies so far into the segment, if batches are alike. */
static uint64_t guess_at(const struct segment *s, uint64_t part, uint64_t whole) {
    return whole > 0 ? s->index.entries * part / whole : 0;
}

static enum hf_err find(struct segment *s, bool (*below)(const uint8_t *, int64_t), int64_t key,
                        uint64_t guess, uint64_t *pos) {
    uint8_t entry[INDEX_ENTRY];
    uint32_t behind;
    enum hf_err e = search(s, &s->index, below, key, guess, entry, &behind);
    if (e && e != HF_EEND) return e;
    uint64_t found = e ? 0 : hf_get_be32(entry + 4);
    *pos = found < s->size ? found : 0;
    return HF_OK;
}

/* A batch boundary at or before the batch that holds offset. */
enum hf_err index_find(struct segment *s, int64_t offset, uint64_t *pos) {
    enum hf_err e = segment_open(s);
    if (e) return e;
    int64_t key = offset - s->base, next = s->next ? s->next->base : s->p->end.offset;
    return find(s, offset_at_most, key, guess_at(s, (uint64_t)key, (uint64_t)(next - s->base)), pos);
}

/* A batch boundary at or before limit. */
enum hf_err index_find_pos(struct segment *s, uint64_t limit, uint64_t *pos) {
    enum hf_err e = segment_open(s);
    return e ? e : find(s, pos_at_most, (int64_t)limit, guess_at(s, limit, s->size), pos);
}

/* An offset at or before the first batch with a timestamp of at least ms. */
enum hf_err index_find_time(struct segment *s, int64_t ms, int64_t *offset) {
    enum hf_err e = segment_open(s);
    if (e) return e;
    uint8_t entry[TIMEINDEX_ENTRY];
    uint32_t behind;
    e = search(s, &s->timeindex, time_below, ms, s->timeindex.entries / 2, entry, &behind);
    if (e && e != HF_EEND) return e;
    *offset = e ? s->base : s->base + (int64_t)hf_get_be32(entry + 8);
    return HF_OK;
}

/* The stretch between two anchors that pos lies in, and its number; `last`: it goes to the end of the
 * segment, and only from is set. */
enum hf_err index_anchors(struct segment *s, uint64_t pos, uint32_t *number, struct anchor *from,
                          struct anchor *to, bool *last) {
    uint8_t entry[ANCHOR_ENTRY];
    enum hf_err e =
        search(s, &s->anchors, anchor_at_most, (int64_t)pos, pos / s->log->o.anchor_bytes, entry, number);
    if (e && e != HF_EEND) return e;
    *from = e ? (struct anchor){0, 0} : (struct anchor){hf_get_be32(entry), hf_get_be32(entry + 4)};
    *last = *number == s->anchors.entries;
    if (*last) return HF_OK;
    e = entries_at(s, &s->anchors, *number, 1, entry);
    *to = (struct anchor){hf_get_be32(entry), hf_get_be32(entry + 4)};
    return e;
}
