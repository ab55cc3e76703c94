#include "api/mrsha.h"
#include "api/step.h"
#include "core/arguments.h"
#include "core/context.h"
#include "core/sizes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- states in memory: n_tokens, then for each batch element its parts ---- */

typedef struct cache_sizes {
    int64_t n_caches, n_rows;
} cache_sizes;

static cache_sizes count_caches(const mrsha_heads *heads, int64_t max_tokens)
{
    cache_sizes sizes = {0, 0};
    for (int64_t h = 0; h < heads->resolutions.n_heads; h++) {
        mrsha_sharers sharers = heed_mrsha_sharers(heads, h);
        if (sharers.n_heads > 0) {
            sizes.n_caches++;
            sizes.n_rows += heed_divide_up(max_tokens, sharers.size);
            sizes.n_rows = heed_smaller(sizes.n_rows, HEED_MAX_EXTENT); /* more than any tensor has */
        }
    }
    return sizes;
}

heed_status heed_mrsha_state_bytes(const heed_mrsha_options *options, int64_t batch, int64_t n_heads, int64_t kv_heads,
                                   int64_t key_channels, int64_t value_channels, int64_t max_tokens, int64_t *bytes)
{
    const heed_mrsha_options *o = options ? options : &heed_mrsha_defaults;
    if (!bytes)
        return HEED_ERROR_ARGUMENT;
    if (n_heads < 0 || kv_heads < 0 || (kv_heads == 0 ? n_heads != 0 : n_heads % kv_heads != 0) || key_channels < 1 ||
        value_channels < 1 || max_tokens < 0 ||
        heed_larger(heed_larger(key_channels, value_channels), max_tokens) >= HEED_MAX_EXTENT)
        return HEED_ERROR_SHAPE;
    heed_tensor most = {.shape = {batch, n_heads, max_tokens + 2, key_channels + value_channels}};
    HEED_CHECK(heed_check_sizes(NULL, "state", &most));
    HEED_CHECK(heed_mrsha_check_options(NULL, o, n_heads));
    mrsha_heads heads = heed_mrsha_heads(o, n_heads, kv_heads);
    cache_sizes sizes = count_caches(&heads, max_tokens);
    int64_t floats = (sizes.n_rows + 2 * sizes.n_caches) * (key_channels + value_channels);
    *bytes = batch * ((int64_t)sizeof(int64_t) + floats * (int64_t)sizeof(float));
    return HEED_OK;
}

heed_mrsha_state heed_mrsha_state_view(void *memory, const heed_mrsha_options *options, int64_t batch, int64_t n_heads,
                                       int64_t kv_heads, int64_t key_channels, int64_t value_channels,
                                       int64_t max_tokens)
{
    mrsha_heads heads = heed_mrsha_heads(options ? options : &heed_mrsha_defaults, n_heads, kv_heads);
    cache_sizes sizes = count_caches(&heads, max_tokens);
    heed_mrsha_state state = {.n_tokens = memory, .max_tokens = max_tokens};
    uintptr_t next = (uintptr_t)memory + (uintptr_t)batch * sizeof(int64_t);
    heed_tensor *const parts[] = {&state.keys, &state.values, &state.open_keys, &state.open_values};
    for (int i = 0; i < 4; i++) {
        int64_t rows = i < 2 ? sizes.n_rows : 2 * sizes.n_caches, columns = i % 2 ? value_channels : key_channels;
        *parts[i] = heed_tensor_bhnd((void *)next, HEED_FLOAT32, batch, 1, rows, columns);
        next += (uintptr_t)(rows * columns) * sizeof(float);
        parts[i]->stride[0] = (sizes.n_rows + 2 * sizes.n_caches) * (key_channels + value_channels);
    }
    return state;
}

heed_status heed_mrsha_state_reset(const heed_mrsha_state *state, int64_t b)
{
    if (!state || b < -1 || b >= state->keys.shape[0])
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_check_tokens_view(NULL, state->n_tokens, state->keys.shape[0]));
    for (int64_t i = heed_larger(b, 0); i < (b < 0 ? state->keys.shape[0] : b + 1); i++)
        state->n_tokens[i] = 0;
    return HEED_OK;
}

/* ---- checks ---- */

typedef struct step_arguments {
    mrsha_arguments inputs;
    const heed_mrsha_state *state;
} step_arguments;

enum { STATE_PARTS = 5 };

static void list_parts(const heed_mrsha_state *state, int64_t n_batches, state_part parts[STATE_PARTS])
{
    static const char *const names[] = {"keys", "values", "open_keys", "open_values", "n_tokens"};
    int64_t token_bytes = n_batches * (int64_t)sizeof(int64_t);
    const heed_tensor views[] = {state->keys, state->values, state->open_keys, state->open_values,
                                 heed_tensor_bhnd(state->n_tokens, HEED_BOOL, 1, 1, 1, token_bytes)};
    for (int i = 0; i < STATE_PARTS; i++) {
        snprintf(parts[i].name, sizeof parts[i].name, "state.%s", names[i]);
        parts[i].view = views[i];
    }
}

