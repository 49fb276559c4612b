/* The schedule's own state, for its files. */
#ifndef TIMEWHEEL_SCHEDULE_STATE_H
#define TIMEWHEEL_SCHEDULE_STATE_H

#include "internal.h"

#include "base/arena.h"

enum {
    COMMITS_MAX = 16,
    EPOCHS_MAX = 32,
    PARTITIONS_MAX = 64, /* of holdfast.delay */
    DROPS_MAX = 64,      /* runs dropped by one commit */
    RETRY_MS = 100,      /* after an error that may pass */
    CLOCK_JITTER_MS = 10,
    ENTRY_MAX = 32 << 20,
    SEARCH_ENTRIES = 100000, /* one page looks at so many */
    ZONES_MAX = 16,          /* kept open */
    TOUCHED_MAX = 16384,     /* destinations whose counts one checkpoint changes */
};

struct source { /* a run, and where firing reads it */
    struct run *run;
    struct run_cursor cursor; /* messages only */
};

struct reader { /* one partition of holdfast.delay */
    struct engine_cursor *cursor;
    struct engine_record record;
    bool peeked;
    int64_t next; /* offset after the last record processed */
};

struct epoch { /* from this sequence on, wall clock - monotonic clock was delta */
    uint64_t first_seq;
    int64_t delta_ms;
};

struct clock {
    int64_t inside_ms, wall_ms, mono_ms;
    int64_t trusted_delta_ms; /* the largest that was believed */
    bool started, leapt;
    struct epoch epochs[EPOCHS_MAX];
    size_t epoch_count;
    bool dirty; /* epochs are to be made durable */
};

struct amount {
    int64_t messages, bytes;
};

struct counts { /* how much pends for whom (counts.c) */
    struct topic_count *all, *last, *firing;
    struct amount total;
    size_t touched;
};

struct put_list { /* puts of one commit */
    struct engine_put *puts;
    size_t count, cap;
    struct hf_arena texts;
};

struct batch { /* what was taken to be fired, until its commit has started */
    struct hf_buf bodies;
    struct fired {
        size_t at, size;
        struct place place;
    } * fired;
    size_t count;
    size_t try_count;  /* how many the next commit takes; fewer after HF_ELIMIT */
    bool reject_first; /* even alone it was too large */
    struct hf_buf texts;
    struct hf_arena arena; /* texts and headers of recurring ones */
    struct hf_header *headers;
    size_t header_cap;
    struct engine_out *outs; /* up to two for each fired: a run, and the next */
    struct put_list puts;
};

/* What hf-delay: level1 and up mean. */
struct levels {
    size_t count;
    int64_t ms[HF_DELAY_LEVELS_MAX];
};

struct zone_slot {
    char name[HF_ZONE_MAX + 1];
    struct cron_zone *zone; /* NULL: free */
};

struct commit { /* under way */
    struct schedule *s;
    bool busy;
    struct place mark;
    uint64_t fired, rejected, held, skipped;
};

enum checkpoint_state {
    CHECKPOINT_IDLE,
    CHECKPOINT_MESSAGES, /* writing the frozen gathering's messages and tombstones */
    CHECKPOINT_IDS,      /* writing its ids */
    CHECKPOINT_COMMIT,   /* to be committed */
    CHECKPOINT_WAIT,     /* committing */
};

struct checkpoint {
    enum checkpoint_state state;
    int64_t next[PARTITIONS_MAX]; /* the log is needed from here on, once committed */
    int64_t at_ms;                /* when the last one began, inside time */
    struct place *tombstones;
    size_t tombstone_at, tombstone_count;
    size_t item_at;
    struct id_entry **ids;
    size_t id_at, id_count;
    struct run_writer writer; /* of the run being written, if `writing` */
    bool writing, durable;
    int64_t base_ms; /* acceptance of the last record before `next` */
    int64_t horizon_ms;
    struct levels levels; /* as of `next` */
    uint64_t added[2], added_bytes[2];
    size_t added_count;
};

