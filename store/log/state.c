/* The state: keys and values that survive. Records of the internal partition `__holdfast_state`, put by
 * commits like any others; here is the live set in memory, and what keeps the partition short.
 *
 * A put counts when it is durable. Until then its key's entry is held (`pending`), so that the entry cannot
 * be lost to memory when the put is applied, and so that compaction leaves the key alone.
 *
 * Compaction without copying files: entries stand in the order of their newest records. When the partition is
 * much longer than what lives in it, a boundary is set at its end and the oldest entries are put again in
 * slices, which moves them to the row's end. When none below the boundary is left, the partition's start
 * moves there and whole segments go. A key with a put on its way needs no copy: that put lies above the
 * boundary. Deletes need no care, either: the start only moves forward, so a null record never outlives what
 * it hides the wrong way round.
 *
 * Invariant: an entry that is live has its newest durable record at `offset`; order ascends by it. */
#include "log_internal.h"

#include <stdlib.h>

enum {
    SLICE = 256 << 10, /* bytes that compaction puts again in one commit */
    SPARE = 4 << 20,   /* it begins when the partition has this, */
    TIMES = 3,         /* and this times as much as what lives */
    ENTRY_COST = 100,  /* bytes of a record beside key and value, roughly */
    RECORD_MAX = 16 << 20,
};

enum hf_err state_init(struct log *l) {
    l->state.boundary = -1;
    return batch_iter_open(RECORD_MAX, &l->state.iter);
}

static hf_str key_of(const struct state_entry *x) {
    return hf_str_make(x->key, x->key_n);
}

static struct state_entry *find(struct log *l, hf_str key) {
    struct state_entry *x;
    HASH_FIND(hh, l->state.table, key.p, key.n, x);
    return x;
}

static struct state_entry *make(struct log *l, hf_str key) {
    struct state_entry *x = calloc(1, sizeof *x + key.n + 1);
    if (!x) return NULL;
    memcpy(x->key, key.p, key.n);
    x->key_n = (uint32_t)key.n;
    HASH_ADD_KEYPTR(hh, l->state.table, x->key, key.n, x);
    if (!x->hh.tbl) {
        free(x);
        return NULL;
    }
    return x;
}

static size_t cost(const struct state_entry *x) {
    return (size_t)x->key_n + x->value_n + ENTRY_COST;
}

static void unlive(struct log *l, struct state_entry *x) {
    if (!x->live) return;
    l->state.live_bytes -= cost(x);
    DL_DELETE(l->state.order, x);
    x->live = false;
    free(x->value);
    x->value = NULL;
    x->value_n = 0;
}

static void drop_unused(struct log *l, struct state_entry *x) {
    if (x->live || x->pending > 0) return;
    HASH_DEL(l->state.table, x);
    free(x);
}

void state_fini(struct log *l) {
    struct state_entry *x, *next;
    HASH_ITER (hh, l->state.table, x, next) {
        x->pending = 0;
        unlive(l, x);
        drop_unused(l, x);
    }
    batch_iter_close(l->state.iter);
    l->state.iter = NULL;
}

/* ---- records ---- */

typedef enum hf_err visit(struct log *l, const struct batch_record *r, int64_t offset);

static enum hf_err each_record(struct log *l, const uint8_t *p, size_t n, size_t most, visit *fn) {
    const uint8_t *end = p + n;
    size_t seen = 0;
    while (p < end) {
        struct batch_info b;
        enum hf_err e = batch_parse(p, (size_t)(end - p), &b);
        if (!e) e = batch_iter_begin(l->state.iter, p, &b);
        struct batch_record r;
        while (!e && seen < most && !(e = batch_iter_next(l->state.iter, &r))) {
            e = fn(l, &r, b.base_offset + r.offset_delta);
            if (!e) seen++;
        }
        if (seen == most) return HF_OK;
        if (e != HF_EEND) return e;
        p += b.size;
    }
    return HF_OK;
}

static enum hf_err hold(struct log *l, const struct batch_record *r, int64_t offset) {
    (void)offset;
    struct state_entry *x = find(l, r->key);
    if (!x) x = make(l, r->key);
    if (!x) return HF_ENOMEM;
    x->pending++;
    return HF_OK;
}

static enum hf_err release(struct log *l, const struct batch_record *r, int64_t offset) {
    (void)offset;
    struct state_entry *x = find(l, r->key);
    assert(x && x->pending > 0);
    x->pending--;
    drop_unused(l, x);
    return HF_OK;
}

static enum hf_err hold_counted(struct log *l, const struct batch_record *r, int64_t offset) {
    enum hf_err e = hold(l, r, offset);
    if (!e) l->state.held++;
    return e;
}

enum hf_err state_hold(struct log *l, const uint8_t *batches, size_t n) {
    l->state.held = 0;
    enum hf_err e = each_record(l, batches, n, SIZE_MAX, hold_counted);
    if (!e) return HF_OK;
    enum hf_err undone = each_record(l, batches, n, l->state.held, release);
    assert(!undone);
    return e;
}

static enum hf_err put(struct log *l, const struct batch_record *r, int64_t offset) {
    struct state_entry *x = find(l, r->key);
    if (!r->value.p) {
        if (!x) return HF_OK;
        unlive(l, x);
        drop_unused(l, x);
        return HF_OK;
    }
    uint8_t *value = malloc(r->value.n + 1);
    if (!x && value) x = make(l, r->key);
    if (!x || !value) {
        free(value);
        return HF_ENOMEM;
    }
    memcpy(value, r->value.p, r->value.n);
    unlive(l, x);
    x->value = value;
    x->value_n = (uint32_t)r->value.n;
    x->offset = offset;
    x->live = true;
    l->state.live_bytes += cost(x);
    DL_APPEND(l->state.order, x);
    return HF_OK;
}

