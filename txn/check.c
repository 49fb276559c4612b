/* Check-back: asking a producer group what became of its local transaction.
 *
 *     prepared ──check_after──► queue ──commit──► on holdfast.check.<group> ──the group's offset passes──┐
 *        ▲                                              outstanding, in a lane                           │
 *        └────────────────────────────── check_interval, fewer than check_attempts were read ◄───────────┤
 *                                                                            parked ◄── all were read ◄──┘
 *
 * At most one check of a transaction is on the topic unread, so a group that is down costs one record and one
 * attempt, however long it is down. What the group has read is asked for lane by lane (a lane is one
 * partition of one check topic, its outstanding checks in the order of offsets), so the cost follows lanes
 * and checks read, not transactions that wait.
 *
 * Only the coordinator writes to check topics and only one commit is under way, so after a commit its checks
 * are the last records of their partitions: that gives their offsets. After a restart the exact offset is not
 * known; the end of the partition bounds it, which counts a check as read late rather than early.
 *
 * A check below the start of its partition was taken by retention before anybody read it: it is put again, as
 * the same attempt. What a group has read is released from its check topic. */
#include "internal.h"

#include <assert.h>
#include <stdlib.h>

enum { HALVES_TEXT_MAX = 1024, HALVES_READ_MAX = 64, POLL_MS_MAX = 1000, POLL_MS_MIN = 5 };

/* ---- topics and lanes ---- */

static struct check_topic *topic_new(struct txn *t, hf_str group, int32_t partitions) {
    size_t prefix = sizeof HF_TOPIC_CHECK - 1;
    struct check_topic *c = calloc(1, sizeof *c + prefix + group.n);
    struct check_lane *lanes = calloc((size_t)partitions, sizeof *lanes);
    if (!c || !lanes) goto fail;
    memcpy(c->text, HF_TOPIC_CHECK, prefix);
    memcpy(c->text + prefix, group.p, group.n);
    c->name = hf_str_make(c->text, prefix + group.n);
    c->group = hf_str_make(c->text + prefix, group.n);
    c->lanes = lanes;
    c->partitions = partitions;
    for (int32_t p = 0; p < partitions; p++) lanes[p].topic = c;
    HASH_ADD_KEYPTR(hh, t->check_topics, c->group.p, c->group.n, c);
    if (c->hh.tbl) return c;
fail:
    free(c);
    free(lanes);
    return NULL;
}

static enum hf_err topic_of(struct txn *t, hf_str group, bool create, struct check_topic **out) {
    struct check_topic *c;
    HASH_FIND(hh, t->check_topics, group.p, group.n, c);
    if (!c) {
        char name[HF_TOPIC_NAME_MAX + 1];
        size_t prefix = sizeof HF_TOPIC_CHECK - 1;
        if (group.n + prefix > HF_TOPIC_NAME_MAX) return HF_EINVAL;
        if (HASH_COUNT(t->check_topics) >= CHECK_GROUPS_MAX) return HF_ELIMIT;
        memcpy(name, HF_TOPIC_CHECK, prefix);
        memcpy(name + prefix, group.p, group.n);
        int32_t partitions;
        enum hf_err e = engine_topic(t->engine, hf_str_make(name, prefix + group.n), create, &partitions);
        if (e) return e;
        c = topic_new(t, group, partitions);
        if (!c) return HF_ENOMEM;
    }
    *out = c;
    return HF_OK;
}

static int64_t poll_interval(const struct txn *t) {
    int64_t ms = t->o.check_interval_ms / 4;
    return ms > POLL_MS_MAX ? POLL_MS_MAX : ms < POLL_MS_MIN ? POLL_MS_MIN : ms;
}

static void lane_enter(struct txn *t, struct live *x, struct check_topic *c, int32_t partition,
                       int64_t offset) {
    assert(!x->outstanding && x->state == TXN_PREPARED);
    x->outstanding = true;
    x->check_topic = c;
    x->check_partition = partition;
    x->check_offset = offset;
    struct check_lane *l = &c->lanes[partition];
    assert(!l->waiting || l->waiting->lane_prev->check_offset <= offset);
    DL_APPEND2(l->waiting, x, lane_prev, lane_next);
    c->outstanding++;
    if (t->outstanding++ == 0) t->poll_ms = t->now_ms + poll_interval(t);
}

void check_forget(struct txn *t, struct live *x) {
    if (!x->outstanding) return;
    DL_DELETE2(x->check_topic->lanes[x->check_partition].waiting, x, lane_prev, lane_next);
    x->outstanding = false;
    x->check_topic->outstanding--;
    t->outstanding--;
}

/* ---- when ---- */

