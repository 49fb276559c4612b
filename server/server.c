/* Wiring: opens env, log, engine, the parts and the broker in this order, and closes them in the reverse one.
 *
 * One turn of the loop (broker.c) ends in step(): completions of syncs, the log, then each part. Whatever
 * they answer leaves in the same turn.
 *
 * Failure. A failed sync means that bytes are lost though reads still show them (rule 5 of docs/storage.md):
 * the log says so once, the loop ends, and the process exits without touching the data further. */
#include "server_internal.h"

#include "base/names.h"
#include "env/posix.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { STEP_MS_MAX = 100, REASON_ROOM = 64 << 10 };

void *server_state(const struct server *s, const struct server_part *part) {
    for (size_t i = 0; i < s->opened; i++)
        if (server_parts[i] == part) return s->states[i];
    return NULL;
}

int16_t server_check_epoch(const struct log_bounds *bounds, int32_t epoch) {
    if (epoch < 0 || epoch == bounds->leader_epoch) return KAFKA_NONE;
    return epoch < bounds->leader_epoch ? KAFKA_FENCED_LEADER_EPOCH : KAFKA_UNKNOWN_LEADER_EPOCH;
}

/* ---- our own topics ---- */

struct creation {
    bool done;
    enum hf_err e;
};

static void on_created(void *arg, enum hf_err e) {
    struct creation *c = arg;
    c->done = true;
    c->e = e;
}

/* max.message.bytes of one that was there before, if the server's was raised since. It is never lowered: what
 * pends may be as large as it was. */
static enum hf_err raise_message_max(struct server *s, hf_str name, int64_t wanted, struct creation *c) {
    struct log_topic_info info;
    enum hf_err e = log_topic(s->log, name, &info);
    c->done = e || info.settings.value[LOG_MESSAGE_MAX] >= wanted;
    if (c->done) return e;
    log_settings_put(&info.asked, LOG_MESSAGE_MAX, wanted);
    return log_topic_alter(s->log, name, &info.asked, on_created, c);
}

/* Before anything is served, so it may wait. */
static enum hf_err create_topic(struct server *s, hf_str name) {
    struct creation c = {false, HF_OK};
    struct log_topic_config config = {.partitions = 1, .internal = true};
    /* A rejected message is a message with a reason, and what the schedule writes again (a next run, a moved
     * one) is a message with a condition: both always fit. */
    int64_t message_max = s->settings->message_max + (hf_str_is(name, HF_TOPIC_TXN) ? 0 : REASON_ROOM);
    log_settings_put(&config.settings, LOG_MESSAGE_MAX, message_max);
    enum hf_err e = log_topic_create(s->log, name, &config, on_created, &c);
    if (e == HF_EEXIST) e = raise_message_max(s, name, message_max, &c);
    if (e) return e;
    struct pollfd fd = {.fd = env_poll_fd(s->env), .events = POLLIN};
    while (!c.done && !log_failed(s->log)) {
        int64_t wait_ms = log_step(s->log);
        if (!c.done) (void)poll(&fd, 1, wait_ms > STEP_MS_MAX ? STEP_MS_MAX : (int)wait_ms);
        (void)env_poll(s->env);
    }
    return c.done ? c.e : log_failed(s->log);
}

static enum hf_err create_our_topics(struct server *s) {
    static const char *const names[] = {HF_TOPIC_DELAY, HF_TOPIC_TXN, HF_TOPIC_REJECTED};
    enum hf_err e = HF_OK;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !e; i++)
        e = create_topic(s, hf_str_of(names[i]));
    return e;
}

/* ---- step ---- */

/* Microseconds: a message due at a millisecond is fired when it begins, not somewhere in it. */
static int64_t step(void *arg) {
    struct server *s = arg;
    (void)env_poll(s->env);
    int64_t wait_ms = log_step(s->log);
    s->failure = log_failed(s->log);
    if (s->failure) {
        broker_stop(s->broker);
        return 0;
    }
    int64_t now_ms = env_wall_ms(s->env), next_ms = INT64_MAX;
    for (size_t i = 0; i < server_part_count; i++) {
        if (!server_parts[i]->step) continue;
        int64_t wanted_ms = server_parts[i]->step(s->states[i], now_ms);
        if (wanted_ms < next_ms) next_ms = wanted_ms;
    }
    /* What the parts began (commits) is the log's work now. */
    int64_t again_ms = log_step(s->log);
    if (again_ms < wait_ms) wait_ms = again_ms;
    broker_hold(s->broker, log_crowded(s->log));
    if (next_ms >= now_ms + wait_ms) return wait_ms * 1000;
    return next_ms <= now_ms ? 0 : next_ms * 1000 - env_wall_us(s->env);
}

/* ---- open ---- */

/* Half of the descriptors that connections leave: appends may go half as far again, indexes take the rest. */
static size_t files_of_the_log(const struct server_settings *o) {
    enum { OURS = 256, LEAST = 512, MOST = 1 << 16 };
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return LEAST;
    rlim_t others = (rlim_t)(o->connections_max + o->http_connections_max + OURS);
    rlim_t left = limit.rlim_cur > others ? (limit.rlim_cur - others) / 2 : 0;
    return left < LEAST ? LEAST : left > MOST ? MOST : (size_t)left;
}

