/* Transactions: half messages that stay invisible until they are decided (topic holdfast.txn).
 *
 *     txn_open(engine, &(struct txn_options){0}, now_ms, &t);
 *     …the loop:
 *     if (now_ms >= next || txn_wants(t)) next = txn_step(t, now_ms);
 *     …
 *     txn_decide(t, group, id, TXN_COMMITTED, decided, arg);         // an operator
 *     e = txn_outcome_at(t, partition, offset, &outcome);            // what became of that record?
 *     txn_close(t);
 *
 * The coordinator reads holdfast.txn by cursors of the engine, in the order of acceptance over all
 * partitions, and answers each record by the table of state.h. A commit moves all half messages of a
 * transaction to their destinations (delayed ones to holdfast.delay) in one engine_commit. It asks undecided
 * transactions' producer groups on holdfast.check.<group>. What it needs after a restart is state of the
 * engine, written in the same commits.
 *
 * Threads: the core thread only. Nothing blocks. It opens no file and no socket and reads no clock.
 * What it does not do: check the form of records before they are accepted (the door), move half messages to
 * the far tier. */
#ifndef TXN_TXN_H
#define TXN_TXN_H

#include "state.h"
#include "store/engine/engine.h"

struct txn;

enum {
    TXN_HALVES_MAX = 1024,     /* the most that options may allow */
    TXN_BYTES_MAX = 5 << 20,   /* likewise */
    TXN_EXCEPTIONS_MAX = 1024, /* outcomes other than `applied` that are remembered */
    TXN_PARTITIONS_MAX = 256,  /* of holdfast.txn */
};

/* Zero fields mean the defaults on the right. */
struct txn_options {
    int64_t check_after_ms;      /* 6 s after the last prepare, unless hf-check-after says otherwise */
    int64_t check_interval_ms;   /* 30 s from a check that was read to the next */
    int32_t check_attempts;      /* 15, then parked */
    uint32_t halves_max;         /* 1,000 of a transaction */
    size_t bytes_max;            /* 4 MiB of a transaction */
    size_t live_max;             /* 100,000 transactions that are not finished */
    int64_t id_memory_ms;        /* 7 d: id.memory.ms */
    size_t id_memory_bytes;      /* 16 MiB: txn.id.memory.bytes */
    int64_t destination_wait_ms; /* 10 min: how long a commit waits for a destination that is gone */
    /* What an operator should hear of: an event's stable name, and key=value pairs. May be NULL. */
    void (*event)(void *arg, const char *name, const char *detail);
    void *event_arg;
};

/* Loads the stored state. HF_EINVAL (options beyond the limits above), HF_ENOMEM, HF_ECORRUPT. */
HF_CHECK enum hf_err txn_open(struct engine *engine, const struct txn_options *options, int64_t now_ms,
                              struct txn **out);

/* A commit is under way. */
bool txn_busy(const struct txn *t);

/* The engine must deliver no completion for it afterwards: let it come to rest (txn_busy), or throw it away
 * first. Waiting txn_decide calls are answered HF_ECLOSED. */
void txn_close(struct txn *t);

/* Moves everything on; call it when txn_wants or when the time has come that the last call returned
 * (INT64_MAX: only when it wants). Reads and commits a bounded amount. Time that goes back is taken as
 * standing still. */
int64_t txn_step(struct txn *t, int64_t now_ms);

/* Something happened since the last step (records, a completion, a question): step now. */
bool txn_wants(const struct txn *t);

/* HF_OK, or why the coordinator has stopped for good (fenced, the engine failed). */
enum hf_err txn_failed(const struct txn *t);

/* ---- questions and decisions ---- */

/* What became of the record at that place of holdfast.txn; the answer is durable. HF_EAGAIN: not processed or
 * not durable yet; ask again after the next step. HF_ENOTFOUND: too long ago to tell, or no such partition.
 */
HF_CHECK enum hf_err txn_outcome_at(struct txn *t, int32_t partition, int64_t offset, enum txn_outcome *out);

