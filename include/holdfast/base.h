/* Words shared by the public API and all of Holdfast: error codes, borrowed strings, durations.
 *
 * Pure declarations: no state, no threads, C11 and C++. */
#ifndef HOLDFAST_BASE_H
#define HOLDFAST_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the shared library exports. */
#if defined(__GNUC__)
#define HF_API __attribute__((visibility("default")))
#else
#define HF_API
#endif

/* Every error code, its class and its text, once. The class says what a caller may do:
 *   RETRY    the same call may succeed later
 *   FINAL    the same call fails again
 *   CORRUPT  stored bytes are not what was written */
#define HF_ERR_TABLE(X)                                                                                      \
    X(HF_OK, 0, FINAL, "done")                                                                               \
    X(HF_EINVAL, 1, FINAL, "invalid argument or input")                                                      \
    X(HF_ENOMEM, 2, RETRY, "out of memory")                                                                  \
    X(HF_EIO, 3, FINAL, "input or output error")                                                             \
    X(HF_ENOSPC, 4, RETRY, "no space left")                                                                  \
    X(HF_ECORRUPT, 5, CORRUPT, "damaged data")                                                               \
    X(HF_ENOTFOUND, 6, FINAL, "not found")                                                                   \
    X(HF_EEXIST, 7, FINAL, "exists already")                                                                 \
    X(HF_ELIMIT, 8, FINAL, "a configured limit is exceeded")                                                 \
    X(HF_EAGAIN, 9, RETRY, "busy, try again")                                                                \
    X(HF_ETIMEDOUT, 10, RETRY, "timed out")                                                                  \
    X(HF_EFENCED, 11, FINAL, "fenced by a newer owner")                                                      \
    X(HF_ECLOSED, 12, FINAL, "closed")                                                                       \
    X(HF_EUNSUPPORTED, 13, FINAL, "not supported")                                                           \
    X(HF_EDECIDED, 14, FINAL, "decided otherwise already")                                                   \
    X(HF_ECONFLICT, 15, FINAL, "same identity, different content")                                           \
    X(HF_ECONNECT, 16, RETRY, "cannot connect")                                                              \
    X(HF_ECRASHED, 17, FINAL, "the simulated machine has crashed")                                           \
    X(HF_ERANGE, 18, FINAL, "out of range")                                                                  \
    X(HF_EEND, 19, FINAL, "end of data")

enum hf_err {
#define HF_ERR_ENUM(name, number, class_, text) name = number,
    HF_ERR_TABLE(HF_ERR_ENUM)
#undef HF_ERR_ENUM
};

/* A borrowed run of bytes; p == NULL means null (absent), which differs from empty. */
typedef struct hf_str {
    const char *p;
    size_t n;
} hf_str;

#ifdef __cplusplus
#define HF_STR(literal) (hf_str{(literal), sizeof(literal) - 1})
#else
#define HF_STR(literal) ((hf_str){(literal), sizeof(literal) - 1})
#endif

/* A record's header, as Kafka has them: names may repeat, values may be null (p == NULL). */
typedef struct hf_header {
    hf_str key;
    hf_str value;
} hf_header;

/* A short English text and the code's name ("HF_EIO"), never NULL. Any thread. */
HF_API const char *hf_err_text(enum hf_err e);
HF_API const char *hf_err_name(enum hf_err e);

#define HF_SECONDS(n) ((int64_t)(n)*1000)
#define HF_MINUTES(n) ((int64_t)(n)*60000)
#define HF_HOURS(n)   ((int64_t)(n)*3600000)
#define HF_DAYS(n)    ((int64_t)(n)*86400000)

#ifdef __cplusplus
}
#endif
#endif
