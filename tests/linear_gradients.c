#include "linear_gradients.h"

#include "support/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Rows of which a projection lies where float32 may not know its sign are drawn again: a ReLU has its corner there. */
static void leave_corners(linear_problem *p, const heed_tensor *x, const test_map *map)
{
    if (p->c.map != MAP_FAVOR_RELU)
        return;
    random_stream random = random_start(p->c.stream + 5);
    const heed_tensor *omega = &map->tensors[0];
    const int64_t ratio = map == &p->key_map ? x->shape[1] / p->c.kv_heads : 1;
    for (int64_t row = 0; row < x->shape[0] * x->shape[1] * x->shape[2]; row++) {
        const int64_t i = row % x->shape[2], h = row / x->shape[2] % x->shape[1], b = row / x->shape[2] / x->shape[1];
        double nearest = 0.0;
        for (int tries = 0; nearest < 1e-5 && tries < 100; tries++) {
            nearest = INFINITY;
            for (int64_t c = 0; c < omega->shape[3]; c++) {
                double u = 0.0;
                for (int64_t d = 0; d < x->shape[3]; d++)
                    u += oracle_value(x, b, h, i, d) * oracle_broadcast_value(omega, 0, h / ratio, d, c);
                nearest = fabs(u) < nearest ? fabs(u) : nearest;
            }
            for (int64_t d = 0; nearest < 1e-5 && d < x->shape[3]; d++)
                *tensor_at(x, b, h, i, d) = random_normal(&random);
        }
    }
}

void gradients_open(gradients *g, const linear_case *c, int has_dstate_out)
{
    random_stream random = random_start(c->stream + 9);
    memset(g, 0, sizeof *g);
    linear_problem *p = g->p = linear_create(c);
    leave_corners(p, &p->q, c->has_query_map ? &p->query_map : &p->key_map);
    leave_corners(p, &p->k, &p->key_map);
    g->dout = linear_tensor(p, HEED_FLOAT32, c->batch, c->q_heads, c->n_queries, c->value_channels, c->layout);
    tensor_fill_normal(&g->dout, &random, 1.0f);
    g->dq = linear_tensor(p, HEED_FLOAT32, c->batch, c->q_heads, c->n_queries, c->channels, c->layout);
    g->dk = linear_tensor(p, HEED_FLOAT32, c->batch, c->kv_heads, c->n_keys, c->channels, c->layout);
    g->dv = linear_tensor(p, HEED_FLOAT32, c->batch, c->kv_heads, c->n_keys, c->value_channels, c->layout);
    map_create_like(&g->dkey_map, &p->key_map);
    map_create_like(&g->dquery_map, &p->query_map);
    g->has_dstate_out = has_dstate_out;
    g->dstate_out = linear_new_state(p, 0, g->n_out);
    g->dstate_in = linear_new_state(p, 0, g->n_in);
    tensor_fill_normal(&g->dstate_out.sums, &random, 0.05f);
    tensor_fill_normal(&g->dstate_out.norms, &random, 0.05f);
}

void gradients_close(gradients *g)
{
    map_destroy(&g->dkey_map);
    map_destroy(&g->dquery_map);
    linear_destroy(g->p);
}

void gradients_fill(gradients *g, float value)
{
    const heed_tensor *all[] = {&g->dq, &g->dk, &g->dv, &g->dstate_in.sums, &g->dstate_in.norms};
    for (size_t n = 0; n < sizeof all / sizeof all[0]; n++)
        tensor_fill(all[n], value);
    for (int n = 0; n < g->dkey_map.n_tensors; n++)
        tensor_fill(&g->dkey_map.tensors[n], value);
    for (int n = 0; n < g->dquery_map.n_tensors; n++)
        tensor_fill(&g->dquery_map.tensors[n], value);
}

void gradients_run(gradients *g, heed_context *context)
{
    linear_problem *p = g->p;
    const heed_status status = heed_linear_backward(
        context, &p->q, &p->k, &p->v, &p->options, &g->dout, linear_state(p), g->has_dstate_out ? &g->dstate_out : NULL,
        &g->dq, &g->dk, &g->dv, p->options.features ? &g->dkey_map.map : NULL,
        p->options.query_features ? &g->dquery_map.map : NULL, p->c.has_state ? &g->dstate_in : NULL);
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", linear_describe(p), heed_status_text(status), heed_context_message(context));
}

/* ---- Against the oracle ---- */

