/* The four forms of the Attention-Free Transformer against the float64 oracle: sizes, layouts, masks, biases, keys that
 * stand far apart; what must hold exactly (causality, hidden NaN, the gate, threads); identities between the forms; merge;
 * arguments. */
#include "support/aft_forward.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* The bound of heed.h for random inputs. Two sums of at most 64 + Nk / 64 + 1 roundings each, weights of 2 ulp and
 * differences of 1 ulp of at most 200 stay below half of it for the sizes here. */
static const double bound = 1e-5;

typedef struct aft_case {
    oracle_aft_form form;
    attention data;
    heed_tensor q, k, v, out, lse, w, u, f, filter, visible;
    guarded lse_memory, k_memory, w_memory, u_memory, f_memory, filter_memory, visible_memory;
    int64_t query_lengths[3], key_lengths[3], query_start[3], key_start[3];
    heed_mask mask;
    heed_aft_options options;
} aft_case;

typedef struct aft_shape {
    int64_t batch, heads, n_queries, n_keys, channels;
} aft_shape;

static heed_status run_on(aft_case *c, heed_context *context)
{
    tensor_fill(&c->out, NAN);
    tensor_fill(&c->lse, NAN);
    return aft_forward(c->form, context, &c->q, &c->k, &c->v, &c->filter, &c->options, &c->out, &c->lse);
}

static void expect_aft_run(aft_case *c)
{
    const heed_status status = run_on(c, fixture_context);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
}

static void create(aft_case *c, oracle_aft_form form, aft_shape s, tensor_layout layout, uint64_t stream)
{
    memset(c, 0, sizeof *c);
    random_stream random = random_start(stream);
    const attention_shape shape = {s.batch, s.heads, s.heads, s.n_queries, s.n_keys, s.channels, s.channels};
    attention_create(&c->data, shape, layout, stream % 2 ? GUARD_START : GUARD_END);
    attention_fill(&c->data, &random, 2.0f);
    c->form = form;
    c->q = c->data.q;
    c->v = c->data.v;
    c->out = c->data.out;
    const int conv = form == ORACLE_AFT_CONV;
    c->k = conv ? tensor_create(&c->k_memory, HEED_FLOAT32, s.batch, s.heads, s.n_keys, 1, LAYOUT_BHND, GUARD_END)
                : c->data.k;
    tensor_fill_normal(&c->k, &random, 2.0f);
    c->lse = tensor_create(&c->lse_memory, HEED_FLOAT32, s.batch, s.heads, s.n_queries, conv ? 1 : s.channels,
                           LAYOUT_PADDED, GUARD_END);
    c->mask = (heed_mask)HEED_MASK_INIT;
    c->options = (heed_aft_options)HEED_AFT_OPTIONS_INIT;
    c->options.mask = &c->mask;
    c->options.window = form == ORACLE_AFT_LOCAL ? 5 : 0;
}

static void destroy(aft_case *c)
{
    attention_destroy(&c->data);
    guarded *all[] = {&c->lse_memory, &c->k_memory,      &c->w_memory,      &c->u_memory,
                      &c->f_memory,   &c->filter_memory, &c->visible_memory};
    for (size_t n = 0; n < N_OF(all); n++) {
        if (all[n]->data) {
            assert_true(guarded_intact(all[n]));
            guarded_destroy(all[n]);
        }
    }
}

/* A bias of the given columns, repeated over batch and heads at random. */
static void give_w(aft_case *c, int64_t columns, random_stream *random)
{
    c->w = tensor_create(&c->w_memory, HEED_FLOAT32, random_below(random, 2) ? 1 : c->q.shape[0],
                         random_below(random, 2) ? 1 : c->q.shape[1], c->q.shape[2], columns, LAYOUT_BHND, GUARD_END);
    tensor_fill_normal(&c->w, random, 1.0f);
    c->options.w = &c->w;
}

static void give_factors(aft_case *c, int64_t n, random_stream *random)
{
    c->u = tensor_create(&c->u_memory, HEED_FLOAT32, 1, c->q.shape[1], c->q.shape[2], n, LAYOUT_BNHD, GUARD_END);
    c->f = tensor_create(&c->f_memory, HEED_FLOAT32, c->q.shape[0], 1, c->k.shape[2], n, LAYOUT_BHND, GUARD_END);
    tensor_fill_normal(&c->u, random, 0.5f);
    tensor_fill_normal(&c->f, random, 0.5f);
    c->options.query_factors = &c->u;
    c->options.key_factors = &c->f;
}

static void give_filter(aft_case *c, int64_t rows, int64_t taps, random_stream *random)
{
    c->filter = tensor_create(&c->filter_memory, HEED_FLOAT32, 1, random_below(random, 2) ? 1 : c->q.shape[1], rows,
                              taps, LAYOUT_BHND, GUARD_END);
    tensor_fill_normal(&c->filter, random, 1.0f);
}

/* A bias of the kind that the form has: none, matrix, factors; banded; a filter. */
static void give_bias(aft_case *c, int64_t kind, random_stream *random)
{
    if (c->form == ORACLE_AFT_CONV) {
        give_filter(c, 1, c->mask.causal && kind % 2 ? 4 : 7, random);
    } else if (c->form != ORACLE_AFT_SIMPLE && kind % 4 == 1) {
        give_w(c, c->k.shape[2], random);
    } else if (c->form != ORACLE_AFT_SIMPLE && kind % 4 == 2) {
        give_factors(c, 3, random);
    } else if (c->form == ORACLE_AFT_LOCAL && kind % 4 == 3) {
        c->options.banded = 1;
        give_w(c, c->mask.causal ? c->options.window : 2 * c->options.window - 1, random);
    }
    c->options.nothing_outside = c->form == ORACLE_AFT_LOCAL && kind % 3 == 1;
}

