/* Schedules by name: cancel, move, replace, each with a definite answer where the server's HTTP side is
 * known. */
#include "compose.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct {
    hf_outcome outcome;
    const char *text;
} outcomes[] = {
    {HF_OUTCOME_ACCEPTED, "accepted"},   {HF_OUTCOME_CANCELLED, "cancelled"},
    {HF_OUTCOME_REPLACED, "replaced"},   {HF_OUTCOME_MOVED, "moved"},
    {HF_OUTCOME_KEPT, "kept"},           {HF_OUTCOME_FINISHED, "finished"},
    {HF_OUTCOME_SCHEDULED, "scheduled"}, {HF_OUTCOME_DELIVERED, "already delivered"},
    {HF_OUTCOME_UNKNOWN, "unknown"},
};

const char *hf_outcome_text(hf_outcome o) {
    for (size_t i = 0; i < sizeof outcomes / sizeof *outcomes; i++)
        if (outcomes[i].outcome == o) return outcomes[i].text;
    return "no such outcome";
}

static hf_outcome outcome_named(const char *text) {
    for (size_t i = 0; text && i < sizeof outcomes / sizeof *outcomes; i++)
        if (strcmp(outcomes[i].text, text) == 0) return outcomes[i].outcome;
    return HF_OUTCOME_ACCEPTED;
}

/* HF_OK: the server has answered something; *answer may be NULL and is to be released. */
static enum hf_err call(hf_client *c, const char *method, const char *path, const json_t *body, int *status,
                        json_t **answer) {
    const hf_client_options *o = client_options(c);
    *answer = NULL;
    return client_api(o->api, method, path, body, o->timeout_ms, status, answer);
}

/* The answer is none of those that the question has. */
static enum hf_err refused(const char *method, const char *path, int status, const json_t *answer) {
    const char *why = json_string_value(json_object_get(answer, "error"));
    enum hf_err e = status == 503 || status == 504 ? HF_EAGAIN
                    : status == 400                ? HF_EINVAL
                    : status == 404                ? HF_ENOTFOUND
                                                   : HF_EIO;
    return client_error(e, "%s %s: HTTP %d: %s", method, path, status,
                        why ? why : "no answer that is understood");
}

/* One question; its answer names an outcome. */
static enum hf_err ask(hf_client *c, const char *method, const char *path, const json_t *body,
                       hf_outcome *out) {
    int status = 0;
    json_t *answer;
    enum hf_err e = call(c, method, path, body, &status, &answer);
    if (e) return e;
    const char *outcome = json_string_value(json_object_get(answer, "outcome"));
    if (outcome)
        *out = outcome_named(outcome);
    else
        e = refused(method, path, status, answer);
    json_decref(answer);
    return e;
}

static enum hf_err path_of(const char *topic, const char *id, char *out, size_t size) {
    char t[800], i[3100];
    if (!topic || !*topic || !id || !*id)
        return client_error(HF_EINVAL, "schedule: topic and id are required");
    if (!client_path_segment(topic, t, sizeof t) || !client_path_segment(id, i, sizeof i) ||
        (size_t)snprintf(out, size, "/v1/schedule/%s/%s", t, i) >= size)
        return client_error(HF_ELIMIT, "schedule \"%.40s…\": the id is too long", id);
    return HF_OK;
}

enum hf_err hf_cancel(hf_client *c, const char *topic, const char *id, hf_outcome *out) {
    char path[4096];
    enum hf_err e = path_of(topic, id, path, sizeof path);
    if (e) return e;
    if (client_options(c)->api) return ask(c, "DELETE", path, NULL, out);
    struct composed composed;
    e = compose_cancel(&composed, topic, id);
    if (e) return e;
    e = client_send(c, &composed.record, NULL);
    compose_fini(&composed);
    if (!e) *out = HF_OUTCOME_ACCEPTED;
    return e;
}

enum hf_err hf_move(hf_client *c, const char *topic, const char *id, int64_t due_ms, hf_outcome *out) {
    char path[4096];
    enum hf_err e = path_of(topic, id, path, sizeof path);
    if (e) return e;
    json_t *body = json_pack("{s:I}", "due", (json_int_t)due_ms);
    if (!body) return client_error(HF_ENOMEM, "move: %s", hf_err_text(HF_ENOMEM));
    e = ask(c, "POST", path, body, out);
    json_decref(body);
    return e;
}

