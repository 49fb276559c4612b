/* Consumer groups.
 *
 * The problem: members of a group come, go and die; whenever their number changes all of them must meet,
 * agree on a generation, elect a leader, get the leader's assignment, and go on, while whoever missed it is
 * told so. In the words of KIP-62, KIP-345 (static members), KIP-394 (ids before membership):
 *
 *                 first join                          all joined, or time is up
 *     Empty ────────────────────▶ PreparingRebalance ──────────────────────────▶ CompletingRebalance
 *       ▲                          │   ▲     ▲                                      │        │
 *       └──────────────────────────┘   │     │   a member came, went, died,         │        │ the leader's
 *           the last member is gone    │     └──── owed its sync too long ──────────┘        │ assignment
 *                                      │                                                     ▼
 *                                      └──────────── a member came, went, died ─────────── Stable
 *
 *                     Empty            Preparing           Completing           Stable
 *     Join, new       ▸ Preparing      waits               ▸ Preparing          ▸ Preparing
 *     Join, known     unknown member   waits               same protocols:      leader or new protocols:
 *                                                          told again; else     ▸ Preparing; else told again
 *                                                          ▸ Preparing
 *     Join, static    ▸ Preparing      waits               ▸ Preparing          told at once if the protocol
 *       come back                                                               stays; else ▸ Preparing
 *     Sync            unknown member   rebalancing         waits; the leader's  the assignment
 *                                                          ▸ Stable
 *     Heartbeat       unknown member   rebalancing         ok                   ok
 *     Leave, death    unknown member   may complete        ▸ Preparing          ▸ Preparing
 *     Commit          ok without a     ok                  rebalancing          ok
 *                     generation
 *
 * A join completes when every member has a join waiting and nobody to whom an id was given is still expected;
 * at the deadline (the longest rebalance timeout) dynamic members without a join are dropped, static ones
 * kept. A member's session does not run while a request of it waits; when the connection of the last one is
 * closed it runs again, so that a member that was killed while it waited is dropped as quickly as any other.
 * A repeated request waits beside the first and both get the same answer.
 *
 * Time is an argument. Each group keeps a lower bound of its next deadline and the whole a lower bound of
 * those, so that a heartbeat moves one number and a step with nothing due costs one comparison.
 *
 * Nothing here is durable but committed offsets (offsets.c). Rejected: making members durable. Kafka does so
 * that a new coordinator can take over without a rebalance; here there is one, and after its restart a
 * rebalance takes as long as one heartbeat interval.
 *
 * Invariants (groups_check):
 *   G1  Empty ⇔ no members; then there is neither leader nor protocol
 *   G2  joins wait only in Preparing; syncs wait, and are owed, only in Completing; who waits owes nothing
 *   G3  in Completing and Stable the leader is a member, and every member understands the protocol
 *   G4  no two members share an instance id; an expected id is no member's
 *   G5  `joining` is the number of members with a waiting join; in Preparing, unless gathering or somebody is
 *       expected, it is less than the number of members
 *   G6  nothing falls due before next_ms
 *   G7  an entry that is not present has commits under way; the counts of entries and members are right
 *
 * On failure: memory and the engine's refusals become GROUP_UNAVAILABLE and leave everything as it was. */
#include "group_internal.h"

#include <assert.h>
#include <stdlib.h>

const char *group_state_name(enum group_state s) {
    static const char *const names[] = {[GROUP_EMPTY] = "Empty",
                                        [GROUP_PREPARING] = "PreparingRebalance",
                                        [GROUP_COMPLETING] = "CompletingRebalance",
                                        [GROUP_STABLE] = "Stable",
                                        [GROUP_DEAD] = "Dead"};
    return (size_t)s < sizeof names / sizeof names[0] ? names[s] : "?";
}

bool group_dup(hf_str s, hf_str *out) {
    char *p = NULL;
    if (s.p) {
        p = malloc(s.n ? s.n : 1);
        if (!p) return false;
        if (s.n) memcpy(p, s.p, s.n);
    }
    *out = hf_str_make(p, s.p ? s.n : 0);
    return true;
}

void group_free_str(hf_str *s) {
    free((void *)(uintptr_t)s->p);
    *s = (hf_str){NULL, 0};
}

/* ---- groups ---- */

bool group_id_ok(hf_str id) {
    return id.n <= ID_MAX && (id.n == 0 || !memchr(id.p, 0, id.n));
}

