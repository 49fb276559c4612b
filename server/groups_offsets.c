/* OffsetCommit and OffsetFetch. The coordinator takes offsets of any name; whether a partition exists, and
 * where it ends, is known here. */
#include "groups_internal.h"

/* ---- OffsetCommit ---- */

/* The coordinator was given the partitions that exist, in the order of the request. */
static void committed(void *arg, enum group_result all, const enum group_result *results) {
    struct broker_request *rq = group_wait_end(arg);
    if (!rq) return;
    const struct kafka_offset_commit_request *q = rq->body;
    struct kafka_offset_commit_response *a = rq->answer;
    size_t at = 0;
    for (int32_t i = 0; i < q->topics_count; i++)
        for (int32_t k = 0; k < q->topics[i].partitions_count; k++) {
            struct kafka_offset_commit_response_partition *out = &a->topics[i].partitions[k];
            if (out->error_code) continue; /* never came so far */
            out->error_code = groups_error(all ? all : results[at]);
            at++;
        }
    broker_answer(rq);
}

static size_t count_partitions(const struct kafka_offset_commit_request *q) {
    size_t n = 0;
    for (int32_t i = 0; i < q->topics_count; i++) n += (size_t)q->topics[i].partitions_count;
    return n;
}

static void commit_topic(struct server *s, const struct kafka_offset_commit_request_topic *in,
                         struct kafka_offset_commit_response_topic *out, struct group_offset *offsets,
                         size_t *n) {
    out->name = in->name;
    out->partitions_count = in->partitions_count;
    for (int32_t k = 0; k < in->partitions_count; k++) {
        const struct kafka_offset_commit_request_partition *p = &in->partitions[k];
        out->partitions[k].partition_index = p->partition_index;
        if (!log_partition(s->log, in->name, p->partition_index)) {
            out->partitions[k].error_code = KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
            continue;
        }
        offsets[(*n)++] = (struct group_offset){.topic = in->name,
                                                .partition = p->partition_index,
                                                .offset = p->committed_offset,
                                                .leader_epoch = p->committed_leader_epoch,
                                                .metadata = p->committed_metadata};
    }
}

void on_offset_commit(void *state, struct broker_request *rq) {
    struct groups_part *p = state;
    const struct kafka_offset_commit_request *q = rq->body;
    struct kafka_offset_commit_response *a = rq->answer;
    size_t n = 0;
    struct group_offset *offsets = hf_arena_array(&rq->arena, count_partitions(q), sizeof(*offsets));
    a->topics = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*a->topics));
    bool fits = offsets && a->topics;
    for (int32_t i = 0; fits && i < q->topics_count; i++) {
        struct kafka_offset_commit_response_topic *out = &a->topics[i];
        out->partitions =
            hf_arena_array(&rq->arena, (size_t)q->topics[i].partitions_count, sizeof(*out->partitions));
        fits = out->partitions != NULL;
        if (fits) commit_topic(p->server, &q->topics[i], out, offsets, &n);
    }
    if (!fits) {
        server_no_memory(rq);
        return;
    }
    a->topics_count = q->topics_count;
    const struct group_commit r = {
        .who = {q->group_id, q->member_id, q->group_instance_id, q->generation_id},
        .offsets = offsets,
        .offset_count = n,
    };
    struct group_wait *w = group_wait_begin(rq);
    if (w) group_commit(p->groups, groups_now_ms(p), &r, committed, w);
}

/* ---- OffsetFetch ---- */

/* A committed offset is never shown beyond the partition's end: what lay there may have been lost with the
 * power, and a consumer must not wait for messages that come with other offsets. */
static int64_t clamp(struct server *s, const struct group_offset *o) {
    struct log_partition *p = log_partition(s->log, o->topic, o->partition);
    if (!p) return o->offset;
    struct log_bounds bounds;
    log_bounds(p, &bounds);
    return o->offset < bounds.end ? o->offset : bounds.end;
}

static bool show(struct server *s, struct broker_request *rq, const struct group_offset *o,
                 struct kafka_offset_fetch_response_partition *out) {
    *out = (struct kafka_offset_fetch_response_partition){.partition_index = o->partition,
                                                          .committed_offset = clamp(s, o),
                                                          .committed_leader_epoch = o->leader_epoch,
                                                          .metadata = o->metadata};
    return groups_keep(rq, &out->metadata);
}

/* "None" is offset -1 without an error, for unknown groups too. */
static bool fetch_named(struct groups_part *p, struct broker_request *rq, hf_str group, hf_str topic,
                        int32_t partition, struct kafka_offset_fetch_response_partition *out) {
    struct group_offset o;
    *out = (struct kafka_offset_fetch_response_partition){.partition_index = partition,
                                                          .committed_offset = -1,
                                                          .committed_leader_epoch = -1,
                                                          .metadata = HF_STR("")};
    return !group_offset_get(p->groups, group, topic, partition, &o) || show(p->server, rq, &o, out);
}

struct fetched {
    struct kafka_offset_fetch_response_topic *topics;
    int32_t count;
};

