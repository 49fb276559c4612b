/* Handler threads: what the declared effect asks for around the handler's call.
 *
 *     none       handler
 *     database   begin (dedup row in) → handler → commit | roll back
 *     state      begin → handler with the version → commit | roll back
 *     external   claim (lease, fence) → handler, renewed meanwhile → done | release
 *
 * Everything here may block: on the handler, the database, Redis. What it came to is a struct result; what
 * becomes of the message is decided by the core thread (policy.c). The queue of jobs is never longer than the
 * number of threads, because the core starts no more.
 *
 * Done for an external effect is repeated until the store has taken it or the worker ends: the effect has
 * happened, and the record of it is all that keeps it from happening again. */
#include "worker_internal.h"

#include "base/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct threads {
    hf_worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct hf_delivery *jobs, **jobs_end;
    struct hf_delivery *ended, **ended_end;
    bool stop;
    int32_t threads;
    pthread_t thread[];
};

static void set(struct hf_delivery *d, enum ended how, int64_t delay_ms) {
    d->result.how = how;
    d->result.delay_ms = delay_ms;
}

static void say(struct hf_delivery *d, const char *text) {
    if (!d->text[0]) snprintf(d->text, sizeof d->text, "%s", text);
}

/* ---- around the handler ---- */

static hf_verdict call(hf_worker *w, struct hf_delivery *d) {
    atomic_fetch_add(&w->counters.delivered, 1);
    hf_verdict v = w->options.handler(d, w->options.arg);
    if (v == HF_STOP) {
        w->handler_stops = true;
        hf_worker_stop(w);
    }
    return v;
}

/* Of every verdict but HF_DONE. */
static void judge_verdict(struct hf_delivery *d, hf_verdict v, bool forgivable) {
    bool late = worker_mono_ms() >= d->deadline_ms;
    if (v == HF_REJECT)
        set(d, ENDED_REJECTED, -1);
    else if (v == HF_STOP || (atomic_load(&d->cancelled) && !atomic_load(&d->lost)))
        set(d, ENDED_HANDED_BACK, -1); /* cancelled by a stop or a rebalance: no failure */
    else if (atomic_load(&d->lost))
        set(d, ENDED_BUSY, 1000);
    else if (forgivable)
        set(d, ENDED_UNAVAILABLE, -1);
    else
        set(d, late ? ENDED_TIMEOUT : ENDED_FAILED, d->delay_ms);
}

/* What the store said instead of "run". */
static void judge_store(struct hf_delivery *d, enum dedup_answer a, const struct dedup_detail *detail) {
    switch (a) {
    case DEDUP_DUPLICATE: set(d, ENDED_DUPLICATE, -1); return;
    case DEDUP_CONFLICT:
        say(d, "the same identity was settled with another content");
        set(d, ENDED_CONFLICT, -1);
        return;
    case DEDUP_BUSY: set(d, ENDED_BUSY, detail->retry_ms); return;
    case DEDUP_RUN:
    case DEDUP_LOST:
    case DEDUP_UNAVAILABLE: break;
    }
    say(d, detail->why);
    set(d, ENDED_UNAVAILABLE, -1);
}

static void run_plain(hf_worker *w, struct hf_delivery *d) {
    hf_verdict v = call(w, d);
    if (v == HF_DONE)
        set(d, ENDED_DONE, -1);
    else
        judge_verdict(d, v, false);
}

/* The transaction is open in d->tx. */
static void run_in_transaction(hf_worker *w, struct hf_delivery *d) {
    struct dedup_detail detail = {0};
    hf_verdict v = call(w, d);
    struct dedup_tx *tx = d->tx;
    d->tx = NULL;
    if (v != HF_DONE) {
        judge_verdict(d, v, dedup_rollback(tx));
        return;
    }
    enum dedup_answer a = dedup_commit(tx, &detail);
    if (a == DEDUP_RUN)
        set(d, ENDED_DONE, -1);
    else
        judge_store(d, a, &detail);
}

static bool find_version(hf_worker *w, struct hf_delivery *d) {
    if (w->options.version_of) return w->options.version_of(d, &d->version, w->options.arg);
    return hf_str_int(hf_delivery_header(d, HF_HDR_VERSION), &d->version) == HF_OK;
}

static void run_state(hf_worker *w, struct hf_delivery *d) {
    if (!find_version(w, d)) {
        say(d, "no version: header hf-version is missing or no integer");
        set(d, ENDED_REJECTED, -1);
        return;
    }
    if (!w->dedup) {
        run_plain(w, d);
        return;
    }
    struct dedup_detail detail = {0};
    enum dedup_answer a = dedup_begin_plain(w->dedup, &d->tx, &detail);
    if (a == DEDUP_RUN)
        run_in_transaction(w, d);
    else
        judge_store(d, a, &detail);
}

static void run_database(hf_worker *w, struct hf_delivery *d, const struct dedup_key *key) {
    struct dedup_detail detail = {0};
    enum dedup_answer a = dedup_begin(w->dedup, key, d->fingerprint, worker_wall_ms(), &d->tx, &detail);
    if (a == DEDUP_RUN)
        run_in_transaction(w, d);
    else
        judge_store(d, a, &detail);
}

