/* The result as JSON, for scripts: an object with `machine` and `rows`. */
#ifndef HEED_BENCH_JSON_H
#define HEED_BENCH_JSON_H

#include "bench/row.h"

/* Returns 0, or -1 with the reason in `message`. A figure that is not finite is written as null. */
int json_write(const char *path, const compare_row *rows, int n_rows, const machine *m, char *message,
               size_t message_bytes);

#endif
