#include "aft_steps_case.h"

enum { N_SUMS = 6 };

static void choose_view(fuzz_case *c, int t, int64_t b, int64_t h, int64_t n, int64_t channels, byte_reader *r)
{
    c->tensor[t] = heed_tensor_bhnd(NULL, t == VISIBLE ? HEED_BOOL : HEED_FLOAT32, b, h, n, channels);
    choose_strides(&c->tensor[t], !is_written(c, t), r);
}

static void choose_sizes(fuzz_case *c, byte_reader *r)
{
    static const oracle_aft_form forms[] = {ORACLE_AFT_SIMPLE, ORACLE_AFT_LOCAL, ORACLE_AFT_CONV};
    const int64_t kind = take(r, 8);
    c->form = forms[take(r, 3)];
    c->b = 1 + take(r, 3);
    c->h = 1 + take(r, 3);
    c->n = kind == 1 ? 60 + take(r, 80) : 1 + take(r, 6);
    c->d = kind == 2 ? 500 + take(r, 40) : 1 + take(r, 20);
    c->window = c->form == ORACLE_AFT_SIMPLE ? 0 : kind == 3 ? 1 + take(r, 90) : 1 + take(r, 8);
    c->n_prefix = kind == 4 ? 60 + take(r, 80) : take(r, 20);
    int64_t *const sizes[] = {&c->b, &c->h, &c->n};
    if (one_in(r, 16))
        *sizes[take(r, 3)] = 0;
}

static void choose_tensors(fuzz_case *c, byte_reader *r)
{
    const int64_t key_channels = c->form == ORACLE_AFT_CONV ? 1 : c->d, n_factors = take(r, 6), repeat = take(r, 8);
    const int64_t b = repeat & 1 ? 1 : c->b, h = repeat & 2 ? 1 : c->h;
    choose_view(c, Q, c->b, c->h, c->n, c->d, r);
    choose_view(c, K, c->b, c->h, c->n, key_channels, r);
    choose_view(c, V, c->b, c->h, c->n, c->d, r);
    choose_view(c, OUT, c->b, c->h, c->n, c->d, r);
    choose_view(c, W, b, h, repeat & 4 ? 1 : c->n, c->window, r);
    choose_view(c, U, b, h, c->n, n_factors, r);
    choose_view(c, F, repeat & 4 ? 1 : c->b, h, c->window > 0 ? c->window - 1 + c->n : 0, n_factors, r);
    choose_view(c, FILTER, 1, h, 1, c->window, r);
    choose_view(c, SUMS, c->b, c->h, N_SUMS, c->d, r);
    choose_view(c, KEYS, c->b, c->h, c->window, key_channels, r);
    choose_view(c, VALUES, c->b, c->h, c->window, c->d, r);
    choose_view(c, VISIBLE, 1, 1, c->n, c->n, r);
}

static void choose_options(fuzz_case *c, byte_reader *r)
{
    heed_aft_options *o = &c->options;
    const int64_t kind = c->form == ORACLE_AFT_LOCAL ? take(r, 3) : 0;
    *o = (heed_aft_options)HEED_AFT_OPTIONS_INIT;
    o->gate = (heed_gate)one_in(r, 3);
    if (c->form == ORACLE_AFT_LOCAL) {
        o->window = c->window;
        o->nothing_outside = one_in(r, 4);
    }
    if (kind == 1) {
        o->w = &c->tensor[W];
        o->banded = 1;
    }
    if (kind == 2) {
        o->query_factors = &c->tensor[U];
        o->key_factors = &c->tensor[F];
    }
    choose_mask(&c->mask, c->n, c->n, r);
    heed_mask *m = &c->mask.mask;
    const int64_t *lengths = m->query_lengths;
    if (!one_in(r, 8)) { /* as it must be */
        *m = (heed_mask)HEED_MASK_INIT;
        m->causal = 1;
        m->query_lengths = lengths;
    }
    m->visible = one_in(r, 32) ? &c->tensor[VISIBLE] : NULL;
    c->has_mask = one_in(r, 2);
    c->has_options = c->form == ORACLE_AFT_LOCAL || !one_in(r, 4);
    o->mask = c->has_mask ? m : NULL;
}

/* ---- What may be wrong ---- */

static void spoil_call(fuzz_case *c, byte_reader *r)
{
    static const int64_t numbers[] = {-1, 0, 1, -2, 7, INT64_MIN, INT64_MAX, ((int64_t)1 << 60) + 1};
    const int64_t number = numbers[take(r, 8)];
    const int64_t which = take(r, N_AFT_SPOILS + 6);
    if (which < N_AFT_SPOILS) {
        spoil_aft_option(&c->options, which, number, &c->tensor[W], &c->tensor[F]);
        return;
    }
    switch (which - N_AFT_SPOILS) {
    case 0:
        c->n_tokens = NULL;
        break;
    case 1:
        c->n_tokens = (int64_t *)(void *)((char *)c->n_tokens_memory + 4);
        break;
    case 2:
    case 3:
        c->n_tokens_memory[take(r, MAX_BATCHES)] = number;
        break;
    default:
        spoil_mask(&c->mask, take(r, N_MASK_SPOILS), number, r);
    }
}

int make_case(fuzz_case *c, byte_reader reader)
{
    static const tensor_id written[] = {OUT, SUMS, KEYS, VALUES};
    byte_reader *r = &reader;
    choose_sizes(c, r);
    choose_tensors(c, r);
    choose_options(c, r);
    c->n_tokens = c->n_tokens_memory;
    c->threads = (int)take(r, 2);
    const int64_t wrong = take(r, 8); /* 0 .. 3: nothing */
    if (wrong == 4 || wrong == 5)
        spoil_tensor(&c->tensor[take(r, N_TENSORS)], r);
    if (wrong == 5 || wrong == 6)
        spoil_call(c, r);
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if (!make_block(&c->tensor[t], &c->block[t], t == VISIBLE, t == K ? 4.0f : 1.0f, (uint64_t)t, r))
            return 0;
    if (wrong == 7 && !share_block(c->tensor, c->block, N_TENSORS, (int)written[take(r, 4)], &c->shares_block, r))
        return 0;
    if (wrong == 4 && one_in(r, 4))
        c->tensor[take(r, N_TENSORS)].data = NULL;
    return 1;
}

const size_t case_bytes = sizeof(fuzz_case);

case_memory memory_of(const fuzz_case *c)
{
    return (case_memory){c->tensor, c->block, N_TENSORS, c->shares_block, c->threads};
}
