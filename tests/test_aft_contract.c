/* What heed.h says of the Attention-Free Transformer besides the bound on random inputs: hiding by -inf, rows without
 * keys, who may change whose bits, equalities between problems, parts of any number, and every argument. */
#include "support/aft_forward.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* The bound of heed.h for |v| <= 1. */
static const double bound = 1e-5;

enum { MAX_TENSORS = 16 };

/* One problem. Tensors are made by new_tensor() and given back together. */
typedef struct problem {
    oracle_aft_form form;
    heed_tensor q, k, v, filter, w, u, f, visible, out, lse;
    heed_mask mask;
    heed_aft_options options;
    guarded memory[MAX_TENSORS];
    int n_tensors;
} problem;

static const oracle_aft_form forms[] = {ORACLE_AFT_FULL, ORACLE_AFT_LOCAL, ORACLE_AFT_SIMPLE, ORACLE_AFT_CONV};

static heed_tensor new_tensor(problem *p, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c)
{
    assert_true(p->n_tensors < MAX_TENSORS);
    return tensor_create(&p->memory[p->n_tensors++], dtype, b, h, n, c, LAYOUT_BHND, GUARD_END);
}

/* On the heap, so that options may point into it. Two of one stream hold the same numbers. */
static problem *create(oracle_aft_form form, int64_t batch, int64_t heads, int64_t n_queries, int64_t n_keys,
                       int64_t channels, uint64_t stream)
{
    problem *p = calloc(1, sizeof *p);
    assert_non_null(p);
    random_stream random = random_start(stream);
    const int conv = form == ORACLE_AFT_CONV;
    p->form = form;
    p->q = new_tensor(p, HEED_FLOAT32, batch, heads, n_queries, channels);
    p->k = new_tensor(p, HEED_FLOAT32, batch, heads, n_keys, conv ? 1 : channels);
    p->v = new_tensor(p, HEED_FLOAT32, batch, heads, n_keys, channels);
    p->out = new_tensor(p, HEED_FLOAT32, batch, heads, n_queries, channels);
    p->lse = new_tensor(p, HEED_FLOAT32, batch, heads, n_queries, conv ? 1 : channels);
    tensor_fill_normal(&p->q, &random, 1.0f);
    tensor_fill_normal(&p->k, &random, 2.0f);
    tensor_fill_uniform(&p->v, &random, -1.0f, 1.0f);
    p->mask = (heed_mask)HEED_MASK_INIT;
    p->options = (heed_aft_options)HEED_AFT_OPTIONS_INIT;
    p->options.mask = &p->mask;
    if (form == ORACLE_AFT_LOCAL)
        p->options.window = 6;
    if (form == ORACLE_AFT_FULL || form == ORACLE_AFT_LOCAL) {
        p->w = new_tensor(p, HEED_FLOAT32, 1, heads, n_queries, n_keys);
        tensor_fill_normal(&p->w, &random, 1.0f);
        p->options.w = &p->w;
    }
    if (conv) {
        p->filter = new_tensor(p, HEED_FLOAT32, 1, heads, 1, 7);
        tensor_fill_normal(&p->filter, &random, 1.0f);
    }
    return p;
}

static void destroy(problem *p)
{
    for (int n = 0; n < p->n_tensors; n++) {
        assert_true(guarded_intact(&p->memory[n]));
        guarded_destroy(&p->memory[n]);
    }
    free(p);
}

static void run(problem *p)
{
    tensor_fill(&p->out, NAN);
    tensor_fill(&p->lse, NAN);
    const heed_status status =
        aft_forward(p->form, fixture_context, &p->q, &p->k, &p->v, &p->filter, &p->options, &p->out, &p->lse);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
}

/* Runs and compares with the oracle. Where that finds no key (lse -inf), out must be 0 exactly. */
static void expect_oracle(problem *p, const char *name)
{
    const int64_t rows = p->q.shape[0] * p->q.shape[1] * p->q.shape[2], d = p->q.shape[3], e = p->lse.shape[3];
    double *out = malloc((size_t)(rows * d + 1) * sizeof *out), *lse = malloc((size_t)(rows * e + 1) * sizeof *lse);
    assert_non_null(out);
    assert_non_null(lse);
    oracle_aft(p->form, &p->q, &p->k, &p->v, &p->filter, &p->options, out, lse);
    run(p);
    const double largest = tensor_max_abs(&p->v);
    compare_result r = compare_tensor(&p->out, out, bound, largest > 0.0 ? largest : 1.0);
    if (!r.equal)
        fail_msg("%s, form %d, %d queries, %d keys, %d channels: out: %s", name, (int)p->form, (int)p->q.shape[2],
                 (int)p->k.shape[2], (int)d, r.text);
    /* d lse = d den / den: the relative error of the weights. The reference, of about the size of lse, and the sum are
     * rounded once each: 2 ulp. */
    r = compare_each(&p->lse, lse, bound, 2 * 0x1p-23);
    if (!r.equal)
        fail_msg("%s, form %d, %d queries, %d keys, %d channels: lse: %s", name, (int)p->form, (int)p->q.shape[2],
                 (int)p->k.shape[2], (int)d, r.text);
    for (int64_t n = 0; n < rows * d; n++) {
        const double seen = lse[n / d * e + (e == 1 ? 0 : n % d)];
        if (seen != (double)-INFINITY)
            continue;
        const int64_t row = n / d, i = row % p->q.shape[2], h = row / p->q.shape[2] % p->q.shape[1];
        const float got = *tensor_at(&p->out, row / p->q.shape[2] / p->q.shape[1], h, i, n % d);
        if (got != 0.0f)
            fail_msg("%s, form %d: row %d, channel %d sees no key and is %g", name, (int)p->form, (int)i, (int)(n % d),
                     (double)got);
    }
    free(out);
    free(lse);
}

