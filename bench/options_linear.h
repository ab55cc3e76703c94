/* The part of the command line that is about linear attention, as a child of the parser in options.c. */
#ifndef HEED_BENCH_OPTIONS_LINEAR_H
#define HEED_BENCH_OPTIONS_LINEAR_H

#include "bench/options.h"

#include <argp.h>

extern const struct argp options_linear_argp; /* its input: linear_settings */

/* Fills what follows from the variants. Ends the program where options do not go together. */
void options_linear_finish(const struct argp_state *argp, compare_options *options);

#endif