/* e != HF_OK: not decided (HF_ECLOSED, or what the engine said). */
typedef void txn_decided_done(void *arg, enum hf_err e, enum txn_outcome outcome);

/* Where holdfast.txn ends now, to ask a question about all that was accepted before: TXN_PARTITIONS_MAX
 * offsets. And whether everything below is processed. */
void txn_mark(struct txn *t, int64_t *ends);
bool txn_reached(const struct txn *t, const int64_t *ends);

/* Stores what is processed without waiting for more. */
void txn_hurry(struct txn *t);

/* An operator's decision (TXN_COMMITTED or TXN_ROLLED_BACK). done is called once, by a later txn_step, when
 * the outcome is durable. HF_EAGAIN: too many wait already. */
HF_CHECK enum hf_err txn_decide(struct txn *t, hf_str group, hf_str id, enum txn_state decision,
                                txn_decided_done *done, void *arg);

struct txn_view {
    hf_str group, id;     /* borrowed */
    uint64_t sequence;    /* its place among all, ascending */
    enum txn_state state; /* TXN_COMMITTED: its messages are not in their topics yet */
    uint32_t halves;
    uint64_t bytes;
    int64_t created_ms; /* first half message accepted */
    int64_t last_prepare_ms;
    int64_t decided_ms; /* 0: not decided */
    int32_t checks_sent, checks_read;
    int64_t next_check_ms; /* -1: none is planned */
    bool durable;          /* a crash now would not take this state back */
    enum hf_err stuck;     /* why a committed one waits, HF_OK if it does not */
};

/* Calls fn for up to max transactions that are not finished, from sequence `from` (0: the start) upwards,
 * restricted to a group (p != NULL) and a state (TXN_NONE: any). Returns the sequence at which to go on, 0
 * when there are no more. */
uint64_t txn_list(struct txn *t, hf_str group, enum txn_state state, uint64_t from, size_t max,
                  void (*fn)(void *arg, const struct txn_view *v), void *arg);

/* HF_ENOTFOUND: not known. One that is finished and remembered has halves == 0 and times of 0. */
HF_CHECK enum hf_err txn_show(struct txn *t, hf_str group, hf_str id, struct txn_view *out);

struct txn_half_view {
    int32_t partition; /* where it lies in holdfast.txn */
    int64_t offset;
    uint32_t bytes;
};
/* The half messages of a transaction that is not finished, in their order. */
void txn_halves(struct txn *t, hf_str group, hf_str id, void (*fn)(void *arg, const struct txn_half_view *h),
                void *arg);

/* Outcomes other than `applied`, newest first, up to max. */
struct txn_exception_view {
    hf_str group, id; /* borrowed; cut after 200 bytes of id */
    int64_t time_ms;
    int32_t partition;
    int64_t offset;
    enum txn_outcome outcome;
};
void txn_exceptions(struct txn *t, size_t max, void (*fn)(void *arg, const struct txn_exception_view *v),
                    void *arg);

/* ---- numbers for /metrics, since the start ---- */

struct txn_stats {
    uint64_t outcomes[TXN_OUTCOMES];
    uint64_t prepares, commits, rollbacks;           /* applied */
    uint64_t moved, moved_halves;                    /* transactions and half messages made visible */
    uint64_t rejected;                               /* transactions that ended in holdfast.rejected */
    uint64_t checks_sent, checks_read, checks_again; /* again: retention took one */
    uint64_t retries;                                /* moves that had to wait for their destination */
    uint64_t reloads;                                /* commits that failed and were undone */
    uint64_t live, live_bytes; /* not finished; bytes of half messages that pin the log */
    uint64_t by_state[TXN_STATES];
    uint64_t remembered;   /* decided ids */
    int64_t id_horizon_ms; /* every id decided later is remembered */
};
void txn_stats(const struct txn *t, struct txn_stats *out);

/* Asserts the invariants of coordinator.c; walks everything. */
void txn_check(const struct txn *t);

#endif
