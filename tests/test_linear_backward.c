/* Gradients of linear attention against the float64 oracle: every kind of map, mask, state; parts of a sequence, sums into
 * gradients that are there, outputs that are not wanted; and what must hold to the bit. */
#include "linear_gradients.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Against the oracle ---- */

static void check(const linear_case *c, int has_dstate_out)
{
    gradients g;
    gradients_open(&g, c, has_dstate_out);
    gradients_fill(&g, NAN);
    gradients_run(&g, fixture_context);
    gradients_expect_oracle(&g);
    gradients_close(&g);
}

static void sizes_maps_masks_and_states(void **state)
{
    (void)state;
    static const int64_t tokens[] = {1, 2, 5, 17, 47, 48, 49, 64, 95, 96, 97, 130};
    static const int64_t widths[] = {1, 3, 7, 8, 15, 17, 32, 63, 64, 65, 100};
    static const int64_t heads[][2] = {{1, 1}, {2, 1}, {3, 1}, {8, 1}, {2, 2}, {4, 2}, {3, 3}};
    for (int64_t n = 0; n < 390; n++) {
        random_stream random = random_start(60000 + (uint64_t)n);
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
        c.map_eps = map_usual_eps(c.map);
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
        gradients_open(&g,
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
        gradients_fill(&g, NAN);
        gradients_run(&g, fixture_context);
        if (s[1] == 0) /* the oracle divides heads; nothing reaches the weights */
            assert_true(*tensor_at(&g.dkey_map.tensors[0], 0, 0, 4, 4) == 0.0f);
        else
            gradients_expect_oracle(&g);
        gradients_close(&g);
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
        gradients_open(&g,
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
                                      .map_eps = map_usual_eps(kinds[n % 6]),
                                      .has_state = n % 5 == 0,
                                      .stream = (uint64_t)n + 100},
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
        gradients_fill(&g, NAN);
        gradients_run(&g, fixture_context);
        gradients_expect_oracle(&g);
        gradients_close(&g);
    }
}

/* Denominators of 0 with eps 0: rows that are constant. */
static void features_of_zero(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        gradients g;
        gradients_open(&g,
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
        gradients_fill(&g, NAN);
        gradients_run(&g, fixture_context);
        gradients_expect_oracle(&g);
        gradients_close(&g);
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
        random_stream random = random_start((uint64_t)n + 40);
        gradients g;
        gradients_open(&g,
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
                                      .map_eps = map_usual_eps((map_kind)(n % N_MAP_KINDS)),
                                      .has_state = 1,
                                      .stream = (uint64_t)n + 40},
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
        gradients_fill(&g, NAN);
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
                    for (int64_t i = 0; i < tensor_count(&parts[m].tensors[t]); i++) {
                        const int64_t *shape = parts[m].tensors[t].shape, row = i / shape[3];
                        float *sum = tensor_at(&sums[m]->tensors[t], 0, row / shape[2], row % shape[2], i % shape[3]);
                        *sum = tensor_value(&parts[m].tensors[t], i) + (is_last ? 0.0f : *sum);
                    }
                }
                map_destroy(&parts[m]);
            }
        }
        linear_copy_state(&p->state, &before[0]);
        gradients_expect_oracle(&g);
        gradients_close(&g);
    }
}

/* ---- Outputs ---- */