enum { N_MASKS = 8 };

static void give_mask(aft_case *c, int64_t kind, random_stream *random)
{
    for (int64_t b = 0; b < c->q.shape[0]; b++) {
        c->query_lengths[b] = c->q.shape[2] - random_below(random, c->q.shape[2] + 1) / 2;
        c->key_lengths[b] = c->k.shape[2] - random_below(random, c->k.shape[2] + 1) / 2;
        c->query_start[b] = 100 + random_below(random, 9);
        c->key_start[b] = 100;
    }
    c->mask.causal = (int)(kind % 2);
    switch (kind) {
    case 2:
        c->mask.query_lengths = c->query_lengths;
        c->mask.key_lengths = c->key_lengths;
        break;
    case 3:
        c->mask.alignment = HEED_ALIGN_TOP_LEFT;
        c->mask.key_lengths = c->key_lengths;
        break;
    case 4:
        c->mask.window_left = 20;
        c->mask.window_right = 3;
        break;
    case 5:
        c->mask.alignment = HEED_ALIGN_POSITIONS;
        c->mask.query_start = c->query_start;
        c->mask.key_start = c->key_start;
        break;
    case 6:
    case 7:
        c->visible = tensor_create(&c->visible_memory, HEED_BOOL, 1, c->q.shape[1], c->q.shape[2], c->k.shape[2],
                                   LAYOUT_BHND, GUARD_END);
        tensor_fill_flags(&c->visible, random, 9);
        c->mask.visible = &c->visible;
        break;
    default:
        break;
    }
}

static void expect_aft_match(aft_case *c, double tolerance, const char *name)
{
    const int64_t *shape = c->out.shape;
    const int64_t n = shape[0] * shape[1] * shape[2];
    double *out = malloc((size_t)(n * shape[3] + 1) * sizeof *out);
    double *lse = malloc((size_t)(n * c->lse.shape[3] + 1) * sizeof *lse);
    assert_non_null(out);
    assert_non_null(lse);
    oracle_aft(c->form, &c->q, &c->k, &c->v, c->form == ORACLE_AFT_CONV ? &c->filter : NULL, &c->options, out, lse);
    expect_aft_run(c);
    const double largest = tensor_max_abs(&c->v);
    compare_result r = compare_tensor(&c->out, out, tolerance, largest > 0.0 ? largest : 1.0);
    if (!r.equal)
        fail_msg("%s: form %d, %d x %d keys, %d channels: out: %s", name, (int)c->form, (int)shape[2],
                 (int)c->k.shape[2], (int)shape[3], r.text);
    /* An error of the weights is one of lse; the sum of reference and logarithm is rounded once more: 1 ulp. */
    r = compare_each(&c->lse, lse, tolerance, 0x1p-23);
    if (!r.equal)
        fail_msg("%s: form %d: lse: %s", name, (int)c->form, r.text);
    free(out);
    free(lse);
}

/* ---- right ---- */

static void sizes_masks_and_biases(void **state)
{
    (void)state;
    const int64_t lanes = runner_tile_lanes();
    const int64_t n_queries[] = {1, 3, 5, lanes + 1, 2 * lanes, 70}, n_keys[] = {1, 2, 63, 64, 65, 128, 130, 200};
    const int64_t channels[] = {1, 3, 15, 16, 17, 33, 64, 65, 130};
    for (int64_t n = 0; n < 400; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)(1000 + n));
        aft_case c;
        const int64_t queries = n_queries[n % 6];
        create(&c, (oracle_aft_form)(n % 4),
               (aft_shape){1 + n % 2, 1 + n % 3, queries, n % 5 == 0 ? queries : n_keys[n % 8], channels[n % 9]},
               (tensor_layout)(n % N_LAYOUTS), (uint64_t)n);
        give_mask(&c, n / 4 % N_MASKS, &random);
        give_bias(&c, n / 7, &random);
        c.options.gate = n % 11 == 0 ? HEED_GATE_NONE : HEED_GATE_SIGMOID;
        expect_aft_match(&c, bound, "sizes");
        destroy(&c);
    }
}

static void filters_on_a_grid(void **state)
{
    (void)state;
    static const int64_t grids[][4] = {{6, 7, 3, 5}, {1, 20, 1, 7}, {9, 1, 5, 1}, {4, 4, 11, 11}, {8, 9, 3, 3}};
    for (size_t n = 0; n < N_OF(grids); n++) {
        random_stream random = random_start(n);
        aft_case c;
        const int64_t tokens = grids[n][0] * grids[n][1];
        create(&c, ORACLE_AFT_CONV, (aft_shape){2, 2, tokens, tokens, 19}, LAYOUT_BNHD, n);
        c.options.grid_height = grids[n][0];
        c.options.grid_width = grids[n][1];
        give_filter(&c, grids[n][2], grids[n][3], &random);
        give_mask(&c, n % 2 ? 2 : 0, &random);
        expect_aft_match(&c, bound, "grid");
        destroy(&c);
    }
}

