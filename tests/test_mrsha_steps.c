/* The steps of multiresolution-head attention: against causal mode VALUE and the float64 oracle; what must hold to the
 * bit (cuts, threads, neighbours, copies of a state); what a state holds and how large it is. */
#include "count_allocations.h"
#include "mrsha_problem.h"
#include "support/fixture.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Sequences of all tokens, whose options are those of causal mode VALUE, and a state of nothing that has room for them.
 * */
typedef struct stream {
    mrsha_problem *p;
    guarded memory;
    int64_t bytes;
    heed_mrsha_state state;
} stream;

static heed_mrsha_state view_state(const mrsha_problem *p, void *memory, int64_t batch, int64_t max_tokens)
{
    const attention_shape *s = &p->c.shape;
    return heed_mrsha_state_view(memory, &p->options, batch, s->q_heads, s->kv_heads, s->channels, s->value_channels,
                                 max_tokens);
}

static int64_t count_bytes(const mrsha_problem *p, int64_t batch, int64_t max_tokens)
{
    const attention_shape *s = &p->c.shape;
    int64_t bytes = -1;
    assert_int_equal(heed_mrsha_state_bytes(&p->options, batch, s->q_heads, s->kv_heads, s->channels, s->value_channels,
                                            max_tokens, &bytes),
                     HEED_OK);
    return bytes;
}

static void reset(const heed_mrsha_state *state, int64_t b)
{
    assert_int_equal(heed_mrsha_state_reset(state, b), HEED_OK);
}

/* The memory held NaN. */
static stream open_stream(const mrsha_case *c)
{
    stream s = {.p = mrsha_create(c)};
    s.bytes = count_bytes(s.p, c->shape.batch, c->shape.n_keys);
    guarded_create(&s.memory, (size_t)s.bytes, GUARD_START);
    s.state = view_state(s.p, s.memory.data, c->shape.batch, c->shape.n_keys);
    reset(&s.state, -1);
    return s;
}

static void close_stream(stream *s)
{
    assert_true(guarded_intact(&s->memory));
    guarded_destroy(&s->memory);
    mrsha_destroy(s->p);
}

/* Sizes of heads are repeated as often as there are heads. */
static mrsha_case case_of(int64_t batch, int64_t q_heads, int64_t kv_heads, int64_t tokens, const int64_t *sizes,
                          int64_t n_sizes, int pooling, uint64_t number)
{
    mrsha_case c = {.shape = {batch, q_heads, kv_heads, tokens, tokens, 12, 9},
                    .mode = HEED_MRSHA_VALUE,
                    .causal = 1,
                    .pooling = (heed_pooling)pooling,
                    .layout = (tensor_layout)(number % N_LAYOUTS),
                    .stream = number};
    for (int64_t h = 0; h < q_heads; h++)
        c.group_sizes[h] = sizes[h % n_sizes];
    return c;
}

/* Tokens first .. first + n - 1 of every sequence, lengths[b] of them where there are lengths. */
static heed_status try_step(mrsha_problem *p, heed_context *context, const heed_mrsha_state *state, int64_t first,
                            int64_t n, const int64_t *lengths)
{
    const heed_tensor q = tensor_slice(&p->a.q, 2, first, n), k = tensor_slice(&p->a.k, 2, first, n);
    const heed_tensor v = tensor_slice(&p->a.v, 2, first, n), out = tensor_slice(&p->a.out, 2, first, n);
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options softmax = p->softmax;
    heed_mrsha_options options = p->options;
    mask.causal = 1;
    mask.query_lengths = lengths;
    softmax.mask = lengths || first % 2 ? &mask : NULL; /* no mask is a causal one */
    options.softmax = &softmax;
    tensor_fill(&out, NAN);
    return heed_mrsha_step(context, &q, &k, &v, &options, state, &out);
}

