/* Consumer groups behind the protocol: this file holds the part, its clock and what its handlers share.
 *
 * The coordinator's time is the monotonic clock: a wall clock that is set must not end sessions.
 *
 * A request that waits in the coordinator (a join until the rebalance ends, a commit until it is durable) is
 * held by a group_wait. When its client goes, the request ends. A join or sync is then forgotten, and its
 * member's session runs on: a member is dropped by its session, never by its connection. Another wait stays
 * until the coordinator answers into the void. */
#include "groups_internal.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>

int64_t groups_now_ms(const struct groups_part *p) {
    return env_mono_us(p->server->env) / 1000;
}

int16_t groups_error(enum group_result r) {
    static const int16_t errors[] = {
        [GROUP_OK] = KAFKA_NONE,
        [GROUP_UNKNOWN_MEMBER] = KAFKA_UNKNOWN_MEMBER_ID,
        [GROUP_ILLEGAL_GENERATION] = KAFKA_ILLEGAL_GENERATION,
        [GROUP_REBALANCING] = KAFKA_REBALANCE_IN_PROGRESS,
        [GROUP_FENCED_INSTANCE] = KAFKA_FENCED_INSTANCE_ID,
        [GROUP_MEMBER_ID_REQUIRED] = KAFKA_MEMBER_ID_REQUIRED,
        [GROUP_INCONSISTENT_PROTOCOL] = KAFKA_INCONSISTENT_GROUP_PROTOCOL,
        [GROUP_INVALID_ID] = KAFKA_INVALID_GROUP_ID,
        [GROUP_INVALID_SESSION_TIMEOUT] = KAFKA_INVALID_SESSION_TIMEOUT,
        [GROUP_FULL] = KAFKA_GROUP_MAX_SIZE_REACHED,
        [GROUP_NOT_FOUND] = KAFKA_GROUP_ID_NOT_FOUND,
        [GROUP_NOT_EMPTY] = KAFKA_NON_EMPTY_GROUP,
        [GROUP_METADATA_TOO_LARGE] = KAFKA_OFFSET_METADATA_TOO_LARGE,
        [GROUP_UNAVAILABLE] = KAFKA_COORDINATOR_NOT_AVAILABLE,
        [GROUP_LIMIT] = KAFKA_INVALID_REQUEST,
    };
    return (size_t)r < sizeof(errors) / sizeof(errors[0]) ? errors[r] : KAFKA_UNKNOWN_SERVER_ERROR;
}

bool groups_keep(struct broker_request *rq, hf_str *s) {
    if (!s->p) return true;
    hf_str copy = hf_arena_str(&rq->arena, *s);
    if (!copy.p) return false;
    *s = copy;
    return true;
}

/* ---- waiting ---- */

static void on_gone(struct broker_request *rq) {
    struct group_wait *w = rq->state;
    w->rq = NULL;
    broker_answer_nothing(rq);
}

static void on_member_gone(struct broker_request *rq) {
    struct group_wait *w = rq->state;
    struct groups_part *p = w->part;
    bool waited = group_gone(p->groups, groups_now_ms(p), w->group, w);
    assert(waited);
    free(w);
    broker_answer_nothing(rq);
}

struct group_wait *group_wait_begin(struct broker_request *rq) {
    struct group_wait *w = malloc(sizeof(*w));
    if (!w) {
        server_no_memory(rq);
        return NULL;
    }
    *w = (struct group_wait){.rq = rq};
    rq->state = w;
    rq->on_gone = on_gone;
    return w;
}

struct group_wait *group_wait_as_member(struct groups_part *p, struct broker_request *rq, hf_str group) {
    struct group_wait *w = group_wait_begin(rq);
    if (!w) return NULL;
    w->part = p;
    w->group = group;
    rq->on_gone = on_member_gone;
    return w;
}

struct broker_request *group_wait_end(struct group_wait *w) {
    struct broker_request *rq = w->rq;
    if (rq) rq->on_gone = NULL;
    free(w);
    return rq;
}

/* ---- topics that are deleted ---- */

