/* A fixed number of connections, handed to one thread at a time. Slots are opened when first needed, opened
 * anew after they broke, and given out last-used-first so that few stay warm.
 *
 *     void *c;
 *     switch (pool_take(&p, timeout_ms, &c)) { HF_OK … HF_ETIMEDOUT … HF_ECONNECT … }
 *     pool_give(&p, c);     or, when it broke,     pool_drop(&p, c);
 *
 * Any thread; blocks in pool_take until a connection is free, and in open. */
#ifndef DEDUP_POOL_H
#define DEDUP_POOL_H

#include "dedup.h"

#include <pthread.h>

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t freed;
    void **idle; /* a stack of open connections nobody uses */
    int idle_count;
    int taken; /* in use, or being opened */
    int max;   /* idle_count + taken never exceed it */
    /* Opens a connection; called without the lock. NULL: failed, *detail says why. */
    void *(*open)(void *arg, struct dedup_detail *detail);
    void (*close)(void *connection);
    void *arg;
};

HF_CHECK enum hf_err pool_init(struct pool *p, int max, void *(*open)(void *arg, struct dedup_detail *detail),
                               void (*close)(void *connection), void *arg);

/* Nothing is taken. */
void pool_fini(struct pool *p);

/* RUN: *connection is ours. BUSY: all were in use all the time. UNAVAILABLE: opening failed. */
HF_CHECK enum dedup_answer pool_take(struct pool *p, int64_t timeout_ms, void **connection,
                                     struct dedup_detail *detail);
void pool_give(struct pool *p, void *connection);
/* It broke: closes it, and the idle ones with it, since what broke one (a server's restart) broke them too.
 */
void pool_drop(struct pool *p, void *connection);

#endif
