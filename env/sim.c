/* The simulated machine: one clock, one order of operations, one seed.
 *
 * Every operation passes strike(), which counts it, feeds the trace, and says whether the machine crashes in
 * it. The operation then does part of itself, and from then on the machine is dead: calls give HF_ECRASHED
 * and change nothing until hf_sim_restart. The disk's uncertain part is settled there, by the kind of crash:
 *
 *     alive ── strike(), hf_sim_crash ──→ dead(kind) ── hf_sim_restart ──→ alive
 *                                              process death: cache stays, clean pages may leave it
 *                                              power loss: sim_file_power_loss, sim_dirs_power_loss
 *
 * Three streams of random numbers come from the seed: the machine's own choices, env_random, and the test's,
 * so that one more draw by the test does not change what the disk does with the same operations.
 *
 * Out of memory ends the test: a simulator that fails is no machine that fails. */
#include "sim_internal.h"

#include <assert.h>
#include <stdlib.h>

enum { SIM_PID = 1 };
static const int64_t DEFAULT_WALL_MS = INT64_C(1767225600000); /* 2026-01-01 */
static const uint64_t DEFAULT_CAPACITY = 1 << 30;

/* ---- random numbers, trace ---- */

static uint64_t scramble(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
uint64_t sim_next(struct sim_random *r) {
    return scramble(r->s += UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t sim_below(struct hf_sim *sim, uint64_t n) {
    return sim_next(&sim->random) % n;
}

enum sim_luck sim_luck(struct hf_sim *sim) {
    return (enum sim_luck)sim_below(sim, SIM_LUCKS);
}

uint64_t sim_pick(struct hf_sim *sim, enum sim_luck luck, uint64_t n) {
    if (luck == SIM_OLDEST) return 0;
    if (luck == SIM_NEWEST || (luck == SIM_MOSTLY_NEWEST && !sim_one_in(sim, 8))) return n - 1;
    return sim_below(sim, n);
}

void sim_mix(struct hf_sim *sim, uint64_t x) {
    sim->trace = scramble(sim->trace ^ x) + UINT64_C(0x9e3779b97f4a7c15);
}

void *sim_grow(void *v, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return v;
    *cap = *cap ? 2 * *cap : 8;
    v = realloc(v, *cap * size);
    assert(v);
    return v;
}

/* ---- crash points and mutations ---- */

static struct hf_sim_cell *cell_of(struct hf_sim_hits *hits, const char *point) {
    for (size_t i = 0; i < hits->count; i++)
        if (hits->cells[i].point == point) return &hits->cells[i];
    for (size_t i = 0; i < hits->count; i++) /* the same literal of another source file */
        if (strcmp(hits->cells[i].point, point) == 0) return &hits->cells[i];
    assert(hits->count < HF_SIM_POINTS_MAX);
    hits->cells[hits->count] = (struct hf_sim_cell){.point = point};
    return &hits->cells[hits->count++];
}

static void die(struct hf_sim *sim, const char *point) {
    sim->dead = true;
    sim->crashed_at = point;
    sim->crash_in = 0;
    sim_mix(sim, 0xdead);
}

/* An operation begins: true if the machine crashes in it. The caller does a part of it and calls no more. */
static bool strike(struct hf_sim *sim, const char *point, uint64_t what) {
    sim->operations++;
    sim->now_us++;
    sim_mix(sim, what);
    struct hf_sim_cell *cell = sim->options.hits ? cell_of(sim->options.hits, point) : NULL;
    if (cell) cell->passed++;
    if (sim->crash_in == 0) return false;
    if (sim->crash_point && strcmp(sim->crash_point, point) != 0) return false;
    if (--sim->crash_in > 0) return false;
    if (cell) cell->crashed[sim->crash_kind]++;
    die(sim, point);
    return true;
}

static const struct env_ops sim_ops;

/* Not of an overlay, whose machine does not crash. */
void env_point(struct hf_env *env, const char *name) {
    struct hf_sim *sim = sim_of(env);
    if (env->ops == &sim_ops && !sim->dead) (void)strike(sim, name, strlen(name));
}

static int mutation = -1; /* not asked yet */

bool hf_mutate(int n) {
    if (mutation < 0) {
        const char *asked = getenv("HF_MUTATE");
        mutation = asked ? atoi(asked) : 0;
    }
    return n > 0 && n == mutation;
}

void hf_sim_set_mutation(int n) {
    mutation = n;
}

void hf_sim_hits_print(const struct hf_sim_hits *hits, FILE *to) {
    fprintf(to, "%-32s %12s %14s %11s\n", "crash point", "passed", "process death", "power loss");
    for (size_t i = 0; i < hits->count; i++) {
        const struct hf_sim_cell *c = &hits->cells[i];
        fprintf(to, "%-32s %12llu %14llu %11llu\n", c->point, (unsigned long long)c->passed,
                (unsigned long long)c->crashed[HF_SIM_PROCESS_DEATH],
                (unsigned long long)c->crashed[HF_SIM_POWER_LOSS]);
    }
}

size_t hf_sim_hits_empty(const struct hf_sim_hits *hits, const char **point) {
    size_t empty = 0;
    if (point) *point = NULL;
    for (size_t i = 0; i < hits->count; i++)
        for (size_t kind = 0; kind < HF_SIM_CRASH_KINDS; kind++)
            if (hits->cells[i].crashed[kind] == 0 && empty++ == 0 && point) *point = hits->cells[i].point;
    return empty;
}

/* ---- faults ---- */

enum call { CALL_PLAIN, CALL_TAKES_SPACE, CALL_SYNC };

/* Counts a call that can fail; the error with which this one does. */
static enum hf_err fault(struct hf_sim *sim, enum call call) {
    if (sim->fail_syncs && call != CALL_SYNC) return HF_OK;
    if (sim->fail_stays && sim->fail_with == HF_ENOSPC && call != CALL_TAKES_SPACE) return HF_OK;
    if (sim->fail_in == 0 || --sim->fail_in > 0) return HF_OK;
    sim->failed = true;
    if (sim->fail_stays) sim->fail_in = 1;
    return sim->fail_with == HF_ENOSPC && call != CALL_TAKES_SPACE ? HF_EIO : sim->fail_with;
}

/* ---- clocks ---- */

static int64_t sim_wall_us(struct hf_env *env) {
    return sim_of(env)->now_us + sim_of(env)->wall_ahead_ms * 1000;
}

static int64_t sim_mono_us(struct hf_env *env) {
    return sim_of(env)->now_us - sim_of(env)->boot_us;
}

static uint64_t sim_boot_id(struct hf_env *env) {
    return sim_of(env)->boot_id;
}

static uint64_t sim_env_random(struct hf_env *env) {
    return sim_next(&sim_of(env)->env_random);
}

static void sim_log(struct hf_env *env, enum env_level level, const char *event, const char *fmt,
                    va_list values) {
    struct hf_sim *sim = sim_of(env);
    sim->errors_logged += level == ENV_ERROR;
    if (!sim->options.verbose) return;
    fprintf(stderr, "%lld %s %s ", (long long)sim->now_us, env_level_names[level], event);
    vfprintf(stderr, fmt, values);
    fputc('\n', stderr);
}

/* ---- files ---- */

static struct sim_file *file_of(struct hf_file *f) {
    return (struct sim_file *)f;
}

static uint64_t hash_of(const char *s) {
    uint64_t h = 0;
    for (; *s; s++) h = h * 31 + (unsigned char)*s;
    return h;
}

/* Four rows of words side by side: a journal's zeros are hashed for each seed. */
static uint64_t hash_bytes(const uint8_t *p, size_t n) {
    enum { ROWS = 4 };
    uint64_t h[ROWS] = {n, 1, 2, 3}, words[ROWS];
    for (; n >= sizeof words; p += sizeof words, n -= sizeof words) {
        memcpy(words, p, sizeof words);
        for (int i = 0; i < ROWS; i++) {
            h[i] = (h[i] ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
            h[i] ^= h[i] >> 29;
        }
    }
    for (; n > 0; p++, n--) h[0] = h[0] * 31 + *p;
    for (int i = 1; i < ROWS; i++) h[0] = scramble(h[0] ^ h[i]);
    return h[0];
}

static enum hf_err create(struct hf_sim *sim, const char *path, struct sim_inode **out) {
    struct sim_inode *dir;
    const char *name;
    if (!sim_walk(sim, path, &dir, &name)) return HF_ENOTFOUND;
    enum hf_err e = fault(sim, CALL_TAKES_SPACE);
    if (e) return e;
    bool dies = strike(sim, "op.create", hash_of(path));
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    struct sim_inode *i = sim_inode_make(sim, false);
    sim_link(sim, dir, name, i);
    if (dies) return HF_ECRASHED;
    *out = i;
    return HF_OK;
}

static enum hf_err sim_open(struct hf_env *env, const char *path, unsigned flags, struct hf_file **out) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead) return HF_ECRASHED;
    struct sim_inode *i = sim_lookup(sim, path);
    if (i && (i->is_dir || (flags & ENV_EXCL))) return i->is_dir ? HF_EIO : HF_EEXIST;
    enum hf_err e = HF_OK;
    if (!i) e = flags & ENV_CREATE ? create(sim, path, &i) : HF_ENOTFOUND;
    if (!e) e = fault(sim, CALL_PLAIN);
    if (e) return e;
    struct sim_file *f = malloc(sizeof *f);
    assert(f);
    *f = (struct sim_file){.base = {env}, .inode = i, .flags = flags};
    size_t n = strlen(path), skip = n < SIM_SUFFIX ? 0 : n - SIM_SUFFIX + 1;
    memcpy(f->suffix, path + skip, n - skip + 1);
    sim_inode_ref(i);
    sim->open_files++;
    *out = &f->base;
    return HF_OK;
}

static void sim_close(struct hf_file *f) {
    struct hf_sim *sim = sim_of(f->env);
    sim->open_files--;
    sim_inode_unref(sim, file_of(f)->inode);
    free(f);
}

static enum hf_err sim_size(struct hf_file *f, uint64_t *size) {
    struct hf_sim *sim = sim_of(f->env);
    if (sim->dead) return HF_ECRASHED;
    *size = file_of(f)->inode->size;
    return HF_OK;
}

static void read_direct(struct sim_inode *i, uint64_t offset, uint8_t *p, size_t n) {
    while (n > 0) {
        size_t part = n < HF_SECTOR ? n : HF_SECTOR;
        memcpy(p, sim_direct(i, offset / HF_SECTOR), part);
        offset += part;
        p += part;
        n -= part;
    }
}

static enum hf_err sim_read(struct hf_file *f, uint64_t offset, void *p, size_t n, size_t *got) {
    struct hf_sim *sim = sim_of(f->env);
    struct sim_inode *i = file_of(f)->inode;
    if (sim->dead) return HF_ECRASHED;
    enum hf_err e = fault(sim, CALL_PLAIN);
    if (e) return e;
    uint64_t left = offset < i->size ? i->size - offset : 0;
    bool direct = file_of(f)->flags & ENV_DIRECT;
    if (direct && ((offset | n | (uintptr_t)p) % 4096 != 0)) return HF_EINVAL;
    if (n > left) n = (size_t)left;
    if (direct)
        read_direct(i, offset, p, n);
    else if (n > 0)
        memcpy(p, i->slab->cache + offset, n);
    *got = n;
    return HF_OK;
}

static bool writable(const struct hf_file *f) {
    return ((const struct sim_file *)f)->flags & (ENV_WRITE | ENV_CREATE);
}

/* Grows the file over `end` and stores. */
static void store_at(struct hf_sim *sim, struct sim_inode *i, uint64_t offset, const void *p, uint64_t n) {
    uint64_t end = offset + n;
    if (n == 0) return;
    if (end > i->size) sim_set_size(sim, i, end);
    sim_set_allocated(i, offset, end);
    sim_store(sim, i, offset, p, n);
}

static enum hf_err sim_write(struct hf_file *f, uint64_t offset, const void *p, size_t n) {
    struct hf_sim *sim = sim_of(f->env);
    struct sim_inode *i = file_of(f)->inode;
    if (sim->dead) return HF_ECRASHED;
    if (!writable(f)) return HF_EIO;
    if (n == 0) return HF_OK;
    if (offset > SIM_FILE_MAX || n > SIM_FILE_MAX - offset) return HF_ELIMIT;
    enum hf_err e = fault(sim, CALL_TAKES_SPACE);
    if (!e && offset + n > i->size && !sim_charge(sim, i, offset + n)) e = HF_ENOSPC;
    bool dies = !e && strike(sim, "op.write", hash_bytes(p, n) ^ offset);
    uint64_t done = n;
    if (e) done = offset < i->size ? i->size - offset : 0; /* no farther than the room there is */
    if (done > n) done = n;
    if (e || dies) done = sim_below(sim, done + 1);
    store_at(sim, i, offset, p, done);
    return e ? e : dies ? HF_ECRASHED : HF_OK;
}

static enum hf_err sim_allocate(struct hf_file *f, uint64_t offset, uint64_t length) {
    struct hf_sim *sim = sim_of(f->env);
    struct sim_inode *i = file_of(f)->inode;
    if (sim->dead) return HF_ECRASHED;
    if (!writable(f)) return HF_EIO;
    if (offset > SIM_FILE_MAX || length > SIM_FILE_MAX - offset) return HF_ELIMIT;
    uint64_t end = offset + length;
    enum hf_err e = fault(sim, CALL_TAKES_SPACE);
    if (!e && end > i->size && !sim_charge(sim, i, end)) e = HF_ENOSPC;
    if (e) return e;
    bool dies = strike(sim, "op.allocate", offset ^ length);
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    if (end > i->size) sim_set_size(sim, i, end);
    sim_set_allocated(i, offset, end);
    return dies ? HF_ECRASHED : HF_OK;
}

static enum hf_err sim_truncate(struct hf_file *f, uint64_t size) {
    struct hf_sim *sim = sim_of(f->env);
    struct sim_inode *i = file_of(f)->inode;
    if (sim->dead) return HF_ECRASHED;
    if (!writable(f)) return HF_EIO;
    if (size > SIM_FILE_MAX) return HF_ELIMIT;
    enum hf_err e = fault(sim, CALL_PLAIN);
    if (e) return e;
    bool dies = strike(sim, "op.truncate", size);
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    sim_set_size(sim, i, size);
    bool charged = sim_charge(sim, i, i->allocated);
    assert(charged); /* nothing grew */
    return dies ? HF_ECRASHED : HF_OK;
}

static void sim_writeback(struct hf_file *f, uint64_t offset, uint64_t n) {
    (void)f, (void)offset, (void)n; /* the disk takes what it likes in any case */
}

static int sim_fd(struct hf_file *f) {
    (void)f;
    return -1;
}

/* ---- names ---- */

static enum hf_err sim_rename(struct hf_env *env, const char *from, const char *to) {
    struct hf_sim *sim = sim_of(env);
    struct sim_inode *from_dir, *to_dir;
    const char *from_name, *to_name;
    if (sim->dead) return HF_ECRASHED;
    if (!sim_walk(sim, from, &from_dir, &from_name) || !sim_walk(sim, to, &to_dir, &to_name))
        return HF_ENOTFOUND;
    struct sim_inode *i = sim_entry_get(from_dir, from_name), *old = sim_entry_get(to_dir, to_name);
    if (!i) return HF_ENOTFOUND;
    if (old && old != i && (old->is_dir != i->is_dir || old->now.n > 0)) return HF_EIO;
    enum hf_err e = fault(sim, CALL_PLAIN);
    if (e) return e;
    bool dies = strike(sim, "op.rename", hash_of(from) ^ hash_of(to));
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    if (old != i) sim_move(sim, from_dir, from_name, to_dir, to_name);
    return dies ? HF_ECRASHED : HF_OK;
}

/* Takes a name away: a file's, or an empty folder's. */
static enum hf_err take_away(struct hf_env *env, const char *path, bool is_dir, const char *point) {
    struct hf_sim *sim = sim_of(env);
    struct sim_inode *dir, *i;
    const char *name;
    if (sim->dead) return HF_ECRASHED;
    if (!sim_walk(sim, path, &dir, &name) || !(i = sim_entry_get(dir, name))) return HF_ENOTFOUND;
    if (i->is_dir != is_dir || i->now.n > 0) return HF_EIO;
    enum hf_err e = fault(sim, CALL_PLAIN);
    if (e) return e;
    bool dies = strike(sim, point, hash_of(path));
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    sim_unlink_name(sim, dir, name);
    return dies ? HF_ECRASHED : HF_OK;
}

static enum hf_err sim_unlink(struct hf_env *env, const char *path) {
    return take_away(env, path, false, "op.unlink");
}

static enum hf_err sim_rmdir(struct hf_env *env, const char *path) {
    return take_away(env, path, true, "op.rmdir");
}

static enum hf_err sim_mkdir(struct hf_env *env, const char *path) {
    struct hf_sim *sim = sim_of(env);
    struct sim_inode *dir;
    const char *name;
    if (sim->dead) return HF_ECRASHED;
    if (!sim_walk(sim, path, &dir, &name)) return HF_ENOTFOUND;
    if (strcmp(name, ".") == 0 || sim_entry_get(dir, name)) return HF_EEXIST;
    enum hf_err e = fault(sim, CALL_TAKES_SPACE);
    if (e) return e;
    bool dies = strike(sim, "op.mkdir", hash_of(path));
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    sim_link(sim, dir, name, sim_inode_make(sim, true));
    return dies ? HF_ECRASHED : HF_OK;
}

/* Over a copy of the names: fn may change the folder. */
static enum hf_err sim_list(struct hf_env *env, const char *dir, bool (*fn)(void *arg, const char *name),
                            void *arg) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead) return HF_ECRASHED;
    struct sim_inode *i = sim_lookup(sim, dir);
    if (!i || !i->is_dir) return i ? HF_EIO : HF_ENOTFOUND;
    enum hf_err e = fault(sim, CALL_PLAIN);
    if (e) return e;
    size_t n = i->now.n;
    char **names = calloc(n + 1, sizeof *names);
    assert(names);
    for (size_t k = 0; k < n; k++) {
        names[k] = strdup(i->now.v[k].name);
        assert(names[k]);
    }
    bool more = true;
    for (size_t k = 0; k < n; k++) {
        more = more && fn(arg, names[k]);
        free(names[k]);
    }
    free(names);
    return HF_OK;
}

