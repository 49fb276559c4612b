/* What a producer, a consumer and an operator may rely on, one behaviour a test. */
#include "base/names.h"
#include "world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORLD(...)                                                                                           \
    struct world w;                                                                                          \
    (void)unused;                                                                                            \
    world_open(&w, &(struct world_options){__VA_ARGS__})

#define HALF(...) world_prepare(&w, &(struct half_spec){__VA_ARGS__})

/* ---- decisions ---- */

static void committed_halves_become_visible_and_only_then(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1042", .topic = "orders.placed", .key = "1042", .value = "a");
    HALF(.id = "1042", .topic = "orders.audit", .value = "b");
    world_run(&w, 3000);
    assert_int_equal(world_count(&w, "orders.placed", NULL), 0);
    int64_t at = world_decide(&w, "g", "1042", "commit");
    world_run(&w, 100);
    assert_int_equal(world_count(&w, "orders.placed", "a"), 1);
    assert_int_equal(world_count(&w, "orders.audit", "b"), 1);
    assert_int_equal(world_outcome(&w, 0, at), TXN_APPLIED);
    assert_int_equal(world_state(&w, "g", "1042"), TXN_COMMITTED);
    world_close(&w);
}

static void rolled_back_halves_are_dropped(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    int64_t at = world_decide(&w, "g", "1", "rollback");
    world_run(&w, 60000);
    assert_int_equal(world_count(&w, "t", NULL), 0);
    assert_int_equal(world_count(&w, HF_TOPIC_CHECK "g", NULL), 0);
    assert_int_equal(world_outcome(&w, 0, at), TXN_APPLIED);
    assert_int_equal(world_state(&w, "g", "1"), TXN_ROLLED_BACK);
    world_close(&w);
}

static void first_decision_wins_and_later_ones_are_told_so(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    int64_t first = world_decide(&w, "g", "1", "commit"), same = world_decide(&w, "g", "1", "commit"),
            other = world_decide(&w, "g", "1", "rollback"), nobody = world_decide(&w, "g", "2", "commit");
    int64_t late = HALF(.id = "1", .topic = "t", .value = "b");
    world_run(&w, 100);
    for (int round = 0; round < 2; round++) { /* and after a restart */
        assert_int_equal(world_outcome(&w, 0, first), TXN_APPLIED);
        assert_int_equal(world_outcome(&w, 0, same), TXN_REPEATED);
        assert_int_equal(world_outcome(&w, 0, other), TXN_CONTRADICTED);
        assert_int_equal(world_outcome(&w, 0, nobody), TXN_UNKNOWN_ID);
        assert_int_equal(world_outcome(&w, 0, late), TXN_CONTRADICTED);
        world_restart(&w);
    }
    int64_t again = world_decide(&w, "g", "1", "rollback");
    world_run(&w, 100);
    assert_int_equal(world_outcome(&w, 0, again), TXN_CONTRADICTED);
    assert_int_equal(world_count(&w, "t", NULL), 1);
    world_close(&w);
}

static void groups_do_not_share_ids(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a", .group = "g");
    HALF(.id = "1", .topic = "t", .value = "b", .group = "h");
    world_decide(&w, "h", "1", "commit");
    world_decide(&w, "g", "1", "rollback");
    world_run(&w, 100);
    assert_int_equal(world_count(&w, "t", "a"), 0);
    assert_int_equal(world_count(&w, "t", "b"), 1);
    world_close(&w);
}

static void the_same_prepare_again_is_one_message(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a", .message_id = "m");
    int64_t again = HALF(.id = "1", .topic = "t", .value = "a", .message_id = "m");
    HALF(.id = "1", .topic = "t", .value = "b");
    HALF(.id = "1", .topic = "t", .value = "b");
    world_decide(&w, "g", "1", "commit");
    world_run(&w, 100);
    assert_int_equal(world_outcome(&w, 0, again), TXN_REPEATED);
    assert_int_equal(world_count(&w, "t", "a"), 1);
    assert_int_equal(world_count(&w, "t", "b"), 2);
    world_close(&w);
}

