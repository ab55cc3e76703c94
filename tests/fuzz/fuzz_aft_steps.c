/* heed_aft_*_step() on random descriptors: after a prefix their rows match the float64 oracle over all tokens. */
#include "aft_steps_case.h"

#include <stdio.h>
#include <stdlib.h>

void print_case(const fuzz_case *c)
{
    static const char *const names[N_TENSORS] = {"q", "k",      "v",    "out",  "w",      "u",
                                                 "f", "filter", "sums", "keys", "values", "visible"};
    const heed_aft_options *o = &c->options;
    print_tensors(c, names, N_TENSORS, NULL);
    fprintf(stderr, "form %d, prefix %lld, options %d, gate %d, window %lld, banded %d, nothing outside %d, mask %d\n",
            (int)c->form, (long long)c->n_prefix, c->has_options, (int)o->gate, (long long)o->window, o->banded,
            o->nothing_outside, c->has_mask);
    print_mask(&c->mask.mask);
}

/* ---- The calls ---- */

static heed_status step(const fuzz_case *c, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                        const heed_aft_options *options, const heed_tensor *out)
{
    const heed_tensor *sums = &c->tensor[SUMS], *keys = &c->tensor[KEYS], *values = &c->tensor[VALUES];
    const heed_aft_simple_state simple = {*sums, c->n_tokens};
    const heed_aft_local_state local = {*sums, *keys, *values, c->n_tokens};
    const heed_aft_conv_state conv = {*sums, *keys, *values, c->n_tokens};
    heed_context *context = fuzz_context(c->threads);
    switch (c->form) {
    case ORACLE_AFT_LOCAL:
        return heed_aft_local_step(context, q, k, v, options, &local, out);
    case ORACLE_AFT_CONV:
        return heed_aft_conv_step(context, q, k, v, &c->tensor[FILTER], options, &conv, out);
    default:
        return heed_aft_simple_step(context, q, k, v, options, &simple, out);
    }
}

heed_status run_call(const fuzz_case *c)
{
    return step(c, &c->tensor[Q], &c->tensor[K], &c->tensor[V], options_of(c), &c->tensor[OUT]);
}

/* ---- All tokens: the prefix, then those of the call ---- */

/* (B, H, tokens, channels), 0 where nothing is copied. */
static heed_tensor make_whole(int64_t b, int64_t h, int64_t n, int64_t channels)
{
    heed_tensor whole = heed_tensor_bhnd(NULL, HEED_FLOAT32, b, h, n, channels);
    whole.data = calloc((size_t)(b * h * n * channels) + 1, sizeof(float));
    if (whole.data == NULL)
        abort();
    return whole;
}

static float *at(const heed_tensor *t, int64_t b, int64_t h, int64_t n, int64_t c)
{
    return (float *)t->data + b * t->stride[0] + h * t->stride[1] + n * t->stride[2] + c;
}

static heed_tensor take_tokens(const heed_tensor *whole, int64_t first, int64_t n)
{
    heed_tensor part = *whole;
    part.data = (float *)whole->data + first * whole->stride[2];
    part.shape[2] = n;
    return part;
}

/* Row n of `from` becomes row first + n, where there is such a one. */
static void copy_rows(const heed_tensor *whole, const heed_tensor *from, int64_t first)
{
    const int64_t *size = whole->shape;
    for (int64_t b = 0; b < size[0]; b++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t n = first < 0 ? 0 : first; n < size[2]; n++)
                for (int64_t c = 0; c < size[3]; c++)
                    *at(whole, b, h, n, c) = (float)oracle_broadcast_value(from, b, h, n - first, c);
}

typedef struct whole_tokens {
    heed_tensor q, k, v, w, u, f;
    int64_t n_prefix;
} whole_tokens;

static void fill(const heed_tensor *t, int64_t n_rows, uint64_t x)
{
    for (int64_t b = 0; b < t->shape[0]; b++)
        for (int64_t h = 0; h < t->shape[1]; h++)
            for (int64_t n = 0; n < n_rows; n++)
                for (int64_t c = 0; c < t->shape[3]; c++) {
                    x = x * 6364136223846793005u + 1442695040888963407u;
                    *at(t, b, h, n, c) = (float)(x >> 40) / 8388608.0f - 1.0f;
                }
}

