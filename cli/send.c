/* holdfast send: messages from arguments, lines, or JSON lines as holdfast tail --json prints them. */
#include "base/control.h"
#include "base/duration.h"
#include "base/names.h"
#include "common.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

enum { HEADERS_MAX = HF_DELAY_HEADERS_MAX };

struct send {
    struct cli_server at;
    const char *key, *partition, *delay, *due, *id, *message_id, *conflict, *cron, *tz, *cron_group;
    bool jsonl, json;
};

#define TEXT(flag, field, what, line)                                                                        \
    { flag, HF_OPTION_TEXT, offsetof(struct send, field), .value = what, .help = line }
static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct send),
    TEXT("key", key, "K", "key of every message"),
    TEXT("partition", partition, "N", "of the destination; default by the key"),
    TEXT("delay", delay, "TIME", "held for so long: 250ms 30s 15m 2h 7d, or level3 of the server's table"),
    TEXT("due", due, "TIME", "held until then: 2026-03-01T12:00:00Z, or milliseconds since 1970"),
    TEXT("cron", cron, "EXPRESSION", "again and again: \"0 9 * * MON-FRI\", @daily; needs --id"),
    TEXT("tz", tz, "ZONE", "of --cron: Europe/Berlin; default UTC"),
    TEXT("cron.group", cron_group, "G", "of --cron: not while this group has not done the run before"),
    TEXT("id", id, "ID", "a name for the schedule: the same again replaces it"),
    TEXT("on.conflict", conflict, "replace|keep|once", "what an id that is pending does"),
    TEXT("message.id", message_id, "ID", "identity, for deduplication"),
    {"jsonl", HF_OPTION_SWITCH, offsetof(struct send, jsonl),
     .help =
         "each line of the input is a JSON object, as tail --json prints it; id, delay, due, cron, tz and "
         "message_id in it go before the flags"},
    {"json", HF_OPTION_SWITCH, offsetof(struct send, json),
     .help = "a receipt for each message: its line or value, topic, partition, offset, timestamp, outcome"},
};
static const struct hf_options options = {"send", rows, sizeof rows / sizeof *rows};

struct job {
    hf_client *client;
    const char *topic;
    hf_message pattern; /* what the flags say */
    hf_header headers[HEADERS_MAX];
    bool json;
    int64_t sent;
    _Atomic int64_t failures; /* that receipts have told of */
};

/* ---- receipts ---- */

/* number counts lines or values from 1; outcome: of a schedule with a name, else NULL. Called from the client's
 * thread too. */
static void tell(bool json, int64_t number, const hf_receipt *r, const char *outcome) {
    if (json)
        (void)printf("{\"number\":%" PRId64 ",\"topic\":\"%s\",\"partition\":%" PRId32 ",\"offset\":%" PRId64
                     ",\"timestamp\":%" PRId64 "%s%s%s}\n",
                     number, r->topic, r->partition, r->offset, r->timestamp_ms,
                     outcome ? ",\"outcome\":\"" : "", outcome ? outcome : "", outcome ? "\"" : "");
    else
        (void)printf("%s/%" PRId32 "/%" PRId64 "@%" PRId64 "%s%s\n", r->topic, r->partition, r->offset,
                     r->timestamp_ms, outcome ? " " : "", outcome ? outcome : "");
}

/* NULL: it has no name, or the server's HTTP side cannot be asked; it is accepted all the same. */
static const char *outcome_of(hf_client *c, const hf_message *m, const hf_receipt *r) {
    hf_outcome outcome;
    bool asks = m->id && strcmp(r->topic, HF_TOPIC_DELAY) == 0;
    return asks && client_outcome(c, r, &outcome) == HF_OK ? hf_outcome_text(outcome) : NULL;
}

struct awaited {
    struct job *job;
    int64_t number;
};

static void on_sent(enum hf_err e, const hf_receipt *r, void *arg) {
    struct awaited *a = arg;
    if (e) {
        atomic_fetch_add(&a->job->failures, 1);
        (void)fprintf(stderr, "holdfast send: line %" PRId64 ": %s\n", a->number, hf_errmsg());
    } else {
        tell(true, a->number, r, NULL);
    }
    free(a);
}

/* Without receipts hf_flush tells of a failure. */
static enum hf_err post(struct job *j, const hf_message *m, int64_t number) {
    enum hf_err e;
    struct awaited *a = j->json ? malloc(sizeof *a) : NULL;
    if (j->json && !a) return client_error(HF_ENOMEM, "%s", hf_err_text(HF_ENOMEM));
    if (a) *a = (struct awaited){j, number};
    while ((e = hf_send_async(j->client, m, a ? on_sent : NULL, a)) == HF_EAGAIN)
        if ((e = hf_flush(j->client, -1))) break;
    if (e) free(a);
    j->sent += !e;
    return e;
}

