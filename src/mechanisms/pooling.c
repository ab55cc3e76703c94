/* x_bar = sum_t w_t x_t / sum_t w_t over the tokens of a group that count: the projection on the Haar scaling functions
 * where all weights are 1 (docs/mrsha.md). Long groups are summed in two levels. */
#include "mechanisms/pooling.h"

#include "core/sizes.h"
#include "core/tuning.h"

/* What a weighted sum is divided by. */
static double sum_weights(heed_pooling kind, const group_pooling *p, const heed_group *group)
{
    if (kind == HEED_POOLING_FIRST)
        return 1.0;
    if (kind == HEED_POOLING_MEAN)
        return (double)group->n_tokens;
    double sum = 0.0;
    for (int64_t t = 0, y = 0; t < group->n_tokens; y++) {
        for (int64_t x = 0; x < group->n_columns && t < group->n_tokens; x++, t++)
            sum += (double)p->weights[y * p->groups.size + x];
    }
    return sum;
}

/* `group` and those behind it, n of one kind, S tokens apart. A class token is what it is. */
static void pool_alike(const heed_kernels *kernels, const group_pooling *p, token_rows x, const heed_group *group,
                       int n, float *o, int64_t o_stride)
{
    heed_pooling kind = group->first < p->groups.class_tokens ? HEED_POOLING_MEAN : p->kind;
    float share = (float)(1.0 / sum_weights(kind, p, group));
    int64_t group_stride = n > 1 ? p->groups.size * x.stride : 0;
    int64_t left = kind == HEED_POOLING_FIRST ? 1 : group->n_tokens;
    for (int64_t y = 0, in_row; left > 0; y++) {
        in_row = heed_smaller(group->n_columns, left);
        for (int64_t t = 0, part; t < in_row; t += part, left -= part) {
            part = heed_smaller(HEED_FOLD_KEYS, in_row - t);
            const float *weights = kind == HEED_POOLING_LEARNED ? p->weights + y * p->groups.size + t : NULL;
            kernels->pool_rows(o, o_stride, x.data + (group->first + y * group->pitch + t) * x.stride, group_stride,
                               x.stride, weights, left == part ? share : 1.0f, (int)part, n, x.n_channels,
                               y > 0 || t > 0);
        }
    }
}

void heed_pool_groups(const heed_kernels *kernels, const group_pooling *p, token_rows x, int64_t first, int64_t n,
                      float *o, int64_t o_stride)
{
    for (int64_t done = 0, alike; done < n; done += alike) {
        heed_group group = heed_group_at(&p->groups, first + done);
        alike = heed_larger(1, heed_count_whole_groups(&p->groups, first + done, n - done));
        pool_alike(kernels, p, x, &group, (int)alike, o + done * o_stride, o_stride);
    }
}

void heed_prefix_add(const heed_kernels *kernels, const group_pooling *p, prefix_sums sums, const float *x,
                     int64_t n_channels, int64_t t)
{
    float *older = sums.rows, *latest = sums.rows + sums.stride;
    const float *weight = p->kind == HEED_POOLING_LEARNED ? p->weights + t : NULL;
    if (p->kind == HEED_POOLING_FIRST && t > 0)
        return;
    if (t == 0)
        kernels->pool_rows(older, 0, x, 0, 0, NULL, 0.0f, 0, 1, n_channels, 0); /* a sum of nothing: 0 */
    else if (t % HEED_FOLD_KEYS == 0)
        kernels->pool_rows(older, 0, latest, 0, 0, NULL, 1.0f, 1, 1, n_channels, 1);
    kernels->pool_rows(latest, 0, x, 0, 0, weight, 1.0f, 1, 1, n_channels, t % HEED_FOLD_KEYS != 0);
}

void heed_prefix_row(const heed_kernels *kernels, const group_pooling *p, prefix_sums sums, int64_t n_channels,
                     int64_t t, float *row)
{
    heed_group group = {.n_rows = 1, .n_columns = t + 1, .n_tokens = t + 1};
    float factor = (float)(1.0 / sum_weights(p->kind, p, &group));
    kernels->pool_rows(row, 0, sums.rows, 0, sums.stride, NULL, factor, 2, 1, n_channels, 0);
}
