/* Gradients of linear attention. With F = phi(q), G = phi(k), S_i and z_i the sums over the keys that row i sees,
 * den_i = F_i z_i + eps, and p_i = S_i do_i:
 *
 *     dF_i = p_i / den_i + e_i z_i,          e_i = -(F_i.p_i) / den_i^2     (the gradient of den_i; o_i is not needed)
 *     dG_j = dS_j v_j + dz_j,  dv_j = dS_j^T G_j
 *     dS_j = sum_i F_i^T do_i / den_i,  dz_j = sum_i e_i F_i                over the rows i that see key j,
 *                                      and the gradient of the state behind ("Transformers are RNNs", equations 13 to 15)
 *
 * then through phi. Where every row sees all keys, S comes first, then all rows, then all keys; causal rows go through
 * linear_backward_causal.c. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/linear_backward_parts.h"

#include <math.h>
#include <string.h>

typedef struct backward_job {
    linear_job job;
    const linear_backward_plan *plan;
    int64_t first_head; /* of the tasks that are under way */
} backward_job;

/* ---- scratch ---- */

static int64_t carve(backward_scratch *s, char *memory, const linear_backward_plan *plan)
{
    const linear_plan *p = &plan->forward;
    heed_arena arena = {memory, heed_linear_carve(&s->base, memory, p)};
    int64_t c = p->key_map.out, dv = p->v.shape[3];
    heed_feature_tape_carve(&s->keys, &arena, &p->key_map, HEED_LINEAR_BLOCK);
    heed_feature_tape_carve(&s->queries, &arena, &p->query_map, HEED_LINEAR_BLOCK);
    s->t.s = heed_arena_take_floats(&arena, c * dv);
    s->t.z = heed_arena_take_floats(&arena, c);
    s->ds.s = heed_arena_take_floats(&arena, c * dv);
    s->ds.z = heed_arena_take_floats(&arena, c);
    s->kept.s = heed_arena_take_floats(&arena, HEED_LINEAR_KEPT_SUMS * c * dv);
    s->kept.z = heed_arena_take_floats(&arena, HEED_LINEAR_KEPT_SUMS * c);
    s->ds_transposed = heed_arena_take_floats(&arena, c * dv);
    s->raw = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * c);
    s->douts = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * dv);
    s->dv = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * dv);
    s->more_tile = heed_arena_take_floats(&arena, HEED_LINEAR_CHUNK * HEED_MAX_TILE_LANES);
    s->along = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK);
    s->inverse = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK);
    s->den = heed_arena_take_floats(&arena, HEED_LINEAR_KEPT_ROWS);
    s->slope = heed_arena_take_floats(&arena, HEED_LINEAR_KEPT_ROWS);
    return arena.bytes;
}

int64_t heed_linear_backward_worker_bytes(const linear_backward_plan *plan)
{
    backward_scratch s;
    if (!heed_linear_fits(&plan->forward))
        return INT64_MAX;
    return carve(&s, NULL, plan);
}

/* Layers of units with gates, of as high a rank: what needs most. */
static linear_plan widest_plan(int64_t widest, int n_layers)
{
    static float anywhere;
    linear_plan p = {.k.shape[3] = widest, .v.shape[3] = widest};
    feature_map map = {n_layers, widest, widest, widest, widest, {{0}}};
    for (int l = 0; l < n_layers; l++)
        map.layers[l] =
            (feature_layer){.kind = HEED_FEATURE_GLU, .in = widest, .out = widest, .rank = widest, .w.data = &anywhere};
    p.key_map = p.query_map = map;
    return p;
}

int64_t heed_linear_default_bytes(int64_t widest, int64_t widest_backward, int n_layers)
{
    linear_plan forward = widest_plan(widest, n_layers);
    linear_backward_plan backward = {.forward = widest_plan(widest_backward, n_layers)};
    return heed_larger(heed_linear_worker_bytes(&forward), heed_linear_backward_worker_bytes(&backward));
}

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

/* A row of a gradient: added to where the call accumulates. */
static void store_row(const backward_walk *w, float *row, const float *from, int64_t n)
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
            store_row(w, heed_row(to, w->keys.b, head, first + t) + c, x + n * c + t * width, width);
    }
}

/* Rows that nothing reaches. */
static void store_zeros(const backward_walk *w, const heed_tensor *to, int64_t head, int64_t begin, int64_t end)
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
    store_zeros(w, &w->plan->dk, w->keys.kv_head, range.begin, heed_smaller(range.end, w->keys.first));
    store_zeros(w, &w->plan->dv, w->keys.kv_head, range.begin, heed_smaller(range.end, w->keys.first));
    range.begin = heed_larger(range.begin, w->keys.first);
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

/* ---- every row sees every key ---- */

static void gradient_of_all(const backward_walk *w)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    heed_backward_start_sums(w);
    heed_backward_add_keys(w, (heed_key_range){0, w->keys.n});
    for (int64_t g = 0; g < job->group; g++) {
        for (int64_t i = w->first_row; i < w->n_rows; i += HEED_LINEAR_BLOCK) {
            row_block block = heed_backward_rows(w, w->keys.kv_head * job->group + g, i,
                                                 (int)heed_smaller(w->n_rows - i, HEED_LINEAR_BLOCK), 1);
            heed_backward_start_rows(w, &block, s->den);
            heed_backward_invert(w, s->den, block.n);
            heed_backward_slopes(w, &block, s->slope);
            heed_backward_add_rows(w, &block, s->den, s->slope);
            heed_backward_finish_rows(w, &block);
        }
    }
    heed_backward_finish_keys(w, (heed_key_range){0, w->keys.n});
}

