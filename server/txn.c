/* Transactions as a part of the server: steps the coordinator, and answers questions and decisions over HTTP.
 *
 *     GET  /v1/txn?group=G&state=S&from=N&limit=N   {"transactions": [{…}, …], "next": N or null}
 *     GET  /v1/txn/GROUP/ID                         {"group", "id", "state", …, "half_messages": […]}
 *     POST /v1/txn/GROUP/ID  {"decision": "commit"} {"outcome": "applied", …}      an operator's decision
 *     GET  /v1/txn-outcomes?partition=P&offset=O    {"outcome": "repeated"}        of one record
 *     GET  /v1/txn-outcomes?limit=N                 {"outcomes": [{…}, …]}         those other than applied
 *
 * An id may hold slashes: the group cannot, so the first one divides. Answers tell only what is durable and
 * what takes all records into account that were accepted before the question: a question waits until then, at
 * most WAIT_MS, in a list that is bounded and looked through after each step that changed something. */
#include "server_internal.h"

#include "base/control.h"
#include "base/names.h"
#include "txn/txn.h"

#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>

enum { QUESTIONS_MAX = 1024, WAIT_MS = 5000, PAGE = 100, PAGE_MAX = 1000, CLOSE_POLL_MS = 100 };

#define JSON "application/json"

struct txn_part;

/* A request that waits. */
struct question {
    struct question *next;
    struct broker_http *rq;
    struct txn_part *part;
    /* Answers if it can; false: not yet. */
    bool (*answer)(struct txn_part *part, struct question *q);
    hf_str group, id;
    int32_t partition;
    int64_t offset;
    int64_t until_ms;
    int64_t ends[TXN_PARTITIONS_MAX];
};

struct txn_part {
    struct server *s;
    struct txn *t;
    int64_t next_ms;
    struct question *questions;
    size_t question_count;
    bool closing;
};

/* ---- JSON ---- */

static void reply_json(struct broker_http *rq, int status, json_t *body) {
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (text)
        broker_http_reply(rq, status, JSON, hf_str_of(text));
    else
        broker_http_reply(rq, 500, JSON, HF_STR("{\"error\":\"out of memory\"}"));
    free(text);
    json_decref(body);
}

static void reply_error(struct broker_http *rq, int status, const char *why) {
    reply_json(rq, status, json_pack("{ss}", "error", why));
}

/* Times that are not there are null. */
static json_t *json_ms(int64_t ms) {
    return ms > 0 ? json_integer(ms) : json_null();
}

static json_t *json_of_view(const struct txn_view *v) {
    return json_pack("{ss% ss% ss si sI so so so si si so so}", "group", v->group.p, v->group.n, "id",
                     v->id.p, v->id.n, "state", txn_state_name(v->state), "halves", (int)v->halves, "bytes",
                     (json_int_t)v->bytes, "created_ms", json_ms(v->created_ms), "last_prepare_ms",
                     json_ms(v->last_prepare_ms), "decided_ms", json_ms(v->decided_ms), "checks_sent",
                     (int)v->checks_sent, "checks_read", (int)v->checks_read, "next_check_ms",
                     json_ms(v->next_check_ms), "waits_for",
                     v->stuck ? json_string(hf_err_text(v->stuck)) : json_null());
}

static void add_half(void *arg, const struct txn_half_view *h) {
    json_array_append_new(arg, json_pack("{si sI si}", "partition", (int)h->partition, "offset",
                                         (json_int_t)h->offset, "bytes", (int)h->bytes));
}

/* ---- questions that wait ---- */

static bool query_int(struct broker_http *rq, const char *name, int64_t fallback, int64_t *out) {
    hf_str v = broker_http_query(rq, name);
    *out = fallback;
    return !v.p || (hf_str_int(v, out) == HF_OK && *out >= 0);
}

static void ask(struct txn_part *part, struct question *q) {
    q->part = part;
    q->until_ms = env_wall_ms(part->s->env) + WAIT_MS;
    if (q->answer(part, q)) return;
    if (part->question_count >= QUESTIONS_MAX) {
        reply_error(q->rq, 503, "too many questions wait");
        return;
    }
    q->next = part->questions;
    part->questions = q;
    part->question_count++;
    broker_wake(part->s->broker);
}

