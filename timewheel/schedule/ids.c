/* What is known of ids.
 *
 * A key is 'i' topic 0x00 id, or, for the outcome of an operation, 'o' partition offset (be32, be64). What
 * was last written of a key counts. Keys live in the gatherings, and in runs of their own (S4), sorted by
 * (hash, sequence of the operation): a Bloom filter of 14 bits a key answers for most runs that they know
 * nothing; for the others one block is read. So an id that waits a year costs bits of memory, whatever
 * becomes of it.
 *
 * Body of an entry in such a run:
 *     hash u63 uvarint, sequence of the operation uvarint (these two are its place), kind u8, outcome u8,
 *     due uvarint, sequence of the message uvarint, at uvarint, size of the message uvarint (only if kind has
 *     HAS_SIZE), key: the rest
 *
 * Two keys with one hash are told apart by the key. */
#include "schedule_state.h"

#include "base/hash.h"

enum { HAS_SIZE = 128 };

void id_key(struct hf_buf *b, hf_str topic, hf_str id) {
    hf_buf_u8(b, 'i');
    hf_buf_str(b, topic);
    hf_buf_u8(b, 0);
    hf_buf_str(b, id);
}

void outcome_key(struct hf_buf *b, int32_t partition, int64_t offset) {
    hf_buf_u8(b, 'o');
    hf_buf_be32(b, (uint32_t)partition);
    hf_buf_be64(b, (uint64_t)offset);
}

/* Part of the format of runs: the key never changes. */
uint64_t id_hash(hf_str key) {
    return hf_siphash((struct hf_siphash_key){0x686f6c6466617374u, 0x7363686564756c65u}, key.p, key.n) >> 1;
}

enum hf_err id_put(struct gather *g, hf_str key, const struct id_entry *what) {
    struct id_entry *e;
    HASH_FIND(hh, g->ids, key.p, key.n, e);
    if (!e) {
        e = calloc(1, sizeof *e + key.n);
        if (!e) return HF_ENOMEM;
        e->key_size = (uint32_t)key.n;
        memcpy(e->key, key.p, key.n);
        HASH_ADD_KEYPTR(hh, g->ids, e->key, key.n, e);
        if (!e->hh.tbl) {
            free(e);
            return HF_ENOMEM;
        }
        g->bytes += sizeof *e + key.n + 32;
    }
    e->hash = what->hash;
    e->seq = what->seq;
    e->place = what->place;
    e->at_ms = what->at_ms;
    e->item = what->item;
    e->kind = what->kind;
    e->outcome = what->outcome;
    e->size = what->size;
    return HF_OK;
}

void id_encode(struct hf_buf *b, const struct id_entry *e) {
    hf_buf_uvarint(b, e->hash);
    hf_buf_uvarint(b, e->seq);
    hf_buf_u8(b, (uint8_t)(e->kind | (e->size ? HAS_SIZE : 0)));
    hf_buf_u8(b, e->outcome);
    hf_buf_uvarint(b, (uint64_t)e->place.due);
    hf_buf_uvarint(b, e->place.seq);
    hf_buf_uvarint(b, (uint64_t)e->at_ms);
    if (e->size) hf_buf_uvarint(b, e->size);
    hf_buf_put(b, e->key, e->key_size);
}

enum hf_err id_decode(hf_str body, struct id_entry *e, hf_str *key) {
    struct bytes r = bytes_of(body);
    uint64_t due, at, size = 0;
    if (!take_uvarint(&r, &e->hash) || !take_uvarint(&r, &e->seq) || r.end - r.p < 2) return HF_ECORRUPT;
    uint8_t kind = (uint8_t)*r.p++;
    e->outcome = (uint8_t)*r.p++;
    if (!take_uvarint(&r, &due) || !take_uvarint(&r, &e->place.seq) || !take_uvarint(&r, &at))
        return HF_ECORRUPT;
    if ((kind & HAS_SIZE) && (!take_uvarint(&r, &size) || size > UINT32_MAX)) return HF_ECORRUPT;
    e->kind = kind & (HAS_SIZE - 1);
    e->size = (uint32_t)size;
    e->place.due = (int64_t)due;
    e->at_ms = (int64_t)at;
    *key = hf_str_make(r.p, (size_t)(r.end - r.p));
    return HF_OK;
}

static int by_hash(const void *a, const void *b) {
    const struct id_entry *x = *(struct id_entry *const *)a, *y = *(struct id_entry *const *)b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

enum hf_err id_sorted(const struct gather *g, struct id_entry ***out, size_t *n) {
    size_t count = HASH_COUNT(g->ids), at = 0;
    struct id_entry **all = malloc((count ? count : 1) * sizeof(struct id_entry *));
    if (!all) return HF_ENOMEM;
    for (struct id_entry *e = g->ids; e; e = e->hh.next) all[at++] = e;
    qsort(all, count, sizeof *all, by_hash);
    *out = all;
    *n = count;
    return HF_OK;
}

static void state_of(const struct id_entry *e, bool active, struct id_state *out) {
    *out = (struct id_state){.found = true,
                             .kind = e->kind,
                             .outcome = e->outcome,
                             .seq = e->seq,
                             .place = e->place,
                             .at_ms = e->at_ms,
                             .size = e->size,
                             .item = active ? e->item : NULL};
}

/* The newest entry of this key in one run, if it is newer than *out. */
static enum hf_err get_from_run(struct schedule *s, struct run *r, uint64_t hash, hf_str key,
                                struct id_state *out) {
    struct run_cursor c;
    enum hf_err e = run_cursor_open(&c, s->engine, r, (struct place){(int64_t)hash, 0});
    if (e) return e;
    e = run_cursor_load(&c);
    for (; !e && c.head.due == (int64_t)hash; e = run_cursor_next(&c)) {
        struct id_entry found = {0};
        hf_str its_key;
        if ((e = id_decode(c.body, &found, &its_key))) break;
        if (hf_str_eq(key, its_key) && (!out->found || found.seq >= out->seq)) state_of(&found, false, out);
    }
    run_cursor_close(&c);
    return e;
}

enum hf_err id_get(struct schedule *s, hf_str key, struct id_state *out) {
    struct gather *gatherings[] = {s->active, s->frozen};
    for (size_t i = 0; i < 2; i++) {
        struct id_entry *e = NULL;
        if (gatherings[i]) HASH_FIND(hh, gatherings[i]->ids, key.p, key.n, e);
        if (!e) continue;
        state_of(e, i == 0, out);
        return HF_OK;
    }
    *out = (struct id_state){0};
    uint64_t hash = id_hash(key);
    for (size_t i = 0; i < s->id_run_count; i++) run_prefetch(s->id_runs[i], hash);
    for (size_t i = 0; i < s->id_run_count; i++) {
        struct run *r = s->id_runs[i];
        if (!run_may_have(r, hash)) continue;
        enum hf_err e = get_from_run(s, r, hash, key, out);
        if (e) return e;
    }
    return HF_OK;
}
