/* The position bias of AFT for one query and a range of keys: a matrix, a product of factors (equation 7), a band, a
 * filter. */
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
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

/* ---- factors of many keys ---- */

int64_t heed_aft_packed_floats(const aft_plan *p, int64_t n_keys)
{
    return p->query_factors.shape[3] * (n_keys + HEED_MAX_TILE_LANES);
}

void heed_aft_pack_factors(const aft_job *job, const aft_lane *x, heed_key_range keys, float *packed)
{
    const heed_tensor *v = &job->plan->key_factors;
    int64_t lanes = job->kernels->tile_lanes, n_keys = keys.end - keys.begin, n_factors = v->shape[3];
    float *tile = packed + n_keys * n_factors;
    for (int64_t j = 0; j < n_keys; j += lanes) {
        const float *rows[HEED_MAX_TILE_LANES];
        int n = (int)heed_smaller(lanes, n_keys - j);
        for (int i = 0; i < n; i++)
            rows[i] = heed_row(v, x->b, x->h, keys.begin + j + i);
        job->kernels->pack_tile(tile, rows, n, n_factors, 1.0f);
        for (int64_t c = 0; c < n_factors; c++)
            memcpy(packed + c * n_keys + j, tile + c * lanes, (size_t)n * sizeof *tile);
    }
}

void heed_aft_factored_bias(const aft_job *job, const aft_lane *x, int64_t first, int n_rows, heed_key_range keys,
                            const float *packed, heed_key_range packed_keys, float *w, int64_t stride)
{
    const heed_tensor *u = &job->plan->query_factors;
    int64_t n_keys = keys.end - keys.begin, n_packed = packed_keys.end - packed_keys.begin, n_factors = u->shape[3];
    float ones[HEED_AFT_GROUP_ROWS];
    for (int r = 0; r < n_rows; r++) {
        ones[r] = 1.0f;
        memset(w + r * stride, 0, (size_t)n_keys * sizeof *w);
    }
    for (int64_t c = 0; c < n_factors; c += HEED_AFT_FACTORS)
        job->kernels->mix_rows(w, stride, ones, heed_row(u, x->b, x->h, first) + c, u->stride[2], 1,
                               packed + c * n_packed + (keys.begin - packed_keys.begin), n_packed,
                               (int)heed_smaller(HEED_AFT_FACTORS, n_factors - c), n_rows, n_keys, NULL);
}

void heed_aft_cut_window(const aft_plan *p, int64_t b, int64_t i, heed_key_range keys, float *w)
{
    heed_key_range inside = heed_range_common(heed_aft_window(p, b, i), keys);
    for (int64_t j = keys.begin; j < keys.end; j++) {
        if (j < inside.begin || j >= inside.end)
            w[j - keys.begin] = 0.0f;
    }
}
