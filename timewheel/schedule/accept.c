/* Reading holdfast.delay: every record once, in order of acceptance over all its partitions.
 *
 * An operation accepted at time t finds the message with its id pending if that is due after t, and delivered
 * otherwise, whether or not it has been fired by now. So what it does follows from the log alone: reading the
 * same records again after a crash comes to the same end, although more has been fired meanwhile. It also
 * holds that nothing is fired at d before everything accepted before d has been read (fire_limit), so a
 * pending message is never already on its way.
 *
 *                  pending                        finished and remembered       unknown or forgotten
 *     replace      tombstone, take in: REPLACED   take in                       take in
 *     keep         KEPT                           take in                       take in
 *     once         KEPT                           FINISHED                      take in
 *     cancel       tombstone: CANCELLED           ALREADY_DELIVERED, or         UNKNOWN
 *                                                 CANCELLED if it was
 *     move         tombstone, take in: MOVED,     as cancel                     UNKNOWN
 *                  or CHANGED if not the expected
 *
 * A recurring schedule whose run is due and whose next run has not been read is neither pending nor finished,
 * it is running: replace takes in (REPLACED), keep and once keep (KEPT), cancel ends the series (CANCELLED),
 * a move is to come again (CHANGED). The record of the next run is taken in if the id is still that of the
 * run before, which is never forgotten (merge.c); else the series ended in between.
 *
 * Only what is written above in capitals leaves an outcome; an ordinary schedule needs no entry.
 *
 * Order over partitions: a record whose time lies below the stable time has no unread one before it. With one
 * partition offsets are the order. */
#include "schedule_state.h"

#include "base/names.h"

/* ---- one record ---- */

struct op {
    const struct engine_record *record;
    struct hf_control control;
    int32_t partition;
    int64_t asked_ms;
    struct place place;
    uint8_t flags;
};

struct taken {
    struct item *item; /* NULL: it was fired before the restart */
    uint32_t size;
};

static enum hf_err take_in(struct schedule *s, const struct op *op, hf_str topic,
                           const struct hf_header *headers, size_t header_count, struct taken *out) {
    *out = (struct taken){NULL, 0};
    struct message m = {.place = op->place,
                        .flags = op->flags,
                        .asked_ms = op->asked_ms,
                        .accepted_ms = op->record->timestamp_ms,
                        .source_partition = op->partition,
                        .source_offset = op->record->offset,
                        .partition = op->control.partition,
                        .topic = topic,
                        .id = op->control.id,
                        .key = op->record->key,
                        .value = op->record->value};
    if (m.accepted_ms > m.place.due) m.accepted_ms = m.place.due;
    if (op->control.cron.p) m.flags = ENTRY_CRON;
    hf_buf_reset(&s->scratch);
    enum hf_err e = entry_encode(&s->scratch, &m, headers, header_count);
    if (!e) e = counts_add(&s->counts, topic, 1, (int64_t)s->scratch.n);
    out->size = (uint32_t)s->scratch.n;
    bool fired = !place_before(s->mark, op->place) && !hf_mutate(110); /* before the restart */
    if (e || fired) return e;
    return gather_add(s->active, op->place, hf_buf_view(&s->scratch), &out->item);
}

static enum hf_err remember_outcome(struct schedule *s, const struct op *op, enum schedule_outcome outcome) {
    s->count.outcomes[outcome]++;
    if (outcome == SCHEDULE_SCHEDULED) return HF_OK;
    hf_buf_reset(&s->key);
    outcome_key(&s->key, op->partition, op->record->offset);
    hf_str key = hf_buf_view(&s->key);
    struct id_entry what = {.hash = id_hash(key),
                            .seq = op->record->sequence,
                            .at_ms = op->record->timestamp_ms,
                            .kind = ID_OUTCOME,
                            .outcome = (uint8_t)outcome};
    return id_put(s->active, key, &what);
}

/* s->key holds the id's key. */
static enum hf_err write_id(struct schedule *s, const struct op *op, uint8_t kind, struct place place,
                            struct taken taken) {
    hf_str key = hf_buf_view(&s->key);
    struct id_entry what = {.hash = id_hash(key),
                            .seq = op->record->sequence,
                            .place = place,
                            .at_ms = op->record->timestamp_ms,
                            .item = taken.item,
                            .size = taken.size,
                            .kind = kind};
    return id_put(s->active, key, &what);
}

static enum hf_err bury(struct schedule *s, const struct op *op, const struct id_state *victim) {
    enum hf_err e = HF_OK;
    bool was_fired = op->control.op == HF_OP_NEXT; /* counts.c */
    if (!was_fired) e = counts_add(&s->counts, op->control.topic, -1, -(int64_t)victim->size);
    if (e) return e;
    if (!place_before(s->mark, victim->place)) return HF_OK; /* so was its operation: nothing pends there */
    if (!victim->item) return gather_bury(s->active, victim->place);
    gather_kill(s->active, victim->item);
    return HF_OK;
}

