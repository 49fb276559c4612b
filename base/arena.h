/* Memory that ends all at once: what one request decodes to, and what its answer is built from.
 *
 *     struct hf_arena a;
 *     hf_arena_init(&a, 1 << 20);               // never more than 1 MiB
 *     struct thing *t = hf_arena_alloc(&a, sizeof(*t));
 *     if (!t) …                                 // the limit, or no memory
 *     hf_arena_fini(&a);
 *
 * One object, one thread at a time. Nothing is freed singly. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "bytes.h"

struct hf_arena_block;

struct hf_arena {
    struct hf_arena_block *blocks; /* newest first */
    uint8_t *p, *end;              /* what is free in the newest */
    size_t taken;                  /* bytes of all blocks */
    size_t max;
};

/* Takes no memory yet. */
void hf_arena_init(struct hf_arena *a, size_t max);
void hf_arena_fini(struct hf_arena *a);

/* All that was given out ends; a first block of the usual size (4 KiB) is kept for what comes next. */
void hf_arena_reset(struct hf_arena *a);

/* Zeroed, aligned for any type; NULL past the limit or without memory. n == 0 gives a pointer too. */
void *hf_arena_alloc(struct hf_arena *a, size_t n);

/* The same for count elements of size bytes; NULL also if the product overflows. */
void *hf_arena_array(struct hf_arena *a, size_t count, size_t size);

/* A copy; {NULL, 0} without memory. A null string stays null. */
hf_str hf_arena_str(struct hf_arena *a, hf_str s);

/* printf into the arena; {NULL, 0} without memory. The text is followed by a zero byte. */
hf_str hf_arena_printf(struct hf_arena *a, const char *fmt, ...) HF_PRINTF(2, 3);

#endif
