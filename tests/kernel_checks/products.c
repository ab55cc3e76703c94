/* scores_tile, values_tile and values_careful_tile: the two products of attention.
 */
#include "kernel_checks/checks.h"

/* Expects that all lanes but one have the bits of `clean`. */
static void expect_other_lanes(const buffer *tile, const float *clean, int n_lanes, int lane)
{
    const int row = kernels->tile_lanes;
    for (size_t i = 0; i < tile->n_floats; i++)
        if ((int)(i % (size_t)row) < n_lanes && (int)(i % (size_t)row) != lane && !same_bits(tile->data[i], clean[i]))
            fail_case("lane %d spoils lane %d", lane, (int)(i % (size_t)row));
}

/* ---- scores_tile ---- */

typedef struct scores_case {
    buffer q, s;
    source_rows k;
    int n_vectors, n_lanes;
} scores_case;

/* What is asked for and never read: nothing in particular, or no memory at all. */
static const float *nowhere(int n) { return n % 2 ? NULL : (const float *)(uintptr_t)0x1234560; }

static void run_scores(scores_case *c)
{
    kernels->scores_tile(c->s.data, c->q.data, c->k.memory.data, c->k.stride, c->k.n_rows, c->k.n_channels,
                         c->n_vectors, nowhere(c->k.n_rows), INT64_MAX);
}

static void compare_scores(const scores_case *c)
{
    const int row = kernels->tile_lanes;
    for (int j = 0; j < c->k.n_rows; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            double want = 0.0, magnitude = 0.0;
            for (int64_t i = 0; i < c->k.n_channels; i++) {
                const double term = (double)c->q.data[i * row + lane] * row_value(&c->k, j, i);
                want += term;
                magnitude += fabs(term);
            }
            const float got = c->s.data[j * row + lane];
            if (!is_close(got, want, sum_bound(c->k.n_channels, magnitude)))
                fail_case("key %d, lane %d: %a, want %a", j, lane, (double)got, want);
        }
}

static void spoil_scores_lane(scores_case *c, int lane, int64_t channel, float value)
{
    static float clean[HEED_BLOCK_KEYS * HEED_MAX_TILE_LANES];
    run_scores(c);
    memcpy(clean, c->s.data, c->s.n_floats * sizeof(float));
    c->q.data[channel * kernels->tile_lanes + lane] = value;
    run_scores(c);
    expect_other_lanes(&c->s, clean, c->n_lanes, lane);
    for (int j = 0; j < c->k.n_rows; j++)
        if (isfinite(c->s.data[j * kernels->tile_lanes + lane]))
            fail_case("%g in channel %d of lane %d leaves key %d finite", (double)value, (int)channel, lane, j);
    restore_bits(&c->q);
}

static void check_scores_case(int64_t index, int n_keys, int64_t n_channels, int n_vectors, int every_lane)
{
    random_stream random = random_start((uint64_t)index);
    scores_case c = {.n_vectors = n_vectors, .n_lanes = n_vectors * kernels->vector_lanes};
    c.q = make_tile(n_channels, side_of(index));
    c.s = make_tile(n_keys, side_of(index));
    c.k = make_rows(n_keys, n_channels, index, &random);
    fill_tile(&c.q, c.n_lanes, 1.0f, &random);
    keep_bits(&c.q);
    describe_case("scores_tile", "%d keys, %d channels, key stride %d, %d vectors", n_keys, (int)n_channels,
                  (int)c.k.stride, n_vectors);
    run_scores(&c);
    compare_scores(&c);
    expect_lanes_kept(&c.s, "s", c.n_lanes);
    expect_kept(&c.q, "q");
    expect_kept(&c.k.memory, "k");
    const int first = every_lane ? 0 : (int)random_below(&random, c.n_lanes);
    for (int lane = first; lane < (every_lane ? c.n_lanes : first + 1); lane++)
        spoil_scores_lane(&c, lane, random_below(&random, n_channels), lane % 2 ? NAN : INFINITY);
    free_buffer(&c.q);
    free_buffer(&c.s);
    free_buffer(&c.k.memory);
}

/* Calls the case for every key count, every channel count, and every lane at some tails. */
static void walk_sizes(void (*check)(int64_t index, int n_keys, int64_t n_channels, int n_vectors, int every_lane))
{
    int64_t index = 0;
    for (int n_vectors = 1; n_vectors <= HEED_TILE_VECTORS; n_vectors++) {
        for (int i = 0; i < n_key_counts(); i++, index++)
            check(index, key_count(i), 1 + (index * 29) % 40, n_vectors, 0);
        for (int i = 0; i < n_channel_counts(); i++, index++)
            check(index, (int)(1 + (index * 17) % 21), channel_count(i), n_vectors, 0);
        for (int n = 1; n <= 9; n++, index++)
            check(index, n, 10 - n, n_vectors, 1);
    }
}

