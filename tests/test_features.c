/* Feature maps by themselves: against the float64 oracle, functions to the ulp over all of float32, rows to the bit,
 * arguments; and the sizes of the kernels as their paper counts them. */
#include "linear_check.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Against the oracle ---- */

static double largest_error[N_MAP_KINDS], largest_share[N_MAP_KINDS];

/* The largest error to be expected of a feature: that of its products, as in linear_tolerance(), relative to their size,
 * which is twice the usual one at the edge of its distribution; exponents of FAVOR make it a relative error of the feature.
 * And 4 ulp for each of two functions. */
static double feature_tolerance(const linear_problem *p)
{
    return 0x1p-24 * (5.0 * sqrt(4.0 * linear_roundings(&p->key_map.map)) + 16.0);
}

static void check_rows(const linear_problem *p, const heed_tensor *x, heed_feature_side side, const heed_tensor *out)
{
    const oracle_map map = oracle_map_read(&p->key_map.map);
    const int64_t n = out->shape[3], d = x->shape[3];
    double *row = oracle_zeros(d), *want = oracle_zeros(n);
    const int is_relative = p->c.map == MAP_FAVOR || p->c.map == MAP_GLU_FAVOR;
    const double least = feature_tolerance(p);
    for (int64_t i = 0; i < out->shape[0] * out->shape[1] * out->shape[2]; i++) {
        const int64_t token = i % x->shape[2], h = i / x->shape[2] % x->shape[1], b = i / x->shape[2] / x->shape[1];
        double squares = 0.0; /* |x'|^2 of FAVOR in the first layer */
        for (int64_t c = 0; c < d; c++) {
            row[c] = oracle_value(x, b, h, token, c);
            squares += row[c] * row[c] / sqrt((double)d);
        }
        oracle_features(&map, side, h, row, d, want);
        double scale = 0.0; /* that of the sums in it: about 1 */
        for (int64_t c = 0; c < n; c++)
            scale = fabs(want[c]) > scale ? fabs(want[c]) : scale;
        scale = scale > 1.0 ? scale : 1.0;
        for (int64_t c = 0; c < n; c++) {
            const double got = (double)*tensor_at(out, b, h, token, c);
            /* An exponent e is the difference of numbers of its own size and of |x'|^2 / 2, four roundings of such; what is
             * below 2^-126 may be 0. */
            const double e = is_relative ? fabs(log(want[c] * sqrt((double)n) + 0x1p-149)) + squares / 2.0 : 0.0;
            const double tolerance = least + 4.0 * 0x1p-24 * e;
            const double unit = is_relative ? want[c] + 0x1p-126 / tolerance : scale;
            const double error = fabs(got - want[c]) / unit;
            if (!(error <= tolerance))
                fail_msg("%s: side %d: row (%d, %d, %d), feature %d: %.9g, not %.17g", linear_describe(p), (int)side,
                         (int)b, (int)h, (int)token, (int)c, got, want[c]);
            largest_error[p->c.map] = error > largest_error[p->c.map] ? error : largest_error[p->c.map];
            if (error / tolerance > largest_share[p->c.map])
                largest_share[p->c.map] = error / tolerance;
        }
    }
    free(row), free(want);
    oracle_map map_to_free = map;
    oracle_map_free(&map_to_free);
}

static void apply(const linear_problem *p, heed_context *context, heed_feature_side side, const heed_tensor *out)
{
    tensor_fill(out, NAN);
    const heed_status status = heed_feature_map_apply(context, &p->k, &p->key_map.map, side, out);
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", linear_describe(p), heed_status_text(status), heed_context_message(context));
}

