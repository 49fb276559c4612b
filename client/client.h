/* What the worker and the command share with the client library beyond its public API
 * (include/holdfast/holdfast.h): raw records, error texts, the mapping of librdkafka's codes, HTTP.
 *
 *     struct client_record r = {.topic = "t", .partition = -1, .value = v};
 *     if (client_send(c, &r, NULL)) …                  // durable, or an error whose text hf_errmsg() has
 *
 * Any thread, unless a function says otherwise. Blocking calls say so. */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "base/err.h"

#include <holdfast/holdfast.h>
#include <librdkafka/rdkafka.h>

/* Sets the calling thread's hf_errmsg() and returns e, so that a failure is one statement:
 *     return client_error(HF_EINVAL, "topic \"%s\": …", topic); */
enum hf_err client_error(enum hf_err e, const char *fmt, ...) HF_PRINTF(2, 3);

/* librdkafka's code as ours. */
enum hf_err client_err_of(rd_kafka_resp_err_t e);

/* What to do about it: a clause for an error text, "" if there is nothing to say. */
const char *client_advice(rd_kafka_resp_err_t e);

/* The last header of that name; nothing if there is none. Lives as long as the message. */
hf_str client_header(const rd_kafka_message_t *m, const char *name);

/* A consumer, not yet subscribed or assigned. Takes conf, also on failure, and sets what every handle has, then
 * the pairs, then the user's config, which may be NULL. */
HF_CHECK enum hf_err client_consumer(rd_kafka_conf_t *conf, const char *server, const char *client_id,
                                     const char *const *pairs, const char *const *config, rd_kafka_t **out);

/* ---- a client's parts ---- */

const char *client_server(const hf_client *c);
const hf_client_options *client_options(const hf_client *c); /* defaults filled in; api may be NULL */

/* Copies caller's options over zeroes, by the caller's size; HF_EINVAL if the size is 0 or too large. */
HF_CHECK enum hf_err client_take_options(void *to, size_t to_size, const void *from, const char *what);

/* Does the server have topic holdfast.delay? true is remembered. Blocks for a round trip. */
HF_CHECK enum hf_err client_has_scheduler(hf_client *c, bool *out);

/* ---- raw records ---- */

struct client_record {
    const char *topic;
    int32_t partition; /* -1: by key */
    hf_str key, value;
    const hf_header *headers;
    size_t header_count;
    bool move; /* to holdfast.delay or holdfast.txn: believed only if the server stamped it (LogAppendTime) */
};

/* As hf_send, of a record as it is. Blocks. */
HF_CHECK enum hf_err client_send(hf_client *c, const struct client_record *r, hf_receipt *receipt);

/* What the message of a schedule that was accepted there met: scheduled, replaced, kept or finished. The client
 * must know the server's HTTP side. HF_ETIMEDOUT, HF_ECONNECT. Blocks. */
HF_CHECK enum hf_err client_outcome(hf_client *c, const hf_receipt *r, hf_outcome *out);

/* As hf_send_async. */
HF_CHECK enum hf_err client_send_async(hf_client *c, const struct client_record *r, hf_sent *sent, void *arg);

/* ---- HTTP (libcurl): JSON of the server's /v1 ---- */

struct json_t;

/* method path at c's api address, body as JSON (may be NULL). *status is HTTP's; *out the answer's JSON, NULL
 * if it is none; the caller decrefs it. HF_EUNSUPPORTED without `api`, HF_ECONNECT, HF_ETIMEDOUT. Blocks. */
HF_CHECK enum hf_err client_api(const char *api, const char *method, const char *path,
                                const struct json_t *body, int64_t timeout_ms, int *status,
                                struct json_t **out);

/* Percent-encodes one path segment. false: it does not fit. */
bool client_path_segment(const char *s, char *out, size_t size);

#endif
