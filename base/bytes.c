#include "bytes.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int hf_str_cmp(hf_str a, hf_str b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    if (c) return c;
    return a.n < b.n ? -1 : a.n > b.n;
}

enum hf_err hf_str_int(hf_str s, int64_t *out) {
    size_t i = 0;
    bool negative = s.n > 0 && s.p[0] == '-';
    if (negative) i = 1;
    if (i == s.n) return HF_EINVAL;
    uint64_t v = 0, limit = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    for (; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') return HF_EINVAL;
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        if (v > (limit - digit) / 10) return HF_ERANGE;
        v = v * 10 + digit;
    }
    *out = negative ? (int64_t)(0 - v) : (int64_t)v;
    return HF_OK;
}

void hf_buf_init(struct hf_buf *b, size_t max) {
    *b = (struct hf_buf){.max = max};
}

void hf_buf_fini(struct hf_buf *b) {
    free(b->p);
    *b = (struct hf_buf){0};
}

void hf_buf_reset(struct hf_buf *b) {
    b->n = 0;
    b->err = HF_OK;
}

uint8_t *hf_buf_room(struct hf_buf *b, size_t n) {
    if (b->err) return NULL;
    if (n <= b->cap - b->n && b->p) return b->p + b->n;
    if (n > b->max - b->n) {
        b->err = HF_ELIMIT;
        return NULL;
    }
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->n + n) cap = cap > b->max / 2 ? b->max : cap * 2;
    if (cap > b->max) cap = b->max;
    uint8_t *p = realloc(b->p, cap ? cap : 1);
    if (!p) {
        b->err = HF_ENOMEM;
        return NULL;
    }
    b->p = p;
    b->cap = cap;
    return b->p + b->n;
}

void hf_buf_put(struct hf_buf *b, const void *p, size_t n) {
    if (n == 0) return;
    uint8_t *to = hf_buf_room(b, n);
    if (!to) return;
    memcpy(to, p, n);
    b->n += n;
}

void hf_buf_printf(struct hf_buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    assert(n >= 0);
    char *to = (char *)hf_buf_room(b, (size_t)n + 1);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
}

void hf_buf_u8(struct hf_buf *b, uint8_t v) {
    hf_buf_put(b, &v, 1);
}

void hf_buf_be16(struct hf_buf *b, uint16_t v) {
    uint8_t field[2];
    hf_put_be16(field, v);
    hf_buf_put(b, field, sizeof field);
}

void hf_buf_be32(struct hf_buf *b, uint32_t v) {
    uint8_t field[4];
    hf_put_be32(field, v);
    hf_buf_put(b, field, sizeof field);
}

void hf_buf_be64(struct hf_buf *b, uint64_t v) {
    uint8_t field[8];
    hf_put_be64(field, v);
    hf_buf_put(b, field, sizeof field);
}

void hf_buf_uvarint(struct hf_buf *b, uint64_t v) {
    uint8_t field[10];
    size_t n = 0;
    while (v >= 0x80) {
        field[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    field[n++] = (uint8_t)v;
    hf_buf_put(b, field, n);
}

void hf_buf_varint(struct hf_buf *b, int64_t v) {
    hf_buf_uvarint(b, hf_zigzag(v));
}

static const uint8_t *take(struct hf_reader *r, size_t n) {
    if (r->bad || n > hf_reader_left(r)) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    return p;
}

uint8_t hf_read_u8(struct hf_reader *r) {
    const uint8_t *p = take(r, 1);
    return p ? *p : 0;
}

uint16_t hf_read_be16(struct hf_reader *r) {
    const uint8_t *p = take(r, 2);
    return p ? hf_get_be16(p) : 0;
}

uint32_t hf_read_be32(struct hf_reader *r) {
    const uint8_t *p = take(r, 4);
    return p ? hf_get_be32(p) : 0;
}

uint64_t hf_read_be64(struct hf_reader *r) {
    const uint8_t *p = take(r, 8);
    return p ? hf_get_be64(p) : 0;
}

/* bits is 32 or 64; the last byte may carry only the bits that are left. */
static uint64_t uvarint(struct hf_reader *r, unsigned bits) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < bits; shift += 7) {
        uint8_t byte = hf_read_u8(r);
        if (r->bad) return 0;
        unsigned left = bits - shift;
        if (left < 7 && (byte & 0x7f) >> left) break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return v;
    }
    r->bad = true;
    return 0;
}

uint32_t hf_read_uvarint32(struct hf_reader *r) {
    return (uint32_t)uvarint(r, 32);
}

uint64_t hf_read_uvarint64(struct hf_reader *r) {
    return uvarint(r, 64);
}

int32_t hf_read_varint32(struct hf_reader *r) {
    uint32_t v = hf_read_uvarint32(r);
    return (int32_t)(v >> 1) ^ -(int32_t)(v & 1);
}

int64_t hf_read_varint64(struct hf_reader *r) {
    return hf_unzigzag(hf_read_uvarint64(r));
}

hf_str hf_read_bytes(struct hf_reader *r, size_t n) {
    const uint8_t *p = take(r, n);
    return p ? hf_str_make(p, n) : (hf_str){NULL, 0};
}
