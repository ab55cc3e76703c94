/* sigmoid and softplus of a vector, stable for any argument. */
#ifndef HEED_KERNELS_ACTIVATIONS_H
#define HEED_KERNELS_ACTIVATIONS_H

#include "kernels/exp.h"

/* 1 / (1 + e^-x). Far down it is e^x, whose inverse may overflow: what would come out below 2^-126 is 0. */
HEED_INLINE vf sigmoid(vf x)
{
    vf y = vf_reciprocal(vf_add(vf_set1(1.0f), exp_vector(vf_sub(vf_zero(), x))));
    return vf_select(vf_lt(x, vf_set1(-87.33654f)), vf_zero(), y);
}

/* max(x, 0) + log(1 + u), u = e^-|x| in [0, 1]: no large numbers, and for small u no 1 beside it. log(1 + u) = u Q(u) with
 * a minimax Q of degree 8, off by 0.3 ulp; u has 2, the rest rounds: 3 ulp. */
HEED_INLINE vf softplus(vf x)
{
    vf u = exp_below(vf_sub(vf_zero(), vf_abs(x)));
    vf q = vf_fma(vf_set1(5.232692696e-03f), u, vf_set1(-2.950523235e-02f));
    q = vf_fma(q, u, vf_set1(7.822594047e-02f));
    q = vf_fma(q, u, vf_set1(-1.366324425e-01f));
    q = vf_fma(q, u, vf_set1(1.910600662e-01f));
    q = vf_fma(q, u, vf_set1(-2.484298199e-01f));
    q = vf_fma(q, u, vf_set1(3.331909776e-01f));
    q = vf_fma(q, u, vf_set1(-4.999949336e-01f));
    q = vf_fma(q, u, vf_set1(9.999999404e-01f));
    return vf_fma(q, u, vf_max(vf_zero(), x));
}

#endif
