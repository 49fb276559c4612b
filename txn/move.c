/* Half messages out: what a committed transaction puts into its destinations.
 *
 *     holdfast.txn            key = transaction's id                hf-topic: orders.placed, hf-key: 1042
 *       │ not delayed         key = hf-key, without control headers, with identity
 *       ├──────────────────►  orders.placed
 *       │ hf-due or hf-delay  key = hf-key, hf-topic, hf-due, hf-id …: a delayed message accepted now
 *       └──────────────────►  holdfast.delay
 *
 * A delay counts from the decision: it becomes a due time here, so that a move that had to wait is not later
 * still. Identity: hf-message-id, or the place of acceptance as `<topic>/<partition>/<offset>@<timestamp>`;
 * hf-created-at (time of acceptance) and hf-origin (the destination, under which consumers deduplicate)
 * unless the producer set them.
 *
 * All records of a transaction go into one commit, or none. If a destination does not exist and is not
 * created, or takes no record of that size, or has no such partition, the transaction waits (at most
 * destination_wait_ms for one that may come back) and then all of it goes to holdfast.rejected, in
 * one commit likewise, with all headers, from where it can be replayed. Disk space never rejects. */
#include "internal.h"

#include "store/engine/batch.h"

enum { MOVE_HEADERS = 10 }; /* headers that a move may add */

/* ---- one record ---- */

struct outgoing {
    struct engine_out out;
    struct hf_header *headers; /* room for all of the record's and MOVE_HEADERS */
    size_t n;
};

static bool has_header(const struct engine_record *r, const char *name) {
    for (size_t i = 0; i < r->header_count; i++)
        if (hf_str_is(r->headers[i].key, name)) return true;
    return false;
}

static void add(struct outgoing *o, const char *name, hf_str value) {
    o->headers[o->n++] = (struct hf_header){hf_str_of(name), value};
}

static void add_identity(struct flight *f, struct outgoing *o, const struct engine_record *r,
                         int32_t partition, hf_str origin) {
    if (!has_header(r, HF_HDR_MESSAGE_ID))
        add(o, HF_HDR_MESSAGE_ID,
            hf_arena_printf(&f->arena, HF_TOPIC_TXN "/%d/%lld@%lld", partition, (long long)r->offset,
                            (long long)r->timestamp_ms));
    if (!has_header(r, HF_HDR_CREATED_AT))
        add(o, HF_HDR_CREATED_AT, hf_arena_printf(&f->arena, "%lld", (long long)r->timestamp_ms));
    if (!has_header(r, HF_HDR_ORIGIN) && origin.p) add(o, HF_HDR_ORIGIN, origin);
}

/* Copies headers that pass: all of them, or those that are no control headers. */
static void copy_headers(struct flight *f, struct outgoing *o, const struct engine_record *r, bool all) {
    for (size_t i = 0; i < r->header_count; i++) {
        const struct hf_header *h = &r->headers[i];
        bool due = hf_str_is(h->key, HF_HDR_DUE); /* set anew for a delayed one */
        if (!all && (due || hf_header_is_control(h->key))) continue;
        struct hf_header *to = &o->headers[o->n++];
        to->key = hf_arena_str(&f->arena, h->key);
        to->value = hf_arena_str(&f->arena, h->value);
        if (!to->key.p || (h->value.p && !to->value.p)) f->e = HF_ENOMEM;
    }
}

static bool outgoing_begin(struct flight *f, struct outgoing *o, const struct engine_record *r, hf_str key) {
    *o = (struct outgoing){0};
    o->headers = hf_arena_array(&f->arena, r->header_count + MOVE_HEADERS, sizeof *o->headers);
    o->out.key = hf_arena_str(&f->arena, key);
    o->out.value = hf_arena_str(&f->arena, r->value);
    bool ok = o->headers && (!key.p || o->out.key.p) && (!r->value.p || o->out.value.p);
    if (!ok) f->e = HF_ENOMEM;
    return ok;
}

