/* Has this message been handled before? One contract over memory, Redis, SQLite and PostgreSQL.
 *
 * Two kinds of store, after the effect that a handler declares:
 *
 *   external   the effect lies outside any database of ours. Two phases with a lease and a fence:
 *
 *       switch (dedup_claim(d, &key, fp, now_ms, &detail)) {
 *       case DEDUP_RUN:         … effect, with detail.fence …; dedup_done(d, &key, fp, now_ms, &detail);
 *       case DEDUP_DUPLICATE:   acknowledge
 *       case DEDUP_BUSY:        come back after detail.retry_ms; not an attempt
 *       case DEDUP_CONFLICT:    same identity, another content: dead letter
 *       case DEDUP_UNAVAILABLE: run nothing, come back; not an attempt
 *       }
 *
 *   database   the effect is rows in the same database. The dedup row is inserted first in the transaction in
 *              which the effect then happens, so both commit or neither:
 *
 *       if (dedup_begin(d, &key, fp, now_ms, &tx, &detail) == DEDUP_RUN) {
 *           PGconn *pg = dedup_tx_postgres(tx);  … effect …
 *           dedup_commit(tx, &detail)   or   dedup_rollback(tx)
 *       }
 *
 * `version` (the newest state wins, in any order) needs no memory of messages: see version.h; its
 * transaction comes from dedup_begin_plain.
 *
 * An entry is (consumer group, origin topic, message id) and keeps a 64-bit fingerprint of key and value. It
 * is remembered for the horizon. The caller must not run what was accepted longer ago than that.
 *
 * Threads: any thread may call; each call takes one connection from the store's pool. CALLS BLOCK, up to
 * the connect and command time-outs: they belong on handler threads, never on an event loop. A transaction
 * belongs to the thread that began it.
 *
 * A store that cannot be reached is no error of dedup_open: everything answers DEDUP_UNAVAILABLE until it is
 * there. What it does not do: it reads no clock (now_ms is the wall clock, an argument) and retries nothing
 * by itself. */
#ifndef DEDUP_DEDUP_H
#define DEDUP_DEDUP_H

#include "base/err.h"

struct dedup;
struct dedup_tx;
struct sqlite3;
struct pg_conn;

enum {
    DEDUP_GROUP_MAX = 255,   /* bytes */
    DEDUP_ORIGIN_MAX = 249,  /* a topic's name */
    DEDUP_ID_MAX = 1024,     /* bytes of a message id */
    DEDUP_CONNECTIONS = 2048 /* the largest pool */
};

enum dedup_answer {
    DEDUP_RUN,         /* not seen: run the effect. For commit, renew, release, done: it is so */
    DEDUP_DUPLICATE,   /* handled before, same content */
    DEDUP_BUSY,        /* somebody is at it, or the database asks to try again; see retry_ms. No attempt */
    DEDUP_CONFLICT,    /* handled before under this identity, with another content */
    DEDUP_UNAVAILABLE, /* the store does not answer, see why. No attempt */
    DEDUP_LOST         /* renew, release: the lease is not ours any more */
};

struct dedup_detail {
    int64_t retry_ms; /* BUSY: when to come back, at least 1 */
    uint64_t fence;   /* claim answered RUN: greater than that of every earlier claim of this key, as long as
                         the store's clock does not step back; hand it to the effect */
    char why[200];    /* UNAVAILABLE, BUSY from a database: what the store said, one line */
};

struct dedup_key {
    hf_str group;  /* no ':' */
    hf_str origin; /* topic in which the message first was visible; no ':' */
    hf_str id;
};

/* HF_EINVAL: an empty part, or a ':' in group or origin; HF_ELIMIT: longer than the limits above. The calls
 * below assert that their key passes. */
HF_CHECK enum hf_err dedup_key_check(const struct dedup_key *key);

/* First 8 bytes, big-endian, of SHA-256 over the key's length (8 bytes, all ones for null), the key, and the
 * same for the value. Identity conflicts may be provoked by whoever can send, so the hash is one for which
 * nobody can make up collisions cheaply; it runs at 1 GB/s and more where the CPU has instructions for it,
 * and OpenSSL is linked anyway. */
uint64_t dedup_fingerprint(hf_str key, hf_str value);

/* ---- opening ---- */

enum dedup_kind { DEDUP_EXTERNAL, DEDUP_DATABASE };

