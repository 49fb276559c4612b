/* Delay levels: "hf-delay: level3" for those who come from RocketMQ.
 *
 * What a level means is a setting of the server, but what a record does must not depend on anything but the
 * log: if a table changed between a crash and the start, a message that has been fired could be due anew. So
 * the table is in the log. When the setting differs from the table in force, the server commits a record
 * "hf-op: levels" with the new table and, in the same commit, what is in force ("delay/levels"); records
 * before it keep the old meaning. A checkpoint notes the table at its base. */
#include "schedule_state.h"

#include "base/duration.h"
#include "base/names.h"

enum hf_err levels_parse(hf_str table, struct levels *out) {
    struct levels l = {0};
    while (table.n) {
        size_t n = 0;
        while (n < table.n && table.p[n] != ' ') n++;
        hf_str word = hf_str_make(table.p, n);
        table = hf_str_make(table.p + n, table.n - n);
        while (table.n && table.p[0] == ' ') table = hf_str_make(table.p + 1, table.n - 1);
        if (word.n == 0) continue; /* spaces in front */
        if (l.count == HF_DELAY_LEVELS_MAX || hf_duration_parse(word, &l.ms[l.count])) return HF_EINVAL;
        if (l.ms[l.count] < 0 || l.ms[l.count] > HF_TIME_MAX_MS) return HF_EINVAL;
        l.count++;
    }
    if (l.count == 0) return HF_EINVAL;
    *out = l;
    return HF_OK;
}

int64_t levels_ms(const struct levels *l, int level) {
    size_t i = (size_t)level < l->count ? (size_t)level : l->count;
    return l->ms[i - 1];
}

void levels_encode(const struct levels *l, struct hf_buf *b) {
    hf_buf_be32(b, (uint32_t)l->count);
    for (size_t i = 0; i < l->count; i++) hf_buf_be64(b, (uint64_t)l->ms[i]);
}

void levels_read(struct levels *l, struct hf_reader *r) {
    struct levels read = {.count = hf_read_be32(r)};
    for (size_t i = 0; i < read.count && i < HF_DELAY_LEVELS_MAX; i++) read.ms[i] = (int64_t)hf_read_be64(r);
    if (!r->bad && read.count >= 1 && read.count <= HF_DELAY_LEVELS_MAX) *l = read;
}

enum hf_err schedule_check_levels(hf_str table, size_t *count) {
    struct levels l;
    enum hf_err e = levels_parse(table, &l);
    if (!e) *count = l.count;
    return e;
}

enum hf_err schedule_set_levels(struct engine *e, hf_str table, int64_t now_ms, engine_done *done, void *arg,
                                bool *started) {
    struct levels wanted, in_force;
    hf_str now = engine_state_get(e, HF_STR("delay/levels"));
    *started = false;
    if (levels_parse(table, &wanted)) return HF_EINVAL;
    if (levels_parse(now.n ? now : HF_STR(SCHEDULE_LEVELS), &in_force)) return HF_ECORRUPT;
    bool same = wanted.count == in_force.count &&
                memcmp(wanted.ms, in_force.ms, wanted.count * sizeof wanted.ms[0]) == 0;
    if (same) return HF_OK;
    const struct hf_header op = {HF_STR(HF_HDR_OP), HF_STR("levels")};
    const struct engine_out out = {
        .topic = HF_STR(HF_TOPIC_DELAY), .value = table, .headers = &op, .header_count = 1};
    const struct engine_put put = {HF_STR("delay/levels"), table};
    struct engine_commit c = {.now_ms = now_ms, .outs = &out, .out_count = 1, .puts = &put, .put_count = 1};
    enum hf_err error = engine_commit(e, &c, done, arg);
    *started = !error;
    return error;
}
