#include "crc32c.h"

#include <isa-l/crc.h>

/* isa-l neither inverts the seed nor the result; it wants an int length and a writable pointer, which
 * it only reads through. */
uint32_t hf_crc32c(uint32_t seed, const void *p, size_t n) {
    const unsigned char *at = p;
    uint32_t crc = ~seed;
    while (n > 0) {
        size_t part = n < (1u << 30) ? n : (1u << 30);
        crc = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)part, crc);
        at += part;
        n -= part;
    }
    return ~crc;
}
