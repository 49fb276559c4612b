/* The front of the stores: which URL belongs to which store, defaults and limits, the key's rules, the
 * fingerprint. Nothing here decides about messages: that is state.c for the two-phase stores, and a primary
 * key for the databases. */
#include "dedup.h"

#include "base/bytes.h"
#include "store.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct dedup {
    const struct dedup_ops *ops;
    struct dedup_store *store;
    struct dedup_options options; /* url is not kept */
};

struct dedup_tx {
    struct dedup *dedup;
    void *connection;
};

/* ---- opening ---- */

static const struct {
    const char *scheme;
    const struct dedup_ops *ops;
} schemes[] = {
    {"memory:", &dedup_memory_ops},
#ifdef HF_DEDUP_REDIS
    {"redis://", &dedup_redis_ops},
#else
    {"redis://", NULL},
#endif
#ifdef HF_DEDUP_SQLITE
    {"sqlite:", &dedup_sqlite_ops},
#else
    {"sqlite:", NULL},
#endif
#ifdef HF_DEDUP_POSTGRES
    {"postgres:", &dedup_postgres_ops}, {"postgresql:", &dedup_postgres_ops},
#else
    {"postgres:", NULL},
    {"postgresql:", NULL},
#endif
};

static enum hf_err find_ops(const char *url, const struct dedup_ops **out) {
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strncmp(url, schemes[i].scheme, strlen(schemes[i].scheme)) != 0) continue;
        if (!schemes[i].ops) return HF_EUNSUPPORTED;
        *out = schemes[i].ops;
        return HF_OK;
    }
    return HF_EINVAL;
}

static void fill(int64_t *value, int64_t default_) {
    if (*value == 0) *value = default_;
}

static enum hf_err fill_defaults(struct dedup_options *o) {
    const int64_t longest_ms = HF_DAYS(36500);
    fill(&o->lease_ms, HF_SECONDS(30));
    fill(&o->horizon_ms, HF_DAYS(7));
    fill(&o->connect_timeout_ms, HF_SECONDS(2));
    fill(&o->command_timeout_ms, HF_SECONDS(5));
    if (o->connections == 0) o->connections = 16;
    bool ok =
        o->lease_ms > 0 && o->lease_ms <= longest_ms && o->horizon_ms > 0 && o->horizon_ms <= longest_ms &&
        o->connect_timeout_ms > 0 && o->connect_timeout_ms <= HF_HOURS(1) && o->command_timeout_ms > 0 &&
        o->command_timeout_ms <= HF_HOURS(1) && o->connections > 0 && o->connections <= DEDUP_CONNECTIONS;
    return ok ? HF_OK : HF_EINVAL;
}

enum hf_err dedup_open(const struct dedup_options *options, struct dedup **out) {
    const struct dedup_ops *ops = NULL;
    struct dedup_options o = *options;
    if (!o.url) return HF_EINVAL;
    enum hf_err e = find_ops(o.url, &ops);
    if (!e) e = fill_defaults(&o);
    if (e) return e;

    struct dedup *d = calloc(1, sizeof *d);
    if (!d) return HF_ENOMEM;
    d->ops = ops;
    d->options = o;
    e = ops->open(&o, &d->store);
    if (e) {
        free(d);
        return e;
    }
    d->options.url = NULL;

    struct dedup_detail detail;
    if (ops->start(d->store, &detail) != DEDUP_RUN)
        dedup_log(&d->options, "dedup_unavailable", "%s: %s", ops->name, detail.why);
    *out = d;
    return HF_OK;
}

void dedup_close(struct dedup *d) {
    if (!d) return;
    d->ops->close(d->store);
    free(d);
}

enum dedup_kind dedup_kind(const struct dedup *d) {
    return d->ops->kind;
}

int64_t dedup_lease_ms(const struct dedup *d) {
    return d->options.lease_ms;
}

/* ---- keys and fingerprints ---- */

static enum hf_err part_check(hf_str part, size_t max, bool colon_ok) {
    if (part.n == 0 || !part.p) return HF_EINVAL;
    if (!colon_ok && memchr(part.p, ':', part.n)) return HF_EINVAL;
    return part.n <= max ? HF_OK : HF_ELIMIT;
}

enum hf_err dedup_key_check(const struct dedup_key *key) {
    enum hf_err e = part_check(key->group, DEDUP_GROUP_MAX, false);
    if (!e) e = part_check(key->origin, DEDUP_ORIGIN_MAX, false);
    if (!e) e = part_check(key->id, DEDUP_ID_MAX, true);
    return e;
}

/* Lengths go in before the bytes, so that ("ab", "c") and ("a", "bc") differ. */
static bool digest_part(EVP_MD_CTX *md, hf_str part) {
    uint8_t length[8];
    hf_put_be64(length, part.p ? (uint64_t)part.n : UINT64_MAX);
    return EVP_DigestUpdate(md, length, sizeof length) && EVP_DigestUpdate(md, part.p, part.p ? part.n : 0);
}

uint64_t dedup_fingerprint(hf_str key, hf_str value) {
    uint8_t digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) && digest_part(md, key) &&
              digest_part(md, value) && EVP_DigestFinal_ex(md, digest, NULL);
    assert(ok); /* a digest of this kind has no way to fail but want of memory */
    EVP_MD_CTX_free(md);
    return hf_get_be64(digest);
}

/* ---- dispatch ---- */

