/* Linear attention forward against the float64 oracle: sizes, kinds of feature maps, masks, states, and numbers at the
 * ends of what float32 holds; and equalities between problems. */
#include "linear_check.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

static void match_and_destroy(linear_problem *p, const char *name)
{
    linear_expect_match(p, fixture_context, name);
    linear_destroy(p);
}

static void match(const linear_case *c, const char *name) { match_and_destroy(linear_create(c), name); }

/* ---- Sizes ---- */

static const int64_t widths[] = {1, 3, 7, 8, 15, 17, 32, 63, 64, 65, 80, 100, 128, 256};

/* A case out of everything: masks, states, layouts, maps. Long or wide, not both: the oracle takes its time. */
static linear_case draw_case(int64_t n)
{
    static const int64_t tokens[] = {1, 2, 5, 17, 47, 48, 49, 64, 95, 96, 97, 130};
    static const int64_t heads[][2] = {{1, 1}, {2, 1}, {3, 1}, {8, 1}, {2, 2}, {4, 2}, {6, 2}, {3, 3}};
    random_stream random = random_start(50000 + (uint64_t)n);
    linear_case c = {.stream = (uint64_t)(10 * n)};
    const int64_t *h = heads[random_below(&random, N_OF(heads))];
    const int64_t n_small = n % 3 == 0 ? 5 : (int64_t)N_OF(tokens), n_narrow = n % 3 == 0 ? (int64_t)N_OF(widths) : 9;
    c.batch = 1 + random_below(&random, 3);
    c.q_heads = h[0];
    c.kv_heads = h[1];
    c.n_queries = tokens[random_below(&random, n_small)];
    c.n_keys = random_below(&random, 3) ? tokens[random_below(&random, n_small)] : c.n_queries;
    c.channels = widths[random_below(&random, n_narrow)];
    c.value_channels = random_below(&random, 3) ? widths[random_below(&random, n_narrow)] : c.channels;
    c.n_features = random_below(&random, 2) ? widths[random_below(&random, n_narrow)] : 0;
    c.map = (map_kind)(n % N_MAP_KINDS);
    c.has_query_map = random_below(&random, 3) == 0;
    c.one_head_for_all = random_below(&random, 3) == 0;
    c.causal = (int)random_below(&random, 2);
    c.hiding = (linear_hiding)random_below(&random, N_HIDINGS);
    c.eps = random_below(&random, 2) ? 0.0f : 1e-6f;
    c.map_eps = map_usual_eps(c.map);
    c.has_state = random_below(&random, 3) == 0;
    c.n_recent = random_below(&random, 2) ? 16 : 0;
    c.layout = (linear_layout)random_below(&random, N_LINEAR_LAYOUTS);
    return c;
}

static void sizes_maps_masks_and_states(void **state)
{
    (void)state;
    for (int64_t n = 0; n < 780; n++) {
        const linear_case c = draw_case(n);
        if (runner_takes(n))
            match(&c, "sizes");
    }
}

/* Every width as D, as Dv and as C, beside another one. */
static void every_width(void **state)
{
    (void)state;
    for (size_t n = 0; n < 2 * N_OF(widths); n++) {
        const int64_t d = widths[n % N_OF(widths)], e = widths[(n + 5) % N_OF(widths)];
        const int64_t f = widths[(n + 9) % N_OF(widths)];
        if (runner_takes((int64_t)n))
            match(&(linear_case){.batch = 1,
                                 .q_heads = 2,
                                 .kv_heads = 1,
                                 .n_queries = 50,
                                 .n_keys = 50,
                                 .channels = d,
                                 .value_channels = e,
                                 .n_features = f,
                                 .map = n % 2 ? MAP_SOFTPLUS : MAP_FAVOR,
                                 .causal = n >= N_OF(widths),
                                 .layout = (linear_layout)(n % N_LINEAR_LAYOUTS),
                                 .stream = n},
                  "widths");
    }
}

