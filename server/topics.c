/* CreateTopics, CreatePartitions and DeleteTopics. Each topic of a request stands for itself; the answer leaves
 * when all have ended, so that a created topic serves, with all its partitions, and a deleted one is gone for
 * good.
 *
 * Names that begin with "holdfast." belong to the scheduler and the coordinator: clients neither create, grow
 * nor delete them. */
#include "server_internal.h"

#include "base/names.h"

#include <stdlib.h>

/* ---- a topic's part of the answer, filled in by a completion ---- */

struct change {
    struct server_wait *wait;
    int16_t *error; /* in the answer: looked at only while wait->rq is there */
};

static void on_changed(void *arg, enum hf_err e) {
    struct change *c = arg;
    if (c->wait->rq) *c->error = kafka_error_of(e);
    server_wait_done(c->wait);
    free(c);
}

static struct change *begin_change(struct server_wait *w, int16_t *error) {
    struct change *c = malloc(sizeof(*c));
    if (!c) return NULL;
    *c = (struct change){.wait = w, .error = error};
    server_wait_more(w);
    return c;
}

static void abort_change(struct change *c) {
    server_wait_done(c->wait);
    free(c);
}

static void answer(struct server_wait *w) {
    broker_answer(w->rq);
}

/* Rows of the answer, one a topic, zeroed, and what waits for their changes. NULL: the request is answered. */
static void *begin_rows(struct broker_request *rq, int32_t count, size_t row_bytes,
                        void (*answered)(struct server_wait *), void *arg, struct server_wait **w) {
    if (count > SERVER_TOPICS_MAX) {
        broker_refuse(rq, "more topics than one request may change");
        return NULL;
    }
    void *rows = hf_arena_array(&rq->arena, (size_t)count, row_bytes);
    *w = rows ? server_wait_begin(rq, answered, arg) : NULL;
    if (*w) return rows;
    server_no_memory(rq);
    return NULL;
}

/* ---- CreateTopics ---- */

struct topic_error {
    int16_t error;
    hf_str message;
};

static struct topic_error fault(int16_t error, const char *message) {
    return (struct topic_error){error, hf_str_of(message)};
}

/* Assignments by hand name partitions 0…n-1, each on the one node there is. */
static struct topic_error check_assignments(const struct kafka_create_topics_request_topic *t) {
    if (t->num_partitions != -1 || t->replication_factor != -1)
        return fault(KAFKA_INVALID_REQUEST, "assignments exclude num_partitions and replication_factor");
    for (int32_t i = 0; i < t->assignments_count; i++) {
        const struct kafka_create_topics_assignment *a = &t->assignments[i];
        if (a->partition_index != i || a->broker_ids_count != 1 || a->broker_ids[0] != SERVER_NODE_ID)
            return fault(KAFKA_INVALID_REPLICA_ASSIGNMENT, "partitions count from 0, each on node 1 alone");
    }
    return fault(KAFKA_NONE, NULL);
}

static struct topic_error check_creation(struct server *s, struct hf_arena *a,
                                         const struct kafka_create_topics_request_topic *t,
                                         struct log_topic_config *config) {
    struct log_topic_info info;
    if (!hf_topic_name_ok(t->name))
        return fault(KAFKA_INVALID_TOPIC_EXCEPTION, "a name is 1 to 249 of letters, digits, '.', '_', '-'");
    if (hf_topic_is_ours(t->name))
        return fault(KAFKA_INVALID_TOPIC_EXCEPTION, "names that begin with holdfast. are the server's");
    if (log_topic(s->log, t->name, &info) == HF_OK)
        return fault(KAFKA_TOPIC_ALREADY_EXISTS, "the topic exists already");
    config->partitions = t->num_partitions == -1 ? (int32_t)s->settings->num_partitions : t->num_partitions;
    if (t->assignments_count > 0) {
        struct topic_error e = check_assignments(t);
        if (e.error) return e;
        config->partitions = t->assignments_count;
    }
    if (config->partitions < 1 || config->partitions > SERVER_PARTITIONS_MAX)
        return fault(KAFKA_INVALID_PARTITIONS, "a topic has 1 to 10000 partitions");
    if (t->assignments_count == 0 && t->replication_factor != -1 && t->replication_factor != 1)
        return fault(KAFKA_INVALID_REPLICATION_FACTOR, "there is one node: the replication factor is 1");
    for (int32_t i = 0; i < t->configs_count; i++) {
        struct topic_error e = {0};
        e.error = server_setting_take(a, t->name, t->configs[i].name, t->configs[i].value, &config->settings,
                                      &e.message);
        if (e.error) return e;
    }
    return fault(KAFKA_NONE, NULL);
}

