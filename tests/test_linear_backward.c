/* Gradients of linear attention against the float64 oracle: every kind of map, mask, state; parts of a sequence, sums into
 * gradients that are there, outputs that are not wanted; and what must hold to the bit. */
#include "linear_check.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* A problem with what goes into the backward call and what comes out of it. */
typedef struct gradients {
    linear_problem *p;
    heed_tensor dout, dq, dk, dv;
    test_map dkey_map, dquery_map;
    int has_dstate_out;
    heed_linear_state dstate_out, dstate_in;
    int64_t n_out[LINEAR_MAX_BATCH], n_in[LINEAR_MAX_BATCH];
} gradients;

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

static void open_gradients(gradients *g, const linear_case *c, int has_dstate_out)
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

static void close_gradients(gradients *g)
{
    map_destroy(&g->dkey_map);
    map_destroy(&g->dquery_map);
    linear_destroy(g->p);
}

static void fill_gradients(gradients *g, float value)
{
    const heed_tensor *all[] = {&g->dq, &g->dk, &g->dv, &g->dstate_in.sums, &g->dstate_in.norms};
    for (size_t n = 0; n < N_OF(all); n++)
        tensor_fill(all[n], value);
    for (int n = 0; n < g->dkey_map.n_tensors; n++)
        tensor_fill(&g->dkey_map.tensors[n], value);
    for (int n = 0; n < g->dquery_map.n_tensors; n++)
        tensor_fill(&g->dquery_map.tensors[n], value);
}

/* Everything that the problem has a gradient of. */
static void run(gradients *g, heed_context *context)
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

static int64_t count_elements(const heed_tensor *x) { return x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3]; }

static float value_at(const heed_tensor *x, int64_t n)
{
    const int64_t row = n / x->shape[3], i = row % x->shape[2], h = row / x->shape[2] % x->shape[1];
    return *tensor_at(x, row / x->shape[2] / x->shape[1], h, i, n % x->shape[3]);
}

