/* The tables that the codec walks, made from messages.def and apis.def.
 *
 * Each shape becomes a function that returns its table. The function's body gives the macros a scope in which
 * `self` names the shape's own struct, so that FIELD can say offsetof(self, …) without repeating it. */
#include "messages.h"

#define TABLE_FIELD(type_, name_, list_, from_, to_, null_, tag_, count_at_, shape_, fallback_)              \
    {.name = #name_,                                                                                         \
     .type = type_,                                                                                          \
     .list = list_,                                                                                          \
     .from = from_,                                                                                          \
     .to = to_,                                                                                              \
     .null_from = null_,                                                                                     \
     .tag = tag_,                                                                                            \
     .at = offsetof(self, name_),                                                                            \
     .count_at = count_at_,                                                                                  \
     .shape = shape_,                                                                                        \
     .fallback = fallback_},

#define UP    KAFKA_UP
#define NEVER KAFKA_NEVER

#define SHAPE(name)                                                                                          \
    static const struct kafka_shape *shape_##name(void) {                                                    \
        typedef struct kafka_##name self;                                                                    \
        static const struct kafka_field fields[] = {
#define END(name_)                                                                                           \
    }                                                                                                        \
    ;                                                                                                        \
    static const struct kafka_shape shape = {.name = #name_,                                                 \
                                             .size = sizeof(self),                                           \
                                             .fields = fields,                                               \
                                             .field_count = sizeof(fields) / sizeof(fields[0])};             \
    return &shape;                                                                                           \
    }

#define FIELD(type, name, from, to, fallback)                                                                \
    TABLE_FIELD(KAFKA_TYPE_##type, name, false, from, to, NEVER, -1, 0, NULL, fallback)
#define NULLABLE(type, name, from, to, null_from)                                                            \
    TABLE_FIELD(KAFKA_TYPE_##type, name, false, from, to, null_from, -1, 0, NULL, 0)
#define LIST(type, name, from, to, null_from)                                                                \
    TABLE_FIELD(KAFKA_TYPE_##type, name, true, from, to, null_from, -1, offsetof(self, name##_count), NULL, 0)
#define ARRAY(of, name, from, to, null_from)                                                                 \
    TABLE_FIELD(KAFKA_TYPE_SHAPE, name, true, from, to, null_from, -1, offsetof(self, name##_count),         \
                shape_##of, 0)
#define TAGGED(type, name, from, tag, fallback)                                                              \
    TABLE_FIELD(KAFKA_TYPE_##type, name, false, from, UP, NEVER, tag, 0, NULL, fallback)
#define ONE(of, name, from, tag)                                                                             \
    TABLE_FIELD(KAFKA_TYPE_SHAPE, name, false, from, UP, NEVER, tag, 0, shape_##of, 0)
#include "messages.def"

#define PIPELINED KAFKA_PIPELINED
#define STRAY     KAFKA_STRAY
#define API(key_, name_, min_, max_, flexible_, traits_)                                                     \
    {.key = key_,                                                                                            \
     .name = #name_,                                                                                         \
     .min = min_,                                                                                            \
     .max = max_,                                                                                            \
     .flexible_from = flexible_,                                                                             \
     .traits = traits_,                                                                                      \
     .request = shape_##name_##_request,                                                                     \
     .response = shape_##name_##_response},
const struct kafka_api kafka_apis[] = {
#include "apis.def"
};
const size_t kafka_api_count = sizeof(kafka_apis) / sizeof(kafka_apis[0]);

const struct kafka_api *kafka_api_of(int16_t key) {
    for (size_t i = 0; i < kafka_api_count; i++)
        if (kafka_apis[i].key == key) return &kafka_apis[i];
    return NULL;
}