static void expect_bits(const heed_tensor *got, const heed_tensor *want, const char *name, int form)
{
    const compare_result r = compare_bits(got, want);
    if (!r.equal)
        fail_msg("%s, form %d: %s", name, form, r.text);
}

/* Two results that are each within the bound of one exact value. */
static void expect_close(const heed_tensor *a, const heed_tensor *b, double tolerance, const char *name)
{
    for (int64_t n = 0; n < a->shape[0] * a->shape[1] * a->shape[2] * a->shape[3]; n++) {
        const int64_t d = n % a->shape[3], row = n / a->shape[3], i = row % a->shape[2];
        const int64_t h = row / a->shape[2] % a->shape[1], batch = row / a->shape[2] / a->shape[1];
        const double x = (double)*tensor_at(a, batch, h, i, d), y = (double)*tensor_at(b, batch, h, i, d);
        if (!(fabs(x - y) <= tolerance) && x != y)
            fail_msg("%s: head %d, row %d, channel %d: %.9g and %.9g", name, (int)h, (int)i, (int)d, x, y);
    }
}

/* ---- the bias ---- */

static void w_of_one_row(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        random_stream random = random_start(100 + (uint64_t)n);
        problem *p = create(n % 2 ? ORACLE_AFT_LOCAL : ORACLE_AFT_FULL, 2, 3, n < 4 ? 70 : 2, 70, 17, (uint64_t)n);
        const int banded = n % 2 && n / 2 % 2;
        p->mask.causal = n / 4;
        p->options.banded = banded;
        p->w = new_tensor(p, HEED_FLOAT32, n % 3 ? 2 : 1, 1, 1, banded ? (p->mask.causal ? 6 : 11) : 70);
        tensor_fill_normal(&p->w, &random, 1.0f);
        expect_oracle(p, "one row of w");
        destroy(p);
    }
}

/* A key or a bias of -inf hides, whatever v holds there; a row or a channel of nothing else sees no key. */
static void minus_infinity_hides(void **state)
{
    (void)state;
    static const int64_t n_queries[] = {2, 70};
    for (int n = 0; n < 32; n++) {
        const oracle_aft_form form = forms[n % 4];
        problem *p = create(form, 1, 2, n_queries[n / 4 % 2], 90, 20, 200 + (uint64_t)n);
        const int64_t rows = p->q.shape[2], key_channel = form == ORACLE_AFT_CONV ? 0 : 5;
        p->mask.causal = n / 8 % 2;
        for (int64_t j = 3; j < 90; j += 7) { /* channel 5 (conv: all) does not see these keys */
            *tensor_at(&p->k, 0, 0, j, key_channel) = -INFINITY;
            *tensor_at(&p->v, 0, 0, j, 5) = n / 16 ? NAN : INFINITY;
        }
        for (int64_t j = 0; j < 90; j++) /* head 1, channel 0 (conv: all) sees none */
            *tensor_at(&p->k, 0, 1, j, 0) = -INFINITY;
        if (form == ORACLE_AFT_FULL) {
            for (int64_t i = 0; i < rows; i++)
                *tensor_at(&p->w, 0, 0, i, 11) = -INFINITY;
            for (int64_t d = 0; d < 20; d++)
                *tensor_at(&p->k, 0, 0, 11, d) = *tensor_at(&p->v, 0, 0, 11, d) = NAN;
            for (int64_t j = 0; j < 90; j++)
                *tensor_at(&p->w, 0, 1, rows / 2, j) = -INFINITY;
        }
        if (form == ORACLE_AFT_CONV)
            *tensor_at(&p->filter, 0, 0, 0, 2) = -INFINITY;
        expect_oracle(p, "-inf");
        destroy(p);
    }
}

