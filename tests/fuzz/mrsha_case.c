#include "mrsha_case.h"

#include <math.h>
#include <string.h>

static void choose_view(fuzz_case *c, int t, int64_t b, int64_t h, int64_t n, int64_t channels, byte_reader *r)
{
    c->tensor[t] =
        heed_tensor_bhnd(NULL, t == VISIBLE || t == FINE_VISIBLE ? HEED_BOOL : HEED_FLOAT32, b, h, n, channels);
    choose_strides(&c->tensor[t], !is_written(c, t), r);
}

/* ---- Sizes ---- */

/* Most cases are small; some have more rows than a tile, some several ranges or blocks of keys, some many heads, some
 * enough work for several threads. */
static void choose_sizes(fuzz_case *c, byte_reader *r)
{
    static const int64_t ratios[] = {1, 1, 2, 3, 8};
    const int64_t kind = take(r, 16);
    c->b = 1 + take(r, 3);
    c->hkv = 1 + take(r, 2);
    c->hq = c->hkv * ratios[take(r, 5)];
    c->nq = kind == 1 ? 40 + take(r, 70) : 1 + take(r, 24);
    c->nk = kind == 2 ? 500 + 4 * take(r, 256) : kind == 3 ? 100 + take(r, 200) : 1 + take(r, 24);
    c->d = kind == 4 ? 60 + take(r, 80) : 1 + take(r, 20);
    c->dv = kind == 5 ? 60 + take(r, 80) : 1 + take(r, 20);
    if (kind == 6) {
        c->hkv = 1 + c->hkv % 2;
        c->hq = c->hkv * (1 + take(r, MAX_HEADS / 2));
    }
    if (kind == 7) {
        c->b = 3;
        c->nq = 40 + take(r, 20);
        c->nk = 40 + take(r, 20);
        c->d = 40 + take(r, 24);
        c->dv = 40 + take(r, 24);
    }
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

/* Causal heads and steps have as many queries as keys. */
static void choose_tokens(fuzz_case *c, int is_causal, byte_reader *r)
{
    heed_mrsha_options *o = &c->options;
    const int has_grid = !is_causal && one_in(r, 4);
    o->class_token = !is_causal && one_in(r, 4) ? 1 + (int)take(r, 3) : 0;
    if (has_grid) {
        o->grid_height = 1 + take(r, 9);
        o->grid_width = 1 + take(r, 9);
        c->nq = c->nk = o->grid_height * o->grid_width + (o->class_token != 0);
    }
    if (is_causal && !one_in(r, 32))
        c->nq = c->nk = c->nq > c->nk ? c->nq : c->nk % 160;
}

/* ---- Resolutions ---- */

/* Three sizes, which heads take as they come. With weights the largest ones would need as many of these. */
static void choose_group_sizes(fuzz_case *c, byte_reader *r)
{
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 1, 8, 16, 33, 100, (int64_t)1 << 31, (int64_t)1 << 40, INT64_MAX};
    const heed_mrsha_options *o = &c->options;
    const int64_t n_sizes = o->pooling != HEED_POOLING_LEARNED ? 14 : o->grid_width > 0 ? 6 : 10;
    const int64_t palette[] = {sizes[take(r, n_sizes)], sizes[take(r, n_sizes)], sizes[take(r, n_sizes)]};
    int64_t pattern = 1 + take(r, 256);
    for (int h = 0; h < MAX_HEADS; h++) {
        c->group_sizes[h] = palette[pattern % 3];
        pattern = pattern * 75 % 65537;
    }
    c->options.group_sizes = one_in(r, 8) ? NULL : c->group_sizes;
}

static int64_t largest_group(const fuzz_case *c)
{
    int64_t largest = 2;
    for (int64_t h = 0; c->options.group_sizes && h < c->hq; h++)
        largest = c->group_sizes[h] > largest ? c->group_sizes[h] : largest;
    return largest;
}

static void choose_weights(fuzz_case *c, byte_reader *r)
{
    heed_mrsha_options *o = &c->options;
    if (o->pooling != HEED_POOLING_LEARNED)
        return;
    const int64_t largest = largest_group(c), n = o->grid_width > 0 ? largest * largest : largest;
    choose_view(c, WEIGHTS, 1, 1, c->hq, one_in(r, 8) ? take(r, 4) : n + take(r, 3), r);
    o->weights = &c->tensor[WEIGHTS];
}

/* ---- Options ---- */

static void fill_numbers(float *numbers, float low, float high, byte_reader *r)
{
    uint64_t x = (uint64_t)take(r, 256);
    for (int h = 0; h < MAX_HEADS; h++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        numbers[h] = low + (high - low) * (float)(x >> 40) / 16777216.0f;
    }
}

