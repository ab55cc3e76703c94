/* softmax: heed_softmax_forward(), and what softmax attention costs. */
#include "bench/variants.h"
#include "tests/oracle/oracle.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct softmax_state {
    variant_setup setup;
    heed_context *context;
} softmax_state;

static void release(void *state)
{
    softmax_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s);
    }
}

static void *prepare(const variant_setup *setup, char *message, size_t message_bytes)
{
    softmax_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    s->setup = *setup;
    const attention_input *in = setup->input;
    int64_t scratch_bytes = 0;
    const heed_status sized = heed_softmax_scratch_bytes(&in->q, &in->k, &in->v, &in->options, &scratch_bytes);
    if (sized != HEED_OK) {
        snprintf(message, message_bytes, "the scratch cannot be sized: %s", heed_status_text(sized));
        release(s);
        return NULL;
    }
    s->context = variant_create_context(setup, scratch_bytes, message, message_bytes);
    if (!s->context) {
        release(s);
        return NULL;
    }
    return s;
}

static int run(void *state, char *message, size_t message_bytes)
{
    const softmax_state *s = state;
    const attention_input *in = s->setup.input;
    if (heed_softmax_forward(s->context, &in->q, &in->k, &in->v, &in->options, &s->setup.out, NULL) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

static int64_t get_scratch_bytes(const void *state)
{
    const softmax_state *s = state;
    return variant_carved_bytes(s->context);
}

/* A score costs D multiply-adds and its part of the output Dv; each is two operations. Only pairs that causality and
 * window leave count. */
double softmax_flops(const attention_input *input)
{
    const attention_shape *s = &input->shape;
    return 2 * input_visible_pairs(input) * (double)(s->n_channels + s->n_value_channels);
}

/* What must move at least once: q, K, V and the output, and the bias and mask where given. K and V count once for
 * each of their heads, whatever number of query heads shares them. */
double softmax_bytes(const attention_input *input)
{
    const attention_shape *s = &input->shape;
    const double channels = (double)(s->n_channels + s->n_value_channels);
    const double queries = (double)s->n_query_heads * (double)s->n_queries;
    const double floats = (double)s->batch * channels * (queries + (double)s->n_kv_heads * (double)s->n_keys);
    const double pairs = queries * (double)s->n_keys; /* bias and mask are the same for all batch elements */
    return sizeof(float) * floats + (input->settings.bias ? sizeof(float) * pairs : 0) +
           (input->settings.bool_mask ? pairs : 0);
}

void softmax_reference_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out)
{
    oracle_softmax_row(&input->q, &input->k, &input->v, &input->options, b, h, i, out, NULL);
}

const variant variant_softmax = {
    .name = "softmax",
    .mode = "forward",
    .summary = "softmax attention, heed_softmax_forward()",
    .prepare = prepare,
    .run = run,
    .scratch_bytes = get_scratch_bytes,
    .release = release,
    .flops = softmax_flops,
    .bytes = softmax_bytes,
    .reference_row = softmax_reference_row,
};