struct group *group_find(struct groups *gs, hf_str id) {
    struct group *g;
    HASH_FIND(hh, gs->groups, id.p, id.n, g);
    return g;
}

struct group *group_make(struct groups *gs, int64_t now_ms, hf_str id) {
    if (HASH_COUNT(gs->groups) >= gs->options.groups_max) return NULL;
    struct group *g = calloc(1, sizeof *g);
    if (!g || !group_dup(id.p ? id : HF_STR(""), &g->id)) {
        free(g);
        return NULL;
    }
    g->deadline_ms = g->next_ms = INT64_MAX;
    g->empty_ms = now_ms;
    HASH_ADD_KEYPTR(hh, gs->groups, g->id.p, g->id.n, g);
    if (!g->hh.tbl) {
        group_free_str(&g->id);
        free(g);
        return NULL;
    }
    group_wake_at(gs, g, now_ms + EMPTY_KEPT_MS);
    return g;
}

bool group_is_idle(const struct group *g) {
    return g->state == GROUP_EMPTY && !g->expected && !g->offsets && g->commits_under_way == 0;
}

/* No request waits any more. */
void group_free(struct groups *gs, struct group *g) {
    HASH_DEL(gs->groups, g);
    struct member *m, *mtmp;
    HASH_ITER (hh, g->members, m, mtmp) {
        HASH_DEL(g->members, m);
        member_free(gs, m);
    }
    struct expected *x, *xtmp;
    HASH_ITER (hh, g->expected, x, xtmp) {
        expected_remove(g, x);
    }
    offsets_free(gs, g);
    group_free_str(&g->id);
    group_free_str(&g->protocol_type);
    group_free_str(&g->protocol);
    free(g->views);
    free(g);
}

void group_wake_at(struct groups *gs, struct group *g, int64_t t) {
    if (t < g->next_ms) g->next_ms = t;
    if (t < gs->next_ms) gs->next_ms = t;
}

/* ---- the whole ---- */

static void nobody_waits(void *arg, enum group_result result) {
    (void)arg, (void)result;
}

static void set_default(size_t *field, size_t value) {
    if (*field == 0) *field = value;
}

enum hf_err groups_open(struct engine *e, const struct groups_options *options, struct groups **out) {
    assert(options->random);
    struct groups *gs = calloc(1, sizeof *gs);
    if (!gs) return HF_ENOMEM;
    struct groups_options *o = &gs->options;
    gs->engine = e;
    gs->next_ms = INT64_MAX;
    *o = *options;
    if (o->session_ms_min == 0) o->session_ms_min = 1000;
    if (o->session_ms_max == 0) o->session_ms_max = 1800000;
    set_default(&o->groups_max, 10000);
    set_default(&o->members_max, 1000);
    set_default(&o->protocols_max, 32);
    if (o->protocols_max > PROTOCOLS_LIMIT) o->protocols_max = PROTOCOLS_LIMIT;
    set_default(&o->members_bytes_max, 256 << 20);
    set_default(&o->member_bytes_max, 1 << 20);
    set_default(&o->metadata_max, 4096);
    set_default(&o->offsets_max, 1000000);
    set_default(&o->waiting_offsets_max, 100000);
    size_t groups_max = o->groups_max, offsets_max = o->offsets_max;
    o->groups_max = o->offsets_max =
        SIZE_MAX; /* what was accepted once is read, whatever the limits say now */
    enum hf_err err = offsets_restore(gs);
    o->groups_max = groups_max;
    o->offsets_max = offsets_max;
    if (err) {
        groups_close(gs);
        return err;
    }
    *out = gs;
    return HF_OK;
}

void groups_close(struct groups *gs) {
    if (!gs) return;
    offsets_close(gs);
    struct group *g, *tmp;
    HASH_ITER (hh, gs->groups, g, tmp) {
        group_free(gs, g);
    }
    free(gs);
}

static int64_t idle_end(const struct group *g) {
    return group_is_idle(g) ? g->empty_ms + EMPTY_KEPT_MS : INT64_MAX;
}

/* When the offsets of a group that nobody uses are deleted. After a restart the time begins anew: since when
 * nobody had used it is not stored, and offsets that stay too long harm nobody. */
static int64_t offsets_end(const struct groups *gs, const struct group *g) {
    bool unused = g->state == GROUP_EMPTY && !g->expected && g->offsets && g->commits_under_way == 0;
    int64_t kept_ms = gs->options.offsets_retention_ms;
    return unused && kept_ms > 0 ? g->empty_ms + kept_ms : INT64_MAX;
}

