/* The memory of decided ids: was this transaction committed or rolled back?
 *
 *     word = txn_decided_word(group, id, TXN_COMMITTED);
 *     e = txn_decided_add(d, word, now_ms);
 *     switch (txn_decided_find(d, group, id)) { case TXN_NONE: … not known, or forgotten
 *
 * An id costs bits, not an entry: one 64-bit word, of which 63 are a keyed hash of group and id and one is
 * the decision. Two ids that share all 63 bits would be taken for one: with a million remembered ids, one new
 * id in ten million million. Words lie in chunks of 256 in the order of decision; a chunk is what is stored
 * (one state value) and what is forgotten (the oldest, when it is older than memory_ms, or when all together
 * are more than memory_bytes).
 *
 * The owner stores chunks in the commit that holds the decisions and may take the last additions back
 * if that commit never started. Pure; the core thread. */
#ifndef TXN_DECIDED_H
#define TXN_DECIDED_H

#include "base/bytes.h"
#include "state.h"

enum {
    TXN_CHUNK_WORDS = 256,
    TXN_CHUNK_BYTES = 8 + 8 * TXN_CHUNK_WORDS, /* stored: time of the last decision, then words */
    TXN_WORD_COST = 32, /* bytes of memory reckoned for an id, its stored form included */
};

struct txn_chunk {
    uint64_t number; /* 1, 2, 3 …: a chunk's name for ever */
    int64_t last_ms; /* when the last of its ids was decided */
    uint32_t n;
    uint64_t words[TXN_CHUNK_WORDS];
};

struct txn_decided {
    int64_t memory_ms;
    size_t chunks_max;
    struct txn_chunk **chunks; /* a ring: oldest at `first` */
    size_t first, count, ring_size;
    uint64_t next_number;
    uint64_t *table; /* open addressing, linear probing, 0 is empty; ring of `slots`, a power of two */
    size_t slots, used;
    int64_t forgotten_ms; /* last_ms of the newest chunk that was forgotten since the start; 0: none */
};

HF_CHECK enum hf_err txn_decided_init(struct txn_decided *d, int64_t memory_ms, size_t memory_bytes);
void txn_decided_fini(struct txn_decided *d);

/* decision: TXN_COMMITTED or TXN_ROLLED_BACK. */
uint64_t txn_decided_word(hf_str group, hf_str id, enum txn_state decision);

/* TXN_NONE: not known. */
enum txn_state txn_decided_find(const struct txn_decided *d, hf_str group, hf_str id);

/* The id must not be known. HF_ENOMEM, HF_ELIMIT (twice memory_bytes, since nothing was forgotten for long):
 * nothing changed. */
HF_CHECK enum hf_err txn_decided_add(struct txn_decided *d, uint64_t word, int64_t now_ms);

/* Takes the last n additions back. */
void txn_decided_undo(struct txn_decided *d, size_t n);

/* How many chunks, from the oldest, are to be forgotten; the last one stays. */
size_t txn_decided_expired(const struct txn_decided *d, int64_t now_ms);
void txn_decided_forget(struct txn_decided *d, size_t chunks);

/* Every id that was decided later than this is remembered. After a start a little later than need be, where
 * bytes are the limit: what was forgotten before is not known then, only what was kept. */
int64_t txn_decided_horizon(const struct txn_decided *d, int64_t now_ms);

/* Chunk i, 0 the oldest. */
const struct txn_chunk *txn_decided_chunk(const struct txn_decided *d, size_t i);

/* Stored form. Appends TXN_CHUNK_BYTES at most. */
void txn_chunk_encode(const struct txn_chunk *c, struct hf_buf *out);
/* Chunks are loaded in the order of their numbers, before any addition. HF_ECORRUPT, HF_ENOMEM. */
HF_CHECK enum hf_err txn_decided_load(struct txn_decided *d, uint64_t number, hf_str stored);

void txn_decided_check(const struct txn_decided *d);

#endif
