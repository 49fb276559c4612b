/* One codec for all messages and versions.
 *
 * The problem: nineteen APIs, a hundred versions, two encodings (plain; compact with tagged fields, KIP-482),
 * and input from anybody. The layouts are data (messages.def); this file walks them. So a version is a row of
 * numbers, and a bound is checked in one place for all.
 *
 * What a hostile frame can make us do is bounded thus:
 *   1. Nothing is read past the frame: all reads go through hf_reader.
 *   2. An array's count is checked against the bytes that are left, divided by the least an element takes,
 * before memory is asked for. So a frame of n bytes makes us hold at most a small multiple of n, and the
 * arena's limit bounds it absolutely.
 *   3. Depth is the tables' depth: shapes nest, but never in themselves.
 *   4. Bytes left over after the last field are malformed, so that a wrong length cannot pass unseen; the one
 *      exception is the trait STRAY of apis.def.
 *
 * Encoding uses the same tables. A records field may be a range of a file: then only its length is written,
 * and the range is noted as a splice for the connection to send. */
#include "codec.h"

#include <assert.h>

enum { STRING_MAX = INT16_MAX };

/* ---- shared ---- */

static bool present(const struct kafka_field *f, int16_t version) {
    return version >= f->from && version <= f->to;
}

static size_t scalar_size(enum kafka_type type) {
    static const uint8_t sizes[] = {
        [KAFKA_TYPE_BOOL] = sizeof(bool),
        [KAFKA_TYPE_I8] = 1,
        [KAFKA_TYPE_I16] = 2,
        [KAFKA_TYPE_I32] = 4,
        [KAFKA_TYPE_I64] = 8,
        [KAFKA_TYPE_UUID] = sizeof(struct kafka_uuid),
        [KAFKA_TYPE_STRING] = sizeof(hf_str),
        [KAFKA_TYPE_BYTES] = sizeof(hf_str),
        [KAFKA_TYPE_RECORDS] = sizeof(struct kafka_records),
    };
    assert(type != KAFKA_TYPE_SHAPE);
    return sizes[type];
}

static size_t element_size(const struct kafka_field *f) {
    return f->type == KAFKA_TYPE_SHAPE ? f->shape()->size : scalar_size(f->type);
}

static void store_int(enum kafka_type type, void *at, int64_t v) {
    switch (type) {
    case KAFKA_TYPE_BOOL: *(bool *)at = v != 0; break;
    case KAFKA_TYPE_I8: *(int8_t *)at = (int8_t)v; break;
    case KAFKA_TYPE_I16: *(int16_t *)at = (int16_t)v; break;
    case KAFKA_TYPE_I32: *(int32_t *)at = (int32_t)v; break;
    case KAFKA_TYPE_I64: *(int64_t *)at = v; break;
    default: break;
    }
}

static int64_t load_int(enum kafka_type type, const void *at) {
    switch (type) {
    case KAFKA_TYPE_BOOL: return *(const bool *)at;
    case KAFKA_TYPE_I8: return *(const int8_t *)at;
    case KAFKA_TYPE_I16: return *(const int16_t *)at;
    case KAFKA_TYPE_I32: return *(const int32_t *)at;
    case KAFKA_TYPE_I64: return *(const int64_t *)at;
    default: return 0;
    }
}

static void set_fallbacks(const struct kafka_shape *shape, void *message) {
    for (size_t i = 0; i < shape->field_count; i++) {
        const struct kafka_field *f = &shape->fields[i];
        if (f->fallback != 0) store_int(f->type, (uint8_t *)message + f->at, f->fallback);
    }
}

void *kafka_blank_array(struct hf_arena *a, const struct kafka_shape *shape, size_t count) {
    uint8_t *p = hf_arena_array(a, count, shape->size);
    for (size_t i = 0; p && i < count; i++) set_fallbacks(shape, p + i * shape->size);
    return p;
}

