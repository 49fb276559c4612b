/* holdfast txn list | show | commit | rollback: transactions that wait for a decision.
 *
 * Asks the server over HTTP (/v1/txn). commit and rollback are an operator's decision, meant for parked
 * transactions; the first decision wins, so one that comes too late changes nothing and fails with the
 * outcome. */
#include "base/duration.h"
#include "common.h"

#include <inttypes.h>
#include <stddef.h>

enum { PATH_MAX_BYTES = 8192, PAGE = 500 };

struct txn_command {
    struct cli_server at;
    const char *group, *state;
    bool json;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct txn_command),
    {"group", HF_OPTION_TEXT, offsetof(struct txn_command, group), .value = "G",
     .help = "of list: only this producer group"},
    {"state", HF_OPTION_TEXT, offsetof(struct txn_command, state), .value = "S",
     .help = "of list: only prepared, parked or committed (still on the way) ones"},
    {"json", HF_OPTION_SWITCH, offsetof(struct txn_command, json),
     .help = "the server's JSON, an object a line"},
};
static const struct hf_options options = {"txn", rows, sizeof rows / sizeof *rows};

static const char usage_line[] =
    "holdfast txn list [--group G] [--state S]\n       holdfast txn show|commit|rollback GROUP ID";

/* ---- ask ---- */

/* *out is the caller's. CLI_DONE only for HTTP 200. */
static int call(const struct txn_command *c, const char *method, const char *path, const json_t *body,
                json_t **out) {
    int status = 0;
    *out = NULL;
    enum hf_err e = client_api(c->at.api, method, path, body, CLI_TIMEOUT_MS, &status, out);
    if (e) return cli_fail("txn", e);
    if (status == 200 && *out) return CLI_DONE;
    const char *why = json_string_value(json_object_get(*out, "error"));
    if (!why) why = json_string_value(json_object_get(*out, "outcome"));
    (void)fprintf(stderr, "holdfast txn: %s (HTTP %d)\n", why ? why : "the server's answer is no JSON",
                  status);
    return CLI_FAILED;
}

static bool path_of(char *path, size_t size, const char *group, const char *id) {
    char g[1024], i[4096];
    return client_path_segment(group, g, sizeof g) && client_path_segment(id, i, sizeof i) &&
           (size_t)snprintf(path, size, "/v1/txn/%s/%s", g, i) < size;
}

/* ---- print ---- */

static void print_json(const json_t *o) {
    char *text = json_dumps(o, JSON_COMPACT);
    if (text) (void)puts(text);
    free(text);
}

static const char *text_at(const json_t *o, const char *name) {
    const char *s = json_string_value(json_object_get(o, name));
    return s ? s : "-";
}

static void print_time(const char *name, const json_t *o, const char *field) {
    char text[HF_TIME_TEXT];
    const json_t *ms = json_object_get(o, field);
    if (!json_is_integer(ms)) return;
    hf_time_format(json_integer_value(ms), text);
    (void)printf("%-14s %s\n", name, text);
}

static void print_row(const json_t *o) {
    char created[HF_TIME_TEXT];
    hf_time_format(json_integer_value(json_object_get(o, "created_ms")), created);
    (void)printf("%-24s %-10s %5" JSON_INTEGER_FORMAT " %5" JSON_INTEGER_FORMAT "  %s  %s\n", created,
                 text_at(o, "state"), json_integer_value(json_object_get(o, "halves")),
                 json_integer_value(json_object_get(o, "checks_read")), text_at(o, "group"),
                 text_at(o, "id"));
}

/* ---- commands ---- */

