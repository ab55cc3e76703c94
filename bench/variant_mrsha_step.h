/* One token of multiresolution-head attention with a state, after as many others as the input has keys before its last.
 * What variant_mrsha.c makes a variant of. */
#ifndef HEED_BENCH_VARIANT_MRSHA_STEP_H
#define HEED_BENCH_VARIANT_MRSHA_STEP_H

#include "bench/mrsha_input.h"

void *mrsha_step_prepare(const variant_setup *setup, char *message, size_t message_bytes);

/* Takes the last token once more, each time right after the prefix. */
int mrsha_step_run(void *state, char *message, size_t message_bytes);

int64_t mrsha_step_scratch_bytes(const void *state);
void mrsha_step_release(void *state);

/* Row (b, h) of the last token. */
void mrsha_step_reference_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out);

#endif
