#include "lean.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void lean_die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double lean_now(void) {
    return (double)now_ns() / 1e9;
}

double lean_cpu_of(long pid) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) lean_die("%s: %s", path, strerror(errno));
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    unsigned long user, system;
    const char *after = strrchr(line, ')'); /* the command's name may hold anything */
    if (!after ||
        sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        lean_die("%s: cannot be read", path);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- connections ---- */

static int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (fd < 0) lean_die("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) lean_die("127.0.0.1:%d: %s", port, strerror(errno));
    return fd;
}

void lean_open(struct lean *l, int port, int connections) {
    l->count = connections;
    l->connections = calloc((size_t)connections, sizeof *l->connections);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!l->connections || l->epoll < 0) lean_die("no memory");
    for (int i = 0; i < connections; i++) l->connections[i].fd = connect_to(port);
}

void lean_close(struct lean *l) {
    for (int i = 0; i < l->count; i++) {
        close(l->connections[i].fd);
        free(l->connections[i].body);
    }
    free(l->connections);
    close(l->epoll);
}

/* ---- the loop ---- */

struct run {
    struct lean *lean;
    const struct lean_load *load;
    struct lean_result *result;
    int64_t *latencies; /* ns */
    size_t latency_count, latency_cap;
    int64_t sent;
    bool stop;
};

static void keep_latency(struct run *r, int64_t ns) {
    if (r->latency_count == r->latency_cap) {
        r->latency_cap = r->latency_cap ? r->latency_cap * 2 : 65536;
        r->latencies = realloc(r->latencies, r->latency_cap * sizeof *r->latencies);
        if (!r->latencies) lean_die("no memory");
    }
    r->latencies[r->latency_count++] = ns;
}

static void want(struct run *r, struct lean_connection *c, int op, bool writing) {
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(r->lean->epoll, op, c->fd, &e)) lean_die("epoll_ctl: %s", strerror(errno));
}