struct dedup_options {
    /* memory:                        external, dies with the process: tests and trials
     * redis://[:password@]host[:port][/db]   external
     * sqlite:PATH                    database
     * postgres://… or postgres:CONNINFO      database; what libpq understands */
    const char *url;
    int64_t lease_ms;   /* external; 0: 30 s */
    int64_t horizon_ms; /* 0: 7 d */
    int connections;    /* one for each concurrent handler; 0: 16. SQLite always has 1: it has one writer */
    int64_t connect_timeout_ms; /* 0: 2 s */
    int64_t command_timeout_ms; /* 0: 5 s; also the longest wait for a connection of the pool */
    /* Told of what an operator should know: a stable event name and one line. May be called on any thread
     * that calls the store. NULL: nobody is told. */
    void (*log)(void *arg, const char *event, const char *text);
    void *log_arg;
};

/* HF_EINVAL: a URL that says nothing to us, or limits; HF_EUNSUPPORTED: its driver is not built in;
 * HF_ENOMEM. Opens the first connection, which creates the table or checks Redis' settings; failing in that
 * is only logged. */
HF_CHECK enum hf_err dedup_open(const struct dedup_options *options, struct dedup **out);

/* No call is under way, no transaction open. NULL is allowed. */
void dedup_close(struct dedup *d);

enum dedup_kind dedup_kind(const struct dedup *d);
int64_t dedup_lease_ms(const struct dedup *d);

/* ---- external ---- */

/* RUN (detail->fence is set, a lease runs), DUPLICATE, BUSY (detail->retry_ms), CONFLICT, UNAVAILABLE. */
HF_CHECK enum dedup_answer dedup_claim(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                                       int64_t now_ms, struct dedup_detail *detail);

/* Extends the lease; call at a third of it. RUN: it runs on; LOST: cancel the handler; UNAVAILABLE: try again
 * while the lease may still run. */
HF_CHECK enum dedup_answer dedup_renew(struct dedup *d, const struct dedup_key *key, uint64_t fence,
                                       int64_t now_ms, struct dedup_detail *detail);

/* The effect did not happen: frees the key at once. RUN, LOST (somebody else's by now: nothing to do) or
 * UNAVAILABLE (the lease will end by itself). */
HF_CHECK enum dedup_answer dedup_release(struct dedup *d, const struct dedup_key *key, uint64_t fence,
                                         int64_t now_ms, struct dedup_detail *detail);

/* The effect happened: recorded unconditionally, whoever holds the lease. RUN; UNAVAILABLE: not recorded as
 * far as known; call again until it is. */
HF_CHECK enum dedup_answer dedup_done(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                                      int64_t now_ms, struct dedup_detail *detail);

/* ---- database ---- */

/* Opens a transaction and inserts the row. RUN: *tx is open. Else nothing is open and *tx is untouched:
 * DUPLICATE, CONFLICT, BUSY, UNAVAILABLE. Waits while another transaction holds the same key. */
HF_CHECK enum dedup_answer dedup_begin(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                                       int64_t now_ms, struct dedup_tx **tx, struct dedup_detail *detail);

/* A transaction without a row, for effects that need none (versioned state, none). RUN, BUSY, UNAVAILABLE. */
HF_CHECK enum dedup_answer dedup_begin_plain(struct dedup *d, struct dedup_tx **tx,
                                             struct dedup_detail *detail);

/* The transaction's connection, NULL if the store is another kind. Do not end the transaction on it, do not
 * close it. */
struct sqlite3 *dedup_tx_sqlite(struct dedup_tx *tx);
struct pg_conn *dedup_tx_postgres(struct dedup_tx *tx);

/* Ends the transaction in any case; tx is gone. RUN: row and effect are committed. BUSY: rolled back for a
 * temporary reason (a serialisation failure, a deadlock, a lock): run the handler again, no attempt.
 * UNAVAILABLE: the answer was lost, or the transaction had failed; it may have committed: begin again, which
 * tells. */
HF_CHECK enum dedup_answer dedup_commit(struct dedup_tx *tx, struct dedup_detail *detail);

/* tx is gone. True: the handler's last statement failed for a temporary reason (40001, 40P01, 55P03,
 * SQLITE_BUSY) or the connection broke, so that its failure should not count as an attempt. */
bool dedup_rollback(struct dedup_tx *tx);

/* ---- both ---- */

/* Removes up to limit entries that are older than the horizon; *removed tells how many: call again while it
 * equals limit. Redis does this by itself (*removed = 0). RUN, BUSY, UNAVAILABLE. */
HF_CHECK enum dedup_answer dedup_expire(struct dedup *d, int64_t now_ms, size_t limit, size_t *removed,
                                        struct dedup_detail *detail);

#endif
