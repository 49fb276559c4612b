/* Damage: found where it is, told with its place, and never served; what can be made again is. */
#include "fixture.h"

#include "store/log/log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { MESSAGES = 600 };

/* ---- what was told ---- */

static struct {
    int damages, rebuilt;
    char file[400];
    uint64_t byte;
} told;

static void note(void *arg, const struct log_damage *d) {
    (void)arg;
    told.damages += !d->rebuilt;
    told.rebuilt += d->rebuilt;
    snprintf(told.file, sizeof told.file, "%s", d->file);
    told.byte = d->byte;
}

/* ---- a store with closed segments ---- */

static void fill(struct fixture *f, uint64_t seed) {
    fixture_open(f, seed);
    fixture_create(f, "t", (struct log_topic_config){.partitions = 1});
    for (int i = 0; i < MESSAGES; i++) {
        char text[32];
        snprintf(text, sizeof text, "message %d", i);
        assert_int_equal(append(f, "t", text, LOG_ACK_WRITTEN), i);
    }
    f->options.damaged = note;
    memset(&told, 0, sizeof told);
}

struct found {
    char name[64];
    int which;
};

static bool pick(void *arg, const char *name) {
    struct found *x = arg;
    const char *dot = strrchr(name, '.');
    if (dot && strcmp(dot, ".log") == 0 && x->which-- == 0) snprintf(x->name, sizeof x->name, "%.20s", name);
    return true;
}

/* "topics/t-0/<base of the n-th segment>.<ext>" */
static const char *file(struct fixture *f, int n, const char *ext) {
    static char path[128];
    struct found x = {.which = n};
    assert_int_equal(env_list(f->env, "topics/t-0", pick, &x), HF_OK);
    snprintf(path, sizeof path, "topics/t-0/%s.%s", x.name, ext);
    return path;
}

static int64_t base(struct fixture *f, int n) {
    return strtoll(file(f, n, "log") + strlen("topics/t-0/"), NULL, 10);
}

/* A reader gets behind a damaged stretch by the index, whose entries lie 4 KiB apart: so many are lost beside
 * it. Offsets that can be read, one fetch of one batch after the other. */
static int readable(struct fixture *f, int64_t from, int64_t to) {
    int n = 0;
    for (int64_t i = from; i < to; i++) {
        struct log_slice s;
        enum hf_err e = log_read(f->log, log_partition(f->log, HF_STR("t"), 0), i, 1, true, &s);
        assert_true(e == HF_OK || e == HF_ECORRUPT);
        if (e) continue;
        assert_int_equal(s.first_offset, i);
        n++;
        log_pin_release(s.pin);
    }
    return n;
}

static void a_damaged_stretch_is_refused_and_all_else_is_served(void **state) {
    struct fixture f;
    (void)state;
    fill(&f, 1);
    fixture_stop(&f);
    char path[128];
    snprintf(path, sizeof path, "%s", file(&f, 1, "log"));
    assert_int_equal(hf_sim_damage(f.sim, path, 5000, 4), HF_OK);
    fixture_start(&f);
    int n = readable(&f, 0, MESSAGES);
    assert_in_range(n, MESSAGES - 110, MESSAGES - 1);
    assert_int_equal(told.damages, 1);
    assert_int_equal(told.rebuilt, 0);
    assert_string_equal(told.file, path);
    assert_in_range(told.byte, 5000 - 100, 5000);
    fixture_close(&f);
}

static void an_offset_that_no_checksum_covers_is_proven_by_the_chain(void **state) {
    struct fixture f;
    (void)state;
    fill(&f, 2);
    fixture_stop(&f);
    assert_int_equal(hf_sim_damage(f.sim, file(&f, 1, "log"), 7, 1), HF_OK);  /* base offset */
    assert_int_equal(hf_sim_damage(f.sim, file(&f, 2, "log"), 15, 1), HF_OK); /* leader epoch */
    fixture_start(&f);
    assert_in_range(readable(&f, 0, MESSAGES), MESSAGES - 220, MESSAGES - 1);
    assert_int_equal(told.damages, 2);
    fixture_close(&f);
}

static void an_index_and_a_manifest_are_made_again(void **state) {
    struct fixture f;
    (void)state;
    static const char *const ext[] = {"index", "timeindex", "manifest"};
    fill(&f, 3);
    for (int i = 0; i < 3; i++) {
        fixture_stop(&f);
        memset(&told, 0, sizeof told);
        char path[128];
        snprintf(path, sizeof path, "%s", file(&f, i, ext[i]));
        assert_int_equal(hf_sim_damage(f.sim, path, 3, 16), HF_OK);
        fixture_start(&f);
        assert_int_equal(readable(&f, 0, MESSAGES), MESSAGES);
        assert_int_equal(told.damages, 0);
        assert_int_equal(told.rebuilt, 1);
        assert_string_equal(told.file, path);
        assert_int_equal(told.byte, 3);
    }
    fixture_stop(&f);
    memset(&told, 0, sizeof told);
    fixture_start(&f);
    assert_int_equal(readable(&f, 0, MESSAGES), MESSAGES);
    assert_int_equal(told.rebuilt, 0); /* once is enough */
    fixture_close(&f);
}

