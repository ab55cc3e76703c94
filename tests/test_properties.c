/* What holds for softmax attention whatever its inputs: same row, same bits; no look into the future; shifts,
 * permutations and constant values; decoding token by token equals one pass. */
#include "support/fixture.h"

#include <math.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

enum { MAX_BATCH = 3, MAX_HEADS = 12 };

/* A problem with every option in use. */
typedef struct setting {
    attention problem;
    heed_softmax_options options;
    heed_mask mask;
    heed_tensor bias, visible;
    guarded bias_memory, visible_memory;
    float slopes[MAX_HEADS], sinks[MAX_HEADS];
    int64_t query_lengths[MAX_BATCH], key_lengths[MAX_BATCH];
} setting;

/* Whole and partial tiles, groups of tiles (rows of V a page apart where the heads of a token lie together), packed
 * groups in one and in several tiles, ranges. */
static const attention_shape setting_shapes[] = {
    {3, 4, 2, 101, 150, 12, 10}, {2, 8, 8, 150, 300, 5, 131}, {2, 12, 2, 5, 300, 9, 17},
    {3, 6, 3, 1, 1300, 16, 8},   {2, 12, 1, 11, 1100, 5, 6},
};

static void open_setting(setting *s, attention_shape shape, tensor_layout layout, uint64_t stream)
{
    memset(s, 0, sizeof(*s));
    random_stream random = random_start(stream);
    attention_create(&s->problem, shape, layout, GUARD_END);
    attention_fill(&s->problem, &random, 1.5f);
    const tensor_layout other = layout == LAYOUT_PACKED ? LAYOUT_BNHD : layout;
    s->bias = tensor_create(&s->bias_memory, HEED_FLOAT32, shape.batch, shape.q_heads, shape.n_queries, shape.n_keys,
                            other, GUARD_END);
    s->visible = tensor_create(&s->visible_memory, HEED_BOOL, shape.batch, shape.q_heads, shape.n_queries, shape.n_keys,
                               other, GUARD_END);
    tensor_fill_uniform(&s->bias, &random, -2.0f, 2.0f);
    tensor_fill_flags(&s->visible, &random, 13);
    for (int h = 0; h < MAX_HEADS; h++) {
        s->slopes[h] = random_uniform(&random, 0.0f, 0.02f);
        s->sinks[h] = random_uniform(&random, -2.0f, 4.0f);
    }
    for (int b = 0; b < MAX_BATCH; b++) {
        s->query_lengths[b] = shape.n_queries - random_below(&random, 1 + shape.n_queries / 3);
        s->key_lengths[b] = shape.n_keys - random_below(&random, shape.n_keys / 3);
    }
    s->mask = (heed_mask)HEED_MASK_INIT;
    s->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    s->options.mask = &s->mask;
}

static void use_all_options(setting *s)
{
    s->mask.causal = 1;
    s->mask.window_left = 1000;
    s->mask.query_lengths = s->query_lengths;
    s->mask.key_lengths = s->key_lengths;
    s->mask.visible = &s->visible;
    s->options.softcap = 20.0f;
    s->options.bias = &s->bias;
    s->options.alibi_slopes = s->slopes;
    s->options.sinks = s->sinks;
}

static void close_setting(setting *s)
{
    attention_destroy(&s->problem);
    guarded_destroy(&s->bias_memory);
    guarded_destroy(&s->visible_memory);
}

