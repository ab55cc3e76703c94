/* mix_rows, scale_rows and tap_rows: sums and factors of rows whose channels lie in the lanes, and weights for them.
 * dot_rows, divide_rows and finite_rows, which look at such rows one by one. */
#include "kernel_checks/checks.h"

#include <float.h>
#include <stdlib.h>

enum { MAX_ROWS = 13 }; /* two whole tiles of rows and one row, and all that is less */

/* ---- mix_rows ---- */

/* How the rows of weights follow each other. */
typedef enum {
    APART,      /* a row of their own each, with a gap */
    OVERLAPPED, /* row t reads p[j + t] */
    TOEPLITZ,   /* row t reads p[j - t] */
    SHARED,     /* one row for all */
    STEPPED,    /* as tap_rows leaves them: one column for each key, and more rows in it than are asked for */
    N_LAYOUTS
} weight_layout;

typedef struct mix_case {
    buffer p, rescale;
    source_rows o, e;
    const float *scales;  /* rescale, or NULL: then o is NaN before */
    const float *weights; /* of row 0, in p */
    int64_t p_stride, p_step, n_channels;
    int n_keys, n_rows;
} mix_case;

/* Where in p a weight stands. */
static int64_t place_of(const mix_case *m, int t, int j)
{
    return m->weights - m->p.data + t * m->p_stride + j * m->p_step;
}

static void fill_weights(mix_case *m, weight_layout layout, int64_t index, random_stream *random)
{
    const int64_t strides[N_LAYOUTS] = {m->n_keys + random_below(random, 4), 1, -1, 0, 1};
    m->p_stride = strides[layout];
    m->p_step = layout == STEPPED ? m->n_rows + random_below(random, 4) : 1;
    const int64_t span = m->n_rows > 0 ? (m->n_rows - 1) * llabs(m->p_stride) : 0;
    m->p = make_buffer(m->n_keys > 0 ? span + (m->n_keys - 1) * m->p_step + 1 : 0, side_of(index));
    m->weights = m->p.data + (m->p_stride < 0 && m->n_keys > 0 ? span : 0);
    for (int t = 0; t < m->n_rows; t++)
        for (int j = 0; j < m->n_keys; j++)
            m->p.data[place_of(m, t, j)] = random_uniform(random, 0.0f, 1.0f);
    keep_bits(&m->p);
}

/* Results: never one row repeated. */
static source_rows make_results(int n_rows, int64_t n_channels, int64_t index, random_stream *random)
{
    return make_rows(n_rows, n_channels, 1 + 5 * index, random);
}

static mix_case make_mix_case(int64_t index, int n_keys, int n_rows, int64_t n_channels, random_stream *random)
{
    mix_case m = {.n_keys = n_keys, .n_rows = n_rows, .n_channels = n_channels};
    const weight_layout layout = (weight_layout)random_below(random, N_LAYOUTS);
    m.o = make_results(n_rows, n_channels, index, random);
    m.e = make_rows(n_keys, n_channels, index, random);
    m.rescale = make_buffer(n_rows, side_of(index));
    for (int t = 0; t < n_rows; t++)
        m.rescale.data[t] = (float)random_below(random, 3) / 2.0f * random_uniform(random, 0.5f, 1.0f);
    fill_weights(&m, layout, index, random);
    keep_bits(&m.rescale);
    m.scales = index % 3 == 2 ? NULL : m.rescale.data;
    for (size_t i = 0; m.scales == NULL && i < m.o.memory.n_floats; i++)
        m.o.memory.data[i] = NAN;
    keep_bits(&m.o.memory);
    return m;
}

static void free_mix_case(mix_case *m)
{
    free_buffer(&m->p);
    free_buffer(&m->rescale);
    free_buffer(&m->o.memory);
    free_buffer(&m->e.memory);
}

static float weight_of(const mix_case *m, int t, int j) { return m->p.data[place_of(m, t, j)]; }

