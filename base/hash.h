/* SipHash-2-4 (Aumasson and Bernstein, 2012): a 64-bit keyed hash of short inputs whose collisions cannot be
 * made without the key. Any thread; pure. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include "bytes.h"

struct hf_siphash_key {
    uint64_t k0, k1;
};

uint64_t hf_siphash(struct hf_siphash_key key, const void *p, size_t n);

#endif
