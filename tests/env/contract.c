/* The contract suite of env.h. */
#include "contract.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct contract_subject *subject;

static int setup(void **state) {
    struct contract_machine *m = calloc(1, sizeof *m);
    assert_non_null(m);
    subject->open(m);
    *state = m;
    return 0;
}

static int teardown(void **state) {
    struct contract_machine *m = *state;
    subject->close(m);
    free(m);
    return 0;
}

static struct hf_env *env_of(void **state) {
    return ((struct contract_machine *)*state)->env;
}

static struct hf_file *opened(struct hf_env *env, const char *path, unsigned flags) {
    struct hf_file *f = NULL;
    assert_int_equal(env_open(env, path, flags, &f), HF_OK);
    return f;
}

static void put(struct hf_env *env, const char *path, const char *text) {
    struct hf_file *f = opened(env, path, ENV_CREATE);
    assert_int_equal(env_write(f, 0, text, strlen(text)), HF_OK);
    env_close(f);
}

static void holds(struct hf_env *env, const char *path, const char *text) {
    char got[64] = {0};
    size_t n = 0;
    struct hf_file *f = opened(env, path, ENV_READ);
    assert_int_equal(env_read(f, 0, got, sizeof got - 1, &n), HF_OK);
    assert_string_equal(got, text);
    env_close(f);
}

static void what_was_written_is_read(void **state) {
    struct hf_file *f = opened(env_of(state), "a", ENV_CREATE);
    char got[16] = "................";
    size_t n = 99;
    uint64_t size = 99;
    assert_int_equal(env_size(f, &size), HF_OK);
    assert_int_equal(size, 0);
    assert_int_equal(env_write(f, 3, "hello", 5), HF_OK);
    assert_int_equal(env_size(f, &size), HF_OK);
    assert_int_equal(size, 8);
    assert_int_equal(env_read(f, 0, got, sizeof got, &n), HF_OK);
    assert_int_equal(n, 8); /* short at the end only */
    assert_memory_equal(got, "\0\0\0hello", 8);
    assert_int_equal(env_read(f, 8, got, 4, &n), HF_OK);
    assert_int_equal(n, 0);
    assert_int_equal(env_read(f, 1 << 20, got, 4, &n), HF_OK);
    assert_int_equal(n, 0);
    env_close(f);
}

static void open_obeys_its_flags(void **state) {
    struct hf_env *env = env_of(state);
    struct hf_file *f = (struct hf_file *)state;
    assert_int_equal(env_open(env, "a", ENV_READ, &f), HF_ENOTFOUND);
    assert_int_equal(env_open(env, "no/a", ENV_CREATE, &f), HF_ENOTFOUND);
    assert_int_equal(env_open(env, "a", ENV_EXCL, &f), HF_EINVAL);
    assert_ptr_equal(f, state); /* out-parameters stay untouched */
    env_close(opened(env, "a", ENV_CREATE | ENV_EXCL));
    assert_int_equal(env_open(env, "a", ENV_CREATE | ENV_EXCL, &f), HF_EEXIST);
    f = opened(env, "a", ENV_READ);
    assert_int_not_equal(env_write(f, 0, "x", 1), HF_OK);
    env_close(f);
}

static void paths_stay_below_the_root(void **state) {
    struct hf_env *env = env_of(state);
    static const char *const bad[] = {"", "/etc", "..", "../a", "a/../b", "a//b", "a/"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct hf_file *f;
        assert_int_equal(env_open(env, bad[i], ENV_CREATE, &f), HF_EINVAL);
        assert_int_equal(env_unlink(env, bad[i]), HF_EINVAL);
        assert_int_equal(env_mkdir(env, bad[i]), HF_EINVAL);
        assert_int_equal(env_rename(env, "a", bad[i]), HF_EINVAL);
    }
}

