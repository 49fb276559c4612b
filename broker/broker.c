/* The loop: listening, stepping the cores, and the order of things in one turn.
 *
 *   wait for events (at most as long as step said)
 *     → bytes are read, frames cut, requests queued; HTTP handlers run
 *   settle: requests start, answers are encoded and written
 *   step: the cores move on (completions answer requests)
 *   settle again, if anything was answered
 *
 * So all requests that came in one batch of events reach the log before it is stepped: they share one sync.
 * One loop serves everything. Several would each own connections and hand started requests to this one; that
 * is why a request names its connection, and a handler never sees one. */
#include "broker_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { BACKLOG = 1024, SWEEP_MS = 1000, DRAIN_MS = 2000, LINES_A_SECOND = 10 };

bool broker_limiter_pass(struct broker_limiter *l, int64_t now_us, uint64_t *suppressed) {
    if (l->lines == 0 || now_us - l->window_us >= 1000000) {
        l->window_us = now_us;
        l->lines = 0;
    }
    if (l->lines >= LINES_A_SECOND) {
        l->suppressed++;
        return false;
    }
    l->lines++;
    *suppressed = l->suppressed;
    l->suppressed = 0;
    return true;
}

/* ---- addresses ---- */

static bool parse_port(const char *text, uint16_t *port) {
    int64_t n;
    if (hf_str_int(hf_str_of(text), &n) || n < 0 || n > UINT16_MAX) return false;
    *port = (uint16_t)n;
    return true;
}

enum hf_err broker_parse_address(const char *text, struct sockaddr_storage *out, int *n) {
    const char *colon = strrchr(text, ':');
    char host[BROKER_ADDRESS];
    uint16_t port;
    if (!colon || colon == text || (size_t)(colon - text) >= sizeof(host) || !parse_port(colon + 1, &port))
        return HF_EINVAL;
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    if (strcmp(host, "localhost") == 0) (void)snprintf(host, sizeof(host), "127.0.0.1");
    *n = sizeof(*out);
    if (evutil_parse_sockaddr_port(host, (struct sockaddr *)out, n)) return HF_EINVAL;
    if (out->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)out)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)out)->sin_port = htons(port);
    return HF_OK;
}

void broker_format_address(const struct sockaddr *a, char out[BROKER_ADDRESS]) {
    char host[INET6_ADDRSTRLEN] = "";
    if (a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)a;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        (void)snprintf(out, BROKER_ADDRESS, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        (void)snprintf(out, BROKER_ADDRESS, "%s:%u", host, ntohs(v4->sin_port));
    }
}

/* ---- accepting ---- */

static bool is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
    return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

/* BBR paces what it sends, also where there is no bottleneck to find: a fetch over loopback costs twice the
 * CPU time. Those without the right to cubic may always have reno; without loss they are the same. */
static void unpace(evutil_socket_t fd) {
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5))
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *arg) {
    (void)l, (void)n;
    struct broker *b = arg;
    char address[BROKER_ADDRESS];
    broker_format_address(a, address);
    if (b->stats.connections >= b->options.connections_max) {
        b->stats.connections_refused++;
        uint64_t suppressed;
        if (broker_limiter_pass(&b->crowded, env_mono_us(b->options.env), &suppressed))
            env_log(b->options.env, ENV_WARN, "connection_refused",
                    "client=%s reason=\"limit of connections\" suppressed=%llu", address,
                    (unsigned long long)suppressed);
        close(fd);
        return;
    }
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (is_loopback(a)) unpace(fd);
    connection_open(b, fd, address);
}