/* Keys that make references move: at every key, at none, at some, at one early and at one late. */
static void shape_keys(aft_case *c, int64_t kind)
{
    const int64_t *shape = c->k.shape;
    for (int64_t n = 0; n < shape[0] * shape[1] * shape[2] * shape[3]; n++) {
        const int64_t d = n % shape[3], j = n / shape[3] % shape[2], h = n / shape[3] / shape[2] % shape[1];
        float *k = tensor_at(&c->k, n / shape[3] / shape[2] / shape[1], h, j, d);
        switch (kind) {
        case 1:
            *k += 9.0f * (float)j;
            break;
        case 2:
            *k -= 9.0f * (float)j;
            break;
        case 3:
            *k += j % 17 == 11 ? 12.0f : 0.0f;
            break;
        case 4:
            *k += j == 3 || j == shape[2] - 2 ? 60.0f : 0.0f;
            break;
        default:
            break;
        }
    }
}

/* Windows, groups and tiles of rows, slices of channels: what lies inside, outside and across their edges. */
static void windows_of_every_size(void **state)
{
    (void)state;
    static const int64_t tokens[] = {49, 96, 150, 7, 205, 103}, windows[] = {1, 2, 7, 33, 64, 130, 512};
    static const int64_t channels[] = {1, 19, 32, 33, 70};
    for (int64_t n = 0; n < 140; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)(7000 + n));
        aft_case c;
        const int conv = (int)(n / 2 % 2);
        const int64_t size = tokens[n % 6], window = windows[n / 3 % 7], d = n % 40 == 9 ? 520 : channels[n % 5];
        create(&c, conv ? ORACLE_AFT_CONV : ORACLE_AFT_LOCAL, (aft_shape){1 + n % 2, conv ? 9 : 1, size, size, d},
               n % 3 ? LAYOUT_BNHD : LAYOUT_BHND, (uint64_t)n);
        c.mask.causal = (int)(n % 2);
        c.query_lengths[0] = c.key_lengths[0] = size - n % 7;
        c.query_lengths[1] = c.key_lengths[1] = size;
        if (n % 4 > 1)
            c.mask.query_lengths = c.mask.key_lengths = c.key_lengths;
        if (conv) {
            give_filter(&c, 1, c.mask.causal || window % 2 ? window : window + 1, &random);
        } else {
            c.options.window = window;
            give_bias(&c, n % 8 == 4 ? 2 : 3, &random);
            c.options.nothing_outside = 0;
        }
        shape_keys(&c, n / 5 % 5);
        expect_aft_match(&c, bound, "windows");
        heed_report report = HEED_REPORT_INIT;
        assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
        assert_string_equal(report.path, conv ? "aft-conv" : size < 4 ? "aft-rows" : "aft-window");
        destroy(&c);
    }
}

/* Grids that rows of the filter leave above and below, and columns left and right. */
static void grids_of_every_size(void **state)
{
    (void)state;
    static const int64_t grids[][4] = {{20, 7, 3, 5},  {3, 70, 1, 7},  {40, 3, 5, 1},  {12, 13, 11, 11},
                                       {9, 150, 3, 3}, {17, 19, 7, 9}, {5, 130, 3, 65}};
    for (size_t n = 0; n < 2 * N_OF(grids); n++) {
        if (!runner_takes((int64_t)n))
            continue;
        random_stream random = random_start(n);
        aft_case c;
        const int64_t *grid = grids[n % N_OF(grids)], size = grid[0] * grid[1];
        create(&c, ORACLE_AFT_CONV, (aft_shape){2, 2, size, size, n % 3 ? 19 : 70}, LAYOUT_BNHD, n);
        c.options.grid_height = grid[0];
        c.options.grid_width = grid[1];
        give_filter(&c, grid[2], grid[3], &random);
        c.query_lengths[0] = c.key_lengths[0] = size - 4;
        c.query_lengths[1] = size;
        c.key_lengths[1] = size / 2 + 1;
        if (n % 2)
            c.mask.query_lengths = c.query_lengths, c.mask.key_lengths = c.key_lengths;
        shape_keys(&c, (int64_t)n % 5);
        expect_aft_match(&c, bound, "grids");
        heed_report report = HEED_REPORT_INIT;
        assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
        assert_string_equal(report.path, "aft-grid");
        destroy(&c);
    }
}

static void empty_sizes(void **state)
{
    (void)state;
    static const aft_shape shapes[] = {{0, 2, 3, 4, 5}, {2, 0, 3, 4, 5}, {2, 2, 0, 4, 5}, {2, 2, 6, 0, 5}};
    for (int n = 0; n < 16; n++) {
        random_stream random = random_start((uint64_t)n);
        aft_case c;
        create(&c, (oracle_aft_form)(n % 4), shapes[n / 4], LAYOUT_BHND, 0);
        give_bias(&c, 0, &random);
        expect_aft_match(&c, bound, "empty");
        destroy(&c);
    }
}

/* ---- stable ---- */

typedef void (*key_fn)(float *k, float *w, int64_t j, int64_t n, random_stream *random);

static void keys_wide(float *k, float *w, int64_t j, int64_t n, random_stream *random)
{
    (void)j, (void)n;
    *k = random_uniform(random, -1e4f, 1e4f);
    *w = random_uniform(random, -100.0f, 100.0f);
}

static void keys_last_far_above(float *k, float *w, int64_t j, int64_t n, random_stream *random)
{
    *k = j == n - 2 ? 1e4f : random_normal(random);
    *w = random_normal(random);
}

