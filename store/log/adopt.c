/* A partition folder that another Kafka broker wrote is taken in: its records, at their offsets.
 *
 * The batches are what both logs have in common, so they are copied one by one behind the end of an empty
 * partition, as recovery and compaction do: checked first, written as they are but for the leader epoch,
 * which is this log's own and under no checksum. Indexes and manifests are made anew. The producers' table
 * stays empty: ids of another cluster mean nothing here, where the same numbers are given to others. Two
 * passes, so that a damaged folder is refused before anything is taken:
 *
 *     LOOK   every batch: form, checksum, offsets that ascend; the ends of transactions are noted
 *     TAKE   every batch again, if it is of no transaction or of a committed one
 *
 * What is not taken: batches of transactions that were aborted or never ended, and the markers themselves:
 * readers here are told of no aborted ones. Offsets left out, here or there, stay left out: within a segment
 * its manifest counts them, and the active segment has none, so the last one is closed if it has (recovery
 * goes by offsets that follow).
 *
 * A crash in the middle leaves a part of it, as of any producer that was not answered. So the caller stops
 * the log cleanly after it, and that is the moment from which all is durable. The folder is only read. */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    STEP_EVERY = 8 << 20, /* bytes after which the log may sync and checkpoint */
    FILES_MAX = 1 << 20,
    CONTROL_BYTES = 1 << 16, /* a control record is small */
    CONTROL_COMMIT = 1,
};

struct marker {
    int64_t producer, offset;
    bool commit;
};

struct adoption {
    struct log_partition *p;
    struct hf_env *folder;
    struct log_adopted *out;
    int64_t *bases;
    size_t count, cap;
    struct marker *markers; /* sorted by producer, then offset */
    size_t marker_count, marker_cap;
    struct batch_iter *iter;
    uint8_t *bytes; /* the batch at hand */
    size_t room;
    int64_t next; /* LOOK: no batch may begin below it */
    uint64_t since_step;
};

/* ---- the files ---- */

static bool grow(void **row, size_t *cap, size_t count, size_t each) {
    if (count < *cap) return true;
    size_t more = *cap ? *cap * 2 : 64;
    void *grown = more <= FILES_MAX * (size_t)64 ? realloc(*row, more * each) : NULL;
    if (!grown) return false;
    *row = grown;
    *cap = more;
    return true;
}

static bool note_file(void *arg, const char *name) {
    struct adoption *a = arg;
    long long base;
    int n = 0;
    if (strlen(name) != 24 || sscanf(name, "%20lld.log%n", &base, &n) != 1 || n != 24) return true;
    if (!grow((void **)&a->bases, &a->cap, a->count, sizeof *a->bases)) return false;
    a->bases[a->count++] = base; /* names come sorted */
    return true;
}

static enum hf_err wrong(struct adoption *a, uint64_t byte, const char *why) {
    a->out->byte = byte;
    a->out->why = why;
    return HF_ECORRUPT;
}

