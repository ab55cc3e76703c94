/* heed_merge: pairs against the oracle, empty and infinite parts, views, order. */
#include "support/parts.h"

#include <math.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

static void fill_part(const part *p, random_stream *random, float lse_deviation)
{
    tensor_fill_normal(&p->out, random, 1.0f);
    tensor_fill_normal(&p->lse, random, lse_deviation);
}

static void expect_equal_parts(const part *got, const part *want, const char *name)
{
    const compare_result out = compare_bits(&got->out, &want->out);
    const compare_result lse = compare_bits(&got->lse, &want->lse);
    if (!out.equal || !lse.equal)
        fail_msg("%s: out %s; lse %s", name, out.text, lse.text);
}

static double find_ulp(double value)
{
    const float size = fabsf((float)value);
    return (double)nextafterf(size, INFINITY) - (double)size;
}

/* The bound of heed.h for one element: 4e-7 of the larger output, what an ulp in each lse makes of it, 1 ulp of lse. */
static void check_element(double out_a, double lse_a, double out_b, double lse_b, double out, double lse)
{
    double want_out;
    double want_lse;
    oracle_merge_pair(out_a, lse_a, out_b, lse_b, &want_out, &want_lse);
    const double weight_a = exp(lse_a - want_lse);
    const double lse_part = weight_a * (1.0 - weight_a) * fabs(out_a - out_b) * (find_ulp(lse_a) + find_ulp(lse_b));
    if (!(fabs(out - want_out) <= 4e-7 * fmax(fabs(out_a), fabs(out_b)) + lse_part))
        fail_msg("out of (%.9g, %.9g) and (%.9g, %.9g): got %.9g, want %.17g", out_a, lse_a, out_b, lse_b, out,
                 want_out);
    if (!(fabs(lse - want_lse) <= find_ulp(want_lse)))
        fail_msg("lse of %.9g and %.9g: got %.9g, want %.17g", lse_a, lse_b, lse, want_lse);
}

static void check_elements(const part *a, const part *b, const part *joined)
{
    const int64_t *shape = a->out.shape;
    for (int64_t element = 0; element < shape[0] * shape[1] * shape[2] * shape[3]; element++) {
        const int64_t c = element % shape[3];
        const int64_t n = element / shape[3] % shape[2];
        const int64_t h = element / shape[3] / shape[2] % shape[1];
        const int64_t batch = element / shape[3] / shape[2] / shape[1];
        const int64_t lse_c = a->lse.shape[3] == 1 ? 0 : c;
        check_element((double)*tensor_at(&a->out, batch, h, n, c), (double)*tensor_at(&a->lse, batch, h, n, lse_c),
                      (double)*tensor_at(&b->out, batch, h, n, c), (double)*tensor_at(&b->lse, batch, h, n, lse_c),
                      (double)*tensor_at(&joined->out, batch, h, n, c),
                      (double)*tensor_at(&joined->lse, batch, h, n, lse_c));
    }
}

static void pairs_within_the_bound(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {{2, 3, 70, 17}, {1, 1, 1, 1}, {1, 2, 65, 1}, {1, 1, 5, 300}, {3, 1, 64, 16}};
    static const float deviations[] = {1e-3f, 1.0f, 20.0f, 1e4f, 1e30f};
    for (size_t s = 0; s < N_OF(shapes); s++) {
        for (size_t d = 0; d < N_OF(deviations); d++) {
            for (int way = 0; way < 6; way++) {
                random_stream random = random_start(s * 100 + d);
                part a;
                part b;
                part joined;
                open_part(&a, shapes[s], way % 2, (tensor_layout)(way / 2));
                open_part(&b, shapes[s], way % 2, (tensor_layout)((way / 2 + 1) % 3));
                open_part(&joined, shapes[s], way % 2, (tensor_layout)((way / 2 + 2) % 3));
                fill_part(&a, &random, deviations[d]);
                fill_part(&b, &random, deviations[d]);
                merge_parts(&a, &b, &joined);
                check_elements(&a, &b, &joined);
                close_part(&a);
                close_part(&b);
                close_part(&joined);
            }
        }
    }
}

