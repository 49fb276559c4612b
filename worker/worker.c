/* Opening and closing a worker: options, defaults, and the pieces in the order in which they lean on each
 * other. */
#include "worker_internal.h"

#include "base/names.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { CONCURRENCY_MAX = 1024, BUFFER_MAX = 1000000, TOPICS_MAX = 100, SIGNAL_WORKERS = 16 };

/* ---- time, log ---- */

static int64_t clock_ms(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
int64_t worker_mono_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}
int64_t worker_wall_ms(void) {
    return clock_ms(CLOCK_REALTIME);
}

static void to_stderr(int level, const char *event, const char *text, void *arg) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    (void)arg;
    if (level <= 2) fprintf(stderr, "level=%s event=%s %s\n", names[level], event, text);
}

void worker_log(hf_worker *w, int level, const char *event, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    w->options.log(level, event, text, w->options.arg);
}

static void dedup_log(void *arg, const char *event, const char *text) {
    worker_log(arg, 1, event, "%s", text);
}

/* ---- options ---- */

static enum hf_err wrong(const char *option, const char *what) {
    return client_error(HF_EINVAL, "worker option %s: %s", option, what);
}

struct number {
    const char *name;
    size_t at;
    bool wide; /* int64_t, else int32_t */
    int64_t fallback, min, max;
};

#define NUMBER(field, wide, fallback, min, max)                                                              \
    { #field, offsetof(hf_worker_options, field), wide, fallback, min, max }
static const struct number numbers[] = {
    NUMBER(concurrency, false, 16, 1, CONCURRENCY_MAX),
    NUMBER(horizon_ms, true, HF_DAYS(7), 1000, HF_DAYS(36500)),
    NUMBER(lease_ms, true, HF_SECONDS(30), 100, HF_DAYS(1)),
    NUMBER(handler_timeout_ms, true, HF_MINUTES(5), 1, HF_DAYS(30)),
    NUMBER(attempts, false, 16, 1, 1000000),
    NUMBER(retry_first_ms, true, HF_SECONDS(1), 1, HF_DAYS(30)),
    NUMBER(retry_max_ms, true, HF_MINUTES(10), 1, HF_DAYS(30)),
    NUMBER(buffer, false, 1000, 1, BUFFER_MAX),
    NUMBER(drain_ms, true, HF_SECONDS(20), 1, HF_MINUTES(4)),
    NUMBER(session_ms, true, HF_SECONDS(10), 1000, HF_MINUTES(30)),
    NUMBER(heartbeat_ms, true, HF_SECONDS(3), 100, HF_MINUTES(10)),
};

static enum hf_err fill_numbers(hf_worker_options *o) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const struct number *n = &numbers[i];
        char *at = (char *)o + n->at;
        int64_t v = 0;
        if (n->wide)
            memcpy(&v, at, sizeof v);
        else
            v = *(int32_t *)(void *)at;
        if (v == 0) v = n->fallback;
        if (v < n->min || v > n->max)
            return client_error(HF_EINVAL, "worker option %s: %" PRId64 " is not in %" PRId64 " to %" PRId64,
                                n->name, v, n->min, n->max);
        if (n->wide)
            memcpy(at, &v, sizeof v);
        else
            *(int32_t *)(void *)at = (int32_t)v;
    }
    return HF_OK;
}

static enum hf_err check_options(const hf_worker_options *o) {
    if (!o->server || !*o->server) return wrong("server", "HOST:PORT is missing");
    if (!o->group || !hf_group_suffix_ok(hf_str_of(o->group)))
        return wrong(
            "group",
            "required; letters, digits, '.', '_', '-', short enough for topics \"dlq.<group>\" and the like");
    if (!o->topics || !*o->topics) return wrong("topics", "at least one is required");
    if (!o->handler) return wrong("handler", "it is missing");
    if ((unsigned)o->effect > HF_EFFECT_EXTERNAL) return wrong("effect", "no such effect");
    if ((unsigned)o->order > HF_ORDER_NONE) return wrong("order", "no such order");
    if (o->effect == HF_EFFECT_DATABASE && !o->database)
        return wrong("database", "effect \"database\" needs it");
    if (o->effect == HF_EFFECT_EXTERNAL && !o->redis) return wrong("redis", "effect \"external\" needs it");
    if (o->database && (o->effect == HF_EFFECT_NONE || o->effect == HF_EFFECT_EXTERNAL))
        return wrong("database", "only effects \"database\" and \"state\" use it");
    if (o->redis && o->effect != HF_EFFECT_EXTERNAL)
        return wrong("redis", "only effect \"external\" uses it");
    return HF_OK;
}

