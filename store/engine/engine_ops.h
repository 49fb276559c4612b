/* For implementations of engine.h: embed struct engine as the first member and fill the table. Each entry is
 * the contract of the function of the same name in engine.h. */
#ifndef STORE_ENGINE_OPS_H
#define STORE_ENGINE_OPS_H

#include "engine.h"

struct engine_ops {
    enum hf_err (*commit)(struct engine *e, const struct engine_commit *c, engine_done *done, void *arg);
    enum hf_err (*topic)(struct engine *e, hf_str topic, bool create, int32_t *partitions);
    size_t (*record_max)(struct engine *e, hf_str topic);
    enum hf_err (*cursor_open)(struct engine *e, hf_str topic, int32_t partition, struct engine_cursor **out);
    void (*cursor_close)(struct engine_cursor *c);
    void (*cursor_seek)(struct engine_cursor *c, int64_t offset);
    enum hf_err (*cursor_next)(struct engine_cursor *c, struct engine_record *out);
    enum hf_err (*bounds)(struct engine *e, hf_str topic, int32_t partition, int64_t *start,
                          int64_t *stable_end);
    int64_t (*stable_ms)(struct engine *e, hf_str topic);
    void (*time_floor)(struct engine *e, hf_str topic, int64_t ms);
    void (*accept_clock)(struct engine *e);
    void (*watch)(struct engine *e, hf_str topic, void (*fn)(void *arg), void *arg);
    void (*state_each)(struct engine *e, hf_str prefix, void (*fn)(void *arg, hf_str key, hf_str value),
                       void *arg);
    hf_str (*state_get)(struct engine *e, hf_str key);
    int64_t (*committed)(struct engine *e, hf_str group, hf_str topic, int32_t partition);
    uint64_t (*room)(struct engine *e);
    enum hf_err (*run_begin)(struct engine *e, uint64_t bucket, struct engine_run_writer **out);
    enum hf_err (*run_append)(struct engine_run_writer *w, const void *p, size_t n);
    void (*run_seal)(struct engine_run_writer *w, uint64_t *id, engine_done *done, void *arg);
    void (*run_abort)(struct engine_run_writer *w);
    void (*run_discard)(struct engine *e, uint64_t id);
    void (*run_each)(struct engine *e, void (*fn)(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes),
                     void *arg);
    enum hf_err (*run_read)(struct engine *e, uint64_t id, uint64_t offset, void *p, size_t n);
};

struct engine {
    const struct engine_ops *ops;
};

struct engine_cursor {
    struct engine *engine;
};

struct engine_run_writer {
    struct engine *engine;
};

#endif
