/* Transactions with check-back, the producer's side.
 *
 *     halves durable → outcome asked → local transaction → decision durable → outcome asked
 *
 * Crash windows. Before the local transaction: halves without a decision; the server asks a member of the
 * group, whose check finds no row, writes a void one, and answers rollback. After it: the check finds the row
 * and answers commit. The caller's own late decision is then `repeated` (the same) or `contradicted`
 * (HF_EDECIDED).
 *
 * Outcomes are asked for where the server's HTTP side is known. All halves are sent before any is waited for;
 * if one fails or is refused, the local transaction does not run and a
 * rollback is sent, so that nobody has to be asked. A half's identity is given (by default
 * <group>/<id>/<index>), so that a transaction tried again adds no message twice, and one that is found
 * committed has nothing left to do. */
#include "producer.h"

#include "compose.h"

#include "base/names.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct hf_producer {
    hf_client *client;
    char *group;
    _Atomic int64_t check_after_ms;
    struct checks *checks; /* NULL: no check function */
};

void hf_producer_close(hf_producer *p) {
    if (!p) return;
    checks_close(p->checks);
    free(p->group);
    free(p);
}

enum hf_err hf_producer_open(hf_client *c, const char *group, hf_checker *check, void *arg,
                             hf_producer **out) {
    if (!group || !hf_group_suffix_ok(hf_str_of(group)))
        return client_error(HF_EINVAL,
                            "producer group \"%s\": at most %d of letters, digits, '.', '_' and '-'",
                            group ? group : "", HF_TOPIC_NAME_MAX - (int)sizeof HF_TOPIC_CHECK + 1);
    hf_producer *p = calloc(1, sizeof *p);
    if (p) p->group = strdup(group);
    if (!p || !p->group) {
        free(p);
        return client_error(HF_ENOMEM, "producer: %s", hf_err_text(HF_ENOMEM));
    }
    p->client = c;
    enum hf_err e = check ? checks_open(p, p->group, check, arg, &p->checks) : HF_OK;
    if (e) {
        hf_producer_close(p);
        return e;
    }
    *out = p;
    return HF_OK;
}

hf_client *producer_client(hf_producer *p) {
    return p->client;
}

void hf_producer_check_after(hf_producer *p, int64_t check_after_ms) {
    atomic_store(&p->check_after_ms, check_after_ms);
}

/* ---- half messages ---- */

struct halves {
    pthread_mutex_t lock;
    pthread_cond_t reported;
    size_t waiting;
    enum hf_err failed;
    char text[512];
};

struct half {
    struct halves *all;
    int32_t partition; /* where it was accepted */
    int64_t offset;
};

static void half_sent(enum hf_err e, const hf_receipt *r, void *arg) {
    struct half *half = arg;
    struct halves *h = half->all;
    pthread_mutex_lock(&h->lock);
    if (!e) {
        half->partition = r->partition;
        half->offset = r->offset;
    } else if (!h->failed) {
        h->failed = e;
        snprintf(h->text, sizeof h->text, "%s", hf_errmsg());
    }
    if (--h->waiting == 0) pthread_cond_signal(&h->reported);
    pthread_mutex_unlock(&h->lock);
}

static enum hf_err send_half(hf_producer *p, const char *id, const hf_message *m, size_t index,
                             struct half *half) {
    char message_id[COMPOSE_TEXT];
    if ((size_t)snprintf(message_id, sizeof message_id, "%s/%s/%zu", p->group, id, index) >=
            sizeof message_id &&
        !m->message_id)
        return client_error(HF_ELIMIT,
                            "transaction \"%s\": the id is too long; give each message a message_id", id);
    struct composed composed;
    enum hf_err e = compose_half(&composed, p->group, id, m, message_id, atomic_load(&p->check_after_ms));
    if (e) return e;
    struct halves *h = half->all;
    pthread_mutex_lock(&h->lock);
    h->waiting++;
    pthread_mutex_unlock(&h->lock);
    e = client_send_async(p->client, &composed.record, half_sent, half);
    if (e) {
        pthread_mutex_lock(&h->lock);
        h->waiting--;
        pthread_mutex_unlock(&h->lock);
    }
    compose_fini(&composed);
    return e;
}