/* In half of the cases rows are asked for, which nothing needs to stand behind. */
static void run_mix(mix_case *m)
{
    const heed_ahead ahead = {m->weights, m->e.memory.data, m->p_stride, INT64_MAX / 3, -1000000};
    restore_bits(&m->o.memory);
    kernels->mix_rows(m->o.memory.data, m->o.stride, m->scales, m->weights, m->p_stride, m->p_step, m->e.memory.data,
                      m->e.stride, m->n_keys, m->n_rows, m->n_channels, m->n_keys % 2 ? &ahead : NULL);
}

/* Twice: in double, with the bound of a sum of n_keys + 1 products; and in float in the order of the keys from zero,
 * where only joining the sum to o rescale rounds, once, or twice where it is not fused. Without rescale nothing is
 * joined. */
static void compare_element(const mix_case *m, int t, int64_t c)
{
    const double old = m->scales ? (double)m->o.memory.before[t * m->o.stride + c] * m->scales[t] : 0.0;
    const int fused = kernels->vector_lanes > 1;
    double want = old, magnitude = fabs(old);
    float sum = 0.0f;
    for (int j = 0; j < m->n_keys; j++) {
        const float p = weight_of(m, t, j), e = row_value(&m->e, j, c), product = p * e;
        sum = fused ? fmaf(p, e, sum) : product + sum;
        want += (double)p * e;
        magnitude += fabs((double)p * e);
    }
    const float got = row_value(&m->o, t, c);
    if (magnitude < (double)FLT_MAX && !is_close(got, want, sum_bound(m->n_keys + 1, magnitude)))
        fail_case("row %d, channel %d: %a, want %a", t, (int)c, (double)got, want);
    const double rounding = m->scales ? HALF_ULP * (fabs(old) + fabs(old + sum)) + 0x1p-149 : 0.0;
    if (!is_close(got, old + sum, rounding))
        fail_case("row %d, channel %d: %a, want %a from a sum in the order of the keys", t, (int)c, (double)got,
                  old + sum);
}

static void compare_mix(const mix_case *m)
{
    for (int t = 0; t < m->n_rows; t++)
        for (int64_t c = 0; c < m->n_channels; c++)
            compare_element(m, t, c);
}

/* Only the channels of the rows may have changed. */
static void expect_gaps_kept(const source_rows *o)
{
    for (size_t i = 0; i < o->memory.n_floats; i++)
        if ((int64_t)i % o->stride >= o->n_channels && !is_kept(&o->memory, i))
            fail_case("float %d behind row %d has changed", (int)((int64_t)i % o->stride),
                      (int)((int64_t)i / o->stride));
    if (!guarded_intact(&o->memory.memory))
        fail_case("o: written outside its bounds");
}

static void expect_mix_kept(const mix_case *m)
{
    expect_gaps_kept(&m->o);
    expect_kept(&m->p, "p");
    expect_kept(&m->rescale, "rescale");
    expect_kept(&m->e.memory, "e");
}

/* A part of the rows and channels, computed by themselves, against the bits of the whole. */
static void mix_part(const mix_case *m, int t, int n_rows, int64_t c, int64_t n_channels)
{
    enum { GAP = 3 };
    buffer part = make_buffer(n_rows * (n_channels + GAP) - GAP, side_of(c));
    const int64_t stride = n_channels + GAP;
    for (int r = 0; r < n_rows; r++)
        memcpy(part.data + r * stride, m->o.memory.before + (t + r) * m->o.stride + c,
               (size_t)n_channels * sizeof(float));
    kernels->mix_rows(part.data, stride, m->scales ? m->scales + t : NULL,
                      m->weights + (m->n_keys > 0 ? t * m->p_stride : 0), m->p_stride, m->p_step,
                      m->n_keys > 0 ? m->e.memory.data + c : m->e.memory.data, m->e.stride, m->n_keys, n_rows,
                      n_channels, NULL);
    for (int r = 0; r < n_rows; r++)
        for (int64_t i = 0; i < n_channels; i++)
            if (!same_bits(part.data[r * stride + i], row_value(&m->o, t + r, c + i)))
                fail_case("row %d, channel %d has other bits in a part of %d rows, %d channels", t + r, (int)(c + i),
                          n_rows, (int)n_channels);
    free_buffer(&part);
}

