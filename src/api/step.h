/* What the checks of all steps share: they go on from a state. */
#ifndef HEED_API_STEP_H
#define HEED_API_STEP_H

#include "core/message.h"
#include "heed.h"

/* n_tokens [n_batches] of a state that is about to be written. */
heed_status heed_check_tokens_view(heed_message *message, const int64_t *n_tokens, int64_t n_batches);

/* The same, with what stands in it: 0..2^60. */
heed_status heed_check_tokens(heed_message *message, const int64_t *n_tokens, int64_t n_batches);

/* A step is causal, and its state says where tokens stand: the mask adds how many of the new ones count. */
heed_status heed_check_step_mask(heed_message *message, const heed_mask *mask);

/* A part of a state, by name; n_tokens as bytes. */
typedef struct state_part {
    char name[48];
    heed_tensor view;
} state_part;

/* The parts of one state, which is written, against each other. */
heed_status heed_check_parts_apart(heed_message *message, const state_part *parts, int n);

#endif
