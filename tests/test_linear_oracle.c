/* The oracle of linear attention by itself: its gradients against central differences of its forward sums, and its
 * features and rows against values that are known. */
#include "linear_problem.h"
#include "support/seed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/runner.h"

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Gradients ---- */

/* A loss that looks at everything a call gives: sum out dout + sum S dS + sum z dz. */
typedef struct loss {
    oracle_linear problem;
    int64_t n_out, n_sums, n_norms;
    double *dout, *dsums, *dnorms; /* dsums and dnorms NULL: it does not look at the state */
} loss;

static double *draw(int64_t n, random_stream *random)
{
    double *numbers = oracle_zeros(n);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (double)random_normal(random);
    return numbers;
}

static double weigh(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; b && i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static double find_loss(loss *l)
{
    double *out = oracle_zeros(l->n_out), *sums = oracle_zeros(l->n_sums), *norms = oracle_zeros(l->n_norms);
    oracle_linear_refresh(&l->problem);
    oracle_linear_forward(&l->problem, out);
    oracle_linear_state(&l->problem, sums, norms);
    const double value =
        weigh(out, l->dout, l->n_out) + weigh(sums, l->dsums, l->n_sums) + weigh(norms, l->dnorms, l->n_norms);
    free(out), free(sums), free(norms);
    return value;
}

/* Every number of `values`, moved by h either way. */
static void expect_differences(loss *l, double *values, const double *gradient, int64_t n, const char *part,
                               const linear_problem *p)
{
    const double h = 1e-6;
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++)
        largest = fabs(gradient[i]) > largest ? fabs(gradient[i]) : largest;
    for (int64_t i = 0; i < n; i++) {
        const double value = values[i];
        values[i] = value + h;
        const double above = find_loss(l);
        values[i] = value - h;
        const double below = find_loss(l);
        values[i] = value;
        const double difference = (above - below) / (2.0 * h), error = fabs(difference - gradient[i]);
        if (!(error <= 1e-7 + 1e-6 * largest))
            fail_msg("%s: gradient of %s, number %d: %.12g, by differences %.12g", linear_describe(p), part, (int)i,
                     gradient[i], difference);
    }
}

static void expect_map_differences(loss *l, oracle_map *map, const oracle_map *gradient, const linear_problem *p)
{
    static const char *const names[ORACLE_N_MATRICES] = {"wf", "wg", "a", "b", "omega"};
    for (int64_t layer = 0; layer < map->n_layers; layer++) {
        for (int n = 0; n < ORACLE_N_MATRICES; n++) {
            const oracle_matrix *w = &map->layers[layer].w[n];
            if (w->values)
                expect_differences(l, w->values, gradient->layers[layer].w[n].values, w->heads * w->in * w->out,
                                   names[n], p);
        }
    }
}

/* Where a ReLU has its corner, a difference is not the derivative: numbers keep away from it. */
static void leave_corners(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += x[i] < 0.0 ? -0.05 : 0.05;
}

static void check_gradients(const linear_case *c, int looks_at_state)
{
    linear_problem *p = linear_create(c);
    random_stream random = random_start(c->stream + 77);
    loss l = {.n_out = c->batch * c->q_heads * c->n_queries * c->value_channels};
    oracle_linear *o = &l.problem;
    oracle_linear_gradients g;
    oracle_linear_open(o, &p->q, &p->k, &p->v, &p->options, linear_state(p));
    const int64_t n_q = c->batch * c->q_heads * c->n_queries * c->channels;
    const int64_t n_keys = c->batch * c->kv_heads * c->n_keys;
    l.n_norms = c->batch * c->kv_heads * o->n_features;
    l.n_sums = l.n_norms * c->value_channels;
    l.dout = draw(l.n_out, &random);
    l.dsums = looks_at_state ? draw(l.n_sums, &random) : NULL;
    l.dnorms = looks_at_state ? draw(l.n_norms, &random) : NULL;
    leave_corners(o->q, n_q);
    leave_corners(o->k, n_keys * c->channels);
    oracle_linear_refresh(o);
    oracle_linear_backward(o, l.dout, l.dsums, l.dnorms, &g);
    expect_differences(&l, o->q, g.q, n_q, "q", p);
    expect_differences(&l, o->k, g.k, n_keys * c->channels, "k", p);
    expect_differences(&l, o->v, g.v, n_keys * c->value_channels, "v", p);
    if (c->has_state) {
        expect_differences(&l, o->sums, g.sums, l.n_sums, "sums", p);
        expect_differences(&l, o->norms, g.norms, l.n_norms, "norms", p);
    }
    expect_map_differences(&l, &o->key_map, &g.key_map, p);
    expect_map_differences(&l, &o->query_map, &g.query_map, p);
    oracle_linear_gradients_free(&g);
    free(l.dout), free(l.dsums), free(l.dnorms);
    oracle_linear_close(o);
    linear_destroy(p);
}

