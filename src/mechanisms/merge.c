#include "mechanisms/merge.h"

#include "core/parallel.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

typedef struct merge_weights {
    float a, b;
    log_sum lse;
} merge_weights;

static int is_empty(log_sum lse) { return lse.maximum == -INFINITY; }

/* Of two parts with keys. The smaller weight is 1 / (1 + e^d), the larger one what is left to 1: so the weights of
 * equal values add up to exactly 1 in float, and a merge of constants is that constant. */
static merge_weights weigh(log_sum a, log_sum b)
{
    double distance = (a.maximum - b.maximum) + (a.log - b.log); /* NaN for NaN and for two infinities */
    double ratio = exp(-fabs(distance));
    if (isnan(distance) || isinf(a.maximum) || isinf(b.maximum))
        return (merge_weights){NAN, NAN, {NAN, 0.0}};
    float smaller = (float)(ratio / (1.0 + ratio));
    float larger = (float)(1.0 - (double)smaller);
    log_sum first = distance < 0.0 ? b : a;
    log_sum lse = {first.maximum, first.log + log1p(ratio)};
    return distance < 0.0 ? (merge_weights){smaller, larger, lse} : (merge_weights){larger, smaller, lse};
}

static void copy_row(float *out, const float *row, log_sum lse, int64_t n_channels)
{
    if (is_empty(lse))
        memset(out, 0, (size_t)n_channels * sizeof *out);
    else if (out != row)
        memcpy(out, row, (size_t)n_channels * sizeof *out);
}

log_sum heed_merge_rows(const heed_kernels *kernels, float *out, const float *a, log_sum lse_a, const float *b,
                        log_sum lse_b, int64_t n_channels)
{
    if (is_empty(lse_b)) {
        copy_row(out, a, lse_a, n_channels);
        return lse_a;
    }
    if (is_empty(lse_a)) {
        copy_row(out, b, lse_b, n_channels);
        return lse_b;
    }
    merge_weights w = weigh(lse_a, lse_b);
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
        log_sum sum_a = {(double)a_lse[at], 0.0}, sum_b = {(double)b_lse[at], 0.0};
        log_sum joined = heed_merge_rows(job->kernels, out + c, a_out + c, sum_a, b_out + c, sum_b, per_lse);
        if (lse)
            lse[at] = (float)(joined.maximum + joined.log);
    }
}

static void merge_task(void *argument, int64_t index, int worker)
{
    const merge_job *job = argument;
    const heed_tensor *out = &job->plan->out;
    (void)worker;
    int64_t end = heed_smaller((index + 1) * HEED_MERGE_ROWS, job->n_rows);
    for (int64_t row = index * HEED_MERGE_ROWS; row < end; row++) {
        int64_t n = row % out->shape[2], head = row / out->shape[2];
        merge_row_of_channels(job, head / out->shape[1], head % out->shape[1], n);
    }
}

void heed_merge_run(heed_context *context, const merge_plan *plan)
{
    merge_job job = {plan, context->kernels, plan->out.shape[0] * plan->out.shape[1] * plan->out.shape[2]};
    int64_t n_tasks = heed_divide_up(job.n_rows, HEED_MERGE_ROWS);
    double flops = 3.0 * (double)job.n_rows * (double)plan->out.shape[3];
    heed_report_start(context, "merge", 0);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), merge_task, &job);
}