static void truncate_cuts_and_extends_with_zeros(void **state) {
    struct hf_file *f = opened(env_of(state), "a", ENV_CREATE);
    char got[8] = "........";
    size_t n;
    uint64_t size;
    assert_int_equal(env_write(f, 0, "abcdefgh", 8), HF_OK);
    assert_int_equal(env_truncate(f, 3), HF_OK);
    assert_int_equal(env_truncate(f, 6), HF_OK);
    assert_int_equal(env_size(f, &size), HF_OK);
    assert_int_equal(size, 6);
    assert_int_equal(env_read(f, 0, got, 8, &n), HF_OK);
    assert_int_equal(n, 6);
    assert_memory_equal(got, "abc\0\0\0", 6);
    env_close(f);
}

static void allocate_extends_with_zeros_and_keeps_bytes(void **state) {
    struct hf_file *f = opened(env_of(state), "a", ENV_CREATE);
    uint8_t got[4];
    size_t n;
    uint64_t size;
    assert_int_equal(env_write(f, 0, "abcd", 4), HF_OK);
    assert_int_equal(env_allocate(f, 0, 10000), HF_OK);
    assert_int_equal(env_size(f, &size), HF_OK);
    assert_int_equal(size, 10000);
    assert_int_equal(env_allocate(f, 0, 5000), HF_OK); /* never shrinks */
    assert_int_equal(env_size(f, &size), HF_OK);
    assert_int_equal(size, 10000);
    assert_int_equal(env_read(f, 0, got, 4, &n), HF_OK);
    assert_memory_equal(got, "abcd", 4);
    assert_int_equal(env_read(f, 9996, got, 4, &n), HF_OK);
    assert_memory_equal(got, "\0\0\0\0", 4);
    env_close(f);
}

static void rename_replaces_and_keeps_open_files(void **state) {
    struct hf_env *env = env_of(state);
    put(env, "a", "from");
    put(env, "b", "to");
    struct hf_file *old = opened(env, "b", ENV_READ), *moved = opened(env, "a", ENV_READ), *f;
    char got[5] = {0};
    size_t n;
    assert_int_equal(env_rename(env, "a", "b"), HF_OK);
    holds(env, "b", "from");
    assert_int_equal(env_open(env, "a", ENV_READ, &f), HF_ENOTFOUND);
    assert_int_equal(env_read(old, 0, got, 4, &n), HF_OK);
    assert_int_equal(n, 2);
    assert_memory_equal(got, "to", 2);
    assert_int_equal(env_read(moved, 0, got, 4, &n), HF_OK);
    assert_memory_equal(got, "from", 4);
    assert_int_equal(env_rename(env, "nothing", "b"), HF_ENOTFOUND);
    env_close(old);
    env_close(moved);
}

static void an_unlinked_file_lives_until_it_is_closed(void **state) {
    struct hf_env *env = env_of(state);
    put(env, "a", "text");
    struct hf_file *f = opened(env, "a", ENV_WRITE), *g;
    char got[4];
    size_t n;
    assert_int_equal(env_unlink(env, "a"), HF_OK);
    assert_int_equal(env_unlink(env, "a"), HF_ENOTFOUND);
    assert_int_equal(env_open(env, "a", ENV_READ, &g), HF_ENOTFOUND);
    assert_int_equal(env_write(f, 0, "T", 1), HF_OK);
    assert_int_equal(env_read(f, 0, got, 4, &n), HF_OK);
    assert_memory_equal(got, "Text", 4);
    env_close(f);
}

static void a_discarded_file_goes_sooner_or_later(void **state) {
    struct hf_env *env = env_of(state);
    put(env, "a", "text");
    put(env, "b", "stays");
    struct hf_file *f = opened(env, "a", ENV_READ), *g;
    char got[4];
    size_t n;
    env_discard(env, "a");
    env_discard(env, "nothing");
    env_discard(env, "../b");
    int64_t until = env_mono_us(env) + 60000000;
    enum hf_err e;
    while (!(e = env_open(env, "a", ENV_READ, &g))) {
        env_close(g);
        env_poll(env);
        assert_true(env_mono_us(env) < until);
    }
    assert_int_equal(e, HF_ENOTFOUND);
    assert_int_equal(env_read(f, 0, got, 4, &n), HF_OK);
    assert_memory_equal(got, "text", 4);
    env_close(f);
    holds(env, "b", "stays");
}