static enum hf_err sim_lock(struct hf_env *env, const char *path, int64_t *pid) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead) return HF_ECRASHED;
    if (sim->locked) {
        *pid = SIM_PID;
        return HF_EAGAIN;
    }
    struct hf_file *f;
    enum hf_err e = env_open(env, path, ENV_CREATE, &f);
    if (e) return e;
    e = env_write(f, 0, "1\n", 2);
    env_close(f);
    if (!e) sim->locked = true;
    return e;
}

static enum hf_err sim_space(struct hf_env *env, uint64_t *free_bytes) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead) return HF_ECRASHED;
    *free_bytes = sim->capacity > sim->used ? sim->capacity - sim->used : 0;
    return HF_OK;
}

/* ---- syncs ---- */

static int64_t sync_takes_us(struct hf_sim *sim, bool urgent) {
    uint64_t us = 20 + sim_below(sim, urgent ? 2000 : 20000);
    return (int64_t)(sim_one_in(sim, 16) ? 10 * us : us);
}

/* Whether the fault asked for may strike this sync. */
static bool counts(const struct hf_sim *sim, const struct env_sync *request) {
    if (!sim->fail_suffix) return true;
    if (!request->file) return false;
    const char *path = file_of(request->file)->suffix;
    size_t n = strlen(path), wanted = strlen(sim->fail_suffix);
    return n >= wanted && strcmp(path + n - wanted, sim->fail_suffix) == 0;
}

