/* heed_softmax_forward() on random descriptors, against the float64 oracle. */
#include "oracle/oracle.h"
#include "softmax_case.h"

#include <stdio.h>
#include <stdlib.h>

void print_case(const fuzz_case *c)
{
    static const char *const names[N_TENSORS] = {"q", "k", "v", "out", "lse", "bias", "visible"};
    print_tensors(c, names, N_TENSORS, NULL);
    print_softmax_options("options", options_of(c));
}

heed_status run_call(const fuzz_case *c)
{
    return heed_softmax_forward(fuzz_context(c->threads), &c->tensor[Q], &c->tensor[K], &c->tensor[V], options_of(c),
                                &c->tensor[OUT], c->has_lse ? &c->tensor[LSE] : NULL);
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

static void compare_results(const fuzz_case *c)
{
    const heed_tensor *out = &c->tensor[OUT], *q = &c->tensor[Q];
    const size_t n_rows = (size_t)(q->shape[0] * q->shape[1] * q->shape[2]);
    double *want_out = malloc(n_rows * (size_t)out->shape[3] * sizeof(double) + 1);
    double *want_lse = malloc(n_rows * sizeof(double) + 1);
    if (want_out == NULL || want_lse == NULL)
        abort();
    oracle_softmax(q, &c->tensor[K], &c->tensor[V], options_of(c), want_out, want_lse);
    expect_equal(c, "out", compare_tensor(out, want_out, out_bound * tensor_max_abs(&c->tensor[V]), 1.0));
    if (c->has_lse)
        expect_equal(c, "lse", compare_each(&c->tensor[LSE], want_lse, lse_tolerance(c), lse_relative_tolerance));
    free(want_out);
    free(want_lse);
}

void check_valid(const fuzz_case *c)
{
    expect_success(c);
    compare_results(c);
}