void *kafka_blank(struct hf_arena *a, const struct kafka_shape *shape) {
    return kafka_blank_array(a, shape, 1);
}

/* ---- decode ---- */

struct decoder {
    struct hf_arena *arena;
    struct hf_reader *r;
    int16_t version;
    bool flexible;
    bool no_memory;
};

static void decode_shape(struct decoder *d, const struct kafka_shape *shape, void *message);

/* Least bytes that a field, or a struct, takes on the wire; it bounds arrays' counts. Nested arrays count as
 * empty. */
static size_t least_field(const struct kafka_field *f, bool flexible) {
    if (f->list) return flexible ? 1 : 4;
    switch (f->type) {
    case KAFKA_TYPE_STRING: return flexible ? 1 : 2;
    case KAFKA_TYPE_BYTES:
    case KAFKA_TYPE_RECORDS: return flexible ? 1 : 4;
    case KAFKA_TYPE_BOOL: return 1;
    default: return scalar_size(f->type);
    }
}

static size_t least_element(const struct kafka_field *f, int16_t version, bool flexible) {
    if (f->type != KAFKA_TYPE_SHAPE) {
        struct kafka_field scalar = *f;
        scalar.list = false;
        return least_field(&scalar, flexible);
    }
    const struct kafka_shape *shape = f->shape();
    size_t n = flexible ? 1 : 0;
    for (size_t i = 0; i < shape->field_count; i++) {
        const struct kafka_field *field = &shape->fields[i];
        if (field->tag < 0 && present(field, version)) n += least_field(field, flexible);
    }
    return n ? n : 1;
}

/* The length of a string, of bytes or of an array: -1 null. Sets bad for other negative ones. */
static int64_t decode_length(struct decoder *d, bool string, bool nullable) {
    int64_t n = d->flexible ? (int64_t)hf_read_uvarint32(d->r) - 1
                : string    ? (int16_t)hf_read_be16(d->r)
                            : (int32_t)hf_read_be32(d->r);
    if (n < -1 || (n == -1 && !nullable) || (string && n > STRING_MAX)) d->r->bad = true;
    return d->r->bad ? -1 : n;
}

static hf_str decode_bytes(struct decoder *d, const struct kafka_field *f) {
    int64_t n = decode_length(d, f->type == KAFKA_TYPE_STRING, d->version >= f->null_from);
    return n < 0 ? (hf_str){NULL, 0} : hf_read_bytes(d->r, (size_t)n);
}

static void decode_scalar(struct decoder *d, const struct kafka_field *f, void *at) {
    switch (f->type) {
    case KAFKA_TYPE_BOOL: *(bool *)at = hf_read_u8(d->r) != 0; break;
    case KAFKA_TYPE_I8: *(int8_t *)at = (int8_t)hf_read_u8(d->r); break;
    case KAFKA_TYPE_I16: *(int16_t *)at = (int16_t)hf_read_be16(d->r); break;
    case KAFKA_TYPE_I32: *(int32_t *)at = (int32_t)hf_read_be32(d->r); break;
    case KAFKA_TYPE_I64: *(int64_t *)at = (int64_t)hf_read_be64(d->r); break;
    case KAFKA_TYPE_UUID: {
        hf_str s = hf_read_bytes(d->r, sizeof(struct kafka_uuid));
        if (s.p) memcpy(at, s.p, s.n);
        break;
    }
    case KAFKA_TYPE_STRING:
    case KAFKA_TYPE_BYTES: *(hf_str *)at = decode_bytes(d, f); break;
    case KAFKA_TYPE_RECORDS:
        *(struct kafka_records *)at = (struct kafka_records){.bytes = decode_bytes(d, f)};
        break;
    case KAFKA_TYPE_SHAPE: assert(0); break;
    }
}

