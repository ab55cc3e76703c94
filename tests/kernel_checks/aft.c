/* aft_keys and aft_fold: AFT key by key.
 *
 * aft_keys is followed channel by channel in double, from the reference that the kernel itself has: which key that is
 * follows exactly from the formula of kernels.h, in float. The errors are added up on the way, u = 2^-24:
 *
 *     a_j = (k - ref_k) + (w - ref_w)   three roundings: |error| <= u (|k - ref_k| + |w - ref_w| + |a_j|)
 *     e^a                               that error of a, which is a relative one of e^a, and 1.25 u |a| of a log2 e;
 *                                       then 2 ulp, at most 2^-22; anything from 0 to 2^-126 where it is below 2^-126
 *     sum e^a                           the error of the factor for what is in the sum, then one rounding
 *     sum + e^a v                       the error of e^a, then a rounding of the product and one of the sum
 *
 * A rounding is at most u times the sum of the magnitudes. So n terms are off by at most (n + 1) u of it and by what the
 * weights are off, and nothing is taken for granted about which way they are. */
#include "kernel_checks/checks.h"

#include <float.h>
#include <stdlib.h>

/* Two levels of sums: of all keys up to the last fold, and of those since. */
enum { MAX_KEYS = 70, N_SUMS = 4, FIRST_SUM = AFT_NUM };

static const float spoilers[] = {NAN, INFINITY, -INFINITY};

/* ---- Cases ---- */

/* The keys of a channel. */
typedef enum {
    ORDINARY,  /* some hidden */
    RAMP,      /* 3 more each time: the reference moves to every third */
    JUMPS,     /* often up by 8 to 40 */
    FALLING,   /* 2 less each time */
    AROUND,    /* +-1e4, and near it: k + w in one number would be off by 5e-4 */
    WIDE,      /* anywhere in +-1e4 */
    BALANCED,  /* about -w */
    THRESHOLD, /* 8 above each other, or one ulp more or less */
    HIDDEN,    /* all of them */
    N_KINDS
} key_kind;

/* The biases of a query. */
typedef enum { NO_BIAS, SMALL_BIAS, LARGE_BIAS, RISING_BIAS, N_BIASES } bias_kind;

typedef struct aft_case {
    buffer state, w;
    source_rows k, v;
    int n_keys;
    int64_t n_channels;
    int scalar_keys;
} aft_case;

static float make_bias(bias_kind kind, int j, random_stream *random)
{
    if (kind != NO_BIAS && random_below(random, 8) == 0)
        return -INFINITY;
    switch (kind) {
    case SMALL_BIAS:
        return random_normal(random);
    case LARGE_BIAS:
        return random_uniform(random, -100.0f, 100.0f);
    case RISING_BIAS:
        return 1.7f * (float)j;
    default:
        return 0.0f;
    }
}

/* The next key of a channel behind `last`, which is what the channel is filled from to begin with. */
static float make_key(key_kind kind, float last, float w, random_stream *random)
{
    static const float steps[] = {0.0f, 8.0f, 0x1.000002p3f, 0x1.fffffep2f, -8.0f, 16.0f};
    switch (kind) {
    case RAMP:
        return last + 3.0f;
    case JUMPS:
        return last + (random_below(random, 3) == 0 ? random_uniform(random, 8.0f, 40.0f) : random_normal(random));
    case FALLING:
        return last - 2.0f;
    case AROUND:
        return copysignf(1e4f, last) + 3.0f * random_normal(random);
    case WIDE:
        return random_uniform(random, -1e4f, 1e4f);
    case BALANCED:
        return (isfinite(w) ? -w : 0.0f) + 2.0f * random_normal(random);
    case THRESHOLD:
        return last + steps[random_below(random, 6)];
    default:
        return 3.0f * random_normal(random);
    }
}

static void fill_keys(aft_case *c, int64_t channel, random_stream *random)
{
    const key_kind kind = (key_kind)random_below(random, N_KINDS);
    float last = kind == THRESHOLD ? 0.0f : 10.0f * random_normal(random);
    for (int j = 0; j < c->n_keys; j++) {
        last = make_key(kind, last, c->w.data[j], random);
        const int is_hidden = kind == HIDDEN || (kind == ORDINARY && random_below(random, 6) == 0);
        c->k.memory.data[j * c->k.stride + channel] = is_hidden ? -INFINITY : last;
    }
}

