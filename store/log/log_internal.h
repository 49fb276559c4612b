/* What the files of store/log share. The picture and the invariants [L1]..[L21]: docs/storage.md.
 *
 *     log.c         open, step, close           journal.c     groups: form, write, sync, recycle
 *     append.c      one batch comes in          replay.c      reads the journal back, judges its end
 *     commit.c      many at once, atomically    checkpoint.c  facts, syncs, snapshot, superblock
 *     partition.c   places, what waits, what    snapshot.c    their bytes on disk
 *                   is seen                     recovery.c    from those bytes to a log that serves
 *     segment.c     files                       state.c       keys and values, their compaction
 *     index.c       offset and time indexes     topics.c      catalogue, folders
 *     producer.c    idempotence                 runs.c        the far tier
 *     read.c        slices, look-ups            log_engine.c  engine.h over all this
 *     psync.c       one partition's files made durable
 *     retention.c   what is old goes           compact.c     what is not the latest goes
 *     swap.c        a segment for many
 *     configure.c   what topics are told       settings.c    its names and ranges
 *     manifest.c    what a closed segment must be     proof.c    and whether it is: damage, rebuilding
 *     scrub.c       what nobody reads               adopt.c    a partition that Kafka wrote comes in
 *     salvage.c     what is damaged is cut out, if an operator says so
 *
 * Everything here belongs to the core thread. */
#ifndef STORE_LOG_INTERNAL_H
#define STORE_LOG_INTERNAL_H

#include "base/arena.h"
#include "log.h"
#include "store/engine/batch.h"
#include "store/engine/engine_ops.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include <assert.h>