static void mix_parts(const mix_case *m, random_stream *random)
{
    for (int t = 0; t < m->n_rows; t++) {
        const int64_t first = random_below(random, m->n_channels);
        mix_part(m, t, 1, 0, m->n_channels);
        mix_part(m, t, 1 + (int)random_below(random, m->n_rows - t), first,
                 1 + random_below(random, m->n_channels - first));
    }
}

/* With the same values in two halves of the channels, both halves of the results are the same bits: a numerator over
 * values of 1 is its denominator. */
static void mix_halves(int64_t index, int n_keys, int n_rows, int64_t width, random_stream *random)
{
    mix_case m = make_mix_case(index, n_keys, n_rows, 2 * width, random);
    describe_case("mix_rows", "two halves of %d channels, %d keys, %d rows", (int)width, n_keys, n_rows);
    for (int j = 0; j < n_keys; j++)
        memcpy(m.e.memory.data + j * m.e.stride + width, m.e.memory.data + j * m.e.stride,
               (size_t)width * sizeof(float));
    for (int t = 0; t < n_rows; t++)
        memcpy(m.o.memory.data + t * m.o.stride + width, m.o.memory.data + t * m.o.stride,
               (size_t)width * sizeof(float));
    keep_bits(&m.o.memory);
    run_mix(&m);
    for (int t = 0; t < n_rows; t++)
        for (int64_t c = 0; c < width; c++)
            if (!same_bits(row_value(&m.o, t, c), row_value(&m.o, t, c + width)))
                fail_case("row %d: channel %d has not the bits of channel %d", t, (int)(c + width), (int)c);
    free_mix_case(&m);
}

/* ---- mix_rows: what is not finite ---- */

typedef int (*element_test)(const mix_case *m, int t, int64_t c, int64_t place);

/* Whether float `place` of p is one of the weights of a row. */
static int has_weight(const mix_case *m, int t, int64_t c, int64_t place)
{
    (void)c;
    for (int j = 0; j < m->n_keys; j++)
        if (place_of(m, t, j) == place)
            return 1;
    return 0;
}

static int is_row(const mix_case *m, int t, int64_t c, int64_t place)
{
    (void)m;
    (void)c;
    return t == place;
}

static int is_channel(const mix_case *m, int t, int64_t c, int64_t place)
{
    (void)t;
    return (m->e.stride > 0 ? place % m->e.stride : place) == c;
}

static int is_scaled_row(const mix_case *m, int t, int64_t c, int64_t place)
{
    return m->scales && is_row(m, t, c, place);
}

static int is_scaled_element(const mix_case *m, int t, int64_t c, int64_t place)
{
    return m->scales && place == t * m->o.stride + c;
}

/* Float `place` of an input is replaced: what it reaches is not finite, all else keeps its bits. */
static void spoil_mix(mix_case *m, const float *clean, buffer *input, int64_t place, float value, element_test reaches)
{
    const float before = input->before[place];
    input->before[place] = value;
    restore_bits(input);
    run_mix(m);
    for (int t = 0; t < m->n_rows; t++)
        for (int64_t c = 0; c < m->n_channels; c++) {
            const float got = row_value(&m->o, t, c);
            const int is_reached = reaches(m, t, c, place);
            if (is_reached ? isfinite(got) : !same_bits(got, clean[t * m->o.stride + c]))
                fail_case("%g at %d of an input: row %d, channel %d is %g", (double)value, (int)place, t, (int)c,
                          (double)got);
        }
    input->before[place] = before;
    restore_bits(input);
}

