#include "fuzz_parts.h"
#include "support/compare.h"
#include "support/runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCK_BYTES = 1 << 20 };

/* ---- Bytes ---- */

int64_t take(byte_reader *r, int64_t n) { return r->next < r->end ? *r->next++ % n : 0; }

int one_in(byte_reader *r, int64_t n) { return take(r, n) == 1; }

float take_float(byte_reader *r, float low, float high) { return low + (high - low) * (float)take(r, 256) / 255.0f; }

/* ---- Views ---- */

static int64_t element_bytes(heed_dtype dtype) { return dtype == HEED_BOOL ? 1 : 4; }

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
    return !has_elements(t) ? 0 : (last + 1) * element_bytes(t->dtype);
}

void choose_strides(heed_tensor *t, int may_repeat, byte_reader *r)
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

void spoil_tensor(heed_tensor *t, byte_reader *r)
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

void print_tensor(const char *name, const heed_tensor *t)
{
    fprintf(stderr, "%-8s %p dtype %d, shape %lld %lld %lld %lld, stride %lld %lld %lld %lld\n", name, t->data,
            (int)t->dtype, (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2],
            (long long)t->shape[3], (long long)t->stride[0], (long long)t->stride[1], (long long)t->stride[2],
            (long long)t->stride[3]);
}

/* ---- Memory ---- */

