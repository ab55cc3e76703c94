/* aft_reach, aft_move, aft_weigh and scale_tile: AFT over blocks of keys, against plain loops. */
#include "kernel_checks/checks.h"

#include <string.h>

enum { MAX_CHANNELS = 140 };

/* Keys around a reference: far below, near, 8 above and one ulp more or less, far above; some not finite. */
static float draw_key(float ref, int may_stand_above, int may_be_infinite, random_stream *random)
{
    const float near = isfinite(ref) ? ref : 0.0f;
    switch (random_below(random, may_be_infinite ? 9 : 5)) {
    case 0:
        return may_stand_above ? near + 8.0f : near + 7.5f;
    case 1:
        return may_stand_above ? nextafterf(near + 8.0f, 1e9f) : near - 8.0f;
    case 2:
        return near - random_uniform(random, 0.0f, 300.0f);
    case 5:
        return NAN;
    case 6:
        return -INFINITY;
    case 7:
        return may_stand_above ? INFINITY : NAN;
    default:
        return near + random_uniform(random, -4.0f, 4.0f);
    }
}

static int stands_above(float key, float ref) { return key < INFINITY && key - ref > 8.0f; }

static int64_t channels_of(int64_t index) { return 1 + index * 7 % MAX_CHANNELS; }

/* ---- aft_reach, aft_move ---- */

static void check_reach_case(int64_t index)
{
    random_stream random = random_start((uint64_t)(90000 + index));
    const int64_t n = channels_of(index);
    const int n_keys = (int)(index % 41);
    buffer ref = make_buffer(n, side_of(index)), factor = make_buffer(n, side_of(index + 1));
    source_rows k = make_rows(n_keys > 0 ? n_keys : 1, n, index, &random);
    for (int64_t c = 0; c < n; c++)
        ref.data[c] = index % 11 == 0 ? -INFINITY : random_uniform(&random, -20.0f, 20.0f);
    for (int j = 0; j < k.n_rows; j++) {
        for (int64_t c = 0; c < n; c++)
            k.memory.data[j * k.stride + c] = draw_key(ref.data[c], j > n_keys / 2, 1, &random);
    }
    if (index % 11 == 0 && k.stride > 0)
        k.memory.data[0] = -INFINITY;
    keep_bits(&ref);
    keep_bits(&k.memory);
    describe_case("aft_reach", "%d keys, %d channels, key stride %d", n_keys, (int)n, (int)k.stride);
    int want = 0;
    for (int above = 0; want < n_keys; want++) {
        for (int64_t c = 0; c < n; c++)
            above |= stands_above(row_value(&k, want, c), ref.data[c]);
        if (above)
            break;
    }
    const int got = kernels->aft_reach(ref.data, k.memory.data, k.stride, n_keys, n);
    if (got != want)
        fail_case("reaches %d keys, want %d", got, want);
    expect_kept(&ref, "ref");
    expect_kept(&k.memory, "k");

    describe_case("aft_move", "%d channels", (int)n);
    const float *key = k.memory.data + (k.n_rows - 1) * k.stride;
    kernels->aft_move(ref.data, factor.data, key, n);
    expect_kept(&k.memory, "k");
    for (int64_t c = 0; c < n; c++) {
        const float before = ref.before[c];
        const int moves = stands_above(key[c], before);
        const double want_factor = moves ? exp((double)before - (double)key[c]) : 1.0;
        /* The difference is rounded, at most by u |difference|, and the exponential is off by 2 ulp or flushed. */
        const double allowed =
            moves ? want_factor * (fabs((double)before - (double)key[c]) + 4.0) * HALF_ULP + 0x1p-126 : 0.0;
        if (!same_value(ref.data[c], moves ? key[c] : before))
            fail_case("channel %d: reference %a", (int)c, (double)ref.data[c]);
        if (isinf(before) && moves ? factor.data[c] != 0.0f : !is_close(factor.data[c], want_factor, allowed))
            fail_case("channel %d: factor %a, want %a", (int)c, (double)factor.data[c], want_factor);
    }
    free_buffer(&ref);
    free_buffer(&factor);
    free_buffer(&k.memory);
}

void check_aft_reach(void **state)
{
    (void)state;
    for (int64_t index = 0; index < 300; index++)
        check_reach_case(index);
}

void check_aft_move(void **state)
{
    (void)state;
    for (int64_t index = 300; index < 600; index++)
        check_reach_case(index);
}

/* ---- aft_weigh ---- */

