/* The schedule inside the server: stepped by the loop, seen and changed over HTTP.
 *
 *     GET    /v1/schedule?topic=T&prefix=P&from=MS&to=MS&after=DUE-SEQUENCE&limit=N    a page, oldest first
 *     GET    /v1/schedule/TOPIC/ID      the pending message
 *     DELETE /v1/schedule/TOPIC/ID      cancel
 *     POST   /v1/schedule/TOPIC/ID      move: {"due": ms or RFC 3339} or {"delay": "15m"}
 *     GET    /v1/schedule-outcomes?partition=P&offset=O    what the record accepted there did: 503 not read
 *                                       yet, 404 an ordinary schedule that met nothing, or forgotten
 *     GET    /v1/schedule-stats
 *     POST   /v1/schedule-clock         the wall clock is right although it leapt
 *
 * Cancel and move append a record to holdfast.delay, as any client may, and answer when the schedule has read
 * it: the outcome is then a fact of the durable log. A move carries the message again, on condition that the
 * one it is about still has this id; if another took its place meanwhile (CHANGED), it is tried again with
 * that one.
 *
 *     asked --append durable--> appended --schedule has read it--> answered
 *
 * Limits: CHANGES_MAX requests wait at once, for CHANGE_WAIT_MS; later the answer is 504, and the outcome is
 * decided all the same. */
#include "server_internal.h"

#include "base/arena.h"
#include "base/control.h"
#include "base/duration.h"
#include "base/names.h"
#include "store/engine/batch.h"
#include "timewheel/schedule/schedule.h"

#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>

enum {
    CHANGES_MAX = 1000,
    CHANGE_WAIT_MS = 10000,
    MOVE_TRIES = 5,
    PAGE_DEFAULT = 100,
    RECORD_MAX = 64 << 20,
    EVENTS = SCHEDULE_DAMAGED + 1,
    MOVE_HEADERS = 8,
};

struct change { /* a cancel or a move that waits for its answer */
    struct delay *d;
    struct broker_http *rq;
    hf_str topic, id;             /* in the request's arena */
    hf_str due_header, due_value; /* of a move; else n == 0 */
    int tries;
    int64_t until_ms;
    bool appending;
    int64_t offset;
    enum hf_err failed; /* of the append */
    struct change *next;
};

struct delay {
    struct server *server;
    struct schedule *schedule;
    struct change *changes;
    size_t change_count;
    int64_t told_ms[EVENTS]; /* when such a line was last logged */
    uint64_t events[EVENTS];
};

/* ---- answers ---- */

static void reply_json(struct broker_http *rq, int status, json_t *body) {
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text)
        broker_http_reply(rq, status, "application/json", hf_str_of(text));
    else
        broker_http_reply(rq, 500, "application/json", HF_STR("{\"error\":\"out of memory\"}"));
    free(text);
}

static void reply_error(struct broker_http *rq, int status, const char *why) {
    reply_json(rq, status, json_pack("{s:s}", "error", why));
}

static int status_of(enum hf_err e) {
    return e == HF_ENOTFOUND ? 404 : e == HF_EINVAL ? 400 : hf_err_class_of(e) == HF_CLASS_RETRY ? 503 : 500;
}

static void reply_failure(struct broker_http *rq, enum hf_err e) {
    reply_error(rq, status_of(e), hf_err_text(e));
}

/* 200: it is as was asked; 404: no such id; 409: it is otherwise. */
static void reply_outcome(struct broker_http *rq, enum schedule_outcome o, enum schedule_outcome asked) {
    int status = o == asked ? 200 : o == SCHEDULE_UNKNOWN ? 404 : 409;
    reply_json(rq, status, json_pack("{s:s}", "outcome", schedule_outcome_text(o)));
}

/* ---- looking ---- */

/* A string, if the bytes are UTF-8; else null, and the size tells the rest. */
static json_t *text_of(hf_str s) {
    json_t *text = s.p ? json_stringn(s.p, s.n) : NULL;
    return text ? text : json_null();
}