/* A channel that has seen no key, or some, with or without a fold since. Every third call has ones for v, and the
 * numerator is the denominator. */
static void fill_state(aft_case *c, int64_t channel, float ref_k, int has_ones, random_stream *random)
{
    float *state = c->state.data + channel;
    const int64_t n = c->n_channels;
    const int is_fresh = random_below(random, 3) == 0, is_folded = random_below(random, 3) == 0;
    state[AFT_REF_K * n] = is_fresh ? -INFINITY : ref_k;
    state[AFT_REF_W * n] = is_fresh || random_below(random, 3) == 0 ? 0.0f : 5.0f * random_normal(random);
    for (int i = 0; i < N_SUMS; i += 2) {
        const int is_empty = is_fresh || (i == AFT_NEW_NUM - FIRST_SUM && is_folded);
        const float den = is_empty ? 0.0f : random_uniform(random, 0.5f, 50.0f);
        state[(FIRST_SUM + i) * n] = has_ones ? den : den * random_normal(random);
        state[(FIRST_SUM + i + 1) * n] = den;
    }
}

static aft_case make_case(int64_t index, int n_keys, int64_t n_channels, int scalar_keys, random_stream *random)
{
    aft_case c = {.n_keys = n_keys, .n_channels = n_channels, .scalar_keys = scalar_keys};
    const bias_kind bias = (bias_kind)random_below(random, N_BIASES);
    const int64_t key_channels = scalar_keys ? 1 : n_channels;
    const int has_ones = index % 3 == 0;
    c.state = make_buffer(AFT_STATE_ROWS * n_channels, side_of(index));
    c.w = make_buffer(n_keys, side_of(index));
    c.k = make_rows(n_keys, key_channels, index, random);
    c.v = make_rows(n_keys, n_channels, index + 2, random);
    for (int j = 0; j < n_keys; j++)
        c.w.data[j] = make_bias(bias, j, random);
    for (int64_t i = 0; i < key_channels; i++)
        fill_keys(&c, i, random);
    for (int j = 0; has_ones && j < n_keys; j++)
        for (int64_t i = 0; i < n_channels; i++)
            c.v.memory.data[j * c.v.stride + i] = 1.0f;
    for (int64_t i = 0; i < n_channels; i++) {
        const float first = n_keys > 0 ? row_value(&c.k, 0, scalar_keys ? 0 : i) : 1.0f;
        fill_state(&c, i, isfinite(first) ? first + (float)random_below(random, 3) - 1.0f : 0.0f, has_ones, random);
    }
    keep_bits(&c.state);
    keep_bits(&c.w);
    keep_bits(&c.k.memory);
    keep_bits(&c.v.memory);
    return c;
}

static void free_case(aft_case *c)
{
    free_buffer(&c->state);
    free_buffer(&c->w);
    free_buffer(&c->k.memory);
    free_buffer(&c->v.memory);
}

static float key_of(const aft_case *c, int j, int64_t channel)
{
    return row_value(&c->k, j, c->scalar_keys ? 0 : channel);
}

static float state_of(const aft_case *c, int row, int64_t channel)
{
    return c->state.data[row * c->n_channels + channel];
}

static float state_before(const aft_case *c, int row, int64_t channel)
{
    return c->state.before[row * c->n_channels + channel];
}

/* Goes on with the keys [begin, end). */
static void add_keys(aft_case *c, int begin, int end)
{
    kernels->aft_keys(c->state.data, c->k.memory.data + begin * c->k.stride, c->k.stride,
                      c->v.memory.data + begin * c->v.stride, c->v.stride, c->w.data + begin, end - begin,
                      c->n_channels, c->scalar_keys);
}

static void run_keys(aft_case *c)
{
    restore_bits(&c->state);
    add_keys(c, 0, c->n_keys);
}

/* ---- The formulas ---- */