static void swapped_segments_are_not_served(void **state) {
    struct fixture f;
    (void)state;
    fill(&f, 4);
    fixture_stop(&f);
    char a[128], b[128];
    int64_t from = base(&f, 0), to = base(&f, 2);
    snprintf(a, sizeof a, "%s", file(&f, 0, "log"));
    snprintf(b, sizeof b, "%s", file(&f, 1, "log"));
    assert_int_equal(env_rename(f.env, a, "x"), HF_OK);
    assert_int_equal(env_rename(f.env, b, a), HF_OK);
    assert_int_equal(env_rename(f.env, "x", b), HF_OK);
    fixture_start(&f);
    assert_int_equal(readable(&f, from, to), 0);
    assert_true(told.damages >= 2);
    assert_int_equal(readable(&f, to, MESSAGES), MESSAGES - to);
    fixture_close(&f);
}

static void a_missing_segment_is_no_gap(void **state) {
    struct fixture f;
    (void)state;
    fill(&f, 5);
    fixture_stop(&f);
    static const char *const ext[] = {"log", "index", "timeindex", "manifest"};
    int64_t from = base(&f, 1), to = base(&f, 2);
    char name[4][128];
    for (int i = 0; i < 4; i++) snprintf(name[i], sizeof name[i], "%s", file(&f, 1, ext[i]));
    for (int i = 0; i < 4; i++) assert_int_equal(env_unlink(f.env, name[i]), HF_OK);
    fixture_start(&f);
    assert_int_equal(readable(&f, from, to), 0);
    assert_int_equal(told.damages, 1);
    assert_int_equal(readable(&f, 0, from), from);
    assert_int_equal(readable(&f, to, MESSAGES), MESSAGES - to);
    fixture_close(&f);
}

static void a_cut_segment_keeps_what_is_left(void **state) {
    struct fixture f;
    (void)state;
    fill(&f, 6);
    fixture_stop(&f);
    struct hf_file *x;
    assert_int_equal(env_open(f.env, file(&f, 1, "log"), ENV_WRITE, &x), HF_OK);
    assert_int_equal(env_truncate(x, 8000), HF_OK);
    env_close(x);
    int64_t from = base(&f, 1), to = base(&f, 2);
    fixture_start(&f);
    assert_in_range(readable(&f, from, to), 1, to - from - 1);
    assert_true(told.damages > 0);
    assert_int_equal(readable(&f, to, MESSAGES), MESSAGES - to);
    fixture_close(&f);
}

static void pass_of_the_scrubber(struct fixture *f) {
    struct log_stats before, now;
    log_stats(f->log, &before);
    for (int i = 0; i < 100000; i++) {
        hf_sim_advance(f->sim, 1000);
        (void)log_step(f->log);
        (void)env_poll(f->env);
        log_stats(f->log, &now);
        if (now.scrubs > before.scrubs) return;
    }
    fail_msg("the pass does not end");
}

static void the_scrubber_finds_what_was_right_before(void **state) {
    struct fixture f;
    (void)state;
    fixture_open(&f, 8);
    fixture_stop(&f);
    f.options.damaged = note;
    f.options.scrub_interval_ms = 1000;
    fixture_start(&f);
    fixture_create(&f, "t", (struct log_topic_config){.partitions = 1});
    for (int i = 0; i < MESSAGES; i++) assert_int_equal(append(&f, "t", "message", LOG_ACK_WRITTEN), i);
    memset(&told, 0, sizeof told);
    pass_of_the_scrubber(&f);
    assert_int_equal(told.damages + told.rebuilt, 0);
    char path[128];
    snprintf(path, sizeof path, "%s", file(&f, 1, "log")); /* written, and proven, by this process */
    int64_t from = base(&f, 1), to = base(&f, 2);
    assert_int_equal(readable(&f, from, to), to - from);
    assert_int_equal(hf_sim_damage(f.sim, path, 5000, 4), HF_OK);
    pass_of_the_scrubber(&f);
    assert_int_equal(told.damages, 1);
    assert_string_equal(told.file, path);
    assert_in_range(told.byte, 5000 - 100, 5000);
    assert_in_range(readable(&f, from, to), 1, to - from - 1); /* refused from now on, and only that */
    assert_int_equal(readable(&f, 0, MESSAGES), MESSAGES - (to - from) + readable(&f, from, to));
    fixture_close(&f);
}

