/* Runs: the far tier's files, written once, sealed, named by a commit, read, dropped.
 *
 *   WRITING ──seal──► synced, sealed ──commit names it──► exists ──commit drops it──► unlinked
 *      └─ abort, discard, crash, or no commit: unlinked, at the latest by the next start
 *
 * A run exists if the state has its key. Its blocks carry checksums (docs/storage.md), so a damaged byte is
 * never given out. Ids are never used twice: the first free one goes into the state with each commit,
 * and lies above every file that a start finds. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    BLOCK = 4096,
    CONTENT = BLOCK - 4,
    BUFFER = 64 * BLOCK,
    READ_BLOCKS = 8,
    RUNS_MAX = 1000000,
    OPEN_RUNS = 256,
};

struct log_run_writer {
    struct engine_run_writer base;
    struct log_run_writer *prev, *next;
    struct log *l;
    struct run *run;
    struct hf_file *file;
    uint8_t *buf; /* whole blocks and one begun */
    size_t used;  /* bytes in buf, checksums included */
    size_t in_block;
    uint64_t written;
    struct env_sync sync;
    uint64_t *id;
    engine_done *done;
    void *arg;
    struct completion c;
    enum hf_err e;
};

void run_key(uint64_t id, char out[32]) {
    snprintf(out, 32, "run/%016llx", (unsigned long long)id);
}

static void run_path(uint64_t id, char out[LOG_PATH]) {
    snprintf(out, LOG_PATH, "runs/%016llx.run", (unsigned long long)id);
}

static struct run *find(struct log *l, uint64_t id) {
    struct run *r;
    HASH_FIND(hh, l->runs, &id, sizeof id, r);
    return r;
}

static struct run *add(struct log *l, uint64_t id, uint64_t bucket) {
    if (HASH_COUNT(l->runs) >= RUNS_MAX) return NULL;
    struct run *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->id = id;
    r->bucket = bucket;
    HASH_ADD(hh, l->runs, id, sizeof r->id, r);
    if (r->hh.tbl) return r;
    free(r);
    return NULL;
}

static void forget(struct log *l, struct run *r) {
    HASH_DEL(l->runs, r);
    if (r->file) {
        env_close(r->file);
        l->open_runs--;
    }
    free(r);
}

/* ---- writing ---- */

uint64_t run_room(struct engine *engine) {
    const struct log *l = (const struct log *)engine;
    uint64_t bytes;
    if (env_space(l->env, &bytes)) return UINT64_MAX;
    return bytes > l->o.reserve_bytes ? bytes - l->o.reserve_bytes : 0;
}

enum hf_err run_begin(struct engine *engine, uint64_t bucket, struct engine_run_writer **out) {
    struct log *l = (struct log *)engine;
    if (l->failed) return l->failed;
    struct log_run_writer *w = calloc(1, sizeof *w);
    if (w) w->buf = malloc(BUFFER);
    if (w && w->buf) w->run = add(l, l->next_run, bucket);
    enum hf_err e = w && w->run ? HF_OK : HF_ENOMEM;
    char path[LOG_PATH];
    if (!e) {
        run_path(l->next_run++, path);
        e = env_open(l->env, path, ENV_CREATE | ENV_EXCL, &w->file);
        if (e) forget(l, w->run);
    }
    if (e) {
        if (w) free(w->buf);
        free(w);
        return e;
    }
    w->base.engine = engine;
    w->l = l;
    DL_APPEND(l->writers, w);
    *out = &w->base;
    return HF_OK;
}

static void end_block(struct log_run_writer *w) {
    uint8_t *block = w->buf + w->used - w->in_block;
    hf_put_be32(w->buf + w->used, hf_crc32c(0, block, w->in_block));
    w->used += 4;
    w->in_block = 0;
}

static enum hf_err write_out(struct log_run_writer *w) {
    enum hf_err e = env_write(w->file, w->written, w->buf, w->used);
    if (e) return e;
    env_writeback(w->file, w->written, w->used); /* the sync at the end shares the disk with the journal's */
    w->written += w->used;
    w->used = 0;
    return HF_OK;
}

enum hf_err run_append(struct engine_run_writer *base, const void *p, size_t n) {
    struct log_run_writer *w = (struct log_run_writer *)base;
    const uint8_t *from = p;
    while (n > 0) {
        size_t part = CONTENT - w->in_block < n ? CONTENT - w->in_block : n;
        memcpy(w->buf + w->used, from, part);
        w->used += part;
        w->in_block += part;
        w->run->bytes += part;
        from += part;
        n -= part;
        if (w->in_block == CONTENT) end_block(w);
        enum hf_err e = w->in_block == 0 && w->used == BUFFER ? write_out(w) : HF_OK;
        if (e) return e;
    }
    return HF_OK;
}