typedef struct followed_sum {
    double value, magnitude, error;
} followed_sum;

typedef struct followed {
    float ref_k, ref_w;
    followed_sum sums[N_SUMS]; /* num, den, new num, new den */
    int n_moves;
} followed;

/* e^sign a for the key, and how far off it may be. */
static double follow_power(const followed *f, float key, float w, double sign, double *error)
{
    const double from_k = (double)key - f->ref_k, from_w = (double)w - f->ref_w, a = sign * (from_k + from_w);
    const double off = HALF_ULP * (fabs(from_k) + fabs(from_w) + 2.25 * fabs(a)) * (1.0 + 0x1p-20), power = exp(a);
    *error = power > 0.0 ? power * (expm1(off) + 0x1p-22 * exp(off)) : 0.0;
    if (power < 2.0 * (double)FLT_MIN)
        *error += (double)FLT_MIN;
    return power;
}

static void multiply_sum(followed_sum *s, double factor, double error)
{
    s->error = s->error * (factor + error) + s->magnitude * error;
    s->value *= factor;
    s->magnitude *= factor;
    s->error += HALF_ULP * (s->magnitude + s->error) + (s->magnitude > 0.0 ? 0x1p-149 : 0.0);
}

static void add_to_sum(followed_sum *s, double weight, double error, double v)
{
    s->value += weight * v;
    s->magnitude += weight * fabs(v);
    s->error += error * fabs(v) + HALF_ULP * (weight + error) * fabs(v) + 0x1p-149;
    s->error += HALF_ULP * (s->magnitude + s->error);
}

static void follow_key(followed *f, float key, float w, float v)
{
    double error;
    if (w == -INFINITY || key == -INFINITY)
        return;
    const float a = (key - f->ref_k) + (w - f->ref_w);
    if (a > 8.0f) {
        const double factor = follow_power(f, key, w, -1.0, &error);
        for (int i = 0; i < N_SUMS; i++)
            multiply_sum(&f->sums[i], factor, error);
        f->ref_k = key;
        f->ref_w = w;
        f->n_moves++;
    }
    const double weight = follow_power(f, key, w, 1.0, &error);
    add_to_sum(&f->sums[AFT_NEW_NUM - FIRST_SUM], weight, error, v);
    add_to_sum(&f->sums[AFT_NEW_DEN - FIRST_SUM], weight, error, 1.0);
}

static followed follow_channel(const aft_case *c, int64_t channel)
{
    followed f = {.ref_k = state_before(c, AFT_REF_K, channel), .ref_w = state_before(c, AFT_REF_W, channel)};
    for (int i = 0; i < N_SUMS; i++) {
        f.sums[i].value = state_before(c, FIRST_SUM + i, channel);
        f.sums[i].magnitude = fabs(f.sums[i].value);
    }
    for (int j = 0; j < c->n_keys; j++)
        follow_key(&f, key_of(c, j, channel), c->w.data[j], row_value(&c->v, j, channel));
    return f;
}

static void compare_channel(const aft_case *c, int64_t channel)
{
    const followed f = follow_channel(c, channel);
    if (!same_bits(state_of(c, AFT_REF_K, channel), f.ref_k) || !same_bits(state_of(c, AFT_REF_W, channel), f.ref_w))
        fail_case("channel %d: reference (%a, %a), want (%a, %a)", (int)channel,
                  (double)state_of(c, AFT_REF_K, channel), (double)state_of(c, AFT_REF_W, channel), (double)f.ref_k,
                  (double)f.ref_w);
    for (int i = 0; i < N_SUMS; i++) {
        const float got = state_of(c, FIRST_SUM + i, channel), before = state_before(c, FIRST_SUM + i, channel);
        if (!is_close(got, f.sums[i].value, f.sums[i].error))
            fail_case("channel %d, row %d of the state: %a, want %a, off by %.3g of what is allowed, %d moves",
                      (int)channel, FIRST_SUM + i, (double)got, f.sums[i].value,
                      fabs(got - f.sums[i].value) / f.sums[i].error, f.n_moves);
        /* Without a move what was folded keeps its bits. */
        if (f.n_moves == 0 && i < AFT_NEW_NUM - FIRST_SUM && !same_bits(got, before))
            fail_case("channel %d, row %d of the state has changed", (int)channel, FIRST_SUM + i);
    }
}

