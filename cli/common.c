/* The client commands' common ground. A message as JSON:
 *
 *     {"topic": "orders", "partition": 0, "offset": 17, "timestamp": 1700000000000, "key": "1042" | null,
 *      "value": "…" | null, "message_id": "…", "headers": [["name", "value" | null], …]}
 *
 * with key_base64 and value_base64 in place of key and value whose bytes are no UTF-8, and ["name", null,
 * "base64"] for such a header. hf-message-id is told as message_id, so that a copy keeps its identity. */
#include "common.h"

#include "base/duration.h"
#include "base/names.h"

#include <stdarg.h>
#include <stdlib.h>

int cli_fail(const char *command, enum hf_err e) {
    const char *text = hf_errmsg();
    (void)fprintf(stderr, "holdfast %s: %s\n", command, *text ? text : hf_err_text(e));
    return CLI_FAILED;
}

int cli_usage(const char *command, const char *fmt, ...) {
    va_list ap;
    (void)fprintf(stderr, "holdfast %s: ", command);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "; see holdfast %s --help\n", command);
    return CLI_USAGE;
}

static const char **text_of(const struct hf_options *o, const char *name, void *target) {
    for (size_t i = 0; i < o->count; i++)
        if (strcmp(o->rows[i].name, name) == 0) return (const char **)((char *)target + o->rows[i].at);
    return NULL;
}

/* Another host than the server's may have a server, too, and answer for it. */
static enum hf_err settle_api(struct hf_config *c, const struct hf_options *o, void *target) {
    enum { HTTP_PORT = 8092 };
    const char **server = text_of(o, "server", target), **api = text_of(o, "api", target);
    if (!server || !api || *api) return HF_OK;
    const char *host = *server + strcspn(*server, ":,"); /* of several the first, without PLAINTEXT:// */
    host = strncmp(host, "://", 3) == 0 ? host + 3 : *server;
    size_t whole = strcspn(host, ","), n = whole;
    while (n > 0 && host[n - 1] != ':' && host[n - 1] != ']') n--;
    if (n > 0 && host[n - 1] == ':') n--;
    if (n == 0) n = whole; /* no port */
    *api = hf_arena_printf(&c->arena, "%.*s:%d", (int)n, host, HTTP_PORT).p;
    return *api ? HF_OK : HF_ENOMEM;
}

int cli_settings(struct hf_config *c, const struct hf_options *options, const char *usage, int argc,
                 char **argv, void *target, bool *stop) {
    enum hf_err e = hf_config_load(c, options, argc - 1, argv + 1, target);
    *stop = true;
    if (e) {
        (void)fprintf(stderr, "holdfast %s: %s\n", options->command, c->error);
        return CLI_USAGE;
    }
    if ((e = settle_api(c, options, target))) {
        (void)fprintf(stderr, "holdfast %s: %s\n", options->command, hf_err_text(e));
        return CLI_FAILED;
    }
    if (c->help) {
        (void)printf("usage: %s\n\n", usage);
        hf_config_usage(options, stdout);
    } else if (c->print) {
        hf_config_print(options, target, stdout);
    }
    *stop = c->help || c->print || c->check;
    return CLI_DONE;
}

bool cli_take_repeated(int *argc, char **argv, const char *name, const char **out, size_t max,
                       size_t *count) {
    size_t n = strlen(name);
    int kept = 0;
    *count = 0;
    for (int i = 0; i < *argc; i++) {
        bool ours = strncmp(argv[i], "--", 2) == 0 && strncmp(argv[i] + 2, name, n) == 0;
        const char *value = NULL;
        if (ours && argv[i][2 + n] == '=') value = argv[i] + 3 + n;
        if (ours && argv[i][2 + n] == 0) {
            if (i + 1 == *argc) return false;
            value = argv[++i];
        }
        if (!value) {
            argv[kept++] = argv[i];
            continue;
        }
        if (*count == max) return false;
        out[(*count)++] = value;
    }
    *argc = kept;
    return true;
}

