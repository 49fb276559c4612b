/* A frame becomes a request, a request an answer.
 *
 *   frame: int16 key, int16 version, int32 correlation id, client id, [tags], body
 *   answer: int32 length, int32 correlation id, [tags], body
 *
 * ApiVersions is answered here, from the list of handlers: what is advertised is what is served. A client
 * opens with the newest version it knows; one that is newer than ours is answered in version 0 with error 35
 * and the supported range, without a look at a body whose layout nobody here knows (KIP-511). Its answer's
 * header never has tags, so that the oldest client can read it. Any other unknown API or version closes the
 * connection. */
#include "broker_internal.h"

#include <stdlib.h>

static const struct broker_handler *handler_of(const struct broker *b, int16_t key) {
    for (size_t i = 0; i < b->options.handler_count; i++)
        if (b->options.handlers[i].key == key) return &b->options.handlers[i];
    return NULL;
}

static bool version_served(const struct kafka_api *api, int16_t version) {
    return version >= api->min && version <= api->max;
}

/* A blank one. */
static struct broker_request *request_new(struct broker *b) {
    struct broker_request *rq = b->spare;
    if (!rq) {
        rq = calloc(1, sizeof(*rq));
        if (rq) hf_arena_init(&rq->arena, b->options.arena_max);
        return rq;
    }
    b->spare = rq->next;
    b->spare_count--;
    *rq = (struct broker_request){.arena = rq->arena};
    return rq;
}

struct broker_request *request_of_frame(struct broker *b, struct broker_connection *c, uint8_t *frame,
                                        size_t n, const char **why) {
    struct hf_reader r = hf_reader_of(frame, n);
    struct kafka_header h;
    const struct kafka_api *api = NULL;
    if (kafka_header_begin(&r, &h)) {
        *why = "request header is cut short";
    } else {
        api = kafka_api_of(h.api_key);
        bool versions = h.api_key == KAFKA_API_api_versions;
        if (!api || (!versions && !handler_of(b, h.api_key)))
            *why = "unknown API";
        else if (!versions && !version_served(api, h.api_version))
            *why = "version is not served";
    }
    struct broker_request *rq = *why ? NULL : request_new(b);
    if (!rq) {
        if (!*why) *why = "no memory for the request";
        b->frames_held -= n;
        free(frame);
        return NULL;
    }
    rq->api = api;
    rq->version = rq->encode_as = h.api_version;
    rq->correlation_id = h.correlation_id;
    rq->client = connection_address(c);
    rq->connection = c;
    rq->frame = frame;
    rq->frame_size = n;
    return rq;
}

void broker_drop_ranges(struct broker_request *rq) {
    for (struct broker_range *r = rq->ranges; r; r = r->next) {
        if (r->range.release) r->range.release(r->range.owner);
        r->range.release = NULL;
    }
}

static void request_fini(struct broker_request *rq) {
    hf_arena_fini(&rq->arena);
    free(rq);
}

void request_free(struct broker *b, struct broker_request *rq) {
    broker_drop_ranges(rq);
    free(rq->frame);
    if (b->spare_count + 1 > BROKER_SPARES) {
        request_fini(rq);
        return;
    }
    hf_arena_reset(&rq->arena);
    rq->next = b->spare;
    b->spare = rq;
    b->spare_count++;
}

void requests_fini(struct broker *b) {
    while (b->spare) {
        struct broker_request *rq = b->spare;
        b->spare = rq->next;
        request_fini(rq);
    }
}

/* ---- ApiVersions ---- */

static void answer_versions(struct broker *b, struct broker_request *rq, int16_t error) {
    struct kafka_api_versions_response *a = rq->answer;
    a->error_code = error;
    a->api_keys = hf_arena_array(&rq->arena, kafka_api_count, sizeof(*a->api_keys));
    for (size_t i = 0; a->api_keys && i < kafka_api_count; i++) {
        const struct kafka_api *api = &kafka_apis[i];
        if (api->key != KAFKA_API_api_versions && !handler_of(b, api->key)) continue;
        a->api_keys[a->api_keys_count++] = (struct kafka_api_version){api->key, api->min, api->max};
    }
    broker_answer(rq);
}

/* ---- start ---- */

