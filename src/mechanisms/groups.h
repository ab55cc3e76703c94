/* Groups of tokens: who belongs to which, in a sequence or on a grid. */
#ifndef HEED_MECHANISMS_GROUPS_H
#define HEED_MECHANISMS_GROUPS_H

#include <stdint.h>

/* S of each head. */
typedef struct heed_resolutions {
    const int64_t *group_sizes; /* [n_heads], or NULL: the first half of them, rounded up, 1, the others 2 */
    int64_t n_heads;
} heed_resolutions;

static inline int64_t heed_group_size(const heed_resolutions *resolutions, int64_t head)
{
    if (resolutions->group_sizes)
        return resolutions->group_sizes[head];
    return head < resolutions->n_heads - resolutions->n_heads / 2 ? 1 : 2;
}

/* Heads with S = 1 among `n` from `first` on. */
int64_t heed_count_fine_heads(const heed_resolutions *resolutions, int64_t first, int64_t n);

/* How the tokens of one side are cut into groups. */
typedef struct heed_groups {
    int64_t size;                    /* S */
    int64_t n_tokens;                /* those that count, the first ones; the others belong to no group */
    int64_t most_tokens;             /* no group is taken to be larger */
    int64_t class_tokens;            /* 0 or 1: a group by itself, before all others */
    int64_t grid_height, grid_width; /* of the other tokens; 0: a sequence */
} heed_groups;

/* The tokens first + y pitch + x of a group, x < n_columns, y < n_rows; the last row may end earlier, at n_tokens. */
typedef struct heed_group {
    int64_t first, n_rows, n_columns, pitch;
    int64_t n_tokens;
} heed_group;

/* Groups with a token: the first ones, since tokens that count are the first ones, row by row. */
int64_t heed_count_groups(const heed_groups *groups);

/* Group `index`, which has a token. */
heed_group heed_group_at(const heed_groups *groups, int64_t index);

/* Groups from `index` on, at most n, that lie side by side, each of them whole; 0 where this one is not. */
int64_t heed_count_whole_groups(const heed_groups *groups, int64_t index, int64_t n);

/* log of the tokens of the largest group. */
double heed_log_largest_group(const heed_groups *groups);

#endif
