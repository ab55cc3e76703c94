#include "api/features.h"

#include "core/arguments.h"
#include "core/context.h"
#include "core/sizes.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { NAME_BYTES = 96 };

void heed_feature_matrices(const heed_feature_layer *layer, feature_matrix list[HEED_FEATURE_MATRICES])
{
    list[0] = (feature_matrix){"wf", layer->wf};
    list[1] = (feature_matrix){"wg", layer->wg};
    list[2] = (feature_matrix){"a", layer->a};
    list[3] = (feature_matrix){"b", layer->b};
    list[4] = (feature_matrix){"omega", layer->omega};
}

static int is_gated(heed_feature_kind kind) { return kind == HEED_FEATURE_GLU || kind == HEED_FEATURE_GLU_LAST; }

static int is_favor(heed_feature_kind kind) { return kind == HEED_FEATURE_FAVOR || kind == HEED_FEATURE_FAVOR_RELU; }

/* wf or omega: what gives the layer its width. */
static const heed_tensor *main_matrix(const heed_feature_layer *layer) { return layer->wf ? layer->wf : layer->omega; }

/* ---- checks ---- */

/* The matrices that the kind names are there, and no others. */
static heed_status check_presence(heed_message *message, const char *name, const heed_feature_layer *layer)
{
    int gated = is_gated(layer->kind), low_rank = gated && (layer->a || layer->b);
    int wanted[HEED_FEATURE_MATRICES] = {layer->kind == HEED_FEATURE_SOFTPLUS || gated, gated && !low_rank, low_rank,
                                         low_rank, is_favor(layer->kind)};
    feature_matrix list[HEED_FEATURE_MATRICES];
    heed_feature_matrices(layer, list);
    for (int m = 0; m < HEED_FEATURE_MATRICES; m++) {
        if (wanted[m] && !list[m].tensor)
            return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.%s: is NULL", name, list[m].name);
        if (!wanted[m] && list[m].tensor)
            return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.%s: is not NULL, but %s", name, list[m].name,
                                 m == 1 && low_rank ? "a and b take its place" : "this kind of layer has none");
    }
    return HEED_OK;
}

static heed_status check_matrix(heed_message *message, const char *layer, const char *matrix, const heed_tensor *tensor,
                                const feature_argument *a, int64_t in, int64_t out)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", layer, matrix);
    HEED_CHECK(a->sizes_only ? heed_check_sizes(message, name, tensor)
                             : heed_check_input(message, name, tensor, HEED_FLOAT32));
    HEED_CHECK(heed_check_size(message, name, tensor, 0, 1, "the same for the whole batch"));
    HEED_CHECK(
        heed_check_repeated_size(message, name, tensor, 1, a->heads, "the heads of what it is applied to, or 1"));
    if (tensor->shape[2] != in)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s: %" PRId64 " rows expected (what goes in), got %" PRId64,
                             name, in, tensor->shape[2]);
    if (out > 0 && tensor->shape[3] != out)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s: %" PRId64 " columns expected, got %" PRId64, name, out,
                             tensor->shape[3]);
    if (tensor->shape[3] < 1)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s: 1 column or more expected, got 0", name);
    return HEED_OK;
}

static heed_status check_layer(heed_message *message, const char *name, const heed_feature_layer *layer,
                               const feature_argument *a, int64_t in)
{
    if (layer->kind < HEED_FEATURE_ELU1 || layer->kind > HEED_FEATURE_FAVOR_RELU)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.kind: unknown value %d", name, (int)layer->kind);
    if (!isfinite(layer->eps) || layer->eps < 0.0f)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.eps: 0 or more expected, got %g", name,
                             (double)layer->eps);
    if (layer->eps != 0.0f && layer->kind != HEED_FEATURE_RELU && !is_favor(layer->kind))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.eps: this kind of layer has none", name);
    HEED_CHECK(check_presence(message, name, layer));
    if (layer->omega)
        return check_matrix(message, name, "omega", layer->omega, a, in, 0);
    if (!layer->wf)
        return HEED_OK;
    HEED_CHECK(check_matrix(message, name, "wf", layer->wf, a, in, 0));
    int64_t out = layer->wf->shape[3];
    if (layer->wg)
        return check_matrix(message, name, "wg", layer->wg, a, in, out);
    if (!layer->a)
        return HEED_OK;
    HEED_CHECK(check_matrix(message, name, "a", layer->a, a, in, 0));
    return check_matrix(message, name, "b", layer->b, a, layer->a->shape[3], out);
}

heed_status heed_features_check(heed_message *message, const feature_argument *a)
{
    const heed_feature_map *map = a->map;
    HEED_CHECK(heed_check_struct(message, a->name, map, sizeof *map));
    if (map->n_layers < 0 || map->n_layers > HEED_MAX_FEATURE_LAYERS)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.n_layers: 0 to %d expected, got %" PRId64, a->name,
                             HEED_MAX_FEATURE_LAYERS, map->n_layers);
    if (map->n_layers > 0 && !map->layers)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s.layers: is NULL", a->name);
    int64_t width = a->channels;
    for (int64_t l = 0; l < map->n_layers; l++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s.layers[%" PRId64 "]", a->name, l);
        HEED_CHECK(check_layer(message, name, &map->layers[l], a, width));
        if (map->layers[l].kind == HEED_FEATURE_FAVOR && l < map->n_layers - 1)
            return heed_complain(message, HEED_ERROR_UNSUPPORTED, "%s.kind: HEED_FEATURE_FAVOR is a last layer", name);
        width = main_matrix(&map->layers[l]) ? main_matrix(&map->layers[l])->shape[3] : width;
    }
    return HEED_OK;
}