static void read_numbers(const heed_tensor *x, double *numbers)
{
    for (int64_t n = 0; n < count_elements(x); n++)
        numbers[n] = (double)value_at(x, n);
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

static void find_sizes(const oracle_linear *o, const double *dout, const double *dsums, const double *dnorms,
                       oracle_linear_gradients *sizes)
{
    const int64_t n_keys = o->batch * o->kv_heads * o->n_keys, n_norms = o->batch * o->kv_heads * o->n_features;
    const int64_t n_queries = o->batch * o->q_heads * o->n_queries;
    size_sums x = {o, oracle_zeros(n_keys * o->n_features), sizes, random_start(11)};
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

static void find_oracle(const gradients *g, oracle_linear_gradients *want, oracle_linear_gradients *sizes)
{
    const linear_problem *p = g->p;
    oracle_linear o;
    double *dout = oracle_zeros(count_elements(&g->dout)), *dsums = oracle_zeros(count_elements(&g->dstate_out.sums));
    double *dnorms = oracle_zeros(count_elements(&g->dstate_out.norms));
    read_numbers(&g->dout, dout);
    read_numbers(&g->dstate_out.sums, dsums);
    read_numbers(&g->dstate_out.norms, dnorms);
    oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, linear_state(p));
    oracle_linear_backward(&o, dout, g->has_dstate_out ? dsums : NULL, g->has_dstate_out ? dnorms : NULL, want);
    find_sizes(&o, dout, g->has_dstate_out ? dsums : NULL, g->has_dstate_out ? dnorms : NULL, sizes);
    oracle_linear_close(&o);
    free(dout), free(dsums), free(dnorms);
}

/* Each row against the largest size in it, or a tenth of the largest of all, as one sign at random may have made it
 * small. Where all of a row has the size 0, it must be exactly 0. */
static void expect_gradient(const linear_problem *p, const heed_tensor *got, const double *want, const double *sizes,
                            int part, const char *name)
{
    const double tolerance = gradient_tolerance(p);
    const int64_t n = count_elements(got), width = got->shape[3];
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++)
        largest = fabs(sizes[i]) > largest ? fabs(sizes[i]) : largest;
    for (int64_t row = 0; row < n / width; row++) {
        double scale = 0.0;
        for (int64_t c = 0; c < width; c++)
            scale = fmax(scale, fmax(fabs(sizes[row * width + c]), fabs(want[row * width + c])));
        scale = scale > 0.0 ? fmax(scale, 0.1 * largest) : 0.0;
        for (int64_t c = 0; c < width; c++) {
            const double value = (double)value_at(got, row * width + c), error = fabs(value - want[row * width + c]);
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

static void expect_oracle(gradients *g)
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

static void check(const linear_case *c, int has_dstate_out)
{
    gradients g;
    open_gradients(&g, c, has_dstate_out);
    fill_gradients(&g, NAN);
    run(&g, fixture_context);
    expect_oracle(&g);
    close_gradients(&g);
}

static void sizes_maps_masks_and_states(void **state)
{
    (void)state;
    static const int64_t tokens[] = {1, 2, 5, 17, 47, 48, 49, 64, 95, 96, 97, 130};
    static const int64_t widths[] = {1, 3, 7, 8, 15, 17, 32, 63, 64, 65, 100};
    static const int64_t heads[][2] = {{1, 1}, {2, 1}, {3, 1}, {8, 1}, {2, 2}, {4, 2}, {3, 3}};
    for (int64_t n = 0; n < 390; n++) {
        random_stream random = random_start((uint64_t)(60000 + n));
        linear_case c = {.stream = (uint64_t)(10 * n + 1)};
        const int64_t *h = heads[random_below(&random, N_OF(heads))];
        const int64_t n_tokens = n % 3 == 0 ? 6 : (int64_t)N_OF(tokens),
                      n_widths = n % 3 == 0 ? (int64_t)N_OF(widths) : 6;
        c.batch = 1 + random_below(&random, 2);
        c.q_heads = h[0];
        c.kv_heads = h[1];
        c.n_queries = tokens[random_below(&random, n_tokens)];
        c.n_keys = random_below(&random, 3) ? tokens[random_below(&random, n_tokens)] : c.n_queries;
        c.channels = widths[random_below(&random, n_widths)];
        c.value_channels = random_below(&random, 3) ? widths[random_below(&random, n_widths)] : c.channels;
        c.n_features = random_below(&random, 2) ? widths[random_below(&random, n_widths)] : 0;
        c.map = (map_kind)(n % N_MAP_KINDS);
        c.has_query_map = random_below(&random, 3) == 0;
        c.one_head_for_all = random_below(&random, 3) == 0;
        c.causal = (int)random_below(&random, 2);
        c.hiding = (linear_hiding)random_below(&random, N_HIDINGS);
        c.eps = random_below(&random, 2) ? 0.0f : 1e-6f;
        c.map_eps = 0.1f;
        c.has_state = random_below(&random, 2) == 0;
        c.layout = (linear_layout)random_below(&random, N_LINEAR_LAYOUTS);
        if (runner_takes(n))
            check(&c, n % 4 == 1);
    }
}

static void long_sequences(void **state)
{
    (void)state;
    static const map_kind kinds[] = {MAP_DEFAULT, MAP_SOFTPLUS, MAP_AOGLU3, MAP_FAVOR};
    for (int n = 0; n < 8; n++) {
        if (runner_takes(n))
            check(&(linear_case){.batch = 1,
                                 .q_heads = 2,
                                 .kv_heads = 1,
                                 .n_queries = n < 4 ? 300 : 600,
                                 .n_keys = n % 2 ? 600 : 300,
                                 .channels = 32,
                                 .value_channels = 32,
                                 .map = kinds[n % 4],
                                 .causal = n % 3 != 0,
                                 .eps = 1e-6f,
                                 .has_state = n % 4 == 1,
                                 .stream = (uint64_t)n},
                  0);
    }
}

static void empty_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{0, 2, 3, 4}, {2, 0, 3, 4}, {2, 2, 0, 4}, {2, 2, 3, 0}};
    for (int n = 0; n < 8; n++) {
        gradients g;
        const int64_t *s = sizes[n % 4];
        open_gradients(&g,
                       &(linear_case){.batch = s[0],
                                      .q_heads = s[1],
                                      .kv_heads = s[1],
                                      .n_queries = s[2],
                                      .n_keys = s[3],
                                      .channels = 5,
                                      .value_channels = 3,
                                      .map = MAP_SOFTPLUS,
                                      .one_head_for_all = 1,
                                      .has_state = 1},
                       n / 4);
        fill_gradients(&g, NAN);
        run(&g, fixture_context);
        if (s[1] == 0) /* the oracle divides heads; nothing reaches the weights */
            assert_true(*tensor_at(&g.dkey_map.tensors[0], 0, 0, 4, 4) == 0.0f);
        else
            expect_oracle(&g);
        close_gradients(&g);
    }
}

/* Rows and keys that nothing reaches have gradients of exactly 0, whatever they hold, and spoil nothing. */
static void hidden_poison_has_no_effect(void **state)
{
    (void)state;
    static const map_kind kinds[] = {MAP_DEFAULT, MAP_SOFTPLUS, MAP_AOGLU3, MAP_FAVOR, MAP_IDENTITY, MAP_RELU};
    static const linear_hiding hiding[] = {HIDE_LENGTHS, HIDE_FLAGS, HIDE_FLAGS_OF_HEADS, HIDE_MUCH};
    for (int n = 0; n < 6 * 4 * 2; n++) {
        if (!runner_takes(n))
            continue;
        gradients g;
        open_gradients(&g,
                       &(linear_case){.batch = 2,
                                      .q_heads = 2,
                                      .kv_heads = 2,
                                      .n_queries = 70,
                                      .n_keys = 75,
                                      .channels = 11,
                                      .value_channels = 16,
                                      .map = kinds[n % 6],
                                      .causal = n / 24,
                                      .hiding = hiding[n / 6 % 4],
                                      .map_eps = 0.1f,
                                      .has_state = n % 5 == 0,
                                      .stream = (uint64_t)(n + 100)},
                       n % 3 == 0);
        linear_problem *p = g.p;
        oracle_linear o;
        oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, linear_state(p));
        for (int64_t row = 0; row < 4 * 75; row++) {
            const int64_t b = row / 150, h = row / 75 % 2, j = row % 75;
            const heed_tensor *rows[] = {&p->k, &p->v, &p->q, &g.dout};
            const int is_hidden = !oracle_linear_joins(&o, b, h, j);
            const int is_beyond = j < 70 && j >= oracle_query_length(&p->mask, b, 70);
            for (int m = 0; m < 4; m++) {
                for (int64_t c = 0; (m < 2 ? is_hidden : is_beyond) && c < rows[m]->shape[3]; c++)
                    *tensor_at(rows[m], b, h, j, c) = n % 2 ? INFINITY : NAN;
            }
        }
        oracle_linear_close(&o);
        fill_gradients(&g, NAN);
        run(&g, fixture_context);
        expect_oracle(&g);
        close_gradients(&g);
    }
}

