/* The error bounds of heed.h, and the places where an online softmax loses its footing: growing maxima, scores beyond
 * any sentinel, long sums, constant values. */
#include "support/fixture.h"

#include <float.h>
#include <math.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

static double largest_score(const attention *problem, int64_t h, int64_t i)
{
    double largest = 0.0;
    for (int64_t j = 0; j < problem->shape.n_keys; j++) {
        const double s = fabs(oracle_softmax_score(&problem->q, &problem->k, NULL, 0, h, i, j));
        largest = s > largest ? s : largest;
    }
    return largest;
}

/* Scales the queries so that the largest score is as large as asked for: that of the problem, or that of each row. */
static void stretch_scores(attention *problem, double largest, int each_row)
{
    double of_all = 0.0;
    for (int64_t h = 0; h < problem->shape.q_heads; h++) {
        for (int64_t i = 0; i < problem->shape.n_queries; i++)
            of_all = fmax(of_all, largest_score(problem, h, i));
    }
    for (int64_t h = 0; h < problem->shape.q_heads; h++) {
        for (int64_t i = 0; i < problem->shape.n_queries; i++) {
            const double factor = largest / (each_row ? largest_score(problem, h, i) : of_all);
            for (int64_t c = 0; c < problem->shape.channels; c++) {
                float *value = tensor_at(&problem->q, 0, h, i, c);
                *value = (float)(factor * (double)*value);
            }
        }
    }
}

/* The rounding of the products is in proportion to the score. Random rows differ, and few of them come near the largest
 * score; where each one does, the worst of ten times as many is seen, which has reached 2.7e-6 for 30. */
static void check_random_scores(int each_row, double slack)
{
    static const int64_t sizes[][3] = {{50, 300, 64},   {50, 1000, 128}, {2, 1000, 64},   {1, 4096, 128},
                                       {4, 32768, 64},  {64, 4096, 32},  {49, 32768, 16}, {50, 300, 1024},
                                       {1, 1000, 1024}, {2, 1000, 1024}, {1, 1000, 256}};
    static const double largest[] = {30.0, 10.0};
    for (size_t n = 0; n < N_OF(sizes); n++) {
        for (size_t way = 0; way < N_OF(largest); way++) {
            if (!runner_takes((int64_t)(n * N_OF(largest) + way)))
                continue;
            attention problem;
            random_stream random = random_start(n);
            attention_create(&problem, (attention_shape){1, 1, 1, sizes[n][0], sizes[n][1], sizes[n][2], 16},
                             LAYOUT_BHND, GUARD_END);
            attention_fill(&problem, &random, 1.0f);
            stretch_scores(&problem, largest[way], each_row);
            expect_match(&problem, NULL, largest[way] * slack, "random scores");
            attention_destroy(&problem);
        }
    }
}

static void random_scores_up_to_30(void **state)
{
    (void)state;
    check_random_scores(0, 1.0);
}

static void each_row_reaches_30(void **state)
{
    (void)state;
    check_random_scores(1, 1.5);
}

/* A problem whose scores are exact: one channel that counts, q = 1, k_j = the score of key j for every query. */
typedef double (*score_fn)(int64_t j, int64_t n_keys, double parameter);

static void create_with_scores(attention *problem, attention_shape shape, score_fn score, double parameter)
{
    random_stream random = random_start((uint64_t)shape.n_keys);
    shape.channels = 2;
    attention_create(problem, shape, LAYOUT_BHND, GUARD_END);
    tensor_fill(&problem->q, 0.0f);
    tensor_fill_uniform(&problem->k, &random, -1.0f, 1.0f);
    tensor_fill_uniform(&problem->v, &random, -1.0f, 1.0f);
    for (int64_t h = 0; h < shape.q_heads; h++) {
        for (int64_t i = 0; i < shape.n_queries; i++)
            *tensor_at(&problem->q, 0, h, i, 0) = 1.0f;
    }
    for (int64_t h = 0; h < shape.kv_heads; h++) {
        for (int64_t j = 0; j < shape.n_keys; j++)
            *tensor_at(&problem->k, 0, h, j, 0) = (float)score(j, shape.n_keys, parameter);
    }
}

static heed_softmax_options unit_scale(void)
{
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.scale = 1.0f;
    return options;
}

