/* Record batches. The layout of the header is in batch.h; a record behind it (all lengths are zigzag varints,
 * -1 is null):
 *
 *     length                      of what follows
 *     attributes   int8           unused
 *     timestampDelta              to baseTimestamp
 *     offsetDelta                 to baseOffset
 *     keyLength key
 *     valueLength value
 *     headerCount, then each      keyLength key valueLength value; a header's key is never null
 *
 * What a batch must be for the iterator to give all of it (else HF_ECORRUPT):
 *   B1  recordCount records fill the (decompressed) bytes to the last one
 *   B2  each record is as long as its length says
 *   B3  offset deltas increase, and stay within 0..lastOffsetDelta. With recordCount == lastOffsetDelta + 1,
 *       which the door asks of producers, they are therefore 0, 1, 2 …; compaction leaves gaps
 * A record before the damage is still given: whoever needs all or nothing reads to HF_EEND first.
 *
 * No number that a stranger wrote is multiplied or added before it is compared with the bytes that are there.
 */
#include "batch.h"

#include "base/crc32c.h"
#include "compress.h"

#include <assert.h>
#include <stdlib.h>

enum {
    AT_EPOCH = 12,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_ATTRIBUTES = 21,
    AT_LAST_DELTA = 23,
    AT_BASE_TIME = 27,
    AT_MAX_TIME = 35,
    AT_PRODUCER = 43,
    AT_PRODUCER_EPOCH = 51,
    AT_SEQUENCE = 53,
    AT_COUNT = 57,
    MAGIC = 2,
    RECORD_MIN = 7, /* length, attributes, two deltas, key, value, header count: a byte each */
    HEADER_MIN = 2,
};

/* ---- the header ---- */

static bool possible(const struct batch_info *b) {
    if (b->last_offset_delta < 0 || b->record_count < 0) return false;
    if ((int64_t)b->record_count > (int64_t)b->last_offset_delta + 1) return false;
    bool plain = (b->attributes & BATCH_ATTR_CODEC) == BATCH_NONE;
    return !plain || (size_t)b->record_count <= (b->size - BATCH_HEADER) / RECORD_MIN;
}

enum hf_err batch_parse(const uint8_t *p, size_t n, struct batch_info *out) {
    if (n < BATCH_OVERHEAD) return HF_EEND;
    int32_t length = (int32_t)hf_get_be32(p + BATCH_LENGTH_AT);
    if (length < BATCH_HEADER - BATCH_OVERHEAD) return HF_ECORRUPT;
    if ((size_t)length > n - BATCH_OVERHEAD) return HF_EEND;
    if (p[AT_MAGIC] != MAGIC) return HF_ECORRUPT;
    struct batch_info b = {
        .base_offset = (int64_t)hf_get_be64(p),
        .size = (size_t)length + BATCH_OVERHEAD,
        .leader_epoch = (int32_t)hf_get_be32(p + AT_EPOCH),
        .crc = hf_get_be32(p + AT_CRC),
        .attributes = hf_get_be16(p + AT_ATTRIBUTES),
        .last_offset_delta = (int32_t)hf_get_be32(p + AT_LAST_DELTA),
        .base_timestamp = (int64_t)hf_get_be64(p + AT_BASE_TIME),
        .max_timestamp = (int64_t)hf_get_be64(p + AT_MAX_TIME),
        .producer_id = (int64_t)hf_get_be64(p + AT_PRODUCER),
        .producer_epoch = (int16_t)hf_get_be16(p + AT_PRODUCER_EPOCH),
        .base_sequence = (int32_t)hf_get_be32(p + AT_SEQUENCE),
        .record_count = (int32_t)hf_get_be32(p + AT_COUNT),
    };
    if (!possible(&b)) return HF_ECORRUPT;
    *out = b;
    return HF_OK;
}

static uint32_t checksum(const uint8_t *p, size_t size) {
    return hf_crc32c(0, p + AT_ATTRIBUTES, size - AT_ATTRIBUTES);
}

bool batch_crc_ok(const uint8_t *p, const struct batch_info *info) {
    return checksum(p, info->size) == info->crc;
}

void batch_set_place(uint8_t *p, int64_t base_offset, int32_t leader_epoch) {
    hf_put_be64(p, (uint64_t)base_offset);
    hf_put_be32(p + AT_EPOCH, (uint32_t)leader_epoch);
}

