/* scores_tile: S^T = K Q^T for a block of keys. The lanes are queries; keys are read in place. */
#include "kernels/product.h"

#define SCORES_MICRO(suffix, n_rows, n_vectors)                                                                        \
    static HEED_NOINLINE void scores_micro_##suffix(float *restrict s, const float *restrict q,                        \
                                                    const float *restrict k, int64_t k_stride, int64_t n_channels)     \
    {                                                                                                                  \
        vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS];                                                                   \
        tile_product(sum, q, k, k_stride, 1, n_channels, n_rows, n_vectors);                                           \
        store_scores(s, sum, n_rows, n_vectors);                                                                       \
    }

HEED_INLINE void store_scores(float *restrict s, vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS], const int n_rows,
                              const int n_vectors)
{
    HEED_UNROLL
    for (int i = 0; i < n_rows; i++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            vf_store(s + i * TILE_LANES + v * VF_LANES, sum[i][v]);
    }
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
