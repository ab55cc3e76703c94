/* o_i = sum_j p_ij v_j,  p_ij = softmax_j(q_i.k_j scale + ...)       ("Attention Is All You Need", equation 1)
 *
 * streamed over blocks of keys (FlashAttention, algorithm 1; its order of loops as in FlashAttention-2): after each
 * block m is the largest score so far, l = sum exp(s - m), o = sum exp(s - m) v. Each block of l and o is summed from
 * zero and then joins the running sums, so that early large terms do not swallow late small ones.
 *
 * The rows of queries stand on the lanes of a tile: scores, weights and outputs are kept transposed, keys and values
 * are read where they lie, and everything after the product is lane by lane. */
#include "mechanisms/softmax_tile.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/hide.h"

#include <math.h>
#include <string.h>

/* A line more than the row has, so that columns do not share cache sets. */
int64_t heed_copied_row(int64_t n_channels) { return heed_divide_up(n_channels, 16) * 16 + 16; }

void heed_tile_close(const heed_kernels *kernels, query_tile *t, int may_stay_rows)
{
    t->n_vectors = (int)heed_divide_up(t->n_rows, kernels->vector_lanes);
    t->by_rows = may_stay_rows && t->n_rows <= HEED_MAX_PLAIN_ROWS;
    t->keys = (heed_key_range){0, 0};
    for (int r = 0; r < t->n_rows; r++)
        t->keys = heed_range_cover(t->keys, t->sees[r]);
}

void heed_tile_load(const softmax_attention *a, const query_tile *t, const float *const *rows)
{
    int64_t d = a->plan->q.shape[3];
    if (!t->by_rows) {
        a->kernels->pack_tile(t->queries, rows, t->n_rows, d, a->plan->scale);
        return;
    }
    for (int r = 0; r < t->n_rows; r++) {
        for (int64_t c = 0; c < d; c++)
            t->queries[r * d + c] = rows[r][c] * a->plan->scale;
    }
}

/* l of a sink alone, which is then the largest score. */
static float sink_weight(float sink)
{
    if (isfinite(sink))
        return 1.0f;
    return sink == -INFINITY ? 0.0f : NAN;
}

static void reset_rows(const softmax_attention *a, query_tile *t)
{
    const softmax_plan *p = a->plan;
    for (int r = 0; r < HEED_MAX_TILE_LANES; r++) {
        t->m[r] = -INFINITY;
        t->l[r] = 0.0f;
    }
    for (int r = 0; p->sinks && t->with_sinks && r < t->n_rows; r++) {
        if (t->counts[r]) {
            t->m[r] = p->sinks[t->head[r]];
            t->l[r] = sink_weight(t->m[r]);
        }
    }
    int64_t n_lanes = t->by_rows ? t->n_rows : a->kernels->tile_lanes;
    memset(t->outputs, 0, (size_t)(p->v.shape[3] * n_lanes) * sizeof *t->outputs);
}

static void add_bias(const softmax_attention *a, const query_tile *t, heed_key_range block)
{
    const float *rows[HEED_MAX_TILE_LANES];
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = heed_row(&a->plan->bias, t->b, t->head[r], t->query[r]) + block.begin;
    a->kernels->bias_tile(a->scores, rows, t->n_rows, (int)(block.end - block.begin));
}

static void add_alibi(const softmax_attention *a, const query_tile *t, heed_key_range block)
{
    float slope[HEED_MAX_TILE_LANES] = {0}, distance[HEED_MAX_TILE_LANES] = {0};
    int64_t offset = heed_position_offset(&a->plan->mask, t->b);
    for (int r = 0; r < t->n_rows; r++) {
        slope[r] = a->plan->slopes[t->head[r]];
        distance[r] = (float)(block.begin - t->query[r] + offset);
    }
    a->kernels->alibi_tile(a->scores, slope, distance, (int)(block.end - block.begin), t->n_vectors);
}

/* Whether the boolean mask hides the whole block from every row. */
static int nobody_sees(const softmax_attention *a, const query_tile *t, heed_key_range block)
{
    const heed_tensor *visible = &a->plan->mask.visible;
    if (!visible->data)
        return 0;
    size_t n_keys = (size_t)(block.end - block.begin);
    static const uint8_t hidden[HEED_BLOCK_KEYS] = {0};
    for (int r = 0; r < t->n_rows; r++) {
        if (memcmp(heed_bool_row(visible, t->b, t->head[r], t->query[r]) + block.begin, hidden, n_keys) != 0)
            return 0;
    }
    return 1;
}

static void add_to_keys(const softmax_attention *a, const query_tile *t, heed_key_range block, const float *shift)
{
    const float *rows[HEED_MAX_TILE_LANES];
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = shift;
    a->kernels->bias_tile(a->scores, rows, t->n_rows, (int)(block.end - block.begin));
}

/* The part of the next block that tile `index` of its group asks for: as many rows as a block has keys. */
static const float *part_of_next(const float *next, int64_t stride, int64_t n, int64_t index)
{
    return next && index * HEED_BLOCK_KEYS < n ? next + index * HEED_BLOCK_KEYS * stride : NULL;
}

