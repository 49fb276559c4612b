/* What the coordinator keeps as state of the engine, and what a restart makes of it.
 *
 *     key                       value
 *     txn/applied               how far each partition of holdfast.txn is processed
 *     txn/l/<group> 0x00 <id>   a transaction that is not finished
 *     txn/d/<16 hex digits>     256 decided ids (decided.h)
 *     txn/x/<4 hex digits>      an exception, by its number modulo the ring
 *
 * Every commit puts txn/applied with all that changed up to there, so the stored state is always the state
 * after some prefix of the topic, in the order of acceptance. A restart loads it and goes on reading; nothing
 * is read twice for effect, and nothing depends on limits or clocks of an earlier run.
 *
 * Values, big-endian; varints as in Kafka:
 *
 *     applied     0  next offset    int64, one for each partition
 *
 *     live        0  version        int8 = 1
 *                 1  state          int8 (state.h)
 *                 2  bare           int8: its checks carry no value
 *                 3  varints        sequence, created, last prepare, check after, decided (ms),
 *                                   checks sent, checks read, halves
 *                    each half      varints partition, offset, bytes; uint64 hash of hf-message-id
 *
 *     exception   0  number         uint64
 *                 8  sequence       uint64
 *                16  time           int64, ms
 *                24  offset         int64
 *                32  partition      int32
 *                36  outcome        int8
 *                37  length of group, int16; group; the rest is the id */
#include "internal.h"

#include <assert.h>
#include <stdlib.h>

#define KEY_APPLIED   "txn/applied"
#define KEY_LIVE      "txn/l/"
#define KEY_CHUNK     "txn/d/"
#define KEY_EXCEPTION "txn/x/"

enum { LIVE_VERSION = 1, LIVE_FIXED = 128 };

/* ---- write ---- */

static hf_str live_key(struct flight *f, const struct live *x) {
    size_t prefix = sizeof KEY_LIVE - 1, n = (size_t)x->group_n + 1 + x->id_n;
    char *key = hf_arena_alloc(&f->arena, prefix + n);
    if (!key) return (hf_str){NULL, 0};
    memcpy(key, KEY_LIVE, prefix);
    memcpy(key + prefix, x->key, n);
    return hf_str_make(key, prefix + n);
}

static void put(struct flight *f, hf_str key, hf_str value) {
    struct engine_put *p = key.p ? flight_put(f) : NULL;
    if (p)
        *p = (struct engine_put){key, value};
    else
        f->e = HF_ENOMEM;
}

/* Puts what was written to b, whose memory is the arena's. */
static void put_buf(struct flight *f, hf_str key, struct hf_buf *b) {
    hf_str value = hf_arena_str(&f->arena, hf_buf_view(b));
    if (hf_buf_failed(b) || !value.p)
        f->e = HF_ENOMEM;
    else
        put(f, key, value);
    hf_buf_fini(b);
}

void stored_live(struct flight *f, const struct live *x) {
    struct hf_buf b;
    hf_buf_init(&b, LIVE_FIXED + (size_t)x->half_count * STORED_HALF);
    hf_buf_u8(&b, LIVE_VERSION);
    hf_buf_u8(&b, (uint8_t)x->state);
    hf_buf_u8(&b, x->bare);
    hf_buf_uvarint(&b, x->sequence);
    hf_buf_varint(&b, x->created_ms);
    hf_buf_varint(&b, x->last_prepare_ms);
    hf_buf_varint(&b, x->check_after_ms);
    hf_buf_varint(&b, x->decided_ms);
    hf_buf_uvarint(&b, (uint64_t)x->sent);
    hf_buf_uvarint(&b, (uint64_t)x->counted);
    hf_buf_uvarint(&b, x->half_count);
    for (const struct half *h = x->halves; h; h = h->next) {
        hf_buf_uvarint(&b, (uint64_t)h->partition);
        hf_buf_uvarint(&b, (uint64_t)h->offset);
        hf_buf_uvarint(&b, h->bytes);
        hf_buf_be64(&b, h->message);
    }
    put_buf(f, live_key(f, x), &b);
}

void stored_live_gone(struct flight *f, const struct live *x) {
    put(f, live_key(f, x), (hf_str){NULL, 0});
}

void stored_applied(struct txn *t, struct flight *f) {
    struct hf_buf b;
    hf_buf_init(&b, 8 * TXN_PARTITIONS_MAX);
    for (int32_t p = 0; p < t->input_count; p++) {
        f->applied[p] = t->inputs[p].next;
        hf_buf_be64(&b, (uint64_t)t->inputs[p].next);
    }
    put_buf(f, HF_STR(KEY_APPLIED), &b);
}

