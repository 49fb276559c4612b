/* Consumer groups: membership, rebalances, committed offsets. The coordinator behind Kafka's group APIs as a
 * pure state machine: no sockets, no clock, no threads. The members' leader computes the assignment (eager or
 * cooperative, the coordinator does not look inside).
 *
 *     groups_open(engine, &(struct groups_options){.random = …}, &groups);
 *     group_join(groups, now_ms, &request, joined, arg);   // joined(arg, reply): now, or at the rebalance's end
 *     … groups_step(groups, now_ms) at the time it asked for, and after each engine completion
 *
 * Replies are called once for each request, inside the call or later inside another one or a step; they must
 * not call back into this object. What they are given is borrowed for the call, as are all arguments.
 * Requests that the server no longer waits for (their connection is gone) are answered all the same.
 *
 * Offsets are durable before their commit is answered. Members are not: after a restart each gets
 * GROUP_UNKNOWN_MEMBER, joins again, and the generations start anew; since member ids are random, no answer
 * to an old member can be taken for one to a new. Committed offsets are read up to the last answered commit
 * or a later one, never an earlier.
 *
 * Threads: the core thread. Nothing blocks. */
#ifndef GROUP_GROUP_H
#define GROUP_GROUP_H

#include "store/engine/engine.h"

struct groups;

/* What the server turns into Kafka's error numbers. */
enum group_result {
    GROUP_OK,
    GROUP_UNKNOWN_MEMBER,
    GROUP_ILLEGAL_GENERATION,
    GROUP_REBALANCING,
    GROUP_FENCED_INSTANCE,
    GROUP_MEMBER_ID_REQUIRED,
    GROUP_INCONSISTENT_PROTOCOL,
    GROUP_INVALID_ID,
    GROUP_INVALID_SESSION_TIMEOUT,
    GROUP_FULL,               /* members_max */
    GROUP_NOT_FOUND,          /* DeleteGroups */
    GROUP_NOT_EMPTY,          /* DeleteGroups */
    GROUP_METADATA_TOO_LARGE, /* of one committed offset */
    GROUP_UNAVAILABLE,        /* no room or too much under way: the client tries again */
    GROUP_LIMIT, /* groups_max, member_bytes_max, protocols_max, offsets_max, GROUP_COMMIT_MAX … */
};

enum { GROUP_COMMIT_MAX = 100000 }; /* offsets of one commit */

struct groups_options {
    uint64_t (*random)(void *arg); /* for member ids; required */
    void *random_arg;
    int32_t session_ms_min, session_ms_max; /* 0: 1,000 and 1,800,000 */
    int32_t initial_delay_ms;               /* a new group's first rebalance waits so long for more members */
    size_t groups_max;                      /* 0: 10,000 */
    size_t members_max;                     /* of a group; 0: 1,000 */
    size_t members_bytes_max;               /* of all members: ids, protocols, assignments; 0: 256 MiB */
    size_t protocols_max;                   /* of a member; 0: 32, at most 64 */
    size_t member_bytes_max;                /* ids, protocols; also one assignment; 0: 1 MiB */
    size_t metadata_max;                    /* of a committed offset; 0: 4,096 */
    size_t offsets_max;                     /* committed offsets of all groups; 0: 1,000,000 */
    size_t waiting_offsets_max;             /* of commits that wait for the engine; 0: 100,000 */
    int64_t now_ms;                         /* at the start, of the clock of groups_step */
    int64_t offsets_retention_ms; /* offsets of a group that had neither members nor commits for so long are
                                     deleted; 0: never */
};

/* Reads the committed offsets, also if there are more than the limits now allow. HF_ENOMEM, HF_ECORRUPT. */
HF_CHECK enum hf_err groups_open(struct engine *e, const struct groups_options *options, struct groups **out);

/* Whatever waits is answered GROUP_UNAVAILABLE. The engine must not complete a commit of ours after this: let
 * it finish (groups_stats tells) or crash it before. */
void groups_close(struct groups *gs);

/* Fires what is due; starts commits that waited for the engine. Returns the time of the next call at the
 * latest; INT64_MAX: not before something else happens. now_ms, here and everywhere, is of a clock that does
 * not go back. */
int64_t groups_step(struct groups *gs, int64_t now_ms);

/* ---- membership ---- */

struct group_protocol {
    hf_str name, metadata;
};

struct group_join {
    hf_str group, member_id; /* member_id empty: new */
    hf_str instance_id;      /* p == NULL: a dynamic member */
    hf_str client_id, client_host;
    hf_str protocol_type;
    int32_t session_ms, rebalance_ms;
    const struct group_protocol *protocols; /* in order of preference */
    size_t protocol_count;
    bool needs_known_id; /* JoinGroup 4 and later: a new dynamic member is first given an id */
    bool can_skip;       /* JoinGroup 9 and later understands skip_assignment */
};

struct group_joined_member {
    hf_str id, instance_id, metadata;
};

