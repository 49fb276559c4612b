/* The text is "hf1:" and base64 (Kafka's metadata is a UTF-8 string) of:
 *
 *     byte 0   version, 1
 *     then entries, each
 *         uvarint  gap << 1 | tried     gap: settled offsets between the last entry and this one
 *         tried:   uvarint attempts (>= 1), uvarint first failure, seconds since 2020-01-01:
 *                  one unsettled offset
 *         else:    uvarint run: so many unsettled offsets in a row, not tried; 0: the end of what is known
 *
 * Offsets that never were (compacted, control records) count as settled: nobody will deliver them. Entries
 * are written in ascending order and cut off where the room ends, so a truncated text never claims something
 * settled that is not: what lies above the last entry is unknown and runs again.
 *
 * Unsettled messages are bounded by the worker's buffer, so the usual text is a few bytes; 1,000 runs with
 * gaps take 2.7 KB. */
#include "marks.h"

#include <stdlib.h>

static const char prefix[] = "hf1:";
enum { PREFIX = sizeof prefix - 1, EPOCH_2020_S = 1577836800 };
_Static_assert(PREFIX + (MARKS_BYTES_MAX + 2) / 3 * 4 <= MARKS_TEXT_MAX, "the text fits into the metadata");

/* ---- writing ---- */

void marks_begin(struct marks_writer *w, int64_t position) {
    w->bytes[0] = 1;
    w->n = 1;
    w->at = position;
    w->run = w->gap = 0;
    w->full = false;
}

static size_t put(uint8_t *p, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

/* One entry, or none if it does not fit. */
static void entry(struct marks_writer *w, uint64_t head, const uint64_t *rest, size_t count) {
    uint8_t e[30];
    size_t n = put(e, head);
    for (size_t i = 0; i < count; i++) n += put(e + n, rest[i]);
    if (w->full || w->n + n > sizeof w->bytes) {
        w->full = true;
        return;
    }
    memcpy(w->bytes + w->n, e, n);
    w->n += n;
}

static void flush_run(struct marks_writer *w) {
    if (w->run == 0) return;
    entry(w, (uint64_t)w->gap << 1, (uint64_t[]){(uint64_t)w->run}, 1);
    w->run = w->gap = 0;
}

/* Moves on to offset; what lies between is settled. */
static void skip_to(struct marks_writer *w, int64_t offset) {
    if (offset <= w->at) return;
    flush_run(w);
    w->gap = offset - w->at;
    w->at = offset;
}

void marks_add_run(struct marks_writer *w, int64_t from, int64_t n) {
    skip_to(w, from);
    w->at += n;
    w->run += n;
}

void marks_add(struct marks_writer *w, int64_t offset, int32_t attempts, int64_t first_failed_s) {
    if (attempts <= 0) {
        marks_add_run(w, offset, 1);
        return;
    }
    skip_to(w, offset);
    flush_run(w);
    w->at = offset + 1;
    int64_t since = first_failed_s > EPOCH_2020_S ? first_failed_s - EPOCH_2020_S : 0;
    entry(w, (uint64_t)w->gap << 1 | 1, (uint64_t[]){(uint64_t)attempts, (uint64_t)since}, 2);
    w->gap = 0;
}

static void base64(const uint8_t *p, size_t n, char *out) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (; n > 0; p += 3, n = n > 3 ? n - 3 : 0) {
        uint32_t v = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0u);
        *out++ = digit[v >> 18];
        *out++ = digit[v >> 12 & 63];
        *out++ = n > 1 ? digit[v >> 6 & 63] : '=';
        *out++ = n > 2 ? digit[v & 63] : '=';
    }
    *out = 0;
}

