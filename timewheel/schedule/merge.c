/* Merging: eight runs of one tier become one of the next, in slices beside everything else.
 *
 * Every message is written once by its checkpoint and then once for each tier that it lives to see, so a
 * hundred million far messages pass three tiers, and firing merges at most a few dozen runs. An output is cut
 * at run_bytes: a spent one is dropped whole as time passes over it, and one that is a year away costs no
 * more than its index. The runs of one output are one group, and a group counts as one run.
 *
 *     IDLE --a tier is full--> COPY <--> SEAL --last--> COMMIT --> WAIT --durable--> IDLE
 *
 * Messages: what is fired by a started commit is left out; a tombstone and its victim meet and both vanish; a
 * tombstone whose victim is in another tier goes on. So that cancelled messages free their space before their
 * time, all tiers are merged, over the time that tombstones span, as soon as these are a quarter as many as the
 * messages there: a cancelled message costs the writing of three others at most. Once for each checkpoint,
 * since only that brings more.
 * Ids: of one key the newest entry stays; a finished one is left out when its time is over, measured at the
 * base, so that a record which is read again after a crash finds what it found before, and when no older run
 * (those of higher tiers) may have the key: an entry there could say that a message pends which was cancelled
 * or replaced since.
 *
 * Until the commit the inputs are what counts; a crash leaves unnamed outputs, which the engine deletes. So a
 * merge needs room for all that it writes, the largest for nearly as much as pends. What has none waits, and what
 * has goes on; one that is given up since others took the room discards its outputs, unless its commit is under way. */
#include "schedule_state.h"

enum {
    TIERS_MAX = 32,
    GROUPS_MAX = 256,
    ID_MERGE_MS = 3600000,
    LOOK_AGAIN_MS = 1000,
    BEGIN_AGAIN_MS = 10000
};

/* ---- what to merge ---- */

struct span {
    struct place first, last;
};
static const struct span always = {{0, 0}, {INT64_MAX, UINT64_MAX}};

struct choice { /* one tier up to a group, or all tiers up to this one within a span */
    enum run_kind kind;
    uint8_t tier;
    uint64_t last_group;
    const struct span *within;
};

static bool overlaps(const struct run *r, const struct span *s) {
    return !place_before(r->last, s->first) && !place_before(s->last, r->first);
}

static bool is_input(const struct run *r, const struct choice *c) {
    if (r->kind != c->kind || r->dropping) return false;
    if (c->within) return r->tier <= c->tier && overlaps(r, c->within);
    return r->tier == c->tier && r->group <= c->last_group;
}

/* About what the inputs will leave: at most their bytes; where all tiers are merged, tombstones find their victims. */
static uint64_t bytes_of_output(const struct schedule *s, const struct choice *c) {
    uint64_t bytes = 0, messages = 0, tombstones = 0;
    for (size_t i = 0; i < s->run_count; i++) {
        const struct run *r = s->runs[i].run;
        if (!is_input(r, c)) continue;
        bytes += r->bytes;
        messages += r->messages;
        tombstones += r->tombstones;
    }
    if (!c->within || c->kind == RUN_IDS || messages == 0) return bytes;
    uint64_t live = messages > tombstones ? messages - tombstones : 0;
    return (uint64_t)((double)bytes * (double)live / (double)messages);
}

/* With a margin for what a run adds to its entries, and for what others write meanwhile. */
static bool fits(const struct schedule *s, const struct choice *c) {
    enum { EIGHTH = 8 };
    uint64_t room = engine_room(s->engine);
    return bytes_of_output(s, c) <= room - room / EIGHTH;
}

/* The tier's groups, the oldest first, as far as they are needed. */
static size_t groups_of(const struct schedule *s, enum run_kind kind, uint8_t tier,
                        uint64_t out[GROUPS_MAX]) {
    size_t n = 0;
    for (size_t i = 0; i < s->run_count && n < GROUPS_MAX; i++) {
        const struct run *r = s->runs[i].run;
        if (r->kind != kind || r->tier != tier || r->dropping) continue;
        size_t k = n;
        while (k > 0 && out[k - 1] > r->group) k--;
        if (k > 0 && out[k - 1] == r->group) continue;
        memmove(out + k + 1, out + k, (n - k) * sizeof *out);
        out[k] = r->group;
        n++;
    }
    return n;
}

