#include "mechanisms/mrsha_parts.h"

#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"

#include <math.h>

/* ---- which heads go together ---- */

/* Learned weights belong to a query head. */
static int shares_pool(const mrsha_heads *heads, int64_t a, int64_t b)
{
    int64_t size = heed_group_size(&heads->resolutions, a);
    return a == b ||
           (size == heed_group_size(&heads->resolutions, b) && (size == 1 || heads->pooling != HEED_POOLING_LEARNED));
}

mrsha_sharers heed_mrsha_sharers(const mrsha_heads *heads, int64_t head)
{
    int64_t n = heads->per_kv_head, first = head / n * n;
    mrsha_sharers sharers = {.kv_head = head / n, .size = heed_group_size(&heads->resolutions, head)};
    for (int64_t h = first; h < head; h++) {
        if (shares_pool(heads, h, head))
            return sharers;
    }
    for (int64_t h = head; h < first + n; h++)
        sharers.n_heads += shares_pool(heads, head, h);
    return sharers;
}

int64_t heed_mrsha_next_sharer(const mrsha_heads *heads, int64_t head)
{
    int64_t next = head + 1;
    while (next % heads->per_kv_head != 0 && !shares_pool(heads, head, next))
        next++;
    return next;
}

group_pooling heed_mrsha_pooling(const mrsha_plan *plan, int64_t head, int64_t n_tokens)
{
    int64_t size = heed_group_size(&plan->heads.resolutions, head);
    group_pooling p = {.kind = plan->heads.pooling, .weights = heed_row(&plan->weights, 0, 0, head)};
    if (size == 1)
        p.kind = HEED_POOLING_MEAN; /* single tokens are what they are */
    p.groups = (heed_groups){.size = size,
                             .n_tokens = n_tokens,
                             .most_tokens = n_tokens,
                             .class_tokens = plan->class_tokens,
                             .grid_height = plan->grid_height,
                             .grid_width = plan->grid_width};
    return p;
}

/* ---- scratch ---- */

/* Tiles that share pooled keys: as many as stay in L2 with their queries and outputs, but not less than in softmax. */
static int64_t tiles_that_fit(int64_t d, int64_t dv)
{
    int64_t tile_bytes = (d + dv) * HEED_MAX_TILE_LANES * (int64_t)sizeof(float);
    return heed_larger(HEED_GROUP_TILES, heed_smaller(HEED_MRSHA_TILES, HEED_MRSHA_TILE_BYTES / tile_bytes));
}

mrsha_scratch heed_mrsha_carve(char *memory, int64_t d, int64_t dv, int64_t *bytes)
{
    heed_arena arena = {memory, 0};
    mrsha_scratch w = {.n_tiles = tiles_that_fit(d, dv)};
    w.key_stride = heed_copied_row(d);
    w.value_stride = heed_copied_row(dv);
    w.row_stride = heed_larger(w.key_stride, w.value_stride);
    w.tiles = heed_arena_take(&arena, w.n_tiles * (int64_t)sizeof *w.tiles);
    w.queries = heed_arena_take_floats(&arena, w.n_tiles * d * HEED_MAX_TILE_LANES);
    w.outputs = heed_arena_take_floats(&arena, w.n_tiles * dv * HEED_MAX_TILE_LANES);
    w.scores = heed_arena_take_floats(&arena, HEED_BLOCK_KEYS * HEED_MAX_TILE_LANES);
    w.keys = heed_arena_take_floats(&arena, HEED_BLOCK_KEYS * w.key_stride);
    w.values = heed_arena_take_floats(&arena, HEED_BLOCK_KEYS * w.value_stride);
    w.score_shift = heed_arena_take_floats(&arena, HEED_BLOCK_KEYS);
    w.rows = heed_arena_take_floats(&arena, HEED_MAX_TILE_LANES * w.row_stride);
    w.sums = heed_arena_take_floats(&arena, 2 * w.row_stride);
    if (bytes)
        *bytes = arena.bytes;
    return w;
}

int64_t heed_mrsha_worker_bytes(int64_t d, int64_t dv)
{
    int64_t bytes;
    if (heed_larger(d, dv) > HEED_MAX_SCRATCH_CHANNELS)
        return INT64_MAX;
    heed_mrsha_carve(NULL, d, dv, &bytes);
    return heed_larger(bytes, heed_softmax_worker_bytes(d, dv));
}

/* ---- the largest group ---- */

void heed_mrsha_lower_sinks(const softmax_attention *a, query_tile *t, const heed_groups *groups)
{
    float largest = (float)heed_log_largest_group(groups);
    for (int r = 0; a->plan->sinks && r < t->n_rows; r++)
        t->m[r] -= largest;
}

float heed_mrsha_raise_lse(const softmax_plan *p, const query_tile *t, int r, log_sum lse, const heed_groups *groups)
{
    double largest = heed_log_largest_group(groups);
    float sink = p->sinks ? p->sinks[t->head[r]] : -INFINITY;
    if (t->counts[r] && t->l[r] == 1.0f && t->m[r] == sink - (float)largest)
        return sink;
    return (float)(lse.maximum + (lse.log + largest));
}
