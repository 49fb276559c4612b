/* Produce: each batch passes the door and enters the log; the answer leaves when every batch is as safe as
 * the request asked (acks).
 *
 * Versions below 3 carry older message formats. They are advertised (old librdkafka looks for them one by one
 * before it compresses) but every partition is answered with UNSUPPORTED_VERSION.
 *
 * acks=0 gets no answer, so a refusal closes the connection, as in Kafka: else the producer would never
 * learn. */
#include "server_internal.h"

#include "base/names.h"
#include "broker/door.h"

#include <inttypes.h>
#include <stdlib.h>

enum { FIRST_SERVED = 3, DECOMPRESSED_TIMES = 16, ACKS_ALL = -1 };

struct produce {
    struct server *server;
    struct door *door;
    struct broker_limiter refused;
    uint64_t batches_refused;
};

/* One batch on its way into the log. */
struct appending {
    struct server_wait *wait; /* NULL: acks=0 */
    struct kafka_produce_response_partition *out;
};

static int16_t error_of_append(enum hf_err e) {
    switch (e) {
    case HF_OK: return KAFKA_NONE;
    case HF_ERANGE: return KAFKA_OUT_OF_ORDER_SEQUENCE_NUMBER;
    case HF_EFENCED: return KAFKA_INVALID_PRODUCER_EPOCH;
    case HF_ENOTFOUND: return KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
    default: return kafka_error_of(e);
    }
}

/* ---- the door's questions and answers ---- */

static void created_meanwhile(void *arg, enum hf_err e) {
    (void)arg, (void)e; /* the schedule asks again when the message is due */
}

static enum hf_err destination(void *arg, hf_str topic, int32_t *partitions) {
    struct server *s = arg;
    struct log_topic_info info;
    if (log_topic(s->log, topic, &info) == HF_OK) {
        *partitions = info.partitions;
        return HF_OK;
    }
    *partitions = (int32_t)s->settings->num_partitions;
    enum hf_err e = server_auto_create(s, topic, created_meanwhile, NULL);
    return e == HF_OK || e == HF_EEXIST ? HF_OK : HF_ENOTFOUND;
}

static enum hf_err admit(void *arg, const struct hf_control *c, size_t bytes, struct hf_control_error *why) {
    return server_delay_admit(arg, c, bytes, why);
}

static void log_refusal(struct produce *p, struct broker_request *rq, hf_str topic,
                        const struct door_refusal *no) {
    uint64_t suppressed;
    p->batches_refused++;
    if (!broker_limiter_pass(&p->refused, env_mono_us(p->server->env), &suppressed)) return;
    env_log(p->server->env, ENV_WARN, "record_refused",
            "client_id=\"%.*s\" client=%s topic=%.*s record=%" PRId32
            " header=%s reason=\"%s\" suppressed=%" PRIu64,
            (int)(rq->client_id.n < 64 ? rq->client_id.n : 64), rq->client_id.p ? rq->client_id.p : "",
            rq->client, (int)topic.n, topic.p, no->record, no->header ? no->header : "-", no->reason,
            suppressed);
}

/* Names the record and its header where the version can (8 and later). */
static void fill_refusal(struct broker_request *rq, struct kafka_produce_response_partition *out,
                         const struct door_refusal *no) {
    out->error_code = no->error;
    out->error_message = hf_arena_printf(&rq->arena, no->header ? "%s: %s" : "%.0s%s",
                                         no->header ? no->header : "", no->reason);
    if (no->record < 0) return;
    out->record_errors = hf_arena_alloc(&rq->arena, sizeof(*out->record_errors));
    if (!out->record_errors) return;
    out->record_errors[0] = (struct kafka_produce_record_error){no->record, out->error_message};
    out->record_errors_count = 1;
}

/* ---- one batch ---- */

static void on_appended(void *arg, const struct log_appended *result) {
    struct appending *a = arg;
    if (a->wait && a->wait->rq) {
        a->out->error_code = error_of_append(result->e);
        a->out->base_offset = result->e ? -1 : result->base_offset;
        a->out->log_append_time_ms = result->append_time_ms;
        a->out->log_start_offset = result->log_start;
    }
    if (a->wait) server_wait_done(a->wait);
    free(a);
}

static enum hf_err append(struct produce *p, struct log_partition *partition, hf_str records, int16_t acks,
                          struct server_wait *w, struct kafka_produce_response_partition *out) {
    struct appending *a = malloc(sizeof(*a));
    if (!a) return HF_ENOMEM;
    *a = (struct appending){w, out};
    if (w) server_wait_more(w);
    /* The bytes lie in the request's frame, which is ours to change. */
    uint8_t *batch = (uint8_t *)(uintptr_t)records.p;
    enum hf_err e = log_append(p->server->log, partition, batch, records.n,
                               acks == ACKS_ALL ? LOG_ACK_DURABLE : LOG_ACK_WRITTEN, on_appended, a);
    if (e) {
        free(a);
        if (w) server_wait_done(w);
    }
    return e;
}

