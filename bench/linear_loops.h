/* The loops between the products of linear-blas, as one would write them in plain C: compiled for the machine that builds
 * them, with what the C library has for exp and log1p, vector functions where it has them. */
#ifndef HEED_BENCH_LINEAR_LOOPS_H
#define HEED_BENCH_LINEAR_LOOPS_H

#include <stdint.h>

/* x[i] = softplus(x[i]) = log(1 + exp(x[i])), without overflow. */
void linear_loops_softplus(float *x, int64_t n);

/* sums[c] += the sum of column c of n_rows rows. */
void linear_loops_add_columns(float *sums, const float *x, int64_t n_rows, int64_t n_columns);

/* Hides what row r of a square of n weights does not see, those after r, and adds the others to sums[r]. */
void linear_loops_hide_later(float *weights, float *sums, int64_t n);

/* x[r] = x[r] / (sums[r] + eps) for rows that lie `stride` floats apart. */
void linear_loops_divide_rows(float *x, int64_t stride, const float *sums, float eps, int64_t n_rows,
                              int64_t n_columns);

#endif
