/* Kernels over plain rows of floats: exp2_array, exp_array, blend_rows, and the ways into and out of a tile, pack_tile
 * and output_tile. */
#include "kernel_checks/checks.h"

enum { MAX_LENGTH = 200 };

/* ---- exp2_array, exp_array: bounds and placement here, every float in test_exp.c ---- */

typedef void (*array_fn)(const float *x, float *y, int64_t n);

static void check_exponential(const char *name, array_fn array, double (*reference)(double))
{
    random_stream random = random_start(30000);
    for (int n = 0; n <= MAX_LENGTH; n++)
        for (int side = 0; side < 2; side++) {
            buffer x = make_buffer(n, side_of(side)), y = make_buffer(n, side_of(side));
            describe_case(name, "n = %d", n);
            for (int i = 0; i < n; i++)
                x.data[i] = random_uniform(&random, -87.0f, 16.0f);
            keep_bits(&x);
            array(x.data, y.data, n);
            /* 2 ulp of a float are at most 2^-22 of its value. */
            for (int i = 0; i < n; i++)
                if (!is_close(y.data[i], reference(x.data[i]), 0x1p-22 * reference(x.data[i])))
                    fail_case("f(%a) = %a", (double)x.data[i], (double)y.data[i]);
            expect_kept(&x, "x");
            keep_bits(&y);
            expect_kept(&y, "y");
            const int spoiled = n > 0 ? (int)random_below(&random, n) : 0;
            if (n > 0)
                x.data[spoiled] = side ? NAN : INFINITY;
            array(x.data, y.data, n);
            for (int i = 0; i < n; i++)
                if (i == spoiled ? isfinite(y.data[i]) : !is_kept(&y, (size_t)i))
                    fail_case("f(%g) at %d, wrong result at %d", (double)x.data[spoiled], spoiled, i);
            free_buffer(&x);
            free_buffer(&y);
        }
}

void check_exp2_array(void **state)
{
    (void)state;
    check_exponential("exp2_array", kernels->exp2_array, exp2);
}

void check_exp_array(void **state)
{
    (void)state;
    check_exponential("exp_array", kernels->exp_array, exp);
}

/* ---- blend_rows ---- */

/* The result may take the place of a or b, with the same bits. */
static void blend_in_place(const buffer *a, float weight_a, const buffer *b, float weight_b, const buffer *out, int n,
                           guard_side side)
{
    buffer same = make_buffer(n, side);
    memcpy(same.data, a->data, (size_t)n * sizeof(float));
    kernels->blend_rows(same.data, same.data, weight_a, b->data, weight_b, n);
    for (int i = 0; i < n; i++)
        if (!same_bits(same.data[i], out->data[i]))
            fail_case("in place of a: element %d differs", i);
    memcpy(same.data, b->data, (size_t)n * sizeof(float));
    kernels->blend_rows(same.data, a->data, weight_a, same.data, weight_b, n);
    for (int i = 0; i < n; i++)
        if (!same_bits(same.data[i], out->data[i]))
            fail_case("in place of b: element %d differs", i);
    keep_bits(&same);
    expect_kept(&same, "out");
    free_buffer(&same);
}

