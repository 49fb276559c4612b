/* The contract suite on the machine itself, and what only it has: the lock between processes, log lines. */
#include "contract.h"
#include "env/posix.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char *make_folder(void) {
    const char *base = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof path, "%s/hf-env-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_folder(char *path) {
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(path);
}

static void posix_machine_open(struct contract_machine *m) {
    m->more = make_folder();
    struct env_posix_options options = {.root = m->more};
    assert_int_equal(env_posix_open(&options, &m->env), HF_OK);
}

static void posix_machine_close(struct contract_machine *m) {
    hf_env_close(m->env);
    remove_folder(m->more);
}

static void the_root_is_made_but_not_its_parent(void **state) {
    (void)state;
    char *folder = make_folder(), path[300];
    struct hf_env *env = NULL;
    snprintf(path, sizeof path, "%s/a/b", folder);
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = path}, &env), HF_ENOTFOUND);
    assert_null(env);
    snprintf(path, sizeof path, "%s/a", folder);
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = path}, &env), HF_OK);
    hf_env_close(env);
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = path}, &env), HF_OK);
    hf_env_close(env);
    remove_folder(folder);
}

/* A child takes the lock, says so, and holds it until it is killed. */
static pid_t holder(const char *folder) {
    int said[2];
    assert_int_equal(pipe(said), 0);
    pid_t child = fork();
    if (child == 0) {
        struct hf_env *env;
        int64_t pid;
        bool ok = env_posix_open(&(struct env_posix_options){.root = folder}, &env) == HF_OK &&
                  env_lock(env, "LOCK", &pid) == HF_OK && write(said[1], "x", 1) == 1;
        for (;;) ok ? pause() : _exit(1);
    }
    char c;
    close(said[1]);
    assert_int_equal(read(said[0], &c, 1), 1);
    close(said[0]);
    return child;
}

static void the_lock_names_its_holder_and_dies_with_it(void **state) {
    (void)state;
    char *folder = make_folder();
    pid_t child = holder(folder);
    struct hf_env *env;
    int64_t pid = 0;
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = folder}, &env), HF_OK);
    assert_int_equal(env_lock(env, "LOCK", &pid), HF_EAGAIN);
    assert_int_equal(pid, child);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(env_lock(env, "LOCK", &pid), HF_OK);
    assert_int_equal(env_lock(env, "LOCK", &pid), HF_EAGAIN); /* ours: refused all the same */
    assert_int_equal(pid, getpid());
    hf_env_close(env);
    remove_folder(folder);
}

/* How many descriptors of this process are of a deleted file of that name. */
static size_t held_open(const char *name) {
    size_t n = 0;
    for (int fd = 0; fd < 1024; fd++) {
        char link[64], path[512];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(link, path, sizeof path - 1);
        if (size < 0) continue;
        path[size] = 0;
        if (strstr(path, name) && strstr(path, "(deleted)")) n++;
    }
    return n;
}

static void a_large_deleted_file_is_closed_in_the_background(void **state) {
    (void)state;
    enum { SIZE = 4 << 20 };
    char *folder = make_folder();
    struct hf_env *env;
    struct hf_file *f;
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = folder}, &env), HF_OK);
    for (int round = 0; round < 2; round++) {
        uint8_t *bytes = calloc(1, SIZE);
        assert_non_null(bytes);
        assert_int_equal(env_open(env, "gone.large", ENV_CREATE, &f), HF_OK);
        assert_int_equal(env_write(f, 0, bytes, SIZE), HF_OK);
        free(bytes);
        assert_int_equal(env_unlink(env, "gone.large"), HF_OK);
        assert_int_equal(held_open("gone.large"), 1);
        env_close(f);
        int64_t until = env_mono_us(env) + 60000000;
        while (round == 0 && held_open("gone.large") > 0) assert_true(env_mono_us(env) < until);
    }
    hf_env_close(env); /* not before the second is closed too */
    assert_int_equal(held_open("gone.large"), 0);
    remove_folder(folder);
}

static void what_was_discarded_is_gone_when_the_env_is_closed(void **state) {
    (void)state;
    enum { FILES = 200 };
    char *folder = make_folder(), path[300];
    struct hf_env *env;
    struct hf_file *f;
    assert_int_equal(env_posix_open(&(struct env_posix_options){.root = folder}, &env), HF_OK);
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof path, "%d", i);
        assert_int_equal(env_open(env, path, ENV_CREATE, &f), HF_OK);
        env_close(f);
    }
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof path, "%d", i);
        env_discard(env, path);
    }
    hf_env_close(env);
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof path, "%s/%d", folder, i);
        assert_int_equal(access(path, F_OK), -1);
    }
    remove_folder(folder);
}

static void a_log_line_is_one_line_whatever_it_holds(void **state) {
    (void)state;
    char *folder = make_folder(), text[8192] = {0}, path[300];
    snprintf(path, sizeof path, "%s/lines", folder);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    struct hf_env *env;
    struct env_posix_options options = {.root = folder, .log_fd = fd, .level = ENV_INFO};
    assert_int_equal(env_posix_open(&options, &env), HF_OK);
    char *huge = calloc(1, 10001);
    memset(huge, 'h', 10000);
    env_log(env, ENV_DEBUG, "hidden", "x=1");
    env_log(env, ENV_WARN, "frame_refused", "client=%s n=%d", "a\nb\x1b[31m", 7);
    env_log(env, ENV_INFO, "long", "x=%s", huge);
    hf_env_close(env);
    free(huge);
    assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[23], 'Z');
    assert_memory_equal(text + 24, " warn frame_refused client=a?b?[31m n=7\n", 40);
    size_t n = strlen(text + 64);
    assert_int_equal(n, 4096);
    assert_int_equal(text[64 + n - 1], '\n');
    assert_null(strstr(text, "hidden"));
    close(fd);
    remove_folder(folder);
}

int main(void) {
    const struct contract_subject posix = {"posix", posix_machine_open, posix_machine_close};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_root_is_made_but_not_its_parent),
        cmocka_unit_test(the_lock_names_its_holder_and_dies_with_it),
        cmocka_unit_test(a_large_deleted_file_is_closed_in_the_background),
        cmocka_unit_test(what_was_discarded_is_gone_when_the_env_is_closed),
        cmocka_unit_test(a_log_line_is_one_line_whatever_it_holds),
    };
    int failed = contract_run(&posix);
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