static void keys_low_bias(float *k, float *w, int64_t j, int64_t n, random_stream *random)
{
    (void)j, (void)n;
    *k = random_normal(random);
    *w = -200.0f + random_normal(random);
}

static void keys_bias_against_key(float *k, float *w, int64_t j, int64_t n, random_stream *random)
{
    *k = j == n / 2 ? 90.0f : random_normal(random);
    *w = j == n / 2 ? -100.0f : random_normal(random);
}

static void keys_ramp(float *k, float *w, int64_t j, int64_t n, random_stream *random)
{
    const float place = (float)j / (float)n;
    *k = 1e4f * (place < 0.5f ? 1.0f - 4.0f * place : 4.0f * place - 3.0f) + random_normal(random);
    *w = random_normal(random);
}

/* The bias takes back what the key gives: all keys count, though their references stand 150 apart. */
static void keys_balanced(float *k, float *w, int64_t j, int64_t n, random_stream *random)
{
    (void)j, (void)n;
    *w = random_uniform(random, -75.0f, 75.0f);
    *k = random_normal(random) - *w;
}

static void keys_far_apart(void **state)
{
    (void)state;
    static const key_fn kinds[] = {keys_wide, keys_last_far_above, keys_low_bias, keys_bias_against_key,
                                   keys_ramp, keys_balanced};
    for (int64_t n = 0; n < 6 * 8; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)(2000 + n));
        aft_case c;
        const oracle_aft_form form = (oracle_aft_form)(n / 6 % 4);
        create(&c, form, (aft_shape){1, 1, 150, 150, 20}, LAYOUT_BHND, (uint64_t)n);
        c.mask.causal = n >= 24;
        c.options.window = form == ORACLE_AFT_LOCAL ? 40 : 0;
        give_bias(&c, form == ORACLE_AFT_FULL ? 1 : 3, &random);
        float *biases = form == ORACLE_AFT_CONV ? c.filter.data : c.w.data;
        const int64_t n_biases = form == ORACLE_AFT_CONV     ? c.filter.shape[3]
                                 : form == ORACLE_AFT_SIMPLE ? 1
                                                             : c.w.shape[2] * c.w.shape[3];
        float unused;
        for (int64_t j = 0; j < c.k.shape[2]; j++) {
            for (int64_t d = 0; d < c.k.shape[3]; d++)
                kinds[n % 6](tensor_at(&c.k, 0, 0, j, d), &unused, j, c.k.shape[2], &random);
        }
        for (int64_t j = 0; biases && j < n_biases; j++)
            kinds[n % 6](&unused, &biases[j], j % c.k.shape[2], c.k.shape[2], &random);
        /* The last kind is the one for which heed.h says 2e-5. */
        expect_aft_match(&c, n % 6 == 5 ? 2 * bound : bound, "far apart");
        destroy(&c);
    }
}

static void early_key_far_above_many(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        aft_case c;
        const int64_t n_keys = runner_quick() ? 4096 : 16384;
        create(&c, n == 2 ? ORACLE_AFT_FULL : ORACLE_AFT_SIMPLE, (aft_shape){1, 1, n == 2 ? 7 : 1, n_keys, 16},
               LAYOUT_BHND, (uint64_t)n);
        for (int64_t d = 0; d < 16; d++)
            *tensor_at(&c.k, 0, 0, 0, d) = 17.0f;
        c.mask.window_left = n == 1 ? n_keys : -1; /* rows, not a scan */
        expect_aft_match(&c, bound, "early key");
        destroy(&c);
    }
}

/* ---- exact ---- */

static void expect_bits(const heed_tensor *got, const heed_tensor *want, const char *name)
{
    const compare_result r = compare_bits(got, want);
    if (!r.equal)
        fail_msg("%s: %s", name, r.text);
}

static heed_tensor rows_before(const heed_tensor *tensor, int64_t n) { return tensor_slice(tensor, 2, 0, n); }

static void the_future_has_no_say(void **state)
{
    (void)state;
    static const float futures[] = {1e4f, -1e4f, 60.0f, NAN, INFINITY};
    for (int n = 0; n < 4 * 6; n++) {
        random_stream random = random_start((uint64_t)n + 3000);
        const oracle_aft_form form = (oracle_aft_form)(n % 4);
        const int64_t tokens = n / 4 % 2 ? 60 : 171;
        aft_case first, second;
        aft_case *both[] = {&first, &second};
        for (int m = 0; m < 2; m++) {
            random_stream same = random;
            create(both[m], form, (aft_shape){1, 2, tokens, tokens, 21}, LAYOUT_BHND, (uint64_t)n);
            both[m]->mask.causal = 1;
            give_bias(both[m], n / 4, &same);
            expect_aft_run(both[m]);
        }
        for (int64_t t = 1; t < tokens; t += 23) {
            for (int64_t d = 0; d < second.k.shape[3]; d += 2)
                *tensor_at(&second.k, 0, 0, t, d) = futures[(t + d) % 5];
            *tensor_at(&second.v, 0, 0, t, 3) = futures[t % 5];
        }
        expect_aft_run(&second);
        const heed_tensor out_a = rows_before(&first.out, 1), out_b = rows_before(&second.out, 1);
        expect_bits(&out_b, &out_a, "first row");
        destroy(&second);
        for (int64_t t = 1; t < tokens; t += 29) { /* one token at a time, all rows before it */
            random_stream same = random;
            create(&second, form, (aft_shape){1, 2, tokens, tokens, 21}, LAYOUT_BHND, (uint64_t)n);
            second.mask.causal = 1;
            give_bias(&second, n / 4, &same);
            for (int64_t d = 0; d < second.k.shape[3]; d++)
                *tensor_at(&second.k, 0, 0, t, d) = futures[(t + d) % 5];
            *tensor_at(&second.v, 0, 0, t, 3) = NAN;
            expect_aft_run(&second);
            const heed_tensor a = rows_before(&first.out, t), b = rows_before(&second.out, t);
            const heed_tensor lse_a = rows_before(&first.lse, t), lse_b = rows_before(&second.lse, t);
            expect_bits(&b, &a, "out");
            expect_bits(&lse_b, &lse_a, "lse");
            destroy(&second);
        }
        destroy(&first);
    }
}

