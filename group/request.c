/* What members ask: the table at the top of group.c, row by row. A request is first judged as a whole
 * (limits, identity), then by the state of its group. */
#include "group_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- join ---- */

struct join {
    struct groups *gs;
    struct group *g;
    const struct group_join *r;
    int64_t now_ms;
    group_join_done *done;
    void *arg;
};

static void join_failed(const struct join *j, enum group_result why, hf_str member_id) {
    j->done(j->arg, &(struct group_joined){.result = why,
                                           .generation = -1,
                                           .protocol_type = HF_STR(""),
                                           .protocol = HF_STR(""),
                                           .leader = HF_STR(""),
                                           .member_id = member_id.p ? member_id : HF_STR("")});
}

static void join_told(const struct join *j, struct member *m, bool with_members) {
    struct group_joined reply;
    describe_generation(j->g, m, with_members, &reply);
    member_touch(j->gs, j->g, m, j->now_ms);
    j->done(j->arg, &reply);
}

static void join_waits(const struct join *j, struct member *m) {
    wait_for_join(j->g, m, j->done, j->arg);
    rebalance_try_complete(j->gs, j->g, j->now_ms);
}

/* The member's request waits, in a rebalance that begins now if none has. */
static void join_rebalance(const struct join *j, struct member *m) {
    if (j->g->state != GROUP_PREPARING)
        rebalance(j->gs, j->g, j->now_ms);
    else
        rebalance_gather_longer(j->gs, j->g, j->now_ms);
    join_waits(j, m);
}

static bool shape_ok(hf_str s) {
    return s.n <= ID_MAX && (s.n == 0 || !memchr(s.p, 0, s.n));
}

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static enum group_result join_limits(const struct groups *gs, const struct group_join *r) {
    const struct groups_options *o = &gs->options;
    if (r->group.n == 0 || !group_id_ok(r->group)) return GROUP_INVALID_ID;
    if (!shape_ok(r->member_id) || !shape_ok(r->instance_id) || !shape_ok(r->protocol_type))
        return GROUP_LIMIT;
    if (r->session_ms < o->session_ms_min || r->session_ms > o->session_ms_max)
        return GROUP_INVALID_SESSION_TIMEOUT;
    if (r->protocol_type.n == 0 || r->protocol_count == 0) return GROUP_INCONSISTENT_PROTOCOL;
    if (r->protocol_count > o->protocols_max) return GROUP_LIMIT;
    size_t left = o->member_bytes_max;
    for (size_t i = 0; i < r->protocol_count; i++) {
        size_t n = r->protocols[i].metadata.n;
        if (r->protocols[i].name.n == 0) return GROUP_INCONSISTENT_PROTOCOL;
        if (!shape_ok(r->protocols[i].name) || n > left) return GROUP_LIMIT;
        left -= n;
    }
    if (r->client_id.n > left || r->client_host.n > left - r->client_id.n) return GROUP_LIMIT;
    size_t needed = o->member_bytes_max - left;
    return needed > o->members_bytes_max - min_size(gs->member_bytes, o->members_bytes_max)
               ? GROUP_UNAVAILABLE
               : GROUP_OK;
}

/* Is there a protocol of the request that all members but `self` understand? */
static bool protocols_fit(const struct group *g, const struct group_join *r, const struct member *self) {
    if (!g->members || (self && HASH_COUNT(g->members) == 1)) return true;
    if (!hf_str_eq(g->protocol_type, r->protocol_type)) return false;
    for (size_t i = 0; i < r->protocol_count; i++) {
        bool all = true;
        struct member *m, *tmp;
        HASH_ITER (hh, g->members, m, tmp) {
            all &= m == self || member_has_protocol(m, r->protocols[i].name);
        }
        if (all) return true;
    }
    return false;
}

static bool same_protocols(const struct member *m, const struct group_join *r) {
    if (m->protocol_count != r->protocol_count) return false;
    for (size_t i = 0; i < r->protocol_count; i++)
        if (!hf_str_eq(m->protocols[i].name, r->protocols[i].name) ||
            !hf_str_eq(m->protocols[i].metadata, r->protocols[i].metadata))
            return false;
    return true;
}

/* "<client id>-<32 hex digits>": nobody guesses it, and no two are the same. */
static hf_str new_member_id(struct groups *gs, hf_str client_id, char *room, size_t size) {
    enum { CLIENT_PART = 128 };
    int part = (int)(client_id.n < CLIENT_PART ? client_id.n : CLIENT_PART);
    uint64_t high = gs->options.random(gs->options.random_arg);
    uint64_t low = gs->options.random(gs->options.random_arg);
    int n = snprintf(room, size, "%.*s-%016" PRIx64 "%016" PRIx64, part, part ? client_id.p : "", high, low);
    assert(n > 0 && (size_t)n < size);
    return hf_str_make(room, (size_t)n);
}