static void step_on(mrsha_problem *p, heed_context *context, const heed_mrsha_state *state, int64_t first, int64_t n,
                    const int64_t *lengths)
{
    const heed_status status = try_step(p, context, state, first, n, lengths);
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", mrsha_describe(p), heed_status_text(status), heed_context_message(context));
    if (!tensor_padding_is_whole(&p->a.out_memory, &p->a.out))
        fail_msg("%s: written beside the rows of out", mrsha_describe(p));
}

/* From fresh memory on. */
static void step_all(stream *s, int64_t chunk)
{
    const int64_t tokens = s->p->c.shape.n_keys;
    guarded_clear(&s->memory);
    guarded_clear(&s->p->a.out_memory);
    reset(&s->state, -1);
    for (int64_t t = 0; t < tokens; t += chunk)
        step_on(s->p, fixture_context, &s->state, t, chunk < tokens - t ? chunk : tokens - t, NULL);
}

/* ---- Right ---- */

/* Step by step against the oracle and the forward call; then in other cuts, with the same bits of rows and state. */
static void cuts_keep_the_bits(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{1, 1, 1, 1}, {2, 2, 2, 2},     {1, 2, 4, 8},
                                       {3, 5, 7, 3}, {16, 1, 100, 16}, {2, 64, 2, 1}};
    static const int64_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {4, 1}, {8, 2}};
    static const int64_t lengths[] = {1, 2, 7, 33, 64, 131};
    for (int n = 0; n < 6 * 5 * 6; n++) {
        if (!runner_takes(n))
            continue;
        mrsha_case c = case_of(1 + n % 2, heads[n % 5][0], heads[n % 5][1], lengths[n / 30], sizes[n % 6], 4, n / 6 % 3,
                               10000 + (uint64_t)n);
        c.shape.channels = n % 4 == 0 ? 64 : n % 4 == 1 ? 1 : 17;
        c.shape.value_channels = n % 3 == 0 ? 80 : n % 3 == 1 ? 3 : 16;
        c.has_sinks = n % 2;
        c.softcap = n % 7 == 0 ? 2.0f : 0.0f;
        c.scale = n % 5 == 0 ? -0.25f : 0.0f;
        stream s = open_stream(&c);
        mrsha_problem *p = s.p;
        step_all(&s, 1);
        mrsha_expect_rows(p, &p->a.out, NULL, "step by step");
        const heed_tensor rows = mrsha_keep(p, &p->a.out);
        unsigned char *kept = malloc((size_t)s.bytes);
        assert_non_null(kept);
        memcpy(kept, s.memory.data, (size_t)s.bytes);
        const int64_t chunks[] = {3, 7, c.shape.n_keys};
        for (size_t m = 0; m < N_OF(chunks); m++) {
            step_all(&s, chunks[m]);
            mrsha_expect_bits(p, &p->a.out, &rows, "cuts");
            if (memcmp(kept, s.memory.data, (size_t)s.bytes) != 0)
                fail_msg("%s: in steps of %d: another state", mrsha_describe(p), (int)chunks[m]);
        }
        for (int64_t b = 0; b < c.shape.batch; b++)
            assert_int_equal(s.state.n_tokens[b], c.shape.n_keys);
        mrsha_run(p, fixture_context);
        const double bound = mrsha_out_bound(mrsha_largest_score(p)) * tensor_max_abs(&p->a.v);
        mrsha_expect_close(p, &rows, &p->a.out, 2.0 * bound, "steps and one call");
        free(kept);
        close_stream(&s);
    }
}