/* Denominators of 0 with eps 0: rows that are constant. */
static void features_of_zero(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        gradients g;
        open_gradients(&g,
                       &(linear_case){.batch = 1,
                                      .q_heads = 2,
                                      .kv_heads = 1,
                                      .n_queries = 60,
                                      .n_keys = 60,
                                      .channels = 12,
                                      .value_channels = 7,
                                      .map = n % 2 ? MAP_RELU : MAP_DEFAULT,
                                      .causal = n / 2 % 2,
                                      .eps = n / 4 ? 1e-6f : 0.0f,
                                      .stream = (uint64_t)n},
                       0);
        for (int64_t i = 0; i < 60; i++) {
            for (int64_t c = 0; c < 12; c++) {
                if (i % 3 == 0)
                    *tensor_at(&g.p->q, 0, 1, i, c) = -1e4f;
                if (i < 9 || i % 2)
                    *tensor_at(&g.p->k, 0, 0, i, c) = -1e4f;
            }
        }
        fill_gradients(&g, NAN);
        run(&g, fixture_context);
        expect_oracle(&g);
        close_gradients(&g);
    }
}

/* ---- Parts ---- */

static heed_tensor tokens_of(const heed_tensor *x, int64_t first, int64_t count)
{
    return tensor_slice(x, 2, first, count);
}

