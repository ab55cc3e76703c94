/* Feature maps phi, layer by layer over a block of rows:
 *
 *     softplus(x wf), (x wf) sigmoid(x wg), softplus(x wf) sigmoid(x wg), wg = a b where the gate has a low rank
 *                                   ("Linear Self-Attention with trainable feed-forward kernels", table 1)
 *     elu(x) + 1                    ("Transformers are RNNs", equation 7)
 *     (exp(w_c.x' - |x'|^2 / 2 - m) + eps) / sqrt(C), x' = x D^-1/4
 *                                   ("Rethinking Attention with Performers", lemma 1)
 *
 * Each layer is a product, which starts from the rows in place, and then what happens element by element, over the whole
 * block while it is in cache: in one loop with the product the register tile would spill. */
#include "mechanisms/features.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

/* ---- scratch ---- */

int64_t heed_feature_channels(const feature_map *map)
{
    int64_t n = map->in;
    for (int l = 0; l < map->n_layers; l++) {
        const feature_layer *layer = &map->layers[l];
        n = heed_add_scratch_channels(n, layer->w.shape[3] > 0 ? layer->in : 1, layer->out);
        n = heed_add_scratch_channels(n, layer->rank, layer->in);
        n = heed_add_scratch_channels(n, layer->rank, layer->out);
    }
    return n;
}

void heed_feature_scratch_carve(feature_scratch *s, heed_arena *arena, const feature_map *map, int64_t n_rows)
{
    for (int i = 0; i < 2; i++)
        s->layers[i] = heed_arena_take_floats(arena, n_rows * map->widest);
    s->gate = heed_arena_take_floats(arena, n_rows * map->widest);
    s->low = heed_arena_take_floats(arena, n_rows * map->widest_rank);
    s->shift = heed_arena_take_floats(arena, n_rows);
    s->ones = heed_arena_take_floats(arena, n_rows);
}

void heed_feature_scratch_fill(const feature_scratch *s, int64_t n_rows)
{
    for (int64_t i = 0; i < n_rows; i++)
        s->ones[i] = 1.0f;
}

/* ---- FAVOR+ ---- */

float heed_favor_factor(const feature_layer *layer) { return (float)(1.0 / sqrt(sqrt((double)layer->in))); }

float heed_favor_scale(const feature_layer *layer) { return (float)(1.0 / sqrt((double)layer->out)); }

/* m = max(0, max_c |w_c|^2 / 2 - 60): no exponent of a key exceeds |w_c|^2 / 2 - m, whatever the key. */
static float favor_constant(const feature_layer *layer, int64_t head)
{
    double largest = 0.0;
    for (int64_t c = 0; c < layer->out; c += FEATURE_PANEL) {
        double norm[FEATURE_PANEL] = {0};
        int64_t width = heed_panel_width(layer->out, c);
        for (int64_t r = 0; r < layer->in; r++) {
            const float *row = heed_row(&layer->w, 0, head, r) + c;
            for (int64_t i = 0; i < width; i++)
                norm[i] += (double)row[i] * (double)row[i];
        }
        for (int64_t i = 0; i < width; i++)
            largest = norm[i] > largest ? norm[i] : largest;
    }
    return (float)(largest / 2.0 > 60.0 ? largest / 2.0 - 60.0 : 0.0);
}

void heed_favor(const feature_head *phi, const feature_layer *layer, float eps, feature_rows x, float *y,
                const feature_scratch *s)
{
    float factor = heed_favor_factor(layer), scale = heed_favor_scale(layer);
    const float *shift = NULL;
    if (phi->side == HEED_FEATURES_OF_KEYS) {
        for (int t = 0; t < x.n; t++)
            s->shift[t] = 0.0f;
        for (int64_t c = 0; c < layer->in; c += FEATURE_PANEL) {
            int64_t stride;
            const float *rows = heed_feature_columns(x, layer->in, c, &stride);
            phi->kernels->dot_rows(s->shift, rows, stride, rows, stride, x.n, heed_panel_width(layer->in, c));
        }
        for (int t = 0; t < x.n; t++)
            s->shift[t] = s->shift[t] * (0.5f * factor * factor) + phi->lower;
        shift = s->shift;
    }
    phi->kernels->favor_rows(y, (int64_t)x.n * FEATURE_PANEL, shift, factor, eps, scale, x.n, layer->out);
}

/* ---- layers ---- */

void heed_feature_row_clear(float *features, int64_t n_features, int64_t n_rows, int64_t t)
{
    for (int64_t c = 0; c < n_features; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(n_features, c);
        memset(heed_panel(features, n_rows, c) + t * width, 0, (size_t)width * sizeof *features);
    }
}

static void copy_to_panels(feature_rows x, int64_t n_columns, float *y)
{
    if (x.in_panels) {
        memcpy(y, x.x, (size_t)(x.n * n_columns) * sizeof *y);
        return;
    }
    for (int64_t c = 0; c < n_columns; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(n_columns, c);
        float *panel = heed_panel(y, x.n, c);
        for (int64_t t = 0; t < x.n; t++)
            memcpy(panel + t * width, x.x + t * x.stride + c, (size_t)width * sizeof *panel);
    }
}

