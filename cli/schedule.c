/* holdfast schedule list | count | show | cancel | move | stats: messages that are held until they are due.
 *
 * cancel and move take TOPIC ID, or a filter: then page after page is asked for, and the sums are printed.
 * What stops in the middle says where to go on (--after). Beginning anew does no harm to a cancel or a move to a
 * time; a move --by would move twice what it has moved already.
 *
 * A flag that an action has no use for is refused: "cancel --limit 5" that cancels everything would be believed. */
#include "common.h"

#include "base/control.h"
#include "base/duration.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

struct schedule {
    struct cli_server at;
    const char *topic, *prefix, *from, *to, *due, *delay, *by, *after;
    int64_t limit;
    bool json;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct schedule),
    {"topic", HF_OPTION_TEXT, offsetof(struct schedule, topic), .value = "T",
     .help = "messages to this topic only"},
    {"prefix", HF_OPTION_TEXT, offsetof(struct schedule, prefix), .value = "P",
     .help = "messages whose id begins so"},
    {"from", HF_OPTION_TEXT, offsetof(struct schedule, from), .value = "TIME", .help = "due at or after"},
    {"to", HF_OPTION_TEXT, offsetof(struct schedule, to), .value = "TIME", .help = "due before"},
    {"limit", HF_OPTION_INT, offsetof(struct schedule, limit), .fallback = "0", .value = "N",
     .help = "of list: so many at most; 0: all"},
    {"due", HF_OPTION_TEXT, offsetof(struct schedule, due), .value = "TIME",
     .help = "of move: ms since 1970, or 2026-03-01T12:00:00Z"},
    {"delay", HF_OPTION_TEXT, offsetof(struct schedule, delay), .value = "D",
     .help = "of move: from now, 15m"},
    {"by", HF_OPTION_TEXT, offsetof(struct schedule, by), .value = "D",
     .help = "of move of many: so much later, 15m, or earlier, -15m"},
    {"after", HF_OPTION_TEXT, offsetof(struct schedule, after), .value = "CURSOR",
     .help = "go on behind this place"},
    {"json", HF_OPTION_SWITCH, offsetof(struct schedule, json), .help = "an object a line"},
};
static const struct hf_options options = {"schedule", rows, sizeof rows / sizeof *rows};

enum { PATH_MAX_BYTES = 4000, PAGE = 500 }; /* an id of 1,000 bytes, percent-encoded */

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

static hf_str text_at(const json_t *o, const char *name) {
    const json_t *text = json_object_get(o, name);
    return json_is_string(text) ? hf_str_make(json_string_value(text), json_string_length(text))
                                : HF_STR("-");
}

static void print_item(const struct schedule *s, const json_t *item) {
    if (s->json) {
        (void)json_dumpf(item, stdout, JSON_COMPACT);
        (void)putchar('\n');
        return;
    }
    static const char *const columns[] = {"due", "topic", "id", "key"};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        cli_put_text(text_at(item, columns[i]));
        (void)putchar('\t');
    }
    (void)printf("%" JSON_INTEGER_FORMAT " bytes\n",
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
        return client_error(HF_EINVAL, "--%s \"%s\": 2026-03-01T12:00:00Z, or ms since 1970", name, value);
    hf_buf_printf(path, "&%s=%" PRId64, name, ms);
    return HF_OK;
}

static enum hf_err page_path(const struct schedule *s, const char *of, int64_t limit, const char *after,
                             struct hf_buf *path) {
    hf_buf_reset(path);
    hf_buf_printf(path, "/v1/%s?limit=%" PRId64, of, limit);
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
    char after[80];
    struct hf_buf path;
    (void)snprintf(after, sizeof after, "%s", s->after ? s->after : "");
    hf_buf_init(&path, 3 * PATH_MAX_BYTES);
    enum hf_err e = HF_OK;
    int64_t left = s->limit ? s->limit : INT64_MAX;
    for (bool more = true; !e && more && left > 0;) {
        json_t *page = NULL, *item;
        size_t i;
        e = page_path(s, "schedule", left < PAGE ? left : PAGE, after, &path);
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

/* ---- sums over pages ---- */

/* Adds the numbers of an object, those of objects within it too. */
static void add_up(json_t *sum, const json_t *page) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)page, name, v) {
        json_t *have = json_object_get(sum, name);
        if (json_is_object(v)) {
            if (!have) json_object_set_new(sum, name, have = json_object());
            add_up(have, v);
        } else if (json_is_integer(v)) {
            json_object_set_new(sum, name, json_integer(json_integer_value(have) + json_integer_value(v)));
        }
    }
}

