/* Kernels over plain rows of floats: exp2_array, exp_array, blend_rows, the layers of feature maps and their slopes
 * (elu1_array to favor_slope_array, and favor_rows), and the ways into and out of a tile, pack_tile and output_tile, and transpose. */
#include "kernel_checks/checks.h"

#include <float.h>

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

/* ---- Layers of feature maps, and their slopes ---- */

enum { MAX_INPUTS = 3 };

/* A kernel of inputs element by element, with parameters a and b; the result may take the place of any input. */
typedef struct layer_kernel {
    const char *name;
    int n_inputs;
    int walks; /* over floats of all exponents, as first input beside ones */
    void (*run)(float *out, float *const in[MAX_INPUTS], float a, float b, int64_t n);
    int (*is_right)(float got, const float x[MAX_INPUTS], float a, float b);
} layer_kernel;

static float draw_input(random_stream *random)
{
    static const float edges[] = {0.0f,    -0.0f,   INFINITY, -INFINITY, 1e30f,    -1e30f,    FLT_MAX, -88.0f, 88.8f,
                                  FLT_MIN, -1e-45f, 1e-45f,   -1e-39f,   -FLT_MAX, -104.0f,   104.0f,  1.0f,   -1.0f,
                                  -87.33f, -87.34f, NAN,      -87.68f,   -88.1f,   -87.3365f, -103.9f, 16.7f,  -16.7f};
    const int64_t kind = random_below(random, 8);
    if (kind == 0)
        return edges[random_below(random, sizeof edges / sizeof edges[0])];
    if (kind < 3)
        return random_uniform(random, -110.0f, 20.0f);
    return kind < 6 ? 3.0f * random_normal(random)
                    : random_normal(random) * exp2f(random_uniform(random, -140.0f, 3.0f));
}

static double ulp_of(double x) { return ldexp(1.0, x < (double)FLT_MIN ? -149 : ilogb(x) - 23); }

/* By how much an exponential may be off: 2 ulp, or all of it where it is not a normal float. */
static double exponential_error(double want) { return want < (double)FLT_MIN ? want : 2.0 * ulp_of(want); }

/* One element at a time, whatever stands beside it; inputs are kept. */
static void run_layer(const layer_kernel *k, buffer in[MAX_INPUTS], buffer *out, float a, float b, int n)
{
    float *const whole[MAX_INPUTS] = {in[0].data, in[1].data, in[2].data};
    k->run(out->data, whole, a, b, n);
    for (int i = 0; i < n; i++) {
        float x[MAX_INPUTS] = {in[0].data[i], in[1].data[i], in[2].data[i]}, alone = 0.0f;
        float *const one[MAX_INPUTS] = {&x[0], &x[1], &x[2]};
        if (!k->is_right(out->data[i], x, a, b))
            fail_case("element %d: f(%a, %a, %a) = %a with %a, %a", i, (double)x[0], (double)x[1], (double)x[2],
                      (double)out->data[i], (double)a, (double)b);
        k->run(&alone, one, a, b, 1);
        if (!same_value(alone, out->data[i]))
            fail_case("element %d has other bits alone than in the row", i);
    }
    for (int input = 0; input < MAX_INPUTS; input++)
        expect_kept(&in[input], "an input");
    keep_bits(out);
    expect_kept(out, "out"); /* the canaries */
}

static void run_layer_in_place(const layer_kernel *k, buffer in[MAX_INPUTS], const buffer *out, float a, float b, int n)
{
    float *const whole[MAX_INPUTS] = {in[0].data, in[1].data, in[2].data};
    for (int input = 0; input < k->n_inputs; input++) {
        k->run(in[input].data, whole, a, b, n);
        for (int i = 0; i < n; i++)
            if (!same_value(in[input].data[i], out->data[i]))
                fail_case("in place of input %d: element %d differs", input, i);
        restore_bits(&in[input]);
        for (int other = 0; other < MAX_INPUTS; other++)
            expect_kept(&in[other], "an input");
    }
}

static void check_layer_case(const layer_kernel *k, int n, guard_side side, random_stream *random)
{
    static const float parameters[] = {0.0f, 1.0f, 1e-3f, 0.25f};
    const float a = random_below(random, 2) ? parameters[random_below(random, 4)] : random_uniform(random, -2.0f, 2.0f),
                b = random_below(random, 2) ? parameters[random_below(random, 4)] : random_uniform(random, 0.0f, 2.0f);
    buffer in[MAX_INPUTS], out = make_buffer(n, side);
    describe_case(k->name, "n = %d", n);
    for (int input = 0; input < MAX_INPUTS; input++) {
        in[input] = make_buffer(n, side);
        for (int i = 0; i < n; i++)
            in[input].data[i] = draw_input(random);
        keep_bits(&in[input]);
    }
    run_layer(k, in, &out, a, b, n);
    run_layer_in_place(k, in, &out, a, b, n);
    for (int input = 0; input < MAX_INPUTS; input++)
        free_buffer(&in[input]);
    free_buffer(&out);
}