static void spoil_each(mix_case *m, random_stream *random)
{
    const float spoilers[] = {NAN, INFINITY, -INFINITY};
    const float value = spoilers[random_below(random, 3)];
    const int t = (int)random_below(random, m->n_rows), j = (int)random_below(random, m->n_keys);
    const int64_t c = random_below(random, m->n_channels);
    float *clean = malloc(m->o.memory.n_floats * sizeof(float));
    if (clean == NULL)
        fail_case("no memory");
    memcpy(clean, m->o.memory.data, m->o.memory.n_floats * sizeof(float));
    spoil_mix(m, clean, &m->p, place_of(m, t, j), value, has_weight);
    spoil_mix(m, clean, &m->e.memory, j * m->e.stride + c, value, is_channel);
    spoil_mix(m, clean, &m->rescale, t, value, is_scaled_row);
    spoil_mix(m, clean, &m->o.memory, t * m->o.stride + c, value, is_scaled_element);
    free(clean);
}

/* One product overflows; what it does is what the sum in the order of the keys says. */
static void overflow_one(mix_case *m, random_stream *random)
{
    const int t = (int)random_below(random, m->n_rows), j = (int)random_below(random, m->n_keys);
    m->p.data[place_of(m, t, j)] = 1e30f;
    m->e.memory.data[j * m->e.stride + random_below(random, m->n_channels)] = random_below(random, 2) ? 1e30f : -1e30f;
    run_mix(m);
    compare_mix(m);
}

static void check_mix_case(int64_t index, int n_keys, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(93000 + index));
    mix_case m = make_mix_case(index, n_keys, n_rows, n_channels, &random);
    describe_case("mix_rows", "case %d, %d keys, %d rows, %d channels, strides %d, %d, %d, step %d, %s rescale",
                  (int)index, n_keys, n_rows, (int)n_channels, (int)m.o.stride, (int)m.p_stride, (int)m.e.stride,
                  (int)m.p_step, m.scales ? "a" : "no");
    run_mix(&m);
    compare_mix(&m);
    expect_mix_kept(&m);
    mix_parts(&m, &random);
    if (n_rows > 0 && n_keys > 0) {
        spoil_each(&m, &random);
        overflow_one(&m, &random);
    }
    free_mix_case(&m);
    mix_halves(index, n_keys, n_rows, (n_channels + 1) / 2, &random);
}

void check_mix_rows(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int n_rows = 0; n_rows <= MAX_ROWS; n_rows++)
        for (int i = 0; i < n_channel_counts(); i++, index++)
            check_mix_case(index, (int)(index * 17 % 23), n_rows, channel_count(i));
    for (int i = 0; i < n_key_counts(); i++, index++)
        check_mix_case(index, key_count(i), (int)(index % (MAX_ROWS + 1)), 1 + index * 29 % 150);
}

/* ---- ask_rows ---- */

/* Nothing comes of it, and nothing need be there. */
void check_ask_rows(void **state)
{
    (void)state;
    buffer x = make_buffer(100, GUARD_END);
    fill_floats(x.data, 100, 1.0f, &(random_stream){0});
    keep_bits(&x);
    describe_case("ask_rows", "rows far beyond");
    kernels->ask_rows(x.data, INT64_MAX / 5, 9, 100);
    kernels->ask_rows(x.data, -1000, 3, 0);
    kernels->ask_rows(NULL, 0, 1, 40);
    expect_kept(&x, "x");
    free_buffer(&x);
}

/* ---- scale_rows ---- */

static float draw_factor(random_stream *random)
{
    const float edges[] = {1.0f, 0.0f, 0x1p-126f, NAN};
    const int64_t kind = random_below(random, 12);
    return kind < 4 ? edges[kind] : random_uniform(random, 0.0f, 1.0f);
}

