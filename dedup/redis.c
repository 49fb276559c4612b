/* The two-phase store in Redis: SETNX with a TTL, made whole. One key for each message:
 *
 *     {hf:<group>:<origin>:<id>}      the braces keep a key of ours in one hash slot
 *         P:<fence>                   claimed; the key's TTL is the lease
 *         D:<fingerprint, 16 hex>     done; the key's TTL is the horizon
 *
 * Claim, renew and release are one Lua call each, done is one SET: Redis runs each of them alone, so they are
 * the steps of state.h's machine, with Redis' expiry for `until` (test_redis.c walks both side by side). The
 * fence is Redis' own time in microseconds at the claim: greater for a later claim as long as its clock does
 * not step back, and no counter has to be stored beside the key.
 *
 * What Redis can lose (an evicted key, writes that were acknowledged but not yet in the AOF, a failover to a
 * replica that was behind) it forgets silently, and then a message runs again: so the start checks that
 * eviction is off and the AOF on, and warns otherwise.
 *
 * Failure: a connection that breaks is dropped, and the call repeated once on a fresh one, as idle
 * connections do not notice a restart of the server. A claim whose answer was lost has perhaps set a lease
 * that nobody holds: the repetition then answers BUSY, and the message comes back when it has run out. */
#include "pool.h"
#include "store.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

enum { SHA1_HEX = 41, HOST_MAX = 256, REDIS_PORT = 6379 };

enum script { CLAIM, RENEW, RELEASE, SCRIPTS };

static const char *const script_text[SCRIPTS] = {
    /* fingerprint, lease */
    [CLAIM] = "local v = redis.call('GET', KEYS[1])\n"
              "if not v then\n"
              "  local t = redis.call('TIME')\n"
              "  local fence = t[1] .. string.format('%06d', t[2])\n"
              "  redis.call('SET', KEYS[1], 'P:' .. fence, 'NX', 'PX', ARGV[2])\n"
              "  return {'run', fence}\n"
              "end\n"
              "local phase = string.sub(v, 1, 2)\n"
              "if phase == 'P:' then return {'busy', tostring(redis.call('PTTL', KEYS[1]))} end\n"
              "if phase ~= 'D:' then return redis.error_reply('FOREIGN value under a key of ours') end\n"
              "if string.sub(v, 3) == ARGV[1] then return {'duplicate', '0'} end\n"
              "return {'conflict', '0'}\n",
    /* fence, lease */
    [RENEW] = "if redis.call('GET', KEYS[1]) ~= 'P:' .. ARGV[1] then return {'lost', '0'} end\n"
              "redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
              "return {'run', '0'}\n",
    /* fence */
    [RELEASE] = "if redis.call('GET', KEYS[1]) ~= 'P:' .. ARGV[1] then return {'lost', '0'} end\n"
                "redis.call('DEL', KEYS[1])\n"
                "return {'run', '0'}\n",
};

struct dedup_store {
    struct dedup_options options;
    struct pool pool;
    char host[HOST_MAX], user[HOST_MAX], password[HOST_MAX];
    int port, db;
    char sha[SCRIPTS][SHA1_HEX];
};

/* ---- opening ---- */

static enum hf_err copy_part(char out[HOST_MAX], hf_str part) {
    if (part.n >= HOST_MAX) return HF_EINVAL;
    memcpy(out, part.p, part.n);
    out[part.n] = 0;
    return HF_OK;
}

/* The part before the last c goes to *head, the rest stays; without c nothing happens. */
static bool split_last(hf_str *rest, char c, hf_str *head) {
    const char *at = rest->n ? memrchr(rest->p, c, rest->n) : NULL;
    if (!at) return false;
    *head = hf_str_make(rest->p, (size_t)(at - rest->p));
    *rest = hf_str_make(at + 1, rest->n - head->n - 1);
    return true;
}

static enum hf_err parse_number(hf_str text, int max, int *out) {
    int64_t n;
    enum hf_err e = hf_str_int(text, &n);
    if (e || n < 0 || n > max) return HF_EINVAL;
    *out = (int)n;
    return HF_OK;
}