/* Rows from 1 to `tokens` that stand ever further apart. */
static void expect_sampled_rows(const mrsha_problem *p, const char *name)
{
    const attention *a = &p->a;
    const int64_t tokens = a->q.shape[2], d = a->v.shape[3];
    const double bound = mrsha_out_bound(mrsha_largest_score(p)) * tensor_max_abs(&a->v);
    double *want = oracle_zeros(d);
    for (int64_t i = 0; i < 2 * tokens; i = 2 * i + 1) {
        const int64_t at = i < tokens ? i : tokens - 1;
        for (int64_t h = 0; h < a->q.shape[1]; h++) {
            const heed_tensor head = tensor_slice(&a->out, 1, h, 1), row = tensor_slice(&head, 2, at, 1);
            oracle_mrsha_row(&a->q, &a->k, &a->v, &p->options, 0, h, at, want, NULL);
            const compare_result r = compare_each(&row, want, bound, 0.0);
            if (!r.equal)
                fail_msg("%s: %s: head %d, row %d: %s", name, mrsha_describe(p), (int)h, (int)at, r.text);
        }
    }
    free(want);
}

static void thousands_of_tokens(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 333, 1, 16};
    for (int pooling = 0; pooling < 3; pooling++) {
        const mrsha_case c =
            case_of(1, 4, 2, runner_quick() ? 500 : 2300, sizes, 4, pooling, 11000 + (uint64_t)pooling);
        stream s = open_stream(&c);
        step_all(&s, 70);
        expect_sampled_rows(s.p, "thousands");
        close_stream(&s);
    }
}

/* One group that never ends; and the default resolutions. */
static void any_group_size(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 51, 1000, (int64_t)1 << 40, INT64_MAX};
    for (int n = 0; n < 2 * (int)N_OF(sizes); n++) {
        const mrsha_case c = case_of(2, 3, 1, 50, &sizes[n / 2], 1, n % 2, 12000 + (uint64_t)n);
        stream s = open_stream(&c);
        step_all(&s, 4);
        mrsha_expect_rows(s.p, &s.p->a.out, NULL, "any size");
        close_stream(&s);
    }
}

static void as_wide_as_it_gets(void **state)
{
    (void)state;
    static const int64_t sizes[] = {3, 8, 1};
    mrsha_case c = case_of(1, 3, 1, 30, sizes, 3, 0, 13000);
    c.shape.channels = c.shape.value_channels = 1024;
    stream s = open_stream(&c);
    step_all(&s, 11);
    mrsha_expect_rows(s.p, &s.p->a.out, NULL, "wide");
    close_stream(&s);
}

static void empty_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 1};
    for (int n = 0; n < 4; n++) {
        const mrsha_case c = case_of(n != 0, n != 1 ? 4 : 0, n != 1 ? 2 : 0, n != 2 ? 4 : 0, sizes, 2, 0, 14000);
        stream s = open_stream(&c);
        step_on(s.p, fixture_context, &s.state, 0, n == 3 ? 0 : c.shape.n_keys, NULL);
        if (n > 0)
            assert_int_equal(s.state.n_tokens[0], n == 3 ? 0 : c.shape.n_keys);
        close_stream(&s);
    }
}

/* ---- Exact ---- */

static void threads_and_hooks_keep_the_bits(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 4, 2};
    int most_workers = 0;
    for (int n = 0; n < 3; n++) {
        mrsha_case c = case_of(3, 8, 4, 210, sizes, 4, n, 20000 + (uint64_t)n);
        c.shape.channels = c.shape.value_channels = 64;
        stream s = open_stream(&c);
        step_all(&s, 210);
        const heed_tensor first = mrsha_keep(s.p, &s.p->a.out);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            reset(&s.state, -1);
            step_on(s.p, context, &s.state, 0, 130, NULL);
            step_on(s.p, context, &s.state, 130, 80, NULL);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            assert_string_equal(report.path, "mrsha-steps");
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            mrsha_expect_bits(s.p, &s.p->a.out, &first, runner_threadings[t].name);
            heed_context_destroy(context);
        }
        close_stream(&s);
    }
    assert_true(most_workers > 1);
}

