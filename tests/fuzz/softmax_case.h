/* One call of heed_softmax_forward(), made from bytes: shapes, strides, layouts, options, masks, lengths, contents. */
#ifndef HEED_FUZZ_SOFTMAX_CASE_H
#define HEED_FUZZ_SOFTMAX_CASE_H

#include "fuzz_parts.h"

typedef enum { Q, K, V, OUT, LSE, BIAS, VISIBLE, N_TENSORS } tensor_id;

enum { MAX_HEADS = 16 };

typedef struct fuzz_case {
    int64_t b, hq, hkv, nq, nk, d, dv;
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS]; /* of a tensor that shares another one's block: empty */
    int has_lse, has_bias, has_visible, has_mask, has_options;
    int shares_block; /* an output was moved into the block of another tensor */
    int threads;      /* which of the contexts runs it */
    heed_softmax_options options;
    fuzz_mask mask;
    float slopes[MAX_HEADS], sinks[MAX_HEADS];
} fuzz_case;

/* Returns 0 when the bytes make no case that is worth running. free_case() in any event. */
int make_case(fuzz_case *c, byte_reader reader);
void free_case(fuzz_case *c);

/* What heed.h says of the arguments: 1 when the call must succeed. */
int is_valid(const fuzz_case *c);

#endif