/* Adds it to the commit. HF_ELIMIT: it fits into no record of that topic. */
static enum hf_err outgoing_end(struct txn *t, struct flight *f, struct outgoing *o) {
    for (size_t i = 0; i < o->n; i++)
        if (!o->headers[i].key.p) f->e = HF_ENOMEM;
    o->out.headers = o->headers;
    o->out.header_count = o->n;
    if (o->n > ENGINE_HEADERS_MAX) return HF_ELIMIT;
    size_t size = BATCH_HEADER + batch_record_size(o->out.key, o->out.value, o->headers, o->n);
    if (size > engine_record_max(t->engine, o->out.topic)) return HF_ELIMIT;
    struct engine_out *out = flight_out(f);
    if (!out) return HF_ENOMEM;
    *out = o->out;
    f->effect_bytes += size;
    return HF_OK;
}

static void add_due(struct flight *f, struct outgoing *o, const struct hf_control *c, int64_t decided_ms) {
    int64_t due = c->due_ms;
    if (c->delay_level > 0) { /* what a level means is known there */
        add(o, HF_HDR_DELAY, hf_arena_printf(&f->arena, "level%d", c->delay_level));
        due = 0;
    }
    if (due < 0) due = decided_ms > HF_TIME_MAX_MS - c->delay_ms ? HF_TIME_MAX_MS : decided_ms + c->delay_ms;
    if (c->delay_level == 0) add(o, HF_HDR_DUE, hf_arena_printf(&f->arena, "%lld", (long long)due));
    if (c->id.p) add(o, HF_HDR_ID, hf_arena_str(&f->arena, c->id));
    if (c->on_conflict != HF_REPLACE)
        add(o, HF_HDR_ON_CONFLICT, c->on_conflict == HF_KEEP ? HF_STR("keep") : HF_STR("once"));
    if (c->partition >= 0) add(o, HF_HDR_PARTITION, hf_arena_printf(&f->arena, "%d", c->partition));
}

/* Where a keyless record goes: all of a transaction to the same partition. */
static int32_t partition_for(const struct hf_control *c, const struct live *x, int32_t partitions) {
    return hf_partition_of_key(c->key.p ? c->key : live_id(x), partitions);
}

static enum hf_err move_half(struct txn *t, struct flight *f, const struct live *x, const struct half *h,
                             const struct engine_record *r) {
    struct hf_control c;
    struct hf_control_error why;
    if (hf_control_txn(r->key, r->headers, r->header_count, &c, &why)) return HF_ECORRUPT;
    bool delayed = c.due_ms >= 0 || c.delay_ms >= 0 || c.delay_level > 0;
    hf_str destination = hf_arena_str(&f->arena, c.topic);
    struct outgoing o;
    if (!outgoing_begin(f, &o, r, c.key) || !destination.p) return HF_ENOMEM;
    o.out.topic = delayed ? HF_STR(HF_TOPIC_DELAY) : destination;
    int32_t partitions;
    enum hf_err e = engine_topic(t->engine, o.out.topic, true, &partitions);
    if (e == HF_ELIMIT || e == HF_EINVAL) return HF_ENOTFOUND; /* it cannot be made */
    if (e) return e;
    bool chosen = !delayed && c.partition >= 0;
    if (chosen && c.partition >= partitions) return HF_ERANGE;
    o.out.partition = chosen ? c.partition : partition_for(&c, x, partitions);
    copy_headers(f, &o, r, false);
    if (delayed) {
        add(&o, HF_HDR_TOPIC, destination);
        add_due(f, &o, &c, x->decided_ms);
    }
    add_identity(f, &o, r, h->partition, destination);
    return outgoing_end(t, f, &o);
}

static enum hf_err reject_half(struct txn *t, struct flight *f, const struct live *x, const struct half *h,
                               const struct engine_record *r) {
    int32_t partitions;
    enum hf_err e = engine_topic(t->engine, HF_STR(HF_TOPIC_REJECTED), true, &partitions);
    if (e) return e;
    struct outgoing o;
    if (!outgoing_begin(f, &o, r, r->key)) return HF_ENOMEM;
    o.out.topic = HF_STR(HF_TOPIC_REJECTED);
    o.out.partition = hf_partition_of_key(live_id(x), partitions);
    copy_headers(f, &o, r, true);
    const char *reason = x->stuck == HF_ENOTFOUND ? "destination does not exist"
                         : x->stuck == HF_ERANGE  ? "destination has no such partition"
                                                  : "too large for its destination";
    add(&o, HF_HDR_REASON, hf_str_of(reason));
    add_identity(f, &o, r, h->partition, (hf_str){NULL, 0});
    return outgoing_end(t, f, &o);
}