enum merge_state { MERGE_IDLE, MERGE_COPY, MERGE_SEAL, MERGE_COMMIT, MERGE_WAIT };

struct merge {
    enum merge_state state;
    enum run_kind kind;
    uint8_t tier;
    uint64_t group;
    struct run_cursor *inputs;
    size_t input_count;
    struct run_writer writer;
    bool writing;
    bool last;          /* the output being sealed is the last */
    struct hf_buf held; /* one entry */
    size_t copied;      /* bytes of this slice */
    uint64_t left;      /* bytes that it may yet write */
    bool all_tiers;     /* as of: */
    int64_t base_ms;
    uint64_t checkpoints;
    struct run **outputs; /* sealed and open, not yet the schedule's */
    size_t output_count, output_cap;
};

struct schedule {
    struct engine *engine;
    struct schedule_options o;
    enum hf_err failed;
    bool rewinding;
    size_t under_way;      /* completions to come */
    int64_t retry_at_mono; /* nothing is tried again before */

    struct clock clock;
    struct reader readers[PARTITIONS_MAX];
    int32_t partitions;
    bool woken, caught_up;
    int64_t read_ms;   /* acceptance of the last record read */
    uint64_t read_seq; /* its sequence */
    int64_t stable_ms;
    int64_t base_ms;  /* acceptance of the last record before the durable checkpoint */
    int64_t limit_ms; /* everything due up to here may be fired */
    bool waiting;     /* the engine could not take what is due */

    struct place mark;    /* durable: everything up to here has been fired */
    struct place started; /* of the last commit that started */
    struct place taken;   /* of the last message taken to be fired */
    struct place buried;  /* the last tombstone met while firing */
    struct gather *active, *frozen;
    struct levels levels; /* for records read from now on */
    struct counts counts;
    struct source *runs;
    size_t run_count, run_cap;
    struct run **id_runs; /* those of ids among them */
    size_t id_run_count;
    size_t dropping_count;  /* runs that are being dropped */
    struct place first_end; /* the first place at which a run of messages is spent */
    bool merge_wanted;      /* something has changed since no merge was due */
    uint64_t next_group;
    int64_t id_horizon_ms;    /* for records read from now on */
    int64_t base_horizon_ms;  /* durable */
    int64_t id_merge_ms;      /* base at the last merge of all ids */
    uint64_t swept_at;        /* checkpoints until the last merge for tombstones' sake */
    int64_t merge_retry_mono; /* after one that found no room */
    bool merge_put_off;       /* and that was told */

    struct zone_slot zones[ZONES_MAX];
    size_t zone_next;

    struct batch batch;
    struct commit commits[COMMITS_MAX];
    size_t commits_under_way;
    struct checkpoint checkpoint;
    struct merge merge;

    uint64_t random;
    struct hf_buf scratch, key;
    struct hf_header headers[ENGINE_HEADERS_MAX + 1];
    struct schedule_stats count; /* the counters among them */
    struct rate {
        int64_t since_mono;
        uint64_t now, before; /* fired since then; a second, in the window before */
    } rate;
};

void schedule_tell(struct schedule *s, enum schedule_event what, const char *text);
/* Something failed that starting again from durable state mends (a commit, memory), or that it does not. */
void schedule_trouble(struct schedule *s, enum hf_err e, const char *what);
uint64_t schedule_random(struct schedule *s);
HF_CHECK enum hf_err schedule_open_run(struct schedule *s, uint64_t id, uint64_t bytes);
/* The run is the schedule's from now on; after an error it is the caller's still. */
HF_CHECK enum hf_err schedule_add_run(struct schedule *s, struct run *r);
void schedule_remove_run(struct schedule *s, uint64_t id);
/* After each change of s->runs, or of what one of them is in: keeps at hand what every step asks. */
void schedule_runs_changed(struct schedule *s);
/* Bytes of ids, and those of them that were finished when they were written. */
void schedule_id_bytes(const struct schedule *s, uint64_t *all, uint64_t *finished);

