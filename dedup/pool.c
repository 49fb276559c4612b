/* Invariants, checked under the lock: 0 <= idle_count, 0 <= taken, idle_count + taken <= max. */
#include "pool.h"

#include "store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void check_locked(const struct pool *p) {
    assert(p->idle_count >= 0 && p->taken >= 0 && p->idle_count + p->taken <= p->max);
}

enum hf_err pool_init(struct pool *p, int max, void *(*open)(void *arg, struct dedup_detail *detail),
                      void (*close)(void *connection), void *arg) {
    void **idle = calloc((size_t)max, sizeof *idle);
    if (!idle) return HF_ENOMEM;
    *p = (struct pool){.idle = idle, .max = max, .open = open, .close = close, .arg = arg};
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->freed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return HF_OK;
}

void pool_fini(struct pool *p) {
    assert(p->taken == 0);
    for (int i = 0; i < p->idle_count; i++) p->close(p->idle[i]);
    free(p->idle);
    pthread_cond_destroy(&p->freed);
    pthread_mutex_destroy(&p->lock);
}

static struct timespec deadline_in(int64_t ms) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

enum dedup_answer pool_take(struct pool *p, int64_t timeout_ms, void **connection,
                            struct dedup_detail *detail) {
    struct timespec deadline = deadline_in(timeout_ms);
    pthread_mutex_lock(&p->lock);
    while (p->idle_count == 0 && p->taken == p->max) {
        if (pthread_cond_timedwait(&p->freed, &p->lock, &deadline) == ETIMEDOUT) {
            pthread_mutex_unlock(&p->lock);
            return dedup_say_busy(detail, DEDUP_LOCKED_RETRY_MS, "every connection of the pool is in use");
        }
    }
    p->taken++;
    void *c = p->idle_count ? p->idle[--p->idle_count] : NULL;
    check_locked(p);
    pthread_mutex_unlock(&p->lock);

    if (!c && !(c = p->open(p->arg, detail))) {
        pool_drop(p, NULL);
        return DEDUP_UNAVAILABLE;
    }
    *connection = c;
    return DEDUP_RUN;
}

/* keep == NULL: only the place is given back. */
static void give_back(struct pool *p, void *keep) {
    pthread_mutex_lock(&p->lock);
    assert(p->taken > 0);
    p->taken--;
    if (keep) p->idle[p->idle_count++] = keep;
    check_locked(p);
    pthread_cond_signal(&p->freed);
    pthread_mutex_unlock(&p->lock);
}

void pool_give(struct pool *p, void *connection) {
    assert(connection);
    give_back(p, connection);
}

/* One idle connection, or NULL. */
static void *pop_idle(struct pool *p) {
    pthread_mutex_lock(&p->lock);
    void *c = p->idle_count ? p->idle[--p->idle_count] : NULL;
    pthread_mutex_unlock(&p->lock);
    return c;
}

void pool_drop(struct pool *p, void *connection) {
    if (connection) {
        p->close(connection);
        for (void *c; (c = pop_idle(p));) p->close(c);
    }
    give_back(p, NULL);
}
