#include "bench/linear_reference.h"

#include "tests/oracle/oracle.h"

#include <stdlib.h>
#include <string.h>

/* ---- One kv head ------------------------------------------------------------------------------------------------ */

/* Some heads of one batch element. */
static heed_tensor take_heads(const heed_tensor *t, int64_t b, int64_t first, int64_t n)
{
    heed_tensor part = *t;
    part.data = (float *)t->data + b * t->stride[0] + first * t->stride[1];
    part.shape[0] = 1;
    part.shape[1] = n;
    return part;
}

/* A map with the weights of some heads. */
typedef struct map_part {
    heed_tensor matrices[LINEAR_MAX_LAYERS][LINEAR_N_MATRICES];
    linear_map map;
} map_part;

static void take_map_heads(map_part *part, const heed_feature_map *whole, int64_t first, int64_t n)
{
    part->map.map = *whole;
    part->map.map.layers = part->map.layers;
    for (int64_t i = 0; i < whole->n_layers; i++) {
        heed_feature_layer *layer = &part->map.layers[i];
        *layer = whole->layers[i];
        const heed_tensor **const matrices[] = {&layer->wf, &layer->wg, &layer->a, &layer->b, &layer->omega};
        for (int m = 0; m < LINEAR_N_MATRICES; m++) {
            const heed_tensor *w = *matrices[m];
            if (!w)
                continue;
            part->matrices[i][m] = w->shape[1] == 1 ? *w : take_heads(w, 0, first, n);
            *matrices[m] = &part->matrices[i][m];
        }
    }
}

/* A kv head and its query heads are a problem by themselves, so that the features of a long sequence need not be there
 * for all heads at once. */
static void open_group(oracle_linear *problem, const attention_input *input, linear_kind kind, const row_place *place)
{
    const int64_t group = input->shape.n_query_heads / input->shape.n_kv_heads;
    const int64_t kv_head = place->h / group;
    const heed_tensor q = take_heads(&input->q, place->b, kv_head * group, group),
                      k = take_heads(&input->k, place->b, kv_head, 1), v = take_heads(&input->v, place->b, kv_head, 1);
    heed_linear_options options = linear_input_options(input, kind);
    map_part keys, queries;
    take_map_heads(&keys, options.features, kv_head, 1);
    options.features = &keys.map.map;
    if (options.query_features) {
        take_map_heads(&queries, options.query_features, kv_head * group, group);
        options.query_features = &queries.map.map;
    }
    oracle_linear_open(problem, &q, &k, &v, &options, NULL);
}

/* ---- Rows ------------------------------------------------------------------------------------------------------- */

void linear_reference_rows(const attention_input *input, linear_kind kind, const row_place *places, int64_t n,
                           double *out)
{
    oracle_linear problem;
    open_group(&problem, input, kind, places);
    for (int64_t r = 0; r < n; r++)
        oracle_linear_row(&problem, 0, places[r].h % problem.q_heads, places[r].i, out + r * problem.value_channels);
    oracle_linear_close(&problem);
}

void linear_reference_softplus_rows(const attention_input *input, const row_place *places, int64_t n, double *out)
{
    linear_reference_rows(input, LINEAR_SOFTPLUS, places, n, out);
}

/* What one gradient needs, all of float64. */
typedef struct gradient_row {
    double *dout, *out, *features; /* Dv, Dv, C */
    oracle_map dmap;               /* the gradients of matrices, which nobody looks at */
} gradient_row;

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* With num = den out: d num = dout / den, d den = -dout.out / den, and the gradient of phi(q) is the sum of
 * (v_j.d num + d den) phi(k_j) over the visible keys. */
static void find_gradient(const oracle_linear *p, gradient_row *row, int64_t h, int64_t i, double *dq)
{
    const oracle_map *map = p->has_query_map ? &p->query_map : &p->key_map;
    const double den = oracle_linear_row(p, 0, h, i, row->out);
    memset(dq, 0, (size_t)p->channels * sizeof *dq);
    if (den == 0)
        return;
    const double of_den = -dot(row->dout, row->out, p->value_channels) / den;
    memset(row->features, 0, (size_t)p->n_features * sizeof *row->features);
    for (int64_t j = 0; j < p->n_keys; j++) {
        if (!oracle_visible(p->mask, 0, h, i, j, p->n_queries, p->n_keys))
            continue;
        const double of_weight = dot(row->dout, p->v + j * p->value_channels, p->value_channels) / den + of_den;
        for (int64_t c = 0; c < p->n_features; c++)
            row->features[c] += of_weight * p->key_features[j * p->n_features + c];
    }
    oracle_features_backward(map, HEED_FEATURES_OF_QUERIES, p->has_query_map ? h : 0,
                             p->q + (h * p->n_queries + i) * p->channels, p->channels, row->features, dq, &row->dmap);
}

void linear_reference_gradients(const attention_input *input, linear_kind kind, const row_place *places, int64_t n,
                                double *dq)
{
    oracle_linear problem;
    open_group(&problem, input, kind, places);
    gradient_row row = {
        .dout = oracle_zeros(problem.value_channels),
        .out = oracle_zeros(problem.value_channels),
        .features = oracle_zeros(problem.n_features),
        .dmap = oracle_map_zeros(problem.has_query_map ? &problem.query_map : &problem.key_map),
    };
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < problem.value_channels; c++)
            row.dout[c] = oracle_value(&input->linear->dout, places[r].b, places[r].h, places[r].i, c);
        find_gradient(&problem, &row, places[r].h % problem.q_heads, places[r].i, dq + r * problem.channels);
    }
    oracle_map_free(&row.dmap);
    free(row.dout);
    free(row.out);
    free(row.features);
    oracle_linear_close(&problem);
}