/* Sends as much as the window and the socket take. */
static void pump(struct run *r, struct lean_connection *c) {
    for (;;) {
        if (!c->sending) {
            bool enough = r->stop || (r->load->requests && r->sent >= r->load->requests);
            if (enough || c->in_flight >= r->load->window) return;
            c->sending = true;
            c->sent = 0;
            r->sent++;
            c->started[c->next++ % LEAN_WINDOW_MAX] = now_ns();
            c->in_flight++;
        }
        uint8_t head[4];
        hf_put_be32(head, (uint32_t)c->request.n);
        struct iovec parts[2] = {{head, 4}, {(void *)(uintptr_t)c->request.p, c->request.n}};
        struct iovec *from = parts;
        int n = 2;
        if (c->sent < 4) {
            parts[0].iov_base = head + c->sent;
            parts[0].iov_len = 4 - c->sent;
        } else {
            from = parts + 1;
            n = 1;
            parts[1].iov_base = (void *)(uintptr_t)(c->request.p + (c->sent - 4));
            parts[1].iov_len = c->request.n - (c->sent - 4);
        }
        struct msghdr message = {.msg_iov = from, .msg_iovlen = (size_t)n};
        ssize_t out = sendmsg(c->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (out < 0 && errno == EAGAIN) {
            want(r, c, EPOLL_CTL_MOD, true);
            return;
        }
        if (out < 0) lean_die("send: %s", strerror(errno));
        c->sent += (size_t)out;
        if (c->sent == 4 + c->request.n) c->sending = false;
    }
}

static void answered(struct run *r, struct lean_connection *c) {
    keep_latency(r, now_ns() - c->started[c->first++ % LEAN_WINDOW_MAX]);
    c->in_flight--;
    r->result->answers++;
    int64_t messages =
        r->load->on_answer ? r->load->on_answer(c, hf_str_make(c->body, c->length), r->load->arg) : 1;
    if (messages < 0)
        r->stop = true;
    else
        r->result->messages += messages;
    c->got = c->length = 0;
}

static void receive(struct run *r, struct lean_connection *c) {
    for (;;) {
        bool head = c->length == 0;
        void *to = head ? c->head + c->got : c->body + c->got;
        size_t left = head ? 4 - c->got : c->length - c->got;
        ssize_t n = recv(c->fd, to, left, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) lean_die("the server closed the connection%s%s", n ? ": " : "", n ? strerror(errno) : "");
        c->got += (size_t)n;
        if (head && c->got == 4) {
            c->length = hf_get_be32(c->head);
            c->got = 0;
            if (c->length > c->body_cap) {
                free(c->body);
                c->body_cap = c->length;
                c->body = malloc(c->body_cap);
                if (!c->body) lean_die("no memory for an answer of %zu bytes", c->length);
            }
        } else if (!head && c->got == c->length) {
            answered(r, c);
        }
    }
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void summarise(struct run *r) {
    size_t n = r->latency_count;
    if (n == 0) return;
    qsort(r->latencies, n, sizeof *r->latencies, by_value);
    r->result->p50_ms = (double)r->latencies[n / 2] / 1e6;
    r->result->p99_ms = (double)r->latencies[n - 1 - n / 100] / 1e6;
    r->result->p999_ms = (double)r->latencies[n - 1 - n / 1000] / 1e6;
    r->result->max_ms = (double)r->latencies[n - 1] / 1e6;
}

static int in_flight(const struct lean *l) {
    int n = 0;
    for (int i = 0; i < l->count; i++) n += l->connections[i].in_flight;
    return n;
}

void lean_run(struct lean *l, const struct lean_load *load, struct lean_result *out) {
    if (load->window > LEAN_WINDOW_MAX) lean_die("a window of at most %d", LEAN_WINDOW_MAX);
    *out = (struct lean_result){0};
    struct run r = {.lean = l, .load = load, .result = out};
    double start = lean_now();
    for (int i = 0; i < l->count; i++) {
        if (load->request.p) l->connections[i].request = load->request;
        want(&r, &l->connections[i], EPOLL_CTL_ADD, false);
        pump(&r, &l->connections[i]);
    }
    while (in_flight(l) > 0) {
        struct epoll_event events[64];
        int n = epoll_wait(l->epoll, events, 64, 1000);
        if (n < 0 && errno != EINTR) lean_die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            struct lean_connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) want(&r, c, EPOLL_CTL_MOD, false);
            if (events[i].events & ~(unsigned)EPOLLOUT) receive(&r, c);
            pump(&r, c);
        }
        if (lean_now() - start > load->seconds) r.stop = true;
        if (lean_now() - start > load->seconds + 30)
            lean_die("no answer for 30 s: %d in flight", in_flight(l));
    }
    out->seconds = lean_now() - start;
    for (int i = 0; i < l->count; i++) epoll_ctl(l->epoll, EPOLL_CTL_DEL, l->connections[i].fd, NULL);
    summarise(&r);
    free(r.latencies);
}

enum { NO_LEADER = 5, LEADERS_S = 60 }; /* NO_LEADER: Kafka's LEADER_NOT_AVAILABLE */

/* ---- Kafka frames: header v1 (key, version, correlation, client id), then the body ---- */

static void text(struct hf_buf *out, const char *s) {
    hf_buf_be16(out, (uint16_t)strlen(s));
    hf_buf_put(out, s, strlen(s));
}

static void header(struct hf_buf *out, int16_t key, int16_t version) {
    hf_buf_be16(out, (uint16_t)key);
    hf_buf_be16(out, (uint16_t)version);
    hf_buf_be32(out, 7); /* correlation: answers come in order, so one number does for all */
    text(out, "lean");
}

void lean_produce(struct hf_buf *out, const char *topic, int32_t partition, int16_t acks, hf_str batch) {
    header(out, 0, 7);
    hf_buf_be16(out, (uint16_t)-1); /* no transactional id */
    hf_buf_be16(out, (uint16_t)acks);
    hf_buf_be32(out, 30000);
    hf_buf_be32(out, 1);
    text(out, topic);
    hf_buf_be32(out, 1);
    hf_buf_be32(out, (uint32_t)partition);
    hf_buf_be32(out, (uint32_t)batch.n);
    hf_buf_str(out, batch);
}

