/* Contexts: which instruction set, which memory, which threads, and every way in which making one can fail. Then the
 * small public functions: version, status texts, names, reports. */
#define _POSIX_C_SOURCE 200112L /* setenv */
#include "core/context.h"
#include "heed.h"
#include "support/runner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const heed_isa all_isas[] = {HEED_ISA_SCALAR, HEED_ISA_AVX2, HEED_ISA_AVX512, HEED_ISA_NEON};

enum { N_ISAS = sizeof all_isas / sizeof all_isas[0] };

/* The instruction set under test; HEED_ISA itself is changed by the tests. */
static heed_isa tested_isa;

static void set_variable(const char *value)
{
    assert_int_equal(value != NULL ? setenv("HEED_ISA", value, 1) : unsetenv("HEED_ISA"), 0);
}

/* A small call that must succeed; returns the instruction set that the report names. */
static heed_isa run_small_call(heed_context *context)
{
    float x[4] = {1.0f, 2.0f, 3.0f, 4.0f}, y[4] = {0};
    const heed_tensor in = heed_tensor_bhnd(x, HEED_FLOAT32, 1, 1, 2, 2);
    const heed_tensor out = heed_tensor_bhnd(y, HEED_FLOAT32, 1, 1, 2, 2);
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(heed_softmax_forward(context, &in, &in, &in, NULL, &out, NULL), HEED_OK);
    assert_int_equal(heed_context_report(context, &report), HEED_OK);
    assert_true(y[0] > 1.0f && y[0] <= 3.0f && y[3] > 2.0f && y[3] <= 4.0f);
    return report.isa;
}

/* Makes a context, runs a call in it and returns the instruction set that ran. */
static heed_isa isa_that_ran(heed_isa in_config)
{
    heed_config config = HEED_CONFIG_INIT;
    config.isa = in_config;
    heed_context *context = NULL;
    char message[256] = "not written";
    const heed_status status = heed_context_create(&config, &context, message, sizeof message);
    if (status != HEED_OK)
        fail_msg("isa %d: %s: %s", (int)in_config, heed_status_text(status), message);
    assert_string_equal(message, "");
    const heed_isa ran = run_small_call(context);
    /* The table that ran is that of the instruction set in the report, not only called so. */
    assert_string_equal(context->kernels->isa, heed_isa_name(ran));
    heed_context_destroy(context);
    return ran;
}

/* Making a context must fail, leave NULL, and say each of the words. */
static void expect_failure(const heed_config *config, heed_status want, const char *word, const char *other_word)
{
    heed_context *context = (heed_context *)(uintptr_t)64;
    char message[256] = "";
    const heed_status got = heed_context_create(config, &context, message, sizeof message);
    if (got != want || strstr(message, word) == NULL || strstr(message, other_word) == NULL)
        fail_msg("%s about \"%s\" and \"%s\" expected, got %s: \"%s\"", heed_status_text(want), word, other_word,
                 heed_status_text(got), message);
    assert_null(context);
}

/* ---- Instruction sets ---- */

static void test_forced_isa(void **state)
{
    (void)state;
    heed_config config = HEED_CONFIG_INIT;
    for (int i = 0; i < N_ISAS; i++) {
        config.isa = all_isas[i];
        set_variable(NULL);
        if (heed_isa_supported(all_isas[i])) {
            assert_int_equal(isa_that_ran(all_isas[i]), all_isas[i]);
            set_variable(heed_isa_name(all_isas[i]));
            assert_int_equal(isa_that_ran(HEED_ISA_AUTO), all_isas[i]);
        } else {
            expect_failure(&config, HEED_ERROR_ISA, heed_isa_name(all_isas[i]), "");
            set_variable(heed_isa_name(all_isas[i]));
            expect_failure(NULL, HEED_ERROR_ISA, heed_isa_name(all_isas[i]), "HEED_ISA");
        }
    }
    assert_true(heed_isa_supported(HEED_ISA_SCALAR));
    /* No machine runs both of these. */
    assert_false(heed_isa_supported(HEED_ISA_AVX2) && heed_isa_supported(HEED_ISA_NEON));
}

static void test_isa_under_test(void **state)
{
    (void)state;
    set_variable(heed_isa_name(tested_isa));
    assert_int_equal(isa_that_ran(HEED_ISA_AUTO), tested_isa);
    set_variable(NULL);
    const heed_isa best = isa_that_ran(HEED_ISA_AUTO);
    assert_true(best != HEED_ISA_AUTO && heed_isa_supported(best));
    for (int i = 0; i < N_ISAS; i++) /* they are listed from the narrowest to the widest */
        assert_true(best >= all_isas[i] || !heed_isa_supported(all_isas[i]));
}