enum {
    LOG_PATH = 352,                  /* "topics/" name "-" number "/" 20 digits ".timeindex", and some */
    LOG_PAGE = 4096,                 /* unit of direct reads and of allocation */
    LOG_ALLOC_MIN = 64 << 10,        /* first preallocation of a segment */
    LOG_ALLOC_MAX = 16 << 20,        /* it doubles up to this */
    LOG_TAIL_MAX = 1 << 20,          /* a longer unsynced tail is not dragged through the journal [L1] */
    LOG_GATHER = 64 << 10,           /* bytes of small batches written together */
    LOG_GATHER_EACH = 16 << 10,      /* a batch of this size is written by itself */
    LOG_BACKGROUND = 4 << 20,        /* unsynced bytes after which a background sync begins */
    LOG_BACKGROUND_US = 1000000,     /* or after this time */
    LOG_CHECKPOINT_US = 30000000,    /* a checkpoint at least this often while anything is dirty */
    LOG_CEILING_STEP = 1 << 20,      /* offsets by which a ceiling runs ahead */
    LOG_WAITING_MAX = 65536,         /* appends that wait for the disk; more is HF_EAGAIN */
    LOG_COMMITS_MAX = 4096,          /* commits under way; more is HF_EAGAIN */
    LOG_COMMIT_BYTES = 64 << 20,     /* and their bytes together */
    LOG_OPEN_FILES = 2048,           /* of segments, unless told otherwise */
    LOG_SYNC_BACKGROUND = 8,         /* partitions being synced, when the background asks for another one, */
    LOG_SYNC_EVICT = 16,             /* when files are to be closed, */
    LOG_SYNC_CHECKPOINT = 24,        /* when a checkpoint does, */
    LOG_SYNC_BLOCKED = 128,          /* and when nobody else wants the disk: at start and stop */
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

/* ---- places ---- */

struct segment;

/* Between two batches. At a roll the same offset has two places: the end of one segment and the beginning of
 * the next; both mean the same. */
struct place {
    struct segment *seg;
    uint64_t pos;
    int64_t offset;
};

/* ---- segments ---- */

struct log_pin {
    uint32_t count;
};

struct index_file {
    struct hf_file *file;
    uint32_t entries; /* in file and buffer */
    uint32_t written; /* in the file */
    uint32_t crc;     /* CRC-32C of those */
    bool unsynced;    /* the file was written to */
    uint8_t *buf;     /* entries not yet written; NULL: none */
};

enum { INDEX_FILES = 3 }; /* index, timeindex, anchors of the manifest */

/* What is expected of an index file. */
struct index_sum {
    uint32_t entries, crc;
};

struct segment {
    struct log_pin pin;      /* first: a pin is its segment */
    struct log_partition *p; /* NULL: taken out of the partition, lives for its pins */
    struct segment *prev, *next;
    struct segment *lru_prev, *lru_next;
    int64_t base;
    uint64_t size;        /* bytes of batches, reserved room included */
    uint64_t allocated;   /* the file's size */
    uint64_t step;        /* next preallocation */
    struct hf_file *file; /* NULL: closed */
    struct log *log;
    struct index_file index, timeindex, anchors;
    uint64_t indexed_pos;  /* position of the last index entry */
    int64_t time_last;     /* last timestamp in the timeindex; -1: none */
    int64_t max_ts;        /* largest timestamp of a batch here, -1: none */
    int64_t max_ts_offset; /* last offset of the batch that has it */
    uint32_t chain;        /* of the headers of all batches up to size [L19] */
    uint32_t gaps;         /* places inside where offsets are left out */
    uint64_t anchor_pos;   /* position of the last anchor; 0: none */
    int64_t next_offset;   /* sealed: behind its last batch */
    int64_t follows;       /* base of the segment behind it, as its manifest says; -1: whatever is there */
    uint64_t
        unproven; /* bytes below it were there before this process and need proof before they are shown */
    uint32_t unproven_chain; /* of them all */
    uint8_t *proven;         /* a bit for each stretch between two anchors; NULL: none is */
    uint32_t stretches, proven_count;
    uint64_t proven_from, proven_to; /* the stretch proven last */
    uint64_t reported;               /* the damage told last: its byte + 1 */
    bool tracked;                    /* chain and anchors are known up to size */
    bool listed;                     /* its manifest is whole */
    bool cut;                        /* the file is shorter than it must be: nothing is appended */
    bool sized;                      /* size, allocated and index counts are known */
    bool dirty;                      /* bytes not known to be synced */
    bool index_dirty;
    bool sealed;      /* rolled */
    bool timed;       /* max_ts is known from every batch, not from the timeindex alone */
    int64_t first_ts; /* of the first batch; -1: not known */
    uint64_t swap;    /* not 0: its files have names that end in this and .swap (swap.c) */
    int64_t since_us; /* when this process began to know it */
};

/* Small batches that follow each other in one segment, on their way into it: segment.c [L18]. */
struct gathered {
    struct segment *s; /* NULL: nothing */
    uint64_t pos;
    size_t n;
    uint8_t *bytes; /* LOG_GATHER of them, from the first use on */
};

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
    int64_t unsynced_since_us; /* when the first byte above `synced` came; INT64_MIN: there are many */
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
    struct tail *tail;      /* recovery.c */
    int32_t chain;          /* scratch of commit.c: last record bound here, -1 none */
    struct part *open_part; /* scratch of commit.c */
};

/* ---- topics ---- */

enum topic_phase { TOPIC_CREATING, TOPIC_LIVE, TOPIC_DELETING, TOPIC_GONE };

/* The settings in force: the topic's own, or the server's. */
struct topic_config {
    bool internal, append_time;
    size_t message_max;
    uint64_t segment_bytes;
    struct log_settings settings; /* all values; `own`: the topic's */
};

struct topic {
    char name[256];
    char folded[256]; /* '.' as '_': names that differ by these only are not told apart, as in Kafka */
    struct log_uuid id;
    struct topic_config config;
    struct log_settings asked; /* by the last log_topic_alter */
    int32_t partitions;
    struct log_partition **partition;
    enum topic_phase phase;
    uint64_t next_sequence; /* internal topics: order of acceptance */
    int64_t last_time_ms;   /* internal topics: append time never goes back over all partitions */
    void (*watch)(void *arg);
    void *watch_arg;
    UT_hash_handle hh, hh_id, hh_folded;
};

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

/* ---- journal ---- */

