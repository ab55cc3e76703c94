/* heed_mrsha_forward() and heed_mrsha_step() on random descriptors, against the float64 oracle; they give the same bits
 * in other threads, in other steps, and whatever hidden tokens hold. And the functions that tell sizes
 * (mrsha_sizes.c). */
#include "mrsha_case.h"
#include "oracle/oracle.h"
#include "support/attention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void print_case(const fuzz_case *c)
{
    static const char *const verbs[] = {"forward", "step", "sizes"};
    static const char *const names[N_TENSORS] = {"q",       "k",      "v",         "out",        "lse",
                                                 "weights", "bias",   "visible",   "fine bias",  "fine visible",
                                                 "keys",    "values", "open keys", "open values"};
    const heed_mrsha_options *o = options_of(c);
    fprintf(stderr, "%s, threads %d, missing %d, max_tokens %lld\n", verbs[c->verb], c->threads, c->missing,
            (long long)c->max_tokens);
    print_tensors(c, names, N_TENSORS, NULL);
    if (c->verb == SIZES)
        print_numbers(c);
    if (!o)
        return;
    fprintf(stderr, "mode %d, pooling %d, upsampling %d, grid %lld %lld, class token %d, group sizes", (int)o->mode,
            (int)o->pooling, (int)o->upsampling, (long long)o->grid_height, (long long)o->grid_width, o->class_token);
    for (int64_t h = 0; o->group_sizes == c->group_sizes && h < c->hq; h++)
        fprintf(stderr, " %lld", (long long)c->group_sizes[h]);
    fprintf(stderr, "\n");
    print_softmax_options("softmax", o->softmax);
    print_softmax_options("fine", o->fine);
}

/* ---- The calls ---- */

static const heed_tensor *given(const fuzz_case *c, int t) { return c->missing == t ? NULL : &c->tensor[t]; }

static heed_mrsha_state state_of(const fuzz_case *c)
{
    const heed_tensor *t = c->tensor;
    return (heed_mrsha_state){t[KEYS], t[VALUES], t[OPEN_KEYS], t[OPEN_VALUES], c->max_tokens, c->n_tokens};
}

static heed_status run_in(const fuzz_case *c, heed_context *context)
{
    const heed_mrsha_state state = state_of(c);
    if (c->verb == STEP)
        return heed_mrsha_step(context, given(c, Q), given(c, K), given(c, V), options_of(c),
                               c->has_state ? &state : NULL, given(c, OUT));
    return heed_mrsha_forward(context, given(c, Q), given(c, K), given(c, V), options_of(c), given(c, OUT),
                              c->has_lse ? &c->tensor[LSE] : NULL);
}

heed_status run_call(const fuzz_case *c) { return run_in(c, fuzz_context(c->threads)); }

/* ---- Options ---- */

static heed_softmax_options softmax_options_of(const fuzz_case *c)
{
    static const heed_softmax_options defaults = HEED_SOFTMAX_OPTIONS_INIT;
    return softmax_of(c, ALL) ? *softmax_of(c, ALL) : defaults;
}

/* New tokens of a step that count. */
static int64_t new_tokens(const fuzz_case *c, int64_t b)
{
    return oracle_query_length(softmax_options_of(c).mask, b, c->tensor[Q].shape[2]);
}

/* Tokens of Q or K up to the last one that counts for some head. */
static int64_t most_tokens(const fuzz_case *c, int t, int64_t b)
{
    int64_t most = 0;
    for (int which = 0; which < N_OPTIONS; which++) {
        const heed_softmax_options *o = softmax_of(c, which);
        const heed_mask *mask = o ? o->mask : NULL;
        const int64_t n = t == Q || c->verb == STEP ? oracle_query_length(mask, b, c->tensor[Q].shape[2])
                                                    : oracle_key_length(mask, b, c->tensor[K].shape[2]);
        if (which == ALL || o)
            most = n > most ? n : most;
    }
    return most;
}

/* ---- The oracle ---- */

/* The bounds of heed.h: of softmax attention the wider one (see fuzz_softmax.c), 1e-6 for the means of values, and an
 * error of 1e-6 of the largest score, 12, which is at most as large an error of the row. */
static const double out_bound = 2e-5 + 1e-6 + 12e-6;

