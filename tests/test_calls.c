/* What a call leaves behind: nothing but its outputs, its message and its report. No memory is taken, no global state
 * changes, a context that is busy says so. */
#define _DEFAULT_SOURCE
#include "count_allocations.h"
#include "heed.h"
#include "small_problem.h"
#include "support/runner.h"

#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* There when the library was linked with them. */
extern int omp_get_max_threads(void) __attribute__((weak));
extern int omp_get_dynamic(void) __attribute__((weak));
extern int omp_get_max_active_levels(void) __attribute__((weak));
extern int openblas_get_num_threads(void) __attribute__((weak));

static heed_context *make_context(const runner_threading *threading)
{
    return runner_context(threading->n_threads, threading->hook);
}

/* Merges the outputs of `other` into those of p. */
static heed_status merge_into(heed_context *context, const problem *p, const problem *other)
{
    return heed_merge(context, &p->out, &p->lse, &other->out, &other->lse, &p->out, &p->lse);
}

/* ---- Memory ---- */

/* hook_fewer starts a thread, which takes memory, but not heed's. */
static int takes_memory_itself(const runner_threading *threading) { return threading->hook == hook_fewer; }

static void test_no_allocation(void **state)
{
    (void)state;
    if (count_allocations() < 0)
        skip();
    /* This program's allocator is the one that counts. */
    const long long at_start = count_allocations();
    void *volatile memory = malloc(1);
    free(memory);
    assert_true(count_allocations() == at_start + 1);
    for (int t = 0; t < N_THREADINGS; t++) {
        heed_context *context = make_context(&runner_threadings[t]);
        if (context == NULL || takes_memory_itself(&runner_threadings[t])) {
            heed_context_destroy(context);
            continue;
        }
        for (int i = 0; i < N_PROBLEMS; i++) {
            problem p = make_problem(&problems[i]), other = make_problem(&problems[i]);
            assert_int_equal(run_problem(context, &other), HEED_OK); /* OpenMP makes its threads here */
            const long long before = count_allocations();
            const heed_status first = run_problem(context, &p);
            const heed_status merged = merge_into(context, &p, &other);
            const heed_status failed =
                heed_softmax_forward(context, &p.q, &p.k, &p.v, &p.options, &p.k, NULL); /* wrong sizes */
            const long long after = count_allocations();
            assert_int_equal(first, HEED_OK);
            assert_int_equal(merged, HEED_OK);
            assert_int_equal(failed, HEED_ERROR_SHAPE);
            if (after != before)
                fail_msg("%s, %s: %lld allocations", runner_threadings[t].name, problems[i].name, after - before);
            free_problem(&p);
            free_problem(&other);
        }
        heed_context_destroy(context);
    }
}

/* ---- Global state ---- */

/* The control bits of the floating-point unit: rounding, masks of exceptions, flushing of denormals. */
static unsigned control_bits(void)
{
    fenv_t environment = {0}; /* glibc fills it in assembly, which MemorySanitizer does not see */
    fegetenv(&environment);
#if defined(__x86_64__)
    return environment.__mxcsr & 0xffc0u; /* without the sticky flags */
#elif defined(__aarch64__)
    return environment.__fpcr;
#else
    return (unsigned)fegetround();
#endif
}

static void set_flushing(int on)
{
    fenv_t environment = {0}; /* glibc fills it in assembly, which MemorySanitizer does not see */
    fegetenv(&environment);
#if defined(__x86_64__)
    environment.__mxcsr = on ? environment.__mxcsr | 0x8040u : environment.__mxcsr & ~0x8040u;
#elif defined(__aarch64__)
    environment.__fpcr = on ? environment.__fpcr | (1u << 24) : environment.__fpcr & ~(1u << 24);
#else
    (void)on;
#endif
    fesetenv(&environment);
}