struct journal_file {
    struct journal_file *prev, *next;
    uint32_t slot;
    uint64_t seq; /* 0: spare */
    struct hf_file *file;
    uint64_t size;
};

struct group_entry {
    struct log_partition *p;
    int64_t end;     /* BYTES: durable may go there */
    struct place to; /* its place */
    int64_t ceiling; /* CEILING, else 0 */
};

enum journal_phase { JOURNAL_IDLE, JOURNAL_FORMED, JOURNAL_SYNCING };

struct journal {
    struct log *log;
    enum journal_phase phase;
    uint64_t incarnation;
    struct journal_file *files; /* in use, ascending by seq; the last one is written to */
    struct journal_file *spares;
    struct journal_file *growing; /* being filled with zeros */
    uint64_t grown;
    struct env_sync grow_sync, grow_dir;
    uint32_t next_slot;
    uint64_t next_seq;
    uint64_t at;            /* where the next group goes in the last file */
    uint64_t durable;       /* LSN below which all is synced and applied */
    uint32_t chain;         /* header checksum of the last group */
    uint32_t durable_chain; /* the same at `durable` */
    struct hf_buf group;
    uint32_t group_entries;
    struct group_entry *entries;
    size_t entry_count, entry_cap;
    struct commit *commits, *commits_last; /* in the group */
    struct env_sync sync;
    uint64_t end_lsn; /* after the group being synced */
    uint64_t since_checkpoint;
};

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
    uint64_t run, block;  /* behind the partitions: the run, and where in it */
    uint64_t read;        /* by the last piece */
    enum hf_err left_out; /* the last thing that could not be read */
    int64_t next_us;      /* when the next piece is due; 0: not yet known */
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

/* ---- runs ---- */

struct run {
    uint64_t id, bucket, bytes;
    struct hf_file *file; /* for reading; NULL: closed */
    uint64_t reported;    /* the damage told last: its byte + 1 */
    bool sealed;          /* written and synced */
    bool named;           /* by a durable commit */
    UT_hash_handle hh;
};

struct log_run_writer;
struct creation;
struct alteration;

struct topic_watch {
    struct topic_watch *prev, *next;
    char name[256];
    void (*fn)(void *arg);
    void *arg;
};

struct trash {
    struct trash *next;
    char path[LOG_PATH];
};

/* ---- the log ---- */

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
    struct segment *lru; /* open segment files, most recently used first */
    size_t open_files;   /* theirs and their indexes' */
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
    uint64_t trash_serial;
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
void ids_step(struct log *l);

/* segment.c */
void segment_path(const struct segment *s, const char *ext, char out[LOG_PATH]);
struct segment *segment_new(struct log_partition *p, int64_t base);
struct segment *segment_add(struct log_partition *p, int64_t base);
HF_CHECK enum hf_err segment_open_new(struct segment *s);
HF_CHECK enum hf_err segment_create(struct log_partition *p, int64_t base, uint64_t room,
                                    struct segment **out);
HF_CHECK enum hf_err segment_first(struct log_partition *p, struct segment **out);
HF_CHECK enum hf_err segment_open(struct segment *s);
HF_CHECK enum hf_err segment_writable(struct segment *s, uint64_t room);
HF_CHECK enum hf_err segment_read(struct segment *s, uint64_t pos, void *out, size_t n);
HF_CHECK enum hf_err segment_write(struct segment *s, uint64_t pos, const void *bytes, size_t n);
void gathered_write(struct log *l);
HF_CHECK enum hf_err segment_trim(struct segment *s);
void segment_close(struct segment *s);
void segment_remove(struct segment *s, bool unlink_files);
HF_CHECK enum hf_err segment_seal(struct segment *s, int64_t next_offset);
void segment_evict(struct log *l);
HF_CHECK enum hf_err segment_settle(struct log *l);
bool segments_crowded(const struct log_partition *p);

/* index.c */
enum { INDEX_ENTRY = 8, TIMEINDEX_ENTRY = 12, ANCHOR_ENTRY = 8, INDEX_EVERY = 4096 };
struct index_file *index_file_of(struct segment *s, int i); /* index, timeindex, anchors */
void index_path(const struct segment *s, const struct index_file *f, char out[LOG_PATH]);
void index_add(struct segment *s, const uint8_t *header, const struct batch_info *b, uint64_t pos,
               int64_t base);
