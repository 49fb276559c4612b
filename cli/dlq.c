/* holdfast dlq list | show | replay | drop: a group's dead letters.
 * holdfast rejected list | show | replay | drop: held messages that their destination could not take.
 *
 * A log takes nothing out of its middle, so what was replayed or dropped is remembered as consumer group
 * "dlq.<group>" remembers things: a committed offset, and above it the marks that workers use too
 * (base/marks.h). A dead letter that is settled there is not listed any more.
 *
 * A replay goes to retry.<group>, which the group's workers always read, so no other group sees it. It keeps
 * key, value, headers and identity, starts with no attempts, says in hf-dlq-replays that it is the n-th, and
 * goes through holdfast.delay under the name w/<group>/<origin>/<message id>/replay-<n> with "once":
 * repeating a replay whose mark was lost repeats nothing. Without a scheduler (plain Kafka) it is sent
 * directly.
 *
 * What lies in holdfast.rejected goes back to its destination (hf-origin), to the partition that was asked
 * for, under the name rejected/<partition>/<offset>@<time>. What was settled there is remembered as group
 * "holdfast.rejected". A record that was no schedule at all names no destination and can only be dropped.
 *
 * A letter that cannot be replayed is told of, stays, and holds up no other. */
#include "base/control.h"
#include "base/duration.h"
#include "base/marks.h"
#include "base/names.h"
#include "common.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

enum { HEADERS_ROOM = HF_DELAY_HEADERS_MAX + 32, NAME_MAX_BYTES = 1000 };

struct dlq {
    struct cli_server at;
    const char *group;
    bool json, all;
    bool rejected; /* the topic holdfast.rejected, not a group's dead letters */
};

static const struct hf_option rejected_rows[] = {
    CLI_SERVER_ROWS(struct dlq),
    {"all", HF_OPTION_SWITCH, offsetof(struct dlq, all),
     .help = "of replay and drop: every rejected message"},
    {"json", HF_OPTION_SWITCH, offsetof(struct dlq, json), .help = "an object a line, as tail --json"},
};
static const struct hf_options rejected_options = {"rejected", rejected_rows,
                                                   sizeof rejected_rows / sizeof *rejected_rows};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct dlq),
    {"group", HF_OPTION_TEXT, offsetof(struct dlq, group), .value = "G",
     .help = "the consumer group; required"},
    {"all", HF_OPTION_SWITCH, offsetof(struct dlq, all), .help = "of replay and drop: every dead letter"},
    {"json", HF_OPTION_SWITCH, offsetof(struct dlq, json), .help = "an object a line, as tail --json"},
};
static const struct hf_options options = {"dlq", rows, sizeof rows / sizeof *rows};

/* One partition of the dead-letter topic, and what is settled in it. */
struct part {
    int32_t number;
    int64_t committed, low, high;
    struct marks marks;
    struct marks_writer writer; /* what the next commit says */
    int64_t position;           /* first unsettled; -1: none yet */
    bool changed;
};

struct session {
    const struct dlq *dlq;
    const char *const *wanted; /* partition/offset or message ids; NULL ends it */
    rd_kafka_t *rk;
    hf_client *client; /* of replay */
    bool scheduled;
    char topic[HF_TOPIC_NAME_MAX + 8], marks_group[HF_TOPIC_NAME_MAX + 8];
    struct part *part;
    int parts;
    int64_t seen, done, failed;
    bool *found; /* of wanted */
};

/* What an action does with one dead letter. *settled: it is to be listed no more. */
typedef enum hf_err action(struct session *s, const rd_kafka_message_t *m, bool *settled);

/* ---- the letters ---- */

static struct part *part_of(struct session *s, int32_t number) {
    for (int i = 0; i < s->parts; i++)
        if (s->part[i].number == number) return &s->part[i];
    return NULL;
}

static bool is_wanted(struct session *s, const rd_kafka_message_t *m) {
    if (s->dlq->all || !s->wanted[0]) return true;
    bool wanted = false;
    char place[64];
    (void)snprintf(place, sizeof place, "%" PRId32 "/%" PRId64, m->partition, m->offset);
    hf_str id = client_header(m, HF_HDR_MESSAGE_ID);
    for (size_t i = 0; s->wanted[i]; i++) {
        if (strcmp(s->wanted[i], place) != 0 && !hf_str_is(id, s->wanted[i])) continue;
        s->found[i] = wanted = true;
    }
    return wanted;
}

