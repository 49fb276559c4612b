/* The run loop: one thread owns core and consumer and turns
 *
 *     fetch → what has ended → what is due → start → commit → sleep until something happens
 *
 * A delivery that has ended is judged (policy.c) and then settled, put on the wheel, or moved. A move
 * occupies its place among the running until it is durable: when moves fail, the worker slows down instead of
 * piling up. A failed one is tried again every second.
 *
 * Stopping drains: nothing new starts, what runs may finish within the limit, then it is cancelled and gets a
 * second to give up; positions are committed, the rest is handed back to the group. */
#include "worker_internal.h"

#include "base/names.h"
#include "moves.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

enum { COMMIT_EVERY_MS = 200, MOVE_RETRY_MS = 1000, SLEEP_MOST_MS = 500, GRACE_MS = 1000 };

/* ---- moves ---- */

static void on_moved(enum hf_err e, const hf_receipt *r, void *arg) {
    (void)r;
    struct hf_delivery *d = arg;
    hf_worker *w = d->worker;
    d->move_error = e;
    if (e) worker_log(w, 1, "move_failed", "id=\"%s\" why=\"%s\"", d->message_id, hf_errmsg());
    threads_ended(w->pool, d);
}

static void start_move(hf_worker *w, struct hf_delivery *d) {
    struct move m;
    d->moving = true;
    enum move_kind kind = d->judgement.fate == FATE_DEAD ? MOVE_DEAD : MOVE_RETRY;
    bool scheduled = w->scheduled && !d->move_direct;
    enum hf_err e = move_compose(&m, d, w->options.group, kind, scheduled, worker_wall_ms());
    if (!e) {
        e = client_send_async(w->client, &m.record, on_moved, d);
        move_fini(&m);
    }
    if (!e) return;
    d->move_error = e;
    threads_ended(w->pool, d);
}

static void count_moved(hf_worker *w, const struct hf_delivery *d) {
    if (d->judgement.fate != FATE_DEAD) return;
    atomic_fetch_add(&w->counters.dead, 1);
    worker_log(w, 1, "dead_letter",
               "topic=%s partition=%" PRId32 " offset=%" PRId64 " id=\"%s\" reason=%s attempts=%d "
               "why=\"%s\"",
               d->topic, d->partition, d->message.offset, d->message_id, d->judgement.reason,
               d->judgement.attempts, d->text);
}

static void settle(hf_worker *w, struct hf_delivery *d) {
    core_settle(w->core, &d->message);
    delivery_free(d);
}

static void move_ended(hf_worker *w, struct hf_delivery *d) {
    d->moving = false;
    if (d->move_error == HF_OK) {
        count_moved(w, d);
        settle(w, d);
        return;
    }
    /* What the scheduler will never take (an identity beyond its limits) still has to leave the way. */
    if (d->judgement.fate == FATE_DEAD && hf_err_class_of(d->move_error) == HF_CLASS_FINAL)
        d->move_direct = true;
    d->move_at_ms = worker_mono_ms() + MOVE_RETRY_MS;
    d->next = w->moves;
    w->moves = d;
}

static void retry_moves(hf_worker *w, int64_t now_ms) {
    struct hf_delivery *list = w->moves;
    w->moves = NULL;
    while (list) {
        struct hf_delivery *d = list;
        list = d->next;
        if (d->message.state == CORE_ORPHAN) {
            settle(w, d); /* its next owner does it */
        } else if (d->move_at_ms <= now_ms) {
            start_move(w, d);
        } else {
            d->next = w->moves;
            w->moves = d;
        }
    }
}

/* ---- what has ended ---- */

static uint64_t random64(void) {
    uint64_t v = 0;
    if (getrandom(&v, sizeof v, 0) != sizeof v) v = (uint64_t)worker_mono_ms() * 0x9e3779b97f4a7c15u;
    return v;
}

static uint64_t key_hash(const struct hf_delivery *d) {
    hf_str k = d->message.key;
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < k.n; i++) h = (h ^ (uint8_t)k.p[i]) * 1099511628211u;
    return k.p ? h : (uint64_t)d->message.offset * 0x9e3779b97f4a7c15u + (uint64_t)d->partition;
}

