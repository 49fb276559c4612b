/* What is settled above a committed offset, and how often what is not has failed: as text for the commit's
 * metadata, so that a new owner of the partition goes on where the old one was.
 *
 *     struct marks_writer w;
 *     marks_begin(&w, position);
 *     for each unsettled offset, ascending: marks_add(&w, offset, attempts, first_failed_s);
 *     bool whole = marks_end(&w, next, text);            // next: everything from here on is unknown
 *
 *     struct marks m;
 *     if (marks_parse(&m, position, text)) …             // HF_EINVAL: not ours
 *     marks_settled(&m, offset); marks_tried(&m, offset, …);
 *     marks_fini(&m);
 *
 * Pure. */
#ifndef BASE_MARKS_H
#define BASE_MARKS_H

#include "bytes.h"

/* Kafka's offset.metadata.max.bytes. */
enum { MARKS_TEXT_MAX = 4096, MARKS_TEXT_SIZE = MARKS_TEXT_MAX + 1, MARKS_BYTES_MAX = 3060 };

struct marks_writer {
    uint8_t bytes[MARKS_BYTES_MAX];
    size_t n;
    int64_t at;  /* everything below is told */
    int64_t run; /* consecutive untried unsettled offsets before `at`, not written yet */
    int64_t gap; /* settled ones before that run */
    bool full;
};

void marks_begin(struct marks_writer *w, int64_t position);

/* attempts 0: not tried. first_failed_s: seconds since the epoch; 0 if attempts is 0. */
void marks_add(struct marks_writer *w, int64_t offset, int32_t attempts, int64_t first_failed_s);

/* n untried offsets in a row. */
void marks_add_run(struct marks_writer *w, int64_t from, int64_t n);

/* text gets a zero-terminated string, "" if there is nothing to tell. false: what lies highest did not fit
 * and is left out; a new owner will run it again. */
bool marks_end(struct marks_writer *w, int64_t next, char text[MARKS_TEXT_SIZE]);

/* A run of unsettled offsets [from, from + n); tried ones stand alone. */
struct mark {
    int64_t from, n;
    int32_t attempts;
    int64_t first_failed_s;
};

struct marks {
    struct mark *mark; /* ascending */
    size_t count;
    int64_t next; /* at and above: unknown; below and in no mark: settled. INT64_MIN: nothing is known */
};

/* HF_EINVAL leaves *m empty (which marks_fini may meet), HF_ENOMEM. */
HF_CHECK enum hf_err marks_parse(struct marks *m, int64_t position, const char *text, size_t n);
void marks_fini(struct marks *m);

bool marks_settled(const struct marks *m, int64_t offset);
/* NULL: not tried or not known. */
const struct mark *marks_tried(const struct marks *m, int64_t offset);

#endif
