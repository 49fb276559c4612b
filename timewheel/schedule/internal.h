/* What the files of the schedule share. The story is told in schedule.c. */
#ifndef TIMEWHEEL_SCHEDULE_INTERNAL_H
#define TIMEWHEEL_SCHEDULE_INTERNAL_H

#include "schedule.h"

#include "env/env.h" /* hf_mutate only */
#include "timewheel/cron/cron.h"
#include "timewheel/wheel/wheel.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include <assert.h>
#include <stdlib.h>

/* ---- places ---- */

struct place {
    int64_t due;
    uint64_t seq;
};

static inline bool place_before(struct place a, struct place b) {
    return a.due < b.due || (a.due == b.due && a.seq < b.seq);
}
static inline bool place_same(struct place a, struct place b) {
    return a.due == b.due && a.seq == b.seq;
}
static inline int place_cmp(struct place a, struct place b) {
    return place_before(a, b) ? -1 : place_before(b, a);
}
#define PLACE_END ((struct place){INT64_MAX, UINT64_MAX})

/* ---- bytes ---- */

struct bytes {
    const char *p, *end;
};

static inline struct bytes bytes_of(hf_str s) {
    return (struct bytes){s.p, s.p + s.n};
}

/* hf_read_uvarint64 without its sticky error: this is the hot loop of firing and merging. */
static inline bool take_uvarint(struct bytes *r, uint64_t *out) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && r->p < r->end; shift += 7) {
        uint8_t byte = (uint8_t)*r->p++;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}

/* ---- message.c ---- */

enum entry_flags {
    ENTRY_TOMBSTONE = 1, /* the message at this place was cancelled or replaced */
    ENTRY_RELATIVE = 2,  /* asked for by hf-delay: waits for the monotonic clock too */
    ENTRY_CREATED = 4,
    ENTRY_NAMED = 8,
    ENTRY_ID = 16,
    ENTRY_KEY = 32,
    ENTRY_VALUE = 64,
    ENTRY_CRON = 128, /* recurring: the headers that say so are among the others */
};

struct message {
    struct place place;
    uint8_t flags;
    int64_t asked_ms, accepted_ms;
    int32_t source_partition;
    int64_t source_offset;
    int32_t partition; /* -1: none asked for */
    hf_str topic, id, key, value;
};

/* Appends the body of an entry (all but its size). m->flags: RELATIVE and CRON only; the rest is found out. A
 * destination of ours marks a record that is no schedule at all: it goes to holdfast.rejected as it is. */
HF_CHECK enum hf_err entry_encode(struct hf_buf *b, const struct message *m, const struct hf_header *headers,
                                  size_t n);
void entry_encode_tombstone(struct hf_buf *b, struct place victim);

/* False: no entry. */
bool entry_head(hf_str body, struct place *place, uint8_t *flags);

/* HF_ECORRUPT, also for a tombstone. Strings are borrowed from body. */
HF_CHECK enum hf_err entry_decode(hf_str body, struct message *m,
                                  struct hf_header headers[ENGINE_HEADERS_MAX], size_t *header_count);

/* ---- run.c: sorted files ---- */

enum run_kind { RUN_MESSAGES = 1, RUN_IDS = 2 };

struct run_block {
    struct place first;
    uint64_t offset;
    uint32_t size;     /* with its header */
    uint32_t messages; /* entries that are no tombstones */
    uint32_t tombstones;
};

struct run {
    uint64_t id, bytes;
    enum run_kind kind;
    uint8_t tier;
    uint64_t group; /* runs of one merge: ascending, not overlapping; they count as one */
    struct place first, last;
    uint64_t messages, tombstones;
    struct run_block *blocks;
    uint32_t block_count;
    uint8_t *bloom; /* ids only */
    uint32_t bloom_bytes;
    uint64_t pending_bytes; /* ids only: of entries that pended when they were written */
    bool merging;           /* an input of the merge under way */
    bool dropping;          /* a commit that ends it has started */
};

struct run_cursor {
    struct engine *engine;
    struct run *run;
    uint32_t next_block;
    uint8_t *block; /* NULL: the head is run->first, not read yet */
    size_t block_cap;
    struct bytes rest; /* of the block */
    struct place head; /* PLACE_END: exhausted */
    uint8_t head_flags;
    hf_str body;        /* of the head, if block */
    uint64_t before[2]; /* messages and tombstones that lie before the head */
};

enum hf_err run_open(struct engine *e, uint64_t id, uint64_t bytes, struct run **out);
void run_close(struct run *r);

/* On the first entry behind `after`. Reads nothing if that is the run's first. */
HF_CHECK enum hf_err run_cursor_open(struct run_cursor *c, struct engine *e, struct run *r,
                                     struct place after);
void run_cursor_close(struct run_cursor *c);
/* Makes sure that head_flags and body are there. */
HF_CHECK enum hf_err run_cursor_load(struct run_cursor *c);
/* Loads and steps over the head. */
HF_CHECK enum hf_err run_cursor_next(struct run_cursor *c);

struct run_writer {
    struct engine *engine;
    struct engine_run_writer *w;
    enum run_kind kind;
    uint8_t tier;
    uint64_t group;
    size_t block_bytes;
    struct hf_buf block, index, hashes;
    struct place first, last;
    uint64_t messages, tombstones, written;
    uint64_t pending_bytes; /* the caller counts */
    uint32_t block_messages, block_tombstones, blocks;
    struct place block_first;
    /* sealing */
    bool sealing, sealed;
    uint64_t id, bytes;
    enum hf_err seal_result;
    size_t *under_way; /* counts completions that are to come */
};

