/* Multiresolution-head attention against the float64 oracle, within the bound of heed.h: every mode, pooling and
 * upsampling over sizes around every block, on grids, with class tokens, lengths, sinks and softcaps. */
#include "mrsha_problem.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Everything that the definition distinguishes. */
typedef struct way {
    heed_mrsha_mode mode;
    int causal, has_linear;
} way;

static const way ways[] = {{HEED_MRSHA_BOTH, 0, 0},   {HEED_MRSHA_BOTH, 0, 1},   {HEED_MRSHA_BOTH, 1, 0},
                           {HEED_MRSHA_OUTPUT, 0, 0}, {HEED_MRSHA_OUTPUT, 0, 1}, {HEED_MRSHA_VALUE, 0, 0},
                           {HEED_MRSHA_VALUE, 1, 0}};

enum { N_WAYS = N_OF(ways), N_POOLINGS = 3 };

static const int64_t group_sizes[] = {1, 2, 3, 4, 5, 7, 8, 16, 100};
static const int64_t channel_counts[] = {1, 3, 16, 17, 64, 80};
static const int64_t heads[][2] = {{1, 1}, {2, 2}, {4, 4}, {4, 2}, {4, 1}, {2, 1}, {3, 1}, {8, 2}, {6, 3}};

static mrsha_case case_of(int n_way, int pooling, uint64_t stream)
{
    const way *w = &ways[n_way];
    return (mrsha_case){.mode = w->mode,
                        .causal = w->causal,
                        .upsampling = w->has_linear ? HEED_UPSAMPLING_LINEAR : HEED_UPSAMPLING_REPEAT,
                        .pooling = (heed_pooling)pooling,
                        .stream = stream};
}

/* Heads of several resolutions, some of them fine; sizes of everything but the tokens. */
static void draw_heads(mrsha_case *c, random_stream *random)
{
    const int64_t *h = heads[random_below(random, N_OF(heads))];
    c->shape.q_heads = h[0];
    c->shape.kv_heads = h[1];
    c->shape.channels = channel_counts[random_below(random, N_OF(channel_counts))];
    c->shape.value_channels = channel_counts[random_below(random, N_OF(channel_counts))];
    for (int n = 0; n < MRSHA_MAX_HEADS; n++)
        c->group_sizes[n] = group_sizes[random_below(random, N_OF(group_sizes))];
    c->layout = (tensor_layout)random_below(random, N_LAYOUTS);
    c->side = random_below(random, 2) ? GUARD_END : GUARD_START;
    c->has_sinks = random_below(random, 3) == 0;
    c->softcap = random_below(random, 4) == 0 ? random_uniform(random, 0.5f, 3.0f) : 0.0f;
    c->scale = random_below(random, 4) == 0 ? random_uniform(random, -0.5f, 0.5f) : 0.0f;
}

static void expect_case(const mrsha_case *c, const char *name)
{
    mrsha_problem *p = mrsha_create(c);
    mrsha_expect_match(p, fixture_context, name);
    mrsha_destroy(p);
}

/* ---- Sequences ---- */

static void every_way_over_many_lengths(void **state)
{
    (void)state;
    static const int64_t lengths[] = {0,  1,  2,  3,  4,  5,  7,  8,   9,   15,  16,  17,  31,  32,  33,  47, 48,
                                      49, 63, 64, 65, 95, 96, 99, 100, 101, 127, 128, 129, 193, 255, 256, 300};
    for (int n = 0; n < (int)N_OF(lengths) * N_WAYS * N_POOLINGS; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n);
        mrsha_case c = case_of(n % N_WAYS, n / N_WAYS % N_POOLINGS, 10000 + (uint64_t)n);
        draw_heads(&c, &random);
        c.shape.n_keys = lengths[n / N_WAYS / N_POOLINGS];
        c.shape.n_queries = c.causal || random_below(&random, 2) ? c.shape.n_keys : random_below(&random, 140);
        c.shape.batch = 1 + random_below(&random, 2) * (c.shape.n_keys < 100);
        c.has_lengths = random_below(&random, 2) == 0;
        c.class_token = !c.causal && random_below(&random, 3) == 0;
        expect_case(&c, "sequence");
    }
}

/* All heads of one size and no options, so that every size meets every way. */
static void every_group_size_in_every_way(void **state)
{
    (void)state;
    for (int n = 0; n < (int)N_OF(group_sizes) * N_WAYS * N_POOLINGS; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(n % N_WAYS, n / N_WAYS % N_POOLINGS, 20000 + (uint64_t)n);
        c.shape = (attention_shape){1, 2, 1, 113, 113, 16, 17};
        for (int h = 0; h < 2; h++)
            c.group_sizes[h] = group_sizes[n / N_WAYS / N_POOLINGS];
        expect_case(&c, "one group size");
    }
}

