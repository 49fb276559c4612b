/* The hf- headers of one record.
 *
 * A record is read in two passes. First every header of ours is parsed by the row of `fields` that has its
 * name, whatever the operation: a value that has no meaning is refused even where it would not be used, and
 * so is a header that comes twice, since Kafka's clients disagree on whether the first or the last counts.
 * Then the rules of the operation are asked of the result. Headers that are not in the table, those of moves
 * included, are the producer's own affair.
 *
 * Times before 1970 become 0: due is past either way, and -1 means absent. */
#include "control.h"

#include "duration.h"
#include "names.h"

/* Each parser returns NULL, or why it refuses. A null or empty value never gets here. */
typedef const char *parse_fn(struct hf_control *c, hf_str value);

static bool utf8_ok(hf_str s) {
    const uint8_t *p = (const uint8_t *)s.p, *end = p + s.n;
    while (p < end) {
        uint8_t lead = *p++;
        if (lead < 0x80) continue;
        int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || end - p < more) return false;
        uint32_t code = lead & (0x3fu >> more);
        for (int i = 0; i < more; i++) {
            if ((p[i] & 0xc0) != 0x80) return false;
            code = code << 6 | (p[i] & 0x3fu);
        }
        bool overlong = code < (more == 1 ? 0x80u : more == 2 ? 0x800u : 0x10000u);
        if (overlong || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
        p += more;
    }
    return true;
}

static const char *identifier(hf_str *to, hf_str value) {
    if (value.n > HF_ID_MAX) return "longer than 1000 bytes";
    if (!utf8_ok(value)) return "not UTF-8";
    *to = value;
    return NULL;
}

static const char *parse_topic(struct hf_control *c, hf_str value) {
    if (!hf_topic_name_ok(value)) return "not a legal topic name";
    if (hf_topic_is_ours(value)) return "a holdfast. topic cannot be a destination";
    c->topic = value;
    return NULL;
}

static const char *parse_group(struct hf_control *c, hf_str value) {
    if (!hf_group_suffix_ok(value)) return "not a legal group: letters, digits, '.', '_', '-'";
    c->group = value;
    return NULL;
}

static const char *parse_id(struct hf_control *c, hf_str value) {
    return identifier(&c->id, value);
}

static const char *parse_message_id(struct hf_control *c, hf_str value) {
    return identifier(&c->message_id, value);
}

static const char *parse_key(struct hf_control *c, hf_str value) {
    c->key = value;
    return NULL;
}

static const char *parse_due(struct hf_control *c, hf_str value) {
    int64_t ms;
    enum hf_err e = hf_time_parse(value, &ms);
    if (e == HF_ERANGE || (e == HF_OK && ms > HF_TIME_MAX_MS)) return "beyond the year 9999";
    if (e) return "neither milliseconds since 1970 nor a time such as 2026-03-01T12:00:00Z";
    c->due_ms = ms < 0 ? 0 : ms;
    return NULL;
}

static const char *duration(int64_t *to, hf_str value) {
    int64_t ms;
    enum hf_err e = hf_duration_parse(value, &ms);
    if (e == HF_ERANGE || (e == HF_OK && ms > HF_TIME_MAX_MS)) return "longer than a duration may be";
    if (e) return "not a duration such as 250ms, 30s, 15m, 2h or 7d";
    *to = ms;
    return NULL;
}

/* "level3": what that means is a table's affair. */
static const char *parse_level(struct hf_control *c, hf_str digits) {
    int64_t v;
    if (hf_str_int(digits, &v) || v < 1 || v > HF_DELAY_LEVELS_MAX) return "no level: level1, level2 …";
    c->delay_level = (int)v;
    return NULL;
}

static const char *parse_delay(struct hf_control *c, hf_str value) {
    static const hf_str level = {"level", 5};
    if (hf_str_starts(value, level)) return parse_level(c, hf_str_make(value.p + level.n, value.n - level.n));
    return duration(&c->delay_ms, value);
}

static const char *parse_check_after(struct hf_control *c, hf_str value) {
    return duration(&c->check_after_ms, value);
}

static const char *parse_partition(struct hf_control *c, hf_str value) {
    int64_t v;
    if (hf_str_int(value, &v) || v < 0 || v > INT32_MAX) return "not a partition number";
    c->partition = (int32_t)v;
    return NULL;
}

static const char *parse_expect(struct hf_control *c, hf_str value) {
    int64_t v;
    if (hf_str_int(value, &v) || v < 0) return "not a sequence number";
    c->expect = v;
    return NULL;
}

static const char *parse_on_conflict(struct hf_control *c, hf_str value) {
    static const char *const names[] = {[HF_REPLACE] = "replace", [HF_KEEP] = "keep", [HF_ONCE] = "once"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!hf_str_is(value, names[i])) continue;
        c->on_conflict = (enum hf_on_conflict)i;
        return NULL;
    }
    return "none of replace, keep, once";
}