HF_CHECK enum hf_err index_create(struct segment *s);
HF_CHECK enum hf_err index_flush(struct segment *s);
void index_seal(struct segment *s);
struct index_sum index_sum_at(struct segment *s, struct index_file *f, uint32_t n);
HF_CHECK enum hf_err index_load(struct segment *s, const struct index_sum want[INDEX_FILES], unsigned *bad);
HF_CHECK enum hf_err index_cut(struct segment *s, const struct index_sum want[INDEX_FILES], unsigned *bad);
HF_CHECK enum hf_err index_clear(struct segment *s);
HF_CHECK enum hf_err index_drop_anchors(struct segment *s);
HF_CHECK enum hf_err index_find(struct segment *s, int64_t offset, uint64_t *pos);
HF_CHECK enum hf_err index_find_pos(struct segment *s, uint64_t limit, uint64_t *pos);
HF_CHECK enum hf_err index_find_time(struct segment *s, int64_t ms, int64_t *offset);
void index_close(struct segment *s);
HF_CHECK enum hf_err index_open(struct segment *s, struct index_file *f, unsigned flags);
void index_rest(struct segment *s);

/* Bytes between two batches with the checksum of the headers up to there. */
struct anchor {
    uint64_t pos;
    uint32_t chain;
};
HF_CHECK enum hf_err index_anchors(struct segment *s, uint64_t pos, uint32_t *number, struct anchor *from,
                                   struct anchor *to, bool *last);

/* manifest.c */
enum { MANIFEST_TRAILER = 128 };
struct manifest {
    int64_t next, follows;
    uint64_t length;
    uint32_t chain, gaps;
    struct index_sum sums[INDEX_FILES];
};
void manifest_encode(struct segment *s, uint8_t out[MANIFEST_TRAILER]);
HF_CHECK enum hf_err manifest_read(struct segment *s, struct manifest *out);
HF_CHECK enum hf_err manifest_write(struct segment *s);
void manifest_close(struct segment *s);
int64_t manifest_missing_from(struct log_partition *p);

/* proof.c */
struct walk {
    struct segment *s;
    uint64_t pos, end; /* the batch to be looked at next; where to stop */
    int64_t next;      /* its offset; -1: any */
    uint32_t chain;
    bool gaps;        /* offsets may be left out */
    uint32_t skipped; /* places where they were */
    const char *why;  /* what is wrong at pos */
    uint64_t at;      /* the last batch, its header, and what it says */
    struct batch_info b;
    uint8_t head[BATCH_HEADER];
    struct hf_file *file;
    uint8_t *window; /* whole pages, so that it may be read past the page cache */
    uint64_t window_at;
    size_t window_n;
};
HF_CHECK enum hf_err walk_begin(struct walk *w, struct segment *s, uint64_t pos, uint64_t end);
HF_CHECK enum hf_err walk_next(struct walk *w);
void walk_end(struct walk *w);
void damage_tell(struct log *l, const struct log_damage *d);
void damage_in(struct segment *s, uint64_t byte, int64_t offset, const char *what);
HF_CHECK enum hf_err proof_first_look(struct segment *s, uint64_t file_size);
HF_CHECK enum hf_err proof_after_crash(struct segment *s, const struct index_sum want[INDEX_FILES],
                                       bool reserved);
HF_CHECK enum hf_err proof_remake(struct segment *s, bool known, unsigned bad);
bool proof_hole(struct segment *s);
HF_CHECK enum hf_err proof_at(struct segment *s, uint64_t pos);
HF_CHECK enum hf_err proof_of_indexes(struct segment *s);
HF_CHECK enum hf_err proof_again(struct segment *s, uint64_t *pos);
HF_CHECK enum hf_err proof_range(struct segment *s, uint64_t from, uint64_t to, uint64_t *good);