/* lengths[b] tokens from done[b] on of each sequence of `from`, and poison behind them. */
static void give_next_tokens(mrsha_problem *to, const mrsha_problem *from, const int64_t *done, const int64_t *lengths)
{
    const heed_tensor *const parts[][2] = {{&to->a.q, &from->a.q}, {&to->a.k, &from->a.k}, {&to->a.v, &from->a.v}};
    for (size_t m = 0; m < N_OF(parts); m++) {
        tensor_fill(parts[m][0], NAN);
        for (int64_t b = 0; b < to->c.shape.batch; b++) {
            heed_tensor in = tensor_slice(parts[m][0], 0, b, 1), whole = tensor_slice(parts[m][1], 0, b, 1);
            whole = tensor_slice(&whole, 2, done[b], lengths[b]);
            in = tensor_slice(&in, 2, 0, lengths[b]);
            tensor_copy(&in, &whole);
        }
    }
}

/* Sequences that stand at different tokens, some waiting: each has the bits of going with the others. */
static void sequences_go_their_own_way(void **state)
{
    (void)state;
    enum { BATCH = 3, STEPS = 25, MOST = 9 };
    static const int64_t sizes[] = {4, 1, 3, 16};
    for (int n = 0; n < 3; n++) {
        const mrsha_case c = case_of(BATCH, 4, 2, STEPS * MOST, sizes, 4, n, 21000 + (uint64_t)n);
        mrsha_case part = c;
        part.shape.n_queries = part.shape.n_keys = MOST;
        stream s = open_stream(&c);
        step_all(&s, 13);
        random_stream random = random_start((uint64_t)n + 900);
        mrsha_problem *x = mrsha_create(&part);
        if (c.pooling == HEED_POOLING_LEARNED)
            x->options.weights = &s.p->weights;
        guarded_clear(&s.memory);
        reset(&s.state, -1);
        int64_t done[BATCH] = {0};
        for (int i = 0; i < STEPS; i++) {
            int64_t lengths[BATCH] = {0};
            for (int64_t b = 0; b < BATCH; b++)
                lengths[b] = random_below(&random, 3) ? random_below(&random, MOST + 1) : 0;
            give_next_tokens(x, s.p, done, lengths);
            step_on(x, fixture_context, &s.state, 0, MOST, lengths);
            for (int64_t b = 0; b < BATCH; b++) {
                heed_tensor got = tensor_slice(&x->a.out, 0, b, 1), want = tensor_slice(&s.p->a.out, 0, b, 1);
                const heed_tensor rest = tensor_slice(&got, 2, lengths[b], MOST - lengths[b]);
                got = tensor_slice(&got, 2, 0, lengths[b]);
                want = tensor_slice(&want, 2, done[b], lengths[b]);
                mrsha_expect_bits(x, &got, &want, "own way");
                for (int64_t t = 0; t < 4 * 9 * rest.shape[2]; t++)
                    assert_true(*tensor_at(&rest, 0, t % 4, t / 36, t / 4 % 9) == 0.0f);
                done[b] += lengths[b];
                assert_int_equal(s.state.n_tokens[b], done[b]);
            }
        }
        mrsha_destroy(x);
        close_stream(&s);
    }
}

static void one_sequence_starts_anew(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1, 3, 16};
    const mrsha_case c = case_of(3, 4, 2, 80, sizes, 4, 0, 22000);
    stream s = open_stream(&c), fresh = open_stream(&c);
    step_all(&s, 80);
    const heed_tensor whole = mrsha_keep(s.p, &s.p->a.out);
    reset(&s.state, -1);
    step_on(s.p, fixture_context, &s.state, 0, 50, NULL);
    reset(&s.state, 1);
    assert_int_equal(s.state.n_tokens[0], 50);
    assert_int_equal(s.state.n_tokens[1], 0);
    step_on(s.p, fixture_context, &s.state, 50, 30, NULL);
    for (int64_t b = 0; b < 3; b += 2) {
        const heed_tensor got = tensor_slice(&s.p->a.out, 0, b, 1), want = tensor_slice(&whole, 0, b, 1);
        mrsha_expect_bits(s.p, &got, &want, "the others go on");
    }
    /* The tokens from 50 on as if there had been none before. */
    step_on(fresh.p, fixture_context, &fresh.state, 50, 30, NULL);
    const heed_tensor late = tensor_slice(&s.p->a.out, 2, 50, 30), alone = tensor_slice(&fresh.p->a.out, 2, 50, 30);
    const heed_tensor got = tensor_slice(&late, 0, 1, 1), want = tensor_slice(&alone, 0, 1, 1);
    mrsha_expect_bits(s.p, &got, &want, "starts anew");
    close_stream(&fresh);
    close_stream(&s);
}

