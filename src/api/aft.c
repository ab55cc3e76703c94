#include "api/aft.h"
#include "core/arguments.h"
#include "core/context.h"
#include "core/sizes.h"

#include <inttypes.h>

static const heed_aft_options defaults = HEED_AFT_OPTIONS_INIT;

/* ---- checks ---- */

static int is_causal(const aft_arguments *a) { return a->step || (a->options->mask && a->options->mask->causal); }

static heed_status only_with(heed_message *message, const char *name, const char *form)
{
    return heed_complain(message, HEED_ERROR_ARGUMENT, "options.%s: only with %s", name, form);
}

static heed_status check_window(heed_message *message, const heed_aft_options *o, aft_form form)
{
    if (form != AFT_LOCAL) {
        if (o->window != 0 || o->banded || o->nothing_outside)
            return only_with(message,
                             o->window != 0 ? "window"
                             : o->banded    ? "banded"
                                            : "nothing_outside",
                             "AFT-local");
        return HEED_OK;
    }
    if (o->window < 1)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.window: 1 or more expected, got %" PRId64,
                             o->window);
    if (o->banded && !o->w)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.banded: only with options.w");
    return HEED_OK;
}

heed_status heed_aft_check_options(heed_message *message, const heed_aft_options *o, aft_form form)
{
    HEED_CHECK(heed_check_struct(message, "options", o, sizeof *o));
    if (o->gate != HEED_GATE_SIGMOID && o->gate != HEED_GATE_NONE)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.gate: unknown value %d", (int)o->gate);
    if (form == AFT_SIMPLE || form == AFT_CONV) {
        if (o->w || o->query_factors || o->key_factors)
            return only_with(message,
                             o->w               ? "w"
                             : o->query_factors ? "query_factors"
                                                : "key_factors",
                             "AFT-full and AFT-local");
    }
    if (o->w && (o->query_factors || o->key_factors))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.w: not together with factors");
    if (!o->query_factors != !o->key_factors)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.%s: is NULL, but options.%s is not",
                             o->query_factors ? "key_factors" : "query_factors",
                             o->query_factors ? "query_factors" : "key_factors");
    HEED_CHECK(check_window(message, o, form));
    if (form != AFT_CONV && (o->grid_height != 0 || o->grid_width != 0))
        return only_with(message, o->grid_height != 0 ? "grid_height" : "grid_width", "AFT-conv");
    if (o->grid_height < 0 || o->grid_width < 0 || !o->grid_height != !o->grid_width)
        return heed_complain(message, HEED_ERROR_ARGUMENT,
                             "options.grid_height, options.grid_width: both 0 or both 1 or more expected, got %" PRId64
                             " and %" PRId64,
                             o->grid_height, o->grid_width);
    return HEED_OK;
}

static heed_status check_shapes(heed_message *message, const aft_arguments *a)
{
    HEED_CHECK(heed_check_size(message, "k", a->k, 0, a->q->shape[0], "as in q"));
    HEED_CHECK(heed_check_size(message, "k", a->k, 1, a->q->shape[1], "as in q"));
    if (a->form == AFT_CONV)
        HEED_CHECK(heed_check_size(message, "k", a->k, 3, 1, "one key for all channels of a head"));
    else
        HEED_CHECK(heed_check_size(message, "k", a->k, 3, a->q->shape[3], "as in q"));
    HEED_CHECK(heed_check_size(message, "v", a->v, 0, a->q->shape[0], "as in q"));
    HEED_CHECK(heed_check_size(message, "v", a->v, 1, a->q->shape[1], "as in q"));
    HEED_CHECK(heed_check_size(message, "v", a->v, 2, a->k->shape[2], "as in k"));
    HEED_CHECK(heed_check_size(message, "v", a->v, 3, a->q->shape[3], "as in q"));
    if (a->q->shape[3] == 0)
        return heed_complain(message, HEED_ERROR_SHAPE, "q: 1 channel or more expected, got 0");
    return HEED_OK;
}