static void folders_are_made_and_removed(void **state) {
    struct hf_env *env = env_of(state);
    assert_int_equal(env_mkdir(env, "d"), HF_OK);
    assert_int_equal(env_mkdir(env, "d"), HF_EEXIST);
    assert_int_equal(env_mkdir(env, "no/d"), HF_ENOTFOUND);
    assert_int_equal(env_mkdir(env, "d/e"), HF_OK);
    put(env, "d/e/f", "deep");
    holds(env, "d/e/f", "deep");
    assert_int_equal(env_rmdir(env, "d/e"), HF_EIO); /* not empty */
    assert_int_equal(env_rename(env, "d/e/f", "f"), HF_OK);
    holds(env, "f", "deep");
    assert_int_equal(env_rmdir(env, "d/e"), HF_OK);
    assert_int_equal(env_rmdir(env, "d/e"), HF_ENOTFOUND);
    assert_int_equal(env_rename(env, "d", "g"), HF_OK);
    assert_int_equal(env_rmdir(env, "g"), HF_OK);
}

struct listing {
    char text[64];
    int left;
};

static bool note(void *arg, const char *name) {
    struct listing *l = arg;
    strcat(strcat(l->text, name), " ");
    return --l->left > 0;
}

static void names_come_sorted_and_a_listing_can_stop(void **state) {
    struct hf_env *env = env_of(state);
    static const char *const names[] = {"b", "B", "a", "ab", "d"};
    assert_int_equal(env_mkdir(env, "x"), HF_OK);
    for (size_t i = 0; i < 5; i++) {
        char path[8];
        snprintf(path, sizeof path, "x/%s", names[i]);
        put(env, path, "");
    }
    struct listing all = {.left = 99}, some = {.left = 2}, root = {.left = 99}, none = {.left = 1};
    assert_int_equal(env_list(env, "x", note, &all), HF_OK);
    assert_string_equal(all.text, "B a ab b d ");
    assert_int_equal(env_list(env, "x", note, &some), HF_OK);
    assert_string_equal(some.text, "B a ");
    assert_int_equal(env_list(env, ".", note, &root), HF_OK);
    assert_string_equal(root.text, "x ");
    assert_int_equal(env_list(env, "no", note, &none), HF_ENOTFOUND);
}

struct syncs {
    int ended;
    bool inside; /* set while a call is made that must not complete anything */
};

static void count_sync(struct env_sync *s, enum hf_err e) {
    struct syncs *c = s->arg;
    assert_int_equal(e, HF_OK);
    assert_false(c->inside);
    c->ended++;
}

static void syncs_complete_once_and_only_in_poll(void **state) {
    struct hf_env *env = env_of(state);
    struct hf_file *f = opened(env, "a", ENV_CREATE);
    struct syncs c = {0};
    struct env_sync s[9];
    assert_int_equal(env_write(f, 0, "x", 1), HF_OK);
    c.inside = true;
    for (size_t i = 0; i < 9; i++) {
        s[i] = (struct env_sync){.urgent = i % 2, .done = count_sync, .arg = &c};
        if (i % 3 == 0)
            s[i].dir = ".";
        else
            s[i].file = f;
        env_sync_begin(env, &s[i]);
    }
    c.inside = false;
    while (c.ended < 9) assert_int_not_equal(env_wait(env), 0);
    assert_int_equal(env_wait(env), 0);
    assert_int_equal(env_poll(env), 0);
    assert_int_equal(c.ended, 9);
    env_close(f);
}

