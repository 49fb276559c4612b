/* A coordinator on the memory engine with virtual time, and members as short words. */
#ifndef TESTS_GROUP_FIXTURE_H
#define TESTS_GROUP_FIXTURE_H

#include "group/group.h"
#include "store/engine/memory.h"

struct fixture {
    struct memory_engine *m;
    struct groups *gs;
    struct groups_options options;
    int64_t now_ms;
    uint64_t random;
};

void fixture_open(struct fixture *f, uint64_t seed, const struct groups_options *options);
void fixture_close(struct fixture *f);

/* A test that finds an open fixture, seed 0 and no options, in *state; it is closed whatever the test comes to. */
#define GROUP_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
int fixture_setup(void **state);
int fixture_teardown(void **state);

/* The process dies and starts again. */
void fixture_restart(struct fixture *f);

/* Time goes on in steps, each at the time that groups_step asked for. */
void fixture_advance(struct fixture *f, int64_t ms);

/* Lets the engine finish what is under way. */
void fixture_settle(struct fixture *f);

/* What a join was answered; strings are copies. */
struct joined {
    int times;
    enum group_result result;
    int32_t generation;
    char member_id[256], leader[256], protocol[64];
    bool skip_assignment;
    size_t member_count;
    char members[8][256];
    char metadata[8][64];
};

struct synced {
    int times;
    enum group_result result;
    char assignment[256];
};

struct committed {
    int times;
    enum group_result all, each[8];
    size_t n; /* to be set before: how many offsets were sent */
};

void on_committed(void *arg, enum group_result all, const enum group_result *results);

/* Joins group "g" as protocol type "consumer" with protocol "range" (metadata "m"), session 10 s, rebalance
 * 30 s, as JoinGroup 5. instance may be NULL. */
struct group_join fixture_join(const char *member_id, const char *instance);
void join(struct fixture *f, const struct group_join *r, struct joined *out);
void sync_as(struct fixture *f, const char *member_id, int32_t generation, const struct group_assignment *a,
             size_t n, struct synced *out);
enum group_result beat(struct fixture *f, const char *member_id, int32_t generation);
enum group_result leave(struct fixture *f, const char *member_id);
enum group_state state_of(struct fixture *f);

/* A new dynamic member asks for an id and joins with it; the join may wait. The id is left in id. */
void join_new(struct fixture *f, struct joined *out, char id[256]);

/* Joins as fixture_join with no id yet, in the way of old clients: without asking for an id first. */
void join_at_once(struct fixture *f, const char *group, struct joined *out);

/* One member alone, stable; its generation. */
int32_t stable_alone(struct fixture *f, char id[256]);

/* Commits one offset of "t"-0 and waits until it is answered. member_id may be "". */
enum group_result commit_offset(struct fixture *f, const char *member_id, int32_t generation, int64_t offset);
int64_t offset_of(struct fixture *f); /* -1: none */

#endif
