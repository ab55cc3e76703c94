#include "linear_problem.h"

#include "support/random.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- Maps ---- */

const char *map_name(map_kind kind)
{
    static const char *const names[N_MAP_KINDS] = {
        "no map",    "identity", "ELU1",  "RELU",          "SOFTPLUS",   "1 x GLU",    "2 x GLU",
        "3 x AOGLU", "8 x GLU",  "FAVOR", "FAVOR of ReLU", "GLU, FAVOR", "ELU1, RELU", "SOFTPLUS, ELU1, SOFTPLUS"};
    return names[kind];
}

float map_usual_eps(map_kind kind) { return kind == MAP_FAVOR_RELU ? 0.05f : 1e-3f; }

int map_has_width(map_kind kind)
{
    return kind != MAP_DEFAULT && kind != MAP_IDENTITY && kind != MAP_ELU1 && kind != MAP_RELU && kind != MAP_ELU_RELU;
}

static const heed_tensor *add_matrix(test_map *m, int64_t heads, int64_t in, int64_t out, float deviation,
                                     random_stream *random)
{
    const int n = m->n_tensors++;
    assert_true(n < MAP_MAX_TENSORS);
    const tensor_layout layout = (tensor_layout)(random_below(random, LAYOUT_PACKED));
    m->tensors[n] = tensor_create(&m->memory[n], HEED_FLOAT32, 1, heads, in, out, layout, GUARD_END);
    tensor_fill_normal(&m->tensors[n], random, deviation);
    return &m->tensors[n];
}

/* One unit of kind `kind`, with a gate of rank `rank` unless that is 0. */
static void add_unit(test_map *m, heed_feature_kind kind, int64_t heads, int64_t in, int64_t out, int64_t rank,
                     random_stream *random)
{
    heed_feature_layer *layer = &m->layers[m->map.n_layers++];
    const float deviation = 1.0f / sqrtf((float)in);
    layer->kind = kind;
    layer->wf = add_matrix(m, heads, in, out, deviation, random);
    if (kind == HEED_FEATURE_SOFTPLUS)
        return;
    if (rank == 0) {
        layer->wg = add_matrix(m, heads, in, out, deviation, random);
        return;
    }
    layer->a = add_matrix(m, heads, in, rank, deviation, random);
    layer->b = add_matrix(m, heads, rank, out, 1.0f / sqrtf((float)rank), random);
}

static void add_plain(test_map *m, heed_feature_kind kind, float eps)
{
    m->layers[m->map.n_layers].kind = kind;
    m->layers[m->map.n_layers++].eps = eps;
}

void map_create(test_map *m, map_kind kind, int64_t heads, int64_t channels, int64_t n_features, float eps,
                uint64_t stream)
{
    random_stream random = random_start(stream);
    const int64_t wide = channels + 1, rank = channels / 4 > 0 ? channels / 4 : 1;
    memset(m, 0, sizeof *m);
    m->map = (heed_feature_map)HEED_FEATURE_MAP_INIT;
    m->map.layers = m->layers;
    switch (kind) {
    case MAP_ELU1:
        add_plain(m, HEED_FEATURE_ELU1, 0.0f);
        break;
    case MAP_RELU:
        add_plain(m, HEED_FEATURE_RELU, eps);
        break;
    case MAP_ELU_RELU:
        add_plain(m, HEED_FEATURE_ELU1, 0.0f);
        add_plain(m, HEED_FEATURE_RELU, eps);
        break;
    case MAP_ELU_BETWEEN:
        add_unit(m, HEED_FEATURE_SOFTPLUS, heads, channels, wide, 0, &random);
        add_plain(m, HEED_FEATURE_ELU1, 0.0f);
        add_unit(m, HEED_FEATURE_SOFTPLUS, heads, wide, n_features, 0, &random);
        break;
    case MAP_SOFTPLUS:
        add_unit(m, HEED_FEATURE_SOFTPLUS, heads, channels, n_features, 0, &random);
        break;
    case MAP_GLU:
        add_unit(m, HEED_FEATURE_GLU_LAST, heads, channels, n_features, 0, &random);
        break;
    case MAP_GLU2:
        add_unit(m, HEED_FEATURE_GLU, heads, channels, wide, 0, &random);
        add_unit(m, HEED_FEATURE_GLU_LAST, heads, wide, n_features, 0, &random);
        break;
    case MAP_AOGLU3:
        add_unit(m, HEED_FEATURE_GLU, heads, channels, channels, rank, &random);
        add_unit(m, HEED_FEATURE_GLU, heads, channels, wide, rank, &random);
        add_unit(m, HEED_FEATURE_GLU_LAST, heads, wide, n_features, rank, &random);
        break;
    case MAP_GLU8:
        for (int l = 0; l < ORACLE_MAX_LAYERS - 1; l++)
            add_unit(m, HEED_FEATURE_GLU, heads, channels, channels, l % 2 ? rank : 0, &random);
        add_unit(m, HEED_FEATURE_GLU_LAST, heads, channels, n_features, 0, &random);
        break;
    case MAP_GLU_FAVOR:
        add_unit(m, HEED_FEATURE_GLU, heads, channels, wide, 0, &random);
        add_plain(m, HEED_FEATURE_FAVOR, eps);
        m->layers[1].omega = add_matrix(m, heads, wide, n_features, 1.0f, &random);
        break;
    case MAP_FAVOR:
    case MAP_FAVOR_RELU:
        add_plain(m, kind == MAP_FAVOR ? HEED_FEATURE_FAVOR : HEED_FEATURE_FAVOR_RELU, eps);
        m->layers[0].omega = add_matrix(m, heads, channels, n_features, 1.0f, &random);
        break;
    default: /* the identity */
        m->map.layers = NULL;
        break;
    }
}