/* partition.c */
struct log_partition *partition_new(struct log *l, struct topic *t, int32_t number);
void partition_ref(struct log_partition *p);
void partition_unref(struct log_partition *p);
void partition_forget_row(struct log_partition *p);
void partition_free(struct log_partition *p);
struct segment *partition_active(struct log_partition *p);
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

/* journal.c */
HF_CHECK enum hf_err journal_open(struct log *l, uint64_t next_seq);
void journal_close(struct log *l);
void journal_kick(struct log *l);
bool journal_idle(const struct log *l);
void journal_prepare(struct log *l);
void journal_recycle(struct log *l, uint64_t lsn);
size_t journal_payload_max(const struct log *l);
uint64_t journal_next_lsn(const struct journal *j);
void journal_path(uint32_t slot, char out[LOG_PATH]);

enum { ENTRY_BYTES = 1, ENTRY_CEILING = 2, ENTRY_START = 3, ENTRY_SWAP = 4 };
enum { GROUP_HEADER = 64, ENTRY_HEADER = 8, ENTRY_PLACE = 28, SWAP_BODY = 16 };

/* What a journal file's first sector says. */
struct journal_head {
    uint64_t seq, size, incarnation;
};
void journal_head_encode(const struct journal_head *h, uint8_t out[HF_SECTOR]);
bool journal_head_decode(const uint8_t *p, struct journal_head *out);

struct group_head {
    uint32_t payload, chain, payload_crc, entries, crc;
    uint64_t lsn, incarnation, durable;
};
void group_head_encode(struct group_head *h, uint8_t out[GROUP_HEADER]); /* fills in crc */
bool group_head_decode(const uint8_t *p, struct group_head *out);
static inline uint64_t group_size(uint64_t payload) {
    return (GROUP_HEADER + payload + HF_SECTOR - 1) / HF_SECTOR * HF_SECTOR;
}

/* replay.c */
struct replay_entry {
    uint8_t type;
    struct log_uuid id;
    int32_t partition;
    int64_t offset;
    const uint8_t *bytes;
    size_t n;
};
struct replay {
    uint64_t lsn;
    uint32_t chain;
    uint64_t incarnation;
    uint64_t end; /* out: LSN behind the last whole group */
    enum hf_err (*entry)(void *arg, const struct replay_entry *e);
    void *arg;
};
HF_CHECK enum hf_err replay_scan(struct log *l); /* finds the files and their sequence numbers */
HF_CHECK enum hf_err replay_run(struct log *l, struct replay *r);
HF_CHECK enum hf_err replay_judge(struct log *l, const struct replay *r);

/* snapshot.c */
struct superblock {
    uint64_t generation, lsn, incarnation, snapshot_bytes;
    uint32_t chain, snapshot_crc;
    bool clean;
};
void superblock_encode(const struct superblock *s, uint8_t out[HF_SECTOR]);
bool superblock_decode(const uint8_t *p, struct superblock *out);
HF_CHECK enum hf_err superblock_read(struct log *l, struct superblock *out); /* HF_ENOTFOUND: a new store */
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
HF_CHECK enum hf_err snapshot_look_at_spare(struct log *l, const struct superblock *newest);
HF_CHECK enum hf_err snapshot_each(struct log *l, const struct hf_buf *snapshot,
                                   enum hf_err (*fn)(struct log *l, const struct facts *f));
HF_CHECK enum hf_err facts_apply(struct log_partition *p, const struct facts *f);

/* checkpoint.c */
void checkpoint_begin(struct log *l, bool clean);
void checkpoint_step(struct log *l);
void checkpoint_synced(struct log_partition *p);
void checkpoint_leave(struct log_partition *p);
/* Moves the running checkpoint on, begins one when it is due. */
bool checkpoint_idle(const struct log *l);
uint64_t checkpoint_bytes(const struct log *l);

/* meta.c */
HF_CHECK enum hf_err meta_lock(struct log *l);
HF_CHECK enum hf_err meta_read(struct log *l); /* HF_ENOTFOUND: a new store */
HF_CHECK enum hf_err meta_write(struct log *l);

/* recovery.c */
HF_CHECK enum hf_err recovery_run(struct log *l);

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