/* The schedule reads a message a moment after it is durable. */
enum hf_err client_outcome(hf_client *c, const hf_receipt *r, hf_outcome *out) {
    enum { PAUSE_MS = 5 };
    char path[128];
    (void)snprintf(path, sizeof path, "/v1/schedule-outcomes?partition=%" PRId32 "&offset=%" PRId64,
                   r->partition, r->offset);
    enum hf_err e = HF_EAGAIN;
    for (int64_t left = client_options(c)->timeout_ms; left > 0 && e == HF_EAGAIN; left -= PAUSE_MS) {
        e = ask(c, "GET", path, NULL, out);
        if (e == HF_EAGAIN) nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000}, NULL);
    }
    if (e == HF_ENOTFOUND) { /* an ordinary schedule leaves no outcome */
        *out = HF_OUTCOME_SCHEDULED;
        e = HF_OK;
    }
    return e == HF_EAGAIN ? HF_ETIMEDOUT : e;
}

enum hf_err hf_replace(hf_client *c, const hf_message *m, hf_outcome *out) {
    if (!m || !m->id) return client_error(HF_EINVAL, "replace: the message has no id");
    hf_receipt r;
    enum hf_err e = hf_send(c, m, &r);
    if (e) return e;
    hf_outcome met = HF_OUTCOME_ACCEPTED;
    if (client_options(c)->api) e = client_outcome(c, &r, &met);
    if (!e) *out = met;
    return e;
}

/* ---- many ---- */

static enum hf_err page_path(const hf_filter *f, const char *after, char *out, size_t size) {
    char topic[800], prefix[3100] = "", cursor[300] = "", to[32] = "";
    int n = 0;
    if (f->due_to_ms) (void)snprintf(to, sizeof to, "&to=%" PRId64, f->due_to_ms);
    bool fits = f->topic && client_path_segment(f->topic, topic, sizeof topic) &&
                (!f->id_prefix || client_path_segment(f->id_prefix, prefix, sizeof prefix)) &&
                client_path_segment(after, cursor, sizeof cursor);
    if (fits)
        n = snprintf(out, size, "/v1/schedule?topic=%s&from=%" PRId64 "%s%s%s%s%s", topic, f->due_from_ms, to,
                     f->id_prefix ? "&prefix=" : "", prefix, *after ? "&after=" : "", cursor);
    if (!fits || (size_t)n >= size)
        return client_error(HF_EINVAL, "schedule: a topic is required, or it is too long");
    return HF_OK;
}

static int64_t number_at(const json_t *o, const char *name) {
    return json_integer_value(json_object_get(o, name));
}

static enum hf_err one_page(hf_client *c, const char *method, const char *path, const json_t *body,
                            hf_sums *sums) {
    int status = 0;
    json_t *answer;
    enum hf_err e = call(c, method, path, body, &status, &answer);
    if (e) return e;
    if (status == 200) {
        const char *next = json_string_value(json_object_get(answer, "next"));
        sums->done += number_at(answer, body ? "moved" : "cancelled");
        sums->changed += number_at(answer, "changed");
        sums->delivered += number_at(answer, "already delivered");
        sums->without_id += number_at(answer, "without id");
        (void)snprintf(sums->next, sizeof sums->next, "%s", next ? next : "");
    } else {
        e = refused(method, path, status, answer);
    }
    json_decref(answer);
    return e;
}

static enum hf_err all_pages(hf_client *c, const char *method, const hf_filter *f, const json_t *body,
                             hf_sums *sums) {
    char path[5000];
    enum hf_err e;
    if (!client_options(c)->api)
        return client_error(HF_EUNSUPPORTED,
                            "schedule: the client has no api address, which many at once need");
    do {
        e = page_path(f, sums->next, path, sizeof path);
        if (!e) e = one_page(c, method, path, body, sums);
    } while (!e && sums->next[0]);
    return e;
}

enum hf_err hf_cancel_all(hf_client *c, const hf_filter *f, hf_sums *sums) {
    return all_pages(c, "DELETE", f, NULL, sums);
}

enum hf_err hf_move_all(hf_client *c, const hf_filter *f, int64_t by_ms, hf_sums *sums) {
    char by[32];
    (void)snprintf(by, sizeof by, "%" PRId64, by_ms);
    json_t *body = json_pack("{s:s}", "by", by);
    if (!body) return client_error(HF_ENOMEM, "move: %s", hf_err_text(HF_ENOMEM));
    enum hf_err e = all_pages(c, "POST", f, body, sums);
    json_decref(body);
    return e;
}
