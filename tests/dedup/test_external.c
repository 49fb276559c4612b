/* One contract suite for the two-phase stores: memory and a real Redis pass the same tests.
 *
 * Time: the memory store's is the test's; Redis has its own, so there the test looks at the key's TTL and
 * shortens it. */
#include "dedup/state.h"

#include "base/bytes.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { LEASE_MS = 3600000, HORIZON_MS = 7200000, SLACK_MS = 600000 };

struct fixture {
    const char *name;
    struct dedup *dedup;
    int64_t now_ms;
    redisContext *redis; /* NULL: memory */
    char group[64];
};

static struct fixture fixtures[2];
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

static redisContext *redis_connect(void) {
    const char *url = getenv("HF_TEST_REDIS");
    assert_non_null(url);
    redisContext *c = redisConnect("127.0.0.1", atoi(strrchr(url, ':') + 1));
    assert_non_null(c);
    assert_int_equal(c->err, 0);
    return c;
}

static void open_fixture(struct fixture *f, const char *name, const char *url) {
    struct dedup_options o = {.url = url, .lease_ms = LEASE_MS, .horizon_ms = HORIZON_MS, .connections = 4};
    f->name = name;
    f->now_ms = 1000000;
    assert_int_equal(dedup_open(&o, &f->dedup), HF_OK);
    assert_int_equal(dedup_kind(f->dedup), DEDUP_EXTERNAL);
}

static int setup(void **state) {
    (void)state;
    open_fixture(&fixtures[0], "memory", "memory:");
    open_fixture(&fixtures[1], "redis", getenv("HF_TEST_REDIS"));
    fixtures[1].redis = redis_connect();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < FIXTURES; i++) dedup_close(fixtures[i].dedup);
    redisFree(fixtures[1].redis);
    return 0;
}

static struct dedup_key key_in(const struct fixture *f, hf_str id) {
    return (struct dedup_key){.group = hf_str_of(f->group), .origin = HF_STR("orders.paid"), .id = id};
}

static void redis_key(const struct dedup_key *k, char *out, size_t n) {
    (void)snprintf(out, n, "{hf:%.*s:%.*s:%.*s}", (int)k->group.n, k->group.p, (int)k->origin.n, k->origin.p,
                   (int)k->id.n, k->id.p);
}

static int64_t redis_number(redisContext *c, const char *command, const char *key) {
    redisReply *r = redisCommand(c, "%s %s", command, key);
    assert_non_null(r);
    assert_int_equal(r->type, REDIS_REPLY_INTEGER);
    int64_t n = r->integer;
    freeReplyObject(r);
    return n;
}

/* The entry's lease or horizon, which was just set to so many ms, runs out. In Redis it is seen to be set so,
 * and then shortened: a real wait would be long, or too short on a machine that is busy. */
static void let_expire(struct fixture *f, const struct dedup_key *k, int64_t ms) {
    f->now_ms += ms;
    if (!f->redis) return;
    char key[512];
    redis_key(k, key, sizeof key);
    assert_in_range(redis_number(f->redis, "PTTL", key), ms - SLACK_MS, ms);
    freeReplyObject(redisCommand(f->redis, "PEXPIRE %s 1", key));
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
        assert_true(now.tv_sec - start.tv_sec < 10);
    } while (redis_number(f->redis, "EXISTS", key));
}

/* Runs a test's body on every store, each time in a consumer group of its own. */
static void each_store(void (*body)(struct fixture *f)) {
    static int groups;
    for (int i = 0; i < FIXTURES; i++) {
        print_message("  on %s\n", fixtures[i].name);
        (void)snprintf(fixtures[i].group, sizeof fixtures[i].group, "g%d", ++groups);
        body(&fixtures[i]);
    }
}

