/* holdfast schedule list | show | cancel | move | stats: messages that are held until they are due. */
#include "common.h"

#include "base/duration.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

struct schedule {
    struct cli_server at;
    const char *topic, *prefix, *from, *to, *due, *delay;
    int64_t limit;
    bool json;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct schedule),
    {"topic", HF_OPTION_TEXT, offsetof(struct schedule, topic), .value = "T",
     .help = "of list: messages to this topic only"},
    {"prefix", HF_OPTION_TEXT, offsetof(struct schedule, prefix), .value = "P",
     .help = "of list: messages whose id begins so"},
    {"from", HF_OPTION_TEXT, offsetof(struct schedule, from), .value = "TIME",
     .help = "of list: due at or after"},
    {"to", HF_OPTION_TEXT, offsetof(struct schedule, to), .value = "TIME", .help = "of list: due before"},
    {"limit", HF_OPTION_INT, offsetof(struct schedule, limit), .fallback = "0", .value = "N",
     .help = "of list: so many at most; 0: all"},
    {"due", HF_OPTION_TEXT, offsetof(struct schedule, due), .value = "TIME",
     .help = "of move: ms since 1970, or 2026-03-01T12:00:00Z"},
    {"delay", HF_OPTION_TEXT, offsetof(struct schedule, delay), .value = "D",
     .help = "of move: from now, 15m"},
    {"json", HF_OPTION_SWITCH, offsetof(struct schedule, json), .help = "an object a line"},
};
static const struct hf_options options = {"schedule", rows, sizeof rows / sizeof *rows};

enum { PATH_MAX_BYTES = 2000, PAGE = 500 };

/* One request. *out is the caller's. Answers other than 200 are told in words. */
static enum hf_err call(const struct schedule *s, const char *method, const char *path, const json_t *body,
                        json_t **out) {
    int status = 0;
    json_t *answer = NULL;
    enum hf_err e = client_api(s->at.api, method, path, body, CLI_TIMEOUT_MS, &status, &answer);
    if (e) return e;
    if (status == 200 && answer) {
        *out = answer;
        return HF_OK;
    }
    const char *outcome = json_string_value(json_object_get(answer, "outcome"));
    const char *why = json_string_value(json_object_get(answer, "error"));
    e = status == 404 ? HF_ENOTFOUND : status == 400 ? HF_EINVAL : HF_EIO;
    (void)client_error(e, "%s", outcome ? outcome : why ? why : "no answer that is understood");
    json_decref(answer);
    return e;
}

static const char *text_at(const json_t *o, const char *name) {
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "-";
}

static void print_item(const struct schedule *s, const json_t *item) {
    if (s->json) {
        (void)json_dumpf(item, stdout, JSON_COMPACT);
        (void)putchar('\n');
        return;
    }
    (void)printf("%s\t%s\t%s\t%s\t%" JSON_INTEGER_FORMAT " bytes\n", text_at(item, "due"),
                 text_at(item, "topic"), text_at(item, "id"), text_at(item, "key"),
                 json_integer_value(json_object_get(item, "value_bytes")));
}

/* Appends "&name=value", if there is a value. */
static enum hf_err add_query(struct hf_buf *path, const char *name, const char *value) {
    char escaped[PATH_MAX_BYTES];
    if (!value) return HF_OK;
    if (!client_path_segment(value, escaped, sizeof escaped))
        return client_error(HF_ELIMIT, "%s is too long", name);
    hf_buf_printf(path, "&%s=%s", name, escaped);
    return HF_OK;
}

static enum hf_err add_time(struct hf_buf *path, const char *name, const char *value) {
    int64_t ms;
    if (!value) return HF_OK;
    if (hf_time_parse(hf_str_of(value), &ms))
        return client_error(HF_EINVAL, "--%s: neither ms since 1970 nor RFC 3339: \"%s\"", name, value);
    hf_buf_printf(path, "&%s=%" PRId64, name, ms);
    return HF_OK;
}

static enum hf_err page_path(const struct schedule *s, int64_t limit, const char *after,
                             struct hf_buf *path) {
    hf_buf_reset(path);
    hf_buf_printf(path, "/v1/schedule?limit=%" PRId64, limit);
    enum hf_err e = add_query(path, "topic", s->topic);
    if (!e) e = add_query(path, "prefix", s->prefix);
    if (!e) e = add_time(path, "from", s->from);
    if (!e) e = add_time(path, "to", s->to);
    if (!e && *after) e = add_query(path, "after", after);
    hf_buf_u8(path, 0);
    return e ? e : hf_buf_failed(path);
}