/* All that there is of a full tier, or, when there is no room for that, no more than makes it full. Older groups go
 * first, so that what lies in a higher tier is older still. */
static bool is_full(const struct schedule *s, enum run_kind kind, uint8_t tier, struct choice *out) {
    uint64_t groups[GROUPS_MAX];
    size_t n = groups_of(s, kind, tier, groups);
    if (n < s->o.fan_in) return false;
    *out = (struct choice){.kind = kind, .tier = tier, .last_group = UINT64_MAX};
    if (!fits(s, out)) out->last_group = groups[s->o.fan_in - 1];
    return true;
}

/* More finished ids than their limit, and a good part of them past the horizon; or so many ids in all that
 * some may have finished since they were written, which is looked into by the hour. */
static bool ids_overflow(const struct schedule *s) {
    uint64_t all, finished, most = s->o.id_memory_bytes + s->o.id_memory_bytes / 4;
    schedule_id_bytes(s, &all, &finished);
    if (s->id_run_count < 2 || s->id_merge_ms >= s->base_ms) return false;
    return finished > most || (all > most && s->base_ms - s->id_merge_ms >= ID_MERGE_MS);
}

/* Tombstones are a quarter of the messages in the span of their runs, or more. */
static bool much_is_dead(const struct schedule *s, struct span *out) {
    enum { QUARTER = 4 };
    uint64_t messages = 0, tombstones = 0;
    struct span span = {PLACE_END, {0, 0}};
    for (size_t i = 0; i < s->run_count; i++) {
        const struct run *r = s->runs[i].run;
        uint64_t n =
            r->kind == RUN_MESSAGES && !r->dropping ? r->tombstones - s->runs[i].cursor.before[1] : 0;
        if (n == 0) continue;
        tombstones += n;
        if (place_before(r->first, span.first)) span.first = r->first;
        if (place_before(span.last, r->last)) span.last = r->last;
    }
    for (size_t i = 0; tombstones && i < s->run_count; i++) {
        const struct run *r = s->runs[i].run;
        if (r->kind == RUN_MESSAGES && !r->dropping && overlaps(r, &span))
            messages += r->messages - s->runs[i].cursor.before[0];
    }
    *out = span;
    return tombstones > 0 && tombstones * QUARTER >= messages;
}

static uint8_t top_tier(const struct schedule *s, enum run_kind kind) {
    uint8_t top = 0;
    for (size_t i = 0; i < s->run_count; i++)
        if (s->runs[i].run->kind == kind && s->runs[i].run->tier > top) top = s->runs[i].run->tier;
    return top;
}

static enum hf_err begin(struct schedule *s, const struct choice *c) {
    struct merge *m = &s->merge;
    bool stays = c->within && c->tier > 0; /* all that there is: no reason to climb */
    *m = (struct merge){.kind = c->kind,
                        .tier = stays ? c->tier : (uint8_t)(c->tier + 1),
                        .group = s->next_group,
                        .left = bytes_of_output(s, c),
                        .all_tiers = c->within != NULL,
                        .base_ms = s->base_ms,
                        .checkpoints = s->count.checkpoints};
    m->inputs = calloc(s->run_count, sizeof *m->inputs);
    if (!m->inputs) return HF_ENOMEM;
    hf_buf_init(&m->held, ENTRY_MAX);
    m->state = MERGE_COPY;
    struct place after = c->kind == RUN_MESSAGES ? s->started : (struct place){0, 0};
    for (size_t i = 0; i < s->run_count; i++) {
        struct run *r = s->runs[i].run;
        if (!is_input(r, c)) continue;
        enum hf_err e = run_cursor_open(&m->inputs[m->input_count], s->engine, r, after);
        if (e) return e;
        r->merging = true;
        m->input_count++;
    }
    s->next_group++;
    schedule_runs_changed(s);
    return HF_OK;
}

struct offer {
    struct choice choice;
    bool found, no_room;
};

