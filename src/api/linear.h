/* The arguments of linear attention, and what the checks of forward, step and backward share. */
#ifndef HEED_API_LINEAR_H
#define HEED_API_LINEAR_H

#include "api/features.h"
#include "api/step.h"
#include "mechanisms/linear.h"

typedef struct linear_arguments {
    const heed_tensor *q, *k, *v;
    const heed_linear_options *options; /* never NULL */
    const heed_linear_state *state;     /* or NULL */
    const heed_tensor *out;             /* backward: dout, which is read */
} linear_arguments;

/* The maps of keys and of queries. */
feature_argument heed_linear_key_features(const linear_arguments *a);
feature_argument heed_linear_query_features(const linear_arguments *a);

/* Options, q, k, v, feature maps and mask. */
heed_status heed_linear_check_inputs(heed_message *message, const linear_arguments *a);

/* out, or dout, has the rows of q and the channels of v. */
heed_status heed_linear_check_rows(heed_message *message, const linear_arguments *a, const char *name);

/* One output against everything that is read but the state. */
heed_status heed_linear_check_apart(heed_message *message, const linear_arguments *a, const char *name,
                                    const heed_tensor *out);

/* A state for these arguments, by name. */
heed_status heed_linear_check_state(heed_message *message, const linear_arguments *a, const char *name,
                                    const heed_linear_state *state);

/* Sums and norms of a state for these arguments, and its n_tokens if they are looked at. */
heed_status heed_linear_check_sums(heed_message *message, const linear_arguments *a, const char *name,
                                   const heed_linear_state *state, int has_tokens);

/* Its parts by name. */
enum { HEED_LINEAR_STATE_PARTS = 5 };
void heed_linear_state_parts(const char *name, const heed_linear_state *state,
                             state_part parts[HEED_LINEAR_STATE_PARTS]);

/* The state with strides of axes of size 1 that may be multiplied with anything. */
heed_linear_state heed_linear_repeated(const heed_linear_state *state);

/* The plan that tells the scratch, from shapes alone; no messages. */
heed_status heed_linear_plan_sizes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                   const heed_linear_options *options, linear_plan *plan);

/* Of checked arguments. */
linear_plan heed_linear_plan(const linear_arguments *a);

#endif
