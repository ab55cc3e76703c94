/* aft_row and aft_ratio: sums become results; and gate_array, whose bits both have where they gate. */
#include "kernel_checks/checks.h"

#include <float.h>

enum { MAX_LENGTH = 200 };

static const float spoilers[] = {NAN, INFINITY, -INFINITY};

/* ---- Gates ---- */

static float draw_gate(random_stream *random)
{
    static const float edges[] = {0.0f,    -0.0f,   INFINITY, -INFINITY, 1e30f, -1e30f, FLT_MAX, -FLT_MAX,
                                  FLT_MIN, -1e-45f, 1e-45f,   -1e-39f,   87.3f, -87.3f, -87.4f,  -88.8f,
                                  -104.0f, 88.8f,   104.0f,   -103.9f,   17.0f, -17.0f, NAN};
    const int64_t kind = random_below(random, 4);
    if (kind == 0)
        return edges[random_below(random, sizeof edges / sizeof edges[0])];
    if (kind == 1)
        return random_uniform(random, -110.0f, 110.0f);
    return kind == 2 ? 3.0f * random_normal(random)
                     : random_normal(random) * exp2f(random_uniform(random, -140.0f, 3.0f));
}

static float draw_gated(random_stream *random)
{
    static const float edges[] = {1.0f, -1.0f, 0.0f, -0.0f, NAN, 1e30f, -1e30f, 1e-39f, FLT_MAX};
    const int64_t kind = random_below(random, 20);
    return kind < 9 ? edges[kind] : random_normal(random);
}

/* Queries of all kinds, and what they make of results: the bits of gate_array. */
typedef struct gate_case {
    buffer q, out, want;
} gate_case;

static gate_case make_gate_case(int64_t n, guard_side side, random_stream *random)
{
    gate_case g = {make_buffer(n, side), make_buffer(n, side), make_buffer(n, side)};
    for (int64_t i = 0; i < n; i++)
        g.q.data[i] = draw_gate(random);
    keep_bits(&g.q);
    return g;
}

static void gate_results(gate_case *g, const float *results)
{
    kernels->gate_array(g->want.data, g->q.data, results, (int64_t)g->q.n_floats);
}

/* Looks at the canaries of `out`, and that q is kept. */
static void free_gate_case(gate_case *g)
{
    expect_kept(&g->q, "q");
    keep_bits(&g->out);
    expect_kept(&g->out, "out");
    free_buffer(&g->q);
    free_buffer(&g->out);
    free_buffer(&g->want);
}

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

typedef struct ratio_case {
    buffer num, den, out;
} ratio_case;

/* Denominators that prove something, down to the smallest. */
static void fill_ratio(ratio_case *r, int64_t c, random_stream *random)
{
    const int64_t kind = random_below(random, 8);
    const float den = kind == 0 ? AFT_SMALLEST_PROOF
                                : random_uniform(random, 1.0f, 2.0f) * exp2f((float)random_below(random, 146) - 86.0f);
    r->den.data[c] = den;
    r->num.data[c] = kind == 1 ? den : kind == 2 ? -den : kind == 3 ? 0.0f : den * random_normal(random);
}

static int run_ratio(ratio_case *r, const float *q, float *out)
{
    return kernels->aft_ratio(out, q, r->num.data, r->den.data, (int64_t)r->out.n_floats);
}

static void compare_ratio(const ratio_case *r, int64_t c)
{
    const float num = r->num.data[c], den = r->den.data[c], got = r->out.data[c];
    const double want = (double)num / (double)den;
    /* One ulp, at most 2^-23; exact for num = den. */
    if (fabsf(num) == den ? got != num / den : !is_close(got, want, 0x1p-23 * fabs(want) + 0x1p-149))
        fail_case("channel %d: %a / %a gives %a", (int)c, (double)num, (double)den, (double)got);
}

/* One channel proves nothing: the call says so, and all others keep their bits. What stands in an infinite denominator
 * nobody asks: a sum of weights is none. */
static void doubt_channel(ratio_case *r, int64_t c, float num, float den)
{
    const int64_t n = (int64_t)r->out.n_floats;
    r->num.data[c] = num;
    r->den.data[c] = den;
    if (!run_ratio(r, NULL, r->out.data))
        fail_case("%a / %a in channel %d is no cause for doubt", (double)num, (double)den, (int)c);
    for (int64_t i = 0; i < n; i++)
        if (i != c && !is_kept(&r->out, (size_t)i))
            fail_case("%a / %a in channel %d changes channel %d", (double)num, (double)den, (int)c, (int)i);
    if (!isfinite(num / den) && isfinite(r->out.data[c]))
        fail_case("channel %d: %a / %a gives %a", (int)c, (double)num, (double)den, (double)r->out.data[c]);
    restore_bits(&r->num);
    restore_bits(&r->den);
}

static void doubt_each(ratio_case *r, int64_t c)
{
    const float below[] = {0.0f, 1e-40f, nextafterf(AFT_SMALLEST_PROOF, 0.0f), -1.0f, NAN};
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++)
        doubt_channel(r, c, i % 2 ? 0.0f : 1e-30f, below[i]);
    for (int i = 0; i < 3; i++)
        doubt_channel(r, c, spoilers[i], 1.0f);
    doubt_channel(r, c, NAN, 0.0f);
    doubt_channel(r, c, FLT_MAX, 1e-20f);
    doubt_channel(r, c, -1e30f, AFT_SMALLEST_PROOF);
}

