/* The position bias of AFT, one number after the other: a matrix, a product of factors (equation 7), a band, a filter. */
#include "core/tensor.h"
#include "mechanisms/aft_parts.h"

#include <math.h>

static float factored_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const float *u = heed_row(&p->query_factors, b, h, i), *v = heed_row(&p->key_factors, b, h, j);
    double sum = 0.0;
    for (int64_t c = 0; c < p->query_factors.shape[3]; c++)
        sum += (double)u[c] * (double)v[c];
    return (float)sum;
}

/* w_ij of the full form, before any window. */
static float matrix_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    if (p->w.data)
        return heed_row(&p->w, b, h, i)[j];
    return p->query_factors.data ? factored_bias(p, b, h, i, j) : 0.0f;
}

static float local_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, int64_t j, int64_t distance)
{
    if (distance <= -p->window || distance >= p->window)
        return p->nothing_outside ? -INFINITY : 0.0f;
    if (p->banded)
        return heed_row(&p->w, b, h, i)[distance + p->window - 1];
    return matrix_bias(p, b, h, i, j);
}

/* The tap at `distance` along one dimension of the filter, or -1. */
static int64_t tap_at(int64_t distance, int64_t n_taps, int causal)
{
    int64_t tap = distance + (causal ? n_taps - 1 : (n_taps - 1) / 2);
    return tap >= 0 && tap < n_taps ? tap : -1;
}

static float filter_bias(const aft_plan *p, int64_t h, int64_t i, int64_t j, int64_t distance)
{
    int64_t row = 0, column, width = p->grid_width;
    if (width == 0) {
        column = tap_at(distance, p->filter.shape[3], p->mask.mask.causal);
    } else {
        row = tap_at(j / width - i / width, p->filter.shape[2], 0);
        column = tap_at(j % width - i % width, p->filter.shape[3], 0);
    }
    return row < 0 || column < 0 ? 0.0f : heed_row(&p->filter, 0, h, row)[column];
}

void heed_aft_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, heed_key_range keys, float *w)
{
    int64_t offset = heed_position_offset(&p->mask, b);
    const uint8_t *visible = p->mask.visible.data ? heed_bool_row(&p->mask.visible, b, h, i) : NULL;
    for (int64_t j = keys.begin; j < keys.end; j++) {
        float *bias = w + (j - keys.begin);
        int64_t distance = j - i + offset;
        if (visible && !visible[j])
            *bias = -INFINITY;
        else if (p->form == AFT_CONV)
            *bias = filter_bias(p, h, i, j, distance);
        else if (p->form == AFT_LOCAL)
            *bias = local_bias(p, b, h, i, j, distance);
        else
            *bias = matrix_bias(p, b, h, i, j);
    }
}