static void test_config_beats_environment(void **state)
{
    (void)state;
    set_variable("no_such_isa");
    assert_int_equal(isa_that_ran(HEED_ISA_SCALAR), HEED_ISA_SCALAR);
    set_variable("scalar");
    assert_int_equal(isa_that_ran(tested_isa), tested_isa);
}

static void test_unknown_isa(void **state)
{
    (void)state;
    static const char *const names[] = {"sse9", "AVX2", "avx", "scalar ", "avx5120", "0"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        set_variable(names[i]);
        expect_failure(NULL, HEED_ERROR_ISA, names[i], "HEED_ISA");
    }
    set_variable(NULL);
    heed_config config = HEED_CONFIG_INIT;
    const int values[] = {5, 99, -1};
    for (int i = 0; i < 3; i++) {
        char digits[16];
        snprintf(digits, sizeof digits, "%d", values[i]);
        config.isa = (heed_isa)values[i];
        expect_failure(&config, HEED_ERROR_ISA, digits, "");
        assert_false(heed_isa_supported(config.isa));
    }
    /* A name longer than any buffer is an error like another. */
    char long_name[5000];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    set_variable(long_name);
    expect_failure(NULL, HEED_ERROR_ISA, "xxxx", "HEED_ISA");
    set_variable(NULL);
}

/* The variable is read when a context is made, and never again. */
static void test_environment_is_read_once(void **state)
{
    (void)state;
    heed_context *context = NULL;
    set_variable("scalar");
    assert_int_equal(heed_context_create(NULL, &context, NULL, 0), HEED_OK);
    set_variable(heed_isa_name(tested_isa));
    assert_int_equal(run_small_call(context), HEED_ISA_SCALAR);
    heed_context_destroy(context);
    set_variable(NULL);
}

/* ---- Memory ---- */

/* An allocator that can fail, and that knows what it gave. */
typedef struct allocator {
    int n_until_failure; /* allocations that still succeed; -1: all */
    int n_taken, n_given_back, n_wrong;
    size_t largest;
    struct {
        void *memory;
        size_t bytes;
    } block[8];
} allocator;

static void *take_memory(void *data, size_t bytes, size_t alignment)
{
    allocator *a = data;
    if (a->n_until_failure == 0 || a->n_taken == 8 || bytes > ((size_t)1 << 32))
        return NULL;
    a->n_until_failure -= a->n_until_failure > 0;
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || bytes == 0) {
        a->n_wrong++;
        return NULL;
    }
    a->largest = bytes > a->largest ? bytes : a->largest;
    void *memory = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    memset(memory, 0xff, bytes); /* nobody may rely on zeros */
    a->block[a->n_taken].memory = memory;
    a->block[a->n_taken].bytes = bytes;
    a->n_taken++;
    return memory;
}

static void give_back_memory(void *data, void *memory, size_t bytes)
{
    allocator *a = data;
    for (int i = 0; i < a->n_taken; i++)
        if (a->block[i].memory == memory && memory != NULL) {
            a->n_wrong += a->block[i].bytes != bytes;
            a->block[i].memory = NULL;
            a->n_given_back++;
            free(memory);
            return;
        }
    a->n_wrong++;
}

static heed_config config_with(allocator *a)
{
    heed_config config = HEED_CONFIG_INIT;
    config.isa = tested_isa;
    config.allocate = take_memory;
    config.release = give_back_memory;
    config.allocator = a;
    return config;
}

static void test_allocator_hooks(void **state)
{
    (void)state;
    allocator a = {.n_until_failure = -1};
    const heed_config config = config_with(&a);
    heed_context *context = NULL;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    const int n_at_creation = a.n_taken;
    assert_int_equal(n_at_creation, 1); /* "in one allocation" */
    assert_int_equal(run_small_call(context), tested_isa);
    assert_int_equal(a.n_taken, n_at_creation);
    assert_int_equal(a.n_given_back, 0);
    heed_context_destroy(context);
    assert_int_equal(a.n_given_back, a.n_taken);
    assert_int_equal(a.n_wrong, 0);
}