/* Runs batch element b and the query heads of one kv head alone, and compares with the same rows of the whole. */
static void check_alone(const setting *s, int64_t b, int64_t kv_head)
{
    const attention *whole = &s->problem;
    const int64_t ratio = whole->shape.q_heads / whole->shape.kv_heads;
    attention_shape shape = whole->shape;
    shape.batch = 1;
    shape.kv_heads = 1;
    shape.q_heads = ratio;
    attention alone;
    attention_create(&alone, shape, LAYOUT_BHND, GUARD_END);
    heed_tensor parts[3];
    const heed_tensor *const wholes[3] = {&whole->q, &whole->k, &whole->v};
    for (int n = 0; n < 3; n++) {
        const int64_t heads = n == 0 ? ratio : 1;
        const heed_tensor element = tensor_slice(wholes[n], 0, b, 1);
        parts[n] = tensor_slice(&element, 1, kv_head * heads, heads);
    }
    heed_tensor bias = tensor_slice(&s->bias, 0, b, 1);
    heed_tensor visible = tensor_slice(&s->visible, 0, b, 1);
    bias = tensor_slice(&bias, 1, kv_head * ratio, ratio);
    visible = tensor_slice(&visible, 1, kv_head * ratio, ratio);
    heed_mask mask = s->mask;
    heed_softmax_options options = s->options;
    options.mask = &mask;
    mask.visible = mask.visible ? &visible : NULL;
    mask.query_lengths = mask.query_lengths ? mask.query_lengths + b : NULL;
    mask.key_lengths = mask.key_lengths ? mask.key_lengths + b : NULL;
    options.bias = options.bias ? &bias : NULL;
    options.alibi_slopes = options.alibi_slopes ? options.alibi_slopes + kv_head * ratio : NULL;
    options.sinks = options.sinks ? options.sinks + kv_head * ratio : NULL;
    const heed_status status =
        heed_softmax_forward(fixture_context, &parts[0], &parts[1], &parts[2], &options, &alone.out, &alone.lse);
    if (status != HEED_OK)
        fail_msg("%s", heed_context_message(fixture_context));
    heed_tensor want[2] = {tensor_slice(&whole->out, 0, b, 1), tensor_slice(&whole->lse, 0, b, 1)};
    const heed_tensor *const got[2] = {&alone.out, &alone.lse};
    for (int n = 0; n < 2; n++) {
        want[n] = tensor_slice(&want[n], 1, kv_head * ratio, ratio);
        const compare_result result = compare_bits(got[n], &want[n]);
        if (!result.equal)
            fail_msg("batch element %d, kv head %d alone, Nq %d: %s", (int)b, (int)kv_head, (int)shape.n_queries,
                     result.text);
    }
    attention_destroy(&alone);
}

static void a_row_alone_has_the_bits_it_has_in_a_batch(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(setting_shapes); n++) {
        for (int with_options = 0; with_options < 2; with_options++) {
            setting s;
            open_setting(&s, setting_shapes[n], LAYOUT_BNHD, n);
            if (with_options)
                use_all_options(&s);
            expect_match(&s.problem, &s.options, 60.0, "whole batch");
            for (int64_t b = 0; b < s.problem.shape.batch; b++) {
                for (int64_t kv_head = 0; kv_head < s.problem.shape.kv_heads; kv_head++)
                    check_alone(&s, b, kv_head);
            }
            close_setting(&s);
        }
    }
}

static void threads_and_hooks_do_not_change_bits(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(setting_shapes); n++) {
        for (int with_options = 0; with_options < 2; with_options++) {
            setting s;
            /* Larger than the settings elsewhere, so that the work is worth more than one thread. */
            attention_shape shape = setting_shapes[n];
            shape.n_keys *= runner_quick() ? 1 : 4;
            shape.channels = 64;
            open_setting(&s, shape, LAYOUT_BHND, n);
            if (with_options)
                use_all_options(&s);
            expect_run(&s.problem, fixture_context, &s.options);
            attention first;
            attention_create(&first, shape, LAYOUT_BHND, GUARD_END);
            tensor_copy(&first.out, &s.problem.out);
            tensor_copy(&first.lse, &s.problem.lse);
            for (int way = 0; way < N_THREADINGS; way++) {
                const runner_threading *threading = &runner_threadings[way];
                heed_context *context = runner_context(threading->n_threads, threading->hook);
                if (!context)
                    continue;
                expect_run(&s.problem, context, &s.options);
                expect_same_bits(&s.problem, &first, threading->name);
                heed_context_destroy(context);
            }
            attention_destroy(&first);
            close_setting(&s);
        }
    }
}

