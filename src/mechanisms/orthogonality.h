/* The penalty that keeps weights orthogonal in training, and its gradient. */
#ifndef HEED_MECHANISMS_ORTHOGONALITY_H
#define HEED_MECHANISMS_ORTHOGONALITY_H

#include "core/context.h"
#include "heed.h"

typedef struct orthogonality_plan {
    heed_tensor w;
    heed_tensor dw; /* data NULL: not wanted */
    double lambda;
    int accumulate;
} orthogonality_plan;

/* Scratch, from the rows and columns of w. */
int64_t heed_orthogonality_bytes(const heed_tensor *w);

/* Writes the gradient and returns the penalty. */
double heed_orthogonality_run(heed_context *context, const orthogonality_plan *plan);

#endif
