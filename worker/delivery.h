/* Inside worker/: one message in the worker's own memory, from fetch to settled, and what its attempt came
 * to. */
#ifndef WORKER_DELIVERY_H
#define WORKER_DELIVERY_H

#include "core.h"

#include <holdfast/holdfast.h>
#include <stdatomic.h>

struct dedup_tx;

struct hf_delivery {
    struct core_message message; /* first: the core gives back pointers to it */
    struct hf_delivery *next;    /* in whatever queue it is */
    struct hf_worker *worker;
    const char *topic;
    int32_t partition;
    const char *shown_topic; /* to the handler: where it came from, if it came round by retry.<group> */
    int32_t shown_partition;
    int64_t shown_offset;
    int64_t timestamp_ms;
    hf_str value;
    hf_header *headers;
    size_t header_count;
    const char *message_id;
    const char *origin;   /* topic in which it first was visible */
    bool replayed;        /* by an operator: runs whatever its age */
    bool too_long;        /* its identity is beyond what deduplication takes */
    uint64_t fingerprint; /* set with the first attempt */
    bool fingerprinted;

    /* The attempt under way. Written by the handler's thread but for `cancelled`. */
    atomic_bool cancelled;
    atomic_bool lost;    /* its lease */
    int64_t deadline_ms; /* monotonic */
    uint64_t fence;
    struct dedup_tx *tx;
    int64_t version;
    int64_t delay_ms; /* hf_retry_in; -1: by policy */
    bool stale;
    char text[200]; /* hf_fail */
    struct result result;

    /* The move under way, after the attempt. */
    bool moving;
    bool move_direct; /* the scheduler refused it for good */
    enum hf_err move_error;
    struct judgement judgement;
    int64_t move_at_ms; /* tried again then, after a failure */
};

struct delivery_source {
    const char *topic;
    int32_t partition;
    int64_t offset, timestamp_ms;
    hf_str key, value;
    const hf_header *headers;
    size_t header_count;
    const char *retry_topic; /* "retry.<group>": there hf-attempt is ours */
};

/* Copies everything. NULL: out of memory. */
struct hf_delivery *delivery_new(const struct delivery_source *s);
void delivery_free(struct hf_delivery *d);

static inline struct hf_delivery *delivery_of(struct core_message *m) {
    return (struct hf_delivery *)m;
}

#endif
