/* Firing: a merge of everything that is sorted, in slices.
 *
 *     active gathering (wheel) ─┐
 *     frozen gathering (array) ─┼─ by place ── batch ── commit: records to their topics + the mark
 *     runs (one block each)    ─┘
 *
 * The limit. A place may be fired when inside time has reached its due time, and when no record that is still
 * unread can come before it or cancel it (S3). Whatever is read later was accepted at or after
 *     the stable time, if all that is readable has been read,
 *     the acceptance of the last record read, if not,
 * and the engine is told inside time at each step: from then on it accepts nothing under it. So a limit once
 * reached stays reached.
 *
 * The mark is the place of the last message of a commit and travels in it. Commits are durable in the order
 * in which they were started, so several are under way; if one fails, all after it have failed, and the
 * schedule starts again from what is durable.
 *
 * A batch is copied out of its sources (tens of bytes a message), so nothing is pinned while the engine is
 * busy, and it can be resolved again when the world has changed:
 *
 *     destination has no topic        created, if it may; until it serves, all wait
 *     may not be created, too large   to holdfast.rejected, with hf-origin and hf-reason
 *     partition out of range          likewise
 *     no space, engine busy           all wait; late, never rejected
 *     recurring                       a run, and in the same commit its next run (recurring.c)
 *     relative, deadline not reached  (the wall clock jumped ahead) back to holdfast.delay, due when its
 *                                     monotonic deadline is; its id is past: by the wall clock it was due */
#include "schedule_state.h"

#include "base/names.h"
#include "store/engine/batch.h"

#include <inttypes.h>
#include <zlib.h>

enum {
    TEXT_BYTES = 192,       /* of one message: three times and an identity */
    MOVE_HEADERS = 16,      /* added to one message at most */
    ARENA_BYTES = 32 << 10, /* of one message */
};

const int64_t schedule_lateness_ms[SCHEDULE_LATENESS_BUCKETS - 1] = {1,   2,   5,   10,   20,   50,
                                                                     100, 200, 500, 1000, 10000};

/* ---- the limit ---- */

static int64_t fire_limit(const struct schedule *s) {
    int64_t known = s->caught_up ? s->stable_ms : s->read_ms;
    if (hf_mutate(102)) known = INT64_MAX;
    return known < s->clock.inside_ms ? known : s->clock.inside_ms;
}

/* ---- the merge ---- */

struct pick {
    struct gather *gather; /* or */
    struct source *source;
    struct item *item;
    struct place place;
    bool tombstone;
    struct place next; /* where the next best source stands */
};

static void offer(struct pick *best, struct pick candidate) {
    bool first = place_before(candidate.place, best->place) ||
                 (place_same(candidate.place, best->place) && candidate.tombstone);
    if (first) {
        candidate.next = best->place;
        *best = candidate;
    } else if (place_before(candidate.place, best->next)) {
        best->next = candidate.place;
    }
}

/* The source with the lowest place up to the limit; place PLACE_END if there is none. */
static enum hf_err pick_source(struct schedule *s, int64_t limit, struct pick *best) {
    *best = (struct pick){.place = PLACE_END, .next = PLACE_END};
    struct gather *gatherings[] = {s->active, s->frozen};
    for (size_t i = 0; i < 2; i++) {
        struct item *head = gatherings[i] ? gather_head(gatherings[i], limit) : NULL;
        if (head) offer(best, (struct pick){.gather = gatherings[i], .item = head, .place = head->place});
    }
    for (size_t i = 0; i < s->run_count; i++) {
        struct source *source = &s->runs[i];
        if (source->cursor.head.due > limit) continue; /* runs of ids are always at their end */
        enum hf_err e = run_cursor_load(&source->cursor);
        if (e) return e;
        offer(best, (struct pick){.source = source,
                                  .place = source->cursor.head,
                                  .tombstone = source->cursor.head_flags & ENTRY_TOMBSTONE});
    }
    return HF_OK;
}

static bool is_buried(struct schedule *s, const struct pick *p) {
    if (hf_mutate(105)) return false;
    if (place_same(p->place, s->buried)) return true;
    bool by_active = p->gather != s->active && gather_buried(s->active, p->place);
    bool by_frozen = p->gather != s->active && p->gather != s->frozen && gather_buried(s->frozen, p->place);
    if (by_active) s->active->tombstones_met++;
    if (by_frozen) s->frozen->tombstones_met++;
    return by_active || by_frozen;
}

