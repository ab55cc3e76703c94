/* The gradients of linear attention with respect to q, k, v and all matrices. What variant_linear.c makes variants of. */
#ifndef HEED_BENCH_VARIANT_LINEAR_BACKWARD_H
#define HEED_BENCH_VARIANT_LINEAR_BACKWARD_H

#include "bench/linear_input.h"

void *linear_backward_prepare(linear_kind kind, const variant_setup *setup, char *message, size_t message_bytes);
int linear_backward_run(void *state, char *message, size_t message_bytes);
int64_t linear_backward_scratch_bytes(const void *state);
void linear_backward_release(void *state);

#endif