/* Scores stay below 30, for which the header bounds the error: 12 from the product, 5 from the bias, 13 from ALiBi. */
static void choose_softmax(fuzz_case *c, int which, byte_reader *r)
{
    fuzz_softmax *s = &c->softmax[which];
    heed_softmax_options *o = &s->options;
    const float steepest = 13.0f / (float)(c->nq + c->nk + 40);
    const int64_t repeat = take(r, 8), b = repeat & 1 ? 1 : c->b, h = repeat & 2 ? 1 : c->hq,
                  n = repeat & 4 ? 1 : c->nq;
    *o = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    o->scale = one_in(r, 2) ? take_float(r, -12.0f, 12.0f) / (float)c->d : 0.0f;
    o->softcap = one_in(r, 3) ? take_float(r, 0.01f, 20.0f) : 0.0f;
    if (one_in(r, 3)) {
        fill_numbers(s->sinks, -10.0f, 10.0f, r);
        s->sinks[take(r, MAX_HEADS)] = -INFINITY;
        o->sinks = s->sinks;
    }
    if (one_in(r, 3)) {
        fill_numbers(s->slopes, -steepest, steepest, r);
        o->alibi_slopes = s->slopes;
    }
    choose_mask(&s->mask, c->nq, c->nk, r);
    if (one_in(r, 3)) {
        choose_view(c, which == FINE ? FINE_VISIBLE : VISIBLE, b, h, n, c->nk, r);
        s->mask.mask.visible = &c->tensor[which == FINE ? FINE_VISIBLE : VISIBLE];
    }
    if (one_in(r, 3)) {
        choose_view(c, which == FINE ? FINE_BIAS : BIAS, b, h, n, c->nk, r);
        o->bias = &c->tensor[which == FINE ? FINE_BIAS : BIAS];
    }
    o->mask = one_in(r, 4) ? NULL : &s->mask.mask;
}

/* Token i of q and token i of k at one place, whatever says so. */
static void align(fuzz_mask *m)
{
    memcpy(m->key_start, m->query_start, sizeof m->key_start);
    m->mask.key_start = m->mask.query_start ? m->key_start : NULL;
    if (m->mask.alignment != HEED_ALIGN_BOTTOM_RIGHT)
        return;
    memcpy(m->key_lengths, m->query_lengths, sizeof m->key_lengths);
    m->mask.key_lengths = m->mask.query_lengths ? m->key_lengths : NULL;
}

/* What a step takes. */
static void fit_step(fuzz_case *c)
{
    fuzz_softmax *s = &c->softmax[ALL];
    const int64_t *lengths = s->mask.mask.query_lengths;
    s->options.alibi_slopes = NULL;
    s->mask.mask = (heed_mask)HEED_MASK_INIT;
    s->mask.mask.causal = 1;
    s->mask.mask.query_lengths = lengths;
    c->options.mode = HEED_MRSHA_VALUE;
    c->options.fine = NULL;
}

/* What a coarse head takes. */
static void fit_forward(fuzz_case *c)
{
    fuzz_softmax *s = &c->softmax[ALL];
    heed_mask *mask = &s->mask.mask;
    for (int64_t h = 0; h < MAX_HEADS; h++)
        s->slopes[h] = c->options.group_sizes && c->group_sizes[h] == 1 ? s->slopes[h] : 0.0f;
    mask->window_left = mask->window_right = -1;
    mask->visible = NULL;
    if (!mask->causal)
        return;
    align(&s->mask);
    if (c->options.mode == HEED_MRSHA_OUTPUT)
        c->options.mode = HEED_MRSHA_VALUE;
}

static void choose_options(fuzz_case *c, int is_causal, byte_reader *r)
{
    heed_mrsha_options *o = &c->options;
    choose_softmax(c, ALL, r);
    o->softmax = is_causal || !one_in(r, 8) ? &c->softmax[ALL].options : NULL;
    if (one_in(r, 3)) {
        choose_softmax(c, FINE, r);
        o->fine = &c->softmax[FINE].options;
    }
    c->softmax[ALL].mask.mask.causal = is_causal;
    c->has_lse = !one_in(r, 4);
    c->has_options = c->verb == STEP || is_causal || o->grid_width > 0 || !one_in(r, 8);
    if (one_in(r, is_causal ? 32 : 3)) {
        o->upsampling = HEED_UPSAMPLING_LINEAR;
        if (!one_in(r, 8)) { /* as it must be */
            c->has_lse = 0;
            o->grid_height = o->grid_width = 0;
        }
    }
    if (one_in(r, 8)) /* whatever heads make of it */
        return;
    c->softmax[ALL].options.bias = NULL;
    if (c->verb == STEP)
        fit_step(c);
    else
        fit_forward(c);
}