/* ---- when ---- */

static enum hf_err take_delay(hf_message *m, const char *text) {
    int64_t level = 0;
    m->delay_ms = 0;
    if (strncmp(text, "level", 5) == 0) {
        if (hf_str_int(hf_str_of(text + 5), &level) || level < 1 || level > HF_DELAY_LEVELS_MAX)
            return client_error(HF_EINVAL, "delay \"%s\": level1 and up", text);
    } else if (hf_duration_parse(hf_str_of(text), &m->delay_ms)) {
        return client_error(HF_EINVAL, "delay \"%s\": 250ms 30s 15m 2h 7d", text);
    }
    m->delay_level = (int32_t)level;
    return HF_OK;
}

static enum hf_err take_due(hf_message *m, const char *text) {
    if (hf_time_parse(hf_str_of(text), &m->due_ms) == HF_OK) return HF_OK;
    return client_error(HF_EINVAL, "due \"%s\": 2026-03-01T12:00:00Z, or milliseconds since 1970", text);
}

/* ---- JSON ---- */

/* null is as good as none. */
static const json_t *field_of(const json_t *o, const char *name) {
    const json_t *v = json_object_get(o, name);
    return json_is_null(v) ? NULL : v;
}

/* *out stays as it is if there is none. */
static enum hf_err text_of(const json_t *o, const char *name, const char **out) {
    const json_t *v = field_of(o, name);
    if (!v) return HF_OK;
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return client_error(HF_EINVAL, "%s: a text is needed, without NUL bytes", name);
    *out = json_string_value(v);
    return HF_OK;
}

/* "30m", or milliseconds. */
static enum hf_err time_of(const json_t *o, const char *name, enum hf_err (*take)(hf_message *, const char *),
                           hf_message *m) {
    char number[32];
    const char *text = NULL;
    const json_t *v = json_object_get(o, name);
    if (json_is_integer(v)) {
        (void)snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        text = number;
    } else {
        enum hf_err e = text_of(o, name, &text);
        if (e) return e;
    }
    return text ? take(m, text) : HF_OK;
}

/* What an object says of its own goes before the flags; one time of its own before that of the flags. */
static enum hf_err fields_of(const json_t *o, hf_message *m) {
    const char *topic = m->topic;
    enum hf_err e = text_of(o, "topic", &topic);
    if (!e) e = text_of(o, "id", &m->id);
    if (!e) e = text_of(o, "message_id", &m->message_id);
    if (!m->topic) m->topic = topic;
    if (field_of(o, "delay") || field_of(o, "due") || field_of(o, "cron")) {
        m->delay_ms = m->due_ms = m->delay_level = 0;
        m->cron = NULL;
        if (!field_of(o, "cron")) m->tz = m->cron_group = NULL;
    }
    if (!e) e = text_of(o, "cron", &m->cron);
    if (!e && m->cron) e = text_of(o, "tz", &m->tz);
    if (!e) e = time_of(o, "delay", take_delay, m);
    return e ? e : time_of(o, "due", take_due, m);
}

/* Text, or base64 of it, from an object. The caller frees *memory. false: neither is right. */
static bool bytes_of(const json_t *o, const char *name, hf_str *out, char **memory) {
    char field[32];
    (void)snprintf(field, sizeof field, "%s_base64", name);
    const json_t *v = field_of(o, name), *b = field_of(o, field);
    *out = (hf_str){NULL, 0};
    if (v && b) return false;
    if (b) {
        if (!json_is_string(b)) return false;
        *memory = cli_from_base64(json_string_value(b), &out->n);
        out->p = *memory;
        return *memory != NULL;
    }
    if (json_is_string(v)) *out = hf_str_make(json_string_value(v), json_string_length(v));
    return !v || json_is_string(v);
}

/* ["name", "text"], ["name", null], or ["name", null, "base64"]. */
static enum hf_err header_of(const json_t *pair, hf_header *out, char **memory) {
    const json_t *name = json_array_get(pair, 0), *v = json_array_get(pair, 1), *b = json_array_get(pair, 2);
    size_t parts = json_array_size(pair);
    if (!json_is_string(name) || parts < 2 || parts > 3)
        return client_error(HF_EINVAL, "headers: each is [\"name\", \"text\"]");
    if (strlen(json_string_value(name)) != json_string_length(name))
        return client_error(HF_EINVAL, "headers: a name without NUL bytes is needed");
    *out = (hf_header){hf_str_of(json_string_value(name)), {json_string_value(v), json_string_length(v)}};
    if (b && json_is_null(v)) {
        *memory = json_is_string(b) ? cli_from_base64(json_string_value(b), &out->value.n) : NULL;
        out->value.p = *memory;
        if (*memory) return HF_OK;
    } else if (!b && (json_is_string(v) || json_is_null(v))) {
        return HF_OK;
    }
    return client_error(HF_EINVAL, "headers: \"%s\" needs a text or null, or null and base64",
                        json_string_value(name));
}

