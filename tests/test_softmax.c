/* Softmax attention against the oracle: every option but the mask, alone and together. */
#include "support/fixture.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Shapes that take every way through the library: whole and partial tiles, packed groups, ranges of keys. */
static const attention_shape option_shapes[] = {
    {2, 4, 2, 101, 150, 12, 10},
    {2, 6, 1, 3, 131, 12, 10},
    {1, 3, 3, 1, 1200, 8, 9},
    {2, 2, 2, 50, 257, 16, 5},
};

static void check_options(attention_shape shape, const heed_softmax_options *options, double max_score,
                          int64_t case_index, const char *name)
{
    attention problem;
    random_stream random = random_start((uint64_t)case_index);
    attention_create(&problem, shape, (tensor_layout)(case_index % N_LAYOUTS),
                     case_index / N_LAYOUTS % 2 ? GUARD_START : GUARD_END);
    attention_fill(&problem, &random, 1.5f);
    expect_match(&problem, options, max_score, name);
    attention_destroy(&problem);
}

static void default_options(void **state)
{
    (void)state;
    const heed_softmax_options defaults = HEED_SOFTMAX_OPTIONS_INIT;
    const heed_mask everybody = HEED_MASK_INIT;
    heed_softmax_options with_mask = HEED_SOFTMAX_OPTIONS_INIT;
    with_mask.mask = &everybody;
    const heed_softmax_options *const all[] = {NULL, &defaults, &with_mask};
    for (size_t s = 0; s < N_OF(option_shapes); s++) {
        attention problems[3];
        for (int way = 0; way < 3; way++) {
            random_stream random = random_start(s);
            attention_create(&problems[way], option_shapes[s], LAYOUT_BHND, GUARD_END);
            attention_fill(&problems[way], &random, 1.5f);
            expect_match(&problems[way], all[way], 12.0, "defaults");
            expect_same_bits(&problems[way], &problems[0], "defaults");
        }
        for (int way = 0; way < 3; way++)
            attention_destroy(&problems[way]);
    }
}

static void scales(void **state)
{
    (void)state;
    static const float values[] = {1.0f, 0.125f, -0.3f, 1e-6f, 1e-30f, -1e-40f, 0.5f};
    for (size_t s = 0; s < N_OF(option_shapes); s++) {
        for (size_t n = 0; n < N_OF(values); n++) {
            heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
            options.scale = values[n];
            check_options(option_shapes[s], &options, 30.0, (int64_t)n, "scale");
        }
    }
}

static void softcaps(void **state)
{
    (void)state;
    /* Scores are far below, around and far above the cap. */
    static const float caps[] = {0.5f, 1.0f, 2.0f, 7.5f, 15.0f, 30.0f, 50.0f};
    static const float scales[] = {1e-8f, 0.1f, 1.0f, 20.0f, 1e30f};
    for (size_t s = 0; s < N_OF(option_shapes); s++) {
        for (size_t n = 0; n < N_OF(caps) * N_OF(scales); n++) {
            heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
            options.softcap = caps[n % N_OF(caps)];
            options.scale = scales[n / N_OF(caps)];
            attention_shape shape = option_shapes[s];
            /* What is rounded is the score before the cap: five deviations of it with up to 16 channels. */
            double max_score = fmax(5.0 * 1.5 * 4.0 * (double)options.scale, (double)options.softcap);
            if (options.scale > 1e3f) {
                /* All scores are at the cap, if only their signs are sure: a single product. */
                shape.channels = 1;
                max_score = (double)options.softcap;
            }
            char name[60];
            snprintf(name, sizeof(name), "cap %g, scale %g", (double)options.softcap, (double)options.scale);
            if (runner_takes((int64_t)n))
                check_options(shape, &options, max_score, (int64_t)n, name);
        }
    }
}