static void blend_case(int n, guard_side side, random_stream *random)
{
    buffer a = make_buffer(n, side), b = make_buffer(n, side), out = make_buffer(n, side);
    const float weight_a = random_uniform(random, 0.0f, 1.0f), weight_b = random_uniform(random, 0.0f, 1.0f);
    describe_case("blend_rows", "n = %d", n);
    fill_floats(a.data, n, 1.0f, random);
    fill_floats(b.data, n, 1.0f, random);
    keep_bits(&a);
    keep_bits(&b);
    kernels->blend_rows(out.data, a.data, weight_a, b.data, weight_b, n);
    for (int i = 0; i < n; i++) {
        const double first = (double)a.data[i] * weight_a, second = (double)b.data[i] * weight_b;
        /* Each product is rounded once, or not at all, then the sum. */
        const double tolerance = HALF_ULP * (fabs(first) + fabs(second) + fabs(first + second)) * (1.0 + 0x1p-20);
        float alone = 0.0f;
        kernels->blend_rows(&alone, &a.data[i], weight_a, &b.data[i], weight_b, 1);
        if (!is_close(out.data[i], first + second, tolerance))
            fail_case("element %d: %a, want %a", i, (double)out.data[i], first + second);
        if (!same_bits(out.data[i], alone))
            fail_case("element %d has other bits alone than in the row", i);
    }
    expect_kept(&a, "a");
    expect_kept(&b, "b");
    blend_in_place(&a, weight_a, &b, weight_b, &out, n, side);
    keep_bits(&out);
    expect_kept(&out, "out");
    if (n > 0) {
        const int64_t spoiled = random_below(random, n);
        b.data[spoiled] = NAN;
        kernels->blend_rows(out.data, a.data, weight_a, b.data, weight_b, n);
        for (int i = 0; i < n; i++)
            if (i == spoiled ? !isnan(out.data[i]) : !is_kept(&out, (size_t)i))
                fail_case("NaN at %d, wrong result at %d", (int)spoiled, i);
    }
    free_buffer(&a);
    free_buffer(&b);
    free_buffer(&out);
}

void check_blend_rows(void **state)
{
    (void)state;
    random_stream random = random_start(31000);
    for (int n = 0; n <= MAX_LENGTH; n++)
        for (int side = 0; side < 2; side++)
            blend_case(n, side_of(side), &random);
}

/* ---- pack_tile ---- */

/* n_rows rows in one buffer, in an order turned by `turn`, so that each of them is the last one before the page. */
static buffer scatter_rows(float **rows, int n_rows, int64_t n_columns, int64_t case_index, random_stream *random)
{
    const int64_t stride = n_columns + random_below(random, 5);
    buffer b = make_buffer((n_rows - 1) * stride + n_columns, side_of(case_index));
    for (int r = 0; r < n_rows; r++)
        rows[r] = b.data + (r + case_index) % n_rows * stride;
    return b;
}

static int lanes_of(int n_rows)
{
    return (n_rows + kernels->vector_lanes - 1) / kernels->vector_lanes * kernels->vector_lanes;
}

static void pack_case(int64_t index, int n_rows, int64_t n_columns, random_stream *random)
{
    const int row = kernels->tile_lanes;
    float *rows[HEED_MAX_TILE_LANES];
    buffer memory = scatter_rows(rows, n_rows, n_columns, index, random);
    buffer t = make_tile(n_columns, side_of(index));
    const float scale = random_uniform(random, -2.0f, 2.0f);
    const int64_t spoiled = random_below(random, n_rows);
    describe_case("pack_tile", "%d rows, %d columns", n_rows, (int)n_columns);
    for (int r = 0; r < n_rows; r++)
        fill_floats(rows[r], n_columns, 1.0f, random);
    rows[spoiled][random_below(random, n_columns)] = index % 3 == 0 ? NAN : INFINITY;
    keep_bits(&memory);
    kernels->pack_tile(t.data, (const float *const *)rows, n_rows, n_columns, scale);
    for (int64_t c = 0; c < n_columns; c++)
        for (int r = 0; r < lanes_of(n_rows); r++) {
            const float want = r < n_rows ? rows[r][c] * scale : 0.0f, got = t.data[c * row + r];
            if (!same_value(got, want))
                fail_case("row %d, column %d: %a, want %a", r, (int)c, (double)got, (double)want);
        }
    expect_kept(&memory, "rows");
    expect_lanes_kept(&t, "t", lanes_of(n_rows));
    free_buffer(&memory);
    free_buffer(&t);
}

/* All row counts at some column counts, and all column counts at some row counts. */
static void walk_rows(void (*check)(int64_t index, int n_rows, int64_t n_columns, random_stream *random))
{
    random_stream random = random_start(32000);
    int64_t index = 0;
    for (int n_rows = 1; n_rows <= kernels->tile_lanes; n_rows++)
        for (int64_t n_columns = 1; n_columns <= 40; n_columns += 1 + random_below(&random, 4))
            check(index++, n_rows, n_columns, &random);
    for (int i = 0; i < n_channel_counts(); i++)
        check(index++, 1 + (int)random_below(&random, kernels->tile_lanes), channel_count(i), &random);
}

