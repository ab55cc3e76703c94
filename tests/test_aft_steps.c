/* The steps of the Attention-Free Transformer: token by token against the float64 oracle and the one-shot call; what must
 * hold to the bit (chunks, threads, neighbours, copies of a state); long sequences. */
#include "aft_stream.h"
#include "count_allocations.h"
#include "support/aft_forward.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* The bound of heed.h for random inputs, as a factor of max|v|. */
static const double bound = 1e-5;

/* All tokens from `first` on, in chunks. */
static void run_from(stream *s, int64_t first, int64_t chunk)
{
    const heed_aft_local_state x = stream_state(s, s->state);
    for (int64_t t = first; t < s->q.shape[2]; t += chunk) {
        const int64_t left = s->q.shape[2] - t;
        stream_step(s, fixture_context, &x, t, left < chunk ? left : chunk, NULL);
    }
}

static void run(stream *s, int64_t chunk)
{
    const heed_aft_local_state x = stream_state(s, s->state);
    assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
    run_from(s, 0, chunk);
}

static void expect_bits(const heed_tensor *got, const heed_tensor *want, const char *name)
{
    const compare_result r = compare_bits(got, want);
    if (!r.equal)
        fail_msg("%s: %s", name, r.text);
}

/* The causal call over all tokens. */
static void one_shot(const stream *s, const heed_tensor *forward, double *oracle)
{
    heed_aft_options options = s->options;
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    options.mask = &mask;
    options.w = s->w.data ? &s->w : NULL;
    heed_tensor f;
    if (s->u.data) {
        f = tensor_slice(&s->f, 2, s->window - 1, s->k.shape[2]);
        options.query_factors = &s->u;
        options.key_factors = &f;
    }
    if (oracle)
        oracle_aft(s->form, &s->q, &s->k, &s->v, &s->filter, &options, oracle, NULL);
    tensor_fill(forward, NAN);
    const heed_status status =
        aft_forward(s->form, fixture_context, &s->q, &s->k, &s->v, &s->filter, &options, forward, NULL);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
}

static int64_t count(const heed_tensor *x) { return x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3]; }

/* What has been stepped over against the oracle, and against the one-shot call. */
static void expect_one_shot(stream *s, const char *name)
{
    const int64_t *shape = s->out.shape;
    double *want = malloc((size_t)(count(&s->out) + 1) * sizeof *want);
    assert_non_null(want);
    const heed_tensor forward = stream_tensor(s, HEED_FLOAT32, shape[0], shape[1], shape[2], shape[3], LAYOUT_BHND);
    one_shot(s, &forward, want);
    const double largest = tensor_max_abs(&s->v);
    compare_result r = compare_tensor(&s->out, want, bound, largest);
    if (!r.equal)
        fail_msg("%s: form %d, window %d, %d channels: %s", name, (int)s->form, (int)s->window, (int)shape[3], r.text);
    for (int64_t i = 0; i < count(&s->out); i++) {
        const int64_t row = i / shape[3], h = row / shape[2] % shape[1], b = row / shape[2] / shape[1];
        want[i] = (double)*tensor_at(&forward, b, h, row % shape[2], i % shape[3]);
    }
    r = compare_tensor(&s->out, want, bound, largest);
    if (!r.equal)
        fail_msg("%s: form %d, window %d, %d channels, one shot: %s", name, (int)s->form, (int)s->window, (int)shape[3],
                 r.text);
    free(want);
}

/* A copy of what has been stepped over. */
static heed_tensor keep(stream *s)
{
    const int64_t *shape = s->out.shape;
    const heed_tensor copy = stream_tensor(s, HEED_FLOAT32, shape[0], shape[1], shape[2], shape[3], LAYOUT_BHND);
    tensor_copy(&copy, &s->out);
    return copy;
}

static const oracle_aft_form forms[] = {ORACLE_AFT_SIMPLE, ORACLE_AFT_LOCAL, ORACLE_AFT_CONV};

/* ---- right ---- */

