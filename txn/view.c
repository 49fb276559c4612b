/* Questions: what became of a record, which transactions wait, what went otherwise than asked.
 *
 * Of the outcomes only those other than `applied` are kept, the last TXN_EXCEPTIONS_MAX of them, in a ring
 * that is stored entry by entry in the commits that store their effects:
 *
 *     ring   [1021] [1022] [1023] [1024 → overwrites 0] …      stored as txn/x/<number modulo ring>
 *
 * So a record that is processed and not in the ring was applied, unless its exception may have been
 * overwritten: exceptions of one partition come in the order of offsets, so all those above the ring's
 * lowest offset of that partition are still there, and for those below nothing can be said. */
#include "internal.h"

#include <assert.h>
#include <stdlib.h>

/* ---- exceptions ---- */

static struct exception **exception_at(struct txn *t, uint64_t number) {
    return &t->exceptions[number % TXN_EXCEPTIONS_MAX];
}

enum hf_err exception_ready(struct txn *t) {
    struct exception **e = exception_at(t, t->exception_next);
    if (!*e) *e = malloc(sizeof **e);
    return *e ? HF_OK : HF_ENOMEM;
}

void exception_add(struct txn *t, const struct engine_record *r, int32_t partition, hf_str group,
                   enum txn_outcome outcome) {
    struct exception *e = *exception_at(t, t->exception_next);
    size_t id_n = r->key.n < EXCEPTION_ID_MAX ? r->key.n : EXCEPTION_ID_MAX;
    *e = (struct exception){.number = t->exception_next++,
                            .sequence = r->sequence,
                            .time_ms = r->timestamp_ms,
                            .partition = partition,
                            .offset = r->offset,
                            .outcome = outcome,
                            .group_n = (uint16_t)group.n,
                            .id_n = (uint16_t)id_n};
    if (group.n) memcpy(e->text, group.p, group.n);
    if (id_n) memcpy(e->text + group.n, r->key.p, id_n);
}

bool exceptions_full(const struct txn *t) {
    return t->exception_next - t->exception_stored >= TXN_EXCEPTIONS_MAX;
}

static uint64_t exception_oldest(const struct txn *t) {
    return t->exception_next > TXN_EXCEPTIONS_MAX ? t->exception_next - TXN_EXCEPTIONS_MAX : 0;
}

enum hf_err txn_outcome_at(struct txn *t, int32_t partition, int64_t offset, enum txn_outcome *out) {
    if (t->loaded && (partition < 0 || partition >= t->input_count || offset < 0)) return HF_ENOTFOUND;
    if (!t->loaded || offset >= t->inputs[partition].durable) {
        t->asked = t->wants = true;
        return HF_EAGAIN;
    }
    int64_t lowest = INT64_MAX;
    uint64_t oldest = exception_oldest(t);
    for (uint64_t number = t->exception_next; number > oldest; number--) {
        const struct exception *e = *exception_at(t, number - 1);
        if (!e || e->partition != partition) continue;
        if (e->offset == offset) {
            *out = e->outcome;
            return HF_OK;
        }
        if (e->offset < lowest) lowest = e->offset;
    }
    if (oldest > 0 && (lowest == INT64_MAX || offset < lowest)) return HF_ENOTFOUND;
    *out = TXN_APPLIED;
    return HF_OK;
}

void txn_exceptions(struct txn *t, size_t max, void (*fn)(void *arg, const struct txn_exception_view *v),
                    void *arg) {
    for (uint64_t number = t->exception_next; number > exception_oldest(t) && max > 0; number--) {
        const struct exception *e = *exception_at(t, number - 1);
        if (!e) continue;
        struct txn_exception_view v = {.group = hf_str_make(e->text, e->group_n),
                                       .id = hf_str_make(e->text + e->group_n, e->id_n),
                                       .time_ms = e->time_ms,
                                       .partition = e->partition,
                                       .offset = e->offset,
                                       .outcome = e->outcome};
        fn(arg, &v);
        max--;
    }
}

void txn_mark(struct txn *t, int64_t *ends) {
    for (int32_t p = 0; p < TXN_PARTITIONS_MAX; p++) {
        int64_t start;
        bool known = p < t->input_count &&
                     engine_bounds(t->engine, HF_STR(HF_TOPIC_TXN), p, &start, &ends[p]) == HF_OK;
        if (!known) ends[p] = 0;
    }
}

bool txn_reached(const struct txn *t, const int64_t *ends) {
    if (!t->loaded) return false;
    for (int32_t p = 0; p < t->input_count; p++)
        if (t->inputs[p].next < ends[p]) return false;
    return true;
}

void txn_hurry(struct txn *t) {
    t->asked = t->wants = true;
}

/* ---- transactions ---- */

static struct txn_view view_of(const struct live *x) {
    bool asks = x->state == TXN_PREPARED && !x->outstanding && x->wake_ms != NEVER_MS;
    return (struct txn_view){.group = live_group(x),
                             .id = live_id(x),
                             .sequence = x->sequence,
                             .state = x->state,
                             .halves = x->half_count,
                             .bytes = x->bytes,
                             .created_ms = x->created_ms,
                             .last_prepare_ms = x->last_prepare_ms,
                             .decided_ms = x->decided_ms,
                             .checks_sent = x->sent,
                             .checks_read = x->counted,
                             .next_check_ms = asks ? x->wake_ms : -1,
                             .durable = !x->dirty && !x->flying && x->stored,
                             .stuck = x->stuck};
}

uint64_t txn_list(struct txn *t, hf_str group, enum txn_state state, uint64_t from, size_t max,
                  void (*fn)(void *arg, const struct txn_view *v), void *arg) {
    for (struct live *x = t->table; x; x = x->hh.next) {
        if (x->sequence < from) continue;
        if (group.p && !hf_str_eq(live_group(x), group)) continue;
        if (state != TXN_NONE && x->state != state) continue;
        if (max-- == 0) return x->sequence;
        struct txn_view v = view_of(x);
        fn(arg, &v);
    }
    return 0;
}

enum hf_err txn_show(struct txn *t, hf_str group, hf_str id, struct txn_view *out) {
    struct live *x = live_find(t, group, id);
    if (x) {
        *out = view_of(x);
        return HF_OK;
    }
    enum txn_state state = txn_decided_find(&t->decided, group, id);
    if (state == TXN_NONE) return HF_ENOTFOUND;
    *out = (struct txn_view){.group = group, .id = id, .state = state, .durable = true, .next_check_ms = -1};
    return HF_OK;
}

void txn_halves(struct txn *t, hf_str group, hf_str id, void (*fn)(void *arg, const struct txn_half_view *h),
                void *arg) {
    struct live *x = live_find(t, group, id);
    for (const struct half *h = x ? x->halves : NULL; h; h = h->next) {
        struct txn_half_view v = {.partition = h->partition, .offset = h->offset, .bytes = h->bytes};
        fn(arg, &v);
    }
}

void txn_stats(const struct txn *t, struct txn_stats *out) {
    *out = t->stats;
    out->live = HASH_COUNT(t->table);
    out->live_bytes = t->bytes;
    out->remembered = t->decided.used;
    out->id_horizon_ms = txn_decided_horizon(&t->decided, t->now_ms);
}
