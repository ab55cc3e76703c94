/* heed_linear_forward(), _step(), _backward() and heed_feature_map_apply() on random descriptors: they make finite
 * numbers of tame ones, and rows that match the float64 oracle. */
#include "linear_case.h"
#include "oracle/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_map(const char *name, const heed_feature_map *map)
{
    if (!map)
        return;
    fprintf(stderr, "%s: %lld layers:", name, (long long)map->n_layers);
    for (int64_t l = 0; map->layers && l < map->n_layers && l < MAX_LAYERS; l++) {
        const heed_feature_layer *x = &map->layers[l];
        fprintf(stderr, " kind %d, eps %g, matrices %d%d%d%d%d;", (int)x->kind, (double)x->eps, x->wf != NULL,
                x->wg != NULL, x->a != NULL, x->b != NULL, x->omega != NULL);
    }
    fprintf(stderr, "\n");
}

void print_case(const fuzz_case *c)
{
    static const char *const verbs[N_VERBS] = {"forward", "step", "backward", "apply"};
    static const char *const maps[N_MAPS] = {"keys", "queries", "dkeys", "dqueries"};
    static const char *const names[MATRICES] = {
        "q",      "k",          "v",           "out", "visible", "sums", "norms",        "features",
        "values", "later sums", "later norms", "dq",  "dk",      "dv",   "earlier sums", "earlier norms"};
    print_tensors(c, names, MATRICES, "matrix");
    for (int m = 0; m < N_MAPS; m++)
        print_map(maps[m], map_of(c, m));
    fprintf(stderr, "%s, options %d, eps %g, accumulate %d, state %d, n_tokens %p, mask %d, side %d\n", verbs[c->verb],
            c->has_options, (double)c->options.eps, c->options.accumulate, c->has_state, (void *)c->n_tokens,
            c->has_mask, (int)c->side);
    print_mask(&c->mask.mask);
}

/* ---- The calls ---- */

static heed_linear_state state_of(const fuzz_case *c)
{
    return (heed_linear_state){c->tensor[SUMS], c->tensor[NORMS], c->tensor[RECENT_FEATURES], c->tensor[RECENT_VALUES],
                               c->n_tokens};
}

static heed_status run_backward(const fuzz_case *c, const heed_linear_state *state)
{
    const heed_tensor *t = c->tensor;
    const heed_linear_state later = {.sums = t[LATER_SUMS], .norms = t[LATER_NORMS]};
    const heed_linear_state earlier = {.sums = t[EARLIER_SUMS], .norms = t[EARLIER_NORMS]};
    return heed_linear_backward(fuzz_context(c->threads), &t[Q], &t[K], &t[V], options_of(c), &t[OUT], state,
                                c->has_later ? &later : NULL, c->has_dq ? &t[DQ] : NULL, c->has_dk ? &t[DK] : NULL,
                                c->has_dv ? &t[DV] : NULL, map_of(c, DKEYS), map_of(c, DQUERIES),
                                c->has_earlier ? &earlier : NULL);
}

heed_status run_call(const fuzz_case *c)
{
    heed_context *context = fuzz_context(c->threads);
    const heed_tensor *t = c->tensor;
    const heed_linear_state state = state_of(c), *given = c->has_state ? &state : NULL;
    switch (c->verb) {
    case STEP:
        return heed_linear_step(context, &t[Q], &t[K], &t[V], options_of(c), given, &t[OUT]);
    case BACKWARD:
        return run_backward(c, given);
    case APPLY:
        return heed_feature_map_apply(context, &t[Q], map_of(c, KEYS), c->side, &t[OUT]);
    case FORWARD:
    default:
        return heed_linear_forward(context, &t[Q], &t[K], &t[V], options_of(c), given, &t[OUT]);
    }
}

/* ---- What can be said of the results ---- */

static int is_finite_block(const memory_block *block)
{
    for (size_t i = 0; i + 4 <= block->bytes; i += 4) {
        float value;
        memcpy(&value, block->data + i, sizeof value);
        if (!isfinite(value))
            return 0;
    }
    return 1;
}

static int are_finite(const fuzz_case *c, int only_written)
{
    for (int t = 0; t < N_TENSORS; t++)
        if (t != VISIBLE && is_used(c, t) && (is_written(c, t) || !only_written) && !is_finite_block(&c->block[t]))
            return 0;
    return 1;
}

