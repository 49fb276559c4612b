/* The calls of env.h on the simulated machine. Each that changes the disk goes the same way: a dead machine answers
 * HF_ECRASHED, what a real one would refuse is refused, then the fault that was asked for may come (sim_fault)
 * and the crash (sim_strike): of a call in which the machine dies, all, nothing or a part is done.
 *
 * A sync is begun with a time at which it will end, and settles what it covers when that has come and somebody
 * polls: so syncs end late, and not in the order of their beginning. A load is a sync that covers nothing. */
#include "sim_internal.h"

#include <utlist.h>

#include <assert.h>
#include <stdlib.h>

enum { SIM_PID = 1, LOAD_US = 300, LOAD_SLOW_US = 20000 };

/* ---- clocks, log lines ---- */

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
    for (int i = 1; i < ROWS; i++) h[0] = sim_scramble(h[0] ^ h[i]);
    return h[0];
}

static enum hf_err create(struct hf_sim *sim, const char *path, struct sim_inode **out) {
    struct sim_inode *dir;
    const char *name;
    if (!sim_walk(sim, path, &dir, &name)) return HF_ENOTFOUND;
    enum hf_err e = sim_fault(sim, SIM_CALL_TAKES_SPACE);
    if (e) return e;
    bool dies = sim_strike(sim, "op.create", hash_of(path));
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
    if (!e) e = sim_fault(sim, SIM_CALL_PLAIN);
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
    enum hf_err e = sim_fault(sim, SIM_CALL_PLAIN);
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
    enum hf_err e = sim_fault(sim, SIM_CALL_TAKES_SPACE);
    if (!e && offset + n > i->size && !sim_charge(sim, i, offset + n)) e = HF_ENOSPC;
    bool dies = !e && sim_strike(sim, "op.write", hash_bytes(p, n) ^ offset);
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
    enum hf_err e = sim_fault(sim, SIM_CALL_TAKES_SPACE);
    if (!e && end > i->size && !sim_charge(sim, i, end)) e = HF_ENOSPC;
    if (e) return e;
    bool dies = sim_strike(sim, "op.allocate", offset ^ length);
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
    enum hf_err e = sim_fault(sim, SIM_CALL_PLAIN);
    if (e) return e;
    bool dies = sim_strike(sim, "op.truncate", size);
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
    enum hf_err e = sim_fault(sim, SIM_CALL_PLAIN);
    if (e) return e;
    bool dies = sim_strike(sim, "op.rename", hash_of(from) ^ hash_of(to));
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
    enum hf_err e = sim_fault(sim, SIM_CALL_PLAIN);
    if (e) return e;
    bool dies = sim_strike(sim, point, hash_of(path));
    if (dies && sim_one_in(sim, 2)) return HF_ECRASHED;
    sim_unlink_name(sim, dir, name);
    return dies ? HF_ECRASHED : HF_OK;
}

static enum hf_err sim_unlink(struct hf_env *env, const char *path) {
    return take_away(env, path, false, "op.unlink");
}

static void sim_discard(struct hf_env *env, const char *path) {
    struct hf_sim *sim = sim_of(env);
    size_t n = strlen(path) + 1;
    struct sim_discard *d = sim->dead ? NULL : malloc(sizeof *d + n);
    if (!d) return; /* the next start has it */
    memcpy(d->path, path, n);
    LL_APPEND(sim->discards, d);
}

static void discard_some(struct hf_sim *sim) {
    while (!sim->dead && sim->discards && sim_next(&sim->discard_random) % sim->discard_odds == 0) {
        struct sim_discard *d = sim->discards;
        LL_DELETE(sim->discards, d);
        (void)sim_unlink(&sim->env, d->path);
        free(d);
    }
}

void sim_discards_forget(struct hf_sim *sim) {
    while (sim->discards) {
        struct sim_discard *d = sim->discards;
        LL_DELETE(sim->discards, d);
        free(d);
    }
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
    enum hf_err e = sim_fault(sim, SIM_CALL_TAKES_SPACE);
    if (e) return e;
    bool dies = sim_strike(sim, "op.mkdir", hash_of(path));
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
    enum hf_err e = sim_fault(sim, SIM_CALL_PLAIN);
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
    enum hf_err e = counts(sim, request) ? sim_fault(sim, SIM_CALL_SYNC) : HF_OK;
    if (!e && (!i || i->is_dir != !request->file)) e = HF_ENOTFOUND;
    if (sim_strike(sim, "op.sync_begin", i ? i->number : 0)) return;
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

size_t sim_sync_first(const struct hf_sim *sim) {
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

void sim_sync_forget(struct hf_sim *sim, size_t k) {
    struct sim_inode *i = sim->syncs[k].inode;
    sim->syncs[k] = sim->syncs[--sim->sync_count];
    if (!i) return;
    i->syncing--;
    sim_inode_unref(sim, i);
}

/* What it reads is what the file has when it begins. */
static void sim_load_begin(struct hf_env *env, struct env_load *r) {
    struct hf_sim *sim = sim_of(env);
    if (sim->dead) return;
    enum hf_err e = env_read(r->file, r->offset, r->p, r->n, &r->got);
    assert(sim->sync_count < SIM_SYNCS_MAX);
    sim->syncs[sim->sync_count++] = (struct sim_sync){
        .request = &r->sync,
        .stamp = sim->stamp,
        .due_us = sim->now_us + (sim->stamp % 8 ? LOAD_US : LOAD_SLOW_US),
        .result = e,
    };
}

static void sim_load_cancel(struct hf_env *env, struct env_load *r) {
    struct hf_sim *sim = sim_of(env);
    for (size_t k = 0; k < sim->sync_count; k++) {
        if (sim->syncs[k].request != &r->sync) continue;
        sim_sync_forget(sim, k);
        return;
    }
}

static size_t sim_poll(struct hf_env *env) {
    struct hf_sim *sim = sim_of(env);
    size_t ran = 0;
    discard_some(sim);
    while (!sim->dead && sim->sync_count > 0) {
        size_t k = sim_sync_first(sim);
        struct sim_sync s = sim->syncs[k];
        if (s.due_us > sim->now_us) break;
        bool dies = sim_strike(sim, "op.sync_end", s.stamp);
        if (!dies || sim_one_in(sim, 2)) sync_settle(sim, &s);
        sim_sync_forget(sim, k);
        if (dies) break;
        s.request->done(s.request, s.result);
        ran++;
    }
    return ran;
}

static size_t sim_wait(struct hf_env *env) {
    struct hf_sim *sim = sim_of(env);
    if (!sim->dead && sim->sync_count == 0) discard_some(sim);
    if (sim->dead || sim->sync_count == 0) return 0;
    int64_t due = sim->syncs[sim_sync_first(sim)].due_us;
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

/* ---- all ---- */

const struct env_ops sim_ops = {
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
    .discard = sim_discard,
    .mkdir = sim_mkdir,
    .rmdir = sim_rmdir,
    .list = sim_list,
    .lock = sim_lock,
    .space = sim_space,
    .sync_begin = sim_sync_begin,
    .load_begin = sim_load_begin,
    .load_cancel = sim_load_cancel,
    .poll = sim_poll,
    .wait = sim_wait,
    .poll_fd = sim_poll_fd,
    .end = sim_end,
};