/* Out of descriptors, most likely: accepting pauses until the next sweep, instead of spinning. */
static void on_accept_error(struct evconnlistener *l, void *arg) {
    struct broker *b = arg;
    env_log(b->options.env, ENV_ERROR, "accept_failed", "error=\"%s\"",
            evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    (void)evconnlistener_disable(l);
}

static enum hf_err listen_kafka(struct broker *b) {
    struct sockaddr_storage a;
    int n;
    if (broker_parse_address(b->options.listen, &a, &n)) {
        env_log(b->options.env, ENV_ERROR, "listen_failed", "address=%s error=\"not ADDRESS:PORT\"",
                b->options.listen);
        return HF_EINVAL;
    }
    unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
    b->listener = evconnlistener_new_bind(b->base, on_accept, b, flags, BACKLOG, (struct sockaddr *)&a, n);
    if (!b->listener) {
        int e = errno;
        env_log(b->options.env, ENV_ERROR, "listen_failed", "address=%s error=\"%s\"", b->options.listen,
                strerror(e));
        return e == EADDRINUSE ? HF_EEXIST : HF_EIO;
    }
    evconnlistener_set_error_cb(b->listener, on_accept_error);
    socklen_t size = sizeof(a);
    if (getsockname(evconnlistener_get_fd(b->listener), (struct sockaddr *)&a, &size)) return HF_EIO;
    broker_format_address((struct sockaddr *)&a, b->address);
    return HF_OK;
}

/* ---- open and close ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what, (void)arg; /* the wait has ended: that is all */
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    struct broker *b = arg;
    if (what & EV_READ) b->armed_us = INT64_MAX;
}

/* The wait ends then, or before. A timer of our own: libevent's are set by a call for each wait, while nearly all
 * end long before their time, so one that was set for an earlier time is left as it is. */
static enum hf_err arm(struct broker *b, int64_t wait_us) {
    int64_t then_us = env_mono_us(b->options.env) + wait_us;
    if (b->armed_us <= then_us) return HF_OK;
    struct itimerspec at = {.it_value = {.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000}};
    if (timerfd_settime(b->timer_fd, 0, &at, NULL)) return HF_EIO;
    b->armed_us = then_us;
    return HF_OK;
}

static enum hf_err make_events(struct broker *b) {
    b->base = event_base_new();
    b->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (!b->base || b->timer_fd < 0) return HF_ENOMEM;
    b->timer = event_new(b->base, b->timer_fd, EV_READ | EV_ET | EV_PERSIST, on_timer, b);
    if (!b->timer || event_add(b->timer, NULL)) return HF_ENOMEM;
    if (b->options.wake_fd < 0) return HF_OK;
    b->wake = event_new(b->base, b->options.wake_fd, EV_READ | EV_PERSIST, on_wake, b);
    return b->wake && event_add(b->wake, NULL) == 0 ? HF_OK : HF_ENOMEM;
}

static void set_defaults(struct broker_options *o) {
#define DEFAULT(field, value)                                                                                \
    if (o->field == 0) o->field = value
    DEFAULT(connections_max, 4096);
    DEFAULT(http_connections_max, 1024);
    DEFAULT(frame_max, (size_t)64 << 20);
    DEFAULT(frames_max, (size_t)256 << 20);
    DEFAULT(pipeline_max, 64);
    DEFAULT(answers_max, (size_t)1 << 20);
    DEFAULT(answer_max, (size_t)64 << 20);
    DEFAULT(arena_max, (size_t)64 << 20);
    DEFAULT(idle_ms, HF_MINUTES(10));
    DEFAULT(stall_ms, HF_SECONDS(60));
    DEFAULT(http_body_max, (size_t)1 << 20);
#undef DEFAULT
}

enum hf_err broker_open(const struct broker_options *options, struct broker **out) {
    struct broker *b = calloc(1, sizeof(*b));
    if (!b) return HF_ENOMEM;
    b->options = *options;
    b->timer_fd = -1;
    b->armed_us = INT64_MAX;
    set_defaults(&b->options);
    b->starved_last = &b->starved;
    hf_buf_init(&b->encoded, b->options.answer_max);
    enum hf_err e = make_events(b);
    if (!e) e = listen_kafka(b);
    if (!e && options->http) e = http_open(b, &b->http);
    if (e) {
        broker_close(b);
        return e;
    }
    *out = b;
    return HF_OK;
}