static enum hf_err headers_of(const json_t *o, hf_header *out, char **memory, size_t *count) {
    const json_t *list = field_of(o, "headers");
    size_t n = 0;
    if (list && !json_is_array(list))
        return client_error(HF_EINVAL, "headers: a list of [\"name\", \"text\"] is needed");
    for (size_t i = 0; i < json_array_size(list); i++) {
        hf_header h;
        char *bytes = NULL;
        enum hf_err e = header_of(json_array_get(list, i), &h, &bytes);
        if (e) return e;
        /* Headers of ours belong to the move that made them. */
        bool ours = hf_str_starts(h.key, HF_STR("hf-")) && !hf_str_is(h.key, HF_HDR_VERSION);
        if (ours || n == HEADERS_MAX) free(bytes);
        if (ours) continue;
        if (n == HEADERS_MAX) return client_error(HF_ELIMIT, "more than %d headers", HEADERS_MAX);
        memory[n] = bytes;
        out[n++] = h;
    }
    *count = n;
    return HF_OK;
}

static enum hf_err send_object(struct job *j, const json_t *o, int64_t number) {
    hf_header headers[HEADERS_MAX];
    char *memory[HEADERS_MAX + 2] = {0};
    hf_message m = j->pattern;
    hf_str key = {NULL, 0};
    enum hf_err e = fields_of(o, &m);
    if (!e) e = headers_of(o, headers, memory + 2, &m.header_count);
    if (!e && m.header_count + j->pattern.header_count > HEADERS_MAX)
        e = client_error(HF_ELIMIT, "more than %d headers, with those of the flags", HEADERS_MAX);
    for (size_t i = 0; !e && i < j->pattern.header_count; i++)
        headers[m.header_count++] = j->pattern.headers[i];
    m.headers = headers;
    if (!e && (!bytes_of(o, "key", &key, &memory[0]) || !bytes_of(o, "value", &m.value, &memory[1])))
        e = client_error(HF_EINVAL,
                         "key and value are texts, null, or base64 in key_base64 and value_base64");
    if (key.p) m.key = key;
    if (!e) e = post(j, &m, number);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) free(memory[i]);
    return e;
}

/* ---- input ---- */

static enum hf_err send_line(struct job *j, bool jsonl, const char *line, size_t n, int64_t number) {
    if (!jsonl) {
        hf_message m = j->pattern;
        m.value = hf_str_make(line, n);
        return post(j, &m, number);
    }
    json_error_t why;
    json_t *o = json_loadb(line, n, JSON_ALLOW_NUL, &why);
    if (!json_is_object(o)) {
        json_decref(o);
        return client_error(HF_EINVAL, "no JSON object: %s", o ? "another kind of value" : why.text);
    }
    enum hf_err e = send_object(j, o, number);
    json_decref(o);
    return e;
}

static enum hf_err send_input(struct job *j, bool jsonl) {
    char *line = NULL;
    size_t room = 0;
    enum hf_err e = HF_OK;
    int64_t number = 0;
    for (ssize_t n; !e && (n = getline(&line, &room, stdin)) >= 0;) {
        number++;
        if (n > 0 && line[n - 1] == '\n') n--;
        if (jsonl && n == 0) continue;
        e = send_line(j, jsonl, line, (size_t)n, number);
    }
    if (e) {
        char text[512];
        (void)snprintf(text, sizeof text, "%s", hf_errmsg());
        e = client_error(e, "line %" PRId64 ": %.400s (%" PRId64 " before it were sent)", number, text,
                         j->sent);
    }
    free(line);
    return e;
}

static enum hf_err send_all(struct job *j, bool jsonl, const char *const *values) {
    enum hf_err e = HF_OK;
    if (!*values) {
        e = send_input(j, jsonl);
        enum hf_err flushed = hf_flush(j->client, -1);
        int64_t failures = atomic_load(&j->failures);
        if (!e) e = flushed;
        if (!e && failures) e = client_error(HF_EIO, "%" PRId64 " messages were not accepted", failures);
        if (!e && !j->json) (void)printf("sent %" PRId64 "\n", j->sent);
        return e;
    }
    for (int64_t number = 1; *values && !e; values++, number++) {
        hf_message m = j->pattern;
        hf_receipt r;
        m.value = hf_str_of(*values);
        e = hf_send(j->client, &m, &r);
        if (!e) tell(j->json, number, &r, outcome_of(j->client, &m, &r));
    }
    return e;
}