static void sizes_and_kinds(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 3, 7, 8, 15, 17, 32, 63, 64, 65, 80, 100, 128, 256};
    static const int64_t tokens[] = {1, 2, 5, 17, 47, 48, 49, 97, 130};
    for (int n = 0; n < 24 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n + 9000);
        linear_case c = {.batch = 1 + n % 2,
                         .q_heads = 1 + n % 3,
                         .n_queries = 0,
                         .value_channels = 1,
                         .map = (map_kind)(n % N_MAP_KINDS),
                         .one_head_for_all = n % 5 == 0,
                         .map_eps = n % 4 ? 0.0f : 1e-3f,
                         .stream = (uint64_t)n + 9000};
        c.kv_heads = c.q_heads;
        c.n_keys = tokens[random_below(&random, N_OF(tokens))];
        c.channels = widths[random_below(&random, N_OF(widths))];
        c.n_features = random_below(&random, 3) ? widths[random_below(&random, N_OF(widths))] : 0;
        c.layout = (linear_layout)random_below(&random, N_LINEAR_LAYOUTS);
        if (c.map == MAP_DEFAULT)
            continue;
        linear_problem *p = linear_create(&c);
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, c.batch, c.kv_heads, c.n_keys, p->n_features,
                                              (linear_layout)(n % N_LINEAR_LAYOUTS));
        const heed_feature_side side = n % 2 ? HEED_FEATURES_OF_QUERIES : HEED_FEATURES_OF_KEYS;
        apply(p, fixture_context, side, &out);
        check_rows(p, &p->k, side, &out);
        assert_true(tensor_padding_is_whole(&p->memory[p->n_tensors - 1], &out));
        linear_destroy(p);
    }
}

static void expect_path(const char *path)
{
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
    assert_string_equal(report.path, path);
}

/* Long and wide enough for OpenBLAS, where one product is all that a map has. */
static void wide_maps(void **state)
{
    (void)state;
    static const map_kind kinds[] = {MAP_SOFTPLUS, MAP_FAVOR, MAP_FAVOR_RELU, MAP_GLU2, MAP_SOFTPLUS};
    for (size_t n = 0; n < N_OF(kinds); n++) {
        const heed_feature_side side = n % 2 ? HEED_FEATURES_OF_QUERIES : HEED_FEATURES_OF_KEYS;
        const int64_t n_tokens = n == N_OF(kinds) - 1 ? 255 : 301;
        linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                         .q_heads = 2,
                                                         .kv_heads = 2,
                                                         .n_queries = 0,
                                                         .n_keys = n_tokens,
                                                         .channels = 515,
                                                         .value_channels = 1,
                                                         .n_features = 530,
                                                         .map = kinds[n],
                                                         .layout = (linear_layout)(n % N_LINEAR_LAYOUTS)});
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 2, 2, n_tokens, 530, LINEAR_BNHD);
        apply(p, fixture_context, side, &out);
        check_rows(p, &p->k, side, &out);
        assert_true(tensor_padding_is_whole(&p->memory[p->n_tensors - 1], &out));
#ifdef HEED_HAVE_BLAS
        expect_path(kinds[n] != MAP_GLU2 && n_tokens > 255 ? "feature-map-blas" : "feature-map");
#else
        expect_path("feature-map");
#endif
        linear_destroy(p);
    }
}

/* Rows that lie closer than they are wide are none of OpenBLAS's matrices. */
static void wide_rows_that_overlap(void **state)
{
    (void)state;
    linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                     .q_heads = 1,
                                                     .kv_heads = 1,
                                                     .n_queries = 0,
                                                     .n_keys = 300,
                                                     .channels = 512,
                                                     .value_channels = 1,
                                                     .n_features = 512,
                                                     .map = MAP_SOFTPLUS});
    const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 1, 1, 300, 512, LINEAR_BHND);
    p->k.stride[2] = 7;
    apply(p, fixture_context, HEED_FEATURES_OF_KEYS, &out);
    check_rows(p, &p->k, HEED_FEATURES_OF_KEYS, &out);
    expect_path("feature-map");
    linear_destroy(p);
}

static void empty_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{0, 2, 3}, {2, 0, 3}, {2, 2, 0}};
    for (int n = 0; n < 3; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = sizes[n][0],
                                                         .q_heads = sizes[n][1],
                                                         .kv_heads = sizes[n][1],
                                                         .n_queries = 0,
                                                         .n_keys = sizes[n][2],
                                                         .channels = 5,
                                                         .value_channels = 1,
                                                         .n_features = 4,
                                                         .map = MAP_SOFTPLUS,
                                                         .one_head_for_all = 1});
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, sizes[n][0], sizes[n][1], sizes[n][2], 4, LINEAR_BHND);
        apply(p, fixture_context, HEED_FEATURES_OF_KEYS, &out);
        linear_destroy(p);
    }
}