static void chunks_equal_one_shot(void **state)
{
    (void)state;
    static const int64_t windows[] = {1, 2, 5, 63, 64, 70, 130, 300}, channels[] = {1, 17, 64, 129, 260};
    for (int64_t n = 0; n < 3 * 24; n++) {
        if (!runner_takes(n))
            continue;
        const int64_t tokens = n % 4 == 0 ? 9 : 150;
        stream *s = stream_create(forms[n % 3], 1 + n % 2, 1 + n / 2 % 2, tokens, channels[n / 3 % 5],
                                  windows[n / 3 % 8], (uint64_t)n);
        stream_give_bias(s, (int)(n / 6 % 4), (uint64_t)n);
        s->options.nothing_outside = s->form == ORACLE_AFT_LOCAL && n % 5 == 0;
        s->options.gate = n % 7 == 0 ? HEED_GATE_NONE : HEED_GATE_SIGMOID;
        run(s, 1);
        expect_one_shot(s, "step by step");
        const heed_tensor one_by_one = keep(s);
        const int64_t chunks[] = {3, 7, tokens};
        for (size_t c = 0; c < N_OF(chunks); c++) {
            run(s, chunks[c]);
            expect_bits(&s->out, &one_by_one, "chunks");
        }
        const heed_aft_local_state x = stream_state(s, s->state);
        for (int64_t b = 0; b < s->q.shape[0]; b++)
            assert_int_equal(x.n_tokens[b], tokens);
        stream_destroy(s);
    }
}

static void report_says_steps(void **state)
{
    (void)state;
    heed_report report = HEED_REPORT_INIT;
    stream *s = stream_create(ORACLE_AFT_LOCAL, 1, 1, 3, 4, 2, 0);
    run(s, 3);
    assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
    assert_string_equal(report.path, "aft-steps");
    assert_true(report.scratch_bytes > 0);
    stream_destroy(s);
}

static void empty_sizes(void **state)
{
    (void)state;
    for (int n = 0; n < 9; n++) {
        stream *s = stream_create(forms[n % 3], n / 3 != 0, n / 3 != 1, n / 3 != 2 ? 4 : 0, 5, 3, 0);
        const heed_aft_local_state x = stream_state(s, s->state);
        stream_step(s, fixture_context, &x, 0, s->q.shape[2], NULL);
        stream_destroy(s);
    }
}

static void keys_far_apart(void **state)
{
    (void)state;
    for (int64_t n = 0; n < 18; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n);
        stream *s = stream_create(forms[n % 3], 1, 1, 200, 20, 40, (uint64_t)n);
        stream_give_bias(s, 2, (uint64_t)n);
        tensor_fill_uniform(&s->k, &random, -1e4f, 1e4f);
        const heed_tensor *bias = s->form == ORACLE_AFT_CONV ? &s->filter : &s->w;
        if (s->form != ORACLE_AFT_SIMPLE)
            tensor_fill_uniform(bias, &random, -100.0f, 100.0f);
        /* A key far above all others, in the window and afterwards; or a slope of them. */
        for (int64_t t = 0; t < 200 && n / 3 % 3 != 0; t++) {
            for (int64_t c = 0; c < s->k.shape[3]; c++)
                *tensor_at(&s->k, 0, 0, t, c) = n / 3 % 3 == 1 ? (t == 50 ? 1e4f : random_normal(&random))
                                                               : 1e4f - 100.0f * (float)t + random_normal(&random);
        }
        run(s, 7);
        expect_one_shot(s, "far apart");
        stream_destroy(s);
    }
}

/* Hidden keys, hidden biases and visible NaN, all as in the one-shot call. */
static void nan_and_infinity(void **state)
{
    (void)state;
    for (int n = 0; n < 12; n++) {
        stream *s = stream_create(forms[n % 3], 1, 1, 90, 18, 6, (uint64_t)n);
        stream_give_bias(s, 1 + n / 3 % 2, (uint64_t)n);
        const int64_t c = s->form == ORACLE_AFT_CONV ? 0 : 5;
        for (int64_t t = 0; t < 3; t++) /* the first keys hidden: 0, though the value is NaN */
            *tensor_at(&s->k, 0, 0, t, c) = -INFINITY;
        *tensor_at(&s->v, 0, 0, 1, 5) = s->form == ORACLE_AFT_CONV ? 0.5f : NAN;
        *tensor_at(&s->k, 0, 0, 40, c) = -INFINITY;
        *tensor_at(&s->v, 0, 0, 40, 5) = NAN;
        if (n / 3 == 1)
            *tensor_at(&s->v, 0, 0, 50, 9) = NAN;
        if (n / 3 == 2)
            *tensor_at(&s->k, 0, 0, 50, s->form == ORACLE_AFT_CONV ? 0 : 11) = NAN;
        if (n / 3 == 3)
            *tensor_at(&s->q, 0, 0, 50, 2) = NAN;
        if (s->w.data) {
            *tensor_at(&s->w, 0, 0, s->w.shape[2] == 1 ? 0 : 30, 1) = -INFINITY;
            if (s->w.shape[2] > 1)
                *tensor_at(&s->w, 0, 0, 60, 4) = NAN;
        }
        run(s, 4);
        expect_one_shot(s, "NaN");
        const heed_tensor chunked = keep(s);
        run(s, 1);
        for (int64_t t = 0; t < 90; t++) { /* the payload of a NaN is nobody's business */
            for (int64_t d = 0; d < 18; d++) {
                const float a = *tensor_at(&s->out, 0, 0, t, d), b = *tensor_at(&chunked, 0, 0, t, d);
                assert_true(memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)));
            }
        }
        stream_destroy(s);
    }
}

