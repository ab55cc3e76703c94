#include "api/linear.h"
#include "api/step.h"
#include "core/arguments.h"
#include "core/context.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- states in memory: n_tokens, then for each batch element its parts ---- */

/* Floats of one batch element; sizes that were not checked wrap. */
static uint64_t floats_of(int64_t heads, int64_t n_features, int64_t channels, int64_t recent)
{
    uint64_t c = (uint64_t)n_features, d = (uint64_t)channels;
    return (uint64_t)heads * (c * d + c + (uint64_t)recent * (c + d));
}

heed_status heed_linear_state_bytes(int64_t batch, int64_t kv_heads, int64_t n_features, int64_t channels,
                                    int64_t recent_tokens, int64_t *bytes)
{
    if (!bytes)
        return HEED_ERROR_ARGUMENT;
    if (n_features < 1 || channels < 1 || recent_tokens < 0 || recent_tokens > HEED_LINEAR_MAX_RECENT)
        return HEED_ERROR_SHAPE;
    heed_tensor sums = {.shape = {batch, kv_heads, n_features, channels}};
    HEED_CHECK(heed_check_sizes(NULL, "state", &sums)); /* what is beside the sums must fit too */
    heed_tensor all = {.shape = {batch, kv_heads, n_features + recent_tokens + 1, n_features + channels}};
    HEED_CHECK(heed_check_sizes(NULL, "state", &all));
    *bytes = (int64_t)((uint64_t)batch *
                       (sizeof(int64_t) + sizeof(float) * floats_of(kv_heads, n_features, channels, recent_tokens)));
    return HEED_OK;
}

heed_linear_state heed_linear_state_view(void *memory, int64_t batch, int64_t kv_heads, int64_t n_features,
                                         int64_t channels, int64_t recent_tokens)
{
    heed_linear_state state = {.n_tokens = memory};
    int64_t floats = (int64_t)floats_of(kv_heads, n_features, channels, recent_tokens);
    uintptr_t next = (uintptr_t)memory + (uintptr_t)batch * sizeof(int64_t);
    heed_tensor *const parts[] = {&state.sums, &state.norms, &state.recent_features, &state.recent_values};
    const int64_t rows[] = {n_features, 1, recent_tokens, recent_tokens};
    const int64_t columns[] = {channels, n_features, n_features, channels};
    for (int i = 0; i < 4; i++) {
        *parts[i] = heed_tensor_bhnd((void *)next, HEED_FLOAT32, batch, kv_heads, rows[i], columns[i]);
        next += (uintptr_t)parts[i]->stride[0] * sizeof(float);
        parts[i]->stride[0] = floats;
    }
    return state;
}

/* ---- checks ---- */

static heed_status check_part(heed_message *message, const char *state, const char *part, const heed_tensor *tensor,
                              const int64_t shape[4], const char *const as[4])
{
    char name[48];
    snprintf(name, sizeof name, "%s.%s", state, part);
    HEED_CHECK(heed_check_output(message, name, tensor, HEED_FLOAT32));
    for (int d = 0; d < 4; d++)
        HEED_CHECK(heed_check_size(message, name, tensor, d, shape[d], as[d]));
    return HEED_OK;
}

/* A state of so many batch elements, heads, features and channels. */
static heed_status check_state(heed_message *message, const char *name, const heed_linear_state *state,
                               const int64_t sizes[4], const char *const as[4])
{
    if (!state)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: is NULL", name);
    int64_t recent = state->recent_features.shape[2];
    if (recent > HEED_LINEAR_MAX_RECENT)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s.recent_features: %d tokens or less expected, got %" PRId64,
                             name, HEED_LINEAR_MAX_RECENT, recent);
    HEED_CHECK(check_part(message, name, "sums", &state->sums, sizes, as));
    HEED_CHECK(check_part(message, name, "norms", &state->norms, (const int64_t[]){sizes[0], sizes[1], 1, sizes[2]},
                          (const char *const[]){as[0], as[1], "one row", as[2]}));
    if (recent != 0 || state->recent_values.shape[2] != 0) { /* without recent rows these views may be empty ones */
        HEED_CHECK(check_part(message, name, "recent_features", &state->recent_features,
                              (const int64_t[]){sizes[0], sizes[1], recent, sizes[2]},
                              (const char *const[]){as[0], as[1], "", as[2]}));
        HEED_CHECK(check_part(message, name, "recent_values", &state->recent_values,
                              (const int64_t[]){sizes[0], sizes[1], recent, sizes[3]},
                              (const char *const[]){as[0], as[1], "as in recent_features", as[3]}));
    }
    return HEED_OK;
}

heed_status heed_linear_check_sums(heed_message *message, const linear_arguments *a, const char *name,
                                   const heed_linear_state *state, int has_tokens)
{
    feature_argument keys = heed_linear_key_features(a);
    const int64_t sizes[4] = {a->k->shape[0], a->k->shape[1], heed_feature_width(keys.map, keys.channels),
                              a->v->shape[3]};
    static const char *const as[4] = {"as in k", "as in k", "the features", "as in v"};
    HEED_CHECK(check_state(message, name, state, sizes, as));
    return has_tokens ? heed_check_tokens(message, state->n_tokens, sizes[0]) : HEED_OK;
}

