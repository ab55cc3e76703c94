/* What holds for multiresolution-head attention whatever its inputs: groups of equal tokens give what exact attention
 * gives; fine heads are softmax attention, bit for bit; nobody sees the future, or what is hidden; same row, same bits;
 * parts are merged. */
#include "mrsha_problem.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef struct way {
    heed_mrsha_mode mode;
    int causal;
} way;

static const way ways[] = {
    {HEED_MRSHA_BOTH, 0}, {HEED_MRSHA_OUTPUT, 0}, {HEED_MRSHA_VALUE, 0}, {HEED_MRSHA_BOTH, 1}, {HEED_MRSHA_VALUE, 1}};

enum { N_WAYS = N_OF(ways), N_POOLINGS = 3 };

static heed_context *contexts[N_THREADINGS]; /* NULL where this build has no such threads */

static mrsha_case case_of(int n_way, int pooling, attention_shape shape, uint64_t stream)
{
    return (mrsha_case){.shape = shape,
                        .mode = ways[n_way].mode,
                        .causal = ways[n_way].causal,
                        .pooling = (heed_pooling)pooling,
                        .stream = stream};
}

static void give_sizes(mrsha_case *c, const int64_t *sizes, int64_t n)
{
    for (int64_t h = 0; h < c->shape.q_heads; h++)
        c->group_sizes[h] = sizes[h % n];
}

static void expect_ok(heed_status status, const mrsha_problem *p, const heed_context *context)
{
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", mrsha_describe(p), heed_status_text(status), heed_context_message(context));
}

/* ---- Groups of equal tokens ---- */

/* The first token of the group of t in groups, or patches, of S. */
static int64_t first_of_group(const mrsha_case *c, int64_t size, int64_t t)
{
    const int64_t first = c->class_token ? 1 : 0, w = c->grid_width;
    if (t < first)
        return t;
    t -= first;
    return first + (w == 0 ? t - t % size : (t / w - t / w % size) * w + (t % w - t % w % size));
}

static void make_constant(const mrsha_case *c, int64_t size, const heed_tensor *x)
{
    for (int64_t t = 0; t < x->shape[2]; t++) {
        const heed_tensor to = tensor_slice(x, 2, t, 1), from = tensor_slice(x, 2, first_of_group(c, size, t), 1);
        if (to.data != from.data)
            tensor_copy(&to, &from);
    }
}

/* Mode BOTH then is exact attention: heed's own, and that of the oracle. Tokens that are equal in eights are so in
 * twos. */