/* Exact scores carry no rounding, and neither does their difference from the maximum where the weight counts: the error
 * does not grow with the scores, so the bound is that for 30 however large they are. */
static void check_scores(attention_shape shape, score_fn score, double parameter, const char *name)
{
    attention problem;
    const heed_softmax_options options = unit_scale();
    create_with_scores(&problem, shape, score, parameter);
    expect_match(&problem, &options, 30.0, name);
    attention_destroy(&problem);
}

static double ramp_score(int64_t j, int64_t n_keys, double parameter)
{
    return parameter * (2.0 * (double)j / (double)(n_keys > 1 ? n_keys - 1 : 1) - 1.0);
}

static double alternating_score(int64_t j, int64_t n_keys, double parameter)
{
    (void)n_keys;
    return j % 2 ? parameter : -parameter;
}

static double equal_score(int64_t j, int64_t n_keys, double parameter)
{
    (void)j;
    (void)n_keys;
    return parameter;
}

static double last_stands_out_score(int64_t j, int64_t n_keys, double parameter)
{
    return j == n_keys - 1 ? parameter : -parameter;
}

static void shaped_scores_up_to_30(void **state)
{
    (void)state;
    static const attention_shape shapes[] = {{1, 1, 1, 50, 500, 2, 8},
                                             {1, 2, 1, 1, 500, 2, 8},
                                             {1, 1, 1, 2, 32768, 2, 8},
                                             {1, 1, 1, 50, 32768, 2, 8},
                                             {1, 1, 1, 50, 129, 2, 8}};
    static const double sizes[] = {30.0, -30.0, 1.0};
    static const score_fn scores[] = {ramp_score, alternating_score, equal_score, last_stands_out_score};
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (size_t size = 0; size < N_OF(sizes); size++) {
            for (size_t n = 0; n < N_OF(scores); n++) {
                if (runner_takes((int64_t)((s * N_OF(sizes) + size) * N_OF(scores) + n)))
                    check_scores(shapes[s], scores[n], sizes[size], "shaped scores");
            }
        }
    }
}

static double stairs_score(int64_t j, int64_t n_keys, double parameter)
{
    (void)n_keys;
    const int64_t stair = j / 128;
    return parameter * (double)stair;
}

static double slope_score(int64_t j, int64_t n_keys, double parameter)
{
    (void)n_keys;
    return parameter * (double)j;
}

static void maximum_that_grows_or_falls(void **state)
{
    (void)state;
    /* Steps per block and per key, both signs; powers of two, so that all scores are exact in float. */
    static const double stairs[] = {0.125, 8.0, 10.0, 16.0, 64.0, 128.0};
    static const double slopes[] = {0.015625, 0.125, 0.5, 1.0};
    static const attention_shape shapes[] = {{1, 1, 1, 50, 1500, 2, 8}, {1, 1, 1, 2, 1500, 2, 8}};
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            for (size_t n = 0; n < N_OF(stairs); n++)
                check_scores(shapes[s], stairs_score, sign * stairs[n], "stairs");
            for (size_t n = 0; n < N_OF(slopes); n++)
                check_scores(shapes[s], slope_score, sign * slopes[n], "slope");
        }
    }
}

static void equal_scores_beyond_any_sentinel(void **state)
{
    (void)state;
    /* All keys count alike, whatever their score: a uniform average, and never "all hidden". */
    static const double sizes[] = {2e4, 1e4, 1e9, 1e15, 1e30, 2.5e38, FLT_MAX};
    static const attention_shape shapes[] = {
        {1, 1, 1, 50, 300, 2, 8}, {1, 2, 1, 2, 130, 2, 8}, {1, 1, 1, 1, 1200, 2, 8}, {1, 1, 1, 3, 1, 2, 8}};
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (size_t n = 0; n < N_OF(sizes); n++) {
            check_scores(shapes[s], equal_score, -sizes[n], "equal negative scores");
            check_scores(shapes[s], equal_score, sizes[n], "equal positive scores");
        }
    }
}