/* As in fuzz_softmax.c, with the error that the means add to the scores. */
static double lse_tolerance(const fuzz_case *c) { return ((double)c->d + 4.0) * 0x1p-24 * 30.0 + out_bound; }

static const double lse_relative_tolerance = 0x1p-23;

static void compare_results(const fuzz_case *c, const heed_mrsha_options *options)
{
    const heed_tensor *out = &c->tensor[OUT], *v = &c->tensor[V];
    const int64_t n_rows = out->shape[0] * out->shape[1] * out->shape[2];
    double *want_out = oracle_zeros(n_rows * out->shape[3]), *want_lse = oracle_zeros(n_rows);
    oracle_mrsha(&c->tensor[Q], &c->tensor[K], v, options, want_out, want_lse);
    expect_equal(c, "out", compare_tensor(out, want_out, out_bound * tensor_max_abs(v), 1.0));
    if (is_used(c, LSE))
        expect_equal(c, "lse", compare_each(&c->tensor[LSE], want_lse, lse_tolerance(c), lse_relative_tolerance));
    free(want_out);
    free(want_lse);
}

/* The first tokens of all sequences are causal attention. */
static void compare_first_step(const fuzz_case *c)
{
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options softmax = softmax_options_of(c);
    heed_mrsha_options options = c->options;
    mask.causal = 1;
    mask.query_lengths = mask.key_lengths = softmax.mask ? softmax.mask->query_lengths : NULL;
    softmax.mask = &mask;
    options.softmax = &softmax;
    compare_results(c, &options);
}

/* ---- The same call again ---- */

/* What the call left when it ran first, and n_tokens before and after it. */
typedef struct first_run {
    unsigned char *blocks, *rows; /* all blocks; those of out and lse */
    int64_t before[MAX_BATCHES], after[MAX_BATCHES];
} first_run;

static void note_tokens(const fuzz_case *c, int64_t tokens[MAX_BATCHES])
{
    for (int64_t b = 0; c->verb == STEP && b < c->tensor[Q].shape[0]; b++)
        tokens[b] = c->n_tokens[b];
}

static void expect_tokens(const fuzz_case *c, const int64_t want[MAX_BATCHES])
{
    for (int64_t b = 0; c->verb == STEP && b < c->tensor[Q].shape[0]; b++)
        if (c->n_tokens[b] != want[b])
            fail_case(c, "n_tokens", "does not go on as it should");
}

/* Before the call; -1: all sequences. */
static void start_anew(const fuzz_case *c)
{
    const heed_mrsha_state state = state_of(c);
    const int64_t n_batches = c->tensor[Q].shape[0];
    int64_t want[MAX_BATCHES];
    note_tokens(c, want);
    for (int64_t b = 0; b < n_batches; b++)
        want[b] = c->reset == -1 || c->reset == b ? 0 : want[b];
    const heed_status status = heed_mrsha_state_reset(&state, c->reset);
    if ((status == HEED_OK) != (c->reset >= -1 && c->reset < n_batches))
        fail_case(c, "heed_mrsha_state_reset", heed_status_text(status));
    expect_tokens(c, want);
}

static void go_back(const fuzz_case *c, const first_run *first)
{
    restore_blocks(c->block, N_TENSORS);
    for (int64_t b = 0; c->verb == STEP && b < c->tensor[Q].shape[0]; b++)
        c->n_tokens[b] = first->before[b];
}

static int are_first_tokens(const first_run *first)
{
    static const int64_t none[MAX_BATCHES] = {0};
    return memcmp(first->before, none, sizeof none) == 0;
}

static void expect_same_bits(const fuzz_case *c, const first_run *first, const char *name)
{
    if (!blocks_hold(c->block, N_TENSORS, first->blocks))
        fail_case(c, name, "other bits");
    expect_tokens(c, first->after);
}

static void run_in_other_threads(const fuzz_case *c, const first_run *first)
{
    heed_context *context = fuzz_context(1 - c->threads);
    go_back(c, first);
    if (run_in(c, context) != HEED_OK)
        fail_case(c, "in other threads", heed_context_message(context));
    expect_same_bits(c, first, "in other threads");
}

