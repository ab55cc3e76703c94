/* Linear attention forward, to the bit: who may change whose rows, and what must not matter at all: later tokens, hidden
 * ones, batch, heads, padding, strides, threads. */
#include "linear_check.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Kinds that differ in how features are made; the others are made of the same layers. */
static const map_kind kinds[] = {MAP_DEFAULT, MAP_SOFTPLUS, MAP_AOGLU3, MAP_FAVOR, MAP_IDENTITY, MAP_FAVOR_RELU};

static heed_tensor keep(linear_problem *p, const heed_tensor *tensor)
{
    const heed_tensor copy = linear_tensor_like(p, tensor);
    tensor_copy(&copy, tensor);
    return copy;
}

static heed_tensor row_of(const heed_tensor *x, int64_t b, int64_t h, int64_t i)
{
    heed_tensor row = tensor_slice(x, 0, b, 1);
    row = tensor_slice(&row, 1, h, 1);
    return tensor_slice(&row, 2, i, 1);
}

static void fill_row(const heed_tensor *x, int64_t b, int64_t h, int64_t i, float value)
{
    const heed_tensor row = row_of(x, b, h, i);
    tensor_fill(&row, value);
}

/* ---- Who may change whose rows ---- */

/* Changes one token of q, k and v at a time and looks at the rows that do not see it, whatever it becomes. */
static void unseen_tokens_change_no_bit(void **state)
{
    (void)state;
    static const float contents[] = {NAN, INFINITY, -INFINITY, 1e4f, -1e4f, 1e30f};
    static const int64_t tokens[] = {0, 1, 30, 47, 48, 64, 95, 96, 130, 149};
    static const linear_hiding hiding[] = {HIDE_NOTHING, HIDE_TOP_LEFT, HIDE_POSITIONS, HIDE_WINDOW, HIDE_FLAGS};
    for (int n = 0; n < 6 * 5 * 6; n++) {
        if (!runner_takes(n))
            continue;
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 2,
                                                         .kv_heads = 1,
                                                         .n_queries = n % 4 ? 150 : 40,
                                                         .n_keys = 150,
                                                         .channels = 18,
                                                         .value_channels = 21,
                                                         .n_features = 17,
                                                         .map = kinds[n % 6],
                                                         .causal = n / 6 % 5 != 3,
                                                         .hiding = hiding[n / 6 % 5],
                                                         .map_eps = 1e-3f,
                                                         .stream = (uint64_t)n});
        const float content = contents[n / 30];
        linear_run_from(p, fixture_context, NULL);
        const heed_tensor before = keep(p, &p->out), k = keep(p, &p->k), v = keep(p, &p->v), q = keep(p, &p->q);
        for (size_t t = 0; t < N_OF(tokens); t++) {
            tensor_copy(&p->k, &k);
            tensor_copy(&p->v, &v);
            tensor_copy(&p->q, &q);
            fill_row(&p->k, 0, 0, tokens[t], content);
            fill_row(&p->v, 0, 0, tokens[t], content);
            if (tokens[t] < p->c.n_queries)
                fill_row(&p->q, 0, 1, tokens[t], content);
            linear_run_from(p, fixture_context, NULL);
            for (int64_t row = 0; row < 2 * p->c.n_queries; row++) {
                const int64_t h = row / p->c.n_queries, i = row % p->c.n_queries;
                if (oracle_visible(&p->mask, 0, h, i, tokens[t], p->c.n_queries, 150) || (h == 1 && i == tokens[t]))
                    continue;
                const heed_tensor got = row_of(&p->out, 0, h, i), want = row_of(&before, 0, h, i);
                const compare_result r = compare_bits(&got, &want);
                if (!r.equal)
                    fail_msg("%s: token %d becomes %g and changes row %d of head %d: %s", linear_describe(p),
                             (int)tokens[t], (double)content, (int)i, (int)h, r.text);
            }
        }
        linear_destroy(p);
    }
}