/* One product each: exact. */
static void check_scale_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(94000 + index));
    source_rows o = make_results(n_rows, n_channels, index, &random);
    buffer factor = make_buffer(n_channels, side_of(index));
    const float spoilers[] = {NAN, INFINITY, FLT_MAX};
    describe_case("scale_rows", "%d rows, %d channels, stride %d", n_rows, (int)n_channels, (int)o.stride);
    for (int64_t c = 0; c < n_channels; c++)
        factor.data[c] = draw_factor(&random);
    if (n_rows > 0)
        o.memory.data[random_below(&random, n_rows) * o.stride + random_below(&random, n_channels)] =
            spoilers[random_below(&random, 3)];
    keep_bits(&o.memory);
    keep_bits(&factor);
    kernels->scale_rows(o.memory.data, o.stride, factor.data, n_rows, n_channels);
    for (int t = 0; t < n_rows; t++)
        for (int64_t c = 0; c < n_channels; c++) {
            const float before = o.memory.before[t * o.stride + c];
            if (!same_value(row_value(&o, t, c), before * factor.data[c]))
                fail_case("row %d, channel %d: %a times %a is %a", t, (int)c, (double)before, (double)factor.data[c],
                          (double)row_value(&o, t, c));
        }
    expect_gaps_kept(&o);
    expect_kept(&factor, "factor");
    free_buffer(&o.memory);
    free_buffer(&factor);
}

void check_scale_rows(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int n_rows = 0; n_rows <= MAX_ROWS; n_rows += 1 + n_rows / 3)
        for (int i = 0; i < n_channel_counts(); i++)
            check_scale_case(index++, n_rows, channel_count(i));
}

/* ---- tap_rows ---- */

typedef struct tap_case {
    buffer p, taps, e, den;
    int64_t den_stride;
    int n_keys, n_rows;
} tap_case;

static tap_case make_tap_case(int64_t index, int n_keys, int n_rows, random_stream *random)
{
    tap_case c = {.n_keys = n_keys, .n_rows = n_rows, .den_stride = 1 + index % 3 * 7};
    const int64_t n = (int64_t)n_keys * n_rows;
    c.p = make_buffer(n, side_of(index));
    c.taps = make_buffer(n, side_of(index));
    c.e = make_buffer(n_keys, side_of(index));
    c.den = make_buffer(n_rows > 0 ? (n_rows - 1) * c.den_stride + 1 : 0, side_of(index + 1));
    for (int64_t i = 0; i < n; i++)
        c.taps.data[i] = random_uniform(random, 0.0f, 3.0f);
    for (int j = 0; j < n_keys; j++)
        c.e.data[j] = random_below(random, 6) == 0 ? 0.0f : random_uniform(random, 0.0f, 2.0f);
    for (int t = 0; t < n_rows; t++)
        c.den.data[t * c.den_stride] = random_below(random, 3) == 0 ? 0.0f : random_uniform(random, 0.0f, 50.0f);
    keep_bits(&c.p);
    keep_bits(&c.taps);
    keep_bits(&c.e);
    keep_bits(&c.den);
    return c;
}

static void free_tap_case(tap_case *c)
{
    free_buffer(&c->p);
    free_buffer(&c->taps);
    free_buffer(&c->e);
    free_buffer(&c->den);
}

static void run_taps(tap_case *c)
{
    restore_bits(&c->den);
    kernels->tap_rows(c->p.data, c->den.data, c->den_stride, c->taps.data, c->e.data, c->n_keys, c->n_rows);
}

/* Each weight is one product, and the sum in the order of the keys is exactly what float makes of it. */
static void compare_taps(const tap_case *c)
{
    for (int t = 0; t < c->n_rows; t++) {
        float sum = 0.0f;
        for (int j = 0; j < c->n_keys; j++) {
            const float want = c->taps.data[j * c->n_rows + t] * c->e.data[j], got = c->p.data[j * c->n_rows + t];
            sum += want;
            if (!same_value(got, want))
                fail_case("key %d, row %d: %a times %a gives %a", j, t, (double)c->taps.data[j * c->n_rows + t],
                          (double)c->e.data[j], (double)got);
        }
        const float before = c->den.before[t * c->den_stride], got = c->den.data[t * c->den_stride];
        if (!same_value(got, before + sum))
            fail_case("row %d: %a and a sum of %a give %a", t, (double)before, (double)sum, (double)got);
    }
}

