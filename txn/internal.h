/* What the coordinator's files share. The story is told at the top of coordinator.c.
 *
 *     coordinator.c  open, step, close                 intake.c  records in, states changed
 *     table.c        transactions, their timers        flush.c   the one commit under way
 *     stored.c       what a restart finds              move.c    half messages out
 *     view.c         questions                         check.c   check-back */
#ifndef TXN_INTERNAL_H
#define TXN_INTERNAL_H

#include "base/arena.h"
#include "base/control.h"
#include "base/names.h"
#include "decided.h"
#include "env/env.h" /* hf_mutate only */
#include "timewheel/wheel/wheel.h"
#include "txn.h"

#define HASH_NONFATAL_OOM      1
#define uthash_nonfatal_oom(e) ((void)(e)) /* the element's table stays NULL: the caller looks */
#include <uthash.h>
#include <utlist.h>

enum {
    STORED_HALF = 32,           /* bytes of a half message in its transaction's stored form, at most */
    EXCEPTION_ID_MAX = 200,     /* bytes of an id that are kept of an exception */
    READ_PER_STEP = 2048,       /* records processed by one step */
    DIRTY_BYTES_MAX = 1 << 20,  /* state that waits to be stored: then reading waits */
    EFFECT_BYTES_MAX = 6 << 20, /* bodies in one commit */
    EFFECTS_MAX = 8192,         /* records out of one commit */
    ADDED_PER_HALF = 1024,      /* bytes that a move's own headers may add to a record */
    CHECK_GROUPS_MAX = 10000,   /* producer groups with a check topic */
    WAITERS_MAX = 256,          /* operators' decisions that wait */
    LAZY_MS = 1000,             /* prepares alone are stored this late at the latest */
    CHUNKS_FORGOTTEN_MAX = 64,  /* by one commit */
    TOPIC_RETRY_MS = 20,        /* a topic is being created */
    HOLD_MS = 20,               /* no room, or the engine is busy: try again then */
    HOLD_MS_MAX = 1000,         /* and later each time, up to this */
    DAMAGE_RETRY_MS = 30000,
    ATTENDED_MAX = 64, /* effects that go one at a time after a refused commit */
};

#define NEVER_MS INT64_MAX

/* A half message: where it lies. */
struct half {
    struct half *next;           /* of the same transaction, in order of acceptance */
    struct half *before, *after; /* in the same partition, ascending by offset */
    int64_t offset;
    uint64_t message; /* hash of its hf-message-id; 0: it has none */
    uint32_t bytes;
    int32_t partition;
};

enum queue { QUEUE_NONE, QUEUE_MOVES, QUEUE_CHECKS };

struct check_topic;

/* A transaction that is not finished: prepared, parked, or decided and not yet moved or forgotten. */
struct live {
    UT_hash_handle hh; /* by key, in order of sequence */
    struct half *halves, *last_half;
    uint32_t half_count;
    uint64_t bytes;

    uint64_t sequence; /* of its first record */
    int64_t created_ms, last_prepare_ms, check_after_ms, decided_ms;
    enum txn_state state;

    int32_t sent, counted; /* checks put on the topic, and read by the group; sent - counted is 0 or 1 */
    bool outstanding;      /* sent and not read: in a lane */
    bool asking;           /* its check is in the commit under way */
    bool again;            /* the check to be sent is one that was lost: not a new attempt */
    bool bare;             /* its first half message does not fit into a check: send it without */
    struct check_topic *check_topic;
    struct live *lane_prev, *lane_next;
    int32_t check_partition;
    int64_t check_offset;

    enum hf_err stuck; /* a move failed for this reason */
    bool unfit;        /* a record of it fits into no destination: it goes to holdfast.rejected */

    uint32_t slot;    /* its name in timers */
    int64_t wake_ms;  /* when it wants to be looked at; NEVER_MS */
    int64_t armed_ms; /* the earliest timer in the wheel for it; NEVER_MS */

    enum queue queue;
    struct live *queue_prev, *queue_next;
    bool dirty;  /* differs from what is stored */
    bool stored; /* a state key of it exists */
    struct live *dirty_prev, *dirty_next;
    bool flying; /* ends with the commit under way */
    struct live *flight_next;
    int64_t flight_ordinal; /* of its check in its partition within the commit */

