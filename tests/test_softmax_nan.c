/* NaN and infinities: what is hidden may hold them without effect, what is visible shows them in its own row or channel
 * and nowhere else. Every key, every query, every lane, tail and block in turn; everything else keeps its bits. */
#include "support/fixture.h"

#include <math.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

enum { BATCH = 2, MAX_KEYS = 700, MAX_QUERIES = 64, N_MASKS = 7 };

/* One problem under one mask, with its clean result. */
typedef struct scene {
    attention problem, clean;
    heed_softmax_options options;
    heed_mask mask;
    heed_tensor visible, bias;
    guarded visible_memory, bias_memory;
    int64_t key_lengths[BATCH], query_lengths[BATCH];
    int mask_kind;
} scene;

static const char *const mask_names[N_MASKS] = {"no mask", "causal",  "causal, top left", "window",
                                                "lengths", "visible", "bias of -inf"};

static void choose_mask(scene *s, int mask_kind, random_stream *random)
{
    const attention_shape *shape = &s->problem.shape;
    s->mask_kind = mask_kind;
    s->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    s->mask = (heed_mask)HEED_MASK_INIT;
    s->options.mask = &s->mask;
    s->visible = tensor_create(&s->visible_memory, HEED_BOOL, 1, shape->q_heads, shape->n_queries, shape->n_keys,
                               LAYOUT_BHND, GUARD_END);
    s->bias =
        tensor_create(&s->bias_memory, HEED_FLOAT32, 1, 1, shape->n_queries, shape->n_keys, LAYOUT_PADDED, GUARD_END);
    tensor_fill_flags(&s->visible, random, 8);
    tensor_fill_uniform(&s->bias, random, -2.0f, 2.0f);
    for (int b = 0; b < BATCH; b++) {
        s->key_lengths[b] = b ? shape->n_keys - 7 : shape->n_keys / 2;
        s->query_lengths[b] = b ? shape->n_queries - 1 : shape->n_queries;
    }
    for (int64_t i = 0; i < shape->n_queries; i++) {
        for (int64_t j = 0; mask_kind == 6 && j < shape->n_keys; j++) {
            if (random_below(random, 2))
                *tensor_at(&s->bias, 0, 0, i, j) = -INFINITY;
        }
    }
    s->mask.causal = mask_kind == 1 || mask_kind == 2;
    s->mask.alignment = mask_kind == 2 ? HEED_ALIGN_TOP_LEFT : HEED_ALIGN_BOTTOM_RIGHT;
    s->mask.window_left = mask_kind == 3 ? 20 : -1;
    s->mask.window_right = mask_kind == 3 ? 3 : -1;
    s->mask.key_lengths = mask_kind == 4 ? s->key_lengths : NULL;
    s->mask.query_lengths = mask_kind == 4 ? s->query_lengths : NULL;
    s->mask.visible = mask_kind == 5 ? &s->visible : NULL;
    s->options.bias = mask_kind == 5 || mask_kind == 6 ? &s->bias : NULL;
}

static void open_scene(scene *s, int64_t n_queries, int64_t n_keys, int mask_kind)
{
    const attention_shape shape = {BATCH, 4, 2, n_queries, n_keys, 9, 19};
    random_stream random = random_start((uint64_t)(mask_kind + 100 * n_queries));
    attention_create(&s->problem, shape, mask_kind % 2 ? LAYOUT_BNHD : LAYOUT_PADDED, GUARD_END);
    attention_fill(&s->problem, &random, 1.0f);
    choose_mask(s, mask_kind, &random);
    expect_match(&s->problem, &s->options, 12.0, mask_names[mask_kind]);
    attention_create(&s->clean, shape, LAYOUT_BHND, GUARD_END);
    tensor_copy(&s->clean.out, &s->problem.out);
    tensor_copy(&s->clean.lse, &s->problem.lse);
}

static void close_scene(scene *s)
{
    attention_destroy(&s->problem);
    attention_destroy(&s->clean);
    guarded_destroy(&s->visible_memory);
    guarded_destroy(&s->bias_memory);
}

static int is_hidden_by_bias(const scene *s, int64_t i, int64_t j)
{
    return s->options.bias && *tensor_at(&s->bias, 0, 0, i, j) == -INFINITY;
}

