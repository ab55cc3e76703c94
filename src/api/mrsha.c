#include "api/mrsha.h"

#include "api/step.h"
#include "core/arguments.h"
#include "core/context.h"
#include "core/sizes.h"

#include <inttypes.h>

const heed_mrsha_options heed_mrsha_defaults = HEED_MRSHA_OPTIONS_INIT;

softmax_arguments heed_mrsha_all_heads(const mrsha_arguments *a)
{
    const heed_softmax_options *options = a->options->softmax ? a->options->softmax : &heed_softmax_defaults;
    return (softmax_arguments){a->q, a->k, a->v, a->out, a->lse, options, "options.softmax"};
}

softmax_arguments heed_mrsha_fine_heads(const mrsha_arguments *a)
{
    softmax_arguments heads = heed_mrsha_all_heads(a);
    if (a->options->fine) {
        heads.options = a->options->fine;
        heads.name = "options.fine";
    }
    return heads;
}

/* ---- checks ---- */

static heed_status check_enum(heed_message *message, const char *name, int value, int largest)
{
    if (value >= 0 && value <= largest)
        return HEED_OK;
    return heed_complain(message, HEED_ERROR_ARGUMENT, "options.%s: unknown value %d", name, value);
}

static heed_status check_group_sizes(heed_message *message, const int64_t *sizes, int64_t n_heads)
{
    if ((uintptr_t)sizes % _Alignof(int64_t) != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.group_sizes: is not aligned to its elements");
    for (int64_t h = 0; sizes && h < n_heads; h++) {
        if (sizes[h] < 1)
            return heed_complain(message, HEED_ERROR_ARGUMENT,
                                 "options.group_sizes[%" PRId64 "]: 1 or more expected, got %" PRId64, h, sizes[h]);
    }
    return HEED_OK;
}

heed_status heed_mrsha_check_options(heed_message *message, const heed_mrsha_options *o, int64_t n_heads)
{
    HEED_CHECK(heed_check_struct(message, "options", o, sizeof *o));
    HEED_CHECK(check_enum(message, "mode", (int)o->mode, HEED_MRSHA_VALUE));
    HEED_CHECK(check_enum(message, "pooling", (int)o->pooling, HEED_POOLING_LEARNED));
    HEED_CHECK(check_enum(message, "upsampling", (int)o->upsampling, HEED_UPSAMPLING_LINEAR));
    if (o->grid_height < 0 || o->grid_width < 0 || !o->grid_height != !o->grid_width)
        return heed_complain(message, HEED_ERROR_ARGUMENT,
                             "options.grid_height, grid_width: both 0, or both 1 or more, expected, got %" PRId64
                             " and %" PRId64,
                             o->grid_height, o->grid_width);
    return check_group_sizes(message, o->group_sizes, n_heads);
}

/* The largest S of all heads. */
static int64_t largest_group(const heed_mrsha_options *o, int64_t n_heads)
{
    heed_resolutions resolutions = {o->group_sizes, n_heads};
    int64_t largest = 1;
    for (int64_t h = 0; h < n_heads; h++)
        largest = heed_larger(largest, heed_group_size(&resolutions, h));
    return largest;
}

static heed_status check_weights(heed_message *message, const mrsha_arguments *a)
{
    const heed_mrsha_options *o = a->options;
    const char *name = "options.weights";
    int64_t n_heads = a->q->shape[1], needed = largest_group(o, n_heads);
    if ((o->weights != NULL) != (o->pooling == HEED_POOLING_LEARNED))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: %s", name,
                             o->weights ? "only with HEED_POOLING_LEARNED" : "is NULL");
    if (!o->weights)
        return HEED_OK;
    HEED_CHECK(heed_check_input(message, name, o->weights, HEED_FLOAT32));
    HEED_CHECK(heed_check_size(message, name, o->weights, 0, 1, "one set"));
    HEED_CHECK(heed_check_size(message, name, o->weights, 1, 1, "one set"));
    HEED_CHECK(heed_check_size(message, name, o->weights, 2, n_heads, "the heads of q"));
    if (needed == 1)
        return HEED_OK;
    if ((o->grid_width != 0 && __builtin_mul_overflow(needed, needed, &needed)) || o->weights->shape[3] < needed)
        return heed_complain(message, HEED_ERROR_SHAPE,
                             "%s: %" PRId64 " channels are fewer than the tokens of the largest group", name,
                             o->weights->shape[3]);
    return HEED_OK;
}