static void decisions_follow_the_order_of_acceptance_across_partitions(void **unused) {
    WORLD(.seed = 0, .txn_partitions = 3);
    HALF(.id = "1", .topic = "t", .value = "a", .partition = 2);
    int64_t rollback = world_decide_at(&w, "g", "1", "rollback", 1);
    int64_t commit = world_decide_at(&w, "g", "1", "commit", 0);
    w.now_ms++;
    world_run(&w, 5000);
    assert_int_equal(world_outcome(&w, 1, rollback), TXN_APPLIED);
    assert_int_equal(world_outcome(&w, 0, commit), TXN_CONTRADICTED);
    world_close(&w);
}

/* ---- what arrives ---- */

static void moved_records_keep_headers_and_get_an_identity(void **unused) {
    WORLD(.seed = 0, .engine = {.default_partitions = 6});
    int64_t created = w.now_ms;
    HALF(.id = "1", .topic = "t", .key = "order-7", .value = "a", .message_id = "order-7/paid");
    HALF(.id = "1", .topic = "u", .value = "b");
    world_run(&w, 100);
    world_decide(&w, "g", "1", "commit");
    world_run(&w, 100);
    struct world_record r;
    char text[128];
    assert_true(world_record(&w, "t", 0, &r));
    assert_string_equal(r.key, "order-7");
    assert_int_equal(r.partition, hf_partition_of_key(HF_STR("order-7"), 6));
    assert_string_equal(r.message_id, "order-7/paid");
    assert_string_equal(r.plain, "kept");
    assert_string_equal(r.origin, "t");
    assert_int_equal(r.headers, 4);
    assert_true(r.timestamp_ms >= created + 100);
    snprintf(text, sizeof text, "%lld", (long long)created);
    assert_string_equal(r.created_at, text);
    assert_true(world_record(&w, "u", 0, &r));
    assert_true(r.null_key);
    snprintf(text, sizeof text, HF_TOPIC_TXN "/0/1@%lld", (long long)created);
    assert_string_equal(r.message_id, text);
    world_close(&w);
}

static void delay_of_a_half_counts_from_the_commit(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "orders.unpaid", .key = "k", .value = "a", .delay = "30m", .hf_id = "1042");
    HALF(.id = "1", .topic = "later", .value = "b", .due = "4000000");
    world_run(&w, 3000);
    world_decide(&w, "g", "1", "commit");
    int64_t decided = w.now_ms;
    world_run(&w, 100);
    assert_int_equal(world_count(&w, "orders.unpaid", NULL), 0);
    struct world_record r;
    char text[32];
    assert_true(world_record(&w, HF_TOPIC_DELAY, 0, &r));
    snprintf(text, sizeof text, "%lld", (long long)decided + 1800000);
    assert_string_equal(r.due, text);
    assert_string_equal(r.hf_topic, "orders.unpaid");
    assert_string_equal(r.hf_id, "1042");
    assert_string_equal(r.key, "k");
    assert_string_equal(r.value, "a");
    assert_string_equal(r.plain, "kept");
    assert_string_equal(r.group, "");
    assert_true(world_record(&w, HF_TOPIC_DELAY, 1, &r));
    assert_string_equal(r.due, "4000000");
    world_close(&w);
}

/* ---- check-back ---- */

static void asks_the_group_after_the_last_prepare(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "orders.placed", .value = "a");
    world_run(&w, 4000);
    HALF(.id = "1", .topic = "orders.unpaid", .value = "b", .delay = "1s");
    world_run(&w, 5900);
    assert_int_equal(world_count(&w, HF_TOPIC_CHECK "g", NULL), 0);
    world_run(&w, 200);
    struct world_record r;
    assert_true(world_record(&w, HF_TOPIC_CHECK "g", 0, &r));
    assert_string_equal(r.key, "1");
    assert_string_equal(r.value, "a");
    assert_string_equal(r.halves, "2 orders.placed,orders.unpaid");
    assert_string_equal(r.attempt, "1");
    assert_string_equal(r.group, "g");
    world_close(&w);
}