enum hf_err cli_connect(const struct cli_server *at, hf_client **out) {
    const hf_client_options o = {HF_CLIENT_DEFAULTS, .client_id = "holdfast-cli", .api = at->api,
                                 .timeout_ms = CLI_TIMEOUT_MS};
    return hf_connect(at->server, &o, out);
}

enum hf_err cli_consumer(const struct cli_server *at, const char *group, bool end_events, rd_kafka_t **out) {
    const char *const pairs[] = {"group.id",
                                 group ? group : "holdfast-cli",
                                 "enable.auto.commit",
                                 "false",
                                 "auto.offset.reset",
                                 "earliest",
                                 "allow.auto.create.topics",
                                 "false",
                                 "enable.partition.eof",
                                 end_events ? "true" : "false",
                                 "session.timeout.ms",
                                 "10000",
                                 NULL};
    return client_consumer(rd_kafka_conf_new(), at->server, "holdfast-cli", pairs, NULL, out);
}

enum hf_err cli_partitions(rd_kafka_t *rk, const char *topic, rd_kafka_topic_partition_list_t **out) {
    /* All topics: asking for one by name may create it. */
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 1, NULL, &m, CLI_TIMEOUT_MS);
    if (err)
        return client_error(client_err_of(err), "list topics: %s%s", rd_kafka_err2str(err),
                            client_advice(RD_KAFKA_RESP_ERR__TRANSPORT));
    rd_kafka_topic_partition_list_t *list = NULL;
    for (int i = 0; i < m->topic_cnt; i++) {
        const struct rd_kafka_metadata_topic *t = &m->topics[i];
        if (strcmp(t->topic, topic) != 0) continue;
        list = rd_kafka_topic_partition_list_new(t->partition_cnt);
        for (int p = 0; p < t->partition_cnt; p++)
            rd_kafka_topic_partition_list_add(list, topic, t->partitions[p].id);
    }
    rd_kafka_metadata_destroy(m);
    if (!list)
        return client_error(HF_ENOTFOUND, "topic \"%s\" does not exist; see holdfast topic list", topic);
    rd_kafka_topic_partition_list_sort(list, NULL, NULL);
    *out = list;
    return HF_OK;
}

/* ---- base64 ---- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *to_base64(hf_str s) {
    char *out = malloc((s.n + 2) / 3 * 4 + 1), *at = out;
    if (!out) return NULL;
    const uint8_t *p = (const uint8_t *)s.p;
    for (size_t i = 0; i < s.n; i += 3) {
        size_t left = s.n - i;
        uint32_t v =
            (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0u);
        *at++ = digits[v >> 18];
        *at++ = digits[v >> 12 & 63];
        *at++ = left > 1 ? digits[v >> 6 & 63] : '=';
        *at++ = left > 2 ? digits[v & 63] : '=';
    }
    *at = 0;
    return out;
}

char *cli_from_base64(const char *s, size_t *n) {
    size_t length = strlen(s);
    char *out = malloc(length / 4 * 3 + 1);
    size_t got = 0;
    bool ok = out && length % 4 == 0;
    for (size_t i = 0; ok && i < length; i += 4) {
        uint32_t v = 0;
        size_t pad = i + 4 == length ? (size_t)(s[i + 3] == '=') + (s[i + 2] == '=') : 0;
        for (size_t k = 0; k < 4; k++) {
            const char *d = k >= 4 - pad ? digits : memchr(digits, s[i + k], 64);
            ok = ok && d;
            v = v << 6 | (uint32_t)(d ? d - digits : 0);
        }
        for (size_t k = 0; k < 3 - pad; k++) out[got++] = (char)(v >> (16 - 8 * k));
    }
    if (!ok) {
        free(out);
        return NULL;
    }
    *n = got;
    return out;
}

/* ---- text ---- */

void cli_put_text(hf_str s) {
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == 0x7f)
            (void)printf("\\x%02x", c);
        else
            (void)putchar(c);
    }
}

