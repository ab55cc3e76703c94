/* Gradients through the layers of a feature map. With a = x wf, s = x wg, f = a or softplus(a), g = sigmoid(s), y = f g:
 *
 *     da = dy g f'(a)      dwf += x^T da      dx  = da wf^T
 *     ds = dy f g (1 - g)  dwg += x^T ds      dx += ds wg^T
 *     with wg = a b, h = x a:  db += h^T ds,  dh = ds b^T,  da += x^T dh,  dx += dh a^T
 *
 * and for FAVOR+ with u = w_c.x', m a constant: du_c = dy_c (y_c without eps), dx = D^-1/4 sum_c du_c (w_c - x'). */
#include "mechanisms/features_gradient.h"

#include "core/sizes.h"
#include "core/tensor.h"

#include <math.h>
#include <string.h>

/* ---- scratch ---- */

/* By its shape: scratch is asked for before there is data. */
static int has_matrix(const heed_tensor *w) { return w->shape[3] > 0; }

static int64_t matrix_floats(const feature_layer *layer)
{
    int64_t floats = layer->rank * (layer->in + layer->out);
    floats += has_matrix(&layer->w) ? layer->in * layer->out : 0;
    return floats + (has_matrix(&layer->wg) ? layer->in * layer->out : 0);
}

void heed_feature_tape_carve(feature_tape *tape, heed_arena *arena, const feature_map *map, int64_t n_rows)
{
    int64_t widest = heed_larger(map->in, map->widest), floats = 0;
    for (int l = 0; l < map->n_layers; l++) {
        const feature_layer *layer = &map->layers[l];
        feature_trace *trace = &tape->layers[l];
        trace->before = heed_arena_take_floats(arena, n_rows * layer->out);
        trace->gate = heed_arena_take_floats(arena, layer->rank || has_matrix(&layer->wg) ? n_rows * layer->out : 0);
        trace->low = heed_arena_take_floats(arena, n_rows * layer->rank);
        trace->y = heed_arena_take_floats(arena, n_rows * layer->out);
        floats += matrix_floats(layer);
    }
    if (map->n_layers == 0)
        tape->layers[0].y = heed_arena_take_floats(arena, n_rows * map->out);
    for (int i = 0; i < 2; i++)
        tape->dx[i] = heed_arena_take_floats(arena, n_rows * widest);
    tape->more = heed_arena_take_floats(arena, n_rows * widest);
    tape->low = heed_arena_take_floats(arena, n_rows * map->widest_rank);
    tape->transposed = heed_arena_take_floats(arena, floats);
    tape->row_sums = heed_arena_take_floats(arena, n_rows);
}

static float *transpose_next(const feature_head *phi, const heed_tensor *w, float *t)
{
    if (!w->data)
        return t;
    phi->kernels->transpose(t, w->shape[2], heed_row(w, 0, phi->head, 0), w->stride[2], w->shape[2], w->shape[3]);
    return t + w->shape[2] * w->shape[3];
}

void heed_feature_tape_start(const feature_tape *tape, const feature_head *phi)
{
    float *t = tape->transposed;
    for (int l = 0; l < phi->map->n_layers; l++) {
        const feature_layer *layer = &phi->map->layers[l];
        t = transpose_next(phi, &layer->w, t);
        t = transpose_next(phi, &layer->wg, t);
        t = transpose_next(phi, &layer->a, t);
        t = transpose_next(phi, &layer->b, t);
    }
}

/* ---- forward, recorded ---- */

float *heed_features_record(const feature_head *phi, feature_rows x, const feature_tape *tape, const feature_scratch *s)
{
    const feature_map *map = phi->map;
    float *y = tape->layers[0].y;
    if (map->n_layers == 0)
        heed_features(phi, x, y, s);
    for (int l = 0; l < map->n_layers; l++) {
        const feature_trace *trace = &tape->layers[l];
        y = trace->y;
        heed_feature_layer_apply(phi, &map->layers[l], x, (feature_parts){trace->before, trace->gate, trace->low}, y,
                                 s);
        x = heed_panel_rows(y, x.n);
    }
    return y;
}

/* ---- back ---- */

void heed_feature_outer(const heed_kernels *kernels, feature_rows x, int64_t n_rows, const float *y, int64_t n_columns,
                        float *o, int64_t stride, const float *ones)
{
    for (int64_t r = 0; r < n_rows; r += FEATURE_PANEL) {
        int64_t x_stride, n = heed_panel_width(n_rows, r);
        const float *columns = heed_feature_columns(x, n_rows, r, &x_stride);
        for (int64_t c = 0; c < n_columns; c += FEATURE_PANEL) {
            int64_t width = heed_panel_width(n_columns, c);
            kernels->mix_rows(o + r * stride + c, stride, ones, columns, 1, x_stride, y + x.n * c, width, x.n, (int)n,
                              width, NULL);
        }
    }
}

/* Takes the next transposed matrix: dx = or += dy w^T, and dw += x^T dy. Returns the matrix behind it. */
static const float *through(const feature_head *phi, feature_rows x, const heed_tensor *w, const heed_tensor *dw,
                            const float *dy, const float *transposed, float *dx, int add, const feature_scratch *s)
{
    int64_t in = w->shape[2], out = w->shape[3];
    if (dw->data)
        heed_feature_outer(phi->kernels, x, in, dy, out, heed_row(dw, 0, phi->head, 0), dw->stride[2], s->ones);
    heed_feature_product(phi->kernels, heed_panel_rows(dy, x.n), out, transposed, in, in, dx, s->ones, add);
    return transposed + in * out;
}

