/* Fetch with long poll.
 *
 * A request reads every partition once. If there is less than min_bytes and no error, it waits: on the list
 * of waiters, in the order of their deadlines, and in a table from partition to the waiters interested in it.
 * When a high watermark moves, the log tells (log_watch), the partition's waiters become ready, and the next
 * step reads again for them. So an append costs what listens to that partition, and an idle consumer costs
 * nothing.
 *
 *              read: enough, or an error ──────────────► answered
 *   arrives ──┤                                              ▲
 *              too little ─► waiting ─ woken ─► ready ─ read ┤ enough
 *                               ▲                            │
 *                               └──────── too little ────────┘
 *              the deadline, or the client's leaving, ends it too
 *
 * Invariants: 1. a waiter is on the list of deadlines, and each of its interests in exactly one bucket;
 * 2. a waiter holds no pins while it waits.
 *
 * Bytes go out by sendfile: an answer names {file, offset, length}, with a pin that keeps the file until the
 * socket took it. The first batch is returned whole, however large, so that a consumer can always go on.
 *
 * Sessions (KIP-227) are not kept: session id 0 in the answer tells the client to name all partitions each
 * time. */
#include "server_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <uthash.h>
#include <utlist.h>

enum { WAIT_MS_MAX = 60000, READ_COMMITTED = 1 };

struct interest {
    struct waiter *waiter;
    struct bucket *bucket;
    struct interest *prev, *next;
};

/* The waiters of one partition; it ends with the last of them. */
struct bucket {
    const struct log_partition *partition; /* a name only: never looked into */
    struct interest *interests;
    UT_hash_handle hh;
};

struct waiter {
    struct fetch *fetch;
    struct broker_request *rq;
    int64_t deadline_us;
    bool ready;
    struct waiter *prev, *next;             /* by deadline */
    struct waiter *ready_prev, *ready_next; /* those to read again */
    size_t interest_count;
    struct interest interests[];
};

struct fetch {
    struct server *server;
    struct bucket *buckets;
    struct waiter *waiters; /* ascending by deadline */
    struct waiter *ready;
    size_t waiting;
};

/* ---- one reading of all partitions ---- */

struct reading {
    struct fetch *fetch;
    struct broker_request *rq;
    size_t bytes; /* found so far */
    bool any;     /* something was found: further partitions keep to the limits */
    bool error;   /* some partition has one: answer at once */
    bool no_memory;
};

static void release_pin(void *owner) {
    log_pin_release(owner);
}

/* The slice becomes a range of the answer, which owns its pin from then on. */
static void attach(struct reading *r, const struct log_slice *slice,
                   struct kafka_fetch_response_partition *out) {
    struct kafka_range *range = slice->size ? broker_range(r->rq) : NULL;
    if (!range) {
        if (slice->pin) log_pin_release(slice->pin);
        r->no_memory = r->no_memory || slice->size;
        return;
    }
    *range = (struct kafka_range){.fd = env_fd(slice->file),
                                  .offset = slice->position,
                                  .size = slice->size,
                                  .release = slice->pin ? release_pin : NULL,
                                  .owner = slice->pin};
    out->records.range = range;
    r->bytes += slice->size;
    r->any = true;
}

static size_t room_left(const struct reading *r, int32_t partition_max) {
    const struct kafka_fetch_request *q = r->rq->body;
    size_t most = q->max_bytes > 0 ? (size_t)q->max_bytes : 0;
    size_t left = most > r->bytes ? most - r->bytes : 0;
    size_t limit = partition_max > 0 ? (size_t)partition_max : 0;
    return limit < left ? limit : left;
}

/* The reader's last record was of an epoch that has ended before its position: it must truncate first
 * (KIP-320). true: told so. */
static bool diverged(struct reading *r, struct log_partition *p,
                     const struct kafka_fetch_request_partition *in,
                     struct kafka_fetch_response_partition *out) {
    int32_t epoch;
    int64_t end;
    if (in->last_fetched_epoch < 0 || log_epoch_end(p, in->last_fetched_epoch, &epoch, &end)) return false;
    if (epoch == in->last_fetched_epoch && end >= in->fetch_offset) return false;
    out->diverging_epoch = hf_arena_alloc(&r->rq->arena, sizeof(*out->diverging_epoch));
    if (!out->diverging_epoch) {
        r->no_memory = true;
        return true;
    }
    *out->diverging_epoch = (struct kafka_fetch_epoch_end){epoch, end};
    return true;
}

