/* Every field of heed_mask, alone and together, against the oracle: windows around tiles and blocks, lengths,
 * alignments, positions, boolean masks, and rows that see nothing. */
#include "support/fixture.h"

#include <math.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* One problem of random contents under one mask. */
static void check_mask(attention_shape shape, const heed_mask *mask, int64_t case_index, const char *name)
{
    attention problem;
    random_stream random = random_start((uint64_t)case_index);
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = mask;
    attention_create(&problem, shape, (tensor_layout)(case_index % N_LAYOUTS),
                     case_index / N_LAYOUTS % 2 ? GUARD_START : GUARD_END);
    attention_fill(&problem, &random, 1.5f);
    expect_match(&problem, &options, 12.0, name);
    attention_destroy(&problem);
}

static void windows(void **state)
{
    (void)state;
    const int64_t lanes = runner_tile_lanes();
    const int64_t widths[] = {-1, 0, 1, 2, lanes - 1, lanes, lanes + 1, 127, 128, 129, 199, 200, 1000};
    static const int64_t sizes[][2] = {{100, 100}, {70, 200}, {200, 70}, {2, 200}, {5, 140}};
    int64_t case_index = 0;
    for (size_t left = 0; left < N_OF(widths); left++) {
        for (size_t right = 0; right < N_OF(widths); right++) {
            for (size_t size = 0; size < N_OF(sizes); size++) {
                for (int way = 0; way < 4; way++) {
                    case_index++;
                    /* A causal mask leaves nothing of a right window but its zero. */
                    if (!runner_takes(case_index) || (way % 2 && right > 2))
                        continue;
                    heed_mask mask = HEED_MASK_INIT;
                    mask.causal = way % 2;
                    mask.alignment = way / 2 ? HEED_ALIGN_TOP_LEFT : HEED_ALIGN_BOTTOM_RIGHT;
                    mask.window_left = widths[left];
                    mask.window_right = widths[right];
                    check_mask((attention_shape){1, 1, 1, sizes[size][0], sizes[size][1], 5, 4}, &mask, case_index,
                               "windows");
                }
            }
        }
    }
}

static void causal_at_every_offset(void **state)
{
    (void)state;
    /* Nk - Nq decides where the diagonal enters a tile and a block. */
    for (int64_t n_keys = 0; n_keys <= 300; n_keys++) {
        if (!runner_takes(n_keys))
            continue;
        heed_mask mask = HEED_MASK_INIT;
        mask.causal = 1;
        mask.alignment = n_keys % 3 == 0 ? HEED_ALIGN_TOP_LEFT : HEED_ALIGN_BOTTOM_RIGHT;
        check_mask((attention_shape){1, 2, 1, 101, n_keys, 5, 4}, &mask, n_keys, "causal");
        check_mask((attention_shape){1, 4, 2, 1 + n_keys % 4, n_keys, 5, 4}, &mask, n_keys, "causal, few rows");
    }
}

static void causal_decoding_sees_all_keys(void **state)
{
    (void)state;
    /* One query at the bottom right: the same keys as without a mask, so the same bits. */
    for (int64_t n_keys = 1; n_keys < 700; n_keys += 37) {
        heed_mask mask = HEED_MASK_INIT;
        mask.causal = 1;
        heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
        options.mask = &mask;
        attention causal;
        attention plain;
        random_stream random = random_start((uint64_t)n_keys);
        attention_create(&causal, (attention_shape){1, 4, 2, 1, n_keys, 16, 8}, LAYOUT_BHND, GUARD_END);
        attention_create(&plain, causal.shape, LAYOUT_BHND, GUARD_END);
        attention_fill(&causal, &random, 1.0f);
        random = random_start((uint64_t)n_keys);
        attention_fill(&plain, &random, 1.0f);
        expect_match(&causal, &options, 10.0, "causal decoding");
        expect_run(&plain, fixture_context, NULL);
        expect_same_bits(&causal, &plain, "causal decoding");
        attention_destroy(&causal);
        attention_destroy(&plain);
    }
}

