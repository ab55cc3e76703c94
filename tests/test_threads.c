/* Threads: whoever runs the tasks, in whatever order and in however many threads, the bits are the same; contexts do
 * not know of each other; small work wakes nobody; a child of fork() can go on. */
#define _POSIX_C_SOURCE 200809L
#include "../examples/thread_pool.h"
#include "heed.h"
#include "small_problem.h"
#include "support/runner.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* The outputs of each problem on one thread. */
static problem wanted[N_PROBLEMS];

static int set_up(void **state)
{
    (void)state;
    heed_context *context = runner_context(1, NULL);
    for (int i = 0; i < N_PROBLEMS; i++) {
        wanted[i] = make_problem(&problems[i]);
        if (run_problem(context, &wanted[i]) != HEED_OK)
            return 1;
    }
    heed_context_destroy(context);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < N_PROBLEMS; i++)
        free_problem(&wanted[i]);
    return 0;
}

/* A context with this hook and pool; NULL when that cannot be (threads of its own in a build without OpenMP). */
static heed_context *make_context(int n_threads, heed_parallel_for_fn hook, void *pool)
{
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.n_threads = n_threads;
    config.parallel_for = hook;
    config.pool = pool;
    heed_context *context = NULL;
    const heed_status status = heed_context_create(&config, &context, NULL, 0);
    return status == HEED_OK ? context : NULL;
}

/* Runs all problems and returns 1 when each gives the bits of one thread. Called in threads too: no assertions. */
static int gives_wanted_bits(heed_context *context)
{
    int good = context != NULL;
    for (int i = 0; good && i < N_PROBLEMS; i++) {
        problem p = make_problem(&problems[i]);
        good = run_problem(context, &p) == HEED_OK && same_outputs(&p, &wanted[i]);
        free_problem(&p);
    }
    return good;
}

static int most_threads(void)
{
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return (n < 1 ? 1 : n > 16 ? 16 : (int)n) + 3;
}

/* ---- Every number of threads, every way to run the tasks ---- */

static void test_pool(void **state)
{
    (void)state;
    for (int n = 1; n <= most_threads(); n++) {
        thread_pool *pool = thread_pool_create(n);
        assert_non_null(pool);
        heed_context *context = make_context(n, thread_pool_parallel_for, pool);
        for (int turn = 0; turn < 3; turn++)
            assert_true(gives_wanted_bits(context));
        heed_context_destroy(context);
        thread_pool_destroy(pool);
    }
}

/* OpenMP, in builds that have it. */
static void test_built_in(void **state)
{
    (void)state;
    for (int n = 0; n <= most_threads(); n++) {
        heed_context *context = make_context(n, NULL, NULL);
        if (context == NULL && n > 1)
            skip();
        assert_true(gives_wanted_bits(context));
        heed_context_destroy(context);
    }
}

/* A pool that is smaller than what the context was promised. */
static void test_fewer_workers(void **state)
{
    (void)state;
    thread_pool *pool = thread_pool_create(2);
    assert_non_null(pool);
    for (int n = 2; n <= 2 + most_threads(); n++) {
        heed_context *context = make_context(n, thread_pool_parallel_for, pool);
        assert_true(gives_wanted_bits(context));
        heed_context_destroy(context);
    }
    thread_pool_destroy(pool);
}

static void test_orders(void **state)
{
    (void)state;
    const heed_parallel_for_fn hooks[] = {hook_serial, hook_reverse, hook_scattered, hook_fewer};
    for (int h = 0; h < 4; h++)
        for (int n_workers = 2; n_workers <= 5; n_workers++) {
            heed_context *context = make_context(n_workers, hooks[h], &n_workers);
            assert_true(gives_wanted_bits(context));
            heed_context_destroy(context);
        }
}

/* ---- Calls within calls ---- */

typedef struct outer_hook {
    heed_context *inner;
    int n_calls, n_wrong;
} outer_hook;

