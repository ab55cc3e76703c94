/* out_i = phi(q_i) S_i / (phi(q_i) z_i + eps), S_i = sum_j phi(k_j)^T v_j, z_i = sum_j phi(k_j) over the visible keys j of
 * query i and those of the state ("Transformers are RNNs", equations 5, 9 to 12 and 18 to 20), written as the sums of
 * equation 4 over single keys, and the gradients of that. */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t kv_head(const oracle_linear *p, int64_t h) { return h / (p->q_heads / p->kv_heads); }

static const double *query_row(const oracle_linear *p, int64_t b, int64_t h, int64_t i)
{
    return p->q + ((b * p->q_heads + h) * p->n_queries + i) * p->channels;
}

/* Keys, values and features of keys lie alike: row j of kv head h. */
static int64_t key_row(const oracle_linear *p, int64_t b, int64_t h, int64_t j)
{
    return (b * p->kv_heads + h) * p->n_keys + j;
}

/* ---- Problems ---- */

static double *read_tensor(const heed_tensor *tensor)
{
    const int64_t *shape = tensor->shape;
    const int64_t n = shape[0] * shape[1] * shape[2] * shape[3];
    double *values = oracle_zeros(n);
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = i / shape[3], token = row % shape[2], h = row / shape[2] % shape[1];
        values[i] = oracle_value(tensor, row / shape[2] / shape[1], h, token, i % shape[3]);
    }
    return values;
}

/* S and z of a state with the tokens that have not joined them yet. */
static void read_state(oracle_linear *p, const heed_linear_state *state)
{
    p->sums = oracle_zeros(p->batch * p->kv_heads * p->n_features * p->value_channels);
    p->norms = oracle_zeros(p->batch * p->kv_heads * p->n_features);
    for (int64_t n = 0; state && n < p->batch * p->kv_heads * p->n_features; n++) {
        const int64_t c = n % p->n_features, h = n / p->n_features % p->kv_heads, b = n / p->n_features / p->kv_heads;
        p->norms[n] = oracle_value(&state->norms, b, h, 0, c);
        for (int64_t r = 0; r < state->recent_features.shape[2]; r++)
            p->norms[n] += oracle_value(&state->recent_features, b, h, r, c);
        for (int64_t d = 0; d < p->value_channels; d++) {
            double *sum = &p->sums[n * p->value_channels + d];
            *sum = oracle_value(&state->sums, b, h, c, d);
            for (int64_t r = 0; r < state->recent_features.shape[2]; r++)
                *sum +=
                    oracle_value(&state->recent_features, b, h, r, c) * oracle_value(&state->recent_values, b, h, r, d);
        }
    }
}

void oracle_linear_open(oracle_linear *p, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                        const heed_linear_options *options, const heed_linear_state *state)
{
    static const heed_linear_options defaults = HEED_LINEAR_OPTIONS_INIT;
    const heed_linear_options *o = options ? options : &defaults;
    memset(p, 0, sizeof *p);
    p->batch = q->shape[0];
    p->q_heads = q->shape[1];
    p->kv_heads = k->shape[1];
    p->n_queries = q->shape[2];
    p->n_keys = k->shape[2];
    p->channels = q->shape[3];
    p->value_channels = v->shape[3];
    p->q = read_tensor(q);
    p->k = read_tensor(k);
    p->v = read_tensor(v);
    p->key_map = oracle_map_read(o->features);
    p->has_query_map = o->query_features != NULL;
    if (p->has_query_map)
        p->query_map = oracle_map_read(o->query_features);
    p->n_features = oracle_n_features(&p->key_map, k->shape[3]);
    p->has_state = state != NULL;
    p->eps = (double)o->eps;
    p->mask = o->mask;
    read_state(p, state);
    p->key_features = oracle_zeros(p->batch * p->kv_heads * p->n_keys * p->n_features);
    oracle_linear_refresh(p);
}

void oracle_linear_refresh(oracle_linear *p)
{
    for (int64_t row = 0; row < p->batch * p->kv_heads * p->n_keys; row++)
        oracle_features(&p->key_map, HEED_FEATURES_OF_KEYS, row / p->n_keys % p->kv_heads, p->k + row * p->channels,
                        p->channels, p->key_features + row * p->n_features);
}

void oracle_linear_close(oracle_linear *p)
{
    free(p->q), free(p->k), free(p->v), free(p->sums), free(p->norms), free(p->key_features);
    oracle_map_free(&p->key_map);
    oracle_map_free(&p->query_map);
    memset(p, 0, sizeof *p);
}

/* ---- Forward ---- */

/* The map of queries, and which of its heads query head h takes. */
static const oracle_map *map_of_queries(const oracle_linear *p, int64_t h, int64_t *map_head)
{
    *map_head = p->has_query_map ? h : kv_head(p, h);
    return p->has_query_map ? &p->query_map : &p->key_map;
}