/* ---- To the ulp ---- */

static double ulp_of(double value)
{
    const double size = fabs(value) < 0x1p-126 ? 0x1p-126 : fabs(value);
    return ldexp(1.0, (int)floor(log2(size)) - 23);
}

/* One channel through one layer, with weights of 1: the sum of products is the number itself. */
static void functions_to_the_ulp(void **state)
{
    (void)state;
    static const heed_feature_kind kinds[] = {HEED_FEATURE_SOFTPLUS, HEED_FEATURE_GLU, HEED_FEATURE_ELU1};
    enum { N = 20000 };
    float one = 1.0f, zero_one[] = {0.0f, 1.0f}, one_zero[] = {1.0f, 0.0f};
    guarded x_memory, out_memory;
    const heed_tensor x = tensor_create(&x_memory, HEED_FLOAT32, 1, 1, N, 1, LAYOUT_BHND, GUARD_END);
    const heed_tensor out = tensor_create(&out_memory, HEED_FLOAT32, 1, 1, N, 1, LAYOUT_BHND, GUARD_END);
    float *pairs_data = malloc(2 * N * sizeof *pairs_data);
    assert_non_null(pairs_data);
    const heed_tensor pairs = heed_tensor_bhnd(pairs_data, HEED_FLOAT32, 1, 1, N, 2); /* 1 and x: the gate of x */
    random_stream random = random_start(5);
    for (int64_t i = 0; i < N; i++) {
        static const float ends[] = {0.0f,   -0.0f,   1e-30f, -1e-30f, 3e38f, -3e38f, 88.72f, -87.33f, -87.4f, -103.9f,
                                     1e-40f, -104.0f, 20.0f,  -20.0f,  16.6f, 1e4f,   -1e4f,  1e30f,   -1e30f, -18.0f};
        float value = random_uniform(&random, -110.0f, 110.0f);
        if (i % 4 == 1)
            value = random_normal(&random);
        if (i % 4 == 2)
            value *= ldexpf(1.0f, (int)random_below(&random, 200) - 130);
        value = i < (int64_t)N_OF(ends) ? ends[i] : value;
        *tensor_at(&x, 0, 0, i, 0) = pairs_data[2 * i + 1] = value;
        pairs_data[2 * i] = 1.0f;
    }
    for (size_t n = 0; n < N_OF(kinds); n++) {
        const heed_tensor w = heed_tensor_bhnd(&one, HEED_FLOAT32, 1, 1, 1, 1);
        const heed_tensor wf = heed_tensor_bhnd(one_zero, HEED_FLOAT32, 1, 1, 2, 1);
        const heed_tensor wg = heed_tensor_bhnd(zero_one, HEED_FLOAT32, 1, 1, 2, 1);
        heed_feature_layer layer = {.kind = kinds[n]};
        heed_feature_map map = HEED_FEATURE_MAP_INIT;
        const int is_gate = kinds[n] == HEED_FEATURE_GLU;
        layer.wf = kinds[n] == HEED_FEATURE_ELU1 ? NULL : is_gate ? &wf : &w;
        layer.wg = is_gate ? &wg : NULL;
        map.layers = &layer;
        map.n_layers = 1;
        assert_int_equal(
            heed_feature_map_apply(fixture_context, is_gate ? &pairs : &x, &map, HEED_FEATURES_OF_KEYS, &out), HEED_OK);
        double largest = 0.0;
        for (int64_t i = 0; i < N; i++) {
            const double at = (double)pairs_data[2 * i + 1], got = (double)*tensor_at(&out, 0, 0, i, 0);
            const double e = exp(-fabs(at)), gate = at < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
            const double softplus = (at > 0.0 ? at : 0.0) + log1p(e), elu1 = at > 0.0 ? at + 1.0 : exp(at);
            const double want = is_gate ? gate : kinds[n] == HEED_FEATURE_ELU1 ? elu1 : softplus;
            if (want < 0x1p-126 * (1.0 - 8.0 * 0x1p-23)) { /* denormal, or 0 */
                if (got != 0.0 && fabs(got - want) > 4.0 * 0x1p-149)
                    fail_msg("kind %d of %.9g: %.9g, neither 0 nor right", (int)kinds[n], at, got);
                continue;
            }
            const double error = fabs(got - want) / ulp_of(want);
            /* at 2^-126 itself 4 ulp decide whether it is 0 */
            if (!(error <= 4.0) && !(got == 0.0 && want < 0x1p-126 * (1.0 + 8.0 * 0x1p-23)))
                fail_msg("kind %d of %.9g: %.9g, not %.9g: %g ulp", (int)kinds[n], at, got, want, error);
            largest = error > largest ? error : largest;
        }
        print_message("%s within %.2f ulp\n",
                      is_gate                         ? "sigmoid"
                      : kinds[n] == HEED_FEATURE_ELU1 ? "elu + 1"
                                                      : "softplus",
                      largest);
    }
    free(pairs_data);
    guarded_destroy(&x_memory);
    guarded_destroy(&out_memory);
}

