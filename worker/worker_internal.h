/* Inside worker/: the pieces around the core and the threads that they live on.
 *
 *     run thread (hf_worker_run)   core, consumer, moves, commits            consumer_io.c, run_io.c
 *     handler threads              claim or begin, handler, done or commit   pool_io.c
 *     lease thread                 renews what runs                          lease_io.c
 *     expiry thread                lets the dedup store forget               expiry_io.c
 *     client's thread              reports of moves                          → the queue of ended ones
 *
 * Handler threads and the client's hand deliveries back through one queue and wake the run thread by an
 * eventfd; nothing else is shared but what is atomic. */
#ifndef WORKER_INTERNAL_H
#define WORKER_INTERNAL_H

#include "client/client.h"
#include "core.h"
#include "dedup/dedup.h"
#include "delivery.h"

#include <pthread.h>
#include <stdatomic.h>

struct threads;
struct leases;
struct expiry;

struct counters {
    atomic_llong delivered, done, duplicates, stale, retried, dead, busy, handed_back, running, held;
    atomic_bool probing;
};

struct hf_worker {
    hf_worker_options options; /* defaults filled in, strings copied */
    char *strings[6];
    char **topics; /* NULL ends it */
    char retry_topic[256];
    hf_client *client;
    bool scheduled; /* moves go through holdfast.delay */
    struct dedup *dedup;
    struct core *core;
    struct threads *pool;
    struct leases *leases;
    struct expiry *expiry;
    rd_kafka_t *consumer;
    rd_kafka_queue_t *queue;
    int wake_fd; /* something has ended, or the consumer has something */
    int stop_fd; /* hf_worker_stop */
    bool signals, ran;
    struct hf_delivery *moves; /* under way or to be tried again; linked by next */
    int64_t next_commit_ms;
    enum policy_state told; /* of the outage, in the log */
    atomic_bool stopping;
    atomic_bool handler_stops; /* a handler answered HF_STOP */
    enum hf_err failed;        /* what no retry mends */
    char failed_text[512];
    struct counters counters;
};

int64_t worker_mono_ms(void);
int64_t worker_wall_ms(void);
void worker_log(hf_worker *w, int level, const char *event, const char *fmt, ...) HF_PRINTF(4, 5);
void worker_wake(hf_worker *w);

/* ---- pool_io.c ---- */
HF_CHECK enum hf_err threads_open(hf_worker *w, int32_t threads, struct threads **out);
/* Waits for the handlers that run; what ended may be taken afterwards still. */
void threads_join(struct threads *p);
void threads_close(struct threads *p);
void threads_run(struct threads *p, struct hf_delivery *d);
/* From any thread: d has ended, or its move has. */
void threads_ended(struct threads *p, struct hf_delivery *d);
/* Everything that ended since the last call, in order, linked by next. */
struct hf_delivery *threads_take(struct threads *p);

/* ---- lease_io.c ---- */
HF_CHECK enum hf_err leases_open(hf_worker *w, struct leases **out);
void leases_close(struct leases *l);
/* Renews until leases_end; sets d->lost and d->cancelled when it is another's. */
HF_CHECK enum hf_err leases_begin(struct leases *l, struct hf_delivery *d, const struct dedup_key *key);
void leases_end(struct leases *l, struct hf_delivery *d);

/* ---- expiry_io.c ---- */
HF_CHECK enum hf_err expiry_open(hf_worker *w, struct expiry **out);
void expiry_close(struct expiry *x);

/* ---- consumer_io.c ---- */
HF_CHECK enum hf_err consumer_open(hf_worker *w);
/* Takes what was fetched into the core; true: there may be more. */
bool consumer_poll(hf_worker *w);
void consumer_throttle(hf_worker *w);          /* pauses full partitions, resumes others */
void consumer_commit(hf_worker *w, bool wait); /* what has changed */
void consumer_close(hf_worker *w);

/* ---- run_io.c ---- */
/* Gives up partitions (NULL: all) in the way of a rebalance or a stop: drains up to the limit (none if lost),
 * commits, forgets. */
void worker_give_up(hf_worker *w, const rd_kafka_topic_partition_list_t *list, bool lost);

#endif
