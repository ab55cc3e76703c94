/* exp2_array and exp_array against double, float by float.
 *
 * HEED_TEST_EXHAUSTIVE  set: every float of the ranges; else every 1009th, a prime, so that all mantissas get a turn
 *
 * The reference has to be far better than 2 ulp, and cheap, because the ranges hold 4.5e9 floats, 85 in 100 of them
 * below 2^-13. There f(x) = 1 + t + t^2 / 2 (t = x, or x ln 2) leaves out at most t^3 / 6 < 2^-41, which is 2^-17 ulp
 * of a float near 1. Everywhere else it is exp() or exp2() of libm, right to 1 ulp of a double. */
#include "core/isa.h"
#include "heed.h"
#include "kernels/kernels.h"
#include "support/random.h"
#include "support/runner.h"
#include "support/seed.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CHUNK = 2048 };

typedef void (*array_fn)(const float *x, float *y, int64_t n);

typedef struct exponential {
    const char *name;
    double log_base; /* of e: t = x log_base */
    double (*reference)(double);
    float low, high;     /* where 2 ulp are promised */
    float zero_below;    /* half of the smallest denormal, as an argument */
    float infinite_from; /* f(x) >= 2^128 */
} exponential;

static const exponential exponentials[2] = {
    {"exp2", 0.693147180559945309, exp2, -126.0f, 16.0f, -150.0f, 128.0f},
    /* 150 ln 2 = 103.9721, 128 ln 2 = 88.7228 */
    {"exp", 1.0, exp, -87.3f, 88.0f, -103.98f, 88.73f},
};

static const heed_kernels *kernels;

