/* What topics are told: the entry of a topic in the catalogue, the settings in force, and their change.
 *
 * The catalogue holds only what a topic was told itself. What is in force is worked out from that, the rules
 * for topics of ours and for dead letters, and the server's values:
 *
 *     told to the topic ─► "holdfast.": never deleted, LogAppendTime, small segments
 *                          "dlq.":      nothing is deleted
 *                          the server's value
 *
 * A change is one commit that puts the whole entry again; it is in force when it is durable, in the order of
 * the calls. `asked` is what the entry will say when all changes under way have ended: the next change
 * starts from there. */
#include "log_internal.h"

#include "base/names.h"

#include <stdlib.h>

enum {
    FLAG_INTERNAL = 1,
    FLAG_APPEND_TIME = 2, /* of entries of the first form */
    FIRST_FORM = 16 + 4 + 1 + 4 + 8,
    ENTRY_MAX = 16 + 4 + 1 + 1 + 9 * LOG_SETTINGS,
};

/* ---- settings in force ---- */

static int64_t otherwise(const struct log *l, const struct topic *t, enum log_setting which) {
    bool dead_letters = hf_str_starts(hf_str_of(t->name), HF_STR(HF_TOPIC_DLQ));
    int64_t servers = l->o.settings.value[which];
    switch (which) {
    case LOG_CLEANUP_POLICY: return t->config.internal || dead_letters ? LOG_CLEANUP_DELETE : servers;
    case LOG_RETENTION_MS:
    case LOG_RETENTION_BYTES: return t->config.internal || dead_letters ? -1 : servers;
    case LOG_TIMESTAMP_TYPE: return t->config.internal ? 1 : servers;
    case LOG_SEGMENT_BYTES:
        return t->config.internal && servers > LOG_INTERNAL_SEGMENT ? LOG_INTERNAL_SEGMENT : servers;
    default: return servers;
    }
}

void topic_configure(struct log *l, struct topic *t, const struct log_settings *own) {
    struct topic_config *c = &t->config;
    t->asked = c->settings = *own;
    for (enum log_setting i = 0; i < LOG_SETTINGS; i++)
        if (!log_settings_has(own, i)) c->settings.value[i] = otherwise(l, t, i);
    c->append_time = c->internal || c->settings.value[LOG_TIMESTAMP_TYPE];
    c->message_max = (size_t)c->settings.value[LOG_MESSAGE_MAX];
    c->segment_bytes = (uint64_t)c->settings.value[LOG_SEGMENT_BYTES];
    for (int32_t i = 0; i < t->partitions;
         i++) /* what compaction could not read may be within the limits now */
        if (t->partition && t->partition[i]) t->partition[i]->uncompactable = false;
}

enum hf_err settings_check(const struct log_settings *s) {
    int64_t message_max = s->value[LOG_MESSAGE_MAX], segment_bytes = s->value[LOG_SEGMENT_BYTES];
    if (log_settings_has(s, LOG_MESSAGE_MAX) && (message_max < 64 || message_max > 512 << 20))
        return HF_EINVAL;
    if (log_settings_has(s, LOG_SEGMENT_BYTES) &&
        (segment_bytes < 1024 || segment_bytes > (int64_t)LOG_SEGMENT_MAX / 2))
        return HF_EINVAL;
    return HF_OK;
}

/* ---- the entry ---- */

void catalogue_key(const struct topic *t, struct hf_buf *out) {
    hf_buf_init(out, 512);
    hf_buf_str(out, HF_STR("topic/"));
    hf_buf_str(out, hf_str_of(t->name));
}

void catalogue_value(const struct topic *t, int32_t partitions, const struct log_settings *own,
                     struct hf_buf *out) {
    hf_buf_init(out, ENTRY_MAX);
    hf_buf_put(out, t->id.b, sizeof t->id.b);
    hf_buf_be32(out, (uint32_t)partitions);
    hf_buf_u8(out, t->config.internal ? FLAG_INTERNAL : 0);
    hf_buf_u8(out, (uint8_t)__builtin_popcount(own->own));
    for (enum log_setting i = 0; i < LOG_SETTINGS; i++) {
        if (!log_settings_has(own, i)) continue;
        hf_buf_u8(out, (uint8_t)i);
        hf_buf_be64(out, (uint64_t)own->value[i]);
    }
}