/* Nobody sees anything: 0 and -inf, whatever q, k and v hold. */
static void rows_without_keys(void **state)
{
    (void)state;
    static const int64_t none[] = {0, 0};
    for (int n = 0; n < 4 * 5 * 2; n++) {
        problem *p = create(forms[n % 4], 2, 2, n / 20 ? 66 : 2, 67, 19, 300 + (uint64_t)n);
        tensor_fill(&p->q, NAN);
        tensor_fill(&p->k, NAN);
        tensor_fill(&p->v, NAN);
        const int64_t far[] = {1000, 1000};
        switch (n / 4 % 5) {
        case 0:
            p->mask.key_lengths = none;
            break;
        case 1:
            p->mask.query_lengths = none;
            break;
        case 2:
            p->visible = new_tensor(p, HEED_BOOL, 1, 1, 1, 67);
            memset(p->visible.data, 0, 67);
            p->mask.visible = &p->visible;
            break;
        case 3: /* all keys are in the future */
            p->mask.causal = 1;
            p->mask.alignment = HEED_ALIGN_POSITIONS;
            p->mask.key_start = far;
            break;
        default: /* all keys are too far in the past */
            p->mask.window_left = 3;
            p->mask.alignment = HEED_ALIGN_POSITIONS;
            p->mask.query_start = far;
            break;
        }
        run(p);
        for (int64_t row = 0; row < 4 * p->q.shape[2]; row++) {
            const int64_t i = row % p->q.shape[2], h = row / p->q.shape[2] % 2, b = row / p->q.shape[2] / 2;
            for (int64_t d = 0; d < 19; d++) {
                const float out = *tensor_at(&p->out, b, h, i, d);
                const float lse = *tensor_at(&p->lse, b, h, i, p->lse.shape[3] == 1 ? 0 : d);
                if (out != 0.0f || lse != -INFINITY)
                    fail_msg("form %d, mask %d, row %d: %g, lse %g", n % 4, n / 4 % 5, (int)i, (double)out,
                             (double)lse);
            }
        }
        destroy(p);
    }
}

/* Positions at the ends of what heed.h allows, and windows as wide as an int64_t. */
static void positions_far_out(void **state)
{
    (void)state;
    static const int64_t limit = (int64_t)1 << 60;
    for (int n = 0; n < 4 * 4; n++) {
        problem *p = create(forms[n % 4], 1, 1, 40, 40, 9, 400 + (uint64_t)n);
        const int64_t query_start = n / 4 % 2 ? limit : -limit, key_start = n / 8 ? -query_start : query_start;
        p->mask.alignment = HEED_ALIGN_POSITIONS;
        p->mask.query_start = &query_start;
        p->mask.key_start = &key_start;
        p->mask.causal = p->form == ORACLE_AFT_FULL;
        if (p->form == ORACLE_AFT_LOCAL && n / 4 % 2)
            p->options.window = INT64_MAX;
        expect_oracle(p, "far positions");
        destroy(p);
    }
}

/* ---- stable ---- */

static void values_of_any_size(void **state)
{
    (void)state;
    static const float sizes[] = {1e30f, 1e-30f, 1.0f};
    for (int n = 0; n < 4 * 3 * 2; n++) {
        random_stream random = random_start(500 + (uint64_t)n);
        problem *p = create(forms[n % 4], 1, 1, n / 12 ? 3 : 50, 700, 18, (uint64_t)n);
        tensor_fill_uniform(&p->k, &random, n / 4 % 3 == 2 ? -1e4f : 0.0f, n / 4 % 3 == 2 ? 1e4f : 7.0f);
        tensor_fill_uniform(&p->v, &random, -sizes[n / 4 % 3], sizes[n / 4 % 3]);
        if (p->options.w)
            tensor_fill_uniform(&p->w, &random, n / 4 % 3 == 2 ? -100.0f : -1.0f, n / 4 % 3 == 2 ? 100.0f : 1.0f);
        expect_oracle(p, "values");
        destroy(p);
    }
}

/* |k| <= 1e4 and |w| <= 100 over sizes around every block. */
static void wide_keys_of_every_size(void **state)
{
    (void)state;
    static const int64_t n_keys[] = {63, 64, 65, 128, 300}, channels[] = {1, 3, 16, 33, 130};
    for (int n = 0; n < 4 * 5 * 5; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start(600 + (uint64_t)n);
        problem *p = create(forms[n % 4], 1, 1, 60, n_keys[n / 4 % 5], channels[n / 20], (uint64_t)n);
        p->mask.causal = n / 4 % 2;
        tensor_fill_uniform(&p->k, &random, -1e4f, 1e4f);
        if (p->options.w)
            tensor_fill_uniform(&p->w, &random, -100.0f, 100.0f);
        if (p->form == ORACLE_AFT_CONV)
            tensor_fill_uniform(&p->filter, &random, -100.0f, 100.0f);
        expect_oracle(p, "wide keys");
        destroy(p);
    }
}

/* One key e^17 above 16383 others comes first. One float32 sum would lose 2e-4 of max|v|. */
static void one_large_key_first(void **state)
{
    (void)state;
    const int64_t n_keys = runner_quick() ? 4096 : 16384;
    for (int n = 0; n < 8; n++) {
        problem *p = create(forms[n % 4], 1, 1, n / 4 ? 5 : 2, n_keys, 16, 700 + (uint64_t)n);
        random_stream random = random_start(700 + (uint64_t)n);
        tensor_fill_normal(&p->k, &random, 0.01f);
        for (int64_t d = 0; d < p->k.shape[3]; d++)
            *tensor_at(&p->k, 0, 0, 0, d) = 17.0f;
        tensor_fill_uniform(&p->v, &random, 0.5f, 1.0f); /* no two late terms cancel */
        expect_oracle(p, "large first key");
        destroy(p);
    }
}

/* ---- bits ---- */

/* Changes tokens one at a time, in seven kinds of masks, and looks at the rows that do not see them: those before the
 * token in a causal mask (`later`), whatever it becomes, or those from which a window, a boolean mask or a length hides
 * it, where it becomes NaN or infinite. */
