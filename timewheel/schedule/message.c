/* A pending message as bytes, the same in memory and in runs:
 *
 *     size      uvarint   of what follows
 *     due       uvarint   } its place: effective due, sequence. What sorts is in front, so that merging
 *     sequence  uvarint   } reads three numbers
 *     flags     u8        a tombstone ends here
 *     early     uvarint   effective due - due asked for
 *     waited    uvarint   effective due - time of acceptance
 *     source    uvarint, uvarint       partition and offset in holdfast.delay
 *     partition uvarint   asked for, + 1; 0: none
 *     topic     uvarint n, bytes
 *     id        uvarint n, bytes       if ENTRY_ID
 *     key       uvarint n, bytes       if ENTRY_KEY
 *     value     uvarint n, bytes       if ENTRY_VALUE
 *     headers   uvarint count; each: uvarint n, name; uvarint n + 1, value (0: null)
 *
 * Headers are those that arrive: the control headers are gone, hf-due too; hf-created-at and hf-message-id
 * are added when the message is fired, unless they are here already from an earlier move (ENTRY_CREATED,
 * ENTRY_NAMED). With ENTRY_CRON the headers of the recurrence are here too (recurring.c). */
#include "schedule_state.h"

#include "base/names.h"

static void put_text(struct hf_buf *b, hf_str s) {
    hf_buf_uvarint(b, s.n);
    hf_buf_put(b, s.p, s.n);
}

/* A record that is no schedule keeps all, so that it can be mended and sent again. */
static bool is_dropped(const struct message *m, hf_str name) {
    if (!hf_str_starts(name, HF_STR("hf-")) || hf_topic_is_ours(m->topic)) return false;
    if ((m->flags & ENTRY_CRON) && recurring_header(name)) return false;
    return hf_header_is_control(name) || hf_str_is(name, HF_HDR_DUE);
}

/* Flags say which headers an earlier move has added. */
static uint8_t flags_of_headers(const struct message *m, const struct hf_header *headers, size_t n,
                                size_t *kept) {
    uint8_t flags = m->flags;
    *kept = 0;
    for (size_t i = 0; i < n; i++) {
        hf_str name = headers[i].key;
        if (is_dropped(m, name)) continue;
        ++*kept;
        if (hf_str_is(name, HF_HDR_CREATED_AT)) flags |= ENTRY_CREATED;
        if (hf_str_is(name, HF_HDR_MESSAGE_ID)) flags |= ENTRY_NAMED;
    }
    return flags;
}

enum hf_err entry_encode(struct hf_buf *b, const struct message *m, const struct hf_header *headers,
                         size_t n) {
    size_t kept;
    uint8_t flags = flags_of_headers(m, headers, n, &kept);
    if (m->id.p) flags |= ENTRY_ID;
    if (m->key.p) flags |= ENTRY_KEY;
    if (m->value.p) flags |= ENTRY_VALUE;
    hf_buf_uvarint(b, (uint64_t)m->place.due);
    hf_buf_uvarint(b, m->place.seq);
    hf_buf_u8(b, flags);
    hf_buf_uvarint(b, (uint64_t)(m->place.due - m->asked_ms));
    hf_buf_uvarint(b, (uint64_t)(m->place.due - m->accepted_ms));
    hf_buf_uvarint(b, (uint64_t)m->source_partition);
    hf_buf_uvarint(b, (uint64_t)m->source_offset);
    hf_buf_uvarint(b, (uint64_t)(m->partition + 1));
    put_text(b, m->topic);
    if (flags & ENTRY_ID) put_text(b, m->id);
    if (flags & ENTRY_KEY) put_text(b, m->key);
    if (flags & ENTRY_VALUE) put_text(b, m->value);
    hf_buf_uvarint(b, kept);
    for (size_t i = 0; i < n; i++) {
        if (is_dropped(m, headers[i].key)) continue;
        put_text(b, headers[i].key);
        hf_buf_uvarint(b, headers[i].value.p ? headers[i].value.n + 1 : 0);
        hf_buf_str(b, headers[i].value);
    }
    return hf_buf_failed(b);
}

void entry_encode_tombstone(struct hf_buf *b, struct place victim) {
    hf_buf_uvarint(b, (uint64_t)victim.due);
    hf_buf_uvarint(b, victim.seq);
    hf_buf_u8(b, ENTRY_TOMBSTONE);
}

static bool take_text(struct bytes *r, hf_str *out) {
    uint64_t n;
    if (!take_uvarint(r, &n) || n > (size_t)(r->end - r->p)) return false;
    *out = hf_str_make(r->p, n);
    r->p += n;
    return true;
}

bool entry_head(hf_str body, struct place *place, uint8_t *flags) {
    struct bytes r = bytes_of(body);
    uint64_t due;
    if (!take_uvarint(&r, &due) || !take_uvarint(&r, &place->seq) || r.p == r.end) return false;
    place->due = (int64_t)due;
    *flags = (uint8_t)*r.p;
    return true;
}

static bool decode_fixed(struct bytes *r, struct message *m) {
    uint64_t due, early, waited, partition, offset, asked;
    if (!take_uvarint(r, &due) || !take_uvarint(r, &m->place.seq) || r->p == r->end) return false;
    m->flags = (uint8_t)*r->p++;
    if (m->flags & ENTRY_TOMBSTONE) return false;
    if (!take_uvarint(r, &early) || !take_uvarint(r, &waited) || !take_uvarint(r, &partition) ||
        !take_uvarint(r, &offset) || !take_uvarint(r, &asked))
        return false;
    m->place.due = (int64_t)due;
    m->asked_ms = m->place.due - (int64_t)early;
    m->accepted_ms = m->place.due - (int64_t)waited;
    m->source_partition = (int32_t)partition;
    m->source_offset = (int64_t)offset;
    m->partition = (int32_t)asked - 1;
    return true;
}

static bool take_header(struct bytes *r, struct hf_header *h) {
    uint64_t n;
    if (!take_text(r, &h->key) || !take_uvarint(r, &n)) return false;
    h->value = (hf_str){NULL, 0};
    if (n == 0) return true;
    if (n - 1 > (size_t)(r->end - r->p)) return false;
    h->value = hf_str_make(r->p, n - 1);
    r->p += n - 1;
    return true;
}

enum hf_err entry_decode(hf_str body, struct message *m, struct hf_header headers[ENGINE_HEADERS_MAX],
                         size_t *header_count) {
    struct bytes r = bytes_of(body);
    uint64_t count = 0;
    *m = (struct message){0};
    bool ok = decode_fixed(&r, m) && take_text(&r, &m->topic) &&
              (!(m->flags & ENTRY_ID) || take_text(&r, &m->id)) &&
              (!(m->flags & ENTRY_KEY) || take_text(&r, &m->key)) &&
              (!(m->flags & ENTRY_VALUE) || take_text(&r, &m->value)) && take_uvarint(&r, &count) &&
              count <= ENGINE_HEADERS_MAX;
    for (size_t i = 0; ok && i < count; i++) ok = take_header(&r, &headers[i]);
    if (!ok || r.p != r.end) return HF_ECORRUPT;
    *header_count = (size_t)count;
    return HF_OK;
}