static void test_floating_point_environment(void **state)
{
    (void)state;
    const int rounding[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    const unsigned at_start = control_bits();
    for (int i = 0; i < N_PROBLEMS; i++)
        for (int r = 0; r < 4; r++)
            for (int flushing = 0; flushing < 2; flushing++) {
                heed_context *context = runner_context(1, NULL);
                problem p = make_problem(&problems[i]), other = make_problem(&problems[i]);
                fesetround(rounding[r]);
                set_flushing(flushing);
                const unsigned before = control_bits();
                const heed_status status = run_problem(context, &p), merged = merge_into(context, &p, &other);
                const unsigned after = control_bits();
                set_flushing(0);
                fesetround(FE_TONEAREST);
                assert_int_equal(status, HEED_OK);
                assert_int_equal(merged, HEED_OK);
                assert_int_equal(after, before);
                free_problem(&p);
                free_problem(&other);
                heed_context_destroy(context);
            }
    assert_int_equal(control_bits(), at_start);
}

typedef struct thread_settings {
    int max_threads, dynamic, levels, blas;
} thread_settings;

static thread_settings read_thread_settings(void)
{
    return (thread_settings){
        omp_get_max_threads != NULL ? omp_get_max_threads() : 0,
        omp_get_dynamic != NULL ? omp_get_dynamic() : 0,
        omp_get_max_active_levels != NULL ? omp_get_max_active_levels() : 0,
        openblas_get_num_threads != NULL ? openblas_get_num_threads() : 0,
    };
}

static void test_thread_settings(void **state)
{
    (void)state;
    const thread_settings before = read_thread_settings();
    for (int t = 0; t < N_THREADINGS; t++) {
        heed_context *context = make_context(&runner_threadings[t]);
        if (context == NULL)
            continue;
        for (int i = 0; i < N_PROBLEMS; i++) {
            problem p = make_problem(&problems[i]);
            assert_int_equal(run_problem(context, &p), HEED_OK);
            const thread_settings after = read_thread_settings();
            assert_memory_equal(&after, &before, sizeof after);
            free_problem(&p);
        }
        heed_context_destroy(context);
    }
}

/* Nothing is printed, by calls that succeed or by calls that fail: while they run, both streams lead into a pipe. */
static void test_prints_nothing(void **state)
{
    (void)state;
    int ends[2];
    char text[16];
    heed_context *context = runner_context(1, NULL), *none = NULL;
    problem p = make_problem(&problems[0]);
    heed_config config = HEED_CONFIG_INIT;
    config.n_threads = -1;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    const int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    const heed_status good = run_problem(context, &p);
    const heed_status bad = heed_softmax_forward(context, NULL, NULL, NULL, NULL, NULL, NULL);
    const heed_status created = heed_context_create(&config, &none, NULL, 0);
    fflush(NULL);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    const ssize_t n_read = read(ends[0], text, sizeof text); /* all writing ends are closed */
    close(ends[0]);
    assert_int_equal(good, HEED_OK);
    assert_int_equal(bad, HEED_ERROR_ARGUMENT);
    assert_int_equal(created, HEED_ERROR_ARGUMENT);
    assert_int_equal(n_read, 0);
    free_problem(&p);
    heed_context_destroy(context);
}

/* ---- Busy ---- */

typedef struct intruder {
    heed_context *context;
    problem own, part;
    heed_status forward, merge;
    int n_calls, outputs_changed;
} intruder;

/* Calls on a context on which a call is running. */
static void intrude(intruder *i)
{
    problem untouched = make_problem(&problems[2]);
    i->forward = run_problem(i->context, &i->own);
    i->merge = merge_into(i->context, &i->own, &i->part);
    i->outputs_changed |= !same_outputs(&untouched, &i->own);
    i->n_calls++;
    free_problem(&untouched);
}

static void *intrude_from_thread(void *i)
{
    intrude(i);
    return NULL;
}

/* A hook that lets the intruder in before, between and after the tasks, from this thread and from another one. */
static void hook_with_intruder(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker),
                               void *job)
{
    intruder *i = pool;
    pthread_t other;
    if (pthread_create(&other, NULL, intrude_from_thread, i) != 0)
        abort();
    pthread_join(other, NULL);
    for (int64_t index = 0; index < n_tasks; index++) {
        if (index == n_tasks / 2)
            intrude(i);
        task(job, index, 0);
    }
    intrude(i);
}

static void test_busy(void **state)
{
    (void)state;
    for (int n = 0; n < N_PROBLEMS; n++) {
        intruder i = {.own = make_problem(&problems[2]), .part = make_problem(&problems[2])};
        heed_config config = HEED_CONFIG_INIT;
        config.isa = runner_isa();
        config.n_threads = 4;
        config.parallel_for = hook_with_intruder;
        config.pool = &i;
        assert_int_equal(heed_context_create(&config, &i.context, NULL, 0), HEED_OK);
        heed_context *alone = runner_context(1, NULL);
        problem p = make_problem(&problems[n]), want = make_problem(&problems[n]);
        assert_int_equal(run_problem(alone, &want), HEED_OK);
        assert_int_equal(run_problem(i.context, &p), HEED_OK);
        assert_true(i.n_calls >= 3);
        assert_int_equal(i.forward, HEED_ERROR_BUSY);
        assert_int_equal(i.merge, HEED_ERROR_BUSY);
        assert_false(i.outputs_changed);
        assert_true(same_outputs(&p, &want));
        assert_string_equal(heed_context_message(i.context), "");
        /* Nobody is in the way of the next call, whose hook lets the intruder in once more. */
        assert_int_equal(run_problem(i.context, &p), HEED_OK);
        assert_true(same_outputs(&p, &want));
        heed_context_destroy(i.context);
        heed_context_destroy(alone);
        free_problem(&p);
        free_problem(&want);
        free_problem(&i.own);
        free_problem(&i.part);
    }
}