/* A sequence cut into parts has the gradients of the whole: forwards for the states, then backwards through the parts. */
static void parts_are_one_call(void **state)
{
    (void)state;
    enum { TOKENS = 90, MOST = 4 };
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)(n + 40));
        gradients g;
        open_gradients(&g,
                       &(linear_case){.batch = 2,
                                      .q_heads = 4,
                                      .kv_heads = 2,
                                      .n_queries = TOKENS,
                                      .n_keys = TOKENS,
                                      .channels = 9,
                                      .value_channels = 12,
                                      .n_features = 14,
                                      .map = (map_kind)(n % N_MAP_KINDS),
                                      .has_query_map = n % 3 == 0,
                                      .causal = 1,
                                      .map_eps = 0.1f,
                                      .has_state = 1,
                                      .stream = (uint64_t)(n + 40)},
                       n % 2);
        linear_problem *p = g.p;
        const int64_t cuts[MOST + 1] = {0, random_below(&random, 30), 30 + random_below(&random, 30),
                                        60 + random_below(&random, 31), TOKENS};
        int64_t n_tokens[MOST][LINEAR_MAX_BATCH], n_gradient[2][LINEAR_MAX_BATCH];
        heed_linear_state before[MOST], gradient[2];
        for (int part = 0; part < MOST; part++) {
            before[part] = linear_new_state(p, 0, n_tokens[part]);
            linear_copy_state(&before[part], &p->state);
            const int64_t count = cuts[part + 1] - cuts[part];
            const heed_tensor q = tokens_of(&p->q, cuts[part], count), k = tokens_of(&p->k, cuts[part], count);
            const heed_tensor v = tokens_of(&p->v, cuts[part], count), out = tokens_of(&p->out, cuts[part], count);
            assert_int_equal(heed_linear_forward(fixture_context, &q, &k, &v, &p->options, &p->state, &out), HEED_OK);
        }
        gradient[0] = linear_new_state(p, 0, n_gradient[0]);
        gradient[1] = linear_new_state(p, 0, n_gradient[1]);
        fill_gradients(&g, NAN);
        for (int part = MOST - 1; part >= 0; part--) {
            const int64_t first = cuts[part], count = cuts[part + 1] - first;
            const heed_tensor q = tokens_of(&p->q, first, count), k = tokens_of(&p->k, first, count);
            const heed_tensor v = tokens_of(&p->v, first, count), dout = tokens_of(&g.dout, first, count);
            const heed_tensor dq = tokens_of(&g.dq, first, count), dk = tokens_of(&g.dk, first, count);
            const heed_tensor dv = tokens_of(&g.dv, first, count);
            const int is_last = part == MOST - 1;
            heed_linear_options options = p->options;
            test_map parts[2];
            map_create_like(&parts[0], &p->key_map);
            map_create_like(&parts[1], &p->query_map);
            const heed_linear_state *after = is_last ? (g.has_dstate_out ? &g.dstate_out : NULL) : &gradient[part % 2];
            const heed_status status = heed_linear_backward(
                fixture_context, &q, &k, &v, &options, &dout, &before[part], after, &dq, &dk, &dv,
                options.features ? &parts[0].map : NULL, options.query_features ? &parts[1].map : NULL,
                part == 0 ? &g.dstate_in : &gradient[(part + 1) % 2]);
            if (status != HEED_OK)
                fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
            test_map *sums[2] = {&g.dkey_map, &g.dquery_map};
            for (int m = 0; m < 2; m++) {
                for (int t = 0; t < parts[m].n_tensors; t++) {
                    for (int64_t i = 0; i < count_elements(&parts[m].tensors[t]); i++) {
                        const int64_t *shape = parts[m].tensors[t].shape, row = i / shape[3];
                        float *sum = tensor_at(&sums[m]->tensors[t], 0, row / shape[2], row % shape[2], i % shape[3]);
                        *sum = value_at(&parts[m].tensors[t], i) + (is_last ? 0.0f : *sum);
                    }
                }
                map_destroy(&parts[m]);
            }
        }
        linear_copy_state(&p->state, &before[0]);
        expect_oracle(&g);
        close_gradients(&g);
    }
}

