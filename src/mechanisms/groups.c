#include "mechanisms/groups.h"

#include "core/sizes.h"

#include <math.h>

int64_t heed_count_fine_heads(const heed_resolutions *resolutions, int64_t first, int64_t n)
{
    int64_t fine = 0;
    for (int64_t h = first; h < first + n; h++)
        fine += heed_group_size(resolutions, h) == 1;
    return fine;
}

/* A class token is not part of a patch; everything behind it is. */
static int64_t count_patches(const heed_groups *g, int64_t n_tokens)
{
    if (n_tokens <= 0)
        return 0;
    int64_t per_band = heed_divide_up(g->grid_width, g->size);
    int64_t last_row = (n_tokens - 1) / g->grid_width, band = last_row / g->size;
    if (last_row > band * g->size)
        return (band + 1) * per_band;
    return band * per_band + heed_divide_up(n_tokens - last_row * g->grid_width, g->size);
}

int64_t heed_count_groups(const heed_groups *g)
{
    int64_t others = g->n_tokens - g->class_tokens;
    if (others < 0)
        return 0;
    return g->class_tokens + (g->grid_width > 0 ? count_patches(g, others) : heed_divide_up(others, g->size));
}

static heed_group patch_at(const heed_groups *g, int64_t index)
{
    int64_t per_band = heed_divide_up(g->grid_width, g->size);
    int64_t y = index / per_band * g->size, x = index % per_band * g->size;
    heed_group patch = {.first = g->class_tokens + y * g->grid_width + x, .pitch = g->grid_width};
    patch.n_columns = heed_smaller(g->size, g->grid_width - x);
    patch.n_rows = heed_smaller(heed_smaller(g->size, g->grid_height - y),
                                heed_divide_up(g->n_tokens - patch.first, g->grid_width));
    int64_t whole_rows = patch.n_rows - 1;
    patch.n_tokens = whole_rows * patch.n_columns +
                     heed_smaller(patch.n_columns, g->n_tokens - patch.first - whole_rows * g->grid_width);
    return patch;
}

heed_group heed_group_at(const heed_groups *g, int64_t index)
{
    if (index < g->class_tokens)
        return (heed_group){.first = index, .n_rows = 1, .n_columns = 1, .n_tokens = 1};
    index -= g->class_tokens;
    if (g->grid_width > 0)
        return patch_at(g, index);
    heed_group group = {.first = g->class_tokens + index * g->size, .n_rows = 1};
    group.n_columns = group.n_tokens = heed_smaller(g->size, g->n_tokens - group.first);
    return group;
}

int64_t heed_count_whole_groups(const heed_groups *g, int64_t index, int64_t n)
{
    if (index < g->class_tokens)
        return 0;
    heed_group group = heed_group_at(g, index);
    if (g->grid_width == 0)
        return heed_smaller(n, (g->n_tokens - group.first) / g->size);
    if (group.n_rows < g->size)
        return 0;
    int64_t row_end = (group.first - g->class_tokens) / g->grid_width * g->grid_width + g->grid_width;
    int64_t columns = row_end - (group.first - g->class_tokens);
    int64_t last_row = g->n_tokens - group.first - (g->size - 1) * g->grid_width;
    return heed_smaller(n, heed_smaller(columns, last_row) / g->size);
}

double heed_log_largest_group(const heed_groups *g)
{
    if (g->grid_width > 0)
        return log((double)heed_smaller(g->size, g->grid_height)) + log((double)heed_smaller(g->size, g->grid_width));
    return log((double)heed_smaller(g->size, heed_larger(g->most_tokens, 1)));
}
