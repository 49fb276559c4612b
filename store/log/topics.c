/* Topics: the catalogue in memory, and what it is read from.
 *
 * The catalogue is state: key `topic/<name>` (configure.c). Topics are found by name, by id, and by the name
 * with '.' as '_', as two that differ by these only are not told apart. How they come and go: create.c. */
#include "log_internal.h"

#include "base/names.h"

#include <stdlib.h>

/* ---- look-ups ---- */

struct topic *topic_find(struct log *l, hf_str name) {
    struct topic *t;
    HASH_FIND(hh, l->topics, name.p, name.n, t);
    return t;
}

struct topic *topic_find_id(struct log *l, const struct log_uuid *id) {
    struct topic *t;
    HASH_FIND(hh_id, l->topics_by_id, id->b, sizeof id->b, t);
    return t;
}

struct log_partition *topic_partition(struct log *l, hf_str name, int32_t number) {
    struct topic *t = topic_find(l, name);
    return t && number >= 0 && number < t->partitions ? t->partition[number] : NULL;
}

bool topic_shown(const struct log *l, const struct topic *t) {
    return t && t->phase == TOPIC_LIVE && t != l->state_topic;
}

static void describe(const struct topic *t, struct log_topic_info *out) {
    *out = (struct log_topic_info){hf_str_of(t->name), t->id,   t->partitions, t->config.internal,
                                   t->config.settings, t->asked};
}

struct log_partition *log_partition(struct log *l, hf_str topic, int32_t partition) {
    struct log_partition *p = topic_partition(l, topic, partition);
    return p && topic_shown(l, p->topic) ? p : NULL;
}

const struct log_settings *log_partition_settings(const struct log_partition *p) {
    return &p->topic->config.settings;
}

enum hf_err log_topic(struct log *l, hf_str name, struct log_topic_info *out) {
    const struct topic *t = topic_find(l, name);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    describe(t, out);
    return HF_OK;
}

enum hf_err log_topic_by_id(struct log *l, struct log_uuid id, struct log_topic_info *out) {
    const struct topic *t = topic_find_id(l, &id);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    describe(t, out);
    return HF_OK;
}

static int by_name(const struct topic *a, const struct topic *b) {
    return hf_str_cmp(hf_str_of(a->name), hf_str_of(b->name));
}

void log_topic_each(struct log *l, void (*fn)(void *arg, const struct log_topic_info *t), void *arg) {
    if (!l->topics_sorted) HASH_SORT(l->topics, by_name);
    l->topics_sorted = true;
    struct topic *t, *next;
    HASH_ITER (hh, l->topics, t, next) {
        struct log_topic_info info;
        if (!topic_shown(l, t)) continue;
        describe(t, &info);
        fn(arg, &info);
    }
}

/* ---- objects ---- */

void topic_drop(struct topic *t) {
    t->phase = TOPIC_GONE;
    int32_t n = t->partitions;
    for (int32_t i = 0; i < n; i++) partition_unref(t->partition[i]); /* the last one frees the topic */
}

static void fold(const char *name, char out[256]) {
    size_t i = 0;
    for (; name[i] && i < 255; i++) out[i] = name[i] == '.' ? '_' : name[i];
    out[i] = 0;
}

/* A topic whose name is the same but for '.' and '_'. */
struct topic *topic_find_alike(struct log *l, hf_str name) {
    char zero_ended[256] = {0}, folded[256];
    assert(name.n < sizeof zero_ended);
    memcpy(zero_ended, name.p, name.n);
    fold(zero_ended, folded);
    struct topic *t;
    HASH_FIND(hh_folded, l->topics_folded, folded, strlen(folded), t);
    return t;
}

static enum hf_err index_topic(struct log *l, struct topic *t) {
    HASH_ADD(hh, l->topics, name, strlen(t->name), t);
    HASH_ADD(hh_id, l->topics_by_id, id, sizeof t->id, t);
    HASH_ADD(hh_folded, l->topics_folded, folded, strlen(t->folded), t);
    if (!t->hh.tbl || !t->hh_id.tbl || !t->hh_folded.tbl) return HF_ENOMEM;
    l->topics_sorted = false;
    l->stats.topics++;
    l->stats.partitions += (uint64_t)t->partitions;
    l->partition_count += (size_t)t->partitions;
    return HF_OK;
}

void topic_unindex(struct log *l, struct topic *t) {
    HASH_DELETE(hh, l->topics, t);
    HASH_DELETE(hh_id, l->topics_by_id, t);
    HASH_DELETE(hh_folded, l->topics_folded, t);
    l->stats.topics--;
    l->stats.partitions -= (uint64_t)t->partitions;
    l->partition_count -= (size_t)t->partitions;
}