static void long_sequences(void **state)
{
    (void)state;
    static const map_kind kinds[] = {MAP_DEFAULT, MAP_SOFTPLUS, MAP_GLU2, MAP_AOGLU3, MAP_FAVOR};
    for (int n = 0; n < 10; n++) {
        if (runner_takes(n))
            match(&(linear_case){.batch = 1,
                                 .q_heads = 1,
                                 .kv_heads = 1,
                                 .n_queries = n < 5 ? 300 : 1600,
                                 .n_keys = n % 2 ? 1600 : 300,
                                 .channels = 64,
                                 .value_channels = 64,
                                 .map = kinds[n % 5],
                                 .causal = n % 3 != 0,
                                 .eps = 1e-6f,
                                 .has_state = n % 4 == 1,
                                 .stream = (uint64_t)n},
                  "long");
    }
}

static void heads_that_share_keys(void **state)
{
    (void)state;
    static const int64_t ratios[] = {1, 2, 3, 8};
    for (int n = 0; n < 4 * 2 * 2 * 2; n++) {
        if (!runner_takes(n))
            continue;
        match(&(linear_case){.batch = 2,
                             .q_heads = 2 * ratios[n % 4],
                             .kv_heads = 2,
                             .n_queries = 70,
                             .n_keys = 70,
                             .channels = 24,
                             .value_channels = 20,
                             .n_features = 40,
                             .map = n / 8 % 2 ? MAP_AOGLU3 : MAP_SOFTPLUS,
                             .has_query_map = n / 16,
                             .causal = n / 4 % 2,
                             .layout = LINEAR_BNHD,
                             .stream = (uint64_t)n + 300},
              "shared keys");
    }
}

/* Causal and windows to the right, Nq <, = and > Nk, in every alignment. */
static void alignments(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{30, 100}, {100, 100}, {100, 30}, {1, 97}, {97, 1}, {49, 48}};
    static const heed_alignment all[] = {HEED_ALIGN_BOTTOM_RIGHT, HEED_ALIGN_TOP_LEFT, HEED_ALIGN_POSITIONS};
    static const int64_t windows[] = {-1, 0, 1, 47, 48, 49, 1000};
    for (int n = 0; n < 6 * 3 * 7; n++) {
        if (!runner_takes(n))
            continue;
        linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                         .q_heads = 2,
                                                         .kv_heads = 2,
                                                         .n_queries = sizes[n % 6][0],
                                                         .n_keys = sizes[n % 6][1],
                                                         .channels = 17,
                                                         .value_channels = 9,
                                                         .map = MAP_DEFAULT,
                                                         .causal = n / 18 == 0 || n % 5 == 0,
                                                         .hiding = n % 4 ? HIDE_POSITIONS : HIDE_LENGTHS,
                                                         .has_state = n % 7 == 0,
                                                         .stream = (uint64_t)n + 400});
        p->mask.alignment = all[n / 6 % 3];
        p->mask.query_start = p->mask.alignment == HEED_ALIGN_POSITIONS ? p->query_start : NULL;
        p->mask.key_start = p->mask.alignment == HEED_ALIGN_POSITIONS ? p->key_start : NULL;
        p->mask.window_right = windows[n / 18];
        match_and_destroy(p, "alignments");
    }
}

static void positions_far_out(void **state)
{
    (void)state;
    static const int64_t limit = (int64_t)1 << 60;
    for (int n = 0; n < 8; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 1,
                                                         .kv_heads = 1,
                                                         .n_queries = 60,
                                                         .n_keys = 60,
                                                         .channels = 5,
                                                         .value_channels = 5,
                                                         .map = MAP_DEFAULT,
                                                         .causal = n / 4,
                                                         .hiding = HIDE_POSITIONS,
                                                         .stream = (uint64_t)n});
        p->query_start[0] = n % 2 ? limit : -limit;
        p->key_start[0] = n / 2 % 2 ? p->query_start[0] : -p->query_start[0];
        p->mask.window_right = n / 4 ? -1 : INT64_MAX - (n % 2);
        match_and_destroy(p, "far positions");
    }
}

static void empty_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{0, 2, 3, 4}, {2, 0, 3, 4}, {2, 2, 0, 4}, {2, 2, 3, 0}};
    for (int n = 0; n < 16; n++) {
        const int64_t *s = sizes[n % 4];
        linear_problem *p = linear_create(&(linear_case){.batch = s[0],
                                                         .q_heads = s[1],
                                                         .kv_heads = s[1],
                                                         .n_queries = s[2],
                                                         .n_keys = s[3],
                                                         .channels = 5,
                                                         .value_channels = 3,
                                                         .map = MAP_DEFAULT,
                                                         .causal = n / 4 % 2,
                                                         .has_state = n / 8,
                                                         .stream = (uint64_t)n});
        if (s[1] == 0) /* the oracle divides heads */
            linear_run(p, fixture_context);
        else
            linear_expect_match(p, fixture_context, "empty");
        linear_destroy(p);
    }
}