static void answer_questions(struct txn_part *part, int64_t now_ms) {
    for (struct question **at = &part->questions; *at;) {
        struct question *q = *at, *next = q->next; /* its memory ends with the answer */
        bool answered = q->answer(part, q);
        if (!answered && (now_ms >= q->until_ms || txn_failed(part->t))) {
            reply_error(q->rq, 503, "not settled yet: ask again");
            answered = true;
        }
        if (answered) {
            *at = next;
            part->question_count--;
        } else {
            at = &q->next;
        }
    }
}

/* The question's memory is the request's. NULL: answered with an error. */
static struct question *question_new(struct broker_http *rq) {
    struct question *q = hf_arena_alloc(broker_http_arena(rq), sizeof *q);
    if (q)
        q->rq = rq;
    else
        reply_error(rq, 500, "out of memory");
    return q;
}

/* ---- one transaction ---- */

static bool split(struct broker_http *rq, hf_str *group, hf_str *id) {
    hf_str rest = broker_http_rest(rq);
    const char *slash = rest.n ? memchr(rest.p, '/', rest.n) : NULL;
    if (!slash || slash == rest.p || slash + 1 == rest.p + rest.n) return false;
    *group = hf_str_make(rest.p, (size_t)(slash - rest.p));
    *id = hf_str_make(slash + 1, (size_t)(rest.p + rest.n - slash - 1));
    return group->n <= HF_TOPIC_NAME_MAX && id->n <= HF_ID_MAX;
}

static bool answer_show(struct txn_part *part, struct question *q) {
    struct txn_view v;
    if (!txn_reached(part->t, q->ends)) return false;
    if (txn_show(part->t, q->group, q->id, &v)) {
        reply_error(q->rq, 404, "no such transaction, or one forgotten since");
        return true;
    }
    if (txn_state_decided(v.state) && !v.durable) {
        txn_hurry(part->t);
        return false;
    }
    json_t *body = json_of_view(&v), *halves = json_array();
    txn_halves(part->t, q->group, q->id, add_half, halves);
    if (body) json_object_set_new(body, "half_messages", halves);
    reply_json(q->rq, 200, body);
    return true;
}

static void on_show(void *state, struct broker_http *rq) {
    struct txn_part *part = state;
    struct question *q = question_new(rq);
    if (!q) return;
    if (!split(rq, &q->group, &q->id)) {
        reply_error(rq, 400, "the path is /v1/txn/GROUP/ID");
        return;
    }
    q->answer = answer_show;
    txn_mark(part->t, q->ends);
    ask(part, q);
}

/* An operator's decision that waits. Its memory is its own: the request may end before it. */
struct decision {
    struct txn_part *part;
    struct broker_http *rq;
};

static void on_decided(void *arg, enum hf_err e, enum txn_outcome outcome) {
    struct decision *d = arg;
    if (d->part->closing) {
        /* The broker has ended the request. */
    } else if (e) {
        reply_error(d->rq, 503, hf_err_text(e));
    } else {
        reply_json(d->rq, outcome == TXN_UNKNOWN_ID ? 404 : 200,
                   json_pack("{ss}", "outcome", txn_outcome_name(outcome)));
    }
    free(d);
}

static bool parse_decision(struct broker_http *rq, enum txn_state *out) {
    hf_str body = broker_http_body(rq);
    json_t *json = body.n ? json_loadb(body.p, body.n, 0, NULL) : NULL;
    const char *word = json_string_value(json_object_get(json, "decision"));
    bool commit = word && strcmp(word, "commit") == 0, rollback = word && strcmp(word, "rollback") == 0;
    json_decref(json);
    *out = commit ? TXN_COMMITTED : TXN_ROLLED_BACK;
    return commit || rollback;
}

static void on_decide(void *state, struct broker_http *rq) {
    struct txn_part *part = state;
    hf_str group, id;
    enum txn_state wanted;
    if (!split(rq, &group, &id)) {
        reply_error(rq, 400, "the path is /v1/txn/GROUP/ID");
        return;
    }
    if (!parse_decision(rq, &wanted)) {
        reply_error(rq, 400, "the body is {\"decision\": \"commit\"} or {\"decision\": \"rollback\"}");
        return;
    }
    struct decision *d = malloc(sizeof *d);
    if (d) *d = (struct decision){part, rq};
    enum hf_err e = d ? txn_decide(part->t, group, id, wanted, on_decided, d) : HF_ENOMEM;
    if (e) {
        free(d);
        reply_error(rq, 503, hf_err_text(e));
        return;
    }
    env_log(part->s->env, ENV_INFO, "txn_operator", "group=%.*s id=\"%.*s\" decision=%s", (int)group.n,
            group.p, (int)id.n, id.p, wanted == TXN_COMMITTED ? "commit" : "rollback");
    broker_wake(part->s->broker);
}

