/* Joining two results over different keys of the same query (FlashAttention, section 3.1):
 *
 *     lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b */
#ifndef HEED_MECHANISMS_MERGE_H
#define HEED_MECHANISMS_MERGE_H

#include "core/context.h"
#include "heed.h"

/* A log-sum-exp as maximum + log: of scores of 1e15 the sum alone would not keep the logarithm. -inf + 0: no key. */
typedef struct log_sum {
    double maximum, log;
} log_sum;

/* Joins one row of n channels; returns its lse. A part without keys leaves the other one as it is; both: 0, -inf.
 * out may be a or b. */
log_sum heed_merge_rows(const heed_kernels *kernels, float *out, const float *a, log_sum lse_a, const float *b,
                        log_sum lse_b, int64_t n_channels);

typedef struct merge_plan {
    heed_tensor out_a, lse_a, out_b, lse_b, out, lse; /* lse.data is NULL where it is not wanted */
} merge_plan;

/* Joins two whole results, one lse per row or per channel. */
void heed_merge_run(heed_context *context, const merge_plan *plan);

#endif
