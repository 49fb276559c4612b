/* Many at once: cancel or move whatever a filter finds, page by page.
 *
 *     DELETE /v1/schedule?topic=T&prefix=P&from=MS&to=MS&limit=N&after=CURSOR
 *     POST   /v1/schedule?…    {"due": ms or RFC 3339}, {"delay": "15m"} or {"by": "15m"}, {"by": "-15m"}
 *     {"cancelled": 480, "changed": 0, "already delivered": 0, "unknown": 0, "without id": 20,
 *      "next": CURSOR}
 *
 * A request does one page: it lists, appends one batch of records to holdfast.delay, waits until the schedule
 * has read them, and counts their outcomes. So it holds memory for a page, others get their turn between
 * pages, and whoever asks may stop, and go on from "next" (null: done) after any crash: what has been done is
 * found no more.
 *
 * What is meant is what pended when the first page was asked for: the cursor carries the last sequence of
 * that moment, DUE-SEQUENCE-LAST, and later messages (moved ones among them) are left out. Each record says
 * which message it is about (hf-expect); one that was replaced meanwhile is counted as changed. Messages
 * without an id cannot be named, and are counted. */
#include "delay_wait.h"

#include "base/control.h"
#include "base/duration.h"
#include "base/names.h"

#include <inttypes.h>

enum { PAGE_DEFAULT = 500, BATCH_BYTES = 512 << 10, BATCH_MAX = 80 << 20 };

struct bulk { /* a page */
    struct delay_wait wait;
    struct delay_time time; /* of a move; header.n == 0: cancel */
    struct batch_builder batch;
    int64_t records, without_id;
    struct schedule_place last;  /* looked at up to here */
    struct schedule_query query; /* strings in the request */
    bool full, more;             /* full: what follows goes into the next page */
    enum hf_err e;               /* of building the batch */
};

/* ---- the batch ---- */

static enum hf_err add_cancel(struct bulk *b, const struct schedule_item *item) {
    char expect[24];
    (void)snprintf(expect, sizeof(expect), "%" PRIu64, item->place.sequence);
    const struct hf_header h[] = {{HF_STR(HF_HDR_OP), HF_STR("cancel")},
                                  {HF_STR(HF_HDR_TOPIC), item->topic},
                                  {HF_STR(HF_HDR_ID), item->id},
                                  {HF_STR(HF_HDR_EXPECT), hf_str_of(expect)}};
    return batch_builder_add(&b->batch, (hf_str){NULL, 0}, (hf_str){NULL, 0}, h, sizeof(h) / sizeof(h[0]));
}

/* What the item brings into the batch; what is added to it is small. */
static size_t bytes_of(const struct schedule_item *item) {
    size_t n = item->key.n + item->value.n;
    for (size_t i = 0; i < item->header_count; i++) n += item->headers[i].key.n + item->headers[i].value.n;
    return n;
}

static void add_item(void *arg, const struct schedule_item *item) {
    struct bulk *b = arg;
    size_t limit = (size_t)b->wait.d->server->settings->message_max / 2;
    if (b->e || b->full) return;
    if (b->records && b->batch.buf.n + bytes_of(item) > (limit < BATCH_BYTES ? limit : BATCH_BYTES)) {
        b->full = true;
        return;
    }
    if (!item->id.p)
        b->without_id++;
    else if (!(b->e = b->time.header.n ? delay_build_move(&b->batch, item, &b->time) : add_cancel(b, item)))
        b->records++;
    b->last = item->place;
}

/* All that was accepted when the first page was asked for has been read. */
static bool is_ready(struct bulk *b) {
    struct schedule_stats stats;
    if (b->query.sequence_max) return true;
    schedule_stats(b->wait.d->schedule, &stats);
    if (stats.caught_up) b->query.sequence_max = stats.read_sequence;
    return stats.caught_up;
}

static enum hf_err build(struct bulk *b) {
    struct schedule_place next;
    batch_builder_begin(&b->batch, env_wall_ms(b->wait.d->server->env));
    enum hf_err e = schedule_list(b->wait.d->schedule, &b->query, add_item, b, &next, &b->more);
    if (!e) e = b->e;
    if (!e && !b->full) b->last = next;
    if (b->full) b->more = true;
    return e;
}

/* ---- the answer ---- */

