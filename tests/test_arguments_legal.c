/* What looks odd in the arguments of heed_softmax_forward() and is legal. */
#include "argument_call.h"
#include "heed.h"
#include "support/runner.h"

#include <math.h>

static call odd_call;

static void resize(call *c, int axis, int64_t size, const tensor_id *tensors, int n_tensors)
{
    for (int i = 0; i < n_tensors; i++) {
        c->tensor[tensors[i]].shape[axis] = size;
        if (size == 0)
            c->tensor[tensors[i]].data = NULL;
    }
}

/* An empty dimension is no error, and nothing is written where there is no output. */
static void test_empty_sizes(void **state)
{
    (void)state;
    static const tensor_id all[] = {Q, K, V, OUT, LSE, BIAS, VISIBLE}, with_queries[] = {Q, OUT, LSE, BIAS, VISIBLE};
    static memory before;
    for (int axis = 0; axis < 3; axis++) {
        make_call(&odd_call);
        resize(&odd_call, axis, 0, axis < 2 ? all : with_queries, axis < 2 ? 7 : 5);
        odd_call.mask.query_lengths = NULL;
        before = odd_call.data;
        expect_status("an empty dimension", HEED_OK, run_call(call_context, &odd_call));
        assert_memory_equal(&before, &odd_call.data, sizeof before);
    }
    make_call(&odd_call);
    resize(&odd_call, 1, 0, with_queries, 5);
    expect_status("no query heads", HEED_OK, run_call(call_context, &odd_call));
    expect_none_wrong();
}

static void test_no_keys(void **state)
{
    (void)state;
    static const tensor_id keys[] = {K, V}, scores[] = {BIAS, VISIBLE};
    make_call(&odd_call);
    resize(&odd_call, 2, 0, keys, 2);
    resize(&odd_call, 3, 0, scores, 2);
    odd_call.mask.key_lengths = NULL;
    odd_call.mask.query_lengths = NULL;
    odd_call.options.sinks = NULL;
    expect_status("no keys", HEED_OK, run_call(call_context, &odd_call));
    for (int i = 0; i < B * HQ * NQ * DV; i++)
        assert_true(odd_call.data.out[i] == 0.0f);
    for (int i = 0; i < B * HQ * NQ; i++)
        assert_true(odd_call.data.lse[i] == -INFINITY);
    expect_none_wrong();
}

/* Where a size is 1 its stride is never looked at, in inputs and in outputs. */
static void test_strides_of_size_one(void **state)
{
    (void)state;
    static const int64_t odd[] = {0, -1, 12345, INT64_MAX, INT64_MIN};
    float x[4] = {0.5f, 2.0f, 7.0f, -1.0f}, lse = 0.0f;
    uint8_t visible = 1;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        const int64_t s = odd[i];
        heed_tensor q = {&x[0], HEED_FLOAT32, {1, 1, 1, 1}, {s, s, s, s}};
        heed_tensor k = q, v = q, out = q, l = q, bias = q, seen = q;
        k.data = &x[1];
        v.data = &x[2];
        out.data = &x[3];
        l.data = &lse;
        bias.data = &x[0];
        seen.data = &visible;
        seen.dtype = HEED_BOOL;
        heed_mask mask = HEED_MASK_INIT;
        mask.visible = &seen;
        heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
        options.bias = &bias;
        options.mask = &mask;
        x[3] = -1.0f;
        expect_status("any stride", HEED_OK, heed_softmax_forward(call_context, &q, &k, &v, &options, &out, &l));
        assert_true(x[3] == 7.0f);
        /* The only score: 0.5 x 2 + 0.5. */
        assert_true(fabsf(lse - 1.5f) <= 1.5f * 0x1p-22f);
    }
    expect_none_wrong();
}

/* X(name, the change) */
#define LEGAL_CASES(X)                                                                                                 \
    X(lse_missing, c->argument[LSE] = NULL)                                                                            \
    X(scale_negative, c->options.scale = -0.5f)                                                                        \
    X(scale_subnormal, c->options.scale = 1e-42f)                                                                      \
    X(softcap, c->options.softcap = 1.5f)                                                                              \
    X(causal_any_value, c->mask.causal = -3)                                                                           \
    X(windows_zero, c->mask.window_left = c->mask.window_right = 0)                                                    \
    X(windows_huge, c->mask.window_left = c->mask.window_right = INT64_MAX)                                            \
    X(query_lengths_zero, c->data.query_lengths[0] = c->data.query_lengths[1] = 0)                                     \
    X(key_lengths_zero, c->data.key_lengths[0] = c->data.key_lengths[1] = 0)                                           \
    X(starts_at_the_ends, start_at(c, (int64_t)1 << 60, -((int64_t)1 << 60)))                                          \
    X(starts_default, c->mask.alignment = HEED_ALIGN_POSITIONS)                                                        \
    X(bias_repeated, c->tensor[BIAS].stride[0] = c->tensor[BIAS].stride[1] = c->tensor[BIAS].stride[2] = 0)            \
    X(bias_of_size_one, c->tensor[BIAS].shape[0] = c->tensor[BIAS].shape[1] = c->tensor[BIAS].shape[2] = 1)            \
    X(keys_repeated, c->tensor[K].stride[2] = c->tensor[V].stride[0] = 0)                                              \
    X(inputs_share_memory, c->tensor[K].data = c->data.q)                                                              \
    X(bool_values, memset(c->data.visible, 0x80, sizeof c->data.visible))

#define LEGAL_FUNCTION(name, change)                                                                                   \
    static void use_##name(call *c) { change; }
LEGAL_CASES(LEGAL_FUNCTION)
#undef LEGAL_FUNCTION

static const struct {
    const char *title;
    void (*change)(call *c);
} legal_cases[] = {
#define LEGAL_ROW(name, change) {#name, use_##name},
    LEGAL_CASES(LEGAL_ROW)
#undef LEGAL_ROW
};

static void test_legal(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof legal_cases / sizeof legal_cases[0]; i++) {
        make_call(&odd_call);
        legal_cases[i].change(&odd_call);
        expect_status(legal_cases[i].title, HEED_OK, run_call(call_context, &odd_call));
    }
    expect_none_wrong();
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_sizes),
        cmocka_unit_test(test_no_keys),
        cmocka_unit_test(test_strides_of_size_one),
        cmocka_unit_test(test_legal),
    };
    return cmocka_run_group_tests(tests, set_up_call, tear_down_call);
}