/* Every 4099th float of either sign, a prime, so that all mantissas get a turn. */
static void walk_layer(const layer_kernel *k)
{
    enum { CHUNK = 1024, STEP = 4099 };
    static float x[CHUNK], ones[CHUNK], out[CHUNK];
    float *const in[MAX_INPUTS] = {x, ones, ones};
    describe_case(k->name, "all exponents");
    for (int64_t first = 0; first <= UINT32_MAX; first += (int64_t)CHUNK * STEP) {
        for (int i = 0; i < CHUNK; i++) {
            const uint32_t bits = (uint32_t)(first + (int64_t)i * STEP);
            memcpy(&x[i], &bits, sizeof bits);
            ones[i] = 1.0f;
        }
        k->run(out, in, 0.5f, 0.25f, CHUNK);
        for (int i = 0; i < CHUNK; i++) {
            const float inputs[MAX_INPUTS] = {x[i], 1.0f, 1.0f};
            if (!k->is_right(out[i], inputs, 0.5f, 0.25f))
                fail_case("f(%a) = %a", (double)x[i], (double)out[i]);
        }
    }
}

/* And a line through the numbers where exponentials live, every float of which is near the next one's. */
static void walk_layer_line(const layer_kernel *k)
{
    enum { CHUNK = 1000 };
    static float x[CHUNK], ones[CHUNK], out[CHUNK];
    float *const in[MAX_INPUTS] = {x, ones, ones};
    describe_case(k->name, "-110 to 110");
    for (int first = -110; first < 110; first++) {
        for (int i = 0; i < CHUNK; i++) {
            x[i] = (float)first + (float)i / CHUNK;
            ones[i] = 1.0f;
        }
        k->run(out, in, 0.5f, 0.25f, CHUNK);
        for (int i = 0; i < CHUNK; i++) {
            const float inputs[MAX_INPUTS] = {x[i], 1.0f, 1.0f};
            if (!k->is_right(out[i], inputs, 0.5f, 0.25f))
                fail_case("f(%a) = %a", (double)x[i], (double)out[i]);
        }
    }
}

static void check_layer(const layer_kernel *k, uint64_t stream)
{
    random_stream random = random_start(stream);
    for (int n = 0; n <= MAX_LENGTH; n++)
        for (int side = 0; side < 2; side++)
            check_layer_case(k, n, side_of(side), &random);
    if (k->walks) {
        walk_layer(k);
        walk_layer_line(k);
    }
}

/* ---- elu1_array, relu_array, softplus_array ---- */

static void run_elu1(float *out, float *const in[MAX_INPUTS], float a, float b, int64_t n)
{
    (void)a;
    (void)b;
    kernels->elu1_array(out, in[0], n);
}

static int is_elu1(float got, const float x[MAX_INPUTS], float a, float b)
{
    (void)a;
    (void)b;
    if (!(x[0] <= 0.0f))
        return same_value(got, x[0] + 1.0f);
    const double want = exp((double)x[0]);
    return got >= 0.0f && is_close(got, want, exponential_error(want));
}

void check_elu1_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"elu1_array", 1, 1, run_elu1, is_elu1}, 33000);
}

static void run_relu(float *out, float *const in[MAX_INPUTS], float factor, float eps, int64_t n)
{
    kernels->relu_array(out, in[0], factor, eps, n);
}

/* Product and sum are rounded once each, on every ISA; NaN stays NaN. */
static int is_relu(float got, const float x[MAX_INPUTS], float factor, float eps)
{
    const float product = x[0] * factor;
    return same_value(got, product < 0.0f ? eps : product + eps);
}

void check_relu_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"relu_array", 1, 1, run_relu, is_relu}, 33100);
}

static void run_softplus(float *out, float *const in[MAX_INPUTS], float a, float b, int64_t n)
{
    (void)a;
    (void)b;
    kernels->softplus_array(out, in[0], n);
}

/* Below the smallest normal float 0, or what the exponential still has there. */
static int is_softplus(float got, const float x[MAX_INPUTS], float a, float b)
{
    (void)a;
    (void)b;
    const double at = x[0], want = at > 0.0 ? at + log1p(exp(-at)) : log1p(exp(at));
    if (want < (double)FLT_MIN && got == 0.0f)
        return 1;
    return is_close(got, want, isfinite(want) ? 3.0 * ulp_of(want) : 0.0);
}

