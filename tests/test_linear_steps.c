/* The steps of linear attention: against the float64 oracle over all tokens so far, by themselves and between forward
 * calls; what must hold to the bit (cuts, threads, neighbours, copies of a state); states merged and begun anew. */
#include "count_allocations.h"
#include "linear_check.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Sequences of all tokens, and a state of nothing. The mask of the problem is that of the oracle: causal. */
static linear_problem *create(map_kind kind, int64_t batch, int64_t kv_heads, int64_t ratio, int64_t tokens,
                              int64_t channels, int64_t n_recent, uint64_t stream)
{
    linear_problem *p = linear_create(&(linear_case){.batch = batch,
                                                     .q_heads = ratio * kv_heads,
                                                     .kv_heads = kv_heads,
                                                     .n_queries = tokens,
                                                     .n_keys = tokens,
                                                     .channels = channels,
                                                     .value_channels = channels + 3,
                                                     .n_features = stream % 3 ? channels + 1 : (channels + 1) / 2,
                                                     .map = kind,
                                                     .causal = 1,
                                                     .eps = stream % 2 ? 0.0f : 1e-6f,
                                                     .map_eps = map_usual_eps(kind),
                                                     .layout = (linear_layout)(stream % 3),
                                                     .stream = stream});
    p->state = linear_new_state(p, n_recent, p->n_tokens);
    return p;
}

static void expect_ok(heed_status status, const heed_context *context)
{
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(context));
}

/* Tokens first .. first + n - 1 of every sequence, lengths[b] of them where there are lengths. */
static void step_on(linear_problem *p, heed_context *context, const heed_linear_state *s, int64_t first, int64_t n,
                    const int64_t *lengths)
{
    const heed_tensor q = tensor_slice(&p->q, 2, first, n), k = tensor_slice(&p->k, 2, first, n);
    const heed_tensor v = tensor_slice(&p->v, 2, first, n), out = tensor_slice(&p->out, 2, first, n);
    heed_mask mask = HEED_MASK_INIT;
    heed_linear_options options = p->options;
    mask.causal = 1;
    mask.query_lengths = lengths;
    options.mask = lengths || first % 2 ? &mask : NULL; /* no mask is a causal one */
    tensor_fill(&out, NAN);
    expect_ok(heed_linear_step(context, &q, &k, &v, &options, s, &out), context);
}

static void forward(linear_problem *p, const heed_linear_state *s, int64_t first, int64_t n)
{
    const heed_tensor q = tensor_slice(&p->q, 2, first, n), k = tensor_slice(&p->k, 2, first, n);
    const heed_tensor v = tensor_slice(&p->v, 2, first, n), out = tensor_slice(&p->out, 2, first, n);
    tensor_fill(&out, NAN);
    expect_ok(heed_linear_forward(fixture_context, &q, &k, &v, &p->options, s, &out), fixture_context);
}

static void step_all(linear_problem *p, int64_t chunk)
{
    const int64_t tokens = p->c.n_queries;
    expect_ok(heed_linear_state_reset(&p->state, -1), fixture_context);
    for (int64_t t = 0; t < tokens; t += chunk)
        step_on(p, fixture_context, &p->state, t, chunk < tokens - t ? chunk : tokens - t, NULL);
}

static heed_tensor keep(linear_problem *p, const heed_tensor *tensor)
{
    const heed_tensor copy = linear_tensor_like(p, tensor);
    tensor_copy(&copy, tensor);
    return copy;
}

static void expect_same_state(const heed_linear_state *got, const heed_linear_state *want, const char *name)
{
    linear_expect_bits(&got->sums, &want->sums, name);
    linear_expect_bits(&got->norms, &want->norms, name);
    linear_expect_bits(&got->recent_features, &want->recent_features, name);
    linear_expect_bits(&got->recent_values, &want->recent_values, name);
    for (int64_t b = 0; b < got->sums.shape[0]; b++)
        assert_int_equal(got->n_tokens[b], want->n_tokens[b]);
}

