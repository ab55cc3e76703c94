/* softmax_tile and softmax_careful_tile, lane by lane, and softmax_row against the formulas of kernels.h in double.
 *
 * The weight of a score s below the maximum M is e^d, d = s - M. The difference is rounded, so is its product with
 * log2 e, and so is that constant: the exponent of 2 is off by at most three times 2^-24 of itself. A weight lies
 * between the powers at these two ends, less or more the 2 ulp (at most 2^-22) of the exponential, or is 0 below
 * FLT_MIN. */
#include "kernel_checks/checks.h"

#include <float.h>

typedef void (*softmax_fn)(float *restrict s, float *restrict m, float *restrict l, float *restrict rescale, int n_keys,
                           int n_vectors);

typedef struct softmax_case {
    buffer s, m, l, rescale;
    int n_keys, n_vectors, n_lanes;
} softmax_case;

/* What one lane is filled with; a tile has lanes of all kinds side by side. */
typedef enum {
    ORDINARY,    /* scores of up to 30 or so, some hidden */
    FIRST,       /* the same, and no key seen before */
    HIDDEN,      /* a block in which every key is hidden */
    NOTHING,     /* the same, and no key seen before */
    GROWING,     /* each score larger than the one before */
    FAR_BELOW,   /* scores far below the maximum so far */
    LARGE,       /* +-1e4 */
    EQUAL,       /* all the same, of any magnitude up to 1e38 */
    OVERFLOWING, /* up to the largest float, and differences beyond it */
    WITH_NAN,
    WITH_INFINITY,
    N_KINDS
} lane_kind;

static float ordinary_score(random_stream *random)
{
    return random_below(random, 6) == 0 ? -INFINITY : 10.0f * random_normal(random);
}

static float make_score(lane_kind kind, int j, float of_lane, random_stream *random)
{
    switch (kind) {
    case HIDDEN:
    case NOTHING:
        return -INFINITY;
    case GROWING:
        return of_lane + (float)j * 3.0f;
    case FAR_BELOW:
        return random_uniform(random, -130.0f, -60.0f);
    case LARGE:
        return random_uniform(random, -1e4f, 1e4f);
    case EQUAL:
        return of_lane;
    case OVERFLOWING:
        return of_lane * random_uniform(random, -1.0f, 1.0f);
    case WITH_NAN:
        return random_below(random, 8) == 0 ? NAN : ordinary_score(random);
    case WITH_INFINITY:
        return random_below(random, 8) == 0 ? INFINITY : ordinary_score(random);
    default:
        return ordinary_score(random);
    }
}

/* One number that characterises a lane: a magnitude anywhere between 1 and the largest float. */
static float draw_of_lane(lane_kind kind, random_stream *random)
{
    const float sign = random_below(random, 2) == 0 ? 1.0f : -1.0f;
    if (kind == OVERFLOWING)
        return sign * FLT_MAX;
    if (kind == EQUAL)
        return sign * ldexpf(random_uniform(random, 1.0f, 2.0f), (int)random_below(random, 127));
    return 20.0f * random_normal(random);
}

static void fill_lane(softmax_case *c, int lane, lane_kind kind, random_stream *random)
{
    const float of_lane = draw_of_lane(kind, random);
    const int is_fresh = kind == FIRST || kind == NOTHING || random_below(random, 5) == 0;
    for (int j = 0; j < c->n_keys; j++)
        c->s.data[j * kernels->tile_lanes + lane] = make_score(kind, j, of_lane, random);
    c->m.data[lane] = is_fresh ? -INFINITY : kind == OVERFLOWING ? of_lane : random_uniform(random, -20.0f, 20.0f);
    c->l.data[lane] = is_fresh ? 0.0f : random_uniform(random, 1.0f, 50.0f);
}

static softmax_case make_softmax_case(int64_t index, int n_keys, int n_vectors, random_stream *random)
{
    softmax_case c = {.n_keys = n_keys, .n_vectors = n_vectors, .n_lanes = n_vectors * kernels->vector_lanes};
    c.s = make_tile(n_keys, side_of(index));
    c.m = make_tile(1, side_of(index));
    c.l = make_tile(1, side_of(index));
    c.rescale = make_tile(1, side_of(index));
    for (int lane = 0; lane < c.n_lanes; lane++)
        fill_lane(&c, lane, (lane_kind)random_below(random, N_KINDS), random);
    keep_bits(&c.s);
    keep_bits(&c.m);
    keep_bits(&c.l);
    return c;
}