static void equal_tokens_give_exact_attention(void **state)
{
    (void)state;
    static const int64_t sizes[] = {8, 1, 2, 4}, grids[][2] = {{0, 0}, {0, 0}, {14, 14}, {9, 13}, {5, 40}};
    for (int n = 0; n < 5 * N_POOLINGS * 2 * 2; n++) {
        if (!runner_takes(n))
            continue;
        const int64_t *grid = grids[n % 5];
        const int64_t n_tokens = grid[0] ? grid[0] * grid[1] : n % 5 == 0 ? 131 : 20;
        mrsha_case c =
            case_of(0, n / 5 % N_POOLINGS, (attention_shape){2, 4, 2, n_tokens, n_tokens, 16, 12}, 20000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.grid_height = grid[0];
        c.grid_width = grid[1];
        c.class_token = n / 15 % 2;
        c.has_lengths = n / 30;
        c.has_sinks = n % 7 == 0;
        c.shape.n_queries = c.shape.n_keys += c.class_token;
        mrsha_problem *p = mrsha_create(&c);
        const attention *a = &p->a;
        make_constant(&c, 8, &a->q);
        make_constant(&c, 8, &a->k);
        make_constant(&c, 8, &a->v);
        mrsha_run(p, fixture_context);
        const heed_tensor out = mrsha_keep(p, &a->out), lse = mrsha_keep(p, &a->lse);
        expect_ok(heed_softmax_forward(fixture_context, &a->q, &a->k, &a->v, &p->softmax, &out, &lse), p,
                  fixture_context);
        const double score = mrsha_largest_score(p), bound = mrsha_out_bound(score) * tensor_max_abs(&a->v);
        mrsha_expect_close(p, &a->out, &out, 2.0 * bound, "heed's exact attention");
        mrsha_expect_close(p, &a->lse, &lse, 2.0 * mrsha_lse_bound(score, n_tokens) + 0x1p-20, "exact lse");
        double *want = oracle_zeros(2 * 4 * c.shape.n_queries * 12);
        oracle_softmax(&a->q, &a->k, &a->v, &p->softmax, want, NULL);
        const compare_result r = compare_each(&a->out, want, bound, 0.0);
        if (!r.equal)
            fail_msg("exact attention: %s: %s", mrsha_describe(p), r.text);
        free(want);
        mrsha_destroy(p);
    }
}

/* So is causal VALUE where keys and values are constant. */
static void equal_keys_give_exact_causal_attention(void **state)
{
    (void)state;
    static const int64_t sizes[] = {8, 1, 2, 4};
    for (int n = 0; n < N_POOLINGS * 2; n++) {
        mrsha_case c = case_of(4, n % N_POOLINGS, (attention_shape){2, 4, 2, 130, 130, 16, 12}, 21000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.has_lengths = n / N_POOLINGS;
        mrsha_problem *p = mrsha_create(&c);
        const attention *a = &p->a;
        make_constant(&c, 8, &a->k);
        make_constant(&c, 8, &a->v);
        mrsha_run(p, fixture_context);
        double *want = oracle_zeros(2 * 4 * 130 * 12);
        oracle_softmax(&a->q, &a->k, &a->v, &p->softmax, want, NULL);
        const compare_result r = compare_tensor(&a->out, want, mrsha_out_bound(mrsha_largest_score(p)), 1.0);
        if (!r.equal)
            fail_msg("exact causal attention: %s: %s", mrsha_describe(p), r.text);
        free(want);
        mrsha_destroy(p);
    }
}

/* ---- Fine heads ---- */

/* Everything that softmax attention may be given, and other lengths than the coarse heads have. */
typedef struct fine_options {
    heed_softmax_options options;
    heed_mask mask;
    heed_tensor bias, visible;
    float slopes[MRSHA_MAX_HEADS], sinks[MRSHA_MAX_HEADS];
    int64_t query_lengths[MRSHA_MAX_BATCH], key_lengths[MRSHA_MAX_BATCH];
} fine_options;

static void fill_fine_options(fine_options *f, mrsha_problem *p, int kind, random_stream *random)
{
    const attention_shape *s = &p->c.shape;
    memset(f, 0, sizeof *f);
    f->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    f->mask = (heed_mask)HEED_MASK_INIT;
    f->options.mask = &f->mask;
    for (int h = 0; h < MRSHA_MAX_HEADS; h++) {
        f->slopes[h] = random_uniform(random, 0.01f, 0.5f);
        f->sinks[h] = random_uniform(random, -2.0f, 3.0f);
    }
    for (int b = 0; b < MRSHA_MAX_BATCH; b++) {
        f->query_lengths[b] = s->n_queries - random_below(random, s->n_queries + 1) / 3;
        f->key_lengths[b] = s->n_keys - random_below(random, s->n_keys + 1) / 3;
    }
    f->options.scale = 0.3f;
    f->mask.causal = kind % 2;
    if (kind & 1)
        f->options.alibi_slopes = f->slopes;
    if (kind & 2)
        f->options.sinks = f->sinks;
    if (kind & 4) {
        f->bias = mrsha_tensor(p, HEED_FLOAT32, 1, s->q_heads, s->n_queries, s->n_keys, LAYOUT_BHND);
        tensor_fill_normal(&f->bias, random, 1.0f);
        f->options.bias = &f->bias;
        f->mask.query_lengths = f->query_lengths;
    }
    if (kind & 8) {
        f->visible = mrsha_tensor(p, HEED_BOOL, s->batch, 1, s->n_queries, s->n_keys, LAYOUT_BHND);
        tensor_fill_flags(&f->visible, random, 13);
        f->mask.visible = &f->visible;
        f->mask.key_lengths = f->key_lengths;
        f->options.softcap = 4.0f;
    }
    if (kind & 16)
        f->mask.window_left = 20;
}

/* The fine heads of a call in every context against softmax attention of all heads. */
static void expect_fine_heads(mrsha_problem *p, const heed_softmax_options *fine, const char *name)
{
    const attention *a = &p->a;
    const heed_tensor out = mrsha_keep(p, &a->out), lse = mrsha_keep(p, &a->lse);
    expect_ok(heed_softmax_forward(fixture_context, &a->q, &a->k, &a->v, fine, &out, &lse), p, fixture_context);
    for (int t = 0; t < N_THREADINGS; t++) {
        if (!contexts[t])
            continue;
        mrsha_run(p, contexts[t]);
        for (int64_t h = 0; h < p->c.shape.q_heads; h++) {
            if (mrsha_group_size(p, h) != 1)
                continue;
            const heed_tensor got = tensor_slice(&a->out, 1, h, 1), want = tensor_slice(&out, 1, h, 1);
            mrsha_expect_bits(p, &got, &want, name);
            const heed_tensor got_lse = tensor_slice(&a->lse, 1, h, 1), want_lse = tensor_slice(&lse, 1, h, 1);
            mrsha_expect_bits(p, &got_lse, &want_lse, name);
        }
    }
}

static const int64_t mixed_sizes[][4] = {{1, 1, 1, 1}, {1, 2, 1, 2}, {3, 1, 1, 8}, {2, 2, 2, 1}};

static void fine_heads_are_softmax_attention(void **state)
{
    (void)state;
    for (int n = 0; n < 60 * 4; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n);
        const int64_t *sizes = mixed_sizes[n % 4];
        const int all_fine = n % 4 == 0;
        attention_shape shape = {1 + n % 2, 4, n % 3 == 0 ? 1 : n % 3 == 1 ? 2 : 4, 1 + n / 4, 0, 20, 9};
        shape.n_keys = n % 5 == 0 ? 700 : 1 + random_below(&random, 150);
        mrsha_case c = case_of(n / 4 % 3, n / 12 % N_POOLINGS, shape, 10000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.has_lengths = c.has_sinks = n / 8 % 2;
        c.layout = (tensor_layout)(n % N_LAYOUTS);
        mrsha_problem *p = mrsha_create(&c);
        fine_options f;
        fill_fine_options(&f, p, n % 32, &random);
        expect_fine_heads(p, &p->softmax, "the options of all");
        p->options.fine = &f.options;
        expect_fine_heads(p, &f.options, "options of their own");
        if (all_fine) {
            p->options.softmax = &f.options;
            p->options.fine = NULL;
            expect_fine_heads(p, &f.options, "options of all, with a bias");
        }
        mrsha_destroy(p);
    }
}

/* The same beside causal heads, with more tokens than a block has. */
static void fine_heads_beside_causal_ones(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        random_stream random = random_start(50 + (uint64_t)n);
        mrsha_case c =
            case_of(3 + n % 2, n % N_POOLINGS, (attention_shape){2, 4, 2, 190, 190, 16, 16}, 11000 + (uint64_t)n);
        give_sizes(&c, mixed_sizes[1 + n / 2 % 3], 4);
        c.has_lengths = n / 4;
        mrsha_problem *p = mrsha_create(&c);
        fine_options f;
        fill_fine_options(&f, p, (5 * n) % 32, &random);
        expect_fine_heads(p, &p->softmax, "causal");
        p->options.fine = &f.options;
        expect_fine_heads(p, &f.options, "beside causal ones");
        mrsha_destroy(p);
    }
}

/* ---- The future ---- */

/* Token t of q, k and v becomes something else: the rows before it keep every bit. */
static void change_token(mrsha_problem *p, int64_t t, float value, const heed_tensor *out, const heed_tensor *lse)
{
    const heed_tensor *inputs[] = {&p->a.q, &p->a.k, &p->a.v};
    heed_tensor tokens[3], kept[3];
    for (int n = 0; n < 3; n++) {
        tokens[n] = tensor_slice(inputs[n], 2, t, 1);
        kept[n] = mrsha_keep(p, &tokens[n]);
        tensor_fill(&tokens[n], value);
    }
    mrsha_run(p, fixture_context);
    const heed_tensor *got[] = {&p->a.out, &p->a.lse}, *want[] = {out, lse};
    for (int n = 0; n < 2; n++) {
        const heed_tensor got_rows = tensor_slice(got[n], 2, 0, t), want_rows = tensor_slice(want[n], 2, 0, t);
        const compare_result r = compare_bits(&got_rows, &want_rows);
        if (!r.equal)
            fail_msg("%s: token %d = %g: %s: %s", mrsha_describe(p), (int)t, (double)value, n ? "lse" : "out", r.text);
    }
    for (int n = 0; n < 3; n++)
        tensor_copy(&tokens[n], &kept[n]);
    for (int n = 0; n < 3; n++)
        guarded_destroy(&p->memory[--p->n_tensors]);
}

static void no_row_sees_the_future(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{2, 3, 4, 1}, {5, 16, 7, 8}, {64, 1, 100, 2}};
    static const float values[] = {3.0f, -100.0f, NAN, INFINITY, 1e30f, -INFINITY};
    for (int n = 0; n < 2 * 3 * N_POOLINGS; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(3 + n % 2, n / 2 % N_POOLINGS,
                               (attention_shape){1, 4, n % 4 < 2 ? 2 : 1, 150, 150, 8, 6}, 30000 + (uint64_t)n);
        give_sizes(&c, sizes[n / 6], 4);
        mrsha_problem *p = mrsha_create(&c);
        mrsha_expect_match(p, fixture_context, "causal");
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        for (int64_t t = n % 5; t < 150; t += runner_quick() ? 37 : 5)
            change_token(p, t, values[t % 6], &out, &lse);
        mrsha_destroy(p);
    }
}

