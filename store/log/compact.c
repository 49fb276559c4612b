/* Compaction: of a topic's records with the same key only the latest is needed; those before it go.
 *
 * One partition at a time is compacted, a little in each step of the log. A run has two parts:
 *
 *     MAP    the part not yet compacted is read, [cleaned, map_end): for each key, the offset of its latest
 *            record. Memory for keys is limited: where it ends, so does the part, and another run follows.
 *     COPY   segments from the first up to map_end are read in groups, each of which fits into one segment,
 *            and written anew without the records for which the map knows a later one. The new segment takes
 *            the place of its group by one record of the journal (swap.c).
 *
 * What is read is durable and settled: only closed segments take part, with whole manifests, wholly below the
 * last checkpoint's facts, in the map too [L20]. So no record goes for one that loss of power could take
 * back, and none of the files changes that recovery looks at before it has read the journal.
 *
 * What stays though it is not the latest: records without a key; control batches and those of transactions,
 * which another broker left here; batches that cannot be read (then the whole partition is left alone); of
 * each idempotent producer's last batch the header; what is younger than min.compaction.lag.ms. Offsets stay
 * what they are. A record without a value deletes its key, and goes itself delete.retention.ms after a
 * compaction first saw it (engine/batch_filter.c).
 *
 * `cleaned` is a hint: lost or old, it makes a run longer. It is a fact of the snapshot.
 *
 * A step reads little, and rests as long as it worked, a millisecond at least: clients come first.
 *
 *     IDLE ─► MAP ─► COPY ─► (swap.c: SYNC ─► RECORD ─► RENAMED ─► done) ─► COPY, the next group
 *       ▲                                                                     │ no more: cleaned = map_end
 *       └─────────────────────────────────────────────────────────────────────┘
 *
 * While a run works the start of its partition trims no files. A topic that is deleted meanwhile, a full
 * disk, a clean stop: the new segment is thrown away, the old ones are untouched. */
#include "log_internal.h"

#include <stdlib.h>

enum {
    STEP_BYTES = 128 << 10, /* read in a step, at least one batch */
    REST_US = 1000,
    MILLION = 1000000,
    RECORDS_MAX = 64 << 20, /* of a batch; more where max.message.bytes is more */
    GROUP_SEGMENTS = 256,   /* old segments in a group */
    BATCH_MAX = 512 << 20,  /* the largest legal batch */
};

struct key {
    int64_t offset; /* of the latest record */
    UT_hash_handle hh;
    size_t n;
    uint8_t bytes[];
};

/* ---- which partition ---- */

static bool compacts(const struct log_partition *p) {
    return !p->gone && p->topic->phase == TOPIC_LIVE && !p->topic->config.internal &&
           p->topic->config.settings.value[LOG_CLEANUP_POLICY] & LOG_CLEANUP_COMPACT;
}

/* May be changed [L20]. */
static bool settled(const struct segment *s) {
    return s->next && (s->next->base <= s->p->settled || hf_mutate(21));
}

/* Takes part: its youngest record is old enough, or it was compacted before. */
static bool takes_part(const struct segment *s, int64_t now_ms) {
    int64_t lag_ms = s->p->topic->config.settings.value[LOG_COMPACTION_LAG];
    return settled(s) && (s->next->base <= s->p->cleaned || lag_ms == 0 || now_ms - s->max_ts >= lag_ms);
}

static enum hf_err measure(struct log_partition *p, int64_t now_ms, uint64_t *dirty, uint64_t *all) {
    *dirty = *all = 0;
    for (struct segment *s = p->segments; settled(s); s = s->next) {
        enum hf_err e = retention_known_size(p->log, s);
        if (e) return e;
        if (!takes_part(s, now_ms)) break;
        *all += s->size;
        if (s->next->base > p->cleaned) *dirty += s->size;
    }
    return HF_OK;
}

/* Puts a partition on the row if enough of it is new since the last run. HF_EAGAIN: not yet known, comes
 * again with the next step. */
