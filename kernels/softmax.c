/* softmax_tile, softmax_careful_tile: one step of online softmax over a block of keys, each lane by itself.
 * (Milakov and Gimelshein 2018, algorithm 3; FlashAttention, algorithm 1, lines 10 to 13.) */
#include "kernels/exp.h"

#define LOG2E 1.442695041f

/* The lanes whose maximum M is finite but M log2 e is not. */
HEED_INLINE vm overflowed(vf maximum, vf reference)
{
    vf infinity = vf_set1(__builtin_inff());
    return vm_and(vf_eq(vf_abs(reference), infinity), vf_lt(vf_abs(maximum), infinity));
}

/* The exponent of a weight: s log2 e - reference, or (s - M) log2 e in the lanes that overflowed. */
HEED_INLINE vf exponent(vf s, vf maximum, vf reference, vm overflow, const int any_overflow)
{
    vf t = vf_fma(s, vf_set1(LOG2E), vf_sub(vf_zero(), reference));
    return any_overflow ? vf_select(overflow, vf_mul(vf_sub(s, maximum), vf_set1(LOG2E)), t) : t;
}

HEED_INLINE void softmax_step(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale,
                              int n_keys, vf maximum, vf reference, vm overflow, const int any_overflow,
                              const int careful)
{
    vf infinity = vf_set1(__builtin_inff());
    vf before = vf_load(m);
    vf factor = vf_sub(vf_mul(before, vf_set1(LOG2E)), reference);
    if (any_overflow)
        factor = vf_select(overflow, vf_mul(vf_sub(before, maximum), vf_set1(LOG2E)), factor);
    factor = exp2_vector(factor);
    vf sum = vf_zero();
    for (int j = 0; j < n_keys; j++) {
        vf score = vf_load(s + j * TILE_LANES);
        vf weight = exp2_vector(exponent(score, maximum, reference, overflow, any_overflow));
        sum = vf_add(sum, weight);
        if (careful)
            weight = vf_select(vf_eq(score, vf_sub(vf_zero(), infinity)), vf_set1(-1.0f), weight);
        vf_store(s + j * TILE_LANES, weight);
    }
    vf_store(rescale, factor);
    vf_store(l, vf_fma(vf_load(l), factor, sum));
    vf_store(m, maximum);
}

HEED_INLINE void softmax_vector(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale,
                                int n_keys, const int careful)
{
    vf low = vf_set1(-__builtin_inff());
    vf maximum = vf_load(m), other = low;
    int j = 0;
    for (; j + 2 <= n_keys; j += 2) {
        maximum = vf_max(vf_load(s + j * TILE_LANES), maximum);
        other = vf_max(vf_load(s + (j + 1) * TILE_LANES), other);
    }
    if (j < n_keys)
        maximum = vf_max(vf_load(s + j * TILE_LANES), maximum);
    maximum = vf_max(other, maximum);

    /* No key seen yet: against any finite reference all weights and the rescale come out as 0. */
    vf reference = vf_select(vf_eq(maximum, low), vf_zero(), vf_mul(maximum, vf_set1(LOG2E)));
    vm overflow = overflowed(maximum, reference);
    if (vm_any(overflow))
        softmax_step(s, m, l, rescale, n_keys, maximum, reference, overflow, 1, careful);
    else
        softmax_step(s, m, l, rescale, n_keys, maximum, reference, overflow, 0, careful);
}

void HEED_FN(softmax_tile)(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale, int n_keys,
                           int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES)
        softmax_vector(s + lane, m + lane, l + lane, rescale + lane, n_keys, 0);
}

void HEED_FN(softmax_careful_tile)(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale,
                                   int n_keys, int n_vectors)
{
    for (int lane = 0; lane < n_vectors * VF_LANES; lane += VF_LANES)
        softmax_vector(s + lane, m + lane, l + lane, rescale + lane, n_keys, 1);
}
