/* Checkpoints, what they write, and how a start reads it.
 *
 *     checkpoint.c facts, syncs, snapshot, superblock    snapshot.c  their bytes
 *     meta.c       the folder's identity                 recovery.c  from those bytes to a log that serves
 *     new_store.c  an empty one                          forward.c   the same for one partition */
#ifndef STORE_LOG_CHECKPOINT_H
#define STORE_LOG_CHECKPOINT_H

#include "journal.h"

/* ---- checkpoint ---- */

enum checkpoint_phase {
    CHECKPOINT_IDLE,
    CHECKPOINT_PARTITIONS, /* dirty ones are being synced */
    CHECKPOINT_SNAPSHOT,
    CHECKPOINT_SUPERBLOCK,
};

struct checkpoint {
    struct log *log;
    enum checkpoint_phase phase;
    uint64_t number;
    uint64_t generation;
    bool clean;
    uint64_t lsn;
    uint32_t chain;
    struct log_partition *todo; /* owed ones whose sync is not begun */
    size_t owed;                /* partitions whose sync has not ended */
    uint64_t bytes;             /* of the journal, after which it began */
    struct hf_buf snapshot;
    uint8_t sector[HF_SECTOR]; /* the superblock, */
    bool unsure;               /* which may be on the disk though its write failed */
    struct hf_file *file;
    struct env_sync sync;
    int64_t last_us;
};

/* snapshot.c */
struct superblock {
    uint64_t generation, lsn, incarnation, snapshot_bytes;
    uint32_t chain, snapshot_crc;
    bool clean;
};
void superblock_encode(const struct superblock *s, uint8_t out[HF_SECTOR]);
HF_CHECK enum hf_err superblock_read(struct log *l,
                                     struct superblock *out); /* HF_ENOTFOUND: neither is whole */
void snapshot_encode(struct log *l, uint64_t generation, bool clean, struct hf_buf *out);

/* One partition as the snapshot tells it. */
struct facts {
    struct log_uuid id;
    int32_t partition;
    int64_t start, base, unlisted, next, ceiling, last_time_ms, max_ts, max_ts_offset, cleaned;
    uint64_t pos, next_sequence;
    uint32_t chain, epoch_count;
    struct index_sum sums[INDEX_FILES];
    hf_str epochs, producers; /* undecoded */
};
HF_CHECK enum hf_err snapshot_read(struct log *l, const struct superblock *s, struct hf_buf *out);
HF_CHECK enum hf_err snapshot_rescue(struct log *l, struct superblock *sb, struct hf_buf *out);
HF_CHECK enum hf_err snapshot_look_at_spare(struct log *l, const struct superblock *newest);
HF_CHECK enum hf_err snapshot_each(struct log *l, const struct hf_buf *snapshot,
                                   enum hf_err (*fn)(struct log *l, const struct facts *f));
HF_CHECK enum hf_err facts_apply(struct log_partition *p, const struct facts *f);

/* checkpoint.c */
void checkpoint_begin(struct log *l, bool clean);
void checkpoint_step(struct log *l); /* moves the running one on, begins one when it is due */
void checkpoint_synced(struct log_partition *p);
void checkpoint_leave(struct log_partition *p);
bool checkpoint_idle(const struct log *l);
uint64_t checkpoint_bytes(const struct log *l);

/* meta.c */
HF_CHECK enum hf_err meta_lock(struct log *l);
HF_CHECK enum hf_err meta_read(struct log *l); /* HF_ENOTFOUND: a new store */
HF_CHECK enum hf_err meta_write(struct log *l);

/* forward.c */

/* Segment files newer than the checkpoint, ascending: where the recovered end meets the base of one, writing
 * had gone on there. */
struct tail {
    int64_t *base;
    size_t count, at, cap;
    bool strays;                    /* files of swaps are there, begun or not ended */
    const struct segment *reserved; /* whose room up to the file's size is there */
    int64_t floor;                  /* rescue: the end was here once, */
    bool exact;                     /* and is */
    uint8_t *rest;                  /* rescue: bytes behind a break, cut from their segment */
    size_t rest_n, rest_at;
};
HF_CHECK enum hf_err forward_load(struct log_partition *p, const struct facts *known, bool clean);
HF_CHECK enum hf_err forward_replay(struct log_partition *p, const struct replay_entry *x);
HF_CHECK enum hf_err forward_finish(struct log_partition *p);
void forward_forget(struct log_partition *p);

/* new_store.c */
HF_CHECK enum hf_err store_make(struct log *l);

/* recovery.c */
HF_CHECK enum hf_err recovery_run(struct log *l);

#endif