/* ---- long sequences ---- */

/* Sums in float64, against exp(17): no other key comes near it. */
static void expect_long(stream *s, int64_t tokens)
{
    enum { CHANNELS = 16 };
    static double num[CHANNELS], den[CHANNELS];
    double largest = 0.0;
    memset(num, 0, sizeof num);
    memset(den, 0, sizeof den);
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t c = 0; c < CHANNELS; c++) {
            const int64_t kc = s->form == ORACLE_AFT_CONV ? 0 : c, leaves = t - s->window;
            if (leaves >= 0) {
                const double e = exp((double)*tensor_at(&s->k, 0, 0, leaves, kc) - 17.0);
                num[c] += e * (double)*tensor_at(&s->v, 0, 0, leaves, c);
                den[c] += e;
            }
            double n = num[c], d = den[c];
            for (int64_t j = leaves < 0 ? 0 : leaves + 1; j <= t; j++) {
                const heed_tensor *bias = s->form == ORACLE_AFT_CONV ? &s->filter : &s->w;
                const double e = exp((double)*tensor_at(&s->k, 0, 0, j, kc) - 17.0 +
                                     (double)*tensor_at(bias, 0, 0, 0, j - leaves - 1));
                n += e * (double)*tensor_at(&s->v, 0, 0, j, c);
                d += e;
            }
            const double error = fabs((double)*tensor_at(&s->out, 0, 0, t, c) - n / d);
            largest = error <= largest ? largest : error; /* NaN stays */
        }
    }
    if (!(largest < 2e-5))
        fail_msg("form %d: %d tokens: off by %g", (int)s->form, (int)tokens, largest);
}

static void early_key_far_above_many(void **state)
{
    (void)state;
    const int64_t tokens = runner_quick() ? 3000 : 20000;
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], 1, 1, tokens, 16, 33, 0);
        stream_give_bias(s, 2, 0);
        s->options.gate = HEED_GATE_NONE;
        random_stream random = random_start((uint64_t)n);
        tensor_fill_normal(&s->k, &random, 1.0f);
        for (int64_t c = 0; c < 16; c++) {
            *tensor_at(&s->k, 0, 0, 0, s->form == ORACLE_AFT_CONV ? 0 : c) = 17.0f;
            *tensor_at(&s->v, 0, 0, 0, c) = 1.0f;
        }
        run(s, 70);
        expect_long(s, tokens);
        stream_destroy(s);
    }
}

/* A sequence that has come far is like any other: more tokens by a multiple of ring and fold change nothing. */
static void far_along(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], 1, 2, 100, 9, 8, 3);
        stream_give_bias(s, 1, 3);
        run(s, 10);
        const heed_tensor near = keep(s);
        const heed_aft_local_state x = stream_state(s, s->state);
        assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
        for (int64_t t = 0; t < 100; t += 10) {
            if (t == 30)
                x.n_tokens[0] += ((int64_t)1 << 59);
            stream_step(s, fixture_context, &x, t, 10, NULL);
        }
        expect_bits(&s->out, &near, "far along");
        stream_destroy(s);
    }
}

/* ---- exact ---- */

static void threads_and_hooks_keep_the_bits(void **state)
{
    (void)state;
    int most_workers = 0;
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], 2, 2, 120, 300, 9, (uint64_t)n);
        stream_give_bias(s, 1, (uint64_t)n);
        run(s, 60);
        const heed_tensor first = keep(s);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            const heed_aft_local_state x = stream_state(s, s->state);
            assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
            stream_step(s, context, &x, 0, 60, NULL);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            stream_step(s, context, &x, 60, 60, NULL);
            expect_bits(&s->out, &first, runner_threadings[t].name);
            heed_context_destroy(context);
        }
        stream_destroy(s);
    }
    assert_true(most_workers > 1);
}

