/* The rules of heed.h about the arguments of heed_softmax_forward(), said a second time and in the plainest way. */
#include "fuzz_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t max_start = (int64_t)1 << 60;

static int has_elements(const heed_tensor *t)
{
    return t->shape[0] > 0 && t->shape[1] > 0 && t->shape[2] > 0 && t->shape[3] > 0;
}

/* ---- Elements that are shared ---- */

typedef struct byte_marks {
    unsigned char *marks; /* one for each byte from `begin` on */
    uintptr_t begin, first;
    int n_shared;
} byte_marks;

static void mark_element(void *data, int64_t offset, int64_t bytes)
{
    byte_marks *m = data;
    unsigned char *mark = m->marks + (m->first - m->begin) + offset;
    for (int64_t i = 0; i < bytes; i++) {
        m->n_shared += mark[i];
        mark[i] = 1;
    }
}

/* 1 when any byte belongs to two elements of the views (one view: b is NULL). Elements of an input may repeat. */
static int shares_elements(const heed_tensor *a, const heed_tensor *b)
{
    const heed_tensor *views[2] = {a, b};
    uintptr_t begin = UINTPTR_MAX, end = 0;
    for (int i = 0; i < 2; i++) {
        if (views[i] == NULL || !has_elements(views[i]))
            continue;
        const uintptr_t first = (uintptr_t)views[i]->data, last = first + (uintptr_t)extent_bytes(views[i]);
        begin = first < begin ? first : begin;
        end = last > end ? last : end;
    }
    if (b != NULL && (!has_elements(a) || !has_elements(b)))
        return 0;
    if (end <= begin || end - begin > ((uintptr_t)1 << 24)) /* blocks of their own */
        return 0;
    byte_marks m = {.marks = calloc(1, end - begin), .begin = begin, .first = (uintptr_t)a->data};
    if (m.marks == NULL)
        abort();
    visit_elements(a, mark_element, &m);
    if (b != NULL) {
        unsigned char *of_a = m.marks;
        m.marks = calloc(1, end - begin);
        if (m.marks == NULL)
            abort();
        m.first = (uintptr_t)b->data;
        visit_elements(b, mark_element, &m);
        m.n_shared = 0;
        for (uintptr_t i = 0; i < end - begin; i++)
            m.n_shared += of_a[i] && m.marks[i];
        free(of_a);
    }
    free(m.marks);
    return m.n_shared > 0;
}

/* ---- One tensor ---- */

static int is_valid_view(const heed_tensor *t, heed_dtype dtype)
{
    double n_elements = 1.0;
    if (t->dtype != dtype)
        return 0;
    for (int axis = 0; axis < 4; axis++) {
        if (t->shape[axis] < 0)
            return 0;
        n_elements *= t->shape[axis] > 1 ? (double)t->shape[axis] : 1.0;
    }
    if (n_elements >= 0x1p60 || (t->shape[3] > 1 && t->stride[3] != 1) || extent_bytes(t) < 0)
        return 0;
    if (!has_elements(t))
        return 1;
    return t->data != NULL && (uintptr_t)t->data % (dtype == HEED_FLOAT32 ? 4 : 1) == 0;
}

static int has_shape(const heed_tensor *t, int64_t b, int64_t h, int64_t n, int64_t c)
{
    return t->shape[0] == b && t->shape[1] == h && t->shape[2] == n && t->shape[3] == c;
}

static int is_valid_output(const fuzz_case *c, tensor_id output)
{
    const heed_tensor *t = &c->tensor[output];
    if (!is_valid_view(t, HEED_FLOAT32))
        return 0;
    if (!has_elements(t)) /* a contiguous view without heads has stride 0 between batch elements */
        return 1;
    for (int axis = 0; axis < 4; axis++)
        if (t->shape[axis] > 1 && t->stride[axis] == 0)
            return 0;
    return !shares_elements(t, NULL);
}