/* Each allocation fails in turn, until creation needs no more of them. */
static void test_allocation_failure(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        allocator a = {.n_until_failure = n};
        const heed_config config = config_with(&a);
        heed_context *context = (heed_context *)(uintptr_t)64;
        char message[256] = "";
        const heed_status status = heed_context_create(&config, &context, message, sizeof message);
        if (status == HEED_OK) {
            assert_true(n > 0);
            heed_context_destroy(context);
            return;
        }
        assert_int_equal(status, HEED_ERROR_MEMORY);
        assert_null(context);
        assert_non_null(strstr(message, "bytes"));
        assert_int_equal(a.n_given_back, a.n_taken);
        assert_int_equal(a.n_wrong, 0);
    }
    fail_msg("creation still fails with 8 allocations");
}

/* Scratch is taken as it was asked for, for every thread, and a size that does not fit size_t does not wrap. */
static void test_scratch_bytes(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 1024; n_threads = n_threads * 3 + 1) {
        allocator a = {.n_until_failure = -1};
        heed_config config = config_with(&a);
        heed_context *context = NULL;
        config.n_threads = n_threads;
        config.parallel_for = hook_serial;
        config.scratch_bytes = 10000;
        assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
        assert_true(a.largest >= (size_t)n_threads * 10000);
        heed_context_destroy(context);

        a = (allocator){.n_until_failure = -1};
        for (int shift = 40; shift <= 62; shift++) {
            config.scratch_bytes = (INT64_C(1) << shift) + (INT64_C(1) << (shift - 1));
            const heed_status status = heed_context_create(&config, &context, NULL, 0);
            assert_true(status == HEED_ERROR_MEMORY || status == HEED_ERROR_ARGUMENT);
            assert_null(context);
        }
        assert_int_equal(a.n_taken, 0);
    }
}

/* ---- Configs ---- */

static int has_openmp(void)
{
    heed_config config = HEED_CONFIG_INIT;
    heed_context *context = NULL;
    config.n_threads = 2;
    const heed_status status = heed_context_create(&config, &context, NULL, 0);
    heed_context_destroy(context);
    assert_true(status == HEED_OK || status == HEED_ERROR_UNSUPPORTED);
    return status == HEED_OK;
}

static void test_threads_in_config(void **state)
{
    (void)state;
    const int wrong[] = {-1, 1025, -1000000, INT32_MAX};
    for (int i = 0; i < 4; i++) {
        heed_config config = HEED_CONFIG_INIT;
        char digits[16];
        snprintf(digits, sizeof digits, "%d", wrong[i]);
        config.n_threads = wrong[i];
        expect_failure(&config, HEED_ERROR_ARGUMENT, "n_threads", digits);
        config.parallel_for = hook_serial;
        expect_failure(&config, HEED_ERROR_ARGUMENT, "n_threads", digits);
    }
    heed_config config = HEED_CONFIG_INIT;
    heed_context *context = NULL;
    config.n_threads = 0; /* fine in every build */
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    heed_context_destroy(context);
    if (!has_openmp()) {
        config.n_threads = 2;
        expect_failure(&config, HEED_ERROR_UNSUPPORTED, "n_threads", "OpenMP");
    }
}

static void test_wrong_configs(void **state)
{
    (void)state;
    const heed_config good = HEED_CONFIG_INIT;
    heed_config config = good;
    config.struct_size = 0;
    expect_failure(&config, HEED_ERROR_ARGUMENT, "config", "struct_size");
    config.struct_size = sizeof config - 8;
    expect_failure(&config, HEED_ERROR_ARGUMENT, "config", "struct_size");
    config.struct_size = sizeof config + 8;
    expect_failure(&config, HEED_ERROR_ARGUMENT, "config", "struct_size");
    config = good;
    config.allocate = take_memory;
    expect_failure(&config, HEED_ERROR_ARGUMENT, "allocate", "release");
    config = good;
    config.release = give_back_memory;
    expect_failure(&config, HEED_ERROR_ARGUMENT, "allocate", "release");
    config = good;
    config.scratch_bytes = -1;
    expect_failure(&config, HEED_ERROR_ARGUMENT, "scratch_bytes", "-1");
    char message[100] = "";
    assert_int_equal(heed_context_create(NULL, NULL, message, sizeof message), HEED_ERROR_ARGUMENT);
    assert_non_null(strstr(message, "context"));
    heed_context_destroy(NULL);
}