/* All are sent before any is waited for. */
static enum hf_err send_halves(hf_producer *p, const char *id, const hf_message *messages, size_t n,
                               struct half *halves) {
    enum hf_err e = HF_OK;
    struct halves h = {.lock = PTHREAD_MUTEX_INITIALIZER, .reported = PTHREAD_COND_INITIALIZER};
    for (size_t i = 0; i < n && !e; i++) {
        halves[i].all = &h;
        e = send_half(p, id, &messages[i], i, &halves[i]);
    }
    pthread_mutex_lock(&h.lock);
    while (h.waiting > 0) pthread_cond_wait(&h.reported, &h.lock);
    pthread_mutex_unlock(&h.lock);
    pthread_cond_destroy(&h.reported);
    pthread_mutex_destroy(&h.lock);
    return !e && h.failed ? client_error(h.failed, "%s", h.text) : e;
}

/* ---- what became of it ----
 *
 * The server answers a question when the coordinator has read what was accepted before it, or 503 after a
 * while. */

static enum hf_err question(hf_producer *p, const char *path, int *status, json_t **answer) {
    const hf_client_options *o = client_options(p->client);
    return client_api(o->api, "GET", path, NULL, o->timeout_ms, status, answer);
}

/* "applied", "repeated", …; "" if there is none. HF_EAGAIN: the coordinator has not read the record yet. */
static enum hf_err ask_outcome(hf_producer *p, int32_t partition, int64_t offset, char out[32]) {
    char path[128];
    (void)snprintf(path, sizeof path, "/v1/txn-outcomes?partition=%" PRId32 "&offset=%" PRId64, partition,
                   offset);
    int status = 0;
    json_t *answer = NULL;
    enum hf_err e = question(p, path, &status, &answer);
    const char *outcome = json_string_value(json_object_get(answer, "outcome"));
    if (!e) snprintf(out, 32, "%s", outcome ? outcome : "");
    json_decref(answer);
    return !e && status == 503 ? HF_EAGAIN : e;
}

/* What the decision at r did. */
static enum hf_err ask_decided(hf_producer *p, const char *id, const hf_receipt *r) {
    char outcome[32] = "";
    enum hf_err e = ask_outcome(p, r->partition, r->offset, outcome);
    if (e == HF_EAGAIN)
        return client_error(e, "transaction \"%s\": its decision is durable but not applied yet", id);
    if (e)
        return client_error(e, "transaction \"%s\" is decided; what came of it is not known: %s", id,
                            hf_errmsg());
    if (strcmp(outcome, "applied") == 0 || strcmp(outcome, "repeated") == 0) return HF_OK;
    if (strcmp(outcome, "contradicted") == 0)
        return client_error(HF_EDECIDED, "transaction \"%s\" of group \"%s\" was decided otherwise before",
                            id, p->group);
    if (strcmp(outcome, "unknown id") == 0)
        return client_error(HF_ENOTFOUND, "transaction \"%s\" of group \"%s\" is not known to the server", id,
                            p->group);
    return client_error(HF_EIO, "transaction \"%s\" is decided; what came of it is not known: %s", id,
                        outcome);
}

/* It is decided although only its half messages were sent: one of them was beyond a limit, or it had been
 * decided before. */
static enum hf_err why_decided(hf_producer *p, const char *id, const char *state, const struct half *halves,
                               size_t n) {
    for (size_t i = 0; i < n; i++) {
        char outcome[32] = "";
        if (ask_outcome(p, halves[i].partition, halves[i].offset, outcome) == HF_OK &&
            strcmp(outcome, "refused") == 0)
            return client_error(
                HF_ELIMIT,
                "transaction \"%s\" of group \"%s\" is beyond a limit of the server (messages "
                "or bytes of a transaction, undecided transactions) and is rolled back",
                id, p->group);
    }
    return client_error(HF_EDECIDED, "transaction \"%s\" of group \"%s\" was decided before: it is %s", id,
                        p->group, state);
}

/* Has every half message become a part of the transaction? Its state tells of all of them: any that has not
 * leaves it decided. *committed beside HF_EDECIDED: it was committed. */
static enum hf_err ask_prepared(hf_producer *p, const char *id, const struct half *halves, size_t n,
                                bool *committed) {
    char path[4096], group[800], name[3100];
    if (!client_path_segment(p->group, group, sizeof group) || !client_path_segment(id, name, sizeof name))
        return client_error(HF_ELIMIT, "transaction \"%.40s…\": the id is too long", id);
    (void)snprintf(path, sizeof path, "/v1/txn/%s/%s", group, name);
    int status = 0;
    json_t *answer = NULL;
    enum hf_err e = question(p, path, &status, &answer);
    if (e) return client_error(e, "transaction \"%s\": prepared or not is not known: %s", id, hf_errmsg());
    const char *state = json_string_value(json_object_get(answer, "state"));
    if (status == 503)
        e = client_error(HF_EAGAIN, "transaction \"%s\": prepared or not is not known yet", id);
    else if (!state)
        e = client_error(HF_EIO, "transaction \"%s\": prepared or not is not known: HTTP %d", id, status);
    else if (strcmp(state, "prepared") != 0 && strcmp(state, "parked") != 0)
        e = why_decided(p, id, state, halves, n);
    *committed = e == HF_EDECIDED && strcmp(state, "committed") == 0;
    json_decref(answer);
    return e;
}

