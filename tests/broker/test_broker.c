/* The loop, with handlers of the test's own: order, bounds, clients that leave, ranges of files. */
#include "fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void produce_requests_run_side_by_side_and_are_answered_in_order(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    for (int i = 0; i < 3; i++) request(fd, KAFKA_API_produce, 3, i, &produce, 1);
    ask_metadata(fd, 3);
    await(&f->started, 3);
    answer(2);
    answer(0);
    assert_int_equal(f->handled, 0); /* metadata waits for all before it */
    assert_int_equal(read_answer(fd), 0);
    answer(1);
    for (int i = 1; i <= 3; i++) assert_int_equal(read_answer(fd), i);
    close(fd);
    stop();
}

static void other_requests_wait_for_those_before_them(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    request(fd, KAFKA_API_fetch, 4, 1, &fetch, 1);
    request(fd, KAFKA_API_produce, 3, 2, &produce, 1);
    await(&f->started, 1);
    answer(0);
    assert_int_equal(read_answer(fd), 1);
    await(&f->started, 2);
    close(fd);
    await(&f->gone, 1);
    stop();
}

static void a_range_of_a_file_reaches_the_client_and_its_pin_is_released(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    request(fd, KAFKA_API_fetch, 4, 7, &fetch, 1);
    await(&f->started, 1);
    answer(0);
    assert_int_equal(read_answer(fd), 7);
    assert_memory_equal(f->body + f->body_n - 5, "34567", 5);
    await(&f->released, 1);
    close(fd);
    stop();
}

static void a_large_range_reaches_a_slow_client_whole(void **state) {
    (void)state;
    start((struct broker_options){0});
    f->range = 32 << 20;
    assert_int_equal(ftruncate(f->file, 40 << 20), 0);
    assert_int_equal(pwrite(f->file, "end", 3, f->range), 3);
    int fd = connect_kafka();
    request(fd, KAFKA_API_fetch, 4, 7, &fetch, 1);
    await(&f->started, 1);
    answer(0);
    (void)poll(NULL, 0, 100); /* the sockets' buffers are full */
    assert_int_equal(f->released, 0);
    assert_int_equal(read_answer(fd), 7);
    assert_memory_equal(f->body + f->body_n - 3, "end", 3);
    await(&f->released, 1);
    close(fd);
    stop();
}

static void a_range_for_a_client_that_left_is_released_too(void **state) {
    (void)state;
    start((struct broker_options){0});
    f->heedless = true;
    int fd = connect_kafka();
    request(fd, KAFKA_API_fetch, 4, 7, &fetch, 1);
    await(&f->started, 1);
    close(fd);
    answer(0);
    await(&f->released, 1);
    AWAIT(stats().connections == 0);
    stop();
}

static void a_client_that_leaves_ends_its_wait(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    request(fd, KAFKA_API_fetch, 4, 1, &fetch, 1);
    await(&f->started, 1);
    close(fd);
    await(&f->gone, 1);
    /* Also while nothing is read because further requests wait. */
    fd = connect_kafka();
    for (int i = 0; i < 5; i++) request(fd, KAFKA_API_fetch, 4, i, &fetch, 1);
    await(&f->started, 2);
    close(fd);
    AWAIT(stats().connections == 0);
    stop();
}

static void a_reset_ends_the_wait_while_nothing_is_read(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    for (int i = 0; i < 5; i++) request(fd, KAFKA_API_fetch, 4, i, &fetch, 1);
    await(&f->started, 1);
    struct linger reset = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    close(fd);
    AWAIT(stats().connections == 0);
    stop();
}

static void what_was_sent_before_leaving_is_still_worked_on(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    for (int i = 0; i < 500; i++) ask_metadata(fd, i);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    for (int i = 0; i < 500; i++) assert_int_equal(read_answer(fd), i);
    assert_closed(fd);
    stop();
}

/* Request and end of the stream are one event, as often as not. */
static void a_request_and_goodbye_at_once_are_answered_and_the_connection_ends(void **state) {
    (void)state;
    start((struct broker_options){0});
    for (int i = 0; i < 200; i++) {
        int fd = connect_kafka();
        ask_metadata(fd, i);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_int_equal(read_answer(fd), i);
        assert_closed(fd);
    }
    stop();
}

