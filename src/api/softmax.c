#include "api/softmax.h"

#include "core/arguments.h"
#include "core/context.h"

#include <math.h>
#include <stdio.h>

const heed_softmax_options heed_softmax_defaults = HEED_SOFTMAX_OPTIONS_INIT;

/* ---- checks ---- */

typedef struct member_name {
    char text[48];
} member_name;

static member_name name_of(const softmax_arguments *a, const char *member)
{
    member_name name;
    snprintf(name.text, sizeof name.text, "%s.%s", a->name, member);
    return name;
}

heed_status heed_softmax_check_shapes(heed_message *message, const heed_tensor *q, const heed_tensor *k,
                                      const heed_tensor *v)
{
    HEED_CHECK(heed_check_size(message, "k", k, 0, q->shape[0], "as in q"));
    HEED_CHECK(heed_check_size(message, "k", k, 3, q->shape[3], "as in q"));
    return heed_check_values(message, q, k, v);
}

heed_status heed_softmax_check_inputs(heed_message *message, const softmax_arguments *a)
{
    HEED_CHECK(heed_check_input(message, "q", a->q, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "k", a->k, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "v", a->v, HEED_FLOAT32));
    return heed_softmax_check_shapes(message, a->q, a->k, a->v);
}

static heed_status check_alignment(heed_message *message, const softmax_arguments *a, const char *member,
                                   const float *numbers)
{
    if ((uintptr_t)numbers % sizeof(float) == 0)
        return HEED_OK;
    return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.%s: is not aligned to its elements", a->name, member);
}

heed_status heed_softmax_check_options(heed_message *message, const softmax_arguments *a)
{
    const heed_softmax_options *options = a->options;
    HEED_CHECK(heed_check_struct(message, a->name, options, sizeof *options));
    if (!isfinite(options->scale))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.scale: a finite value expected, got %g", a->name,
                             (double)options->scale);
    if (!isfinite(options->softcap) || options->softcap < 0.0f)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.softcap: 0 or more expected, got %g", a->name,
                             (double)options->softcap);
    HEED_CHECK(check_alignment(message, a, "sinks", options->sinks));
    return check_alignment(message, a, "alibi_slopes", options->alibi_slopes);
}

static heed_status check_bias(heed_message *message, const softmax_arguments *a)
{
    const heed_tensor *bias = a->options->bias;
    member_name name = name_of(a, "bias");
    if (!bias)
        return HEED_OK;
    HEED_CHECK(heed_check_input(message, name.text, bias, HEED_FLOAT32));
    HEED_CHECK(heed_check_repeated_size(message, name.text, bias, 0, a->q->shape[0], "as in q, or 1"));
    HEED_CHECK(heed_check_repeated_size(message, name.text, bias, 1, a->q->shape[1], "as in q, or 1"));
    HEED_CHECK(heed_check_repeated_size(message, name.text, bias, 2, a->q->shape[2], "as in q, or 1"));
    return heed_check_size(message, name.text, bias, 3, a->k->shape[2], "the tokens of k");
}

heed_status heed_softmax_check_masks(heed_message *message, const softmax_arguments *a)
{
    HEED_CHECK(check_bias(message, a));
    return heed_mask_check(message, a->options->mask, a->q, a->k);
}

heed_status heed_softmax_check_outputs(heed_message *message, const softmax_arguments *a)
{
    HEED_CHECK(heed_check_output(message, "out", a->out, HEED_FLOAT32));
    for (int d = 0; d < 3; d++)
        HEED_CHECK(heed_check_size(message, "out", a->out, d, a->q->shape[d], "as in q"));
    HEED_CHECK(heed_check_size(message, "out", a->out, 3, a->v->shape[3], "as in v"));
    if (!a->lse)
        return HEED_OK;
    HEED_CHECK(heed_check_output(message, "lse", a->lse, HEED_FLOAT32));
    for (int d = 0; d < 3; d++)
        HEED_CHECK(heed_check_size(message, "lse", a->lse, d, a->q->shape[d], "as in q"));
    return heed_check_size(message, "lse", a->lse, 3, 1, "one per row");
}