enum { ASK_TRIES = 5, ASK_PAUSE_MS = 100 };

static void ask_pause(int tries) {
    if (tries > 0) nanosleep(&(struct timespec){.tv_nsec = ASK_PAUSE_MS * 1000000}, NULL);
}

static enum hf_err give_up_asking(enum hf_err e) {
    return e == HF_EAGAIN ? client_error(HF_ETIMEDOUT, "%s", hf_errmsg()) : e;
}

static enum hf_err await_prepared(hf_producer *p, const char *id, const struct half *halves, size_t n,
                                  bool *committed) {
    enum hf_err e = HF_EAGAIN;
    for (int i = 0; i < ASK_TRIES && e == HF_EAGAIN; i++) {
        ask_pause(i);
        e = ask_prepared(p, id, halves, n, committed);
    }
    return give_up_asking(e);
}

static enum hf_err await_decided(hf_producer *p, const char *id, const hf_receipt *r) {
    enum hf_err e = HF_EAGAIN;
    for (int i = 0; i < ASK_TRIES && e == HF_EAGAIN; i++) {
        ask_pause(i);
        e = ask_decided(p, id, r);
    }
    return give_up_asking(e);
}

/* ---- prepare ---- */

static enum hf_err need_coordinator(hf_producer *p) {
    bool there = false;
    enum hf_err e = client_has_scheduler(p->client, &there);
    if (e || there) return e;
    return client_error(HF_EUNSUPPORTED, "transactions need a Holdfast server; the one at %s is none",
                        client_server(p->client));
}

static enum hf_err prepare(hf_producer *p, const char *id, const hf_message *messages, size_t n,
                           bool *committed) {
    if (!id || !*id || !messages || n == 0 || n > HF_TRANSACT_MESSAGES_MAX)
        return client_error(HF_EINVAL, "transaction: an id and 1 to %d messages are required",
                            HF_TRANSACT_MESSAGES_MAX);
    enum hf_err e = need_coordinator(p);
    if (e) return e;
    struct half *halves = calloc(n, sizeof *halves);
    if (!halves) return client_error(HF_ENOMEM, "transaction: %s", hf_err_text(HF_ENOMEM));
    e = send_halves(p, id, messages, n, halves);
    if (!e && client_options(p->client)->api) e = await_prepared(p, id, halves, n, committed);
    free(halves);
    return e;
}

enum hf_err hf_prepare(hf_producer *p, const char *id, const hf_message *messages, size_t n) {
    bool committed;
    return prepare(p, id, messages, n, &committed);
}

/* ---- decide ---- */

enum hf_err producer_send_decision(hf_producer *p, const char *id, hf_decision decision,
                                   hf_receipt *receipt) {
    struct composed composed;
    enum hf_err e = compose_decision(&composed, p->group, id, decision == HF_COMMIT);
    if (e) return e;
    e = client_send(p->client, &composed.record, receipt);
    compose_fini(&composed);
    return e;
}

enum hf_err hf_decide(hf_producer *p, const char *id, hf_decision decision) {
    if (decision != HF_COMMIT && decision != HF_ROLLBACK)
        return client_error(HF_EAGAIN, "transaction \"%s\": no decision; a check will settle it", id);
    hf_receipt r;
    enum hf_err e = producer_send_decision(p, id, decision, &r);
    if (e || !client_options(p->client)->api) return e;
    return await_decided(p, id, &r);
}

enum hf_err hf_transact(hf_producer *p, const char *id, const hf_message *messages, size_t n, hf_local *local,
                        void *arg) {
    bool committed = false;
    enum hf_err e = prepare(p, id, messages, n, &committed);
    if (committed) return HF_OK;
    if (e) {
        char text[512];
        snprintf(text, sizeof text, "%s", hf_errmsg());
        /* If this rollback is lost too, a check finds no row and says the same. */
        bool pointless = e == HF_EUNSUPPORTED || e == HF_EDECIDED;
        if (id && *id && !pointless && producer_send_decision(p, id, HF_ROLLBACK, NULL) != HF_OK)
            return client_error(e, "%s (and no rollback: a check will settle it)", text);
        return client_error(e, "%s", text);
    }
    return hf_decide(p, id, local(id, arg));
}