static bool fetch_topics(struct groups_part *p, struct broker_request *rq, hf_str group,
                         const struct kafka_offset_fetch_request_topic *in, int32_t count,
                         struct fetched *out) {
    out->topics = hf_arena_array(&rq->arena, (size_t)count, sizeof(*out->topics));
    if (!out->topics) return false;
    out->count = count;
    bool fits = true;
    for (int32_t i = 0; fits && i < count; i++) {
        struct kafka_offset_fetch_response_topic *t = &out->topics[i];
        t->name = in[i].name;
        t->partitions_count = in[i].partition_indexes_count;
        t->partitions = hf_arena_array(&rq->arena, (size_t)t->partitions_count, sizeof(*t->partitions));
        fits = t->partitions != NULL;
        for (int32_t k = 0; fits && k < t->partitions_count; k++)
            fits = fetch_named(p, rq, group, t->name, in[i].partition_indexes[k], &t->partitions[k]);
    }
    return fits;
}

/* All offsets of a group, which come by topic: counted first, then filled in. */
struct all {
    struct server *server;
    struct broker_request *rq;
    struct fetched *out;
    hf_str topic;
    size_t topics, partitions;
    struct kafka_offset_fetch_response_partition *room; /* what is left of one array for all */
    bool fits;
};

static void count_offset(void *arg, const struct group_offset *o) {
    struct all *a = arg;
    if (!a->topic.p || !hf_str_eq(a->topic, o->topic)) a->topics++;
    a->topic = o->topic;
    a->partitions++;
}

static void fill_offset(void *arg, const struct group_offset *o) {
    struct all *a = arg;
    struct fetched *f = a->out;
    if (!a->fits) return;
    if (f->count == 0 || !hf_str_eq(f->topics[f->count - 1].name, o->topic)) {
        f->topics[f->count] =
            (struct kafka_offset_fetch_response_topic){.name = o->topic, .partitions = a->room};
        a->fits = groups_keep(a->rq, &f->topics[f->count].name);
        f->count++;
    }
    a->fits = a->fits && show(a->server, a->rq, o, a->room++);
    f->topics[f->count - 1].partitions_count++;
}

static bool fetch_all(struct groups_part *p, struct broker_request *rq, hf_str group, struct fetched *out) {
    struct all a = {.server = p->server, .rq = rq, .out = out, .fits = true};
    group_offset_each(p->groups, group, count_offset, &a);
    out->topics = hf_arena_array(&rq->arena, a.topics, sizeof(*out->topics));
    a.room = hf_arena_array(&rq->arena, a.partitions, sizeof(*a.room));
    if (!out->topics || !a.room) return false;
    group_offset_each(p->groups, group, fill_offset, &a);
    return a.fits;
}

static bool fetch_group(struct groups_part *p, struct broker_request *rq, hf_str group,
                        const struct kafka_offset_fetch_request_topic *topics, int32_t count,
                        struct fetched *out) {
    bool all = count < 0;
    return all ? fetch_all(p, rq, group, out) : fetch_topics(p, rq, group, topics, count, out);
}

void on_offset_fetch(void *state, struct broker_request *rq) {
    enum { GROUPS_FROM = 8 };
    struct groups_part *p = state;
    const struct kafka_offset_fetch_request *q = rq->body;
    struct kafka_offset_fetch_response *a = rq->answer;
    struct fetched f = {0};
    a->groups = hf_arena_array(&rq->arena, (size_t)q->groups_count, sizeof(*a->groups));
    bool fits = a->groups != NULL;
    if (fits && rq->version < GROUPS_FROM) {
        fits = fetch_group(p, rq, q->group_id, q->topics, q->topics_count, &f);
        a->topics = f.topics;
        a->topics_count = f.count;
    }
    for (int32_t i = 0; fits && i < q->groups_count; i++) {
        const struct kafka_offset_fetch_request_group *in = &q->groups[i];
        f = (struct fetched){0};
        fits = fetch_group(p, rq, in->group_id, in->topics, in->topics_count, &f);
        a->groups[i] = (struct kafka_offset_fetch_response_group){
            .group_id = in->group_id, .topics = f.topics, .topics_count = f.count};
        a->groups_count = i + 1;
    }
    if (fits)
        broker_answer(rq);
    else
        server_no_memory(rq);
}

/* ---- from inside ---- */

bool server_offset_get(struct server *s, hf_str group, hf_str topic, int32_t partition, int64_t *offset,
                       hf_str *metadata) {
    struct groups_part *p = server_state(s, &server_groups);
    struct group_offset o;
    if (!p || !group_offset_get(p->groups, group, topic, partition, &o)) return false;
    *offset = clamp(s, &o);
    *metadata = o.metadata;
    return true;
}

static void nobody_waits(void *arg, enum group_result all, const enum group_result *results) {
    (void)arg, (void)all, (void)results;
}

void server_offset_put(struct server *s, hf_str group, hf_str topic, int32_t partition, int64_t offset,
                       hf_str metadata) {
    struct groups_part *p = server_state(s, &server_groups);
    if (!p) return;
    const struct group_offset o = {
        .topic = topic, .partition = partition, .offset = offset, .leader_epoch = -1, .metadata = metadata};
    const struct group_commit r = {
        .who = {.group = group, .member_id = HF_STR(""), .generation = -1}, .offsets = &o, .offset_count = 1};
    group_commit(p->groups, groups_now_ms(p), &r, nobody_waits, NULL);
}