/* ---- Outputs ---- */

static void accumulate_adds(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        gradients g;
        open_gradients(&g,
                       &(linear_case){.batch = 2,
                                      .q_heads = 4,
                                      .kv_heads = 2,
                                      .n_queries = 60,
                                      .n_keys = 70,
                                      .channels = 13,
                                      .value_channels = 10,
                                      .map = (map_kind)n,
                                      .has_query_map = n % 2,
                                      .causal = n % 3 != 0,
                                      .hiding = HIDE_LENGTHS,
                                      .map_eps = 0.1f,
                                      .has_state = 1,
                                      .stream = (uint64_t)(n + 60)},
                       1);
        heed_tensor *all[5 + 2 * MAP_MAX_TENSORS] = {&g.dq, &g.dk, &g.dv, &g.dstate_in.sums, &g.dstate_in.norms};
        int n_all = 5;
        for (int t = 0; t < g.dkey_map.n_tensors; t++)
            all[n_all++] = &g.dkey_map.tensors[t];
        for (int t = 0; t < g.dquery_map.n_tensors && g.p->options.query_features; t++)
            all[n_all++] = &g.dquery_map.tensors[t];
        double *plain[5 + 2 * MAP_MAX_TENSORS];
        fill_gradients(&g, NAN);
        run(&g, fixture_context);
        for (int m = 0; m < n_all; m++) {
            plain[m] = oracle_zeros(count_elements(all[m]));
            read_numbers(all[m], plain[m]);
        }
        fill_gradients(&g, 3.0f);
        g.p->options.accumulate = 1;
        run(&g, fixture_context);
        for (int m = 0; m < n_all; m++) {
            /* The sum over batch and heads may be taken with the 3 in it: a few roundings of numbers of 4 at most, or of
             * the gradient's own size. */
            double scale = 4.0;
            for (int64_t i = 0; i < count_elements(all[m]); i++)
                scale = fabs(plain[m][i]) > scale ? fabs(plain[m][i]) : scale;
            for (int64_t i = 0; i < count_elements(all[m]); i++) {
                const double got = (double)value_at(all[m], i);
                if (!(fabs(got - (plain[m][i] + 3.0)) <= 64.0 * 0x1p-24 * scale))
                    fail_msg("%s: gradient %d, number %d: %.9g, not 3 more than %.9g", linear_describe(g.p), m, (int)i,
                             got, plain[m][i]);
            }
            free(plain[m]);
        }
        close_gradients(&g);
    }
}

static void expect_same_map(const test_map *got, const test_map *want, const char *name)
{
    for (int t = 0; t < got->n_tensors; t++)
        linear_expect_bits(&got->tensors[t], &want->tensors[t], name);
}

static void expect_same_gradients(const gradients *got, const gradients *want, const char *name)
{
    linear_expect_bits(&got->dq, &want->dq, name);
    linear_expect_bits(&got->dk, &want->dk, name);
    linear_expect_bits(&got->dv, &want->dv, name);
    if (got->p->options.features)
        expect_same_map(&got->dkey_map, &want->dkey_map, name);
    if (got->p->options.query_features)
        expect_same_map(&got->dquery_map, &want->dquery_map, name);
    if (got->p->c.has_state) {
        linear_expect_bits(&got->dstate_in.sums, &want->dstate_in.sums, name);
        linear_expect_bits(&got->dstate_in.norms, &want->dstate_in.norms, name);
    }
}

