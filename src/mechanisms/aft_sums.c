/* From the sums of a row to its results. num and den stand in panels, as aft_weigh lays them out. */
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

#include <math.h>

static float denominator(const aft_lane *x, const aft_sums *s, int64_t c)
{
    int64_t in_panel = c % AFT_PANEL, width = heed_smaller(AFT_PANEL, x->n - (c - in_panel));
    return s->row[c / AFT_PANEL * s->panel_stride + width + in_panel];
}

int heed_aft_store_sums(const aft_job *job, const aft_lane *x, int64_t i, const aft_sums *s)
{
    float *out = heed_aft_out(job->plan, x, i), *lse = heed_aft_lse(job->plan, x, i);
    int doubtful = job->kernels->aft_ratio(out, heed_aft_query(job->plan, x, i), s->row, s->panel_stride, x->n,
                                           HEED_AFT_OUTPUTS_AHEAD * job->plan->q.stride[2]);
    for (int64_t c = 0; c < (lse ? x->n : 0); c++)
        lse[c] = (float)((double)s->reference[c] + (double)s->m + log((double)denominator(x, s, c)));
    return doubtful;
}

void heed_aft_scale_panels(const aft_job *job, float *rows, int64_t panel_stride, const float *factor, int n_rows,
                           int64_t n_channels)
{
    for (int64_t c = 0; c < n_channels; c += AFT_PANEL) {
        float *panel = rows + c / AFT_PANEL * panel_stride;
        int64_t width = heed_smaller(AFT_PANEL, n_channels - c);
        job->kernels->scale_rows(panel, 2 * AFT_PANEL, factor + c, n_rows, width);
        job->kernels->scale_rows(panel + width, 2 * AFT_PANEL, factor + c, n_rows, width);
    }
}

void heed_aft_replace_sums(aft_job *job, const aft_lane *x, int64_t i, const aft_sums *s, int spoiled, float *row)
{
    float *out = heed_aft_out(job->plan, x, i), *lse = heed_aft_lse(job->plan, x, i);
    job->kernels->aft_row(row, heed_aft_query(job->plan, x, i), x->state, x->n);
    for (int64_t c = 0; c < x->n; c++) {
        int proven = denominator(x, s, c) >= AFT_SMALLEST_PROOF && isfinite(out[c]);
        if (proven && !(spoiled && !isfinite(row[c])))
            continue;
        out[c] = row[c];
        if (lse)
            lse[c] = heed_aft_log_sum(x, c);
    }
    atomic_fetch_add_explicit(&job->exact_recomputations, 1, memory_order_relaxed);
}
