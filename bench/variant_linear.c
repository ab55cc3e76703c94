/* linear-elu1, linear-softplus, linear-oglu, linear-aoglu, linear-favor: heed_linear_forward() with different feature
 * maps, its steps and its gradients. */
#include "bench/linear_costs.h"
#include "bench/linear_reference.h"
#include "bench/variant_linear_backward.h"
#include "bench/variant_linear_step.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct linear_state {
    variant_setup setup;
    heed_linear_options options;
    heed_context *context;
} linear_state;

static void release(void *state)
{
    linear_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s);
    }
}

static void *prepare(linear_kind kind, const variant_setup *setup, char *message, size_t message_bytes)
{
    const attention_input *in = setup->input;
    linear_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    s->setup = *setup;
    s->options = linear_input_options(in, kind);
    int64_t scratch_bytes = 0; /* where this fails, the call says why */
    heed_linear_scratch_bytes(&in->q, &in->k, &in->v, &s->options, &scratch_bytes);
    s->context = variant_create_context(setup, scratch_bytes, message, message_bytes);
    if (!s->context) {
        release(s);
        return NULL;
    }
    return s;
}

static int run(void *state, char *message, size_t message_bytes)
{
    const linear_state *s = state;
    const attention_input *in = s->setup.input;
    if (heed_linear_forward(s->context, &in->q, &in->k, &in->v, &s->options, NULL, &s->setup.out) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

static int64_t get_scratch_bytes(const void *state)
{
    const linear_state *s = state;
    return variant_carved_bytes(s->context);
}

/* ---- The five --------------------------------------------------------------------------------------------------- */

#define LINEAR_ROWS(short_name, kind)                                                                                  \
    static void short_name##_rows(const attention_input *input, const row_place *places, int64_t n, double *out)       \
    {                                                                                                                  \
        linear_reference_rows(input, kind, places, n, out);                                                            \
    }

/* What each kind calls, and its variants of steps and gradients. */
#define LINEAR_FUNCTIONS(short_name, long_name, kind, learns, rows)                                                    \
    static void *prepare_##short_name(const variant_setup *setup, char *message, size_t message_bytes)                 \
    {                                                                                                                  \
        return prepare(kind, setup, message, message_bytes);                                                           \
    }                                                                                                                  \
    static void *prepare_##short_name##_step(const variant_setup *setup, char *message, size_t message_bytes)          \
    {                                                                                                                  \
        return linear_step_prepare(kind, setup, message, message_bytes);                                               \
    }                                                                                                                  \
    static void *prepare_##short_name##_backward(const variant_setup *setup, char *message, size_t message_bytes)      \
    {                                                                                                                  \
        return linear_backward_prepare(kind, setup, message, message_bytes);                                           \
    }                                                                                                                  \
    static double short_name##_flops(const attention_input *input) { return linear_flops(input, kind); }               \
    static double short_name##_bytes(const attention_input *input) { return linear_bytes(input, kind); }               \
    static double short_name##_step_flops(const attention_input *input) { return linear_step_flops(input, kind); }     \
    static double short_name##_step_bytes(const attention_input *input) { return linear_step_bytes(input, kind); }     \
    static double short_name##_backward_flops(const attention_input *input)                                            \
    {                                                                                                                  \
        return linear_backward_flops(input, kind);                                                                     \
    }                                                                                                                  \
    static double short_name##_backward_bytes(const attention_input *input)                                            \
    {                                                                                                                  \
        return linear_backward_bytes(input, kind);                                                                     \
    }                                                                                                                  \
    static double short_name##_reference_cost(const attention_input *input)                                            \
    {                                                                                                                  \
        return linear_reference_cost(input, kind);                                                                     \
    }                                                                                                                  \
    static void short_name##_gradients(const attention_input *input, const row_place *places, int64_t n, double *out)  \
    {                                                                                                                  \
        linear_reference_gradients(input, kind, places, n, out);                                                       \
    }                                                                                                                  \
    static const variant short_name##_step = {                                                                         \
        .name = long_name,                                                                                             \
        .mode = "step",                                                                                                \
        .kinds = {.linear = 1u << (kind)},                                                                             \
        .has_parameters = (learns),                                                                                    \
        .prepare = prepare_##short_name##_step,                                                                        \
        .run = linear_step_run,                                                                                        \
        .n_calls = LINEAR_RECENT_TOKENS,                                                                               \
        .finish = linear_step_finish,                                                                                  \
        .scratch_bytes = linear_step_scratch_bytes,                                                                    \
        .release = linear_step_release,                                                                                \
        .flops = short_name##_step_flops,                                                                              \
        .bytes = short_name##_step_bytes,                                                                              \
        .limit = LIMIT_UPDATE,                                                                                         \
        .reference_rows = (rows),                                                                                      \
        .reference_cost = short_name##_reference_cost,                                                                 \
    };                                                                                                                 \
    static const variant short_name##_backward = {                                                                     \
        .name = long_name,                                                                                             \
        .mode = "backward",                                                                                            \
        .kinds = {.linear = 1u << (kind)},                                                                             \
        .has_parameters = (learns),                                                                                    \
        .prepare = prepare_##short_name##_backward,                                                                    \
        .run = linear_backward_run,                                                                                    \
        .scratch_bytes = linear_backward_scratch_bytes,                                                                \
        .release = linear_backward_release,                                                                            \
        .flops = short_name##_backward_flops,                                                                          \
        .bytes = short_name##_backward_bytes,                                                                          \
        .result = RESULT_DQ,                                                                                           \
        .reference_rows = short_name##_gradients,                                                                      \
        .reference_cost = short_name##_reference_cost,                                                                 \
    };

