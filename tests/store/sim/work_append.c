/* Appends with each acknowledgement, and idempotent producers that send again what was not answered, after a
 * crash too. */
#include "work.h"

/* ---- appends ---- */

static void appended(void *arg, const struct log_appended *result) {
    struct attempt *a = arg;
    struct message *x = a->message;
    struct run *r = a->run;
    run_note(r, "message %u answered %s offset %lld%s", x->id, hf_err_name(result->e),
             (long long)result->base_offset, result->duplicate ? " duplicate" : "");
    if (result->e) {
        model_unanswered(x);
        return;
    }
    model_answered(r->model, x, result->base_offset, a->durable);
    for (size_t i = 0; a->producer && i < a->producer->recent_count; i++)
        if (a->producer->recent[i] == x) a->producer->answered[i] = true;
}

static enum hf_err send(struct run *r, struct message *x, bool durable, struct producer_sim *producer) {
    uint8_t batch[KBATCH_MAX];
    struct attempt *a = work_attempt(r);
    struct log_partition *p = log_partition(r->log, work_topic_name(r, x->topic), x->partition);
    if (!a || !p) return HF_EAGAIN;
    durable = durable || x->wants_durable;
    x->floor = work_end_of(p);
    a->message = x;
    a->durable = durable;
    a->producer = producer;
    size_t n = kbatch_make(x->id, x->count, &x->producer, r->model->topics[x->topic].compacted, batch);
    enum fate before = x->fate;
    x->fate = FATE_WAITING;
    enum hf_err e = log_append(r->log, p, batch, n, durable ? LOG_ACK_DURABLE : LOG_ACK_WRITTEN, appended, a);
    run_note(r, "message %u (%u records, producer %lld sequence %d) to %s-%d acks=%s: %s", x->id, x->count,
             (long long)x->producer.id, x->producer.sequence, r->model->topics[x->topic].name, x->partition,
             durable ? "all" : "1", hf_err_name(e));
    if (e) x->fate = hf_sim_dead(r->sim) ? FATE_UNKNOWN : before;
    return e;
}

void work_append_plain(struct run *r, struct run_totals *totals) {
    int topic, partition;
    if (!work_draw_partition(r, true, &topic, &partition)) return;
    bool durable = run_below(r, 10) < r->durable_in_ten;
    struct message *x =
        model_message(r->model, topic, partition, 1 + (uint32_t)run_below(r, MODEL_MESSAGE_RECORDS), durable);
    if (!x) return;
    x->fate = FATE_REFUSED;
    if (send(r, x, durable, NULL))
        totals->refused++;
    else
        totals->messages++;
}

/* ---- idempotent producers ---- */

void work_producer_renew(struct producer_sim *p) {
    *p = (struct producer_sim){.id = -1};
}

/* Asks for a number nobody had. */
void work_producer_begin(struct run *r, struct producer_sim *p) {
    struct model *m = r->model;
    int topic, partition;
    int64_t id;
    if (!work_draw_partition(r, false, &topic, &partition) || m->id_count == sizeof m->ids / sizeof m->ids[0])
        return;
    if (log_producer_id(r->log, &id)) return;
    for (uint32_t i = 0; i < m->id_count; i++)
        if (m->ids[i] == id) model_broken(m, "M7", "producer id %lld was given out twice", (long long)id);
    m->ids[m->id_count++] = id;
    work_producer_renew(p);
    p->id = id;
    p->topic = topic;
    p->partition = partition;
    p->generation = m->topics[topic].generation;
    p->durable = run_one_in(r, 2);
}

/* Out of order is legal only if something answered was lost, which acks≤1 allows. */
static void producer_refused(struct run *r, struct producer_sim *p, const struct message *x, enum hf_err e) {
    if (e != HF_ERANGE && e != HF_EFENCED) return;
    bool lossy = !p->durable && !r->model->topics[p->topic].internal;
    if (!lossy)
        model_broken(r->model, "M7", "message %u of producer %lld was refused: %s", x->id, (long long)p->id,
                     hf_err_name(e));
    work_producer_renew(p);
}

static void producer_send_new(struct run *r, struct producer_sim *p, struct run_totals *totals) {
    if (p->recent_count == IN_FLIGHT) {
        if (!p->answered[0]) return; /* the window is full */
        memmove(p->recent, p->recent + 1, (IN_FLIGHT - 1) * sizeof(struct message *));
        memmove(p->answered, p->answered + 1, (IN_FLIGHT - 1) * sizeof p->answered[0]);
        p->recent_count--;
    }
    bool durable = p->durable || run_below(r, 15) < r->durable_in_ten;
    uint32_t count = 1 + (uint32_t)run_below(r, 3);
    struct message *x = model_message(r->model, p->topic, p->partition, count, durable);
    if (!x) return;
    x->fate = FATE_REFUSED;
    x->producer = (struct kproducer){p->id, 0, p->next_sequence};
    /* Not in the window yet, so that an answer within the call would be a fault that shows. */
    enum hf_err e = send(r, x, durable, p);
    if (e && !hf_sim_dead(r->sim)) {
        producer_refused(r, p, x, e);
        totals->refused++;
        return;
    }
    p->recent[p->recent_count] = x;
    p->answered[p->recent_count++] = false;
    p->resend = p->recent_count;
    p->next_sequence += (int32_t)count;
    totals->messages++;
}

/* Sends one of the window again: after a crash what was not answered, in order; else anything, as a client
 * does whose answer was late. The answer must name the original's place if it is there. */
static void producer_send_again(struct run *r, struct producer_sim *p, size_t which,
                                struct run_totals *totals) {
    struct message *x = p->recent[which];
    bool there = x->fate != FATE_LOST && x->fate != FATE_UNKNOWN;
    bool durable = x->wants_durable || p->durable || run_one_in(r, 3);
    enum hf_err e = send(r, x, durable, p);
    totals->resent++;
    totals->duplicates += !e && there;
    if (e && !hf_sim_dead(r->sim)) producer_refused(r, p, x, e);
    if (!e && which == p->resend) p->resend++;
}

void work_append_idempotent(struct run *r, struct run_totals *totals) {
    struct producer_sim *p = &r->producers[run_below(r, PRODUCERS)];
    const struct model_topic *t = &r->model->topics[p->topic];
    if (p->id < 0 || t->generation != p->generation || t->phase == TOPIC_NONE) {
        work_producer_begin(r, p);
        return;
    }
    if (t->phase != TOPIC_LIVE) return;
    while (p->resend < p->recent_count && p->answered[p->resend]) p->resend++;
    if (p->resend < p->recent_count) {
        producer_send_again(r, p, p->resend, totals);
        return;
    }
    size_t any = run_below(r, IN_FLIGHT);
    bool again = any < p->recent_count && p->answered[any] && p->recent[any]->fate != FATE_LOST;
    if (again && run_one_in(r, 3))
        producer_send_again(r, p, any, totals);
    else
        producer_send_new(r, p, totals);
}
