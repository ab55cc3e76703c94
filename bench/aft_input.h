/* What the Attention-Free Transformer makes of an attention input: the channels of all heads side by side as those of
 * one head, D' = Hq D, and the parameters. Made once for each input, before anything is timed. */
#ifndef HEED_BENCH_AFT_INPUT_H
#define HEED_BENCH_AFT_INPUT_H

#include "bench/aft_parameters.h"

/* Tokens lie one after the other, whatever the layout of the attention input: q, k and v are (B, 1, N, D').
 *
 * conv sees q and v cut into `conv_heads` heads; the first channel of each is the head's key. */
struct aft_input {
    heed_tensor q, k, v;
    heed_tensor conv_q, conv_k, conv_v;
    aft_parameters parameters;
};

/* Makes what the forms of settings.aft need. Returns NULL with the reason in `message`, also where a form does not go
 * with the input. */
aft_input *aft_input_create(const attention_input *input, char *message, size_t message_bytes);
void aft_input_destroy(aft_input *aft);

/* The options of one form; they point into the input. */
heed_aft_options aft_input_options(const attention_input *input, oracle_aft_form form);

/* D' */
int64_t aft_input_n_channels(const attention_input *input);

/* The result as AFT sees it, contiguous (B, Nq, D'), to where the channels are those of heads again. */
void aft_input_take_apart(const attention_input *input, const float *from, const heed_tensor *out);

/* Row (b, h, i) of the attention output in float64. It follows from q, k and v as the attention input holds them. */
void aft_input_reference_row(const attention_input *input, oracle_aft_form form, int64_t b, int64_t h, int64_t i,
                             double *out);

#endif
