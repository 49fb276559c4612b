/* FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup. */
#include "groups_internal.h"

enum { KEY_GROUP = 0, KEY_TRANSACTION = 1 };

/* ---- FindCoordinator: there is one node, and it is everybody's ---- */

static int16_t coordinator_error(int8_t key_type) {
    return key_type == KEY_GROUP || key_type == KEY_TRANSACTION ? KAFKA_NONE : KAFKA_INVALID_REQUEST;
}

static void find_one(const struct server *s, int16_t error, hf_str key, struct kafka_coordinator *out) {
    out->key = key;
    out->error_code = error;
    out->node_id = error ? -1 : SERVER_NODE_ID;
    out->host = error ? HF_STR("") : hf_str_of(s->host);
    out->port = error ? -1 : s->port;
}

void on_find_coordinator(void *state, struct broker_request *rq) {
    const struct server *s = ((struct groups_part *)state)->server;
    const struct kafka_find_coordinator_request *q = rq->body;
    struct kafka_find_coordinator_response *a = rq->answer;
    int16_t error = coordinator_error(q->key_type);
    a->error_code = error;
    if (!error) {
        a->node_id = SERVER_NODE_ID;
        a->host = hf_str_of(s->host);
        a->port = s->port;
    }
    a->coordinators = hf_arena_array(&rq->arena, (size_t)q->coordinator_keys_count, sizeof(*a->coordinators));
    if (!a->coordinators) {
        server_no_memory(rq);
        return;
    }
    a->coordinators_count = q->coordinator_keys_count;
    for (int32_t i = 0; i < q->coordinator_keys_count; i++)
        find_one(s, error, q->coordinator_keys[i], &a->coordinators[i]);
    broker_answer(rq);
}

/* ---- JoinGroup ---- */

static bool keep_joined(struct broker_request *rq, struct kafka_join_group_response *a) {
    bool kept = groups_keep(rq, &a->protocol_type) && groups_keep(rq, &a->protocol_name) &&
                groups_keep(rq, &a->leader) && groups_keep(rq, &a->member_id);
    for (int32_t i = 0; kept && i < a->members_count; i++) {
        struct kafka_join_group_member *m = &a->members[i];
        kept = groups_keep(rq, &m->member_id) && groups_keep(rq, &m->group_instance_id) &&
               groups_keep(rq, &m->metadata);
    }
    return kept;
}

static void joined(void *arg, const struct group_joined *r) {
    struct broker_request *rq = group_wait_end(arg);
    if (!rq) return;
    enum { NAMES_MAY_BE_NULL = 7 };
    struct kafka_join_group_response *a = rq->answer;
    bool null_names = r->result && rq->version >= NAMES_MAY_BE_NULL;
    a->error_code = groups_error(r->result);
    a->generation_id = r->generation;
    a->protocol_type = null_names ? (hf_str){NULL, 0} : r->protocol_type;
    a->protocol_name = null_names ? (hf_str){NULL, 0} : r->protocol;
    a->leader = r->leader;
    a->member_id = r->member_id;
    a->skip_assignment = r->skip_assignment;
    a->members = hf_arena_array(&rq->arena, r->member_count, sizeof(*a->members));
    a->members_count = a->members ? (int32_t)r->member_count : 0;
    for (int32_t i = 0; i < a->members_count; i++)
        a->members[i] = (struct kafka_join_group_member){
            .member_id = r->members[i].id,
            .group_instance_id = r->members[i].instance_id,
            .metadata = r->members[i].metadata,
        };
    if (a->members && keep_joined(rq, a))
        broker_answer(rq);
    else
        server_no_memory(rq);
}

/* "127.0.0.1:53412" as Kafka shows it: "/127.0.0.1". */
static hf_str client_host(struct broker_request *rq) {
    const char *colon = strrchr(rq->client, ':');
    int n = colon ? (int)(colon - rq->client) : (int)strlen(rq->client);
    return hf_arena_printf(&rq->arena, "/%.*s", n, rq->client);
}

void on_join_group(void *state, struct broker_request *rq) {
    enum { KNOWN_ID_FROM = 4, SKIP_FROM = 9 };
    struct groups_part *p = state;
    const struct kafka_join_group_request *q = rq->body;
    struct group_protocol *protocols =
        hf_arena_array(&rq->arena, (size_t)q->protocols_count, sizeof(*protocols));
    if (!protocols) {
        server_no_memory(rq);
        return;
    }
    for (int32_t i = 0; i < q->protocols_count; i++)
        protocols[i] = (struct group_protocol){q->protocols[i].name, q->protocols[i].metadata};
    const struct group_join r = {
        .group = q->group_id,
        .member_id = q->member_id,
        .instance_id = q->group_instance_id,
        .client_id = rq->client_id.p ? rq->client_id : HF_STR(""),
        .client_host = client_host(rq),
        .protocol_type = q->protocol_type,
        .session_ms = q->session_timeout_ms,
        .rebalance_ms = q->rebalance_timeout_ms,
        .protocols = protocols,
        .protocol_count = (size_t)q->protocols_count,
        .needs_known_id = rq->version >= KNOWN_ID_FROM,
        .can_skip = rq->version >= SKIP_FROM,
    };
    struct group_wait *w = group_wait_as_member(p, rq, q->group_id);
    if (w) group_join(p->groups, groups_now_ms(p), &r, joined, w);
}

