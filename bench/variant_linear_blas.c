/* linear-blas: the mathematics of linear-softplus as one would write it with a BLAS.
 *
 * For each kv head, over the whole sequence: G = softplus(K W), S = G^T V and z, the column sums of G; for each of its
 * query heads F = softplus(Q W), O = F S, and its rows over F z + eps. Causal: the same for chunks of tokens, in whose
 * squares F G^T later keys are hidden, and S and z of the chunks before. Products are OpenBLAS's, loops plain C.
 *
 * There are several ways to use more threads than one; each is tried when the row is prepared and the fastest one
 * runs. */
#include "bench/variants.h"

#ifdef HEED_HAVE_BLAS

#include "bench/blas_way.h"
#include "bench/linear_costs.h"
#include "bench/linear_loops.h"
#include "bench/linear_reference.h"
#include "bench/memory.h"
#include "bench/parallel.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64 };

typedef struct linear_blas_state {
    variant_setup setup;
    heed_linear_options options;
    blas_way way;
    int64_t n_features, group; /* group: query heads on a kv head */
    int64_t floats_per_worker;
    float *memory; /* n_threads x floats_per_worker */
} linear_blas_state;

/* Rows of a matrix in memory. */
typedef struct matrix {
    float *data;
    int64_t stride;
} matrix;

/* One kv head: where its matrices lie. */
typedef struct group_work {
    const linear_blas_state *state;
    int64_t batch, kv_head;
    matrix v, keys;            /* keys: G (Nk, C) */
    float *queries;            /* F (Nq, C) of each query head */
    float *sums, *norms;       /* S (C, Dv), z (C) */
    float *weights, *row_sums; /* of a chunk; row_sums of all rows where there is one */
} group_work;

/* ---- Products --------------------------------------------------------------------------------------------------- */

/* C = op(A) op(B) + beta C; C is m x n, and the sums have k terms. */
static void multiply(CBLAS_TRANSPOSE transpose_a, CBLAS_TRANSPOSE transpose_b, int64_t m, int64_t n, int64_t k,
                     matrix a, matrix b, float beta, matrix c)
{
    cblas_sgemm(CblasRowMajor, transpose_a, transpose_b, (blasint)m, (blasint)n, (blasint)k, 1, a.data,
                (blasint)a.stride, b.data, (blasint)b.stride, beta, c.data, (blasint)c.stride);
}

/* sums = X z for the rows of X. */
static void multiply_vector(matrix x, int64_t n_rows, int64_t n_columns, const float *z, float *sums)
{
    cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)n_rows, (blasint)n_columns, 1, x.data, (blasint)x.stride, z, 1, 0,
                sums, 1);
}

static matrix take_head(const heed_tensor *t, int64_t b, int64_t h)
{
    return (matrix){(float *)t->data + b * t->stride[0] + h * t->stride[1], t->stride[2]};
}

static matrix skip_rows(matrix m, int64_t n) { return (matrix){m.data + n * m.stride, m.stride}; }

/* ---- Features --------------------------------------------------------------------------------------------------- */

typedef struct softplus_work {
    float *x;
    int64_t n;
} softplus_work;

static void take_softplus(void *job, int worker, int n_workers)
{
    const softplus_work *work = job;
    int64_t begin, end;
    parallel_share(work->n, worker, n_workers, &begin, &end);
    linear_loops_softplus(work->x + begin, end - begin);
}

/* softplus(X W) of one head; weights of one head are those of all. */
static void make_features(const linear_blas_state *s, const heed_tensor *x, const heed_feature_map *map, int64_t b,
                          int64_t h, int64_t weight_head, matrix features)
{
    const heed_tensor *wf = map->layers[0].wf;
    const int64_t n_tokens = x->shape[2];
    multiply(CblasNoTrans, CblasNoTrans, n_tokens, s->n_features, x->shape[3], take_head(x, b, h),
             take_head(wf, 0, wf->shape[1] == 1 ? 0 : weight_head), 0, features);
    softplus_work work = {features.data, n_tokens * s->n_features};
    parallel_run(s->way.n_loop_threads, take_softplus, &work);
}

