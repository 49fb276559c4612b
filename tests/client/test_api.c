/* The C API beside a server: what cancel, move, replace, prepare and decide answer, and sends that do not
 * block. The server allows three undecided transactions (CMakeLists.txt). */
#include <holdfast/holdfast.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static hf_client *with_api, *without_api;

static int open_clients(void **state) {
    (void)state;
    const char *server = getenv("HF_TEST_SERVER");
    const hf_client_options o = {HF_CLIENT_DEFAULTS, .api = getenv("HF_TEST_API")};
    return hf_connect(server, &o, &with_api) || hf_connect(server, NULL, &without_api);
}

static int close_clients(void **state) {
    (void)state;
    hf_close(with_api);
    hf_close(without_api);
    return 0;
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum hf_err e_ = (call);                                                                             \
        if (e_) fail_msg(#call ": %d %s", (int)e_, hf_errmsg());                                             \
    } while (0)

static hf_message later(const char *topic, const char *id) {
    return (hf_message){
        .topic = topic, .value = HF_STR("v"), .id = id, .delay_ms = HF_MINUTES(30), .message_id = id};
}

static hf_outcome cancelled(hf_client *c, const char *topic, const char *id) {
    hf_outcome o = HF_OUTCOME_UNKNOWN;
    OK(hf_cancel(c, topic, id, &o));
    return o;
}

static hf_outcome moved(const char *topic, const char *id, int64_t due_ms) {
    hf_outcome o = HF_OUTCOME_UNKNOWN;
    OK(hf_move(with_api, topic, id, due_ms, &o));
    return o;
}

static hf_outcome replaced(hf_client *c, const hf_message *m) {
    hf_outcome o = HF_OUTCOME_UNKNOWN;
    OK(hf_replace(c, m, &o));
    return o;
}

/* Until the message scheduled as (topic, id) has reached its topic. */
static void wait_delivered(const char *topic, const char *id) {
    enum { TRIES = 3000 };
    for (int i = 0; i < TRIES; i++) {
        if (moved(topic, id, now_ms()) == HF_OUTCOME_DELIVERED) return;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    fail_msg("%s/%s is not delivered", topic, id);
}

static void a_cancel_answers_what_it_met(void **state) {
    (void)state;
    const hf_message m = later("cancelled", "order 1/ä");
    OK(hf_send(with_api, &m, NULL));
    assert_int_equal(cancelled(with_api, "cancelled", m.id), HF_OUTCOME_CANCELLED);
    assert_int_equal(cancelled(with_api, "cancelled", m.id), HF_OUTCOME_CANCELLED); /* the same again */
    assert_int_equal(cancelled(with_api, "cancelled", "nobody"), HF_OUTCOME_UNKNOWN);
    assert_int_equal(cancelled(without_api, "cancelled", "nobody"), HF_OUTCOME_ACCEPTED);
    hf_message soon = later("cancelled", "soon");
    soon.delay_ms = 1;
    OK(hf_send(with_api, &soon, NULL));
    wait_delivered("cancelled", "soon");
    assert_int_equal(cancelled(with_api, "cancelled", "soon"), HF_OUTCOME_DELIVERED);
}

static void a_move_answers_what_it_met(void **state) {
    (void)state;
    const hf_message m = later("moved", "1");
    hf_outcome o = HF_OUTCOME_KEPT;
    OK(hf_send(with_api, &m, NULL));
    assert_int_equal(moved("moved", "1", now_ms() + HF_MINUTES(5)), HF_OUTCOME_MOVED);
    assert_int_equal(moved("moved", "2", now_ms()), HF_OUTCOME_UNKNOWN);
    wait_delivered("moved", "1");
    assert_int_equal(hf_move(without_api, "moved", "1", now_ms(), &o), HF_EUNSUPPORTED);
    assert_int_equal(o, HF_OUTCOME_KEPT);
    assert_int_equal(hf_move(with_api, "moved", "", now_ms(), &o), HF_EINVAL);
}

static void a_replace_answers_what_it_met(void **state) {
    (void)state;
    hf_message m = later("replaced", "1");
    assert_int_equal(replaced(with_api, &m), HF_OUTCOME_SCHEDULED);
    assert_int_equal(replaced(with_api, &m), HF_OUTCOME_REPLACED);
    m.on_conflict = HF_CONFLICT_KEEP;
    assert_int_equal(replaced(with_api, &m), HF_OUTCOME_KEPT);
    m.on_conflict = HF_CONFLICT_ONCE;
    assert_int_equal(replaced(with_api, &m), HF_OUTCOME_KEPT);
    assert_int_equal(cancelled(with_api, "replaced", "1"), HF_OUTCOME_CANCELLED);
    assert_int_equal(replaced(with_api, &m), HF_OUTCOME_FINISHED);
    m.on_conflict = HF_CONFLICT_REPLACE;
    assert_int_equal(replaced(with_api, &m), HF_OUTCOME_SCHEDULED);
    assert_int_equal(replaced(without_api, &m), HF_OUTCOME_ACCEPTED);
    m.id = NULL;
    hf_outcome o;
    assert_int_equal(hf_replace(with_api, &m, &o), HF_EINVAL);
}

static void all_that_a_filter_finds_is_moved_and_cancelled(void **state) {
    (void)state;
    char id[16];
    const hf_filter f = {.topic = "all", .id_prefix = "order-"};
    hf_sums sums = {0};
    for (int i = 0; i < 20; i++) {
        (void)snprintf(id, sizeof id, i < 15 ? "order-%d" : "other-%d", i);
        const hf_message m = later("all", id);
        OK(hf_send(with_api, &m, NULL));
    }
    OK(hf_move_all(with_api, &f, HF_MINUTES(10), &sums));
    assert_true(sums.done == 15 && sums.changed == 0 && sums.next[0] == 0);
    sums = (hf_sums){0};
    OK(hf_cancel_all(with_api, &f, &sums));
    assert_true(sums.done == 15 && sums.delivered == 0 && sums.without_id == 0);
    assert_int_equal(cancelled(with_api, "all", "other-19"), HF_OUTCOME_CANCELLED);
    assert_int_equal(hf_cancel_all(without_api, &f, &sums), HF_EUNSUPPORTED);
    assert_int_equal(hf_cancel_all(with_api, &(hf_filter){.id_prefix = "a"}, &sums), HF_EINVAL);
}

/* ---- transactions ---- */

static hf_producer *producer(hf_client *c) {
    hf_producer *p;
    OK(hf_producer_open(c, "api", NULL, NULL, &p));
    return p;
}

static const hf_message half = {.topic = "halves", .value = HF_STR("half")};

static void a_decision_answers_what_it_met(void **state) {
    (void)state;
    hf_producer *p = producer(with_api);
    OK(hf_prepare(p, "a", &half, 1));
    OK(hf_prepare(p, "a", &half, 1)); /* the same again is one message */
    OK(hf_decide(p, "a", HF_COMMIT));
    OK(hf_decide(p, "a", HF_COMMIT));
    assert_int_equal(hf_decide(p, "a", HF_ROLLBACK), HF_EDECIDED);
    assert_int_equal(hf_decide(p, "nobody", HF_COMMIT), HF_ENOTFOUND);
    assert_int_equal(hf_decide(p, "a", HF_UNKNOWN), HF_EAGAIN);
    hf_producer_close(p);
}

static void a_prepare_after_the_decision_says_so(void **state) {
    (void)state;
    hf_producer *p = producer(with_api);
    OK(hf_prepare(p, "late/1", &half, 1));
    OK(hf_decide(p, "late/1", HF_ROLLBACK));
    assert_int_equal(hf_prepare(p, "late/1", &half, 1), HF_EDECIDED);
    assert_non_null(strstr(hf_errmsg(), "rolled back"));
    hf_producer_close(p);
}

static hf_decision count_and_commit(const char *id, void *arg) {
    (void)id;
    ++*(int *)arg;
    return HF_COMMIT;
}

static void beyond_a_limit_the_local_transaction_does_not_run(void **state) {
    (void)state;
    enum { MESSAGES = 5, BYTES = 900000 };
    hf_producer *p = producer(with_api), *blind = producer(without_api);
    char *large = malloc(BYTES);
    hf_message messages[MESSAGES];
    int ran = 0;
    assert_non_null(large);
    memset(large, 'x', BYTES);
    for (int i = 0; i < MESSAGES; i++) messages[i] = (hf_message){.topic = "halves", .value = {large, BYTES}};
    assert_int_equal(hf_transact(p, "large", messages, MESSAGES, count_and_commit, &ran), HF_ELIMIT);
    assert_non_null(strstr(hf_errmsg(), "beyond a limit"));
    for (int i = 0; i < 3; i++) OK(hf_prepare(p, (const char *[]){"x", "y", "z"}[i], &half, 1));
    assert_int_equal(hf_transact(p, "fourth", &half, 1, count_and_commit, &ran), HF_ELIMIT);
    assert_int_equal(ran, 0);
    /* Who does not ask learns of it by the decision, if at all. */
    OK(hf_transact(blind, "fifth", &half, 1, count_and_commit, &ran));
    assert_int_equal(hf_decide(p, "fifth", HF_COMMIT), HF_EDECIDED);
    OK(hf_decide(p, "x", HF_COMMIT));
    OK(hf_transact(p, "sixth", &half, 1, count_and_commit, &ran));
    assert_int_equal(ran, 2);
    for (int i = 1; i < 3; i++) OK(hf_decide(p, (const char *[]){"x", "y", "z"}[i], HF_ROLLBACK));
    free(large);
    hf_producer_close(p);
    hf_producer_close(blind);
}

static void a_transaction_tried_again_after_its_decision_does_not_run_again(void **state) {
    (void)state;
    hf_producer *p = producer(with_api);
    int ran = 0;
    OK(hf_transact(p, "again", &half, 1, count_and_commit, &ran));
    OK(hf_transact(p, "again", &half, 1, count_and_commit, &ran));
    assert_int_equal(ran, 1);
    assert_int_equal(hf_prepare(p, "again", &half, 1), HF_EDECIDED);
    assert_non_null(strstr(hf_errmsg(), "committed"));
    OK(hf_prepare(p, "never", &half, 1));
    OK(hf_decide(p, "never", HF_ROLLBACK));
    assert_int_equal(hf_transact(p, "never", &half, 1, count_and_commit, &ran), HF_EDECIDED);
    assert_int_equal(ran, 1);
    hf_producer_close(p);
}

/* ---- sends that do not block ---- */

struct sent {
    int done, failed;
};

static void count_sent(enum hf_err e, const hf_receipt *r, void *arg) {
    struct sent *s = arg;
    if (e || strcmp(r->topic, "queued") != 0 || r->offset < 0)
        __atomic_add_fetch(&s->failed, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&s->done, 1, __ATOMIC_SEQ_CST);
}

static void a_full_queue_says_try_again_and_a_flush_makes_room(void **state) {
    (void)state;
    enum { ROOM = 10, WANTED = 1000 };
    const hf_client_options o = {HF_CLIENT_DEFAULTS, .queue_messages = ROOM, .linger_ms = 50};
    const hf_message m = {.topic = "queued", .value = HF_STR("v")};
    struct sent sent = {0, 0};
    hf_client *c;
    int full = 0;
    OK(hf_connect(getenv("HF_TEST_SERVER"), &o, &c));
    for (int queued = 0; queued < WANTED;) {
        enum hf_err e = hf_send_async(c, &m, count_sent, &sent);
        if (e == HF_EAGAIN) {
            full++;
            assert_non_null(strstr(hf_errmsg(), "hf_flush"));
            OK(hf_flush(c, -1));
        } else {
            OK(e);
            queued++;
        }
    }
    OK(hf_flush(c, HF_SECONDS(60)));
    assert_int_equal(sent.done, WANTED);
    assert_int_equal(sent.failed, 0);
    assert_true(full > 0);
    hf_close(c);
}

static void what_the_queue_will_never_have_room_for_is_too_large(void **state) {
    (void)state;
    enum { BYTES = 800000 };
    hf_client_options o = {HF_CLIENT_DEFAULTS, .queue_bytes = 1 << 19};
    hf_client *c;
    char *large = malloc(BYTES);
    assert_non_null(large);
    memset(large, 'x', BYTES);
    const hf_message m = {.topic = "sizes", .value = {large, BYTES}};
    OK(hf_connect(getenv("HF_TEST_SERVER"), &o, &c));
    assert_int_equal(hf_send(c, &m, NULL), HF_ELIMIT);
    assert_int_equal(hf_send_async(c, &m, NULL, NULL), HF_ELIMIT);
    const hf_message half_of_it = {.topic = "sizes", .value = {large, BYTES / 2}};
    OK(hf_send(c, &half_of_it, NULL));
    hf_close(c);
    o.queue_bytes = 1;
    OK(hf_connect(getenv("HF_TEST_SERVER"), &o, &c));
    hf_close(c);
    free(large);
}

static void a_send_that_nobody_watches_fails_its_flush(void **state) {
    (void)state;
    const hf_message wrong = {.topic = "queued", .value = HF_STR("v"), .partition = HF_PARTITION(77)};
    OK(hf_send(with_api, &(hf_message){.topic = "queued", .value = HF_STR("v")}, NULL));
    enum hf_err e = hf_send_async(with_api, &wrong, NULL, NULL);
    if (!e) e = hf_flush(with_api, -1);
    assert_int_equal(e, HF_ENOTFOUND);
    OK(hf_flush(with_api, -1)); /* told once */
}

static void *send_many(void *c) {
    for (int i = 0; i < 50; i++) OK(hf_send(c, &(hf_message){.topic = "queued", .value = HF_STR("v")}, NULL));
    return (void *)(uintptr_t)(*hf_errmsg() == 0);
}

static void a_client_serves_many_threads_and_each_has_its_own_error_text(void **state) {
    (void)state;
    pthread_t threads[4];
    assert_int_equal(hf_send(with_api, &(hf_message){.topic = "bad name"}, NULL), HF_EINVAL);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, send_many, with_api), 0);
    for (int i = 0; i < 4; i++) {
        void *clean;
        assert_int_equal(pthread_join(threads[i], &clean), 0);
        assert_non_null(clean);
    }
    assert_non_null(strstr(hf_errmsg(), "bad name"));
}

