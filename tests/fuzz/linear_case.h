/* One call of linear attention or of a feature map, made from bytes: the verb, shapes, strides, layouts, maps and their
 * matrices, options, states, gradients, contents. */
#ifndef HEED_FUZZ_LINEAR_CASE_H
#define HEED_FUZZ_LINEAR_CASE_H

#include "fuzz_target.h"

typedef enum fuzz_verb { FORWARD, STEP, BACKWARD, APPLY, N_VERBS } fuzz_verb;

/* OUT: of BACKWARD, dout, which is read; of APPLY, whose x is Q, phi(x). LATER: dstate_out; EARLIER: dstate_in. From
 * MATRICES on, those of the maps. */
enum {
    Q,
    K,
    V,
    OUT,
    VISIBLE,
    SUMS,
    NORMS,
    RECENT_FEATURES,
    RECENT_VALUES,
    LATER_SUMS,
    LATER_NORMS,
    DQ,
    DK,
    DV,
    EARLIER_SUMS,
    EARLIER_NORMS,
    MATRICES
};

/* Maps: of keys, or of x; of queries; the gradients of both. */
enum { KEYS, QUERIES, DKEYS, DQUERIES, N_MAPS };

/* Matrices of a layer: wf or omega, wg, a, b. */
enum { MAX_LAYERS = 3, N_MATRICES = 4, N_TENSORS = MATRICES + N_MAPS * MAX_LAYERS * N_MATRICES };

typedef struct fuzz_map {
    int is_given; /* else the call gets NULL */
    heed_feature_map map;
    heed_feature_layer layers[9];
} fuzz_map;

struct fuzz_case {
    fuzz_verb verb;
    int64_t b, hq, hkv, nq, nk, d, d_keys, dv, n_features, n_recent;
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS]; /* of a tensor that shares another one's block, or that is not used: empty */
    fuzz_map maps[N_MAPS];
    int64_t n_tokens_memory[MAX_BATCHES + 1];
    int64_t *n_tokens;
    int has_state, has_later, has_earlier, has_dq, has_dk, has_dv, has_mask, has_options;
    int shares_block; /* something that is written was moved into the block of another tensor */
    int threads;      /* which of the contexts runs it */
    heed_feature_side side;
    heed_linear_options options;
    fuzz_mask mask;
};

/* The options of the call; NULL where it gets none. */
const heed_linear_options *options_of(const fuzz_case *c);

/* A map of the call, or of options_of(); NULL where it gets none. */
const heed_feature_map *map_of(const fuzz_case *c, int map);

/* The matrices of a layer in their order, omega as the first one. */
void list_matrices(const heed_feature_layer *layer, const heed_tensor *list[N_MATRICES]);

#endif
