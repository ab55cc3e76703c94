#include "mechanisms/hide.h"

#include "core/tensor.h"

void heed_hide_outside(const heed_kernels *kernels, float *scores, const heed_key_range *sees, int n_rows,
                       int n_vectors, heed_key_range block)
{
    int n_keys = (int)(block.end - block.begin), edge = 0;
    for (int r = 0; r < n_rows; r++)
        edge |= sees[r].begin > block.begin || sees[r].end < block.end;
    if (!edge)
        return;
    float begin[HEED_MAX_TILE_LANES] = {0}, end[HEED_MAX_TILE_LANES] = {0};
    for (int r = 0; r < n_rows; r++) {
        int64_t first = sees[r].begin - block.begin, last = sees[r].end - block.begin;
        begin[r] = (float)(first < 0 ? 0 : first > n_keys ? n_keys : first);
        end[r] = (float)(last < 0 ? 0 : last > n_keys ? n_keys : last);
    }
    kernels->range_tile(scores, begin, end, n_keys, n_vectors);
}

void heed_hide_unseen(const heed_kernels *kernels, float *scores, const heed_tensor *visible, int64_t b,
                      const int64_t *head, const int64_t *query, int n_rows, heed_key_range block)
{
    const uint8_t *rows[HEED_MAX_TILE_LANES];
    for (int r = 0; r < n_rows; r++)
        rows[r] = heed_bool_row(visible, b, head[r], query[r]) + block.begin;
    kernels->visible_tile(scores, rows, n_rows, (int)(block.end - block.begin));
}