/* Adds the waiting tokens to the sums, in float64. */
static void read_state(const linear_problem *p, const heed_linear_state *s, double *sums, double *norms)
{
    heed_linear_options options = p->options;
    oracle_linear o;
    const heed_tensor k = tensor_slice(&p->k, 2, 0, 0), v = tensor_slice(&p->v, 2, 0, 0);
    options.mask = NULL;
    oracle_linear_open(&o, &p->q, &k, &v, &options, s);
    oracle_linear_state(&o, sums, norms);
    oracle_linear_close(&o);
}

/* All tokens in float64: rows and state. */
static void expect_oracle(linear_problem *p, const char *name)
{
    oracle_linear o;
    oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, NULL);
    const int64_t n_norms = o.batch * o.kv_heads * o.n_features, n_sums = n_norms * o.value_channels;
    double *out = oracle_zeros(o.batch * o.q_heads * o.n_queries * o.value_channels);
    double *want[2] = {oracle_zeros(n_sums), oracle_zeros(n_norms)};
    double *got[2] = {oracle_zeros(n_sums), oracle_zeros(n_norms)};
    oracle_linear_forward(&o, out);
    oracle_linear_state(&o, want[0], want[1]);
    read_state(p, &p->state, got[0], got[1]);
    const double tolerance = linear_tolerance(p), floor = p->c.map == MAP_FAVOR_RELU ? 1.0 : 0.0;
    linear_expect_rows(p, &p->out, out, tolerance, name);
    for (int64_t n = 0; n < n_sums; n++) {
        const double norm = want[1][n / o.value_channels], scale = norm + floor;
        if (!(fabs(got[0][n] - want[0][n]) <= tolerance * scale))
            fail_msg("%s: %s: sum %d: %.9g, not %.9g", name, linear_describe(p), (int)n, got[0][n], want[0][n]);
        if (!(fabs(got[1][n / o.value_channels] - norm) <= tolerance * scale))
            fail_msg("%s: %s: norm %d: %.9g, not %.9g", name, linear_describe(p), (int)(n / o.value_channels),
                     got[1][n / o.value_channels], norm);
    }
    free(out), free(want[0]), free(want[1]), free(got[0]), free(got[1]);
    oracle_linear_close(&o);
}

/* ---- Right ---- */

static void cuts_keep_the_bits(void **state)
{
    (void)state;
    static const int64_t recent[] = {1, 2, 5, 16, 40}, channels[] = {1, 7, 16, 33, 65, 130};
    for (int n = 0; n < 3 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        const int64_t tokens = n % 4 == 0 ? 9 : 100;
        linear_problem *p = create((map_kind)(n % N_MAP_KINDS), 1 + n % 2, 1 + n / 2 % 2, 1 + n / 3 % 3, tokens,
                                   channels[n % 6], recent[n % 5], (uint64_t)n);
        step_all(p, 1);
        expect_oracle(p, "step by step");
        int64_t n_tokens[LINEAR_MAX_BATCH];
        const heed_tensor one_by_one = keep(p, &p->out);
        const heed_linear_state kept = linear_new_state(p, p->state.recent_features.shape[2], n_tokens);
        linear_copy_state(&kept, &p->state);
        const int64_t chunks[] = {3, 7, tokens};
        for (size_t c = 0; c < N_OF(chunks); c++) {
            step_all(p, chunks[c]);
            linear_expect_bits(&p->out, &one_by_one, "cuts");
            expect_same_state(&p->state, &kept, "cuts, state");
        }
        for (int64_t b = 0; b < p->c.batch; b++)
            assert_int_equal(p->n_tokens[b], tokens);
        linear_destroy(p);
    }
}

