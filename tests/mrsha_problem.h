/* Problems for the tests of multiresolution-head attention: tensors in guarded buffers of any layout, resolutions,
 * pooling, lengths and sinks, all of one case of a table; and what calls must give: within the bound of heed.h of the
 * float64 oracle, or bit by bit. */
#ifndef HEED_TEST_MRSHA_PROBLEM_H
#define HEED_TEST_MRSHA_PROBLEM_H

#include "oracle/oracle.h"
#include "support/attention.h"

enum { MRSHA_MAX_HEADS = 12, MRSHA_MAX_BATCH = 4, MRSHA_MAX_TENSORS = 24 };

typedef struct mrsha_case {
    attention_shape shape;
    int64_t group_sizes[MRSHA_MAX_HEADS]; /* of the heads; the first one 0: NULL, the default */
    heed_mrsha_mode mode;
    heed_pooling pooling; /* LEARNED: weights from 0.2 to 2, NaN in fine heads */
    heed_upsampling upsampling;
    int64_t grid_height, grid_width;
    int class_token;
    int causal;      /* lengths, if any, are those of keys and queries alike */
    int has_lengths; /* of each batch element its own; one that is 0 among them now and then */
    int has_sinks;
    float scale, softcap, deviation; /* of q; 0: 1 */
    tensor_layout layout;
    guard_side side;
    uint64_t stream; /* of random numbers: two problems of one stream hold the same */
} mrsha_case;

typedef struct mrsha_problem {
    mrsha_case c;
    attention a;
    heed_tensor weights;
    heed_mask mask;
    int64_t query_lengths[MRSHA_MAX_BATCH], key_lengths[MRSHA_MAX_BATCH];
    float sinks[MRSHA_MAX_HEADS];
    heed_softmax_options softmax;
    heed_mrsha_options options;
    guarded memory[MRSHA_MAX_TENSORS];
    int n_tensors;
} mrsha_problem;

/* On the heap, so that options may point into it. */
mrsha_problem *mrsha_create(const mrsha_case *c);
void mrsha_destroy(mrsha_problem *p);

/* What the case is, in words. */
const char *mrsha_describe(const mrsha_problem *p);

/* One more tensor, given back with the problem; holds NaN. */
heed_tensor mrsha_tensor(mrsha_problem *p, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c,
                         tensor_layout layout);

/* A copy, given back with the problem. */
heed_tensor mrsha_keep(mrsha_problem *p, const heed_tensor *tensor);

/* S of head h. */
int64_t mrsha_group_size(const mrsha_problem *p, int64_t h);

/* The problem's lse, or NULL where rows are interpolated. */
const heed_tensor *mrsha_lse(const mrsha_problem *p);

/* heed_mrsha_forward() over outputs that were overwritten with NaN; it must succeed and write nothing beside them. */
void mrsha_run(mrsha_problem *p, heed_context *context);

/* The largest |scale q.k| of two tokens that count. Means of them have none that is larger. */
double mrsha_largest_score(const mrsha_problem *p);

/* The bounds of heed.h: of out as a factor of max|v|, and of lse beside the ulp of its rounding. */
double mrsha_out_bound(double largest_score);
double mrsha_lse_bound(double largest_score, int64_t n_keys);

/* Runs, and compares with the oracle. Rows that it makes 0 are exactly 0. */
void mrsha_expect_match(mrsha_problem *p, heed_context *context, const char *name);

/* Compares rows (B, Hq, Nq, Dv) with those of the oracle, and lse where it is not NULL. */
void mrsha_expect_rows(const mrsha_problem *p, const heed_tensor *out, const heed_tensor *lse, const char *name);

void mrsha_expect_bits(const mrsha_problem *p, const heed_tensor *got, const heed_tensor *want, const char *name);

/* Two results that are each within a bound of one exact value. */
void mrsha_expect_close(const mrsha_problem *p, const heed_tensor *got, const heed_tensor *want, double tolerance,
                        const char *name);

/* Prints the largest errors of mrsha_expect_rows() so far, for each mode. */
void mrsha_print_errors(void);

#endif
