/* Gradients of linear attention. With F = phi(q), G = phi(k), S_i and z_i the sums over the keys that row i sees,
 * den_i = F_i z_i + eps, and p_i = S_i do_i:
 *
 *     dF_i = p_i / den_i + e_i z_i,          e_i = -(F_i.p_i) / den_i^2     (the gradient of den_i; o_i is not needed)
 *     dG_j = dS_j v_j + dz_j,  dv_j = dS_j^T G_j
 *     dS_j = sum_i F_i^T do_i / den_i,  dz_j = sum_i e_i F_i                over the rows i that see key j,
 *                                      and the gradient of the state behind ("Transformers are RNNs", equations 13 to 15)
 *
 * then through phi. Where every row sees all keys, S comes first, then all rows, then all keys. Causal: forward over the
 * rows with S, back over the keys with dS, in chunks. den_i and e_i, which need S, are kept from the way there, for so many
 * rows as the scratch holds; longer sequences go in segments, from the last one on, and the S that a segment starts with
 * is found again from sums kept at regular places. Nothing is subtracted: that would drift. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/linear_parts.h"

#include <math.h>
#include <string.h>

typedef struct backward_scratch {
    linear_scratch base;
    feature_tape keys, queries;
    linear_sums t, ds, kept; /* S^T [Dv][C] and z; dS [C][Dv] and dz; kept: [HEED_LINEAR_KEPT_SUMS] of S^T and z */
    float *ds_transposed;    /* [Dv][C] */
    float *raw;              /* p, then dF, or dG: [HEED_LINEAR_BLOCK][C], in panels */
    float *douts;            /* do / den [HEED_LINEAR_BLOCK][Dv], in panels */
    float *dv;               /* [HEED_LINEAR_BLOCK][Dv], in panels */
    float *rows;             /* k of keys some of which are hidden [HEED_LINEAR_BLOCK][D] */
    float *run;              /* [C]: z_i, or dz_j, from row to row */
    float *inverse, *slope;  /* 1 / den and e [HEED_LINEAR_KEPT_ROWS], or of a block */
} backward_scratch;

typedef struct backward_job {
    linear_job job;
    const linear_backward_plan *plan;
    int64_t first_head; /* of the tasks that are under way */
} backward_job;

/* What one task works on. */
typedef struct backward_walk {
    const linear_job *job;
    const linear_backward_plan *plan;
    backward_scratch s;
    linear_keys keys;
    int64_t first_row, n_rows; /* rows that count and see a key: [first_row, n_rows) */
    int64_t *transposed;       /* the head whose matrices the tape of queries holds; -1: none */
} backward_walk;

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
    s->rows = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * p->k.shape[3]);
    s->run = heed_arena_take_floats(&arena, c);
    s->inverse = heed_arena_take_floats(&arena, HEED_LINEAR_KEPT_ROWS);
    s->slope = heed_arena_take_floats(&arena, HEED_LINEAR_KEPT_ROWS);
    return arena.bytes;
}