/* ---- flags ---- */

/* Kafka's clients do not pass on why a record was refused, so the server is asked first. One that cannot be
 * asked gets the record all the same. */
static enum hf_err check_cron(const struct send *s) {
    char cron[1000], tz[300], path[1400];
    int status = 0;
    json_t *answer = NULL;
    if (!client_path_segment(s->cron, cron, sizeof cron) ||
        !client_path_segment(s->tz ? s->tz : "UTC", tz, sizeof tz))
        return client_error(HF_EINVAL, "cron or tz is too long");
    (void)snprintf(path, sizeof path, "/v1/schedule-next?cron=%s&tz=%s", cron, tz);
    if (client_api(s->at.api, "GET", path, NULL, CLI_TIMEOUT_MS, &status, &answer)) return HF_OK;
    const char *why = json_string_value(json_object_get(answer, "error"));
    enum hf_err e =
        status == 400 ? client_error(HF_EINVAL, "%s", why ? why : "the server refuses it") : HF_OK;
    json_decref(answer);
    return e;
}

static int take_flags(struct job *j, const struct send *s, const char *const *headers, size_t count) {
    static const char *const conflicts[] = {"replace", "keep", "once"};
    j->pattern =
        (hf_message){.topic = j->topic, .key = hf_str_of(s->key), .id = s->id, .message_id = s->message_id};
    int64_t number = 0;
    if (s->partition && (hf_str_int(hf_str_of(s->partition), &number) || number < 0 || number >= INT32_MAX))
        return cli_usage("send", "partition \"%s\": a number from 0", s->partition);
    if (s->partition) j->pattern.partition = HF_PARTITION((int32_t)number);
    j->pattern.cron = s->cron;
    j->pattern.tz = s->tz;
    j->pattern.cron_group = s->cron_group;
    if ((s->delay && take_delay(&j->pattern, s->delay)) || (s->due && take_due(&j->pattern, s->due)))
        return cli_usage("send", "%s", hf_errmsg());
    if (!!s->delay + !!s->due + !!s->cron > 1) return cli_usage("send", "delay, due and cron: one of them");
    if (s->cron && !s->id) return cli_usage("send", "cron needs an id: a name to change or cancel it by");
    int found = -1;
    for (int i = 0; s->conflict && i < 3; i++)
        if (strcmp(s->conflict, conflicts[i]) == 0) found = i;
    if (s->conflict && found < 0)
        return cli_usage("send", "on.conflict \"%s\": replace, keep or once", s->conflict);
    if (found >= 0) j->pattern.on_conflict = (hf_conflict)found;
    for (size_t i = 0; i < count; i++) {
        const char *eq = strchr(headers[i], '=');
        if (!eq || eq == headers[i]) return cli_usage("send", "header \"%s\": name=value", headers[i]);
        j->headers[i] = (hf_header){hf_str_make(headers[i], (size_t)(eq - headers[i])), hf_str_of(eq + 1)};
    }
    j->pattern.headers = j->headers;
    j->pattern.header_count = count;
    return CLI_DONE;
}

int cli_send(int argc, char **argv) {
    struct hf_config c = {0};
    struct send s;
    struct job j = {0};
    const char *headers[HEADERS_MAX];
    size_t count;
    bool stop;
    if (!cli_take_repeated(&argc, argv, "header", headers, HEADERS_MAX, &count))
        return cli_usage("send", "header: name=value, at most %d", HEADERS_MAX);
    int status = cli_settings(
        &c, &options,
        "holdfast send TOPIC [VALUE…] [--header k=v]… [FLAGS]   without values: a line each of stdin", argc,
        argv, &s, &stop);
    j.topic = c.rest[0];
    j.json = s.json;
    if (!stop && !j.topic && !s.jsonl) {
        status = cli_usage("send", "the topic is missing");
        stop = true;
    }
    if (!stop && (status = take_flags(&j, &s, headers, count)) != CLI_DONE) stop = true;
    if (!stop && s.cron && check_cron(&s)) {
        status = cli_usage("send", "%s", hf_errmsg());
        stop = true;
    }
    if (!stop) {
        enum hf_err e = cli_connect(&s.at, &j.client);
        if (!e) e = send_all(&j, s.jsonl, c.rest + (j.topic ? 1 : 0));
        if (e) status = cli_fail("send", e);
        hf_close(j.client);
    }
    hf_config_fini(&c);
    return status;
}