/* Few rows over many keys, as fine heads are then cut into ranges of keys. */
static void few_rows_over_many_keys(void **state)
{
    (void)state;
    for (int n = 0; n < N_WAYS * 8; n++) {
        random_stream random = random_start(500 + (uint64_t)n);
        mrsha_case c = case_of(n % N_WAYS, n % N_POOLINGS, 30000 + (uint64_t)n);
        if (c.causal || !runner_takes(n))
            continue;
        draw_heads(&c, &random);
        c.shape.batch = 2;
        c.shape.n_queries = 1 + n / N_WAYS;
        c.shape.n_keys = 500 + random_below(&random, 900);
        c.shape.channels = 17;
        c.shape.value_channels = 16;
        c.has_lengths = n % 2;
        expect_case(&c, "few rows");
    }
}

/* Some rows of each head, those at the ends among them. */
static void expect_sampled_rows(mrsha_problem *p, const char *name)
{
    enum { N_SAMPLED = 12 };
    const attention *a = &p->a;
    const int64_t n_rows = a->q.shape[2], d = a->v.shape[3];
    const double score = mrsha_largest_score(p), bound = mrsha_out_bound(score) * tensor_max_abs(&a->v);
    double *want = oracle_zeros(d), want_lse;
    mrsha_run(p, fixture_context);
    for (int64_t n = 0; n < a->q.shape[1] * N_SAMPLED; n++) {
        const int64_t h = n / N_SAMPLED, i = n % N_SAMPLED * (n_rows - 1) / (N_SAMPLED - 1);
        oracle_mrsha_row(&a->q, &a->k, &a->v, &p->options, 0, h, i, want, &want_lse);
        const heed_tensor head = tensor_slice(&a->out, 1, h, 1), row = tensor_slice(&head, 2, i, 1);
        const compare_result r = compare_each(&row, want, bound, 0.0);
        if (!r.equal)
            fail_msg("%s: %s: head %d, row %d: out: %s", name, mrsha_describe(p), (int)h, (int)i, r.text);
        const double lse = (double)*tensor_at(&a->lse, 0, h, i, 0);
        const double allowed = mrsha_lse_bound(score, a->k.shape[2]) + 0x1p-23 * fabs(want_lse);
        if (mrsha_lse(p) && !(fabs(lse - want_lse) <= allowed))
            fail_msg("%s: %s: head %d, row %d: lse %.9g, want %.17g", name, mrsha_describe(p), (int)h, (int)i, lse,
                     want_lse);
    }
    free(want);
}

/* Groups of more tokens than a block has, and many blocks of groups. */
static void thousands_of_tokens(void **state)
{
    (void)state;
    for (int n = 0; n < N_WAYS; n++) {
        mrsha_case c = case_of(n, n % N_POOLINGS, 40000 + (uint64_t)n);
        c.shape = (attention_shape){1, 4, 2, runner_quick() ? 500 : 2203, runner_quick() ? 500 : 2203, 20, 9};
        const int64_t sizes[] = {2, 333, 1, 16};
        memcpy(c.group_sizes, sizes, sizeof sizes);
        c.layout = LAYOUT_BNHD;
        mrsha_problem *p = mrsha_create(&c);
        expect_sampled_rows(p, "thousands");
        mrsha_destroy(p);
    }
}

/* Any S is one: all tokens are one group then. Scores are small in half of the cases, and so is what is allowed. */
static void groups_larger_than_the_sequence(void **state)
{
    (void)state;
    static const int64_t sizes[] = {31, 1000, (int64_t)1 << 31, (int64_t)1 << 40, INT64_MAX};
    for (int n = 0; n < N_WAYS * 5 * 2; n++) {
        mrsha_case c = case_of(n % N_WAYS, n / N_WAYS / 5, 50000 + (uint64_t)n);
        const int64_t size = sizes[n / N_WAYS % 5];
        c.shape = (attention_shape){2, 2, 1, 30, 30, 9, 5};
        c.group_sizes[0] = c.group_sizes[1] = size;
        c.has_lengths = n % 2;
        c.has_sinks = n % 4 == 1;
        c.class_token = !c.causal && n % 3 == 0;
        c.deviation = n / N_WAYS / 5 ? 0.01f : 1.0f;
        expect_case(&c, "one group");
        if (c.causal || ways[n % N_WAYS].has_linear)
            continue;
        c.grid_height = 5;
        c.grid_width = 6;
        c.shape.n_queries = c.shape.n_keys = 30 + c.class_token;
        expect_case(&c, "one patch");
    }
}

