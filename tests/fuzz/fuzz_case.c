#include "fuzz_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCK_BYTES = 1 << 20 };

/* ---- Bytes ---- */

/* 0 .. n - 1; 0 when the bytes have run out, so that short inputs make plain cases. */
static int64_t take(byte_reader *r, int64_t n) { return r->next < r->end ? *r->next++ % n : 0; }

static int one_in(byte_reader *r, int64_t n) { return take(r, n) == 1; }

static float take_float(byte_reader *r, float low, float high)
{
    return low + (high - low) * (float)take(r, 256) / 255.0f;
}

/* ---- Views ---- */

static int64_t element_bytes(heed_dtype dtype) { return dtype == HEED_BOOL ? 1 : 4; }

static int is_empty(const heed_tensor *t)
{
    return t->shape[0] == 0 || t->shape[1] == 0 || t->shape[2] == 0 || t->shape[3] == 0;
}

int64_t extent_bytes(const heed_tensor *t)
{
    int64_t last = 0;
    for (int axis = 0; axis < 4; axis++) {
        if (t->shape[axis] <= 1)
            continue;
        /* In double, whose rounding does not matter at this limit. */
        const double reach = (double)last + (double)(t->shape[axis] - 1) * (double)t->stride[axis];
        if (t->stride[axis] < 0 || reach * 4.0 >= 0x1p60)
            return -1;
        last += (t->shape[axis] - 1) * t->stride[axis];
    }
    return is_empty(t) ? 0 : (last + 1) * element_bytes(t->dtype);
}