static void expect_unseen_tokens_change_no_bit(int later)
{
    static const float contents[] = {NAN, INFINITY, 1e4f, -1e4f, 30.0f};
    for (int n = 0; n < 4 * 7 * 5; n++) {
        if (!runner_takes(n))
            continue;
        const int kind = n / 4 % 7;
        const float content = contents[n / 28];
        const int64_t lengths[] = {150}, query_start[] = {40}, key_start[] = {3};
        const int64_t tokens[] = {0, 1, 64, 90, 130, 149}; /* 0: the first reference of all */
        problem *p = create(forms[n % 4], 1, 1, kind == 6 ? 3 : 120, 170, 18, 800 + (uint64_t)n);
        random_stream random = random_start((uint64_t)n);
        p->mask.causal = kind != 5;
        if (kind == 1)
            p->mask.alignment = HEED_ALIGN_TOP_LEFT;
        if (kind == 2)
            p->mask.window_left = 20;
        if (kind == 3)
            p->mask.key_lengths = lengths;
        if (kind == 4) {
            p->mask.alignment = HEED_ALIGN_POSITIONS;
            p->mask.query_start = query_start;
            p->mask.key_start = key_start;
        }
        if (kind == 5) {
            p->visible = new_tensor(p, HEED_BOOL, 1, 1, 120, 170);
            tensor_fill_flags(&p->visible, &random, 8);
            p->mask.visible = &p->visible;
        }
        heed_tensor out = new_tensor(p, HEED_FLOAT32, 1, 1, p->q.shape[2], 18);
        heed_tensor lse = new_tensor(p, HEED_FLOAT32, 1, 1, p->q.shape[2], p->lse.shape[3]);
        run(p);
        tensor_copy(&out, &p->out);
        tensor_copy(&lse, &p->lse);
        for (size_t t = 0; t < N_OF(tokens); t++) {
            heed_tensor k = tensor_slice(&p->k, 2, tokens[t], 1), v = tensor_slice(&p->v, 2, tokens[t], 1);
            float old_k[18], old_v[18];
            memcpy(old_k, k.data, (size_t)k.shape[3] * sizeof *old_k);
            memcpy(old_v, v.data, sizeof old_v);
            tensor_fill(&k, content);
            tensor_fill(&v, content);
            run(p);
            for (int64_t i = 0; i < p->q.shape[2]; i++) {
                if (oracle_visible(&p->mask, 0, 0, i, tokens[t], p->q.shape[2], 170))
                    continue;
                const int64_t distance = oracle_distance(&p->mask, 0, i, tokens[t], p->q.shape[2], 170);
                if (later != (p->mask.causal && distance > 0) || (!later && isfinite(content)))
                    continue;
                const heed_tensor a = tensor_slice(&p->out, 2, i, 1), b = tensor_slice(&out, 2, i, 1);
                const heed_tensor c = tensor_slice(&p->lse, 2, i, 1), d = tensor_slice(&lse, 2, i, 1);
                if (!compare_bits(&a, &b).equal || !compare_bits(&c, &d).equal)
                    fail_msg("form %d, mask %d, token %d made %g: row %d: %s; lse %s", n % 4, kind, (int)tokens[t],
                             (double)content, (int)i, compare_bits(&a, &b).text, compare_bits(&c, &d).text);
            }
            memcpy(k.data, old_k, (size_t)k.shape[3] * sizeof *old_k);
            memcpy(v.data, old_v, sizeof old_v);
        }
        destroy(p);
    }
}

static void later_tokens_change_no_bit(void **state)
{
    (void)state;
    expect_unseen_tokens_change_no_bit(1);
}

static void hidden_tokens_change_no_bit(void **state)
{
    (void)state;
    expect_unseen_tokens_change_no_bit(0);
}

static void without_lse_and_alone_in_the_batch(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        problem *p = create(forms[n % 4], 3, 2, n / 4 ? 90 : 3, 130, 70, 900 + (uint64_t)n);
        heed_tensor out = new_tensor(p, HEED_FLOAT32, 3, 2, p->q.shape[2], 70);
        run(p);
        assert_int_equal(
            aft_forward(p->form, fixture_context, &p->q, &p->k, &p->v, &p->filter, &p->options, &out, NULL), HEED_OK);
        expect_bits(&out, &p->out, "without lse", n % 4);
        const heed_tensor q = tensor_slice(&p->q, 0, 1, 1), k = tensor_slice(&p->k, 0, 1, 1);
        const heed_tensor v = tensor_slice(&p->v, 0, 1, 1), one = tensor_slice(&out, 0, 1, 1);
        const heed_tensor whole = tensor_slice(&p->out, 0, 1, 1);
        tensor_fill(&one, NAN);
        assert_int_equal(aft_forward(p->form, fixture_context, &q, &k, &v, &p->filter, &p->options, &one, NULL),
                         HEED_OK);
        expect_bits(&one, &whole, "alone in the batch", n % 4);
        destroy(p);
    }
}

/* ---- equalities ---- */

