#include "bench/variant_aft_step.h"

#include "bench/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of the prefix in one step; only their sums and windows are wanted, not their rows. */
enum { PREFIX_TOKENS = 64 };

typedef struct step_state {
    variant_setup setup;
    oracle_aft_form form;
    heed_aft_options options; /* of the last token */
    heed_tensor key_factors;  /* those of its window */
    heed_tensor q, k, v, out;
    heed_context *context;
    float *data; /* of out, for PREFIX_TOKENS tokens */
    void *memory, *after_prefix;
    int64_t memory_bytes;
    heed_aft_simple_state simple;
    heed_aft_local_state local;
    heed_aft_conv_state conv;
} step_state;

void aft_step_release(void *state)
{
    step_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s->data);
        free(s->memory);
        free(s->after_prefix);
        free(s);
    }
}

/* ---- The state -------------------------------------------------------------------------------------------------- */

static heed_status find_memory_bytes(const step_state *s, int64_t *bytes)
{
    const aft_settings *aft = &s->setup.input->settings.aft;
    const int64_t batch = s->q.shape[0], heads = s->q.shape[1], channels = s->q.shape[3];
    switch (s->form) {
    case ORACLE_AFT_LOCAL:
        return heed_aft_local_state_bytes(batch, heads, aft->window, channels, bytes);
    case ORACLE_AFT_CONV:
        return heed_aft_conv_state_bytes(batch, heads, aft->filter_columns, channels, bytes);
    default:
        return heed_aft_simple_state_bytes(batch, heads, channels, bytes);
    }
}

static heed_status start_state(step_state *s)
{
    const aft_settings *aft = &s->setup.input->settings.aft;
    const int64_t batch = s->q.shape[0], heads = s->q.shape[1], channels = s->q.shape[3];
    switch (s->form) {
    case ORACLE_AFT_LOCAL:
        s->local = heed_aft_local_state_view(s->memory, batch, heads, aft->window, channels);
        return heed_aft_local_state_reset(&s->local, -1);
    case ORACLE_AFT_CONV:
        s->conv = heed_aft_conv_state_view(s->memory, batch, heads, aft->filter_columns, channels);
        return heed_aft_conv_state_reset(&s->conv, -1);
    default:
        s->simple = heed_aft_simple_state_view(s->memory, batch, heads, channels);
        return heed_aft_simple_state_reset(&s->simple, -1);
    }
}

static heed_status step(const step_state *s, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                        const heed_aft_options *options, const heed_tensor *out)
{
    switch (s->form) {
    case ORACLE_AFT_LOCAL:
        return heed_aft_local_step(s->context, q, k, v, options, &s->local, out);
    case ORACLE_AFT_CONV:
        return heed_aft_conv_step(s->context, q, k, v, &s->setup.input->aft->parameters.filter, options, &s->conv, out);
    default:
        return heed_aft_simple_step(s->context, q, k, v, options, &s->simple, out);
    }
}

/* All tokens but the last. Their queries and biases do not reach the state. */
static heed_status take_prefix(step_state *s, const heed_tensor *k, const heed_tensor *v)
{
    heed_aft_options options = HEED_AFT_OPTIONS_INIT;
    options.window = s->options.window;
    const int64_t n_tokens = k->shape[2] - 1;
    for (int64_t first = 0, n = 0; first < n_tokens; first += n) {
        n = n_tokens - first < PREFIX_TOKENS ? n_tokens - first : PREFIX_TOKENS;
        const heed_tensor new_k = input_take_tokens(k, first, n), new_v = input_take_tokens(v, first, n);
        heed_tensor q = s->q, out = s->out;
        q.shape[2] = out.shape[2] = n;
        q.stride[2] = 0;
        const heed_status status = step(s, &q, &new_k, &new_v, &options, &out);
        if (status != HEED_OK)
            return status;
    }
    return HEED_OK;
}

/* ---- The call --------------------------------------------------------------------------------------------------- */

