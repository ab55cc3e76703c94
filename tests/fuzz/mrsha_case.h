/* One call of heed_mrsha_forward() or heed_mrsha_step(), made from bytes: resolutions, shapes, strides, layouts,
 * options, masks, weights, the state, contents; or numbers for the functions that tell sizes. */
#ifndef HEED_FUZZ_MRSHA_CASE_H
#define HEED_FUZZ_MRSHA_CASE_H

#include "fuzz_target.h"

typedef enum fuzz_verb { FORWARD, STEP, SIZES } fuzz_verb;

/* From KEYS on the state. */
typedef enum {
    Q,
    K,
    V,
    OUT,
    LSE,
    WEIGHTS,
    BIAS,
    VISIBLE,
    FINE_BIAS,
    FINE_VISIBLE,
    KEYS,
    VALUES,
    OPEN_KEYS,
    OPEN_VALUES,
    N_TENSORS
} tensor_id;

/* Options of softmax attention: of all heads, and of fine ones in their place. */
enum { ALL, FINE, N_OPTIONS };

enum { MAX_HEADS = 64, N_PARTS = 4 };

typedef struct fuzz_softmax {
    heed_softmax_options options;
    fuzz_mask mask;
    float slopes[MAX_HEADS], sinks[MAX_HEADS];
} fuzz_softmax;

/* For the functions that tell sizes; see mrsha_sizes.c. */
typedef struct fuzz_sizes {
    int64_t b, hq, hkv, nq, nk, d, dv, max_tokens;
    int64_t preset;
    int misses_bytes; /* the call has no place to write to */
    heed_tensor q, k, v;
} fuzz_sizes;

struct fuzz_case {
    fuzz_verb verb;
    int64_t b, hq, hkv, nq, nk, d, dv;
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS];
    int64_t group_sizes[MAX_HEADS + 1]; /* one more, for a pointer to an odd place */
    heed_mrsha_options options;
    fuzz_softmax softmax[N_OPTIONS];
    int64_t max_tokens, n_tokens_memory[MAX_BATCHES + 1];
    int64_t *n_tokens;
    int64_t parts[N_PARTS]; /* tokens of a step, one after the other and again, where it is cut */
    int64_t reset;          /* the sequence that starts anew before it; where there is none such, none */
    int has_lse, has_options, has_state;
    int missing; /* the call gets NULL for this tensor; N_TENSORS: for none */
    int shares_block, threads;
    fuzz_sizes sizes;
};

/* The options of the call, and those of softmax attention in them; NULL where it gets none. */
const heed_mrsha_options *options_of(const fuzz_case *c);
const heed_softmax_options *softmax_of(const fuzz_case *c, int which);

/* S of a head, of the options of the call. */
int64_t size_of_head(const fuzz_case *c, int64_t h);

/* Memory that is not that of a tensor, as views of bytes; n_tokens, which a step writes, is the first one. Returns how
 * many. */
enum { MAX_ARRAYS = 14 };
int list_arrays(const fuzz_case *c, heed_tensor arrays[MAX_ARRAYS]);

/* What a state has for so many tokens. Rows are counted up to 2^60. */
typedef struct cache_counts {
    int64_t n_rows, n_caches;
} cache_counts;

cache_counts count_caches(const heed_mrsha_options *o, int64_t hq, int64_t hkv, int64_t max_tokens);

/* mrsha_sizes.c: numbers from bytes, and what the functions make of them. */
void choose_numbers(fuzz_case *c, byte_reader *r);
void check_numbers(const fuzz_case *c);
void print_numbers(const fuzz_case *c);

#endif
