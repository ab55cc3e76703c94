/* The threads of the benchmarks: OpenMP where the build has it, else the calling thread alone. */
#ifndef HEED_BENCH_PARALLEL_H
#define HEED_BENCH_PARALLEL_H

#include <stdint.h>

/* 1 when parallel_run can use more than one thread. */
int parallel_available(void);

/* Runs body(job, worker, n_workers) once in each of up to n_threads threads and returns when all have ended. */
void parallel_run(int n_threads, void (*body)(void *job, int worker, int n_workers), void *job);

/* Waits until all workers of the enclosing parallel_run have come here. */
void parallel_barrier(void);

/* One of n_parts contiguous parts of [0, n) whose sizes differ by at most one. */
void parallel_share(int64_t n, int64_t part, int64_t n_parts, int64_t *begin, int64_t *end);

#endif