static void oracle_agrees_with_its_pairs(void **state)
{
    (void)state;
    /* The oracle over whole tensors, as heed-compare uses it, against the library. */
    static const int64_t shape[4] = {2, 2, 9, 5};
    for (int per_channel = 0; per_channel < 2; per_channel++) {
        random_stream random = random_start(2);
        part a;
        part b;
        part joined;
        open_part(&a, shape, per_channel, LAYOUT_PADDED);
        open_part(&b, shape, per_channel, LAYOUT_BNHD);
        open_part(&joined, shape, per_channel, LAYOUT_BHND);
        fill_part(&a, &random, 1.0f);
        fill_part(&b, &random, 1.0f);
        merge_parts(&a, &b, &joined);
        double out[2 * 2 * 9 * 5];
        double lse[2 * 2 * 9 * 5];
        oracle_merge(&a.out, &a.lse, &b.out, &b.lse, out, lse);
        assert_true(compare_tensor(&joined.out, out, 1e-6, 0.0).equal);
        assert_true(compare_tensor(&joined.lse, lse, 1e-6, 0.0).equal);
        close_part(&a);
        close_part(&b);
        close_part(&joined);
    }
}

static void the_empty_part_is_the_identity(void **state)
{
    (void)state;
    static const int64_t shape[4] = {1, 2, 70, 19};
    static const float outs[] = {0.0f, 7.0f, NAN}; /* what an absent part holds does not matter */
    for (int per_channel = 0; per_channel < 2; per_channel++) {
        for (size_t n = 0; n < N_OF(outs); n++) {
            random_stream random = random_start(3);
            part a;
            part empty;
            part joined;
            open_part(&a, shape, per_channel, LAYOUT_BHND);
            open_part(&empty, shape, per_channel, LAYOUT_BHND);
            open_part(&joined, shape, per_channel, LAYOUT_PADDED);
            fill_part(&a, &random, 3.0f);
            tensor_fill(&empty.out, outs[n]);
            tensor_fill(&empty.lse, -INFINITY);
            *tensor_at(&a.out, 0, 1, 5, 3) = NAN;
            *tensor_at(&a.out, 0, 0, 6, 4) = -0.0f;
            *tensor_at(&a.out, 0, 0, 7, 4) = INFINITY;
            *tensor_at(&a.lse, 0, 1, 8, 0) = NAN;
            *tensor_at(&a.lse, 0, 1, 9, 0) = INFINITY;
            merge_parts(&a, &empty, &joined);
            expect_equal_parts(&joined, &a, "empty on the right");
            merge_parts(&empty, &a, &joined);
            expect_equal_parts(&joined, &a, "empty on the left");
            tensor_fill(&empty.out, 0.0f);
            merge_parts(&empty, &empty, &joined);
            expect_equal_parts(&joined, &empty, "both empty");
            close_part(&a);
            close_part(&empty);
            close_part(&joined);
        }
    }
}

static void special_values_stay_in_their_row_or_channel(void **state)
{
    (void)state;
    static const int64_t shape[4] = {1, 1, 70, 19};
    static const float specials[] = {NAN, INFINITY};
    for (int per_channel = 0; per_channel < 2; per_channel++) {
        for (int64_t place = 0; place < 70; place++) {
            for (int way = 0; way < 6; way++) {
                random_stream random = random_start(4);
                part a;
                part b;
                part clean;
                part joined;
                part *const all[] = {&a, &b, &clean, &joined};
                for (int n = 0; n < 4; n++)
                    open_part(all[n], shape, per_channel, LAYOUT_BHND);
                fill_part(&a, &random, 1.0f);
                fill_part(&b, &random, 1.0f);
                merge_parts(&a, &b, &clean);
                const int64_t c = per_channel ? place % 19 : 0;
                const float special = specials[way % 2];
                if (way < 4)
                    *tensor_at(way < 2 ? &a.lse : &b.lse, 0, 0, place, c) = special;
                if (way >= 4) {
                    *tensor_at(&a.lse, 0, 0, place, c) = special;
                    *tensor_at(&b.lse, 0, 0, place, c) = INFINITY;
                }
                merge_parts(&a, &b, &joined);
                for (int64_t hit = per_channel ? c : 0; hit < (per_channel ? c + 1 : 19); hit++) {
                    assert_true(isnan(*tensor_at(&joined.out, 0, 0, place, hit)));
                    *tensor_at(&joined.out, 0, 0, place, hit) = *tensor_at(&clean.out, 0, 0, place, hit);
                }
                /* Without weights there is no number: the sum is +inf or NaN. */
                float *lse = tensor_at(&joined.lse, 0, 0, place, c);
                assert_true(isnan(*lse) || (special == INFINITY && *lse == INFINITY));
                *lse = *tensor_at(&clean.lse, 0, 0, place, c);
                expect_equal_parts(&joined, &clean, "beside a special value");
                for (int n = 0; n < 4; n++)
                    close_part(all[n]);
            }
            if (runner_quick())
                place += 12;
        }
    }
}