static enum hf_err batch_add(struct batch *b, hf_str body, struct place place) {
    b->fired[b->count] = (struct fired){.at = b->bodies.n, .size = body.n, .place = place};
    hf_buf_str(&b->bodies, body);
    if (hf_buf_failed(&b->bodies)) return hf_buf_failed(&b->bodies);
    b->count++;
    b->try_count++;
    return HF_OK;
}

/* Takes the head of the picked source. */
static enum hf_err take(struct schedule *s, struct pick *p) {
    enum hf_err e = HF_OK;
    bool fires = !p->tombstone && !is_buried(s, p);
    if (p->tombstone) s->buried = p->place;
    if (fires) e = batch_add(&s->batch, p->gather ? item_body(p->item) : p->source->cursor.body, p->place);
    if (e) return e;
    s->taken = p->place; /* S1, and S5 with what follows: the source steps over it */
    if (p->source) return run_cursor_next(&p->source->cursor);
    gather_take(p->gather, p->item);
    return HF_OK;
}

/* The new head of the source, if it still comes first. */
static bool stay(struct pick *p, int64_t limit) {
    if (p->source) {
        p->place = p->source->cursor.head;
        p->tombstone = p->source->cursor.head_flags & ENTRY_TOMBSTONE;
    } else {
        p->item = gather_head(p->gather, limit);
        p->place = p->item ? p->item->place : PLACE_END;
    }
    return p->place.due <= limit && place_before(p->place, p->next);
}

static enum hf_err fill_batch(struct schedule *s, int64_t limit) {
    struct batch *b = &s->batch;
    while (b->count < s->o.fire_records && b->bodies.n < s->o.fire_bytes) {
        struct pick p;
        enum hf_err e = pick_source(s, limit, &p);
        if (e || place_same(p.place, PLACE_END)) return e;
        do e = take(s, &p);
        while (!e && b->count < s->o.fire_records && b->bodies.n < s->o.fire_bytes && stay(&p, limit));
        if (e) return e;
    }
    return HF_OK;
}

int64_t fire_next(struct schedule *s) {
    int64_t next = INT64_MAX;
    if (s->batch.count) return s->batch.fired[0].place.due;
    if (s->active->due_at < s->active->due_count) next = s->active->due[s->active->due_at].due;
    if (next == INT64_MAX) next = wheel_next(s->active->wheel);
    struct gather *f = s->frozen;
    if (f && f->sorted_at < f->sorted_count && f->sorted[f->sorted_at]->place.due < next)
        next = f->sorted[f->sorted_at]->place.due;
    for (size_t i = 0; i < s->run_count; i++)
        if (s->runs[i].cursor.head.due < next) next = s->runs[i].cursor.head.due;
    return next;
}

/* ---- resolving ---- */

enum hf_err batch_init(struct batch *b, const struct schedule_options *o) {
    hf_buf_init(&b->bodies, o->fire_bytes + ENTRY_MAX);
    hf_buf_init(&b->texts, o->fire_records * TEXT_BYTES);
    b->fired = malloc(o->fire_records * sizeof *b->fired);
    b->outs = malloc(2 * o->fire_records * sizeof *b->outs);
    hf_arena_init(&b->arena, ARENA_BYTES * o->fire_records);
    return b->fired && b->outs ? HF_OK : HF_ENOMEM;
}

void batch_fini(struct batch *b) {
    hf_buf_fini(&b->bodies);
    hf_buf_fini(&b->texts);
    hf_arena_fini(&b->arena);
    put_list_fini(&b->puts);
    free(b->fired);
    free(b->outs);
    free(b->headers);
    *b = (struct batch){0};
}

struct resolved { /* what one attempt found out */
    size_t outs, headers;
    uint64_t rejected, held, skipped;
    hf_str topic; /* the last looked up */
    int32_t partitions, sticky;
    size_t record_max;
    enum hf_err topic_error;
    struct said { /* the last time written: what is due together was often accepted together, too */
        int64_t ms;
        hf_str text;
    } due, accepted;
};

