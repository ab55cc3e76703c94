/* pool_rows: sums over the rows of a group, which stand for it. */
#include "kernel_checks/checks.h"

/* How groups follow each other in x. */
typedef enum {
    BEHIND,     /* one behind the other, without a gap or with one */
    BESIDE,     /* tokens of a group are rows of a grid: groups stand side by side */
    OVERLAPPED, /* each begins one token after the one before */
    SHARED,     /* one group for all */
    N_LAYOUTS
} group_layout;

typedef struct pool_case {
    buffer x, weights;
    source_rows o;
    int64_t group_stride, x_stride, n_channels;
    const float *weights_at; /* weights, or NULL */
    float factor;
    int n_tokens, n_groups, adds;
} pool_case;

static void place_groups(pool_case *p, group_layout layout, random_stream *random)
{
    const int64_t gap = random_below(random, 5), row = p->n_channels + gap;
    p->x_stride = layout == BESIDE ? row * p->n_groups : row;
    p->group_stride = layout == BEHIND       ? p->n_tokens * row + random_below(random, 3) * row + gap
                      : layout == BESIDE     ? row
                      : layout == OVERLAPPED ? row
                                             : 0;
}

/* Gaps of x stay NaN, and so does what is overwritten. */
static pool_case make_pool_case(int64_t index, int n_tokens, int n_groups, int64_t n_channels, random_stream *random)
{
    pool_case p = {.n_tokens = n_tokens, .n_groups = n_groups, .n_channels = n_channels, .adds = (int)(index % 2)};
    const float factors[] = {1.0f, 1.0f / (float)(n_tokens + 1), -3.5f, 0.0f};
    const group_layout layout = (group_layout)random_below(random, N_LAYOUTS);
    place_groups(&p, layout, random);
    const int64_t last = (n_groups - 1) * p.group_stride + (n_tokens - 1) * p.x_stride;
    p.x = make_buffer(n_tokens > 0 && n_groups > 0 ? last + n_channels : 0, side_of(index / 2));
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n_tokens; t++)
            fill_floats(p.x.data + g * p.group_stride + t * p.x_stride, n_channels, 1.0f, random);
    p.weights = make_buffer(n_tokens, side_of(index));
    fill_floats(p.weights.data, n_tokens, 1.0f, random);
    p.weights_at = random_below(random, 2) ? p.weights.data : NULL;
    p.factor = factors[random_below(random, 4)];
    p.o = make_rows(n_groups, n_channels, 1 + 5 * index, random); /* never one row repeated */
    for (size_t i = 0; !p.adds && i < p.o.memory.n_floats; i++)
        p.o.memory.data[i] = NAN;
    keep_bits(&p.x);
    keep_bits(&p.weights);
    keep_bits(&p.o.memory);
    return p;
}

static void free_pool_case(pool_case *p)
{
    free_buffer(&p->x);
    free_buffer(&p->weights);
    free_buffer(&p->o.memory);
}

static void run_pool(pool_case *p)
{
    restore_bits(&p->o.memory);
    kernels->pool_rows(p->o.memory.data, p->o.stride, p->x.data, p->group_stride, p->x_stride, p->weights_at, p->factor,
                       p->n_tokens, p->n_groups, p->n_channels, p->adds);
}

/* In float in the order of the tokens from zero; joining it to o and the product with the factor round once each. And
 * in double, with the bound of a sum. */
static void compare_element(const pool_case *p, int g, int64_t c)
{
    const int fused = kernels->vector_lanes > 1;
    const double old = p->adds ? (double)p->o.memory.before[g * p->o.stride + c] : 0.0, factor = (double)p->factor;
    double want = old, magnitude = fabs(old);
    float sum = 0.0f;
    for (int t = 0; t < p->n_tokens; t++) {
        const float x = p->x.data[g * p->group_stride + t * p->x_stride + c];
        const float w = p->weights_at ? p->weights_at[t] : 1.0f, product = w * x;
        sum = fused ? fmaf(w, x, sum) : product + sum;
        want += (double)w * x;
        magnitude += fabs((double)w * x);
    }
    const double in_order = factor * (old + sum), rounding = (p->adds ? 2.0 : 1.0) * HALF_ULP * fabs(in_order);
    const float got = row_value(&p->o, g, c);
    if (!is_close(got, in_order, rounding * (1.0 + 0x1p-20) + 0x1p-149))
        fail_case("group %d, channel %d: %a, want %a from a sum in the order of tokens", g, (int)c, (double)got,
                  in_order);
    if (!is_close(got, factor * want, sum_bound(p->n_tokens + 2, fabs(factor) * magnitude)))
        fail_case("group %d, channel %d: %a, want %a", g, (int)c, (double)got, factor * want);
}

static void expect_inputs_kept(const pool_case *p)
{
    expect_kept(&p->x, "x");
    expect_kept(&p->weights, "weights");
    for (size_t i = 0; i < p->o.memory.n_floats; i++)
        if ((int64_t)i % p->o.stride >= p->n_channels && !is_kept(&p->o.memory, i))
            fail_case("float %d behind group %d has changed", (int)((int64_t)i % p->o.stride),
                      (int)((int64_t)i / p->o.stride));
    if (!guarded_intact(&p->o.memory.memory))
        fail_case("o: written outside its bounds");
}

