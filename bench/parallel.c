#include "bench/parallel.h"

#ifdef _OPENMP
#include <omp.h>

int parallel_available(void) { return 1; }

void parallel_run(int n_threads, void (*body)(void *job, int worker, int n_workers), void *job)
{
    if (n_threads == 1) { /* no team: a team of one would still end in a barrier */
        body(job, 0, 1);
        return;
    }
#pragma omp parallel num_threads(n_threads)
    body(job, omp_get_thread_num(), omp_get_num_threads());
}

void parallel_barrier(void)
{
#pragma omp barrier
}

#else

int parallel_available(void) { return 0; }

void parallel_run(int n_threads, void (*body)(void *job, int worker, int n_workers), void *job)
{
    (void)n_threads;
    body(job, 0, 1);
}

void parallel_barrier(void) {}

#endif

void parallel_share(int64_t n, int64_t part, int64_t n_parts, int64_t *begin, int64_t *end)
{
    const int64_t size = n / n_parts, n_larger = n % n_parts;
    *begin = part * size + (part < n_larger ? part : n_larger);
    *end = *begin + size + (part < n_larger);
}