void map_create_like(test_map *m, const test_map *like)
{
    memset(m, 0, sizeof *m);
    m->map = like->map;
    m->map.layers = like->map.layers ? m->layers : NULL;
    memcpy(m->layers, like->layers, sizeof m->layers);
    for (int n = 0; n < like->n_tensors; n++) {
        const int64_t *shape = like->tensors[n].shape;
        m->tensors[n] = tensor_create(&m->memory[n], HEED_FLOAT32, 1, shape[1], shape[2], shape[3],
                                      (tensor_layout)(n % LAYOUT_PACKED), GUARD_END);
    }
    m->n_tensors = like->n_tensors;
    for (int64_t l = 0; l < like->map.n_layers; l++) {
        const heed_tensor **parts[] = {&m->layers[l].wf, &m->layers[l].wg, &m->layers[l].a, &m->layers[l].b,
                                       &m->layers[l].omega};
        for (size_t n = 0; n < sizeof parts / sizeof parts[0]; n++)
            *parts[n] = *parts[n] ? m->tensors + (*parts[n] - like->tensors) : NULL;
    }
}

void map_destroy(test_map *m)
{
    for (int n = 0; n < m->n_tensors; n++) {
        assert_true(guarded_intact(&m->memory[n]));
        guarded_destroy(&m->memory[n]);
    }
    memset(m, 0, sizeof *m);
}

/* ---- Tensors ---- */

heed_tensor linear_tensor(linear_problem *p, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c,
                          linear_layout layout)
{
    enum { PAGE = 4096 / sizeof(float) };
    static const tensor_layout layouts[] = {LAYOUT_BHND, LAYOUT_BNHD, LAYOUT_PADDED};
    assert_true(p->n_tensors < LINEAR_MAX_TENSORS);
    guarded *memory = &p->memory[p->n_tensors++];
    if (layout != LINEAR_PAGES)
        return tensor_create(memory, dtype, b, h, n, c, layouts[layout], GUARD_END);
    const heed_tensor wide =
        tensor_create(memory, dtype, b, h, n, (c + 1 + PAGE - 1) / PAGE * PAGE, LAYOUT_BHND, GUARD_START);
    return tensor_slice(&wide, 3, 1, c);
}

heed_tensor linear_tensor_like(linear_problem *p, const heed_tensor *tensor)
{
    const int64_t *shape = tensor->shape;
    return linear_tensor(p, tensor->dtype, shape[0], shape[1], shape[2], shape[3], LINEAR_BHND);
}