static void free_softmax_case(softmax_case *c)
{
    free_buffer(&c->s);
    free_buffer(&c->m);
    free_buffer(&c->l);
    free_buffer(&c->rescale);
}

static void run_softmax(softmax_case *c, softmax_fn softmax)
{
    restore_bits(&c->s);
    restore_bits(&c->m);
    restore_bits(&c->l);
    softmax(c->s.data, c->m.data, c->l.data, c->rescale.data, c->n_keys, c->n_vectors);
}

/* ---- The formulas ---- */

/* max(m, max_j s_j); NaN is passed over. */
static float maximum_of(const softmax_case *c, int lane)
{
    float maximum = c->m.before[lane];
    for (int j = 0; j < c->n_keys; j++) {
        const float s = c->s.before[j * kernels->tile_lanes + lane];
        maximum = s > maximum ? s : maximum;
    }
    return maximum;
}

/* e^(s - M), or 0 for a hidden score. */
static int is_weight(float got, float s, float maximum)
{
    if (isnan(s) || s == INFINITY)
        return isnan(got);
    if (s == -INFINITY)
        return got == 0.0f;
    if (s == maximum)
        return got == 1.0f;
    const double t = ((double)s - (double)maximum) * 1.4426950408889634, error = 3.0 * HALF_ULP * fabs(t);
    const double low = exp2(t - error) * (1.0 - 0x1p-22) - 0x1p-149;
    const double high = exp2(t + error) * (1.0 + 0x1p-22) + 0x1p-149;
    return (got == 0.0f && low <= (double)FLT_MIN) || (got >= low && got <= high);
}

static void compare_sum(const softmax_case *c, int lane)
{
    float sum = 0.0f;
    for (int j = 0; j < c->n_keys; j++)
        sum += c->s.data[j * kernels->tile_lanes + lane];
    const double old = (double)c->l.before[lane] * c->rescale.data[lane];
    /* Two roundings where the product and the sum are not fused. */
    const double tolerance = HALF_ULP * (fabs(old) + fabs(old + sum)) + 0x1p-149;
    if (!is_close(c->l.data[lane], old + sum, tolerance))
        fail_case("lane %d: l = %a, want %a from the weights in the order of the keys", lane, (double)c->l.data[lane],
                  old + sum);
}

static void compare_lane(const softmax_case *c, int lane)
{
    const float maximum = maximum_of(c, lane);
    for (int j = 0; j < c->n_keys; j++) {
        const int i = j * kernels->tile_lanes + lane;
        const float s = c->s.before[i];
        /* Beside an infinite score the lane is NaN, whatever the other weights are. */
        if (maximum == INFINITY ? s == INFINITY && !isnan(c->s.data[i]) : !is_weight(c->s.data[i], s, maximum))
            fail_case("key %d, lane %d: score %a below maximum %a has weight %a", j, lane, (double)s, (double)maximum,
                      (double)c->s.data[i]);
    }
    if (!same_value(c->m.data[lane], maximum))
        fail_case("lane %d: m = %a, want %a", lane, (double)c->m.data[lane], (double)maximum);
    if (maximum == INFINITY) {
        if (!isnan(c->l.data[lane]))
            fail_case("lane %d: l = %a beside an infinite score", lane, (double)c->l.data[lane]);
        return;
    }
    if (!is_weight(c->rescale.data[lane], c->m.before[lane], maximum))
        fail_case("lane %d: from maximum %a to %a the rescale is %a", lane, (double)c->m.before[lane], (double)maximum,
                  (double)c->rescale.data[lane]);
    compare_sum(c, lane);
}

static void expect_softmax_kept(const softmax_case *c)
{
    expect_lanes_kept(&c->s, "s", c->n_lanes);
    expect_lanes_kept(&c->m, "m", c->n_lanes);
    expect_lanes_kept(&c->l, "l", c->n_lanes);
    expect_lanes_kept(&c->rescale, "rescale", c->n_lanes);
}