/* A prompt in one forward call, steps, another forward call, and so on. */
static void steps_between_forward_calls(void **state)
{
    (void)state;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n + 500);
        linear_problem *p = create((map_kind)(n % N_MAP_KINDS), 2, 2, 2, 140, 20, 1 + n % 7, (uint64_t)n + 500);
        for (int64_t first = 0, count; first < 140; first += count) {
            count = 1 + random_below(&random, 50);
            count = count < 140 - first ? count : 140 - first;
            if (random_below(&random, 2))
                forward(p, &p->state, first, count);
            else
                step_on(p, fixture_context, &p->state, first, count, NULL);
        }
        expect_oracle(p, "forward and steps");
        assert_int_equal(p->n_tokens[0], 140);
        linear_destroy(p);
    }
}

static void empty_sizes(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        linear_problem *p = create(MAP_DEFAULT, n != 0, n != 1, 2, n != 2 ? 4 : 0, 5, 3, 0);
        step_on(p, fixture_context, &p->state, 0, p->c.n_queries, NULL);
        linear_destroy(p);
    }
}

/* One token e^17 above all others comes first: sums of single tokens would lose them. */
static void early_key_far_above_many(void **state)
{
    (void)state;
    const int64_t tokens = runner_quick() ? 3000 : 20000;
    for (int n = 0; n < 2; n++) {
        linear_problem *p = create(MAP_IDENTITY, 1, 1, 1, tokens, 8, n ? 16 : 40, 1);
        random_stream random = random_start((uint64_t)n);
        tensor_fill_uniform(&p->q, &random, 0.9f, 1.1f);
        tensor_fill_uniform(&p->k, &random, 0.99f, 1.01f);
        tensor_fill_uniform(&p->v, &random, 0.5f, 1.0f);
        for (int64_t c = 0; c < 8; c++)
            *tensor_at(&p->k, 0, 0, 0, c) = expf(17.0f);
        step_all(p, 70);
        oracle_linear o;
        oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, NULL);
        for (int64_t i = 0; i < tokens; i = 2 * i + 1) {
            double want[11];
            const heed_tensor row = tensor_slice(&p->out, 2, i, 1);
            oracle_linear_row(&o, 0, 0, i, want);
            linear_expect_rows(p, &row, want, 2e-5, "early key");
        }
        double want[11];
        const heed_tensor row = tensor_slice(&p->out, 2, tokens - 1, 1);
        oracle_linear_row(&o, 0, 0, tokens - 1, want);
        linear_expect_rows(p, &row, want, 2e-5, "early key, last row");
        oracle_linear_close(&o);
        linear_destroy(p);
    }
}

/* ---- Exact ---- */

static void threads_and_hooks_keep_the_bits(void **state)
{
    (void)state;
    int most_workers = 0;
    for (int n = 0; n < 4; n++) {
        linear_problem *p = create(n % 2 ? MAP_SOFTPLUS : MAP_FAVOR, 3, 2, 1 + n / 2, 60, 90, 8, (uint64_t)n);
        step_all(p, 60);
        const heed_tensor first = keep(p, &p->out);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            expect_ok(heed_linear_state_reset(&p->state, -1), context);
            step_on(p, context, &p->state, 0, 35, NULL);
            step_on(p, context, &p->state, 35, 25, NULL);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            linear_expect_bits(&p->out, &first, runner_threadings[t].name);
            heed_context_destroy(context);
        }
        linear_destroy(p);
    }
    assert_true(most_workers > 1);
}

