/* Members and the states between them: the diagram at the top of group.c. Every change of state passes
 * set_state; every removal of a member passes member_remove. */
#include "group_internal.h"

#include <assert.h>
#include <stdlib.h>

/* ---- members ---- */

struct member *member_by_instance(const struct group *g, hf_str instance_id) {
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->instance_id.p && hf_str_eq(m->instance_id, instance_id)) return m;
    }
    return NULL;
}

static const struct group_protocol *find_protocol(const struct member *m, hf_str name) {
    for (size_t i = 0; i < m->protocol_count; i++)
        if (hf_str_eq(m->protocols[i].name, name)) return &m->protocols[i];
    return NULL;
}

bool member_has_protocol(const struct member *m, hf_str name) {
    return find_protocol(m, name) != NULL;
}

hf_str member_metadata(const struct member *m, hf_str protocol) {
    const struct group_protocol *p = find_protocol(m, protocol);
    return p ? p->metadata : HF_STR("");
}

void member_touch(struct groups *gs, struct group *g, struct member *m, int64_t now_ms) {
    m->deadline_ms = now_ms + m->session_ms;
    group_wake_at(gs, g, m->deadline_ms);
}

static void free_protocols(struct group_protocol *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        group_free_str(&p[i].name);
        group_free_str(&p[i].metadata);
    }
    free(p);
}

void member_account(struct groups *gs, struct member *m) {
    size_t bytes =
        sizeof *m + m->id.n + m->instance_id.n + m->client_id.n + m->client_host.n + m->assignment.n;
    for (size_t i = 0; i < m->protocol_count; i++)
        bytes += m->protocols[i].name.n + m->protocols[i].metadata.n;
    gs->member_bytes = gs->member_bytes - m->bytes + bytes;
    m->bytes = bytes;
}

bool member_update(struct groups *gs, struct member *m, const struct group_join *r) {
    struct group_protocol *copy = calloc(r->protocol_count, sizeof *copy);
    if (!copy) return false;
    for (size_t i = 0; i < r->protocol_count; i++)
        if (!group_dup(r->protocols[i].name, &copy[i].name) ||
            !group_dup(r->protocols[i].metadata, &copy[i].metadata)) {
            free_protocols(copy, r->protocol_count);
            return false;
        }
    free_protocols(m->protocols, m->protocol_count);
    m->protocols = copy;
    m->protocol_count = r->protocol_count;
    m->session_ms = r->session_ms;
    m->rebalance_ms = r->rebalance_ms;
    member_account(gs, m);
    return true;
}

void member_free(struct groups *gs, struct member *m) {
    gs->member_bytes -= m->bytes;
    free_protocols(m->protocols, m->protocol_count);
    group_free_str(&m->id);
    group_free_str(&m->instance_id);
    group_free_str(&m->client_id);
    group_free_str(&m->client_host);
    group_free_str(&m->assignment);
    free(m);
}

static bool make_room_for_views(struct group *g, size_t members) {
    if (members <= g->views_cap) return true;
    size_t cap = g->views_cap ? g->views_cap * 2 : 8;
    void *p = realloc(g->views, cap * sizeof *g->views);
    if (!p) return false;
    g->views = p;
    g->views_cap = cap;
    return true;
}

struct member *member_add(struct groups *gs, struct group *g, const struct group_join *r, hf_str id) {
    struct member *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    bool made = make_room_for_views(g, HASH_COUNT(g->members) + 1) && group_dup(id, &m->id) &&
                group_dup(r->instance_id, &m->instance_id) && group_dup(r->client_id, &m->client_id) &&
                group_dup(r->client_host, &m->client_host) && member_update(gs, m, r);
    if (made) HASH_ADD_KEYPTR(hh, g->members, m->id.p, m->id.n, m);
    if (!made || !m->hh.tbl) {
        member_free(gs, m);
        return NULL;
    }
    m->deadline_ms = INT64_MAX;
    gs->stats.members++;
    return m;
}