/* Poison in a key that the boolean mask hides from four rows of five: those keep their bits, the others get what they
 * see, in its channel. */
static void hidden_poison_has_no_effect(void **state)
{
    (void)state;
    for (int n = 0; n < 4 * 4; n++) {
        random_stream random = random_start((uint64_t)n + 4000);
        aft_case c;
        const int conv = n % 4 == ORACLE_AFT_CONV, poisoned = 40;
        create(&c, (oracle_aft_form)(n % 4), (aft_shape){1, 1, 101, 90, 20}, LAYOUT_BHND, (uint64_t)n);
        give_mask(&c, 6, &random);
        give_bias(&c, n / 4, &random);
        for (int64_t i = 0; i < 101; i++)
            *tensor_flag_at(&c.visible, 0, 0, i, poisoned) = i % 5 == 0;
        expect_aft_run(&c);
        guarded memory, lse_memory;
        heed_tensor clean = tensor_create(&memory, HEED_FLOAT32, 1, 1, 101, 20, LAYOUT_BHND, GUARD_END);
        heed_tensor clean_lse =
            tensor_create(&lse_memory, HEED_FLOAT32, 1, 1, 101, c.lse.shape[3], LAYOUT_BHND, GUARD_END);
        tensor_copy(&clean, &c.out);
        tensor_copy(&clean_lse, &c.lse);
        if (!conv) {
            *tensor_at(&c.k, 0, 0, poisoned, 4) = NAN;
            *tensor_at(&c.k, 0, 0, poisoned, 17) = INFINITY;
        }
        *tensor_at(&c.v, 0, 0, poisoned, 9) = n % 8 < 4 ? INFINITY : NAN;
        expect_aft_run(&c);
        for (int64_t i = 0; i < 101; i++) {
            for (int64_t d = 0; d < 20; d++) {
                /* Out of AFT-local's window with nothing outside, the fifth row does not see it either. */
                const double w = oracle_aft_bias(c.form, &c.q, &c.k, &c.filter, &c.options, 0, 0, i, poisoned);
                const int hit = i % 5 == 0 && w > -INFINITY && (d == 9 || (!conv && (d == 4 || d == 17)));
                const float got = *tensor_at(&c.out, 0, 0, i, d), before = *tensor_at(&clean, 0, 0, i, d);
                if (hit ? isfinite(got) != 0 : memcmp(&got, &before, sizeof got) != 0)
                    fail_msg("form %d, row %d, channel %d: %g, without poison %g", (int)c.form, (int)i, (int)d,
                             (double)got, (double)before);
            }
        }
        /* Beyond the lengths nothing is looked at, not even by a row that is itself beyond. */
        c.key_lengths[0] = poisoned;
        c.query_lengths[0] = 100;
        c.mask.key_lengths = c.key_lengths;
        c.mask.query_lengths = c.query_lengths;
        *tensor_at(&c.q, 0, 0, 100, 2) = NAN;
        expect_aft_match(&c, bound, "lengths");
        guarded_destroy(&memory);
        guarded_destroy(&lse_memory);
        destroy(&c);
    }
}

static void visible_nan_spoils_its_channel(void **state)
{
    (void)state;
    for (int n = 0; n < 12; n++) {
        random_stream random = random_start((uint64_t)n);
        aft_case c;
        create(&c, (oracle_aft_form)(n % 4), (aft_shape){1, 1, 60, 70, 18}, LAYOUT_BHND, (uint64_t)n);
        give_bias(&c, 1, &random);
        c.options.nothing_outside = 0;
        heed_tensor *where[] = {&c.k, &c.v, &c.q};
        const int64_t channel = n / 4 == 0 && n % 4 == ORACLE_AFT_CONV ? 0 : 5;
        *tensor_at(where[n / 4], 0, 0, 33, channel) = NAN;
        expect_aft_match(&c, bound, "visible NaN");
        destroy(&c);
    }
}

static void ones_give_the_gate(void **state)
{
    (void)state;
    for (int n = 0; n < 4 * N_MASKS; n++) {
        random_stream random = random_start((uint64_t)n);
        aft_case c;
        create(&c, (oracle_aft_form)(n % 4), (aft_shape){1, 2, 77, 150, 37}, LAYOUT_BHND, (uint64_t)n);
        give_mask(&c, n / 4, &random);
        give_bias(&c, n, &random);
        tensor_fill_uniform(&c.k, &random, -40.0f, 40.0f);
        tensor_fill(&c.v, 1.0f);
        expect_aft_run(&c);
        guarded memory;
        heed_tensor gate = tensor_create(&memory, HEED_FLOAT32, 1, 2, 77, 37, LAYOUT_BHND, GUARD_END);
        tensor_fill(&gate, 1.0f);
        assert_int_equal(heed_aft_gate(fixture_context, &c.q, &gate, &gate), HEED_OK);
        for (int64_t h = 0; h < 2; h++) {
            for (int64_t i = 0; i < 77; i++) {
                for (int64_t d = 0; d < 37; d++) {
                    const float lse = *tensor_at(&c.lse, 0, h, i, c.form == ORACLE_AFT_CONV ? 0 : d);
                    const float want = lse == -INFINITY ? 0.0f : *tensor_at(&gate, 0, h, i, d);
                    if (*tensor_at(&c.out, 0, h, i, d) != want)
                        fail_msg("form %d, mask %d: %a, the gate is %a", n % 4, n / 4,
                                 (double)*tensor_at(&c.out, 0, h, i, d), (double)want);
                }
            }
        }
        guarded_destroy(&memory);
        destroy(&c);
    }
}