static int passes_mask(const scene *s, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const attention_shape *shape = &s->problem.shape;
    return oracle_visible(&s->mask, b, h, i, j, shape->n_queries, shape->n_keys);
}

static int sees(const scene *s, int64_t b, int64_t h, int64_t i, int64_t j)
{
    return passes_mask(s, b, h, i, j) && !is_hidden_by_bias(s, i, j);
}

static int sees_any(const scene *s, int64_t b, int64_t h, int64_t i)
{
    for (int64_t j = 0; j < s->problem.shape.n_keys; j++) {
        if (sees(s, b, h, i, j))
            return 1;
    }
    return 0;
}

/* What a poisoned element makes of a row. */
typedef enum row_fate {
    FATE_SAME,    /* the clean bits, everywhere */
    FATE_NAN,     /* NaN in all channels and in lse */
    FATE_CHANNEL, /* NaN (or, of an infinity, not a number any more) in one channel, the clean bits elsewhere */
    FATE_ANY      /* not looked at */
} row_fate;

static void expect_fate(const scene *s, int64_t b, int64_t h, int64_t i, row_fate fate, int64_t channel,
                        const char *poison)
{
    const int64_t n_channels = s->problem.shape.value_channels;
    for (int64_t c = 0; c <= n_channels && fate != FATE_ANY; c++) {
        const int is_lse = c == n_channels;
        const float *got = is_lse ? tensor_at(&s->problem.lse, b, h, i, 0) : tensor_at(&s->problem.out, b, h, i, c);
        const float *clean = is_lse ? tensor_at(&s->clean.lse, b, h, i, 0) : tensor_at(&s->clean.out, b, h, i, c);
        const int must_be_nan = fate == FATE_NAN || (fate == FATE_CHANNEL && c == channel && !is_lse);
        if (must_be_nan ? isfinite(*got) : memcmp(got, clean, sizeof(float)) != 0)
            fail_msg("%s, %s, Nq %d: %s of row (%d, %d, %d), channel %d: got %.9g, without poison %.9g",
                     mask_names[s->mask_kind], poison, (int)s->problem.shape.n_queries, is_lse ? "lse" : "out", (int)b,
                     (int)h, (int)i, (int)c, (double)*got, (double)*clean);
        if (must_be_nan && strstr(poison, "NaN"))
            assert_true(isnan(*got));
    }
}

static void run_scene(scene *s) { expect_run(&s->problem, fixture_context, &s->options); }

/* Poisons one element of key j, in k or in v, and checks all rows. */
static void check_poisoned_key(scene *s, int in_values, float poison, int64_t b, int64_t kv_head, int64_t j,
                               const char *name)
{
    const attention_shape *shape = &s->problem.shape;
    const int64_t channel = j % (in_values ? shape->value_channels : shape->channels);
    float *element = tensor_at(in_values ? &s->problem.v : &s->problem.k, b, kv_head, j, channel);
    const float kept = *element;
    *element = poison;
    run_scene(s);
    *element = kept;
    for (int64_t row = 0; row < BATCH * shape->q_heads * shape->n_queries; row++) {
        const int64_t i = row % shape->n_queries;
        const int64_t h = row / shape->n_queries % shape->q_heads;
        const int64_t row_batch = row / shape->n_queries / shape->q_heads;
        row_fate fate = FATE_SAME;
        if (row_batch == b && h / 2 == kv_head && passes_mask(s, b, h, i, j)) {
            /* NaN and a bias of -inf in one score are nobody's promise; infinite keys have a test of their own. */
            if (!in_values)
                fate = isnan(poison) && !is_hidden_by_bias(s, i, j) ? FATE_NAN : FATE_ANY;
            else
                fate = is_hidden_by_bias(s, i, j) ? FATE_SAME : FATE_CHANNEL;
        }
        expect_fate(s, row_batch, h, i, fate, channel, name);
    }
}

static const int64_t scene_sizes[][2] = {{51, 150}, {2, 150}, {1, 700}, {MAX_QUERIES, 20}};