/* Features that are positive, and as exact as what they are made of. */
static int is_tame_map(const heed_feature_map *map, int64_t channels, int may_be_small)
{
    if (!map)
        return 1;
    if (map->n_layers == 0 || (map->n_layers > 1 && !may_be_small))
        return 0;
    switch (map->layers[map->n_layers - 1].kind) {
    case HEED_FEATURE_RELU:
    case HEED_FEATURE_FAVOR:
        return map->n_layers == 1 && channels <= 24;
    case HEED_FEATURE_ELU1:
    case HEED_FEATURE_SOFTPLUS:
    case HEED_FEATURE_GLU_LAST:
        return 1;
    default:
        return 0;
    }
}

/* No number is other than ordinary, no denominator is made of what cancels, and the state, if any, holds 0. */
static int is_tame(const fuzz_case *c)
{
    const heed_linear_options *o = options_of(c);
    const int64_t channels = c->tensor[K].shape[3];
    const int may_be_small = !o || o->eps > 0.0f;
    for (int t = SUMS; c->has_state && t <= RECENT_VALUES; t++)
        for (size_t i = 0; i < c->block[t].bytes; i++)
            if (c->block[t].data[i] != 0)
                return 0;
    return !c->shares_block && are_finite(c, 0) && c->tensor[Q].shape[3] == channels &&
           is_tame_map(map_of(c, KEYS), channels, may_be_small) &&
           is_tame_map(map_of(c, QUERIES), channels, may_be_small);
}

/* What the oracle says of the rows of a tame call, before the call changes its state; NULL: nothing. */
static double *make_rows(const fuzz_case *c)
{
    const heed_tensor *t = c->tensor;
    const heed_linear_state state = state_of(c);
    heed_linear_options options = c->has_options ? c->options : (heed_linear_options)HEED_LINEAR_OPTIONS_INIT;
    heed_mask mask = HEED_MASK_INIT;
    if (c->verb == BACKWARD || c->verb == APPLY || !is_tame(c) || !has_elements(&t[Q]) || !has_elements(&t[K]))
        return NULL;
    if (c->verb == STEP) {
        mask.causal = 1;
        mask.query_lengths = mask.key_lengths = options.mask ? options.mask->query_lengths : NULL;
        options.mask = &mask;
    }
    oracle_linear o;
    const int64_t *shape = t[OUT].shape;
    double *rows = calloc((size_t)(shape[0] * shape[1] * shape[2] * shape[3]), sizeof *rows);
    if (rows == NULL)
        abort();
    oracle_linear_open(&o, &t[Q], &t[K], &t[V], &options, c->has_state ? &state : NULL);
    oracle_linear_forward(&o, rows);
    oracle_linear_close(&o);
    return rows;
}

/* The tokens of batch element b that join the state. */
static int64_t new_tokens(const fuzz_case *c, int64_t b)
{
    const heed_linear_options *o = options_of(c);
    const int64_t *lengths = !o || !o->mask ? NULL : c->verb == STEP ? o->mask->query_lengths : o->mask->key_lengths;
    return lengths ? lengths[b] : c->tensor[K].shape[2];
}

static void check_tokens(const fuzz_case *c, const int64_t *before)
{
    const int goes_on = (c->verb == FORWARD || c->verb == STEP) && c->has_state;
    for (int64_t b = 0; b < MAX_BATCHES; b++) {
        const int64_t more = goes_on && b < c->tensor[K].shape[0] ? new_tokens(c, b) : 0;
        if (c->n_tokens_memory[b] != before[b] + more)
            fail_case(c, "n_tokens", "does not go on as it should");
    }
}

/* ---- One case ---- */

void check_valid(const fuzz_case *c)
{
    const heed_feature_map *map = map_of(c, KEYS);
    const int has_favor = map && map->n_layers > 0 && map->layers[map->n_layers - 1].kind == HEED_FEATURE_FAVOR;
    const int stays_finite =
        c->verb == APPLY ? are_finite(c, 0) && !c->shares_block : is_tame(c) && (c->verb != BACKWARD || !has_favor);
    double *want = make_rows(c);
    int64_t n_tokens[MAX_BATCHES + 1];
    memcpy(n_tokens, c->n_tokens_memory, sizeof n_tokens);
    expect_success(c);
    check_tokens(c, n_tokens);
    if (stays_finite && !are_finite(c, 1))
        fail_case(c, "finite inputs, but not outputs", "");
    if (want) {
        const double v_max = tensor_max_abs(&c->tensor[V]);
        expect_equal(c, "out", compare_tensor(&c->tensor[OUT], want, 1e-4, v_max > 0.0 ? v_max : 1.0));
    }
    free(want);
}