/* mix_rows over a value of 1 gives these denominators, bit for bit: from the den before, and as one more channel. */
static void mix_ones(const tap_case *c)
{
    buffer ones = make_buffer(c->n_keys > c->n_rows ? c->n_keys : c->n_rows, GUARD_END),
           den = make_buffer((int64_t)c->den.n_floats, GUARD_END);
    for (size_t i = 0; i < ones.n_floats; i++)
        ones.data[i] = 1.0f;
    memcpy(den.data, c->den.before, c->den.n_floats * sizeof(float));
    kernels->mix_rows(den.data, c->den_stride, ones.data, c->p.data, 1, c->n_rows, ones.data, 1, c->n_keys, c->n_rows,
                      1, NULL);
    for (int t = 0; t < c->n_rows; t++)
        if (!same_value(den.data[t * c->den_stride], c->den.data[t * c->den_stride]))
            fail_case("row %d: the denominator is %a, mix_rows makes it %a", t, (double)c->den.data[t * c->den_stride],
                      (double)den.data[t * c->den_stride]);
    free_buffer(&ones);
    free_buffer(&den);
}

/* NaN and infinities stay in the row of their tap, in the key of their e, and nowhere else. */
static void spoil_taps(tap_case *c, random_stream *random)
{
    const float spoilers[] = {NAN, INFINITY, FLT_MAX};
    const int j = (int)random_below(random, c->n_keys), t = (int)random_below(random, c->n_rows);
    c->taps.data[j * c->n_rows + t] = spoilers[random_below(random, 3)];
    run_taps(c);
    compare_taps(c);
    restore_bits(&c->taps);
    c->e.data[j] = spoilers[random_below(random, 3)];
    run_taps(c);
    compare_taps(c);
    restore_bits(&c->e);
}

static void check_tap_case(int64_t index, int n_keys, int n_rows)
{
    random_stream random = random_start((uint64_t)(95000 + index));
    tap_case c = make_tap_case(index, n_keys, n_rows, &random);
    describe_case("tap_rows", "%d keys, %d rows, denominators %d apart", n_keys, n_rows, (int)c.den_stride);
    run_taps(&c);
    compare_taps(&c);
    mix_ones(&c);
    if (n_keys > 0 && n_rows > 0)
        spoil_taps(&c, &random);
    expect_kept(&c.taps, "taps");
    expect_kept(&c.e, "e");
    for (size_t i = 0; i < c.den.n_floats; i++)
        if ((int64_t)i % c.den_stride != 0 && !is_kept(&c.den, i))
            fail_case("float %d of the denominators has changed", (int)i);
    keep_bits(&c.den);
    expect_kept(&c.den, "den"); /* the canaries */
    keep_bits(&c.p);
    expect_kept(&c.p, "p");
    free_tap_case(&c);
}

void check_tap_rows(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int n_rows = 0; n_rows <= 3 * kernels->vector_lanes + 1; n_rows++)
        for (int n_keys = 0; n_keys < 12; n_keys++)
            check_tap_case(index++, n_keys, n_rows);
    for (int i = 0; i < n_key_counts(); i++)
        check_tap_case(index++, key_count(i), 1 + i % (2 * kernels->vector_lanes));
}

/* ---- dot_rows ---- */

typedef struct dot_case {
    source_rows a, b;
    buffer sums;
    int n_rows;
} dot_case;

