/* The penalty of orthogonality and its gradient: against plain loops, against differences, at its minimum, and every
 * argument. */
#include "core/context.h"
#include "mechanisms/orthogonality.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef struct problem {
    heed_tensor w, dw;
    guarded w_memory, dw_memory;
} problem;

static problem create(int64_t heads, int64_t rows, int64_t columns, tensor_layout layout, uint64_t stream)
{
    problem p;
    random_stream random = random_start(stream);
    p.w = tensor_create(&p.w_memory, HEED_FLOAT32, 1, heads, rows, columns, layout, GUARD_END);
    p.dw = tensor_create(&p.dw_memory, HEED_FLOAT32, 1, heads, rows, columns, layout, GUARD_END);
    tensor_fill_normal(&p.w, &random, 0.7f);
    return p;
}

static void expect_untouched(const problem *p)
{
    for (size_t byte = 0; byte < p->dw_memory.bytes; byte++)
        assert_int_equal(p->dw_memory.data[byte], guarded_pattern(byte));
}

/* What lies between the rows of dw and around them is as it was. */
static void destroy(problem *p)
{
    for (int64_t i = 0; i < p->dw.shape[1] * p->dw.shape[2]; i++) {
        char *row = (char *)tensor_at(&p->dw, 0, i / p->dw.shape[2], i % p->dw.shape[2], 0);
        for (size_t byte = 0; byte < (size_t)p->dw.shape[3] * sizeof(float); byte++)
            row[byte] = (char)guarded_pattern((size_t)(row - (char *)p->dw_memory.data) + byte);
    }
    expect_untouched(p);
    assert_true(guarded_intact(&p->w_memory));
    assert_true(guarded_intact(&p->dw_memory));
    guarded_destroy(&p->w_memory);
    guarded_destroy(&p->dw_memory);
}

static double penalise(const problem *p, float lambda, const heed_tensor *dw, int accumulate)
{
    double penalty = NAN;
    const heed_status status = heed_orthogonality_penalty(fixture_context, &p->w, lambda, &penalty, dw, accumulate);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
    return penalty;
}

static double value(const heed_tensor *w, int64_t h, int64_t i, int64_t k) { return (double)*tensor_at(w, 0, h, i, k); }

/* The equations of heed.h, with E whole. gradient: [H][in][out]. */
static double oracle(const heed_tensor *w, double lambda, double *gradient)
{
    const int64_t heads = w->shape[1], rows = w->shape[2], columns = w->shape[3];
    const double factor = lambda / (double)(heads * rows * rows);
    double *error = calloc((size_t)(rows * rows), sizeof *error), sum = 0.0;
    assert_non_null(error);
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < rows; j++) {
                double *e = &error[i * rows + j];
                *e = i == j ? -1.0 : 0.0;
                for (int64_t k = 0; k < columns; k++)
                    *e += value(w, h, i, k) * value(w, h, j, k);
                sum += *e * *e;
            }
        }
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t k = 0; k < columns; k++) {
                double *g = &gradient[(h * rows + i) * columns + k];
                *g = 0.0;
                for (int64_t j = 0; j < rows; j++)
                    *g += 4.0 * factor * error[i * rows + j] * value(w, h, j, k);
            }
        }
    }
    free(error);
    return factor * sum;
}

static void expect_near(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: %.17g, wanted %.17g within %.2g", what, got, want, tolerance);
}

static void expect_each(const heed_tensor *got, const double *want, const char *what)
{
    /* Rounded once; sums in float64 may cancel. */
    const compare_result r = compare_each(got, want, 1e-12, 0x1p-24);
    if (!r.equal)
        fail_msg("%s: %s", what, r.text);
}

static const int64_t shapes[][3] = {{1, 1, 1}, {2, 4, 4}, {3, 5, 9},   {3, 9, 5},
                                    {8, 1, 7}, {2, 7, 1}, {2, 64, 64}, {1, 33, 130}};