/* With v = 1 both sums are the same, bit for bit. */
static void compare_ones(const aft_case *c, int64_t channel)
{
    for (int row = AFT_NUM; row <= AFT_NEW_NUM; row += AFT_NEW_NUM - AFT_NUM)
        if (!same_bits(state_of(c, row, channel), state_of(c, row + 1, channel)))
            fail_case("channel %d: from values of 1 row %d of the state is %a, row %d %a", (int)channel, row,
                      (double)state_of(c, row, channel), row + 1, (double)state_of(c, row + 1, channel));
}

static void expect_inputs_kept(const aft_case *c)
{
    expect_kept(&c->k.memory, "k");
    expect_kept(&c->v.memory, "v");
    expect_kept(&c->w, "w");
}

/* ---- Which bits are the same ---- */

static void expect_channel(const aft_case *c, const float *want, int64_t channel, const char *what)
{
    for (int row = 0; row < AFT_STATE_ROWS; row++)
        if (!same_value(state_of(c, row, channel), want[row * c->n_channels + channel]))
            fail_case("%s: channel %d, row %d of the state: %a, want %a", what, (int)channel, row,
                      (double)state_of(c, row, channel), (double)want[row * c->n_channels + channel]);
}

static void expect_state(const aft_case *c, const float *want, const char *what)
{
    for (int64_t i = 0; i < c->n_channels; i++)
        expect_channel(c, want, i, what);
}

static void take_state(const aft_case *c, float *to) { memcpy(to, c->state.data, c->state.n_floats * sizeof(float)); }

/* The calls that the keys are spread over do not matter. */
static void split_calls(aft_case *c, const float *whole, random_stream *random)
{
    restore_bits(&c->state);
    for (int j = 0; j < c->n_keys; j++)
        add_keys(c, j, j + 1);
    expect_state(c, whole, "one call for each key");
    restore_bits(&c->state);
    for (int begin = 0, end; begin < c->n_keys; begin = end) {
        end = begin + 1 + (int)random_below(random, c->n_keys - begin);
        add_keys(c, begin, end);
        add_keys(c, end, end);
    }
    expect_state(c, whole, "several calls");
}

/* Rows of a case in the opposite order, one behind the other. */
static buffer reverse_rows(const aft_case *c, const source_rows *rows)
{
    buffer reversed = make_buffer(c->n_keys * rows->n_channels, GUARD_END);
    for (int j = 0; j < c->n_keys; j++)
        for (int64_t i = 0; i < rows->n_channels; i++)
            reversed.data[j * rows->n_channels + i] = row_value(rows, c->n_keys - 1 - j, i);
    return reversed;
}

/* Keys backwards, by negative strides. */
static void go_backwards(aft_case *c)
{
    buffer want = make_buffer((int64_t)c->state.n_floats, GUARD_END), k = reverse_rows(c, &c->k),
           v = reverse_rows(c, &c->v);
    const int last = c->n_keys - 1;
    memcpy(want.data, c->state.before, want.n_floats * sizeof(float));
    kernels->aft_keys(want.data, k.data, c->k.n_channels, v.data, c->n_channels, c->w.data, c->n_keys, c->n_channels,
                      c->scalar_keys);
    restore_bits(&c->state);
    kernels->aft_keys(c->state.data, c->k.memory.data + last * c->k.stride, -c->k.stride,
                      c->v.memory.data + last * c->v.stride, -c->v.stride, c->w.data, c->n_keys, c->n_channels,
                      c->scalar_keys);
    expect_state(c, want.data, "backwards");
    free_buffer(&want);
    free_buffer(&k);
    free_buffer(&v);
}

