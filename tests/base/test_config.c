#include "base/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

struct settings {
    const char *data, *note;
    int64_t partitions, bytes, wait_ms;
    bool create, insecure;
};

static const struct hf_option rows[] = {
    {"data", HF_OPTION_TEXT, offsetof(struct settings, data), "data", 0, 0, "DIR", "where"},
    {"note", HF_OPTION_TEXT, offsetof(struct settings, note), NULL, 0, 0, "TEXT", "why"},
    {"num.partitions", HF_OPTION_INT, offsetof(struct settings, partitions), "1", 1, 100, "N", "how many"},
    {"segment.bytes", HF_OPTION_BYTES, offsetof(struct settings, bytes), "256MiB", 0, 0, "N", "how large"},
    {"wait", HF_OPTION_MS, offsetof(struct settings, wait_ms), "30s", 0, 0, "TIME", "how long"},
    {"auto.create", HF_OPTION_SWITCH, offsetof(struct settings, create), "true", 0, 0, NULL, "may"},
    {"insecure-bind", HF_OPTION_SWITCH, offsetof(struct settings, insecure), NULL, 0, 0, NULL, "dare"},
};
static const struct hf_options options = {"serve", rows, sizeof(rows) / sizeof(rows[0])};

static struct hf_config config;
static struct settings got;

#define LOAD(...) load((char *const[]){__VA_ARGS__, NULL})

static enum hf_err load(char *const *argv) {
    int argc = 0;
    while (argv[argc]) argc++;
    hf_config_fini(&config);
    return hf_config_load(&config, &options, argc, argv, &got);
}

static char *write_file(const char *text) {
    static char path[200];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/holdfast-config-XXXXXX", base ? base : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

static void fallbacks_fill_what_nobody_sets(void **state) {
    (void)state;
    assert_int_equal(load((char *const[]){NULL}), HF_OK);
    assert_string_equal(got.data, "data");
    assert_null(got.note);
    assert_int_equal(got.partitions, 1);
    assert_int_equal(got.bytes, 256 << 20);
    assert_int_equal(got.wait_ms, 30000);
    assert_true(got.create);
    assert_false(got.insecure);
}

static void flags_beat_environment_beats_file(void **state) {
    (void)state;
    char *path = write_file("data = from-file\nnum.partitions = 2\n[serve]\nwait=5s\n[work]\nthreads = 9\n");
    setenv("HOLDFAST_NUM_PARTITIONS", "3", 1);
    setenv("HOLDFAST_UNKNOWN_THING", "x", 1);
    assert_int_equal(LOAD("--config", path), HF_OK);
    assert_string_equal(got.data, "from-file");
    assert_int_equal(got.wait_ms, 5000);
    assert_int_equal(got.partitions, 3);
    assert_int_equal(LOAD("--num-partitions=4", "--config", path, "--insecure_bind", "--auto.create=false"),
                     HF_OK);
    assert_int_equal(got.partitions, 4);
    assert_true(got.insecure);
    assert_false(got.create);
    unsetenv("HOLDFAST_NUM_PARTITIONS");
    unlink(path);
}

static void errors_say_what_and_where(void **state) {
    (void)state;
    assert_int_equal(LOAD("--nonsense", "1"), HF_EINVAL);
    assert_string_equal(config.error, "unknown flag --nonsense; --help lists them");
    assert_int_equal(LOAD("--num.partitions", "0"), HF_EINVAL);
    assert_string_equal(config.error, "--num.partitions: 0 is not between 1 and 100");
    assert_int_equal(LOAD("--wait", "soon"), HF_EINVAL);
    assert_non_null(strstr(config.error, "\"soon\" is not a duration"));
    assert_int_equal(LOAD("--data"), HF_EINVAL);
    assert_string_equal(config.error, "--data needs a value");
    assert_int_equal(LOAD("--config", "/nonexistent/file"), HF_EINVAL);
    assert_non_null(strstr(config.error, "No such file"));
    assert_int_equal(LOAD("--segment.bytes", "99999999999GiB"), HF_EINVAL);
    assert_int_equal(LOAD("--auto.create=yes"), HF_EINVAL);
}

static void a_file_is_refused_for_unknown_keys_and_long_lines(void **state) {
    (void)state;
    char *path = write_file("data = x\ntypo = 1\n");
    assert_int_equal(LOAD("--config", path), HF_EINVAL);
    assert_non_null(strstr(config.error, ":2: unknown key \"typo\""));
    unlink(path);
    char text[3000] = "data = ";
    memset(text + 7, 'x', sizeof(text) - 8);
    path = write_file(text);
    assert_int_equal(LOAD("--config", path), HF_EINVAL);
    assert_non_null(strstr(config.error, ":1: the line is too long"));
    unlink(path);
    path = write_file("data = x\nwhat is this\n");
    assert_int_equal(LOAD("--config", path), HF_EINVAL);
    assert_non_null(strstr(config.error, ":2: neither"));
    unlink(path);
}

static void what_follows_two_dashes_is_left_alone(void **state) {
    (void)state;
    assert_int_equal(LOAD("list", "--data", "d", "--", "cat", "--data", "e"), HF_OK);
    assert_string_equal(got.data, "d");
    assert_int_equal(config.rest_count, 4);
    assert_true(config.dashes);
    assert_int_equal(config.dashes_at, 1);
    assert_string_equal(config.rest[0], "list");
    assert_string_equal(config.rest[1], "cat");
    assert_string_equal(config.rest[3], "e");
    assert_null(config.rest[4]);
}

static void printed_settings_load_as_the_same(void **state) {
    (void)state;
    assert_int_equal(LOAD("--wait", "250ms", "--note", "a b", "--insecure-bind", "--print-config"), HF_OK);
    assert_true(config.print);
    char text[1000] = "";
    FILE *f = fmemopen(text, sizeof(text), "w");
    hf_config_print(&options, &got, f);
    fclose(f);
    char *path = write_file(text);
    assert_int_equal(LOAD("--config", path), HF_OK);
    assert_int_equal(got.wait_ms, 250);
    assert_string_equal(got.note, "a b");
    assert_true(got.insecure);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fallbacks_fill_what_nobody_sets),
        cmocka_unit_test(flags_beat_environment_beats_file),
        cmocka_unit_test(errors_say_what_and_where),
        cmocka_unit_test(a_file_is_refused_for_unknown_keys_and_long_lines),
        cmocka_unit_test(what_follows_two_dashes_is_left_alone),
        cmocka_unit_test(printed_settings_load_as_the_same),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    hf_config_fini(&config);
    return failed;
}