static void a_check_after_of_its_own_is_obeyed(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a", .check_after = "1m");
    world_run(&w, 59000);
    assert_int_equal(world_count(&w, HF_TOPIC_CHECK "g", NULL), 0);
    world_run(&w, 1100);
    assert_int_equal(world_count(&w, HF_TOPIC_CHECK "g", NULL), 1);
    world_close(&w);
}

static void a_group_that_is_down_gets_one_check_and_burns_no_attempt(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    world_run(&w, HF_DAYS(1));
    assert_int_equal(world_count(&w, HF_TOPIC_CHECK "g", NULL), 1);
    world_crash(&w);
    world_run(&w, HF_HOURS(1));
    assert_int_equal(world_count(&w, HF_TOPIC_CHECK "g", NULL), 1);
    assert_int_equal(world_state(&w, "g", "1"), TXN_PREPARED);
    world_decide(&w, "g", "1", "commit");
    world_run(&w, 100);
    assert_int_equal(world_count(&w, "t", "a"), 1);
    world_close(&w);
}

static void the_next_check_follows_when_the_first_was_read(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    world_run(&w, 10000);
    world_read_checks(&w, "g");
    world_run(&w, 29000);
    struct world_record r;
    assert_false(world_record(&w, HF_TOPIC_CHECK "g", 1, &r));
    world_run(&w, 3000);
    assert_true(world_record(&w, HF_TOPIC_CHECK "g", 0, &r));
    if (strcmp(r.attempt, "1") == 0) assert_true(world_record(&w, HF_TOPIC_CHECK "g", 1, &r));
    assert_string_equal(r.attempt, "2");
    world_close(&w);
}

static void parked_after_the_last_check_was_read_and_kept(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    for (int i = 0; i < 15; i++) {
        world_run(&w, 32000);
        assert_int_equal(world_state(&w, "g", "1"), TXN_PREPARED);
        world_read_checks(&w, "g");
    }
    world_run(&w, 60000);
    assert_int_equal(world_state(&w, "g", "1"), TXN_PARKED);
    struct txn_stats s;
    txn_stats(w.t, &s);
    assert_int_equal(s.checks_sent, 15);
    world_run(&w, HF_DAYS(30));
    world_crash(&w);
    world_run(&w, HF_DAYS(30));
    assert_int_equal(world_state(&w, "g", "1"), TXN_PARKED);
    assert_int_equal(world_operate(&w, "g", "1", TXN_COMMITTED), TXN_APPLIED);
    world_run(&w, 100);
    assert_int_equal(world_count(&w, "t", "a"), 1);
    assert_int_equal(world_operate(&w, "g", "1", TXN_ROLLED_BACK), TXN_CONTRADICTED);
    assert_int_equal(world_operate(&w, "g", "1", TXN_COMMITTED), TXN_REPEATED);
    assert_int_equal(world_operate(&w, "g", "9", TXN_COMMITTED), TXN_UNKNOWN_ID);
    world_close(&w);
}

static void a_check_that_retention_took_is_put_again_as_the_same_attempt(void **unused) {
    WORLD(.seed = 0, .engine = {.default_partitions = 1});
    HALF(.id = "1", .topic = "t", .value = "a");
    world_run(&w, 10000);
    assert_int_equal(memory_engine_topic_delete(w.m, HF_STR(HF_TOPIC_CHECK "g")), HF_OK);
    assert_int_equal(memory_engine_topic_create(w.m, HF_STR(HF_TOPIC_CHECK "g"), 1), HF_OK);
    world_restart(&w); /* the new topic is empty: nothing can be outstanding on it */
    world_run(&w, 2000);
    struct world_record r;
    assert_true(world_record(&w, HF_TOPIC_CHECK "g", 0, &r));
    assert_string_equal(r.attempt, "1");
    world_close(&w);
}

