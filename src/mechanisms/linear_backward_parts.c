#include "mechanisms/linear_backward_parts.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

/* ---- keys ---- */

key_block heed_backward_keys(const backward_walk *w, heed_key_range range)
{
    return (key_block){range, heed_linear_block(w->job, &w->keys, range, &w->s.base, &w->s.keys)};
}

void heed_backward_add_block(const backward_walk *w, const key_block *block)
{
    const linear_job *job = w->job;
    const linear_sums t = w->s.t;
    const float *ones = w->s.base.layers.ones, *features = block->keys.features;
    heed_feature_outer(job->kernels, block->keys.v, job->n_values, features, job->n_features, t.s, job->n_features,
                       ones);
    heed_linear_add_norms(job, t.z, features, block->keys.v.n, ones);
}

void heed_backward_add_keys(const backward_walk *w, heed_key_range range)
{
    range.begin = heed_larger(range.begin, w->keys.first);
    for (; !heed_range_is_empty(range); range.begin += HEED_LINEAR_BLOCK) {
        key_block block = heed_backward_keys(
            w, (heed_key_range){range.begin, heed_smaller(range.end, range.begin + HEED_LINEAR_BLOCK)});
        heed_backward_add_block(w, &block);
    }
}

void heed_backward_start_sums(const backward_walk *w)
{
    const linear_job *job = w->job;
    const linear_plan *p = &w->plan->forward;
    const linear_sums t = w->s.t;
    memset(t.s, 0, (size_t)(job->n_features * job->n_values) * sizeof *t.s);
    memset(t.z, 0, (size_t)job->n_features * sizeof *t.z);
    if (p->has_state) {
        job->kernels->transpose(t.s, job->n_features, heed_row(&p->state.sums, w->keys.b, w->keys.kv_head, 0),
                                p->state.sums.stride[2], job->n_features, job->n_values);
        memcpy(t.z, heed_row(&p->state.norms, w->keys.b, w->keys.kv_head, 0), (size_t)job->n_features * sizeof *t.z);
    }
}

/* ---- storing ---- */

void heed_backward_store_row(const backward_walk *w, float *row, const float *from, int64_t n)
{
    if (w->plan->accumulate)
        w->job->kernels->blend_rows(row, row, 1.0f, from, 1.0f, n);
    else
        memcpy(row, from, (size_t)n * sizeof *row);
}

/* Rows from `first` on, n of them, which x holds in panels. */
static void store_rows(const backward_walk *w, const heed_tensor *to, int64_t head, int64_t first, const float *x,
                       int n)
{
    for (int64_t c = 0; to->data && c < to->shape[3]; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(to->shape[3], c);
        for (int t = 0; t < n; t++)
            heed_backward_store_row(w, heed_row(to, w->keys.b, head, first + t) + c, x + n * c + t * width, width);
    }
}

void heed_backward_store_zeros(const backward_walk *w, const heed_tensor *to, int64_t head, int64_t begin, int64_t end)
{
    for (int64_t i = begin; to->data && !w->plan->accumulate && i < end; i++)
        memset(heed_row(to, w->keys.b, head, i), 0, (size_t)to->shape[3] * sizeof(float));
}

/* x, and while it is worked on, the rows that its product will be stored to are asked for. */
static feature_rows before_storing(const backward_walk *w, feature_rows x, const heed_tensor *to, int64_t head,
                                   int64_t first)
{
    const float *next = to->data ? heed_row(to, w->keys.b, head, first) : NULL;
    return heed_rows_asking(x, 0, next, to->stride[2]);
}

/* matrix [n][C], in panels: row t = that times rescale[t], plus weights[t] x; rescale or weights NULL: ones */
static void add_to_rows(const backward_walk *w, float *matrix, int n, const float *rescale, const float *weights,
                        const float *x)
{
    const float *ones = w->s.base.layers.ones;
    for (int64_t c = 0; c < w->job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(w->job->n_features, c);
        w->job->kernels->mix_rows(heed_panel(matrix, n, c), width, rescale ? rescale : ones, weights ? weights : ones,
                                  1, 0, x + c, width, 1, n, width, NULL);
    }
}

void heed_backward_turn(const backward_walk *w)
{
    const linear_job *job = w->job;
    job->kernels->transpose(w->s.ds_transposed, job->n_features, w->s.ds.s, job->n_values, job->n_features,
                            job->n_values);
}

void heed_backward_start_block(const backward_walk *w, const key_block *block)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    int n = block->keys.k.n;
    int64_t head = w->keys.kv_head, first = block->range.begin;
    heed_feature_product(job->kernels, before_storing(w, block->keys.v, &w->plan->dv, head, first), job->n_values,
                         s->ds_transposed, job->n_features, job->n_features, s->raw, s->base.layers.ones, 0);
    heed_feature_product(job->kernels,
                         before_storing(w, heed_panel_rows(block->keys.features, n), &w->plan->dk, head, first),
                         job->n_features, s->ds.s, job->n_values, job->n_values, s->dv, s->base.layers.ones, 0);
    add_to_rows(w, s->raw, n, NULL, NULL, s->ds.z);
}

