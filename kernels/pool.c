/* pool_rows: weighted sums of neighbouring rows, which stand for a group of tokens. */
#include "kernels/kernel.h"

enum { POOL_VECTORS = 4 }; /* channels side by side: enough to hide the chain of additions where groups are long */

/* n_vectors and is_weighted are literals at every call; a vector alone has `width` lanes. */
HEED_INLINE void pool_block(float *restrict o, const float *restrict x, int64_t x_stride, const float *restrict weights,
                            float factor, int n_tokens, int adds, const int n_vectors, int width, const int is_weighted)
{
    vf sum[POOL_VECTORS], scale = vf_set1(factor);
    HEED_UNROLL
    for (int v = 0; v < n_vectors; v++)
        sum[v] = vf_zero();
    for (int t = 0; t < n_tokens; t++) {
        const float *row = x + t * x_stride;
        vf weight = vf_set1(is_weighted ? weights[t] : 1.0f);
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++) {
            vf lanes = n_vectors > 1 ? vf_load(row + v * VF_LANES) : vf_load_n(row, width);
            sum[v] = is_weighted ? vf_fma(lanes, weight, sum[v]) : vf_add(lanes, sum[v]);
        }
    }
    HEED_UNROLL
    for (int v = 0; v < n_vectors; v++) {
        float *to = o + v * VF_LANES;
        int lanes = n_vectors > 1 ? VF_LANES : width;
        vf y = adds ? vf_add(vf_load_n(to, lanes), sum[v]) : sum[v];
        vf_store_n(to, vf_mul(y, scale), lanes);
    }
}

HEED_INLINE void pool_group(float *restrict o, const float *restrict x, int64_t x_stride, const float *restrict weights,
                            float factor, int n_tokens, int64_t n_channels, int adds, const int is_weighted)
{
    const int64_t whole = POOL_VECTORS * VF_LANES;
    int64_t c = 0;
    for (; c + whole <= n_channels; c += whole)
        pool_block(o + c, x + c, x_stride, weights, factor, n_tokens, adds, POOL_VECTORS, VF_LANES, is_weighted);
    for (; c < n_channels; c += VF_LANES)
        pool_block(o + c, x + c, x_stride, weights, factor, n_tokens, adds, 1, lanes_left(n_channels - c), is_weighted);
}

void HEED_FN(pool_rows)(float *restrict o, int64_t o_stride, const float *restrict x, int64_t group_stride,
                        int64_t x_stride, const float *restrict weights, float factor, int n_tokens, int n_groups,
                        int64_t n_channels, int adds)
{
    for (int g = 0; g < n_groups; g++) {
        if (weights)
            pool_group(o + g * o_stride, x + g * group_stride, x_stride, weights, factor, n_tokens, n_channels, adds,
                       1);
        else
            pool_group(o + g * o_stride, x + g * group_stride, x_stride, weights, factor, n_tokens, n_channels, adds,
                       0);
    }
}
