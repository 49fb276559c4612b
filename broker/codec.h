/* Requests from bytes to structs, answers from structs to bytes (and the other way round, for tests and
 * probes): one walk over the tables of messages.h.
 *
 *     struct kafka_header h;
 *     if (kafka_header_decode(frame, n, &h, &body)) …close…
 *     if (kafka_decode(&arena, api->request(), version, flexible, body, &request)) …close…
 *     struct kafka_fetch_response *answer = kafka_blank(&arena, api->response());
 *     kafka_encode(&out, &ranges, api->response(), version, flexible, answer);
 *
 * Pure; one object, one thread at a time. */
#ifndef BROKER_CODEC_H
#define BROKER_CODEC_H

#include "base/arena.h"
#include "messages.h"

/* Before every request. The client's id is null or borrowed from the frame. */
struct kafka_header {
    int16_t api_key;
    int16_t api_version;
    int32_t correlation_id;
    hf_str client_id;
};

/* Reads the first three fields, which every version has. HF_EINVAL: too short. */
HF_CHECK enum hf_err kafka_header_begin(struct hf_reader *r, struct kafka_header *out);

/* Reads the rest: the client's id, and tagged fields if flexible. HF_EINVAL. */
HF_CHECK enum hf_err kafka_header_end(struct hf_reader *r, bool flexible, struct kafka_header *out);

/* A zeroed struct of that shape with every field at its fallback; NULL without memory. */
void *kafka_blank(struct hf_arena *a, const struct kafka_shape *shape);

/* The same for an array of count structs. */
void *kafka_blank_array(struct hf_arena *a, const struct kafka_shape *shape, size_t count);

/* Decodes one message, which must take all bytes that are left. HF_EINVAL: malformed; HF_ENOMEM: the arena's
 * limit. Strings in *out are borrowed from the reader's bytes; the rest is the arena's. */
HF_CHECK enum hf_err kafka_decode(struct hf_arena *a, const struct kafka_shape *shape, int16_t version,
                                  bool flexible, struct hf_reader *r, void **out);
/* The same, but up to stray_max bytes may be left behind the last field. */
HF_CHECK enum hf_err kafka_decode_stray(struct hf_arena *a, const struct kafka_shape *shape, int16_t version,
                                        bool flexible, size_t stray_max, struct hf_reader *r, void **out);

/* Where a range of a file belongs in encoded bytes: before byte `at`. */
struct kafka_splice {
    size_t at;
    struct kafka_range *range;
    struct kafka_splice *next;
};

/* The ranges of one answer, in order, allocated in its arena. */
struct kafka_splices {
    struct hf_arena *arena;
    struct kafka_splice *first, **last;
    size_t bytes; /* in the ranges */
};
void kafka_splices_init(struct kafka_splices *s, struct hf_arena *arena);

/* Appends the message to out; errors stick in out (HF_ELIMIT also for a string too long for its length
 * field). splices may be NULL if no field holds a range. */
void kafka_encode(struct hf_buf *out, struct kafka_splices *splices, const struct kafka_shape *shape,
                  int16_t version, bool flexible, const void *message);

#endif
