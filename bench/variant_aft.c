/* aft-full, aft-local, aft-simple, aft-conv: the four forms of heed_aft_*_forward() on what aft_input.h makes of the
 * input, and what they cost. */
#include "bench/aft_input.h"
#include "bench/memory.h"
#include "bench/variant_aft_step.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct aft_state {
    variant_setup setup;
    oracle_aft_form form;
    heed_aft_options options;
    heed_context *context;
    float *data; /* the result as AFT sees it: (B, Nq, D') */
    heed_tensor out;
} aft_state;

static void release(void *state)
{
    aft_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s->data);
        free(s);
    }
}

static int64_t find_scratch_bytes(const aft_state *s)
{
    const aft_input *a = s->setup.input->aft;
    int64_t bytes = 0; /* where this fails, the call says why */
    switch (s->form) {
    case ORACLE_AFT_FULL:
        heed_aft_full_scratch_bytes(&a->q, &a->k, &a->v, &s->options, &bytes);
        break;
    case ORACLE_AFT_LOCAL:
        heed_aft_local_scratch_bytes(&a->q, &a->k, &a->v, &s->options, &bytes);
        break;
    case ORACLE_AFT_SIMPLE:
        heed_aft_simple_scratch_bytes(&a->q, &a->k, &a->v, &s->options, &bytes);
        break;
    case ORACLE_AFT_CONV:
        heed_aft_conv_scratch_bytes(&a->conv_q, &a->conv_k, &a->conv_v, &a->parameters.filter, &s->options, &bytes);
        break;
    }
    return bytes;
}

static void *prepare(oracle_aft_form form, const variant_setup *setup, char *message, size_t message_bytes)
{
    const attention_input *in = setup->input;
    const attention_shape *shape = &in->shape;
    const heed_tensor *q = form == ORACLE_AFT_CONV ? &in->aft->conv_q : &in->aft->q;
    aft_state *s = calloc(1, sizeof *s);
    if (s)
        s->data = memory_allocate_floats(1, shape->batch, shape->n_queries, aft_input_n_channels(in));
    if (!s || !s->data) {
        snprintf(message, message_bytes, "out of memory");
        release(s);
        return NULL;
    }
    s->setup = *setup;
    s->form = form;
    s->options = aft_input_options(in, form);
    s->out = *q; /* it has the shape and the strides of q */
    s->out.data = s->data;
    s->context = variant_create_context(setup, find_scratch_bytes(s), message, message_bytes);
    if (!s->context) {
        release(s);
        return NULL;
    }
    return s;
}

static heed_status forward(const aft_state *s)
{
    const aft_input *a = s->setup.input->aft;
    switch (s->form) {
    case ORACLE_AFT_FULL:
        return heed_aft_full_forward(s->context, &a->q, &a->k, &a->v, &s->options, &s->out, NULL);
    case ORACLE_AFT_LOCAL:
        return heed_aft_local_forward(s->context, &a->q, &a->k, &a->v, &s->options, &s->out, NULL);
    case ORACLE_AFT_SIMPLE:
        return heed_aft_simple_forward(s->context, &a->q, &a->k, &a->v, &s->options, &s->out, NULL);
    case ORACLE_AFT_CONV:
    default:
        return heed_aft_conv_forward(s->context, &a->conv_q, &a->conv_k, &a->conv_v, &a->parameters.filter, &s->options,
                                     &s->out, NULL);
    }
}