static int16_t read_partition(struct reading *r, hf_str topic, const struct kafka_fetch_request_partition *in,
                              struct kafka_fetch_response_partition *out) {
    struct log *l = r->fetch->server->log;
    struct log_partition *p = log_partition(l, topic, in->partition);
    if (!p) return KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
    struct log_bounds bounds;
    log_bounds(p, &bounds);
    int16_t error = server_check_epoch(&bounds, in->current_leader_epoch);
    if (error) return error;
    out->high_watermark = bounds.high;
    out->last_stable_offset = bounds.stable;
    out->log_start_offset = bounds.start;
    if (in->last_fetched_epoch > bounds.leader_epoch) return KAFKA_OFFSET_OUT_OF_RANGE; /* as Kafka answers */
    if (diverged(r, p, in, out)) return KAFKA_NONE;
    size_t room = room_left(r, in->partition_max_bytes);
    if (r->any && room == 0) return KAFKA_NONE;
    struct log_slice slice = {0};
    enum hf_err e = log_read(l, p, in->fetch_offset, room, !r->any, &slice);
    if (e == HF_ERANGE) return KAFKA_OFFSET_OUT_OF_RANGE;
    if (e == HF_ECORRUPT) return KAFKA_KAFKA_STORAGE_ERROR;
    if (e) return kafka_error_of(e);
    attach(r, &slice, out);
    return KAFKA_NONE;
}

static void read_topic(struct reading *r, const struct kafka_fetch_request_topic *in,
                       struct kafka_fetch_response_topic *out) {
    const struct kafka_fetch_request *q = r->rq->body;
    out->topic = in->topic;
    out->partitions_count = in->partitions_count;
    for (int32_t i = 0; i < in->partitions_count; i++) {
        struct kafka_fetch_response_partition *partition = &out->partitions[i];
        *partition = (struct kafka_fetch_response_partition){
            .partition_index = in->partitions[i].partition,
            .high_watermark = -1,
            .last_stable_offset = -1,
            .log_start_offset = -1,
            .aborted_transactions_count = q->isolation_level == READ_COMMITTED ? 0 : -1,
            .preferred_read_replica = -1,
            .records.bytes = HF_STR(""),
        };
        partition->error_code = read_partition(r, in->topic, &in->partitions[i], partition);
        if (partition->error_code || partition->diverging_epoch) r->error = true;
    }
}

/* Room for the answer is taken once, and used again by each reading. */
static bool lay_out_answer(struct broker_request *rq) {
    const struct kafka_fetch_request *q = rq->body;
    struct kafka_fetch_response *a = rq->answer;
    a->topics = hf_arena_array(&rq->arena, (size_t)q->topics_count, sizeof(*a->topics));
    for (int32_t i = 0; a->topics && i < q->topics_count; i++) {
        size_t n = (size_t)q->topics[i].partitions_count;
        a->topics[i].partitions = hf_arena_array(&rq->arena, n, sizeof(*a->topics[i].partitions));
        if (!a->topics[i].partitions) return false;
        a->topics_count = i + 1;
    }
    return a->topics != NULL;
}

/* true: the request is answered. Else there is too little, and no pin is held. */
static bool read_and_answer(struct fetch *f, struct broker_request *rq, bool last_chance) {
    const struct kafka_fetch_request *q = rq->body;
    struct kafka_fetch_response *a = rq->answer;
    struct reading r = {.fetch = f, .rq = rq};
    for (int32_t i = 0; i < q->topics_count; i++) read_topic(&r, &q->topics[i], &a->topics[i]);
    if (r.no_memory) {
        server_no_memory(rq);
        return true;
    }
    bool enough = r.error || (int64_t)r.bytes >= q->min_bytes;
    if (!enough && !last_chance) {
        broker_drop_ranges(rq);
        return false;
    }
    broker_answer(rq);
    return true;
}

/* ---- waiting ---- */

static void add_interest(struct waiter *w, const struct log_partition *p) {
    struct fetch *f = w->fetch;
    struct bucket *b;
    HASH_FIND_PTR(f->buckets, &p, b);
    if (!b) {
        b = calloc(1, sizeof(*b));
        if (!b) return; /* found at the deadline instead */
        b->partition = p;
        HASH_ADD_PTR(f->buckets, partition, b);
    }
    struct interest *interest = &w->interests[w->interest_count++];
    *interest = (struct interest){.waiter = w, .bucket = b};
    DL_APPEND(b->interests, interest);
}

static void drop_interests(struct waiter *w) {
    for (size_t i = 0; i < w->interest_count; i++) {
        struct bucket *b = w->interests[i].bucket;
        DL_DELETE(b->interests, &w->interests[i]);
        if (b->interests) continue;
        HASH_DEL(w->fetch->buckets, b);
        free(b);
    }
}

static void free_waiter(struct waiter *w) {
    drop_interests(w);
    DL_DELETE(w->fetch->waiters, w);
    if (w->ready) DL_DELETE2(w->fetch->ready, w, ready_prev, ready_next);
    w->fetch->waiting--;
    free(w);
}

static void on_gone(struct broker_request *rq) {
    free_waiter(rq->state);
    broker_answer_nothing(rq);
}