/* The group's protocol type is that of its first member. */
static bool adopt_protocol_type(struct group *g, hf_str type) {
    if (g->members) return true;
    hf_str copy;
    if (!group_dup(type, &copy)) return false;
    group_free_str(&g->protocol_type);
    g->protocol_type = copy;
    return true;
}

static void join_as_new(const struct join *j, hf_str id) {
    struct member *m =
        adopt_protocol_type(j->g, j->r->protocol_type) ? member_add(j->gs, j->g, j->r, id) : NULL;
    if (!m)
        join_failed(j, GROUP_UNAVAILABLE, j->r->member_id);
    else
        join_rebalance(j, m);
}

static void join_expected_back(const struct join *j, hf_str id) {
    struct expected *x = calloc(1, sizeof *x);
    bool made = x && group_dup(id, &x->id);
    if (made) HASH_ADD_KEYPTR(hh, j->g->expected, x->id.p, x->id.n, x);
    if (!made || !x->hh.tbl) {
        if (x) group_free_str(&x->id);
        free(x);
        join_failed(j, GROUP_UNAVAILABLE, j->r->member_id);
        return;
    }
    x->deadline_ms = j->now_ms + j->r->session_ms;
    group_wake_at(j->gs, j->g, x->deadline_ms);
    join_failed(j, GROUP_MEMBER_ID_REQUIRED, id);
}

/* A static member was started anew (KIP-345): it takes its predecessor's place under a new id, and whoever
 * still uses the old id is fenced. */
static struct member *replace(const struct join *j, struct member *old, hf_str id) {
    struct member *m = member_add(j->gs, j->g, j->r, id);
    if (!m) return NULL;
    hf_str assignment = old->assignment;
    old->assignment = m->assignment;
    m->assignment = assignment;
    member_account(j->gs, m);
    member_account(j->gs, old);
    if (j->g->leader == old) j->g->leader = m;
    HASH_DEL(j->g->members, old);
    j->gs->stats.members--;
    answer_joins(
        j->g, old,
        &(struct group_joined){.result = GROUP_FENCED_INSTANCE, .generation = -1, .member_id = old->id});
    answer_syncs(old, &(struct group_synced){.result = GROUP_FENCED_INSTANCE});
    member_free(j->gs, old);
    return m;
}

/* In a stable group whose protocol stays the same nobody else needs to hear of it. A leader that came back
 * must not assign anew in this generation: it is told so, or, if it would not understand, is shown the old id
 * as the leader's. */
static void join_static_again(const struct join *j, struct member *old, hf_str id) {
    char old_id[ID_MAX + 64];
    size_t old_n = old->id.n;
    assert(old_n <= sizeof old_id);
    memcpy(old_id, old->id.p, old_n);
    bool led = j->g->leader == old;
    struct member *m = replace(j, old, id);
    if (!m) {
        join_failed(j, GROUP_UNAVAILABLE, j->r->member_id);
        return;
    }
    if (j->g->state != GROUP_STABLE || !hf_str_eq(rebalance_choose(j->g), j->g->protocol)) {
        join_rebalance(j, m);
        return;
    }
    struct group_joined reply;
    describe_generation(j->g, m, led && j->r->can_skip, &reply);
    reply.skip_assignment = led && j->r->can_skip;
    if (led && !j->r->can_skip) reply.leader = hf_str_make(old_id, old_n);
    member_touch(j->gs, j->g, m, j->now_ms);
    j->done(j->arg, &reply);
}

static void join_unknown(const struct join *j) {
    const struct group_join *r = j->r;
    char room[256];
    struct member *old = r->instance_id.p ? member_by_instance(j->g, r->instance_id) : NULL;
    size_t size = HASH_COUNT(j->g->members) + HASH_COUNT(j->g->expected);
    if (!protocols_fit(j->g, r, old)) {
        join_failed(j, GROUP_INCONSISTENT_PROTOCOL, r->member_id);
        return;
    }
    if (!old && size >= j->gs->options.members_max) {
        join_failed(j, GROUP_FULL, r->member_id);
        return;
    }
    hf_str id = new_member_id(j->gs, r->client_id, room, sizeof room);
    if (old)
        join_static_again(j, old, id);
    else if (r->needs_known_id && !r->instance_id.p)
        join_expected_back(j, id);
    else
        join_as_new(j, id);
}