/* ---- States ---- */

/* Parts, cut anywhere, each from the state of the one before: the rows and the state of the whole. */
static void parts_are_one_call(void **state)
{
    (void)state;
    for (int n = 0; n < 3 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start(700 + (uint64_t)n);
        const int64_t tokens = n % 3 == 0 ? 300 : 60;
        linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                         .q_heads = 4,
                                                         .kv_heads = 2,
                                                         .n_queries = tokens,
                                                         .n_keys = tokens,
                                                         .channels = 16,
                                                         .value_channels = 20,
                                                         .n_features = 24,
                                                         .map = (map_kind)(n % N_MAP_KINDS),
                                                         .causal = 1,
                                                         .eps = n % 2 ? 0.0f : 1e-6f,
                                                         .map_eps = map_usual_eps((map_kind)(n % N_MAP_KINDS)),
                                                         .has_state = 1,
                                                         .n_recent = n % 4,
                                                         .stream = (uint64_t)n});
        const heed_linear_state *s = &p->state;
        oracle_linear o;
        oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, s);
        const int64_t n_norms = o.batch * o.kv_heads * o.n_features;
        double *want = oracle_zeros(o.batch * o.q_heads * tokens * o.value_channels);
        double *norms = oracle_zeros(n_norms), *sums = oracle_zeros(n_norms * o.value_channels);
        oracle_linear_forward(&o, want);
        oracle_linear_state(&o, sums, norms);
        const heed_tensor whole[] = {p->q, p->k, p->v, p->out};
        tensor_fill(&p->out, NAN);
        for (int64_t first = 0, count; first < tokens; first += count) {
            count = random_below(&random, 2) ? random_below(&random, 3) : random_below(&random, tokens);
            count = count < tokens - first ? count : tokens - first;
            const heed_tensor q = tensor_slice(&whole[0], 2, first, count),
                              k = tensor_slice(&whole[1], 2, first, count);
            const heed_tensor v = tensor_slice(&whole[2], 2, first, count);
            const heed_tensor out = tensor_slice(&whole[3], 2, first, count);
            const heed_status status = heed_linear_forward(fixture_context, &q, &k, &v, &p->options, s, &out);
            if (status != HEED_OK)
                fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
        }
        linear_expect_rows(p, &p->out, want, linear_tolerance(p), "parts");
        linear_expect_state(p, s, sums, norms, linear_tolerance(p), "parts");
        assert_int_equal(p->n_tokens[1], 30 + tokens);
        free(want), free(norms), free(sums);
        oracle_linear_close(&o);
        linear_destroy(p);
    }
}

/* A state of nothing leaves a row as it is without one. */
static void the_empty_state(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 2,
                                                         .n_queries = 70,
                                                         .n_keys = 70,
                                                         .channels = 20,
                                                         .value_channels = 18,
                                                         .map = n % 2 ? MAP_SOFTPLUS : MAP_DEFAULT,
                                                         .causal = n / 2 % 2,
                                                         .hiding = n / 4 ? HIDE_FLAGS : HIDE_NOTHING,
                                                         .stream = (uint64_t)n});
        int64_t n_tokens[LINEAR_MAX_BATCH];
        const heed_linear_state empty = linear_new_state(p, 4, n_tokens);
        double *want = oracle_zeros(2 * 70 * 18);
        oracle_linear o;
        oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, NULL);
        oracle_linear_forward(&o, want);
        linear_run_from(p, fixture_context, &empty);
        linear_expect_rows(p, &p->out, want, linear_tolerance(p), "empty state");
        free(want);
        oracle_linear_close(&o);
        linear_destroy(p);
    }
}

/* ---- Equalities ---- */

/* Values that are all alike come out as they went in, but for the rounding of two sums of the same weights: the features
 * cancel. */