enum hf_err topic_new(struct log *l, hf_str name, const struct log_topic_config *config,
                      const struct log_uuid *id, struct topic **out) {
    struct topic *t = calloc(1, sizeof *t);
    if (!t) return HF_ENOMEM;
    memcpy(t->name, name.p, name.n);
    fold(t->name, t->folded);
    t->config.internal = config->internal;
    topic_configure(l, t, &config->settings);
    t->id = *id;
    t->next_sequence = 1;
    t->last_time_ms = -1;
    t->partition = calloc((size_t)config->partitions, sizeof(struct log_partition *));
    enum hf_err e = t->partition ? HF_OK : HF_ENOMEM;
    for (; !e && t->partitions < config->partitions; t->partitions++) {
        struct log_partition *p = partition_new(l, t, t->partitions);
        if (!p) {
            e = HF_ENOMEM;
            break;
        }
        t->partition[t->partitions] = p;
    }
    t->partitions_asked = t->partitions;
    if (!e) e = index_topic(l, t);
    if (!e) {
        *out = t;
        return HF_OK;
    }
    for (int32_t i = 0; i < t->partitions; i++) partition_free(t->partition[i]);
    free(t->partition);
    free(t);
    return e;
}

enum hf_err topics_init(struct log *l) {
    static const struct log_uuid id = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}};
    struct log_topic_config config = {.partitions = 1, .internal = true};
    uint64_t size = l->o.segment_bytes < (16 << 20) ? l->o.segment_bytes : (16 << 20);
    log_settings_put(&config.settings, LOG_MESSAGE_MAX, (int64_t)ENGINE_COMMIT_BYTES * 2);
    log_settings_put(&config.settings, LOG_SEGMENT_BYTES, (int64_t)size);
    enum hf_err e = topic_new(l, HF_STR(LOG_STATE_TOPIC), &config, &id, &l->state_topic);
    if (e) return e;
    l->state_topic->phase = TOPIC_LIVE;
    l->state.p = l->state_topic->partition[0];
    return HF_OK;
}

void topics_free(struct log *l) {
    struct topic *t, *next;
    HASH_ITER (hh, l->topics, t, next) {
        topic_unindex(l, t);
        topic_drop(t);
    }
}

/* ---- what the catalogue says ---- */

struct loading {
    struct log *l;
    enum hf_err e;
};

static void load_one(void *arg, hf_str key, hf_str value) {
    struct loading *x = arg;
    if (x->e) return;
    struct log_uuid id;
    struct log_topic_config c;
    x->e = catalogue_read(value, &id, &c);
    hf_str name = hf_str_make(key.p + 6, key.n - 6);
    if (x->e || !hf_topic_name_ok(name)) {
        env_log(x->l->env, ENV_ERROR, "catalogue_damaged", "key=\"%.*s\"", (int)key.n, key.p);
        x->e = HF_ECORRUPT;
        return;
    }
    struct topic *t;
    x->e = topic_new(x->l, name, &c, &id, &t);
    if (!x->e) t->phase = TOPIC_LIVE;
}

enum hf_err topics_load(struct log *l) {
    struct loading x = {.l = l};
    state_each(l, HF_STR("topic/"), load_one, &x);
    return x.e;
}

/* ---- taken back ---- */

/* A topic that the catalogue does not know any more, from one of its folders: as many partitions as there are
 * folders with that id. What the folder does not say the topic is not told. */
enum hf_err topic_take_back(struct log *l, hf_str name, int32_t number) {
    struct log_topic_config c = {.internal = hf_topic_is_ours(name)};
    struct log_uuid id, other;
    struct topic *t;
    if (!hf_topic_name_ok(name) || topic_find(l, name)) return HF_OK;
    enum hf_err e = topic_metadata_read(l, name, number, &id);
    if (e || topic_find_id(l, &id)) return e == HF_ENOTFOUND || e == HF_ECORRUPT ? HF_OK : e;
    for (int32_t i = 0; i < LOG_TOPIC_PARTITIONS; i++)
        if (topic_metadata_read(l, name, i, &other) == HF_OK && memcmp(&id, &other, sizeof id) == 0)
            c.partitions = i + 1;
    log_settings_put(&c.settings, LOG_RETENTION_MS, -1);
    log_settings_put(&c.settings, LOG_RETENTION_BYTES, -1);
    if (c.internal) c.settings = (struct log_settings){0};
    e = topic_new(l, name, &c, &id, &t);
    if (e) return e;
    t->phase = TOPIC_LIVE;
    t->taken_back = true;
    rescue_tell(l, t->name, "the topic's settings: it keeps everything until it is told otherwise");
    return HF_OK;
}
