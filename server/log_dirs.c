/* DescribeLogDirs: how much each partition keeps on the disk, and what room is left there (KIP-113, KIP-827).
 *
 * There is one log directory, the data folder. As in Kafka, a partition that is asked for and is not there is left
 * out, and the size is that of the segments without their indexes. The disk's total is not known (-1). */
#include "server_internal.h"

enum { NOT_KNOWN = -1 };

/* False: there is no such partition. */
static bool describe(struct server *s, hf_str topic, int32_t number,
                     struct kafka_describe_log_dirs_response_partition *out) {
    struct log_partition *p = log_partition(s->log, topic, number);
    if (!p) return false;
    *out = (struct kafka_describe_log_dirs_response_partition){
        .partition_index = number, .partition_size = (int64_t)log_partition_bytes(p)};
    return true;
}

/* Those of the list, or all `count` of them without one. */
static bool fill_topic(struct server *s, struct hf_arena *a, hf_str name, const int32_t *list, int32_t count,
                       struct kafka_describe_log_dirs_response_topic *out) {
    *out = (struct kafka_describe_log_dirs_response_topic){.name = name};
    out->partitions = hf_arena_array(a, (size_t)count, sizeof(*out->partitions));
    for (int32_t i = 0; out->partitions && i < count; i++)
        if (describe(s, name, list ? list[i] : i, &out->partitions[out->partitions_count]))
            out->partitions_count++;
    return out->partitions != NULL;
}

static bool fill_asked(struct server *s, struct broker_request *rq,
                       struct kafka_describe_log_dirs_response_result *out) {
    const struct kafka_describe_log_dirs_request *q = rq->body;
    out->topics = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*out->topics));
    for (int32_t i = 0; out->topics && i < q->topics_count; i++, out->topics_count++)
        if (!fill_topic(s, &rq->arena, q->topics[i].topic, q->topics[i].partitions,
                        q->topics[i].partitions_count, &out->topics[i]))
            return false;
    return out->topics != NULL;
}

static bool fill_all(struct server *s, struct broker_request *rq,
                     struct kafka_describe_log_dirs_response_result *out) {
    size_t count;
    hf_str *names = server_topic_names(s, &rq->arena, &count);
    out->topics = hf_arena_array(&rq->arena, count, sizeof(*out->topics));
    if (!names || !out->topics) return false;
    for (size_t i = 0; i < count; i++, out->topics_count++) {
        struct log_topic_info info;
        if (log_topic(s->log, names[i], &info)) info.partitions = 0;
        if (!fill_topic(s, &rq->arena, names[i], NULL, info.partitions, &out->topics[i])) return false;
    }
    return true;
}

static bool fill(struct server *s, struct broker_request *rq) {
    const struct kafka_describe_log_dirs_request *q = rq->body;
    struct kafka_describe_log_dirs_response *a = rq->answer;
    struct log_stats stats;
    log_stats(s->log, &stats);
    a->results = hf_arena_alloc(&rq->arena, sizeof(*a->results));
    if (!a->results) return false;
    a->results_count = 1;
    a->results[0] = (struct kafka_describe_log_dirs_response_result){
        .log_dir = hf_str_of(s->settings->data),
        .total_bytes = NOT_KNOWN,
        .usable_bytes = stats.free_bytes > INT64_MAX ? NOT_KNOWN : (int64_t)stats.free_bytes};
    return q->topics_count < 0 ? fill_all(s, rq, a->results) : fill_asked(s, rq, a->results);
}

static void on_describe_log_dirs(void *state, struct broker_request *rq) {
    server_answer(rq, fill(state, rq));
}

static const struct server_handler handlers[] = {{KAFKA_API_describe_log_dirs, on_describe_log_dirs}};

const struct server_part server_log_dirs = {.name = "log_dirs", .handlers = handlers, .handler_count = 1};
