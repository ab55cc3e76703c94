/* A small pool of POSIX threads that a heed context can use instead of its own threads:
 *
 *     thread_pool *pool = thread_pool_create(4);
 *     heed_config config = HEED_CONFIG_INIT;
 *     config.n_threads = thread_pool_n_threads(pool);
 *     config.parallel_for = thread_pool_parallel_for;
 *     config.pool = pool;
 *
 * An engine with a pool of its own writes thread_pool_parallel_for() for it and needs nothing else from here. */
#ifndef HEED_EXAMPLES_THREAD_POOL_H
#define HEED_EXAMPLES_THREAD_POOL_H

#include <stdint.h>

typedef struct thread_pool thread_pool;

/* A pool of n_threads >= 1 threads, the calling one among them: n_threads - 1 are started. NULL when that fails. */
thread_pool *thread_pool_create(int n_threads);

/* Stops the threads and frees the pool. NULL is fine. Nothing may be running in the pool. */
void thread_pool_destroy(thread_pool *pool);

int thread_pool_n_threads(const thread_pool *pool);

/* Runs task(job, index, worker) for every index in [0, n_tasks) and returns when all have run: a heed_parallel_for_fn.
 * The caller is worker 0 and works too. Any thread may call it, also a task that runs in the pool: while the pool is
 * taken, the caller runs its tasks alone. */
void thread_pool_parallel_for(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker),
                              void *job);

#endif