static json_t *item_json(const struct schedule_item *item) {
    char due[HF_TIME_TEXT];
    hf_time_format(item->due_ms, due);
    json_t *o = json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:o, s:I}", "topic", text_of(item->topic), "id",
                          text_of(item->id), "due", due, "due_ms", (json_int_t)item->due_ms, "accepted_ms",
                          (json_int_t)item->accepted_ms, "sequence", (json_int_t)item->place.sequence, "key",
                          text_of(item->key), "value_bytes", (json_int_t)item->value.n);
    if (o && item->partition >= 0) json_object_set_new(o, "partition", json_integer(item->partition));
    return o;
}

static void add_item(void *arg, const struct schedule_item *item) {
    json_array_append_new(arg, item_json(item));
}

static bool number_of(hf_str text, int64_t least, int64_t *out) {
    if (!text.p) return true;
    return hf_str_int(text, out) == HF_OK && *out >= least;
}

/* "DUE-SEQUENCE", as "next" of the page before. */
static bool place_of(hf_str text, struct schedule_place *out) {
    if (!text.p) return true;
    const char *dash = memchr(text.p, '-', text.n);
    int64_t due, sequence;
    if (!dash || hf_str_int(hf_str_make(text.p, (size_t)(dash - text.p)), &due)) return false;
    if (hf_str_int(hf_str_make(dash + 1, (size_t)(text.p + text.n - dash - 1)), &sequence)) return false;
    *out = (struct schedule_place){due, (uint64_t)sequence};
    return due >= 0 && sequence >= 0;
}

static void on_list(void *state, struct broker_http *rq) {
    struct delay *d = state;
    struct schedule_query q = {.topic = broker_http_query(rq, "topic"),
                               .id_prefix = broker_http_query(rq, "prefix")};
    int64_t limit = PAGE_DEFAULT;
    bool ok = number_of(broker_http_query(rq, "from"), 0, &q.due_from_ms) &&
              number_of(broker_http_query(rq, "to"), 0, &q.due_to_ms) &&
              number_of(broker_http_query(rq, "limit"), 1, &limit) &&
              place_of(broker_http_query(rq, "after"), &q.after);
    if (!ok || limit > SCHEDULE_PAGE_MAX) {
        reply_error(rq, 400, "from, to: ms since 1970; limit: 1 to 1000; after: the next of the page before");
        return;
    }
    q.limit = (size_t)limit;
    struct schedule_place next;
    bool more = false;
    json_t *items = json_array();
    enum hf_err e = schedule_list(d->schedule, &q, add_item, items, &next, &more);
    if (e) {
        json_decref(items);
        reply_failure(rq, e);
        return;
    }
    char text[64];
    (void)snprintf(text, sizeof(text), "%" PRId64 "-%" PRIu64, next.due_ms, next.sequence);
    reply_json(rq, 200,
               json_pack("{s:o, s:o}", "messages", items, "next", more ? json_string(text) : json_null()));
}

/* "TOPIC/ID"; an id may have slashes. */
static bool split_rest(struct broker_http *rq, hf_str *topic, hf_str *id) {
    hf_str rest = broker_http_rest(rq);
    const char *slash = rest.n ? memchr(rest.p, '/', rest.n) : NULL;
    if (!slash) return false;
    *topic = hf_str_make(rest.p, (size_t)(slash - rest.p));
    *id = hf_str_make(slash + 1, (size_t)(rest.p + rest.n - slash - 1));
    return topic->n > 0 && id->n > 0 && id->n <= HF_ID_MAX;
}

static void show_item(void *arg, const struct schedule_item *item) {
    json_t *o = item_json(item), *headers = json_array();
    for (size_t i = 0; i < item->header_count; i++)
        json_array_append_new(
            headers, json_pack("[o, o]", text_of(item->headers[i].key), text_of(item->headers[i].value)));
    json_object_set_new(o, "headers", headers);
    json_object_set_new(o, "value", text_of(item->value));
    *(json_t **)arg = o;
}

static void on_show(void *state, struct broker_http *rq) {
    struct delay *d = state;
    hf_str topic, id;
    if (!split_rest(rq, &topic, &id)) {
        reply_error(rq, 400, "the path is /v1/schedule/TOPIC/ID");
        return;
    }
    json_t *item = NULL;
    enum hf_err e = schedule_show(d->schedule, topic, id, show_item, &item);
    if (e)
        reply_failure(rq, e);
    else
        reply_json(rq, 200, item);
}