static array_fn array_of(const exponential *e)
{
    return e->reference == exp ? kernels->exp_array : kernels->exp2_array;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- A walk over floats ---- */

/* Floats of one sign by growing magnitude: bit patterns first, first + step, ... up to last. */
typedef struct walk {
    uint32_t next, last, step;
    int finished;
} walk;

static uint32_t step_of_sample(void) { return runner_quick() ? 1009 * 101 : 1009; }

static uint32_t step_of_run(void) { return getenv("HEED_TEST_EXHAUSTIVE") != NULL ? 1 : step_of_sample(); }

static walk start_walk(float from, float to, uint32_t step) { return (walk){bits_of(from), bits_of(to), step, 0}; }

/* Fills x and returns how many; the last float of the walk is always among them. */
static int next_chunk(walk *w, float *x)
{
    int n = 0;
    while (n < CHUNK && !w->finished) {
        x[n++] = float_of(w->next);
        w->finished = w->next == w->last;
        w->next = w->last - w->next > w->step ? w->next + w->step : w->last;
    }
    return n;
}

/* ---- The promised range ---- */

static void fill_reference(const exponential *e, const float *x, double *want, int n)
{
    const float largest = fabsf(x[n - 1]); /* magnitudes grow along a walk */
    if (largest < 0x1p-13f) {
        for (int i = 0; i < n; i++) {
            const double t = x[i] * e->log_base;
            want[i] = 1.0 + t + 0.5 * t * t;
        }
    } else {
        for (int i = 0; i < n; i++)
            want[i] = e->reference(x[i]);
    }
}

/* 1 / ulp: the floats around want, a normal float, lie 2^-23 of the power of two below it apart. */
static double ulps_in_one(double want)
{
    uint64_t bits;
    memcpy(&bits, &want, sizeof bits);
    /* Exponents are stored with 1023 added: 2069 less e + 1023 is 1023 + 23 - e, which stands for 2^23 / 2^e. */
    bits = (UINT64_C(2069) << 52) - (bits & (UINT64_C(0x7ff) << 52));
    memcpy(&want, &bits, sizeof bits);
    return want;
}

static double error_in_ulp(float y, double want) { return fabs(y - want) * ulps_in_one(want); }

/* The largest error of a chunk; *n_wrong counts what is off by more than 2 ulp, or NaN. */
static double largest_error(const float *y, const double *want, int n, int *n_wrong)
{
    double largest = 0.0;
    *n_wrong = 0;
    for (int i = 0; i < n; i++) {
        const double error = error_in_ulp(y[i], want[i]);
        largest = error > largest ? error : largest;
        *n_wrong += !(error <= 2.0);
    }
    return largest;
}

static double check_walk(const exponential *e, walk w)
{
    static float x[CHUNK], y[CHUNK];
    static double want[CHUNK];
    double worst = 0.0;
    int n;
    while ((n = next_chunk(&w, x)) > 0) {
        int n_wrong;
        array_of(e)(x, y, n);
        fill_reference(e, x, want, n);
        worst = fmax(worst, largest_error(y, want, n, &n_wrong));
        for (int i = 0; n_wrong > 0 && i < n; i++)
            if (!(error_in_ulp(y[i], want[i]) <= 2.0))
                fail_msg("%s(%a) = %a, want %a: %g ulp", e->name, (double)x[i], (double)y[i], want[i],
                         error_in_ulp(y[i], want[i]));
    }
    return worst;
}

static void test_two_ulp(void **state)
{
    (void)state;
    for (int f = 0; f < 2; f++) {
        const exponential *e = &exponentials[f];
        const double below = check_walk(e, start_walk(-0.0f, e->low, step_of_run()));
        const double above = check_walk(e, start_walk(0.0f, e->high, step_of_run()));
        print_message("%s %s: at most %.4f ulp on [%g, 0], %.4f ulp on [0, %g]\n", kernels->isa, e->name, below,
                      (double)e->low, above, (double)e->high);
        assert_true(below <= 2.0 && above <= 2.0);
    }
}

/* The reference of the tiny arguments is itself held against libm. */
static void test_reference(void **state)
{
    (void)state;
    static float x[CHUNK];
    static double want[CHUNK];
    for (int f = 0; f < 2; f++)
        for (int sign = 0; sign < 2; sign++) {
            const float end = sign ? -0x1.fffffep-14f : 0x1.fffffep-14f;
            walk w = start_walk(sign ? -0x1p-40f : 0x1p-40f, end, 10007);
            int n;
            while ((n = next_chunk(&w, x)) > 0) {
                fill_reference(&exponentials[f], x, want, n);
                for (int i = 0; i < n; i++)
                    assert_true(fabs(want[i] - exponentials[f].reference(x[i])) <= 0x1p-41);
            }
        }
}

/* ---- Everywhere else ---- */

/* What a walk below the normal results has met. */
typedef struct tally {
    long long n_denormal, n_flushed;
} tally;

/* A result below FLT_MIN is right to one smallest denormal, or 0. */
static void check_below_normal(const exponential *e, walk w, tally *t)
{
    static float x[CHUNK], y[CHUNK];
    int n;
    while ((n = next_chunk(&w, x)) > 0) {
        array_of(e)(x, y, n);
        for (int i = 0; i < n; i++) {
            const double want = e->reference(x[i]);
            if (want >= (double)FLT_MIN)
                continue;
            if (!(y[i] == 0.0f || fabs(y[i] - want) <= 0x1p-149))
                fail_msg("%s(%a) = %a, want %a or 0", e->name, (double)x[i], (double)y[i], want);
            t->n_denormal += y[i] != 0.0f;
            t->n_flushed += y[i] == 0.0f && want >= 0x1p-149;
        }
    }
}

/* Every float whose result is a denormal; of those below, all of them nothing, a sample. */
static void test_below_normal(void **state)
{
    (void)state;
    for (int f = 0; f < 2; f++) {
        const exponential *e = &exponentials[f];
        tally t = {0, 0};
        check_below_normal(e, start_walk(e->low, e->zero_below, step_of_run()), &t);
        check_below_normal(e, start_walk(e->zero_below, -FLT_MAX, step_of_sample()), &t);
        print_message("%s %s: below FLT_MIN %lld denormals, %lld flushed to 0\n", kernels->isa, e->name, t.n_denormal,
                      t.n_flushed);
    }
}

static void test_large(void **state)
{
    (void)state;
    static float x[CHUNK], y[CHUNK];
    for (int f = 0; f < 2; f++) {
        const exponential *e = &exponentials[f];
        walk w = start_walk(e->infinite_from, INFINITY, step_of_sample());
        int n;
        while ((n = next_chunk(&w, x)) > 0) {
            array_of(e)(x, y, n);
            for (int i = 0; i < n; i++)
                if (y[i] != INFINITY)
                    fail_msg("%s(%a) = %a, want inf", e->name, (double)x[i], (double)y[i]);
        }
    }
}

static float value_at(const exponential *e, float x)
{
    float y = -1.0f;
    array_of(e)(&x, &y, 1);
    return y;
}

static void test_special_values(void **state)
{
    (void)state;
    static const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff};
    for (int f = 0; f < 2; f++) {
        const exponential *e = &exponentials[f];
        assert_true(value_at(e, 0.0f) == 1.0f);
        assert_true(value_at(e, -0.0f) == 1.0f);
        assert_true(value_at(e, FLT_TRUE_MIN) == 1.0f);
        assert_true(value_at(e, -FLT_TRUE_MIN) == 1.0f);
        assert_true(value_at(e, INFINITY) == INFINITY);
        assert_true(bits_of(value_at(e, -INFINITY)) == 0);
        for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++)
            assert_true(isnan(value_at(e, float_of(nans[i]))));
    }
}