/* With values of 1 the product is the same sum as l, bit for bit: attention over ones gives exactly 1. */
static void compare_with_values(const softmax_case *c)
{
    enum { N_CHANNELS = 5 };
    static float v[HEED_BLOCK_KEYS * N_CHANNELS];
    for (int i = 0; i < HEED_BLOCK_KEYS * N_CHANNELS; i++)
        v[i] = 1.0f;
    buffer o = make_tile(N_CHANNELS, GUARD_END);
    for (int i = 0; i < N_CHANNELS; i++)
        memcpy(o.data + i * kernels->tile_lanes, c->l.before, (size_t)c->n_lanes * sizeof(float));
    kernels->values_tile(o.data, c->s.data, v, N_CHANNELS, c->rescale.data, c->n_keys, N_CHANNELS, c->n_vectors, NULL,
                         0);
    for (int i = 0; i < N_CHANNELS; i++)
        for (int lane = 0; lane < c->n_lanes; lane++)
            if (!same_value(o.data[i * kernels->tile_lanes + lane], c->l.data[lane]))
                fail_case("lane %d: the sum over values of 1 is %a, l is %a", lane,
                          (double)o.data[i * kernels->tile_lanes + lane], (double)c->l.data[lane]);
    free_buffer(&o);
}

/* A lane filled anew, with NaN, infinities, or what overflows, leaves the bits of all others. */
static void spoil_softmax_lane(softmax_case *c, int lane, softmax_fn softmax, random_stream *random)
{
    static float weights[HEED_BLOCK_KEYS * HEED_MAX_TILE_LANES], l[HEED_MAX_TILE_LANES], rescale[HEED_MAX_TILE_LANES];
    const size_t row = (size_t)kernels->tile_lanes;
    memcpy(weights, c->s.data, c->s.n_floats * sizeof(float));
    memcpy(l, c->l.data, row * sizeof(float));
    memcpy(rescale, c->rescale.data, row * sizeof(float));
    const lane_kind kinds[] = {WITH_NAN, WITH_INFINITY, OVERFLOWING};
    restore_bits(&c->s);
    restore_bits(&c->m);
    restore_bits(&c->l);
    fill_lane(c, lane, kinds[random_below(random, 3)], random);
    keep_bits(&c->s);
    keep_bits(&c->m);
    keep_bits(&c->l);
    run_softmax(c, softmax);
    for (int other = 0; other < c->n_lanes; other++) {
        if (other == lane)
            continue;
        for (int j = 0; j < c->n_keys; j++)
            if (!same_bits(c->s.data[j * (int)row + other], weights[j * (int)row + other]))
                fail_case("lane %d spoils lane %d", lane, other);
        if (!same_bits(c->l.data[other], l[other]) || !same_bits(c->rescale.data[other], rescale[other]))
            fail_case("lane %d spoils the sum of lane %d", lane, other);
    }
}

