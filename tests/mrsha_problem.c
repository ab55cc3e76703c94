#include "mrsha_problem.h"

#include "support/random.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- Tensors ---- */

heed_tensor mrsha_tensor(mrsha_problem *p, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c,
                         tensor_layout layout)
{
    assert_true(p->n_tensors < MRSHA_MAX_TENSORS);
    return tensor_create(&p->memory[p->n_tensors++], dtype, b, h, n, c, layout, p->c.side);
}

heed_tensor mrsha_keep(mrsha_problem *p, const heed_tensor *tensor)
{
    const int64_t *shape = tensor->shape;
    const heed_tensor copy = mrsha_tensor(p, tensor->dtype, shape[0], shape[1], shape[2], shape[3], LAYOUT_BHND);
    tensor_copy(&copy, tensor);
    return copy;
}

/* ---- Problems ---- */

static int64_t draw_length(random_stream *random, int64_t n)
{
    return random_below(random, 6) == 0 ? 0 : n - random_below(random, n + 1) / 2;
}

static void fill_mask(mrsha_problem *p, random_stream *random)
{
    p->mask = (heed_mask)HEED_MASK_INIT;
    p->mask.causal = p->c.causal;
    for (int b = 0; b < MRSHA_MAX_BATCH; b++) {
        p->query_lengths[b] = draw_length(random, p->c.shape.n_queries);
        p->key_lengths[b] = p->c.causal ? p->query_lengths[b] : draw_length(random, p->c.shape.n_keys);
    }
    if (p->c.has_lengths) {
        p->mask.query_lengths = p->query_lengths;
        p->mask.key_lengths = p->key_lengths;
    }
}

static int64_t count_weights(const mrsha_case *c)
{
    int64_t widest = 1;
    for (int64_t h = 0; h < c->shape.q_heads; h++)
        widest = c->group_sizes[h] > widest ? c->group_sizes[h] : widest;
    widest = c->group_sizes[0] == 0 ? 2 : widest;
    return c->grid_width > 0 ? widest * widest : widest;
}

/* Fine heads have no use for weights. */
static void fill_fine_weights(const mrsha_problem *p)
{
    for (int64_t h = 0; h < p->c.shape.q_heads; h++) {
        const heed_tensor row = tensor_slice(&p->weights, 2, h, 1);
        if (mrsha_group_size(p, h) == 1)
            tensor_fill(&row, NAN);
    }
}

static void fill_options(mrsha_problem *p, random_stream *random)
{
    const mrsha_case *c = &p->c;
    fill_mask(p, random);
    for (int h = 0; h < MRSHA_MAX_HEADS; h++)
        p->sinks[h] = h % 5 == 3 ? -INFINITY : random_uniform(random, -2.0f, 4.0f);
    p->softmax = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    p->softmax.scale = c->scale;
    p->softmax.softcap = c->softcap;
    p->softmax.sinks = c->has_sinks ? p->sinks : NULL;
    p->softmax.mask = &p->mask;
    p->options = (heed_mrsha_options)HEED_MRSHA_OPTIONS_INIT;
    p->options.group_sizes = c->group_sizes[0] > 0 ? p->c.group_sizes : NULL;
    p->options.mode = c->mode;
    p->options.pooling = c->pooling;
    p->options.upsampling = c->upsampling;
    p->options.grid_height = c->grid_height;
    p->options.grid_width = c->grid_width;
    p->options.class_token = c->class_token;
    p->options.softmax = &p->softmax;
    if (c->pooling == HEED_POOLING_LEARNED) {
        const int64_t n_weights = count_weights(c) + random_below(random, 3);
        p->weights = mrsha_tensor(p, HEED_FLOAT32, 1, 1, c->shape.q_heads, n_weights,
                                  random_below(random, 2) ? LAYOUT_PADDED : LAYOUT_BHND);
        tensor_fill_uniform(&p->weights, random, 0.2f, 2.0f);
        fill_fine_weights(p);
        p->options.weights = &p->weights;
    }
}

mrsha_problem *mrsha_create(const mrsha_case *c)
{
    mrsha_problem *p = calloc(1, sizeof *p);
    assert_non_null(p);
    assert_true(c->shape.batch <= MRSHA_MAX_BATCH && c->shape.q_heads <= MRSHA_MAX_HEADS);
    random_stream random = random_start(c->stream);
    p->c = *c;
    attention_create(&p->a, c->shape, c->layout, c->side);
    attention_fill(&p->a, &random, c->deviation > 0.0f ? c->deviation : 1.0f);
    fill_options(p, &random);
    return p;
}

