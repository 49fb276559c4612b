/* Idempotent producers (KIP-98): per partition and producer id the epoch and the last five batches.
 *
 *     epoch older than known                 HF_EFENCED
 *     first and last sequence of a known batch   duplicate: the original's offset
 *     sequence follows the last              accepted
 *     producer or epoch new here             accepted (a new epoch only from sequence 0)
 *     anything else                          HF_ERANGE
 *
 * Producers unused for long leave when the table is full, the least recently used first: the table is in that
 * order, since an append moves its producer to the end. Invariant: batches ascend by offset. */
#include "log_internal.h"

#include <stdlib.h>

static struct producer *find(struct log_partition *p, int64_t id) {
    struct producer *x;
    HASH_FIND(hh, p->producers, &id, sizeof id, x);
    return x;
}

static int32_t sequence_add(int32_t seq, int32_t n) {
    return (int32_t)(((int64_t)seq + n) & INT32_MAX);
}

enum hf_err producer_judge(struct log_partition *p, const struct batch_info *b,
                           struct producer_verdict *out) {
    const struct producer *x = find(p, b->producer_id);
    *out = (struct producer_verdict){0};
    if (!x || x->count == 0) return HF_OK;
    if (b->producer_epoch < x->epoch) return HF_EFENCED;
    if (b->producer_epoch > x->epoch) return b->base_sequence == 0 ? HF_OK : HF_ERANGE;
    int32_t last = sequence_add(b->base_sequence, b->last_offset_delta);
    for (int i = 0; i < x->count; i++) {
        const struct producer_batch *known = &x->batch[i];
        if (known->first_seq != b->base_sequence || known->last_seq != last) continue;
        *out = (struct producer_verdict){true, known->base, known->last, known->timestamp};
        return HF_OK;
    }
    return b->base_sequence == sequence_add(x->batch[x->count - 1].last_seq, 1) ? HF_OK : HF_ERANGE;
}

/* Memory for the entry that producer_took will fill. */
enum hf_err producer_room(struct log_partition *p, int64_t id) {
    struct producer *x = find(p, id);
    if (x) return HF_OK;
    if (HASH_COUNT(p->producers) >= LOG_PRODUCERS) {
        struct producer *oldest = p->producers;
        HASH_DEL(p->producers, oldest);
        free(oldest);
    }
    x = calloc(1, sizeof *x);
    if (!x) return HF_ENOMEM;
    x->id = id;
    HASH_ADD(hh, p->producers, id, sizeof x->id, x);
    if (x->hh.tbl) return HF_OK;
    free(x);
    return HF_ENOMEM;
}

void producer_took(struct log_partition *p, const struct batch_info *b, int64_t base) {
    struct producer *x = find(p, b->producer_id);
    assert(x);
    if (x->epoch != b->producer_epoch) x->count = 0;
    x->epoch = b->producer_epoch;
    if (x->count == LOG_PRODUCER_BATCHES) {
        memmove(x->batch, x->batch + 1, sizeof x->batch[0] * (LOG_PRODUCER_BATCHES - 1));
        x->count--;
    }
    x->batch[x->count++] = (struct producer_batch){
        .first_seq = b->base_sequence,
        .last_seq = sequence_add(b->base_sequence, b->last_offset_delta),
        .base = base,
        .last = base + b->last_offset_delta,
        .timestamp = b->max_timestamp,
    };
    if (!x->hh.next) return;
    HASH_DEL(p->producers, x);
    HASH_ADD(hh, p->producers, id, sizeof x->id, x);
    if (!x->hh.tbl) free(x); /* no memory: forgotten, as if it had been idle for long */
}

bool producer_ends_with(struct log_partition *p, const struct batch_info *b) {
    const struct producer *x = b->producer_id >= 0 ? find(p, b->producer_id) : NULL;
    return x && x->count > 0 && x->batch[x->count - 1].base == b->base_offset;
}

/* Only batches below `below` [L16]. */
void producer_encode(struct log_partition *p, int64_t below, struct hf_buf *out) {
    size_t at = out->n;
    uint32_t n = 0;
    hf_buf_be32(out, 0);
    for (const struct producer *x = p->producers; x; x = x->hh.next) {
        uint8_t count = 0;
        while (count < x->count && (x->batch[count].last < below || hf_mutate(14))) count++;
        if (count == 0) continue;
        n++;
        hf_buf_be64(out, (uint64_t)x->id);
        hf_buf_be16(out, (uint16_t)x->epoch);
        hf_buf_u8(out, count);
        for (int i = 0; i < count; i++) {
            const struct producer_batch *b = &x->batch[i];
            hf_buf_be32(out, (uint32_t)b->first_seq);
            hf_buf_be32(out, (uint32_t)b->last_seq);
            hf_buf_be64(out, (uint64_t)b->base);
            hf_buf_be64(out, (uint64_t)b->last);
            hf_buf_be64(out, (uint64_t)b->timestamp);
        }
    }
    if (!hf_buf_failed(out)) hf_put_be32(out->p + at, n);
}

enum hf_err producer_decode(struct log_partition *p, hf_str bytes) {
    struct hf_reader r = hf_reader_of(bytes.p, bytes.n);
    uint32_t n = hf_read_be32(&r);
    for (uint32_t i = 0; i < n && !r.bad; i++) {
        int64_t id = (int64_t)hf_read_be64(&r);
        enum hf_err e = producer_room(p, id);
        if (e) return e;
        struct producer *x = find(p, id);
        x->epoch = (int16_t)hf_read_be16(&r);
        uint8_t count = hf_read_u8(&r);
        if (count > LOG_PRODUCER_BATCHES) return HF_ECORRUPT;
        for (uint8_t k = 0; k < count; k++) {
            struct producer_batch *b = &x->batch[k];
            b->first_seq = (int32_t)hf_read_be32(&r);
            b->last_seq = (int32_t)hf_read_be32(&r);
            b->base = (int64_t)hf_read_be64(&r);
            b->last = (int64_t)hf_read_be64(&r);
            b->timestamp = (int64_t)hf_read_be64(&r);
        }
        x->count = count;
    }
    return r.bad ? HF_ECORRUPT : HF_OK;
}

void producer_free(struct log_partition *p) {
    struct producer *x, *next;
    HASH_ITER (hh, p->producers, x, next) {
        HASH_DEL(p->producers, x);
        free(x);
    }
}
