/* heed_aft_*_forward() on random descriptors, against the float64 oracle. What the scratch functions tell is enough. */
#include "aft_case.h"
#include "support/aft_forward.h"

#include <stdio.h>
#include <stdlib.h>

void print_case(const fuzz_case *c)
{
    static const char *const names[N_TENSORS] = {"q", "k", "v", "out", "lse", "w", "u", "f", "filter", "visible"};
    const heed_aft_options *o = &c->options;
    print_tensors(c, names, N_TENSORS, NULL);
    fprintf(stderr,
            "form %d, options %d, gate %d, window %lld, banded %d, nothing outside %d, grid %lld %lld, mask %d\n",
            (int)c->form, c->has_options, (int)o->gate, (long long)o->window, o->banded, o->nothing_outside,
            (long long)o->grid_height, (long long)o->grid_width, c->has_mask);
    print_mask(&c->mask.mask);
}

heed_status run_call(const fuzz_case *c)
{
    return aft_forward(c->form, fuzz_context(c->threads), &c->tensor[Q], &c->tensor[K], &c->tensor[V],
                       &c->tensor[FILTER], options_of(c), &c->tensor[OUT], c->has_lse ? &c->tensor[LSE] : NULL);
}

/* The bound of heed.h. lse is off by the relative error of the weights' sum; the reference, of about its size, and the
 * sum are rounded once each: 2 ulp. */
static const double bound = 1e-5, lse_relative_tolerance = 2 * 0x1p-23;

static void compare_results(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K], *v = &c->tensor[V];
    const size_t n_rows = (size_t)(q->shape[0] * q->shape[1] * q->shape[2]), n_channels = (size_t)q->shape[3];
    double *want_out = malloc(n_rows * n_channels * sizeof(double) + 1);
    double *want_lse = malloc(n_rows * n_channels * sizeof(double) + 1);
    if (want_out == NULL || want_lse == NULL)
        abort();
    oracle_aft(c->form, q, k, v, &c->tensor[FILTER], options_of(c), want_out, want_lse);
    expect_equal(c, "out", compare_tensor(&c->tensor[OUT], want_out, bound * tensor_max_abs(v), 1.0));
    if (c->has_lse)
        expect_equal(c, "lse", compare_each(&c->tensor[LSE], want_lse, bound, lse_relative_tolerance));
    free(want_out);
    free(want_lse);
}

void check_valid(const fuzz_case *c)
{
    int64_t bytes = -1;
    expect_success(c);
    const heed_status status = aft_scratch_bytes(c->form, &c->tensor[Q], &c->tensor[K], &c->tensor[V],
                                                 &c->tensor[FILTER], options_of(c), &bytes);
    expect_told_scratch(c, status, bytes);
    compare_results(c);
}
