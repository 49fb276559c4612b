/* The only door to the machine: clocks, random, log lines, files. Cores reach nothing else.
 *
 *     struct hf_env *env = hf_env_posix(…);   // env/posix.h        the machine
 *     struct hf_env *env = hf_sim_env(sim);   // env/sim.h          a machine that crashes on request
 *
 * Both pass one contract suite (tests/env). The code above is the same under both.
 *
 * Threads: every call is made by the core thread, but env_wall_ms, env_wall_us, env_mono_us and env_log,
 * which any thread may call. Completions of env_sync_begin run inside env_poll, on the core thread, never
 * inside env_sync_begin itself.
 *
 * After a crash of the simulated machine every call that can fail fails with HF_ECRASHED and changes
 * nothing, and no completion is delivered: the code above unwinds through its
 * ordinary error paths and is thrown away.
 *
 * What survives which crash (the contract that the simulator enforces and the store relies on):
 *   process death   everything that env_write, env_truncate, env_rename … did; of an env_write in the
 *                   middle of which the process dies, any prefix
 *   power loss      of a file: what a completed sync covered; each 512-byte sector written since may be
 *                   in any of the states it had since. A file's size likewise. A directory entry
 *                   (create, rename, unlink): what a completed sync of the directory covered; later
 *                   changes each may or may not be there.
 *   either          a discarded file that was not yet gone stays */
#ifndef ENV_ENV_H
#define ENV_ENV_H

#include "base/bytes.h"

struct hf_env;
struct hf_file;

enum { HF_SECTOR = 512 };

/* ---- time, random, log lines ---- */

/* Milliseconds since the epoch; may step in both directions. */
int64_t env_wall_ms(struct hf_env *env);
/* The same clock, for those who want to be called when it reaches a millisecond, and not somewhere in it. */
int64_t env_wall_us(struct hf_env *env);

/* Microseconds of a clock that never goes back; its zero is arbitrary. It counts time suspended. */
int64_t env_mono_us(struct hf_env *env);

/* Changes whenever the machine was started anew: relative deadlines of one boot mean nothing in another. */
uint64_t env_boot_id(struct hf_env *env);

uint64_t env_random(struct hf_env *env);

enum env_level { ENV_ERROR, ENV_WARN, ENV_INFO, ENV_DEBUG };
extern const char *const env_level_names[]; /* "error", "warn", "info", "debug" */
/* HF_EINVAL: none of the names. */
HF_CHECK enum hf_err env_level_of(const char *name, enum env_level *out);

/* One line an event: a stable event name, then key=value pairs:
 *     env_log(env, ENV_WARN, "frame_refused", "client=%s reason=\"%s\"", client, why);
 * Values with spaces are quoted by the caller. Never fails. */
void env_log(struct hf_env *env, enum env_level level, const char *event, const char *fmt, ...)
    HF_PRINTF(4, 5);

/* ---- files ---- */

enum env_open {
    ENV_READ = 0,
    ENV_WRITE = 1,  /* read and write */
    ENV_CREATE = 2, /* create if missing; implies ENV_WRITE */
    ENV_EXCL = 4,   /* with ENV_CREATE: HF_EEXIST if there */
    ENV_DIRECT = 8, /* reads go past the page cache: what the disk has. Offset, length and memory are
                       multiples of 4096 */
};

/* Paths are relative to the env's root folder, which is "."; absolute ones and ".." are HF_EINVAL.
 * HF_ENOTFOUND, HF_EEXIST, HF_EIO, HF_ENOSPC. */
HF_CHECK enum hf_err env_open(struct hf_env *env, const char *path, unsigned flags, struct hf_file **out);

/* Syncs and loads of the file must have ended, unless the simulated machine crashed: then one that was under way is
 * forgotten. */
void env_close(struct hf_file *f);

HF_CHECK enum hf_err env_size(struct hf_file *f, uint64_t *size);

/* Reads up to n bytes; *got < n only at the end of the file. Goes on after EINTR and short reads. */
HF_CHECK enum hf_err env_read(struct hf_file *f, uint64_t offset, void *p, size_t n, size_t *got);

/* Writes all n bytes, or fails: then any part of them may be there. */
HF_CHECK enum hf_err env_write(struct hf_file *f, uint64_t offset, const void *p, size_t n);

/* Reserves blocks for [offset, offset+length) and extends the size over them; new bytes read as zero.
 * A later env_write in that range cannot run out of space. HF_ENOSPC changes nothing that
 * the caller sees but possibly the reservation. */
HF_CHECK enum hf_err env_allocate(struct hf_file *f, uint64_t offset, uint64_t length);

HF_CHECK enum hf_err env_truncate(struct hf_file *f, uint64_t size);

/* ---- names ---- */