/* Between its tasks it runs whole calls on another context, as an engine does whose threads serve several requests. */
static void call_between_tasks(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker),
                               void *job)
{
    outer_hook *outer = pool;
    for (int64_t index = 0; index < n_tasks; index++) {
        if (index < 2) {
            outer->n_calls++;
            outer->n_wrong += !gives_wanted_bits(outer->inner);
        }
        task(job, index, 0);
    }
}

static void test_two_contexts_in_turn(void **state)
{
    (void)state;
    thread_pool *pool = thread_pool_create(3);
    assert_non_null(pool);
    outer_hook outer = {.inner = make_context(3, thread_pool_parallel_for, pool)};
    heed_context *context = make_context(2, call_between_tasks, &outer);
    assert_true(gives_wanted_bits(context));
    assert_true(outer.n_calls >= N_PROBLEMS);
    assert_int_equal(outer.n_wrong, 0);
    heed_context_destroy(context);
    heed_context_destroy(outer.inner);
    thread_pool_destroy(pool);
}

typedef struct request {
    heed_context *context;
    int good;
} request;

static void serve_request(void *job, int64_t index, int worker)
{
    request *r = (request *)job + index;
    (void)worker;
    r->good = gives_wanted_bits(r->context);
}

/* The pool runs requests, and each request asks the same pool to run its tasks. */
static void test_calls_from_the_pool(void **state)
{
    (void)state;
    enum { N_REQUESTS = 5 };
    request requests[N_REQUESTS];
    thread_pool *pool = thread_pool_create(3);
    assert_non_null(pool);
    for (int i = 0; i < N_REQUESTS; i++)
        requests[i] = (request){make_context(3, thread_pool_parallel_for, pool), 0};
    thread_pool_parallel_for(pool, N_REQUESTS, serve_request, requests);
    for (int i = 0; i < N_REQUESTS; i++) {
        assert_true(requests[i].good);
        heed_context_destroy(requests[i].context);
    }
    thread_pool_destroy(pool);
}

/* ---- Threads of the user ---- */

typedef struct user {
    int n_threads;
    int good;
} user;

/* Makes a context of its own, works with it, and destroys it. */
static void *work_alone(void *argument)
{
    user *u = argument;
    thread_pool *pool = thread_pool_create(u->n_threads);
    u->good = pool != NULL;
    for (int turn = 0; u->good && turn < 4; turn++) {
        heed_context *context = make_context(u->n_threads, thread_pool_parallel_for, pool);
        u->good = gives_wanted_bits(context);
        heed_context_destroy(context);
    }
    thread_pool_destroy(pool);
    return NULL;
}

static void test_two_users(void **state)
{
    (void)state;
    pthread_t threads[3];
    user users[3] = {{1, 0}, {2, 0}, {3, 0}};
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work_alone, &users[i]), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++)
        assert_true(users[i].good);
}

/* One context handed from thread to thread, one call at a time. */
static void *call_once(void *argument)
{
    request *r = argument;
    r->good = gives_wanted_bits(r->context);
    return NULL;
}

static void test_context_moves_between_threads(void **state)
{
    (void)state;
    request r = {make_context(1, NULL, NULL), 0};
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        r.good = 0;
        assert_int_equal(pthread_create(&thread, NULL, call_once, &r), 0);
        pthread_join(thread, NULL);
        assert_true(r.good);
    }
    heed_context_destroy(r.context);
}

/* ---- fork() ---- */

/* In the child: a context from before fork(), and a pool and a context made afterwards. */
static int child_works(heed_context *inherited)
{
    int good = gives_wanted_bits(inherited);
    thread_pool *pool = thread_pool_create(2);
    heed_context *context = make_context(2, thread_pool_parallel_for, pool);
    good = good && pool != NULL && gives_wanted_bits(context);
    heed_context_destroy(context);
    thread_pool_destroy(pool);
    heed_context_destroy(inherited);
    return good;
}

