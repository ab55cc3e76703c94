/* What the CMocka programs over softmax attention share: one context for the program, and assertions that say which
 * case failed. */
#ifndef HEED_TEST_FIXTURE_H
#define HEED_TEST_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "oracle/oracle.h"
#include "support/attention.h"
#include "support/runner.h"
#include "support/seed.h"

static heed_context *fixture_context;

static inline int fixture_open(void **state)
{
    fixture_context = runner_context(1, NULL);
    return print_seed(state);
}

static inline int fixture_close(void **state)
{
    (void)state;
    heed_context_destroy(fixture_context);
    return 0;
}

static inline void expect_match(attention *problem, const heed_softmax_options *options, double max_score,
                                const char *name)
{
    char text[600];
    if (!attention_matches(problem, fixture_context, options, max_score, text, sizeof(text)))
        fail_msg("%s: %s", name, text);
}

static inline void expect_run(attention *problem, heed_context *context, const heed_softmax_options *options)
{
    const heed_status status = attention_run(problem, context, options);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(context));
}

static inline void expect_same_bits(const attention *got, const attention *want, const char *name)
{
    char text[600];
    if (!attention_same_bits(got, want, text, sizeof(text)))
        fail_msg("%s: %s", name, text);
}

#endif
