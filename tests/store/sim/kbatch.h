/* Record batches as the simulation writes and reads them: a second implementation of the format, so that the
 * store is not checked by its own codec. Messages are made from numbers alone: batch and records follow from
 * (id, count, producer), so whatever comes back can be compared byte for byte without keeping it. */
#ifndef TESTS_STORE_SIM_KBATCH_H
#define TESTS_STORE_SIM_KBATCH_H

#include "base/bytes.h"

enum { KBATCH_MAX = 8192, KVALUE_MAX = 1024, KBATCH_HEADER = 61 };

struct kproducer {
    int64_t id; /* -1: none */
    int16_t epoch;
    int32_t sequence;
};

/* The value of record `index` of message `id`; returns its length, at least 12. */
size_t kvalue(uint32_t id, uint32_t index, uint8_t out[KVALUE_MAX]);

/* The key of every such record, one of seven; and whether it has no value where that is allowed. */
char kkey(uint32_t id, uint32_t index);
bool kdeletes(uint32_t id, uint32_t index);

/* The timestamp of every record of message `id`. */
static inline int64_t kbatch_time(uint32_t id) {
    return INT64_C(1767225600000) + id * INT64_C(7919) % 1000;
}

/* The whole batch of message `id` with `count` records; returns its length. */
size_t kbatch_make(uint32_t id, uint32_t count, const struct kproducer *producer, bool deletes,
                   uint8_t out[KBATCH_MAX]);

struct krecord {
    int64_t offset;
    uint32_t id, index;
};

/* Reads one batch at p: calls fn for each record whose value is what kvalue says, in order. Returns the
 * bytes of the batch; 0 if it is cut short, damaged, or holds something else. */
size_t kbatch_read(const uint8_t *p, size_t n, bool (*fn)(void *arg, const struct krecord *r), void *arg);

/* Records it holds: fewer than offsets after compaction. */
int32_t kbatch_count(const uint8_t *p);

/* Offsets that a batch at p takes: [*base, *base + *count); false if it has none whole. */
bool kbatch_span(const uint8_t *p, size_t n, int64_t *base, int32_t *count);

/* Whether id and index are what this value says, and its bytes theirs. */
bool kvalue_parse(hf_str value, uint32_t *id, uint32_t *index);

#endif
