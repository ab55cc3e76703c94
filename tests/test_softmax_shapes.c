/* Softmax attention over sizes and layouts: lengths around every tile and block, all channel counts, head groups,
 * strides, few query rows over long caches, offsets beyond 2^31. */
#include "support/fixture.h"

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* One problem of random contents with default options. Guards and layouts take turns. */
static void check_shape(attention_shape shape, int64_t case_index, const char *name)
{
    attention problem;
    random_stream random = random_start((uint64_t)case_index);
    attention_create(&problem, shape, (tensor_layout)(case_index % N_LAYOUTS),
                     case_index / N_LAYOUTS % 2 ? GUARD_START : GUARD_END);
    attention_fill(&problem, &random, 1.5f);
    expect_match(&problem, NULL, 12.0, name);
    attention_destroy(&problem);
}

static void lengths_around_tiles_and_blocks(void **state)
{
    (void)state;
    const int64_t lanes = runner_tile_lanes();
    const int64_t n_queries[] = {0, 1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 100};
    const int64_t n_keys[] = {0, 1, 2, 3, 7, 8, 9, 127, 128, 129, 255, 256, 257, 300};
    int64_t case_index = 0;
    for (size_t i = 0; i < N_OF(n_queries); i++) {
        for (size_t j = 0; j < N_OF(n_keys); j++) {
            case_index++;
            if (runner_takes(case_index))
                check_shape((attention_shape){2, 2, 1, n_queries[i], n_keys[j], 17, 9}, case_index, "lengths");
        }
    }
}

static void channel_counts(void **state)
{
    (void)state;
    static const int64_t counts[] = {1, 3, 7, 8, 15, 17, 63, 65, 80, 96, 100, 128, 192, 256, 576, 1024};
    int64_t case_index = 0;
    for (size_t i = 0; i < N_OF(counts); i++) {
        for (size_t j = 0; j < N_OF(counts); j++) {
            case_index++;
            if (!runner_takes(case_index))
                continue;
            const int64_t n_queries = case_index % 3 == 0 ? 2 : runner_tile_lanes() + 1;
            check_shape((attention_shape){1, 1, 1, n_queries, 131, counts[i], counts[j]}, case_index, "channels");
        }
    }
}

static void every_channel_count(void **state)
{
    (void)state;
    for (int64_t channels = 1; channels <= 1024; channels++) {
        if (!runner_takes(channels))
            continue;
        check_shape((attention_shape){1, 1, 1, runner_tile_lanes(), 5, channels, channels}, channels, "D = Dv");
        check_shape((attention_shape){1, 1, 1, 2, 9, channels, 1025 - channels}, channels, "D != Dv");
    }
}

static void head_groups(void **state)
{
    (void)state;
    static const int64_t ratios[] = {1, 2, 3, 5, 6, 7, 8, 12, 49};
    static const int64_t n_queries[] = {1, 2, 3, 4, 5, 6, 7, 9, 12, 23, 24, 47, 50};
    static const int64_t n_keys[] = {1, 40, 130};
    int64_t case_index = 0;
    for (size_t r = 0; r < N_OF(ratios); r++) {
        for (size_t i = 0; i < N_OF(n_queries); i++) {
            for (size_t j = 0; j < N_OF(n_keys); j++) {
                case_index++;
                const int64_t kv_heads = 1 + case_index % 3;
                if (runner_takes(case_index))
                    check_shape((attention_shape){1, ratios[r] * kv_heads, kv_heads, n_queries[i], n_keys[j], 8, 5},
                                case_index, "groups");
            }
        }
    }
}

static void few_rows_over_long_keys(void **state)
{
    (void)state;
    static const int64_t n_keys[] = {510,  511,  512,  513,  639,  1023, 1024, 1025,
                                     1100, 1535, 1537, 2047, 2048, 2049, 2100};
    static const int64_t n_queries[] = {1, 2, 5};
    static const int64_t ratios[] = {1, 4, 7};
    int64_t case_index = 0;
    for (size_t j = 0; j < N_OF(n_keys); j++) {
        for (size_t i = 0; i < N_OF(n_queries); i++) {
            for (size_t r = 0; r < N_OF(ratios); r++) {
                case_index++;
                if (runner_takes(case_index))
                    check_shape((attention_shape){2, ratios[r], 1, n_queries[i], n_keys[j], 16, 11}, case_index,
                                "few rows");
            }
        }
    }
}

static void more_ranges_than_may_be_in_flight(void **state)
{
    (void)state;
    /* 64 ranges of 512 keys end at 32768: from there on the ranges grow. */
    static const int64_t n_keys[] = {32767, 32768, 32769, 40000};
    for (size_t j = 0; j < N_OF(n_keys); j++) {
        if (!runner_takes((int64_t)j))
            continue;
        check_shape((attention_shape){1, 3, 1, 1, n_keys[j], 8, 8}, (int64_t)j, "long keys");
        check_shape((attention_shape){1, 2, 2, 2, n_keys[j], 5, 6}, (int64_t)j + 4, "long keys");
    }
}