/* Every kind, with every mask, state, and sharing of heads and maps somewhere. eps would not do for FAVOR: m of queries
 * counts as a constant, which is exact only where it leaves the row as it is. */
static void gradients_are_differences(void **state)
{
    (void)state;
    static const int64_t heads[][2] = {{2, 2}, {2, 1}, {3, 1}, {4, 2}};
    for (int n = 0; n < N_MAP_KINDS * N_HIDINGS; n++) {
        if (!runner_takes(n))
            continue;
        const map_kind kind = (map_kind)(n % N_MAP_KINDS);
        const int is_favor = kind == MAP_FAVOR || kind == MAP_GLU_FAVOR;
        const int64_t *h = heads[n / 3 % 4];
        check_gradients(&(linear_case){.batch = 1 + n % 2,
                                       .q_heads = h[0],
                                       .kv_heads = h[1],
                                       .n_queries = 2 + n % 3,
                                       .n_keys = 3 + n / 2 % 3,
                                       .channels = 1 + n / 5 % 4,
                                       .value_channels = 1 + n / 7 % 3,
                                       .n_features = 2 + n % 4,
                                       .map = kind,
                                       .has_query_map = n / 13 % 2,
                                       .one_head_for_all = n / 4 % 3 == 0,
                                       .causal = n / 2 % 2,
                                       .hiding = (linear_hiding)(n / N_MAP_KINDS),
                                       .eps = is_favor || n % 3 ? 0.0f : 0.01f,
                                       .map_eps = is_favor ? 0.0f : 0.25f,
                                       .has_state = n / 3 % 2,
                                       .n_recent = n / 6 % 2 ? 4 : 0,
                                       .stream = (uint64_t)(100 * n)},
                        n / 5 % 2);
    }
}

/* ---- Known values ---- */

static void expect_near(double got, double want, const char *name)
{
    if (!(fabs(got - want) <= 1e-14 * fabs(want)) && got != want)
        fail_msg("%s: %.17g, not %.17g", name, got, want);
}

/* A map of one layer and a row of one channel. */
static double feature_of(heed_feature_kind kind, double w, double x, heed_feature_side side)
{
    oracle_map map = {.n_layers = 1};
    double y, values[2] = {w, w};
    map.layers[0].kind = kind;
    const int uses_omega = kind == HEED_FEATURE_FAVOR || kind == HEED_FEATURE_FAVOR_RELU;
    if (kind != HEED_FEATURE_ELU1 && kind != HEED_FEATURE_RELU)
        map.layers[0].w[uses_omega ? ORACLE_OMEGA : ORACLE_WF] = (oracle_matrix){&values[0], 1, 1, 1};
    if (kind == HEED_FEATURE_GLU || kind == HEED_FEATURE_GLU_LAST)
        map.layers[0].w[ORACLE_WG] = (oracle_matrix){&values[1], 1, 1, 1};
    oracle_features(&map, side, 0, &x, 1, &y);
    return y;
}

static void features_are_known(void **state)
{
    (void)state;
    const heed_feature_side k = HEED_FEATURES_OF_KEYS, q = HEED_FEATURES_OF_QUERIES;
    expect_near(feature_of(HEED_FEATURE_ELU1, 0, 2.0, k), 3.0, "elu + 1");
    expect_near(feature_of(HEED_FEATURE_ELU1, 0, -18.0, k), 1.522997974471263e-8, "elu + 1");
    expect_near(feature_of(HEED_FEATURE_RELU, 0, -2.0, k), 0.0, "relu");
    expect_near(feature_of(HEED_FEATURE_SOFTPLUS, 2.0, 0.0, k), 0.69314718055994531, "softplus");
    expect_near(feature_of(HEED_FEATURE_SOFTPLUS, 1.0, 1e30, k), 1e30, "softplus");
    expect_near(feature_of(HEED_FEATURE_SOFTPLUS, 1.0, -700.0, k), 9.8596765437597708e-305, "softplus");
    expect_near(feature_of(HEED_FEATURE_GLU, 1.0, 3.0, k), 2.8577223804673, "GLU");
    expect_near(feature_of(HEED_FEATURE_GLU_LAST, 1.0, 0.0, k), 0.34657359027997265, "GLU, last");
    expect_near(feature_of(HEED_FEATURE_FAVOR, 1.0, 0.0, k), 1.0, "FAVOR");
    expect_near(feature_of(HEED_FEATURE_FAVOR, 2.0, 1.0, k), 4.4816890703380648, "FAVOR of keys");
    expect_near(feature_of(HEED_FEATURE_FAVOR, 2.0, 1.0, q), 1.0, "FAVOR of queries");
    expect_near(feature_of(HEED_FEATURE_FAVOR, 20.0, 20.0, k), 1.1420073898156842e26, "FAVOR of keys, m = 140");
    expect_near(feature_of(HEED_FEATURE_FAVOR_RELU, 2.0, 3.0, k), 6.0, "FAVOR of ReLU");
    assert_true(isnan(feature_of(HEED_FEATURE_RELU, 0, (double)NAN, k)));
    assert_true(isnan(feature_of(HEED_FEATURE_SOFTPLUS, 1.0, (double)NAN, k)));
}

