/* penalty = c sum_h |E_h|^2,   dw_h = 4 c E_h w_h,   E_h = w_h w_h^T - I,   c = lambda / (H in^2)
 *
 * Row i of E_h is all that its part of the penalty and row i of dw_h need, so E_h is never whole. */
#include "mechanisms/orthogonality.h"

#include "core/parallel.h"
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"

typedef struct orthogonality_job {
    const orthogonality_plan *plan;
    double *errors;   /* [in], a row of E_h */
    double *gradient; /* [out], a row of E_h w_h */
    double factor;    /* c */
    double sum;       /* of squared errors, over the heads so far */
} orthogonality_job;

static int64_t place(orthogonality_job *job, char *memory, const heed_tensor *w)
{
    heed_arena arena = {memory, 0};
    int64_t most = HEED_MAX_SCRATCH_CHANNELS, size = (int64_t)sizeof(double);
    job->errors = heed_arena_take(&arena, heed_smaller(w->shape[2], most) * size);
    job->gradient = heed_arena_take(&arena, heed_smaller(w->shape[3], most) * size);
    return arena.bytes;
}

int64_t heed_orthogonality_bytes(const heed_tensor *w)
{
    orthogonality_job job;
    return place(&job, NULL, w);
}

/* Four sums, so that an addition need not wait for the one before it. */
static double dot(const float *x, const float *y, int64_t n)
{
    double sum[4] = {0.0};
    int64_t k = 0;
    for (; k + 4 <= n; k += 4) {
        for (int64_t lane = 0; lane < 4; lane++)
            sum[lane] += (double)x[k + lane] * (double)y[k + lane];
    }
    for (; k < n; k++)
        sum[k % 4] += (double)x[k] * (double)y[k];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void store_gradient(const orthogonality_job *job, int64_t h, int64_t i)
{
    const heed_tensor *w = &job->plan->w;
    int64_t n_rows = w->shape[2], n_columns = w->shape[3];
    for (int64_t k = 0; k < n_columns; k++)
        job->gradient[k] = 0.0;
    for (int64_t j = 0; j < n_rows; j++) {
        const float *row = heed_row(w, 0, h, j);
        for (int64_t k = 0; k < n_columns; k++)
            job->gradient[k] += job->errors[j] * (double)row[k];
    }
    float *dw = heed_row(&job->plan->dw, 0, h, i);
    for (int64_t k = 0; k < n_columns; k++) {
        double before = job->plan->accumulate ? (double)dw[k] : 0.0;
        dw[k] = (float)(before + 4.0 * job->factor * job->gradient[k]);
    }
}

static void add_head(void *argument, int64_t h, int worker)
{
    orthogonality_job *job = argument;
    const heed_tensor *w = &job->plan->w;
    (void)worker;
    for (int64_t i = 0; i < w->shape[2]; i++) {
        for (int64_t j = 0; j < w->shape[2]; j++) {
            double error = dot(heed_row(w, 0, h, i), heed_row(w, 0, h, j), w->shape[3]) - (i == j ? 1.0 : 0.0);
            job->errors[j] = error;
            job->sum += error * error;
        }
        if (job->plan->dw.data)
            store_gradient(job, h, i);
    }
}

double heed_orthogonality_run(heed_context *context, const orthogonality_plan *plan)
{
    orthogonality_job job = {.plan = plan};
    int64_t n_heads = plan->w.shape[1], bytes = place(&job, heed_scratch_slice(context, 0), &plan->w);
    double n_rows = (double)plan->w.shape[2];
    job.factor = plan->lambda / ((double)heed_larger(n_heads, 1) * n_rows * n_rows);
    heed_report_start(context, "orthogonality", bytes);
    heed_parallel_for(context, n_heads, 1, add_head, &job); /* one worker: all heads share a sum, which has one order */
    return job.factor * job.sum;
}