static void as_plain_loops_have_it(void **state)
{
    (void)state;
    for (size_t n = 0; n < 3 * N_OF(shapes); n++) {
        const int64_t *s = shapes[n / 3], size = s[0] * s[1] * s[2];
        problem p = create(s[0], s[1], s[2], (tensor_layout)(n % 3), n);
        double *want = malloc((size_t)size * sizeof *want);
        assert_non_null(want);
        const float lambda = n % 2 ? 0.1f : -3.0f;
        const double penalty = oracle(&p.w, (double)lambda, want);
        expect_near(penalise(&p, lambda, &p.dw, 0), penalty, 1e-13 * fabs(penalty), "penalty");
        expect_each(&p.dw, want, "gradient");

        random_stream random = random_start(100 + n);
        tensor_fill_normal(&p.dw, &random, 1.0f);
        for (int64_t i = 0; i < size; i++)
            want[i] += value(&p.dw, i / s[2] / s[1], i / s[2] % s[1], i % s[2]);
        expect_near(penalise(&p, lambda, &p.dw, 1), penalty, 1e-13 * fabs(penalty), "penalty");
        expect_each(&p.dw, want, "accumulated gradient");
        free(want);
        destroy(&p);
    }
}

/* Along one weight the penalty is a polynomial of degree 4, for which the difference of five points is exact. */
static void as_differences_have_it(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(shapes); n++) {
        problem p = create(shapes[n][0], shapes[n][1], shapes[n][2], LAYOUT_PADDED, n);
        const int64_t size = shapes[n][0] * shapes[n][1] * shapes[n][2];
        penalise(&p, 1.0f, &p.dw, 0);
        for (int64_t i = 0; i < size; i += 1 + size / 40) {
            const int64_t k = i % shapes[n][2], row = i / shapes[n][2] % shapes[n][1];
            const int64_t h = i / shapes[n][2] / shapes[n][1];
            float *w = tensor_at(&p.w, 0, h, row, k);
            const float before = *w, middle = roundf(before * 1024.0f) / 1024.0f; /* so that sums are exact */
            const float step = 0.125f;
            double penalty[5];
            *w = middle;
            penalise(&p, 1.0f, &p.dw, 0);
            for (int at = -2; at <= 2; at++) {
                *w = middle + (float)at * step;
                penalty[at + 2] = penalise(&p, 1.0f, NULL, 0);
            }
            const double slope = (8.0 * (penalty[3] - penalty[1]) - (penalty[4] - penalty[0])) / (12.0 * (double)step);
            expect_near(value(&p.dw, h, row, k), slope, 0x1p-24 * fabs(slope) + 1e-12 * penalty[2], "slope");
            *w = before;
        }
        destroy(&p);
    }
}

/* Orthonormal rows, each weight rounded: an entry of E is at most 2^-23. */
static void nothing_at_orthogonal_weights(void **state)
{
    (void)state;
    static const int64_t orthogonal[][2] = {{1, 1}, {1, 8}, {16, 16}, {64, 64}, {20, 70}};
    for (size_t n = 0; n < N_OF(orthogonal); n++) {
        problem p = create(3, orthogonal[n][0], orthogonal[n][1], LAYOUT_BHND, n);
        assert_int_equal(heed_init_orthogonal(fixture_context, n, &p.w), HEED_OK);
        const double penalty = penalise(&p, 1.0f, &p.dw, 0);
        assert_true(penalty >= 0.0 && penalty <= 0x1.01p-46);
        const double rows = (double)orthogonal[n][0];
        assert_true(tensor_max_abs(&p.dw) <= 4.0 / (3.0 * rows * rows) * rows * 0x1.01p-23);
        destroy(&p);
    }
}

/* Rows of a tall matrix cannot be orthonormal: with orthonormal columns E = Q Q^T - I, whose square has the trace
 * in - out. */
static void least_of_a_tall_matrix(void **state)
{
    (void)state;
    problem p = create(2, 10, 4, LAYOUT_BHND, 0);
    assert_int_equal(heed_init_orthogonal(fixture_context, 5, &p.w), HEED_OK);
    expect_near(penalise(&p, 2.0f, NULL, 0), 2.0 * 6.0 / 100.0, 1e-6, "tall");
    destroy(&p);
}