heed_linear_state linear_new_state(linear_problem *p, int64_t n_recent, int64_t *n_tokens)
{
    const int64_t b = p->c.batch, h = p->c.kv_heads, c = p->n_features, d = p->c.value_channels;
    heed_linear_state state = {linear_tensor(p, HEED_FLOAT32, b, h, c, d, LINEAR_BHND),
                               linear_tensor(p, HEED_FLOAT32, b, h, 1, c, LINEAR_PADDED),
                               linear_tensor(p, HEED_FLOAT32, b, h, n_recent, c, LINEAR_BNHD),
                               linear_tensor(p, HEED_FLOAT32, b, h, n_recent, d, LINEAR_PADDED), n_tokens};
    tensor_fill(&state.sums, 0.0f);
    tensor_fill(&state.norms, 0.0f);
    tensor_fill(&state.recent_features, 0.0f);
    tensor_fill(&state.recent_values, 0.0f);
    memset(n_tokens, 0, LINEAR_MAX_BATCH * sizeof *n_tokens);
    return state;
}

void linear_copy_state(const heed_linear_state *to, const heed_linear_state *from)
{
    tensor_copy(&to->sums, &from->sums);
    tensor_copy(&to->norms, &from->norms);
    tensor_copy(&to->recent_features, &from->recent_features);
    tensor_copy(&to->recent_values, &from->recent_values);
    memcpy(to->n_tokens, from->n_tokens, (size_t)from->sums.shape[0] * sizeof *to->n_tokens);
}

const heed_linear_state *linear_state(const linear_problem *p) { return p->c.has_state ? &p->state : NULL; }

/* ---- Problems ---- */

/* Some 30 tokens before this call; of those in recent rows, half the rows have one. */
static void fill_state(linear_problem *p, random_stream *random)
{
    const heed_linear_state *s = &p->state;
    for (int64_t n = 0; n < p->c.batch * p->c.kv_heads * p->n_features; n++) {
        const int64_t c = n % p->n_features, h = n / p->n_features % p->c.kv_heads;
        const int64_t b = n / p->n_features / p->c.kv_heads;
        const float norm = random_uniform(random, 5.0f, 30.0f);
        *tensor_at(&s->norms, b, h, 0, c) = norm;
        for (int64_t d = 0; d < p->c.value_channels; d++)
            *tensor_at(&s->sums, b, h, c, d) = norm * random_uniform(random, -1.0f, 1.0f);
        p->n_tokens[b] = 30;
    }
    const heed_tensor features = tensor_slice(&s->recent_features, 2, 0, p->c.n_recent / 2);
    const heed_tensor values = tensor_slice(&s->recent_values, 2, 0, p->c.n_recent / 2);
    tensor_fill_uniform(&features, random, 0.0f, 2.0f);
    tensor_fill_uniform(&values, random, -1.0f, 1.0f);
}

static void fill_flags(linear_problem *p, int64_t heads, random_stream *random)
{
    p->visible =
        linear_tensor(p, HEED_BOOL, random_below(random, 2) ? p->c.batch : 1, heads, 1, p->c.n_keys, LINEAR_BHND);
    tensor_fill_flags(&p->visible, random, 9);
    p->mask.visible = &p->visible;
}

static void fill_mask(linear_problem *p, random_stream *random)
{
    const linear_case *c = &p->c;
    for (int64_t b = 0; b < c->batch; b++) {
        p->query_lengths[b] = c->n_queries - random_below(random, c->n_queries + 1) / 2;
        p->key_lengths[b] = c->n_keys - random_below(random, c->n_keys + 1) / 2;
        p->query_start[b] = 100 + random_below(random, 9) - 4;
        p->key_start[b] = 100;
    }
    p->mask.causal = c->causal;
    if (c->hiding == HIDE_LENGTHS || c->hiding == HIDE_MUCH)
        p->mask.query_lengths = p->query_lengths;
    if (c->hiding == HIDE_LENGTHS || c->hiding == HIDE_TOP_LEFT || c->hiding == HIDE_MUCH)
        p->mask.key_lengths = p->key_lengths;
    if (c->hiding == HIDE_TOP_LEFT)
        p->mask.alignment = HEED_ALIGN_TOP_LEFT;
    if (c->hiding == HIDE_POSITIONS || c->hiding == HIDE_MUCH) {
        p->mask.alignment = HEED_ALIGN_POSITIONS;
        p->mask.query_start = p->query_start;
        p->mask.key_start = p->key_start;
    }
    if (c->hiding == HIDE_WINDOW || c->hiding == HIDE_MUCH)
        p->mask.window_right = c->hiding == HIDE_MUCH ? 0 : 3;
    if (c->hiding == HIDE_FLAGS || c->hiding == HIDE_MUCH)
        fill_flags(p, 1, random);
    if (c->hiding == HIDE_FLAGS_OF_HEADS)
        fill_flags(p, c->q_heads == c->kv_heads ? c->q_heads : 1, random);
}