#define TEST_ON_EACH(name)                                                                                   \
    static void name##_on(struct fixture *f);                                                                \
    static void name(void **state) {                                                                         \
        (void)state;                                                                                         \
        each_store(name##_on);                                                                               \
    }                                                                                                        \
    static void name##_on(struct fixture *f)

static enum dedup_answer claim(struct fixture *f, struct dedup_key k, uint64_t print,
                               struct dedup_detail *d) {
    return dedup_claim(f->dedup, &k, print, f->now_ms, d);
}

static enum dedup_answer done(struct fixture *f, struct dedup_key k, uint64_t print) {
    struct dedup_detail d;
    return dedup_done(f->dedup, &k, print, f->now_ms, &d);
}

static enum dedup_answer renew(struct fixture *f, struct dedup_key k, uint64_t fence) {
    struct dedup_detail d;
    return dedup_renew(f->dedup, &k, fence, f->now_ms, &d);
}

static enum dedup_answer release(struct fixture *f, struct dedup_key k, uint64_t fence) {
    struct dedup_detail d;
    return dedup_release(f->dedup, &k, fence, f->now_ms, &d);
}

/* ---- the contract ---- */

TEST_ON_EACH(first_claim_runs_and_others_are_told_when_to_come_back) {
    struct dedup_key k = key_in(f, HF_STR("order-1/paid"));
    struct dedup_detail d;
    assert_int_equal(claim(f, k, 1, &d), DEDUP_RUN);
    assert_true(d.fence > 0);
    assert_int_equal(claim(f, k, 1, &d), DEDUP_BUSY);
    assert_in_range(d.retry_ms, 1, LEASE_MS);
}

TEST_ON_EACH(claim_after_done_is_a_duplicate) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail d;
    assert_int_equal(claim(f, k, 1, &d), DEDUP_RUN);
    assert_int_equal(done(f, k, 1), DEDUP_RUN);
    assert_int_equal(claim(f, k, 1, &d), DEDUP_DUPLICATE);
}

TEST_ON_EACH(same_identity_with_another_content_is_a_conflict) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail d;
    assert_int_equal(claim(f, k, UINT64_MAX, &d), DEDUP_RUN);
    assert_int_equal(done(f, k, UINT64_MAX), DEDUP_RUN);
    assert_int_equal(claim(f, k, UINT64_MAX - 1, &d), DEDUP_CONFLICT);
    assert_int_equal(claim(f, k, UINT64_MAX, &d), DEDUP_DUPLICATE);
}

TEST_ON_EACH(release_frees_at_once_and_only_with_the_fence) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail first, second;
    assert_int_equal(claim(f, k, 1, &first), DEDUP_RUN);
    assert_int_equal(release(f, k, first.fence + 1), DEDUP_LOST);
    assert_int_equal(claim(f, k, 1, &second), DEDUP_BUSY);
    assert_int_equal(release(f, k, first.fence), DEDUP_RUN);
    assert_int_equal(release(f, k, first.fence), DEDUP_LOST);
    assert_int_equal(claim(f, k, 1, &second), DEDUP_RUN);
    assert_true(second.fence > first.fence);
}

TEST_ON_EACH(runs_again_after_the_lease_ended_with_a_greater_fence) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail first, second;
    assert_int_equal(claim(f, k, 1, &first), DEDUP_RUN);
    let_expire(f, &k, LEASE_MS);
    assert_int_equal(renew(f, k, first.fence), DEDUP_LOST);
    assert_int_equal(claim(f, k, 1, &second), DEDUP_RUN);
    assert_true(second.fence > first.fence);
    assert_int_equal(renew(f, k, first.fence), DEDUP_LOST);
    assert_int_equal(release(f, k, first.fence), DEDUP_LOST);
    assert_int_equal(renew(f, k, second.fence), DEDUP_RUN);
}

TEST_ON_EACH(late_done_counts_whoever_holds_the_lease) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail first, second;
    assert_int_equal(claim(f, k, 1, &first), DEDUP_RUN);
    let_expire(f, &k, LEASE_MS);
    assert_int_equal(claim(f, k, 1, &second), DEDUP_RUN);
    assert_int_equal(done(f, k, 1), DEDUP_RUN); /* the first one's, after its lease */
    assert_int_equal(renew(f, k, second.fence), DEDUP_LOST);
    assert_int_equal(release(f, k, second.fence), DEDUP_LOST);
    assert_int_equal(claim(f, k, 1, &second), DEDUP_DUPLICATE);
    assert_int_equal(done(f, k, 1), DEDUP_RUN);
}

