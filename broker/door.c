/* Rules, in the order in which they are tried; the first broken one is told.
 *
 *   batch    there is one, whole, and nothing behind it; format 2; its codec is known to the request's
 * version; not transactional, not a control batch (Kafka transactions are not supported); not longer than the
 *            topic allows; without the mark that only compaction sets; its checksum matches
 *   topic    of ours: only holdfast.delay and holdfast.txn take produces
 *   record   of ours: decompresses within the limit; is small enough alone; base/control.h; the schedule admits
 *            it; its destination exists or may be created; its partition is one of the destination's
 *            of a compacted topic: has a key, as in Kafka
 *
 * A schedule that is full answers NOT_ENOUGH_REPLICAS: of the errors that all clients try again after a pause
 * and without asking for new metadata, it is the one whose meaning ("nothing was stored, the server lacks
 * what it takes") comes nearest. THROTTLING_QUOTA_EXCEEDED is retried by the Java client but final for
 * librdkafka.
 *
 * What is moved is written again, without compression and in one commit, with a next run twice. A record that is
 * too large for that could be neither delivered nor rejected, and all that is due after it would wait; so it is
 * refused here.
 *
 * A batch is refused as a whole, as in Kafka. Batches for plain topics that are not compacted are never
 * decompressed: their records are the consumers' business. */
#include "door.h"

#include "base/names.h"

#include <stdlib.h>

enum {
    ZSTD_SINCE = 7,                                     /* KIP-110: version of Produce that may use zstd */
    MOVED_MAX = ENGINE_COMMIT_BYTES - (1 << 20),        /* key, value and headers of a record of ours */
    RECURRING_MAX = ENGINE_COMMIT_BYTES / 2 - (1 << 20) /* … with hf-cron */
};

struct door {
    struct batch_iter *iter;
};

enum hf_err door_open(size_t decompressed_max, struct door **out) {
    struct door *d = calloc(1, sizeof(*d));
    if (!d) return HF_ENOMEM;
    enum hf_err e = batch_iter_open(decompressed_max, &d->iter);
    if (e) {
        free(d);
        return e;
    }
    *out = d;
    return HF_OK;
}

void door_close(struct door *d) {
    batch_iter_close(d->iter);
    free(d);
}

static enum hf_err refuse(struct door_refusal *no, int16_t error, const char *reason) {
    *no = (struct door_refusal){.error = error, .record = -1, .reason = reason};
    return HF_EINVAL;
}

/* ---- the batch ---- */

static enum hf_err check_form(const struct door_target *t, const uint8_t *batch, size_t n,
                              struct batch_info *info, struct door_refusal *no) {
    enum { MAGIC_AT = 16 };
    if (n == 0) return refuse(no, KAFKA_INVALID_RECORD, "no record batch");
    if (n > MAGIC_AT && batch[MAGIC_AT] < 2)
        return refuse(no, KAFKA_UNSUPPORTED_FOR_MESSAGE_FORMAT, "message formats 0 and 1 are not supported");
    enum hf_err e = batch_parse(batch, n, info);
    if (e == HF_EEND) return refuse(no, KAFKA_CORRUPT_MESSAGE, "the batch is cut short");
    if (e) return refuse(no, KAFKA_CORRUPT_MESSAGE, "the batch's header is malformed");
    if (info->size != n) return refuse(no, KAFKA_INVALID_RECORD, "more than one batch for a partition");
    if (info->record_count <= 0) return refuse(no, KAFKA_INVALID_RECORD, "the batch holds no records");
    if (info->attributes & (BATCH_ATTR_TRANSACTIONAL | BATCH_ATTR_CONTROL))
        return refuse(no, KAFKA_INVALID_TXN_STATE,
                      "Kafka transactions are not supported; see topic holdfast.txn");
    if (info->attributes & BATCH_ATTR_HORIZON)
        return refuse(no, KAFKA_INVALID_RECORD, "attribute bit 6 is set by compaction alone");
    if (n > t->message_max) return refuse(no, KAFKA_MESSAGE_TOO_LARGE, "larger than max.message.bytes");
    int codec = info->attributes & BATCH_ATTR_CODEC;
    if (codec > BATCH_ZSTD || (codec == BATCH_ZSTD && t->version < ZSTD_SINCE))
        return refuse(no, KAFKA_UNSUPPORTED_COMPRESSION_TYPE, "compression type is not supported");
    if (!batch_crc_ok(batch, info)) return refuse(no, KAFKA_CORRUPT_MESSAGE, "checksum does not match");
    return HF_OK;
}

/* ---- the records of our topics ---- */