/* Growing arguments give results that do not fall, from below the flush to infinity. The distance of two arguments is
 * that of the sampled walk in every run: neighbouring floats may differ by the rounding of the last step. */
static void test_monotone(void **state)
{
    (void)state;
    static float x[CHUNK], y[CHUNK];
    for (int f = 0; f < 2; f++)
        for (int sign = 0; sign < 2; sign++) {
            const exponential *e = &exponentials[f];
            walk w = sign ? start_walk(-0.0f, e->zero_below, 1009) : start_walk(0.0f, e->infinite_from, 1009);
            float before = 1.0f;
            int n;
            while ((n = next_chunk(&w, x)) > 0) {
                array_of(e)(x, y, n);
                for (int i = 0; i < n; i++) {
                    if (sign ? !(y[i] <= before) : !(y[i] >= before))
                        fail_msg("%s(%a) = %a after %a", e->name, (double)x[i], (double)y[i], (double)before);
                    before = y[i];
                }
            }
        }
}

/* ---- The same bits wherever a float stands ---- */

enum { N_PLACES = 200 };

/* Random arguments of every kind of result, with infinities, NaN and zeros in between. */
static void fill_arguments(float *x, int n, random_stream *random)
{
    static const float special[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 200.0f, -200.0f, FLT_MAX, -FLT_MAX};
    for (int i = 0; i < n; i++) {
        const int64_t pick = random_below(random, 40);
        if (pick < (int64_t)(sizeof special / sizeof special[0]))
            x[i] = special[pick];
        else
            x[i] = pick < 20 ? random_uniform(random, -1.0f, 1.0f) : random_uniform(random, -160.0f, 130.0f);
    }
}

static void expect_same_bits(const exponential *e, const float *x, const float *got, const float *want, int n)
{
    for (int i = 0; i < n; i++)
        if (bits_of(got[i]) != bits_of(want[i]))
            fail_msg("%s(%a): %a alone, %a in an array; HEED_TEST_SEED=%llu", e->name, (double)x[i], (double)want[i],
                     (double)got[i], (unsigned long long)random_seed());
}

static void test_body_and_tail(void **state)
{
    (void)state;
    static float x[N_PLACES], y[N_PLACES + 1], alone[N_PLACES];
    for (int f = 0; f < 2; f++) {
        const exponential *e = &exponentials[f];
        random_stream random = random_start((uint64_t)f);
        fill_arguments(x, N_PLACES, &random);
        for (int i = 0; i < N_PLACES; i++)
            alone[i] = value_at(e, x[i]);
        for (int begin = 0; begin < N_PLACES; begin++)
            for (int n = 0; n <= N_PLACES - begin; n++) {
                y[n] = 123.0f;
                array_of(e)(x + begin, y, n);
                assert_true(y[n] == 123.0f);
                expect_same_bits(e, x + begin, y, alone + begin, n);
            }
    }
}

static void test_in_place(void **state)
{
    (void)state;
    static float x[N_PLACES], y[N_PLACES], same[N_PLACES];
    for (int f = 0; f < 2; f++) {
        const exponential *e = &exponentials[f];
        random_stream random = random_start(10 + (uint64_t)f);
        for (int n = 0; n <= N_PLACES; n++) {
            fill_arguments(x, n, &random);
            memcpy(same, x, sizeof x);
            array_of(e)(x, y, n);
            array_of(e)(same, same, n);
            expect_same_bits(e, x, same, y, n);
        }
    }
}

int main(void)
{
    runner_require_isa();
    kernels = heed_isa_kernels(runner_isa());
    const struct CMUnitTest every_float[] = {
        cmocka_unit_test(test_two_ulp),
        cmocka_unit_test(test_below_normal),
        cmocka_unit_test(test_large),
    };
    const struct CMUnitTest sample[] = {
        cmocka_unit_test(test_reference),     cmocka_unit_test(test_special_values), cmocka_unit_test(test_monotone),
        cmocka_unit_test(test_body_and_tail), cmocka_unit_test(test_in_place),
    };
    const int n_failed = cmocka_run_group_tests(every_float, print_seed, NULL);
    return getenv("HEED_TEST_EXHAUSTIVE") != NULL ? n_failed : n_failed + cmocka_run_group_tests(sample, NULL, NULL);
}
