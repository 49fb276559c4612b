/* Every interleaving of three workers at one message, explored to the end.
 *
 * A worker: claims; while it holds the claim it may do the effect, renew, give up (release), or crash; after
 * the effect it may record it (done) or crash before it could. Any worker may be as slow as it likes: time
 * (one tick) passes between any two steps, so a lease can run out while its holder acts, and its done can
 * come after another's. A worker whose renewal says LOST stops before its effect. A crashed worker starts
 * again and claims again, since its message was not acknowledged; one that was told DUPLICATE or CONFLICT is
 * through.
 *
 * The explorer keeps a ghost of what really happened (who did the effect, was a success recorded, whose lease
 * should be running) and compares each answer with it. States are told apart by their canonical form (fences
 * become "whose", times become "in how many ticks"), so the search ends: nothing is sampled. The same search
 * over machines that are broken on purpose must find each fault. */
#include "dedup/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WORKERS = 3, LEASE = 3, HORIZON = 6, EFFECTS_MAX = 3, CRASHES_MAX = 2, STATES_MAX = 1 << 22 };

enum phase { IDLE, CLAIMED, ACTED, THROUGH };

struct worker {
    enum phase phase;
    uint64_t fence;
    int lease_left; /* ghost: ticks for which this claim excludes others */
};

struct world {
    struct dedup_entry entry;
    struct worker workers[WORKERS];
    uint64_t last_fence;
    int64_t now;
    int recorded_left; /* ghost: ticks for which a recorded success is remembered */
    int effects;
    int crashes;
    bool crash_excuse; /* a crash fell between effect and done */
    bool pause_excuse; /* an effect was done, or not yet recorded, when its lease had run out */
    bool old_excuse;   /* an effect came after the horizon of an earlier one */
    bool recorded_once;
};

/* ---- the machine under test ---- */

struct machine {
    const char *name;
    enum dedup_answer (*claim)(struct dedup_entry *, uint64_t, uint64_t, int64_t, int64_t, int64_t *);
    enum dedup_answer (*renew)(struct dedup_entry *, uint64_t, int64_t, int64_t);
    enum dedup_answer (*release)(struct dedup_entry *, uint64_t, int64_t);
    void (*done)(struct dedup_entry *, uint64_t, int64_t, int64_t);
    int64_t horizon;
};

static enum dedup_answer release_without_fence(struct dedup_entry *e, uint64_t fence, int64_t now) {
    return dedup_entry_release(e, e->phase == DEDUP_PENDING ? e->fence : fence, now);
}

static enum dedup_answer renew_without_fence(struct dedup_entry *e, uint64_t fence, int64_t now,
                                             int64_t lease) {
    return dedup_entry_renew(e, e->phase == DEDUP_PENDING ? e->fence : fence, now, lease);
}

static enum dedup_answer claim_during_lease(struct dedup_entry *e, uint64_t fingerprint, uint64_t fence,
                                            int64_t now, int64_t lease, int64_t *retry) {
    if (e->phase == DEDUP_PENDING) *e = (struct dedup_entry){0};
    return dedup_entry_claim(e, fingerprint, fence, now, lease, retry);
}

/* SETNX with a TTL as it is usually written: a done that only counts while the lease is still one's own. */
static void done_only_within_lease(struct dedup_entry *e, uint64_t fingerprint, int64_t now,
                                   int64_t horizon) {
    if (!dedup_entry_spent(e, now)) dedup_entry_done(e, fingerprint, now, horizon);
}

/* And one that deletes its claim after success. */
static void done_forgets(struct dedup_entry *e, uint64_t fingerprint, int64_t now, int64_t horizon) {
    (void)fingerprint, (void)now, (void)horizon;
    *e = (struct dedup_entry){0};
}

static const struct machine ours = {"state.c",           dedup_entry_claim, dedup_entry_renew,
                                    dedup_entry_release, dedup_entry_done,  HORIZON};

