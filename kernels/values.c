/* values_tile, values_careful_tile: O^T = O^T rescale + V^T P^T for a block of keys. The lanes are queries; values are
 * read in place. Each block is summed from zero before it joins O: one running sum over all keys would lose small
 * terms behind a large early one. */
#include "kernels/product.h"

HEED_INLINE void values_block(float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,
                              const float *restrict rescale, int n_keys, const float *ahead, int64_t ahead_stride,
                              const int n_rows, const int n_vectors)
{
    vf sum[PRODUCT_MAX_ROWS][HEED_TILE_VECTORS];
    tile_product(sum, p, v, 1, v_stride, n_keys, ahead, ahead_stride, n_rows, n_vectors);
    HEED_UNROLL
    for (int lane = 0; lane < n_vectors; lane++) {
        vf factor = vf_load(rescale + lane * VF_LANES);
        HEED_UNROLL
        for (int i = 0; i < n_rows; i++) {
            float *row = o + i * TILE_LANES + lane * VF_LANES;
            vf_store(row, vf_fma(vf_load(row), factor, sum[i][lane]));
        }
    }
}

#define VALUES_MICRO(suffix, n_rows, n_vectors)                                                                        \
    static HEED_NOINLINE void values_micro_##suffix(                                                                   \
        float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,                         \
        const float *restrict rescale, int n_keys, const float *ahead, int64_t ahead_stride)                           \
    {                                                                                                                  \
        values_block(o, p, v, v_stride, rescale, n_keys, ahead, ahead_stride, n_rows, n_vectors);                      \
    }

HEED_PRODUCT_INSTANCES(VALUES_MICRO, TILE_CHANNELS)

typedef void values_micro(float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,
                          const float *restrict rescale, int n_keys, const float *ahead, int64_t ahead_stride);

static values_micro *const values_micros[3][HEED_TILE_VECTORS] = HEED_PRODUCT_TABLE(values_micro);

void HEED_FN(values_tile)(float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,
                          const float *restrict rescale, int n_keys, int64_t n_channels, int n_vectors,
                          const float *ahead, int64_t ahead_stride)
{
    static const int rows[3] = {TILE_CHANNELS, TILE_CHANNELS / 2, 1};
    const float *next = ahead ? ahead : row_address(v, KEYS_AHEAD, v_stride);
    int64_t next_stride = ahead ? ahead_stride : v_stride;
    int64_t c = 0;
    for (int size = 0; size < 3; size++) {
        for (; c + rows[size] <= n_channels; c += rows[size])
            values_micros[size][n_vectors - 1](o + c * TILE_LANES, p, v + c, v_stride, rescale, n_keys,
                                               row_address(next, c, 1), next_stride);
    }
}

/* Only taken where a plain product gave NaN: a zero weight of a hidden key may have met NaN or Inf in its value. */
void HEED_FN(values_careful_tile)(float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,
                                  const float *restrict rescale, int n_keys, int64_t n_channels, int n_vectors,
                                  const float *ahead, int64_t ahead_stride)
{
    (void)ahead, (void)ahead_stride;
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
        vf factor = vf_load(rescale + lane);
        for (int64_t c = 0; c < n_channels; c++) {
            vf sum = vf_zero();
            for (int j = 0; j < n_keys; j++) {
                vf weight = vf_load(p + j * TILE_LANES + lane);
                vf term = vf_fma(weight, vf_set1(v[j * v_stride + c]), sum);
                sum = vf_select(vf_lt(weight, vf_zero()), sum, term);
            }
            float *row = o + c * TILE_LANES + lane;
            vf_store(row, vf_fma(vf_load(row), factor, sum));
        }
    }
}
