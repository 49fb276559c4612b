/* One allocation for each message: the struct, its headers, then its bytes, each run followed by a zero byte
 * so that handlers written in C may treat text as strings.
 *
 * Identity. hf-message-id if somebody set it (the producer, or the first move), else where the message was
 * accepted,
 * "<topic>/<partition>/<offset>@<timestamp>". Origin: hf-origin, else the topic. Both are fixed here, once,
 * so that every later use (dedup key, move id, dead letter) agrees. */
#include "delivery.h"

#include "base/names.h"
#include "dedup/dedup.h"
#include "dedup/version.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static hf_str last_header(const hf_header *h, size_t n, const char *name) {
    while (n-- > 0)
        if (hf_str_is(h[n].key, name)) return h[n].value;
    return (hf_str){NULL, 0};
}

/* Copies s to *at and moves it on; null stays null. */
static hf_str put(char **at, hf_str s) {
    if (!s.p) return s;
    char *p = *at;
    if (s.n) memcpy(p, s.p, s.n);
    p[s.n] = 0;
    *at += s.n + 1;
    return hf_str_make(p, s.n);
}

static size_t bytes_needed(const struct delivery_source *s, hf_str id, hf_str origin) {
    size_t n = strlen(s->topic) + s->key.n + s->value.n + id.n + origin.n + 5;
    for (size_t i = 0; i < s->header_count; i++) n += s->headers[i].key.n + s->headers[i].value.n + 2;
    return n;
}

/* A handler sees a message that went round by retry.<group> where it came from: it may decide by the topic.
 */
static void show_origin(struct hf_delivery *d) {
    int64_t partition, offset;
    hf_str topic = hf_delivery_header(d, HF_HDR_DLQ_TOPIC);
    if (topic.n == 0 || hf_str_int(hf_delivery_header(d, HF_HDR_DLQ_PARTITION), &partition) != HF_OK ||
        hf_str_int(hf_delivery_header(d, HF_HDR_DLQ_OFFSET), &offset) != HF_OK || partition < 0 ||
        partition > INT32_MAX)
        return;
    d->shown_topic = topic.p;
    d->shown_partition = (int32_t)partition;
    d->shown_offset = offset;
}

static void take_history(struct hf_delivery *d, const struct delivery_source *s) {
    int64_t v;
    bool ours = s->retry_topic && strcmp(s->topic, s->retry_topic) == 0;
    if (ours && hf_str_int(hf_delivery_header(d, HF_HDR_ATTEMPT), &v) == HF_OK && v > 0 && v < INT32_MAX)
        d->message.attempts = (int32_t)v;
    if (ours && hf_str_int(hf_delivery_header(d, HF_HDR_DLQ_FIRST_FAILED_AT), &v) == HF_OK && v > 0)
        d->message.first_failed_s = v / 1000;
    if (ours) show_origin(d);
    d->replayed = hf_str_int(hf_delivery_header(d, HF_HDR_DLQ_REPLAYS), &v) == HF_OK && v > 0;
}

struct hf_delivery *delivery_new(const struct delivery_source *s) {
    char place[HF_TOPIC_NAME_MAX + 80];
    snprintf(place, sizeof place, "%s/%" PRId32 "/%" PRId64 "@%" PRId64, s->topic, s->partition, s->offset,
             s->timestamp_ms);
    hf_str id = last_header(s->headers, s->header_count, HF_HDR_MESSAGE_ID);
    hf_str origin = last_header(s->headers, s->header_count, HF_HDR_ORIGIN);
    if (id.n == 0) id = hf_str_of(place);
    if (origin.n == 0) origin = hf_str_of(s->topic);
    size_t headers = s->header_count * sizeof(hf_header);
    struct hf_delivery *d = calloc(1, sizeof *d + headers + bytes_needed(s, id, origin));
    if (!d) return NULL;
    d->headers = (hf_header *)(d + 1);
    char *at = (char *)(d + 1) + headers;
    d->topic = put(&at, hf_str_of(s->topic)).p;
    d->partition = s->partition;
    d->timestamp_ms = s->timestamp_ms;
    d->message.offset = s->offset;
    d->shown_topic = d->topic;
    d->shown_partition = d->partition;
    d->shown_offset = s->offset;
    d->message.key = put(&at, s->key);
    d->value = put(&at, s->value);
    d->message_id = put(&at, id).p;
    d->origin = put(&at, origin).p;
    d->header_count = s->header_count;
    for (size_t i = 0; i < s->header_count; i++)
        d->headers[i] = (hf_header){put(&at, s->headers[i].key), put(&at, s->headers[i].value)};
    struct dedup_key key = {HF_STR("g"), hf_str_of(d->origin), hf_str_of(d->message_id)};
    d->too_long = dedup_key_check(&key) != HF_OK;
    take_history(d, s);
    return d;
}

