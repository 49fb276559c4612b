/* RecordBatch v2 (KIP-98), uncompressed, written and read without the store's codec. */
#include "kbatch.h"

#include "base/crc32c.h"

static uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 31)) * UINT64_C(0x7fb5d329728ea185);
    z = (z ^ (z >> 27)) * UINT64_C(0x81dadef4bc2dd44d);
    return z ^ (z >> 33);
}

size_t kvalue(uint32_t id, uint32_t index, uint8_t out[KVALUE_MAX]) {
    uint64_t h = mixed((uint64_t)id << 20 | index);
    size_t n = 12 + h % 90;
    if (h >> 60 == 0) n += 600 + h % 300;
    memcpy(out, "hfSM", 4);
    hf_put_be32(out + 4, id);
    hf_put_be32(out + 8, index);
    for (size_t i = 12; i < n; i++) out[i] = (uint8_t)(h >> (i % 7 * 8)) ^ (uint8_t)i;
    return n;
}

bool kvalue_parse(hf_str value, uint32_t *id, uint32_t *index) {
    uint8_t should[KVALUE_MAX];
    if (value.n < 12 || memcmp(value.p, "hfSM", 4) != 0) return false;
    *id = hf_get_be32(value.p + 4);
    *index = hf_get_be32(value.p + 8);
    size_t n = kvalue(*id, *index, should);
    return n == value.n && memcmp(should, value.p, n) == 0;
}

static size_t put_varint(uint8_t *p, int64_t v) {
    uint64_t u = (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
    size_t n = 0;
    for (; u >= 128; u >>= 7) p[n++] = (uint8_t)(u | 128);
    p[n++] = (uint8_t)u;
    return n;
}

static bool get_varint(const uint8_t **p, const uint8_t *end, int64_t *out) {
    uint64_t u = 0;
    for (unsigned shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t b = *(*p)++;
        u |= (uint64_t)(b & 127) << shift;
        if (b & 128) continue;
        *out = (int64_t)(u >> 1) ^ -(int64_t)(u & 1);
        return true;
    }
    return false;
}

static size_t put_record(uint8_t *out, uint32_t id, uint32_t index) {
    uint8_t body[KVALUE_MAX + 32], value[KVALUE_MAX];
    size_t n = 0, length = kvalue(id, index, value);
    body[n++] = 0;
    n += put_varint(body + n, 0);
    n += put_varint(body + n, index);
    n += put_varint(body + n, -1);
    n += put_varint(body + n, (int64_t)length);
    memcpy(body + n, value, length);
    n += length;
    n += put_varint(body + n, 0);
    size_t head = put_varint(out, (int64_t)n);
    memcpy(out + head, body, n);
    return head + n;
}

size_t kbatch_make(uint32_t id, uint32_t count, const struct kproducer *producer, uint8_t out[KBATCH_MAX]) {
    size_t n = KBATCH_HEADER;
    int64_t timestamp = kbatch_time(id);
    for (uint32_t i = 0; i < count; i++) n += put_record(out + n, id, i);
    memset(out, 0, KBATCH_HEADER);
    hf_put_be32(out + 8, (uint32_t)(n - 12));
    hf_put_be32(out + 12, UINT32_MAX);
    out[16] = 2;
    hf_put_be32(out + 23, count - 1);
    hf_put_be64(out + 27, (uint64_t)timestamp);
    hf_put_be64(out + 35, (uint64_t)timestamp);
    hf_put_be64(out + 43, (uint64_t)producer->id);
    hf_put_be16(out + 51, (uint16_t)producer->epoch);
    hf_put_be32(out + 53, (uint32_t)producer->sequence);
    hf_put_be32(out + 57, count);
    hf_put_be32(out + 17, hf_crc32c(0, out + 21, n - 21));
    return n;
}

bool kbatch_span(const uint8_t *p, size_t n, int64_t *base, int32_t *count) {
    if (n < KBATCH_HEADER || p[16] != 2) return false;
    uint64_t size = 12 + (uint64_t)hf_get_be32(p + 8);
    if (size < KBATCH_HEADER || size > n) return false;
    *base = (int64_t)hf_get_be64(p);
    *count = (int32_t)hf_get_be32(p + 23) + 1;
    return *count > 0;
}

/* One record: key and headers are passed over, the value must be one of ours. */
static bool get_record(const uint8_t **p, const uint8_t *end, int64_t base, struct krecord *out) {
    int64_t length, skip, delta, key, value;
    if (!get_varint(p, end, &length) || length < 1 || length > end - *p) return false;
    const uint8_t *at = *p + 1, *stop = *p + length;
    *p = stop;
    if (!get_varint(&at, stop, &skip) || !get_varint(&at, stop, &delta) || !get_varint(&at, stop, &key))
        return false;
    if (key > stop - at) return false;
    if (key > 0) at += key;
    if (!get_varint(&at, stop, &value) || value < 0 || value > stop - at) return false;
    out->offset = base + delta;
    return kvalue_parse(hf_str_make(at, (size_t)value), &out->id, &out->index);
}

size_t kbatch_read(const uint8_t *p, size_t n, bool (*fn)(void *arg, const struct krecord *r), void *arg) {
    int64_t base;
    int32_t count;
    if (!kbatch_span(p, n, &base, &count)) return 0;
    size_t size = 12 + (size_t)hf_get_be32(p + 8);
    if (hf_crc32c(0, p + 21, size - 21) != hf_get_be32(p + 17)) return 0;
    if ((int32_t)hf_get_be32(p + 57) != count || (p[22] & 7) != 0) return 0;
    const uint8_t *at = p + KBATCH_HEADER, *end = p + size;
    for (int32_t i = 0; i < count; i++) {
        struct krecord r;
        if (!get_record(&at, end, base, &r) || r.offset != base + i || !fn(arg, &r)) return 0;
    }
    return at == end ? size : 0;
}
