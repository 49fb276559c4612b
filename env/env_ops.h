/* For implementations of env.h: embed struct hf_env and struct hf_file as first members and fill the table.
 * Each entry is the contract of the function of the same name in env.h; paths have been checked. */
#ifndef ENV_ENV_OPS_H
#define ENV_ENV_OPS_H

#include "env.h"

#include <stdarg.h>
#include <stddef.h>

struct env_ops {
    int64_t (*wall_us)(struct hf_env *env);
    int64_t (*mono_us)(struct hf_env *env);
    uint64_t (*boot_id)(struct hf_env *env);
    uint64_t (*random)(struct hf_env *env);
    void (*log)(struct hf_env *env, enum env_level level, const char *event, const char *fmt, va_list values);

    enum hf_err (*open)(struct hf_env *env, const char *path, unsigned flags, struct hf_file **out);
    void (*close)(struct hf_file *f);
    enum hf_err (*size)(struct hf_file *f, uint64_t *size);
    enum hf_err (*read)(struct hf_file *f, uint64_t offset, void *p, size_t n, size_t *got);
    enum hf_err (*write)(struct hf_file *f, uint64_t offset, const void *p, size_t n);
    enum hf_err (*allocate)(struct hf_file *f, uint64_t offset, uint64_t length);
    enum hf_err (*truncate)(struct hf_file *f, uint64_t size);
    void (*writeback)(struct hf_file *f, uint64_t offset, uint64_t n);
    int (*fd)(struct hf_file *f);

    enum hf_err (*rename)(struct hf_env *env, const char *from, const char *to);
    enum hf_err (*unlink)(struct hf_env *env, const char *path);
    void (*discard)(struct hf_env *env, const char *path);
    enum hf_err (*mkdir)(struct hf_env *env, const char *path);
    enum hf_err (*rmdir)(struct hf_env *env, const char *path);
    enum hf_err (*list)(struct hf_env *env, const char *dir, bool (*fn)(void *arg, const char *name),
                        void *arg);
    enum hf_err (*lock)(struct hf_env *env, const char *path, int64_t *pid);
    enum hf_err (*space)(struct hf_env *env, uint64_t *free_bytes);

    void (*sync_begin)(struct hf_env *env, struct env_sync *s);
    void (*load_begin)(struct hf_env *env, struct env_load *r); /* its sync.done is to be called */
    void (*load_cancel)(struct hf_env *env, struct env_load *r);
    size_t (*poll)(struct hf_env *env);
    size_t (*wait)(struct hf_env *env);
    int (*poll_fd)(struct hf_env *env);
    void (*end)(struct hf_env *env);
};

/* The load whose own request this is. */
static inline struct env_load *env_load_of(struct env_sync *s) {
    return (struct env_load *)((char *)s - offsetof(struct env_load, sync));
}

struct hf_env {
    const struct env_ops *ops;
};

struct hf_file {
    struct hf_env *env;
};

#endif