struct group_joined {
    enum group_result result;
    int32_t generation; /* -1 on failure */
    hf_str protocol_type, protocol, leader, member_id;
    bool skip_assignment; /* a static leader came back: it leads, but shall not assign anew */
    const struct group_joined_member *members; /* for the leader */
    size_t member_count;
};

typedef void group_join_done(void *arg, const struct group_joined *reply);
void group_join(struct groups *gs, int64_t now_ms, const struct group_join *r, group_join_done *done,
                void *arg);

/* A member as it presents itself. */
struct group_who {
    hf_str group, member_id, instance_id;
    int32_t generation;
};

struct group_assignment {
    hf_str member_id, bytes;
};

struct group_sync {
    struct group_who who;
    hf_str protocol_type, protocol; /* SyncGroup 5; p == NULL: not given */
    const struct group_assignment *assignments;
    size_t assignment_count;
};

struct group_synced {
    enum group_result result;
    hf_str protocol_type, protocol, assignment;
};

typedef void group_sync_done(void *arg, const struct group_synced *reply);
void group_sync(struct groups *gs, int64_t now_ms, const struct group_sync *r, group_sync_done *done,
                void *arg);

/* The connection of a join or sync of this group was closed: if it still waits it is forgotten, `done` will
 * not be called for `arg`, and its member's session begins anew. false: it does not wait. */
bool group_gone(struct groups *gs, int64_t now_ms, hf_str group, const void *arg);

enum group_result group_heartbeat(struct groups *gs, int64_t now_ms, const struct group_who *who);

/* A static member may be named by its instance id alone (member_id empty). */
struct group_leaver {
    hf_str member_id, instance_id;
};

/* results[i] is that of leavers[i]. */
void group_leave(struct groups *gs, int64_t now_ms, hf_str group, const struct group_leaver *leavers,
                 size_t n, enum group_result *results);

/* ---- offsets ---- */

struct group_offset {
    hf_str topic;
    int32_t partition;
    int64_t offset;       /* any number, as in Kafka: kafkajs commits -2 to mean "from the start" */
    int32_t leader_epoch; /* -1: unknown */
    hf_str metadata;
};

/* A consumer outside of any membership commits with generation -1 and an empty member id, while the group has
 * no members. */
struct group_commit {
    struct group_who who;
    const struct group_offset *offsets; /* of partitions that exist: the server has looked */
    size_t offset_count;
};

/* all == GROUP_OK: results[i] is that of offsets[i]. Else it holds for each, and results is NULL. */
typedef void group_commit_done(void *arg, enum group_result all, const enum group_result *results);
void group_commit(struct groups *gs, int64_t now_ms, const struct group_commit *r, group_commit_done *done,
                  void *arg);

/* The committed offset; false: none. Strings stay until the next call. Never beyond the partition's end: the
 * server clamps, since only it knows the end. */
bool group_offset_get(struct groups *gs, hf_str group, hf_str topic, int32_t partition,
                      struct group_offset *out);

/* All of a group's, by topic and partition. */
void group_offset_each(struct groups *gs, hf_str group, void (*fn)(void *arg, const struct group_offset *o),
                       void *arg);

/* A topic is to be deleted: calls fn with each state key of its committed offsets, those of commits under way
 * included, to be dropped with the topic in one record. */
void groups_topic_keys(struct groups *gs, hf_str topic, void (*fn)(void *arg, hf_str key), void *arg);

/* That record is on its way: none of those offsets is shown any more, and no commit that waits brings one
 * back. */
void groups_topic_deleted(struct groups *gs, int64_t now_ms, hf_str topic);

/* ---- administration ---- */

enum group_state { GROUP_EMPTY, GROUP_PREPARING, GROUP_COMPLETING, GROUP_STABLE, GROUP_DEAD };

/* "Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead". */
const char *group_state_name(enum group_state s);

struct group_member_view {
    hf_str id, instance_id, client_id, client_host;
    hf_str metadata, assignment; /* empty unless the group is stable, as Kafka shows it */
};

struct group_view {
    hf_str id;
    enum group_state state;
    hf_str protocol_type, protocol; /* empty if there is none */
    int32_t generation;
    size_t member_count;
};

/* A group that does not exist is GROUP_DEAD without members. member may be NULL. */
void group_describe(struct groups *gs, hf_str group, struct group_view *out,
                    void (*member)(void *arg, const struct group_member_view *m), void *arg);

void groups_each(struct groups *gs, void (*fn)(void *arg, const struct group_view *g), void *arg);

/* Deletes an empty group and its offsets; done when that is durable. */
typedef void group_delete_done(void *arg, enum group_result result);
void group_delete(struct groups *gs, int64_t now_ms, hf_str group, group_delete_done *done, void *arg);

struct groups_stats {
    size_t groups, members, offsets;
    size_t commits_under_way; /* in the engine, and one more if others wait for it */
    uint64_t rebalances, commits, expired_members, expired_groups;
};
void groups_stats(const struct groups *gs, struct groups_stats *out);

/* Asserts the invariants at the top of group.c. */
void groups_check(const struct groups *gs);

#endif