/* The bias that a step takes: a band as in forward, and of the factors those of the keys in the window. */
static void set_options(step_state *s)
{
    const attention_input *input = s->setup.input;
    const int64_t window = input->settings.aft.window;
    s->options = aft_input_options(input, s->form);
    s->options.mask = NULL;
    if (s->options.key_factors) {
        s->key_factors = input_take_tokens(s->options.key_factors, input->shape.n_keys - window, window);
        s->options.key_factors = &s->key_factors;
    }
}

static int take_memory(step_state *s)
{
    const heed_tensor *q = &s->q;
    if (find_memory_bytes(s, &s->memory_bytes) != HEED_OK)
        return -1;
    s->memory = memory_allocate(s->memory_bytes);
    s->after_prefix = memory_allocate(s->memory_bytes);
    s->data = memory_allocate_floats(q->shape[0], PREFIX_TOKENS, q->shape[1], q->shape[3]);
    return s->memory && s->after_prefix && s->data ? 0 : -1;
}

void *aft_step_prepare(oracle_aft_form form, const variant_setup *setup, char *message, size_t message_bytes)
{
    const aft_input *a = setup->input->aft;
    const int conv = form == ORACLE_AFT_CONV;
    const heed_tensor *k = conv ? &a->conv_k : &a->k, *v = conv ? &a->conv_v : &a->v;
    step_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    s->setup = *setup;
    s->form = form;
    s->q = conv ? a->conv_q : a->q;
    s->k = input_take_tokens(k, k->shape[2] - 1, 1);
    s->v = input_take_tokens(v, v->shape[2] - 1, 1);
    set_options(s);
    if (take_memory(s) != 0) {
        snprintf(message, message_bytes, "out of memory for the state");
        aft_step_release(s);
        return NULL;
    }
    s->out = heed_tensor_bnhd(s->data, HEED_FLOAT32, s->q.shape[0], s->q.shape[1], PREFIX_TOKENS, s->q.shape[3]);
    s->context = variant_create_context(setup, 0, message, message_bytes);
    if (!s->context || start_state(s) != HEED_OK || take_prefix(s, k, v) != HEED_OK) {
        if (s->context)
            snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        aft_step_release(s);
        return NULL;
    }
    memcpy(s->after_prefix, s->memory, (size_t)s->memory_bytes);
    s->out = heed_tensor_bnhd(s->data, HEED_FLOAT32, s->q.shape[0], s->q.shape[1], 1, s->q.shape[3]);
    return s;
}

int aft_step_run(void *state, char *message, size_t message_bytes)
{
    const step_state *s = state;
    if (step(s, &s->q, &s->k, &s->v, &s->options, &s->out) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

void aft_step_finish(void *state)
{
    step_state *s = state;
    memcpy(s->memory, s->after_prefix, (size_t)s->memory_bytes);
    step(s, &s->q, &s->k, &s->v, &s->options, &s->out);
    aft_input_take_apart(s->setup.input, s->data, &s->setup.out);
}

int64_t aft_step_scratch_bytes(const void *state)
{
    const step_state *s = state;
    return variant_carved_bytes(s->context);
}

/* ---- Costs ------------------------------------------------------------------------------------------------------ */

/* Sums are read and written, the keys and values of the window read; the new ones are written. */
double aft_step_bytes(const attention_input *input, oracle_aft_form form)
{
    const aft_settings *aft = &input->settings.aft;
    const double channels = (double)aft_input_n_channels(input), n_sums = 6;
    const double window = form == ORACLE_AFT_LOCAL  ? (double)aft->window
                          : form == ORACLE_AFT_CONV ? (double)aft->filter_columns
                                                    : 0;
    const double keys = form == ORACLE_AFT_CONV ? (double)aft->conv_heads : channels;
    const double token = 2 * channels + keys + channels, state = 2 * n_sums * channels + window * (keys + channels);
    const double written = window > 0 ? keys + channels : 0;
    const double bias = form == ORACLE_AFT_CONV    ? window * (double)aft->conv_heads
                        : aft->n_factors == 0      ? window
                        : form == ORACLE_AFT_LOCAL ? (window + 1) * (double)aft->n_factors
                                                   : 0;
    return sizeof(float) * ((double)input->shape.batch * (token + state + written) + bias);
}
