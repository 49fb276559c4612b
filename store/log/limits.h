/* How much of everything: what is bounded in store/log, and by what. */
#ifndef STORE_LOG_LIMITS_H
#define STORE_LOG_LIMITS_H

#include "log.h"

enum {
    LOG_PATH = 352,                  /* "topics/" name "-" number "/" 20 digits ".timeindex", and some */
    LOG_PAGE = 4096,                 /* unit of direct reads and of allocation */
    LOG_ALLOC_MIN = 64 << 10,        /* first preallocation of a segment */
    LOG_ALLOC_MAX = 16 << 20,        /* it doubles up to this */
    LOG_TAIL_MAX = 1 << 20,          /* a longer unsynced tail is not dragged through the journal [L1] */
    LOG_GATHER = 64 << 10,           /* bytes of small batches written together */
    LOG_GATHER_EACH = 16 << 10,      /* a batch of this size is written by itself */
    LOG_BACKGROUND = 4 << 20,        /* bytes not durable after which a background sync begins */
    LOG_BACKGROUND_US = 1000000,     /* or after this time */
    LOG_WRITEBACK = 256 << 10,       /* durable ones written back at a time, without a sync */
    LOG_CHECKPOINT_US = 30000000,    /* a checkpoint at least this often while anything is dirty */
    LOG_CEILING_STEP = 1 << 20,      /* offsets by which a ceiling runs ahead */
    LOG_WAITING_MAX = 65536,         /* appends that wait for the disk; more is HF_EAGAIN */
    LOG_COMMITS_MAX = 4096,          /* commits under way; more is HF_EAGAIN */
    LOG_COMMIT_BYTES = 64 << 20,     /* and their bytes together */
    LOG_OPEN_FILES = 2048,           /* of segments, unless told otherwise */
    LOG_SYNC_BACKGROUND = 8,         /* partitions being synced, when the background asks for another one, */
    LOG_SYNC_EVICT = 16,             /* when files are to be closed, */
    LOG_SYNC_CHECKPOINT = 24,        /* when a checkpoint does, */
    LOG_SYNC_BLOCKED = 1024,         /* and when nobody else wants the disk: at start and stop */
    LOG_CHECKPOINT_DIRTY = 2048,     /* dirty partitions for each checkpoint_bytes of journal, */
    LOG_CHECKPOINT_TIMES = 8,        /* up to so many times */
    LOG_PRODUCERS = 10000,           /* idempotent producers remembered for a partition */
    LOG_PRODUCER_BATCHES = 5,        /* and their last batches */
    LOG_PARTITIONS_MAX = 100000,     /* in all */
    LOG_TOPIC_PARTITIONS = 10000,    /* of one topic */
    LOG_ID_BLOCK = 5000,             /* producer ids reserved at a time */
    LOG_INTERNAL_SEGMENT = 32 << 20, /* segments of our own topics: small, so that space comes back */
};

#define LOG_STATE_TOPIC "__holdfast_state"

/* Segments speak of positions as Kafka's indexes do: int32. */
#define LOG_SEGMENT_MAX ((uint64_t)INT32_MAX)

#endif
