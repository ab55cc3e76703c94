/* Arguments of softmax attention, checked and resolved: by itself, and for the heads of others. */
#ifndef HEED_API_SOFTMAX_H
#define HEED_API_SOFTMAX_H

#include "core/message.h"
#include "heed.h"
#include "mechanisms/softmax.h"

typedef struct softmax_arguments {
    const heed_tensor *q, *k, *v, *out, *lse;
    const heed_softmax_options *options; /* never NULL */
    const char *name;                    /* of the options in messages */
} softmax_arguments;

extern const heed_softmax_options heed_softmax_defaults;

heed_status heed_softmax_check_shapes(heed_message *message, const heed_tensor *q, const heed_tensor *k,
                                      const heed_tensor *v);

/* q, k, v and their shapes. */
heed_status heed_softmax_check_inputs(heed_message *message, const softmax_arguments *a);

/* The struct and the numbers in it. */
heed_status heed_softmax_check_options(heed_message *message, const softmax_arguments *a);

/* What the options point to, against checked inputs. */
heed_status heed_softmax_check_masks(heed_message *message, const softmax_arguments *a);

/* out and lse, by themselves. */
heed_status heed_softmax_check_outputs(heed_message *message, const softmax_arguments *a);

/* One output against everything that is read. */
heed_status heed_softmax_check_written(heed_message *message, const softmax_arguments *a, const char *name,
                                       const heed_tensor *out);

/* out and lse against everything that is read, and each other. */
heed_status heed_softmax_check_apart(heed_message *message, const softmax_arguments *a);

softmax_plan heed_softmax_plan(const softmax_arguments *a);

#endif