/* A step takes of the options what a state can follow. */
static heed_status check_step_options(heed_message *message, const mrsha_arguments *a)
{
    const heed_mrsha_options *o = a->options;
    const char *name = o->mode != HEED_MRSHA_VALUE               ? "mode: HEED_MRSHA_VALUE expected by a step"
                       : o->grid_width != 0                      ? "grid_width: not in a step"
                       : o->class_token                          ? "class_token: not in a step"
                       : o->upsampling != HEED_UPSAMPLING_REPEAT ? "upsampling: not in a step"
                       : o->fine                                 ? "fine: not in a step"
                                                                 : NULL;
    if (name)
        return heed_complain(message, HEED_ERROR_UNSUPPORTED, "options.%s", name);
    HEED_CHECK(heed_check_step_mask(message, heed_mrsha_all_heads(a).options->mask));
    return heed_mrsha_check_softmax(message, a, 1);
}

static heed_status check_state_shapes(heed_message *message, const step_arguments *s, const state_part *parts)
{
    const mrsha_arguments *a = &s->inputs;
    mrsha_heads heads = heed_mrsha_heads(a->options, a->q->shape[1], a->k->shape[1]);
    if (s->state->max_tokens < 0 || s->state->max_tokens >= HEED_MAX_EXTENT)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "state.max_tokens: %" PRId64 " is outside 0..2^60 - 1",
                             s->state->max_tokens);
    cache_sizes sizes = count_caches(&heads, s->state->max_tokens);
    for (int i = 0; i < 4; i++) {
        const heed_tensor *part = &parts[i].view;
        HEED_CHECK(heed_check_output(message, parts[i].name, part, HEED_FLOAT32));
        HEED_CHECK(heed_check_size(message, parts[i].name, part, 0, a->q->shape[0], "as in q"));
        HEED_CHECK(heed_check_size(message, parts[i].name, part, 1, 1, "the caches stand one behind the other"));
        HEED_CHECK(heed_check_size(message, parts[i].name, part, 2, i < 2 ? sizes.n_rows : 2 * sizes.n_caches,
                                   i < 2 ? "the rows of all caches" : "two for each cache"));
        HEED_CHECK(heed_check_size(message, parts[i].name, part, 3, (i % 2 ? a->v : a->k)->shape[3],
                                   i % 2 ? "as in v" : "as in k"));
    }
    return HEED_OK;
}

static heed_status check_room(heed_message *message, const step_arguments *s)
{
    const mrsha_arguments *a = &s->inputs;
    heed_mask_plan mask = heed_mask_resolve(heed_mrsha_all_heads(a).options->mask, a->q, a->k);
    HEED_CHECK(heed_check_tokens(message, s->state->n_tokens, a->q->shape[0]));
    for (int64_t b = 0; b < a->q->shape[0]; b++) {
        int64_t n = heed_query_length(&mask, b);
        if (s->state->n_tokens[b] > s->state->max_tokens - n)
            return heed_complain(message, HEED_ERROR_ARGUMENT,
                                 "state.n_tokens[%" PRId64 "]: %" PRId64 " and %" PRId64
                                 " new ones are more than max_tokens, %" PRId64,
                                 b, s->state->n_tokens[b], n, s->state->max_tokens);
    }
    return HEED_OK;
}

/* out and the state against what is read, and against each other. */
static heed_status check_written(heed_message *message, const step_arguments *s, const state_part *parts)
{
    const mrsha_arguments *a = &s->inputs;
    softmax_arguments all = heed_mrsha_all_heads(a);
    HEED_CHECK(heed_softmax_check_outputs(message, &all));
    HEED_CHECK(heed_mrsha_check_written(message, a, "out", a->out));
    for (int i = 0; i < STATE_PARTS; i++) {
        HEED_CHECK(heed_mrsha_check_written(message, a, parts[i].name, &parts[i].view));
        HEED_CHECK(heed_check_apart(message, parts[i].name, &parts[i].view, "out", a->out));
    }
    return heed_check_parts_apart(message, parts, STATE_PARTS);
}

/* ---- the call ---- */

static heed_status step(heed_context *context, const step_arguments *s)
{
    heed_message *message = &context->message;
    const mrsha_arguments *a = &s->inputs;
    state_part parts[STATE_PARTS];
    HEED_CHECK(heed_mrsha_check_inputs(message, a));
    HEED_CHECK(heed_check_size(message, "k", a->k, 2, a->q->shape[2], "as in q"));
    HEED_CHECK(check_step_options(message, a));
    if (!s->state)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "state: is NULL");
    list_parts(s->state, a->q->shape[0], parts);
    HEED_CHECK(check_state_shapes(message, s, parts));
    HEED_CHECK(check_room(message, s));
    HEED_CHECK(check_written(message, s, parts));
    HEED_CHECK(heed_check_scratch(context, heed_mrsha_worker_bytes(a->q->shape[3], a->v->shape[3])));
    mrsha_plan plan = heed_mrsha_plan(a);
    heed_mrsha_state state = *s->state;
    state.keys = heed_repeated(&state.keys);
    state.values = heed_repeated(&state.values);
    state.open_keys = heed_repeated(&state.open_keys);
    state.open_values = heed_repeated(&state.open_values);
    heed_mrsha_step_run(context, &plan, &state);
    return HEED_OK;
}

heed_status heed_mrsha_step(heed_context *context, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                            const heed_mrsha_options *options, const heed_mrsha_state *state, const heed_tensor *out)
{
    step_arguments s = {{q, k, v, options ? options : &heed_mrsha_defaults, out, NULL}, state};
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, step(context, &s));
}
