/* The rules of heed.h about the arguments of linear attention and its feature maps, said a second time and in the plainest
 * way. */
#include "linear_case.h"

#include <math.h>

static const int64_t max_recent = 256;

const heed_linear_options *options_of(const fuzz_case *c) { return c->has_options ? &c->options : NULL; }

const heed_feature_map *map_of(const fuzz_case *c, int map)
{
    const int is_of_options = map <= QUERIES && c->verb != APPLY;
    if (!c->maps[map].is_given || (is_of_options && !c->has_options) || (c->verb == APPLY && map != KEYS) ||
        (map >= DKEYS && c->verb != BACKWARD))
        return NULL;
    return &c->maps[map].map;
}

void list_matrices(const heed_feature_layer *layer, const heed_tensor *list[N_MATRICES])
{
    list[0] = layer->omega ? layer->omega : layer->wf;
    list[1] = layer->wg;
    list[2] = layer->a;
    list[3] = layer->b;
}

/* ---- What the call sees ---- */

static int map_points_to(const heed_feature_map *map, const heed_tensor *tensor)
{
    for (int64_t l = 0; map && map->layers && l < map->n_layers && l < 9; l++) {
        const heed_feature_layer *x = &map->layers[l];
        if (x->wf == tensor || x->wg == tensor || x->a == tensor || x->b == tensor || x->omega == tensor)
            return 1;
    }
    return 0;
}

/* Before the maps have been made, what is asked here is whether a matrix is one of gradients. */
int is_written(const fuzz_case *c, int t)
{
    const int is_gradient = t >= DQ && t <= EARLIER_NORMS, is_state = t >= SUMS && t <= RECENT_VALUES;
    if (t >= MATRICES)
        return t >= MATRICES + DKEYS * MAX_LAYERS * N_MATRICES || map_points_to(map_of(c, DKEYS), &c->tensor[t]) ||
               map_points_to(map_of(c, DQUERIES), &c->tensor[t]);
    return c->verb == BACKWARD ? is_gradient : t == OUT || is_state;
}

int is_used(const fuzz_case *c, int t)
{
    const heed_linear_options *o = options_of(c);
    const int is_backward = c->verb == BACKWARD;
    if (t >= MATRICES) {
        int is_there = 0;
        for (int map = 0; map < N_MAPS; map++)
            is_there |= map_points_to(map_of(c, map), &c->tensor[t]);
        return is_there;
    }
    if (c->verb == APPLY)
        return t == Q || t == OUT;
    switch (t) {
    case VISIBLE:
        return o && o->mask && o->mask->visible;
    case SUMS:
    case NORMS:
    case RECENT_FEATURES:
    case RECENT_VALUES:
        return c->has_state;
    case LATER_SUMS:
    case LATER_NORMS:
        return is_backward && c->has_later;
    case EARLIER_SUMS:
    case EARLIER_NORMS:
        return is_backward && c->has_earlier;
    case DQ:
        return is_backward && c->has_dq;
    case DK:
        return is_backward && c->has_dk;
    case DV:
        return is_backward && c->has_dv;
    default:
        return 1;
    }
}

/* ---- Maps ---- */

static int is_valid_matrix(const heed_tensor *w, int64_t heads, int64_t in, int64_t out)
{
    return is_valid_view(w, HEED_FLOAT32) && w->shape[0] == 1 && (w->shape[1] == 1 || w->shape[1] == heads) &&
           w->shape[2] == in && w->shape[3] >= 1 && (out < 0 || w->shape[3] == out);
}