    uint16_t group_n, id_n;
    char key[]; /* group 0x00 id */
};

static inline hf_str live_group(const struct live *x) {
    return hf_str_make(x->key, x->group_n);
}
static inline hf_str live_id(const struct live *x) {
    return hf_str_make(x->key + x->group_n + 1, x->id_n);
}

struct slot {
    struct live *x;
    uint32_t generation; /* grows with each use: timers of earlier ones are void */
    uint32_t next_free;
};

/* One partition of holdfast.txn. */
struct input {
    struct engine_cursor *records, *bodies;
    struct engine_record head;
    bool has_head;
    int64_t next;    /* every record below is processed */
    int64_t durable; /* and below this its effects are stored */
    int64_t released;
    struct half *first, *last; /* of unfinished transactions */
    int64_t retry_ms;          /* damaged there: look again then */
};

/* One partition of a check topic. */
struct check_lane {
    struct check_topic *topic;
    struct live *waiting; /* outstanding checks, ascending by offset */
    int64_t low;          /* read by the group below this */
    bool releasing;       /* in txn.releases: the topic's start is to move there */
    struct check_lane *release_next;
    int64_t batch; /* checks in the commit under way */
};

struct check_topic {
    UT_hash_handle hh; /* by group */
    struct check_lane *lanes;
    int32_t partitions;
    uint32_t outstanding;
    hf_str name, group; /* inside text */
    char text[];
};

struct exception {
    uint64_t number;
    uint64_t sequence;
    int64_t time_ms;
    int32_t partition;
    int64_t offset;
    enum txn_outcome outcome;
    uint16_t group_n, id_n;
    char text[HF_TOPIC_NAME_MAX + EXCEPTION_ID_MAX]; /* group, then id */
};

struct waiter {
    struct waiter *next;
    txn_decided_done *done;
    void *arg;
    enum txn_outcome outcome;
    enum hf_err e;
    bool covered; /* by the commit under way */
    bool ready;
};

/* A commit while it is put together, and while it is under way. */
struct flight {
    bool on;
    struct hf_arena arena;
    struct engine_out *outs;
    size_t out_count, out_room;
    struct engine_put *puts;
    size_t put_count, put_room;
    struct engine_low_water *lows;
    size_t low_count, low_room;
    size_t effect_bytes;
    enum hf_err e;       /* memory ran out while it was put together */
    struct live *ending; /* moved or rolled back with it, in order */
    struct live **ending_tail;
    struct live *checks; /* whose check is in it, in order */
    struct live **checks_tail;
    uint32_t effects;
    size_t decided_before; /* chunk from which on chunks have to be stored */
    size_t words, forgotten;
    uint64_t exceptions; /* stored with it: numbers below this */
    int64_t applied[TXN_PARTITIONS_MAX];
    uint64_t moved_halves, moved, rejected;
};

struct txn {
    struct engine *engine;
    struct txn_options o;
    int64_t now_ms;
    enum hf_err failed;
    bool wants, asked;
    bool loaded; /* what is stored is in memory */

    struct live *table;
    uint64_t bytes; /* of all halves */
    struct slot *slots;
    uint32_t slot_count, slot_room, slot_free;
    struct wheel *wheel;
    bool unarmed;                /* a timer is missing, for want of memory */
    struct live *moves, *checks; /* queues */
    struct live *dirty;
    size_t dirty_bytes;
    int64_t dirty_since_ms;

    struct input *inputs;
    int32_t input_count; /* 0: holdfast.txn does not serve yet */

    struct check_topic *check_topics;
    struct check_lane *releases;
    uint64_t outstanding;
    int64_t poll_ms; /* when to ask what the groups have read */

    struct txn_decided decided;
    struct exception *exceptions[TXN_EXCEPTIONS_MAX]; /* number modulo size */
    uint64_t exception_next;                          /* number of the next one */
    uint64_t exception_stored;                        /* numbers below are durable */

    struct flight flight;
    int64_t hold_ms; /* no commit before */
    int64_t hold_for_ms;
    uint32_t attended; /* effects left that go one at a time */
    struct waiter *waiters;
    uint32_t waiter_count;
    struct txn_stats stats;
};

/* ---- table.c ---- */

