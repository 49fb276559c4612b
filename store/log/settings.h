/* What a topic may be told about its keeping: Kafka's names, texts and ranges, one table.
 *
 *     struct log_settings s = {0};
 *     if (log_setting_find(HF_STR("retention.ms"), &which) == HF_OK &&
 *         log_setting_parse(which, HF_STR("7d"), &value) == HF_OK) log_settings_put(&s, which, value);
 *
 * A topic keeps only what it was told itself; for all else it follows the server's values, also when those
 * change with a restart. Every value is an int64: milliseconds, bytes, bits of log_cleanup, parts per
 * million. Pure; any thread. */
#ifndef STORE_LOG_SETTINGS_H
#define STORE_LOG_SETTINGS_H

#include "base/bytes.h"

/* The numbers are on disk (docs/storage.md, "State"): new ones go to the end. */
enum log_setting {
    LOG_CLEANUP_POLICY,   /* cleanup.policy: bits of log_cleanup */
    LOG_RETENTION_MS,     /* retention.ms: a segment whose youngest record is older goes; -1: never */
    LOG_RETENTION_BYTES,  /* retention.bytes: of one partition, beyond which the oldest segments go; -1: none
                           */
    LOG_SEGMENT_BYTES,    /* segment.bytes */
    LOG_SEGMENT_MS,       /* segment.ms: after this time a segment is rolled though it is not full */
    LOG_DELETE_RETENTION, /* delete.retention.ms: how long compaction keeps a record without value */
    LOG_DIRTY_RATIO,      /* min.cleanable.dirty.ratio, in parts per million */
    LOG_MESSAGE_MAX,      /* max.message.bytes: of one batch */
    LOG_TIMESTAMP_TYPE,   /* message.timestamp.type: 0 CreateTime, 1 LogAppendTime */
    LOG_COMPACTION_LAG,   /* min.compaction.lag.ms: how old a record is before compaction may take it */
    LOG_SETTINGS
};

enum log_cleanup { LOG_CLEANUP_DELETE = 1, LOG_CLEANUP_COMPACT = 2 };

struct log_settings {
    uint32_t own; /* bit of each setting that was told; the value of others means nothing */
    int64_t value[LOG_SETTINGS];
};

static inline void log_settings_put(struct log_settings *s, enum log_setting which, int64_t value) {
    s->own |= 1u << which;
    s->value[which] = value;
}

/* Back to the server's value. */
static inline void log_settings_drop(struct log_settings *s, enum log_setting which) {
    s->own &= ~(1u << which);
    s->value[which] = 0;
}

static inline bool log_settings_has(const struct log_settings *s, enum log_setting which) {
    return s->own >> which & 1;
}

enum log_setting_kind { LOG_KIND_MS, LOG_KIND_BYTES, LOG_KIND_RATIO, LOG_KIND_POLICY, LOG_KIND_TIMESTAMP };

struct log_setting_info {
    const char *name;
    enum log_setting_kind kind;
    int64_t min, max;
    int64_t fallback;    /* where nobody said anything */
    bool ours;           /* may be told to topics that begin with "holdfast." */
    const char *allowed; /* for people: what may be said */
    const char *help;
};

extern const struct log_setting_info log_setting_infos[LOG_SETTINGS];

/* HF_ENOTFOUND. */
HF_CHECK enum hf_err log_setting_find(hf_str name, enum log_setting *out);

/* Numbers also with a unit: 7d, 30s, 256MiB. HF_EINVAL: no such form; HF_ERANGE. */
HF_CHECK enum hf_err log_setting_parse(enum log_setting which, hf_str text, int64_t *out);

enum { LOG_SETTING_TEXT = 32 };
/* As Kafka prints it. */
void log_setting_print(enum log_setting which, int64_t value, char out[LOG_SETTING_TEXT]);

#endif
