/* Rows that stand for groups of tokens: their mean, their first one, or a weighted mean. */
#ifndef HEED_MECHANISMS_POOLING_H
#define HEED_MECHANISMS_POOLING_H

#include "heed.h"
#include "kernels/kernels.h"
#include "mechanisms/groups.h"

typedef struct group_pooling {
    heed_groups groups;
    heed_pooling kind;
    const float *weights; /* LEARNED: of the tokens of a group, row by row */
} group_pooling;

/* The rows of one side and head: token t at data + t stride. */
typedef struct token_rows {
    const float *data;
    int64_t stride, n_channels;
} token_rows;

/* The rows of n groups from `first` on, which have tokens, o_stride apart. */
void heed_pool_groups(const heed_kernels *kernels, const group_pooling *pooling, token_rows x, int64_t first, int64_t n,
                      float *o, int64_t o_stride);

/* Sums over the tokens of a group so far, which is one of a sequence without class token: two rows `stride` apart, of the
 * tokens but the latest up to HEED_FOLD_KEYS, and of these. */
typedef struct prefix_sums {
    float *rows;
    int64_t stride;
} prefix_sums;

/* Adds token t of its group, of which those before were added; with t = 0 a group begins. */
void heed_prefix_add(const heed_kernels *kernels, const group_pooling *pooling, prefix_sums sums, const float *x,
                     int64_t n_channels, int64_t t);

/* The row that stands for tokens 0 to t of the group. */
void heed_prefix_row(const heed_kernels *kernels, const group_pooling *pooling, prefix_sums sums, int64_t n_channels,
                     int64_t t, float *row);

#endif