void check_softplus_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"softplus_array", 1, 1, run_softplus, is_softplus}, 33200);
}

/* ---- elu1_slope_array, relu_slope_array, gate_slope_array, favor_slope_array ---- */

static void run_elu1_slope(float *out, float *const in[MAX_INPUTS], float a, float b, int64_t n)
{
    (void)a;
    (void)b;
    kernels->elu1_slope_array(out, in[0], in[1], n);
}

static int is_elu1_slope(float got, const float x[MAX_INPUTS], float a, float b)
{
    (void)a;
    (void)b;
    if (isnan(x[0]) || isnan(x[1]))
        return isnan(got);
    if (x[0] > 0.0f)
        return same_value(got, x[1]);
    const double slope = exp((double)x[0]), want = slope * x[1];
    if (isinf(x[1])) /* a slope of 0 makes NaN of it */
        return slope < (double)FLT_MIN ? !isfinite(got) : got == x[1];
    return is_close(got, want,
                    exponential_error(slope) * fabs((double)x[1]) + HALF_ULP * fabs(want) * (1.0 + 0x1p-20) + 0x1p-149);
}

void check_elu1_slope_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"elu1_slope_array", 2, 1, run_elu1_slope, is_elu1_slope}, 33300);
}

static void run_relu_slope(float *out, float *const in[MAX_INPUTS], float factor, float b, int64_t n)
{
    (void)b;
    kernels->relu_slope_array(out, in[0], in[1], factor, n);
}

static int is_relu_slope(float got, const float x[MAX_INPUTS], float factor, float b)
{
    (void)b;
    return same_value(got, x[0] > 0.0f ? x[1] * factor : 0.0f);
}

void check_relu_slope_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"relu_slope_array", 2, 1, run_relu_slope, is_relu_slope}, 33400);
}

static void run_gate_slope(float *out, float *const in[MAX_INPUTS], float a, float b, int64_t n)
{
    (void)a;
    (void)b;
    kernels->gate_slope_array(out, in[0], in[1], in[2], n);
}

/* Two sigmoids to 3 ulp each, and three products; the slope may be 0 below the smallest normal float. */
static int is_gate_slope(float got, const float x[MAX_INPUTS], float a, float b)
{
    (void)a;
    (void)b;
    const float product = x[1] * x[2];
    if (isnan(x[0]) || isnan(product))
        return isnan(got);
    if (isinf(product))
        return !isfinite(got);
    const double e = exp(-fabs((double)x[0])), slope = e / ((1.0 + e) * (1.0 + e)), want = slope * x[1] * x[2];
    const double lost = slope < (double)FLT_MIN ? slope : 0.0;
    return is_close(got, want,
                    8.0 * 0x1p-23 * fabs(want) + (lost + 0x1p-149) * fabs((double)product) + 0x1p-149 * (1.0 + slope));
}

void check_gate_slope_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"gate_slope_array", 3, 1, run_gate_slope, is_gate_slope}, 33500);
}

static void run_favor_slope(float *out, float *const in[MAX_INPUTS], float a, float factor, int64_t n)
{
    (void)a;
    kernels->favor_slope_array(out, in[0], in[1], factor, n);
}

/* Two products, in this order, rounded once each on every ISA. */
static int is_favor_slope(float got, const float x[MAX_INPUTS], float a, float factor)
{
    (void)a;
    const float slope = x[0] * factor;
    if (!same_value(got, x[1] * slope))
        return 0;
    const double want = (double)x[0] * factor * x[1];
    if (!isfinite(slope) || !(fabs(want) < (double)FLT_MAX / 2))
        return 1;
    return is_close(got, want,
                    2.0 * HALF_ULP * fabs(want) * (1.0 + 0x1p-20) + 0x1p-149 * fabs((double)x[1]) + 0x1p-149);
}

void check_favor_slope_array(void **state)
{
    (void)state;
    check_layer(&(layer_kernel){"favor_slope_array", 2, 1, run_favor_slope, is_favor_slope}, 33600);
}

/* ---- favor_rows ---- */

typedef struct favor_case {
    buffer y, shift;
    int64_t panel_stride, n_channels;
    int n_rows, has_shift;
    float factor, eps, scale;
} favor_case;

static int64_t panel_width(const favor_case *f, int64_t panel)
{
    const int64_t left = f->n_channels - panel * FEATURE_PANEL;
    return left < FEATURE_PANEL ? left : FEATURE_PANEL;
}