HF_CHECK enum hf_err env_rename(struct hf_env *env, const char *from, const char *to); /* replaces `to` */
HF_CHECK enum hf_err env_unlink(struct hf_env *env, const char *path);
/* As env_unlink, but beside all else, sooner or later, at the latest when the env is closed; nobody learns whether it
 * failed. For a file that nobody names any more and whose name does not come again, if many go at once. */
void env_discard(struct hf_env *env, const char *path);
HF_CHECK enum hf_err env_mkdir(struct hf_env *env, const char *path); /* HF_EEXIST if there */
HF_CHECK enum hf_err env_rmdir(struct hf_env *env, const char *path); /* empty ones only, else HF_EIO */

/* Calls fn for each entry but . and .., sorted by name; fn returns false to stop early. */
HF_CHECK enum hf_err env_list(struct hf_env *env, const char *dir, bool (*fn)(void *arg, const char *name),
                              void *arg);

/* An exclusive lock that lives as long as the process, on a file that is created and holds the pid as
 * text. HF_EAGAIN: somebody holds it; *pid is whose it is, 0 if unknown. */
HF_CHECK enum hf_err env_lock(struct hf_env *env, const char *path, int64_t *pid);

/* Free bytes of the file system that holds the root. */
HF_CHECK enum hf_err env_space(struct hf_env *env, uint64_t *free_bytes);

/* ---- sync ---- */

/* Asks that everything written to `file` (or every change of entries in directory `dir`) before this call
 * be made durable. The request belongs to the caller and must stay until done was called. */
struct env_sync {
    struct hf_file *file; /* this, or dir */
    const char *dir;
    bool urgent;  /* somebody waits for the answer (the journal); else it runs in the background */
    bool patient; /* of the background: it need not begin before env_wait, many others may come until then */
    void (*done)(struct env_sync *s, enum hf_err e);
    void *arg;
    struct env_sync *next; /* the env's own, as is result */
    enum hf_err result;
};

/* Never blocks. A failed sync (e != HF_OK in done) means that bytes are lost for good though reads still
 * show them: whoever relied on them must stop (design: a failed sync is never retried and believed). */
void env_sync_begin(struct hf_env *env, struct env_sync *s);

/* Starts writing back without waiting or promising anything; a hint. */
void env_writeback(struct hf_file *f, uint64_t offset, uint64_t n);

/* Runs completions of syncs and loads that have ended. Returns how many ran. */
size_t env_poll(struct hf_env *env);

/* As env_poll, but waits until at least one completion ran; returns 0 at once if none is under way. For
 * start and clean stop only: it blocks. */
size_t env_wait(struct hf_env *env);

/* Begins an urgent sync and polls until it has ended. For start and clean stop only: it blocks. Other
 * completions may run meanwhile. */
HF_CHECK enum hf_err env_sync_wait(struct hf_env *env, struct hf_file *file, const char *dir);

/* ---- reading in the background ---- */

/* env_read beside all else, for who must not wait for the disk. Request, file and memory belong to the caller and must
 * stay until done was called or the load was cancelled. */
struct env_load {
    struct hf_file *file;
    uint64_t offset;
    void *p;
    size_t n;
    size_t got; /* when done is called: as env_read */
    void (*done)(struct env_load *r, enum hf_err e);
    void *arg;
    struct env_sync sync; /* the env's own */
};

/* Never blocks, unless no thread can be had for it; done is called from env_poll or env_wait. One load is served at a
 * time, behind the files that were discarded before. */
void env_load_begin(struct hf_env *env, struct env_load *r);

/* One that has begun and not ended: done is not called, and the env touches nothing of it any more. Waits while the disk
 * is at it. Not from within a completion. */
void env_load_cancel(struct hf_env *env, struct env_load *r);

/* ---- crash points ---- */

/* Names a place where the order of things matters, "journal.synced" say, with a string literal. The simulator
 * crashes there and counts how often it did; in other builds it is nothing. Sources that are to be
 * simulated are compiled a second time with HF_SIMULATOR (cmake/holdfast.cmake, SIMULATED). */
#ifdef HF_SIMULATOR
void env_point(struct hf_env *env, const char *name);
/* True if this run breaks the n-th ordering rule on purpose (HF_MUTATE=n; env/sim.h). */
bool hf_mutate(int n);
#else
static inline void env_point(struct hf_env *env, const char *name) {
    (void)env;
    (void)name;
}
static inline bool hf_mutate(int n) {
    (void)n;
    return false;
}
#endif

/* ---- for edges ---- */

/* The descriptor behind a file, for sendfile; -1 in the simulator. */
int env_fd(struct hf_file *f);

/* Becomes readable when env_poll has something to do; -1 in the simulator. */
int env_poll_fd(struct hf_env *env);

/* Files are closed, syncs and loads have ended before. The simulated machine outlives it. */
void hf_env_close(struct hf_env *env);

#endif
