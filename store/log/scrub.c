/* The scrubber: reads what nobody reads, so that damage is found while it is little.
 *
 * Readers prove what they come by (proof.c). What they do not come by rots unseen, and what was proven rots
 * behind that proof. So a pass goes over everything, slowly: all closed segments against their manifests, of
 * the open ones what was there before this process, index files, the small files of each folder, runs. The
 * first begins a minute after the start, the next one `scrub_interval_ms` after the last ended. Segments are
 * read past the page cache: what counts is what the disk has, and nobody's pages are pushed out.
 *
 * A piece is one stretch between two anchors, some 256 KiB; then the scrubber rests for as long as the piece
 * takes at `scrub_bytes_s`. Its bytes are read beside all else (env_load): a busy disk takes tens of milliseconds for
 * them. Meanwhile its segment may go; what was read is for nobody then, and the next piece is looked for. A segment that is
 * being written to is left until it is closed.
 *
 *     idle ──next_us──► partitions, segment by segment, stretch by stretch ──► runs ──► idle
 *                           each piece: load, under way, ended, looked at
 *
 * Damage is told as everywhere (damage_tell), and the stretch is refused from then on. Nothing is changed but
 * what can be made again. A pass is forgotten at a stop: the next start begins a new one. */
#include "log_internal.h"

#include <stdlib.h>

enum {
    FIRST_US = 60 * 1000000,
    RUN_BLOCKS = 64,
    AHEAD_MAX = 8 << 20, /* a longer stretch (one huge batch, no anchors) is read as it is looked at */
};

/* ---- a pass ---- */

static void begin_pass(struct log *l) {
    struct scrub *x = &l->scrub;
    size_t n = 0;
    x->row = malloc((l->partition_count + 1) * sizeof(struct log_partition *));
    if (!x->row) return; /* the next step tries again */
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        if (t->phase != TOPIC_LIVE) continue;
        for (int32_t i = 0; i < t->partitions; i++) {
            partition_ref(t->partition[i]);
            x->row[n++] = t->partition[i];
        }
    }
    x->count = n;
    x->at = 0;
    x->base = -1;
    x->pos = 0;
    x->run = (struct run_place){0};
}

static void end_pass(struct log *l) {
    struct scrub *x = &l->scrub;
    while (x->count > 0) partition_unref(x->row[--x->count]);
    free(x->row);
    x->row = NULL;
}

static void next_partition(struct scrub *x) {
    x->at++;
    x->base = -1;
    x->pos = 0;
}

/* The segment to go on with: retention may have removed some meanwhile. */
static struct segment *segment_from(const struct log_partition *p, struct scrub *x) {
    struct segment *s = p->segments;
    while (s && s->base < x->base) s = s->next;
    if (s && s->base != x->base) x->pos = 0;
    return s;
}

static size_t loaded_bytes(const struct scrub_load *a) {
    return a->load.got < a->n ? a->load.got : a->n;
}

/* Opening it is the first look; then its index files, and what follows it. */
static enum hf_err look_around(struct segment *s) {
    enum hf_err e = segment_open(s);
    if (!e) e = proof_of_indexes(s);
    if (!e) (void)proof_hole(s);
    return e;
}

/* A read past the page cache holds up those who write to the same file: it is left until it is closed. */
static bool left_alone(const struct scrub *x, const struct segment *s) {
    return !x->all && !s->sealed && s->size > s->unproven;
}

static enum hf_err scrub_segment(struct segment *s, struct scrub *x, uint64_t *read) {
    const struct scrub_load *a = &x->ahead;
    bool loaded = a->state == LOAD_ENDED && a->s == s;
    struct proof_bytes have = {a->bytes, a->load.offset, loaded_bytes(a)};
    uint64_t from = x->pos;
    enum hf_err e = from == 0 ? look_around(s) : HF_OK;
    x->base = s->base;
    if (!e && loaded) e = a->e;
    if (!e && left_alone(x, s)) e = HF_EEND;
    if (!e) e = proof_again(s, &x->pos, loaded ? &have : NULL);
    *read = x->pos - from;
    if (!e || (e == HF_ECORRUPT && x->pos > from)) return HF_OK; /* told; the next stretch may be right */
    x->base = s->base + 1;
    x->pos = 0;
    return e == HF_EEND || e == HF_ECORRUPT ? HF_OK : e; /* told, too */
}

