/* The part of the command line that is about multiresolution-head attention, as a child of the parser in options.c. */
#ifndef HEED_BENCH_OPTIONS_MRSHA_H
#define HEED_BENCH_OPTIONS_MRSHA_H

#include "bench/options.h"

#include <argp.h>

/* The child's input. */
typedef struct mrsha_command_line {
    mrsha_settings *settings;
    int mode; /* whether it was given */
} mrsha_command_line;

extern const struct argp options_mrsha_argp;

/* Fills what follows from the variants. Ends the program where options do not go together. */
void options_mrsha_finish(const struct argp_state *argp, const mrsha_command_line *given, compare_options *options);

#endif