static void decode_list(struct decoder *d, const struct kafka_field *f, uint8_t *message) {
    int64_t n = decode_length(d, false, d->version >= f->null_from);
    int32_t *count = (int32_t *)(message + f->count_at);
    if (n < 0) {
        *count = -1;
        return;
    }
    if ((size_t)n > hf_reader_left(d->r) / least_element(f, d->version, d->flexible)) {
        d->r->bad = true;
        return;
    }
    size_t size = element_size(f);
    uint8_t *p = hf_arena_array(d->arena, (size_t)n, size);
    if (!p) {
        d->no_memory = true;
        return;
    }
    for (int64_t i = 0; i < n && !d->r->bad && !d->no_memory; i++) {
        if (f->type == KAFKA_TYPE_SHAPE)
            decode_shape(d, f->shape(), p + (size_t)i * size);
        else
            decode_scalar(d, f, p + (size_t)i * size);
    }
    memcpy(message + f->at, &p, sizeof(p));
    *count = (int32_t)n;
}

static void decode_field(struct decoder *d, const struct kafka_field *f, uint8_t *message) {
    if (f->list) {
        decode_list(d, f, message);
    } else if (f->type == KAFKA_TYPE_SHAPE) {
        const struct kafka_shape *shape = f->shape();
        void *p = hf_arena_alloc(d->arena, shape->size);
        if (!p) {
            d->no_memory = true;
            return;
        }
        decode_shape(d, shape, p);
        memcpy(message + f->at, &p, sizeof(p));
    } else {
        decode_scalar(d, f, message + f->at);
    }
}

static const struct kafka_field *tagged_field(const struct kafka_shape *shape, uint32_t tag,
                                              int16_t version) {
    for (size_t i = 0; i < shape->field_count; i++) {
        const struct kafka_field *f = &shape->fields[i];
        if (f->tag >= 0 && (uint32_t)f->tag == tag && present(f, version)) return f;
    }
    return NULL;
}

/* Known tags are decoded and must fill their size; others are skipped. Tags ascend. message is NULL in a
 * header. */
static void decode_tags(struct decoder *d, const struct kafka_shape *shape, uint8_t *message) {
    uint32_t count = hf_read_uvarint32(d->r);
    int64_t previous = -1;
    for (uint32_t i = 0; i < count && !d->r->bad && !d->no_memory; i++) {
        uint32_t tag = hf_read_uvarint32(d->r);
        uint32_t size = hf_read_uvarint32(d->r);
        hf_str payload = hf_read_bytes(d->r, size);
        if (d->r->bad) return;
        if (tag <= previous) {
            d->r->bad = true;
            return;
        }
        previous = tag;
        const struct kafka_field *f = message ? tagged_field(shape, tag, d->version) : NULL;
        if (!f) continue;
        struct hf_reader inner = hf_reader_of(payload.p, payload.n);
        struct decoder nested = *d;
        nested.r = &inner;
        decode_field(&nested, f, message);
        d->no_memory = nested.no_memory;
        if (inner.bad || hf_reader_left(&inner) != 0) d->r->bad = true;
    }
}

static void decode_shape(struct decoder *d, const struct kafka_shape *shape, void *message) {
    set_fallbacks(shape, message);
    for (size_t i = 0; i < shape->field_count && !d->r->bad && !d->no_memory; i++) {
        const struct kafka_field *f = &shape->fields[i];
        if (f->tag < 0 && present(f, d->version)) decode_field(d, f, message);
    }
    if (d->flexible && !d->r->bad && !d->no_memory) decode_tags(d, shape, message);
}

enum hf_err kafka_decode(struct hf_arena *a, const struct kafka_shape *shape, int16_t version, bool flexible,
                         struct hf_reader *r, void **out) {
    return kafka_decode_stray(a, shape, version, flexible, 0, r, out);
}