/* NaN in keys and values that flags or lengths hide, and in queries beyond theirs: rows and state keep their bits. */
static void hidden_poison_has_no_effect(void **state)
{
    (void)state;
    static const linear_hiding hiding[] = {HIDE_LENGTHS, HIDE_TOP_LEFT, HIDE_FLAGS, HIDE_FLAGS_OF_HEADS, HIDE_MUCH};
    static const float contents[] = {NAN, INFINITY};
    for (int n = 0; n < 6 * 5 * 2 * 2; n++) {
        if (!runner_takes(n))
            continue;
        const linear_case c = {.batch = 2,
                               .q_heads = 2,
                               .kv_heads = 2,
                               .n_queries = 100,
                               .n_keys = 110,
                               .channels = 19,
                               .value_channels = 16,
                               .map = kinds[n % 6],
                               .causal = n / 30 % 2,
                               .hiding = hiding[n / 6 % 5],
                               .map_eps = 1e-3f,
                               .has_state = 1,
                               .n_recent = 2,
                               .stream = (uint64_t)(n + 100)};
        linear_problem *a = linear_create(&c), *b = linear_create(&c);
        oracle_linear o;
        oracle_linear_open(&o, &a->q, &a->k, &a->v, &a->options, &a->state);
        for (int64_t row = 0; row < 4 * 110; row++) {
            const int64_t batch = row / 220, h = row / 110 % 2, j = row % 110;
            if (!oracle_linear_joins(&o, batch, h, j)) {
                fill_row(&b->k, batch, h, j, contents[n / 60]);
                fill_row(&b->v, batch, h, j, contents[n / 60]);
            }
            if (j < 100 && j >= oracle_query_length(&b->mask, batch, 100))
                fill_row(&b->q, batch, h, j, contents[n / 60]);
        }
        linear_run(a, fixture_context);
        linear_run(b, fixture_context);
        linear_expect_bits(&b->out, &a->out, linear_describe(a));
        linear_expect_bits(&b->state.sums, &a->state.sums, linear_describe(a));
        linear_expect_bits(&b->state.norms, &a->state.norms, linear_describe(a));
        oracle_linear_close(&o);
        linear_destroy(a);
        linear_destroy(b);
    }
}

/* Rows that see nothing are 0, whatever q, k and v hold. */
static void rows_without_keys(void **state)
{
    (void)state;
    static const int64_t none[] = {0, 0}, far[] = {1000, 1000};
    for (int n = 0; n < 6 * 5 * 2; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                         .q_heads = 2,
                                                         .kv_heads = 1,
                                                         .n_queries = n / 30 ? 66 : 2,
                                                         .n_keys = 67,
                                                         .channels = 19,
                                                         .value_channels = 5,
                                                         .map = kinds[n % 6],
                                                         .map_eps = 1e-3f,
                                                         .stream = (uint64_t)n});
        tensor_fill(&p->q, NAN);
        tensor_fill(&p->k, NAN);
        tensor_fill(&p->v, NAN);
        switch (n / 6 % 5) {
        case 0:
            p->mask.key_lengths = none;
            break;
        case 1:
            p->mask.query_lengths = none;
            break;
        case 2:
            p->visible = linear_tensor(p, HEED_BOOL, 1, 1, 1, 67, LINEAR_BHND);
            memset(p->visible.data, 0, 67);
            p->mask.visible = &p->visible;
            break;
        case 3: /* all keys are in the future */
            p->mask.causal = 1;
            p->mask.alignment = HEED_ALIGN_POSITIONS;
            p->mask.key_start = far;
            break;
        default: /* and beyond a window */
            p->mask.window_right = 2;
            p->mask.alignment = HEED_ALIGN_POSITIONS;
            p->mask.key_start = far;
            break;
        }
        linear_run(p, fixture_context);
        for (int64_t i = 0; i < 4 * p->c.n_queries * 5; i++) {
            const int64_t row = i / 5, h = row / p->c.n_queries % 2;
            if (*tensor_at(&p->out, row / p->c.n_queries / 2, h, row % p->c.n_queries, i % 5) != 0.0f)
                fail_msg("%s: case %d: row %d is not 0", linear_describe(p), n / 6 % 5, (int)row);
        }
        linear_destroy(p);
    }
}