void check_plan(struct txn *t, struct live *x) {
    if (x->state != TXN_PREPARED || x->outstanding || x->asking || x->again) return;
    live_queue(t, x, QUEUE_NONE);
    int64_t at = x->last_prepare_ms;
    live_wake_at(t, x, x->check_after_ms > NEVER_MS - 1 - at ? NEVER_MS - 1 : at + x->check_after_ms);
}

static void park(struct txn *t, struct live *x) {
    live_set_state(t, x, txn_state_next(x->state, TXN_EXHAUSTED).next);
    live_dirty(t, x);
    txn_tell(t, "txn_parked", "group=%.*s id=\"%.*s\" checks=%d", (int)x->group_n, x->key, (int)x->id_n,
             x->key + x->group_n + 1, x->counted);
}

void check_due(struct txn *t, struct live *x) {
    assert(x->state == TXN_PREPARED && !x->outstanding && !x->asking);
    if (x->counted >= t->o.check_attempts)
        park(t, x);
    else
        live_queue(t, x, QUEUE_CHECKS);
}

/* ---- the record ---- */

/* "2 orders.placed,orders.unpaid": how many, and to which topics, each once, in order. */
static hf_str halves_text(struct txn *t, struct flight *f, const struct live *x) {
    struct hf_buf b;
    hf_buf_init(&b, HALVES_TEXT_MAX);
    hf_buf_printf(&b, "%u", x->half_count);
    hf_str seen[HALVES_READ_MAX];
    size_t n = 0;
    int read = 0;
    for (const struct half *h = x->halves; h && read < HALVES_READ_MAX; h = h->next, read++) {
        struct engine_record r;
        struct hf_control c;
        struct hf_control_error why;
        if (move_read(t, h, &r) || hf_control_txn(r.key, r.headers, r.header_count, &c, &why)) continue;
        bool known = false;
        for (size_t i = 0; i < n; i++) known |= hf_str_eq(seen[i], c.topic);
        if (known || b.n + c.topic.n + 1 > HALVES_TEXT_MAX) continue;
        hf_str topic = hf_arena_str(&f->arena, c.topic);
        if (!topic.p) break;
        hf_buf_u8(&b, n == 0 ? ' ' : ',');
        hf_buf_str(&b, topic);
        seen[n++] = topic;
    }
    hf_str text = hf_arena_str(&f->arena, hf_buf_view(&b));
    hf_buf_fini(&b);
    return text;
}

static enum hf_err add_check(struct txn *t, struct flight *f, struct live *x) {
    struct check_topic *c;
    enum hf_err e = topic_of(t, live_group(x), true, &c);
    if (e) return e;
    struct engine_record r;
    hf_str value = {NULL, 0};
    if (!x->bare) {
        if ((e = move_read(t, x->halves, &r))) return e;
        value = hf_arena_str(&f->arena, r.value);
        if (r.value.p && !value.p) return HF_ENOMEM;
    }
    struct hf_header *h = hf_arena_array(&f->arena, 3, sizeof *h);
    struct engine_out *out = h ? flight_out(f) : NULL;
    if (!out) return HF_ENOMEM;
    h[0] = (struct hf_header){HF_STR(HF_HDR_GROUP), c->group};
    h[1] = (struct hf_header){HF_STR(HF_HDR_HALVES), halves_text(t, f, x)};
    h[2] = (struct hf_header){HF_STR(HF_HDR_ATTEMPT), hf_arena_printf(&f->arena, "%d", x->counted + 1)};
    int32_t partition = hf_partition_of_key(live_id(x), c->partitions);
    *out = (struct engine_out){.topic = c->name,
                               .partition = partition,
                               .key = live_id(x),
                               .value = value,
                               .headers = h,
                               .header_count = 3};
    if (!h[1].value.p || !h[2].value.p) {
        f->out_count--;
        return HF_ENOMEM;
    }
    f->effect_bytes += value.n + ADDED_PER_HALF + h[1].value.n;
    x->check_topic = c;
    x->check_partition = partition;
    x->flight_ordinal = c->lanes[partition].batch++;
    return HF_OK;
}

static void check_later(struct txn *t, struct live *x, enum hf_err e) {
    live_queue(t, x, QUEUE_NONE);
    if (e != HF_EAGAIN)
        txn_tell(t, "txn_check_waits", "group=%.*s id=\"%.*s\" reason=\"%s\"", (int)x->group_n, x->key,
                 (int)x->id_n, x->key + x->group_n + 1, hf_err_text(e));
    live_wake_at(t, x, t->now_ms + (e == HF_EAGAIN ? TOPIC_RETRY_MS : DAMAGE_RETRY_MS));
}