static void softcap_comes_before_bias_and_mask(void **state)
{
    (void)state;
    /* A cap of 1 would flatten a bias of -8 and revive a hidden key, were it applied after them. */
    static const int64_t n_keys[] = {5, 131, 701};
    for (size_t n = 0; n < N_OF(n_keys); n++) {
        for (int64_t n_queries = 2; n_queries < 70; n_queries += 53) {
            guarded memory;
            heed_tensor bias =
                tensor_create(&memory, HEED_FLOAT32, 1, 1, n_queries, n_keys[n], LAYOUT_PADDED, GUARD_END);
            random_stream random = random_start(n);
            tensor_fill_uniform(&bias, &random, -8.0f, 8.0f);
            *tensor_at(&bias, 0, 0, 1, 3) = -INFINITY;
            heed_mask mask = HEED_MASK_INIT;
            mask.causal = 1;
            heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
            options.softcap = 1.0f;
            options.bias = &bias;
            check_options((attention_shape){1, 2, 1, n_queries, n_keys[n], 9, 9}, &options, 9.0, 1, "cap, bias");
            options.mask = &mask;
            check_options((attention_shape){1, 2, 1, n_queries, n_keys[n], 9, 9}, &options, 9.0, 2, "cap, bias, mask");
            guarded_destroy(&memory);
        }
    }
}

/* Entries that stand for "hidden" in other people's biases among ordinary ones. */
static void fill_bias(const heed_tensor *bias, random_stream *random)
{
    tensor_fill_uniform(bias, random, -4.0f, 4.0f);
    for (int64_t row = 0; row < bias->shape[0] * bias->shape[1] * bias->shape[2]; row++) {
        const int64_t n = row % bias->shape[2];
        const int64_t h = row / bias->shape[2] % bias->shape[1];
        float *values = tensor_at(bias, row / bias->shape[2] / bias->shape[1], h, n, 0);
        for (int64_t j = 0; j < bias->shape[3]; j++) {
            const int64_t kind = random_below(random, 16);
            values[j] = kind == 0 ? -INFINITY : kind == 1 ? -FLT_MAX : values[j];
        }
        for (int64_t j = 0; row % 11 == 5 && j < bias->shape[3]; j++)
            values[j] = -INFINITY; /* this row sees nothing */
    }
}

static void biases_of_every_broadcast(void **state)
{
    (void)state;
    int64_t case_index = 0;
    for (size_t s = 0; s < N_OF(option_shapes); s++) {
        for (int way = 0; way < 16; way++) {
            case_index++;
            if (!runner_takes(case_index))
                continue;
            const attention_shape *shape = &option_shapes[s];
            const int64_t sizes[3] = {way & 1 ? shape->batch : 1, way & 2 ? shape->q_heads : 1,
                                      way & 4 ? shape->n_queries : 1};
            guarded memory;
            heed_tensor bias = tensor_create(&memory, HEED_FLOAT32, sizes[0], sizes[1], sizes[2], shape->n_keys,
                                             way % 3 ? LAYOUT_PADDED : LAYOUT_BNHD, way % 2 ? GUARD_END : GUARD_START);
            random_stream random = random_start((uint64_t)case_index);
            fill_bias(&bias, &random);
            if (way & 8) {
                /* The same bias with its full sizes and strides of 0. */
                const int64_t full[3] = {shape->batch, shape->q_heads, shape->n_queries};
                for (int axis = 0; axis < 3; axis++) {
                    bias.stride[axis] = bias.shape[axis] == 1 ? 0 : bias.stride[axis];
                    bias.shape[axis] = full[axis];
                }
            }
            heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
            options.bias = &bias;
            check_options(*shape, &options, 16.0, case_index, "bias");
            assert_true(guarded_intact(&memory));
            guarded_destroy(&memory);
        }
    }
}

/* Slopes 2^(-8 n / heads) of the ALiBi paper, for any number of heads. */
static void fill_slopes(float *slopes, int64_t n_heads)
{
    for (int64_t h = 0; h < n_heads; h++)
        slopes[h] = (float)exp2(-8.0 * (double)(h + 1) / (double)n_heads);
}