static void sim_sync_begin(struct hf_env *env, struct env_sync *request) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead) return;
    struct sim_inode *i = request->file ? file_of(request->file)->inode : sim_lookup(sim, request->dir);
    enum hf_err e = counts(sim, request) ? fault(sim, CALL_SYNC) : HF_OK;
    if (!e && (!i || i->is_dir != !request->file)) e = HF_ENOTFOUND;
    if (strike(sim, "op.sync_begin", i ? i->number : 0)) return;
    assert(sim->sync_count < SIM_SYNCS_MAX);
    if (e == HF_ENOTFOUND) i = NULL;
    if (i) {
        sim_inode_ref(i);
        i->syncing++;
        i->synced = sim->stamp;
    }
    sim->syncs[sim->sync_count++] = (struct sim_sync){
        .request = request,
        .inode = i,
        .stamp = sim->stamp,
        .due_us = sim->now_us + sync_takes_us(sim, request->urgent),
        .result = e,
    };
}

/* Index of the sync that ends first; sync_count if there is none. */
static size_t sync_first(const struct hf_sim *sim) {
    size_t first = 0;
    for (size_t k = 1; k < sim->sync_count; k++)
        if (sim->syncs[k].due_us < sim->syncs[first].due_us) first = k;
    return first;
}