/* ---- Tensors ---- */

static void choose_state(fuzz_case *c, byte_reader *r)
{
    const int64_t n_before = one_in(r, 3) ? take(r, 200) : 0;
    c->max_tokens = n_before + c->nq + (one_in(r, 8) ? take(r, 3) - 2 : take(r, 30));
    const cache_counts n = count_caches(&c->options, c->hq, c->hkv, c->max_tokens > 0 ? c->max_tokens : 0);
    choose_view(c, KEYS, c->b, 1, n.n_rows, c->d, r);
    choose_view(c, VALUES, c->b, 1, n.n_rows, c->dv, r);
    choose_view(c, OPEN_KEYS, c->b, 1, 2 * n.n_caches, c->d, r);
    choose_view(c, OPEN_VALUES, c->b, 1, 2 * n.n_caches, c->dv, r);
    for (int b = 0; b < MAX_BATCHES; b++)
        c->n_tokens_memory[b] = n_before > 0 ? take(r, n_before + 1) : 0;
    for (int i = 0; i < N_PARTS; i++)
        c->parts[i] = take(r, i < 2 ? 4 : 40);
    c->parts[0]++; /* not all of them are 0 */
    c->reset = one_in(r, 3) ? take(r, MAX_BATCHES + 2) - 2 : -2;
    c->n_tokens = c->n_tokens_memory;
    c->has_state = 1;
}

static void choose_tensors(fuzz_case *c, byte_reader *r)
{
    choose_view(c, Q, c->b, c->hq, c->nq, c->d, r);
    choose_view(c, K, c->b, c->hkv, c->nk, c->d, r);
    choose_view(c, V, c->b, c->hkv, c->nk, c->dv, r);
    choose_view(c, OUT, c->b, c->hq, c->nq, c->dv, r);
    choose_view(c, LSE, c->b, c->hq, c->nq, 1, r);
    if (one_in(r, 16)) /* each row in a page of its own */
        c->tensor[V].stride[2] = 1024 + take(r, 8);
    choose_weights(c, r);
    if (c->verb == STEP)
        choose_state(c, r);
}

/* ---- What may be wrong ---- */

/* An address that no number has. */
static void *odd_place(const void *data, int64_t bytes) { return (void *)((uintptr_t)data + (uintptr_t)bytes); }

static void spoil_option(fuzz_case *c, int64_t number, byte_reader *r)
{
    heed_mrsha_options *o = &c->options;
    switch (take(r, 10)) {
    case 0:
        o->struct_size += (size_t)number;
        break;
    case 1:
        o->mode = (heed_mrsha_mode)(int)number;
        break;
    case 2:
        o->pooling = (heed_pooling)(int)number;
        break;
    case 3:
        o->upsampling = (heed_upsampling)(int)number;
        break;
    case 4:
        o->grid_height = number;
        break;
    case 5:
        o->grid_width = number;
        break;
    case 6:
        o->class_token = (int)number;
        break;
    case 7:
        o->weights = o->weights ? NULL : &c->tensor[Q];
        break;
    default:
        c->group_sizes[take(r, MAX_HEADS) % (c->hq + 1)] = number;
    }
}

static void spoil_state(fuzz_case *c, int64_t number, byte_reader *r)
{
    switch (take(r, 6)) {
    case 0:
        c->n_tokens = NULL;
        break;
    case 1:
        c->n_tokens = odd_place(c->n_tokens, 4);
        break;
    case 2:
        c->n_tokens = c->options.group_sizes ? c->group_sizes : c->softmax[ALL].mask.query_lengths;
        break;
    case 3:
        c->max_tokens = number;
        break;
    case 4:
        c->has_state = 0;
        break;
    default:
        c->n_tokens_memory[take(r, MAX_BATCHES)] = number;
    }
}

static void spoil_addresses(fuzz_case *c, byte_reader *r)
{
    fuzz_softmax *s = &c->softmax[c->options.fine ? take(r, N_OPTIONS) : ALL];
    const int64_t bytes = 1 + take(r, 3);
    switch (take(r, 5)) {
    case 0:
        s->options.sinks = odd_place(s->sinks, bytes);
        break;
    case 1:
        s->options.alibi_slopes = odd_place(s->slopes, bytes);
        break;
    case 2:
        s->mask.mask.query_lengths = odd_place(s->mask.query_lengths, bytes);
        break;
    case 3:
        c->options.group_sizes = odd_place(c->group_sizes, bytes);
        break;
    default:
        c->missing = (int)take(r, OUT + 1);
    }
}