/* Most wait equally long, so the place is nearly always at the end. */
static void insert_by_deadline(struct fetch *f, struct waiter *w) {
    struct waiter *after = f->waiters ? f->waiters->prev : NULL;
    while (after && after->deadline_us > w->deadline_us) after = after == f->waiters ? NULL : after->prev;
    if (after)
        DL_APPEND_ELEM(f->waiters, after, w);
    else
        DL_PREPEND(f->waiters, w);
}

static bool begin_wait(struct fetch *f, struct broker_request *rq) {
    const struct kafka_fetch_request *q = rq->body;
    size_t partitions = 0;
    for (int32_t i = 0; i < q->topics_count; i++) partitions += (size_t)q->topics[i].partitions_count;
    struct waiter *w = calloc(1, sizeof(*w) + partitions * sizeof(w->interests[0]));
    if (!w) return false;
    int64_t wait_ms = q->max_wait_ms < WAIT_MS_MAX ? q->max_wait_ms : WAIT_MS_MAX;
    w->fetch = f;
    w->rq = rq;
    w->deadline_us = env_mono_us(f->server->env) + wait_ms * 1000;
    for (int32_t i = 0; i < q->topics_count; i++)
        for (int32_t k = 0; k < q->topics[i].partitions_count; k++) {
            struct log_partition *p =
                log_partition(f->server->log, q->topics[i].topic, q->topics[i].partitions[k].partition);
            if (p) add_interest(w, p);
        }
    insert_by_deadline(f, w);
    f->waiting++;
    rq->state = w;
    rq->on_gone = on_gone;
    return true;
}

/* The log tells of partitions whose high watermark moved; that may be after this part's step, so another turn
 * of the loop is asked for. */
static void on_moved(void *arg, struct log_partition *p) {
    struct fetch *f = arg;
    const struct log_partition *key = p;
    struct bucket *b;
    struct interest *i;
    HASH_FIND_PTR(f->buckets, &key, b);
    if (!b) return;
    DL_FOREACH (b->interests, i) {
        if (i->waiter->ready) continue;
        if (!f->ready) broker_wake(f->server->broker);
        i->waiter->ready = true;
        DL_APPEND2(f->ready, i->waiter, ready_prev, ready_next);
    }
}

static void end_wait(struct waiter *w, bool last_chance) {
    struct broker_request *rq = w->rq;
    rq->on_gone = NULL;
    if (read_and_answer(w->fetch, rq, last_chance))
        free_waiter(w);
    else
        rq->on_gone = on_gone;
}

static int64_t step_fetch(void *state, int64_t now_ms) {
    struct fetch *f = state;
    while (f->ready) {
        struct waiter *w = f->ready;
        DL_DELETE2(f->ready, w, ready_prev, ready_next);
        w->ready = false;
        end_wait(w, false);
    }
    int64_t now_us = env_mono_us(f->server->env);
    while (f->waiters && f->waiters->deadline_us <= now_us) end_wait(f->waiters, true);
    if (!f->waiters) return INT64_MAX;
    return now_ms + (f->waiters->deadline_us - now_us + 999) / 1000;
}

/* ---- the request ---- */

static void on_fetch(void *state, struct broker_request *rq) {
    struct fetch *f = state;
    const struct kafka_fetch_request *q = rq->body;
    struct kafka_fetch_response *a = rq->answer;
    if (q->session_id != 0) {
        a->error_code = KAFKA_FETCH_SESSION_ID_NOT_FOUND;
        broker_answer(rq);
        return;
    }
    if (!lay_out_answer(rq)) {
        server_no_memory(rq);
        return;
    }
    bool may_wait = q->max_wait_ms > 0 && !rq->gone;
    if (read_and_answer(f, rq, !may_wait)) return;
    if (!begin_wait(f, rq)) broker_refuse(rq, "out of memory");
}

/* ---- the part ---- */

static enum hf_err open_fetch(struct server *s, void **state) {
    struct fetch *f = calloc(1, sizeof(*f));
    if (!f) return HF_ENOMEM;
    f->server = s;
    log_watch(s->log, on_moved, f);
    *state = f;
    return HF_OK;
}

static void close_fetch(void *state) {
    struct fetch *f = state;
    assert(!f->waiters && !f->buckets);
    log_watch(f->server->log, NULL, NULL);
    free(f);
}

static void metrics(void *state, struct hf_buf *out) {
    struct fetch *f = state;
    server_metric(out, "holdfast_fetches_waiting", "gauge", f->waiting);
}

static const struct server_handler handlers[] = {{KAFKA_API_fetch, on_fetch}};

const struct server_part server_fetch = {.name = "fetch",
                                         .open = open_fetch,
                                         .step = step_fetch,
                                         .close = close_fetch,
                                         .metrics = metrics,
                                         .handlers = handlers,
                                         .handler_count = 1};
