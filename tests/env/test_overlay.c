/* The contract suite on an overlay over a simulated machine, and what only it does: leave the one below
 * alone. */
#include "contract.h"
#include "env/overlay.h"
#include "env/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void overlay_machine_open(struct contract_machine *m) {
    struct hf_sim *sim;
    assert_int_equal(hf_sim_open(1, &(struct hf_sim_options){0}, &sim), HF_OK);
    assert_int_equal(env_overlay_open(hf_sim_env(sim), &m->env), HF_OK);
    m->more = sim;
}

static void overlay_machine_close(struct contract_machine *m) {
    hf_env_close(m->env);
    hf_sim_close(m->more);
}

enum { LONG = 3 * 4096 + 100 };

struct below {
    struct hf_sim *sim;
    struct hf_env *env, *copy;
};

static void write_at(struct hf_env *env, const char *path, uint64_t at, const void *p, size_t n) {
    struct hf_file *f;
    assert_int_equal(env_open(env, path, ENV_CREATE, &f), HF_OK);
    assert_int_equal(env_write(f, at, p, n), HF_OK);
    env_close(f);
}

/* Folder "a" with a file of LONG times 'x', and the overlay. */
static void below_open(struct below *b) {
    static char bytes[LONG];
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(hf_sim_open(2, &(struct hf_sim_options){0}, &b->sim), HF_OK);
    b->env = hf_sim_env(b->sim);
    assert_int_equal(env_mkdir(b->env, "a"), HF_OK);
    write_at(b->env, "a/long", 0, bytes, sizeof bytes);
    assert_int_equal(env_overlay_open(b->env, &b->copy), HF_OK);
}

static void below_close(struct below *b) {
    hf_env_close(b->copy);
    hf_sim_close(b->sim);
}

/* How many bytes are `c`, of `size` there must be. */
static size_t count(struct hf_env *env, const char *path, char c, size_t size) {
    static char bytes[4 * LONG];
    struct hf_file *f;
    size_t got, n = 0;
    assert_int_equal(env_open(env, path, ENV_READ, &f), HF_OK);
    assert_int_equal(env_read(f, 0, bytes, sizeof bytes, &got), HF_OK);
    assert_int_equal(got, size);
    env_close(f);
    for (size_t i = 0; i < got; i++) n += bytes[i] == c;
    return n;
}

static void what_is_written_stays_above(void **state) {
    struct below b;
    (void)state;
    below_open(&b);
    assert_int_equal(count(b.copy, "a/long", 'x', LONG), LONG);
    write_at(b.copy, "a/long", 4090, "yyyyyyyyyy", 10); /* over the edge of a page */
    write_at(b.copy, "a/long", LONG, "z", 1);
    assert_int_equal(count(b.copy, "a/long", 'y', LONG + 1), 10);
    assert_int_equal(count(b.copy, "a/long", 'x', LONG + 1), LONG - 10);
    assert_int_equal(count(b.env, "a/long", 'x', LONG), LONG);
    below_close(&b);
}

static void names_change_above_only(void **state) {
    struct below b;
    (void)state;
    below_open(&b);
    assert_int_equal(env_mkdir(b.copy, "trash"), HF_OK);
    assert_int_equal(env_rename(b.copy, "a", "trash/a"), HF_OK);
    assert_int_equal(count(b.copy, "trash/a/long", 'x', LONG), LONG);
    assert_int_equal(env_unlink(b.copy, "trash/a/long"), HF_OK);
    assert_int_equal(env_rmdir(b.copy, "trash/a"), HF_OK);
    assert_int_equal(count(b.env, "a/long", 'x', LONG), LONG);
    struct hf_file *f;
    assert_int_equal(env_open(b.env, "trash", ENV_READ, &f), HF_ENOTFOUND);
    below_close(&b);
}

static void what_was_cut_does_not_come_back(void **state) {
    struct below b;
    struct hf_file *f;
    (void)state;
    below_open(&b);
    assert_int_equal(env_open(b.copy, "a/long", ENV_WRITE, &f), HF_OK);
    assert_int_equal(env_truncate(f, 5000), HF_OK);
    assert_int_equal(env_truncate(f, LONG), HF_OK);
    env_close(f);
    assert_int_equal(count(b.copy, "a/long", 'x', LONG), 5000);
    assert_int_equal(count(b.copy, "a/long", 0, LONG), LONG - 5000);
    write_at(b.copy, "a/long", 5001, "y", 1);
    assert_int_equal(count(b.copy, "a/long", 'x', LONG), 5000);
    below_close(&b);
}

int main(void) {
    static const struct contract_subject subject = {"overlay", overlay_machine_open, overlay_machine_close};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_stays_above),
        cmocka_unit_test(names_change_above_only),
        cmocka_unit_test(what_was_cut_does_not_come_back),
    };
    return contract_run(&subject) + cmocka_run_group_tests(tests, NULL, NULL);
}