/* A visible NaN in q makes its row NaN, in v its channel of the rows that see it, in k the rows that see it; every other
 * number keeps its bits. */
static void visible_nan_goes_no_further(void **state)
{
    (void)state;
    for (int n = 0; n < 6 * 3 * 2 * 3; n++) {
        if (!runner_takes(n))
            continue;
        const int causal = n / 18 % 2, where = n / 6 % 3;
        static const int64_t tokens[] = {3, 50, 95};
        const int64_t t = tokens[n / 36];
        linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                         .q_heads = 4,
                                                         .kv_heads = 2,
                                                         .n_queries = 96,
                                                         .n_keys = 96,
                                                         .channels = 17,
                                                         .value_channels = 20,
                                                         .map = kinds[n % 6],
                                                         .causal = causal,
                                                         .map_eps = 1e-3f,
                                                         .stream = (uint64_t)(n + 200)});
        linear_run(p, fixture_context);
        const heed_tensor before = keep(p, &p->out);
        const heed_tensor *spoilt[] = {&p->q, &p->k, &p->v};
        *tensor_at(spoilt[where], 1, 1, t, 4) = NAN;
        linear_run(p, fixture_context);
        for (int64_t row = 0; row < 2 * 4 * 96; row++) {
            const int64_t b = row / 384, h = row / 96 % 4, i = row % 96;
            const int sees = b == 1 && h / 2 == 1 && (!causal || t <= i), is_it = b == 1 && h == 1 && i == t;
            for (int64_t d = 0; d < 20; d++) {
                const float got = *tensor_at(&p->out, b, h, i, d), was = *tensor_at(&before, b, h, i, d);
                const int wants_nan = where == 0 ? is_it : where == 1 ? sees : sees && d == 4;
                if (wants_nan ? !isnan(got) : memcmp(&got, &was, sizeof got) != 0)
                    fail_msg("%s: NaN in %c of token %d: row (%d, %d, %d), channel %d: %.9g, was %.9g",
                             linear_describe(p), "qkv"[where], (int)t, (int)b, (int)h, (int)i, (int)d, (double)got,
                             (double)was);
            }
        }
        linear_destroy(p);
    }
}

/* ---- What must not matter ---- */

/* A case with everything that a row depends on, for each kind. */
static linear_case full_case(int n)
{
    static const linear_hiding hiding[] = {HIDE_NOTHING, HIDE_LENGTHS, HIDE_POSITIONS, HIDE_FLAGS, HIDE_WINDOW};
    return (linear_case){.batch = 3,
                         .q_heads = 4,
                         .kv_heads = 2,
                         .n_queries = 110,
                         .n_keys = 120,
                         .channels = 21,
                         .value_channels = 35,
                         .n_features = 40,
                         .map = (map_kind)(n % N_MAP_KINDS),
                         .has_query_map = n % 3 == 1,
                         .causal = n / N_MAP_KINDS % 2,
                         .hiding = hiding[n % 5],
                         .map_eps = 1e-3f,
                         .has_state = n % 2,
                         .n_recent = 3,
                         .stream = (uint64_t)(n + 3000)};
}

