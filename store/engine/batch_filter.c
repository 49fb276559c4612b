/* A batch with some of its records, at the same offsets: what compaction leaves.
 *
 * The header stays but for counts, lengths and checksum: base offset and last offset delta are those of the
 * original, so the offsets that are gone stay gaps, and an idempotent producer's sequence numbers still
 * follow from it. A batch that must stay though all its records go is left as a header alone, as Kafka
 * leaves it.
 *
 * A record without a value deletes its key and must itself go one day. When that day is, is written down when
 * compaction first meets it, as Kafka does (KIP-534): attribute bit 6 says that baseTimestamp holds the time
 * from which such records of the batch may go; the deltas of the records are changed with it, so that their
 * timestamps stay.
 *
 * Records are decided once, in a first walk; a second one writes those that stay. */
#include "batch.h"

#include "base/crc32c.h"
#include "compress.h"

#include <assert.h>
#include <stdlib.h>

enum { AT_CRC = 17, AT_ATTRIBUTES = 21, AT_BASE_TIME = 27, AT_MAX_TIME = 35, AT_COUNT = 57 };

struct batch_filter {
    struct batch_iter *it;
    struct hf_buf stays; /* a byte for each record */
    struct hf_buf plain; /* records that stay, not compressed */
    struct hf_buf body;  /* of one record */
};

enum hf_err batch_filter_open(size_t records_max, struct batch_filter **out) {
    struct batch_filter *f = calloc(1, sizeof *f);
    if (!f) return HF_ENOMEM;
    enum hf_err e = batch_iter_open(records_max, &f->it);
    if (e) {
        free(f);
        return e;
    }
    hf_buf_init(&f->stays, records_max);
    hf_buf_init(&f->plain, records_max * 2); /* other deltas of time may take more bytes */
    hf_buf_init(&f->body, records_max * 2);
    *out = f;
    return HF_OK;
}

void batch_filter_close(struct batch_filter *f) {
    if (!f) return;
    batch_iter_close(f->it);
    hf_buf_fini(&f->stays);
    hf_buf_fini(&f->plain);
    hf_buf_fini(&f->body);
    free(f);
}

struct decided {
    int32_t count;    /* of those that stay */
    bool deletes;     /* one of them has a key and no value */
    int64_t time_max; /* of those */
};

static enum hf_err decide(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                          batch_keep *keep, void *arg, struct decided *out) {
    struct batch_record r;
    *out = (struct decided){.time_max = -1};
    hf_buf_reset(&f->stays);
    enum hf_err e = batch_iter_begin(f->it, p, b);
    while (!e && !(e = batch_iter_next(f->it, &r))) {
        bool stays = keep(arg, b, &r);
        hf_buf_u8(&f->stays, stays);
        if (!stays) continue;
        out->count++;
        out->deletes = out->deletes || (r.key.p && !r.value.p);
        if (r.timestamp_ms > out->time_max) out->time_max = r.timestamp_ms;
    }
    return e == HF_EEND ? hf_buf_failed(&f->stays) : e;
}

enum hf_err batch_filter_look(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                              batch_keep *keep, void *arg) {
    struct decided d;
    return decide(f, p, b, keep, arg, &d);
}

static void put_string(struct hf_buf *b, hf_str s) {
    hf_buf_varint(b, s.p ? (int64_t)s.n : -1);
    if (s.p) hf_buf_str(b, s);
}

static void put_record(struct batch_filter *f, const struct batch_record *r, int64_t time_delta) {
    struct hf_buf *b = &f->body;
    hf_buf_reset(b);
    hf_buf_u8(b, 0); /* attributes */
    hf_buf_varint(b, time_delta);
    hf_buf_varint(b, r->offset_delta);
    put_string(b, r->key);
    put_string(b, r->value);
    hf_buf_varint(b, (int64_t)r->header_count);
    for (size_t i = 0; i < r->header_count; i++) {
        put_string(b, r->headers[i].key);
        put_string(b, r->headers[i].value);
    }
    hf_buf_varint(&f->plain, (int64_t)b->n);
    hf_buf_str(&f->plain, hf_buf_view(b));
}

static enum hf_err write_records(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                                 int64_t base_time) {
    struct batch_record r;
    size_t i = 0;
    hf_buf_reset(&f->plain);
    enum hf_err e = batch_iter_begin(f->it, p, b);
    while (!e && !(e = batch_iter_next(f->it, &r))) {
        if (!f->stays.p[i++]) continue;
        bool appended = b->attributes & BATCH_ATTR_APPEND_TIME;
        put_record(f, &r, appended ? 0 : (int64_t)((uint64_t)r.timestamp_ms - (uint64_t)base_time));
        if (hf_buf_failed(&f->body)) return hf_buf_failed(&f->body);
    }
    return e == HF_EEND ? hf_buf_failed(&f->plain) : e;
}

/* The original's header and the records, compressed as they were. */
static enum hf_err write_batch(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                               const struct decided *d, int64_t base_time, bool horizon, struct hf_buf *out) {
    size_t from = out->n;
    hf_buf_put(out, p, BATCH_HEADER);
    enum hf_err e = hf_buf_failed(out);
    if (!e && d->count > 0) e = hf_compress(b->attributes & BATCH_ATTR_CODEC, hf_buf_view(&f->plain), out);
    if (e) {
        out->n = from;
        return e;
    }
    uint8_t *at = out->p + from;
    size_t size = out->n - from;
    uint16_t attributes = b->attributes;
    if (horizon) attributes |= BATCH_ATTR_HORIZON;
    if (d->count == 0) attributes &= (uint16_t)~BATCH_ATTR_CODEC;
    hf_put_be16(at + AT_ATTRIBUTES, attributes);
    hf_put_be32(at + BATCH_LENGTH_AT, (uint32_t)(size - BATCH_OVERHEAD));
    hf_put_be64(at + AT_BASE_TIME, (uint64_t)base_time);
    if (!(b->attributes & BATCH_ATTR_APPEND_TIME) && d->count > 0)
        hf_put_be64(at + AT_MAX_TIME, (uint64_t)d->time_max);
    hf_put_be32(at + AT_COUNT, (uint32_t)d->count);
    hf_put_be32(at + AT_CRC, hf_crc32c(0, at + AT_ATTRIBUTES, size - AT_ATTRIBUTES));
    return HF_OK;
}

enum hf_err batch_filter_run(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                             batch_keep *keep, void *arg, bool must_stay, int64_t horizon_ms,
                             struct hf_buf *out, bool *changed) {
    struct decided d;
    enum hf_err e = decide(f, p, b, keep, arg, &d);
    if (e) return e;
    bool has_horizon = b->attributes & BATCH_ATTR_HORIZON;
    bool horizon = d.deletes && !has_horizon;
    if (d.count == b->record_count && !horizon && (d.count > 0 || must_stay)) {
        *changed = false;
        hf_buf_put(out, p, b->size);
        return hf_buf_failed(out);
    }
    *changed = true;
    if (d.count == 0 && !must_stay) return HF_OK;
    int64_t base_time = horizon ? horizon_ms : b->base_timestamp;
    e = write_records(f, p, b, base_time);
    return e ? e : write_batch(f, p, b, &d, base_time, horizon, out);
}
