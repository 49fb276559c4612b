/* holdfast group list | describe | reset. */
#include "base/marks.h"
#include "common.h"

#include <inttypes.h>
#include <stddef.h>

struct group {
    struct cli_server at;
    const char *to, *topic;
    bool json;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct group),
    {"to", HF_OPTION_TEXT, offsetof(struct group, to), .value = "WHERE",
     .help =
         "of reset: earliest, latest, a time (2026-03-01T12:00:00Z), or digits: an offset in each partition"},
    {"topic", HF_OPTION_TEXT, offsetof(struct group, topic), .value = "T",
     .help = "of reset: this topic only (else all that the group has offsets of)"},
    {"json", HF_OPTION_SWITCH, offsetof(struct group, json), .help = "an object a line"},
};
static const struct hf_options options = {"group", rows, sizeof rows / sizeof *rows};

static void print_json(json_t *o) {
    (void)json_dumpf(o, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(o);
}

/* group NULL: all. */
static enum hf_err fetch_groups(rd_kafka_t *rk, const struct group *g, const char *group,
                                const struct rd_kafka_group_list **out) {
    rd_kafka_resp_err_t err = rd_kafka_list_groups(rk, group, out, CLI_TIMEOUT_MS);
    if (!err) return HF_OK;
    return client_error(client_err_of(err), "groups at %s: %s%s", g->at.server, rd_kafka_err2str(err),
                        client_advice(err));
}

static enum hf_err list(const struct group *g, const char *name) {
    (void)name;
    rd_kafka_t *rk;
    const struct rd_kafka_group_list *groups;
    enum hf_err e = cli_consumer(&g->at, NULL, false, &rk);
    if (e) return e;
    e = fetch_groups(rk, g, NULL, &groups);
    for (int i = 0; !e && i < groups->group_cnt; i++) {
        const struct rd_kafka_group_info *x = &groups->groups[i];
        if (g->json)
            print_json(
                json_pack("{s:s, s:s, s:i}", "group", x->group, "state", x->state, "members", x->member_cnt));
        else
            (void)printf("%s\t%s\t%d members\n", x->group, x->state, x->member_cnt);
    }
    if (!e) rd_kafka_group_list_destroy(groups);
    rd_kafka_destroy(rk);
    return e;
}

/* The partitions of which the group has offsets, with offset and metadata. Asked by name, of all topics: "all
 * that the group has" is a request that librdkafka before 2.1 writes with bytes too many. rk is a consumer of
 * that group. The caller destroys the list. */
static enum hf_err offsets_of(rd_kafka_t *rk, const char *group, rd_kafka_topic_partition_list_t **out) {
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 1, NULL, &m, CLI_TIMEOUT_MS);
    if (!err) {
        rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(64);
        for (int i = 0; i < m->topic_cnt; i++)
            for (int p = 0; p < m->topics[i].partition_cnt; p++)
                rd_kafka_topic_partition_list_add(all, m->topics[i].topic, m->topics[i].partitions[p].id);
        rd_kafka_metadata_destroy(m);
        err = rd_kafka_committed(rk, all, CLI_TIMEOUT_MS);
        for (int i = all->cnt - 1; i >= 0; i--)
            if (all->elems[i].offset < 0) rd_kafka_topic_partition_list_del_by_idx(all, i);
        rd_kafka_topic_partition_list_sort(all, NULL, NULL);
        *out = all;
        if (!err) return HF_OK;
        rd_kafka_topic_partition_list_destroy(all);
    }
    return client_error(client_err_of(err), "offsets of group \"%s\": %s%s", group, rd_kafka_err2str(err),
                        client_advice(err));
}

static void print_position(rd_kafka_t *rk, const struct group *g, const rd_kafka_topic_partition_t *p) {
    int64_t low = 0, high = -1;
    if (rd_kafka_query_watermark_offsets(rk, p->topic, p->partition, &low, &high, CLI_TIMEOUT_MS)) high = -1;
    int64_t lag = high >= p->offset && p->offset >= 0 ? high - p->offset : -1;
    struct marks m;
    size_t open = 0, tried = 0;
    if (p->metadata && marks_parse(&m, p->offset, p->metadata, p->metadata_size) == HF_OK) {
        for (size_t i = 0; i < m.count; i++) {
            open += (size_t)m.mark[i].n;
            tried += m.mark[i].attempts > 0;
        }
        lag = high - m.next + (int64_t)open;
        marks_fini(&m);
    }
    if (g->json)
        print_json(json_pack("{s:s, s:i, s:I, s:I, s:I, s:I}", "topic", p->topic, "partition", p->partition,
                             "offset", (json_int_t)p->offset, "end", (json_int_t)high, "unsettled",
                             (json_int_t)lag, "failing", (json_int_t)tried));
    else
        (void)printf("%s\tpartition=%" PRId32 "\toffset=%" PRId64 "\tend=%" PRId64 "\tunsettled=%" PRId64
                     "\tfailing=%zu\n",
                     p->topic, p->partition, p->offset, high, lag, tried);
}

