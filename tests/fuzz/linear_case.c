#include "linear_case.h"

#include <math.h>
#include <string.h>

static void choose_view(fuzz_case *c, int t, int64_t b, int64_t h, int64_t n, int64_t channels, byte_reader *r)
{
    c->tensor[t] = heed_tensor_bhnd(NULL, t == VISIBLE ? HEED_BOOL : HEED_FLOAT32, b, h, n, channels);
    choose_strides(&c->tensor[t], !is_written(c, t), r);
}

/* ---- Sizes ---- */

/* Most cases are small; some have more rows than a chunk or a block, some more channels than a panel. */
static void choose_sizes(fuzz_case *c, byte_reader *r)
{
    static const int64_t ratios[] = {1, 1, 2, 3, 9};
    const int64_t kind = take(r, 12);
    c->b = 1 + take(r, 3);
    c->hkv = 1 + take(r, 3);
    c->hq = c->hkv * ratios[take(r, 5)];
    c->nq = kind == 1 ? 25 + take(r, 180) : 1 + take(r, 6);
    c->nk = kind == 1 || kind == 2 ? 25 + take(r, 180) : 1 + take(r, 20);
    c->d = kind == 3 ? 60 + take(r, 20) : 1 + take(r, 20);
    c->dv = kind == 4 ? 60 + take(r, 80) : 1 + take(r, 20);
    c->n_features = kind == 4 || kind == 5 ? 60 + take(r, 80) : 1 + take(r, 20);
    c->n_recent = c->verb == BACKWARD ? 0 : take(r, 5) + (c->verb == STEP);
    c->nk = c->verb == STEP ? c->nq : c->nk;
    int64_t *const sizes[] = {&c->b, &c->hq, &c->nq, &c->nk};
    if (one_in(r, 16))
        *sizes[take(r, 4)] = 0;
}

/* ---- Maps ---- */

static const heed_tensor *choose_matrix(fuzz_case *c, int map, int l, int m, int64_t heads, int64_t in, int64_t out,
                                        byte_reader *r)
{
    const int t = MATRICES + (map * MAX_LAYERS + l) * N_MATRICES + m;
    choose_view(c, t, 1, heads, in, out, r);
    return &c->tensor[t];
}

/* Returns the width of what comes out, of a layer that is given as many as that, or `out` where its kind has a matrix. */
static int64_t choose_layer(fuzz_case *c, int map, int l, int64_t heads, int64_t in, int64_t out, byte_reader *r)
{
    heed_feature_layer *layer = &c->maps[map].layers[l];
    const int is_gated = layer->kind == HEED_FEATURE_GLU || layer->kind == HEED_FEATURE_GLU_LAST;
    const int64_t rank = is_gated && one_in(r, 2) ? 1 + take(r, 5) : 0;
    if (layer->kind == HEED_FEATURE_ELU1 || layer->kind == HEED_FEATURE_RELU)
        return in;
    const heed_tensor *first = choose_matrix(c, map, l, 0, heads, in, out, r);
    if (layer->kind == HEED_FEATURE_FAVOR || layer->kind == HEED_FEATURE_FAVOR_RELU)
        layer->omega = first;
    else
        layer->wf = first;
    if (rank > 0) {
        layer->a = choose_matrix(c, map, l, 2, heads, in, rank, r);
        layer->b = choose_matrix(c, map, l, 3, heads, rank, out, r);
    } else if (is_gated) {
        layer->wg = choose_matrix(c, map, l, 1, heads, in, out, r);
    }
    return out;
}

