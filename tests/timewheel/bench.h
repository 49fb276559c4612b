/* A schedule on the engine in memory, for tests of single behaviours: time passes when told, records are put
 * and read as text. */
#ifndef TESTS_TIMEWHEEL_BENCH_H
#define TESTS_TIMEWHEEL_BENCH_H

#include "base/names.h"
#include "store/engine/memory.h"
#include "timewheel/schedule/schedule.h"

#define START INT64_C(1767225600000) /* 2026-01-01T00:00:00Z */

struct bench {
    struct memory_engine *m;
    struct schedule *s;
    struct schedule_options options;
    int64_t wall, mono;
    unsigned events[SCHEDULE_DAMAGED + 1];
};

/* With the topics holdfast.delay and holdfast.rejected; options may be changed before start. */
void open_bench(struct bench *b, const struct memory_options *engine);
void start(struct bench *b);
void close_bench(struct bench *b);
void crash(struct bench *b); /* and starts again */

/* Until nothing more happens at this time. */
void run(struct bench *b);
void pass(struct bench *b, int64_t ms);

/* "name=value" headers, NULL ends; a record of holdfast.delay with key and value. Returns its offset. */
int64_t put(struct bench *b, const char *key, const char *value, ...);

/* When the i-th of many is due: all over a day, an hour from the start on. */
void due_of(int i, char out[32]);
/* n such messages for topic t. */
void put_many(struct bench *b, int n, const char *value);

enum { ROWS = 64, TEXT = 200 };

struct row {
    int32_t partition;
    int64_t at_ms;
    char key[TEXT], value[TEXT], headers[1000]; /* "name=value;" … */
};

struct reading {
    struct row rows[ROWS];
    size_t n;
    int32_t partition;
};

/* What is in a topic; valid until the next call. */
struct reading *topic(struct bench *b, const char *name, int32_t partitions);
void assert_has(const struct row *row, const char *header);

enum schedule_outcome outcome(struct bench *b, int64_t offset);
uint64_t pending(const struct bench *b);

#endif
