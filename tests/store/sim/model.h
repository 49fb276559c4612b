/* What the store was asked, what it answered and what it showed, and so what must be there after a crash.
 * Shares no code with the store, and knows nothing of how it works.
 *
 * The promises, as checks by number, which a violation names:
 *
 *   M1   an answered message is there after process death; one answered as durable after any crash
 *   M2   what a reader saw is there after a crash, but for acks≤1 messages after power loss
 *   M3   no message is there twice, none that was refused, none that was lost comes back by itself
 *   M4   an offset that was ever answered or shown never means another message
 *   M5   below a message that is kept, every earlier one of its partition is kept
 *   M6   a commit's records are there all or none, its puts with them, and commits form a prefix
 *   M7   a retry of an idempotent producer is answered with the original's offset if that is there
 *   M8   bytes come back as they were sent
 *   M9   an order of acceptance, once seen, stays, and time never goes back along it
 *   M10  a topic is there if its creation was answered and its deletion was not; a new one has a new id
 *   M11  a run that a commit named is there with its bytes, one that no commit named is not
 *   M12  the end of a partition never goes back below what was given out
 *   M14  the start of a partition never goes back; what is below it was deleted by a client, or is what the
 *        topic's retention let go
 *   M15  a topic's settings are those of the last change that was answered, or of a later one
 *   M16  compaction takes a record only for a later one with its key, that is there, or deletes the key; what
 *        it took never comes back; a deletion goes only after what it deletes
 *   M13  leader epochs rise along offsets and are listed; look-ups by time give the first such record
 *
 * M0 is everything else: a store that does not open, or fails without a fault. */
#ifndef TESTS_STORE_SIM_MODEL_H
#define TESTS_STORE_SIM_MODEL_H

#include "kbatch.h"

enum {
    TOPICS = 5,
    PARTITIONS = 3, /* of one topic, at most */
    MESSAGES_MAX = 8192,
    COMMITS_MAX = 2048,
    BURNT_MAX = 4096,
    STATE_KEYS = 10,
    RUNS_MAX = 256,
    MODEL_MESSAGE_RECORDS = 5,
};

enum fate {
    FATE_WAITING,  /* asked, no answer yet */
    FATE_ANSWERED, /* with HF_OK */
    FATE_REFUSED,  /* at once, or by an answer that says so: never there */
    FATE_UNKNOWN,  /* the machine crashed before the answer, or the log failed */
    FATE_KEPT,     /* unknown, and was there after the crash */
    FATE_LOST,     /* was not there after a crash, and did not have to be */
};

struct message {
    uint32_t id; /* its index + 1 */
    int topic, partition;
    uint32_t generation; /* of the topic */
    enum fate fate;
    bool wants_durable; /* acks=all, a commit's, or on an internal topic */
    bool durable;       /* must survive loss of power */
    bool expected;      /* must survive process death */
    bool seen;
    int64_t base;  /* -1: not known */
    int64_t floor; /* base is at least this */
    uint32_t count;
    uint32_t compacted; /* records that compaction took */
    uint32_t found;     /* records seen in the present sweep */
    int32_t commit;     /* -1: none */
    struct kproducer producer;
    int64_t time_ms;   /* of its records; -1: the log's choice */
    uint64_t sequence; /* order of acceptance of its first record; 0: not known */
};

enum topic_phase { TOPIC_NONE, TOPIC_CREATING, TOPIC_LIVE, TOPIC_DELETING };

struct model_topic {
    char name[32];
    bool internal, append_time, compacted;
    int first_partitions;       /* as it is created; it may grow */
    int partitions, grow_asked; /* known to be there, and asked for (0: not) */
    enum topic_phase phase;
    bool unsure; /* a crash came before the answer to create or delete */
    uint32_t generation;
    uint8_t uuid[16];
    bool uuid_known;
    int64_t released[PARTITIONS]; /* records below may be gone */
    int64_t asked[PARTITIONS];    /* by commits not yet answered, the highest */
    int64_t keep_ms, keep_bytes;  /* the least that it was ever told to keep; INT64_MAX: all */
    int64_t altered, alter_asked; /* numbers of the last change that was answered, and asked for */
};

