/* Looking: pages of what is pending in order of place, and one message by its id.
 *
 * A page merges, like firing, what is sorted: the frozen gathering's array and the runs, each from the page's
 * place on; and a small sorted copy of the active gathering's first matches, for which it is walked once. A
 * page looks at SEARCH_ENTRIES messages at most, so that a search for a rare id does not hold up the loop: it
 * may come back short, with a place to go on from. */
#include "schedule_state.h"

struct page {
    struct schedule *s;
    const struct schedule_query *q;
    struct place after, end; /* matches lie strictly between */
    struct item **near;      /* of the active gathering, the first ones by place */
    size_t near_count, near_at, near_max;
    bool near_cut;   /* there were more than near_max */
    size_t far_at;   /* in the frozen array */
    size_t batch_at; /* in the batch that waits for its commit; all of it comes first */
    struct run_cursor *cursors;
    size_t cursor_count;
    struct place buried;
};

/* ---- the active gathering ---- */

static bool matches(const struct schedule_query *q, const struct message *m) {
    if (q->sequence_max && m->place.seq > q->sequence_max) return false;
    if (q->topic.n && !hf_str_eq(q->topic, m->topic)) return false;
    return !q->id_prefix.n || (m->id.p && hf_str_starts(m->id, q->id_prefix));
}

/* A heap with the last place at the top keeps the first near_max. */
static void heap_down(struct item **h, size_t n, size_t i) {
    struct item *x = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && place_before(h[child]->place, h[child + 1]->place)) child++;
        if (!place_before(x->place, h[child]->place)) break;
        h[i] = h[child];
    }
    h[i] = x;
}

