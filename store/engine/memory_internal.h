/* What memory.c (how things happen) and memory_world.c (what there is) share. */
#ifndef STORE_ENGINE_MEMORY_INTERNAL_H
#define STORE_ENGINE_MEMORY_INTERNAL_H

#include "engine_ops.h"
#include "memory.h"

#include <uthash.h>
#include <utlist.h>

struct stored {
    struct engine_record r;
    void *memory; /* everything that r points to */
};

struct tickets {
    uint64_t next, serving;
};

struct op;

struct partition {
    struct stored *records;
    size_t first, count, cap; /* records[first .. first+count) */
    int64_t start, stable, next;
    struct tickets tickets;
    const struct op *drew_last; /* one ticket an operation, however many records */
};

struct topic {
    hf_str name;
    int32_t partition_count; /* 0: no such topic (being created, or only watched) */
    struct partition *partitions;
    bool creating, deleted;
    uint64_t next_sequence;
    int64_t last_ms;
    void (*watch)(void *arg);
    void *watch_arg;
    bool fresh; /* records became readable: call watch */
    struct topic *next_deleted;
    UT_hash_handle hh;
};

struct pair {
    hf_str key, value;
    UT_hash_handle hh;
};

struct run {
    uint64_t id, bucket;
    struct hf_buf bytes;
    bool named;
    UT_hash_handle hh;
};

struct writer {
    struct engine_run_writer base;
    struct run *run;
};

struct cursor {
    struct engine_cursor base;
    hf_str topic;
    int32_t partition;
    int64_t position;
    struct stored given;
};

enum op_kind { OP_APPEND, OP_COMMIT, OP_SEAL, OP_CREATE };

struct touch {
    struct topic *topic;
    int32_t partition;
    uint64_t ticket;
};

struct out {
    struct topic *topic;
    int32_t partition;
    struct stored stored;
};

struct op {
    enum op_kind kind;
    bool effected;
    enum hf_err doomed; /* an earlier commit failed, and this one was started before that was told */
    enum hf_err result;
    engine_done *done;
    void *arg;
    uint64_t ticket; /* of a commit among commits */
    struct touch *touches;
    size_t touch_count;
    struct out *outs;
    size_t out_count;
    struct engine_put *puts;
    size_t put_count;
    struct engine_low_water *lows;
    size_t low_count;
    uint64_t *added, *dropped;
    size_t added_count, dropped_count;
    struct writer *writer;
    uint64_t *id;
    struct topic *topic; /* of a creation */
    struct op *prev, *next;
};

struct fault {
    uint64_t calls, skip;
    int times;
    enum hf_err e, rate_e;
    unsigned per_mille;
};

struct memory_engine {
    struct engine base;
    struct memory_options options;
    uint64_t random;
    struct topic *topics, *deleted;
    struct pair *state;
    struct run *runs;
    uint64_t next_run;
    struct op *ops;
    struct tickets commits;
    hf_str got; /* what the last state_get gave */
    struct fault faults[MEMORY_CALLS];
    bool limited;  /* to: */
    uint64_t disk; /* bytes of runs in all */
};

static inline struct memory_engine *memory_of(struct engine *e) {
    return (struct memory_engine *)e;
}

/* Out of memory aborts. */
void *memory_grab(size_t n);
hf_str memory_dup_str(hf_str s);
void memory_free_str(hf_str s);
uint64_t memory_chance(struct memory_engine *m, uint64_t below);
bool memory_coin(struct memory_engine *m);
enum hf_err memory_fault(struct memory_engine *m, enum memory_call call);
struct stored memory_record_copy(const struct engine_record *r);
void memory_partition_push(struct partition *p, struct stored s);
void memory_partition_drop_below(struct partition *p, int64_t offset);
struct topic *memory_topic_entry(struct memory_engine *m, hf_str name);
struct topic *memory_topic_find(struct memory_engine *m, hf_str name);
struct partition *memory_partition_at(struct memory_engine *m, hf_str topic, int32_t number);
void memory_topic_serve(struct topic *t, int32_t partitions);
void memory_topic_free(struct topic *t);
void memory_state_put(struct memory_engine *m, hf_str key, hf_str value);
void memory_state_delete(struct memory_engine *m, struct pair *p);
struct run *memory_run_find(struct memory_engine *m, uint64_t id);
void memory_run_delete(struct memory_engine *m, struct run *r);
void memory_writer_free(struct writer *w);
void *memory_dup_array(const void *p, size_t count, size_t size);

/* Entries of the engine's table. */
size_t memory_record_max(struct engine *e, hf_str topic);
enum hf_err memory_bounds(struct engine *e, hf_str topic, int32_t partition, int64_t *start,
                          int64_t *stable_end);
void memory_time_floor(struct engine *e, hf_str topic, int64_t ms);
void memory_watch(struct engine *e, hf_str topic, void (*fn)(void *arg), void *arg);
enum hf_err memory_cursor_open(struct engine *e, hf_str topic, int32_t partition, struct engine_cursor **out);
void memory_cursor_close(struct engine_cursor *base);
void memory_cursor_seek(struct engine_cursor *base, int64_t offset);
enum hf_err memory_cursor_next(struct engine_cursor *base, struct engine_record *out);
void memory_state_each(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                       void *arg);
hf_str memory_state_get(struct engine *e, hf_str key);
int64_t memory_committed(struct engine *e, hf_str group, hf_str topic, int32_t partition);
enum hf_err memory_run_begin(struct engine *e, uint64_t bucket, struct engine_run_writer **out);
enum hf_err memory_run_append(struct engine_run_writer *base, const void *p, size_t n);
uint64_t memory_room(struct engine *e);
void memory_run_abort(struct engine_run_writer *base);
void memory_run_discard(struct engine *e, uint64_t id);
void memory_run_each(struct engine *e, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
                     void *arg);
enum hf_err memory_run_read(struct engine *e, uint64_t id, uint64_t offset, void *p, size_t n);

#endif