enum hf_err compaction_consider(struct log *l, struct log_partition *p, int64_t now_ms) {
    uint64_t dirty, all;
    if (!compacts(p) || p->compaction_asked || p->compacting || p->uncompactable) return HF_OK;
    enum hf_err e = measure(p, now_ms, &dirty, &all);
    if (e || dirty == 0) return e == HF_EAGAIN ? e : HF_OK; /* what cannot be read stays as it is */
    uint64_t share = (uint64_t)p->topic->config.settings.value[LOG_DIRTY_RATIO]; /* of a million */
    if (dirty < all / MILLION * share + all % MILLION * share / MILLION) return HF_OK;
    p->compaction_asked = true;
    partition_ref(p);
    p->compaction_next = NULL;
    struct log_partition **end = &l->compaction.row;
    while (*end) end = &(*end)->compaction_next;
    *end = p;
    return HF_OK;
}

/* ---- reading ---- */

static enum hf_err refuse(struct compaction *c, const char *why) {
    char path[LOG_PATH];
    segment_path(c->at, "log", path);
    env_log(c->log->env, ENV_ERROR, "compaction_refused", "file=%s byte=%llu reason=\"%s\"", path,
            (unsigned long long)c->pos, why);
    c->p->uncompactable = true;
    return HF_ECORRUPT;
}

/* The batch at c->pos, whole, its checksum right. HF_EEND: the segment ends. */
static enum hf_err read_batch(struct compaction *c, struct batch_info *b) {
    struct segment *s = c->at;
    enum hf_err e = segment_open(s);
    if (e) return e;
    if (c->pos >= s->size) return HF_EEND;
    e = proof_at(s, c->pos);
    if (!e) e = read_header(s, c->pos, s->size, b);
    if (e) return e == HF_EEND || e == HF_ECORRUPT ? refuse(c, "damaged") : e;
    hf_buf_reset(&c->batch);
    uint8_t *p = hf_buf_room(&c->batch, b->size);
    e = p ? segment_read(s, c->pos, p, b->size) : hf_buf_failed(&c->batch);
    if (e) return e;
    c->batch.n = b->size;
    return batch_crc_ok(p, b) ? HF_OK : refuse(c, "checksum");
}

/* ---- MAP ---- */

static bool note_key(void *arg, const struct batch_info *b, const struct batch_record *r) {
    struct compaction *c = arg;
    int64_t offset = b->base_offset + r->offset_delta;
    if (!r->key.p || c->failed) return true;
    struct key *k;
    HASH_FIND(hh, c->keys, r->key.p, r->key.n, k);
    if (!k) {
        k = hf_arena_alloc(&c->memory, sizeof *k + r->key.n);
        if (!k) {
            c->failed = HF_ENOMEM;
            return true;
        }
        if (r->key.n) memcpy(k->bytes, r->key.p, r->key.n);
        k->n = r->key.n;
        HASH_ADD_KEYPTR(hh, c->keys, k->bytes, k->n, k);
        if (!k->hh.tbl) {
            c->failed = HF_ENOMEM;
            return true;
        }
        c->key_bytes += sizeof *k + k->n;
    }
    k->offset = offset;
    return true;
}

static bool has_records(const struct batch_info *b) {
    return !(b->attributes & (BATCH_ATTR_CONTROL | BATCH_ATTR_TRANSACTIONAL)) && b->record_count > 0;
}

/* One batch more in the map. HF_EEND: all of it, or as much as there is memory for. */
static enum hf_err map_batch(struct compaction *c, size_t *read) {
    struct batch_info b;
    enum hf_err e = read_batch(c, &b);
    if (e == HF_EEND) {
        c->map_end = c->at->next->base;
        c->at = c->at->next;
        c->pos = 0;
        return c->at->base < c->limit ? HF_OK : HF_EEND;
    }
    if (e) return e;
    if (c->key_bytes >= c->log->o.compaction_bytes) return HF_EEND;
    if (has_records(&b) && b.base_offset + b.last_offset_delta >= c->p->cleaned)
        e = batch_filter_look(c->filter, c->batch.p, &b, note_key, c);
    if (!e) e = c->failed;
    if (e) return e == HF_ENOMEM ? e : refuse(c, hf_err_text(e));
    *read += b.size;
    c->pos += b.size;
    c->map_end = b.base_offset + b.last_offset_delta + 1;
    return HF_OK;
}

/* ---- COPY ---- */

