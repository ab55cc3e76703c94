/* aft_move and aft_weigh: AFT over blocks of keys, against plain loops. Which keys stand above their reference follows
 * exactly from the formula of kernels.h, in float. */
#include "kernel_checks/checks.h"

#include <float.h>

enum { MAX_CHANNELS = 140, MAX_WEIGHED_KEYS = 40, N_CASES = 4 * MAX_CHANNELS };

typedef enum { MAY_STAND_ABOVE = 1, MAY_BE_INFINITE = 2 } key_freedom;

/* Keys around a reference: far below, near, 8 above and one ulp more or less, far above; some not finite. Above a
 * reference of -inf every finite key stands. */
static float draw_key(float ref, int freedom, random_stream *random)
{
    const float near = isfinite(ref) ? ref : 0.0f;
    const int above = freedom & MAY_STAND_ABOVE;
    if (!above && !isfinite(ref))
        return freedom & MAY_BE_INFINITE && random_below(random, 3) == 0 ? NAN : -INFINITY;
    switch (random_below(random, freedom & MAY_BE_INFINITE ? 10 : 6)) {
    case 0:
        return above ? near + 8.0f : near + 7.5f;
    case 1:
        return above ? nextafterf(near + 8.0f, 1e9f) : near - 8.0f;
    case 2:
        return near - random_uniform(random, 0.0f, 300.0f);
    case 3:
        return random_below(random, 20) == 0 ? -FLT_MAX : near;
    case 6:
        return NAN;
    case 7:
        return -INFINITY;
    case 8:
        return INFINITY;
    default:
        return near + random_uniform(random, -4.0f, 4.0f);
    }
}

static int stands_above(float key, float ref) { return key < INFINITY && key - ref > 8.0f; }

/* Every count of channels in each run of MAX_CHANNELS cases, as a case of another kind each time. */
static int64_t channels_of(int64_t index) { return 1 + index * 9 % MAX_CHANNELS; }

static int64_t case_of(int64_t index) { return index + index / MAX_CHANNELS; }

/* e^a, where a is a rounded difference: off by u |a| of itself, then 2 ulp; below 2^-126 anything down to 0. A weight is
 * 2^(a log2 e), whose product is off by another 1.25 u |a|: u of the rounding, the rest of the constant. */
static double power_bound(double a, double of_product)
{
    return exp(a) * ((1.0 + of_product) * fabs(a) + 4.0) * HALF_ULP * (1.0 + 0x1p-10) + 0x1p-126;
}

/* ---- aft_move ---- */

static void compare_moved(const buffer *ref, const buffer *factor, float key, int64_t c)
{
    const float before = ref->before[c], got = factor->data[c];
    const int moves = stands_above(key, before);
    if (!same_value(ref->data[c], moves ? key : before))
        fail_case("channel %d: from %a to %a gives the reference %a", (int)c, (double)before, (double)key,
                  (double)ref->data[c]);
    const double a = moves ? (double)before - (double)key : 0.0;
    if (isinf(a) || !moves ? got != (moves ? 0.0f : 1.0f) : !is_close(got, exp(a), power_bound(a, 0.0)))
        fail_case("channel %d: from %a to %a gives the factor %a", (int)c, (double)before, (double)key, (double)got);
}

/* What stands in one channel is nothing to the others. */
static void spoil_move(buffer *ref, const buffer *factor, buffer *k, random_stream *random)
{
    const float spoilers[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX};
    const int64_t n = (int64_t)ref->n_floats, spoiled = random_below(random, n);
    buffer other = make_buffer(n, GUARD_END), moved = make_buffer(n, GUARD_END);
    memcpy(moved.data, ref->before, ref->n_floats * sizeof(float));
    k->data[spoiled] = spoilers[random_below(random, 5)];
    kernels->aft_move(moved.data, other.data, k->data, n);
    for (int64_t c = 0; c < n; c++)
        if (c != spoiled && (!same_bits(moved.data[c], ref->data[c]) || !same_bits(other.data[c], factor->data[c])))
            fail_case("channel %d spoils channel %d", (int)spoiled, (int)c);
    free_buffer(&other);
    free_buffer(&moved);
}