void oracle_linear_query_features(const oracle_linear *p, int64_t b, int64_t h, int64_t i, double *features)
{
    int64_t map_head;
    const oracle_map *map = map_of_queries(p, h, &map_head);
    oracle_features(map, HEED_FEATURES_OF_QUERIES, map_head, query_row(p, b, h, i), p->channels, features);
}

int oracle_linear_joins(const oracle_linear *p, int64_t b, int64_t h, int64_t j)
{
    if (j >= oracle_key_length(p->mask, b, p->n_keys))
        return 0;
    if (!p->mask || !p->mask->visible)
        return 1;
    heed_mask flags = HEED_MASK_INIT; /* the flags alone; with one for each head Hq = Hkv */
    flags.visible = p->mask->visible;
    return oracle_visible(&flags, b, h, 0, j, 1, p->n_keys);
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* out += factor x */
static void add_row(double *out, double factor, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] += factor * x[i];
}

static int row_sees(const oracle_linear *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    return oracle_visible(p->mask, b, h, i, j, p->n_queries, p->n_keys);
}

double oracle_linear_row(const oracle_linear *p, int64_t b, int64_t h, int64_t i, double *out)
{
    const int64_t hk = kv_head(p, h), n_features = p->n_features, dv = p->value_channels;
    const int64_t head = b * p->kv_heads + hk;
    double *f = oracle_zeros(n_features), den = p->eps;
    int64_t n_seen = p->has_state && i < oracle_query_length(p->mask, b, p->n_queries);
    memset(out, 0, (size_t)dv * sizeof *out);
    oracle_linear_query_features(p, b, h, i, f);
    if (n_seen) {
        den += dot(f, p->norms + head * n_features, n_features);
        for (int64_t c = 0; c < n_features; c++)
            add_row(out, f[c], p->sums + (head * n_features + c) * dv, dv);
    }
    for (int64_t j = 0; j < p->n_keys; j++) {
        if (!row_sees(p, b, h, i, j))
            continue;
        const double a = dot(f, p->key_features + key_row(p, b, hk, j) * n_features, n_features);
        den += a;
        add_row(out, a, p->v + key_row(p, b, hk, j) * dv, dv);
        n_seen++;
    }
    free(f);
    const int empty = n_seen == 0 || fabs(den) < 0x1p-126;
    for (int64_t d = 0; d < dv; d++)
        out[d] = empty ? 0.0 : out[d] / den;
    return empty ? 0.0 : den;
}

void oracle_linear_forward(const oracle_linear *p, double *out)
{
    for (int64_t row = 0; row < p->batch * p->q_heads * p->n_queries; row++) {
        const int64_t i = row % p->n_queries, h = row / p->n_queries % p->q_heads;
        oracle_linear_row(p, row / p->n_queries / p->q_heads, h, i, out + row * p->value_channels);
    }
}

void oracle_linear_state(const oracle_linear *p, double *sums, double *norms)
{
    const int64_t n_features = p->n_features, dv = p->value_channels, heads = p->batch * p->kv_heads;
    memcpy(sums, p->sums, (size_t)(heads * n_features * dv) * sizeof *sums);
    memcpy(norms, p->norms, (size_t)(heads * n_features) * sizeof *norms);
    for (int64_t row = 0; row < heads * p->n_keys; row++) {
        const int64_t head = row / p->n_keys;
        if (!oracle_linear_joins(p, head / p->kv_heads, head % p->kv_heads, row % p->n_keys))
            continue;
        const double *g = p->key_features + row * n_features;
        add_row(norms + head * n_features, 1.0, g, n_features);
        for (int64_t c = 0; c < n_features; c++)
            add_row(sums + (head * n_features + c) * dv, g[c], p->v + row * dv, dv);
    }
}

/* ---- Backward ---- */

/* Row (b, h, i): with num = den out, d num = dout / den and d den = - dout.out / den, hence for each key the gradient of
 * phi(q_i).phi(k_j) is v_j.d num + d den. Adds to the gradients of v, of the state and of phi(k), and writes that of
 * phi(q_i). Returns 0 where the row is 0 whatever its inputs are. */