static void lengths_of_batch_elements(void **state)
{
    (void)state;
    enum { BATCH = 5 };
    static const attention_shape shapes[] = {
        {BATCH, 2, 1, 60, 140, 7, 6}, {BATCH, 3, 1, 3, 140, 7, 6}, {BATCH, 2, 2, 1, 700, 7, 6}};
    static const int64_t key_lengths[][BATCH] = {{0, 1, 127, 128, 129}, {140, 139, 64, 5, 0}, {7, 8, 9, 140, 140}};
    int64_t case_index = 0;
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (size_t k = 0; k < N_OF(key_lengths); k++) {
            for (int way = 0; way < 24; way++) {
                case_index++;
                if (!runner_takes(case_index))
                    continue;
                const int64_t n_queries = shapes[s].n_queries;
                const int64_t query_lengths[BATCH] = {n_queries, n_queries / 2, 0, n_queries - 1, 1};
                heed_mask mask = HEED_MASK_INIT;
                mask.causal = way & 1;
                mask.window_left = way & 2 ? 40 : -1;
                mask.key_lengths = way & 4 ? NULL : key_lengths[k];
                mask.query_lengths = way >= 8 ? query_lengths : NULL;
                mask.alignment = way >= 16 ? HEED_ALIGN_TOP_LEFT : HEED_ALIGN_BOTTOM_RIGHT;
                check_mask(shapes[s], &mask, case_index, "lengths");
            }
        }
    }
}

static void boolean_masks(void **state)
{
    (void)state;
    static const attention_shape shapes[] = {
        {2, 4, 2, 51, 150, 6, 5}, {3, 4, 1, 2, 150, 6, 5}, {2, 2, 1, 1, 1100, 6, 5}, {2, 2, 2, 130, 3, 6, 5}};
    static const int shares[] = {0, 1, 8, 15, 16}; /* of 16 flags are true */
    int64_t case_index = 0;
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (int way = 0; way < 8; way++) {
            for (size_t share = 0; share < N_OF(shares); share++) {
                case_index++;
                if (!runner_takes(case_index))
                    continue;
                const attention_shape *shape = &shapes[s];
                guarded memory;
                heed_tensor visible = tensor_create(&memory, HEED_BOOL, way & 1 ? shape->batch : 1,
                                                    way & 2 ? shape->q_heads : 1, way & 4 ? shape->n_queries : 1,
                                                    shape->n_keys, case_index % 2 ? LAYOUT_PADDED : LAYOUT_BNHD,
                                                    case_index % 3 ? GUARD_END : GUARD_START);
                random_stream random = random_start((uint64_t)case_index);
                tensor_fill_flags(&visible, &random, shares[share]);
                heed_mask mask = HEED_MASK_INIT;
                mask.visible = &visible;
                mask.causal = case_index % 5 == 0;
                mask.window_right = case_index % 7 == 0 ? 3 : -1;
                check_mask(*shape, &mask, case_index, "visible");
                assert_true(guarded_intact(&memory));
                guarded_destroy(&memory);
            }
        }
    }
}

static void boolean_masks_repeated_by_stride_zero(void **state)
{
    (void)state;
    for (int way = 0; way < 8; way++) {
        guarded memory;
        const attention_shape shape = {2, 4, 2, way % 2 ? 51 : 3, 150, 6, 5};
        heed_tensor visible = tensor_create(&memory, HEED_BOOL, 1, 1, 1, shape.n_keys, LAYOUT_BHND, GUARD_END);
        random_stream random = random_start((uint64_t)way);
        tensor_fill_flags(&visible, &random, 8);
        visible.shape[0] = shape.batch;
        visible.shape[1] = shape.q_heads;
        visible.shape[2] = shape.n_queries;
        for (int axis = 0; axis < 3; axis++)
            visible.stride[axis] = 0;
        heed_mask mask = HEED_MASK_INIT;
        mask.visible = &visible;
        check_mask(shape, &mask, way, "visible, stride 0");
        guarded_destroy(&memory);
    }
}