static void count_ended(hf_worker *w, const struct hf_delivery *d) {
    struct counters *n = &w->counters;
    if (d->result.how == ENDED_DONE) atomic_fetch_add(d->stale ? &n->stale : &n->done, 1);
    if (d->result.how == ENDED_DUPLICATE) {
        atomic_fetch_add(&n->duplicates, 1);
        worker_log(w, 3, "duplicate", "topic=%s partition=%" PRId32 " offset=%" PRId64 " id=\"%s\"", d->topic,
                   d->partition, d->message.offset, d->message_id);
    }
    if (d->result.how == ENDED_BUSY) atomic_fetch_add(&n->busy, 1);
    if (d->judgement.fate == FATE_HAND_BACK) atomic_fetch_add(&n->handed_back, 1);
    if (d->judgement.fate != FATE_RETRY || d->judgement.attempts == d->result.attempts) return;
    atomic_fetch_add(&n->retried, 1);
    worker_log(w, 2, "retry",
               "topic=%s partition=%" PRId32 " offset=%" PRId64 " id=\"%s\" attempt=%d in_ms=%" PRId64
               " why=\"%s\"",
               d->topic, d->partition, d->message.offset, d->message_id, d->judgement.attempts,
               d->judgement.delay_ms, d->text);
}

static void tell_outage(hf_worker *w) {
    static const char *const states[] = {
        "state=over note=\"at full speed again\"",
        "state=probing note=\"nothing but failures: one message at a time, attempts of others do not count\"",
        "state=recovering note=\"a handler succeeded\""};
    const struct policy *p = core_policy(w->core);
    atomic_store(&w->counters.probing, p->state != POLICY_NORMAL);
    if (p->state == w->told) return;
    w->told = p->state;
    worker_log(w, 1, "outage", "%s pause_ms=%" PRId64, states[p->state], p->pause_ms);
}

static void attempt_ended(hf_worker *w, struct hf_delivery *d, int64_t now_ms) {
    d->result.attempts = d->message.attempts;
    d->result.probe = d->message.probe;
    d->result.key_hash = key_hash(d);
    d->judgement = policy_judge(core_policy(w->core), &d->result, now_ms, random64());
    count_ended(w, d);
    tell_outage(w);
    if (d->judgement.attempts > d->message.attempts && d->message.first_failed_s == 0)
        d->message.first_failed_s = worker_wall_ms() / 1000;
    bool counted = d->judgement.attempts > d->message.attempts;
    d->message.attempts = d->judgement.attempts;
    bool orphan = d->message.state == CORE_ORPHAN;
    switch (d->judgement.fate) {
    case FATE_SETTLE: settle(w, d); return;
    case FATE_DEAD:
        if (orphan)
            settle(w, d); /* its next owner comes to the same end */
        else
            start_move(w, d);
        return;
    case FATE_RETRY:
        if (!orphan && counted && w->scheduled && w->options.order == HF_ORDER_NONE) {
            start_move(w, d);
            return;
        }
        break;
    case FATE_HAND_BACK:
        if (atomic_load(&w->handler_stops)) atomic_store(&w->stopping, true); /* before it starts again */
        break;
    }
    if (core_wait(w->core, &d->message, now_ms + d->judgement.delay_ms)) delivery_free(d);
}

static void take_ended(hf_worker *w) {
    struct hf_delivery *d = threads_take(w->pool), *next;
    int64_t now_ms = worker_mono_ms();
    for (; d; d = next) {
        next = d->next;
        if (d->moving)
            move_ended(w, d);
        else
            attempt_ended(w, d, now_ms);
    }
}

/* ---- a turn ---- */

/* One turn without fetching: what ended, what is due, what may start, what to commit. */
static void step(hf_worker *w) {
    take_ended(w);
    int64_t now_ms = worker_mono_ms();
    if (w->moves) retry_moves(w, now_ms);
    core_wake(w->core, now_ms);
    for (struct core_message *m; !atomic_load(&w->stopping) && (m = core_start(w->core, now_ms));)
        threads_run(w->pool, delivery_of(m));
    atomic_store(&w->counters.running, core_running(w->core));
    atomic_store(&w->counters.held, core_held(w->core));
    if (now_ms >= w->next_commit_ms) {
        consumer_commit(w, false);
        w->next_commit_ms = now_ms + COMMIT_EVERY_MS;
    }
}

void worker_wake(hf_worker *w) {
    uint64_t one = 1;
    if (write(w->wake_fd, &one, sizeof one) < 0) return; /* full: it is awake anyway */
}