static int run(void *state, char *message, size_t message_bytes)
{
    const aft_state *s = state;
    if (forward(s) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

static void finish(void *state)
{
    const aft_state *s = state;
    aft_input_take_apart(s->setup.input, s->data, &s->setup.out);
}

static int64_t get_scratch_bytes(const void *state)
{
    const aft_state *s = state;
    return variant_carved_bytes(s->context);
}

/* ---- Costs ------------------------------------------------------------------------------------------------------ */

/* Every channel of every row. */
static double count_outputs(const attention_input *input)
{
    return (double)input->shape.batch * (double)input->shape.n_queries * (double)aft_input_n_channels(input);
}

/* A visible pair costs each channel a multiply-add for the numerator and one for the denominator; each is two
 * operations. Making w of factors does not count. */
static double full_flops(const attention_input *input)
{
    return 4 * input_visible_pairs(input) * (double)input->shape.n_channels;
}

/* As many keys as the window has, also where it reaches beyond the first or the last one. Keys outside do not count: all
 * rows can share one pass over them. */
static double local_flops(const attention_input *input)
{
    const double window = (double)input->settings.aft.window;
    return 4 * count_outputs(input) * (input->causal ? window : 2 * window - 1);
}

/* As many keys as the filter has taps. The channels of a head share their weights, so that the denominator does not
 * count. */
static double conv_flops(const attention_input *input)
{
    const aft_settings *aft = &input->settings.aft;
    return 2 * count_outputs(input) * (double)aft->filter_rows * (double)aft->filter_columns;
}

static double count_elements(const heed_tensor *t)
{
    return t && t->data ? (double)t->shape[0] * (double)t->shape[1] * (double)t->shape[2] * (double)t->shape[3] : 0;
}

/* q, k, v and the output once, and the parameters. A key or value head that several query heads share counts for each
 * of them, as the mechanism has no shared heads. */
static double find_bytes(const attention_input *input, oracle_aft_form form)
{
    const aft_input *a = input->aft;
    const heed_aft_options options = aft_input_options(input, form);
    const int conv = form == ORACLE_AFT_CONV;
    return sizeof(float) * (2 * count_elements(&a->q) + count_elements(conv ? &a->conv_k : &a->k) +
                            count_elements(&a->v) + count_elements(options.w) + count_elements(options.query_factors) +
                            count_elements(options.key_factors) + (conv ? count_elements(&a->parameters.filter) : 0));
}

/* Each channel of a pair takes as long as some 4 multiply-adds of the softmax oracle, each factor 3, and mask and bias 8.
 * A rough estimate does, as it decides how many rows are compared and nothing else. */
static double find_reference_cost(const attention_input *input, oracle_aft_form form)
{
    const int has_factors = form == ORACLE_AFT_FULL || form == ORACLE_AFT_LOCAL;
    const double n_factors = has_factors ? (double)input->settings.aft.n_factors : 0;
    return (double)input->shape.n_keys * (4 * (double)input->shape.n_channels + 3 * n_factors + 8);
}

/* ---- The four --------------------------------------------------------------------------------------------------- */

#define AFT_FUNCTIONS(name, form)                                                                                      \
    static void *prepare_##name(const variant_setup *setup, char *message, size_t message_bytes)                       \
    {                                                                                                                  \
        return prepare(form, setup, message, message_bytes);                                                           \
    }                                                                                                                  \
    static double name##_bytes(const attention_input *input) { return find_bytes(input, form); }                       \
    static double name##_reference_cost(const attention_input *input) { return find_reference_cost(input, form); }     \
    static void name##_reference_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out)       \
    {                                                                                                                  \
        aft_input_reference_row(input, form, b, h, i, out);                                                            \
    }

AFT_FUNCTIONS(full, ORACLE_AFT_FULL)
AFT_FUNCTIONS(local, ORACLE_AFT_LOCAL)
AFT_FUNCTIONS(simple, ORACLE_AFT_SIMPLE)
AFT_FUNCTIONS(conv, ORACLE_AFT_CONV)

#define AFT_STEP_FUNCTIONS(name, form)                                                                                 \
    static void *prepare_##name##_step(const variant_setup *setup, char *message, size_t message_bytes)                \
    {                                                                                                                  \
        return aft_step_prepare(form, setup, message, message_bytes);                                                  \
    }                                                                                                                  \
    static double name##_step_bytes(const attention_input *input) { return aft_step_bytes(input, form); }

AFT_STEP_FUNCTIONS(local, ORACLE_AFT_LOCAL)
AFT_STEP_FUNCTIONS(simple, ORACLE_AFT_SIMPLE)
AFT_STEP_FUNCTIONS(conv, ORACLE_AFT_CONV)

#define AFT_CALLS(form_name, form)                                                                                     \
    .mode = "forward", .on_request = 1, .kinds = {.aft = 1u << (form)}, .prepare = prepare_##form_name, .run = run,    \
    .finish = finish, .scratch_bytes = get_scratch_bytes, .release = release, .bytes = form_name##_bytes,              \
    .reference_row = form_name##_reference_row, .reference_cost = form_name##_reference_cost

#define AFT_STEPS(form_name, form)                                                                                     \
    .mode = "step", .on_request = 1, .kinds = {.aft = 1u << (form)}, .prepare = prepare_##form_name##_step,            \
    .run = aft_step_run, .finish = aft_step_finish, .scratch_bytes = aft_step_scratch_bytes,                           \
    .release = aft_step_release, .bytes = form_name##_step_bytes, .reference_row = form_name##_reference_row,          \
    .reference_cost = form_name##_reference_cost, .limit = LIMIT_BANDWIDTH

static const variant local_step = {
    .name = "aft-local",
    .flops = local_flops,
    AFT_STEPS(local, ORACLE_AFT_LOCAL),
};

static const variant simple_step = {
    .name = "aft-simple",
    AFT_STEPS(simple, ORACLE_AFT_SIMPLE),
};

static const variant conv_step = {
    .name = "aft-conv",
    .flops = conv_flops,
    AFT_STEPS(conv, ORACLE_AFT_CONV),
};

const variant variant_aft_full = {
    .name = "aft-full",
    .has_parameters = 1,
    .summary = "AFT with a bias for every pair; all heads as the channels of one",
    .flops = full_flops,
    AFT_CALLS(full, ORACLE_AFT_FULL),
};

const variant variant_aft_local = {
    .name = "aft-local",
    .has_parameters = 1,
    .summary = "AFT with a bias within --aft-window",
    .flops = local_flops,
    .step = &local_step,
    AFT_CALLS(local, ORACLE_AFT_LOCAL),
};

const variant variant_aft_simple = {
    .name = "aft-simple",
    .summary = "AFT without bias",
    .limit = LIMIT_STREAMS,
    .step = &simple_step,
    AFT_CALLS(simple, ORACLE_AFT_SIMPLE),
};

const variant variant_aft_conv = {
    .name = "aft-conv",
    .has_parameters = 1,
    .summary = "AFT with a filter as bias; each head's first channel is its key",
    .flops = conv_flops,
    .step = &conv_step,
    AFT_CALLS(conv, ORACLE_AFT_CONV),
};