static enum hf_err put_held(struct log *l, const struct batch_record *r, int64_t offset) {
    struct state_entry *x = find(l, r->key);
    assert(x && x->pending > 0);
    enum hf_err e = put(l, r, offset);
    if (e) return e;
    x = find(l, r->key);
    if (x) {
        x->pending--;
        drop_unused(l, x);
    }
    return HF_OK;
}

void state_apply(struct log *l, const uint8_t *batches, size_t n) {
    enum hf_err e = each_record(l, batches, n, SIZE_MAX, put_held);
    if (e) log_fail(l, e, "state");
}

/* ---- at start ---- */

static enum hf_err load_segment(struct log *l, struct segment *s) {
    uint64_t pos = 0, good = 0;
    struct hf_buf buf;
    hf_buf_init(&buf, LOG_SEGMENT_MAX);
    enum hf_err e = segment_open(s);
    if (!e && s->size > 0) e = proof_range(s, 0, s->size, &good);
    if (!e && good < s->size) e = HF_ECORRUPT;
    if (e) goto done;
    while (!e && pos < s->size) {
        struct batch_info b;
        e = read_header(s, pos, s->size, &b);
        hf_buf_reset(&buf);
        uint8_t *p = e ? NULL : hf_buf_room(&buf, b.size);
        if (!e) e = p ? segment_read(s, pos, p, b.size) : HF_ENOMEM;
        if (!e && !batch_crc_ok(p, &b)) e = HF_ECORRUPT;
        if (!e) e = each_record(l, p, b.size, SIZE_MAX, put);
        if (!e) pos += b.size;
    }
    if (e == HF_ECORRUPT) damage_in(s, pos, -1, "no record of the state");
done:
    hf_buf_fini(&buf);
    return e;
}

enum hf_err state_load(struct log *l) {
    struct segment *s;
    DL_FOREACH (l->state.p->segments, s) {
        enum hf_err e = load_segment(l, s);
        if (!e && proof_hole(s)) e = HF_ECORRUPT;
        if (e) return e;
    }
    return HF_OK;
}

/* ---- look-ups ---- */

hf_str state_get(struct log *l, hf_str key) {
    struct state_entry *x = find(l, key);
    return x && x->live ? hf_str_make(x->value, x->value_n) : (hf_str){0};
}

int64_t state_number(struct log *l, const char *key, int64_t otherwise) {
    hf_str v = state_get(l, hf_str_of(key));
    return v.n == 8 ? (int64_t)hf_get_be64(v.p) : otherwise;
}

static int by_key(const void *a, const void *b) {
    const struct state_entry *const *x = a, *const *y = b;
    return hf_str_cmp(key_of(*x), key_of(*y));
}

void state_each(struct log *l, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value), void *arg) {
    size_t n = 0;
    struct state_entry *x;
    DL_FOREACH (l->state.order, x) {
        n += hf_str_starts(key_of(x), prefix);
    }
    struct state_entry **row = n ? malloc(n * sizeof *row) : NULL;
    if (!row) {
        if (n) log_fail(l, HF_ENOMEM, "state");
        return;
    }
    n = 0;
    DL_FOREACH (l->state.order, x) {
        if (hf_str_starts(key_of(x), prefix)) row[n++] = x;
    }
    qsort(row, n, sizeof(struct state_entry *), by_key);
    for (size_t i = 0; i < n; i++) fn(arg, key_of(row[i]), hf_str_make(row[i]->value, row[i]->value_n));
    free(row);
}

/* ---- compaction ---- */

static void rewritten(void *arg, enum hf_err e) {
    struct log *l = arg;
    (void)e;
    l->state.rewriting--;
}

/* Puts the oldest entries again. */
static void rewrite_slice(struct log *l) {
    enum { MOST = 4096 };
    struct engine_put *puts = calloc(MOST, sizeof *puts);
    if (!puts) return;
    size_t n = 0, bytes = 0;
    struct state_entry *x;
    DL_FOREACH (l->state.order, x) {
        if (x->offset >= l->state.boundary || n == MOST || bytes >= SLICE) break;
        if (x->pending > 0) continue;
        puts[n++] = (struct engine_put){key_of(x), hf_str_make(x->value, x->value_n)};
        bytes += cost(x);
    }
    struct engine_commit c = {.now_ms = env_wall_ms(l->env), .puts = puts, .put_count = n};
    if (n > 0 && commit_start(l, &c, NULL, NULL, rewritten, l) == HF_OK) l->state.rewriting++;
    free(puts);
}

static uint64_t length(const struct log_partition *p) {
    uint64_t n = 0;
    for (const struct segment *s = p->segments; s; s = s->next) n += s->size;
    return n;
}

static void move_start(struct log *l) {
    struct engine_low_water w = {HF_STR(LOG_STATE_TOPIC), 0, l->state.boundary};
    struct engine_commit c = {.now_ms = env_wall_ms(l->env), .low_waters = &w, .low_water_count = 1};
    if (commit_start(l, &c, NULL, NULL, rewritten, l)) return;
    l->state.rewriting++;
    l->state.boundary = -1;
}

void state_step(struct log *l) {
    struct state *s = &l->state;
    if (!l->open || l->closing || l->failed || s->rewriting > 0) return;
    if (s->boundary < 0) {
        /* Only a partition of several segments can give space back. */
        if (!s->p->segments->next) return;
        uint64_t n = length(s->p);
        if (n < SPARE || n < s->live_bytes * TIMES) return;
        s->boundary = s->p->end.offset;
    }
    if (s->order && s->order->offset < s->boundary)
        rewrite_slice(l);
    else
        move_start(l);
}