void expected_remove(struct group *g, struct expected *x) {
    HASH_DEL(g->expected, x);
    group_free_str(&x->id);
    free(x);
}

/* ---- requests that wait ---- */

static struct waiter first_out(struct waiters *w) {
    struct waiter first = w->at[0];
    w->n--;
    memmove(w->at, w->at + 1, w->n * sizeof w->at[0]);
    return first;
}

/* A member that repeats itself too often hears on its oldest request that it should try again. */
void wait_for_join(struct group *g, struct member *m, group_join_done *done, void *arg) {
    if (m->joins.n == WAITERS_MAX) {
        struct waiter oldest = first_out(&m->joins);
        oldest.joined(oldest.arg, &(struct group_joined){
                                      .result = GROUP_REBALANCING, .generation = -1, .member_id = m->id});
    }
    if (m->joins.n == 0) g->joining++;
    m->joins.at[m->joins.n++] = (struct waiter){.joined = done, .arg = arg};
}

void wait_for_sync(struct member *m, group_sync_done *done, void *arg) {
    if (m->syncs.n == WAITERS_MAX) {
        struct waiter oldest = first_out(&m->syncs);
        oldest.synced(oldest.arg, &(struct group_synced){.result = GROUP_REBALANCING});
    }
    m->syncs.at[m->syncs.n++] = (struct waiter){.synced = done, .arg = arg};
    m->owes_sync = false;
}

void answer_joins(struct group *g, struct member *m, const struct group_joined *reply) {
    if (m->joins.n > 0) g->joining--;
    while (m->joins.n > 0) {
        struct waiter w = first_out(&m->joins);
        w.joined(w.arg, reply);
    }
}

void answer_syncs(struct member *m, const struct group_synced *reply) {
    while (m->syncs.n > 0) {
        struct waiter w = first_out(&m->syncs);
        w.synced(w.arg, reply);
    }
}

/* true: one of them was arg's. */
static bool drop_waiter(struct waiters *w, const void *arg) {
    size_t i = 0;
    while (i < w->n && w->at[i].arg != arg) i++;
    if (i == w->n) return false;
    w->n--;
    memmove(w->at + i, w->at + i + 1, (w->n - i) * sizeof w->at[0]);
    return true;
}

static bool drop_request(struct group *g, struct member *m, const void *arg) {
    if (drop_waiter(&m->joins, arg)) {
        if (m->joins.n == 0) g->joining--;
        return true;
    }
    if (!drop_waiter(&m->syncs, arg)) return false;
    m->owes_sync = m->syncs.n == 0;
    return true;
}

bool group_gone(struct groups *gs, int64_t now_ms, hf_str group, const void *arg) {
    struct group *g = group_find(gs, group);
    if (!g) return false;
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (!drop_request(g, m, arg)) continue;
        member_touch(gs, g, m, now_ms);
        return true;
    }
    return false;
}

static bool waits(const struct member *m) {
    return m->joins.n + m->syncs.n > 0;
}

/* ---- states ---- */

static void set_state(struct group *g, enum group_state to) {
    static const bool allowed[4][4] = {
        [GROUP_EMPTY] = {[GROUP_PREPARING] = true},
        [GROUP_PREPARING] = {[GROUP_EMPTY] = true, [GROUP_COMPLETING] = true},
        [GROUP_COMPLETING] = {[GROUP_PREPARING] = true, [GROUP_STABLE] = true},
        [GROUP_STABLE] = {[GROUP_PREPARING] = true},
    };
    assert(allowed[g->state][to]);
    g->state = to;
}

static void set_deadline(struct groups *gs, struct group *g, int64_t t) {
    g->deadline_ms = t;
    group_wake_at(gs, g, t);
}

static int64_t longest_rebalance(const struct group *g) {
    int64_t longest = 0;
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->rebalance_ms > longest) longest = m->rebalance_ms;
    }
    return longest;
}