static void positions(void **state)
{
    (void)state;
    enum { BATCH = 3 };
    const int64_t far = INT64_C(1) << 60;
    const int64_t starts[][2][BATCH] = {
        {{0, 0, 0}, {0, 0, 0}},
        {{100, 30, 60}, {0, 10, 200}},
        {{-50, 5, 1000}, {-80, 6, -1000}},
        {{far, -far, far}, {far - 3, -far + 20, -far}},
        {{-far, far, far - 77}, {far, far - 100, far - 200}},
    };
    int64_t case_index = 0;
    for (size_t s = 0; s < N_OF(starts); s++) {
        for (int way = 0; way < 32; way++) {
            case_index++;
            if (!runner_takes(case_index))
                continue;
            heed_mask mask = HEED_MASK_INIT;
            mask.alignment = HEED_ALIGN_POSITIONS;
            mask.query_start = way & 1 ? NULL : starts[s][0];
            mask.key_start = way & 2 ? NULL : starts[s][1];
            mask.causal = (way & 4) != 0;
            mask.window_left = way & 8 ? 70 : -1;
            mask.window_right = way & 16 ? 20 : -1;
            check_mask((attention_shape){BATCH, 2, 1, 100, 150, 5, 5}, &mask, case_index, "positions");
            check_mask((attention_shape){BATCH, 2, 1, 2, 150, 5, 5}, &mask, case_index, "positions, few rows");
        }
    }
}

static void windows_that_end_inside_ranges(void **state)
{
    (void)state;
    /* Few rows whose first and last visible key lie around the ends of the ranges that decoding cuts. */
    static const int64_t edges[] = {0, 1, 127, 128, 511, 512, 513, 700, 1023, 1024, 1025, 1500, 2099};
    int64_t case_index = 0;
    for (size_t begin = 0; begin < N_OF(edges); begin++) {
        for (size_t end = begin; end < N_OF(edges); end++) {
            case_index++;
            if (!runner_takes(case_index))
                continue;
            /* The first query sees the keys begin .. end, the next one leaves one more out. */
            const int64_t query_start[1] = {2099};
            const int64_t length[1] = {edges[end] + 1};
            heed_mask mask = HEED_MASK_INIT;
            mask.alignment = HEED_ALIGN_POSITIONS;
            mask.query_start = query_start;
            mask.window_left = 2099 - edges[begin];
            mask.key_lengths = length;
            check_mask((attention_shape){1, 4, 2, 1 + case_index % 3, 2100, 4, 3}, &mask, case_index, "ranges");
        }
    }
}

/* Hides the keys [begin, end) from the queries [first, last) by flags or by a bias of -inf. */
static void check_hidden_part(int by_bias, int64_t first, int64_t last, int64_t begin, int64_t end, int64_t n_queries)
{
    const attention_shape shape = {1, 2, 2, n_queries, 400, 6, 5};
    attention problem;
    guarded memory;
    heed_tensor part = tensor_create(&memory, by_bias ? HEED_FLOAT32 : HEED_BOOL, 1, 1, n_queries, shape.n_keys,
                                     LAYOUT_BHND, GUARD_END);
    for (int64_t i = 0; i < n_queries; i++) {
        for (int64_t j = 0; j < shape.n_keys; j++) {
            const int hidden = i >= first && i < last && j >= begin && j < end;
            if (by_bias)
                *tensor_at(&part, 0, 0, i, j) = hidden ? -INFINITY : 0.0f;
            else
                *tensor_flag_at(&part, 0, 0, i, j) = !hidden;
        }
    }
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    mask.visible = by_bias ? NULL : &part;
    options.bias = by_bias ? &part : NULL;
    options.mask = &mask;
    random_stream random = random_start((uint64_t)begin);
    attention_create(&problem, shape, LAYOUT_BHND, GUARD_END);
    attention_fill(&problem, &random, 1.5f);
    expect_match(&problem, &options, 12.0, by_bias ? "hidden by bias" : "hidden by flags");
    attention_destroy(&problem);
    guarded_destroy(&memory);
}