void stored_exception(struct flight *f, const struct exception *e) {
    struct hf_buf b;
    hf_buf_init(&b, sizeof *e);
    hf_buf_be64(&b, e->number);
    hf_buf_be64(&b, e->sequence);
    hf_buf_be64(&b, (uint64_t)e->time_ms);
    hf_buf_be64(&b, (uint64_t)e->offset);
    hf_buf_be32(&b, (uint32_t)e->partition);
    hf_buf_u8(&b, (uint8_t)e->outcome);
    hf_buf_be16(&b, e->group_n);
    hf_buf_put(&b, e->text, (size_t)e->group_n + e->id_n);
    unsigned place = (unsigned)(e->number % TXN_EXCEPTIONS_MAX);
    put_buf(f, hf_arena_printf(&f->arena, KEY_EXCEPTION "%04x", place), &b);
}

static hf_str chunk_key(struct flight *f, uint64_t number) {
    return hf_arena_printf(&f->arena, KEY_CHUNK "%016llx", (unsigned long long)number);
}

void stored_chunk(struct flight *f, const struct txn_chunk *c) {
    struct hf_buf b;
    hf_buf_init(&b, TXN_CHUNK_BYTES);
    txn_chunk_encode(c, &b);
    put_buf(f, chunk_key(f, c->number), &b);
}

void stored_chunk_gone(struct flight *f, uint64_t number) {
    put(f, chunk_key(f, number), (hf_str){NULL, 0});
}

/* ---- read ---- */

struct loading {
    struct txn *t;
    struct live **found; /* every transaction, to be put in order */
    size_t found_count, found_room;
    enum hf_err e;
};

static enum hf_err read_halves(struct txn *t, struct live *x, struct hf_reader *r, uint64_t count) {
    if (count > TXN_HALVES_MAX) return HF_ECORRUPT;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t partition = hf_read_uvarint32(r);
        uint64_t offset = hf_read_uvarint64(r);
        uint32_t bytes = hf_read_uvarint32(r);
        uint64_t message = hf_read_be64(r);
        if (r->bad || partition >= (uint32_t)t->input_count || offset > INT64_MAX) return HF_ECORRUPT;
        struct half *h = malloc(sizeof *h);
        if (!h) return HF_ENOMEM;
        *h = (struct half){
            .offset = (int64_t)offset, .message = message, .bytes = bytes, .partition = (int32_t)partition};
        live_add_half(t, x, h);
    }
    return r->bad || hf_reader_left(r) > 0 ? HF_ECORRUPT : HF_OK;
}

static enum hf_err read_live(struct txn *t, struct live *x, struct hf_reader *r, uint8_t state) {
    x->bare = hf_read_u8(r);
    x->sequence = hf_read_uvarint64(r);
    x->created_ms = hf_read_varint64(r);
    x->last_prepare_ms = hf_read_varint64(r);
    x->check_after_ms = hf_read_varint64(r);
    x->decided_ms = hf_read_varint64(r);
    uint32_t sent = hf_read_uvarint32(r), counted = hf_read_uvarint32(r);
    if (r->bad || state == TXN_NONE || state >= TXN_STATES || sent > INT32_MAX || counted > sent)
        return false;
    x->sent = (int32_t)sent;
    x->counted = (int32_t)counted;
    x->stored = true;
    live_set_state(t, x, (enum txn_state)state);
    return read_halves(t, x, r, hf_read_uvarint64(r));
}

static void load_live(void *arg, hf_str key, hf_str value) {
    struct loading *l = arg;
    if (l->e) return;
    if (l->found_count == l->found_room) {
        size_t room = l->found_room ? l->found_room * 2 : 64;
        struct live **bigger = realloc(l->found, room * sizeof(struct live *));
        if (!bigger) {
            l->e = HF_ENOMEM;
            return;
        }
        l->found = bigger;
        l->found_room = room;
    }
    hf_str name = hf_str_make(key.p + sizeof KEY_LIVE - 1, key.n - (sizeof KEY_LIVE - 1));
    const char *zero = memchr(name.p, 0, name.n);
    size_t group_n = zero ? (size_t)(zero - name.p) : name.n;
    struct hf_reader r = hf_reader_of(value.p, value.n);
    uint8_t version = hf_read_u8(&r), state = hf_read_u8(&r);
    if (!zero || group_n > HF_TOPIC_NAME_MAX || name.n - group_n - 1 > HF_ID_MAX || version != LIVE_VERSION) {
        l->e = HF_ECORRUPT;
        return;
    }
    struct live *x =
        live_new(l->t, hf_str_make(name.p, group_n), hf_str_make(zero + 1, name.n - group_n - 1), 0);
    l->e = x ? read_live(l->t, x, &r, state) : HF_ENOMEM;
    if (!l->e) l->found[l->found_count++] = x;
}