static void sync_settle(struct hf_sim *sim, const struct sim_sync *s) {
    if (!s->inode) return;
    if (s->inode->is_dir)
        sim_dir_synced(sim, s->inode, s->stamp, s->result == HF_OK);
    else
        sim_file_synced(sim, s->inode, s->stamp, s->result == HF_OK);
}

static void sync_forget(struct hf_sim *sim, size_t k) {
    struct sim_inode *i = sim->syncs[k].inode;
    sim->syncs[k] = sim->syncs[--sim->sync_count];
    if (!i) return;
    i->syncing--;
    sim_inode_unref(sim, i);
}

static size_t sim_poll(struct hf_env *env) {
    struct hf_sim *sim = sim_of(env);
    size_t ran = 0;
    while (!sim->dead && sim->sync_count > 0) {
        size_t k = sync_first(sim);
        struct sim_sync s = sim->syncs[k];
        if (s.due_us > sim->now_us) break;
        bool dies = strike(sim, "op.sync_end", s.stamp);
        if (!dies || sim_one_in(sim, 2)) sync_settle(sim, &s);
        sync_forget(sim, k);
        if (dies) break;
        s.request->done(s.request, s.result);
        ran++;
    }
    return ran;
}

static size_t sim_wait(struct hf_env *env) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead || sim->sync_count == 0) return 0;
    int64_t due = sim->syncs[sync_first(sim)].due_us;
    if (due > sim->now_us) sim->now_us = due;
    return sim_poll(env);
}