static void layouts_do_not_change_bits(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(setting_shapes); n++) {
        setting first;
        open_setting(&first, setting_shapes[n], LAYOUT_BHND, n);
        use_all_options(&first);
        expect_run(&first.problem, fixture_context, &first.options);
        for (int layout = LAYOUT_BNHD; layout < N_LAYOUTS; layout++) {
            setting s;
            open_setting(&s, setting_shapes[n], (tensor_layout)layout, n);
            use_all_options(&s);
            expect_run(&s.problem, fixture_context, &s.options);
            expect_same_bits(&s.problem, &first.problem, "layout");
            close_setting(&s);
        }
        close_setting(&first);
    }
}

static void earlier_calls_do_not_change_bits(void **state)
{
    (void)state;
    /* The context keeps scratch that larger calls, with NaN in it, have written. */
    attention large;
    random_stream random = random_start(3);
    attention_create(&large, (attention_shape){1, 8, 1, 60, 700, 200, 200}, LAYOUT_BHND, GUARD_END);
    attention_fill(&large, &random, 1.0f);
    for (size_t n = 0; n < N_OF(setting_shapes); n++) {
        for (int spoiled = 0; spoiled < 2; spoiled++) {
            setting s;
            open_setting(&s, setting_shapes[n], LAYOUT_BHND, n);
            use_all_options(&s);
            heed_context *fresh = runner_context(1, NULL);
            expect_run(&s.problem, fresh, &s.options);
            attention first;
            attention_create(&first, s.problem.shape, LAYOUT_BHND, GUARD_END);
            tensor_copy(&first.out, &s.problem.out);
            tensor_copy(&first.lse, &s.problem.lse);
            if (spoiled)
                tensor_fill(&large.v, NAN);
            expect_run(&large, fresh, NULL);
            expect_run(&s.problem, fresh, &s.options);
            expect_same_bits(&s.problem, &first, "after a larger call");
            heed_context_destroy(fresh);
            attention_destroy(&first);
            close_setting(&s);
        }
    }
    attention_destroy(&large);
}

static void keys_beyond_the_length_do_not_change_bits(void **state)
{
    (void)state;
    /* Nk = L, and L of Nk keys by key_lengths. */
    static const int64_t lengths[][2] = {{600, 700}, {511, 1200}, {512, 2000}, {1025, 1026}, {130, 3000}, {1, 900}};
    for (size_t n = 0; n < N_OF(lengths); n++) {
        for (int64_t n_queries = 1; n_queries < 80; n_queries += 58) {
            for (int causal = 0; causal < 2; causal++) {
                const int64_t length = lengths[n][0];
                attention padded;
                attention exact;
                random_stream random = random_start(n);
                attention_create(&padded, (attention_shape){1, 4, 2, n_queries, lengths[n][1], 8, 6}, LAYOUT_BHND,
                                 GUARD_END);
                attention_create(&exact, (attention_shape){1, 4, 2, n_queries, length, 8, 6}, LAYOUT_BHND, GUARD_END);
                attention_fill(&padded, &random, 1.0f);
                const heed_tensor k = tensor_slice(&padded.k, 2, 0, length);
                const heed_tensor v = tensor_slice(&padded.v, 2, 0, length);
                tensor_copy(&exact.q, &padded.q);
                tensor_copy(&exact.k, &k);
                tensor_copy(&exact.v, &v);
                heed_mask mask = HEED_MASK_INIT;
                mask.causal = causal;
                heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
                options.mask = &mask;
                expect_run(&exact, fixture_context, &options);
                mask.key_lengths = &length;
                expect_run(&padded, fixture_context, &options);
                expect_same_bits(&padded, &exact, "key length");
                attention_destroy(&padded);
                attention_destroy(&exact);
            }
        }
    }
}

enum { MANY_KEYS = 33000 };

/* Two queries at positions n_seen - 1 and n_seen: row 0 sees n_seen keys, row 1 one more where there is one. */
static void run_two_rows(attention *problem, heed_context *context, int64_t n_seen, int64_t query_length,
                         int64_t key_length)
{
    const int64_t start = n_seen - 1;
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    mask.alignment = HEED_ALIGN_POSITIONS;
    mask.query_start = &start;
    mask.query_lengths = &query_length;
    mask.key_lengths = &key_length;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = &mask;
    expect_run(problem, context, &options);
}

