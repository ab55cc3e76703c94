/* Writes what the variants computed, for others to check. */
#ifndef HEED_BENCH_OUTPUTS_H
#define HEED_BENCH_OUTPUTS_H

#include "bench/row.h"

/* For the rows of one input: FOLDER/VARIANT.npy, the output of the variant's first row, in the order head, token,
 * channel with as many dimensions as the input had; and q, k, v, bias and visible (1 or 0) where they were random.
 * Makes the folder. Returns 0, or -1 with the reason in `message`. */
int outputs_write(const char *folder, const compare_row *rows, int n_rows, char *message, size_t message_bytes);

#endif
