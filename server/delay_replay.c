/* What was rejected goes again: POST /v1/rejected/PARTITION/OFFSET, a place in holdfast.rejected.
 *
 * The message goes through holdfast.delay, due at once, to the destination and the partition that it was to
 * have, with its key, value, headers and identity, under the name HF_REJECTED_ID with "once". So it goes once
 * however often it is asked for, here or by `holdfast rejected replay`, and whatever crashes in between:
 *
 *     asked --append durable--> appended --schedule has read it--> answered, and marked as settled
 *
 *     replayed           200
 *     already settled    409    it was replayed before, or dropped
 *     unknown            404    there is no such message
 *
 * If its destination still cannot take it (there is no such topic, or no such partition), nothing is done and
 * the answer is 409 with the reason; if it turns out to be too large when it moves, it is rejected anew.
 *
 * A log takes nothing out of its middle: what is settled is remembered as the command line does it, in
 * what group "holdfast.rejected" has committed (base/marks.h). The mark follows the answer and may be lost
 * with a crash; then the message is listed again, and its name keeps it from going twice.
 *
 * How a request waits and what limits it: delay_wait.h. */
#include "delay_wait.h"

#include "base/control.h"
#include "base/marks.h"
#include "base/names.h"

#include <inttypes.h>

enum { ADDED_HEADERS = 5 };

struct replay {
    struct delay_wait wait;
    int32_t partition; /* of holdfast.rejected */
    int64_t rejected;  /* offset there */
};

static void reply_outcome(struct broker_http *rq, int status, const char *outcome) {
    delay_reply_json(rq, status, json_pack("{s:s}", "outcome", outcome));
}

/* ---- what is settled ---- */

struct settling {
    struct marks_writer writer;
    int64_t position; /* the first that is not; -1: none yet */
    int64_t but;      /* is settled now */
};

static void keep(struct settling *s, int64_t from, int64_t to) {
    if (from >= to) return;
    if (s->position < 0) {
        s->position = from;
        marks_begin(&s->writer, from);
    }
    marks_add_run(&s->writer, from, to - from);
}

static void keep_the_others(struct settling *s, int64_t from, int64_t to) {
    keep(s, from, s->but < to ? s->but : to);
    keep(s, s->but + 1 > from ? s->but + 1 : from, to);
}

/* What is known; *position: nothing below counts. */
static void read_marks(struct server *s, int32_t partition, int64_t *position, struct marks *m) {
    hf_str metadata = {NULL, 0};
    *position = 0;
    *m = (struct marks){.next = INT64_MIN};
    hf_str topic = HF_STR(HF_TOPIC_REJECTED);
    if (!server_offset_get(s, topic, topic, partition, position, &metadata)) return;
    if (metadata.n > 0) (void)!marks_parse(m, *position, metadata.p, metadata.n);
}

static bool is_settled(struct server *s, int32_t partition, int64_t offset) {
    int64_t position;
    struct marks m;
    read_marks(s, partition, &position, &m);
    bool settled = offset < position || marks_settled(&m, offset);
    marks_fini(&m);
    return settled;
}

static void settle(struct server *s, int32_t partition, int64_t offset) {
    struct log_partition *p = log_partition(s->log, HF_STR(HF_TOPIC_REJECTED), partition);
    struct settling out = {.position = -1, .but = offset};
    struct log_bounds bounds;
    char text[MARKS_TEXT_SIZE] = "";
    struct marks m;
    int64_t at;
    if (!p) return;
    log_bounds(p, &bounds);
    read_marks(s, partition, &at, &m);
    if (at < bounds.start) at = bounds.start;
    for (size_t i = 0; i < m.count; i++) {
        int64_t end = m.mark[i].from + m.mark[i].n;
        keep_the_others(&out, m.mark[i].from > at ? m.mark[i].from : at, end);
    }
    keep_the_others(&out, m.next > at ? m.next : at, bounds.high);
    marks_fini(&m);
    if (out.position >= 0) (void)marks_end(&out.writer, bounds.high, text); /* cut short: listed again */
    hf_str topic = HF_STR(HF_TOPIC_REJECTED);
    server_offset_put(s, topic, topic, partition, out.position < 0 ? bounds.high : out.position,
                      hf_str_of(text));
}

/* ---- the record ---- */

static hf_str last_header(const struct engine_record *r, const char *name) {
    hf_str found = {NULL, 0};
    for (size_t i = 0; i < r->header_count; i++)
        if (hf_str_is(r->headers[i].key, name)) found = r->headers[i].value;
    return found;
}

/* NULL: its destination can take it now, or may be created. */
static const char *still_refused(struct server *s, hf_str origin, hf_str partition) {
    int32_t partitions = 0;
    int64_t asked = 0;
    if (!hf_topic_name_ok(origin) || hf_topic_is_ours(origin))
        return "it was no schedule: it names no destination, and can only be dropped";
    if (engine_topic(s->engine, origin, false, &partitions))
        return s->settings->auto_create ? NULL : "its topic does not exist and may not be created";
    bool named = partition.p && hf_str_int(partition, &asked) == HF_OK;
    return named && asked >= partitions ? "its topic has no such partition" : NULL;
}