static linear_case full_case(int n)
{
    static const linear_hiding hiding[] = {HIDE_NOTHING, HIDE_LENGTHS, HIDE_POSITIONS, HIDE_FLAGS, HIDE_WINDOW};
    return (linear_case){.batch = 3,
                         .q_heads = 4,
                         .kv_heads = 2,
                         .n_queries = 110,
                         .n_keys = 120,
                         .channels = 21,
                         .value_channels = 35,
                         .n_features = 40,
                         .map = (map_kind)(n % N_MAP_KINDS),
                         .has_query_map = n % 3 == 1,
                         .one_head_for_all = n % 4 == 3,
                         .causal = n / N_MAP_KINDS % 2,
                         .hiding = hiding[n % 5],
                         .map_eps = 0.1f,
                         .has_state = n % 2,
                         .stream = (uint64_t)(n + 3000)};
}

/* Each output alone, the others NULL: the bits that it has among all of them. */
static void unwanted_outputs_are_skipped(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        c.has_state = 1;
        gradients all, one;
        open_gradients(&all, &c, n % 2);
        open_gradients(&one, &c, n % 2);
        fill_gradients(&all, NAN);
        run(&all, fixture_context);
        fill_gradients(&one, NAN);
        linear_problem *p = one.p;
        for (int m = 0; m < 7; m++) {
            heed_feature_map some = one.dkey_map.map;
            heed_feature_layer layers[ORACLE_MAX_LAYERS];
            memcpy(layers, one.dkey_map.layers, sizeof layers);
            some.layers = some.n_layers > 0 ? layers : NULL;
            for (int64_t l = 0; m == 6 && l < some.n_layers; l++) /* a map of which only some matrices are wanted */
                layers[l].wg = layers[l].b = NULL;
            if ((m == 3 || m == 6) && !p->options.features)
                continue;
            if (m == 4 && !p->options.query_features)
                continue;
            for (int t = 0; m == 6 && t < one.dkey_map.n_tensors; t++)
                tensor_fill(&one.dkey_map.tensors[t], NAN);
            const heed_status status =
                heed_linear_backward(fixture_context, &p->q, &p->k, &p->v, &p->options, &one.dout, &p->state,
                                     one.has_dstate_out ? &one.dstate_out : NULL, m == 0 ? &one.dq : NULL,
                                     m == 1 ? &one.dk : NULL, m == 2 ? &one.dv : NULL, m == 3 || m == 6 ? &some : NULL,
                                     m == 4 ? &one.dquery_map.map : NULL, m == 5 ? &one.dstate_in : NULL);
            if (status != HEED_OK)
                fail_msg("%s: output %d alone: %s: %s", linear_describe(p), m, heed_status_text(status),
                         heed_context_message(fixture_context));
            if (m != 6)
                continue;
            for (int64_t l = 0; l < some.n_layers; l++) {
                const heed_tensor *b = one.dkey_map.layers[l].b, *wg = one.dkey_map.layers[l].wg;
                assert_true(!b || isnan(*tensor_at(b, 0, 0, 0, 0)));
                assert_true(!wg || isnan(*tensor_at(wg, 0, 0, 0, 0)));
                const heed_tensor *wf = one.dkey_map.layers[l].wf, *want = all.dkey_map.layers[l].wf;
                if (wf)
                    linear_expect_bits(wf, want, "some matrices");
                if (b)
                    tensor_copy(b, all.dkey_map.layers[l].b);
                if (wg)
                    tensor_copy(wg, all.dkey_map.layers[l].wg);
            }
        }
        expect_same_gradients(&one, &all, linear_describe(p));
        close_gradients(&all);
        close_gradients(&one);
    }
}

static void nothing_is_wanted(void **state)
{
    (void)state;
    gradients g;
    const linear_case c = full_case(4);
    open_gradients(&g, &c, 0);
    assert_int_equal(heed_linear_backward(fixture_context, &g.p->q, &g.p->k, &g.p->v, &g.p->options, &g.dout,
                                          linear_state(g.p), NULL, NULL, NULL, NULL, NULL, NULL, NULL),
                     HEED_OK);
    close_gradients(&g);
}

