/* One token of the Attention-Free Transformer with a state, after as many others as the input has keys before its last.
 * What variant_aft.c makes variants of. */
#ifndef HEED_BENCH_VARIANT_AFT_STEP_H
#define HEED_BENCH_VARIANT_AFT_STEP_H

#include "bench/aft_input.h"
#include "bench/variants.h"

void *aft_step_prepare(oracle_aft_form form, const variant_setup *setup, char *message, size_t message_bytes);

/* Takes the last token once more. The cost of a token does not follow from those before it. */
int aft_step_run(void *state, char *message, size_t message_bytes);

/* The result of the last token right after the prefix. */
void aft_step_finish(void *state);

int64_t aft_step_scratch_bytes(const void *state);
void aft_step_release(void *state);

/* q, k, v and out of the token, the bias of its window, and of the state what is read and what is written. */
double aft_step_bytes(const attention_input *input, oracle_aft_form form);

#endif
