/* Arguments of the steps of the Attention-Free Transformer, sizes of their states, and the filter of equation 8. */
#include "aft_stream.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

static const oracle_aft_form forms[] = {ORACLE_AFT_SIMPLE, ORACLE_AFT_LOCAL, ORACLE_AFT_CONV};

/* ---- arguments ---- */

typedef struct refused_call {
    stream *s;
    heed_tensor q, k, v, out, w, u, f, filter;
    heed_aft_options options;
    heed_mask mask;
    heed_aft_local_state state;
} refused_call;

static refused_call good_call(stream *s)
{
    refused_call c = {.s = s, .q = s->q, .k = s->k, .v = s->v, .out = s->out, .w = s->w, .filter = s->filter};
    c.options = s->options;
    c.mask = (heed_mask)HEED_MASK_INIT;
    c.mask.causal = 1;
    c.state = stream_state(s, s->state);
    return c;
}

/* The call fails so, says why, and leaves out and state as they are. */
static void expect_refused(refused_call *c, heed_status want, const char *part_of_message)
{
    stream s = *c->s;
    unsigned char *before = malloc((size_t)s.state_bytes);
    assert_non_null(before);
    memcpy(before, s.state, (size_t)s.state_bytes);
    s.filter = c->filter;
    c->options.mask = &c->mask;
    c->options.w = c->w.data ? &c->w : NULL;
    const heed_status status = stream_call(&s, fixture_context, &c->q, &c->k, &c->v, &c->options, &c->state, &c->out);
    const char *message = heed_context_message(fixture_context);
    if (status != want || !strstr(message, part_of_message))
        fail_msg("%s: %s; wanted %s: %s", heed_status_text(status), message, heed_status_text(want), part_of_message);
    assert_memory_equal(before, s.state, (size_t)s.state_bytes);
    for (int64_t t = 0; t < s.out.shape[2]; t++)
        assert_true(isnan(*tensor_at(&s.out, 0, 0, t, 0)));
    free(before);
}

