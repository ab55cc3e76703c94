#include "thread_pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct pool_worker {
    thread_pool *pool;
    pthread_t thread;
    int index; /* what the tasks see as `worker`; the caller of parallel_for is 0, these start at 1 */
} pool_worker;

struct thread_pool {
    pthread_mutex_t mutex; /* guards everything up to `job` */
    pthread_cond_t work_came;
    pthread_cond_t work_done;
    int stopping;
    int taken;      /* a round is running */
    uint64_t round; /* counts the calls; a worker takes part in each round once */
    int n_in_round; /* workers that have not left the round */
    int64_t n_tasks;
    void (*task)(void *job, int64_t index, int worker);
    void *job;
    atomic_int_fast64_t next; /* the next index nobody has taken */
    int n_threads;
    pool_worker workers[]; /* n_threads - 1 */
};

static void run_tasks(thread_pool *pool, int worker)
{
    for (;;) {
        const int64_t index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (index >= pool->n_tasks)
            return;
        pool->task(pool->job, index, worker);
    }
}

static void *run_worker(void *argument)
{
    pool_worker *self = argument;
    thread_pool *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->stopping && pool->round == seen)
            pthread_cond_wait(&pool->work_came, &pool->mutex);
        if (pool->stopping)
            break;
        seen = pool->round;
        pthread_mutex_unlock(&pool->mutex);
        run_tasks(pool, self->index);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->n_in_round == 0)
            pthread_cond_signal(&pool->work_done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* Joins the first n_started workers. */
static void stop_workers(thread_pool *pool, int n_started)
{
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = 1;
    pthread_cond_broadcast(&pool->work_came);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

static void free_pool(thread_pool *pool)
{
    pthread_cond_destroy(&pool->work_done);
    pthread_cond_destroy(&pool->work_came);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

thread_pool *thread_pool_create(int n_threads)
{
    if (n_threads < 1)
        return NULL;
    const size_t n_workers = (size_t)n_threads - 1;
    thread_pool *pool = calloc(1, sizeof *pool + n_workers * sizeof pool->workers[0]);
    if (pool == NULL)
        return NULL;
    pool->n_threads = n_threads;
    atomic_init(&pool->next, 0);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work_came, NULL);
    pthread_cond_init(&pool->work_done, NULL);
    for (int i = 0; i < n_threads - 1; i++) {
        pool_worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i + 1;
        if (pthread_create(&worker->thread, NULL, run_worker, worker) != 0) {
            stop_workers(pool, i);
            free_pool(pool);
            return NULL;
        }
    }
    return pool;
}

void thread_pool_destroy(thread_pool *pool)
{
    if (pool == NULL)
        return;
    stop_workers(pool, pool->n_threads - 1);
    free_pool(pool);
}

int thread_pool_n_threads(const thread_pool *pool) { return pool->n_threads; }

/* Starts a round unless one is running. */
static int take_pool(thread_pool *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    pthread_mutex_lock(&pool->mutex);
    const int is_free = !pool->taken;
    if (is_free) {
        pool->taken = 1;
        pool->round++;
        pool->n_in_round = pool->n_threads - 1;
        pool->n_tasks = n_tasks;
        pool->task = task;
        pool->job = job;
        atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
        pthread_cond_broadcast(&pool->work_came);
    }
    pthread_mutex_unlock(&pool->mutex);
    return is_free;
}

/* Waits until every worker has left the round: only then may the job go away, or the next round begin. */
static void leave_pool(thread_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    while (pool->n_in_round > 0)
        pthread_cond_wait(&pool->work_done, &pool->mutex);
    pool->taken = 0;
    pthread_mutex_unlock(&pool->mutex);
}

void thread_pool_parallel_for(void *memory, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker),
                              void *job)
{
    thread_pool *pool = memory;
    if (!take_pool(pool, n_tasks, task, job)) {
        for (int64_t index = 0; index < n_tasks; index++)
            task(job, index, 0);
        return;
    }
    run_tasks(pool, 0);
    leave_pool(pool);
}