static void reply(struct bulk *b, const int64_t counts[SCHEDULE_UNKNOWN + 1]) {
    char next[80];
    (void)snprintf(next, sizeof(next), "%" PRId64 "-%" PRIu64 "-%" PRIu64, b->last.due_ms, b->last.sequence,
                   b->query.sequence_max);
    bool move = b->time.header.n > 0;
    enum schedule_outcome done = move ? SCHEDULE_MOVED : SCHEDULE_CANCELLED;
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:o}", schedule_outcome_text(done), (json_int_t)counts[done], "changed",
        (json_int_t)(counts[SCHEDULE_CHANGED] + (move ? counts[SCHEDULE_CANCELLED] : 0)),
        schedule_outcome_text(SCHEDULE_ALREADY_DELIVERED), (json_int_t)counts[SCHEDULE_ALREADY_DELIVERED],
        "unknown", (json_int_t)counts[SCHEDULE_UNKNOWN], "without id", (json_int_t)b->without_id, "next",
        b->more ? json_string(next) : json_null());
    delay_reply_json(b->wait.rq, 200, o);
}

static enum hf_err count(struct bulk *b, int64_t counts[SCHEDULE_UNKNOWN + 1]) {
    for (int64_t i = b->records - 1; i >= 0; i--) { /* the last is read last */
        enum schedule_outcome o;
        enum hf_err e = delay_wait_outcome(&b->wait, i, &o);
        if (e == HF_ENOTFOUND) o = SCHEDULE_UNKNOWN; /* forgotten already: the id's memory is that short */
        if (e && e != HF_ENOTFOUND) return e;
        counts[o]++;
    }
    return HF_OK;
}

static bool answer(struct bulk *b) {
    int64_t counts[SCHEDULE_UNKNOWN + 1] = {0};
    enum hf_err e = count(b, counts);
    if (e == HF_EAGAIN) return false;
    if (e)
        delay_reply_failure(b->wait.rq, e);
    else
        reply(b, counts);
    return true;
}

/* Lists and appends; true: answered at once. */
static bool start(struct bulk *b) {
    enum hf_err e = build(b);
    if (!e && b->records > 0) e = delay_wait_append(&b->wait, &b->batch);
    if (e)
        delay_reply_failure(b->wait.rq, e);
    else if (b->records == 0)
        reply(b, (int64_t[SCHEDULE_UNKNOWN + 1]){0});
    return e || b->records == 0;
}

static bool go_on(struct delay_wait *w) {
    struct bulk *b = (struct bulk *)w;
    if (w->offset >= 0) return answer(b);
    return is_ready(b) && start(b);
}

static void fini(struct delay_wait *w) {
    batch_builder_fini(&((struct bulk *)w)->batch);
}

static const struct delay_wait_kind bulk_kind = {
    .size = sizeof(struct bulk),
    .most = 16,
    .wait_ms = 30000,
    .too_many = "too many bulk requests wait; try again",
    .late = "accepted, but not processed yet: ask for the same page again",
    .go_on = go_on,
    .fini = fini};

/* ---- the request ---- */

static void begin(struct delay *d, struct broker_http *rq, const struct schedule_query *q,
                  const struct delay_time *time) {
    struct bulk *b = (struct bulk *)delay_wait_begin(d, rq, &bulk_kind);
    if (!b) return;
    b->query = *q;
    b->last = q->after;
    if (time) b->time = *time;
    batch_builder_init(&b->batch, BATCH_MAX);
    if (go_on(&b->wait)) delay_wait_end(&b->wait);
}

/* "DUE-SEQUENCE-LAST", or none: what pends now. */
static bool cursor_of(hf_str text, struct schedule_query *q) {
    if (!text.p) return true;
    const char *last = text.n ? memrchr(text.p, '-', text.n) : NULL;
    int64_t sequence;
    if (!last || hf_str_int(hf_str_make(last + 1, (size_t)(text.p + text.n - last - 1)), &sequence))
        return false;
    q->sequence_max = (uint64_t)sequence;
    return sequence > 0 && delay_place_of(hf_str_make(text.p, (size_t)(last - text.p)), &q->after);
}

/* An empty prefix is a script's unset variable more often than a wish to cancel all that the topic has. */
static bool query_of(struct broker_http *rq, struct schedule_query *q) {
    bool ok = delay_filter_of(rq, PAGE_DEFAULT, q) && cursor_of(broker_http_query(rq, "after"), q);
    return ok && q->topic.n > 0 && (!q->id_prefix.p || q->id_prefix.n > 0);
}

static const char usage[] =
    "topic is needed, a prefix may not be empty (without one, all ids); " DELAY_FILTER_USAGE;

void delay_on_bulk_cancel(void *state, struct broker_http *rq) {
    struct schedule_query q = {0};
    if (query_of(rq, &q))
        begin(state, rq, &q, NULL);
    else
        delay_reply_error(rq, 400, usage);
}

void delay_on_bulk_move(void *state, struct broker_http *rq) {
    struct schedule_query q = {0};
    struct delay_time time = {0};
    const char *why = query_of(rq, &q) ? delay_parse_time(state, rq, true, &time) : usage;
    if (why)
        delay_reply_error(rq, 400, why);
    else
        begin(state, rq, &q, &time);
}
