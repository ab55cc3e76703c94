/* heed_mrsha_scratch_bytes(), heed_mrsha_state_bytes() with heed_mrsha_state_view(), and heed_mrsha_group_sizes(), with
 * numbers of any size: they tell what heed.h says, or fail and leave what they would have written. */
#include "mrsha_case.h"

#include <stdio.h>

/* 2^60 elements are too many; float64 would round what is counted here. */
static const long double too_many = 0x1p60L;
static const int64_t untouched = -77;

/* ---- Numbers ---- */

/* Heads are gone through one by one, and some of these calls do so for each of them. */
static int64_t take_heads(byte_reader *r)
{
    static const int64_t wild[] = {-1, 0, 100, 1000, 3000, INT64_MIN, INT64_MAX, (int64_t)1 << 60};
    return one_in(r, 8) ? wild[take(r, 8)] : 1 + take(r, MAX_HEADS);
}

static int64_t take_number(byte_reader *r)
{
    static const int64_t wild[] = {-1,
                                   0,
                                   0,
                                   1,
                                   (int64_t)1 << 20,
                                   (int64_t)1 << 31,
                                   ((int64_t)1 << 32) + 1,
                                   (int64_t)1 << 40,
                                   (int64_t)1 << 52,
                                   (int64_t)1 << 58,
                                   ((int64_t)1 << 59) - 3,
                                   (int64_t)1 << 59,
                                   ((int64_t)1 << 60) - 1,
                                   (int64_t)1 << 60,
                                   INT64_MAX,
                                   INT64_MIN};
    return one_in(r, 5) ? wild[take(r, 16)] : 1 + take(r, 12);
}

static heed_tensor shape_of(int64_t b, int64_t h, int64_t n, int64_t channels)
{
    /* Of a tensor only the shape is read. */
    return (heed_tensor){.dtype = (heed_dtype)77, .shape = {b, h, n, channels}, .stride = {-1, -1, -1, -1}};
}

static void choose_options(fuzz_case *c, byte_reader *r)
{
    static const int64_t sizes[] = {1, 1, 2, 3, 4, 8, 100, (int64_t)1 << 40, INT64_MAX};
    static const int64_t numbers[] = {-1, 0, 3, INT64_MIN};
    int64_t pattern = 1 + take(r, 256);
    for (int h = 0; h < MAX_HEADS; h++) {
        c->group_sizes[h] = sizes[pattern % 9];
        pattern = pattern * 75 % 65537;
    }
    c->has_options = !one_in(r, 4);
    c->options.pooling = (heed_pooling)take(r, 3);
    c->options.group_sizes = one_in(r, 3) || c->sizes.hq > MAX_HEADS ? NULL : c->group_sizes;
    if (!one_in(r, 4))
        return;
    const int64_t number = numbers[take(r, 4)];
    switch (take(r, 3)) {
    case 0:
        c->options.struct_size += (size_t)number;
        break;
    case 1:
        c->options.pooling = (heed_pooling)(int)number;
        break;
    default:
        c->group_sizes[take(r, MAX_HEADS)] = number;
    }
}

void choose_numbers(fuzz_case *c, byte_reader *r)
{
    fuzz_sizes *s = &c->sizes;
    s->preset = take(r, 5) - 1;
    s->b = take_number(r);
    s->hkv = take_heads(r);
    s->hq = one_in(r, 4) || s->hkv > 1000 || s->hkv < -1000 ? take_heads(r) : s->hkv * (1 + take(r, 3));
    s->nq = take_number(r);
    s->nk = take_number(r);
    s->d = take_number(r);
    s->dv = take_number(r);
    s->max_tokens = take_number(r);
    s->misses_bytes = one_in(r, 16);
    s->q = shape_of(s->b, s->hq, s->nq, s->d);
    s->k = shape_of(s->b, s->hkv, s->nk, s->d);
    s->v = shape_of(s->b, s->hkv, s->nk, s->dv);
    heed_tensor *const all[] = {&s->q, &s->k, &s->v};
    if (one_in(r, 4))
        all[take(r, 3)]->shape[take(r, 4)] = take_number(r);
    choose_options(c, r);
}

