/* Everything the server does, one line a family. */
#include "server_internal.h"

const struct server_part *const server_parts[] = {
    &server_metadata, &server_produce, &server_fetch,    &server_offsets,   &server_topics,
    &server_configs,  &server_records, &server_log_dirs, &server_producers, &server_groups,
    &server_delay,    &server_txn,     &server_health,
};
const size_t server_part_count = sizeof(server_parts) / sizeof(server_parts[0]);
