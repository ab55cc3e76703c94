/* aft_row, aft_ratio and ratio_rows: sums become results, behind the gate of gate_array. */
#include "kernel_checks/checks.h"
#include "kernel_checks/gates.h"

#include <float.h>

static const float spoilers[] = {NAN, INFINITY, -INFINITY};

/* ---- aft_row ---- */

/* Where both denominators are 0 the numerators may be anything. */
static void fill_sums(buffer *state, int64_t n_channels, int64_t channel, random_stream *random)
{
    float *sums = state->data + AFT_NUM * n_channels + channel;
    const int64_t kind = random_below(random, 8), old = kind == 0 || kind == 1, fresh = kind == 0 || kind == 2;
    sums[0] = random_normal(random);
    sums[n_channels] = old ? 0.0f : random_uniform(random, 0.5f, 100.0f);
    sums[2 * n_channels] = random_normal(random);
    sums[3 * n_channels] = fresh ? 0.0f : random_uniform(random, 0.5f, 100.0f);
    if (kind == 3)
        sums[0] = sums[n_channels];
    if (kind == 3)
        sums[2 * n_channels] = sums[3 * n_channels];
    if (kind == 4 || (kind == 0 && random_below(random, 2) == 0))
        sums[random_below(random, 2) * 2 * n_channels] = spoilers[random_below(random, 3)];
    if (kind == 5 && random_below(random, 2) == 0)
        sums[(1 + random_below(random, 2) * 2) * n_channels] = NAN;
}

/* 0 where the denominators are, whatever the gate. */
static void gate_row(const buffer *state, const buffer *ungated, guard_side side, random_stream *random)
{
    const int64_t n = (int64_t)ungated->n_floats;
    const float *sums = state->data + AFT_NUM * n;
    gate_case g = make_gate_case(n, side, random);
    gate_results(&g, ungated->data);
    kernels->aft_row(g.out.data, g.q.data, state->data, n);
    for (int64_t c = 0; c < n; c++) {
        const float want = sums[n + c] + sums[3 * n + c] == 0.0f ? 0.0f : g.want.data[c];
        if (!same_value(g.out.data[c], want))
            fail_case("channel %d: %a behind the gate of %a gives %a", (int)c, (double)ungated->data[c],
                      (double)g.q.data[c], (double)g.out.data[c]);
    }
    free_gate_case(&g);
}

static void check_row_case(int64_t index, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(72000 + index));
    buffer state = make_buffer(AFT_STATE_ROWS * n_channels, side_of(index)),
           out = make_buffer(n_channels, side_of(index));
    describe_case("aft_row", "%d channels", (int)n_channels);
    for (int64_t c = 0; c < n_channels; c++)
        fill_sums(&state, n_channels, c, &random);
    keep_bits(&state); /* the reference is NaN: nobody asks for it */
    kernels->aft_row(out.data, NULL, state.data, n_channels);
    for (int64_t c = 0; c < n_channels; c++) {
        const float *sums = state.data + AFT_NUM * n_channels + c, got = out.data[c];
        const double num = (double)sums[0] + sums[2 * n_channels],
                     den = (double)sums[n_channels] + sums[3 * n_channels];
        const double want = den == 0.0 ? 0.0 : num / den;
        /* Two sums and a division of one rounding each; exact where they are the same. */
        const double tolerance =
            den == 0.0 || num == den ? 0.0 : 3.0 * HALF_ULP * fabs(want) * (1.0 + 0x1p-20) + 0x1p-149;
        if (!is_close(got, want, tolerance))
            fail_case("channel %d: %a / %a gives %a", (int)c, num, den, (double)got);
    }
    gate_row(&state, &out, side_of(index), &random);
    expect_kept(&state, "state");
    keep_bits(&out);
    expect_kept(&out, "out"); /* the canaries */
    free_buffer(&state);
    free_buffer(&out);
}

void check_aft_row(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_channel_counts(); i++)
        check_row_case(i, channel_count(i / 2));
}

/* ---- aft_ratio ---- */

/* Sums in panels: panel c / AFT_PANEL, a num for each of its channels, then as many den. */
typedef struct ratio_case {
    buffer sums, out;
    int64_t panel_stride, n_channels;
} ratio_case;

static int64_t ratio_width(const ratio_case *r, int64_t c)
{
    const int64_t left = r->n_channels - c / AFT_PANEL * AFT_PANEL;
    return left < AFT_PANEL ? left : AFT_PANEL;
}

static float *num_of(const ratio_case *r, int64_t c)
{
    return r->sums.data + c / AFT_PANEL * r->panel_stride + c % AFT_PANEL;
}

static float *den_of(const ratio_case *r, int64_t c) { return num_of(r, c) + ratio_width(r, c); }