/* 503: not read yet; 404: an ordinary schedule that met nothing, or forgotten. */
static void on_outcomes(void *state, struct broker_http *rq) {
    const struct delay *d = state;
    int64_t partition = 0, offset = -1;
    enum schedule_outcome o;
    if (!number_of(broker_http_query(rq, "partition"), 0, &partition) || partition > INT32_MAX ||
        !number_of(broker_http_query(rq, "offset"), 0, &offset) || offset < 0) {
        reply_error(rq, 400, "partition and offset are numbers");
        return;
    }
    enum hf_err e = schedule_outcome_of(d->schedule, (int32_t)partition, offset, &o);
    if (e == HF_EAGAIN)
        reply_error(rq, 503, "not read yet: ask again");
    else if (e)
        reply_failure(rq, e);
    else
        reply_json(rq, 200, json_pack("{s:s}", "outcome", schedule_outcome_text(o)));
}

static void on_stats(void *state, struct broker_http *rq) {
    const struct delay *d = state;
    struct schedule_stats s;
    schedule_stats(d->schedule, &s);
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "pending", (json_int_t)s.pending,
        "accepted", (json_int_t)s.accepted, "fired", (json_int_t)s.fired, "rejected", (json_int_t)s.rejected,
        "late_ms", (json_int_t)s.late_ms, "runs", (json_int_t)s.runs, "run_bytes", (json_int_t)s.run_bytes,
        "memory_bytes", (json_int_t)s.memory_bytes, "id_horizon_ms", (json_int_t)s.id_horizon_ms,
        "clock_leapt", (int)s.clock_leapt, "caught_up", (int)s.caught_up);
    if (o && s.next_due_ms < INT64_MAX) json_object_set_new(o, "next_due_ms", json_integer(s.next_due_ms));
    reply_json(rq, 200, o);
}

static void on_clock(void *state, struct broker_http *rq) {
    struct delay *d = state;
    schedule_accept_clock(d->schedule);
    reply_json(rq, 200, json_pack("{s:s}", "clock", "accepted"));
}

/* ---- changing ---- */

static void end_change(struct change *c) {
    struct delay *d = c->d;
    for (struct change **p = &d->changes; *p; p = &(*p)->next) {
        if (*p != c) continue;
        *p = c->next;
        break;
    }
    d->change_count--;
    free(c);
}

static void appended(void *arg, const struct log_appended *result) {
    struct change *c = arg;
    c->appending = false;
    c->failed = result->e;
    c->offset = result->base_offset;
}

struct building {
    struct change *c;
    struct batch_builder *b;
    enum hf_err e;
};

static void add(struct hf_header *h, size_t *n, const char *name, hf_str value) {
    h[(*n)++] = (struct hf_header){hf_str_of(name), value};
}

/* The message again, with its identity, its new time, and the condition. */
static void build_move(void *arg, const struct schedule_item *item) {
    struct building *b = arg;
    struct hf_header h[ENGINE_HEADERS_MAX + MOVE_HEADERS];
    char identity[128], created[32], expect[32], partition[16];
    bool has_identity = false, has_created = false;
    size_t n = 0;
    for (; n < item->header_count; n++) {
        h[n] = item->headers[n];
        has_identity |= hf_str_is(h[n].key, HF_HDR_MESSAGE_ID);
        has_created |= hf_str_is(h[n].key, HF_HDR_CREATED_AT);
    }
    (void)snprintf(identity, sizeof(identity), HF_TOPIC_DELAY "/%" PRId32 "/%" PRId64 "@%" PRId64,
                   item->source_partition, item->source_offset, item->accepted_ms);
    (void)snprintf(created, sizeof(created), "%" PRId64, item->accepted_ms);
    (void)snprintf(expect, sizeof(expect), "%" PRIu64, item->place.sequence);
    (void)snprintf(partition, sizeof(partition), "%" PRId32, item->partition);
    if (!has_identity) add(h, &n, HF_HDR_MESSAGE_ID, hf_str_of(identity));
    if (!has_created) add(h, &n, HF_HDR_CREATED_AT, hf_str_of(created));
    if (item->partition >= 0) add(h, &n, HF_HDR_PARTITION, hf_str_of(partition));
    add(h, &n, HF_HDR_OP, HF_STR("move"));
    add(h, &n, HF_HDR_TOPIC, item->topic);
    add(h, &n, HF_HDR_ID, item->id);
    add(h, &n, HF_HDR_EXPECT, hf_str_of(expect));
    h[n++] = (struct hf_header){b->c->due_header, b->c->due_value};
    b->e = n > ENGINE_HEADERS_MAX ? HF_ELIMIT : batch_builder_add(b->b, item->key, item->value, h, n);
}