/* A map of `in` channels; `out` features, unless that is 0 and its layers say how many. Returns how many. */
static int64_t choose_map(fuzz_case *c, int map, int64_t heads, int64_t in, int64_t out, byte_reader *r)
{
    static const heed_feature_kind hidden[] = {HEED_FEATURE_GLU,  HEED_FEATURE_GLU,  HEED_FEATURE_SOFTPLUS,
                                               HEED_FEATURE_RELU, HEED_FEATURE_ELU1, HEED_FEATURE_FAVOR_RELU};
    fuzz_map *m = &c->maps[map];
    const int64_t n_layers = take(r, MAX_LAYERS + 1), weights = one_in(r, 3) ? 1 : heads;
    m->is_given = 1;
    m->map.n_layers = out > 0 && n_layers == 0 ? 1 : n_layers;
    for (int l = 0; l < m->map.n_layers; l++) {
        heed_feature_layer *layer = &m->layers[l];
        const int is_last = l == m->map.n_layers - 1;
        layer->kind = is_last ? (heed_feature_kind)(1 + take(r, 7)) : hidden[take(r, 6)];
        if (is_last && out > 0 && (layer->kind == HEED_FEATURE_ELU1 || layer->kind == HEED_FEATURE_RELU))
            layer->kind = HEED_FEATURE_SOFTPLUS;
        if (layer->kind == HEED_FEATURE_RELU || layer->kind >= HEED_FEATURE_FAVOR)
            layer->eps = one_in(r, 2) ? take_float(r, 0.0f, 0.5f) : 0.0f;
        in = choose_layer(c, map, l, weights, in, !is_last ? 1 + take(r, 24) : out > 0 ? out : c->n_features, r);
    }
    return in;
}

/* Gradients of a map, or of elu(x) + 1, which has no matrices. */
static void choose_gradients(fuzz_case *c, int map, byte_reader *r)
{
    const fuzz_map *of = &c->maps[map];
    fuzz_map *to = &c->maps[map + DKEYS];
    to->is_given = 1;
    to->map.n_layers = of->is_given ? of->map.n_layers : 1;
    to->layers[0].kind = HEED_FEATURE_ELU1;
    for (int l = 0; of->is_given && l < of->map.n_layers; l++) {
        const heed_feature_layer *from = &of->layers[l];
        heed_feature_layer *layer = &to->layers[l];
        const heed_tensor *list[N_MATRICES], *chosen[N_MATRICES] = {NULL};
        list_matrices(from, list);
        for (int m = 0; m < N_MATRICES; m++) {
            if (list[m] && !one_in(r, 4))
                chosen[m] =
                    choose_matrix(c, map + DKEYS, l, m, list[m]->shape[1], list[m]->shape[2], list[m]->shape[3], r);
        }
        *layer = (heed_feature_layer){.kind = from->kind, .wg = chosen[1], .a = chosen[2], .b = chosen[3]};
        *(from->omega ? &layer->omega : &layer->wf) = chosen[0];
    }
}

static void choose_maps(fuzz_case *c, byte_reader *r)
{
    int64_t n_features = c->d;
    c->d_keys = c->d;
    for (int m = 0; m < N_MAPS; m++) {
        c->maps[m].map = (heed_feature_map)HEED_FEATURE_MAP_INIT;
        c->maps[m].map.layers = c->maps[m].layers;
    }
    if (c->verb == APPLY || !one_in(r, 8))
        n_features = choose_map(c, KEYS, c->verb == APPLY ? c->hq : c->hkv, c->d, 0, r);
    if (c->verb != APPLY && one_in(r, 3)) {
        /* Queries may have channels of their own. */
        c->d = one_in(r, 2) ? 1 + take(r, 20) : c->d;
        choose_map(c, QUERIES, c->hq, c->d, n_features, r);
    }
    c->n_features = n_features;
    if (c->verb != BACKWARD)
        return;
    if (one_in(r, 2))
        choose_gradients(c, KEYS, r);
    if (c->maps[QUERIES].is_given && one_in(r, 2))
        choose_gradients(c, QUERIES, r);
}

/* ---- Tensors and options ---- */

