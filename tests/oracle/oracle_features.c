/* Feature maps: phi of "Transformers are RNNs" (equation 7), of "Linear Self-Attention with trainable feed-forward
 * kernels" (softplus, GLU, OGLU and AOGLU units) and of "Rethinking Attention with Performers" (Lemma 1, and its ReLU
 * form), a row at a time, and their gradients. */
#include "oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double *oracle_zeros(int64_t n)
{
    double *zeros = calloc((size_t)n + 1, sizeof *zeros);
    if (!zeros) {
        fprintf(stderr, "no memory for %lld numbers of the oracle\n", (long long)n);
        exit(1);
    }
    return zeros;
}

/* ---- Maps ---- */

static oracle_matrix read_matrix(const heed_tensor *tensor)
{
    if (!tensor)
        return (oracle_matrix){NULL, 0, 0, 0};
    oracle_matrix w = {NULL, tensor->shape[1], tensor->shape[2], tensor->shape[3]};
    w.values = oracle_zeros(w.heads * w.in * w.out);
    for (int64_t n = 0; n < w.heads * w.in * w.out; n++)
        w.values[n] = oracle_value(tensor, 0, n / w.out / w.in, n / w.out % w.in, n % w.out);
    return w;
}

oracle_map oracle_map_read(const heed_feature_map *features)
{
    oracle_map map = {.n_layers = features ? features->n_layers : 1};
    if (!features)
        map.layers[0].kind = HEED_FEATURE_ELU1;
    for (int64_t l = 0; features && l < map.n_layers; l++) {
        const heed_feature_layer *layer = &features->layers[l];
        const heed_tensor *tensors[ORACLE_N_MATRICES] = {layer->wf, layer->wg, layer->a, layer->b, layer->omega};
        map.layers[l].kind = layer->kind;
        map.layers[l].eps = (double)layer->eps;
        for (int n = 0; n < ORACLE_N_MATRICES; n++)
            map.layers[l].w[n] = read_matrix(tensors[n]);
    }
    return map;
}

oracle_map oracle_map_zeros(const oracle_map *map)
{
    oracle_map zeros = *map;
    for (int64_t l = 0; l < map->n_layers; l++) {
        for (int n = 0; n < ORACLE_N_MATRICES; n++) {
            oracle_matrix *w = &zeros.layers[l].w[n];
            w->values = w->values ? oracle_zeros(w->heads * w->in * w->out) : NULL;
        }
    }
    return zeros;
}

void oracle_map_free(oracle_map *map)
{
    for (int64_t l = 0; l < map->n_layers; l++) {
        for (int n = 0; n < ORACLE_N_MATRICES; n++)
            free(map->layers[l].w[n].values);
    }
    memset(map, 0, sizeof *map);
}

static int64_t layer_width(const oracle_layer *layer, int64_t in)
{
    const oracle_matrix *w = layer->w;
    return w[ORACLE_WF].values ? w[ORACLE_WF].out : w[ORACLE_OMEGA].values ? w[ORACLE_OMEGA].out : in;
}

int64_t oracle_n_features(const oracle_map *map, int64_t channels)
{
    for (int64_t l = 0; l < map->n_layers; l++)
        channels = layer_width(&map->layers[l], channels);
    return channels;
}

/* ---- Rows and matrices ---- */

static double *of_head(const oracle_matrix *w, int64_t h)
{
    return w->values + (w->heads == 1 ? 0 : h) * w->in * w->out;
}

/* y = x w */
static void multiply(const double *x, const oracle_matrix *w, int64_t h, double *y)
{
    const double *values = of_head(w, h);
    for (int64_t o = 0; o < w->out; o++)
        y[o] = 0.0;
    for (int64_t i = 0; i < w->in; i++) {
        for (int64_t o = 0; o < w->out; o++)
            y[o] += x[i] * values[i * w->out + o];
    }
}