/* Entries written before topics had settings: message_max u32 and segment_bytes u64 stood in each. */
static void read_first_form(struct hf_reader *r, uint8_t flags, struct log_settings *own) {
    log_settings_put(own, LOG_MESSAGE_MAX, hf_read_be32(r));
    log_settings_put(own, LOG_SEGMENT_BYTES, (int64_t)hf_read_be64(r));
    if (flags & FLAG_APPEND_TIME) log_settings_put(own, LOG_TIMESTAMP_TYPE, 1);
}

enum hf_err catalogue_read(hf_str value, struct log_uuid *id, struct log_topic_config *out) {
    struct hf_reader r = hf_reader_of(value.p, value.n);
    struct log_topic_config c = {0};
    hf_str bytes = hf_read_bytes(&r, sizeof id->b);
    c.partitions = (int32_t)hf_read_be32(&r);
    uint8_t flags = hf_read_u8(&r);
    c.internal = flags & FLAG_INTERNAL;
    if (value.n == FIRST_FORM) {
        read_first_form(&r, flags, &c.settings);
    } else {
        for (uint8_t n = hf_read_u8(&r); n > 0; n--) {
            uint8_t which = hf_read_u8(&r);
            int64_t is = (int64_t)hf_read_be64(&r);
            if (which >= LOG_SETTINGS) return HF_ECORRUPT;
            log_settings_put(&c.settings, which, is);
        }
    }
    if (r.bad || c.partitions < 1 || c.partitions > LOG_TOPIC_PARTITIONS) return HF_ECORRUPT;
    memcpy(id->b, bytes.p, sizeof id->b);
    *out = c;
    return HF_OK;
}

/* ---- change ---- */

struct alteration {
    struct alteration *prev, *next; /* log->alterations */
    struct log *l;
    struct topic *t;
    struct log_settings settings;
    log_done *done;
    void *arg;
};

static void in_force(struct commit *c) {
    struct alteration *x = c->after_arg;
    struct log_settings asked = x->t->asked;
    env_point(c->log->env, "topic.altered");
    topic_configure(c->log, x->t, &x->settings);
    x->t->asked = asked; /* a later change may be on its way */
}

static void altered(void *arg, enum hf_err e) {
    struct alteration *x = arg;
    log_done *done = x->done;
    void *done_arg = x->arg;
    DL_DELETE(x->l->alterations, x);
    free(x);
    if (done) done(done_arg, e);
}

static enum hf_err put_entry(struct log *l, struct alteration *x) {
    struct hf_buf key, value;
    catalogue_key(x->t, &key);
    catalogue_value(x->t, x->t->partitions_asked, &x->settings, &value);
    enum hf_err e = hf_buf_failed(&key) ? hf_buf_failed(&key) : hf_buf_failed(&value);
    struct engine_put put = {hf_buf_view(&key), hf_buf_view(&value)};
    struct engine_commit c = {.now_ms = env_wall_ms(l->env), .puts = &put, .put_count = 1};
    if (!e) e = commit_start(l, &c, in_force, x, altered, x);
    hf_buf_fini(&key);
    hf_buf_fini(&value);
    return e;
}

enum hf_err log_topic_alter(struct log *l, hf_str name, const struct log_settings *settings, log_done *done,
                            void *arg) {
    struct topic *t = topic_find(l, name);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    enum hf_err e = settings_check(settings);
    if (e) return e;
    struct alteration *x = malloc(sizeof *x);
    if (!x) return HF_ENOMEM;
    *x = (struct alteration){.l = l, .t = t, .settings = *settings, .done = done, .arg = arg};
    e = put_entry(l, x);
    if (e) {
        free(x);
        return e;
    }
    DL_APPEND(l->alterations, x);
    t->asked = *settings;
    return HF_OK;
}

/* The log is thrown away: nobody is told. */
void alterations_forget(struct log *l) {
    struct alteration *x, *next;
    DL_FOREACH_SAFE(l->alterations, x, next) {
        free(x);
    }
    l->alterations = NULL;
}