/* A NaN spoils the rows that see its group, from its token on, and nothing before it or beside it. */
static void nan_comes_with_its_token(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1, 3, 16};
    for (int n = 0; n < 3 * 2; n++) {
        const mrsha_case c = case_of(2, 4, 2, 60, sizes, 4, n / 3 ? 2 : 0, 23000 + (uint64_t)n);
        stream s = open_stream(&c);
        mrsha_problem *p = s.p;
        step_all(&s, 7);
        const heed_tensor before = mrsha_keep(p, &p->a.out), *const inputs[] = {&p->a.q, &p->a.k, &p->a.v};
        *tensor_at(inputs[n % 3], 1, 1, 33, 4) = NAN;
        step_all(&s, 7);
        mrsha_expect_rows(p, &p->a.out, NULL, "NaN");
        for (int64_t row = 0; row < 2 * 4 * 60; row++) {
            const int64_t b = row / 240, h = row / 60 % 4, i = row % 60;
            const int may_change = n % 3 == 0 ? b == 1 && h == 1 && i == 33 : b == 1 && h / 2 == 1 && i >= 33;
            if (!may_change && memcmp(tensor_at(&p->a.out, b, h, i, 0), tensor_at(&before, b, h, i, 0), 36) != 0)
                fail_msg("%s: NaN in %c: row (%d, %d, %d) has changed", mrsha_describe(p), "qkv"[n % 3], (int)b, (int)h,
                         (int)i);
        }
        close_stream(&s);
    }
}

/* ---- Memory ---- */

/* The caches of all heads, and their rows for so many tokens. A fine head has no use for weights. */
static void count_caches(const mrsha_problem *p, int64_t max_tokens, int64_t *n_caches, int64_t *n_rows)
{
    const attention_shape *s = &p->c.shape;
    *n_caches = *n_rows = 0;
    for (int64_t h = 0; h < s->q_heads; h++) {
        const int64_t ratio = s->q_heads / s->kv_heads, size = mrsha_group_size(p, h);
        int has_one = 0;
        for (int64_t other = h / ratio * ratio; other < h; other++)
            has_one |= mrsha_group_size(p, other) == size && (size == 1 || p->c.pooling != HEED_POOLING_LEARNED);
        *n_caches += !has_one;
        *n_rows += has_one ? 0 : max_tokens / size + (max_tokens % size != 0);
    }
}

static void sizes_of_states(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{1, 1, 1, 1}, {2, 4, 2, 4}, {8, 8, 8, 8}, {3, 1, 100, 3}, {0, 0, 0, 0}};
    static const int64_t heads[][2] = {{4, 4}, {4, 2}, {8, 2}, {4, 1}, {12, 3}};
    for (int n = 0; n < 5 * 5 * 3; n++) {
        const int64_t *h = heads[n / 5 % 5], max_tokens = n % 2 ? 64 : 101;
        const mrsha_case c = case_of(2, h[0], h[1], max_tokens, sizes[n % 5], 4, n / 25, 30000 + (uint64_t)n);
        stream s = open_stream(&c);
        int64_t n_caches, n_rows;
        count_caches(s.p, max_tokens, &n_caches, &n_rows);
        assert_int_equal(s.state.keys.shape[2], n_rows);
        assert_int_equal(s.state.values.shape[2], n_rows);
        assert_int_equal(s.state.open_keys.shape[2], 2 * n_caches);
        assert_int_equal(s.state.open_values.shape[2], 2 * n_caches);
        assert_int_equal(s.bytes, 8 * 2 + 4 * 2 * (n_rows + 2 * n_caches) * (12 + 9));
        assert_int_equal(s.state.keys.stride[0] * 4 * 2 + 8 * 2, s.bytes);
        assert_true((unsigned char *)s.state.n_tokens == s.memory.data);
        assert_int_equal(s.state.max_tokens, max_tokens);
        close_stream(&s);
    }
    /* A kv head whose heads all have S = 8 keeps an eighth of the rows. */
    const mrsha_case fine = case_of(1, 4, 2, 1024, sizes[0], 4, 0, 0),
                     coarse = case_of(1, 4, 2, 1024, sizes[2], 4, 0, 0);
    stream a = open_stream(&fine), b = open_stream(&coarse);
    assert_int_equal(a.state.keys.shape[2], 8 * b.state.keys.shape[2]);
    close_stream(&a);
    close_stream(&b);
}