TEST_ON_EACH(renewal_extends_the_lease) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail d, other;
    assert_int_equal(claim(f, k, 1, &d), DEDUP_RUN);
    f->now_ms += LEASE_MS - SLACK_MS;
    if (f->redis) {
        char key[512];
        redis_key(&k, key, sizeof key);
        freeReplyObject(redisCommand(f->redis, "PEXPIRE %s %d", key, SLACK_MS));
    }
    assert_int_equal(claim(f, k, 1, &other), DEDUP_BUSY);
    assert_in_range(other.retry_ms, 1, SLACK_MS);
    assert_int_equal(renew(f, k, d.fence), DEDUP_RUN);
    assert_int_equal(claim(f, k, 1, &other), DEDUP_BUSY);
    assert_in_range(other.retry_ms, LEASE_MS - SLACK_MS, LEASE_MS);
}

TEST_ON_EACH(forgets_after_the_horizon) {
    struct dedup_key k = key_in(f, HF_STR("a"));
    struct dedup_detail d;
    assert_int_equal(done(f, k, 1), DEDUP_RUN);
    let_expire(f, &k, HORIZON_MS);
    size_t removed = 0;
    assert_int_equal(dedup_expire(f->dedup, f->now_ms, 1000, &removed, &d), DEDUP_RUN);
    assert_true(f->redis || removed >= 1);
    assert_int_equal(claim(f, k, 2, &d), DEDUP_RUN);
}

TEST_ON_EACH(expiry_keeps_what_is_still_remembered) {
    struct dedup_detail d;
    char id[16];
    for (int i = 0; i < 20; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        assert_int_equal(done(f, key_in(f, hf_str_of(id)), 1), DEDUP_RUN);
    }
    size_t removed = 0;
    f->now_ms += HORIZON_MS - 1; /* Redis goes by its own clock */
    for (int i = 0; i < 3; i++)
        assert_int_equal(dedup_expire(f->dedup, f->now_ms, 7, &removed, &d), DEDUP_RUN);
    for (int i = 0; i < 20; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        assert_int_equal(claim(f, key_in(f, hf_str_of(id)), 1, &d), DEDUP_DUPLICATE);
    }
}

TEST_ON_EACH(groups_origins_and_ids_do_not_mix) {
    static const char odd[] = "a}b {c:\0\xff\n";
    struct dedup_key keys[] = {key_in(f, HF_STR("x")), key_in(f, HF_STR("x")), key_in(f, HF_STR("x")),
                               key_in(f, HF_STR("x:y")), key_in(f, hf_str_make(odd, sizeof odd - 1))};
    char other_group[80];
    (void)snprintf(other_group, sizeof other_group, "%s.b", f->group);
    keys[1].group = hf_str_of(other_group);
    keys[2].origin = HF_STR("orders.placed");
    struct dedup_detail d;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        assert_int_equal(claim(f, keys[i], i, &d), DEDUP_RUN);
        assert_int_equal(done(f, keys[i], i), DEDUP_RUN);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_int_equal(claim(f, keys[i], i, &d), DEDUP_DUPLICATE);
}

TEST_ON_EACH(longest_key_is_accepted) {
    char id[DEDUP_ID_MAX], origin[DEDUP_ORIGIN_MAX], group[DEDUP_GROUP_MAX];
    memset(id, 'i', sizeof id);
    memset(origin, 'o', sizeof origin);
    memset(group, 'g', sizeof group);
    struct dedup_key k = {hf_str_make(group, sizeof group), hf_str_make(origin, sizeof origin),
                          hf_str_make(id, sizeof id)};
    struct dedup_detail d;
    assert_int_equal(dedup_key_check(&k), HF_OK);
    assert_int_equal(claim(f, k, 1, &d), DEDUP_RUN);
    assert_int_equal(release(f, k, d.fence), DEDUP_RUN);
}

