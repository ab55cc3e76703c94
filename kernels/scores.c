/* scores_tile: S^T = K Q^T for a block of keys. The lanes are queries; keys are read in place.
 *
 * One running sum over all channels would round at the size of the whole score after every term. Chunks of channels
 * are summed from zero instead and added pairwise: two chunks make a pair, two pairs a four, two fours an eight, and
 * the eights are added one after the other. Where scores reach 30 that leaves a quarter of the error or less, hardly
 * more than the rounding of the last few additions. Fewer channels want shorter chunks, as each of their products is a
 * larger part of the score. */
#include "kernels/product.h"

HEED_INLINE int64_t chunk_channels(int64_t n_channels)
{
    if (n_channels <= 32)
        return 8;
    return n_channels <= 1024 ? 16 : n_channels / 64;
}

HEED_INLINE void copy_sum(vf to[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS],
                          const int n_rows, const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            to[i][v] = sum[i][v];
    }
}

HEED_INLINE void add_sum(vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], vf other[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS],
                         const int n_rows, const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            sum[i][v] = vf_add(sum[i][v], other[i][v]);
    }
}

HEED_INLINE void store_sum(float *restrict s, vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], const int n_rows,
                           const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            vf_store(s + i * TILE_LANES + v * VF_LANES, sum[i][v]);
    }
}

/* The bits of `chunk` say which of the sums below are set, which GCC does not see. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/* The sums that wait for their other half are variables of their own under plain conditions: in one array in memory,
 * indexed by a loop over the levels, they cost up to 15 % of the kernel. */
HEED_INLINE void scores_block(float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride,
                              int64_t n_channels, const float *ahead, int64_t ahead_stride, const int n_rows,
                              const int n_vectors)
{
    vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS];
    vf one[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], pair[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS];
    vf four[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], eights[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS];
    int64_t step = chunk_channels(n_channels), c = 0;
    int chunk = 0;
    for (;; chunk++) {
        int64_t n = n_channels - c < step ? n_channels - c : step;
        tile_product(sum, q + c * TILE_LANES, k + c, k_stride, 1, n, row_address(ahead, c, 1), ahead_stride, n_rows,
                     n_vectors);
        c += n;
        if (c == n_channels)
            break;
        if (!(chunk & 1)) {
            copy_sum(one, sum, n_rows, n_vectors);
            continue;
        }
        add_sum(sum, one, n_rows, n_vectors);
        if (!(chunk & 2)) {
            copy_sum(pair, sum, n_rows, n_vectors);
            continue;
        }
        add_sum(sum, pair, n_rows, n_vectors);
        if (!(chunk & 4)) {
            copy_sum(four, sum, n_rows, n_vectors);
            continue;
        }
        add_sum(sum, four, n_rows, n_vectors);
        if (chunk > 7)
            add_sum(sum, eights, n_rows, n_vectors);
        copy_sum(eights, sum, n_rows, n_vectors);
    }
    if (chunk & 1)
        add_sum(sum, one, n_rows, n_vectors);
    if (chunk & 2)
        add_sum(sum, pair, n_rows, n_vectors);
    if (chunk & 4)
        add_sum(sum, four, n_rows, n_vectors);
    if (chunk >= 8)
        add_sum(sum, eights, n_rows, n_vectors);
    store_sum(s, sum, n_rows, n_vectors);
}

#define SCORES_MICRO(suffix, n_rows, n_vectors)                                                                        \
    static HEED_NOINLINE void scores_micro_##suffix(float *restrict s, const float *restrict q,                        \
                                                    const float *restrict k, int64_t k_stride, int64_t n_channels,     \
                                                    const float *ahead, int64_t ahead_stride)                          \
    {                                                                                                                  \
        scores_block(s, q, k, k_stride, n_channels, ahead, ahead_stride, n_rows, n_vectors);                           \
    }

HEED_PRODUCT_INSTANCES(SCORES_MICRO, TILE_KEYS)

typedef void scores_micro(float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride,
                          int64_t n_channels, const float *ahead, int64_t ahead_stride);

static scores_micro *const scores_micros[3][HEED_TILE_VECTORS] = HEED_PRODUCT_TABLE(scores_micro);

void HEED_FN(scores_tile)(float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride,
                          int n_keys, int64_t n_channels, int n_vectors, const float *ahead, int64_t ahead_stride)
{
    static const int rows[3] = {TILE_KEYS, TILE_KEYS / 2, 1};
    const float *next = ahead ? ahead : row_address(k, KEYS_AHEAD, k_stride);
    int64_t next_stride = ahead ? ahead_stride : k_stride;
    int j = 0;
    for (int size = 0; size < 3; size++) {
        for (; j + rows[size] <= n_keys; j += rows[size])
            scores_micros[size][n_vectors - 1](s + j * TILE_LANES, q, k + j * k_stride, k_stride, n_channels,
                                               row_address(next, j, next_stride), next_stride);
    }
}
