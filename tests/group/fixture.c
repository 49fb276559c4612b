#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static uint64_t next_random(void *arg) {
    uint64_t *x = arg;
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return *x ^ *x >> 29;
}

static void start(struct fixture *f) {
    f->options.now_ms = f->now_ms;
    assert_int_equal(groups_open(memory_engine_engine(f->m), &f->options, &f->gs), HF_OK);
}

void fixture_open(struct fixture *f, uint64_t seed, const struct groups_options *options) {
    *f = (struct fixture){.now_ms = 1000000, .random = seed + 1};
    if (options) f->options = *options;
    f->options.random = next_random;
    f->options.random_arg = &f->random;
    memory_engine_open(&(struct memory_options){.seed = seed}, &f->m);
    start(f);
}

void fixture_close(struct fixture *f) {
    memory_engine_crash(f->m); /* nothing completes any more */
    groups_close(f->gs);
    memory_engine_close(f->m);
}

int fixture_setup(void **state) {
    static struct fixture f;
    fixture_open(&f, 0, NULL);
    *state = &f;
    return 0;
}

int fixture_teardown(void **state) {
    fixture_close(*state);
    return 0;
}

void fixture_restart(struct fixture *f) {
    memory_engine_crash(f->m);
    groups_close(f->gs);
    start(f);
}

void fixture_advance(struct fixture *f, int64_t ms) {
    int64_t end = f->now_ms + ms;
    for (int i = 0;; i++) {
        assert_true(i < 100000);
        int64_t next = groups_step(f->gs, f->now_ms);
        groups_check(f->gs);
        if (next > end) break;
        if (next > f->now_ms) f->now_ms = next;
    }
    f->now_ms = end;
}

void fixture_settle(struct fixture *f) {
    struct groups_stats s;
    do {
        memory_engine_settle(f->m);
        fixture_advance(f, 0);
        groups_stats(f->gs, &s);
    } while (s.commits_under_way > 0);
}

static void copy(char *to, size_t size, hf_str s) {
    assert_true(s.n < size);
    if (s.n) memcpy(to, s.p, s.n);
    to[s.n] = 0;
}

static void on_joined(void *arg, const struct group_joined *r) {
    struct joined *j = arg;
    j->times++;
    j->result = r->result;
    j->generation = r->generation;
    j->skip_assignment = r->skip_assignment;
    copy(j->member_id, sizeof j->member_id, r->member_id);
    copy(j->leader, sizeof j->leader, r->leader);
    copy(j->protocol, sizeof j->protocol, r->protocol);
    j->member_count = r->member_count;
    for (size_t i = 0; i < r->member_count && i < 8; i++) {
        copy(j->members[i], sizeof j->members[i], r->members[i].id);
        copy(j->metadata[i], sizeof j->metadata[i], r->members[i].metadata);
    }
}

static void on_synced(void *arg, const struct group_synced *r) {
    struct synced *s = arg;
    s->times++;
    s->result = r->result;
    copy(s->assignment, sizeof s->assignment, r->assignment);
}

void on_committed(void *arg, enum group_result all, const enum group_result *results) {
    struct committed *c = arg;
    c->times++;
    c->all = all;
    for (size_t i = 0; i < c->n; i++) c->each[i] = all ? all : results[i];
}

struct group_join fixture_join(const char *member_id, const char *instance) {
    static const struct group_protocol protocol = {{"range", 5}, {"m", 1}};
    return (struct group_join){.group = HF_STR("g"),
                               .member_id = hf_str_of(member_id),
                               .instance_id = hf_str_of(instance),
                               .client_id = HF_STR("client"),
                               .client_host = HF_STR("/127.0.0.1"),
                               .protocol_type = HF_STR("consumer"),
                               .session_ms = 10000,
                               .rebalance_ms = 30000,
                               .protocols = &protocol,
                               .protocol_count = 1,
                               .needs_known_id = true};
}

void join(struct fixture *f, const struct group_join *r, struct joined *out) {
    group_join(f->gs, f->now_ms, r, on_joined, out);
    groups_check(f->gs);
}

void sync_as(struct fixture *f, const char *member_id, int32_t generation, const struct group_assignment *a,
             size_t n, struct synced *out) {
    const struct group_sync r = {
        .who = {.group = HF_STR("g"), .member_id = hf_str_of(member_id), .generation = generation},
        .assignments = a,
        .assignment_count = n};
    group_sync(f->gs, f->now_ms, &r, on_synced, out);
    groups_check(f->gs);
}

enum group_result beat(struct fixture *f, const char *member_id, int32_t generation) {
    const struct group_who who = {
        .group = HF_STR("g"), .member_id = hf_str_of(member_id), .generation = generation};
    enum group_result e = group_heartbeat(f->gs, f->now_ms, &who);
    groups_check(f->gs);
    return e;
}

enum group_result leave(struct fixture *f, const char *member_id) {
    const struct group_leaver l = {.member_id = hf_str_of(member_id)};
    enum group_result e;
    group_leave(f->gs, f->now_ms, HF_STR("g"), &l, 1, &e);
    groups_check(f->gs);
    return e;
}

enum group_state state_of(struct fixture *f) {
    struct group_view v;
    group_describe(f->gs, HF_STR("g"), &v, NULL, NULL);
    return v.state;
}

void join_new(struct fixture *f, struct joined *out, char id[256]) {
    struct joined first = {0};
    struct group_join r = fixture_join("", NULL);
    join(f, &r, &first);
    assert_int_equal(first.times, 1);
    assert_int_equal(first.result, GROUP_MEMBER_ID_REQUIRED);
    strcpy(id, first.member_id);
    r.member_id = hf_str_of(id);
    join(f, &r, out);
}

void join_at_once(struct fixture *f, const char *group, struct joined *out) {
    struct group_join r = fixture_join("", NULL);
    r.group = hf_str_of(group);
    r.needs_known_id = false;
    join(f, &r, out);
}

int32_t stable_alone(struct fixture *f, char id[256]) {
    struct joined j = {0};
    struct synced s = {0};
    join_new(f, &j, id);
    assert_int_equal(j.times, 1);
    assert_int_equal(j.result, GROUP_OK);
    assert_string_equal(j.leader, id);
    assert_int_equal(j.member_count, 1);
    const struct group_assignment a = {hf_str_of(id), HF_STR("all")};
    sync_as(f, id, j.generation, &a, 1, &s);
    assert_int_equal(s.times, 1);
    assert_int_equal(s.result, GROUP_OK);
    assert_string_equal(s.assignment, "all");
    assert_int_equal(state_of(f), GROUP_STABLE);
    return j.generation;
}

enum group_result commit_offset(struct fixture *f, const char *member_id, int32_t generation,
                                int64_t offset) {
    struct committed c = {.n = 1};
    const struct group_offset o = {HF_STR("t"), 0, offset, 7, HF_STR("meta")};
    const struct group_commit r = {
        .who = {.group = HF_STR("g"), .member_id = hf_str_of(member_id), .generation = generation},
        .offsets = &o,
        .offset_count = 1};
    group_commit(f->gs, f->now_ms, &r, on_committed, &c);
    fixture_settle(f);
    groups_check(f->gs);
    assert_int_equal(c.times, 1);
    return c.each[0];
}

int64_t offset_of(struct fixture *f) {
    struct group_offset o;
    if (!group_offset_get(f->gs, HF_STR("g"), HF_STR("t"), 0, &o)) return -1;
    assert_true(hf_str_is(o.topic, "t") && hf_str_is(o.metadata, "meta") && o.leader_epoch == 7);
    return o.offset;
}
