/* Random numbers by counting: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A number
 * follows from the seed and from its place; there is no state. */
#ifndef HEED_CORE_RANDOM_H
#define HEED_CORE_RANDOM_H

#include <stdint.h>

/* Places are counted in 32 bits. */
#define HEED_RANDOM_PLACES ((int64_t)1 << 32)

void heed_random_block(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);

/* From N(0, 1), by the Box-Muller transform; never 0. Streams of one seed are independent of each other. head, row and
 * column lie in [0, HEED_RANDOM_PLACES). */
double heed_random_normal(uint64_t seed, uint32_t stream, int64_t head, int64_t row, int64_t column);

#endif
