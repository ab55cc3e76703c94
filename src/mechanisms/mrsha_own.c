/* The own group of a token in causal VALUE: one key and one value for each row of a tile,
 *
 *     k_i = mean of k_j,  v_i = mean of v_j,  j from the group's first token to i,  log(number of these) added to the score
 *
 * Its product with the query goes lane by lane, as each lane has another key. */
#include "mechanisms/mrsha_parts.h"

#include "core/sizes.h"
#include "core/tensor.h"

#include <math.h>
#include <string.h>

/* Channels of the keys that are multiplied in one go: sums of so many products are added up. */
enum { OWN_CHANNELS = 32 };

/* Tokens of the own group that row r sees: 0 where the group has none that counts. */
static int64_t count_own(const query_tile *t, int r, const heed_groups *groups)
{
    int64_t i = t->query[r], first = i / groups->size * groups->size;
    return t->counts[r] ? heed_larger(0, heed_smaller(i + 1, groups->n_tokens) - first) : 0;
}

/* Row r of `rows` becomes the mean over the own tokens of row r; 0 where it has none. */
static void pool_own(const softmax_attention *a, const query_tile *t, const group_pooling *p, const heed_tensor *x,
                     const mrsha_scratch *w)
{
    int64_t n_channels = x->shape[3], added = 0;
    prefix_sums sums = {w->sums, w->row_stride};
    for (int r = 0; r < t->n_rows; r++) {
        int64_t n = count_own(t, r, &p->groups), first = t->query[r] / p->groups.size * p->groups.size;
        float *row = w->rows + r * w->row_stride;
        if (r == 0 || t->head[r] != t->head[r - 1] || first == t->query[r])
            added = 0;
        for (; added < n; added++)
            heed_prefix_add(a->kernels, p, sums, heed_row(x, t->b, t->kv_head, first + added), n_channels, added);
        if (n > 0)
            heed_prefix_row(a->kernels, p, sums, n_channels, n - 1, row);
        else
            memset(row, 0, (size_t)n_channels * sizeof *row);
    }
}

static void score_own(const softmax_attention *a, const query_tile *t, const mrsha_scratch *w, float *scores)
{
    const heed_kernels *kernels = a->kernels;
    int64_t d = a->plan->q.shape[3];
    const float *rows[HEED_MAX_TILE_LANES];
    float all[HEED_MAX_TILE_LANES];
    memset(scores, 0, HEED_MAX_TILE_LANES * sizeof *scores);
    for (int r = 0; r < HEED_MAX_TILE_LANES; r++)
        all[r] = OWN_CHANNELS;
    for (int64_t c = 0; c < d; c += OWN_CHANNELS) {
        int n = (int)heed_smaller(OWN_CHANNELS, d - c);
        for (int r = 0; r < t->n_rows; r++)
            rows[r] = w->rows + r * w->row_stride + c;
        kernels->pack_tile(a->scores, rows, t->n_rows, n, 1.0f);
        kernels->dot_tile(scores, t->queries + c * kernels->tile_lanes, a->scores, all, n, t->n_vectors);
    }
    if (a->plan->softcap > 0.0f)
        kernels->softcap_tile(scores, 1, t->n_vectors, a->plan->softcap);
}

void heed_mrsha_begin_with_own(const softmax_attention *a, query_tile *t, const group_pooling *p,
                               const mrsha_scratch *w)
{
    const heed_kernels *kernels = a->kernels;
    int64_t dv = a->plan->v.shape[3];
    const float *rows[HEED_MAX_TILE_LANES];
    _Alignas(64) float scores[HEED_MAX_TILE_LANES], sees[HEED_MAX_TILE_LANES] = {0};
    const float nothing[HEED_MAX_TILE_LANES] = {0};
    double largest = heed_log_largest_group(&p->groups);
    pool_own(a, t, p, &a->plan->k, w);
    score_own(a, t, w, scores);
    for (int r = 0; r < HEED_MAX_TILE_LANES; r++) {
        int64_t n = r < t->n_rows ? count_own(t, r, &p->groups) : 0;
        scores[r] = n > 0 ? scores[r] + (float)(log((double)n) - largest) : -INFINITY;
        sees[r] = scores[r] == -INFINITY ? 0.0f : (float)dv;
    }
    kernels->softmax_tile(scores, t->m, t->l, t->rescale, 1, t->n_vectors);
    pool_own(a, t, p, &a->plan->v, w);
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = w->rows + r * w->row_stride;
    kernels->pack_tile(t->outputs, rows, t->n_rows, dv, 1.0f);
    kernels->weigh_tile(t->outputs, scores, nothing, sees, (int)dv, t->n_vectors);
}