/* ---- a kv head ---- */

/* Rows that count and see something: [first_row, n_rows). */
static void find_rows(backward_walk *w)
{
    const linear_plan *p = &w->plan->forward;
    w->n_rows = heed_query_length(&p->mask, w->keys.b);
    w->first_row = 0;
    if (heed_linear_has_past(p, w->keys.b))
        return;
    while (w->first_row < w->n_rows && heed_visible_range(&p->mask, w->keys.b, w->first_row).end <= w->keys.first)
        w->first_row++;
}

static void start_gradient_sums(const backward_walk *w)
{
    const linear_job *job = w->job;
    memset(w->s.ds.s, 0, (size_t)(job->n_features * job->n_values) * sizeof(float));
    memset(w->s.ds.z, 0, (size_t)job->n_features * sizeof(float));
    if (!w->plan->has_dstate_out)
        return;
    const heed_linear_state *from = &w->plan->dstate_out;
    for (int64_t c = 0; c < job->n_features; c++)
        memcpy(w->s.ds.s + c * job->n_values, heed_row(&from->sums, w->keys.b, w->keys.kv_head, c),
               (size_t)job->n_values * sizeof(float));
    memcpy(w->s.ds.z, heed_row(&from->norms, w->keys.b, w->keys.kv_head, 0), (size_t)job->n_features * sizeof(float));
}

static void store_gradient_sums(const backward_walk *w)
{
    const heed_linear_state *to = &w->plan->dstate_in;
    int64_t b = w->keys.b, head = w->keys.kv_head, n_values = w->job->n_values;
    for (int64_t c = 0; c < w->job->n_features; c++)
        store_row(w, heed_row(&to->sums, b, head, c), w->s.ds.s + c * n_values, n_values);
    store_row(w, heed_row(&to->norms, b, head, 0), w->s.ds.z, w->job->n_features);
}

static void backward_task(void *argument, int64_t index, int worker)
{
    const backward_job *x = argument;
    const linear_backward_plan *plan = x->plan;
    const linear_plan *p = &plan->forward;
    int64_t transposed = -1;
    backward_walk w = {.job = &x->job, .plan = plan, .transposed = &transposed};
    carve(&w.s, heed_scratch_slice(x->job.context, worker), plan);
    w.s.base = heed_linear_scratch(&x->job, worker);
    int64_t head = x->first_head + index;
    w.keys = heed_linear_keys(&x->job, head / p->k.shape[1], head % p->k.shape[1]);
    heed_feature_tape_start(&w.s.keys, &w.keys.phi);
    find_rows(&w);
    start_gradient_sums(&w);
    if (p->mask.right >= 0)
        heed_backward_causal(&w);
    else
        gradient_of_all(&w);
    for (int64_t g = 0; g < x->job.group; g++) {
        int64_t q_head = w.keys.kv_head * x->job.group + g;
        store_zeros(&w, &plan->dq, q_head, 0, heed_smaller(w.first_row, p->q.shape[2]));
        store_zeros(&w, &plan->dq, q_head, heed_larger(w.first_row, w.n_rows), p->q.shape[2]);
    }
    store_zeros(&w, &plan->dk, w.keys.kv_head, w.keys.n, p->k.shape[2]);
    store_zeros(&w, &plan->dv, w.keys.kv_head, w.keys.n, p->k.shape[2]);
    if (plan->has_dstate_in)
        store_gradient_sums(&w);
}

/* ---- the call ---- */

static void clear_matrices(const feature_gradients *map)
{
    const heed_tensor *const lists[] = {map->w, map->wg, map->a, map->b};
    for (int m = 0; m < 4; m++) {
        for (int l = 0; l < HEED_MAX_FEATURE_LAYERS; l++) {
            const heed_tensor *w = &lists[m][l];
            for (int64_t row = 0; w->data && row < w->shape[1] * w->shape[2]; row++)
                memset(heed_row(w, 0, row / w->shape[2], row % w->shape[2]), 0, (size_t)w->shape[3] * sizeof(float));
        }
    }
}

/* Heads of one batch element at a time, so that matrices of a head are added up over the batch in its order. */
void heed_linear_backward_run(heed_context *context, const linear_backward_plan *plan)
{
    const linear_plan *p = &plan->forward;
    backward_job x = {.job = heed_linear_job(context, p), .plan = plan};
    int64_t n_heads = p->k.shape[1];
    double flops = 3.0 * heed_linear_flops(p) / (double)heed_larger(1, p->k.shape[0]);
    heed_report_start(context, p->mask.right >= 0 ? "linear-chunks" : "linear-sums",
                      heed_linear_backward_worker_bytes(plan));
    if (!plan->accumulate) {
        clear_matrices(&plan->key_map);
        clear_matrices(&plan->query_map);
    }
    for (int64_t b = 0; b < p->k.shape[0]; b++) {
        x.first_head = b * n_heads;
        heed_parallel_for(context, n_heads, plan->serial ? 1 : heed_count_workers(context, n_heads, flops),
                          backward_task, &x);
    }
}
