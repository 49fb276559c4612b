/* One thread that lets the store forget what is older than the horizon: a pass at the start and then every
 * minute (more often only for a horizon that is shorter), in batches, so that no handler waits long behind a
 * large delete. Several workers of a group may do it at once; each takes what it finds.
 *
 * A store that does not answer is left alone until the next pass: entries that stay longer cost room, nothing
 * else. */
#include "worker_internal.h"

#include <stdlib.h>

enum { PASS_MS = 60000, BATCH = 500 };

struct expiry {
    hf_worker *worker;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
};

static bool stopped(struct expiry *x) {
    pthread_mutex_lock(&x->lock);
    bool stop = x->stop;
    pthread_mutex_unlock(&x->lock);
    return stop;
}

static void pass(struct expiry *x) {
    hf_worker *w = x->worker;
    struct dedup_detail detail = {0};
    size_t removed = BATCH, sum = 0;
    while (removed == BATCH && !stopped(x)) {
        removed = 0;
        if (dedup_expire(w->dedup, worker_wall_ms(), BATCH, &removed, &detail) != DEDUP_RUN)
            worker_log(w, 3, "dedup_expiry_failed", "why=\"%s\"", detail.why);
        sum += removed;
    }
    if (sum) worker_log(w, 3, "dedup_expired", "entries=%zu", sum);
}

/* Until the time has come or the worker ends. */
static bool wait_until(struct expiry *x, int64_t mono_ms) {
    struct timespec until = {.tv_sec = (time_t)(mono_ms / 1000), .tv_nsec = (long)(mono_ms % 1000) * 1000000};
    pthread_mutex_lock(&x->lock);
    while (!x->stop && worker_mono_ms() < mono_ms) pthread_cond_timedwait(&x->changed, &x->lock, &until);
    bool go_on = !x->stop;
    pthread_mutex_unlock(&x->lock);
    return go_on;
}

static void *run(void *arg) {
    struct expiry *x = arg;
    int64_t horizon_ms = x->worker->options.horizon_ms;
    int64_t every_ms = horizon_ms < PASS_MS ? horizon_ms : PASS_MS;
    do pass(x);
    while (wait_until(x, worker_mono_ms() + every_ms));
    return NULL;
}

enum hf_err expiry_open(hf_worker *w, struct expiry **out) {
    struct expiry *x = calloc(1, sizeof *x);
    if (!x) return HF_ENOMEM;
    x->worker = w;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&x->thread, NULL, run, x)) {
        pthread_cond_destroy(&x->changed);
        pthread_mutex_destroy(&x->lock);
        free(x);
        return HF_ENOMEM;
    }
    *out = x;
    return HF_OK;
}

void expiry_close(struct expiry *x) {
    if (!x) return;
    pthread_mutex_lock(&x->lock);
    x->stop = true;
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->lock);
    pthread_join(x->thread, NULL);
    pthread_cond_destroy(&x->changed);
    pthread_mutex_destroy(&x->lock);
    free(x);
}