static double weight_of(const mrsha_problem *p, int64_t h, int64_t t)
{
    if (mrsha_group_size(p, h) == 1)
        return 1.0;
    return p->c.pooling == HEED_POOLING_LEARNED ? (double)*tensor_at(&p->weights, 0, 0, h, t)
           : p->c.pooling == HEED_POOLING_FIRST ? (double)(t == 0)
                                                : 1.0;
}

/* One cache: in each row what stands for the tokens of its group so far. */
static void expect_cache(const stream *s, const heed_tensor *rows, const heed_tensor *x, int64_t b, int64_t h,
                         int64_t first_row, int64_t n_tokens)
{
    const mrsha_problem *p = s->p;
    const int64_t size = mrsha_group_size(p, h), kv_head = h / (p->c.shape.q_heads / p->c.shape.kv_heads);
    for (int64_t begin = 0; begin < n_tokens; begin += size) {
        for (int64_t c = 0; c < x->shape[3]; c++) {
            double sum = 0.0, weights = 0.0;
            for (int64_t t = begin; t < begin + size && t < n_tokens; t++) {
                sum += weight_of(p, h, t - begin) * (double)*tensor_at(x, b, kv_head, t, c);
                weights += weight_of(p, h, t - begin);
            }
            const double got = (double)*tensor_at(rows, b, 0, first_row + begin / size, c);
            if (!(fabs(got - sum / weights) <= 1e-6 * 4.0)) /* of tokens of up to 4 */
                fail_msg("%s: group %d of head %d, channel %d: %.9g, want %.9g", mrsha_describe(p), (int)(begin / size),
                         (int)h, (int)c, got, sum / weights);
        }
    }
}

/* A cache for each distinct S of a kv head, or each head, in the order of the heads. */
static void what_the_caches_hold(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1, 4, 3, 2, 4, 2, 2};
    for (int n = 0; n < 3 * 3; n++) {
        const int64_t tokens[] = {50, 48, 1};
        const mrsha_case c = case_of(2, 8, 2, 53, sizes, 8, n % 3, 31000 + (uint64_t)n);
        stream s = open_stream(&c);
        step_on(s.p, fixture_context, &s.state, 0, tokens[n / 3], NULL);
        for (int64_t b = 0; b < 2; b++) {
            for (int64_t h = 0, first_row = 0; h < 8; h++) {
                int has_one = 0;
                for (int64_t other = h / 4 * 4; other < h; other++)
                    has_one |= sizes[other] == sizes[h] && (sizes[h] == 1 || c.pooling != HEED_POOLING_LEARNED);
                if (has_one)
                    continue;
                expect_cache(&s, &s.state.keys, &s.p->a.k, b, h, first_row, tokens[n / 3]);
                expect_cache(&s, &s.state.values, &s.p->a.v, b, h, first_row, tokens[n / 3]);
                first_row += (53 + sizes[h] - 1) / sizes[h];
            }
        }
        close_stream(&s);
    }
}

