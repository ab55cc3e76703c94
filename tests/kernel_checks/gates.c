/* gate_array, and stream_gate and stream_fence, which have its bits. */
#include "kernel_checks/gates.h"

#include "kernel_checks/checks.h"

#include <float.h>

enum { MAX_LENGTH = 200 };

/* ---- Gates ---- */

float draw_gate(random_stream *random)
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

gate_case make_gate_case(int64_t n, guard_side side, random_stream *random)
{
    gate_case g = {make_buffer(n, side), make_buffer(n, side), make_buffer(n, side)};
    for (int64_t i = 0; i < n; i++)
        g.q.data[i] = draw_gate(random);
    keep_bits(&g.q);
    return g;
}

void gate_results(gate_case *g, const float *results)
{
    kernels->gate_array(g->want.data, g->q.data, results, (int64_t)g->q.n_floats);
}

void free_gate_case(gate_case *g)
{
    expect_kept(&g->q, "q");
    keep_bits(&g->out);
    expect_kept(&g->out, "out");
    free_buffer(&g->q);
    free_buffer(&g->out);
    free_buffer(&g->want);
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
    if (open < (double)FLT_MIN)
        return got == 0.0f;
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

/* ---- stream_gate and stream_fence ---- */

/* `shift` floats from the guarded end, so that the first float of out has every place in a vector. */
static void check_stream_case(int64_t n, int64_t shift, guard_side side, random_stream *random)
{
    buffer q = make_buffer(n, side), x = make_buffer(n, side), want = make_buffer(n, side),
           out = make_buffer(n + shift, side);
    float *first = side == GUARD_START ? out.data + shift : out.data;
    describe_case("stream_gate", "n = %d, %d floats from the edge", (int)n, (int)shift);
    for (int64_t i = 0; i < n; i++) {
        q.data[i] = draw_gate(random);
        x.data[i] = draw_gated(random);
    }
    keep_bits(&q);
    keep_bits(&x);
    keep_bits(&out);
    kernels->gate_array(want.data, q.data, x.data, n);
    kernels->stream_gate(first, q.data, x.data, n);
    kernels->stream_fence();
    for (int64_t i = 0; i < n; i++)
        if (!same_bits(first[i], want.data[i]) && !(isnan(first[i]) && isnan(want.data[i])))
            fail_case("element %d: q = %a, x = %a gives %a, gate_array %a", (int)i, (double)q.data[i],
                      (double)x.data[i], (double)first[i], (double)want.data[i]);
    kernels->stream_gate(first, NULL, x.data, n);
    kernels->stream_fence();
    for (int64_t i = 0; i < n; i++)
        if (!same_bits(first[i], x.data[i]))
            fail_case("element %d without q: %a, want %a", (int)i, (double)first[i], (double)x.data[i]);
    expect_kept(&q, "q");
    expect_kept(&x, "x");
    memcpy(first, out.before + (first - out.data), (size_t)n * sizeof(float));
    expect_kept(&out, "out"); /* nothing but the n floats was written */
    free_buffer(&q);
    free_buffer(&x);
    free_buffer(&want);
    free_buffer(&out);
}

void check_stream_gate(void **state)
{
    (void)state;
    random_stream random = random_start(76000);
    for (int n = 0; n <= MAX_LENGTH; n++)
        for (int shift = 0; shift <= kernels->vector_lanes; shift++)
            check_stream_case(n, shift, side_of(n + shift), &random);
    for (int i = 0; i < n_channel_counts(); i++)
        check_stream_case(channel_count(i), 0, GUARD_START, &random);
}

/* Orders what is stored, and stores nothing. */
void check_stream_fence(void **state)
{
    (void)state;
    describe_case("stream_fence", "alone, and behind a store");
    buffer out = make_buffer(64, GUARD_START);
    kernels->stream_fence();
    expect_kept(&out, "out");
    for (int i = 0; i < 64; i++)
        out.before[i] = (float)i;
    kernels->stream_gate(out.data, NULL, out.before, 64);
    kernels->stream_fence();
    kernels->stream_fence();
    expect_kept(&out, "out");
    free_buffer(&out);
}
