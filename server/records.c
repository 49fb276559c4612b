/* DeleteRecords: a client moves a partition's start. What lies below is gone at once for readers; its files
 * follow, whole segments at a time, when nobody reads them any more.
 *
 * As in Kafka, an offset of -1 means the high watermark, and topics that are only compacted refuse. */
#include "server_internal.h"

#include "base/names.h"

enum { TO_HIGH_WATERMARK = -1 };

static int16_t may_delete(struct server *s, hf_str topic) {
    struct log_topic_info info;
    if (log_topic(s->log, topic, &info)) return KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
    bool refused = info.internal || !(info.settings.value[LOG_CLEANUP_POLICY] & LOG_CLEANUP_DELETE);
    return refused ? KAFKA_POLICY_VIOLATION : KAFKA_NONE;
}

static void delete_one(struct server *s, struct server_wait *w, hf_str topic,
                       const struct kafka_delete_records_request_partition *in,
                       struct kafka_delete_records_response_partition *out) {
    struct log_partition *p = log_partition(s->log, topic, in->partition_index);
    *out = (struct kafka_delete_records_response_partition){
        .partition_index = in->partition_index,
        .low_watermark = -1,
        .error_code = p ? may_delete(s, topic) : KAFKA_UNKNOWN_TOPIC_OR_PARTITION,
    };
    if (out->error_code) return;
    struct log_bounds b;
    log_bounds(p, &b);
    int64_t offset = in->offset == TO_HIGH_WATERMARK ? b.high : in->offset;
    struct server_result *r = server_wait_result(w, &out->error_code);
    enum hf_err e = r ? log_start_move(s->log, p, offset, server_wait_ended, r) : HF_ENOMEM;
    if (!e) return;
    if (r) server_wait_forget(r);
    out->error_code = e == HF_ERANGE ? KAFKA_OFFSET_OUT_OF_RANGE : kafka_error_of(e);
}

/* Where each partition starts now. */
static void finish(struct server_wait *w) {
    struct server *s = w->arg;
    struct kafka_delete_records_response *a = w->rq->answer;
    for (int32_t i = 0; i < a->topics_count; i++)
        for (int32_t k = 0; k < a->topics[i].partitions_count; k++) {
            struct kafka_delete_records_response_partition *out = &a->topics[i].partitions[k];
            struct log_partition *p = log_partition(s->log, a->topics[i].name, out->partition_index);
            struct log_bounds b;
            if (out->error_code || !p) continue;
            log_bounds(p, &b);
            out->low_watermark = b.start;
        }
    broker_answer(w->rq);
}

static bool lay_out(struct broker_request *rq) {
    const struct kafka_delete_records_request *q = rq->body;
    struct kafka_delete_records_response *a = rq->answer;
    a->topics = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*a->topics));
    for (int32_t i = 0; a->topics && i < q->topics_count; i++) {
        size_t n = (size_t)q->topics[i].partitions_count;
        a->topics[i].name = q->topics[i].name;
        a->topics[i].partitions = hf_arena_array(&rq->arena, n, sizeof(*a->topics[i].partitions));
        if (!a->topics[i].partitions) return false;
        a->topics[i].partitions_count = q->topics[i].partitions_count;
        a->topics_count = i + 1;
    }
    return a->topics != NULL;
}

static void on_delete_records(void *state, struct broker_request *rq) {
    const struct kafka_delete_records_request *q = rq->body;
    struct kafka_delete_records_response *a = rq->answer;
    struct server_wait *w = lay_out(rq) ? server_wait_begin(rq, finish, state) : NULL;
    if (!w) {
        server_no_memory(rq);
        return;
    }
    for (int32_t i = 0; i < q->topics_count; i++)
        for (int32_t k = 0; k < q->topics[i].partitions_count; k++)
            delete_one(state, w, q->topics[i].name, &q->topics[i].partitions[k], &a->topics[i].partitions[k]);
    server_wait_done(w);
}

static const struct server_handler handlers[] = {{KAFKA_API_delete_records, on_delete_records}};

const struct server_part server_records = {.name = "records", .handlers = handlers, .handler_count = 1};