bool marks_end(struct marks_writer *w, int64_t next, char text[MARKS_TEXT_SIZE]) {
    flush_run(w);
    if (next > w->at) entry(w, (uint64_t)(next - w->at) << 1, (uint64_t[]){0}, 1);
    text[0] = 0;
    /* One entry that begins at the position and is untried tells nothing that the offset does not. */
    if (w->n > 1) {
        memcpy(text, prefix, PREFIX);
        base64(w->bytes, w->n, text + PREFIX);
    }
    return !w->full;
}

/* ---- reading ---- */

void marks_fini(struct marks *m) {
    free(m->mark);
    *m = (struct marks){.next = INT64_MIN};
}

static int digit_value(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* -1: no base64. */
static ptrdiff_t unbase64(const char *s, size_t n, uint8_t *out) {
    size_t got = 0;
    if (n % 4 != 0) return -1;
    for (size_t i = 0; i < n; i += 4) {
        int pad = i + 4 == n ? (s[i + 3] == '=') + (s[i + 2] == '=') : 0;
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++) {
            int d = (int)k >= 4 - pad ? 0 : digit_value(s[i + k]);
            if (d < 0) return -1;
            v = v << 6 | (uint32_t)d;
        }
        for (int k = 0; k < 3 - pad; k++) out[got++] = (uint8_t)(v >> (16 - 8 * k));
    }
    return (ptrdiff_t)got;
}

/* Adds one entry; false: it makes no sense. */
static bool take(struct marks *m, struct hf_reader *r, int64_t *at, bool *end) {
    uint64_t head = hf_read_uvarint64(r);
    uint64_t gap = head >> 1;
    if (gap >= (uint64_t)(INT64_MAX - *at)) return false; /* at least one more follows */
    *at += (int64_t)gap;
    struct mark k = {.from = *at, .n = 1};
    uint64_t first = hf_read_uvarint64(r);
    if (head & 1) {
        uint64_t since = hf_read_uvarint64(r);
        if (first < 1 || first > INT32_MAX || since > INT64_MAX / 2) return false;
        k.attempts = (int32_t)first;
        k.first_failed_s = since ? EPOCH_2020_S + (int64_t)since : 0;
    } else if (first > (uint64_t)(INT64_MAX - *at)) {
        return false;
    } else {
        k.n = (int64_t)first;
    }
    if (r->bad) return false;
    *end = k.n == 0;
    *at += k.n;
    if (!*end) m->mark[m->count++] = k;
    return true;
}

enum hf_err marks_parse(struct marks *m, int64_t position, const char *text, size_t n) {
    *m = (struct marks){.next = INT64_MIN};
    uint8_t bytes[MARKS_TEXT_MAX];
    if (n < PREFIX || n > MARKS_TEXT_MAX || memcmp(text, prefix, PREFIX) != 0 || position < 0)
        return HF_EINVAL;
    ptrdiff_t got = unbase64(text + PREFIX, n - PREFIX, bytes);
    if (got < 1 || bytes[0] != 1) return HF_EINVAL;
    m->mark = calloc((size_t)got / 2 + 1, sizeof *m->mark); /* an entry has two bytes at least */
    if (!m->mark) return HF_ENOMEM;
    struct hf_reader r = hf_reader_of(bytes + 1, (size_t)got - 1);
    int64_t at = position;
    for (bool end = false; !end && hf_reader_left(&r) > 0;)
        if (!take(m, &r, &at, &end)) {
            marks_fini(m);
            return HF_EINVAL;
        }
    m->next = at;
    return HF_OK;
}

/* The mark that holds offset, or NULL. */
static const struct mark *find(const struct marks *m, int64_t offset) {
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct mark *k = &m->mark[mid];
        if (offset < k->from)
            high = mid;
        else if (offset >= k->from + k->n)
            low = mid + 1;
        else
            return k;
    }
    return NULL;
}

bool marks_settled(const struct marks *m, int64_t offset) {
    return offset < m->next && !find(m, offset);
}

const struct mark *marks_tried(const struct marks *m, int64_t offset) {
    const struct mark *k = find(m, offset);
    return k && k->attempts > 0 ? k : NULL;
}
