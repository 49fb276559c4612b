/* The group APIs' files share this: the coordinator, and how its results are told to clients. */
#ifndef SERVER_GROUPS_INTERNAL_H
#define SERVER_GROUPS_INTERNAL_H

#include "group/group.h"
#include "server_internal.h"

struct groups_part {
    struct server *server;
    struct groups *groups;
};

/* A request that the coordinator answers later. The client may go first: then rq is NULL. */
struct group_wait {
    struct broker_request *rq;
    struct groups_part *part; /* of a join or sync */
    hf_str group;             /* and its group, borrowed from the request */
};

/* NULL: without memory; the request was refused. */
struct group_wait *group_wait_begin(struct broker_request *rq);
/* For a join or sync: with the client the wait ends too. */
struct group_wait *group_wait_as_member(struct groups_part *p, struct broker_request *rq, hf_str group);
/* Ends the wait. The request, unless its client has gone. */
struct broker_request *group_wait_end(struct group_wait *w);

/* Of a clock that does not go back. */
int64_t groups_now_ms(const struct groups_part *p);

int16_t groups_error(enum group_result r);

/* What the coordinator shows is borrowed, and an answer is encoded later: *s becomes a copy that lives as
 * long as the request. false: without memory. */
bool groups_keep(struct broker_request *rq, hf_str *s);

/* groups_members.c */
void on_find_coordinator(void *state, struct broker_request *rq);
void on_join_group(void *state, struct broker_request *rq);
void on_sync_group(void *state, struct broker_request *rq);
void on_heartbeat(void *state, struct broker_request *rq);
void on_leave_group(void *state, struct broker_request *rq);
/* groups_offsets.c */
void on_offset_commit(void *state, struct broker_request *rq);
void on_offset_fetch(void *state, struct broker_request *rq);
/* groups_admin.c */
void on_describe_groups(void *state, struct broker_request *rq);
void on_list_groups(void *state, struct broker_request *rq);
void on_delete_groups(void *state, struct broker_request *rq);

#endif
