/* InitProducerId: an id for an idempotent producer. Ids come in blocks that are reserved durably first; while
 * a block is being reserved, requests wait in order. An idempotent producer that starts over (KIP-360) gets a
 * new id.
 *
 * A transactional id is refused by name: Kafka's transactions are not served, and a producer that believed in
 * them would lose what it relies on. */
#include "server_internal.h"

#include <stdlib.h>
#include <utlist.h>

struct waiting {
    struct producers *producers;
    struct broker_request *rq;
    struct waiting *prev, *next;
};

struct producers {
    struct server *server;
    struct waiting *waiting;
};

/* false: a block is being reserved. */
static bool try_answer(struct producers *p, struct broker_request *rq) {
    struct kafka_init_producer_id_response *a = rq->answer;
    int64_t id = -1;
    enum hf_err e = log_producer_id(p->server->log, &id);
    if (e == HF_EAGAIN) return false;
    a->error_code = kafka_error_of(e);
    a->producer_id = id;
    a->producer_epoch = e ? -1 : 0;
    broker_answer(rq);
    return true;
}

static void end_wait(struct waiting *w) {
    w->rq->on_gone = NULL;
    DL_DELETE(w->producers->waiting, w);
    free(w);
}

static void on_gone(struct broker_request *rq) {
    end_wait(rq->state);
    broker_answer_nothing(rq);
}

static void on_init(void *state, struct broker_request *rq) {
    struct producers *p = state;
    const struct kafka_init_producer_id_request *q = rq->body;
    struct kafka_init_producer_id_response *a = rq->answer;
    if (q->transactional_id.p) {
        env_log(p->server->env, ENV_WARN, "transactional_id_refused", "client=%s transactional_id=\"%.*s\"",
                rq->client, (int)(q->transactional_id.n < 64 ? q->transactional_id.n : 64),
                q->transactional_id.p);
        a->error_code = KAFKA_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
        broker_answer(rq);
        return;
    }
    if (!p->waiting && try_answer(p, rq)) return;
    struct waiting *w = calloc(1, sizeof(*w));
    if (!w) {
        broker_refuse(rq, "out of memory");
        return;
    }
    *w = (struct waiting){.producers = p, .rq = rq};
    DL_APPEND(p->waiting, w);
    rq->state = w;
    rq->on_gone = on_gone;
}

static int64_t step_producers(void *state, int64_t now_ms) {
    (void)now_ms;
    struct producers *p = state;
    while (p->waiting) {
        struct broker_request *rq = p->waiting->rq;
        rq->on_gone = NULL;
        if (!try_answer(p, rq)) {
            rq->on_gone = on_gone;
            break;
        }
        end_wait(p->waiting);
    }
    return INT64_MAX; /* the reservation's completion wakes the loop */
}

static enum hf_err open_producers(struct server *s, void **state) {
    struct producers *p = calloc(1, sizeof(*p));
    if (!p) return HF_ENOMEM;
    p->server = s;
    *state = p;
    return HF_OK;
}

static const struct server_handler handlers[] = {{KAFKA_API_init_producer_id, on_init}};

const struct server_part server_producers = {.name = "producers",
                                             .open = open_producers,
                                             .step = step_producers,
                                             .close = free,
                                             .handlers = handlers,
                                             .handler_count = 1};