static const char *command_of(const struct dlq *d) {
    return d->rejected ? "rejected" : "dlq";
}

/* Only this letter cannot be handled: it is told, and the others have their turn. */
static bool concerns_one(struct session *s, const rd_kafka_message_t *m, enum hf_err e) {
    if (e != HF_EINVAL && e != HF_ELIMIT && e != HF_ENOTFOUND) return false;
    s->failed++;
    (void)fprintf(stderr, "holdfast %s: %" PRId32 "/%" PRId64 ": %s\n", command_of(s->dlq), m->partition,
                  m->offset, hf_errmsg());
    return true;
}

static enum hf_err open_parts(struct session *s) {
    rd_kafka_topic_partition_list_t *list;
    enum hf_err e = cli_partitions(s->rk, s->topic, &list);
    if (e) return e;
    rd_kafka_resp_err_t err = rd_kafka_committed(s->rk, list, CLI_TIMEOUT_MS);
    s->part = calloc((size_t)list->cnt, sizeof *s->part);
    if (!s->part) e = client_error(HF_ENOMEM, "dlq: %s", hf_err_text(HF_ENOMEM));
    for (int i = 0; i < list->cnt && !err && !e; i++) {
        struct part *p = &s->part[s->parts++];
        rd_kafka_topic_partition_t *t = &list->elems[i];
        *p = (struct part){.number = t->partition, .committed = t->offset, .position = -1};
        p->marks.next = INT64_MIN;
        err = rd_kafka_query_watermark_offsets(s->rk, s->topic, p->number, &p->low, &p->high, CLI_TIMEOUT_MS);
        if (t->offset >= 0 && t->metadata_size > 0)
            (void)!marks_parse(&p->marks, t->offset, t->metadata, t->metadata_size);
        if (p->committed < p->low) p->committed = p->low;
        t->offset = p->committed;
        marks_begin(&p->writer, p->committed);
    }
    if (err) e = client_error(client_err_of(err), "read \"%s\": %s", s->topic, rd_kafka_err2str(err));
    if (!e) err = rd_kafka_assign(s->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return e;
}

static void stays(struct part *p, int64_t offset) {
    if (p->position < 0) {
        p->position = offset;
        marks_begin(&p->writer, offset);
    }
    marks_add(&p->writer, offset, 0, 0);
}

static enum hf_err visit(struct session *s, const rd_kafka_message_t *m, action *act) {
    struct part *p = part_of(s, m->partition);
    if (!p || m->offset >= p->high || marks_settled(&p->marks, m->offset)) return HF_OK;
    bool settled = false;
    enum hf_err e = HF_OK;
    if (act && is_wanted(s, m)) {
        s->seen++;
        e = act(s, m, &settled);
        if (e && concerns_one(s, m, e)) e = HF_OK;
    }
    if (settled)
        p->changed = true;
    else
        stays(p, m->offset);
    return e;
}

/* Every unsettled letter up to the ends as they were at the start. */
static enum hf_err each(struct session *s, action *act) {
    int ended = 0, wanted = s->parts;
    enum hf_err first = HF_OK;
    while (ended < wanted) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(s->rk, CLI_TIMEOUT_MS);
        if (!m)
            return client_error(HF_ETIMEDOUT, "read \"%s\": no answer in time; is the server up?", s->topic);
        enum hf_err e = HF_OK;
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
            ended++;
        else if (m->err)
            e = client_error(client_err_of(m->err), "read \"%s\": %s", s->topic, rd_kafka_message_errstr(m));
        else /* after a failure nothing more is done, but what is left is still read and kept */
            e = visit(s, m, first ? NULL : act);
        bool unreadable = m->err && e;
        rd_kafka_message_destroy(m);
        if (e && !first) first = e;
        if (unreadable) return e;
    }
    return first;
}

