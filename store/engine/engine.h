/* What schedule, txn and group know of the world: four primitives that a Holdfast log and a Kafka cluster
 * can both give.
 *
 *   commit     inputs consumed (by state and low-water), records out, state put, runs named or dropped:
 *              all or nothing, fenced
 *   read       records of a topic from a position, up to the last stable offset
 *   low-water  release what nobody needs (part of commit)
 *   run        the far tier: append bytes, seal, read, drop
 *
 * Usage, by a core:
 *
 *     struct engine_commit c = {.now_ms = now, .outs = outs, .out_count = n, .puts = &cursor, .put_count = 1};
 *     e = engine_commit(engine, &c, moved, arg);        // moved(arg, err) comes later, from the engine's poll
 *
 * Implementations: store/log (the server), store/engine/memory (tests: completions delayed and reordered),
 * later kafka/. All pass the contract suite in tests/store/engine_contract.
 *
 * Threads: the core thread only. Completions never run inside the call that started them.
 * Memory: what is passed in is borrowed until the call returns. */
#ifndef STORE_ENGINE_ENGINE_H
#define STORE_ENGINE_ENGINE_H

#include "base/bytes.h"

struct engine;

enum {
    ENGINE_HEADERS_MAX = 256,      /* headers of one record; the door refuses more on holdfast. topics */
    ENGINE_OUTS_MAX = 65536,       /* records of one commit */
    ENGINE_COMMIT_BYTES = 8 << 20, /* keys, values and headers of one commit; more is HF_ELIMIT */
    ENGINE_CLOCK_LEAP_MS = 60000,  /* a wall clock that gets ahead of the monotonic one by more has leapt */
};

/* ---- commit ---- */

/* One record to append. The partition is chosen by the caller (engine_topic tells how many there are). */
struct engine_out {
    hf_str topic;
    int32_t partition;
    hf_str key, value; /* p == NULL: null */
    const struct hf_header *headers;
    size_t header_count;
};

/* State: a small key-value table that survives, for cursors, marks, committed offsets, decided ids.
 * value.p == NULL deletes the key. At most 64 KiB a value. */
struct engine_put {
    hf_str key, value;
};

/* Records below `offset` of a topic of ours are needed by nobody and may be deleted. */
struct engine_low_water {
    hf_str topic;
    int32_t partition;
    int64_t offset;
};

struct engine_commit {
    int64_t now_ms; /* timestamp of every record appended */
    const struct engine_out *outs;
    size_t out_count;
    const struct engine_put *puts;
    size_t put_count;
    const struct engine_low_water *low_waters;
    size_t low_water_count;
    const uint64_t *runs_added; /* sealed runs that exist from now on */
    size_t runs_added_count;
    const uint64_t *runs_dropped; /* runs that end with this commit; readable until its done was called */
    size_t runs_dropped_count;
};

typedef void engine_done(void *arg, enum hf_err e);

/* Starts a commit. HF_OK: done will be called once, with HF_OK when the commit is durable and visible as a
 * whole, or with an error when nothing of it happened. Otherwise done is not called and nothing happened:
 *   HF_ENOTFOUND  a destination topic or partition does not exist
 *   HF_ELIMIT     a record is too large for its topic, or the commit for the engine
 *   HF_ENOSPC     no room now: keep it and come again
 *   HF_EAGAIN     too many commits under way: come again after a completion
 *   HF_EFENCED    another owner took over: stop
 * Commits take effect in the order in which they were started: none is durable before an earlier one, and
 * when one fails in done, so do all that were started after it and before done was called. */
HF_CHECK enum hf_err engine_commit(struct engine *e, const struct engine_commit *c, engine_done *done,
                                   void *arg);

/* ---- topics ---- */

/* How many partitions the topic has. If it has none and `create` is set, starts to create it with the
 * default number: HF_EAGAIN until it serves (call again after engine_watch's or any completion), HF_ENOTFOUND
 * if there is none and it may not be created (create false, auto-creation off, illegal name). */
HF_CHECK enum hf_err engine_topic(struct engine *e, hf_str topic, bool create, int32_t *partitions);

/* Bytes that one record may have on that topic (max.message.bytes); 0 if the topic does not exist. */
size_t engine_record_max(struct engine *e, hf_str topic);

/* ---- read ---- */

struct engine_record {
    int64_t offset;
    uint64_t sequence; /* order of acceptance over all partitions of this topic, increasing, from 1; the same
                          after every start */
    int64_t timestamp_ms; /* LogAppendTime on topics of ours: never decreases along `sequence` */
    hf_str key, value;    /* p == NULL: null */
    const struct hf_header *headers;
    size_t header_count;
};

struct engine_cursor; /* a place to read from, with its scratch memory */