static void strides_keep_the_bits(void **state)
{
    (void)state;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        linear_problem *p = linear_create(&c);
        linear_run(p, fixture_context);
        for (int layout = 1; layout < N_LINEAR_LAYOUTS; layout++) {
            c.layout = (linear_layout)layout;
            linear_problem *other = linear_create(&c);
            linear_run(other, fixture_context);
            linear_expect_bits(&other->out, &p->out, linear_describe(other));
            if (c.has_state) {
                linear_expect_bits(&other->state.sums, &p->state.sums, "strides, sums");
                linear_expect_bits(&other->state.norms, &p->state.norms, "strides, norms");
            }
            linear_destroy(other);
        }
        linear_destroy(p);
    }
}

static void threads_and_hooks_keep_the_bits(void **state)
{
    (void)state;
    int most_workers = 0;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        const linear_case c = full_case(n);
        linear_problem *p = linear_create(&c);
        linear_run(p, fixture_context);
        for (int t = 0; t < N_THREADINGS; t++) {
            heed_context *context = runner_context(runner_threadings[t].n_threads, runner_threadings[t].hook);
            if (!context)
                continue;
            linear_problem *other = linear_create(&c);
            linear_run(other, context);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            most_workers = report.n_workers > most_workers ? report.n_workers : most_workers;
            linear_expect_bits(&other->out, &p->out, runner_threadings[t].name);
            if (c.has_state) {
                linear_expect_bits(&other->state.sums, &p->state.sums, runner_threadings[t].name);
                linear_expect_bits(&other->state.norms, &p->state.norms, runner_threadings[t].name);
            }
            linear_destroy(other);
            heed_context_destroy(context);
        }
        linear_destroy(p);
    }
    assert_true(most_workers > 1);
}

/* One sequence and one kv head with its queries, alone in the world: its rows and its state. */
static void alone_in_the_batch(void **state)
{
    (void)state;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        c.one_head_for_all = 1; /* a head of weights would have to be cut out too */
        linear_problem *p = linear_create(&c), *whole = linear_create(&c);
        linear_run(whole, fixture_context);
        for (int64_t b = 0; b < c.batch; b++) {
            for (int64_t h = 0; h < c.kv_heads; h++) {
                heed_mask mask = p->mask;
                heed_linear_options options = p->options;
                heed_tensor parts[4] = {p->q, p->k, p->v, p->out}, flags = p->visible;
                heed_linear_state s = p->state;
                heed_tensor *of_state[4] = {&s.sums, &s.norms, &s.recent_features, &s.recent_values};
                for (int m = 0; m < 4; m++) {
                    const int64_t heads = m == 0 || m == 3 ? 2 : 1;
                    parts[m] = tensor_slice(&parts[m], 0, b, 1);
                    parts[m] = tensor_slice(&parts[m], 1, h * heads, heads);
                    *of_state[m] = tensor_slice(of_state[m], 0, b, 1);
                    *of_state[m] = tensor_slice(of_state[m], 1, h, 1);
                }
                int64_t n_tokens = 30;
                s.n_tokens = &n_tokens;
                options.mask = &mask;
                mask.query_lengths = mask.query_lengths ? &p->query_lengths[b] : NULL;
                mask.key_lengths = mask.key_lengths ? &p->key_lengths[b] : NULL;
                mask.query_start = mask.query_start ? &p->query_start[b] : NULL;
                mask.key_start = mask.key_start ? &p->key_start[b] : NULL;
                if (mask.visible) {
                    flags = tensor_slice(&flags, 0, flags.shape[0] == 1 ? 0 : b, 1);
                    mask.visible = &flags;
                }
                tensor_fill(&parts[3], NAN);
                const heed_status status = heed_linear_forward(fixture_context, &parts[0], &parts[1], &parts[2],
                                                               &options, c.has_state ? &s : NULL, &parts[3]);
                if (status != HEED_OK)
                    fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
                heed_tensor want = tensor_slice(&whole->out, 0, b, 1);
                want = tensor_slice(&want, 1, h * 2, 2);
                linear_expect_bits(&parts[3], &want, linear_describe(p));
                if (c.has_state) {
                    want = tensor_slice(&whole->state.sums, 0, b, 1);
                    want = tensor_slice(&want, 1, h, 1);
                    linear_expect_bits(&s.sums, &want, "alone, sums");
                    assert_int_equal(n_tokens, whole->n_tokens[b]);
                }
            }
        }
        linear_destroy(p);
        linear_destroy(whole);
    }
}

