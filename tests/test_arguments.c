/* Every way the arguments of heed_softmax_forward() can be wrong, one at a time: the status, what the message says, and
 * that nothing else happened. Overlaps are in test_arguments_overlap.c. */
#include "argument_call.h"
#include "heed.h"
#include "support/runner.h"

#include <math.h>

static call spoiled;

/* ---- One field of one tensor ---- */

typedef enum { SHAPE, STRIDE, DTYPE, SHIFT, NO_DATA } field;

static const char *const field_names[] = {"shape", "stride", "dtype", "bytes shifted", "no data"};

typedef struct tensor_case {
    tensor_id tensor;
    field field;
    int axis;
    int64_t value;
    heed_status status;
    const char *words[2]; /* what was expected and what was got, where that is a number */
} tensor_case;

/* Rows that hold for every tensor of floats. */
#define FLOAT_CASES(t)                                                                                                 \
    {t, NO_DATA, 0, 0, HEED_ERROR_ARGUMENT, {"NULL"}}, {t, SHIFT, 0, 1, HEED_ERROR_ARGUMENT, {"align"}},               \
        {t, SHIFT, 0, 2, HEED_ERROR_ARGUMENT, {"align"}}, {t, SHIFT, 0, 3, HEED_ERROR_ARGUMENT, {"align"}},            \
        {t, DTYPE, 0, HEED_BOOL, HEED_ERROR_DTYPE, {"HEED_FLOAT32", "HEED_BOOL"}}, SIZE_CASES(t)
/* Rows that hold for every tensor. */
#define SIZE_CASES(t)                                                                                                  \
    {t, DTYPE, 0, 0, HEED_ERROR_ARGUMENT, {"0"}}, {t, DTYPE, 0, 99, HEED_ERROR_ARGUMENT, {"99"}},                      \
        {t, DTYPE, 0, -1, HEED_ERROR_ARGUMENT, {"-1"}}, {t, SHAPE, 0, -1, HEED_ERROR_SHAPE, {"-1"}},                   \
        {t, SHAPE, 1, -2, HEED_ERROR_SHAPE, {"-2"}}, {t, SHAPE, 2, -3, HEED_ERROR_SHAPE, {"-3"}},                      \
        {t, SHAPE, 3, -4, HEED_ERROR_SHAPE, {"-4"}}, {t, SHAPE, 2, INT64_MIN, HEED_ERROR_SHAPE, {NULL}},               \
        {t, STRIDE, 0, -1, HEED_ERROR_STRIDE, {"-1"}}, {t, STRIDE, 1, -8, HEED_ERROR_STRIDE, {"-8"}},                  \
        {t, STRIDE, 2, INT64_MIN, HEED_ERROR_STRIDE, {NULL}}, {t, STRIDE, 0, INT64_MAX, HEED_ERROR_STRIDE, {NULL}},    \
    {                                                                                                                  \
        t, STRIDE, 1, INT64_MAX / 2, HEED_ERROR_STRIDE, { NULL }                                                       \
    }
/* The last stride, for tensors whose last size is not 1. */
#define CHANNEL_CASES(t)                                                                                               \
    {t, STRIDE, 3, 2, HEED_ERROR_STRIDE, {"2"}}, {t, STRIDE, 3, 0, HEED_ERROR_STRIDE, {"0"}},                          \
    {                                                                                                                  \
        t, STRIDE, 3, -1, HEED_ERROR_STRIDE, { "-1" }                                                                  \
    }
#define OUTPUT_CASES(t)                                                                                                \
    {t, STRIDE, 0, 0, HEED_ERROR_STRIDE, {"0"}}, {t, STRIDE, 1, 0, HEED_ERROR_STRIDE, {"0"}},                          \
        {t, STRIDE, 2, 0, HEED_ERROR_STRIDE, {"0"}}, {t, SHAPE, 0, 1, HEED_ERROR_SHAPE, {"1", "2"}},                   \
        {t, SHAPE, 1, HKV, HEED_ERROR_SHAPE, {"4", "2"}}, {t, SHAPE, 2, NK, HEED_ERROR_SHAPE, {"5", "7"}},             \
    {                                                                                                                  \
        t, SHAPE, 2, 0, HEED_ERROR_SHAPE, { "5", "0" }                                                                 \
    }
