/* The state machine of transactions, cell by cell, against its rules in words; and the memory of decided ids
 * against a naive one. */
#include "base/hash.h"
#include "txn/decided.h"
#include "txn/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- states ---- */

static bool can_happen(enum txn_state s, enum txn_event e) {
    if (e == TXN_PREPARE_AGAIN) return s != TXN_NONE; /* again needs a first time */
    if (e == TXN_EXHAUSTED) return s == TXN_PREPARED; /* only prepared ones are asked about */
    return true;
}

static void decided_states_are_never_left(void **unused) {
    (void)unused;
    for (enum txn_event e = 0; e < (enum txn_event)TXN_EVENTS; e++) {
        for (enum txn_state s = TXN_COMMITTED; s <= TXN_ROLLED_BACK; s++) {
            if (!can_happen(s, e)) continue;
            struct txn_answer a = txn_state_next(s, e);
            assert_int_equal(a.next, s);
            bool same =
                (s == TXN_COMMITTED && e == TXN_COMMIT) || (s == TXN_ROLLED_BACK && e == TXN_ROLLBACK);
            assert_int_equal(a.outcome, same ? TXN_REPEATED : TXN_CONTRADICTED);
        }
    }
}

static void first_decision_is_applied_whether_prepared_or_parked(void **unused) {
    (void)unused;
    for (enum txn_state s = TXN_PREPARED; s <= TXN_PARKED; s++) {
        struct txn_answer commit = txn_state_next(s, TXN_COMMIT), rollback = txn_state_next(s, TXN_ROLLBACK);
        assert_int_equal(commit.next, TXN_COMMITTED);
        assert_int_equal(commit.outcome, TXN_APPLIED);
        assert_int_equal(rollback.next, TXN_ROLLED_BACK);
        assert_int_equal(rollback.outcome, TXN_APPLIED);
    }
}

static void decisions_of_unknown_ids_leave_nothing_behind(void **unused) {
    (void)unused;
    for (enum txn_event e = TXN_COMMIT; e <= TXN_ROLLBACK; e++) {
        struct txn_answer a = txn_state_next(TXN_NONE, e);
        assert_int_equal(a.next, TXN_NONE);
        assert_int_equal(a.outcome, TXN_UNKNOWN_ID);
    }
}

static void every_cell_is_as_the_diagram_says(void **unused) {
    (void)unused;
    static const char *const diagram[TXN_STATES] = {/* p  a  c  r  o  x: next state and outcome */
                                                    [TXN_NONE] = "PA -- NU NU RX --",
                                                    [TXN_PREPARED] = "PA PR CA RA RX KA",
                                                    [TXN_PARKED] = "PA KR CA RA RX --",
                                                    [TXN_COMMITTED] = "CC CC CR CC CC --",
                                                    [TXN_ROLLED_BACK] = "RC RC RC RR RC --"};
    static const char states[] = "NPKCR", outcomes[] = "ARCUX";
    for (enum txn_state s = 0; s < (enum txn_state)TXN_STATES; s++) {
        for (enum txn_event e = 0; e < (enum txn_event)TXN_EVENTS; e++) {
            const char *cell = diagram[s] + 3 * e;
            assert_int_equal(cell[0] != '-', can_happen(s, e));
            if (cell[0] == '-') continue;
            struct txn_answer a = txn_state_next(s, e);
            assert_int_equal(states[a.next], cell[0]);
            assert_int_equal(outcomes[a.outcome], cell[1]);
        }
    }
}

/* ---- decided ids ---- */

static hf_str name(char *buf, unsigned n) {
    return hf_str_make(buf, (size_t)sprintf(buf, "order-%u", n));
}

static void siphash_matches_its_published_vectors(void **unused) {
    (void)unused;
    uint8_t in[64];
    for (int i = 0; i < 64; i++) in[i] = (uint8_t)i;
    struct hf_siphash_key key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    assert_true(hf_siphash(key, in, 0) == 0x726fdb47dd0e0e31u);
    assert_true(hf_siphash(key, in, 15) == 0xa129ca6149be45e5u);
    assert_true(hf_siphash(key, in, 63) == 0x958a324ceb064572u);
}