static const struct machine broken[] = {
    {"release without fence", dedup_entry_claim, dedup_entry_renew, release_without_fence, dedup_entry_done,
     HORIZON},
    {"renew without fence", dedup_entry_claim, renew_without_fence, dedup_entry_release, dedup_entry_done,
     HORIZON},
    {"claim during a lease", claim_during_lease, dedup_entry_renew, dedup_entry_release, dedup_entry_done,
     HORIZON},
    {"done only within the lease", dedup_entry_claim, dedup_entry_renew, dedup_entry_release,
     done_only_within_lease, HORIZON},
    {"done forgets", dedup_entry_claim, dedup_entry_renew, dedup_entry_release, done_forgets, HORIZON},
    {"horizon as short as a lease", dedup_entry_claim, dedup_entry_renew, dedup_entry_release,
     dedup_entry_done, LEASE},
};

/* ---- steps ---- */

struct finding {
    const char *broken_rule; /* NULL: none */
    long states;
    bool twice_by_crash, twice_by_pause, busy, duplicate, lost, late_done;
};

/* The claimant's own counts too: it is what its crash left behind. */
static bool a_lease_runs(const struct world *w) {
    for (int i = 0; i < WORKERS; i++)
        if (w->workers[i].lease_left > 0) return true;
    return false;
}

static bool step_claim(const struct machine *m, struct world *w, int me, struct finding *f) {
    struct worker *k = &w->workers[me];
    if (k->phase != IDLE) return false;
    int64_t retry = 0;
    enum dedup_answer a = m->claim(&w->entry, 7, w->last_fence + 1, w->now, LEASE, &retry);
    if (a == DEDUP_BUSY) {
        f->busy = true;
        if (retry < 1) f->broken_rule = "busy without a time to come back";
        return false;
    }
    if (a == DEDUP_DUPLICATE) {
        f->duplicate = true;
        if (!w->recorded_once) f->broken_rule = "duplicate of something that never succeeded";
        k->phase = THROUGH;
        return true;
    }
    if (a != DEDUP_RUN) f->broken_rule = "an answer that cannot be";
    if (w->recorded_left > 0) f->broken_rule = "a claim succeeded after a success was recorded";
    if (a_lease_runs(w)) f->broken_rule = "a claim succeeded while a lease ran";
    *k = (struct worker){.phase = CLAIMED, .fence = ++w->last_fence, .lease_left = LEASE};
    return true;
}

static bool step_effect(const struct machine *m, struct world *w, int me, struct finding *f) {
    (void)m;
    struct worker *k = &w->workers[me];
    if (k->phase != CLAIMED || w->effects == EFFECTS_MAX) return false;
    k->phase = ACTED;
    w->effects++;
    if (k->lease_left == 0) w->pause_excuse = true;
    if (w->recorded_once && w->recorded_left == 0) w->old_excuse = true;
    if (w->effects > 1) {
        if (!w->crash_excuse && !w->pause_excuse && !w->old_excuse)
            f->broken_rule = "the effect happened twice without an excuse";
        f->twice_by_crash |= w->crash_excuse && !w->pause_excuse && !w->old_excuse;
        f->twice_by_pause |= w->pause_excuse && !w->crash_excuse && !w->old_excuse;
    }
    return true;
}

static bool step_done(const struct machine *m, struct world *w, int me, struct finding *f) {
    struct worker *k = &w->workers[me];
    if (k->phase != ACTED) return false;
    f->late_done |= k->lease_left == 0;
    m->done(&w->entry, 7, w->now, m->horizon);
    w->recorded_left = HORIZON;
    w->recorded_once = true;
    *k = (struct worker){.phase = THROUGH};
    return true;
}

static bool step_release(const struct machine *m, struct world *w, int me, struct finding *f) {
    struct worker *k = &w->workers[me];
    if (k->phase != CLAIMED) return false;
    enum dedup_answer a = m->release(&w->entry, k->fence, w->now);
    /* After a success was recorded over it, a running claim is lost too. */
    bool held = k->lease_left > 0 && w->recorded_left == 0;
    if (held && a != DEDUP_RUN) f->broken_rule = "the holder could not release";
    if (!held && a == DEDUP_RUN) f->broken_rule = "released what was somebody else's";
    *k = (struct worker){.phase = IDLE};
    return true;
}