/* conv is full with w_ij = the tap at the distance of i and j; both within the bound, so within twice it together. */
static void conv_is_full_with_a_toeplitz_bias(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        const int causal = n == 1, grid = n >= 2;
        const int64_t tokens = 72;
        random_stream random = random_start((uint64_t)n);
        problem *c = create(ORACLE_AFT_CONV, 1, 2, tokens, tokens, 21, 1000 + (uint64_t)n);
        problem *f = create(ORACLE_AFT_FULL, 1, 2, tokens, tokens, 21, 1000 + (uint64_t)n);
        c->mask.causal = f->mask.causal = causal;
        const int64_t rows = grid ? 3 : 1, taps = causal ? 6 : n == 3 ? 5 : 7, width = 9;
        c->filter = new_tensor(c, HEED_FLOAT32, 1, 2, rows, taps);
        tensor_fill_normal(&c->filter, &random, 1.5f);
        c->options.grid_height = grid ? 8 : 0;
        c->options.grid_width = grid ? width : 0;
        tensor_copy(&f->q, &c->q);
        tensor_copy(&f->v, &c->v);
        for (int64_t h = 0; h < 2; h++) {
            for (int64_t j = 0; j < tokens; j++) {
                for (int64_t d = 0; d < 21; d++)
                    *tensor_at(&f->k, 0, h, j, d) = *tensor_at(&c->k, 0, h, j, 0);
                for (int64_t i = 0; i < tokens; i++) {
                    const int64_t right = grid ? j % width - i % width : j - i;
                    const int64_t column = causal ? right + taps - 1 : right + (taps - 1) / 2;
                    const int64_t row = grid ? j / width - i / width + 1 : 0;
                    const int inside = row >= 0 && row < rows && column >= 0 && column < taps;
                    *tensor_at(&f->w, 0, h, i, j) = inside ? *tensor_at(&c->filter, 0, h, row, column) : 0.0f;
                }
            }
        }
        run(c);
        run(f);
        expect_close(&c->out, &f->out, 2.0 * bound, "conv and full");
        destroy(c);
        destroy(f);
    }
}

/* The order of the keys is nothing (without a bias), and the same for keys and columns of w. */
static void keys_in_another_order(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        const int64_t tokens = 201;
        const oracle_aft_form form = n % 2 ? ORACLE_AFT_FULL : ORACLE_AFT_SIMPLE;
        problem *a = create(form, 1, 1, n / 2 ? 2 : 70, tokens, 18, 1100 + (uint64_t)n);
        problem *b = create(form, 1, 1, n / 2 ? 2 : 70, tokens, 18, 1100 + (uint64_t)n);
        for (int64_t j = 0; j < tokens; j++) {
            const int64_t to = j * 77 % tokens; /* 77 and 201 have no common factor */
            for (int64_t d = 0; d < 18; d++) {
                *tensor_at(&b->k, 0, 0, to, d) = *tensor_at(&a->k, 0, 0, j, d);
                *tensor_at(&b->v, 0, 0, to, d) = *tensor_at(&a->v, 0, 0, j, d);
            }
            for (int64_t i = 0; a->options.w && i < a->q.shape[2]; i++)
                *tensor_at(&b->w, 0, 0, i, to) = *tensor_at(&a->w, 0, 0, i, j);
        }
        run(a);
        run(b);
        expect_close(&a->out, &b->out, 2.0 * bound, "permuted");
        destroy(a);
        destroy(b);
    }
}

/* A constant added to the keys of a channel and to a row of w changes nothing but lse. All numbers are multiples of
 * 2^-10 below 2^13, so that the sums are exact and what remains is twice the bound. */
static void shifted_keys_and_biases(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        problem *a = create(forms[n % 4], 1, 1, n / 4 ? 3 : 66, 140, 18, 1200 + (uint64_t)n);
        problem *b = create(forms[n % 4], 1, 1, n / 4 ? 3 : 66, 140, 18, 1200 + (uint64_t)n);
        for (int64_t d = 0; d < a->k.shape[3]; d++) {
            for (int64_t j = 0; j < 140; j++) {
                float *k = tensor_at(&a->k, 0, 0, j, d);
                *k = rintf(*k * 1024.0f) / 1024.0f;
                *tensor_at(&b->k, 0, 0, j, d) = *k + (float)(d % 2 ? 4000 : -4000);
            }
        }
        for (int64_t i = 0; n % 4 == ORACLE_AFT_FULL && i < a->q.shape[2]; i++) {
            for (int64_t j = 0; j < 140; j++) {
                float *w = tensor_at(&a->w, 0, 0, i, j);
                *w = rintf(*w * 1024.0f) / 1024.0f;
                *tensor_at(&b->w, 0, 0, i, j) = *w + (float)(i % 2 ? 90 : -90);
            }
        }
        run(a);
        run(b);
        expect_close(&a->out, &b->out, 2.0 * bound, "shifted");
        destroy(a);
        destroy(b);
    }
}

/* Any number of parts, some empty, each a problem of its own, merged in order and gated once. The parts are within the
 * bound of their own values, weights of at most 1 in sum; each merge adds 4e-7 and what 1 ulp of lse (5e-7 below 8)
 * makes of it: 4 merges stay within 1e-5 on top of the bounds of parts and whole. */
