/* Compiled once for each instruction set, with its flags on this object only. The build sets BENCH_ISA (avx2) and
 * BENCH_ISA_VALUE (HEED_ISA_AVX2). The scalar tier stands for what the compiler makes of portable C, so it uses the
 * vectors of the base instruction set. */
#include "bench/loops.h"

#include <math.h>
#include <string.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

/* write_past_caches: plain C has no such store. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define write_past_caches(to, x) _mm512_stream_ps(to, x)
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define write_past_caches(to, x) _mm256_stream_ps(to, x)
#elif defined(__SSE__)
#define VECTOR_BYTES 16
#define write_past_caches(to, x) _mm_stream_ps(to, x)
#else
#define VECTOR_BYTES 16
#define write_past_caches(to, x) (*(unaligned_vector *)(to) = (x))
#endif

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));
typedef float unaligned_vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

enum { LANES = VECTOR_BYTES / sizeof(float), N_ACCUMULATORS = 12, N_SUMS = 8 };

static float add_lanes(vector x)
{
    float lanes[LANES], total = 0;
    memcpy(lanes, &x, sizeof x);
    for (int i = 0; i < (int)LANES; i++)
        total += lanes[i];
    return total;
}

/* Two FMA units with a latency of 4 need 8 accumulators, a multiply and an add behind each other as well; 12 leave
 * room, and 12 with the two operands fit 16 registers. They start at different values: equal ones would be computed
 * once. */
#define FOR_EACH_ACCUMULATOR(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static float multiply_add(int64_t n_steps, float factor, float term)
{
    const vector f = (vector){0} + factor, t = (vector){0} + term;
    vector total = {0};
#define START(i) vector a##i = (vector){0} + (float)(i);
#define STEP(i) a##i = a##i * f + t;
#define FINISH(i) total += a##i;
    FOR_EACH_ACCUMULATOR(START)
    for (int64_t step = 0; step < n_steps; step++) {
        FOR_EACH_ACCUMULATOR(STEP)
    }
    FOR_EACH_ACCUMULATOR(FINISH)
    return add_lanes(total);
}

#define FOR_EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

static float read_sum(const float *x, int64_t n)
{
    vector total = {0};
#define START_SUM(i) vector s##i = {0};
#define ADD(i) s##i += *(const unaligned_vector *)(x + at + (i) * (int64_t)LANES);
#define FINISH_SUM(i) total += s##i;
    FOR_EACH_SUM(START_SUM)
    for (int64_t at = 0; at < n; at += N_SUMS * (int64_t)LANES) {
        FOR_EACH_SUM(ADD)
    }
    FOR_EACH_SUM(FINISH_SUM)
    return add_lanes(total);
}

static void add_streams(const float *a, const float *b, const float *c, float *out, int64_t n)
{
#define ADD_THREE(i)                                                                                                   \
    write_past_caches(out + at + (i) * (int64_t)LANES,                                                                 \
                      *(const unaligned_vector *)(a + at + (i) * (int64_t)LANES) +                                     \
                          *(const unaligned_vector *)(b + at + (i) * (int64_t)LANES) +                                 \
                          *(const unaligned_vector *)(c + at + (i) * (int64_t)LANES));
    for (int64_t at = 0; at < n; at += N_SUMS * (int64_t)LANES) {
        FOR_EACH_SUM(ADD_THREE)
    }
#if defined(__SSE__)
    _mm_sfence(); /* the writes are part of the time */
#endif
}

static void update(float *x, float factor, float term, int64_t n)
{
    const vector f = (vector){0} + factor, t = (vector){0} + term;
#define UPDATE(i)                                                                                                      \
    {                                                                                                                  \
        unaligned_vector *at_i = (unaligned_vector *)(x + at + (i) * (int64_t)LANES);                                  \
        *at_i = *at_i * f + t;                                                                                         \
    }
    for (int64_t at = 0; at < n; at += N_SUMS * (int64_t)LANES) {
        FOR_EACH_SUM(UPDATE)
    }
}

static void add_bias(float *restrict x, const float *restrict bias, float factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] += factor * bias[i];
}

static void hide(float *restrict x, const uint8_t *restrict visible, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = visible[i] ? x[i] : -INFINITY;
}

static void keep_positive(float *x, float term, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = (x[i] > 0 ? x[i] : 0) + term;
}

/* The lane by lane maximum; the ternary operator on vectors is not C everywhere, a loop over lanes is. */
static inline vector take_larger(vector a, vector b)
{
    float lanes_a[LANES], lanes_b[LANES];
    memcpy(lanes_a, &a, sizeof a);
    memcpy(lanes_b, &b, sizeof b);
#pragma omp simd
    for (int i = 0; i < (int)LANES; i++)
        lanes_a[i] = lanes_b[i] > lanes_a[i] ? lanes_b[i] : lanes_a[i];
    memcpy(&a, lanes_a, sizeof a);
    return a;
}

static float maximum(const float *x, int64_t n)
{
    const int64_t step = 4 * (int64_t)LANES;
    const vector lowest = (vector){0} - INFINITY;
    vector m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
    int64_t at = 0;
    for (; at + step <= n; at += step) {
        const unaligned_vector *vectors = (const unaligned_vector *)(x + at);
        m0 = take_larger(m0, vectors[0]);
        m1 = take_larger(m1, vectors[1]);
        m2 = take_larger(m2, vectors[2]);
        m3 = take_larger(m3, vectors[3]);
    }
    const vector m = take_larger(take_larger(m0, m1), take_larger(m2, m3));
    float lanes[LANES], largest = -INFINITY;
    memcpy(lanes, &m, sizeof m);
    for (int i = 0; i < (int)LANES; i++)
        largest = lanes[i] > largest ? lanes[i] : largest;
    for (; at < n; at++)
        largest = x[at] > largest ? x[at] : largest;
    return largest;
}

static void subtract(float *x, float shift, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] -= shift;
}

/* Four vectors of partial sums under any compiler flags: faster, and with fewer roundings behind each other, than a
 * running sum. */
static float sum(const float *x, int64_t n)
{
    const int64_t step = 4 * (int64_t)LANES;
    vector s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t at = 0;
    for (; at + step <= n; at += step) {
        const unaligned_vector *vectors = (const unaligned_vector *)(x + at);
        s0 += vectors[0];
        s1 += vectors[1];
        s2 += vectors[2];
        s3 += vectors[3];
    }
    float total = add_lanes((s0 + s1) + (s2 + s3));
    for (; at < n; at++)
        total += x[at];
    return total;
}

static void scale(float *x, float factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

#define JOIN(a, b) a##b
#define NAME(isa) JOIN(bench_loops_, isa)

const bench_loops NAME(BENCH_ISA) = {
    .isa = BENCH_ISA_VALUE,
    .multiply_add = multiply_add,
    .flops_per_step = (int64_t)2 * N_ACCUMULATORS * LANES,
    .read_sum = read_sum,
    .add_streams = add_streams,
    .update = update,
    .add_bias = add_bias,
    .hide = hide,
    .keep_positive = keep_positive,
    .maximum = maximum,
    .subtract = subtract,
    .sum = sum,
    .scale = scale,
};
