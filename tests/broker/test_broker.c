/* The loop, with handlers of the test's own: order, bounds, clients that leave, ranges of files, HTTP.
 *
 * The broker runs in a thread; the test is its client on blocking sockets. Requests that a handler keeps are
 * put on a list; the test orders the loop's thread to answer them through wake_fd and step. */
#include "broker/broker.h"
#include "env/posix.h"

#include <setjmp.h>
#include <stdarg.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { KEPT_MAX = 4096, DEADLINE_MS = 60000 };

struct fixture {
    struct hf_env *env;
    struct broker *broker;
    pthread_t thread;
    pthread_mutex_t lock;
    struct broker_request
        *kept[KEPT_MAX]; /* by produce and fetch, in the order of their start; NULL: answered */
    int kept_count;
    atomic_int started, gone, released, handled;
    int wake;
    int order; /* under lock: which of kept to answer next; -1 none */
    bool stop;
    bool heedless; /* handlers take no notice of clients that leave */
    struct broker_stats stats;
    int file;
    int big;   /* bytes of each metadata answer */
    int range; /* bytes of each fetch answer's range */
};

static struct fixture *f;

/* ---- the loop's thread ---- */

static void on_gone(struct broker_request *rq) {
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < f->kept_count; i++)
        if (f->kept[i] == rq) f->kept[i] = NULL;
    pthread_mutex_unlock(&f->lock);
    f->gone++;
    broker_answer_nothing(rq);
}

static void keep(void *ctx, struct broker_request *rq) {
    (void)ctx;
    if (rq->gone) {
        broker_answer_nothing(rq);
        return;
    }
    pthread_mutex_lock(&f->lock);
    f->kept[f->kept_count++] = rq;
    rq->on_gone = f->heedless ? NULL : on_gone;
    pthread_mutex_unlock(&f->lock);
    f->started++;
}

static void on_metadata(void *ctx, struct broker_request *rq) {
    (void)ctx;
    struct kafka_metadata_response *a = rq->answer;
    a->topics = hf_arena_alloc(&rq->arena, sizeof(*a->topics));
    char *name = hf_arena_alloc(&rq->arena, (size_t)f->big);
    a->topics->name = hf_str_make(name, (size_t)f->big);
    a->topics_count = 1;
    f->handled++;
    broker_answer(rq);
}

static void release(void *owner) {
    (void)owner;
    f->released++;
}

static void answer_kept(int i) {
    struct broker_request *rq = f->kept[i];
    f->kept[i] = NULL;
    assert_non_null(rq);
    rq->on_gone = NULL;
    if (rq->api->key == KAFKA_API_fetch) {
        struct kafka_fetch_response *a = rq->answer;
        struct kafka_range *range = broker_range(rq);
        *range =
            (struct kafka_range){.fd = f->file, .offset = 3, .size = (size_t)f->range, .release = release};
        a->topics = kafka_blank_array(&rq->arena, rq->api->response()->fields[3].shape(), 1);
        a->topics_count = 1;
        a->topics->topic = HF_STR("t");
        a->topics->partitions = hf_arena_alloc(&rq->arena, sizeof(*a->topics->partitions));
        a->topics->partitions_count = 1;
        a->topics->partitions->records.range = range;
    }
    broker_answer(rq);
}

static int64_t step(void *ctx) {
    (void)ctx;
    uint64_t n;
    if (read(f->wake, &n, sizeof(n)) < 0) n = 0;
    pthread_mutex_lock(&f->lock);
    if (f->order >= 0) answer_kept(f->order);
    f->order = -1;
    if (f->stop) broker_stop(f->broker);
    broker_stats_get(f->broker, &f->stats);
    pthread_mutex_unlock(&f->lock);
    return 20000;
}

static void hello(void *ctx, struct broker_http *rq) {
    (void)ctx;
    struct hf_buf out;
    hf_buf_init(&out, 1000);
    hf_buf_printf(&out, "rest=%.*s q=%.*s body=%zu", (int)broker_http_rest(rq).n, broker_http_rest(rq).p,
                  (int)broker_http_query(rq, "q").n, broker_http_query(rq, "q").p, broker_http_body(rq).n);
    broker_http_reply(rq, 200, "text/plain", hf_buf_view(&out));
    hf_buf_fini(&out);
}

static void *run(void *arg) {
    (void)arg;
    assert_int_equal(broker_run(f->broker), HF_OK);
    return NULL;
}

/* ---- set up ---- */

static char root[200];