/* A bias or one of its factors: repeated over batch and heads at will. */
static heed_status check_repeated(heed_message *message, const char *name, const heed_tensor *tensor,
                                  const aft_arguments *a)
{
    HEED_CHECK(heed_check_input(message, name, tensor, HEED_FLOAT32));
    HEED_CHECK(heed_check_repeated_size(message, name, tensor, 0, a->q->shape[0], "as in q, or 1"));
    return heed_check_repeated_size(message, name, tensor, 1, a->q->shape[1], "as in q, or 1");
}

static heed_status check_bias(heed_message *message, const aft_arguments *a)
{
    const heed_aft_options *o = a->options;
    if (o->w) {
        HEED_CHECK(check_repeated(message, "options.w", o->w, a));
        HEED_CHECK(heed_check_repeated_size(message, "options.w", o->w, 2, a->q->shape[2], "as in q, or 1"));
        if (!o->banded)
            return heed_check_size(message, "options.w", o->w, 3, a->k->shape[2], "the tokens of k");
        int64_t columns = o->window > HEED_MAX_EXTENT / 2 ? INT64_MAX : is_causal(a) ? o->window : 2 * o->window - 1;
        return heed_check_size(message, "options.w", o->w, 3, columns, "the distances within options.window");
    }
    if (!o->query_factors)
        return HEED_OK;
    HEED_CHECK(check_repeated(message, "options.query_factors", o->query_factors, a));
    HEED_CHECK(heed_check_size(message, "options.query_factors", o->query_factors, 2, a->q->shape[2], "as in q"));
    HEED_CHECK(check_repeated(message, "options.key_factors", o->key_factors, a));
    if (a->step)
        HEED_CHECK(heed_check_size(message, "options.key_factors", o->key_factors, 2,
                                   heed_smaller(o->window, HEED_MAX_EXTENT) - 1 + a->k->shape[2],
                                   "options.window - 1, and as in k"));
    else
        HEED_CHECK(heed_check_size(message, "options.key_factors", o->key_factors, 2, a->k->shape[2], "as in k"));
    return heed_check_size(message, "options.key_factors", o->key_factors, 3, o->query_factors->shape[3],
                           "as in options.query_factors");
}

static heed_status check_odd(heed_message *message, const heed_tensor *filter, int dimension)
{
    if (filter->shape[dimension] % 2 == 1)
        return HEED_OK;
    return heed_complain(message, HEED_ERROR_SHAPE,
                         "filter: an odd number of taps expected where it is not causal, got %" PRId64,
                         filter->shape[dimension]);
}

static heed_status check_grid(heed_message *message, const aft_arguments *a)
{
    const heed_aft_options *o = a->options;
    int64_t n_tokens = a->q->shape[2];
    HEED_CHECK(heed_check_size(message, "k", a->k, 2, n_tokens, "as in q, one for each place of the grid"));
    if (n_tokens % o->grid_width != 0 || n_tokens / o->grid_width != o->grid_height)
        return heed_complain(message, HEED_ERROR_SHAPE,
                             "q: one token for each place of the grid of %" PRId64 " x %" PRId64
                             " expected, got %" PRId64,
                             o->grid_height, o->grid_width, n_tokens);
    if (o->mask && (o->mask->causal || o->mask->alignment != HEED_ALIGN_BOTTOM_RIGHT))
        return heed_complain(message, HEED_ERROR_UNSUPPORTED, "mask.%s: not with a grid",
                             o->mask->causal ? "causal" : "alignment");
    HEED_CHECK(check_odd(message, a->filter, 2));
    return check_odd(message, a->filter, 3);
}

