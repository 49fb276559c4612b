/* What a store implements; inside dedup/ only. dedup.c checks arguments, fills defaults and dispatches.
 *
 * A store supports one kind: the calls of the other are NULL in its table and asserted against in dedup.c.
 * Every implementation passes one suite, tests/dedup/test_contract.c. A further database (MySQL/MariaDB:
 * INSERT … ON DUPLICATE KEY UPDATE with the meaning of affected rows fixed at connect) is one more file with
 * one more table in dedup.c's list. */
#ifndef DEDUP_STORE_H
#define DEDUP_STORE_H

#include "dedup.h"
#include "version.h"

#include <stdio.h>

struct dedup_store;

struct dedup_ops {
    const char *name;
    enum dedup_kind kind;

    /* url is what follows the scheme's colon for plain schemes, else the whole text; the options' numbers are
     * filled in. HF_EINVAL: the URL; HF_ENOMEM. Does not connect. */
    enum hf_err (*open)(const struct dedup_options *o, struct dedup_store **out);
    void (*close)(struct dedup_store *s);

    /* Opens a first connection and sets up what the store needs. RUN or UNAVAILABLE. */
    enum dedup_answer (*start)(struct dedup_store *s, struct dedup_detail *detail);

    enum dedup_answer (*expire)(struct dedup_store *s, int64_t before_ms, int64_t now_ms, size_t limit,
                                size_t *removed, struct dedup_detail *detail);

    /* external */
    enum dedup_answer (*claim)(struct dedup_store *s, const struct dedup_key *key, uint64_t fingerprint,
                               int64_t now_ms, struct dedup_detail *detail);
    enum dedup_answer (*renew)(struct dedup_store *s, const struct dedup_key *key, uint64_t fence,
                               int64_t now_ms, struct dedup_detail *detail);
    enum dedup_answer (*release)(struct dedup_store *s, const struct dedup_key *key, uint64_t fence,
                                 int64_t now_ms, struct dedup_detail *detail);
    enum dedup_answer (*done)(struct dedup_store *s, const struct dedup_key *key, uint64_t fingerprint,
                              int64_t now_ms, struct dedup_detail *detail);

    /* database: a transaction is a connection of the store's, begun. key == NULL: no row. */
    enum dedup_answer (*begin)(struct dedup_store *s, const struct dedup_key *key, uint64_t fingerprint,
                               int64_t now_ms, void **connection, struct dedup_detail *detail);
    enum dedup_answer (*commit)(struct dedup_store *s, void *connection, struct dedup_detail *detail);
    bool (*rollback)(struct dedup_store *s, void *connection);
    void *(*native)(void *connection);
    enum dedup_answer (*upsert)(void *connection, const struct dedup_upsert *u, struct dedup_detail *detail);
};

extern const struct dedup_ops dedup_memory_ops;
extern const struct dedup_ops dedup_redis_ops;
extern const struct dedup_ops dedup_sqlite_ops;
extern const struct dedup_ops dedup_postgres_ops;

/* ---- helpers for stores ---- */

/* Fills detail->why with one line (line ends become spaces) and returns the answer. */
enum dedup_answer dedup_say(struct dedup_detail *detail, enum dedup_answer answer, const char *fmt, ...)
    HF_PRINTF(3, 4);

/* BUSY with a time to come back. */
enum dedup_answer dedup_say_busy(struct dedup_detail *detail, int64_t retry_ms, const char *why);

void dedup_log(const struct dedup_options *o, const char *event, const char *fmt, ...) HF_PRINTF(3, 4);

/* How long to stay away from a row or a database that somebody else has locked. */
enum { DEDUP_LOCKED_RETRY_MS = 50 };

#endif