/* ---- the store is the pure machine ---- */

static unsigned long long next_random(unsigned long long *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

/* A long walk of random steps on few keys, the store beside state.c. Leases are long here; that one runs out
 * is played by removing the key in Redis and moving the clock for the model. */
static void walk(struct fixture *f, struct dedup *store, unsigned long long seed) {
    enum { KEYS = 3, STEPS = 3000 };
    struct dedup_entry model[KEYS] = {{0}};
    uint64_t real_fence[KEYS] = {0}, model_fence[KEYS] = {0}, last = 0;
    int64_t retry, now = 5000000;
    struct dedup_detail d;
    print_message("  seed %llu\n", seed);
    for (int i = 0; i < STEPS; i++) {
        size_t at = next_random(&seed) % KEYS;
        char id[8];
        (void)snprintf(id, sizeof id, "k%zu", at);
        struct dedup_key k = key_in(f, hf_str_of(id));
        uint64_t print = next_random(&seed) % 8 ? 1 : 2;
        enum dedup_answer want = DEDUP_RUN, got = DEDUP_RUN;
        switch (next_random(&seed) % 8) {
        case 0:
        case 1:
        case 2:
            want = dedup_entry_claim(&model[at], print, last + 1, now, dedup_lease_ms(store), &retry);
            got = dedup_claim(store, &k, print, now, &d);
            if (want == DEDUP_RUN) model_fence[at] = ++last;
            if (got == DEDUP_RUN) real_fence[at] = d.fence;
            break;
        case 3:
            want = dedup_entry_renew(&model[at], model_fence[at], now, dedup_lease_ms(store));
            got = dedup_renew(store, &k, real_fence[at], now, &d);
            break;
        case 4:
        case 5:
            want = dedup_entry_release(&model[at], model_fence[at], now);
            got = dedup_release(store, &k, real_fence[at], now, &d);
            break;
        case 6:
            if (next_random(&seed) % 4) continue;
            dedup_entry_done(&model[at], print, now, HORIZON_MS);
            got = dedup_done(store, &k, print, now, &d);
            break;
        default:
            if (model[at].phase == DEDUP_ABSENT) continue;
            if (!f->redis) {
                now = model[at].until_ms > now ? model[at].until_ms : now;
                continue;
            }
            model[at] = (struct dedup_entry){0};
            char key[512];
            redis_key(&k, key, sizeof key);
            freeReplyObject(redisCommand(f->redis, "DEL %s", key));
            continue;
        }
        if (want != got) fail_msg("step %d: the machine says %d, the store %d (%s)", i, want, got, d.why);
    }
}

TEST_ON_EACH(store_and_pure_machine_never_differ) {
    struct dedup_options o = {.url = f->redis ? getenv("HF_TEST_REDIS") : "memory:",
                              .lease_ms = HF_HOURS(1),
                              .horizon_ms = HF_HOURS(2)};
    struct dedup *store;
    assert_int_equal(dedup_open(&o, &store), HF_OK);
    walk(f, store, 88172645463325252ull);
    dedup_close(store);
}

/* ---- threads ---- */

enum { THREADS = 8, MESSAGES = 40 };

struct crowd {
    struct fixture *f;
    int effects[MESSAGES]; /* atomically */
};

/* Every thread handles every message, as after a storm of redeliveries. */
static void *handle_all(void *arg) {
    struct crowd *c = arg;
    for (int i = 0; i < MESSAGES; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "crowd%d", i);
        struct dedup_key k = key_in(c->f, hf_str_of(id));
        struct dedup_detail d;
        for (;;) {
            enum dedup_answer a = dedup_claim(c->f->dedup, &k, 1, c->f->now_ms, &d);
            if (a == DEDUP_DUPLICATE) break;
            if (a != DEDUP_RUN) continue;
            __atomic_add_fetch(&c->effects[i], 1, __ATOMIC_RELAXED);
            if (dedup_done(c->f->dedup, &k, 1, c->f->now_ms, &d) == DEDUP_RUN) break;
        }
    }
    return NULL;
}

