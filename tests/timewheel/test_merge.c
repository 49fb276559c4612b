/* Merges, and the room on the disk that they ask for, on the engine in memory. */
#include "bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { MERGE_MS = 10000 };

/* Small runs, small slices, and four make a tier full; finished ids are forgotten when a merge meets them. */
static void open_small(struct bench *b, size_t gather_bytes) {
    open_bench(b, &(struct memory_options){0});
    b->options.gather_bytes = gather_bytes;
    b->options.fan_in = 4;
    b->options.run_bytes = 16 << 10;
    b->options.slice_bytes = 1 << 10;
    b->options.id_memory_ms = 1;
    start(b);
}

/* n messages with the ids `from` and up, due over a day, or their cancelling. */
static void put_ids(struct bench *b, int from, int n, bool cancel) {
    for (int i = from; i < from + n; i++) {
        char due[32], id[32];
        due_of(i, due);
        (void)snprintf(id, sizeof id, "%d", i);
        struct hf_header h[] = {{HF_STR(HF_HDR_TOPIC), HF_STR("t")},
                                {HF_STR(HF_HDR_ID), hf_str_of(id)},
                                {HF_STR(HF_HDR_DUE), hf_str_of(due)}};
        if (cancel) h[2] = (struct hf_header){HF_STR(HF_HDR_OP), HF_STR("cancel")};
        assert_true(memory_engine_append(b->m, HF_STR(HF_TOPIC_DELAY), 0, b->wall, HF_STR("k"),
                                         HF_STR("a value"), h, 3) >= 0);
        if (i % 100 == 0) run(b);
    }
    run(b);
}

static struct schedule_stats stats_of(const struct bench *b) {
    struct schedule_stats stats;
    schedule_stats(b->s, &stats);
    return stats;
}

static void a_merge_waits_for_room_and_leaves_the_rest_of_the_disk_to_others(void **state) {
    (void)state;
    enum { MESSAGES = 24000 };
    struct bench b;
    struct schedule_stats stats;
    open_small(&b, 128 << 10);
    memory_engine_set_room(b.m, 100);
    put_many(&b, MESSAGES, "a value");
    schedule_stats(b.s, &stats);
    assert_true(stats.checkpoints > 16); /* so there are four in the next tier, too */
    assert_int_equal(stats.merges, 0);
    assert_int_equal(b.events[SCHEDULE_MERGE_PUT_OFF], 1); /* said once */

    memory_engine_set_room(b.m,
                           stats.run_bytes / stats.runs * 6); /* four of the lowest tier, not of the next */
    pass(&b, MERGE_MS);
    schedule_stats(b.s, &stats);
    assert_true(stats.merges > 1);
    assert_int_equal(b.events[SCHEDULE_MERGE_PUT_OFF], 1);
    uint64_t runs = stats.runs + stats.id_runs, merges = stats.merges;

    memory_engine_set_room(b.m, UINT64_MAX); /* one begins, then others take the room */
    b.wall += MERGE_MS;
    b.mono += MERGE_MS;
    for (int i = 0; i < 100000 && memory_engine_runs(b.m) == runs; i++) {
        (void)schedule_step(b.s, b.wall, b.mono);
        (void)memory_engine_step(b.m);
    }
    assert_true(memory_engine_runs(b.m) > runs);
    memory_engine_set_room(b.m, 100);
    run(&b);
    assert_int_equal(memory_engine_runs(b.m), runs); /* it holds nothing */

    memory_engine_set_room(b.m, UINT64_MAX);
    pass(&b, MERGE_MS);
    schedule_stats(b.s, &stats);
    assert_true(stats.merges > merges);
    assert_int_equal(stats.pending, MESSAGES);

    memory_engine_set_room(b.m, 100); /* a second time, and that is said too */
    put_many(&b, MESSAGES, "a value");
    assert_int_equal(b.events[SCHEDULE_MERGE_PUT_OFF], 2);
    close_bench(&b);
}

static void what_is_cancelled_comes_back_though_there_is_no_room_for_a_tier(void **state) {
    (void)state;
    enum { MESSAGES = 60000, LEFT = 3000, ROOM = 1500000 };
    uint64_t bytes[2];
    for (int limited = 0; limited < 2; limited++) {
        struct bench b;
        open_small(&b, 1 << 20);
        if (limited) memory_engine_set_room(b.m, 0);
        put_ids(&b, 0, MESSAGES, false);
        put_ids(&b, 0, MESSAGES - LEFT, true);
        if (limited) memory_engine_set_room(b.m, ROOM);
        for (int i = 0; i < 20; i++) pass(&b, MERGE_MS);
        struct schedule_stats stats = stats_of(&b);
        assert_int_equal(stats.pending, LEFT);
        bytes[limited] = stats.run_bytes;
        close_bench(&b);
    }
    assert_true(bytes[1] < bytes[0] * 2);
}