static void check_plain(softmax_case *c)
{
    describe_case("softmax_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    run_softmax(c, kernels->softmax_tile);
    for (int lane = 0; lane < c->n_lanes; lane++)
        compare_lane(c, lane);
    expect_softmax_kept(c);
    compare_with_values(c);
}

static void walk_softmax(uint64_t stream, void (*check)(softmax_case *c), softmax_fn softmax)
{
    random_stream random = random_start(stream);
    int64_t index = 0;
    for (int n_vectors = 1; n_vectors <= HEED_TILE_VECTORS; n_vectors++)
        for (int i = 0; i < n_key_counts(); i++)
            for (int turn = 0; turn < 1 + 12 / kernels->vector_lanes; turn++) {
                softmax_case c = make_softmax_case(index++, key_count(i), n_vectors, &random);
                check(&c);
                const int first = i % 16 == 0 ? 0 : (int)random_below(&random, c.n_lanes);
                for (int lane = first; lane < (i % 16 == 0 ? c.n_lanes : first + 1); lane++)
                    spoil_softmax_lane(&c, lane, softmax, &random);
                free_softmax_case(&c);
            }
}

void check_softmax_tile(void **state)
{
    (void)state;
    walk_softmax(50000, check_plain, kernels->softmax_tile);
}

/* The same bits as softmax_tile, but for the mark of hidden scores. */
static void check_careful(softmax_case *c)
{
    static float weights[HEED_BLOCK_KEYS * HEED_MAX_TILE_LANES];
    float m[HEED_MAX_TILE_LANES], l[HEED_MAX_TILE_LANES], rescale[HEED_MAX_TILE_LANES];
    const size_t lanes_bytes = (size_t)c->n_lanes * sizeof(float);
    describe_case("softmax_careful_tile", "%d keys, %d vectors", c->n_keys, c->n_vectors);
    run_softmax(c, kernels->softmax_tile);
    memcpy(weights, c->s.data, c->s.n_floats * sizeof(float));
    memcpy(m, c->m.data, lanes_bytes);
    memcpy(l, c->l.data, lanes_bytes);
    memcpy(rescale, c->rescale.data, lanes_bytes);
    run_softmax(c, kernels->softmax_careful_tile);
    for (int lane = 0; lane < c->n_lanes; lane++) {
        for (int j = 0; j < c->n_keys; j++) {
            const int i = j * kernels->tile_lanes + lane;
            const float want = c->s.before[i] == -INFINITY ? -1.0f : weights[i];
            if (!same_bits(c->s.data[i], want))
                fail_case("key %d, lane %d: score %a has weight %a, want %a", j, lane, (double)c->s.before[i],
                          (double)c->s.data[i], (double)want);
        }
        if (!same_bits(c->m.data[lane], m[lane]) || !same_bits(c->l.data[lane], l[lane]) ||
            !same_bits(c->rescale.data[lane], rescale[lane]))
            fail_case("lane %d: m, l or rescale have other bits than from softmax_tile", lane);
    }
    expect_softmax_kept(c);
}

void check_softmax_careful_tile(void **state)
{
    (void)state;
    walk_softmax(51000, check_careful, kernels->softmax_careful_tile);
}

/* ---- softmax_row ---- */

typedef struct row_case {
    buffer s, p, m, rescale;
    int n_keys;
} row_case;

static row_case make_row_case(int64_t index, int n_keys, lane_kind kind, random_stream *random)
{
    row_case c = {make_buffer(n_keys, side_of(index)), make_buffer(n_keys, side_of(index)),
                  make_buffer(1, side_of(index)), make_buffer(1, side_of(index)), n_keys};
    const float of_row = draw_of_lane(kind, random);
    const int is_fresh = kind == FIRST || kind == NOTHING || random_below(random, 3) == 0;
    for (int j = 0; j < n_keys; j++)
        c.s.data[j] = make_score(kind, j, of_row, random);
    c.m.data[0] = is_fresh ? -INFINITY : kind == OVERFLOWING ? of_row : random_uniform(random, -20.0f, 20.0f);
    keep_bits(&c.s);
    keep_bits(&c.m);
    return c;
}

static void free_row_case(row_case *c)
{
    free_buffer(&c->s);
    free_buffer(&c->p);
    free_buffer(&c->m);
    free_buffer(&c->rescale);
}

static void run_row(row_case *c, float *p)
{
    restore_bits(&c->m);
    kernels->softmax_row(p, c->s.data, c->s.data, c->n_keys, c->m.data, c->rescale.data);
}

static void compare_row(const row_case *c)
{
    float maximum = c->m.before[0];
    for (int j = 0; j < c->n_keys; j++)
        maximum = c->s.data[j] > maximum ? c->s.data[j] : maximum;
    for (int j = 0; j < c->n_keys; j++) {
        const float s = c->s.data[j];
        /* Beside an infinite score nothing is said of the others. */
        if (maximum == INFINITY ? s == INFINITY && !isnan(c->p.data[j]) : !is_weight(c->p.data[j], s, maximum))
            fail_case("key %d: score %a below maximum %a has weight %a", j, (double)s, (double)maximum,
                      (double)c->p.data[j]);
    }
    if (!same_value(c->m.data[0], maximum))
        fail_case("m = %a, want %a", (double)c->m.data[0], (double)maximum);
    if (maximum != INFINITY && !is_weight(c->rescale.data[0], c->m.before[0], maximum))
        fail_case("from maximum %a to %a the rescale is %a", (double)c->m.before[0], (double)maximum,
                  (double)c->rescale.data[0]);
}

/* The bits of a weight follow from its score and the maximum alone, wherever in the row the score stands. */
static void weigh_alone(const row_case *c)
{
    for (int j = 0; j < c->n_keys; j++) {
        float weight = 0.0f, m = c->m.data[0], rescale = 0.0f;
        kernels->softmax_row(&weight, c->s.data + j, NULL, 1, &m, &rescale);
        if (!same_value(weight, c->p.data[j]))
            fail_case("key %d has weight %a, and %a alone", j, (double)c->p.data[j], (double)weight);
    }
}

/* In place of the scores, with any address for what is ahead. */
static void run_in_place(row_case *c, random_stream *random)
{
    const uintptr_t addresses[] = {0, 4, UINTPTR_MAX - 3, UINTPTR_MAX / 2, (uintptr_t)(c->s.data + c->n_keys)};
    float m = c->m.before[0], rescale = 0.0f;
    kernels->softmax_row(c->s.data, c->s.data, (const float *)addresses[random_below(random, 5)], c->n_keys, &m,
                         &rescale);
    for (int j = 0; j < c->n_keys; j++)
        if (!same_value(c->s.data[j], c->p.data[j]))
            fail_case("in place: key %d has weight %a, want %a", j, (double)c->s.data[j], (double)c->p.data[j]);
    if (!same_value(m, c->m.data[0]) || !same_value(rescale, c->rescale.data[0]))
        fail_case("in place: m = %a, rescale %a, want %a, %a", (double)m, (double)rescale, (double)c->m.data[0],
                  (double)c->rescale.data[0]);
    restore_bits(&c->s);
}

/* A score that becomes NaN or -inf, and was not the maximum, changes its own weight. */
static void spoil_score(row_case *c, int j, float value)
{
    const float m = c->m.data[0], rescale = c->rescale.data[0];
    if (c->s.data[j] == m)
        return;
    c->s.data[j] = value;
    run_row(c, c->p.data);
    for (int i = 0; i < c->n_keys; i++)
        if (i == j ? !is_weight(c->p.data[i], value, m) : !same_value(c->p.data[i], c->p.before[i]))
            fail_case("key %d of score %g: key %d has weight %a", j, (double)value, i, (double)c->p.data[i]);
    if (!same_value(c->m.data[0], m) || !same_value(c->rescale.data[0], rescale))
        fail_case("key %d of score %g: m = %a, rescale %a, want %a, %a", j, (double)value, (double)c->m.data[0],
                  (double)c->rescale.data[0], (double)m, (double)rescale);
    restore_bits(&c->s);
}

static void check_row_case(int64_t index, int n_keys, lane_kind kind)
{
    random_stream random = random_start((uint64_t)(52000 + index));
    row_case c = make_row_case(index, n_keys, kind, &random);
    describe_case("softmax_row", "%d keys of kind %d", n_keys, (int)kind);
    run_row(&c, c.p.data);
    compare_row(&c);
    expect_kept(&c.s, "s");
    weigh_alone(&c);
    run_in_place(&c, &random);
    keep_bits(&c.p);
    for (int j = 0; j < n_keys && c.m.data[0] < INFINITY; j += 1 + (int)random_below(&random, 16))
        spoil_score(&c, j, j % 2 ? NAN : -INFINITY);
    buffer *const written[] = {&c.s, &c.p, &c.m, &c.rescale};
    for (int i = 0; i < 4; i++) {
        keep_bits(written[i]);
        expect_kept(written[i], "s, p, m or rescale"); /* the canaries */
    }
    free_row_case(&c);
}

void check_softmax_row(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int kind = 0; kind < N_KINDS; kind++) {
        check_row_case(index++, 0, (lane_kind)kind);
        for (int i = 0; i < n_key_counts(); i++)
            check_row_case(index++, key_count(i), (lane_kind)kind);
    }
}
