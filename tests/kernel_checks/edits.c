/* The kernels that edit a tile of scores in place: softcap_tile, bias_tile, alibi_tile, range_tile, visible_tile,
 * prefix_tile, weigh_tile; and dot_tile, which only reads. */
#include "kernel_checks/checks.h"

/* A tile of random scores with some infinities and NaN in it, and the sizes of one case. */
typedef struct edit_case {
    buffer s;
    int64_t index;
    int n_keys, n_vectors, n_lanes;
} edit_case;

static edit_case make_edit_case(int64_t index, int n_keys, int n_vectors, random_stream *random)
{
    edit_case c = {.index = index, .n_keys = n_keys, .n_vectors = n_vectors};
    c.n_lanes = n_vectors * kernels->vector_lanes;
    c.s = make_tile(n_keys, side_of(index));
    fill_tile(&c.s, c.n_lanes, random_uniform(random, 0.1f, 50.0f), random);
    for (int i = 0; i < n_keys; i += 3) {
        const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e30f, -1e30f, 1e-8f};
        c.s.data[i * kernels->tile_lanes + random_below(random, c.n_lanes)] = special[random_below(random, 8)];
    }
    keep_bits(&c.s);
    return c;
}

static void walk_edits(uint64_t stream, void (*check)(edit_case *c, random_stream *random))
{
    random_stream random = random_start(stream);
    int64_t index = 0;
    for (int n_vectors = 1; n_vectors <= HEED_TILE_VECTORS; n_vectors++)
        for (int i = 0; i < n_key_counts(); i++) {
            edit_case c = make_edit_case(index++, key_count(i), n_vectors, &random);
            check(&c, &random);
            free_buffer(&c.s);
        }
}

static float before(const edit_case *c, int j, int lane) { return c->s.before[j * kernels->tile_lanes + lane]; }

static float after(const edit_case *c, int j, int lane) { return c->s.data[j * kernels->tile_lanes + lane]; }

static void expect_score(const edit_case *c, int j, int lane, double want, double tolerance)
{
    if (!is_close(after(c, j, lane), want, tolerance))
        fail_case("key %d, lane %d: %a becomes %a, want %a", j, lane, (double)before(c, j, lane),
                  (double)after(c, j, lane), want);
}

static void expect_same_score(const edit_case *c, int j, int lane)
{
    if (!same_bits(before(c, j, lane), after(c, j, lane)))
        fail_case("key %d, lane %d: %a becomes %a, but should stay", j, lane, (double)before(c, j, lane),
                  (double)after(c, j, lane));
}

/* ---- softcap_tile ---- */

static void check_softcap_case(edit_case *c, random_stream *random)
{
    const float caps[] = {0.5f, 1.0f, 30.0f, 50.0f, 1e-3f, 1e4f};
    const float cap = c->index % 2 == 0 ? caps[random_below(random, 6)] : random_uniform(random, 0.1f, 100.0f);
    describe_case("softcap_tile", "%d keys, %d vectors, cap %a", c->n_keys, c->n_vectors, (double)cap);
    kernels->softcap_tile(c->s.data, c->n_keys, c->n_vectors, cap);
    const double tolerance = 2.0 * ldexp(1.0, ilogbf(cap) - 23);
    for (int j = 0; j < c->n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++)
            expect_score(c, j, lane, cap * tanh((double)before(c, j, lane) / cap), tolerance);
    expect_lanes_kept(&c->s, "s", c->n_lanes);
}

/* Small, large and odd scores in each lane: the error is absolute, but near zero the cap must not be felt. */
static void check_softcap_values(void)
{
    const float scores[] = {1e-8f, 1e-3f, 0.1f, 0.3f, 0.5f, 0.625f, 1.0f, 3.0f, 8.0f, 9.1f, 20.0f, 100.0f, 1e30f};
    enum { N = sizeof scores / sizeof scores[0] };
    edit_case c = {.n_keys = 2 * N, .n_vectors = HEED_TILE_VECTORS, .n_lanes = kernels->tile_lanes};
    c.s = make_tile(2 * N, GUARD_END);
    for (int j = 0; j < 2 * N; j++)
        for (int lane = 0; lane < c.n_lanes; lane++)
            c.s.data[j * kernels->tile_lanes + lane] = (j % 2 ? -1.0f : 1.0f) * scores[(j / 2 + lane) % N];
    keep_bits(&c.s);
    describe_case("softcap_tile", "%d keys, %d vectors, cap 1", c.n_keys, c.n_vectors);
    kernels->softcap_tile(c.s.data, c.n_keys, c.n_vectors, 1.0f);
    for (int j = 0; j < c.n_keys; j++)
        for (int lane = 0; lane < c.n_lanes; lane++)
            expect_score(&c, j, lane, tanh((double)before(&c, j, lane)), 0x1p-22);
    free_buffer(&c.s);
}

