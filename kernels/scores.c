/* scores_tile: S^T = K Q^T for a block of keys. The lanes are queries; keys are read in place.
 *
 * One running sum over all channels would round at the size of the whole score after every term. Chunks of channels
 * are summed from zero and added pairwise: chunk t joins the sums of 1, 2, 4 ... chunks before it that the trailing
 * ones of t stand for, as in a binary counter. Where scores reach 30 that leaves a quarter of the error or less, hardly
 * more than the rounding of the last few additions. Fewer channels want shorter chunks, as each of their products is a
 * larger part of the score. */
#include "kernels/product.h"

enum { SHORT_CHUNK = 8, LONG_CHUNK = 16, LONG_CHUNKS_ABOVE = 64, CHUNK_LEVELS = 6 };

typedef struct chunk_sums {
    float level[CHUNK_LEVELS][PRODUCT_MAX_ROWS * TILE_LANES]; /* [i]: the sum of 2^i chunks */
} chunk_sums;

HEED_INLINE void store_tile(float *restrict t, vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], const int n_rows,
                            const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            vf_store(t + i * TILE_LANES + v * VF_LANES, sum[i][v]);
    }
}

HEED_INLINE void add_tile(vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], const float *restrict t, const int n_rows,
                          const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            sum[i][v] = vf_add(sum[i][v], vf_load(t + i * TILE_LANES + v * VF_LANES));
    }
}

HEED_INLINE void scores_block(float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride,
                              int64_t n_channels, const int n_rows, const int n_vectors)
{
    vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS];
    chunk_sums sums;
    int64_t chunk_channels = n_channels > LONG_CHUNKS_ABOVE ? LONG_CHUNK : SHORT_CHUNK, chunk = 0, c = 0;
    while (chunk_channels << CHUNK_LEVELS < n_channels)
        chunk_channels *= 2;
    for (; c + chunk_channels < n_channels; c += chunk_channels, chunk++) {
        int level = 0;
        tile_product(sum, q + c * TILE_LANES, k + c, k_stride, 1, chunk_channels, n_rows, n_vectors);
        for (; chunk >> level & 1; level++)
            add_tile(sum, sums.level[level], n_rows, n_vectors);
        store_tile(sums.level[level], sum, n_rows, n_vectors);
    }
    tile_product(sum, q + c * TILE_LANES, k + c, k_stride, 1, n_channels - c, n_rows, n_vectors);
    for (int level = 0; chunk >> level; level++) {
        if (chunk >> level & 1)
            add_tile(sum, sums.level[level], n_rows, n_vectors);
    }
    store_tile(s, sum, n_rows, n_vectors);
}

#define SCORES_MICRO(suffix, n_rows, n_vectors)                                                                        \
    static HEED_NOINLINE void scores_micro_##suffix(float *restrict s, const float *restrict q,                        \
                                                    const float *restrict k, int64_t k_stride, int64_t n_channels)     \
    {                                                                                                                  \
        scores_block(s, q, k, k_stride, n_channels, n_rows, n_vectors);                                                \
    }

HEED_PRODUCT_INSTANCES(SCORES_MICRO, TILE_KEYS)

typedef void scores_micro(float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride,
                          int64_t n_channels);

static scores_micro *const scores_micros[3][HEED_TILE_VECTORS] = HEED_PRODUCT_TABLE(scores_micro);

void HEED_FN(scores_tile)(float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride,
                          int n_keys, int64_t n_channels, int n_vectors)
{
    static const int rows[3] = {TILE_KEYS, TILE_KEYS / 2, 1};
    int j = 0;
    for (int size = 0; size < 3; size++) {
        for (; j + rows[size] <= n_keys; j += rows[size])
            scores_micros[size][n_vectors - 1](s + j * TILE_LANES, q, k + j * k_stride, k_stride, n_channels);
    }
}