static void record_done(hf_worker *w, struct hf_delivery *d, const struct dedup_key *key) {
    struct dedup_detail detail = {0};
    for (int tries = 0;; tries++) {
        enum dedup_answer a = dedup_done(w->dedup, key, d->fingerprint, worker_wall_ms(), &detail);
        if (a == DEDUP_RUN) break;
        if (tries == 0)
            worker_log(w, 1, "done_not_recorded", "id=\"%s\" why=\"%s\"", d->message_id, detail.why);
        if (atomic_load(&w->stopping) && tries >= 3) break;
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
    set(d, ENDED_DONE, -1);
}

static void run_external(hf_worker *w, struct hf_delivery *d, const struct dedup_key *key) {
    struct dedup_detail detail = {0};
    enum dedup_answer a = dedup_claim(w->dedup, key, d->fingerprint, worker_wall_ms(), &detail);
    if (a != DEDUP_RUN) {
        judge_store(d, a, &detail);
        return;
    }
    d->fence = detail.fence;
    hf_verdict v = HF_RETRY;
    if (leases_begin(w->leases, d, key) == HF_OK) {
        v = call(w, d);
        leases_end(w->leases, d);
    }
    if (v == HF_DONE) {
        record_done(w, d, key);
        return;
    }
    judge_verdict(d, v, false);
    /* If it cannot be released, the lease ends by itself. */
    (void)!dedup_release(w->dedup, key, d->fence, worker_wall_ms(), &detail);
}

static bool beyond_horizon(hf_worker *w, const struct hf_delivery *d) {
    return !d->replayed && d->timestamp_ms > 0 && worker_wall_ms() - d->timestamp_ms > w->options.horizon_ms;
}

static void attempt(hf_worker *w, struct hf_delivery *d) {
    struct dedup_key key = {hf_str_of(w->options.group), hf_str_of(d->origin), hf_str_of(d->message_id)};
    bool remembers = w->options.effect == HF_EFFECT_DATABASE || w->options.effect == HF_EFFECT_EXTERNAL;
    if (remembers && d->too_long) {
        say(d, "its identity is too long or malformed");
        set(d, ENDED_UNDECODABLE, -1);
        return;
    }
    if (remembers && beyond_horizon(w, d)) {
        say(d, "older than what deduplication remembers");
        set(d, ENDED_EXPIRED, -1);
        return;
    }
    if (remembers && !d->fingerprinted) {
        d->fingerprint = dedup_fingerprint(d->message.key, d->value);
        d->fingerprinted = true;
    }
    switch (w->options.effect) {
    case HF_EFFECT_NONE: run_plain(w, d); return;
    case HF_EFFECT_DATABASE: run_database(w, d, &key); return;
    case HF_EFFECT_STATE: run_state(w, d); return;
    case HF_EFFECT_EXTERNAL: run_external(w, d, &key); return;
    }
}

/* ---- threads ---- */

static void *serve(void *arg) {
    struct threads *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->jobs && !p->stop) pthread_cond_wait(&p->work, &p->lock);
        struct hf_delivery *d = p->jobs;
        if (!d) break;
        p->jobs = d->next;
        if (!p->jobs) p->jobs_end = &p->jobs;
        pthread_mutex_unlock(&p->lock);
        attempt(p->worker, d);
        threads_ended(p, d);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void threads_run(struct threads *p, struct hf_delivery *d) {
    d->next = NULL;
    d->delay_ms = -1;
    d->text[0] = 0;
    d->stale = false;
    d->fence = 0;
    d->version = 0;
    atomic_store(&d->cancelled, false);
    atomic_store(&d->lost, false);
    d->deadline_ms = worker_mono_ms() + p->worker->options.handler_timeout_ms;
    pthread_mutex_lock(&p->lock);
    *p->jobs_end = d;
    p->jobs_end = &d->next;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void threads_ended(struct threads *p, struct hf_delivery *d) {
    pthread_mutex_lock(&p->lock);
    d->next = NULL;
    *p->ended_end = d;
    p->ended_end = &d->next;
    pthread_mutex_unlock(&p->lock);
    worker_wake(p->worker);
}

struct hf_delivery *threads_take(struct threads *p) {
    pthread_mutex_lock(&p->lock);
    struct hf_delivery *first = p->ended;
    p->ended = NULL;
    p->ended_end = &p->ended;
    pthread_mutex_unlock(&p->lock);
    return first;
}

enum hf_err threads_open(hf_worker *w, int32_t threads, struct threads **out) {
    struct threads *p = calloc(1, sizeof *p + (size_t)threads * sizeof p->thread[0]);
    if (!p) return HF_ENOMEM;
    p->worker = w;
    p->jobs_end = &p->jobs;
    p->ended_end = &p->ended;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    for (; p->threads < threads; p->threads++)
        if (pthread_create(&p->thread[p->threads], NULL, serve, p)) {
            threads_close(p);
            return HF_ENOMEM;
        }
    *out = p;
    return HF_OK;
}

void threads_join(struct threads *p) {
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (; p->threads > 0; p->threads--) pthread_join(p->thread[p->threads - 1], NULL);
}

void threads_close(struct threads *p) {
    if (!p) return;
    threads_join(p);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