static void make_all_features(const group_work *g)
{
    const linear_blas_state *s = g->state;
    const attention_input *in = s->setup.input;
    const heed_feature_map *own = s->options.query_features;
    make_features(s, &in->k, s->options.features, g->batch, g->kv_head, g->kv_head, g->keys);
    for (int64_t i = 0; i < s->group; i++) {
        const int64_t h = g->kv_head * s->group + i;
        const matrix queries = {g->queries + i * in->shape.n_queries * s->n_features, s->n_features};
        make_features(s, &in->q, own ? own : s->options.features, g->batch, h, own ? h : g->kv_head, queries);
    }
}

/* ---- Sums and rows ---------------------------------------------------------------------------------------------- */

/* Keys [first, first + n) join S and z. */
static void add_keys(const group_work *g, int64_t first, int64_t n)
{
    const linear_blas_state *s = g->state;
    const int64_t dv = s->setup.input->shape.n_value_channels;
    if (n == 0)
        return;
    multiply(CblasTrans, CblasNoTrans, s->n_features, dv, n, skip_rows(g->keys, first), skip_rows(g->v, first), 1,
             (matrix){g->sums, dv});
    linear_loops_add_columns(g->norms, skip_rows(g->keys, first).data, n, s->n_features);
}

/* The matrices of query head i of the group. */
static matrix take_queries(const group_work *g, int64_t i)
{
    const linear_blas_state *s = g->state;
    return (matrix){g->queries + i * s->setup.input->shape.n_queries * s->n_features, s->n_features};
}

static matrix take_output(const group_work *g, int64_t i)
{
    return take_head(&g->state->setup.out, g->batch, g->kv_head * g->state->group + i);
}

/* Rows [first, first + n) of query head i over S and z; causal with n keys from first_key on, the later of which are
 * hidden from the earlier rows. */
static void find_rows(const group_work *g, int64_t i, int64_t first, int64_t n, int causal, int64_t first_key)
{
    const linear_blas_state *s = g->state;
    const int64_t dv = s->setup.input->shape.n_value_channels;
    const matrix queries = skip_rows(take_queries(g, i), first), out = skip_rows(take_output(g, i), first);
    multiply(CblasNoTrans, CblasNoTrans, n, dv, s->n_features, queries, (matrix){g->sums, dv}, 0, out);
    multiply_vector(queries, n, s->n_features, g->norms, g->row_sums);
    if (causal) {
        const matrix weights = {g->weights, n};
        multiply(CblasNoTrans, CblasTrans, n, n, s->n_features, queries, skip_rows(g->keys, first_key), 0, weights);
        linear_loops_hide_later(g->weights, g->row_sums, n);
        multiply(CblasNoTrans, CblasNoTrans, n, dv, n, weights, skip_rows(g->v, first_key), 1, out);
    }
    linear_loops_divide_rows(out.data, out.stride, g->row_sums, s->options.eps, n, dv);
}

static void find_all_rows(const group_work *g)
{
    const attention_shape *shape = &g->state->setup.input->shape;
    add_keys(g, 0, shape->n_keys);
    for (int64_t i = 0; i < g->state->group; i++)
        find_rows(g, i, 0, shape->n_queries, 0, 0);
}

static void clear_rows(matrix rows, int64_t n, int64_t n_columns)
{
    for (int64_t r = 0; r < n; r++)
        memset(skip_rows(rows, r).data, 0, (size_t)n_columns * sizeof(float));
}

/* The last query sees the last key: with fewer keys the first queries see none, with more all see the first keys. */
static void find_causal_rows(const group_work *g)
{
    const attention_shape *shape = &g->state->setup.input->shape;
    const int64_t n_before = shape->n_keys - shape->n_queries, n_blind = n_before < 0 ? -n_before : 0;
    for (int64_t i = 0; i < g->state->group; i++)
        clear_rows(take_output(g, i), n_blind, shape->n_value_channels);
    add_keys(g, 0, n_before > 0 ? n_before : 0);
    for (int64_t first = n_blind, n = 0; first < shape->n_queries; first += n) {
        n = shape->n_queries - first < CHUNK ? shape->n_queries - first : CHUNK;
        for (int64_t i = 0; i < g->state->group; i++)
            find_rows(g, i, first, n, 1, first + n_before);
        add_keys(g, first + n_before, n);
    }
}

/* ---- The call --------------------------------------------------------------------------------------------------- */

