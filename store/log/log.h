/* The log: topics of partitions, each a row of segments in Kafka's format, one journal for all that must be
 * durable or atomic. Contracts: docs/storage.md (numbered rules), which the code cites.
 *
 *     log_open(env, &(struct log_options){…}, &log);
 *     log_topic_create(log, HF_STR("orders"), &(struct log_topic_config){.partitions = 3}, created, arg);
 *     log_append(log, partition, batch, n, LOG_ACK_DURABLE, appended, arg);
 *     …the loop: env_poll(env); log_step(log);
 *     log_close(log);
 *
 * Threads: the core thread only. Nothing blocks but log_open and log_close. Completions run in log_step or
 * env_poll, never in the call that started them.
 *
 * What it does not do: sockets, Kafka frames, consumer groups. Batches come in already checked for their
 * checksum. */
#ifndef STORE_LOG_LOG_H
#define STORE_LOG_LOG_H

#include "env/env.h"
#include "store/engine/engine.h"
#include "store/log/settings.h"

struct log;
struct log_partition;

struct log_uuid {
    uint8_t b[16];
};

/* Bytes on the disk are not what was written. */
struct log_damage {
    const char *file; /* below DATA */
    uint64_t byte;
    int64_t offset;   /* of the partition, there; -1: none */
    const char *what; /* a sentence */
    bool rebuilt;     /* nothing is lost: the file was made again from others */
};

/* Offsets [from, to) of a partition are gone; some of them may have been left out before. */
struct log_lost {
    const char *topic;
    int32_t partition;
    int64_t from, to;
};
typedef void log_lost_fn(void *arg, const struct log_lost *x);

/* How a start that must be refused goes on all the same (store/log/rescue.c). What is given up is told; what is
 * changed or left out was copied to `salvaged/` before. */
struct log_rescue {
    log_lost_fn *lost;
    void (*gave_up)(void *arg, const char *file, const char *what); /* below DATA, or a key of the state */
    void *arg;
};

struct log_options {
    int32_t default_partitions;   /* num.partitions; 1 */
    uint64_t segment_bytes;       /* segment.bytes; 256 MiB */
    size_t message_max;           /* max.message.bytes; 1 MiB */
    struct log_settings settings; /* the server's values for topics that say nothing; not of those two */
    bool auto_create;             /* for engine_topic */
    uint64_t journal_file_bytes;  /* 16 MiB */
    uint64_t checkpoint_bytes;    /* journal bytes after which a checkpoint begins; 64 MiB */
    uint64_t reserve_bytes;       /* free disk space that clients' produces may not use; 64 MiB */
    size_t open_files; /* of segments and their indexes: above it idle ones are closed, dirty ones synced and
                          closed (log_crowded); 2,048 */
    int64_t retention_check_ms; /* how often partitions are looked at for retention; 30 s */
    size_t compaction_bytes;    /* memory for keys in one run of compaction; 32 MiB */
    size_t ids_max;             /* topics; 100,000 partitions in all */
    uint64_t anchor_bytes;      /* a manifest has a checksum for so many bytes of a segment; 256 KiB */
    int64_t scrub_interval_ms;  /* between two passes of the scrubber; a week; -1: never */
    uint64_t scrub_bytes_s;     /* how fast it reads; 8 MiB/s */
    void (*damaged)(void *arg, const struct log_damage *d); /* told of each damage instead of a log line */
    void *damaged_arg;
    const struct log_rescue
        *rescue; /* for a folder that log_open refuses, if an operator says so; log_salvage
                                        is to follow. NULL: it is refused */
};

/* Zero fields mean defaults. Reads DATA (the env's root), recovers, syncs what recovery kept. HF_ECORRUPT:
 * damage below a durable mark; the log line says which byte of which file. HF_EAGAIN: another process has it.
 * HF_EUNSUPPORTED: a newer format. */
HF_CHECK enum hf_err log_open(struct hf_env *env, const struct log_options *options, struct log **out);

/* A clean stop: waits for what is under way, trims, checkpoints. After HF_OK the next start scans nothing. */
HF_CHECK enum hf_err log_close(struct log *l);

/* Throws the object away as a crash would: no I/O, no completions. */
void log_abandon(struct log *l);

/* Moves things on (group commit, checkpoint, preallocation, completions) up to now. Call after each batch of
 * work and at least every 100 ms; returns the milliseconds after which it wants to be called again, at most.
 */
int64_t log_step(struct log *l);

/* Clients write to more segments than files may be open: better not to begin further appends until it is over
 * (syncs end). Those that come all the same are HF_EAGAIN from half as many more on. */
bool log_crowded(const struct log *l);

/* HF_OK, or why the log has failed (a failed sync): the process must exit with a clear line. Whoever waits is
 * not told any more: what happened to it, the next start finds out. */