/* Denominators that prove something, down to the smallest. */
static float draw_den(random_stream *random)
{
    return random_below(random, 8) == 0
               ? AFT_SMALLEST_PROOF
               : random_uniform(random, 1.0f, 2.0f) * exp2f((float)random_below(random, 146) - 86.0f);
}

static float draw_num(float den, random_stream *random)
{
    const int64_t kind = random_below(random, 8);
    return kind == 1 ? den : kind == 2 ? -den : kind == 3 ? 0.0f : den * random_normal(random);
}

static ratio_case make_ratio_case(int64_t index, int64_t n, random_stream *random)
{
    ratio_case r = {.n_channels = n, .panel_stride = 2 * AFT_PANEL + random_below(random, 3) * 7};
    const int64_t last = n - 1;
    r.sums = make_buffer(n > 0 ? last / AFT_PANEL * r.panel_stride + last % AFT_PANEL + ratio_width(&r, last) + 1 : 0,
                         side_of(index));
    r.out = make_buffer(n, side_of(index));
    for (int64_t c = 0; c < n; c++) {
        *den_of(&r, c) = draw_den(random);
        *num_of(&r, c) = draw_num(*den_of(&r, c), random);
    }
    keep_bits(&r.sums);
    return r;
}

static int run_ratio(ratio_case *r, const float *q, float *out)
{
    return kernels->aft_ratio(out, q, r->sums.data, r->panel_stride, r->n_channels, r->n_channels);
}

/* One ulp, at most 2^-23; exact for num = den. */
static int is_ratio(float got, float num, float den)
{
    const double want = (double)num / (double)den;
    return fabsf(num) == den ? got == num / den : is_close(got, want, 0x1p-23 * fabs(want) + 0x1p-149);
}

static void compare_ratio(const ratio_case *r, int64_t c)
{
    if (!is_ratio(r->out.data[c], *num_of(r, c), *den_of(r, c)))
        fail_case("channel %d: %a / %a gives %a", (int)c, (double)*num_of(r, c), (double)*den_of(r, c),
                  (double)r->out.data[c]);
}

/* One channel proves nothing: the call says so, and all others keep their bits. What stands in an infinite denominator
 * nobody asks: a sum of weights is none. */
static void doubt_channel(ratio_case *r, int64_t c, float num, float den)
{
    *num_of(r, c) = num;
    *den_of(r, c) = den;
    if (!run_ratio(r, NULL, r->out.data))
        fail_case("%a / %a in channel %d is no cause for doubt", (double)num, (double)den, (int)c);
    for (int64_t i = 0; i < r->n_channels; i++)
        if (i != c && !is_kept(&r->out, (size_t)i))
            fail_case("%a / %a in channel %d changes channel %d", (double)num, (double)den, (int)c, (int)i);
    if (!isfinite(num / den) && isfinite(r->out.data[c]))
        fail_case("channel %d: %a / %a gives %a", (int)c, (double)num, (double)den, (double)r->out.data[c]);
    restore_bits(&r->sums);
}

/* What proves nothing: pairs of num and den. */
static const float doubts[][2] = {{1e-30f, 0.0f},    {0.0f, 0.0f},       {0.0f, 1e-40f},
                                  {1e-30f, -1.0f},   {0.0f, -1.0f},      {1e-30f, NAN},
                                  {NAN, 1.0f},       {INFINITY, 1.0f},   {-INFINITY, 1.0f},
                                  {NAN, 0.0f},       {FLT_MAX, 1e-20f},  {-1e30f, AFT_SMALLEST_PROOF},
                                  {0.0f, 9.99e-27f}, {1e-30f, 9.99e-27f}};

enum { N_DOUBTS = sizeof doubts / sizeof doubts[0] };

static void doubt_each(ratio_case *r, int64_t c)
{
    for (int i = 0; i < N_DOUBTS; i++)
        doubt_channel(r, c, doubts[i][0], doubts[i][1]);
    doubt_channel(r, c, 0.0f, nextafterf(AFT_SMALLEST_PROOF, 0.0f));
}

/* With q the results are those without it behind the gate; it gives no cause for doubt, be it NaN. */
static void gate_ratio(ratio_case *r, guard_side side, random_stream *random)
{
    gate_case g = make_gate_case(r->n_channels, side, random);
    gate_results(&g, r->out.data);
    if (run_ratio(r, g.q.data, g.out.data))
        fail_case("with q all results are in doubt");
    for (int64_t i = 0; i < r->n_channels; i++)
        if (!same_value(g.out.data[i], g.want.data[i]))
            fail_case("channel %d: %a behind the gate of %a gives %a", (int)i, (double)r->out.data[i],
                      (double)g.q.data[i], (double)g.out.data[i]);
    if (r->n_channels > 0) {
        *den_of(r, random_below(random, r->n_channels)) = 0.0f;
        if (!run_ratio(r, g.q.data, g.out.data))
            fail_case("with q a denominator of 0 is no cause for doubt");
        restore_bits(&r->sums);
    }
    free_gate_case(&g);
}