static void check_move_case(int64_t index, int64_t n)
{
    random_stream random = random_start((uint64_t)(90000 + index));
    buffer ref = make_buffer(n, side_of(index)), factor = make_buffer(n, side_of(index + 1)),
           k = make_buffer(n, side_of(index));
    describe_case("aft_move", "case %d, %d channels", (int)index, (int)n);
    for (int64_t c = 0; c < n; c++) {
        ref.data[c] = index % 11 == 0 || random_below(&random, 9) == 0 ? -INFINITY
                      : random_below(&random, 30) == 0                 ? -FLT_MAX
                                                                       : random_uniform(&random, -20.0f, 20.0f);
        k.data[c] = random_below(&random, 30) == 0 ? FLT_MAX
                                                   : draw_key(ref.data[c], MAY_STAND_ABOVE | MAY_BE_INFINITE, &random);
    }
    keep_bits(&ref);
    keep_bits(&k);
    kernels->aft_move(ref.data, factor.data, k.data, n);
    for (int64_t c = 0; c < n; c++)
        compare_moved(&ref, &factor, k.data[c], c);
    expect_kept(&k, "k");
    spoil_move(&ref, &factor, &k, &random);
    keep_bits(&ref);
    keep_bits(&factor);
    expect_kept(&ref, "ref"); /* the canaries */
    expect_kept(&factor, "factor");
    free_buffer(&ref);
    free_buffer(&factor);
    free_buffer(&k);
}

void check_aft_move(void **state)
{
    (void)state;
    for (int64_t index = 0; index < N_CASES; index++)
        check_move_case(case_of(index), channels_of(index));
}

/* ---- aft_weigh ---- */

typedef struct weigh_case {
    buffer e, ref;
    source_rows k, v;
    int64_t n_channels, panel_stride;
    int n_keys;
} weigh_case;

/* The widths of both halves of a row. */
static int64_t panel_width(const weigh_case *w, int64_t c)
{
    const int64_t left = w->n_channels - c / AFT_PANEL * AFT_PANEL;
    return left < AFT_PANEL ? left : AFT_PANEL;
}

/* Where e^(k - ref) v of key j, channel c stands; its e^(k - ref) follows panel_width() behind it. */
static int64_t place_of(const weigh_case *w, int j, int64_t c)
{
    return c / AFT_PANEL * w->panel_stride + (int64_t)j * 2 * AFT_PANEL + c % AFT_PANEL;
}

/* A key that moves the reference, and a value beside it that is no concern of the keys before it. */
static void add_mover(weigh_case *w, int j, random_stream *random)
{
    const int64_t c = random_below(random, w->n_channels);
    const float ref = w->ref.data[c], above = nextafterf(ref + 8.0f, 1e9f);
    w->k.memory.data[j * w->k.stride + c] = !isfinite(ref)            ? -FLT_MAX
                                            : random_below(random, 2) ? above
                                                                      : above + 100.0f;
    w->v.memory.data[j * w->v.stride + random_below(random, w->n_channels)] = NAN;
}

