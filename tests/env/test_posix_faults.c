/* The contract suite on the machine, with every system call interrupted before it works (EINTR) and every
 * read and write of more than one byte cut short: what the callers of env.h never see. The linker sends the
 * calls of env/posix*.c here (--wrap). Whatever the disk is, it passes for ext4 of a new kernel: many syncs go by
 * one syncfs.
 *
 * And a lock whose pid was written in such pieces names its holder, and a syncfs that fails, or the fdatasync
 * behind it, is a failure of every sync that it was called for. */
#include "contract.h"
#include "env/posix.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#define WRAPPED(type, name, arguments)                                                                       \
    type __real_##name arguments;                                                                            \
    type __wrap_##name arguments
WRAPPED(int, openat, (int dir, const char *path, int flags, mode_t mode));
WRAPPED(ssize_t, pread, (int fd, void *p, size_t n, off_t offset));
WRAPPED(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t offset));
WRAPPED(int, ftruncate, (int fd, off_t size));
WRAPPED(int, posix_fallocate, (int fd, off_t offset, off_t n));
WRAPPED(int, fdatasync, (int fd));
WRAPPED(int, fsync, (int fd));
WRAPPED(int, syncfs, (int fd));
WRAPPED(int, fstatfs, (int fd, struct statfs *out));
WRAPPED(int, uname, (struct utsname * out));

enum call { OPENAT, PREAD, PWRITE, FTRUNCATE, FALLOCATE, FDATASYNC, FSYNC, SYNCFS, CALLS };
static const char *const names[CALLS] = {"openat",          "pread",     "pwrite", "ftruncate",
                                         "posix_fallocate", "fdatasync", "fsync",  "syncfs"};
static atomic_uint interrupted[CALLS], shortened;
static atomic_int failing = CALLS; /* every call of this kind fails */
static atomic_uint failures;

/* Each thread's every other call of a kind is interrupted: the next try goes through. */
static bool is_interrupted(enum call call) {
    static _Thread_local bool again[CALLS];
    again[call] = !again[call];
    if (again[call]) atomic_fetch_add(&interrupted[call], 1);
    return again[call];
}

static bool fails(enum call call) {
    if (atomic_load(&failing) != (int)call) return false;
    atomic_fetch_add(&failures, 1);
    errno = EIO;
    return true;
}

/* Direct reads come in whole blocks. */
static size_t short_of(size_t n) {
    size_t part = n % 4096 ? (n + 1) / 2 : n > 4096 ? n / 4096 / 2 * 4096 : n;
    if (part < n) atomic_fetch_add(&shortened, 1);
    return part;
}

int __wrap_openat(int dir, const char *path, int flags, mode_t mode) {
    if (!is_interrupted(OPENAT)) return __real_openat(dir, path, flags, mode);
    errno = EINTR;
    return -1;
}

ssize_t __wrap_pread(int fd, void *p, size_t n, off_t offset) {
    if (!is_interrupted(PREAD)) return __real_pread(fd, p, short_of(n), offset);
    errno = EINTR;
    return -1;
}

ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t offset) {
    if (!is_interrupted(PWRITE)) return __real_pwrite(fd, p, short_of(n), offset);
    errno = EINTR;
    return -1;
}

int __wrap_ftruncate(int fd, off_t size) {
    if (!is_interrupted(FTRUNCATE)) return __real_ftruncate(fd, size);
    errno = EINTR;
    return -1;
}

int __wrap_posix_fallocate(int fd, off_t offset, off_t n) {
    return is_interrupted(FALLOCATE) ? EINTR : __real_posix_fallocate(fd, offset, n);
}

int __wrap_fdatasync(int fd) {
    if (fails(FDATASYNC)) return -1;
    if (!is_interrupted(FDATASYNC)) return __real_fdatasync(fd);
    errno = EINTR;
    return -1;
}

int __wrap_fsync(int fd) {
    if (!is_interrupted(FSYNC)) return __real_fsync(fd);
    errno = EINTR;
    return -1;
}

