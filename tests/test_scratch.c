/* Scratch: the size that is asked for is the size that is needed, to the byte, and follows from the channels alone. */
#include "heed.h"
#include "support/runner.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct sizes {
    int64_t b, hq, hkv, nq, nk, d, dv;
} sizes;

typedef struct tensors {
    heed_tensor q, k, v, out;
} tensors;

static tensors view_all(const sizes *s, float *q, float *kv, float *out)
{
    return (tensors){
        heed_tensor_bhnd(q, HEED_FLOAT32, s->b, s->hq, s->nq, s->d),
        heed_tensor_bhnd(kv, HEED_FLOAT32, s->b, s->hkv, s->nk, s->d),
        heed_tensor_bhnd(kv, HEED_FLOAT32, s->b, s->hkv, s->nk, s->dv),
        heed_tensor_bhnd(out, HEED_FLOAT32, s->b, s->hq, s->nq, s->dv),
    };
}

/* Only the shapes are read: there is no data. */
static int64_t bytes_of(const sizes *s)
{
    int64_t bytes = -1;
    const tensors t = view_all(s, NULL, NULL, NULL);
    assert_int_equal(heed_softmax_scratch_bytes(&t.q, &t.k, &t.v, NULL, &bytes), HEED_OK);
    assert_true(bytes > 0);
    return bytes;
}

static void test_constant(void **state)
{
    (void)state;
    const sizes shapes[] = {
        {1, 1, 1, 1, 1, 64, 64},         {7, 1, 1, 1, 1, 64, 64},       {1, 32, 8, 1, 1, 64, 64},
        {1, 1, 1, 100000, 1, 64, 64},    {1, 1, 1, 1, 1 << 30, 64, 64}, {64, 32, 32, 4096, 4096, 64, 64},
        {0, 32, 32, 4096, 4096, 64, 64}, {3, 0, 0, 0, 0, 64, 64},       {2, 40, 1, 3, 1000000, 64, 64},
    };
    const int64_t bytes = bytes_of(&shapes[0]);
    for (size_t i = 1; i < sizeof shapes / sizeof shapes[0]; i++)
        assert_true(bytes_of(&shapes[i]) == bytes);
}

static heed_context *context_with(int64_t scratch_bytes, int n_threads, heed_parallel_for_fn hook)
{
    static int n_workers;
    n_workers = n_threads;
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.scratch_bytes = scratch_bytes;
    config.n_threads = n_threads;
    config.parallel_for = hook;
    config.pool = &n_workers;
    heed_context *context = NULL;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    return context;
}

static float *make_floats(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(i * 31 % 97) / 48.0f - 1.0f;
    return x;
}

/* Runs the problem in a context of its own and returns the status; the message where it failed. */
static heed_status run_with(int64_t scratch_bytes, int n_threads, const tensors *t, char *message, size_t n)
{
    heed_context *context = context_with(scratch_bytes, n_threads, n_threads > 1 ? hook_reverse : NULL);
    const heed_status status = heed_softmax_forward(context, &t->q, &t->k, &t->v, NULL, &t->out, NULL);
    snprintf(message, n, "%s", heed_context_message(context));
    heed_context_destroy(context);
    return status;
}

static void check_exact(const sizes *s)
{
    const int64_t larger_d = s->d > s->dv ? s->d : s->dv, n_out = s->b * s->hq * s->nq * s->dv;
    float *q = make_floats(s->b * s->hq * s->nq * s->d), *kv = make_floats(s->b * s->hkv * s->nk * larger_d);
    float *out = make_floats(n_out), *want = make_floats(n_out), *untouched = make_floats(n_out);
    const tensors t = view_all(s, q, kv, out), roomy = view_all(s, q, kv, want);
    const int64_t bytes = bytes_of(s);
    char message[256], digits[32];

    assert_int_equal(run_with(bytes - 1, 1, &t, message, sizeof message), HEED_ERROR_SCRATCH);
    snprintf(digits, sizeof digits, "%" PRId64, bytes);
    if (strstr(message, digits) == NULL)
        fail_msg("the message does not name %s bytes: \"%s\"", digits, message);
    assert_memory_equal(out, untouched, (size_t)n_out * sizeof *out);

    assert_int_equal(run_with(0, 1, &roomy, message, sizeof message), HEED_OK);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        memset(out, 0xff, (size_t)n_out * sizeof *out);
        assert_int_equal(run_with(bytes, n_threads, &t, message, sizeof message), HEED_OK);
        assert_memory_equal(out, want, (size_t)n_out * sizeof *out);
    }
    free(q);
    free(kv);
    free(out);
    free(want);
    free(untouched);
}

