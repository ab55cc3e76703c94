/* w = gamma (p - mean(p)) / (std(p) + epsilon) + beta        ("An Attention Free Transformer", equation 8), head by head
 *
 * The paper has no epsilon and does not say which std: this is that of the population, and epsilon keeps a filter whose
 * taps are all alike defined. */
#include "core/tensor.h"
#include "mechanisms/aft_parts.h"

#include <math.h>

#define EPSILON 1e-5

typedef struct filter_job {
    heed_tensor p, filter;
    const float *gamma, *beta;
} filter_job;

static double sum_of_taps(const filter_job *job, int64_t h, double mean, int squared)
{
    double sum = 0.0;
    for (int64_t r = 0; r < job->p.shape[2]; r++) {
        const float *taps = heed_row(&job->p, 0, h, r);
        for (int64_t c = 0; c < job->p.shape[3]; c++) {
            double x = (double)taps[c] - mean;
            sum += squared ? x * x : x;
        }
    }
    return sum;
}

static void make_head(void *argument, int64_t h, int worker)
{
    const filter_job *job = argument;
    (void)worker;
    double n_taps = (double)(job->p.shape[2] * job->p.shape[3]);
    double mean = sum_of_taps(job, h, 0.0, 0) / n_taps;
    double deviation = sqrt(sum_of_taps(job, h, mean, 1) / n_taps);
    double scale = (double)job->gamma[h] / (deviation + EPSILON);
    for (int64_t r = 0; r < job->p.shape[2]; r++) {
        const float *taps = heed_row(&job->p, 0, h, r);
        float *filter = heed_row(&job->filter, 0, h, r);
        for (int64_t c = 0; c < job->p.shape[3]; c++)
            filter[c] = (float)(scale * ((double)taps[c] - mean) + (double)job->beta[h]);
    }
}

void heed_aft_filter_run(heed_context *context, const heed_tensor *p, const float *gamma, const float *beta,
                         const heed_tensor *filter)
{
    filter_job job = {*p, *filter, gamma, beta};
    int64_t n_heads = p->shape[1];
    double flops = 8.0 * (double)n_heads * (double)(p->shape[2] * p->shape[3]);
    heed_report_start(context, "aft-filter", 0);
    heed_parallel_for(context, n_heads, heed_count_workers(context, n_heads, flops), make_head, &job);
}
