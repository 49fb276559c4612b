/* Which message may run, in which order; what is settled; what to commit. The worker's core: pure, stepped by
time.
 *
 *     struct core *c;
 *     core_open(&options, now_ms, &c);
 *     core_assign(c, "orders", 0, committed, metadata, n, &part);
 *     if (core_wanted(part, offset)) core_add(c, part, &delivery->message);   // in order of offsets
 *     core_wake(c, now_ms);
 *     while ((m = core_start(c, now_ms))) … run it …
 *     core_settle(c, m) | core_wait(c, m, until_ms)                           // when it has ended
 *     if (core_position(c, part, &offset, text)) … commit …
 *
 * Messages are the caller's memory with a core_message inside; core_add borrows them until core_settle or
core_drop gives them back. One object, one thread. */
#ifndef WORKER_CORE_H
#define WORKER_CORE_H

#include "base/marks.h"
#include "policy.h"

struct core;
struct core_part;
struct core_lane;

enum core_order { CORE_ORDER_KEY, CORE_ORDER_PARTITION, CORE_ORDER_NONE };

enum core_state {
    CORE_BLOCKED, /* an earlier message of its lane is unsettled, or its partition is drained */
    CORE_READY,
    CORE_RUNNING, /* its handler, or its move to the dead letters, is under way */
    CORE_WAITING, /* on the wheel */
    CORE_ORPHAN   /* running, and its partition was taken away */
};

struct core_message {
    int64_t offset;
    hf_str key; /* {NULL, 0}: no key, no order. Borrowed from the message itself */
    int32_t attempts;
    int64_t first_failed_s; /* seconds since the epoch; 0: never failed */
    bool probe;             /* set by core_start */
    /* the core's own */
    enum core_state state;
    struct core_part *part;
    struct core_lane *lane;                     /* NULL: no order */
    uint32_t slot;                              /* WAITING */
    struct core_message *prev, *next;           /* its partition's unsettled, ascending */
    struct core_message *lane_prev, *lane_next; /* behind each other */
    struct core_message *ready_prev, *ready_next;
};

struct core_options {
    enum core_order order;
    int32_t buffer; /* messages held of one partition; past it core_full */
    struct policy_options policy;
};

HF_CHECK enum hf_err core_open(const struct core_options *options, int64_t now_ms, struct core **out);
/* Partitions that are left must hold no message. */
void core_close(struct core *c);

/* A partition is ours; its commit said position (-1: there was none) and metadata. What metadata cannot tell
 * is taken as unsettled. HF_ENOMEM. */
HF_CHECK enum hf_err core_assign(struct core *c, const char *topic, int32_t partition, int64_t position,
                                 const char *metadata, size_t n, struct core_part **out);

/* Nothing of the partition starts any more. What runs may still end, and core_position still tells all. */
void core_drain(struct core *c, struct core_part *p);

/* Gives the partition up: calls drop for each message that does not run; what runs becomes an orphan, which
 * core_settle or core_wait give back. */
typedef void core_drop(struct core_message *m, void *arg);
void core_forget(struct core *c, struct core_part *p, core_drop *drop, void *arg);

/* Calls each for every message of the partition that runs. */
void core_each_running(struct core_part *p, void (*each)(struct core_message *m, void *arg), void *arg);

struct core_part *core_find(struct core *c, const char *topic, int32_t partition);
struct core_part *core_first(struct core *c); /* in order of assignment; see core_next_part */
struct core_part *core_next_part(struct core_part *p);
const char *core_part_topic(const struct core_part *p);
int32_t core_part_number(const struct core_part *p);

/* Has this offset, or a later one, been told before? Then the log was reset (its topic deleted and created
 * again). */
bool core_behind(const struct core_part *p, int64_t offset);

/* Every fetched offset is told, ascending: false if it is settled already and must not be added. */
bool core_wanted(struct core_part *p, int64_t offset);

/* The offset told last was wanted, and there was no memory to take the message: it counts as not fetched, so
 * that no commit passes over it. */
void core_not_taken(struct core_part *p, int64_t offset);

/* Sets attempts and first_failed_s from the marks if they are known there. HF_ENOMEM: not added. */
HF_CHECK enum hf_err core_add(struct core *c, struct core_part *p, struct core_message *m);

/* Fetching of the partition should be paused: its buffer is full, or its marks do not fit into the metadata.
 * It stays so until half of the buffer is free. */
bool core_full(struct core_part *p);

/* What the caller did about it; a note for the caller, kept here because it ends with the partition. */
bool core_paused(const struct core_part *p);
void core_set_paused(struct core_part *p, bool paused);

/* The next message to run, or NULL. */
struct core_message *core_start(struct core *c, int64_t now_ms);

/* After core_start: done for good. The message is the caller's again. */
void core_settle(struct core *c, struct core_message *m);

/* After core_start: again at until_ms. true: it was an orphan and is the caller's again. HF_ENOMEM cannot
 * happen: a message that finds no place on the wheel is ready at once. */
bool core_wait(struct core *c, struct core_message *m, int64_t until_ms);

/* Moves what is due from the wheel to the ready ones. */
void core_wake(struct core *c, int64_t now_ms);

/* When core_wake or core_start may have something by time alone; INT64_MAX: never. */
int64_t core_next(const struct core *c);

/* What to commit. false: nothing was fetched or committed yet. */
bool core_position(struct core_part *p, int64_t *offset, char text[MARKS_TEXT_SIZE]);

/* Has anything changed since core_position was last asked, or core_touch called (the commit failed)? */
bool core_dirty(const struct core_part *p);
void core_touch(struct core_part *p);

struct policy *core_policy(struct core *c);
int32_t core_running(const struct core *c); /* orphans included */
int32_t core_part_running(const struct core_part *p);
int64_t core_held(const struct core *c); /* unsettled, of all partitions */

void core_check(const struct core *c);

#endif