LINEAR_ROWS(elu1, LINEAR_ELU1)
LINEAR_ROWS(oglu, LINEAR_OGLU)
LINEAR_ROWS(aoglu, LINEAR_AOGLU)
LINEAR_ROWS(favor, LINEAR_FAVOR)
LINEAR_FUNCTIONS(elu1, "linear-elu1", LINEAR_ELU1, 0, elu1_rows)
LINEAR_FUNCTIONS(softplus, "linear-softplus", LINEAR_SOFTPLUS, 1, linear_reference_softplus_rows)
LINEAR_FUNCTIONS(oglu, "linear-oglu", LINEAR_OGLU, 1, oglu_rows)
LINEAR_FUNCTIONS(aoglu, "linear-aoglu", LINEAR_AOGLU, 1, aoglu_rows)
LINEAR_FUNCTIONS(favor, "linear-favor", LINEAR_FAVOR, 1, favor_rows)

#define LINEAR_VARIANT(short_name, kind, rows, learns)                                                                 \
    .mode = "forward", .on_request = 1, .kinds = {.linear = 1u << (kind)}, .has_parameters = (learns),                 \
    .prepare = prepare_##short_name, .run = run, .scratch_bytes = get_scratch_bytes, .release = release,               \
    .flops = short_name##_flops, .bytes = short_name##_bytes, .reference_rows = (rows),                                \
    .reference_cost = short_name##_reference_cost, .step = &short_name##_step, .backward = &short_name##_backward

const variant variant_linear_elu1 = {
    .name = "linear-elu1",
    .summary = "linear attention, phi(x) = elu(x) + 1",
    LINEAR_VARIANT(elu1, LINEAR_ELU1, elu1_rows, 0),
};

const variant variant_linear_softplus = {
    .name = "linear-softplus",
    .summary = "linear attention, phi(x) = softplus(x W)",
    LINEAR_VARIANT(softplus, LINEAR_SOFTPLUS, linear_reference_softplus_rows, 1),
};

const variant variant_linear_oglu = {
    .name = "linear-oglu",
    .summary = "linear attention, phi of gated units",
    LINEAR_VARIANT(oglu, LINEAR_OGLU, oglu_rows, 1),
};

const variant variant_linear_aoglu = {
    .name = "linear-aoglu",
    .summary = "linear attention, phi of units with gates of low rank",
    LINEAR_VARIANT(aoglu, LINEAR_AOGLU, aoglu_rows, 1),
};

const variant variant_linear_favor = {
    .name = "linear-favor",
    .summary = "linear attention, phi of positive random features (FAVOR+)",
    LINEAR_VARIANT(favor, LINEAR_FAVOR, favor_rows, 1),
};