/* Half of the cases have a mover. The buffer of the results ends with the last float of the last row. */
static weigh_case make_weigh_case(int64_t index, int64_t n_channels, int n_keys, random_stream *random)
{
    weigh_case w = {.n_channels = n_channels, .n_keys = n_keys};
    const int freedom = random_below(random, 3) == 0 ? MAY_BE_INFINITE : 0, n_rows = n_keys > 0 ? n_keys : 1;
    const int64_t last = n_channels - 1;
    w.panel_stride = (int64_t)n_rows * 2 * AFT_PANEL + random_below(random, 3) * 5;
    w.e = make_buffer(n_keys > 0 ? place_of(&w, n_keys - 1, last) + panel_width(&w, last) + 1 : 0, side_of(index));
    w.ref = make_buffer(n_channels, side_of(index));
    w.k = make_rows(n_rows, n_channels, index, random);
    w.v = make_rows(n_rows, n_channels, index + 1, random);
    for (int64_t c = 0; c < n_channels; c++) {
        w.ref.data[c] = random_below(random, 8) == 0 ? -INFINITY : random_uniform(random, -20.0f, 20.0f);
        for (int j = 0; j < n_rows; j++)
            w.k.memory.data[j * w.k.stride + c] = draw_key(w.ref.data[c], freedom, random);
    }
    for (int64_t i = 0; freedom && i < n_rows * n_channels / 9; i++)
        w.v.memory.data[random_below(random, n_rows) * w.v.stride + random_below(random, n_channels)] =
            random_below(random, 2) ? NAN : INFINITY;
    if (random_below(random, 2))
        add_mover(&w, (int)random_below(random, n_rows), random);
    keep_bits(&w.ref);
    keep_bits(&w.k.memory);
    keep_bits(&w.v.memory);
    return w;
}

static void free_weigh_case(weigh_case *w)
{
    free_buffer(&w->e);
    free_buffer(&w->ref);
    free_buffer(&w->k.memory);
    free_buffer(&w->v.memory);
}

/* Over fresh floats. */
static int run_weigh(weigh_case *w, int *n_clean)
{
    restore_bits(&w->e);
    return kernels->aft_weigh(w->e.data, w->panel_stride, w->ref.data, w->k.memory.data, w->k.stride, w->v.memory.data,
                              w->v.stride, w->n_keys, w->n_channels, n_clean);
}

static int count_weighed(const weigh_case *w)
{
    for (int j = 0; j < w->n_keys; j++)
        for (int64_t c = 0; c < w->n_channels; c++)
            if (stands_above(row_value(&w->k, j, c), w->ref.data[c]))
                return j;
    return w->n_keys;
}

/* Returns 1 where something was not finite. */
static int compare_weighed(const weigh_case *w, int j, int64_t c)
{
    const float key = row_value(&w->k, j, c), value = row_value(&w->v, j, c);
    const float *e = w->e.data + place_of(w, j, c), product = e[0], weight = e[panel_width(w, c)];
    const double a = (double)key - (double)w->ref.data[c], want = exp(a);
    const int is_finite = isfinite(want) && isfinite(value) && fabs(want * value) <= (double)FLT_MAX;
    if (key == -INFINITY || !is_finite) {
        if (weight != 0.0f || product != 0.0f)
            fail_case("key %d, channel %d: k = %g weighs %a, the product is %a", j, (int)c, (double)key, (double)weight,
                      (double)product);
        return key != -INFINITY;
    }
    if (!is_close(weight, want, power_bound(a, 1.25)))
        fail_case("key %d, channel %d: e^%g is %a, want %a", j, (int)c, a, (double)weight, want);
    const float exact = weight * value;
    if (product != exact)
        fail_case("key %d, channel %d: %a times %a is stored as %a", j, (int)c, (double)weight, (double)value,
                  (double)product);
    return 0;
}

/* Floats between the rows, between the panels, and of the keys behind those that were looked at. */
static void expect_gaps_kept(const weigh_case *w, int n_weighed)
{
    for (int64_t i = 0; i < (int64_t)w->e.n_floats; i++) {
        const int64_t c = i / w->panel_stride * AFT_PANEL, in_panel = i % w->panel_stride;
        const int64_t j = in_panel / (2 * AFT_PANEL), in_row = in_panel % (2 * AFT_PANEL);
        if ((j > n_weighed || j >= w->n_keys || in_row >= 2 * panel_width(w, c)) && !is_kept(&w->e, (size_t)i))
            fail_case("float %d of row %d of panel %d has changed", (int)in_row, (int)j, (int)(c / AFT_PANEL));
    }
    expect_kept(&w->ref, "ref");
    expect_kept(&w->k.memory, "k");
    expect_kept(&w->v.memory, "v");
}

