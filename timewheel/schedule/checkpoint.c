/* Checkpoints: what is pending in memory goes to a run, and the log goes on without it.
 *
 *     IDLE --freeze--> MESSAGES --sealed--> IDS --sealed--> COMMIT --started--> WAIT --durable--> IDLE
 *                         ^  no space: again  |                ^ no space: again |
 *                         +-------------------+                +-----------------+
 *
 * Freezing notes the offsets read so far and begins an empty gathering. The frozen one's messages and
 * tombstones are written to one run, what it knows of ids to another, in slices, while it goes on firing.
 * Then one commit makes both runs exist, moves the low-water of holdfast.delay to the noted offsets, and
 * stores them as the base: the next start reads the log from there. So a checkpoint splits time cleanly:
 * everything read before the base is fired, dead, or in a run (S2), and what is known of ids at the base is
 * in runs of ids (S4).
 *
 * A message that a started commit fires is left out: that commit is durable before this one, or both fail.
 * One that has been taken and waits (for its topic, for room) is in no gathering any more and in no commit
 * yet: a freeze would forget it, and waits too.
 *
 * The horizon of remembered ids moves at a checkpoint only, together with the base: records after the base,
 * read twice after a crash, see the same horizon both times.
 *
 * Value of "delay/base": horizon i64, acceptance of the last record before the base i64, partitions u32, for
 * each the offset i64; delay levels in force u32, each i64; big-endian. What the records before the base
 * change of each topic's count travels along (counts.c). */
#include "schedule_state.h"

#include "base/names.h"

enum { AHEAD = 8 }; /* sorted items lie anywhere in the chunks: fetched so many before they are written */

static size_t active_bytes(const struct schedule *s) {
    return s->active->bytes + wheel_count(s->active->wheel) * 16;
}

bool checkpoint_full(const struct schedule *s) {
    return s->active->records > 0 &&
           (active_bytes(s) >= s->o.gather_bytes || s->counts.touched >= TOUCHED_MAX);
}

static bool is_due(const struct schedule *s) {
    const struct gather *a = s->active;
    if (a->records == 0 || (s->batch.count > 0 && !hf_mutate(117))) return false;
    return checkpoint_full(s) || a->records >= s->o.replay_records || a->record_bytes >= s->o.replay_bytes ||
           s->clock.inside_ms - s->checkpoint.at_ms >= s->o.checkpoint_ms;
}

/* Too many bytes of finished ids: forget the older part of the time that they span. */
static void move_horizon(struct schedule *s) {
    uint64_t all, bytes;
    schedule_id_bytes(s, &all, &bytes);
    int64_t earliest = s->read_ms - s->o.id_memory_ms;
    if (s->id_horizon_ms < earliest) s->id_horizon_ms = earliest < 0 ? 0 : earliest;
    if (bytes <= s->o.id_memory_bytes) return;
    double keep = (double)s->o.id_memory_bytes / (double)bytes;
    s->id_horizon_ms = s->read_ms - (int64_t)((double)(s->read_ms - s->id_horizon_ms) * keep);
}

static enum hf_err freeze(struct schedule *s) {
    struct checkpoint *c = &s->checkpoint;
    struct gather *fresh;
    enum hf_err e = gather_open(s->mark, &fresh);
    if (e) return e;
    if (!(e = gather_tombstones(s->active, &c->tombstones, &c->tombstone_count)))
        e = gather_freeze(s->active);
    if (e) {
        gather_close(fresh);
        return e;
    }
    s->frozen = s->active;
    s->active = fresh;
    counts_freeze(&s->counts);
    for (int32_t p = 0; p < s->partitions; p++) c->next[p] = s->readers[p].next;
    c->at_ms = s->clock.inside_ms;
    c->base_ms = s->read_ms;
    c->levels = s->levels;
    c->tombstone_at = c->item_at = 0;
    move_horizon(s);
    c->horizon_ms = s->id_horizon_ms;
    c->state = CHECKPOINT_MESSAGES;
    return HF_OK;
}

/* ---- writing ---- */

static uint64_t bucket_of(struct place p) { /* a day */
    return (uint64_t)p.due / 86400000;
}

static enum hf_err writer_ready(struct schedule *s, enum run_kind kind, struct place first) {
    if (s->checkpoint.writing) return HF_OK;
    enum hf_err e = run_writer_begin(&s->checkpoint.writer, s->engine, kind, 0, s->next_group,
                                     kind == RUN_IDS ? UINT64_MAX : bucket_of(first), s->o.block_bytes);
    if (e) return e;
    s->next_group++;
    s->checkpoint.writing = true;
    return HF_OK;
}

