/* Kafka's messages as C structs: struct kafka_produce_request and so on, from the one table in messages.def,
 * and the list of what is served.
 *
 * Strings and bytes are borrowed: on decoding from the frame, on encoding from whoever filled them in.
 * Pure declarations and constant tables; any thread. */
#ifndef BROKER_MESSAGES_H
#define BROKER_MESSAGES_H

#include "base/bytes.h"

struct kafka_uuid {
    uint8_t b[16];
};

/* A range of a file that becomes part of an answer (sendfile). release(owner) is called once, when the range
 * was sent or dropped. */
struct kafka_range {
    int fd;
    uint64_t offset;
    size_t size;
    void (*release)(void *owner);
    void *owner;
};

/* A records field: bytes in memory, or (answers only) a range of a file. Neither: null. */
struct kafka_records {
    hf_str bytes;
    struct kafka_range *range;
};

/* ---- the structs ---- */

typedef bool kafka_BOOL;
typedef int8_t kafka_I8;
typedef int16_t kafka_I16;
typedef int32_t kafka_I32;
typedef int64_t kafka_I64;
typedef struct kafka_uuid kafka_UUID;
typedef hf_str kafka_STRING;
typedef hf_str kafka_BYTES;
typedef struct kafka_records kafka_RECORDS;

#define SHAPE(name) struct kafka_##name {
#define END(name)                                                                                            \
    }                                                                                                        \
    ;
#define FIELD(type, name, from, to, fallback)     kafka_##type name;
#define NULLABLE(type, name, from, to, null_from) kafka_##type name;
#define TAGGED(type, name, from, tag, fallback)   kafka_##type name;
#define ONE(shape, name, from, tag)               struct kafka_##shape *name;
#define LIST(type, name, from, to, null_from)                                                                \
    kafka_##type *name;                                                                                      \
    int32_t name##_count;
#define ARRAY(shape, name, from, to, null_from)                                                              \
    struct kafka_##shape *name;                                                                              \
    int32_t name##_count;
#include "messages.def"

/* KAFKA_API_produce = 0 and so on. */
enum kafka_api_key {
#define API(key, name, min, max, flexible, traits) KAFKA_API_##name = key,
#include "apis.def"
};

/* ---- the tables ---- */

enum { KAFKA_UP = 99, KAFKA_NEVER = 100 }; /* versions: every later one; none */

enum kafka_type {
    KAFKA_TYPE_BOOL,
    KAFKA_TYPE_I8,
    KAFKA_TYPE_I16,
    KAFKA_TYPE_I32,
    KAFKA_TYPE_I64,
    KAFKA_TYPE_UUID,
    KAFKA_TYPE_STRING,
    KAFKA_TYPE_BYTES,
    KAFKA_TYPE_RECORDS,
    KAFKA_TYPE_SHAPE,
};

struct kafka_field {
    const char *name;
    enum kafka_type type;
    bool list;
    int16_t from, to, null_from;
    int16_t tag; /* -1: not tagged */
    size_t at, count_at;
    const struct kafka_shape *(*shape)(void); /* of KAFKA_TYPE_SHAPE */
    int64_t fallback;
};

struct kafka_shape {
    const char *name;
    size_t size; /* of the C struct */
    const struct kafka_field *fields;
    size_t field_count;
};

enum { KAFKA_PIPELINED = 1, KAFKA_STRAY = 2 };
enum { KAFKA_STRAY_BYTES = 3 };

struct kafka_api {
    int16_t key;
    const char *name;
    int16_t min, max, flexible_from;
    unsigned traits;
    const struct kafka_shape *(*request)(void);
    const struct kafka_shape *(*response)(void);
};

extern const struct kafka_api kafka_apis[]; /* by key, ascending */
extern const size_t kafka_api_count;

/* NULL: not served. */
const struct kafka_api *kafka_api_of(int16_t key);

#endif