static int list(const struct txn_command *c) {
    char group[1024] = "", path[PATH_MAX_BYTES];
    json_int_t from = 0;
    if (c->group && !client_path_segment(c->group, group, sizeof group))
        return cli_usage("txn", "the group is too long");
    if (c->state && strcmp(c->state, "prepared") != 0 && strcmp(c->state, "parked") != 0 &&
        strcmp(c->state, "committed") != 0)
        return cli_usage("txn", "state \"%s\": prepared, parked or committed", c->state);
    if (!c->json)
        (void)printf("%-24s %-10s %5s %5s  %s  %s\n", "CREATED", "STATE", "MSGS", "CHECK", "GROUP", "ID");
    do {
        (void)snprintf(path, sizeof path, "/v1/txn?limit=%d&from=%" JSON_INTEGER_FORMAT "&state=%s%s%s", PAGE,
                       from, c->state ? c->state : "", *group ? "&group=" : "", group);
        json_t *page;
        int status = call(c, "GET", path, NULL, &page);
        size_t i;
        json_t *one;
        json_array_foreach(json_object_get(page, "transactions"), i, one) {
            if (c->json)
                print_json(one);
            else
                print_row(one);
        }
        from = json_integer_value(json_object_get(page, "next"));
        json_decref(page);
        if (status) return status;
    } while (from > 0);
    return CLI_DONE;
}

static int show(const struct txn_command *c, const char *path) {
    json_t *o;
    int status = call(c, "GET", path, NULL, &o);
    if (!status && c->json) {
        print_json(o);
    } else if (!status) {
        (void)printf("%-14s %s\n%-14s %s\n%-14s %s\n", "group", text_at(o, "group"), "id", text_at(o, "id"),
                     "state", text_at(o, "state"));
        print_time("created", o, "created_ms");
        print_time("last prepare", o, "last_prepare_ms");
        print_time("decided", o, "decided_ms");
        print_time("next check", o, "next_check_ms");
        (void)printf("%-14s %" JSON_INTEGER_FORMAT " put, %" JSON_INTEGER_FORMAT " read\n", "checks",
                     json_integer_value(json_object_get(o, "checks_sent")),
                     json_integer_value(json_object_get(o, "checks_read")));
        if (json_is_string(json_object_get(o, "waits_for")))
            (void)printf("%-14s %s\n", "waits for", text_at(o, "waits_for"));
        size_t i;
        json_t *h;
        json_array_foreach(json_object_get(o, "half_messages"), i, h) {
            (void)printf("%-14s holdfast.txn/%" JSON_INTEGER_FORMAT "/%" JSON_INTEGER_FORMAT
                         ", %" JSON_INTEGER_FORMAT " bytes\n",
                         "half message", json_integer_value(json_object_get(h, "partition")),
                         json_integer_value(json_object_get(h, "offset")),
                         json_integer_value(json_object_get(h, "bytes")));
        }
    }
    json_decref(o);
    return status;
}

static int decide(const struct txn_command *c, const char *path, const char *decision) {
    json_t *body = json_pack("{ss}", "decision", decision), *o;
    if (!body) return cli_fail("txn", client_error(HF_ENOMEM, "%s", hf_err_text(HF_ENOMEM)));
    int status = call(c, "POST", path, body, &o);
    json_decref(body);
    if (!status) {
        const char *outcome = text_at(o, "outcome");
        if (c->json)
            print_json(o);
        else
            (void)printf("%s\n", outcome);
        if (strcmp(outcome, "contradicted") == 0) {
            (void)fprintf(stderr, "holdfast txn: it was decided otherwise before; see holdfast txn show\n");
            status = CLI_FAILED;
        }
    }
    json_decref(o);
    return status;
}

static int run(const struct txn_command *c, const struct hf_config *config) {
    const char *action = config->rest_count > 0 ? config->rest[0] : "";
    if (strcmp(action, "list") == 0 && config->rest_count == 1) return list(c);
    bool shows = strcmp(action, "show") == 0, commits = strcmp(action, "commit") == 0;
    if (!shows && !commits && strcmp(action, "rollback") != 0)
        return cli_usage("txn", "%s",
                         *action ? "neither list, show, commit nor rollback" : "what is to be done?");
    if (config->rest_count != 3) return cli_usage("txn", "%s needs GROUP and ID", action);
    char path[PATH_MAX_BYTES];
    if (!path_of(path, sizeof path, config->rest[1], config->rest[2]))
        return cli_usage("txn", "group or id is too long");
    return shows ? show(c, path) : decide(c, path, action);
}

int cli_txn(int argc, char **argv) {
    struct hf_config config;
    struct txn_command c;
    bool stop;
    int status = cli_settings(&config, &options, usage_line, argc, argv, &c, &stop);
    if (!stop) status = run(&c, &config);
    hf_config_fini(&config);
    return status;
}