static enum hf_err no_memory(void) {
    return client_error(HF_ENOMEM, "worker: %s", hf_err_text(HF_ENOMEM));
}

static enum hf_err copy_strings(hf_worker *w) {
    hf_worker_options *o = &w->options;
    const char **const fields[] = {&o->server, &o->group, &o->topics, &o->database, &o->redis};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (!*fields[i]) continue;
        w->strings[i] = strdup(*fields[i]);
        if (!w->strings[i]) return no_memory();
        *fields[i] = w->strings[i];
    }
    snprintf(w->retry_topic, sizeof w->retry_topic, "%s%s", HF_TOPIC_RETRY, o->group);
    return HF_OK;
}

static enum hf_err split_topics(hf_worker *w) {
    size_t n = 0;
    w->topics = calloc(TOPICS_MAX + 1, sizeof *w->topics);
    w->strings[5] = strdup(w->options.topics);
    if (!w->topics || !w->strings[5]) return no_memory();
    char *save = NULL;
    for (char *t = strtok_r(w->strings[5], ", ", &save); t; t = strtok_r(NULL, ", ", &save)) {
        if (!hf_topic_name_ok(hf_str_of(t)) || hf_topic_is_ours(hf_str_of(t)))
            return client_error(HF_EINVAL, "worker option topics: \"%s\" is no topic that can be worked on",
                                t);
        if (n == TOPICS_MAX) return wrong("topics", "more than 100");
        if (strcmp(t, w->retry_topic) != 0) w->topics[n++] = t;
    }
    return n ? HF_OK : wrong("topics", "at least one is required");
}

static enum hf_err take_options(hf_worker *w, const hf_worker_options *options) {
    hf_worker_options *o = &w->options;
    if (!options) return wrong("size", "options are missing");
    enum hf_err e = client_take_options(o, sizeof *o, options, "worker options");
    if (!o->log) o->log = to_stderr;
    if (!e) e = check_options(o);
    if (!e) e = fill_numbers(o);
    if (!e) e = copy_strings(w);
    if (!e) e = split_topics(w);
    return e;
}

/* ---- opening ---- */

static enum hf_err open_client(hf_worker *w) {
    const hf_client_options o = {HF_CLIENT_DEFAULTS, .client_id = "holdfast-worker",
                                 .config = w->options.config, .timeout_ms = HF_SECONDS(10)};
    enum hf_err e = hf_connect(w->options.server, &o, &w->client);
    if (e || w->options.moves_direct) return e;
    e = client_has_scheduler(w->client, &w->scheduled);
    if (!e && !w->scheduled)
        worker_log(w, 1, "no_scheduler",
                   "server=%s note=\"no topic %s: retries stay in this worker, dead letters go "
                   "straight to their topic, at least once\"",
                   w->options.server, HF_TOPIC_DELAY);
    return e;
}

static enum hf_err open_dedup(hf_worker *w) {
    const hf_worker_options *o = &w->options;
    char url[1024];
    const char *from = o->redis ? o->redis : o->database;
    if (!from) return HF_OK;
    bool bare = o->redis && !strstr(o->redis, "://") && strcmp(o->redis, "memory:") != 0;
    snprintf(url, sizeof url, "%s%s", bare ? "redis://" : "", from);
    struct dedup_options d = {.url = url,
                              .lease_ms = o->lease_ms,
                              .horizon_ms = o->horizon_ms,
                              .connections = o->concurrency + 1, /* leases or expiry */
                              .log = dedup_log,
                              .log_arg = w};
    enum hf_err e = dedup_open(&d, &w->dedup);
    if (e)
        return client_error(e, "worker option %s: \"%s\": %s", o->redis ? "redis" : "database", from,
                            hf_err_text(e));
    enum dedup_kind wanted = o->redis ? DEDUP_EXTERNAL : DEDUP_DATABASE;
    return dedup_kind(w->dedup) == wanted
               ? HF_OK
               : wrong(o->redis ? "redis" : "database", "a store of the other kind");
}

