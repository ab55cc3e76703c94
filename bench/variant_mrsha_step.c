#include "bench/variant_mrsha_step.h"

#include "bench/memory.h"
#include "tests/oracle/oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct step_state {
    variant_setup setup;
    heed_softmax_options softmax;
    heed_mrsha_options options;
    heed_context *context;
    void *memory;
    heed_mrsha_state state;
    float *sums;    /* of the latest groups after the prefix, for all sequences */
    int64_t n_sums; /* of one sequence */
} step_state;

void mrsha_step_release(void *state)
{
    step_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s->memory);
        free(s->sums);
        free(s);
    }
}

/* ---- The prefix ------------------------------------------------------------------------------------------------- */

static int64_t find_common_divisor(int64_t a, int64_t b) { return b == 0 ? a : find_common_divisor(b, a % b); }

/* The most tokens of the prefix at which the groups of all heads end. */
static int64_t find_common_end(const step_state *s)
{
    const attention_shape *shape = &s->setup.input->shape;
    const int64_t n_tokens = shape->n_keys - 1;
    int64_t period = 1;
    for (int64_t h = 0; h < shape->n_query_heads; h++) {
        const int64_t group_size = s->options.group_sizes[h];
        const int64_t factor = group_size / find_common_divisor(group_size, period);
        if (factor > n_tokens / period)
            return 0;
        period *= factor;
    }
    return n_tokens / period * period;
}

/* The means of the first groups of x in head h. */
static void fill_rows(const heed_tensor *x, int64_t b, int64_t h, int64_t n_groups, int64_t group_size, float *rows)
{
    const int64_t n_channels = x->shape[3];
    const float *token = (const float *)x->data + b * x->stride[0] + h * x->stride[1];
    for (int64_t t = 0; t < n_groups * group_size; t++, token += x->stride[2]) {
        float *row = rows + t / group_size * n_channels;
        for (int64_t c = 0; c < n_channels; c++)
            row[c] += token[c] / (float)group_size;
    }
}

static void fill_caches(const step_state *s, int64_t b, int64_t n_tokens)
{
    const attention_input *in = s->setup.input;
    const attention_shape *shape = &in->shape;
    float *keys = (float *)s->state.keys.data + b * s->state.keys.stride[0];
    float *values = (float *)s->state.values.data + b * s->state.values.stride[0];
    for (int64_t h = 0; h < shape->n_query_heads; h++) {
        if (!mrsha_input_has_cache(in, h))
            continue;
        const int64_t group_size = s->options.group_sizes[h], kv_head = h / (shape->n_query_heads / shape->n_kv_heads);
        const int64_t n_rows = (shape->n_keys + group_size - 1) / group_size;
        fill_rows(&in->k, b, kv_head, n_tokens / group_size, group_size, keys);
        fill_rows(&in->v, b, kv_head, n_tokens / group_size, group_size, values);
        keys += n_rows * shape->n_channels;
        values += n_rows * shape->n_value_channels;
    }
}

static heed_status step(const step_state *s, int64_t token)
{
    const attention_input *in = s->setup.input;
    const heed_tensor k = input_take_tokens(&in->k, token, 1), v = input_take_tokens(&in->v, token, 1);
    return heed_mrsha_step(s->context, &in->q, &k, &v, &s->options, &s->state, &s->setup.out);
}

/* All tokens but the last. Steps would compute a row for each, which takes longer than all that is timed: complete
 * groups are written into the caches, and steps take the rest. */
static heed_status take_prefix(const step_state *s)
{
    const attention_shape *shape = &s->setup.input->shape;
    const int64_t n_filled = find_common_end(s);
    for (int64_t b = 0; b < shape->batch; b++) {
        fill_caches(s, b, n_filled);
        s->state.n_tokens[b] = n_filled;
    }
    heed_status status = HEED_OK;
    for (int64_t t = n_filled; t < shape->n_keys - 1 && status == HEED_OK; t++)
        status = step(s, t);
    return status;
}