static enum hf_err write_message_or_tombstone(struct schedule *s) {
    struct checkpoint *c = &s->checkpoint;
    struct gather *f = s->frozen;
    struct place item = c->item_at < f->sorted_count ? f->sorted[c->item_at]->place : PLACE_END;
    struct place tomb = c->tombstone_at < c->tombstone_count ? c->tombstones[c->tombstone_at] : PLACE_END;
    bool is_item = place_before(item, tomb);
    if (c->item_at + AHEAD < f->sorted_count) __builtin_prefetch(f->sorted[c->item_at + AHEAD]);
    struct place at = is_item ? item : tomb;
    hf_str body;
    hf_buf_reset(&s->scratch);
    if (is_item) {
        body = item_body(f->sorted[c->item_at]);
    } else {
        entry_encode_tombstone(&s->scratch, tomb);
        body = hf_buf_view(&s->scratch);
    }
    if (place_before(hf_mutate(107) ? s->taken : s->started, at)) {
        enum hf_err e = writer_ready(s, RUN_MESSAGES, at);
        if (!e) e = run_writer_add(&c->writer, body, 0);
        if (e) return e;
    }
    if (is_item)
        c->item_at++;
    else
        c->tombstone_at++;
    return HF_OK;
}

static enum hf_err write_messages(struct schedule *s, bool *done) {
    struct checkpoint *c = &s->checkpoint;
    uint64_t end = (c->writing ? c->writer.written : 0) + s->o.slice_bytes;
    size_t steps = 0;
    while (c->item_at < s->frozen->sorted_count || c->tombstone_at < c->tombstone_count) {
        if ((c->writing && c->writer.written >= end) || steps++ > s->o.slice_bytes / 16) return HF_OK;
        enum hf_err e = write_message_or_tombstone(s);
        if (e) return e;
    }
    *done = true;
    return HF_OK;
}

static enum hf_err write_ids(struct schedule *s, bool *done) {
    struct checkpoint *c = &s->checkpoint;
    if (!c->ids) {
        c->id_at = 0;
        enum hf_err e = id_sorted(s->frozen, &c->ids, &c->id_count);
        if (e) return e;
    }
    uint64_t end = (c->writing ? c->writer.written : 0) + s->o.slice_bytes;
    for (; c->id_at < c->id_count; c->id_at++) {
        if (c->writing && c->writer.written >= end) return HF_OK;
        const struct id_entry *id = c->ids[c->id_at];
        hf_buf_reset(&s->scratch);
        id_encode(&s->scratch, id);
        enum hf_err e = hf_buf_failed(&s->scratch);
        if (!e) e = writer_ready(s, RUN_IDS, (struct place){0, 0});
        if (!e) e = run_writer_add(&c->writer, hf_buf_view(&s->scratch), id->hash);
        if (e) return e;
        if (id_pends(id, c->base_ms)) c->writer.pending_bytes += s->scratch.n;
    }
    *done = true;
    return HF_OK;
}

/* Writes a slice of one of the two runs; when it is sealed, goes on to `next`. */
static enum hf_err write_run(struct schedule *s, enum hf_err (*write)(struct schedule *, bool *),
                             enum checkpoint_state next) {
    struct checkpoint *c = &s->checkpoint;
    if (c->writing && c->writer.sealing) return HF_OK;
    if (c->writing && c->writer.sealed) {
        enum hf_err e = c->writer.seal_result;
        if (e) return e;
        c->added[c->added_count] = c->writer.id;
        c->added_bytes[c->added_count++] = c->writer.bytes;
        run_writer_end(&c->writer);
        c->writing = false;
        c->state = next;
        return HF_OK;
    }
    bool done = false;
    enum hf_err e = write(s, &done);
    if (e || !done) return e;
    if (c->writing) return run_writer_seal(&c->writer, &s->under_way);
    c->state = next;
    return HF_OK;
}

/* The run begun cannot be finished now: begin it again later. */
static void begin_again(struct checkpoint *c) {
    if (c->writing && !c->writer.sealing) {
        run_writer_end(&c->writer);
        c->writing = false;
    }
    if (c->state == CHECKPOINT_MESSAGES) c->item_at = c->tombstone_at = 0;
    c->id_at = 0;
}

/* ---- committing ---- */

static void committed(void *arg, enum hf_err e) {
    struct schedule *s = arg;
    s->under_way--;
    s->checkpoint.durable = !e;
    if (!e) return;
    s->checkpoint.state = CHECKPOINT_COMMIT; /* it did not happen */
    schedule_trouble(s, e, "the commit of a checkpoint failed");
}

