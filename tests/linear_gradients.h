/* Gradients of linear attention: a problem with what goes into a backward call and what comes out of it, and the
 * comparison with the oracle. */
#ifndef HEED_TEST_LINEAR_GRADIENTS_H
#define HEED_TEST_LINEAR_GRADIENTS_H

#include "linear_check.h"

/* A problem with what goes into the backward call and what comes out of it. */
typedef struct gradients {
    linear_problem *p;
    heed_tensor dout, dq, dk, dv;
    test_map dkey_map, dquery_map;
    int has_dstate_out;
    heed_linear_state dstate_out, dstate_in;
    int64_t n_out[LINEAR_MAX_BATCH], n_in[LINEAR_MAX_BATCH];
} gradients;

/* dout normal, the gradient of the state afterwards too; the other gradients NaN. */
void gradients_open(gradients *g, const linear_case *c, int has_dstate_out);
void gradients_close(gradients *g);

/* A value in all that a call will write. */
void gradients_fill(gradients *g, float value);

/* heed_linear_backward() for everything that the problem has a gradient of; it must succeed. */
void gradients_run(gradients *g, heed_context *context);

/* What has been written is what the oracle says, relative to the size that gradients have before their terms cancel. */
void gradients_expect_oracle(gradients *g);

/* Prints the largest errors of gradients_expect_oracle() so far. */
void gradients_print_errors(void);

/* Elements of a float32 view in the order batch, head, token, channel. */
int64_t tensor_count(const heed_tensor *x);
float tensor_value(const heed_tensor *x, int64_t n);
void tensor_read(const heed_tensor *x, double *numbers);

#endif