/* ---- Exact values ---- */

/* 1 where each group of n tokens holds a power of two of them; one that is not complete yet may hold any number. */
static int has_powers_of_two(const mrsha_case *c, int64_t size, int64_t n)
{
    const int64_t rest = n % size;
    return size == 1 || ((size & (size - 1)) == 0 && (rest & (rest - 1)) == 0 &&
                         !(c->causal && c->mode == HEED_MRSHA_VALUE && size > 2));
}

/* v = 1 gives 1 to 2 ulp, and exactly over powers of two. What weights give is off by 1e-6 at most, like all means. */
static void expect_ones(mrsha_problem *p)
{
    const int64_t n = p->c.shape.n_queries;
    mrsha_run(p, fixture_context);
    for (int64_t row = 0; row < 4 * n; row++) {
        const double x = (double)*tensor_at(&p->a.out, 0, row % 4, row / 4, 4);
        const int64_t size = mrsha_group_size(p, row % 4);
        const int is_weighted = size > 1 && p->c.pooling == HEED_POOLING_LEARNED;
        const double bound = is_weighted ? 1e-6 : has_powers_of_two(&p->c, size, n) ? 0.0 : 2.0 * 0x1p-23;
        if (!(fabs(x - 1.0) <= bound))
            fail_msg("%s: row %d of head %d is %.9g", mrsha_describe(p), (int)(row / 4), (int)(row % 4), x);
    }
}

static void ones_give_one(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{1, 2, 4, 8}, {16, 64, 128, 512}, {3, 5, 7, 100}};
    static const int64_t lengths[] = {1, 7, 64, 41, 105, 144, 233, 600};
    for (int n = 0; n < N_WAYS * N_POOLINGS * 3; n++) {
        if (!runner_takes(n))
            continue;
        for (size_t length = 0; length < N_OF(lengths); length++) {
            mrsha_case c = case_of(n % N_WAYS, n / N_WAYS % N_POOLINGS, (attention_shape){1, 4, 1, 0, 0, 8, 5},
                                   40000 + (uint64_t)n);
            give_sizes(&c, sizes[n / N_WAYS / N_POOLINGS], 4);
            c.shape.n_queries = c.shape.n_keys = lengths[length];
            mrsha_problem *p = mrsha_create(&c);
            tensor_fill(&p->a.v, 1.0f);
            expect_ones(p);
            p->options.upsampling = HEED_UPSAMPLING_LINEAR;
            if (!c.causal && c.mode != HEED_MRSHA_VALUE)
                expect_ones(p);
            mrsha_destroy(p);
        }
    }
}

