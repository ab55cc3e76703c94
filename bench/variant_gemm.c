/* gemm: the baseline that a user of a BLAS would write, made strong.
 *
 * For each batch element and query head: S = scale Q K^T by OpenBLAS into one Nq x Nk matrix, mask and softmax over
 * its rows, O = P V by OpenBLAS. Any layout is read in place: the leading dimension of a matrix is the distance of its
 * tokens. Where Nq = 1 the query heads that share keys are the rows of one product, as tokens would be, so that K and
 * V are read once. exp2 is heed's own, log2(e) is part of the scale, and the rows of O are divided by their sums
 * instead of the much longer rows of P.
 *
 * There are several ways to use more threads than one; each is tried when the row is prepared and the fastest one
 * runs. */
#include "bench/variants.h"

#ifdef HEED_HAVE_BLAS

#include "bench/blas_way.h"
#include "bench/loops.h"
#include "bench/memory.h"
#include "bench/parallel.h"
#include "core/gemm.h"
#include "core/isa.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct gemm_state {
    variant_setup setup;
    const heed_kernels *kernels;
    const bench_loops *loops;
    blas_way way;
    float scale, log2_e;
    int rows_are_heads;  /* Nq = 1: the rows of S are the query heads of one kv head, not tokens */
    int64_t n_products;  /* pairs of products: B Hq, or B Hkv where rows are heads */
    int64_t n_rows;      /* rows of S */
    float *scores;       /* n_matrices x n_rows x Nk */
    float *inverse_sums; /* n_matrices x n_rows */
} gemm_state;

/* One product pair: where its matrices lie, and which rows of which heads they hold. */
typedef struct gemm_product {
    const gemm_state *state;
    int64_t batch, head;
    const float *q, *k, *v;
    float *out, *scores, *inverse_sums;
    int64_t q_stride, out_stride; /* from one row to the next */
} gemm_product;

static gemm_product find_product(const gemm_state *s, int64_t index, int64_t matrix)
{
    const attention_input *in = s->setup.input;
    const heed_tensor *q = &in->q, *k = &in->k, *v = &in->v, *out = &s->setup.out;
    const int64_t group = in->shape.n_query_heads / in->shape.n_kv_heads;
    const int64_t products_per_batch = s->n_products / in->shape.batch;
    const int64_t b = index / products_per_batch, at = index % products_per_batch;
    const int64_t h = s->rows_are_heads ? at * group : at, kv_head = h / group;
    return (gemm_product){
        .state = s,
        .batch = b,
        .head = h,
        .q = (const float *)q->data + b * q->stride[0] + h * q->stride[1],
        .k = (const float *)k->data + b * k->stride[0] + kv_head * k->stride[1],
        .v = (const float *)v->data + b * v->stride[0] + kv_head * v->stride[1],
        .out = (float *)out->data + b * out->stride[0] + h * out->stride[1],
        .scores = s->scores + matrix * s->n_rows * in->shape.n_keys,
        .inverse_sums = s->inverse_sums + matrix * s->n_rows,
        .q_stride = q->stride[s->rows_are_heads ? 1 : 2],
        .out_stride = out->stride[s->rows_are_heads ? 1 : 2],
    };
}

/* ---- Softmax over the rows of S --------------------------------------------------------------------------------- */

static void hide_keys(float *row, int64_t begin, int64_t end)
{
    for (int64_t j = begin; j < end; j++)
        row[j] = 0;
}

/* Row r of a product becomes 2^(s - largest s), 0 where hidden. The sum is divided out later. */
static void weigh_row(const gemm_product *p, int64_t r)
{
    const gemm_state *s = p->state;
    const attention_input *in = s->setup.input;
    const int64_t n_keys = in->shape.n_keys;
    const int64_t h = s->rows_are_heads ? p->head + r : p->head, i = s->rows_are_heads ? 0 : r;
    const int64_t pair = (h * in->shape.n_queries + i) * n_keys; /* where bias and mask have this row */
    float *row = p->scores + r * n_keys;

    int64_t begin, end;
    input_visible_range(in, i, &begin, &end);
    if (begin > end)
        begin = end = 0;
    float *seen = row + begin;
    const int64_t n = end - begin;
    if (in->bias.data)
        s->loops->add_bias(seen, (const float *)in->bias.data + pair + begin, s->log2_e, n);
    if (in->visible.data)
        s->loops->hide(seen, (const uint8_t *)in->visible.data + pair + begin, n);
    const float largest = s->loops->maximum(seen, n);
    if (largest == -INFINITY) {
        hide_keys(row, 0, n_keys);
        p->inverse_sums[r] = 0;
        return;
    }
    s->loops->subtract(seen, largest, n);
    s->kernels->exp2_array(seen, seen, n);
    p->inverse_sums[r] = 1 / s->loops->sum(seen, n);
    hide_keys(row, 0, begin);
    hide_keys(row, end, n_keys);
}