/* num = den: exactly the sigmoid. */
static void open_ratio(ratio_case *r, guard_side side, random_stream *random)
{
    gate_case g = make_gate_case(r->n_channels, side, random);
    for (int64_t c = 0; c < r->n_channels; c++) {
        *num_of(r, c) = *den_of(r, c);
        r->out.data[c] = 1.0f;
    }
    gate_results(&g, r->out.data);
    run_ratio(r, g.q.data, g.out.data);
    for (int64_t c = 0; c < r->n_channels; c++)
        if (!same_value(g.out.data[c], g.want.data[c]))
            fail_case("channel %d: num = den = %a behind the gate of %a gives %a, want %a", (int)c,
                      (double)*den_of(r, c), (double)g.q.data[c], (double)g.out.data[c], (double)g.want.data[c]);
    restore_bits(&r->sums);
    free_gate_case(&g);
}

static void check_ratio_case(int64_t index, int64_t n)
{
    random_stream random = random_start((uint64_t)(75000 + index));
    ratio_case r = make_ratio_case(index, n, &random);
    describe_case("aft_ratio", "%d channels, panels %d apart", (int)n, (int)r.panel_stride);
    open_ratio(&r, side_of(index), &random);
    if (run_ratio(&r, NULL, r.out.data))
        fail_case("all results are in doubt");
    for (int64_t c = 0; c < n; c++)
        compare_ratio(&r, c);
    gate_ratio(&r, side_of(index), &random);
    keep_bits(&r.out);
    for (int64_t c = 0; c < n; c += n < 40 ? 1 : 1 + random_below(&random, n))
        doubt_each(&r, c);
    expect_kept(&r.sums, "sums");
    keep_bits(&r.out);
    expect_kept(&r.out, "out"); /* the canaries */
    free_buffer(&r.sums);
    free_buffer(&r.out);
}

void check_aft_ratio(void **state)
{
    (void)state;
    check_ratio_case(0, 0);
    for (int i = 0; i < 2 * n_channel_counts(); i++)
        check_ratio_case(1 + i, channel_count(i / 2));
}

/* ---- ratio_rows ---- */

enum { MAX_RATIO_ROWS = 32 };

typedef struct rows_case {
    source_rows sums, q, out;
    int64_t n_channels;
    int n_rows;
} rows_case;

/* A row of results at least; never one repeated. */
static rows_case make_rows_case(int64_t index, int n_rows, int64_t n_channels, random_stream *random)
{
    rows_case r = {.n_channels = n_channels, .n_rows = n_rows};
    r.sums = make_rows(n_rows, n_channels + 1, 1 + 5 * index, random);
    r.q = make_rows(n_rows, n_channels, 3 * index, random);
    r.out = make_rows(n_rows, n_channels, 1 + 5 * index, random);
    for (int t = 0; t < n_rows; t++) {
        float *row = r.sums.memory.data + t * r.sums.stride;
        row[n_channels] = draw_den(random);
        for (int64_t c = 0; c < n_channels; c++) {
            row[c] = draw_num(row[n_channels], random);
            r.q.memory.data[t * r.q.stride + c] = draw_gate(random);
        }
    }
    keep_bits(&r.sums.memory);
    keep_bits(&r.q.memory);
    return r;
}

static unsigned run_rows(rows_case *r, int has_gate)
{
    restore_bits(&r->out.memory);
    return kernels->ratio_rows(r->out.memory.data, r->out.stride, has_gate ? r->q.memory.data : NULL, r->q.stride,
                               r->sums.memory.data, r->sums.stride, r->n_rows, r->n_channels);
}

static void expect_rows_kept(const rows_case *r)
{
    const buffer *out = &r->out.memory;
    expect_kept(&r->sums.memory, "sums");
    expect_kept(&r->q.memory, "q");
    for (size_t i = 0; i < out->n_floats; i++)
        if ((int64_t)i % r->out.stride >= r->n_channels && !is_kept(out, i))
            fail_case("float %d behind row %d has changed", (int)((int64_t)i % r->out.stride),
                      (int)((int64_t)i / r->out.stride));
    if (!guarded_intact(&out->memory))
        fail_case("out: written outside its bounds");
}