/* 0, and -inf or the sink, whatever the tensors hold. */
static void rows_without_keys(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1, 5, 70}, none[] = {0, 0};
    for (int n = 0; n < N_WAYS * 3 * 2; n++) {
        mrsha_case c =
            case_of(n % N_WAYS, n % N_POOLINGS, (attention_shape){2, 4, 2, 67, 67, 9, 7}, 50000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.has_sinks = n / N_WAYS / 3;
        const int kind = n / N_WAYS % 3;
        if (kind == 2 && c.causal)
            continue; /* as many keys as queries */
        c.shape.n_keys = kind == 2 ? 0 : 67;
        c.grid_height = !c.causal && kind != 2 && n % 2 ? 1 : 0;
        c.grid_width = 67 * c.grid_height;
        mrsha_problem *p = mrsha_create(&c);
        tensor_fill(&p->a.q, NAN);
        tensor_fill(&p->a.k, NAN);
        tensor_fill(&p->a.v, NAN);
        p->mask.query_lengths = kind == 1 ? none : NULL;
        p->mask.key_lengths = kind == 0 || c.causal ? none : NULL;
        p->mask.alignment = HEED_ALIGN_TOP_LEFT; /* lengths differ */
        mrsha_run(p, fixture_context);
        for (int64_t row = 0; row < 2 * 4 * 67; row++) {
            const int64_t b = row / 67 / 4, h = row / 67 % 4, i = row % 67;
            const float want = c.has_sinks && kind != 1 ? p->sinks[h] : -INFINITY;
            const float lse = *tensor_at(&p->a.lse, b, h, i, 0);
            for (int64_t d = 0; d < 7; d++)
                if (*tensor_at(&p->a.out, b, h, i, d) != 0.0f || lse != want)
                    fail_msg("%s: kind %d, row %d of head %d: %g, lse %g, not %g", mrsha_describe(p), kind, (int)i,
                             (int)h, (double)*tensor_at(&p->a.out, b, h, i, d), (double)lse, (double)want);
        }
        mrsha_destroy(p);
    }
}

/* ---- Same bits ---- */

/* Shapes with many rows and few, with more tokens than a block has, and an odd number of heads of one kv head. */
static const attention_shape bit_shapes[] = {
    {3, 4, 2, 170, 170, 20, 17}, {2, 6, 2, 67, 67, 64, 33}, {3, 4, 1, 3, 3, 16, 16}, {2, 3, 3, 300, 300, 5, 40}};

/* A problem of every kind: way, pooling, upsampling, grid, class token, lengths, sinks. */
static mrsha_problem *open_bits(int n, tensor_layout layout)
{
    static const int64_t sizes[][6] = {{2, 1, 4, 2, 8, 3}, {1, 5, 16, 5, 1, 2}, {7, 7, 2, 100, 3, 16}};
    mrsha_case c = case_of(n % N_WAYS, n / 2 % N_POOLINGS, bit_shapes[n / N_WAYS % 4], 60000 + (uint64_t)n);
    give_sizes(&c, sizes[n % 3], 6);
    c.layout = layout;
    c.has_lengths = n / 4 % 2;
    c.has_sinks = n / 3 % 2;
    c.class_token = !c.causal && n / 7 % 2;
    if (!c.causal && c.shape.n_keys == 170 && n / 20 % 2) {
        c.grid_height = 13;
        c.grid_width = 13;
        c.class_token = 1;
    }
    if (!c.causal && c.mode != HEED_MRSHA_VALUE && c.grid_width == 0 && n / 5 % 2)
        c.upsampling = HEED_UPSAMPLING_LINEAR;
    return mrsha_create(&c);
}

enum { N_BIT_CASES = 3 * 4 * N_WAYS };

static void threads_and_hooks_keep_the_bits(void **state)
{
    (void)state;
    int most_workers = 0;
    for (int n = 0; n < N_BIT_CASES; n += 2) {
        if (!runner_takes(n))
            continue;
        mrsha_problem *p = open_bits(n, LAYOUT_BHND);
        mrsha_expect_match(p, fixture_context, "one thread");
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        for (int t = 0; t < N_THREADINGS; t++) {
            if (!contexts[t])
                continue;
            mrsha_run(p, contexts[t]);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(contexts[t], &report), HEED_OK);
            assert_string_equal(report.path, "mrsha");
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            mrsha_expect_bits(p, &p->a.out, &out, runner_threadings[t].name);
            mrsha_expect_bits(p, &p->a.lse, &lse, runner_threadings[t].name);
        }
        mrsha_destroy(p);
    }
    assert_true(most_workers > 1);
}

