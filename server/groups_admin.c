/* DescribeGroups, ListGroups, DeleteGroups. */
#include "groups_internal.h"

#include <stdlib.h>
#include <strings.h>

/* ---- DescribeGroups ---- */

static void describe_member(void *arg, const struct group_member_view *m) {
    struct kafka_described_group *out = arg;
    out->members[out->members_count++] = (struct kafka_described_member){.member_id = m->id,
                                                                         .group_instance_id = m->instance_id,
                                                                         .client_id = m->client_id,
                                                                         .client_host = m->client_host,
                                                                         .member_metadata = m->metadata,
                                                                         .member_assignment = m->assignment};
}

static bool keep_member(struct broker_request *rq, struct kafka_described_member *m) {
    if (!m->member_assignment.p) m->member_assignment = HF_STR("");
    return groups_keep(rq, &m->member_id) && groups_keep(rq, &m->group_instance_id) &&
           groups_keep(rq, &m->client_id) && groups_keep(rq, &m->client_host) &&
           groups_keep(rq, &m->member_metadata) && groups_keep(rq, &m->member_assignment);
}

/* A group that does not exist is "Dead", without an error. */
static bool describe_one(struct groups_part *p, struct broker_request *rq, hf_str id,
                         struct kafka_described_group *out) {
    struct group_view v;
    group_describe(p->groups, id, &v, NULL, NULL);
    *out = (struct kafka_described_group){.group_id = id,
                                          .group_state = hf_str_of(group_state_name(v.state)),
                                          .protocol_type = v.protocol_type,
                                          .protocol_data = v.protocol,
                                          .authorized_operations = INT32_MIN};
    out->members = hf_arena_array(&rq->arena, v.member_count, sizeof(*out->members));
    if (!out->members) return false;
    group_describe(p->groups, id, &v, describe_member, out);
    bool kept = groups_keep(rq, &out->protocol_type) && groups_keep(rq, &out->protocol_data);
    for (int32_t i = 0; kept && i < out->members_count; i++) kept = keep_member(rq, &out->members[i]);
    return kept;
}

void on_describe_groups(void *state, struct broker_request *rq) {
    const struct kafka_describe_groups_request *q = rq->body;
    struct kafka_describe_groups_response *a = rq->answer;
    a->groups = hf_arena_array(&rq->arena, (size_t)q->groups_count, sizeof(*a->groups));
    bool fits = a->groups != NULL;
    for (int32_t i = 0; fits && i < q->groups_count; i++) {
        fits = describe_one(state, rq, q->groups[i], &a->groups[i]);
        a->groups_count = i + 1;
    }
    if (fits)
        broker_answer(rq);
    else
        server_no_memory(rq);
}

/* ---- ListGroups ---- */

struct listing {
    const struct kafka_list_groups_request *q;
    struct kafka_listed_group *groups;
    int32_t count;
};

static bool wanted(const struct kafka_list_groups_request *q, const char *state) {
    if (q->states_filter_count <= 0) return true;
    for (int32_t i = 0; i < q->states_filter_count; i++) {
        hf_str s = q->states_filter[i];
        if (s.n == strlen(state) && strncasecmp(s.p, state, s.n) == 0) return true;
    }
    return false;
}

static void count_group(void *arg, const struct group_view *g) {
    (void)g;
    ++*(size_t *)arg;
}

static void list_group(void *arg, const struct group_view *g) {
    struct listing *l = arg;
    const char *state = group_state_name(g->state);
    if (!wanted(l->q, state)) return;
    l->groups[l->count++] = (struct kafka_listed_group){
        .group_id = g->id, .protocol_type = g->protocol_type, .group_state = hf_str_of(state)};
}

void on_list_groups(void *state, struct broker_request *rq) {
    struct groups_part *p = state;
    struct kafka_list_groups_response *a = rq->answer;
    size_t n = 0;
    groups_each(p->groups, count_group, &n);
    struct listing l = {.q = rq->body, .groups = hf_arena_array(&rq->arena, n, sizeof(*l.groups))};
    if (!l.groups) {
        server_no_memory(rq);
        return;
    }
    groups_each(p->groups, list_group, &l);
    a->groups = l.groups;
    a->groups_count = l.count;
    bool kept = true;
    for (int32_t i = 0; kept && i < l.count; i++)
        kept = groups_keep(rq, &l.groups[i].group_id) && groups_keep(rq, &l.groups[i].protocol_type);
    if (kept)
        broker_answer(rq);
    else
        server_no_memory(rq);
}

/* ---- DeleteGroups ---- */

struct deletion {
    struct server_wait *wait;
    int16_t *error; /* in the answer: looked at only while wait->rq is there */
};

static void deleted(void *arg, enum group_result r) {
    struct deletion *d = arg;
    if (d->wait->rq) *d->error = groups_error(r);
    server_wait_done(d->wait);
    free(d);
}

static void answer(struct server_wait *w) {
    broker_answer(w->rq);
}

void on_delete_groups(void *state, struct broker_request *rq) {
    struct groups_part *p = state;
    const struct kafka_delete_groups_request *q = rq->body;
    struct kafka_delete_groups_response *a = rq->answer;
    a->results = hf_arena_array(&rq->arena, (size_t)q->groups_names_count, sizeof(*a->results));
    struct server_wait *w = a->results ? server_wait_begin(rq, answer, NULL) : NULL;
    if (!w) {
        server_no_memory(rq);
        return;
    }
    a->results_count = q->groups_names_count;
    for (int32_t i = 0; i < q->groups_names_count; i++) {
        struct deletion *d = malloc(sizeof(*d));
        a->results[i].group_id = q->groups_names[i];
        a->results[i].error_code = KAFKA_COORDINATOR_NOT_AVAILABLE;
        if (!d) continue;
        *d = (struct deletion){w, &a->results[i].error_code};
        server_wait_more(w);
        group_delete(p->groups, groups_now_ms(p), q->groups_names[i], deleted, d);
    }
    server_wait_done(w);
}