/* The parent has used threads of each kind before; those of the pool are gone. */
static void test_fork(void **state)
{
    (void)state;
    if (getenv("HEED_TEST_EMULATED") != NULL)
        skip(); /* qemu's user emulation fails an assertion of its own in the child of a process that has had threads */
    heed_context *built_in = make_context(2, NULL, NULL), *serial = make_context(1, NULL, NULL);
    if (built_in != NULL)
        assert_true(gives_wanted_bits(built_in));
    assert_true(gives_wanted_bits(serial));
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(child_works(serial) ? 0 : 1);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    if (built_in != NULL)
        assert_true(gives_wanted_bits(built_in));
    assert_true(gives_wanted_bits(serial));
    heed_context_destroy(built_in);
    heed_context_destroy(serial);
}

/* ---- Small work ---- */

static void count_calls(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    ++*(int *)pool;
    for (int64_t index = 0; index < n_tasks; index++)
        task(job, index, 0);
}

static void test_small_work(void **state)
{
    (void)state;
    int n_calls = 0;
    heed_report report = HEED_REPORT_INIT;
    heed_context *context = make_context(4, count_calls, &n_calls);
    problem tiny = make_problem(&tiny_problem), large = make_problem(&problems[0]);
    assert_int_equal(run_problem(context, &tiny), HEED_OK);
    assert_int_equal(heed_context_report(context, &report), HEED_OK);
    assert_int_equal(report.n_workers, 1);
    assert_int_equal(n_calls, 0);
    /* The hook is there for larger work. */
    assert_int_equal(run_problem(context, &large), HEED_OK);
    assert_int_equal(heed_context_report(context, &report), HEED_OK);
    assert_in_range(report.n_workers, 2, 4);
    assert_true(n_calls > 0);
    free_problem(&tiny);
    free_problem(&large);
    heed_context_destroy(context);
}

/* ---- The pool itself ---- */

typedef struct tally {
    thread_pool *pool;
    int n_runs[1000];  /* of each index */
    int workers_in[8]; /* 1 while that worker runs a task */
    int n_wrong;
    pthread_mutex_t mutex;
} tally;

static void count_task(void *job, int64_t index, int worker)
{
    tally *t = job;
    pthread_mutex_lock(&t->mutex);
    t->n_runs[index]++;
    t->n_wrong += worker < 0 || worker >= thread_pool_n_threads(t->pool) || t->workers_in[worker]++ != 0;
    pthread_mutex_unlock(&t->mutex);
    pthread_mutex_lock(&t->mutex);
    t->workers_in[worker]--;
    pthread_mutex_unlock(&t->mutex);
}

/* Every index once, no worker twice at one time. */
static void test_pool_contract(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n++) {
        static tally t;
        memset(&t, 0, sizeof t);
        pthread_mutex_init(&t.mutex, NULL);
        t.pool = thread_pool_create(n);
        assert_non_null(t.pool);
        for (int64_t n_tasks = 0; n_tasks <= 1000; n_tasks = n_tasks * 2 + 1)
            thread_pool_parallel_for(t.pool, n_tasks, count_task, &t);
        for (int64_t i = 0; i < 1000; i++) {
            int want = 0;
            for (int64_t n_tasks = 0; n_tasks <= 1000; n_tasks = n_tasks * 2 + 1)
                want += i < n_tasks;
            assert_int_equal(t.n_runs[i], want);
        }
        assert_int_equal(t.n_wrong, 0);
        thread_pool_destroy(t.pool);
        pthread_mutex_destroy(&t.mutex);
    }
    assert_null(thread_pool_create(0));
    thread_pool_destroy(NULL);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork), /* first: nothing else has left threads behind */
        cmocka_unit_test(test_pool_contract),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_built_in),
        cmocka_unit_test(test_fewer_workers),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_two_contexts_in_turn),
        cmocka_unit_test(test_calls_from_the_pool),
        cmocka_unit_test(test_two_users),
        cmocka_unit_test(test_context_moves_between_threads),
        cmocka_unit_test(test_small_work),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
