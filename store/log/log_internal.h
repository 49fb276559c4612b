/* The log itself, and all that the files of store/log share. The picture and the invariants [L1]..[L21]:
 * docs/storage.md.
 *
 *     limits.h      how much of everything
 *     segment.h     files, indexes, manifests, proofs       journal.h     groups, and how they are read back
 *     partition.h   what is durable, seen, waited for       checkpoint.h  snapshot, superblock, recovery
 *     topics.h      catalogue, folders, settings            upkeep.h      retention, compaction, the scrubber
 *     commit.h      many at once, and the state             runs.h        the far tier
 *
 *     log.c         open, step, close                       adopt.c       a partition that Kafka wrote comes in
 *     append.c      one batch comes in                      salvage.c     what is damaged is cut out, if an
 *     log_engine.c  engine.h over all this                                operator says so
 *     rescue.h      a start that would be refused, if an operator says so
 *
 * Everything here belongs to the core thread. */
#ifndef STORE_LOG_INTERNAL_H
#define STORE_LOG_INTERNAL_H

#include "checkpoint.h"
#include "commit.h"
#include "journal.h"
#include "limits.h"
#include "partition.h"
#include "rescue.h"
#include "runs.h"
#include "segment.h"
#include "topics.h"
#include "upkeep.h"

#include <utlist.h>

#include <assert.h>

struct log_run_writer; /* runs.c */
struct creation;       /* create.c */
struct alteration;     /* configure.c */

struct log {
    struct engine engine; /* first: log_engine */
    struct hf_env *env;
    int64_t trusted_delta_ms; /* wall - monotonic, the most that was believed; INT64_MIN: not asked yet */
    struct log_options o;
    enum hf_err failed;
    bool open;           /* recovery is over */
    bool clean;          /* the last stop was */
    bool closing;        /* nothing new comes in */
    const char *opening; /* what the start is at, for the line that says why it failed */
    char cluster_id[24];
    struct topic *topics, *topics_by_id, *topics_folded;
    bool topics_sorted;
    struct topic *state_topic;
    size_t partition_count;
    struct journal journal;
    struct checkpoint checkpoint;
    struct state state;
    struct retention retention;
    struct compaction compaction;
    struct scrub scrub;
    struct log_partition *dirty; /* bytes not known to be synced */
    size_t dirty_count;
    struct log_partition *unsynced;           /* for the background: longest first, many bytes before all */
    struct log_partition *flush, *flush_last; /* somebody waits for a sync */
    struct log_partition *ceilings;           /* ask for a higher ceiling */
    struct log_partition *moved;              /* high watermark moved: watchers to be told */
    struct commit *commits, *commits_last;    /* not yet in a group, in order */
    size_t commit_count;
    size_t commit_bytes;
    struct completion *ready, *ready_last;
    struct pending *free_pending;
    size_t waiting;
    size_t syncs; /* env syncs under way */
    struct gathered gathered;
    struct segment *lru;    /* open segment files, most recently used first */
    size_t open_files;      /* theirs and their indexes', */
    size_t open_files_most; /* and the most there ever were */
    struct run *runs;
    struct log_run_writer *writers; /* of runs */
    struct creation *creations;     /* of topics */
    struct alteration *alterations; /* of their settings */
    struct log_partition *syncing;  /* partitions with a sync under way */
    size_t syncing_count;
    size_t open_runs;
    uint64_t next_run;
    struct topic_watch *watches;
    int64_t next_pid, pid_limit, pid_asked;
    struct trash *trash;
    struct rescue rescue;
    uint64_t free_bytes;
    int64_t free_checked_us;
    uint64_t free_used; /* appended since */
    void (*watch)(void *arg, struct log_partition *p);
    void *watch_arg;
    struct log_stats stats;
};

/* log.c */
void log_fail(struct log *l, enum hf_err e, const char *what);
void log_ready(struct log *l, struct completion *c);
/* The time that topics of ours, and others with LogAppendTime, are stamped with. */
int64_t log_time_ms(struct log *l);
enum hf_err log_settle(struct log *l, bool (*settled)(struct log *l));

/* log_engine.c */
extern const struct engine_ops log_engine_ops;
void watches_attach(struct topic *t, struct log *l);
void watches_free(struct log *l);

static inline void log_opened_file(struct log *l) {
    if (++l->open_files > l->open_files_most) l->open_files_most = l->open_files;
}

#endif
