/* The position bias of AFT for one query and a range of keys: a matrix, a product of factors (equation 7), a band, a
 * filter. */
#include "core/tensor.h"
#include "mechanisms/aft_parts.h"

#include <math.h>
#include <string.h>

static float factored_bias(const float *u, const float *v, int64_t n_factors)
{
    double sum = 0.0;
    for (int64_t c = 0; c < n_factors; c++)
        sum += (double)u[c] * (double)v[c];
    return (float)sum;
}

/* Bias of the full form, before any window. */
static void full_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, heed_key_range keys, float *w)
{
    int64_t n_factors = p->query_factors.shape[3];
    if (p->w.data) {
        memcpy(w, heed_row(&p->w, b, h, i) + keys.begin, (size_t)(keys.end - keys.begin) * sizeof *w);
        return;
    }
    for (int64_t j = keys.begin; j < keys.end; j++)
        w[j - keys.begin] = p->query_factors.data ? factored_bias(heed_row(&p->query_factors, b, h, i),
                                                                  heed_row(&p->key_factors, b, h, j), n_factors)
                                                  : 0.0f;
}

heed_key_range heed_aft_window(const aft_plan *p, int64_t b, int64_t i)
{
    int64_t here = i - heed_position_offset(&p->mask, b), n_taps = p->filter.shape[3];
    if (p->form == AFT_CONV) {
        int64_t begin = here - (p->mask.mask.causal ? n_taps - 1 : (n_taps - 1) / 2);
        return (heed_key_range){begin, begin + n_taps};
    }
    return (heed_key_range){here - p->window + 1, here + p->window};
}

static void local_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, heed_key_range keys, float *w)
{
    heed_key_range window = heed_aft_window(p, b, i), inside = heed_range_common(window, keys);
    for (int64_t j = keys.begin; j < keys.end; j++)
        w[j - keys.begin] = p->nothing_outside ? -INFINITY : 0.0f;
    if (heed_range_is_empty(inside))
        return;
    if (p->banded)
        memcpy(w + (inside.begin - keys.begin), heed_row(&p->w, b, h, i) + (inside.begin - window.begin),
               (size_t)(inside.end - inside.begin) * sizeof *w);
    else
        full_bias(p, b, h, i, inside, w + (inside.begin - keys.begin));
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
    if (p->form == AFT_LOCAL)
        local_bias(p, b, h, i, keys, w);
    else if (p->form == AFT_FULL)
        full_bias(p, b, h, i, keys, w);
    for (int64_t j = keys.begin; j < keys.end && (p->form == AFT_SIMPLE || p->form == AFT_CONV); j++)
        w[j - keys.begin] = p->form == AFT_CONV ? filter_bias(p, h, i, j, j - i + offset) : 0.0f;
    for (int64_t j = keys.begin; visible && j < keys.end; j++) {
        if (!visible[j])
            w[j - keys.begin] = -INFINITY;
    }
}
