/* What the log does for itself beside all else: old and overwritten records go, closed bytes are read again.
 *
 *     retention.c what is old goes             swap.c   a segment for many
 *     compact.c   what is not the latest goes  scrub.c  what nobody reads is read */
#ifndef STORE_LOG_UPKEEP_H
#define STORE_LOG_UPKEEP_H

#include "base/arena.h"
#include "commit.h"

/* ---- retention ---- */

struct retention {
    struct log_partition **row; /* of the pass under way; NULL: none */
    size_t count, at;
    int64_t next_us;                    /* when the next begins */
    size_t moving;                      /* commits under way */
    int64_t budget;                     /* of this step */
    const struct log_partition *scan_p; /* whose headers are being read, a name only */
    int64_t scan_base;
    uint64_t scan_pos;
};

/* ---- the scrubber ---- */

struct scrub {
    struct log_partition **row; /* of the pass under way; NULL: none */
    size_t count, at;
    int64_t base; /* goes on with the segment that has this base or the next one; -1: the partition begins */
    uint64_t pos; /* and here in it */
    struct run_place run; /* and behind the partitions */
    uint64_t read;        /* by the last piece */
    enum hf_err left_out; /* the last thing that could not be read */
    int64_t next_us;      /* when the next piece is due; 0: not yet known */
    bool all;             /* also what is being written to: nobody waits for it */
    struct scrub_load {
        enum { LOAD_NONE, LOAD_UNDER_WAY, LOAD_ENDED } state;
        struct env_load load; /* what the next piece will look at: its own descriptor, past the page cache */
        size_t n;             /* bytes of it that were written; behind them the last page may change */
        enum hf_err e;
        int64_t begun_us;
        uint8_t *bytes;
        size_t cap;
        struct segment *s; /* pinned; or */
        uint64_t run;
    } ahead;
};

/* ---- compaction ---- */

enum compaction_phase { COMPACTION_IDLE, COMPACTION_MAP, COMPACTION_COPY, COMPACTION_SWAP };
enum swap_stage { SWAP_NONE, SWAP_FILES, SWAP_FOLDER, SWAP_RECORD, SWAP_APPLY, SWAP_UNLINK };

struct key;

struct compaction {
    struct log *log;
    enum compaction_phase phase;
    struct log_partition *row; /* waiting for their run */
    struct log_partition *p;   /* of this run */
    int64_t now_ms;            /* when it began */
    int64_t limit;             /* the map ends there at the latest */
    int64_t next_us;           /* until then it rests */
    struct batch_filter *filter;
    struct hf_buf batch, out;
    struct key *keys;
    struct hf_arena memory; /* of the keys */
    size_t key_bytes;
    int64_t map_end;
    enum hf_err failed;
    struct segment *first, *upto; /* the group: [first, upto) */
    struct segment *at;           /* being read, at pos */
    uint64_t pos;
    bool changed;         /* the group's copy is not the group */
    struct segment *made; /* the new segment */
    enum swap_stage stage;
    bool swapping; /* the record is on its way or more: no checkpoint begins */
    struct env_sync sync[4];
    size_t waiting;
    char folder[LOG_PATH];
    int64_t *old; /* bases of files to be unlinked */
    size_t old_count;
};

/* retention.c */
void retention_step(struct log *l);
HF_CHECK enum hf_err retention_known_size(struct log *l, struct segment *s); /* HF_EAGAIN: the next step */
int64_t retention_wait(struct log *l);
void retention_forget(struct log *l);

/* scrub.c */
void scrub_step(struct log *l);
int64_t scrub_wait(const struct log *l);
void scrub_forget(struct log *l);

/* compact.c */
HF_CHECK enum hf_err compaction_consider(struct log *l, struct log_partition *p, int64_t now_ms);
void compaction_step(struct log *l);
void compaction_next_group(struct compaction *c);
void compaction_give_up(struct compaction *c, enum hf_err e);
int64_t compaction_wait(const struct log *l); /* milliseconds until it has something to do */
void compaction_forget(struct log *l);

/* swap.c */
HF_CHECK enum hf_err swap_begin(struct compaction *c);
HF_CHECK enum hf_err swap_append(struct compaction *c, hf_str bytes);
void swap_discard(struct compaction *c);
HF_CHECK enum hf_err swap_go(struct compaction *c);
void swap_step(struct compaction *c);
bool swap_waits_for(const struct log_partition *p);
void swap_forget(struct compaction *c);
bool swap_is_stray(const char *name);
HF_CHECK enum hf_err swap_again(struct log_partition *p, int64_t first, hf_str body); /* recovery */

#endif