static void choose_tensors(fuzz_case *c, byte_reader *r)
{
    const int64_t repeat = take(r, 4);
    choose_view(c, Q, c->b, c->hq, c->nq, c->d, r);
    choose_view(c, K, c->b, c->hkv, c->nk, c->d_keys, r);
    choose_view(c, V, c->b, c->hkv, c->nk, c->dv, r);
    choose_view(c, OUT, c->b, c->hq, c->nq, c->verb == APPLY ? c->n_features : c->dv, r);
    choose_view(c, SUMS, c->b, c->hkv, c->n_features, c->dv, r);
    choose_view(c, NORMS, c->b, c->hkv, 1, c->n_features, r);
    choose_view(c, RECENT_FEATURES, c->b, c->hkv, c->n_recent, c->n_features, r);
    choose_view(c, RECENT_VALUES, c->b, c->hkv, c->n_recent, c->dv, r);
    choose_view(c, VISIBLE, repeat & 1 ? 1 : c->b, repeat & 2 || c->hq != c->hkv ? 1 : c->hq, 1, c->nk, r);
    if (c->verb != BACKWARD)
        return;
    choose_view(c, LATER_SUMS, c->b, c->hkv, c->n_features, c->dv, r);
    choose_view(c, LATER_NORMS, c->b, c->hkv, 1, c->n_features, r);
    choose_view(c, DQ, c->b, c->hq, c->nq, c->d, r);
    choose_view(c, DK, c->b, c->hkv, c->nk, c->d_keys, r);
    choose_view(c, DV, c->b, c->hkv, c->nk, c->dv, r);
    choose_view(c, EARLIER_SUMS, c->b, c->hkv, c->n_features, c->dv, r);
    choose_view(c, EARLIER_NORMS, c->b, c->hkv, 1, c->n_features, r);
}

static void choose_options(fuzz_case *c, byte_reader *r)
{
    heed_linear_options *o = &c->options;
    *o = (heed_linear_options)HEED_LINEAR_OPTIONS_INIT;
    o->eps = one_in(r, 4) ? take_float(r, 0.0f, 1.0f) : o->eps;
    o->accumulate = c->verb == BACKWARD && one_in(r, 3);
    choose_mask(&c->mask, c->nq, c->nk, r);
    heed_mask *m = &c->mask.mask;
    m->window_left = one_in(r, 16) ? m->window_left : -1;
    m->visible = one_in(r, 3) ? &c->tensor[VISIBLE] : NULL;
    if (c->verb == STEP && !one_in(r, 8)) { /* as it must be */
        const int64_t *lengths = m->query_lengths;
        *m = (heed_mask)HEED_MASK_INIT;
        m->causal = 1;
        m->query_lengths = lengths;
    }
    c->has_mask = !one_in(r, 3);
    c->has_options = c->maps[KEYS].is_given || c->maps[QUERIES].is_given || !one_in(r, 4);
    o->mask = c->has_mask ? m : NULL;
    c->side = (heed_feature_side)take(r, 2);
    c->has_state = c->verb == STEP || one_in(r, 2);
    c->has_later = c->verb == BACKWARD && one_in(r, 3);
    c->has_earlier = c->verb == BACKWARD && one_in(r, 2);
    c->has_dq = !one_in(r, 4);
    c->has_dk = !one_in(r, 4);
    c->has_dv = !one_in(r, 4);
    for (int b = 0; b < MAX_BATCHES; b++)
        c->n_tokens_memory[b] = one_in(r, 3) ? take(r, 40) : 0;
    c->n_tokens = c->n_tokens_memory;
}

/* ---- What may be wrong ---- */

static void spoil_layer(fuzz_case *c, byte_reader *r)
{
    static const int kinds[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, -1};
    static const float numbers[] = {-1.0f, 0.5f, INFINITY, NAN};
    heed_feature_layer *layer = &c->maps[take(r, N_MAPS)].layers[take(r, MAX_LAYERS)];
    const heed_tensor **const parts[] = {&layer->wf, &layer->wg, &layer->a, &layer->b, &layer->omega};
    const int64_t part = take(r, 5);
    switch (take(r, 4)) {
    case 0:
        layer->kind = (heed_feature_kind)kinds[take(r, 10)];
        break;
    case 1:
        layer->eps = numbers[take(r, 4)];
        break;
    case 2:
        *parts[part] = NULL;
        break;
    default:
        *parts[part] = &c->tensor[MATRICES + take(r, N_TENSORS - MATRICES)];
    }
}

static void spoil_map(fuzz_case *c, int64_t number, byte_reader *r)
{
    fuzz_map *m = &c->maps[take(r, N_MAPS)];
    switch (take(r, 4)) {
    case 0:
        m->map.struct_size += (size_t)number;
        break;
    case 1:
        m->map.n_layers = number;
        break;
    case 2:
        m->map.layers = NULL;
        break;
    default:
        m->is_given = !m->is_given;
    }
}