static void the_keys_of_other_rows_do_not_change_bits(void **state)
{
    (void)state;
    /* Few rows: keys are cut into ranges, which grow where 64 of them are not enough, beyond 32768 keys. */
    static const int64_t n_seen[] = {1, 511, 512, 513, 1000, 32767, 32768, 32769, MANY_KEYS - 1, MANY_KEYS / 2};
    attention problem;
    attention first;
    random_stream random = random_start(8);
    attention_create(&problem, (attention_shape){1, 2, 1, 2, MANY_KEYS, 4, 3}, LAYOUT_BHND, GUARD_END);
    attention_create(&first, problem.shape, LAYOUT_BHND, GUARD_END);
    attention_fill(&problem, &random, 1.0f);
    heed_context *threads = runner_context(2, hook_reverse);
    for (size_t n = 0; n < N_OF(n_seen); n++) {
        /* Row 1 is padding; it sees the same keys; it sees one more; so it does in tasks of single ranges. */
        run_two_rows(&problem, fixture_context, n_seen[n], 1, n_seen[n]);
        tensor_copy(&first.out, &problem.out);
        tensor_copy(&first.lse, &problem.lse);
        for (int way = 0; way < 4; way++) {
            run_two_rows(&problem, way == 3 ? threads : fixture_context, n_seen[n], way == 0 ? 1 : 2,
                         way == 1 ? n_seen[n] : MANY_KEYS);
            const heed_tensor got[2] = {tensor_slice(&problem.out, 2, 0, 1), tensor_slice(&problem.lse, 2, 0, 1)};
            const heed_tensor want[2] = {tensor_slice(&first.out, 2, 0, 1), tensor_slice(&first.lse, 2, 0, 1)};
            for (int t = 0; t < 2; t++) {
                const compare_result result = compare_bits(&got[t], &want[t]);
                if (!result.equal)
                    fail_msg("row 0 sees %d keys, way %d: %s: %s", (int)n_seen[n], way, t == 0 ? "out" : "lse",
                             result.text);
            }
        }
    }
    heed_context_destroy(threads);
    attention_destroy(&problem);
    attention_destroy(&first);
}

static void the_same_call_gives_the_same_bits(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(setting_shapes); n++) {
        setting a;
        setting b;
        open_setting(&a, setting_shapes[n], LAYOUT_BHND, n);
        open_setting(&b, setting_shapes[n], LAYOUT_BHND, n);
        use_all_options(&a);
        use_all_options(&b);
        expect_run(&a.problem, fixture_context, &a.options);
        expect_run(&b.problem, fixture_context, &b.options);
        expect_same_bits(&a.problem, &b.problem, "again");
        close_setting(&a);
        close_setting(&b);
    }
}

/* Changes token t of q, k and v: rows before it must not notice. */
static void check_causality(attention *problem, const attention *before, const heed_softmax_options *options, int64_t t,
                            float value)
{
    const heed_tensor tokens[3] = {tensor_slice(&problem->q, 2, t, 1), tensor_slice(&problem->k, 2, t, 1),
                                   tensor_slice(&problem->v, 2, t, 1)};
    float kept[3][64];
    for (int n = 0; n < 3; n++) {
        for (int64_t c = 0; c < 2 * tokens[n].shape[3]; c++)
            kept[n][c] = *tensor_at(&tokens[n], 0, c % 2, 0, c / 2);
        tensor_fill(&tokens[n], value);
    }
    expect_run(problem, fixture_context, options);
    const heed_tensor got = tensor_slice(&problem->out, 2, 0, t);
    const heed_tensor want = tensor_slice(&before->out, 2, 0, t);
    const compare_result result = compare_bits(&got, &want);
    if (!result.equal)
        fail_msg("token %d = %g: %s", (int)t, (double)value, result.text);
    const heed_tensor late = tensor_slice(&problem->out, 2, t, 1);
    const heed_tensor late_before = tensor_slice(&before->out, 2, t, 1);
    assert_false(compare_bits(&late, &late_before).equal);
    for (int n = 0; n < 3; n++) {
        for (int64_t c = 0; c < 2 * tokens[n].shape[3]; c++)
            *tensor_at(&tokens[n], 0, c % 2, 0, c / 2) = kept[n][c];
    }
}