static void sentinel_biases_are_numbers(void **state)
{
    (void)state;
    /* A bias so low in all keys swallows the scores: uniform again. In some keys only: those have no weight. */
    static const float values[] = {-1e30f, -2.5e38f, -FLT_MAX};
    for (int few = 0; few < 2; few++) {
        for (size_t n = 0; n < N_OF(values); n++) {
            for (int all = 0; all < 2; all++) {
                attention problem;
                guarded memory;
                const attention_shape shape = {1, 2, 1, few ? 2 : 60, 300, 8, 8};
                const heed_tensor bias = tensor_create(&memory, HEED_FLOAT32, 1, 1, 1, 300, LAYOUT_BHND, GUARD_END);
                tensor_fill(&bias, values[n]);
                for (int64_t j = 150; !all && j < 280; j++)
                    *tensor_at(&bias, 0, 0, 0, j) = 0.0f;
                heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
                options.bias = &bias;
                random_stream random = random_start(n);
                attention_create(&problem, shape, LAYOUT_BHND, GUARD_END);
                attention_fill(&problem, &random, 1.0f);
                expect_match(&problem, &options, 30.0, "sentinel bias");
                attention_destroy(&problem);
                guarded_destroy(&memory);
            }
        }
    }
}

static void sinks_far_from_everything(void **state)
{
    (void)state;
    static const float values[] = {-2e4f, 2e4f, -1e9f, 1e9f, -1e30f, 1e30f, -FLT_MAX, FLT_MAX};
    for (size_t n = 0; n < N_OF(values); n++) {
        for (int64_t n_keys = 0; n_keys <= 300; n_keys += 150) {
            for (int64_t n_queries = 2; n_queries <= 60; n_queries += 58) {
                attention problem;
                random_stream random = random_start(n);
                heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
                options.sinks = &values[n];
                attention_create(&problem, (attention_shape){1, 1, 1, n_queries, n_keys, 8, 8}, LAYOUT_BHND, GUARD_END);
                attention_fill(&problem, &random, 1.0f);
                expect_match(&problem, &options, 30.0, "far sink");
                attention_destroy(&problem);
            }
        }
    }
}

static double scattered_score(int64_t j, int64_t n_keys, double parameter)
{
    /* Whole numbers from -parameter to parameter, in no order; the largest comes several times. */
    const int64_t step = (j * 7919 + 13) % n_keys;
    return step % 97 == 0 ? parameter : floor(parameter * (2.0 * (double)step / (double)n_keys - 1.0));
}

static void scores_of_ten_thousand(void **state)
{
    (void)state;
    static const attention_shape shapes[] = {{1, 1, 1, 50, 1000, 2, 8}, {1, 2, 1, 1, 1300, 2, 8}};
    for (size_t s = 0; s < N_OF(shapes); s++) {
        check_scores(shapes[s], scattered_score, 1e4, "scattered scores");
        check_scores(shapes[s], alternating_score, 1e4, "alternating scores");
        check_scores(shapes[s], last_stands_out_score, 1e4, "one-hot");
        attention problem;
        random_stream random = random_start(s);
        attention_shape shape = shapes[s];
        shape.channels = 64;
        attention_create(&problem, shape, LAYOUT_BHND, GUARD_END);
        attention_fill(&problem, &random, 1.0f);
        stretch_scores(&problem, 1e4, 1);
        expect_match(&problem, NULL, 1e4, "random scores of 1e4");
        attention_destroy(&problem);
    }
}

static double early_score(int64_t j, int64_t n_keys, double parameter)
{
    (void)n_keys;
    return j == (int64_t)parameter ? 17.0 : 0.0;
}

