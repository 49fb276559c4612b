/* DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: what topics are told (store/log/settings.h), under
 * Kafka's names. The server's own values can be looked at as those of the broker, and are changed at its
 * start only.
 *
 * AlterConfigs replaces all that a topic was told; IncrementalAlterConfigs changes the named ones (KIP-339).
 * Either way the new settings are worked out from what was asked last, handed to the log as a whole, and the
 * answer leaves when they are durable and in force. */
#include "server_internal.h"

#include "base/names.h"

#include <stdlib.h>

enum { RESOURCE_TOPIC = 2, RESOURCE_BROKER = 4 };
enum { OPERATION_SET, OPERATION_DELETE, OPERATION_APPEND, OPERATION_SUBTRACT };
enum { SOURCE_TOPIC = 1, SOURCE_STATIC_BROKER = 4, SOURCE_DEFAULT = 5 };
enum { TYPE_STRING = 2, TYPE_LONG = 5, TYPE_DOUBLE = 6, TYPE_LIST = 7 };
enum { CONFIGS_MAX = 1000 /* resources, or settings of one, in a request */ };

/* ---- one setting ---- */

static int16_t setting_name(struct hf_arena *a, hf_str topic, hf_str name, enum log_setting *which,
                            hf_str *why) {
    if (log_setting_find(name, which)) {
        *why = hf_arena_printf(a, "there is no setting \"%.*s\" of topics", (int)name.n, name.p);
        return KAFKA_INVALID_CONFIG;
    }
    if (!hf_topic_is_ours(topic) || log_setting_infos[*which].ours) return KAFKA_NONE;
    *why = hf_arena_printf(a, "%.*s: topics that begin with holdfast. are the server's", (int)name.n, name.p);
    return KAFKA_POLICY_VIOLATION;
}

int16_t server_setting_take(struct hf_arena *a, hf_str topic, hf_str name, hf_str value,
                            struct log_settings *to, hf_str *why) {
    enum log_setting which;
    int16_t error = setting_name(a, topic, name, &which, why);
    if (error) return error;
    int64_t n;
    if (!value.p || log_setting_parse(which, value, &n)) {
        *why = hf_arena_printf(a, "%s: \"%.*s\" is not allowed; it is %s", log_setting_infos[which].name,
                               (int)value.n, value.p ? value.p : "", log_setting_infos[which].allowed);
        return KAFKA_INVALID_CONFIG;
    }
    log_settings_put(to, which, n);
    return KAFKA_NONE;
}

/* ---- DescribeConfigs ---- */

static int8_t type_of(enum log_setting_kind kind) {
    return kind == LOG_KIND_RATIO       ? TYPE_DOUBLE
           : kind == LOG_KIND_POLICY    ? TYPE_LIST
           : kind == LOG_KIND_TIMESTAMP ? TYPE_STRING
                                        : TYPE_LONG;
}

static bool asked_for(const struct kafka_describe_configs_request_resource *q, const char *name) {
    if (q->configuration_keys_count < 0) return true; /* null: all */
    for (int32_t i = 0; i < q->configuration_keys_count; i++)
        if (hf_str_is(q->configuration_keys[i], name)) return true;
    return q->configuration_keys_count == 0;
}

static bool add_config(struct hf_arena *a, const struct log_settings *s, enum log_setting which,
                       int8_t resource, const struct kafka_describe_configs_request *q,
                       struct kafka_describe_configs_response_config *out) {
    const struct log_setting_info *info = &log_setting_infos[which];
    char text[LOG_SETTING_TEXT];
    log_setting_print(which, s->value[which], text);
    bool own = resource == RESOURCE_TOPIC && log_settings_has(s, which);
    int8_t source = own                                 ? SOURCE_TOPIC
                    : s->value[which] == info->fallback ? SOURCE_DEFAULT
                                                        : SOURCE_STATIC_BROKER;
    *out = (struct kafka_describe_configs_response_config){
        .name = hf_str_of(info->name),
        .value = hf_arena_str(a, hf_str_of(text)),
        .read_only = resource == RESOURCE_BROKER,
        .config_source = source,
        .config_type = type_of(info->kind),
        .documentation = q->include_documentation ? hf_str_of(info->help) : (hf_str){NULL, 0},
    };
    if (!out->value.p) return false;
    if (!q->include_synonyms) return true;
    out->synonyms = hf_arena_array(a, 1, sizeof(*out->synonyms));
    if (!out->synonyms) return false;
    out->synonyms[0] = (struct kafka_describe_configs_synonym){out->name, out->value, source};
    out->synonyms_count = 1;
    return true;
}

/* What the server says to topics that were told nothing. */
static void servers_settings(const struct server *s, struct log_settings *out) {
    struct log_settings own = s->settings_of_topics;
    for (enum log_setting i = 0; i < LOG_SETTINGS; i++)
        if (!log_settings_has(&own, i)) own.value[i] = log_setting_infos[i].fallback;
    *out = own;
}