static bool all_understand(const struct group *g, hf_str protocol) {
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (!member_has_protocol(m, protocol)) return false;
    }
    return true;
}

/* The place in `first`'s list of what m likes best among those that are marked in `common`. */
static size_t vote_of(const struct member *m, const struct member *first, const bool *common) {
    for (size_t i = 0; i < m->protocol_count; i++)
        for (size_t k = 0; k < first->protocol_count; k++)
            if (common[k] && hf_str_eq(m->protocols[i].name, first->protocols[k].name)) return k;
    return 0;
}

/* Each member votes for what it likes best among what all understand. Ties go to what the first member likes
 * better. */
hf_str rebalance_choose(const struct group *g) {
    const struct member *first = g->members;
    bool common[PROTOCOLS_LIMIT] = {false}, any = false;
    size_t votes[PROTOCOLS_LIMIT] = {0}, best = 0;
    if (!first) return (hf_str){NULL, 0};
    for (size_t i = 0; i < first->protocol_count; i++) {
        common[i] = all_understand(g, first->protocols[i].name);
        any |= common[i];
    }
    if (!any) return (hf_str){NULL, 0};
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        votes[vote_of(m, first, common)]++;
    }
    for (size_t i = 1; i < first->protocol_count; i++)
        if (votes[i] > votes[best]) best = i;
    return first->protocols[best].name;
}

void describe_generation(struct group *g, struct member *m, bool with_members, struct group_joined *out) {
    *out = (struct group_joined){.result = GROUP_OK,
                                 .generation = g->generation,
                                 .protocol_type = g->protocol_type,
                                 .protocol = g->protocol,
                                 .leader = g->leader->id,
                                 .member_id = m->id};
    if (!with_members) return;
    struct member *each, *tmp;
    HASH_ITER (hh, g->members, each, tmp) {
        g->views[out->member_count++] = (struct group_joined_member){
            .id = each->id, .instance_id = each->instance_id, .metadata = member_metadata(each, g->protocol)};
    }
    out->members = g->views;
}

static int32_t next_generation(const struct group *g) {
    return g->generation == INT32_MAX ? 1 : g->generation + 1;
}

static void become_empty(struct groups *gs, struct group *g, int64_t now_ms) {
    set_state(g, GROUP_EMPTY);
    g->generation = next_generation(g);
    g->leader = NULL;
    group_free_str(&g->protocol);
    g->gathering = false;
    g->deadline_ms = INT64_MAX;
    g->empty_ms = now_ms;
    group_wake_at(gs, g, now_ms + EMPTY_KEPT_MS);
}

static void elect(struct group *g) {
    struct member *m, *tmp;
    if (g->leader && g->leader->joins.n > 0) return;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->joins.n == 0) continue;
        g->leader = m;
        return;
    }
}

/* The joins that wait are answered with a new generation. Members without one are static ones that have not
 * come back yet: they stay, and are told at their next request. */
static void complete(struct groups *gs, struct group *g, int64_t now_ms) {
    if (!g->members) {
        become_empty(gs, g, now_ms);
        return;
    }
    int64_t end = now_ms + longest_rebalance(g);
    hf_str chosen;
    if (g->joining == 0 || !group_dup(rebalance_choose(g), &chosen)) { /* nobody to tell; or no memory now */
        set_deadline(gs, g, end > now_ms ? end : now_ms + 1);
        return;
    }
    assert(chosen.p);
    group_free_str(&g->protocol);
    g->protocol = chosen;
    g->generation = next_generation(g);
    g->gathering = false;
    elect(g);
    set_state(g, GROUP_COMPLETING);
    set_deadline(gs, g, end);
    gs->stats.rebalances++;
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->joins.n == 0) continue;
        struct group_joined reply;
        describe_generation(g, m, m == g->leader, &reply);
        m->owes_sync = true;
        member_touch(gs, g, m, now_ms);
        answer_joins(g, m, &reply);
    }
}