static void equal_values_stay(void **state)
{
    (void)state;
    for (int n = 0; n < 4 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 1,
                                                         .n_queries = 110,
                                                         .n_keys = 110,
                                                         .channels = 33,
                                                         .value_channels = 19,
                                                         .n_features = 40,
                                                         .map = (map_kind)(n % N_MAP_KINDS),
                                                         .causal = n / N_MAP_KINDS % 2,
                                                         .map_eps = map_usual_eps((map_kind)(n % N_MAP_KINDS)),
                                                         .hiding = n / N_MAP_KINDS / 2 ? HIDE_FLAGS : HIDE_NOTHING,
                                                         .stream = (uint64_t)n + 800});
        tensor_fill(&p->v, 0.7f);
        linear_run(p, fixture_context);
        /* The two sums of linear_tolerance() over 40 features and 64 + 2 blocks of keys, and the quotient. */
        const double tolerance = 0x1p-24 * (5.0 * sqrt(2.0 / 9.0 * (40.0 + 66.0)) + 2.0);
        for (int64_t i = 0; i < 110; i++) {
            for (int64_t d = 0; d < 19; d++) {
                const float got = *tensor_at(&p->out, 0, 1, i, d);
                const int sees_none = got == 0.0f && n / N_MAP_KINDS == 3; /* causal, first keys hidden */
                if (!(fabs((double)got / (double)0.7f - 1.0) <= tolerance) && !sees_none)
                    fail_msg("%s: row %d: %.9g", linear_describe(p), (int)i, (double)got);
            }
        }
        linear_destroy(p);
    }
}

/* Keys in another order, not causal. */
static void keys_in_another_order(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 2,
                                                         .n_queries = 20,
                                                         .n_keys = 130,
                                                         .channels = 18,
                                                         .value_channels = 11,
                                                         .map = (map_kind)n,
                                                         .map_eps = map_usual_eps((map_kind)n),
                                                         .stream = (uint64_t)n + 900});
        linear_run(p, fixture_context);
        const heed_tensor first = linear_tensor_like(p, &p->out);
        const heed_tensor k = linear_tensor_like(p, &p->k), v = linear_tensor_like(p, &p->v);
        tensor_copy(&first, &p->out);
        tensor_copy(&k, &p->k);
        tensor_copy(&v, &p->v);
        for (int64_t j = 0; j < 130; j++) { /* 59 and 130 have no common divisor */
            const heed_tensor to_k = tensor_slice(&p->k, 2, j * 59 % 130, 1), from_k = tensor_slice(&k, 2, j, 1);
            const heed_tensor to_v = tensor_slice(&p->v, 2, j * 59 % 130, 1), from_v = tensor_slice(&v, 2, j, 1);
            tensor_copy(&to_k, &from_k);
            tensor_copy(&to_v, &from_v);
        }
        double *want = oracle_zeros(2 * 20 * 11);
        for (int64_t i = 0; i < 2 * 20 * 11; i++)
            want[i] = (double)*tensor_at(&first, 0, i / 220, i / 11 % 20, i % 11);
        linear_run(p, fixture_context);
        linear_expect_rows(p, &p->out, want, 2.0 * linear_tolerance(p), "another order");
        free(want);
        linear_destroy(p);
    }
}

static void fill_identity(const heed_tensor *w, float diagonal)
{
    tensor_fill(w, 0.0f);
    for (int64_t h = 0; h < w->shape[1]; h++) {
        for (int64_t i = 0; i < w->shape[2] && i < w->shape[3]; i++)
            *tensor_at(w, 0, h, i, i) = diagonal;
    }
}

/* Runs the problem with two maps, whose features are those of the other one times a constant or the same. */
static void expect_equal_maps(linear_problem *p, const heed_feature_map *a, const heed_feature_map *b, const char *name)
{
    const int64_t n = p->out.shape[1] * p->out.shape[2] * p->out.shape[3], rows = p->out.shape[2];
    double *want = oracle_zeros(n);
    p->options.features = a;
    linear_run(p, fixture_context);
    for (int64_t i = 0; i < n; i++)
        want[i] =
            (double)*tensor_at(&p->out, 0, i / p->out.shape[3] / rows, i / p->out.shape[3] % rows, i % p->out.shape[3]);
    p->options.features = b;
    linear_run(p, fixture_context);
    linear_expect_rows(p, &p->out, want, 2.0 * linear_tolerance(p), name);
    free(want);
}