static void remembers_decisions_until_they_are_too_old(void **unused) {
    (void)unused;
    struct txn_decided d;
    char buf[32];
    assert_int_equal(txn_decided_init(&d, 1000, 1 << 20), HF_OK);
    for (unsigned i = 0; i < 600; i++) {
        enum txn_state s = i % 3 ? TXN_COMMITTED : TXN_ROLLED_BACK;
        uint64_t word = txn_decided_word(HF_STR("g"), name(buf, i), s);
        assert_int_equal(txn_decided_add(&d, word, i), HF_OK);
        txn_decided_check(&d);
    }
    for (unsigned i = 0; i < 600; i++)
        assert_int_equal(txn_decided_find(&d, HF_STR("g"), name(buf, i)),
                         i % 3 ? TXN_COMMITTED : TXN_ROLLED_BACK);
    assert_int_equal(txn_decided_find(&d, HF_STR("other"), name(buf, 1)), TXN_NONE);
    assert_int_equal(txn_decided_expired(&d, 1255), 0);
    assert_int_equal(txn_decided_expired(&d, 1256), 1); /* the first 256 were decided at 255 or before */
    assert_int_equal(txn_decided_horizon(&d, 1256), 256);
    txn_decided_forget(&d, 1);
    assert_int_equal(txn_decided_horizon(&d, 1256), 256); /* time, not what happened to be forgotten */
    assert_int_equal(txn_decided_horizon(&d, 1000), 255);
    txn_decided_check(&d);
    assert_int_equal(txn_decided_find(&d, HF_STR("g"), name(buf, 255)), TXN_NONE);
    assert_int_equal(txn_decided_find(&d, HF_STR("g"), name(buf, 256)), TXN_COMMITTED);
    assert_int_equal(txn_decided_expired(&d, 1 << 30), 1); /* the last chunk stays */
    txn_decided_fini(&d);
}

static void memory_of_decisions_is_bounded_by_bytes(void **unused) {
    (void)unused;
    struct txn_decided d;
    char buf[32];
    assert_int_equal(txn_decided_init(&d, INT64_MAX, 4 * TXN_WORD_COST * TXN_CHUNK_WORDS), HF_OK);
    for (unsigned i = 0; i < 256 * 20; i++) {
        uint64_t word = txn_decided_word(HF_STR("g"), name(buf, i), TXN_COMMITTED);
        assert_int_equal(txn_decided_add(&d, word, i), HF_OK);
        txn_decided_forget(&d, txn_decided_expired(&d, i));
        assert_true(d.count <= 5);
        int64_t horizon = txn_decided_horizon(&d, i);
        assert_true(i < 256 * 5 ? horizon < 0 : horizon > 0);
        for (unsigned k = horizon < 0 ? 0 : (unsigned)horizon + 1; i % 97 == 0 && k <= i; k++)
            assert_int_equal(txn_decided_find(&d, HF_STR("g"), name(buf, k)), TXN_COMMITTED);
        if (horizon >= 0)
            assert_int_equal(txn_decided_find(&d, HF_STR("g"), name(buf, (unsigned)horizon)), TXN_NONE);
    }
    txn_decided_check(&d);
    txn_decided_fini(&d);
}

/* Random additions, undos, forgetting, and a second memory loaded from the stored form. */
static void loaded_memory_equals_the_stored_one(void **unused) {
    (void)unused;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct txn_decided d, loaded;
        char buf[32];
        unsigned next = 0, state = seed;
        assert_int_equal(txn_decided_init(&d, 3000, 1 << 20), HF_OK);
        assert_int_equal(txn_decided_init(&loaded, 3000, 1 << 20), HF_OK);
        for (int round = 0; round < 20; round++) {
            state = state * 1103515245 + 12345;
            unsigned n = (state >> 16) % 300;
            for (unsigned i = 0; i < n; i++) {
                uint64_t w = txn_decided_word(HF_STR("g"), name(buf, next++), TXN_COMMITTED);
                assert_int_equal(txn_decided_add(&d, w, next), HF_OK);
            }
            unsigned undo = state % 2 ? n / 2 : 0;
            txn_decided_undo(&d, undo);
            next -= undo;
            txn_decided_forget(&d, txn_decided_expired(&d, next));
            txn_decided_check(&d);
        }
        struct hf_buf b;
        hf_buf_init(&b, TXN_CHUNK_BYTES);
        for (size_t i = 0; i < d.count; i++) {
            hf_buf_reset(&b);
            txn_chunk_encode(txn_decided_chunk(&d, i), &b);
            assert_int_equal(txn_decided_load(&loaded, txn_decided_chunk(&d, i)->number, hf_buf_view(&b)),
                             HF_OK);
        }
        hf_buf_fini(&b);
        txn_decided_check(&loaded);
        assert_int_equal(loaded.used, d.used);
        assert_true(txn_decided_horizon(&loaded, next) >= txn_decided_horizon(&d, next) ||
                    d.count < d.chunks_max);
        for (unsigned i = 0; i < next; i++)
            assert_int_equal(txn_decided_find(&loaded, HF_STR("g"), name(buf, i)),
                             txn_decided_find(&d, HF_STR("g"), name(buf, i)));
        txn_decided_fini(&d);
        txn_decided_fini(&loaded);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decided_states_are_never_left),
        cmocka_unit_test(first_decision_is_applied_whether_prepared_or_parked),
        cmocka_unit_test(decisions_of_unknown_ids_leave_nothing_behind),
        cmocka_unit_test(every_cell_is_as_the_diagram_says),
        cmocka_unit_test(siphash_matches_its_published_vectors),
        cmocka_unit_test(remembers_decisions_until_they_are_too_old),
        cmocka_unit_test(memory_of_decisions_is_bounded_by_bytes),
        cmocka_unit_test(loaded_memory_equals_the_stored_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
