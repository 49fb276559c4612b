/* holdfast topic alter, and describe --settings.
 *
 * librdkafka 2.0 knows the older AlterConfigs only, which replaces all that a topic was told. So a change
 * looks at what the topic was told first, and sends that with the change. Two people who alter the same topic
 * in the same moment may undo each other; programs use IncrementalAlterConfigs instead. */
#include "topic.h"

#include <stdlib.h>

/* One request for one topic; the event holds the answer. */
static enum hf_err ask(rd_kafka_t *rk, rd_kafka_ConfigResource_t *resource, bool alter, const char *topic,
                       rd_kafka_queue_t *q, rd_kafka_event_t **out) {
    char why[128];
    const char *what = alter ? "alter" : "settings of";
    rd_kafka_AdminOptions_t *o = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_ANY);
    rd_kafka_AdminOptions_set_request_timeout(o, CLI_TIMEOUT_MS, why, sizeof why);
    if (alter)
        rd_kafka_AlterConfigs(rk, &resource, 1, o, q);
    else
        rd_kafka_DescribeConfigs(rk, &resource, 1, o, q);
    rd_kafka_event_t *event = rd_kafka_queue_poll(q, CLI_TIMEOUT_MS + 1000);
    rd_kafka_AdminOptions_destroy(o);
    if (!event)
        return client_error(HF_ETIMEDOUT, "%s \"%s\": no answer in time; is the server up?", what, topic);
    rd_kafka_resp_err_t err = rd_kafka_event_error(event);
    const char *text = err ? rd_kafka_event_error_string(event) : NULL;
    if (!err) {
        size_t n = 0;
        const rd_kafka_ConfigResource_t **r =
            alter
                ? rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(event), &n)
                : rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &n);
        err = n == 1 ? rd_kafka_ConfigResource_error(r[0]) : RD_KAFKA_RESP_ERR__BAD_MSG;
        text = n == 1 ? rd_kafka_ConfigResource_error_string(r[0]) : NULL;
    }
    if (!err) {
        *out = event;
        return HF_OK;
    }
    enum hf_err e = client_error(client_err_of(err), "%s \"%s\": %s%s", what, topic,
                                 text ? text : rd_kafka_err2str(err), client_advice(err));
    rd_kafka_event_destroy(event);
    return e;
}

static enum hf_err fetch(rd_kafka_t *rk, const char *topic, rd_kafka_queue_t *q, rd_kafka_event_t **event,
                         const rd_kafka_ConfigEntry_t ***entries, size_t *n) {
    rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    enum hf_err e = ask(rk, resource, false, topic, q, event);
    rd_kafka_ConfigResource_destroy(resource);
    if (e) return e;
    size_t one;
    const rd_kafka_ConfigResource_t **r =
        rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(*event), &one);
    *entries = rd_kafka_ConfigResource_configs(r[0], n);
    return HF_OK;
}

static bool told(const rd_kafka_ConfigEntry_t *c) {
    return rd_kafka_ConfigEntry_source(c) == RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG;
}

static void print_one(const char *topic, const rd_kafka_ConfigEntry_t *c, bool json) {
    const char *who = told(c) ? "topic" : rd_kafka_ConfigEntry_is_default(c) ? "default" : "server";
    const char *name = rd_kafka_ConfigEntry_name(c), *value = rd_kafka_ConfigEntry_value(c);
    if (!json) {
        (void)printf("%s\t%s=%s\t%s\n", topic, name, value ? value : "", who);
        return;
    }
    json_t *o = json_pack("{s:s, s:s, s:s, s:s}", "topic", topic, "setting", name, "value",
                          value ? value : "", "source", who);
    (void)json_dumpf(o, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(o);
}

enum hf_err topic_settings_print(rd_kafka_t *rk, const char *topic, bool json) {
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    rd_kafka_event_t *event;
    const rd_kafka_ConfigEntry_t **entries;
    size_t n;
    enum hf_err e = fetch(rk, topic, q, &event, &entries, &n);
    for (size_t i = 0; !e && i < n; i++) print_one(topic, entries[i], json);
    if (!e) rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(q);
    return e;
}

/* ---- alter ---- */

static bool names(const char *set, const char *name) {
    size_t n = strlen(name);
    return strncmp(set, name, n) == 0 && (set[n] == '=' || set[n] == 0);
}

/* What it was told already, but for what is changed now. */
static void keep_told(rd_kafka_ConfigResource_t *r, const rd_kafka_ConfigEntry_t **entries, size_t n,
                      const char *const *sets, size_t set_count, const char *const *unsets,
                      size_t unset_count) {
    for (size_t i = 0; i < n; i++) {
        const char *name = rd_kafka_ConfigEntry_name(entries[i]);
        bool changed = !told(entries[i]);
        for (size_t k = 0; k < set_count; k++) changed = changed || names(sets[k], name);
        for (size_t k = 0; k < unset_count; k++) changed = changed || strcmp(unsets[k], name) == 0;
        if (!changed) rd_kafka_ConfigResource_set_config(r, name, rd_kafka_ConfigEntry_value(entries[i]));
    }
}

static enum hf_err add_sets(rd_kafka_ConfigResource_t *r, const char *const *sets, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const char *eq = strchr(sets[i], '=');
        char name[128];
        if (!eq || (size_t)(eq - sets[i]) >= sizeof name)
            return client_error(HF_EINVAL, "set \"%s\": name=value", sets[i]);
        (void)snprintf(name, sizeof name, "%.*s", (int)(eq - sets[i]), sets[i]);
        rd_kafka_ConfigResource_set_config(r, name, eq + 1);
    }
    return HF_OK;
}

enum hf_err topic_settings_alter(rd_kafka_t *rk, const char *topic, const char *const *sets, size_t set_count,
                                 const char *const *unsets, size_t unset_count) {
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    rd_kafka_ConfigResource_t *r = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    rd_kafka_event_t *before, *after;
    const rd_kafka_ConfigEntry_t **entries;
    size_t n;
    enum hf_err e = fetch(rk, topic, q, &before, &entries, &n);
    if (!e) {
        keep_told(r, entries, n, sets, set_count, unsets, unset_count);
        rd_kafka_event_destroy(before);
        e = add_sets(r, sets, set_count);
    }
    if (!e) e = ask(rk, r, true, topic, q, &after);
    if (!e) rd_kafka_event_destroy(after);
    rd_kafka_ConfigResource_destroy(r);
    rd_kafka_queue_destroy(q);
    return e;
}