static enum hf_err commit(struct session *s) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(s->parts);
    bool whole = true;
    for (int i = 0; i < s->parts; i++) {
        struct part *p = &s->part[i];
        char text[MARKS_TEXT_SIZE];
        if (!p->changed) continue;
        whole = marks_end(&p->writer, p->high, text) && whole;
        rd_kafka_topic_partition_t *t = rd_kafka_topic_partition_list_add(list, s->topic, p->number);
        t->offset = p->position < 0 ? p->high : p->position;
        if (p->position >= 0 && (t->metadata = strdup(text))) t->metadata_size = strlen(text);
    }
    rd_kafka_resp_err_t err = list->cnt ? rd_kafka_commit(s->rk, list, 0) : RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_topic_partition_list_destroy(list);
    if (err)
        return client_error(client_err_of(err),
                            "the letters are handled, but not marked so: %s; doing it again does no "
                            "harm",
                            rd_kafka_err2str(err));
    if (!whole)
        return client_error(HF_ELIMIT,
                            "too many scattered letters are settled: some will be listed again; settle the "
                            "oldest first");
    return HF_OK;
}

/* ---- actions ---- */

static void print_json(const rd_kafka_message_t *m) {
    json_t *o = cli_message_json(m);
    (void)json_dumpf(o, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(o);
}

static int width(hf_str s) {
    return (int)(s.n > 200 ? 200 : s.n);
}

/* A letter is a line, whatever its producer and its worker wrote. */
static void put(const char *before, hf_str s) {
    (void)printf("%s", before);
    cli_put_text(hf_str_make(s.p, (size_t)width(s)));
}

/* A half message that was rejected still has the headers that it was sent with. */
static bool is_half(const rd_kafka_message_t *m) {
    return hf_str_is(client_header(m, HF_HDR_OP), "prepare");
}

static hf_str destination_of(const rd_kafka_message_t *m) {
    return client_header(m, is_half(m) ? HF_HDR_TOPIC : HF_HDR_ORIGIN);
}

static void list_rejected(const rd_kafka_message_t *m) {
    put("\ttopic=", destination_of(m));
    put("\tid=", client_header(m, HF_HDR_MESSAGE_ID));
    put("\t", client_header(m, HF_HDR_REASON));
}

static void list_letter(const rd_kafka_message_t *m) {
    put("\t", client_header(m, HF_HDR_DLQ_REASON));
    put("\tattempts=", client_header(m, HF_HDR_DLQ_DELIVERY_COUNT));
    put("\ttopic=", client_header(m, HF_HDR_DLQ_TOPIC));
    put("\tid=", client_header(m, HF_HDR_MESSAGE_ID));
    put("\t", client_header(m, HF_HDR_DLQ_MESSAGE));
}

static enum hf_err list(struct session *s, const rd_kafka_message_t *m, bool *settled) {
    (void)settled;
    if (s->dlq->json) {
        print_json(m);
        return HF_OK;
    }
    char when[HF_TIME_TEXT];
    hf_time_format(rd_kafka_message_timestamp(m, NULL), when);
    (void)printf("%" PRId32 "/%" PRId64 "\t%s", m->partition, m->offset, when);
    if (s->dlq->rejected)
        list_rejected(m);
    else
        list_letter(m);
    (void)putchar('\n');
    return HF_OK;
}

static enum hf_err show(struct session *s, const rd_kafka_message_t *m, bool *settled) {
    (void)settled;
    if (s->dlq->json) {
        print_json(m);
        return HF_OK;
    }
    json_t *o = cli_message_json(m);
    (void)json_dumpf(o, stdout, JSON_INDENT(2));
    (void)putchar('\n');
    json_decref(o);
    return HF_OK;
}

static enum hf_err drop(struct session *s, const rd_kafka_message_t *m, bool *settled) {
    (void)m;
    s->done++;
    *settled = true;
    return HF_OK;
}

struct replay {
    hf_header headers[HEADERS_ROOM];
    size_t count;
    char name[NAME_MAX_BYTES + 1], number[24];
};

static void add(struct replay *r, const char *name, hf_str value) {
    if (r->count < HEADERS_ROOM) r->headers[r->count++] = (hf_header){hf_str_of(name), value};
}

/* What a dead letter says about its end is not said about its new life; where it came from is. */
static bool stays_behind(hf_str name) {
    static const char *const ends[] = {HF_HDR_DLQ_REASON, HF_HDR_DLQ_MESSAGE, HF_HDR_DLQ_DELIVERY_COUNT,
                                       HF_HDR_DLQ_GROUP,  HF_HDR_DLQ_REPLAYS, HF_HDR_DLQ_FIRST_FAILED_AT,
                                       HF_HDR_DUE,        HF_HDR_CREATED_AT,  HF_HDR_ATTEMPT};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (hf_str_is(name, ends[i])) return true;
    return hf_header_is_control(name);
}

/* The first headers of a record that goes back where it was to go. */
static enum hf_err begin_rejected(const rd_kafka_message_t *m, struct replay *r, hf_str to) {
    if (to.n == 0)
        return client_error(HF_EINVAL, "it was no schedule and names no destination: it can only be dropped");
    (void)snprintf(r->name, sizeof r->name, HF_REJECTED_ID, m->partition, m->offset,
                   rd_kafka_message_timestamp(m, NULL));
    hf_str partition = client_header(m, HF_HDR_PARTITION);
    add(r, HF_HDR_TOPIC, to);
    add(r, HF_HDR_DELAY, HF_STR("0"));
    add(r, HF_HDR_ID, hf_str_of(r->name));
    add(r, HF_HDR_ON_CONFLICT, HF_STR("once"));
    if (partition.n) add(r, HF_HDR_PARTITION, partition);
    return HF_OK;
}

static enum hf_err begin_letter(struct session *s, const rd_kafka_message_t *m, struct replay *r,
                                const char *to) {
    int64_t n = 0;
    hf_str id = client_header(m, HF_HDR_MESSAGE_ID), origin = client_header(m, HF_HDR_ORIGIN);
    if (hf_str_int(client_header(m, HF_HDR_DLQ_REPLAYS), &n) || n < 0) n = 0;
    (void)snprintf(r->number, sizeof r->number, "%" PRId64, n + 1);
    int length = snprintf(r->name, sizeof r->name, "w/%s/%.*s/%.*s/replay-%" PRId64, s->dlq->group,
                          (int)origin.n, origin.p, (int)id.n, id.p, n + 1);
    if (s->scheduled) {
        add(r, HF_HDR_TOPIC, hf_str_of(to));
        add(r, HF_HDR_DELAY, HF_STR("0"));
    }
    if (s->scheduled && length > 0 && (size_t)length < sizeof r->name && id.n && origin.n) {
        add(r, HF_HDR_ID, hf_str_of(r->name));
        add(r, HF_HDR_ON_CONFLICT, HF_STR("once"));
    }
    add(r, HF_HDR_DLQ_REPLAYS, hf_str_of(r->number));
    return HF_OK;
}

static enum hf_err compose(struct session *s, const rd_kafka_message_t *m, const char *to, struct replay *r) {
    bool rejected = s->dlq->rejected;
    enum hf_err e = rejected ? begin_rejected(m, r, destination_of(m)) : begin_letter(s, m, r, to);
    if (e) return e;
    rd_kafka_headers_t *h;
    size_t headers = rd_kafka_message_headers(m, &h) ? 0 : rd_kafka_header_cnt(h);
    for (size_t i = 0; i < headers; i++) {
        const char *name;
        const void *p;
        size_t size;
        if (rd_kafka_header_get_all(h, i, &name, &p, &size)) break;
        hf_str key = hf_str_of(name);
        if (!(rejected ? hf_header_is_of_rejection(key) : stays_behind(key)))
            add(r, name, hf_str_make(p, size));
    }
    if (r->count <= HF_DELAY_HEADERS_MAX) return HF_OK;
    return client_error(HF_ELIMIT, "more than %d headers, with those that a replay adds",
                        HF_DELAY_HEADERS_MAX);
}

static enum hf_err replay(struct session *s, const rd_kafka_message_t *m, bool *settled) {
    struct replay r = {.count = 0};
    char to[HF_TOPIC_NAME_MAX + 8];
    (void)snprintf(to, sizeof to, "%s%s", HF_TOPIC_RETRY, s->dlq->rejected ? "" : s->dlq->group);
    enum hf_err e = compose(s, m, to, &r);
    if (e) return e;
    struct client_record record = {.topic = s->scheduled ? HF_TOPIC_DELAY : to,
                                   .partition = -1,
                                   .key = is_half(m) ? client_header(m, HF_HDR_KEY)
                                                     : hf_str_make(m->key, m->key_len),
                                   .value = hf_str_make(m->payload, m->len),
                                   .headers = r.headers,
                                   .header_count = r.count,
                                   .move = s->scheduled};
    e = client_send(s->client, &record, NULL);
    if (e == HF_EINVAL && s->dlq->rejected)
        e = client_error(
            e,
            "\"%.*s\" cannot take it yet: it does not exist and may not be created, or has not so "
            "many partitions (the server's log says which)",
            width(destination_of(m)), destination_of(m).p);
    if (e) return e;
    s->done++;
    *settled = true;
    return HF_OK;
}

static const struct {
    const char *name;
    action *run;
    bool needs_names; /* or --all */
    bool sends;
} actions[] = {{"list", list, false, false},
               {"show", show, true, false},
               {"replay", replay, true, true},
               {"drop", drop, true, false}};

/* What was asked for and is not there, or cannot be handled, after everything else was. */
static enum hf_err sum_up(struct session *s) {
    int64_t missing = 0;
    for (size_t i = 0; s->wanted[i] && !s->dlq->all && s->seen > 0; i++) {
        if (s->found[i]) continue;
        missing++;
        (void)fprintf(stderr, "holdfast %s: %s: no such message\n", command_of(s->dlq), s->wanted[i]);
    }
    if (s->seen == 0)
        return client_error(HF_ENOTFOUND, "no such message; see holdfast %s list", command_of(s->dlq));
    if (s->failed + missing > 0)
        return client_error(HF_EIO, "%" PRId64 " not found, %" PRId64 " could not be handled and stay",
                            missing, s->failed);
    return HF_OK;
}

static enum hf_err perform(struct session *s, size_t which) {
    const char *topic = s->dlq->rejected ? HF_TOPIC_REJECTED : HF_TOPIC_DLQ;
    (void)snprintf(s->topic, sizeof s->topic, "%s%s", topic, s->dlq->rejected ? "" : s->dlq->group);
    (void)snprintf(s->marks_group, sizeof s->marks_group, "%s", s->topic);
    enum hf_err e = cli_consumer(&s->dlq->at, s->marks_group, true, &s->rk);
    if (!e && actions[which].sends) e = cli_connect(&s->dlq->at, &s->client);
    if (!e && actions[which].sends) e = client_has_scheduler(s->client, &s->scheduled);
    if (!e) e = open_parts(s);
    if (!e) {
        e = each(s, actions[which].run);
        enum hf_err marked = commit(s);
        if (!e) e = marked;
    }
    if (s->done > 0) (void)printf("%s %" PRId64 "\n", actions[which].name, s->done);
    return !e && actions[which].needs_names ? sum_up(s) : e;
}

static int act(const struct dlq *d, const char *const *rest) {
    const char *command = command_of(d);
    struct session s = {.dlq = d, .wanted = rest + (rest[0] ? 1 : 0)};
    size_t wanted = 0;
    while (s.wanted[wanted]) wanted++;
    for (size_t i = 0; rest[0] && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(rest[0], actions[i].name) != 0) continue;
        if (!d->rejected && (!d->group || !hf_group_suffix_ok(hf_str_of(d->group))))
            return cli_usage("dlq", "which group? (--group)");
        if (actions[i].needs_names && !d->all && !rest[1])
            return cli_usage(
                command, "%s: which? partition/offset or message ids as list shows them, or --all", rest[0]);
        if (d->all && rest[1]) return cli_usage(command, "%s: those named, or --all?", rest[0]);
        s.found = calloc(wanted + 1, sizeof *s.found);
        enum hf_err e = s.found ? perform(&s, i) : client_error(HF_ENOMEM, "%s", hf_err_text(HF_ENOMEM));
        free(s.found);
        for (int k = 0; k < s.parts; k++) marks_fini(&s.part[k].marks);
        free(s.part);
        if (s.rk) {
            rd_kafka_consumer_close(s.rk);
            rd_kafka_destroy(s.rk);
        }
        hf_close(s.client);
        return e ? cli_fail(command, e) : CLI_DONE;
    }
    return cli_usage(command, "list, show, replay or drop");
}

static int run(const struct hf_options *o, const char *synopsis, bool rejected, int argc, char **argv) {
    struct hf_config c = {0};
    struct dlq d = {.rejected = rejected};
    bool stop;
    int status = cli_settings(&c, o, synopsis, argc, argv, &d, &stop);
    if (!stop) status = act(&d, c.rest);
    hf_config_fini(&c);
    return status;
}

int cli_dlq(int argc, char **argv) {
    return run(&options, "holdfast dlq list | show ID… | replay ID… | drop ID… --group G [FLAGS]", false,
               argc, argv);
}

int cli_rejected(int argc, char **argv) {
    return run(&rejected_options, "holdfast rejected list | show ID… | replay ID… | drop ID… [FLAGS]", true,
               argc, argv);
}