static void the_scrubber_makes_small_files_again(void **state) {
    static const char *const ext[] = {"index", "timeindex", "manifest", "leader-epoch-checkpoint"};
    struct fixture f;
    (void)state;
    fill(&f, 9);
    for (int i = 0; i < 4; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s", i < 3 ? file(&f, 1, ext[i]) : "topics/t-0/leader-epoch-checkpoint");
        fixture_stop(&f);
        fixture_start(&f);
        assert_int_equal(log_scrub(f.log), HF_OK);
        memset(&told, 0, sizeof told);
        assert_int_equal(hf_sim_damage(f.sim, path, 2, 1), HF_OK);
        assert_int_equal(log_scrub(f.log), HF_OK);
        assert_int_equal(told.damages, 0);
        assert_int_equal(told.rebuilt, 1);
        assert_string_equal(told.file, path);
        assert_int_equal(told.byte, 2);
        assert_int_equal(log_scrub(f.log), HF_OK);
        assert_int_equal(told.rebuilt, 1);
        assert_int_equal(readable(&f, 0, MESSAGES), MESSAGES);
    }
    fixture_close(&f);
}

/* Until a segment of topic t is being read for the scrubber. */
static struct segment *until_it_reads(struct fixture *f) {
    const struct log_partition *p = log_partition(f->log, HF_STR("t"), 0);
    for (int i = 0; i < 100000; i++) {
        (void)log_step(f->log);
        const struct scrub_load *a = &f->log->scrub.ahead;
        if (a->state == LOAD_UNDER_WAY && a->s && a->s->p == p) return a->s;
        hf_sim_advance(f->sim, 1000);
        (void)env_poll(f->env);
    }
    fail_msg("it reads nothing");
    return NULL;
}

/* A store of an earlier process, of which the scrubber reads a segment. */
static struct segment *reading(struct fixture *f, uint64_t seed) {
    fill(f, seed);
    fixture_stop(f);
    f->options.scrub_interval_ms = 5000;
    fixture_start(f);
    return until_it_reads(f);
}

static void a_scrub_that_is_asked_for_believes_nothing_read_before(void **state) {
    struct fixture f;
    char path[LOG_PATH];
    (void)state;
    segment_path(reading(&f, 22), "log", path);
    assert_int_equal(hf_sim_damage(f.sim, path, f.log->scrub.ahead.load.offset + 100, 4), HF_OK);
    assert_int_equal(log_scrub(f.log), HF_OK);
    assert_int_equal(told.damages, 1);
    fixture_close(&f);
}

static void a_topic_may_go_while_it_is_read(void **state) {
    struct fixture f;
    (void)state;
    (void)reading(&f, 23);
    assert_int_equal(log_topic_delete(f.log, HF_STR("t"), NULL, 0, NULL, NULL), HF_OK);
    for (int i = 0; i < 1000 && log_partition(f.log, HF_STR("t"), 0); i++) fixture_turn(&f);
    assert_null(log_partition(f.log, HF_STR("t"), 0));
    pass_of_the_scrubber(&f);
    assert_int_equal(told.damages, 0);
    fixture_close(&f);
}

static void a_segment_that_is_written_to_is_left_until_somebody_asks(void **state) {
    struct fixture f;
    char path[LOG_PATH];
    (void)state;
    fill(&f, 24);
    fixture_stop(&f);
    f.options.scrub_interval_ms = 5000;
    fixture_start(&f);
    append(&f, "t", "one more", LOG_ACK_WRITTEN);
    segment_path(log_partition(f.log, HF_STR("t"), 0)->segments->prev, "log", path);
    assert_int_equal(hf_sim_damage(f.sim, path, 100, 4), HF_OK);
    pass_of_the_scrubber(&f);
    assert_int_equal(told.damages, 0);
    assert_int_equal(log_scrub(f.log), HF_OK);
    assert_int_equal(told.damages, 1);
    fixture_close(&f);
}

static void nothing_is_told_of_a_whole_store(void **state) {
    struct fixture f;
    (void)state;
    fill(&f, 7);
    fixture_stop(&f);
    fixture_start(&f);
    fixture_crash(&f, HF_SIM_POWER_LOSS);
    fixture_start(&f);
    assert_int_equal(readable(&f, 0, MESSAGES), MESSAGES);
    fixture_stop(&f);
    fixture_start(&f);
    assert_int_equal(readable(&f, 0, MESSAGES), MESSAGES);
    assert_int_equal(told.damages + told.rebuilt, 0);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_damaged_stretch_is_refused_and_all_else_is_served),
        cmocka_unit_test(an_offset_that_no_checksum_covers_is_proven_by_the_chain),
        cmocka_unit_test(an_index_and_a_manifest_are_made_again),
        cmocka_unit_test(swapped_segments_are_not_served),
        cmocka_unit_test(a_missing_segment_is_no_gap),
        cmocka_unit_test(a_cut_segment_keeps_what_is_left),
        cmocka_unit_test(the_scrubber_finds_what_was_right_before),
        cmocka_unit_test(the_scrubber_makes_small_files_again),
        cmocka_unit_test(a_scrub_that_is_asked_for_believes_nothing_read_before),
        cmocka_unit_test(a_topic_may_go_while_it_is_read),
        cmocka_unit_test(a_segment_that_is_written_to_is_left_until_somebody_asks),
        cmocka_unit_test(nothing_is_told_of_a_whole_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