static void poison_in_every_key(void **state)
{
    (void)state;
    int64_t case_index = 0;
    for (size_t size = 0; size < N_OF(scene_sizes); size++) {
        for (int mask_kind = 0; mask_kind < N_MASKS; mask_kind++) {
            scene s;
            open_scene(&s, scene_sizes[size][0], scene_sizes[size][1], mask_kind);
            for (int64_t j = 0; j < scene_sizes[size][1]; j++) {
                case_index++;
                if (!runner_takes(case_index) || (scene_sizes[size][1] > 500 && j % 5))
                    continue;
                const int64_t b = j % 2;
                const int64_t kv_head = j / 2 % 2;
                check_poisoned_key(&s, 0, NAN, b, kv_head, j, "NaN in k");
                check_poisoned_key(&s, 1, NAN, b, kv_head, j, "NaN in v");
                if (j % 3)
                    continue; /* infinities in every third key */
                check_poisoned_key(&s, 0, j % 4 < 2 ? INFINITY : -INFINITY, b, kv_head, j, "infinity in k");
                check_poisoned_key(&s, 1, j % 4 < 2 ? INFINITY : -INFINITY, b, kv_head, j, "infinity in v");
            }
            close_scene(&s);
        }
    }
}

/* Groups of tiles over rows of V a page apart, which are read from a copy first and from V itself where a NaN came up;
 * the last tiles see nothing. */
static void nan_in_values_of_far_rows(void **state)
{
    (void)state;
    attention problem;
    random_stream random = random_start(77);
    attention_create(&problem, (attention_shape){1, 8, 8, 200, 300, 5, 131}, LAYOUT_BNHD, GUARD_END);
    attention_fill(&problem, &random, 1.0f);
    const int64_t query_length = 120, key_length = 250;
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = &mask;
    mask.causal = 1;
    mask.window_left = 60;
    mask.query_lengths = &query_length;
    mask.key_lengths = &key_length;
    for (int64_t h = 0; h < 8; h++) {
        for (int64_t c = 0; c < 131; c++) {
            *tensor_at(&problem.v, 0, h, 20, c) = NAN; /* before every window */
            *tensor_at(&problem.v, 0, h, key_length, c) = INFINITY;
        }
        *tensor_at(&problem.v, 0, h, 180, h) = NAN; /* in some rows' windows */
    }
    expect_match(&problem, &options, 12.0, "far rows");
    attention_destroy(&problem);
}

static void nan_in_every_query(void **state)
{
    (void)state;
    for (size_t size = 0; size < N_OF(scene_sizes); size++) {
        for (int mask_kind = 0; mask_kind < N_MASKS; mask_kind++) {
            scene s;
            open_scene(&s, scene_sizes[size][0], scene_sizes[size][1], mask_kind);
            const attention_shape *shape = &s.problem.shape;
            const int64_t n_rows = BATCH * shape->q_heads * shape->n_queries;
            for (int64_t poisoned = 0; poisoned < n_rows; poisoned++) {
                if (!runner_takes(poisoned))
                    continue;
                const int64_t i = poisoned % shape->n_queries;
                const int64_t h = poisoned / shape->n_queries % shape->q_heads;
                const int64_t b = poisoned / shape->n_queries / shape->q_heads;
                float *element = tensor_at(&s.problem.q, b, h, i, poisoned % shape->channels);
                const float kept = *element;
                *element = NAN;
                run_scene(&s);
                *element = kept;
                for (int64_t row = 0; row < n_rows; row++) {
                    row_fate fate = FATE_SAME;
                    if (row == poisoned && sees_any(&s, b, h, i))
                        fate = FATE_NAN;
                    else if (row == poisoned && mask_kind == 6)
                        fate = FATE_ANY; /* NaN and a bias of -inf in one score */
                    expect_fate(&s, row / shape->n_queries / shape->q_heads, row / shape->n_queries % shape->q_heads,
                                row % shape->n_queries, fate, 0, "NaN in q");
                }
            }
            close_scene(&s);
        }
    }
}