static enum hf_err headers_room(struct batch *b, size_t used) {
    size_t need = used + ENGINE_HEADERS_MAX + MOVE_HEADERS;
    if (b->header_cap >= need) return HF_OK;
    size_t cap = need * 2;
    struct hf_header *p = realloc(b->headers, cap * sizeof *p);
    if (!p) return HF_ENOMEM;
    b->headers = p;
    b->header_cap = cap;
    return HF_OK;
}

static hf_str decimal(struct hf_buf *texts, int64_t v) {
    static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    char digits[24], *end = digits + sizeof digits, *p = end;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    for (; u >= 100; u /= 100) {
        p -= 2;
        memcpy(p, pairs + u % 100 * 2, 2);
    }
    if (u >= 10) {
        p -= 2;
        memcpy(p, pairs + u * 2, 2);
    } else {
        *--p = (char)('0' + u);
    }
    if (v < 0) *--p = '-';
    size_t at = texts->n;
    hf_buf_put(texts, p, (size_t)(end - p));
    return hf_str_make(texts->p + at, texts->n - at);
}

static hf_str time_text(struct hf_buf *texts, struct said *last, int64_t ms) {
    if (!last->text.p || last->ms != ms) *last = (struct said){ms, decimal(texts, ms)};
    return last->text;
}

/* <topic>/<partition>/<offset>@<timestamp> */
static hf_str identity(struct hf_buf *texts, struct said *accepted, const struct message *m) {
    hf_str timestamp = time_text(texts, accepted, m->accepted_ms);
    size_t at = texts->n;
    hf_buf_str(texts, HF_STR(HF_TOPIC_DELAY "/"));
    decimal(texts, m->source_partition);
    hf_buf_str(texts, HF_STR("/"));
    decimal(texts, m->source_offset);
    hf_buf_str(texts, HF_STR("@"));
    hf_buf_str(texts, timestamp);
    return hf_str_make(texts->p + at, texts->n - at);
}

static void look_up(struct schedule *s, struct resolved *r, hf_str topic) {
    if (r->topic.p && hf_str_eq(r->topic, topic)) return;
    r->topic = topic;
    r->topic_error = engine_topic(s->engine, topic, true, &r->partitions);
    if (r->topic_error) return;
    r->record_max = engine_record_max(s->engine, topic);
    r->sticky = (int32_t)(schedule_random(s) % (uint64_t)r->partitions);
}

static int32_t partition_of(const struct schedule *s, const struct resolved *r, hf_str key) {
    if (!key.p) return r->sticky;
    if (!s->o.crc32_partitioner) return hf_partition_of_key(key, r->partitions);
    uint32_t crc = (uint32_t)crc32_z(0, (const Bytef *)key.p, key.n);
    return (int32_t)(crc % (uint32_t)r->partitions);
}

static void add_header(struct engine_out *out, struct hf_header *headers, const char *name, hf_str value) {
    headers[out->header_count++] = (struct hf_header){hf_str_of(name), value};
}

/* NULL: it fits; else why not. */
static const char *unfit(const struct resolved *r, const struct message *m, const struct engine_out *out) {
    if (r->topic_error) return "no such topic, and it may not be created";
    if (m->partition >= r->partitions) return "partition out of range";
    size_t size = BATCH_HEADER + batch_record_size(out->key, out->value, out->headers, out->header_count);
    return size > r->record_max ? "too large for its topic" : NULL;
}

static void hold(struct schedule *s, struct resolved *r, const struct message *m, int64_t wait_ms,
                 struct engine_out *out, struct hf_header *headers) {
    struct hf_buf *texts = &s->batch.texts;
    out->topic = HF_STR(HF_TOPIC_DELAY);
    out->partition = m->key.p ? hf_partition_of_key(m->key, s->partitions) : 0;
    add_header(out, headers, HF_HDR_TOPIC, m->topic);
    add_header(out, headers, HF_HDR_DUE, decimal(texts, s->clock.wall_ms + wait_ms));
    if (m->partition >= 0) add_header(out, headers, HF_HDR_PARTITION, decimal(texts, m->partition));
    r->held++;
    r->headers += out->header_count;
    r->outs++;
}

/* What all that arrives has: chooses the partition, or sends it to holdfast.rejected. HF_EAGAIN: its topic
 * does not serve yet. */
