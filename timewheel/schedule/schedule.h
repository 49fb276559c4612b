/* Held until due: reads holdfast.delay, keeps each message until its time, moves it to its destination once.
 *
 *     schedule_open(engine, &(struct schedule_options){.boot_id = …, .random_seed = …}, now_ms, mono_ms, &s);
 *     …the loop: wait = schedule_step(s, now_ms, mono_ms);   // and at once when the engine completes something
 *     schedule_close(s);
 *
 * Contract: docs of the delay topic. In short: a message is fired at the place (effective due, sequence),
 * where effective due = max(due, time of acceptance); all operations on one hf-id take effect in order of
 * acceptance; an operation accepted at or after the due time of the message it is about comes too late
 * ("already delivered"), so what an operation did is a function of the log alone, the same after every
 * restart.
 *
 * Threads: the core thread only; nothing blocks but reads of runs. No clock, file or socket: the engine and
 * arguments. Never close while engine calls back. */
#ifndef TIMEWHEEL_SCHEDULE_SCHEDULE_H
#define TIMEWHEEL_SCHEDULE_SCHEDULE_H

#include "base/control.h"
#include "store/engine/engine.h"

struct schedule;

struct schedule_place {
    int64_t due_ms; /* effective */
    uint64_t sequence;
};

enum schedule_event { /* for log lines and alarms */
                      SCHEDULE_CLOCK_LEAPT,
                      SCHEDULE_CLOCK_BACK, /* the leap is over */
                      SCHEDULE_REWOUND,    /* a commit failed: started again from what is durable */
                      SCHEDULE_REJECTED,
                      SCHEDULE_MERGE_PUT_OFF, /* there is no room for what it would write */
                      SCHEDULE_DAMAGED, /* a run or the topic cannot be read: nothing fires until the next
                                           start */
};

/* The delay levels of those who come from RocketMQ: its messageDelayLevel. */
#define SCHEDULE_LEVELS "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"

/* Zero means default. */
struct schedule_options {
    size_t
        gather_bytes; /* memory for messages not yet in a run; 8 MiB. While a run is being written, twice */
    size_t read_records;      /* read by one step at most; 1,024 */
    size_t replay_records;    /* records after which a checkpoint lets the log go on; 500,000 */
    size_t replay_bytes;      /* bytes likewise; 128 MiB */
    int64_t checkpoint_ms;    /* a message waits this long for its run at most; 10 min */
    size_t fire_records;      /* of one commit; 2,048 */
    size_t fire_bytes;        /* of one commit; 1 MiB */
    size_t commits_max;       /* under way; 4 */
    size_t block_bytes;       /* of runs; 16 KiB */
    size_t run_bytes;         /* merges begin a new run at this size; 32 MiB */
    size_t fan_in;            /* runs of one tier that are merged into the next; 8 */
    size_t slice_bytes;       /* written by one step at most; 128 KiB */
    int64_t id_memory_ms;     /* how long finished ids are remembered; 7 d */
    uint64_t id_memory_bytes; /* on disk at most; 256 MiB */
    bool crc32_partitioner;   /* destination.partitioner = crc32, as librdkafka's default; else murmur2 */
    uint64_t random_seed;     /* for messages without a key */
    uint64_t boot_id;
    void (*event)(void *arg, enum schedule_event what, const char *text);
    void *arg;
};

/* Reads state and runs; replaying the log is done by the steps. HF_ENOTFOUND: no topic holdfast.delay;
 * HF_ECORRUPT, HF_EIO: a run cannot be read; HF_ENOMEM. */
HF_CHECK enum hf_err schedule_open(struct engine *e, const struct schedule_options *o, int64_t now_ms,
                                   int64_t mono_ms, struct schedule **out);

/* Nothing is lost by closing at any time. Commits and seals under way must have completed, unless the engine
 * is thrown away too. */
void schedule_close(struct schedule *s);
bool schedule_idle(const struct schedule *s); /* nothing under way */

/* A bounded slice of work; mono_ms is a clock that never goes back and counts time suspended. Returns after
 * how many milliseconds to come again at most; 0: at once. Come also when the engine completed something. */
