/* The arguments of multiresolution-head attention, and what the checks of forward and step share. */
#ifndef HEED_API_MRSHA_H
#define HEED_API_MRSHA_H

#include "api/softmax.h"
#include "mechanisms/mrsha.h"

typedef struct mrsha_arguments {
    const heed_tensor *q, *k, *v;
    const heed_mrsha_options *options; /* never NULL */
    const heed_tensor *out, *lse;      /* lse or NULL */
} mrsha_arguments;

extern const heed_mrsha_options heed_mrsha_defaults;

/* Those of softmax attention, of all heads, and of fine ones where these have options of their own. */
softmax_arguments heed_mrsha_all_heads(const mrsha_arguments *a);
softmax_arguments heed_mrsha_fine_heads(const mrsha_arguments *a);

/* What can be said of the options without tensors; n_heads group sizes. */
heed_status heed_mrsha_check_options(heed_message *message, const heed_mrsha_options *options, int64_t n_heads);

/* Options, q, k, v, and what the options point to. */
heed_status heed_mrsha_check_inputs(heed_message *message, const mrsha_arguments *a);

/* What no coarse head takes, or, in a step, no head. */
heed_status heed_mrsha_check_softmax(heed_message *message, const mrsha_arguments *a, int in_step);

/* One output against everything that is read. */
heed_status heed_mrsha_check_written(heed_message *message, const mrsha_arguments *a, const char *name,
                                     const heed_tensor *out);

/* Of checked arguments. */
mrsha_plan heed_mrsha_plan(const mrsha_arguments *a);

/* Which heads share what. */
mrsha_heads heed_mrsha_heads(const heed_mrsha_options *options, int64_t n_heads, int64_t kv_heads);

#endif