/* max(x, 0) + eps, rounded once; the identity copies. */
static void exact_kinds(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 1,
                                                         .kv_heads = 1,
                                                         .n_queries = 0,
                                                         .n_keys = 70,
                                                         .channels = 19,
                                                         .value_channels = 1,
                                                         .map = n ? MAP_RELU : MAP_IDENTITY,
                                                         .map_eps = 0.3f});
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 1, 1, 70, 19, LINEAR_BHND);
        apply(p, fixture_context, HEED_FEATURES_OF_KEYS, &out);
        for (int64_t i = 0; i < 70 * 19; i++) {
            const float x = *tensor_at(&p->k, 0, 0, i / 19, i % 19);
            const float want = n ? (x > 0.0f ? x : 0.0f) + 0.3f : x;
            assert_true(*tensor_at(&out, 0, 0, i / 19, i % 19) == want);
        }
        linear_destroy(p);
    }
}

/* ---- To the bit ---- */

/* One token's NaN is its own; threads, hooks and strides change nothing. */
static void rows_are_their_own(void **state)
{
    (void)state;
    for (int n = 1; n < N_MAP_KINDS; n++) {
        linear_case c = {.batch = 2,
                         .q_heads = 2,
                         .kv_heads = 2,
                         .n_queries = 0,
                         .n_keys = 100,
                         .channels = 21,
                         .value_channels = 1,
                         .n_features = 30,
                         .map = (map_kind)n,
                         .map_eps = 1e-3f,
                         .stream = (uint64_t)n};
        linear_problem *p = linear_create(&c);
        const heed_tensor first = linear_tensor(p, HEED_FLOAT32, 2, 2, 100, p->n_features, LINEAR_BHND);
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 2, 2, 100, p->n_features, LINEAR_BNHD);
        apply(p, fixture_context, HEED_FEATURES_OF_QUERIES, &first);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            apply(p, context, HEED_FEATURES_OF_QUERIES, &out);
            linear_expect_bits(&out, &first, runner_threadings[t].name);
            heed_context_destroy(context);
        }
        c.layout = LINEAR_PAGES;
        linear_problem *other = linear_create(&c);
        apply(other, fixture_context, HEED_FEATURES_OF_QUERIES, &out);
        linear_expect_bits(&out, &first, "strides");
        linear_destroy(other);
        *tensor_at(&p->k, 1, 0, 47, 5) = NAN;
        apply(p, fixture_context, HEED_FEATURES_OF_QUERIES, &out);
        for (int64_t row = 0; row < 400; row++) {
            for (int64_t f = 0; f < p->n_features; f++) {
                const float got = *tensor_at(&out, row / 200, row / 100 % 2, row % 100, f);
                const float was = *tensor_at(&first, row / 200, row / 100 % 2, row % 100, f);
                const int has_matrix = map_has_width((map_kind)n), is_it = row == 247 && (has_matrix || f == 5);
                if (is_it ? !isnan(got) : memcmp(&got, &was, sizeof got) != 0)
                    fail_msg("%s: row %d, feature %d: %g", linear_describe(p), (int)row, (int)f, (double)got);
            }
        }
        linear_destroy(p);
    }
}

