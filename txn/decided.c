/* Chunks in a ring, and one hash table over all their words.
 *
 *     chunks   [17: w w w … w] [18: w w w … w] [19: w w w .  . ]      oldest first; only the last one grows
 *     table    . w . . w w w . w . . w                                the same words, by hash
 *
 * A word is its own hash: its place is taken from the upper bits, the lowest bit is the decision, and both
 * decisions of an id share one place. Removal moves later words of the run back (Knuth 6.4, algorithm R), so
 * there are no tombstones and a look-up of an unknown id stays one or two cache lines.
 *
 * Invariants (txn_decided_check):
 *   D1  every chunk but the last is full, unless it was loaded shorter; numbers ascend
 *   D2  the table holds exactly the chunks' words, and is at most three quarters full
 *   D3  no id is there twice */
#include "decided.h"

#include "base/hash.h"

#include <assert.h>
#include <stdlib.h>

enum { SLOTS_MIN = 1024 };

/* ---- the table ---- */

static size_t home(const struct txn_decided *d, uint64_t word) {
    return (size_t)(word >> 1) & (d->slots - 1);
}

static bool same_id(uint64_t a, uint64_t b) {
    return a >> 1 == b >> 1;
}

/* The slot that holds the word's id, or the empty one where it would go. */
static size_t slot_of(const struct txn_decided *d, uint64_t word) {
    size_t i = home(d, word);
    while (d->table[i] && !same_id(d->table[i], word)) i = (i + 1) & (d->slots - 1);
    return i;
}

static enum hf_err table_grow(struct txn_decided *d) {
    struct txn_decided bigger = *d;
    bigger.slots = d->slots * 2;
    bigger.table = calloc(bigger.slots, sizeof *bigger.table);
    if (!bigger.table) return HF_ENOMEM;
    for (size_t i = 0; i < d->slots; i++)
        if (d->table[i]) bigger.table[slot_of(&bigger, d->table[i])] = d->table[i];
    free(d->table);
    d->table = bigger.table;
    d->slots = bigger.slots;
    return HF_OK;
}

static void table_remove(struct txn_decided *d, uint64_t word) {
    size_t mask = d->slots - 1, hole = slot_of(d, word);
    assert(d->table[hole] == word);
    for (size_t i = (hole + 1) & mask; d->table[i]; i = (i + 1) & mask) {
        size_t from_home = (i - home(d, d->table[i])) & mask;
        if (from_home < ((i - hole) & mask)) continue; /* its home lies behind the hole: it may not pass it */
        d->table[hole] = d->table[i];
        hole = i;
    }
    d->table[hole] = 0;
    d->used--;
}

/* ---- chunks ---- */

static struct txn_chunk **chunk_at(const struct txn_decided *d, size_t i) {
    return &d->chunks[(d->first + i) % d->ring_size];
}

const struct txn_chunk *txn_decided_chunk(const struct txn_decided *d, size_t i) {
    assert(i < d->count);
    return *chunk_at(d, i);
}

/* Only a start needs this, after memory_bytes was lowered: what is stored is loaded whole and then forgotten
 * in the ordinary way, so that its keys go too. */
static enum hf_err ring_grow(struct txn_decided *d) {
    struct txn_chunk **bigger = calloc(d->ring_size * 2, sizeof(struct txn_chunk *));
    if (!bigger) return HF_ENOMEM;
    for (size_t i = 0; i < d->count; i++) bigger[i] = *chunk_at(d, i);
    free(d->chunks);
    d->chunks = bigger;
    d->first = 0;
    d->ring_size *= 2;
    return HF_OK;
}

static enum hf_err chunk_push(struct txn_decided *d, uint64_t number) {
    if (d->count == d->ring_size) return HF_ELIMIT;
    struct txn_chunk *c = calloc(1, sizeof *c);
    if (!c) return HF_ENOMEM;
    c->number = number;
    d->next_number = number + 1;
    *chunk_at(d, d->count++) = c;
    return HF_OK;
}

static void chunk_pop(struct txn_decided *d) {
    free(*chunk_at(d, --d->count));
}

static enum hf_err append(struct txn_decided *d, uint64_t word, int64_t now_ms) {
    if ((d->used + 1) * 4 > d->slots * 3) {
        enum hf_err e = table_grow(d);
        if (e) return e;
    }
    struct txn_chunk *c = *chunk_at(d, d->count - 1);
    size_t slot = slot_of(d, word);
    assert(!d->table[slot]);
    d->table[slot] = word;
    d->used++;
    c->words[c->n++] = word;
    if (c->last_ms < now_ms) c->last_ms = now_ms;
    return HF_OK;
}

/* ---- public ---- */

enum hf_err txn_decided_init(struct txn_decided *d, int64_t memory_ms, size_t memory_bytes) {
    size_t chunks = memory_bytes / (TXN_WORD_COST * TXN_CHUNK_WORDS) + 1;
    struct txn_decided new = {.memory_ms = memory_ms,
                              .chunks_max = chunks,
                              .ring_size = chunks * 2,
                              .next_number = 1,
                              .slots = SLOTS_MIN};
    new.chunks = calloc(new.ring_size, sizeof(struct txn_chunk *));
    new.table = calloc(new.slots, sizeof *new.table);
    if (!new.chunks || !new.table) {
        free(new.chunks);
        free(new.table);
        return HF_ENOMEM;
    }
    *d = new;
    return HF_OK;
}

