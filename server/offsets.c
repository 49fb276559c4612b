/* ListOffsets and OffsetForLeaderEpoch: where in a partition is a time, an end, an epoch. */
#include "server_internal.h"

enum { OFFSET_LATEST = -1, OFFSET_EARLIEST = -2, OFFSET_MAX_TIMESTAMP = -3, READ_COMMITTED = 1 };

/* ---- ListOffsets ---- */

/* "There is none" is no error: offset and timestamp stay -1. */
static int16_t find_offset(struct log *l, struct log_partition *p, const struct log_bounds *bounds,
                           int8_t isolation, int64_t time,
                           struct kafka_list_offsets_response_partition *out) {
    enum hf_err e = HF_OK;
    switch (time) {
    case OFFSET_LATEST: out->offset = isolation == READ_COMMITTED ? bounds->stable : bounds->high; break;
    case OFFSET_EARLIEST: out->offset = bounds->start; break;
    case OFFSET_MAX_TIMESTAMP: e = log_offset_max_time(l, p, &out->offset, &out->timestamp); break;
    default:
        if (time < 0) return KAFKA_UNSUPPORTED_VERSION;
        e = log_offset_at(l, p, time, &out->offset, &out->timestamp);
    }
    return e == HF_EEND ? KAFKA_NONE : kafka_error_of(e);
}

static void list_one(struct server *s, struct broker_request *rq, hf_str topic,
                     const struct kafka_list_offsets_request_partition *in,
                     struct kafka_list_offsets_response_partition *out) {
    const struct kafka_list_offsets_request *q = rq->body;
    *out = (struct kafka_list_offsets_response_partition){
        .partition_index = in->partition_index, .timestamp = -1, .offset = -1, .leader_epoch = -1};
    struct log_partition *p = log_partition(s->log, topic, in->partition_index);
    if (!p) {
        out->error_code = KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
        return;
    }
    struct log_bounds bounds;
    log_bounds(p, &bounds);
    out->error_code = server_check_epoch(&bounds, in->current_leader_epoch);
    if (!out->error_code)
        out->error_code = find_offset(s->log, p, &bounds, q->isolation_level, in->timestamp, out);
    if (!out->error_code && out->offset >= 0) out->leader_epoch = log_epoch_at(p, out->offset);
}

static void on_list_offsets(void *state, struct broker_request *rq) {
    const struct kafka_list_offsets_request *q = rq->body;
    struct kafka_list_offsets_response *a = rq->answer;
    a->topics = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*a->topics));
    for (int32_t i = 0; a->topics && i < q->topics_count; i++) {
        const struct kafka_list_offsets_request_topic *in = &q->topics[i];
        struct kafka_list_offsets_response_topic *out = &a->topics[i];
        out->name = in->name;
        out->partitions = hf_arena_array(&rq->arena, (size_t)in->partitions_count, sizeof(*out->partitions));
        if (!out->partitions) break;
        out->partitions_count = in->partitions_count;
        for (int32_t k = 0; k < in->partitions_count; k++)
            list_one(state, rq, in->name, &in->partitions[k], &out->partitions[k]);
        a->topics_count = i + 1;
    }
    server_answer(rq, a->topics_count == q->topics_count);
}

/* ---- OffsetForLeaderEpoch ---- */

static void epoch_one(struct server *s, hf_str topic,
                      const struct kafka_offset_for_leader_epoch_request_partition *in,
                      struct kafka_offset_for_leader_epoch_response_partition *out) {
    *out = (struct kafka_offset_for_leader_epoch_response_partition){
        .partition = in->partition, .leader_epoch = -1, .end_offset = -1};
    struct log_partition *p = log_partition(s->log, topic, in->partition);
    if (!p) {
        out->error_code = KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
        return;
    }
    struct log_bounds bounds;
    log_bounds(p, &bounds);
    out->error_code = server_check_epoch(&bounds, in->current_leader_epoch);
    if (out->error_code) return;
    enum hf_err e = log_epoch_end(p, in->leader_epoch, &out->leader_epoch, &out->end_offset);
    if (e && e != HF_EEND) out->error_code = kafka_error_of(e);
}

static void on_epochs(void *state, struct broker_request *rq) {
    const struct kafka_offset_for_leader_epoch_request *q = rq->body;
    struct kafka_offset_for_leader_epoch_response *a = rq->answer;
    a->topics = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*a->topics));
    for (int32_t i = 0; a->topics && i < q->topics_count; i++) {
        const struct kafka_offset_for_leader_epoch_request_topic *in = &q->topics[i];
        struct kafka_offset_for_leader_epoch_response_topic *out = &a->topics[i];
        out->topic = in->topic;
        out->partitions = hf_arena_array(&rq->arena, (size_t)in->partitions_count, sizeof(*out->partitions));
        if (!out->partitions) break;
        out->partitions_count = in->partitions_count;
        for (int32_t k = 0; k < in->partitions_count; k++)
            epoch_one(state, in->topic, &in->partitions[k], &out->partitions[k]);
        a->topics_count = i + 1;
    }
    server_answer(rq, a->topics_count == q->topics_count);
}

static const struct server_handler handlers[] = {
    {KAFKA_API_list_offsets, on_list_offsets},
    {KAFKA_API_offset_for_leader_epoch, on_epochs},
};

const struct server_part server_offsets = {
    .name = "offsets", .handlers = handlers, .handler_count = sizeof(handlers) / sizeof(handlers[0])};