/* ---- Once more -------------------------------------------------------------------------------------------------- */

/* The sums of the latest groups of sequence b, of keys and of values: one piece. */
static float *find_sums(const step_state *s, int64_t b)
{
    return (float *)s->state.open_keys.data + b * s->state.open_keys.stride[0];
}

static void keep_sums(step_state *s)
{
    for (int64_t b = 0; b < s->setup.input->shape.batch; b++)
        memcpy(s->sums + b * s->n_sums, find_sums(s, b), (size_t)s->n_sums * sizeof *s->sums);
}

/* What a step writes besides, the next one writes over again. */
static void rewind_state(const step_state *s)
{
    for (int64_t b = 0; b < s->setup.input->shape.batch; b++) {
        memcpy(find_sums(s, b), s->sums + b * s->n_sums, (size_t)s->n_sums * sizeof *s->sums);
        s->state.n_tokens[b] = s->setup.input->shape.n_keys - 1;
    }
}

/* ---- The call --------------------------------------------------------------------------------------------------- */

static int take_memory(step_state *s)
{
    const attention_shape *shape = &s->setup.input->shape;
    int64_t bytes;
    if (heed_mrsha_state_bytes(&s->options, shape->batch, shape->n_query_heads, shape->n_kv_heads, shape->n_channels,
                               shape->n_value_channels, shape->n_keys, &bytes) != HEED_OK)
        return -1;
    s->memory = memory_allocate(bytes);
    if (!s->memory)
        return -1;
    s->state = heed_mrsha_state_view(s->memory, &s->options, shape->batch, shape->n_query_heads, shape->n_kv_heads,
                                     shape->n_channels, shape->n_value_channels, shape->n_keys);
    s->n_sums = s->state.open_keys.shape[2] * (shape->n_channels + shape->n_value_channels);
    s->sums = memory_allocate_floats(1, 1, shape->batch, s->n_sums);
    return s->sums ? 0 : -1;
}

static int64_t find_scratch_bytes(const step_state *s)
{
    const attention_input *in = s->setup.input;
    int64_t bytes = 0; /* where this fails, the call says why */
    heed_mrsha_scratch_bytes(&in->q, &in->k, &in->v, &s->options, &bytes);
    return bytes;
}

void *mrsha_step_prepare(const variant_setup *setup, char *message, size_t message_bytes)
{
    step_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    s->setup = *setup;
    s->softmax = setup->input->options;
    s->softmax.mask = NULL;
    s->options = mrsha_input_options(setup->input, MRSHA_ASKED);
    s->options.softmax = &s->softmax;
    if (take_memory(s) != 0) {
        snprintf(message, message_bytes, "out of memory for the state");
        mrsha_step_release(s);
        return NULL;
    }
    s->context = variant_create_context(setup, find_scratch_bytes(s), message, message_bytes);
    if (!s->context || take_prefix(s) != HEED_OK) {
        if (s->context)
            snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        mrsha_step_release(s);
        return NULL;
    }
    keep_sums(s);
    return s;
}

int mrsha_step_run(void *state, char *message, size_t message_bytes)
{
    const step_state *s = state;
    rewind_state(s);
    if (step(s, s->setup.input->shape.n_keys - 1) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

int64_t mrsha_step_scratch_bytes(const void *state)
{
    const step_state *s = state;
    return variant_carved_bytes(s->context);
}

/* Causal, there are as many queries as keys: the one query stands for all of them, and the last row is its own. */
void mrsha_step_reference_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out)
{
    const heed_mrsha_options options = mrsha_input_options(input, MRSHA_ASKED);
    heed_tensor q = input->q;
    q.shape[2] = input->shape.n_keys;
    q.stride[2] = 0;
    oracle_mrsha_row(&q, &input->k, &input->v, &options, b, h, i + input->shape.n_keys - 1, out, NULL);
}
