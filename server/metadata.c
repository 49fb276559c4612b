/* Metadata and FindCoordinator: where is what. There is one node, it leads every partition and coordinates
 * every group.
 *
 * A topic that is named, missing and may be created is created before the answer, so that the client's next
 * request finds it. A missing one of ours ("holdfast.delays") will never be there: its name is answered as
 * invalid, which producers give up on at once, where an unknown topic is waited for. Questions to producer
 * groups are not: their topic comes with the first one. */
#include "server_internal.h"

#include "base/names.h"

#include <stdlib.h>

/* ---- Metadata ---- */

static bool fill_partitions(struct server *s, struct hf_arena *a, const struct log_topic_info *info,
                            struct kafka_metadata_topic *out) {
    int32_t *node = hf_arena_alloc(a, sizeof(*node));
    out->partitions = hf_arena_array(a, (size_t)info->partitions, sizeof(*out->partitions));
    if (!node || !out->partitions) return false;
    *node = SERVER_NODE_ID;
    out->partitions_count = info->partitions;
    for (int32_t i = 0; i < info->partitions; i++) {
        struct log_bounds bounds;
        struct log_partition *p = log_partition(s->log, info->name, i);
        if (p) log_bounds(p, &bounds);
        out->partitions[i] = (struct kafka_metadata_partition){
            .error_code = p ? KAFKA_NONE : KAFKA_LEADER_NOT_AVAILABLE,
            .partition_index = i,
            .leader_id = SERVER_NODE_ID,
            .leader_epoch = p ? bounds.leader_epoch : -1,
            .replica_nodes = node,
            .replica_nodes_count = 1,
            .isr_nodes = node,
            .isr_nodes_count = 1,
        };
    }
    return true;
}

static bool fill_topic(struct server *s, struct hf_arena *a, hf_str name, struct kafka_metadata_topic *out) {
    *out = (struct kafka_metadata_topic){.name = name, .topic_authorized_operations = INT32_MIN};
    struct log_topic_info info;
    bool never = hf_topic_is_ours(name) && !hf_str_starts(name, HF_STR(HF_TOPIC_CHECK));
    if (!hf_topic_name_ok(name))
        out->error_code = KAFKA_INVALID_TOPIC_EXCEPTION;
    else if (log_topic(s->log, name, &info))
        out->error_code = never ? KAFKA_INVALID_TOPIC_EXCEPTION : KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
    else {
        out->is_internal = info.internal;
        return fill_partitions(s, a, &info, out);
    }
    return true;
}

struct listing {
    hf_str *names;
    size_t count, room;
};

static void list_topic(void *arg, const struct log_topic_info *t) {
    struct listing *l = arg;
    if (l->names && l->count < l->room) l->names[l->count] = t->name;
    l->count++;
}

hf_str *server_topic_names(struct server *s, struct hf_arena *a, size_t *count) {
    struct listing l = {0};
    log_topic_each(s->log, list_topic, &l);
    l.room = l.count;
    l.count = 0;
    l.names = hf_arena_array(a, l.room, sizeof(*l.names));
    if (l.names) log_topic_each(s->log, list_topic, &l);
    *count = l.count;
    return l.names;
}

/* The names asked for, or all there are. NULL: no memory. */
static hf_str *wanted_topics(struct server *s, struct broker_request *rq, size_t *count) {
    const struct kafka_metadata_request *q = rq->body;
    bool all = q->topics_count < 0 || (rq->version == 0 && q->topics_count == 0);
    if (all) return server_topic_names(s, &rq->arena, count);
    hf_str *names = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*names));
    for (int32_t i = 0; names && i < q->topics_count; i++) names[i] = q->topics[i].name;
    *count = (size_t)q->topics_count;
    return names;
}