static void progress(const struct schedule *s, const json_t *sum) {
    if (s->json || !isatty(STDERR_FILENO)) return;
    (void)fprintf(stderr, "\r");
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)sum, name, v) if (json_is_integer(v))(void)
        fprintf(stderr, "%s %" JSON_INTEGER_FORMAT "  ", name, json_integer_value(v));
}

/* Page after page; *sum is the caller's, also after a failure. */
static enum hf_err over_pages(const struct schedule *s, const char *method, const char *of,
                              const json_t *body, json_t **sum, char after[80]) {
    struct hf_buf path;
    enum hf_err e = HF_OK;
    bool more = true, asked = false;
    (void)snprintf(after, 80, "%s", s->after ? s->after : "");
    hf_buf_init(&path, 3 * PATH_MAX_BYTES);
    *sum = json_object();
    while (!e && more) {
        json_t *page = NULL;
        e = page_path(s, of, PAGE, after, &path);
        if (!e) e = call(s, method, (const char *)path.p, body, &page);
        if (e) break;
        add_up(*sum, page);
        progress(s, *sum);
        const char *next = json_string_value(json_object_get(page, "next"));
        more = next != NULL;
        if (next) (void)snprintf(after, 80, "%s", next);
        json_decref(page);
        asked = true;
    }
    if (asked && !s->json && isatty(STDERR_FILENO)) (void)fprintf(stderr, "\n");
    hf_buf_fini(&path);
    return e;
}

static void print_sums(const struct schedule *s, const json_t *sum) {
    const char *name;
    json_t *v;
    if (s->json) {
        (void)json_dumpf(sum, stdout, JSON_COMPACT);
        (void)putchar('\n');
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)sum, name, v) {
        if (json_is_integer(v)) (void)printf("%s %" JSON_INTEGER_FORMAT "\n", name, json_integer_value(v));
        if (!json_is_object(v)) continue;
        const char *inner;
        json_t *n;
        (void)printf("%s:\n", name);
        json_object_foreach(v, inner, n) if (json_is_integer(n))(void)
            printf("  %-8s %" JSON_INTEGER_FORMAT "\n", inner, json_integer_value(n));
    }
}

static enum hf_err count(const struct schedule *s, const char *const *names) {
    json_t *sum;
    char after[80];
    (void)names;
    enum hf_err e = over_pages(s, "GET", "schedule-count", NULL, &sum, after);
    if (!e) print_sums(s, sum);
    json_decref(sum);
    return e;
}

static enum hf_err change_many(const struct schedule *s, const char *method, const json_t *body) {
    json_t *sum;
    char after[80], why[512];
    if (!s->topic)
        return client_error(HF_EINVAL, "which? TOPIC and ID, or --topic T (and --prefix P, --from, --to)");
    enum hf_err e = over_pages(s, method, "schedule", body, &sum, after);
    if (e && *after) {
        (void)snprintf(why, sizeof why, "%s", hf_errmsg());
        e = client_error(e, "%.400s; so far the above: go on with --after %s", why, after);
    }
    print_sums(s, sum);
    json_decref(sum);
    return e;
}

/* ---- one ---- */

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
        cli_put_text(text_at(answer, "outcome"));
        (void)putchar('\n');
    }
    json_decref(answer);
    return HF_OK;
}

static enum hf_err cancel(const struct schedule *s, const char *const *names) {
    return names[0] ? change(s, "DELETE", names, NULL) : change_many(s, "DELETE", NULL);
}

static enum hf_err check_times(const struct schedule *s) {
    int64_t v;
    if (s->due && hf_time_parse(hf_str_of(s->due), &v))
        return client_error(HF_EINVAL, "move: --due \"%s\": 2026-03-01T12:00:00Z, or ms since 1970", s->due);
    bool level = s->delay && strncmp(s->delay, "level", 5) == 0; /* the server knows them */
    if (s->delay && !level && hf_duration_parse(hf_str_of(s->delay), &v))
        return client_error(HF_EINVAL, "move: --delay \"%s\": 250ms 30s 15m 2h 7d", s->delay);
    if (s->by && (hf_duration_parse(hf_str_of(s->by + (*s->by == '-')), &v) || v > HF_TIME_MAX_MS))
        return client_error(HF_EINVAL, "move: --by \"%s\": 15m, or -15m for earlier", s->by);
    return HF_OK;
}

