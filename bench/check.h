/* Is the output right? Compares it with the float64 oracle, every row of small inputs and a sample of large ones. */
#ifndef HEED_BENCH_CHECK_H
#define HEED_BENCH_CHECK_H

#include "bench/row.h"

/* Fills the errors of the rows of one input, whose outputs lie in setup.out: max |out - own| and that over max |own|,
 * where own is the oracle of the row's mechanism, and |out - softmax|_2 / |softmax|_2, NaN where the result is no output of
 * attention; the latter also for each resolution, where heads have one. The oracle uses n_threads.
 * Returns -1 without memory, else 0. */
int check_rows(compare_row *rows, int n_rows, int n_threads);

/* Rows that an input's output has. */
int64_t check_count_rows(const attention_input *input);

#endif
