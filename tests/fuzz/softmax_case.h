/* One call of heed_softmax_forward(), made from bytes: shapes, strides, layouts, options, masks, lengths, contents. */
#ifndef HEED_FUZZ_SOFTMAX_CASE_H
#define HEED_FUZZ_SOFTMAX_CASE_H

#include "fuzz_target.h"

typedef enum { Q, K, V, OUT, LSE, BIAS, VISIBLE, N_TENSORS } tensor_id;

enum { MAX_HEADS = 16 };

struct fuzz_case {
    int64_t b, hq, hkv, nq, nk, d, dv;
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS]; /* of a tensor that shares another one's block: empty */
    int has_lse, has_bias, has_visible, has_mask, has_options;
    int shares_block; /* an output was moved into the block of another tensor */
    int threads;      /* which of the contexts runs it */
    heed_softmax_options options;
    fuzz_mask mask;
    float slopes[MAX_HEADS], sinks[MAX_HEADS];
};

/* The options of the call; NULL where it gets none. */
const heed_softmax_options *options_of(const fuzz_case *c);

#endif