/* A closed gate halves everything, which leaves the row as it is; with wf = I the hidden unit gives x / 2. */
static void gates_of_one_half(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        const linear_case c = {.batch = 1,
                               .q_heads = 2,
                               .kv_heads = 2,
                               .n_queries = 60,
                               .n_keys = 60,
                               .channels = 24,
                               .value_channels = 24,
                               .map = n % 2 ? MAP_GLU2 : MAP_GLU,
                               .causal = n / 2 % 2,
                               .stream = (uint64_t)n};
        linear_problem *p = linear_create(&c);
        heed_feature_layer plain = {0}, units[2] = {{0}};
        const heed_feature_layer *last = &p->key_map.layers[p->key_map.map.n_layers - 1];
        const heed_tensor zeros = linear_tensor(p, HEED_FLOAT32, 1, 1, 24, 24, LINEAR_BHND);
        const heed_tensor half = linear_tensor(p, HEED_FLOAT32, 1, 2, 24, 24, LINEAR_BHND);
        const heed_tensor identity = linear_tensor(p, HEED_FLOAT32, 1, 1, 24, 24, LINEAR_BHND);
        const heed_tensor wf = linear_tensor(p, HEED_FLOAT32, 1, 2, 24, 24, LINEAR_BHND);
        const heed_tensor from = tensor_slice(last->wf, 2, 0, 24);
        tensor_fill(&zeros, 0.0f);
        fill_identity(&identity, 1.0f);
        tensor_copy(&wf, &from);
        for (int64_t i = 0; i < 2 * 24 * 24; i++)
            *tensor_at(&half, 0, i / 576, i / 24 % 24, i % 24) =
                0.5f * *tensor_at(&wf, 0, i / 576, i / 24 % 24, i % 24);
        plain.kind = HEED_FEATURE_SOFTPLUS;
        plain.wf = n % 2 ? &half : &wf;
        units[0].kind = HEED_FEATURE_GLU;
        units[0].wf = &identity;
        units[0].wg = &zeros;
        units[1].kind = HEED_FEATURE_GLU_LAST;
        units[1].wf = &wf;
        units[1].wg = &zeros;
        heed_feature_map a = HEED_FEATURE_MAP_INIT, b = HEED_FEATURE_MAP_INIT;
        a.layers = &plain;
        a.n_layers = 1;
        b.layers = n % 2 ? units : units + 1;
        b.n_layers = n % 2 ? 2 : 1;
        expect_equal_maps(p, &a, &b, n % 2 ? "hidden unit x / 2" : "gate 1 / 2");
        linear_destroy(p);
    }
}

/* Features that were computed before: the identity of phi(q) and phi(k). */
static void features_computed_elsewhere(void **state)
{
    (void)state;
    for (int causal = 0; causal < 2; causal++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 2,
                                                         .n_queries = 70,
                                                         .n_keys = 70,
                                                         .channels = 20,
                                                         .value_channels = 10,
                                                         .n_features = 36,
                                                         .map = MAP_SOFTPLUS,
                                                         .causal = causal});
        const heed_tensor f = linear_tensor(p, HEED_FLOAT32, 1, 2, 70, 36, LINEAR_BNHD);
        const heed_tensor g = linear_tensor(p, HEED_FLOAT32, 1, 2, 70, 36, LINEAR_BHND);
        const heed_tensor first = linear_tensor_like(p, &p->out);
        assert_int_equal(
            heed_feature_map_apply(fixture_context, &p->q, p->options.features, HEED_FEATURES_OF_QUERIES, &f), HEED_OK);
        assert_int_equal(heed_feature_map_apply(fixture_context, &p->k, p->options.features, HEED_FEATURES_OF_KEYS, &g),
                         HEED_OK);
        linear_run(p, fixture_context);
        tensor_copy(&first, &p->out);
        heed_feature_map identity = HEED_FEATURE_MAP_INIT;
        p->options.features = &identity;
        assert_int_equal(heed_linear_forward(fixture_context, &f, &g, &p->v, &p->options, NULL, &p->out), HEED_OK);
        double *want = oracle_zeros(2 * 70 * 10);
        for (int64_t i = 0; i < 2 * 70 * 10; i++)
            want[i] = (double)*tensor_at(&first, 0, i / 700, i / 10 % 70, i % 10);
        p->options.features = &p->key_map.map;
        linear_expect_rows(p, &p->out, want, 2.0 * linear_tolerance(p), "features from elsewhere");
        free(want);
        linear_destroy(p);
    }
}