static enum hf_err deliver(struct schedule *s, struct resolved *r, const struct message *m, bool reject,
                           struct engine_out *out, struct hf_header *headers) {
    struct hf_buf *texts = &s->batch.texts;
    bool bad = hf_topic_is_ours(m->topic);
    int32_t asked = m->partition;
    if (!bad) add_header(out, headers, HF_HDR_DUE, time_text(texts, &r->due, m->asked_ms));
    look_up(s, r, m->topic);
    if (r->topic_error && r->topic_error != HF_ENOTFOUND) return HF_EAGAIN;
    const char *why = reject ? "too large for its topic" : unfit(r, m, out);
    if (why || bad) {
        if (why) {
            add_header(out, headers, HF_HDR_ORIGIN, m->topic);
            add_header(out, headers, HF_HDR_REASON, hf_str_of(why));
            if (asked >= 0) add_header(out, headers, HF_HDR_PARTITION, decimal(texts, asked));
        }
        out->topic = HF_STR(HF_TOPIC_REJECTED);
        asked = -1;
        look_up(s, r, out->topic);
        if (r->topic_error) return HF_EAGAIN;
        schedule_tell(s, SCHEDULE_REJECTED, why ? why : "no schedule");
        r->rejected++;
    }
    out->partition = asked >= 0 ? asked : partition_of(s, r, m->key);
    r->headers += out->header_count;
    r->outs++;
    return HF_OK;
}

/* ---- recurring ones ---- */

/* The record of the next run: all that the message has, a condition, and where this run went. */
static enum hf_err next_run(struct schedule *s, struct resolved *r, const struct message *m,
                            const struct recurring *series, const struct hf_header *headers, size_t n,
                            hf_str identity, int64_t next_ms, hf_str last_run) {
    struct hf_arena *a = &s->batch.arena;
    struct hf_header *h = hf_arena_array(a, n + MOVE_HEADERS, sizeof *h);
    hf_str due = hf_arena_printf(a, "%" PRId64, next_ms);
    hf_str expect = hf_arena_printf(a, "%" PRIu64, m->place.seq);
    hf_str created = hf_arena_printf(a, "%" PRId64, m->accepted_ms);
    hf_str partition = hf_arena_printf(a, "%" PRId32, m->partition);
    if (!h || !due.p || !expect.p || !created.p || !partition.p) return HF_ENOMEM;
    struct engine_out out = {
        .topic = HF_STR(HF_TOPIC_DELAY), .key = m->key, .value = m->value, .headers = h, .header_count = n};
    if (n) memcpy(h, headers, n * sizeof *h);
    if (!(m->flags & ENTRY_CREATED)) add_header(&out, h, HF_HDR_CREATED_AT, created);
    if (!(m->flags & ENTRY_NAMED)) add_header(&out, h, HF_HDR_MESSAGE_ID, identity);
    add_header(&out, h, HF_HDR_OP, HF_STR("next"));
    add_header(&out, h, HF_HDR_TOPIC, m->topic);
    add_header(&out, h, HF_HDR_ID, m->id);
    add_header(&out, h, HF_HDR_EXPECT, expect);
    add_header(&out, h, HF_HDR_DUE, due);
    add_header(&out, h, HF_HDR_CRON, series->cron);
    if (series->tz.p && !hf_mutate(118)) add_header(&out, h, HF_HDR_TZ, series->tz);
    if (series->group.p) add_header(&out, h, HF_HDR_GROUP, series->group);
    if (series->skips) add_header(&out, h, HF_HDR_OVERLAP, HF_STR("skip"));
    if (m->partition >= 0) add_header(&out, h, HF_HDR_PARTITION, partition);
    if (last_run.p) add_header(&out, h, HF_HDR_LAST_RUN, last_run);
    out.partition = m->key.p ? hf_partition_of_key(m->key, s->partitions) : 0;
    s->batch.outs[r->outs++] = out;
    return HF_OK;
}

/* The end of its partition before the run is in it; {NULL, 0}: the run was rejected, nobody works on it. */
static hf_str place_of_run(struct schedule *s, const struct message *m, const struct engine_out *out) {
    int64_t start, end;
    if (hf_topic_is_ours(out->topic) || engine_bounds(s->engine, m->topic, out->partition, &start, &end))
        return (hf_str){NULL, 0};
    return hf_arena_printf(&s->batch.arena, "%" PRId32 "/%" PRId64 "/%" PRId64, out->partition,
                           end + hf_mutate(124), m->asked_ms);
}