/* The tokens are those of the grid. */
static heed_status check_grid(heed_message *message, const mrsha_arguments *a)
{
    const heed_mrsha_options *o = a->options;
    int64_t n_tokens, class_tokens = o->class_token != 0;
    if (o->grid_width == 0)
        return HEED_OK;
    if (__builtin_mul_overflow(o->grid_height, o->grid_width, &n_tokens) || n_tokens >= HEED_MAX_EXTENT)
        return heed_complain(message, HEED_ERROR_SHAPE, "options.grid_height, grid_width: 2^60 tokens or more");
    HEED_CHECK(heed_check_size(message, "q", a->q, 2, n_tokens + class_tokens, "the grid, and a class token"));
    return heed_check_size(message, "k", a->k, 2, n_tokens + class_tokens, "the grid, and a class token");
}

heed_status heed_mrsha_check_inputs(heed_message *message, const mrsha_arguments *a)
{
    HEED_CHECK(heed_mrsha_check_options(message, a->options, 0));
    softmax_arguments all = heed_mrsha_all_heads(a), fine = heed_mrsha_fine_heads(a);
    HEED_CHECK(heed_softmax_check_options(message, &all));
    HEED_CHECK(heed_softmax_check_options(message, &fine));
    HEED_CHECK(heed_softmax_check_inputs(message, &all));
    HEED_CHECK(check_group_sizes(message, a->options->group_sizes, a->q->shape[1]));
    HEED_CHECK(heed_softmax_check_masks(message, &all));
    HEED_CHECK(heed_softmax_check_masks(message, &fine));
    return check_weights(message, a);
}

heed_status heed_mrsha_check_softmax(heed_message *message, const mrsha_arguments *a, int in_step)
{
    const heed_softmax_options *o = heed_mrsha_all_heads(a).options;
    heed_resolutions resolutions = {a->options->group_sizes, a->q->shape[1]};
    const char *why = in_step ? "not in a step" : "not in heads with S > 1; options.fine is for those with S = 1";
    if (o->bias)
        return heed_unsupported(message, "options.softmax.bias", why);
    for (int64_t h = 0; o->alibi_slopes && h < a->q->shape[1]; h++) {
        if (o->alibi_slopes[h] != 0.0f && (in_step || heed_group_size(&resolutions, h) > 1))
            return heed_unsupported(message, "options.softmax.alibi_slopes", why);
    }
    if (in_step || !o->mask)
        return HEED_OK;
    if (o->mask->window_left != -1 || o->mask->window_right != -1)
        return heed_unsupported(message, o->mask->window_left != -1 ? "mask.window_left" : "mask.window_right", why);
    return o->mask->visible ? heed_unsupported(message, "mask.visible", why) : HEED_OK;
}

/* A causal coarse head sees groups by their place in the sequence. */
static heed_status check_causal(heed_message *message, const mrsha_arguments *a)
{
    const heed_mrsha_options *o = a->options;
    const heed_mask *mask = heed_mrsha_all_heads(a).options->mask;
    heed_mask_plan plan = heed_mask_resolve(mask, a->q, a->k);
    if (!mask || !mask->causal)
        return HEED_OK;
    if (o->mode == HEED_MRSHA_OUTPUT)
        return heed_unsupported(message, "options.mode", "HEED_MRSHA_OUTPUT has no causal form");
    if (o->grid_width != 0 || o->class_token)
        return heed_unsupported(message, o->class_token ? "options.class_token" : "options.grid_width",
                                "not in causal heads with S > 1");
    if (o->upsampling == HEED_UPSAMPLING_LINEAR)
        return heed_unsupported(message, "options.upsampling", "HEED_UPSAMPLING_LINEAR looks at later groups");
    if (a->q->shape[2] != a->k->shape[2])
        return heed_unsupported(message, "k", "as many tokens as in q expected by causal heads with S > 1");
    for (int64_t b = 0; b < a->q->shape[0]; b++) {
        if (heed_position_offset(&plan, b) != 0)
            return heed_unsupported(message, "mask.alignment",
                                    "token i of q at the position of token i of k expected by causal heads with S > 1");
    }
    return HEED_OK;
}

static heed_status check_upsampling(heed_message *message, const mrsha_arguments *a)
{
    if (a->options->upsampling != HEED_UPSAMPLING_LINEAR)
        return HEED_OK;
    if (a->options->grid_width != 0)
        return heed_unsupported(message, "options.upsampling", "HEED_UPSAMPLING_LINEAR is not there for grids");
    return a->lse ? heed_unsupported(message, "lse", "rows that are interpolated have none; NULL expected") : HEED_OK;
}

