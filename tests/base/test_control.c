#include "base/control.h"
#include "base/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { PAIRS = 8 };

/* "name=value" texts; "name" alone is a null value. */
static size_t headers_of(const char *const *texts, struct hf_header *out) {
    size_t n = 0;
    for (; n < PAIRS && texts[n]; n++) {
        const char *eq = strchr(texts[n], '=');
        out[n].key = eq ? hf_str_make(texts[n], (size_t)(eq - texts[n])) : hf_str_of(texts[n]);
        out[n].value = eq ? hf_str_of(eq + 1) : (hf_str){NULL, 0};
    }
    return n;
}

struct row {
    const char *headers[PAIRS];
    const char *refused; /* the header named; NULL: accepted */
};

static const struct row delay_rows[] = {
    {{"hf-topic=t", "hf-delay=1500ms"}, NULL},
    {{"hf-topic=t", "hf-due=1767225600000"}, NULL},
    {{"hf-topic=t", "hf-due=2026-01-01T00:00:00Z", "x=1", "x=2", "hf-unknown", "hf-unknown"}, NULL},
    {{"hf-topic=t", "hf-delay=1", "hf-id=a", "hf-on-conflict=once", "hf-partition=3"}, NULL},
    {{"hf-topic=t", "hf-delay=1", "hf-message-id=order-1/paid", "hf-version=7"}, NULL},
    {{"hf-topic=t", "hf-op=cancel", "hf-id=a"}, NULL},
    {{"hf-topic=t", "hf-op=move", "hf-id=a", "hf-due=5", "hf-expect=9"}, NULL},
    {{"hf-topic=t", "hf-delay=1", "hf-id=\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"}, NULL},
    /* destinations */
    {{"hf-delay=1"}, "hf-topic"},
    {{"hf-topic", "hf-delay=1"}, "hf-topic"},
    {{"hf-topic=", "hf-delay=1"}, "hf-topic"},
    {{"hf-topic=a/b", "hf-delay=1"}, "hf-topic"},
    {{"hf-topic=..", "hf-delay=1"}, "hf-topic"},
    {{"hf-topic=holdfast.delay", "hf-delay=1"}, "hf-topic"},
    {{"hf-topic=holdfast.other", "hf-op=cancel", "hf-id=a"}, "hf-topic"},
    /* times */
    {{"hf-topic=t"}, "hf-due"},
    {{"hf-topic=t", "hf-due=1", "hf-delay=1"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=5w"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=-1"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=99999999999999999999"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=9223372036854775807"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=253402300799999"}, NULL},
    {{"hf-topic=t", "hf-delay=253402300800000"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay"}, "hf-delay"},
    {{"hf-topic=t", "hf-due=soon"}, "hf-due"},
    {{"hf-topic=t", "hf-due=253402300799999"}, NULL},
    {{"hf-topic=t", "hf-due=253402300800000"}, "hf-due"},
    {{"hf-topic=t", "hf-due=9999-12-31T23:59:59.9999Z"}, "hf-due"},
    {{"hf-topic=t", "hf-due=99999999999999999999"}, "hf-due"},
    /* twice */
    {{"hf-topic=t", "hf-topic=t", "hf-delay=1"}, "hf-topic"},
    {{"hf-topic=t", "hf-delay=1", "hf-delay=1"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=1", "hf-message-id=a", "hf-message-id=a"}, "hf-message-id"},
    /* operations */
    {{"hf-topic=t", "hf-delay=1", "hf-op=explode"}, "hf-op"},
    {{"hf-topic=t", "hf-delay=1", "hf-op=commit"}, "hf-op"},
    {{"hf-topic=t", "hf-op=cancel"}, "hf-id"},
    {{"hf-op=cancel", "hf-id=a"}, "hf-topic"},
    {{"hf-topic=t", "hf-op=move", "hf-due=5", "hf-expect=9"}, "hf-id"},
    {{"hf-topic=t", "hf-op=move", "hf-id=a", "hf-due=5"}, "hf-expect"},
    {{"hf-topic=t", "hf-op=move", "hf-id=a", "hf-expect=9"}, "hf-due"},
    {{"hf-topic=t", "hf-op=move", "hf-id=a", "hf-due=5", "hf-expect=-9"}, "hf-expect"},
    /* ids, conflicts, partitions */
    {{"hf-topic=t", "hf-delay=1", "hf-id="}, "hf-id"},
    {{"hf-topic=t", "hf-delay=1", "hf-id=\xff"}, "hf-id"},
    {{"hf-topic=t", "hf-delay=1", "hf-id=\xc0\xaf"}, "hf-id"},         /* overlong */
    {{"hf-topic=t", "hf-delay=1", "hf-id=\xed\xa0\x80"}, "hf-id"},     /* a surrogate */
    {{"hf-topic=t", "hf-delay=1", "hf-id=a\xe2\x82"}, "hf-id"},        /* cut short */
    {{"hf-topic=t", "hf-delay=1", "hf-id=\xf4\x90\x80\x80"}, "hf-id"}, /* past the last code point */
    {{"hf-topic=t", "hf-delay=1", "hf-message-id=\xff"}, "hf-message-id"},
    {{"hf-topic=t", "hf-delay=1", "hf-on-conflict=keep"}, "hf-on-conflict"},
    {{"hf-topic=t", "hf-delay=1", "hf-id=a", "hf-on-conflict=maybe"}, "hf-on-conflict"},
    {{"hf-topic=t", "hf-delay=1", "hf-partition=-1"}, "hf-partition"},
    {{"hf-topic=t", "hf-delay=1", "hf-partition=2147483648"}, "hf-partition"},
    {{"hf-topic=t", "hf-delay=1", "hf-partition=two"}, "hf-partition"},
    /* recurring */
    {{"hf-topic=t", "hf-cron=* * * * *", "hf-id=a"}, NULL},
    {{"hf-topic=t", "hf-cron=* * * * *", "hf-id=a", "hf-tz=UTC", "hf-on-conflict=keep"}, NULL},
    {{"hf-topic=t", "hf-cron=@daily", "hf-id=a", "hf-cron-overlap=skip", "hf-group=g"}, NULL},
    {{"hf-topic=t", "hf-cron=@daily", "hf-id=a", "hf-cron-overlap=skip"}, "hf-cron-overlap"},
    {{"hf-topic=t", "hf-cron=@daily", "hf-id=a", "hf-cron-overlap=maybe"}, "hf-cron-overlap"},
    {{"hf-topic=t", "hf-delay=1", "hf-cron-overlap=skip", "hf-group=g"}, "hf-cron-overlap"},
    {{"hf-topic=t", "hf-cron=\xff * * * *", "hf-id=a"}, "hf-cron"},
    {{"hf-topic=t", "hf-cron=@daily", "hf-id=a", "hf-tz=\xff"}, "hf-tz"},
    {{"hf-topic=t", "hf-cron=* * * * *"}, "hf-cron"},
    {{"hf-topic=t", "hf-cron=* * * * *", "hf-id=a", "hf-delay=1"}, "hf-cron"},
    {{"hf-topic=t", "hf-cron=* * * * *", "hf-id=a", "hf-due=1"}, "hf-cron"},
    {{"hf-topic=t", "hf-delay=1", "hf-tz=Europe/Berlin"}, "hf-tz"},
    {{"hf-topic=t", "hf-op=next", "hf-id=a", "hf-cron=@daily", "hf-due=5"}, "hf-op"},
    {{"hf-topic=t", "hf-op=next", "hf-id=a", "hf-cron=@daily", "hf-due=5", "hf-expect=2"}, NULL},
    /* levels */
    {{"hf-topic=t", "hf-delay=level1"}, NULL},
    {{"hf-topic=t", "hf-delay=level99"}, NULL},
    {{"hf-topic=t", "hf-delay=level0"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=level100"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=level"}, "hf-delay"},
    {{"hf-topic=t", "hf-delay=level3", "hf-due=1"}, "hf-delay"},
};

static const struct row txn_rows[] = {
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t"}, NULL},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-key=", "hf-check-after=6s"}, NULL},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-delay=1s", "hf-id=a", "hf-on-conflict=keep"}, NULL},
    {{"hf-group=g", "hf-op=commit"}, NULL},
    {{"hf-group=g", "hf-op=rollback"}, NULL},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-delay=level3"}, NULL},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-cron=@daily", "hf-id=a"}, "hf-cron"},
    {{"hf-op=commit"}, "hf-group"},
    {{"hf-group=a b", "hf-op=commit"}, "hf-group"},
    {{"hf-group=g"}, "hf-op"},
    {{"hf-group=g", "hf-op=cancel", "hf-topic=t", "hf-id=a"}, "hf-op"},
    {{"hf-group=g", "hf-op=prepare"}, "hf-topic"},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=holdfast.txn"}, "hf-topic"},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-due=1", "hf-delay=1"}, "hf-delay"},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-id=a"}, "hf-id"},
    {{"hf-group=g", "hf-op=prepare", "hf-topic=t", "hf-check-after=soon"}, "hf-check-after"},
    {{"hf-group=g", "hf-group=g", "hf-op=commit"}, "hf-group"},
};

