/* Linear up-sampling: token i between the centres a and b of neighbouring groups has the row
 *
 *     (b - i) / (b - a) o_a + (i - a) / (b - a) o_b
 *
 * in place: the row of a group stands in that of its first token until the group's turn comes, from the left. */
#include "core/parallel.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/mrsha_parts.h"

#include <string.h>

typedef struct upsample_job {
    const mrsha_plan *plan;
    heed_context *context;
} upsample_job;

static double centre_of(const heed_group *group) { return (double)group->first + (double)(group->n_tokens - 1) / 2.0; }

/* Between two centres; both rows count, as no token stands at either. */
static void blend(const heed_kernels *kernels, float *out, double i, const float *a, double at_a, const float *b,
                  double at_b, int64_t dv)
{
    double share = (i - at_a) / (at_b - at_a);
    kernels->blend_rows(out, a, (float)(1.0 - share), b, (float)share, dv);
}

static void interpolate_head(const upsample_job *job, int64_t b, int64_t h, const mrsha_scratch *w)
{
    const softmax_plan *p = &job->plan->coarse;
    const heed_kernels *kernels = job->context->kernels;
    int64_t dv = p->v.shape[3], length = heed_query_length(&p->mask, b);
    size_t row_bytes = (size_t)dv * sizeof(float);
    group_pooling queries = heed_mrsha_pooling(job->plan, h, length);
    int64_t first = queries.groups.class_tokens, n_groups = heed_count_groups(&queries.groups);
    float *before = w->rows, *here = w->rows + w->row_stride;
    double at_before = 0.0;
    for (int64_t g = first; g < n_groups; g++) {
        heed_group group = heed_group_at(&queries.groups, g), behind = {0};
        const float *next = NULL;
        double at = centre_of(&group);
        memcpy(here, heed_row(&p->out, b, h, group.first), row_bytes);
        if (g + 1 < n_groups) {
            behind = heed_group_at(&queries.groups, g + 1);
            next = heed_row(&p->out, b, h, behind.first);
        }
        for (int64_t i = group.first; i < group.first + group.n_tokens; i++) {
            float *out = heed_row(&p->out, b, h, i);
            if ((double)i < at && g > first)
                blend(kernels, out, (double)i, before, at_before, here, at, dv);
            else if ((double)i > at && next)
                blend(kernels, out, (double)i, here, at, next, centre_of(&behind), dv);
            else
                memcpy(out, here, row_bytes);
        }
        memcpy(before, here, row_bytes);
        at_before = at;
    }
    for (int64_t i = length; i < p->out.shape[2]; i++)
        memset(heed_row(&p->out, b, h, i), 0, row_bytes);
}

static void interpolate_task(void *argument, int64_t index, int worker)
{
    const upsample_job *job = argument;
    const softmax_plan *p = &job->plan->coarse;
    int64_t n_heads = p->q.shape[1], h = index % n_heads;
    mrsha_scratch w = heed_mrsha_carve(heed_scratch_slice(job->context, worker), p->q.shape[3], p->v.shape[3], NULL);
    if (heed_group_size(&job->plan->heads.resolutions, h) > 1)
        interpolate_head(job, index / n_heads, h, &w);
}

void heed_mrsha_interpolate(heed_context *context, const mrsha_plan *plan)
{
    upsample_job job = {plan, context};
    const heed_tensor *out = &plan->coarse.out;
    int64_t n_tasks = out->shape[0] * out->shape[1];
    double flops = 3.0 * (double)n_tasks * (double)out->shape[2] * (double)out->shape[3];
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), interpolate_task, &job);
}