static void alibi_slopes(void **state)
{
    (void)state;
    static const int64_t heads[] = {1, 2, 3, 5, 6, 8, 12};
    static const int64_t sizes[][2] = {{60, 60}, {3, 60}, {55, 131}, {101, 40}, {1, 600}};
    int64_t case_index = 0;
    for (size_t h = 0; h < N_OF(heads); h++) {
        for (size_t size = 0; size < N_OF(sizes); size++) {
            for (int way = 0; way < 6; way++) {
                case_index++;
                if (!runner_takes(case_index))
                    continue;
                float slopes[12];
                fill_slopes(slopes, heads[h]);
                heed_mask mask = HEED_MASK_INIT;
                mask.causal = way % 2;
                mask.alignment = (heed_alignment)(way / 2);
                const int64_t starts[2] = {40, 7};
                if (mask.alignment == HEED_ALIGN_POSITIONS) {
                    mask.query_start = &starts[0];
                    mask.key_start = &starts[1];
                }
                heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
                options.alibi_slopes = slopes;
                options.mask = way ? &mask : NULL;
                /* Distances up to 600 with slopes up to 0.7: scores down to -420. */
                check_options(
                    (attention_shape){1, heads[h], heads[h] % 3 ? 1 : 3, sizes[size][0], sizes[size][1], 6, 6},
                    &options, 12.0 + 0.71 * 640.0, case_index, "ALiBi");
            }
        }
    }
}

static void alibi_slopes_of_any_sign(void **state)
{
    (void)state;
    const float slopes[4] = {0.05f, -0.1f, 0.0f, 1e-7f};
    for (size_t s = 0; s < 2; s++) {
        heed_mask mask = HEED_MASK_INIT;
        mask.window_right = 30;
        heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
        options.alibi_slopes = slopes;
        options.mask = &mask;
        check_options((attention_shape){1, 4, 2, s ? 70 : 2, 130, 6, 6}, &options, 30.0, (int64_t)s, "slopes");
    }
}

static void sinks(void **state)
{
    (void)state;
    const float sets[][3] = {{0.0f, 0.0f, 0.0f},
                             {-3.0f, 2.0f, 25.0f},
                             {-INFINITY, -INFINITY, -INFINITY},
                             {-INFINITY, 5.0f, -1e30f},
                             {30.0f, -30.0f, -200.0f}};
    static const attention_shape shapes[] = {
        {2, 3, 1, 101, 150, 9, 7}, {2, 3, 3, 2, 131, 9, 7}, {1, 3, 1, 1, 1200, 9, 7}, {1, 3, 3, 60, 0, 9, 7}};
    int64_t case_index = 0;
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (size_t n = 0; n < N_OF(sets); n++) {
            for (int causal = 0; causal < 2; causal++) {
                /* Top left with a window in front of the queries: the last rows see no key. */
                heed_mask mask = HEED_MASK_INIT;
                mask.causal = causal;
                mask.window_left = 20;
                mask.alignment = causal ? HEED_ALIGN_BOTTOM_RIGHT : HEED_ALIGN_TOP_LEFT;
                const int64_t lengths[2] = {shapes[s].n_keys * 2 / 5, 0};
                mask.key_lengths = causal ? NULL : lengths;
                heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
                options.sinks = sets[n];
                check_options(shapes[s], &options, 30.0, case_index++, "sinks");
                options.mask = &mask;
                check_options(shapes[s], &options, 30.0, case_index++, "sinks, mask");
            }
        }
    }
}

static void sinks_join_nothing_in_padded_rows(void **state)
{
    (void)state;
    const float values[2] = {1.0f, -2.0f};
    const int64_t lengths[2] = {3, 0};
    heed_mask mask = HEED_MASK_INIT;
    mask.query_lengths = lengths;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.sinks = values;
    options.mask = &mask;
    check_options((attention_shape){2, 2, 1, 60, 40, 5, 5}, &options, 12.0, 0, "padded rows");
    check_options((attention_shape){2, 2, 1, 5, 40, 5, 5}, &options, 12.0, 1, "padded rows");
}