static void spoil_call(fuzz_case *c, byte_reader *r)
{
    static const int64_t numbers[] = {-1, 0, 1, -2, 7, 9, INT64_MIN, INT64_MAX, ((int64_t)1 << 60) + 1};
    static const float eps[] = {-1.0f, INFINITY, NAN, 0.0f};
    const int64_t number = numbers[take(r, 9)];
    switch (take(r, 10)) {
    case 0:
    case 1:
        spoil_layer(c, r);
        break;
    case 2:
        spoil_map(c, number, r);
        break;
    case 3:
        c->n_tokens = one_in(r, 2) ? NULL : (int64_t *)(void *)((char *)c->n_tokens_memory + 4);
        break;
    case 4:
        c->n_tokens_memory[take(r, MAX_BATCHES)] = number;
        break;
    case 5:
        c->has_state = !c->has_state;
        break;
    case 6:
        c->options.struct_size += (size_t)number;
        break;
    case 7:
        c->options.eps = eps[take(r, 4)];
        break;
    case 8:
        c->side = (heed_feature_side)(int)number;
        break;
    default:
        spoil_mask(&c->mask, take(r, N_MASK_SPOILS), number, r);
    }
}

/* One of those that the call sees, or writes; Q where there is none. */
static int take_tensor(const fuzz_case *c, int must_be_written, byte_reader *r)
{
    int list[N_TENSORS] = {Q}, n = 0;
    for (int t = 0; t < N_TENSORS; t++)
        if (is_used(c, t) && (is_written(c, t) || !must_be_written))
            list[n++] = t;
    return list[n > 0 ? take(r, n) : 0];
}

/* Tensors that are not used have no memory, and are no hosts. */
static int share(fuzz_case *c, byte_reader *r)
{
    const int output = take_tensor(c, 1, r);
    return !is_written(c, output) || share_block(c->tensor, c->block, N_TENSORS, output, &c->shares_block, r);
}

static float size_of(int t) { return t == K ? 4.0f : t >= MATRICES ? 0.3f : 1.0f; }

/* Of a state whose tokens were none: all 0. */
static void clear_state(fuzz_case *c)
{
    for (int t = SUMS; t <= RECENT_VALUES; t++)
        if (is_used(c, t) && c->block[t].bytes > 0)
            memset(c->block[t].data, 0, c->block[t].bytes);
}

/* Numbers that are no ordinary ones become 1. */
static void make_ordinary(fuzz_case *c)
{
    static const float one = 1.0f;
    for (int t = 0; t < N_TENSORS; t++) {
        for (size_t i = 0; t != VISIBLE && i + 4 <= c->block[t].bytes; i += 4) {
            float value;
            memcpy(&value, c->block[t].data + i, sizeof value);
            if (!isfinite(value))
                memcpy(c->block[t].data + i, &one, sizeof one);
        }
    }
}

int make_case(fuzz_case *c, byte_reader reader)
{
    byte_reader *r = &reader;
    c->verb = (fuzz_verb)take(r, N_VERBS);
    const int64_t wrong = take(r, 8); /* 0 .. 3: nothing */
    const int is_clear = !one_in(r, 3), is_ordinary = !one_in(r, 3);
    c->threads = (int)take(r, 2);
    choose_sizes(c, r);
    choose_maps(c, r);
    choose_options(c, r);
    choose_tensors(c, r);
    if (wrong == 4 || wrong == 5)
        spoil_tensor(&c->tensor[take_tensor(c, 0, r)], r);
    if (wrong == 5 || wrong == 6)
        spoil_call(c, r);
    c->options.features = map_of(c, KEYS);
    c->options.query_features = map_of(c, QUERIES);
    for (int t = 0; t < N_TENSORS; t++)
        if (is_used(c, t) && !make_block(&c->tensor[t], &c->block[t], t == VISIBLE, size_of(t), (uint64_t)t, r))
            return 0;
    if (is_clear)
        clear_state(c);
    if (is_ordinary)
        make_ordinary(c);
    if (wrong == 7 && !share(c, r))
        return 0;
    if (wrong == 4)
        spoil_data(c->tensor, N_TENSORS, r);
    return 1;
}

const size_t case_bytes = sizeof(fuzz_case);

case_memory memory_of(const fuzz_case *c)
{
    return (case_memory){c->tensor, c->block, N_TENSORS, c->shares_block, c->threads};
}
