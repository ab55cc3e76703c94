/* The register tile behind every product: n_rows x n_vectors accumulators,
 *
 *     sum[i][r] = sum_t a[t][r] b[i * row_stride + t * step_stride],   t in order, from zero,
 *
 * a in tile layout (lanes r), b in place wherever the caller keeps it: each of its elements is broadcast once. n_rows
 * and n_vectors are literals at every call, or the accumulators would live in memory.
 *
 * b is K or V. Each step asks for a row of `ahead`, which are those that come next (step t for row t, also where the
 * steps are channels: a chunk of them has as many steps as a line has floats). What is in L2
 * already costs a load slot (AVX2: 1 to 2 % of the time), what is not would cost 7 % (64 channels) to 17 % (128
 * channels, 4096 keys, AVX-512). */
#ifndef HEED_KERNELS_PRODUCT_H
#define HEED_KERNELS_PRODUCT_H

#include "kernels/kernel.h"

enum { PRODUCT_MAX_ROWS = 8 };

HEED_INLINE void tile_product(vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], const float *restrict a,
                              const float *restrict b, int64_t row_stride, int64_t step_stride, int64_t n_steps,
                              const float *ahead, int64_t ahead_stride, const int n_rows, const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            sum[i][v] = vf_zero();
    }
    for (int64_t t = 0; t < n_steps; t++) {
        prefetch(ahead, t, ahead_stride);
        vf lanes[HEED_TILE_VECTORS];
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            lanes[v] = vf_keep(vf_load(a + t * TILE_LANES + v * VF_LANES));
        HEED_UNROLL
        for (int i = 0; i < n_rows; i++) {
            vf row = vf_set1(b[i * row_stride + t * step_stride]);
            HEED_UNROLL
            for (int v = 0; v < n_vectors; v++)
                sum[i][v] = vf_fma(lanes[v], row, sum[i][v]);
        }
    }
}

/* Instances of a micro-kernel for whole, half and single rows of the register tile, and for 1, 2 and 3 vectors;
 * X(suffix, n_rows, n_vectors) makes one. */
/* clang-format off */
#define HEED_PRODUCT_INSTANCES(X, whole)                                                                               \
    X(whole_1, whole, 1) X(whole_2, whole, 2) X(whole_3, whole, 3)                                                     \
    X(half_1, whole / 2, 1) X(half_2, whole / 2, 2) X(half_3, whole / 2, 3)                                            \
    X(single_1, 1, 1) X(single_2, 1, 2) X(single_3, 1, 3)

/* The table of those instances: [0] whole, [1] half, [2] single; then by n_vectors - 1. */
#define HEED_PRODUCT_TABLE(prefix)                                                                                     \
    {                                                                                                                  \
        {prefix##_whole_1, prefix##_whole_2, prefix##_whole_3},                                                        \
        {prefix##_half_1, prefix##_half_2, prefix##_half_3},                                                           \
        {prefix##_single_1, prefix##_single_2, prefix##_single_3},                                                     \
    }
/* clang-format on */

#endif