enum hf_err log_failed(const struct log *l);

/* The same store as schedule, txn and group see it. Owned by the log. */
struct engine *log_engine(struct log *l);

/* 22 characters and a zero: the cluster's id, made at the first start. */
const char *log_cluster_id(const struct log *l);

/* ---- topics ---- */

struct log_topic_config {
    int32_t partitions; /* 0: default */
    bool internal;      /* ours: not listed to clients as theirs, acks=1 counts as all, LogAppendTime */
    struct log_settings settings;
};

typedef void log_done(void *arg, enum hf_err e);

/* done: durable. HF_EEXIST and HF_EINVAL (name; two names that differ by '.' and '_' only are refused as in
 * Kafka) are returned at once. */
HF_CHECK enum hf_err log_topic_create(struct log *l, hf_str name, const struct log_topic_config *config,
                                      log_done *done, void *arg);

/* Adds partitions, empty ones, until there are so many. done: durable, and found. HF_ENOTFOUND; HF_EINVAL (not more than
 * there are; a topic of ours); HF_ELIMIT; HF_EAGAIN (it is growing already) at once. */
HF_CHECK enum hf_err log_topic_grow(struct log *l, hf_str name, int32_t partitions, log_done *done,
                                    void *arg);

/* One record drops the topic and the state keys drop_keys, exactly those (its groups' offsets). Readers' pins
 * keep files until they are released. HF_ENOTFOUND, HF_EAGAIN (it is growing) at once. */
HF_CHECK enum hf_err log_topic_delete(struct log *l, hf_str name, const hf_str *drop_keys, size_t drop_count,
                                      log_done *done, void *arg);

/* What the topic is told to do from now on. Calls take effect in their order; done: durable, and in force.
 * HF_ENOTFOUND, HF_EINVAL (a segment or message size that cannot be), HF_EAGAIN, HF_ENOSPC at once. */
HF_CHECK enum hf_err log_topic_alter(struct log *l, hf_str name, const struct log_settings *settings,
                                     log_done *done, void *arg);

struct log_topic_info {
    hf_str name;
    struct log_uuid id;
    int32_t partitions;
    bool internal;
    struct log_settings settings; /* every value in force; `own`: which of them the topic was told */
    struct log_settings asked;    /* what it was told last, even if that is not yet durable: alter this */
};

/* HF_ENOTFOUND. Topics that are being created or deleted are not found. */
HF_CHECK enum hf_err log_topic(struct log *l, hf_str name, struct log_topic_info *out);
HF_CHECK enum hf_err log_topic_by_id(struct log *l, struct log_uuid id, struct log_topic_info *out);
/* By name, ascending. */
void log_topic_each(struct log *l, void (*fn)(void *arg, const struct log_topic_info *t), void *arg);

/* NULL if there is no such partition. The pointer stays valid until the topic is deleted: look it up for each
 * request. */
struct log_partition *log_partition(struct log *l, hf_str topic, int32_t partition);
/* What its topic is told to do; valid as long as the pointer. */
const struct log_settings *log_partition_settings(const struct log_partition *p);

/* Records below offset are gone from now on: the start moves there, never back. done: durable, and moved.
 * HF_ERANGE: above the high watermark; HF_EAGAIN at once. Segments wholly below it are deleted as soon as
 * recovery and readers need them no more. */
HF_CHECK enum hf_err log_start_move(struct log *l, struct log_partition *p, int64_t offset, log_done *done,
                                    void *arg);

/* ---- append ---- */

enum log_ack {
    LOG_ACK_WRITTEN, /* acks=0 and 1: survives the death of the process */
    LOG_ACK_DURABLE, /* acks=all: survives loss of power */
};

struct log_appended {
    enum hf_err e;
    int64_t base_offset;
    int64_t append_time_ms; /* -1 unless LogAppendTime */
    int64_t log_start;
    bool duplicate; /* an idempotent producer sent it again: base_offset is the original's */
};

typedef void log_append_done(void *arg, const struct log_appended *result);

/* Appends one batch, whose checksum the caller has checked. The bytes are borrowed for the call and may be
 * changed (offset, epoch, append time). HF_OK: done is called once, after what `ack` promises holds. At once:
 *   HF_ELIMIT     larger than max.message.bytes
 *   HF_ENOSPC     below the reserve, or no room
 *   HF_EAGAIN     too much is waiting for the disk
 *   HF_ERANGE     idempotent: sequence out of order        HF_EFENCED  idempotent: old epoch
 *   HF_ENOTFOUND  idempotent: unknown producer id with a sequence other than 0 is accepted as Kafka does; not
 * an error `internal` topics take LOG_ACK_WRITTEN as LOG_ACK_DURABLE. */
HF_CHECK enum hf_err log_append(struct log *l, struct log_partition *p, uint8_t *batch, size_t n,
                                enum log_ack ack, log_append_done *done, void *arg);

