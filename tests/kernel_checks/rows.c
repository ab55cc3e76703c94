/* scores_rows, values_rows, values_careful_rows and output_rows: the products for a few query rows. */
#include "kernel_checks/checks.h"

#include <stdlib.h>

enum { MAX_ROWS = 8 }; /* more than any kernel keeps in registers at once */

/* A case of a product: tile lanes 0 .. n_rows - 1 hold scores or weights; `plain` is the queries or the outputs. */
typedef struct rows_case {
    buffer tile, plain, sums, rescale;
    source_rows source; /* keys or values */
    int n_rows;
} rows_case;

typedef void (*values_rows_fn)(float *restrict o, float *restrict sums, const float *restrict p,
                               const float *restrict v, int64_t v_stride, const float *restrict rescale, int n_keys,
                               int64_t n_channels, int n_rows);

static rows_case make_case(int64_t index, int n_keys, int64_t n_channels, int n_rows, random_stream *random)
{
    rows_case c = {.n_rows = n_rows};
    c.source = make_rows(n_keys, n_channels, index, random);
    c.tile = make_tile(n_keys, side_of(index));
    c.plain = make_buffer(n_rows * n_channels, side_of(index));
    c.sums = make_buffer(n_rows * n_channels, side_of(index));
    c.rescale = make_buffer(n_rows, side_of(index));
    fill_floats(c.plain.data, n_rows * n_channels, 1.0f, random);
    for (int r = 0; r < n_rows; r++) {
        c.rescale.data[r] = random_below(random, 4) == 0 ? 0.0f : random_uniform(random, 0.0f, 1.0f);
        for (int j = 0; j < n_keys; j++)
            c.tile.data[j * kernels->tile_lanes + r] = random_uniform(random, 0.0f, 1.0f);
    }
    keep_bits(&c.tile);
    keep_bits(&c.plain);
    keep_bits(&c.rescale);
    return c;
}

static void free_case(rows_case *c)
{
    free_buffer(&c->source.memory);
    free_buffer(&c->tile);
    free_buffer(&c->plain);
    free_buffer(&c->sums);
    free_buffer(&c->rescale);
}

/* Calls the check for every key count and every channel count, with 1 to MAX_ROWS rows where a tile has the lanes. */
static void walk_sizes(void (*check)(int64_t index, int n_keys, int64_t n_channels, int n_rows))
{
    const int most = MAX_ROWS < kernels->tile_lanes ? MAX_ROWS : kernels->tile_lanes;
    int64_t index = 0;
    for (int i = 0; i < n_key_counts(); i++, index++)
        check(index, key_count(i), 1 + (index * 29) % 150, 1 + (int)(index % most));
    for (int i = 0; i < n_channel_counts(); i++, index++)
        check(index, (int)(1 + (index * 17) % 21), channel_count(i), 1 + (int)(index % most));
    for (int n_rows = 1; n_rows <= most; n_rows++, index++)
        check(index, 37, 160, n_rows);
}

/* ---- scores_rows ---- */

static void run_scores(rows_case *c)
{
    kernels->scores_rows(c->tile.data, c->plain.data, c->source.n_channels, c->source.memory.data, c->source.stride,
                         c->source.n_rows, c->source.n_channels, c->n_rows);
}

static void compare_scores(const rows_case *c)
{
    for (int j = 0; j < c->source.n_rows; j++)
        for (int r = 0; r < c->n_rows; r++) {
            double want = 0.0, magnitude = 0.0;
            for (int64_t i = 0; i < c->source.n_channels; i++) {
                const double term = (double)c->plain.data[r * c->source.n_channels + i] * row_value(&c->source, j, i);
                want += term;
                magnitude += fabs(term);
            }
            const float got = c->tile.data[j * kernels->tile_lanes + r];
            if (!is_close(got, want, sum_bound(c->source.n_channels, magnitude)))
                fail_case("key %d, row %d: %a, want %a", j, r, (double)got, want);
        }
}