/* ---- Numbers at the ends ---- */

static void expect_means(linear_problem *p)
{
    linear_run(p, fixture_context);
    for (int64_t i = 0; i < p->c.n_queries * p->c.value_channels; i++) {
        const float value = *tensor_at(&p->out, 0, 0, i / p->c.value_channels, i % p->c.value_channels);
        if (!(fabs((double)value) <= 1.0 + linear_tolerance(p)))
            fail_msg("%s: %g is no mean of values", linear_describe(p), (double)value);
    }
}

/* |x| of 1e4 on both sides, or of 1e30 on one: the sums stay below 2^127. */
static void huge_numbers(void **state)
{
    (void)state;
    static const map_kind kinds[] = {MAP_DEFAULT, MAP_IDENTITY, MAP_RELU,   MAP_SOFTPLUS,
                                     MAP_GLU,     MAP_GLU2,     MAP_AOGLU3, MAP_FAVOR_RELU};
    for (int n = 0; n < 8 * 3 * 2; n++) {
        const int which = n / 8 % 3;
        const int has_gates = kinds[n % 8] == MAP_GLU || kinds[n % 8] == MAP_GLU2 || kinds[n % 8] == MAP_AOGLU3;
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 1,
                                                         .kv_heads = 1,
                                                         .n_queries = 60,
                                                         .n_keys = 60,
                                                         .channels = 32,
                                                         .value_channels = 32,
                                                         .map = kinds[n % 8],
                                                         .causal = n / 24,
                                                         .map_eps = 1e-3f,
                                                         .stream = (uint64_t)n + 1000});
        random_stream random = random_start((uint64_t)n);
        const float low = kinds[n % 8] == MAP_IDENTITY ? 0.1f : -1.0f;
        if (which != 1)
            tensor_fill_uniform(&p->q, &random, low * (which == 0 ? 1e4f : 1e30f), which == 0 ? 1e4f : 1e30f);
        if (which != 2)
            tensor_fill_uniform(&p->k, &random, low * (which == 0 ? 1e4f : 1e30f), which == 0 ? 1e4f : 1e30f);
        /* A gate near s = 0 among arguments of 1e4, which have the error of such: sigmoid has a slope of 1 / 4 there. Among
         * those of 1e30 it may be open or closed: a row is still a mean of values. */
        if (has_gates && which > 0) {
            expect_means(p);
            linear_destroy(p);
            continue;
        }
        if (has_gates)
            p->tolerance = 5.0 * 0x1p-24 * sqrt(33.0) * 1e4 / 4.0;
        match_and_destroy(p, which == 0 ? "1e4" : which == 1 ? "keys of 1e30" : "queries of 1e30");
    }
}

/* Rows of queries and keys whose features are all 0: with and without eps, some or all of them. */
static void features_of_zero(void **state)
{
    (void)state;
    for (int n = 0; n < 2 * 3 * 2 * 2; n++) {
        const int relu = n % 2, which = n / 2 % 3;
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 1,
                                                         .n_queries = 66,
                                                         .n_keys = 66,
                                                         .channels = 12,
                                                         .value_channels = 7,
                                                         .map = relu ? MAP_RELU : MAP_DEFAULT,
                                                         .causal = n / 6 % 2,
                                                         .eps = n / 12 ? 1e-6f : 0.0f,
                                                         .stream = (uint64_t)n});
        for (int64_t i = 0; i < 66; i++) {
            for (int64_t c = 0; c < 12; c++) {
                if (which != 1 && i % 3 == 0)
                    *tensor_at(&p->q, 0, 1, i, c) = -1e4f;
                if (which != 2 && (i < 9 || i % 2))
                    *tensor_at(&p->k, 0, 0, i, c) = -1e4f;
            }
        }
        match_and_destroy(p, "zero");
    }
}

