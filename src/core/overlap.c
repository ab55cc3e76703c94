/* A view is a set of rows of bytes; row x starts at data + sum_d stride_d x_d. Two views share a byte when
 *
 *     start_a + sum stride_d x_d - start_b - sum stride_e y_e  lies in (-bytes_a, bytes_b)
 *
 * for some indices. Axes with one stride count together: stride (x - y), x - y in [low, high]. A depth-first search
 * over the axes, largest stride first, visits only values that the remaining axes can still bring into that window;
 * for views as people lay them out that is one or two values an axis. */
#include "core/overlap.h"

#include "core/tensor.h"

enum { MAX_AXES = 6, MAX_STEPS = 1000000 };

typedef struct axis {
    int64_t stride; /* bytes, > 0 */
    int64_t low, high;
} axis;

typedef struct search {
    axis axes[MAX_AXES];
    int n_axes;
    int64_t window_low, window_high;                           /* inclusive */
    int64_t reach_low[MAX_AXES + 1], reach_high[MAX_AXES + 1]; /* what axes d.. can add */
    int nonzero;                                               /* leave out the solution with all indices 0 */
    int64_t steps;
} search;

int64_t heed_dtype_bytes(heed_dtype dtype) { return dtype == HEED_FLOAT32 ? 4 : dtype == HEED_BOOL ? 1 : 0; }

static void add_axis(search *s, int64_t stride, int64_t low, int64_t high)
{
    if (stride == 0)
        return;
    int at = 0;
    while (at < s->n_axes && s->axes[at].stride > stride)
        at++;
    if (at < s->n_axes && s->axes[at].stride == stride) {
        s->axes[at].low += low;
        s->axes[at].high += high;
        return;
    }
    for (int i = s->n_axes; i > at; i--)
        s->axes[i] = s->axes[i - 1];
    s->axes[at] = (axis){stride, low, high};
    s->n_axes++;
}

static int64_t divide_down(int64_t a, int64_t b) { return a / b - (a % b < 0); }

static int found(search *s, int depth, int64_t sum, int all_zero)
{
    if (++s->steps > MAX_STEPS)
        return 1;
    if (depth == s->n_axes)
        return sum >= s->window_low && sum <= s->window_high && !(s->nonzero && all_zero);
    const axis *a = &s->axes[depth];
    int64_t low = -divide_down(-(s->window_low - sum - s->reach_high[depth + 1]), a->stride);
    int64_t high = divide_down(s->window_high - sum - s->reach_low[depth + 1], a->stride);
    if (low < a->low)
        low = a->low;
    if (high > a->high)
        high = a->high;
    for (int64_t x = low; x <= high; x++) {
        if (found(s, depth + 1, sum + x * a->stride, all_zero && x == 0))
            return 1;
    }
    return 0;
}

static int run_search(search *s, int64_t start)
{
    s->reach_low[s->n_axes] = s->reach_high[s->n_axes] = 0;
    for (int d = s->n_axes - 1; d >= 0; d--) {
        s->reach_low[d] = s->reach_low[d + 1] + s->axes[d].stride * s->axes[d].low;
        s->reach_high[d] = s->reach_high[d + 1] + s->axes[d].stride * s->axes[d].high;
    }
    if (start + s->reach_high[0] < s->window_low || start + s->reach_low[0] > s->window_high)
        return 0;
    return found(s, 0, start, 1);
}

static void add_rows(search *s, const heed_tensor *a, int sign)
{
    for (int d = 0; d < 3; d++) {
        int64_t last = a->shape[d] - 1;
        if (last > 0)
            add_axis(s, a->stride[d] * heed_dtype_bytes(a->dtype), sign < 0 ? -last : 0, sign < 0 ? 0 : last);
    }
}

int heed_views_overlap(const heed_tensor *a, const heed_tensor *b)
{
    if (heed_is_empty(a) || heed_is_empty(b))
        return 0;
    search s = {.window_low = 1 - a->shape[3] * heed_dtype_bytes(a->dtype),
                .window_high = b->shape[3] * heed_dtype_bytes(b->dtype) - 1};
    add_rows(&s, a, 1);
    add_rows(&s, b, -1);
    /* Views that lie further apart than int64 can tell do not touch. */
    int64_t start;
    if (__builtin_sub_overflow((int64_t)(intptr_t)a->data, (int64_t)(intptr_t)b->data, &start))
        return 0;
    return run_search(&s, start);
}

int heed_view_overlaps_itself(const heed_tensor *a)
{
    if (heed_is_empty(a))
        return 0;
    int64_t bytes = a->shape[3] * heed_dtype_bytes(a->dtype);
    search s = {.window_low = 1 - bytes, .window_high = bytes - 1, .nonzero = 1};
    for (int d = 0; d < 3; d++) {
        if (a->shape[d] <= 1)
            continue;
        /* A step along one axis and a step back along another of the same stride lead to the same element. */
        for (int e = 0; e < d; e++) {
            if (a->shape[e] > 1 && a->stride[e] == a->stride[d])
                return 1;
        }
        if (a->stride[d] == 0)
            return 1;
        add_axis(&s, a->stride[d] * heed_dtype_bytes(a->dtype), 1 - a->shape[d], a->shape[d] - 1);
    }
    return run_search(&s, 0);
}

int heed_view_overlaps_bytes(const heed_tensor *a, const void *memory, int64_t bytes)
{
    union {
        const void *constant;
        void *plain;
    } data = {memory};
    heed_tensor b = {data.plain, HEED_BOOL, {1, 1, 1, bytes}, {0, 0, 0, 1}};
    return memory && heed_views_overlap(a, &b);
}
