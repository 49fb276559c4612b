/* One thread renews the leases of all handlers that run, each at a third of its time. A lease found lost
 * cancels its handler; a store that does not answer is asked again soon, while the lease may still run.
 *
 * The list is bounded by the worker's concurrency. An entry that is being renewed is not removed before the
 * answer is there, so that no renewal is under way when the delivery goes on. */
#include "worker_internal.h"

#include <stdlib.h>
#include <utlist.h>

struct lease {
    struct lease *prev, *next;
    struct hf_delivery *delivery;
    const struct dedup_key *key; /* the handler thread's, until leases_end */
    int64_t due_ms;
    bool renewing;
};

struct leases {
    hf_worker *worker;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct lease *list;
    bool stop;
};

static struct lease *earliest(struct leases *l) {
    struct lease *e, *best = NULL;
    DL_FOREACH (l->list, e) {
        if (!best || e->due_ms < best->due_ms) best = e;
    }
    return best;
}

static void renew(struct leases *l, struct lease *e) {
    hf_worker *w = l->worker;
    struct dedup_detail detail = {0};
    e->renewing = true;
    pthread_mutex_unlock(&l->lock);
    enum dedup_answer a = dedup_renew(w->dedup, e->key, e->delivery->fence, worker_wall_ms(), &detail);
    pthread_mutex_lock(&l->lock);
    e->renewing = false;
    int64_t third = dedup_lease_ms(w->dedup) / 3;
    e->due_ms = worker_mono_ms() + (a == DEDUP_UNAVAILABLE && third > 1000 ? 1000 : third);
    if (a == DEDUP_LOST) {
        atomic_store(&e->delivery->lost, true);
        atomic_store(&e->delivery->cancelled, true);
        e->due_ms = INT64_MAX;
    }
    pthread_cond_broadcast(&l->changed);
}

static void *run(void *arg) {
    struct leases *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        struct lease *e = earliest(l);
        int64_t now = worker_mono_ms();
        if (e && e->due_ms <= now) {
            renew(l, e);
            continue;
        }
        if (!e || e->due_ms == INT64_MAX) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        struct timespec until = {.tv_sec = (time_t)(e->due_ms / 1000),
                                 .tv_nsec = (long)(e->due_ms % 1000) * 1000000};
        pthread_cond_timedwait(&l->changed, &l->lock, &until);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

enum hf_err leases_begin(struct leases *l, struct hf_delivery *d, const struct dedup_key *key) {
    struct lease *e = calloc(1, sizeof *e);
    if (!e) return HF_ENOMEM;
    e->delivery = d;
    e->key = key;
    e->due_ms = worker_mono_ms() + dedup_lease_ms(l->worker->dedup) / 3;
    pthread_mutex_lock(&l->lock);
    DL_APPEND(l->list, e);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return HF_OK;
}

void leases_end(struct leases *l, struct hf_delivery *d) {
    struct lease *e;
    pthread_mutex_lock(&l->lock);
    DL_SEARCH_SCALAR(l->list, e, delivery, d);
    while (e && e->renewing) pthread_cond_wait(&l->changed, &l->lock);
    if (e) DL_DELETE(l->list, e);
    pthread_mutex_unlock(&l->lock);
    free(e);
}

enum hf_err leases_open(hf_worker *w, struct leases **out) {
    struct leases *l = calloc(1, sizeof *l);
    if (!l) return HF_ENOMEM;
    l->worker = w;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&l->thread, NULL, run, l)) {
        free(l);
        return HF_ENOMEM;
    }
    *out = l;
    return HF_OK;
}

void leases_close(struct leases *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