static void produce_one(struct produce *p, struct broker_request *rq, hf_str topic,
                        const struct kafka_produce_request_partition *in, struct server_wait *w,
                        struct kafka_produce_response_partition *out) {
    const struct kafka_produce_request *q = rq->body;
    struct log_partition *partition = log_partition(p->server->log, topic, in->index);
    if (!partition) {
        out->error_code = KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
        return;
    }
    const struct log_settings *settings = log_partition_settings(partition);
    bool ours = hf_topic_is_ours(topic);
    hf_str records = in->records.bytes;
    struct door_refusal no;
    struct door_target target = {
        .topic = topic,
        .version = rq->version,
        .message_max = (size_t)(ours ? p->server->settings->message_max : settings->value[LOG_MESSAGE_MAX]),
        .keyed = !ours && settings->value[LOG_CLEANUP_POLICY] & LOG_CLEANUP_COMPACT,
        .destination = destination,
        .admit = admit,
        .arg = p->server,
    };
    if (door_check(p->door, &target, (const uint8_t *)records.p, records.n, &no)) {
        log_refusal(p, rq, topic, &no);
        fill_refusal(rq, out, &no);
        return;
    }
    out->error_code = error_of_append(append(p, partition, records, q->acks, w, out));
}

/* ---- the request ---- */

/* One answer for each partition, as the request names them; base_offset -1 until an append says more. */
static bool lay_out_answer(struct broker_request *rq) {
    const struct kafka_produce_request *q = rq->body;
    struct kafka_produce_response *a = rq->answer;
    size_t topics = (size_t)q->topics_count;
    a->topics = hf_arena_array(&rq->arena, topics, sizeof(*a->topics));
    for (size_t i = 0; a->topics && i < topics; i++) {
        struct kafka_produce_response_topic *out = &a->topics[i];
        size_t n = (size_t)q->topics[i].partitions_count;
        out->name = q->topics[i].name;
        out->partitions = hf_arena_array(&rq->arena, n, sizeof(*out->partitions));
        if (!out->partitions) return false;
        out->partitions_count = (int32_t)n;
        for (size_t k = 0; k < n; k++)
            out->partitions[k] = (struct kafka_produce_response_partition){
                .index = q->topics[i].partitions[k].index,
                .base_offset = -1,
                .log_append_time_ms = -1,
                .log_start_offset = -1,
            };
        a->topics_count = (int32_t)i + 1;
    }
    return a->topics != NULL;
}

static bool any_error(const struct kafka_produce_response *a) {
    for (int32_t i = 0; i < a->topics_count; i++)
        for (int32_t k = 0; k < a->topics[i].partitions_count; k++)
            if (a->topics[i].partitions[k].error_code) return true;
    return false;
}

static void refuse_all(struct broker_request *rq, int16_t error) {
    struct kafka_produce_response *a = rq->answer;
    for (int32_t i = 0; i < a->topics_count; i++)
        for (int32_t k = 0; k < a->topics[i].partitions_count; k++)
            a->topics[i].partitions[k].error_code = error;
}

/* What is wrong with the request as a whole. */
static int16_t request_error(const struct broker_request *rq) {
    const struct kafka_produce_request *q = rq->body;
    if (rq->version < FIRST_SERVED) return KAFKA_UNSUPPORTED_VERSION;
    if (q->acks < -1 || q->acks > 1) return KAFKA_INVALID_REQUIRED_ACKS;
    if (q->transactional_id.p) return KAFKA_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    return KAFKA_NONE;
}

static void answer(struct server_wait *w) {
    broker_answer(w->rq);
}

static void produce_all(struct produce *p, struct broker_request *rq, struct server_wait *w) {
    const struct kafka_produce_request *q = rq->body;
    struct kafka_produce_response *a = rq->answer;
    for (int32_t i = 0; i < q->topics_count; i++)
        for (int32_t k = 0; k < q->topics[i].partitions_count; k++)
            produce_one(p, rq, q->topics[i].name, &q->topics[i].partitions[k], w,
                        &a->topics[i].partitions[k]);
}

static void on_produce(void *state, struct broker_request *rq) {
    struct produce *p = state;
    const struct kafka_produce_request *q = rq->body;
    if (!lay_out_answer(rq)) {
        server_no_memory(rq);
        return;
    }
    int16_t error = request_error(rq);
    if (error) refuse_all(rq, error);
    if (q->acks == 0) {
        if (!error) produce_all(p, rq, NULL);
        if (any_error(rq->answer))
            broker_refuse(rq, "a batch was refused, and acks=0 leaves no other way to tell");
        else
            broker_answer_nothing(rq);
        return;
    }
    struct server_wait *w = error ? NULL : server_wait_begin(rq, answer, NULL);
    if (w) {
        produce_all(p, rq, w);
        server_wait_done(w);
    } else {
        if (!error) refuse_all(rq, KAFKA_KAFKA_STORAGE_ERROR);
        broker_answer(rq);
    }
}

/* ---- the part ---- */

static enum hf_err open_produce(struct server *s, void **state) {
    struct produce *p = calloc(1, sizeof(*p));
    if (!p) return HF_ENOMEM;
    p->server = s;
    enum hf_err e = door_open((size_t)s->settings->message_max * DECOMPRESSED_TIMES, &p->door);
    if (e)
        free(p);
    else
        *state = p;
    return e;
}

static void close_produce(void *state) {
    struct produce *p = state;
    door_close(p->door);
    free(p);
}

static void metrics(void *state, struct hf_buf *out) {
    struct produce *p = state;
    hf_buf_printf(
        out, "# TYPE holdfast_batches_refused_total counter\nholdfast_batches_refused_total %" PRIu64 "\n",
        p->batches_refused);
}

static const struct server_handler handlers[] = {{KAFKA_API_produce, on_produce}};

const struct server_part server_produce = {.name = "produce",
                                           .open = open_produce,
                                           .close = close_produce,
                                           .metrics = metrics,
                                           .handlers = handlers,
                                           .handler_count = 1};
