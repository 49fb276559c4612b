/* A segment: its file, its indexes, its manifest, and whether its bytes are what they were.
 *
 *     segment.c files    index.c offsets and times    manifest.c what a closed one must be    proof.c whether it is */
#ifndef STORE_LOG_SEGMENT_H
#define STORE_LOG_SEGMENT_H

#include "limits.h"
#include "store/engine/batch.h"

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
    uint64_t size;         /* bytes of batches, reserved room included */
    uint64_t allocated;    /* the file's size */
    uint64_t written_back; /* the kernel was told to write what lies below to the disk */
    struct hf_file *file;  /* NULL: closed */
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
void segment_writeback(struct segment *s, uint64_t upto);
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
struct proof_bytes { /* of a segment, read from the disk before: lent */
    uint8_t *p;
    uint64_t offset;
    size_t n;
};
void damage_tell(struct log *l, const struct log_damage *d);
void damage_in(struct segment *s, uint64_t byte, int64_t offset, const char *what);
HF_CHECK enum hf_err proof_first_look(struct segment *s, uint64_t file_size);
HF_CHECK enum hf_err proof_after_crash(struct segment *s, const struct index_sum want[INDEX_FILES],
                                       bool reserved);
bool proof_hole(struct segment *s);
HF_CHECK enum hf_err proof_at(struct segment *s, uint64_t pos);
HF_CHECK enum hf_err proof_of_indexes(struct segment *s);
HF_CHECK enum hf_err proof_stretch(struct segment *s, uint64_t pos, uint64_t *from, uint64_t *end);
HF_CHECK enum hf_err proof_again(struct segment *s, uint64_t *pos, const struct proof_bytes *have);
HF_CHECK enum hf_err proof_range(struct segment *s, uint64_t from, uint64_t to, uint64_t *good);

#endif