/* Waits for an event, at most so long. */
static void sleep_until_woken(hf_worker *w, int64_t most_ms) {
    int64_t now_ms = worker_mono_ms(), due = core_next(w->core);
    if (due - now_ms < most_ms) most_ms = due - now_ms;
    if (w->moves && most_ms > MOVE_RETRY_MS / 4) most_ms = MOVE_RETRY_MS / 4;
    struct pollfd fds[] = {{.fd = w->wake_fd, .events = POLLIN}, {.fd = w->stop_fd, .events = POLLIN}};
    nfds_t n = atomic_load(&w->stopping) ? 1 : 2;
    if (poll(fds, n, most_ms < 0 ? 0 : (int)most_ms) <= 0) return;
    uint64_t count;
    if (fds[0].revents && read(w->wake_fd, &count, sizeof count) < 0) return;
    if (n == 2 && fds[1].revents) atomic_store(&w->stopping, true);
}

/* ---- giving partitions up ---- */

struct given_up {
    struct core_part **part;
    size_t count;
};

static int32_t running_of(const struct given_up *g) {
    int32_t n = 0;
    for (size_t i = 0; i < g->count; i++) n += core_part_running(g->part[i]);
    return n;
}

static void wait_for(hf_worker *w, const struct given_up *g, int64_t until_ms) {
    for (int64_t left; running_of(g) > 0 && (left = until_ms - worker_mono_ms()) > 0;) {
        sleep_until_woken(w, left < 100 ? left : 100);
        step(w);
    }
}

static void cancel_message(struct core_message *m, void *arg) {
    (void)arg;
    atomic_store(&delivery_of(m)->cancelled, true);
}

static void drop(struct core_message *m, void *arg) {
    hf_worker *w = arg;
    atomic_fetch_add(&w->counters.handed_back, 1);
    delivery_free(delivery_of(m));
}

static void drain(hf_worker *w, const struct given_up *g) {
    wait_for(w, g, worker_mono_ms() + w->options.drain_ms);
    int32_t left = running_of(g);
    if (left == 0) return;
    for (size_t i = 0; i < g->count; i++) core_each_running(g->part[i], cancel_message, NULL);
    wait_for(w, g, worker_mono_ms() + GRACE_MS);
    worker_log(w, 1, "drain_limit", "cancelled=%d still_running=%d", left, running_of(g));
}

void worker_give_up(hf_worker *w, const rd_kafka_topic_partition_list_t *list, bool lost) {
    size_t most = list ? (size_t)list->cnt : 0;
    for (struct core_part *p = core_first(w->core); !list && p; p = core_next_part(p)) most++;
    struct given_up g = {.part = calloc(most + 1, sizeof(struct core_part *))};
    if (!g.part) abort(); /* a few bytes: to go on would work on what is another's */
    for (int i = 0; list && i < list->cnt; i++) {
        struct core_part *p = core_find(w->core, list->elems[i].topic, list->elems[i].partition);
        if (p) g.part[g.count++] = p;
    }
    for (struct core_part *p = core_first(w->core); !list && p; p = core_next_part(p)) g.part[g.count++] = p;
    for (size_t i = 0; i < g.count; i++) core_drain(w->core, g.part[i]);
    if (!lost) {
        drain(w, &g);
        consumer_commit(w, true);
    }
    for (size_t i = 0; i < g.count; i++) {
        core_each_running(g.part[i], cancel_message, NULL);
        worker_log(w, 2, lost ? "lost" : "given_up", "topic=%s partition=%" PRId32,
                   core_part_topic(g.part[i]), core_part_number(g.part[i]));
        core_forget(w->core, g.part[i], drop, w);
    }
    free(g.part);
}

/* ---- running ---- */

enum hf_err hf_worker_run(hf_worker *w) {
    if (w->ran) return client_error(HF_ECLOSED, "worker: it has run already");
    w->ran = true;
    while (!atomic_load(&w->stopping) && !w->failed) {
        bool more = consumer_poll(w);
        step(w);
        consumer_throttle(w);
        sleep_until_woken(w, more ? 0 : SLEEP_MOST_MS);
    }
    atomic_store(&w->stopping, true);
    worker_give_up(w, NULL, false);
    consumer_close(w);
    int32_t left = core_running(w->core);
    if (w->failed) return client_error(w->failed, "%s", w->failed_text);
    if (w->handler_stops) return client_error(HF_ECLOSED, "worker: a handler stopped it");
    if (left > 0) worker_log(w, 1, "handlers_left", "running=%d", left);
    return HF_OK;
}