/* [L20] */
static bool stays(void *arg, const struct batch_info *b, const struct batch_record *r) {
    struct compaction *c = arg;
    struct key *k;
    int64_t offset = b->base_offset + r->offset_delta;
    if (!r->key.p || offset >= c->map_end) return true;
    HASH_FIND(hh, c->keys, r->key.p, r->key.n, k);
    if (k && k->offset > offset) return false;
    bool had_its_time = b->attributes & BATCH_ATTR_HORIZON && b->base_timestamp <= c->now_ms;
    return r->value.p || !had_its_time;
}

static enum hf_err copy_batch(struct compaction *c, const struct batch_info *b) {
    struct log_partition *p = c->p;
    bool changed = false;
    int64_t horizon_ms = c->now_ms + p->topic->config.settings.value[LOG_DELETE_RETENTION];
    hf_buf_reset(&c->out);
    if (!has_records(b) || b->base_offset >= c->map_end) {
        bool needed =
            b->record_count > 0 || producer_ends_with(p, b); /* an empty one is of old kept for that */
        changed = !needed;
        if (needed) hf_buf_str(&c->out, hf_buf_view(&c->batch));
    } else {
        enum hf_err e = batch_filter_run(c->filter, c->batch.p, b, stays, c, producer_ends_with(p, b),
                                         horizon_ms, &c->out, &changed);
        if (e == HF_ENOMEM) return e;
        if (e) return refuse(c, hf_err_text(e));
    }
    c->changed = c->changed || changed;
    enum hf_err e = hf_buf_failed(&c->out);
    return e || c->out.n == 0 ? e : swap_append(c, hf_buf_view(&c->out));
}

/* The old segments from c->first up to, not with, c->upto fit into one. All have been measured. */
static void draw_group(struct compaction *c) {
    struct segment *s = c->first;
    uint64_t most = c->p->topic->config.segment_bytes, size = 0;
    size_t n = 0;
    do {
        size += s->size;
        s = s->next;
        n++;
    } while (s->base < c->map_end && settled(s) && n < GROUP_SEGMENTS && s->sized && size + s->size <= most &&
             s->next->base - c->first->base <= INT32_MAX);
    c->upto = s;
    c->at = c->first;
    c->pos = 0;
    c->changed = n > 1;
}

static enum hf_err copy_some(struct compaction *c, size_t *read) {
    struct batch_info b;
    enum hf_err e = read_batch(c, &b);
    if (!e) e = copy_batch(c, &b);
    if (!e) {
        *read += b.size;
        c->pos += b.size;
        return HF_OK;
    }
    if (e != HF_EEND) return e;
    c->at = c->at->next;
    c->pos = 0;
    return c->at == c->upto ? HF_EEND : HF_OK;
}

/* ---- a run ---- */

static void free_keys(struct compaction *c) {
    HASH_CLEAR(hh, c->keys);
    hf_arena_fini(&c->memory);
    c->key_bytes = 0;
}

static void end_run(struct compaction *c) {
    struct log_partition *p = c->p;
    free_keys(c);
    batch_filter_close(c->filter);
    hf_buf_fini(&c->batch);
    hf_buf_fini(&c->out);
    c->filter = NULL;
    c->p = NULL;
    c->phase = COMPACTION_IDLE;
    p->compacting = false;
    if (!p->gone && c->log->open && !c->log->failed) partition_start_trim(p);
    partition_unref(p);
}

static struct segment *first_dirty(struct log_partition *p) {
    struct segment *s = p->segments;
    while (settled(s) && s->next->base <= p->cleaned) s = s->next;
    return s;
}

/* Of one batch when decompressed, as at the door. */
static size_t records_max(const struct log_partition *p) {
    size_t most = p->topic->config.message_max * 16;
    return most > RECORDS_MAX ? most : RECORDS_MAX;
}