void check_scores_tile(void **state)
{
    (void)state;
    walk_sizes(check_scores_case);
    /* Beyond 1024 channels the chunks grow. */
    check_scores_case(0, 9, 1100, HEED_TILE_VECTORS, 0);
    check_scores_case(1, 6, 2100, 1, 0);
}

/* ---- values_tile ---- */

typedef struct values_case {
    buffer o, p, rescale;
    source_rows v;
    int n_vectors, n_lanes;
} values_case;

typedef void (*values_fn)(float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,
                          const float *restrict rescale, int n_keys, int64_t n_channels, int n_vectors,
                          const float *ahead, int64_t ahead_stride);

static void run_values(values_case *c, values_fn values)
{
    restore_bits(&c->o);
    values(c->o.data, c->p.data, c->v.memory.data, c->v.stride, c->rescale.data, c->v.n_rows, c->v.n_channels,
           c->n_vectors, nowhere(c->v.n_rows), INT64_MAX);
}

static void make_values_case(values_case *c, int64_t index, int n_keys, int64_t n_channels, int n_vectors,
                             random_stream *random)
{
    c->n_vectors = n_vectors;
    c->n_lanes = n_vectors * kernels->vector_lanes;
    c->o = make_tile(n_channels, side_of(index));
    c->p = make_tile(n_keys, side_of(index));
    c->rescale = make_tile(1, side_of(index));
    c->v = make_rows(n_keys, n_channels, index, random);
    fill_tile(&c->o, c->n_lanes, 1.0f, random);
    for (int lane = 0; lane < c->n_lanes; lane++) {
        c->rescale.data[lane] = random_below(random, 4) == 0 ? 0.0f : random_uniform(random, 0.0f, 1.0f);
        for (int j = 0; j < n_keys; j++)
            c->p.data[j * kernels->tile_lanes + lane] = random_uniform(random, 0.0f, 1.0f);
    }
    keep_bits(&c->o);
    keep_bits(&c->p);
    keep_bits(&c->rescale);
}

static void free_values_case(values_case *c)
{
    free_buffer(&c->o);
    free_buffer(&c->p);
    free_buffer(&c->rescale);
    free_buffer(&c->v.memory);
}

static void compare_values(const values_case *c)
{
    const int row = kernels->tile_lanes;
    for (int64_t i = 0; i < c->v.n_channels; i++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            double want = (double)c->o.before[i * row + lane] * c->rescale.data[lane];
            double magnitude = fabs(want);
            for (int j = 0; j < c->v.n_rows; j++) {
                const double term = (double)c->p.data[j * row + lane] * row_value(&c->v, j, i);
                want += term;
                magnitude += fabs(term);
            }
            const float got = c->o.data[i * row + lane];
            if (!is_close(got, want, sum_bound(c->v.n_rows + 1, magnitude)))
                fail_case("channel %d, lane %d: %a, want %a", (int)i, lane, (double)got, want);
        }
}

/* The sum runs over the keys in their order from zero, and joins o rescale as a whole: the same bits come out of one
 * key at a time, whatever tile the channel and the lane are part of. */
static void compare_order(const values_case *c)
{
    const int row = kernels->tile_lanes, fused = kernels->vector_lanes > 1;
    for (int64_t i = 0; i < c->v.n_channels; i++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            float sum = 0.0f;
            for (int j = 0; j < c->v.n_rows; j++) {
                const float p = c->p.data[j * row + lane], v = row_value(&c->v, j, i), product = p * v;
                sum = fused ? fmaf(p, v, sum) : product + sum;
            }
            const double old = (double)c->o.before[i * row + lane] * c->rescale.data[lane];
            const float got = c->o.data[i * row + lane];
            /* Two roundings where the product and the sum are not fused. */
            if (!is_close(got, old + sum, HALF_ULP * (fabs(old) + fabs(old + sum)) + 0x1p-149))
                fail_case("channel %d, lane %d: %a, want %a from a sum in the order of the keys", (int)i, lane,
                          (double)got, old + sum);
        }
}

static void spoil_values_lane(values_case *c, int lane, int n_keys, random_stream *random)
{
    static float clean[1024 * HEED_MAX_TILE_LANES];
    run_values(c, kernels->values_tile);
    memcpy(clean, c->o.data, c->o.n_floats * sizeof(float));
    const float spoilers[] = {NAN, INFINITY, -INFINITY};
    const float value = spoilers[random_below(random, 3)];
    const int64_t key = random_below(random, n_keys);
    c->p.data[key * kernels->tile_lanes + lane] = value;
    run_values(c, kernels->values_tile);
    expect_other_lanes(&c->o, clean, c->n_lanes, lane);
    for (int64_t i = 0; i < c->v.n_channels; i++)
        if (isfinite(c->o.data[i * kernels->tile_lanes + lane]))
            fail_case("a weight of %g in lane %d leaves channel %d finite", (double)value, lane, (int)i);
    restore_bits(&c->p);
}

