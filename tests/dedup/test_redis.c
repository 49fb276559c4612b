/* What only Redis can do wrong: settings that forget, lost scripts, broken connections, no answer, a cluster.
 */
#include "dedup/dedup.h"

#include "base/bytes.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static const struct dedup_key key = {{"g", 1}, {"t", 1}, {"id", 2}};

struct lines {
    char text[2000];
};

static void note(void *arg, const char *event, const char *text) {
    struct lines *l = arg;
    size_t n = strlen(l->text);
    (void)snprintf(l->text + n, sizeof l->text - n, "%s: %s\n", event, text);
}

static struct dedup *open_for(const char *url, int64_t timeout_ms, struct lines *l) {
    struct dedup *d;
    struct dedup_options o = {.url = url,
                              .connect_timeout_ms = timeout_ms,
                              .command_timeout_ms = timeout_ms,
                              .connections = 3,
                              .log = l ? note : NULL,
                              .log_arg = l};
    assert_int_equal(dedup_open(&o, &d), HF_OK);
    return d;
}

static struct dedup *open_at(const char *url, struct lines *l) {
    return open_for(url, 30000, l);
}

static void redis_do(const char *command) {
    redisContext *c = redisConnect("127.0.0.1", atoi(strrchr(getenv("HF_TEST_REDIS"), ':') + 1));
    assert_int_equal(c->err, 0);
    redisReply *r = redisCommand(c, command);
    assert_non_null(r);
    if (r->type == REDIS_REPLY_ERROR) fail_msg("%s: %s", command, r->str);
    freeReplyObject(r);
    redisFree(c);
}

static int clean(void **state) {
    (void)state;
    redis_do("FLUSHALL");
    return 0;
}

static void start_warns_of_settings_that_forget(void **state) {
    (void)state;
    struct lines l = {""};
    dedup_close(open_at(getenv("HF_TEST_REDIS"), &l));
    assert_string_equal(l.text, "");
    redis_do("CONFIG SET maxmemory-policy allkeys-lru");
    redis_do("CONFIG SET appendonly no");
    dedup_close(open_at(getenv("HF_TEST_REDIS"), &l));
    redis_do("CONFIG SET maxmemory-policy noeviction");
    redis_do("CONFIG SET appendonly yes");
    assert_non_null(strstr(l.text, "dedup_redis_evicts"));
    assert_non_null(strstr(l.text, "dedup_redis_no_aof"));
}

static void goes_on_after_the_scripts_were_flushed(void **state) {
    (void)state;
    struct dedup *d = open_at(getenv("HF_TEST_REDIS"), NULL);
    struct dedup_detail detail, other;
    assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_RUN);
    redis_do("SCRIPT FLUSH");
    assert_int_equal(dedup_renew(d, &key, detail.fence, 0, &other), DEDUP_RUN);
    assert_int_equal(dedup_claim(d, &key, 1, 0, &other), DEDUP_BUSY);
    dedup_close(d);
}

static void goes_on_after_its_connections_were_cut(void **state) {
    (void)state;
    struct dedup *d = open_at(getenv("HF_TEST_REDIS"), NULL);
    struct dedup_detail detail;
    for (int i = 0; i < 3; i++) {
        redis_do("CLIENT KILL TYPE normal SKIPME yes");
        assert_int_equal(dedup_done(d, &key, 1, 0, &detail), DEDUP_RUN);
        assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_DUPLICATE);
    }
    dedup_close(d);
}

static void value_of_somebody_else_runs_nothing(void **state) {
    (void)state;
    redis_do("SET {hf:g:t:id} hello");
    struct dedup *d = open_at(getenv("HF_TEST_REDIS"), NULL);
    struct dedup_detail detail;
    assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_UNAVAILABLE);
    assert_non_null(strstr(detail.why, "FOREIGN"));
    dedup_close(d);
}

static void full_redis_runs_nothing(void **state) {
    (void)state;
    struct dedup *d = open_at(getenv("HF_TEST_REDIS"), NULL);
    struct dedup_detail detail;
    redis_do("CONFIG SET maxmemory 1");
    enum dedup_answer a = dedup_claim(d, &key, 1, 0, &detail);
    redis_do("CONFIG SET maxmemory 0");
    assert_int_equal(a, DEDUP_UNAVAILABLE);
    assert_non_null(strstr(detail.why, "OOM"));
    assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_RUN);
    dedup_close(d);
}

