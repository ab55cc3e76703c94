/* Gradients of causal linear attention: forward over the rows with S, back over the keys with dS, in chunks. den_i and e_i,
 * which need S, are kept from the way there, for so many rows as the scratch holds; longer sequences go in segments, from
 * the last one on, and the S that a segment starts with is found again from sums kept at regular places. Nothing is
 * subtracted: that would drift.
 *
 * Within a chunk a row i and a key j that it sees meet in two products, F_i.G_j and do_i.v_j:
 *
 *     den_i += F_i.G_j,   F_i.p_i += (F_i.G_j) (do_i.v_j)
 *     dF_i += w_ij G_j,   dG_j += w_ij F_i,   dv_j += (F_i.G_j) do_i / den_i,   w_ij = do_i.v_j / den_i + e_i */
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/linear_backward_parts.h"
#include "mechanisms/linear_chunk.h"

#include <string.h>

static linear_chunk chunk_at(const backward_walk *w, int64_t first)
{
    return heed_linear_chunk(&w->plan->forward, &w->keys, first, w->n_rows);
}

/* ---- chunks ---- */

static feature_rows features_of(const key_block *keys) { return heed_panel_rows(keys->keys.features, keys->keys.k.n); }

/* tile = F_r.G_j */
static void score(const backward_walk *w, const linear_tile *t, const row_block *rows, const key_block *keys,
                  float *tile)
{
    heed_linear_products(t, heed_panel_rows(rows->f, rows->n), features_of(keys), w->job->n_features, tile, &w->s.base);
}

/* tile = do_r.v_j */
static void score_douts(const backward_walk *w, const linear_tile *t, const row_block *rows, const key_block *keys,
                        float *tile)
{
    heed_linear_products(t, rows->dout, keys->keys.v, w->job->n_values, tile, &w->s.base);
}

/* Where the tile of the rows from `from` on stands. */
static float *tile_at(float *tiles, int from) { return tiles + (int64_t)from * HEED_LINEAR_CHUNK; }

/* The way there: dq of a chunk, den and e of its rows; then its keys join S. */
static void chunk_forward(const backward_walk *w, const linear_chunk *x, float *den, float *slope)
{
    const linear_job *job = w->job;
    const heed_kernels *kernels = job->kernels;
    const backward_scratch *s = &w->s;
    key_block keys = heed_backward_keys(w, x->keys);
    for (int64_t g = 0; g < job->group; g++, den += x->n, slope += x->n) {
        row_block rows = heed_backward_rows(w, w->keys.kv_head * job->group + g, x->first, x->n, 1);
        heed_backward_start_rows(w, &rows, s->base.den);
        for (int r = 0; r < x->n; r += kernels->tile_lanes) {
            linear_tile t = heed_linear_tile(job, x, r);
            float *tile = tile_at(s->base.tile, r);
            score(w, &t, &rows, &keys, s->more_tile);
            score_douts(w, &t, &rows, &keys, tile);
            kernels->dot_tile(s->along + r, tile, s->more_tile, t.ends, t.n_keys, t.n_vectors);
            kernels->prefix_tile(s->more_tile, s->base.den + r, t.ends, t.n_keys, t.n_vectors);
        }
        heed_backward_invert(w, s->base.den, x->n);
        heed_backward_slopes(w, &rows, s->slopes);
        linear_mix mix = heed_linear_mix(job, s->raw, 0, features_of(&keys), job->n_features);
        for (int r = 0; r < x->n; r += kernels->tile_lanes) {
            linear_tile t = heed_linear_tile(job, x, r);
            float *tile = tile_at(s->base.tile, r);
            kernels->weigh_tile(tile, s->inverse + r, s->slopes + r, t.ends, t.n_keys, t.n_vectors);
            heed_linear_mix_keys(&t, &mix, tile, &s->base);
        }
        heed_backward_finish_rows(w, &rows);
        memcpy(den, s->base.den, (size_t)x->n * sizeof *den);
        memcpy(slope, s->slopes, (size_t)x->n * sizeof *slope);
    }
    if (keys.keys.k.n > 0)
        heed_backward_add_block(w, &keys);
}