/* Sequences that stand at different tokens, some waiting, poison beyond the new ones: each has the bits of being alone. */
static void sequences_go_their_own_way(void **state)
{
    (void)state;
    enum { BATCH = 3, STEPS = 25, MOST = 9 };
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], BATCH, 2, STEPS * MOST, 11, 7, 2);
        stream_give_bias(s, 2, 2);
        run(s, 13);
        const heed_tensor alone = keep(s);
        random_stream random = random_start((uint64_t)n + 900);
        stream *x = stream_create(forms[n], BATCH, 2, MOST, 11, 7, 2); /* the new tokens */
        stream_give_bias(x, 2, 2);
        x->filter = s->filter;
        const heed_aft_local_state to = stream_state(x, x->state);
        int64_t done[BATCH] = {0};
        for (int i = 0; i < STEPS; i++) {
            int64_t lengths[BATCH];
            tensor_fill(&x->q, NAN);
            tensor_fill(&x->k, NAN);
            tensor_fill(&x->v, NAN);
            for (int64_t b = 0; b < BATCH; b++) {
                lengths[b] = random_below(&random, MOST + 1);
                const heed_tensor *parts[][2] = {{&x->q, &s->q}, {&x->k, &s->k}, {&x->v, &s->v}};
                for (size_t p = 0; p < N_OF(parts); p++) {
                    heed_tensor from = tensor_slice(parts[p][1], 0, b, 1), in = tensor_slice(parts[p][0], 0, b, 1);
                    from = tensor_slice(&from, 2, done[b], lengths[b]);
                    in = tensor_slice(&in, 2, 0, lengths[b]);
                    tensor_copy(&in, &from);
                }
            }
            stream_step(x, fixture_context, &to, 0, MOST, lengths);
            for (int64_t b = 0; b < BATCH; b++) {
                heed_tensor got = tensor_slice(&x->out, 0, b, 1), want = tensor_slice(&alone, 0, b, 1);
                const heed_tensor rest = tensor_slice(&got, 2, lengths[b], MOST - lengths[b]);
                got = tensor_slice(&got, 2, 0, lengths[b]);
                want = tensor_slice(&want, 2, done[b], lengths[b]);
                expect_bits(&got, &want, "own way");
                for (int64_t t = 0; t < rest.shape[2]; t++)
                    assert_true(*tensor_at(&rest, 0, 1, t, 3) == 0.0f);
                done[b] += lengths[b];
                assert_int_equal(to.n_tokens[b], done[b]);
            }
        }
        stream_destroy(x);
        stream_destroy(s);
    }
}

static void one_sequence_starts_anew(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], 3, 1, 80, 13, 5, 4);
        stream_give_bias(s, 2, 4);
        run(s, 80);
        const heed_tensor whole = keep(s);
        const heed_aft_local_state x = stream_state(s, s->state);
        assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
        stream_step(s, fixture_context, &x, 0, 50, NULL);
        assert_int_equal(stream_reset(s, &x, 1), HEED_OK);
        assert_int_equal(x.n_tokens[0], 50);
        assert_int_equal(x.n_tokens[1], 0);
        stream_step(s, fixture_context, &x, 50, 30, NULL);
        for (int64_t b = 0; b < 3; b += 2) {
            const heed_tensor got = tensor_slice(&s->out, 0, b, 1), want = tensor_slice(&whole, 0, b, 1);
            expect_bits(&got, &want, "the others go on");
        }
        /* The tokens from 50 on as if there had been none before. */
        heed_tensor got = tensor_slice(&s->out, 0, 1, 1);
        got = tensor_slice(&got, 2, 50, 30);
        stream *fresh = stream_create(forms[n], 3, 1, 80, 13, 5, 4);
        stream_give_bias(fresh, 2, 4);
        const heed_aft_local_state y = stream_state(fresh, fresh->state);
        stream_step(fresh, fixture_context, &y, 50, 30, NULL);
        heed_tensor want = tensor_slice(&fresh->out, 0, 1, 1);
        want = tensor_slice(&want, 2, 50, 30);
        expect_bits(&got, &want, "starts anew");
        stream_destroy(fresh);
        stream_destroy(s);
    }
}

