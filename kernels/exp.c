/* exp2_array, exp_array: whole vectors, then the rest with a masked load of the same code. */
#include "kernels/exp.h"

#define HEED_MAP_ARRAY(name, vector_function)                                                                          \
    void HEED_FN(name)(const float *x, float *y, int64_t n)                                                            \
    {                                                                                                                  \
        int64_t i = 0;                                                                                                 \
        for (; i + VF_LANES <= n; i += VF_LANES)                                                                       \
            vf_store(y + i, vector_function(vf_load(x + i)));                                                          \
        if (i < n)                                                                                                     \
            vf_store_n(y + i, vector_function(vf_load_n(x + i, (int)(n - i))), (int)(n - i));                          \
    }

HEED_MAP_ARRAY(exp2_array, exp2_vector)
HEED_MAP_ARRAY(exp_array, exp_vector)