/* Cuts the memory of a worker. */
static group_work start_group(const linear_blas_state *s, int64_t index, int worker)
{
    const attention_shape *shape = &s->setup.input->shape;
    const int64_t c = s->n_features, dv = shape->n_value_channels;
    group_work g = {.state = s, .batch = index / shape->n_kv_heads, .kv_head = index % shape->n_kv_heads};
    g.v = take_head(&s->setup.input->v, g.batch, g.kv_head);
    g.keys = (matrix){s->memory + worker * s->floats_per_worker, c};
    g.queries = g.keys.data + shape->n_keys * c;
    g.sums = g.queries + s->group * shape->n_queries * c;
    g.norms = g.sums + c * dv;
    g.weights = g.norms + c;
    g.row_sums = g.weights + (int64_t)CHUNK * CHUNK;
    memset(g.sums, 0, (size_t)(c * (dv + 1)) * sizeof(float));
    return g;
}

static void run_groups(void *job, int worker, int n_workers)
{
    const linear_blas_state *s = job;
    const attention_shape *shape = &s->setup.input->shape;
    int64_t begin, end;
    parallel_share(shape->batch * shape->n_kv_heads, worker, n_workers, &begin, &end);
    for (int64_t index = begin; index < end; index++) {
        const group_work g = start_group(s, index, worker);
        make_all_features(&g);
        if (s->setup.input->causal)
            find_causal_rows(&g);
        else
            find_all_rows(&g);
    }
}

static int run(void *state, char *message, size_t message_bytes)
{
    linear_blas_state *s = state;
    (void)message;
    (void)message_bytes;
    blas_way_take(s->way);
    parallel_run(s->way.n_heads, run_groups, s);
    return 0;
}

static void run_way(void *state, blas_way way)
{
    linear_blas_state *s = state;
    s->way = way;
    run(s, NULL, 0);
}

/* ---- Preparing -------------------------------------------------------------------------------------------------- */

static void release(void *state)
{
    linear_blas_state *s = state;
    if (s) {
        free(s->memory);
        free(s);
    }
}

static void *prepare(const variant_setup *setup, char *message, size_t message_bytes)
{
    const attention_shape *shape = &setup->input->shape;
    linear_blas_state *s = calloc(1, sizeof *s);
    if (s) {
        s->setup = *setup;
        s->options = linear_input_options(setup->input, LINEAR_SOFTPLUS);
        s->n_features = linear_n_features(setup->input, LINEAR_SOFTPLUS);
        s->group = shape->n_query_heads / shape->n_kv_heads;
        const int64_t c = s->n_features, n_rows = shape->n_keys + s->group * shape->n_queries;
        s->floats_per_worker =
            n_rows * c + c * (shape->n_value_channels + 1) + (int64_t)CHUNK * CHUNK + shape->n_queries;
        s->memory = memory_allocate_floats(1, 1, setup->n_threads, s->floats_per_worker);
    }
    if (!s || !s->memory) {
        snprintf(message, message_bytes, "out of memory for the features of a head");
        release(s);
        return NULL;
    }
    s->way = blas_way_choose(setup->n_threads, run_way, s);
    return s;
}

static int64_t get_scratch_bytes(const void *state)
{
    const linear_blas_state *s = state;
    return (int64_t)sizeof(float) * s->way.n_heads * s->floats_per_worker;
}

static double flops(const attention_input *input) { return linear_flops(input, LINEAR_SOFTPLUS); }

static double bytes(const attention_input *input) { return linear_bytes(input, LINEAR_SOFTPLUS); }

static double reference_cost(const attention_input *input) { return linear_reference_cost(input, LINEAR_SOFTPLUS); }

const variant variant_linear_blas = {
    .name = "linear-blas",
    .mode = "forward",
    .summary = "linear-softplus as OpenBLAS GEMMs and plain loops",
    .on_request = 1,
    .kinds = {.linear = 1u << LINEAR_BLAS},
    .has_parameters = 1,
    .prepare = prepare,
    .run = run,
    .scratch_bytes = get_scratch_bytes,
    .release = release,
    .flops = flops,
    .bytes = bytes,
    .reference_rows = linear_reference_softplus_rows,
    .reference_cost = reference_cost,
    .needs_pause = 1,
};

#else

const variant variant_linear_blas = {
    .name = "linear-blas",
    .mode = "forward",
    .summary = "linear-softplus as OpenBLAS GEMMs and plain loops",
    .unavailable = "this build has no OpenBLAS (HEED_BLAS=OFF)",
};

#endif