/* A group by itself, and a channel by itself, have the bits that they have beside others. */
static void compare_alone(pool_case *p, random_stream *random)
{
    const int g = (int)random_below(random, p->n_groups);
    const int64_t c = random_below(random, p->n_channels);
    const float *before = p->o.memory.before + g * p->o.stride, *x = p->x.data + g * p->group_stride;
    buffer alone = make_buffer(p->n_channels, GUARD_END);
    memcpy(alone.data, before, (size_t)p->n_channels * sizeof(float));
    kernels->pool_rows(alone.data, 0, x, 0, p->x_stride, p->weights_at, p->factor, p->n_tokens, 1, p->n_channels,
                       p->adds);
    for (int64_t i = 0; i < p->n_channels; i++)
        if (!same_bits(alone.data[i], row_value(&p->o, g, i)))
            fail_case("group %d, channel %d: other bits in a group alone", g, (int)i);
    float one = before[c];
    kernels->pool_rows(&one, 1, x + c, 1, p->x_stride, p->weights_at, p->factor, p->n_tokens, 1, 1, p->adds);
    if (!same_bits(one, row_value(&p->o, g, c)))
        fail_case("group %d, channel %d: other bits in a channel alone", g, (int)c);
    free_buffer(&alone);
}

/* A number that is not finite shows in its channel of the groups that hold it, and nowhere else. */
static void spoil_element(pool_case *p, float value, random_stream *random)
{
    const int at_group = (int)random_below(random, p->n_groups), token = (int)random_below(random, p->n_tokens);
    const int64_t channel = random_below(random, p->n_channels);
    const int64_t place = at_group * p->group_stride + token * p->x_stride + channel;
    buffer clean = make_buffer((int64_t)p->o.memory.n_floats, GUARD_END);
    memcpy(clean.data, p->o.memory.data, clean.n_floats * sizeof(float));
    p->x.data[place] = value;
    run_pool(p);
    for (int g = 0; g < p->n_groups; g++)
        for (int64_t c = 0; c < p->n_channels; c++) {
            int holds = 0;
            for (int t = 0; t < p->n_tokens; t++)
                holds |= g * p->group_stride + t * p->x_stride + c == place;
            const float got = row_value(&p->o, g, c);
            if (holds ? isfinite(got) : !same_bits(got, clean.data[g * p->o.stride + c]))
                fail_case("%g in token %d of group %d, channel %d: group %d, channel %d is %g", (double)value, token,
                          at_group, (int)channel, g, (int)c, (double)got);
        }
    restore_bits(&p->x);
    free_buffer(&clean);
}

static void check_pool_case(int64_t index, int n_tokens, int n_groups, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(95000 + index));
    pool_case p = make_pool_case(index, n_tokens, n_groups, n_channels, &random);
    describe_case("pool_rows",
                  "%d tokens, %d groups, %d channels, strides %d, %d and %d, weights %d, factor %g, adds %d", n_tokens,
                  n_groups, (int)n_channels, (int)p.o.stride, (int)p.group_stride, (int)p.x_stride,
                  p.weights_at != NULL, (double)p.factor, p.adds);
    run_pool(&p);
    for (int g = 0; g < n_groups; g++)
        for (int64_t c = 0; c < n_channels; c++)
            compare_element(&p, g, c);
    expect_inputs_kept(&p);
    if (n_groups > 0)
        compare_alone(&p, &random);
    if (n_groups > 0 && n_tokens > 0)
        spoil_element(&p, index % 3 ? NAN : INFINITY, &random);
    expect_inputs_kept(&p);
    free_pool_case(&p);
}

/* A mean of ones is one for every power of two. */
static void check_means_of_ones(void)
{
    static float x[1024], mean[5];
    describe_case("pool_rows", "means of ones");
    for (int i = 0; i < 1024; i++)
        x[i] = 1.0f;
    for (int n_tokens = 1; n_tokens <= 1024; n_tokens *= 2) {
        kernels->pool_rows(mean, 5, x, 0, 0, NULL, 1.0f / (float)n_tokens, n_tokens, 1, 5, 0);
        for (int c = 0; c < 5; c++)
            if (mean[c] != 1.0f)
                fail_case("%d tokens: %a", n_tokens, (double)mean[c]);
    }
}

void check_pool_rows(void **state)
{
    (void)state;
    int64_t index = 0;
    for (int n_tokens = 0; n_tokens <= 17; n_tokens++)
        for (int n_groups = 0; n_groups <= 5; n_groups++)
            for (int n = 0; n < 3; n++, index++)
                check_pool_case(index, n_tokens, n_groups, 1 + (index * 29) % 150);
    for (int i = 0; i < n_channel_counts(); i++)
        for (int n = 0; n < 4; n++, index++)
            check_pool_case(index, 1 + (int)(index % 9), 1 + (int)(index % 4), channel_count(i));
    for (int n = 0; n < 8; n++, index++)
        check_pool_case(index, 100 + 300 * (n / 4), 3, 33);
    check_means_of_ones();
}