static void malformed_frames_close_their_connection_alone(void **state) {
    (void)state;
    start((struct broker_options){0});
    int other = connect_kafka();
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"\xff\xff\xff\xff", 4},                          /* negative length */
        {"\0\0\0\0", 4},                                  /* none */
        {"\x7f\xff\xff\xff", 4},                          /* huge */
        {"\0\0\0\4\0\3\0\1", 8},                          /* no correlation id */
        {"\0\0\0\x0a\0\x63\0\0\0\0\0\1\0\0", 14},         /* unknown API */
        {"\0\0\0\x0a\0\3\0\x63\0\0\0\1\0\0", 14},         /* unknown version */
        {"\0\0\0\x0e\0\3\0\1\0\0\0\1\0\0\x7f\0\0\0", 18}, /* huge array */
        {"\0\0\0\x0f\0\3\0\1\0\0\0\1\0\0\0\0\0\0\1", 19}, /* a byte too many */
        {"\0\0\0\x0a\0\3\0\1\0\0\0\1\x7f\xff", 14},       /* client id past the end */
    };
    uint64_t count = sizeof(bad) / sizeof(bad[0]);
    for (size_t i = 0; i < count; i++) {
        int fd = connect_kafka();
        send_all(fd, bad[i].bytes, bad[i].n);
        assert_closed(fd);
    }
    ask_metadata(other, 5);
    assert_int_equal(read_answer(other), 5);
    AWAIT(stats().frames_refused == count);
    close(other);
    stop();
}

static void an_unknown_version_of_api_versions_is_answered_in_version_0(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    static const char frame[] = "\0\0\0\x0c\0\x12\0\x63\0\0\0\x2a\1\2\3\4";
    send_all(fd, frame, sizeof(frame) - 1);
    assert_int_equal(read_answer(fd), 42);
    assert_int_equal(hf_get_be16(f->body), 35);
    struct hf_reader r = hf_reader_of(f->body, f->body_n);
    struct hf_arena a;
    hf_arena_init(&a, 1 << 20);
    void *out = NULL;
    assert_int_equal(kafka_decode(&a, kafka_api_of(KAFKA_API_api_versions)->response(), 0, false, &r, &out),
                     HF_OK);
    const struct kafka_api_versions_response *v = out;
    assert_int_equal(v->api_keys_count, 4); /* what has a handler, and itself */
    hf_arena_fini(&a);
    close(fd);
    stop();
}

static void unread_answers_hold_back_further_requests(void **state) {
    (void)state;
    start((struct broker_options){.answers_max = 100 * 1000});
    f->big = 30000;
    enum { COUNT = 2000 };
    int fd = connect_kafka();
    for (int i = 0; i < COUNT; i++) ask_metadata(fd, i); /* 60 MB of answers; sockets hold a few */
    int before = -1;
    AWAIT(f->handled > 0);
    while (before != f->handled) {
        before = f->handled;
        (void)poll(NULL, 0, 100);
    }
    assert_in_range(before, 1, COUNT - 1);
    for (int i = 0; i < COUNT; i++) assert_int_equal(read_answer(fd), i);
    assert_int_equal(f->handled, COUNT);
    close(fd);
    stop();
}

