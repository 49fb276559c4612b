/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), as Kafka's record batches use it. Any thread; pure. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of p[0..n), continuing from seed: crc32c(crc32c(0, a), b) == crc32c(0, a b). */
uint32_t hf_crc32c(uint32_t seed, const void *p, size_t n);

#endif
