/* What the layers of feature maps do element by element, behind their products: elu1_array, relu_array, softplus_array,
 * favor_rows (the gates are gate_array of aft.c). */
#include "kernels/activations.h"

HEED_INLINE vf elu1(vf x)
{
    return vf_select(vf_lt(vf_zero(), x), vf_add(x, vf_set1(1.0f)), exp_below(vf_min(vf_zero(), x)));
}

void HEED_FN(elu1_array)(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf_store_n(y + i, elu1(vf_load_n(x + i, width)), width);
    }
}

void HEED_FN(relu_array)(float *y, const float *x, float factor, float eps, int64_t n)
{
    vf zero = vf_zero(), scale = vf_set1(factor), above = vf_set1(eps);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf_store_n(y + i, vf_add(vf_max(zero, vf_mul(vf_load_n(x + i, width), scale)), above), width);
    }
}

void HEED_FN(softplus_array)(float *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + EXP_VECTORS * VF_LANES <= n; i += EXP_VECTORS * VF_LANES) {
        vf part[EXP_VECTORS];
        load_each(part, x + i);
        softplus_each(part, EXP_VECTORS);
        HEED_UNROLL
        for (int v = 0; v < EXP_VECTORS; v++)
            vf_store(y + i + v * VF_LANES, part[v]);
    }
    for (; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf part = vf_load_n(x + i, width);
        softplus_each(&part, 1);
        vf_store_n(y + i, part, width);
    }
}

/* Row t of n_channels features in panels: the vectors from channel c on. */
HEED_INLINE float *feature_row(float *y, int64_t panel_stride, int64_t t, int64_t c, int64_t n_channels)
{
    int64_t begin = c / FEATURE_PANEL * FEATURE_PANEL, left = n_channels - begin;
    return y + c / FEATURE_PANEL * panel_stride + t * (left < FEATURE_PANEL ? left : FEATURE_PANEL) + (c - begin);
}

/* NaN is passed over. */
HEED_INLINE float largest_in_row(float *y, int64_t panel_stride, int64_t t, int64_t n_channels)
{
    vf largest = vf_set1(-__builtin_inff());
    int64_t c = 0;
    for (; c + VF_LANES <= n_channels; c += VF_LANES)
        largest = vf_max(vf_load(feature_row(y, panel_stride, t, c, n_channels)), largest);
    float result = vf_largest(largest);
    for (; c < n_channels; c++) {
        float x = *feature_row(y, panel_stride, t, c, n_channels);
        result = x > result ? x : result;
    }
    return result;
}

void HEED_FN(favor_rows)(float *y, int64_t panel_stride, const float *shift, float factor, float eps, float scale,
                         int n_rows, int64_t n_channels)
{
    vf vfactor = vf_set1(factor), veps = vf_set1(eps), vscale = vf_set1(scale);
    for (int t = 0; t < n_rows; t++) {
        float lower = shift ? shift[t] : factor * largest_in_row(y, panel_stride, t, n_channels);
        /* |x|^2 beyond the range of floats: the exponents are not, and far below */
        vf vlower = vf_set1(lower == __builtin_inff() ? 3.402823466e+38f : lower);
        for (int64_t c = 0; c < n_channels; c += VF_LANES) {
            float *part = feature_row(y, panel_stride, t, c, n_channels);
            int width = lanes_left(n_channels - c);
            vf exponent = vf_sub(vf_mul(vf_load_n(part, width), vfactor), vlower);
            vf_store_n(part, vf_mul(vf_add(exp_vector(exponent), veps), vscale), width);
        }
    }
}

/* ---- gradients: dx = dy times the slope at x ---- */

void HEED_FN(elu1_slope_array)(float *dx, const float *x, const float *dy, int64_t n)
{
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf at = vf_load_n(x + i, width);
        vf slope = vf_select(vf_lt(vf_zero(), at), vf_set1(1.0f), exp_below(vf_min(vf_zero(), at)));
        vf_store_n(dx + i, vf_mul(vf_load_n(dy + i, width), slope), width);
    }
}

void HEED_FN(relu_slope_array)(float *dx, const float *x, const float *dy, float factor, int64_t n)
{
    vf zero = vf_zero(), scale = vf_set1(factor);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf above = vf_mul(vf_load_n(dy + i, width), scale);
        vf_store_n(dx + i, vf_select(vf_lt(zero, vf_load_n(x + i, width)), above, zero), width);
    }
}

void HEED_FN(gate_slope_array)(float *ds, const float *s, const float *f, const float *dy, int64_t n)
{
    vf one = vf_set1(1.0f);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        /* sigmoid(s) sigmoid(-s), as 1 - sigmoid(s) would cancel */
        vf e = exp_below(vf_minus_abs(vf_load_n(s + i, width)));
        vf inverse = vf_reciprocal(vf_add(one, e));
        vf slope = vf_mul(vf_mul(e, inverse), inverse);
        vf_store_n(ds + i, vf_mul(vf_mul(vf_load_n(dy + i, width), vf_load_n(f + i, width)), slope), width);
    }
}

void HEED_FN(favor_slope_array)(float *du, const float *y, const float *dy, float factor, int64_t n)
{
    vf scale = vf_set1(factor);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        vf slope = vf_mul(vf_load_n(y + i, width), scale);
        vf_store_n(du + i, vf_mul(vf_load_n(dy + i, width), slope), width);
    }
}
