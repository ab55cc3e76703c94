/* The result as a picture, drawn by gnuplot. */
#ifndef HEED_BENCH_CHART_H
#define HEED_BENCH_CHART_H

#include "bench/row.h"

/* Is there a gnuplot on PATH? Returns 0, or -1 with a message: asked before anything is measured. */
int chart_check_gnuplot(char *message, size_t message_bytes);

/* Draws time and error for each row, or both over N on log axes where the inputs are a sweep. Returns 0, or -1 with the
 * reason in `message`. */
int chart_write(const char *path, const compare_row *rows, int n_rows, int sweep, const machine *m, char *message,
                size_t message_bytes);

#endif