static void join_known(const struct join *j, struct member *m) {
    struct group *g = j->g;
    bool same = same_protocols(m, j->r);
    if (!protocols_fit(g, j->r, m)) {
        join_failed(j, GROUP_INCONSISTENT_PROTOCOL, m->id);
        return;
    }
    bool leads = g->leader == m;
    bool told_again = same && (g->state == GROUP_COMPLETING || (g->state == GROUP_STABLE && !leads));
    if (told_again) {
        join_told(j, m, leads);
        return;
    }
    if (!member_update(j->gs, m, j->r)) {
        join_failed(j, GROUP_UNAVAILABLE, m->id);
        return;
    }
    if (g->state == GROUP_PREPARING)
        join_waits(j, m);
    else
        join_rebalance(j, m);
}

static void join_by_id(const struct join *j) {
    const struct group_join *r = j->r;
    struct expected *x;
    struct member *m;
    HASH_FIND(hh, j->g->expected, r->member_id.p, r->member_id.n, x);
    if (x && !r->instance_id.p) {
        if (!protocols_fit(j->g, r, NULL)) {
            join_failed(j, GROUP_INCONSISTENT_PROTOCOL, r->member_id);
            return;
        }
        expected_remove(j->g, x);
        join_as_new(j, r->member_id);
        return;
    }
    const struct group_who who = {.member_id = r->member_id, .instance_id = r->instance_id};
    enum group_result e = member_of(j->g, &who, &m);
    if (e)
        join_failed(j, e, r->member_id);
    else
        join_known(j, m);
}

void group_join(struct groups *gs, int64_t now_ms, const struct group_join *r, group_join_done *done,
                void *arg) {
    struct group_join own = *r;
    if (own.rebalance_ms <= 0) own.rebalance_ms = own.session_ms;
    struct join j = {.gs = gs, .r = &own, .now_ms = now_ms, .done = done, .arg = arg};
    enum group_result e = join_limits(gs, r);
    if (!e) {
        j.g = group_find(gs, r->group);
        if (!j.g && r->member_id.n > 0)
            e = GROUP_UNKNOWN_MEMBER;
        else if (!j.g && !(j.g = group_make(gs, now_ms, r->group)))
            e = GROUP_LIMIT;
    }
    if (e)
        join_failed(&j, e, r->member_id);
    else if (r->member_id.n == 0)
        join_unknown(&j);
    else
        join_by_id(&j);
}

/* ---- identity ---- */

enum group_result member_of(const struct group *g, const struct group_who *who, struct member **out) {
    struct member *m;
    if (who->instance_id.p) {
        m = member_by_instance(g, who->instance_id);
        if (m && !hf_str_eq(m->id, who->member_id)) return GROUP_FENCED_INSTANCE;
    } else {
        HASH_FIND(hh, g->members, who->member_id.p, who->member_id.n, m);
    }
    if (!m) return GROUP_UNKNOWN_MEMBER;
    *out = m;
    return GROUP_OK;
}

/* Group, member and generation of a request from inside a generation. */
static enum group_result present(struct groups *gs, const struct group_who *who, struct group **g,
                                 struct member **m) {
    if (who->group.n == 0 || !group_id_ok(who->group)) return GROUP_INVALID_ID;
    *g = group_find(gs, who->group);
    if (!*g) return GROUP_UNKNOWN_MEMBER;
    enum group_result e = member_of(*g, who, m);
    if (!e && who->generation != (*g)->generation) e = GROUP_ILLEGAL_GENERATION;
    return e;
}

/* ---- sync ---- */

static void sync_reply(enum group_result e, hf_str type, hf_str protocol, hf_str assignment,
                       group_sync_done *done, void *arg) {
    done(arg, &(struct group_synced){e, type, protocol, assignment.p ? assignment : HF_STR("")});
}

static hf_str assignment_for(const struct group_sync *r, hf_str member_id) {
    for (size_t i = 0; i < r->assignment_count; i++)
        if (hf_str_eq(r->assignments[i].member_id, member_id)) return r->assignments[i].bytes;
    return HF_STR("");
}