static enum hf_err scrub_partition(struct scrub *x, uint64_t *read) {
    struct log_partition *p = x->row[x->at];
    bool fresh = x->base < 0;
    if (p->gone || !p->segments) {
        next_partition(x);
        return HF_OK;
    }
    enum hf_err e = fresh ? topic_folder_prove(p) : HF_OK;
    struct segment *s = e ? NULL : segment_from(p, x);
    if (s) return scrub_segment(s, x, read);
    next_partition(x);
    return e;
}

static enum hf_err scrub_run(struct log *l, uint64_t *read) {
    struct scrub *x = &l->scrub;
    const struct scrub_load *a = &x->ahead;
    bool loaded = a->state == LOAD_ENDED && !a->s;
    struct run_bytes have = {a->run, a->bytes, a->load.offset, loaded_bytes(a)};
    if (!loaded || !a->e) return run_prove(l, &x->run, RUN_BLOCKS, loaded ? &have : NULL, read);
    x->run = (struct run_place){.id = a->run + 1};
    return a->e;
}

/* One piece. HF_EEND: that was all. What cannot be read is left out, and noted. */
static enum hf_err piece(struct log *l) {
    struct scrub *x = &l->scrub;
    uint64_t read = 0;
    enum hf_err e = x->at < x->count ? scrub_partition(x, &read) : scrub_run(l, &read);
    l->stats.scrubbed_bytes += read;
    x->read = read;
    if (!e || e == HF_EEND) return e;
    env_log(l->env, ENV_WARN, "scrub_left_out", "topic=%s base=%lld reason=\"%s\"",
            x->at < x->count ? x->row[x->at]->topic->name : "", (long long)x->base, hf_err_text(e));
    x->left_out = e;
    return HF_OK;
}

/* ---- its bytes, ahead ---- */

static void let_go(struct scrub_load *a) {
    if (a->load.file) env_close(a->load.file);
    if (a->s) log_pin_release(&a->s->pin);
    *a = (struct scrub_load){.bytes = a->bytes, .cap = a->cap};
}

static void free_ahead(struct scrub_load *a) {
    let_go(a);
    free(a->bytes);
    *a = (struct scrub_load){0};
}

static void load_ended(struct env_load *r, enum hf_err e) {
    struct scrub_load *a = r->arg;
    a->state = LOAD_ENDED;
    a->e = e;
}

static bool has_gone(struct log *l, const struct scrub_load *a) {
    struct run *r;
    return a->state == LOAD_ENDED && (a->s ? !a->s->p : !run_sealed(l, a->run, &r));
}

struct range { /* of a file */
    char path[LOG_PATH];
    uint64_t from, end;
};

/* What the next piece will read of a segment. */
static enum hf_err next_of_segments(struct scrub *x, struct range *out) {
    struct log_partition *p = x->row[x->at];
    struct segment *s = p->gone || !p->segments ? NULL : segment_from(p, x);
    if (!s || left_alone(x, s)) return HF_EEND;
    enum hf_err e = segment_open(s);
    if (!e) e = proof_stretch(s, x->pos, &out->from, &out->end);
    if (e) return e;
    segment_path(s, "log", out->path);
    x->ahead.s = s;
    s->pin.count++;
    return HF_OK;
}

/* Or of a run. */
static enum hf_err next_of_runs(struct log *l, struct range *out) {
    struct run_bytes run;
    enum hf_err e = run_stretch(l, &l->scrub.run, RUN_BLOCKS, out->path, &run);
    if (e) return e;
    out->from = run.offset;
    out->end = run.offset + run.n;
    l->scrub.ahead.run = run.id;
    return HF_OK;
}

