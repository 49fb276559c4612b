/* The contract suite on the machine, with every system call interrupted before it works (EINTR) and every
 * read and write of more than one byte cut short: what the callers of env.h never see. The linker sends the
 * calls of env/posix*.c here (--wrap).
 *
 * And a lock whose pid was written in such pieces names its holder. */
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

enum call { OPENAT, PREAD, PWRITE, FTRUNCATE, FALLOCATE, FDATASYNC, FSYNC, CALLS };
static const char *const names[CALLS] = {"openat",          "pread",     "pwrite", "ftruncate",
                                         "posix_fallocate", "fdatasync", "fsync"};
static atomic_uint interrupted[CALLS], shortened;

/* Each thread's every other call of a kind is interrupted: the next try goes through. */
static bool is_interrupted(enum call call) {
    static _Thread_local bool again[CALLS];
    again[call] = !again[call];
    if (again[call]) atomic_fetch_add(&interrupted[call], 1);
    return again[call];
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
    if (!is_interrupted(FDATASYNC)) return __real_fdatasync(fd);
    errno = EINTR;
    return -1;
}

int __wrap_fsync(int fd) {
    if (!is_interrupted(FSYNC)) return __real_fsync(fd);
    errno = EINTR;
    return -1;
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
        cmocka_unit_test(every_call_was_interrupted),
    };
    int failed = contract_run(&subject);
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
