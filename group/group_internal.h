/* What group.c, rebalance.c, request.c and offsets.c share. The design is at the top of group.c. */
#ifndef GROUP_INTERNAL_H
#define GROUP_INTERNAL_H

#include "group.h"

#define HASH_NONFATAL_OOM            1
#define uthash_nonfatal_oom(element) ((void)0) /* hh.tbl stays NULL: the caller looks */
#include <uthash.h>
#include <utlist.h>

enum {
    PROTOCOLS_LIMIT = 64,   /* of a member, whatever the options say */
    WAITERS_MAX = 4,        /* requests of one member that wait for the same thing */
    ID_MAX = 1024,          /* bytes of a group id, member id, instance id, protocol name */
    EMPTY_KEPT_MS = 600000, /* a group without members and offsets is forgotten after so long */
};

struct waiter {
    group_join_done *joined; /* one of the two */
    group_sync_done *synced;
    void *arg;
};

struct waiters {
    struct waiter at[WAITERS_MAX];
    size_t n;
};

struct member {
    hf_str id, instance_id, client_id, client_host;
    int32_t session_ms, rebalance_ms;
    struct group_protocol *protocols;
    size_t protocol_count;
    hf_str assignment;
    size_t bytes;         /* that it counts for in groups.member_bytes */
    int64_t deadline_ms;  /* of the session; does not count while a request waits whose client is there */
    struct waiters joins; /* wait for the end of PREPARING */
    struct waiters syncs; /* wait for the end of COMPLETING */
    bool owes_sync;       /* was told the new generation and has not asked for its assignment yet */
    UT_hash_handle hh;
};

/* An id given out with GROUP_MEMBER_ID_REQUIRED whose owner is expected back. */
struct expected {
    hf_str id;
    int64_t deadline_ms;
    UT_hash_handle hh;
};

/* A committed offset, or one that is on its way. */
struct entry {
    hf_str key; /* topic 0x00 partition (4 bytes) */
    bool present;
    int64_t offset;
    int32_t leader_epoch;
    hf_str metadata;
    uint64_t applied; /* number of the commit that it shows: completions may come in any order */
    size_t under_way; /* commits that name it */
    UT_hash_handle hh;
};

struct group {
    hf_str id;
    enum group_state state;
    int32_t generation;
    hf_str protocol_type, protocol;
    struct member *members; /* in the order of their arrival */
    struct member *leader;
    size_t joining; /* members with a waiting join */
    struct expected *expected;
    struct entry *offsets;
    size_t commits_under_way;
    bool gathering;        /* PREPARING, the first time: waits for more members whoever has joined */
    int64_t gather_end_ms; /* at the latest */
    int64_t deadline_ms;   /* of PREPARING or COMPLETING */
    int64_t empty_ms;      /* since when it is of no use */
    int64_t next_ms;       /* nothing falls due before this */
    struct group_joined_member *views; /* room for a join reply to the leader */
    size_t views_cap;
    UT_hash_handle hh;
};

struct commit;

struct groups {
    struct engine *engine;
    struct groups_options options;
    struct group *groups; /* in the order of their making */
    int64_t next_ms;      /* the least next_ms, or less */
    size_t offset_count;
    uint64_t commit_number;
    struct commit *waiting; /* for the engine, first come first served */
    struct commit *started; /* under way in the engine */
    size_t waiting_offsets, started_count;
    size_t member_bytes; /* of all members */
    struct groups_stats stats;
};

/* ---- group.c ---- */

/* false: out of memory; *out untouched. A null string gives a null string. */
bool group_dup(hf_str s, hf_str *out);
void group_free_str(hf_str *s);

bool group_id_ok(hf_str id);
struct group *group_find(struct groups *gs, hf_str id);
/* NULL: out of memory, or groups_max. */
struct group *group_make(struct groups *gs, int64_t now_ms, hf_str id);
bool group_is_idle(const struct group *g); /* holds nothing that anybody could want */
void group_free(struct groups *gs, struct group *g);

/* Something of g falls due at t. */
void group_wake_at(struct groups *gs, struct group *g, int64_t t);

/* ---- rebalance.c ---- */

struct member *member_by_instance(const struct group *g, hf_str instance_id);
hf_str member_metadata(const struct member *m, hf_str protocol);
bool member_has_protocol(const struct member *m, hf_str name);
void member_touch(struct groups *gs, struct group *g, struct member *m, int64_t now_ms);
/* Makes room for the leader's reply too. NULL: out of memory. */
struct member *member_add(struct groups *gs, struct group *g, const struct group_join *r, hf_str id);
/* Protocols and timeouts as in r. false: out of memory, unchanged. */
bool member_update(struct groups *gs, struct member *m, const struct group_join *r);
/* Counts its bytes anew. */
void member_account(struct groups *gs, struct member *m);
/* Its waiting requests are answered with `why`. The group goes on without it. */
void member_remove(struct groups *gs, struct group *g, struct member *m, enum group_result why,
                   int64_t now_ms);
void member_free(struct groups *gs, struct member *m);

void wait_for_join(struct group *g, struct member *m, group_join_done *done, void *arg);
void wait_for_sync(struct member *m, group_sync_done *done, void *arg);
void answer_joins(struct group *g, struct member *m, const struct group_joined *reply);
void answer_syncs(struct member *m, const struct group_synced *reply);
/* The current generation as this member is told of it. */
void describe_generation(struct group *g, struct member *m, bool with_members, struct group_joined *out);

void rebalance(struct groups *gs, struct group *g, int64_t now_ms);
void rebalance_gather_longer(struct groups *gs, struct group *g, int64_t now_ms);
void rebalance_try_complete(struct groups *gs, struct group *g, int64_t now_ms);
void rebalance_assigned(struct groups *gs, struct group *g, int64_t now_ms);
void rebalance_expire(struct groups *gs, struct group *g, int64_t now_ms);
void expected_remove(struct group *g, struct expected *x);
/* What all members understand most like to speak; {NULL, 0} without members. */
hf_str rebalance_choose(const struct group *g);
int64_t rebalance_next_ms(const struct group *g);
void rebalance_check(const struct groups *gs, const struct group *g);

/* ---- request.c ---- */

/* GROUP_OK and *out: a member that presented itself rightly (its generation is not looked at). */
enum group_result member_of(const struct group *g, const struct group_who *who, struct member **out);

/* ---- offsets.c ---- */

HF_CHECK enum hf_err offsets_restore(struct groups *gs);
void offsets_start_waiting(struct groups *gs);
void offsets_free(struct groups *gs, struct group *g);
void offsets_close(struct groups *gs);
void offsets_check(const struct groups *gs, const struct group *g);

#endif