static void in_place_has_the_same_bits(void **state)
{
    (void)state;
    static const int64_t shape[4] = {2, 2, 70, 19};
    for (int way = 0; way < 6; way++) {
        random_stream random = random_start(5);
        part a;
        part b;
        part joined;
        open_part(&a, shape, way % 2, (tensor_layout)(way / 2));
        open_part(&b, shape, way % 2, LAYOUT_BHND);
        open_part(&joined, shape, way % 2, LAYOUT_BHND);
        fill_part(&a, &random, 2.0f);
        fill_part(&b, &random, 2.0f);
        *tensor_at(&a.lse, 0, 1, 3, 0) = -INFINITY;
        *tensor_at(&b.lse, 0, 1, 4, 0) = -INFINITY;
        merge_parts(&a, &b, &joined);
        merge_parts(&a, &b, &a);
        expect_equal_parts(&a, &joined, "in place");
        close_part(&a);
        close_part(&b);
        close_part(&joined);
    }
}

static void lse_may_be_null(void **state)
{
    (void)state;
    static const int64_t shape[4] = {1, 2, 30, 7};
    for (int per_channel = 0; per_channel < 2; per_channel++) {
        random_stream random = random_start(6);
        part a;
        part b;
        part with;
        part without;
        part *const all[] = {&a, &b, &with, &without};
        for (int n = 0; n < 4; n++)
            open_part(all[n], shape, per_channel, LAYOUT_BHND);
        fill_part(&a, &random, 2.0f);
        fill_part(&b, &random, 2.0f);
        merge_parts(&a, &b, &with);
        assert_int_equal(heed_merge(fixture_context, &a.out, &a.lse, &b.out, &b.lse, &without.out, NULL), HEED_OK);
        assert_true(compare_bits(&without.out, &with.out).equal);
        for (int n = 0; n < 4; n++)
            close_part(all[n]);
    }
}

static void repeated_inputs_and_empty_sizes(void **state)
{
    (void)state;
    static const int64_t shape[4] = {2, 3, 8, 5};
    random_stream random = random_start(7);
    part a;
    part b;
    part joined;
    open_part(&a, shape, 0, LAYOUT_BHND);
    open_part(&b, shape, 0, LAYOUT_BHND);
    open_part(&joined, shape, 0, LAYOUT_BHND);
    fill_part(&a, &random, 1.0f);
    fill_part(&b, &random, 1.0f);
    b.out.stride[0] = b.lse.stride[1] = b.lse.stride[2] = 0;
    a.out.stride[2] = 0;
    merge_parts(&a, &b, &joined);
    check_elements(&a, &b, &joined);
    close_part(&a);
    close_part(&b);
    close_part(&joined);
    for (int axis = 0; axis < 3; axis++) {
        int64_t sizes[4] = {2, 3, 4, 5};
        sizes[axis] = 0;
        part empty;
        open_part(&empty, sizes, 0, LAYOUT_BHND);
        empty.out.data = empty.lse.data = NULL;
        merge_parts(&empty, &empty, &empty);
        close_part(&empty);
    }
}

