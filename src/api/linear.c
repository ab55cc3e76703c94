#include "api/linear.h"

#include "core/arguments.h"
#include "core/context.h"
#include "core/tuning.h"

#include <inttypes.h>
#include <math.h>

static const heed_linear_options defaults = HEED_LINEAR_OPTIONS_INIT;
static const heed_feature_layer elu1_layer = {.kind = HEED_FEATURE_ELU1};
static const heed_feature_map elu1 = {sizeof elu1, &elu1_layer, 1};

feature_argument heed_linear_key_features(const linear_arguments *a)
{
    const heed_feature_map *map = a->options->features ? a->options->features : &elu1;
    return (feature_argument){"options.features", map, a->k->shape[3], a->k->shape[1], 0};
}

feature_argument heed_linear_query_features(const linear_arguments *a)
{
    if (!a->options->query_features)
        return heed_linear_key_features(a);
    return (feature_argument){"options.query_features", a->options->query_features, a->q->shape[3], a->q->shape[1], 0};
}

/* ---- checks ---- */

static heed_status check_options(heed_message *message, const heed_linear_options *o)
{
    HEED_CHECK(heed_check_struct(message, "options", o, sizeof *o));
    if (!isfinite(o->eps) || o->eps < 0.0f)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "options.eps: 0 or more expected, got %g", (double)o->eps);
    return HEED_OK;
}

static heed_status check_shapes(heed_message *message, const linear_arguments *a)
{
    const heed_tensor *q = a->q, *k = a->k, *v = a->v;
    HEED_CHECK(heed_check_size(message, "k", k, 0, q->shape[0], "as in q"));
    if (!a->options->query_features)
        HEED_CHECK(heed_check_size(message, "k", k, 3, q->shape[3], "as in q"));
    return heed_check_values(message, q, k, v);
}

static heed_status check_features(heed_message *message, const linear_arguments *a, int sizes_only)
{
    feature_argument keys = heed_linear_key_features(a), queries = heed_linear_query_features(a);
    keys.sizes_only = queries.sizes_only = sizes_only;
    HEED_CHECK(heed_features_check(message, &keys));
    if (!a->options->query_features)
        return HEED_OK;
    HEED_CHECK(heed_features_check(message, &queries));
    int64_t expected = heed_feature_width(keys.map, keys.channels),
            n = heed_feature_width(queries.map, queries.channels);
    if (n != expected)
        return heed_complain(message, HEED_ERROR_SHAPE,
                             "options.query_features: %" PRId64
                             " features expected (as in options.features), got %" PRId64,
                             expected, n);
    return HEED_OK;
}

static heed_status check_mask(heed_message *message, const linear_arguments *a)
{
    const heed_mask *mask = a->options->mask;
    HEED_CHECK(heed_mask_check(message, mask, a->q, a->k));
    if (!mask)
        return HEED_OK;
    if (mask->window_left != -1)
        return heed_complain(message, HEED_ERROR_UNSUPPORTED,
                             "mask.window_left: not in linear attention, whose sums do not forget");
    if (mask->visible &&
        (mask->visible->shape[2] != 1 || (mask->visible->shape[1] != 1 && a->q->shape[1] != a->k->shape[1])))
        return heed_complain(
            message, HEED_ERROR_UNSUPPORTED,
            "mask.visible: hides keys from all queries of a kv head alike here; 1 %s expected, got %" PRId64,
            mask->visible->shape[2] != 1 ? "token" : "head",
            mask->visible->shape[mask->visible->shape[2] != 1 ? 2 : 1]);
    return HEED_OK;
}

heed_status heed_linear_check_inputs(heed_message *message, const linear_arguments *a)
{
    HEED_CHECK(check_options(message, a->options));
    HEED_CHECK(heed_check_input(message, "q", a->q, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "k", a->k, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "v", a->v, HEED_FLOAT32));
    HEED_CHECK(check_shapes(message, a));
    HEED_CHECK(check_features(message, a, 0));
    return check_mask(message, a);
}

heed_status heed_linear_check_rows(heed_message *message, const linear_arguments *a, const char *name)
{
    for (int d = 0; d < 3; d++)
        HEED_CHECK(heed_check_size(message, name, a->out, d, a->q->shape[d], "as in q"));
    return heed_check_size(message, name, a->out, 3, a->v->shape[3], "as in v");
}

heed_status heed_linear_check_apart(heed_message *message, const linear_arguments *a, const char *name,
                                    const heed_tensor *out)
{
    const heed_linear_options *o = a->options;
    HEED_CHECK(heed_check_apart(message, name, out, "q", a->q));
    HEED_CHECK(heed_check_apart(message, name, out, "k", a->k));
    HEED_CHECK(heed_check_apart(message, name, out, "v", a->v));
    HEED_CHECK(heed_features_check_apart(message, name, out, "options.features", o->features));
    HEED_CHECK(heed_features_check_apart(message, name, out, "options.query_features", o->query_features));
    return heed_mask_check_apart(message, name, out, o->mask, a->q->shape[0]);
}

