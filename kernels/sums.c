/* What linear attention does beside its products: dot_rows, divide_rows, finite_rows, prefix_tile, weigh_tile,
 * dot_tile. */
#include "kernels/kernel.h"

void HEED_FN(dot_rows)(float *restrict sums, const float *a, int64_t a_stride, const float *b, int64_t b_stride,
                       int n_rows, int64_t n_channels)
{
    for (int t = 0; t < n_rows; t++) {
        vf sum = vf_zero();
        int64_t c = 0;
        for (; c + VF_LANES <= n_channels; c += VF_LANES)
            sum = vf_fma(vf_load(a + t * a_stride + c), vf_load(b + t * b_stride + c), sum);
        if (c < n_channels) {
            int width = (int)(n_channels - c);
            sum = vf_fma(vf_load_n(a + t * a_stride + c, width), vf_load_n(b + t * b_stride + c, width), sum);
        }
        sums[t] += vf_sum(sum);
    }
}

void HEED_FN(divide_rows)(float *o, int64_t o_stride, const float *x, int64_t x_stride, const float *den, int n_rows,
                          int64_t n_channels)
{
    for (int t = 0; t < n_rows; t++) {
        const float *from = x + t * x_stride;
        float *row = o + t * o_stride, size = den[t] < 0.0f ? -den[t] : den[t];
        int none = size < 1.175494351e-38f;
        vf inverse = vf_set1(1.0f / (none ? 1.0f : den[t]));
        int64_t c = 0;
        for (; !none && c + VF_LANES <= n_channels; c += VF_LANES)
            vf_store(row + c, vf_mul(vf_load(from + c), inverse));
        for (; c < n_channels; c += VF_LANES) {
            int width = lanes_left(n_channels - c);
            vf_store_n(row + c, none ? vf_zero() : vf_mul(vf_load_n(from + c, width), inverse), width);
        }
    }
}

int HEED_FN(finite_rows)(const float *x, int64_t x_stride, int n_rows, int64_t n_channels)
{
    enum { CHAINS = 4 };
    vf zero = vf_zero(), found[CHAINS] = {zero, zero, zero, zero}; /* 0, or NaN */
    for (int t = 0; t < n_rows; t++) {
        const float *row = x + t * x_stride;
        int64_t c = 0;
        for (; c + CHAINS * VF_LANES <= n_channels; c += CHAINS * VF_LANES) {
            HEED_UNROLL
            for (int i = 0; i < CHAINS; i++)
                found[i] = vf_fma(vf_load(row + c + i * VF_LANES), zero, found[i]);
        }
        for (; c < n_channels; c += VF_LANES)
            found[0] = vf_fma(vf_load_n(row + c, lanes_left(n_channels - c)), zero, found[0]);
    }
    vf all = vf_add(vf_add(found[0], found[1]), vf_add(found[2], found[3]));
    return !vm_any(vf_unordered(all, all));
}

void HEED_FN(prefix_tile)(float *restrict s, float *restrict sums, const float *end, int n_keys, int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
        vf zero = vf_zero(), ends = vf_load(end + lane), sum = zero;
        for (int j = 0; j < n_keys; j++) {
            float *row = s + j * TILE_LANES + lane;
            vf seen = vf_select(vf_lt(vf_set1((float)j), ends), vf_load(row), zero);
            vf_store(row, seen);
            sum = vf_add(sum, seen);
        }
        vf_store(sums + lane, vf_add(vf_load(sums + lane), sum));
    }
}

void HEED_FN(weigh_tile)(float *restrict s, const float *factor, const float *more, const float *end, int n_keys,
                         int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
        vf zero = vf_zero(), ends = vf_load(end + lane), scale = vf_load(factor + lane), above = vf_load(more + lane);
        for (int j = 0; j < n_keys; j++) {
            float *row = s + j * TILE_LANES + lane;
            vf weight = vf_fma(vf_load(row), scale, above);
            vf_store(row, vf_select(vf_lt(vf_set1((float)j), ends), weight, zero));
        }
    }
}

void HEED_FN(dot_tile)(float *restrict sums, const float *a, const float *b, const float *end, int n_keys,
                       int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
        vf ends = vf_load(end + lane), sum = vf_zero();
        for (int j = 0; j < n_keys; j++) {
            vf more = vf_fma(vf_load(a + j * TILE_LANES + lane), vf_load(b + j * TILE_LANES + lane), sum);
            sum = vf_select(vf_lt(vf_set1((float)j), ends), more, sum);
        }
        vf_store(sums + lane, vf_add(vf_load(sums + lane), sum));
    }
}