static void start(struct broker_options o) {
    static const struct broker_handler handlers[] = {{KAFKA_API_metadata, on_metadata, NULL},
                                                     {KAFKA_API_produce, keep, NULL},
                                                     {KAFKA_API_fetch, keep, NULL}};
    static const struct broker_route routes[] = {{"GET", "/hello/*", hello, NULL},
                                                 {"POST", "/hello/*", hello, NULL}};
    f = calloc(1, sizeof(*f));
    pthread_mutex_init(&f->lock, NULL);
    f->order = -1;
    f->big = 10;
    f->range = 5;
    f->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    f->file = open(root, O_RDWR | O_TMPFILE, 0600);
    assert_int_equal(write(f->file, "0123456789", 10), 10);
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = root}, &f->env), HF_OK);
    o.env = f->env;
    o.listen = "127.0.0.1:0";
    o.http = "127.0.0.1:0";
    o.handlers = handlers;
    o.handler_count = 3;
    o.routes = routes;
    o.route_count = 2;
    o.step = step;
    o.wake_fd = f->wake;
    assert_int_equal(broker_open(&o, &f->broker), HF_OK);
    assert_int_equal(pthread_create(&f->thread, NULL, run, NULL), 0);
}

static void wake(void) {
    assert_int_equal(write(f->wake, &(uint64_t){1}, 8), 8);
}

static void stop(void) {
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    wake();
    pthread_join(f->thread, NULL);
    broker_close(f->broker);
    hf_env_close(f->env);
    close(f->wake);
    close(f->file);
    pthread_mutex_destroy(&f->lock);
    free(f);
    f = NULL;
}

static void answer(int i) {
    pthread_mutex_lock(&f->lock);
    assert_int_equal(f->order, -1);
    f->order = i;
    pthread_mutex_unlock(&f->lock);
    wake();
    for (bool done = false; !done;) {
        pthread_mutex_lock(&f->lock);
        done = f->order == -1;
        pthread_mutex_unlock(&f->lock);
        (void)poll(NULL, 0, 1);
    }
}

static void await(atomic_int *counter, int value) {
    for (int i = 0; i < DEADLINE_MS && *counter != value; i++) (void)poll(NULL, 0, 1);
    assert_int_equal(*counter, value);
}

static struct broker_stats stats(void) {
    pthread_mutex_lock(&f->lock);
    struct broker_stats s = f->stats;
    pthread_mutex_unlock(&f->lock);
    return s;
}

#define AWAIT(condition)                                                                                     \
    do {                                                                                                     \
        for (int i_ = 0; i_ < DEADLINE_MS && !(condition); i_++) (void)poll(NULL, 0, 1);                     \
        assert_true(condition);                                                                              \
    } while (0)

/* ---- a client ---- */

static int dial(const char *address) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    struct timeval tv = {.tv_sec = DEADLINE_MS / 1000};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
    return fd;
}

static int connect_kafka(void) {
    return dial(broker_kafka_address(f->broker));
}

static void send_all(int fd, const void *p, size_t n) {
    for (size_t k = 0; k < n;) {
        ssize_t w = send(fd, (const char *)p + k, n - k, MSG_NOSIGNAL);
        assert_true(w > 0);
        k += (size_t)w;
    }
}

/* A request with the body encoded by our codec, padded with a long client id to `pad` bytes. */
static void request(int fd, int16_t key, int16_t version, int32_t correlation, const void *body,
                    int16_t pad) {
    struct hf_buf b;
    hf_buf_init(&b, 1 << 20);
    const struct kafka_api *api = kafka_api_of(key);
    hf_buf_be32(&b, 0);
    hf_buf_be16(&b, (uint16_t)key);
    hf_buf_be16(&b, (uint16_t)version);
    hf_buf_be32(&b, (uint32_t)correlation);
    hf_buf_be16(&b, (uint16_t)pad);
    for (int i = 0; i < pad; i++) hf_buf_u8(&b, 'c');
    bool flexible = version >= api->flexible_from;
    if (flexible) hf_buf_u8(&b, 0);
    if (body) kafka_encode(&b, NULL, api->request(), version, flexible, body);
    hf_put_be32(b.p, (uint32_t)b.n - 4);
    send_all(fd, b.p, b.n);
    hf_buf_fini(&b);
}

static const struct kafka_metadata_request all_topics = {.topics_count = -1};
static const struct kafka_produce_request produce = {.acks = -1};
static const struct kafka_fetch_request fetch = {.max_wait_ms = 1000};

static void ask_metadata(int fd, int32_t correlation) {
    request(fd, KAFKA_API_metadata, 1, correlation, &all_topics, 1);
}

static void read_exactly(int fd, void *p, size_t n) {
    for (size_t k = 0; k < n;) {
        ssize_t r = recv(fd, (char *)p + k, n - k, 0);
        assert_true(r > 0);
        k += (size_t)r;
    }
}

/* Reads one answer; its correlation id. The body stays in `body`. */
static uint8_t *body;
static size_t body_n;
static int32_t read_answer(int fd) {
    uint8_t head[8];
    read_exactly(fd, head, 8);
    body_n = hf_get_be32(head) - 4;
    free(body);
    body = malloc(body_n ? body_n : 1);
    read_exactly(fd, body, body_n);
    return (int32_t)hf_get_be32(head + 4);
}

static void assert_closed(int fd) {
    char c;
    assert_true(recv(fd, &c, 1, 0) <= 0);
    close(fd);
}