/* The first one for which there is room. */
static void consider(const struct schedule *s, const struct choice *c, struct offer *o) {
    if (o->found) return;
    o->found = fits(s, c);
    o->no_room |= !o->found;
    if (o->found) o->choice = *c;
}

/* Tells of the first of those that found no room one after the other. */
static void put_off(struct schedule *s, int64_t ms) {
    s->merge_retry_mono = s->clock.mono_ms + ms;
    if (s->merge_put_off) return;
    s->merge_put_off = true;
    schedule_tell(s, SCHEDULE_MERGE_PUT_OFF,
                  "too little free disk space for what it writes; it waits for more");
}

static enum hf_err choose(struct schedule *s) {
    if (!s->merge_wanted || s->clock.mono_ms < s->merge_retry_mono) return HF_OK;
    static const enum run_kind kinds[] = {RUN_MESSAGES, RUN_IDS};
    struct choice full;
    struct span dead;
    struct offer o = {.found = false};
    for (size_t k = 0; k < 2; k++)
        for (uint8_t tier = 0; tier < TIERS_MAX; tier++)
            if (is_full(s, kinds[k], tier, &full)) consider(s, &full, &o);
    if (ids_overflow(s))
        consider(s, &(struct choice){.kind = RUN_IDS, .tier = top_tier(s, RUN_IDS), .within = &always}, &o);
    if (s->swept_at != s->count.checkpoints && much_is_dead(s, &dead))
        consider(s,
                 &(struct choice){.kind = RUN_MESSAGES, .tier = top_tier(s, RUN_MESSAGES), .within = &dead},
                 &o);
    if (o.found) return begin(s, &o.choice);
    if (o.no_room) put_off(s, LOOK_AGAIN_MS);
    s->merge_wanted = s->merge_put_off = o.no_room;
    return HF_OK;
}

/* ---- output ---- */

static enum hf_err emit(struct schedule *s, hf_str body, uint64_t hash, struct place at) {
    struct merge *m = &s->merge;
    if (!m->writing) {
        uint64_t least = m->left ? m->left : s->o.run_bytes; /* 0: more is left than was thought */
        if (engine_room(s->engine) < least) return HF_ENOSPC;
        uint64_t bucket = m->kind == RUN_IDS ? UINT64_MAX : (uint64_t)at.due / 86400000;
        enum hf_err e =
            run_writer_begin(&m->writer, s->engine, m->kind, m->tier, m->group, bucket, s->o.block_bytes);
        if (e) return e;
        m->writing = true;
    }
    m->copied += body.n;
    m->left -= body.n < m->left ? body.n : m->left;
    return run_writer_add(&m->writer, body, hash);
}

/* Opened while its index is still in the page cache, and one at a time. */
static enum hf_err open_output(struct schedule *s) {
    struct merge *m = &s->merge;
    if (m->output_count == m->output_cap) {
        size_t cap = m->output_cap ? m->output_cap * 2 : 16;
        struct run **outputs = realloc(m->outputs, cap * sizeof(struct run *));
        if (!outputs) return HF_ENOMEM;
        m->outputs = outputs;
        m->output_cap = cap;
    }
    enum hf_err e = run_open(s->engine, m->writer.id, m->writer.bytes, &m->outputs[m->output_count]);
    if (!e) m->output_count++;
    return e;
}

/* ---- copying ---- */

static struct run_cursor *lowest(struct merge *m) {
    struct run_cursor *best = &m->inputs[0];
    for (size_t i = 1; i < m->input_count; i++)
        if (place_before(m->inputs[i].head, best->head)) best = &m->inputs[i];
    return best;
}

/* All entries of one place: a message, a tombstone, or both, which vanish together (S2). */
static enum hf_err copy_place(struct schedule *s, struct place at) {
    struct merge *m = &s->merge;
    size_t messages = 0, tombstones = 0;
    hf_buf_reset(&m->held);
    for (size_t i = 0; i < m->input_count; i++) {
        struct run_cursor *c = &m->inputs[i];
        if (!place_same(c->head, at)) continue;
        enum hf_err e = run_cursor_load(c);
        if (e) return e;
        bool tombstone = c->head_flags & ENTRY_TOMBSTONE;
        *(tombstone ? &tombstones : &messages) += 1;
        hf_buf_reset(&m->held);
        hf_buf_str(&m->held, c->body);
        if (!(e = hf_buf_failed(&m->held))) e = run_cursor_next(c);
        if (e) return e;
    }
    struct place fired = hf_mutate(108) ? s->taken : s->started;
    bool vanish = (messages && tombstones) || !place_before(fired, at) || (tombstones && hf_mutate(106));
    return vanish ? HF_OK : emit(s, hf_buf_view(&m->held), 0, at);
}

