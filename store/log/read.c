/* Reading: from an offset to a range of bytes in a file, and the look-ups of ListOffsets.
 *
 * A reader goes on where it left off: two places a partition are remembered, so most reads need no index.
 * Otherwise the index gives a batch boundary at most some 4 KiB away, and headers are walked from there. What
 * comes out is a range of whole batches below the high watermark, in one segment; the pin keeps its file. */
#include "log_internal.h"

#include <stdlib.h>

enum { ITER_MAX = 64 << 20 };

/* The header of the batch at pos, which ends at limit or before. HF_EEND: it does not. */
enum hf_err read_header(struct segment *s, uint64_t pos, uint64_t limit, struct batch_info *out) {
    uint8_t head[BATCH_HEADER];
    if (pos + BATCH_HEADER > limit) return HF_EEND;
    enum hf_err e = segment_read(s, pos, head, sizeof head);
    return e ? e : batch_parse(head, (size_t)(limit - pos), out);
}

/* The same for readers: of bytes that are proven [L19]. */
static enum hf_err proven_header(struct segment *s, uint64_t pos, uint64_t limit, struct batch_info *out) {
    enum hf_err e = proof_at(s, pos);
    if (e) return e;
    e = read_header(s, pos, limit, out);
    if (e != HF_EEND && e != HF_ECORRUPT) return e;
    damage_in(s, pos, -1, "no batch begins here");
    return HF_ECORRUPT;
}

/* Where batches of this segment that may be seen end. */
static uint64_t visible(const struct log_partition *p, const struct segment *s) {
    return s == p->high.seg ? p->high.pos : s->base < p->high.seg->base ? s->size : 0;
}

static struct segment *segment_of(struct log_partition *p, int64_t offset) {
    struct segment *s = p->segments->prev;
    while (s != p->segments && s->base > offset) s = s->prev;
    return s;
}

static bool from_hint(struct log_partition *p, int64_t offset, struct place *out) {
    for (int i = 0; i < 2; i++) {
        if (!p->hint[i].seg || p->hint[i].offset != offset) continue;
        *out = p->hint[i];
        return true;
    }
    return false;
}

static void leave_hint(struct log_partition *p, struct place at) {
    p->hint[1] = p->hint[0];
    p->hint[0] = at;
}

/* The batch that holds offset, or the next one behind a gap. HF_EEND: none that may be seen. */
static enum hf_err locate(struct log_partition *p, int64_t offset, struct place *out, struct batch_info *b) {
    struct place at = {0};
    enum hf_err e = HF_OK;
    if (!from_hint(p, offset, &at)) {
        at.seg = segment_of(p, offset);
        if (at.seg->base > offset) return HF_ECORRUPT; /* the first one is missing: told at start */
        e = segment_open(at.seg);
        if (!e) e = index_find(at.seg, offset, &at.pos);
        if (e) return e;
    }
    for (;;) {
        e = segment_open(at.seg);
        if (e) return e;
        uint64_t limit = visible(p, at.seg);
        if (at.pos >= limit) {
            if (at.seg == p->high.seg || !at.seg->next) return HF_EEND;
            if (proof_hole(at.seg)) return HF_ECORRUPT;
            at = (struct place){at.seg->next, 0, 0};
            continue;
        }
        e = proven_header(at.seg, at.pos, limit, b);
        if (e) return e;
        if (b->base_offset + b->last_offset_delta >= offset) break;
        at.pos += b->size;
    }
    at.offset = b->base_offset;
    *out = at;
    return HF_OK;
}