void print_numbers(const fuzz_case *c)
{
    const fuzz_sizes *s = &c->sizes;
    fprintf(stderr, "sizes: B %lld, Hq %lld, Hkv %lld, D %lld, Dv %lld, max_tokens %lld, preset %lld, bytes %d\n",
            (long long)s->b, (long long)s->hq, (long long)s->hkv, (long long)s->d, (long long)s->dv,
            (long long)s->max_tokens, (long long)s->preset, !s->misses_bytes);
    print_tensor("q", &s->q);
    print_tensor("k", &s->k);
    print_tensor("v", &s->v);
}

/* ---- Rules ---- */

/* An empty axis does not make the others small. */
static int is_countable(long double a, long double b, long double c, long double d)
{
    if (a < 0.0L || b < 0.0L || c < 0.0L || d < 0.0L)
        return 0;
    return (a > 1.0L ? a : 1.0L) * (b > 1.0L ? b : 1.0L) * (c > 1.0L ? c : 1.0L) * (d > 1.0L ? d : 1.0L) < too_many;
}

static int is_countable_shape(const heed_tensor *t)
{
    const int64_t *n = t->shape;
    return is_countable((long double)n[0], (long double)n[1], (long double)n[2], (long double)n[3]);
}

static int fit_heads(int64_t hq, int64_t hkv) { return hq >= 0 && hkv >= 0 && (hkv == 0 ? hq == 0 : hq % hkv == 0); }

static int are_valid_options(const fuzz_case *c, int64_t n_heads)
{
    const heed_mrsha_options *o = options_of(c);
    const int pooling = (int)c->options.pooling;
    if (!o)
        return 1;
    if (o->struct_size != sizeof *o || pooling < 0 || pooling > 2)
        return 0;
    for (int64_t h = 0; o->group_sizes && h < n_heads; h++)
        if (o->group_sizes[h] < 1)
            return 0;
    return 1;
}

/* ---- heed_mrsha_scratch_bytes() ---- */

static int is_valid_scratch(const fuzz_case *c)
{
    const heed_tensor *q = &c->sizes.q, *k = &c->sizes.k, *v = &c->sizes.v;
    return !c->sizes.misses_bytes && are_valid_options(c, 0) && is_countable_shape(q) && is_countable_shape(k) &&
           is_countable_shape(v) && k->shape[0] == q->shape[0] && k->shape[3] == q->shape[3] && q->shape[3] > 0 &&
           v->shape[3] > 0 && has_shape(v, k->shape[0], k->shape[1], k->shape[2], v->shape[3]) &&
           fit_heads(q->shape[1], k->shape[1]);
}

static void check_scratch(const fuzz_case *c)
{
    const fuzz_sizes *s = &c->sizes;
    int64_t bytes = untouched, one_row = untouched, softmax = untouched;
    const heed_status status =
        heed_mrsha_scratch_bytes(&s->q, &s->k, &s->v, options_of(c), s->misses_bytes ? NULL : &bytes);
    if ((status == HEED_OK) != is_valid_scratch(c) || (status != HEED_OK && bytes != untouched))
        fail_case(c, "heed_mrsha_scratch_bytes", heed_status_text(status));
    if (status != HEED_OK)
        return;
    const heed_tensor q = shape_of(1, 1, 1, s->q.shape[3]), v = shape_of(1, 1, 1, s->v.shape[3]);
    if (heed_mrsha_scratch_bytes(&q, &q, &v, NULL, &one_row) != HEED_OK || bytes != one_row)
        fail_case(c, "scratch", "depends on more than D and Dv");
    if (heed_softmax_scratch_bytes(&q, &q, &v, NULL, &softmax) != HEED_OK || bytes < softmax)
        fail_case(c, "scratch", "less than fine heads need");
}

/* ---- heed_mrsha_state_bytes() and heed_mrsha_state_view() ---- */