void delivery_free(struct hf_delivery *d) {
    free(d);
}

/* ---- accessors ---- */

hf_str hf_delivery_value(const hf_delivery *d) {
    return d->value;
}
hf_str hf_delivery_key(const hf_delivery *d) {
    return d->message.key;
}
const char *hf_delivery_topic(const hf_delivery *d) {
    return d->shown_topic;
}
int32_t hf_delivery_partition(const hf_delivery *d) {
    return d->shown_partition;
}
int64_t hf_delivery_offset(const hf_delivery *d) {
    return d->shown_offset;
}
int64_t hf_delivery_timestamp(const hf_delivery *d) {
    return d->timestamp_ms;
}
size_t hf_delivery_header_count(const hf_delivery *d) {
    return d->header_count;
}
hf_header hf_delivery_header_at(const hf_delivery *d, size_t i) {
    return i < d->header_count ? d->headers[i] : (hf_header){0};
}
hf_str hf_delivery_header(const hf_delivery *d, const char *name) {
    return last_header(d->headers, d->header_count, name);
}
int32_t hf_delivery_attempt(const hf_delivery *d) {
    return d->message.attempts + 1;
}
const char *hf_delivery_message_id(const hf_delivery *d) {
    return d->message_id;
}
uint64_t hf_delivery_fence(const hf_delivery *d) {
    return d->fence;
}
int64_t hf_delivery_version(const hf_delivery *d) {
    return d->version;
}
struct sqlite3 *hf_delivery_sqlite(hf_delivery *d) {
    return d->tx ? dedup_tx_sqlite(d->tx) : NULL;
}
struct pg_conn *hf_delivery_postgres(hf_delivery *d) {
    return d->tx ? dedup_tx_postgres(d->tx) : NULL;
}

bool hf_delivery_cancelled(const hf_delivery *d) {
    if (atomic_load(&d->cancelled)) return true;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 >= d->deadline_ms;
}

hf_verdict hf_stale(hf_delivery *d) {
    d->stale = true;
    return HF_DONE;
}

/* Answers that no other message would change stop the worker. */
static hf_verdict not_put(hf_delivery *d, const struct dedup_upsert *u, enum dedup_answer a,
                          const struct dedup_detail *detail) {
    struct hf_buf sql;
    if (a == DEDUP_BUSY) return hf_fail(d, hf_retry_in(d, detail->retry_ms), detail->why);
    hf_buf_init(&sql, DEDUP_SQL_MAX);
    enum hf_err e = dedup_upsert_sql(u, &sql);
    hf_buf_fini(&sql);
    return hf_fail(d, e && e != HF_ENOMEM ? HF_STOP : HF_RETRY, detail->why);
}

hf_verdict hf_put_state(hf_delivery *d, const hf_state_row *row) {
    struct dedup_column columns[DEDUP_COLUMNS_MAX];
    struct dedup_detail detail = {0};
    if (!d->tx) return hf_fail(d, HF_STOP, "hf_put_state: no transaction is open; is `database` set?");
    if (row->count > DEDUP_COLUMNS_MAX) return hf_fail(d, HF_STOP, "hf_put_state: more than 64 columns");
    for (size_t i = 0; i < row->count; i++)
        columns[i] = (struct dedup_column){row->columns[i].name, row->columns[i].value};
    struct dedup_upsert u = {.table = row->table,
                             .id_column = row->id_column,
                             .id = row->id,
                             .version_column = row->version_column ? row->version_column : "version",
                             .version = d->version,
                             .columns = columns,
                             .count = row->count};
    enum dedup_answer a = dedup_tx_upsert(d->tx, &u, &detail);
    if (a == DEDUP_RUN) return HF_DONE;
    return a == DEDUP_DUPLICATE ? hf_stale(d) : not_put(d, &u, a, &detail);
}

hf_verdict hf_retry_in(hf_delivery *d, int64_t delay_ms) {
    d->delay_ms = delay_ms < 0 ? 0 : delay_ms;
    return HF_RETRY;
}

hf_verdict hf_fail(hf_delivery *d, hf_verdict verdict, const char *text) {
    snprintf(d->text, sizeof d->text, "%s", text ? text : "");
    return verdict;
}