/* A message is cut to the caller's buffer and always ends. */
static void test_short_messages(void **state)
{
    (void)state;
    heed_config config = HEED_CONFIG_INIT;
    heed_context *context = NULL;
    char whole[256];
    config.n_threads = -7;
    assert_int_equal(heed_context_create(&config, &context, whole, sizeof whole), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_context_create(&config, &context, NULL, 100), HEED_ERROR_ARGUMENT);
    for (size_t n = 0; n <= strlen(whole) + 2; n++) {
        char message[300];
        memset(message, '#', sizeof message);
        assert_int_equal(heed_context_create(&config, &context, message, n), HEED_ERROR_ARGUMENT);
        const size_t length = n == 0 ? 0 : n - 1 < strlen(whole) ? n - 1 : strlen(whole);
        assert_memory_equal(message, whole, length);
        if (n > 0)
            assert_int_equal(message[length], '\0');
        assert_int_equal(message[n], '#');
    }
}

/* ---- Small functions ---- */

static void test_version(void **state)
{
    (void)state;
    char text[40];
    snprintf(text, sizeof text, "%d.%d.%d", HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH);
    assert_string_equal(text, HEED_VERSION);
    assert_string_equal(heed_version(), HEED_VERSION);
}

static void test_status_texts(void **state)
{
    (void)state;
    for (int s = HEED_OK; s <= HEED_ERROR_BUSY; s++) {
        const char *text = heed_status_text((heed_status)s);
        assert_true(strlen(text) > 1);
        assert_string_not_equal(text, "unknown status");
        for (int other = HEED_OK; other < s; other++)
            assert_string_not_equal(text, heed_status_text((heed_status)other));
    }
    const int unknown[] = {-1, HEED_ERROR_BUSY + 1, 1000, INT32_MIN, INT32_MAX};
    for (int i = 0; i < 5; i++)
        assert_string_equal(heed_status_text((heed_status)unknown[i]), "unknown status");
}

static void test_isa_names(void **state)
{
    (void)state;
    assert_string_equal(heed_isa_name(HEED_ISA_AUTO), "auto");
    assert_string_equal(heed_isa_name(HEED_ISA_SCALAR), "scalar");
    assert_string_equal(heed_isa_name(HEED_ISA_AVX2), "avx2");
    assert_string_equal(heed_isa_name(HEED_ISA_AVX512), "avx512");
    assert_string_equal(heed_isa_name(HEED_ISA_NEON), "neon");
    assert_string_equal(heed_isa_name((heed_isa)5), "unknown");
    assert_string_equal(heed_isa_name((heed_isa)-1), "unknown");
    assert_true(heed_isa_supported(HEED_ISA_AUTO));
}

static void expect_layout(const heed_tensor *t, const int64_t stride[4])
{
    const int64_t shape[4] = {2, 3, 5, 7};
    assert_memory_equal(t->shape, shape, sizeof shape);
    assert_memory_equal(t->stride, stride, 4 * sizeof stride[0]);
}

static void test_tensor_helpers(void **state)
{
    (void)state;
    float x = 0.0f;
    const heed_tensor bhnd = heed_tensor_bhnd(&x, HEED_FLOAT32, 2, 3, 5, 7);
    const heed_tensor bnhd = heed_tensor_bnhd(&x, HEED_BOOL, 2, 3, 5, 7);
    const int64_t bhnd_stride[4] = {105, 35, 7, 1}, bnhd_stride[4] = {105, 7, 21, 1};
    assert_true(bhnd.data == &x && bnhd.data == &x);
    assert_int_equal(bhnd.dtype, HEED_FLOAT32);
    assert_int_equal(bnhd.dtype, HEED_BOOL);
    expect_layout(&bhnd, bhnd_stride);
    expect_layout(&bnhd, bnhd_stride);
    /* Sizes whose product is no int64 are the business of the call that takes the view. */
    const heed_tensor huge = heed_tensor_bhnd(&x, HEED_FLOAT32, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX);
    assert_true(huge.shape[0] == INT64_MAX);
}

int main(void)
{
    runner_require_isa();
    tested_isa = runner_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isa_under_test),
        cmocka_unit_test(test_forced_isa),
        cmocka_unit_test(test_config_beats_environment),
        cmocka_unit_test(test_unknown_isa),
        cmocka_unit_test(test_environment_is_read_once),
        cmocka_unit_test(test_allocator_hooks),
        cmocka_unit_test(test_allocation_failure),
        cmocka_unit_test(test_scratch_bytes),
        cmocka_unit_test(test_threads_in_config),
        cmocka_unit_test(test_wrong_configs),
        cmocka_unit_test(test_short_messages),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_status_texts),
        cmocka_unit_test(test_isa_names),
        cmocka_unit_test(test_tensor_helpers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