/* redis://[[user]:password@]host[:port][/db], host also as [::1]. */
static enum hf_err parse_url(struct dedup_store *s, const char *url) {
    hf_str rest = hf_str_of(url + strlen("redis://")), head;
    s->port = REDIS_PORT;
    enum hf_err e = HF_OK;
    if (split_last(&rest, '@', &head)) {
        hf_str user = {"", 0};
        const char *colon = head.n ? memchr(head.p, ':', head.n) : NULL;
        if (!colon) return HF_EINVAL;
        user = hf_str_make(head.p, (size_t)(colon - head.p));
        e = copy_part(s->user, user);
        if (!e) e = copy_part(s->password, hf_str_make(colon + 1, head.n - user.n - 1));
    }
    if (!e && split_last(&rest, '/', &head)) {
        if (rest.n) e = parse_number(rest, 1 << 20, &s->db);
        rest = head;
    }
    bool bracketed = rest.n && rest.p[rest.n - 1] == ']';
    if (!e && !bracketed && split_last(&rest, ':', &head)) {
        e = parse_number(rest, 65535, &s->port);
        rest = head;
    }
    if (rest.n > 1 && rest.p[0] == '[' && rest.p[rest.n - 1] == ']')
        rest = hf_str_make(rest.p + 1, rest.n - 2);
    if (e || rest.n == 0) return HF_EINVAL;
    return copy_part(s->host, rest);
}

static void sha1_hex(const char *text, char out[SHA1_HEX]) {
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    int ok = EVP_Digest(text, strlen(text), digest, &n, EVP_sha1(), NULL);
    assert(ok && n == 20);
    for (unsigned i = 0; i < n; i++) (void)snprintf(out + (size_t)i * 2, 3, "%02x", digest[i]);
}

static struct timeval timeval_of(int64_t ms) {
    return (struct timeval){.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000};
}

static bool command_ok(redisContext *c, struct dedup_detail *detail, int argc, const char **argv) {
    redisReply *r = redisCommandArgv(c, argc, argv, NULL);
    bool ok = r && r->type != REDIS_REPLY_ERROR;
    if (!ok) (void)dedup_say(detail, DEDUP_UNAVAILABLE, "%s: %s", argv[0], r ? r->str : c->errstr);
    freeReplyObject(r);
    return ok;
}

static bool greet(struct dedup_store *s, redisContext *c, struct dedup_detail *detail) {
    char db[16];
    (void)snprintf(db, sizeof db, "%d", s->db);
    const char *select[] = {"SELECT", db};
    const char *with_user[] = {"AUTH", s->user, s->password};
    const char *with_password[] = {"AUTH", s->password};
    if (*s->user && !command_ok(c, detail, 3, with_user)) return false;
    if (!*s->user && *s->password && !command_ok(c, detail, 2, with_password)) return false;
    return s->db == 0 || command_ok(c, detail, 2, select);
}

static void *connection_open(void *arg, struct dedup_detail *detail) {
    struct dedup_store *s = arg;
    redisContext *c = redisConnectWithTimeout(s->host, s->port, timeval_of(s->options.connect_timeout_ms));
    if (!c || c->err || redisSetTimeout(c, timeval_of(s->options.command_timeout_ms)) != REDIS_OK) {
        (void)dedup_say(detail, DEDUP_UNAVAILABLE, "redis at %s:%d: %s", s->host, s->port,
                        c ? c->errstr : "out of memory");
        redisFree(c);
        return NULL;
    }
    if (greet(s, c, detail)) return c;
    redisFree(c);
    return NULL;
}

static void connection_close(void *c) {
    redisFree(c);
}

static enum hf_err redis_open(const struct dedup_options *o, struct dedup_store **out) {
    struct dedup_store *s = calloc(1, sizeof *s);
    if (!s) return HF_ENOMEM;
    s->options = *o;
    enum hf_err e = parse_url(s, o->url);
    if (!e) e = pool_init(&s->pool, o->connections, connection_open, connection_close, s);
    if (e) {
        free(s);
        return e;
    }
    for (int i = 0; i < SCRIPTS; i++) sha1_hex(script_text[i], s->sha[i]);
    *out = s;
    return HF_OK;
}

static void redis_close(struct dedup_store *s) {
    pool_fini(&s->pool);
    free(s);
}

/* INFO rather than CONFIG GET, which hosted servers refuse. */
static void check_settings(struct dedup_store *s, const char *info) {
    if (!strstr(info, "maxmemory_policy:noeviction"))
        dedup_log(
            &s->options, "dedup_redis_evicts",
            "maxmemory-policy is not noeviction: evicted keys are forgotten, their messages may run again");
    if (!strstr(info, "aof_enabled:1"))
        dedup_log(&s->options, "dedup_redis_no_aof",
                  "appendonly is off: keys written since the last snapshot are forgotten in a crash, their "
                  "messages may run again");
}

