/* The result as text. */
#ifndef HEED_BENCH_TABLE_H
#define HEED_BENCH_TABLE_H

#include "bench/row.h"

/* Prints the machine, then one table for each input, to stdout. Rows of one input lie together. */
void table_print(const compare_row *rows, int n_rows, const machine *m);

#endif
