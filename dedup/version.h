/* State that carries its version: the newest wins, in any order, and doing it twice changes nothing. The
 * dedup strategy that needs no memory of messages.
 *
 *     struct dedup_column columns[] = {{"status", HF_STR("used")}, {"order_id", order}};
 *     struct dedup_upsert u = {.table = "coupon", .id_column = "code", .id = code,
 *                              .version_column = "version", .version = v, .columns = columns, .count = 2};
 *     switch (dedup_tx_upsert(tx, &u, &detail)) {
 *     case DEDUP_RUN: applied        case DEDUP_DUPLICATE: stale, something as new is there already
 *     case DEDUP_BUSY, DEDUP_UNAVAILABLE: as in dedup.h
 *     }
 *
 * It becomes one statement, which both databases understand:
 *
 *     INSERT INTO "coupon" AS t ("code", "status", "order_id", "version") VALUES ($1, $2, $3, $4)
 *     ON CONFLICT ("code") DO UPDATE SET "status" = excluded."status", …, "version" = excluded."version"
 *     WHERE t."version" < excluded."version"
 *
 * The version comes from the sender's state (an int64 in header hf-version, or computed from the message),
 * never from the offset: a message that is moved, replayed or migrated has a new offset but not a new
 * meaning.
 *
 * Names are quoted as given, so upper case and reserved words mean what they say. Values travel as text; the
 * column's type decides. Blocks on the connection; runs in whatever transaction is open there. */
#ifndef DEDUP_VERSION_H
#define DEDUP_VERSION_H

#include "base/bytes.h"
#include "dedup.h"

enum { DEDUP_COLUMNS_MAX = 64, DEDUP_SQL_MAX = 16384 };

struct dedup_column {
    const char *name;
    hf_str value; /* {NULL, 0}: null */
};

struct dedup_upsert {
    const char *table; /* may be "schema.table" */
    const char *id_column;
    hf_str id;
    const char *version_column;
    int64_t version;
    const struct dedup_column *columns;
    size_t count;
};

/* Appends the statement; parameters are id, columns in order, version. HF_EINVAL: an empty name, or one with
 * a zero byte or more than 63 bytes; HF_ELIMIT: too many columns or too long a text. */
HF_CHECK enum hf_err dedup_upsert_sql(const struct dedup_upsert *u, struct hf_buf *out);

/* Runs it in the transaction of a worker's database effect. */
HF_CHECK enum dedup_answer dedup_tx_upsert(struct dedup_tx *tx, const struct dedup_upsert *u,
                                           struct dedup_detail *detail);

#endif