/* With q the results are those without it behind the gate; it gives no cause for doubt, be it NaN. */
static void gate_ratio(ratio_case *r, guard_side side, random_stream *random)
{
    gate_case g = make_gate_case((int64_t)r->out.n_floats, side, random);
    gate_results(&g, r->out.data);
    if (run_ratio(r, g.q.data, g.out.data))
        fail_case("with q all results are in doubt");
    for (size_t i = 0; i < r->out.n_floats; i++)
        if (!same_value(g.out.data[i], g.want.data[i]))
            fail_case("channel %d: %a behind the gate of %a gives %a", (int)i, (double)r->out.data[i],
                      (double)g.q.data[i], (double)g.out.data[i]);
    if (r->out.n_floats > 0) {
        r->den.data[random_below(random, (int64_t)r->out.n_floats)] = 0.0f;
        if (!run_ratio(r, g.q.data, g.out.data))
            fail_case("with q a denominator of 0 is no cause for doubt");
        restore_bits(&r->den);
    }
    free_gate_case(&g);
}

static void check_ratio_case(int64_t index, int64_t n)
{
    random_stream random = random_start((uint64_t)(75000 + index));
    ratio_case r = {make_buffer(n, side_of(index)), make_buffer(n, side_of(index)), make_buffer(n, side_of(index))};
    describe_case("aft_ratio", "%d channels", (int)n);
    for (int64_t c = 0; c < n; c++)
        fill_ratio(&r, c, &random);
    keep_bits(&r.num);
    keep_bits(&r.den);
    if (run_ratio(&r, NULL, r.out.data))
        fail_case("all results are in doubt");
    for (int64_t c = 0; c < n; c++)
        compare_ratio(&r, c);
    gate_ratio(&r, side_of(index), &random);
    keep_bits(&r.out);
    for (int64_t c = 0; c < n; c += n < 40 ? 1 : 1 + random_below(&random, n))
        doubt_each(&r, c);
    expect_kept(&r.num, "num");
    expect_kept(&r.den, "den");
    keep_bits(&r.out);
    expect_kept(&r.out, "out"); /* the canaries */
    free_buffer(&r.num);
    free_buffer(&r.den);
    free_buffer(&r.out);
}

void check_aft_ratio(void **state)
{
    (void)state;
    check_ratio_case(0, 0);
    for (int i = 0; i < 2 * n_channel_counts(); i++)
        check_ratio_case(1 + i, channel_count(i / 2));
}

/* ---- gate_array ---- */

/* One ulp of a result of this size. */
static double ulp_of(double x) { return ldexp(1.0, x < (double)FLT_MIN ? -149 : ilogb(x) - 23); }

/* The sigmoid to 3 ulp, or 0 below the smallest normal float as from all exponentials here; then the product. */
static int is_gated(float got, float q, float x)
{
    if (isnan(q) || isnan(x))
        return isnan(got);
    const double open = 1.0 / (1.0 + exp(-(double)q)), want = open * (double)x;
    if (got == 0.0f && open < (double)FLT_MIN)
        return 1;
    return is_close(got, want,
                    3.0 * ulp_of(open) * fabs((double)x) + HALF_ULP * fabs(want) * (1.0 + 0x1p-20) + 0x1p-150);
}

static void check_gate_case(int n, guard_side side, random_stream *random)
{
    buffer q = make_buffer(n, side), x = make_buffer(n, side), out = make_buffer(n, side);
    describe_case("gate_array", "n = %d", n);
    for (int i = 0; i < n; i++) {
        q.data[i] = draw_gate(random);
        x.data[i] = draw_gated(random);
    }
    keep_bits(&q);
    keep_bits(&x);
    kernels->gate_array(out.data, q.data, x.data, n);
    for (int i = 0; i < n; i++) {
        float alone = 0.0f;
        kernels->gate_array(&alone, &q.data[i], &x.data[i], 1);
        if (!is_gated(out.data[i], q.data[i], x.data[i]))
            fail_case("element %d: q = %a, x = %a gives %a", i, (double)q.data[i], (double)x.data[i],
                      (double)out.data[i]);
        if (!same_value(out.data[i], alone))
            fail_case("element %d has other bits alone than in the row", i);
    }
    expect_kept(&q, "q");
    expect_kept(&x, "x");
    keep_bits(&out);
    expect_kept(&out, "out");
    kernels->gate_array(x.data, q.data, x.data, n);
    for (int i = 0; i < n; i++)
        if (!same_value(x.data[i], out.data[i]))
            fail_case("in place of x: element %d differs", i);
    expect_kept(&q, "q");
    keep_bits(&x);
    expect_kept(&x, "x");
    free_buffer(&q);
    free_buffer(&x);
    free_buffer(&out);
}

/* Every 4099th float of either sign, a prime, so that all mantissas get a turn. */
static void walk_gates(void)
{
    enum { CHUNK = 1024, STEP = 4099 };
    static float q[CHUNK], x[CHUNK], out[CHUNK];
    describe_case("gate_array", "all exponents");
    for (int64_t first = 0; first <= UINT32_MAX; first += (int64_t)CHUNK * STEP) {
        for (int i = 0; i < CHUNK; i++) {
            const uint32_t bits = (uint32_t)(first + (int64_t)i * STEP);
            memcpy(&q[i], &bits, sizeof bits);
            x[i] = i % 2 ? 1.0f : -1.0f;
        }
        kernels->gate_array(out, q, x, CHUNK);
        for (int i = 0; i < CHUNK; i++)
            if (!is_gated(out[i], q[i], x[i]))
                fail_case("sigmoid(%a) = %a", (double)q[i], (double)out[i] * (double)x[i]);
    }
}

void check_gate_array(void **state)
{
    (void)state;
    random_stream random = random_start(74000);
    for (int n = 0; n <= MAX_LENGTH; n++)
        for (int side = 0; side < 2; side++)
            check_gate_case(n, side_of(side), &random);
    walk_gates();
}