int64_t schedule_step(struct schedule *s, int64_t now_ms, int64_t mono_ms);

/* HF_OK, or why nothing moves any more until the next start. */
enum hf_err schedule_failed(const struct schedule *s);

/* After SCHEDULE_CLOCK_LEAPT: the operator says that the wall clock is right. */
void schedule_accept_clock(struct schedule *s);

/* ---- recurring schedules and delay levels ---- */

enum { SCHEDULE_CRON_ERROR_BYTES = 256 };

/* Whether hf-cron and hf-tz (p == NULL: UTC) have a meaning. HF_EINVAL: why says what is wrong and where; it
 * is about hf-tz if *about_tz. */
HF_CHECK enum hf_err schedule_check_cron(struct schedule *s, hf_str cron, hf_str tz,
                                         char why[SCHEDULE_CRON_ERROR_BYTES], bool *about_tz);

/* A table of levels as text: durations separated by spaces. HF_EINVAL: one does not parse, none, or more than
 * HF_DELAY_LEVELS_MAX. *count: how many there are. */
HF_CHECK enum hf_err schedule_check_levels(hf_str table, size_t *count);

/* Puts another table into force for records accepted after this call's commit: a record of holdfast.delay, so
 * that reading the log again comes to the same end. Commits nothing if that table is in force; then done is
 * not called and *started is false. HF_EINVAL; else as engine_commit. */
HF_CHECK enum hf_err schedule_set_levels(struct engine *e, hf_str table, int64_t now_ms, engine_done *done,
                                         void *arg, bool *started);

/* ---- outcomes ---- */

enum schedule_outcome {
    SCHEDULE_SCHEDULED,
    SCHEDULE_KEPT,     /* keep, once: the pending one stays */
    SCHEDULE_FINISHED, /* once: this id is finished */
    SCHEDULE_REPLACED,
    SCHEDULE_MOVED,
    SCHEDULE_CHANGED, /* move: another message has this id by now */
    SCHEDULE_CANCELLED,
    SCHEDULE_ALREADY_DELIVERED,
    SCHEDULE_UNKNOWN,
};
const char *schedule_outcome_text(enum schedule_outcome o); /* "already delivered" … */

/* What the record of holdfast.delay at this offset did; a definite answer. HF_EAGAIN: not processed yet;
 * HF_ENOTFOUND: an ordinary schedule without a conflict, or forgotten (schedule_stats.id_horizon_ms). */
HF_CHECK enum hf_err schedule_outcome_of(struct schedule *s, int32_t partition, int64_t offset,
                                         enum schedule_outcome *out);

/* ---- looking ---- */

struct schedule_item {
    struct schedule_place place;
    int64_t due_ms; /* as asked for */
    int64_t accepted_ms;
    int32_t source_partition;
    int64_t source_offset;
    int32_t partition; /* asked for; -1: by key */
    hf_str topic, id, key, value;
    const struct hf_header *headers; /* as delivered, but for hf-due and what a move adds */
    size_t header_count;
    hf_str cron, tz, group, last_run; /* of a recurring one; {NULL, 0}: it is none, it has none */
    bool skips;                       /* hf-cron-overlap: skip */
};

struct schedule_query {
    hf_str topic;                   /* n == 0: all */
    hf_str id_prefix;               /* n == 0: all, without an id too */
    int64_t due_from_ms, due_to_ms; /* effective due in [from, to); to == 0: no end */
    uint64_t sequence_max;          /* accepted up to here; 0: all */
    struct schedule_place after;    /* a page begins behind this place; zero: at the first */
    size_t limit;                   /* items; at most SCHEDULE_PAGE_MAX */
};
enum { SCHEDULE_PAGE_MAX = 1000 };

/* Calls fn for pending messages in order of place. *next is where to go on, *more whether there may be any: a
 * page looks at a bounded number of messages, so it may be short, even empty, and yet there are more. Strings
 * are borrowed for the call. HF_EINVAL, HF_EIO, HF_ECORRUPT, HF_ENOMEM. */
