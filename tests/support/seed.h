/* The seed of a run in its output, so that a failure can be repeated: a group setup for CMocka programs. */
#ifndef HEED_TEST_SEED_H
#define HEED_TEST_SEED_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/random.h"

static inline int print_seed(void **state)
{
    (void)state;
    print_message("HEED_TEST_SEED=%" PRIu64 "\n", random_seed());
    return 0;
}

#endif
