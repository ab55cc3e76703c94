#include "fuzz_parts.h"

#include <math.h>
#include <stdlib.h>

static const int64_t max_start = (int64_t)1 << 60, max_tokens = (int64_t)1 << 60;

int has_elements(const heed_tensor *t)
{
    return t->shape[0] > 0 && t->shape[1] > 0 && t->shape[2] > 0 && t->shape[3] > 0;
}

int has_shape(const heed_tensor *t, int64_t b, int64_t h, int64_t n, int64_t c)
{
    return t->shape[0] == b && t->shape[1] == h && t->shape[2] == n && t->shape[3] == c;
}

/* ---- Elements that are shared ---- */

/* Calls visit(data, byte offset of an element, bytes of an element) for every element. */
static void visit_elements(const heed_tensor *t, void (*visit)(void *data, int64_t offset, int64_t bytes), void *data)
{
    const int64_t bytes = t->dtype == HEED_BOOL ? 1 : 4;
    for (int64_t b = 0; b < t->shape[0]; b++)
        for (int64_t h = 0; h < t->shape[1]; h++)
            for (int64_t n = 0; n < t->shape[2]; n++)
                for (int64_t c = 0; c < t->shape[3]; c++) {
                    const int64_t index[4] = {b, h, n, c};
                    int64_t element = 0;
                    for (int axis = 0; axis < 4; axis++)
                        element += t->shape[axis] > 1 ? index[axis] * t->stride[axis] : 0;
                    visit(data, element * bytes, bytes);
                }
}

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

/* Most pairs are told apart by where they begin and end. */
static int lie_apart(const heed_tensor *a, const heed_tensor *b)
{
    const uintptr_t first_a = (uintptr_t)a->data, first_b = (uintptr_t)b->data;
    return first_a + (uintptr_t)extent_bytes(a) <= first_b || first_b + (uintptr_t)extent_bytes(b) <= first_a;
}

int shares_elements(const heed_tensor *a, const heed_tensor *b)
{
    const heed_tensor *views[2] = {a, b};
    uintptr_t begin = UINTPTR_MAX, end = 0;
    if (!has_elements(a) || (b != NULL && (!has_elements(b) || lie_apart(a, b))))
        return 0;
    for (int i = 0; i < (b != NULL ? 2 : 1); i++) {
        const uintptr_t first = (uintptr_t)views[i]->data, last = first + (uintptr_t)extent_bytes(views[i]);
        begin = first < begin ? first : begin;
        end = last > end ? last : end;
    }
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

int is_valid_view(const heed_tensor *t, heed_dtype dtype)
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

int is_valid_output(const heed_tensor *t)
{
    if (!is_valid_view(t, HEED_FLOAT32))
        return 0;
    if (!has_elements(t)) /* a contiguous view without heads has stride 0 between batch elements */
        return 1;
    for (int axis = 0; axis < 4; axis++)
        if (t->shape[axis] > 1 && t->stride[axis] == 0)
            return 0;
    return !shares_elements(t, NULL);
}

int is_valid_repeated_view(const heed_tensor *t, heed_dtype dtype, const heed_tensor *q)
{
    if (!is_valid_view(t, dtype))
        return 0;
    for (int axis = 0; axis < 2; axis++)
        if (t->shape[axis] != 1 && t->shape[axis] != q->shape[axis])
            return 0;
    return 1;
}

/* ---- Masks ---- */

static int all_within(const int64_t *values, int64_t n, int64_t low, int64_t high)
{
    if ((uintptr_t)values % sizeof *values != 0)
        return 0;
    for (int64_t i = 0; values != NULL && i < n; i++)
        if (values[i] < low || values[i] > high)
            return 0;
    return 1;
}

int is_valid_mask(const fuzz_mask *fuzzed, const heed_tensor *q, const heed_tensor *k)
{
    const heed_mask *m = &fuzzed->mask;
    const heed_tensor *visible = m->visible;
    const int64_t n_batches = q->shape[0];
    const int alignment = (int)m->alignment;
    if (m->struct_size != sizeof *m || alignment < 0 || alignment > 2 || m->window_left < -1 || m->window_right < -1)
        return 0;
    if (alignment != HEED_ALIGN_POSITIONS && (m->query_start != NULL || m->key_start != NULL))
        return 0;
    if (visible && (!is_valid_repeated_view(visible, HEED_BOOL, q) || visible->shape[3] != k->shape[2] ||
                    (visible->shape[2] != 1 && visible->shape[2] != q->shape[2])))
        return 0;
    return n_batches <= MAX_BATCHES && all_within(m->query_lengths, n_batches, 0, q->shape[2]) &&
           all_within(m->key_lengths, n_batches, 0, k->shape[2]) &&
           all_within(m->query_start, n_batches, -max_start, max_start) &&
           all_within(m->key_start, n_batches, -max_start, max_start);
}

int is_valid_step_mask(const fuzz_mask *fuzzed, const heed_tensor *q, const heed_tensor *k)
{
    const heed_mask *m = &fuzzed->mask;
    return is_valid_mask(fuzzed, q, k) && m->causal && m->window_left == -1 && m->window_right == -1 &&
           !m->key_lengths && !m->visible && m->alignment == HEED_ALIGN_BOTTOM_RIGHT;
}

/* ---- Softmax attention ---- */

int are_valid_softmax_inputs(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v)
{
    if (!is_valid_view(q, HEED_FLOAT32) || !is_valid_view(k, HEED_FLOAT32) || !is_valid_view(v, HEED_FLOAT32))
        return 0;
    const int64_t hq = q->shape[1], hkv = k->shape[1];
    return k->shape[0] == q->shape[0] && k->shape[3] == q->shape[3] && q->shape[3] > 0 && v->shape[3] > 0 &&
           has_shape(v, k->shape[0], hkv, k->shape[2], v->shape[3]) && (hkv == 0 ? hq == 0 : hq % hkv == 0);
}

static int is_valid_bias(const heed_tensor *bias, const heed_tensor *q, const heed_tensor *k)
{
    return is_valid_repeated_view(bias, HEED_FLOAT32, q) && bias->shape[3] == k->shape[2] &&
           (bias->shape[2] == 1 || bias->shape[2] == q->shape[2]);
}

int are_valid_softmax_options(const heed_softmax_options *o, const fuzz_mask *m, const heed_tensor *q,
                              const heed_tensor *k)
{
    if (o->struct_size != sizeof *o || !isfinite(o->scale) || !isfinite(o->softcap) || o->softcap < 0.0f)
        return 0;
    if ((uintptr_t)o->sinks % sizeof(float) != 0 || (uintptr_t)o->alibi_slopes % sizeof(float) != 0)
        return 0;
    return (!o->bias || is_valid_bias(o->bias, q, k)) && (!o->mask || is_valid_mask(m, q, k));
}

/* ---- States ---- */

int are_valid_tokens(const int64_t *n_tokens, int64_t n)
{
    return (n_tokens != NULL || n == 0) && all_within(n_tokens, n, 0, max_tokens);
}