static void nan_in_every_bias(void **state)
{
    (void)state;
    for (int mask_kind = 5; mask_kind < N_MASKS; mask_kind++) {
        scene s;
        open_scene(&s, 51, 150, mask_kind);
        for (int64_t at = 0; at < 51 * 150; at += runner_quick() ? 391 : 23) {
            const int64_t i = at / 150;
            const int64_t j = at % 150;
            float *element = tensor_at(&s.bias, 0, 0, i, j);
            const float kept = *element;
            const float poison = at % 2 ? NAN : INFINITY;
            *element = poison;
            run_scene(&s);
            for (int64_t row = 0; row < BATCH * 4 * 51; row++) {
                const int64_t b = row / 51 / 4;
                const int64_t h = row / 51 % 4;
                const row_fate fate = row % 51 == i && passes_mask(&s, b, h, i, j) ? FATE_NAN : FATE_SAME;
                expect_fate(&s, b, h, row % 51, fate, 0, at % 2 ? "NaN in the bias" : "+inf in the bias: NaN");
            }
            *element = kept;
        }
        close_scene(&s);
    }
}

/* Everything that no row sees at once: whole keys, tails beyond the lengths, queries beyond theirs. */
static void everything_hidden_poisoned(void **state)
{
    (void)state;
    static const float poisons[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (size_t size = 0; size < N_OF(scene_sizes); size++) {
        for (int mask_kind = 1; mask_kind < N_MASKS - 1; mask_kind++) {
            for (size_t p = 0; p < N_OF(poisons); p++) {
                scene s;
                open_scene(&s, scene_sizes[size][0], scene_sizes[size][1], mask_kind);
                const attention_shape *shape = &s.problem.shape;
                for (int64_t key = 0; key < BATCH * shape->kv_heads * shape->n_keys; key++) {
                    const int64_t j = key % shape->n_keys;
                    const int64_t kv_head = key / shape->n_keys % shape->kv_heads;
                    const int64_t b = key / shape->n_keys / shape->kv_heads;
                    int n_seeing = 0;
                    for (int64_t row = 0; row < 2 * shape->n_queries; row++)
                        n_seeing += sees(&s, b, 2 * kv_head + row % 2, row / 2, j);
                    for (int64_t c = 0; n_seeing == 0 && c < shape->channels; c++)
                        *tensor_at(&s.problem.k, b, kv_head, j, c) = poisons[p];
                    for (int64_t c = 0; n_seeing == 0 && c < shape->value_channels; c++)
                        *tensor_at(&s.problem.v, b, kv_head, j, c) = poisons[p];
                }
                for (int64_t row = 0; row < BATCH * shape->q_heads * shape->n_queries; row++) {
                    const int64_t i = row % shape->n_queries;
                    const int64_t h = row / shape->n_queries % shape->q_heads;
                    const int64_t b = row / shape->n_queries / shape->q_heads;
                    for (int64_t c = 0; !sees_any(&s, b, h, i) && c < shape->channels; c++)
                        *tensor_at(&s.problem.q, b, h, i, c) = poisons[p];
                }
                run_scene(&s);
                expect_same_bits(&s.problem, &s.clean, mask_names[mask_kind]);
                close_scene(&s);
            }
        }
    }
}

static void infinite_scores(void **state)
{
    (void)state;
    /* An infinite key scores +inf (NaN for the row) or -inf (hidden), by the sign of the query. */
    for (size_t size = 0; size < N_OF(scene_sizes); size++) {
        for (int mask_kind = 0; mask_kind < N_MASKS - 1; mask_kind++) {
            scene s;
            open_scene(&s, scene_sizes[size][0], scene_sizes[size][1], mask_kind);
            for (int64_t b = 0; b < BATCH; b++) {
                *tensor_at(&s.problem.k, b, 0, 3, 1) = INFINITY;
                *tensor_at(&s.problem.k, b, 1, s.problem.shape.n_keys / 2, 8) = -INFINITY;
                *tensor_at(&s.problem.v, b, 0, 3, 4) = NAN; /* hidden with its key where the score is -inf */
            }
            expect_match(&s.problem, &s.options, 12.0, "infinite scores");
            close_scene(&s);
        }
    }
}

static void overflowing_scores(void **state)
{
    (void)state;
    /* q.k beyond FLT_MAX is +inf and so NaN, or -inf and so hidden; a cap makes it the cap. */
    for (int capped = 0; capped < 2; capped++) {
        for (int64_t n_queries = 2; n_queries < 80; n_queries += 50) {
            attention problem;
            random_stream random = random_start(7);
            heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
            options.softcap = capped ? 4.0f : 0.0f;
            options.scale = 1.0f;
            attention_create(&problem, (attention_shape){1, 2, 1, n_queries, 140, 1, 5}, LAYOUT_BHND, GUARD_END);
            attention_fill(&problem, &random, 1.0f);
            /* The oracle is float64: what overflows in float32 is given to it as an infinity. */
            for (int64_t j = 3; j < 140; j += 60)
                *tensor_at(&problem.k, 0, 0, j, 0) = j % 2 ? INFINITY : -INFINITY;
            expect_match(&problem, &options, 12.0, "infinite products");
            attention finite;
            attention_create(&finite, problem.shape, LAYOUT_BHND, GUARD_END);
            tensor_copy(&finite.q, &problem.q);
            tensor_copy(&finite.k, &problem.k);
            tensor_copy(&finite.v, &problem.v);
            for (int64_t i = 0; i < 2 * n_queries; i++)
                *tensor_at(&finite.q, 0, i % 2, i / 2, 0) *= 1e3f;
            for (int64_t j = 0; j < 140; j++) {
                float *value = tensor_at(&finite.k, 0, 0, j, 0);
                *value = isinf(*value) ? copysignf(3e38f, *value) : *value * 1e-3f;
            }
            expect_run(&finite, fixture_context, &options);
            for (int64_t row = 0; row < 2 * n_queries; row++) {
                const float got = *tensor_at(&finite.lse, 0, row % 2, row / 2, 0);
                const float want = *tensor_at(&problem.lse, 0, row % 2, row / 2, 0);
                assert_int_equal(isnan(got), isnan(want));
                /* Two more roundings of scores up to 12, in the query and in the key. */
                assert_true(isnan(want) || fabsf(got - want) <= 12.0f * 0x1p-22f);
            }
            attention_destroy(&finite);
            attention_destroy(&problem);
        }
    }
}

static void nan_weightless_but_visible(void **state)
{
    (void)state;
    /* A visible key whose weight underflows to zero is visible all the same. */
    for (int64_t n_queries = 2; n_queries < 80; n_queries += 50) {
        for (int64_t j = 0; j < 300; j += 13) {
            attention problem;
            random_stream random = random_start(8);
            attention_create(&problem, (attention_shape){1, 1, 1, n_queries, 300, 2, 5}, LAYOUT_BHND, GUARD_END);
            attention_fill(&problem, &random, 1.0f);
            tensor_fill(&problem.q, 1.0f);
            *tensor_at(&problem.k, 0, 0, j, 0) = -1000.0f;
            *tensor_at(&problem.v, 0, 0, j, 2) = NAN;
            expect_match(&problem, NULL, 1000.0, "weightless NaN");
            attention_destroy(&problem);
        }
    }
}

static void padding_of_inputs_holds_anything(void **state)
{
    (void)state;
    static const float poisons[] = {NAN, INFINITY, -INFINITY, 0.0f};
    static const int64_t n_queries[] = {51, 2};
    for (size_t n = 0; n < N_OF(n_queries); n++) {
        attention first;
        for (size_t p = 0; p < N_OF(poisons); p++) {
            attention problem;
            random_stream random = random_start(n);
            attention_create(&problem, (attention_shape){2, 4, 2, n_queries[n], 140, 9, 5}, LAYOUT_PADDED, GUARD_END);
            guarded *inputs[] = {&problem.q_memory, &problem.k_memory, &problem.v_memory};
            for (int input = 0; input < 3; input++) {
                for (size_t at = 0; at + sizeof(float) <= inputs[input]->bytes; at += sizeof(float))
                    memcpy(inputs[input]->data + at, &poisons[p], sizeof(float));
            }
            attention_fill(&problem, &random, 1.0f);
            expect_match(&problem, NULL, 12.0, "padding");
            if (p == 0) {
                first = problem;
                continue;
            }
            expect_same_bits(&problem, &first, "padding");
            attention_destroy(&problem);
        }
        attention_destroy(&first);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(poison_in_every_key),
        cmocka_unit_test(nan_in_values_of_far_rows),
        cmocka_unit_test(nan_in_every_query),
        cmocka_unit_test(nan_in_every_bias),
        cmocka_unit_test(everything_hidden_poisoned),
        cmocka_unit_test(infinite_scores),
        cmocka_unit_test(overflowing_scores),
        cmocka_unit_test(nan_weightless_but_visible),
        cmocka_unit_test(padding_of_inputs_holds_anything),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