static heed_status check_filter_sizes(heed_message *message, const aft_arguments *a)
{
    HEED_CHECK(heed_check_size(message, "filter", a->filter, 0, 1, "the same for the whole batch"));
    HEED_CHECK(heed_check_repeated_size(message, "filter", a->filter, 1, a->q->shape[1], "as in q, or 1"));
    if (a->filter->shape[2] == 0 || a->filter->shape[3] == 0)
        return heed_complain(message, HEED_ERROR_SHAPE, "filter: 1 tap or more expected, got 0");
    return a->options->grid_width != 0
               ? HEED_OK
               : heed_check_size(message, "filter", a->filter, 2, 1, "one dimension, as there is no grid");
}

static heed_status check_filter(heed_message *message, const aft_arguments *a)
{
    HEED_CHECK(check_filter_sizes(message, a));
    if (a->options->grid_width != 0)
        return check_grid(message, a);
    return is_causal(a) ? HEED_OK : check_odd(message, a->filter, 3);
}

heed_status heed_aft_check_inputs(heed_message *message, const aft_arguments *a)
{
    HEED_CHECK(heed_check_input(message, "q", a->q, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "k", a->k, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "v", a->v, HEED_FLOAT32));
    if (a->form == AFT_CONV)
        HEED_CHECK(heed_check_input(message, "filter", a->filter, HEED_FLOAT32));
    HEED_CHECK(check_shapes(message, a));
    HEED_CHECK(check_bias(message, a));
    HEED_CHECK(heed_mask_check(message, a->options->mask, a->q, a->k));
    return a->form == AFT_CONV ? check_filter(message, a) : HEED_OK;
}

heed_status heed_aft_check_outputs(heed_message *message, const aft_arguments *a)
{
    HEED_CHECK(heed_check_output(message, "out", a->out, HEED_FLOAT32));
    HEED_CHECK(heed_check_same_shape(message, "out", a->out, a->q, "as in q"));
    if (!a->lse)
        return HEED_OK;
    HEED_CHECK(heed_check_output(message, "lse", a->lse, HEED_FLOAT32));
    for (int d = 0; d < 3; d++)
        HEED_CHECK(heed_check_size(message, "lse", a->lse, d, a->q->shape[d], "as in q"));
    return heed_check_size(message, "lse", a->lse, 3, a->k->shape[3], "as in k");
}

heed_status heed_aft_check_apart(heed_message *message, const aft_arguments *a, const char *name,
                                 const heed_tensor *out)
{
    const heed_aft_options *o = a->options;
    HEED_CHECK(heed_check_apart(message, name, out, "q", a->q));
    HEED_CHECK(heed_check_apart(message, name, out, "k", a->k));
    HEED_CHECK(heed_check_apart(message, name, out, "v", a->v));
    HEED_CHECK(heed_check_apart(message, name, out, "filter", a->filter));
    HEED_CHECK(heed_check_apart(message, name, out, "options.w", o->w));
    HEED_CHECK(heed_check_apart(message, name, out, "options.query_factors", o->query_factors));
    HEED_CHECK(heed_check_apart(message, name, out, "options.key_factors", o->key_factors));
    return heed_mask_check_apart(message, name, out, o->mask, a->q->shape[0]);
}

static heed_status check(heed_message *message, const aft_arguments *a)
{
    HEED_CHECK(heed_aft_check_options(message, a->options, a->form));
    HEED_CHECK(heed_aft_check_inputs(message, a));
    HEED_CHECK(heed_aft_check_outputs(message, a));
    HEED_CHECK(heed_aft_check_apart(message, a, "out", a->out));
    if (a->lse) {
        HEED_CHECK(heed_aft_check_apart(message, a, "lse", a->lse));
        HEED_CHECK(heed_check_apart(message, "lse", a->lse, "out", a->out));
    }
    return HEED_OK;
}

/* ---- calls ---- */

