#include "support/random.h"

#include <Random123/philox.h>
#include <math.h>
#include <stdlib.h>

uint64_t random_seed(void)
{
    const char *text = getenv("HEED_TEST_SEED");
    return text && *text ? strtoull(text, NULL, 0) : 20170612;
}

random_stream random_start(uint64_t stream) { return random_start_seeded(random_seed(), stream); }

random_stream random_start_seeded(uint64_t seed, uint64_t stream)
{
    random_stream random = {seed, stream, 0, {0, 0, 0, 0}, 0};
    return random;
}

uint32_t random_bits(random_stream *random)
{
    if (random->n_left == 0) {
        const philox4x32_ctr_t counter = {{(uint32_t)random->counter, (uint32_t)(random->counter >> 32),
                                           (uint32_t)random->stream, (uint32_t)(random->stream >> 32)}};
        const philox4x32_key_t key = {{(uint32_t)random->seed, (uint32_t)(random->seed >> 32)}};
        const philox4x32_ctr_t block = philox4x32(counter, key);
        for (int word = 0; word < 4; word++)
            random->words[word] = block.v[word];
        random->counter++;
        random->n_left = 4;
    }
    return random->words[--random->n_left];
}

/* Uniform on (0, 1), the middle of one of 2^32 equal cells. */
static double draw_unit(random_stream *random) { return ((double)random_bits(random) + 0.5) * 0x1p-32; }

float random_uniform(random_stream *random, float low, float high)
{
    return (float)((double)low + ((double)high - (double)low) * draw_unit(random));
}

float random_normal(random_stream *random)
{
    /* Box and Muller; the second number of the pair is not kept, so that a stream has no hidden half step. */
    const double radius = sqrt(-2.0 * log(draw_unit(random)));
    return (float)(radius * cos(6.283185307179586 * draw_unit(random)));
}

int64_t random_below(random_stream *random, int64_t n)
{
    const uint64_t high = random_bits(random);
    return (int64_t)((high << 32 | random_bits(random)) % (uint64_t)n);
}
