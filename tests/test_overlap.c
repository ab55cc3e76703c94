/* heed_views_overlap() and heed_view_overlaps_itself() against a map of every byte that a view touches. */
#include "core/overlap.h"
#include "heed.h"
#include "support/random.h"
#include "support/runner.h"
#include "support/seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* A view of at most 4 x 4 x 4 x 4 elements with strides up to 7 (25 in the wide cases) reaches 3 x 75 + 3 floats, and
 * begins at most 160 bytes into the map. */
enum { MAP_BYTES = 1200, N_PAIRS = 60000 };

/* One bit per view: which bytes of the buffer belong to one of its elements. */
typedef struct byte_map {
    uint8_t touched[MAP_BYTES];
    int touches_twice;
} byte_map;

static int64_t element_bytes(const heed_tensor *t) { return t->dtype == HEED_BOOL ? 1 : 4; }

static void touch_element(byte_map *map, int64_t byte, int64_t n_bytes)
{
    for (int64_t i = byte; i < byte + n_bytes; i++) {
        assert_in_range(i, 0, MAP_BYTES - 1);
        map->touches_twice |= map->touched[i];
        map->touched[i] = 1;
    }
}

/* `origin` is where the buffer of the map begins; nothing is ever read there. */
static void draw_view(byte_map *map, const heed_tensor *t, uintptr_t origin)
{
    memset(map, 0, sizeof *map);
    const int64_t first = (int64_t)((uintptr_t)t->data - origin), bytes = element_bytes(t);
    for (int64_t b = 0; b < t->shape[0]; b++)
        for (int64_t h = 0; h < t->shape[1]; h++)
            for (int64_t n = 0; n < t->shape[2]; n++)
                for (int64_t c = 0; c < t->shape[3]; c++) {
                    const int64_t element = b * t->stride[0] + h * t->stride[1] + n * t->stride[2] + c * t->stride[3];
                    touch_element(map, first + element * bytes, bytes);
                }
}

/* A view as the public functions let it pass: the last stride is 1, no stride is negative; where a size is 1 the stride
 * is anything, and must not matter. */
static heed_tensor random_view(random_stream *random, uintptr_t origin, int64_t max_stride)
{
    heed_tensor t;
    t.dtype = random_below(random, 3) == 0 ? HEED_BOOL : HEED_FLOAT32;
    const int64_t bytes = element_bytes(&t);
    t.data = (void *)(origin + (uintptr_t)(random_below(random, 160 / bytes) * bytes));
    for (int axis = 0; axis < 4; axis++) {
        t.shape[axis] = random_below(random, 20) == 0 ? 0 : 1 + random_below(random, 4);
        t.stride[axis] = axis == 3 ? 1 : random_below(random, max_stride + 1);
        if (t.shape[axis] == 1 && random_below(random, 4) == 0)
            t.stride[axis] = random_below(random, 2) == 0 ? -INT64_MAX : INT64_MAX;
    }
    return t;
}

/* For the map, where a size of 1 only ever has the index 0 and its stride must not overflow. */
static heed_tensor tame_strides(heed_tensor t)
{
    for (int axis = 0; axis < 4; axis++)
        if (t.shape[axis] == 1)
            t.stride[axis] = 0;
    return t;
}

static int maps_meet(const byte_map *a, const byte_map *b)
{
    for (int i = 0; i < MAP_BYTES; i++)
        if (a->touched[i] && b->touched[i])
            return 1;
    return 0;
}

static void describe_view(char *text, size_t n, const heed_tensor *t, uintptr_t origin)
{
    snprintf(text, n, "%s at byte %lld, shape %lld %lld %lld %lld, stride %lld %lld %lld %lld",
             t->dtype == HEED_BOOL ? "bool" : "float32", (long long)((uintptr_t)t->data - origin),
             (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2], (long long)t->shape[3],
             (long long)t->stride[0], (long long)t->stride[1], (long long)t->stride[2], (long long)t->stride[3]);
}

static void fail_pair(const heed_tensor *a, const heed_tensor *b, uintptr_t origin, int want)
{
    char text_a[200], text_b[200];
    describe_view(text_a, sizeof text_a, a, origin);
    describe_view(text_b, sizeof text_b, b, origin);
    fail_msg("%s they overlap:\n%s\n%s\nHEED_TEST_SEED=%llu", want ? "not seen that" : "wrongly said that", text_a,
             text_b, (unsigned long long)random_seed());
}

static void check_pairs(int64_t max_stride, uint64_t stream)
{
    static byte_map map_a, map_b;
    static float buffer[MAP_BYTES / 4];
    const uintptr_t origin = (uintptr_t)buffer;
    random_stream random = random_start(stream);
    int n_overlapping = 0, n_apart = 0;
    for (int i = 0; i < N_PAIRS / (runner_quick() ? 20 : 1); i++) {
        const heed_tensor a = random_view(&random, origin, max_stride), b = random_view(&random, origin, max_stride);
        const heed_tensor tame_a = tame_strides(a), tame_b = tame_strides(b);
        draw_view(&map_a, &tame_a, origin);
        draw_view(&map_b, &tame_b, origin);
        const int want = maps_meet(&map_a, &map_b);
        if ((heed_views_overlap(&a, &b) != 0) != want || (heed_views_overlap(&b, &a) != 0) != want)
            fail_pair(&a, &b, origin, want);
        if ((heed_view_overlaps_itself(&a) != 0) != map_a.touches_twice)
            fail_pair(&a, &a, origin, map_a.touches_twice);
        n_overlapping += want;
        n_apart += !want;
    }
    /* Both answers were really asked for. */
    assert_true(n_overlapping > 100 && n_apart > 100);
}