static void threads_and_hooks_keep_the_bits(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        random_stream random = random_start((uint64_t)n);
        aft_case c;
        create(&c, (oracle_aft_form)(n % 4), (aft_shape){2, 2, 100, 110, 140}, LAYOUT_BNHD, (uint64_t)n);
        give_mask(&c, n / 4, &random);
        give_bias(&c, 1, &random);
        expect_aft_run(&c);
        guarded memory;
        heed_tensor first = tensor_create(&memory, HEED_FLOAT32, 2, 2, 100, 140, LAYOUT_BHND, GUARD_END);
        tensor_copy(&first, &c.out);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            assert_int_equal(run_on(&c, context), HEED_OK);
            expect_bits(&c.out, &first, runner_threadings[t].name);
            heed_context_destroy(context);
        }
        guarded_destroy(&memory);
        destroy(&c);
    }
}

/* ---- identities ---- */

/* Two forms on the same q, k, v: out within the bound of both. */
static void expect_equal(aft_case *a, aft_case *b, const char *name)
{
    tensor_copy(&b->q, &a->q);
    tensor_copy(&b->v, &a->v);
    for (int64_t h = 0; h < b->k.shape[1]; h++) {
        for (int64_t j = 0; j < b->k.shape[2]; j++) {
            for (int64_t d = 0; d < b->k.shape[3]; d++)
                *tensor_at(&b->k, 0, h, j, d) = *tensor_at(&a->k, 0, h, j, a->k.shape[3] == 1 ? 0 : d);
        }
    }
    expect_aft_run(a);
    expect_aft_run(b);
    for (int64_t h = 0; h < a->out.shape[1]; h++) {
        for (int64_t i = 0; i < a->out.shape[2]; i++) {
            for (int64_t d = 0; d < a->out.shape[3]; d++) {
                const double difference =
                    fabs((double)*tensor_at(&a->out, 0, h, i, d) - (double)*tensor_at(&b->out, 0, h, i, d));
                if (!(difference <= 2.0 * bound))
                    fail_msg("%s: row %d, channel %d differ by %g", name, (int)i, (int)d, difference);
            }
        }
    }
    destroy(a);
    destroy(b);
}

static void forms_agree(void **state)
{
    (void)state;
    const aft_shape s = {1, 2, 90, 90, 23};
    for (int causal = 0; causal < 2; causal++) {
        random_stream random = random_start(5);
        aft_case a, b;
        create(&a, ORACLE_AFT_SIMPLE, s, LAYOUT_BHND, 1);
        create(&b, ORACLE_AFT_FULL, s, LAYOUT_BHND, 1);
        give_w(&b, 90, &random);
        tensor_fill(&b.w, 0.0f);
        a.mask.causal = b.mask.causal = causal;
        expect_equal(&a, &b, "full without bias is simple");

        create(&a, ORACLE_AFT_FULL, s, LAYOUT_BHND, 2);
        create(&b, ORACLE_AFT_LOCAL, s, LAYOUT_BHND, 2);
        give_w(&a, 90, &random);
        b.options.w = &a.w;
        b.options.window = 90;
        a.mask.causal = b.mask.causal = causal;
        expect_equal(&a, &b, "local with all in the window is full");

        create(&a, ORACLE_AFT_CONV, s, LAYOUT_BHND, 3);
        create(&b, ORACLE_AFT_SIMPLE, s, LAYOUT_BHND, 3);
        give_filter(&a, 1, 5, &random);
        tensor_fill(&a.filter, 0.0f);
        a.mask.causal = b.mask.causal = causal;
        expect_equal(&a, &b, "conv with a filter of 0 is simple");

        create(&a, ORACLE_AFT_CONV, s, LAYOUT_BHND, 4);
        create(&b, ORACLE_AFT_LOCAL, s, LAYOUT_BHND, 4);
        give_filter(&a, 1, causal ? 4 : 7, &random);
        b.options.window = 4;
        b.options.banded = 1;
        b.w = tensor_create(&b.w_memory, HEED_FLOAT32, 1, 2, 90, causal ? 4 : 7, LAYOUT_BHND, GUARD_END);
        b.options.w = &b.w;
        for (int64_t h = 0; h < 2; h++) {
            for (int64_t i = 0; i < 90; i++) {
                for (int64_t t = 0; t < b.w.shape[3]; t++)
                    *tensor_at(&b.w, 0, h, i, t) = *tensor_at(&a.filter, 0, a.filter.shape[1] == 1 ? 0 : h, 0, t);
            }
        }
        a.mask.causal = b.mask.causal = causal;
        expect_equal(&a, &b, "conv is local with a band of the filter");
    }
}