static enum hf_err open_store(struct server *s) {
    const struct server_settings *o = s->settings;
    struct env_posix_options place = {.root = o->data};
    enum hf_err e = env_level_of(o->log_level, &place.level);
    if (!e) e = env_posix_open(&place, &s->env);
    if (e) {
        (void)fprintf(stderr, "holdfast serve: cannot open the data folder %s: %s\n", o->data,
                      hf_err_text(e));
        return e;
    }
    struct log_options options = {
        .default_partitions = (int32_t)o->num_partitions,
        .segment_bytes = (uint64_t)o->segment_bytes,
        .message_max = (size_t)o->message_max,
        .auto_create = o->auto_create,
        .settings = s->settings_of_topics,
        .retention_check_ms = o->retention_check_ms,
        .open_files = files_of_the_log(o),
        .scrub_interval_ms = o->scrub_interval_ms ? o->scrub_interval_ms : -1,
        .scrub_bytes_s = (uint64_t)o->scrub_bytes_s,
        .compaction_bytes = (size_t)o->compaction_memory,
    };
    e = log_open(s->env, &options, &s->log);
    if (e) return e;
    s->engine = log_engine(s->log);
    return create_our_topics(s);
}

static enum hf_err open_parts(struct server *s) {
    for (; s->opened < server_part_count; s->opened++) {
        const struct server_part *part = server_parts[s->opened];
        s->states[s->opened] = s;
        enum hf_err e = part->open ? part->open(s, &s->states[s->opened]) : HF_OK;
        if (e) {
            env_log(s->env, ENV_ERROR, "start_failed", "part=%s error=\"%s\"", part->name, hf_err_text(e));
            return e;
        }
    }
    return HF_OK;
}

static enum hf_err open_broker(struct server *s) {
    size_t handlers = 0, routes = 0;
    for (size_t i = 0; i < server_part_count; i++) {
        const struct server_part *part = server_parts[i];
        for (size_t k = 0; k < part->handler_count; k++) {
            if (handlers == sizeof(s->handlers) / sizeof(s->handlers[0])) return HF_ELIMIT;
            s->handlers[handlers++] =
                (struct broker_handler){part->handlers[k].key, part->handlers[k].handle, s->states[i]};
        }
        for (size_t k = 0; k < part->route_count; k++) {
            if (routes == sizeof(s->routes) / sizeof(s->routes[0])) return HF_ELIMIT;
            s->routes[routes++] =
                (struct broker_route){part->routes[k].method, part->routes[k].path, part->routes[k].handle,
                                      s->states[i], part->routes[k].query};
        }
    }
    struct broker_options options = {.env = s->env,
                                     .listen = s->settings->listen,
                                     .http = *s->settings->http ? s->settings->http : NULL,
                                     .handlers = s->handlers,
                                     .handler_count = handlers,
                                     .routes = s->routes,
                                     .route_count = routes,
                                     .step = step,
                                     .step_ctx = s,
                                     .wake_fd = env_poll_fd(s->env),
                                     .connections_max = (size_t)s->settings->connections_max,
                                     .http_connections_max = (size_t)s->settings->http_connections_max,
                                     .frame_max = (size_t)s->settings->request_max};
    enum hf_err e = broker_open(&options, &s->broker);
    if (!e) e = broker_stop_on_signal(s->broker, SIGTERM);
    if (!e) e = broker_stop_on_signal(s->broker, SIGINT);
    return e;
}

/* "host", "host:port", "[v6]:port" → host and port; without a port, or with 0, the one we listen on. */
static void set_advertised(struct server *s) {
    const char *listening = broker_kafka_address(s->broker);
    const char *text = s->settings->advertise ? s->settings->advertise : listening;
    s->port = atoi(strrchr(listening, ':') + 1);
    const char *colon = strrchr(text, ':');
    if (colon && strchr(colon, ']')) colon = NULL;
    size_t n = colon ? (size_t)(colon - text) : strlen(text);
    if (colon && atoi(colon + 1) > 0) s->port = atoi(colon + 1);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    (void)snprintf(s->host, sizeof(s->host), "%.*s", (int)n, text);
    bool any = strcmp(s->host, "0.0.0.0") == 0 || strcmp(s->host, "::") == 0;
    if (any && gethostname(s->host, sizeof(s->host) - 1))
        (void)snprintf(s->host, sizeof(s->host), "localhost");
}

/* In the reverse order of opening, as far as that got. */
static enum hf_err shut(struct server *s) {
    enum hf_err e = s->failure;
    if (s->broker) broker_close(s->broker);
    while (s->opened > 0) {
        s->opened--;
        if (server_parts[s->opened]->close) server_parts[s->opened]->close(s->states[s->opened]);
    }
    if (s->log && e)
        log_abandon(s->log);
    else if (s->log)
        e = log_close(s->log);
    if (s->env) hf_env_close(s->env);
    free(s);
    return e;
}

enum hf_err server_open(const struct server_settings *settings, struct server **out) {
    struct server *s = calloc(1, sizeof(*s));
    if (!s) return HF_ENOMEM;
    s->settings = settings;
    enum log_setting wrong;
    if (server_settings_of_topics(settings, &s->settings_of_topics, &wrong)) {
        free(s); /* server_settings_check would have told */
        return HF_EINVAL;
    }
    enum hf_err e = server_part_count <= SERVER_PARTS_MAX ? open_store(s) : HF_ELIMIT;
    if (!e) e = open_parts(s);
    if (!e) e = open_broker(s);
    if (e) {
        (void)shut(s);
        return e;
    }
    set_advertised(s);
    s->ready = true;
    *out = s;
    return HF_OK;
}

enum hf_err server_run(struct server *s) {
    enum hf_err e = broker_run(s->broker);
    s->ready = false;
    return s->failure ? s->failure : e;
}

enum hf_err server_close(struct server *s) {
    return shut(s);
}

const char *server_kafka_address(const struct server *s) {
    return broker_kafka_address(s->broker);
}

const char *server_http_address(const struct server *s) {
    return broker_http_address(s->broker);
}