static enum hf_err check_destination(const struct door_target *t, const struct hf_control *c,
                                     struct hf_control_error *why) {
    if (c->op == HF_OP_NEXT || c->op == HF_OP_LEVELS) {
        *why = (struct hf_control_error){HF_HDR_OP, "is written by the server itself"};
        return HF_EINVAL;
    }
    if (!c->topic.p || c->op == HF_OP_CANCEL) return HF_OK;
    int32_t partitions = 0;
    if (t->destination(t->arg, c->topic, &partitions)) {
        *why = (struct hf_control_error){HF_HDR_TOPIC, "topic does not exist and may not be created"};
        return HF_EINVAL;
    }
    if (c->partition >= partitions) {
        *why = (struct hf_control_error){HF_HDR_PARTITION, "the topic has no such partition"};
        return HF_EINVAL;
    }
    return HF_OK;
}

static enum hf_err check_size(const struct door_target *t, const struct batch_record *r, bool recurs,
                              struct door_refusal *no) {
    size_t n = r->key.n + r->value.n, most = recurs ? RECURRING_MAX : MOVED_MAX;
    for (size_t i = 0; i < r->header_count; i++) n += r->headers[i].key.n + r->headers[i].value.n;
    if (n > t->message_max)
        return refuse(no, KAFKA_MESSAGE_TOO_LARGE,
                      "a record larger than max.message.bytes when decompressed");
    if (n <= most) return HF_OK;
    return refuse(no, KAFKA_MESSAGE_TOO_LARGE, "a record larger than 7 MiB, or 3 MiB with hf-cron");
}

static enum hf_err check_records(struct door *d, const struct door_target *t, const uint8_t *batch,
                                 const struct batch_info *info, struct door_refusal *no) {
    bool delay = hf_str_is(t->topic, HF_TOPIC_DELAY);
    enum hf_err e = batch_iter_begin(d->iter, batch, info);
    if (e == HF_ELIMIT) return refuse(no, KAFKA_MESSAGE_TOO_LARGE, "too large when decompressed");
    for (int32_t i = 0; !e; i++) {
        struct batch_record r;
        struct hf_control c = {.op = HF_OP_CANCEL};
        struct hf_control_error why = {NULL, NULL};
        e = batch_iter_next(d->iter, &r);
        if (e == HF_EEND) return HF_OK;
        if (e == HF_ELIMIT || (e == HF_OK && r.header_count > HF_DELAY_HEADERS_MAX)) {
            e = HF_ELIMIT;
            why = (struct hf_control_error){NULL, "more than 240 headers"};
        }
        if (e == HF_OK)
            e = delay ? hf_control_delay(r.headers, r.header_count, &c, &why)
                      : hf_control_txn(r.key, r.headers, r.header_count, &c, &why);
        if (e == HF_OK && check_size(t, &r, c.cron.p != NULL, no)) return HF_EINVAL;
        bool waits = c.op == HF_OP_PREPARE && (c.due_ms >= 0 || c.delay_ms >= 0 || c.delay_level > 0);
        if (e == HF_OK && (delay || waits) && t->admit) e = t->admit(t->arg, &c, r.key.n + r.value.n, &why);
        if (e == HF_OK) e = check_destination(t, &c, &why);
        if (e && why.reason) {
            bool full = e == HF_EAGAIN;
            *no = (struct door_refusal){full ? KAFKA_NOT_ENOUGH_REPLICAS : KAFKA_INVALID_RECORD,
                                        full ? -1 : i, why.header, why.reason};
            return HF_EINVAL;
        }
    }
    return refuse(no, KAFKA_CORRUPT_MESSAGE, "the records do not decompress or are malformed");
}

static enum hf_err check_keys(struct door *d, const uint8_t *batch, const struct batch_info *info,
                              struct door_refusal *no) {
    enum hf_err e = batch_iter_begin(d->iter, batch, info);
    if (e == HF_ELIMIT) return refuse(no, KAFKA_MESSAGE_TOO_LARGE, "too large when decompressed");
    for (int32_t i = 0; !e; i++) {
        struct batch_record r;
        e = batch_iter_next(d->iter, &r);
        if (e == HF_EEND) return HF_OK;
        if (e || r.key.p) continue;
        *no = (struct door_refusal){KAFKA_INVALID_RECORD, i, "key",
                                    "a compacted topic takes no record without"};
        return HF_EINVAL;
    }
    return refuse(no, KAFKA_CORRUPT_MESSAGE, "the records do not decompress or are malformed");
}

enum hf_err door_check(struct door *d, const struct door_target *t, const uint8_t *batch, size_t n,
                       struct door_refusal *no) {
    struct batch_info info;
    enum hf_err e = check_form(t, batch, n, &info, no);
    if (!e && t->keyed) e = check_keys(d, batch, &info, no);
    if (e || !hf_topic_is_ours(t->topic)) return e;
    if (!hf_str_is(t->topic, HF_TOPIC_DELAY) && !hf_str_is(t->topic, HF_TOPIC_TXN))
        return refuse(no, KAFKA_TOPIC_AUTHORIZATION_FAILED, "clients may only read this topic");
    return check_records(d, t, batch, &info, no);
}
