/* Changing the schedule over HTTP: cancel and move.
 *
 * Both append a record to holdfast.delay, as any client may, and answer when the schedule has read it: the
 * outcome is then a fact of the durable log. A move carries the message again, on condition that the one it
 * is about still has this id; if another took its place meanwhile (CHANGED), it is tried again with that one.
 * How a request waits and what limits it: delay_wait.h. */
#include "delay_wait.h"

#include "base/arena.h"
#include "base/control.h"
#include "base/duration.h"
#include "base/names.h"

#include <inttypes.h>

enum { MOVE_TRIES = 5, MOVE_HEADERS = 16 };

struct change { /* a cancel or a move */
    struct delay_wait wait;
    hf_str topic, id;       /* in the request's arena */
    struct delay_time time; /* of a move; else header.n == 0 */
    int tries;
};

struct building {
    struct change *c;
    struct batch_builder *b;
    enum hf_err e;
};

static void add(struct hf_header *h, size_t *n, const char *name, hf_str value) {
    h[(*n)++] = (struct hf_header){hf_str_of(name), value};
}

/* The message again, with its identity, its new time, and the condition. */
enum hf_err delay_build_move(struct batch_builder *b, const struct schedule_item *item,
                             const struct delay_time *time) {
    struct hf_header h[ENGINE_HEADERS_MAX + MOVE_HEADERS];
    char identity[128], created[32], expect[32], partition[16], due[32];
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
    if (item->cron.p) add(h, &n, HF_HDR_CRON, item->cron);
    if (item->tz.p) add(h, &n, HF_HDR_TZ, item->tz);
    if (item->group.p) add(h, &n, HF_HDR_GROUP, item->group);
    if (item->skips) add(h, &n, HF_HDR_OVERLAP, HF_STR("skip"));
    if (item->last_run.p) add(h, &n, HF_HDR_LAST_RUN, item->last_run);
    int64_t due_ms = item->due_ms + time->by_ms;
    (void)snprintf(due, sizeof(due), "%" PRId64,
                   due_ms < 0                ? 0
                   : due_ms > HF_TIME_MAX_MS ? HF_TIME_MAX_MS
                                             : due_ms);
    h[n++] = (struct hf_header){time->header, time->by ? hf_str_of(due) : time->value};
    return n > ENGINE_HEADERS_MAX ? HF_ELIMIT : batch_builder_add(b, item->key, item->value, h, n);
}

static void build_move(void *arg, const struct schedule_item *item) {
    struct building *b = arg;
    b->e = delay_build_move(b->b, item, &b->c->time);
}

/* Nothing pends: a move of sequence 0, which no message has, changes nothing and learns why. */
static enum hf_err build_question(const struct change *c, struct batch_builder *b) {
    const struct hf_header h[] = {{HF_STR(HF_HDR_OP), HF_STR("move")},
                                  {HF_STR(HF_HDR_TOPIC), c->topic},
                                  {HF_STR(HF_HDR_ID), c->id},
                                  {HF_STR(HF_HDR_EXPECT), HF_STR("0")},
                                  {c->time.header, c->time.value}};
    return batch_builder_add(b, (hf_str){NULL, 0}, (hf_str){NULL, 0}, h, sizeof(h) / sizeof(h[0]));
}

static enum hf_err build_cancel(const struct change *c, struct batch_builder *b) {
    const struct hf_header h[] = {
        {HF_STR(HF_HDR_OP), HF_STR("cancel")}, {HF_STR(HF_HDR_TOPIC), c->topic}, {HF_STR(HF_HDR_ID), c->id}};
    return batch_builder_add(b, (hf_str){NULL, 0}, (hf_str){NULL, 0}, h, sizeof(h) / sizeof(h[0]));
}

static enum hf_err build_change(void *arg, struct batch_builder *b) {
    struct change *c = arg;
    if (c->time.header.n == 0) return build_cancel(c, b);
    struct building building = {c, b, HF_OK};
    enum hf_err e = schedule_show(c->wait.d->schedule, c->topic, c->id, build_move, &building);
    if (e == HF_ENOTFOUND) return build_question(c, b);
    return e ? e : building.e;
}

static bool answer_change(struct delay_wait *w) {
    struct change *c = (struct change *)w;
    enum schedule_outcome outcome = SCHEDULE_UNKNOWN;
    enum hf_err e = delay_wait_outcome(w, 0, &outcome);
    if (e == HF_EAGAIN) return false;
    if (!e && outcome == SCHEDULE_CHANGED && c->tries++ < MOVE_TRIES) {
        e = delay_wait_append_one(w, build_change, c);
        if (!e) return false;
    }
    if (e)
        delay_reply_failure(w->rq, e);
    else
        delay_reply_outcome(w->rq, outcome, c->time.header.n ? SCHEDULE_MOVED : SCHEDULE_CANCELLED);
    return true;
}