static void large_frames_wait_for_their_turn(void **state) {
    (void)state;
    enum { CLIENTS = 6, SIZE = 3 << 20 };
    start((struct broker_options){.frames_max = 7 << 20});
    int fds[CLIENTS];
    uint8_t *records = calloc(1, SIZE);
    struct kafka_produce_request_partition p = {.records.bytes = hf_str_make(records, SIZE)};
    struct kafka_produce_request_topic t = {.name = HF_STR("t"), .partitions = &p, .partitions_count = 1};
    struct kafka_produce_request q = {.acks = -1, .topics = &t, .topics_count = 1};
    struct hf_buf b;
    hf_buf_init(&b, SIZE * 2);
    hf_buf_put(&b, "\0\0\0\0\0\0\0\3\0\0\0\0\0\0", 14);
    kafka_encode(&b, NULL, kafka_api_of(KAFKA_API_produce)->request(), 3, false, &q);
    hf_put_be32(b.p, (uint32_t)b.n - 4);
    size_t sent[CLIENTS] = {0};
    int answered = 0, answers[CLIENTS] = {0};
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = connect_kafka();
        assert_int_equal(fcntl(fds[i], F_SETFL, O_NONBLOCK), 0);
    }
    /* All send at once; each request that got through is answered, which makes room for the next. */
    for (int rounds = 0; answered < CLIENTS && rounds < DEADLINE_MS; rounds++) {
        for (int i = 0; i < CLIENTS; i++) {
            ssize_t n = sent[i] < b.n ? send(fds[i], b.p + sent[i], b.n - sent[i], MSG_NOSIGNAL) : 0;
            if (n > 0) sent[i] += (size_t)n;
            char byte[64];
            if (!answers[i] && recv(fds[i], byte, sizeof(byte), 0) > 0) {
                answers[i] = 1;
                answered++;
            }
        }
        assert_true(stats().frame_bytes <= 7 << 20);
        pthread_mutex_lock(&f->lock);
        int next = -1;
        for (int i = 0; i < f->kept_count; i++)
            if (f->kept[i]) next = i;
        pthread_mutex_unlock(&f->lock);
        if (next >= 0)
            answer(next);
        else
            (void)poll(NULL, 0, 1);
    }
    assert_int_equal(answered, CLIENTS);
    for (int i = 0; i < CLIENTS; i++) close(fds[i]);
    hf_buf_fini(&b);
    free(records);
    stop();
}

static void connections_past_the_limit_are_closed_at_once(void **state) {
    (void)state;
    start((struct broker_options){.connections_max = 2});
    int a = connect_kafka(), b = connect_kafka();
    AWAIT(stats().connections == 2);
    assert_closed(connect_kafka());
    close(a);
    AWAIT(stats().connections == 1);
    a = connect_kafka();
    ask_metadata(a, 1);
    assert_int_equal(read_answer(a), 1);
    close(a);
    close(b);
    stop();
}

static void idle_and_stalled_connections_are_closed(void **state) {
    (void)state;
    start((struct broker_options){.idle_ms = 1500, .stall_ms = 500});
    int idle = connect_kafka(), stalled = connect_kafka(), waiting = connect_kafka();
    send_all(stalled, "\0\0\1\0ab", 6);
    request(waiting, KAFKA_API_fetch, 4, 1, &fetch, 1);
    assert_closed(stalled);
    assert_closed(idle);
    await(&f->started, 1);
    answer(0);
    assert_int_equal(read_answer(waiting), 1);
    close(waiting);
    stop();
}

static void a_stop_waits_for_producers(void **state) {
    (void)state;
    start((struct broker_options){0});
    int fd = connect_kafka();
    request(fd, KAFKA_API_produce, 3, 9, &produce, 1);
    await(&f->started, 1);
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    wake();
    answer(0);
    assert_int_equal(read_answer(fd), 9);
    close(fd);
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(produce_requests_run_side_by_side_and_are_answered_in_order),
        cmocka_unit_test(other_requests_wait_for_those_before_them),
        cmocka_unit_test(a_range_of_a_file_reaches_the_client_and_its_pin_is_released),
        cmocka_unit_test(a_large_range_reaches_a_slow_client_whole),
        cmocka_unit_test(a_range_for_a_client_that_left_is_released_too),
        cmocka_unit_test(a_client_that_leaves_ends_its_wait),
        cmocka_unit_test(a_reset_ends_the_wait_while_nothing_is_read),
        cmocka_unit_test(what_was_sent_before_leaving_is_still_worked_on),
        cmocka_unit_test(a_request_and_goodbye_at_once_are_answered_and_the_connection_ends),
        cmocka_unit_test(malformed_frames_close_their_connection_alone),
        cmocka_unit_test(an_unknown_version_of_api_versions_is_answered_in_version_0),
        cmocka_unit_test(unread_answers_hold_back_further_requests),
        cmocka_unit_test(large_frames_wait_for_their_turn),
        cmocka_unit_test(connections_past_the_limit_are_closed_at_once),
        cmocka_unit_test(idle_and_stalled_connections_are_closed),
        cmocka_unit_test(a_stop_waits_for_producers),
    };
    return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
