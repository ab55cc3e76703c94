/* Linear attention where row i sees the keys up to its own position ("Transformers are RNNs", equations 9 to 12), in
 * chunks of rows: with S and z over the keys before the chunk, F = phi(q), G = phi(k) of the chunk,
 *
 *     out = (F S + tril(F G^T) v) / (F z + rowsum(tril(F G^T)) + eps),
 *
 * and then the chunk's keys join the sums. Nothing a row does not see meets it: hidden scores are set to 0, and where a
 * value of the chunk is not finite, so that 0 times it would not be 0, rows stop one by one at their last key. */
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/linear_parts.h"

enum { TILE_ROWS = 6 }; /* rows mixed together (MIX_ROWS of kernels/vec) */

typedef struct chunk_walk {
    const linear_job *job;
    const linear_scratch *s;
    linear_keys keys;
    int64_t first; /* of the rows */
    int n_rows;
    heed_key_range range; /* the chunk's keys: the first row sees at most the first of them */
    linear_block block;
    int finite; /* all its values are */
} chunk_walk;

/* The keys of the block that row t of the chunk sees: the first so many. */
static int seen(const chunk_walk *w, int64_t t)
{
    int64_t end = heed_visible_range(&w->job->plan->mask, w->keys.b, w->first + t).end;
    return (int)heed_larger(0, heed_smaller(end, w->range.end) - w->range.begin);
}

/* tile[j][r] = phi(q_r).phi(k_j) for rows first .. first + n of the chunk and the n_keys first keys of the block. Keys
 * behind the first vectors of rows are left out there. */
static void score_tile(const chunk_walk *w, int first, int n, int n_keys)
{
    const linear_job *job = w->job;
    const heed_kernels *kernels = job->kernels;
    const linear_scratch *s = w->s;
    int lanes = kernels->vector_lanes, n_vectors = (int)heed_divide_up(n, lanes);
    const float *rows[HEED_MAX_TILE_LANES];
    for (int64_t c = 0; c < job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(job->n_features, c);
        float *packed = s->packed + c * kernels->tile_lanes;
        for (int r = 0; r < n; r++)
            rows[r] = heed_panel(s->query_features, w->n_rows, c) + (first + r) * width;
        kernels->pack_tile(packed, rows, n, width, 1.0f);
        for (int vector = 0, j = 0; vector < n_vectors && j < n_keys; vector++) {
            int last = (int)heed_smaller(n, (vector + 1) * lanes) - 1;
            int end = vector == n_vectors - 1 ? n_keys : (int)heed_smaller(n_keys, seen(w, first + last));
            float *tile = (c > 0 ? s->more : s->tile) + (int64_t)j * kernels->tile_lanes + vector * lanes;
            if (end > j)
                kernels->scores_tile(tile, packed + vector * lanes, w->block.features + w->block.n * c + j * width,
                                     width, end - j, width, n_vectors - vector);
            j = end > j ? end : j;
        }
        if (c > 0)
            kernels->blend_rows(s->tile, s->tile, 1.0f, s->more, 1.0f, (int64_t)n_keys * kernels->tile_lanes);
    }
}

/* out += tril(F G^T) v for rows first .. first + n of the chunk, and den likewise. */
static void add_tile(const chunk_walk *w, int first, int n, float *out, int64_t out_stride)
{
    const linear_job *job = w->job;
    const heed_kernels *kernels = job->kernels;
    const linear_scratch *s = w->s;
    int n_keys = seen(w, first + n - 1), lanes = kernels->tile_lanes;
    int n_vectors = (int)heed_divide_up(n, kernels->vector_lanes);
    if (n_keys == 0)
        return;
    score_tile(w, first, n, n_keys);
    for (int r = 0; r < n_vectors * kernels->vector_lanes; r++) {
        s->ends[r] = r < n ? (float)seen(w, first + r) : 0.0f;
        s->row_sums[r] = 0.0f;
    }
    kernels->prefix_tile(s->tile, s->row_sums, s->ends, n_keys, n_vectors);
    for (int r = 0; r < n; r++)
        s->den[first + r] += s->row_sums[r];
    int together = w->finite ? TILE_ROWS : 1;
    for (int r = 0; r < n; r += together) {
        int n_rows = (int)heed_smaller(together, n - r);
        kernels->mix_rows(out + r * out_stride, out_stride, s->layers.ones, s->tile + r, 1, lanes, w->block.values,
                          w->block.values_stride, (int)s->ends[r + n_rows - 1], n_rows, job->n_values, NULL, 0);
    }
}

