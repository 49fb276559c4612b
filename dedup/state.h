/* One dedup entry as a pure state machine: two phases, a lease, a fence, a horizon. The memory store runs
 * it; the Lua scripts of redis.c say the same in another language, and a test walks both side by side.
 *
 *                     claim / RUN                       done
 *        ┌────────┐ ───────────────▶ ┌─────────────┐ ─────────▶ ┌────────────────┐
 *        │ ABSENT │                  │   PENDING   │            │      DONE      │
 *        │        │ ◀─────────────── │ fence until │            │ fingerprint    │
 *        └────────┘  release(fence), └─────────────┘            │ until          │
 *          ▲    │    lease runs out        ▲ │ renew(fence)     └────────────────┘
 *          │    │                          └─┘                    ▲            │
 *          │    └────────────────────── done ─────────────────────┘            │
 *          └─────────────────────── horizon runs out ──────────────────────────┘
 *
 *               ABSENT             PENDING                              DONE
 *   claim       → PENDING, RUN     BUSY until the lease ends            DUPLICATE, or CONFLICT if the content
 *                                                                       is another
 *   renew       LOST               fence ours: until = now + lease;     LOST
 *                                  else LOST
 *   release     LOST               fence ours: → ABSENT; else LOST      LOST
 *   done        → DONE             → DONE, whoever's lease it is        → DONE, until = now + horizon
 *
 * An entry whose `until` has come (now >= until) is ABSENT.
 *
 * Done is unconditional because the effect has happened: a lease that ran out meanwhile does not undo it, and
 * every claim after it must answer DUPLICATE. Hence the invariants, explored over every interleaving of three
 * workers in tests/dedup/test_state.c:
 *   1. no claim answers RUN after a done, within the horizon;
 *   2. no claim answers RUN while an unexpired lease runs;
 *   3. the effect happens once, unless (the exception, which no lock can remove) a crash falls between effect
 *      and done, or a worker acts although its lease has run out.
 *
 * Pure; the caller locks. */
#ifndef DEDUP_STATE_H
#define DEDUP_STATE_H

#include "dedup.h"

enum dedup_phase { DEDUP_ABSENT, DEDUP_PENDING, DEDUP_DONE };

struct dedup_entry {
    enum dedup_phase phase;
    uint64_t fence;       /* PENDING */
    uint64_t fingerprint; /* DONE */
    int64_t until_ms;     /* PENDING: end of the lease; DONE: of the horizon */
};

/* fence: a new one, greater than those of earlier claims. BUSY sets *retry_ms. */
HF_CHECK enum dedup_answer dedup_entry_claim(struct dedup_entry *e, uint64_t fingerprint, uint64_t fence,
                                             int64_t now_ms, int64_t lease_ms, int64_t *retry_ms);
HF_CHECK enum dedup_answer dedup_entry_renew(struct dedup_entry *e, uint64_t fence, int64_t now_ms,
                                             int64_t lease_ms);
HF_CHECK enum dedup_answer dedup_entry_release(struct dedup_entry *e, uint64_t fence, int64_t now_ms);
void dedup_entry_done(struct dedup_entry *e, uint64_t fingerprint, int64_t now_ms, int64_t horizon_ms);

/* True if the entry says nothing any more and may be removed. */
bool dedup_entry_spent(const struct dedup_entry *e, int64_t now_ms);

/* Asserts that fields which a phase does not use are zero. */
void dedup_entry_check(const struct dedup_entry *e);

#endif
