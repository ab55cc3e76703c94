/* The comparator must be able to say no. Every other test leans on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "support/compare.h"
#include "support/guard.h"
#include "support/random.h"
#include "support/seed.h"

enum { BATCH = 2, HEADS = 2, TOKENS = 3, CHANNELS = 5, N_VALUES = BATCH * HEADS * TOKENS * CHANNELS };

/* A result, the same values in float64, and a view of the result. */
typedef struct pair {
    float got[N_VALUES];
    double want[N_VALUES];
    heed_tensor view;
} pair;

static void make_pair(pair *p)
{
    random_stream random = random_start(1);
    for (int i = 0; i < N_VALUES; i++) {
        p->got[i] = random_normal(&random);
        p->want[i] = (double)p->got[i];
    }
    p->view = heed_tensor_bhnd(p->got, HEED_FLOAT32, BATCH, HEADS, TOKENS, CHANNELS);
}

static void accepts_what_is_equal_or_near(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    assert_true(compare_tensor(&p.view, p.want, 0.0, 1.0).equal);
    for (int i = 0; i < N_VALUES; i++)
        p.want[i] += i % 2 ? 0.9e-6 : -0.9e-6;
    assert_true(compare_tensor(&p.view, p.want, 1e-6, 1.0).equal);
    assert_true(compare_tensor(&p.view, p.want, 1e-7, 10.0).equal);
}

static void rejects_zeros(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    memset(p.got, 0, sizeof(p.got));
    const compare_result result = compare_tensor(&p.view, p.want, 1e-3, 0.0);
    assert_false(result.equal);
    assert_true(result.n_wrong > N_VALUES - 3);
}

static void rejects_a_swapped_row(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    float row[CHANNELS];
    memcpy(row, p.got, sizeof(row));
    memcpy(p.got, p.got + CHANNELS, sizeof(row));
    memcpy(p.got + CHANNELS, row, sizeof(row));
    const compare_result result = compare_tensor(&p.view, p.want, 1e-3, 0.0);
    assert_false(result.equal);
    assert_int_equal(result.n_wrong, 2 * CHANNELS);
}

static void rejects_one_wrong_element_anywhere(void **state)
{
    (void)state;
    for (int i = 0; i < N_VALUES; i++) {
        pair p;
        make_pair(&p);
        p.want[i] += 1e-4;
        const compare_result result = compare_tensor(&p.view, p.want, 1e-5, 1.0);
        assert_false(result.equal);
        assert_int_equal(result.n_wrong, 1);
        const int64_t *at = result.index;
        assert_int_equal(((at[0] * HEADS + at[1]) * TOKENS + at[2]) * CHANNELS + at[3], i);
        assert_true(fabs(result.scaled_error - 1e-4) < 1e-6);
        assert_non_null(strstr(result.text, "1 of 60 wrong"));
        assert_false(compare_tensor(&p.view, p.want, 0.0, 1.0).equal);
    }
}

static void reports_the_worst_of_several(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    p.want[3] += 1e-2;
    p.want[44] -= 1e-1;
    p.want[59] += 1e-3;
    const compare_result result = compare_tensor(&p.view, p.want, 1e-5, 2.0);
    assert_int_equal(result.n_wrong, 3);
    assert_true(result.got == (double)p.got[44] && result.want == p.want[44]);
    assert_true(fabs(result.scaled_error - 0.05) < 1e-6);
    assert_true(compare_tensor(&p.view, p.want, 0.0, 2.0).scaled_error == result.scaled_error);
}

static void meets_nan_with_nan_and_inf_with_the_same_inf(void **state)
{
    (void)state;
    const double special[] = {NAN, INFINITY, -INFINITY, 0.5};
    for (int got = 0; got < 4; got++) {
        for (int want = 0; want < 4; want++) {
            pair p;
            make_pair(&p);
            p.got[7] = (float)special[got];
            p.want[7] = special[want];
            const compare_result result = compare_tensor(&p.view, p.want, 1e30, 1e30);
            assert_int_equal(result.equal, got == want);
            assert_int_equal(result.n_wrong, got != want);
            assert_true(got == want || result.scaled_error == INFINITY);
        }
    }
}

static void lets_no_broken_tolerance_pass(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    assert_int_equal(compare_tensor(&p.view, p.want, NAN, 1.0).n_wrong, N_VALUES);
    assert_int_equal(compare_tensor(&p.view, p.want, 1e-6, NAN).n_wrong, N_VALUES);
    memset(p.want, 0, sizeof(p.want)); /* the derived scale is zero: only zeros are right */
    assert_int_equal(compare_tensor(&p.view, p.want, 1e-6, 0.0).n_wrong, N_VALUES);
    memset(p.got, 0, sizeof(p.got));
    assert_true(compare_tensor(&p.view, p.want, 1e-6, 0.0).equal);
}

static void derives_the_scale_from_finite_values(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    p.got[0] = 100.0f;
    p.want[0] = 100.0;
    p.got[1] = INFINITY;
    p.want[1] = INFINITY;
    p.want[2] += 0.9e-4;
    assert_true(compare_tensor(&p.view, p.want, 1e-6, 0.0).equal);
    assert_false(compare_tensor(&p.view, p.want, 0.8e-6, 0.0).equal);
    assert_true(tensor_max_abs(&p.view) == 100.0);
}