static void one_early_score_above_many(void **state)
{
    (void)state;
    /* e^17 = 2.4e7 is more than 2^24: a plain running sum would lose each of the 16383 others. */
    static const int64_t n_queries[] = {1, 3, 64};
    static const double places[] = {0.0, 1.0, 100.0};
    for (size_t n = 0; n < N_OF(n_queries); n++) {
        for (size_t place = 0; place < N_OF(places); place++) {
            attention problem;
            const heed_softmax_options options = unit_scale();
            create_with_scores(&problem, (attention_shape){1, 1, 1, n_queries[n], 16384, 2, 8}, early_score,
                               places[place]);
            /* The others agree, so that nothing averages out. */
            tensor_fill(&problem.v, 1.0f);
            for (int64_t c = 0; c < 8; c++)
                *tensor_at(&problem.v, 0, 0, (int64_t)places[place], c) = c % 2 ? 0.0f : -1.0f;
            expect_run(&problem, fixture_context, &options);
            for (int64_t i = 0; i < n_queries[n]; i++) {
                double want[8];
                double want_lse;
                oracle_softmax_row(&problem.q, &problem.k, &problem.v, &options, 0, 0, i, want, &want_lse);
                const heed_tensor row = tensor_slice(&problem.out, 2, i, 1);
                const compare_result result = compare_tensor(&row, want, 2e-5, 1.0);
                if (!result.equal)
                    fail_msg("early score, row %d of %d: %s", (int)i, (int)n_queries[n], result.text);
                const heed_tensor lse = tensor_slice(&problem.lse, 2, i, 1);
                assert_true(compare_tensor(&lse, &want_lse, 2e-5, 1.0).equal);
            }
            attention_destroy(&problem);
        }
    }
}

/* Options that shape weights in every way, for shapes of at most 2 query heads. */
static void fill_options(heed_softmax_options *options, heed_mask *mask, int way, const float *slopes,
                         const heed_tensor *bias)
{
    *options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    *mask = (heed_mask)HEED_MASK_INIT;
    options->mask = mask;
    mask->causal = way & 1;
    mask->window_left = way & 2 ? 90 : -1;
    options->alibi_slopes = way & 4 ? slopes : NULL;
    options->softcap = way & 8 ? 3.0f : 0.0f;
    options->bias = way & 16 ? bias : NULL;
}

/* Runs a problem whose values are all `constant` and checks every row against it. */
static void check_constant(attention_shape shape, int way, float constant, int64_t case_index)
{
    static const float slopes[2] = {0.25f, 0.0625f};
    attention problem;
    guarded memory;
    random_stream random = random_start((uint64_t)case_index);
    const heed_tensor bias = tensor_create(&memory, HEED_FLOAT32, 1, 1, 1, shape.n_keys, LAYOUT_BHND, GUARD_END);
    tensor_fill_uniform(&bias, &random, -20.0f, 20.0f);
    attention_create(&problem, shape, LAYOUT_BHND, GUARD_END);
    attention_fill(&problem, &random, 2.0f);
    tensor_fill(&problem.v, constant);
    heed_softmax_options options;
    heed_mask mask;
    fill_options(&options, &mask, way, slopes, &bias);
    expect_run(&problem, fixture_context, &options);
    const double ulp = (double)(nextafterf(fabsf(constant), INFINITY) - fabsf(constant));
    for (int64_t h = 0; h < shape.q_heads; h++) {
        for (int64_t i = 0; i < shape.n_queries; i++) {
            int64_t n_seen = 0;
            for (int64_t j = 0; j < shape.n_keys; j++)
                n_seen += oracle_visible(&mask, 0, h, i, j, shape.n_queries, shape.n_keys);
            const double want = n_seen > 0 ? (double)constant : 0.0;
            const double allowed = n_seen > 0 && constant != 1.0f ? 4.0 * ulp * log2((double)n_seen) : 0.0;
            for (int64_t c = 0; c < shape.value_channels; c++) {
                const double got = (double)*tensor_at(&problem.out, 0, h, i, c);
                if (!(fabs(got - want) <= allowed))
                    fail_msg("v = %g, way %d, Nq %d, Nk %d, row (%d, %d) sees %d: got %.9g", (double)constant, way,
                             (int)shape.n_queries, (int)shape.n_keys, (int)h, (int)i, (int)n_seen, got);
            }
        }
    }
    attention_destroy(&problem);
    guarded_destroy(&memory);
}

static void constant_values(void **state)
{
    (void)state;
    static const int64_t n_keys[] = {1, 2, 3, 5, 127, 128, 129, 513, 1300, 5000};
    static const int64_t n_queries[] = {1, 4, 51};
    static const float constants[] = {1.0f, 0.7f, -3.3e5f, 1.1e-20f};
    int64_t case_index = 0;
    for (size_t k = 0; k < N_OF(n_keys); k++) {
        for (size_t i = 0; i < N_OF(n_queries); i++) {
            for (size_t c = 0; c < N_OF(constants); c++) {
                for (int way = 0; way < 32; way++) {
                    case_index++;
                    /* The long ones only with every eleventh set of options. */
                    if (runner_takes(case_index) && (n_keys[k] < 1000 || case_index % 11 == 0))
                        check_constant((attention_shape){1, 2, 1, n_queries[i], n_keys[k], 6, 3}, way, constants[c],
                                       case_index);
                }
            }
        }
    }
}

