/* holdfast topic list | create | alter | delete | describe. */
#include "topic.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

enum { CONFIGS_MAX = 32 };

struct topic {
    struct cli_server at;
    int64_t partitions;
    bool json;
    bool settings;
    const char *config[CONFIGS_MAX], *unset[CONFIGS_MAX];
    size_t configs, unsets;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct topic),
    {"partitions", HF_OPTION_INT, offsetof(struct topic, partitions), .fallback = "0", .max = 100000,
     .value = "N",
     .help = "create: how many (0: the server's default); alter: add partitions until there are so many"},
    {"settings", HF_OPTION_SWITCH, offsetof(struct topic, settings),
     .help = "describe what the topic is told, instead of its partitions"},
    {"json", HF_OPTION_SWITCH, offsetof(struct topic, json), .help = "an object a line"},
};
static const struct hf_options options = {"topic", rows, sizeof rows / sizeof *rows};

static void print_topic(const struct topic *t, const char *name, int partitions) {
    if (!t->json) {
        (void)printf("%s\t%d\n", name, partitions);
        return;
    }
    json_t *o = json_pack("{s:s, s:i}", "topic", name, "partitions", partitions);
    (void)json_dumpf(o, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(o);
}

static int by_name(const void *a, const void *b) {
    const struct rd_kafka_metadata_topic *x = a, *y = b;
    return strcmp(x->topic, y->topic);
}

static enum hf_err list(rd_kafka_t *rk, const struct topic *t, const char *const *names) {
    (void)names;
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 1, NULL, &m, CLI_TIMEOUT_MS);
    if (err)
        return client_error(client_err_of(err), "list topics at %s: %s%s", t->at.server,
                            rd_kafka_err2str(err), client_advice(RD_KAFKA_RESP_ERR__TRANSPORT));
    qsort(m->topics, (size_t)m->topic_cnt, sizeof *m->topics, by_name);
    for (int i = 0; i < m->topic_cnt; i++) print_topic(t, m->topics[i].topic, m->topics[i].partition_cnt);
    rd_kafka_metadata_destroy(m);
    return HF_OK;
}

static enum hf_err describe_one(rd_kafka_t *rk, const struct topic *t, const char *name) {
    rd_kafka_topic_partition_list_t *parts;
    enum hf_err e = cli_partitions(rk, name, &parts);
    for (int i = 0; !e && i < parts->cnt; i++) {
        int64_t low, high;
        int32_t p = parts->elems[i].partition;
        rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(rk, name, p, &low, &high, CLI_TIMEOUT_MS);
        if (err) {
            e = client_error(client_err_of(err), "offsets of \"%s\" partition %" PRId32 ": %s", name, p,
                             rd_kafka_err2str(err));
        } else if (t->json) {
            json_t *o = json_pack("{s:s, s:i, s:I, s:I}", "topic", name, "partition", p, "start",
                                  (json_int_t)low, "end", (json_int_t)high);
            (void)json_dumpf(o, stdout, JSON_COMPACT);
            (void)putchar('\n');
            json_decref(o);
        } else {
            (void)printf("%s\tpartition=%" PRId32 "\tstart=%" PRId64 "\tend=%" PRId64 "\n", name, p, low,
                         high);
        }
    }
    if (!e || e != HF_ENOTFOUND) rd_kafka_topic_partition_list_destroy(parts);
    return e;
}

static enum hf_err describe(rd_kafka_t *rk, const struct topic *t, const char *const *names) {
    enum hf_err e = HF_OK;
    for (; *names && !e; names++)
        e = t->settings ? topic_settings_print(rk, *names, t->json) : describe_one(rk, t, *names);
    return e;
}

/* ---- create, alter, delete: one request, one answer for each topic ---- */

static const rd_kafka_topic_result_t **results(rd_kafka_event_t *e, size_t *n) {
    switch (rd_kafka_event_type(e)) {
    case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
        return rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(e), n);
    case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
        return rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(e), n);
    default: return rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(e), n);
    }
}

static enum hf_err judge(const char *what, rd_kafka_event_t *event) {
    if (!event) return client_error(HF_ETIMEDOUT, "%s: no answer in time; is the server up?", what);
    rd_kafka_resp_err_t err = rd_kafka_event_error(event);
    if (err)
        return client_error(client_err_of(err), "%s: %s%s", what, rd_kafka_event_error_string(event),
                            client_advice(err));
    size_t n = 0;
    const rd_kafka_topic_result_t **r = results(event, &n);
    for (size_t i = 0; i < n; i++) {
        err = rd_kafka_topic_result_error(r[i]);
        if (!err) continue;
        const char *text = rd_kafka_topic_result_error_string(r[i]);
        return client_error(client_err_of(err), "%s \"%s\": %s", what, rd_kafka_topic_result_name(r[i]),
                            text ? text : rd_kafka_err2str(err));
    }
    return HF_OK;
}

static rd_kafka_AdminOptions_t *admin_options(rd_kafka_t *rk) {
    char why[128];
    rd_kafka_AdminOptions_t *o = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_ANY);
    rd_kafka_AdminOptions_set_request_timeout(o, CLI_TIMEOUT_MS, why, sizeof why);
    return o;
}