/* The channels that stand beside a channel do not matter. */
static void run_alone(const aft_case *c, const float *whole, int64_t channel)
{
    float alone[AFT_STATE_ROWS];
    for (int row = 0; row < AFT_STATE_ROWS; row++)
        alone[row] = state_before(c, row, channel);
    kernels->aft_keys(alone, c->k.memory.data + (c->scalar_keys ? 0 : channel), c->k.stride, c->v.memory.data + channel,
                      c->v.stride, c->w.data, c->n_keys, 1, c->scalar_keys);
    for (int row = 0; row < AFT_STATE_ROWS; row++)
        if (!same_bits(alone[row], whole[row * c->n_channels + channel]))
            fail_case("channel %d, row %d of the state has other bits alone", (int)channel, row);
}

/* ---- What is not finite ---- */

/* One key, and a channel in it. */
typedef struct spoiled {
    int key;
    int64_t channel;
    const float *clean;   /* the state from the inputs as they were */
    const float *without; /* the state without the key */
} spoiled;

static void run_spoiled(aft_case *c, random_stream *random)
{
    const int middle = (int)random_below(random, c->n_keys + 1);
    restore_bits(&c->state);
    add_keys(c, 0, middle);
    add_keys(c, middle, c->n_keys);
}

static void restore_inputs(aft_case *c)
{
    restore_bits(&c->k.memory);
    restore_bits(&c->v.memory);
    restore_bits(&c->w);
}

static float *value_at(source_rows *r, int j, int64_t channel) { return r->memory.data + j * r->stride + channel; }

static int is_passed_over(const aft_case *c, int j, int64_t channel)
{
    return c->w.data[j] == -INFINITY || key_of(c, j, channel) == -INFINITY;
}

static float draw_spoiler(random_stream *random) { return spoilers[random_below(random, 3)]; }

/* w = -inf, and anything in k and v. */
static void hide_key(aft_case *c, const spoiled *s, random_stream *random)
{
    c->w.data[s->key] = -INFINITY;
    for (int64_t i = 0; i < c->k.n_channels; i++)
        *value_at(&c->k, s->key, i) = draw_spoiler(random);
    for (int64_t i = 0; i < c->n_channels; i++)
        *value_at(&c->v, s->key, i) = draw_spoiler(random);
    run_spoiled(c, random);
    expect_state(c, s->without, "w = -inf");
    restore_inputs(c);
}

/* k = -inf, and anything in v. */
static void hide_channel(aft_case *c, const spoiled *s, random_stream *random)
{
    *value_at(&c->k, s->key, c->scalar_keys ? 0 : s->channel) = -INFINITY;
    for (int64_t i = c->scalar_keys ? 0 : s->channel; i < (c->scalar_keys ? c->n_channels : s->channel + 1); i++)
        *value_at(&c->v, s->key, i) = draw_spoiler(random);
    run_spoiled(c, random);
    for (int64_t i = 0; i < c->n_channels; i++)
        expect_channel(c, c->scalar_keys || i == s->channel ? s->without : s->clean, i, "k = -inf");
    restore_inputs(c);
}

/* NaN or +inf in k or w, without a word about the reference from there on. */
static void expect_nan(const aft_case *c, int64_t channel, float value, const char *where)
{
    if (!isnan(state_of(c, AFT_NEW_NUM, channel)) || !isnan(state_of(c, AFT_NEW_DEN, channel)))
        fail_case("%s = %g: the sums of channel %d are %g / %g", where, (double)value, (int)channel,
                  (double)state_of(c, AFT_NEW_NUM, channel), (double)state_of(c, AFT_NEW_DEN, channel));
}

static void spoil_key(aft_case *c, const spoiled *s, float value, random_stream *random)
{
    *value_at(&c->k, s->key, c->scalar_keys ? 0 : s->channel) = value;
    run_spoiled(c, random);
    for (int64_t i = 0; i < c->n_channels; i++)
        if (c->w.data[s->key] != -INFINITY && (c->scalar_keys || i == s->channel))
            expect_nan(c, i, value, "k");
        else
            expect_channel(c, s->clean, i, "NaN or +inf in k elsewhere");
    restore_inputs(c);
}

static void spoil_bias(aft_case *c, const spoiled *s, float value, random_stream *random)
{
    c->w.data[s->key] = value;
    run_spoiled(c, random);
    for (int64_t i = 0; i < c->n_channels; i++)
        if (key_of(c, s->key, i) != -INFINITY)
            expect_nan(c, i, value, "w");
    restore_inputs(c);
}

