#include "support/attention.h"

#include "oracle/oracle.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Views ---- */

/* Elements from the first to the last one of a view, both included. */
static int64_t find_extent(const heed_tensor *tensor)
{
    int64_t extent = 1;
    for (int axis = 0; axis < 4; axis++) {
        if (tensor->shape[axis] == 0)
            return 0;
        extent += (tensor->shape[axis] - 1) * tensor->stride[axis];
    }
    return extent;
}

heed_tensor tensor_create(guarded *memory, heed_dtype dtype, int64_t batch, int64_t heads, int64_t tokens,
                          int64_t channels, tensor_layout layout, guard_side side)
{
    heed_tensor tensor = layout == LAYOUT_BNHD ? heed_tensor_bnhd(NULL, dtype, batch, heads, tokens, channels)
                                               : heed_tensor_bhnd(NULL, dtype, batch, heads, tokens, channels);
    if (layout == LAYOUT_PADDED) {
        tensor.stride[2] = channels + 3;
        tensor.stride[1] = tensor.stride[2] * tokens + 5;
        tensor.stride[0] = tensor.stride[1] * heads + 7;
    }
    const size_t element_bytes = dtype == HEED_BOOL ? 1 : sizeof(float);
    guarded_create(memory, (size_t)find_extent(&tensor) * element_bytes, side);
    tensor.data = memory->data;
    return tensor;
}

heed_tensor tensor_slice(const heed_tensor *tensor, int axis, int64_t first, int64_t count)
{
    heed_tensor slice = *tensor;
    slice.shape[axis] = count;
    const int64_t offset = first > 0 ? first * tensor->stride[axis] : 0;
    if (tensor->data && tensor->dtype == HEED_BOOL)
        slice.data = (unsigned char *)tensor->data + offset;
    else if (tensor->data)
        slice.data = (float *)tensor->data + offset;
    return slice;
}

unsigned char *tensor_flag_at(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c)
{
    return (unsigned char *)tensor->data + tensor_offset(tensor, b, h, n, c);
}

static int64_t count_rows(const heed_tensor *tensor) { return tensor->shape[0] * tensor->shape[1] * tensor->shape[2]; }

/* The row of a float32 view that comes at `row` in the order batch, head, token. */
static float *find_row(const heed_tensor *tensor, int64_t row)
{
    const int64_t n = row % tensor->shape[2];
    const int64_t h = row / tensor->shape[2] % tensor->shape[1];
    return tensor_at(tensor, row / tensor->shape[2] / tensor->shape[1], h, n, 0);
}

void tensor_fill(const heed_tensor *tensor, float value)
{
    for (int64_t row = 0; row < count_rows(tensor); row++) {
        for (int64_t c = 0; c < tensor->shape[3]; c++)
            find_row(tensor, row)[c] = value;
    }
}

void tensor_fill_normal(const heed_tensor *tensor, random_stream *random, float deviation)
{
    for (int64_t row = 0; row < count_rows(tensor); row++) {
        for (int64_t c = 0; c < tensor->shape[3]; c++)
            find_row(tensor, row)[c] = deviation * random_normal(random);
    }
}

void tensor_fill_uniform(const heed_tensor *tensor, random_stream *random, float low, float high)
{
    for (int64_t row = 0; row < count_rows(tensor); row++) {
        for (int64_t c = 0; c < tensor->shape[3]; c++)
            find_row(tensor, row)[c] = random_uniform(random, low, high);
    }
}

void tensor_copy(const heed_tensor *to, const heed_tensor *from)
{
    for (int64_t row = 0; row < count_rows(to); row++)
        memcpy(find_row(to, row), find_row(from, row), (size_t)to->shape[3] * sizeof(float));
}

void tensor_fill_flags(const heed_tensor *tensor, random_stream *random, int n_true)
{
    for (int64_t row = 0; row < count_rows(tensor); row++) {
        const int64_t n = row % tensor->shape[2];
        const int64_t h = row / tensor->shape[2] % tensor->shape[1];
        const int64_t b = row / tensor->shape[2] / tensor->shape[1];
        for (int64_t c = 0; c < tensor->shape[3]; c++) {
            const uint32_t bits = random_bits(random);
            const unsigned char yes = (unsigned char)(1 + (bits >> 8) % 255);
            *tensor_flag_at(tensor, b, h, n, c) = (int)(bits % 16) < n_true ? yes : 0;
        }
    }
}

/* ---- Problems ---- */

/* The view of `heads` heads that start at channel `first` of the packed rows. */
static heed_tensor make_packed_view(const guarded *memory, int64_t first, int64_t width, int64_t batch, int64_t heads,
                                    int64_t tokens, int64_t channels)
{
    const heed_tensor view = {(float *)(void *)memory->data + (memory->bytes > 0 ? first : 0),
                              HEED_FLOAT32,
                              {batch, heads, tokens, channels},
                              {tokens * width, channels, width, 1}};
    return view;
}