void lean_fetch(struct hf_buf *out, const char *topic, int32_t partition, int64_t offset, int32_t max_bytes) {
    header(out, 1, 11);
    hf_buf_be32(out, (uint32_t)-1); /* replica */
    hf_buf_be32(out, 500);          /* wait, ms */
    hf_buf_be32(out, 1);            /* at least one byte */
    hf_buf_be32(out, (uint32_t)max_bytes);
    hf_buf_u8(out, 0);
    hf_buf_be32(out, 0); /* no session */
    hf_buf_be32(out, (uint32_t)-1);
    hf_buf_be32(out, 1);
    text(out, topic);
    hf_buf_be32(out, 1);
    hf_buf_be32(out, (uint32_t)partition);
    hf_buf_be32(out, (uint32_t)-1);
    hf_buf_be64(out, (uint64_t)offset);
    hf_buf_be64(out, (uint64_t)-1);
    hf_buf_be32(out, (uint32_t)max_bytes);
    hf_buf_be32(out, 0);
    text(out, "");
}

static void metadata_request(struct hf_buf *out, const char *topic) {
    header(out, 3, 4);
    hf_buf_be32(out, 1);
    text(out, topic);
    hf_buf_u8(out, 1); /* may be created */
}

/* The latest offsets of partitions first … first + count - 1. */
static void list_offsets(struct hf_buf *out, const char *topic, int32_t first, int32_t count) {
    header(out, 2, 1);
    hf_buf_be32(out, (uint32_t)-1);
    hf_buf_be32(out, 1);
    text(out, topic);
    hf_buf_be32(out, (uint32_t)count);
    for (int32_t i = 0; i < count; i++) {
        hf_buf_be32(out, (uint32_t)(first + i));
        hf_buf_be64(out, (uint64_t)-1);
    }
}

struct one_answer {
    uint8_t *p;
    size_t n;
};

static int64_t keep_answer(struct lean_connection *c, hf_str body, void *arg) {
    (void)c;
    struct one_answer *a = arg;
    a->p = realloc(a->p, body.n + 1);
    if (!a->p) lean_die("no memory");
    memcpy(a->p, body.p, body.n);
    a->n = body.n;
    return 1;
}

/* One request on the first connection. */
static struct hf_reader ask(struct lean *l, struct hf_buf *request, struct one_answer *a) {
    struct lean first = {.connections = l->connections, .count = 1, .epoll = l->epoll};
    struct lean_result ignored;
    lean_run(&first,
             &(struct lean_load){.request = hf_buf_view(request),
                                 .window = 1,
                                 .seconds = 30,
                                 .requests = 1,
                                 .on_answer = keep_answer,
                                 .arg = a},
             &ignored);
    struct hf_reader r = hf_reader_of(a->p, a->n);
    hf_read_be32(&r);
    return r;
}

static void skip_text(struct hf_reader *r) {
    uint16_t n = hf_read_be16(r);
    if (n != UINT16_MAX) hf_read_bytes(r, n);
}

/* A Metadata v4 answer for one topic: how many partitions it has, all with a leader; 0 and the reason if it has none or
 * one of them has no leader yet. */
static int32_t partitions_led(struct hf_reader *r, int *error) {
    hf_read_be32(r); /* throttle */
    for (uint32_t brokers = hf_read_be32(r); brokers > 0 && !r->bad; brokers--) {
        hf_read_be32(r);
        skip_text(r); /* host */
        hf_read_be32(r);
        skip_text(r); /* rack */
    }
    skip_text(r);    /* cluster */
    hf_read_be32(r); /* controller */
    hf_read_be32(r); /* topics */
    *error = (int16_t)hf_read_be16(r);
    skip_text(r);  /* name */
    hf_read_u8(r); /* internal */
    uint32_t count = hf_read_be32(r);
    for (uint32_t i = 0; i < count && *error == 0 && !r->bad; i++) {
        *error = (int16_t)hf_read_be16(r);
        hf_read_be32(r);                                                     /* partition */
        if ((int32_t)hf_read_be32(r) < 0 && *error == 0) *error = NO_LEADER; /* leader */
        for (int list = 0; list < 2; list++)
            hf_read_bytes(r, 4 * (size_t)hf_read_be32(r)); /* replicas, in sync */
    }
    if (r->bad) lean_die("metadata: the answer cannot be read");
    return *error ? 0 : (int32_t)count;
}