static void accumulate_adds(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        gradients g;
        gradients_open(&g,
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
                                      .map_eps = 0.05f,
                                      .has_state = 1,
                                      .stream = (uint64_t)n + 60},
                       1);
        heed_tensor *all[5 + 2 * MAP_MAX_TENSORS] = {&g.dq, &g.dk, &g.dv, &g.dstate_in.sums, &g.dstate_in.norms};
        int n_all = 5;
        for (int t = 0; t < g.dkey_map.n_tensors; t++)
            all[n_all++] = &g.dkey_map.tensors[t];
        for (int t = 0; t < g.dquery_map.n_tensors && g.p->options.query_features; t++)
            all[n_all++] = &g.dquery_map.tensors[t];
        double *plain[5 + 2 * MAP_MAX_TENSORS];
        gradients_fill(&g, NAN);
        gradients_run(&g, fixture_context);
        for (int m = 0; m < n_all; m++) {
            plain[m] = oracle_zeros(tensor_count(all[m]));
            tensor_read(all[m], plain[m]);
        }
        gradients_fill(&g, 3.0f);
        g.p->options.accumulate = 1;
        gradients_run(&g, fixture_context);
        for (int m = 0; m < n_all; m++) {
            /* The sum over batch and heads may be taken with the 3 in it: a few roundings of numbers of 4 at most, or of
             * the gradient's own size. */
            double scale = 4.0;
            for (int64_t i = 0; i < tensor_count(all[m]); i++)
                scale = fabs(plain[m][i]) > scale ? fabs(plain[m][i]) : scale;
            for (int64_t i = 0; i < tensor_count(all[m]); i++) {
                const double got = (double)tensor_value(all[m], i);
                if (!(fabs(got - (plain[m][i] + 3.0)) <= 64.0 * 0x1p-24 * scale))
                    fail_msg("%s: gradient %d, number %d: %.9g, not 3 more than %.9g", linear_describe(g.p), m, (int)i,
                             got, plain[m][i]);
            }
            free(plain[m]);
        }
        gradients_close(&g);
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
                         .map_eps = 0.05f,
                         .has_state = n % 2,
                         .stream = (uint64_t)n + 3000};
}

/* Each output alone, the others NULL: the bits that it has among all of them. */
static void unwanted_outputs_are_skipped(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        c.has_state = 1;
        gradients all, one;
        gradients_open(&all, &c, n % 2);
        gradients_open(&one, &c, n % 2);
        gradients_fill(&all, NAN);
        gradients_run(&all, fixture_context);
        gradients_fill(&one, NAN);
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
        gradients_close(&all);
        gradients_close(&one);
    }
}

static void nothing_is_wanted(void **state)
{
    (void)state;
    gradients g;
    const linear_case c = full_case(4);
    gradients_open(&g, &c, 0);
    assert_int_equal(heed_linear_backward(fixture_context, &g.p->q, &g.p->k, &g.p->v, &g.p->options, &g.dout,
                                          linear_state(g.p), NULL, NULL, NULL, NULL, NULL, NULL, NULL),
                     HEED_OK);
    gradients_close(&g);
}

/* ---- Bits ---- */

static void threads_and_strides_keep_the_bits(void **state)
{
    (void)state;
    int most_workers = 0;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        gradients first;
        gradients_open(&first, &c, n % 2);
        gradients_fill(&first, NAN);
        gradients_run(&first, fixture_context);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            gradients g;
            c.layout = (linear_layout)(t % N_LINEAR_LAYOUTS);
            gradients_open(&g, &c, n % 2);
            gradients_fill(&g, NAN);
            gradients_run(&g, context);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            expect_same_gradients(&g, &first, runner_threadings[t].name);
            gradients_close(&g);
            heed_context_destroy(context);
        }
        gradients_close(&first);
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
        gradients_open(&a, &c, 0);
        gradients_open(&b, &c, 0);
        const heed_tensor *spoilt[] = {&b.p->q, &b.p->k, &b.p->v};
        *tensor_at(spoilt[where], 1, spoilt_head, 40, 3) = NAN;
        gradients_run(&a, fixture_context);
        gradients_run(&b, fixture_context);
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
                    fail_msg("NaN in %c: gradient of %c, row (%d, %d, %d): %.9g, was %.9g", "qkv"[where], "qkv"[m],
                             (int)batch, (int)h, (int)i, (double)x, (double)y);
            }
        }
        gradients_close(&a);
        gradients_close(&b);
    }
}

static int close_group(void **state)
{
    gradients_print_errors();
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