static bool step_renew(const struct machine *m, struct world *w, int me, struct finding *f) {
    struct worker *k = &w->workers[me];
    if (k->phase != CLAIMED && k->phase != ACTED) return false;
    enum dedup_answer a = m->renew(&w->entry, k->fence, w->now, LEASE);
    bool held = k->lease_left > 0 && w->recorded_left == 0;
    if (held != (a == DEDUP_RUN)) f->broken_rule = "renewal does not follow who holds the lease";
    if (a == DEDUP_RUN) {
        k->lease_left = LEASE;
        return true;
    }
    f->lost = true;
    if (k->phase != CLAIMED) return false; /* the effect cannot be taken back: done follows */
    *k = (struct worker){.phase = IDLE};   /* the handler is cancelled, the message comes again */
    return true;
}

static bool step_crash(const struct machine *m, struct world *w, int me, struct finding *f) {
    (void)m, (void)f;
    struct worker *k = &w->workers[me];
    if ((k->phase != CLAIMED && k->phase != ACTED) || w->crashes == CRASHES_MAX) return false;
    w->crashes++;
    if (k->phase == ACTED) w->crash_excuse = true;
    /* The lease outlives its holder: the ghost goes on counting it. */
    *k = (struct worker){.phase = IDLE, .lease_left = k->lease_left};
    return true;
}

static bool step_tick(const struct machine *m, struct world *w, int me, struct finding *f) {
    (void)m, (void)f;
    if (me != 0) return false;
    w->now++;
    if (w->recorded_left > 0) w->recorded_left--;
    for (int i = 0; i < WORKERS; i++) {
        struct worker *k = &w->workers[i];
        if (k->lease_left > 0 && --k->lease_left == 0 && k->phase == ACTED) w->pause_excuse = true;
    }
    return true;
}

static bool (*const steps[])(const struct machine *, struct world *, int, struct finding *) = {
    step_claim, step_effect, step_done, step_release, step_renew, step_crash, step_tick};

/* ---- the search ---- */

static uint64_t put(uint64_t code, uint64_t value, unsigned bits) {
    assert_true(value < (uint64_t)1 << bits);
    return code << bits | value;
}

/* Whose fence is it? 0: nobody's that still lives. */
static unsigned owner(const struct world *w) {
    for (unsigned i = 0; i < WORKERS; i++)
        if (w->entry.fence && w->workers[i].fence == w->entry.fence) return i + 1;
    return 0;
}

static uint64_t canonical(const struct world *w) {
    int64_t left = w->entry.phase == DEDUP_ABSENT ? 0 : w->entry.until_ms - w->now;
    uint64_t c = 1;
    c = put(c, left > 0 ? (uint64_t)w->entry.phase : 0, 2);
    c = put(c, left > 0 ? (uint64_t)left : 0, 3);
    c = put(c, left > 0 ? owner(w) : 0, 2);
    for (int i = 0; i < WORKERS; i++) {
        c = put(c, (uint64_t)w->workers[i].phase, 2);
        c = put(c, (uint64_t)w->workers[i].lease_left, 2);
    }
    c = put(c, (uint64_t)w->recorded_left, 3);
    c = put(c, (uint64_t)w->effects, 2);
    c = put(c, (uint64_t)w->crashes, 2);
    c = put(c, w->crash_excuse, 1);
    c = put(c, w->pause_excuse, 1);
    c = put(c, w->old_excuse, 1);
    return put(c, w->recorded_once, 1);
}

struct search {
    uint64_t *seen; /* open addressing; 0 is free, no canonical form is 0 */
    struct world *queue;
    long head, tail;
};

static void visit(struct search *s, const struct world *w) {
    uint64_t code = canonical(w);
    size_t at = (size_t)(code * 0x9e3779b97f4a7c15u >> 40) & (2 * STATES_MAX - 1);
    for (; s->seen[at]; at = (at + 1) & (2 * STATES_MAX - 1))
        if (s->seen[at] == code) return;
    assert_true(s->tail < STATES_MAX);
    s->seen[at] = code;
    s->queue[s->tail++] = *w;
}