static bool fill_metadata(struct server *s, struct broker_request *rq) {
    struct kafka_metadata_response *a = rq->answer;
    size_t count;
    hf_str *names = wanted_topics(s, rq, &count);
    a->brokers = hf_arena_alloc(&rq->arena, sizeof(*a->brokers));
    if (!a->brokers || !names) return false;
    a->brokers[0] = (struct kafka_metadata_broker){SERVER_NODE_ID, hf_str_of(s->host), s->port, {NULL, 0}};
    a->brokers_count = 1;
    a->cluster_id = hf_str_of(log_cluster_id(s->log));
    a->controller_id = SERVER_NODE_ID;
    a->topics = hf_arena_array(&rq->arena, count, sizeof(*a->topics));
    for (size_t i = 0; a->topics && i < count; i++)
        if (!fill_topic(s, &rq->arena, names[i], &a->topics[i])) return false;
    a->topics_count = (int32_t)count;
    return a->topics != NULL;
}

static void answer_metadata(struct server_wait *w) {
    server_answer(w->rq, fill_metadata(w->arg, w->rq));
}

static void on_created(void *arg, enum hf_err e) {
    (void)e; /* the answer says whether the topic is there */
    server_wait_done(arg);
}

enum hf_err server_auto_create(struct server *s, hf_str topic, log_done *done, void *arg) {
    struct log_topic_info info;
    if (!hf_topic_name_ok(topic)) return HF_EINVAL;
    if (log_topic(s->log, topic, &info) == HF_OK) return HF_EEXIST;
    if (!s->settings->auto_create || hf_topic_is_ours(topic)) return HF_ENOTFOUND;
    return log_topic_create(s->log, topic, &(struct log_topic_config){0}, done, arg);
}

static void on_metadata(void *state, struct broker_request *rq) {
    struct server *s = state;
    const struct kafka_metadata_request *q = rq->body;
    struct server_wait *w = server_wait_begin(rq, answer_metadata, s);
    if (!w) {
        broker_refuse(rq, "out of memory");
        return;
    }
    for (int32_t i = 0; q->allow_auto_topic_creation && i < q->topics_count && i < SERVER_TOPICS_MAX; i++) {
        server_wait_more(w);
        if (server_auto_create(s, q->topics[i].name, on_created, w)) server_wait_done(w);
    }
    server_wait_done(w);
}

/* ---- FindCoordinator ---- */

enum { COORDINATOR_OF_GROUP = 0 };

static int16_t coordinator_error(const struct kafka_find_coordinator_request *q) {
    return q->key_type == COORDINATOR_OF_GROUP ? KAFKA_NONE : KAFKA_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
}

static hf_str coordinator_message(int16_t error) {
    return error ? HF_STR("Kafka transactions are not supported; see topic holdfast.txn") : (hf_str){NULL, 0};
}

static void on_find_coordinator(void *state, struct broker_request *rq) {
    struct server *s = state;
    const struct kafka_find_coordinator_request *q = rq->body;
    struct kafka_find_coordinator_response *a = rq->answer;
    int16_t error = coordinator_error(q);
    int32_t node = error ? -1 : SERVER_NODE_ID, port = error ? -1 : s->port;
    hf_str host = error ? HF_STR("") : hf_str_of(s->host);
    a->error_code = error;
    a->error_message = coordinator_message(error);
    a->node_id = node;
    a->host = host;
    a->port = port;
    size_t count = q->coordinator_keys_count > 0 ? (size_t)q->coordinator_keys_count : 0;
    a->coordinators = hf_arena_array(&rq->arena, count, sizeof(*a->coordinators));
    for (size_t i = 0; a->coordinators && i < count; i++) {
        a->coordinators[i] = (struct kafka_coordinator){
            .key = q->coordinator_keys[i],
            .node_id = node,
            .host = host,
            .port = port,
            .error_code = error,
            .error_message = coordinator_message(error),
        };
        a->coordinators_count = (int32_t)i + 1;
    }
    broker_answer(rq);
}

static const struct server_handler handlers[] = {
    {KAFKA_API_metadata, on_metadata},
    {KAFKA_API_find_coordinator, on_find_coordinator},
};

const struct server_part server_metadata = {
    .name = "metadata", .handlers = handlers, .handler_count = sizeof(handlers) / sizeof(handlers[0])};