aft_plan heed_aft_plan(const aft_arguments *a)
{
    const heed_aft_options *o = a->options;
    aft_plan p = {.form = a->form, .gate = o->gate, .q = *a->q, .k = *a->k, .out = *a->out};
    p.v = heed_repeated(a->v);
    p.lse = a->lse ? *a->lse : (heed_tensor){0};
    p.w = heed_repeated(o->w);
    p.query_factors = heed_repeated(o->query_factors);
    p.key_factors = heed_repeated(o->key_factors);
    p.filter = heed_repeated(a->filter);
    p.window = heed_smaller(o->window, 4 * HEED_MAX_EXTENT); /* beyond any distance, and far from overflow */
    p.banded = o->banded;
    p.nothing_outside = o->nothing_outside;
    p.grid_width = o->grid_width;
    p.mask = heed_mask_resolve(o->mask, a->q, a->k);
    return p;
}

static heed_status forward(heed_context *context, const aft_arguments *a)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check(&context->message, a);
    if (status == HEED_OK) {
        aft_plan p = heed_aft_plan(a);
        status = heed_check_scratch(context, heed_aft_worker_bytes(&p));
        if (status == HEED_OK)
            heed_aft_run(context, &p);
    }
    return heed_call_end(context, status);
}

heed_status heed_aft_full_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                  const heed_tensor *v, const heed_aft_options *options, const heed_tensor *out,
                                  const heed_tensor *lse)
{
    aft_arguments a = {AFT_FULL, q, k, v, NULL, out, lse, options ? options : &defaults, 0};
    return forward(context, &a);
}

heed_status heed_aft_local_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                   const heed_tensor *v, const heed_aft_options *options, const heed_tensor *out,
                                   const heed_tensor *lse)
{
    aft_arguments a = {AFT_LOCAL, q, k, v, NULL, out, lse, options ? options : &defaults, 0};
    return forward(context, &a);
}

heed_status heed_aft_simple_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                    const heed_tensor *v, const heed_aft_options *options, const heed_tensor *out,
                                    const heed_tensor *lse)
{
    aft_arguments a = {AFT_SIMPLE, q, k, v, NULL, out, lse, options ? options : &defaults, 0};
    return forward(context, &a);
}

heed_status heed_aft_conv_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                  const heed_tensor *v, const heed_tensor *filter, const heed_aft_options *options,
                                  const heed_tensor *out, const heed_tensor *lse)
{
    aft_arguments a = {AFT_CONV, q, k, v, filter, out, lse, options ? options : &defaults, 0};
    return forward(context, &a);
}

/* ---- scratch ---- */

static heed_status check_factor_sizes(const heed_aft_options *o)
{
    if (!o->query_factors)
        return HEED_OK;
    HEED_CHECK(heed_check_sizes(NULL, "options.query_factors", o->query_factors));
    HEED_CHECK(heed_check_sizes(NULL, "options.key_factors", o->key_factors));
    return heed_check_size(NULL, "options.key_factors", o->key_factors, 3, o->query_factors->shape[3],
                           "as in options.query_factors");
}

static heed_status find_scratch_bytes(const aft_arguments *a, int64_t *bytes)
{
    if (!a->q || !a->k || !a->v || (a->form == AFT_CONV && !a->filter) || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_aft_check_options(NULL, a->options, a->form));
    HEED_CHECK(heed_check_sizes(NULL, "q", a->q));
    HEED_CHECK(heed_check_sizes(NULL, "k", a->k));
    HEED_CHECK(heed_check_sizes(NULL, "v", a->v));
    if (a->form == AFT_CONV)
        HEED_CHECK(heed_check_sizes(NULL, "filter", a->filter));
    HEED_CHECK(check_shapes(NULL, a));
    HEED_CHECK(check_factor_sizes(a->options));
    if (a->form == AFT_CONV)
        HEED_CHECK(check_filter_sizes(NULL, a));
    aft_plan p = {.form = a->form, .q = *a->q, .window = a->options->window, .grid_width = a->options->grid_width};
    p.query_factors = heed_repeated(a->options->query_factors);
    p.filter = heed_repeated(a->filter);
    *bytes = heed_aft_worker_bytes(&p);
    return HEED_OK;
}