/* Breadth first, until a rule is broken or nothing new can happen. */
static struct finding explore(const struct machine *m) {
    struct search s = {.seen = calloc(2 * STATES_MAX, sizeof *s.seen),
                       .queue = calloc(STATES_MAX, sizeof *s.queue)};
    assert_non_null(s.seen);
    assert_non_null(s.queue);
    struct finding f = {0};
    struct world start;
    memset(&start, 0, sizeof start);
    visit(&s, &start);
    while (s.head < s.tail && !f.broken_rule) {
        const struct world *from = &s.queue[s.head++];
        for (size_t i = 0; i < sizeof steps / sizeof *steps && !f.broken_rule; i++) {
            for (int me = 0; me < WORKERS && !f.broken_rule; me++) {
                struct world next = *from;
                if (!steps[i](m, &next, me, &f)) continue;
                dedup_entry_check(&next.entry);
                visit(&s, &next);
            }
        }
    }
    f.states = s.tail;
    free(s.seen);
    free(s.queue);
    return f;
}

/* ---- tests ---- */

static void every_interleaving_of_three_workers_keeps_the_invariants(void **state) {
    (void)state;
    struct finding f = explore(&ours);
    print_message("%ld states\n", f.states);
    if (f.broken_rule) fail_msg("%s", f.broken_rule);
    assert_true(f.states > 5000);
    assert_true(f.busy && f.duplicate && f.lost && f.late_done); /* the search went where it should */
}

static void effect_happens_twice_only_after_a_crash_or_a_pause_before_done(void **state) {
    (void)state;
    struct finding f = explore(&ours);
    assert_true(f.twice_by_crash);
    assert_true(f.twice_by_pause);
}

static void search_finds_every_broken_machine(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct finding f = explore(&broken[i]);
        if (!f.broken_rule) fail_msg("not found: %s", broken[i].name);
        print_message("%-28s %s (%ld states)\n", broken[i].name, f.broken_rule, f.states);
    }
}

static void another_content_under_the_same_identity_is_a_conflict(void **state) {
    (void)state;
    struct dedup_entry e = {0};
    int64_t retry = 0;
    assert_int_equal(dedup_entry_claim(&e, 1, 10, 0, 30, &retry), DEDUP_RUN);
    dedup_entry_done(&e, 1, 5, 1000);
    assert_int_equal(dedup_entry_claim(&e, 1, 11, 6, 30, &retry), DEDUP_DUPLICATE);
    assert_int_equal(dedup_entry_claim(&e, 2, 11, 6, 30, &retry), DEDUP_CONFLICT);
}

static void busy_tells_when_the_lease_ends(void **state) {
    (void)state;
    struct dedup_entry e = {0};
    int64_t retry = 0;
    assert_int_equal(dedup_entry_claim(&e, 1, 10, 100, 30, &retry), DEDUP_RUN);
    assert_int_equal(dedup_entry_claim(&e, 1, 11, 112, 30, &retry), DEDUP_BUSY);
    assert_int_equal(retry, 18);
    assert_int_equal(dedup_entry_renew(&e, 10, 120, 30), DEDUP_RUN);
    assert_int_equal(dedup_entry_claim(&e, 1, 11, 149, 30, &retry), DEDUP_BUSY);
    assert_int_equal(retry, 1);
    assert_int_equal(dedup_entry_claim(&e, 1, 11, 150, 30, &retry), DEDUP_RUN);
    assert_int_equal(dedup_entry_renew(&e, 10, 151, 30), DEDUP_LOST);
}

static void durations_that_overflow_never_end(void **state) {
    (void)state;
    struct dedup_entry e = {0};
    int64_t retry = 0;
    dedup_entry_done(&e, 1, INT64_MAX - 5, 100);
    assert_int_equal(dedup_entry_claim(&e, 1, 10, INT64_MAX - 1, 30, &retry), DEDUP_DUPLICATE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_interleaving_of_three_workers_keeps_the_invariants),
        cmocka_unit_test(effect_happens_twice_only_after_a_crash_or_a_pause_before_done),
        cmocka_unit_test(search_finds_every_broken_machine),
        cmocka_unit_test(another_content_under_the_same_identity_is_a_conflict),
        cmocka_unit_test(busy_tells_when_the_lease_ends),
        cmocka_unit_test(durations_that_overflow_never_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