static void free_writer(struct log_run_writer *w) {
    DL_DELETE(w->l->writers, w);
    if (w->file) env_close(w->file);
    free(w->buf);
    free(w);
}

static void drop_file(struct log *l, struct run *r) {
    char path[LOG_PATH];
    run_path(r->id, path);
    forget(l, r);
    env_discard(l->env, path); /* the state does not name it: what is left of it goes at the next start */
}

static void sealed(struct completion *c, bool tell) {
    if (!tell) return; /* runs_free has it */
    struct log_run_writer *w = (struct log_run_writer *)((char *)c - offsetof(struct log_run_writer, c));
    engine_done *done = w->done;
    void *arg = w->arg;
    enum hf_err e = w->e;
    if (e)
        drop_file(w->l, w->run);
    else
        w->run->sealed = true;
    if (!e) *w->id = w->run->id;
    free_writer(w);
    done(arg, e);
}

static void named(struct env_sync *s, enum hf_err e) {
    struct log_run_writer *w = s->arg;
    w->l->syncs--;
    if (e)
        log_fail(w->l, e, "sync of runs/");
    else
        log_ready(w->l, &w->c);
}

static void written(struct env_sync *s, enum hf_err e) {
    struct log_run_writer *w = s->arg;
    w->l->syncs--;
    if (e) {
        log_fail(w->l, e, "sync of a run");
        return;
    }
    w->l->syncs++;
    env_point(w->l->env, "run.synced");
    w->sync = (struct env_sync){.dir = "runs", .urgent = true, .done = named, .arg = w};
    env_sync_begin(w->l->env, &w->sync);
}

void run_seal(struct engine_run_writer *base, uint64_t *id, engine_done *done, void *arg) {
    struct log_run_writer *w = (struct log_run_writer *)base;
    w->id = id;
    w->done = done;
    w->arg = arg;
    w->c.run = sealed;
    if (w->in_block > 0) end_block(w);
    w->e = write_out(w);
    if (w->e) {
        log_ready(w->l, &w->c);
        return;
    }
    if (hf_mutate(31)) {
        log_ready(w->l, &w->c);
        return;
    }
    w->l->syncs++;
    w->sync = (struct env_sync){.file = w->file, .urgent = true, .done = written, .arg = w};
    env_sync_begin(w->l->env, &w->sync);
}

void run_abort(struct engine_run_writer *base) {
    struct log_run_writer *w = (struct log_run_writer *)base;
    drop_file(w->l, w->run);
    free_writer(w);
}

void run_discard(struct engine *engine, uint64_t id) {
    struct log *l = (struct log *)engine;
    /* Of a commit under way who asks cannot know: the next start may yet find it. */
    if (l->failed && !hf_mutate(131)) return;
    struct run *r = find(l, id);
    if (r && r->sealed && !r->named) drop_file(l, r);
}

/* ---- by commits ---- */

bool run_sealed(struct log *l, uint64_t id, struct run **out) {
    *out = find(l, id);
    return *out && (*out)->sealed;
}

void runs_drop(struct log *l, const uint64_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct run *r = find(l, ids[i]);
        if (r) drop_file(l, r);
    }
}

void runs_name(struct log *l, const uint64_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct run *r = find(l, ids[i]);
        if (r) r->named = true;
    }
}

/* ---- reading ---- */

static int by_id(const struct run *a, const struct run *b) {
    return a->id < b->id ? -1 : a->id > b->id;
}

void run_each(struct engine *engine, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
              void *arg) {
    struct log *l = (struct log *)engine;
    HASH_SORT(l->runs, by_id);
    for (struct run *r = l->runs, *next; r; r = next) {
        next = r->hh.next;
        if (r->named) fn(arg, r->id, r->bucket, r->bytes);
    }
}

static enum hf_err open_run(struct log *l, struct run *r) {
    if (r->file) return HF_OK;
    for (struct run *x = l->runs; x && l->open_runs >= OPEN_RUNS; x = x->hh.next) {
        if (!x->file) continue;
        env_close(x->file);
        x->file = NULL;
        l->open_runs--;
    }
    char path[LOG_PATH];
    run_path(r->id, path);
    enum hf_err e = env_open(l->env, path, ENV_READ, &r->file);
    if (!e) l->open_runs++;
    return e == HF_ENOTFOUND ? HF_ECORRUPT : e;
}

/* Told once for each place. */
static enum hf_err damaged(struct log *l, struct run *r, uint64_t byte, const char *what) {
    char path[LOG_PATH];
    if (r->reported == byte + 1) return HF_ECORRUPT;
    r->reported = byte + 1;
    run_path(r->id, path);
    damage_tell(l, &(struct log_damage){.file = path, .byte = byte, .offset = -1, .what = what});
    return HF_ECORRUPT;
}