/* Any row of keys of FAVOR by itself: m is that of the map. */
static void favor_of_large_projections(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 2,
                                                         .n_queries = 0,
                                                         .n_keys = 60,
                                                         .channels = 200,
                                                         .value_channels = 1,
                                                         .n_features = 70,
                                                         .map = MAP_FAVOR,
                                                         .map_eps = 1e-4f,
                                                         .stream = (uint64_t)n});
        random_stream random = random_start((uint64_t)n);
        tensor_fill_normal(&p->key_map.tensors[0], &random, n ? 1.2f : 1.0f); /* |w|^2 / 2 is 144, or 100 */
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 1, 2, 60, 70, LINEAR_BHND);
        apply(p, fixture_context, HEED_FEATURES_OF_KEYS, &out);
        for (int64_t i = 0; i < 2 * 60 * 70; i++)
            assert_true(isfinite(*tensor_at(&out, 0, i / 4200, i / 70 % 60, i % 70)));
        apply(p, fixture_context, HEED_FEATURES_OF_QUERIES, &out);
        for (int64_t i = 0; i < 120; i++) { /* the largest exponent is 0 */
            float largest = 0.0f;
            for (int64_t f = 0; f < 70; f++)
                largest = fmaxf(largest, *tensor_at(&out, 0, i / 60, i % 60, f));
            assert_true(fabs((double)largest - 1.0001 / sqrt(70.0)) < 1e-7);
        }
        linear_destroy(p);
    }
}

/* ---- Arguments ---- */

static void refused(void **state)
{
    (void)state;
    linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                     .q_heads = 2,
                                                     .kv_heads = 2,
                                                     .n_queries = 0,
                                                     .n_keys = 6,
                                                     .channels = 5,
                                                     .value_channels = 1,
                                                     .n_features = 5,
                                                     .map = MAP_SOFTPLUS});
    const heed_tensor good_out = linear_tensor(p, HEED_FLOAT32, 2, 2, 6, 5, LINEAR_BHND);
    const heed_tensor good_w = p->key_map.tensors[0];
    heed_feature_side side;
    heed_tensor x, out;
#define REFUSE(change, want)                                                                                           \
    do {                                                                                                               \
        x = p->k, out = good_out, side = HEED_FEATURES_OF_KEYS, p->key_map.tensors[0] = good_w;                        \
        change;                                                                                                        \
        const heed_status status = heed_feature_map_apply(fixture_context, &x, &p->key_map.map, side, &out);           \
        if (status != (want) || !*heed_context_message(fixture_context))                                               \
            fail_msg("%s: %s: %s", #change, heed_status_text(status), heed_context_message(fixture_context));          \
        assert_true(isnan(*tensor_at(&good_out, 0, 0, 0, 0)));                                                         \
    } while (0)
    REFUSE(side = (heed_feature_side)2, HEED_ERROR_ARGUMENT);
    REFUSE(x.shape[3] = 4, HEED_ERROR_SHAPE);
    REFUSE(x.shape[1] = 3, HEED_ERROR_SHAPE);
    REFUSE(x.data = NULL, HEED_ERROR_ARGUMENT);
    REFUSE(x.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
    REFUSE(x.stride[3] = 2, HEED_ERROR_STRIDE);
    REFUSE(out.shape[0] = 1, HEED_ERROR_SHAPE);
    REFUSE(out.shape[2] = 5, HEED_ERROR_SHAPE);
    REFUSE(out.shape[3] = 4, HEED_ERROR_SHAPE);
    REFUSE(out.stride[1] = 0, HEED_ERROR_STRIDE);
    REFUSE(out.data = x.data, HEED_ERROR_OVERLAP);
    REFUSE(out.data = p->key_map.tensors[0].data, HEED_ERROR_OVERLAP);
    REFUSE(p->key_map.tensors[0].shape[2] = 4, HEED_ERROR_SHAPE);
    REFUSE(p->key_map.tensors[0].dtype = HEED_BOOL, HEED_ERROR_DTYPE);
#undef REFUSE
    p->key_map.tensors[0] = good_w;
    assert_int_equal(heed_feature_map_apply(fixture_context, NULL, &p->key_map.map, side, &good_out),
                     HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_feature_map_apply(fixture_context, &p->k, &p->key_map.map, side, NULL), HEED_ERROR_ARGUMENT);
    linear_destroy(p);
}

/* ---- Sizes of the kernels ---- */

/* Numbers that a map holds for each head: as many products for each token. */
static int64_t count_parameters(map_kind kind, int64_t n)
{
    test_map map;
    int64_t sum = 0, bytes = 0;
    map_create(&map, kind, 1, n, n, 0.0f, 0);
    const heed_tensor x = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, 1, n);
    assert_int_equal(heed_feature_map_scratch_bytes(&x, &map.map, &bytes), HEED_OK); /* heed takes such a map */
    for (int t = 0; t < map.n_tensors; t++)
        sum += map.tensors[t].shape[2] * map.tensors[t].shape[3];
    map_destroy(&map);
    return sum;
}

