/* Which options go with which variants. What does not go together ends the program with a message that names the option,
 * and exit code 2. */
#ifndef HEED_BENCH_OPTION_RULES_H
#define HEED_BENCH_OPTION_RULES_H

#include "bench/options.h"

#include <argp.h>

/* An option that no variant of the run looks at would mislead: one at least must be of these kinds. */
void option_needs_variant(const struct argp_state *argp, const char *option, const compare_options *options,
                          variant_kinds kinds);

/* Mechanisms that are compared with no mask but the causal one, and without bias of scores. */
void option_check_attention(const struct argp_state *argp, const compare_options *options);

#endif