/* A producer id nobody had: from a block reserved durably before. HF_EAGAIN: a block is being reserved; call
 * again when watch is called. */
HF_CHECK enum hf_err log_producer_id(struct log *l, int64_t *id);

/* ---- read ---- */

struct log_bounds {
    int64_t start;  /* log start offset */
    int64_t high;   /* high watermark: consumers see what is below */
    int64_t stable; /* last stable offset */
    int64_t end;    /* next offset to be assigned */
    int32_t leader_epoch;
};
void log_bounds(struct log_partition *p, struct log_bounds *out);

/* Bytes of its segments, without their indexes. Opens those that nobody has looked into since the start; one
 * that cannot be opened counts nothing. */
uint64_t log_partition_bytes(struct log_partition *p);

/* A byte range of a segment file: whole batches, from the one that holds the asked offset. The pin keeps the
 * file. */
struct log_slice {
    struct hf_file *file;
    uint64_t position;
    size_t size; /* 0: nothing there yet */
    int64_t first_offset;
    struct log_pin *pin; /* release even if size is 0, unless NULL */
};

/* Up to max_bytes below the high watermark; at least one batch if `min_one`, however large. HF_ERANGE: offset
 * below start or above the end. HF_ECORRUPT: damaged there (a log line names the byte). */
HF_CHECK enum hf_err log_read(struct log *l, struct log_partition *p, int64_t offset, size_t max_bytes,
                              bool min_one, struct log_slice *out);
void log_pin_release(struct log_pin *pin);

/* Called after the high watermark of any partition moved: fn gets each such partition once. One watcher (the
 * broker). */
void log_watch(struct log *l, void (*fn)(void *arg, struct log_partition *p), void *arg);

/* First offset whose timestamp is at least ms, and that timestamp; HF_EEND if there is none. */
HF_CHECK enum hf_err log_offset_at(struct log *l, struct log_partition *p, int64_t ms, int64_t *offset,
                                   int64_t *timestamp);
/* The record with the largest timestamp (ListOffsets -3); HF_EEND when empty. */
HF_CHECK enum hf_err log_offset_max_time(struct log *l, struct log_partition *p, int64_t *offset,
                                         int64_t *timestamp);
/* The leader epoch that batches at an offset have, or the next one would have. */
int32_t log_epoch_at(const struct log_partition *p, int64_t offset);
/* End offset of the largest epoch at most `epoch` (OffsetForLeaderEpoch), or where the first one starts if it is
 * older than that. HF_EEND: newer than the newest. */
HF_CHECK enum hf_err log_epoch_end(struct log_partition *p, int32_t epoch, int32_t *found, int64_t *end);

/* Reads and proves everything that the log keeps, at once: for tools, it blocks. What is damaged is told as
 * always. Fails with the last error of what could not be read. */
HF_CHECK enum hf_err log_scrub(struct log *l);

/* ---- what is damaged is given up ---- */

/* Cuts out of every partition what is damaged, durable or not, drops runs that are, and tells what is lost by it. For tools: it
 * blocks, of a log that was just opened; stop it cleanly afterwards. Fails where it could not go on: what was told
 * until then is lost, all else is as it was. */
HF_CHECK enum hf_err log_salvage(struct log *l, const struct log_rescue *to);

/* ---- a partition from elsewhere ---- */

struct log_adopted {
    uint64_t batches, records, bytes; /* taken */
    uint64_t left_out;                /* batches of transactions that were not committed, and markers */
    int64_t start, end;               /* of the partition now */
    char file[32];                    /* HF_ECORRUPT: what is wrong, and where; nothing was taken */
    uint64_t byte;
    const char *why;
};

/* Takes in what a Kafka broker left in the partition folder that is folder's root, at its offsets. For tools:
 * it blocks, and only a clean stop behind it makes it durable as a whole. HF_EEXIST: the partition is not
 * empty, or ours; HF_ENOTFOUND: no segments in the folder; HF_ECORRUPT, HF_ENOSPC. */
HF_CHECK enum hf_err log_adopt(struct log *l, struct log_partition *p, struct hf_env *folder,
                               struct log_adopted *out);

/* ---- numbers for /metrics ---- */

struct log_stats {
    uint64_t appended_batches, appended_bytes, journal_bytes, journal_syncs, checkpoints, rolls, compactions;
    uint64_t topics, partitions, segments;
    uint64_t free_bytes, open_files, open_files_most; /* since the start */
    uint64_t damages, rebuilt;                        /* told since the start */
    uint64_t scrubs, scrubbed_bytes;                  /* passes of the scrubber, and what it read */
};
void log_stats(const struct log *l, struct log_stats *out);

/* Asserts the invariants of docs/storage.md that can be seen in memory. For tests, after each step. */
void log_check(struct log *l);

#endif
