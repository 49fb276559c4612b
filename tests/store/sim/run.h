/* One seed: a machine, a store on it, a model beside it, and a random life for all three. */
#ifndef TESTS_STORE_SIM_RUN_H
#define TESTS_STORE_SIM_RUN_H

#include "model.h"

#include "env/sim.h"
#include "store/log/log.h"

enum {
    RUN_OPERATIONS = 200, /* at least, for each seed */
    RUN_CRASHES = 2,      /* likewise */
    RUN_LIVES_MAX = 60,
    ATTEMPTS_MAX = 4096,
    PRODUCERS = 3,
    PINS = 3,
    IN_FLIGHT = 5, /* batches of one idempotent producer without an answer */
};

struct run;

/* One call that will be answered. */
struct attempt {
    struct run *run;
    struct message *message;
    struct model_commit *commit;
    struct producer_sim *producer;
    bool durable;
    int topic; /* created, deleted, altered */
    int partition;
    int64_t number; /* of the change, or the new start */
};

/* A slice that a reader still holds. */
struct pinned {
    struct log_slice slice;
    uint64_t sum; /* of its bytes */
};

struct producer_sim {
    int64_t id; /* -1: asks for one */
    int topic, partition;
    uint32_t generation;
    bool durable; /* every batch with acks=all */
    int32_t next_sequence;
    struct message *recent[IN_FLIGHT]; /* last batches sent, in order */
    bool answered[IN_FLIGHT];
    size_t recent_count;
    size_t resend; /* after a crash: recent[resend …] are to be sent again; recent_count: none */
};

struct run {
    uint64_t seed;
    struct hf_sim *sim;
    struct hf_env *env;
    struct log *log;
    struct engine *engine;
    struct model *model;
    struct log_options options;
    struct attempt attempts[ATTEMPTS_MAX];
    size_t attempt_count;
    struct producer_sim producers[PRODUCERS];
    struct pinned pins[PINS];
    uint32_t operations, crashes;
    uint64_t durable_in_ten; /* how many plain appends ask for acks=all */
    bool verbose;
    bool power;   /* power was lost since the last look at everything */
    bool faulted; /* a fault struck before this life's own was armed */
    bool keyed;   /* much goes to the compacted topic */
    bool full;    /* the disk's capacity was cut */
    bool calm;    /* no faults but those that the caller asks for */
    bool swept;   /* the caller's fault strikes in this life, in its start too */
};

/* What happened over all seeds, to see that the workload reaches what it should. */
struct run_totals {
    uint64_t seeds, operations, crashes, power_losses, recoveries_crashed, messages, commits, reads, records,
        duplicates, resent, topics_created, topics_deleted, grown, altered, starts_moved, compactions,
        clean_stops, failures, checkpoints, lost, refused;
};

extern const char *const run_points[]; /* NULL-terminated */

/* Runs one seed; false if a promise was broken (model->violation says which). */
bool run_seed(struct run *r, struct model *m, uint64_t seed, struct hf_sim_hits *hits, bool verbose,
              struct run_totals *totals);

/* ---- the parts of a seed's life, for programs that lead it themselves (fault_sweep.c) ---- */

HF_CHECK bool run_made(struct run *r, struct model *m, uint64_t seed, struct hf_sim_hits *hits, bool verbose);
/* Opens the store and looks at everything. false: not open; crashed, failed or broken. */
HF_CHECK bool run_open(struct run *r, struct run_totals *totals);
bool run_struck(const struct run *r);
/* A clean stop. */
void run_close(struct run *r, struct run_totals *totals);
/* Throws away what a dead process held. */
void run_abandon(struct run *r);
void run_restart(struct run *r);
/* A start that must succeed, a stop, loss of power, and once more. */
void run_last_look(struct run *r, struct run_totals *totals);

/* ---- inside: work*.c do things, sweep.c looks at everything after a start ---- */

uint64_t run_below(struct run *r, uint64_t n);
static inline bool run_one_in(struct run *r, uint64_t n) {
    return run_below(r, n) == 0;
}
void run_note(struct run *r, const char *fmt, ...) HF_PRINTF(2, 3);

void work_start(struct run *r);  /* at the beginning of a seed */
void work_resume(struct run *r); /* after each start of the store */
void work_step(struct run *r, struct run_totals *totals);
void work_stop(struct run *r);                                   /* releases pins */
int64_t work_settings_number(const struct log_topic_info *info); /* of the change that made them */

/* Reads batches of a partition from `offset` on: at most one slice. Calls fn for each record, with the
 * message's bytes compared. *next is the offset behind the last batch; HF_EEND: nothing there. */
HF_CHECK enum hf_err sweep_slice(struct run *r, int topic, int partition, int64_t offset, size_t max_bytes,
                                 void (*fn)(struct run *r, int topic, int partition, const struct krecord *k),
                                 int64_t *next, struct pinned *pin);
/* Lets go of it, after a last look: the bytes are what they were (M8). */
void sweep_unpin(struct run *r, struct pinned *pin);
void sweep_all(struct run *r);
void sweep_cursor(struct run *r, int topic, int partition, int64_t from, size_t limit);
void sweep_run_bytes(uint32_t seed, uint64_t from, uint8_t *out, size_t n);

#endif