static const char *parse_op(struct hf_control *c, hf_str value) {
    static const struct {
        const char *name;
        enum hf_op op;
    } ops[] = {{"cancel", HF_OP_CANCEL},    {"move", HF_OP_MOVE},       {"next", HF_OP_NEXT},
               {"levels", HF_OP_LEVELS},    {"prepare", HF_OP_PREPARE}, {"commit", HF_OP_COMMIT},
               {"rollback", HF_OP_ROLLBACK}};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (!hf_str_is(value, ops[i].name)) continue;
        c->op = ops[i].op;
        return NULL;
    }
    return "unknown operation";
}

static const char *parse_cron(struct hf_control *c, hf_str value) {
    if (value.n > HF_CRON_MAX) return "longer than 256 bytes";
    if (!utf8_ok(value)) return "not UTF-8";
    c->cron = value;
    return NULL;
}

static const char *parse_tz(struct hf_control *c, hf_str value) {
    if (value.n > HF_ZONE_MAX || !utf8_ok(value)) return "no time zone such as Europe/Berlin";
    c->tz = value;
    return NULL;
}

static const char *parse_overlap(struct hf_control *c, hf_str value) {
    c->skips = hf_str_is(value, "skip");
    return c->skips || hf_str_is(value, "allow") ? NULL : "neither allow nor skip";
}

static const char *parse_last_run(struct hf_control *c, hf_str value) {
    c->last_run = value;
    return NULL;
}