/* Sequences that stand at different tokens, some waiting, poison beyond the new ones: each has the bits of being alone. */
static void sequences_go_their_own_way(void **state)
{
    (void)state;
    enum { BATCH = 3, STEPS = 25, MOST = 9 };
    static const map_kind kinds[] = {MAP_DEFAULT, MAP_GLU2, MAP_FAVOR};
    for (int n = 0; n < 3; n++) {
        linear_problem *p = create(kinds[n], BATCH, 2, 2, STEPS * MOST, 11, 7, 2);
        step_all(p, 13);
        random_stream random = random_start((uint64_t)n + 900);
        linear_problem *x = create(kinds[n], BATCH, 2, 2, MOST, 11, 7, 2); /* the new tokens, with the same map */
        int64_t done[BATCH] = {0};
        for (int i = 0; i < STEPS; i++) {
            int64_t lengths[BATCH];
            tensor_fill(&x->q, NAN);
            tensor_fill(&x->k, NAN);
            tensor_fill(&x->v, NAN);
            for (int64_t b = 0; b < BATCH; b++) {
                lengths[b] = random_below(&random, 3) ? random_below(&random, MOST + 1) : 0;
                const heed_tensor *parts[][2] = {{&x->q, &p->q}, {&x->k, &p->k}, {&x->v, &p->v}};
                for (size_t m = 0; m < N_OF(parts); m++) {
                    heed_tensor from = tensor_slice(parts[m][1], 0, b, 1), in = tensor_slice(parts[m][0], 0, b, 1);
                    from = tensor_slice(&from, 2, done[b], lengths[b]);
                    in = tensor_slice(&in, 2, 0, lengths[b]);
                    tensor_copy(&in, &from);
                }
            }
            step_on(x, fixture_context, &x->state, 0, MOST, lengths);
            for (int64_t b = 0; b < BATCH; b++) {
                heed_tensor got = tensor_slice(&x->out, 0, b, 1), want = tensor_slice(&p->out, 0, b, 1);
                const heed_tensor rest = tensor_slice(&got, 2, lengths[b], MOST - lengths[b]);
                got = tensor_slice(&got, 2, 0, lengths[b]);
                want = tensor_slice(&want, 2, done[b], lengths[b]);
                linear_expect_bits(&got, &want, "own way");
                for (int64_t t = 0; t < rest.shape[2]; t++)
                    assert_true(*tensor_at(&rest, 0, 3, t, 3) == 0.0f);
                done[b] += lengths[b];
                assert_int_equal(x->n_tokens[b], done[b]);
            }
        }
        linear_destroy(x);
        linear_destroy(p);
    }
}

static void one_sequence_starts_anew(void **state)
{
    (void)state;
    linear_problem *p = create(MAP_SOFTPLUS, 3, 2, 1, 80, 13, 5, 4);
    step_all(p, 80);
    const heed_tensor whole = keep(p, &p->out);
    expect_ok(heed_linear_state_reset(&p->state, -1), fixture_context);
    step_on(p, fixture_context, &p->state, 0, 50, NULL);
    expect_ok(heed_linear_state_reset(&p->state, 1), fixture_context);
    assert_int_equal(p->n_tokens[0], 50);
    assert_int_equal(p->n_tokens[1], 0);
    step_on(p, fixture_context, &p->state, 50, 30, NULL);
    for (int64_t b = 0; b < 3; b += 2) {
        const heed_tensor got = tensor_slice(&p->out, 0, b, 1), want = tensor_slice(&whole, 0, b, 1);
        linear_expect_bits(&got, &want, "the others go on");
    }
    /* The tokens from 50 on as if there had been none before. */
    heed_tensor got = tensor_slice(&p->out, 0, 1, 1);
    got = tensor_slice(&got, 2, 50, 30);
    linear_problem *fresh = create(MAP_SOFTPLUS, 3, 2, 1, 80, 13, 5, 4);
    step_on(fresh, fixture_context, &fresh->state, 50, 30, NULL);
    heed_tensor want = tensor_slice(&fresh->out, 0, 1, 1);
    want = tensor_slice(&want, 2, 50, 30);
    linear_expect_bits(&got, &want, "starts anew");
    linear_destroy(fresh);
    linear_destroy(p);
}

