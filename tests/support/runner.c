#include "support/runner.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const runner_threading runner_threadings[N_THREADINGS] = {
    {"one thread", 1, NULL},
    {"two threads", 2, NULL},
    {"three threads", 3, NULL},
    {"serial hook", 4, hook_serial},
    {"reverse hook", 2, hook_reverse},
    {"scattered hook", 5, hook_scattered},
    {"two threads of four promised", 4, hook_fewer},
};

static heed_isa find_isa(const char *name)
{
    for (int isa = HEED_ISA_SCALAR; isa <= HEED_ISA_NEON; isa++) {
        if (strcmp(name, heed_isa_name((heed_isa)isa)) == 0)
            return (heed_isa)isa;
    }
    return HEED_ISA_AUTO;
}

heed_isa runner_isa(void)
{
    const char *name = getenv("HEED_ISA");
    if (name && *name)
        return find_isa(name);
    static const heed_isa best_first[] = {HEED_ISA_AVX512, HEED_ISA_AVX2, HEED_ISA_NEON};
    for (int n = 0; n < 3; n++) {
        if (heed_isa_supported(best_first[n]))
            return best_first[n];
    }
    return HEED_ISA_SCALAR;
}

void runner_require_isa(void)
{
    const heed_isa isa = runner_isa();
    if (isa == HEED_ISA_AUTO) {
        fprintf(stderr, "HEED_ISA=%s: no such instruction set\n", getenv("HEED_ISA"));
        exit(1);
    }
    if (!heed_isa_supported(isa)) {
        fprintf(stderr, "skipped: %s is not in this build or not on this machine\n", heed_isa_name(isa));
        exit(77);
    }
}

int64_t runner_tile_lanes(void)
{
    switch (runner_isa()) {
    case HEED_ISA_AVX512:
        return 48;
    case HEED_ISA_AVX2:
        return 24;
    case HEED_ISA_NEON:
        return 12;
    default:
        return 3;
    }
}

int runner_quick(void)
{
    const char *text = getenv("HEED_TEST_QUICK");
    return text && *text && strcmp(text, "0") != 0;
}

int runner_takes(int64_t case_index) { return !runner_quick() || case_index % 7 == 0; }

heed_context *runner_context(int n_threads, heed_parallel_for_fn hook)
{
    /* The hooks only read their pool: one int for each number of workers, for as long as the program runs. */
    static const int workers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.n_threads = n_threads;
    config.parallel_for = hook;
    config.pool = hook ? (void *)(uintptr_t)&workers[n_threads] : NULL;
    heed_context *context = NULL;
    char message[256];
    const heed_status status = heed_context_create(&config, &context, message, sizeof(message));
    if (status == HEED_ERROR_UNSUPPORTED && n_threads > 1 && !hook)
        return NULL;
    if (status != HEED_OK) {
        fprintf(stderr, "heed_context_create: %s: %s\n", heed_status_text(status), message);
        exit(1);
    }
    return context;
}

void hook_serial(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    (void)pool;
    for (int64_t index = 0; index < n_tasks; index++)
        task(job, index, 0);
}

void hook_reverse(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    const int n_workers = *(const int *)pool;
    for (int64_t index = n_tasks - 1; index >= 0; index--)
        task(job, index, n_workers - 1);
}

void hook_scattered(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    const int n_workers = *(const int *)pool;
    /* 7919 is a prime, so multiples of it meet every index once unless n_tasks is one of them. */
    const int64_t step = n_tasks % 7919 == 0 ? 1 : 7919;
    for (int64_t n = 0; n < n_tasks; n++)
        task(job, (n % n_tasks * (step % n_tasks)) % n_tasks, (int)(n % n_workers));
}

typedef struct shared_tasks {
    atomic_llong next;
    int64_t n_tasks;
    void (*task)(void *job, int64_t index, int worker);
    void *job;
} shared_tasks;

static void take_tasks(shared_tasks *shared, int worker)
{
    for (;;) {
        const int64_t index = atomic_fetch_add(&shared->next, 1);
        if (index >= shared->n_tasks)
            return;
        shared->task(shared->job, index, worker);
    }
}

static void *run_second_worker(void *shared)
{
    take_tasks(shared, 1);
    return NULL;
}

void hook_fewer(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    (void)pool;
    shared_tasks shared = {.n_tasks = n_tasks, .task = task, .job = job};
    atomic_init(&shared.next, 0);
    pthread_t second;
    const int started = pthread_create(&second, NULL, run_second_worker, &shared) == 0;
    take_tasks(&shared, 0);
    if (started)
        pthread_join(second, NULL);
}