static void create_packed(attention *problem, guard_side side)
{
    const attention_shape s = problem->shape;
    const int64_t k_width = s.kv_heads * s.channels;
    const int64_t v_width = s.kv_heads * s.value_channels;
    const int with_q = s.n_queries == s.n_keys;
    const int64_t q_width = with_q ? s.q_heads * s.channels : 0;
    const int64_t width = q_width + k_width + v_width;
    guarded *memory = with_q ? &problem->q_memory : &problem->k_memory;
    guarded_create(memory, (size_t)(s.batch * s.n_keys * width) * sizeof(float), side);
    if (with_q)
        problem->q = make_packed_view(memory, 0, width, s.batch, s.q_heads, s.n_queries, s.channels);
    else
        problem->q = tensor_create(&problem->q_memory, HEED_FLOAT32, s.batch, s.q_heads, s.n_queries, s.channels,
                                   LAYOUT_BNHD, side);
    problem->k = make_packed_view(memory, q_width, width, s.batch, s.kv_heads, s.n_keys, s.channels);
    problem->v = make_packed_view(memory, q_width + k_width, width, s.batch, s.kv_heads, s.n_keys, s.value_channels);
}

void attention_create(attention *problem, attention_shape shape, tensor_layout layout, guard_side side)
{
    const attention_shape s = shape;
    *problem = (attention){.shape = shape, .layout = layout};
    tensor_layout out_layout = layout;
    if (layout == LAYOUT_PACKED) {
        create_packed(problem, side);
        out_layout = LAYOUT_BNHD;
    } else {
        problem->q =
            tensor_create(&problem->q_memory, HEED_FLOAT32, s.batch, s.q_heads, s.n_queries, s.channels, layout, side);
        problem->k =
            tensor_create(&problem->k_memory, HEED_FLOAT32, s.batch, s.kv_heads, s.n_keys, s.channels, layout, side);
        problem->v = tensor_create(&problem->v_memory, HEED_FLOAT32, s.batch, s.kv_heads, s.n_keys, s.value_channels,
                                   layout, side);
    }
    problem->out = tensor_create(&problem->out_memory, HEED_FLOAT32, s.batch, s.q_heads, s.n_queries, s.value_channels,
                                 out_layout, side);
    problem->lse =
        tensor_create(&problem->lse_memory, HEED_FLOAT32, s.batch, s.q_heads, s.n_queries, 1, out_layout, side);
}

void attention_destroy(attention *problem)
{
    guarded *all[] = {&problem->q_memory, &problem->k_memory, &problem->v_memory, &problem->out_memory,
                      &problem->lse_memory};
    for (int n = 0; n < 5; n++)
        guarded_destroy(all[n]);
}

void attention_fill(attention *problem, random_stream *random, float deviation)
{
    tensor_fill_normal(&problem->q, random, deviation);
    tensor_fill_normal(&problem->k, random, 1.0f);
    tensor_fill_uniform(&problem->v, random, -1.0f, 1.0f);
}

heed_status attention_run(attention *problem, heed_context *context, const heed_softmax_options *options)
{
    guarded_clear(&problem->out_memory);
    guarded_clear(&problem->lse_memory);
    return heed_softmax_forward(context, &problem->q, &problem->k, &problem->v, options, &problem->out, &problem->lse);
}

/* ---- Comparison ---- */

double attention_bound(double max_score)
{
    /* heed.h: 2e-6 for scores up to 30. A score is rounded in proportion to its size, and an error e of a score is
     * a relative error e of its weight, so beyond 30 the bound grows with the scores. */
    return 2e-6 * (max_score > 30.0 ? max_score / 30.0 : 1.0);
}

/* A block of 128 keys that raises the maximum scales the sum: the factor is rounded to 1.6 ulp, the product to half of
 * one. In out that cancels. */
static const double rise_tolerance = 2.5e-7;

/* lse carries the relative error of the sum of weights, which the bound on out covers, and, where one key outweighs the
 * others, all of the error of its score, which hardly shows in out. The latter is a sum of D roundings, each of
 * deviation 2^-24 / sqrt(3) of a partial sum; the partial sums of a random product of deviation d average d / sqrt(2),
 * so that five deviations of the whole are 5 / sqrt(6) 2^-24 d sqrt(D). max_score is eight of d in these tests. */
static double find_lse_tolerance(double max_score, int64_t channels, int64_t n_keys)
{
    return attention_bound(max_score) + rise_tolerance * ceil((double)n_keys / 128.0) +
           5.0 / sqrt(6.0) * 0x1p-24 * max_score / 8.0 * sqrt((double)channels);
}

/* m + log l is reckoned in double and rounded once: by 1 ulp at most, which is at most 2^-23 |lse|. */
static const double lse_relative_tolerance = 0x1p-23;

