/* Who sees whom: the sentence at heed_mask, one condition after the other. */
#include "oracle.h"

static int64_t find_offset(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c)
{
    const int64_t *stride = tensor->stride;
    /* Where a size is 1 the index is 0, and the stride may be anything. */
    return (b > 0 ? b * stride[0] : 0) + (h > 0 ? h * stride[1] : 0) + (n > 0 ? n * stride[2] : 0) + c;
}

double oracle_value(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c)
{
    const float *data = tensor->data;
    return data[find_offset(tensor, b, h, n, c)];
}

static int64_t broadcast_index(const heed_tensor *tensor, int axis, int64_t index)
{
    return tensor->shape[axis] == 1 ? 0 : index;
}

double oracle_broadcast_value(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c)
{
    return oracle_value(tensor, broadcast_index(tensor, 0, b), broadcast_index(tensor, 1, h),
                        broadcast_index(tensor, 2, n), broadcast_index(tensor, 3, c));
}

static int read_flag(const heed_tensor *visible, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const int64_t offset = find_offset(visible, broadcast_index(visible, 0, b), broadcast_index(visible, 1, h),
                                       broadcast_index(visible, 2, i), broadcast_index(visible, 3, j));
    return ((const unsigned char *)visible->data)[offset] != 0;
}

int64_t oracle_query_length(const heed_mask *mask, int64_t b, int64_t n_queries)
{
    return mask && mask->query_lengths ? mask->query_lengths[b] : n_queries;
}

int64_t oracle_key_length(const heed_mask *mask, int64_t b, int64_t n_keys)
{
    return mask && mask->key_lengths ? mask->key_lengths[b] : n_keys;
}

int64_t oracle_distance(const heed_mask *mask, int64_t b, int64_t i, int64_t j, int64_t n_queries, int64_t n_keys)
{
    const heed_alignment alignment = mask ? mask->alignment : HEED_ALIGN_BOTTOM_RIGHT;
    if (alignment == HEED_ALIGN_TOP_LEFT)
        return j - i;
    if (alignment == HEED_ALIGN_POSITIONS) {
        const int64_t query_start = mask->query_start ? mask->query_start[b] : 0;
        const int64_t key_start = mask->key_start ? mask->key_start[b] : 0;
        return (key_start + j) - (query_start + i);
    }
    return j - (i + oracle_key_length(mask, b, n_keys) - oracle_query_length(mask, b, n_queries));
}

int oracle_visible(const heed_mask *mask, int64_t b, int64_t h, int64_t i, int64_t j, int64_t n_queries, int64_t n_keys)
{
    if (i >= oracle_query_length(mask, b, n_queries) || j >= oracle_key_length(mask, b, n_keys))
        return 0;
    if (!mask)
        return 1;
    const int64_t p = oracle_distance(mask, b, i, j, n_queries, n_keys);
    if (mask->causal && p > 0)
        return 0;
    if (mask->window_left != -1 && p < -mask->window_left)
        return 0;
    if (mask->window_right != -1 && p > mask->window_right)
        return 0;
    return !mask->visible || read_flag(mask->visible, b, h, i, j);
}