void check_pack_tile(void **state)
{
    (void)state;
    walk_rows(pack_case);
}

/* ---- output_tile ---- */

typedef struct output_case {
    float *rows[HEED_MAX_TILE_LANES];
    buffer memory, o, l;
    int n_rows;
    int64_t n_columns;
} output_case;

/* Some sums are 0, as in rows without a visible key, whatever stands in o. Some are 1, some equal an element, and some
 * elements are infinite. */
static void make_output_case(output_case *c, int64_t index, random_stream *random)
{
    const int lanes = lanes_of(c->n_rows);
    c->memory = scatter_rows(c->rows, c->n_rows, c->n_columns, index, random);
    c->o = make_tile(c->n_columns, side_of(index));
    c->l = make_tile(1, side_of(index));
    fill_tile(&c->o, lanes, 1.0f, random);
    for (int r = 0; r < lanes; r++) {
        float *o = c->o.data + random_below(random, c->n_columns) * kernels->tile_lanes + r;
        const int64_t kind = random_below(random, 6);
        c->l.data[r] = kind == 0 ? 0.0f : kind == 1 ? 1.0f : random_uniform(random, 1.0f, 100.0f);
        if (kind == 0 && index % 2 == 0)
            *o = NAN;
        if (kind == 2)
            *o = c->l.data[r];
        if (kind == 3)
            *o = index % 2 == 0 ? INFINITY : -INFINITY;
    }
    keep_bits(&c->memory);
    keep_bits(&c->o);
    keep_bits(&c->l);
}

/* Returns 1 when one of the values was NaN. */
static int compare_output(const output_case *c)
{
    size_t n_written = 0;
    int n_nan = 0;
    for (int r = 0; r < c->n_rows; r++) {
        for (int64_t i = 0; i < c->n_columns; i++) {
            const float o = c->o.data[i * kernels->tile_lanes + r], l = c->l.data[r];
            const float want = l == 0.0f ? 0.0f : o / l, got = c->rows[r][i];
            const int exact = l == 0.0f || l == 1.0f || o == l || !isfinite(want);
            if (exact ? !same_value(got, want) : !is_close(got, want, 0x1p-23 * fabs((double)want) + 0x1p-149))
                fail_case("row %d, column %d: %a / %a gives %a", r, (int)i, (double)o, (double)l, (double)got);
            n_nan += isnan(got);
            n_written++;
        }
    }
    size_t n_changed = 0;
    for (size_t i = 0; i < c->memory.n_floats; i++)
        n_changed += !is_kept(&c->memory, i);
    if (n_changed > n_written)
        fail_case("%zu floats written, %zu expected", n_changed, n_written);
    return n_nan > 0;
}

static void run_output(const output_case *c)
{
    const int returned = kernels->output_tile((float *const *)c->rows, c->o.data, c->l.data, c->n_rows, c->n_columns);
    const int want = compare_output(c);
    if ((returned != 0) != want)
        fail_case("returned %d, but NaN was %s", returned, want ? "written" : "not written");
}

static void output_one(int64_t index, int n_rows, int64_t n_columns, random_stream *random)
{
    output_case c = {.n_rows = n_rows, .n_columns = n_columns};
    describe_case("output_tile", "%d rows, %d columns", n_rows, (int)n_columns);
    make_output_case(&c, index, random);
    run_output(&c);
    expect_kept(&c.o, "o");
    expect_kept(&c.l, "l");
    /* NaN in a row that is written, then one in a lane behind the rows, which nobody must hear of. */
    const int row = kernels->tile_lanes, lanes = lanes_of(n_rows);
    c.o.data[random_below(random, n_columns) * row + random_below(random, n_rows)] = NAN;
    restore_bits(&c.memory);
    run_output(&c);
    restore_bits(&c.o);
    if (lanes > n_rows) {
        c.o.data[random_below(random, n_columns) * row + lanes - 1] = NAN;
        c.l.data[lanes - 1] = NAN;
        restore_bits(&c.memory);
        run_output(&c);
    }
    free_buffer(&c.memory);
    free_buffer(&c.o);
    free_buffer(&c.l);
}

void check_output_tile(void **state)
{
    (void)state;
    walk_rows(output_one);
}