/* exp(-100) and less in the denominator counts as 0, exp(-80) does not. */
static void denormal_denominators(void **state)
{
    (void)state;
    static const float depths[] = {-43.0f, -46.0f, -50.0f, -60.0f, -40.0f, -20.0f};
    for (int n = 0; n < 6 * 2; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 1,
                                                         .kv_heads = 1,
                                                         .n_queries = 50,
                                                         .n_keys = 50,
                                                         .channels = 1,
                                                         .value_channels = 3,
                                                         .map = MAP_ELU1,
                                                         .causal = n / 6,
                                                         .stream = (uint64_t)n});
        for (int64_t i = 0; i < 50; i++) /* the sum of 50 of them is e^3.9 larger */
            *tensor_at(&p->q, 0, 0, i, 0) = *tensor_at(&p->k, 0, 0, i, 0) = depths[n % 6] - (n % 6 < 4 ? 4.0f : 0.0f);
        linear_expect_match(p, fixture_context, "denormal");
        assert_true((*tensor_at(&p->out, 0, 0, 20, 0) == 0.0f) == (n % 6 < 4));
        linear_destroy(p);
    }
}

/* One key e^17 above 16383 others comes first: one float32 sum would lose 7e-4 of max|v|. */
static void one_large_key_first(void **state)
{
    (void)state;
    const int64_t tokens = runner_quick() ? 4096 : 16384, rows[] = {0, 1, 100, tokens / 2, tokens - 1};
    for (int n = 0; n < 4; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 1,
                                                         .kv_heads = 1,
                                                         .n_queries = n % 2 ? tokens : 5,
                                                         .n_keys = tokens,
                                                         .channels = 8,
                                                         .value_channels = 8,
                                                         .map = n / 2 ? MAP_FAVOR : MAP_IDENTITY,
                                                         .causal = n % 2,
                                                         .n_features = 8,
                                                         .stream = (uint64_t)n});
        random_stream random = random_start((uint64_t)n);
        tensor_fill_uniform(&p->v, &random, 0.5f, 1.0f); /* no two late terms cancel */
        tensor_fill_uniform(&p->q, &random, 0.9f, 1.1f);
        tensor_fill_uniform(&p->k, &random, n / 2 ? -0.01f : 0.99f, n / 2 ? 0.01f : 1.01f);
        for (int64_t c = 0; c < 8; c++) {
            /* w.x' - |x'|^2 / 2 with w = 6 and x' = 4 in one channel is 16 */
            *tensor_at(&p->k, 0, 0, 0, c) = n / 2 ? (c == 0 ? 4.0f * powf(8.0f, 0.25f) : 0.0f) : expf(17.0f);
            if (n / 2) {
                for (int64_t d = 0; d < 8; d++)
                    *tensor_at(p->key_map.layers[0].omega, 0, 0, c, d) = c == 0 ? 6.0f : random_normal(&random);
            }
        }
        linear_run(p, fixture_context);
        oracle_linear o;
        oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, NULL);
        for (size_t r = 0; r < N_OF(rows); r++) {
            double want[8];
            const int64_t i = n % 2 ? rows[r] : (int64_t)r;
            const heed_tensor row = tensor_slice(&p->out, 2, i, 1);
            oracle_linear_row(&o, 0, 0, i, want);
            linear_expect_rows(p, &row, want, 2e-5, "large first key");
        }
        oracle_linear_close(&o);
        linear_destroy(p);
    }
}

static int close_group(void **state)
{
    linear_print_errors();
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_maps_masks_and_states),
        cmocka_unit_test(every_width),
        cmocka_unit_test(long_sequences),
        cmocka_unit_test(heads_that_share_keys),
        cmocka_unit_test(alignments),
        cmocka_unit_test(positions_far_out),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(parts_are_one_call),
        cmocka_unit_test(the_empty_state),
        cmocka_unit_test(equal_values_stay),
        cmocka_unit_test(keys_in_another_order),
        cmocka_unit_test(gates_of_one_half),
        cmocka_unit_test(features_computed_elsewhere),
        cmocka_unit_test(huge_numbers),
        cmocka_unit_test(features_of_zero),
        cmocka_unit_test(denormal_denominators),
        cmocka_unit_test(one_large_key_first),
    };
    return cmocka_run_group_tests(tests, fixture_open, close_group);
}
