#include "core/random.h"

#include <Random123/philox.h>
#include <math.h>

void heed_random_block(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4])
{
    philox4x32_ctr_t place = {{counter[0], counter[1], counter[2], counter[3]}};
    philox4x32_key_t seed = {{key[0], key[1]}};
    philox4x32_ctr_t block = philox4x32(place, seed);
    for (int i = 0; i < 4; i++)
        words[i] = block.v[i];
}

/* On (0, 1), both ends left out: 52 bits and a half of the last one are exact in float64. */
static double uniform(uint32_t high, uint32_t low)
{
    uint64_t bits = ((uint64_t)high << 32 | low) >> 12;
    return ((double)bits + 0.5) * 0x1p-52;
}

/* The sine would be a second number, which is left: each place has a block of its own. */
double heed_random_normal(uint64_t seed, uint32_t stream, int64_t head, int64_t row, int64_t column)
{
    const double two_pi = 0x1.921fb54442d18p+2;
    uint32_t counter[4] = {(uint32_t)column, (uint32_t)row, (uint32_t)head, stream};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, words[4];
    heed_random_block(counter, key, words);
    return sqrt(-2.0 * log(uniform(words[0], words[1]))) * cos(two_pi * uniform(words[2], words[3]));
}