static void compare_rows(const rows_case *r)
{
    for (int t = 0; t < r->n_rows; t++)
        for (int64_t c = 0; c < r->n_channels; c++) {
            const float num = row_value(&r->sums, t, c), den = row_value(&r->sums, t, r->n_channels);
            if (!is_ratio(row_value(&r->out, t, c), num, den))
                fail_case("row %d, channel %d: %a / %a gives %a", t, (int)c, (double)num, (double)den,
                          (double)row_value(&r->out, t, c));
        }
}

/* What stands behind the gate has the bits of gate_array. Takes the results without q. */
static void gate_rows(rows_case *r, unsigned doubts_of_rows)
{
    buffer want = make_buffer(r->n_rows * r->n_channels, GUARD_END);
    for (int t = 0; t < r->n_rows; t++)
        kernels->gate_array(want.data + t * r->n_channels, r->q.memory.data + t * r->q.stride,
                            r->out.memory.data + t * r->out.stride, r->n_channels);
    if (run_rows(r, 1) != doubts_of_rows)
        fail_case("with q other rows are in doubt");
    for (int t = 0; t < r->n_rows; t++)
        for (int64_t c = 0; c < r->n_channels; c++)
            if (!same_value(row_value(&r->out, t, c), want.data[t * r->n_channels + c]))
                fail_case("row %d, channel %d behind the gate of %a is %a, want %a", t, (int)c,
                          (double)row_value(&r->q, t, c), (double)row_value(&r->out, t, c),
                          (double)want.data[t * r->n_channels + c]);
    free_buffer(&want);
}

/* Some rows prove nothing, for another reason each: their bits are set, and the other rows keep theirs. */
static void doubt_rows(rows_case *r, random_stream *random)
{
    unsigned want = 0;
    buffer clean = make_buffer((int64_t)r->out.memory.n_floats, GUARD_END);
    memcpy(clean.data, r->out.memory.data, r->out.memory.n_floats * sizeof(float));
    for (int t = 0; t < r->n_rows; t++) {
        const int64_t kind = random_below(random, 2 * N_DOUBTS);
        float *row = r->sums.memory.data + t * r->sums.stride;
        if (kind >= N_DOUBTS)
            continue;
        row[random_below(random, r->n_channels)] = doubts[kind][0];
        row[r->n_channels] = doubts[kind][1];
        want |= 1U << t;
    }
    const unsigned got = run_rows(r, 0);
    if (got != want)
        fail_case("the rows in doubt are %x, want %x", got, want);
    for (int t = 0; t < r->n_rows; t++)
        for (int64_t c = 0; c < r->n_channels; c++)
            if (!(want >> t & 1) && !same_bits(row_value(&r->out, t, c), clean.data[t * r->out.stride + c]))
                fail_case("row %d, channel %d: other rows change it", t, (int)c);
    gate_rows(r, want);
    restore_bits(&r->sums.memory);
    free_buffer(&clean);
}

/* num = den: exactly the sigmoid, or 1. */
static void open_rows(rows_case *r)
{
    for (int t = 0; t < r->n_rows; t++)
        for (int64_t c = 0; c < r->n_channels; c++)
            r->sums.memory.data[t * r->sums.stride + c] = row_value(&r->sums, t, r->n_channels);
    if (run_rows(r, 0))
        fail_case("num = den is cause for doubt");
    for (int t = 0; t < r->n_rows; t++)
        for (int64_t c = 0; c < r->n_channels; c++)
            if (row_value(&r->out, t, c) != 1.0f)
                fail_case("row %d, channel %d: num = den gives %a", t, (int)c, (double)row_value(&r->out, t, c));
    gate_rows(r, 0);
    restore_bits(&r->sums.memory);
}

static void check_rows_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(77000 + index));
    rows_case r = make_rows_case(index, n_rows, n_channels, &random);
    describe_case("ratio_rows", "%d rows, %d channels, strides %d, %d, %d", n_rows, (int)n_channels, (int)r.out.stride,
                  (int)r.q.stride, (int)r.sums.stride);
    open_rows(&r);
    if (run_rows(&r, 0))
        fail_case("rows are in doubt");
    compare_rows(&r);
    gate_rows(&r, 0);
    run_rows(&r, 0);
    doubt_rows(&r, &random);
    expect_rows_kept(&r);
    free_buffer(&r.sums.memory);
    free_buffer(&r.q.memory);
    free_buffer(&r.out.memory);
}

void check_ratio_rows(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int n_rows = 0; n_rows <= MAX_RATIO_ROWS; n_rows++)
        check_rows_case(index++, n_rows, 1 + n_rows * 29 % 150);
    for (int i = 0; i < n_channel_counts(); i++)
        check_rows_case(index++, 1 + i * 7 % MAX_RATIO_ROWS, channel_count(i));
}