static bool named_twice(const struct kafka_create_topics_request *q, int32_t i) {
    for (int32_t k = 0; k < q->topics_count; k++)
        if (k != i && hf_str_eq(q->topics[k].name, q->topics[i].name)) return true;
    return false;
}

static struct topic_error start_creation(struct server *s, hf_str name, const struct log_topic_config *config,
                                         struct server_wait *w, int16_t *error) {
    struct change *c = begin_change(w, error);
    if (!c) return fault(KAFKA_KAFKA_STORAGE_ERROR, "out of memory");
    enum hf_err e = log_topic_create(s->log, name, config, on_changed, c);
    if (!e) return fault(KAFKA_NONE, NULL);
    abort_change(c);
    return e == HF_EINVAL
               ? fault(KAFKA_INVALID_TOPIC_EXCEPTION, "the name differs from another by '.' and '_' only")
               : fault(kafka_error_of(e), hf_err_text(e));
}

static void create_one(struct server *s, const struct kafka_create_topics_request *q, int32_t i,
                       struct server_wait *w, struct kafka_create_topics_response_topic *out) {
    const struct kafka_create_topics_request_topic *t = &q->topics[i];
    struct log_topic_config config = {0};
    *out = (struct kafka_create_topics_response_topic){
        .name = t->name, .num_partitions = -1, .replication_factor = -1};
    struct topic_error e = named_twice(q, i) ? fault(KAFKA_INVALID_REQUEST, "named twice in one request")
                                             : check_creation(s, &w->rq->arena, t, &config);
    if (!e.error && !q->validate_only) e = start_creation(s, t->name, &config, w, &out->error_code);
    if (e.error) {
        out->error_code = e.error;
        out->error_message = e.message;
        return;
    }
    out->num_partitions = config.partitions;
    out->replication_factor = 1;
}

/* Ids are known when the topics are there. */
static void answer_created(struct server_wait *w) {
    struct server *s = w->arg;
    struct kafka_create_topics_response *a = w->rq->answer;
    for (int32_t i = 0; i < a->topics_count; i++) {
        struct log_topic_info info;
        if (!a->topics[i].error_code && log_topic(s->log, a->topics[i].name, &info) == HF_OK)
            memcpy(a->topics[i].topic_id.b, info.id.b, sizeof(info.id.b));
    }
    broker_answer(w->rq);
}

static void on_create(void *state, struct broker_request *rq) {
    const struct kafka_create_topics_request *q = rq->body;
    struct kafka_create_topics_response *a = rq->answer;
    struct server_wait *w;
    a->topics = begin_rows(rq, q->topics_count, sizeof(*a->topics), answer_created, state, &w);
    if (!a->topics) return;
    a->topics_count = q->topics_count;
    for (int32_t i = 0; i < q->topics_count; i++) create_one(state, q, i, w, &a->topics[i]);
    server_wait_done(w);
}

/* ---- CreatePartitions ---- */

