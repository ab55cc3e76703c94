/* Seeded random numbers, the same on every machine: Philox 4x32 of Random123.
 *
 * A stream is named by the seed of the run and a number of its own, so that one case of a table can be repeated
 * without the cases before it. The seed is fixed unless the environment variable HEED_TEST_SEED gives another one. */
#ifndef HEED_TEST_RANDOM_H
#define HEED_TEST_RANDOM_H

#include <stdint.h>

typedef struct random_stream {
    uint64_t seed;
    uint64_t stream;
    uint64_t counter;
    uint32_t words[4]; /* the last block; n_left of them are unused */
    int n_left;
} random_stream;

/* The seed of this run: print it where a test fails. */
uint64_t random_seed(void);

random_stream random_start(uint64_t stream);

/* With a seed of one's own instead of that of the run. */
random_stream random_start_seeded(uint64_t seed, uint64_t stream);

uint32_t random_bits(random_stream *random);

/* Uniform on [low, high]. */
float random_uniform(random_stream *random, float low, float high);

/* Normal with mean 0 and standard deviation 1. */
float random_normal(random_stream *random);

/* Uniform on 0 .. n - 1, n >= 1. */
int64_t random_below(random_stream *random, int64_t n);

#endif