static void refuse_resource(struct kafka_describe_configs_response_result *out, int16_t error,
                            const char *why) {
    out->error_code = error;
    out->error_message = hf_str_of(why);
}

static bool is_this_broker(hf_str name) {
    int64_t n;
    return name.n == 0 || (hf_str_int(name, &n) == HF_OK && n == SERVER_NODE_ID);
}

/* false: no memory. */
static bool describe_one(struct server *s, struct broker_request *rq,
                         const struct kafka_describe_configs_request_resource *in,
                         struct kafka_describe_configs_response_result *out) {
    const struct kafka_describe_configs_request *q = rq->body;
    struct log_topic_info info;
    struct log_settings settings;
    out->resource_type = in->resource_type;
    out->resource_name = in->resource_name;
    if (in->resource_type == RESOURCE_BROKER && is_this_broker(in->resource_name)) {
        servers_settings(s, &settings);
    } else if (in->resource_type == RESOURCE_TOPIC && log_topic(s->log, in->resource_name, &info) == HF_OK) {
        settings = info.settings;
    } else {
        bool topic = in->resource_type == RESOURCE_TOPIC;
        refuse_resource(out, topic ? KAFKA_UNKNOWN_TOPIC_OR_PARTITION : KAFKA_INVALID_REQUEST,
                        topic ? "no such topic" : "topics and this broker have settings");
        return true;
    }
    out->configs = hf_arena_array(&rq->arena, LOG_SETTINGS, sizeof(*out->configs));
    for (enum log_setting i = 0; out->configs && i < LOG_SETTINGS; i++) {
        if (!asked_for(in, log_setting_infos[i].name)) continue;
        if (!add_config(&rq->arena, &settings, i, in->resource_type, q, &out->configs[out->configs_count++]))
            return false;
    }
    return out->configs != NULL;
}

static void on_describe(void *state, struct broker_request *rq) {
    const struct kafka_describe_configs_request *q = rq->body;
    struct kafka_describe_configs_response *a = rq->answer;
    if (q->resources_count <= CONFIGS_MAX)
        a->results = hf_arena_array(&rq->arena, (size_t)q->resources_count, sizeof(*a->results));
    for (int32_t i = 0; a->results && i < q->resources_count; i++) {
        if (!describe_one(state, rq, &q->resources[i], &a->results[i])) break;
        a->results_count = i + 1;
    }
    server_answer(rq, a->results && a->results_count == q->resources_count);
}

/* ---- changes: both kinds of request are read into this ---- */

struct changing {
    struct server *s;
    struct broker_request *rq;
    struct server_wait *wait;
    bool validate_only;
    struct kafka_alter_configs_response_resource *out; /* of the resource in hand */
    struct log_settings settings;
};

static bool refuse(struct changing *c, int16_t error, hf_str why) {
    c->out->error_code = error;
    c->out->error_message = why;
    return false;
}

static bool begin_resource(struct changing *c, int8_t type, hf_str name, bool from_scratch,
                           struct kafka_alter_configs_response_resource *out) {
    struct log_topic_info info;
    c->out = out;
    *out = (struct kafka_alter_configs_response_resource){.resource_type = type, .resource_name = name};
    if (type == RESOURCE_BROKER)
        return refuse(c, KAFKA_INVALID_REQUEST, HF_STR("the server's settings are told to it at its start"));
    if (type != RESOURCE_TOPIC) return refuse(c, KAFKA_INVALID_REQUEST, HF_STR("only topics have settings"));
    if (log_topic(c->s->log, name, &info))
        return refuse(c, KAFKA_UNKNOWN_TOPIC_OR_PARTITION, HF_STR("no such topic"));
    /* What a topic of ours needs is not forgotten with what the request does not name. */
    c->settings = from_scratch && !hf_topic_is_ours(name) ? (struct log_settings){0} : info.asked;
    return true;
}

static void end_resource(struct changing *c) {
    if (c->validate_only) return;
    struct server_result *r = server_wait_result(c->wait, &c->out->error_code);
    enum hf_err e =
        r ? log_topic_alter(c->s->log, c->out->resource_name, &c->settings, server_wait_ended, r) : HF_ENOMEM;
    if (!e) return;
    if (r) server_wait_forget(r);
    (void)refuse(c, e == HF_EINVAL ? KAFKA_INVALID_CONFIG : kafka_error_of(e), hf_str_of(hf_err_text(e)));
}

static bool set_one(struct changing *c, hf_str name, hf_str value) {
    hf_str why = {NULL, 0};
    int16_t error =
        server_setting_take(&c->rq->arena, c->out->resource_name, name, value, &c->settings, &why);
    return error ? refuse(c, error, why) : true;
}