static void parts_of_any_number(void **state)
{
    (void)state;
    enum { N_PARTS = 5 };
    for (int n = 0; n < 4 * 4; n++) {
        random_stream random = random_start(1300 + (uint64_t)n);
        const oracle_aft_form form = forms[n % 4];
        const int64_t tokens = 180, rows = n / 8 ? 3 : 70, query_start = tokens - rows;
        problem *p = create(form, 1, 2, rows, tokens, 18, 1300 + (uint64_t)n);
        p->mask.causal = n / 4 % 2;
        p->mask.alignment = HEED_ALIGN_POSITIONS;
        p->mask.query_start = &query_start;
        heed_tensor out = new_tensor(p, HEED_FLOAT32, 1, 2, rows, 18);
        heed_tensor lse = new_tensor(p, HEED_FLOAT32, 1, 2, rows, p->lse.shape[3]);
        heed_tensor part_out = new_tensor(p, HEED_FLOAT32, 1, 2, rows, 18);
        heed_tensor part_lse = new_tensor(p, HEED_FLOAT32, 1, 2, rows, p->lse.shape[3]);
        run(p);
        int64_t first = 0;
        tensor_fill(&out, 0.0f);
        tensor_fill(&lse, -INFINITY);
        for (int m = 0; m < N_PARTS; m++) {
            const int64_t count = m == N_PARTS - 1 ? tokens - first : random_below(&random, (tokens - first) / 2 + 1);
            const heed_tensor k = tensor_slice(&p->k, 2, first, count), v = tensor_slice(&p->v, 2, first, count);
            heed_tensor w = p->w;
            heed_mask mask = p->mask;
            heed_aft_options options = p->options;
            mask.key_start = &first;
            options.mask = &mask;
            options.gate = HEED_GATE_NONE;
            if (options.w) {
                w = tensor_slice(&p->w, 3, first, count);
                options.w = &w;
            }
            assert_int_equal(
                aft_forward(form, fixture_context, &p->q, &k, &v, &p->filter, &options, &part_out, &part_lse), HEED_OK);
            assert_int_equal(heed_merge(fixture_context, &out, &lse, &part_out, &part_lse, &out, &lse), HEED_OK);
            first += count;
        }
        assert_int_equal(heed_aft_gate(fixture_context, &p->q, &out, &out), HEED_OK);
        expect_close(&out, &p->out, 3.0 * bound, "merged");
        expect_close(&lse, &p->lse, 3.0 * bound, "merged lse");
        destroy(p);
    }
}

/* q of +inf opens the gate, -inf closes it. */
static void gate_at_its_ends(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        problem *p = create(forms[n], 1, 1, 40, 40, 9, 1400 + (uint64_t)n);
        for (int64_t i = 0; i < 40; i++) {
            *tensor_at(&p->q, 0, 0, i, 1) = INFINITY;
            *tensor_at(&p->q, 0, 0, i, 2) = -INFINITY;
            *tensor_at(&p->q, 0, 0, i, 3) = 200.0f;
            *tensor_at(&p->q, 0, 0, i, 4) = -200.0f;
        }
        expect_oracle(p, "gate");
        destroy(p);
    }
}

/* ---- arguments ---- */

/* A problem whose arguments may be spoilt one by one; NULL pointers where the call gets NULL. */
typedef struct arguments {
    problem *p;
    heed_context *context;
    heed_tensor q, k, v, filter, w, u, f, out, lse;
    const heed_tensor *q_at, *k_at, *v_at, *filter_at, *out_at, *lse_at;
    heed_mask mask;
    heed_aft_options options;
} arguments;

static arguments good(problem *p)
{
    arguments a = {.p = p, .context = fixture_context};
    a.q = p->q, a.k = p->k, a.v = p->v, a.filter = p->filter, a.w = p->w, a.u = p->u, a.f = p->f;
    a.out = p->out, a.lse = p->lse, a.mask = p->mask, a.options = p->options;
    return a;
}

static void point(arguments *a)
{
    a->q_at = &a->q, a->k_at = &a->k, a->v_at = &a->v, a->out_at = &a->out, a->lse_at = &a->lse;
    a->filter_at = &a->filter;
    a->options.mask = &a->mask;
    a->options.w = a->options.w ? &a->w : NULL;
    a->options.query_factors = a->options.query_factors ? &a->u : NULL;
    a->options.key_factors = a->options.key_factors ? &a->f : NULL;
}

/* The call is refused so, with a message, and writes no byte of any tensor. */
static void refuse(const arguments *a, heed_status want, const char *change)
{
    problem *p = a->p;
    const int n_tensors = p->n_tensors;
    unsigned char *before[MAX_TENSORS] = {NULL};
    for (int n = 0; n < n_tensors; n++) {
        before[n] = malloc(p->memory[n].bytes + 1);
        assert_non_null(before[n]);
        memcpy(before[n], p->memory[n].data, p->memory[n].bytes);
    }
    const heed_status status =
        aft_forward(p->form, a->context, a->q_at, a->k_at, a->v_at, a->filter_at, &a->options, a->out_at, a->lse_at);
    if (status != want)
        fail_msg("form %d, %s: %s: %s; wanted %s", (int)p->form, change, heed_status_text(status),
                 heed_context_message(a->context), heed_status_text(want));
    if (!*heed_context_message(a->context))
        fail_msg("form %d, %s: no message", (int)p->form, change);
    for (int n = 0; n < n_tensors; n++) {
        if (memcmp(before[n], p->memory[n].data, p->memory[n].bytes) != 0)
            fail_msg("form %d, %s: was refused and wrote", (int)p->form, change);
        free(before[n]);
    }
}