/* Nothing pends: a move of sequence 0, which no message has, changes nothing and learns why. */
static enum hf_err build_question(const struct change *c, struct batch_builder *b) {
    const struct hf_header h[] = {{HF_STR(HF_HDR_OP), HF_STR("move")},
                                  {HF_STR(HF_HDR_TOPIC), c->topic},
                                  {HF_STR(HF_HDR_ID), c->id},
                                  {HF_STR(HF_HDR_EXPECT), HF_STR("0")},
                                  {c->due_header, c->due_value}};
    return batch_builder_add(b, (hf_str){NULL, 0}, (hf_str){NULL, 0}, h, sizeof(h) / sizeof(h[0]));
}

static enum hf_err build_cancel(const struct change *c, struct batch_builder *b) {
    const struct hf_header h[] = {
        {HF_STR(HF_HDR_OP), HF_STR("cancel")}, {HF_STR(HF_HDR_TOPIC), c->topic}, {HF_STR(HF_HDR_ID), c->id}};
    return batch_builder_add(b, (hf_str){NULL, 0}, (hf_str){NULL, 0}, h, sizeof(h) / sizeof(h[0]));
}

static enum hf_err build_change(struct change *c, struct batch_builder *b) {
    if (c->due_header.n == 0) return build_cancel(c, b);
    struct building building = {c, b, HF_OK};
    enum hf_err e = schedule_show(c->d->schedule, c->topic, c->id, build_move, &building);
    if (e == HF_ENOTFOUND) return build_question(c, b);
    return e ? e : building.e;
}

static enum hf_err append_change(struct change *c) {
    struct server *s = c->d->server;
    struct log_partition *p = log_partition(s->log, HF_STR(HF_TOPIC_DELAY), 0);
    if (!p) return HF_ENOTFOUND;
    struct batch_builder b;
    hf_str bytes;
    batch_builder_init(&b, RECORD_MAX);
    batch_builder_begin(&b, env_wall_ms(s->env));
    enum hf_err e = build_change(c, &b);
    if (!e) e = batch_builder_finish(&b, &bytes);
    if (!e) e = log_append(s->log, p, b.buf.p, bytes.n, LOG_ACK_DURABLE, appended, c);
    batch_builder_fini(&b);
    c->appending = !e;
    return e;
}

static void begin_change(struct delay *d, struct broker_http *rq, hf_str topic, hf_str id, hf_str due_header,
                         hf_str due_value) {
    if (d->change_count == CHANGES_MAX) {
        reply_error(rq, 503, "too many changes wait; try again");
        return;
    }
    struct change *c = calloc(1, sizeof(*c));
    if (!c) {
        reply_failure(rq, HF_ENOMEM);
        return;
    }
    *c = (struct change){.d = d,
                         .rq = rq,
                         .topic = topic,
                         .id = id,
                         .due_header = due_header,
                         .due_value = due_value,
                         .until_ms = env_mono_us(d->server->env) / 1000 + CHANGE_WAIT_MS,
                         .next = d->changes};
    enum hf_err e = append_change(c);
    if (e) {
        free(c);
        reply_failure(rq, e);
        return;
    }
    d->changes = c;
    d->change_count++;
}

static void on_cancel(void *state, struct broker_http *rq) {
    hf_str topic, id;
    if (!split_rest(rq, &topic, &id) || !hf_topic_name_ok(topic) || hf_topic_is_ours(topic)) {
        reply_error(rq, 400, "the path is /v1/schedule/TOPIC/ID");
        return;
    }
    begin_change(state, rq, topic, id, (hf_str){NULL, 0}, (hf_str){NULL, 0});
}