/* ---- servers that are not what they should be ---- */

struct fake {
    int listener;
    const char *answer; /* to everything; NULL: never */
    pthread_t thread;
    char url[64];
};

static void *serve(void *arg) {
    struct fake *f = arg;
    for (int c; (c = accept(f->listener, NULL, NULL)) >= 0; close(c)) {
        char in[4096];
        while (read(c, in, sizeof in) > 0)
            if (f->answer && write(c, f->answer, strlen(f->answer)) < 0) break;
    }
    return NULL;
}

static void fake_start(struct fake *f, const char *answer) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    f->answer = answer;
    f->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(f->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(f->listener, 8), 0);
    assert_int_equal(getsockname(f->listener, (struct sockaddr *)&a, &n), 0);
    (void)snprintf(f->url, sizeof f->url, "redis://127.0.0.1:%d", ntohs(a.sin_port));
    assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

static void fake_stop(struct fake *f) {
    shutdown(f->listener, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    close(f->listener);
}

static void cluster_gets_a_clear_error(void **state) {
    (void)state;
    struct fake f;
    fake_start(&f, "-MOVED 3999 127.0.0.1:6381\r\n");
    struct dedup *d = open_at(f.url, NULL);
    struct dedup_detail detail;
    assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_UNAVAILABLE);
    assert_non_null(strstr(detail.why, "one node of a cluster"));
    dedup_close(d);
    fake_stop(&f);
}

static void server_that_never_answers_is_unavailable_in_time(void **state) {
    (void)state;
    struct fake f;
    fake_start(&f, NULL);
    struct lines l = {""};
    struct dedup *d = open_for(f.url, 300, &l);
    struct dedup_detail detail;
    assert_non_null(strstr(l.text, "dedup_unavailable"));
    assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_UNAVAILABLE);
    assert_true(detail.why[0]);
    dedup_close(d);
    fake_stop(&f);
}

static void answers_of_another_form_run_nothing(void **state) {
    (void)state;
    static const char *const odd[] = {":1\r\n",
                                      "*0\r\n",
                                      "*2\r\n$3\r\nrun\r\n:5\r\n",
                                      "*2\r\n$4\r\nwhat\r\n$1\r\n5\r\n",
                                      "*2\r\n$3\r\nrun\r\n$1\r\nx\r\n",
                                      "garbage\r\n"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        struct fake f;
        fake_start(&f, odd[i]);
        struct dedup *d = open_at(f.url, NULL);
        struct dedup_detail detail;
        assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_UNAVAILABLE);
        dedup_close(d);
        fake_stop(&f);
    }
}

static void nobody_there_is_unavailable_until_somebody_is(void **state) {
    (void)state;
    struct fake f;
    fake_start(&f, "+OK\r\n");
    fake_stop(&f); /* its port refuses now */
    struct lines l = {""};
    struct dedup *d = open_at(f.url, &l);
    struct dedup_detail detail;
    assert_non_null(strstr(l.text, "dedup_unavailable"));
    assert_int_equal(dedup_claim(d, &key, 1, 0, &detail), DEDUP_UNAVAILABLE);
    assert_int_equal(dedup_done(d, &key, 1, 0, &detail), DEDUP_UNAVAILABLE);
    assert_non_null(strstr(detail.why, "refused"));
    dedup_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(start_warns_of_settings_that_forget, clean),
        cmocka_unit_test_setup(goes_on_after_the_scripts_were_flushed, clean),
        cmocka_unit_test_setup(goes_on_after_its_connections_were_cut, clean),
        cmocka_unit_test_setup(value_of_somebody_else_runs_nothing, clean),
        cmocka_unit_test_setup(full_redis_runs_nothing, clean),
        cmocka_unit_test_setup(cluster_gets_a_clear_error, clean),
        cmocka_unit_test_setup(server_that_never_answers_is_unavailable_in_time, clean),
        cmocka_unit_test_setup(answers_of_another_form_run_nothing, clean),
        cmocka_unit_test_setup(nobody_there_is_unavailable_until_somebody_is, clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