/* ---- SyncGroup ---- */

static void synced(void *arg, const struct group_synced *r) {
    struct broker_request *rq = group_wait_end(arg);
    if (!rq) return;
    struct kafka_sync_group_response *a = rq->answer;
    a->error_code = groups_error(r->result);
    if (!r->result) {
        a->protocol_type = r->protocol_type;
        a->protocol_name = r->protocol;
    }
    a->assignment = r->assignment.p ? r->assignment : HF_STR("");
    if (groups_keep(rq, &a->protocol_type) && groups_keep(rq, &a->protocol_name) &&
        groups_keep(rq, &a->assignment))
        broker_answer(rq);
    else
        server_no_memory(rq);
}

void on_sync_group(void *state, struct broker_request *rq) {
    struct groups_part *p = state;
    const struct kafka_sync_group_request *q = rq->body;
    struct group_assignment *assignments =
        hf_arena_array(&rq->arena, (size_t)q->assignments_count, sizeof(*assignments));
    if (!assignments) {
        server_no_memory(rq);
        return;
    }
    for (int32_t i = 0; i < q->assignments_count; i++)
        assignments[i] = (struct group_assignment){q->assignments[i].member_id, q->assignments[i].assignment};
    const struct group_sync r = {
        .who = {q->group_id, q->member_id, q->group_instance_id, q->generation_id},
        .protocol_type = q->protocol_type,
        .protocol = q->protocol_name,
        .assignments = assignments,
        .assignment_count = (size_t)q->assignments_count,
    };
    struct group_wait *w = group_wait_as_member(p, rq, q->group_id);
    if (w) group_sync(p->groups, groups_now_ms(p), &r, synced, w);
}

/* ---- Heartbeat ---- */

void on_heartbeat(void *state, struct broker_request *rq) {
    struct groups_part *p = state;
    const struct kafka_heartbeat_request *q = rq->body;
    struct kafka_heartbeat_response *a = rq->answer;
    const struct group_who who = {q->group_id, q->member_id, q->group_instance_id, q->generation_id};
    a->error_code = groups_error(group_heartbeat(p->groups, groups_now_ms(p), &who));
    broker_answer(rq);
}

/* ---- LeaveGroup ---- */

/* Up to version 2 one member leaves, and its error is the answer's. */
static void leave_one(struct groups_part *p, struct broker_request *rq) {
    const struct kafka_leave_group_request *q = rq->body;
    struct kafka_leave_group_response *a = rq->answer;
    const struct group_leaver l = {.member_id = q->member_id};
    enum group_result e;
    group_leave(p->groups, groups_now_ms(p), q->group_id, &l, 1, &e);
    a->error_code = groups_error(e);
    broker_answer(rq);
}

void on_leave_group(void *state, struct broker_request *rq) {
    enum { MANY_FROM = 3 };
    struct groups_part *p = state;
    const struct kafka_leave_group_request *q = rq->body;
    struct kafka_leave_group_response *a = rq->answer;
    if (rq->version < MANY_FROM) {
        leave_one(p, rq);
        return;
    }
    size_t n = (size_t)q->members_count;
    struct group_leaver *leavers = hf_arena_array(&rq->arena, n, sizeof(*leavers));
    enum group_result *results = hf_arena_array(&rq->arena, n, sizeof(*results));
    a->members = hf_arena_array(&rq->arena, n, sizeof(*a->members));
    if (!leavers || !results || !a->members) {
        server_no_memory(rq);
        return;
    }
    for (size_t i = 0; i < n; i++)
        leavers[i] = (struct group_leaver){q->members[i].member_id, q->members[i].group_instance_id};
    group_leave(p->groups, groups_now_ms(p), q->group_id, leavers, n, results);
    a->members_count = q->members_count;
    for (size_t i = 0; i < n; i++)
        a->members[i] = (struct kafka_leave_group_response_member){
            .member_id = q->members[i].member_id,
            .group_instance_id = q->members[i].group_instance_id,
            .error_code = groups_error(results[i]),
        };
    broker_answer(rq);
}
