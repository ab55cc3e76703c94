/* heed_aft_*_forward() on random descriptors: a call that is right by the rules of heed.h succeeds and matches the
 * float64 oracle; any other one fails, says why, and changes nothing. What the scratch functions tell is enough.
 *
 * Built with -fsanitize=fuzzer it is a libFuzzer target; with replay.c it runs cases made from seeds. */
#include "aft_case.h"
#include "support/aft_forward.h"
#include "support/compare.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void print_case(const fuzz_case *c)
{
    static const char *const names[N_TENSORS] = {"q", "k", "v", "out", "lse", "w", "u", "f", "filter", "visible"};
    const heed_aft_options *o = &c->options;
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if (is_used(c, t))
            print_tensor(names[t], &c->tensor[t]);
    fprintf(stderr,
            "form %d, options %d, gate %d, window %lld, banded %d, nothing outside %d, grid %lld %lld, mask %d\n",
            (int)c->form, c->has_options, (int)o->gate, (long long)o->window, o->banded, o->nothing_outside,
            (long long)o->grid_height, (long long)o->grid_width, c->has_mask);
    print_mask(&c->mask.mask);
}

static void fail_case(const fuzz_case *c, const char *what, const char *details)
{
    fprintf(stderr, "%s: %s\n", what, details);
    print_case(c);
    abort();
}

/* The bound of heed.h. lse is off by the relative error of the weights' sum; the reference, of about its size, and the
 * sum are rounded once each: 2 ulp. */
static const double bound = 1e-5, lse_relative_tolerance = 2 * 0x1p-23;

static void expect_equal(const fuzz_case *c, const char *name, compare_result result)
{
    if (!result.equal)
        fail_case(c, name, result.text);
}

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

static int is_output(tensor_id t) { return t == OUT || t == LSE; }

/* The call needs no more for each worker than was told before. */
static void check_scratch(const fuzz_case *c, const heed_context *context)
{
    int64_t bytes = -1;
    heed_report report = HEED_REPORT_INIT;
    const heed_status status = aft_scratch_bytes(c->form, &c->tensor[Q], &c->tensor[K], &c->tensor[V],
                                                 &c->tensor[FILTER], options_of(c), &bytes);
    if (status != HEED_OK)
        fail_case(c, "the scratch of a valid call is not told", heed_status_text(status));
    if (heed_context_report(context, &report) != HEED_OK || report.scratch_bytes > bytes * report.n_workers)
        fail_case(c, "more scratch than told", report.path);
}

static void run_case(fuzz_case *c)
{
    heed_context *context = fuzz_context(c->threads);
    const int valid = is_valid(c);
    keep_blocks(c->block, N_TENSORS);
    const heed_status status =
        aft_forward(c->form, context, &c->tensor[Q], &c->tensor[K], &c->tensor[V], &c->tensor[FILTER], options_of(c),
                    &c->tensor[OUT], c->has_lse ? &c->tensor[LSE] : NULL);
    const char *message = heed_context_message(context);
    if ((status == HEED_OK) != valid)
        fail_case(c, valid ? "a valid call failed" : "an invalid call succeeded", message);
    if ((status == HEED_OK) != (message[0] == '\0'))
        fail_case(c, "status and message disagree", message);
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if ((status != HEED_OK || (!is_output(t) && !c->shares_block)) && !block_is_kept(&c->block[t]))
            fail_case(c, "memory has changed", heed_status_text(status));
    if (status == HEED_OK) {
        compare_results(c);
        check_scratch(c, context);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static fuzz_case c;
    if (make_case(&c, (byte_reader){bytes, bytes + n_bytes}))
        run_case(&c);
    free_case(&c);
    return 0;
}