void check_collect(struct txn *t, struct flight *f) {
    struct live *x, *next;
    DL_FOREACH_SAFE2(t->checks, x, next, queue_next) {
        if (f->e || (t->attended > 0 && f->effects > 0)) return;
        if (!flight_room(f, 1, x->halves->bytes + HALVES_TEXT_MAX + ADDED_PER_HALF)) return;
        enum hf_err e = add_check(t, f, x);
        if (e == HF_ENOMEM) {
            f->e = f->out_count > 0 ? HF_OK : e;
            return;
        }
        if (e) {
            check_later(t, x, e);
            continue;
        }
        x->asking = true;
        if (!x->again) x->sent++;
        if (!hf_mutate(205)) live_dirty(t, x); /* the attempt is stored with the check */
        x->flight_next = NULL;
        *f->checks_tail = x;
        f->checks_tail = &x->flight_next;
        f->effects++;
    }
}

/* ---- after the commit ---- */

void check_unsent(struct flight *f) {
    for (struct live *x = f->checks; x; x = x->flight_next) {
        x->asking = false;
        x->sent -= !x->again;
        x->check_topic->lanes[x->check_partition].batch = 0;
    }
}

void check_blamed(struct txn *t, struct live *x, enum hf_err e) {
    if (e == HF_ELIMIT && !x->bare) {
        x->bare = true;
        return;
    }
    check_later(t, x, e);
}

void check_sent(struct txn *t, struct flight *f) {
    for (struct live *x = f->checks; x; x = x->flight_next) {
        struct check_lane *l = &x->check_topic->lanes[x->check_partition];
        int64_t start, end, offset = 0;
        if (engine_bounds(t->engine, x->check_topic->name, x->check_partition, &start, &end) == HF_OK)
            offset = end - l->batch + x->flight_ordinal;
        t->stats.checks_sent++;
        t->stats.checks_again += x->again;
        x->asking = x->again = false;
        if (x->state == TXN_PREPARED) lane_enter(t, x, x->check_topic, x->check_partition, offset);
    }
    for (struct live *x = f->checks; x; x = x->flight_next)
        x->check_topic->lanes[x->check_partition].batch = 0;
}

static void was_read(struct txn *t, struct live *x) {
    check_forget(t, x);
    x->counted++;
    t->stats.checks_read++;
    live_wake_at(t, x, t->now_ms + t->o.check_interval_ms);
}

static void was_lost(struct txn *t, struct live *x) {
    check_forget(t, x);
    x->again = true;
    live_queue(t, x, QUEUE_CHECKS);
}

static void lane_poll(struct txn *t, struct check_lane *l) {
    struct check_topic *c = l->topic;
    int32_t p = (int32_t)(l - c->lanes);
    int64_t start = 0, end = 0;
    int64_t committed = engine_committed(t->engine, c->group, c->name, p);
    while (l->waiting && l->waiting->check_offset < committed) was_read(t, l->waiting);
    if (engine_bounds(t->engine, c->name, p, &start, &end)) start = INT64_MAX;
    while (l->waiting && l->waiting->check_offset < start) was_lost(t, l->waiting);
    if (committed > end) committed = end;
    if (committed <= l->low || committed <= start) return;
    l->low = committed;
    if (l->releasing) return;
    l->releasing = true;
    l->release_next = t->releases;
    t->releases = l;
}

void check_poll(struct txn *t) {
    if (t->outstanding == 0 || t->now_ms < t->poll_ms) return;
    t->poll_ms = t->now_ms + poll_interval(t);
    for (struct check_topic *c = t->check_topics; c; c = c->hh.next)
        for (int32_t p = 0; c->outstanding > 0 && p < c->partitions; p++)
            if (c->lanes[p].waiting) lane_poll(t, &c->lanes[p]);
}

void check_released(struct txn *t) {
    for (struct check_lane *l = t->releases; l; l = l->release_next) l->releasing = false;
    t->releases = NULL;
}

/* ---- start and end ---- */

enum hf_err check_restore(struct txn *t, struct live *x) {
    if (x->sent == 0) {
        check_plan(t, x);
        return HF_OK;
    }
    if (x->sent == x->counted) {
        live_wake_at(t, x, t->now_ms + t->o.check_interval_ms);
        return HF_OK;
    }
    struct check_topic *c;
    int64_t start = 0, end = 0;
    enum hf_err e = topic_of(t, live_group(x), false, &c);
    if (e == HF_ENOMEM || e == HF_EAGAIN) return e;
    int32_t p = e ? 0 : hf_partition_of_key(live_id(x), c->partitions);
    if (!e) e = engine_bounds(t->engine, c->name, p, &start, &end);
    if (e || end == 0) {
        x->again = true;
        live_queue(t, x, QUEUE_CHECKS);
    } else {
        lane_enter(t, x, c, p, end - 1);
    }
    return HF_OK;
}

void check_close(struct txn *t) {
    struct check_topic *c, *next;
    HASH_ITER (hh, t->check_topics, c, next) {
        HASH_DEL(t->check_topics, c);
        free(c->lanes);
        free(c);
    }
    t->releases = NULL;
}
