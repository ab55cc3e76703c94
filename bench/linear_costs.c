#include "bench/linear_costs.h"

/* Multiply-adds of all products with the matrices of a map for one row, which are as many as their elements. */
static double find_map_cost(const heed_feature_map *map)
{
    double cost = 0;
    for (int64_t i = 0; i < map->n_layers; i++) {
        const heed_feature_layer *layer = &map->layers[i];
        const heed_tensor *const matrices[] = {layer->wf, layer->wg, layer->a, layer->b, layer->omega};
        for (int m = 0; m < LINEAR_N_MATRICES; m++)
            cost += matrices[m] ? (double)matrices[m]->shape[2] * (double)matrices[m]->shape[3] : 0;
    }
    return cost;
}

/* Elements of all matrices of a map. */
static double count_weights(const heed_feature_map *map)
{
    double n = 0;
    for (int64_t i = 0; map && i < map->n_layers; i++) {
        const heed_feature_layer *layer = &map->layers[i];
        const heed_tensor *const matrices[] = {layer->wf, layer->wg, layer->a, layer->b, layer->omega};
        for (int m = 0; m < LINEAR_N_MATRICES; m++)
            n += matrices[m]
                     ? (double)matrices[m]->shape[1] * (double)matrices[m]->shape[2] * (double)matrices[m]->shape[3]
                     : 0;
    }
    return n;
}

/* What the operations of a call are made of. */
typedef struct token_counts {
    double queries, keys;      /* tokens of all heads and batch elements */
    double query_map, key_map; /* multiply-adds of the features of one */
    double product;            /* C Dv */
} token_counts;

static token_counts count_tokens(const attention_input *input, linear_kind kind, int64_t n_keys)
{
    const attention_shape *s = &input->shape;
    const heed_linear_options options = linear_input_options(input, kind);
    const heed_feature_map *of_queries = options.query_features ? options.query_features : options.features;
    return (token_counts){
        .queries = (double)s->batch * (double)s->n_query_heads * (double)s->n_queries,
        .keys = (double)s->batch * (double)s->n_kv_heads * (double)n_keys,
        .query_map = find_map_cost(of_queries),
        .key_map = find_map_cost(options.features),
        .product = (double)linear_n_features(input, kind) * (double)s->n_value_channels,
    };
}

static double find_forward_flops(const token_counts *n)
{
    return 2 * (n->queries * (n->query_map + n->product) + n->keys * (n->key_map + n->product));
}

double linear_flops(const attention_input *input, linear_kind kind)
{
    const token_counts n = count_tokens(input, kind, input->shape.n_keys);
    return find_forward_flops(&n);
}

double linear_step_flops(const attention_input *input, linear_kind kind)
{
    const token_counts n = count_tokens(input, kind, 1);
    return find_forward_flops(&n);
}

double linear_backward_flops(const attention_input *input, linear_kind kind)
{
    const token_counts n = count_tokens(input, kind, input->shape.n_keys);
    return 2 * (n.queries * (3 * n.query_map + 2 * n.product) + n.keys * (3 * n.key_map + 3 * n.product));
}

/* Floats of q, of k and v, of the output, and of the matrices. */
typedef struct float_counts {
    double q, kv, out, weights;
} float_counts;

static float_counts count_floats(const attention_input *input, linear_kind kind)
{
    const attention_shape *s = &input->shape;
    const heed_linear_options options = linear_input_options(input, kind);
    const double queries = (double)s->batch * (double)s->n_query_heads * (double)s->n_queries;
    const double keys = (double)s->batch * (double)s->n_kv_heads * (double)s->n_keys;
    return (float_counts){
        .q = queries * (double)s->n_channels,
        .kv = keys * (double)(s->n_channels + s->n_value_channels),
        .out = queries * (double)s->n_value_channels,
        .weights = count_weights(options.features) + count_weights(options.query_features),
    };
}

double linear_bytes(const attention_input *input, linear_kind kind)
{
    const float_counts n = count_floats(input, kind);
    return sizeof(float) * (n.q + n.kv + n.out + n.weights);
}

double linear_backward_bytes(const attention_input *input, linear_kind kind)
{
    const float_counts n = count_floats(input, kind);
    return sizeof(float) * (2 * (n.q + n.kv + n.weights) + n.out);
}

double linear_step_bytes(const attention_input *input, linear_kind kind)
{
    const attention_shape *s = &input->shape;
    const double features = (double)linear_n_features(input, kind);
    return 2 * sizeof(float) * (double)s->batch * (double)s->n_kv_heads * features * (double)(s->n_value_channels + 1);
}

double linear_reference_cost(const attention_input *input, linear_kind kind)
{
    const double features = (double)linear_n_features(input, kind);
    return (double)input->shape.n_keys * (features + (double)input->shape.n_value_channels);
}
