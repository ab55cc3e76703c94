/* heed inside the caller's own OpenMP regions. */
#include "heed.h"
#include "small_problem.h"
#include "support/runner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

enum { N_USERS = 4 };

/* Each thread of a region has a context of its own, serial or with threads, and they all call at one time. Returns how
 * many calls went wrong. */
static int call_in_region(const problem *want, const problem_sizes *sizes, int n_threads)
{
    int n_wrong = 0;
    heed_context *contexts[N_USERS];
    for (int i = 0; i < N_USERS; i++)
        contexts[i] = runner_context(n_threads, NULL);
#pragma omp parallel for num_threads(N_USERS) schedule(static, 1) reduction(+ : n_wrong)
    for (int i = 0; i < N_USERS; i++) {
        problem p = make_problem(sizes);
        n_wrong += run_problem(contexts[i], &p) != HEED_OK || !same_outputs(&p, want);
        free_problem(&p);
    }
    for (int i = 0; i < N_USERS; i++)
        heed_context_destroy(contexts[i]);
    return n_wrong;
}

static void check_regions(void)
{
    const int max_threads = omp_get_max_threads();
    for (int i = 0; i < N_PROBLEMS; i++) {
        problem want = make_problem(&problems[i]);
        heed_context *context = runner_context(1, NULL);
        assert_int_equal(run_problem(context, &want), HEED_OK);
        heed_context_destroy(context);
        for (int n_threads = 1; n_threads <= 3; n_threads++)
            assert_int_equal(call_in_region(&want, &problems[i], n_threads), 0);
        free_problem(&want);
    }
    assert_int_equal(omp_get_max_threads(), max_threads);
}

/* Nested regions run on one thread, as OpenMP has it by default. */
static void test_call_in_region(void **state)
{
    (void)state;
    omp_set_max_active_levels(1);
    check_regions();
}

/* The user allows nested regions: those of heed then have threads. */
static void test_nested_regions(void **state)
{
    (void)state;
    omp_set_max_active_levels(2);
    check_regions();
    assert_int_equal(omp_get_max_active_levels(), 2);
}

/* n_threads = 0: as many as OpenMP would use, asked when the context is made. */
static void test_default_threads(void **state)
{
    (void)state;
    omp_set_num_threads(3);
    heed_context *context = runner_context(0, NULL);
    omp_set_num_threads(1);
    problem p = make_problem(&problems[0]);
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(run_problem(context, &p), HEED_OK);
    assert_int_equal(heed_context_report(context, &report), HEED_OK);
    assert_int_equal(report.n_workers, 3);
    assert_int_equal(omp_get_max_threads(), 1);
    free_problem(&p);
    heed_context_destroy(context);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_call_in_region),
        cmocka_unit_test(test_nested_regions),
        cmocka_unit_test(test_default_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