#define REFUSE(change, status)                                                                                         \
    do {                                                                                                               \
        arguments a = good(p);                                                                                         \
        point(&a);                                                                                                     \
        change;                                                                                                        \
        refuse(&a, status, #change);                                                                                   \
    } while (0)

static void refused_tensors(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        problem *p = create(forms[n], 2, 2, 6, 7, 4, (uint64_t)n);
        REFUSE(a.q_at = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.k_at = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.v_at = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.out_at = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.q.data = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.v.data = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.out.data = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.lse.data = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.k.data = (char *)a.k.data + 1, HEED_ERROR_ARGUMENT);
        REFUSE(a.q.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.k.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.v.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.out.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.lse.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.q.shape[0] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.k.shape[0] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.k.shape[1] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.v.shape[0] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.v.shape[1] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.v.shape[2] = 6, HEED_ERROR_SHAPE);
        REFUSE(a.v.shape[3] = 3, HEED_ERROR_SHAPE);
        REFUSE(a.k.shape[2] = -1, HEED_ERROR_SHAPE);
        REFUSE(a.out.shape[2] = 5, HEED_ERROR_SHAPE);
        REFUSE(a.out.shape[3] = 3, HEED_ERROR_SHAPE);
        REFUSE(a.lse.shape[1] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.lse.shape[2] = 5, HEED_ERROR_SHAPE);
        REFUSE(a.q.stride[2] = -4, HEED_ERROR_STRIDE);
        REFUSE(a.v.stride[3] = 2, HEED_ERROR_STRIDE);
        REFUSE(a.out.stride[2] = 0, HEED_ERROR_STRIDE);
        REFUSE(a.out.data = a.q.data, HEED_ERROR_OVERLAP);
        REFUSE(a.out.data = a.v.data, HEED_ERROR_OVERLAP);
        REFUSE(a.k.data = a.out.data, HEED_ERROR_OVERLAP);
        REFUSE(a.lse.data = a.out.data, HEED_ERROR_OVERLAP);
        REFUSE(a.lse.data = a.v.data, HEED_ERROR_OVERLAP);
        REFUSE(a.options.struct_size = 0, HEED_ERROR_ARGUMENT);
        REFUSE(a.options.gate = (heed_gate)2, HEED_ERROR_ARGUMENT);
        REFUSE(a.mask.struct_size = 1, HEED_ERROR_ARGUMENT);
        REFUSE(a.options.grid_height = -1, HEED_ERROR_ARGUMENT);
        REFUSE(a.options.grid_width = 3, HEED_ERROR_ARGUMENT);
        assert_int_equal(aft_forward(p->form, NULL, &p->q, &p->k, &p->v, &p->filter, NULL, &p->out, NULL),
                         HEED_ERROR_ARGUMENT);
        if (forms[n] != ORACLE_AFT_CONV) {
            REFUSE(a.k.shape[3] = 1, HEED_ERROR_SHAPE);
            REFUSE(a.lse.shape[3] = 1, HEED_ERROR_SHAPE);
            REFUSE((a.q.shape[3] = a.k.shape[3] = a.v.shape[3] = a.out.shape[3] = a.lse.shape[3] = 0),
                   HEED_ERROR_SHAPE);
            REFUSE((a.options.grid_height = 2, a.options.grid_width = 3), HEED_ERROR_ARGUMENT);
        }
        if (forms[n] != ORACLE_AFT_LOCAL) {
            REFUSE(a.options.window = 1, HEED_ERROR_ARGUMENT);
            REFUSE(a.options.banded = 1, HEED_ERROR_ARGUMENT);
            REFUSE(a.options.nothing_outside = 1, HEED_ERROR_ARGUMENT);
        }
        heed_config config = HEED_CONFIG_INIT;
        heed_context *small;
        config.scratch_bytes = 64;
        assert_int_equal(heed_context_create(&config, &small, NULL, 0), HEED_OK);
        REFUSE(a.context = small, HEED_ERROR_SCRATCH);
        heed_context_destroy(small);
        destroy(p);
    }
}