static void what_is_not_wanted(void **state)
{
    (void)state;
    problem p = create(2, 5, 6, LAYOUT_PADDED, 0), other = create(2, 5, 6, LAYOUT_BNHD, 0);
    penalise(&p, 0.5f, &p.dw, 0);
    assert_int_equal(heed_orthogonality_penalty(fixture_context, &other.w, 0.5f, NULL, &other.dw, 0), HEED_OK);
    const compare_result r = compare_bits(&other.dw, &p.dw);
    if (!r.equal)
        fail_msg("%s", r.text);
    assert_int_equal(heed_orthogonality_penalty(fixture_context, &p.w, 0.5f, NULL, NULL, 0), HEED_OK);
    heed_report report = HEED_REPORT_INIT;
    assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
    assert_string_equal(report.path, "orthogonality");
    assert_int_equal(report.n_tasks, 2);

    /* The same weights for all heads, by a stride of 0; and no head at all. */
    problem one = create(1, 5, 6, LAYOUT_BHND, 0);
    const double penalty = penalise(&one, 1.0f, NULL, 0);
    one.w.shape[1] = 7;
    one.w.stride[1] = 0;
    expect_near(penalise(&one, 1.0f, NULL, 0), penalty, 1e-14 * penalty, "repeated");
    one.w.shape[1] = one.dw.shape[1] = 0;
    assert_true(penalise(&one, 1.0f, &one.dw, 0) == 0.0);
    destroy(&p);
    destroy(&other);
    one.dw.shape[1] = 1;
    destroy(&one);
}

static void refused_arguments(void **state)
{
    (void)state;
    problem p = create(2, 4, 6, LAYOUT_PADDED, 0);
    double kept = 7.0;
#define REFUSE(change, status, text)                                                                                   \
    do {                                                                                                               \
        heed_tensor w = p.w, dw = p.dw;                                                                                \
        const heed_tensor *w_at = &w, *dw_at = &dw;                                                                    \
        double *penalty = &kept;                                                                                       \
        float lambda = 0.1f;                                                                                           \
        change;                                                                                                        \
        assert_int_equal(heed_orthogonality_penalty(fixture_context, w_at, lambda, penalty, dw_at, 0), status);        \
        if (strcmp(heed_context_message(fixture_context), text) != 0)                                                  \
            fail_msg("\"%s\"; wanted \"%s\"", heed_context_message(fixture_context), text);                            \
        assert_true(kept == 7.0);                                                                                      \
    } while (0)
    REFUSE(lambda = NAN, HEED_ERROR_ARGUMENT, "lambda: a finite value expected, got nan");
    REFUSE(lambda = -INFINITY, HEED_ERROR_ARGUMENT, "lambda: a finite value expected, got -inf");
    REFUSE(w_at = NULL, HEED_ERROR_ARGUMENT, "w: is NULL");
    REFUSE(w.data = NULL, HEED_ERROR_ARGUMENT, "w: data is NULL");
    REFUSE(w.data = (char *)w.data + 2, HEED_ERROR_ARGUMENT, "w: data is not aligned to its elements");
    REFUSE(w.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "w: HEED_FLOAT32 expected, got HEED_BOOL");
    REFUSE((w.shape[0] = 2, w.shape[1] = 1), HEED_ERROR_SHAPE, "w: 1 batches expected (weights have no batch), got 2");
    REFUSE(w.shape[1] = -2, HEED_ERROR_SHAPE, "w: -2 heads");
    REFUSE(w.shape[2] = 0, HEED_ERROR_SHAPE, "w: 1 row or more expected, got 0");
    REFUSE(w.shape[3] = 0, HEED_ERROR_SHAPE, "w: 1 column or more expected, got 0");
    REFUSE(w.stride[1] = -1, HEED_ERROR_STRIDE, "w: stride -1 between heads is negative");
    REFUSE(w.stride[3] = 2, HEED_ERROR_STRIDE, "w: stride 1 between channels expected, got 2");
    REFUSE(penalty = (double *)(void *)((char *)&kept + 4), HEED_ERROR_ARGUMENT,
           "penalty: is not aligned to its elements");
    REFUSE(dw.data = NULL, HEED_ERROR_ARGUMENT, "dw: data is NULL");
    REFUSE(dw.dtype = (heed_dtype)9, HEED_ERROR_ARGUMENT, "dw: unknown dtype 9");
    REFUSE(dw.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "dw: HEED_FLOAT32 expected, got HEED_BOOL");
    REFUSE(dw.shape[1] = 1, HEED_ERROR_SHAPE, "dw: 2 heads expected (as in w), got 1");
    REFUSE(dw.shape[2] = 3, HEED_ERROR_SHAPE, "dw: 4 tokens expected (as in w), got 3");
    REFUSE(dw.shape[3] = 5, HEED_ERROR_SHAPE, "dw: 6 channels expected (as in w), got 5");
    REFUSE(dw.stride[2] = 0, HEED_ERROR_STRIDE, "dw: an output cannot repeat (stride 0 between tokens)");
    REFUSE(dw.stride[2] = 5, HEED_ERROR_OVERLAP, "dw: overlaps itself");
    REFUSE(dw.data = w.data, HEED_ERROR_OVERLAP, "dw: overlaps w");
    REFUSE(w.data = dw.data, HEED_ERROR_OVERLAP, "dw: overlaps w");
    assert_int_equal(heed_orthogonality_penalty(NULL, &p.w, 0.1f, &kept, &p.dw, 0), HEED_ERROR_ARGUMENT);
    atomic_flag_test_and_set(&fixture_context->busy);
    assert_int_equal(heed_orthogonality_penalty(fixture_context, &p.w, 0.1f, &kept, &p.dw, 0), HEED_ERROR_BUSY);
    atomic_flag_clear(&fixture_context->busy);
    expect_untouched(&p);
    destroy(&p);

    /* A penalty in the memory of one of the tensors. */
    union {
        double penalty[12];
        float weights[24];
    } shared[2];
    memset(shared, 0, sizeof shared);
    p.w = heed_tensor_bhnd(shared[0].weights, HEED_FLOAT32, 1, 1, 4, 6);
    p.dw = heed_tensor_bhnd(shared[1].weights, HEED_FLOAT32, 1, 1, 4, 6);
    REFUSE(penalty = &shared[0].penalty[11], HEED_ERROR_OVERLAP, "penalty: overlaps w");
    REFUSE(penalty = &shared[1].penalty[0], HEED_ERROR_OVERLAP, "dw: overlaps penalty");
    for (int i = 0; i < 24; i++)
        assert_true(shared[0].weights[i] == 0.0f && shared[1].weights[i] == 0.0f);
#undef REFUSE
}