int __wrap_syncfs(int fd) {
    if (fails(SYNCFS)) return -1;
    if (!is_interrupted(SYNCFS)) return __real_syncfs(fd);
    errno = EINTR;
    return -1;
}

int __wrap_fstatfs(int fd, struct statfs *out) {
    int bad = __real_fstatfs(fd, out);
    out->f_type = 0xEF53;
    return bad;
}

int __wrap_uname(struct utsname *out) {
    int bad = __real_uname(out);
    strcpy(out->release, "6.1.0");
    return bad;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void machine_open(struct contract_machine *m) {
    const char *base = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof path, "%s/hf-env-faults-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    m->more = strdup(path);
    struct env_posix_options options = {.root = m->more};
    assert_int_equal(env_posix_open(&options, &m->env), HF_OK);
}

static void machine_close(struct contract_machine *m) {
    hf_env_close(m->env);
    nftw(m->more, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(m->more);
}

static void a_pid_written_in_pieces_names_the_holder(void **state) {
    (void)state;
    struct contract_machine m;
    int64_t pid = 0;
    machine_open(&m);
    assert_int_equal(env_lock(m.env, "LOCK", &pid), HF_OK);
    assert_int_equal(env_lock(m.env, "LOCK", &pid), HF_EAGAIN);
    assert_int_equal(pid, getpid());
    machine_close(&m);
}

enum { MANY = 300 }; /* more than are synced one by one (env/posix_internal.h) */

struct ended {
    unsigned good, failed;
};

static void count_result(struct env_sync *s, enum hf_err e) {
    struct ended *ended = s->arg;
    assert_true(e == HF_OK || e == HF_EIO);
    if (e)
        ended->failed++;
    else
        ended->good++;
}

/* Of a folder and a file, all at once. */
static struct ended sync_many(struct hf_env *env) {
    struct env_sync s[MANY];
    struct ended ended = {0};
    struct hf_file *f;
    assert_int_equal(env_open(env, "a", ENV_CREATE, &f), HF_OK);
    assert_int_equal(env_write(f, 0, "x", 1), HF_OK);
    for (size_t i = 0; i < MANY; i++) {
        s[i] = (struct env_sync){.patient = true, .done = count_result, .arg = &ended};
        if (i % 2)
            s[i].dir = ".";
        else
            s[i].file = f;
        env_sync_begin(env, &s[i]);
    }
    while (env_wait(env)) {}
    env_close(f);
    return ended;
}

static void a_sync_of_all_that_fails_is_told_to_each(void **state) {
    (void)state;
    struct contract_machine m;
    const enum call calls[] = {SYNCFS, FDATASYNC, CALLS};
    machine_open(&m);
    for (size_t i = 0; i < 3; i++) {
        atomic_store(&failures, 0);
        atomic_store(&failing, (int)calls[i]);
        struct ended ended = sync_many(m.env);
        bool failure = calls[i] != CALLS;
        assert_int_equal(atomic_load(&failures), failure); /* one call served them all */
        assert_int_equal(ended.failed, failure ? MANY : 0);
        assert_int_equal(ended.good, failure ? 0 : MANY);
    }
    machine_close(&m);
}

static void every_call_was_interrupted(void **state) {
    (void)state;
    for (int i = 0; i < CALLS; i++) {
        printf("%s was interrupted %u times\n", names[i], atomic_load(&interrupted[i]));
        assert_true(atomic_load(&interrupted[i]) > 0);
    }
    printf("%u reads and writes were cut short\n", atomic_load(&shortened));
    assert_true(atomic_load(&shortened) > 0);
}

int main(void) {
    const struct contract_subject subject = {"posix, interrupted", machine_open, machine_close};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pid_written_in_pieces_names_the_holder),
        cmocka_unit_test(a_sync_of_all_that_fails_is_told_to_each),
        cmocka_unit_test(every_call_was_interrupted),
    };
    int failed = contract_run(&subject);
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