static enum hf_err begin_load(struct log *l, const struct range *r, int64_t now_us) {
    struct scrub_load *a = &l->scrub.ahead;
    uint64_t offset = r->from / LOG_PAGE * LOG_PAGE;
    size_t n = (size_t)((r->end - offset + LOG_PAGE - 1) / LOG_PAGE * LOG_PAGE);
    if (r->end - r->from > AHEAD_MAX) return HF_ELIMIT;
    if (a->cap < n) {
        free(a->bytes);
        a->bytes = aligned_alloc(LOG_PAGE, n);
        a->cap = a->bytes ? n : 0;
    }
    if (!a->bytes) return HF_ENOMEM;
    enum hf_err e = env_open(l->env, r->path, ENV_READ | ENV_DIRECT, &a->load.file);
    if (e) return e;
    a->load.offset = offset;
    a->load.p = a->bytes;
    a->load.n = n;
    a->load.done = load_ended;
    a->load.arg = a;
    a->n = (size_t)(r->end - offset);
    a->begun_us = now_us;
    a->state = LOAD_UNDER_WAY;
    env_load_begin(l->env, &a->load);
    return HF_OK;
}

/* False: the next piece reads little, or reads for itself; it tells what is wrong. */
static bool load_ahead(struct log *l, int64_t now_us) {
    struct scrub *x = &l->scrub;
    struct range r;
    enum hf_err e = x->at < x->count ? next_of_segments(x, &r) : next_of_runs(l, &r);
    if (!e) e = begin_load(l, &r, now_us);
    if (e) let_go(&x->ahead);
    return !e;
}

/* ---- pace ---- */

static int64_t duration_us(const struct log *l, uint64_t bytes) {
    return (int64_t)(bytes * 1000000 / l->o.scrub_bytes_s) + 1;
}

static void go_on(struct log *l, int64_t now_us) {
    struct scrub *x = &l->scrub;
    if (has_gone(l, &x->ahead)) let_go(&x->ahead);
    if (x->ahead.state == LOAD_NONE && load_ahead(l, now_us)) return;
    int64_t begun_us = x->ahead.state == LOAD_ENDED ? x->ahead.begun_us : now_us;
    enum hf_err e = piece(l);
    let_go(&x->ahead);
    x->next_us = begun_us + duration_us(l, x->read);
    if (e != HF_EEND) return;
    end_pass(l);
    free_ahead(&x->ahead);
    l->stats.scrubs++;
    x->next_us = now_us + l->o.scrub_interval_ms * 1000 + 1;
}

void scrub_step(struct log *l) {
    struct scrub *x = &l->scrub;
    int64_t now_us = env_mono_us(l->env), interval_us = l->o.scrub_interval_ms * 1000;
    if (!l->open || l->closing || l->failed || l->o.scrub_interval_ms < 0) return;
    if (x->next_us == 0) x->next_us = now_us + (interval_us < FIRST_US ? interval_us : FIRST_US);
    if (now_us < x->next_us || x->ahead.state == LOAD_UNDER_WAY) return;
    if (!x->row) begin_pass(l);
    if (x->row) go_on(l, now_us);
}

/* Milliseconds until it has something to do. */
int64_t scrub_wait(const struct log *l) {
    if (l->o.scrub_interval_ms < 0 || l->scrub.ahead.state == LOAD_UNDER_WAY) return INT64_MAX;
    int64_t left_us = l->scrub.next_us - env_mono_us(l->env);
    return left_us > 0 ? (left_us + 999) / 1000 : 0;
}

/* The log is thrown away. */
void scrub_forget(struct log *l) {
    struct scrub_load *a = &l->scrub.ahead;
    if (a->state == LOAD_UNDER_WAY) env_load_cancel(l->env, &a->load);
    free_ahead(a);
    end_pass(l);
}

enum hf_err log_scrub(struct log *l) {
    scrub_forget(l); /* what was read before this call is not what the disk has now */
    begin_pass(l);
    if (!l->scrub.row) return HF_ENOMEM;
    l->scrub.all = true;
    l->scrub.left_out = HF_OK;
    enum hf_err e = HF_OK;
    while (!e && !l->failed) e = piece(l);
    l->scrub.all = false;
    end_pass(l);
    return l->failed ? l->failed : l->scrub.left_out;
}
