/* How requests end; and one that is answered when the last of several completions has come.
 *
 *   begin (left = 1) ── more, more … ── done, done … ──► left = 0: finish, if the client still waits
 *                          └── the client goes: the request ends at once, the count goes on without it */
#include "server_internal.h"

#include <assert.h>
#include <stdlib.h>

void server_no_memory(struct broker_request *rq) {
    broker_refuse(rq, "the answer takes more memory than the limit");
}

void server_answer(struct broker_request *rq, bool whole) {
    if (whole)
        broker_answer(rq);
    else
        server_no_memory(rq);
}

static void on_gone(struct broker_request *rq) {
    struct server_wait *w = rq->state;
    w->rq = NULL;
    broker_answer_nothing(rq);
}

struct server_wait *server_wait_begin(struct broker_request *rq, void (*finish)(struct server_wait *w),
                                      void *arg) {
    struct server_wait *w = malloc(sizeof(*w));
    if (!w) return NULL;
    *w = (struct server_wait){.rq = rq, .left = 1, .finish = finish, .arg = arg};
    rq->state = w;
    rq->on_gone = on_gone;
    return w;
}

void server_wait_more(struct server_wait *w) {
    w->left++;
}

void server_wait_done(struct server_wait *w) {
    assert(w->left > 0);
    if (--w->left > 0) return;
    if (w->rq) {
        w->rq->on_gone = NULL;
        w->finish(w);
    }
    free(w);
}

/* ---- one of the completions: a call of the log that ends with an error or none ---- */

struct server_result {
    struct server_wait *wait;
    int16_t *error;
};

struct server_result *server_wait_result(struct server_wait *w, int16_t *error) {
    struct server_result *r = malloc(sizeof(*r));
    if (!r) return NULL;
    *r = (struct server_result){w, error};
    server_wait_more(w);
    return r;
}

void server_wait_ended(void *arg, enum hf_err e) {
    struct server_result *r = arg;
    if (r->wait->rq) *r->error = kafka_error_of(e);
    server_wait_forget(r);
}

void server_wait_forget(struct server_result *r) {
    server_wait_done(r->wait);
    free(r);
}
