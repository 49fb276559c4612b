/* An arena is a list of blocks, each twice the size of the one before (4 KiB to 256 KiB), so that a small
 * request costs one malloc and a large one few. What does not fit gets a block of its own size. Every byte
 * taken from malloc counts towards the limit, so the limit bounds what one request can make us hold.
 *
 *   blocks ─► [next|size|……used……p…free…end] ─► [next|size|…] ─► NULL */
#include "arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { ARENA_ALIGN = 16, ARENA_FIRST = 4096, ARENA_LARGEST = 256 * 1024 };

struct hf_arena_block {
    struct hf_arena_block *next;
    size_t size;
};

_Static_assert(sizeof(struct hf_arena_block) % ARENA_ALIGN == 0, "blocks' bytes begin aligned");

void hf_arena_init(struct hf_arena *a, size_t max) {
    *a = (struct hf_arena){.max = max};
}

void hf_arena_fini(struct hf_arena *a) {
    while (a->blocks) {
        struct hf_arena_block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
    hf_arena_init(a, a->max);
}

void hf_arena_reset(struct hf_arena *a) {
    struct hf_arena_block *first = a->blocks;
    while (first && first->next) {
        a->blocks = first->next;
        free(first);
        first = a->blocks;
    }
    if (!first || first->size > ARENA_FIRST) {
        hf_arena_fini(a);
        return;
    }
    a->taken = first->size;
    a->p = (uint8_t *)(first + 1);
    a->end = (uint8_t *)first + first->size;
}

static bool grow(struct hf_arena *a, size_t n) {
    size_t size = a->blocks ? a->blocks->size * 2 : ARENA_FIRST;
    if (size > ARENA_LARGEST) size = ARENA_LARGEST;
    if (n > SIZE_MAX - sizeof(struct hf_arena_block)) return false;
    if (size < n + sizeof(struct hf_arena_block)) size = n + sizeof(struct hf_arena_block);
    if (size > a->max - a->taken) size = a->max - a->taken;
    if (size < n + sizeof(struct hf_arena_block)) return false;
    struct hf_arena_block *block = malloc(size);
    if (!block) return false;
    *block = (struct hf_arena_block){a->blocks, size};
    a->blocks = block;
    a->taken += size;
    a->p = (uint8_t *)(block + 1);
    a->end = (uint8_t *)block + size;
    return true;
}

void *hf_arena_alloc(struct hf_arena *a, size_t n) {
    if (n > SIZE_MAX - ARENA_ALIGN) return NULL;
    n = (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (n == 0) n = ARENA_ALIGN;
    if ((size_t)(a->end - a->p) < n && !grow(a, n)) return NULL;
    void *p = a->p;
    a->p += n;
    memset(p, 0, n);
    return p;
}

void *hf_arena_array(struct hf_arena *a, size_t count, size_t size) {
    size_t n;
    if (__builtin_mul_overflow(count, size, &n)) return NULL;
    return hf_arena_alloc(a, n);
}

hf_str hf_arena_str(struct hf_arena *a, hf_str s) {
    if (!s.p) return s;
    char *p = hf_arena_alloc(a, s.n);
    if (!p) return (hf_str){NULL, 0};
    memcpy(p, s.p, s.n);
    return (hf_str){p, s.n};
}

hf_str hf_arena_printf(struct hf_arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : hf_arena_alloc(a, (size_t)n + 1);
    if (!p) return (hf_str){NULL, 0};
    va_start(ap, fmt);
    (void)vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return (hf_str){p, (size_t)n};
}
