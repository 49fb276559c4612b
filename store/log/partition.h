/* A partition: its segments, how far it is durable and seen, who waits for that, and its producers.
 *
 *     partition.c places, what waits    psync.c its files made durable    producer.c idempotence    read.c slices */
#ifndef STORE_LOG_PARTITION_H
#define STORE_LOG_PARTITION_H

#include "segment.h"

#define HASH_NONFATAL_OOM 1 /* no memory: hh.tbl stays NULL, and the caller says so */
#include <uthash.h>

/* ---- completions ---- */

/* Runs from log_step, never inside the call that caused it; or only lets go of what it holds (tell is false)
 * when the log is thrown away. */
struct completion {
    struct completion *next;
    void (*run)(struct completion *c, bool tell);
};

/* ---- what waits in a partition, in the order of offsets ---- */

enum pending_kind {
    PENDING_WRITTEN, /* acks≤1 that could not be answered at once: ceiling, or reserved room below [L5][L6] */
    PENDING_DURABLE, /* acks=all */
    PENDING_PART,    /* a commit's part */
};

struct pending {
    struct completion c;
    struct pending *next; /* in the partition's row */
    enum pending_kind kind;
    struct place at;
    int64_t end;     /* offset after it */
    int64_t need;    /* durable must reach this; end, but for a duplicate, whose original it is */
    int64_t time_ms; /* nothing here or behind has an earlier append time */
    struct log *log;
    struct part *part;
    log_append_done *done;
    void *arg;
    struct log_appended result;
};

/* ---- partitions ---- */

struct epoch {
    int32_t epoch;
    int64_t start;
};

struct producer_batch {
    int32_t first_seq, last_seq;
    int64_t base, last; /* offsets */
    int64_t timestamp;
};

struct producer {
    int64_t id;
    int16_t epoch;
    uint8_t count;
    struct producer_batch batch[LOG_PRODUCER_BATCHES]; /* oldest first */
    UT_hash_handle hh;
};

/* One partition's files made durable: psync.c. */
struct psync {
    struct log_partition *p;
    struct place upto; /* everything below is durable when it has ended */
    uint64_t serial;   /* counts begun syncs of this partition */
    size_t waiting;    /* requests that have not come back */
    bool running;
    struct psync_request *requests;
    struct log_partition *prev, *next; /* log->syncing */
};

struct log_partition {
    struct log *log;
    struct topic *topic;
    int32_t number;
    uint32_t refs;            /* the topic, commits, syncs, lists that hold it */
    bool gone;                /* its topic is deleted */
    struct segment *segments; /* ascending; the last one is active */
    int64_t start;
    struct place end, journaled, durable, high;
    struct pending *fifo, *fifo_last; /* not yet fulfilled; ascending */
    struct part *parts;               /* reserved room not yet filled, ascending */
    struct part *parts_free;          /* first of them that is in no group yet; NULL: all are */
    int64_t ceiling;                  /* durable; 0: none */
    int64_t ceiling_asked;            /* what the next or current group carries */
    int64_t want;                     /* the journal or a sync must reach this offset: somebody waits */
    struct epoch *epochs;
    size_t epoch_count;
    int64_t last_time_ms;
    struct producer *producers;
    struct psync sync;
    uint8_t tidied;            /* syncs of the clean stop */
    int64_t listed_below;      /* closed segments below it had a whole manifest at the last checkpoint */
    int64_t unsynced_since_us; /* when the first byte that may be unsafe came; INT64_MIN: there are many */
    int64_t unsynced_upto;     /* where durable is if all that had come by then is safe */
    struct place synced;       /* below it the segments are synced */
    bool dirty_dir;            /* a roll or removal not yet synced */
    bool dirty;                /* on log->dirty */
    bool unsynced;             /* on log->unsynced */
    bool todo;                 /* on log->checkpoint.todo */
    bool flush;                /* on log->flush */
    bool asking;               /* on log->ceilings */
    bool moved;                /* on log->moved */
    struct log_partition *dirty_prev, *dirty_next, *flush_next, *asking_next, *moved_next;
    struct log_partition *unsynced_prev, *unsynced_next, *todo_prev, *todo_next;
    bool owed;                  /* the checkpoint under way wants this partition synced */
    uint64_t checkpoint_serial; /* by a sync that began as this one or later */
    struct place hint[2];       /* where readers left off */
    int64_t noted_base;         /* segment of this partition's facts in the checkpoint under way */
    int64_t fact_base;          /* and in the last one that ended: recovery begins there, so it stays */
    int64_t noted_settled;      /* segments below it may be compacted once the checkpoint has ended */
    int64_t settled;
    int64_t cleaned; /* below it compaction was done */
    bool compacting, compaction_asked, uncompactable;
    struct log_partition *compaction_next;
    struct tail *tail;      /* forward.c */
    int32_t chain;          /* scratch of commit.c: last record bound here, -1 none */
    struct part *open_part; /* scratch of commit.c */
};