/* Where in y a feature stands. */
static int64_t feature_place(const favor_case *f, int t, int64_t c)
{
    const int64_t panel = c / FEATURE_PANEL;
    return panel * f->panel_stride + t * panel_width(f, panel) + c % FEATURE_PANEL;
}

/* Some exponents overflow, some are far below; a shift is infinite where the squares of a row are. */
static void fill_favor(favor_case *f, random_stream *random)
{
    const float shifts[] = {INFINITY, -INFINITY, NAN, 1e30f, -1e30f, FLT_MAX};
    const float spoilers[] = {INFINITY, -INFINITY, NAN, FLT_MAX, -FLT_MAX};
    for (int t = 0; t < f->n_rows; t++) {
        const float size = random_below(random, 4) == 0 ? 50.0f : 2.0f;
        const int64_t kind = random_below(random, 4 * sizeof shifts / sizeof shifts[0]);
        f->shift.data[t] = kind < 6 ? shifts[kind] : size * random_normal(random);
        for (int64_t c = 0; c < f->n_channels; c++)
            f->y.data[feature_place(f, t, c)] = size * random_normal(random);
        if (random_below(random, 4) == 0)
            f->y.data[feature_place(f, t, random_below(random, f->n_channels))] = spoilers[random_below(random, 5)];
        for (int64_t c = 0; random_below(random, 16) == 0 && c < f->n_channels; c++)
            f->y.data[feature_place(f, t, c)] = t % 2 ? NAN : -INFINITY; /* nothing that is largest */
    }
}

static favor_case make_favor_case(int64_t index, int n_rows, int64_t n_channels, random_stream *random)
{
    const float epsilons[] = {0.0f, 1e-4f, 0.5f};
    favor_case f = {.n_rows = n_rows, .n_channels = n_channels, .has_shift = index % 2 == 0};
    const int64_t last = (n_channels - 1) / FEATURE_PANEL;
    f.panel_stride = (int64_t)n_rows * FEATURE_PANEL + random_below(random, 6);
    f.y = make_buffer(n_rows > 0 ? last * f.panel_stride + n_rows * panel_width(&f, last) : 0, side_of(index / 2));
    f.shift = make_buffer(n_rows, side_of(index));
    f.factor = random_uniform(random, 0.1f, 1.0f);
    f.eps = epsilons[random_below(random, 3)];
    f.scale = random_uniform(random, 0.05f, 1.0f);
    fill_favor(&f, random);
    keep_bits(&f.y);
    keep_bits(&f.shift);
    return f;
}

/* The shift of a row; NaN has none but itself. */
static double shift_of(const favor_case *f, int t)
{
    if (f->has_shift)
        return f->shift.data[t];
    double largest = -INFINITY;
    for (int64_t c = 0; c < f->n_channels; c++)
        largest = fmax(largest, f->y.before[feature_place(f, t, c)]);
    return largest * f->factor;
}

/* The product, the shift and the difference round, and then the exponential to 2 ulp, the sum and the product. */
static void compare_feature(const favor_case *f, int t, int64_t c, double shift)
{
    const float y = f->y.before[feature_place(f, t, c)], got = f->y.data[feature_place(f, t, c)];
    const double product = (double)f->factor * y, exponent = product - shift, power = exp(exponent);
    const double want = (power + f->eps) * f->scale;
    int is_right;
    if (y == INFINITY && shift == INFINITY) {
        is_right = !isfinite(got);
    } else if (exponent > 88.0) {
        is_right = got >= 1e38f * f->scale && (exponent < 89.1 || isinf(got));
    } else {
        double tolerance = 0.0;
        if (power > 0.0) {
            const double off = HALF_ULP * (fabs(product) + fabs(shift) + fabs(exponent)) * (1.0 + 0x1p-20);
            tolerance = f->scale * (power < (double)FLT_MIN ? 2.0 * (double)FLT_MIN : power * (0x1p-22 + expm1(off)));
        }
        is_right = is_close(got, want, tolerance + 2.0 * HALF_ULP * fabs(want) * (1.0 + 0x1p-20) + 0x1p-149);
    }
    if (!is_right)
        fail_case("row %d, channel %d: %a with a shift of %a, eps %a, factor %a, scale %a is %a, want %a", t, (int)c,
                  (double)y, shift, (double)f->eps, (double)f->factor, (double)f->scale, (double)got, want);
}

