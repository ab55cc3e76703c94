#include "api/aft.h"
#include "api/step.h"
#include "core/arguments.h"
#include "core/context.h"
#include "core/sizes.h"
#include "core/tensor.h"

#include <math.h>

static const heed_aft_options defaults = HEED_AFT_OPTIONS_INIT;

/* The parts of a state of any form. */
typedef struct aft_state {
    int given;
    heed_tensor sums, keys, values; /* AFT-simple has no keys and values */
    int64_t *n_tokens;
} aft_state;

/* ---- states in memory: n_tokens, then for each batch element its sums, keys and values ---- */

typedef struct state_sizes {
    int64_t batch, heads, window, key_channels, channels;
} state_sizes;

/* Floats of one batch element; sizes that were not checked wrap. */
static uint64_t floats_of(const state_sizes *s)
{
    uint64_t sums = AFT_STATE_ROWS * (uint64_t)s->channels, key = (uint64_t)s->key_channels + (uint64_t)s->channels;
    return (uint64_t)s->heads * (sums + (uint64_t)s->window * key);
}

static heed_status state_bytes(state_sizes s, int64_t *bytes)
{
    heed_tensor all = {.shape = {s.batch, s.heads, heed_smaller(s.window, HEED_MAX_EXTENT), s.channels}};
    if (!bytes)
        return HEED_ERROR_ARGUMENT;
    if (s.window < 0 || s.channels < 1)
        return HEED_ERROR_SHAPE;
    all.shape[2] = AFT_STATE_ROWS + 2 * all.shape[2];
    HEED_CHECK(heed_check_sizes(NULL, "state", &all));
    *bytes = (int64_t)((uint64_t)s.batch * (sizeof(int64_t) + sizeof(float) * floats_of(&s)));
    return HEED_OK;
}

/* The next part of the batch elements; memory moves on behind it. */
static heed_tensor take_view(char **memory, const state_sizes *s, int64_t rows, int64_t channels)
{
    heed_tensor view = heed_tensor_bhnd(*memory, HEED_FLOAT32, s->batch, s->heads, rows, channels);
    *memory = (char *)((uintptr_t)*memory + (uintptr_t)view.stride[0] * sizeof(float));
    view.stride[0] = (int64_t)floats_of(s);
    return view;
}

static heed_aft_local_state state_view(void *memory, state_sizes s)
{
    heed_aft_local_state state = {.n_tokens = memory};
    char *floats = (char *)((uintptr_t)memory + (uintptr_t)s.batch * sizeof(int64_t));
    state.sums = take_view(&floats, &s, AFT_STATE_ROWS, s.channels);
    state.keys = take_view(&floats, &s, s.window, s.key_channels);
    state.values = take_view(&floats, &s, s.window, s.channels);
    return state;
}

static heed_status state_reset(const heed_tensor *sums, int64_t *n_tokens, int64_t b)
{
    HEED_CHECK(heed_check_output(NULL, "state.sums", sums, HEED_FLOAT32));
    if (sums->shape[2] != AFT_STATE_ROWS)
        return HEED_ERROR_SHAPE;
    HEED_CHECK(heed_check_tokens_view(NULL, n_tokens, sums->shape[0]));
    if (b < -1 || b >= sums->shape[0])
        return HEED_ERROR_ARGUMENT;
    for (int64_t i = heed_larger(b, 0); i < (b < 0 ? sums->shape[0] : b + 1); i++) {
        for (int64_t h = 0; h < sums->shape[1]; h++) {
            for (int64_t r = 0; r < AFT_STATE_ROWS; r++) {
                for (int64_t c = 0; c < sums->shape[3]; c++)
                    heed_row(sums, i, h, r)[c] = r == AFT_REF_K ? -INFINITY : 0.0f;
            }
        }
        n_tokens[i] = 0;
    }
    return HEED_OK;
}

heed_status heed_aft_simple_state_bytes(int64_t batch, int64_t heads, int64_t channels, int64_t *bytes)
{
    return state_bytes((state_sizes){batch, heads, 0, channels, channels}, bytes);
}