static struct topic_error check_growth(struct server *s, struct hf_arena *a,
                                       const struct kafka_create_partitions_request_topic *t) {
    struct log_topic_info info;
    if (hf_topic_is_ours(t->name))
        return fault(KAFKA_INVALID_TOPIC_EXCEPTION, "topics that begin with holdfast. are the server's");
    if (log_topic(s->log, t->name, &info))
        return fault(KAFKA_UNKNOWN_TOPIC_OR_PARTITION, "there is no such topic");
    if (t->count <= info.partitions)
        return (struct topic_error){
            KAFKA_INVALID_PARTITIONS,
            hf_arena_printf(a, "the topic has %d partitions: it can only have more, not %d", info.partitions,
                            t->count)};
    if (t->count > SERVER_PARTITIONS_MAX)
        return fault(KAFKA_INVALID_PARTITIONS, "a topic has 1 to 10000 partitions");
    if (t->assignments_count > 0 && t->assignments_count != t->count - info.partitions)
        return fault(KAFKA_INVALID_REPLICA_ASSIGNMENT,
                     "an assignment for each partition that is added, or none");
    for (int32_t i = 0; i < t->assignments_count; i++)
        if (t->assignments[i].broker_ids_count != 1 || t->assignments[i].broker_ids[0] != SERVER_NODE_ID)
            return fault(KAFKA_INVALID_REPLICA_ASSIGNMENT, "each partition is on node 1 alone");
    return fault(KAFKA_NONE, NULL);
}

static struct topic_error start_growth(struct server *s,
                                       const struct kafka_create_partitions_request_topic *t,
                                       struct server_wait *w, int16_t *error) {
    struct change *c = begin_change(w, error);
    if (!c) return fault(KAFKA_KAFKA_STORAGE_ERROR, "out of memory");
    enum hf_err e = log_topic_grow(s->log, t->name, t->count, on_changed, c);
    if (!e) return fault(KAFKA_NONE, NULL);
    abort_change(c);
    if (e == HF_EAGAIN)
        return fault(KAFKA_REASSIGNMENT_IN_PROGRESS, "partitions are being added to it already");
    if (e == HF_ELIMIT)
        return fault(KAFKA_INVALID_PARTITIONS, "all topics together have 100000 partitions at most");
    return fault(kafka_error_of(e), hf_err_text(e));
}

static void grow_one(struct server *s, const struct kafka_create_partitions_request *q, int32_t i,
                     struct server_wait *w, struct kafka_create_partitions_response_topic *out) {
    const struct kafka_create_partitions_request_topic *t = &q->topics[i];
    out->name = t->name;
    struct topic_error e = check_growth(s, &w->rq->arena, t);
    if (!e.error && !q->validate_only) e = start_growth(s, t, w, &out->error_code);
    if (!e.error) return;
    out->error_code = e.error;
    out->error_message = e.message;
}

static void on_create_partitions(void *state, struct broker_request *rq) {
    const struct kafka_create_partitions_request *q = rq->body;
    struct kafka_create_partitions_response *a = rq->answer;
    struct server_wait *w;
    a->results = begin_rows(rq, q->topics_count, sizeof(*a->results), answer, NULL, &w);
    if (!a->results) return;
    a->results_count = q->topics_count;
    for (int32_t i = 0; i < q->topics_count; i++) grow_one(state, q, i, w, &a->results[i]);
    server_wait_done(w);
}

/* ---- DeleteTopics ---- */

/* Keys of committed offsets of one topic, whichever group's: they go with it. */
struct offset_keys {
    struct hf_arena arena;
    hf_str *keys;
    size_t count, room;
    bool no_memory;
};

static void collect_key(void *arg, hf_str key) {
    struct offset_keys *o = arg;
    if (o->no_memory) return;
    if (o->count == o->room) {
        size_t room = o->room ? o->room * 2 : 16;
        hf_str *keys = realloc(o->keys, room * sizeof(*keys));
        if (!keys) {
            o->no_memory = true;
            return;
        }
        o->keys = keys;
        o->room = room;
    }
    hf_str copy = hf_arena_str(&o->arena, key);
    if (copy.p)
        o->keys[o->count++] = copy;
    else
        o->no_memory = true;
}