/* The body's "due" or "delay" as the header that a record has; NULL: fine. */
static const char *parse_time(struct broker_http *rq, hf_str *header, hf_str *value) {
    hf_str body = broker_http_body(rq);
    json_t *o = json_loadb(body.n ? body.p : "", body.n, 0, NULL);
    json_t *due = json_object_get(o, "due"), *delay = json_object_get(o, "delay");
    json_t *given = due ? due : delay;
    char number[32];
    hf_str text = {NULL, 0};
    if (json_is_string(given)) text = hf_str_make(json_string_value(given), json_string_length(given));
    if (json_is_integer(given)) {
        (void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(given));
        text = hf_str_of(number);
    }
    char *copy = text.n && !(due && delay) ? hf_arena_alloc(broker_http_arena(rq), text.n) : NULL;
    if (copy) {
        memcpy(copy, text.p, text.n);
        *header = due ? HF_STR(HF_HDR_DUE) : HF_STR(HF_HDR_DELAY);
        *value = hf_str_make(copy, text.n);
    }
    json_decref(o);
    return copy ? NULL : "the body is {\"due\": ms or RFC 3339} or {\"delay\": \"15m\"}";
}

static void on_move(void *state, struct broker_http *rq) {
    hf_str topic, id, header = {NULL, 0}, value = {NULL, 0};
    if (!split_rest(rq, &topic, &id)) {
        reply_error(rq, 400, "the path is /v1/schedule/TOPIC/ID");
        return;
    }
    const char *why = parse_time(rq, &header, &value);
    if (!why) { /* the door's own rules */
        const struct hf_header h[] = {
            {HF_STR(HF_HDR_TOPIC), topic}, {HF_STR(HF_HDR_ID), id}, {header, value}};
        struct hf_control control;
        struct hf_control_error refused;
        if (hf_control_delay(h, sizeof(h) / sizeof(h[0]), &control, &refused)) why = refused.reason;
    }
    if (why)
        reply_error(rq, 400, why);
    else
        begin_change(state, rq, topic, id, header, value);
}

/* True: answered. */
static bool answer_change(struct change *c, int64_t mono_ms) {
    enum schedule_outcome outcome = SCHEDULE_UNKNOWN;
    enum hf_err e = c->failed ? c->failed : schedule_outcome_of(c->d->schedule, 0, c->offset, &outcome);
    if (e == HF_EAGAIN && !c->failed) {
        if (mono_ms < c->until_ms) return false;
        reply_error(c->rq, 504, "accepted, but not processed yet: ask again");
        return true;
    }
    if (!e && outcome == SCHEDULE_CHANGED && c->tries++ < MOVE_TRIES) {
        e = append_change(c);
        if (!e) return false;
    }
    if (e)
        reply_failure(c->rq, e);
    else
        reply_outcome(c->rq, outcome, c->due_header.n ? SCHEDULE_MOVED : SCHEDULE_CANCELLED);
    return true;
}

static void answer_changes(struct delay *d, int64_t mono_ms) {
    for (struct change *c = d->changes, *next; c; c = next) {
        next = c->next;
        if (!c->appending && answer_change(c, mono_ms)) end_change(c);
    }
}

/* ---- the part ---- */

static void on_event(void *arg, enum schedule_event what, const char *text) {
    static const char *const names[EVENTS] = {"clock_leapt", "clock_back", "schedule_rewound",
                                              "message_rejected", "schedule_damaged"};
    enum { QUIET_MS = 1000 };
    struct delay *d = arg;
    int64_t now_ms = env_mono_us(d->server->env) / 1000;
    d->events[what]++;
    if (d->events[what] > 1 && now_ms - d->told_ms[what] < QUIET_MS) return;
    d->told_ms[what] = now_ms;
    env_log(d->server->env, what == SCHEDULE_CLOCK_BACK ? ENV_INFO : ENV_WARN, names[what],
            "count=%" PRIu64 " why=\"%s\"", d->events[what], text);
}