/* Of a bias or a mask: each size is the right one or 1, the last one is right. */
static int is_valid_score_view(const fuzz_case *c, tensor_id id, heed_dtype dtype)
{
    const heed_tensor *t = &c->tensor[id], *q = &c->tensor[Q], *k = &c->tensor[K];
    if (!is_valid_view(t, dtype) || t->shape[3] != k->shape[2])
        return 0;
    for (int axis = 0; axis < 3; axis++)
        if (t->shape[axis] != 1 && t->shape[axis] != q->shape[axis])
            return 0;
    return 1;
}

/* ---- The options ---- */

static int all_within(const int64_t *values, int64_t n, int64_t low, int64_t high)
{
    for (int64_t i = 0; values != NULL && i < n; i++)
        if (values[i] < low || values[i] > high)
            return 0;
    return 1;
}

static int is_valid_mask(const fuzz_case *c)
{
    const heed_mask *m = &c->mask;
    const int64_t n_batches = c->tensor[Q].shape[0];
    const int alignment = (int)m->alignment;
    if (m->struct_size != sizeof *m || alignment < 0 || alignment > 2 || m->window_left < -1 || m->window_right < -1)
        return 0;
    if (alignment != HEED_ALIGN_POSITIONS && (m->query_start != NULL || m->key_start != NULL))
        return 0;
    return n_batches <= MAX_BATCHES && all_within(m->query_lengths, n_batches, 0, c->tensor[Q].shape[2]) &&
           all_within(m->key_lengths, n_batches, 0, c->tensor[K].shape[2]) &&
           all_within(m->query_start, n_batches, -max_start, max_start) &&
           all_within(m->key_start, n_batches, -max_start, max_start) &&
           (!c->has_visible || is_valid_score_view(c, VISIBLE, HEED_BOOL));
}

static int is_valid_options(const fuzz_case *c)
{
    const heed_softmax_options *o = &c->options;
    if (o->struct_size != sizeof *o || !isfinite(o->scale) || !isfinite(o->softcap) || o->softcap < 0.0f)
        return 0;
    return (!c->has_bias || is_valid_score_view(c, BIAS, HEED_FLOAT32)) && (!c->has_mask || is_valid_mask(c));
}

/* ---- The call ---- */

static int are_valid_inputs(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v)
{
    if (!is_valid_view(q, HEED_FLOAT32) || !is_valid_view(k, HEED_FLOAT32) || !is_valid_view(v, HEED_FLOAT32))
        return 0;
    const int64_t hq = q->shape[1], hkv = k->shape[1];
    return k->shape[0] == q->shape[0] && k->shape[3] == q->shape[3] && q->shape[3] > 0 && v->shape[3] > 0 &&
           has_shape(v, k->shape[0], hkv, k->shape[2], v->shape[3]) && (hkv == 0 ? hq == 0 : hq % hkv == 0);
}

int is_valid(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *v = &c->tensor[V], *out = &c->tensor[OUT], *lse = &c->tensor[LSE];
    if (!are_valid_inputs(q, &c->tensor[K], v) || (c->has_options && !is_valid_options(c)))
        return 0;
    if (!is_valid_output(c, OUT) || !has_shape(out, q->shape[0], q->shape[1], q->shape[2], v->shape[3]))
        return 0;
    if (c->has_lse && (!is_valid_output(c, LSE) || !has_shape(lse, q->shape[0], q->shape[1], q->shape[2], 1)))
        return 0;
    for (tensor_id t = Q; t < N_TENSORS; t++) {
        const int is_used = t == LSE    ? c->has_lse
                            : t == BIAS ? c->has_options && c->has_bias
                                        : t != VISIBLE || (c->has_options && c->has_mask && c->has_visible);
        if (is_used && t != OUT && shares_elements(out, &c->tensor[t]))
            return 0;
        if (is_used && c->has_lse && t != LSE && shares_elements(lse, &c->tensor[t]))
            return 0;
    }
    return 1;
}