static enum dedup_answer redis_start(struct dedup_store *s, struct dedup_detail *detail) {
    void *c;
    enum dedup_answer a = pool_take(&s->pool, s->options.command_timeout_ms, &c, detail);
    if (a != DEDUP_RUN) return a;
    redisReply *r = redisCommand(c, "INFO");
    if (!r) {
        a = dedup_say(detail, DEDUP_UNAVAILABLE, "redis INFO: %s", ((redisContext *)c)->errstr);
        pool_drop(&s->pool, c);
        return a;
    }
    if (r->type == REDIS_REPLY_STRING)
        check_settings(s, r->str);
    else
        dedup_log(&s->options, "dedup_redis_unchecked", "INFO was refused: %s", r->str ? r->str : "");
    freeReplyObject(r);
    pool_give(&s->pool, c);
    return DEDUP_RUN;
}

/* ---- commands ---- */

struct command {
    const char *argv[8];
    size_t length[8];
    int argc;
};

static void add(struct command *c, const char *p, size_t n) {
    c->argv[c->argc] = p;
    c->length[c->argc++] = n;
}

static void add_text(struct command *c, const char *text) {
    add(c, text, strlen(text));
}

enum { KEY_MAX = DEDUP_GROUP_MAX + DEDUP_ORIGIN_MAX + DEDUP_ID_MAX + 16 };

struct key_text {
    char p[KEY_MAX];
    size_t n;
};

static void key_put(struct key_text *k, hf_str part) {
    memcpy(k->p + k->n, part.p, part.n);
    k->n += part.n;
}

static struct key_text key_text(const struct dedup_key *key) {
    struct key_text k = {.n = 0};
    key_put(&k, HF_STR("{hf:"));
    key_put(&k, key->group);
    key_put(&k, HF_STR(":"));
    key_put(&k, key->origin);
    key_put(&k, HF_STR(":"));
    key_put(&k, key->id);
    key_put(&k, HF_STR("}"));
    return k;
}

/* Sends one command and gets the answer; once again on a fresh connection if this one turns out to be broken.
 * NULL: unavailable, *detail says why. */
static redisReply *call(struct dedup_store *s, struct command *c, struct dedup_detail *detail) {
    for (int attempt = 0; attempt < 2; attempt++) {
        void *connection;
        if (pool_take(&s->pool, s->options.command_timeout_ms, &connection, detail) != DEDUP_RUN) return NULL;
        redisContext *redis = connection;
        redisReply *r = redisCommandArgv(redis, c->argc, c->argv, c->length);
        if (r) {
            pool_give(&s->pool, connection);
            return r;
        }
        bool timed_out = redis->err == REDIS_ERR_IO && errno == EAGAIN;
        (void)dedup_say(detail, DEDUP_UNAVAILABLE, "redis: %s", redis->errstr);
        pool_drop(&s->pool, connection);
        if (timed_out) return NULL; /* a second wait would not be answered sooner */
    }
    return NULL;
}

static enum dedup_answer refused(const redisReply *r, struct dedup_detail *detail) {
    const char *text = r->type == REDIS_REPLY_ERROR ? r->str : "an answer of an unexpected form";
    if (strncmp(text, "MOVED", 5) == 0 || strncmp(text, "ASK", 3) == 0)
        return dedup_say(detail, DEDUP_UNAVAILABLE,
                         "redis: this is one node of a cluster (%s), which is not supported: name a "
                         "server that holds all keys",
                         text);
    return dedup_say(detail, DEDUP_UNAVAILABLE, "redis: %s", text);
}

/* The answers of our scripts: a pair of a word and a number. */
static enum dedup_answer read_pair(const redisReply *r, struct dedup_detail *detail) {
    static const struct {
        const char *word;
        enum dedup_answer answer;
    } words[] = {{"run", DEDUP_RUN},
                 {"duplicate", DEDUP_DUPLICATE},
                 {"busy", DEDUP_BUSY},
                 {"conflict", DEDUP_CONFLICT},
                 {"lost", DEDUP_LOST}};
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 2 || r->element[0]->type != REDIS_REPLY_STRING ||
        r->element[1]->type != REDIS_REPLY_STRING)
        return refused(r, detail);
    int64_t number;
    if (hf_str_int(hf_str_make(r->element[1]->str, r->element[1]->len), &number) != HF_OK)
        return refused(r, detail);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(r->element[0]->str, words[i].word) != 0) continue;
        if (words[i].answer == DEDUP_RUN) detail->fence = (uint64_t)number;
        if (words[i].answer == DEDUP_BUSY) detail->retry_ms = number < 1 ? 1 : number;
        return words[i].answer;
    }
    return refused(r, detail);
}

