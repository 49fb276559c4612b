#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct fixture *f;
static char root[200];

int fixture_begin(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/holdfast-broker-XXXXXX", base ? base : "/tmp");
    return !mkdtemp(root) || signal(SIGPIPE, SIG_IGN) == SIG_ERR;
}

int fixture_end(void **state) {
    (void)state;
    return rmdir(root);
}

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

void start(struct broker_options o) {
    static const struct broker_handler handlers[] = {{KAFKA_API_metadata, on_metadata, NULL},
                                                     {KAFKA_API_produce, keep, NULL},
                                                     {KAFKA_API_fetch, keep, NULL}};
    static const struct broker_route routes[] = {{"GET", "/hello/*", hello, NULL, NULL},
                                                 {"POST", "/hello/*", hello, NULL, NULL},
                                                 {"GET", "/strict/*", hello, NULL, "q prefix"}};
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
    o.route_count = sizeof(routes) / sizeof(routes[0]);
    o.step = step;
    o.wake_fd = f->wake;
    assert_int_equal(broker_open(&o, &f->broker), HF_OK);
    assert_int_equal(pthread_create(&f->thread, NULL, run, NULL), 0);
}

void wake(void) {
    assert_int_equal(write(f->wake, &(uint64_t){1}, 8), 8);
}

void stop(void) {
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
    free(f->body);
    free(f);
    f = NULL;
}

void answer(int i) {
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

void await(atomic_int *counter, int value) {
    for (int i = 0; i < DEADLINE_MS && *counter != value; i++) (void)poll(NULL, 0, 1);
    assert_int_equal(*counter, value);
}

struct broker_stats stats(void) {
    pthread_mutex_lock(&f->lock);
    struct broker_stats s = f->stats;
    pthread_mutex_unlock(&f->lock);
    return s;
}

/* ---- a client ---- */

const struct kafka_metadata_request all_topics = {.topics_count = -1};
const struct kafka_produce_request produce = {.acks = -1};
const struct kafka_fetch_request fetch = {.max_wait_ms = 1000};

int dial(const char *address) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    struct timeval tv = {.tv_sec = DEADLINE_MS / 1000};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
    return fd;
}

int connect_kafka(void) {
    return dial(broker_kafka_address(f->broker));
}

void send_all(int fd, const void *p, size_t n) {
    for (size_t k = 0; k < n;) {
        ssize_t w = send(fd, (const char *)p + k, n - k, MSG_NOSIGNAL);
        assert_true(w > 0);
        k += (size_t)w;
    }
}

void request(int fd, int16_t key, int16_t version, int32_t correlation, const void *body, int16_t pad) {
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

void ask_metadata(int fd, int32_t correlation) {
    request(fd, KAFKA_API_metadata, 1, correlation, &all_topics, 1);
}

static void read_exactly(int fd, void *p, size_t n) {
    for (size_t k = 0; k < n;) {
        ssize_t r = recv(fd, (char *)p + k, n - k, 0);
        assert_true(r > 0);
        k += (size_t)r;
    }
}

int32_t read_answer(int fd) {
    uint8_t head[8];
    read_exactly(fd, head, 8);
    f->body_n = hf_get_be32(head) - 4;
    free(f->body);
    f->body = malloc(f->body_n ? f->body_n : 1);
    read_exactly(fd, f->body, f->body_n);
    return (int32_t)hf_get_be32(head + 4);
}

void assert_closed(int fd) {
    char c;
    ssize_t n = recv(fd, &c, 1, 0);
    assert_true(n == 0 ||
                (n < 0 && errno == ECONNRESET)); /* no answer before the deadline is none of these */
    close(fd);
}