static void check(const struct row *row, enum hf_err e, const struct hf_control_error *why,
                  const struct hf_control *c) {
    if (row->refused) {
        if (e != HF_EINVAL || strcmp(why->header, row->refused) != 0)
            fail_msg("%s %s: %s names %s, not %s", row->headers[0], row->headers[1], hf_err_name(e),
                     why->header, row->refused);
        assert_non_null(why->reason);
        assert_int_equal(c->partition, 77); /* untouched */
    } else if (e) {
        fail_msg("%s %s: refused: %s %s", row->headers[0], row->headers[1], why->header, why->reason);
    }
}

static void the_delay_rules_hold_and_the_header_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof delay_rows / sizeof delay_rows[0]; i++) {
        struct hf_header headers[PAIRS];
        struct hf_control c = {.partition = 77};
        struct hf_control_error why = {"none", NULL};
        size_t n = headers_of(delay_rows[i].headers, headers);
        check(&delay_rows[i], hf_control_delay(headers, n, &c, &why), &why, &c);
    }
}

static void the_transaction_rules_hold_and_the_header_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof txn_rows / sizeof txn_rows[0]; i++) {
        struct hf_header headers[PAIRS];
        struct hf_control c = {.partition = 77};
        struct hf_control_error why = {"none", NULL};
        size_t n = headers_of(txn_rows[i].headers, headers);
        check(&txn_rows[i], hf_control_txn(HF_STR("1042"), headers, n, &c, &why), &why, &c);
    }
    struct hf_header headers[PAIRS];
    struct hf_control c;
    struct hf_control_error why;
    size_t n = headers_of(txn_rows[0].headers, headers);
    assert_int_equal(hf_control_txn((hf_str){NULL, 0}, headers, n, &c, &why), HF_EINVAL);
    assert_string_equal(why.header, "key");
    assert_int_equal(hf_control_txn(HF_STR(""), headers, n, &c, &why), HF_EINVAL);
}

