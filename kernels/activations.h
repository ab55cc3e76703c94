/* sigmoid and softplus of vectors, stable for any argument. */
#ifndef HEED_KERNELS_ACTIVATIONS_H
#define HEED_KERNELS_ACTIVATIONS_H

#include "kernels/exp.h"

/* x[i] = 1 / (1 + e^-x[i]). Far down it is e^x, whose inverse may overflow: what would come out below 2^-126 is 0. */
HEED_INLINE void sigmoid_each(vf *x, const int n_vectors)
{
    vf e[EXP_VECTORS];
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++)
        e[i] = vf_min(vf_set1(89.0f), vf_sub(vf_zero(), x[i]));
    exp_below_each(e, n_vectors);
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++) {
        e[i] = vf_reciprocal(vf_add(vf_set1(1.0f), e[i]));
        x[i] = vf_select(vf_lt(x[i], vf_set1(-87.33654f)), vf_zero(), e[i]);
    }
}

HEED_INLINE vf sigmoid(vf x)
{
    sigmoid_each(&x, 1);
    return x;
}

/* x[i] = max(x[i], 0) + log(1 + u), u = e^-|x[i]| in [0, 1]: no large numbers, and for small u no 1 beside it.
 * log(1 + u) = u Q(u) with a minimax Q of degree 8, off by 0.3 ulp; u has 2, the rest rounds: 3 ulp. */
HEED_INLINE void softplus_each(vf *x, const int n_vectors)
{
    static const float coefficients[8] = {-2.950523235e-02f, 7.822594047e-02f, -1.366324425e-01f, 1.910600662e-01f,
                                          -2.484298199e-01f, 3.331909776e-01f, -4.999949336e-01f, 9.999999404e-01f};
    vf u[EXP_VECTORS], q[EXP_VECTORS];
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++) {
        u[i] = vf_minus_abs(x[i]);
        q[i] = vf_set1(5.232692696e-03f);
    }
    exp_below_each(u, n_vectors);
    HEED_UNROLL
    for (int c = 0; c < 8; c++) {
        HEED_UNROLL
        for (int i = 0; i < n_vectors; i++)
            q[i] = vf_fma(q[i], u[i], vf_set1(coefficients[c]));
    }
    HEED_UNROLL
    for (int i = 0; i < n_vectors; i++)
        x[i] = vf_fma(q[i], u[i], vf_max(vf_zero(), x[i]));
}

/* x[v] = the vectors of p */
HEED_INLINE void load_each(vf *x, const float *p)
{
    HEED_UNROLL
    for (int v = 0; v < EXP_VECTORS; v++)
        x[v] = vf_load(p + v * VF_LANES);
}

#endif