heed_aft_simple_state heed_aft_simple_state_view(void *memory, int64_t batch, int64_t heads, int64_t channels)
{
    heed_aft_local_state state = state_view(memory, (state_sizes){batch, heads, 0, channels, channels});
    return (heed_aft_simple_state){state.sums, state.n_tokens};
}

heed_status heed_aft_simple_state_reset(const heed_aft_simple_state *state, int64_t b)
{
    return state ? state_reset(&state->sums, state->n_tokens, b) : HEED_ERROR_ARGUMENT;
}

heed_status heed_aft_local_state_bytes(int64_t batch, int64_t heads, int64_t window, int64_t channels, int64_t *bytes)
{
    return window < 1 ? HEED_ERROR_SHAPE : state_bytes((state_sizes){batch, heads, window, channels, channels}, bytes);
}

heed_aft_local_state heed_aft_local_state_view(void *memory, int64_t batch, int64_t heads, int64_t window,
                                               int64_t channels)
{
    return state_view(memory, (state_sizes){batch, heads, window, channels, channels});
}

heed_status heed_aft_local_state_reset(const heed_aft_local_state *state, int64_t b)
{
    return state ? state_reset(&state->sums, state->n_tokens, b) : HEED_ERROR_ARGUMENT;
}

heed_status heed_aft_conv_state_bytes(int64_t batch, int64_t heads, int64_t taps, int64_t channels, int64_t *bytes)
{
    return taps < 1 ? HEED_ERROR_SHAPE : state_bytes((state_sizes){batch, heads, taps, 1, channels}, bytes);
}

heed_aft_conv_state heed_aft_conv_state_view(void *memory, int64_t batch, int64_t heads, int64_t taps, int64_t channels)
{
    heed_aft_local_state state = state_view(memory, (state_sizes){batch, heads, taps, 1, channels});
    return (heed_aft_conv_state){state.sums, state.keys, state.values, state.n_tokens};
}

heed_status heed_aft_conv_state_reset(const heed_aft_conv_state *state, int64_t b)
{
    return state ? state_reset(&state->sums, state->n_tokens, b) : HEED_ERROR_ARGUMENT;
}

/* ---- checks ---- */

/* A step knows of the past what its state holds, and no more. */
static heed_status check_step_options(heed_message *message, const heed_aft_options *o)
{
    if (o->w && !o->banded)
        return heed_unsupported(message, "options.w", "a step takes the band within the window only (options.banded)");
    if (o->grid_width != 0)
        return heed_unsupported(message, "options.grid_width", "a step has no grid");
    return HEED_OK;
}

static int64_t window_of(const aft_arguments *a)
{
    return a->form == AFT_SIMPLE ? 0 : a->form == AFT_LOCAL ? a->options->window : a->filter->shape[3];
}

static heed_status check_part(heed_message *message, const char *name, const heed_tensor *part, const aft_arguments *a,
                              int64_t rows, const char *what, const heed_tensor *like)
{
    HEED_CHECK(heed_check_output(message, name, part, HEED_FLOAT32));
    HEED_CHECK(heed_check_size(message, name, part, 0, a->q->shape[0], "as in q"));
    HEED_CHECK(heed_check_size(message, name, part, 1, a->q->shape[1], "as in q"));
    HEED_CHECK(heed_check_size(message, name, part, 2, rows, what));
    return heed_check_size(message, name, part, 3, like->shape[3], like == a->k ? "as in k" : "as in q");
}

static heed_status check_state(heed_message *message, const aft_arguments *a, const aft_state *s)
{
    const char *taps = a->form == AFT_CONV ? "the taps of filter" : "options.window";
    if (!s->given)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "state: is NULL");
    HEED_CHECK(check_part(message, "state.sums", &s->sums, a, AFT_STATE_ROWS, "the parts of the sums", a->q));
    if (a->form != AFT_SIMPLE) {
        HEED_CHECK(check_part(message, "state.keys", &s->keys, a, window_of(a), taps, a->k));
        HEED_CHECK(check_part(message, "state.values", &s->values, a, window_of(a), taps, a->q));
    }
    return heed_check_tokens(message, s->n_tokens, a->q->shape[0]);
}