HF_CHECK enum hf_err run_writer_begin(struct run_writer *w, struct engine *e, enum run_kind kind,
                                      uint8_t tier, uint64_t group, uint64_t bucket, size_t block_bytes);
/* Places ascend. hash: of an id's key, for RUN_IDS. */
HF_CHECK enum hf_err run_writer_add(struct run_writer *w, hf_str body, uint64_t hash);
/* Writes what remains and starts to seal; sealed and seal_result tell the end. */
HF_CHECK enum hf_err run_writer_seal(struct run_writer *w, size_t *under_way);
/* At any time but while sealing. discard: a run that was sealed is not wanted. */
void run_writer_end(struct run_writer *w);
void run_writer_discard(struct run_writer *w);

bool run_may_have(const struct run *r, uint64_t hash);
void run_prefetch(const struct run *r, uint64_t hash); /* what run_may_have will look at */

/* ---- gather.c: messages in memory ---- */

struct chunk;

struct item { /* an entry in memory; the body follows */
    struct chunk *chunk;
    struct place place;
    uint32_t size; /* of the body */
    bool dead;     /* cancelled or replaced */
};
static inline hf_str item_body(const struct item *i) {
    return hf_str_make(i + 1, i->size);
}

struct tombstone { /* of a victim that is not in the same gathering */
    struct place victim;
    UT_hash_handle hh; /* by victim.seq */
};

enum id_kind { ID_PENDING, ID_CANCELLED, ID_OUTCOME, ID_RECURRING };

struct id_entry {
    UT_hash_handle hh;  /* by key */
    uint64_t hash;      /* 63 bits */
    uint64_t seq;       /* of the operation that wrote this */
    struct place place; /* ID_PENDING, ID_RECURRING, ID_CANCELLED: the message */
    int64_t at_ms;      /* when cancelled, or when the operation was accepted */
    struct item *item;  /* in the same gathering, while pending; else NULL */
    uint8_t kind, outcome;
    uint32_t size; /* of the message, while it pends */
    uint32_t key_size;
    char key[];
};

/* What was read from holdfast.delay since a position: the active one takes in; the frozen one is sorted and
 * being written to a run. */
struct gather {
    struct wheel *wheel;         /* active; payloads are items */
    struct wheel_timer due[256]; /* taken from the wheel, not yet fired */
    size_t due_at, due_count;
    struct chunk *chunks; /* newest first */
    struct item **sorted; /* frozen: by place */
    size_t sorted_at, sorted_count;
    struct tombstone *tombstones;
    uint64_t tombstones_met; /* of these, how many firing has passed */
    struct id_entry *ids;
    size_t bytes;                   /* chunks, tombstones, ids */
    uint64_t live;                  /* items neither fired nor dead */
    uint64_t records, record_bytes; /* read from the topic */
};

/* For places behind the mark. */
HF_CHECK enum hf_err gather_open(struct place mark, struct gather **out);
void gather_close(struct gather *g);
size_t gather_memory(const struct gather *g);

HF_CHECK enum hf_err gather_add(struct gather *g, struct place place, hf_str body, struct item **out);
void gather_kill(struct gather *g, struct item *i);
HF_CHECK enum hf_err gather_bury(struct gather *g, struct place victim);
bool gather_buried(const struct gather *g, struct place p);

/* Active or frozen: the next live item with due <= limit, or NULL; it stays the head until it is taken. */
struct item *gather_head(struct gather *g, int64_t limit);
void gather_take(struct gather *g, struct item *head); /* frees it, if active */

/* The wheel's items become a sorted array. */
HF_CHECK enum hf_err gather_freeze(struct gather *g);
/* Tombstones by place; the caller frees the array. */
HF_CHECK enum hf_err gather_tombstones(const struct gather *g, struct place **out, size_t *n);
void gather_each(const struct gather *g, void (*fn)(void *arg, struct item *i), void *arg); /* live ones */

/* ---- ids.c ---- */

struct id_state {
    bool found;
    uint8_t kind, outcome;
    uint64_t seq;
    struct place place;
    int64_t at_ms;
    uint32_t size;
    struct item *item; /* of the active gathering */
};

void id_key(struct hf_buf *b, hf_str topic, hf_str id);
void outcome_key(struct hf_buf *b, int32_t partition, int64_t offset);
uint64_t id_hash(hf_str key);
/* Writes or replaces what is known of a key. */
HF_CHECK enum hf_err id_put(struct gather *g, hf_str key, const struct id_entry *what);
HF_CHECK enum hf_err id_get(struct schedule *s, hf_str key, struct id_state *out);
/* Body of an entry of a run of ids, and back. */
void id_encode(struct hf_buf *b, const struct id_entry *e);
HF_CHECK enum hf_err id_decode(hf_str body, struct id_entry *e, hf_str *key);
static inline bool id_pends(const struct id_entry *e, int64_t at_ms) {
    return e->kind == ID_PENDING && e->place.due > at_ms;
}
HF_CHECK enum hf_err id_sorted(const struct gather *g, struct id_entry ***out, size_t *n);

#endif
