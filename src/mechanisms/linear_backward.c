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
    s->slopes = heed_arena_take_floats(&arena, HEED_MAX_TILE_LANES);
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
    linear_plan p = {.k.shape[3] = widest, .v.shape[3] = widest};
    feature_map map = {n_layers, widest, widest, widest, widest, {{0}}};
    for (int l = 0; l < n_layers; l++)
        map.layers[l] = (feature_layer){
            .kind = HEED_FEATURE_GLU, .in = widest, .out = widest, .rank = widest, .w.shape[3] = widest};
    p.key_map = p.query_map = map;
    return p;
}

int64_t heed_linear_default_bytes(int64_t widest, int64_t widest_backward, int n_layers)
{
    linear_plan forward = widest_plan(widest, n_layers);
    linear_backward_plan backward = {.forward = widest_plan(widest_backward, n_layers)};
    return heed_larger(heed_linear_worker_bytes(&forward), heed_linear_backward_worker_bytes(&backward));
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
        heed_backward_store_row(w, heed_row(&to->sums, b, head, c), w->s.ds.s + c * n_values, n_values);
    heed_backward_store_row(w, heed_row(&to->norms, b, head, 0), w->s.ds.z, w->job->n_features);
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
        heed_backward_store_zeros(&w, &plan->dq, q_head, 0, heed_smaller(w.first_row, p->q.shape[2]));
        heed_backward_store_zeros(&w, &plan->dq, q_head, heed_larger(w.first_row, w.n_rows), p->q.shape[2]);
    }
    heed_backward_store_zeros(&w, &plan->dk, w.keys.kv_head, w.keys.n, p->k.shape[2]);
    heed_backward_store_zeros(&w, &plan->dv, w.keys.kv_head, w.keys.n, p->k.shape[2]);
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