/* Everything in lane `r` of the tile, and nothing else, follows query row r. */
static void spoil_query(rows_case *c, int r, int64_t channel, float value)
{
    keep_bits(&c->tile);
    c->plain.data[r * c->source.n_channels + channel] = value;
    run_scores(c);
    for (size_t i = 0; i < c->tile.n_floats; i++) {
        const int lane = (int)(i % (size_t)kernels->tile_lanes);
        if (lane == r ? isfinite(c->tile.data[i]) : !is_kept(&c->tile, i))
            fail_case("%g in row %d: lane %d is wrong", (double)value, r, lane);
    }
    restore_bits(&c->plain);
}

static void check_scores_case(int64_t index, int n_keys, int64_t n_channels, int n_rows)
{
    random_stream random = random_start((uint64_t)(30000 + index));
    rows_case c = make_case(index, n_keys, n_channels, n_rows, &random);
    describe_case("scores_rows", "%d keys, %d channels, key stride %d, %d rows", n_keys, (int)n_channels,
                  (int)c.source.stride, n_rows);
    run_scores(&c);
    compare_scores(&c);
    expect_lanes_kept(&c.tile, "s", n_rows);
    expect_kept(&c.plain, "q");
    expect_kept(&c.source.memory, "k");
    spoil_query(&c, (int)random_below(&random, n_rows), random_below(&random, n_channels), index % 2 ? NAN : INFINITY);
    free_case(&c);
}

void check_scores_rows(void **state)
{
    (void)state;
    walk_sizes(check_scores_case);
}

/* ---- values_rows ---- */

static void run_values(rows_case *c, values_rows_fn values)
{
    restore_bits(&c->plain);
    values(c->plain.data, c->sums.data, c->tile.data, c->source.memory.data, c->source.stride, c->rescale.data,
           c->source.n_rows, c->source.n_channels, c->n_rows);
    expect_kept(&c->tile, "p");
    expect_kept(&c->rescale, "rescale");
    expect_kept(&c->source.memory, "v");
}

/* The sum over the keys in their order from zero; joining it to o rescale rounds once, or twice where not fused. */
static void compare_values(const rows_case *c)
{
    const int fused = kernels->vector_lanes > 1;
    for (int r = 0; r < c->n_rows; r++)
        for (int64_t i = 0; i < c->source.n_channels; i++) {
            float sum = 0.0f;
            for (int j = 0; j < c->source.n_rows; j++) {
                const float p = c->tile.data[j * kernels->tile_lanes + r], v = row_value(&c->source, j, i);
                const float product = p * v;
                sum = fused ? fmaf(p, v, sum) : product + sum;
            }
            const double old = (double)c->plain.before[r * c->source.n_channels + i] * c->rescale.data[r];
            const float got = c->plain.data[r * c->source.n_channels + i];
            if (!is_close(got, old + sum, HALF_ULP * (fabs(old) + fabs(old + sum)) + 0x1p-149))
                fail_case("row %d, channel %d: %a, want %a", r, (int)i, (double)got, old + sum);
        }
}

static void check_values_case(int64_t index, int n_keys, int64_t n_channels, int n_rows)
{
    random_stream random = random_start((uint64_t)(40000 + index));
    rows_case c = make_case(index, n_keys, n_channels, n_rows, &random);
    describe_case("values_rows", "%d keys, %d channels, value stride %d, %d rows", n_keys, (int)n_channels,
                  (int)c.source.stride, n_rows);
    run_values(&c, kernels->values_rows);
    compare_values(&c);
    free_case(&c);
}

void check_values_rows(void **state)
{
    (void)state;
    walk_sizes(check_values_case);
}

/* ---- values_careful_rows ---- */

