#include "hash.h"

struct lanes {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static inline void rounds(struct lanes *l, int n) {
    while (n-- > 0) {
        l->v0 += l->v1;
        l->v1 = rotate(l->v1, 13) ^ l->v0;
        l->v0 = rotate(l->v0, 32);
        l->v2 += l->v3;
        l->v3 = rotate(l->v3, 16) ^ l->v2;
        l->v0 += l->v3;
        l->v3 = rotate(l->v3, 21) ^ l->v0;
        l->v2 += l->v1;
        l->v1 = rotate(l->v1, 17) ^ l->v2;
        l->v2 = rotate(l->v2, 32);
    }
}

static inline void absorb(struct lanes *l, uint64_t word) {
    l->v3 ^= word;
    rounds(l, 2);
    l->v0 ^= word;
}

static uint64_t little_endian(const uint8_t *p, size_t n) {
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++) word |= (uint64_t)p[i] << (8 * i);
    return word;
}

uint64_t hf_siphash(struct hf_siphash_key key, const void *p, size_t n) {
    struct lanes l = {key.k0 ^ 0x736f6d6570736575u, key.k1 ^ 0x646f72616e646f6du,
                      key.k0 ^ 0x6c7967656e657261u, key.k1 ^ 0x7465646279746573u};
    const uint8_t *at = p;
    size_t left = n;
    for (; left >= 8; left -= 8, at += 8) absorb(&l, little_endian(at, 8));
    absorb(&l, little_endian(at, left) | (uint64_t)(n & 0xff) << 56);
    l.v2 ^= 0xff;
    rounds(&l, 4);
    return l.v0 ^ l.v1 ^ l.v2 ^ l.v3;
}