static int sim_poll_fd(struct hf_env *env) {
    (void)env;
    return -1;
}

static void sim_end(struct hf_env *env) {
    (void)env;
}

/* ---- the machine ---- */

static const struct env_ops sim_ops = {
    .wall_us = sim_wall_us,
    .mono_us = sim_mono_us,
    .boot_id = sim_boot_id,
    .random = sim_env_random,
    .log = sim_log,
    .open = sim_open,
    .close = sim_close,
    .size = sim_size,
    .read = sim_read,
    .write = sim_write,
    .allocate = sim_allocate,
    .truncate = sim_truncate,
    .writeback = sim_writeback,
    .fd = sim_fd,
    .rename = sim_rename,
    .unlink = sim_unlink,
    .mkdir = sim_mkdir,
    .rmdir = sim_rmdir,
    .list = sim_list,
    .lock = sim_lock,
    .space = sim_space,
    .sync_begin = sim_sync_begin,
    .poll = sim_poll,
    .wait = sim_wait,
    .poll_fd = sim_poll_fd,
    .end = sim_end,
};

enum hf_err hf_sim_open(uint64_t seed, const struct hf_sim_options *options, struct hf_sim **out) {
    struct hf_sim *sim = calloc(1, sizeof *sim);
    if (!sim) return HF_ENOMEM;
    sim->env.ops = &sim_ops;
    sim->options = *options;
    sim->random.s = scramble(seed);
    sim->env_random.s = scramble(seed ^ UINT64_C(0x5bd1e995));
    sim->test_random.s = scramble(seed ^ UINT64_C(0xc2b2ae35));
    sim->wall_ahead_ms = options->wall_ms ? options->wall_ms : DEFAULT_WALL_MS;
    sim->capacity = options->capacity_bytes ? options->capacity_bytes : DEFAULT_CAPACITY;
    sim->boot_id = sim_next(&sim->random);
    sim->crashed_at = "";
    sim->root = sim_inode_make(sim, true);
    sim_inode_ref(sim->root);
    *out = sim;
    return HF_OK;
}