static bool drop_one(struct changing *c, hf_str name) {
    hf_str why = {NULL, 0};
    enum log_setting which;
    int16_t error = setting_name(&c->rq->arena, c->out->resource_name, name, &which, &why);
    if (error) return refuse(c, error, why);
    log_settings_drop(&c->settings, which);
    return true;
}

/* Of the one list there is, cleanup.policy. */
static bool change_list(struct changing *c, hf_str name, hf_str value, bool append) {
    struct log_topic_info info;
    struct log_settings one = {0};
    hf_str why = {NULL, 0};
    int16_t error = server_setting_take(&c->rq->arena, c->out->resource_name, name, value, &one, &why);
    if (error) return refuse(c, error, why);
    if (!log_settings_has(&one, LOG_CLEANUP_POLICY) || log_topic(c->s->log, c->out->resource_name, &info))
        return refuse(c, KAFKA_INVALID_CONFIG, HF_STR("append and subtract are for cleanup.policy"));
    int64_t bits = one.value[LOG_CLEANUP_POLICY];
    int64_t was = log_settings_has(&c->settings, LOG_CLEANUP_POLICY)
                      ? c->settings.value[LOG_CLEANUP_POLICY]
                      : info.settings.value[LOG_CLEANUP_POLICY];
    int64_t is = append ? was | bits : was & ~bits;
    if (is == 0) return refuse(c, KAFKA_INVALID_CONFIG, HF_STR("cleanup.policy: nothing would be left"));
    log_settings_put(&c->settings, LOG_CLEANUP_POLICY, is);
    return true;
}

static bool operate(struct changing *c, const struct kafka_incremental_alter_configs_request_config *in) {
    switch (in->config_operation) {
    case OPERATION_SET: return set_one(c, in->name, in->value);
    case OPERATION_DELETE: return drop_one(c, in->name);
    case OPERATION_APPEND:
    case OPERATION_SUBTRACT:
        return change_list(c, in->name, in->value, in->config_operation == OPERATION_APPEND);
    default: return refuse(c, KAFKA_INVALID_REQUEST, HF_STR("no such operation"));
    }
}

static void finish(struct server_wait *w) {
    broker_answer(w->rq);
}

/* Room for an answer to each resource; false: the request was refused. */
static bool begin(struct changing *c, int32_t resources, struct kafka_alter_configs_response_resource **out) {
    if (resources <= CONFIGS_MAX) *out = hf_arena_array(&c->rq->arena, (size_t)resources, sizeof(**out));
    c->wait = *out ? server_wait_begin(c->rq, finish, NULL) : NULL;
    if (!c->wait) server_no_memory(c->rq);
    return c->wait != NULL;
}

static void on_alter(void *state, struct broker_request *rq) {
    const struct kafka_alter_configs_request *q = rq->body;
    struct kafka_alter_configs_response *a = rq->answer;
    struct changing c = {.s = state, .rq = rq, .validate_only = q->validate_only};
    if (!begin(&c, q->resources_count, &a->responses)) return;
    a->responses_count = q->resources_count;
    for (int32_t i = 0; i < q->resources_count; i++) {
        const struct kafka_alter_configs_request_resource *in = &q->resources[i];
        bool ok = begin_resource(&c, in->resource_type, in->resource_name, true, &a->responses[i]);
        for (int32_t k = 0; ok && k < in->configs_count; k++)
            ok = set_one(&c, in->configs[k].name, in->configs[k].value);
        if (ok) end_resource(&c);
    }
    server_wait_done(c.wait);
}

static void on_alter_incrementally(void *state, struct broker_request *rq) {
    const struct kafka_incremental_alter_configs_request *q = rq->body;
    struct kafka_incremental_alter_configs_response *a = rq->answer;
    struct changing c = {.s = state, .rq = rq, .validate_only = q->validate_only};
    if (!begin(&c, q->resources_count, &a->responses)) return;
    a->responses_count = q->resources_count;
    for (int32_t i = 0; i < q->resources_count; i++) {
        const struct kafka_incremental_alter_configs_request_resource *in = &q->resources[i];
        bool ok = begin_resource(&c, in->resource_type, in->resource_name, false, &a->responses[i]);
        for (int32_t k = 0; ok && k < in->configs_count; k++) ok = operate(&c, &in->configs[k]);
        if (ok) end_resource(&c);
    }
    server_wait_done(c.wait);
}

static const struct server_handler handlers[] = {
    {KAFKA_API_describe_configs, on_describe},
    {KAFKA_API_alter_configs, on_alter},
    {KAFKA_API_incremental_alter_configs, on_alter_incrementally},
};

const struct server_part server_configs = {
    .name = "configs", .handlers = handlers, .handler_count = sizeof(handlers) / sizeof(handlers[0])};
