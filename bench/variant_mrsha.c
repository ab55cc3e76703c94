/* mrsha-2, mrsha-1248, mrsha: heed_mrsha_forward() with different resolutions, and its steps. */
#include "bench/mrsha_costs.h"
#include "bench/variant_mrsha_step.h"
#include "tests/oracle/oracle.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct mrsha_state {
    variant_setup setup;
    heed_mrsha_options options;
    heed_context *context;
} mrsha_state;

static void release(void *state)
{
    mrsha_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s);
    }
}

static void *prepare(mrsha_kind kind, const variant_setup *setup, char *message, size_t message_bytes)
{
    const attention_input *in = setup->input;
    mrsha_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    s->setup = *setup;
    s->options = mrsha_input_options(in, kind);
    int64_t scratch_bytes = 0; /* where this fails, the call says why */
    heed_mrsha_scratch_bytes(&in->q, &in->k, &in->v, &s->options, &scratch_bytes);
    s->context = variant_create_context(setup, scratch_bytes, message, message_bytes);
    if (!s->context) {
        release(s);
        return NULL;
    }
    return s;
}

static int run(void *state, char *message, size_t message_bytes)
{
    const mrsha_state *s = state;
    const attention_input *in = s->setup.input;
    if (heed_mrsha_forward(s->context, &in->q, &in->k, &in->v, &s->options, &s->setup.out, NULL) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

static int64_t get_scratch_bytes(const void *state)
{
    const mrsha_state *s = state;
    return variant_carved_bytes(s->context);
}

/* ---- The three -------------------------------------------------------------------------------------------------- */

#define MRSHA_FUNCTIONS(short_name, kind)                                                                              \
    static void *prepare_##short_name(const variant_setup *setup, char *message, size_t message_bytes)                 \
    {                                                                                                                  \
        return prepare(kind, setup, message, message_bytes);                                                           \
    }                                                                                                                  \
    static double short_name##_flops(const attention_input *input) { return mrsha_flops(input, kind); }                \
    static int64_t short_name##_group_size(const attention_input *input, int64_t h)                                    \
    {                                                                                                                  \
        return mrsha_input_options(input, kind).group_sizes[h];                                                        \
    }                                                                                                                  \
    static void short_name##_reference_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out) \
    {                                                                                                                  \
        const heed_mrsha_options options = mrsha_input_options(input, kind);                                           \
        oracle_mrsha_row(&input->q, &input->k, &input->v, &options, b, h, i, out, NULL);                               \
    }

MRSHA_FUNCTIONS(two, MRSHA_2)
MRSHA_FUNCTIONS(preset, MRSHA_1248)
MRSHA_FUNCTIONS(asked, MRSHA_ASKED)

#define MRSHA_VARIANT(short_name, kind)                                                                                \
    .mode = "forward", .on_request = 1, .kinds = {.mrsha = 1u << (kind)}, .prepare = prepare_##short_name, .run = run, \
    .scratch_bytes = get_scratch_bytes, .release = release, .flops = short_name##_flops, .bytes = softmax_bytes,       \
    .group_size = short_name##_group_size, .reference_row = short_name##_reference_row

static const variant asked_step = {
    .name = "mrsha",
    .mode = "step",
    .kinds = {.mrsha = 1u << MRSHA_ASKED},
    .prepare = mrsha_step_prepare,
    .run = mrsha_step_run,
    .scratch_bytes = mrsha_step_scratch_bytes,
    .release = mrsha_step_release,
    .flops = mrsha_step_flops,
    .bytes = mrsha_step_bytes,
    .limit = LIMIT_BANDWIDTH,
    .group_size = asked_group_size,
    .reference_row = mrsha_step_reference_row,
};

const variant variant_mrsha_2 = {
    .name = "mrsha-2",
    .summary = "multiresolution-head attention, all heads with groups of 2 tokens",
    MRSHA_VARIANT(two, MRSHA_2),
};

const variant variant_mrsha_1248 = {
    .name = "mrsha-1248",
    .summary = "multiresolution-head attention, groups of 1, 2, 4, 8 tokens, and again",
    MRSHA_VARIANT(preset, MRSHA_1248),
};

const variant variant_mrsha = {
    .name = "mrsha",
    .summary = "multiresolution-head attention, heads as --groups says",
    .step = &asked_step,
    MRSHA_VARIANT(asked, MRSHA_ASKED),
};