heed_status heed_aft_full_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                        const heed_aft_options *options, int64_t *bytes)
{
    aft_arguments a = {AFT_FULL, q, k, v, NULL, NULL, NULL, options ? options : &defaults, 0};
    return find_scratch_bytes(&a, bytes);
}

heed_status heed_aft_local_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                         const heed_aft_options *options, int64_t *bytes)
{
    aft_arguments a = {AFT_LOCAL, q, k, v, NULL, NULL, NULL, options ? options : &defaults, 0};
    return find_scratch_bytes(&a, bytes);
}

heed_status heed_aft_simple_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                          const heed_aft_options *options, int64_t *bytes)
{
    aft_arguments a = {AFT_SIMPLE, q, k, v, NULL, NULL, NULL, options ? options : &defaults, 0};
    return find_scratch_bytes(&a, bytes);
}

heed_status heed_aft_conv_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                        const heed_tensor *filter, const heed_aft_options *options, int64_t *bytes)
{
    aft_arguments a = {AFT_CONV, q, k, v, filter, NULL, NULL, options ? options : &defaults, 0};
    return find_scratch_bytes(&a, bytes);
}

/* ---- the filter of equation 8 ---- */

static heed_status check_per_head(heed_message *message, const char *name, const float *values)
{
    if (!values)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: is NULL", name);
    if ((uintptr_t)values % sizeof(float) != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: is not aligned to its elements", name);
    return HEED_OK;
}

static heed_status check_conv_filter(heed_message *message, const heed_tensor *p, const float *gamma, const float *beta,
                                     const heed_tensor *filter)
{
    HEED_CHECK(heed_check_input(message, "p", p, HEED_FLOAT32));
    HEED_CHECK(check_per_head(message, "gamma", gamma));
    HEED_CHECK(check_per_head(message, "beta", beta));
    HEED_CHECK(heed_check_output(message, "filter", filter, HEED_FLOAT32));
    HEED_CHECK(heed_check_size(message, "p", p, 0, 1, "the same for the whole batch"));
    if (p->shape[2] == 0 || p->shape[3] == 0)
        return heed_complain(message, HEED_ERROR_SHAPE, "p: 1 tap or more expected, got 0");
    HEED_CHECK(heed_check_same_shape(message, "filter", filter, p, "as in p"));
    int64_t bytes = p->shape[1] * (int64_t)sizeof(float);
    HEED_CHECK(heed_check_apart(message, "filter", filter, "p", p));
    HEED_CHECK(heed_check_apart_bytes(message, "filter", filter, "gamma", gamma, bytes));
    return heed_check_apart_bytes(message, "filter", filter, "beta", beta, bytes);
}

heed_status heed_aft_conv_filter(heed_context *context, const heed_tensor *p, const float *gamma, const float *beta,
                                 const heed_tensor *filter)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check_conv_filter(&context->message, p, gamma, beta, filter);
    if (status == HEED_OK)
        heed_aft_filter_run(context, p, gamma, beta, filter);
    return heed_call_end(context, status);
}

/* ---- the gate alone ---- */

static heed_status check_gate(heed_message *message, const heed_tensor *q, const heed_tensor *x, const heed_tensor *out)
{
    HEED_CHECK(heed_check_input(message, "q", q, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "x", x, HEED_FLOAT32));
    HEED_CHECK(heed_check_output(message, "out", out, HEED_FLOAT32));
    HEED_CHECK(heed_check_same_shape(message, "x", x, q, "as in q"));
    HEED_CHECK(heed_check_same_shape(message, "out", out, q, "as in q"));
    HEED_CHECK(heed_check_apart(message, "out", out, "q", q));
    return heed_is_same_view(out, x) ? HEED_OK : heed_check_apart(message, "out", out, "x", x);
}

heed_status heed_aft_gate(heed_context *context, const heed_tensor *q, const heed_tensor *x, const heed_tensor *out)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check_gate(&context->message, q, x, out);
    if (status == HEED_OK)
        heed_aft_gate_run(context, q, x, out);
    return heed_call_end(context, status);
}