void server_offset_keys(struct server *s, hf_str topic, void (*fn)(void *arg, hf_str key), void *arg) {
    struct groups_part *p = server_state(s, &server_groups);
    if (p) groups_topic_keys(p->groups, topic, fn, arg);
}

void server_offsets_deleted(struct server *s, hf_str topic) {
    struct groups_part *p = server_state(s, &server_groups);
    if (p) groups_topic_deleted(p->groups, groups_now_ms(p), topic);
}

/* ---- the part ---- */

static uint64_t next_random(void *arg) {
    return env_random(arg);
}

static enum hf_err open_part(struct server *s, void **state) {
    struct groups_part *p = calloc(1, sizeof(*p));
    if (!p) return HF_ENOMEM;
    p->server = s;
    const struct groups_options options = {.random = next_random,
                                           .random_arg = s->env,
                                           .now_ms = groups_now_ms(p),
                                           .offsets_retention_ms = s->settings->offsets_retention_ms};
    enum hf_err e = groups_open(s->engine, &options, &p->groups);
    if (e) {
        free(p);
        return e;
    }
    *state = p;
    return HF_OK;
}

static int64_t step_part(void *state, int64_t now_ms) {
    const struct groups_part *p = state;
    int64_t mono_ms = groups_now_ms(p);
    int64_t next_ms = groups_step(p->groups, mono_ms);
    return next_ms == INT64_MAX ? INT64_MAX : now_ms + (next_ms - mono_ms);
}

/* Commits that the log has begun end before the coordinator does, unless the disk has failed: then nothing is
 * ever completed. */
static void close_part(void *state) {
    enum { WAIT_MS = 100 };
    struct groups_part *p = state;
    struct server *s = p->server;
    struct pollfd fd = {.fd = env_poll_fd(s->env), .events = POLLIN};
    struct groups_stats stats;
    groups_stats(p->groups, &stats);
    while (stats.commits_under_way > 0 && !log_failed(s->log)) {
        int64_t wait_ms = log_step(s->log);
        (void)poll(&fd, 1, wait_ms > WAIT_MS ? WAIT_MS : (int)wait_ms);
        (void)env_poll(s->env);
        (void)groups_step(p->groups, groups_now_ms(p));
        groups_stats(p->groups, &stats);
    }
    groups_close(p->groups);
    free(p);
}

static void metrics(void *state, struct hf_buf *out) {
    const struct groups_part *p = state;
    struct groups_stats g;
    groups_stats(p->groups, &g);
    server_metric(out, "holdfast_groups", "gauge", g.groups);
    server_metric(out, "holdfast_group_members", "gauge", g.members);
    server_metric(out, "holdfast_group_offsets", "gauge", g.offsets);
    server_metric(out, "holdfast_group_rebalances_total", "counter", g.rebalances);
    server_metric(out, "holdfast_group_members_expired_total", "counter", g.expired_members);
    server_metric(out, "holdfast_groups_expired_total", "counter", g.expired_groups);
    server_metric(out, "holdfast_offset_commits_total", "counter", g.commits);
}

static const struct server_handler handlers[] = {
    {KAFKA_API_find_coordinator, on_find_coordinator},
    {KAFKA_API_join_group, on_join_group},
    {KAFKA_API_sync_group, on_sync_group},
    {KAFKA_API_heartbeat, on_heartbeat},
    {KAFKA_API_leave_group, on_leave_group},
    {KAFKA_API_offset_commit, on_offset_commit},
    {KAFKA_API_offset_fetch, on_offset_fetch},
    {KAFKA_API_describe_groups, on_describe_groups},
    {KAFKA_API_list_groups, on_list_groups},
    {KAFKA_API_delete_groups, on_delete_groups},
};

const struct server_part server_groups = {.name = "groups",
                                          .open = open_part,
                                          .step = step_part,
                                          .close = close_part,
                                          .metrics = metrics,
                                          .handlers = handlers,
                                          .handler_count = sizeof(handlers) / sizeof(handlers[0])};