void visit_elements(const heed_tensor *t, void (*visit)(void *data, int64_t offset, int64_t bytes), void *data)
{
    const int64_t bytes = element_bytes(t->dtype);
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

/* Gaps after rows, heads and batch elements; where inputs may repeat, sometimes stride 0. */
static void choose_strides(heed_tensor *t, int may_repeat, byte_reader *r)
{
    const int64_t layout = take(r, 4), gap = take(r, 5);
    if (layout == 1)
        *t = heed_tensor_bnhd(NULL, t->dtype, t->shape[0], t->shape[1], t->shape[2], t->shape[3]);
    if (layout >= 2) {
        t->stride[2] = t->shape[3] + gap;
        t->stride[1] = t->shape[2] * t->stride[2] + take(r, 3);
        t->stride[0] = t->shape[1] * t->stride[1] + take(r, 3);
    }
    if (may_repeat && layout == 3)
        t->stride[take(r, 3)] = 0;
    for (int axis = 0; axis < 4; axis++)
        if (t->shape[axis] == 1 && one_in(r, 4))
            t->stride[axis] = take(r, 2) == 0 ? -77 : INT64_MAX;
}

static void choose_view(fuzz_case *c, tensor_id t, int64_t b, int64_t h, int64_t n, int64_t channels, byte_reader *r)
{
    c->tensor[t] = heed_tensor_bhnd(NULL, t == VISIBLE ? HEED_BOOL : HEED_FLOAT32, b, h, n, channels);
    choose_strides(&c->tensor[t], t != OUT && t != LSE, r);
}

/* ---- Sizes and options ---- */

/* Most cases are small; some have more rows than a tile, some enough keys for several ranges. */
static void choose_sizes(fuzz_case *c, byte_reader *r)
{
    static const int64_t ratios[] = {1, 2, 3, 4, 8};
    const int64_t kind = take(r, 16);
    c->b = 1 + take(r, 2);
    c->hkv = 1 + take(r, 2);
    c->hq = c->hkv * ratios[take(r, 5)];
    c->nq = kind == 1 ? 40 + take(r, 70) : 1 + take(r, 6);
    c->nk = kind == 2 ? 500 + 4 * take(r, 256) : kind == 3 ? 100 + take(r, 200) : 1 + take(r, 24);
    c->d = kind == 4 ? 60 + take(r, 80) : 1 + take(r, 20);
    c->dv = kind == 5 ? 60 + take(r, 80) : 1 + take(r, 20);
    if (kind >= 1 && kind <= 3) { /* large in one way is enough */
        c->b = c->hkv = 1;
        c->hq = 1 + take(r, 3);
        c->nq = kind == 1 ? c->nq : 1 + c->nq % 3;
    }
    int64_t *const sizes[] = {&c->b, &c->hq, &c->nq, &c->nk};
    if (one_in(r, 16))
        *sizes[take(r, 4)] = 0;
    if (c->hq == 0)
        c->hkv = take(r, 2);
}

static void choose_tensors(fuzz_case *c, byte_reader *r)
{
    choose_view(c, Q, c->b, c->hq, c->nq, c->d, r);
    choose_view(c, K, c->b, c->hkv, c->nk, c->d, r);
    choose_view(c, V, c->b, c->hkv, c->nk, c->dv, r);
    choose_view(c, OUT, c->b, c->hq, c->nq, c->dv, r);
    choose_view(c, LSE, c->b, c->hq, c->nq, 1, r);
    for (tensor_id t = BIAS; t <= VISIBLE; t++) {
        const int64_t repeat = take(r, 8);
        choose_view(c, t, repeat & 1 ? 1 : c->b, repeat & 2 ? 1 : c->hq, repeat & 4 ? 1 : c->nq, c->nk, r);
    }
    c->has_lse = !one_in(r, 4);
    c->has_bias = one_in(r, 3);
    c->has_visible = one_in(r, 4);
}

/* Scores stay below 30, for which the header bounds the error: 12 from the product, 5 from the bias, 13 from ALiBi. */
static void choose_options(fuzz_case *c, byte_reader *r)
{
    c->has_options = !one_in(r, 6);
    c->has_mask = one_in(r, 2);
    c->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    if (one_in(r, 2))
        c->options.scale = take_float(r, -12.0f, 12.0f) / (float)c->d;
    if (one_in(r, 3))
        c->options.softcap = take_float(r, 0.01f, 20.0f);
    const float steepest = 13.0f / (float)(c->nq + c->nk + 40);
    for (int h = 0; h < MAX_HEADS; h++) {
        c->slopes[h] = take_float(r, -steepest, steepest);
        c->sinks[h] = one_in(r, 8) ? -INFINITY : take_float(r, -10.0f, 10.0f);
    }
    c->options.alibi_slopes = one_in(r, 3) ? c->slopes : NULL;
    c->options.sinks = one_in(r, 3) ? c->sinks : NULL;
}

static void choose_mask(fuzz_case *c, byte_reader *r)
{
    c->mask = (heed_mask)HEED_MASK_INIT;
    c->mask.causal = one_in(r, 2);
    c->mask.window_left = one_in(r, 3) ? take(r, 20) : -1;
    c->mask.window_right = one_in(r, 3) ? take(r, 20) : -1;
    c->mask.alignment = (heed_alignment)take(r, 3);
    for (int b = 0; b < MAX_BATCHES; b++) {
        c->query_lengths[b] = take(r, c->nq + 1);
        c->key_lengths[b] = take(r, c->nk < 255 ? c->nk + 1 : 256);
        c->query_start[b] = take(r, 41) - 20;
        c->key_start[b] = c->query_start[b] + take(r, 21) - 10;
    }
    c->mask.query_lengths = one_in(r, 3) ? c->query_lengths : NULL;
    c->mask.key_lengths = one_in(r, 3) ? c->key_lengths : NULL;
    if (c->mask.alignment == HEED_ALIGN_POSITIONS) {
        c->mask.query_start = one_in(r, 2) ? c->query_start : NULL;
        c->mask.key_start = one_in(r, 2) ? c->key_start : NULL;
    }
}

/* ---- What may be wrong ---- */

static void spoil_tensor(heed_tensor *t, byte_reader *r)
{
    static const int64_t sizes[] = {-1, 0, 1, 2, 3, 5, INT64_MIN, INT64_MAX};
    static const int64_t strides[] = {-1, 0, 1, 2, 3, 7, INT64_MIN, INT64_MAX};
    static const int dtypes[] = {0, HEED_FLOAT32, HEED_BOOL, 3, -1};
    const int64_t axis = take(r, 4);
    switch (take(r, 4)) {
    case 0:
        t->shape[axis] = sizes[take(r, 8)];
        break;
    case 1:
        t->stride[axis] = strides[take(r, 8)];
        break;
    case 2:
        t->dtype = (heed_dtype)dtypes[take(r, 5)];
        break;
    default:
        t->stride[axis] = take(r, 30);
    }
}

static void spoil_option(fuzz_case *c, byte_reader *r)
{
    static const int64_t numbers[] = {-1, 0, 1, -2, 7, INT64_MIN, INT64_MAX, ((int64_t)1 << 60) + 1};
    static const float floats[] = {NAN, INFINITY, -INFINITY, -1.0f};
    const int64_t number = numbers[take(r, 8)];
    switch (take(r, 12)) {
    case 0:
        c->options.struct_size += (size_t)number;
        break;
    case 1:
        c->mask.struct_size += (size_t)number;
        break;
    case 2:
        c->options.scale = floats[take(r, 3)];
        break;
    case 3:
        c->options.softcap = floats[take(r, 4)];
        break;
    case 4:
        c->mask.window_left = number;
        break;
    case 5:
        c->mask.window_right = number;
        break;
    case 6:
        c->mask.alignment = (heed_alignment)(int)number;
        break;
    case 7:
        c->query_lengths[take(r, MAX_BATCHES)] = number;
        break;
    case 8:
        c->key_lengths[take(r, MAX_BATCHES)] = number;
        break;
    case 9: /* far positions: without ALiBi, whose scores would be far as well */
        c->query_start[take(r, MAX_BATCHES)] = number;
        c->options.alibi_slopes = NULL;
        break;
    case 10:
        c->key_start[take(r, MAX_BATCHES)] = number;
        c->options.alibi_slopes = NULL;
        break;
    default:
        c->mask.query_start = c->query_start;
    }
}

/* ---- Memory ---- */

static void fill_block(const fuzz_case *c, tensor_id t, byte_reader *r)
{
    const memory_block *block = &c->block[t];
    /* The contents follow from one byte of the input: they matter less than the descriptors. */
    uint64_t x = (uint64_t)(take(r, 256) + 1) * 0x9e3779b97f4a7c15u + (uint64_t)t;
    const float size = t == BIAS ? 5.0f : 1.0f;
    for (size_t i = 0; i + 4 <= block->bytes; i += 4) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const float value = size * ((float)(x >> 40) / 8388608.0f - 1.0f);
        memcpy(block->data + i, &value, sizeof value);
    }
    if (t == VISIBLE) {
        for (size_t i = 0; i < block->bytes; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            block->data[i] = (x >> 61) > 2 ? (unsigned char)((x >> 32 & 255) | 1) : 0;
        }
        return;
    }
    /* A few values that are no ordinary numbers. */
    static const float special[] = {NAN, INFINITY, -INFINITY, -INFINITY, 0.0f, -0.0f};
    for (int64_t n = one_in(r, 4) ? take(r, 4) : 0; n > 0 && block->bytes >= 4; n--) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        memcpy(block->data + (x >> 33) % (block->bytes / 4) * 4, &special[take(r, 6)], 4);
    }
}

