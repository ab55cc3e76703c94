/* 2^x and e^x of a vector, for kernels that need them in the middle of something.
 *
 * x is cut into a whole exponent and a fraction: in [0, 1) for 2^x, in ln 2 [-1/2, 1/2] for e^x. A polynomial of degree
 * 6 takes the fraction, vf_scale2 the exponent. The polynomials are minimax fits in relative error with coefficients
 * rounded to float one after the other; their own error is 0.05 ulp, the rest is the rounding of the last steps. */
#ifndef HEED_KERNELS_EXP_H
#define HEED_KERNELS_EXP_H

#include "kernels/kernel.h"

/* x <= 128 or NaN */
HEED_INLINE vf exp2_bounded(vf x)
{
    x = vf_clamp_exponent(x, -127.0f);
    vf f = vf_fraction(x);
    vf y = vf_fma(vf_set1(2.156597184e-04f), f, vf_set1(1.248228946e-03f));
    y = vf_fma(y, f, vf_set1(9.673775174e-03f));
    y = vf_fma(y, f, vf_set1(5.548618361e-02f));
    y = vf_fma(y, f, vf_set1(2.402290851e-01f));
    y = vf_fma(y, f, vf_set1(6.931470633e-01f));
    y = vf_fma(y, f, vf_set1(1.0f));
    return vf_scale2(y, x);
}

HEED_INLINE vf exp2_vector(vf x) { return exp2_bounded(vf_min(vf_set1(128.0f), x)); }

/* Vectors that go side by side where there are many: one alone is a chain of steps, and too few such chains fit into the
 * window in which a processor looks for work. With 4, on AVX-512, softplus takes 13 cycles a vector in place of 16.5. */
enum { EXP_VECTORS = 4 };

/* x[i] = e^x[i], x <= 89 or NaN, n_vectors <= EXP_VECTORS and a literal. ln 2 is subtracted in two parts, the first of 11
 * bits, so that n times it is exact. From -104 on down the result is 0 on every ISA, whatever the polynomial makes of a
 * larger fraction. */
HEED_INLINE void exp_below_each(vf *x, const int n_vectors)
{
    static const float coefficients[6] = {
        8.368666284e-03f, 4.166825861e-02f, 1.666652113e-01f, 4.999999404e-01f, 1.0f, 1.0f};
    vf n[EXP_VECTORS], f[EXP_VECTORS];
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++) {
        x[i] = vf_clamp_exponent(x[i], -104.0f);
        n[i] = vf_sub(vf_fma(x[i], vf_set1(1.442695022f), vf_set1(VF_ROUNDER)), vf_set1(VF_ROUNDER));
        n[i] = vf_clamp_exponent(n[i], -127.0f);
    }
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++) {
        f[i] = vf_fma(n[i], vf_set1(-6.928710938e-01f), x[i]);
        f[i] = vf_fma(n[i], vf_set1(-2.760868229e-04f), f[i]);
        x[i] = vf_set1(1.382123563e-03f);
    }
    HEED_UNROLL
    for (int c = 0; c < 6; c++) {
        HEED_UNROLL
        for (int i = 0; i < n_vectors; i++)
            x[i] = vf_fma(x[i], f[i], vf_set1(coefficients[c]));
    }
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++)
        x[i] = vf_scale2(x[i], n[i]);
}

HEED_INLINE vf exp_below(vf x)
{
    exp_below_each(&x, 1);
    return x;
}

HEED_INLINE vf exp_vector(vf x) { return exp_below(vf_min(vf_set1(89.0f), x)); }

/* e^x for weights, x <= 88 or NaN: 2 ulp, and what x log2 e is off by, |x| 1.25 2^-24 of the result: a rounding, and the
 * rest of the constant. */
HEED_INLINE vf exp_weight(vf x) { return exp2_bounded(vf_mul(x, vf_set1(1.442695041f))); }

#endif