/* All copies are made before the first is put in its place. */
static enum group_result take_assignments(struct groups *gs, struct group *g, const struct group_sync *r) {
    size_t n = HASH_COUNT(g->members), made = 0;
    size_t left = gs->options.members_bytes_max - min_size(gs->member_bytes, gs->options.members_bytes_max);
    if (r->assignment_count > 2 * gs->options.members_max) return GROUP_LIMIT;
    for (size_t i = 0; i < r->assignment_count; i++) {
        size_t bytes = r->assignments[i].bytes.n;
        if (bytes > gs->options.member_bytes_max) return GROUP_LIMIT;
        if (bytes > left) return GROUP_UNAVAILABLE;
        left -= bytes;
    }
    hf_str *copies = calloc(n, sizeof *copies);
    struct member *m, *tmp;
    bool ok = copies != NULL;
    HASH_ITER (hh, g->members, m, tmp) {
        ok = ok && group_dup(assignment_for(r, m->id), &copies[made]);
        made += ok;
    }
    size_t i = 0;
    HASH_ITER (hh, g->members, m, tmp) {
        if (!ok) break;
        group_free_str(&m->assignment);
        m->assignment = copies[i++];
        member_account(gs, m);
    }
    for (; i < made; i++) group_free_str(&copies[i]);
    free(copies);
    return ok ? GROUP_OK : GROUP_UNAVAILABLE;
}

static enum group_result sync_allowed(struct groups *gs, const struct group_sync *r, struct group **g,
                                      struct member **m) {
    enum group_result e = present(gs, &r->who, g, m);
    if (e) return e;
    if ((*g)->state == GROUP_PREPARING) return GROUP_REBALANCING;
    if (r->protocol_type.p && !hf_str_eq(r->protocol_type, (*g)->protocol_type))
        return GROUP_INCONSISTENT_PROTOCOL;
    if (r->protocol.p && !hf_str_eq(r->protocol, (*g)->protocol)) return GROUP_INCONSISTENT_PROTOCOL;
    return GROUP_OK;
}

void group_sync(struct groups *gs, int64_t now_ms, const struct group_sync *r, group_sync_done *done,
                void *arg) {
    struct group *g;
    struct member *m;
    const hf_str nothing = HF_STR("");
    enum group_result e = sync_allowed(gs, r, &g, &m);
    if (!e && g->state == GROUP_COMPLETING && m == g->leader) e = take_assignments(gs, g, r);
    if (e) {
        sync_reply(e, nothing, nothing, nothing, done, arg);
        return;
    }
    member_touch(gs, g, m, now_ms);
    if (g->state == GROUP_STABLE) {
        sync_reply(GROUP_OK, g->protocol_type, g->protocol, m->assignment, done, arg);
        return;
    }
    wait_for_sync(m, done, arg);
    if (m == g->leader) rebalance_assigned(gs, g, now_ms);
}

/* ---- heartbeat ---- */

enum group_result group_heartbeat(struct groups *gs, int64_t now_ms, const struct group_who *who) {
    struct group *g;
    struct member *m;
    enum group_result e = present(gs, who, &g, &m);
    if (e) return e;
    member_touch(gs, g, m, now_ms);
    return g->state == GROUP_PREPARING ? GROUP_REBALANCING : GROUP_OK;
}

/* ---- leave ---- */

static enum group_result leave_one(struct groups *gs, struct group *g, int64_t now_ms,
                                   const struct group_leaver *l) {
    struct expected *x = NULL;
    struct member *m;
    if (!l->instance_id.p) HASH_FIND(hh, g->expected, l->member_id.p, l->member_id.n, x);
    if (x) {
        expected_remove(g, x);
        rebalance_try_complete(gs, g, now_ms);
        return GROUP_OK;
    }
    enum group_result e = GROUP_UNKNOWN_MEMBER;
    if (l->instance_id.p && l->member_id.n == 0) {
        m = member_by_instance(g, l->instance_id);
        if (m) e = GROUP_OK;
    } else {
        const struct group_who who = {.member_id = l->member_id, .instance_id = l->instance_id};
        e = member_of(g, &who, &m);
    }
    if (!e) member_remove(gs, g, m, GROUP_UNKNOWN_MEMBER, now_ms);
    return e;
}

void group_leave(struct groups *gs, int64_t now_ms, hf_str group, const struct group_leaver *leavers,
                 size_t n, enum group_result *results) {
    struct group *g = group_find(gs, group);
    enum group_result all = g ? GROUP_OK : GROUP_UNKNOWN_MEMBER;
    if (group.n == 0 || !group_id_ok(group)) all = GROUP_INVALID_ID;
    if (n > 2 * gs->options.members_max) all = GROUP_LIMIT;
    for (size_t i = 0; i < n; i++) results[i] = all ? all : leave_one(gs, g, now_ms, &leavers[i]);
}