static void load_chunk(void *arg, hf_str key, hf_str value) {
    struct loading *l = arg;
    uint64_t number = 0;
    for (size_t i = sizeof KEY_CHUNK - 1; i < key.n; i++) {
        char c = key.p[i];
        number = number << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (!l->e) l->e = txn_decided_load(&l->t->decided, number, value);
}

static void load_exception(void *arg, hf_str key, hf_str value) {
    struct loading *l = arg;
    (void)key;
    struct hf_reader r = hf_reader_of(value.p, value.n);
    struct exception e = {.number = hf_read_be64(&r), .sequence = hf_read_be64(&r)};
    e.time_ms = (int64_t)hf_read_be64(&r);
    e.offset = (int64_t)hf_read_be64(&r);
    e.partition = (int32_t)hf_read_be32(&r);
    uint8_t outcome = hf_read_u8(&r);
    e.group_n = hf_read_be16(&r);
    size_t left = hf_reader_left(&r);
    if (l->e) return;
    if (r.bad || outcome >= TXN_OUTCOMES || left > sizeof e.text || left < e.group_n) {
        l->e = HF_ECORRUPT;
        return;
    }
    e.outcome = (enum txn_outcome)outcome;
    e.id_n = (uint16_t)(left - e.group_n);
    memcpy(e.text, hf_read_bytes(&r, left).p, left);
    struct exception **at = &l->t->exceptions[e.number % TXN_EXCEPTIONS_MAX];
    if (!*at) *at = malloc(sizeof **at);
    if (!*at) {
        l->e = HF_ENOMEM;
        return;
    }
    **at = e;
    if (l->t->exception_next <= e.number) l->t->exception_next = e.number + 1;
}

/* ---- put in order ---- */

static int by_sequence(const struct live *a, const struct live *b) {
    return a->sequence < b->sequence ? -1 : a->sequence > b->sequence;
}

static int by_decision(const void *va, const void *vb) {
    const struct live *a = *(struct live *const *)va, *b = *(struct live *const *)vb;
    if (a->decided_ms != b->decided_ms) return a->decided_ms < b->decided_ms ? -1 : 1;
    return by_sequence(a, b);
}

static int by_offset(const void *va, const void *vb) {
    const struct half *a = *(struct half *const *)va, *b = *(struct half *const *)vb;
    if (a->partition != b->partition) return a->partition < b->partition ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static enum hf_err link_halves(struct loading *l) {
    size_t count = 0, at = 0;
    for (size_t i = 0; i < l->found_count; i++) count += l->found[i]->half_count;
    struct half **all = malloc((count + 1) * sizeof(struct half *));
    if (!all) return HF_ENOMEM;
    for (size_t i = 0; i < l->found_count; i++)
        for (struct half *h = l->found[i]->halves; h; h = h->next) all[at++] = h;
    qsort(all, count, sizeof(struct half *), by_offset);
    bool twice = false;
    for (size_t i = 1; i < count; i++) twice |= by_offset(&all[i - 1], &all[i]) == 0;
    for (size_t i = 0; i < count && !twice; i++) half_link(l->t, all[i]);
    free(all);
    return twice ? HF_ECORRUPT : HF_OK;
}

/* Queues and timers, in an order that does not depend on how keys sort. */
static enum hf_err revive(struct loading *l) {
    struct txn *t = l->t;
    HASH_SORT(t->table, by_sequence);
    if (l->found_count > 0) qsort(l->found, l->found_count, sizeof(struct live *), by_decision);
    for (size_t i = 0; i < l->found_count; i++) {
        struct live *x = l->found[i];
        if (x->state == TXN_COMMITTED) live_queue(t, x, QUEUE_MOVES);
        if (x->state == TXN_ROLLED_BACK) live_dirty(t, x);
        enum hf_err e = x->state == TXN_PREPARED ? check_restore(t, x) : HF_OK;
        if (e) return e;
    }
    return HF_OK;
}

static enum hf_err load_applied(struct txn *t) {
    hf_str v = engine_state_get(t->engine, HF_STR(KEY_APPLIED));
    if (v.n % 8 != 0 || v.n / 8 > (size_t)t->input_count) return HF_ECORRUPT;
    for (int32_t p = 0; p < t->input_count; p++) {
        struct input *in = &t->inputs[p];
        in->next = (size_t)p < v.n / 8 ? (int64_t)hf_get_be64(v.p + 8 * p) : 0;
        in->durable = in->next;
        in->has_head = false;
        in->retry_ms = 0;
        engine_cursor_seek(in->records, in->next);
    }
    return HF_OK;
}

enum hf_err stored_load(struct txn *t) {
    struct loading l = {.t = t};
    t->exception_next = 0;
    l.e = load_applied(t);
    if (!l.e) engine_state_each(t->engine, HF_STR(KEY_LIVE), load_live, &l);
    if (!l.e) engine_state_each(t->engine, HF_STR(KEY_CHUNK), load_chunk, &l);
    if (!l.e) engine_state_each(t->engine, HF_STR(KEY_EXCEPTION), load_exception, &l);
    if (!l.e) l.e = link_halves(&l);
    if (!l.e) l.e = revive(&l);
    t->exception_stored = t->exception_next;
    free(l.found);
    return l.e;
}