HF_CHECK enum hf_err schedule_list(struct schedule *s, const struct schedule_query *q,
                                   void (*fn)(void *arg, const struct schedule_item *item), void *arg,
                                   struct schedule_place *next, bool *more);

/* What is due when, from now: late, within a minute, ten … the last has no end. */
enum { SCHEDULE_DUE_BUCKETS = 11 };
extern const char *const schedule_due_names[SCHEDULE_DUE_BUCKETS];

struct schedule_sum {
    uint64_t messages, bytes; /* as stored */
    uint64_t due[SCHEDULE_DUE_BUCKETS];
};

/* The same for what schedule_list would give: a page's share of it, to be added up by the caller. The query's
 * limit is not looked at. */
HF_CHECK enum hf_err schedule_count(struct schedule *s, const struct schedule_query *q,
                                    struct schedule_sum *out, struct schedule_place *next, bool *more);

/* All that pends, by when it is due, from what is in memory anyhow: exact for what is not in runs yet, to a
 * block (some hundred messages) for each run and bound. Nothing is late unless the next one to be fired is. */
void schedule_due(const struct schedule *s, uint64_t out[SCHEDULE_DUE_BUCKETS]);

struct schedule_pending {
    uint64_t messages, bytes; /* bytes: as stored */
};
/* How much pends for one destination (topic.n == 0: for all) of what has been read, exactly, at no cost. A
 * run of a recurring schedule counts until its commit has started; the next one when it is read. */
struct schedule_pending schedule_pending(const struct schedule *s, hf_str topic);
/* Every destination for which anything pends. */
void schedule_topics_each(const struct schedule *s,
                          void (*fn)(void *arg, hf_str topic, const struct schedule_pending *p), void *arg);
/* Records of this partition of holdfast.delay below this offset have been read. */
int64_t schedule_read_offset(const struct schedule *s, int32_t partition);

/* Edition of the time zones: "2022e". */
const char *schedule_time_zones(void);

/* The pending message with this id. HF_ENOTFOUND. */
HF_CHECK enum hf_err schedule_show(struct schedule *s, hf_str topic, hf_str id,
                                   void (*fn)(void *arg, const struct schedule_item *item), void *arg);

/* The next n runs of a recurring item, the pending one first; *found of them. Only due_ms (0: nothing pends),
 * cron and tz are looked at. HF_EINVAL: they have no meaning; HF_ENOMEM, HF_EIO. */
HF_CHECK enum hf_err schedule_upcoming(struct schedule *s, const struct schedule_item *item, int64_t *out,
                                       size_t n, size_t *found);

enum { SCHEDULE_LATENESS_BUCKETS = 12 };
extern const int64_t
    schedule_lateness_ms[SCHEDULE_LATENESS_BUCKETS - 1]; /* upper bounds; the last has none */

struct schedule_stats {
    uint64_t pending, pending_bytes;          /* bytes: as stored, without what lies around them */
    uint64_t read_sequence;                   /* everything up to here has been read */
    uint64_t fired_per_second;                /* over the last seconds */
    uint64_t accepted, fired, rejected, held; /* since the start */
    uint64_t skipped;                         /* runs left out since the one before was not done */
    uint64_t outcomes[SCHEDULE_UNKNOWN + 1];
    int64_t late_ms;     /* how long the oldest due message has been waiting; 0: none is late */
    int64_t next_due_ms; /* a time at or before the earliest pending one; INT64_MAX: none known */
    struct schedule_place mark;
    uint64_t lateness[SCHEDULE_LATENESS_BUCKETS]; /* of what was fired since the start */
    int64_t lateness_sum_ms;
    uint64_t runs, run_bytes, id_runs, id_bytes;
    size_t memory_bytes;
    size_t id_index_bytes; /* of it: filters and indexes of ids */
    int64_t id_horizon_ms; /* ids finished before this time are forgotten */
    uint64_t checkpoints, merges, rewinds;
    bool clock_leapt;
    bool caught_up; /* everything readable has been read */
};
void schedule_stats(const struct schedule *s, struct schedule_stats *out);

/* Asserts the invariants; walks everything in memory. */
void schedule_check(const struct schedule *s);

#endif