void mrsha_destroy(mrsha_problem *p)
{
    const guarded *all[] = {&p->a.q_memory, &p->a.k_memory, &p->a.v_memory, &p->a.out_memory, &p->a.lse_memory};
    for (size_t n = 0; n < sizeof all / sizeof all[0]; n++)
        assert_true(guarded_intact(all[n]));
    attention_destroy(&p->a);
    for (int n = 0; n < p->n_tensors; n++) {
        assert_true(guarded_intact(&p->memory[n]));
        guarded_destroy(&p->memory[n]);
    }
    free(p);
}

const char *mrsha_describe(const mrsha_problem *p)
{
    static const char *const modes[] = {"BOTH", "OUTPUT", "VALUE"}, *const poolings[] = {"mean", "first", "learned"};
    static char text[500];
    const mrsha_case *c = &p->c;
    const attention_shape *s = &c->shape;
    int n = snprintf(text, sizeof text,
                     "%s%s, %s%s, B %" PRId64 " Hq %" PRId64 " Hkv %" PRId64 " Nq %" PRId64 " Nk %" PRId64 " D %" PRId64
                     " Dv %" PRId64 ", grid %" PRId64 " x %" PRId64 "%s%s%s, scale %g, softcap %g, layout %d, seed "
                     "%" PRIu64 ", stream %" PRIu64 ", S",
                     modes[c->mode], c->causal ? ", causal" : "", poolings[c->pooling],
                     c->upsampling == HEED_UPSAMPLING_LINEAR ? ", linear" : "", s->batch, s->q_heads, s->kv_heads,
                     s->n_queries, s->n_keys, s->channels, s->value_channels, c->grid_height, c->grid_width,
                     c->class_token ? ", class token" : "", c->has_lengths ? ", lengths" : "",
                     c->has_sinks ? ", sinks" : "", (double)c->scale, (double)c->softcap, (int)c->layout, random_seed(),
                     c->stream);
    for (int64_t h = 0; h < s->q_heads && n > 0 && n < (int)sizeof text; h++)
        n += snprintf(text + n, sizeof text - (size_t)n, " %" PRId64, mrsha_group_size(p, h));
    return text;
}

int64_t mrsha_group_size(const mrsha_problem *p, int64_t h)
{
    return oracle_mrsha_group_size(&p->options, p->c.shape.q_heads, h);
}

/* ---- Calls ---- */

const heed_tensor *mrsha_lse(const mrsha_problem *p)
{
    return p->options.upsampling == HEED_UPSAMPLING_LINEAR ? NULL : &p->a.lse;
}

void mrsha_run(mrsha_problem *p, heed_context *context)
{
    attention *a = &p->a;
    guarded_clear(&a->out_memory);
    guarded_clear(&a->lse_memory);
    const heed_status status = heed_mrsha_forward(context, &a->q, &a->k, &a->v, &p->options, &a->out, mrsha_lse(p));
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", mrsha_describe(p), heed_status_text(status), heed_context_message(context));
    if (!tensor_padding_is_whole(&a->out_memory, &a->out) || !tensor_padding_is_whole(&a->lse_memory, &a->lse))
        fail_msg("%s: written beside the rows of out or lse", mrsha_describe(p));
}

/* ---- Comparisons ---- */

double mrsha_largest_score(const mrsha_problem *p)
{
    const heed_tensor *q = &p->a.q, *k = &p->a.k;
    const double scale = p->c.scale != 0.0f ? (double)p->c.scale : 1.0 / sqrt((double)q->shape[3]);
    double largest = 0.0;
    for (int64_t pair = 0; pair < q->shape[0] * q->shape[1]; pair++) {
        const int64_t b = pair / q->shape[1], h = pair % q->shape[1], kv_head = h / (q->shape[1] / k->shape[1]);
        const int64_t n_queries = oracle_query_length(&p->mask, b, q->shape[2]);
        const int64_t n_keys = oracle_key_length(&p->mask, b, k->shape[2]);
        for (int64_t i = 0; i < n_queries; i++) {
            const float *query = tensor_at(q, b, h, i, 0);
            for (int64_t j = 0; j < n_keys; j++) {
                const float *key = tensor_at(k, b, kv_head, j, 0);
                float s = 0.0f;
                for (int64_t c = 0; c < q->shape[3]; c++)
                    s += query[c] * key[c];
                const double size = fabs((double)s * scale);
                largest = size > largest && isfinite(size) ? size : largest;
            }
        }
    }
    return largest;
}

/* The bound of softmax attention, 1e-6 that the means of values add, and an error of the scores, which is at most as
 * large an error of the row: it is a mean of values, each with a relative error of its weight. */
double mrsha_out_bound(double largest_score) { return attention_bound(largest_score) + 1e-6 + 1e-6 * largest_score; }

double mrsha_lse_bound(double largest_score, int64_t n_keys)
{
    return attention_bound(largest_score) + 2.5e-7 * ceil((double)n_keys / 128.0) + 1e-6 * largest_score;
}

static struct {
    double out, lse; /* the largest errors as parts of what is allowed */
} largest_errors[3];