void txn_decided_fini(struct txn_decided *d) {
    while (d->count > 0) chunk_pop(d);
    free(d->chunks);
    free(d->table);
    *d = (struct txn_decided){0};
}

uint64_t txn_decided_word(hf_str group, hf_str id, enum txn_state decision) {
    static const struct hf_siphash_key key = {0x686f6c6466617374u, 0x74786e2e64656369u};
    uint64_t of_group = hf_siphash(key, group.p, group.n);
    uint64_t hash = hf_siphash((struct hf_siphash_key){key.k0 ^ of_group, key.k1}, id.p, id.n) & ~UINT64_C(1);
    if (hash == 0) hash = 2; /* an empty slot is 0 */
    return hash | (decision == TXN_COMMITTED);
}

enum txn_state txn_decided_find(const struct txn_decided *d, hf_str group, hf_str id) {
    if (d->slots == 0) return TXN_NONE; /* nothing is loaded yet */
    uint64_t found = d->table[slot_of(d, txn_decided_word(group, id, TXN_ROLLED_BACK))];
    if (!found) return TXN_NONE;
    return found & 1 ? TXN_COMMITTED : TXN_ROLLED_BACK;
}

enum hf_err txn_decided_add(struct txn_decided *d, uint64_t word, int64_t now_ms) {
    bool fresh = d->count == 0 || (*chunk_at(d, d->count - 1))->n == TXN_CHUNK_WORDS;
    enum hf_err e = fresh ? chunk_push(d, d->next_number) : HF_OK;
    if (e) return e;
    e = append(d, word, now_ms);
    if (e && fresh) {
        chunk_pop(d);
        d->next_number--;
    }
    return e;
}

void txn_decided_undo(struct txn_decided *d, size_t n) {
    for (; n > 0; n--) {
        assert(d->count > 0);
        struct txn_chunk *c = *chunk_at(d, d->count - 1);
        table_remove(d, c->words[--c->n]);
        if (c->n > 0) continue;
        chunk_pop(d);
        d->next_number--;
    }
}

size_t txn_decided_expired(const struct txn_decided *d, int64_t now_ms) {
    size_t n = 0;
    while (n + 1 < d->count) {
        bool old = now_ms - txn_decided_chunk(d, n)->last_ms > d->memory_ms;
        if (!old && d->count - n <= d->chunks_max) break;
        n++;
    }
    return n;
}

void txn_decided_forget(struct txn_decided *d, size_t chunks) {
    for (; chunks > 0; chunks--) {
        struct txn_chunk *c = *chunk_at(d, 0);
        for (uint32_t i = 0; i < c->n; i++) table_remove(d, c->words[i]);
        d->forgotten_ms = c->last_ms;
        free(c);
        d->first = (d->first + 1) % d->ring_size;
        d->count--;
    }
}

int64_t txn_decided_horizon(const struct txn_decided *d, int64_t now_ms) {
    int64_t by_time = now_ms - d->memory_ms, by_bytes = d->forgotten_ms;
    bool full = d->count >= d->chunks_max && txn_decided_chunk(d, 0)->number > 1;
    if (by_bytes == 0 && full) by_bytes = txn_decided_chunk(d, 0)->last_ms;
    return by_bytes > 0 && by_bytes > by_time ? by_bytes : by_time;
}

/* Stored chunk:
 *     0  last_ms  int64
 *     8  words    uint64 each, up to 256 */
void txn_chunk_encode(const struct txn_chunk *c, struct hf_buf *out) {
    hf_buf_be64(out, (uint64_t)c->last_ms);
    for (uint32_t i = 0; i < c->n; i++) hf_buf_be64(out, c->words[i]);
}

enum hf_err txn_decided_load(struct txn_decided *d, uint64_t number, hf_str stored) {
    if (stored.n < 16 || stored.n > TXN_CHUNK_BYTES || stored.n % 8 != 0) return HF_ECORRUPT;
    if (number < d->next_number) return HF_ECORRUPT;
    enum hf_err e = d->count == d->ring_size ? ring_grow(d) : HF_OK;
    if (!e) e = chunk_push(d, number);
    if (e) return e;
    int64_t last_ms = (int64_t)hf_get_be64(stored.p);
    for (size_t at = 8; at < stored.n; at += 8) {
        uint64_t word = hf_get_be64(stored.p + at);
        if (word < 2 || d->table[slot_of(d, word)]) return HF_ECORRUPT;
        if ((e = append(d, word, last_ms))) return e;
    }
    return HF_OK;
}

void txn_decided_check(const struct txn_decided *d) {
    size_t words = 0, used = 0;
    uint64_t before = 0;
    for (size_t i = 0; i < d->count; i++) {
        const struct txn_chunk *c = txn_decided_chunk(d, i);
        assert(c->number > before && c->n > 0 && c->n <= TXN_CHUNK_WORDS); /* D1 */
        before = c->number;
        words += c->n;
        for (uint32_t w = 0; w < c->n; w++) assert(d->table[slot_of(d, c->words[w])] == c->words[w]); /* D2 */
    }
    for (size_t i = 0; i < d->slots; i++) used += d->table[i] != 0;
    assert(used == words && used == d->used && used * 4 <= d->slots * 3); /* D2, D3 */
    assert(d->next_number > before);
}
