/* One list of independent tasks, run by the calling thread, by OpenMP or by the caller's hook. */
#ifndef HEED_CORE_PARALLEL_H
#define HEED_CORE_PARALLEL_H

#include "core/context.h"

typedef void heed_task(void *job, int64_t index, int worker);

/* The workers that a list of tasks may use: 1 where the work is too small to wake a thread for. */
int heed_count_workers(const heed_context *context, int64_t n_tasks, double flops);

/* Runs task(job, index, worker) for every index in [0, n_tasks), worker in [0, n_workers), and adds to the report. */
void heed_parallel_for(heed_context *context, int64_t n_tasks, int n_workers, heed_task *task, void *job);

#endif
