/* The metadata of a commit: what is written is read back, whatever is read never crashes, and 4 KB are never
 * passed. */
#include "base/marks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SPAN = 3000 };

static uint64_t state_of_random = 20261121;

static uint32_t rnd(uint32_t below) {
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_of_random >> 33) % below;
}

/* attempts of each offset; -1: settled. */
static void write_model(const int *model, int64_t position, int64_t next, char text[MARKS_TEXT_SIZE],
                        bool *whole) {
    struct marks_writer w;
    marks_begin(&w, position);
    for (int64_t o = position; o < next; o++)
        if (model[o] >= 0) marks_add(&w, o, model[o], model[o] ? 1700000000 + o : 0);
    *whole = marks_end(&w, next, text);
}

static void what_was_written_is_read_back(void **state) {
    (void)state;
    for (int round = 0; round < 2000; round++) {
        int model[SPAN];
        uint32_t settled = rnd(100), tried = rnd(round % 2 ? 10 : 100);
        int64_t next = 1 + rnd(SPAN - 1), position = rnd((uint32_t)next);
        for (int64_t o = 0; o < next; o++)
            model[o] = rnd(100) < settled ? -1 : rnd(100) < tried ? 1 + (int)rnd(300) : 0;
        char text[MARKS_TEXT_SIZE];
        bool whole;
        write_model(model, position, next, text, &whole);
        assert_true(strlen(text) <= MARKS_TEXT_MAX);
        struct marks m = {.next = INT64_MIN};
        if (text[0]) assert_int_equal(marks_parse(&m, position, text, strlen(text)), HF_OK);
        if (whole && text[0]) assert_true(m.next == next);
        for (int64_t o = position; o < next; o++) {
            bool known = o < m.next;
            assert_int_equal(marks_settled(&m, o), known && model[o] < 0);
            const struct mark *k = marks_tried(&m, o);
            assert_int_equal(k ? k->attempts : 0, known && model[o] > 0 ? model[o] : 0);
            if (k) assert_true(k->first_failed_s == 1700000000 + o);
        }
        assert_false(marks_settled(&m, next));
        marks_fini(&m);
    }
}

static void a_thousand_messages_with_gaps_fit(void **state) {
    (void)state;
    struct marks_writer w;
    char text[MARKS_TEXT_SIZE];
    marks_begin(&w, 1000000);
    for (int i = 0; i < 1000; i++) marks_add(&w, 1000000 + i * 50, 0, 0);
    assert_true(marks_end(&w, 1000000 + 50000, text));
}

static void too_much_is_cut_off_and_told(void **state) {
    (void)state;
    struct marks_writer w;
    char text[MARKS_TEXT_SIZE];
    marks_begin(&w, 0);
    for (int i = 0; i < 2000; i++) marks_add(&w, i * 2, 3, 1800000000);
    assert_false(marks_end(&w, 4000, text));
    struct marks m;
    assert_int_equal(marks_parse(&m, 0, text, strlen(text)), HF_OK);
    assert_true(m.next < 4000 && m.next > 100);
    assert_false(marks_settled(&m, m.next));
    marks_fini(&m);
}

static void damaged_text_is_refused_or_harmless(void **state) {
    (void)state;
    int model[200];
    char text[MARKS_TEXT_SIZE];
    bool whole;
    for (int i = 0; i < 200; i++) model[i] = (int)rnd(3) - 1;
    write_model(model, 0, 200, text, &whole);
    size_t n = strlen(text);
    for (int round = 0; round < 20000; round++) {
        char bad[MARKS_TEXT_SIZE];
        memcpy(bad, text, n + 1);
        for (uint32_t k = rnd(4); k-- > 0;) bad[4 + rnd((uint32_t)n - 4)] = (char)rnd(256);
        struct marks m;
        if (marks_parse(&m, rnd(2) ? 0 : INT64_MAX - 5, bad, rnd(3) ? n : rnd((uint32_t)n)) == HF_OK)
            (void)marks_settled(&m, 77);
        marks_fini(&m);
    }
    struct marks m;
    assert_int_equal(marks_parse(&m, 0, "somebody else's", 15), HF_EINVAL);
    assert_int_equal(marks_parse(&m, 0, "", 0), HF_EINVAL);
}

int main(void) {
    printf("seed %llu\n", (unsigned long long)state_of_random);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read_back),
        cmocka_unit_test(a_thousand_messages_with_gaps_fit),
        cmocka_unit_test(too_much_is_cut_off_and_told),
        cmocka_unit_test(damaged_text_is_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