static enum hf_err new_topic(const struct topic *t, const char *name, rd_kafka_NewTopic_t **out) {
    char why[256];
    rd_kafka_NewTopic_t *n =
        rd_kafka_NewTopic_new(name, t->partitions ? (int)t->partitions : -1, -1, why, sizeof why);
    if (!n) return client_error(HF_EINVAL, "create \"%s\": %s", name, why);
    for (size_t i = 0; i < t->configs; i++) {
        const char *eq = strchr(t->config[i], '=');
        char key[128];
        if (!eq || (size_t)(eq - t->config[i]) >= sizeof key) {
            rd_kafka_NewTopic_destroy(n);
            return client_error(HF_EINVAL, "config \"%s\": name=value", t->config[i]);
        }
        (void)snprintf(key, sizeof key, "%.*s", (int)(eq - t->config[i]), t->config[i]);
        rd_kafka_NewTopic_set_config(n, key, eq + 1);
    }
    *out = n;
    return HF_OK;
}

static enum hf_err create(rd_kafka_t *rk, const struct topic *t, const char *const *names) {
    enum hf_err e = HF_OK;
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *o = admin_options(rk);
    for (; *names && !e; names++) {
        rd_kafka_NewTopic_t *n;
        e = new_topic(t, *names, &n);
        if (e) break;
        rd_kafka_CreateTopics(rk, &n, 1, o, q);
        rd_kafka_event_t *event = rd_kafka_queue_poll(q, CLI_TIMEOUT_MS + 1000);
        e = judge("create", event);
        if (event) rd_kafka_event_destroy(event);
        rd_kafka_NewTopic_destroy(n);
    }
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_queue_destroy(q);
    return e;
}

static enum hf_err grow(rd_kafka_t *rk, const struct topic *t, const char *name) {
    char why[256];
    rd_kafka_NewPartitions_t *n = rd_kafka_NewPartitions_new(name, (size_t)t->partitions, why, sizeof why);
    if (!n) return client_error(HF_EINVAL, "alter \"%s\": %s", name, why);
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *o = admin_options(rk);
    rd_kafka_CreatePartitions(rk, &n, 1, o, q);
    rd_kafka_event_t *event = rd_kafka_queue_poll(q, CLI_TIMEOUT_MS + 1000);
    enum hf_err e = judge("alter", event);
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_queue_destroy(q);
    rd_kafka_NewPartitions_destroy(n);
    return e;
}

static enum hf_err alter(rd_kafka_t *rk, const struct topic *t, const char *const *names) {
    enum hf_err e = HF_OK;
    if (t->configs + t->unsets == 0 && t->partitions == 0)
        return client_error(HF_EINVAL,
                            "alter: nothing to do; say --set name=value, --unset name or --partitions N");
    for (; *names && !e; names++) {
        if (t->partitions > 0) e = grow(rk, t, *names);
        if (!e && t->configs + t->unsets > 0)
            e = topic_settings_alter(rk, *names, t->config, t->configs, t->unset, t->unsets);
    }
    return e;
}

static enum hf_err remove_topics(rd_kafka_t *rk, const struct topic *t, const char *const *names) {
    (void)t;
    enum hf_err e = HF_OK;
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *o = admin_options(rk);
    for (; *names && !e; names++) {
        rd_kafka_DeleteTopic_t *d = rd_kafka_DeleteTopic_new(*names);
        rd_kafka_DeleteTopics(rk, &d, 1, o, q);
        rd_kafka_event_t *event = rd_kafka_queue_poll(q, CLI_TIMEOUT_MS + 1000);
        e = judge("delete", event);
        if (event) rd_kafka_event_destroy(event);
        rd_kafka_DeleteTopic_destroy(d);
    }
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_queue_destroy(q);
    return e;
}

static const struct {
    const char *name;
    enum hf_err (*run)(rd_kafka_t *rk, const struct topic *t, const char *const *names);
    bool names;
} actions[] = {{"list", list, false},
               {"create", create, true},
               {"alter", alter, true},
               {"delete", remove_topics, true},
               {"describe", describe, true}};

static int act(const struct topic *t, const char *const *rest) {
    for (size_t i = 0; rest[0] && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(rest[0], actions[i].name) != 0) continue;
        if (actions[i].names != (rest[1] != NULL))
            return cli_usage("topic", actions[i].names ? "%s: which topic?" : "%s takes no name", rest[0]);
        rd_kafka_t *rk = NULL;
        enum hf_err e = cli_consumer(&t->at, NULL, false, &rk);
        if (!e) e = actions[i].run(rk, t, rest + 1);
        if (rk) rd_kafka_destroy(rk);
        return e ? cli_fail("topic", e) : CLI_DONE;
    }
    return cli_usage("topic", "list, create, alter, delete or describe");
}

int cli_topic(int argc, char **argv) {
    struct hf_config c = {0};
    struct topic t = {0};
    bool stop;
    const char *config[CONFIGS_MAX];
    size_t configs;
    if (!cli_take_repeated(&argc, argv, "set", config, CONFIGS_MAX, &configs))
        return cli_usage("topic", "set: name=value, at most %d", CONFIGS_MAX);
    const char *unset[CONFIGS_MAX];
    size_t unsets;
    if (!cli_take_repeated(&argc, argv, "unset", unset, CONFIGS_MAX, &unsets))
        return cli_usage("topic", "unset: name, at most %d", CONFIGS_MAX);
    int status = cli_settings(&c, &options,
                              "holdfast topic list | create NAME… [--partitions N] [--set k=v]… | "
                              "alter NAME… [--partitions N] [--set k=v]… [--unset k]… | delete NAME… | "
                              "describe NAME… [--settings] [FLAGS]",
                              argc, argv, &t, &stop);
    memcpy(t.config, config, sizeof config);
    t.configs = configs;
    memcpy(t.unset, unset, sizeof unset);
    t.unsets = unsets;
    if (!stop) status = act(&t, c.rest);
    hf_config_fini(&c);
    return status;
}
