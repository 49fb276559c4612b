/* The two indexes of a segment, in Kafka's layout (docs/storage.md).
 *
 * They are hints that can be made again from the batches: an entry is added when at least 4096 bytes lie
 * between a batch and the last one indexed, for the batch's *last* offset, which is what Kafka's own tools
 * check. Missing entries cost a longer scan, so a full disk or a lack of memory just leaves them out. A few
 * entries are gathered in memory and written together; a sync of the partition writes them all. Look-ups
 * read the file: a binary search that ends in one read of a page, and most readers go on where the last one
 * left off (read.c).
 *
 * Invariant: entries ascend strictly, in offset and position, and in timestamp and offset. */
#include "log_internal.h"

#include <stdlib.h>

enum { BUFFERED = 32 };

static const char *ext_of(const struct segment *s, const struct index_file *f) {
    return f == &s->index ? "index" : "timeindex";
}

static size_t size_of(const struct segment *s, const struct index_file *f) {
    return f == &s->index ? INDEX_ENTRY : TIMEINDEX_ENTRY;
}

/* ---- files ---- */

static enum hf_err open_file(struct segment *s, struct index_file *f, unsigned flags) {
    if (f->file) return HF_OK;
    char path[LOG_PATH];
    segment_path(s, ext_of(s, f), path);
    return env_open(s->log->env, path, flags, &f->file);
}

static enum hf_err write_out(struct segment *s, struct index_file *f) {
    uint32_t n = f->entries - f->written;
    if (n == 0) return HF_OK;
    enum hf_err e = open_file(s, f, ENV_WRITE);
    if (e == HF_ENOTFOUND) {
        e = open_file(s, f, ENV_CREATE);
        s->p->dirty_dir = true;
    }
    size_t size = size_of(s, f);
    if (!e) e = env_write(f->file, (uint64_t)f->written * size, f->buf, n * size);
    if (e) return e;
    f->written = f->entries;
    s->index_dirty = true;
    partition_mark_dirty(s->p);
    return HF_OK;
}

/* HF_ENOSPC leaves the entries in memory: they are written later or made again. */
enum hf_err index_flush(struct segment *s) {
    enum hf_err e = write_out(s, &s->index);
    if (!e || e == HF_ENOSPC) e = write_out(s, &s->timeindex);
    return e == HF_ENOSPC ? HF_OK : e;
}