static int64_t group_end(const struct groups *gs, const struct group *g) {
    return idle_end(g) < offsets_end(gs, g) ? idle_end(g) : offsets_end(gs, g);
}

static void step_group(struct groups *gs, struct group *g, int64_t now_ms) {
    bool expired = false;
    if (g->next_ms <= now_ms) {
        rebalance_expire(gs, g, now_ms);
        if (idle_end(g) <= now_ms) {
            group_free(gs, g);
            return;
        }
        expired = offsets_end(gs, g) <= now_ms;
        if (expired) g->empty_ms = now_ms; /* if the deletion fails, it is tried again after as long */
        g->next_ms = rebalance_next_ms(g);
        if (group_end(gs, g) < g->next_ms) g->next_ms = group_end(gs, g);
    }
    if (g->next_ms < gs->next_ms) gs->next_ms = g->next_ms;
    if (!expired) return;
    gs->stats.expired_groups++;
    group_delete(gs, now_ms, g->id, nobody_waits, NULL);
}

int64_t groups_step(struct groups *gs, int64_t now_ms) {
    enum { RETRY_MS = 10 };
    offsets_start_waiting(gs);
    if (gs->next_ms <= now_ms) {
        gs->next_ms = INT64_MAX;
        struct group *g, *tmp;
        HASH_ITER (hh, gs->groups, g, tmp) {
            step_group(gs, g, now_ms);
        }
    }
    bool retry = gs->waiting && gs->next_ms > now_ms + RETRY_MS;
    return retry ? now_ms + RETRY_MS : gs->next_ms;
}

/* ---- administration ---- */

static void view_of(const struct group *g, struct group_view *out) {
    *out = (struct group_view){.id = g->id,
                               .state = g->state,
                               .protocol_type = g->protocol_type.p ? g->protocol_type : HF_STR(""),
                               .protocol = g->protocol.p ? g->protocol : HF_STR(""),
                               .generation = g->generation,
                               .member_count = HASH_COUNT(g->members)};
}

void group_describe(struct groups *gs, hf_str id, struct group_view *out,
                    void (*member)(void *arg, const struct group_member_view *m), void *arg) {
    struct group *g = group_find(gs, id);
    if (!g) {
        *out = (struct group_view){
            .id = id, .state = GROUP_DEAD, .protocol_type = HF_STR(""), .protocol = HF_STR("")};
        return;
    }
    view_of(g, out);
    bool stable = g->state == GROUP_STABLE;
    struct member *m, *tmp;
    if (!member) return;
    HASH_ITER (hh, g->members, m, tmp) {
        const struct group_member_view v = {.id = m->id,
                                            .instance_id = m->instance_id,
                                            .client_id = m->client_id,
                                            .client_host = m->client_host,
                                            .metadata = stable ? member_metadata(m, g->protocol) : HF_STR(""),
                                            .assignment = stable ? m->assignment : HF_STR("")};
        member(arg, &v);
    }
}

void groups_each(struct groups *gs, void (*fn)(void *arg, const struct group_view *g), void *arg) {
    struct group *g, *tmp;
    HASH_ITER (hh, gs->groups, g, tmp) {
        struct group_view v;
        view_of(g, &v);
        fn(arg, &v);
    }
}

void groups_stats(const struct groups *gs, struct groups_stats *out) {
    *out = gs->stats;
    out->groups = HASH_COUNT(gs->groups);
    out->offsets = gs->offset_count;
    out->commits_under_way = gs->started_count + (gs->waiting != NULL);
}

void groups_check(const struct groups *gs) {
    size_t members = 0, entries = 0, bytes = 0;
    struct group *g, *tmp;
    HASH_ITER (hh, gs->groups, g, tmp) {
        rebalance_check(gs, g);
        offsets_check(gs, g);
        assert(gs->next_ms <= g->next_ms); /* G6 */
        assert(g->next_ms <= group_end(gs, g));
        struct member *m, *mtmp;
        HASH_ITER (hh, g->members, m, mtmp) {
            bytes += m->bytes;
        }
        members += HASH_COUNT(g->members);
        entries += HASH_COUNT(g->offsets);
    }
    assert(members == gs->stats.members && entries == gs->offset_count && bytes == gs->member_bytes); /* G7 */
}
