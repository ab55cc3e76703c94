#include "bench/linear_loops.h"

#include <math.h>

void linear_loops_softplus(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (x[i] > 0 ? x[i] : 0) + log1pf(expf(-fabsf(x[i])));
}

void linear_loops_add_columns(float *restrict sums, const float *restrict x, int64_t n_rows, int64_t n_columns)
{
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t c = 0; c < n_columns; c++)
            sums[c] += x[r * n_columns + c];
}

void linear_loops_hide_later(float *restrict weights, float *restrict sums, int64_t n)
{
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c <= r; c++)
            sums[r] += weights[r * n + c];
        for (int64_t c = r + 1; c < n; c++)
            weights[r * n + c] = 0;
    }
}

void linear_loops_divide_rows(float *restrict x, int64_t stride, const float *restrict sums, float eps, int64_t n_rows,
                              int64_t n_columns)
{
    for (int64_t r = 0; r < n_rows; r++) {
        const float factor = 1 / (sums[r] + eps);
        for (int64_t c = 0; c < n_columns; c++)
            x[r * stride + c] *= factor;
    }
}
