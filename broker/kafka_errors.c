/* Our own codes as the protocol's. */
#include "kafka_errors.h"

int16_t kafka_error_of(enum hf_err e) {
    switch (e) {
    case HF_OK: return KAFKA_NONE;
    case HF_EINVAL: return KAFKA_INVALID_REQUEST;
    case HF_EEXIST: return KAFKA_TOPIC_ALREADY_EXISTS;
    case HF_ENOTFOUND: return KAFKA_UNKNOWN_TOPIC_OR_PARTITION;
    case HF_ELIMIT: return KAFKA_MESSAGE_TOO_LARGE;
    case HF_EUNSUPPORTED: return KAFKA_UNSUPPORTED_VERSION;
    case HF_ECORRUPT:
    case HF_EIO:
    case HF_ENOSPC: return KAFKA_KAFKA_STORAGE_ERROR;
    case HF_EAGAIN:
    case HF_ETIMEDOUT: return KAFKA_REQUEST_TIMED_OUT;
    default: return KAFKA_UNKNOWN_SERVER_ERROR;
    }
}
