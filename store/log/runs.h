/* Runs: the far tier's files. Written once, sealed, named by a commit, read by many. */
#ifndef STORE_LOG_RUNS_H
#define STORE_LOG_RUNS_H

#include "limits.h"
#include "store/engine/engine_ops.h"

#define HASH_NONFATAL_OOM 1 /* no memory: hh.tbl stays NULL, and the caller says so */
#include <uthash.h>

struct run {
    uint64_t id, bucket, bytes;
    struct hf_file *file; /* for reading; NULL: closed */
    uint64_t reported;    /* the damage told last: its byte + 1 */
    bool sealed;          /* written and synced */
    bool named;           /* by a durable commit */
    UT_hash_handle hh;
};

struct run_place { /* where the scrubber is */
    uint64_t id, block;
};

struct run_bytes { /* of a run's file, read from the disk before: lent */
    uint64_t id;
    const uint8_t *p;
    uint64_t offset; /* of whole blocks */
    size_t n;
};

/* runs.c */
HF_CHECK enum hf_err runs_load(struct log *l);
void runs_free(struct log *l);
void run_key(uint64_t id, char out[32]);
bool run_sealed(struct log *l, uint64_t id, struct run **out);
void runs_drop(struct log *l, const uint64_t *ids, size_t n);
void runs_name(struct log *l, const uint64_t *ids, size_t n);
uint64_t run_room(struct engine *engine);
HF_CHECK enum hf_err run_begin(struct engine *engine, uint64_t bucket, struct engine_run_writer **out);
HF_CHECK enum hf_err run_append(struct engine_run_writer *base, const void *p, size_t n);
void run_seal(struct engine_run_writer *base, uint64_t *id, engine_done *done, void *arg);
void run_abort(struct engine_run_writer *base);
void run_discard(struct engine *engine, uint64_t id);
void run_each(struct engine *engine, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
              void *arg);
HF_CHECK enum hf_err runs_salvage(struct log *l); /* drops what is damaged, with rescue_end */
HF_CHECK enum hf_err run_stretch(struct log *l, const struct run_place *at, uint64_t most,
                                 char path[LOG_PATH], struct run_bytes *out);
HF_CHECK enum hf_err run_prove(struct log *l, struct run_place *at, uint64_t most,
                               const struct run_bytes *have, uint64_t *read);
HF_CHECK enum hf_err run_read(struct engine *engine, uint64_t id, uint64_t offset, void *p, size_t n);

#endif