/* The way back: dk and dv of a chunk; then its rows join dS. */
static void chunk_back(const backward_walk *w, const linear_chunk *x, const float *den, const float *slope)
{
    const linear_job *job = w->job;
    const heed_kernels *kernels = job->kernels;
    const backward_scratch *s = &w->s;
    key_block keys = heed_backward_keys(w, x->keys);
    if (keys.keys.k.n > 0) {
        heed_backward_turn(w);
        heed_backward_start_block(w, &keys);
    }
    for (int64_t g = 0; g < job->group; g++, den += x->n, slope += x->n) {
        row_block rows = heed_backward_rows(w, w->keys.kv_head * job->group + g, x->first, x->n, 0);
        heed_backward_add_rows(w, &rows, den, slope);
        heed_backward_invert(w, den, x->n);
        memcpy(s->slopes, slope, (size_t)x->n * sizeof *slope);
        linear_mix features = heed_linear_mix(job, s->raw, 0, heed_panel_rows(rows.f, rows.n), job->n_features);
        linear_mix douts = heed_linear_mix(job, s->dv, 0, heed_panel_rows(s->douts, rows.n), job->n_values);
        for (int r = 0; r < x->n; r += kernels->tile_lanes) {
            linear_tile t = heed_linear_tile(job, x, r);
            score_douts(w, &t, &rows, &keys, s->base.tile);
            kernels->weigh_tile(s->base.tile, s->inverse + r, s->slopes + r, t.ends, t.n_keys, t.n_vectors);
            heed_linear_mix_rows(&t, &features, s->base.tile, &s->base);
            score(w, &t, &rows, &keys, s->base.tile);
            kernels->prefix_tile(s->base.tile, s->along + r, t.ends, t.n_keys, t.n_vectors);
            heed_linear_mix_rows(&t, &douts, s->base.tile, &s->base);
        }
    }
    if (keys.keys.k.n > 0)
        heed_backward_finish_block(w, &keys);
}

/* ---- segments ---- */

typedef struct segments {
    int64_t rows, n; /* of a segment; of the segments */
    int64_t step;    /* segments from one kept sum to the next */
} segments;

static segments cut_segments(const backward_walk *w)
{
    int64_t rows =
        heed_larger(1, HEED_LINEAR_KEPT_ROWS / (heed_larger(1, w->job->group) * HEED_LINEAR_CHUNK)) * HEED_LINEAR_CHUNK;
    int64_t n = heed_divide_up(w->n_rows - w->first_row, rows);
    return (segments){rows, n, heed_larger(1, heed_divide_up(n, HEED_LINEAR_KEPT_SUMS))};
}

/* The first key behind those that every row of a segment sees. */
static int64_t first_key(const backward_walk *w, const segments *x, int64_t segment)
{
    return chunk_at(w, w->first_row + segment * x->rows).keys.begin;
}

static void copy_sums(const backward_walk *w, linear_sums to, linear_sums from)
{
    memcpy(to.s, from.s, (size_t)(w->job->n_features * w->job->n_values) * sizeof *to.s);
    memcpy(to.z, from.z, (size_t)w->job->n_features * sizeof *to.z);
}

static linear_sums kept_sums(const backward_walk *w, int64_t i)
{
    const linear_sums *kept = &w->s.kept;
    return (linear_sums){kept->s + i * w->job->n_features * w->job->n_values, kept->z + i * w->job->n_features};
}

static void keep_sums(const backward_walk *w, const segments *x)
{
    int64_t summed = 0;
    heed_backward_start_sums(w);
    for (int64_t segment = 0; segment < x->n; segment += x->step) {
        heed_backward_add_keys(w, (heed_key_range){summed, first_key(w, x, segment)});
        summed = first_key(w, x, segment);
        copy_sums(w, kept_sums(w, segment / x->step), w->s.t);
    }
}

static void gradient_of_segment(backward_walk *w, const segments *x, int64_t segment)
{
    int64_t begin = w->first_row + segment * x->rows, end = heed_smaller(w->n_rows, begin + x->rows);
    int64_t kept = segment / x->step, step = HEED_LINEAR_CHUNK, group = w->job->group;
    copy_sums(w, w->s.t, kept_sums(w, kept));
    heed_backward_add_keys(w, (heed_key_range){first_key(w, x, kept * x->step), first_key(w, x, segment)});
    for (int64_t i = begin; i < end; i += step) {
        linear_chunk c = chunk_at(w, i);
        chunk_forward(w, &c, w->s.den + (i - begin) * group, w->s.slope + (i - begin) * group);
    }
    w->keys.ahead = -step;
    for (int64_t i = begin + (end - begin - 1) / step * step; i >= begin; i -= step) {
        linear_chunk c = chunk_at(w, i);
        chunk_back(w, &c, w->s.den + (i - begin) * group, w->s.slope + (i - begin) * group);
    }
    w->keys.ahead = HEED_LINEAR_ROWS_AHEAD;
}

void heed_backward_causal(backward_walk *w)
{
    segments x = cut_segments(w);
    int64_t last = w->first_row + (w->n_rows - w->first_row - 1) / HEED_LINEAR_CHUNK * HEED_LINEAR_CHUNK;
    if (w->first_row >= w->n_rows) {
        heed_backward_finish_keys(w, (heed_key_range){0, w->keys.n});
        return;
    }
    keep_sums(w, &x);
    heed_backward_finish_keys(w, (heed_key_range){chunk_at(w, last).keys.end, w->keys.n});
    for (int64_t segment = x.n - 1; segment >= 0; segment--)
        gradient_of_segment(w, &x, segment);
    heed_backward_finish_keys(w, (heed_key_range){0, first_key(w, &x, 0)});
}
