#include "aft_case.h"

static void choose_view(fuzz_case *c, tensor_id t, int64_t b, int64_t h, int64_t n, int64_t channels, byte_reader *r)
{
    c->tensor[t] = heed_tensor_bhnd(NULL, t == VISIBLE ? HEED_BOOL : HEED_FLOAT32, b, h, n, channels);
    choose_strides(&c->tensor[t], t != OUT && t != LSE, r);
}

/* ---- Sizes and options ---- */

/* Most cases are small; some have more rows than a group, some many keys, some more channels than a slice. */
static void choose_sizes(fuzz_case *c, byte_reader *r)
{
    const int64_t kind = take(r, 16);
    c->form = (oracle_aft_form)take(r, 4);
    c->b = 1 + take(r, 3);
    c->h = 1 + take(r, 3);
    c->nq = kind == 1 ? 40 + 2 * take(r, 220) : 1 + take(r, 12);
    c->nk = kind == 2 ? 300 + 2 * take(r, 256) : kind <= 3 ? 40 + take(r, 100) : 1 + take(r, 24);
    c->d = kind == 4 ? 60 + take(r, 80) : kind == 5 ? 500 + take(r, 40) : 1 + take(r, 20);
    if (kind <= 3) { /* large in one way is enough */
        c->b = 1;
        c->h = 1 + c->h % 2;
    }
    int64_t *const sizes[] = {&c->b, &c->h, &c->nq, &c->nk};
    if (one_in(r, 16))
        *sizes[take(r, 4)] = 0;
}

static void choose_grid(fuzz_case *c, byte_reader *r)
{
    c->options.grid_height = 1 + take(r, 9);
    c->options.grid_width = 1 + take(r, 9);
    c->nq = c->nk = c->options.grid_height * c->options.grid_width;
}

static void choose_mask_of(fuzz_case *c, byte_reader *r)
{
    choose_mask(&c->mask, c->nq, c->nk, r);
    if (one_in(r, 2)) /* windows keep most ways of computing away */
        c->mask.mask.window_left = c->mask.mask.window_right = -1;
    if (c->options.grid_width > 0 && !one_in(r, 8)) { /* as it must be on a grid */
        c->mask.mask.causal = 0;
        c->mask.mask.alignment = HEED_ALIGN_BOTTOM_RIGHT;
        c->mask.mask.query_start = c->mask.mask.key_start = NULL;
    }
    c->has_mask = !one_in(r, 3);
    c->has_options = c->form == ORACLE_AFT_LOCAL || c->options.grid_width > 0 || !one_in(r, 8);
    const int64_t repeat = take(r, 8);
    choose_view(c, VISIBLE, repeat & 1 ? 1 : c->b, repeat & 2 ? 1 : c->h, repeat & 4 ? 1 : c->nq, c->nk, r);
    c->mask.mask.visible = one_in(r, 5) ? &c->tensor[VISIBLE] : NULL;
}

static int is_causal(const fuzz_case *c) { return c->has_options && c->has_mask && c->mask.mask.causal; }

static void choose_bias(fuzz_case *c, byte_reader *r)
{
    heed_aft_options *o = &c->options;
    const int64_t kind = take(r, 3), repeat = take(r, 8), n_factors = take(r, 4) * take(r, 12);
    const int64_t b = repeat & 1 ? 1 : c->b, h = repeat & 2 ? 1 : c->h, n = repeat & 4 ? 1 : c->nq;
    int64_t columns = c->nk;
    if (c->form == ORACLE_AFT_LOCAL) {
        o->window = one_in(r, 6) ? 1 + take(r, 200) : 1 + take(r, 12);
        o->nothing_outside = one_in(r, 4);
        o->banded = kind == 1 && one_in(r, 2);
        columns = !o->banded ? c->nk : is_causal(c) ? o->window : 2 * o->window - 1;
    }
    choose_view(c, W, b, h, n, columns, r);
    choose_view(c, U, b, h, c->nq, n_factors, r);
    choose_view(c, F, repeat & 4 ? 1 : c->b, h, c->nk, n_factors, r);
    if (c->form == ORACLE_AFT_FULL || c->form == ORACLE_AFT_LOCAL) {
        o->w = kind == 1 ? &c->tensor[W] : NULL;
        o->query_factors = kind == 2 ? &c->tensor[U] : NULL;
        o->key_factors = kind == 2 ? &c->tensor[F] : NULL;
    }
}

static void choose_filter(fuzz_case *c, byte_reader *r)
{
    const int64_t taps = one_in(r, 4) ? take(r, 60) : take(r, 6), h = one_in(r, 2) ? 1 : c->h;
    const int64_t rows = c->options.grid_width > 0 ? 2 * take(r, 4) + 1 : 1;
    choose_view(c, FILTER, 1, h, rows, is_causal(c) ? 1 + taps : 2 * taps + 1, r);
}

static void choose_tensors(fuzz_case *c, byte_reader *r)
{
    const int64_t key_channels = c->form == ORACLE_AFT_CONV ? 1 : c->d;
    choose_view(c, Q, c->b, c->h, c->nq, c->d, r);
    choose_view(c, K, c->b, c->h, c->nk, key_channels, r);
    choose_view(c, V, c->b, c->h, c->nk, c->d, r);
    choose_view(c, OUT, c->b, c->h, c->nq, c->d, r);
    choose_view(c, LSE, c->b, c->h, c->nq, key_channels, r);
    c->has_lse = !one_in(r, 4);
}

/* ---- What may be wrong ---- */

static void spoil_option(fuzz_case *c, byte_reader *r)
{
    static const int64_t numbers[] = {-1, 0, 1, -2, 7, INT64_MIN, INT64_MAX, ((int64_t)1 << 60) + 1};
    const int64_t number = numbers[take(r, 8)];
    const int64_t which = take(r, 18);
    if (which < N_AFT_SPOILS)
        spoil_aft_option(&c->options, which, number, &c->tensor[W], &c->tensor[F]);
    else
        spoil_mask(&c->mask, take(r, N_MASK_SPOILS), number, r);
}

int make_case(fuzz_case *c, byte_reader reader)
{
    byte_reader *r = &reader;
    c->options = (heed_aft_options)HEED_AFT_OPTIONS_INIT;
    choose_sizes(c, r);
    if (c->form == ORACLE_AFT_CONV && one_in(r, 3))
        choose_grid(c, r);
    choose_mask_of(c, r);
    choose_tensors(c, r);
    choose_bias(c, r);
    choose_filter(c, r);
    c->options.gate = (heed_gate)one_in(r, 3);
    c->options.mask = c->has_mask ? &c->mask.mask : NULL;
    c->threads = (int)take(r, 2);
    const int64_t wrong = take(r, 8); /* 0 .. 3: nothing */
    if (wrong == 4 || wrong == 5)
        spoil_tensor(&c->tensor[take(r, N_TENSORS)], r);
    if (wrong == 5 || wrong == 6)
        spoil_option(c, r);
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if (!make_block(&c->tensor[t], &c->block[t], t == VISIBLE, t == K ? 4.0f : 1.0f, (uint64_t)t, r))
            return 0;
    if (wrong == 7 && !share_block(c->tensor, c->block, N_TENSORS, one_in(r, 2) ? LSE : OUT, &c->shares_block, r))
        return 0;
    if (wrong == 4)
        spoil_data(c->tensor, N_TENSORS, r);
    return 1;
}

const size_t case_bytes = sizeof(fuzz_case);

case_memory memory_of(const fuzz_case *c)
{
    return (case_memory){c->tensor, c->block, N_TENSORS, c->shares_block, c->threads};
}