static void fill_block(const memory_block *block, int is_flags, float size, uint64_t number, byte_reader *r)
{
    /* The contents follow from one byte of the input: they matter less than the descriptors. */
    uint64_t x = (uint64_t)(take(r, 256) + 1) * 0x9e3779b97f4a7c15u + number;
    for (size_t i = 0; i + 4 <= block->bytes; i += 4) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const float value = size * ((float)(x >> 40) / 8388608.0f - 1.0f);
        memcpy(block->data + i, &value, sizeof value);
    }
    if (is_flags) {
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

int make_block(heed_tensor *view, memory_block *block, int is_flags, float size, uint64_t number, byte_reader *r)
{
    int is_negative = 0;
    for (int axis = 0; axis < 4; axis++)
        is_negative |= view->shape[axis] < 0;
    int64_t bytes = is_negative ? -1 : extent_bytes(view);
    if (bytes > MAX_BLOCK_BYTES)
        return 0;
    if (bytes < 0) /* the call must fail: any pointer that is not NULL */
        bytes = 16;
    block->bytes = (size_t)bytes;
    block->data = malloc((size_t)bytes);
    block->before = malloc((size_t)bytes);
    if (bytes > 0 && (block->data == NULL || block->before == NULL))
        return 0;
    if (bytes > 0)
        memset(block->data, 0xa5, (size_t)bytes);
    fill_block(block, is_flags, size, number, r);
    view->data = bytes == 0 && one_in(r, 2) ? NULL : block->data;
    return 1;
}

int share_block(heed_tensor *tensors, memory_block *blocks, int n, int output, int *moved, byte_reader *r)
{
    const int host = (int)take(r, n);
    if (host == output || blocks[host].bytes == 0 || blocks[output].bytes == 0)
        return 1;
    const size_t offset = (size_t)(take(r, 256) * take(r, 8)) % (blocks[host].bytes / 4 + 2) * 4;
    const size_t end = offset + blocks[output].bytes;
    memory_block joint = {.bytes = end > blocks[host].bytes ? end : blocks[host].bytes};
    joint.data = calloc(1, joint.bytes);
    joint.before = malloc(joint.bytes);
    if (joint.data == NULL || joint.before == NULL) {
        free(joint.data);
        free(joint.before);
        return 0;
    }
    memcpy(joint.data, blocks[host].data, blocks[host].bytes);
    free_blocks(&blocks[host], 1);
    free_blocks(&blocks[output], 1);
    blocks[host] = joint;
    blocks[output] = (memory_block){0};
    tensors[host].data = joint.data;
    tensors[output].data = joint.data + offset;
    *moved = 1;
    return 1;
}

void spoil_data(heed_tensor *tensors, int n, byte_reader *r)
{
    if (one_in(r, 4))
        tensors[take(r, n)].data = NULL;
    if (one_in(r, 4)) {
        heed_tensor *t = &tensors[take(r, n)];
        if (t->data != NULL && t->dtype != HEED_BOOL)
            t->data = (char *)t->data + 1 + take(r, 3);
    }
}

void free_blocks(const memory_block *blocks, int n)
{
    for (int t = 0; t < n; t++) {
        free(blocks[t].data);
        free(blocks[t].before);
    }
}

void keep_blocks(const memory_block *blocks, int n)
{
    for (int t = 0; t < n; t++)
        if (blocks[t].bytes > 0)
            memcpy(blocks[t].before, blocks[t].data, blocks[t].bytes);
}

void restore_blocks(const memory_block *blocks, int n)
{
    for (int t = 0; t < n; t++)
        if (blocks[t].bytes > 0)
            memcpy(blocks[t].data, blocks[t].before, blocks[t].bytes);
}

int block_is_kept(const memory_block *block)
{
    return block->bytes == 0 || memcmp(block->before, block->data, block->bytes) == 0;
}

unsigned char *copy_blocks(const memory_block *blocks, int n)
{
    size_t bytes = 1;
    for (int t = 0; t < n; t++)
        bytes += blocks[t].bytes;
    unsigned char *copy = malloc(bytes), *next = copy;
    if (copy == NULL)
        abort();
    for (int t = 0; t < n; next += blocks[t++].bytes)
        if (blocks[t].bytes > 0)
            memcpy(next, blocks[t].data, blocks[t].bytes);
    return copy;
}

int blocks_hold(const memory_block *blocks, int n, const unsigned char *copy)
{
    for (int t = 0; t < n; copy += blocks[t++].bytes)
        if (blocks[t].bytes > 0 && memcmp(copy, blocks[t].data, blocks[t].bytes) != 0)
            return 0;
    return 1;
}

/* One for each byte of the block: whether it is of an element of a token n < lengths[b]; NULL: of any token. */
static unsigned char *mark_tokens(const heed_tensor *t, const memory_block *block, const int64_t *lengths)
{
    unsigned char *marks = calloc(1, block->bytes + 1);
    if (marks == NULL)
        abort();
    for (int64_t row = 0; has_elements(t) && row < t->shape[0] * t->shape[1] * t->shape[2]; row++) {
        const int64_t n = row % t->shape[2], h = row / t->shape[2] % t->shape[1], b = row / t->shape[2] / t->shape[1];
        if (lengths == NULL || n < lengths[b])
            memset(marks + tensor_offset(t, b, h, n, 0) * 4, 1, (size_t)t->shape[3] * 4);
    }
    return marks;
}

int are_gaps_kept(const heed_tensor *t, const memory_block *block)
{
    unsigned char *marks = mark_tokens(t, block, NULL);
    int is_kept = 1;
    for (size_t i = 0; i < block->bytes; i++)
        is_kept &= marks[i] || block->data[i] == block->before[i];
    free(marks);
    return is_kept;
}

void poison_rest(const heed_tensor *t, const memory_block *block, const int64_t *lengths)
{
    unsigned char *marks = mark_tokens(t, block, lengths);
    for (size_t i = 0; i < block->bytes; i++)
        block->data[i] = marks[i] ? block->data[i] : 0xff;
    free(marks);
}

/* ---- Masks ---- */

void choose_mask(fuzz_mask *m, int64_t n_queries, int64_t n_keys, byte_reader *r)
{
    m->mask = (heed_mask)HEED_MASK_INIT;
    m->mask.causal = one_in(r, 2);
    m->mask.window_left = one_in(r, 3) ? take(r, 20) : -1;
    m->mask.window_right = one_in(r, 3) ? take(r, 20) : -1;
    m->mask.alignment = (heed_alignment)take(r, 3);
    for (int b = 0; b < MAX_BATCHES; b++) {
        m->query_lengths[b] = take(r, n_queries + 1);
        m->key_lengths[b] = take(r, n_keys < 255 ? n_keys + 1 : 256);
        m->query_start[b] = take(r, 41) - 20;
        m->key_start[b] = m->query_start[b] + take(r, 21) - 10;
    }
    m->mask.query_lengths = one_in(r, 3) ? m->query_lengths : NULL;
    m->mask.key_lengths = one_in(r, 3) ? m->key_lengths : NULL;
    if (m->mask.alignment == HEED_ALIGN_POSITIONS) {
        m->mask.query_start = one_in(r, 2) ? m->query_start : NULL;
        m->mask.key_start = one_in(r, 2) ? m->key_start : NULL;
    }
}

void spoil_mask(fuzz_mask *m, int64_t which, int64_t number, byte_reader *r)
{
    switch (which) {
    case 0:
        m->mask.struct_size += (size_t)number;
        break;
    case 1:
        m->mask.window_left = number;
        break;
    case 2:
        m->mask.window_right = number;
        break;
    case 3:
        m->mask.alignment = (heed_alignment)(int)number;
        break;
    case 4:
        m->query_lengths[take(r, MAX_BATCHES)] = number;
        break;
    case 5:
        m->key_lengths[take(r, MAX_BATCHES)] = number;
        break;
    case 6:
        m->query_start[take(r, MAX_BATCHES)] = number;
        break;
    case 7:
        m->key_start[take(r, MAX_BATCHES)] = number;
        break;
    default:
        m->mask.query_start = m->query_start;
    }
}

void print_mask(const heed_mask *m)
{
    fprintf(stderr, "causal %d, window %lld %lld, alignment %d, lengths %d %d, starts %d %d\n", m->causal,
            (long long)m->window_left, (long long)m->window_right, (int)m->alignment, m->query_lengths != NULL,
            m->key_lengths != NULL, m->query_start != NULL, m->key_start != NULL);
}

/* ---- Calls ---- */

void spoil_softmax_option(heed_softmax_options *o, fuzz_mask *m, byte_reader *r)
{
    static const int64_t numbers[] = {-1, 0, 1, -2, 7, INT64_MIN, INT64_MAX, ((int64_t)1 << 60) + 1};
    static const float floats[] = {NAN, INFINITY, -INFINITY, -1.0f};
    const int64_t number = numbers[take(r, 8)];
    const int64_t which = take(r, 3 + N_MASK_SPOILS);
    if (which == 0)
        o->struct_size += (size_t)number;
    else if (which == 1)
        o->scale = floats[take(r, 3)];
    else if (which == 2)
        o->softcap = floats[take(r, 4)];
    else {
        spoil_mask(m, which - 3, number, r);
        o->alibi_slopes = NULL;
    }
}

void print_softmax_options(const char *name, const heed_softmax_options *o)
{
    if (!o)
        return;
    fprintf(stderr, "%s: scale %g, softcap %g, bias %d, slopes %d, sinks %d, mask %d\n", name, (double)o->scale,
            (double)o->softcap, o->bias != NULL, o->alibi_slopes != NULL, o->sinks != NULL, o->mask != NULL);
    if (o->mask)
        print_mask(o->mask);
}

void spoil_aft_option(heed_aft_options *o, int64_t which, int64_t number, const heed_tensor *w,
                      const heed_tensor *key_factors)
{
    switch (which) {
    case 0:
        o->struct_size += (size_t)number;
        break;
    case 1:
        o->gate = (heed_gate)(int)number;
        break;
    case 2:
        o->window = number;
        break;
    case 3:
        o->banded = (int)number;
        break;
    case 4:
        o->nothing_outside = (int)number;
        break;
    case 5:
        o->grid_height = number;
        break;
    case 6:
        o->grid_width = number;
        break;
    case 7:
        o->w = w;
        break;
    default:
        o->key_factors = o->key_factors ? NULL : key_factors;
    }
}

heed_context *fuzz_context(int which)
{
    static heed_context *contexts[2];
    if (contexts[0] == NULL) {
        contexts[0] = runner_context(1, NULL);
        contexts[1] = runner_context(3, hook_reverse);
    }
    return contexts[which];
}