static void weighs_each_element_by_its_size(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    p.got[3] = 1e30f;
    p.want[3] = (double)p.got[3] * (1.0 + 0.9e-6);
    p.want[5] = (double)p.got[5] + 0.9e-3;
    assert_true(compare_each(&p.view, p.want, 1e-3, 1e-6).equal);
    assert_int_equal(compare_each(&p.view, p.want, 1e-3, 0.8e-6).n_wrong, 1);
    assert_int_equal(compare_each(&p.view, p.want, 0.8e-3, 1e-6).n_wrong, 1);
    assert_int_equal(compare_each(&p.view, p.want, NAN, 1e-6).n_wrong, N_VALUES);
    p.want[5] = INFINITY;
    const compare_result result = compare_each(&p.view, p.want, 1e30, 1e30);
    assert_int_equal(result.n_wrong, 1);
    assert_int_equal(result.index[3], 0);
    assert_int_equal(result.index[2], 1);
}

static void follows_strides(void **state)
{
    (void)state;
    pair p;
    make_pair(&p);
    /* The same memory read as batch, token, head, channel: want in the order batch, head, token, channel. */
    const heed_tensor view = heed_tensor_bnhd(p.got, HEED_FLOAT32, BATCH, HEADS, TOKENS, CHANNELS);
    assert_false(compare_tensor(&view, p.want, 1e-3, 0.0).equal);
    for (int b = 0; b < BATCH; b++) {
        for (int h = 0; h < HEADS; h++) {
            for (int n = 0; n < TOKENS; n++) {
                for (int c = 0; c < CHANNELS; c++)
                    p.want[((b * HEADS + h) * TOKENS + n) * CHANNELS + c] =
                        (double)p.got[((b * TOKENS + n) * HEADS + h) * CHANNELS + c];
            }
        }
    }
    assert_true(compare_tensor(&view, p.want, 0.0, 1.0).equal);
}

static void compares_bits(void **state)
{
    (void)state;
    pair p;
    pair other;
    make_pair(&p);
    make_pair(&other);
    p.got[4] = other.got[4] = NAN;
    assert_true(compare_bits(&p.view, &other.view).equal);
    for (int i = 0; i < N_VALUES; i++) {
        const float kept = other.got[i];
        other.got[i] = nextafterf(kept, INFINITY);
        const int is_nan = i == 4;
        other.got[i] = is_nan ? 1.0f : other.got[i];
        const compare_result result = compare_bits(&p.view, &other.view);
        assert_false(result.equal);
        assert_int_equal(result.n_wrong, 1);
        other.got[i] = kept;
    }
    p.got[9] = 0.0f;
    other.got[9] = -0.0f;
    assert_false(compare_bits(&p.view, &other.view).equal);
}

static void accepts_an_empty_tensor(void **state)
{
    (void)state;
    const heed_tensor empty = heed_tensor_bhnd(NULL, HEED_FLOAT32, 2, 0, 3, 4);
    assert_true(compare_tensor(&empty, NULL, 0.0, 1.0).equal);
    assert_true(compare_bits(&empty, &empty).equal);
}

static void guards_notice_a_changed_canary(void **state)
{
    (void)state;
    for (int side = GUARD_END; side <= GUARD_START; side++) {
        guarded buffer;
        guarded_create(&buffer, 1001, (guard_side)side);
        assert_true(guarded_intact(&buffer));
        memset(buffer.data, 1, 1001);
        assert_true(guarded_intact(&buffer));
        unsigned char *beside = side == GUARD_END ? buffer.data - 1 : buffer.data + 1001;
        *beside ^= 1;
        assert_false(guarded_intact(&buffer));
        guarded_destroy(&buffer);
    }
}

static void fresh_guarded_floats_are_nan(void **state)
{
    (void)state;
    guarded buffer;
    guarded_create(&buffer, 40, GUARD_END);
    for (int i = 0; i < 10; i++) {
        float value;
        memcpy(&value, buffer.data + 4 * i, sizeof(value));
        assert_true(isnan(value));
    }
    guarded_destroy(&buffer);
}

static void streams_differ_and_repeat(void **state)
{
    (void)state;
    random_stream a = random_start(3);
    random_stream same = random_start(3);
    random_stream other = random_start(4);
    int n_equal = 0;
    double sum = 0.0;
    double sum_of_squares = 0.0;
    for (int i = 0; i < 10000; i++) {
        const float value = random_normal(&a);
        assert_true(value == random_normal(&same));
        n_equal += value == random_normal(&other);
        sum += (double)value;
        sum_of_squares += (double)value * (double)value;
    }
    /* Five standard deviations of the mean and of the variance of 10000 normal numbers. */
    assert_true(n_equal < 10);
    assert_true(fabs(sum / 10000.0) < 0.05);
    assert_true(fabs(sum_of_squares / 10000.0 - 1.0) < 0.071);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_what_is_equal_or_near),
        cmocka_unit_test(rejects_zeros),
        cmocka_unit_test(rejects_a_swapped_row),
        cmocka_unit_test(rejects_one_wrong_element_anywhere),
        cmocka_unit_test(reports_the_worst_of_several),
        cmocka_unit_test(meets_nan_with_nan_and_inf_with_the_same_inf),
        cmocka_unit_test(lets_no_broken_tolerance_pass),
        cmocka_unit_test(derives_the_scale_from_finite_values),
        cmocka_unit_test(weighs_each_element_by_its_size),
        cmocka_unit_test(follows_strides),
        cmocka_unit_test(compares_bits),
        cmocka_unit_test(accepts_an_empty_tensor),
        cmocka_unit_test(guards_notice_a_changed_canary),
        cmocka_unit_test(fresh_guarded_floats_are_nan),
        cmocka_unit_test(streams_differ_and_repeat),
    };
    return cmocka_run_group_tests(tests, print_seed, NULL);
}
