/* What a transaction is, and what each event makes of it. Pure: no memory, no time.
 *
 *                     prepare                       commit
 *        (none) ------------------> PREPARED --------------------> COMMITTED
 *          |                        ^  |  |                           ^
 *          |                prepare |  |  | rollback, overflow        | commit
 *          |                        |  |  v                           |
 *          |              exhausted |  |  ROLLED_BACK <---------------+
 *          |                        |  v     ^     rollback, overflow |
 *          |                        PARKED --|------------------------+
 *          +---------------------------------+
 *                     overflow
 *
 * The answer to each event, by the state that it meets (A applied, R repeated, C contradicted, U unknown id,
 * X refused; "-" cannot happen):
 *
 *                   prepare      again         commit        rollback        overflow        exhausted
 *     none          PREPARED A   -             none U        none U          ROLLED_BACK X   -
 *     prepared      PREPARED A   PREPARED R    COMMITTED A   ROLLED_BACK A   ROLLED_BACK X   PARKED A
 *     parked        PREPARED A   PARKED R      COMMITTED A   ROLLED_BACK A   ROLLED_BACK X   -
 *     committed     stays C      stays C       stays R       stays C         stays C         -
 *     rolled back   stays C      stays C       stays C       stays R         stays C         -
 *
 * Invariant: the first decision wins; no event leaves COMMITTED or ROLLED_BACK.
 *
 * Overflow is a half message beyond a limit. It rolls the whole transaction back, for a commit of the others
 * would make a part of it visible; of an id that is not known yet it leaves a decided one behind, so that its
 * next half message, which might find room again, does not become a transaction of its own. */
#ifndef TXN_STATE_H
#define TXN_STATE_H

#include <stdbool.h>

enum txn_state { TXN_NONE, TXN_PREPARED, TXN_PARKED, TXN_COMMITTED, TXN_ROLLED_BACK };
enum { TXN_STATES = TXN_ROLLED_BACK + 1 };

enum txn_event {
    TXN_PREPARE,       /* a half message */
    TXN_PREPARE_AGAIN, /* a half message that the transaction has already: same hf-message-id */
    TXN_COMMIT,
    TXN_ROLLBACK,
    TXN_OVERFLOW,  /* a half message beyond a limit */
    TXN_EXHAUSTED, /* the last check went unanswered */
};
enum { TXN_EVENTS = TXN_EXHAUSTED + 1 };

/* What became of one record, and of one decision by an operator. Their numbers are stored. */
enum txn_outcome {
    TXN_APPLIED,
    TXN_REPEATED,     /* said before: nothing changed, nothing is wrong */
    TXN_CONTRADICTED, /* decided otherwise, or (a half message) decided before it came: nothing changed */
    TXN_UNKNOWN_ID,   /* no such transaction, or one forgotten since: nothing changed */
    TXN_REFUSED,      /* beyond a limit: the transaction is rolled back */
    TXN_MALFORMED,    /* breaks the rules of form (a door would have refused it): nothing changed */
};
enum { TXN_OUTCOMES = TXN_MALFORMED + 1 };

struct txn_answer {
    enum txn_state next;
    enum txn_outcome outcome;
};

/* Asserts that the event can happen in that state. */
struct txn_answer txn_state_next(enum txn_state state, enum txn_event event);

static inline bool txn_state_decided(enum txn_state s) {
    return s == TXN_COMMITTED || s == TXN_ROLLED_BACK;
}

/* "prepared", "contradicted", …; never NULL. */
const char *txn_state_name(enum txn_state s);
const char *txn_outcome_name(enum txn_outcome o);

#endif