/* The last boundary at or before `most`, walking from a boundary at or before it. */
static enum hf_err last_boundary(struct segment *s, uint64_t from, uint64_t most, uint64_t limit,
                                 uint64_t *end, int64_t *next) {
    uint64_t pos;
    enum hf_err e = index_find_pos(s, most, &pos);
    if (e) return e;
    if (pos < from) pos = from;
    while (pos < limit) {
        struct batch_info b;
        e = proven_header(s, pos, limit, &b);
        if (e == HF_ECORRUPT && pos > from) break; /* what is in front of it can be given */
        if (e) return e;
        if (pos + b.size > most) {
            if (*next < 0) *next = b.base_offset;
            break;
        }
        pos += b.size;
        *next = b.base_offset + b.last_offset_delta + 1;
    }
    *end = pos;
    return HF_OK;
}

static void give(struct log_partition *p, struct place at, uint64_t end, int64_t next,
                 struct log_slice *out) {
    at.seg->pin.count++;
    *out = (struct log_slice){
        .file = at.seg->file,
        .position = at.pos,
        .size = (size_t)(end - at.pos),
        .first_offset = at.offset,
        .pin = &at.seg->pin,
    };
    if (next >= 0) leave_hint(p, (struct place){at.seg, end, next});
}

enum hf_err log_read(struct log *l, struct log_partition *p, int64_t offset, size_t max_bytes, bool min_one,
                     struct log_slice *out) {
    if (p->gone) return HF_ENOTFOUND;
    if (l->gathered.s && l->gathered.s->p == p) gathered_write(l);
    if (l->failed) return l->failed;
    if (offset < p->start || offset > p->end.offset) return HF_ERANGE;
    struct place at = {0};
    struct batch_info b;
    enum hf_err e = offset >= p->high.offset ? HF_EEND : locate(p, offset, &at, &b);
    if (e == HF_EEND || (!e && b.size > max_bytes && !min_one)) {
        *out = (struct log_slice){.first_offset = offset};
        return HF_OK;
    }
    if (e) return e;
    uint64_t limit = visible(p, at.seg), end = limit;
    int64_t next = at.seg == p->high.seg ? p->high.offset : -1;
    if (b.size >= max_bytes) {
        end = at.pos + b.size;
        next = b.base_offset + b.last_offset_delta + 1;
    } else if (limit - at.pos > max_bytes) {
        next = -1;
        e = last_boundary(at.seg, at.pos, at.pos + max_bytes, limit, &end, &next);
        if (e) return e;
    }
    uint64_t good = end;
    e = proof_range(at.seg, at.pos, end, &good);
    if (e) return e;
    if (good < end) next = -1; /* damage ahead; it begins at a batch */
    give(p, at, good, next, out);
    return HF_OK;
}

void log_bounds(struct log_partition *p, struct log_bounds *out) {
    *out = (struct log_bounds){
        .start = p->start,
        .high = p->high.offset,
        .stable = p->high.offset,
        .end = p->end.offset,
        .leader_epoch = partition_epoch(p),
    };
}

uint64_t log_partition_bytes(struct log_partition *p) {
    uint64_t bytes = 0;
    for (struct segment *s = p->segments; s; s = s->next)
        if (s->sized || !segment_open(s)) bytes += s->size;
    return bytes;
}

/* ---- by time: the timeindex says where to begin, never that there is nothing: entries may be missing ----
 */

static enum hf_err read_batch(struct segment *s, uint64_t pos, const struct batch_info *b,
                              struct hf_buf *out) {
    hf_buf_reset(out);
    uint8_t *bytes = hf_buf_room(out, b->size);
    if (!bytes) return HF_ENOMEM;
    enum hf_err e = segment_read(s, pos, bytes, b->size);
    if (e) return e;
    if (batch_crc_ok(bytes, b)) return HF_OK;
    damage_in(s, pos, b->base_offset, "the batch does not match its checksum");
    return HF_ECORRUPT;
}

