#include "mechanisms/merge.h"

#include "core/arguments.h"
#include "core/context.h"

typedef struct merge_arguments {
    const heed_tensor *out_a, *lse_a, *out_b, *lse_b, *out, *lse;
} merge_arguments;

static heed_status check_shapes(heed_message *message, const merge_arguments *a)
{
    HEED_CHECK(heed_check_same_shape(message, "out_b", a->out_b, a->out_a, "as in out_a"));
    HEED_CHECK(heed_check_same_shape(message, "out", a->out, a->out_a, "as in out_a"));
    for (int d = 0; d < 3; d++)
        HEED_CHECK(heed_check_size(message, "lse_a", a->lse_a, d, a->out_a->shape[d], "as in out_a"));
    HEED_CHECK(heed_check_repeated_size(message, "lse_a", a->lse_a, 3, a->out_a->shape[3], "as in out_a, or 1"));
    HEED_CHECK(heed_check_same_shape(message, "lse_b", a->lse_b, a->lse_a, "as in lse_a"));
    return a->lse ? heed_check_same_shape(message, "lse", a->lse, a->lse_a, "as in lse_a") : HEED_OK;
}

static heed_status check_overlap(heed_message *message, const merge_arguments *a)
{
    if (!heed_is_same_view(a->out, a->out_a))
        HEED_CHECK(heed_check_apart(message, "out", a->out, "out_a", a->out_a));
    HEED_CHECK(heed_check_apart(message, "out", a->out, "lse_a", a->lse_a));
    HEED_CHECK(heed_check_apart(message, "out", a->out, "out_b", a->out_b));
    HEED_CHECK(heed_check_apart(message, "out", a->out, "lse_b", a->lse_b));
    if (!a->lse)
        return HEED_OK;
    if (!heed_is_same_view(a->lse, a->lse_a))
        HEED_CHECK(heed_check_apart(message, "lse", a->lse, "lse_a", a->lse_a));
    HEED_CHECK(heed_check_apart(message, "lse", a->lse, "out_a", a->out_a));
    HEED_CHECK(heed_check_apart(message, "lse", a->lse, "out_b", a->out_b));
    HEED_CHECK(heed_check_apart(message, "lse", a->lse, "lse_b", a->lse_b));
    return heed_check_apart(message, "lse", a->lse, "out", a->out);
}

static heed_status check(heed_message *message, const merge_arguments *a)
{
    HEED_CHECK(heed_check_input(message, "out_a", a->out_a, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "lse_a", a->lse_a, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "out_b", a->out_b, HEED_FLOAT32));
    HEED_CHECK(heed_check_input(message, "lse_b", a->lse_b, HEED_FLOAT32));
    HEED_CHECK(heed_check_output(message, "out", a->out, HEED_FLOAT32));
    if (a->lse)
        HEED_CHECK(heed_check_output(message, "lse", a->lse, HEED_FLOAT32));
    HEED_CHECK(check_shapes(message, a));
    return check_overlap(message, a);
}

heed_status heed_merge(heed_context *context, const heed_tensor *out_a, const heed_tensor *lse_a,
                       const heed_tensor *out_b, const heed_tensor *lse_b, const heed_tensor *out,
                       const heed_tensor *lse)
{
    merge_arguments a = {out_a, lse_a, out_b, lse_b, out, lse};
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check(&context->message, &a);
    if (status == HEED_OK) {
        merge_plan plan = {*out_a, *lse_a, *out_b, *lse_b, *out, lse ? *lse : (heed_tensor){0}};
        heed_merge_run(context, &plan);
    }
    return heed_call_end(context, status);
}