static void constant_values_over_64_ranges(void **state)
{
    (void)state;
    for (int64_t n_keys = 20000; n_keys <= 40000; n_keys += 20000) {
        check_constant((attention_shape){1, 2, 1, 1, n_keys, 6, 3}, 0, 1.0f, n_keys);
        check_constant((attention_shape){1, 2, 1, 1, n_keys, 6, 3}, 4, 0.7f, n_keys);
    }
}

static void denormal_values(void **state)
{
    (void)state;
    static const int64_t n_queries[] = {2, 60};
    for (size_t n = 0; n < N_OF(n_queries); n++) {
        enum { KEYS = 64 };
        attention problem;
        random_stream random = random_start(n);
        attention_create(&problem, (attention_shape){1, 1, 1, n_queries[n], KEYS, 8, 8}, LAYOUT_BHND, GUARD_END);
        attention_fill(&problem, &random, 1.0f);
        tensor_fill_uniform(&problem.v, &random, -1e-39f, 1e-39f);
        expect_run(&problem, fixture_context, NULL);
        double want[60 * 8];
        oracle_softmax(&problem.q, &problem.k, &problem.v, NULL, want, NULL);
        /* Each of the products and the quotient are rounded to a whole number of smallest denormals. */
        const double allowed = 2e-6 * 1e-39 + 0.5 * (KEYS + 1) * 0x1p-149;
        const compare_result result = compare_tensor(&problem.out, want, allowed / 1e-39, 1e-39);
        if (!result.equal)
            fail_msg("denormal values: %s", result.text);
        attention_destroy(&problem);
    }
    volatile float tiny = FLT_MIN;
    tiny = tiny * 0.5f;
    assert_true(tiny > 0.0f); /* the floating-point mode is the caller's */
}

static void denormal_weights(void **state)
{
    (void)state;
    /* Scores that fall by 0.25 from key to key: from the 350th on weights are denormal, then zero. Large values make
     * them show in an absolute sense, never beyond the bound. */
    static const attention_shape shapes[] = {{1, 1, 1, 50, 500, 2, 8}, {1, 1, 1, 1, 500, 2, 8}};
    for (size_t s = 0; s < N_OF(shapes); s++) {
        attention problem;
        const heed_softmax_options options = unit_scale();
        create_with_scores(&problem, shapes[s], slope_score, -0.25);
        for (int64_t j = 300; j < 500; j++)
            *tensor_at(&problem.v, 0, 0, j, 0) = 1e30f;
        expect_match(&problem, &options, 30.0, "denormal weights");
        /* The other channels hold values up to 1: the same bound, with nothing large to hide behind. */
        double want[50 * 8];
        oracle_softmax(&problem.q, &problem.k, &problem.v, &options, want, NULL);
        for (int64_t i = 0; i < shapes[s].n_queries; i++) {
            for (int64_t c = 1; c < 8; c++)
                assert_true(fabs((double)*tensor_at(&problem.out, 0, 0, i, c) - want[i * 8 + c]) <=
                            attention_bound(30.0));
        }
        attention_destroy(&problem);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_scores_up_to_30),
        cmocka_unit_test(each_row_reaches_30),
        cmocka_unit_test(shaped_scores_up_to_30),
        cmocka_unit_test(maximum_that_grows_or_falls),
        cmocka_unit_test(equal_scores_beyond_any_sentinel),
        cmocka_unit_test(sentinel_biases_are_numbers),
        cmocka_unit_test(sinks_far_from_everything),
        cmocka_unit_test(scores_of_ten_thousand),
        cmocka_unit_test(one_early_score_above_many),
        cmocka_unit_test(constant_values),
        cmocka_unit_test(constant_values_over_64_ranges),
        cmocka_unit_test(denormal_values),
        cmocka_unit_test(denormal_weights),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