void rebalance_try_complete(struct groups *gs, struct group *g, int64_t now_ms) {
    if (g->state != GROUP_PREPARING) return;
    size_t members = HASH_COUNT(g->members);
    if (members == 0)
        complete(gs, g, now_ms);
    else if (!g->gathering && !g->expected && g->joining == members)
        complete(gs, g, now_ms);
}

/* COMPLETING ends without an assignment. */
static void give_up_syncs(struct groups *gs, struct group *g) {
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        m->owes_sync = false;
        group_free_str(&m->assignment);
        member_account(gs, m);
        answer_syncs(m, &(struct group_synced){.result = GROUP_REBALANCING});
    }
}

/* Those whose sync is about to be answered have a session again from now on. */
static void touch_syncing(struct groups *gs, struct group *g, int64_t now_ms) {
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->syncs.n > 0) member_touch(gs, g, m, now_ms);
    }
}

void rebalance(struct groups *gs, struct group *g, int64_t now_ms) {
    assert(g->state != GROUP_PREPARING);
    bool first = g->state == GROUP_EMPTY;
    if (g->state == GROUP_COMPLETING) {
        touch_syncing(gs, g, now_ms);
        give_up_syncs(gs, g);
    }
    set_state(g, GROUP_PREPARING);
    int64_t end = now_ms + longest_rebalance(g);
    g->gathering = first && gs->options.initial_delay_ms > 0;
    g->gather_end_ms = end;
    set_deadline(gs, g, end);
    if (g->gathering) rebalance_gather_longer(gs, g, now_ms);
    rebalance_try_complete(gs, g, now_ms);
}

void rebalance_gather_longer(struct groups *gs, struct group *g, int64_t now_ms) {
    if (!g->gathering) return;
    int64_t end = now_ms + gs->options.initial_delay_ms;
    set_deadline(gs, g, end < g->gather_end_ms ? end : g->gather_end_ms);
}

void rebalance_assigned(struct groups *gs, struct group *g, int64_t now_ms) {
    touch_syncing(gs, g, now_ms);
    set_state(g, GROUP_STABLE);
    g->deadline_ms = INT64_MAX;
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        m->owes_sync = false;
        answer_syncs(m, &(struct group_synced){.result = GROUP_OK,
                                               .protocol_type = g->protocol_type,
                                               .protocol = g->protocol,
                                               .assignment = m->assignment});
    }
}

void member_remove(struct groups *gs, struct group *g, struct member *m, enum group_result why,
                   int64_t now_ms) {
    HASH_DEL(g->members, m);
    gs->stats.members--;
    if (g->leader == m) g->leader = NULL;
    answer_joins(g, m, &(struct group_joined){.result = why, .generation = -1, .member_id = m->id});
    answer_syncs(m, &(struct group_synced){.result = why});
    member_free(gs, m);
    if (g->state == GROUP_PREPARING)
        rebalance_try_complete(gs, g, now_ms);
    else
        rebalance(gs, g, now_ms);
}

/* ---- time ---- */

static bool is_dead(const struct member *m, int64_t now_ms) {
    return !waits(m) && m->deadline_ms <= now_ms;
}

static struct member *first_without_join(const struct group *g) {
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->joins.n == 0 && !m->instance_id.p) return m;
    }
    return NULL;
}

/* Removals change the state as they go; each time the search begins anew. */
static void expire_members(struct groups *gs, struct group *g, int64_t now_ms) {
    bool found = true;
    while (found) {
        found = false;
        struct member *m, *tmp;
        HASH_ITER (hh, g->members, m, tmp) {
            if (!is_dead(m, now_ms)) continue;
            gs->stats.expired_members++;
            member_remove(gs, g, m, GROUP_UNKNOWN_MEMBER, now_ms);
            found = true;
            break;
        }
    }
}