/* ---- tests ---- */

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
    assert_memory_equal(body + body_n - 5, "34567", 5);
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
    assert_memory_equal(body + body_n - 3, "end", 3);
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
    assert_int_equal(hf_get_be16(body), 35);
    struct hf_reader r = hf_reader_of(body, body_n);
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
    for (int rounds = 0; answered < CLIENTS && rounds < 100000; rounds++) {
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
        if (next >= 0) answer(next);
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

/* ---- HTTP ---- */

static const char *http(const char *text, size_t extra) {
    static char out[4096];
    int fd = dial(broker_http_address(f->broker));
    send_all(fd, text, strlen(text));
    char *zeros = calloc(1, extra + 1);
    if (extra) (void)!send(fd, zeros, extra, MSG_NOSIGNAL);
    free(zeros);
    size_t n = 0;
    for (ssize_t r; n < sizeof(out) - 1 && (r = recv(fd, out + n, sizeof(out) - 1 - n, 0)) > 0;)
        n += (size_t)r;
    out[n] = 0;
    close(fd);
    return out;
}

static void http_routes_and_limits(void **state) {
    (void)state;
    start((struct broker_options){.http_body_max = 1000});
#define TAIL " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert_non_null(strstr(http("GET /hello/a%20b/c?q=1%262" TAIL "\r\n", 0), "rest=a b/c q=1&2 body=0"));
    assert_non_null(strstr(http("POST /hello/x" TAIL "Content-Length: 3\r\n\r\nabc", 0), "rest=x q= body=3"));
    assert_non_null(strstr(http("GET /nothing" TAIL "\r\n", 0), " 404 "));
    assert_non_null(strstr(http("PUT /hello/x" TAIL "Content-Length: 0\r\n\r\n", 0), " 405 "));
    assert_non_null(strstr(http("POST /hello/x" TAIL "Content-Length: 2000\r\n\r\n", 2000), " 413 "));
    char *long_header = calloc(1, 40000);
    strcpy(long_header, "GET /hello/x" TAIL "X: ");
    memset(long_header + strlen(long_header), 'x', 30000);
    strcat(long_header, "\r\n\r\n");
    assert_null(strstr(http(long_header, 0), " 200 "));
    free(long_header);
    stop();
}

static void http_connections_past_the_limit_wait_until_one_is_closed(void **state) {
    (void)state;
    static const char ask[] = "GET /hello/x HTTP/1.1\r\nHost: x\r\n\r\n";
    char answer[4096];
    start((struct broker_options){.http_connections_max = 2});
    int idle = dial(broker_http_address(f->broker)), kept = dial(broker_http_address(f->broker));
    send_all(kept, ask, strlen(ask));
    assert_true(recv(kept, answer, sizeof(answer), 0) > 0);
    AWAIT(stats().http_connections == 2);
    int third = dial(broker_http_address(f->broker));
    send_all(third, ask, strlen(ask));
    assert_int_equal(poll(&(struct pollfd){.fd = third, .events = POLLIN}, 1, 1500), 0);
    send_all(kept, ask, strlen(ask));
    assert_true(recv(kept, answer, sizeof(answer), 0) > 0);
    close(idle);
    assert_true(recv(third, answer, sizeof(answer), 0) > 0);
    close(third);
    close(kept);
    AWAIT(stats().http_connections == 0);
    stop();
}

/* Whose descriptor has the number of the HTTP connection that was closed just before. */
static void an_http_connection_that_was_closed_takes_nothing_from_the_next_one(void **state) {
    (void)state;
    start((struct broker_options){0});
    for (int round = 0; round < 8; round++) {
        assert_non_null(strstr(http("GET /hello/x" TAIL "\r\n", 0), " 200 "));
        int fd = connect_kafka();
        for (int i = 0; i < 60; i++) request(fd, KAFKA_API_metadata, 1, i, &all_topics, 30000);
        for (int i = 0; i < 60; i++) assert_int_equal(read_answer(fd), i);
        close(fd);
    }
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
        cmocka_unit_test(malformed_frames_close_their_connection_alone),
        cmocka_unit_test(an_unknown_version_of_api_versions_is_answered_in_version_0),
        cmocka_unit_test(unread_answers_hold_back_further_requests),
        cmocka_unit_test(large_frames_wait_for_their_turn),
        cmocka_unit_test(connections_past_the_limit_are_closed_at_once),
        cmocka_unit_test(idle_and_stalled_connections_are_closed),
        cmocka_unit_test(a_stop_waits_for_producers),
        cmocka_unit_test(http_routes_and_limits),
        cmocka_unit_test(http_connections_past_the_limit_wait_until_one_is_closed),
        cmocka_unit_test(an_http_connection_that_was_closed_takes_nothing_from_the_next_one),
    };
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/holdfast-broker-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(root) || signal(SIGPIPE, SIG_IGN) == SIG_ERR) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(body);
    rmdir(root);
    return failed;
}
