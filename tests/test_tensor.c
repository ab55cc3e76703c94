/* Addresses in views larger than any memory of a test: offsets are reckoned in 64 bits, in elements, and once more in
 * bytes. No memory is touched. */
#include "core/tensor.h"
#include "heed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* An address like any other: nothing is read there. */
static const uintptr_t base = 4096;

typedef struct address_case {
    int64_t stride[3]; /* batch, head, token */
    int64_t b, h, n;
    int64_t offset; /* in elements, as reckoned by hand */
} address_case;

static const address_case cases[] = {
    {{1, 1, 1}, 0, 0, 0, 0},
    /* BHND, 64 channels: the offset passes 2^31 by the token, the head and the batch element. */
    {{INT64_C(1) << 36, INT64_C(1) << 35, 64}, 0, 0, 33554431, INT64_C(2147483584)},
    {{INT64_C(1) << 36, INT64_C(1) << 35, 64}, 0, 0, 33554432, INT64_C(2147483648)},
    {{INT64_C(1) << 36, INT64_C(1) << 35, 64}, 0, 1, 0, INT64_C(34359738368)},
    {{INT64_C(1) << 36, INT64_C(1) << 35, 64}, 1, 1, 1, INT64_C(103079215168)},
    {{INT64_C(1) << 36, INT64_C(1) << 35, 64}, 31, 1, 536870911, INT64_C(2199023255488)},
    /* Factors below 2^31 whose product is beyond: 65537 tokens of 65536 channels. */
    {{1, 1, 65536}, 0, 0, 65537, INT64_C(4295032832)},
    {{1, 65536, 1}, 0, 65537, 0, INT64_C(4295032832)},
    {{65536, 1, 1}, 65537, 0, 0, INT64_C(4295032832)},
    /* Packed, q, k and v of a token side by side: 32 + 2 x 8 heads of 128 channels are 6144; 2^28 tokens. */
    {{INT64_C(1649267441664), 128, 6144}, 0, 31, 349526, INT64_C(2147491712)},
    {{INT64_C(1649267441664), 128, 6144}, 0, 7, 268435455, INT64_C(1649267436416)},
    {{INT64_C(1649267441664), 128, 6144}, 2, 7, 268435455, INT64_C(4947802319744)},
    /* BNHD, padded rows, repeated heads and batch elements. */
    {{INT64_C(1) << 41, 67, 67 * 12}, 1, 11, 3000000, INT64_C(2201435256289)},
    {{INT64_C(1) << 41, 0, 67}, 1, 11, 1, INT64_C(2199023255619)},
    {{0, 0, INT64_C(1) << 40}, 9, 9, 3, INT64_C(3298534883328)},
    /* The largest float offsets that heed.h allows end below 2^60 bytes. */
    {{INT64_C(1) << 57, 1, 1}, 1, 0, 0, INT64_C(144115188075855872)},
};

enum { N_CASES = sizeof cases / sizeof cases[0] };

static heed_tensor make_view(const address_case *c, heed_dtype dtype)
{
    const heed_tensor view = {
        (void *)base, dtype, {c->b + 1, c->h + 1, c->n + 1, 1}, {c->stride[0], c->stride[1], c->stride[2], 1}};
    return view;
}

static void test_offsets(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const address_case *c = &cases[i];
        const heed_tensor view = make_view(c, HEED_FLOAT32);
        const int64_t got = heed_offset(&view, c->b, c->h, c->n);
        if (got != c->offset)
            fail_msg("case %d: offset %lld, want %lld", i, (long long)got, (long long)c->offset);
    }
}

static void test_float_rows(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const address_case *c = &cases[i];
        const heed_tensor view = make_view(c, HEED_FLOAT32);
        const uintptr_t got = (uintptr_t)heed_row(&view, c->b, c->h, c->n);
        if (got != base + 4 * (uintptr_t)c->offset)
            fail_msg("case %d: %llu bytes from the start", i, (unsigned long long)(got - base));
    }
    const heed_tensor nothing = {NULL, HEED_FLOAT32, {1, 1, 1, 1}, {1, 1, 1, 1}};
    assert_null(heed_row(&nothing, 0, 0, 0));
}

static void test_bool_rows(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const address_case *c = &cases[i];
        const heed_tensor view = make_view(c, HEED_BOOL);
        const uintptr_t got = (uintptr_t)heed_bool_row(&view, c->b, c->h, c->n);
        if (got != base + (uintptr_t)c->offset)
            fail_msg("case %d: %llu bytes from the start", i, (unsigned long long)(got - base));
    }
}

static void test_empty_views(void **state)
{
    (void)state;
    heed_tensor view = {NULL, HEED_FLOAT32, {INT64_C(1) << 40, 3, 5, 7}, {105, 35, 7, 1}};
    assert_false(heed_is_empty(&view));
    for (int axis = 0; axis < 4; axis++) {
        const int64_t size = view.shape[axis];
        view.shape[axis] = 0;
        assert_true(heed_is_empty(&view));
        view.shape[axis] = size;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_float_rows),
        cmocka_unit_test(test_bool_rows),
        cmocka_unit_test(test_empty_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
