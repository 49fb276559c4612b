/* Messages as records: what is on the wire, and what is refused before anything is sent. */
#include "client/compose.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *value_of(const struct composed *c, const char *name) {
    static char text[256];
    for (size_t i = 0; i < c->record.header_count; i++) {
        const hf_header *h = &c->record.headers[i];
        if (h->key.n != strlen(name) || memcmp(h->key.p, name, h->key.n) != 0) continue;
        snprintf(text, sizeof text, "%.*s", (int)h->value.n, h->value.p);
        return text;
    }
    return NULL;
}

static void a_plain_message_goes_straight_to_its_topic(void **state) {
    (void)state;
    struct composed c;
    hf_header h = {HF_STR("trace"), HF_STR("7")};
    hf_message m = {.topic = "orders",
                    .key = HF_STR("k"),
                    .partition = HF_PARTITION(3),
                    .message_id = "o-1",
                    .headers = &h,
                    .header_count = 1};
    assert_int_equal(compose_message(&c, &m), HF_OK);
    assert_string_equal(c.record.topic, "orders");
    assert_int_equal(c.record.partition, 3);
    assert_false(c.record.move);
    assert_string_equal(value_of(&c, "hf-message-id"), "o-1");
    assert_string_equal(value_of(&c, "trace"), "7");
    assert_int_equal(c.record.header_count, 2);
    compose_fini(&c);
}

static void a_delayed_message_goes_to_the_scheduler(void **state) {
    (void)state;
    struct composed c;
    hf_message m = {.topic = "orders.unpaid",
                    .key = HF_STR("k"),
                    .delay_ms = 1500,
                    .id = "1042",
                    .on_conflict = HF_CONFLICT_ONCE,
                    .partition = HF_PARTITION(0)};
    assert_int_equal(compose_message(&c, &m), HF_OK);
    assert_string_equal(c.record.topic, "holdfast.delay");
    assert_int_equal(c.record.partition, -1);
    assert_true(c.record.move);
    assert_string_equal(value_of(&c, "hf-topic"), "orders.unpaid");
    assert_string_equal(value_of(&c, "hf-delay"), "1500");
    assert_string_equal(value_of(&c, "hf-partition"), "0");
    assert_string_equal(value_of(&c, "hf-id"), "1042");
    assert_string_equal(value_of(&c, "hf-on-conflict"), "once");
    assert_null(value_of(&c, "hf-due"));
    compose_fini(&c);
}

static void an_id_without_a_time_is_due_at_once(void **state) {
    (void)state;
    struct composed c;
    assert_int_equal(compose_message(&c, &(hf_message){.topic = "t", .id = "x"}), HF_OK);
    assert_string_equal(value_of(&c, "hf-delay"), "0");
    compose_fini(&c);
}

static void a_half_message_carries_key_and_identity(void **state) {
    (void)state;
    struct composed c;
    hf_message m = {.topic = "orders.placed", .key = HF_STR("1042"), .value = HF_STR("v")};
    assert_int_equal(compose_half(&c, "shop", "tx1", &m, "shop/tx1/0", 2000), HF_OK);
    assert_string_equal(c.record.topic, "holdfast.txn");
    assert_memory_equal(c.record.key.p, "tx1", 3);
    assert_string_equal(value_of(&c, "hf-op"), "prepare");
    assert_string_equal(value_of(&c, "hf-group"), "shop");
    assert_string_equal(value_of(&c, "hf-key"), "1042");
    assert_string_equal(value_of(&c, "hf-check-after"), "2000");
    assert_string_equal(value_of(&c, "hf-message-id"), "shop/tx1/0");
    compose_fini(&c);
    assert_int_equal(compose_decision(&c, "shop", "tx1", false), HF_OK);
    assert_string_equal(value_of(&c, "hf-op"), "rollback");
    compose_fini(&c);
}

static void what_is_wrong_in_form_is_refused_by_name(void **state) {
    (void)state;
    hf_header ours = {HF_STR("hf-due"), HF_STR("7")};
    const struct {
        hf_message m;
        const char *says;
    } wrong[] = {
        {{.topic = NULL}, "topic"},
        {{.topic = "a b"}, "a b"},
        {{.topic = "holdfast.delay"}, "belongs to the server"},
        {{.topic = "t", .delay_ms = 1, .due_ms = 1}, "delay_ms and due_ms"},
        {{.topic = "t", .delay_ms = -1}, "delay_ms"},
        {{.topic = "t", .partition = -1}, "HF_PARTITION"},
        {{.topic = "t", .id = ""}, "empty"},
        {{.topic = "t", .delay_ms = 1, .on_conflict = HF_CONFLICT_KEEP}, "on_conflict"},
        {{.topic = "t", .delay_ms = 1, .id = "i", .on_conflict = (hf_conflict)7}, "on_conflict"},
        {{.topic = "t", .headers = &ours, .header_count = 1}, "hf-due"},
        {{.topic = "t", .header_count = 1}, "header_count"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct composed c;
        assert_int_equal(compose_message(&c, &wrong[i].m), HF_EINVAL);
        assert_non_null(strstr(hf_errmsg(), wrong[i].says));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_message_goes_straight_to_its_topic),
        cmocka_unit_test(a_delayed_message_goes_to_the_scheduler),
        cmocka_unit_test(an_id_without_a_time_is_due_at_once),
        cmocka_unit_test(a_half_message_carries_key_and_identity),
        cmocka_unit_test(what_is_wrong_in_form_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