/* The call's count, all that it weighed, and how many of the keys come before one that is not finite. */
static void compare_call(const weigh_case *w, int n_weighed, int n_clean)
{
    const int want = count_weighed(w);
    int want_clean = want;
    if (n_weighed != want)
        fail_case("weighs %d keys, want %d", n_weighed, want);
    for (int j = 0; j < want; j++)
        for (int64_t c = 0; c < w->n_channels; c++)
            if (compare_weighed(w, j, c) && want_clean > j)
                want_clean = j;
    if (n_clean != want_clean)
        fail_case("n_clean is %d, want %d of %d keys", n_clean, want_clean, want);
}

static void compare_case(weigh_case *w)
{
    int n_clean = -1;
    const int n_weighed = run_weigh(w, &n_clean);
    compare_call(w, n_weighed, n_clean);
    expect_gaps_kept(w, n_weighed);
}

/* Key j, channel c gets another key and value; expects what was weighed to keep its bits everywhere else. */
static void spoil_one(weigh_case *w, int j, int64_t c, float key, float value)
{
    buffer clean = make_buffer((int64_t)w->e.n_floats, GUARD_END);
    int n_clean = -1;
    const int n_weighed = run_weigh(w, &n_clean);
    memcpy(clean.data, w->e.data, w->e.n_floats * sizeof(float));
    w->k.memory.data[j * w->k.stride + c] = key;
    w->v.memory.data[j * w->v.stride + c] = value;
    n_clean = -1;
    if (run_weigh(w, &n_clean) != n_weighed)
        fail_case("key %d, channel %d: weighs another number of keys with k = %g, v = %g", j, (int)c, (double)key,
                  (double)value);
    compare_call(w, n_weighed, n_clean);
    for (int i = 0; i < n_weighed; i++)
        for (int64_t other = 0; other < w->n_channels; other++) {
            const int64_t place = place_of(w, i, other), width = panel_width(w, other);
            if ((i != j || other != c) && (!same_bits(w->e.data[place], clean.data[place]) ||
                                           !same_bits(w->e.data[place + width], clean.data[place + width])))
                fail_case("key %d, channel %d spoils key %d, channel %d", j, (int)c, i, (int)other);
        }
    restore_bits(&w->k.memory);
    restore_bits(&w->v.memory);
    free_buffer(&clean);
}

static void spoil_weigh(weigh_case *w, random_stream *random)
{
    const int n_weighed = count_weighed(w);
    if (n_weighed == 0 || w->k.stride == 0 || w->v.stride == 0)
        return;
    const int j = (int)random_below(random, n_weighed);
    const int64_t c = random_below(random, w->n_channels);
    const float key = row_value(&w->k, j, c), ref = w->ref.data[c], value = row_value(&w->v, j, c);
    spoil_one(w, j, c, NAN, value);
    spoil_one(w, j, c, INFINITY, value);
    spoil_one(w, j, c, -INFINITY, NAN);
    spoil_one(w, j, c, key, random_below(random, 2) ? NAN : -INFINITY);
    if (!isfinite(ref))
        return;
    spoil_one(w, j, c, ref + 2.0f, -FLT_MAX);   /* overflows */
    spoil_one(w, j, c, ref - 300.0f, INFINITY); /* 0 times infinity */
}

static void check_weigh_case(int64_t index, int64_t n_channels, int n_keys)
{
    random_stream random = random_start((uint64_t)(91000 + index));
    weigh_case w = make_weigh_case(index, n_channels, n_keys, &random);
    describe_case("aft_weigh", "case %d, %d keys, %d channels, strides %d, %d, %d", (int)index, n_keys, (int)n_channels,
                  (int)w.panel_stride, (int)w.k.stride, (int)w.v.stride);
    compare_case(&w);
    spoil_weigh(&w, &random);
    expect_gaps_kept(&w, count_weighed(&w));
    free_weigh_case(&w);
}

void check_aft_weigh(void **state)
{
    (void)state;
    for (int64_t index = 0; index < N_CASES; index++)
        check_weigh_case(case_of(index), channels_of(index), (int)(index % (MAX_WEIGHED_KEYS + 1)));
}
