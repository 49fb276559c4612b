/* The table of settings, and their texts. Ranges are what clients may ask for; the log itself works with
 * smaller segments and messages too, which tests use. */
#include "settings.h"

#include "base/duration.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define DAY_MS ((int64_t)24 * 60 * 60 * 1000)

enum { MILLION = 1000000 };

const struct log_setting_info log_setting_infos[LOG_SETTINGS] = {
    [LOG_CLEANUP_POLICY] = {"cleanup.policy", LOG_KIND_POLICY, LOG_CLEANUP_DELETE,
                            LOG_CLEANUP_DELETE | LOG_CLEANUP_COMPACT, LOG_CLEANUP_DELETE, false,
                            "delete, compact or \"delete,compact\"",
                            "old segments are deleted, or compacted to the latest record of each key"},
    [LOG_RETENTION_MS] = {"retention.ms", LOG_KIND_MS, -1, INT64_MAX, 7 * DAY_MS, false,
                          "-1 for no limit, or 0 and more milliseconds",
                          "segments whose youngest record is older than this are deleted"},
    [LOG_RETENTION_BYTES] = {"retention.bytes", LOG_KIND_BYTES, -1, INT64_MAX, -1, false,
                             "-1 for no limit, or 0 and more bytes",
                             "the oldest segments beyond this size of a partition are deleted"},
    [LOG_SEGMENT_BYTES] = {"segment.bytes", LOG_KIND_BYTES, 1 << 20, 1 << 30, 256 << 20, true,
                           "1048576 to 1073741824 bytes", "size of a segment file"},
    [LOG_SEGMENT_MS] = {"segment.ms", LOG_KIND_MS, 1, INT64_MAX, 7 * DAY_MS, false, "1 and more milliseconds",
                        "a segment is closed after this time though it is not full"},
    [LOG_DELETE_RETENTION] = {"delete.retention.ms", LOG_KIND_MS, 0, INT64_MAX, DAY_MS, false,
                              "0 and more milliseconds",
                              "how long compaction keeps a record without a value, which deletes its key"},
    [LOG_DIRTY_RATIO] = {"min.cleanable.dirty.ratio", LOG_KIND_RATIO, 0, MILLION, MILLION / 2, false,
                         "0 to 1, with up to six digits behind the point",
                         "share of a partition not yet compacted at which compaction begins"},
    [LOG_MESSAGE_MAX] = {"max.message.bytes", LOG_KIND_BYTES, 1024, 64 << 20, 1 << 20, false,
                         "1024 to 67108864 bytes", "largest record batch"},
    [LOG_TIMESTAMP_TYPE] = {"message.timestamp.type", LOG_KIND_TIMESTAMP, 0, 1, 0, false,
                            "CreateTime or LogAppendTime",
                            "whose time a record has: its producer's or the log's"},
    [LOG_COMPACTION_LAG] = {"min.compaction.lag.ms", LOG_KIND_MS, 0, INT64_MAX, 0, false,
                            "0 and more milliseconds",
                            "how old a record is at least before compaction takes it for a later one"},
};

enum hf_err log_setting_find(hf_str name, enum log_setting *out) {
    for (enum log_setting i = 0; i < LOG_SETTINGS; i++) {
        if (!hf_str_is(name, log_setting_infos[i].name)) continue;
        *out = i;
        return HF_OK;
    }
    return HF_ENOTFOUND;
}

/* ---- texts ---- */

static hf_str trimmed(hf_str s) {
    while (s.n > 0 && s.p[0] == ' ') s = hf_str_make(s.p + 1, s.n - 1);
    while (s.n > 0 && s.p[s.n - 1] == ' ') s.n--;
    return s;
}

static enum hf_err parse_policy(hf_str text, int64_t *out) {
    int64_t bits = 0;
    while (true) {
        const char *comma = text.n ? memchr(text.p, ',', text.n) : NULL;
        hf_str word = trimmed(hf_str_make(text.p, comma ? (size_t)(comma - text.p) : text.n));
        if (hf_str_is(word, "delete"))
            bits |= LOG_CLEANUP_DELETE;
        else if (hf_str_is(word, "compact"))
            bits |= LOG_CLEANUP_COMPACT;
        else
            return HF_EINVAL;
        if (!comma) break;
        text = hf_str_make(comma + 1, text.n - (size_t)(comma + 1 - text.p));
    }
    *out = bits;
    return HF_OK;
}