enum standing { STANDS_PENDING, STANDS_DELIVERED, STANDS_CANCELLED, STANDS_UNKNOWN, STANDS_RUNNING };

static enum standing standing_of(const struct schedule *s, const struct id_state *id, int64_t now_ms) {
    if (!id->found) return STANDS_UNKNOWN;
    bool cancelled = id->kind == ID_CANCELLED;
    if (!cancelled && id->place.due > now_ms) return STANDS_PENDING;
    if (id->kind == ID_RECURRING) return STANDS_RUNNING;
    int64_t finished_ms = cancelled ? id->at_ms : id->place.due;
    if (finished_ms < now_ms - s->o.id_memory_ms || finished_ms < s->id_horizon_ms) return STANDS_UNKNOWN;
    return cancelled ? STANDS_CANCELLED : STANDS_DELIVERED;
}

enum deed { NOTHING, TAKE_IN, REPLACE, CANCEL, END };

struct decision {
    enum deed deed;
    enum schedule_outcome outcome;
};

/* The run before is expected to be running; it pends only if its first time was reckoned anew, otherwise. */
static struct decision decide_next(const struct op *op, const struct id_state *id, enum standing standing) {
    bool ours = id->found && id->kind == ID_RECURRING && id->place.seq == (uint64_t)op->control.expect;
    bool another = !ours && (id->found || !hf_mutate(130));
    if (another && !hf_mutate(115)) return (struct decision){NOTHING, SCHEDULE_SCHEDULED};
    return (struct decision){standing == STANDS_PENDING ? REPLACE : TAKE_IN, SCHEDULE_SCHEDULED};
}

static struct decision decide(const struct op *op, const struct id_state *id, enum standing standing) {
    static const struct decision schedule[3][5] = {
        /* pending, delivered, cancelled, unknown, running */
        [HF_REPLACE] = {{REPLACE, SCHEDULE_REPLACED},
                        {TAKE_IN, SCHEDULE_SCHEDULED},
                        {TAKE_IN, SCHEDULE_SCHEDULED},
                        {TAKE_IN, SCHEDULE_SCHEDULED},
                        {TAKE_IN, SCHEDULE_REPLACED}},
        [HF_KEEP] = {{NOTHING, SCHEDULE_KEPT},
                     {TAKE_IN, SCHEDULE_SCHEDULED},
                     {TAKE_IN, SCHEDULE_SCHEDULED},
                     {TAKE_IN, SCHEDULE_SCHEDULED},
                     {NOTHING, SCHEDULE_KEPT}},
        [HF_ONCE] = {{NOTHING, SCHEDULE_KEPT},
                     {NOTHING, SCHEDULE_FINISHED},
                     {NOTHING, SCHEDULE_FINISHED},
                     {TAKE_IN, SCHEDULE_SCHEDULED},
                     {NOTHING, SCHEDULE_KEPT}},
    };
    static const struct decision other[2][5] = {{{CANCEL, SCHEDULE_CANCELLED},
                                                 {NOTHING, SCHEDULE_ALREADY_DELIVERED},
                                                 {NOTHING, SCHEDULE_CANCELLED},
                                                 {NOTHING, SCHEDULE_UNKNOWN},
                                                 {END, SCHEDULE_CANCELLED}},
                                                {{REPLACE, SCHEDULE_MOVED},
                                                 {NOTHING, SCHEDULE_ALREADY_DELIVERED},
                                                 {NOTHING, SCHEDULE_CANCELLED},
                                                 {NOTHING, SCHEDULE_UNKNOWN},
                                                 {NOTHING, SCHEDULE_CHANGED}}};
    if (op->control.op == HF_OP_NEXT) return decide_next(op, id, standing);
    if (op->control.op == HF_OP_SCHEDULE) return schedule[op->control.on_conflict][standing];
    bool moves = op->control.op == HF_OP_MOVE, conditional = op->control.expect >= 0;
    bool another = conditional && standing == STANDS_PENDING && id->place.seq != (uint64_t)op->control.expect;
    return another ? (struct decision){NOTHING, SCHEDULE_CHANGED} : other[moves][standing];
}

static enum hf_err apply_with_id(struct schedule *s, const struct op *op) {
    const struct engine_record *r = op->record;
    struct id_state id;
    hf_buf_reset(&s->key);
    id_key(&s->key, op->control.topic, op->control.id);
    enum hf_err e = id_get(s, hf_buf_view(&s->key), &id);
    if (e) return e;
    struct decision d = decide(op, &id, standing_of(s, &id, r->timestamp_ms));
    struct taken taken = {NULL, 0};
    if (d.deed == TAKE_IN || d.deed == REPLACE) {
        e = take_in(s, op, op->control.topic, r->headers, r->header_count, &taken);
        if (!e) e = write_id(s, op, op->control.cron.p ? ID_RECURRING : ID_PENDING, op->place, taken);
    } else if (d.deed == CANCEL || d.deed == END) {
        e = write_id(s, op, ID_CANCELLED, id.place, taken);
    }
    if (!e && (d.deed == REPLACE || d.deed == CANCEL)) e = bury(s, op, &id);
    return e ? e : remember_outcome(s, op, d.outcome);
}