/* Everything that is written, against everything that is read and against each other. */
static heed_status check_all_apart(heed_message *message, const aft_arguments *a, const aft_state *s)
{
    int64_t token_bytes = a->q->shape[0] * (int64_t)sizeof(int64_t);
    heed_tensor n_tokens = heed_tensor_bhnd(s->n_tokens, HEED_BOOL, 1, 1, 1, token_bytes);
    const char *const names[] = {"out", "state.n_tokens", "state.sums", "state.keys", "state.values"};
    const heed_tensor *const written[] = {a->out, &n_tokens, &s->sums, &s->keys, &s->values};
    for (int i = 0; i < (a->form == AFT_SIMPLE ? 3 : 5); i++) {
        HEED_CHECK(heed_aft_check_apart(message, a, names[i], written[i]));
        for (int j = 0; j < i; j++)
            HEED_CHECK(heed_check_apart(message, names[i], written[i], names[j], written[j]));
    }
    return HEED_OK;
}

static heed_status check(heed_message *message, const aft_arguments *a, const aft_state *s)
{
    HEED_CHECK(heed_aft_check_options(message, a->options, a->form));
    HEED_CHECK(check_step_options(message, a->options));
    HEED_CHECK(heed_aft_check_inputs(message, a));
    HEED_CHECK(heed_check_size(message, "k", a->k, 2, a->q->shape[2], "as in q"));
    HEED_CHECK(heed_check_step_mask(message, a->options->mask));
    HEED_CHECK(check_state(message, a, s));
    HEED_CHECK(heed_aft_check_outputs(message, a));
    return check_all_apart(message, a, s);
}

/* ---- calls ---- */

static aft_step_plan plan(const aft_arguments *a, const aft_state *s)
{
    aft_step_plan p = {.tokens = heed_aft_plan(a), .sums = s->sums, .keys = s->keys, .values = s->values};
    p.n_tokens = s->n_tokens;
    p.window = window_of(a);
    p.lengths = p.tokens.mask.mask.query_lengths;
    /* For the bias: causal, bottom right, over the window before the first token and the new tokens, all of them. */
    static const heed_mask causal = {.struct_size = sizeof causal, .causal = 1, .window_left = -1, .window_right = -1};
    p.tokens.mask = heed_mask_resolve(&causal, a->q, a->k);
    p.tokens.mask.n_keys += p.window - 1;
    return p;
}

static heed_status step(heed_context *context, const aft_arguments *a, const aft_state *s)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check(&context->message, a, s);
    if (status == HEED_OK) {
        aft_step_plan p = plan(a, s);
        status = heed_check_scratch(context, heed_aft_step_bytes(&p));
        if (status == HEED_OK)
            heed_aft_step_run(context, &p);
    }
    return heed_call_end(context, status);
}

heed_status heed_aft_simple_step(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                 const heed_tensor *v, const heed_aft_options *options,
                                 const heed_aft_simple_state *state, const heed_tensor *out)
{
    aft_arguments a = {AFT_SIMPLE, q, k, v, NULL, out, NULL, options ? options : &defaults, 1};
    aft_state s = {0};
    if (state)
        s = (aft_state){.given = 1, .sums = state->sums, .n_tokens = state->n_tokens};
    return step(context, &a, &s);
}

heed_status heed_aft_local_step(heed_context *context, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                const heed_aft_options *options, const heed_aft_local_state *state,
                                const heed_tensor *out)
{
    aft_arguments a = {AFT_LOCAL, q, k, v, NULL, out, NULL, options ? options : &defaults, 1};
    aft_state s = {0};
    if (state)
        s = (aft_state){1, state->sums, state->keys, state->values, state->n_tokens};
    return step(context, &a, &s);
}

heed_status heed_aft_conv_step(heed_context *context, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                               const heed_tensor *filter, const heed_aft_options *options,
                               const heed_aft_conv_state *state, const heed_tensor *out)
{
    aft_arguments a = {AFT_CONV, q, k, v, filter, out, NULL, options ? options : &defaults, 1};
    aft_state s = {0};
    if (state)
        s = (aft_state){1, state->sums, state->keys, state->values, state->n_tokens};
    return step(context, &a, &s);
}