static enum hf_err move(const struct schedule *s, const char *const *names) {
    if (!!s->due + !!s->delay + !!s->by != 1)
        return client_error(HF_EINVAL, "move: to when? (--due, --delay, or of many --by)");
    if (s->by && names[0])
        return client_error(HF_EINVAL, "move: --by is for many; of one say --due or --delay");
    enum hf_err e = check_times(s);
    if (e) return e;
    json_t *body = s->due     ? json_pack("{s:s}", "due", s->due)
                   : s->delay ? json_pack("{s:s}", "delay", s->delay)
                              : json_pack("{s:s}", "by", s->by);
    if (!body) return client_error(HF_ENOMEM, "move: %s", hf_err_text(HF_ENOMEM));
    e = names[0] ? change(s, "POST", names, body) : change_many(s, "POST", body);
    json_decref(body);
    return e;
}

/* With a filter: of those messages what is due when. */
static enum hf_err stats(const struct schedule *s, const char *const *names) {
    json_t *answer;
    if (s->topic || s->prefix || s->from || s->to || s->after) return count(s, names);
    enum hf_err e = call(s, "GET", "/v1/schedule-stats", NULL, &answer);
    if (e) return e;
    (void)json_dumpf(answer, stdout, s->json ? JSON_COMPACT : JSON_INDENT(2));
    (void)putchar('\n');
    json_decref(answer);
    return HF_OK;
}

enum { TAKES_FILTER = 1, TAKES_LIMIT = 2, TAKES_TIME = 4, NOT_DONE_SO = 8 };

static const struct {
    const char *name;
    enum hf_err (*run)(const struct schedule *s, const char *const *names);
    unsigned one, many; /* the flags it takes with TOPIC ID, and without */
} actions[] = {{"list", list, NOT_DONE_SO, TAKES_FILTER | TAKES_LIMIT},
               {"count", count, NOT_DONE_SO, TAKES_FILTER},
               {"show", show, 0, NOT_DONE_SO},
               {"cancel", cancel, 0, TAKES_FILTER},
               {"move", move, TAKES_TIME, TAKES_FILTER | TAKES_TIME},
               {"stats", stats, NOT_DONE_SO, TAKES_FILTER}};

/* The first flag that is given and of no use; NULL: none. */
static const char *useless_flag(const struct schedule *s, unsigned taken) {
    const struct {
        const char *name;
        bool given;
        unsigned of;
    } flags[] = {{"topic", s->topic, TAKES_FILTER}, {"prefix", s->prefix, TAKES_FILTER},
                 {"from", s->from, TAKES_FILTER},   {"to", s->to, TAKES_FILTER},
                 {"after", s->after, TAKES_FILTER}, {"limit", s->limit, TAKES_LIMIT},
                 {"due", s->due, TAKES_TIME},       {"delay", s->delay, TAKES_TIME},
                 {"by", s->by, TAKES_TIME}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].given && !(taken & flags[i].of)) return flags[i].name;
    return NULL;
}

static int act(const struct schedule *s, const char *const *rest, size_t given) {
    for (size_t i = 0; rest[0] && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(rest[0], actions[i].name) != 0) continue;
        unsigned taken = given == 1 ? actions[i].many : given == 3 ? actions[i].one : NOT_DONE_SO;
        if (taken & NOT_DONE_SO)
            return cli_usage("schedule",
                             actions[i].one & NOT_DONE_SO ? "%s takes no names" : "%s: which TOPIC and ID?",
                             rest[0]);
        const char *flag = useless_flag(s, taken);
        if (flag)
            return cli_usage("schedule", "%s%s takes no --%s", rest[0], given == 3 ? " of one" : "", flag);
        enum hf_err e = actions[i].run(s, rest + 1);
        if (e == HF_EINVAL) return cli_usage("schedule", "%s", hf_errmsg());
        return e ? cli_fail("schedule", e) : CLI_DONE;
    }
    return cli_usage("schedule", "list, count, show, cancel, move or stats");
}

int cli_schedule(int argc, char **argv) {
    struct hf_config c = {0};
    struct schedule s;
    bool stop;
    int status =
        cli_settings(&c, &options,
                     "holdfast schedule list | count | stats [FILTER] | show TOPIC ID | cancel TOPIC ID | "
                     "cancel FILTER | move TOPIC ID --due TIME | move FILTER --by D\n"
                     "FILTER: --topic T --prefix P --from TIME --to TIME",
                     argc, argv, &s, &stop);
    if (!stop) status = act(&s, c.rest, c.rest_count);
    hf_config_fini(&c);
    return status;
}
