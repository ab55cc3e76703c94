#include "mechanisms/softmax.h"
#include "core/arguments.h"
#include "core/context.h"

#include <math.h>

typedef struct softmax_arguments {
    const heed_tensor *q, *k, *v, *out, *lse;
    const heed_softmax_options *options; /* never NULL */
} softmax_arguments;

static const heed_softmax_options defaults = HEED_SOFTMAX_OPTIONS_INIT;

static heed_status check_shapes(heed_message *message, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v)
{
    HEED_CHECK(heed_check_size(message, "k", k, 0, q->shape[0], "as in q"));
    HEED_CHECK(heed_check_size(message, "k", k, 3, q->shape[3], "as in q"));
    return heed_check_values(message, q, k, v);
}

static heed_status check_options(heed_message *message, const heed_softmax_options *options)
{
    HEED_CHECK(heed_check_struct(message, "options", options, sizeof *options));
    if (!isfinite(options->scale))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.scale: a finite value expected, got %g",
                             (double)options->scale);
    if (!isfinite(options->softcap) || options->softcap < 0.0f)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.softcap: 0 or more expected, got %g",
                             (double)options->softcap);
    if ((uintptr_t)options->alibi_slopes % sizeof(float) != 0 || (uintptr_t)options->sinks % sizeof(float) != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.%s: is not aligned to its elements",
                             (uintptr_t)options->sinks % sizeof(float) != 0 ? "sinks" : "alibi_slopes");
    return HEED_OK;
}

static heed_status check_bias(heed_message *message, const softmax_arguments *a)
{
    const heed_tensor *bias = a->options->bias;
    const char *name = "options.bias";
    if (!bias)
        return HEED_OK;
    HEED_CHECK(heed_check_input(message, name, bias, HEED_FLOAT32));
    HEED_CHECK(heed_check_repeated_size(message, name, bias, 0, a->q->shape[0], "as in q, or 1"));
    HEED_CHECK(heed_check_repeated_size(message, name, bias, 1, a->q->shape[1], "as in q, or 1"));
    HEED_CHECK(heed_check_repeated_size(message, name, bias, 2, a->q->shape[2], "as in q, or 1"));
    return heed_check_size(message, name, bias, 3, a->k->shape[2], "the tokens of k");
}

static heed_status check_outputs(heed_message *message, const softmax_arguments *a)
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

/* One output against everything that is read. */
static heed_status check_apart(heed_message *message, const softmax_arguments *a, const char *name,
                               const heed_tensor *out)
{
    const heed_softmax_options *options = a->options;
    int64_t per_head_bytes = a->q->shape[1] * (int64_t)sizeof(float);
    HEED_CHECK(heed_check_apart(message, name, out, "q", a->q));
    HEED_CHECK(heed_check_apart(message, name, out, "k", a->k));
    HEED_CHECK(heed_check_apart(message, name, out, "v", a->v));
    HEED_CHECK(heed_check_apart(message, name, out, "options.bias", options->bias));
    HEED_CHECK(
        heed_check_apart_bytes(message, name, out, "options.alibi_slopes", options->alibi_slopes, per_head_bytes));
    HEED_CHECK(heed_check_apart_bytes(message, name, out, "options.sinks", options->sinks, per_head_bytes));
    return heed_mask_check_apart(message, name, out, options->mask, a->q->shape[0]);
}

static heed_status check(heed_context *context, const softmax_arguments *a)
{
    heed_message *message = &context->message;
    HEED_CHECK(check_options(message, a->options));
    HEED_CHECK(heed_check_input(message, "q", a->q, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "k", a->k, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "v", a->v, HEED_FLOAT32));
    HEED_CHECK(check_shapes(message, a->q, a->k, a->v));
    HEED_CHECK(check_bias(message, a));
    HEED_CHECK(heed_mask_check(message, a->options->mask, a->q, a->k));
    HEED_CHECK(check_outputs(message, a));
    HEED_CHECK(check_apart(message, a, "out", a->out));
    if (a->lse) {
        HEED_CHECK(check_apart(message, a, "lse", a->lse));
        HEED_CHECK(heed_check_apart(message, "lse", a->lse, "out", a->out));
    }
    return heed_check_scratch(context, heed_softmax_worker_bytes(a->q->shape[3], a->v->shape[3]));
}

static softmax_plan plan(const softmax_arguments *a)
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

heed_status heed_softmax_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                 const heed_tensor *v, const heed_softmax_options *options, const heed_tensor *out,
                                 const heed_tensor *lse)
{
    softmax_arguments arguments = {q, k, v, out, lse, options ? options : &defaults};
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check(context, &arguments);
    if (status == HEED_OK) {
        softmax_plan p = plan(&arguments);
        heed_softmax_run(context, &p);
    }
    return heed_call_end(context, status);
}

heed_status heed_softmax_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                       const heed_softmax_options *options, int64_t *bytes)
{
    if (!q || !k || !v || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(check_options(NULL, options ? options : &defaults));
    HEED_CHECK(heed_check_sizes(NULL, "q", q));
    HEED_CHECK(heed_check_sizes(NULL, "k", k));
    HEED_CHECK(heed_check_sizes(NULL, "v", v));
    HEED_CHECK(check_shapes(NULL, q, k, v));
    *bytes = heed_softmax_worker_bytes(q->shape[3], v->shape[3]);
    return HEED_OK;
}