TEST_ON_EACH(many_threads_do_each_effect_once) {
    struct crowd c = {.f = f};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, handle_all, &c), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < MESSAGES; i++) assert_int_equal(c.effects[i], 1);
}

/* ---- keys, fingerprints, options ---- */

static void fingerprint_tells_key_value_and_null_apart(void **state) {
    (void)state;
    uint64_t all[] = {
        dedup_fingerprint(HF_STR("ab"), HF_STR("c")), dedup_fingerprint(HF_STR("a"), HF_STR("bc")),
        dedup_fingerprint(HF_STR(""), HF_STR("abc")), dedup_fingerprint((hf_str){NULL, 0}, HF_STR("abc")),
        dedup_fingerprint(HF_STR("abc"), (hf_str){NULL, 0})};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (size_t j = 0; j < i; j++) assert_true(all[i] != all[j]);
    /* What is in users' tables must mean the same tomorrow: first 8 bytes of SHA-256, computed by sha256sum.
     */
    assert_true(dedup_fingerprint(HF_STR("1042"), HF_STR("{}")) == UINT64_C(0x70648f41cf1c23ad));
}

static void key_rules_are_checked(void **state) {
    (void)state;
    static char longest[DEDUP_ID_MAX + 1];
    memset(longest, 'x', sizeof longest);
    struct dedup_key k = {HF_STR("g"), HF_STR("t"), HF_STR("i:d")};
    assert_int_equal(dedup_key_check(&k), HF_OK);
    k.id = hf_str_make(longest, sizeof longest);
    assert_int_equal(dedup_key_check(&k), HF_ELIMIT);
    k.id = HF_STR("");
    assert_int_equal(dedup_key_check(&k), HF_EINVAL);
    k = (struct dedup_key){HF_STR("g:h"), HF_STR("t"), HF_STR("i")};
    assert_int_equal(dedup_key_check(&k), HF_EINVAL);
    k = (struct dedup_key){HF_STR("g"), HF_STR("t:u"), HF_STR("i")};
    assert_int_equal(dedup_key_check(&k), HF_EINVAL);
}

static void urls_and_numbers_that_make_no_sense_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "oracle:x",
                                      "redis:",
                                      "redis://",
                                      "redis://:0x1",
                                      "redis://host:port",
                                      "redis://host:70000",
                                      "redis://host/db",
                                      "redis://secret@host",
                                      "sqlite:",
                                      "postgres:no equals sign"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dedup *d = NULL;
        print_message("  %s\n", bad[i]);
        assert_int_equal(dedup_open(&(struct dedup_options){.url = bad[i]}, &d), HF_EINVAL);
        assert_null(d);
    }
    struct dedup *d = NULL;
    assert_int_equal(dedup_open(&(struct dedup_options){.url = "memory:", .lease_ms = -1}, &d), HF_EINVAL);
    assert_int_equal(dedup_open(&(struct dedup_options){.url = "memory:", .connections = 2049}, &d),
                     HF_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_claim_runs_and_others_are_told_when_to_come_back),
        cmocka_unit_test(claim_after_done_is_a_duplicate),
        cmocka_unit_test(same_identity_with_another_content_is_a_conflict),
        cmocka_unit_test(release_frees_at_once_and_only_with_the_fence),
        cmocka_unit_test(runs_again_after_the_lease_ended_with_a_greater_fence),
        cmocka_unit_test(late_done_counts_whoever_holds_the_lease),
        cmocka_unit_test(renewal_extends_the_lease),
        cmocka_unit_test(forgets_after_the_horizon),
        cmocka_unit_test(expiry_keeps_what_is_still_remembered),
        cmocka_unit_test(groups_origins_and_ids_do_not_mix),
        cmocka_unit_test(longest_key_is_accepted),
        cmocka_unit_test(store_and_pure_machine_never_differ),
        cmocka_unit_test(many_threads_do_each_effect_once),
        cmocka_unit_test(fingerprint_tells_key_value_and_null_apart),
        cmocka_unit_test(key_rules_are_checked),
        cmocka_unit_test(urls_and_numbers_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