/* A reset clears NaN too: fresh memory becomes a state of nothing. */
static void reset_of_fresh_memory(void **state)
{
    (void)state;
    linear_problem *p = create(MAP_DEFAULT, 2, 2, 1, 6, 5, 4, 0);
    const heed_linear_state *s = &p->state;
    tensor_fill(&s->sums, NAN);
    tensor_fill(&s->norms, NAN);
    tensor_fill(&s->recent_features, NAN);
    tensor_fill(&s->recent_values, NAN);
    s->n_tokens[0] = s->n_tokens[1] = -7;
    expect_ok(heed_linear_state_reset(s, 1), fixture_context);
    assert_true(isnan(*tensor_at(&s->sums, 0, 1, 2, 2)) && *tensor_at(&s->sums, 1, 1, 2, 2) == 0.0f);
    assert_true(s->n_tokens[0] == -7 && s->n_tokens[1] == 0);
    expect_ok(heed_linear_state_reset(s, -1), fixture_context);
    step_on(p, fixture_context, s, 0, 6, NULL);
    expect_oracle(p, "fresh");
    assert_int_equal(heed_linear_state_reset(s, 2), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_linear_state_reset(s, -2), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_linear_state_reset(NULL, 0), HEED_ERROR_ARGUMENT);
    assert_int_equal(p->n_tokens[0], 6);
    linear_destroy(p);
}

/* A sequence that has come far is like any other: more tokens by a multiple of the recent rows change nothing. */
static void far_along(void **state)
{
    (void)state;
    linear_problem *p = create(MAP_DEFAULT, 1, 2, 1, 100, 9, 8, 3);
    step_all(p, 10);
    const heed_tensor near = keep(p, &p->out);
    expect_ok(heed_linear_state_reset(&p->state, -1), fixture_context);
    for (int64_t t = 0; t < 100; t += 10) {
        if (t == 30)
            p->n_tokens[0] += ((int64_t)1 << 59);
        step_on(p, fixture_context, &p->state, t, 10, NULL);
    }
    linear_expect_bits(&p->out, &near, "far along");
    linear_destroy(p);
}

/* A visible NaN spoils what comes after it, as in the forward call, and nothing before it or beside it. */
static void nan_comes_with_its_token(void **state)
{
    (void)state;
    for (int where = 0; where < 3; where++) {
        linear_problem *p = create(MAP_SOFTPLUS, 2, 2, 2, 60, 10, 4, 7);
        step_all(p, 7);
        const heed_tensor before = keep(p, &p->out);
        const heed_tensor *spoilt[] = {&p->q, &p->k, &p->v};
        *tensor_at(spoilt[where], 1, 1, 33, 4) = NAN;
        step_all(p, 7);
        for (int64_t row = 0; row < 2 * 4 * 60; row++) {
            const int64_t b = row / 240, h = row / 60 % 4, i = row % 60;
            const int sees = b == 1 && h / 2 == 1 && i >= 33, is_it = b == 1 && h == 1 && i == 33;
            for (int64_t d = 0; d < 13; d++) {
                const float got = *tensor_at(&p->out, b, h, i, d), was = *tensor_at(&before, b, h, i, d);
                const int wants_nan = where == 0 ? is_it : where == 1 ? sees : sees && d == 4;
                if (wants_nan ? !isnan(got) : memcmp(&got, &was, sizeof got) != 0)
                    fail_msg("NaN in %c: row (%d, %d, %d), channel %d: %.9g, was %.9g", "qkv"[where], (int)b, (int)h,
                             (int)i, (int)d, (double)got, (double)was);
            }
        }
        linear_destroy(p);
    }
}

/* ---- Merge ---- */