void hf_sim_close(struct hf_sim *sim) {
    if (!sim) return;
    assert(sim->open_files == 0);
    while (sim->sync_count > 0) sync_forget(sim, 0);
    sim_dirs_power_loss(sim); /* changes may tie folders in a ring */
    sim_inode_unref(sim, sim->root);
    assert(!sim->first);
    free(sim);
}

struct hf_env *hf_sim_env(struct hf_sim *sim) {
    return &sim->env;
}

void hf_sim_advance(struct hf_sim *sim, int64_t us) {
    assert(us >= 0);
    sim->now_us += us;
}

int64_t hf_sim_next_us(const struct hf_sim *sim) {
    if (sim->sync_count == 0 || sim->dead) return -1;
    int64_t due = sim->syncs[sync_first(sim)].due_us;
    return due > sim->now_us ? due - sim->now_us : 0;
}

void hf_sim_set_wall(struct hf_sim *sim, int64_t ms) {
    sim->wall_ahead_ms = ms - sim->now_us / 1000;
}

uint64_t hf_sim_random(struct hf_sim *sim) {
    return sim_next(&sim->test_random);
}

void hf_sim_crash_at(struct hf_sim *sim, uint64_t n, enum hf_sim_crash kind) {
    sim->crash_in = n;
    sim->crash_kind = kind;
    sim->crash_point = NULL;
}

