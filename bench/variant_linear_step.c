#include "bench/variant_linear_step.h"

#include "bench/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct step_state {
    variant_setup setup;
    heed_linear_options options;
    heed_tensor k, v; /* of the last token */
    heed_context *context;
    void *memory, *after_prefix;
    int64_t memory_bytes;
    heed_linear_state state;
} step_state;

void linear_step_release(void *state)
{
    step_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s->memory);
        free(s->after_prefix);
        free(s);
    }
}

static int take_memory(step_state *s, linear_kind kind)
{
    const attention_shape *shape = &s->setup.input->shape;
    const int64_t n_features = linear_n_features(s->setup.input, kind);
    if (heed_linear_state_bytes(shape->batch, shape->n_kv_heads, n_features, shape->n_value_channels,
                                LINEAR_RECENT_TOKENS, &s->memory_bytes) != HEED_OK)
        return -1;
    s->memory = memory_allocate(s->memory_bytes);
    s->after_prefix = memory_allocate(s->memory_bytes);
    if (!s->memory || !s->after_prefix)
        return -1;
    s->state = heed_linear_state_view(s->memory, shape->batch, shape->n_kv_heads, n_features, shape->n_value_channels,
                                      LINEAR_RECENT_TOKENS);
    return heed_linear_state_reset(&s->state, -1) == HEED_OK ? 0 : -1;
}

/* All tokens but the last, all at once, and for no query: they would not reach the state. */
static heed_status take_prefix(step_state *s)
{
    const attention_input *in = s->setup.input;
    const int64_t n_tokens = in->shape.n_keys - 1;
    heed_linear_options options = s->options;
    const heed_tensor k = input_take_tokens(&in->k, 0, n_tokens), v = input_take_tokens(&in->v, 0, n_tokens);
    const heed_tensor q = input_take_tokens(&in->q, 0, 0), out = input_take_tokens(&s->setup.out, 0, 0);
    options.mask = NULL;
    return heed_linear_forward(s->context, &q, &k, &v, &options, &s->state, &out);
}

static int64_t find_scratch_bytes(const step_state *s)
{
    const attention_input *in = s->setup.input;
    int64_t bytes = 0; /* where this fails, the call says why */
    heed_linear_scratch_bytes(&in->q, &in->k, &in->v, &s->options, &bytes);
    return bytes;
}

void *linear_step_prepare(linear_kind kind, const variant_setup *setup, char *message, size_t message_bytes)
{
    const attention_input *in = setup->input;
    step_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    s->setup = *setup;
    s->options = linear_input_options(in, kind);
    s->k = input_take_tokens(&in->k, in->shape.n_keys - 1, 1);
    s->v = input_take_tokens(&in->v, in->shape.n_keys - 1, 1);
    if (take_memory(s, kind) != 0) {
        snprintf(message, message_bytes, "out of memory for the state");
        linear_step_release(s);
        return NULL;
    }
    s->context = variant_create_context(setup, find_scratch_bytes(s), message, message_bytes);
    if (!s->context || take_prefix(s) != HEED_OK) {
        if (s->context)
            snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        linear_step_release(s);
        return NULL;
    }
    memcpy(s->after_prefix, s->memory, (size_t)s->memory_bytes);
    return s;
}

static heed_status step(const step_state *s)
{
    return heed_linear_step(s->context, &s->setup.input->q, &s->k, &s->v, &s->options, &s->state, &s->setup.out);
}

int linear_step_run(void *state, char *message, size_t message_bytes)
{
    const step_state *s = state;
    for (int i = 0; i < LINEAR_RECENT_TOKENS; i++) {
        if (step(s) != HEED_OK) {
            snprintf(message, message_bytes, "%s", heed_context_message(s->context));
            return -1;
        }
    }
    return 0;
}

void linear_step_finish(void *state)
{
    step_state *s = state;
    memcpy(s->memory, s->after_prefix, (size_t)s->memory_bytes);
    step(s);
}

int64_t linear_step_scratch_bytes(const void *state)
{
    const step_state *s = state;
    return variant_carved_bytes(s->context);
}