/* The first row that the oracle makes zero and that is not exactly zero, or -1. */
static int64_t find_inexact_zero_row(const heed_tensor *out, const double *want)
{
    for (int64_t row = 0; row < count_rows(out); row++) {
        int want_zero = 1;
        int got_zero = 1;
        for (int64_t c = 0; c < out->shape[3]; c++) {
            want_zero &= want[row * out->shape[3] + c] == 0.0;
            got_zero &= find_row(out, row)[c] == 0.0f;
        }
        if (want_zero && !got_zero)
            return row;
    }
    return -1;
}

int tensor_padding_is_whole(const guarded *memory, const heed_tensor *tensor)
{
    unsigned char *marks = calloc(memory->bytes + 1, 1);
    if (!marks)
        return 0;
    for (int64_t row = 0; row < count_rows(tensor); row++) {
        const unsigned char *begin = (const unsigned char *)find_row(tensor, row);
        memset(marks + (begin - memory->data), 1, (size_t)tensor->shape[3] * sizeof(float));
    }
    int whole = 1;
    for (size_t i = 0; i < memory->bytes; i++)
        whole &= marks[i] || memory->data[i] == guarded_pattern(i);
    free(marks);
    return whole;
}

static int buffers_are_whole(const attention *problem)
{
    return guarded_intact(&problem->q_memory) && guarded_intact(&problem->k_memory) &&
           guarded_intact(&problem->v_memory) && guarded_intact(&problem->out_memory) &&
           guarded_intact(&problem->lse_memory) && tensor_padding_is_whole(&problem->out_memory, &problem->out) &&
           tensor_padding_is_whole(&problem->lse_memory, &problem->lse);
}

static int describe(const attention *problem, const char *what, const char *detail, char *text, size_t text_bytes)
{
    static const char *const layouts[N_LAYOUTS] = {"BHND", "BNHD", "padded", "packed"};
    const attention_shape *s = &problem->shape;
    snprintf(text, text_bytes,
             "B %" PRId64 " Hq %" PRId64 " Hkv %" PRId64 " Nq %" PRId64 " Nk %" PRId64 " D %" PRId64 " Dv %" PRId64
             " %s seed %" PRIu64 ": %s: %s",
             s->batch, s->q_heads, s->kv_heads, s->n_queries, s->n_keys, s->channels, s->value_channels,
             layouts[problem->layout], random_seed(), what, detail);
    return 0;
}

static int compare_with_oracle(const attention *problem, const heed_softmax_options *options, double max_score,
                               double *want_out, double *want_lse, char *text, size_t text_bytes)
{
    const heed_tensor *out = &problem->out;
    oracle_softmax(&problem->q, &problem->k, &problem->v, options, want_out, want_lse);
    const compare_result lse_result = compare_each(
        &problem->lse, want_lse, find_lse_tolerance(max_score, problem->shape.channels, problem->shape.n_keys),
        lse_relative_tolerance);
    if (!lse_result.equal)
        return describe(problem, "lse", lse_result.text, text, text_bytes);
    const double v_max = tensor_max_abs(&problem->v);
    const compare_result out_result = compare_tensor(out, want_out, attention_bound(max_score), v_max);
    if (!out_result.equal)
        return describe(problem, "out", out_result.text, text, text_bytes);
    if (find_inexact_zero_row(out, want_out) >= 0)
        return describe(problem, "out", "a row that must be zero is not exactly zero", text, text_bytes);
    if (!buffers_are_whole(problem))
        return describe(problem, "buffers", "written outside the outputs", text, text_bytes);
    return 1;
}

int attention_matches(attention *problem, heed_context *context, const heed_softmax_options *options, double max_score,
                      char *text, size_t text_bytes)
{
    const heed_status status = attention_run(problem, context, options);
    if (status != HEED_OK)
        return describe(problem, heed_status_text(status), heed_context_message(context), text, text_bytes);
    const int64_t n_rows = count_rows(&problem->out);
    double *want_out = malloc(sizeof(double) * (size_t)(n_rows * problem->shape.value_channels + 1));
    double *want_lse = malloc(sizeof(double) * (size_t)(n_rows + 1));
    int matches = 0;
    if (want_out && want_lse)
        matches = compare_with_oracle(problem, options, max_score, want_out, want_lse, text, text_bytes);
    else
        describe(problem, "test", "no memory for the oracle", text, text_bytes);
    free(want_out);
    free(want_lse);
    return matches;
}

int attention_same_bits(const attention *a, const attention *b, char *text, size_t text_bytes)
{
    const compare_result out = compare_bits(&a->out, &b->out);
    if (!out.equal)
        return describe(a, "bits of out", out.text, text, text_bytes);
    const compare_result lse = compare_bits(&a->lse, &b->lse);
    if (!lse.equal)
        return describe(a, "bits of lse", lse.text, text, text_bytes);
    return 1;
}
