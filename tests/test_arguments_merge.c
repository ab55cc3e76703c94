/* Every way the arguments of heed_merge() can be wrong: status, message, nothing written; and what is legal. */
#include "heed.h"
#include "support/runner.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { B = 2, H = 3, N = 4, DV = 5, N_ROWS = B * H * N, PAD = 256 };

typedef enum { OUT_A, LSE_A, OUT_B, LSE_B, OUT, LSE, N_TENSORS } tensor_id;

static const char *const names[N_TENSORS] = {"out_a", "lse_a", "out_b", "lse_b", "out", "lse"};

/* Each tensor with room behind it. */
typedef struct merge_call {
    heed_tensor tensor[N_TENSORS];
    const heed_tensor *argument[N_TENSORS];
    float data[N_TENSORS][N_ROWS * DV + PAD];
} merge_call;

static heed_context *context;
static merge_call good, wrong;

static int is_lse(tensor_id t) { return t == LSE_A || t == LSE_B || t == LSE; }

static void make_call(merge_call *c)
{
    for (int t = 0; t < N_TENSORS; t++) {
        for (int i = 0; i < N_ROWS * DV + PAD; i++)
            c->data[t][i] = t >= OUT ? -77.0f : (float)((i + t) * 37 % 101) / 50.0f - 1.0f;
        c->tensor[t] = heed_tensor_bhnd(c->data[t], HEED_FLOAT32, B, H, N, is_lse((tensor_id)t) ? 1 : DV);
        c->argument[t] = &c->tensor[t];
    }
}

static heed_status run_call(heed_context *with, const merge_call *c)
{
    return heed_merge(with, c->argument[OUT_A], c->argument[LSE_A], c->argument[OUT_B], c->argument[LSE_B],
                      c->argument[OUT], c->argument[LSE]);
}

static int set_up(void **state)
{
    (void)state;
    context = runner_context(1, NULL);
    make_call(&good);
    return run_call(context, &good) != HEED_OK;
}

static int tear_down(void **state)
{
    (void)state;
    heed_context_destroy(context);
    return 0;
}

static void expect_ok(const char *title, const merge_call *c)
{
    const heed_status status = run_call(context, c);
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", title, heed_status_text(status), heed_context_message(context));
    assert_string_equal(heed_context_message(context), "");
}

/* The message begins with one of two names (the same one twice where there is no doubt who is to blame). */
static void expect_failure(const char *title, heed_status want, const char *name, const char *other_name)
{
    static float before[N_TENSORS][N_ROWS * DV + PAD];
    static merge_call again;
    memcpy(before, wrong.data, sizeof before);
    const heed_status got = run_call(context, &wrong);
    const char *message = heed_context_message(context);
    if (got != want)
        fail_msg("%s: %s expected, got %s: %s", title, heed_status_text(want), heed_status_text(got), message);
    const size_t length = strcspn(message, ":");
    if (strncmp(message, name, length) != 0 && strncmp(message, other_name, length) != 0)
        fail_msg("%s: the message does not begin with \"%s:\": \"%s\"", title, name, message);
    if (memcmp(before, wrong.data, sizeof before) != 0)
        fail_msg("%s: a failed call has changed memory", title);
    make_call(&again);
    expect_ok(title, &again);
    assert_memory_equal(again.data, good.data, sizeof again.data);
}

static void spoil(tensor_id t, const char *title, heed_status status)
{
    char text[80];
    snprintf(text, sizeof text, "%s: %s", names[t], title);
    expect_failure(text, status, names[t], names[t]);
}

static void test_each_tensor(void **state)
{
    (void)state;
    for (tensor_id t = OUT_A; t < N_TENSORS; t++) {
        heed_tensor *x = &wrong.tensor[t];
#define SPOIL(title, status, change)                                                                                   \
    make_call(&wrong);                                                                                                 \
    change;                                                                                                            \
    spoil(t, title, status)
        if (t != LSE) {
            SPOIL("missing", HEED_ERROR_ARGUMENT, wrong.argument[t] = NULL);
        }
        SPOIL("no data", HEED_ERROR_ARGUMENT, x->data = NULL);
        SPOIL("misaligned", HEED_ERROR_ARGUMENT, x->data = (char *)x->data + 2);
        SPOIL("unknown dtype", HEED_ERROR_ARGUMENT, x->dtype = (heed_dtype)9);
        SPOIL("bool", HEED_ERROR_DTYPE, x->dtype = HEED_BOOL);
        SPOIL("negative stride", HEED_ERROR_STRIDE, x->stride[1] = -x->stride[1]);
        SPOIL("far stride", HEED_ERROR_STRIDE, x->stride[0] = INT64_MAX);
        for (int axis = 0; axis < 4; axis++) {
            SPOIL("negative size", HEED_ERROR_SHAPE, x->shape[axis] = -1);
        }
        if (!is_lse(t)) {
            SPOIL("last stride", HEED_ERROR_STRIDE, x->stride[3] = 2);
        }
        if (t >= OUT) {
            for (int axis = 0; axis < 3; axis++) {
                SPOIL("stride 0", HEED_ERROR_STRIDE, x->stride[axis] = 0);
            }
            SPOIL("rows that share", HEED_ERROR_OVERLAP, x->stride[1] = x->stride[2]);
        }
#undef SPOIL
    }
}