static enum hf_err describe(const struct group *g, const char *name) {
    rd_kafka_t *rk;
    const struct rd_kafka_group_list *groups;
    rd_kafka_topic_partition_list_t *offsets;
    enum hf_err e = cli_consumer(&g->at, name, false, &rk);
    if (e) return e;
    e = fetch_groups(rk, g, name, &groups);
    if (!e) {
        bool known = groups->group_cnt > 0 && strcmp(groups->groups[0].state, "Dead") != 0;
        for (int i = 0; known && i < groups->group_cnt && !g->json; i++) {
            const struct rd_kafka_group_info *x = &groups->groups[i];
            (void)printf("%s\t%s\t%d members\n", x->group, x->state, x->member_cnt);
            for (int k = 0; k < x->member_cnt; k++)
                (void)printf("member\t%s\t%s\n", x->members[k].member_id, x->members[k].client_host);
        }
        rd_kafka_group_list_destroy(groups);
        if (!known)
            e = client_error(HF_ENOTFOUND, "group \"%s\" is not known; see holdfast group list", name);
        if (!e) e = offsets_of(rk, name, &offsets);
    }
    if (!e) {
        for (int i = 0; i < offsets->cnt; i++) print_position(rk, g, &offsets->elems[i]);
        rd_kafka_topic_partition_list_destroy(offsets);
    }
    rd_kafka_destroy(rk);
    return e;
}

static enum hf_err partitions_to_reset(rd_kafka_t *rk, const struct group *g, const char *name,
                                       rd_kafka_topic_partition_list_t **out) {
    if (g->topic) return cli_partitions(rk, g->topic, out);
    rd_kafka_topic_partition_list_t *offsets;
    enum hf_err e = offsets_of(rk, name, &offsets);
    if (e) return e;
    *out = rd_kafka_topic_partition_list_new(offsets->cnt); /* without what is told of the old position */
    for (int i = 0; i < offsets->cnt; i++)
        rd_kafka_topic_partition_list_add(*out, offsets->elems[i].topic, offsets->elems[i].partition);
    rd_kafka_topic_partition_list_destroy(offsets);
    if ((*out)->cnt > 0) return HF_OK;
    rd_kafka_topic_partition_list_destroy(*out);
    return client_error(HF_ENOTFOUND, "group \"%s\" has no offsets; name a topic (--topic)", name);
}

/* A commit from outside the group: the server takes it only while the group has no members. */
static enum hf_err reset(const struct group *g, const char *name) {
    if (!g->to) return client_error(HF_EINVAL, "reset: where to? (--to)");
    rd_kafka_t *rk;
    rd_kafka_topic_partition_list_t *list;
    enum hf_err e = cli_consumer(&g->at, name, false, &rk);
    if (e) return e;
    e = partitions_to_reset(rk, g, name, &list);
    if (!e) {
        e = cli_resolve(rk, list, g->to);
        for (int i = 0; !e && i < list->cnt; i++) {
            rd_kafka_topic_partition_t *p = &list->elems[i];
            int64_t low, high;
            if (p->offset >= 0) continue;
            if (rd_kafka_query_watermark_offsets(rk, p->topic, p->partition, &low, &high, CLI_TIMEOUT_MS))
                high = 0;
            p->offset = high;
        }
        rd_kafka_resp_err_t err = e ? RD_KAFKA_RESP_ERR_NO_ERROR : rd_kafka_commit(rk, list, 0);
        if (err)
            e = client_error(client_err_of(err), "reset of group \"%s\": %s; stop its members first", name,
                             rd_kafka_err2str(err));
        for (int i = 0; !e && i < list->cnt; i++) print_position(rk, g, &list->elems[i]);
        rd_kafka_topic_partition_list_destroy(list);
    }
    rd_kafka_destroy(rk);
    return e;
}

static const struct {
    const char *name;
    enum hf_err (*run)(const struct group *g, const char *name);
    bool needs_name;
} actions[] = {{"list", list, false}, {"describe", describe, true}, {"reset", reset, true}};

static int act(const struct group *g, const char *const *rest, size_t count) {
    for (size_t i = 0; rest[0] && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(rest[0], actions[i].name) != 0) continue;
        if (count != (actions[i].needs_name ? 2 : 1))
            return cli_usage("group", actions[i].needs_name ? "%s: which group?" : "%s takes no name",
                             rest[0]);
        enum hf_err e = actions[i].run(g, rest[1]);
        if (e == HF_EINVAL) return cli_usage("group", "%s", hf_errmsg());
        return e ? cli_fail("group", e) : CLI_DONE;
    }
    return cli_usage("group", "list, describe or reset");
}

int cli_group(int argc, char **argv) {
    struct hf_config c = {0};
    struct group g;
    bool stop;
    int status = cli_settings(&c, &options,
                              "holdfast group list | describe G | reset G --to WHERE [--topic T] [FLAGS]",
                              argc, argv, &g, &stop);
    if (!stop) status = act(&g, c.rest, c.rest_count);
    hf_config_fini(&c);
    return status;
}
