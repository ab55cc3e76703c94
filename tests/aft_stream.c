#include "aft_stream.h"

#include "support/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

heed_tensor stream_tensor(stream *s, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c, tensor_layout layout)
{
    assert_true(s->n_tensors < MAX_TENSORS);
    return tensor_create(&s->memory[s->n_tensors++], dtype, b, h, n, c, layout, GUARD_END);
}

heed_aft_local_state stream_state(const stream *s, void *memory)
{
    const int64_t b = s->q.shape[0], h = s->q.shape[1], d = s->q.shape[3];
    heed_aft_local_state all = {0};
    if (s->form == ORACLE_AFT_LOCAL) {
        all = heed_aft_local_state_view(memory, b, h, s->window, d);
    } else if (s->form == ORACLE_AFT_CONV) {
        const heed_aft_conv_state conv = heed_aft_conv_state_view(memory, b, h, s->window, d);
        all = (heed_aft_local_state){conv.sums, conv.keys, conv.values, conv.n_tokens};
    } else {
        const heed_aft_simple_state simple = heed_aft_simple_state_view(memory, b, h, d);
        all.sums = simple.sums;
        all.n_tokens = simple.n_tokens;
    }
    return all;
}

heed_status stream_bytes(const stream *s, int64_t *bytes)
{
    const int64_t b = s->q.shape[0], h = s->q.shape[1], d = s->q.shape[3];
    return s->form == ORACLE_AFT_LOCAL  ? heed_aft_local_state_bytes(b, h, s->window, d, bytes)
           : s->form == ORACLE_AFT_CONV ? heed_aft_conv_state_bytes(b, h, s->window, d, bytes)
                                        : heed_aft_simple_state_bytes(b, h, d, bytes);
}

heed_status stream_reset(const stream *s, const heed_aft_local_state *x, int64_t b)
{
    const heed_aft_simple_state simple = {x->sums, x->n_tokens};
    const heed_aft_conv_state conv = {x->sums, x->keys, x->values, x->n_tokens};
    return s->form == ORACLE_AFT_LOCAL  ? heed_aft_local_state_reset(x, b)
           : s->form == ORACLE_AFT_CONV ? heed_aft_conv_state_reset(&conv, b)
                                        : heed_aft_simple_state_reset(&simple, b);
}

heed_status stream_call(const stream *s, heed_context *context, const heed_tensor *q, const heed_tensor *k,
                        const heed_tensor *v, const heed_aft_options *options, const heed_aft_local_state *x,
                        const heed_tensor *out)
{
    const heed_aft_simple_state simple = {x->sums, x->n_tokens};
    const heed_aft_conv_state conv = {x->sums, x->keys, x->values, x->n_tokens};
    return s->form == ORACLE_AFT_LOCAL  ? heed_aft_local_step(context, q, k, v, options, x, out)
           : s->form == ORACLE_AFT_CONV ? heed_aft_conv_step(context, q, k, v, &s->filter, options, &conv, out)
                                        : heed_aft_simple_step(context, q, k, v, options, &simple, out);
}

