#include "mechanisms/merge.h"

#include "core/parallel.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

typedef struct merge_weights {
    float a, b;
    double lse;
} merge_weights;

/* The smaller weight is 1 / (1 + e^d), the larger one what is left to 1: so the weights of equal values add up to
 * exactly 1 in float, and a merge of constants is that constant. */
static merge_weights weigh(double lse_a, double lse_b)
{
    if (lse_b == -INFINITY)
        return (merge_weights){1.0f, 0.0f, lse_a};
    if (lse_a == -INFINITY)
        return (merge_weights){0.0f, 1.0f, lse_b};
    double distance = fabs(lse_a - lse_b); /* NaN for NaN and for two infinities */
    double ratio = exp(-distance);
    float smaller = (float)(ratio / (1.0 + ratio));
    float larger = (float)(1.0 - (double)smaller);
    double lse = fmax(lse_a, lse_b) + log1p(ratio);
    if (isinf(lse) || isnan(distance))
        return (merge_weights){NAN, NAN, NAN};
    return lse_a < lse_b ? (merge_weights){smaller, larger, lse} : (merge_weights){larger, smaller, lse};
}

static void copy_row(float *out, const float *row, double lse, int64_t n_channels)
{
    if (lse == -INFINITY)
        memset(out, 0, (size_t)n_channels * sizeof *out);
    else if (out != row)
        memcpy(out, row, (size_t)n_channels * sizeof *out);
}

double heed_merge_rows(const heed_kernels *kernels, float *out, const float *a, double lse_a, const float *b,
                       double lse_b, int64_t n_channels)
{
    merge_weights w = weigh(lse_a, lse_b);
    if (w.b == 0.0f && lse_b == -INFINITY)
        copy_row(out, a, lse_a, n_channels);
    else if (w.a == 0.0f && lse_a == -INFINITY)
        copy_row(out, b, lse_b, n_channels);
    else
        kernels->blend_rows(out, a, w.a, b, w.b, n_channels);
    return w.lse;
}

typedef struct merge_job {
    const merge_plan *plan;
    const heed_kernels *kernels;
    int64_t n_rows;
} merge_job;

static void merge_row_of_channels(const merge_job *job, int64_t b, int64_t h, int64_t n)
{
    const merge_plan *p = job->plan;
    const float *a_out = heed_row(&p->out_a, b, h, n), *a_lse = heed_row(&p->lse_a, b, h, n);
    const float *b_out = heed_row(&p->out_b, b, h, n), *b_lse = heed_row(&p->lse_b, b, h, n);
    float *out = heed_row(&p->out, b, h, n), *lse = heed_row(&p->lse, b, h, n);
    int64_t n_channels = p->out.shape[3], per_lse = p->lse_a.shape[3] == n_channels ? 1 : n_channels;
    for (int64_t c = 0; c < n_channels; c += per_lse) {
        int64_t at = c / per_lse;
        double joined =
            heed_merge_rows(job->kernels, out + c, a_out + c, (double)a_lse[at], b_out + c, (double)b_lse[at], per_lse);
        if (lse)
            lse[at] = (float)joined;
    }
}

static void merge_task(void *argument, int64_t index, int worker)
{
    const merge_job *job = argument;
    const heed_tensor *out = &job->plan->out;
    (void)worker;
    int64_t end = (index + 1) * HEED_MERGE_ROWS < job->n_rows ? (index + 1) * HEED_MERGE_ROWS : job->n_rows;
    for (int64_t row = index * HEED_MERGE_ROWS; row < end; row++) {
        int64_t n = row % out->shape[2], head = row / out->shape[2];
        merge_row_of_channels(job, head / out->shape[1], head % out->shape[1], n);
    }
}

void heed_merge_run(heed_context *context, const merge_plan *plan)
{
    merge_job job = {plan, context->kernels, plan->out.shape[0] * plan->out.shape[1] * plan->out.shape[2]};
    int64_t n_tasks = (job.n_rows + HEED_MERGE_ROWS - 1) / HEED_MERGE_ROWS;
    double flops = 3.0 * (double)job.n_rows * (double)plan->out.shape[3];
    heed_report_start(context, "merge", 0);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), merge_task, &job);
}