static void refused_biases(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        problem *p = create(forms[n], 2, 2, 6, 7, 4, (uint64_t)n);
        p->u = new_tensor(p, HEED_FLOAT32, 1, 2, 6, 3);
        p->f = new_tensor(p, HEED_FLOAT32, 2, 1, 7, 3);
        const int takes_bias = forms[n] == ORACLE_AFT_FULL || forms[n] == ORACLE_AFT_LOCAL;
        if (!takes_bias) {
            REFUSE(a.options.w = &a.u, HEED_ERROR_ARGUMENT);
            REFUSE((a.options.query_factors = &a.u, a.options.key_factors = &a.f), HEED_ERROR_ARGUMENT);
            destroy(p);
            continue;
        }
        REFUSE(a.options.query_factors = &a.u, HEED_ERROR_ARGUMENT);
        REFUSE((a.options.query_factors = &a.u, a.options.key_factors = &a.f), HEED_ERROR_ARGUMENT);
        REFUSE(a.w.data = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.w.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.w.shape[0] = 3, HEED_ERROR_SHAPE);
        REFUSE(a.w.shape[1] = 3, HEED_ERROR_SHAPE);
        REFUSE(a.w.shape[2] = 5, HEED_ERROR_SHAPE);
        REFUSE(a.w.shape[3] = 6, HEED_ERROR_SHAPE);
        REFUSE(a.w.stride[3] = 2, HEED_ERROR_STRIDE);
        REFUSE(a.out.data = a.w.data, HEED_ERROR_OVERLAP);
        REFUSE(a.w.data = a.lse.data, HEED_ERROR_OVERLAP);
        if (forms[n] == ORACLE_AFT_LOCAL) {
            REFUSE(a.options.window = 0, HEED_ERROR_ARGUMENT);
            REFUSE(a.options.window = -1, HEED_ERROR_ARGUMENT);
            REFUSE((a.options.banded = 1, a.options.w = NULL), HEED_ERROR_ARGUMENT);
            REFUSE(a.options.banded = 1, HEED_ERROR_SHAPE); /* 11 columns expected, not 7 */
            REFUSE((a.options.banded = 1, a.options.window = INT64_MAX), HEED_ERROR_SHAPE);
            REFUSE((a.options.banded = 1, a.options.w = NULL, a.options.query_factors = &a.u,
                    a.options.key_factors = &a.f),
                   HEED_ERROR_ARGUMENT);
        }
        p->options.w = NULL;
        p->options.query_factors = &p->u;
        p->options.key_factors = &p->f;
        REFUSE(a.options.key_factors = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.options.query_factors = NULL, HEED_ERROR_ARGUMENT);
        REFUSE(a.u.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.f.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
        REFUSE(a.u.shape[2] = 1, HEED_ERROR_SHAPE);
        REFUSE(a.f.shape[2] = 6, HEED_ERROR_SHAPE);
        REFUSE(a.f.shape[3] = 2, HEED_ERROR_SHAPE);
        REFUSE(a.u.shape[1] = 3, HEED_ERROR_SHAPE);
        REFUSE(a.u.data = a.out.data, HEED_ERROR_OVERLAP);
        REFUSE(a.lse.data = a.f.data, HEED_ERROR_OVERLAP);
        destroy(p);
    }
}

static void refused_filters(void **state)
{
    (void)state;
    problem *p = create(ORACLE_AFT_CONV, 2, 2, 6, 6, 4, 0);
    REFUSE(a.filter_at = NULL, HEED_ERROR_ARGUMENT);
    REFUSE(a.filter.data = NULL, HEED_ERROR_ARGUMENT);
    REFUSE(a.filter.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
    REFUSE(a.filter.shape[0] = 2, HEED_ERROR_SHAPE);
    REFUSE(a.filter.shape[1] = 3, HEED_ERROR_SHAPE);
    REFUSE(a.filter.shape[2] = 3, HEED_ERROR_SHAPE);
    REFUSE(a.filter.shape[3] = 6, HEED_ERROR_SHAPE);
    REFUSE(a.filter.shape[3] = 0, HEED_ERROR_SHAPE);
    REFUSE(a.k = a.v, HEED_ERROR_SHAPE);
    REFUSE(a.lse = a.out, HEED_ERROR_SHAPE); /* one for each channel */
    REFUSE(a.out.data = a.filter.data, HEED_ERROR_OVERLAP);
    REFUSE((a.options.grid_height = 2, a.options.grid_width = 2), HEED_ERROR_SHAPE);
    REFUSE((a.options.grid_height = 2, a.options.grid_width = 3, a.filter.shape[3] = 6), HEED_ERROR_SHAPE);
    REFUSE((a.options.grid_height = 2, a.options.grid_width = 3, a.filter.shape[2] = 2, a.filter.shape[3] = 3),
           HEED_ERROR_SHAPE);
    REFUSE((a.options.grid_height = 2, a.options.grid_width = 3, a.k.shape[2] = a.v.shape[2] = 5), HEED_ERROR_SHAPE);
    REFUSE((a.options.grid_height = 2, a.options.grid_width = 3, a.mask.causal = 1), HEED_ERROR_UNSUPPORTED);
    REFUSE((a.options.grid_height = 2, a.options.grid_width = 3, a.mask.alignment = HEED_ALIGN_TOP_LEFT),
           HEED_ERROR_UNSUPPORTED);
    REFUSE((a.options.grid_height = INT64_MAX, a.options.grid_width = 2), HEED_ERROR_SHAPE);
    destroy(p);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(w_of_one_row),
        cmocka_unit_test(minus_infinity_hides),
        cmocka_unit_test(rows_without_keys),
        cmocka_unit_test(positions_far_out),
        cmocka_unit_test(values_of_any_size),
        cmocka_unit_test(wide_keys_of_every_size),
        cmocka_unit_test(one_large_key_first),
        cmocka_unit_test(later_tokens_change_no_bit),
        cmocka_unit_test(hidden_tokens_change_no_bit),
        cmocka_unit_test(without_lse_and_alone_in_the_batch),
        cmocka_unit_test(conv_is_full_with_a_toeplitz_bias),
        cmocka_unit_test(keys_in_another_order),
        cmocka_unit_test(shifted_keys_and_biases),
        cmocka_unit_test(parts_of_any_number),
        cmocka_unit_test(gate_at_its_ends),
        cmocka_unit_test(refused_tensors),
        cmocka_unit_test(refused_biases),
        cmocka_unit_test(refused_filters),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