/* ---- lists ---- */

static void add_view(void *arg, const struct txn_view *v) {
    json_array_append_new(arg, json_of_view(v));
}

static bool parse_state(hf_str text, enum txn_state *out) {
    *out = TXN_NONE;
    if (!text.p || text.n == 0) return true;
    for (int s = TXN_PREPARED; s <= TXN_COMMITTED; s++)
        if (hf_str_is(text, txn_state_name((enum txn_state)s))) {
            *out = (enum txn_state)s;
            return true;
        }
    return false;
}

static void on_list(void *state, struct broker_http *rq) {
    struct txn_part *part = state;
    int64_t from, limit;
    enum txn_state wanted;
    if (!query_int(rq, "from", 0, &from) || !query_int(rq, "limit", PAGE, &limit) || limit < 1 ||
        !parse_state(broker_http_query(rq, "state"), &wanted)) {
        reply_error(rq, 400, "state is prepared, parked or committed; from and limit are numbers");
        return;
    }
    if (limit > PAGE_MAX) limit = PAGE_MAX;
    json_t *list = json_array();
    uint64_t next = txn_list(part->t, broker_http_query(rq, "group"), wanted, (uint64_t)from, (size_t)limit,
                             add_view, list);
    json_t *more = next ? json_integer((json_int_t)next) : json_null();
    reply_json(rq, 200, json_pack("{so so}", "transactions", list, "next", more));
}

/* ---- outcomes ---- */

static bool answer_outcome(struct txn_part *part, struct question *q) {
    enum txn_outcome outcome;
    enum hf_err e = txn_outcome_at(part->t, q->partition, q->offset, &outcome);
    if (e == HF_EAGAIN) return false;
    if (e)
        reply_error(q->rq, 404, "too long ago to tell, or no such partition");
    else
        reply_json(q->rq, 200, json_pack("{ss}", "outcome", txn_outcome_name(outcome)));
    return true;
}

static void add_exception(void *arg, const struct txn_exception_view *v) {
    json_array_append_new(arg, json_pack("{ss% ss% sI si sI ss}", "group", v->group.p, v->group.n, "id",
                                         v->id.p, v->id.n, "time_ms", (json_int_t)v->time_ms, "partition",
                                         (int)v->partition, "offset", (json_int_t)v->offset, "outcome",
                                         txn_outcome_name(v->outcome)));
}

static void on_outcomes(void *state, struct broker_http *rq) {
    struct txn_part *part = state;
    int64_t partition, offset, limit;
    bool ok = query_int(rq, "partition", 0, &partition) && query_int(rq, "offset", -1, &offset) &&
              query_int(rq, "limit", PAGE, &limit) && partition <= INT32_MAX;
    if (!ok) {
        reply_error(rq, 400, "partition, offset and limit are numbers");
        return;
    }
    if (offset < 0) {
        json_t *list = json_array();
        txn_exceptions(part->t, (size_t)limit, add_exception, list);
        struct txn_stats n;
        txn_stats(part->t, &n);
        reply_json(rq, 200,
                   json_pack("{so sI}", "outcomes", list, "id_horizon_ms", (json_int_t)n.id_horizon_ms));
        return;
    }
    struct question *q = question_new(rq);
    if (!q) return;
    q->answer = answer_outcome;
    q->partition = (int32_t)partition;
    q->offset = offset;
    ask(part, q);
}

/* ---- metrics ---- */