/* Notes the largest error, and looks at rows that must be exactly 0. */
static void look_at_rows(const mrsha_problem *p, const heed_tensor *out, const double *want, double allowed,
                         const char *name)
{
    const int64_t *shape = out->shape;
    double *noted = &largest_errors[p->options.mode].out;
    for (int64_t row = 0; row < shape[0] * shape[1] * shape[2]; row++) {
        const float *got = tensor_at(out, row / shape[2] / shape[1], row / shape[2] % shape[1], row % shape[2], 0);
        int wants_zero = 1, is_zero = 1;
        for (int64_t c = 0; c < shape[3]; c++) {
            const double error = fabs((double)got[c] - want[row * shape[3] + c]) / allowed;
            *noted = error > *noted && isfinite(error) ? error : *noted;
            wants_zero &= want[row * shape[3] + c] == 0.0;
            is_zero &= got[c] == 0.0f;
        }
        if (wants_zero && !is_zero)
            fail_msg("%s: %s: row %d of head %d must be exactly 0", name, mrsha_describe(p), (int)(row % shape[2]),
                     (int)(row / shape[2] % shape[1]));
    }
}

void mrsha_expect_rows(const mrsha_problem *p, const heed_tensor *out, const heed_tensor *lse, const char *name)
{
    const attention *a = &p->a;
    const int64_t n_rows = out->shape[0] * out->shape[1] * out->shape[2];
    double *want_out = oracle_zeros(n_rows * out->shape[3]), *want_lse = oracle_zeros(n_rows);
    const double score = mrsha_largest_score(p), v_max = tensor_max_abs(&a->v), scale = v_max > 0.0 ? v_max : 1.0;
    oracle_mrsha(&a->q, &a->k, &a->v, &p->options, want_out, lse ? want_lse : NULL);
    compare_result r = compare_tensor(out, want_out, mrsha_out_bound(score), scale);
    if (!r.equal)
        fail_msg("%s: %s: scores up to %g: out: %s", name, mrsha_describe(p), score, r.text);
    look_at_rows(p, out, want_out, mrsha_out_bound(score) * scale, name);
    for (int64_t row = 0; lse && row < n_rows; row++) {
        const int64_t *shape = lse->shape;
        const float got = *tensor_at(lse, row / shape[2] / shape[1], row / shape[2] % shape[1], row % shape[2], 0);
        const double allowed = mrsha_lse_bound(score, a->k.shape[2]) + 0x1p-23 * fabs(want_lse[row]);
        const double error = fabs((double)got - want_lse[row]) / allowed, noted = largest_errors[p->options.mode].lse;
        largest_errors[p->options.mode].lse = error > noted && isfinite(error) ? error : noted;
    }
    if (lse) {
        r = compare_each(lse, want_lse, mrsha_lse_bound(score, a->k.shape[2]), 0x1p-23);
        if (!r.equal)
            fail_msg("%s: %s: scores up to %g: lse: %s", name, mrsha_describe(p), score, r.text);
    }
    free(want_out);
    free(want_lse);
}

void mrsha_expect_match(mrsha_problem *p, heed_context *context, const char *name)
{
    mrsha_run(p, context);
    mrsha_expect_rows(p, &p->a.out, mrsha_lse(p), name);
}

void mrsha_expect_bits(const mrsha_problem *p, const heed_tensor *got, const heed_tensor *want, const char *name)
{
    const compare_result r = compare_bits(got, want);
    if (!r.equal)
        fail_msg("%s: %s: %s", name, mrsha_describe(p), r.text);
}

void mrsha_expect_close(const mrsha_problem *p, const heed_tensor *got, const heed_tensor *want, double tolerance,
                        const char *name)
{
    const int64_t *shape = got->shape;
    for (int64_t n = 0; n < shape[0] * shape[1] * shape[2] * shape[3]; n++) {
        const int64_t c = n % shape[3], row = n / shape[3], i = row % shape[2], h = row / shape[2] % shape[1];
        const double x = (double)*tensor_at(got, row / shape[2] / shape[1], h, i, c);
        const double y = (double)*tensor_at(want, row / shape[2] / shape[1], h, i, c);
        if (!(fabs(x - y) <= tolerance) && x != y)
            fail_msg("%s: %s: head %d, row %d, channel %d: %.9g and %.9g, %g apart", name, mrsha_describe(p), (int)h,
                     (int)i, (int)c, x, y, tolerance);
    }
}

void mrsha_print_errors(void)
{
    static const char *const modes[] = {"BOTH", "OUTPUT", "VALUE"};
    for (int mode = 0; mode < 3; mode++) {
        if (largest_errors[mode].out > 0.0)
            print_message("%-6s errors of out up to %.2f of what is allowed, of lse up to %.2f\n", modes[mode],
                          largest_errors[mode].out, largest_errors[mode].lse);
    }
}
