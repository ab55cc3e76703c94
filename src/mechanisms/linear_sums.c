/* The sums of linear attention, S = sum_j phi(k_j)^T v_j and z = sum_j phi(k_j): what goes into them and comes out. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/linear_parts.h"

#include <string.h>

linear_job heed_linear_job(const heed_context *context, const linear_plan *p)
{
    linear_job job = {.plan = p, .kernels = context->kernels, .context = context};
    job.n_features = p->key_map.out;
    job.n_values = p->v.shape[3];
    job.group = p->k.shape[1] > 0 ? p->q.shape[1] / p->k.shape[1] : 0;
    return job;
}

/* ---- scratch ---- */

/* Sums are taken for 5 + HEED_LINEAR_KEPT_SUMS times, blocks of channels some twenty times: less than 2^12 floats each. */
int heed_linear_fits(const linear_plan *p)
{
    int64_t n = heed_add_scratch_channels(p->v.shape[3], p->key_map.out, p->v.shape[3]);
    n = heed_add_scratch_channels(n, 1, heed_feature_channels(&p->key_map));
    n = heed_add_scratch_channels(n, 1, heed_feature_channels(&p->query_map));
    return n <= HEED_MAX_SCRATCH_CHANNELS;
}

int64_t heed_linear_carve(linear_scratch *s, char *memory, const linear_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t c = p->key_map.out, dv = p->v.shape[3];
    feature_map both = p->key_map;
    both.widest = heed_larger(both.widest, p->query_map.widest);
    both.widest_rank = heed_larger(both.widest_rank, p->query_map.widest_rank);
    s->total.s = heed_arena_take_floats(&arena, c * dv);
    s->total.z = heed_arena_take_floats(&arena, c);
    s->part.s = heed_arena_take_floats(&arena, c * dv);
    s->part.z = heed_arena_take_floats(&arena, c);
    s->features = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * c);
    s->query_features = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * c);
    s->keys = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * p->k.shape[3]);
    s->values = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * dv);
    s->den = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK);
    s->ones = heed_arena_take_floats(&arena, FEATURE_PANEL);
    s->tile = heed_arena_take_floats(&arena, HEED_LINEAR_CHUNK * HEED_MAX_TILE_LANES);
    s->more = heed_arena_take_floats(&arena, HEED_LINEAR_CHUNK * HEED_MAX_TILE_LANES);
    s->packed = heed_arena_take_floats(&arena, heed_larger(c, FEATURE_PANEL) * HEED_MAX_TILE_LANES);
    s->rows = heed_arena_take_floats(&arena, HEED_MAX_PLAIN_ROWS * dv);
    s->sums = heed_arena_take_floats(&arena, HEED_MAX_PLAIN_ROWS * dv);
    s->weights = heed_arena_take_floats(&arena, HEED_LINEAR_MAX_RECENT);
    heed_feature_scratch_carve(&s->layers, &arena, &both, HEED_LINEAR_BLOCK);
    return arena.bytes;
}

linear_scratch heed_linear_scratch(const linear_job *job, int worker)
{
    linear_scratch s;
    heed_linear_carve(&s, heed_scratch_slice(job->context, worker), job->plan);
    heed_feature_scratch_fill(&s.layers, HEED_LINEAR_BLOCK);
    for (int i = 0; i < FEATURE_PANEL; i++)
        s.ones[i] = 1.0f;
    return s;
}

/* ---- keys and queries ---- */

/* The row of `visible` that hides keys from all queries of a kv head; NULL: none does. */
static const uint8_t *visible_keys(const linear_plan *p, int64_t b, int64_t kv_head)
{
    return p->mask.visible.data ? heed_bool_row(&p->mask.visible, b, kv_head, 0) : NULL;
}

linear_keys heed_linear_keys(const linear_job *job, int64_t b, int64_t kv_head)
{
    const linear_plan *p = job->plan;
    const uint8_t *visible = visible_keys(p, b, kv_head);
    linear_keys keys = {.b = b, .kv_head = kv_head, .ahead = HEED_LINEAR_ROWS_AHEAD};
    keys.phi = heed_feature_head(job->kernels, &p->key_map, kv_head, HEED_FEATURES_OF_KEYS);
    keys.n = heed_key_length(&p->mask, b);
    while (visible && keys.first < keys.n && !visible[keys.first])
        keys.first++;
    return keys;
}

int heed_linear_is_visible(const linear_plan *p, const linear_keys *keys, int64_t j)
{
    const uint8_t *visible = visible_keys(p, keys->b, keys->kv_head);
    return !visible || visible[j];
}