static void heap_up(struct item **h, size_t i) {
    struct item *x = h[i];
    for (; i > 0 && place_before(h[(i - 1) / 2]->place, x->place); i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static void offer_near(void *arg, struct item *i) {
    struct page *p = arg;
    if (!place_before(p->after, i->place) || !place_before(i->place, p->end)) return;
    struct message m;
    size_t n;
    if (entry_decode(item_body(i), &m, p->s->headers, &n) || !matches(p->q, &m)) return;
    if (p->near_count < p->near_max) {
        p->near[p->near_count++] = i;
        heap_up(p->near, p->near_count - 1);
        return;
    }
    p->near_cut = true;
    if (!place_before(i->place, p->near[0]->place)) return;
    p->near[0] = i;
    heap_down(p->near, p->near_count, 0);
}

static void sort_near(struct page *p) {
    for (size_t n = p->near_count; n > 1;) {
        struct item *last = p->near[0];
        p->near[0] = p->near[--n];
        p->near[n] = last;
        heap_down(p->near, n, 0);
    }
}

/* ---- the merge ---- */

static void open_batch(struct page *p) {
    const struct batch *b = &p->s->batch;
    while (p->batch_at < b->count && !place_before(p->after, b->fired[p->batch_at].place)) p->batch_at++;
    if (place_before(p->after, p->s->taken)) p->after = p->s->taken; /* the other sources go on there */
}

static void open_frozen(struct page *p) {
    const struct gather *f = p->s->frozen;
    if (!f) return;
    p->far_at = f->sorted_at;
    while (p->far_at < f->sorted_count && !place_before(p->after, f->sorted[p->far_at]->place)) p->far_at++;
}

static enum hf_err open_runs(struct page *p) {
    struct schedule *s = p->s;
    for (size_t i = 0; i < s->run_count; i++) {
        struct run *r = s->runs[i].run;
        bool off = !place_before(p->after, r->last) || !place_before(r->first, p->end);
        if (r->kind != RUN_MESSAGES || off) continue;
        enum hf_err e = run_cursor_open(&p->cursors[p->cursor_count], s->engine, r, p->after);
        if (e) return e;
        p->cursor_count++;
    }
    return HF_OK;
}

static enum hf_err page_open(struct page *p, struct schedule *s, const struct schedule_query *q) {
    struct place from = {q->due_from_ms - 1, UINT64_MAX};
    struct place after = {q->after.due_ms, q->after.sequence};
    *p = (struct page){
        .s = s, .q = q, .after = place_before(from, after) ? after : from, .near_max = q->limit};
    p->end = q->due_to_ms > 0 ? (struct place){q->due_to_ms, 0} : PLACE_END;
    p->near = malloc(p->near_max * sizeof(struct item *));
    p->cursors = calloc(s->run_count ? s->run_count : 1, sizeof *p->cursors);
    if (!p->near || !p->cursors) return HF_ENOMEM;
    open_batch(p);
    gather_each(s->active, offer_near, p);
    sort_near(p);
    open_frozen(p);
    return open_runs(p);
}

static void page_close(struct page *p) {
    for (size_t i = 0; i < p->cursor_count; i++) run_cursor_close(&p->cursors[i]);
    free(p->cursors);
    free(p->near);
}

struct step {
    struct place place;
    hf_str body;
    struct run_cursor *cursor; /* or */
    size_t *index;             /* of the array that it is from */
    bool tombstone, alive;     /* alive: dead ones of that source were left out before */
};

static enum hf_err next_step(struct page *p, struct step *out) {
    const struct gather *f = p->s->frozen;
    *out = (struct step){.place = PLACE_END};
    const struct batch *b = &p->s->batch;
    if (p->batch_at < b->count) {
        const struct fired *first = &b->fired[p->batch_at];
        *out = (struct step){first->place, hf_str_make(b->bodies.p + first->at, first->size),
                             .index = &p->batch_at};
        out->alive = true;
        return HF_OK;
    }
    if (p->near_at < p->near_count) {
        struct item *i = p->near[p->near_at];
        *out = (struct step){.place = i->place, .body = item_body(i), .index = &p->near_at, .alive = true};
    }
    if (f && p->far_at < f->sorted_count && place_before(f->sorted[p->far_at]->place, out->place)) {
        struct item *i = f->sorted[p->far_at];
        *out = (struct step){.place = i->place, .body = item_body(i), .index = &p->far_at};
    }
    for (size_t k = 0; k < p->cursor_count; k++) {
        struct run_cursor *c = &p->cursors[k];
        if (place_before(out->place, c->head) || place_same(c->head, PLACE_END)) continue;
        enum hf_err e = run_cursor_load(c);
        if (e) return e;
        bool tombstone = c->head_flags & ENTRY_TOMBSTONE;
        if (place_before(c->head, out->place) || tombstone)
            *out = (struct step){.place = c->head, .body = c->body, .cursor = c, .tombstone = tombstone};
    }
    return HF_OK;
}

static enum hf_err step_over(const struct step *at) {
    if (at->cursor) return run_cursor_next(at->cursor);
    ++*at->index;
    return HF_OK;
}

static bool is_dead(struct page *p, const struct step *at) {
    if (at->tombstone) p->buried = at->place;
    if (at->alive) return false;
    return place_same(at->place, p->buried) || gather_buried(p->s->active, at->place) ||
           (at->cursor && gather_buried(p->s->frozen, at->place));
}

typedef void found_fn(void *arg, struct schedule *s, const struct message *m, size_t header_count,
                      size_t size);

static void show(struct schedule *s, const struct message *m, size_t header_count,
                 void (*fn)(void *arg, const struct schedule_item *item), void *arg) {
    struct recurring r = {0};
    if (m->flags & ENTRY_CRON) header_count = recurring_split(s->headers, header_count, &r);
    struct schedule_item item = {.place = {m->place.due, m->place.seq},
                                 .due_ms = m->asked_ms,
                                 .accepted_ms = m->accepted_ms,
                                 .source_partition = m->source_partition,
                                 .source_offset = m->source_offset,
                                 .partition = m->partition,
                                 .topic = m->topic,
                                 .id = m->id,
                                 .key = m->key,
                                 .value = m->value,
                                 .headers = s->headers,
                                 .header_count = header_count,
                                 .cron = r.cron,
                                 .tz = r.tz,
                                 .group = r.group,
                                 .last_run = r.last_run,
                                 .skips = r.skips};
    fn(arg, &item);
}

static enum hf_err walk(struct page *p, found_fn *fn, void *arg, struct place *last, bool *more) {
    size_t shown = 0;
    for (size_t seen = 0; seen < SEARCH_ENTRIES; seen++) {
        struct step at;
        enum hf_err e = next_step(p, &at);
        if (e) return e;
        if (place_same(at.place, PLACE_END) || !place_before(at.place, p->end)) {
            *more = p->near_cut;
            return HF_OK;
        }
        if (p->near_cut && p->near_at == p->near_count)
            break; /* what follows of the active ones is not known */
        struct message m;
        size_t n;
        if (!is_dead(p, &at)) {
            if ((e = entry_decode(at.body, &m, p->s->headers, &n))) return e;
            if (matches(p->q, &m)) {
                if (shown == p->q->limit) break;
                fn(arg, p->s, &m, n, at.body.n);
                shown++;
            }
        }
        *last = at.place;
        if ((e = step_over(&at))) return e;
    }
    *more = true;
    return HF_OK;
}

static enum hf_err run_page(struct schedule *s, const struct schedule_query *q, found_fn *fn, void *arg,
                            struct schedule_place *next, bool *more) {
    if (s->failed) return s->failed;
    struct page p;
    enum hf_err e = page_open(&p, s, q);
    struct place last = p.after;
    bool any = false;
    if (!e) e = walk(&p, fn, arg, &last, &any);
    page_close(&p);
    if (e) return e;
    *next = (struct schedule_place){last.due, last.seq};
    *more = any;
    return HF_OK;
}

struct listing {
    void (*fn)(void *arg, const struct schedule_item *item);
    void *arg;
};

static void list_one(void *arg, struct schedule *s, const struct message *m, size_t header_count,
                     size_t size) {
    const struct listing *l = arg;
    (void)size;
    show(s, m, header_count, l->fn, l->arg);
}

enum hf_err schedule_list(struct schedule *s, const struct schedule_query *q,
                          void (*fn)(void *arg, const struct schedule_item *item), void *arg,
                          struct schedule_place *next, bool *more) {
    if (q->limit == 0 || q->limit > SCHEDULE_PAGE_MAX || q->due_from_ms < 0) return HF_EINVAL;
    struct listing l = {fn, arg};
    return run_page(s, q, list_one, &l, next, more);
}

static void count_one(void *arg, struct schedule *s, const struct message *m, size_t header_count,
                      size_t size) {
    struct schedule_sum *sum = arg;
    (void)header_count;
    sum->messages++;
    sum->bytes += size;
    sum->due[due_bucket(s, m->place.due)]++;
}

enum hf_err schedule_count(struct schedule *s, const struct schedule_query *q, struct schedule_sum *out,
                           struct schedule_place *next, bool *more) {
    struct schedule_query all = *q;
    struct schedule_sum sum = {0};
    if (q->due_from_ms < 0) return HF_EINVAL;
    all.limit = SEARCH_ENTRIES;
    enum hf_err e = run_page(s, &all, count_one, &sum, next, more);
    if (!e) *out = sum;
    return e;
}

/* ---- one ---- */

struct sought {
    struct place place;
    struct item *item;
};

static void seek_item(void *arg, struct item *i) {
    struct sought *sought = arg;
    if (place_same(i->place, sought->place)) sought->item = i;
}

static enum hf_err body_at(struct schedule *s, struct place place, struct hf_buf *out) {
    struct sought sought = {.place = place};
    gather_each(s->active, seek_item, &sought);
    if (s->frozen && !sought.item) gather_each(s->frozen, seek_item, &sought);
    if (sought.item) {
        hf_buf_str(out, item_body(sought.item));
        return hf_buf_failed(out);
    }
    for (size_t i = 0; i < s->run_count; i++) {
        struct run *r = s->runs[i].run;
        if (r->kind != RUN_MESSAGES || place_before(place, r->first) || place_before(r->last, place))
            continue;
        struct run_cursor c;
        enum hf_err e = run_cursor_open(&c, s->engine, r, (struct place){place.due, place.seq - 1});
        if (!e) e = run_cursor_load(&c);
        bool here = !e && place_same(c.head, place) && !(c.head_flags & ENTRY_TOMBSTONE);
        if (here) {
            hf_buf_str(out, c.body);
            e = hf_buf_failed(out);
        }
        run_cursor_close(&c);
        if (e || here) return e;
    }
    return HF_ENOTFOUND;
}

enum hf_err schedule_show(struct schedule *s, hf_str topic, hf_str id,
                          void (*fn)(void *arg, const struct schedule_item *item), void *arg) {
    if (s->failed) return s->failed;
    struct id_state state;
    hf_buf_reset(&s->key);
    id_key(&s->key, topic, id);
    enum hf_err e = hf_buf_failed(&s->key);
    if (!e) e = id_get(s, hf_buf_view(&s->key), &state);
    if (e) return e;
    bool pends = state.kind == ID_PENDING || state.kind == ID_RECURRING;
    if (!state.found || !pends || !place_before(s->taken, state.place)) return HF_ENOTFOUND;
    struct message m;
    size_t n;
    hf_buf_reset(&s->scratch);
    e = body_at(s, state.place, &s->scratch);
    if (!e) e = entry_decode(hf_buf_view(&s->scratch), &m, s->headers, &n);
    if (!e) show(s, &m, n, fn, arg);
    return e;
}

enum hf_err schedule_outcome_of(struct schedule *s, int32_t partition, int64_t offset,
                                enum schedule_outcome *out) {
    if (s->failed) return s->failed;
    if (partition < 0 || partition >= s->partitions || offset < 0) return HF_ENOTFOUND;
    if (offset >= s->readers[partition].next) return HF_EAGAIN;
    struct id_state state;
    hf_buf_reset(&s->key);
    outcome_key(&s->key, partition, offset);
    enum hf_err e = id_get(s, hf_buf_view(&s->key), &state);
    if (e) return e;
    if (!state.found || state.kind != ID_OUTCOME) return HF_ENOTFOUND;
    *out = (enum schedule_outcome)state.outcome;
    return HF_OK;
}
