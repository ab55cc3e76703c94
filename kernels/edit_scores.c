/* What happens to a block of scores between the product and the softmax: softcap, bias, ALiBi, hiding. */
#include "kernels/exp.h"

/* tanh x = x + x^3 P(x^2) below 0.6 (minimax, degree 11), 1 - 2 / (e^2|x| + 1) above. */
HEED_INLINE vf tanh_vector(vf x)
{
    vf z = vf_mul(x, x);
    vf p = vf_fma(vf_set1(-5.897966679e-03f), z, vf_set1(2.079862542e-02f));
    p = vf_fma(p, z, vf_set1(-5.378471687e-02f));
    p = vf_fma(p, z, vf_set1(1.333193630e-01f));
    p = vf_fma(p, z, vf_set1(-3.333329856e-01f));
    vf small = vf_fma(vf_mul(p, z), x, x);

    vf size = vf_min(vf_set1(20.0f), vf_abs(x));
    vf e = exp_vector(vf_add(size, size));
    vf large = vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(e, vf_set1(1.0f))));
    large = vf_select(vf_lt(x, vf_zero()), vf_sub(vf_zero(), large), large);
    return vf_select(vf_lt(vf_abs(x), vf_set1(0.6f)), small, large);
}

void HEED_FN(softcap_tile)(float *s, int n_keys, int n_vectors, float cap)
{
    vf limit = vf_set1(cap);
    for (int j = 0; j < n_keys; j++) {
        for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
            float *score = s + j * TILE_LANES + lane;
            vf_store(score, vf_mul(limit, tanh_vector(vf_div(vf_load(score), limit))));
        }
    }
}

/* The bias lies row by row, the scores lane by lane: it is read in squares and transposed. Lanes without a row get
 * -0.0, which leaves every score as it is. */
void HEED_FN(bias_tile)(float *restrict s, const float *const *bias, int n_rows, int n_keys)
{
    vf x[VF_LANES];
    for (int lane = 0; lane < n_rows; lane += VF_LANES) {
        for (int j = 0; j < n_keys; j += VF_LANES) {
            int width = lanes_left(n_keys - j);
            for (int r = 0; r < VF_LANES && lane + r < n_rows; r++)
                prefetch(bias[lane + r], HEED_BLOCK_KEYS + j, 1);
            HEED_UNROLL
            for (int r = 0; r < VF_LANES; r++)
                x[r] = lane + r < n_rows ? vf_load_n(bias[lane + r] + j, width) : vf_set1(-0.0f);
            vf_transpose(x);
            HEED_UNROLL
            for (int i = 0; i < VF_LANES; i++) {
                float *score = s + (j + i) * TILE_LANES + lane;
                if (i < width)
                    vf_store(score, vf_add(vf_load(score), x[i]));
            }
        }
    }
}

void HEED_FN(alibi_tile)(float *restrict s, const float *slope, const float *distance, int n_keys, int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
        vf descent = vf_sub(vf_zero(), vf_load(slope + lane)), first = vf_load(distance + lane);
        for (int j = 0; j < n_keys; j++) {
            float *score = s + j * TILE_LANES + lane;
            vf far = vf_abs(vf_add(first, vf_set1((float)j)));
            vf_store(score, vf_fma(descent, far, vf_load(score)));
        }
    }
}

void HEED_FN(range_tile)(float *restrict s, const float *begin, const float *end, int n_keys, int n_vectors)
{
    vf hidden = vf_set1(-__builtin_inff());
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES) {
        vf first = vf_load(begin + lane), last = vf_load(end + lane);
        for (int j = 0; j < n_keys; j++) {
            float *score = s + j * TILE_LANES + lane;
            vf key = vf_set1((float)j);
            vf seen = vf_select(vf_lt(key, last), vf_load(score), hidden);
            vf_store(score, vf_select(vf_lt(key, first), hidden, seen));
        }
    }
}

void HEED_FN(visible_tile)(float *restrict s, const uint8_t *const *visible, int n_rows, int n_keys)
{
    vf x[VF_LANES], hidden = vf_set1(-__builtin_inff());
    for (int lane = 0; lane < n_rows; lane += VF_LANES) {
        for (int j = 0; j < n_keys; j += VF_LANES) {
            int width = lanes_left(n_keys - j);
            HEED_UNROLL
            for (int r = 0; r < VF_LANES; r++)
                x[r] = lane + r < n_rows ? vf_load_bool_n(visible[lane + r] + j, width) : vf_set1(1.0f);
            vf_transpose(x);
            HEED_UNROLL
            for (int i = 0; i < VF_LANES; i++) {
                float *score = s + (j + i) * TILE_LANES + lane;
                if (i < width)
                    vf_store(score, vf_select(vf_eq(x[i], vf_zero()), hidden, vf_load(score)));
            }
        }
    }
}