static void test_small_views(void **state)
{
    (void)state;
    check_pairs(7, 1);
}

/* Wider strides leave more holes, so that more pairs interleave without meeting. */
static void test_wide_views(void **state)
{
    (void)state;
    check_pairs(25, 2);
}

/* ---- Views of real size: answered from their structure, not by looking at every element ---- */

enum { N_ASKED = 1000 };

/* Slot s of a packed buffer (B, N, n_slots, H, C). */
static heed_tensor view_slot(uintptr_t data, int64_t s, int64_t n_slots, int64_t b, int64_t n, int64_t h, int64_t c)
{
    const int64_t row = n_slots * h * c;
    return (heed_tensor){(void *)(data + (uintptr_t)(s * h * c) * 4), HEED_FLOAT32, {b, h, n, c}, {n * row, c, row, 1}};
}

static void expect_pair(const heed_tensor *a, const heed_tensor *b, int want)
{
    for (int i = 0; i < N_ASKED; i++) {
        assert_int_equal(heed_views_overlap(a, b) != 0, want);
        assert_int_equal(heed_views_overlap(b, a) != 0, want);
    }
}

static void test_packed_slots(void **state)
{
    (void)state;
    const int64_t sizes[][4] = {{64, 100000, 16, 128}, {1, 1000003, 7, 65}, {8, 4096, 32, 80}, {1000, 1000, 1, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t b = sizes[i][0], n = sizes[i][1], h = sizes[i][2], c = sizes[i][3];
        heed_tensor slot[4];
        for (int s = 0; s < 4; s++)
            slot[s] = view_slot(1 << 20, s, 4, b, n, h, c);
        for (int s = 0; s < 4; s++) {
            for (int other = 0; other < 4; other++)
                expect_pair(&slot[s], &slot[other], s == other);
            assert_int_equal(heed_view_overlaps_itself(&slot[s]), 0);
        }
        /* One channel too far to the left: the last channel of every row of slot 1 is the first of slot 2. */
        heed_tensor shifted = slot[2];
        shifted.data = (char *)shifted.data - 4;
        expect_pair(&shifted, &slot[1], 1);
        expect_pair(&shifted, &slot[3], 0);
    }
}

/* The heads of one tensor, and the even and the odd tokens of one buffer. */
static void test_interleaved_halves(void **state)
{
    (void)state;
    const int64_t n = 1 << 20, h = 16, c = 64;
    const heed_tensor even = {(void *)(uintptr_t)4096, HEED_FLOAT32, {4, h, n, c}, {2 * n * h * c, c, 2 * h * c, 1}};
    heed_tensor odd = even;
    odd.data = (char *)odd.data + h * c * 4;
    expect_pair(&even, &odd, 0);
    odd.data = (char *)odd.data - 4;
    expect_pair(&even, &odd, 1);
    heed_tensor low = even, high = even;
    low.shape[1] = high.shape[1] = h / 2;
    high.data = (char *)high.data + h / 2 * c * 4;
    expect_pair(&low, &high, 0);
    expect_pair(&low, &odd, 0);
    expect_pair(&high, &odd, 1);
}

static void test_big_views_of_themselves(void **state)
{
    (void)state;
    heed_tensor t = heed_tensor_bnhd((void *)(uintptr_t)64, HEED_FLOAT32, 64, 32, 100000, 128);
    assert_int_equal(heed_view_overlaps_itself(&t), 0);
    t.stride[1] = 127; /* each head begins in the last channel of the one before */
    assert_int_equal(heed_view_overlaps_itself(&t), 1);
    t = heed_tensor_bhnd((void *)(uintptr_t)64, HEED_FLOAT32, 64, 32, 100000, 128);
    t.stride[0] -= 128; /* each batch element begins in the last token of the one before */
    assert_int_equal(heed_view_overlaps_itself(&t), 1);
}

/* Nothing lies in a view without elements, whatever its pointer. */
static void test_empty_views(void **state)
{
    (void)state;
    const heed_tensor full = heed_tensor_bhnd((void *)(uintptr_t)4096, HEED_FLOAT32, 2, 3, 4, 5);
    for (int axis = 0; axis < 4; axis++) {
        heed_tensor empty = full;
        empty.shape[axis] = 0;
        expect_pair(&empty, &full, 0);
        expect_pair(&empty, &empty, 0);
        assert_int_equal(heed_view_overlaps_itself(&empty), 0);
        empty.data = NULL;
        expect_pair(&empty, &full, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_views),
        cmocka_unit_test(test_wide_views),
        cmocka_unit_test(test_packed_slots),
        cmocka_unit_test(test_interleaved_halves),
        cmocka_unit_test(test_big_views_of_themselves),
        cmocka_unit_test(test_empty_views),
    };
    return cmocka_run_group_tests(tests, print_seed, NULL);
}