/* Its offsets are not shown any more once its record is on the way: a commit that comes later is one of the
 * topic that will bear this name next. */
static enum hf_err delete_topic(struct server *s, hf_str name, struct change *c) {
    enum { KEYS_BYTES_MAX = 64 << 20 };
    struct log_topic_info info;
    if (log_topic(s->log, name, &info)) return HF_ENOTFOUND;
    struct offset_keys o = {0};
    hf_arena_init(&o.arena, KEYS_BYTES_MAX);
    server_offset_keys(s, name, collect_key, &o);
    enum hf_err e = o.no_memory ? HF_ENOMEM : log_topic_delete(s->log, name, o.keys, o.count, on_changed, c);
    if (!e) server_offsets_deleted(s, name);
    free(o.keys);
    hf_arena_fini(&o.arena);
    return e;
}

static void delete_one(struct server *s, hf_str name, struct server_wait *w,
                       struct kafka_delete_topics_response_topic *out) {
    out->name = name;
    if (hf_topic_is_ours(name)) {
        out->error_code = KAFKA_INVALID_TOPIC_EXCEPTION;
        out->error_message = HF_STR("topics that begin with holdfast. are the server's");
        return;
    }
    struct change *c = begin_change(w, &out->error_code);
    enum hf_err e = c ? delete_topic(s, name, c) : HF_ENOMEM;
    if (c && e) abort_change(c);
    if (e) out->error_code = e == HF_ENOMEM ? KAFKA_KAFKA_STORAGE_ERROR : kafka_error_of(e);
    if (e != HF_ELIMIT) return;
    out->error_code = KAFKA_POLICY_VIOLATION;
    out->error_message =
        HF_STR("more than 65,535 committed offsets, or 8 MiB of their names, would go with it in one "
               "record: delete groups that read it first");
}

/* By id (version 6): the name is null. */
static void delete_by_id(struct server *s, struct broker_request *rq, struct kafka_uuid id,
                         struct server_wait *w, struct kafka_delete_topics_response_topic *out) {
    struct log_uuid uuid;
    struct log_topic_info info;
    memcpy(uuid.b, id.b, sizeof(uuid.b));
    out->topic_id = id;
    if (log_topic_by_id(s->log, uuid, &info)) {
        out->error_code = KAFKA_UNKNOWN_TOPIC_ID;
        return;
    }
    delete_one(s, hf_arena_str(&rq->arena, info.name), w, out);
}

static void on_delete(void *state, struct broker_request *rq) {
    const struct kafka_delete_topics_request *q = rq->body;
    struct kafka_delete_topics_response *a = rq->answer;
    int32_t count = q->topics_count + q->topic_names_count; /* a version has one of the two */
    struct server_wait *w;
    a->topics = begin_rows(rq, count, sizeof(*a->topics), answer, NULL, &w);
    if (!a->topics) return;
    a->topics_count = count;
    for (int32_t i = 0; i < q->topic_names_count; i++) delete_one(state, q->topic_names[i], w, &a->topics[i]);
    for (int32_t i = 0; i < q->topics_count; i++) {
        if (q->topics[i].name.p)
            delete_one(state, q->topics[i].name, w, &a->topics[i]);
        else
            delete_by_id(state, rq, q->topics[i].topic_id, w, &a->topics[i]);
    }
    server_wait_done(w);
}

static const struct server_handler handlers[] = {
    {KAFKA_API_create_topics, on_create},
    {KAFKA_API_create_partitions, on_create_partitions},
    {KAFKA_API_delete_topics, on_delete},
};

const struct server_part server_topics = {
    .name = "topics", .handlers = handlers, .handler_count = sizeof(handlers) / sizeof(handlers[0])};