/* A whole state in other memory; and one sequence of it, which is one piece, in a batch of its own. */
static void a_state_moves(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1, 3, 16};
    for (int pooling = 0; pooling < 3; pooling++) {
        const mrsha_case c = case_of(3, 4, 2, 90, sizes, 4, pooling, 32000 + (uint64_t)pooling);
        stream s = open_stream(&c);
        step_all(&s, 90);
        const heed_tensor whole = mrsha_keep(s.p, &s.p->a.out);
        const int64_t piece = s.state.keys.stride[0] * (int64_t)sizeof(float), single_bytes = count_bytes(s.p, 1, 90);
        assert_int_equal(single_bytes, 8 + piece);
        guarded other, single;
        guarded_create(&other, (size_t)s.bytes, GUARD_START);
        guarded_create(&single, (size_t)single_bytes, GUARD_START);
        heed_mrsha_state moved = view_state(s.p, other.data, 3, 90);
        assert_true(other.data[0] == guarded_pattern(0)); /* a view writes nothing */
        guarded_clear(&s.memory);
        reset(&s.state, -1);
        step_on(s.p, fixture_context, &s.state, 0, 47, NULL);
        memcpy(other.data, s.memory.data, (size_t)s.bytes);
        memcpy(single.data, &s.state.n_tokens[2], 8);
        memcpy(single.data + 8, s.memory.data + (size_t)(3 * 8 + 2 * piece), (size_t)piece);
        guarded_clear(&s.memory);

        step_on(s.p, fixture_context, &moved, 47, 43, NULL);
        mrsha_expect_bits(s.p, &s.p->a.out, &whole, "elsewhere");

        mrsha_problem alone = *s.p;
        heed_tensor *parts[] = {&alone.a.q, &alone.a.k, &alone.a.v};
        for (size_t m = 0; m < N_OF(parts); m++)
            *parts[m] = tensor_slice(parts[m], 0, 2, 1);
        const heed_tensor rows = tensor_slice(&s.p->a.out, 0, 2, 1), want = tensor_slice(&whole, 0, 2, 1);
        const heed_tensor late = tensor_slice(&rows, 2, 47, 43);
        tensor_fill(&late, NAN);
        alone.a.out = rows;
        moved = view_state(s.p, single.data, 1, 90);
        assert_int_equal(try_step(&alone, fixture_context, &moved, 47, 43, NULL), HEED_OK);
        mrsha_expect_bits(s.p, &rows, &want, "alone");
        assert_true(guarded_intact(&other) && guarded_intact(&single));
        guarded_destroy(&other);
        guarded_destroy(&single);
        close_stream(&s);
    }
}

/* A state is any views of the right shapes. */
static void states_of_any_layout(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1, 3, 16};
    const mrsha_case c = case_of(2, 4, 2, 60, sizes, 4, 0, 33000);
    stream s = open_stream(&c);
    step_all(&s, 60);
    const heed_tensor want = mrsha_keep(s.p, &s.p->a.out);
    const int64_t n_rows = s.state.keys.shape[2], n_open = s.state.open_keys.shape[2];
    for (int layout = 0; layout < LAYOUT_PACKED; layout++) {
        int64_t n_tokens[2] = {-1, -1};
        const heed_mrsha_state any = {
            mrsha_tensor(s.p, HEED_FLOAT32, 2, 1, n_rows, 12, (tensor_layout)layout),
            mrsha_tensor(s.p, HEED_FLOAT32, 2, 1, n_rows, 9, (tensor_layout)(2 - layout)),
            mrsha_tensor(s.p, HEED_FLOAT32, 2, 1, n_open, 12, (tensor_layout)layout),
            mrsha_tensor(s.p, HEED_FLOAT32, 2, 1, n_open, 9, (tensor_layout)(2 - layout)),
            60,
            n_tokens,
        };
        reset(&any, -1);
        for (int64_t t = 0; t < 60; t += 4)
            step_on(s.p, fixture_context, &any, t, 4, NULL);
        mrsha_expect_bits(s.p, &s.p->a.out, &want, "layout");
    }
    close_stream(&s);
}

