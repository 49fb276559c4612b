/* Many members join, sync, beat, commit, leave, die silently and come back, dynamic and static, each a small
 * model of what clients do. A seed decides everything; --seeds N runs more, --seed S one.
 *
 * Half of those that die or break off while a request of theirs waits are seen to go: their connection
 * closes.
 *
 * Checked after every call: groups_check. At every answer: each request is answered once; generations do not
 * go back; a generation has one leader, who alone is given the members; a member's assignment is what the
 * leader of its generation sent for it. At the end the chaos stops, and within five minutes the group must be
 * stable with exactly the members that live. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ACTORS = 12, REQUESTS = 100000, GENERATIONS = 20000, BEAT_MS = 3000 };

enum phase { DEAD, WANTS_JOIN, JOINING, JOINED, SYNCING, STABLE };

struct actor {
    enum phase phase;
    unsigned life; /* answers to an earlier life are not heard */
    char instance[32];
    char id[256];
    int32_t generation;
    bool leads;
    size_t member_count;
    char members[ACTORS * 2][256];
    int64_t beat_ms;
};

struct world;

struct request {
    struct world *w;
    int actor;
    unsigned life;
    int32_t generation;
    bool answered;
};

struct world {
    struct fixture f;
    uint64_t seed, random;
    struct actor actors[ACTORS];
    struct request *requests;
    size_t request_count, answered;
    int32_t last_generation;
    char leader_of[GENERATIONS][64]; /* a hash would do; the text helps in a debugger */
};

static uint64_t roll(struct world *w, uint64_t below) {
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (w->random >> 33) % below;
}