static void threads_and_hooks_do_not_change_bits(void **state)
{
    (void)state;
    static const int64_t shape[4] = {2, 8, 700, 64};
    random_stream random = random_start(8);
    part a;
    part b;
    part first;
    part joined;
    part *const all[] = {&a, &b, &first, &joined};
    for (int n = 0; n < 4; n++)
        open_part(all[n], shape, 0, LAYOUT_BHND);
    fill_part(&a, &random, 2.0f);
    fill_part(&b, &random, 2.0f);
    merge_parts(&a, &b, &first);
    for (int way = 0; way < N_THREADINGS; way++) {
        heed_context *context = runner_context(runner_threadings[way].n_threads, runner_threadings[way].hook);
        if (!context)
            continue;
        tensor_fill(&joined.out, NAN);
        assert_int_equal(heed_merge(context, &a.out, &a.lse, &b.out, &b.lse, &joined.out, &joined.lse), HEED_OK);
        expect_equal_parts(&joined, &first, runner_threadings[way].name);
        heed_context_destroy(context);
    }
    for (int n = 0; n < 4; n++)
        close_part(all[n]);
}

static void order_and_nesting_agree_within_the_bound(void **state)
{
    (void)state;
    /* (a + b) + c, a + (b + c) and (c + a) + b. Each of two merges adds 4e-7 of the largest output, and one ulp of an
     * lse of up to 16 to a weight, which moves the output by at most that share of the distance of two outputs. */
    static const int64_t shape[4] = {1, 2, 200, 5};
    random_stream random = random_start(9);
    part p[3];
    part inner;
    part outer[3];
    open_part(&inner, shape, 0, LAYOUT_BHND);
    for (int n = 0; n < 3; n++) {
        open_part(&p[n], shape, 0, LAYOUT_BHND);
        open_part(&outer[n], shape, 0, LAYOUT_BHND);
        fill_part(&p[n], &random, 3.0f);
        tensor_fill_uniform(&p[n].out, &random, -1.0f, 1.0f);
    }
    merge_parts(&p[0], &p[1], &inner);
    merge_parts(&inner, &p[2], &outer[0]);
    merge_parts(&p[1], &p[2], &inner);
    merge_parts(&p[0], &inner, &outer[1]);
    merge_parts(&p[2], &p[0], &inner);
    merge_parts(&inner, &p[1], &outer[2]);
    const double allowed = 2.0 * 2.0 * (4e-7 + 2.0 * 0x1p-20);
    for (int64_t n = 0; n < 400; n++) {
        for (int64_t c = 0; c < 5; c++) {
            const double first = (double)*tensor_at(&outer[0].out, 0, n % 2, n / 2, c);
            for (int other = 1; other < 3; other++)
                assert_true(fabs((double)*tensor_at(&outer[other].out, 0, n % 2, n / 2, c) - first) <= allowed);
        }
        for (int other = 1; other < 3; other++)
            assert_true(fabs((double)*tensor_at(&outer[other].lse, 0, n % 2, n / 2, 0) -
                             (double)*tensor_at(&outer[0].lse, 0, n % 2, n / 2, 0)) <= 4.0 * 0x1p-20);
    }
    merge_parts(&p[0], &p[1], &inner);
    merge_parts(&p[1], &p[0], &outer[1]);
    const compare_result commuted = compare_bits(&inner.lse, &outer[1].lse);
    if (!commuted.equal)
        fail_msg("lse does not commute: %s", commuted.text);
    merge_parts(&inner, &p[2], &outer[1]);
    expect_equal_parts(&outer[1], &outer[0], "the same order again");
    close_part(&inner);
    for (int n = 0; n < 3; n++) {
        close_part(&p[n]);
        close_part(&outer[n]);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_within_the_bound),
        cmocka_unit_test(oracle_agrees_with_its_pairs),
        cmocka_unit_test(the_empty_part_is_the_identity),
        cmocka_unit_test(special_values_stay_in_their_row_or_channel),
        cmocka_unit_test(in_place_has_the_same_bits),
        cmocka_unit_test(lse_may_be_null),
        cmocka_unit_test(repeated_inputs_and_empty_sizes),
        cmocka_unit_test(threads_and_hooks_do_not_change_bits),
        cmocka_unit_test(order_and_nesting_agree_within_the_bound),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