static void weigh_rows(void *job, int worker, int n_workers)
{
    const gemm_product *p = job;
    int64_t begin, end;
    parallel_share(p->state->n_rows, worker, n_workers, &begin, &end);
    for (int64_t r = begin; r < end; r++)
        weigh_row(p, r);
}

/* ---- Products --------------------------------------------------------------------------------------------------- */

static void run_product(gemm_product *p)
{
    const gemm_state *s = p->state;
    const attention_input *in = s->setup.input;
    const int64_t n_keys = in->shape.n_keys, d = in->shape.n_channels, dv = in->shape.n_value_channels;

    heed_gemm(1, s->n_rows, n_keys, d, s->scale * s->log2_e, p->q, p->q_stride, p->k, in->k.stride[2], 0, p->scores,
              n_keys);
    parallel_run(s->way.n_loop_threads, weigh_rows, p);
    heed_gemm(0, s->n_rows, dv, n_keys, 1, p->scores, n_keys, p->v, in->v.stride[2], 0, p->out, p->out_stride);
    for (int64_t r = 0; r < s->n_rows; r++)
        s->loops->scale(p->out + r * p->out_stride, p->inverse_sums[r], dv);
}

static void run_products(void *job, int worker, int n_workers)
{
    const gemm_state *s = job;
    int64_t begin, end;
    parallel_share(s->n_products, worker, n_workers, &begin, &end);
    for (int64_t index = begin; index < end; index++) {
        gemm_product product = find_product(s, index, worker);
        run_product(&product);
    }
}

static int run(void *state, char *message, size_t message_bytes)
{
    gemm_state *s = state;
    (void)message;
    (void)message_bytes;
    blas_way_take(s->way);
    parallel_run(s->way.n_heads, run_products, s);
    return 0;
}

/* ---- Preparing -------------------------------------------------------------------------------------------------- */

static void release(void *state)
{
    gemm_state *s = state;
    if (s) {
        free(s->scores);
        free(s->inverse_sums);
        free(s);
    }
}

static int allocate(gemm_state *s, int n_matrices)
{
    free(s->scores);
    free(s->inverse_sums);
    s->scores = memory_allocate_floats(1, n_matrices, s->n_rows, s->setup.input->shape.n_keys);
    s->inverse_sums = memory_allocate_floats(1, 1, n_matrices, s->n_rows);
    return s->scores && s->inverse_sums ? 0 : -1;
}

static void run_way(void *state, blas_way way)
{
    gemm_state *s = state;
    s->way = way;
    run(s, NULL, 0);
}

static void *prepare(const variant_setup *setup, char *message, size_t message_bytes)
{
    gemm_state *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    const attention_shape *shape = &setup->input->shape;
    s->setup = *setup;
    s->rows_are_heads = shape->n_queries == 1;
    s->kernels = heed_isa_kernels(setup->isa);
    s->loops = bench_loops_of(setup->isa);
    s->log2_e = 1.44269504f;
    s->scale = (float)(1 / sqrt((double)shape->n_channels));
    s->n_products = shape->batch * (s->rows_are_heads ? shape->n_kv_heads : shape->n_query_heads);
    s->n_rows = s->rows_are_heads ? shape->n_query_heads / shape->n_kv_heads : shape->n_queries;
    if (!s->kernels || !s->loops) {
        snprintf(message, message_bytes, "%s is not on this machine", heed_isa_name(setup->isa));
        release(s);
        return NULL;
    }
    if (allocate(s, setup->n_threads) != 0) {
        snprintf(message, message_bytes, "out of memory for %d matrices of %lld x %lld scores", setup->n_threads,
                 (long long)s->n_rows, (long long)shape->n_keys);
        release(s);
        return NULL;
    }
    s->way = blas_way_choose(setup->n_threads, run_way, s);
    return s;
}

static int64_t get_scratch_bytes(const void *state)
{
    const gemm_state *s = state;
    return (int64_t)sizeof(float) * s->way.n_heads * s->n_rows * (s->setup.input->shape.n_keys + 1);
}

const variant variant_gemm = {
    .name = "gemm",
    .mode = "forward",
    .summary = "softmax attention as OpenBLAS GEMM, row softmax, OpenBLAS GEMM",
    .prepare = prepare,
    .run = run,
    .scratch_bytes = get_scratch_bytes,
    .release = release,
    .flops = softmax_flops,
    .bytes = softmax_bytes,
    .reference_row = softmax_reference_row,
    .needs_pause = 1,
};

#else

const variant variant_gemm = {
    .name = "gemm",
    .mode = "forward",
    .summary = "softmax attention as OpenBLAS GEMM, row softmax, OpenBLAS GEMM",
    .unavailable = "this build has no OpenBLAS (HEED_BLAS=OFF)",
};

#endif