int64_t heed_linear_backward_worker_bytes(const linear_backward_plan *plan)
{
    backward_scratch s;
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

/* ---- blocks of keys ---- */

typedef struct key_block {
    heed_key_range range;
    feature_rows k, v;
    const float *g; /* phi(k), in panels */
} key_block;

static int is_visible(const backward_walk *w, int64_t j)
{
    const heed_tensor *visible = &w->plan->forward.mask.visible;
    return !visible->data || heed_bool_row(visible, w->keys.b, w->keys.kv_head, 0)[j];
}

/* The keys with phi recorded; hidden ones are replaced by zeros, and their phi too. */
static key_block take_keys(const backward_walk *w, heed_key_range range)
{
    const linear_plan *p = &w->plan->forward;
    const backward_scratch *s = &w->s;
    int n = (int)(range.end - range.begin), hides = 0;
    int64_t d = p->k.shape[3], dv = p->v.shape[3];
    key_block block = {.range = range};
    block.k = heed_feature_rows(&p->k, w->keys.b, w->keys.kv_head, range.begin, n);
    block.v = heed_feature_rows(&p->v, w->keys.b, w->keys.kv_head, range.begin, n);
    for (int t = 0; t < n; t++)
        hides |= !is_visible(w, range.begin + t);
    for (int t = 0; hides && t < n; t++) {
        int shown = is_visible(w, range.begin + t);
        for (int64_t c = 0; c < d; c++)
            s->rows[t * d + c] = shown ? block.k.x[t * block.k.stride + c] : 0.0f;
        for (int64_t c = 0; c < dv; c++)
            s->base.values[t * dv + c] = shown ? block.v.x[t * block.v.stride + c] : 0.0f;
    }
    if (hides) {
        block.k = (feature_rows){.x = s->rows, .stride = d, .n = n};
        block.v = (feature_rows){.x = s->base.values, .stride = dv, .n = n};
    }
    float *g = heed_features_record(&w->keys.phi, block.k, &s->keys, &s->base.layers);
    for (int t = 0; hides && t < n; t++) {
        if (!is_visible(w, range.begin + t))
            heed_feature_row_clear(g, w->job->n_features, n, t);
    }
    block.g = g;
    return block;
}

/* S^T += v^T G, z += G */
static void add_block(const backward_walk *w, const key_block *block)
{
    const linear_job *job = w->job;
    const linear_sums t = w->s.t;
    const float *ones = w->s.base.layers.ones;
    heed_feature_outer(job->kernels, block->v, job->n_values, block->g, job->n_features, t.s, job->n_features, ones);
    heed_linear_add_norms(job, t.z, block->g, block->v.n, ones);
}

static void add_keys(const backward_walk *w, heed_key_range range)
{
    range.begin = heed_larger(range.begin, w->keys.first);
    for (; !heed_range_is_empty(range); range.begin += HEED_LINEAR_BLOCK) {
        key_block block =
            take_keys(w, (heed_key_range){range.begin, heed_smaller(range.end, range.begin + HEED_LINEAR_BLOCK)});
        add_block(w, &block);
    }
}

static void start_sums(const backward_walk *w)
{
    const linear_job *job = w->job;
    const linear_plan *p = &w->plan->forward;
    const linear_sums t = w->s.t;
    memset(t.s, 0, (size_t)(job->n_features * job->n_values) * sizeof *t.s);
    memset(t.z, 0, (size_t)job->n_features * sizeof *t.z);
    if (p->has_state) {
        heed_transpose(heed_row(&p->state.sums, w->keys.b, w->keys.kv_head, 0), p->state.sums.stride[2],
                       job->n_features, job->n_values, t.s);
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

/* From dG in s.raw and dv in s.dv: the gradients of a block of keys, and of their map. */
static void finish_keys(const backward_walk *w, const key_block *block)
{
    const backward_scratch *s = &w->s;
    int n = block->k.n;
    for (int t = 0; t < n; t++) {
        if (!is_visible(w, block->range.begin + t)) {
            heed_feature_row_clear(s->raw, w->job->n_features, n, t);
            heed_feature_row_clear(s->dv, w->job->n_values, n, t);
        }
    }
    store_rows(w, &w->plan->dv, w->keys.kv_head, block->range.begin, s->dv, n);
    const float *dk =
        heed_features_gradient(&w->keys.phi, block->k, s->raw, &s->keys, &w->plan->key_map, &s->base.layers);
    store_rows(w, &w->plan->dk, w->keys.kv_head, block->range.begin, dk, n);
}

/* dG = v dS^T + dz, dv = G dS: what the rows behind a block of keys, and the state, give it. */
static void start_keys(const backward_walk *w, const key_block *block)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    int n = block->k.n;
    heed_feature_product(job->kernels, block->v, job->n_values, s->ds_transposed, job->n_features, job->n_features,
                         s->raw, s->base.layers.ones, 0);
    heed_feature_product(job->kernels, heed_panel_rows(block->g, n), job->n_features, s->ds.s, job->n_values,
                         job->n_values, s->dv, s->base.layers.ones, 0);
}

/* A row in panels += weight x */
static void add_to_row(const backward_walk *w, float *matrix, int n, int t, const float *x, float weight)
{
    for (int64_t c = 0; c < w->job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(w->job->n_features, c);
        float *row = heed_panel(matrix, n, c) + t * width;
        w->job->kernels->blend_rows(row, row, 1.0f, x + c, weight, width);
    }
}

/* x += weight times a row in panels */
static void add_row_to(const backward_walk *w, float *x, const float *matrix, int n, int t, float weight)
{
    for (int64_t c = 0; c < w->job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(w->job->n_features, c);
        w->job->kernels->blend_rows(x + c, x + c, 1.0f, matrix + n * c + t * width, weight, width);
    }
}

/* Keys that all the rows taken so far see. */
static void gradient_of_keys(const backward_walk *w, heed_key_range range)
{
    store_zeros(w, &w->plan->dk, w->keys.kv_head, range.begin, heed_smaller(range.end, w->keys.first));
    store_zeros(w, &w->plan->dv, w->keys.kv_head, range.begin, heed_smaller(range.end, w->keys.first));
    range.begin = heed_larger(range.begin, w->keys.first);
    for (; !heed_range_is_empty(range); range.begin += HEED_LINEAR_BLOCK) {
        key_block block =
            take_keys(w, (heed_key_range){range.begin, heed_smaller(range.end, range.begin + HEED_LINEAR_BLOCK)});
        start_keys(w, &block);
        for (int t = 0; t < block.k.n; t++)
            add_to_row(w, w->s.raw, block.k.n, t, w->s.ds.z, 1.0f);
        finish_keys(w, &block);
    }
}

/* ---- blocks of rows ---- */

typedef struct row_block {
    int64_t head, first;
    int n;
    feature_head phi;
    feature_rows q, dout;
    const float *f; /* phi(q), in panels */
} row_block;

static row_block take_rows(const backward_walk *w, int64_t head, int64_t first, int n, int record)
{
    const linear_plan *p = &w->plan->forward;
    row_block block = {.head = head, .first = first, .n = n, .phi = heed_linear_query_map(w->job, head)};
    block.q = heed_feature_rows(&p->q, w->keys.b, head, first, n);
    block.dout = heed_feature_rows(&w->plan->dout, w->keys.b, head, first, n);
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

/* p = do S^T */
static void start_rows(const backward_walk *w, const row_block *block)
{
    const linear_job *job = w->job;
    heed_feature_product(job->kernels, block->dout, job->n_values, w->s.t.s, job->n_features, job->n_features, w->s.raw,
                         w->s.base.layers.ones, 0);
}

static float dot_in_panels(const backward_walk *w, const float *matrix, int n, int t, const float *x, int x_in_panels)
{
    float sum = 0.0f;
    for (int64_t c = 0; c < w->job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(w->job->n_features, c);
        w->job->kernels->dot_rows(&sum, matrix + n * c + t * width, 0, x_in_panels ? x + n * c + t * width : x + c, 0,
                                  1, width);
    }
    return sum;
}

/* Row t: 1 / den and e from F, p and z, which is `z`; then dF in the place of p. */
static void row_gradient(const backward_walk *w, const row_block *block, int t, const float *z, float *inverse,
                         float *slope)
{
    const backward_scratch *s = &w->s;
    float den = w->plan->forward.eps + dot_in_panels(w, block->f, block->n, t, z, 0);
    float along = dot_in_panels(w, block->f, block->n, t, s->raw, 1);
    *inverse = fabsf(den) < 1.175494351e-38f ? 0.0f : 1.0f / den;
    *slope = -(along * *inverse) * *inverse;
    for (int64_t c = 0; c < w->job->n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(w->job->n_features, c);
        float *row = heed_panel(s->raw, block->n, c) + t * width;
        w->job->kernels->blend_rows(row, row, *inverse, z + c, *slope, width);
    }
}

/* From dF in s.raw: dq, and what the rows give their map. */
static void finish_rows(const backward_walk *w, const row_block *block)
{
    const linear_backward_plan *plan = w->plan;
    const feature_gradients *map = plan->forward.shared_map ? &plan->key_map : &plan->query_map;
    const float *dq = heed_features_gradient(&block->phi, block->q, w->s.raw, &w->s.queries, map, &w->s.base.layers);
    store_rows(w, &plan->dq, block->head, block->first, dq, block->n);
}

/* do / den, in panels */
static void scale_douts(const backward_walk *w, const row_block *block, const float *inverse)
{
    for (int64_t c = 0; c < w->job->n_values; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(w->job->n_values, c);
        for (int t = 0; t < block->n; t++)
            w->job->kernels->blend_rows(heed_panel(w->s.douts, block->n, c) + t * width,
                                        block->dout.x + t * block->dout.stride + c, inverse[t],
                                        block->dout.x + t * block->dout.stride + c, 0.0f, width);
    }
}

/* dS += F^T do / den */
static void add_rows(const backward_walk *w, const row_block *block)
{
    const linear_job *job = w->job;
    heed_feature_outer(job->kernels, heed_panel_rows(block->f, block->n), job->n_features, w->s.douts, job->n_values,
                       w->s.ds.s, job->n_values, w->s.base.layers.ones);
}

/* ---- every row sees every key ---- */

static void gradient_of_all(backward_walk *w)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    start_sums(w);
    add_keys(w, (heed_key_range){0, w->keys.n});
    for (int64_t g = 0; g < job->group; g++) {
        for (int64_t i = w->first_row; i < w->n_rows; i += HEED_LINEAR_BLOCK) {
            row_block block = take_rows(w, w->keys.kv_head * job->group + g, i,
                                        (int)heed_smaller(w->n_rows - i, HEED_LINEAR_BLOCK), 1);
            start_rows(w, &block);
            for (int t = 0; t < block.n; t++) {
                row_gradient(w, &block, t, s->t.z, &s->inverse[t], &s->slope[t]);
                add_row_to(w, s->ds.z, block.f, block.n, t, s->slope[t]);
            }
            scale_douts(w, &block, s->inverse);
            add_rows(w, &block);
            finish_rows(w, &block);
        }
    }
    heed_transpose(s->ds.s, job->n_values, job->n_features, job->n_values, s->ds_transposed);
    gradient_of_keys(w, (heed_key_range){0, w->keys.n});
}

/* ---- causal ---- */

/* Rows of a chunk, and the keys behind those that every one of them sees. */
typedef struct chunk {
    int64_t first;
    int n;
    heed_key_range keys;
} chunk;

static chunk chunk_at(const backward_walk *w, int64_t first)
{
    chunk x = {.first = first, .n = (int)heed_smaller(w->n_rows - first, HEED_LINEAR_CHUNK)};
    x.keys = heed_linear_chunk_keys(&w->plan->forward, &w->keys, first, x.n);
    return x;
}

/* The keys of the chunk that its row t sees: the first so many. */
static int seen(const backward_walk *w, const chunk *x, int t)
{
    int64_t end = heed_visible_range(&w->plan->forward.mask, w->keys.b, x->first + t).end;
    return (int)heed_larger(0, heed_smaller(end, x->keys.end) - x->keys.begin);
}

/* tile[j][r] = a_r.b_j for rows first .. first + n of a and all keys b, 0 where row r does not see key j. Both have
 * n_columns; a in panels or not, b likewise. */
static void visible_products(const backward_walk *w, const chunk *x, int first, int n, feature_rows a, feature_rows b,
                             int64_t n_columns)
{
    const heed_kernels *kernels = w->job->kernels;
    const linear_scratch *s = &w->s.base;
    int n_vectors = (int)heed_divide_up(n, kernels->vector_lanes);
    const float *rows[HEED_MAX_TILE_LANES];
    for (int64_t c = 0; c < n_columns; c += FEATURE_PANEL) {
        int64_t a_stride, b_stride, width = heed_panel_width(n_columns, c);
        const float *from = heed_feature_columns(a, n_columns, c, &a_stride);
        const float *keys = heed_feature_columns(b, n_columns, c, &b_stride);
        float *tile = c > 0 ? s->more : s->tile;
        for (int r = 0; r < n; r++)
            rows[r] = from + (first + r) * a_stride;
        kernels->pack_tile(s->packed, rows, n, width, 1.0f);
        kernels->scores_tile(tile, s->packed, keys, b_stride, b.n, width, n_vectors);
        if (c > 0)
            kernels->blend_rows(s->tile, s->tile, 1.0f, s->more, 1.0f, (int64_t)b.n * kernels->tile_lanes);
    }
    for (int r = 0; r < n_vectors * kernels->vector_lanes; r++) {
        s->ends[r] = r < n ? (float)seen(w, x, first + r) : 0.0f;
        s->row_sums[r] = 0.0f;
    }
    kernels->prefix_tile(s->tile, s->row_sums, s->ends, b.n, n_vectors);
}

/* Whether a matrix in panels is finite, so that 0 times it is 0. */
static int is_finite(const backward_walk *w, const float *matrix, int n, int64_t n_columns)
{
    return w->job->kernels->finite_rows(matrix, n_columns, n, n_columns); /* all of it, in any order */
}

/* o += tile e, in panels: for each row of o its terms are rows of e. */
typedef struct tile_sum {
    float *o;
    int o_rows; /* of the whole matrix */
    const float *e;
    int e_rows;
    int64_t n_columns;
} tile_sum;

/* Rows o_first .. of o, n of them, whose weights lie at `p`, row_step and term_step apart; terms e_first .. */
static void add_terms(const backward_walk *w, const tile_sum *x, int o_first, int n, const float *p, int64_t row_step,
                      int64_t term_step, int e_first, int n_terms)
{
    for (int64_t c = 0; c < x->n_columns; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(x->n_columns, c);
        w->job->kernels->mix_rows(heed_panel(x->o, x->o_rows, c) + o_first * width, width, w->s.base.layers.ones, p,
                                  row_step, term_step, x->e + x->e_rows * c + e_first * width, width, n_terms, n, width,
                                  NULL, 0);
    }
}

/* Rows first .. first + n of the chunk take from its keys. */
static void add_to_rows(const backward_walk *w, const tile_sum *x, int first, int n)
{
    const float *tile = w->s.base.tile;
    int64_t lanes = w->job->kernels->tile_lanes;
    if (is_finite(w, x->e, x->e_rows, x->n_columns)) {
        add_terms(w, x, first, n, tile, 1, lanes, 0, x->e_rows);
        return;
    }
    for (int r = 0; r < n; r++)
        add_terms(w, x, first + r, 1, tile + r, 1, lanes, 0, (int)w->s.base.ends[r]);
}

/* The keys of the chunk take from its rows first .. first + n. */
static void add_to_keys(const backward_walk *w, const tile_sum *x, int first, int n)
{
    const float *tile = w->s.base.tile;
    int64_t lanes = w->job->kernels->tile_lanes;
    if (is_finite(w, x->e, x->e_rows, x->n_columns)) {
        add_terms(w, x, 0, x->o_rows, tile, lanes, 1, first, n);
        return;
    }
    for (int j = 0, r = 0; j < x->o_rows; j++) {
        while (r < n && (int)w->s.base.ends[r] <= j)
            r++;
        add_terms(w, x, j, 1, tile + j * lanes + r, lanes, 1, first + r, n - r);
    }
}

/* The way there: dq of a chunk, 1 / den and e of its rows; then its keys join S. */
static void chunk_forward(const backward_walk *w, const chunk *x, float *inverse, float *slope)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    int has_keys = !heed_range_is_empty(x->keys);
    key_block keys = {.k.n = 0};
    if (has_keys)
        keys = take_keys(w, x->keys);
    for (int64_t g = 0; g < job->group; g++, inverse += x->n, slope += x->n) {
        row_block block = take_rows(w, w->keys.kv_head * job->group + g, x->first, x->n, 1);
        start_rows(w, &block);
        for (int r = 0; has_keys && r < x->n; r += job->kernels->tile_lanes) {
            int n = (int)heed_smaller(x->n - r, job->kernels->tile_lanes);
            visible_products(w, x, r, n, block.dout, keys.v, job->n_values);
            add_to_rows(w, &(tile_sum){s->raw, x->n, keys.g, keys.k.n, job->n_features}, r, n);
        }
        memcpy(s->run, s->t.z, (size_t)job->n_features * sizeof *s->run);
        for (int t = 0, j = 0; t < x->n; t++) {
            for (; has_keys && j < seen(w, x, t); j++)
                add_row_to(w, s->run, keys.g, keys.k.n, j, 1.0f);
            row_gradient(w, &block, t, s->run, &inverse[t], &slope[t]);
        }
        finish_rows(w, &block);
    }
    if (has_keys)
        add_block(w, &keys);
}

/* The way back: dk and dv of a chunk; then its rows join dS. */
static void chunk_back(const backward_walk *w, const chunk *x, const float *inverse, const float *slope)
{
    const linear_job *job = w->job;
    const backward_scratch *s = &w->s;
    int has_keys = !heed_range_is_empty(x->keys), lanes = job->kernels->tile_lanes;
    key_block keys = {.k.n = 0};
    if (has_keys) {
        keys = take_keys(w, x->keys);
        start_keys(w, &keys);
        for (int j = 0; j < keys.k.n; j++)
            add_to_row(w, s->raw, keys.k.n, j, s->ds.z, 1.0f);
    }
    for (int64_t g = 0; g < job->group; g++, inverse += x->n, slope += x->n) {
        row_block block = take_rows(w, w->keys.kv_head * job->group + g, x->first, x->n, 0);
        feature_rows douts = heed_panel_rows(s->douts, x->n), f = heed_panel_rows(block.f, x->n);
        scale_douts(w, &block, inverse);
        for (int r = 0; has_keys && r < x->n; r += lanes) {
            int n = (int)heed_smaller(x->n - r, lanes);
            visible_products(w, x, r, n, douts, keys.v, job->n_values);
            add_to_keys(w, &(tile_sum){s->raw, keys.k.n, block.f, x->n, job->n_features}, r, n);
            visible_products(w, x, r, n, f, heed_panel_rows(keys.g, keys.k.n), job->n_features);
            add_to_keys(w, &(tile_sum){s->dv, keys.k.n, s->douts, x->n, job->n_values}, r, n);
        }
        memset(s->run, 0, (size_t)job->n_features * sizeof *s->run);
        for (int j = keys.k.n - 1, t = x->n - 1; j >= 0; j--) { /* rows that see key j */
            for (; t >= 0 && seen(w, x, t) > j; t--)
                add_row_to(w, s->run, block.f, x->n, t, slope[t]);
            add_to_row(w, s->raw, keys.k.n, j, s->run, 1.0f);
        }
        for (int t = 0; t < x->n; t++)
            add_row_to(w, s->ds.z, block.f, x->n, t, slope[t]);
        add_rows(w, &block);
        heed_feature_outer(job->kernels, douts, job->n_values, block.f, job->n_features, s->ds_transposed,
                           job->n_features, s->base.layers.ones);
    }
    if (has_keys)
        finish_keys(w, &keys);
}

/* ---- segments ---- */

typedef struct segments {
    int64_t rows, n; /* of a segment; of the segments */
    int64_t step;    /* segments from one kept sum to the next */
} segments;

static segments cut_segments(const backward_walk *w)
{
    int64_t rows = heed_larger(1, HEED_LINEAR_KEPT_ROWS / (w->job->group * HEED_LINEAR_CHUNK)) * HEED_LINEAR_CHUNK;
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
    start_sums(w);
    for (int64_t segment = 0; segment < x->n; segment += x->step) {
        add_keys(w, (heed_key_range){summed, first_key(w, x, segment)});
        summed = first_key(w, x, segment);
        copy_sums(w, kept_sums(w, segment / x->step), w->s.t);
    }
}

static void gradient_of_segment(const backward_walk *w, const segments *x, int64_t segment)
{
    int64_t begin = w->first_row + segment * x->rows, end = heed_smaller(w->n_rows, begin + x->rows);
    int64_t kept = segment / x->step, step = HEED_LINEAR_CHUNK, group = w->job->group;
    copy_sums(w, w->s.t, kept_sums(w, kept));
    add_keys(w, (heed_key_range){first_key(w, x, kept * x->step), first_key(w, x, segment)});
    for (int64_t i = begin; i < end; i += step) {
        chunk c = chunk_at(w, i);
        chunk_forward(w, &c, w->s.inverse + (i - begin) * group, w->s.slope + (i - begin) * group);
    }
    for (int64_t i = begin + (end - begin - 1) / step * step; i >= begin; i -= step) {
        chunk c = chunk_at(w, i);
        chunk_back(w, &c, w->s.inverse + (i - begin) * group, w->s.slope + (i - begin) * group);
    }
}

static void gradient_of_causal(backward_walk *w)
{
    const linear_job *job = w->job;
    segments x = cut_segments(w);
    int64_t last = w->first_row + (w->n_rows - w->first_row - 1) / HEED_LINEAR_CHUNK * HEED_LINEAR_CHUNK;
    heed_transpose(w->s.ds.s, job->n_values, job->n_features, job->n_values, w->s.ds_transposed);
    if (w->first_row >= w->n_rows) {
        gradient_of_keys(w, (heed_key_range){0, w->keys.n});
        return;
    }
    keep_sums(w, &x);
    gradient_of_keys(w, (heed_key_range){chunk_at(w, last).keys.end, w->keys.n});
    for (int64_t segment = x.n - 1; segment >= 0; segment--)
        gradient_of_segment(w, &x, segment);
    gradient_of_keys(w, (heed_key_range){0, first_key(w, &x, 0)});
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
        gradient_of_causal(&w);
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