/* ---- destinations ---- */

static void a_commit_without_destination_waits_and_ends_in_rejected_as_a_whole(void **unused) {
    WORLD(.seed = 0, .engine = {.no_auto_create = true});
    assert_int_equal(memory_engine_topic_create(w.m, HF_STR("there"), 1), HF_OK);
    assert_int_equal(memory_engine_topic_create(w.m, HF_STR(HF_TOPIC_REJECTED), 1), HF_OK);
    HALF(.id = "1", .topic = "there", .value = "a");
    HALF(.id = "1", .topic = "gone", .key = "k", .value = "b");
    int64_t at = world_decide(&w, "g", "1", "commit");
    assert_int_equal(world_outcome(&w, 0, at), TXN_APPLIED);
    world_run(&w, HF_MINUTES(9));
    assert_int_equal(world_count(&w, "there", NULL), 0);
    assert_int_equal(world_count(&w, HF_TOPIC_REJECTED, NULL), 0);
    assert_int_equal(world_state(&w, "g", "1"), TXN_COMMITTED);
    world_run(&w, HF_MINUTES(2));
    assert_int_equal(world_count(&w, "there", NULL), 0);
    assert_int_equal(world_count(&w, HF_TOPIC_REJECTED, NULL), 2);
    struct world_record r;
    assert_true(world_record(&w, HF_TOPIC_REJECTED, 1, &r));
    assert_string_equal(r.reason, "destination does not exist");
    assert_string_equal(r.hf_topic, "gone");
    assert_string_equal(r.value, "b");
    world_close(&w);
}

static void a_destination_that_comes_back_gets_its_messages(void **unused) {
    WORLD(.seed = 0, .engine = {.no_auto_create = true});
    HALF(.id = "1", .topic = "t", .value = "a");
    world_decide(&w, "g", "1", "commit");
    world_run(&w, HF_MINUTES(3));
    world_crash(&w);
    world_run(&w, 1000);
    assert_int_equal(memory_engine_topic_create(w.m, HF_STR("t"), 1), HF_OK);
    world_run(&w, HF_MINUTES(2));
    assert_int_equal(world_count(&w, "t", "a"), 1);
    world_close(&w);
}

static void a_full_disk_makes_moves_late_and_loses_nothing(void **unused) {
    WORLD(.seed = 0);
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", i);
        HALF(.id = id, .topic = "t", .value = "a");
        world_decide(&w, "g", id, "commit");
    }
    memory_engine_fail(w.m, MEMORY_COMMIT, HF_ENOSPC, 0, 50);
    world_run(&w, HF_MINUTES(2));
    assert_int_equal(world_count(&w, "t", "a"), 20);
    world_close(&w);
}

static void one_bad_transaction_does_not_hold_up_the_others(void **unused) {
    WORLD(.seed = 0);
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", i);
        HALF(.id = id, .topic = "t", .value = "a");
        world_decide(&w, "g", id, "commit");
    }
    memory_engine_fail(w.m, MEMORY_COMMIT, HF_ELIMIT, 0, 2); /* once for all, once for the first alone */
    world_run(&w, HF_MINUTES(2));
    assert_int_equal(world_count(&w, "t", "a"), 19);
    assert_int_equal(world_count(&w, HF_TOPIC_REJECTED, "a"), 1);
    world_close(&w);
}

/* ---- limits ---- */

static void a_half_beyond_the_limit_rolls_the_whole_transaction_back(void **unused) {
    WORLD(.seed = 0, .txn = {.halves_max = 2});
    HALF(.id = "1", .topic = "t", .value = "a");
    HALF(.id = "1", .topic = "t", .value = "a");
    int64_t third = HALF(.id = "1", .topic = "t", .value = "a");
    int64_t commit = world_decide(&w, "g", "1", "commit");
    world_run(&w, 100);
    assert_int_equal(world_outcome(&w, 0, third), TXN_REFUSED);
    assert_int_equal(world_outcome(&w, 0, commit), TXN_CONTRADICTED);
    assert_int_equal(world_count(&w, "t", NULL), 0);
    world_close(&w);
}

