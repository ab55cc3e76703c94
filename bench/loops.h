/* Plain loops, written once over the compiler's vector types and compiled once for each instruction set: the loops
 * that set the machine's ceilings, and the row operations of the GEMM baseline. */
#ifndef HEED_BENCH_LOOPS_H
#define HEED_BENCH_LOOPS_H

#include "heed.h"

typedef struct bench_loops {
    heed_isa isa;

    /* n_steps times a = a * factor + term on independent accumulators that stay in registers; returns their sum.
     * Each step is flops_per_step operations. */
    float (*multiply_add)(int64_t n_steps, float factor, float term);
    int64_t flops_per_step;

    /* The sum of x[0 .. n), read once in ascending order; n is a multiple of 256. */
    float (*read_sum)(const float *x, int64_t n);

    /* out[i] = a[i] + b[i] + c[i] in ascending order, written past the caches where the processor can: else it would
     * read `out` before it writes it. n is a multiple of 256, out is aligned to 64 bytes. */
    void (*add_streams)(const float *a, const float *b, const float *c, float *out, int64_t n);

    /* x[i] = x[i] factor + term in ascending order, in place; n is a multiple of 256. */
    void (*update)(float *x, float factor, float term, int64_t n);

    /* x[i] += factor bias[i] */
    void (*add_bias)(float *x, const float *bias, float factor, int64_t n);

    /* x[i] = -inf where visible[i] is 0 */
    void (*hide)(float *x, const uint8_t *visible, int64_t n);

    /* x[i] = max(x[i], 0) + term */
    void (*keep_positive)(float *x, float term, int64_t n);

    /* The largest of x[0 .. n), -inf if n = 0. */
    float (*maximum)(const float *x, int64_t n);

    /* x[i] -= shift */
    void (*subtract)(float *x, float shift, int64_t n);

    /* The sum of x[0 .. n). */
    float (*sum)(const float *x, int64_t n);

    /* x[i] *= factor */
    void (*scale)(float *x, float factor, int64_t n);
} bench_loops;

/* The loops of an instruction set that this build holds and this machine runs; else NULL. */
const bench_loops *bench_loops_of(heed_isa isa);

extern const bench_loops bench_loops_scalar;
#ifdef HEED_HAVE_AVX2
extern const bench_loops bench_loops_avx2;
#endif
#ifdef HEED_HAVE_AVX512
extern const bench_loops bench_loops_avx512;
#endif
#ifdef HEED_HAVE_NEON
extern const bench_loops bench_loops_neon;
#endif

#endif
