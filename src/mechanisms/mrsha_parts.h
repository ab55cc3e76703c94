/* What the ways of computing MrsHA share. */
#ifndef HEED_MECHANISMS_MRSHA_PARTS_H
#define HEED_MECHANISMS_MRSHA_PARTS_H

#include "core/tuning.h"
#include "mechanisms/mrsha.h"
#include "mechanisms/pooling.h"
#include "mechanisms/softmax_tile.h"

/* One worker's scratch. */
typedef struct mrsha_scratch {
    int64_t n_tiles;
    query_tile *tiles;
    float *queries, *outputs; /* [n_tiles] tiles [D], [Dv] */
    float *scores;            /* a tile [HEED_BLOCK_KEYS] */
    float *keys, *values;     /* rows [HEED_BLOCK_KEYS] */
    float *score_shift;       /* [HEED_BLOCK_KEYS] */
    float *rows;              /* [HEED_MAX_TILE_LANES], of D or Dv channels */
    float *sums;              /* two such rows */
    int64_t key_stride, value_stride, row_stride;
} mrsha_scratch;

/* `bytes` receives what it takes, or is NULL. */
mrsha_scratch heed_mrsha_carve(char *memory, int64_t d, int64_t dv, int64_t *bytes);

/* How a head cuts and pools tokens of which n_tokens count. */
group_pooling heed_mrsha_pooling(const mrsha_plan *plan, int64_t head, int64_t n_tokens);

/* Whether the rows of a tile may stay rows: by what all heads of a kv head would have together, so that the bits of one do
 * not follow from how many of the others share its groups. */
static inline int heed_mrsha_may_stay_rows(const mrsha_heads *heads, int64_t rows_per_head)
{
    return rows_per_head <= HEED_MAX_PLAIN_ROWS / heads->per_kv_head;
}

/* The sharer behind this one. */
int64_t heed_mrsha_next_sharer(const mrsha_heads *heads, int64_t head);

/* Scores of keys in groups go without the logarithm of the largest group. So sinks are lowered by it, */
void heed_mrsha_lower_sinks(const softmax_attention *a, query_tile *t, const heed_groups *groups);

/* and lse of row r gets it back; where nothing stands beside the sink it is the sink, to the bit. */
float heed_mrsha_raise_lse(const softmax_plan *p, const query_tile *t, int r, log_sum lse, const heed_groups *groups);

/* ---- mrsha_coarse.c ---- */

/* All coarse heads; rows of groups stand in the rows of their first tokens where they will be interpolated. */
void heed_mrsha_add_coarse(heed_context *context, const mrsha_plan *plan);

/* ---- mrsha_own.c ---- */

/* Causal VALUE: each row of the tile begins with the tokens of its own group up to itself, as one key. */
void heed_mrsha_begin_with_own(const softmax_attention *a, query_tile *t, const group_pooling *keys,
                               const mrsha_scratch *w);

/* ---- mrsha_upsample.c ---- */

/* Rows of groups become rows of tokens, on straight lines between the centres of the groups. */
void heed_mrsha_interpolate(heed_context *context, const mrsha_plan *plan);

#endif