heed_status heed_mrsha_check_written(heed_message *message, const mrsha_arguments *a, const char *name,
                                     const heed_tensor *out)
{
    softmax_arguments all = heed_mrsha_all_heads(a), fine = heed_mrsha_fine_heads(a);
    HEED_CHECK(heed_softmax_check_written(message, &all, name, out));
    if (a->options->fine)
        HEED_CHECK(heed_softmax_check_written(message, &fine, name, out));
    HEED_CHECK(heed_check_apart(message, name, out, "options.weights", a->options->weights));
    return heed_check_apart_bytes(message, name, out, "options.group_sizes", a->options->group_sizes,
                                  a->q->shape[1] * (int64_t)sizeof(int64_t));
}

static heed_status check_outputs(heed_message *message, const mrsha_arguments *a)
{
    softmax_arguments all = heed_mrsha_all_heads(a);
    HEED_CHECK(heed_softmax_check_outputs(message, &all));
    HEED_CHECK(heed_mrsha_check_written(message, a, "out", a->out));
    if (!a->lse)
        return HEED_OK;
    HEED_CHECK(heed_mrsha_check_written(message, a, "lse", a->lse));
    return heed_check_apart(message, "lse", a->lse, "out", a->out);
}

/* ---- calls ---- */

mrsha_heads heed_mrsha_heads(const heed_mrsha_options *options, int64_t n_heads, int64_t kv_heads)
{
    return (mrsha_heads){{options->group_sizes, n_heads}, n_heads / heed_larger(kv_heads, 1), options->pooling};
}

mrsha_plan heed_mrsha_plan(const mrsha_arguments *a)
{
    const heed_mrsha_options *o = a->options;
    softmax_arguments all = heed_mrsha_all_heads(a), fine = heed_mrsha_fine_heads(a);
    mrsha_plan p = {.heads = heed_mrsha_heads(o, a->q->shape[1], a->k->shape[1])};
    p.coarse = heed_softmax_plan(&all);
    p.fine = heed_softmax_plan(&fine);
    p.coarse.bias = (heed_tensor){0};
    p.coarse.slopes = NULL;
    p.mode = o->mode;
    p.weights = heed_repeated(o->weights);
    p.interpolates = o->upsampling == HEED_UPSAMPLING_LINEAR;
    p.grid_height = o->grid_height;
    p.grid_width = o->grid_width;
    p.class_tokens = o->class_token != 0;
    return p;
}

static heed_status forward(heed_context *context, const mrsha_arguments *a)
{
    heed_message *message = &context->message;
    HEED_CHECK(heed_mrsha_check_inputs(message, a));
    HEED_CHECK(check_grid(message, a));
    HEED_CHECK(check_upsampling(message, a));
    if (largest_group(a->options, a->q->shape[1]) > 1) {
        HEED_CHECK(heed_mrsha_check_softmax(message, a, 0));
        HEED_CHECK(check_causal(message, a));
    }
    HEED_CHECK(check_outputs(message, a));
    HEED_CHECK(heed_check_scratch(context, heed_mrsha_worker_bytes(a->q->shape[3], a->v->shape[3])));
    mrsha_plan plan = heed_mrsha_plan(a);
    heed_mrsha_run(context, &plan);
    return HEED_OK;
}

heed_status heed_mrsha_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                               const heed_mrsha_options *options, const heed_tensor *out, const heed_tensor *lse)
{
    mrsha_arguments a = {q, k, v, options ? options : &heed_mrsha_defaults, out, lse};
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, forward(context, &a));
}

heed_status heed_mrsha_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                     const heed_mrsha_options *options, int64_t *bytes)
{
    if (!q || !k || !v || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_mrsha_check_options(NULL, options ? options : &heed_mrsha_defaults, 0));
    HEED_CHECK(heed_check_sizes(NULL, "q", q));
    HEED_CHECK(heed_check_sizes(NULL, "k", k));
    HEED_CHECK(heed_check_sizes(NULL, "v", v));
    HEED_CHECK(heed_softmax_check_shapes(NULL, q, k, v));
    *bytes = heed_mrsha_worker_bytes(q->shape[3], v->shape[3]);
    return HEED_OK;
}

heed_status heed_mrsha_group_sizes(heed_mrsha_preset preset, int64_t n_heads, int64_t *group_sizes)
{
    heed_resolutions half = {NULL, n_heads};
    if (preset != HEED_MRSHA_HALF && preset != HEED_MRSHA_1248)
        return HEED_ERROR_ARGUMENT;
    if (n_heads < 0)
        return HEED_ERROR_SHAPE;
    if (!group_sizes)
        return HEED_ERROR_ARGUMENT;
    for (int64_t h = 0; h < n_heads; h++)
        group_sizes[h] = preset == HEED_MRSHA_HALF ? heed_group_size(&half, h) : (int64_t)1 << (h % 4);
    return HEED_OK;
}