static void too_little_scratch(void **state)
{
    (void)state;
    problem p = create(2, 9, 14, LAYOUT_BHND, 0);
    const int64_t bytes = heed_orthogonality_bytes(&p.w);
    double kept = 7.0;
    assert_true(bytes >= 8 * (9 + 14) && bytes < 8 * (9 + 14) + 256);
    for (int enough = 0; enough < 2; enough++) {
        heed_config config = HEED_CONFIG_INIT;
        heed_context *context;
        config.isa = runner_isa();
        config.scratch_bytes = bytes - !enough;
        assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
        assert_int_equal(heed_orthogonality_penalty(context, &p.w, 1.0f, &kept, &p.dw, 0),
                         enough ? HEED_OK : HEED_ERROR_SCRATCH);
        if (!enough) {
            assert_true(kept == 7.0);
            expect_untouched(&p);
        }
        heed_context_destroy(context);
    }
    assert_true(kept == penalise(&p, 1.0f, NULL, 0));
    heed_tensor huge = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 0, ((int64_t)1 << 60) - 1, 1);
    huge.stride[2] = 0;
    assert_int_equal(heed_orthogonality_penalty(fixture_context, &huge, 1.0f, NULL, NULL, 0), HEED_ERROR_SCRATCH);
    destroy(&p);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_plain_loops_have_it),
        cmocka_unit_test(as_differences_have_it),
        cmocka_unit_test(nothing_at_orthogonal_weights),
        cmocka_unit_test(least_of_a_tall_matrix),
        cmocka_unit_test(what_is_not_wanted),
        cmocka_unit_test(refused_arguments),
        cmocka_unit_test(too_little_scratch),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