/* elu(x) + 1 of q = 0 and k = (0, 1) is 1 and (1, 2), so that v = (3, 6) give (3 + 12) / 3; the second query sees both,
 * the first one sees one. */
static void rows_are_known(void **state)
{
    (void)state;
    float q_data[] = {0.0f, 0.0f}, k_data[] = {0.0f, 1.0f}, v_data[] = {3.0f, 6.0f};
    const heed_tensor q = heed_tensor_bhnd(q_data, HEED_FLOAT32, 1, 1, 2, 1);
    const heed_tensor k = heed_tensor_bhnd(k_data, HEED_FLOAT32, 1, 1, 2, 1);
    const heed_tensor v = heed_tensor_bhnd(v_data, HEED_FLOAT32, 1, 1, 2, 1);
    heed_mask mask = HEED_MASK_INIT;
    heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
    mask.causal = 1;
    options.mask = &mask;
    options.eps = 0.5f;
    oracle_linear o;
    double out[2], sums[1], norms[1];
    oracle_linear_open(&o, &q, &k, &v, &options, NULL);
    oracle_linear_forward(&o, out);
    oracle_linear_state(&o, sums, norms);
    oracle_linear_close(&o);
    expect_near(out[0], 3.0 / 1.5, "first row");
    expect_near(out[1], 15.0 / 3.5, "second row");
    expect_near(sums[0], 15.0, "S");
    expect_near(norms[0], 3.0, "z");
}

/* What nobody sees has a gradient of 0, whatever it holds. */
static void hidden_numbers_have_no_gradient(void **state)
{
    (void)state;
    linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                     .q_heads = 2,
                                                     .kv_heads = 1,
                                                     .n_queries = 4,
                                                     .n_keys = 5,
                                                     .channels = 3,
                                                     .value_channels = 2,
                                                     .n_features = 4,
                                                     .map = MAP_SOFTPLUS,
                                                     .eps = 0.5f,
                                                     .causal = 1,
                                                     .hiding = HIDE_LENGTHS});
    p->query_lengths[0] = p->key_lengths[0] = 3;
    for (int64_t c = 0; c < 3; c++) {
        *tensor_at(&p->k, 0, 0, 4, c) = *tensor_at(&p->q, 0, 1, 3, c) = NAN;
        *tensor_at(&p->v, 0, 0, 3, c % 2) = INFINITY;
    }
    oracle_linear o;
    oracle_linear_gradients g;
    oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, NULL);
    const double dout[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}, dsums[8] = {1}, dnorms[4] = {1};
    oracle_linear_backward(&o, dout, dsums, dnorms, &g);
    for (int64_t n = 0; n < 24; n++)
        assert_true(n % 12 < 9 ? isfinite(g.q[n]) && g.q[n] != 0.0 : g.q[n] == 0.0);
    for (int64_t n = 0; n < 15; n++)
        assert_true(n < 9 ? isfinite(g.k[n]) && g.k[n] != 0.0 : g.k[n] == 0.0);
    for (int64_t n = 0; n < 10; n++)
        assert_true(n < 6 ? isfinite(g.v[n]) && g.v[n] != 0.0 : g.v[n] == 0.0);
    oracle_linear_gradients_free(&g);
    oracle_linear_close(&o);
    linear_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_known),
        cmocka_unit_test(rows_are_known),
        cmocka_unit_test(hidden_numbers_have_no_gradient),
        cmocka_unit_test(gradients_are_differences),
    };
    return cmocka_run_group_tests(tests, print_seed, NULL);
}
