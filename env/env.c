/* Dispatch from env.h to the implementation's table, and what is the same for all of them: which paths are
 * legal, and waiting for one sync. */
#include "env_ops.h"

#include <assert.h>

int64_t env_wall_us(struct hf_env *env) {
    return env->ops->wall_us(env);
}

int64_t env_wall_ms(struct hf_env *env) {
    return env_wall_us(env) / 1000;
}

int64_t env_mono_us(struct hf_env *env) {
    return env->ops->mono_us(env);
}

uint64_t env_boot_id(struct hf_env *env) {
    return env->ops->boot_id(env);
}

uint64_t env_random(struct hf_env *env) {
    return env->ops->random(env);
}

const char *const env_level_names[] = {"error", "warn", "info", "debug"};

enum hf_err env_level_of(const char *name, enum env_level *out) {
    for (enum env_level i = ENV_ERROR; i <= ENV_DEBUG; i++) {
        if (strcmp(name, env_level_names[i]) != 0) continue;
        *out = i;
        return HF_OK;
    }
    return HF_EINVAL;
}

void env_log(struct hf_env *env, enum env_level level, const char *event, const char *fmt, ...) {
    va_list values;
    va_start(values, fmt);
    env->ops->log(env, level, event, fmt, values);
    va_end(values);
}

/* Relative, and never above the root. */
static bool path_ok(const char *path) {
    if (!path || path[0] == 0 || path[0] == '/') return false;
    for (const char *part = path; part;) {
        const char *slash = strchr(part, '/');
        size_t n = slash ? (size_t)(slash - part) : strlen(part);
        if (n == 0 || (n == 2 && memcmp(part, "..", 2) == 0)) return false;
        part = slash ? slash + 1 : NULL;
    }
    return true;
}

enum hf_err env_open(struct hf_env *env, const char *path, unsigned flags, struct hf_file **out) {
    if (!path_ok(path) || ((flags & ENV_EXCL) && !(flags & ENV_CREATE))) return HF_EINVAL;
    return env->ops->open(env, path, flags, out);
}

void env_close(struct hf_file *f) {
    if (f) f->env->ops->close(f);
}

enum hf_err env_size(struct hf_file *f, uint64_t *size) {
    return f->env->ops->size(f, size);
}

/* Every end of a range fits in int64_t, which is what the system can address. */
static bool range_ok(uint64_t offset, uint64_t n) {
    return offset <= INT64_MAX && n <= INT64_MAX - offset;
}

enum hf_err env_read(struct hf_file *f, uint64_t offset, void *p, size_t n, size_t *got) {
    if (!range_ok(offset, n)) return HF_EINVAL;
    return f->env->ops->read(f, offset, p, n, got);
}

enum hf_err env_write(struct hf_file *f, uint64_t offset, const void *p, size_t n) {
    if (!range_ok(offset, n)) return HF_EINVAL;
    return f->env->ops->write(f, offset, p, n);
}

enum hf_err env_allocate(struct hf_file *f, uint64_t offset, uint64_t length) {
    if (!range_ok(offset, length) || length == 0) return HF_EINVAL;
    return f->env->ops->allocate(f, offset, length);
}

enum hf_err env_truncate(struct hf_file *f, uint64_t size) {
    if (!range_ok(size, 0)) return HF_EINVAL;
    return f->env->ops->truncate(f, size);
}

void env_writeback(struct hf_file *f, uint64_t offset, uint64_t n) {
    if (n > 0 && range_ok(offset, n)) f->env->ops->writeback(f, offset, n);
}

int env_fd(struct hf_file *f) {
    return f->env->ops->fd(f);
}

enum hf_err env_rename(struct hf_env *env, const char *from, const char *to) {
    if (!path_ok(from) || !path_ok(to)) return HF_EINVAL;
    return env->ops->rename(env, from, to);
}

enum hf_err env_unlink(struct hf_env *env, const char *path) {
    if (!path_ok(path)) return HF_EINVAL;
    return env->ops->unlink(env, path);
}

void env_discard(struct hf_env *env, const char *path) {
    if (path_ok(path)) env->ops->discard(env, path);
}

enum hf_err env_mkdir(struct hf_env *env, const char *path) {
    if (!path_ok(path)) return HF_EINVAL;
    return env->ops->mkdir(env, path);
}

enum hf_err env_rmdir(struct hf_env *env, const char *path) {
    if (!path_ok(path)) return HF_EINVAL;
    return env->ops->rmdir(env, path);
}

enum hf_err env_list(struct hf_env *env, const char *dir, bool (*fn)(void *arg, const char *name),
                     void *arg) {
    if (!path_ok(dir)) return HF_EINVAL;
    return env->ops->list(env, dir, fn, arg);
}

enum hf_err env_lock(struct hf_env *env, const char *path, int64_t *pid) {
    if (!path_ok(path)) return HF_EINVAL;
    return env->ops->lock(env, path, pid);
}

enum hf_err env_space(struct hf_env *env, uint64_t *free_bytes) {
    return env->ops->space(env, free_bytes);
}

void env_sync_begin(struct hf_env *env, struct env_sync *s) {
    assert(s->done && (s->file != NULL) != (s->dir != NULL));
    s->next = NULL;
    s->result = HF_OK;
    env->ops->sync_begin(env, s);
}

static void load_ended(struct env_sync *s, enum hf_err e) {
    struct env_load *r = env_load_of(s);
    r->done(r, e);
}

void env_load_begin(struct hf_env *env, struct env_load *r) {
    assert(r->done && r->file && range_ok(r->offset, r->n));
    r->got = 0;
    r->sync = (struct env_sync){.done = load_ended};
    env->ops->load_begin(env, r);
}

void env_load_cancel(struct hf_env *env, struct env_load *r) {
    env->ops->load_cancel(env, r);
}

size_t env_poll(struct hf_env *env) {
    return env->ops->poll(env);
}

size_t env_wait(struct hf_env *env) {
    return env->ops->wait(env);
}

struct waiting {
    bool ended;
    enum hf_err e;
};

static void wait_ended(struct env_sync *s, enum hf_err e) {
    *(struct waiting *)s->arg = (struct waiting){true, e};
}

/* A machine that has crashed runs no completion: env_wait gives 0 then. */
enum hf_err env_sync_wait(struct hf_env *env, struct hf_file *file, const char *dir) {
    struct waiting w = {0};
    struct env_sync s = {.file = file, .dir = dir, .urgent = true, .done = wait_ended, .arg = &w};
    env_sync_begin(env, &s);
    while (!w.ended)
        if (env_wait(env) == 0) return HF_ECRASHED;
    return w.e;
}

int env_poll_fd(struct hf_env *env) {
    return env->ops->poll_fd(env);
}

void hf_env_close(struct hf_env *env) {
    if (env) env->ops->end(env);
}
