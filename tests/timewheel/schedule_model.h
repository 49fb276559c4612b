/* The naive model of the schedule, for tests: one rule. Records in order of acceptance; an operation accepted
 * at or after the due time of its victim is too late; what has been over for longer than ids are remembered is
 * unknown to it. From it follow the outcome of each operation and the
 * order of each destination. Shares no code with the schedule.
 *
 * Recurring schedules: when a run fires depends on more than the log, but then its next run is in the log, in
 * the same step. So the model takes the schedule's own records (hf-op: next) as they come, and says what may
 * be in them: a run has one successor, it has one if and only if it has been decided, and the time of that
 * is the first one after both the run and the present.
 *
 * With hf-cron-overlap: skip the successor says, too, whether its run was delivered or left out: hf-cron-last
 * names the last one delivered, so it changes if and only if the run was. The simulation tells what the group
 * had committed in the moment of the decision; it was to be left out if and only if that did not lie behind the
 * record of the last one delivered. */
#ifndef TESTS_TIMEWHEEL_SCHEDULE_MODEL_H
#define TESTS_TIMEWHEEL_SCHEDULE_MODEL_H

#include "store/engine/engine.h"
#include "timewheel/schedule/schedule.h"

/* Operations, and with the next runs of recurring ones. */
enum { ACTS_MAX = 600, OPS_MAX = 5000, IDS = 6, TOPICS = 3, GROUPS = 2, OP_HEADERS = 16 };

extern const char *const model_topics[TOPICS];
extern const int32_t model_partitions[TOPICS];
extern const char *const model_groups[GROUPS];

enum kind { PLAIN, KEEP, ONCE, CANCEL, MOVE, NEXT };
enum end { LIVE, DEAD, NONE };

struct last_run { /* what hf-cron-last says */
    bool known;
    int64_t partition, end, due_ms;
};

struct op {
    enum kind kind;
    int topic, id;      /* id -1: none */
    int64_t due, delay; /* one of them -1 */
    uint64_t expect;
    int key;
    int32_t partition; /* asked for; -1: none */
    int series;        /* recurring: which expression, from 1; 0: it is not */
    int group;         /* hf-cron-overlap: skip, by what this group has committed, from 1; 0: allow */
    struct last_run last;
    /* once accepted */
    bool accepted, lost;         /* lost: the server died before it was safe */
    int32_t source, destination; /* partitions */
    int64_t offset, at_ms;
    uint64_t seq;
    int64_t asked_ms, place_due;
    int64_t ended_ms;  /* when it was cancelled */
    struct op *root;   /* whose number its value is: itself, or the first run */
    struct op *next;   /* run, or this one with another time */
    struct op *before; /* of one that is not to overlap: the last run delivered before it */
    bool over;         /* of a recurring one: cancelled while it ran */
    bool left_out;     /* instead of delivered: so says its next run */
    bool decided;      /* … and a commit that does so has begun; the last one: */
    int64_t committed; /* by its group then; -1: nothing */
    bool delivered;    /* seen in its destination */
    int64_t arrived;   /* at this offset */
    enum end end;
    enum schedule_outcome outcome;
};

struct model {
    uint64_t random;
    bool recurs;       /* some recur */
    int64_t memory_ms; /* how long finished ids are known; 0: longer than anything takes */
    bool absolute; /* no delays, only due times: the wall clock is set, and a delay waits for the other one */
    struct op ops[OPS_MAX];
    size_t op_count, op_accepted, acts;
    struct op *by_seq[OPS_MAX];
};

uint64_t model_random(uint64_t *s);
bool model_chance(struct model *m, unsigned percent);

/* A new operation at this time; NULL when there are enough. */
struct op *model_act(struct model *m, int64_t wall_ms);
int64_t model_delay(struct model *m);
/* When the clocks of one of the zones that series live in are put forward or back. */
int64_t model_clock_change(uint64_t random);
/* One that ends a recurring schedule; NULL when there is none left. */
struct op *model_end_series(struct model *m);

/* The record of an operation. Its value is the operation's number. */
struct op_record {
    hf_str key, value;
    struct hf_header headers[OP_HEADERS];
    size_t header_count;
    char texts[11][64];
};
void model_record(const struct model *m, const struct op *o, struct op_record *out);
/* Whose record this is; NULL: no operation's. */
struct op *model_sent(struct model *m, const struct engine_record *r);
struct op *model_op_of(struct model *m, hf_str value);
/* The accepted one with this sequence, or NULL. */
struct op *model_of_sequence(struct model *m, uint64_t seq);
/* {NULL, 0} if it is not there exactly once. */
hf_str model_header(const struct hf_header *headers, size_t n, const char *name);
int64_t model_header_number(const struct hf_header *headers, size_t n, const char *name); /* -1: none */

/* A record of holdfast.delay that no operation wrote: the next run of a recurring one. NULL: it is none, or
 * not as it should be, which *why tells. */
struct op *model_next_run(struct model *m, const struct engine_record *r, const char **why);
/* The operation whose message this delivered record is; NULL: none's. */
struct op *model_delivered(struct model *m, const struct engine_record *r);
/* NULL: every run that was delivered or left out has its next one, no other has, and those were left out that
 * were to be. */
const char *model_check_runs(const struct model *m);
/* A run that is due by then and was neither delivered nor left out; NULL: none. */
const struct op *model_run_to_come(const struct model *m, int64_t by_ms);
/* When the last of them is due; -1: none is to come. */
int64_t model_last_run_due(const struct model *m);

/* The next record in order of acceptance; its fields from `accepted` on are filled in. */
void model_accept(struct model *m, struct op *o);

/* What a partition is to hold, in order; returns how many. */
size_t model_expected(struct model *m, int topic, int32_t partition, struct op **out);
void model_sort(struct op **ops, size_t n);

/* NULL: the moved record is as it should be; else what is wrong. */
const char *model_check_moved(const struct op *o, const struct engine_record *r);

#endif