static const struct delay_wait_kind change_kind = {.size = sizeof(struct change),
                                                   .most = 1000,
                                                   .wait_ms = 10000,
                                                   .too_many = "too many changes wait; try again",
                                                   .late = "accepted, but not processed yet: ask again",
                                                   .go_on = answer_change};

static void begin_change(struct delay *d, struct broker_http *rq, hf_str topic, hf_str id,
                         struct delay_time time) {
    struct change *c = (struct change *)delay_wait_begin(d, rq, &change_kind);
    if (!c) return;
    c->topic = topic;
    c->id = id;
    c->time = time;
    delay_wait_send(&c->wait, build_change, c);
}

/* Topic and id of the path, by the door's own rules: what is appended here does not pass the door. false:
 * answered. */
static bool names_of(struct broker_http *rq, hf_str *topic, hf_str *id) {
    struct hf_control control;
    struct hf_control_error why;
    if (!delay_topic_and_id(rq, topic, id)) {
        delay_reply_error(rq, 400, DELAY_NAME_USAGE);
        return false;
    }
    const struct hf_header h[] = {
        {HF_STR(HF_HDR_OP), HF_STR("cancel")}, {HF_STR(HF_HDR_TOPIC), *topic}, {HF_STR(HF_HDR_ID), *id}};
    if (hf_control_delay(h, sizeof(h) / sizeof(h[0]), &control, &why) == HF_OK) return true;
    delay_reply_json(rq, 400, json_pack("{s:s++}", "error", why.header, ": ", why.reason));
    return false;
}

void delay_on_cancel(void *state, struct broker_http *rq) {
    hf_str topic, id;
    if (names_of(rq, &topic, &id)) begin_change(state, rq, topic, id, (struct delay_time){0});
}

/* "15m" or "-15m" */
static bool shift_of(hf_str text, int64_t *out) {
    bool back = text.n > 0 && text.p[0] == '-';
    if (back) text = hf_str_make(text.p + 1, text.n - 1);
    if (hf_duration_parse(text, out) || *out > HF_TIME_MAX_MS) return false;
    if (back) *out = -*out;
    return true;
}

/* As text in the request's arena; {NULL, 0}: neither text nor integer, or no memory. */
static hf_str time_text(struct broker_http *rq, const json_t *given) {
    char number[32];
    hf_str text = {NULL, 0};
    if (json_is_string(given)) text = hf_str_make(json_string_value(given), json_string_length(given));
    if (json_is_integer(given)) {
        (void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(given));
        text = hf_str_of(number);
    }
    return text.n ? hf_arena_str(broker_http_arena(rq), text) : (hf_str){NULL, 0};
}

/* The door's own rules. A move of a message that already pends asks for no room. */
static const char *refused_time(struct delay *d, const struct delay_time *time) {
    const struct hf_header h[] = {{HF_STR(HF_HDR_OP), HF_STR("move")},
                                  {HF_STR(HF_HDR_TOPIC), HF_STR("t")},
                                  {HF_STR(HF_HDR_ID), HF_STR("i")},
                                  {HF_STR(HF_HDR_EXPECT), HF_STR("0")},
                                  {time->header, time->value}};
    struct hf_control control;
    struct hf_control_error why;
    enum hf_err e = hf_control_delay(h, sizeof(h) / sizeof(h[0]), &control, &why);
    if (!e) e = server_delay_admit(d->server, &control, 0, &why);
    return e ? why.reason : NULL;
}

const char *delay_parse_time(struct delay *d, struct broker_http *rq, bool shift, struct delay_time *out) {
    hf_str body = broker_http_body(rq);
    json_t *o = json_loadb(body.n ? body.p : "", body.n, 0, NULL);
    const json_t *due = json_object_get(o, "due"), *delay = json_object_get(o, "delay");
    const json_t *by = shift ? json_object_get(o, "by") : NULL;
    struct delay_time time = {.header = delay ? HF_STR(HF_HDR_DELAY) : HF_STR(HF_HDR_DUE), .by = by != NULL};
    bool ok = !!due + !!delay + !!by == 1;
    if (ok) ok = (time.value = time_text(rq, by ? by : due ? due : delay)).n > 0;
    if (ok && by) ok = shift_of(time.value, &time.by_ms);
    json_decref(o);
    if (!ok)
        return shift ? "the body is {\"due\": ms or RFC 3339}, {\"delay\": \"15m\"} or {\"by\": \"-15m\"}"
                     : "the body is {\"due\": ms or RFC 3339} or {\"delay\": \"15m\"}";
    const char *why = time.by ? NULL : refused_time(d, &time);
    if (!why) *out = time;
    return why;
}

void delay_on_move(void *state, struct broker_http *rq) {
    hf_str topic, id;
    struct delay_time time;
    if (!names_of(rq, &topic, &id)) return;
    const char *why = delay_parse_time(state, rq, false, &time);
    if (why)
        delay_reply_error(rq, 400, why);
    else
        begin_change(state, rq, topic, id, time);
}