/* headers: n, with those of the series; room for as many more as a move adds. */
static enum hf_err resolve_recurring(struct schedule *s, struct resolved *r, const struct message *m,
                                     struct hf_header *headers, size_t n, bool reject) {
    struct recurring series;
    n = recurring_split(headers, n, &series);
    struct hf_header *all = hf_arena_array(&s->batch.arena, n ? n : 1, sizeof *all);
    if (!all) return HF_ENOMEM;
    memcpy(all, headers, n * sizeof *all);
    hf_str base = m->flags & ENTRY_NAMED ? (hf_str){NULL, 0} : identity(&s->batch.texts, &r->accepted, m);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (hf_str_is(all[i].key, HF_HDR_MESSAGE_ID))
            base = all[i].value;
        else
            headers[kept++] = all[i];
    }
    bool missed = s->clock.inside_ms > m->asked_ms && !hf_mutate(116);
    int64_t after_ms = missed ? s->clock.inside_ms : m->asked_ms, next_ms = 0;
    enum hf_err e = recurring_next(s, series.cron, series.tz, after_ms, &next_ms);
    bool ends = e == HF_EEND || e == HF_EINVAL; /* EINVAL: the zone is in this edition no more */
    if (e && !ends) return e;
    hf_str last_run = series.last_run;
    if (series.skips && recurring_is_running(s, m->topic, &series, base)) {
        r->skipped++;
        if (hf_mutate(123)) last_run = (hf_str){NULL, 0};
        if (hf_mutate(125)) last_run = place_of_run(s, m, &(struct engine_out){.topic = m->topic});
    } else {
        struct engine_out *out = &s->batch.outs[r->outs];
        *out = (struct engine_out){.topic = m->topic, .key = m->key, .value = m->value, .header_count = kept};
        if (!(m->flags & ENTRY_CREATED))
            add_header(out, headers, HF_HDR_CREATED_AT, decimal(&s->batch.texts, m->accepted_ms));
        hf_str id = hf_arena_printf(&s->batch.arena, "%.*s#%" PRId64, (int)base.n, base.p, m->asked_ms);
        if (!id.p) return HF_ENOMEM;
        add_header(out, headers, HF_HDR_MESSAGE_ID, id);
        out->headers = headers;
        if ((e = deliver(s, r, m, reject, out, headers))) return e;
        out->headers = NULL;
        last_run = series.skips ? place_of_run(s, m, out) : (hf_str){NULL, 0};
    }
    ends = ends || (hf_mutate(114) && r->outs > 1);
    return ends ? HF_OK : next_run(s, r, m, &series, all, n, base, next_ms, last_run);
}

static enum hf_err resolve_ordinary(struct schedule *s, struct resolved *r, const struct message *m,
                                    struct hf_header *headers, size_t n, bool reject) {
    struct batch *b = &s->batch;
    enum hf_err e = HF_OK;
    struct engine_out *out = &b->outs[r->outs];
    *out = (struct engine_out){
        .topic = m->topic, .key = m->key, .value = m->value, .headers = headers, .header_count = n};
    if (!(m->flags & ENTRY_CREATED))
        add_header(out, headers, HF_HDR_CREATED_AT, time_text(&b->texts, &r->accepted, m->accepted_ms));
    if (!(m->flags & ENTRY_NAMED))
        add_header(out, headers, HF_HDR_MESSAGE_ID, identity(&b->texts, &r->accepted, m));
    int64_t wait_ms = m->flags & ENTRY_RELATIVE ? inside_hold(s, m->place) : 0;
    if (wait_ms > 0)
        hold(s, r, m, wait_ms, out, headers);
    else
        e = deliver(s, r, m, reject, out, headers);
    out->headers = NULL; /* commit_batch: the array may move */
    return e;
}