/* state.c */
HF_CHECK enum hf_err state_init(struct log *l);
void state_fini(struct log *l);
HF_CHECK enum hf_err state_load(struct log *l); /* reads the recovered state partition */
HF_CHECK enum hf_err state_hold(struct log *l, const uint8_t *batches, size_t n); /* puts on their way */
void state_apply(struct log *l, const uint8_t *batches, size_t n);                /* they are durable */
hf_str state_get(struct log *l, hf_str key);
void state_each(struct log *l, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value), void *arg);
void state_step(struct log *l);

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

/* retention.c */
void retention_step(struct log *l);
HF_CHECK enum hf_err retention_known_size(struct log *l, struct segment *s); /* HF_EAGAIN: the next step */
int64_t retention_wait(struct log *l);
void retention_forget(struct log *l);

/* scrub.c */
void scrub_step(struct log *l);
int64_t scrub_wait(const struct log *l);
void scrub_forget(struct log *l);

/* configure.c */
void topic_configure(struct log *l, struct topic *t, const struct log_settings *own);
HF_CHECK enum hf_err settings_check(const struct log_settings *s); /* HF_EINVAL */
void catalogue_key(const struct topic *t, struct hf_buf *out);
void catalogue_value(const struct topic *t, int32_t partitions, const struct log_settings *own,
                     struct hf_buf *out);
HF_CHECK enum hf_err catalogue_read(hf_str value, struct log_uuid *id, struct log_topic_config *out);
void alterations_forget(struct log *l);

/* topics.c */
bool topic_shown(const struct log *l, const struct topic *t); /* t may be NULL */
struct topic *topic_find(struct log *l, hf_str name);
struct topic *topic_find_id(struct log *l, const struct log_uuid *id);
struct log_partition *topic_partition(struct log *l, hf_str name, int32_t number);
HF_CHECK enum hf_err topics_init(struct log *l);
HF_CHECK enum hf_err trash_load(struct log *l);
HF_CHECK enum hf_err topics_load(struct log *l); /* the catalogue from the state, folders put in order */
HF_CHECK enum hf_err topic_folder_create(struct log_partition *p, struct hf_file **metadata);
void topic_epochs_write(struct log_partition *p);
HF_CHECK enum hf_err topic_folder_prove(struct log_partition *p);
HF_CHECK enum hf_err topic_folder_is(struct log_partition *p, bool *is); /* whose folder it is [L14] */
void base64url(const uint8_t b[16], char out[24]);
void trash_folder(struct log *l, const char *path);
void topic_folder_path(const struct topic *t, int32_t number, char out[LOG_PATH]);
void creations_forget(struct log *l);
void topics_free(struct log *l);
void trash_step(struct log *l);

/* runs.c */
HF_CHECK enum hf_err runs_load(struct log *l);
void runs_free(struct log *l);
void run_key(uint64_t id, char out[32]);
bool run_sealed(struct log *l, uint64_t id, struct run **out);
void runs_drop(struct log *l, const uint64_t *ids, size_t n);
void runs_name(struct log *l, const uint64_t *ids, size_t n);
HF_CHECK enum hf_err run_begin(struct engine *engine, uint64_t bucket, struct engine_run_writer **out);
HF_CHECK enum hf_err run_append(struct engine_run_writer *base, const void *p, size_t n);
void run_seal(struct engine_run_writer *base, uint64_t *id, engine_done *done, void *arg);
void run_abort(struct engine_run_writer *base);
void run_each(struct engine *engine, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
              void *arg);
HF_CHECK enum hf_err run_prove(struct log *l, uint64_t *id, uint64_t *block, uint64_t most, uint64_t *read);
HF_CHECK enum hf_err run_read(struct engine *engine, uint64_t id, uint64_t offset, void *p, size_t n);

/* log_engine.c */
extern const struct engine_ops log_engine_ops;
void watches_attach(struct topic *t, struct log *l);
void watches_free(struct log *l);

/* read.c */
HF_CHECK enum hf_err read_header(struct segment *s, uint64_t pos, uint64_t limit, struct batch_info *out);

#endif
