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
 * them. Meanwhile its segment may go; what was read is for nobody then, and the next piece is looked for.
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
    AHEAD_MAX = 8 << 20, /* a longer stretch, of one huge batch, is read as it is looked at */
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

/* Opening it is the first look; then its index files, and what follows it. */
static enum hf_err look_around(struct segment *s) {
    enum hf_err e = segment_open(s);
    if (!e) e = proof_of_indexes(s);
    if (!e) (void)proof_hole(s);
    return e;
}

static enum hf_err scrub_segment(struct segment *s, struct scrub *x, uint64_t *read) {
    const struct scrub_load *a = &x->ahead;
    struct proof_bytes have = {a->bytes, a->load.offset, a->load.got};
    uint64_t from = x->pos;
    enum hf_err e = from == 0 ? look_around(s) : HF_OK;
    x->base = s->base;
    if (!e) e = proof_again(s, &x->pos, a->s == s && !a->e ? &have : NULL);
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
    struct run_bytes have = {a->run, a->bytes, a->load.offset, a->load.got};
    bool loaded = a->ended && !a->s && !a->e;
    return run_prove(l, &x->run, RUN_BLOCKS, loaded ? &have : NULL, read);
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
    a->load = (struct env_load){0};
    a->s = NULL;
    a->ended = false;
    a->e = HF_OK;
}

static void free_ahead(struct scrub_load *a) {
    free(a->bytes);
    a->bytes = NULL;
    a->cap = 0;
}

static void loaded(struct env_load *r, enum hf_err e) {
    struct scrub_load *a = r->arg;
    a->under_way = false;
    a->ended = true;
    a->e = e;
}

/* What the next piece will read of a segment. */
static enum hf_err next_stretch(struct scrub *x, struct segment **s, char path[LOG_PATH], uint64_t *from,
                                uint64_t *end) {
    struct log_partition *p = x->row[x->at];
    *s = p->gone || !p->segments ? NULL : segment_from(p, x);
    if (!*s) return HF_EEND;
    enum hf_err e = segment_open(*s);
    if (!e) e = proof_stretch(*s, x->pos, from, end);
    if (!e) segment_path(*s, "log", path);
    return e;
}

static enum hf_err begin_load(struct log *l, const char *path, uint64_t from, uint64_t end) {
    struct scrub_load *a = &l->scrub.ahead;
    uint64_t offset = from / LOG_PAGE * LOG_PAGE;
    size_t n = (size_t)((end - offset + LOG_PAGE - 1) / LOG_PAGE * LOG_PAGE);
    if (end - from > AHEAD_MAX) return HF_ELIMIT;
    if (a->cap < n) {
        free(a->bytes);
        a->bytes = aligned_alloc(LOG_PAGE, n);
        a->cap = a->bytes ? n : 0;
    }
    if (!a->bytes) return HF_ENOMEM;
    enum hf_err e = env_open(l->env, path, ENV_READ | ENV_DIRECT, &a->load.file);
    if (e) return e;
    a->load.offset = offset;
    a->load.p = a->bytes;
    a->load.n = n;
    a->load.done = loaded;
    a->load.arg = a;
    a->under_way = true;
    env_load_begin(l->env, &a->load);
    return HF_OK;
}

/* False: the next piece reads little, or reads for itself; it tells what is wrong. */
static bool load_ahead(struct log *l) {
    struct scrub *x = &l->scrub;
    char path[LOG_PATH];
    uint64_t from = 0, end = 0;
    struct segment *s = NULL;
    struct run_bytes run = {0};
    enum hf_err e = x->at < x->count ? next_stretch(x, &s, path, &from, &end)
                                     : run_stretch(l, &x->run, RUN_BLOCKS, path, &run);
    if (!s && !e) {
        from = run.offset;
        end = run.offset + run.n;
        x->ahead.run = run.id;
    }
    if (!e) e = begin_load(l, path, from, end);
    if (e) return false;
    x->ahead.s = s;
    if (s) s->pin.count++;
    return true;
}

/* ---- pace ---- */

static int64_t duration_us(const struct log *l, uint64_t bytes) {
    return (int64_t)(bytes * 1000000 / l->o.scrub_bytes_s) + 1;
}

static void go_on(struct log *l, int64_t now_us) {
    struct scrub *x = &l->scrub;
    if (x->ahead.s && !x->ahead.s->p) let_go(&x->ahead); /* its segment has gone */
    if (!x->ahead.ended && load_ahead(l)) return;
    enum hf_err e = piece(l);
    let_go(&x->ahead);
    x->next_us = now_us + duration_us(l, x->read);
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
    if (now_us < x->next_us || x->ahead.under_way) return;
    if (!x->row) begin_pass(l);
    if (x->row) go_on(l, now_us);
}

/* Milliseconds until it has something to do. */
int64_t scrub_wait(const struct log *l) {
    if (l->o.scrub_interval_ms < 0 || l->scrub.ahead.under_way) return INT64_MAX;
    int64_t left_us = l->scrub.next_us - env_mono_us(l->env);
    return left_us > 0 ? (left_us + 999) / 1000 : 0;
}

/* The log is thrown away. */
void scrub_forget(struct log *l) {
    struct scrub_load *a = &l->scrub.ahead;
    if (a->under_way) env_load_cancel(l->env, &a->load);
    a->under_way = false;
    let_go(a);
    free_ahead(a);
    end_pass(l);
}

enum hf_err log_scrub(struct log *l) {
    end_pass(l);
    begin_pass(l);
    if (!l->scrub.row) return HF_ENOMEM;
    l->scrub.left_out = HF_OK;
    enum hf_err e = HF_OK;
    while (!e && !l->failed) e = piece(l);
    end_pass(l);
    return l->failed ? l->failed : l->scrub.left_out;
}