static enum hf_err commit(struct schedule *s) {
    struct checkpoint *c = &s->checkpoint;
    struct engine_low_water low[PARTITIONS_MAX];
    hf_buf_reset(&s->scratch);
    hf_buf_be64(&s->scratch, (uint64_t)c->horizon_ms);
    hf_buf_be64(&s->scratch, (uint64_t)c->base_ms);
    hf_buf_be32(&s->scratch, (uint32_t)s->partitions);
    for (int32_t p = 0; p < s->partitions; p++) {
        if (hf_mutate(104)) c->next[p] = s->readers[p].next;
        low[p] = (struct engine_low_water){HF_STR(HF_TOPIC_DELAY), p, c->next[p]};
        hf_buf_be64(&s->scratch, (uint64_t)c->next[p]);
    }
    levels_encode(&c->levels, &s->scratch);
    if (hf_buf_failed(&s->scratch)) return hf_buf_failed(&s->scratch);
    struct put_list *puts = &s->batch.puts;
    put_list_begin(puts);
    enum hf_err e = put_list_add(puts, HF_STR("delay/base"), hf_buf_view(&s->scratch));
    if (!e) e = counts_put_frozen(&s->counts, puts);
    if (e) return e;
    struct engine_commit what = {.now_ms = s->clock.inside_ms,
                                 .puts = puts->puts,
                                 .put_count = puts->count,
                                 .low_waters = low,
                                 .low_water_count = (size_t)s->partitions,
                                 .runs_added = c->added,
                                 .runs_added_count = c->added_count};
    engine_time_floor(s->engine, HF_STR(HF_TOPIC_DELAY), s->clock.inside_ms);
    c->durable = false;
    if ((e = engine_commit(s->engine, &what, committed, s))) return e;
    counts_settle(&s->counts);
    s->under_way++;
    c->state = CHECKPOINT_WAIT;
    return HF_OK;
}

static void forget_frozen(struct schedule *s) {
    struct checkpoint *c = &s->checkpoint;
    free(c->tombstones);
    free(c->ids);
    c->tombstones = NULL;
    c->ids = NULL;
    gather_close(s->frozen);
    s->frozen = NULL;
    c->added_count = 0;
    c->state = CHECKPOINT_IDLE;
}

static enum hf_err finish(struct schedule *s) {
    struct checkpoint *c = &s->checkpoint;
    if (!c->durable) return HF_OK;
    for (size_t i = 0; i < c->added_count; i++) {
        enum hf_err e = schedule_open_run(s, c->added[i], c->added_bytes[i]);
        if (e) return e;
    }
    s->base_ms = c->base_ms;
    s->base_horizon_ms = c->horizon_ms;
    s->count.checkpoints++;
    s->merge_wanted = true; /* ids may be over at the new base */
    forget_frozen(s);
    return HF_OK;
}

void checkpoint_abort(struct schedule *s) {
    struct checkpoint *c = &s->checkpoint;
    if (c->writing) run_writer_discard(&c->writer);
    c->writing = false;
    bool may_count = c->state == CHECKPOINT_WAIT && !hf_mutate(131);
    for (size_t i = 0; !may_count && i < c->added_count; i++) engine_run_discard(s->engine, c->added[i]);
    forget_frozen(s);
}

enum hf_err checkpoint_slice(struct schedule *s, bool *more) {
    struct checkpoint *c = &s->checkpoint;
    enum checkpoint_state before = c->state;
    enum hf_err e = HF_OK;
    switch (c->state) {
    case CHECKPOINT_IDLE:
        if (is_due(s)) e = freeze(s);
        break;
    case CHECKPOINT_MESSAGES: e = write_run(s, write_messages, CHECKPOINT_IDS); break;
    case CHECKPOINT_IDS: e = write_run(s, write_ids, CHECKPOINT_COMMIT); break;
    case CHECKPOINT_COMMIT: e = commit(s); break;
    case CHECKPOINT_WAIT: e = finish(s); break;
    }
    bool waits_for_seal = c->writing && c->writer.sealing;
    if (!e && (c->state != before || c->writing) && !waits_for_seal) *more = true;
    if (e == HF_ENOSPC || e == HF_EAGAIN) {
        if (before == CHECKPOINT_MESSAGES || before == CHECKPOINT_IDS) begin_again(c);
        s->waiting = true;
        return HF_OK;
    }
    return e;
}
