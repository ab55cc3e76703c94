/* softmax_tile, softmax_careful_tile, softmax_row: one step of online softmax over a block of keys, each lane by itself,
 * or each row.
 * (Milakov and Gimelshein 2018, algorithm 3; FlashAttention, algorithm 1, lines 10 to 13.) */
#include "kernels/exp.h"

/* e^(x - maximum). The difference first: it is exact near the maximum, whose own weight is exactly 1, and no score is
 * too large for it. */
HEED_INLINE vf weight_of(vf x, vf maximum) { return exp_weight(vf_sub(x, maximum)); }

/* Four running maxima: one alone would wait for itself at each key. */
HEED_INLINE vf largest_score(const float *restrict s, int n_keys, vf maximum)
{
    vf largest[4] = {maximum, maximum, maximum, maximum};
    int j = 0;
    for (; j + 4 <= n_keys; j += 4) {
        HEED_UNROLL
        for (int i = 0; i < 4; i++)
            largest[i] = vf_max(vf_load(s + (j + i) * TILE_LANES), largest[i]);
    }
    for (; j < n_keys; j++)
        largest[0] = vf_max(vf_load(s + j * TILE_LANES), largest[0]);
    return vf_max(vf_max(largest[0], largest[1]), vf_max(largest[2], largest[3]));
}

HEED_INLINE void softmax_vector(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale,
                                int n_keys, const int careful)
{
    vf low = vf_set1(-__builtin_inff());
    vf before = vf_load(m), maximum = largest_score(s, n_keys, before);
    /* No key seen yet: against any finite maximum all weights and the rescale come out as 0. */
    vf against = vf_select(vf_eq(maximum, low), vf_zero(), maximum);
    vf factor = weight_of(before, against), sum = vf_zero();
    for (int j = 0; j < n_keys; j++) {
        vf score = vf_load(s + j * TILE_LANES);
        vf weight = weight_of(score, against);
        sum = vf_add(sum, weight);
        if (careful)
            weight = vf_select(vf_eq(score, low), vf_set1(-1.0f), weight);
        vf_store(s + j * TILE_LANES, weight);
    }
    vf_store(rescale, factor);
    vf_store(l, vf_fma(vf_load(l), factor, sum));
    vf_store(m, maximum);
}

/* The loops of one vector of lanes, in functions of their own: with others beside them they would not fit the
 * registers. */
static HEED_NOINLINE void softmax_micro_plain(float *restrict s, float *restrict m, float *restrict l,
                                              float *restrict rescale, int n_keys)
{
    softmax_vector(s, m, l, rescale, n_keys, 0);
}

static HEED_NOINLINE void softmax_micro_careful(float *restrict s, float *restrict m, float *restrict l,
                                                float *restrict rescale, int n_keys)
{
    softmax_vector(s, m, l, rescale, n_keys, 1);
}

void HEED_FN(softmax_tile)(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale, int n_keys,
                           int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES)
        softmax_micro_plain(s + lane, m + lane, l + lane, rescale + lane, n_keys);
}

void HEED_FN(softmax_careful_tile)(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale,
                                   int n_keys, int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES)
        softmax_micro_careful(s + lane, m + lane, l + lane, rescale + lane, n_keys);
}

/* The same for one row whose keys lie side by side, in the lanes. */
void HEED_FN(softmax_row)(float *p, const float *s, const float *ahead, int n_keys, float *m, float *rescale)
{
    const vf low = vf_set1(-__builtin_inff());
    vf largest[4] = {vf_set1(*m), low, low, low};
    int j = 0;
    for (; j + 4 * VF_LANES <= n_keys; j += 4 * VF_LANES) {
        for (int i = 0; i < 4 * VF_LANES; i += LINE_FLOATS)
            prefetch(ahead, j + i, 1);
        HEED_UNROLL
        for (int i = 0; i < 4; i++)
            largest[i] = vf_max(vf_load(s + j + i * VF_LANES), largest[i]);
    }
    for (; j + VF_LANES <= n_keys; j += VF_LANES)
        largest[0] = vf_max(vf_load(s + j), largest[0]);
    float maximum = vf_largest(vf_max(vf_max(largest[0], largest[1]), vf_max(largest[2], largest[3])));
    for (; j < n_keys; j++)
        maximum = s[j] > maximum ? s[j] : maximum;
    vf against = vf_set1(maximum == -__builtin_inff() ? 0.0f : maximum);
    float factor[VF_LANES];
    vf_store(factor, weight_of(vf_set1(*m), against));
    *rescale = *factor;
    *m = maximum;
    for (j = 0; j < n_keys; j += VF_LANES) {
        int width = lanes_left(n_keys - j);
        vf_store_n(p + j, weight_of(vf_load_n(s + j, width), against), width);
    }
}