/* Many rows, few rows, few rows over many ranges of keys. */
static void test_exact(void **state)
{
    (void)state;
    const int64_t channels[][2] = {{1, 1}, {3, 7}, {64, 64}, {65, 17}, {80, 130}, {256, 1}};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
        const int64_t d = channels[i][0], dv = channels[i][1];
        check_exact(&(sizes){2, 4, 2, 130, 150, d, dv});
        check_exact(&(sizes){1, 6, 2, 1, 2000, d, dv});
        check_exact(&(sizes){2, 2, 1, 2, 5000, d, dv});
    }
}

/* The default is enough for D, Dv <= 1024. */
static void test_default(void **state)
{
    (void)state;
    const sizes s = {1, 2, 1, 3, 5, 1024, 1024};
    float *q = make_floats(2 * 3 * 1024), *kv = make_floats(5 * 1024), *out = make_floats(2 * 3 * 1024);
    const tensors t = view_all(&s, q, kv, out);
    char message[256];
    assert_int_equal(run_with(0, 1, &t, message, sizeof message), HEED_OK);
    free(q);
    free(kv);
    free(out);
}

static void expect_error(const tensors *t, const heed_softmax_options *options, heed_status want)
{
    int64_t bytes = -12345;
    assert_int_equal(heed_softmax_scratch_bytes(&t->q, &t->k, &t->v, options, &bytes), want);
    assert_true(bytes == -12345);
}

static void test_errors(void **state)
{
    (void)state;
    const sizes s = {2, 4, 2, 5, 7, 6, 3};
    const tensors good = view_all(&s, NULL, NULL, NULL);
    int64_t bytes = -12345;
    assert_int_equal(heed_softmax_scratch_bytes(NULL, &good.k, &good.v, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_softmax_scratch_bytes(&good.q, NULL, &good.v, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_softmax_scratch_bytes(&good.q, &good.k, NULL, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_softmax_scratch_bytes(&good.q, &good.k, &good.v, NULL, NULL), HEED_ERROR_ARGUMENT);
    assert_true(bytes == -12345);
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.struct_size += 8;
    expect_error(&good, &options, HEED_ERROR_ARGUMENT);
    for (int axis = 0; axis < 4; axis++) {
        tensors wrong = good;
        wrong.q.shape[axis] = -1;
        expect_error(&wrong, NULL, HEED_ERROR_SHAPE);
        wrong = good;
        wrong.v.shape[axis] = axis == 3 ? 0 : 9;
        expect_error(&wrong, NULL, HEED_ERROR_SHAPE);
        wrong = good;
        wrong.k.shape[axis] = INT64_MAX;
        expect_error(&wrong, NULL, HEED_ERROR_SHAPE);
    }
    tensors wrong = good;
    wrong.q.shape[3] = wrong.k.shape[3] = 0;
    expect_error(&wrong, NULL, HEED_ERROR_SHAPE);
    wrong = good;
    wrong.q.shape[1] = 5;
    expect_error(&wrong, NULL, HEED_ERROR_SHAPE);
    wrong = good; /* channels whose scratch would not fit int64 */
    wrong.q.shape[3] = wrong.k.shape[3] = INT64_MAX / 8;
    expect_error(&wrong, NULL, HEED_ERROR_SHAPE);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constant),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
