/* The part of the command line that is about AFT, as a child of the parser in options.c. */
#ifndef HEED_BENCH_OPTIONS_AFT_H
#define HEED_BENCH_OPTIONS_AFT_H

#include "bench/options.h"

#include <argp.h>

/* The child's input. */
typedef struct aft_command_line {
    aft_settings *settings;
    int window, factors, conv_heads, conv_filter, grid; /* which options were given */
    int filter_dimensions;
} aft_command_line;

extern const struct argp options_aft_argp;

/* Fills what was not given once the variants are known. Ends the program where options do not go together. */
void options_aft_finish(const struct argp_state *argp, const aft_command_line *given, compare_options *options);

#endif