/* The first record of the batch that `fits`: with a timestamp of at least ms, at or above the start. */
static enum hf_err first_record(struct log_partition *p, struct segment *s, uint64_t pos,
                                const struct batch_info *b, int64_t ms, int64_t *offset, int64_t *timestamp) {
    struct hf_buf buf;
    struct batch_iter *it = NULL;
    struct batch_record r;
    hf_buf_init(&buf, LOG_SEGMENT_MAX);
    enum hf_err e = read_batch(s, pos, b, &buf);
    if (!e) e = batch_iter_open(ITER_MAX, &it);
    if (!e) e = batch_iter_begin(it, buf.p, b);
    while (!e && !(e = batch_iter_next(it, &r))) {
        int64_t at = b->base_offset + r.offset_delta;
        if (r.timestamp_ms < ms || at < p->start) continue;
        *offset = at;
        *timestamp = r.timestamp_ms;
        break;
    }
    batch_iter_close(it);
    hf_buf_fini(&buf);
    return e;
}

static enum hf_err search_segment(struct log_partition *p, struct segment *s, int64_t ms, int64_t *offset,
                                  int64_t *timestamp) {
    uint64_t limit = visible(p, s), pos = 0;
    int64_t from;
    enum hf_err e = segment_open(s);
    if (!e) e = index_find_time(s, ms, &from);
    if (!e) e = index_find(s, from, &pos);
    while (!e && pos < limit) {
        struct batch_info b;
        e = proven_header(s, pos, limit, &b);
        if (e) return e;
        if (b.max_timestamp >= ms && b.base_offset + b.last_offset_delta >= p->start) {
            e = first_record(p, s, pos, &b, ms, offset, timestamp);
            if (e != HF_EEND) return e;
            e = HF_OK;
        }
        pos += b.size;
    }
    return e ? e : proof_hole(s) ? HF_ECORRUPT : HF_EEND;
}

enum hf_err log_offset_at(struct log *l, struct log_partition *p, int64_t ms, int64_t *offset,
                          int64_t *timestamp) {
    if (l->failed) return l->failed;
    for (struct segment *s = p->segments; s; s = s->next) {
        enum hf_err e = search_segment(p, s, ms, offset, timestamp);
        if (e != HF_EEND) return e;
    }
    return HF_EEND;
}

/* Batches from the largest-looking segment down to what is seen: the first record of the largest time. */
enum hf_err log_offset_max_time(struct log *l, struct log_partition *p, int64_t *offset, int64_t *timestamp) {
    if (l->failed) return l->failed;
    int64_t most = -1;
    for (struct segment *s = p->segments; s; s = s->next) {
        enum hf_err e = segment_open(s);
        if (e) return e;
        uint64_t limit = visible(p, s), pos = 0;
        int64_t from = s->base;
        if (s->sealed && s->timeindex.entries > 0) e = index_find_time(s, s->max_ts, &from);
        if (!e) e = index_find(s, from, &pos);
        if (e) return e;
        while (pos < limit) {
            struct batch_info b;
            e = proven_header(s, pos, limit, &b);
            if (e) return e;
            if (b.max_timestamp > most && b.base_offset + b.last_offset_delta >= p->start)
                most = b.max_timestamp;
            pos += b.size;
        }
    }
    return most < 0 ? HF_EEND : log_offset_at(l, p, most, offset, timestamp);
}

/* ---- epochs ---- */

int32_t log_epoch_at(const struct log_partition *p, int64_t offset) {
    return partition_epoch_at(p, offset);
}

enum hf_err log_epoch_end(struct log_partition *p, int32_t epoch, int32_t *found, int64_t *end) {
    if (epoch < 0 || epoch > partition_epoch(p)) return HF_EEND;
    if (epoch < p->epochs[0].epoch) {
        *found = epoch;
        *end = p->epochs[0].start;
        return HF_OK;
    }
    for (size_t i = p->epoch_count; i-- > 0;) {
        if (p->epochs[i].epoch > epoch) continue;
        *found = p->epochs[i].epoch;
        *end = i + 1 < p->epoch_count ? p->epochs[i + 1].start : p->end.offset;
        return HF_OK;
    }
    return HF_EEND;
}