/* ---- JSON ---- */

static void set_bytes(json_t *o, const char *name, hf_str s) {
    json_t *text = s.p ? json_stringn(s.p, s.n) : json_null();
    if (text) {
        json_object_set_new(o, name, text);
        return;
    }
    char field[32];
    char *b = to_base64(s);
    (void)snprintf(field, sizeof field, "%s_base64", name);
    json_object_set_new(o, field, json_string(b ? b : ""));
    free(b);
}

static json_t *header_json(const char *name, hf_str value) {
    json_t *pair = json_array();
    json_array_append_new(pair, json_string(name));
    json_t *text = value.p ? json_stringn(value.p, value.n) : json_null();
    json_array_append_new(pair, text ? text : json_null());
    if (!text) {
        char *b = to_base64(value);
        json_array_append_new(pair, json_string(b ? b : ""));
        free(b);
    }
    return pair;
}

json_t *cli_message_json(const rd_kafka_message_t *m) {
    json_t *o = json_object(), *list = json_array();
    json_object_set_new(o, "topic", json_string(rd_kafka_topic_name(m->rkt)));
    json_object_set_new(o, "partition", json_integer(m->partition));
    json_object_set_new(o, "offset", json_integer(m->offset));
    json_object_set_new(o, "timestamp", json_integer(rd_kafka_message_timestamp(m, NULL)));
    set_bytes(o, "key", hf_str_make(m->key, m->key_len));
    set_bytes(o, "value", hf_str_make(m->payload, m->len));
    rd_kafka_headers_t *h;
    size_t n = rd_kafka_message_headers(m, &h) ? 0 : rd_kafka_header_cnt(h);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const void *p;
        size_t size;
        if (rd_kafka_header_get_all(h, i, &name, &p, &size)) break;
        if (strcmp(name, HF_HDR_MESSAGE_ID) == 0)
            json_object_set_new(o, "message_id", json_stringn(p, size));
        else
            json_array_append_new(list, header_json(name, hf_str_make(p, size)));
    }
    json_object_set_new(o, "headers", list);
    return o;
}

/* ---- positions ---- */

enum hf_err cli_resolve(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list, const char *from) {
    int64_t at = 0;
    bool by_time = strchr(from, '-') != NULL || strchr(from, ':') != NULL;
    if (strcmp(from, "earliest") == 0)
        at = RD_KAFKA_OFFSET_BEGINNING;
    else if (strcmp(from, "latest") == 0)
        at = RD_KAFKA_OFFSET_END;
    else if (by_time ? hf_time_parse(hf_str_of(from), &at) : hf_str_int(hf_str_of(from), &at))
        return client_error(
            HF_EINVAL, "\"%s\" is neither earliest, latest, an offset, nor a time (2026-03-01T12:00:00Z)",
            from);
    for (int i = 0; i < list->cnt; i++) list->elems[i].offset = at;
    if (!by_time && at >= 0) return HF_OK;
    for (int i = 0; i < list->cnt && !by_time; i++) {
        int64_t low, high;
        rd_kafka_resp_err_t e = rd_kafka_query_watermark_offsets(
            rk, list->elems[i].topic, list->elems[i].partition, &low, &high, CLI_TIMEOUT_MS);
        if (e)
            return client_error(client_err_of(e), "offsets of \"%s\": %s", list->elems[i].topic,
                                rd_kafka_err2str(e));
        list->elems[i].offset = at == RD_KAFKA_OFFSET_BEGINNING ? low : high;
    }
    if (!by_time) return HF_OK;
    rd_kafka_resp_err_t e = rd_kafka_offsets_for_times(rk, list, CLI_TIMEOUT_MS);
    if (e) return client_error(client_err_of(e), "offsets for a time: %s", rd_kafka_err2str(e));
    for (int i = 0; i < list->cnt; i++)
        if (list->elems[i].offset < 0) list->elems[i].offset = RD_KAFKA_OFFSET_END; /* nothing is as new */
    return HF_OK;
}