enum hf_err kafka_decode_stray(struct hf_arena *a, const struct kafka_shape *shape, int16_t version,
                               bool flexible, size_t stray_max, struct hf_reader *r, void **out) {
    struct decoder d = {.arena = a, .r = r, .version = version, .flexible = flexible};
    void *message = hf_arena_alloc(a, shape->size);
    if (!message) return HF_ENOMEM;
    decode_shape(&d, shape, message);
    if (d.no_memory) return HF_ENOMEM;
    if (r->bad || hf_reader_left(r) > stray_max) return HF_EINVAL;
    *out = message;
    return HF_OK;
}

enum hf_err kafka_header_begin(struct hf_reader *r, struct kafka_header *out) {
    struct kafka_header h = {
        .api_key = (int16_t)hf_read_be16(r),
        .api_version = (int16_t)hf_read_be16(r),
        .correlation_id = (int32_t)hf_read_be32(r),
    };
    if (r->bad) return HF_EINVAL;
    *out = h;
    return HF_OK;
}

enum hf_err kafka_header_end(struct hf_reader *r, bool flexible, struct kafka_header *out) {
    /* The client's id is never compact (KIP-482), so that any broker can read it. */
    struct decoder d = {.r = r};
    static const struct kafka_field client_id = {.type = KAFKA_TYPE_STRING, .null_from = 0};
    hf_str id = decode_bytes(&d, &client_id);
    if (flexible) decode_tags(&d, NULL, NULL);
    if (r->bad) return HF_EINVAL;
    out->client_id = id;
    return HF_OK;
}

/* ---- encode ---- */

struct encoder {
    struct hf_buf *out;
    struct kafka_splices *splices;
    int16_t version;
    bool flexible;
};

static void encode_shape(struct encoder *e, const struct kafka_shape *shape, const void *message);

static void fail(struct encoder *e, enum hf_err err) {
    if (e->out->err == HF_OK) e->out->err = err;
}

/* n == -1: null. */
static void encode_length(struct encoder *e, bool string, int64_t n) {
    if (n > (string ? STRING_MAX : INT32_MAX))
        fail(e, HF_ELIMIT);
    else if (e->flexible)
        hf_buf_uvarint(e->out, (uint64_t)(n + 1));
    else if (string)
        hf_buf_be16(e->out, (uint16_t)n);
    else
        hf_buf_be32(e->out, (uint32_t)n);
}

/* A null where the version knows none is sent as empty. */
static void encode_bytes(struct encoder *e, const struct kafka_field *f, hf_str s) {
    bool null = !s.p && e->version >= f->null_from;
    encode_length(e, f->type == KAFKA_TYPE_STRING, null ? -1 : (int64_t)s.n);
    hf_buf_put(e->out, s.p, s.n);
}

static void encode_records(struct encoder *e, const struct kafka_field *f,
                           const struct kafka_records *records) {
    if (!records->range) {
        encode_bytes(e, f, records->bytes);
        return;
    }
    encode_length(e, false, (int64_t)records->range->size);
    struct kafka_splice *splice = hf_arena_alloc(e->splices->arena, sizeof(*splice));
    if (!splice) {
        fail(e, HF_ENOMEM);
        return;
    }
    *splice = (struct kafka_splice){e->out->n, records->range, NULL};
    *e->splices->last = splice;
    e->splices->last = &splice->next;
    e->splices->bytes += records->range->size;
}

static void encode_scalar(struct encoder *e, const struct kafka_field *f, const void *at) {
    switch (f->type) {
    case KAFKA_TYPE_BOOL:
    case KAFKA_TYPE_I8: hf_buf_u8(e->out, (uint8_t)load_int(f->type, at)); break;
    case KAFKA_TYPE_I16: hf_buf_be16(e->out, (uint16_t)load_int(f->type, at)); break;
    case KAFKA_TYPE_I32: hf_buf_be32(e->out, (uint32_t)load_int(f->type, at)); break;
    case KAFKA_TYPE_I64: hf_buf_be64(e->out, (uint64_t)load_int(f->type, at)); break;
    case KAFKA_TYPE_UUID: hf_buf_put(e->out, at, sizeof(struct kafka_uuid)); break;
    case KAFKA_TYPE_STRING:
    case KAFKA_TYPE_BYTES: encode_bytes(e, f, *(const hf_str *)at); break;
    case KAFKA_TYPE_RECORDS: encode_records(e, f, at); break;
    case KAFKA_TYPE_SHAPE: assert(0); break;
    }
}

