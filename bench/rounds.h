/* Times the rows of one input in interleaved rounds: row 1, row 2, ..., row 1, row 2, ... Whatever disturbs the machine
 * for a second then disturbs all rows, or a round that does not count. */
#ifndef HEED_BENCH_ROUNDS_H
#define HEED_BENCH_ROUNDS_H

#include "bench/progress.h"
#include "bench/row.h"

enum { ROUNDS_MAX_REPEATS = 2000 };

typedef struct rounds_settings {
    int n_rounds;
    int n_repeats;       /* runs of a row in each round, at most ROUNDS_MAX_REPEATS; 0: as many as fill cell_seconds */
    double cell_seconds; /* also the time a row runs before anything is timed */
} rounds_settings;

/* Five rounds of 40 ms; `quick` is for rough figures at once: one round of 2 ms. */
rounds_settings rounds_default(int quick);

/* Prepares, runs and times the rows: fills ms, n_repeats and scratch_bytes, and leaves each output of the last run in
 * setup.out. The ceilings of the rows are taken before the first round and after every one. Returns 0, or -1 with the
 * reason in `message`; no row is left prepared. */
int rounds_run(compare_row *rows, int n_rows, const rounds_settings *settings, machine *m, progress *bar, char *message,
               size_t message_bytes);

#endif