/* ---- Messages and reports ---- */

static void test_messages(void **state)
{
    (void)state;
    heed_context *context = runner_context(1, NULL), *other = runner_context(1, NULL);
    problem p = make_problem(&problems[0]);
    assert_string_equal(heed_context_message(context), "");
    heed_tensor k = p.k;
    k.shape[3] = 32;
    assert_int_equal(heed_softmax_forward(context, &p.q, &k, &p.v, NULL, &p.out, NULL), HEED_ERROR_SHAPE);
    assert_string_equal(heed_context_message(context), "k: 40 channels expected (as in q), got 32");
    /* Another context, a query of the report and a call without a context leave it. */
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(run_problem(other, &p), HEED_OK);
    assert_int_equal(heed_context_report(context, &report), HEED_OK);
    assert_int_equal(run_problem(NULL, &p), HEED_ERROR_ARGUMENT);
    assert_string_equal(heed_context_message(context), "k: 40 channels expected (as in q), got 32");
    assert_string_equal(heed_context_message(other), "");
    assert_int_equal(run_problem(context, &p), HEED_OK);
    assert_string_equal(heed_context_message(context), "");
    free_problem(&p);
    heed_context_destroy(context);
    heed_context_destroy(other);
}

static heed_report read_report(const heed_context *context)
{
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(heed_context_report(context, &report), HEED_OK);
    assert_int_equal(report.struct_size, sizeof report);
    assert_int_equal(report.isa, runner_isa());
    assert_non_null(report.path);
    return report;
}

static void test_report(void **state)
{
    (void)state;
    static const char *const paths[N_PROBLEMS] = {"softmax-tiles", "softmax-ranges", "softmax-ranges"};
    heed_context *context = runner_context(3, hook_serial);
    assert_string_equal(read_report(context).path, "none");
    for (int i = 0; i < N_PROBLEMS; i++) {
        problem p = make_problem(&problems[i]), other = make_problem(&problems[i]);
        int64_t bytes = 0;
        assert_int_equal(heed_softmax_scratch_bytes(&p.q, &p.k, &p.v, &p.options, &bytes), HEED_OK);
        assert_int_equal(run_problem(context, &p), HEED_OK);
        const heed_report report = read_report(context);
        assert_string_equal(report.path, paths[i]);
        assert_true(report.n_tasks > 1);
        assert_in_range(report.n_workers, 2, 3);
        assert_true(report.scratch_bytes == bytes * report.n_workers);
        assert_true(report.exact_recomputations == 0);
        /* A call that fails leaves the report of the last one that did not. */
        assert_int_equal(heed_softmax_forward(context, &p.q, &p.k, &p.v, NULL, &p.q, NULL), HEED_ERROR_SHAPE);
        const heed_report again = read_report(context);
        assert_memory_equal(&report, &again, sizeof report);
        assert_int_equal(merge_into(context, &p, &other), HEED_OK);
        assert_string_equal(read_report(context).path, "merge");
        assert_true(read_report(context).scratch_bytes == 0);
        free_problem(&p);
        free_problem(&other);
    }
    heed_context_destroy(context);
}

static void test_wrong_reports(void **state)
{
    (void)state;
    heed_context *context = runner_context(1, NULL);
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(heed_context_report(NULL, &report), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_context_report(context, NULL), HEED_ERROR_ARGUMENT);
    const size_t sizes[] = {0, sizeof report - 8, sizeof report + 8};
    for (int i = 0; i < 3; i++) {
        memset(&report, 0x5a, sizeof report);
        report.struct_size = sizes[i];
        const heed_report before = report;
        assert_int_equal(heed_context_report(context, &report), HEED_ERROR_ARGUMENT);
        assert_memory_equal(&report, &before, sizeof report);
    }
    heed_context_destroy(context);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_floating_point_environment),
        cmocka_unit_test(test_thread_settings),
        cmocka_unit_test(test_prints_nothing),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_wrong_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