static void layouts_keep_the_bits(void **state)
{
    (void)state;
    for (int n = 0; n < N_BIT_CASES; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_problem *p = open_bits(n, LAYOUT_BHND);
        mrsha_run(p, fixture_context);
        for (int layout = LAYOUT_BNHD; layout < N_LAYOUTS; layout++) {
            mrsha_problem *other = open_bits(n, (tensor_layout)layout);
            mrsha_run(other, fixture_context);
            mrsha_expect_bits(other, &other->a.out, &p->a.out, "layout");
            mrsha_expect_bits(other, &other->a.lse, &p->a.lse, "layout");
            mrsha_destroy(other);
        }
        const heed_tensor out = mrsha_keep(p, &p->a.out);
        expect_ok(heed_mrsha_forward(fixture_context, &p->a.q, &p->a.k, &p->a.v, &p->options, &out, NULL), p,
                  fixture_context);
        mrsha_expect_bits(p, &out, &p->a.out, "without lse");
        mrsha_destroy(p);
    }
}

/* One head's keys and values for all heads and batch elements, by strides of 0. */
static void repeated_inputs(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1, 4, 3};
    for (int n = 0; n < N_WAYS; n++) {
        mrsha_case c = case_of(n, n % N_POOLINGS, (attention_shape){2, 4, 2, 60, 60, 12, 10}, 61000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        mrsha_problem *p = mrsha_create(&c);
        heed_tensor *inputs[] = {&p->a.q, &p->a.k, &p->a.v};
        for (int m = 0; m < 3; m++) {
            const heed_tensor first = tensor_slice(inputs[m], 0, 0, 1), head = tensor_slice(&first, 1, 0, 1);
            for (int64_t at = 0; at < 2 * inputs[m]->shape[1]; at++) {
                const heed_tensor element = tensor_slice(inputs[m], 0, at % 2, 1),
                                  to = tensor_slice(&element, 1, at / 2, 1);
                if (at > 0)
                    tensor_copy(&to, &head);
            }
        }
        mrsha_run(p, fixture_context);
        const heed_tensor out = mrsha_keep(p, &p->a.out);
        for (int m = 0; m < 3; m++)
            inputs[m]->stride[0] = inputs[m]->stride[1] = 0;
        mrsha_run(p, fixture_context);
        mrsha_expect_bits(p, &p->a.out, &out, "repeated");
        mrsha_destroy(p);
    }
}

/* A batch element and the heads of one kv head by themselves. */
static void expect_alone(mrsha_problem *p, int64_t b, int64_t kv_head)
{
    const int64_t ratio = p->c.shape.q_heads / p->c.shape.kv_heads, first = kv_head * ratio;
    heed_tensor q = tensor_slice(&p->a.q, 0, b, 1), k = tensor_slice(&p->a.k, 0, b, 1);
    heed_tensor v = tensor_slice(&p->a.v, 0, b, 1), want = tensor_slice(&p->a.out, 0, b, 1), weights = p->weights;
    heed_softmax_options softmax = p->softmax;
    heed_mask mask = p->mask;
    heed_mrsha_options options = p->options;
    q = tensor_slice(&q, 1, first, ratio);
    k = tensor_slice(&k, 1, kv_head, 1);
    v = tensor_slice(&v, 1, kv_head, 1);
    want = tensor_slice(&want, 1, first, ratio);
    mask.query_lengths = mask.query_lengths ? mask.query_lengths + b : NULL;
    mask.key_lengths = mask.key_lengths ? mask.key_lengths + b : NULL;
    softmax.mask = &mask;
    softmax.sinks = softmax.sinks ? softmax.sinks + first : NULL;
    options.softmax = &softmax;
    options.group_sizes += first;
    if (options.weights) {
        weights = tensor_slice(&p->weights, 2, first, ratio);
        options.weights = &weights;
    }
    const heed_tensor out = mrsha_tensor(p, HEED_FLOAT32, 1, ratio, q.shape[2], v.shape[3], LAYOUT_BHND);
    expect_ok(heed_mrsha_forward(fixture_context, &q, &k, &v, &options, &out, NULL), p, fixture_context);
    mrsha_expect_bits(p, &out, &want, "alone");
    guarded_destroy(&p->memory[--p->n_tensors]);
}

static void neighbours_do_not_change_bits(void **state)
{
    (void)state;
    for (int n = 0; n < N_BIT_CASES; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_problem *p = open_bits(n, LAYOUT_BNHD);
        mrsha_run(p, fixture_context);
        for (int64_t at = 0; at < p->c.shape.batch * p->c.shape.kv_heads; at++)
            expect_alone(p, at / p->c.shape.kv_heads, at % p->c.shape.kv_heads);
        const int64_t n_kept = p->c.shape.q_heads - 1;
        const heed_tensor out = mrsha_keep(p, &p->a.out), last = tensor_slice(&p->a.q, 1, n_kept, 1);
        tensor_fill(&last, NAN);
        mrsha_run(p, fixture_context);
        const heed_tensor got = tensor_slice(&p->a.out, 1, 0, n_kept), want = tensor_slice(&out, 1, 0, n_kept);
        mrsha_expect_bits(p, &got, &want, "another last head");
        p->c.group_sizes[n_kept] = p->c.group_sizes[0]; /* who shares groups decides on no bit */
        mrsha_run(p, fixture_context);
        mrsha_expect_bits(p, &got, &want, "groups shared with the last head");
        p->c.group_sizes[n_kept] = 4 + n % 3;
        mrsha_run(p, fixture_context);
        mrsha_expect_bits(p, &got, &want, "groups not shared with the last head");
        mrsha_destroy(p);
    }
}