static void wrong_arguments(void **state)
{
    (void)state;
    static const int64_t lengths[] = {2, 7}, key_lengths[] = {1, 1};
    refused_call c;
#define REFUSED(change, status, message)                                                                               \
    do {                                                                                                               \
        c = good_call(s);                                                                                              \
        change;                                                                                                        \
        expect_refused(&c, status, message);                                                                           \
    } while (0)
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], 2, 2, 6, 4, 3, 0);
        stream_give_bias(s, 1, 0);
        tensor_fill(&s->out, NAN);
        heed_tensor inside = heed_tensor_bhnd(s->state, HEED_FLOAT32, 2, 2, 6, 4);
        REFUSED(c.options.struct_size--, HEED_ERROR_ARGUMENT, "options");
        REFUSED(c.options.gate = (heed_gate)7, HEED_ERROR_ARGUMENT, "gate");
        REFUSED(c.q.data = NULL, HEED_ERROR_ARGUMENT, "q: ");
        REFUSED(c.k.shape[2] = c.v.shape[2] = 5, HEED_ERROR_SHAPE, "k: 6");
        REFUSED(c.v.shape[3] = 3, HEED_ERROR_SHAPE, "v: 4");
        REFUSED(c.k.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "k: ");
        REFUSED(c.out.shape[2] = 5, HEED_ERROR_SHAPE, "out: 6");
        REFUSED(c.mask.struct_size--, HEED_ERROR_ARGUMENT, "mask");
        REFUSED(c.mask.causal = 0, HEED_ERROR_UNSUPPORTED, "mask.causal");
        REFUSED(c.mask.window_left = 3, HEED_ERROR_UNSUPPORTED, "mask.window_left");
        REFUSED(c.mask.window_right = 0, HEED_ERROR_UNSUPPORTED, "mask.window_right");
        REFUSED(c.mask.key_lengths = key_lengths, HEED_ERROR_UNSUPPORTED, "mask.key_lengths");
        REFUSED(c.mask.alignment = HEED_ALIGN_TOP_LEFT, HEED_ERROR_UNSUPPORTED, "mask.alignment");
        REFUSED(c.mask.query_lengths = lengths, HEED_ERROR_ARGUMENT, "mask.query_lengths[1]: 7");
        REFUSED(c.mask.query_lengths = c.state.n_tokens, HEED_ERROR_OVERLAP, "state.n_tokens: overlaps mask");
        REFUSED(c.state.sums.shape[2] = 5, HEED_ERROR_SHAPE, "state.sums: 6");
        REFUSED(c.state.sums.shape[3] = 3, HEED_ERROR_SHAPE, "state.sums: 4");
        REFUSED(c.state.sums.stride[1] = 0, HEED_ERROR_STRIDE, "state.sums");
        REFUSED(c.state.sums.data = NULL, HEED_ERROR_ARGUMENT, "state.sums");
        REFUSED(c.state.n_tokens = NULL, HEED_ERROR_ARGUMENT, "state.n_tokens: is NULL");
        REFUSED(c.state.n_tokens = (int64_t *)(void *)((char *)c.state.n_tokens + 4), HEED_ERROR_ARGUMENT, "aligned");
        int64_t negative[2] = {0, -1}, many[2] = {((int64_t)1 << 60) + 1, 0};
        REFUSED(c.state.n_tokens = negative, HEED_ERROR_ARGUMENT, "state.n_tokens[1]: -1");
        REFUSED(c.state.n_tokens = many, HEED_ERROR_ARGUMENT, "state.n_tokens[0]");
        REFUSED(c.state.n_tokens = s->q.data, HEED_ERROR_ARGUMENT, "state.n_tokens[0]"); /* not 0..2^60 */
        REFUSED(c.out = inside, HEED_ERROR_OVERLAP, "overlaps out");
        REFUSED(c.q = inside, HEED_ERROR_OVERLAP, "overlaps q");
        REFUSED(c.v = inside, HEED_ERROR_OVERLAP, "overlaps v");
        REFUSED(c.out = c.q, HEED_ERROR_OVERLAP, "out: overlaps q");
        if (s->window > 0) {
            REFUSED(c.state.keys.shape[2] = 2, HEED_ERROR_SHAPE, "state.keys: 3");
            REFUSED(c.state.values.shape[2] = 2, HEED_ERROR_SHAPE, "state.values: 3");
            REFUSED(c.state.values = c.state.sums, HEED_ERROR_SHAPE, "state.values");
            REFUSED(c.state.values.data = c.state.sums.data, HEED_ERROR_OVERLAP, "state.values: overlaps state.sums");
            REFUSED(c.state.keys.data = c.state.values.data, HEED_ERROR_OVERLAP, "overlaps state.keys");
        }
        if (s->form == ORACLE_AFT_LOCAL) {
            REFUSED(c.options.window = 0, HEED_ERROR_ARGUMENT, "options.window");
            REFUSED((c.options.window = 4, c.w.data = NULL, c.options.banded = 0), HEED_ERROR_SHAPE, "options.window");
            REFUSED(c.options.banded = 0, HEED_ERROR_UNSUPPORTED, "options.w: ");
            REFUSED(c.w.shape[3] = 2, HEED_ERROR_SHAPE, "options.w: 3");
            REFUSED((c.w.data = NULL, c.options.banded = 0, c.options.query_factors = c.options.key_factors = &s->q),
                    HEED_ERROR_SHAPE, "options.key_factors: 8");
            REFUSED(c.w.data = c.state.values.data, HEED_ERROR_OVERLAP, "overlaps options.w");
        } else {
            REFUSED(c.options.window = 3, HEED_ERROR_ARGUMENT, "options.window");
        }
        if (s->form == ORACLE_AFT_CONV) {
            REFUSED((c.options.grid_height = 2, c.options.grid_width = 3), HEED_ERROR_UNSUPPORTED, "grid");
            REFUSED(c.filter.shape[3] = 2, HEED_ERROR_SHAPE, "state.keys: 2 tokens expected (the taps of filter)");
            REFUSED(c.filter.data = c.state.keys.data, HEED_ERROR_OVERLAP, "overlaps filter");
        }
        stream_destroy(s);
    }
#undef REFUSED
    stream *s = stream_create(ORACLE_AFT_SIMPLE, 1, 1, 2, 3, 0, 0);
    assert_int_equal(heed_aft_simple_step(fixture_context, &s->q, &s->k, &s->v, NULL, NULL, &s->out),
                     HEED_ERROR_ARGUMENT);
    assert_non_null(strstr(heed_context_message(fixture_context), "state: is NULL"));
    stream_destroy(s);
}