/* The largest error to be expected of a gradient, as a factor of its size (below): each factor of its terms has the error
 * of a row, 1 of them, of its output, of its features, and of their derivatives. */
static double gradient_tolerance(const linear_problem *p) { return 4.0 * linear_tolerance(p); }

enum { OF_Q, OF_K, OF_V, OF_STATE, OF_MAPS, N_PARTS };
static const char *const part_names[N_PARTS] = {"q", "k", "v", "state", "maps"};
static double largest_error[N_PARTS], largest_share[N_PARTS];

int64_t tensor_count(const heed_tensor *x) { return x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3]; }

float tensor_value(const heed_tensor *x, int64_t n)
{
    const int64_t row = n / x->shape[3], i = row % x->shape[2], h = row / x->shape[2] % x->shape[1];
    return *tensor_at(x, row / x->shape[2] / x->shape[1], h, i, n % x->shape[3]);
}

void tensor_read(const heed_tensor *x, double *numbers)
{
    for (int64_t n = 0; n < tensor_count(x); n++)
        numbers[n] = (double)tensor_value(x, n);
}

/* Sizes of gradients: what they would be if the terms of the sums over keys, queries and channels did not cancel, as
 * their errors do not. Features' sizes get a sign at random on their way through the map, as their errors have. Nothing
 * reaches a number of size 0. */
typedef struct size_sums {
    const oracle_linear *o;
    double *of_key_features;
    oracle_linear_gradients *sizes;
    random_stream random;
} size_sums;

static double give_sign(size_sums *x, double size) { return random_bits(&x->random) & 1 ? size : -size; }

static double sum_sizes(const double *numbers, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs(numbers[i]);
    return sum;
}

static double weigh(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs(a[i] * b[i]);
    return sum;
}

static void add_row_sizes(size_sums *x, int64_t b, int64_t h, int64_t i, const double *dout)
{
    const oracle_linear *o = x->o;
    const int64_t dv = o->value_channels, n_features = o->n_features, ratio = o->q_heads / o->kv_heads;
    const int64_t head = b * o->kv_heads + h / ratio, row = (b * o->q_heads + h) * o->n_queries + i;
    double *out = oracle_zeros(dv), *f = oracle_zeros(n_features), *of_f = oracle_zeros(n_features);
    const double den = oracle_linear_row(o, b, h, i, out);
    if (den != 0.0) {
        const double of_den = weigh(dout, out, dv) / den;
        oracle_linear_query_features(o, b, h, i, f);
        for (int64_t c = 0; o->has_state && c < n_features; c++) {
            const int64_t at = head * n_features + c;
            of_f[c] += weigh(o->sums + at * dv, dout, dv) / den + of_den * o->norms[at];
            x->sizes->norms[at] += of_den * f[c];
            for (int64_t d = 0; d < dv; d++)
                x->sizes->sums[at * dv + d] += fabs(f[c] * dout[d]) / den;
        }
        for (int64_t j = 0; j < o->n_keys; j++) {
            if (!oracle_visible(o->mask, b, h, i, j, o->n_queries, o->n_keys))
                continue;
            const int64_t key = head * o->n_keys + j;
            const double *g = o->key_features + key * n_features;
            const double of_a = weigh(o->v + key * dv, dout, dv) / den + of_den, a = weigh(f, g, n_features);
            for (int64_t c = 0; c < n_features; c++) {
                of_f[c] += of_a * g[c];
                x->of_key_features[key * n_features + c] += of_a * f[c];
            }
            for (int64_t d = 0; d < dv; d++)
                x->sizes->v[key * dv + d] += a * fabs(dout[d]) / den;
        }
        for (int64_t c = 0; c < n_features; c++)
            of_f[c] = give_sign(x, of_f[c]);
        oracle_features_backward(o->has_query_map ? &o->query_map : &o->key_map, HEED_FEATURES_OF_QUERIES,
                                 o->has_query_map ? h : h / ratio, o->q + row * o->channels, o->channels, of_f,
                                 x->sizes->q + row * o->channels,
                                 o->has_query_map ? &x->sizes->query_map : &x->sizes->key_map);
    }
    free(out), free(f), free(of_f);
}