/* Else what became of an id is forgotten, while an older run still says that it pends. */
static void the_oldest_go_first_when_there_is_no_room_for_all(void **state) {
    (void)state;
    enum { MESSAGES = 3000, BEFORE = 4, AFTER = 12 };
    struct bench b;
    open_small(&b, 256 << 10);
    memory_engine_set_room(b.m, 0);
    put(&b, "k", "v", "hf-topic=t", "hf-id=x", "hf-delay=300d", NULL);
    for (int i = 0; i < BEFORE; i++) pass(&b, 1000), put_ids(&b, i * MESSAGES, MESSAGES, false);
    assert_int_equal(outcome(&b, put(&b, "k", "v", "hf-topic=t", "hf-id=x", "hf-op=cancel", NULL)),
                     SCHEDULE_CANCELLED);
    for (int i = BEFORE; i < AFTER; i++) pass(&b, 1000), put_ids(&b, i * MESSAGES, MESSAGES, false);
    struct schedule_stats stats = stats_of(&b);
    assert_true(stats.id_runs > 16);
    assert_int_equal(stats.merges, 0);
    memory_engine_set_room(b.m, stats.id_bytes / stats.id_runs * 6);
    pass(&b, MERGE_MS);
    assert_true(stats_of(&b).merges > 0);
    assert_int_equal(outcome(&b, put(&b, "k", "v", "hf-topic=t", "hf-id=x", "hf-op=cancel", NULL)),
                     SCHEDULE_UNKNOWN);
    close_bench(&b);
}

/* What is written takes room, and a merge writes more than the bodies of its entries. */
static void a_merge_that_begins_ends_if_nobody_else_writes(void **state) {
    (void)state;
    enum { MESSAGES = 20000, FROM = 60, TO = 120, STEP = 3, ROUNDS = 20 };
    int merged = 0, refused = 0;
    for (int percent = FROM; percent <= TO; percent += STEP) {
        struct bench b;
        open_small(&b, 256 << 10);
        memory_engine_set_room(b.m, 0);
        put_many(&b, MESSAGES, "a value");
        struct schedule_stats stats = stats_of(&b);
        assert_int_equal(stats.merges, 0);
        memory_engine_set_room(b.m, stats.run_bytes * (uint64_t)percent / 100);
        uint64_t before = memory_engine_calls(b.m, MEMORY_RUN_BEGIN), runs = stats.run_bytes / (16 << 10) + 2;
        for (int i = 0; i < ROUNDS; i++) pass(&b, MERGE_MS);
        assert_in_range(memory_engine_calls(b.m, MEMORY_RUN_BEGIN) - before, 0, runs * 2);
        *(stats_of(&b).merges > 0 ? &merged : &refused) += 1;
        close_bench(&b);
    }
    assert_true(merged > 0 && refused > 0);
}

/* The small ones are cancelled, so there is more left than the share of those that live. */
static void a_sweep_that_finds_more_than_it_thought_stops_at_the_end_of_the_room(void **state) {
    (void)state;
    enum { SMALL = 3000, LARGE = 1000, ROOM = 900000 };
    struct bench b;
    char value[1001] = {0};
    memset(value, 'v', 1000);
    open_small(&b, 64 << 20);
    b.options.fan_in = 100;
    schedule_close(b.s);
    start(&b);
    put_ids(&b, 0, SMALL, false);
    put_many(&b, LARGE, value);
    pass(&b, 600001);
    put_ids(&b, 0, SMALL, true);
    memory_engine_set_room(b.m, ROOM);
    uint64_t least = ROOM;
    for (int i = 0; i < 10000; i++) {
        b.wall += 200;
        b.mono += 200;
        (void)schedule_step(b.s, b.wall, b.mono);
        (void)memory_engine_step(b.m);
        uint64_t room = engine_room(memory_engine_engine(b.m));
        least = room < least ? room : least;
    }
    assert_true(memory_engine_calls(b.m, MEMORY_RUN_BEGIN) > 10); /* it was tried */
    assert_true(least > 0);
    assert_int_equal(pending(&b), LARGE);
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merge_waits_for_room_and_leaves_the_rest_of_the_disk_to_others),
        cmocka_unit_test(what_is_cancelled_comes_back_though_there_is_no_room_for_a_tier),
        cmocka_unit_test(the_oldest_go_first_when_there_is_no_room_for_all),
        cmocka_unit_test(a_merge_that_begins_ends_if_nobody_else_writes),
        cmocka_unit_test(a_sweep_that_finds_more_than_it_thought_stops_at_the_end_of_the_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
