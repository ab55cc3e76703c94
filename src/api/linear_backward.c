#include "api/linear.h"
#include "core/arguments.h"
#include "core/context.h"
#include "core/tuning.h"

#include <inttypes.h>
#include <stdio.h>

static const heed_linear_options defaults = HEED_LINEAR_OPTIONS_INIT;

typedef struct backward_arguments {
    linear_arguments inputs; /* its out is dout */
    const heed_linear_state *dstate_out, *dstate_in;
    const heed_tensor *dq, *dk, *dv;
    const heed_feature_map *dfeatures, *dquery_features;
} backward_arguments;

/* ---- what is written ---- */

enum { MAX_WRITTEN = 3 + 2 * HEED_MAX_FEATURE_LAYERS * 4 + 2 };

/* Everything that is written, by name, to be held apart from everything else. */
typedef struct written_list {
    state_part items[MAX_WRITTEN];
    int n;
} written_list;

static void write_to(written_list *list, const char *name, const heed_tensor *tensor)
{
    state_part *item = &list->items[list->n++];
    snprintf(item->name, sizeof item->name, "%s", name);
    item->view = *tensor;
}

static heed_status check_gradient(heed_message *message, const char *name, const heed_tensor *gradient,
                                  const heed_tensor *like, const char *as, written_list *list)
{
    if (!gradient)
        return HEED_OK;
    HEED_CHECK(heed_check_output(message, name, gradient, HEED_FLOAT32));
    HEED_CHECK(heed_check_same_shape(message, name, gradient, like, as));
    write_to(list, name, gradient);
    return HEED_OK;
}

/* The gradients of a map: the same kinds, and matrices like its own or NULL. */
static heed_status check_map(heed_message *message, const char *name, const heed_feature_map *gradients,
                             const heed_feature_map *map, written_list *list)
{
    if (!gradients)
        return HEED_OK;
    HEED_CHECK(heed_check_struct(message, name, gradients, sizeof *gradients));
    if (gradients->n_layers != map->n_layers)
        return heed_complain(message, HEED_ERROR_ARGUMENT,
                             "%s.n_layers: %" PRId64 " expected (as in the map), got %" PRId64, name, map->n_layers,
                             gradients->n_layers);
    if (map->n_layers > 0 && !gradients->layers)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.layers: is NULL", name);
    for (int64_t l = 0; l < map->n_layers; l++) {
        const heed_feature_layer *g = &gradients->layers[l], *of = &map->layers[l];
        feature_matrix from[HEED_FEATURE_MATRICES], to[HEED_FEATURE_MATRICES];
        heed_feature_matrices(of, from);
        heed_feature_matrices(g, to);
        if (g->kind != of->kind)
            return heed_complain(message, HEED_ERROR_ARGUMENT,
                                 "%s.layers[%" PRId64 "].kind: %d expected (as in the map), got %d", name, l,
                                 (int)of->kind, (int)g->kind);
        for (int m = 0; m < HEED_FEATURE_MATRICES; m++) {
            char matrix[48];
            snprintf(matrix, sizeof matrix, "%s.layers[%" PRId64 "].%s", name, l, to[m].name);
            if (to[m].tensor && !from[m].tensor)
                return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: is not NULL, but the map has none", matrix);
            if (to[m].tensor)
                HEED_CHECK(check_gradient(message, matrix, to[m].tensor, from[m].tensor, "as in the map", list));
        }
    }
    return HEED_OK;
}

/* A state whose recent rows are in its sums. */
static heed_status check_plain_state(heed_message *message, const backward_arguments *a, const char *name,
                                     const heed_linear_state *state, int has_tokens)
{
    static int64_t none;
    heed_linear_state view;
    if (!state)
        return HEED_OK;
    view = *state;
    if (!has_tokens)
        view.n_tokens = &none;
    if (view.recent_features.shape[2] != 0)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s.recent_features: 0 tokens expected, got %" PRId64, name,
                             view.recent_features.shape[2]);
    return heed_linear_check_sums(message, &a->inputs, name, &view, has_tokens);
}

static heed_status check_apart(heed_message *message, const backward_arguments *a, const written_list *list)
{
    const heed_linear_state *const states[] = {a->inputs.state, a->dstate_out};
    const char *const names[] = {"state_in", "dstate_out"};
    for (int i = 0; i < list->n; i++) {
        const state_part *x = &list->items[i];
        HEED_CHECK(heed_linear_check_apart(message, &a->inputs, x->name, &x->view));
        HEED_CHECK(heed_check_apart(message, x->name, &x->view, "dout", a->inputs.out));
        for (int s = 0; s < 2; s++) {
            state_part parts[HEED_LINEAR_STATE_PARTS];
            if (!states[s])
                continue;
            heed_linear_state_parts(names[s], states[s], parts);
            for (int j = s; j < 3; j++) /* n_tokens of the first one; sums and norms */
                HEED_CHECK(heed_check_apart(message, x->name, &x->view, parts[j].name, &parts[j].view));
        }
        for (int j = 0; j < i; j++)
            HEED_CHECK(heed_check_apart(message, x->name, &x->view, list->items[j].name, &list->items[j].view));
    }
    return HEED_OK;
}