static void hidden_blocks_before_between_and_after(void **state)
{
    (void)state;
    static const int64_t keys[][2] = {{0, 128}, {128, 256}, {256, 400}, {0, 256},   {128, 400},
                                      {1, 400}, {0, 399},   {0, 400},   {100, 300}, {384, 400}};
    static const int64_t queries[][2] = {{0, 100}, {0, 1}, {17, 18}, {99, 100}, {0, 48}, {48, 96}, {5, 60}};
    for (size_t k = 0; k < N_OF(keys); k++) {
        for (size_t i = 0; i < N_OF(queries); i++) {
            if (!runner_takes((int64_t)(k * N_OF(queries) + i)))
                continue;
            for (int by_bias = 0; by_bias < 2; by_bias++) {
                check_hidden_part(by_bias, queries[i][0], queries[i][1], keys[k][0], keys[k][1], 100);
                check_hidden_part(by_bias, queries[i][0] % 2, 2, keys[k][0], keys[k][1], 2);
            }
        }
    }
}

static void mixed_masks(void **state)
{
    (void)state;
    enum { BATCH = 3 };
    for (int64_t case_index = 0; case_index < 500; case_index++) {
        if (!runner_takes(case_index))
            continue;
        random_stream random = random_start(1000 + (uint64_t)case_index);
        const int64_t kv_heads = 1 + random_below(&random, 2);
        const attention_shape shape = {BATCH,
                                       kv_heads * (1 + random_below(&random, 3)),
                                       kv_heads,
                                       1 + random_below(&random, case_index % 2 ? 4 : 120),
                                       1 + random_below(&random, case_index % 5 ? 200 : 1200),
                                       1 + random_below(&random, 20),
                                       1 + random_below(&random, 20)};
        int64_t lengths[4][BATCH];
        for (int b = 0; b < BATCH; b++) {
            lengths[0][b] = random_below(&random, shape.n_queries + 1);
            lengths[1][b] = random_below(&random, shape.n_keys + 1);
            lengths[2][b] = random_below(&random, 300) - 100;
            lengths[3][b] = random_below(&random, 300) - 100;
        }
        guarded memory;
        heed_tensor visible =
            tensor_create(&memory, HEED_BOOL, random_below(&random, 2) ? BATCH : 1,
                          random_below(&random, 2) ? shape.q_heads : 1, random_below(&random, 2) ? shape.n_queries : 1,
                          shape.n_keys, random_below(&random, 2) ? LAYOUT_BHND : LAYOUT_PADDED, GUARD_END);
        tensor_fill_flags(&visible, &random, 11);
        heed_mask mask = HEED_MASK_INIT;
        mask.causal = (int)random_below(&random, 2);
        mask.window_left = random_below(&random, 2) ? random_below(&random, 150) : -1;
        mask.window_right = random_below(&random, 2) ? random_below(&random, 150) : -1;
        mask.query_lengths = random_below(&random, 2) ? lengths[0] : NULL;
        mask.key_lengths = random_below(&random, 2) ? lengths[1] : NULL;
        mask.visible = random_below(&random, 2) ? &visible : NULL;
        mask.alignment = (heed_alignment)random_below(&random, 3);
        if (mask.alignment == HEED_ALIGN_POSITIONS) {
            mask.query_start = lengths[2];
            mask.key_start = lengths[3];
        }
        check_mask(shape, &mask, case_index, "mixed");
        guarded_destroy(&memory);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows),
        cmocka_unit_test(causal_at_every_offset),
        cmocka_unit_test(causal_decoding_sees_all_keys),
        cmocka_unit_test(lengths_of_batch_elements),
        cmocka_unit_test(boolean_masks),
        cmocka_unit_test(boolean_masks_repeated_by_stride_zero),
        cmocka_unit_test(positions),
        cmocka_unit_test(windows_that_end_inside_ranges),
        cmocka_unit_test(hidden_blocks_before_between_and_after),
        cmocka_unit_test(mixed_masks),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
