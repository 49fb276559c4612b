/* Bytes: borrowed strings, a growable buffer with a limit, big-endian fields, a bounded reader.
 *
 *     struct hf_buf b;
 *     hf_buf_init(&b, 1 << 20);                  // never grows past 1 MiB
 *     hf_buf_be32(&b, 42); hf_buf_put(&b, p, n);
 *     if (hf_buf_failed(&b)) …                   // errors stick: check once, at the end
 *     hf_buf_fini(&b);
 *
 *     struct hf_reader r = hf_reader_of(p, n);
 *     uint32_t x = hf_read_be32(&r); hf_str s = hf_read_bytes(&r, x);
 *     if (r.bad) …                               // anything past the end reads as zero and sets bad
 *
 * No locking: one object, one thread at a time. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include "err.h"

#include <string.h>

/* ---- hf_str ---- */

static inline hf_str hf_str_of(const char *zero_terminated) {
    return (hf_str){zero_terminated, zero_terminated ? strlen(zero_terminated) : 0};
}

static inline hf_str hf_str_make(const void *p, size_t n) {
    return (hf_str){(const char *)p, n};
}

static inline bool hf_str_eq(hf_str a, hf_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool hf_str_is(hf_str a, const char *zero_terminated) {
    return hf_str_eq(a, hf_str_of(zero_terminated));
}

static inline bool hf_str_starts(hf_str a, hf_str prefix) {
    return a.n >= prefix.n && (prefix.n == 0 || memcmp(a.p, prefix.p, prefix.n) == 0);
}

/* Bytewise order, a shorter prefix first. */
int hf_str_cmp(hf_str a, hf_str b);

/* Decimal int64 without sign tricks: optional '-', digits, nothing else. */
HF_CHECK enum hf_err hf_str_int(hf_str s, int64_t *out);

/* ---- big-endian fields ---- */

static inline void hf_put_be16(void *p, uint16_t v) {
    v = __builtin_bswap16(v);
    memcpy(p, &v, 2);
}
static inline void hf_put_be32(void *p, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}
static inline void hf_put_be64(void *p, uint64_t v) {
    v = __builtin_bswap64(v);
    memcpy(p, &v, 8);
}
static inline uint16_t hf_get_be16(const void *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return __builtin_bswap16(v);
}
static inline uint32_t hf_get_be32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}
static inline uint64_t hf_get_be64(const void *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}

/* ---- growable buffer ---- */

struct hf_buf {
    uint8_t *p;
    size_t n;        /* used */
    size_t cap;      /* allocated */
    size_t max;      /* never more than this; past it the buffer fails with HF_ELIMIT */
    enum hf_err err; /* first failure; sticks until hf_buf_reset */
};

void hf_buf_init(struct hf_buf *b, size_t max);
void hf_buf_fini(struct hf_buf *b);

/* Empties the buffer and forgets the error; keeps the memory. */
void hf_buf_reset(struct hf_buf *b);

/* Room for n more bytes at the end, not yet counted as used; NULL when the buffer has failed. */
uint8_t *hf_buf_room(struct hf_buf *b, size_t n);

void hf_buf_put(struct hf_buf *b, const void *p, size_t n);
void hf_buf_printf(struct hf_buf *b, const char *fmt, ...) HF_PRINTF(2, 3);

static inline void hf_buf_str(struct hf_buf *b, hf_str s) {
    hf_buf_put(b, s.p, s.n);
}
static inline enum hf_err hf_buf_failed(const struct hf_buf *b) {
    return b->err;
}
static inline hf_str hf_buf_view(const struct hf_buf *b) {
    return hf_str_make(b->p, b->n);
}

void hf_buf_u8(struct hf_buf *b, uint8_t v);
void hf_buf_be16(struct hf_buf *b, uint16_t v);
void hf_buf_be32(struct hf_buf *b, uint32_t v);
void hf_buf_be64(struct hf_buf *b, uint64_t v);

/* Variable-length integers as in Kafka and Protocol Buffers: 7 bits a byte, low bits first. */
void hf_buf_uvarint(struct hf_buf *b, uint64_t v);
/* Zigzag: 0, -1, 1, -2 … become 0, 1, 2, 3 …. */
void hf_buf_varint(struct hf_buf *b, int64_t v);

/* Bytes that hf_buf_uvarint would write: 1 to 10. */
static inline size_t hf_uvarint_size(uint64_t v) {
    return (size_t)(70 - __builtin_clzll(v | 1)) / 7;
}
static inline uint64_t hf_zigzag(int64_t v) {
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}
static inline int64_t hf_unzigzag(uint64_t v) {
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* ---- bounded reader ---- */

struct hf_reader {
    const uint8_t *p;
    const uint8_t *end;
    bool bad; /* something was asked for that is not there; all later reads give zero */
};

static inline struct hf_reader hf_reader_of(const void *p, size_t n) {
    return (struct hf_reader){(const uint8_t *)p, (const uint8_t *)p + n, false};
}
static inline size_t hf_reader_left(const struct hf_reader *r) {
    return (size_t)(r->end - r->p);
}

uint8_t hf_read_u8(struct hf_reader *r);
uint16_t hf_read_be16(struct hf_reader *r);
uint32_t hf_read_be32(struct hf_reader *r);
uint64_t hf_read_be64(struct hf_reader *r);
/* At most 5 bytes (32 bits) or 10 bytes (64 bits); longer or overflowing encodings are bad. */
uint32_t hf_read_uvarint32(struct hf_reader *r);
uint64_t hf_read_uvarint64(struct hf_reader *r);
int32_t hf_read_varint32(struct hf_reader *r);
int64_t hf_read_varint64(struct hf_reader *r);
/* Borrowed from the reader's memory; {NULL, 0} when bad. */
hf_str hf_read_bytes(struct hf_reader *r, size_t n);

#endif