bool request_start(struct broker *b, struct broker_request *rq, const char **why) {
    const struct kafka_api *api = rq->api;
    rq->answer = kafka_blank(&rq->arena, api->response());
    if (!rq->answer) {
        *why = "no memory for the request";
        return false;
    }
    b->stats.requests[api->key]++;
    if (!version_served(api, rq->version)) { /* ApiVersions only: others were refused with their frame */
        rq->encode_as = 0;
        answer_versions(b, rq, KAFKA_UNSUPPORTED_VERSION);
        return true;
    }
    struct hf_reader r = hf_reader_of(rq->frame, rq->frame_size);
    struct kafka_header h;
    bool flexible = rq->version >= api->flexible_from;
    void *body = NULL;
    enum hf_err e = kafka_header_begin(&r, &h);
    if (!e) e = kafka_header_end(&r, flexible, &h);
    size_t stray = flexible && api->traits & KAFKA_STRAY ? KAFKA_STRAY_BYTES : 0;
    if (!e) e = kafka_decode_stray(&rq->arena, api->request(), rq->version, flexible, stray, &r, &body);
    if (e) {
        *why = e == HF_ENOMEM ? "request takes more memory than the limit" : "malformed request";
        return false;
    }
    rq->client_id = h.client_id;
    rq->body = body;
    if (api->key == KAFKA_API_api_versions) {
        answer_versions(b, rq, KAFKA_NONE);
        return true;
    }
    const struct broker_handler *handler = handler_of(b, api->key);
    handler->handle(handler->ctx, rq);
    return true;
}

/* ---- answers ---- */

static void end(struct broker_request *rq) {
    rq->progress = BROKER_ANSWERED;
    connection_mark_dirty(rq->connection);
}

void broker_answer(struct broker_request *rq) {
    end(rq);
}

void broker_answer_nothing(struct broker_request *rq) {
    rq->silent = true;
    end(rq);
}

void broker_refuse(struct broker_request *rq, const char *why) {
    rq->silent = true;
    end(rq);
    connection_refuse(rq->connection, why);
}

/* The pin of a range, as libevent's segment keeps it. */
struct held_range {
    void (*release)(void *owner);
    void *owner;
};

struct kafka_range *broker_range(struct broker_request *rq) {
    struct broker_range *r = hf_arena_alloc(&rq->arena, sizeof(*r));
    if (!r) return NULL;
    r->next = rq->ranges;
    rq->ranges = r;
    return &r->range;
}

static void on_segment_freed(struct evbuffer_file_segment const *segment, int flags, void *arg) {
    (void)segment, (void)flags;
    struct held_range *held = arg;
    if (held->release) held->release(held->owner);
    free(held);
}

/* The pin passes from the range to the segment. */
static bool append_range(struct evbuffer *out, struct kafka_range *range) {
    struct held_range *held = malloc(sizeof(*held));
    struct evbuffer_file_segment *segment =
        held ? evbuffer_file_segment_new(range->fd, (ev_off_t)range->offset, (ev_off_t)range->size, 0) : NULL;
    if (!segment) {
        free(held);
        return false;
    }
    *held = (struct held_range){range->release, range->owner};
    range->release = NULL;
    evbuffer_file_segment_add_cleanup_cb(segment, on_segment_freed, held);
    bool ok = evbuffer_add_file_segment(out, segment, 0, (ev_off_t)range->size) == 0;
    evbuffer_file_segment_free(segment); /* the buffer holds its own reference */
    return ok;
}

/* Beside a file range: evbuffer_add would make a chain as long as the range for these few bytes. */
static bool append_bytes(struct evbuffer *out, const uint8_t *p, size_t n) {
    if (n == 0) return true;
    struct evbuffer *own = evbuffer_new();
    bool ok = own && evbuffer_add(own, p, n) == 0 && evbuffer_add_buffer(out, own) == 0;
    if (own) evbuffer_free(own);
    return ok;
}

bool request_append(const struct hf_buf *encoded, const struct kafka_splices *ranges, size_t sent,
                    struct evbuffer *out) {
    if (!ranges->first) return evbuffer_add(out, encoded->p + sent, encoded->n - sent) == 0;
    size_t at = sent;
    for (const struct kafka_splice *s = ranges->first; s; s = s->next) {
        if (!append_bytes(out, encoded->p + at, s->at - at) || !append_range(out, s->range)) return false;
        at = s->at;
    }
    return append_bytes(out, encoded->p + at, encoded->n - at);
}

bool request_encode(struct broker *b, struct broker_request *rq, struct kafka_splices *ranges) {
    struct hf_buf *buf = &b->encoded;
    kafka_splices_init(ranges, &rq->arena);
    bool flexible = rq->encode_as >= rq->api->flexible_from;
    hf_buf_reset(buf);
    hf_buf_be32(buf, 0);
    hf_buf_be32(buf, (uint32_t)rq->correlation_id);
    if (flexible && rq->api->key != KAFKA_API_api_versions) hf_buf_uvarint(buf, 0);
    kafka_encode(buf, ranges, rq->api->response(), rq->encode_as, flexible, rq->answer);
    size_t total = buf->n + ranges->bytes - BROKER_PREFIX;
    if (hf_buf_failed(buf) || total > INT32_MAX) return false;
    hf_put_be32(buf->p, (uint32_t)total);
    return true;
}
