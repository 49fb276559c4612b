/* The schedule inside the server: stepped by the loop, asked by the door, seen and changed over HTTP.
 *
 *     GET    /v1/schedule?topic=T&prefix=P&from=MS&to=MS&after=DUE-SEQUENCE&limit=N    a page, oldest first
 *     GET    /v1/schedule-count?…       how many, how many bytes, due when: a page's share, and the next
 *     DELETE /v1/schedule?topic=T&prefix=P…    cancel many (delay_bulk.c)
 *     POST   /v1/schedule?topic=T&prefix=P…    move many
 *     GET    /v1/schedule/TOPIC/ID      the pending message; of a recurring one its next five runs
 *     DELETE /v1/schedule/TOPIC/ID      cancel
 *     POST   /v1/schedule/TOPIC/ID      move: {"due": ms or RFC 3339} or {"delay": "15m"}
 *     GET    /v1/schedule-outcomes?partition=P&offset=O    what a record of holdfast.delay did: 503 not read
 *                                       yet, 404 an ordinary schedule, or forgotten
 *     GET    /v1/schedule-next?cron=EXPRESSION&tz=ZONE    its next five times, or 400 and what is wrong where
 *     GET    /v1/schedule-stats
 *     POST   /v1/schedule-clock         the wall clock is right although it leapt
 *     POST   /v1/rejected/PARTITION/OFFSET    what lies there goes to its destination again (delay_replay.c) */
#include "delay_wait.h"

#include "base/control.h"
#include "base/names.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>

static void on_clock(void *state, struct broker_http *rq) {
    struct delay *d = state;
    schedule_accept_clock(d->schedule);
    delay_reply_json(rq, 200, json_pack("{s:s}", "clock", "accepted"));
}

/* ---- the part ---- */

static void on_event(void *arg, enum schedule_event what, const char *text) {
    static const char *const names[DELAY_EVENTS] = {"clock_leapt",      "clock_back",    "schedule_rewound",
                                                    "message_rejected", "merge_put_off", "schedule_damaged"};
    enum { QUIET_MS = 1000 };
    struct delay *d = arg;
    int64_t now_ms = env_mono_us(d->server->env) / 1000;
    d->events[what]++;
    if (d->events[what] > 1 && now_ms - d->told_ms[what] < QUIET_MS) return;
    d->told_ms[what] = now_ms;
    env_log(d->server->env, what == SCHEDULE_CLOCK_BACK ? ENV_INFO : ENV_WARN, names[what],
            "count=%" PRIu64 " why=\"%s\"", d->events[what], text);
}

struct putting {
    bool done;
    enum hf_err e;
};

static void on_put(void *arg, enum hf_err e) {
    *(struct putting *)arg = (struct putting){true, e};
}

/* Before anything is served, so it may wait, and every record that comes then has the table's meaning. */
static enum hf_err put_levels_in_force(struct delay *d) {
    enum { TURN_MS = 20 };
    struct server *s = d->server;
    struct putting putting = {false, HF_OK};
    bool started;
    hf_str table = hf_str_of(s->settings->delay_levels);
    enum hf_err e = schedule_check_levels(table, &d->levels);
    if (!e) e = schedule_set_levels(s->engine, table, env_wall_ms(s->env), on_put, &putting, &started);
    if (e || !started) return e;
    struct pollfd fd = {.fd = env_poll_fd(s->env), .events = POLLIN};
    while (!putting.done && !log_failed(s->log)) {
        (void)log_step(s->log);
        if (!putting.done) (void)poll(&fd, 1, TURN_MS);
        (void)env_poll(s->env);
    }
    return putting.done ? putting.e : log_failed(s->log);
}

/* ---- the door's questions ---- */