static enum hf_err part_open(struct server *s, void **state) {
    struct delay *d = calloc(1, sizeof(*d));
    if (!d) return HF_ENOMEM;
    d->server = s;
    struct schedule_options options = {.random_seed = env_random(s->env),
                                       .boot_id = env_boot_id(s->env),
                                       .id_memory_ms = s->settings->id_memory_ms,
                                       .event = on_event,
                                       .arg = d};
    enum hf_err e =
        schedule_open(s->engine, &options, env_wall_ms(s->env), env_mono_us(s->env) / 1000, &d->schedule);
    if (e) {
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
    if (d->changes) answer_changes(d, mono_ms);
    return now_ms + wait_ms;
}

static bool is_quiet(const struct delay *d) {
    bool appending = false;
    for (const struct change *c = d->changes; c; c = c->next) appending |= c->appending;
    return schedule_idle(d->schedule) && !appending;
}

/* Commits and seals under way end first, unless the disk has failed. Requests have ended with the broker. */
static void part_close(void *state) {
    enum { TURN_MS = 20 };
    struct delay *d = state;
    struct server *s = d->server;
    struct pollfd fd = {.fd = env_poll_fd(s->env), .events = POLLIN};
    while (!is_quiet(d) && !log_failed(s->log)) {
        (void)log_step(s->log);
        (void)poll(&fd, 1, TURN_MS);
        (void)env_poll(s->env);
    }
    schedule_close(d->schedule);
    for (struct change *c = d->changes, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(d);
}

static void metric(struct hf_buf *out, const char *name, const char *type, int64_t value) {
    hf_buf_printf(out, "# TYPE holdfast_schedule_%s %s\nholdfast_schedule_%s %" PRId64 "\n", name, type, name,
                  value);
}

static void lateness_metrics(const struct schedule_stats *s, struct hf_buf *out) {
    uint64_t sum = 0;
    hf_buf_printf(out, "# TYPE holdfast_schedule_lateness_ms histogram\n");
    for (size_t i = 0; i < SCHEDULE_LATENESS_BUCKETS; i++) {
        sum += s->lateness[i];
        if (i + 1 < SCHEDULE_LATENESS_BUCKETS)
            hf_buf_printf(out, "holdfast_schedule_lateness_ms_bucket{le=\"%" PRId64 "\"} %" PRIu64 "\n",
                          schedule_lateness_ms[i], sum);
    }
    hf_buf_printf(out, "holdfast_schedule_lateness_ms_bucket{le=\"+Inf\"} %" PRIu64 "\n", sum);
    hf_buf_printf(out,
                  "holdfast_schedule_lateness_ms_sum %" PRId64
                  "\nholdfast_schedule_lateness_ms_count %" PRIu64 "\n",
                  s->lateness_sum_ms, sum);
}

static void part_metrics(void *state, struct hf_buf *out) {
    const struct delay *d = state;
    struct schedule_stats s;
    schedule_stats(d->schedule, &s);
    metric(out, "pending", "gauge", (int64_t)s.pending);
    metric(out, "late_ms", "gauge", s.late_ms);
    metric(out, "accepted_total", "counter", (int64_t)s.accepted);
    metric(out, "fired_total", "counter", (int64_t)s.fired);
    metric(out, "rejected_total", "counter", (int64_t)s.rejected);
    metric(out, "memory_bytes", "gauge", (int64_t)s.memory_bytes);
    metric(out, "runs", "gauge", (int64_t)(s.runs + s.id_runs));
    metric(out, "run_bytes", "gauge", (int64_t)(s.run_bytes + s.id_bytes));
    metric(out, "checkpoints_total", "counter", (int64_t)s.checkpoints);
    metric(out, "merges_total", "counter", (int64_t)s.merges);
    metric(out, "rewinds_total", "counter", (int64_t)s.rewinds);
    metric(out, "id_horizon_ms", "gauge", s.id_horizon_ms);
    metric(out, "clock_leapt", "gauge", s.clock_leapt);
    hf_buf_printf(out, "# TYPE holdfast_schedule_outcomes_total counter\n");
    for (int o = 0; o <= SCHEDULE_UNKNOWN; o++)
        hf_buf_printf(out, "holdfast_schedule_outcomes_total{outcome=\"%s\"} %" PRIu64 "\n",
                      schedule_outcome_text((enum schedule_outcome)o), s.outcomes[o]);
    lateness_metrics(&s, out);
}

static const struct server_route routes[] = {
    {"GET", "/v1/schedule", on_list},        {"GET", "/v1/schedule-outcomes", on_outcomes},
    {"GET", "/v1/schedule-stats", on_stats}, {"POST", "/v1/schedule-clock", on_clock},
    {"GET", "/v1/schedule/*", on_show},      {"DELETE", "/v1/schedule/*", on_cancel},
    {"POST", "/v1/schedule/*", on_move},
};

const struct server_part server_delay = {.name = "schedule",
                                         .open = part_open,
                                         .step = part_step,
                                         .close = part_close,
                                         .metrics = part_metrics,
                                         .routes = routes,
                                         .route_count = sizeof(routes) / sizeof(routes[0])};
