#include "core/mask.h"

#include "core/arguments.h"

#include <inttypes.h>

/* Positions stay small enough that the sum of two starts, an index and a window fits in int64. */
#define MAX_START ((int64_t)1 << 60)
#define MAX_WINDOW ((int64_t)1 << 62)

static heed_status check_per_batch(heed_message *message, const char *name, const int64_t *values, int64_t n_batches,
                                   int64_t low, int64_t high)
{
    if (!values)
        return HEED_OK;
    if ((uintptr_t)values % _Alignof(int64_t) != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "mask.%s: is not aligned to its elements", name);
    for (int64_t b = 0; b < n_batches; b++) {
        if (values[b] < low || values[b] > high)
            return heed_complain(message, HEED_ERROR_ARGUMENT,
                                 "mask.%s[%" PRId64 "]: %" PRId64 " is outside %" PRId64 "..%" PRId64, name, b,
                                 values[b], low, high);
    }
    return HEED_OK;
}

static heed_status check_window(heed_message *message, const char *name, int64_t window)
{
    if (window < -1)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "mask.%s: %" PRId64 " (0 or more, or -1 for unbounded)",
                             name, window);
    return HEED_OK;
}

static heed_status check_visible(heed_message *message, const heed_tensor *visible, const heed_tensor *q,
                                 const heed_tensor *k)
{
    const char *name = "mask.visible";
    if (!visible)
        return HEED_OK;
    HEED_CHECK(heed_check_input(message, name, visible, HEED_BOOL));
    HEED_CHECK(heed_check_repeated_size(message, name, visible, 0, q->shape[0], "as in q, or 1"));
    HEED_CHECK(heed_check_repeated_size(message, name, visible, 1, q->shape[1], "as in q, or 1"));
    HEED_CHECK(heed_check_repeated_size(message, name, visible, 2, q->shape[2], "as in q, or 1"));
    return heed_check_size(message, name, visible, 3, k->shape[2], "the tokens of k");
}

heed_status heed_mask_check(heed_message *message, const heed_mask *mask, const heed_tensor *q, const heed_tensor *k)
{
    if (!mask)
        return HEED_OK;
    HEED_CHECK(heed_check_struct(message, "mask", mask, sizeof *mask));
    if (mask->alignment < HEED_ALIGN_BOTTOM_RIGHT || mask->alignment > HEED_ALIGN_POSITIONS)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "mask.alignment: unknown value %d", (int)mask->alignment);
    if (mask->alignment != HEED_ALIGN_POSITIONS && (mask->query_start || mask->key_start))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "mask.%s: only with HEED_ALIGN_POSITIONS",
                             mask->query_start ? "query_start" : "key_start");
    HEED_CHECK(check_window(message, "window_left", mask->window_left));
    HEED_CHECK(check_window(message, "window_right", mask->window_right));
    HEED_CHECK(check_per_batch(message, "query_lengths", mask->query_lengths, q->shape[0], 0, q->shape[2]));
    HEED_CHECK(check_per_batch(message, "key_lengths", mask->key_lengths, q->shape[0], 0, k->shape[2]));
    HEED_CHECK(check_per_batch(message, "query_start", mask->query_start, q->shape[0], -MAX_START, MAX_START));
    HEED_CHECK(check_per_batch(message, "key_start", mask->key_start, q->shape[0], -MAX_START, MAX_START));
    return check_visible(message, mask->visible, q, k);
}

heed_status heed_mask_check_apart(heed_message *message, const char *out_name, const heed_tensor *out,
                                  const heed_mask *mask, int64_t n_batches)
{
    if (!mask)
        return HEED_OK;
    int64_t bytes = n_batches * (int64_t)sizeof(int64_t);
    HEED_CHECK(heed_check_apart_bytes(message, out_name, out, "mask.query_lengths", mask->query_lengths, bytes));
    HEED_CHECK(heed_check_apart_bytes(message, out_name, out, "mask.key_lengths", mask->key_lengths, bytes));
    HEED_CHECK(heed_check_apart_bytes(message, out_name, out, "mask.query_start", mask->query_start, bytes));
    HEED_CHECK(heed_check_apart_bytes(message, out_name, out, "mask.key_start", mask->key_start, bytes));
    return heed_check_apart(message, out_name, out, "mask.visible", mask->visible);
}

heed_mask_plan heed_mask_resolve(const heed_mask *mask, const heed_tensor *q, const heed_tensor *k)
{
    static const heed_mask none = HEED_MASK_INIT;
    heed_mask_plan plan = {.n_queries = q->shape[2], .n_keys = k->shape[2], .mask = mask ? *mask : none};
    plan.left = heed_smaller(plan.mask.window_left, MAX_WINDOW);
    plan.right = plan.mask.causal ? 0 : heed_smaller(plan.mask.window_right, MAX_WINDOW);
    plan.visible = heed_repeated(plan.mask.visible);
    return plan;
}

int64_t heed_query_length(const heed_mask_plan *plan, int64_t b)
{
    return plan->mask.query_lengths ? plan->mask.query_lengths[b] : plan->n_queries;
}

int64_t heed_key_length(const heed_mask_plan *plan, int64_t b)
{
    return plan->mask.key_lengths ? plan->mask.key_lengths[b] : plan->n_keys;
}

int64_t heed_position_offset(const heed_mask_plan *plan, int64_t b)
{
    const heed_mask *mask = &plan->mask;
    switch (mask->alignment) {
    case HEED_ALIGN_TOP_LEFT:
        return 0;
    case HEED_ALIGN_POSITIONS:
        return (mask->key_start ? mask->key_start[b] : 0) - (mask->query_start ? mask->query_start[b] : 0);
    case HEED_ALIGN_BOTTOM_RIGHT:
    default:
        return heed_query_length(plan, b) - heed_key_length(plan, b);
    }
}

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

heed_key_range heed_visible_range(const heed_mask_plan *plan, int64_t b, int64_t i)
{
    int64_t n_keys = heed_key_length(plan, b);
    int64_t here = i - heed_position_offset(plan, b); /* the key at this query's own position */
    heed_key_range range = {0, n_keys};
    if (plan->left >= 0)
        range.begin = clamp(here - plan->left, 0, n_keys);
    if (plan->right >= 0)
        range.end = clamp(here + plan->right + 1, 0, n_keys);
    if (i >= heed_query_length(plan, b) || range.begin >= range.end)
        return (heed_key_range){0, 0};
    return range;
}