static void expire_preparing(struct groups *gs, struct group *g, int64_t now_ms) {
    if (g->gathering) {
        g->gathering = false;
        set_deadline(gs, g, g->gather_end_ms);
        rebalance_try_complete(gs, g, now_ms);
        return;
    }
    struct expected *x, *tmp;
    HASH_ITER (hh, g->expected, x, tmp) {
        expected_remove(g, x);
    }
    struct member *m;
    while (g->state == GROUP_PREPARING && (m = first_without_join(g))) {
        gs->stats.expired_members++;
        member_remove(gs, g, m, GROUP_UNKNOWN_MEMBER, now_ms);
    }
    if (g->state == GROUP_PREPARING) complete(gs, g, now_ms);
}

/* Who still owes its sync is as good as dead. The leader is among them: its sync would have ended COMPLETING.
 */
static void expire_completing(struct groups *gs, struct group *g, int64_t now_ms) {
    assert(g->leader->owes_sync);
    struct member *m, *tmp;
    HASH_ITER (hh, g->members, m, tmp) {
        if (m->owes_sync) m->deadline_ms = now_ms;
    }
    expire_members(gs, g, now_ms);
}

void rebalance_expire(struct groups *gs, struct group *g, int64_t now_ms) {
    struct expected *x, *tmp;
    HASH_ITER (hh, g->expected, x, tmp) {
        if (x->deadline_ms <= now_ms) expected_remove(g, x);
    }
    expire_members(gs, g, now_ms);
    rebalance_try_complete(gs, g, now_ms);
    if (g->deadline_ms > now_ms) return;
    if (g->state == GROUP_PREPARING)
        expire_preparing(gs, g, now_ms);
    else if (g->state == GROUP_COMPLETING)
        expire_completing(gs, g, now_ms);
}

int64_t rebalance_next_ms(const struct group *g) {
    int64_t next = g->deadline_ms;
    struct member *m, *mtmp;
    HASH_ITER (hh, g->members, m, mtmp) {
        if (!waits(m) && m->deadline_ms < next) next = m->deadline_ms;
    }
    struct expected *x, *xtmp;
    HASH_ITER (hh, g->expected, x, xtmp) {
        if (x->deadline_ms < next) next = x->deadline_ms;
    }
    return next;
}

/* ---- invariants ---- */

static void check_member(const struct group *g, const struct member *m) {
    struct expected *x;
    assert(m->joins.n == 0 || g->state == GROUP_PREPARING);                     /* G2 */
    assert((m->syncs.n == 0 && !m->owes_sync) || g->state == GROUP_COMPLETING); /* G2 */
    assert(m->syncs.n == 0 || !m->owes_sync);
    assert(m->joins.n <= WAITERS_MAX && m->syncs.n <= WAITERS_MAX);
    if (g->state >= GROUP_COMPLETING) assert(member_has_protocol(m, g->protocol)); /* G3 */
    if (m->instance_id.p) assert(member_by_instance(g, m->instance_id) == m);      /* G4 */
    HASH_FIND(hh, g->expected, m->id.p, m->id.n, x);
    assert(!x); /* G4 */
}

void rebalance_check(const struct groups *gs, const struct group *g) {
    size_t members = HASH_COUNT(g->members), joining = 0;
    bool leader_found = false;
    struct member *m, *tmp;
    assert((g->state == GROUP_EMPTY) == (members == 0)); /* G1 */
    assert(g->state != GROUP_EMPTY || (!g->leader && !g->protocol.p));
    HASH_ITER (hh, g->members, m, tmp) {
        check_member(g, m);
        joining += m->joins.n > 0;
        leader_found |= m == g->leader;
    }
    assert(!g->leader || leader_found);
    if (g->state >= GROUP_COMPLETING) assert(g->leader); /* G3 */
    assert(joining == g->joining);                       /* G5 */
    if (g->state == GROUP_PREPARING) assert(g->gathering || g->expected || joining < members);
    assert(members <= gs->options.members_max && g->next_ms <= rebalance_next_ms(g)); /* G6 */
}