/* Returns the width of what comes out; -1: the layer is wrong. */
static int64_t width_after(const heed_feature_layer *x, int64_t heads, int64_t in)
{
    const int kind = (int)x->kind, is_glu = kind == HEED_FEATURE_GLU || kind == HEED_FEATURE_GLU_LAST;
    const int is_favor = kind == HEED_FEATURE_FAVOR || kind == HEED_FEATURE_FAVOR_RELU;
    const int has_wf = is_glu || kind == HEED_FEATURE_SOFTPLUS;
    if (kind < 1 || kind > 7 || !isfinite(x->eps) || x->eps < 0.0f)
        return -1;
    if (x->eps != 0.0f && kind != HEED_FEATURE_RELU && !is_favor)
        return -1;
    if (!x->wf != !has_wf || !x->omega != !is_favor || !x->a != !x->b || (x->wg && x->a))
        return -1;
    if ((x->wg || x->a) != is_glu)
        return -1;
    if (!has_wf && !is_favor)
        return in;
    const heed_tensor *main = has_wf ? x->wf : x->omega;
    if (!is_valid_matrix(main, heads, in, -1))
        return -1;
    const int64_t out = main->shape[3];
    if (x->wg && !is_valid_matrix(x->wg, heads, in, out))
        return -1;
    if (x->a && (!is_valid_matrix(x->a, heads, in, -1) || !is_valid_matrix(x->b, heads, x->a->shape[3], out)))
        return -1;
    return out;
}

static int is_well_formed(const heed_feature_map *map)
{
    return map->struct_size == sizeof *map && map->n_layers >= 0 && map->n_layers <= 8 &&
           (map->layers || map->n_layers == 0);
}

/* Returns the features; -1: the map is wrong. NULL: elu(x) + 1. */
static int64_t count_features(const heed_feature_map *map, const heed_tensor *x)
{
    int64_t width = x->shape[3];
    if (!map)
        return width;
    if (!is_well_formed(map))
        return -1;
    for (int64_t l = 0; l < map->n_layers && width >= 0; l++) {
        width = width_after(&map->layers[l], x->shape[1], width);
        if (map->layers[l].kind == HEED_FEATURE_FAVOR && l < map->n_layers - 1)
            return -1;
    }
    return width;
}

static int is_same_shape(const heed_tensor *a, const heed_tensor *b)
{
    return has_shape(a, b->shape[0], b->shape[1], b->shape[2], b->shape[3]);
}

/* Gradients of a map that is right; NULL for the map: elu(x) + 1. */
static int are_valid_gradients(const heed_feature_map *gradients, const heed_feature_map *map)
{
    static const heed_feature_layer elu1_layer = {.kind = HEED_FEATURE_ELU1};
    static const heed_feature_map elu1 = {sizeof elu1, &elu1_layer, 1};
    if (!gradients)
        return 1;
    if (!map)
        map = &elu1;
    if (!is_well_formed(gradients) || gradients->n_layers != map->n_layers)
        return 0;
    for (int64_t l = 0; l < map->n_layers; l++) {
        const heed_feature_layer *g = &gradients->layers[l], *of = &map->layers[l];
        const heed_tensor *const pairs[][2] = {
            {g->wf, of->wf}, {g->wg, of->wg}, {g->a, of->a}, {g->b, of->b}, {g->omega, of->omega}};
        if (g->kind != of->kind)
            return 0;
        for (int m = 0; m < 5; m++)
            if (pairs[m][0] &&
                (!pairs[m][1] || !is_valid_output(pairs[m][0]) || !is_same_shape(pairs[m][0], pairs[m][1])))
                return 0;
    }
    return 1;
}

/* ---- Options ---- */

static int is_valid_linear_mask(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K];
    const heed_mask *m = &c->mask.mask;
    if (!is_valid_mask(&c->mask, q, k) || m->window_left != -1)
        return 0;
    if (m->visible && (m->visible->shape[2] != 1 || (m->visible->shape[1] != 1 && q->shape[1] != k->shape[1])))
        return 0;
    return c->verb != STEP || is_valid_step_mask(&c->mask, q, k);
}

/* ---- The call ---- */

static int are_valid_inputs(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K], *v = &c->tensor[V];
    const heed_linear_options *o = options_of(c);
    if (!is_valid_view(q, HEED_FLOAT32) || !is_valid_view(k, HEED_FLOAT32) || !is_valid_view(v, HEED_FLOAT32))
        return 0;
    if (o && (o->struct_size != sizeof *o || !isfinite(o->eps) || o->eps < 0.0f))
        return 0;
    if (k->shape[0] != q->shape[0] || !has_shape(v, k->shape[0], k->shape[1], k->shape[2], v->shape[3]))
        return 0;
    if (q->shape[3] < 1 || k->shape[3] < 1 || v->shape[3] < 1)
        return 0;
    if (k->shape[1] == 0 ? q->shape[1] != 0 : q->shape[1] % k->shape[1] != 0)
        return 0;
    return !o || !o->mask || is_valid_linear_mask(c);
}