/* Row t of a against row t of b, which may be a itself; either may be one row for all. */
static void run_dots(dot_case *d, int is_own)
{
    const source_rows *b = is_own ? &d->a : &d->b;
    restore_bits(&d->sums);
    kernels->dot_rows(d->sums.data, d->a.memory.data, d->a.stride, b->memory.data, b->stride, d->n_rows,
                      d->a.n_channels);
    for (int t = 0; t < d->n_rows; t++) {
        const float before = d->sums.before[t], got = d->sums.data[t];
        double want = before, magnitude = fabs(want);
        for (int64_t c = 0; c < d->a.n_channels; c++) {
            const double product = (double)row_value(&d->a, t, c) * row_value(b, t, c);
            want += product;
            magnitude += fabs(product);
        }
        if (!is_close(got, want, sum_bound(d->a.n_channels + 1, magnitude)))
            fail_case("row %d: %a from %a, want %a", t, (double)got, (double)before, want);
        float alone = before;
        kernels->dot_rows(&alone, d->a.memory.data + t * d->a.stride, 0, b->memory.data + t * b->stride, 0, 1,
                          d->a.n_channels);
        if (!same_value(alone, got))
            fail_case("row %d has other bits alone", t);
    }
}

static void check_dot_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(97000 + index));
    const float spoilers[] = {NAN, INFINITY, -INFINITY};
    dot_case d = {.n_rows = n_rows};
    d.a = make_rows(n_rows, n_channels, index, &random);
    d.b = make_rows(n_rows, n_channels, index / 5, &random);
    d.sums = make_buffer(n_rows, side_of(index));
    describe_case("dot_rows", "%d rows, %d channels, strides %d, %d", n_rows, (int)n_channels, (int)d.a.stride,
                  (int)d.b.stride);
    fill_floats(d.sums.data, n_rows, 3.0f, &random);
    keep_bits(&d.sums);
    run_dots(&d, 0);
    run_dots(&d, 1);
    expect_kept(&d.a.memory, "a");
    expect_kept(&d.b.memory, "b");
    if (n_rows > 0) {
        const int64_t row = random_below(&random, n_rows), c = random_below(&random, n_channels);
        source_rows *spoiled = index % 2 ? &d.a : &d.b;
        spoiled->memory.data[row * spoiled->stride + c] = spoilers[random_below(&random, 3)];
        run_dots(&d, 0);
        restore_bits(&spoiled->memory);
        d.sums.before[row] = spoilers[random_below(&random, 3)];
        run_dots(&d, 0);
    }
    keep_bits(&d.sums);
    expect_kept(&d.sums, "sums"); /* the canaries */
    free_buffer(&d.a.memory);
    free_buffer(&d.b.memory);
    free_buffer(&d.sums);
}

/* All channel counts at a few row counts, and some row counts beyond these. */
static void walk_few_rows(void (*check)(int64_t index, int n_rows, int64_t n_channels))
{
    int64_t index = 0;
    for (int n_rows = 0; n_rows <= MAX_ROWS; n_rows += 1 + n_rows / 3)
        for (int i = 0; i < n_channel_counts(); i++)
            check(index++, n_rows, channel_count(i));
    for (int i = 0; i < n_key_counts(); i++, index++)
        check(index, key_count(i), 1 + index * 7 % 40);
}

void check_dot_rows(void **state)
{
    (void)state;
    walk_few_rows(check_dot_case);
}

/* ---- divide_rows ---- */

/* What is not zero has its reciprocal, though that of the largest is denormal. */
static float draw_denominator(random_stream *random)
{
    const float edges[] = {0.0f,       -0.0f,    1e-45f, -1e-45f, 0x1.fffffcp-127f, -0x1p-127f, 0x1p-126f,
                           -0x1p-126f, INFINITY, -1e38f, NAN,     FLT_MAX,          1.0f,       -1.0f,
                           1e-30f,     0x1p100f};
    if (random_below(random, 2))
        return edges[random_below(random, sizeof edges / sizeof edges[0])];
    return random_uniform(random, -1.0f, 50.0f);
}

static float divided(float x, float den)
{
    const float inverse = 1.0f / den;
    return fabsf(den) < FLT_MIN ? 0.0f : x * inverse;
}