/* Keys beyond the length, however many, and padded queries, whatever they hold. */
static void padding_does_not_change_bits(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1, 16, 5}, lengths[] = {1, 30, 127, 128, 129, 200};
    static const float poisons[] = {NAN, INFINITY, -INFINITY, 1e38f};
    for (int n = 0; n < N_WAYS * N_POOLINGS * (int)N_OF(lengths); n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(n % N_WAYS, n / N_WAYS % N_POOLINGS, (attention_shape){1, 4, 2, 230, 230, 12, 9},
                               62000 + (uint64_t)n);
        const int64_t length = lengths[n / N_WAYS / N_POOLINGS];
        give_sizes(&c, sizes, 4);
        c.has_lengths = 1;
        c.class_token = !c.causal && n % 2;
        mrsha_problem *p = mrsha_create(&c);
        p->query_lengths[0] = c.causal ? length : 203;
        p->key_lengths[0] = length;
        mrsha_run(p, fixture_context);
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        const heed_tensor *inputs[] = {&p->a.q, &p->a.k, &p->a.v};
        for (int m = 0; m < 3; m++) {
            const int64_t first = m == 0 ? p->query_lengths[0] : length;
            const heed_tensor rest = tensor_slice(inputs[m], 2, first, 230 - first);
            tensor_fill(&rest, poisons[(n + m) % 4]);
        }
        mrsha_run(p, fixture_context);
        mrsha_expect_bits(p, &p->a.out, &out, "poisoned padding");
        mrsha_expect_bits(p, &p->a.lse, &lse, "poisoned padding");
        if (!c.causal) { /* there, Nq is Nk, on which rows may depend */
            p->a.k.shape[2] = p->a.v.shape[2] = length;
            p->mask.key_lengths = NULL;
            mrsha_run(p, fixture_context);
            mrsha_expect_bits(p, &p->a.out, &out, "no padding");
            mrsha_expect_bits(p, &p->a.lse, &lse, "no padding");
            p->a.k.shape[2] = p->a.v.shape[2] = 230;
        }
        mrsha_destroy(p);
    }
}

/* The context keeps scratch that larger calls, with NaN in it, have written. */
static void earlier_calls_do_not_change_bits(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 3};
    mrsha_case c = {.shape = {1, 2, 1, 300, 300, 200, 200}};
    give_sizes(&c, sizes, 2);
    mrsha_problem *large = mrsha_create(&c);
    tensor_fill(&large->a.q, NAN);
    tensor_fill(&large->a.k, NAN);
    tensor_fill(&large->a.v, NAN);
    for (int n = 0; n < N_BIT_CASES; n += 1 + 6 * runner_quick()) {
        mrsha_problem *p = open_bits(n, LAYOUT_BHND);
        heed_context *fresh = runner_context(1, NULL);
        mrsha_run(p, fresh);
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        large->options.mode = (heed_mrsha_mode)(n % 3);
        mrsha_run(large, fresh);
        mrsha_run(p, fresh);
        mrsha_expect_bits(p, &p->a.out, &out, "after a larger call");
        mrsha_expect_bits(p, &p->a.lse, &lse, "after a larger call");
        heed_context_destroy(fresh);
        mrsha_destroy(p);
    }
    mrsha_destroy(large);
}

/* ---- NaN and infinity that are seen ---- */

/* A row that the oracle leaves as it was keeps its bits, every other one is as the oracle says. */
static void spoil(mrsha_problem *p, const heed_tensor *input, int64_t t, float value)
{
    const attention *a = &p->a;
    const int64_t n_rows = a->out.shape[0] * a->out.shape[1] * a->out.shape[2], d = a->out.shape[3];
    double *before = oracle_zeros(n_rows * d), *after = oracle_zeros(n_rows * d);
    mrsha_run(p, fixture_context);
    const heed_tensor out = mrsha_keep(p, &a->out);
    oracle_mrsha(&a->q, &a->k, &a->v, &p->options, before, NULL);
    float *element = tensor_at(input, input->shape[0] - 1, t % input->shape[1], t, 2);
    const float kept = *element;
    *element = value;
    oracle_mrsha(&a->q, &a->k, &a->v, &p->options, after, NULL);
    mrsha_expect_match(p, fixture_context, "spoiled");
    int n_changed = 0;
    for (int64_t n = 0; n < n_rows * d; n++) {
        const int64_t row = n / d, i = row % a->out.shape[2], h = row / a->out.shape[2] % a->out.shape[1];
        const int64_t b = row / a->out.shape[2] / a->out.shape[1];
        const int is_same = memcmp(&before[n], &after[n], sizeof before[n]) == 0;
        n_changed += !is_same;
        if (is_same && memcmp(tensor_at(&a->out, b, h, i, n % d), tensor_at(&out, b, h, i, n % d), sizeof(float)) != 0)
            fail_msg("%s: %g in token %d changes the bits of head %d, row %d, channel %d", mrsha_describe(p),
                     (double)value, (int)t, (int)h, (int)i, (int)(n % d));
    }
    assert_true(n_changed > 0);
    *element = kept;
    guarded_destroy(&p->memory[--p->n_tensors]);
    free(before);
    free(after);
}