static int are_valid_sums(const fuzz_case *c, int sums, int norms, int64_t n_features)
{
    const int64_t b = c->tensor[K].shape[0], h = c->tensor[K].shape[1];
    return is_valid_output(&c->tensor[sums]) && has_shape(&c->tensor[sums], b, h, n_features, c->tensor[V].shape[3]) &&
           is_valid_output(&c->tensor[norms]) && has_shape(&c->tensor[norms], b, h, 1, n_features);
}

static int is_valid_state(const fuzz_case *c, int64_t n_features)
{
    const heed_tensor *features = &c->tensor[RECENT_FEATURES], *values = &c->tensor[RECENT_VALUES];
    const int64_t b = c->tensor[K].shape[0], h = c->tensor[K].shape[1], n = features->shape[2];
    if (!are_valid_sums(c, SUMS, NORMS, n_features) || !are_valid_tokens(c->n_tokens, b))
        return 0;
    if (n > max_recent || (c->verb == STEP && n < 1) || (c->verb == BACKWARD && n != 0))
        return 0;
    return (n == 0 && values->shape[2] == 0) ||
           (is_valid_output(features) && has_shape(features, b, h, n, n_features) && is_valid_output(values) &&
            has_shape(values, b, h, n, c->tensor[V].shape[3]));
}

static int is_valid_gradient(const fuzz_case *c, int gradient, int of)
{
    return !is_used(c, gradient) ||
           (is_valid_output(&c->tensor[gradient]) && is_same_shape(&c->tensor[gradient], &c->tensor[of]));
}

static int is_valid_backward(const fuzz_case *c, int64_t n_features)
{
    if (map_of(c, DQUERIES) && !map_of(c, QUERIES))
        return 0;
    return is_valid_gradient(c, DQ, Q) && is_valid_gradient(c, DK, K) && is_valid_gradient(c, DV, V) &&
           are_valid_gradients(map_of(c, DKEYS), map_of(c, KEYS)) &&
           (!map_of(c, DQUERIES) || are_valid_gradients(map_of(c, DQUERIES), map_of(c, QUERIES))) &&
           (!c->has_later || are_valid_sums(c, LATER_SUMS, LATER_NORMS, n_features)) &&
           (!c->has_earlier || are_valid_sums(c, EARLIER_SUMS, EARLIER_NORMS, n_features));
}

static int is_valid_attention(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K], *v = &c->tensor[V], *out = &c->tensor[OUT];
    const heed_feature_map *queries = map_of(c, QUERIES);
    if (!are_valid_inputs(c) || (!queries && k->shape[3] != q->shape[3]))
        return 0;
    const int64_t n_features = count_features(map_of(c, KEYS), k);
    if (n_features < 0 || (queries && count_features(queries, q) != n_features))
        return 0;
    if (!(c->verb == BACKWARD ? is_valid_view(out, HEED_FLOAT32) : is_valid_output(out)) ||
        !has_shape(out, q->shape[0], q->shape[1], q->shape[2], v->shape[3]))
        return 0;
    if (c->verb == STEP && (!c->has_state || k->shape[2] != q->shape[2]))
        return 0;
    return (!c->has_state || is_valid_state(c, n_features)) &&
           (c->verb != BACKWARD || is_valid_backward(c, n_features));
}

static int is_valid_apply(const fuzz_case *c)
{
    const heed_tensor *x = &c->tensor[Q], *out = &c->tensor[OUT];
    const int side = (int)c->side;
    if (!map_of(c, KEYS) || side < 0 || side > 1 || !is_valid_view(x, HEED_FLOAT32) || x->shape[3] < 1 ||
        !is_valid_output(out))
        return 0;
    const int64_t n_features = count_features(map_of(c, KEYS), x);
    return n_features >= 0 && has_shape(out, x->shape[0], x->shape[1], x->shape[2], n_features);
}

int is_valid(const fuzz_case *c)
{
    return (c->verb == APPLY ? is_valid_apply(c) : is_valid_attention(c)) && are_outputs_apart(c);
}