void index_close(struct segment *s) {
    struct index_file *files[] = {&s->index, &s->timeindex};
    for (int i = 0; i < 2; i++) {
        if (files[i]->file) env_close(files[i]->file);
        files[i]->file = NULL;
        free(files[i]->buf);
        files[i]->buf = NULL;
        files[i]->entries = files[i]->written;
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

/* A batch was placed at pos. */
void index_add(struct segment *s, const struct batch_info *b, uint64_t pos, int64_t base) {
    int64_t last = base + b->last_offset_delta;
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

static enum hf_err entry_at(struct segment *s, struct index_file *f, uint32_t i, uint8_t *out) {
    size_t size = size_of(s, f);
    if (i >= f->written) {
        memcpy(out, f->buf + (i - f->written) * size, size);
        return HF_OK;
    }
    enum hf_err e = open_file(s, f, ENV_WRITE);
    size_t got = 0;
    if (!e) e = env_read(f->file, (uint64_t)i * size, out, size, &got);
    if (!e && got < size) e = HF_ECORRUPT;
    return e;
}

/* ---- what is on disk at start ---- */

static enum hf_err count(struct segment *s, struct index_file *f) {
    enum hf_err e = open_file(s, f, ENV_WRITE);
    uint64_t size = 0;
    if (!e) e = env_size(f->file, &size);
    if (e == HF_ENOTFOUND) e = HF_OK;
    if (!e) f->entries = f->written = (uint32_t)(size / size_of(s, f));
    return e;
}

static enum hf_err last_entries(struct segment *s) {
    uint8_t entry[TIMEINDEX_ENTRY];
    s->indexed_pos = 0;
    s->time_last = -1;
    enum hf_err e = HF_OK;
    if (s->index.entries > 0) {
        e = entry_at(s, &s->index, s->index.entries - 1, entry);
        if (!e) s->indexed_pos = hf_get_be32(entry + 4);
    }
    if (!e && s->timeindex.entries > 0) {
        e = entry_at(s, &s->timeindex, s->timeindex.entries - 1, entry);
        if (e) return e;
        s->time_last = (int64_t)hf_get_be64(entry);
        if (s->time_last > s->max_ts) {
            s->max_ts = s->time_last;
            s->max_ts_offset = s->base + (int64_t)hf_get_be32(entry + 8);
        }
    }
    return e;
}

enum hf_err index_load(struct segment *s) {
    enum hf_err e = count(s, &s->index);
    if (!e) e = count(s, &s->timeindex);
    if (!e) e = last_entries(s);
    return e;
}

static enum hf_err cut(struct segment *s, struct index_file *f, uint32_t entries) {
    if (!f->file || f->entries <= entries) return HF_OK;
    f->entries = f->written = entries;
    s->index_dirty = true;
    return env_truncate(f->file, (uint64_t)entries * size_of(s, f));
}

/* After a crash: only the first entries were synced by the checkpoint; those among them that speak of batches
 * at or behind the segment's size, or offsets from `next` on, belonged to reserved room. */
enum hf_err index_cut(struct segment *s, uint32_t entries, uint32_t time_entries, int64_t next) {
    enum hf_err e = count(s, &s->index);
    if (!e) e = count(s, &s->timeindex);
    if (!e) e = cut(s, &s->index, entries);
    if (!e) e = cut(s, &s->timeindex, time_entries);
    uint8_t entry[TIMEINDEX_ENTRY];
    while (!e && s->index.entries > 0) {
        e = entry_at(s, &s->index, s->index.entries - 1, entry);
        if (e || hf_get_be32(entry + 4) < s->size) break;
        e = cut(s, &s->index, s->index.entries - 1);
    }
    while (!e && s->timeindex.entries > 0) {
        e = entry_at(s, &s->timeindex, s->timeindex.entries - 1, entry);
        if (e || s->base + (int64_t)hf_get_be32(entry + 8) < next) break;
        e = cut(s, &s->timeindex, s->timeindex.entries - 1);
    }
    if (s->max_ts_offset >= next) s->max_ts = -1; /* of a batch that is not there; the timeindex knows */
    if (!e) e = last_entries(s);
    return e;
}

/* ---- look-ups ---- */

/* Entries [lo, lo + n) of the file, all of them written. */
static enum hf_err entries_at(struct segment *s, struct index_file *f, uint32_t lo, uint32_t n,
                              uint8_t *out) {
    size_t size = size_of(s, f), got = 0;
    enum hf_err e = open_file(s, f, ENV_WRITE);
    if (!e) e = env_read(f->file, (uint64_t)lo * size, out, n * size, &got);
    return !e && got < n * size ? HF_ECORRUPT : e;
}

/* Entries [0, n) for which below(entry, key) holds come first; gives the last of those. HF_EEND: none. The
 * last steps of the search are made in memory. */
static enum hf_err search(struct segment *s, struct index_file *f, bool (*below)(const uint8_t *, int64_t),
                          int64_t key, uint8_t *out) {
    uint32_t lo = 0, hi = f->entries, from = 0, loaded = 0;
    uint8_t entry[TIMEINDEX_ENTRY], page[LOG_PAGE];
    size_t size = size_of(s, f);
    bool found = false;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        enum hf_err e = HF_OK;
        if (loaded == 0 && hi <= f->written && (hi - lo) * size <= sizeof page) {
            from = lo;
            loaded = hi - lo;
            e = entries_at(s, f, from, loaded, page);
        }
        if (!e && loaded > 0)
            memcpy(entry, page + (mid - from) * size, size);
        else if (!e)
            e = entry_at(s, f, mid, entry);
        if (e) return e;
        if (below(entry, key)) {
            memcpy(out, entry, size);
            found = true;
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return found ? HF_OK : HF_EEND;
}

static bool offset_at_most(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be32(entry) <= key;
}
static bool pos_at_most(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be32(entry + 4) <= key;
}
static bool time_below(const uint8_t *entry, int64_t key) {
    return (int64_t)hf_get_be64(entry) < key;
}

static enum hf_err find(struct segment *s, bool (*below)(const uint8_t *, int64_t), int64_t key,
                        uint64_t *pos) {
    enum hf_err e = segment_open(s);
    if (e) return e;
    uint8_t entry[TIMEINDEX_ENTRY];
    e = search(s, &s->index, below, key, entry);
    if (e && e != HF_EEND) return e;
    uint64_t found = e ? 0 : hf_get_be32(entry + 4);
    *pos = found < s->size ? found : 0;
    return HF_OK;
}

/* A batch boundary at or before the batch that holds offset. */
enum hf_err index_find(struct segment *s, int64_t offset, uint64_t *pos) {
    return find(s, offset_at_most, offset - s->base, pos);
}

/* A batch boundary at or before limit. */
enum hf_err index_find_pos(struct segment *s, uint64_t limit, uint64_t *pos) {
    return find(s, pos_at_most, (int64_t)limit, pos);
}

/* An offset at or before the first batch with a timestamp of at least ms. */
enum hf_err index_find_time(struct segment *s, int64_t ms, int64_t *offset) {
    enum hf_err e = segment_open(s);
    if (e) return e;
    uint8_t entry[TIMEINDEX_ENTRY];
    e = search(s, &s->timeindex, time_below, ms, entry);
    if (e && e != HF_EEND) return e;
    *offset = e ? s->base : s->base + (int64_t)hf_get_be32(entry + 8);
    return HF_OK;
}