void hf_sim_crash_at_point(struct hf_sim *sim, const char *point, uint64_t n, enum hf_sim_crash kind) {
    hf_sim_crash_at(sim, n, kind);
    sim->crash_point = point;
}

void hf_sim_crash(struct hf_sim *sim, enum hf_sim_crash kind) {
    sim->crash_kind = kind;
    die(sim, "");
}

bool hf_sim_dead(const struct hf_sim *sim) {
    return sim->dead;
}

enum hf_sim_crash hf_sim_crash_kind(const struct hf_sim *sim) {
    return sim->crash_kind;
}

const char *hf_sim_crashed_at(const struct hf_sim *sim) {
    return sim->crashed_at;
}

/* What the power cut left. */
static void lose_power(struct hf_sim *sim) {
    for (struct sim_inode *i = sim->first; i; i = i->next)
        if (!i->is_dir) sim_file_power_loss(sim, i);
    sim_dirs_power_loss(sim);
    sim->boot_id = sim_next(&sim->random);
    sim->boot_us = sim->now_us;
}

void hf_sim_restart(struct hf_sim *sim) {
    assert(sim->open_files == 0);
    while (sim->sync_count > 0) sync_forget(sim, sim->sync_count - 1);
    if (sim->dead && sim->crash_kind == HF_SIM_POWER_LOSS) lose_power(sim);
    for (struct sim_inode *i = sim->first; i; i = i->next)
        if (!i->is_dir) sim_file_evict(sim, i);
    sim->dead = false;
    sim->locked = false;
    sim->crash_in = 0;
    sim->fail_in = 0;
    sim->failed = false;
    sim_mix(sim, sim->boot_id);
}

uint64_t hf_sim_operations(const struct hf_sim *sim) {
    return sim->operations;
}

uint64_t hf_sim_trace(const struct hf_sim *sim) {
    return sim->trace;
}

void hf_sim_fail_at(struct hf_sim *sim, uint64_t n, enum hf_err e) {
    sim->fail_in = n;
    sim->fail_with = e;
    sim->fail_syncs = sim->fail_stays = false;
    sim->fail_suffix = NULL;
    sim->failed = false;
}

void hf_sim_fail_from(struct hf_sim *sim, uint64_t n, enum hf_err e) {
    hf_sim_fail_at(sim, n, e);
    sim->fail_stays = true;
}

void hf_sim_fail_sync_at(struct hf_sim *sim, uint64_t n, const char *suffix) {
    assert(!suffix || strlen(suffix) < SIM_SUFFIX);
    hf_sim_fail_at(sim, n, HF_EIO);
    sim->fail_syncs = true;
    sim->fail_suffix = suffix;
}

bool hf_sim_failed(const struct hf_sim *sim) {
    return sim->failed;
}

uint64_t hf_sim_errors_logged(const struct hf_sim *sim) {
    return sim->errors_logged;
}

void hf_sim_set_capacity(struct hf_sim *sim, uint64_t bytes) {
    sim->capacity = bytes;
}

enum hf_err hf_sim_damage(struct hf_sim *sim, const char *path, uint64_t offset, uint8_t mask) {
    struct sim_inode *i = sim_lookup(sim, path);
    if (!i || i->is_dir) return HF_ENOTFOUND;
    if (offset >= i->size) return HF_ERANGE;
    i->slab->cache[offset] ^= mask;
    i->slab->disk[offset] ^= mask;
    return HF_OK;
}

void hf_sim_check(const struct hf_sim *sim) {
    sim_disk_check(sim);
}