static void begin_run(struct log *l) {
    struct compaction *c = &l->compaction;
    struct log_partition *p = l->compaction.row;
    c->row = p->compaction_next;
    p->compaction_asked = false;
    struct segment *s = compacts(p) ? first_dirty(p) : NULL;
    int64_t now_ms = log_time_ms(l);
    if (!s || !takes_part(s, now_ms) || batch_filter_open(records_max(p), &c->filter)) {
        partition_unref(p);
        return;
    }
    c->p = p;
    p->compacting = true;
    c->phase = COMPACTION_MAP;
    c->failed = HF_OK;
    c->at = s;
    c->pos = 0;
    c->map_end = p->cleaned;
    c->now_ms = now_ms;
    while (takes_part(s, now_ms)) s = s->next;
    c->limit = s->base;
    hf_buf_init(&c->batch, BATCH_MAX);
    hf_buf_init(&c->out, BATCH_MAX);
    hf_arena_init(&c->memory, l->o.compaction_bytes + BATCH_MAX);
}

/* Something is in the way; what was not swapped stays as it was. */
void compaction_give_up(struct compaction *c, enum hf_err e) {
    swap_discard(c);
    if (!c->p->gone && !c->log->closing)
        env_log(c->log->env, ENV_WARN, "compaction_put_off", "topic=%s partition=%d reason=\"%s\"",
                c->p->topic->name, c->p->number, hf_err_text(e));
    end_run(c);
}

/* The next group, or the end. */
void compaction_next_group(struct compaction *c) {
    if (c->p->gone || c->log->closing) {
        end_run(c);
        return;
    }
    if (!settled(c->first) || c->first->base >= c->map_end) {
        if (c->map_end > c->p->cleaned) c->p->cleaned = c->map_end;
        env_point(c->log->env, "compaction.ended");
        c->log->stats.compactions++;
        end_run(c);
        return;
    }
    c->phase = COMPACTION_COPY;
    draw_group(c);
    enum hf_err e = swap_begin(c);
    if (e) compaction_give_up(c, e);
}

static void step_map(struct compaction *c) {
    enum hf_err e = HF_OK;
    for (size_t read = 0; !e && read < STEP_BYTES;) e = map_batch(c, &read);
    if (!e) return;
    if (e != HF_EEND) {
        compaction_give_up(c, e);
        return;
    }
    c->first = c->p->segments;
    compaction_next_group(c);
}

static void step_copy(struct compaction *c) {
    enum hf_err e = HF_OK;
    for (size_t read = 0; !e && read < STEP_BYTES;) e = copy_some(c, &read);
    if (!e) return;
    if (e == HF_EEND && !c->changed) { /* nothing to gain */
        swap_discard(c);
        c->first = c->upto;
        compaction_next_group(c);
        return;
    }
    if (e == HF_EEND) e = swap_go(c);
    if (e) compaction_give_up(c, e);
}

static void (*const steps[])(struct compaction *c) = {
    [COMPACTION_MAP] = step_map,
    [COMPACTION_COPY] = step_copy,
    [COMPACTION_SWAP] = swap_step,
};

void compaction_step(struct log *l) {
    struct compaction *c = &l->compaction;
    if (!l->open || l->failed) return;
    bool reads = c->phase == COMPACTION_MAP || c->phase == COMPACTION_COPY;
    if (reads && (c->p->gone || l->closing)) {
        compaction_give_up(c, HF_ECLOSED);
        return;
    }
    int64_t now_us = env_mono_us(l->env);
    if (c->phase != COMPACTION_SWAP && now_us < c->next_us) return;
    if (c->phase == COMPACTION_IDLE && c->row && !l->closing) begin_run(l);
    if (c->phase == COMPACTION_IDLE) return;
    steps[c->phase](c);
    int64_t then_us = env_mono_us(l->env), worked_us = then_us - now_us;
    c->next_us = then_us + (worked_us > REST_US ? worked_us : REST_US);
}

int64_t compaction_wait(const struct log *l) {
    const struct compaction *c = &l->compaction;
    bool waits = c->phase == COMPACTION_SWAP && (c->waiting > 0 || c->stage == SWAP_RECORD);
    if (waits || (c->phase == COMPACTION_IDLE && !c->row)) return INT64_MAX;
    int64_t left_us = c->next_us - env_mono_us(l->env);
    return left_us > 0 ? (left_us + 999) / 1000 : 0;
}

/* The log is thrown away. */
void compaction_forget(struct log *l) {
    struct compaction *c = &l->compaction;
    if (c->p) {
        swap_forget(c);
        end_run(c);
    }
    while (c->row) {
        struct log_partition *p = c->row;
        c->row = p->compaction_next;
        partition_unref(p);
    }
}