static void add_key_sizes(size_sums *x, int64_t key, const double *dsums, const double *dnorms)
{
    const oracle_linear *o = x->o;
    const int64_t dv = o->value_channels, n_features = o->n_features, head = key / o->n_keys;
    const int joins = oracle_linear_joins(o, head / o->kv_heads, head % o->kv_heads, key % o->n_keys);
    double *of_features = x->of_key_features + key * n_features;
    for (int64_t c = 0; dsums && joins && c < n_features; c++) {
        const int64_t at = head * n_features + c;
        of_features[c] += fabs(dnorms[at]) + weigh(dsums + at * dv, o->v + key * dv, dv);
        for (int64_t d = 0; d < dv; d++)
            x->sizes->v[key * dv + d] += o->key_features[key * n_features + c] * fabs(dsums[at * dv + d]);
    }
    if (sum_sizes(of_features, n_features) == 0.0)
        return;
    for (int64_t c = 0; c < n_features; c++)
        of_features[c] = give_sign(x, of_features[c]);
    oracle_features_backward(&o->key_map, HEED_FEATURES_OF_KEYS, head % o->kv_heads, o->k + key * o->channels,
                             o->channels, of_features, x->sizes->k + key * o->channels, &x->sizes->key_map);
}

static void find_sizes(const oracle_linear *o, uint64_t stream, const double *dout, const double *dsums,
                       const double *dnorms, oracle_linear_gradients *sizes)
{
    const int64_t n_keys = o->batch * o->kv_heads * o->n_keys, n_norms = o->batch * o->kv_heads * o->n_features;
    const int64_t n_queries = o->batch * o->q_heads * o->n_queries;
    size_sums x = {o, oracle_zeros(n_keys * o->n_features), sizes, random_start(stream)};
    sizes->q = oracle_zeros(n_queries * o->channels);
    sizes->k = oracle_zeros(n_keys * o->channels);
    sizes->v = oracle_zeros(n_keys * o->value_channels);
    sizes->sums = oracle_zeros(n_norms * o->value_channels);
    sizes->norms = oracle_zeros(n_norms);
    sizes->key_map = oracle_map_zeros(&o->key_map);
    sizes->query_map = oracle_map_zeros(&o->query_map);
    for (int64_t row = 0; row < n_queries; row++)
        add_row_sizes(&x, row / o->n_queries / o->q_heads, row / o->n_queries % o->q_heads, row % o->n_queries,
                      dout + row * o->value_channels);
    for (int64_t key = 0; key < n_keys; key++)
        add_key_sizes(&x, key, dsums, dnorms);
    for (int64_t n = 0; dsums && n < n_norms * o->value_channels; n++)
        sizes->sums[n] += fabs(dsums[n]);
    for (int64_t n = 0; dsums && n < n_norms; n++)
        sizes->norms[n] += fabs(dnorms[n]);
    free(x.of_key_features);
}

static void take_larger(double *sizes, const double *others, int64_t n)
{
    for (int64_t i = 0; sizes && i < n; i++)
        sizes[i] = fmax(fabs(sizes[i]), fabs(others[i]));
}

static void take_larger_of_map(oracle_map *sizes, const oracle_map *others)
{
    for (int64_t l = 0; l < sizes->n_layers; l++) {
        for (int n = 0; n < ORACLE_N_MATRICES; n++) {
            const oracle_matrix *w = &sizes->layers[l].w[n];
            take_larger(w->values, others->layers[l].w[n].values, w->heads * w->in * w->out);
        }
    }
}

/* The largest of three, as signs at random may cancel. */
static void find_larger_sizes(const oracle_linear *o, const double *dout, const double *dsums, const double *dnorms,
                              oracle_linear_gradients *sizes)
{
    find_sizes(o, 1, dout, dsums, dnorms, sizes);
    for (uint64_t stream = 2; stream <= 3; stream++) {
        oracle_linear_gradients others;
        find_sizes(o, stream, dout, dsums, dnorms, &others);
        take_larger(sizes->q, others.q, o->batch * o->q_heads * o->n_queries * o->channels);
        take_larger(sizes->k, others.k, o->batch * o->kv_heads * o->n_keys * o->channels);
        take_larger_of_map(&sizes->key_map, &others.key_map);
        take_larger_of_map(&sizes->query_map, &others.query_map);
        oracle_linear_gradients_free(&others);
    }
}