/* A row by itself has the bits it has among others. */
static void favor_alone(const favor_case *f, int t)
{
    buffer row = make_buffer(f->n_channels, side_of(t));
    for (int64_t c = 0; c < f->n_channels; c++)
        row.data[c] = f->y.before[feature_place(f, t, c)];
    kernels->favor_rows(row.data, FEATURE_PANEL, f->has_shift ? f->shift.data + t : NULL, f->factor, f->eps, f->scale,
                        1, f->n_channels);
    for (int64_t c = 0; c < f->n_channels; c++)
        if (!same_value(row.data[c], f->y.data[feature_place(f, t, c)]))
            fail_case("row %d, channel %d has other bits alone", t, (int)c);
    keep_bits(&row);
    expect_kept(&row, "y");
    free_buffer(&row);
}

/* Only the rows of the panels may have changed. */
static void expect_panel_gaps_kept(const favor_case *f)
{
    for (size_t i = 0; i < f->y.n_floats; i++) {
        const int64_t panel = (int64_t)i / f->panel_stride;
        if ((int64_t)i % f->panel_stride >= f->n_rows * panel_width(f, panel) && !is_kept(&f->y, i))
            fail_case("float %d behind panel %d has changed", (int)i, (int)panel);
    }
    if (!guarded_intact(&f->y.memory))
        fail_case("y: written outside its bounds");
}

static void check_favor_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(34000 + index));
    favor_case f = make_favor_case(index, n_rows, n_channels, &random);
    describe_case("favor_rows", "case %d, %d rows, %d channels, panels %d apart", (int)index, n_rows, (int)n_channels,
                  (int)f.panel_stride);
    kernels->favor_rows(f.y.data, f.panel_stride, f.has_shift ? f.shift.data : NULL, f.factor, f.eps, f.scale, n_rows,
                        n_channels);
    for (int t = 0; t < n_rows; t++) {
        const double shift = shift_of(&f, t);
        for (int64_t c = 0; c < n_channels; c++)
            compare_feature(&f, t, c, shift);
        favor_alone(&f, t);
    }
    expect_panel_gaps_kept(&f);
    expect_kept(&f.shift, "shift");
    free_buffer(&f.y);
    free_buffer(&f.shift);
}

void check_favor_rows(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int n_rows = 0; n_rows <= 7; n_rows++)
        for (int i = 0; i < n_channel_counts(); i++)
            check_favor_case(index++, n_rows, channel_count(i));
    for (int i = 0; i < n_key_counts(); i++, index++)
        check_favor_case(index, key_count(i), 1 + index * 29 % 150);
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

/* ---- transpose ---- */

/* Both matrices have gaps between their rows, which stay, and end before the page in turn. */
static void check_transpose_case(int64_t index, int64_t n_rows, int64_t n_columns, random_stream *random)
{
    const int64_t x_stride = n_columns + random_below(random, 4), t_stride = n_rows + random_below(random, 4);
    buffer x = make_buffer((n_rows - 1) * x_stride + n_columns, side_of(index));
    buffer t = make_buffer((n_columns - 1) * t_stride + n_rows, side_of(index + 1));
    fill_floats(x.data, (int64_t)x.n_floats, 1.0f, random);
    fill_floats(t.data, (int64_t)t.n_floats, 1.0f, random);
    x.data[random_below(random, n_rows) * x_stride + random_below(random, n_columns)] = index % 2 ? NAN : -INFINITY;
    keep_bits(&x);
    keep_bits(&t);
    describe_case("transpose", "%d rows, %d columns", (int)n_rows, (int)n_columns);
    kernels->transpose(t.data, t_stride, x.data, x_stride, n_rows, n_columns);
    for (int64_t i = 0; i < (int64_t)t.n_floats; i++) {
        const int64_t c = i / t_stride, r = i % t_stride;
        const float want = r < n_rows ? x.data[r * x_stride + c] : t.before[i];
        if (!same_value(t.data[i], want))
            fail_case("row %d, column %d: %a, want %a", (int)r, (int)c, (double)t.data[i], (double)want);
    }
    expect_kept(&x, "x");
    free_buffer(&x);
    free_buffer(&t);
}

void check_transpose(void **state)
{
    (void)state;
    random_stream random = random_start(33000);
    int64_t index = 0;
    for (int64_t n_rows = 1; n_rows <= 35; n_rows++)
        for (int64_t n_columns = 1; n_columns <= 35; n_columns += 1 + random_below(&random, 5))
            check_transpose_case(index++, n_rows, n_columns, &random);
    for (int i = 0; i < n_channel_counts(); i++)
        check_transpose_case(index++, channel_count(i), 1 + random_below(&random, 70), &random);
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