/* The last token there is room for is taken, the one behind it is refused. */
static void max_tokens_are_the_most(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1};
    const mrsha_case c = case_of(2, 2, 1, 12, sizes, 2, 0, 34000);
    stream s = open_stream(&c);
    int64_t none_and_one[] = {0, 1}, both[] = {1, 1}, none[] = {0, 0};
    step_on(s.p, fixture_context, &s.state, 0, 11, NULL);
    step_on(s.p, fixture_context, &s.state, 11, 1, none_and_one);
    unsigned char *kept = malloc((size_t)s.bytes);
    assert_non_null(kept);
    memcpy(kept, s.memory.data, (size_t)s.bytes);
    const heed_tensor out = tensor_slice(&s.p->a.out, 2, 0, 2);
    assert_int_equal(try_step(s.p, fixture_context, &s.state, 11, 1, both), HEED_ERROR_ARGUMENT);
    assert_non_null(strstr(heed_context_message(fixture_context), "n_tokens[1]"));
    assert_non_null(strstr(heed_context_message(fixture_context), "max_tokens"));
    assert_int_equal(try_step(s.p, fixture_context, &s.state, 0, 2, NULL), HEED_ERROR_ARGUMENT);
    for (int64_t n = 0; n < 2 * 2 * 2 * 9; n++)
        assert_true(isnan(*tensor_at(&out, n % 2, n / 2 % 2, n / 4 % 2, n / 8)));
    assert_memory_equal(kept, s.memory.data, (size_t)s.bytes);
    step_on(s.p, fixture_context, &s.state, 3, 5, none);
    assert_memory_equal(kept, s.memory.data, (size_t)s.bytes);
    free(kept);
    close_stream(&s);
}

static void nothing_is_allocated(void **state)
{
    (void)state;
    static const int64_t sizes[] = {4, 1, 3, 16};
    if (count_allocations() < 0)
        skip();
    for (int pooling = 0; pooling < 3; pooling++) {
        const mrsha_case c = case_of(1, 4, 2, 40, sizes, 4, pooling, 35000);
        stream s = open_stream(&c);
        heed_mrsha_options options = s.p->options;
        long long before = 0;
        for (int round = 0; round < 2; round++) {
            before = count_allocations();
            reset(&s.state, -1);
            for (int64_t t = 0; t < 40; t += 4)
                assert_int_equal(try_step(s.p, fixture_context, &s.state, t, 4, NULL), HEED_OK);
            options.softmax = NULL;
            for (int mode = 0; mode < 3; mode++) {
                options.mode = (heed_mrsha_mode)mode;
                assert_int_equal(heed_mrsha_forward(fixture_context, &s.p->a.q, &s.p->a.k, &s.p->a.v, &options,
                                                    &s.p->a.out, &s.p->a.lse),
                                 HEED_OK);
            }
        }
        assert_true(count_allocations() == before);
        close_stream(&s);
    }
}

static int close_group(void **state)
{
    mrsha_print_errors();
    return fixture_close(state);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_keep_the_bits),
        cmocka_unit_test(thousands_of_tokens),
        cmocka_unit_test(any_group_size),
        cmocka_unit_test(as_wide_as_it_gets),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(threads_and_hooks_keep_the_bits),
        cmocka_unit_test(sequences_go_their_own_way),
        cmocka_unit_test(one_sequence_starts_anew),
        cmocka_unit_test(nan_comes_with_its_token),
        cmocka_unit_test(sizes_of_states),
        cmocka_unit_test(what_the_caches_hold),
        cmocka_unit_test(a_state_moves),
        cmocka_unit_test(states_of_any_layout),
        cmocka_unit_test(max_tokens_are_the_most),
        cmocka_unit_test(nothing_is_allocated),
    };
    return cmocka_run_group_tests(tests, fixture_open, close_group);
}
