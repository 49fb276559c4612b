/* holdfast work: a worker whose handler is a program. */
#include "child.h"
#include "common.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

struct work {
    struct cli_server at;
    const char *topic, *group, *effect, *redis, *order, *from;
    int64_t concurrency, horizon_ms, lease_ms, timeout_ms, attempts, first_ms, longest_ms, buffer, drain_ms,
        session_ms, heartbeat_ms;
    bool direct;
};

#define TEXT(flag, field, def, what, line)                                                                   \
    { flag, HF_OPTION_TEXT, offsetof(struct work, field), .fallback = def, .value = what, .help = line }
#define TIME(flag, field, def, line)                                                                         \
    { flag, HF_OPTION_MS, offsetof(struct work, field), .fallback = def, .value = "TIME", .help = line }
#define NUMBER(flag, field, def, line)                                                                       \
    {                                                                                                        \
        flag, HF_OPTION_INT, offsetof(struct work, field), .fallback = def, .min = 1, .max = 1000000,        \
                                                           .value = "N", .help = line                        \
    }

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct work),
    TEXT("topic", topic, NULL, "T,…", "the topics to work on; required"),
    TEXT("group", group, NULL, "G", "the consumer group; required"),
    TEXT("effect", effect, "none", "none|external", "external: deduplicated by a lease in --redis"),
    TEXT("redis", redis, NULL, "HOST:PORT", "for --effect external"),
    TEXT("order", order, "key", "key|partition|none", "what runs one at a time"),
    TEXT("from", from, "earliest", "earliest|latest", "where a new group begins"),
    NUMBER("concurrency", concurrency, "16", "processes at once"),
    NUMBER("attempts", attempts, "16", "then the topic dlq.<group>"),
    NUMBER("buffer", buffer, "1000", "messages held of one partition"),
    TIME("retry.first", first_ms, "1s", "pause before the first retry, at most"),
    TIME("retry.max", longest_ms, "10m", "pause between retries, at most"),
    TIME("timeout", timeout_ms, "5m", "then the program gets SIGTERM, then SIGKILL"),
    TIME("lease", lease_ms, "30s", "of an external effect"),
    TIME("dedup.horizon", horizon_ms, "7d", "how long a settled message is remembered"),
    TIME("drain", drain_ms, "20s", "for what runs at a stop or rebalance"),
    TIME("session", session_ms, "10s", "the group gives a silent worker up after that"),
    TIME("heartbeat", heartbeat_ms, "3s", "between signs of life"),
    {"moves.direct", HF_OPTION_SWITCH, offsetof(struct work, direct),
     .help = "never use the server's scheduler"},
};
static const struct hf_options options = {"work", rows, sizeof rows / sizeof *rows};

static hf_verdict handle(hf_delivery *d, void *arg) {
    return child_run(arg, d);
}

/* The place of a word in a list; -1. */
static int word(const char *s, const char *const *list, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(s, list[i]) == 0) return i;
    return -1;
}

/* A stop before there is a worker: nothing has been taken yet, so nothing is to be handed back. */
static void stop_at_once(int number) {
    (void)number;
    _exit(CLI_DONE);
}

static int run(const struct work *w, char *const *argv) {
    static const char *const effects[] = {"none", "database", "state", "external"};
    static const char *const orders[] = {"key", "partition", "none"};
    int effect = word(w->effect, effects, 4), order = word(w->order, orders, 3);
    bool latest = strcmp(w->from, "latest") == 0;
    if (effect == HF_EFFECT_DATABASE || effect == HF_EFFECT_STATE)
        return cli_usage(
            "work",
            "effect \"%s\" needs a handler in the worker's own process (the C API): a program cannot "
            "share its transaction; use \"external\"",
            w->effect);
    if (effect < 0) return cli_usage("work", "effect \"%s\" is neither none nor external", w->effect);
    if (order < 0) return cli_usage("work", "order \"%s\" is neither key, partition nor none", w->order);
    if (!latest && strcmp(w->from, "earliest") != 0)
        return cli_usage("work", "from \"%s\" is neither earliest nor latest", w->from);
    (void)signal(SIGPIPE, SIG_IGN); /* a program that does not read its input */
    (void)signal(SIGTERM, stop_at_once);
    (void)signal(SIGINT, stop_at_once);
    const hf_worker_options o = {HF_WORKER_DEFAULTS,
                                 .server = w->at.server,
                                 .group = w->group,
                                 .topics = w->topic,
                                 .handler = handle,
                                 .arg = (void *)(uintptr_t)argv,
                                 .effect = (hf_effect)effect,
                                 .order = (hf_order)order,
                                 .concurrency = (int32_t)w->concurrency,
                                 .redis = w->redis,
                                 .horizon_ms = w->horizon_ms,
                                 .lease_ms = w->lease_ms,
                                 .handler_timeout_ms = w->timeout_ms,
                                 .attempts = (int32_t)w->attempts,
                                 .retry_first_ms = w->first_ms,
                                 .retry_max_ms = w->longest_ms,
                                 .buffer = (int32_t)w->buffer,
                                 .drain_ms = w->drain_ms,
                                 .session_ms = w->session_ms,
                                 .heartbeat_ms = w->heartbeat_ms,
                                 .from_latest = latest,
                                 .moves_direct = w->direct};
    hf_worker *worker;
    enum hf_err e = hf_worker_open(&o, &worker);
    if (e) {
        int status = cli_fail("work", e);
        return e == HF_EINVAL ? CLI_USAGE : status;
    }
    e = hf_worker_stop_on_signals(worker);
    if (!e) e = hf_worker_run(worker);
    int status = e ? cli_fail("work", e) : CLI_DONE;
    hf_worker_close(worker);
    return status;
}

int cli_work(int argc, char **argv) {
    struct hf_config c;
    struct work w;
    bool stop;
    int status = cli_settings(&c, &options, "holdfast work --topic T --group G [FLAGS] -- CMD [ARG…]", argc,
                              argv, &w, &stop);
    if (!stop && (!c.dashes || c.dashes_at > 0 || c.rest_count == 0)) {
        status = cli_usage("work", "the program is missing: it stands behind a lone --");
        stop = true;
    }
    if (!stop) status = run(&w, (char *const *)(uintptr_t)c.rest);
    hf_config_fini(&c);
    return status;
}