/* The maximum taken from w must be that of a row: four tokens, rows of very different size. */
static void rows_of_w_of_different_size(void **state)
{
    (void)state;
    aft_case c;
    random_stream random = random_start(1);
    create(&c, ORACLE_AFT_FULL, (aft_shape){1, 1, 4, 4, 3}, LAYOUT_BHND, 1);
    give_w(&c, 4, &random);
    for (int64_t i = 0; i < 4; i++) {
        for (int64_t j = 0; j < 4; j++)
            *tensor_at(&c.w, 0, 0, i, j) = (float)(i * i * 5 - 20) + (float)((i + 2 * j) % 3);
    }
    expect_aft_match(&c, bound, "rows of w");
    destroy(&c);
}

static void parts_merge(void **state)
{
    (void)state;
    for (int n = 0; n < 12; n++) {
        random_stream random = random_start((uint64_t)n + 6000);
        aft_case c;
        const int64_t tokens = 140, cut = random_below(&random, tokens + 1);
        create(&c, (oracle_aft_form)(n % 3), (aft_shape){1, 2, 60, tokens, 18}, LAYOUT_BHND,
               (uint64_t)n); /* not conv */
        if (c.form == ORACLE_AFT_FULL)
            give_w(&c, tokens, &random);
        expect_aft_run(&c);
        guarded memory[6];
        heed_tensor part[6];
        for (int m = 0; m < 6; m++)
            part[m] = tensor_create(&memory[m], HEED_FLOAT32, 1, 2, 60, 18, LAYOUT_BHND, GUARD_END);
        tensor_copy(&part[4], &c.out);
        tensor_copy(&part[5], &c.lse);
        for (int m = 0; m < 2; m++) {
            const int64_t first = m ? cut : 0, count = m ? tokens - cut : cut;
            const int64_t query_start = tokens - 60;
            aft_case p = c;
            p.k = tensor_slice(&c.k, 2, first, count);
            p.v = tensor_slice(&c.v, 2, first, count);
            p.w = c.options.w ? tensor_slice(&c.w, 3, first, count) : c.w;
            p.options.w = c.options.w ? &p.w : NULL;
            p.options.mask = &p.mask;
            p.mask.alignment = HEED_ALIGN_POSITIONS;
            p.mask.query_start = &query_start;
            p.mask.key_start = &first;
            p.options.gate = HEED_GATE_NONE;
            p.out = part[2 * m];
            p.lse = part[2 * m + 1];
            expect_aft_run(&p);
        }
        assert_int_equal(heed_merge(fixture_context, &part[0], &part[1], &part[2], &part[3], &part[0], &part[1]),
                         HEED_OK);
        assert_int_equal(heed_aft_gate(fixture_context, &c.q, &part[0], &part[0]), HEED_OK);
        for (int64_t i = 0; i < 60; i++) {
            for (int64_t d = 0; d < 18; d++) {
                if (!(fabs((double)*tensor_at(&part[0], 0, 1, i, d) - (double)*tensor_at(&part[4], 0, 1, i, d)) <=
                      bound) ||
                    !(fabs((double)*tensor_at(&part[1], 0, 1, i, d) - (double)*tensor_at(&part[5], 0, 1, i, d)) <=
                      bound))
                    fail_msg("cut at %d: row %d, channel %d", (int)cut, (int)i, (int)d);
            }
        }
        for (int m = 0; m < 6; m++)
            guarded_destroy(&memory[m]);
        destroy(&c);
    }
}

/* ---- arguments ---- */

/* The call fails so, says something, and writes nothing. */
static void expect_refused(aft_case *c, heed_status want, const char *part_of_message)
{
    const heed_status status = run_on(c, fixture_context);
    const char *message = heed_context_message(fixture_context);
    if (status != want || !strstr(message, part_of_message))
        fail_msg("%s: %s; wanted %s: %s", heed_status_text(status), message, heed_status_text(want), part_of_message);
    for (int64_t i = 0; i < c->out.shape[2]; i++)
        assert_true(isnan(*tensor_at(&c->out, 0, 0, i, 0)));
}