/* Yorsh and Kovalenko 2022, section 3 and table 1: a feed-forward kernel has n^2 numbers for each head, a GLU unit twice
 * as many, an AOGLU unit of rank n / 4 a quarter less than that. Beside the 4 d^2 + 2 d m of a block that makes 1.04 %
 * with d = 512, m = 2048, and 2.08 % with d = 256, m = 1024 (n = 64 in both). */
static void sizes_of_the_paper(void **state)
{
    (void)state;
    const int64_t n = 64, kernel = count_parameters(MAP_SOFTPLUS, n), glu = count_parameters(MAP_GLU, n);
    test_map aoglu;
    map_create(&aoglu, MAP_GLU, 1, n, n, 0.0f, 0);
    heed_tensor a = aoglu.tensors[1], b = aoglu.tensors[1];
    a.shape[3] = b.shape[2] = n / 4;
    a.stride[2] = n / 4;
    aoglu.layers[0].wg = NULL;
    aoglu.layers[0].a = &a;
    aoglu.layers[0].b = &b;
    const heed_tensor x = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, 1, n);
    int64_t bytes = 0;
    assert_int_equal(heed_feature_map_scratch_bytes(&x, &aoglu.map, &bytes), HEED_OK);
    const int64_t unit = n * n + a.shape[2] * a.shape[3] + b.shape[2] * b.shape[3];
    assert_int_equal(kernel, n * n);
    assert_int_equal(glu, 2 * n * n);
    assert_int_equal(4 * unit, 3 * glu);
    assert_true(fabs(100.0 * 8.0 * (double)kernel / (4.0 * 512 * 512 + 2.0 * 512 * 2048) - 1.04) < 0.005);
    assert_true(fabs(100.0 * 4.0 * (double)kernel / (4.0 * 256 * 256 + 2.0 * 256 * 1024) - 2.08) < 0.005);
    assert_true(fabs(100.0 * 4.0 * 2.0 * (double)glu / (4.0 * 256 * 256 + 2.0 * 256 * 1024) - 8.33) < 0.005);
    map_destroy(&aoglu);
}

static int close_group(void **state)
{
    for (int kind = 0; kind < N_MAP_KINDS; kind++)
        print_message("%-14s largest error %.2e; at most %.2f of what is allowed\n", map_name((map_kind)kind),
                      largest_error[kind], largest_share[kind]);
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_kinds),
        cmocka_unit_test(wide_maps),
        cmocka_unit_test(wide_rows_that_overlap),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(functions_to_the_ulp),
        cmocka_unit_test(exact_kinds),
        cmocka_unit_test(rows_are_their_own),
        cmocka_unit_test(favor_of_large_projections),
        cmocka_unit_test(refused),
        cmocka_unit_test(sizes_of_the_paper),
    };
    return cmocka_run_group_tests(tests, fixture_open, close_group);
}
