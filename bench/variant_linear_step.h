/* One token of linear attention with a state, after as many others as the input has keys before its last. What
 * variant_linear.c makes variants of. */
#ifndef HEED_BENCH_VARIANT_LINEAR_STEP_H
#define HEED_BENCH_VARIANT_LINEAR_STEP_H

#include "bench/linear_input.h"

/* Tokens that wait in the state before they join its sums, together. So many calls make a run, that each run has this
 * once. */
enum { LINEAR_RECENT_TOKENS = 16 };

void *linear_step_prepare(linear_kind kind, const variant_setup *setup, char *message, size_t message_bytes);

/* Takes the last token LINEAR_RECENT_TOKENS times more. The cost of a token does not follow from those before it. */
int linear_step_run(void *state, char *message, size_t message_bytes);

/* The result of the last token right after the prefix. */
void linear_step_finish(void *state);

int64_t linear_step_scratch_bytes(const void *state);
void linear_step_release(void *state);

#endif
