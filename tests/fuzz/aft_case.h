/* One call of heed_aft_*_forward(), made from bytes: form, shapes, strides, layouts, biases, options, masks, contents. */
#ifndef HEED_FUZZ_AFT_CASE_H
#define HEED_FUZZ_AFT_CASE_H

#include "fuzz_target.h"
#include "oracle/oracle.h"

/* U and F: the factors of queries and of keys. */
typedef enum { Q, K, V, OUT, LSE, W, U, F, FILTER, VISIBLE, N_TENSORS } tensor_id;

struct fuzz_case {
    oracle_aft_form form;
    int64_t b, h, nq, nk, d;
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS]; /* of a tensor that shares another one's block: empty */
    int has_lse, has_mask, has_options;
    int shares_block; /* an output was moved into the block of another tensor */
    int threads;      /* which of the contexts runs it */
    heed_aft_options options;
    fuzz_mask mask;
};

/* The options of the call; NULL where it gets none. */
const heed_aft_options *options_of(const fuzz_case *c);

#endif