/* EVALSHA, and EVAL when the server does not know the script (yet, or after a restart or SCRIPT FLUSH). */
static enum dedup_answer eval(struct dedup_store *s, enum script script, const struct dedup_key *key,
                              const char *arg1, const char *arg2, struct dedup_detail *detail) {
    struct key_text k = key_text(key);
    struct command c = {.argc = 0};
    add_text(&c, "EVALSHA");
    add_text(&c, s->sha[script]);
    add_text(&c, "1");
    add(&c, k.p, k.n);
    add_text(&c, arg1);
    if (arg2) add_text(&c, arg2);
    redisReply *r = call(s, &c, detail);
    if (r && r->type == REDIS_REPLY_ERROR && strncmp(r->str, "NOSCRIPT", 8) == 0) {
        freeReplyObject(r);
        c.argv[0] = "EVAL";
        c.length[0] = 4;
        c.argv[1] = script_text[script];
        c.length[1] = strlen(script_text[script]);
        r = call(s, &c, detail);
    }
    if (!r) return DEDUP_UNAVAILABLE;
    enum dedup_answer a = read_pair(r, detail);
    freeReplyObject(r);
    return a;
}

enum { NUMBER_TEXT = 24 };

static enum dedup_answer redis_claim(struct dedup_store *s, const struct dedup_key *key, uint64_t fingerprint,
                                     int64_t now_ms, struct dedup_detail *detail) {
    (void)now_ms;
    char hex[NUMBER_TEXT], lease[NUMBER_TEXT];
    (void)snprintf(hex, sizeof hex, "%016" PRIx64, fingerprint);
    (void)snprintf(lease, sizeof lease, "%" PRId64, s->options.lease_ms);
    return eval(s, CLAIM, key, hex, lease, detail);
}

static enum dedup_answer redis_renew(struct dedup_store *s, const struct dedup_key *key, uint64_t fence,
                                     int64_t now_ms, struct dedup_detail *detail) {
    (void)now_ms;
    char number[NUMBER_TEXT], lease[NUMBER_TEXT];
    (void)snprintf(number, sizeof number, "%" PRIu64, fence);
    (void)snprintf(lease, sizeof lease, "%" PRId64, s->options.lease_ms);
    return eval(s, RENEW, key, number, lease, detail);
}

static enum dedup_answer redis_release(struct dedup_store *s, const struct dedup_key *key, uint64_t fence,
                                       int64_t now_ms, struct dedup_detail *detail) {
    (void)now_ms;
    char number[NUMBER_TEXT];
    (void)snprintf(number, sizeof number, "%" PRIu64, fence);
    return eval(s, RELEASE, key, number, NULL, detail);
}

static enum dedup_answer redis_done(struct dedup_store *s, const struct dedup_key *key, uint64_t fingerprint,
                                    int64_t now_ms, struct dedup_detail *detail) {
    (void)now_ms;
    char value[NUMBER_TEXT], horizon[NUMBER_TEXT];
    (void)snprintf(value, sizeof value, "D:%016" PRIx64, fingerprint);
    (void)snprintf(horizon, sizeof horizon, "%" PRId64, s->options.horizon_ms);
    struct key_text k = key_text(key);
    struct command c = {.argc = 0};
    add_text(&c, "SET");
    add(&c, k.p, k.n);
    add_text(&c, value);
    add_text(&c, "PX");
    add_text(&c, horizon);
    redisReply *r = call(s, &c, detail);
    if (!r) return DEDUP_UNAVAILABLE;
    enum dedup_answer a = r->type == REDIS_REPLY_STATUS ? DEDUP_RUN : refused(r, detail);
    freeReplyObject(r);
    return a;
}

static enum dedup_answer redis_expire(struct dedup_store *s, int64_t before_ms, int64_t now_ms, size_t limit,
                                      size_t *removed, struct dedup_detail *detail) {
    (void)s;
    (void)before_ms;
    (void)now_ms;
    (void)limit;
    (void)removed;
    (void)detail;
    return DEDUP_RUN; /* keys carry their TTL */
}

const struct dedup_ops dedup_redis_ops = {
    .name = "redis",
    .kind = DEDUP_EXTERNAL,
    .open = redis_open,
    .close = redis_close,
    .start = redis_start,
    .expire = redis_expire,
    .claim = redis_claim,
    .renew = redis_renew,
    .release = redis_release,
    .done = redis_done,
};