/* What recurs runs until the record of its next run, or a cancel, is read, however late its run may be. */
static bool is_over(const struct schedule *s, const struct id_entry *e) {
    if (e->kind == ID_RECURRING && !hf_mutate(129)) return false;
    bool pends = e->kind == ID_PENDING || e->kind == ID_RECURRING;
    int64_t finished_ms = pends ? e->place.due : e->at_ms;
    return finished_ms < s->base_ms - s->o.id_memory_ms ||
           (finished_ms < s->base_horizon_ms && finished_ms < s->base_ms);
}

/* Runs of the output's tier and above are older than the inputs, unless they are among them. */
static bool is_in_an_older_run(const struct schedule *s, uint64_t hash) {
    for (size_t i = 0; i < s->id_run_count; i++) {
        const struct run *r = s->id_runs[i];
        if (!r->merging && r->tier >= s->merge.tier && run_may_have(r, hash)) return !hf_mutate(128);
    }
    return false;
}

/* The held entry is the newest of its key so far. */
static enum hf_err emit_held(struct schedule *s) {
    struct merge *m = &s->merge;
    if (m->held.n == 0) return HF_OK;
    struct id_entry e = {0};
    hf_str key;
    enum hf_err error = id_decode(hf_buf_view(&m->held), &e, &key);
    if (!error && (!is_over(s, &e) || is_in_an_older_run(s, e.hash))) {
        error = emit(s, hf_buf_view(&m->held), e.hash, (struct place){0, 0});
        if (!error && id_pends(&e, s->base_ms)) m->writer.pending_bytes += m->held.n;
    }
    hf_buf_reset(&m->held);
    return error;
}

static enum hf_err copy_id(struct schedule *s, struct run_cursor *c) {
    struct merge *m = &s->merge;
    struct id_entry now = {0}, before = {0};
    hf_str key, key_before;
    enum hf_err e = run_cursor_load(c);
    if (!e) e = id_decode(c->body, &now, &key);
    if (!e && m->held.n) {
        e = id_decode(hf_buf_view(&m->held), &before, &key_before);
        bool same = !e && before.hash == now.hash && hf_str_eq(key, key_before);
        if (!e && !same) e = emit_held(s);
    }
    if (e) return e;
    hf_buf_reset(&m->held);
    hf_buf_str(&m->held, c->body);
    if ((e = hf_buf_failed(&m->held))) return e;
    return run_cursor_next(c);
}

static enum hf_err seal(struct schedule *s, bool last) {
    struct merge *m = &s->merge;
    m->last = last;
    if (!m->writing) {
        m->state = MERGE_COMMIT; /* last, and nothing was left */
        return HF_OK;
    }
    enum hf_err e = run_writer_seal(&m->writer, &s->under_way);
    if (!e) m->state = MERGE_SEAL;
    return e;
}

static enum hf_err copy(struct schedule *s) {
    struct merge *m = &s->merge;
    m->copied = 0;
    for (size_t steps = 0; m->copied < s->o.slice_bytes && steps < s->o.slice_bytes / 16; steps++) {
        struct run_cursor *c = lowest(m);
        enum hf_err e;
        if (place_same(c->head, PLACE_END)) {
            if (m->kind == RUN_IDS && (e = emit_held(s))) return e;
            return seal(s, true);
        }
        e = m->kind == RUN_IDS ? copy_id(s, c) : copy_place(s, c->head);
        if (e) return e;
        if (m->writing && m->writer.written >= s->o.run_bytes) return seal(s, false);
    }
    return HF_OK;
}

