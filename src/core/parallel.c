#include "core/parallel.h"

#include "core/tuning.h"

#ifdef _OPENMP
#include <omp.h>
#endif

int heed_count_workers(const heed_context *context, int64_t n_tasks, double flops)
{
    if (flops < HEED_PARALLEL_MIN_FLOPS || n_tasks < 2)
        return 1;
    return n_tasks < context->n_threads ? (int)n_tasks : context->n_threads;
}

#ifdef _OPENMP
static void run_openmp(int64_t n_tasks, int n_workers, heed_task *task, void *job)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_workers)
    for (int64_t i = 0; i < n_tasks; i++)
        task(job, i, omp_get_thread_num());
}
#endif

void heed_parallel_for(heed_context *context, int64_t n_tasks, int n_workers, heed_task *task, void *job)
{
    heed_report *report = &context->report;
    report->n_tasks += n_tasks;
    if (n_workers > report->n_workers) {
        report->scratch_bytes = report->scratch_bytes / report->n_workers * n_workers;
        report->n_workers = n_workers;
    }
    if (n_workers == 1) {
        for (int64_t i = 0; i < n_tasks; i++)
            task(job, i, 0);
        return;
    }
    if (context->parallel_for) {
        context->parallel_for(context->pool, n_tasks, task, job);
        return;
    }
#ifdef _OPENMP
    run_openmp(n_tasks, n_workers, task, job);
#endif
}