/* out and the state, which are written, against what is read and against each other. */
static heed_status check_written(heed_message *message, const linear_arguments *a)
{
    state_part parts[HEED_LINEAR_STATE_PARTS];
    HEED_CHECK(heed_check_output(message, "out", a->out, HEED_FLOAT32));
    HEED_CHECK(heed_linear_check_rows(message, a, "out"));
    HEED_CHECK(heed_linear_check_apart(message, a, "out", a->out));
    if (!a->state)
        return HEED_OK;
    heed_linear_state_parts("state", a->state, parts);
    for (int i = 0; i < HEED_LINEAR_STATE_PARTS; i++) {
        HEED_CHECK(heed_linear_check_apart(message, a, parts[i].name, &parts[i].view));
        HEED_CHECK(heed_check_apart(message, parts[i].name, &parts[i].view, "out", a->out));
    }
    return heed_check_parts_apart(message, parts, HEED_LINEAR_STATE_PARTS);
}

/* ---- calls ---- */

linear_plan heed_linear_plan(const linear_arguments *a)
{
    feature_argument keys = heed_linear_key_features(a), queries = heed_linear_query_features(a);
    linear_plan p = {.eps = a->options->eps};
    p.q = heed_repeated(a->q);
    p.k = heed_repeated(a->k);
    p.v = heed_repeated(a->v);
    p.out = heed_repeated(a->out);
    p.key_map = heed_feature_plan(&keys);
    p.query_map = heed_feature_plan(&queries);
    p.shared_map = !a->options->query_features;
    p.mask = heed_mask_resolve(a->options->mask, a->q, a->k);
    p.has_state = a->state != NULL;
    if (a->state)
        p.state = heed_linear_repeated(a->state);
    return p;
}

static heed_status forward(heed_context *context, const linear_arguments *a)
{
    heed_message *message = &context->message;
    HEED_CHECK(heed_linear_check_inputs(message, a));
    if (a->state)
        HEED_CHECK(heed_linear_check_state(message, a, "state", a->state));
    HEED_CHECK(check_written(message, a));
    linear_plan p = heed_linear_plan(a);
    HEED_CHECK(heed_check_scratch(context, heed_linear_worker_bytes(&p)));
    heed_linear_run(context, &p);
    return HEED_OK;
}

heed_status heed_linear_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                const heed_linear_options *options, const heed_linear_state *state,
                                const heed_tensor *out)
{
    linear_arguments a = {q, k, v, options ? options : &defaults, state, out};
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, forward(context, &a));
}

static heed_status step(heed_context *context, const linear_arguments *a)
{
    heed_message *message = &context->message;
    HEED_CHECK(heed_linear_check_inputs(message, a));
    HEED_CHECK(heed_check_size(message, "k", a->k, 2, a->q->shape[2], "as in q"));
    HEED_CHECK(heed_check_step_mask(message, a->options->mask));
    HEED_CHECK(heed_linear_check_state(message, a, "state", a->state));
    if (a->state->recent_features.shape[2] < 1)
        return heed_complain(message, HEED_ERROR_SHAPE, "state.recent_features: 1 token or more expected, got 0");
    HEED_CHECK(check_written(message, a));
    linear_plan p = heed_linear_plan(a);
    HEED_CHECK(heed_check_scratch(context, heed_linear_worker_bytes(&p)));
    heed_linear_step_run(context, &p);
    return HEED_OK;
}

heed_status heed_linear_step(heed_context *context, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                             const heed_linear_options *options, const heed_linear_state *state, const heed_tensor *out)
{
    linear_arguments a = {q, k, v, options ? options : &defaults, state, out};
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, step(context, &a));
}

heed_status heed_linear_plan_sizes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                   const heed_linear_options *options, linear_plan *plan)
{
    heed_tensor none = {0};
    linear_arguments a = {q, k, v, options, NULL, &none};
    HEED_CHECK(check_options(NULL, options));
    HEED_CHECK(heed_check_sizes(NULL, "q", q));
    HEED_CHECK(heed_check_sizes(NULL, "k", k));
    HEED_CHECK(heed_check_sizes(NULL, "v", v));
    HEED_CHECK(check_shapes(NULL, &a));
    HEED_CHECK(check_features(NULL, &a, 1));
    heed_linear_options plain = *options;
    plain.mask = NULL;
    a.options = &plain;
    *plan = heed_linear_plan(&a);
    return HEED_OK;
}

heed_status heed_linear_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                      const heed_linear_options *options, int64_t *bytes)
{
    linear_plan p;
    if (!q || !k || !v || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_linear_plan_sizes(q, k, v, options ? options : &defaults, &p));
    *bytes = heed_linear_worker_bytes(&p);
    return HEED_OK;
}