/* s = scale q k^T, softcap, bias, ALiBi; hidden keys get -inf. */
static void score_block(const softmax_attention *a, const query_tile *t, heed_key_range block, const key_block *rows,
                        int64_t index)
{
    const softmax_plan *p = a->plan;
    int n_keys = (int)(block.end - block.begin);
    int64_t d = p->q.shape[3], stride = rows->k_stride, first = block.begin - rows->begin;
    const float *k = rows->k + first * stride;
    if (t->by_rows)
        a->kernels->scores_rows(a->scores, t->queries, d, k, stride, n_keys, d, t->n_rows);
    else
        a->kernels->scores_tile(a->scores, t->queries, k, stride, n_keys, d, t->n_vectors,
                                part_of_next(rows->next_k, rows->next_k_stride, rows->n_next, index),
                                rows->next_k_stride);
    if (p->softcap > 0.0f)
        a->kernels->softcap_tile(a->scores, n_keys, t->n_vectors, p->softcap);
    if (rows->score_shift)
        add_to_keys(a, t, block, rows->score_shift + first);
    if (p->bias.data)
        add_bias(a, t, block);
    if (p->slopes)
        add_alibi(a, t, block);
    heed_hide_outside(a->kernels, a->scores, t->sees, t->n_rows, t->n_vectors, block);
    if (p->mask.visible.data)
        heed_hide_unseen(a->kernels, a->scores, &p->mask.visible, t->b, t->head, t->query, t->n_rows, block);
}

/* Keys and values as they lie. A product walks down the rows of V once for every few channels. Where each row lies in a
 * page of its own, nearly every load would miss the TLB, so that several tiles are better served by a copy. */
static key_block open_rows(const softmax_attention *a, const query_tile *t, int n_tiles, heed_key_range block)
{
    const heed_tensor *k = &a->plan->k, *v = &a->plan->v;
    key_block rows = {.begin = block.begin, .k_stride = k->stride[2], .v_stride = v->stride[2]};
    rows.k = heed_row(k, t->b, t->kv_head, block.begin);
    rows.v = heed_row(v, t->b, t->kv_head, block.begin);
    if (n_tiles < 2 || rows.v_stride < HEED_FAR_ROWS)
        return rows;
    int64_t dv = v->shape[3], stride = heed_copied_row(dv);
    for (int64_t j = 0; j < block.end - block.begin; j++)
        memcpy(a->values + j * stride, rows.v + j * rows.v_stride, (size_t)dv * sizeof *a->values);
    rows.v = a->values;
    rows.v_stride = stride;
    return rows;
}

/* o = o rescale + p v */
static void add_values(const softmax_attention *a, const query_tile *t, heed_key_range block, const key_block *rows,
                       int64_t index, int careful)
{
    const heed_kernels *kernels = a->kernels;
    const float *values = rows->v + (block.begin - rows->begin) * rows->v_stride;
    int n_keys = (int)(block.end - block.begin);
    int64_t dv = a->plan->v.shape[3], stride = rows->v_stride;
    if (t->by_rows) {
        float *sums = t->outputs + HEED_MAX_PLAIN_ROWS * dv;
        (careful ? kernels->values_careful_rows : kernels->values_rows)(t->outputs, sums, a->scores, values, stride,
                                                                        t->rescale, n_keys, dv, t->n_rows);
    } else {
        (careful ? kernels->values_careful_tile : kernels->values_tile)(
            t->outputs, a->scores, values, stride, t->rescale, n_keys, dv, t->n_vectors,
            part_of_next(rows->next_v, rows->next_v_stride, rows->n_next, index), rows->next_v_stride);
    }
}

/* Blocks end at fixed keys, as ranges do. */
void heed_tiles_attend(const softmax_attention *a, query_tile *tiles, int n_tiles, int careful)
{
    const heed_kernels *kernels = a->kernels;
    heed_key_range keys = {0, 0};
    for (int i = 0; i < n_tiles; i++) {
        reset_rows(a, &tiles[i]);
        if (a->source && a->source->begin)
            a->source->begin(a, &tiles[i]);
        keys = heed_range_cover(keys, tiles[i].keys);
    }
    for (heed_key_range block = {keys.begin, keys.begin}; block.end < keys.end;) {
        block = heed_next_block(block, keys.end, HEED_BLOCK_KEYS);
        key_block rows = {0};
        for (query_tile *t = tiles; t < tiles + n_tiles; t++) {
            heed_key_range own = heed_range_common(t->keys, block);
            if (heed_range_is_empty(own) || nobody_sees(a, t, own))
                continue;
            if (!rows.k)
                rows = a->source ? a->source->open(a, t, block) : open_rows(a, t, n_tiles, block);
            score_block(a, t, own, &rows, t - tiles);
            (careful ? kernels->softmax_careful_tile : kernels->softmax_tile)(a->scores, t->m, t->l, t->rescale,
                                                                              (int)(own.end - own.begin), t->n_vectors);
            add_values(a, t, own, &rows, t - tiles, careful);
        }
    }
}

static int store_outputs(const softmax_attention *a, const query_tile *t, float *const *rows)
{
    int64_t dv = a->plan->v.shape[3];
    return (t->by_rows ? a->kernels->output_rows : a->kernels->output_tile)(rows, t->outputs, t->l, t->n_rows, dv);
}

static log_sum log_sum_of(float m, float l)
{
    if (l == 0.0f)
        return (log_sum){-INFINITY, 0.0};
    return (log_sum){isnan(l) ? NAN : (double)m, log((double)l)};
}

/* out = o / l into the rows given, and their lse. A zero weight of a hidden key times NaN or Inf in its value is NaN:
 * where a result is NaN the tile is computed again with hidden keys left out of the sum. That gives the same bits to
 * all rows that were not hit, and NaN again to those that really see one. */
void heed_tile_finish(const softmax_attention *a, query_tile *t, float *const *rows, log_sum *lse)
{
    if (store_outputs(a, t, rows)) {
        heed_tiles_attend(a, t, 1, 1);
        store_outputs(a, t, rows);
        atomic_fetch_add_explicit(a->exact_recomputations, t->n_rows, memory_order_relaxed);
    }
    for (int r = 0; r < t->n_rows; r++)
        lse[r] = log_sum_of(t->m[r], t->l[r]);
}