/* Of a half message that was rejected the headers are those that it was sent with. */
struct rejected {
    int32_t partition; /* of holdfast.rejected */
    const struct engine_record *record;
    bool half;
    hf_str origin; /* where it goes */
};

static enum hf_err build(void *arg, struct batch_builder *b) {
    const struct rejected *rejected = arg;
    const struct engine_record *r = rejected->record;
    struct hf_header h[ENGINE_HEADERS_MAX + ADDED_HEADERS];
    char name[96];
    hf_str asked = last_header(r, HF_HDR_PARTITION);
    size_t n = 0;
    (void)snprintf(name, sizeof(name), HF_REJECTED_ID, rejected->partition, r->offset, r->timestamp_ms);
    h[n++] = (struct hf_header){HF_STR(HF_HDR_TOPIC), rejected->origin};
    h[n++] = (struct hf_header){HF_STR(HF_HDR_DELAY), HF_STR("0")};
    h[n++] = (struct hf_header){HF_STR(HF_HDR_ID), hf_str_of(name)};
    h[n++] = (struct hf_header){HF_STR(HF_HDR_ON_CONFLICT), HF_STR("once")};
    if (asked.n) h[n++] = (struct hf_header){HF_STR(HF_HDR_PARTITION), asked};
    for (size_t i = 0; i < r->header_count; i++)
        if (!hf_header_is_of_rejection(r->headers[i].key)) h[n++] = r->headers[i];
    if (n > ENGINE_HEADERS_MAX) return HF_ELIMIT;
    return batch_builder_add(b, rejected->half ? last_header(r, HF_HDR_KEY) : r->key, r->value, h, n);
}

/* ---- the request ---- */

static bool answer(struct delay_wait *w) {
    const struct replay *r = (const struct replay *)w;
    enum schedule_outcome outcome = SCHEDULE_SCHEDULED;
    enum hf_err e = delay_wait_outcome(w, 0, &outcome);
    if (e == HF_EAGAIN) return false;
    bool went = e == HF_ENOTFOUND; /* an ordinary schedule leaves no outcome */
    if (e && !went) {
        delay_reply_failure(w->rq, e);
        return true;
    }
    if (went || outcome == SCHEDULE_SCHEDULED)
        reply_outcome(w->rq, 200, "replayed");
    else
        reply_outcome(w->rq, 409, "already settled");
    settle(w->d->server, r->partition, r->rejected);
    return true;
}

static const struct delay_wait_kind replay_kind = {.size = sizeof(struct replay),
                                                   .most = 1000,
                                                   .wait_ms = 10000,
                                                   .too_many = "too many replays wait; try again",
                                                   .late = "accepted, but not processed yet: ask again",
                                                   .go_on = answer};

static void begin(struct delay *d, struct broker_http *rq, int32_t partition,
                  const struct engine_record *record) {
    bool half = hf_str_is(last_header(record, HF_HDR_OP), "prepare");
    struct rejected what = {partition, record, half,
                            last_header(record, half ? HF_HDR_TOPIC : HF_HDR_ORIGIN)};
    const char *why = still_refused(d->server, what.origin, last_header(record, HF_HDR_PARTITION));
    if (why) {
        delay_reply_error(rq, 409, why);
        return;
    }
    struct replay *r = (struct replay *)delay_wait_begin(d, rq, &replay_kind);
    if (!r) return;
    r->partition = partition;
    r->rejected = record->offset;
    delay_wait_send(&r->wait, build, &what);
}

/* "PARTITION/OFFSET" */
static bool place_of(struct broker_http *rq, int64_t *partition, int64_t *offset) {
    hf_str rest = broker_http_rest(rq);
    const char *slash = rest.n ? memchr(rest.p, '/', rest.n) : NULL;
    if (!slash || hf_str_int(hf_str_make(rest.p, (size_t)(slash - rest.p)), partition)) return false;
    if (hf_str_int(hf_str_make(slash + 1, (size_t)(rest.p + rest.n - slash - 1)), offset)) return false;
    return *partition >= 0 && *partition <= INT32_MAX && *offset >= 0;
}

void delay_on_replay(void *state, struct broker_http *rq) {
    struct delay *d = state;
    struct engine_cursor *c;
    struct engine_record record;
    int64_t partition, offset;
    if (!place_of(rq, &partition, &offset)) {
        delay_reply_error(rq, 400, "the path is /v1/rejected/PARTITION/OFFSET");
        return;
    }
    enum hf_err e = engine_cursor_open(d->server->engine, HF_STR(HF_TOPIC_REJECTED), (int32_t)partition, &c);
    if (e == HF_ENOTFOUND) {
        reply_outcome(rq, 404, "unknown");
        return;
    }
    if (!e) {
        engine_cursor_seek(c, offset);
        e = engine_cursor_next(c, &record);
        if (e == HF_EEND || (!e && record.offset != offset))
            reply_outcome(rq, 404, "unknown");
        else if (!e && is_settled(d->server, (int32_t)partition, offset))
            reply_outcome(rq, 409, "already settled");
        else if (!e)
            begin(d, rq, (int32_t)partition, &record);
        engine_cursor_close(c);
    }
    if (e && e != HF_EEND) delay_reply_failure(rq, e);
}
