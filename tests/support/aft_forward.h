/* The four forms of AFT as one call each. */
#ifndef HEED_TEST_AFT_FORWARD_H
#define HEED_TEST_AFT_FORWARD_H

#include "oracle/oracle.h"

/* filter: conv only. */
static inline heed_status aft_forward(oracle_aft_form form, heed_context *context, const heed_tensor *q,
                                      const heed_tensor *k, const heed_tensor *v, const heed_tensor *filter,
                                      const heed_aft_options *options, const heed_tensor *out, const heed_tensor *lse)
{
    switch (form) {
    case ORACLE_AFT_FULL:
        return heed_aft_full_forward(context, q, k, v, options, out, lse);
    case ORACLE_AFT_LOCAL:
        return heed_aft_local_forward(context, q, k, v, options, out, lse);
    case ORACLE_AFT_CONV:
        return heed_aft_conv_forward(context, q, k, v, filter, options, out, lse);
    case ORACLE_AFT_SIMPLE:
    default:
        return heed_aft_simple_forward(context, q, k, v, options, out, lse);
    }
}

static inline heed_status aft_scratch_bytes(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k,
                                            const heed_tensor *v, const heed_tensor *filter,
                                            const heed_aft_options *options, int64_t *bytes)
{
    switch (form) {
    case ORACLE_AFT_FULL:
        return heed_aft_full_scratch_bytes(q, k, v, options, bytes);
    case ORACLE_AFT_LOCAL:
        return heed_aft_local_scratch_bytes(q, k, v, options, bytes);
    case ORACLE_AFT_CONV:
        return heed_aft_conv_scratch_bytes(q, k, v, filter, options, bytes);
    case ORACLE_AFT_SIMPLE:
    default:
        return heed_aft_simple_scratch_bytes(q, k, v, options, bytes);
    }
}

#endif