static heed_status check(heed_message *message, const backward_arguments *a)
{
    const linear_arguments *in = &a->inputs;
    written_list list = {.n = 0};
    HEED_CHECK(heed_linear_check_inputs(message, in));
    HEED_CHECK(heed_check_input(message, "dout", in->out, HEED_FLOAT32));
    HEED_CHECK(heed_linear_check_rows(message, in, "dout"));
    HEED_CHECK(check_plain_state(message, a, "state_in", in->state, 1));
    HEED_CHECK(check_plain_state(message, a, "dstate_out", a->dstate_out, 0));
    HEED_CHECK(check_plain_state(message, a, "dstate_in", a->dstate_in, 0));
    HEED_CHECK(check_gradient(message, "dq", a->dq, in->q, "as in q", &list));
    HEED_CHECK(check_gradient(message, "dk", a->dk, in->k, "as in k", &list));
    HEED_CHECK(check_gradient(message, "dv", a->dv, in->v, "as in v", &list));
    HEED_CHECK(check_map(message, "dfeatures", a->dfeatures, heed_linear_key_features(in).map, &list));
    if (a->dquery_features && !in->options->query_features)
        return heed_complain(message, HEED_ERROR_ARGUMENT,
                             "dquery_features: is not NULL, but options.query_features is");
    HEED_CHECK(check_map(message, "dquery_features", a->dquery_features, heed_linear_query_features(in).map, &list));
    if (a->dstate_in) {
        write_to(&list, "dstate_in.sums", &a->dstate_in->sums);
        write_to(&list, "dstate_in.norms", &a->dstate_in->norms);
    }
    if (in->k->shape[1] > 0 && in->q->shape[1] / in->k->shape[1] > HEED_LINEAR_KEPT_ROWS / HEED_LINEAR_CHUNK)
        return heed_complain(message, HEED_ERROR_UNSUPPORTED, "q: %d heads or less for one of k expected, got %" PRId64,
                             HEED_LINEAR_KEPT_ROWS / HEED_LINEAR_CHUNK, in->q->shape[1] / in->k->shape[1]);
    return check_apart(message, a, &list);
}

/* ---- calls ---- */

static feature_gradients plan_gradients(const heed_feature_map *map)
{
    feature_gradients plan = {0};
    for (int64_t l = 0; map && l < map->n_layers; l++) {
        const heed_feature_layer *layer = &map->layers[l];
        plan.w[l] = heed_repeated(layer->wf ? layer->wf : layer->omega);
        plan.wg[l] = heed_repeated(layer->wg);
        plan.a[l] = heed_repeated(layer->a);
        plan.b[l] = heed_repeated(layer->b);
    }
    return plan;
}

/* Whether several heads share a matrix whose gradient is wanted. */
static int shares(const heed_feature_map *map, int64_t heads)
{
    int shared = 0;
    for (int64_t l = 0; map && heads > 1 && l < map->n_layers; l++) {
        feature_matrix list[HEED_FEATURE_MATRICES];
        heed_feature_matrices(&map->layers[l], list);
        for (int m = 0; m < HEED_FEATURE_MATRICES; m++)
            shared |= list[m].tensor && list[m].tensor->shape[1] == 1;
    }
    return shared;
}

static linear_backward_plan plan(const backward_arguments *a)
{
    linear_backward_plan p = {.forward = heed_linear_plan(&a->inputs)};
    p.dout = heed_repeated(a->inputs.out);
    p.dq = heed_repeated(a->dq);
    p.dk = heed_repeated(a->dk);
    p.dv = heed_repeated(a->dv);
    p.key_map = plan_gradients(a->dfeatures);
    p.query_map = plan_gradients(a->dquery_features);
    p.has_dstate_out = a->dstate_out != NULL;
    p.has_dstate_in = a->dstate_in != NULL;
    if (a->dstate_out)
        p.dstate_out = heed_linear_repeated(a->dstate_out);
    if (a->dstate_in)
        p.dstate_in = heed_linear_repeated(a->dstate_in);
    p.accumulate = a->inputs.options->accumulate;
    p.serial = shares(a->dfeatures, a->inputs.k->shape[1]) || shares(a->dquery_features, a->inputs.q->shape[1]);
    return p;
}

static heed_status backward(heed_context *context, const backward_arguments *a)
{
    HEED_CHECK(check(&context->message, a));
    linear_backward_plan p = plan(a);
    HEED_CHECK(heed_check_scratch(context, heed_linear_backward_worker_bytes(&p)));
    heed_linear_backward_run(context, &p);
    return HEED_OK;
}

heed_status heed_linear_backward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                 const heed_tensor *v, const heed_linear_options *options, const heed_tensor *dout,
                                 const heed_linear_state *state_in, const heed_linear_state *dstate_out,
                                 const heed_tensor *dq, const heed_tensor *dk, const heed_tensor *dv,
                                 const heed_feature_map *dfeatures, const heed_feature_map *dquery_features,
                                 const heed_linear_state *dstate_in)
{
    backward_arguments a = {.inputs = {q, k, v, options ? options : &defaults, state_in, dout},
                            .dstate_out = dstate_out,
                            .dstate_in = dstate_in,
                            .dq = dq,
                            .dk = dk,
                            .dv = dv,
                            .dfeatures = dfeatures,
                            .dquery_features = dquery_features};
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, backward(context, &a));
}

heed_status heed_linear_backward_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                               const heed_linear_options *options, int64_t *bytes)
{
    linear_plan forward;
    if (!q || !k || !v || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_linear_plan_sizes(q, k, v, options ? options : &defaults, &forward));
    linear_backward_plan p = {.forward = forward};
    *bytes = heed_linear_backward_worker_bytes(&p);
    return HEED_OK;
}
