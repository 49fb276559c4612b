/* A request over HTTP that appends to holdfast.delay and answers when the schedule has read what it appended: the
 * outcome is then a fact of the durable log. Cancel and move (delay_change.c), many at once (delay_bulk.c) and
 * replay (delay_replay.c) are such.
 *
 *     waits --append durable--> appended --schedule has read it--> answered
 *       ^                          |
 *       +------- tries again ------+
 *
 * A kind has a limit of requests that wait at once; past it the answer is 503. Each has a time; past it the answer
 * is 504 if it has appended, and then what it appended is decided all the same, and 503 if it has not. */
#ifndef SERVER_DELAY_WAIT_H
#define SERVER_DELAY_WAIT_H

#include "delay_internal.h"

#include "store/engine/batch.h"

struct delay_wait;

struct delay_wait_kind {
    size_t size; /* of the kind's struct, whose first member is the struct delay_wait */
    size_t most; /* of this kind at once */
    int64_t wait_ms;
    const char *too_many, *late; /* the answers' words */
    /* Called again and again while nothing is being appended: true when it has answered. */
    bool (*go_on)(struct delay_wait *w);
    void (*fini)(struct delay_wait *w); /* may be NULL */
};

struct delay_wait {
    struct delay *d;
    struct broker_http *rq; /* its strings live until it is answered */
    const struct delay_wait_kind *kind;
    int64_t until_ms;
    bool appending;
    enum hf_err failed; /* of the last append */
    int64_t offset;     /* in holdfast.delay, of the first record it appended; -1: none yet */
    struct delay_wait *prev, *next;
};

/* Zeros but for the fields above. NULL: there is no room, and that has been answered. */
struct delay_wait *delay_wait_begin(struct delay *d, struct broker_http *rq,
                                    const struct delay_wait_kind *kind);
void delay_wait_end(struct delay_wait *w);

/* Copies the batch. */
HF_CHECK enum hf_err delay_wait_append(struct delay_wait *w, struct batch_builder *b);

/* One record, which build adds to the batch. */
typedef enum hf_err delay_build(void *arg, struct batch_builder *b);
HF_CHECK enum hf_err delay_wait_append_one(struct delay_wait *w, delay_build *build, void *arg);
/* The same for a request that has just begun: if it cannot be, that is answered, and w is gone. */
void delay_wait_send(struct delay_wait *w, delay_build *build, void *arg);

/* What record i of those it appended did. HF_EAGAIN: not read yet; HF_ENOTFOUND: an ordinary schedule, or forgotten. */
HF_CHECK enum hf_err delay_wait_outcome(const struct delay_wait *w, int64_t i, enum schedule_outcome *out);

void delay_waits_step(struct delay *d, int64_t mono_ms);
bool delay_waits_append(const struct delay *d); /* is anything being appended? */
void delay_waits_forget(struct delay *d);

#endif
