/* Dispatch from engine.h to the implementation's table. */
#include "engine_ops.h"

enum hf_err engine_commit(struct engine *e, const struct engine_commit *c, engine_done *done, void *arg) {
    return e->ops->commit(e, c, done, arg);
}

enum hf_err engine_topic(struct engine *e, hf_str topic, bool create, int32_t *partitions) {
    return e->ops->topic(e, topic, create, partitions);
}

size_t engine_record_max(struct engine *e, hf_str topic) {
    return e->ops->record_max(e, topic);
}

enum hf_err engine_cursor_open(struct engine *e, hf_str topic, int32_t partition,
                               struct engine_cursor **out) {
    return e->ops->cursor_open(e, topic, partition, out);
}

void engine_cursor_close(struct engine_cursor *c) {
    if (c) c->engine->ops->cursor_close(c);
}

void engine_cursor_seek(struct engine_cursor *c, int64_t offset) {
    c->engine->ops->cursor_seek(c, offset);
}

enum hf_err engine_cursor_next(struct engine_cursor *c, struct engine_record *out) {
    return c->engine->ops->cursor_next(c, out);
}

enum hf_err engine_bounds(struct engine *e, hf_str topic, int32_t partition, int64_t *start,
                          int64_t *stable_end) {
    return e->ops->bounds(e, topic, partition, start, stable_end);
}

int64_t engine_stable_ms(struct engine *e, hf_str topic) {
    return e->ops->stable_ms(e, topic);
}

void engine_time_floor(struct engine *e, hf_str topic, int64_t ms) {
    if (e->ops->time_floor) e->ops->time_floor(e, topic, ms);
}

void engine_accept_clock(struct engine *e) {
    if (e->ops->accept_clock) e->ops->accept_clock(e);
}

void engine_watch(struct engine *e, hf_str topic, void (*fn)(void *arg), void *arg) {
    e->ops->watch(e, topic, fn, arg);
}

void engine_state_each(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                       void *arg) {
    e->ops->state_each(e, prefix, fn, arg);
}

hf_str engine_state_get(struct engine *e, hf_str key) {
    return e->ops->state_get(e, key);
}

int64_t engine_committed(struct engine *e, hf_str group, hf_str topic, int32_t partition) {
    return e->ops->committed(e, group, topic, partition);
}

void engine_offset_key(struct hf_buf *out, hf_str group, hf_str topic, int32_t partition) {
    hf_buf_str(out, HF_STR("offset/"));
    hf_buf_str(out, group);
    hf_buf_u8(out, 0);
    hf_buf_str(out, topic);
    hf_buf_u8(out, 0);
    hf_buf_printf(out, "%d", partition);
}

uint64_t engine_room(struct engine *e) {
    return e->ops->room(e);
}

enum hf_err engine_run_begin(struct engine *e, uint64_t bucket, struct engine_run_writer **out) {
    return e->ops->run_begin(e, bucket, out);
}

enum hf_err engine_run_append(struct engine_run_writer *w, const void *p, size_t n) {
    return w->engine->ops->run_append(w, p, n);
}

void engine_run_seal(struct engine_run_writer *w, uint64_t *id, engine_done *done, void *arg) {
    w->engine->ops->run_seal(w, id, done, arg);
}

void engine_run_abort(struct engine_run_writer *w) {
    w->engine->ops->run_abort(w);
}

void engine_run_discard(struct engine *e, uint64_t id) {
    e->ops->run_discard(e, id);
}

void engine_run_each(struct engine *e, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
                     void *arg) {
    e->ops->run_each(e, fn, arg);
}

enum hf_err engine_run_read(struct engine *e, uint64_t id, uint64_t offset, void *p, size_t n) {
    return e->ops->run_read(e, id, offset, p, n);
}