/* Rows of which those behind hidden keys are 0, in `copy`. */
static feature_rows only_visible(feature_rows x, int64_t n_columns, const uint8_t *visible, float *copy)
{
    size_t bytes = (size_t)n_columns * sizeof *copy;
    for (int t = 0; t < x.n; t++) {
        if (visible[t])
            memcpy(copy + t * n_columns, x.x + t * x.stride, bytes);
        else
            memset(copy + t * n_columns, 0, bytes);
    }
    return (feature_rows){.x = copy, .stride = n_columns, .n = x.n};
}

linear_block heed_linear_block(const linear_job *job, const linear_keys *keys, heed_key_range range,
                               const linear_scratch *s, const feature_tape *tape)
{
    const linear_plan *p = job->plan;
    const uint8_t *visible = visible_keys(p, keys->b, keys->kv_head);
    int n = (int)(range.end - range.begin), hides = 0;
    linear_block block = {.features = s->features};
    if (n == 0)
        return block;
    block.k = heed_feature_rows(&p->k, keys->b, keys->kv_head, range.begin, n);
    block.v = heed_feature_rows(&p->v, keys->b, keys->kv_head, range.begin, n);
    for (int t = 0; visible && t < n; t++)
        hides |= !visible[range.begin + t];
    if (hides) {
        block.k = only_visible(block.k, p->k.shape[3], visible + range.begin, s->keys);
        block.v = only_visible(block.v, job->n_values, visible + range.begin, s->values);
    }
    block.k = heed_rows_asking(block.k, keys->ahead, block.v.x, block.v.stride);
    float *features = tape ? heed_features_record(&keys->phi, block.k, tape, &s->layers) : s->features;
    if (!tape)
        heed_features(&keys->phi, block.k, features, &s->layers);
    for (int t = 0; hides && t < n; t++) {
        if (!visible[range.begin + t])
            heed_feature_row_clear(features, job->n_features, n, t);
    }
    block.features = features;
    return block;
}

feature_head heed_linear_query_map(const linear_job *job, int64_t head)
{
    const linear_plan *p = job->plan;
    return heed_feature_head(job->kernels, &p->query_map, p->shared_map ? head / job->group : head,
                             HEED_FEATURES_OF_QUERIES);
}

void heed_linear_queries(const linear_job *job, const feature_head *phi, int64_t b, int64_t head, int64_t i, int n,
                         const linear_scratch *s)
{
    const heed_tensor *q = &job->plan->q, *out = &job->plan->out;
    feature_rows x = heed_feature_rows(q, b, head, i, n);
    heed_features(phi, heed_rows_asking(x, HEED_LINEAR_ROWS_AHEAD, heed_row(out, b, head, i), out->stride[2]),
                  s->query_features, &s->layers);
}

/* ---- sums ---- */

void heed_linear_clear(const linear_job *job, linear_sums sums)
{
    memset(sums.s, 0, (size_t)(job->n_features * job->n_values) * sizeof *sums.s);
    memset(sums.z, 0, (size_t)job->n_features * sizeof *sums.z);
}

void heed_linear_add(const linear_job *job, linear_sums to, linear_sums from)
{
    job->kernels->blend_rows(to.s, to.s, 1.0f, from.s, 1.0f, job->n_features * job->n_values);
    job->kernels->blend_rows(to.z, to.z, 1.0f, from.z, 1.0f, job->n_features);
}

void heed_linear_add_norms(const linear_job *job, float *z, const float *features, int n, const float *ones)
{
    for (int64_t c = 0; c < job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_features, c);
        job->kernels->mix_rows(z + c, width, ones, ones, 0, 0, features + n * c, width, n, 1, width, NULL);
    }
}

void heed_linear_add_block(const linear_job *job, linear_sums sums, const linear_block *block, const linear_scratch *s)
{
    const heed_kernels *kernels = job->kernels;
    int n = block->k.n;
    for (int64_t c = 0; c < job->n_features; c += FEATURE_PANEL) {
        int64_t n_features = heed_panel_width(job->n_features, c);
        const float *features = block->features + n * c;
        for (int64_t d = 0; d < job->n_values; d += FEATURE_PANEL) {
            int64_t width = heed_panel_width(job->n_values, d);
            kernels->mix_rows(heed_panel(sums.s, job->n_features, d) + c * width, width, s->ones, features, 1,
                              n_features, block->v.x + d, block->v.stride, n, (int)n_features, width, NULL);
        }
    }
    heed_linear_add_norms(job, sums.z, block->features, n, s->ones);
}

void heed_linear_add_keys(const linear_job *job, linear_sums sums, const linear_keys *keys, heed_key_range range,
                          const linear_scratch *s)
{
    range.begin = heed_larger(range.begin, keys->first);
    while (!heed_range_is_empty(range)) {
        heed_key_range part = {range.begin, heed_smaller(range.end, range.begin + HEED_LINEAR_BLOCK)};
        linear_block block = heed_linear_block(job, keys, part, s, NULL);
        heed_linear_add_block(job, sums, &block, s);
        range.begin = part.end;
    }
}