static void nan_and_infinity_go_as_far_as_they_must(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1, 16, 5}, tokens[] = {0, 37, 64, 72};
    static const float values[] = {NAN, INFINITY, -INFINITY};
    for (int n = 0; n < N_WAYS * 2 * 3 * 3; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(n % N_WAYS, n % 2 ? HEED_POOLING_MEAN : HEED_POOLING_LEARNED,
                               (attention_shape){2, 4, 2, 73, 73, 5, 4}, 70000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.class_token = !c.causal && n / 2 % 2;
        if (n / N_WAYS % 2 && !c.causal && c.mode != HEED_MRSHA_VALUE)
            c.upsampling = HEED_UPSAMPLING_LINEAR;
        mrsha_problem *p = mrsha_create(&c);
        const heed_tensor *inputs[] = {&p->a.q, &p->a.k, &p->a.v};
        for (size_t t = 0; t < N_OF(tokens); t++) {
            if (c.mode == HEED_MRSHA_BOTH && c.causal && tokens[t] == 72)
                continue; /* which nobody sees */
            spoil(p, inputs[n / N_WAYS / 2 % 3], tokens[t], values[n / N_WAYS / 6]);
        }
        mrsha_destroy(p);
    }
}

/* With FIRST the others of a group are not looked at. */
static void first_tokens_stand_alone(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++) { /* BOTH with a grid or without */
        mrsha_case c = case_of(0, HEED_POOLING_FIRST, (attention_shape){1, 2, 1, 72, 72, 8, 6}, 71000 + (uint64_t)n);
        c.group_sizes[0] = c.group_sizes[1] = 4;
        c.grid_height = n ? 8 : 0;
        c.grid_width = n ? 9 : 0;
        mrsha_problem *p = mrsha_create(&c);
        mrsha_run(p, fixture_context);
        const heed_tensor out = mrsha_keep(p, &p->a.out), *inputs[] = {&p->a.q, &p->a.k, &p->a.v};
        for (int m = 0; m < 3; m++) {
            for (int64_t t = 0; t < 72; t++) {
                const heed_tensor token = tensor_slice(inputs[m], 2, t, 1);
                if (first_of_group(&c, 4, t) != t)
                    tensor_fill(&token, NAN);
            }
        }
        mrsha_run(p, fixture_context);
        mrsha_expect_bits(p, &p->a.out, &out, "first");
        mrsha_destroy(p);
    }
}

/* ---- Merge ---- */

/* A call over some of the keys; only one of all has the sinks. */
static void run_part(mrsha_problem *p, int64_t first, int64_t count, int has_sinks, const heed_tensor *out,
                     const heed_tensor *lse)
{
    const heed_tensor k = tensor_slice(&p->a.k, 2, first, count), v = tensor_slice(&p->a.v, 2, first, count);
    heed_softmax_options softmax = p->softmax;
    heed_mrsha_options options = p->options;
    softmax.sinks = has_sinks ? softmax.sinks : NULL;
    options.softmax = &softmax;
    expect_ok(heed_mrsha_forward(fixture_context, &p->a.q, &k, &v, &options, out, lse), p, fixture_context);
}

/* Keys are cut at borders of groups of all heads, in any number of parts, some of them empty. Both the whole and the
 * parts keep their bounds; a merge adds 4e-7 and what an error of lse makes of it. */
static void parts_are_merged(void **state)
{
    (void)state;
    enum { N_PARTS = 5 };
    static const int64_t sizes[] = {2, 1, 4, 3};
    for (int n = 0; n < 3 * N_POOLINGS * 4; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n);
        mrsha_case c = case_of(n % 3, n / 3 % N_POOLINGS, (attention_shape){2, 4, 2, n % 2 ? 5 : 70, 190, 12, 10},
                               80000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.has_sinks = n / 9 % 2;
        mrsha_problem *p = mrsha_create(&c);
        mrsha_expect_match(p, fixture_context, "whole");
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        const heed_tensor part_out = mrsha_keep(p, &p->a.out), part_lse = mrsha_keep(p, &p->a.lse);
        tensor_fill(&out, 0.0f);
        tensor_fill(&lse, -INFINITY);
        for (int64_t part = 0, first = 0, count; part < N_PARTS; part++, first += count) {
            count = random_below(&random, 5) * 12;
            count = part == N_PARTS - 1 || count > 190 - first ? 190 - first : count;
            run_part(p, first, count, part == 2, &part_out, &part_lse);
            assert_int_equal(heed_merge(fixture_context, &out, &lse, &part_out, &part_lse, &out, &lse), HEED_OK);
        }
        const double score = mrsha_largest_score(p), lse_bound = mrsha_lse_bound(score, 190) + 0x1p-20;
        mrsha_expect_close(p, &out, &p->a.out, 2.0 * mrsha_out_bound(score) + N_PARTS * 4e-7 + 2.0 * lse_bound,
                           "merged");
        mrsha_expect_close(p, &lse, &p->a.lse, 2.0 * lse_bound, "merged lse");
        mrsha_destroy(p);
    }
}

/* ---- Symmetries ---- */

static void swap_tokens(const heed_tensor *x, int64_t a, int64_t b)
{
    for (int64_t n = 0; n < x->shape[0] * x->shape[1] * x->shape[3]; n++) {
        const int64_t c = n % x->shape[3], h = n / x->shape[3] % x->shape[1], batch = n / x->shape[3] / x->shape[1];
        float *first = tensor_at(x, batch, h, a, c), *second = tensor_at(x, batch, h, b, c), kept = *first;
        *first = *second;
        *second = kept;
    }
}