/* What the view of a state in this memory must be; nothing is read there. */
static void check_view(const fuzz_case *c, cache_counts n)
{
    const fuzz_sizes *s = &c->sizes;
    char *memory = (char *)(uintptr_t)64;
    const heed_mrsha_state state =
        heed_mrsha_state_view(memory, options_of(c), s->b, s->hq, s->hkv, s->d, s->dv, s->max_tokens);
    const heed_tensor *const parts[] = {&state.keys, &state.values, &state.open_keys, &state.open_values};
    const int64_t sequence = (n.n_rows + 2 * n.n_caches) * (s->d + s->dv);
    uintptr_t next = (uintptr_t)memory + (uintptr_t)s->b * 8;
    for (int i = 0; i < 4; i++) {
        const int64_t n_rows = i < 2 ? n.n_rows : 2 * n.n_caches, channels = i % 2 == 0 ? s->d : s->dv;
        const heed_tensor *part = parts[i];
        if (part->dtype != HEED_FLOAT32 || !has_shape(part, s->b, 1, n_rows, channels) ||
            (uintptr_t)part->data != next || part->stride[0] != sequence || part->stride[2] != channels)
            fail_case(c, "a part of the view of a state", "is not where it should be");
        next += (uintptr_t)(n_rows * channels) * 4;
    }
    if (state.n_tokens != (void *)memory || state.max_tokens != s->max_tokens)
        fail_case(c, "the view of a state", "counts other tokens");
}

/* A state may be refused, or told, that is small enough but would not be with a cache of all tokens for each head. */
static int is_valid_state(const fuzz_case *c, cache_counts *n, int *may_fail)
{
    const fuzz_sizes *s = &c->sizes;
    const long double channels = (long double)s->d + (long double)s->dv;
    *may_fail = 0;
    if (s->misses_bytes || !fit_heads(s->hq, s->hkv) || s->b < 0 || s->d < 1 || s->dv < 1 || s->max_tokens < 0 ||
        (long double)s->d >= too_many || (long double)s->dv >= too_many || (long double)s->max_tokens >= too_many)
        return 0;
    if (!is_countable((long double)s->b, (long double)s->hq, 1.0L, channels) || !are_valid_options(c, s->hq))
        return 0;
    *n = count_caches(options_of(c), s->hq, s->hkv, s->max_tokens);
    *may_fail = !is_countable((long double)s->b, (long double)s->hq, (long double)s->max_tokens + 2.0L, channels);
    return is_countable((long double)s->b, 1.0L, (long double)n->n_rows + 2.0L * (long double)n->n_caches, channels);
}

static void check_state(const fuzz_case *c)
{
    const fuzz_sizes *s = &c->sizes;
    cache_counts n = {0, 0};
    int64_t bytes = untouched;
    int may_fail;
    const heed_status status = heed_mrsha_state_bytes(options_of(c), s->b, s->hq, s->hkv, s->d, s->dv, s->max_tokens,
                                                      s->misses_bytes ? NULL : &bytes);
    const int is_valid = is_valid_state(c, &n, &may_fail);
    if ((status == HEED_OK) != is_valid && !(is_valid && may_fail))
        fail_case(c, "heed_mrsha_state_bytes", heed_status_text(status));
    if (status != HEED_OK && bytes != untouched)
        fail_case(c, "heed_mrsha_state_bytes", "has changed bytes");
    if (status != HEED_OK)
        return;
    if (bytes != 8 * s->b + 4 * s->b * (n.n_rows + 2 * n.n_caches) * (s->d + s->dv))
        fail_case(c, "heed_mrsha_state_bytes", "tells another number");
    check_view(c, n);
}

/* ---- heed_mrsha_group_sizes() ---- */

static void check_preset(const fuzz_case *c)
{
    const fuzz_sizes *s = &c->sizes;
    const int64_t n = s->hq > MAX_HEADS ? MAX_HEADS : s->hq;
    const int is_valid = !s->misses_bytes && n >= 0 && (s->preset == 1 || s->preset == 2);
    int64_t sizes[MAX_HEADS + 1];
    for (int h = 0; h <= MAX_HEADS; h++)
        sizes[h] = untouched;
    const heed_status status =
        heed_mrsha_group_sizes((heed_mrsha_preset)(int)s->preset, n, s->misses_bytes ? NULL : sizes);
    if ((status == HEED_OK) != is_valid)
        fail_case(c, "heed_mrsha_group_sizes", heed_status_text(status));
    for (int64_t h = 0; h <= MAX_HEADS; h++) {
        const int64_t want = s->preset == 1 ? 1 + (2 * h >= n + n % 2) : (int64_t[]){1, 2, 4, 8}[h % 4];
        if (sizes[h] != (is_valid && h < n ? want : untouched))
            fail_case(c, "heed_mrsha_group_sizes", "writes another size");
    }
}

void check_numbers(const fuzz_case *c)
{
    check_scratch(c);
    check_state(c);
    check_preset(c);
}
