/* Single values of the command line, each read and checked. A value that makes no sense ends the program with a message
 * that names the option, and exit code 2. */
#ifndef HEED_BENCH_OPTION_VALUES_H
#define HEED_BENCH_OPTION_VALUES_H

#include "bench/options.h"

#include <argp.h>

/* Integers separated by commas, each in [low, high], at most `capacity` of them. Returns how many. */
int value_integers(const struct argp_state *argp, const char *option, const char *text, int64_t low, int64_t high,
                   int64_t *values, int capacity);

/* One size or two, as in 11x11. Returns how many. */
int value_sides(const struct argp_state *argp, const char *option, const char *text, int64_t low, int64_t high,
                int64_t sides[2]);

/* One integer in [low, high]. */
int64_t value_integer(const struct argp_state *argp, const char *option, const char *text, int64_t low, int64_t high);

/* B,Hq,Hkv,Nq,Nk,D,Dv */
void value_shape(const struct argp_state *argp, const char *text, attention_shape *shape);

/* The name of a layout; of an instruction set that is built and runs here, or auto; of a variant of this build. */
input_layout value_layout(const struct argp_state *argp, const char *text);
heed_isa value_isa(const struct argp_state *argp, const char *name);
const variant *value_variant(const struct argp_state *argp, const char *name);

/* Calls `add` for each name in a list separated by commas. */
void value_names(const struct argp_state *argp, const char *text, compare_options *options,
                 void (*add)(const struct argp_state *argp, const char *name, compare_options *options));

#endif