static void too_little_scratch(void **state)
{
    (void)state;
    heed_config config = HEED_CONFIG_INIT;
    heed_context *context;
    config.isa = runner_isa();
    config.scratch_bytes = 64;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    stream *s = stream_create(ORACLE_AFT_SIMPLE, 1, 1, 2, 3, 0, 0);
    const heed_aft_simple_state x = heed_aft_simple_state_view(s->state, 1, 1, 3);
    assert_int_equal(heed_aft_simple_step(context, &s->q, &s->k, &s->v, NULL, &x, &s->out), HEED_ERROR_SCRATCH);
    assert_int_equal(x.n_tokens[0], 0);
    assert_true(isnan(*tensor_at(&s->out, 0, 0, 0, 0)));
    heed_context_destroy(context);
    stream_destroy(s);
}

static void sizes_of_states(void **state)
{
    (void)state;
    int64_t bytes = -1;
    assert_int_equal(heed_aft_simple_state_bytes(2, 3, 5, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 2 + 24 * 2 * 3 * 5);
    assert_int_equal(heed_aft_local_state_bytes(2, 3, 4, 5, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 2 + 4 * 2 * 3 * (6 + 2 * 4) * 5);
    assert_int_equal(heed_aft_conv_state_bytes(2, 3, 4, 5, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 2 + 4 * 2 * 3 * ((6 + 4) * 5 + 4));
    bytes = -1;
    assert_int_equal(heed_aft_simple_state_bytes(2, 3, 5, NULL), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_aft_simple_state_bytes(-1, 3, 5, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_aft_simple_state_bytes(2, 3, 0, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_aft_local_state_bytes(2, 3, 0, 5, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_aft_local_state_bytes(2, 3, INT64_MAX, 5, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_aft_local_state_bytes((int64_t)1 << 40, 3, (int64_t)1 << 40, 5, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_aft_conv_state_bytes(2, 3, -4, 5, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(bytes, -1);

    stream *s = stream_create(ORACLE_AFT_LOCAL, 2, 1, 3, 4, 3, 0);
    heed_aft_local_state x = stream_state(s, s->state);
    stream_step(s, fixture_context, &x, 0, 3, NULL);
    assert_int_equal(heed_aft_local_state_reset(NULL, 0), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_aft_local_state_reset(&x, 2), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_aft_local_state_reset(&x, -2), HEED_ERROR_ARGUMENT);
    x.sums.shape[2] = 5;
    assert_int_equal(heed_aft_local_state_reset(&x, 0), HEED_ERROR_SHAPE);
    x = stream_state(s, s->state);
    x.n_tokens = NULL;
    assert_int_equal(heed_aft_local_state_reset(&x, 0), HEED_ERROR_ARGUMENT);
    x = stream_state(s, s->state);
    assert_int_equal(x.n_tokens[0], 3);
    stream_destroy(s);
}

/* ---- the filter of equation 8 ---- */

static void filter_of_equation_8(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{3, 1, 7}, {2, 5, 4}, {1, 1, 1}, {4, 11, 11}, {0, 1, 3}};
    for (size_t n = 0; n < N_OF(sizes); n++) {
        const int64_t heads = sizes[n][0], taps = sizes[n][1] * sizes[n][2];
        random_stream random = random_start(n);
        guarded p_memory, filter_memory;
        const heed_tensor p =
            tensor_create(&p_memory, HEED_FLOAT32, 1, heads, sizes[n][1], sizes[n][2], LAYOUT_PADDED, GUARD_END);
        const heed_tensor filter =
            tensor_create(&filter_memory, HEED_FLOAT32, 1, heads, sizes[n][1], sizes[n][2], LAYOUT_PADDED, GUARD_END);
        tensor_fill_uniform(&p, &random, 3.0f, 5.0f);
        const float gamma[4] = {0.5f, -2.0f, 1.0f, 3.0f}, beta[4] = {0.25f, 1.0f, -1.0f, 0.0f}, zero[4] = {0};
        double *want = calloc((size_t)(heads * taps + 1), sizeof *want);
        assert_non_null(want);
        for (int64_t h = 0; h < heads; h++) {
            double mean = 0.0, variance = 0.0;
            for (int64_t i = 0; i < taps; i++)
                mean += (double)*tensor_at(&p, 0, h, i / sizes[n][2], i % sizes[n][2]) / (double)taps;
            for (int64_t i = 0; i < taps; i++)
                variance += pow((double)*tensor_at(&p, 0, h, i / sizes[n][2], i % sizes[n][2]) - mean, 2.0);
            for (int64_t i = 0; i < taps; i++)
                want[h * taps + i] = (double)gamma[h] *
                                         ((double)*tensor_at(&p, 0, h, i / sizes[n][2], i % sizes[n][2]) - mean) /
                                         (sqrt(variance / (double)taps) + 1e-5) +
                                     (double)beta[h];
        }
        assert_int_equal(heed_aft_conv_filter(fixture_context, &p, gamma, beta, &filter), HEED_OK);
        compare_result r = compare_each(&filter, want, 1e-10, 0x1p-24); /* rounded once */
        if (!r.equal)
            fail_msg("%s", r.text);

        assert_int_equal(heed_aft_conv_filter(fixture_context, &p, zero, zero, &filter), HEED_OK);
        memset(want, 0, (size_t)(heads * taps) * sizeof *want);
        r = compare_each(&filter, want, 0.0, 0.0);
        if (!r.equal)
            fail_msg("gamma = beta = 0: %s", r.text);

        tensor_fill(&p, 0.1f);
        assert_int_equal(heed_aft_conv_filter(fixture_context, &p, gamma, beta, &filter), HEED_OK);
        for (int64_t i = 0; i < heads * taps; i++)
            want[i] = (double)beta[i / taps];
        r = compare_each(&filter, want, 0.0, 0.0);
        if (!r.equal)
            fail_msg("taps all alike: %s", r.text);
        free(want);
        assert_true(guarded_intact(&filter_memory));
        guarded_destroy(&p_memory);
        guarded_destroy(&filter_memory);
    }
}

static void refused_filters(void **state)
{
    (void)state;
    float taps[12] = {0}, made[12] = {0}, gamma[2] = {1, 1};
    const heed_tensor p = heed_tensor_bhnd(taps, HEED_FLOAT32, 1, 2, 2, 3);
    const heed_tensor filter = heed_tensor_bhnd(made, HEED_FLOAT32, 1, 2, 2, 3);
    heed_tensor x;
    made[0] = 7.0f;
#define REFUSED(change, p_, gamma_, beta_, filter_, status, part)                                                      \
    do {                                                                                                               \
        change;                                                                                                        \
        assert_int_equal(heed_aft_conv_filter(fixture_context, p_, gamma_, beta_, filter_), status);                   \
        if (!strstr(heed_context_message(fixture_context), part))                                                      \
            fail_msg("%s; wanted %s", heed_context_message(fixture_context), part);                                    \
        assert_true(made[0] == 7.0f);                                                                                  \
    } while (0)
    REFUSED((void)0, NULL, gamma, gamma, &filter, HEED_ERROR_ARGUMENT, "p: is NULL");
    REFUSED((void)0, &p, NULL, gamma, &filter, HEED_ERROR_ARGUMENT, "gamma: is NULL");
    REFUSED((void)0, &p, gamma, NULL, &filter, HEED_ERROR_ARGUMENT, "beta: is NULL");
    REFUSED((void)0, &p, gamma, gamma, NULL, HEED_ERROR_ARGUMENT, "filter: is NULL");
    REFUSED((x = p, x.shape[0] = 2, x.shape[1] = 1), &x, gamma, gamma, &filter, HEED_ERROR_SHAPE, "p: 1 batches");
    REFUSED((x = p, x.shape[3] = 0), &x, gamma, gamma, &filter, HEED_ERROR_SHAPE, "p: 1 tap");
    REFUSED((x = filter, x.shape[2] = 1), &p, gamma, gamma, &x, HEED_ERROR_SHAPE, "filter: 2");
    REFUSED((x = p, x.dtype = HEED_BOOL), &x, gamma, gamma, &filter, HEED_ERROR_DTYPE, "p: ");
    REFUSED((x = filter, x.stride[1] = 0), &p, gamma, gamma, &x, HEED_ERROR_STRIDE, "filter: ");
    REFUSED((x = p, x.data = made), &x, gamma, gamma, &filter, HEED_ERROR_OVERLAP, "filter: overlaps p");
    REFUSED((void)0, &p, made + 4, gamma, &filter, HEED_ERROR_OVERLAP, "filter: overlaps gamma");
    REFUSED((void)0, &p, gamma, made + 4, &filter, HEED_ERROR_OVERLAP, "filter: overlaps beta");
#undef REFUSED
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_arguments),      cmocka_unit_test(too_little_scratch), cmocka_unit_test(sizes_of_states),
        cmocka_unit_test(filter_of_equation_8), cmocka_unit_test(refused_filters),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
