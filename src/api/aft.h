/* The arguments of AFT, and what the checks of forward and step share. */
#ifndef HEED_API_AFT_H
#define HEED_API_AFT_H

#include "core/message.h"
#include "mechanisms/aft.h"

typedef struct aft_arguments {
    aft_form form;
    const heed_tensor *q, *k, *v, *filter, *out, *lse; /* filter: AFT_CONV only */
    const heed_aft_options *options;                   /* never NULL */
    int step; /* non-zero: causal whatever the mask, and key_factors begin with the window before the first token */
} aft_arguments;

heed_status heed_aft_check_options(heed_message *message, const heed_aft_options *options, aft_form form);

/* The tensors that are read, those of the options too; options have passed their own check. */
heed_status heed_aft_check_inputs(heed_message *message, const aft_arguments *a);

heed_status heed_aft_check_outputs(heed_message *message, const aft_arguments *a);

/* One output against everything that is read. */
heed_status heed_aft_check_apart(heed_message *message, const aft_arguments *a, const char *name,
                                 const heed_tensor *out);

/* Of checked arguments. */
aft_plan heed_aft_plan(const aft_arguments *a);

#endif
