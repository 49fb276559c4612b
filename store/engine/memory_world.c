/* What the memory engine keeps: topics with their records, state, runs, and the reading of them. Everything
 * given out is a fresh copy, freed by the next call on the same object, so that a sanitizer sees whoever
 * keeps what was borrowed. How things change is in memory.c. */
#include "memory_internal.h"

#include "base/names.h"

#include <stdlib.h>

/* ---- memory, chance, faults ---- */

void *memory_grab(size_t n) {
    void *p = calloc(1, n ? n : 1);
    if (!p) abort();
    return p;
}

hf_str memory_dup_str(hf_str s) {
    if (!s.p) return s;
    char *p = memory_grab(s.n);
    if (s.n) memcpy(p, s.p, s.n);
    return hf_str_make(p, s.n);
}

void memory_free_str(hf_str s) {
    free((void *)(uintptr_t)s.p);
}

void *memory_dup_array(const void *p, size_t count, size_t size) {
    void *copy = memory_grab(count * size);
    if (count) memcpy(copy, p, count * size);
    return copy;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t memory_chance(struct memory_engine *m, uint64_t below) {
    uint64_t z = m->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % below;
}

bool memory_coin(struct memory_engine *m) {
    return m->options.seed && memory_chance(m, 2);
}

enum hf_err memory_fault(struct memory_engine *m, enum memory_call call) {
    struct fault *f = &m->faults[call];
    f->calls++;
    if (f->times != 0) {
        if (f->skip > 0)
            f->skip--;
        else {
            if (f->times > 0) f->times--;
            return f->e;
        }
    }
    return f->per_mille && memory_chance(m, 1000) < f->per_mille ? f->rate_e : HF_OK;
}

void memory_engine_fail(struct memory_engine *m, enum memory_call call, enum hf_err e, uint64_t skip,
                        int times) {
    m->faults[call].e = e;
    m->faults[call].skip = skip;
    m->faults[call].times = times;
}

void memory_engine_fail_rate(struct memory_engine *m, enum memory_call call, enum hf_err e,
                             unsigned per_mille) {
    m->faults[call].rate_e = e;
    m->faults[call].per_mille = per_mille;
}

uint64_t memory_engine_calls(const struct memory_engine *m, enum memory_call call) {
    return m->faults[call].calls;
}

/* ---- records ---- */

static hf_str pack(char **at, hf_str s) {
    if (!s.p) return s;
    hf_str copy = {*at, s.n};
    if (s.n) memcpy(*at, s.p, s.n);
    *at += s.n;
    return copy;
}

struct stored memory_record_copy(const struct engine_record *r) {
    size_t n = sizeof(struct hf_header) * r->header_count + r->key.n + r->value.n + 1;
    for (size_t i = 0; i < r->header_count; i++) n += r->headers[i].key.n + r->headers[i].value.n;
    struct stored s = {.r = *r, .memory = memory_grab(n)};
    struct hf_header *headers = s.memory;
    char *at = (char *)(headers + r->header_count);
    s.r.key = pack(&at, r->key);
    s.r.value = pack(&at, r->value);
    for (size_t i = 0; i < r->header_count; i++) {
        headers[i].key = pack(&at, r->headers[i].key);
        headers[i].value = pack(&at, r->headers[i].value);
    }
    s.r.headers = headers;
    return s;
}

void memory_partition_push(struct partition *p, struct stored s) {
    if (p->first + p->count == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 16;
        p->records = realloc(p->records, p->cap * sizeof *p->records);
        if (!p->records) abort();
    }
    p->records[p->first + p->count++] = s;
    p->stable = s.r.offset + 1;
}

void memory_partition_drop_below(struct partition *p, int64_t offset) {
    while (p->count > 0 && p->records[p->first].r.offset < offset) {
        free(p->records[p->first++].memory);
        p->count--;
    }
    if (p->start < offset) p->start = offset;
}

/* Index of the first record at or after offset. */
static size_t partition_find(const struct partition *p, int64_t offset) {
    size_t low = 0, high = p->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (p->records[p->first + mid].r.offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* ---- state ---- */

void memory_state_delete(struct memory_engine *m, struct pair *p) {
    HASH_DEL(m->state, p);
    memory_free_str(p->key);
    memory_free_str(p->value);
    free(p);
}

void memory_state_put(struct memory_engine *m, hf_str key, hf_str value) {
    struct pair *p;
    HASH_FIND(hh, m->state, key.p, key.n, p);
    if (p) memory_state_delete(m, p);
    if (!value.p) return;
    p = memory_grab(sizeof *p);
    p->key = memory_dup_str(key);
    p->value = memory_dup_str(value);
    HASH_ADD_KEYPTR(hh, m->state, p->key.p, p->key.n, p);
}

static int by_key(const struct pair *a, const struct pair *b) {
    return hf_str_cmp(a->key, b->key);
}

void memory_state_each(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                       void *arg) {
    struct memory_engine *m = memory_of(e);
    HASH_SORT(m->state, by_key);
    struct pair *p, *tmp;
    HASH_ITER (hh, m->state, p, tmp)
        if (hf_str_starts(p->key, prefix)) fn(arg, p->key, p->value);
}

hf_str memory_state_get(struct engine *e, hf_str key) {
    struct memory_engine *m = memory_of(e);
    struct pair *p;
    HASH_FIND(hh, m->state, key.p, key.n, p);
    memory_free_str(m->got);
    m->got = p ? memory_dup_str(p->value) : (hf_str){NULL, 0};
    return m->got;
}

int64_t memory_committed(struct engine *e, hf_str group, hf_str topic, int32_t partition) {
    struct hf_buf key;
    hf_buf_init(&key, SIZE_MAX);
    engine_offset_key(&key, group, topic, partition);
    hf_str value = memory_state_get(e, hf_buf_view(&key));
    hf_buf_fini(&key);
    return value.n >= 8 ? (int64_t)hf_get_be64(value.p) : -1;
}

void memory_engine_commit_offset(struct memory_engine *m, hf_str group, hf_str topic, int32_t partition,
                                 int64_t offset) {
    struct hf_buf key;
    uint8_t value[8];
    hf_buf_init(&key, SIZE_MAX);
    engine_offset_key(&key, group, topic, partition);
    hf_put_be64(value, (uint64_t)offset);
    memory_state_put(m, hf_buf_view(&key), hf_str_make(value, sizeof value));
    hf_buf_fini(&key);
}

/* ---- topics ---- */

struct topic *memory_topic_entry(struct memory_engine *m, hf_str name) {
    struct topic *t;
    HASH_FIND(hh, m->topics, name.p, name.n, t);
    if (t) return t;
    t = memory_grab(sizeof *t);
    t->name = memory_dup_str(name);
    t->last_ms = INT64_MIN;
    t->next_sequence = 1;
    HASH_ADD_KEYPTR(hh, m->topics, t->name.p, t->name.n, t);
    return t;
}

struct topic *memory_topic_find(struct memory_engine *m, hf_str name) {
    struct topic *t;
    HASH_FIND(hh, m->topics, name.p, name.n, t);
    return t && t->partition_count > 0 ? t : NULL;
}

struct partition *memory_partition_at(struct memory_engine *m, hf_str topic, int32_t number) {
    struct topic *t = memory_topic_find(m, topic);
    return t && number >= 0 && number < t->partition_count ? &t->partitions[number] : NULL;
}

void memory_topic_serve(struct topic *t, int32_t partitions) {
    t->partition_count = partitions;
    t->partitions = memory_grab((size_t)partitions * sizeof *t->partitions);
    t->creating = false;
}

void memory_topic_free(struct topic *t) {
    for (int32_t i = 0; i < t->partition_count; i++) {
        memory_partition_drop_below(&t->partitions[i], INT64_MAX);
        free(t->partitions[i].records);
    }
    free(t->partitions);
    memory_free_str(t->name);
    free(t);
}

size_t memory_record_max(struct engine *e, hf_str topic) {
    struct memory_engine *m = memory_of(e);
    return memory_topic_find(m, topic) ? m->options.record_max : 0;
}

enum hf_err memory_bounds(struct engine *e, hf_str topic, int32_t partition, int64_t *start,
                          int64_t *stable_end) {
    struct partition *p = memory_partition_at(memory_of(e), topic, partition);
    if (!p) return HF_ENOTFOUND;
    *start = p->start;
    *stable_end = p->stable;
    return HF_OK;
}

void memory_time_floor(struct engine *e, hf_str topic, int64_t ms) {
    struct topic *t = memory_topic_entry(memory_of(e), topic);
    if (t->last_ms < ms) t->last_ms = ms;
}

void memory_watch(struct engine *e, hf_str topic, void (*fn)(void *arg), void *arg) {
    struct topic *t = memory_topic_entry(memory_of(e), topic);
    t->watch = fn;
    t->watch_arg = arg;
}

enum hf_err memory_engine_topic_create(struct memory_engine *m, hf_str name, int32_t partitions) {
    struct topic *t = memory_topic_entry(m, name);
    if (t->partition_count > 0) return HF_EEXIST;
    memory_topic_serve(t, partitions);
    return HF_OK;
}

/* Is this "offset/" group 0 topic 0 partition? */
static bool key_is_offset_of(hf_str key, hf_str topic) {
    if (!hf_str_starts(key, HF_STR("offset/"))) return false;
    const char *end = key.p + key.n, *zero = memchr(key.p, 0, key.n);
    if (!zero || (size_t)(end - zero - 1) <= topic.n) return false;
    return memcmp(zero + 1, topic.p, topic.n) == 0 && zero[1 + topic.n] == 0;
}

enum hf_err memory_engine_topic_delete(struct memory_engine *m, hf_str name) {
    struct topic *t = memory_topic_find(m, name);
    if (!t) return HF_ENOTFOUND;
    HASH_DEL(m->topics, t);
    t->deleted = true; /* operations under way still point to it */
    LL_PREPEND2(m->deleted, t, next_deleted);
    if (t->watch) memory_watch(&m->base, name, t->watch, t->watch_arg);
    struct pair *p, *tmp;
    HASH_ITER (hh, m->state, p, tmp)
        if (key_is_offset_of(p->key, name)) memory_state_delete(m, p);
    return HF_OK;
}

/* ---- reading ---- */

enum hf_err memory_cursor_open(struct engine *e, hf_str topic, int32_t partition,
                               struct engine_cursor **out) {
    if (!memory_partition_at(memory_of(e), topic, partition)) return HF_ENOTFOUND;
    struct cursor *c = memory_grab(sizeof *c);
    c->base.engine = e;
    c->topic = memory_dup_str(topic);
    c->partition = partition;
    *out = &c->base;
    return HF_OK;
}

void memory_cursor_close(struct engine_cursor *base) {
    struct cursor *c = (struct cursor *)base;
    memory_free_str(c->topic);
    free(c->given.memory);
    free(c);
}

void memory_cursor_seek(struct engine_cursor *base, int64_t offset) {
    ((struct cursor *)base)->position = offset;
}

enum hf_err memory_cursor_next(struct engine_cursor *base, struct engine_record *out) {
    struct cursor *c = (struct cursor *)base;
    struct memory_engine *m = memory_of(base->engine);
    free(c->given.memory);
    c->given.memory = NULL;
    enum hf_err injected = memory_fault(m, MEMORY_CURSOR_NEXT);
    if (injected) return injected;
    const struct partition *p = memory_partition_at(m, c->topic, c->partition);
    if (!p) return HF_EEND;
    if (c->position < p->start) c->position = p->start;
    size_t i = partition_find(p, c->position);
    if (i == p->count) return HF_EEND;
    c->given = memory_record_copy(&p->records[p->first + i].r);
    c->position = c->given.r.offset + 1;
    *out = c->given.r;
    return HF_OK;
}

void memory_engine_each(struct memory_engine *m, hf_str topic, int32_t partition,
                        void (*fn)(void *arg, const struct engine_record *r), void *arg) {
    const struct partition *p = memory_partition_at(m, topic, partition);
    for (size_t i = 0; p && i < p->count; i++) fn(arg, &p->records[p->first + i].r);
}

/* ---- runs ---- */

struct run *memory_run_find(struct memory_engine *m, uint64_t id) {
    struct run *r;
    HASH_FIND(hh, m->runs, &id, sizeof id, r);
    return r;
}

void memory_run_delete(struct memory_engine *m, struct run *r) {
    HASH_DEL(m->runs, r);
    hf_buf_fini(&r->bytes);
    free(r);
}

void memory_writer_free(struct writer *w) {
    if (w->run) hf_buf_fini(&w->run->bytes);
    free(w->run);
    free(w);
}

static uint64_t bytes_of_runs(const struct memory_engine *m) {
    uint64_t bytes = 0;
    for (const struct run *r = m->runs; r; r = r->hh.next) bytes += r->bytes.n;
    return bytes;
}

uint64_t memory_room(struct engine *e) {
    const struct memory_engine *m = memory_of(e);
    if (!m->limited) return UINT64_MAX;
    uint64_t used = bytes_of_runs(m);
    return used < m->disk ? m->disk - used : 0;
}

void memory_engine_set_room(struct memory_engine *m, uint64_t bytes) {
    m->limited = bytes < UINT64_MAX;
    m->disk = bytes_of_runs(m) + bytes;
}

enum hf_err memory_run_begin(struct engine *e, uint64_t bucket, struct engine_run_writer **out) {
    enum hf_err injected = memory_fault(memory_of(e), MEMORY_RUN_BEGIN);
    if (injected) return injected;
    struct writer *w = memory_grab(sizeof *w);
    w->base.engine = e;
    w->run = memory_grab(sizeof *w->run);
    w->run->bucket = bucket;
    hf_buf_init(&w->run->bytes, SIZE_MAX / 2);
    *out = &w->base;
    return HF_OK;
}

enum hf_err memory_run_append(struct engine_run_writer *base, const void *p, size_t n) {
    enum hf_err injected = memory_fault(memory_of(base->engine), MEMORY_RUN_APPEND);
    if (injected) return injected;
    struct hf_buf *bytes = &((struct writer *)base)->run->bytes;
    hf_buf_put(bytes, p, n);
    return hf_buf_failed(bytes);
}

void memory_run_abort(struct engine_run_writer *base) {
    memory_writer_free((struct writer *)base);
}

size_t memory_engine_runs(const struct memory_engine *m) {
    return HASH_COUNT(m->runs);
}

void memory_run_discard(struct engine *e, uint64_t id) {
    struct memory_engine *m = memory_of(e);
    struct run *r = memory_run_find(m, id);
    bool dropping = false;
    for (const struct op *op = m->ops; op; op = op->next)
        for (size_t i = 0; i < op->dropped_count; i++) dropping |= op->dropped[i] == id;
    if (r && !r->named && !dropping) memory_run_delete(m, r);
}

static int by_id(const struct run *a, const struct run *b) {
    return a->id < b->id ? -1 : a->id > b->id;
}

void memory_run_each(struct engine *e, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
                     void *arg) {
    struct memory_engine *m = memory_of(e);
    HASH_SORT(m->runs, by_id);
    struct run *r, *tmp;
    HASH_ITER (hh, m->runs, r, tmp)
        if (r->named) fn(arg, r->id, r->bucket, r->bytes.n);
}

enum hf_err memory_run_read(struct engine *e, uint64_t id, uint64_t offset, void *p, size_t n) {
    struct memory_engine *m = memory_of(e);
    enum hf_err injected = memory_fault(m, MEMORY_RUN_READ);
    if (injected) return injected;
    const struct run *r = memory_run_find(m, id);
    if (!r) return HF_ENOTFOUND;
    if (offset > r->bytes.n || n > r->bytes.n - offset) return HF_EEND;
    if (n) memcpy(p, r->bytes.p + offset, n);
    return HF_OK;
}