static int row_backward(const oracle_linear *p, int64_t b, int64_t h, int64_t i, const double *dout, double *df,
                        double *dkey_features, oracle_linear_gradients *g)
{
    const int64_t hk = kv_head(p, h), n_features = p->n_features, dv = p->value_channels;
    const int64_t head = b * p->kv_heads + hk;
    double *out = oracle_zeros(dv), *dnum = oracle_zeros(dv), *f = oracle_zeros(n_features);
    const double den = oracle_linear_row(p, b, h, i, out);
    if (den != 0.0) {
        const double dden = -dot(dout, out, dv) / den;
        add_row(dnum, 1.0 / den, dout, dv);
        oracle_linear_query_features(p, b, h, i, f);
        for (int64_t c = 0; p->has_state && c < n_features; c++) {
            const int64_t at = head * n_features + c;
            df[c] += dot(p->sums + at * dv, dnum, dv) + dden * p->norms[at];
            add_row(g->sums + at * dv, f[c], dnum, dv);
            g->norms[at] += dden * f[c];
        }
        for (int64_t j = 0; j < p->n_keys; j++) {
            if (!row_sees(p, b, h, i, j))
                continue;
            const int64_t row = key_row(p, b, hk, j);
            const double *features = p->key_features + row * n_features;
            const double da = dot(p->v + row * dv, dnum, dv) + dden;
            add_row(df, da, features, n_features);
            add_row(dkey_features + row * n_features, da, f, n_features);
            add_row(g->v + row * dv, dot(f, features, n_features), dnum, dv);
        }
    }
    free(out), free(dnum), free(f);
    return den != 0.0;
}

/* The state after is the state before and phi(k_j)^T v_j of the keys that join. */
static void state_backward(const oracle_linear *p, const double *dsums, const double *dnorms, double *dkey_features,
                           oracle_linear_gradients *g)
{
    const int64_t n_features = p->n_features, dv = p->value_channels, heads = p->batch * p->kv_heads;
    for (int64_t n = 0; dsums && n < heads * n_features * dv; n++)
        g->sums[n] += dsums[n];
    for (int64_t n = 0; dnorms && n < heads * n_features; n++)
        g->norms[n] += dnorms[n];
    for (int64_t row = 0; row < heads * p->n_keys; row++) {
        const int64_t head = row / p->n_keys;
        if (!oracle_linear_joins(p, head / p->kv_heads, head % p->kv_heads, row % p->n_keys))
            continue;
        for (int64_t c = 0; c < n_features; c++) {
            const double *of_sums = dsums ? dsums + (head * n_features + c) * dv : NULL;
            double *dfeature = &dkey_features[row * n_features + c];
            *dfeature += dnorms ? dnorms[head * n_features + c] : 0.0;
            if (of_sums) {
                *dfeature += dot(of_sums, p->v + row * dv, dv);
                add_row(g->v + row * dv, p->key_features[row * n_features + c], of_sums, dv);
            }
        }
    }
}

static int is_zero(const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (x[i] != 0.0)
            return 0;
    }
    return 1;
}

void oracle_linear_backward(const oracle_linear *p, const double *dout, const double *dsums, const double *dnorms,
                            oracle_linear_gradients *g)
{
    const int64_t n_features = p->n_features, dv = p->value_channels, key_rows = p->batch * p->kv_heads * p->n_keys;
    double *dkey_features = oracle_zeros(key_rows * n_features), *df = oracle_zeros(n_features);
    g->q = oracle_zeros(p->batch * p->q_heads * p->n_queries * p->channels);
    g->k = oracle_zeros(key_rows * p->channels);
    g->v = oracle_zeros(key_rows * dv);
    g->sums = oracle_zeros(p->batch * p->kv_heads * n_features * dv);
    g->norms = oracle_zeros(p->batch * p->kv_heads * n_features);
    g->key_map = oracle_map_zeros(&p->key_map);
    g->query_map = oracle_map_zeros(&p->query_map);
    for (int64_t row = 0; row < p->batch * p->q_heads * p->n_queries; row++) {
        const int64_t i = row % p->n_queries, h = row / p->n_queries % p->q_heads, b = row / p->n_queries / p->q_heads;
        int64_t map_head;
        const oracle_map *map = map_of_queries(p, h, &map_head);
        memset(df, 0, (size_t)n_features * sizeof *df);
        if (row_backward(p, b, h, i, dout + row * dv, df, dkey_features, g))
            oracle_features_backward(map, HEED_FEATURES_OF_QUERIES, map_head, p->q + row * p->channels, p->channels, df,
                                     g->q + row * p->channels, p->has_query_map ? &g->query_map : &g->key_map);
    }
    if (dsums || dnorms)
        state_backward(p, dsums, dnorms, dkey_features, g);
    for (int64_t row = 0; row < key_rows; row++) { /* of keys that nobody sees not even a NaN is looked at */
        if (!is_zero(dkey_features + row * n_features, n_features))
            oracle_features_backward(&p->key_map, HEED_FEATURES_OF_KEYS, row / p->n_keys % p->kv_heads,
                                     p->k + row * p->channels, p->channels, dkey_features + row * n_features,
                                     g->k + row * p->channels, &g->key_map);
    }
    free(dkey_features), free(df);
}

void oracle_linear_gradients_free(oracle_linear_gradients *g)
{
    free(g->q), free(g->k), free(g->v), free(g->sums), free(g->norms);
    oracle_map_free(&g->key_map);
    oracle_map_free(&g->query_map);
    memset(g, 0, sizeof *g);
}
