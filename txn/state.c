/* The table of state.h as data. A cell that cannot happen is marked, and meeting one is a bug. */
#include "state.h"

#include <assert.h>

enum { NEVER = -1 };

struct cell {
    int next;
    enum txn_outcome outcome;
};

#define IMPOSSIBLE                                                                                           \
    { NEVER, TXN_APPLIED }

static const struct cell cells[TXN_STATES][TXN_EVENTS] =
    {
        [TXN_NONE] =
            {
                [TXN_PREPARE] = {TXN_PREPARED, TXN_APPLIED},
                [TXN_PREPARE_AGAIN] = IMPOSSIBLE,
                [TXN_COMMIT] = {TXN_NONE, TXN_UNKNOWN_ID},
                [TXN_ROLLBACK] = {TXN_NONE, TXN_UNKNOWN_ID},
                [TXN_OVERFLOW] = {TXN_ROLLED_BACK, TXN_REFUSED},
                [TXN_EXHAUSTED] = IMPOSSIBLE,
            },
        [TXN_PREPARED] =
            {
                [TXN_PREPARE] = {TXN_PREPARED, TXN_APPLIED},
                [TXN_PREPARE_AGAIN] = {TXN_PREPARED, TXN_REPEATED},
                [TXN_COMMIT] = {TXN_COMMITTED, TXN_APPLIED},
                [TXN_ROLLBACK] = {TXN_ROLLED_BACK, TXN_APPLIED},
                [TXN_OVERFLOW] = {TXN_ROLLED_BACK, TXN_REFUSED},
                [TXN_EXHAUSTED] = {TXN_PARKED, TXN_APPLIED},
            },
        [TXN_PARKED] =
            {
                [TXN_PREPARE] = {TXN_PREPARED, TXN_APPLIED},
                [TXN_PREPARE_AGAIN] = {TXN_PARKED, TXN_REPEATED},
                [TXN_COMMIT] = {TXN_COMMITTED, TXN_APPLIED},
                [TXN_ROLLBACK] = {TXN_ROLLED_BACK, TXN_APPLIED},
                [TXN_OVERFLOW] = {TXN_ROLLED_BACK, TXN_REFUSED},
                [TXN_EXHAUSTED] = IMPOSSIBLE,
            },
        [TXN_COMMITTED] =
            {
                [TXN_PREPARE] = {TXN_COMMITTED, TXN_CONTRADICTED},
                [TXN_PREPARE_AGAIN] = {TXN_COMMITTED, TXN_CONTRADICTED},
                [TXN_COMMIT] = {TXN_COMMITTED, TXN_REPEATED},
                [TXN_ROLLBACK] = {TXN_COMMITTED, TXN_CONTRADICTED},
                [TXN_OVERFLOW] = {TXN_COMMITTED, TXN_CONTRADICTED},
                [TXN_EXHAUSTED] = IMPOSSIBLE,
            },
        [TXN_ROLLED_BACK] =
            {
                [TXN_PREPARE] = {TXN_ROLLED_BACK, TXN_CONTRADICTED},
                [TXN_PREPARE_AGAIN] = {TXN_ROLLED_BACK, TXN_CONTRADICTED},
                [TXN_COMMIT] = {TXN_ROLLED_BACK, TXN_CONTRADICTED},
                [TXN_ROLLBACK] = {TXN_ROLLED_BACK, TXN_REPEATED},
                [TXN_OVERFLOW] = {TXN_ROLLED_BACK, TXN_CONTRADICTED},
                [TXN_EXHAUSTED] = IMPOSSIBLE,
            },
};

struct txn_answer txn_state_next(enum txn_state state, enum txn_event event) {
    assert((unsigned)state < TXN_STATES && (unsigned)event < TXN_EVENTS);
    const struct cell *c = &cells[state][event];
    assert(c->next != NEVER);
    return (struct txn_answer){(enum txn_state)c->next, c->outcome};
}

const char *txn_state_name(enum txn_state s) {
    static const char *const names[TXN_STATES] = {"unknown", "prepared", "parked", "committed",
                                                  "rolled back"};
    return (unsigned)s < TXN_STATES ? names[s] : "?";
}

const char *txn_outcome_name(enum txn_outcome o) {
    static const char *const names[TXN_OUTCOMES] = {"applied",    "repeated", "contradicted",
                                                    "unknown id", "refused",  "malformed"};
    return (unsigned)o < TXN_OUTCOMES ? names[o] : "?";
}
