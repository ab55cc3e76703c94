/* Linear attention and its gradients in float64, for some rows of an input. */
#ifndef HEED_BENCH_LINEAR_REFERENCE_H
#define HEED_BENCH_LINEAR_REFERENCE_H

#include "bench/linear_input.h"

/* n rows of the output, or of the gradient with respect to q, at places that share one kv head. Several variants have the
 * rows of softplus. */
void linear_reference_rows(const attention_input *input, linear_kind kind, const row_place *places, int64_t n,
                           double *out);
void linear_reference_softplus_rows(const attention_input *input, const row_place *places, int64_t n, double *out);
void linear_reference_gradients(const attention_input *input, linear_kind kind, const row_place *places, int64_t n,
                                double *dq);

#endif