/* More than are synced one by one (env/posix_sync.c), with others among them. */
static void thousands_of_patient_syncs_complete_once_when_they_are_waited_for(void **state) {
    enum { SYNCS = 3000 };
    struct hf_env *env = env_of(state);
    struct hf_file *f[2] = {opened(env, "a", ENV_CREATE), opened(env, "b", ENV_CREATE)};
    struct syncs c = {0};
    struct env_sync *s = calloc(SYNCS, sizeof *s);
    assert_non_null(s);
    for (int round = 0; round < 2; round++) {
        c = (struct syncs){.inside = true};
        for (size_t i = 0; i < SYNCS; i++) {
            s[i] = (struct env_sync){.urgent = i % 1000 == 7, .done = count_sync, .arg = &c};
            s[i].patient = !s[i].urgent && i % 100 != 9;
            if (i % 3 == 0)
                s[i].dir = ".";
            else
                s[i].file = f[i % 2];
            if (s[i].file) assert_int_equal(env_write(s[i].file, i, "x", 1), HF_OK);
            env_sync_begin(env, &s[i]);
        }
        c.inside = false;
        while (c.ended < SYNCS) assert_int_not_equal(env_wait(env), 0);
        assert_int_equal(env_wait(env), 0);
        assert_int_equal(c.ended, SYNCS);
    }
    free(s);
    env_close(f[0]);
    env_close(f[1]);
}

static void again(struct env_sync *s, enum hf_err e) {
    struct syncs *c = s->arg;
    assert_int_equal(e, HF_OK);
    if (++c->ended < 3) env_sync_begin(env_of(&s[1].arg), s);
}

static void a_completion_may_begin_its_request_again(void **state) {
    struct hf_env *env = env_of(state);
    struct syncs c = {0};
    struct env_sync s[2] = {{.dir = ".", .urgent = true, .done = again, .arg = &c}, {.arg = *state}};
    env_sync_begin(env, &s[0]);
    while (env_wait(env)) {}
    assert_int_equal(c.ended, 3);
}

static void waiting_for_one_sync_runs_the_others_completions(void **state) {
    struct hf_env *env = env_of(state);
    struct hf_file *f = opened(env, "a", ENV_CREATE);
    struct syncs c = {0};
    struct env_sync s = {.file = f, .done = count_sync, .arg = &c};
    env_sync_begin(env, &s);
    assert_int_equal(env_sync_wait(env, f, NULL), HF_OK);
    assert_int_equal(env_sync_wait(env, NULL, "."), HF_OK);
    while (env_wait(env)) {}
    assert_int_equal(c.ended, 1);
    env_close(f);
}

struct loads {
    int ended;
    enum hf_err e;
};

static void count_load(struct env_load *r, enum hf_err e) {
    struct loads *c = r->arg;
    c->ended++;
    c->e = e;
}

static void loads_read_and_complete_in_poll(void **state) {
    struct hf_env *env = env_of(state);
    struct hf_file *f = opened(env, "a", ENV_CREATE);
    struct loads c = {0};
    char bytes[2][8] = {"", ""};
    assert_int_equal(env_write(f, 0, "0123456789", 10), HF_OK);
    struct env_load r[2] = {{.file = f, .offset = 3, .p = bytes[0], .n = 5, .done = count_load, .arg = &c},
                            {.file = f, .offset = 8, .p = bytes[1], .n = 8, .done = count_load, .arg = &c}};
    env_load_begin(env, &r[0]);
    env_load_begin(env, &r[1]);
    assert_int_equal(c.ended, 0);
    while (env_wait(env)) {}
    assert_int_equal(c.ended, 2);
    assert_int_equal(c.e, HF_OK);
    assert_int_equal(r[0].got, 5);
    assert_memory_equal(bytes[0], "34567", 5);
    assert_int_equal(r[1].got, 2);
    assert_memory_equal(bytes[1], "89", 2);
    env_close(f);
}

