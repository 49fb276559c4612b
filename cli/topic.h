/* The settings of topics, for topic.c: looked at and changed by Kafka's requests for configs. Blocks. */
#ifndef CLI_TOPIC_H
#define CLI_TOPIC_H

#include "common.h"

/* Every setting of a topic, a line each: name, value, and who said so (topic, server, default). */
HF_CHECK enum hf_err topic_settings_print(rd_kafka_t *rk, const char *topic, bool json);

/* Tells the topic name=value for each of `sets`, and lets it follow the server again for each of `unsets`. */
HF_CHECK enum hf_err topic_settings_alter(rd_kafka_t *rk, const char *topic, const char *const *sets,
                                          size_t set_count, const char *const *unsets, size_t unset_count);

#endif