/* A block of exactly the size of the view. Returns 0 where there is no such block. */
static int make_block(fuzz_case *c, tensor_id t, byte_reader *r)
{
    heed_tensor *view = &c->tensor[t];
    int is_negative = 0;
    for (int axis = 0; axis < 4; axis++)
        is_negative |= view->shape[axis] < 0;
    int64_t bytes = is_negative ? -1 : extent_bytes(view);
    if (bytes > MAX_BLOCK_BYTES)
        return 0;
    if (bytes < 0) /* the call must fail: any pointer that is not NULL */
        bytes = 16;
    c->block[t].bytes = (size_t)bytes;
    c->block[t].data = malloc((size_t)bytes);
    c->block[t].before = malloc((size_t)bytes);
    if (bytes > 0 && (c->block[t].data == NULL || c->block[t].before == NULL))
        return 0;
    if (bytes > 0)
        memset(c->block[t].data, 0xa5, (size_t)bytes);
    fill_block(c, t, r);
    view->data = bytes == 0 && one_in(r, 2) ? NULL : c->block[t].data;
    return 1;
}

/* Moves an output into the block of another tensor, at a random place: into its gaps, or onto its elements. */
static int share_block(fuzz_case *c, byte_reader *r)
{
    const tensor_id output = one_in(r, 2) ? LSE : OUT;
    const tensor_id host = (tensor_id)take(r, N_TENSORS);
    if (host == output || c->block[host].bytes == 0 || c->block[output].bytes == 0)
        return 1;
    const size_t offset = (size_t)(take(r, 256) * take(r, 8)) % (c->block[host].bytes / 4 + 2) * 4;
    const size_t end = offset + c->block[output].bytes;
    memory_block joint = {.bytes = end > c->block[host].bytes ? end : c->block[host].bytes};
    joint.data = calloc(1, joint.bytes);
    joint.before = malloc(joint.bytes);
    if (joint.data == NULL || joint.before == NULL) {
        free(joint.data);
        free(joint.before);
        return 0;
    }
    memcpy(joint.data, c->block[host].data, c->block[host].bytes);
    for (int i = 0; i < 2; i++) {
        memory_block *old = &c->block[i == 0 ? host : output];
        free(old->data);
        free(old->before);
        *old = (memory_block){0};
    }
    c->block[host] = joint;
    c->tensor[host].data = joint.data;
    c->tensor[output].data = joint.data + offset;
    c->shares_block = 1;
    return 1;
}

