/* One call of heed_aft_*_step(), made from bytes: form, shapes, strides, layouts, biases, options, the state, contents. */
#ifndef HEED_FUZZ_AFT_STEPS_CASE_H
#define HEED_FUZZ_AFT_STEPS_CASE_H

#include "fuzz_target.h"
#include "oracle/oracle.h"

/* U and F: the factors of queries and of keys. SUMS, KEYS, VALUES: the state. */
typedef enum { Q, K, V, OUT, W, U, F, FILTER, SUMS, KEYS, VALUES, VISIBLE, N_TENSORS } tensor_id;

struct fuzz_case {
    oracle_aft_form form;
    int64_t b, h, n, d, window; /* window: taps of a filter; 0: simple */
    int64_t n_prefix;           /* tokens before the call, where it is valid */
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS]; /* of a tensor that shares another one's block: empty */
    int64_t n_tokens_memory[MAX_BATCHES + 1];
    int64_t *n_tokens;
    int has_mask, has_options;
    int shares_block; /* something that is written was moved into the block of another tensor */
    int threads;      /* which of the contexts runs it */
    heed_aft_options options;
    fuzz_mask mask;
};

/* The options of the call; NULL where it gets none. */
const heed_aft_options *options_of(const fuzz_case *c);

#endif