enum hf_err server_delay_admit(struct server *s, const struct hf_control *c, size_t bytes,
                               struct hf_control_error *why) {
    struct delay *d = server_state(s, &server_delay);
    bool about_tz = false;
    if (c->delay_level > 0 && (size_t)c->delay_level > d->levels) {
        (void)snprintf(d->why, sizeof(d->why), "level%d: delay.levels has %zu", c->delay_level, d->levels);
        *why = (struct hf_control_error){HF_HDR_DELAY, d->why};
        return HF_EINVAL;
    }
    if (c->cron.p && schedule_check_cron(d->schedule, c->cron, c->tz, d->why, &about_tz)) {
        *why = (struct hf_control_error){about_tz ? HF_HDR_TZ : HF_HDR_CRON, d->why};
        return HF_EINVAL;
    }
    bool adds = c->op == HF_OP_SCHEDULE || c->op == HF_OP_PREPARE;
    if (!adds || !delay_limits_admit(d, c->topic, bytes)) return HF_OK;
    *why = (struct hf_control_error){NULL, d->why};
    return HF_EAGAIN;
}

static enum hf_err part_open(struct server *s, void **state) {
    struct delay *d = calloc(1, sizeof(*d));
    if (!d) return HF_ENOMEM;
    d->server = s;
    struct schedule_options options = {.random_seed = env_random(s->env),
                                       .boot_id = env_boot_id(s->env),
                                       .gather_bytes = (size_t)s->settings->schedule_memory,
                                       .id_memory_ms = s->settings->id_memory_ms,
                                       .id_memory_bytes = (uint64_t)s->settings->id_memory_bytes,
                                       .crc32_partitioner = strcmp(s->settings->partitioner, "crc32") == 0,
                                       .event = on_event,
                                       .arg = d};
    enum hf_err e =
        schedule_open(s->engine, &options, env_wall_ms(s->env), env_mono_us(s->env) / 1000, &d->schedule);
    if (!e) e = put_levels_in_force(d);
    if (e) {
        schedule_close(d->schedule);
        free(d);
        return e;
    }
    *state = d;
    return HF_OK;
}

static int64_t part_step(void *state, int64_t now_ms) {
    struct delay *d = state;
    int64_t mono_ms = env_mono_us(d->server->env) / 1000;
    int64_t wait_ms = schedule_step(d->schedule, now_ms, mono_ms);
    delay_limits_step(d);
    delay_waits_step(d, mono_ms);
    return now_ms + wait_ms;
}

/* Commits and seals under way end first, unless the disk has failed. Requests have ended with the broker. */
static void part_close(void *state) {
    enum { TURN_MS = 20 };
    struct delay *d = state;
    struct server *s = d->server;
    struct pollfd fd = {.fd = env_poll_fd(s->env), .events = POLLIN};
    while ((!schedule_idle(d->schedule) || delay_waits_append(d)) && !log_failed(s->log)) {
        (void)log_step(s->log);
        (void)poll(&fd, 1, TURN_MS);
        (void)env_poll(s->env);
    }
    schedule_close(d->schedule);
    delay_waits_forget(d);
    delay_limits_fini(d);
    free(d);
}

#define PAGE_QUERY "topic prefix from to limit after"
static const struct server_route routes[] = {
    {"GET", "/v1/schedule", delay_on_list, PAGE_QUERY},
    {"DELETE", "/v1/schedule", delay_on_bulk_cancel, PAGE_QUERY},
    {"POST", "/v1/schedule", delay_on_bulk_move, PAGE_QUERY},
    {"GET", "/v1/schedule-count", delay_on_count, PAGE_QUERY},
    {"GET", "/v1/schedule-outcomes", delay_on_outcome, "partition offset"},
    {"GET", "/v1/schedule-stats", delay_on_stats, ""},
    {"GET", "/v1/schedule-next", delay_on_next, "cron tz"},
    {"POST", "/v1/schedule-clock", on_clock, ""},
    {"GET", "/v1/schedule/*", delay_on_show, ""},
    {"DELETE", "/v1/schedule/*", delay_on_cancel, ""},
    {"POST", "/v1/schedule/*", delay_on_move, ""},
    {"POST", "/v1/rejected/*", delay_on_replay, ""},
};

const struct server_part server_delay = {.name = "schedule",
                                         .open = part_open,
                                         .step = part_step,
                                         .close = part_close,
                                         .metrics = delay_metrics,
                                         .routes = routes,
                                         .route_count = sizeof(routes) / sizeof(routes[0])};