/* The reciprocal and the product round once each, and a reciprocal may be denormal. */
static void compare_quotient(float x, float den, float got, int t, int64_t c)
{
    if (!same_value(got, divided(x, den)))
        fail_case("row %d, channel %d: %a / %a is %a", t, (int)c, (double)x, (double)den, (double)got);
    const double want = (double)x / den;
    if (fabsf(den) < FLT_MIN || !isfinite(den) || !(fabs(want) < (double)FLT_MAX / 2))
        return;
    if (!is_close(got, want, 2.0 * HALF_ULP * fabs(want) * (1.0 + 0x1p-20) + 0x1p-150 * fabs((double)x) + 0x1p-150))
        fail_case("row %d, channel %d: %a / %a is %a, want %a", t, (int)c, (double)x, (double)den, (double)got, want);
}

static void check_divide_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(98000 + index));
    const float spoilers[] = {NAN, INFINITY, -INFINITY, FLT_MAX, 0x1p-140f};
    source_rows o = make_results(n_rows, n_channels, index, &random),
                x = make_results(n_rows, n_channels, index, &random);
    const source_rows *from = index % 2 ? &x : &o; /* in place, or not */
    buffer den = make_buffer(n_rows, side_of(index));
    describe_case("divide_rows", "%d rows, %d channels, stride %d", n_rows, (int)n_channels, (int)o.stride);
    for (int t = 0; t < n_rows; t++) {
        den.data[t] = draw_denominator(&random);
        if (random_below(&random, 3) == 0)
            from->memory.data[t * from->stride + random_below(&random, n_channels)] =
                spoilers[random_below(&random, 5)];
    }
    keep_bits(&o.memory);
    keep_bits(&x.memory);
    keep_bits(&den);
    kernels->divide_rows(o.memory.data, o.stride, from->memory.data, from->stride, den.data, n_rows, n_channels);
    for (int t = 0; t < n_rows; t++)
        for (int64_t c = 0; c < n_channels; c++)
            compare_quotient(from->memory.before[t * from->stride + c], den.data[t], row_value(&o, t, c), t, c);
    expect_gaps_kept(&o);
    expect_kept(&x.memory, "x");
    expect_kept(&den, "den");
    free_buffer(&o.memory);
    free_buffer(&x.memory);
    free_buffer(&den);
}

void check_divide_rows(void **state)
{
    (void)state;
    walk_few_rows(check_divide_case);
}

/* ---- finite_rows ---- */

static void expect_finite(const source_rows *x, int want)
{
    const int got = kernels->finite_rows(x->memory.data, x->stride, x->n_rows, x->n_channels);
    if ((got != 0) != want)
        fail_case("returned %d, want %d", got, want);
}

/* The gaps between the rows are NaN, and are not looked at. */
static void check_finite_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(99000 + index));
    const float spoilers[] = {NAN, INFINITY, -INFINITY}, extremes[] = {FLT_MAX, -FLT_MAX, 1e-45f, -0.0f};
    source_rows x = make_rows(n_rows, n_channels, index, &random);
    describe_case("finite_rows", "%d rows, %d channels, stride %d", n_rows, (int)n_channels, (int)x.stride);
    for (int t = 0; t < n_rows; t++)
        for (int i = 0; i < 3; i++)
            x.memory.data[t * x.stride + random_below(&random, n_channels)] = extremes[random_below(&random, 4)];
    keep_bits(&x.memory);
    expect_finite(&x, 1);
    const int64_t last = (n_rows - 1) * x.stride + n_channels - 1;
    for (int i = 0; n_rows > 0 && i < 4; i++) {
        const int64_t row = random_below(&random, n_rows), c = random_below(&random, n_channels);
        const int64_t places[] = {0, last, row * x.stride + c, row * x.stride + n_channels - 1};
        x.memory.data[places[i]] = spoilers[random_below(&random, 3)];
        expect_finite(&x, 0);
        restore_bits(&x.memory);
    }
    expect_kept(&x.memory, "x");
    free_buffer(&x.memory);
}

void check_finite_rows(void **state)
{
    (void)state;
    walk_few_rows(check_finite_case);
}