/* Two states over the two parts of a sequence, with recent rows or without, merged: what comes after sees both. */
static void merged_states_go_on(void **state)
{
    (void)state;
    for (int n = 0; n < 3 * N_MAP_KINDS; n++) {
        if (!runner_takes(n))
            continue;
        random_stream random = random_start((uint64_t)n + 1100);
        const int64_t cut = random_below(&random, 61), aliased = n % 3;
        linear_problem *p = create((map_kind)(n % N_MAP_KINDS), 2, 2, 2, 80, 12, 5, (uint64_t)n + 1100);
        int64_t n_a[LINEAR_MAX_BATCH], n_b[LINEAR_MAX_BATCH], n_out[LINEAR_MAX_BATCH];
        const heed_linear_state a = linear_new_state(p, n % 4 == 0 ? 3 : 5, n_a);
        const heed_linear_state b = linear_new_state(p, n % 5 == 0 ? 0 : 7, n_b);
        const heed_linear_state c = linear_new_state(p, 5, n_out);
        const heed_linear_state *to = aliased == 1 ? &a : aliased == 2 && n % 5 != 0 ? &b : &c;
        tensor_fill(&c.sums, NAN); /* out is written, not added to */
        tensor_fill(&c.recent_values, NAN);
        step_on(p, fixture_context, &a, 0, cut, NULL);
        if (n % 5 == 0)
            forward(p, &b, cut, 60 - cut);
        else
            step_on(p, fixture_context, &b, cut, 60 - cut, NULL);
        forward(p, &p->state, 0, 60); /* the rows, for the comparison below */
        expect_ok(heed_linear_state_merge(fixture_context, &a, &b, to), fixture_context);
        assert_int_equal(to->n_tokens[1], 60);
        step_on(p, fixture_context, to, 60, 20, NULL);
        p->state = *to;
        expect_oracle(p, "merged");
        assert_int_equal(to->n_tokens[0], 80);
        linear_destroy(p);
    }
}

/* A state of nothing changes no bit of another one that has no tokens waiting; the order of two does not matter. */
static void merge_is_addition(void **state)
{
    (void)state;
    linear_problem *p = create(MAP_SOFTPLUS, 2, 2, 1, 60, 12, 5, 3);
    int64_t n[4][LINEAR_MAX_BATCH];
    heed_linear_state s[4];
    for (int m = 0; m < 4; m++)
        s[m] = linear_new_state(p, m == 1 ? 0 : 5, n[m]);
    forward(p, &s[0], 0, 33);
    expect_ok(heed_linear_state_merge(fixture_context, &s[0], &s[1], &s[2]), fixture_context);
    expect_same_state(&s[2], &s[0], "nothing added");
    forward(p, &s[1], 33, 27);
    expect_ok(heed_linear_state_merge(fixture_context, &s[0], &s[1], &s[2]), fixture_context);
    expect_ok(heed_linear_state_merge(fixture_context, &s[1], &s[0], &s[3]), fixture_context);
    linear_expect_bits(&s[2].sums, &s[3].sums, "order");
    linear_expect_bits(&s[2].norms, &s[3].norms, "order");
    for (int64_t i = 0; i < p->n_features; i++) {
        const float want = *tensor_at(&s[0].sums, 1, 1, i, 2) + *tensor_at(&s[1].sums, 1, 1, i, 2);
        assert_true(*tensor_at(&s[2].sums, 1, 1, i, 2) == want);
    }
    linear_destroy(p);
}

/* ---- Memory ---- */