/* ---- one transaction ---- */

enum hf_err move_read(struct txn *t, const struct half *h, struct engine_record *r) {
    struct engine_cursor *c = t->inputs[h->partition].bodies;
    engine_cursor_seek(c, h->offset);
    enum hf_err e = engine_cursor_next(c, r);
    if (e == HF_EEND) return HF_ECORRUPT;
    return e ? e : r->offset == h->offset ? HF_OK : HF_ECORRUPT;
}

static enum hf_err move_all(struct txn *t, struct flight *f, const struct live *x) {
    size_t outs = f->out_count, bytes = f->effect_bytes;
    enum hf_err e = HF_OK;
    for (const struct half *h = x->halves; h && !e; h = h->next) {
        struct engine_record r;
        e = move_read(t, h, &r);
        if (!e) e = x->unfit ? reject_half(t, f, x, h, &r) : move_half(t, f, x, h, &r);
        if (!e) e = f->e;
    }
    if (!e) return HF_OK;
    f->out_count = outs;
    f->effect_bytes = bytes;
    return e;
}

/* Not now. It leaves the queue and comes back by its timer. */
static void put_off(struct txn *t, struct live *x, enum hf_err e) {
    live_queue(t, x, QUEUE_NONE);
    t->stats.retries++;
    if (e == HF_EAGAIN) {
        live_wake_at(t, x, t->now_ms + TOPIC_RETRY_MS);
        return;
    }
    if (x->stuck != e)
        txn_tell(t, "txn_move_waits", "group=%.*s id=\"%.*s\" reason=\"%s\"", (int)x->group_n, x->key,
                 (int)x->id_n, x->key + x->group_n + 1, hf_err_text(e));
    bool rejecting = x->unfit;
    bool hopeless = e == HF_ELIMIT || e == HF_ERANGE;
    bool patient = e == HF_ENOTFOUND && t->now_ms - x->decided_ms < t->o.destination_wait_ms;
    if (!rejecting) x->stuck = e;
    if (!rejecting && (hopeless || (e == HF_ENOTFOUND && !patient))) {
        x->unfit = true;
        live_queue(t, x, QUEUE_MOVES);
        return;
    }
    if (rejecting || !patient) {
        live_wake_at(t, x, t->now_ms + DAMAGE_RETRY_MS);
        return;
    }
    int64_t wait = (t->now_ms - x->decided_ms) / 2;
    wait = wait < HOLD_MS ? HOLD_MS : wait > DAMAGE_RETRY_MS ? DAMAGE_RETRY_MS : wait;
    int64_t last = x->decided_ms + t->o.destination_wait_ms;
    live_wake_at(t, x, t->now_ms + wait > last ? last : t->now_ms + wait);
}

void move_blamed(struct txn *t, struct live *x, enum hf_err e) {
    put_off(t, x, e);
}

void move_collect(struct txn *t, struct flight *f) {
    struct live *x, *next;
    DL_FOREACH_SAFE2(t->moves, x, next, queue_next) {
        if (f->e || (t->attended > 0 && f->effects > 0)) return;
        if (!flight_room(f, x->half_count, x->bytes + (size_t)x->half_count * ADDED_PER_HALF)) return;
        enum hf_err e = move_all(t, f, x);
        if (e == HF_ENOMEM) {
            f->e = f->out_count > 0 ? HF_OK : e; /* what is there goes; the rest comes next */
            return;
        }
        if (e) {
            put_off(t, x, e);
            continue;
        }
        flight_ends(f, x);
        f->effects++;
        f->moved += !x->unfit;
        f->rejected += x->unfit;
        f->moved_halves += x->unfit ? 0 : x->half_count;
    }
}