void check_softcap_tile(void **state)
{
    (void)state;
    walk_edits(40000, check_softcap_case);
    check_softcap_values();
}

/* ---- bias_tile ---- */

static void check_bias_case(edit_case *c, random_stream *random)
{
    /* The rows end somewhere in the last vector. */
    const int n_rows = c->n_lanes - (int)random_below(random, kernels->vector_lanes);
    const int64_t stride = c->index % 4 == 0 ? 0 : c->n_keys + random_below(random, 5);
    buffer memory = make_buffer((n_rows - 1) * stride + c->n_keys, side_of(c->index));
    const float *rows[HEED_MAX_TILE_LANES];
    for (int r = 0; r < n_rows; r++) {
        const int64_t first = (r + c->index) % n_rows * stride;
        rows[r] = memory.data + first;
        fill_floats(memory.data + first, c->n_keys, 3.0f, random);
    }
    memory.data[random_below(random, (int64_t)memory.n_floats)] = -INFINITY;
    keep_bits(&memory);
    describe_case("bias_tile", "%d keys, %d rows, bias stride %d", c->n_keys, n_rows, (int)stride);
    kernels->bias_tile(c->s.data, rows, n_rows, c->n_keys);
    for (int j = 0; j < c->n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            if (lane >= n_rows)
                expect_same_score(c, j, lane);
            else if (!same_value(after(c, j, lane), before(c, j, lane) + rows[lane][j]))
                fail_case("key %d, lane %d: %a + %a gives %a", j, lane, (double)before(c, j, lane),
                          (double)rows[lane][j], (double)after(c, j, lane));
        }
    expect_kept(&memory, "bias");
    expect_lanes_kept(&c->s, "s", n_rows);
    free_buffer(&memory);
}

void check_bias_tile(void **state)
{
    (void)state;
    walk_edits(41000, check_bias_case);
}

/* ---- alibi_tile ---- */