/* A whole state in other memory; and one sequence of it, which is one piece, in a batch of its own. */
static void a_state_moves(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        stream *s = stream_create(forms[n], 3, 2, 90, 10, 6, 5);
        stream_give_bias(s, 2, 5);
        run(s, 90);
        const heed_tensor whole = keep(s);
        heed_aft_local_state x = stream_state(s, s->state);
        assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
        stream_step(s, fixture_context, &x, 0, 47, NULL);

        unsigned char *other = malloc((size_t)s->state_bytes), *single = malloc((size_t)s->state_bytes);
        assert_non_null(other);
        assert_non_null(single);
        memcpy(other, s->state, (size_t)s->state_bytes);
        int64_t single_bytes;
        heed_tensor q = s->q;
        s->q.shape[0] = 1;
        assert_int_equal(stream_bytes(s, &single_bytes), HEED_OK);
        s->q = q;
        const int64_t piece = x.sums.stride[0] * (int64_t)sizeof(float);
        assert_int_equal(single_bytes, 8 + piece);
        assert_int_equal(s->state_bytes, 3 * (8 + piece));
        memcpy(single, &x.n_tokens[2], 8);
        memcpy(single + 8, s->state + (size_t)(3 * 8 + 2 * piece), (size_t)piece);
        memset(s->state, 0xff, (size_t)s->state_bytes);

        x = stream_state(s, other);
        stream_step(s, fixture_context, &x, 47, 43, NULL);
        expect_bits(&s->out, &whole, "elsewhere");

        stream alone = *s;
        heed_tensor *parts[] = {&alone.q, &alone.k, &alone.v, &alone.out};
        for (size_t p = 0; p < N_OF(parts); p++)
            *parts[p] = tensor_slice(parts[p], 0, 2, 1);
        x = stream_state(&alone, single);
        stream_step(&alone, fixture_context, &x, 47, 43, NULL);
        const heed_tensor want = tensor_slice(&whole, 0, 2, 1);
        expect_bits(&alone.out, &want, "alone");
        free(other);
        free(single);
        stream_destroy(s);
    }
}

/* A state is any views of the right shapes. */
static void states_of_any_layout(void **state)
{
    (void)state;
    for (int n = 0; n < 6; n++) {
        stream *s = stream_create(forms[n % 3], 2, 3, 60, 10, 6, 6);
        stream_give_bias(s, 1, 6);
        run(s, 60);
        const heed_tensor want = keep(s);
        const tensor_layout layout = n < 3 ? LAYOUT_BNHD : LAYOUT_PADDED;
        heed_aft_local_state x = stream_state(s, s->state);
        x.sums = stream_tensor(s, HEED_FLOAT32, 2, 3, 6, 10, layout);
        if (s->window > 0) {
            x.keys = stream_tensor(s, HEED_FLOAT32, 2, 3, 6, s->k.shape[3], layout);
            x.values = stream_tensor(s, HEED_FLOAT32, 2, 3, 6, 10, layout);
        }
        assert_int_equal(stream_reset(s, &x, -1), HEED_OK);
        for (int64_t t = 0; t < 60; t += 4)
            stream_step(s, fixture_context, &x, t, 4, NULL);
        expect_bits(&s->out, &want, "layout");
        stream_destroy(s);
    }
}

static void nothing_is_allocated(void **state)
{
    (void)state;
    if (count_allocations() < 0)
        skip();
    stream *s = stream_create(ORACLE_AFT_CONV, 1, 2, 40, 10, 6, 6);
    run(s, 4);
    const long long before = count_allocations();
    run(s, 4);
    assert_true(count_allocations() == before);
    stream_destroy(s);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_equal_one_shot),
        cmocka_unit_test(report_says_steps),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(keys_far_apart),
        cmocka_unit_test(nan_and_infinity),
        cmocka_unit_test(early_key_far_above_many),
        cmocka_unit_test(far_along),
        cmocka_unit_test(threads_and_hooks_keep_the_bits),
        cmocka_unit_test(sequences_go_their_own_way),
        cmocka_unit_test(one_sequence_starts_anew),
        cmocka_unit_test(a_state_moves),
        cmocka_unit_test(states_of_any_layout),
        cmocka_unit_test(nothing_is_allocated),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
