/* Kafka's RecordBatch v2 (KIP-98), the unit of everything that is stored and sent: parse, check, build,
 * iterate.
 *
 *    0  baseOffset            int64      not covered by the checksum
 *    8  batchLength           int32      bytes that follow this field
 *   12  partitionLeaderEpoch  int32      not covered by the checksum
 *   16  magic                 int8 = 2
 *   17  crc                   uint32     CRC-32C of everything from byte 21
 *   21  attributes            int16      bits 0-2 codec, 3 LogAppendTime, 4 transactional, 5 control
 *   23  lastOffsetDelta       int32
 *   27  baseTimestamp         int64
 *   35  maxTimestamp          int64
 *   43  producerId            int64      -1: not idempotent
 *   51  producerEpoch         int16
 *   53  baseSequence          int32
 *   57  recordCount           int32
 *   61  records, possibly compressed as a whole
 *
 * Pure: no clock, no files. One object, one thread at a time. */
#ifndef STORE_ENGINE_BATCH_H
#define STORE_ENGINE_BATCH_H

#include "engine.h"

enum {
    BATCH_HEADER = 61, /* bytes before the records */
    BATCH_LENGTH_AT = 8,
    BATCH_OVERHEAD = 12, /* baseOffset and batchLength: not counted in batchLength */
};

enum batch_codec { BATCH_NONE, BATCH_GZIP, BATCH_SNAPPY, BATCH_LZ4, BATCH_ZSTD };

enum {
    BATCH_ATTR_CODEC = 7,
    BATCH_ATTR_APPEND_TIME = 8,
    BATCH_ATTR_TRANSACTIONAL = 16,
    BATCH_ATTR_CONTROL = 32,
    BATCH_ATTR_HORIZON = 64, /* baseTimestamp: when records without value may go (KIP-534) */
};

struct batch_info {
    int64_t base_offset;
    size_t size; /* whole batch, first byte to last */
    int32_t leader_epoch;
    uint32_t crc;
    uint16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp, max_timestamp;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
};

/* Reads the header at p and checks its form: HF_EEND if n bytes hold no whole batch, HF_ECORRUPT if a field
 * cannot be (length below the header, magic, counts that disagree). Does not look at the checksum. */
HF_CHECK enum hf_err batch_parse(const uint8_t *p, size_t n, struct batch_info *out);

/* Whether the checksum matches. p holds info->size bytes. */
bool batch_crc_ok(const uint8_t *p, const struct batch_info *info);

/* Fields outside the checksum. */
void batch_set_place(uint8_t *p, int64_t base_offset, int32_t leader_epoch);

/* LogAppendTime: sets the attribute and maxTimestamp, and computes the checksum anew. */
void batch_set_append_time(uint8_t *p, int64_t ms);

/* ---- iterate ---- */

struct batch_record {
    int32_t offset_delta;
    int64_t timestamp_ms; /* maxTimestamp if the batch has LogAppendTime */
    hf_str key, value;    /* p == NULL: null */
    const struct hf_header *headers;
    size_t header_count;
};

struct batch_iter; /* holds the decompressed bytes and the header array; made once, used for many batches */

/* Decompressed records never take more than max_bytes. */
HF_CHECK enum hf_err batch_iter_open(size_t max_bytes, struct batch_iter **out);
void batch_iter_close(struct batch_iter *it);

/* Begins with a batch that batch_parse accepted; its bytes must stay while it is read if it is not
 * compressed. HF_ELIMIT: too large when decompressed; HF_ECORRUPT: does not decompress; HF_EUNSUPPORTED:
 * unknown codec. */
HF_CHECK enum hf_err batch_iter_begin(struct batch_iter *it, const uint8_t *p, const struct batch_info *info);

/* HF_EEND after the last; HF_ECORRUPT: a record is malformed, or counts and deltas disagree; HF_ELIMIT: more
 * than ENGINE_HEADERS_MAX headers. Borrowed until the next begin. */
HF_CHECK enum hf_err batch_iter_next(struct batch_iter *it, struct batch_record *out);

/* ---- filter: what compaction leaves of a batch ---- */

struct batch_filter; /* its memory, made once, used for many batches */
/* Decompressed records of a batch never take more than records_max. */
HF_CHECK enum hf_err batch_filter_open(size_t records_max, struct batch_filter **out);
void batch_filter_close(struct batch_filter *f);

typedef bool batch_keep(void *arg, const struct batch_info *b, const struct batch_record *r);

/* Shows each record to keep, whatever it answers. Errors are those of batch_iter. */
HF_CHECK enum hf_err batch_filter_look(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                                       batch_keep *keep, void *arg);

/* Appends to out the batch with those records for which keep is true, at their offsets, or nothing if none is
 * left and it need not stay. A batch that keeps a record without value for the first time gets horizon_ms
 * written down. *changed: it is not what it was, byte for byte. Errors are those of batch_iter. */
HF_CHECK enum hf_err batch_filter_run(struct batch_filter *f, const uint8_t *p, const struct batch_info *b,
                                      batch_keep *keep, void *arg, bool must_stay, int64_t horizon_ms,
                                      struct hf_buf *out, bool *changed);

/* ---- build ---- */

struct batch_builder {
    struct hf_buf buf;
    int32_t count;
    int64_t base_timestamp;
};

void batch_builder_init(struct batch_builder *b, size_t max_bytes);
void batch_builder_fini(struct batch_builder *b);

/* Starts an empty batch; every record gets this timestamp (the batch has LogAppendTime). */
void batch_builder_begin(struct batch_builder *b, int64_t now_ms);

/* HF_ELIMIT: would pass max_bytes; the builder is as before. */
HF_CHECK enum hf_err batch_builder_add(struct batch_builder *b, hf_str key, hf_str value,
                                       const struct hf_header *headers, size_t header_count);

/* Bytes this record would add, at most. */
size_t batch_record_size(hf_str key, hf_str value, const struct hf_header *headers, size_t header_count);

/* Fills in lengths and checksum; uncompressed, offset 0, no producer. HF_EINVAL: it holds no record. The
 * bytes are the builder's until the next begin. */
HF_CHECK enum hf_err batch_builder_finish(struct batch_builder *b, hf_str *out);

#endif
