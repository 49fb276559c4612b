/* Looking at the schedule over HTTP: pages, one message, outcomes. */
#include "delay_internal.h"

#include "base/control.h"
#include "base/duration.h"
#include "base/names.h"

#include <inttypes.h>
#include <stdlib.h>

enum { PAGE_DEFAULT = 100 };

/* ---- answers ---- */

void delay_reply_json(struct broker_http *rq, int status, json_t *body) {
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text)
        broker_http_reply(rq, status, "application/json", hf_str_of(text));
    else
        broker_http_reply(rq, 500, "application/json", HF_STR("{\"error\":\"out of memory\"}"));
    free(text);
}

void delay_reply_error(struct broker_http *rq, int status, const char *why) {
    delay_reply_json(rq, status, json_pack("{s:s}", "error", why));
}

static int status_of(enum hf_err e) {
    return e == HF_ENOTFOUND ? 404 : e == HF_EINVAL ? 400 : hf_err_class_of(e) == HF_CLASS_RETRY ? 503 : 500;
}

void delay_reply_failure(struct broker_http *rq, enum hf_err e) {
    delay_reply_error(rq, status_of(e), hf_err_text(e));
}

/* 200: it is as was asked; 404: no such id; 409: it is otherwise. */
void delay_reply_outcome(struct broker_http *rq, enum schedule_outcome o, enum schedule_outcome asked) {
    int status = o == asked ? 200 : o == SCHEDULE_UNKNOWN ? 404 : 409;
    delay_reply_json(rq, status, json_pack("{s:s}", "outcome", schedule_outcome_text(o)));
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
    if (o && item->cron.p) {
        json_object_set_new(o, "cron", text_of(item->cron));
        json_object_set_new(o, "tz", item->tz.p ? text_of(item->tz) : json_string("UTC"));
        json_object_set_new(o, "overlap", json_string(item->skips ? "skip" : "allow"));
        if (item->group.p) json_object_set_new(o, "group", text_of(item->group));
    }
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
bool delay_place_of(hf_str text, struct schedule_place *out) {
    if (!text.p) return true;
    const char *dash = memchr(text.p, '-', text.n);
    int64_t due, sequence;
    if (!dash || hf_str_int(hf_str_make(text.p, (size_t)(dash - text.p)), &due)) return false;
    if (hf_str_int(hf_str_make(dash + 1, (size_t)(text.p + text.n - dash - 1)), &sequence)) return false;
    *out = (struct schedule_place){due, (uint64_t)sequence};
    return due >= 0 && sequence >= 0;
}

/* "to=0" is refused: to the schedule it means no end, to whoever asks it can only be a slip. What lies beyond the
 * year 9999 is behind everything. */
static bool time_of(hf_str text, int64_t least, int64_t *out) {
    if (!text.p) return true;
    return hf_time_parse(text, out) == HF_OK && *out >= least;
}

bool delay_filter_of(struct broker_http *rq, int64_t limit, struct schedule_query *q) {
    *q = (struct schedule_query){.topic = broker_http_query(rq, "topic"),
                                 .id_prefix = broker_http_query(rq, "prefix")};
    bool ok = time_of(broker_http_query(rq, "from"), 0, &q->due_from_ms) &&
              time_of(broker_http_query(rq, "to"), 1, &q->due_to_ms) &&
              number_of(broker_http_query(rq, "limit"), 1, &limit) && limit <= SCHEDULE_PAGE_MAX;
    q->limit = (size_t)limit;
    return ok;
}

/* Which page is asked for. false: none, and that is answered. */
static bool page_of(struct broker_http *rq, struct schedule_query *q) {
    bool ok =
        delay_filter_of(rq, PAGE_DEFAULT, q) && delay_place_of(broker_http_query(rq, "after"), &q->after);
    if (!ok) delay_reply_error(rq, 400, DELAY_FILTER_USAGE);
    return ok;
}

static json_t *next_json(const struct schedule_place *next, bool more) {
    char text[64];
    (void)snprintf(text, sizeof(text), "%" PRId64 "-%" PRIu64, next->due_ms, next->sequence);
    return more ? json_string(text) : json_null();
}

void delay_on_list(void *state, struct broker_http *rq) {
    struct delay *d = state;
    struct schedule_query q;
    struct schedule_place next;
    if (!page_of(rq, &q)) return;
    bool more = false;
    json_t *items = json_array();
    enum hf_err e = schedule_list(d->schedule, &q, add_item, items, &next, &more);
    if (e) {
        json_decref(items);
        delay_reply_failure(rq, e);
        return;
    }
    delay_reply_json(rq, 200, json_pack("{s:o, s:o}", "messages", items, "next", next_json(&next, more)));
}

/* {"late": 0, "1m": 12, …}: what is due when, from now. */
json_t *delay_due_json(const uint64_t due[SCHEDULE_DUE_BUCKETS]) {
    json_t *o = json_object();
    for (size_t i = 0; i < SCHEDULE_DUE_BUCKETS; i++)
        json_object_set_new(o, schedule_due_names[i], json_integer((json_int_t)due[i]));
    return o;
}

void delay_on_count(void *state, struct broker_http *rq) {
    struct delay *d = state;
    struct schedule_query q;
    struct schedule_place next;
    if (!page_of(rq, &q)) return;
    struct schedule_sum sum;
    bool more = false;
    enum hf_err e = schedule_count(d->schedule, &q, &sum, &next, &more);
    if (e)
        delay_reply_failure(rq, e);
    else
        delay_reply_json(rq, 200,
                         json_pack("{s:I, s:I, s:o, s:o}", "count", (json_int_t)sum.messages, "bytes",
                                   (json_int_t)sum.bytes, "due", delay_due_json(sum.due), "next",
                                   next_json(&next, more)));
}

/* "TOPIC/ID"; an id may have slashes. */
bool delay_topic_and_id(struct broker_http *rq, hf_str *topic, hf_str *id) {
    hf_str rest = broker_http_rest(rq);
    const char *slash = rest.n ? memchr(rest.p, '/', rest.n) : NULL;
    if (!slash) return false;
    *topic = hf_str_make(rest.p, (size_t)(slash - rest.p));
    *id = hf_str_make(slash + 1, (size_t)(rest.p + rest.n - slash - 1));
    return topic->n > 0 && id->n > 0 && id->n <= HF_ID_MAX;
}

struct showing {
    struct schedule *schedule;
    json_t *out;
};

/* The next runs of a recurring one, as RFC 3339. */
static json_t *next_runs(struct schedule *s, const struct schedule_item *item) { /* due_ms 0: from now */
    enum { RUNS = 5 };
    int64_t at[RUNS];
    size_t n = 0;
    json_t *runs = json_array();
    if (schedule_upcoming(s, item, at, RUNS, &n)) n = 0;
    for (size_t i = 0; i < n; i++) {
        char text[HF_TIME_TEXT];
        hf_time_format(at[i], text);
        json_array_append_new(runs, json_string(text));
    }
    return runs;
}

static void show_item(void *arg, const struct schedule_item *item) {
    struct showing *showing = arg;
    json_t *o = item_json(item), *headers = json_array();
    for (size_t i = 0; i < item->header_count; i++)
        json_array_append_new(
            headers, json_pack("[o, o]", text_of(item->headers[i].key), text_of(item->headers[i].value)));
    json_object_set_new(o, "headers", headers);
    json_object_set_new(o, "value", text_of(item->value));
    if (item->cron.p) json_object_set_new(o, "next", next_runs(showing->schedule, item));
    showing->out = o;
}

void delay_on_show(void *state, struct broker_http *rq) {
    struct delay *d = state;
    hf_str topic, id;
    if (!delay_topic_and_id(rq, &topic, &id)) {
        delay_reply_error(rq, 400, DELAY_NAME_USAGE);
        return;
    }
    struct showing showing = {.schedule = d->schedule};
    enum hf_err e = schedule_show(d->schedule, topic, id, show_item, &showing);
    if (e == HF_ENOTFOUND)
        delay_reply_error(rq, 404, "nothing of this name pends");
    else if (e)
        delay_reply_failure(rq, e);
    else
        delay_reply_json(rq, 200, showing.out);
}

void delay_on_next(void *state, struct broker_http *rq) {
    struct delay *d = state;
    bool about_tz;
    struct schedule_item item = {.cron = broker_http_query(rq, "cron"), .tz = broker_http_query(rq, "tz")};
    if (!item.cron.p) {
        delay_reply_error(rq, 400, "cron: which expression? (?cron=0+9+*+*+*&tz=Europe/Berlin)");
        return;
    }
    if (schedule_check_cron(d->schedule, item.cron, item.tz, d->why, &about_tz))
        delay_reply_error(rq, 400, d->why);
    else
        delay_reply_json(rq, 200, json_pack("{s:o}", "next", next_runs(d->schedule, &item)));
}

/* 503: not read yet; 404: an ordinary schedule that met nothing, or forgotten. */
void delay_on_outcome(void *state, struct broker_http *rq) {
    struct delay *d = state;
    int64_t partition = -1, offset = -1;
    enum schedule_outcome outcome;
    if (!number_of(broker_http_query(rq, "partition"), 0, &partition) ||
        !number_of(broker_http_query(rq, "offset"), 0, &offset) || partition < 0 || partition > INT32_MAX ||
        offset < 0) {
        delay_reply_error(rq, 400, "partition and offset of a record of " HF_TOPIC_DELAY " are needed");
        return;
    }
    enum hf_err e = schedule_outcome_of(d->schedule, (int32_t)partition, offset, &outcome);
    if (e)
        delay_reply_failure(rq, e);
    else
        delay_reply_json(rq, 200, json_pack("{s:s}", "outcome", schedule_outcome_text(outcome)));
}