/* Weights of their own for every head, all alike, are those with one head. */
static void one_head_of_weights_for_all(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        linear_problem *each = linear_create(&c);
        c.one_head_for_all = 1;
        linear_problem *one = linear_create(&c);
        test_map *from[] = {&one->key_map, &one->query_map}, *to[] = {&each->key_map, &each->query_map};
        for (int m = 0; m < 2; m++) {
            for (int t = 0; t < from[m]->n_tensors; t++) {
                for (int64_t h = 0; h < to[m]->tensors[t].shape[1]; h++) {
                    const heed_tensor head = tensor_slice(&to[m]->tensors[t], 1, h, 1);
                    tensor_copy(&head, &from[m]->tensors[t]);
                }
            }
        }
        linear_run(each, fixture_context);
        linear_run(one, fixture_context);
        linear_expect_bits(&each->out, &one->out, linear_describe(one));
        linear_destroy(each);
        linear_destroy(one);
    }
}

/* Keys beyond the lengths, or fewer of them: padding. */
static void padding_keeps_the_bits(void **state)
{
    (void)state;
    for (int n = 0; n < 2 * N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        c.hiding = HIDE_NOTHING;
        c.batch = 1;
        static const int64_t lengths[] = {77};
        linear_problem *p = linear_create(&c), *other = linear_create(&c);
        p->mask.key_lengths = other->mask.key_lengths = lengths;
        linear_run(p, fixture_context);
        other->k = tensor_slice(&other->k, 2, 0, 77);
        other->v = tensor_slice(&other->v, 2, 0, 77);
        other->mask.key_lengths = n % 2 ? lengths : NULL;
        linear_run(other, fixture_context);
        linear_expect_bits(&other->out, &p->out, linear_describe(p));
        if (c.has_state)
            linear_expect_bits(&other->state.sums, &p->state.sums, "padding, sums");
        linear_destroy(p);
        linear_destroy(other);
    }
}

/* The scratch of a large call is used by a small one: nothing of it may be left. */
static void earlier_calls_leave_nothing(void **state)
{
    (void)state;
    for (int n = 0; n < N_MAP_KINDS; n++) {
        linear_case c = full_case(n);
        linear_problem *p = linear_create(&c), *again = linear_create(&c);
        linear_problem *large = linear_create(&(linear_case){.batch = 1,
                                                             .q_heads = 2,
                                                             .kv_heads = 1,
                                                             .n_queries = 200,
                                                             .n_keys = 200,
                                                             .channels = 100,
                                                             .value_channels = 110,
                                                             .n_features = 120,
                                                             .map = (map_kind)n,
                                                             .causal = n % 2,
                                                             .map_eps = 1e-3f});
        linear_run(p, fixture_context);
        tensor_fill(&large->k, NAN);
        tensor_fill(&large->v, NAN);
        linear_run(large, fixture_context);
        linear_run(again, fixture_context);
        linear_expect_bits(&again->out, &p->out, linear_describe(p));
        linear_destroy(p);
        linear_destroy(again);
        linear_destroy(large);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unseen_tokens_change_no_bit), cmocka_unit_test(hidden_poison_has_no_effect),
        cmocka_unit_test(rows_without_keys),           cmocka_unit_test(visible_nan_goes_no_further),
        cmocka_unit_test(strides_keep_the_bits),       cmocka_unit_test(threads_and_hooks_keep_the_bits),
        cmocka_unit_test(alone_in_the_batch),          cmocka_unit_test(one_head_of_weights_for_all),
        cmocka_unit_test(padding_keeps_the_bits),      cmocka_unit_test(earlier_calls_leave_nothing),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