/* Rows as wide as the default scratch has room for. */
static void as_wide_as_it_gets(void **state)
{
    (void)state;
    static const int64_t widths[][2] = {{1024, 1024}, {1024, 1}, {5, 1024}, {300, 520}};
    for (int n = 0; n < N_WAYS * 4; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(n % N_WAYS, n % N_POOLINGS, 60000 + (uint64_t)n);
        c.shape = (attention_shape){1, 3, 1, 60, 60, widths[n / N_WAYS][0], widths[n / N_WAYS][1]};
        const int64_t sizes[] = {3, 8, 1};
        memcpy(c.group_sizes, sizes, sizeof sizes);
        expect_case(&c, "wide");
    }
}

/* ---- Grids ---- */

static void grids_of_every_shape(void **state)
{
    (void)state;
    static const int64_t grids[][2] = {{4, 4}, {5, 7}, {14, 14}, {1, 9}, {9, 1}, {3, 2}, {16, 17}, {1, 1}, {7, 40}};
    for (int n = 0; n < 3 * N_POOLINGS * 2 * 2 * (int)N_OF(grids); n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start(700 + (uint64_t)n);
        const int64_t *grid = grids[n / 12 / N_POOLINGS];
        mrsha_case c = {.mode = (heed_mrsha_mode)(n % 3), .pooling = (heed_pooling)(n / 3 % N_POOLINGS)};
        draw_heads(&c, &random);
        c.stream = 70000 + (uint64_t)n;
        c.class_token = n / 9 % 2;
        c.has_lengths = n / 18 % 2; /* which end inside patches */
        c.grid_height = grid[0];
        c.grid_width = grid[1];
        c.shape.batch = c.has_lengths ? 2 : 1;
        c.shape.n_queries = c.shape.n_keys = grid[0] * grid[1] + c.class_token;
        expect_case(&c, "grid");
    }
}

/* Every length of a grid, so that every patch ends at every place. */
static void lengths_that_end_anywhere_on_a_grid(void **state)
{
    (void)state;
    for (int n = 0; n < 3 * N_POOLINGS * 2; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = {.mode = (heed_mrsha_mode)(n % 3), .pooling = (heed_pooling)(n / 3 % N_POOLINGS)};
        c.class_token = n / 9;
        c.grid_height = 5;
        c.grid_width = 7;
        c.shape = (attention_shape){1, 3, 1, 35 + c.class_token, 35 + c.class_token, 6, 5};
        const int64_t sizes[] = {2, 3, 4};
        memcpy(c.group_sizes, sizes, sizeof sizes);
        c.has_lengths = 1;
        c.stream = 80000 + (uint64_t)n;
        mrsha_problem *p = mrsha_create(&c);
        for (int64_t length = 0; length <= c.shape.n_keys; length++) {
            p->key_lengths[0] = length;
            p->query_lengths[0] = c.shape.n_queries - length / 2;
            mrsha_expect_match(p, fixture_context, "length on a grid");
        }
        mrsha_destroy(p);
    }
}

/* ---- Options ---- */

/* No options at all; no group sizes; and an odd number of heads, of which the middle one is fine. */
static void defaults(void **state)
{
    (void)state;
    for (int64_t n_heads = 1; n_heads <= 5; n_heads++) {
        const mrsha_case c = {.shape = {2, n_heads, n_heads, 41, 41, 8, 6}, .stream = 90000 + (uint64_t)n_heads};
        mrsha_problem *p = mrsha_create(&c);
        assert_null(p->options.group_sizes);
        mrsha_expect_match(p, fixture_context, "no group sizes");
        p->options.softmax = NULL;
        mrsha_expect_match(p, fixture_context, "no softmax options");
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        guarded_clear(&p->a.out_memory);
        assert_int_equal(heed_mrsha_forward(fixture_context, &p->a.q, &p->a.k, &p->a.v, NULL, &p->a.out, &p->a.lse),
                         HEED_OK);
        mrsha_expect_bits(p, &p->a.out, &out, "no options");
        mrsha_expect_bits(p, &p->a.lse, &lse, "no options");
        for (int64_t h = 0; h < n_heads; h++)
            assert_int_equal(mrsha_group_size(p, h), h < (n_heads + 1) / 2 ? 1 : 2);
        mrsha_destroy(p);
    }
}

/* Token i of q and of k stand at one place, whatever says so. From the top left the lengths may differ. */
static void causal_by_any_alignment(void **state)
{
    (void)state;
    static const int64_t starts[] = {-5, (int64_t)1 << 60};
    for (int n = 0; n < 2 * 3 * 3; n++) {
        mrsha_case c = {.mode = n % 2 ? HEED_MRSHA_BOTH : HEED_MRSHA_VALUE, .causal = 1};
        c.shape = (attention_shape){2, 4, 2, 90, 90, 12, 10};
        const int64_t sizes[] = {4, 1, 7, 2};
        memcpy(c.group_sizes, sizes, sizeof sizes);
        c.has_lengths = n / 6 > 0;
        c.stream = 100000 + (uint64_t)n;
        mrsha_problem *p = mrsha_create(&c);
        p->mask.alignment = (heed_alignment)(n / 2 % 3);
        if (p->mask.alignment == HEED_ALIGN_POSITIONS)
            p->mask.query_start = p->mask.key_start = starts;
        for (int b = 0; b < 2 && p->mask.alignment != HEED_ALIGN_BOTTOM_RIGHT && n / 6 == 2; b++)
            p->key_lengths[b] = b ? 90 : 37;
        mrsha_expect_match(p, fixture_context, "aligned");
        mrsha_destroy(p);
    }
}