/* A ListOffsets v1 answer for one topic: the first error in it, 0 if none; *end is the last partition's. */
static int offsets_listed(struct hf_reader *r, int64_t *end) {
    int error = 0;
    hf_read_be32(r); /* topics */
    skip_text(r);
    for (uint32_t count = hf_read_be32(r); count > 0 && error == 0 && !r->bad; count--) {
        hf_read_be32(r);
        error = (int16_t)hf_read_be16(r);
        hf_read_be64(r); /* time */
        *end = (int64_t)hf_read_be64(r);
    }
    if (r->bad) lean_die("offsets: the answer cannot be read");
    return error;
}

/* Asked for by name, the topic is created. That metadata names a leader is not all: in Kafka the broker learns a moment
 * later that it leads, and until then refuses to write. Only a leader answers for offsets, so that is asked, too. */
void lean_make_topic(struct lean *l, const char *topic) {
    struct hf_buf request;
    struct one_answer a = {0};
    int64_t end;
    hf_buf_init(&request, 16 << 20);
    for (double start = lean_now();;) {
        int error;
        hf_buf_reset(&request);
        metadata_request(&request, topic);
        struct hf_reader r = ask(l, &request, &a);
        int32_t partitions = partitions_led(&r, &error);
        if (partitions > 0) {
            hf_buf_reset(&request);
            list_offsets(&request, topic, 0, partitions);
            r = ask(l, &request, &a);
            if ((error = offsets_listed(&r, &end)) == 0) break;
        }
        if (lean_now() - start > LEADERS_S)
            lean_die("topic %s has no leaders after %d s: error %d", topic, LEADERS_S, error);
        usleep(10000);
    }
    hf_buf_fini(&request);
    free(a.p);
}

int64_t lean_end(struct lean *l, const char *topic, int32_t partition) {
    struct hf_buf request;
    struct one_answer a = {0};
    int64_t end = -1;
    hf_buf_init(&request, 4096);
    list_offsets(&request, topic, partition, 1);
    struct hf_reader r = ask(l, &request, &a);
    int error = offsets_listed(&r, &end);
    if (error) lean_die("end of %s-%d: error %d", topic, partition, error);
    hf_buf_fini(&request);
    free(a.p);
    return end;
}

int lean_produce_error(hf_str body, int64_t *offset) {
    struct hf_reader r = hf_reader_of(body.p, body.n);
    hf_read_be32(&r);
    hf_read_be32(&r);
    hf_read_bytes(&r, hf_read_be16(&r));
    hf_read_be32(&r);
    hf_read_be32(&r);
    int error = (int16_t)hf_read_be16(&r);
    *offset = (int64_t)hf_read_be64(&r);
    return r.bad ? -1 : error;
}

hf_str lean_fetch_records(hf_str body, int64_t *next_offset, int *error) {
    struct hf_reader r = hf_reader_of(body.p, body.n);
    hf_read_be32(&r); /* correlation */
    hf_read_be32(&r); /* throttle */
    *error = (int16_t)hf_read_be16(&r);
    hf_read_be32(&r); /* session */
    hf_read_be32(&r); /* topics */
    hf_read_bytes(&r, hf_read_be16(&r));
    hf_read_be32(&r); /* partitions */
    hf_read_be32(&r);
    int of_partition = (int16_t)hf_read_be16(&r);
    if (*error == 0) *error = of_partition;
    hf_read_bytes(&r, 24); /* high watermark, last stable offset, log start */
    uint32_t aborted = hf_read_be32(&r);
    if (aborted != UINT32_MAX) hf_read_bytes(&r, (size_t)aborted * 16);
    hf_read_be32(&r);
    uint32_t n = hf_read_be32(&r);
    hf_str records = n == UINT32_MAX ? (hf_str){NULL, 0} : hf_read_bytes(&r, n);
    if (r.bad) lean_die("fetch: the answer cannot be read");
    for (size_t at = 0; at + 61 <= records.n;) {
        const char *batch = records.p + at;
        size_t size = 12 + hf_get_be32(batch + 8);
        if (at + size > records.n) break; /* the last one may be cut */
        *next_offset = (int64_t)hf_get_be64(batch) + (int32_t)hf_get_be32(batch + 23) + 1;
        at += size;
    }
    return records;
}