void broker_close(struct broker *b) {
    while (b->oldest) connection_close(b->oldest);
    connections_settle(b);
    connections_drop(b);
    requests_fini(b);
    if (b->http) http_close(b->http);
    if (b->listener) evconnlistener_free(b->listener);
    for (size_t i = 0; i < b->signal_count; i++) event_free(b->signals[i]);
    if (b->wake) event_free(b->wake);
    if (b->timer) event_free(b->timer);
    if (b->timer_fd >= 0) close(b->timer_fd);
    if (b->base) event_base_free(b->base);
    hf_buf_fini(&b->encoded);
    free(b);
}

/* ---- the loop ---- */

static void sweep(struct broker *b) {
    int64_t now = env_mono_us(b->options.env);
    if (now - b->swept_us < SWEEP_MS * 1000) return;
    b->swept_us = now;
    connections_sweep(b);
    if (b->http && !b->stopping) http_sweep(b->http);
    if (!b->stopping) (void)evconnlistener_enable(b->listener);
    /* One huge answer must not keep its memory for ever. */
    if (b->encoded.cap > b->options.answers_max) {
        hf_buf_fini(&b->encoded);
        hf_buf_init(&b->encoded, b->options.answer_max);
    }
}

static enum hf_err turn(struct broker *b, int64_t wait_us) {
    b->turn_us = 0;
    enum hf_err e = wait_us > 0 ? arm(b, wait_us) : HF_OK;
    if (e) return e;
    if (event_base_loop(b->base, EVLOOP_ONCE | (wait_us > 0 ? 0 : EVLOOP_NONBLOCK)) < 0) return HF_EIO;
    connections_settle(b);
    return HF_OK;
}

/* Ends when nobody waits for what was already begun: long polls do not count. */
static bool drained(struct broker *b, int64_t since_us) {
    return b->producing == 0 || env_mono_us(b->options.env) - since_us > DRAIN_MS * 1000;
}

enum hf_err broker_run(struct broker *b) {
    int64_t wait_us = 0, stopping_us = 0;
    for (;;) {
        enum hf_err e = turn(b, wait_us);
        if (e) return e;
        wait_us = b->options.step ? b->options.step(b->options.step_ctx) : SWEEP_MS * 1000;
        if (wait_us < 0) wait_us = 0;
        if (wait_us > SWEEP_MS * 1000) wait_us = SWEEP_MS * 1000;
        connections_settle(b);
        sweep(b);
        if (!b->stopping) continue;
        if (!stopping_us) {
            stopping_us = env_mono_us(b->options.env);
            (void)evconnlistener_disable(b->listener);
        }
        if (drained(b, stopping_us)) return HF_OK;
    }
}

void broker_stop(struct broker *b) {
    b->stopping = true;
    broker_wake(b);
}

static void on_signal(evutil_socket_t number, short what, void *arg) {
    (void)what;
    struct broker *b = arg;
    env_log(b->options.env, ENV_INFO, "stopping", "signal=%d", (int)number);
    broker_stop(b);
}

enum hf_err broker_stop_on_signal(struct broker *b, int number) {
    if (b->signal_count == BROKER_SIGNALS) return HF_ELIMIT;
    struct event *e = evsignal_new(b->base, number, on_signal, b);
    if (!e) return HF_ENOMEM;
    b->signals[b->signal_count++] = e;
    return event_add(e, NULL) == 0 ? HF_OK : HF_EIO;
}

void broker_hold(struct broker *b, bool held) {
    if (b->held == held) return;
    b->held = held;
    if (!held) connections_resume(b);
}

void broker_wake(struct broker *b) {
    event_active(b->timer, EV_TIMEOUT, 0);
}

const char *broker_kafka_address(const struct broker *b) {
    return b->address;
}

const char *broker_http_address(const struct broker *b) {
    return b->http_address;
}

void broker_stats_get(const struct broker *b, struct broker_stats *out) {
    *out = b->stats;
    out->frame_bytes = b->frames_held;
}