/* Sizes of a tensor that is added to or compared with the scores: the right one or 1, the last one exactly. */
#define SCORE_CASES(t)                                                                                                 \
    {t, SHAPE, 0, 3, HEED_ERROR_SHAPE, {"2", "3"}}, {t, SHAPE, 1, HKV, HEED_ERROR_SHAPE, {"4", "2"}},                  \
        {t, SHAPE, 2, 4, HEED_ERROR_SHAPE, {"5", "4"}}, {t, SHAPE, 3, 6, HEED_ERROR_SHAPE, {"7", "6"}},                \
        {t, SHAPE, 3, 1, HEED_ERROR_SHAPE, {"7", "1"}},                                                                \
    {                                                                                                                  \
        t, SHAPE, 0, 0, HEED_ERROR_SHAPE, { "2", "0" }                                                                 \
    }

static const tensor_case tensor_cases[] = {
    FLOAT_CASES(Q),
    FLOAT_CASES(K),
    FLOAT_CASES(V),
    FLOAT_CASES(OUT),
    FLOAT_CASES(LSE),
    FLOAT_CASES(BIAS),
    SIZE_CASES(VISIBLE),
    {VISIBLE, NO_DATA, 0, 0, HEED_ERROR_ARGUMENT, {"NULL"}},
    {VISIBLE, DTYPE, 0, HEED_FLOAT32, HEED_ERROR_DTYPE, {"HEED_BOOL", "HEED_FLOAT32"}},
    CHANNEL_CASES(Q),
    CHANNEL_CASES(K),
    CHANNEL_CASES(V),
    CHANNEL_CASES(OUT),
    CHANNEL_CASES(BIAS),
    CHANNEL_CASES(VISIBLE),
    OUTPUT_CASES(OUT),
    OUTPUT_CASES(LSE),
    SCORE_CASES(BIAS),
    SCORE_CASES(VISIBLE),
    /* Offsets in elements fit int64, those in bytes do not. */
    {Q, STRIDE, 0, INT64_MAX / 2, HEED_ERROR_STRIDE, {NULL}},
    {K, STRIDE, 2, INT64_MAX / 16, HEED_ERROR_STRIDE, {NULL}},
    /* k against q, v against k, and what must not be zero. */
    {K, SHAPE, 0, 3, HEED_ERROR_SHAPE, {"2", "3"}},
    {K, SHAPE, 0, 1, HEED_ERROR_SHAPE, {"2", "1"}},
    {K, SHAPE, 3, 5, HEED_ERROR_SHAPE, {"6", "5"}},
    {K, SHAPE, 3, 32, HEED_ERROR_SHAPE, {"6", "32"}},
    {V, SHAPE, 0, 1, HEED_ERROR_SHAPE, {"2", "1"}},
    {V, SHAPE, 1, 1, HEED_ERROR_SHAPE, {"2", "1"}},
    {V, SHAPE, 1, HQ, HEED_ERROR_SHAPE, {"2", "4"}},
    {V, SHAPE, 2, 8, HEED_ERROR_SHAPE, {"7", "8"}},
    {V, SHAPE, 2, NQ, HEED_ERROR_SHAPE, {"7", "5"}},
    {V, SHAPE, 3, 0, HEED_ERROR_SHAPE, {"0"}},
    {OUT, SHAPE, 3, D, HEED_ERROR_SHAPE, {"3", "6"}},
    {OUT, SHAPE, 3, 0, HEED_ERROR_SHAPE, {"3", "0"}},
    {LSE, SHAPE, 3, DV, HEED_ERROR_SHAPE, {"1", "3"}},
    {LSE, SHAPE, 3, 0, HEED_ERROR_SHAPE, {"1", "0"}},
};

static const int64_t wide_strides[4] = {1 << 20, 1 << 14, 1 << 7, 1};