static void spoil_call(fuzz_case *c, byte_reader *r)
{
    static const int64_t numbers[] = {-1, 0, 1, 2, 3, -2, 7, INT64_MIN, INT64_MAX, ((int64_t)1 << 60) + 1};
    const int64_t number = numbers[take(r, 10)];
    fuzz_softmax *s = &c->softmax[c->options.fine ? take(r, N_OPTIONS) : ALL];
    switch (take(r, 4)) {
    case 0:
        spoil_softmax_option(&s->options, &s->mask, r);
        break;
    case 1:
        spoil_addresses(c, r);
        break;
    case 2:
        if (c->verb == STEP) {
            spoil_state(c, number, r);
            break;
        }
        spoil_option(c, number, r);
        break;
    default:
        spoil_option(c, number, r);
    }
}

/* One of those that the call sees, or writes. */
static int take_tensor(const fuzz_case *c, int must_be_written, byte_reader *r)
{
    int list[N_TENSORS], n = 0;
    for (int t = 0; t < N_TENSORS; t++)
        if (is_used(c, t) && (is_written(c, t) || !must_be_written))
            list[n++] = t;
    return list[take(r, n)];
}

/* An output moves into the block of another tensor, or onto numbers that the call reads. */
static int share(fuzz_case *c, byte_reader *r)
{
    const int output = take_tensor(c, 1, r);
    heed_tensor arrays[MAX_ARRAYS];
    const int n = one_in(r, 4) ? list_arrays(c, arrays) : 0;
    if (n == 0)
        return share_block(c->tensor, c->block, N_TENSORS, output, &c->shares_block, r);
    const heed_tensor *array = &arrays[take(r, n)];
    if (has_elements(array))
        c->tensor[output].data = array->data;
    return 1;
}

/* ---- Contents ---- */

/* No weight is negative, so that a mean lies among its tokens. */
static void make_weights(const fuzz_case *c)
{
    const memory_block *block = &c->block[WEIGHTS];
    for (size_t i = 0; i + 4 <= block->bytes; i += 4) {
        float w;
        memcpy(&w, block->data + i, sizeof w);
        w = fabsf(w);
        memcpy(block->data + i, &w, sizeof w);
    }
}

static int make_blocks(fuzz_case *c, byte_reader *r)
{
    for (int t = 0; t < N_TENSORS; t++) {
        const int is_flags = t == VISIBLE || t == FINE_VISIBLE, is_bias = t == BIAS || t == FINE_BIAS;
        if (is_used(c, t) && !make_block(&c->tensor[t], &c->block[t], is_flags, is_bias ? 5.0f : 1.0f, (uint64_t)t, r))
            return 0;
    }
    make_weights(c);
    return 1;
}

static int make_call(fuzz_case *c, byte_reader *r)
{
    const int64_t wrong = take(r, 8); /* 0 .. 3: nothing */
    const int is_causal = c->verb == STEP || one_in(r, 3);
    choose_sizes(c, r);
    choose_tokens(c, is_causal, r);
    c->options.mode = (heed_mrsha_mode)take(r, 3);
    c->options.pooling = (heed_pooling)take(r, 3);
    choose_group_sizes(c, r);
    choose_options(c, is_causal, r);
    choose_tensors(c, r);
    if (wrong == 4 || wrong == 5)
        spoil_tensor(&c->tensor[take_tensor(c, 0, r)], r);
    if (wrong == 5 || wrong == 6)
        spoil_call(c, r);
    if (!make_blocks(c, r) || (wrong == 7 && !share(c, r)))
        return 0;
    if (wrong == 4)
        spoil_data(c->tensor, N_TENSORS, r);
    return 1;
}

int make_case(fuzz_case *c, byte_reader reader)
{
    byte_reader *r = &reader;
    const int64_t kind = take(r, 16);
    c->verb = kind == 15 ? SIZES : kind >= 10 ? STEP : FORWARD;
    c->threads = (int)take(r, 2);
    c->options = (heed_mrsha_options)HEED_MRSHA_OPTIONS_INIT;
    c->missing = N_TENSORS;
    if (c->verb == SIZES)
        choose_numbers(c, r);
    return c->verb == SIZES || make_call(c, r);
}

const size_t case_bytes = sizeof(fuzz_case);

case_memory memory_of(const fuzz_case *c)
{
    return (case_memory){c->tensor, c->block, N_TENSORS, c->shares_block, c->threads};
}