/* All blocks but the last hold CONTENT bytes. */
static size_t content_of(const struct run *r, uint64_t block) {
    uint64_t left = r->bytes - block * CONTENT;
    return left < CONTENT ? (size_t)left : CONTENT;
}

static enum hf_err check_block(struct log *l, struct run *r, uint64_t block, const uint8_t *p, size_t n) {
    size_t content = content_of(r, block);
    bool whole = n >= content + 4 && hf_get_be32(p + content) == hf_crc32c(0, p, content);
    return whole ? HF_OK : damaged(l, r, block * BLOCK, "the block does not match its checksum");
}

static enum hf_err read_block(struct log *l, struct run *r, uint64_t block, uint8_t out[BLOCK]) {
    size_t got = 0;
    enum hf_err e = env_read(r->file, block * BLOCK, out, content_of(r, block) + 4, &got);
    return e ? e : check_block(l, r, block, out, got);
}

/* What lies in up to READ_BLOCKS blocks of [offset, offset + n), by one call. */
static enum hf_err read_some(struct log *l, struct run *r, uint64_t offset, uint8_t *to, size_t n,
                             size_t *done) {
    uint8_t blocks[READ_BLOCKS * BLOCK];
    uint64_t first = offset / CONTENT, last = (offset + n - 1) / CONTENT;
    size_t count = last - first < READ_BLOCKS ? (size_t)(last - first) + 1 : READ_BLOCKS, got = 0, at = 0;
    enum hf_err e = env_read(r->file, first * BLOCK, blocks, count * BLOCK, &got);
    for (size_t i = 0; !e && i < count; i++) {
        size_t from = i == 0 ? (size_t)(offset % CONTENT) : 0;
        size_t part = CONTENT - from < n - at ? CONTENT - from : n - at;
        e = check_block(l, r, first + i, blocks + i * BLOCK, got > i * BLOCK ? got - i * BLOCK : 0);
        if (!e) memcpy(to + at, blocks + i * BLOCK + from, part);
        at += part;
    }
    *done = at;
    return e;
}

enum hf_err run_read(struct engine *engine, uint64_t id, uint64_t offset, void *p, size_t n) {
    struct log *l = (struct log *)engine;
    struct run *r = find(l, id);
    if (!r || !r->sealed) return HF_ENOTFOUND;
    if (offset > r->bytes || n > r->bytes - offset) return HF_EEND;
    enum hf_err e = open_run(l, r);
    for (size_t at = 0, part; !e && at < n; at += part)
        e = read_some(l, r, offset + at, (uint8_t *)p + at, n - at, &part);
    return e;
}

static struct run *run_from(struct log *l, uint64_t id) {
    struct run *found = NULL;
    for (struct run *r = l->runs; r; r = r->hh.next)
        if (r->sealed && r->id >= id && (!found || r->id < found->id)) found = r;
    return found;
}

static enum hf_err look_at_length(struct log *l, struct run *r) {
    uint64_t size, blocks = (r->bytes + CONTENT - 1) / CONTENT, want = r->bytes + blocks * 4;
    enum hf_err e = env_size(r->file, &size);
    if (e || size == want) return e;
    return damaged(l, r, size < want ? size : want,
                   size < want ? "the file ends here, and must be longer"
                               : "the run ends here, but not the file");
}

/* The file of the run `*at` is in, or of the next one, and what run_prove will read of it. HF_EEND: there is none. */
enum hf_err run_stretch(struct log *l, const struct run_place *at, uint64_t most, char path[LOG_PATH],
                        struct run_bytes *out) {
    const struct run *r = run_from(l, at->id);
    if (!r) return HF_EEND;
    uint64_t block = r->id == at->id ? at->block : 0, blocks = (r->bytes + CONTENT - 1) / CONTENT;
    uint64_t n = blocks - block < most ? blocks - block : most;
    run_path(r->id, path);
    *out = (struct run_bytes){.id = r->id, .offset = block * BLOCK, .n = (size_t)n * BLOCK};
    return HF_OK;
}

static bool holds(const struct run_bytes *have, uint64_t id, uint64_t block) {
    return have && have->id == id && block * BLOCK >= have->offset && block * BLOCK < have->offset + have->n;
}

/* Checks up to `most` blocks from there, and moves it. `have`: they were read already, as far as it reaches; may be NULL.
 * HF_EEND: there is none. What is damaged is told, and no error. */