/* ---- clock.c ---- */
void inside_step(struct schedule *s, int64_t wall_ms, int64_t mono_ms);
/* How long a message asked for by a delay must still wait for the monotonic clock; 0: no longer. */
int64_t inside_hold(const struct schedule *s, struct place p);
void inside_epochs_encode(const struct schedule *s, struct hf_buf *b);
void inside_epochs_restore(struct schedule *s, hf_str value);

/* ---- due.c ---- */
size_t due_bucket(const struct schedule *s, int64_t due_ms);
void due_count_fired(struct schedule *s, uint64_t n);
uint64_t due_fired_per_second(const struct schedule *s);

/* ---- levels.c ---- */
/* "delay/base" carries the table: count u32, each i64. */
HF_CHECK enum hf_err levels_parse(hf_str table, struct levels *out);
void levels_encode(const struct levels *l, struct hf_buf *b);
void levels_read(struct levels *l, struct hf_reader *r);
int64_t levels_ms(const struct levels *l, int level); /* past the last: the last */

/* ---- recurring.c ---- */
struct recurring {
    hf_str cron, tz, group, last_run;
    bool skips;
};
bool recurring_header(hf_str name);
/* Takes the headers of the recurrence out; returns how many are left, in their order. */
size_t recurring_split(struct hf_header *headers, size_t n, struct recurring *out);
/* The first time after after_ms. HF_EINVAL: cron or tz has no meaning; HF_EEND: never again; HF_ENOMEM,
 * HF_EIO. */
HF_CHECK enum hf_err recurring_next(struct schedule *s, hf_str cron, hf_str tz, int64_t after_ms,
                                    int64_t *out);
/* Has the group not yet done the run before? identity: of the series. */
bool recurring_is_running(struct schedule *s, hf_str topic, const struct recurring *r, hf_str identity);
void recurring_close(struct schedule *s);

/* ---- counts.c ---- */
HF_CHECK enum hf_err counts_load(struct counts *t, struct engine *e);
void counts_unload(struct counts *t);
void counts_check(const struct counts *t);
/* A record was read: so much pends more, or less. */
HF_CHECK enum hf_err counts_add(struct counts *t, hf_str topic, int64_t messages, int64_t bytes);
void counts_freeze(struct counts *t);
/* What the commit being put together fires; counts_fired: it has started. */
void counts_fire_none(struct counts *t);
HF_CHECK enum hf_err counts_fire(struct counts *t, hf_str topic, size_t bytes);
HF_CHECK enum hf_err counts_put_fired(const struct counts *t, struct put_list *out);
void counts_fired(struct counts *t);
/* A checkpoint's commit; counts_settle: it has started. */
HF_CHECK enum hf_err counts_put_frozen(const struct counts *t, struct put_list *out);
void counts_settle(struct counts *t);
void put_list_begin(struct put_list *p);
/* key and value are borrowed. */
HF_CHECK enum hf_err put_list_add(struct put_list *p, hf_str key, hf_str value);
void put_list_fini(struct put_list *p);

/* ---- accept.c ---- */
HF_CHECK enum hf_err accept_slice(struct schedule *s, bool *more);

/* ---- fire.c ---- */
HF_CHECK enum hf_err fire_slice(struct schedule *s, bool *more);
int64_t fire_next(struct schedule *s); /* at or before the earliest pending place's due */
HF_CHECK enum hf_err batch_init(struct batch *b, const struct schedule_options *o);
void batch_fini(struct batch *b);

/* ---- checkpoint.c ---- */
HF_CHECK enum hf_err checkpoint_slice(struct schedule *s, bool *more);
void checkpoint_abort(struct schedule *s);
bool checkpoint_full(const struct schedule *s); /* no more may be read until it is through */

/* ---- merge.c ---- */
HF_CHECK enum hf_err merge_slice(struct schedule *s, bool *more);
void merge_abort(struct schedule *s);

#endif
