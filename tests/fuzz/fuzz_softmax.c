/* heed_softmax_forward() on random descriptors: a call that is right by the rules of heed.h succeeds and matches the
 * float64 oracle; any other one fails, says why, and changes nothing.
 *
 * Built with -fsanitize=fuzzer it is a libFuzzer target; with replay.c it runs cases made from seeds. */
#include "oracle/oracle.h"
#include "softmax_case.h"
#include "support/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void print_case(const fuzz_case *c)
{
    static const char *const names[N_TENSORS] = {"q", "k", "v", "out", "lse", "bias", "visible"};
    for (int t = 0; t < N_TENSORS; t++)
        print_tensor(names[t], &c->tensor[t]);
    fprintf(stderr, "lse %d, bias %d, options %d, mask %d, visible %d, scale %g, softcap %g, slopes %d, sinks %d\n",
            c->has_lse, c->has_bias, c->has_options, c->has_mask, c->has_visible, (double)c->options.scale,
            (double)c->options.softcap, c->options.alibi_slopes != NULL, c->options.sinks != NULL);
    print_mask(&c->mask.mask);
}

static void fail_case(const fuzz_case *c, const char *what, const char *details)
{
    fprintf(stderr, "%s: %s\n", what, details);
    print_case(c);
    abort();
}

/* Of the two bounds of heed.h the wider one, for one score far above the others: a case may well have such a score. Its
 * weight is most of a sum over a block of 128 keys, in which each of the others may be rounded away:
 * 127 x 2^-24 = 7.6e-6 in the sum of the weights, as much in that of the values, and 2 ulp of a softcap of 20, 3.8e-6,
 * in the exponent. */
static const double out_bound = 2e-5;

/* lse is log sum exp of scores that are off by at most
 *
 *     (D + 4) 2^-24 x 30: a float sum of D products below 30 in all, the scale, softcap, bias and ALiBi,
 *
 * and of a sum of weights with a relative error that the bound on out covers; m + log l is then rounded once, by at most
 * 1 ulp or 2^-23 |lse|. */
static double lse_tolerance(const fuzz_case *c) { return ((double)c->d + 4.0) * 0x1p-24 * 30.0 + out_bound; }

static const double lse_relative_tolerance = 0x1p-23;

static void expect_equal(const fuzz_case *c, const char *name, compare_result result)
{
    if (!result.equal)
        fail_case(c, name, result.text);
}

static void compare_results(const fuzz_case *c)
{
    const heed_tensor *out = &c->tensor[OUT], *q = &c->tensor[Q];
    const heed_softmax_options *options = c->has_options ? &c->options : NULL;
    const size_t n_rows = (size_t)(q->shape[0] * q->shape[1] * q->shape[2]);
    double *want_out = malloc(n_rows * (size_t)out->shape[3] * sizeof(double) + 1);
    double *want_lse = malloc(n_rows * sizeof(double) + 1);
    if (want_out == NULL || want_lse == NULL)
        abort();
    oracle_softmax(q, &c->tensor[K], &c->tensor[V], options, want_out, want_lse);
    expect_equal(c, "out", compare_tensor(out, want_out, out_bound * tensor_max_abs(&c->tensor[V]), 1.0));
    if (c->has_lse)
        expect_equal(c, "lse", compare_each(&c->tensor[LSE], want_lse, lse_tolerance(c), lse_relative_tolerance));
    free(want_out);
    free(want_lse);
}

static int is_output(tensor_id t) { return t == OUT || t == LSE; }

static void run_case(fuzz_case *c)
{
    heed_context *context = fuzz_context(c->threads);
    const int valid = is_valid(c);
    keep_blocks(c->block, N_TENSORS);
    const heed_status status =
        heed_softmax_forward(context, &c->tensor[Q], &c->tensor[K], &c->tensor[V], c->has_options ? &c->options : NULL,
                             &c->tensor[OUT], c->has_lse ? &c->tensor[LSE] : NULL);
    const char *message = heed_context_message(context);
    if ((status == HEED_OK) != valid)
        fail_case(c, valid ? "a valid call failed" : "an invalid call succeeded", message);
    if ((status == HEED_OK) != (message[0] == '\0'))
        fail_case(c, "status and message disagree", message);
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if ((status != HEED_OK || (!is_output(t) && !c->shares_block)) && !block_is_kept(&c->block[t]))
            fail_case(c, "memory has changed", heed_status_text(status));
    if (status == HEED_OK)
        compare_results(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static fuzz_case c;
    if (make_case(&c, (byte_reader){bytes, bytes + n_bytes}))
        run_case(&c);
    free_case(&c);
    return 0;
}