static const struct field {
    hf_str name;
    parse_fn *parse;
    bool control; /* a move takes it off */
} fields[] = {
#define FIELD(name, parse, control)                                                                          \
    { {name, sizeof name - 1}, parse, control }
    FIELD(HF_HDR_TOPIC, parse_topic, true),
    FIELD(HF_HDR_DUE, parse_due, false),
    FIELD(HF_HDR_DELAY, parse_delay, true),
    FIELD(HF_HDR_PARTITION, parse_partition, true),
    FIELD(HF_HDR_ID, parse_id, true),
    FIELD(HF_HDR_ON_CONFLICT, parse_on_conflict, true),
    FIELD(HF_HDR_OP, parse_op, true),
    FIELD(HF_HDR_EXPECT, parse_expect, true),
    FIELD(HF_HDR_CRON, parse_cron, true),
    FIELD(HF_HDR_TZ, parse_tz, true),
    FIELD(HF_HDR_OVERLAP, parse_overlap, true),
    FIELD(HF_HDR_LAST_RUN, parse_last_run, true),
    FIELD(HF_HDR_GROUP, parse_group, true),
    FIELD(HF_HDR_KEY, parse_key, true),
    FIELD(HF_HDR_CHECK_AFTER, parse_check_after, true),
    FIELD(HF_HDR_MESSAGE_ID, parse_message_id, false),
#undef FIELD
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static const struct field *field_of(hf_str name) {
    if (!hf_str_starts(name, HF_STR("hf-"))) return NULL;
    for (size_t i = 0; i < FIELDS; i++)
        if (hf_str_eq(name, fields[i].name)) return &fields[i];
    return NULL;
}

static enum hf_err refuse(struct hf_control_error *why, const char *header, const char *reason) {
    *why = (struct hf_control_error){header, reason};
    return HF_EINVAL;
}

static enum hf_err parse_all(const struct hf_header *headers, size_t n, struct hf_control *c,
                             struct hf_control_error *why) {
    uint32_t seen = 0;
    _Static_assert(FIELDS <= 32, "a bit for each");
    *c = (struct hf_control){
        .due_ms = -1, .delay_ms = -1, .check_after_ms = -1, .expect = -1, .partition = -1};
    for (size_t i = 0; i < n; i++) {
        const struct field *f = field_of(headers[i].key);
        if (!f) continue;
        uint32_t bit = 1u << (f - fields);
        if (seen & bit) return refuse(why, f->name.p, "given twice");
        seen |= bit;
        bool may_be_empty = f->parse == parse_key;
        if (!headers[i].value.p || (headers[i].value.n == 0 && !may_be_empty))
            return refuse(why, f->name.p, "has no value");
        const char *reason = f->parse(c, headers[i].value);
        if (reason) return refuse(why, f->name.p, reason);
    }
    return HF_OK;
}

/* What schedule, move and a delayed prepare have in common. */
static enum hf_err check_time_and_id(const struct hf_control *c, bool timeless_ok,
                                     struct hf_control_error *why) {
    bool timed = c->due_ms >= 0 || c->delay_ms >= 0 || c->delay_level > 0;
    if (!c->topic.p) return refuse(why, HF_HDR_TOPIC, "missing: no destination");
    if (c->due_ms >= 0 && (c->delay_ms >= 0 || c->delay_level > 0))
        return refuse(why, HF_HDR_DELAY, "both hf-due and hf-delay");
    if (!timed && !timeless_ok) return refuse(why, HF_HDR_DUE, "no time: none of hf-delay, hf-due, hf-cron");
    if (!timed && !c->cron.p && c->id.p) return refuse(why, HF_HDR_ID, "needs hf-due or hf-delay");
    if (c->on_conflict != HF_REPLACE && !c->id.p) return refuse(why, HF_HDR_ON_CONFLICT, "needs hf-id");
    return HF_OK;
}

/* What goes with hf-cron, and what does not go without it. */
static enum hf_err check_recurring(const struct hf_control *c, struct hf_control_error *why) {
    if (c->cron.p && !c->id.p)
        return refuse(why, HF_HDR_CRON, "needs hf-id: a name to change or cancel it by");
    if (!c->cron.p && c->tz.p) return refuse(why, HF_HDR_TZ, "needs hf-cron");
    if (!c->cron.p && c->skips) return refuse(why, HF_HDR_OVERLAP, "needs hf-cron");
    if (c->skips && !c->group.p)
        return refuse(why, HF_HDR_OVERLAP,
                      "skip needs hf-group: the group that is to have done the run before");
    return HF_OK;
}

static enum hf_err check_schedule(const struct hf_control *c, struct hf_control_error *why) {
    enum hf_err e = check_recurring(c, why);
    if (e) return e;
    if (c->cron.p && (c->due_ms >= 0 || c->delay_ms >= 0 || c->delay_level > 0))
        return refuse(why, HF_HDR_CRON, "says when: no hf-due or hf-delay goes with it");
    return check_time_and_id(c, c->cron.p != NULL, why);
}

enum hf_err hf_control_delay(const struct hf_header *headers, size_t n, struct hf_control *out,
                             struct hf_control_error *why) {
    struct hf_control c;
    enum hf_err e = parse_all(headers, n, &c, why);
    if (e) return e;
    switch (c.op) {
    case HF_OP_CANCEL:
        if (!c.topic.p) return refuse(why, HF_HDR_TOPIC, "missing: whose id is to be cancelled");
        if (!c.id.p) return refuse(why, HF_HDR_ID, "missing: what is to be cancelled");
        break;
    case HF_OP_MOVE:
        if (!c.id.p) return refuse(why, HF_HDR_ID, "missing: what is to be moved");
        if (c.expect < 0) return refuse(why, HF_HDR_EXPECT, "missing: which message is to be moved");
        if ((e = check_recurring(&c, why)) || (e = check_time_and_id(&c, false, why))) return e;
        break;
    case HF_OP_NEXT:
        if (!c.id.p || !c.cron.p || c.expect < 0 || c.due_ms < 0)
            return refuse(why, HF_HDR_OP, "next: is written by the schedule");
        if ((e = check_time_and_id(&c, false, why))) return e;
        break;
    case HF_OP_LEVELS: break;
    case HF_OP_SCHEDULE:
        if ((e = check_schedule(&c, why))) return e;
        break;
    default: return refuse(why, HF_HDR_OP, "belongs on " HF_TOPIC_TXN);
    }
    *out = c;
    return HF_OK;
}

enum hf_err hf_control_txn(hf_str key, const struct hf_header *headers, size_t n, struct hf_control *out,
                           struct hf_control_error *why) {
    struct hf_control c;
    if (key.n == 0) return refuse(why, "key", "missing: the transaction's id");
    if (key.n > HF_ID_MAX) return refuse(why, "key", "longer than 1000 bytes");
    if (!utf8_ok(key)) return refuse(why, "key", "not UTF-8");
    enum hf_err e = parse_all(headers, n, &c, why);
    if (e) return e;
    if (!c.group.p) return refuse(why, HF_HDR_GROUP, "missing: the producer group");
    switch (c.op) {
    case HF_OP_PREPARE:
        if (c.cron.p) return refuse(why, HF_HDR_CRON, "a recurring schedule cannot be part of a transaction");
        if ((e = check_time_and_id(&c, true, why))) return e;
        break;
    case HF_OP_COMMIT:
    case HF_OP_ROLLBACK: break;
    case HF_OP_SCHEDULE: return refuse(why, HF_HDR_OP, "missing: prepare, commit or rollback");
    default: return refuse(why, HF_HDR_OP, "belongs on " HF_TOPIC_DELAY);
    }
    *out = c;
    return HF_OK;
}

bool hf_header_is_control(hf_str name) {
    const struct field *f = field_of(name);
    return f && f->control;
}

bool hf_header_is_of_rejection(hf_str name) {
    return hf_str_is(name, HF_HDR_REASON) || hf_str_is(name, HF_HDR_ORIGIN) || hf_str_is(name, HF_HDR_DUE) ||
           hf_str_is(name, HF_HDR_CREATED_AT) || hf_header_is_control(name);
}