static void find_oracle(const gradients *g, oracle_linear_gradients *want, oracle_linear_gradients *sizes)
{
    const linear_problem *p = g->p;
    oracle_linear o;
    double *dout = oracle_zeros(tensor_count(&g->dout)), *dsums = oracle_zeros(tensor_count(&g->dstate_out.sums));
    double *dnorms = oracle_zeros(tensor_count(&g->dstate_out.norms));
    tensor_read(&g->dout, dout);
    tensor_read(&g->dstate_out.sums, dsums);
    tensor_read(&g->dstate_out.norms, dnorms);
    oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, linear_state(p));
    oracle_linear_backward(&o, dout, g->has_dstate_out ? dsums : NULL, g->has_dstate_out ? dnorms : NULL, want);
    find_larger_sizes(&o, dout, g->has_dstate_out ? dsums : NULL, g->has_dstate_out ? dnorms : NULL, sizes);
    oracle_linear_close(&o);
    free(dout), free(dsums), free(dnorms);
}

/* Each row against the largest size in it, or a tenth of the largest of all, as one sign at random may have made it
 * small. Where all of a row has the size 0, it must be exactly 0. */
static void expect_gradient(const linear_problem *p, const heed_tensor *got, const double *want, const double *sizes,
                            int part, const char *name)
{
    const double tolerance = gradient_tolerance(p);
    const int64_t n = tensor_count(got), width = got->shape[3];
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++)
        largest = fabs(sizes[i]) > largest ? fabs(sizes[i]) : largest;
    for (int64_t row = 0; row < n / width; row++) {
        double scale = 0.0;
        for (int64_t c = 0; c < width; c++)
            scale = fmax(scale, fmax(fabs(sizes[row * width + c]), fabs(want[row * width + c])));
        scale = scale > 0.0 ? fmax(scale, 0.1 * largest) : 0.0;
        for (int64_t c = 0; c < width; c++) {
            const double value = (double)tensor_value(got, row * width + c),
                         error = fabs(value - want[row * width + c]);
            if (!(error <= tolerance * scale))
                fail_msg("%s: gradient of %s, %s: row %d, column %d: %.9g, not %.9g; error %.3g x %.3g, allowed %.3g",
                         linear_describe(p), part_names[part], name, (int)row, (int)c, value, want[row * width + c],
                         error / scale, scale, tolerance);
            if (scale > 0.0) {
                largest_error[part] = fmax(largest_error[part], error / scale);
                largest_share[part] = fmax(largest_share[part], error / scale / tolerance);
            }
        }
    }
}

static void expect_map(const linear_problem *p, const test_map *got, const oracle_map *want, const oracle_map *sizes)
{
    static const char *const names[ORACLE_N_MATRICES] = {"wf", "wg", "a", "b", "omega"};
    for (int64_t l = 0; l < got->map.n_layers; l++) {
        const heed_feature_layer *layer = &got->layers[l];
        const heed_tensor *parts[ORACLE_N_MATRICES] = {layer->wf, layer->wg, layer->a, layer->b, layer->omega};
        for (int n = 0; n < ORACLE_N_MATRICES; n++) {
            if (parts[n])
                expect_gradient(p, parts[n], want->layers[l].w[n].values, sizes->layers[l].w[n].values, OF_MAPS,
                                names[n]);
        }
    }
}

void gradients_expect_oracle(gradients *g)
{
    const linear_problem *p = g->p;
    oracle_linear_gradients want, sizes;
    find_oracle(g, &want, &sizes);
    expect_gradient(p, &g->dq, want.q, sizes.q, OF_Q, "q");
    expect_gradient(p, &g->dk, want.k, sizes.k, OF_K, "k");
    expect_gradient(p, &g->dv, want.v, sizes.v, OF_V, "v");
    if (p->c.has_state) {
        expect_gradient(p, &g->dstate_in.sums, want.sums, sizes.sums, OF_STATE, "sums");
        expect_gradient(p, &g->dstate_in.norms, want.norms, sizes.norms, OF_STATE, "norms");
    }
    if (p->options.features)
        expect_map(p, &g->dkey_map, &want.key_map, &sizes.key_map);
    if (p->options.query_features)
        expect_map(p, &g->dquery_map, &want.query_map, &sizes.query_map);
    oracle_linear_gradients_free(&want);
    oracle_linear_gradients_free(&sizes);
}

void gradients_print_errors(void)
{
    for (int part = 0; part < N_PARTS; part++)
        print_message("gradient of %-5s largest error %.2e of its size; at most %.2f of what is allowed\n",
                      part_names[part], largest_error[part], largest_share[part]);
}