heed_status heed_softmax_check_written(heed_message *message, const softmax_arguments *a, const char *name,
                                       const heed_tensor *out)
{
    const heed_softmax_options *options = a->options;
    int64_t per_head_bytes = a->q->shape[1] * (int64_t)sizeof(float);
    HEED_CHECK(heed_check_apart(message, name, out, "q", a->q));
    HEED_CHECK(heed_check_apart(message, name, out, "k", a->k));
    HEED_CHECK(heed_check_apart(message, name, out, "v", a->v));
    HEED_CHECK(heed_check_apart(message, name, out, name_of(a, "bias").text, options->bias));
    HEED_CHECK(heed_check_apart_bytes(message, name, out, name_of(a, "alibi_slopes").text, options->alibi_slopes,
                                      per_head_bytes));
    HEED_CHECK(heed_check_apart_bytes(message, name, out, name_of(a, "sinks").text, options->sinks, per_head_bytes));
    return heed_mask_check_apart(message, name, out, options->mask, a->q->shape[0]);
}

heed_status heed_softmax_check_apart(heed_message *message, const softmax_arguments *a)
{
    HEED_CHECK(heed_softmax_check_written(message, a, "out", a->out));
    if (!a->lse)
        return HEED_OK;
    HEED_CHECK(heed_softmax_check_written(message, a, "lse", a->lse));
    return heed_check_apart(message, "lse", a->lse, "out", a->out);
}

/* ---- calls ---- */

softmax_plan heed_softmax_plan(const softmax_arguments *a)
{
    const heed_softmax_options *options = a->options;
    softmax_plan p = {.q = *a->q, .k = *a->k, .v = *a->v, .out = *a->out};
    p.scale = options->scale != 0.0f ? options->scale : (float)(1.0 / sqrt((double)a->q->shape[3]));
    p.softcap = options->softcap;
    p.slopes = options->alibi_slopes;
    p.sinks = options->sinks;
    p.mask = heed_mask_resolve(options->mask, a->q, a->k);
    if (a->lse)
        p.lse = *a->lse;
    p.bias = heed_repeated(options->bias);
    return p;
}

static heed_status forward(heed_context *context, const softmax_arguments *a)
{
    heed_message *message = &context->message;
    HEED_CHECK(heed_softmax_check_options(message, a));
    HEED_CHECK(heed_softmax_check_inputs(message, a));
    HEED_CHECK(heed_softmax_check_masks(message, a));
    HEED_CHECK(heed_softmax_check_outputs(message, a));
    HEED_CHECK(heed_softmax_check_apart(message, a));
    HEED_CHECK(heed_check_scratch(context, heed_softmax_worker_bytes(a->q->shape[3], a->v->shape[3])));
    softmax_plan plan = heed_softmax_plan(a);
    heed_softmax_run(context, &plan);
    return HEED_OK;
}

heed_status heed_softmax_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                 const heed_tensor *v, const heed_softmax_options *options, const heed_tensor *out,
                                 const heed_tensor *lse)
{
    softmax_arguments a = {q, k, v, out, lse, options ? options : &heed_softmax_defaults, "options"};
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, forward(context, &a));
}

heed_status heed_softmax_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                       const heed_softmax_options *options, int64_t *bytes)
{
    softmax_arguments a = {.options = options ? options : &heed_softmax_defaults, .name = "options"};
    if (!q || !k || !v || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_softmax_check_options(NULL, &a));
    HEED_CHECK(heed_check_sizes(NULL, "q", q));
    HEED_CHECK(heed_check_sizes(NULL, "k", k));
    HEED_CHECK(heed_check_sizes(NULL, "v", v));
    HEED_CHECK(heed_softmax_check_shapes(NULL, q, k, v));
    *bytes = heed_softmax_worker_bytes(q->shape[3], v->shape[3]);
    return HEED_OK;
}