static void a_full_table_refuses_new_transactions_for_good(void **unused) {
    WORLD(.seed = 0, .txn = {.live_max = 2});
    HALF(.id = "1", .topic = "t", .value = "a");
    HALF(.id = "2", .topic = "t", .value = "a");
    int64_t refused = HALF(.id = "3", .topic = "t", .value = "a");
    world_decide(&w, "g", "1", "commit");
    world_run(&w, 5000);
    int64_t late = HALF(.id = "3", .topic = "t", .value = "b"); /* there is room now */
    int64_t commit = world_decide(&w, "g", "3", "commit");
    world_run(&w, 100);
    assert_int_equal(world_outcome(&w, 0, refused), TXN_REFUSED);
    assert_int_equal(world_outcome(&w, 0, late), TXN_CONTRADICTED);
    assert_int_equal(world_outcome(&w, 0, commit), TXN_CONTRADICTED);
    assert_int_equal(world_count(&w, "t", NULL), 1);
    world_close(&w);
}

static void decided_ids_are_forgotten_after_their_time(void **unused) {
    WORLD(.seed = 0, .txn = {.id_memory_ms = HF_HOURS(1)});
    char id[32];
    HALF(.id = "1", .topic = "t", .value = "a");
    world_decide(&w, "g", "1", "commit");
    for (int i = 0; i < 600; i++) {
        snprintf(id, sizeof id, "x%d", i);
        HALF(.id = id, .topic = "u", .value = "a");
        world_decide(&w, "g", id, "commit");
    }
    world_run(&w, HF_MINUTES(59));
    world_crash(&w);
    assert_int_equal(world_state(&w, "g", "1"), TXN_COMMITTED);
    world_run(&w, HF_MINUTES(2));
    HALF(.id = "y", .topic = "t", .value = "b"); /* forgetting rides on the next commit */
    world_decide(&w, "g", "y", "commit");
    world_run(&w, 100);
    assert_int_equal(world_state(&w, "g", "1"), TXN_NONE);
    world_crash(&w);
    assert_int_equal(world_state(&w, "g", "1"), TXN_NONE);
    world_close(&w);
}

/* ---- operators ---- */

struct listing {
    char text[512];
};

static void list_one(void *arg, const struct txn_view *v) {
    struct listing *l = arg;
    size_t n = strlen(l->text);
    snprintf(l->text + n, sizeof l->text - n, "%.*s:%s ", (int)v->id.n, v->id.p, txn_state_name(v->state));
}

static void lists_undecided_transactions_page_by_page(void **unused) {
    WORLD(.seed = 0);
    for (int i = 0; i < 7; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", 9 - i);
        HALF(.id = id, .topic = "t", .value = "a");
    }
    world_decide(&w, "g", "8", "commit");
    world_run(&w, 2000);
    for (int round = 0; round < 2; round++) {
        struct listing l = {""};
        uint64_t at = 0;
        int pages = 0;
        do {
            at = txn_list(w.t, (hf_str){NULL, 0}, TXN_NONE, at, 2, list_one, &l);
            pages++;
        } while (at);
        assert_int_equal(pages, 3);
        assert_string_equal(l.text, "9:prepared 7:prepared 6:prepared 5:prepared 4:prepared 3:prepared ");
        struct listing none = {""};
        assert_int_equal(txn_list(w.t, HF_STR("h"), TXN_NONE, 0, 9, list_one, &none), 0);
        assert_int_equal(txn_list(w.t, HF_STR("g"), TXN_PARKED, 0, 9, list_one, &none), 0);
        assert_string_equal(none.text, "");
        world_crash(&w);
    }
    world_close(&w);
}