static void spoil_tensor(heed_tensor *t, const tensor_case *row)
{
    switch (row->field) {
    case SHAPE:
        t->shape[row->axis] = row->value;
        if (row->tensor == OUT || row->tensor == LSE) /* far apart: the size is all that is wrong */
            memcpy(t->stride, wide_strides, sizeof wide_strides);
        break;
    case STRIDE:
        t->stride[row->axis] = row->value;
        break;
    case DTYPE:
        t->dtype = (heed_dtype)row->value;
        break;
    case SHIFT:
        t->data = (char *)t->data + row->value;
        break;
    case NO_DATA:
        t->data = NULL;
        break;
    }
}

static void test_tensors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof tensor_cases / sizeof tensor_cases[0]; i++) {
        const tensor_case *row = &tensor_cases[i];
        char title[120];
        snprintf(title, sizeof title, "%s: %s[%d] = %lld", tensor_names[row->tensor], field_names[row->field],
                 row->axis, (long long)row->value);
        make_call(&spoiled);
        spoil_tensor(&spoiled.tensor[row->tensor], row);
        expect_failure(title, &spoiled, row->status, tensor_names[row->tensor], row->words, 2);
    }
    expect_none_wrong();
}

/* ---- Options, masks, missing arguments ---- */

/* X(name, status, what the message begins with, what else it says, the change) */
#define OPTION_CASES(X)                                                                                                \
    X(q_missing, ARGUMENT, "q", "NULL", c->argument[Q] = NULL)                                                         \
    X(k_missing, ARGUMENT, "k", "NULL", c->argument[K] = NULL)                                                         \
    X(v_missing, ARGUMENT, "v", "NULL", c->argument[V] = NULL)                                                         \
    X(out_missing, ARGUMENT, "out", "NULL", c->argument[OUT] = NULL)                                                   \
    X(channels_none, SHAPE, "q", "got 0", c->tensor[Q].shape[3] = c->tensor[K].shape[3] = 0)                           \
    X(heads_not_a_multiple, SHAPE, "q", "multiple of 3", set_kv_heads(c, 3))                                           \
    X(heads_too_many, SHAPE, "q", "multiple of 8", set_kv_heads(c, 8))                                                 \
    X(heads_none, SHAPE, "q", "0", set_kv_heads(c, 0))                                                                 \
    X(heads_of_k_alone, SHAPE, "v", "3", c->tensor[K].shape[1] = 3)                                                    \
    X(options_size_zero, ARGUMENT, "options", "0", c->options.struct_size = 0)                                         \
    X(options_size_smaller, ARGUMENT, "options", "struct_size", c->options.struct_size -= 8)                           \
    X(options_size_larger, ARGUMENT, "options", "struct_size", c->options.struct_size += 8)                            \
    X(mask_size_zero, ARGUMENT, "mask", "0", c->mask.struct_size = 0)                                                  \
    X(mask_size_smaller, ARGUMENT, "mask", "struct_size", c->mask.struct_size -= 8)                                    \
    X(mask_size_larger, ARGUMENT, "mask", "struct_size", c->mask.struct_size += 8)                                     \
    X(scale_nan, ARGUMENT, "options.scale", "nan", c->options.scale = NAN)                                             \
    X(scale_infinite, ARGUMENT, "options.scale", "inf", c->options.scale = INFINITY)                                   \
    X(scale_minus_infinite, ARGUMENT, "options.scale", "-inf", c->options.scale = -INFINITY)                           \
    X(softcap_nan, ARGUMENT, "options.softcap", "nan", c->options.softcap = NAN)                                       \
    X(softcap_infinite, ARGUMENT, "options.softcap", "inf", c->options.softcap = INFINITY)                             \
    X(softcap_negative, ARGUMENT, "options.softcap", "-1", c->options.softcap = -1.0f)                                 \
    X(window_left, ARGUMENT, "mask.window_left", "-2", c->mask.window_left = -2)                                       \
    X(window_right, ARGUMENT, "mask.window_right", "-2", c->mask.window_right = -2)                                    \
    X(window_least, ARGUMENT, "mask.window_left", "-9223372036854775808", c->mask.window_left = INT64_MIN)             \
    X(alignment_unknown, ARGUMENT, "mask.alignment", "7", c->mask.alignment = (heed_alignment)7)                       \
    X(alignment_negative, ARGUMENT, "mask.alignment", "-1", c->mask.alignment = (heed_alignment)-1)                    \
    X(query_length_long, ARGUMENT, "mask.query_lengths[1]", "6", c->data.query_lengths[1] = NQ + 1)                    \
    X(query_length_negative, ARGUMENT, "mask.query_lengths[1]", "-1", c->data.query_lengths[1] = -1)                   \
    X(key_length_long, ARGUMENT, "mask.key_lengths[1]", "8", c->data.key_lengths[1] = NK + 1)                          \
    X(key_length_negative, ARGUMENT, "mask.key_lengths[0]", "-1", c->data.key_lengths[0] = -1)                         \
    X(query_start_not_used, ARGUMENT, "mask.query_start", "POSITIONS", c->mask.query_start = c->data.query_start)      \
    X(key_start_not_used, ARGUMENT, "mask.key_start", "POSITIONS", c->mask.key_start = c->data.key_start)              \
    X(query_start_late, ARGUMENT, "mask.query_start[1]", "1152921504606846977", start_at(c, beyond_2_60, 0))           \
    X(query_start_early, ARGUMENT, "mask.query_start[1]", "-1152921504606846977", start_at(c, -beyond_2_60, 0))        \
    X(key_start_late, ARGUMENT, "mask.key_start[1]", "1152921504606846977", start_at(c, 0, beyond_2_60))               \
    X(key_start_early, ARGUMENT, "mask.key_start[1]", "-9223372036854775808", start_at(c, 0, INT64_MIN))               \
    X(lengths_misaligned, ARGUMENT, "mask.key_lengths", "align", c->mask.key_lengths = shift(c->data.key_lengths, 4))  \
    X(query_lengths_misaligned, ARGUMENT, "mask.query_lengths", "align",                                               \
      c->mask.query_lengths = shift(c->data.query_lengths, 1))                                                         \
    X(slopes_misaligned, ARGUMENT, "options.alibi_slopes", "align",                                                    \
      c->options.alibi_slopes = shift(c->data.slopes, 2))                                                              \
    X(sinks_misaligned, ARGUMENT, "options.sinks", "align", c->options.sinks = shift(c->data.sinks, 1))                \
    X(out_rows_share, OVERLAP, "out", "itself", c->tensor[OUT].stride[2] = 1)                                          \
    X(out_heads_share, OVERLAP, "out", "itself", c->tensor[OUT].stride[1] = DV)                                        \
    X(lse_heads_share, OVERLAP, "lse", "itself", c->tensor[LSE].stride[1] = 1)