static void attend_rows(const chunk_walk *w, int64_t head)
{
    const linear_job *job = w->job;
    const linear_plan *p = job->plan;
    const linear_scratch *s = w->s;
    feature_head phi = heed_linear_query_map(job, head);
    float *out = heed_row(&p->out, w->keys.b, head, w->first);
    int64_t stride = p->out.stride[2];
    heed_linear_queries(job, &phi, w->keys.b, head, w->first, w->n_rows, s);
    heed_linear_read(job, s->total, w->n_rows, out, stride, s);
    for (int r = 0; r < w->n_rows; r += job->kernels->tile_lanes)
        add_tile(w, r, (int)heed_smaller(w->n_rows - r, job->kernels->tile_lanes), out + r * stride, stride);
    job->kernels->divide_rows(out, stride, s->den, w->n_rows, job->n_values);
    for (int t = 0; t < w->n_rows && !heed_linear_has_past(p, w->keys.b); t++) {
        if (heed_visible_range(&p->mask, w->keys.b, w->first + t).end > w->keys.first)
            break;
        heed_linear_store_nothing(job, w->keys.b, head, w->first + t, w->first + t + 1);
    }
}

heed_key_range heed_linear_chunk_keys(const linear_plan *p, const linear_keys *keys, int64_t first, int n_rows)
{
    int64_t own =
        first - heed_position_offset(&p->mask, keys->b) + p->mask.right; /* the last key that row first sees */
    int64_t begin = heed_smaller(heed_larger(own, 0), keys->n);
    return (heed_key_range){begin, heed_smaller(heed_larger(own + n_rows, begin), keys->n)};
}

void heed_linear_causal_task(void *argument, int64_t index, int worker)
{
    const linear_job *job = argument;
    const linear_plan *p = job->plan;
    int64_t b = index / p->k.shape[1], kv_head = index % p->k.shape[1];
    linear_scratch s = heed_linear_scratch(job, worker);
    chunk_walk w = {.job = job, .s = &s, .keys = heed_linear_keys(job, b, kv_head)};
    int64_t n_rows = heed_query_length(&p->mask, b), summed = 0;
    heed_linear_start(job, b, kv_head, s.total);
    for (w.first = 0; w.first < n_rows; w.first += HEED_LINEAR_CHUNK) {
        w.n_rows = (int)heed_smaller(n_rows - w.first, HEED_LINEAR_CHUNK);
        w.range = heed_linear_chunk_keys(p, &w.keys, w.first, w.n_rows);
        heed_linear_add_keys(job, s.total, &w.keys, (heed_key_range){summed, w.range.begin}, &s);
        w.block = (linear_block){0};
        if (!heed_range_is_empty(w.range)) {
            w.block = heed_linear_block(job, &w.keys, w.range, &s);
            w.finite = job->kernels->finite_rows(w.block.values, w.block.values_stride, w.block.n, job->n_values);
        }
        for (int64_t g = 0; g < job->group; g++)
            attend_rows(&w, kv_head * job->group + g);
        if (w.block.n > 0)
            heed_linear_add_block(job, s.total, &w.block, &s);
        summed = w.range.end;
    }
    if (p->has_state) {
        heed_linear_add_keys(job, s.total, &w.keys, (heed_key_range){summed, w.keys.n}, &s);
        heed_linear_store(job, &p->state, b, kv_head, s.total);
    }
    for (int64_t g = 0; g < job->group; g++)
        heed_linear_store_nothing(job, b, kv_head * job->group + g, n_rows, p->q.shape[2]);
}
