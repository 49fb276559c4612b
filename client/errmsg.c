/* The calling thread's error text, and librdkafka's codes as ours.
 *
 * A text says what was tried, where, what came back, and what to do. It lives in thread-local memory, so it
 * costs no lock and no allocation, and a failure for want of memory can be told. */
#include "client.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[512];

const char *hf_errmsg(void) {
    return text;
}

enum hf_err client_error(enum hf_err e, const char *fmt, ...) {
    char fresh[sizeof text]; /* an argument may be the old text */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fresh, sizeof fresh, fmt, ap);
    va_end(ap);
    memcpy(text, fresh, sizeof text);
    return e;
}

static const struct known {
    rd_kafka_resp_err_t kafka;
    enum hf_err ours;
    const char *advice;
} known[] = {
    {RD_KAFKA_RESP_ERR_NO_ERROR, HF_OK, ""},
    {RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, HF_ETIMEDOUT,
     "; is the server up, and has its schedule room? Send again with the same message_id"},
    {RD_KAFKA_RESP_ERR__TIMED_OUT, HF_ETIMEDOUT, "; is the server up?"},
    {RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, HF_ETIMEDOUT, ""},
    {RD_KAFKA_RESP_ERR__QUEUE_FULL, HF_EAGAIN, "; wait for sends under way (hf_flush) and try again"},
    {RD_KAFKA_RESP_ERR__TRANSPORT, HF_ECONNECT, "; is the server up, and is the address right?"},
    {RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, HF_ECONNECT, "; is the server up, and is the address right?"},
    {RD_KAFKA_RESP_ERR__RESOLVE, HF_ECONNECT, "; is the host name right?"},
    {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, HF_ELIMIT, "; raise max.message.bytes or send less"},
    {RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, HF_ENOTFOUND,
     "; create it (holdfast topic create), or let the server do so"},
    {RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, HF_ENOTFOUND,
     "; create it (holdfast topic create), or let the server do so"},
    {RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, HF_ENOTFOUND, "; the topic has fewer partitions"},
    {RD_KAFKA_RESP_ERR_INVALID_RECORD, HF_EINVAL, "; the server's log names the header"},
    {RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, HF_EINVAL, "; the topic's name or settings are refused"},
    {RD_KAFKA_RESP_ERR_INVALID_CONFIG, HF_EINVAL, ""},
    {RD_KAFKA_RESP_ERR_INVALID_PARTITIONS, HF_EINVAL, ""},
    {RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS, HF_EEXIST, ""},
    {RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND, HF_ENOTFOUND, ""},
    {RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP, HF_EAGAIN, "; stop the group's members first"},
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, HF_EAGAIN,
     "; the schedule is full: come again later, or raise schedule.pending.max (the server's log tells "
     "which)"},
    {RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, HF_ENOSPC, "; the server cannot write: is its disk full?"},
    {RD_KAFKA_RESP_ERR__FATAL, HF_ECLOSED, "; close this client and connect anew"},
    {RD_KAFKA_RESP_ERR__PURGE_QUEUE, HF_ECLOSED, ""},
    {RD_KAFKA_RESP_ERR__PURGE_INFLIGHT, HF_ECLOSED, ""},
    {RD_KAFKA_RESP_ERR__DESTROY, HF_ECLOSED, ""},
    {RD_KAFKA_RESP_ERR__INVALID_ARG, HF_EINVAL, ""},
    {RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION, HF_EUNSUPPORTED, ""},
    {RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE, HF_EUNSUPPORTED, ""},
};

static const struct known *find(rd_kafka_resp_err_t e) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].kafka == e) return &known[i];
    return NULL;
}

enum hf_err client_err_of(rd_kafka_resp_err_t e) {
    const struct known *k = find(e);
    return k ? k->ours : HF_EIO;
}

const char *client_advice(rd_kafka_resp_err_t e) {
    const struct known *k = find(e);
    return k ? k->advice : "";
}