/* Only an engine without a door lets such a record in. */
static enum hf_err apply_bad(struct schedule *s, struct op *op, const struct hf_control_error *why) {
    const struct engine_record *r = op->record;
    size_t n = r->header_count < ENGINE_HEADERS_MAX ? r->header_count : ENGINE_HEADERS_MAX - 1;
    memcpy(s->headers, r->headers, n * sizeof s->headers[0]);
    s->headers[n] = (struct hf_header){HF_STR(HF_HDR_REASON), hf_str_of(why->reason)};
    op->control = (struct hf_control){.partition = -1};
    op->flags = 0;
    op->asked_ms = r->timestamp_ms;
    op->place = (struct place){r->timestamp_ms, r->sequence};
    struct taken taken;
    return take_in(s, op, HF_STR(HF_TOPIC_REJECTED), s->headers, n + 1, &taken);
}

/* A recurring one's wait is no interval: it ignores the monotonic clock. */
static enum hf_err find_out_when(struct schedule *s, struct op *op) {
    const struct hf_control *c = &op->control;
    int64_t accepted_ms = op->record->timestamp_ms;
    bool first = c->op == HF_OP_SCHEDULE && c->cron.p;
    if (first) return recurring_next(s, c->cron, c->tz, accepted_ms, &op->asked_ms);
    bool relative = c->delay_ms >= 0 || c->delay_level > 0;
    int64_t delay_ms = c->delay_level > 0 ? levels_ms(&s->levels, c->delay_level) : c->delay_ms;
    op->asked_ms = relative ? accepted_ms + delay_ms : c->due_ms;
    op->flags = relative ? ENTRY_RELATIVE : 0;
    return HF_OK;
}

static enum hf_err apply_levels(struct schedule *s, const struct engine_record *r) {
    struct levels l;
    if (levels_parse(r->value, &l) == HF_OK) s->levels = l;
    return HF_OK;
}

static enum hf_err apply(struct schedule *s, int32_t partition, const struct engine_record *r) {
    static const struct hf_control_error no_time = {HF_HDR_CRON, "hf-cron or hf-tz names no time"};
    struct op op = {.record = r, .partition = partition};
    struct hf_control_error why;
    s->count.accepted++;
    if (hf_control_delay(r->headers, r->header_count, &op.control, &why)) return apply_bad(s, &op, &why);
    if (op.control.op == HF_OP_LEVELS) return apply_levels(s, r);
    enum hf_err e = find_out_when(s, &op);
    if (e == HF_EINVAL || e == HF_EEND) return apply_bad(s, &op, &no_time);
    if (e) return e;
    op.place = (struct place){op.asked_ms > r->timestamp_ms ? op.asked_ms : r->timestamp_ms, r->sequence};
    if (op.control.id.p) return apply_with_id(s, &op);
    struct taken taken;
    s->count.outcomes[SCHEDULE_SCHEDULED]++;
    return take_in(s, &op, op.control.topic, r->headers, r->header_count, &taken);
}

/* ---- in order ---- */

static enum hf_err peek(struct reader *r) {
    if (r->peeked) return HF_OK;
    enum hf_err e = engine_cursor_next(r->cursor, &r->record);
    if (e == HF_OK) r->peeked = true;
    return e == HF_EEND ? HF_OK : e;
}

/* The partition with the next record that may be read, or -1. */
static enum hf_err next_in_order(struct schedule *s, int32_t *out) {
    *out = -1;
    for (int32_t p = 0; p < s->partitions; p++) {
        struct reader *r = &s->readers[p];
        enum hf_err e = peek(r);
        if (e) return e;
        if (!r->peeked) continue;
        if (*out < 0 || r->record.sequence < s->readers[*out].record.sequence) *out = p;
    }
    if (*out >= 0 && s->partitions > 1 && s->readers[*out].record.timestamp_ms >= s->stable_ms) *out = -1;
    return HF_OK;
}

enum hf_err accept_slice(struct schedule *s, bool *more) {
    s->stable_ms = engine_stable_ms(s->engine, HF_STR(HF_TOPIC_DELAY));
    s->caught_up = false;
    for (size_t i = 0; i < s->o.read_records; i++) {
        if (checkpoint_full(s)) return HF_OK; /* not caught up; goes on when the checkpoint is through */
        int32_t p;
        enum hf_err e = next_in_order(s, &p);
        if (e) return e;
        if (p < 0) {
            s->caught_up = true;
            return HF_OK;
        }
        struct reader *r = &s->readers[p];
        assert(r->record.sequence > s->read_seq && r->record.timestamp_ms >= s->read_ms);
        if ((e = apply(s, p, &r->record))) return e;
        s->read_seq = r->record.sequence;
        s->read_ms = r->record.timestamp_ms;
        s->active->records++;
        s->active->record_bytes += r->record.key.n + r->record.value.n + 64;
        r->next = r->record.offset + 1;
        r->peeked = false;
    }
    *more = true;
    return HF_OK;
}