void heed_linear_read(const linear_job *job, linear_sums sums, int n, float *out, int64_t out_stride,
                      const linear_scratch *s)
{
    const heed_kernels *kernels = job->kernels;
    for (int t = 0; t < n; t++)
        s->den[t] = job->plan->eps;
    for (int64_t c = 0; c < job->n_features; c += FEATURE_PANEL) {
        int64_t n_features = heed_panel_width(job->n_features, c);
        const float *features = heed_panel(s->query_features, n, c);
        kernels->dot_rows(s->den, features, n_features, sums.z + c, 0, n, n_features);
        for (int64_t d = 0; d < job->n_values; d += FEATURE_PANEL) {
            int64_t width = heed_panel_width(job->n_values, d);
            kernels->mix_rows(out + d, out_stride, c > 0 ? s->layers.ones : NULL, features, n_features, 1,
                              heed_panel(sums.s, job->n_features, d) + c * width, width, (int)n_features, n, width,
                              NULL);
        }
    }
}

void heed_linear_store_nothing(const linear_job *job, int64_t b, int64_t head, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        memset(heed_row(&job->plan->out, b, head, i), 0, (size_t)job->n_values * sizeof(float));
}

/* ---- states ---- */

int heed_linear_has_past(const linear_plan *p, int64_t b) { return p->has_state && p->state.n_tokens[b] > 0; }

void heed_linear_fold(const heed_kernels *kernels, const heed_linear_state *from, const heed_linear_state *to,
                      int64_t b, int64_t kv_head)
{
    const heed_tensor *features = &from->recent_features, *values = &from->recent_values;
    int64_t n_features = to->sums.shape[2], n_values = to->sums.shape[3];
    int n_recent = (int)features->shape[2];
    float ones[FEATURE_PANEL];
    for (int i = 0; i < FEATURE_PANEL; i++)
        ones[i] = 1.0f;
    if (n_recent == 0)
        return;
    for (int64_t c = 0; c < n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(n_features, c);
        const float *columns = heed_row(features, b, kv_head, 0) + c;
        kernels->mix_rows(heed_row(&to->sums, b, kv_head, c), to->sums.stride[2], ones, columns, 1, features->stride[2],
                          heed_row(values, b, kv_head, 0), values->stride[2], n_recent, (int)width, n_values, NULL);
        kernels->mix_rows(heed_row(&to->norms, b, kv_head, 0) + c, 0, ones, ones, 0, 0, columns, features->stride[2],
                          n_recent, 1, width, NULL);
    }
}

void heed_linear_forget_recent(const heed_linear_state *state, int64_t b, int64_t kv_head)
{
    for (int64_t r = 0; r < state->recent_features.shape[2]; r++) {
        memset(heed_row(&state->recent_features, b, kv_head, r), 0,
               (size_t)state->recent_features.shape[3] * sizeof(float));
        memset(heed_row(&state->recent_values, b, kv_head, r), 0,
               (size_t)state->recent_values.shape[3] * sizeof(float));
    }
}

void heed_linear_load(const linear_job *job, const heed_linear_state *state, int64_t b, int64_t kv_head,
                      linear_sums sums)
{
    for (int64_t d = 0; d < job->n_values; d += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_values, d);
        for (int64_t c = 0; c < job->n_features; c++)
            memcpy(heed_panel(sums.s, job->n_features, d) + c * width, heed_row(&state->sums, b, kv_head, c) + d,
                   (size_t)width * sizeof(float));
    }
    memcpy(sums.z, heed_row(&state->norms, b, kv_head, 0), (size_t)job->n_features * sizeof(float));
}

void heed_linear_store(const linear_job *job, const heed_linear_state *state, int64_t b, int64_t kv_head,
                       linear_sums sums)
{
    for (int64_t d = 0; d < job->n_values; d += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_values, d);
        for (int64_t c = 0; c < job->n_features; c++)
            memcpy(heed_row(&state->sums, b, kv_head, c) + d, heed_panel(sums.s, job->n_features, d) + c * width,
                   (size_t)width * sizeof(float));
    }
    memcpy(heed_row(&state->norms, b, kv_head, 0), sums.z, (size_t)job->n_features * sizeof(float));
}

void heed_linear_start(const linear_job *job, int64_t b, int64_t kv_head, linear_sums sums)
{
    const heed_linear_state *state = &job->plan->state;
    if (!job->plan->has_state) {
        heed_linear_clear(job, sums);
        return;
    }
    heed_linear_fold(job->kernels, state, state, b, kv_head);
    heed_linear_forget_recent(state, b, kv_head);
    heed_linear_load(job, state, b, kv_head, sums);
}
