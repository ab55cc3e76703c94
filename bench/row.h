/* One row of the comparison: a variant on an input with an instruction set and a number of threads. */
#ifndef HEED_BENCH_ROW_H
#define HEED_BENCH_ROW_H

#include "bench/machine.h"
#include "bench/variants.h"

/* The heads of one resolution, of a variant that gives heads one. */
typedef struct row_resolution {
    int64_t group_size, n_heads;
    double softmax_distance; /* of these heads alone; NaN where none of their rows was compared */
} row_resolution;

typedef struct compare_row {
    const variant *variant;
    variant_setup setup;
    void *state;   /* between prepare and release */
    int n_repeats; /* runs in one cell (one row in one round) */
    double ms;     /* best of the rounds' medians */
    int64_t scratch_bytes;
    int64_t rows_checked; /* rows of the output that were compared with float64 */
    double max_abs_err, rel_err, softmax_distance;
    row_resolution resolutions[INPUT_MAX_GROUP_SIZES]; /* finest first */
    int n_resolutions;
} compare_row;

/* What follows from a row and from the largest rates of the run. */
typedef struct row_rates {
    double gflops; /* 0 where the variant counts no operations */
    double fma_gflops;
    double gbytes, bandwidth_gbytes;
    const char *limit, *unit; /* "fma" and "GFLOP/s"; "bandwidth", "streams" or "update" and "GB/s" */
    double limit_value;       /* in that unit */
    double share;             /* of limit_value */
} row_rates;

row_rates row_find_rates(const compare_row *row, const machine *m);

/* What the row's time is held against. */
limit_kind row_limit(const compare_row *row);

/* Bytes that the bandwidth figures of a row are taken over: each that is read and written in place counts once. */
int64_t row_bytes(const compare_row *row);

/* The row of variant softmax with the input, instruction set and threads of `row`, or NULL. */
const compare_row *row_find_softmax(const compare_row *row, const compare_row *rows, int n_rows);

/* For a row of gradients, the row that they are the gradients of, or NULL. */
const compare_row *row_find_forward(const compare_row *row, const compare_row *rows, int n_rows);

/* Two rows belong to one table. */
int row_same_input(const compare_row *a, const compare_row *b);

#endif
