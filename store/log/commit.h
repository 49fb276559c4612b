/* Many at once, atomically; and the state, keys and values, which are written by commits.
 *
 *     commit.c    state.c keys and values, their compaction */
#ifndef STORE_LOG_COMMIT_H
#define STORE_LOG_COMMIT_H

#include "partition.h"
#include "store/engine/engine_ops.h"

/* ---- commits ---- */

struct part {
    struct commit *c;
    struct log_partition *p;
    struct part *prev, *next; /* in the partition's row */
    struct place at;
    int64_t end;
    size_t from, size;                 /* its bytes in the commit's buffer */
    uint32_t chain;                    /* of its segment at `at` */
    uint32_t index_count[INDEX_FILES]; /* entries of its segment there */
    struct pending pending;
};

struct start_move {
    struct log_partition *p;
    int64_t offset;
};

/* What the journal says of a swap: segments with bases in [first, upto) are replaced by the one whose files
 * end in the id. */
struct swap_record {
    struct log_partition *p;
    int64_t first, upto;
    uint64_t id;
};

struct commit {
    struct completion done_c;
    struct commit *next;
    struct log *log;
    struct hf_buf bytes;
    size_t counted; /* of log->commit_bytes */
    struct part *parts;
    size_t part_count;
    struct start_move *starts;
    size_t start_count;
    uint64_t *runs; /* added ones, then those dropped, whose files go when it is durable */
    size_t name_count, drop_count;
    struct swap_record swap;         /* swap.p == NULL: none */
    void (*after)(struct commit *c); /* ours, when durable, before done */
    void *after_arg;
    engine_done *done;
    void *arg;
};

/* ---- state ---- */

struct state_entry {
    struct state_entry *prev, *next; /* by the offset of the newest record, ascending */
    int64_t offset;
    uint32_t pending; /* puts on their way */
    bool live;        /* false: only pending holds it here */
    uint32_t key_n, value_n;
    uint8_t *value;
    UT_hash_handle hh;
    uint8_t key[];
};

struct state {
    struct log_partition *p;
    struct state_entry *table, *order;
    uint64_t live_bytes;
    int64_t boundary; /* compaction: everything below is to be written again; -1: not running */
    size_t held;      /* scratch of state_hold */
    size_t rewriting; /* commits of the compaction under way */
    struct batch_iter *iter;
};

/* commit.c */
HF_CHECK enum hf_err commit_start(struct log *l, const struct engine_commit *c,
                                  void (*after)(struct commit *), void *after_arg, engine_done *done,
                                  void *arg);
/* A commit of a swap alone; after runs when it is durable. */
HF_CHECK enum hf_err commit_swap(struct log *l, const struct swap_record *r, void (*after)(struct commit *),
                                 void *after_arg);
void commit_apply(struct commit *c); /* its group is synced */
void commit_move_starts(struct commit *c);
void commit_finish(struct commit *c); /* everything of that group is applied */
void commit_free(struct commit *c);

/* state.c */
HF_CHECK enum hf_err state_init(struct log *l);
void state_fini(struct log *l);
HF_CHECK enum hf_err state_load(struct log *l); /* reads the recovered state partition */
HF_CHECK enum hf_err state_hold(struct log *l, const uint8_t *batches, size_t n); /* puts on their way */
void state_apply(struct log *l, const uint8_t *batches, size_t n);                /* they are durable */
hf_str state_get(struct log *l, hf_str key);
int64_t state_number(struct log *l, const char *key, int64_t otherwise); /* eight bytes */
void state_each(struct log *l, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value), void *arg);
void state_step(struct log *l);

#endif
