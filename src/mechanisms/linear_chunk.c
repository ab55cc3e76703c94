#include "mechanisms/linear_chunk.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

enum { TILE_ROWS = 6 }; /* rows mixed together (MIX_ROWS of kernels/vec) */

_Static_assert((int)HEED_LINEAR_CHUNK <= (int)HEED_MAX_TILE_LANES, "a chunk has its ends in one array");

linear_chunk heed_linear_chunk(const linear_plan *p, const linear_keys *keys, int64_t first, int64_t end)
{
    linear_chunk x = {.first = first, .n = (int)heed_smaller(end - first, HEED_LINEAR_CHUNK)};
    int64_t own =
        first - heed_position_offset(&p->mask, keys->b) + p->mask.right; /* the last key that row first sees */
    x.keys.begin = heed_smaller(heed_larger(own, 0), keys->n);
    x.keys.end = heed_smaller(heed_larger(own + x.n, x.keys.begin), keys->n);
    for (int t = 0; t < x.n; t++)
        x.ends[t] = (float)(heed_smaller(heed_larger(own + t + 1, x.keys.begin), x.keys.end) - x.keys.begin);
    return x;
}

linear_tile heed_linear_tile(const linear_job *job, const linear_chunk *chunk, int from)
{
    linear_tile t = {.job = job, .chunk = chunk, .from = from, .ends = chunk->ends + from};
    t.n = (int)heed_smaller(chunk->n - from, job->kernels->tile_lanes);
    t.n_keys = (int)t.ends[t.n - 1];
    t.n_vectors = (int)heed_divide_up(t.n, job->kernels->vector_lanes);
    return t;
}

/* Later keys are seen by the later vectors of rows only. */
void heed_linear_products(const linear_tile *t, feature_rows a, feature_rows b, int64_t n_columns, float *tile,
                          const linear_scratch *s)
{
    const heed_kernels *kernels = t->job->kernels;
    int lanes = kernels->vector_lanes;
    const float *rows[HEED_MAX_TILE_LANES];
    for (int64_t c = 0; t->n_keys > 0 && c < n_columns; c += FEATURE_PANEL) {
        int64_t a_stride, b_stride, width = heed_panel_width(n_columns, c);
        const float *from = heed_feature_columns(a, n_columns, c, &a_stride) + t->from * a_stride;
        const float *keys = heed_feature_columns(b, n_columns, c, &b_stride);
        float *part = c > 0 ? s->more : tile;
        for (int r = 0; r < t->n; r++)
            rows[r] = from + r * a_stride;
        kernels->pack_tile(s->packed, rows, t->n, width, 1.0f);
        for (int vector = 0, j = 0; j < t->n_keys; vector++) {
            int end = (int)t->ends[heed_smaller(t->n, (vector + 1) * lanes) - 1];
            if (end > j)
                kernels->scores_tile(part + (int64_t)j * kernels->tile_lanes + vector * lanes,
                                     s->packed + vector * lanes, keys + j * b_stride, b_stride, end - j, width,
                                     t->n_vectors - vector, NULL, 0);
            j = end;
        }
        if (c > 0)
            kernels->blend_rows(tile, tile, 1.0f, part, 1.0f, (int64_t)t->n_keys * kernels->tile_lanes);
    }
}

linear_mix heed_linear_mix(const linear_job *job, float *o, int64_t stride, feature_rows e, int64_t n_columns)
{
    int finite = e.in_panels ? job->kernels->finite_rows(e.x, n_columns, e.n, n_columns) /* all of it, in any order */
                             : job->kernels->finite_rows(e.x, e.stride, e.n, n_columns);
    return (linear_mix){o, stride, e, n_columns, finite};
}

/* Rows o_first .. of o, n of them, whose weights lie at `weights`, row_step and term_step apart; terms e_first .. */
static void add_terms(const linear_tile *t, const linear_mix *x, int64_t o_rows, int o_first, int n,
                      const float *weights, int64_t row_step, int64_t term_step, int e_first, int n_terms,
                      const linear_scratch *s)
{
    for (int64_t c = 0; n_terms > 0 && c < x->n_columns; c += FEATURE_PANEL) {
        int64_t e_stride, width = heed_panel_width(x->n_columns, c);
        const float *e = heed_feature_columns(x->e, x->n_columns, c, &e_stride);
        int64_t o_stride = x->stride ? x->stride : width;
        float *o = x->stride ? x->o + c : heed_panel(x->o, o_rows, c);
        t->job->kernels->mix_rows(o + o_first * o_stride, o_stride, s->layers.ones, weights, row_step, term_step,
                                  e + e_first * e_stride, e_stride, n_terms, n, width, NULL);
    }
}

void heed_linear_mix_keys(const linear_tile *t, const linear_mix *x, const float *tile, const linear_scratch *s)
{
    int lanes = t->job->kernels->tile_lanes, together = x->finite ? TILE_ROWS : 1;
    for (int r = 0; r < t->n; r += together) {
        int n = (int)heed_smaller(together, t->n - r);
        add_terms(t, x, t->chunk->n, t->from + r, n, tile + r, 1, lanes, 0, (int)t->ends[r + n - 1], s);
    }
}

void heed_linear_mix_rows(const linear_tile *t, const linear_mix *x, const float *tile, const linear_scratch *s)
{
    int64_t n_keys = t->chunk->keys.end - t->chunk->keys.begin;
    int lanes = t->job->kernels->tile_lanes, together = x->finite ? TILE_ROWS : 1;
    for (int j = 0, r = 0; j < t->n_keys; j += together) {
        while ((int)t->ends[r] <= j)
            r++;
        add_terms(t, x, n_keys, j, (int)heed_smaller(together, t->n_keys - j), tile + j * lanes + r, lanes, 1,
                  t->from + r, t->n - r, s);
    }
}