static void encode_list(struct encoder *e, const struct kafka_field *f, const uint8_t *message) {
    int32_t count = *(const int32_t *)(message + f->count_at);
    if (count < 0 && e->version < f->null_from) count = 0;
    encode_length(e, false, count);
    const uint8_t *p;
    memcpy(&p, message + f->at, sizeof(p));
    size_t size = element_size(f);
    for (int32_t i = 0; i < count && !hf_buf_failed(e->out); i++) {
        if (f->type == KAFKA_TYPE_SHAPE)
            encode_shape(e, f->shape(), p + (size_t)i * size);
        else
            encode_scalar(e, f, p + (size_t)i * size);
    }
}

static const void *pointer_at(const struct kafka_field *f, const uint8_t *message) {
    const void *p;
    memcpy(&p, message + f->at, sizeof(p));
    return p;
}

static bool tag_is_set(const struct encoder *e, const struct kafka_field *f, const uint8_t *message) {
    if (f->tag < 0 || !present(f, e->version)) return false;
    if (f->type == KAFKA_TYPE_SHAPE) return pointer_at(f, message) != NULL;
    return load_int(f->type, message + f->at) != f->fallback;
}

/* The payload's size stands before it, in a gap of one byte: what we tag is scalars and structs of scalars,
 * always below 128 bytes. */
static void encode_tag(struct encoder *e, const struct kafka_field *f, const uint8_t *message) {
    hf_buf_uvarint(e->out, (uint64_t)f->tag);
    size_t gap = e->out->n;
    hf_buf_u8(e->out, 0);
    if (f->type == KAFKA_TYPE_SHAPE)
        encode_shape(e, f->shape(), pointer_at(f, message));
    else
        encode_scalar(e, f, message + f->at);
    if (hf_buf_failed(e->out)) return;
    size_t n = e->out->n - gap - 1;
    assert(n < 128);
    e->out->p[gap] = (uint8_t)n;
}

/* Tags ascend in the tables as they must on the wire. */
static void encode_tags(struct encoder *e, const struct kafka_shape *shape, const uint8_t *message) {
    uint64_t count = 0;
    for (size_t i = 0; i < shape->field_count; i++) count += tag_is_set(e, &shape->fields[i], message);
    hf_buf_uvarint(e->out, count);
    for (size_t i = 0; i < shape->field_count; i++)
        if (tag_is_set(e, &shape->fields[i], message)) encode_tag(e, &shape->fields[i], message);
}

static void encode_shape(struct encoder *e, const struct kafka_shape *shape, const void *message) {
    for (size_t i = 0; i < shape->field_count; i++) {
        const struct kafka_field *f = &shape->fields[i];
        if (f->tag >= 0 || !present(f, e->version)) continue;
        if (f->list)
            encode_list(e, f, message);
        else
            encode_scalar(e, f, (const uint8_t *)message + f->at);
    }
    if (e->flexible) encode_tags(e, shape, message);
}

void kafka_splices_init(struct kafka_splices *s, struct hf_arena *arena) {
    *s = (struct kafka_splices){.arena = arena, .last = &s->first};
}

void kafka_encode(struct hf_buf *out, struct kafka_splices *splices, const struct kafka_shape *shape,
                  int16_t version, bool flexible, const void *message) {
    struct encoder e = {.out = out, .splices = splices, .version = version, .flexible = flexible};
    encode_shape(&e, shape, message);
}