static bool is_zero(const uint8_t *p, size_t n) {
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* The batch at pos, whole, in a->bytes. HF_EEND: no more; a broker that did not stop cleanly leaves zeros. */
static enum hf_err read_batch(struct adoption *a, struct hf_file *f, uint64_t pos, uint64_t size,
                              struct batch_info *b) {
    uint8_t head[BATCH_HEADER];
    size_t got;
    if (pos == size) return HF_EEND;
    enum hf_err e = env_read(f, pos, head, sizeof head, &got);
    if (e) return e;
    if (is_zero(head, got)) return HF_EEND;
    if (got < sizeof head) return wrong(a, pos, "no batch fits in here");
    e = batch_parse(head, (size_t)(size - pos), b);
    if (e == HF_EEND) return wrong(a, pos, "a batch that is longer than the file");
    if (e) return wrong(a, pos, "no batch begins here, or one of a format older than Kafka 0.11");
    if (b->size > a->room) {
        uint8_t *grown = realloc(a->bytes, b->size);
        if (!grown) return HF_ENOMEM;
        a->bytes = grown;
        a->room = b->size;
    }
    e = env_read(f, pos, a->bytes, b->size, &got);
    if (e) return e;
    return got == b->size && batch_crc_ok(a->bytes, b)
               ? HF_OK
               : wrong(a, pos, "the batch does not match its checksum");
}

static enum hf_err each_of_file(struct adoption *a, const char *name,
                                enum hf_err (*fn)(struct adoption *a, uint64_t pos, struct batch_info *b)) {
    struct hf_file *f;
    uint64_t size, pos = 0;
    enum hf_err e = env_open(a->folder, name, ENV_READ, &f);
    if (e) return e;
    e = env_size(f, &size);
    while (!e) {
        struct batch_info b;
        e = read_batch(a, f, pos, size, &b);
        if (!e) e = fn(a, pos, &b);
        if (!e) pos += b.size;
    }
    env_close(f);
    return e == HF_EEND ? HF_OK : e;
}

static enum hf_err each_batch(struct adoption *a,
                              enum hf_err (*fn)(struct adoption *a, uint64_t pos, struct batch_info *b)) {
    enum hf_err e = HF_OK;
    for (size_t i = 0; !e && i < a->count; i++) {
        snprintf(a->out->file, sizeof a->out->file, "%020lld.log", (long long)a->bases[i]);
        e = each_of_file(a, a->out->file, fn);
    }
    return e;
}

/* ---- LOOK ---- */

static int by_producer(const void *x, const void *y) {
    const struct marker *a = x, *b = y;
    if (a->producer != b->producer) return a->producer < b->producer ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* The one record of a control batch: its key is a version int16 and a type int16, 0 abort, 1 commit. */
static enum hf_err note_marker(struct adoption *a, uint64_t pos, const struct batch_info *b) {
    struct batch_record r;
    enum hf_err e = batch_iter_begin(a->iter, a->bytes, b);
    if (!e) e = batch_iter_next(a->iter, &r);
    if (e || r.key.n < 4) return wrong(a, pos, "a control batch without a type");
    if (!grow((void **)&a->markers, &a->marker_cap, a->marker_count, sizeof *a->markers)) return HF_ENOMEM;
    a->markers[a->marker_count++] =
        (struct marker){b->producer_id, b->base_offset, hf_get_be16(r.key.p + 2) == CONTROL_COMMIT};
    return HF_OK;
}

static enum hf_err look(struct adoption *a, uint64_t pos, struct batch_info *b) {
    if (b->base_offset < a->next) return wrong(a, pos, "the offset does not follow the one before");
    if (b->size > LOG_SEGMENT_MAX / 2) return wrong(a, pos, "a batch larger than 1 GiB");
    a->next = b->base_offset + b->last_offset_delta + 1;
    return b->attributes & BATCH_ATTR_CONTROL ? note_marker(a, pos, b) : HF_OK;
}

/* ---- TAKE ---- */

/* The transaction that this batch is of has been committed: the first marker behind it says so. */
static bool committed(const struct adoption *a, const struct batch_info *b) {
    size_t lo = 0, hi = a->marker_count;
    struct marker key = {b->producer_id, b->base_offset, false};
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (by_producer(&a->markers[mid], &key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < a->marker_count && a->markers[lo].producer == b->producer_id && a->markers[lo].commit;
}

static bool is_taken(const struct adoption *a, const struct batch_info *b) {
    if (b->attributes & BATCH_ATTR_CONTROL) return false;
    return !(b->attributes & BATCH_ATTR_TRANSACTIONAL) || committed(a, b);
}

/* The first batch lies far from the offset where the empty partition ends: a segment begins there. */
static enum hf_err begin_at(struct log_partition *p, int64_t offset) {
    struct segment *old = partition_active(p), *s;
    enum hf_err e = segment_create(p, offset, 0, &s);
    if (!e) e = segment_seal(old, p->end.offset);
    if (e) return e;
    p->end = p->journaled = p->durable = p->high = p->synced = (struct place){s, 0, offset};
    p->start = offset;
    return HF_OK;
}

/* Lets syncs and checkpoints go on. */
static enum hf_err breathe(struct adoption *a, size_t n) {
    struct log *l = a->p->log;
    a->since_step += n;
    if (a->since_step < STEP_EVERY) return HF_OK;
    a->since_step = 0;
    (void)log_step(l);
    (void)env_wait(l->env);
    return l->failed;
}

static enum hf_err take(struct adoption *a, uint64_t pos, struct batch_info *b) {
    struct log_partition *p = a->p;
    (void)pos;
    if (!is_taken(a, b)) {
        a->out->left_out++;
        return HF_OK;
    }
    enum hf_err e = HF_OK;
    if (a->out->batches == 0 && b->base_offset > p->end.offset) e = begin_at(p, b->base_offset);
    bool gap = b->base_offset != p->end.offset;
    p->end.offset = b->base_offset;
    if (!e) e = partition_room(p, b->size, (int64_t)b->last_offset_delta + 1);
    if (e) return e;
    struct segment *s = p->end.seg;
    if (gap && s->base != b->base_offset) s->gaps++;
    batch_set_place(a->bytes, b->base_offset, partition_epoch(p));
    e = segment_write(s, p->end.pos, a->bytes, b->size);
    if (e) log_fail(p->log, e, "write of a segment");
    partition_took(p, a->bytes, b, b->base_offset + b->last_offset_delta);
    partition_settle(p);
    a->out->batches++;
    a->out->records += (uint64_t)b->record_count;
    a->out->bytes += b->size;
    return breathe(a, b->size);
}

/* The end is where it was, though what lay in front of it may have been left out. */
static enum hf_err end_at(struct log_partition *p, int64_t next, bool taken) {
    if (!taken) return next > p->end.offset ? begin_at(p, next) : HF_OK;
    bool gap = next > p->end.offset;
    p->end.offset = next;
    enum hf_err e = gap || partition_active(p)->gaps > 0 ? partition_roll(p) : HF_OK;
    partition_settle(p);
    return e;
}

static bool is_empty(const struct log_partition *p) {
    return p->topic->phase == TOPIC_LIVE && !p->topic->config.internal && p->end.offset == 0 &&
           p->start == 0 && !p->fifo && !p->parts;
}

static void free_adoption(struct adoption *a) {
    batch_iter_close(a->iter);
    free(a->bases);
    free(a->markers);
    free(a->bytes);
}

enum hf_err log_adopt(struct log *l, struct log_partition *p, struct hf_env *folder,
                      struct log_adopted *out) {
    struct adoption a = {.p = p, .folder = folder, .out = out};
    *out = (struct log_adopted){0};
    if (l->failed) return l->failed;
    if (!is_empty(p)) return HF_EEXIST;
    enum hf_err e = batch_iter_open(CONTROL_BYTES, &a.iter);
    if (!e) e = env_list(folder, ".", note_file, &a);
    if (!e && a.count == 0) e = HF_ENOTFOUND;
    if (!e) e = each_batch(&a, look);
    if (!e && a.marker_count > 0) qsort(a.markers, a.marker_count, sizeof *a.markers, by_producer);
    if (!e) e = each_batch(&a, take);
    if (!e) e = end_at(p, a.next, out->batches > 0);
    free_adoption(&a);
    out->start = p->start;
    out->end = p->end.offset;
    return e ? e : l->failed;
}