static void metrics(void *state, struct hf_buf *out) {
    const struct txn_part *part = state;
    struct txn_stats n;
    txn_stats(part->t, &n);
    hf_buf_printf(out, "# TYPE holdfast_txn_outcomes_total counter\n");
    for (int o = 0; o < TXN_OUTCOMES; o++)
        hf_buf_printf(out, "holdfast_txn_outcomes_total{outcome=\"%s\"} %" PRIu64 "\n",
                      txn_outcome_name((enum txn_outcome)o), n.outcomes[o]);
    hf_buf_printf(out, "# TYPE holdfast_txn gauge\n");
    for (int s = TXN_PREPARED; s <= TXN_COMMITTED; s++)
        hf_buf_printf(out, "holdfast_txn{state=\"%s\"} %" PRIu64 "\n", txn_state_name((enum txn_state)s),
                      n.by_state[s]);
    server_metric(out, "holdfast_txn_prepares_total", "counter", n.prepares);
    server_metric(out, "holdfast_txn_commits_total", "counter", n.commits);
    server_metric(out, "holdfast_txn_rollbacks_total", "counter", n.rollbacks);
    server_metric(out, "holdfast_txn_moved_total", "counter", n.moved);
    server_metric(out, "holdfast_txn_moved_messages_total", "counter", n.moved_halves);
    server_metric(out, "holdfast_txn_rejected_total", "counter", n.rejected);
    server_metric(out, "holdfast_txn_checks_sent_total", "counter", n.checks_sent);
    server_metric(out, "holdfast_txn_checks_read_total", "counter", n.checks_read);
    server_metric(out, "holdfast_txn_checks_again_total", "counter", n.checks_again);
    server_metric(out, "holdfast_txn_retries_total", "counter", n.retries);
    server_metric(out, "holdfast_txn_reloads_total", "counter", n.reloads);
    server_metric(out, "holdfast_txn_pinned_bytes", "gauge", n.live_bytes);
    server_metric(out, "holdfast_txn_remembered_ids", "gauge", n.remembered);
    server_metric(out, "holdfast_txn_id_horizon_ms", "gauge",
                  n.id_horizon_ms > 0 ? (uint64_t)n.id_horizon_ms : 0);
}

/* ---- life ---- */

static void on_event(void *arg, const char *name, const char *detail) {
    env_log(((struct txn_part *)arg)->s->env, ENV_WARN, name, "%s", detail);
}

static enum hf_err open_part(struct server *s, void **state) {
    struct txn_part *part = calloc(1, sizeof *part);
    if (!part) return HF_ENOMEM;
    part->s = s;
    const struct server_settings *o = s->settings;
    struct txn_options options = {.check_after_ms = o->txn_check_after_ms,
                                  .check_interval_ms = o->txn_check_interval_ms,
                                  .check_attempts = (int32_t)o->txn_check_attempts,
                                  .id_memory_ms = o->id_memory_ms,
                                  .id_memory_bytes = (size_t)o->txn_id_memory_bytes,
                                  .live_max = (size_t)o->txn_live_max,
                                  .destination_wait_ms = o->txn_destination_wait_ms,
                                  .event = on_event,
                                  .event_arg = part};
    enum hf_err e = txn_open(s->engine, &options, env_wall_ms(s->env), &part->t);
    if (e) {
        free(part);
        return e;
    }
    *state = part;
    return HF_OK;
}

static int64_t step_part(void *state, int64_t now_ms) {
    struct txn_part *part = state;
    if (now_ms >= part->next_ms || txn_wants(part->t)) part->next_ms = txn_step(part->t, now_ms);
    if (part->questions) answer_questions(part, now_ms);
    if (txn_wants(part->t)) return now_ms;
    return part->questions && part->next_ms > now_ms + WAIT_MS ? now_ms + WAIT_MS : part->next_ms;
}

/* The commit under way still ends, so that nothing comes back to a coordinator that is gone. */
static void close_part(void *state) {
    struct txn_part *part = state;
    struct server *s = part->s;
    part->closing = true;
    struct pollfd fd = {.fd = env_poll_fd(s->env), .events = POLLIN};
    while (txn_busy(part->t) && !log_failed(s->log)) {
        int64_t wait_ms = log_step(s->log);
        if (txn_busy(part->t)) (void)poll(&fd, 1, wait_ms > CLOSE_POLL_MS ? CLOSE_POLL_MS : (int)wait_ms);
        (void)env_poll(s->env);
    }
    txn_close(part->t);
    free(part);
}

static const struct server_route routes[] = {
    {"GET", "/v1/txn", on_list, "group state from limit"},
    {"GET", "/v1/txn/*", on_show, ""},
    {"POST", "/v1/txn/*", on_decide, ""},
    {"GET", "/v1/txn-outcomes", on_outcomes, "partition offset limit"},
};

const struct server_part server_txn = {.name = "txn",
                                       .open = open_part,
                                       .step = step_part,
                                       .close = close_part,
                                       .metrics = metrics,
                                       .routes = routes,
                                       .route_count = sizeof(routes) / sizeof(routes[0])};
