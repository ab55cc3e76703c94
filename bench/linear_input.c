#include "bench/linear_input.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int64_t linear_n_features(const attention_input *input, linear_kind kind)
{
    const int64_t asked = input->settings.linear.n_features;
    return asked > 0 ? asked : kind == LINEAR_FAVOR ? 256 : input->shape.n_channels;
}

int64_t linear_n_layers(const linear_settings *settings, linear_kind kind)
{
    if (kind != LINEAR_OGLU && kind != LINEAR_AOGLU)
        return 1;
    return settings->n_layers > 0 ? settings->n_layers : kind == LINEAR_OGLU ? 2 : 3;
}

/* ---- Maps ------------------------------------------------------------------------------------------------------- */

/* A map that is being made, layer by layer. */
typedef struct map_draft {
    linear_input *linear;
    const attention_input *input;
    int side, layer;
    int64_t in; /* the rows of the layer's matrices */
    char *message;
    size_t message_bytes;
} map_draft;

static const heed_tensor *take(const map_draft *d, linear_matrix matrix, int64_t in, int64_t out, int64_t otherwise)
{
    return linear_parameters_take(&d->linear->parameters, d->input, d->side, d->layer, matrix, in, out, otherwise,
                                  d->message, d->message_bytes);
}

/* A gate of full rank, or of rank n / 4 where a file does not say otherwise. */
static int make_gate(const map_draft *d, linear_kind kind, int64_t n_out, heed_feature_layer *layer)
{
    if (kind == LINEAR_OGLU) {
        layer->wg = take(d, LINEAR_WG, d->in, n_out, n_out);
        return layer->wg ? 0 : -1;
    }
    layer->a = take(d, LINEAR_A, d->in, 0, d->in < 4 ? 1 : d->in / 4);
    if (layer->a)
        layer->b = take(d, LINEAR_B, layer->a->shape[3], n_out, n_out);
    return layer->b ? 0 : -1;
}

/* Hidden layers are as wide as their file says, or as the last one. */
static int make_layer(const map_draft *d, linear_kind kind, int is_last, heed_feature_layer *layer)
{
    const int64_t n_features = linear_n_features(d->input, kind);
    switch (kind) {
    case LINEAR_ELU1:
        layer->kind = HEED_FEATURE_ELU1;
        return 0;
    case LINEAR_FAVOR:
        layer->kind = HEED_FEATURE_FAVOR;
        layer->omega = take(d, LINEAR_OMEGA, d->in, n_features, n_features);
        return layer->omega ? 0 : -1;
    case LINEAR_OGLU:
    case LINEAR_AOGLU:
        layer->kind = is_last ? HEED_FEATURE_GLU_LAST : HEED_FEATURE_GLU;
        layer->wf = take(d, LINEAR_WF, d->in, is_last ? n_features : 0, n_features);
        return layer->wf ? make_gate(d, kind, layer->wf->shape[3], layer) : -1;
    default:
        layer->kind = HEED_FEATURE_SOFTPLUS;
        layer->wf = take(d, LINEAR_WF, d->in, n_features, n_features);
        return layer->wf ? 0 : -1;
    }
}

static int make_map(linear_input *linear, const attention_input *input, linear_kind kind, int side, char *message,
                    size_t bytes)
{
    linear_map *made = &linear->maps[kind][side];
    const int n_layers = (int)linear_n_layers(&input->settings.linear, kind);
    map_draft draft = {linear, input, side, 0, input->shape.n_channels, message, bytes};
    for (; draft.layer < n_layers; draft.layer++) {
        heed_feature_layer *layer = &made->layers[draft.layer];
        if (make_layer(&draft, kind, draft.layer == n_layers - 1, layer) != 0)
            return -1;
        draft.in = layer->wf ? layer->wf->shape[3] : draft.in;
    }
    made->map = (heed_feature_map)HEED_FEATURE_MAP_INIT;
    made->map.layers = made->layers;
    made->map.n_layers = n_layers;
    return 0;
}

/* ---- The whole -------------------------------------------------------------------------------------------------- */

static int has_matrices(linear_kind kind) { return kind != LINEAR_ELU1; }

static int make_maps(linear_input *linear, const attention_input *input, linear_kind kind, char *message, size_t bytes)
{
    const int64_t n_channels = input->shape.n_channels, n_features = linear_n_features(input, kind);
    if (kind == LINEAR_ELU1 && n_features != n_channels) {
        snprintf(message, bytes, "linear-elu1: it has D = %" PRId64 " features, got --features %" PRId64, n_channels,
                 n_features);
        return -1;
    }
    const int n_sides = has_matrices(kind) && linear->parameters.separate ? 2 : 1;
    for (int side = 0; side < n_sides; side++)
        if (make_map(linear, input, kind, side, message, bytes) != 0)
            return -1;
    return 0;
}

/* A loss whose gradient is normal with deviation 1. */
static int make_gradient(linear_input *linear, const attention_input *input, char *message, size_t bytes)
{
    enum { STREAM_GRADIENT = 300 };
    const attention_shape *s = &input->shape;
    const int64_t sizes[] = {s->batch, s->n_query_heads, s->n_queries, s->n_value_channels};
    float *data = input_make_normal(sizes, input->settings.seed, STREAM_GRADIENT, 1);
    if (!data) {
        snprintf(message, bytes, "out of memory for the gradient of the output");
        return -1;
    }
    linear->dout = input_output_view(input, s->n_value_channels, data);
    return 0;
}

static int asks_for(const attention_input *input, linear_kind kind)
{
    const unsigned kinds = input->settings.linear.kinds;
    return (kinds >> kind & 1) != 0 || (kind == LINEAR_SOFTPLUS && (kinds >> LINEAR_BLAS & 1) != 0);
}

linear_input *linear_input_create(const attention_input *input, char *message, size_t message_bytes)
{
    linear_input *linear = calloc(1, sizeof *linear);
    if (!linear) {
        snprintf(message, message_bytes, "out of memory for feature maps");
        return NULL;
    }
    int result = linear_parameters_start(&linear->parameters, input, message, message_bytes);
    for (int kind = 0; kind < LINEAR_N_KINDS && result == 0; kind++)
        if (asks_for(input, (linear_kind)kind))
            result = make_maps(linear, input, (linear_kind)kind, message, message_bytes);
    if (result == 0 && input->settings.linear.backward)
        result = make_gradient(linear, input, message, message_bytes);
    if (result != 0) {
        linear_input_destroy(linear);
        return NULL;
    }
    return linear;
}

void linear_input_destroy(linear_input *linear)
{
    if (linear) {
        linear_parameters_release(&linear->parameters);
        free(linear->dout.data);
        free(linear);
    }
}

/* ---- What follows from a map ------------------------------------------------------------------------------------ */

/* FAVOR+ is without eps, as its gradients are exact then. */
heed_linear_options linear_input_options(const attention_input *input, linear_kind kind)
{
    const linear_map *maps = input->linear->maps[kind];
    heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
    options.features = &maps[0].map;
    options.query_features = maps[1].map.n_layers > 0 ? &maps[1].map : NULL;
    options.eps = kind == LINEAR_FAVOR ? 0 : options.eps;
    options.mask = &input->mask;
    return options;
}
