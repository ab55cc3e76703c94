#include "softmax_case.h"

#include <math.h>

static void choose_view(fuzz_case *c, tensor_id t, int64_t b, int64_t h, int64_t n, int64_t channels, byte_reader *r)
{
    c->tensor[t] = heed_tensor_bhnd(NULL, t == VISIBLE ? HEED_BOOL : HEED_FLOAT32, b, h, n, channels);
    choose_strides(&c->tensor[t], t != OUT && t != LSE, r);
}

/* ---- Sizes and options ---- */

/* Most cases are small; some have more rows than a tile, some enough keys for several ranges. */
static void choose_sizes(fuzz_case *c, byte_reader *r)
{
    static const int64_t ratios[] = {1, 2, 3, 4, 8};
    const int64_t kind = take(r, 16);
    c->b = 1 + take(r, 2);
    c->hkv = 1 + take(r, 2);
    c->hq = c->hkv * ratios[take(r, 5)];
    c->nq = kind == 1 ? 40 + take(r, 70) : 1 + take(r, 6);
    c->nk = kind == 2 ? 500 + 4 * take(r, 256) : kind == 3 ? 100 + take(r, 200) : 1 + take(r, 24);
    c->d = kind == 4 ? 60 + take(r, 80) : 1 + take(r, 20);
    c->dv = kind == 5 ? 60 + take(r, 80) : 1 + take(r, 20);
    if (kind >= 1 && kind <= 3) { /* large in one way is enough */
        c->b = c->hkv = 1;
        c->hq = 1 + take(r, 3);
        c->nq = kind == 1 ? c->nq : 1 + c->nq % 3;
    }
    int64_t *const sizes[] = {&c->b, &c->hq, &c->nq, &c->nk};
    if (one_in(r, 16))
        *sizes[take(r, 4)] = 0;
    if (c->hq == 0)
        c->hkv = take(r, 2);
}

static void choose_tensors(fuzz_case *c, byte_reader *r)
{
    choose_view(c, Q, c->b, c->hq, c->nq, c->d, r);
    choose_view(c, K, c->b, c->hkv, c->nk, c->d, r);
    choose_view(c, V, c->b, c->hkv, c->nk, c->dv, r);
    choose_view(c, OUT, c->b, c->hq, c->nq, c->dv, r);
    choose_view(c, LSE, c->b, c->hq, c->nq, 1, r);
    for (tensor_id t = BIAS; t <= VISIBLE; t++) {
        const int64_t repeat = take(r, 8);
        choose_view(c, t, repeat & 1 ? 1 : c->b, repeat & 2 ? 1 : c->hq, repeat & 4 ? 1 : c->nq, c->nk, r);
    }
    c->has_lse = !one_in(r, 4);
    c->has_bias = one_in(r, 3);
    c->has_visible = one_in(r, 4);
}

/* Scores stay below 30, for which the header bounds the error: 12 from the product, 5 from the bias, 13 from ALiBi. */
static void choose_options(fuzz_case *c, byte_reader *r)
{
    c->has_options = !one_in(r, 6);
    c->has_mask = one_in(r, 2);
    c->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    if (one_in(r, 2))
        c->options.scale = take_float(r, -12.0f, 12.0f) / (float)c->d;
    if (one_in(r, 3))
        c->options.softcap = take_float(r, 0.01f, 20.0f);
    const float steepest = 13.0f / (float)(c->nq + c->nk + 40);
    for (int h = 0; h < MAX_HEADS; h++) {
        c->slopes[h] = take_float(r, -steepest, steepest);
        c->sinks[h] = one_in(r, 8) ? -INFINITY : take_float(r, -10.0f, 10.0f);
    }
    c->options.alibi_slopes = one_in(r, 3) ? c->slopes : NULL;
    c->options.sinks = one_in(r, 3) ? c->sinks : NULL;
}

/* ---- What may be wrong ---- */

static void connect(fuzz_case *c)
{
    c->options.bias = c->has_bias ? &c->tensor[BIAS] : NULL;
    c->options.mask = c->has_mask ? &c->mask.mask : NULL;
    c->mask.mask.visible = c->has_visible ? &c->tensor[VISIBLE] : NULL;
}

int make_case(fuzz_case *c, byte_reader reader)
{
    byte_reader *r = &reader;
    choose_sizes(c, r);
    choose_tensors(c, r);
    choose_options(c, r);
    choose_mask(&c->mask, c->nq, c->nk, r);
    c->threads = (int)take(r, 2);
    const int64_t wrong = take(r, 8); /* 0 .. 3: nothing */
    if (wrong == 4 || wrong == 5)
        spoil_tensor(&c->tensor[take(r, N_TENSORS)], r);
    if (wrong == 5 || wrong == 6)
        spoil_softmax_option(&c->options, &c->mask, r);
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if (!make_block(&c->tensor[t], &c->block[t], t == VISIBLE, t == BIAS ? 5.0f : 1.0f, (uint64_t)t, r))
            return 0;
    if (wrong == 7 && !share_block(c->tensor, c->block, N_TENSORS, one_in(r, 2) ? LSE : OUT, &c->shares_block, r))
        return 0;
    if (wrong == 4)
        spoil_data(c->tensor, N_TENSORS, r);
    connect(c);
    return 1;
}

const size_t case_bytes = sizeof(fuzz_case);

case_memory memory_of(const fuzz_case *c)
{
    return (case_memory){c->tensor, c->block, N_TENSORS, c->shares_block, c->threads};
}