void batch_set_append_time(uint8_t *p, int64_t ms) {
    uint16_t attributes = hf_get_be16(p + AT_ATTRIBUTES) | BATCH_ATTR_APPEND_TIME;
    hf_put_be16(p + AT_ATTRIBUTES, attributes);
    hf_put_be64(p + AT_MAX_TIME, (uint64_t)ms);
    hf_put_be32(p + AT_CRC, checksum(p, hf_get_be32(p + BATCH_LENGTH_AT) + (size_t)BATCH_OVERHEAD));
}

/* ---- iterate ---- */

struct batch_iter {
    struct hf_buf plain; /* decompressed records */
    struct batch_info info;
    struct hf_reader r; /* over plain, or over the batch itself */
    int32_t given;
    int32_t last_delta; /* of the record before; -1 at the start */
    struct hf_header headers[ENGINE_HEADERS_MAX];
};

enum hf_err batch_iter_open(size_t max_bytes, struct batch_iter **out) {
    struct batch_iter *it = calloc(1, sizeof *it);
    if (!it) return HF_ENOMEM;
    hf_buf_init(&it->plain, max_bytes);
    it->r = hf_reader_of(NULL, 0);
    *out = it;
    return HF_OK;
}

void batch_iter_close(struct batch_iter *it) {
    if (!it) return;
    hf_buf_fini(&it->plain);
    free(it);
}

enum hf_err batch_iter_begin(struct batch_iter *it, const uint8_t *p, const struct batch_info *info) {
    hf_str records = hf_str_make(p + BATCH_HEADER, info->size - BATCH_HEADER);
    int codec = info->attributes & BATCH_ATTR_CODEC;
    it->info = (struct batch_info){0}; /* a failed begin leaves nothing to read */
    it->r = hf_reader_of(NULL, 0);
    it->given = 0;
    it->last_delta = -1;
    if (codec != BATCH_NONE) {
        hf_buf_reset(&it->plain);
        enum hf_err e = hf_decompress(codec, records, &it->plain);
        if (e) return e;
        records = hf_buf_view(&it->plain);
    }
    it->info = *info;
    it->r = hf_reader_of(records.p, records.n);
    return HF_OK;
}

static hf_str nullable(struct hf_reader *r) {
    int32_t n = hf_read_varint32(r);
    if (n >= 0) return hf_read_bytes(r, (size_t)n);
    if (n != -1) r->bad = true;
    return (hf_str){NULL, 0};
}

static enum hf_err read_headers(struct batch_iter *it, struct hf_reader *r, size_t *count) {
    int32_t n = hf_read_varint32(r);
    if (r->bad || n < 0 || (size_t)n > hf_reader_left(r) / HEADER_MIN) return HF_ECORRUPT;
    if (n > ENGINE_HEADERS_MAX) return HF_ELIMIT;
    for (int32_t i = 0; i < n; i++) {
        hf_str key = nullable(r);
        if (!key.p) r->bad = true;
        it->headers[i] = (struct hf_header){.key = key, .value = nullable(r)};
    }
    *count = (size_t)n;
    return HF_OK;
}

static enum hf_err read_record(struct batch_iter *it, struct hf_reader *r, struct batch_record *out) {
    struct batch_record rec = {.headers = it->headers};
    hf_read_u8(r); /* attributes */
    uint64_t time_delta = (uint64_t)hf_read_varint64(r);
    rec.timestamp_ms = (int64_t)((uint64_t)it->info.base_timestamp + time_delta);
    if (it->info.attributes & BATCH_ATTR_APPEND_TIME) rec.timestamp_ms = it->info.max_timestamp;
    rec.offset_delta = hf_read_varint32(r);
    rec.key = nullable(r);
    rec.value = nullable(r);
    enum hf_err e = read_headers(it, r, &rec.header_count);
    if (e) return e;
    if (r->bad || hf_reader_left(r) > 0) return HF_ECORRUPT; /* B2 */
    if (rec.offset_delta <= it->last_delta || rec.offset_delta > it->info.last_offset_delta)
        return HF_ECORRUPT;
    *out = rec;
    return HF_OK;
}

enum hf_err batch_iter_next(struct batch_iter *it, struct batch_record *out) {
    if (it->given == it->info.record_count) return hf_reader_left(&it->r) ? HF_ECORRUPT : HF_EEND; /* B1 */
    struct hf_reader from = it->r;
    int32_t length = hf_read_varint32(&from);
    if (from.bad || length < 0) return HF_ECORRUPT;
    hf_str body = hf_read_bytes(&from, (size_t)length);
    if (from.bad) return HF_ECORRUPT;
    struct hf_reader r = hf_reader_of(body.p, body.n);
    enum hf_err e = read_record(it, &r, out);
    if (e) return e;
    it->r = from;
    it->given++;
    it->last_delta = out->offset_delta;
    return HF_OK;
}

/* ---- build ---- */