/* So far apart that the size is all that is wrong. */
static const int64_t wide_strides[4] = {1 << 20, 1 << 14, 1 << 7, 1};

static void test_sizes(void **state)
{
    (void)state;
    for (tensor_id t = LSE_A; t < N_TENSORS; t++)
        for (int axis = 0; axis < 4; axis++) {
            make_call(&wrong);
            memcpy(wrong.tensor[t].stride, wide_strides, sizeof wide_strides);
            wrong.tensor[t].shape[axis] += axis == 3 && is_lse(t) ? DV - 2 : -1;
            /* lse_a says how all three are meant, so that another one may be blamed. */
            expect_failure(names[t], HEED_ERROR_SHAPE, names[t], t == LSE_A ? "lse_b" : names[t]);
        }
    make_call(&wrong);
    for (int t = LSE_A; t < N_TENSORS; t += 2)
        wrong.tensor[t] = heed_tensor_bhnd(wrong.data[t], HEED_FLOAT32, B, H, N, DV);
    wrong.tensor[LSE_B] = heed_tensor_bhnd(wrong.data[LSE_B], HEED_FLOAT32, B, H, N, 1);
    expect_failure("lse_a per channel, lse_b per row", HEED_ERROR_SHAPE, "lse_b", "lse_a");
}

static float *last_element(const heed_tensor *t)
{
    int64_t offset = 0;
    for (int axis = 0; axis < 4; axis++)
        offset += (t->shape[axis] - 1) * t->stride[axis];
    return (float *)t->data + offset;
}

static void test_overlaps(void **state)
{
    (void)state;
    for (int t = OUT_A; t < N_TENSORS; t++)
        for (tensor_id output = OUT; output <= LSE; output++) {
            if (t == (int)output)
                continue;
            char title[60];
            snprintf(title, sizeof title, "%s at the end of %s", names[output], names[t]);
            make_call(&wrong);
            wrong.tensor[output].data = last_element(&wrong.tensor[t]);
            expect_failure(title, HEED_ERROR_OVERLAP, names[output], t >= OUT ? names[t] : names[output]);
            make_call(&wrong);
            wrong.tensor[output].data = last_element(&wrong.tensor[t]) + 1;
            expect_ok(title, &wrong);
            make_call(&wrong);
            wrong.tensor[output].data = wrong.tensor[t].data;
            snprintf(title, sizeof title, "%s on %s", names[output], names[t]);
            if ((int)output == t + OUT - OUT_A) /* in place */
                expect_ok(title, &wrong);
            else
                expect_failure(title, HEED_ERROR_OVERLAP, names[output], t >= OUT ? names[t] : names[output]);
        }
}

/* In place means exactly the same view: another stride reads what was just written. */
static void test_in_place_with_other_strides(void **state)
{
    (void)state;
    make_call(&wrong);
    wrong.tensor[OUT].data = wrong.tensor[OUT_A].data;
    wrong.tensor[OUT].stride[0] += DV;
    expect_failure("out on out_a, other strides", HEED_ERROR_OVERLAP, "out", "out");
    make_call(&wrong);
    wrong.tensor[LSE].data = wrong.tensor[LSE_A].data;
    wrong.tensor[LSE].stride[0] += 1;
    expect_failure("lse on lse_a, other strides", HEED_ERROR_OVERLAP, "lse", "lse");
}

static void test_legal(void **state)
{
    (void)state;
    make_call(&wrong);
    wrong.argument[LSE] = NULL;
    expect_ok("no lse", &wrong);
    for (int axis = 0; axis < 3; axis++) {
        make_call(&wrong);
        for (int t = 0; t < N_TENSORS; t++) {
            wrong.tensor[t].shape[axis] = 0;
            wrong.tensor[t].data = NULL;
        }
        expect_ok("an empty dimension", &wrong);
    }
    make_call(&wrong);
    for (int t = 0; t < N_TENSORS; t++) {
        wrong.tensor[t].shape[0] = 1;
        wrong.tensor[t].stride[0] = t % 2 ? INT64_MAX : -5;
    }
    expect_ok("any stride where the size is 1", &wrong);
    make_call(&wrong);
    wrong.tensor[OUT_B].data = wrong.data[OUT_A];
    wrong.tensor[LSE_B].data = wrong.data[LSE_A];
    expect_ok("a part with itself", &wrong);
    assert_int_equal(run_call(NULL, &wrong), HEED_ERROR_ARGUMENT);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_tensor), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_overlaps),    cmocka_unit_test(test_in_place_with_other_strides),
        cmocka_unit_test(test_legal),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