/* Appends what a message becomes to the outs. HF_EAGAIN: its topic does not serve yet. */
static enum hf_err resolve(struct schedule *s, struct resolved *r, const struct fired *f, bool reject) {
    struct batch *b = &s->batch;
    struct message m;
    enum hf_err e = headers_room(b, r->headers);
    struct hf_header *headers = b->headers + r->headers;
    size_t n = 0;
    if (!e) e = entry_decode(hf_str_make(b->bodies.p + f->at, f->size), &m, headers, &n);
    if (e) return e;
    e = m.flags & ENTRY_CRON ? resolve_recurring(s, r, &m, headers, n, reject)
                             : resolve_ordinary(s, r, &m, headers, n, reject);
    return e ? e : counts_fire(&s->counts, m.topic, f->size);
}

/* ---- committing ---- */

static void count_fired(struct schedule *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int64_t late = s->clock.inside_ms - s->batch.fired[i].place.due;
        size_t k = 0;
        while (k < SCHEDULE_LATENESS_BUCKETS - 1 && late > schedule_lateness_ms[k]) k++;
        s->count.lateness[k]++;
        s->count.lateness_sum_ms += late;
    }
}

static void committed(void *arg, enum hf_err e) {
    struct commit *c = arg;
    struct schedule *s = c->s;
    c->busy = false;
    s->commits_under_way--;
    s->under_way--;
    if (e) {
        schedule_trouble(s, e, "a commit of moves failed");
        return;
    }
    if (place_before(s->mark, c->mark)) s->mark = c->mark; /* completions may come in any order */
    s->count.fired += c->fired;
    due_count_fired(s, c->fired);
    s->count.rejected += c->rejected;
    s->count.held += c->held;
    s->count.skipped += c->skipped;
}

static struct commit *free_commit(struct schedule *s) {
    for (size_t i = 0; i < s->o.commits_max; i++)
        if (!s->commits[i].busy) return &s->commits[i];
    return NULL;
}

static void put_mark(struct place mark, uint8_t out[16]) {
    hf_put_be64(out, (uint64_t)mark.due);
    hf_put_be64(out + 8, mark.seq);
}

/* Runs all of whose places lie at or before the mark. */
static size_t spent_runs(struct schedule *s, struct place mark, uint64_t ids[DROPS_MAX]) {
    size_t n = 0;
    if (place_before(mark, s->first_end)) return 0;
    for (size_t i = 0; i < s->run_count && n < DROPS_MAX; i++) {
        struct run *r = s->runs[i].run;
        struct place upto = hf_mutate(109) ? s->taken : mark;
        bool spent = r->kind == RUN_MESSAGES && !r->merging && !r->dropping && !place_before(upto, r->last);
        if (spent) ids[n++] = r->id;
    }
    return n;
}

static void mark_dropping(struct schedule *s, const uint64_t *ids, size_t n) {
    for (size_t i = 0; i < s->run_count; i++)
        for (size_t k = 0; k < n; k++)
            if (s->runs[i].run->id == ids[k]) s->runs[i].run->dropping = true;
    if (n > 0) schedule_runs_changed(s);
}

/* What the commit says of mark, clock and counts; strings are borrowed from mark and epochs. */
static enum hf_err puts_of(struct schedule *s, hf_str mark, struct hf_buf *epochs) {
    struct put_list *puts = &s->batch.puts;
    put_list_begin(puts);
    enum hf_err e = put_list_add(puts, HF_STR("delay/mark"), mark);
    if (!e && !hf_mutate(112)) e = counts_put_fired(&s->counts, puts);
    if (e || !s->clock.dirty) return e;
    inside_epochs_encode(s, epochs);
    if (hf_buf_failed(epochs)) return hf_buf_failed(epochs);
    return put_list_add(puts, HF_STR("delay/clock"), hf_buf_view(epochs));
}

