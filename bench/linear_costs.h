/* What linear attention costs, whoever computes it: operations and bytes of one call. */
#ifndef HEED_BENCH_LINEAR_COSTS_H
#define HEED_BENCH_LINEAR_COSTS_H

#include "bench/linear_input.h"

/* Each multiply-add is two operations. For each token of a head: the products with the matrices of its map; 2 C Dv where
 * a key joins the sums, and as many where a query reads them. What causality needs inside a block of rows does not
 * count. */
double linear_flops(const attention_input *input, linear_kind kind);

/* The least that gradients take. Of features, forward once more and twice as much backward: with respect to the row and
 * to the matrix. A query reads the sums for its gradient and joins those of the gradients; a key joins the sums, and
 * reads those of the gradients for its own and for that of its value. */
double linear_backward_flops(const attention_input *input, linear_kind kind);

/* q, k, v, the output and the matrices once. */
double linear_bytes(const attention_input *input, linear_kind kind);

/* The same for gradients: each of q, k, v and the matrices is read, and its gradient written; and that of the output is
 * read. */
double linear_backward_bytes(const attention_input *input, linear_kind kind);

/* Operations of the last token alone. */
double linear_step_flops(const attention_input *input, linear_kind kind);

/* Sums and norms of all sequences, read and written. */
double linear_step_bytes(const attention_input *input, linear_kind kind);

/* A row of the reference, in multiply-adds of the softmax oracle. The features of its keys are shared by all rows. */
double linear_reference_cost(const attention_input *input, linear_kind kind);

#endif