/* A cursor on one partition, at no particular place. HF_ENOTFOUND, HF_ENOMEM. */
HF_CHECK enum hf_err engine_cursor_open(struct engine *e, hf_str topic, int32_t partition,
                                        struct engine_cursor **out);
void engine_cursor_close(struct engine_cursor *c);

/* Next engine_cursor_next gives the first record at or after `offset` (or the start, if that is later).
 * Cheap when `offset` lies ahead in the batch that is being read. */
void engine_cursor_seek(struct engine_cursor *c, int64_t offset);

/* The next record that is durable and stable. HF_EEND: none now; engine_watch tells when to come back.
 * HF_ECORRUPT, HF_EIO: the partition is damaged there. *out is borrowed until the next call on this cursor.
 */
HF_CHECK enum hf_err engine_cursor_next(struct engine_cursor *c, struct engine_record *out);

/* First offset kept, and the offset after the last stable record. */
HF_CHECK enum hf_err engine_bounds(struct engine *e, hf_str topic, int32_t partition, int64_t *start,
                                   int64_t *stable_end);

/* Every record of this topic that becomes readable from now on has a timestamp of at least this (INT64_MAX
 * if nothing is on its way; then only the clock bounds it). A mark must not pass it. */
int64_t engine_stable_ms(struct engine *e, hf_str topic);

/* Records of this topic that are accepted from now on have a timestamp of at least ms, whatever the wall
 * clock does. The schedule says so before it moves its mark there, and again after each start. */
void engine_time_floor(struct engine *e, hf_str topic, int64_t ms);

/* Topics of ours are stamped by a clock that no leap of the wall clock carries away: else what is accepted
 * meanwhile, and all after it, would count its delay from a time that never was. This accepts the wall clock
 * as it is now. */
void engine_accept_clock(struct engine *e);

/* Calls fn after records of that topic became readable; one watcher a topic. fn only sets a flag or wakes the
 * loop. fn == NULL ends it. */
void engine_watch(struct engine *e, hf_str topic, void (*fn)(void *arg), void *arg);

/* ---- state ---- */

/* Calls fn for every key that starts with prefix, in bytewise order of keys; strings are borrowed for the
 * call. Meant for start: owners keep what they need. */
void engine_state_each(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                       void *arg);

/* The value now, {NULL,0} if none; borrowed until the next call on this engine. */
hf_str engine_state_get(struct engine *e, hf_str key);

/* Offset that a consumer group committed for a partition; -1 if none. */
int64_t engine_committed(struct engine *e, hf_str group, hf_str topic, int32_t partition);

/* Where group/ keeps that offset in the state of an engine without groups of its own: the key is
 * "offset/" group 0x00 topic 0x00 partition in decimal; the value begins with the offset as int64,
 * big-endian. Appends to out. Group ids and topics hold no zero byte. */
void engine_offset_key(struct hf_buf *out, hf_str group, hf_str topic, int32_t partition);

/* ---- runs: the far tier ---- */

/* Bytes that may be written beside what clients' records and commits are to have room for. UINT64_MAX: not known. */
uint64_t engine_room(struct engine *e);

/* A run is written once, sealed, then read. It belongs to a bucket (one per time window), so that an engine
 * without files may put one bucket's runs together. Runs that no commit named are gone after a start;
 * who gives one up before discards it, so that it holds no space until then. */
struct engine_run_writer;

HF_CHECK enum hf_err engine_run_begin(struct engine *e, uint64_t bucket, struct engine_run_writer **out);
/* HF_ENOSPC: the run cannot be finished; abort it. */
HF_CHECK enum hf_err engine_run_append(struct engine_run_writer *w, const void *p, size_t n);
/* Makes the bytes durable; done gets HF_OK and then *id may be named in a commit. From this call on the
 * writer is the engine's, whatever becomes of it: it must not be aborted any more. */
void engine_run_seal(struct engine_run_writer *w, uint64_t *id, engine_done *done, void *arg);
void engine_run_abort(struct engine_run_writer *w);
/* A sealed run that no commit has named, and none under way will: it is gone. Of any other it is nothing. */
void engine_run_discard(struct engine *e, uint64_t id);

/* Every run that exists, ascending by id. */
void engine_run_each(struct engine *e, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
                     void *arg);

/* Bytes [offset, offset+n) of a run: reads into p. HF_ENOTFOUND, HF_EEND (past the end), HF_EIO, HF_ECORRUPT.
 */
HF_CHECK enum hf_err engine_run_read(struct engine *e, uint64_t id, uint64_t offset, void *p, size_t n);

/* ---- what an engine is ---- */

struct engine_ops; /* engine_ops.h, for implementations */

#endif