static void no_row_sees_the_future(void **state)
{
    (void)state;
    static const float values[] = {3.0f, -100.0f, 1e30f, INFINITY, NAN};
    attention problem;
    attention before;
    random_stream random = random_start(4);
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = &mask;
    attention_create(&problem, (attention_shape){1, 2, 2, 300, 300, 8, 6}, LAYOUT_PACKED, GUARD_END);
    attention_create(&before, problem.shape, LAYOUT_BHND, GUARD_END);
    attention_fill(&problem, &random, 1.0f);
    expect_match(&problem, &options, 12.0, "causal");
    tensor_copy(&before.out, &problem.out);
    for (int64_t t = 0; t < 300; t++) {
        if (runner_takes(t))
            check_causality(&problem, &before, &options, t, values[t % 5]);
    }
    attention_destroy(&problem);
    attention_destroy(&before);
}

static void decoding_equals_one_pass(void **state)
{
    (void)state;
    /* One query at a time over a cache that grows, and chunks of several, against one causal pass. Both sides keep
     * the bound, so they differ by at most twice that. */
    enum { TOKENS = 700 };
    attention whole;
    random_stream random = random_start(5);
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = &mask;
    attention_create(&whole, (attention_shape){1, 6, 2, TOKENS, TOKENS, 16, 16}, LAYOUT_BNHD, GUARD_END);
    attention_fill(&whole, &random, 1.0f);
    expect_match(&whole, &options, 12.0, "one pass");
    static const int64_t chunks[] = {1, 5, 64};
    for (size_t n = 0; n < N_OF(chunks); n++) {
        attention steps;
        attention_create(&steps, whole.shape, LAYOUT_BHND, GUARD_END);
        for (int64_t first = 0; first < TOKENS; first += chunks[n]) {
            const int64_t count = TOKENS - first < chunks[n] ? TOKENS - first : chunks[n];
            const heed_tensor q = tensor_slice(&whole.q, 2, first, count);
            const heed_tensor k = tensor_slice(&whole.k, 2, 0, first + count);
            const heed_tensor v = tensor_slice(&whole.v, 2, 0, first + count);
            const heed_tensor out = tensor_slice(&steps.out, 2, first, count);
            const heed_tensor lse = tensor_slice(&steps.lse, 2, first, count);
            assert_int_equal(heed_softmax_forward(fixture_context, &q, &k, &v, &options, &out, &lse), HEED_OK);
        }
        for (int64_t row = 0; row < 6 * TOKENS; row++) {
            for (int64_t c = 0; c < 16; c++) {
                const double a = (double)*tensor_at(&steps.out, 0, row % 6, row / 6, c);
                const double b = (double)*tensor_at(&whole.out, 0, row % 6, row / 6, c);
                if (!(fabs(a - b) <= 2.0 * attention_bound(12.0)))
                    fail_msg("chunks of %d, token %d: %.9g in steps, %.9g in one pass", (int)chunks[n], (int)(row / 6),
                             a, b);
            }
        }
        attention_destroy(&steps);
    }
    attention_destroy(&whole);
}