void batch_builder_init(struct batch_builder *b, size_t max_bytes) {
    assert(max_bytes >= BATCH_HEADER && max_bytes <= INT32_MAX);
    *b = (struct batch_builder){.count = 0};
    hf_buf_init(&b->buf, max_bytes);
}

void batch_builder_fini(struct batch_builder *b) {
    hf_buf_fini(&b->buf);
}

/* The header's room is taken here and filled at the end; without memory even for that, every add fails. */
void batch_builder_begin(struct batch_builder *b, int64_t now_ms) {
    static const uint8_t header[BATCH_HEADER];
    hf_buf_reset(&b->buf);
    hf_buf_put(&b->buf, header, sizeof header);
    b->count = 0;
    b->base_timestamp = now_ms;
}

static size_t string_size(hf_str s) {
    return s.p ? hf_uvarint_size(hf_zigzag((int64_t)s.n)) + s.n : 1;
}

/* Of what follows the record's length. */
static size_t body_size(int32_t delta, hf_str key, hf_str value, const struct hf_header *headers, size_t n) {
    size_t size = 2 + hf_uvarint_size(hf_zigzag(delta)) + string_size(key) + string_size(value) +
                  hf_uvarint_size(hf_zigzag((int64_t)n));
    for (size_t i = 0; i < n; i++) size += string_size(headers[i].key) + string_size(headers[i].value);
    return size;
}

size_t batch_record_size(hf_str key, hf_str value, const struct hf_header *headers, size_t header_count) {
    size_t body = body_size(INT32_MAX, key, value, headers, header_count);
    return hf_uvarint_size(hf_zigzag((int64_t)body)) + body;
}

/* Into room that was made before: this is the hot loop of every move. */
static uint8_t *put_varint(uint8_t *to, int64_t v) {
    uint64_t u = hf_zigzag(v);
    for (; u >= 0x80; u >>= 7) *to++ = (uint8_t)(u | 0x80);
    *to++ = (uint8_t)u;
    return to;
}

static uint8_t *put_string(uint8_t *to, hf_str s) {
    to = put_varint(to, s.p ? (int64_t)s.n : -1);
    if (!s.p || s.n == 0) return to;
    memcpy(to, s.p, s.n);
    return to + s.n;
}

enum hf_err batch_builder_add(struct batch_builder *b, hf_str key, hf_str value,
                              const struct hf_header *headers, size_t header_count) {
    if (b->buf.err) return b->buf.err;
    size_t body = body_size(b->count, key, value, headers, header_count);
    size_t size = hf_uvarint_size(hf_zigzag((int64_t)body)) + body;
    if (size > b->buf.max - b->buf.n) return HF_ELIMIT;
    uint8_t *to = hf_buf_room(&b->buf, size);
    if (!to) {
        b->buf.err = HF_OK;
        return HF_ENOMEM;
    }
    to = put_varint(to, (int64_t)body);
    *to++ = 0; /* attributes */
    *to++ = 0; /* timestamp: the batch's */
    to = put_varint(to, b->count);
    to = put_string(to, key);
    to = put_string(to, value);
    to = put_varint(to, (int64_t)header_count);
    for (size_t i = 0; i < header_count; i++) {
        assert(headers[i].key.p);
        to = put_string(to, headers[i].key);
        to = put_string(to, headers[i].value);
    }
    b->buf.n += size;
    assert(to == b->buf.p + b->buf.n);
    b->count++;
    return HF_OK;
}

enum hf_err batch_builder_finish(struct batch_builder *b, hf_str *out) {
    if (b->buf.err) return b->buf.err;
    if (b->count == 0) return HF_EINVAL;
    uint8_t *p = b->buf.p;
    batch_set_place(p, 0, -1);
    hf_put_be32(p + BATCH_LENGTH_AT, (uint32_t)(b->buf.n - BATCH_OVERHEAD));
    p[AT_MAGIC] = MAGIC;
    hf_put_be32(p + AT_LAST_DELTA, (uint32_t)(b->count - 1));
    hf_put_be64(p + AT_BASE_TIME, (uint64_t)b->base_timestamp);
    hf_put_be64(p + AT_PRODUCER, UINT64_MAX); /* none: -1 in all three */
    hf_put_be16(p + AT_PRODUCER_EPOCH, UINT16_MAX);
    hf_put_be32(p + AT_SEQUENCE, UINT32_MAX);
    hf_put_be32(p + AT_COUNT, (uint32_t)b->count);
    batch_set_append_time(p, b->base_timestamp); /* and the checksum */
    *out = hf_buf_view(&b->buf);
    return HF_OK;
}
