/* The engine for tests: topics, state and runs in plain memory, with everything late that may be late.
 *
 *     memory_engine_open(&(struct memory_options){.seed = 42}, &m);
 *     struct core *core = core_open(memory_engine_engine(m), …);
 *     memory_engine_append(m, HF_STR("holdfast.delay"), 0, now, key, value, headers, n);   // as a client would
 *     while (memory_engine_step(m) || core_step(core, now)) …;
 *     core_abandon(core);
 *     memory_engine_crash(m);                           // the process dies
 *     core = core_open(memory_engine_engine(m), …);     // a new one starts on what is durable
 *
 * Seed 0: each step finishes all that was under way before it, in order. Any other seed: a step takes a few
 * things at random, as engine.h permits: commits take effect in the order of their start and each partition's
 * records in the order of their offsets; all else comes in any order (records of two partitions, a seal
 * beside a commit, the completions of two commits). Low-waters delete or do not. What comes from one seed and
 * the same calls is always the same.
 *
 * Not here: power loss, torn bytes, damage (store/log on the simulated env has those). Running out of memory
 * aborts. One thread. */
#ifndef STORE_ENGINE_MEMORY_H
#define STORE_ENGINE_MEMORY_H

#include "store/engine/engine.h"

struct memory_engine;

struct memory_options {
    uint64_t seed;
    int32_t default_partitions; /* 0: 1 */
    bool no_auto_create;        /* engine_topic creates nothing */
    size_t record_max;          /* 0: 1 MiB */
    size_t commits_max;         /* under way at once, then HF_EAGAIN; 0: 64 */
};

void memory_engine_open(const struct memory_options *options, struct memory_engine **out);
void memory_engine_close(struct memory_engine *m); /* delivers nothing */

struct engine *memory_engine_engine(struct memory_engine *m);

/* Lets things happen and calls completions. Returns how many are still under way. */
size_t memory_engine_step(struct memory_engine *m);

/* Steps until nothing is under way. */
void memory_engine_settle(struct memory_engine *m);

/* The process above dies. Of what was under way each thing happened whole or not at all (of commits: the
 * earlier ones; with seed 0: none); no completion is delivered, watchers are gone, runs that no commit named
 * vanish. Cursors and writers of the dead core may still be closed and aborted. */
void memory_engine_crash(struct memory_engine *m);

/* ---- as a client, an operator ---- */

/* HF_EEXIST. Serves at once. */
HF_CHECK enum hf_err memory_engine_topic_create(struct memory_engine *m, hf_str topic, int32_t partitions);

/* Its records and the groups' offsets on it are gone at once; commits under way to it will fail.
 * HF_ENOTFOUND. */
HF_CHECK enum hf_err memory_engine_topic_delete(struct memory_engine *m, hf_str topic);

/* Appends one record; a later step makes it readable. On holdfast. topics the timestamp is now_ms unless that
 * goes back. The offset it will have; -1: no such topic or partition. */
int64_t memory_engine_append(struct memory_engine *m, hf_str topic, int32_t partition, int64_t now_ms,
                             hf_str key, hf_str value, const struct hf_header *headers, size_t header_count);

/* Calls fn for every readable record of a partition, in order of offsets. */
void memory_engine_each(struct memory_engine *m, hf_str topic, int32_t partition,
                        void (*fn)(void *arg, const struct engine_record *r), void *arg);

/* Runs that are sealed, named or not. */
size_t memory_engine_runs(const struct memory_engine *m);

/* A consumer group's committed offset, at once, where engine_committed finds it. */
void memory_engine_commit_offset(struct memory_engine *m, hf_str group, hf_str topic, int32_t partition,
                                 int64_t offset);

/* ---- faults ---- */

enum memory_call {
    MEMORY_COMMIT,      /* at once: HF_EAGAIN, HF_ENOSPC, HF_ENOTFOUND, HF_EFENCED … */
    MEMORY_COMMIT_DONE, /* in the completion: nothing of the commit happened */
    MEMORY_TOPIC,
    MEMORY_CURSOR_NEXT, /* HF_EIO, HF_ECORRUPT */
    MEMORY_RUN_BEGIN,
    MEMORY_RUN_APPEND, /* HF_ENOSPC */
    MEMORY_RUN_SEAL,   /* in the completion */
    MEMORY_RUN_READ,   /* HF_EIO, HF_ECORRUPT */
    MEMORY_CALLS
};

/* Lets `skip` such calls pass, then `times` of them fail with e (times < 0: all). */
void memory_engine_fail(struct memory_engine *m, enum memory_call call, enum hf_err e, uint64_t skip,
                        int times);

/* Besides: each such call fails with e, so many times of a thousand. */
void memory_engine_fail_rate(struct memory_engine *m, enum memory_call call, enum hf_err e,
                             unsigned per_mille);

/* So much may be written to runs from now on, dropped ones give back theirs; UINT64_MAX: not known, as before. */
void memory_engine_set_room(struct memory_engine *m, uint64_t bytes);

/* Calls made so far, failed ones included: for sweeps that fail the n-th. */
uint64_t memory_engine_calls(const struct memory_engine *m, enum memory_call call);

/* Asserts that offsets, sequences and order tickets are consistent. */
void memory_engine_check(const struct memory_engine *m);

#endif