/* Hidden terms are left out, even where their value is NaN; the bits are those of weights of 0 and finite values. */
static void check_careful_case(int64_t index, int n_keys, int64_t n_channels, int n_rows)
{
    random_stream random = random_start((uint64_t)(50000 + index));
    rows_case c = make_case(index, n_keys, n_channels, n_rows, &random);
    const int poisoned = (int)random_below(&random, n_keys), seer = (int)random_below(&random, n_rows + 1) - 1;
    describe_case("values_careful_rows", "%d keys, %d channels, value stride %d, %d rows", n_keys, (int)n_channels,
                  (int)c.source.stride, n_rows);
    for (int r = 0; r < n_rows; r++)
        for (int j = 0; j < n_keys; j++)
            if (j == poisoned ? r != seer : random_below(&random, 3) == 0)
                c.tile.data[j * kernels->tile_lanes + r] = 0.0f;
    keep_bits(&c.tile);
    run_values(&c, kernels->values_rows);
    float *plain = malloc(c.plain.n_floats * sizeof(float));
    if (plain == NULL)
        fail_case("no memory");
    memcpy(plain, c.plain.data, c.plain.n_floats * sizeof(float));
    for (size_t i = 0; i < c.tile.n_floats; i++)
        if (c.tile.data[i] == 0.0f)
            c.tile.data[i] = -1.0f;
    keep_bits(&c.tile);
    for (int64_t i = 0; c.source.stride > 0 && i < n_channels; i++)
        c.source.memory.data[poisoned * c.source.stride + i] = index % 2 ? NAN : INFINITY;
    keep_bits(&c.source.memory);
    run_values(&c, kernels->values_careful_rows);
    for (size_t i = 0; i < c.plain.n_floats; i++) {
        const int sees = c.source.stride > 0 && (int)(i / (size_t)n_channels) == seer;
        if (sees ? isfinite(c.plain.data[i]) : !same_bits(c.plain.data[i], plain[i]))
            fail_case("row %d is wrong, row %d sees what is not finite", (int)(i / (size_t)n_channels), seer);
    }
    free(plain);
    free_case(&c);
}

void check_values_careful_rows(void **state)
{
    (void)state;
    walk_sizes(check_careful_case);
}

/* ---- output_rows ---- */

static void check_output_case(int64_t index, int n_keys, int64_t n_channels, int n_rows)
{
    random_stream random = random_start((uint64_t)(60000 + index));
    buffer o = make_buffer(n_rows * n_channels, side_of(index)), l = make_buffer(n_rows, side_of(index));
    source_rows out = make_rows(n_rows, n_channels, 1 + 5 * index, &random); /* not one row repeated */
    float *pointers[MAX_ROWS];
    (void)n_keys;
    describe_case("output_rows", "%d channels, %d rows", (int)n_channels, n_rows);
    fill_floats(o.data, n_rows * n_channels, 1.0f, &random);
    int n_nan = 0;
    for (int r = 0; r < n_rows; r++) {
        pointers[r] = out.memory.data + r * out.stride;
        l.data[r] = random_below(&random, 4) == 0 ? 0.0f : random_uniform(&random, 0.5f, 100.0f);
        if (random_below(&random, 3) == 0) {
            o.data[r * n_channels + random_below(&random, n_channels)] = NAN;
            n_nan += l.data[r] != 0.0f;
        }
    }
    keep_bits(&o);
    const int returned = kernels->output_rows(pointers, o.data, l.data, n_rows, n_channels);
    if ((returned != 0) != (n_nan > 0))
        fail_case("returned %d with %d NaN", returned, n_nan);
    for (size_t i = 0; i < out.memory.n_floats; i++) {
        const int64_t r = (int64_t)i / out.stride, c = (int64_t)i % out.stride;
        if (c >= n_channels
                ? !is_kept(&out.memory, i)
                : !same_value(out.memory.data[i], l.data[r] == 0.0f ? 0.0f : o.data[r * n_channels + c] / l.data[r]))
            fail_case("row %d, channel %d: %a", (int)r, (int)c, (double)out.memory.data[i]);
    }
    expect_kept(&o, "o");
    free_buffer(&o);
    free_buffer(&l);
    free_buffer(&out.memory);
}

void check_output_rows(void **state)
{
    (void)state;
    walk_sizes(check_output_case);
}
