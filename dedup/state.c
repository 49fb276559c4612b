/* See state.h for the diagram, the table and the invariants. All changes of phase pass enter(). */
#include "state.h"

#include <assert.h>

static void enter(struct dedup_entry *e, struct dedup_entry next) {
    *e = next;
    dedup_entry_check(e);
}

/* What time has done to the entry is done to it before anything else is. */
static void settle(struct dedup_entry *e, int64_t now_ms) {
    if (e->phase != DEDUP_ABSENT && now_ms >= e->until_ms) enter(e, (struct dedup_entry){0});
}

static bool held_with(const struct dedup_entry *e, uint64_t fence) {
    return e->phase == DEDUP_PENDING && e->fence == fence;
}

/* An end so far away that it overflows is never. */
static int64_t after(int64_t now_ms, int64_t duration_ms) {
    int64_t end;
    return __builtin_add_overflow(now_ms, duration_ms, &end) ? INT64_MAX : end;
}

enum dedup_answer dedup_entry_claim(struct dedup_entry *e, uint64_t fingerprint, uint64_t fence,
                                    int64_t now_ms, int64_t lease_ms, int64_t *retry_ms) {
    settle(e, now_ms);
    if (e->phase == DEDUP_DONE) return e->fingerprint == fingerprint ? DEDUP_DUPLICATE : DEDUP_CONFLICT;
    if (e->phase == DEDUP_PENDING) {
        *retry_ms = e->until_ms - now_ms;
        return DEDUP_BUSY;
    }
    enter(e,
          (struct dedup_entry){.phase = DEDUP_PENDING, .fence = fence, .until_ms = after(now_ms, lease_ms)});
    return DEDUP_RUN;
}

enum dedup_answer dedup_entry_renew(struct dedup_entry *e, uint64_t fence, int64_t now_ms, int64_t lease_ms) {
    settle(e, now_ms);
    if (!held_with(e, fence)) return DEDUP_LOST;
    enter(e,
          (struct dedup_entry){.phase = DEDUP_PENDING, .fence = fence, .until_ms = after(now_ms, lease_ms)});
    return DEDUP_RUN;
}

enum dedup_answer dedup_entry_release(struct dedup_entry *e, uint64_t fence, int64_t now_ms) {
    settle(e, now_ms);
    if (!held_with(e, fence)) return DEDUP_LOST;
    enter(e, (struct dedup_entry){0});
    return DEDUP_RUN;
}

void dedup_entry_done(struct dedup_entry *e, uint64_t fingerprint, int64_t now_ms, int64_t horizon_ms) {
    enter(e, (struct dedup_entry){
                 .phase = DEDUP_DONE, .fingerprint = fingerprint, .until_ms = after(now_ms, horizon_ms)});
}

bool dedup_entry_spent(const struct dedup_entry *e, int64_t now_ms) {
    return e->phase == DEDUP_ABSENT || now_ms >= e->until_ms;
}

void dedup_entry_check(const struct dedup_entry *e) {
    assert(e->phase == DEDUP_ABSENT || e->phase == DEDUP_PENDING || e->phase == DEDUP_DONE);
    if (e->phase == DEDUP_ABSENT) assert(!e->fence && !e->fingerprint && !e->until_ms);
    if (e->phase == DEDUP_PENDING) assert(e->fence && !e->fingerprint);
    if (e->phase == DEDUP_DONE) assert(!e->fence);
}