/* Wherever it is by then: with others in front of it, being read, or read. */
static void a_cancelled_load_is_never_heard_of(void **state) {
    struct hf_env *env = env_of(state);
    struct hf_file *f = opened(env, "a", ENV_CREATE);
    struct loads c = {0}, cancelled = {0};
    char bytes[2][8];
    assert_int_equal(env_write(f, 0, "0123456789", 10), HF_OK);
    for (int i = 0; i < 300; i++) {
        struct env_load first = {.file = f, .p = bytes[0], .n = 8, .done = count_load, .arg = &c};
        struct env_load second = {.file = f, .p = bytes[1], .n = 8, .done = count_load, .arg = &cancelled};
        if (i % 3 == 0) env_load_begin(env, &first);
        env_load_begin(env, &second);
        struct pollfd ready = {.fd = env_poll_fd(env), .events = POLLIN};
        if (i % 2 && ready.fd >= 0) (void)poll(&ready, 1, 30000);
        env_load_cancel(env, &second);
        while (env_wait(env)) {}
        if (i % 3 == 0) assert_int_equal(first.got, 8);
        for (int k = 0; k < 1000 && poll(&ready, ready.fd >= 0, 0) > 0; k++) (void)env_poll(env);
        assert_int_equal(poll(&ready, ready.fd >= 0, 0),
                         0); /* nothing is announced for ever that is not there */
    }
    assert_int_equal(c.ended, 100);
    assert_int_equal(cancelled.ended, 0);
    env_close(f);
}

static void direct_reads_see_what_was_synced(void **state) {
    struct hf_env *env = env_of(state);
    struct hf_file *f = opened(env, "a", ENV_CREATE);
    uint8_t *p = aligned_alloc(4096, 8192);
    size_t n = 0;
    assert_non_null(p);
    memset(p, 'x', 8192);
    assert_int_equal(env_write(f, 0, p, 8192), HF_OK);
    assert_int_equal(env_sync_wait(env, f, NULL), HF_OK);
    struct hf_file *d = opened(env, "a", ENV_READ | ENV_DIRECT);
    memset(p, 0, 8192);
    assert_int_equal(env_read(d, 4096, p, 4096, &n), HF_OK);
    assert_int_equal(n, 4096);
    assert_int_equal(p[0], 'x');
    assert_int_equal(p[4095], 'x');
    free(p);
    env_close(d);
    env_close(f);
}

static void clocks_go_on_and_random_differs(void **state) {
    struct hf_env *env = env_of(state);
    int64_t a = env_mono_us(env), b = env_mono_us(env);
    assert_true(b >= a);
    assert_true(env_wall_ms(env) > INT64_C(1600000000000));
    assert_int_equal(env_boot_id(env), env_boot_id(env));
    assert_int_not_equal(env_random(env), env_random(env));
    env_log(env, ENV_DEBUG, "contract", "n=%d", 1);
}

static void free_space_is_told(void **state) {
    uint64_t bytes = 0;
    assert_int_equal(env_space(env_of(state), &bytes), HF_OK);
    assert_true(bytes > 0);
}

int contract_run(const struct contract_subject *s) {
    subject = s;
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_is_read),
        TEST(open_obeys_its_flags),
        TEST(paths_stay_below_the_root),
        TEST(truncate_cuts_and_extends_with_zeros),
        TEST(allocate_extends_with_zeros_and_keeps_bytes),
        TEST(rename_replaces_and_keeps_open_files),
        TEST(an_unlinked_file_lives_until_it_is_closed),
        TEST(a_discarded_file_goes_sooner_or_later),
        TEST(folders_are_made_and_removed),
        TEST(names_come_sorted_and_a_listing_can_stop),
        TEST(syncs_complete_once_and_only_in_poll),
        TEST(thousands_of_patient_syncs_complete_once_when_they_are_waited_for),
        TEST(a_completion_may_begin_its_request_again),
        TEST(loads_read_and_complete_in_poll),
        TEST(a_cancelled_load_is_never_heard_of),
        TEST(waiting_for_one_sync_runs_the_others_completions),
        TEST(direct_reads_see_what_was_synced),
        TEST(clocks_go_on_and_random_differs),
        TEST(free_space_is_told),
    };
    return cmocka_run_group_tests_name(s->name, tests, NULL, NULL);
}