static void compare_weighed(const buffer *e, int64_t stride, const buffer *ref, const source_rows *k,
                            const source_rows *v, int j, int64_t c, int64_t n, int *spoiled)
{
    const float key = row_value(k, j, c), value = row_value(v, j, c);
    const float weight = e->data[j * stride + n + c], product = e->data[j * stride + c];
    const double a = (double)key - (double)ref->data[c], want = exp(a);
    if (key == -INFINITY) {
        if (weight != 0.0f || product != 0.0f)
            fail_case("key %d, channel %d: hidden, weight %a, product %a", j, (int)c, (double)weight, (double)product);
        return;
    }
    if (!isfinite(want) || !isfinite(value)) {
        *spoiled = 1;
        if ((!isfinite(want) && weight != 0.0f) || product != 0.0f)
            fail_case("key %d, channel %d: not finite, weight %a, product %a", j, (int)c, (double)weight,
                      (double)product);
        if (!isfinite(want))
            return;
    }
    /* The rounding of the difference, 2 ulp of the exponential, or a flush below 2^-126; then one of the product. */
    const double off = want * (fabs(a) + 4.0) * HALF_ULP + 0x1p-126;
    if (!is_close(weight, want, off))
        fail_case("key %d, channel %d: e^%g is %a, want %a", j, (int)c, a, (double)weight, want);
    if (isfinite(value) && product != weight * value)
        fail_case("key %d, channel %d: product %a of %a and %a", j, (int)c, (double)product, (double)weight,
                  (double)value);
}

static void check_weigh_case(int64_t index)
{
    random_stream random = random_start((uint64_t)(91000 + index));
    const int64_t n = channels_of(index), stride = 2 * n + index % 5;
    const int n_keys = 1 + (int)(index % 40), poisoned = index % 3 == 0;
    buffer ref = make_buffer(n, side_of(index)), e = make_buffer((n_keys - 1) * stride + 2 * n, side_of(index));
    source_rows k = make_rows(n_keys, n, index, &random), v = make_rows(n_keys, n, index + 1, &random);
    for (int64_t c = 0; c < n; c++)
        ref.data[c] = poisoned && c % 5 == 0 ? -INFINITY : random_uniform(&random, -20.0f, 20.0f);
    for (int j = 0; j < n_keys; j++) {
        for (int64_t c = 0; c < n; c++) {
            k.memory.data[j * k.stride + c] = draw_key(ref.data[c], 0, poisoned, &random);
            if (poisoned && random_below(&random, 9) == 0)
                v.memory.data[j * v.stride + c] = random_below(&random, 2) ? NAN : INFINITY;
        }
    }
    keep_bits(&ref);
    keep_bits(&e);
    keep_bits(&k.memory);
    keep_bits(&v.memory);
    describe_case("aft_weigh", "%d keys, %d channels, strides %d, %d, %d", n_keys, (int)n, (int)stride, (int)k.stride,
                  (int)v.stride);
    const int got =
        kernels->aft_weigh(e.data, stride, ref.data, k.memory.data, k.stride, v.memory.data, v.stride, n_keys, n);
    int spoiled = 0;
    for (int j = 0; j < n_keys; j++) {
        for (int64_t c = 0; c < n; c++)
            compare_weighed(&e, stride, &ref, &k, &v, j, c, n, &spoiled);
        for (int64_t gap = 2 * n; gap < stride && j + 1 < n_keys; gap++) {
            if (!is_kept(&e, (size_t)(j * stride + gap)))
                fail_case("writes behind row %d", j);
        }
    }
    if ((got != 0) != spoiled)
        fail_case("returned %d, %s finite", got, spoiled ? "something was not" : "all was");
    expect_kept(&ref, "ref");
    expect_kept(&k.memory, "k");
    expect_kept(&v.memory, "v");
    free_buffer(&ref);
    free_buffer(&e);
    free_buffer(&k.memory);
    free_buffer(&v.memory);
}

void check_aft_weigh(void **state)
{
    (void)state;
    for (int64_t index = 0; index < 400; index++)
        check_weigh_case(index);
}

/* ---- scale_tile ---- */

void check_scale_tile(void **state)
{
    (void)state;
    for (int64_t index = 0; index < 120; index++) {
        random_stream random = random_start((uint64_t)(92000 + index));
        const int64_t n = channels_of(index);
        const int n_vectors = 1 + (int)(index % HEED_TILE_VECTORS), lanes = n_vectors * kernels->vector_lanes;
        buffer o = make_tile(n, side_of(index)), factor = make_buffer(n, side_of(index));
        fill_tile(&o, lanes, 1.0f, &random);
        o.data[random_below(&random, lanes)] = NAN;
        for (int64_t r = 0; r < n; r++)
            factor.data[r] = r % 3 == 0 ? 1.0f : r % 3 == 1 ? 0.0f : random_uniform(&random, 0.0f, 1.0f);
        keep_bits(&o);
        keep_bits(&factor);
        describe_case("scale_tile", "%d rows, %d vectors", (int)n, n_vectors);
        kernels->scale_tile(o.data, factor.data, n, n_vectors);
        expect_lanes_kept(&o, "o", lanes);
        expect_kept(&factor, "factor");
        for (int64_t r = 0; r < n; r++) {
            for (int lane = 0; lane < lanes; lane++) {
                const float before = o.before[r * kernels->tile_lanes + lane];
                if (!same_value(o.data[r * kernels->tile_lanes + lane], before * factor.data[r]))
                    fail_case("row %d, lane %d", (int)r, lane);
            }
        }
        free_buffer(&o);
        free_buffer(&factor);
    }
}