static void values_arrive_and_absent_ones_are_told_apart(void **state) {
    (void)state;
    const char *texts[PAIRS] = {"hf-topic=t",     "hf-due=1969-12-31T23:59:59.999Z",
                                "hf-id=a",        "hf-on-conflict=once",
                                "hf-partition=3", "hf-message-id=m"};
    struct hf_header headers[PAIRS];
    struct hf_control c;
    struct hf_control_error why;
    assert_int_equal(hf_control_delay(headers, headers_of(texts, headers), &c, &why), HF_OK);
    assert_int_equal(c.op, HF_OP_SCHEDULE);
    assert_true(hf_str_is(c.topic, "t") && hf_str_is(c.id, "a") && hf_str_is(c.message_id, "m"));
    assert_int_equal(c.on_conflict, HF_ONCE);
    assert_int_equal(c.due_ms, 0); /* before 1970: past, and not "absent" */
    assert_int_equal(c.delay_ms, -1);
    assert_int_equal(c.check_after_ms, -1);
    assert_int_equal(c.expect, -1);
    assert_int_equal(c.partition, 3);
    assert_null(c.group.p);
    assert_null(c.key.p);
}

static void ids_have_a_limit(void **state) {
    (void)state;
    char id[HF_ID_MAX + 1];
    memset(id, 'a', sizeof id);
    struct hf_header headers[] = {{HF_STR("hf-topic"), HF_STR("t")},
                                  {HF_STR("hf-delay"), HF_STR("1")},
                                  {HF_STR("hf-id"), {id, HF_ID_MAX}}};
    struct hf_control c;
    struct hf_control_error why;
    assert_int_equal(hf_control_delay(headers, 3, &c, &why), HF_OK);
    headers[2].value.n++;
    assert_int_equal(hf_control_delay(headers, 3, &c, &why), HF_EINVAL);
    assert_int_equal(hf_control_txn((hf_str){id, sizeof id}, headers, 0, &c, &why), HF_EINVAL);
    assert_string_equal(why.header, "key");
}

static void a_move_takes_off_control_headers_only(void **state) {
    (void)state;
    static const char *const off[] = {"hf-topic",       "hf-delay", "hf-partition", "hf-id",
                                      "hf-on-conflict", "hf-op",    "hf-cron",      "hf-tz",
                                      "hf-key",         "hf-group", "hf-expect"};
    static const char *const stay[] = {"hf-message-id", "hf-due",    "hf-created-at", "hf-version",
                                       "hf-origin",     "hf-reason", "content-type",  "HF-TOPIC"};
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
        assert_true(hf_header_is_control(hf_str_of(off[i])));
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++)
        assert_false(hf_header_is_control(hf_str_of(stay[i])));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_delay_rules_hold_and_the_header_is_named),
        cmocka_unit_test(the_transaction_rules_hold_and_the_header_is_named),
        cmocka_unit_test(values_arrive_and_absent_ones_are_told_apart),
        cmocka_unit_test(ids_have_a_limit),
        cmocka_unit_test(a_move_takes_off_control_headers_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