stream *stream_create(oracle_aft_form form, int64_t batch, int64_t heads, int64_t tokens, int64_t channels,
                      int64_t window, uint64_t number)
{
    stream *s = calloc(1, sizeof *s);
    assert_non_null(s);
    random_stream random = random_start(number);
    const tensor_layout layout = (tensor_layout)(number % LAYOUT_PACKED);
    const int conv = form == ORACLE_AFT_CONV;
    s->form = form;
    s->window = form == ORACLE_AFT_SIMPLE ? 0 : window;
    s->q = stream_tensor(s, HEED_FLOAT32, batch, heads, tokens, channels, layout);
    s->k = stream_tensor(s, HEED_FLOAT32, batch, heads, tokens, conv ? 1 : channels, layout);
    s->v = stream_tensor(s, HEED_FLOAT32, batch, heads, tokens, channels, layout);
    s->out = stream_tensor(s, HEED_FLOAT32, batch, heads, tokens, channels, layout);
    tensor_fill_normal(&s->q, &random, 1.0f);
    tensor_fill_normal(&s->k, &random, 2.0f);
    tensor_fill_uniform(&s->v, &random, -1.0f, 1.0f);
    s->options = (heed_aft_options)HEED_AFT_OPTIONS_INIT;
    s->options.window = form == ORACLE_AFT_LOCAL ? window : 0;
    if (conv) {
        s->filter = stream_tensor(s, HEED_FLOAT32, 1, number % 2 ? heads : 1, 1, window, LAYOUT_BHND);
        tensor_fill_normal(&s->filter, &random, 1.0f);
    }
    assert_int_equal(stream_bytes(s, &s->state_bytes), HEED_OK);
    guarded *memory = &s->memory[s->n_tensors++]; /* NaN, up to the guard page */
    guarded_create(memory, (size_t)s->state_bytes, GUARD_START);
    s->state = memory->data;
    const heed_aft_local_state x = stream_state(s, s->state);
    assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
    return s;
}

void stream_give_bias(stream *s, int kind, uint64_t number)
{
    random_stream random = random_start(number + 77777);
    const int64_t batch = s->q.shape[0], heads = s->q.shape[1], tokens = s->q.shape[2];
    if (s->form != ORACLE_AFT_LOCAL || kind == 0)
        return;
    if (kind == 3) {
        s->u = stream_tensor(s, HEED_FLOAT32, 1, heads, tokens, 3, LAYOUT_BNHD);
        s->f = stream_tensor(s, HEED_FLOAT32, batch, 1, s->window - 1 + tokens, 3, LAYOUT_BHND);
        tensor_fill_normal(&s->u, &random, 0.5f);
        const heed_tensor real = tensor_slice(&s->f, 2, s->window - 1, tokens);
        tensor_fill(&s->f, NAN);
        tensor_fill_normal(&real, &random, 0.5f);
        return;
    }
    s->options.banded = 1;
    s->w = stream_tensor(s, HEED_FLOAT32, kind == 1 ? batch : 1, number % 2 ? heads : 1, kind == 1 ? tokens : 1,
                         s->window, LAYOUT_BHND);
    tensor_fill_normal(&s->w, &random, 1.0f);
    for (int64_t b = 0; b < s->w.shape[0] && kind == 1; b++) {
        for (int64_t h = 0; h < s->w.shape[1]; h++) {
            for (int64_t t = 0; t < tokens; t++) {
                for (int64_t c = 0; c < s->window - 1 - t; c++)
                    *tensor_at(&s->w, b, h, t, c) = NAN;
            }
        }
    }
}

void stream_destroy(stream *s)
{
    for (int n = 0; n < s->n_tensors; n++) {
        assert_true(guarded_intact(&s->memory[n]));
        guarded_destroy(&s->memory[n]);
    }
    free(s);
}

void stream_step(const stream *s, heed_context *context, const heed_aft_local_state *x, int64_t first, int64_t n,
                 const int64_t *lengths)
{
    const heed_tensor q = tensor_slice(&s->q, 2, first, n), k = tensor_slice(&s->k, 2, first, n);
    const heed_tensor v = tensor_slice(&s->v, 2, first, n), out = tensor_slice(&s->out, 2, first, n);
    heed_aft_options options = s->options;
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    mask.query_lengths = lengths;
    options.mask = lengths || first % 2 ? &mask : NULL;
    heed_tensor w, u, f;
    if (s->w.data) {
        w = s->w.shape[2] == 1 ? s->w : tensor_slice(&s->w, 2, first, n);
        options.w = &w;
    }
    if (s->u.data) {
        u = tensor_slice(&s->u, 2, first, n);
        f = tensor_slice(&s->f, 2, first, s->window - 1 + n);
        options.query_factors = &u;
        options.key_factors = &f;
    }
    tensor_fill(&out, NAN);
    const heed_status status = stream_call(s, context, &q, &k, &v, &options, x, &out);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(context));
}
