/* Attention problems for tests that care about how a call runs, and not about what comes out: each one is made from its
 * sizes, run, and compared with another run bit for bit. */
#ifndef HEED_TEST_SMALL_PROBLEM_H
#define HEED_TEST_SMALL_PROBLEM_H

#include "heed.h"

typedef struct problem {
    heed_tensor q, k, v, out, lse;
    heed_mask mask;
    heed_softmax_options options;
    float *data; /* q, k, v, out, lse, one after the other */
    size_t output_bytes;
} problem;

typedef struct problem_sizes {
    const char *name;
    int64_t b, hq, hkv, nq, nk, d, dv;
} problem_sizes;

/* Many rows with a ragged tile, few rows over several ranges of keys, one row of several sequences: each way through
 * the library, and each with work enough for threads. */
enum { N_PROBLEMS = 3 };
extern const problem_sizes problems[N_PROBLEMS];

/* One score: no thread is worth waking. */
extern const problem_sizes tiny_problem;

/* Causal, with a window; ends the program when there is no memory. */
problem make_problem(const problem_sizes *sizes);
void free_problem(problem *p);

/* Overwrites the outputs with NaN. */
void clear_outputs(problem *p);
/* Clears the outputs and calls heed_softmax_forward(). */
heed_status run_problem(heed_context *context, problem *p);

/* 1 when all outputs have the same bits. */
int same_outputs(const problem *a, const problem *b);

#endif