/* NaN or an infinity in v concerns the numerator of its channel. */
static void spoil_value(aft_case *c, const spoiled *s, float value, random_stream *random)
{
    const int is_hidden = is_passed_over(c, s->key, s->channel);
    *value_at(&c->v, s->key, s->channel) = value;
    run_spoiled(c, random);
    for (int64_t i = 0; i < c->n_channels; i++) {
        if (i != s->channel || is_hidden) {
            expect_channel(c, s->clean, i, "not finite v elsewhere");
            continue;
        }
        const float got = state_of(c, AFT_NEW_NUM, i);
        if (isnan(value) ? !isnan(got) : isfinite(got))
            fail_case("v = %g: the numerator of channel %d is %g", (double)value, (int)i, (double)got);
        for (int row = 0; row < AFT_STATE_ROWS; row++)
            if (row != AFT_NEW_NUM && !same_bits(state_of(c, row, i), s->clean[row * c->n_channels + i]))
                fail_case("v = %g in channel %d: row %d of the state has changed", (double)value, (int)i, row);
    }
    restore_inputs(c);
}

static void spoil_one(aft_case *c, const float *clean, float *without, random_stream *random)
{
    const int key = (int)random_below(random, c->n_keys);
    const spoiled s = {key, random_below(random, c->n_channels), clean, without};
    restore_bits(&c->state);
    add_keys(c, 0, key);
    add_keys(c, key + 1, c->n_keys);
    take_state(c, without);
    hide_key(c, &s, random);
    hide_channel(c, &s, random);
    for (int i = 0; i < 2; i++) {
        spoil_key(c, &s, spoilers[i], random);
        spoil_bias(c, &s, spoilers[i], random);
    }
    for (int i = 0; i < 3; i++)
        spoil_value(c, &s, spoilers[i], random);
}

/* ---- aft_keys ---- */

static void check_keys_case(int64_t index, int n_keys, int64_t n_channels, int scalar_keys)
{
    random_stream random = random_start((uint64_t)(70000 + index));
    aft_case c = make_case(index, n_keys, n_channels, scalar_keys, &random);
    float *whole = malloc(2 * c.state.n_floats * sizeof(float));
    describe_case("aft_keys", "case %d, %d keys%s, %d channels, strides %d and %d", (int)index, n_keys,
                  scalar_keys ? " of one number" : "", (int)n_channels, (int)c.k.stride, (int)c.v.stride);
    if (whole == NULL)
        fail_case("no memory");
    run_keys(&c);
    for (int64_t i = 0; i < n_channels; i++) {
        compare_channel(&c, i);
        if (index % 3 == 0)
            compare_ones(&c, i);
    }
    take_state(&c, whole);
    split_calls(&c, whole, &random);
    if (n_keys > 0)
        go_backwards(&c);
    for (int64_t i = 0; i < n_channels; i += n_channels < 50 ? 1 : 1 + random_below(&random, n_channels / 8))
        run_alone(&c, whole, i);
    if (n_keys > 0 && c.k.stride > 0 && c.v.stride > 0)
        spoil_one(&c, whole, whole + c.state.n_floats, &random);
    expect_inputs_kept(&c);
    keep_bits(&c.state);
    expect_kept(&c.state, "state"); /* the canaries */
    free(whole);
    free_case(&c);
}

void check_aft_keys(void **state)
{
    (void)state;
    random_stream random = random_start(70000);
    int64_t index = 0;
    for (int scalar_keys = 0; scalar_keys < 2; scalar_keys++) {
        for (int n_keys = 0; n_keys <= MAX_KEYS; n_keys++)
            for (int turn = 0; turn < 3; turn++)
                check_keys_case(++index, n_keys, 1 + random_below(&random, 3 * kernels->vector_lanes + 2), scalar_keys);
        for (int i = 0; i < n_channel_counts(); i++)
            check_keys_case(++index, 1 + (int)random_below(&random, MAX_KEYS), channel_count(i), scalar_keys);
    }
}