void heed_backward_finish_block(const backward_walk *w, const key_block *block)
{
    const backward_scratch *s = &w->s;
    int n = block->keys.k.n;
    for (int t = 0; t < n; t++) {
        if (!heed_linear_is_visible(&w->plan->forward, &w->keys, block->range.begin + t)) {
            heed_feature_row_clear(s->raw, w->job->n_features, n, t);
            heed_feature_row_clear(s->dv, w->job->n_values, n, t);
        }
    }
    store_rows(w, &w->plan->dv, w->keys.kv_head, block->range.begin, s->dv, n);
    const float *dk =
        heed_features_gradient(&w->keys.phi, block->keys.k, s->raw, &s->keys, &w->plan->key_map, &s->base.layers);
    store_rows(w, &w->plan->dk, w->keys.kv_head, block->range.begin, dk, n);
}

void heed_backward_finish_keys(const backward_walk *w, heed_key_range range)
{
    heed_backward_store_zeros(w, &w->plan->dk, w->keys.kv_head, range.begin, heed_smaller(range.end, w->keys.first));
    heed_backward_store_zeros(w, &w->plan->dv, w->keys.kv_head, range.begin, heed_smaller(range.end, w->keys.first));
    range.begin = heed_larger(range.begin, w->keys.first);
    if (!heed_range_is_empty(range))
        heed_backward_turn(w);
    for (; !heed_range_is_empty(range); range.begin += HEED_LINEAR_BLOCK) {
        key_block block = heed_backward_keys(
            w, (heed_key_range){range.begin, heed_smaller(range.end, range.begin + HEED_LINEAR_BLOCK)});
        heed_backward_start_block(w, &block);
        heed_backward_finish_block(w, &block);
    }
}

/* ---- rows ---- */

row_block heed_backward_rows(const backward_walk *w, int64_t head, int64_t first, int n, int record)
{
    const linear_plan *p = &w->plan->forward;
    row_block block = {.head = head, .first = first, .n = n, .phi = heed_linear_query_map(w->job, head)};
    block.dout = heed_feature_rows(&w->plan->dout, w->keys.b, head, first, n);
    block.q = heed_rows_asking(heed_feature_rows(&p->q, w->keys.b, head, first, n), w->keys.ahead, block.dout.x,
                               block.dout.stride);
    if (record) {
        if (*w->transposed != block.phi.head)
            heed_feature_tape_start(&w->s.queries, &block.phi);
        *w->transposed = block.phi.head;
        block.f = heed_features_record(&block.phi, block.q, &w->s.queries, &w->s.base.layers);
    } else {
        heed_features(&block.phi, block.q, w->s.base.query_features, &w->s.base.layers);
        block.f = w->s.base.query_features;
    }
    return block;
}

void heed_backward_start_rows(const backward_walk *w, const row_block *block, float *den)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    heed_feature_product(job->kernels, before_storing(w, block->dout, &w->plan->dq, block->head, block->first),
                         job->n_values, s->t.s, job->n_features, job->n_features, s->raw, s->base.layers.ones, 0);
    for (int t = 0; t < block->n; t++) {
        den[t] = w->plan->forward.eps;
        s->along[t] = 0.0f;
    }
    for (int64_t c = 0; c < job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_features, c);
        const float *f = block->f + block->n * c;
        job->kernels->dot_rows(den, f, width, s->t.z + c, 0, block->n, width);
        job->kernels->dot_rows(s->along, f, width, heed_panel(s->raw, block->n, c), width, block->n, width);
    }
}

void heed_backward_invert(const backward_walk *w, const float *den, int n)
{
    for (int t = 0; t < n; t++)
        w->s.inverse[t] = fabsf(den[t]) < 1.175494351e-38f ? 0.0f : 1.0f / den[t];
}

void heed_backward_slopes(const backward_walk *w, const row_block *block, float *slope)
{
    const backward_scratch *s = &w->s;
    for (int t = 0; t < block->n; t++)
        slope[t] = -(s->along[t] * s->inverse[t]) * s->inverse[t];
    add_to_rows(w, s->raw, block->n, s->inverse, slope, s->t.z);
}

void heed_backward_add_rows(const backward_walk *w, const row_block *block, const float *den, const float *slope)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    const float *ones = s->base.layers.ones;
    for (int64_t c = 0; c < job->n_values; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_values, c);
        job->kernels->divide_rows(heed_panel(s->douts, block->n, c), width, block->dout.x + c, block->dout.stride, den,
                                  block->n, width);
    }
    heed_feature_outer(job->kernels, heed_panel_rows(block->f, block->n), job->n_features, s->douts, job->n_values,
                       s->ds.s, job->n_values, ones);
    for (int64_t c = 0; c < job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_features, c);
        job->kernels->mix_rows(s->ds.z + c, width, ones, slope, 0, 1, block->f + block->n * c, width, block->n, 1,
                               width, NULL);
    }
}

void heed_backward_finish_rows(const backward_walk *w, const row_block *block)
{
    const linear_backward_plan *plan = w->plan;
    const feature_gradients *map = plan->forward.shared_map ? &plan->key_map : &plan->query_map;
    const float *dq = heed_features_gradient(&block->phi, block->q, w->s.raw, &w->s.queries, map, &w->s.base.layers);
    store_rows(w, &plan->dq, block->head, block->first, dq, block->n);
}
