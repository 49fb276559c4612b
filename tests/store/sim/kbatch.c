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

char kkey(uint32_t id, uint32_t index) {
    return (char)('a' + mixed((uint64_t)id << 24 | index) % 7);
}

bool kdeletes(uint32_t id, uint32_t index) {
    return mixed((uint64_t)id << 22 | index) % 6 == 0;
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

/* A record without value says in a header which one it is. */
static size_t put_deletion(uint8_t *body, uint32_t id, uint32_t index) {
    size_t n = put_varint(body, -1);
    n += put_varint(body + n, 1);
    n += put_varint(body + n, 1);
    body[n++] = 'd';
    n += put_varint(body + n, 8);
    hf_put_be32(body + n, id);
    hf_put_be32(body + n + 4, index);
    return n + 8;
}

static size_t put_record(uint8_t *out, uint32_t id, uint32_t index, bool deletes) {
    uint8_t body[KVALUE_MAX + 32], value[KVALUE_MAX];
    size_t n = 0, length = kvalue(id, index, value);
    body[n++] = 0;
    n += put_varint(body + n, 0);
    n += put_varint(body + n, index);
    n += put_varint(body + n, 1);
    body[n++] = (uint8_t)kkey(id, index);
    if (deletes && kdeletes(id, index)) {
        n += put_deletion(body + n, id, index);
    } else {
        n += put_varint(body + n, (int64_t)length);
        memcpy(body + n, value, length);
        n += length;
        n += put_varint(body + n, 0);
    }
    size_t head = put_varint(out, (int64_t)n);
    memcpy(out + head, body, n);
    return head + n;
}

size_t kbatch_make(uint32_t id, uint32_t count, const struct kproducer *producer, bool deletes,
                   uint8_t out[KBATCH_MAX]) {
    size_t n = KBATCH_HEADER;
    int64_t timestamp = kbatch_time(id);
    for (uint32_t i = 0; i < count; i++) n += put_record(out + n, id, i, deletes);
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

static bool get_bytes(const uint8_t **p, const uint8_t *end, hf_str *out) {
    int64_t n;
    if (!get_varint(p, end, &n) || n > end - *p) return false;
    *out = hf_str_make(n < 0 ? NULL : *p, n < 0 ? 0 : (size_t)n);
    if (n > 0) *p += n;
    return true;
}

static bool get_deletion(const uint8_t **at, const uint8_t *stop, struct krecord *out) {
    int64_t headers;
    hf_str name, value;
    if (!get_varint(at, stop, &headers) || headers != 1) return false;
    if (!get_bytes(at, stop, &name) || !get_bytes(at, stop, &value) || value.n != 8) return false;
    out->id = hf_get_be32(value.p);
    out->index = hf_get_be32(value.p + 4);
    return kdeletes(out->id, out->index);
}

/* One record: which one it is, its value or header says. */
static bool get_record(const uint8_t **p, const uint8_t *end, int64_t base, struct krecord *out) {
    int64_t length, skip, delta;
    hf_str key, value;
    if (!get_varint(p, end, &length) || length < 1 || length > end - *p) return false;
    const uint8_t *at = *p + 1, *stop = *p + length;
    *p = stop;
    if (!get_varint(&at, stop, &skip) || !get_varint(&at, stop, &delta)) return false;
    if (!get_bytes(&at, stop, &key) || !get_bytes(&at, stop, &value)) return false;
    out->offset = base + delta;
    bool ours = value.p ? kvalue_parse(value, &out->id, &out->index) : get_deletion(&at, stop, out);
    return ours && key.n == 1 && key.p[0] == kkey(out->id, out->index);
}

size_t kbatch_read(const uint8_t *p, size_t n, bool (*fn)(void *arg, const struct krecord *r), void *arg) {
    int64_t base, last = -1;
    int32_t span;
    if (!kbatch_span(p, n, &base, &span)) return 0;
    size_t size = 12 + (size_t)hf_get_be32(p + 8);
    int32_t count = kbatch_count(p);
    if (hf_crc32c(0, p + 21, size - 21) != hf_get_be32(p + 17)) return 0;
    if (count > span || (p[22] & 7) != 0) return 0;
    const uint8_t *at = p + KBATCH_HEADER, *end = p + size;
    for (int32_t i = 0; i < count; i++) {
        struct krecord r;
        if (!get_record(&at, end, base, &r) || r.offset <= last || r.offset >= base + span || !fn(arg, &r))
            return 0;
        last = r.offset;
    }
    return at == end ? size : 0;
}

int32_t kbatch_count(const uint8_t *p) {
    return (int32_t)hf_get_be32(p + 57);
}