heed_status heed_linear_check_state(heed_message *message, const linear_arguments *a, const char *name,
                                    const heed_linear_state *state)
{
    return heed_linear_check_sums(message, a, name, state, 1);
}

heed_linear_state heed_linear_repeated(const heed_linear_state *state)
{
    heed_linear_state s = {.n_tokens = state->n_tokens};
    s.sums = heed_repeated(&state->sums);
    s.norms = heed_repeated(&state->norms);
    s.recent_features = heed_repeated(&state->recent_features);
    s.recent_values = heed_repeated(&state->recent_values);
    return s;
}

void heed_linear_state_parts(const char *name, const heed_linear_state *state,
                             state_part parts[HEED_LINEAR_STATE_PARTS])
{
    static const char *const names[] = {"n_tokens", "sums", "norms", "recent_features", "recent_values"};
    int64_t token_bytes = state->sums.shape[0] * (int64_t)sizeof(int64_t);
    const heed_tensor views[] = {heed_tensor_bhnd(state->n_tokens, HEED_BOOL, 1, 1, 1, token_bytes), state->sums,
                                 state->norms, state->recent_features, state->recent_values};
    for (int i = 0; i < HEED_LINEAR_STATE_PARTS; i++) {
        snprintf(parts[i].name, sizeof parts[i].name, "%s.%s", name, names[i]);
        parts[i].view = views[i];
    }
}

/* ---- calls ---- */

heed_status heed_linear_state_reset(const heed_linear_state *state, int64_t b)
{
    static const char *const as[4] = {"", "", "", ""};
    if (!state)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(check_state(NULL, "state", state, state->sums.shape, as));
    HEED_CHECK(heed_check_tokens_view(NULL, state->n_tokens, state->sums.shape[0]));
    if (b < -1 || b >= state->sums.shape[0])
        return HEED_ERROR_ARGUMENT;
    const heed_tensor *const parts[] = {&state->sums, &state->norms, &state->recent_features, &state->recent_values};
    for (int64_t i = heed_larger(b, 0); i < (b < 0 ? state->sums.shape[0] : b + 1); i++) {
        for (int p = 0; p < 4; p++) {
            for (int64_t row = 0; row < parts[p]->shape[1] * parts[p]->shape[2]; row++)
                memset(heed_row(parts[p], i, row / parts[p]->shape[2], row % parts[p]->shape[2]), 0,
                       (size_t)parts[p]->shape[3] * sizeof(float));
        }
        state->n_tokens[i] = 0;
    }
    return HEED_OK;
}

/* Exactly the same state: the sum of two in place of one of them. */
static int is_same_state(const heed_linear_state *a, const heed_linear_state *b)
{
    return heed_is_same_view(&a->sums, &b->sums) && heed_is_same_view(&a->norms, &b->norms) &&
           heed_is_same_view(&a->recent_features, &b->recent_features) &&
           heed_is_same_view(&a->recent_values, &b->recent_values) && a->n_tokens == b->n_tokens;
}

static heed_status check_merge(heed_message *message, const heed_linear_state *a, const heed_linear_state *b,
                               const heed_linear_state *out)
{
    static const char *const own[4] = {"", "", "", ""}, *const as[4] = {"as in a", "as in a", "as in a", "as in a"};
    const heed_linear_state *const read[] = {a, b};
    const char *const names[] = {"a", "b"};
    state_part written[HEED_LINEAR_STATE_PARTS], other[HEED_LINEAR_STATE_PARTS];
    if (!a)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "a: is NULL");
    HEED_CHECK(check_state(message, "a", a, a->sums.shape, own));
    HEED_CHECK(check_state(message, "b", b, a->sums.shape, as));
    HEED_CHECK(check_state(message, "out", out, a->sums.shape, as));
    HEED_CHECK(heed_check_tokens(message, a->n_tokens, a->sums.shape[0]));
    HEED_CHECK(heed_check_tokens(message, b->n_tokens, a->sums.shape[0]));
    HEED_CHECK(heed_check_tokens_view(message, out->n_tokens, a->sums.shape[0]));
    heed_linear_state_parts("out", out, written);
    HEED_CHECK(heed_check_parts_apart(message, written, HEED_LINEAR_STATE_PARTS));
    for (int s = 0; s < 2; s++) {
        if (is_same_state(read[s], out))
            continue;
        heed_linear_state_parts(names[s], read[s], other);
        for (int i = 0; i < HEED_LINEAR_STATE_PARTS; i++) {
            for (int j = 0; j < HEED_LINEAR_STATE_PARTS; j++)
                HEED_CHECK(heed_check_apart(message, written[i].name, &written[i].view, other[j].name, &other[j].view));
        }
    }
    return HEED_OK;
}

static void merge(heed_context *context, const heed_linear_state *a, const heed_linear_state *b,
                  const heed_linear_state *out)
{
    heed_linear_state one = heed_linear_repeated(a), other = heed_linear_repeated(b), sum = heed_linear_repeated(out);
    heed_linear_merge_run(context, &one, &other, &sum);
}

heed_status heed_linear_state_merge(heed_context *context, const heed_linear_state *a, const heed_linear_state *b,
                                    const heed_linear_state *out)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check_merge(&context->message, a, b, out);
    if (status == HEED_OK)
        merge(context, a, b, out);
    return heed_call_end(context, status);
}