static void a_shift_of_all_scores_changes_nothing(void **state)
{
    (void)state;
    /* A constant per row on all scores moves lse and nothing else. The shifts are small whole numbers, so that the sum
     * of score and shift loses at most half an ulp of 64. */
    for (int64_t n_queries = 2; n_queries < 90; n_queries += 80) {
        attention plain;
        attention shifted;
        guarded memory;
        const attention_shape shape = {1, 2, 1, n_queries, 300, 8, 6};
        attention_create(&plain, shape, LAYOUT_BHND, GUARD_END);
        attention_create(&shifted, shape, LAYOUT_BHND, GUARD_END);
        random_stream random = random_start(6);
        attention_fill(&plain, &random, 1.0f);
        random = random_start(6);
        attention_fill(&shifted, &random, 1.0f);
        const heed_tensor bias = tensor_create(&memory, HEED_FLOAT32, 1, 1, n_queries, 300, LAYOUT_BHND, GUARD_END);
        for (int64_t i = 0; i < n_queries; i++) {
            for (int64_t j = 0; j < 300; j++)
                *tensor_at(&bias, 0, 0, i, j) = (float)(i % 97 - 48);
        }
        heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
        options.bias = &bias;
        expect_match(&plain, NULL, 12.0, "plain");
        expect_match(&shifted, &options, 60.0, "shifted");
        const double allowed = attention_bound(12.0) + attention_bound(60.0);
        for (int64_t row = 0; row < 2 * n_queries; row++) {
            const int64_t i = row / 2;
            for (int64_t c = 0; c < 6; c++)
                assert_true(fabs((double)*tensor_at(&plain.out, 0, row % 2, i, c) -
                                 (double)*tensor_at(&shifted.out, 0, row % 2, i, c)) <= allowed);
            const double moved =
                (double)*tensor_at(&shifted.lse, 0, row % 2, i, 0) - (double)*tensor_at(&plain.lse, 0, row % 2, i, 0);
            assert_true(fabs(moved - (double)(i % 97 - 48)) <= allowed + 64.0 * 0x1p-22);
        }
        guarded_destroy(&memory);
        attention_destroy(&plain);
        attention_destroy(&shifted);
    }
}

static void the_order_of_keys_does_not_matter(void **state)
{
    (void)state;
    for (int64_t n_queries = 1; n_queries < 90; n_queries += 80) {
        attention a;
        attention b;
        const attention_shape shape = {1, 2, 1, n_queries, 701, 8, 6};
        attention_create(&a, shape, LAYOUT_BHND, GUARD_END);
        attention_create(&b, shape, LAYOUT_BHND, GUARD_END);
        random_stream random = random_start(7);
        attention_fill(&a, &random, 1.0f);
        tensor_copy(&b.q, &a.q);
        for (int64_t j = 0; j < 701; j++) {
            const int64_t to = j * 300 % 701; /* 701 is a prime: a permutation */
            for (int64_t c = 0; c < 8; c++)
                *tensor_at(&b.k, 0, 0, to, c) = *tensor_at(&a.k, 0, 0, j, c);
            for (int64_t c = 0; c < 6; c++)
                *tensor_at(&b.v, 0, 0, to, c) = *tensor_at(&a.v, 0, 0, j, c);
        }
        expect_match(&a, NULL, 12.0, "in order");
        expect_match(&b, NULL, 12.0, "permuted");
        for (int64_t row = 0; row < 2 * n_queries; row++) {
            for (int64_t c = 0; c < 6; c++)
                assert_true(fabs((double)*tensor_at(&a.out, 0, row % 2, row / 2, c) -
                                 (double)*tensor_at(&b.out, 0, row % 2, row / 2, c)) <= 2.0 * attention_bound(12.0));
        }
        attention_destroy(&a);
        attention_destroy(&b);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_alone_has_the_bits_it_has_in_a_batch),
        cmocka_unit_test(threads_and_hooks_do_not_change_bits),
        cmocka_unit_test(layouts_do_not_change_bits),
        cmocka_unit_test(earlier_calls_do_not_change_bits),
        cmocka_unit_test(keys_beyond_the_length_do_not_change_bits),
        cmocka_unit_test(the_keys_of_other_rows_do_not_change_bits),
        cmocka_unit_test(the_same_call_gives_the_same_bits),
        cmocka_unit_test(no_row_sees_the_future),
        cmocka_unit_test(decoding_equals_one_pass),
        cmocka_unit_test(a_shift_of_all_scores_changes_nothing),
        cmocka_unit_test(the_order_of_keys_does_not_matter),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