/* partition.c */
struct log_partition *partition_new(struct log *l, struct topic *t, int32_t number);
void partition_ref(struct log_partition *p);
void partition_unref(struct log_partition *p);
void partition_forget_row(struct log_partition *p);
void partition_free(struct log_partition *p);
struct segment *partition_active(struct log_partition *p);
bool partition_jumped(const struct log_partition *p);
void partition_jump(struct log_partition *p, int64_t behind);
int64_t partition_end_of_active(const struct log_partition *p);
HF_CHECK enum hf_err partition_room(struct log_partition *p, uint64_t n, int64_t offsets);
struct place partition_applied(const struct log_partition *p);
struct place partition_groupable(const struct log_partition *p);
int32_t partition_epoch(const struct log_partition *p);
int32_t partition_epoch_at(const struct log_partition *p, int64_t offset);
HF_CHECK enum hf_err partition_epoch_add(struct log_partition *p, int32_t epoch, int64_t start);
void partition_took(struct log_partition *p, const uint8_t *header, const struct batch_info *b,
                    int64_t last_offset);
void partition_mark_dirty(struct log_partition *p);
void partition_mark_clean(struct log_partition *p);
void partition_want(struct log_partition *p, int64_t offset);
void partition_note_moved(struct log_partition *p);
void partition_wait(struct log_partition *p, struct pending *w);
void partition_settle(struct log_partition *p);
void partition_durable(struct log_partition *p, struct place to);
HF_CHECK enum hf_err partition_roll(struct log_partition *p); /* whose active segment is not empty */
void partition_leave(struct log_partition *p, const struct segment *s);
void partition_start_trim(struct log_partition *p);
void partition_start_move(struct log_partition *p, int64_t offset);
void partition_check(struct log_partition *p);
struct pending *pending_new(struct log *l);
void pending_free(struct pending *w);

/* psync.c */
void psync_begin(struct log_partition *p, bool urgent);
void psync_forget(struct log *l);
void psync_background(struct log *l, int64_t now_us);
void psync_note(struct log_partition *p);
void psync_leave(struct log_partition *p);

/* producer.c */
struct producer_verdict {
    bool duplicate;
    int64_t base, last; /* the original's offsets */
    int64_t timestamp;
};
HF_CHECK enum hf_err producer_judge(struct log_partition *p, const struct batch_info *b,
                                    struct producer_verdict *out);
HF_CHECK enum hf_err producer_room(struct log_partition *p, int64_t id);
void producer_took(struct log_partition *p, const struct batch_info *b, int64_t base);
bool producer_ends_with(struct log_partition *p, const struct batch_info *b); /* it is its last batch */
void producer_encode(struct log_partition *p, int64_t below, struct hf_buf *out);
HF_CHECK enum hf_err producer_decode(struct log_partition *p, hf_str bytes);
void producer_free(struct log_partition *p);

/* read.c */
HF_CHECK enum hf_err read_header(struct segment *s, uint64_t pos, uint64_t limit, struct batch_info *out);

#endif