static void check_alibi_case(edit_case *c, random_stream *random)
{
    buffer slope = make_tile(1, side_of(c->index)), distance = make_tile(1, side_of(c->index));
    for (int lane = 0; lane < c->n_lanes; lane++) {
        slope.data[lane] = random_uniform(random, -0.1f, 1.0f);
        distance.data[lane] = (float)(random_below(random, 400) - 200);
        if (random_below(random, 8) == 0)
            distance.data[lane] = 0x1p30f * random_normal(random);
    }
    keep_bits(&slope);
    keep_bits(&distance);
    describe_case("alibi_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    kernels->alibi_tile(c->s.data, slope.data, distance.data, c->n_keys, c->n_vectors);
    for (int j = 0; j < c->n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            const double bias = (double)slope.data[lane] * fabs((double)distance.data[lane] + j);
            const double want = before(c, j, lane) - bias;
            /* The distance, the product and the difference are rounded once each, or not at all. */
            expect_score(c, j, lane, want, HALF_ULP * (2.0 * fabs(bias) + fabs(want)) * (1.0 + 0x1p-20) + 0x1p-149);
        }
    expect_kept(&slope, "slope");
    expect_kept(&distance, "distance");
    expect_lanes_kept(&c->s, "s", c->n_lanes);
    free_buffer(&slope);
    free_buffer(&distance);
}

void check_alibi_tile(void **state)
{
    (void)state;
    walk_edits(42000, check_alibi_case);
}

/* ---- range_tile ---- */

static void check_range_case(edit_case *c, random_stream *random)
{
    buffer begin = make_tile(1, side_of(c->index)), end = make_tile(1, side_of(c->index));
    for (int lane = 0; lane < c->n_lanes; lane++) {
        const float far[] = {-INFINITY, -1e18f, INFINITY, 1e18f};
        begin.data[lane] = (float)(random_below(random, c->n_keys + 4) - 2);
        end.data[lane] = (float)(random_below(random, c->n_keys + 4) - 2);
        if (random_below(random, 5) == 0)
            begin.data[lane] = far[random_below(random, 4)];
        if (random_below(random, 5) == 0)
            end.data[lane] = far[random_below(random, 4)];
    }
    keep_bits(&begin);
    keep_bits(&end);
    describe_case("range_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    kernels->range_tile(c->s.data, begin.data, end.data, c->n_keys, c->n_vectors);
    for (int j = 0; j < c->n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            if (begin.data[lane] <= (float)j && (float)j < end.data[lane])
                expect_same_score(c, j, lane);
            else
                expect_score(c, j, lane, -INFINITY, 0.0);
        }
    expect_kept(&begin, "begin");
    expect_kept(&end, "end");
    expect_lanes_kept(&c->s, "s", c->n_lanes);
    free_buffer(&begin);
    free_buffer(&end);
}

void check_range_tile(void **state)
{
    (void)state;
    walk_edits(43000, check_range_case);
}

/* ---- visible_tile ---- */

static void check_visible_case(edit_case *c, random_stream *random)
{
    const int n_rows = c->n_lanes - (int)random_below(random, kernels->vector_lanes);
    const int64_t stride = c->index % 4 == 0 ? 0 : c->n_keys + random_below(random, 5);
    const size_t n_bytes = (size_t)((n_rows - 1) * stride + c->n_keys);
    guarded memory;
    guarded_create(&memory, n_bytes, side_of(c->index));
    const uint8_t *rows[HEED_MAX_TILE_LANES];
    for (size_t i = 0; i < n_bytes; i++) /* any non-zero byte is true */
        memory.data[i] = random_below(random, 3) == 0 ? 0 : (unsigned char)(1 + random_below(random, 255));
    for (int r = 0; r < n_rows; r++)
        rows[r] = memory.data + (r + c->index) % n_rows * stride;
    describe_case("visible_tile", "%d keys, %d rows, stride %d", c->n_keys, n_rows, (int)stride);
    kernels->visible_tile(c->s.data, rows, n_rows, c->n_keys);
    for (int j = 0; j < c->n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            if (lane >= n_rows || rows[lane][j] != 0)
                expect_same_score(c, j, lane);
            else
                expect_score(c, j, lane, -INFINITY, 0.0);
        }
    if (!guarded_intact(&memory))
        fail_case("written outside the bounds of the mask");
    expect_lanes_kept(&c->s, "s", n_rows);
    guarded_destroy(&memory);
}

void check_visible_tile(void **state)
{
    (void)state;
    walk_edits(44000, check_visible_case);
}

/* ---- prefix_tile ---- */

/* What stands behind the end may be anything, NaN of a stale tile too, and does not reach the sum. */
static void spoil_behind(edit_case *c, const buffer *end, random_stream *random)
{
    const float stale[] = {NAN, INFINITY, -INFINITY, 1e38f};
    for (int lane = 0; lane < c->n_lanes; lane++)
        for (int j = 0; j < c->n_keys; j++)
            if (!((float)j < end->data[lane]))
                c->s.data[j * kernels->tile_lanes + lane] = stale[random_below(random, 4)];
    keep_bits(&c->s);
}

/* Returns the sum of a lane, in the order of the keys. */
static float compare_prefix(const edit_case *c, int lane, float end)
{
    float sum = 0.0f;
    for (int j = 0; j < c->n_keys; j++) {
        if ((float)j < end)
            expect_same_score(c, j, lane);
        else
            expect_score(c, j, lane, 0.0, 0.0);
        sum += after(c, j, lane);
    }
    return sum;
}

static buffer make_ends(const edit_case *c, random_stream *random)
{
    buffer end = make_tile(1, side_of(c->index));
    for (int lane = 0; lane < c->n_lanes; lane++) {
        const float far[] = {-INFINITY, -1e18f, INFINITY, 1e18f, 0.5f};
        end.data[lane] = (float)(random_below(random, c->n_keys + 4) - 2);
        if (random_below(random, 5) == 0)
            end.data[lane] = far[random_below(random, 5)];
    }
    keep_bits(&end);
    return end;
}

/* A number for each lane, some of them NaN. */
static buffer make_lane_numbers(const edit_case *c, random_stream *random)
{
    buffer x = make_tile(1, side_of(c->index));
    for (int lane = 0; lane < c->n_lanes; lane++)
        x.data[lane] = random_below(random, 9) == 0 ? NAN : 10.0f * random_normal(random);
    keep_bits(&x);
    return x;
}

static void check_prefix_case(edit_case *c, random_stream *random)
{
    buffer end = make_ends(c, random), sums = make_lane_numbers(c, random);
    spoil_behind(c, &end, random);
    describe_case("prefix_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    kernels->prefix_tile(c->s.data, sums.data, end.data, c->n_keys, c->n_vectors);
    for (int lane = 0; lane < c->n_lanes; lane++) {
        const float sum = compare_prefix(c, lane, end.data[lane]);
        if (!same_value(sums.data[lane], sums.before[lane] + sum))
            fail_case("lane %d: %a and a sum of %a give %a", lane, (double)sums.before[lane], (double)sum,
                      (double)sums.data[lane]);
    }
    expect_kept(&end, "end");
    expect_lanes_kept(&sums, "sums", c->n_lanes);
    expect_lanes_kept(&c->s, "s", c->n_lanes);
    free_buffer(&end);
    free_buffer(&sums);
}

void check_prefix_tile(void **state)
{
    (void)state;
    walk_edits(45000, check_prefix_case);
}

/* ---- weigh_tile ---- */

static float multiply_add(float a, float b, float c) { return kernels->vector_lanes > 1 ? fmaf(a, b, c) : a * b + c; }

static void check_weigh_case(edit_case *c, random_stream *random)
{
    buffer end = make_ends(c, random), factor = make_lane_numbers(c, random), more = make_lane_numbers(c, random);
    spoil_behind(c, &end, random);
    describe_case("weigh_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    kernels->weigh_tile(c->s.data, factor.data, more.data, end.data, c->n_keys, c->n_vectors);
    for (int j = 0; j < c->n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            const float weight = multiply_add(before(c, j, lane), factor.data[lane], more.data[lane]);
            const float want = (float)j < end.data[lane] ? weight : 0.0f;
            if (!same_value(after(c, j, lane), want))
                fail_case("key %d, lane %d: %a becomes %a, want %a", j, lane, (double)before(c, j, lane),
                          (double)after(c, j, lane), (double)want);
        }
    expect_kept(&end, "end");
    expect_kept(&factor, "factor");
    expect_kept(&more, "more");
    expect_lanes_kept(&c->s, "s", c->n_lanes);
    free_buffer(&end);
    free_buffer(&factor);
    free_buffer(&more);
}

void check_weigh_tile(void **state)
{
    (void)state;
    walk_edits(46000, check_weigh_case);
}

/* ---- dot_tile ---- */

static void check_dot_tile_case(edit_case *c, random_stream *random)
{
    buffer end = make_ends(c, random), sums = make_lane_numbers(c, random), b = make_tile(c->n_keys, side_of(c->index));
    fill_tile(&b, c->n_lanes, 1.0f, random);
    keep_bits(&b);
    spoil_behind(c, &end, random);
    describe_case("dot_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    kernels->dot_tile(sums.data, c->s.data, b.data, end.data, c->n_keys, c->n_vectors);
    for (int lane = 0; lane < c->n_lanes; lane++) {
        float sum = 0.0f;
        for (int j = 0; j < c->n_keys && (float)j < end.data[lane]; j++)
            sum = multiply_add(before(c, j, lane), b.data[j * kernels->tile_lanes + lane], sum);
        if (!same_value(sums.data[lane], sums.before[lane] + sum))
            fail_case("lane %d: %a and a sum of %a give %a", lane, (double)sums.before[lane], (double)sum,
                      (double)sums.data[lane]);
    }
    expect_kept(&end, "end");
    expect_kept(&b, "b");
    expect_kept(&c->s, "a");
    expect_lanes_kept(&sums, "sums", c->n_lanes);
    free_buffer(&end);
    free_buffer(&sums);
    free_buffer(&b);
}

void check_dot_tile(void **state)
{
    (void)state;
    walk_edits(47000, check_dot_tile_case);
}