static void start_call(const struct dedup *d, enum dedup_kind kind, struct dedup_detail *detail) {
    assert(d->ops->kind == kind);
    *detail = (struct dedup_detail){0};
}

static void start_keyed(const struct dedup *d, enum dedup_kind kind, const struct dedup_key *key,
                        struct dedup_detail *detail) {
    assert(dedup_key_check(key) == HF_OK);
    start_call(d, kind, detail);
}

enum dedup_answer dedup_claim(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                              int64_t now_ms, struct dedup_detail *detail) {
    start_keyed(d, DEDUP_EXTERNAL, key, detail);
    return d->ops->claim(d->store, key, fingerprint, now_ms, detail);
}

enum dedup_answer dedup_renew(struct dedup *d, const struct dedup_key *key, uint64_t fence, int64_t now_ms,
                              struct dedup_detail *detail) {
    start_keyed(d, DEDUP_EXTERNAL, key, detail);
    return d->ops->renew(d->store, key, fence, now_ms, detail);
}

enum dedup_answer dedup_release(struct dedup *d, const struct dedup_key *key, uint64_t fence, int64_t now_ms,
                                struct dedup_detail *detail) {
    start_keyed(d, DEDUP_EXTERNAL, key, detail);
    return d->ops->release(d->store, key, fence, now_ms, detail);
}

enum dedup_answer dedup_done(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                             int64_t now_ms, struct dedup_detail *detail) {
    start_keyed(d, DEDUP_EXTERNAL, key, detail);
    return d->ops->done(d->store, key, fingerprint, now_ms, detail);
}

static enum dedup_answer begin(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                               int64_t now_ms, struct dedup_tx **tx, struct dedup_detail *detail) {
    struct dedup_tx *t = calloc(1, sizeof *t);
    if (!t) return dedup_say(detail, DEDUP_UNAVAILABLE, "out of memory");
    t->dedup = d;
    enum dedup_answer a = d->ops->begin(d->store, key, fingerprint, now_ms, &t->connection, detail);
    if (a == DEDUP_RUN)
        *tx = t;
    else
        free(t);
    return a;
}

enum dedup_answer dedup_begin(struct dedup *d, const struct dedup_key *key, uint64_t fingerprint,
                              int64_t now_ms, struct dedup_tx **tx, struct dedup_detail *detail) {
    start_keyed(d, DEDUP_DATABASE, key, detail);
    return begin(d, key, fingerprint, now_ms, tx, detail);
}

enum dedup_answer dedup_begin_plain(struct dedup *d, struct dedup_tx **tx, struct dedup_detail *detail) {
    start_call(d, DEDUP_DATABASE, detail);
    return begin(d, NULL, 0, 0, tx, detail);
}

static void *native_of(struct dedup_tx *tx, const struct dedup_ops *ops) {
    return tx->dedup->ops == ops ? ops->native(tx->connection) : NULL;
}

struct sqlite3 *dedup_tx_sqlite(struct dedup_tx *tx) {
#ifdef HF_DEDUP_SQLITE
    return native_of(tx, &dedup_sqlite_ops);
#else
    return native_of(tx, NULL);
#endif
}

struct pg_conn *dedup_tx_postgres(struct dedup_tx *tx) {
#ifdef HF_DEDUP_POSTGRES
    return native_of(tx, &dedup_postgres_ops);
#else
    return native_of(tx, NULL);
#endif
}

enum dedup_answer dedup_commit(struct dedup_tx *tx, struct dedup_detail *detail) {
    start_call(tx->dedup, DEDUP_DATABASE, detail);
    enum dedup_answer a = tx->dedup->ops->commit(tx->dedup->store, tx->connection, detail);
    free(tx);
    return a;
}

bool dedup_rollback(struct dedup_tx *tx) {
    bool temporary = tx->dedup->ops->rollback(tx->dedup->store, tx->connection);
    free(tx);
    return temporary;
}

enum dedup_answer dedup_tx_upsert(struct dedup_tx *tx, const struct dedup_upsert *u,
                                  struct dedup_detail *detail) {
    start_call(tx->dedup, DEDUP_DATABASE, detail);
    return tx->dedup->ops->upsert(tx->connection, u, detail);
}

enum dedup_answer dedup_expire(struct dedup *d, int64_t now_ms, size_t limit, size_t *removed,
                               struct dedup_detail *detail) {
    start_call(d, d->ops->kind, detail);
    size_t n = 0;
    enum dedup_answer a = d->ops->expire(d->store, now_ms - d->options.horizon_ms, now_ms, limit, &n, detail);
    if (a == DEDUP_RUN) *removed = n;
    return a;
}

/* ---- helpers for stores ---- */

enum dedup_answer dedup_say(struct dedup_detail *detail, enum dedup_answer answer, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(detail->why, sizeof detail->why, fmt, args);
    va_end(args);
    for (char *c = detail->why; *c; c++)
        if (*c == '\n' || *c == '\r') *c = ' ';
    return answer;
}

enum dedup_answer dedup_say_busy(struct dedup_detail *detail, int64_t retry_ms, const char *why) {
    detail->retry_ms = retry_ms < 1 ? 1 : retry_ms;
    return dedup_say(detail, DEDUP_BUSY, "%s", why);
}

void dedup_log(const struct dedup_options *o, const char *event, const char *fmt, ...) {
    if (!o->log) return;
    char text[400];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    o->log(o->log_arg, event, text);
}