static whole_tokens make_tokens(const fuzz_case *c)
{
    const int64_t *size = c->tensor[Q].shape, n = c->n_prefix + size[2];
    whole_tokens a = {.n_prefix = c->n_prefix};
    a.q = make_whole(size[0], size[1], n, size[3]);
    a.k = make_whole(size[0], size[1], n, c->tensor[K].shape[3]);
    a.v = make_whole(size[0], size[1], n, size[3]);
    fill(&a.k, a.n_prefix, 1);
    fill(&a.v, a.n_prefix, 2);
    copy_rows(&a.q, &c->tensor[Q], a.n_prefix);
    copy_rows(&a.k, &c->tensor[K], a.n_prefix);
    copy_rows(&a.v, &c->tensor[V], a.n_prefix);
    if (is_used(c, W)) {
        a.w = make_whole(size[0], size[1], n, c->options.window);
        copy_rows(&a.w, &c->tensor[W], a.n_prefix);
    }
    if (is_used(c, U)) {
        a.u = make_whole(size[0], size[1], n, c->tensor[U].shape[3]);
        a.f = make_whole(size[0], size[1], n, c->tensor[U].shape[3]);
        copy_rows(&a.u, &c->tensor[U], a.n_prefix);
        copy_rows(&a.f, &c->tensor[F], a.n_prefix - (c->options.window - 1));
    }
    return a;
}

static void free_tokens(const whole_tokens *a)
{
    free(a->q.data);
    free(a->k.data);
    free(a->v.data);
    free(a->w.data);
    free(a->u.data);
    free(a->f.data);
}

/* Takes the prefix into the state of a valid case. Its biases do not reach the state. */
static void take_prefix(const fuzz_case *c, const whole_tokens *a)
{
    const heed_aft_simple_state state = {c->tensor[SUMS], c->n_tokens};
    if (heed_aft_simple_state_reset(&state, -1) != HEED_OK)
        fail_case(c, "reset", "failed");
    const int64_t *size = a->q.shape;
    const heed_tensor out = make_whole(size[0], size[1], a->n_prefix, size[3]);
    const heed_tensor q = take_tokens(&a->q, 0, a->n_prefix), k = take_tokens(&a->k, 0, a->n_prefix),
                      v = take_tokens(&a->v, 0, a->n_prefix);
    heed_aft_options options = HEED_AFT_OPTIONS_INIT;
    options.window = c->form == ORACLE_AFT_LOCAL ? c->options.window : 0;
    options.nothing_outside = c->form == ORACLE_AFT_LOCAL && c->options.nothing_outside;
    if (step(c, &q, &k, &v, &options, &out) != HEED_OK)
        fail_case(c, "the prefix failed", heed_context_message(fuzz_context(c->threads)));
    free(out.data);
}

/* ---- The results ---- */

static int64_t length_of(const fuzz_case *c, int64_t b)
{
    const heed_aft_options *o = options_of(c);
    return o && o->mask && o->mask->query_lengths ? o->mask->query_lengths[b] : c->tensor[Q].shape[2];
}

/* The oracle's rows of the call; 0 where a token does not count. */
static void compare_results(const fuzz_case *c, const whole_tokens *a)
{
    const int64_t *size = c->tensor[Q].shape;
    heed_mask mask = HEED_MASK_INIT;
    heed_aft_options options = c->has_options ? c->options : (heed_aft_options)HEED_AFT_OPTIONS_INIT;
    mask.causal = 1;
    options.mask = &mask;
    options.w = a->w.data ? &a->w : NULL;
    options.query_factors = a->u.data ? &a->u : NULL;
    options.key_factors = a->f.data ? &a->f : NULL;
    const size_t n_channels = (size_t)size[3];
    double *want = calloc((size_t)(size[0] * size[1] * size[2]) * n_channels + 1, sizeof *want);
    if (want == NULL)
        abort();
    for (int64_t row = 0; row < size[0] * size[1] * size[2]; row++) {
        const int64_t i = row % size[2], h = row / size[2] % size[1], b = row / size[2] / size[1];
        if (i < length_of(c, b))
            oracle_aft_row(c->form, &a->q, &a->k, &a->v, &c->tensor[FILTER], &options, b, h, a->n_prefix + i,
                           want + (size_t)row * n_channels, NULL);
    }
    expect_equal(c, "out", compare_tensor(&c->tensor[OUT], want, 1e-5 * tensor_max_abs(&a->v), 1.0));
    for (int64_t b = 0; b < size[0]; b++)
        if (c->n_tokens[b] != a->n_prefix + length_of(c, b))
            fail_case(c, "n_tokens", "does not go on");
    free(want);
}

/* ---- One case ---- */

void check_valid(const fuzz_case *c)
{
    const whole_tokens all = make_tokens(c);
    take_prefix(c, &all);
    expect_success(c);
    compare_results(c, &all);
    free_tokens(&all);
}