/* ---- Bits ---- */

static void threads_and_strides_keep_the_bits(void **state)
{
    (void)state;
    int most_workers = 0;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        gradients first;
        open_gradients(&first, &c, n % 2);
        fill_gradients(&first, NAN);
        run(&first, fixture_context);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            gradients g;
            c.layout = (linear_layout)(t % N_LINEAR_LAYOUTS);
            open_gradients(&g, &c, n % 2);
            fill_gradients(&g, NAN);
            run(&g, context);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            expect_same_gradients(&g, &first, runner_threadings[t].name);
            close_gradients(&g);
            heed_context_destroy(context);
        }
        close_gradients(&first);
    }
    assert_true(most_workers > 1);
}

/* A visible NaN of one sequence and kv head leaves the gradients of the others as they are; one in q those of the other
 * queries too. */
static void visible_nan_stays_in_its_head(void **state)
{
    (void)state;
    for (int n = 0; n < 3 * 4; n++) {
        const linear_case c = {.batch = 2,
                               .q_heads = 4,
                               .kv_heads = 2,
                               .n_queries = 70,
                               .n_keys = 70,
                               .channels = 10,
                               .value_channels = 9,
                               .map = n / 3 % 2 ? MAP_SOFTPLUS : MAP_DEFAULT,
                               .causal = n / 6,
                               .stream = (uint64_t)n};
        const int where = n % 3, spoilt_head = where == 0 ? 2 : 1;
        gradients a, b;
        open_gradients(&a, &c, 0);
        open_gradients(&b, &c, 0);
        const heed_tensor *spoilt[] = {&b.p->q, &b.p->k, &b.p->v};
        *tensor_at(spoilt[where], 1, spoilt_head, 40, 3) = NAN;
        run(&a, fixture_context);
        run(&b, fixture_context);
        const heed_tensor *got[] = {&b.dq, &b.dk, &b.dv}, *want[] = {&a.dq, &a.dk, &a.dv};
        for (int64_t row = 0; row < 3 * 2 * 4 * 70; row++) {
            const int64_t i = row % 70, h = row / 70 % 4, batch = row / 280 % 2, m = row / 560;
            if (h >= got[m]->shape[1])
                continue;
            const int in_group = batch == 1 && h * 2 / got[m]->shape[1] == 1;
            const int may_change = m == 0 && where == 0 ? in_group && h == spoilt_head && i == 40 : in_group;
            for (int64_t d = 0; d < got[m]->shape[3] && !may_change; d++) {
                const float x = *tensor_at(got[m], batch, h, i, d), y = *tensor_at(want[m], batch, h, i, d);
                if (memcmp(&x, &y, sizeof x) != 0)
                    fail_msg("NaN in %c: gradient of %s, row (%d, %d, %d): %.9g, was %.9g", "qkv"[where], part_names[m],
                             (int)batch, (int)h, (int)i, (double)x, (double)y);
            }
        }
        close_gradients(&a);
        close_gradients(&b);
    }
}

static int close_group(void **state)
{
    for (int part = 0; part < N_PARTS; part++)
        print_message("gradient of %-5s largest error %.2e of its size; at most %.2f of what is allowed\n",
                      part_names[part], largest_error[part], largest_share[part]);
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_maps_masks_and_states),
        cmocka_unit_test(long_sequences),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(hidden_poison_has_no_effect),
        cmocka_unit_test(features_of_zero),
        cmocka_unit_test(parts_are_one_call),
        cmocka_unit_test(accumulate_adds),
        cmocka_unit_test(unwanted_outputs_are_skipped),
        cmocka_unit_test(nothing_is_wanted),
        cmocka_unit_test(threads_and_strides_keep_the_bits),
        cmocka_unit_test(visible_nan_stays_in_its_head),
    };
    return cmocka_run_group_tests(tests, fixture_open, close_group);
}