enum hf_err run_prove(struct log *l, struct run_place *at, uint64_t most, const struct run_bytes *have,
                      uint64_t *read) {
    uint8_t content[BLOCK];
    struct run *r = run_from(l, at->id);
    if (!r) return HF_EEND;
    if (r->id != at->id) at->block = 0;
    at->id = r->id;
    enum hf_err e = open_run(l, r);
    if (!e && at->block == 0) e = look_at_length(l, r);
    while (!e && most-- > 0 && at->block * CONTENT < r->bytes) {
        uint64_t block = at->block++;
        size_t skip = have ? (size_t)(block * BLOCK - have->offset) : 0;
        e = holds(have, r->id, block) ? check_block(l, r, block, have->p + skip, have->n - skip)
                                      : read_block(l, r, block, content);
        *read += BLOCK;
        if (e == HF_ECORRUPT) e = HF_OK; /* told; the next ones may be right */
    }
    if (e || at->block * CONTENT >= r->bytes) *at = (struct run_place){.id = r->id + 1};
    return e == HF_ECORRUPT ? HF_OK : e;
}

/* ---- salvage ---- */

static enum hf_err look_at_run(struct log *l, struct run *r) {
    uint8_t content[BLOCK];
    uint64_t before = l->stats.damages;
    r->reported = 0;
    enum hf_err e = open_run(l, r);
    if (!e) e = look_at_length(l, r);
    for (uint64_t block = 0; !e && block * CONTENT < r->bytes; block++) e = read_block(l, r, block, content);
    return !e && l->stats.damages > before ? HF_ECORRUPT : e;
}

enum hf_err runs_salvage(struct log *l) {
    char path[LOG_PATH];
    for (struct run *r = l->runs, *next; r; r = next) {
        next = r->hh.next;
        enum hf_err e = look_at_run(l, r);
        if (!e) continue;
        run_path(r->id, path);
        if (e == HF_ECORRUPT) e = aside_move(l, path);
        if (e == HF_ENOTFOUND) e = HF_OK; /* it was not even there */
        if (!e) e = rescue_run(l, r->id);
        if (e) return e;
        forget(l, r);
    }
    return HF_OK;
}

/* ---- start and end ---- */

struct loading {
    struct log *l;
    enum hf_err e;
};

static void load_one(void *arg, hf_str key, hf_str value) {
    struct loading *x = arg;
    char text[32] = {0};
    unsigned long long id;
    if (x->e) return;
    memcpy(text, key.p, key.n < 31 ? key.n : 31);
    if (value.n != 16 || sscanf(text, "run/%16llx", &id) != 1) {
        x->e = HF_ECORRUPT;
        return;
    }
    struct run *r = add(x->l, id, hf_get_be64(value.p));
    if (!r) {
        x->e = HF_ENOMEM;
        return;
    }
    r->bytes = hf_get_be64(value.p + 8);
    r->sealed = r->named = true;
    x->e = open_run(x->l, r);
    if (x->e == HF_ECORRUPT) x->e = damaged(x->l, r, 0, "the file is missing");
    if (x->e == HF_ECORRUPT && rescue_on(x->l)) {
        x->e = rescue_run(x->l, id);
        forget(x->l, r);
    }
}

/* It may go after the next run has come: that one's name is another. */
static void pass_over(struct log *l, uint64_t id, const char *path) {
    char its[LOG_PATH];
    run_path(id, its);
    if (strcmp(its, path) == 0 && id >= l->next_run && id < UINT64_MAX) l->next_run = id + 1;
}

static bool discard_unnamed(void *arg, const char *name) {
    struct log *l = arg;
    unsigned long long id = 0;
    if (sscanf(name, "%16llx.run", &id) == 1 && find(l, id)) return true;
    char path[LOG_PATH];
    snprintf(path, sizeof path, "runs/%s", name);
    pass_over(l, id, path);
    if (rescue_on(l) && l->rescue.state_lost)
        rescue_tell(l, path, "the state does not name it, or no longer: set aside");
    enum hf_err e = HF_OK;
    if (rescue_on(l))
        e = aside_move(l, path);
    else
        env_discard(l->env, path);
    if (e) log_fail(l, e, path);
    return true;
}

enum hf_err runs_load(struct log *l) {
    struct loading x = {.l = l};
    l->next_run = (uint64_t)state_number(l, "log/run-ids", 1);
    state_each(l, HF_STR("run/"), load_one, &x);
    if (x.e) return x.e;
    enum hf_err e = env_list(l->env, "runs", discard_unnamed, l);
    return e ? e : l->failed;
}

void runs_free(struct log *l) {
    while (l->writers) free_writer(l->writers);
    struct run *r, *next;
    HASH_ITER (hh, l->runs, r, next) forget(l, r);
}
