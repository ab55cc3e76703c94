/* blend_rows: a weighted mean of two rows, for merging partial results. */
#include "kernels/kernel.h"

void HEED_FN(blend_rows)(float *out, const float *a, float weight_a, const float *b, float weight_b, int64_t n)
{
    vf first = vf_set1(weight_a), second = vf_set1(weight_b);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf y = vf_mul(vf_load_n(b + i, width), second);
        vf_store_n(out + i, vf_fma(vf_load_n(a + i, width), first, y), width);
    }
}
