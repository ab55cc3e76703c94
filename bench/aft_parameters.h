/* The learned parameters of the Attention-Free Transformer: random, or read from files. */
#ifndef HEED_BENCH_AFT_PARAMETERS_H
#define HEED_BENCH_AFT_PARAMETERS_H

#include "bench/input.h"
#include "tests/oracle/oracle.h"

/* Data NULL where no form of the run needs it.
 *
 * aft-full takes w [Nq, Nk] and aft-local a band of it, so that it runs as one would run it alone; or both take factors.
 * The band has 2 s - 1 columns, causal s. */
typedef struct aft_parameters {
    heed_tensor w, band;
    heed_tensor query_factors, key_factors;
    heed_tensor filter; /* (1, conv_heads, 1, s), with a grid (1, conv_heads, s1, s2) */
} aft_parameters;

/* The run has this form of AFT among its variants. */
int aft_asks_for(const attention_input *input, oracle_aft_form form);

/* Makes what the forms of input->settings.aft need. Returns 0, or -1 with the reason in `message`; what was made by then
 * is to be released too. */
int aft_parameters_make(aft_parameters *parameters, const attention_input *input, char *message, size_t message_bytes);
void aft_parameters_release(aft_parameters *parameters);

#endif