/* 0, 0.5, 1.0: digits, and a point with up to six more. */
static enum hf_err parse_ratio(hf_str text, int64_t *out) {
    const char *point = text.n ? memchr(text.p, '.', text.n) : NULL;
    hf_str whole = hf_str_make(text.p, point ? (size_t)(point - text.p) : text.n);
    int64_t n;
    enum hf_err e = hf_str_int(whole, &n);
    if (e || n < 0 || n > 1) return e ? e : HF_ERANGE;
    int64_t scale = MILLION;
    n *= MILLION;
    for (const char *c = point ? point + 1 : text.p + text.n; c < text.p + text.n; c++) {
        scale /= 10;
        if (*c < '0' || *c > '9' || scale == 0) return HF_EINVAL;
        n += (*c - '0') * scale;
    }
    *out = n;
    return HF_OK;
}

static enum hf_err parse_bytes(hf_str text, int64_t *out) {
    static const char *const units[] = {"KiB", "MiB", "GiB"};
    int64_t times = 1;
    for (int i = 0; i < 3; i++) {
        if (text.n <= 3 || memcmp(text.p + text.n - 3, units[i], 3) != 0) continue;
        times = INT64_C(1024) << 10 * i;
        text.n -= 3;
        break;
    }
    int64_t n;
    enum hf_err e = hf_str_int(text, &n);
    if (e) return e;
    return __builtin_mul_overflow(n, times, out) ? HF_ERANGE : HF_OK;
}

static enum hf_err parse_timestamp(hf_str text, int64_t *out) {
    if (!hf_str_is(text, "CreateTime") && !hf_str_is(text, "LogAppendTime")) return HF_EINVAL;
    *out = hf_str_is(text, "LogAppendTime");
    return HF_OK;
}

static enum hf_err parse_ms(hf_str text, int64_t *out) {
    return text.n > 0 && text.p[0] == '-' ? hf_str_int(text, out) : hf_duration_parse(text, out);
}

enum hf_err log_setting_parse(enum log_setting which, hf_str text, int64_t *out) {
    static enum hf_err (*const parse[])(hf_str text, int64_t * out) = {
        [LOG_KIND_MS] = parse_ms,
        [LOG_KIND_BYTES] = parse_bytes,
        [LOG_KIND_RATIO] = parse_ratio,
        [LOG_KIND_POLICY] = parse_policy,
        [LOG_KIND_TIMESTAMP] = parse_timestamp,
    };
    const struct log_setting_info *info = &log_setting_infos[which];
    int64_t n;
    enum hf_err e = parse[info->kind](trimmed(text), &n);
    if (e) return e;
    if (n < info->min || n > info->max) return HF_ERANGE;
    *out = n;
    return HF_OK;
}

static void print_ratio(int64_t n, char out[LOG_SETTING_TEXT]) {
    int length = snprintf(out, LOG_SETTING_TEXT, "%d.%06d", (int)(n / MILLION), (int)(n % MILLION));
    while (length > 3 && out[length - 1] == '0') out[--length] = 0;
}

void log_setting_print(enum log_setting which, int64_t value, char out[LOG_SETTING_TEXT]) {
    static const char *const policies[] = {"", "delete", "compact", "compact,delete"};
    switch (log_setting_infos[which].kind) {
    case LOG_KIND_POLICY:
        assert(value >= 0 && value <= 3);
        (void)snprintf(out, LOG_SETTING_TEXT, "%s", policies[value]);
        return;
    case LOG_KIND_TIMESTAMP:
        (void)snprintf(out, LOG_SETTING_TEXT, "%s", value ? "LogAppendTime" : "CreateTime");
        return;
    case LOG_KIND_RATIO: print_ratio(value, out); return;
    case LOG_KIND_MS:
    case LOG_KIND_BYTES: (void)snprintf(out, LOG_SETTING_TEXT, "%" PRId64, value); return;
    }
}
