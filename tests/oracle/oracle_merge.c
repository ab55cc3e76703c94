/* Merge of two partial results over different keys (FlashAttention, section 3.1). */
#include "oracle.h"

#include <math.h>

void oracle_merge_pair(double out_a, double lse_a, double out_b, double lse_b, double *out, double *lse)
{
    if (lse_b == -INFINITY) {
        *out = out_a;
        *lse = lse_a;
    } else if (lse_a == -INFINITY) {
        *out = out_b;
        *lse = lse_b;
    } else {
        /* logaddexp; the larger one is taken out so that exp cannot overflow. An infinite sum has no weights. */
        const double larger = lse_a > lse_b ? lse_a : lse_b;
        *lse = larger == INFINITY ? lse_a + lse_b : larger + log(exp(lse_a - larger) + exp(lse_b - larger));
        *out = exp(lse_a - *lse) * out_a + exp(lse_b - *lse) * out_b;
    }
}

void oracle_merge(const heed_tensor *out_a, const heed_tensor *lse_a, const heed_tensor *out_b,
                  const heed_tensor *lse_b, double *out, double *lse)
{
    const int64_t *shape = out_a->shape;
    const int64_t lse_channels = lse_a->shape[3];
    for (int64_t row = 0; row < shape[0] * shape[1] * shape[2]; row++) {
        const int64_t n = row % shape[2];
        const int64_t h = row / shape[2] % shape[1];
        const int64_t b = row / shape[2] / shape[1];
        for (int64_t c = 0; c < shape[3]; c++) {
            const int64_t lse_c = lse_channels == 1 ? 0 : c;
            double merged_out;
            double merged_lse;
            oracle_merge_pair(oracle_value(out_a, b, h, n, c), oracle_value(lse_a, b, h, n, lse_c),
                              oracle_value(out_b, b, h, n, c), oracle_value(lse_b, b, h, n, lse_c), &merged_out,
                              &merged_lse);
            if (out)
                out[row * shape[3] + c] = merged_out;
            if (lse)
                lse[row * lse_channels + lse_c] = merged_lse;
        }
    }
}