static void wrong_arguments(void **state)
{
    (void)state;
    random_stream random = random_start(0);
    aft_case c, good;
#define REFUSED(change, status, message)                                                                               \
    do {                                                                                                               \
        c = good;                                                                                                      \
        c.options.mask = &c.mask;                                                                                      \
        if (c.options.w)                                                                                               \
            c.options.w = &c.w;                                                                                        \
        change;                                                                                                        \
        expect_refused(&c, status, message);                                                                           \
    } while (0)
    create(&good, ORACLE_AFT_FULL, (aft_shape){1, 2, 6, 6, 4}, LAYOUT_BHND, 0);
    give_w(&good, 6, &random);
    REFUSED(c.options.struct_size--, HEED_ERROR_ARGUMENT, "options");
    REFUSED(c.options.gate = (heed_gate)7, HEED_ERROR_ARGUMENT, "gate");
    REFUSED(c.options.window = 3, HEED_ERROR_ARGUMENT, "window");
    REFUSED(c.options.banded = 1, HEED_ERROR_ARGUMENT, "banded");
    REFUSED(c.options.nothing_outside = 1, HEED_ERROR_ARGUMENT, "nothing_outside");
    REFUSED(c.options.grid_width = 3, HEED_ERROR_ARGUMENT, "grid_width");
    REFUSED(c.options.query_factors = &c.q, HEED_ERROR_ARGUMENT, "options.w");
    REFUSED((c.options.w = NULL, c.options.query_factors = &c.q), HEED_ERROR_ARGUMENT, "key_factors");
    REFUSED(c.k.shape[3] = 3, HEED_ERROR_SHAPE, "k: 4");
    REFUSED(c.v.shape[3] = 3, HEED_ERROR_SHAPE, "v: 4");
    REFUSED(c.v.shape[2] = 5, HEED_ERROR_SHAPE, "v: 6");
    REFUSED(c.w.shape[3] = 5, HEED_ERROR_SHAPE, "options.w: 6");
    REFUSED(c.w.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "options.w");
    REFUSED(c.k.data = NULL, HEED_ERROR_ARGUMENT, "k");
    REFUSED(c.lse.shape[3] = 1, HEED_ERROR_SHAPE, "lse: 4");
    REFUSED(c.q.data = c.out.data, HEED_ERROR_OVERLAP, "out");
    REFUSED(c.w.data = c.lse.data, HEED_ERROR_OVERLAP, "lse");
    assert_int_equal(heed_aft_full_forward(fixture_context, NULL, &good.k, &good.v, NULL, &good.out, NULL),
                     HEED_ERROR_ARGUMENT);
    destroy(&good);

    create(&good, ORACLE_AFT_LOCAL, (aft_shape){1, 2, 6, 6, 4}, LAYOUT_BHND, 0);
    REFUSED(c.options.window = 0, HEED_ERROR_ARGUMENT, "window");
    REFUSED(c.options.banded = 1, HEED_ERROR_ARGUMENT, "banded");
    REFUSED((c.options.banded = 1, c.options.w = &c.q), HEED_ERROR_SHAPE, "options.w: 9");
    REFUSED((c.options.banded = 1, c.mask.causal = 1, c.options.w = &c.q), HEED_ERROR_SHAPE, "options.w: 5");
    destroy(&good);

    create(&good, ORACLE_AFT_SIMPLE, (aft_shape){1, 2, 6, 6, 4}, LAYOUT_BHND, 0);
    REFUSED(c.options.w = &c.q, HEED_ERROR_ARGUMENT, "options.w");
    destroy(&good);

    create(&good, ORACLE_AFT_CONV, (aft_shape){1, 2, 6, 6, 4}, LAYOUT_BHND, 0);
    give_filter(&good, 1, 3, &random);
    REFUSED(c.filter.shape[3] = 2, HEED_ERROR_SHAPE, "odd");
    REFUSED(c.filter.shape[3] = 0, HEED_ERROR_SHAPE, "1 tap");
    REFUSED(c.filter.data = NULL, HEED_ERROR_ARGUMENT, "filter");
    REFUSED(c.k = c.v, HEED_ERROR_SHAPE, "k: 1");
    REFUSED((c.options.grid_height = 2, c.options.grid_width = 2), HEED_ERROR_SHAPE, "grid");
    REFUSED((c.options.grid_height = 2, c.options.grid_width = 3, c.mask.causal = 1), HEED_ERROR_UNSUPPORTED, "causal");
    REFUSED(c.lse = c.out, HEED_ERROR_SHAPE, "lse: 1");
    destroy(&good);
#undef REFUSED
}

static void gate_of_every_size(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        random_stream random = random_start((uint64_t)n);
        guarded q_memory, x_memory;
        const int64_t channels = 1 + random_below(&random, 70);
        heed_tensor q = tensor_create(&q_memory, HEED_FLOAT32, 2, 3, 5, channels, LAYOUT_BNHD, GUARD_END);
        heed_tensor x = tensor_create(&x_memory, HEED_FLOAT32, 2, 3, 5, channels, LAYOUT_PADDED, GUARD_END);
        tensor_fill_uniform(&q, &random, -30.0f, 30.0f);
        tensor_fill_uniform(&x, &random, -1.0f, 1.0f);
        double *want = malloc((size_t)(30 * channels) * sizeof *want);
        assert_non_null(want);
        for (int64_t i = 0; i < 30 * channels; i++) {
            const int64_t row = i / channels;
            const float gate = *tensor_at(&q, row / 15, row / 5 % 3, row % 5, i % channels);
            want[i] = (double)*tensor_at(&x, row / 15, row / 5 % 3, row % 5, i % channels) / (1.0 + exp(-(double)gate));
        }
        assert_int_equal(heed_aft_gate(fixture_context, &q, &x, &x), HEED_OK);
        const compare_result r = compare_each(&x, want, 0.0, 3.5 * 0x1p-23); /* 3 ulp and the rounding of the product */
        if (!r.equal)
            fail_msg("%s", r.text);
        free(want);
        guarded_destroy(&q_memory);
        guarded_destroy(&x_memory);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_masks_and_biases),
        cmocka_unit_test(filters_on_a_grid),
        cmocka_unit_test(windows_of_every_size),
        cmocka_unit_test(grids_of_every_size),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(keys_far_apart),
        cmocka_unit_test(early_key_far_above_many),
        cmocka_unit_test(the_future_has_no_say),
        cmocka_unit_test(hidden_poison_has_no_effect),
        cmocka_unit_test(visible_nan_spoils_its_channel),
        cmocka_unit_test(ones_give_the_gate),
        cmocka_unit_test(threads_and_hooks_keep_the_bits),
        cmocka_unit_test(forms_agree),
        cmocka_unit_test(rows_of_w_of_different_size),
        cmocka_unit_test(parts_merge),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(gate_of_every_size),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