struct commit_run {
    uint64_t id, bucket;
    uint32_t bytes;
    uint32_t seed;
    enum { RUN_SEALING, RUN_SEALED, RUN_NAMING, RUN_NAMED, RUN_DROPPING, RUN_GONE } phase;
};

struct model_commit {
    enum fate fate;
    bool empty; /* a low-water at most, which may change nothing: its place among the others is free */
    int32_t puts[STATE_KEYS]; /* 0: none, 1: put, -1: delete */
    int topic_key;            /* put "g/<topic>"; -1: none */
    uint32_t topic_generation;
    uint32_t first, count; /* messages */
    int low_topic, low_partition;
    int64_t low;                /* -1: none */
    int run_added, run_dropped; /* -1: none */
};

struct burnt {
    int topic, partition;
    uint32_t generation;
    int64_t base;
    uint32_t count, id;
};

struct model {
    uint64_t seed;
    bool broken; /* a violation was reported */
    char violation[400];
    struct message messages[MESSAGES_MAX];
    uint32_t message_count;
    struct model_topic topics[TOPICS];
    struct model_commit commits[COMMITS_MAX];
    uint32_t commit_count, settled; /* commits before `settled` have their final fate */
    struct burnt burnt[BURNT_MAX];
    uint32_t burnt_count;
    int32_t state[STATE_KEYS]; /* commit whose put stands, + 1; 0: none */
    int32_t topic_keys[TOPICS];
    struct commit_run runs[RUNS_MAX];
    uint32_t run_count;
    int64_t wall_max_ms; /* what the clock showed at most */
    bool syncs_failed;   /* since the last start: clean pages may have left the cache */
    int64_t ids[64];     /* producer ids given out */
    uint32_t id_count;
};

void model_init(struct model *m, uint64_t seed);

/* Reports a violation, the first one only. */
void model_broken(struct model *m, const char *check, const char *fmt, ...) HF_PRINTF(3, 4);

/* ---- messages ---- */

/* NULL: the model is full. */
struct message *model_message(struct model *m, int topic, int partition, uint32_t count, bool wants_durable);
struct message *model_find(struct model *m, uint32_t id);
void model_answered(struct model *m, struct message *x, int64_t base, bool durable);
void model_unanswered(struct message *x);

/* A record came back from a read of this partition. `durable`: shown by a reader that shows only durable
 * ones. */
void model_shown(struct model *m, int topic, int partition, const struct krecord *r, bool durable);

/* Order of acceptance and time of a record of an internal topic; called in the order of offsets. */
void model_ordered(struct model *m, const struct krecord *r, uint64_t sequence);

/* ---- commits ---- */

struct model_commit *model_commit(struct model *m);
void model_committed(struct model *m, struct model_commit *c);
void model_uncommitted(struct model *m, struct model_commit *c, bool refused);

/* ---- after a crash: a sweep over everything that is there ---- */

/* 1. Whatever was under way is unknown now. */
void model_crashed(struct model *m);
/* 2. Topics are told one by one (model_topic_is), then every record of every partition. */
void model_topic_is(struct model *m, int topic, bool there, const uint8_t uuid[16]);
/* M14, M1: a partition starts where commits, clients and retention allow; one that was not answered may have
 * moved it. */
void model_start_is(struct model *m, int topic, int partition, int64_t start);
/* M15 */
void model_altered_is(struct model *m, int topic, int64_t number);
/* M16 */
void model_partitions_are(struct model *m, int topic, int count);
void model_sweep_begin(struct model *m);
void model_sweep_record(struct model *m, int topic, int partition, const struct krecord *r);
/* 3. Decides every unknown; `power`: the crash was one. value_of tells what the store holds: under a key,
 * commit
 * + 1, 0 for none; of a run, 1 if it exists. */
enum model_thing { THING_STATE, THING_TOPIC_KEY, THING_RUN };
typedef int32_t model_value_of(void *arg, enum model_thing thing, int which);
void model_sweep_end(struct model *m, bool power, model_value_of *value_of, void *arg);

/* The first record that the last sweep found with a time of at least `ms`: -1 if there is none, -2 if some
 * times are not known. */
int64_t model_offset_at(const struct model *m, int topic, int partition, int64_t ms);

/* The largest offset + 1 that a partition ever gave out, as far as is known. */
int64_t model_high(const struct model *m, int topic, int partition);

#endif