/* dx -= D^-1/4 (sum of du) x' */
static void favor_norm(const feature_head *phi, const feature_layer *layer, feature_rows x, const float *du, float *dx,
                       const feature_tape *tape, const feature_scratch *s)
{
    float factor = heed_favor_factor(layer);
    for (int t = 0; t < x.n; t++)
        tape->row_sums[t] = 0.0f;
    for (int64_t c = 0; c < layer->out; c += FEATURE_PANEL) {
        int64_t width = heed_panel_width(layer->out, c);
        phi->kernels->dot_rows(tape->row_sums, du + x.n * c, width, s->ones, 0, x.n, width);
    }
    for (int64_t c = 0; c < layer->in; c += FEATURE_PANEL) {
        int64_t stride, width = heed_panel_width(layer->in, c);
        const float *rows = heed_feature_columns(x, layer->in, c, &stride);
        for (int t = 0; t < x.n; t++)
            phi->kernels->blend_rows(heed_panel(dx, x.n, c) + t * width, heed_panel(dx, x.n, c) + t * width, 1.0f,
                                     rows + t * stride, -factor * tape->row_sums[t], width);
    }
}

/* dy becomes the gradient of x w, or of x where the layer has no matrix. */
static void before_slope(const feature_head *phi, const feature_layer *layer, feature_rows x,
                         const feature_trace *trace, float *dy, const feature_tape *tape, const feature_scratch *s)
{
    const heed_kernels *kernels = phi->kernels;
    float factor = heed_favor_factor(layer);
    int64_t n = x.n * layer->out;
    switch (layer->kind) {
    case HEED_FEATURE_ELU1:
        kernels->elu1_slope_array(dy, trace->before, dy, n);
        break;
    case HEED_FEATURE_RELU:
        kernels->relu_slope_array(dy, trace->before, dy, 1.0f, n);
        break;
    case HEED_FEATURE_GLU:
        kernels->gate_array(dy, trace->gate, dy, n);
        break;
    case HEED_FEATURE_GLU_LAST:
        kernels->gate_array(dy, trace->gate, dy, n);
        kernels->gate_array(dy, trace->before, dy, n);
        break;
    case HEED_FEATURE_SOFTPLUS:
        kernels->gate_array(dy, trace->before, dy, n);
        break;
    case HEED_FEATURE_FAVOR:
        if (layer->eps == 0.0f) {
            kernels->favor_slope_array(dy, trace->y, dy, factor, n);
        } else { /* eps taken away again would leave little of small features */
            memcpy(tape->more, trace->before, (size_t)n * sizeof *tape->more);
            heed_favor(phi, layer, 0.0f, x, tape->more, s);
            kernels->favor_slope_array(dy, tape->more, dy, factor, n);
        }
        break;
    case HEED_FEATURE_FAVOR_RELU:
        kernels->relu_slope_array(dy, trace->before, dy, factor, n);
        break;
    }
}

/* One layer: the matrices at `transposed`; returns dx. */
static float *layer_gradient(const feature_head *phi, int l, feature_rows x, float *dy, const float *transposed,
                             const feature_tape *tape, const feature_gradients *g, const feature_scratch *s)
{
    const feature_layer *layer = &phi->map->layers[l];
    const feature_trace *trace = &tape->layers[l];
    int64_t n = x.n * layer->out;
    float *dx = dy == tape->dx[0] ? tape->dx[1] : tape->dx[0];
    int gated = layer->rank || has_matrix(&layer->wg);
    if (gated) {
        const float *f = trace->before;
        if (layer->kind == HEED_FEATURE_GLU_LAST) {
            phi->kernels->softplus_array(tape->more, f, n);
            f = tape->more;
        }
        phi->kernels->gate_slope_array(tape->more, trace->gate, f, dy, n);
    }
    before_slope(phi, layer, x, trace, dy, tape, s);
    if (!has_matrix(&layer->w))
        return dy;
    transposed = through(phi, x, &layer->w, &g->w[l], dy, transposed, dx, 0, s);
    if (layer->kind == HEED_FEATURE_FAVOR)
        favor_norm(phi, layer, x, dy, dx, tape, s);
    if (gated && layer->rank) {
        const float *b = transposed + layer->in * layer->rank;
        through(phi, heed_panel_rows(trace->low, x.n), &layer->b, &g->b[l], tape->more, b, tape->low, 0, s);
        through(phi, x, &layer->a, &g->a[l], tape->low, transposed, dx, 1, s);
    } else if (gated) {
        through(phi, x, &layer->wg, &g->wg[l], tape->more, transposed, dx, 1, s);
    }
    return dx;
}

float *heed_features_gradient(const feature_head *phi, feature_rows x, float *dy, const feature_tape *tape,
                              const feature_gradients *gradients, const feature_scratch *s)
{
    const float *transposed = tape->transposed;
    for (int l = 0; l < phi->map->n_layers; l++)
        transposed += matrix_floats(&phi->map->layers[l]);
    for (int l = phi->map->n_layers - 1; l >= 0; l--) {
        transposed -= matrix_floats(&phi->map->layers[l]);
        feature_rows in = l > 0 ? heed_panel_rows(tape->layers[l - 1].y, x.n) : x;
        dy = layer_gradient(phi, l, in, dy, transposed, tape, gradients, s);
    }
    return dy;
}