static void expect_values_kept(const values_case *c)
{
    expect_lanes_kept(&c->o, "o", c->n_lanes);
    expect_kept(&c->p, "p");
    expect_kept(&c->rescale, "rescale");
    expect_kept(&c->v.memory, "v");
}

static void check_values_case(int64_t index, int n_keys, int64_t n_channels, int n_vectors, int every_lane)
{
    random_stream random = random_start((uint64_t)(10000 + index));
    values_case c;
    make_values_case(&c, index, n_keys, n_channels, n_vectors, &random);
    describe_case("values_tile", "%d keys, %d channels, value stride %d, %d vectors", n_keys, (int)n_channels,
                  (int)c.v.stride, n_vectors);
    run_values(&c, kernels->values_tile);
    compare_values(&c);
    compare_order(&c);
    expect_values_kept(&c);
    const int first = every_lane ? 0 : (int)random_below(&random, c.n_lanes);
    for (int lane = first; lane < (every_lane ? c.n_lanes : first + 1); lane++)
        spoil_values_lane(&c, lane, n_keys, &random);
    free_values_case(&c);
}

void check_values_tile(void **state)
{
    (void)state;
    walk_sizes(check_values_case);
}

/* ---- values_careful_tile ---- */

/* Hides random keys from random lanes by the mark -1, and key `poisoned` from every lane but `seer` (-1: none). */
static void hide_keys(values_case *c, int n_keys, int poisoned, int seer, random_stream *random)
{
    const int row = kernels->tile_lanes;
    for (int j = 0; j < n_keys; j++)
        for (int lane = 0; lane < c->n_lanes; lane++) {
            const int is_hidden = j == poisoned ? lane != seer : random_below(random, 3) == 0;
            c->p.data[j * row + lane] = is_hidden ? -1.0f : random_uniform(random, 0.0f, 1.0f);
        }
    /* A visible weight may have underflowed to 0; it sees NaN all the same. */
    if (seer >= 0 && random_below(random, 2) == 0)
        c->p.data[poisoned * row + seer] = 0.0f;
}

/* Hidden terms are left out: the bits of values_tile with weights of 0 in their place. */
static void compare_left_out(values_case *c)
{
    static float plain[1024 * HEED_MAX_TILE_LANES];
    keep_bits(&c->p);
    for (size_t i = 0; i < c->p.n_floats; i++)
        c->p.data[i] = c->p.data[i] == -1.0f ? 0.0f : c->p.data[i];
    run_values(c, kernels->values_tile);
    memcpy(plain, c->o.data, c->o.n_floats * sizeof(float));
    restore_bits(&c->p);
    run_values(c, kernels->values_careful_tile);
    expect_other_lanes(&c->o, plain, c->n_lanes, -1);
    expect_values_kept(c);
}

/* A row of NaN or infinities reaches the lane that sees it, and leaves the bits of all others. */
static void poison_row(values_case *c, int poisoned, int seer, float value)
{
    static float clean[1024 * HEED_MAX_TILE_LANES];
    memcpy(clean, c->o.data, c->o.n_floats * sizeof(float));
    for (int64_t i = 0; i < c->v.n_channels; i++)
        c->v.memory.data[poisoned * c->v.stride + i] = value;
    keep_bits(&c->v.memory);
    run_values(c, kernels->values_careful_tile);
    expect_other_lanes(&c->o, clean, c->n_lanes, seer);
    for (int64_t i = 0; seer >= 0 && i < c->v.n_channels; i++)
        if (isfinite(c->o.data[i * kernels->tile_lanes + seer]))
            fail_case("lane %d sees %g in row %d, channel %d is finite", seer, (double)value, poisoned, (int)i);
    expect_values_kept(c);
    for (int64_t i = 0; i < c->v.n_channels; i++)
        c->v.memory.data[poisoned * c->v.stride + i] = 1.0f;
    keep_bits(&c->v.memory);
}

static void check_careful_case(int64_t index, int n_keys, int64_t n_channels, int n_vectors, int every_lane)
{
    random_stream random = random_start((uint64_t)(20000 + index));
    values_case c;
    make_values_case(&c, index, n_keys, n_channels, n_vectors, &random);
    describe_case("values_careful_tile", "%d keys, %d channels, value stride %d, %d vectors", n_keys, (int)n_channels,
                  (int)c.v.stride, n_vectors);
    for (int lane = 0; lane < (every_lane ? c.n_lanes : 1); lane++) {
        const int seer = every_lane ? lane : (int)random_below(&random, c.n_lanes + 1) - 1;
        const int poisoned = (int)random_below(&random, n_keys);
        hide_keys(&c, n_keys, poisoned, seer, &random);
        compare_left_out(&c);
        if (c.v.stride > 0) /* else all rows are the same one */
            poison_row(&c, poisoned, seer, lane % 2 ? NAN : INFINITY);
    }
    free_values_case(&c);
}

void check_values_careful_tile(void **state)
{
    (void)state;
    walk_sizes(check_careful_case);
}