#define EXPECT(w, condition)                                                                                 \
    do {                                                                                                     \
        if (!(condition)) fail_msg("seed %llu: " #condition, (unsigned long long)(w)->seed);                 \
    } while (0)

static struct request *request_of(struct world *w, int actor) {
    EXPECT(w, w->request_count < REQUESTS);
    struct request *r = &w->requests[w->request_count++];
    *r = (struct request){
        .w = w, .actor = actor, .life = w->actors[actor].life, .generation = w->actors[actor].generation};
    return r;
}

static struct actor *hears(struct request *r) {
    struct actor *a = &r->w->actors[r->actor];
    EXPECT(r->w, !r->answered);
    r->answered = true;
    r->w->answered++;
    return a->phase != DEAD && a->life == r->life ? a : NULL;
}

static void begin_again(struct actor *a, enum group_result e) {
    if (e == GROUP_UNKNOWN_MEMBER) a->id[0] = 0;
    a->phase = e == GROUP_FENCED_INSTANCE ? DEAD : WANTS_JOIN;
}

static void copy(char to[256], hf_str s) {
    assert_true(s.n < 256);
    if (s.n) memcpy(to, s.p, s.n);
    to[s.n] = 0;
}

/* "<generation>:<member>": what every leader sends for each member. */
static void assignment_text(char to[300], int32_t generation, const char *member) {
    snprintf(to, 300, "%d:%s", generation, member);
}

static void join_answered(void *arg, const struct group_joined *j) {
    struct request *r = arg;
    struct world *w = r->w;
    struct actor *a = hears(r);
    if (!j->result) {
        EXPECT(w, j->generation >= w->last_generation && j->generation < GENERATIONS);
        w->last_generation = j->generation;
        char *leader = w->leader_of[j->generation];
        if (j->member_count > 0 && !j->skip_assignment) {
            EXPECT(w, hf_str_eq(j->leader, j->member_id));
            EXPECT(w, !leader[0] || strncmp(leader, j->leader.p, j->leader.n) == 0);
            snprintf(leader, 64, "%.*s", (int)j->leader.n, j->leader.p);
        }
    }
    if (!a || a->phase != JOINING) return; /* a repeated join was answered before */
    if (j->result == GROUP_MEMBER_ID_REQUIRED) copy(a->id, j->member_id);
    if (j->result) {
        begin_again(a, j->result);
        return;
    }
    copy(a->id, j->member_id);
    a->generation = j->generation;
    a->leads = j->member_count > 0 && !j->skip_assignment;
    a->member_count = j->member_count;
    EXPECT(w, j->member_count <= ACTORS * 2);
    for (size_t i = 0; i < j->member_count; i++) copy(a->members[i], j->members[i].id);
    a->phase = JOINED;
}

static void sync_answered(void *arg, const struct group_synced *s) {
    struct request *r = arg;
    struct actor *a = hears(r);
    if (!a || a->phase != SYNCING) return;
    if (s->result) {
        begin_again(a, s->result);
        return;
    }
    char expected[300];
    assignment_text(expected, r->generation, a->id);
    /* A static member that came back in this generation has what was sent for its former self. */
    size_t prefix = strcspn(expected, ":") + 1;
    bool mine = hf_str_is(s->assignment, expected);
    bool inherited =
        a->instance[0] && s->assignment.n > prefix && memcmp(s->assignment.p, expected, prefix) == 0;
    EXPECT(r->w, mine || inherited);
    a->phase = STABLE;
    a->beat_ms = r->w->f.now_ms + BEAT_MS;
}

static void commit_answered(void *arg, enum group_result all, const enum group_result *results) {
    struct request *r = arg;
    (void)results;
    hears(r);
    if (all == GROUP_OK) EXPECT(r->w, r->generation >= 0);
}

/* ---- what members do ---- */

static void send_join(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    static const struct group_protocol protocols[] = {{{"range", 5}, {"m", 1}}, {{"sticky", 6}, {"n", 1}}};
    struct group_join j = fixture_join(a->id, a->instance[0] ? a->instance : NULL);
    j.protocols = protocols;
    j.protocol_count = i % 2 ? 1 : 2; /* all understand range */
    j.needs_known_id = i % 3 != 0;
    j.can_skip = i % 4 < 2;
    j.rebalance_ms = 15000 + 1000 * i;
    a->phase = JOINING;
    group_join(w->f.gs, w->f.now_ms, &j, join_answered, request_of(w, i));
}

static void send_sync(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    struct group_assignment assignments[ACTORS * 2];
    char text[ACTORS * 2][300];
    size_t n = a->leads ? a->member_count : 0;
    for (size_t k = 0; k < n; k++) {
        assignment_text(text[k], a->generation, a->members[k]);
        assignments[k] = (struct group_assignment){hf_str_of(a->members[k]), hf_str_of(text[k])};
    }
    const struct group_sync s = {
        .who = {HF_STR("g"), hf_str_of(a->id), hf_str_of(a->instance[0] ? a->instance : NULL), a->generation},
        .assignments = assignments,
        .assignment_count = n};
    a->phase = SYNCING;
    group_sync(w->f.gs, w->f.now_ms, &s, sync_answered, request_of(w, i));
}

static void send_beat(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    const struct group_who who = {HF_STR("g"), hf_str_of(a->id),
                                  hf_str_of(a->instance[0] ? a->instance : NULL), a->generation};
    enum group_result e = group_heartbeat(w->f.gs, w->f.now_ms, &who);
    a->beat_ms = w->f.now_ms + BEAT_MS;
    if (e) begin_again(a, e);
}

static void send_commit(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    const struct group_offset o = {HF_STR("t"), i, a->generation, -1, HF_STR("")};
    const struct group_commit c = {
        {HF_STR("g"), hf_str_of(a->id), hf_str_of(a->instance[0] ? a->instance : NULL), a->generation},
        &o,
        1};
    struct request *r = request_of(w, i);
    if (w->last_generation != a->generation) r->generation = -1; /* too late: must be refused */
    group_commit(w->f.gs, w->f.now_ms, &c, commit_answered, r);
}

static void send_leave(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    const struct group_leaver l = {hf_str_of(a->id), hf_str_of(a->instance[0] ? a->instance : NULL)};
    enum group_result e;
    group_leave(w->f.gs, w->f.now_ms, HF_STR("g"), &l, 1, &e);
    a->phase = DEAD;
}

static void act(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    switch (a->phase) {
    case DEAD: break;
    case WANTS_JOIN: send_join(w, i); break;
    case JOINED: send_sync(w, i); break;
    case STABLE:
        if (w->f.now_ms >= a->beat_ms) send_beat(w, i);
        break;
    case JOINING:
    case SYNCING: break; /* waits */
    }
}

/* The connections of an actor close: what waits there is answered no more. */
static void break_off(struct world *w, int i) {
    for (size_t k = 0; k < w->request_count; k++) {
        struct request *r = &w->requests[k];
        if (r->answered || r->actor != i || !group_gone(w->f.gs, w->f.now_ms, HF_STR("g"), r)) continue;
        r->answered = true;
        w->answered++;
    }
    groups_check(w->f.gs);
}

static void live_again(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    a->life++;
    a->id[0] = 0;
    a->phase = WANTS_JOIN;
    if (i < ACTORS / 3) snprintf(a->instance, sizeof a->instance, "static-%d", i);
}

static void mischief(struct world *w, int i) {
    struct actor *a = &w->actors[i];
    switch (roll(w, 8)) {
    case 0:
    case 1:
        if (a->phase == DEAD) live_again(w, i);
        break;
    case 2:
        if (roll(w, 3) > 0) break;
        a->phase = DEAD; /* without a word */
        if (roll(w, 2) == 0) break_off(w, i);
        break;
    case 3:
        if (a->phase != DEAD && a->id[0] && roll(w, 3) == 0) send_leave(w, i);
        break;
    case 4:
        if (a->phase == JOINING && roll(w, 2) == 0) break_off(w, i); /* a new connection */
        if (a->phase == SYNCING && roll(w, 2) == 0) {
            break_off(w, i);
            a->phase = JOINED;
        }
        if (a->phase == JOINING) send_join(w, i); /* repeats itself */
        break;
    case 5:
        if (a->phase == STABLE) send_commit(w, i);
        break;
    case 6:
        if (a->phase == STABLE) send_join(w, i); /* wants a rebalance, as when its topics changed */
        break;
    default:
        if (a->phase != DEAD && a->instance[0]) live_again(w, i); /* was started anew at once */
    }
}

static void pass_time(struct world *w, int64_t ms) {
    memory_engine_step(w->f.m);
    fixture_advance(&w->f, ms);
}

static void count_members(void *arg, const struct group_member_view *m) {
    struct world *w = arg;
    bool found = false;
    for (int i = 0; i < ACTORS; i++)
        found |= w->actors[i].phase == STABLE && hf_str_is(m->id, w->actors[i].id);
    EXPECT(w, found);
}

static void expect_calm(struct world *w) {
    size_t alive = 0;
    for (int i = 0; i < ACTORS; i++) {
        if (w->actors[i].phase == DEAD) continue;
        alive++;
        EXPECT(w, w->actors[i].phase == STABLE);
        EXPECT(w, w->actors[i].generation == w->last_generation);
    }
    struct group_view v;
    group_describe(w->f.gs, HF_STR("g"), &v, count_members, w);
    EXPECT(w, v.member_count == alive);
    EXPECT(w, v.state == (alive ? GROUP_STABLE : v.state));
    fixture_settle(&w->f);
    EXPECT(w, w->answered == w->request_count);
}

static uint64_t rebalances_seen, expired_seen;

static void run(uint64_t seed) {
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->requests = calloc(REQUESTS, sizeof *w->requests);
    assert_non_null(w->requests);
    w->seed = seed;
    w->random = seed * 2654435761u + 17;
    fixture_open(&w->f, seed, &(struct groups_options){.initial_delay_ms = seed % 3 ? 0 : 500});
    for (int step = 0; step < 1500; step++) {
        int i = (int)roll(w, ACTORS);
        if (roll(w, 6) == 0)
            mischief(w, i);
        else
            act(w, i);
        groups_check(w->f.gs);
        if (roll(w, 4) == 0) pass_time(w, (int64_t)roll(w, roll(w, 20) ? 400 : 12000));
    }
    for (int tick = 0; tick < 3000; tick++) {
        for (int i = 0; i < ACTORS; i++) act(w, i);
        pass_time(w, 100);
    }
    expect_calm(w);
    struct groups_stats s;
    groups_stats(w->f.gs, &s);
    rebalances_seen += s.rebalances;
    expired_seen += s.expired_members;
    fixture_close(&w->f);
    free(w->requests);
    free(w);
}

static uint64_t first_seed = 1, seeds = 300;

static void a_group_survives_any_conduct_of_its_members(void **state) {
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + seeds; seed++) run(seed);
    print_message("seeds %llu..%llu: %llu rebalances, %llu members expired\n", (unsigned long long)first_seed,
                  (unsigned long long)(first_seed + seeds - 1), (unsigned long long)rebalances_seen,
                  (unsigned long long)expired_seen);
    assert_true(rebalances_seen > seeds && expired_seen > seeds);
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t n = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seeds") == 0) seeds = n;
        if (strcmp(argv[i], "--seed") == 0) first_seed = n, seeds = 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_group_survives_any_conduct_of_its_members)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