/* A whole state in other memory; and one sequence of it, which is one piece, in a batch of its own. */
static void a_state_moves(void **state)
{
    (void)state;
    linear_problem *p = create(MAP_GLU2, 3, 2, 2, 90, 10, 6, 5);
    step_all(p, 90);
    const heed_tensor whole = keep(p, &p->out);
    int64_t bytes, single_bytes;
    const int64_t c = p->n_features, d = p->c.value_channels;
    assert_int_equal(heed_linear_state_bytes(3, 2, c, d, 6, &bytes), HEED_OK);
    assert_int_equal(heed_linear_state_bytes(1, 2, c, d, 6, &single_bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 3 + 4 * 3 * 2 * (c * d + c + 6 * (c + d)));
    guarded memory, other, single;
    guarded_create(&memory, (size_t)bytes, GUARD_END);
    guarded_create(&other, (size_t)bytes, GUARD_END);
    guarded_create(&single, (size_t)single_bytes, GUARD_END);
    heed_linear_state s = heed_linear_state_view(memory.data, 3, 2, c, d, 6);
    const int64_t piece = s.sums.stride[0] * (int64_t)sizeof(float);
    assert_int_equal(single_bytes, 8 + piece);
    assert_int_equal(bytes, 3 * (8 + piece));
    assert_true(memory.data[0] == guarded_pattern(0)); /* a view writes nothing */
    expect_ok(heed_linear_state_reset(&s, -1), fixture_context);
    step_on(p, fixture_context, &s, 0, 47, NULL);
    memcpy(other.data, memory.data, (size_t)bytes);
    memcpy(single.data, &s.n_tokens[2], 8);
    memcpy(single.data + 8, memory.data + (size_t)(3 * 8 + 2 * piece), (size_t)piece);
    guarded_clear(&memory);

    s = heed_linear_state_view(other.data, 3, 2, c, d, 6);
    step_on(p, fixture_context, &s, 47, 43, NULL);
    linear_expect_bits(&p->out, &whole, "elsewhere");

    linear_problem alone = *p;
    heed_tensor *parts[] = {&alone.q, &alone.k, &alone.v, &alone.out};
    for (size_t m = 0; m < N_OF(parts); m++)
        *parts[m] = tensor_slice(parts[m], 0, 2, 1);
    s = heed_linear_state_view(single.data, 1, 2, c, d, 6);
    step_on(&alone, fixture_context, &s, 47, 43, NULL);
    const heed_tensor want = tensor_slice(&whole, 0, 2, 1);
    linear_expect_bits(&alone.out, &want, "alone");
    guarded_destroy(&memory);
    guarded_destroy(&other);
    guarded_destroy(&single);
    linear_destroy(p);
}

/* A state is any views of the right shapes: those of the problem are, those in one piece of memory too. */
static void states_of_any_layout(void **state)
{
    (void)state;
    linear_problem *p = create(MAP_SOFTPLUS, 2, 3, 1, 60, 10, 6, 6);
    int64_t n_tokens[LINEAR_MAX_BATCH] = {0};
    const linear_layout layouts[] = {LINEAR_BHND, LINEAR_BNHD, LINEAR_PADDED, LINEAR_PAGES};
    step_all(p, 60);
    const heed_tensor want = keep(p, &p->out);
    for (size_t n = 0; n < N_OF(layouts); n++) {
        const heed_linear_state s = {linear_tensor(p, HEED_FLOAT32, 2, 3, p->n_features, 13, layouts[n]),
                                     linear_tensor(p, HEED_FLOAT32, 2, 3, 1, p->n_features, layouts[n]),
                                     linear_tensor(p, HEED_FLOAT32, 2, 3, 6, p->n_features, layouts[n]),
                                     linear_tensor(p, HEED_FLOAT32, 2, 3, 6, 13, layouts[n]), n_tokens};
        expect_ok(heed_linear_state_reset(&s, -1), fixture_context);
        for (int64_t t = 0; t < 60; t += 4)
            step_on(p, fixture_context, &s, t, 4, NULL);
        linear_expect_bits(&p->out, &want, "layout");
    }
    linear_destroy(p);
}

static void nothing_is_allocated(void **state)
{
    (void)state;
    if (count_allocations() < 0)
        skip();
    linear_problem *p = create(MAP_GLU2, 1, 2, 1, 40, 10, 6, 6);
    step_all(p, 4);
    forward(p, &p->state, 0, 40);
    const long long before = count_allocations();
    step_all(p, 4);
    forward(p, &p->state, 0, 40);
    assert_true(count_allocations() == before);
    linear_destroy(p);
}

static int close_group(void **state)
{
    linear_print_errors();
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_keep_the_bits),
        cmocka_unit_test(steps_between_forward_calls),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(early_key_far_above_many),
        cmocka_unit_test(threads_and_hooks_keep_the_bits),
        cmocka_unit_test(sequences_go_their_own_way),
        cmocka_unit_test(one_sequence_starts_anew),
        cmocka_unit_test(reset_of_fresh_memory),
        cmocka_unit_test(far_along),
        cmocka_unit_test(nan_comes_with_its_token),
        cmocka_unit_test(merged_states_go_on),
        cmocka_unit_test(merge_is_addition),
        cmocka_unit_test(a_state_moves),
        cmocka_unit_test(states_of_any_layout),
        cmocka_unit_test(nothing_is_allocated),
    };
    return cmocka_run_group_tests(tests, fixture_open, close_group);
}