static void connect(fuzz_case *c)
{
    c->options.bias = c->has_bias ? &c->tensor[BIAS] : NULL;
    c->options.mask = c->has_mask ? &c->mask : NULL;
    c->mask.visible = c->has_visible ? &c->tensor[VISIBLE] : NULL;
}

int make_case(fuzz_case *c, byte_reader reader)
{
    byte_reader *r = &reader;
    memset(c, 0, sizeof *c);
    choose_sizes(c, r);
    choose_tensors(c, r);
    choose_options(c, r);
    choose_mask(c, r);
    c->threads = (int)take(r, 2);
    const int64_t wrong = take(r, 8); /* 0 .. 3: nothing */
    if (wrong == 4 || wrong == 5)
        spoil_tensor(&c->tensor[take(r, N_TENSORS)], r);
    if (wrong == 5 || wrong == 6)
        spoil_option(c, r);
    for (tensor_id t = Q; t < N_TENSORS; t++)
        if (!make_block(c, t, r))
            return 0;
    if (wrong == 7 && !share_block(c, r))
        return 0;
    if (wrong == 4 && one_in(r, 4))
        c->tensor[take(r, N_TENSORS)].data = NULL;
    if (wrong == 4 && one_in(r, 4)) {
        heed_tensor *t = &c->tensor[take(r, N_TENSORS)];
        /* Only floats are spoiled by an odd address; a mask would leave its block. */
        if (t->data != NULL && t != &c->tensor[VISIBLE])
            t->data = (char *)t->data + 1 + take(r, 3);
    }
    connect(c);
    return 1;
}

void free_case(fuzz_case *c)
{
    for (int t = 0; t < N_TENSORS; t++) {
        free(c->block[t].data);
        free(c->block[t].before);
    }
}

void keep_blocks(fuzz_case *c)
{
    for (int t = 0; t < N_TENSORS; t++)
        if (c->block[t].bytes > 0)
            memcpy(c->block[t].before, c->block[t].data, c->block[t].bytes);
}

int block_is_kept(const fuzz_case *c, tensor_id t)
{
    return c->block[t].bytes == 0 || memcmp(c->block[t].before, c->block[t].data, c->block[t].bytes) == 0;
}