static enum hf_err after_seal(struct schedule *s) {
    struct merge *m = &s->merge;
    if (!m->writer.sealed) return HF_OK;
    enum hf_err e = m->writer.seal_result;
    if (!e) e = open_output(s);
    if (e) return e;
    run_writer_end(&m->writer);
    m->writing = false;
    m->state = m->last ? MERGE_COMMIT : MERGE_COPY;
    return HF_OK;
}

/* ---- committing ---- */

static void release(struct merge *m) {
    for (size_t i = 0; i < m->input_count; i++) run_cursor_close(&m->inputs[i]);
    free(m->inputs);
    for (size_t i = 0; i < m->output_count; i++) run_close(m->outputs[i]);
    free(m->outputs);
    hf_buf_fini(&m->held);
    *m = (struct merge){0};
}

/* The inputs cannot be read any more once their commit is done: they are exchanged here and now. */
static enum hf_err exchange(struct schedule *s) {
    struct merge *m = &s->merge;
    for (size_t i = 0; i < m->input_count; i++) {
        uint64_t id = m->inputs[i].run->id;
        run_cursor_close(&m->inputs[i]);
        schedule_remove_run(s, id);
    }
    m->input_count = 0;
    enum hf_err e = HF_OK;
    for (size_t i = 0; i < m->output_count && !e; i++)
        if (!(e = schedule_add_run(s, m->outputs[i]))) m->outputs[i] = NULL;
    if (m->all_tiers && m->kind == RUN_IDS) s->id_merge_ms = m->base_ms;
    if (m->all_tiers && m->kind == RUN_MESSAGES) s->swept_at = m->checkpoints;
    release(m);
    s->count.merges++;
    return e;
}

static void committed(void *arg, enum hf_err e) {
    struct schedule *s = arg;
    s->under_way--;
    if (e)
        s->merge.state = MERGE_COMMIT; /* it did not happen */
    else
        e = exchange(s);
    if (e) schedule_trouble(s, e, "a merge");
}

static enum hf_err commit(struct schedule *s) {
    struct merge *m = &s->merge;
    uint64_t *added = malloc((m->output_count + m->input_count) * sizeof *added);
    if (!added) return HF_ENOMEM;
    uint64_t *dropped = added + m->output_count;
    for (size_t i = 0; i < m->output_count; i++) added[i] = m->outputs[i]->id;
    for (size_t i = 0; i < m->input_count; i++) dropped[i] = m->inputs[i].run->id;
    struct engine_commit what = {.now_ms = s->clock.inside_ms,
                                 .runs_added = added,
                                 .runs_added_count = m->output_count,
                                 .runs_dropped = dropped,
                                 .runs_dropped_count = m->input_count};
    enum hf_err e = engine_commit(s->engine, &what, committed, s);
    free(added);
    if (e) return e;
    s->under_way++;
    m->state = MERGE_WAIT;
    return HF_OK;
}

void merge_abort(struct schedule *s) {
    struct merge *m = &s->merge;
    if (m->writing) run_writer_discard(&m->writer);
    bool may_count = m->state == MERGE_WAIT && !hf_mutate(131);
    for (size_t i = 0; !may_count && i < m->output_count; i++)
        engine_run_discard(s->engine, m->outputs[i]->id);
    for (size_t i = 0; i < m->input_count; i++) m->inputs[i].run->merging = false;
    if (m->input_count > 0) schedule_runs_changed(s);
    release(m);
}

enum hf_err merge_slice(struct schedule *s, bool *more) {
    struct merge *m = &s->merge;
    enum merge_state before = m->state;
    enum hf_err e = HF_OK;
    switch (m->state) {
    case MERGE_IDLE: e = choose(s); break;
    case MERGE_COPY: e = copy(s); break;
    case MERGE_SEAL: e = after_seal(s); break;
    case MERGE_COMMIT: e = commit(s); break;
    case MERGE_WAIT: break;
    }
    if (!e && (m->state != before || m->state == MERGE_COPY) && m->state != MERGE_SEAL) *more = true;
    if (e == HF_EAGAIN && before == MERGE_COMMIT) {
        s->waiting = true;
        return HF_OK;
    }
    if (e == HF_ENOSPC) {
        merge_abort(s);
        put_off(s, BEGIN_AGAIN_MS);
        return HF_OK;
    }
    return e;
}