/* ---- aft_fold ---- */

static void check_fold_case(int64_t index, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(71000 + index));
    buffer state = make_buffer(AFT_STATE_ROWS * n_channels, side_of(index));
    const size_t n = (size_t)n_channels;
    describe_case("aft_fold", "%d channels", (int)n_channels);
    fill_floats(state.data, AFT_STATE_ROWS * n_channels, 1.0f, &random);
    state.data[AFT_NUM * n + (size_t)random_below(&random, 4 * n_channels)] = index % 2 ? NAN : INFINITY;
    state.data[random_below(&random, n_channels)] = NAN;
    keep_bits(&state);
    kernels->aft_fold(state.data, n_channels);
    for (size_t i = 0; i < 2 * n; i++) {
        const float *before = state.before + AFT_NUM * n + i, *got = state.data + AFT_NUM * n + i;
        if (!is_kept(&state, i))
            fail_case("the reference has changed at %zu", i);
        if (!same_value(got[0], before[0] + before[2 * n]))
            fail_case("sum %zu: %a + %a gives %a", i, (double)before[0], (double)before[2 * n], (double)got[0]);
        if (!same_bits(got[2 * n], 0.0f))
            fail_case("new sum %zu is %a after the fold", i, (double)got[2 * n]);
    }
    keep_bits(&state);
    expect_kept(&state, "state"); /* the canaries */
    free_buffer(&state);
}

/* The kernels in a row: keys in pieces, a fold behind each, then the result. Scores lie in +-12, so that the reference
 * moves at most three times and each a is off by at most u (12 + 12 + 24). A weight is off by four times that, by
 * 30 u of its own, by four powers of 4 u and four products; a sum by 70 roundings and as many folds. Both sums are below 512 u. */
static void check_whole_row(int64_t index, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(73000 + index));
    const int n_keys = (int)random_below(&random, MAX_KEYS + 1);
    aft_case c = {.n_keys = n_keys, .n_channels = n_channels};
    buffer out = make_buffer(n_channels, side_of(index));
    describe_case("aft_fold", "%d keys, %d channels", n_keys, (int)n_channels);
    c.state = make_buffer(AFT_STATE_ROWS * n_channels, side_of(index));
    c.w = make_buffer(n_keys, side_of(index));
    c.k = make_rows(n_keys, n_channels, index, &random);
    c.v = make_rows(n_keys, n_channels, index + 2, &random);
    for (int j = 0; j < n_keys; j++)
        c.w.data[j] = random_below(&random, 4) == 0 ? -INFINITY : random_uniform(&random, -6.0f, 6.0f);
    for (int64_t i = 0; i < AFT_STATE_ROWS * n_channels; i++)
        c.state.data[i] = i < n_channels ? -INFINITY : 0.0f;
    for (int begin = 0, end; begin < n_keys; begin = end) {
        end = begin + 1 + (int)random_below(&random, n_keys - begin);
        add_keys(&c, begin, end);
        if (end < n_keys || index % 2 == 0)
            kernels->aft_fold(c.state.data, n_channels);
    }
    kernels->aft_row(out.data, NULL, c.state.data, n_channels);
    for (int64_t i = 0; i < n_channels; i++) {
        double num = 0.0, magnitude = 0.0, den = 0.0;
        for (int j = 0; j < n_keys; j++) {
            const double weight = exp((double)key_of(&c, j, i) + c.w.data[j]);
            num += weight * row_value(&c.v, j, i);
            magnitude += weight * fabs((double)row_value(&c.v, j, i));
            den += weight;
        }
        const double want = den == 0.0 ? 0.0 : num / den;
        if (!is_close(out.data[i], want, den == 0.0 ? 0.0 : 1024.0 * HALF_ULP * magnitude / den))
            fail_case("channel %d: %a, want %a", (int)i, (double)out.data[i], want);
    }
    free_buffer(&out);
    free_case(&c);
}

void check_aft_fold(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_channel_counts(); i++) {
        check_fold_case(i, channel_count(i / 2));
        check_whole_row(i, channel_count(i / 2));
    }
}