/* Keys with their values in another order within their groups, and queries too. */
static void the_order_in_a_group_does_not_matter(void **state)
{
    (void)state;
    for (int n = 0; n < 3 * 3; n++) {
        mrsha_case c =
            case_of(n % 3, HEED_POOLING_MEAN, (attention_shape){2, 2, 1, 91, 91, 12, 10}, 90000 + (uint64_t)n);
        c.group_sizes[0] = c.group_sizes[1] = 4;
        c.class_token = n / 3 == 1;
        c.grid_height = n / 3 == 2 ? 7 : 0;
        c.grid_width = n / 3 == 2 ? 13 : 0;
        mrsha_problem *p = mrsha_create(&c);
        mrsha_run(p, fixture_context);
        const heed_tensor out = mrsha_keep(p, &p->a.out), lse = mrsha_keep(p, &p->a.lse);
        for (int64_t t = 0; t < 91; t++) {
            const int64_t first = first_of_group(&c, 4, t);
            swap_tokens(&p->a.k, first, t);
            swap_tokens(&p->a.v, first, t);
            if (c.mode != HEED_MRSHA_VALUE)
                swap_tokens(&p->a.q, first, t);
        }
        mrsha_run(p, fixture_context);
        const double score = mrsha_largest_score(p);
        mrsha_expect_close(p, &p->a.out, &out, 2.0 * mrsha_out_bound(score), "another order");
        mrsha_expect_close(p, &p->a.lse, &lse, 2.0 * mrsha_lse_bound(score, 91) + 0x1p-20, "another order");
        assert_false(compare_bits(&p->a.q, &p->a.k).equal);
        mrsha_destroy(p);
    }
}

/* A constant added to all keys adds one to all scores of a row. Keys are multiples of 2^-10, so that the sums are
 * exact. */
static void shifted_keys_change_nothing(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1, 4, 3};
    for (int n = 0; n < N_WAYS * N_POOLINGS; n++) {
        mrsha_case c = case_of(n % N_WAYS, n / N_WAYS, (attention_shape){1, 4, 2, 90, 90, 12, 10}, 91000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        mrsha_problem *p = mrsha_create(&c);
        const heed_tensor *k = &p->a.k;
        double bound = 0.0;
        heed_tensor out = p->a.out;
        for (int shifted = 0; shifted < 2; shifted++) {
            for (int64_t at = 0; at < 2 * 90 * 12; at++) {
                float *x = tensor_at(k, 0, at % 2, at / 2 % 90, at / 180);
                *x = shifted ? *x + (float)(at / 180 % 3 - 1) * 4.0f : rintf(*x * 1024.0f) / 1024.0f;
            }
            mrsha_expect_match(p, fixture_context, "shifted");
            bound += mrsha_out_bound(mrsha_largest_score(p));
            out = shifted ? out : mrsha_keep(p, &p->a.out);
        }
        mrsha_expect_close(p, &p->a.out, &out, bound, "shifted");
        mrsha_destroy(p);
    }
}

/* Scores up to +-100 and +-1e4, in tokens and in groups. */
static void large_scores(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1, 16, 3};
    for (int n = 0; n < N_WAYS * N_POOLINGS * 4; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(n % N_WAYS, n / N_WAYS % N_POOLINGS, (attention_shape){1, 4, 2, 140, 140, 16, 10},
                               92000 + (uint64_t)n);
        give_sizes(&c, sizes, 4);
        c.deviation = n / N_WAYS / N_POOLINGS % 2 ? 2500.0f : 25.0f;
        mrsha_problem *p = mrsha_create(&c);
        if (n / N_WAYS / N_POOLINGS / 2) { /* so that pooled scores are as large as all others */
            make_constant(&c, 48, &p->a.q);
            make_constant(&c, 48, &p->a.k);
        }
        mrsha_expect_match(p, fixture_context, "large scores");
        mrsha_destroy(p);
    }
}

static int open_group(void **state)
{
    for (int t = 0; t < N_THREADINGS; t++)
        contexts[t] = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
    return fixture_open(state);
}

static int close_group(void **state)
{
    for (int t = 0; t < N_THREADINGS; t++)
        heed_context_destroy(contexts[t]);
    mrsha_print_errors();
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_tokens_give_exact_attention),
        cmocka_unit_test(equal_keys_give_exact_causal_attention),
        cmocka_unit_test(fine_heads_are_softmax_attention),
        cmocka_unit_test(fine_heads_beside_causal_ones),
        cmocka_unit_test(no_row_sees_the_future),
        cmocka_unit_test(ones_give_one),
        cmocka_unit_test(rows_without_keys),
        cmocka_unit_test(threads_and_hooks_keep_the_bits),
        cmocka_unit_test(layouts_keep_the_bits),
        cmocka_unit_test(repeated_inputs),
        cmocka_unit_test(neighbours_do_not_change_bits),
        cmocka_unit_test(padding_does_not_change_bits),
        cmocka_unit_test(earlier_calls_do_not_change_bits),
        cmocka_unit_test(nan_and_infinity_go_as_far_as_they_must),
        cmocka_unit_test(first_tokens_stand_alone),
        cmocka_unit_test(parts_are_merged),
        cmocka_unit_test(the_order_in_a_group_does_not_matter),
        cmocka_unit_test(shifted_keys_change_nothing),
        cmocka_unit_test(large_scores),
    };
    return cmocka_run_group_tests(tests, open_group, close_group);
}