struct live *live_find(struct txn *t, hf_str group, hf_str id);
/* NULL: no memory. */
struct live *live_new(struct txn *t, hf_str group, hf_str id, uint64_t sequence);
void live_free(struct txn *t, struct live *x);
void live_set_state(struct txn *t, struct live *x, enum txn_state next);
/* Takes the half, as the transaction's last. */
void live_add_half(struct txn *t, struct live *x, struct half *h);
/* Puts it at the end of its partition's list. */
void half_link(struct txn *t, struct half *h);
bool live_has_message(const struct live *x, uint64_t message);
void live_dirty(struct txn *t, struct live *x);
void live_clean(struct txn *t, struct live *x);
void live_queue(struct txn *t, struct live *x, enum queue q);
/* Replaces what was planned; NEVER_MS: nothing. */
void live_wake_at(struct txn *t, struct live *x, int64_t at_ms);
/* Calls due(t, x) for each whose time has come. */
void live_expire(struct txn *t, void (*due)(struct txn *t, struct live *x));
void live_clear(struct txn *t); /* all */

/* ---- intake.c ---- */

enum hf_err intake_open(struct txn *t);
void intake_close(struct txn *t);
/* Returns whether there may be more to read at once. */
bool intake_read(struct txn *t);
int64_t intake_next_ms(const struct txn *t);
/* A decision, by record or operator. */
enum txn_outcome intake_decide(struct txn *t, hf_str group, hf_str id, enum txn_event event, int64_t when_ms);

/* ---- exceptions, in view.c ---- */

/* Before a record is processed: memory for what may have to be said of it. */
enum hf_err exception_ready(struct txn *t);
void exception_add(struct txn *t, const struct engine_record *r, int32_t partition, hf_str group,
                   enum txn_outcome outcome);
bool exceptions_full(const struct txn *t); /* the oldest is not stored yet */

/* ---- move.c ---- */

void move_collect(struct txn *t, struct flight *f);
/* The commit with it alone was refused. */
void move_blamed(struct txn *t, struct live *x, enum hf_err e);

/* The body of a half message, borrowed until the next one is read. */
enum hf_err move_read(struct txn *t, const struct half *h, struct engine_record *r);

/* ---- check.c ---- */

void check_collect(struct txn *t, struct flight *f);
void check_unsent(struct flight *f);              /* the commit did not start */
void check_sent(struct txn *t, struct flight *f); /* the commit is durable */
void check_released(struct txn *t);               /* it takes the low waters along */
void check_blamed(struct txn *t, struct live *x, enum hf_err e);
void check_forget(struct txn *t, struct live *x); /* leaves its lane, if it is in one */
void check_due(struct txn *t, struct live *x);    /* its timer fired */
void check_plan(struct txn *t, struct live *x);   /* after a prepare */
void check_poll(struct txn *t);
enum hf_err check_restore(struct txn *t, struct live *x); /* at start: one may be outstanding */
void check_close(struct txn *t);

/* ---- flush.c ---- */

bool flush_urgent(const struct txn *t);
void flush_start(struct txn *t);
void flush_close(struct txn *t);

/* While a commit is put together. NULL and f->e: no memory. */
struct engine_out *flight_out(struct flight *f);
struct engine_put *flight_put(struct flight *f);
/* x is finished when the commit is durable. */
void flight_ends(struct flight *f, struct live *x);
bool flight_room(const struct flight *f, size_t outs, size_t bytes);

/* ---- stored.c ---- */

enum hf_err stored_load(struct txn *t);
void stored_live(struct flight *f, const struct live *x);
void stored_live_gone(struct flight *f, const struct live *x);
void stored_applied(struct txn *t, struct flight *f);
void stored_exception(struct flight *f, const struct exception *e);
void stored_chunk(struct flight *f, const struct txn_chunk *c);
void stored_chunk_gone(struct flight *f, uint64_t number);

/* ---- coordinator.c ---- */

void txn_tell(struct txn *t, const char *name, const char *fmt, ...) HF_PRINTF(3, 4);

/* Forgets everything and loads it again from the engine: a commit that had started did not happen. */
void txn_reload(struct txn *t);
void txn_fail(struct txn *t, enum hf_err e, const char *where);

#endif