static void mixed_options(void **state)
{
    (void)state;
    for (int64_t case_index = 0; case_index < 400; case_index++) {
        if (!runner_takes(case_index))
            continue;
        random_stream random = random_start(5000 + (uint64_t)case_index);
        const int64_t kv_heads = 1 + random_below(&random, 3);
        const attention_shape shape = {1 + random_below(&random, 2),
                                       kv_heads * (1 + random_below(&random, 4)),
                                       kv_heads,
                                       1 + random_below(&random, case_index % 2 ? 6 : 110),
                                       1 + random_below(&random, case_index % 5 ? 200 : 1400),
                                       1 + random_below(&random, 40),
                                       1 + random_below(&random, 40)};
        float slopes[12];
        float sink_values[12];
        for (int h = 0; h < 12; h++) {
            slopes[h] = random_uniform(&random, 0.0f, 0.02f);
            sink_values[h] = random_below(&random, 4) ? random_uniform(&random, -5.0f, 10.0f) : -INFINITY;
        }
        guarded memory;
        heed_tensor bias =
            tensor_create(&memory, HEED_FLOAT32, random_below(&random, 2) ? shape.batch : 1,
                          random_below(&random, 2) ? shape.q_heads : 1, random_below(&random, 2) ? shape.n_queries : 1,
                          shape.n_keys, (tensor_layout)random_below(&random, 3), GUARD_END);
        fill_bias(&bias, &random);
        heed_mask mask = HEED_MASK_INIT;
        mask.causal = (int)random_below(&random, 2);
        mask.window_left = random_below(&random, 2) ? random_below(&random, 300) : -1;
        mask.alignment = (heed_alignment)random_below(&random, 2);
        heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
        options.scale = random_below(&random, 2) ? random_uniform(&random, 0.1f, 0.4f) : 0.0f;
        options.softcap = random_below(&random, 2) ? random_uniform(&random, 0.5f, 20.0f) : 0.0f;
        options.bias = random_below(&random, 2) ? &bias : NULL;
        options.alibi_slopes = random_below(&random, 2) ? slopes : NULL;
        options.sinks = random_below(&random, 2) ? sink_values : NULL;
        options.mask = random_below(&random, 2) ? &mask : NULL;
        /* 0.4 x 1.5 x sqrt(40) x 5 deviations, 4 of bias, 1400 x 0.02 of ALiBi. */
        check_options(shape, &options, 55.0, case_index, "mixed options");
        guarded_destroy(&memory);
    }
}

static void lse_may_be_null(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_OF(option_shapes); s++) {
        attention with;
        attention without;
        random_stream random = random_start(s);
        attention_create(&with, option_shapes[s], LAYOUT_BHND, GUARD_END);
        attention_fill(&with, &random, 1.5f);
        attention_create(&without, option_shapes[s], LAYOUT_BHND, GUARD_END);
        expect_match(&with, NULL, 12.0, "with lse");
        assert_int_equal(heed_softmax_forward(fixture_context, &with.q, &with.k, &with.v, NULL, &without.out, NULL),
                         HEED_OK);
        const compare_result result = compare_bits(&without.out, &with.out);
        if (!result.equal)
            fail_msg("without lse: %s", result.text);
        attention_destroy(&with);
        attention_destroy(&without);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_options),
        cmocka_unit_test(scales),
        cmocka_unit_test(softcaps),
        cmocka_unit_test(softcap_comes_before_bias_and_mask),
        cmocka_unit_test(biases_of_every_broadcast),
        cmocka_unit_test(alibi_slopes),
        cmocka_unit_test(alibi_slopes_of_any_sign),
        cmocka_unit_test(sinks),
        cmocka_unit_test(sinks_join_nothing_in_padded_rows),
        cmocka_unit_test(mixed_options),
        cmocka_unit_test(lse_may_be_null),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