static enum hf_err open_core(hf_worker *w) {
    const hf_worker_options *o = &w->options;
    struct core_options c = {.order = (enum core_order)o->order,
                             .buffer = o->buffer,
                             .policy = {.attempts = o->attempts,
                                        .first_ms = o->retry_first_ms,
                                        .longest_ms = o->retry_max_ms,
                                        .concurrency = o->concurrency}};
    enum hf_err e = core_open(&c, worker_mono_ms(), &w->core);
    if (!e) e = threads_open(w, o->concurrency, &w->pool);
    if (!e && o->effect == HF_EFFECT_EXTERNAL) e = leases_open(w, &w->leases);
    if (!e && w->dedup && o->effect != HF_EFFECT_STATE) e = expiry_open(w, &w->expiry);
    return e ? no_memory() : HF_OK;
}

enum hf_err hf_worker_open(const hf_worker_options *options, hf_worker **out) {
    hf_worker *w = calloc(1, sizeof *w);
    if (!w) return no_memory();
    w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enum hf_err e = HF_OK;
    if (w->stop_fd < 0 || w->wake_fd < 0) e = client_error(HF_EIO, "worker: eventfd: %s", strerror(errno));
    if (!e) e = take_options(w, options);
    if (!e) e = open_client(w);
    if (!e) e = open_dedup(w);
    if (!e) e = open_core(w);
    if (!e) e = consumer_open(w);
    if (e) {
        hf_worker_close(w);
        return e;
    }
    *out = w;
    return HF_OK;
}

/* ---- stopping ---- */

/* Written by hf_worker_stop_on_signals and hf_worker_close, read by the signal handler: descriptors plus 1, 0
 * is free. */
static atomic_int signal_fds[SIGNAL_WORKERS];

void hf_worker_stop(hf_worker *w) {
    uint64_t one = 1;
    int kept = errno;
    if (write(w->stop_fd, &one, sizeof one) < 0) errno = kept; /* full: it was asked already */
}

static void on_signal(int number) {
    (void)number;
    int kept = errno;
    uint64_t one = 1;
    for (int i = 0; i < SIGNAL_WORKERS; i++) {
        int fd = atomic_load(&signal_fds[i]) - 1;
        if (fd >= 0 && write(fd, &one, sizeof one) < 0) continue;
    }
    errno = kept;
}

enum hf_err hf_worker_stop_on_signals(hf_worker *w) {
    for (int i = 0; i < SIGNAL_WORKERS && !w->signals; i++) {
        int free_place = 0;
        w->signals = atomic_compare_exchange_strong(&signal_fds[i], &free_place, w->stop_fd + 1);
    }
    if (!w->signals) return client_error(HF_ELIMIT, "worker: more than %d in a process", SIGNAL_WORKERS);
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    return HF_OK;
}

static void free_ended(hf_worker *w) {
    struct hf_delivery *d = w->pool ? threads_take(w->pool) : NULL, *next;
    for (; d; d = next) {
        next = d->next;
        core_settle(w->core, &d->message);
        delivery_free(d);
    }
    for (d = w->moves; d; d = next) {
        next = d->next;
        core_settle(w->core, &d->message);
        delivery_free(d);
    }
}

void hf_worker_close(hf_worker *w) {
    if (!w) return;
    for (int i = 0; i < SIGNAL_WORKERS && w->signals; i++) {
        int ours = w->stop_fd + 1;
        atomic_compare_exchange_strong(&signal_fds[i], &ours, 0);
    }
    consumer_close(w);
    hf_close(w->client); /* reports of moves under way come in before this returns */
    if (w->pool) threads_join(w->pool);
    free_ended(w);
    threads_close(w->pool);
    leases_close(w->leases);
    expiry_close(w->expiry);
    core_close(w->core);
    dedup_close(w->dedup);
    if (w->stop_fd >= 0) close(w->stop_fd);
    if (w->wake_fd >= 0) close(w->wake_fd);
    for (size_t i = 0; i < sizeof w->strings / sizeof *w->strings; i++) free(w->strings[i]);
    free(w->topics);
    free(w);
}

void hf_worker_get_stats(hf_worker *w, hf_worker_stats *s) {
    struct counters *n = &w->counters;
    hf_worker_stats all = {.size = s->size,
                           .delivered = n->delivered,
                           .done = n->done,
                           .duplicates = n->duplicates,
                           .stale = n->stale,
                           .retried = n->retried,
                           .dead = n->dead,
                           .busy = n->busy,
                           .handed_back = n->handed_back,
                           .running = n->running,
                           .buffered = n->held,
                           .probing = n->probing};
    memcpy(s, &all, s->size < sizeof all ? s->size : sizeof all);
}