void heed_feature_product(const heed_kernels *kernels, feature_rows x, int64_t n_in, const float *w, int64_t w_stride,
                          int64_t n_out, float *o, const float *ones, int add)
{
    for (int64_t c = 0; c < n_out; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(n_out, c);
        for (int64_t r = 0; r < n_in; r += FEATURE_PANEL) {
            int64_t stride;
            const float *rows = heed_feature_columns(x, n_in, r, &stride);
            heed_ahead ahead = {rows, x.next ? x.next + r : NULL, stride, x.next_stride, x.ahead};
            kernels->mix_rows(heed_panel(o, x.n, c), width, add || r > 0 ? ones : NULL, rows, stride, 1,
                              w + r * w_stride + c, w_stride, (int)heed_panel_width(n_in, r), x.n, width,
                              x.next && c == 0 ? &ahead : NULL);
        }
    }
}

/* x times a matrix of a layer, for the head that phi is of */
static void multiply(const feature_head *phi, feature_rows x, const heed_tensor *w, float *y, const feature_scratch *s)
{
    heed_feature_product(phi->kernels, x, w->shape[2], heed_row(w, 0, phi->head, 0), w->stride[2], w->shape[3], y,
                         s->ones, 0);
}

/* The gate's argument */
static void gate_argument(const feature_head *phi, const feature_layer *layer, feature_rows x, feature_parts parts,
                          const feature_scratch *s)
{
    if (layer->rank) {
        multiply(phi, x, &layer->a, parts.low, s);
        multiply(phi, heed_panel_rows(parts.low, x.n), &layer->b, parts.gate, s);
    } else {
        multiply(phi, x, &layer->wg, parts.gate, s);
    }
}

void heed_feature_activate(const feature_head *phi, const feature_layer *layer, feature_rows x, feature_parts parts,
                           const float *a, float *y, const feature_scratch *s)
{
    const heed_kernels *kernels = phi->kernels;
    int64_t n = x.n * layer->out;
    switch (layer->kind) {
    case HEED_FEATURE_ELU1:
        kernels->elu1_array(y, a, n);
        break;
    case HEED_FEATURE_RELU:
        kernels->relu_array(y, a, 1.0f, layer->eps, n);
        break;
    case HEED_FEATURE_SOFTPLUS:
        kernels->softplus_array(y, a, n);
        break;
    case HEED_FEATURE_GLU:
        gate_argument(phi, layer, x, parts, s);
        kernels->gate_array(y, parts.gate, a, n);
        break;
    case HEED_FEATURE_GLU_LAST:
        gate_argument(phi, layer, x, parts, s);
        kernels->softplus_array(y, a, n);
        kernels->gate_array(y, parts.gate, y, n);
        break;
    case HEED_FEATURE_FAVOR:
        if (y != a)
            memcpy(y, a, (size_t)n * sizeof *y);
        heed_favor(phi, layer, layer->eps, x, y, s);
        break;
    case HEED_FEATURE_FAVOR_RELU:
        kernels->relu_array(y, a, heed_favor_factor(layer), layer->eps, n);
        break;
    }
}

void heed_feature_layer_apply(const feature_head *phi, const feature_layer *layer, feature_rows x, feature_parts parts,
                              float *y, const feature_scratch *s)
{
    const float *a = parts.before;
    if (layer->w.data)
        multiply(phi, x, &layer->w, parts.before, s);
    else if (parts.before == y && (x.in_panels || x.n == 1))
        a = x.x; /* as panels have it */
    else
        copy_to_panels(x, layer->out, parts.before);
    heed_feature_activate(phi, layer, x, parts, a, y, s);
}

feature_head heed_feature_head(const heed_kernels *kernels, const feature_map *map, int64_t head,
                               heed_feature_side side)
{
    feature_head phi = {kernels, map, head, side, 0.0f};
    if (side == HEED_FEATURES_OF_KEYS && map->n_layers > 0) {
        const feature_layer *last = &map->layers[map->n_layers - 1];
        phi.lower = last->kind == HEED_FEATURE_FAVOR ? favor_constant(last, head) : 0.0f;
    }
    return phi;
}

void heed_features(const feature_head *phi, feature_rows x, float *y, const feature_scratch *s)
{
    const feature_map *map = phi->map;
    if (map->n_layers == 0)
        copy_to_panels(x, map->out, y);
    for (int l = 0; l < map->n_layers; l++) {
        float *to = l == map->n_layers - 1 ? y : s->layers[l % 2];
        heed_feature_layer_apply(phi, &map->layers[l], x, (feature_parts){to, s->gate, s->low}, to, s);
        x = heed_panel_rows(to, x.n);
    }
}

double heed_feature_flops(const feature_map *map)
{
    double flops = EXP_FLOPS * (double)map->out;
    for (int l = 0; l < map->n_layers; l++) {
        const feature_layer *layer = &map->layers[l];
        double in = (double)layer->in, out = (double)layer->out, rank = (double)layer->rank;
        flops += layer->w.data ? 2.0 * in * out : 0.0;
        flops += layer->wg.data ? 2.0 * in * out : 2.0 * rank * (in + out);
    }
    return flops;
}