/* Of the new tokens n from `at` on. */
static void run_part(const fuzz_case *c, int64_t at, int64_t n)
{
    const heed_tensor q = tensor_slice(&c->tensor[Q], 2, at, n), k = tensor_slice(&c->tensor[K], 2, at, n);
    const heed_tensor v = tensor_slice(&c->tensor[V], 2, at, n), out = tensor_slice(&c->tensor[OUT], 2, at, n);
    const heed_mrsha_state state = state_of(c);
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options softmax = softmax_options_of(c);
    heed_mrsha_options options = c->options;
    int64_t lengths[MAX_BATCHES];
    for (int64_t b = 0; b < c->tensor[Q].shape[0]; b++) {
        const int64_t left = new_tokens(c, b) - at;
        lengths[b] = left < 0 ? 0 : left < n ? left : n;
    }
    mask.causal = 1;
    mask.query_lengths = lengths;
    softmax.mask = &mask;
    options.softmax = &softmax;
    heed_context *context = fuzz_context(c->threads);
    if (heed_mrsha_step(context, &q, &k, &v, &options, &state, &out) != HEED_OK)
        fail_case(c, "in parts", heed_context_message(context));
}

static void run_in_parts(const fuzz_case *c, const first_run *first)
{
    const int64_t n_tokens = c->tensor[Q].shape[2];
    go_back(c, first);
    for (int64_t i = 0, at = 0, n; at < n_tokens; i++, at += n) {
        n = c->parts[i % N_PARTS] < n_tokens - at ? c->parts[i % N_PARTS] : n_tokens - at;
        run_part(c, at, n);
    }
    expect_same_bits(c, first, "in parts");
}

/* All that no row sees is NaN: tokens that do not count, gaps, the state of a sequence without tokens. */
static void run_poisoned(const fuzz_case *c, const first_run *first)
{
    int64_t queries[MAX_BATCHES], keys[MAX_BATCHES], rows[MAX_BATCHES];
    go_back(c, first);
    for (int64_t b = 0; b < c->tensor[Q].shape[0]; b++) {
        queries[b] = most_tokens(c, Q, b);
        keys[b] = most_tokens(c, K, b);
        rows[b] = first->before[b] > 0 ? INT64_MAX : 0;
    }
    poison_rest(&c->tensor[Q], &c->block[Q], queries);
    poison_rest(&c->tensor[K], &c->block[K], keys);
    poison_rest(&c->tensor[V], &c->block[V], keys);
    for (int t = KEYS; c->verb == STEP && t <= OPEN_VALUES; t++)
        poison_rest(&c->tensor[t], &c->block[t], rows);
    if (run_call(c) != HEED_OK)
        fail_case(c, "poisoned", heed_context_message(fuzz_context(c->threads)));
    if (!blocks_hold(&c->block[OUT], 2, first->rows))
        fail_case(c, "rows depend on", "what nobody sees");
}

/* ---- One case ---- */

static void check_scratch(const fuzz_case *c)
{
    int64_t bytes = -1;
    const heed_status status =
        heed_mrsha_scratch_bytes(&c->tensor[Q], &c->tensor[K], &c->tensor[V], options_of(c), &bytes);
    expect_told_scratch(c, status, bytes);
}

void check_valid(const fuzz_case *c)
{
    first_run first = {NULL, NULL, {0}, {0}};
    if (c->verb == SIZES) {
        check_numbers(c);
        return;
    }
    if (c->verb == STEP)
        start_anew(c);
    note_tokens(c, first.before);
    expect_success(c);
    check_scratch(c);
    for (int64_t b = 0; b < c->tensor[Q].shape[0]; b++)
        first.after[b] = first.before[b] + new_tokens(c, b);
    expect_tokens(c, first.after);
    if (c->verb == FORWARD)
        compare_results(c, options_of(c));
    else if (are_first_tokens(&first))
        compare_first_step(c);
    first.blocks = copy_blocks(c->block, N_TENSORS);
    first.rows = copy_blocks(&c->block[OUT], 2);
    run_in_other_threads(c, &first);
    if (c->verb == STEP)
        run_in_parts(c, &first);
    if (!c->shares_block)
        run_poisoned(c, &first);
    free(first.blocks);
    free(first.rows);
}