heed_status heed_features_check_apart(heed_message *message, const char *out_name, const heed_tensor *out,
                                      const char *name, const heed_feature_map *map)
{
    for (int64_t l = 0; map && l < map->n_layers; l++) {
        feature_matrix list[HEED_FEATURE_MATRICES];
        heed_feature_matrices(&map->layers[l], list);
        for (int m = 0; m < HEED_FEATURE_MATRICES; m++) {
            char matrix[NAME_BYTES];
            snprintf(matrix, sizeof matrix, "%s.layers[%" PRId64 "].%s", name, l, list[m].name);
            HEED_CHECK(heed_check_apart(message, out_name, out, matrix, list[m].tensor));
        }
    }
    return HEED_OK;
}

/* ---- plans ---- */

int64_t heed_feature_width(const heed_feature_map *map, int64_t channels)
{
    for (int64_t l = 0; l < map->n_layers; l++)
        channels = main_matrix(&map->layers[l]) ? main_matrix(&map->layers[l])->shape[3] : channels;
    return channels;
}

feature_map heed_feature_plan(const feature_argument *a)
{
    feature_map plan = {.n_layers = (int)a->map->n_layers, .in = a->channels, .out = a->channels};
    for (int l = 0; l < plan.n_layers; l++) {
        const heed_feature_layer *from = &a->map->layers[l];
        const heed_tensor *matrix = main_matrix(from);
        feature_layer *layer = &plan.layers[l];
        layer->kind = from->kind;
        layer->eps = from->eps;
        layer->in = plan.out;
        layer->out = matrix ? matrix->shape[3] : plan.out;
        layer->rank = from->a ? from->a->shape[3] : 0;
        layer->w = heed_repeated(matrix);
        layer->wg = heed_repeated(from->wg);
        layer->a = heed_repeated(from->a);
        layer->b = heed_repeated(from->b);
        plan.out = layer->out;
        plan.widest = heed_larger(plan.widest, layer->out);
        plan.widest_rank = heed_larger(plan.widest_rank, layer->rank);
    }
    return plan;
}

/* ---- heed_feature_map_apply ---- */

static heed_status check_apply(heed_message *message, const heed_tensor *x, const feature_argument *a,
                               heed_feature_side side, const heed_tensor *out)
{
    HEED_CHECK(heed_features_check(message, a));
    if (side != HEED_FEATURES_OF_KEYS && side != HEED_FEATURES_OF_QUERIES)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "side: unknown value %d", (int)side);
    HEED_CHECK(heed_check_output(message, "out", out, HEED_FLOAT32));
    for (int d = 0; d < 3; d++)
        HEED_CHECK(heed_check_size(message, "out", out, d, x->shape[d], "as in x"));
    HEED_CHECK(heed_check_size(message, "out", out, 3, heed_feature_width(a->map, a->channels), "the features"));
    HEED_CHECK(heed_check_apart(message, "out", out, "x", x));
    return heed_features_check_apart(message, "out", out, a->name, a->map);
}

static heed_status check_channels(heed_message *message, const heed_tensor *x)
{
    return x->shape[3] > 0 ? HEED_OK : heed_complain(message, HEED_ERROR_SHAPE, "x: 1 channel or more expected, got 0");
}

static heed_status apply(heed_context *context, const heed_tensor *x, const heed_feature_map *features,
                         heed_feature_side side, const heed_tensor *out)
{
    heed_message *message = &context->message;
    HEED_CHECK(heed_check_input(message, "x", x, HEED_FLOAT32));
    HEED_CHECK(check_channels(message, x));
    feature_argument a = {"features", features, x->shape[3], x->shape[1], 0};
    HEED_CHECK(check_apply(message, x, &a, side, out));
    feature_apply_plan plan = {.x = *x, .out = *out, .map = heed_feature_plan(&a), .side = side};
    HEED_CHECK(heed_check_scratch(context, heed_feature_apply_bytes(&plan.map)));
    heed_feature_apply_run(context, &plan);
    return HEED_OK;
}

heed_status heed_feature_map_apply(heed_context *context, const heed_tensor *x, const heed_feature_map *features,
                                   heed_feature_side side, const heed_tensor *out)
{
    HEED_CHECK(heed_call_begin(context));
    return heed_call_end(context, apply(context, x, features, side, out));
}

heed_status heed_feature_map_scratch_bytes(const heed_tensor *x, const heed_feature_map *features, int64_t *bytes)
{
    if (!x || !bytes)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_check_sizes(NULL, "x", x));
    HEED_CHECK(check_channels(NULL, x));
    feature_argument a = {"features", features, x->shape[3], x->shape[1], 1};
    HEED_CHECK(heed_features_check(NULL, &a));
    feature_map map = heed_feature_plan(&a);
    *bytes = heed_feature_apply_bytes(&map);
    return HEED_OK;
}