static void an_old_half_pins_the_log_and_its_end_releases_it(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "old", .topic = "t", .value = "a");
    for (int i = 0; i < 50; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", i);
        HALF(.id = id, .topic = "t", .value = "a");
        world_decide(&w, "g", id, "commit");
    }
    world_run(&w, 2000);
    int64_t start, end;
    assert_int_equal(engine_bounds(memory_engine_engine(w.m), HF_STR(HF_TOPIC_TXN), 0, &start, &end), HF_OK);
    assert_int_equal(start, 0);
    world_decide(&w, "g", "old", "rollback");
    world_run(&w, 2000);
    HALF(.id = "new", .topic = "t", .value = "a");
    world_run(&w, 2000);
    assert_int_equal(engine_bounds(memory_engine_engine(w.m), HF_STR(HF_TOPIC_TXN), 0, &start, &end), HF_OK);
    assert_true(start >= 101);
    world_close(&w);
}

static void a_commit_that_fails_under_way_is_undone_and_done_again(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    memory_engine_fail(w.m, MEMORY_COMMIT_DONE, HF_ENOSPC, 0, 3);
    int64_t at = world_decide(&w, "g", "1", "commit");
    world_run(&w, 5000);
    assert_int_equal(world_outcome(&w, 0, at), TXN_APPLIED);
    assert_int_equal(world_count(&w, "t", "a"), 1);
    struct txn_stats s;
    txn_stats(w.t, &s);
    assert_int_equal(s.reloads, 3);
    world_close(&w);
}

static void stops_when_fenced(void **unused) {
    WORLD(.seed = 0);
    HALF(.id = "1", .topic = "t", .value = "a");
    memory_engine_fail(w.m, MEMORY_COMMIT, HF_EFENCED, 0, 1);
    world_decide(&w, "g", "1", "commit");
    world_run(&w, 5000);
    assert_int_equal(txn_failed(w.t), HF_EFENCED);
    assert_int_equal(world_count(&w, "t", NULL), 0);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(committed_halves_become_visible_and_only_then),
        cmocka_unit_test(rolled_back_halves_are_dropped),
        cmocka_unit_test(first_decision_wins_and_later_ones_are_told_so),
        cmocka_unit_test(groups_do_not_share_ids),
        cmocka_unit_test(the_same_prepare_again_is_one_message),
        cmocka_unit_test(decisions_follow_the_order_of_acceptance_across_partitions),
        cmocka_unit_test(moved_records_keep_headers_and_get_an_identity),
        cmocka_unit_test(delay_of_a_half_counts_from_the_commit),
        cmocka_unit_test(asks_the_group_after_the_last_prepare),
        cmocka_unit_test(a_check_after_of_its_own_is_obeyed),
        cmocka_unit_test(a_group_that_is_down_gets_one_check_and_burns_no_attempt),
        cmocka_unit_test(the_next_check_follows_when_the_first_was_read),
        cmocka_unit_test(parked_after_the_last_check_was_read_and_kept),
        cmocka_unit_test(a_check_that_retention_took_is_put_again_as_the_same_attempt),
        cmocka_unit_test(a_commit_without_destination_waits_and_ends_in_rejected_as_a_whole),
        cmocka_unit_test(a_destination_that_comes_back_gets_its_messages),
        cmocka_unit_test(a_full_disk_makes_moves_late_and_loses_nothing),
        cmocka_unit_test(one_bad_transaction_does_not_hold_up_the_others),
        cmocka_unit_test(a_half_beyond_the_limit_rolls_the_whole_transaction_back),
        cmocka_unit_test(a_full_table_refuses_new_transactions_for_good),
        cmocka_unit_test(decided_ids_are_forgotten_after_their_time),
        cmocka_unit_test(lists_undecided_transactions_page_by_page),
        cmocka_unit_test(an_old_half_pins_the_log_and_its_end_releases_it),
        cmocka_unit_test(a_commit_that_fails_under_way_is_undone_and_done_again),
        cmocka_unit_test(stops_when_fenced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