/* Starts a commit of the outs, made of the first n messages, which moves the mark. */
static enum hf_err commit(struct schedule *s, size_t n, struct place mark, const struct resolved *r) {
    struct commit *c = free_commit(s);
    if (!c) return HF_EAGAIN;
    uint8_t value[16];
    put_mark(mark, value);
    struct hf_buf epochs;
    hf_buf_init(&epochs, 8 + EPOCHS_MAX * 16);
    enum hf_err e = puts_of(s, hf_str_make(value, sizeof value), &epochs);
    uint64_t drops[DROPS_MAX];
    size_t drop_count = spent_runs(s, mark, drops);
    struct engine_commit what = {.now_ms = s->clock.inside_ms,
                                 .outs = s->batch.outs,
                                 .out_count = r->outs,
                                 .puts = s->batch.puts.puts,
                                 .put_count = hf_mutate(101) ? 0 : s->batch.puts.count,
                                 .runs_dropped = drops,
                                 .runs_dropped_count = drop_count};
    *c = (struct commit){
        .s = s, .mark = mark, .rejected = r->rejected, .held = r->held, .skipped = r->skipped};
    c->fired = n - r->rejected - r->held - (hf_mutate(126) ? 0 : r->skipped);
    if (!e) e = engine_commit(s->engine, &what, committed, c);
    hf_buf_fini(&epochs);
    if (e) return e;
    c->busy = true;
    s->commits_under_way++;
    s->under_way++;
    s->started = mark;
    s->clock.dirty = false;
    counts_fired(&s->counts);
    mark_dropping(s, drops, drop_count);
    return HF_OK;
}

static void drop_front(struct batch *b, size_t n) {
    memmove(b->fired, b->fired + n, (b->count - n) * sizeof *b->fired);
    b->count -= n;
    b->try_count = b->count;
    b->reject_first = false;
    if (b->count == 0) hf_buf_reset(&b->bodies);
}

static enum hf_err commit_batch(struct schedule *s) {
    struct batch *b = &s->batch;
    struct resolved r = {0};
    counts_fire_none(&s->counts);
    hf_buf_reset(&b->texts);
    if (!hf_buf_room(&b->texts, b->count * TEXT_BYTES)) return HF_ENOMEM;
    hf_arena_fini(&b->arena);
    hf_arena_init(&b->arena, ARENA_BYTES * s->o.fire_records);
    enum hf_err e = HF_OK;
    size_t n = 0, at = 0;
    while (n < b->try_count && !(e = resolve(s, &r, &b->fired[n], b->reject_first && n == 0))) n++;
    if (e && (n == 0 || e != HF_EAGAIN)) return e;
    for (size_t i = 0; i < r.outs; i++) {
        if (b->outs[i].headers) continue; /* a next run's lie in the arena */
        b->outs[i].headers = b->headers + at;
        at += b->outs[i].header_count;
    }
    e = commit(s, n, b->fired[n - 1].place, &r);
    if (e == HF_ELIMIT) {
        b->reject_first = n == 1;
        b->try_count = n > 1 ? n / 2 : 1;
        return HF_EAGAIN;
    }
    if (e) return e;
    count_fired(s, n);
    drop_front(b, n);
    return HF_OK;
}

/* Nothing to fire, but runs are spent (the rest of them was cancelled, or was fired from memory while they
 * were being written), or epochs are to be kept. */
static enum hf_err commit_without_moves(struct schedule *s) {
    uint64_t drops[DROPS_MAX];
    bool spent = spent_runs(s, s->taken, drops) > 0;
    if (!spent && !s->clock.dirty) return HF_OK;
    struct resolved none = {0};
    counts_fire_none(&s->counts);
    return commit(s, 0, s->taken, &none);
}

/* S3. The engine is told before anything is due: what is may have to wait, and the wall clock step back
 * meanwhile. */
static void raise_limit(struct schedule *s) {
    int64_t limit = fire_limit(s);
    if (!hf_mutate(103)) engine_time_floor(s->engine, HF_STR(HF_TOPIC_DELAY), s->clock.inside_ms);
    if (limit > s->limit_ms) s->limit_ms = limit;
}

/* One commit a slice: in a burst others are served between any two of them. */
enum hf_err fire_slice(struct schedule *s, bool *more) {
    if (s->clock.leapt) return HF_OK;
    raise_limit(s);
    if (!free_commit(s)) return HF_OK; /* a completion brings us back */
    enum hf_err e = s->batch.count == 0 ? fill_batch(s, s->limit_ms) : HF_OK;
    if (e) return e;
    if (s->batch.count == 0) {
        e = commit_without_moves(s);
        return e == HF_EAGAIN || e == HF_ENOSPC ? HF_OK : e;
    }
    e = commit_batch(s);
    if (!e) *more = true;
    bool waits = e == HF_EAGAIN || e == HF_ENOSPC || e == HF_ENOTFOUND;
    if (waits) s->waiting = true;
    return waits ? HF_OK : e;
}