/* Of y = x w: dx += dy w^T, dw += x^T dy. */
static void multiply_backward(const double *x, const oracle_matrix *w, int64_t h, const double *dy, double *dx,
                              const oracle_matrix *dw)
{
    const double *values = of_head(w, h);
    double *gradient = of_head(dw, h);
    for (int64_t i = 0; i < w->in; i++) {
        for (int64_t o = 0; o < w->out; o++) {
            dx[i] += dy[o] * values[i * w->out + o];
            gradient[i * w->out + o] += x[i] * dy[o];
        }
    }
}

static double softplus(double a) { return (a > 0.0 ? a : 0.0) + log1p(exp(-fabs(a))); }

static double sigmoid(double s)
{
    const double e = exp(-fabs(s));
    return s < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
}

static double positive_part(double a) { return a < 0.0 ? 0.0 : a; /* NaN stays */ }

/* ---- FAVOR+ ---- */

static double norm_squared(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

/* m of Lemma 1's exponents u_c: of the row for queries, of the map for keys. */
static double find_offset(const oracle_matrix *omega, heed_feature_side side, int64_t h, const double *u)
{
    double m = side == HEED_FEATURES_OF_QUERIES ? -INFINITY : 0.0;
    for (int64_t c = 0; c < omega->out; c++) {
        double exponent = u[c];
        if (side == HEED_FEATURES_OF_KEYS) {
            exponent = -60.0;
            for (int64_t i = 0; i < omega->in; i++)
                exponent += of_head(omega, h)[i * omega->out + c] * of_head(omega, h)[i * omega->out + c] / 2.0;
        }
        m = exponent > m ? exponent : m;
    }
    return m;
}

/* x' = x D^-1/4 */
static double *scale_row(const double *x, int64_t n)
{
    double *scaled = oracle_zeros(n);
    for (int64_t i = 0; i < n; i++)
        scaled[i] = x[i] * pow((double)n, -0.25);
    return scaled;
}

/* exp(w_c.x' - |x'|^2 / 2 - m) / sqrt(C): Lemma 1 without eps. */
static void favor(const oracle_matrix *omega, heed_feature_side side, int64_t h, const double *scaled, double *y)
{
    multiply(scaled, omega, h, y);
    for (int64_t c = 0; c < omega->out; c++)
        y[c] -= norm_squared(scaled, omega->in) / 2.0;
    const double m = find_offset(omega, side, h, y);
    for (int64_t c = 0; c < omega->out; c++)
        y[c] = exp(y[c] - m) / sqrt((double)omega->out);
}

/* ---- Layers ---- */

/* The gate's s of a unit: x wg, or (x a) b. `between` receives x a, where there is one. */
static void find_gate(const oracle_layer *layer, int64_t h, const double *x, double *between, double *s)
{
    const oracle_matrix *w = layer->w;
    if (w[ORACLE_WG].values) {
        multiply(x, &w[ORACLE_WG], h, s);
        return;
    }
    multiply(x, &w[ORACLE_A], h, between);
    multiply(between, &w[ORACLE_B], h, s);
}

static int64_t gate_rank(const oracle_layer *layer) { return layer->w[ORACLE_A].values ? layer->w[ORACLE_A].out : 0; }

/* The inner product with its activation, f, and its derivative; y = f sigmoid(s). */
static void find_unit(const oracle_layer *layer, int64_t n, double *f, double *df)
{
    for (int64_t o = 0; o < n; o++) {
        df[o] = layer->kind == HEED_FEATURE_GLU ? 1.0 : sigmoid(f[o]);
        f[o] = layer->kind == HEED_FEATURE_GLU ? f[o] : softplus(f[o]);
    }
}

static void layer_forward(const oracle_layer *layer, heed_feature_side side, int64_t h, const double *x, int64_t in,
                          double *y)
{
    const oracle_matrix *w = layer->w;
    const int64_t n = layer_width(layer, in);
    double *s = oracle_zeros(n), *df = oracle_zeros(n), *between = oracle_zeros(gate_rank(layer));
    double *scaled = scale_row(x, in);
    switch (layer->kind) {
    case HEED_FEATURE_ELU1:
        for (int64_t o = 0; o < n; o++)
            y[o] = x[o] > 0.0 ? x[o] + 1.0 : exp(x[o]);
        break;
    case HEED_FEATURE_RELU:
        for (int64_t o = 0; o < n; o++)
            y[o] = positive_part(x[o]) + layer->eps;
        break;
    case HEED_FEATURE_SOFTPLUS:
        multiply(x, &w[ORACLE_WF], h, y);
        find_unit(layer, n, y, df);
        break;
    case HEED_FEATURE_GLU:
    case HEED_FEATURE_GLU_LAST:
        multiply(x, &w[ORACLE_WF], h, y);
        find_unit(layer, n, y, df);
        find_gate(layer, h, x, between, s);
        for (int64_t o = 0; o < n; o++)
            y[o] *= sigmoid(s[o]);
        break;
    case HEED_FEATURE_FAVOR:
        favor(&w[ORACLE_OMEGA], side, h, scaled, y);
        for (int64_t c = 0; c < n; c++)
            y[c] += layer->eps / sqrt((double)n);
        break;
    case HEED_FEATURE_FAVOR_RELU:
        multiply(scaled, &w[ORACLE_OMEGA], h, y);
        for (int64_t c = 0; c < n; c++)
            y[c] = positive_part(y[c]) + layer->eps;
        break;
    default:
        break;
    }
    free(s), free(df), free(between), free(scaled);
}

/* Of a unit with or without a gate: y = f(x wf) sigmoid(s(x)). */
static void unit_backward(const oracle_layer *layer, int64_t h, const double *x, int64_t in, const double *dy,
                          double *dx, oracle_layer *dlayer)
{
    const oracle_matrix *w = layer->w;
    const int64_t n = layer_width(layer, in), rank = gate_rank(layer);
    const int has_gate = layer->kind != HEED_FEATURE_SOFTPLUS;
    double *f = oracle_zeros(n), *df = oracle_zeros(n), *s = oracle_zeros(n);
    double *between = oracle_zeros(rank), *dbetween = oracle_zeros(rank);
    multiply(x, &w[ORACLE_WF], h, f);
    find_unit(layer, n, f, df);
    if (has_gate)
        find_gate(layer, h, x, between, s);
    for (int64_t o = 0; o < n; o++) {
        const double g = has_gate ? sigmoid(s[o]) : 1.0;
        df[o] *= dy[o] * g;                       /* now the gradient of x wf */
        s[o] = dy[o] * f[o] * g * sigmoid(-s[o]); /* of s, if there is one: 1 - g is sigmoid(-s) */
    }
    multiply_backward(x, &w[ORACLE_WF], h, df, dx, &dlayer->w[ORACLE_WF]);
    if (has_gate && rank == 0)
        multiply_backward(x, &w[ORACLE_WG], h, s, dx, &dlayer->w[ORACLE_WG]);
    if (has_gate && rank > 0) {
        multiply_backward(between, &w[ORACLE_B], h, s, dbetween, &dlayer->w[ORACLE_B]);
        multiply_backward(x, &w[ORACLE_A], h, dbetween, dx, &dlayer->w[ORACLE_A]);
    }
    free(f), free(df), free(s), free(between), free(dbetween);
}

/* Of the two kinds with projections of x' = x D^-1/4. */
static void favor_backward(const oracle_layer *layer, heed_feature_side side, int64_t h, const double *x, int64_t in,
                           const double *dy, double *dx, oracle_layer *dlayer)
{
    const oracle_matrix *omega = &layer->w[ORACLE_OMEGA];
    double *scaled = scale_row(x, in), *du = oracle_zeros(omega->out), *dscaled = oracle_zeros(in);
    if (layer->kind == HEED_FEATURE_FAVOR) {
        favor(omega, side, h, scaled, du);
        for (int64_t c = 0; c < omega->out; c++)
            du[c] *= dy[c];
    } else {
        multiply(scaled, omega, h, du);
        for (int64_t c = 0; c < omega->out; c++)
            du[c] = du[c] > 0.0 ? dy[c] : 0.0;
    }
    multiply_backward(scaled, omega, h, du, dscaled, &dlayer->w[ORACLE_OMEGA]);
    for (int64_t c = 0; layer->kind == HEED_FEATURE_FAVOR && c < omega->out; c++) {
        for (int64_t i = 0; i < in; i++)
            dscaled[i] -= du[c] * scaled[i];
    }
    for (int64_t i = 0; i < in; i++)
        dx[i] += pow((double)in, -0.25) * dscaled[i];
    free(scaled), free(du), free(dscaled);
}

static void layer_backward(const oracle_layer *layer, heed_feature_side side, int64_t h, const double *x, int64_t in,
                           const double *dy, double *dx, oracle_layer *dlayer)
{
    switch (layer->kind) {
    case HEED_FEATURE_ELU1:
        for (int64_t i = 0; i < in; i++)
            dx[i] += dy[i] * (x[i] > 0.0 ? 1.0 : exp(x[i]));
        break;
    case HEED_FEATURE_RELU:
        for (int64_t i = 0; i < in; i++)
            dx[i] += x[i] > 0.0 ? dy[i] : 0.0;
        break;
    case HEED_FEATURE_FAVOR:
    case HEED_FEATURE_FAVOR_RELU:
        favor_backward(layer, side, h, x, in, dy, dx, dlayer);
        break;
    default:
        unit_backward(layer, h, x, in, dy, dx, dlayer);
        break;
    }
}

/* ---- Rows ---- */

/* rows[l] is what layer l reads, rows[n_layers] the features; all in one piece of memory, rows[0]. */
static void find_rows(const oracle_map *map, heed_feature_side side, int64_t h, const double *x, int64_t channels,
                      double *rows[ORACLE_MAX_LAYERS + 1])
{
    int64_t all = channels, width = channels;
    for (int64_t l = 0; l < map->n_layers; l++) {
        width = layer_width(&map->layers[l], width);
        all += width;
    }
    rows[0] = oracle_zeros(all);
    memcpy(rows[0], x, (size_t)channels * sizeof *x);
    for (int64_t l = 0; l < map->n_layers; l++) {
        rows[l + 1] = rows[l] + channels;
        layer_forward(&map->layers[l], side, h, rows[l], channels, rows[l + 1]);
        channels = layer_width(&map->layers[l], channels);
    }
}

void oracle_features(const oracle_map *map, heed_feature_side side, int64_t h, const double *x, int64_t channels,
                     double *features)
{
    double *rows[ORACLE_MAX_LAYERS + 1];
    find_rows(map, side, h, x, channels, rows);
    memcpy(features, rows[map->n_layers], (size_t)oracle_n_features(map, channels) * sizeof *features);
    free(rows[0]);
}

void oracle_features_backward(const oracle_map *map, heed_feature_side side, int64_t h, const double *x,
                              int64_t channels, const double *dfeatures, double *dx, oracle_map *dmap)
{
    double *rows[ORACLE_MAX_LAYERS + 1];
    int64_t widths[ORACLE_MAX_LAYERS + 1] = {channels};
    find_rows(map, side, h, x, channels, rows);
    for (int64_t l = 0; l < map->n_layers; l++)
        widths[l + 1] = layer_width(&map->layers[l], widths[l]);
    double *dy = oracle_zeros(widths[map->n_layers]);
    memcpy(dy, dfeatures, (size_t)widths[map->n_layers] * sizeof *dy);
    for (int64_t l = map->n_layers - 1; l >= 0; l--) {
        double *below = oracle_zeros(widths[l]);
        layer_backward(&map->layers[l], side, h, rows[l], widths[l], dy, below, &dmap->layers[l]);
        free(dy);
        dy = below;
    }
    for (int64_t i = 0; i < channels; i++)
        dx[i] += dy[i];
    free(dy);
    free(rows[0]);
}