static void layouts_and_guard_sides(void **state)
{
    (void)state;
    /* The last one: groups of tiles; with the heads of a token together, rows of V a page apart. */
    static const attention_shape shapes[] = {
        {2, 6, 3, 65, 65, 13, 13}, {2, 6, 2, 50, 131, 12, 20}, {3, 4, 1, 2, 600, 24, 16},
        {1, 1, 1, 1, 1, 1, 1},     {2, 2, 2, 131, 7, 1, 3},    {1, 8, 8, 131, 260, 6, 130},
    };
    for (size_t s = 0; s < N_OF(shapes); s++) {
        attention first;
        for (int64_t way = 0; way < 2 * N_LAYOUTS; way++) {
            attention problem;
            random_stream random = random_start(s);
            attention_create(&problem, shapes[s], (tensor_layout)(way / 2), way % 2 ? GUARD_START : GUARD_END);
            attention_fill(&problem, &random, 1.0f);
            expect_match(&problem, NULL, 10.0, "layouts");
            if (way == 0) {
                first = problem;
                continue;
            }
            expect_same_bits(&problem, &first, "layouts");
            attention_destroy(&problem);
        }
        attention_destroy(&first);
    }
}

static void inputs_repeated_by_stride_zero(void **state)
{
    (void)state;
    /* Bits 0-2: q, k, v; for each of the axes batch, head and token. */
    static const int64_t n_queries[] = {2, 60};
    for (int64_t way = 1; way < 64; way++) {
        if (!runner_takes(way - 1))
            continue;
        for (size_t i = 0; i < N_OF(n_queries); i++) {
            attention problem;
            random_stream random = random_start((uint64_t)way);
            attention_create(&problem, (attention_shape){2, 4, 2, n_queries[i], 140, 9, 10},
                             way % 2 ? LAYOUT_BHND : LAYOUT_BNHD, GUARD_END);
            attention_fill(&problem, &random, 1.0f);
            heed_tensor *inputs[] = {&problem.q, &problem.k, &problem.v};
            for (int bit = 0; bit < 6; bit++) {
                if (way >> bit & 1)
                    inputs[bit % 3]->stride[bit / 3 + (int)(way % 2)] = 0;
            }
            expect_match(&problem, NULL, 10.0, "stride 0");
            attention_destroy(&problem);
        }
    }
}

static void strides_of_size_one_are_not_looked_at(void **state)
{
    (void)state;
    attention problem;
    random_stream random = random_start(1);
    attention_create(&problem, (attention_shape){1, 1, 1, 1, 1, 1, 1}, LAYOUT_BHND, GUARD_END);
    attention_fill(&problem, &random, 1.0f);
    heed_tensor *all[] = {&problem.q, &problem.k, &problem.v, &problem.out, &problem.lse};
    for (int n = 0; n < 5; n++) {
        for (int axis = 0; axis < 4; axis++)
            all[n]->stride[axis] = axis % 2 ? INT64_MIN + n : INT64_MAX - axis;
    }
    expect_match(&problem, NULL, 10.0, "strides of size 1");
    attention_destroy(&problem);
}

static void empty_sizes(void **state)
{
    (void)state;
    const attention_shape shapes[] = {
        {0, 2, 1, 5, 5, 4, 4}, {2, 0, 1, 5, 5, 4, 4},  {2, 2, 1, 0, 5, 4, 4},
        {2, 2, 1, 5, 0, 4, 4}, {2, 2, 1, 70, 0, 4, 4}, {2, 2, 1, 0, 0, 4, 4},
    };
    for (size_t s = 0; s < N_OF(shapes); s++) {
        attention problem;
        attention_create(&problem, shapes[s], LAYOUT_BHND, GUARD_END);
        heed_tensor *all[] = {&problem.q, &problem.k, &problem.v, &problem.out, &problem.lse};
        random_stream random = random_start(s);
        attention_fill(&problem, &random, 1.0f);
        for (int n = 0; n < 5; n++) {
            const int64_t *shape = all[n]->shape;
            if (shape[0] * shape[1] * shape[2] * shape[3] == 0)
                all[n]->data = NULL;
        }
        expect_match(&problem, NULL, 10.0, "empty");
        attention_destroy(&problem);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_around_tiles_and_blocks),
        cmocka_unit_test(channel_counts),
        cmocka_unit_test(every_channel_count),
        cmocka_unit_test(head_groups),
        cmocka_unit_test(few_rows_over_long_keys),
        cmocka_unit_test(more_ranges_than_may_be_in_flight),
        cmocka_unit_test(layouts_and_guard_sides),
        cmocka_unit_test(inputs_repeated_by_stride_zero),
        cmocka_unit_test(strides_of_size_one_are_not_looked_at),
        cmocka_unit_test(empty_sizes),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