static void make_positive(const heed_tensor *x)
{
    for (int64_t n = 0; n < x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3]; n++) {
        const int64_t row = n / x->shape[3], token = row % x->shape[2], h = row / x->shape[2] % x->shape[1];
        float *value = tensor_at(x, row / x->shape[2] / x->shape[1], h, token, n % x->shape[3]);
        *value = fabsf(*value) + 0.01f;
    }
}

linear_problem *linear_create(const linear_case *c)
{
    linear_problem *p = calloc(1, sizeof *p);
    assert_non_null(p);
    assert_true(c->batch <= LINEAR_MAX_BATCH);
    random_stream random = random_start(c->stream);
    p->c = *c;
    p->n_features = map_has_width(c->map) && c->n_features > 0 ? c->n_features : c->channels;
    p->q = linear_tensor(p, HEED_FLOAT32, c->batch, c->q_heads, c->n_queries, c->channels, c->layout);
    p->k = linear_tensor(p, HEED_FLOAT32, c->batch, c->kv_heads, c->n_keys, c->channels, c->layout);
    p->v = linear_tensor(p, HEED_FLOAT32, c->batch, c->kv_heads, c->n_keys, c->value_channels, c->layout);
    p->out_at = p->n_tensors;
    p->out = linear_tensor(p, HEED_FLOAT32, c->batch, c->q_heads, c->n_queries, c->value_channels, c->layout);
    tensor_fill_normal(&p->q, &random, 1.0f);
    tensor_fill_normal(&p->k, &random, 1.0f);
    tensor_fill_uniform(&p->v, &random, -1.0f, 1.0f);
    if (c->map == MAP_IDENTITY) {
        make_positive(&p->q);
        make_positive(&p->k);
    }
    p->options = (heed_linear_options)HEED_LINEAR_OPTIONS_INIT;
    p->options.eps = c->eps;
    p->options.mask = &p->mask;
    p->mask = (heed_mask)HEED_MASK_INIT;
    fill_mask(p, &random);
    const int64_t kv_heads = c->one_head_for_all ? 1 : c->kv_heads, q_heads = c->one_head_for_all ? 1 : c->q_heads;
    map_create(&p->key_map, c->map, kv_heads, c->channels, p->n_features, c->map_eps, c->stream + 1);
    map_create(&p->query_map, c->map, q_heads, c->channels, p->n_features, c->map_eps, c->stream + 2);
    p->options.features = c->map == MAP_DEFAULT ? NULL : &p->key_map.map;
    p->options.query_features = c->has_query_map && c->map != MAP_DEFAULT ? &p->query_map.map : NULL;
    if (c->has_state) {
        p->state = linear_new_state(p, c->n_recent, p->n_tokens);
        fill_state(p, &random);
    }
    return p;
}

void linear_destroy(linear_problem *p)
{
    for (int n = 0; n < p->n_tensors; n++) {
        assert_true(guarded_intact(&p->memory[n]));
        guarded_destroy(&p->memory[n]);
    }
    map_destroy(&p->key_map);
    map_destroy(&p->query_map);
    free(p);
}

const char *linear_describe(const linear_problem *p)
{
    static char text[400];
    const linear_case *c = &p->c;
    snprintf(text, sizeof text,
             "%s, B %" PRId64 " Hq %" PRId64 " Hkv %" PRId64 " Nq %" PRId64 " Nk %" PRId64 " D %" PRId64 " Dv %" PRId64
             " C %" PRId64 "%s%s%s, hiding %d, layout %d, eps %g, map eps %g, recent %" PRId64 ", stream %" PRIu64,
             map_name(c->map), c->batch, c->q_heads, c->kv_heads, c->n_queries, c->n_keys, c->channels,
             c->value_channels, p->n_features, c->causal ? ", causal" : "", c->has_state ? ", state" : "",
             c->has_query_map ? ", map of queries" : "", (int)c->hiding, (int)c->layout, (double)c->eps,
             (double)c->map_eps, c->n_recent, c->stream);
    return text;
}