static enum hf_err list(const struct schedule *s, const char *const *names) {
    (void)names;
    char after[80] = "";
    struct hf_buf path;
    hf_buf_init(&path, 3 * PATH_MAX_BYTES);
    enum hf_err e = HF_OK;
    int64_t left = s->limit ? s->limit : INT64_MAX;
    for (bool more = true; !e && more && left > 0;) {
        json_t *page = NULL, *item;
        size_t i;
        e = page_path(s, left < PAGE ? left : PAGE, after, &path);
        if (!e) e = call(s, "GET", (const char *)path.p, NULL, &page);
        if (e) break;
        json_array_foreach(json_object_get(page, "messages"), i, item) {
            print_item(s, item);
            left--;
        }
        const char *next = json_string_value(json_object_get(page, "next"));
        more = next != NULL;
        (void)snprintf(after, sizeof after, "%s", next ? next : "");
        json_decref(page);
    }
    hf_buf_fini(&path);
    return e;
}

static enum hf_err item_path(const char *const *names, char *out, size_t size) {
    char topic[PATH_MAX_BYTES], id[PATH_MAX_BYTES * 2];
    if (!client_path_segment(names[0], topic, sizeof topic) ||
        !client_path_segment(names[1], id, sizeof id) ||
        (size_t)snprintf(out, size, "/v1/schedule/%s/%s", topic, id) >= size)
        return client_error(HF_ELIMIT, "topic or id is too long");
    return HF_OK;
}

static enum hf_err show(const struct schedule *s, const char *const *names) {
    char path[3 * PATH_MAX_BYTES];
    json_t *item;
    enum hf_err e = item_path(names, path, sizeof path);
    if (!e) e = call(s, "GET", path, NULL, &item);
    if (e) return e;
    (void)json_dumpf(item, stdout, s->json ? JSON_COMPACT : JSON_INDENT(2));
    (void)putchar('\n');
    json_decref(item);
    return HF_OK;
}

static enum hf_err change(const struct schedule *s, const char *method, const char *const *names,
                          const json_t *body) {
    char path[3 * PATH_MAX_BYTES];
    json_t *answer;
    enum hf_err e = item_path(names, path, sizeof path);
    if (!e) e = call(s, method, path, body, &answer);
    if (e) return e;
    if (s->json) {
        (void)json_dumpf(answer, stdout, JSON_COMPACT);
        (void)putchar('\n');
    } else {
        (void)printf("%s\n", text_at(answer, "outcome"));
    }
    json_decref(answer);
    return HF_OK;
}

static enum hf_err cancel(const struct schedule *s, const char *const *names) {
    return change(s, "DELETE", names, NULL);
}

static enum hf_err move(const struct schedule *s, const char *const *names) {
    if (!s->due == !s->delay) return client_error(HF_EINVAL, "move: to when? (--due or --delay)");
    json_t *body = s->due ? json_pack("{s:s}", "due", s->due) : json_pack("{s:s}", "delay", s->delay);
    if (!body) return client_error(HF_ENOMEM, "move: %s", hf_err_text(HF_ENOMEM));
    enum hf_err e = change(s, "POST", names, body);
    json_decref(body);
    return e;
}

static enum hf_err stats(const struct schedule *s, const char *const *names) {
    (void)names;
    json_t *answer;
    enum hf_err e = call(s, "GET", "/v1/schedule-stats", NULL, &answer);
    if (e) return e;
    (void)json_dumpf(answer, stdout, s->json ? JSON_COMPACT : JSON_INDENT(2));
    (void)putchar('\n');
    json_decref(answer);
    return HF_OK;
}

static const struct {
    const char *name;
    enum hf_err (*run)(const struct schedule *s, const char *const *names);
    size_t names; /* TOPIC ID, or none */
} actions[] = {
    {"list", list, 0}, {"show", show, 2}, {"cancel", cancel, 2}, {"move", move, 2}, {"stats", stats, 0}};

static int act(const struct schedule *s, const char *const *rest, size_t count) {
    for (size_t i = 0; rest[0] && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(rest[0], actions[i].name) != 0) continue;
        if (count != 1 + actions[i].names)
            return cli_usage("schedule", actions[i].names ? "%s: which TOPIC and ID?" : "%s takes no names",
                             rest[0]);
        enum hf_err e = actions[i].run(s, rest + 1);
        if (e == HF_EINVAL) return cli_usage("schedule", "%s", hf_errmsg());
        return e ? cli_fail("schedule", e) : CLI_DONE;
    }
    return cli_usage("schedule", "list, show, cancel, move or stats");
}

int cli_schedule(int argc, char **argv) {
    struct hf_config c = {0};
    struct schedule s;
    bool stop;
    int status =
        cli_settings(&c, &options,
                     "holdfast schedule list [--topic T] [--prefix P] | show TOPIC ID | cancel TOPIC ID | "
                     "move TOPIC ID --due TIME | stats",
                     argc, argv, &s, &stop);
    if (!stop) status = act(&s, c.rest, c.rest_count);
    hf_config_fini(&c);
    return status;
}