/* Weights may have any sign. Of one sum W and another one A of their sizes, means are up to A / W as large as the
 * largest token, and so are their errors. */
static void weights_of_both_signs(void **state)
{
    (void)state;
    for (int n = 0; n < N_WAYS * 2; n++) {
        mrsha_case c = case_of(n % N_WAYS, HEED_POOLING_LEARNED, 110000 + (uint64_t)n);
        c.shape = (attention_shape){1, 2, 1, 83, 83, 16, 8};
        c.group_sizes[0] = 4;
        c.group_sizes[1] = 9;
        mrsha_problem *p = mrsha_create(&c);
        const attention *a = &p->a;
        for (int64_t w = 0; w < p->weights.shape[3]; w++)
            *tensor_at(&p->weights, 0, 0, 0, w) = *tensor_at(&p->weights, 0, 0, 1, w) = w % 2 ? -0.5f : 1.25f;
        /* 1.75 / 0.75 in the pairs, the largest ratio of all. */
        const double ratio = 1.75 / 0.75, score = ratio * ratio * mrsha_largest_score(p);
        double *want = oracle_zeros(2 * 83 * 8);
        oracle_mrsha(&a->q, &a->k, &a->v, &p->options, want, NULL);
        mrsha_run(p, fixture_context);
        const compare_result r =
            compare_each(&a->out, want, mrsha_out_bound(score) * ratio * tensor_max_abs(&a->v), 0.0);
        if (!r.equal)
            fail_msg("%s: %s", mrsha_describe(p), r.text);
        free(want);
        mrsha_destroy(p);
    }
}

/* A weight of 0 for the first token of each group is none for a class token. */
static void weights_leave_the_class_token_alone(void **state)
{
    (void)state;
    for (int n = 0; n < N_WAYS * 2; n++) {
        const int has_grid = n / N_WAYS;
        mrsha_case c = case_of(n % N_WAYS, HEED_POOLING_LEARNED, 115000 + (uint64_t)n);
        if (c.causal || (has_grid && ways[n % N_WAYS].has_linear))
            continue;
        c.shape = (attention_shape){1, 2, 1, 81, 81, 16, 8};
        c.group_sizes[0] = 2;
        c.group_sizes[1] = 4;
        c.class_token = 1;
        c.grid_height = 8 * has_grid;
        c.grid_width = 10 * has_grid;
        mrsha_problem *p = mrsha_create(&c);
        *tensor_at(&p->weights, 0, 0, 0, 0) = *tensor_at(&p->weights, 0, 0, 1, 0) = 0.0f;
        mrsha_expect_match(p, fixture_context, "class token");
        mrsha_destroy(p);
    }
}

/* Nothing to do is done. */
static void empty_sizes(void **state)
{
    (void)state;
    for (int n = 0; n < N_WAYS * 4; n++) {
        mrsha_case c = case_of(n % N_WAYS, n % 2, 120000 + (uint64_t)n);
        const int kind = n / N_WAYS;
        c.shape = (attention_shape){kind != 0,
                                    kind != 1 ? 4 : 0,
                                    kind != 1 ? 2 : 0,
                                    kind != 2 ? 5 : 0,
                                    c.causal ? (kind != 2 ? 5 : 0) : (kind != 3 ? 6 : 0),
                                    4,
                                    3};
        c.has_sinks = n % 3 == 0;
        c.class_token = !c.causal && n % 5 == 0;
        expect_case(&c, "empty");
    }
}

static int close_group(void **state)
{
    mrsha_print_errors();
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_over_many_lengths),
        cmocka_unit_test(every_group_size_in_every_way),
        cmocka_unit_test(few_rows_over_many_keys),
        cmocka_unit_test(thousands_of_tokens),
        cmocka_unit_test(groups_larger_than_the_sequence),
        cmocka_unit_test(as_wide_as_it_gets),
        cmocka_unit_test(grids_of_every_shape),
        cmocka_unit_test(lengths_that_end_anywhere_on_a_grid),
        cmocka_unit_test(defaults),
        cmocka_unit_test(causal_by_any_alignment),
        cmocka_unit_test(weights_of_both_signs),
        cmocka_unit_test(weights_leave_the_class_token_alone),
        cmocka_unit_test(empty_sizes),
    };
    return cmocka_run_group_tests(tests, fixture_open, close_group);
}