static const int64_t beyond_2_60 = ((int64_t)1 << 60) + 1;

static const void *shift(const void *p, int n_bytes) { return (const char *)p + n_bytes; }

static void set_kv_heads(call *c, int64_t n_heads) { c->tensor[K].shape[1] = c->tensor[V].shape[1] = n_heads; }

#define SPOIL_FUNCTION(name, status, begins, says, change)                                                             \
    static void spoil_##name(call *c) { change; }
OPTION_CASES(SPOIL_FUNCTION)
#undef SPOIL_FUNCTION

typedef struct option_case {
    const char *title;
    heed_status status;
    const char *begins;
    const char *says;
    void (*spoil)(call *c);
} option_case;

static const option_case option_cases[] = {
#define OPTION_ROW(name, status, begins, says, change) {#name, HEED_ERROR_##status, begins, says, spoil_##name},
    OPTION_CASES(OPTION_ROW)
#undef OPTION_ROW
};

static void test_options(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof option_cases / sizeof option_cases[0]; i++) {
        const option_case *row = &option_cases[i];
        make_call(&spoiled);
        row->spoil(&spoiled);
        expect_failure(row->title, &spoiled, row->status, row->begins, &row->says, 1);
    }
    expect_none_wrong();
}

static void test_null_context(void **state)
{
    (void)state;
    make_call(&spoiled);
    static memory before;
    before = spoiled.data;
    assert_int_equal(run_call(NULL, &spoiled), HEED_ERROR_ARGUMENT);
    assert_memory_equal(&before, &spoiled.data, sizeof before);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_null_context),
    };
    return cmocka_run_group_tests(tests, set_up_call, tear_down_call);
}