static void options_without_their_size_are_refused(void **state) {
    (void)state;
    hf_client *c = NULL;
    hf_worker *w = NULL;
    assert_int_equal(hf_connect("127.0.0.1:1", &(hf_client_options){.timeout_ms = 1}, &c), HF_EINVAL);
    assert_non_null(strstr(hf_errmsg(), "size"));
    assert_int_equal(hf_worker_open(&(hf_worker_options){.server = "127.0.0.1:1"}, &w), HF_EINVAL);
    assert_non_null(strstr(hf_errmsg(), "size"));
    assert_true(!c && !w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cancel_answers_what_it_met),
        cmocka_unit_test(a_move_answers_what_it_met),
        cmocka_unit_test(a_replace_answers_what_it_met),
        cmocka_unit_test(all_that_a_filter_finds_is_moved_and_cancelled),
        cmocka_unit_test(a_decision_answers_what_it_met),
        cmocka_unit_test(a_prepare_after_the_decision_says_so),
        cmocka_unit_test(beyond_a_limit_the_local_transaction_does_not_run),
        cmocka_unit_test(a_transaction_tried_again_after_its_decision_does_not_run_again),
        cmocka_unit_test(a_full_queue_says_try_again_and_a_flush_makes_room),
        cmocka_unit_test(what_the_queue_will_never_have_room_for_is_too_large),
        cmocka_unit_test(a_send_that_nobody_watches_fails_its_flush),
        cmocka_unit_test(a_client_serves_many_threads_and_each_has_its_own_error_text),
        cmocka_unit_test(options_without_their_size_are_refused),
    };
    return cmocka_run_group_tests(tests, open_clients, close_clients);
}
