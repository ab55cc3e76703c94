/* Feature maps: the plan that the API fills, and phi for a block of rows. */
#ifndef HEED_MECHANISMS_FEATURES_H
#define HEED_MECHANISMS_FEATURES_H

#include "core/context.h"
#include "core/scratch.h"
#include "core/tensor.h"
#include "heed.h"

enum { HEED_MAX_FEATURE_LAYERS = 8 };

typedef struct feature_layer {
    heed_feature_kind kind;
    float eps;
    int64_t in, out, rank; /* rank 0: the gate is one matrix */
    heed_tensor w;         /* wf or omega; data NULL: none; stride 0 where heads share it, as in the next three */
    heed_tensor wg, a, b;  /* data NULL: none */
} feature_layer;

typedef struct feature_map {
    int n_layers;
    int64_t in, out;
    int64_t widest, widest_rank; /* of what layers write, and of low-rank gates */
    feature_layer layers[HEED_MAX_FEATURE_LAYERS];
} feature_map;

/* A matrix in panels: its columns c .. c + FEATURE_PANEL - 1 lie together, row by row without gaps, behind all columns
 * before them. So a matrix of any width is narrow where kernels walk down its columns. */
static inline int64_t heed_panel_width(int64_t n_columns, int64_t c)
{
    return n_columns - c < FEATURE_PANEL ? n_columns - c : FEATURE_PANEL;
}

/* Where the panel that starts with column c stands. */
static inline float *heed_panel(float *matrix, int64_t n_rows, int64_t c) { return matrix + n_rows * c; }

/* Rows of a block: `stride` apart, or in panels. Where they come from memory, these are asked for along with row t: row
 * t + ahead, and row t of `next`, which is worked on afterwards. */
typedef struct feature_rows {
    const float *x;
    int64_t stride;
    int n;
    int in_panels;
    int64_t ahead;
    const float *next; /* NULL: nothing is asked for */
    int64_t next_stride;
} feature_rows;

/* Rows of a tensor that has them. */
static inline feature_rows heed_feature_rows(const heed_tensor *x, int64_t b, int64_t h, int64_t first, int n)
{
    return (feature_rows){.x = (const float *)x->data + heed_offset(x, b, h, first), .stride = x->stride[2], .n = n};
}

static inline feature_rows heed_panel_rows(const float *x, int n)
{
    return (feature_rows){.x = x, .n = n, .in_panels = 1};
}

/* x with what is asked for. */
static inline feature_rows heed_rows_asking(feature_rows x, int64_t ahead, const float *next, int64_t next_stride)
{
    x.ahead = ahead;
    x.next = next;
    x.next_stride = next_stride;
    return x;
}

/* Columns c .. of such rows, up to the end of their panel; *stride apart. */
static inline const float *heed_feature_columns(feature_rows x, int64_t n_columns, int64_t c, int64_t *stride)
{
    *stride = x.in_panels ? heed_panel_width(n_columns, c) : x.stride;
    return x.in_panels ? x.x + x.n * c : x.x + c;
}

/* What phi needs besides its result, for blocks of so many rows. */
typedef struct feature_scratch {
    float *layers[2]; /* [n_rows][widest], in panels: what one layer hands to the next */
    float *gate;      /* [n_rows][widest], in panels */
    float *low;       /* [n_rows][widest rank] */
    float *shift;     /* [n_rows] */
    float *ones;      /* [n_rows] */
} feature_scratch;

/* What scratch is taken for: D, and of each layer in * out and rank * (in + out), which are no less than its widths, or
 * its width where it has no matrix. Beyond HEED_MAX_SCRATCH_CHANNELS, some number that is too. */
int64_t heed_feature_channels(const feature_map *map);

void heed_feature_scratch_carve(feature_scratch *s, heed_arena *arena, const feature_map *map, int64_t n_rows);

/* What the scratch holds all the time; once per task. */
void heed_feature_scratch_fill(const feature_scratch *s, int64_t n_rows);

/* One head of a map, ready to be applied. */
typedef struct feature_head {
    const heed_kernels *kernels;
    const feature_map *map;
    int64_t head;
    heed_feature_side side;
    float lower; /* keys under FAVOR+: the constant m */
} feature_head;

feature_head heed_feature_head(const heed_kernels *kernels, const feature_map *map, int64_t head,
                               heed_feature_side side);

/* What a layer leaves on its way: x w, or x itself; the gate's argument; x a. */
typedef struct feature_parts {
    float *before, *gate, *low;
} feature_parts;

/* y = one layer of x, in panels. before may be y. */
void heed_feature_layer_apply(const feature_head *phi, const feature_layer *layer, feature_rows x, feature_parts parts,
                              float *y, const feature_scratch *s);

/* y from a, the product of a layer with x: what happens element by element, and the gate. */
void heed_feature_activate(const feature_head *phi, const feature_layer *layer, feature_rows x, feature_parts parts,
                           const float *a, float *y, const feature_scratch *s);

/* D^-1/4 and 1 / sqrt(C) of a FAVOR+ layer. */
float heed_favor_factor(const feature_layer *layer);
float heed_favor_scale(const feature_layer *layer);

/* y = (exp(x' omega - |x'|^2 / 2 - m) + eps) / sqrt(C) of a FAVOR+ layer, in the place of x omega; in panels. */
void heed_favor(const feature_head *phi, const feature_layer *layer, float eps, feature_rows x, float *y,
                const feature_scratch *s);

/* y [x.n][map.out], in panels, = phi(x) */
void heed_features(const feature_head *phi, feature_rows x, float *y, const feature_scratch *s);

/* o [n_rows][n_out], in panels, = x w, or that added to it; x [n_rows][n_in], w's rows w_stride apart. */
void heed_feature_product(const heed_kernels *kernels, feature_rows x, int64_t n_in, const float *w, int64_t w_stride,
                          int64_t n_out, float *o, const float *ones, int add);

/* Row t of a matrix in panels = 0 */
void heed_feature_row_clear(float *features, int64_t n_features, int64_t n_rows, int64_t t);

/* Flops of phi for one row. */
double heed_feature_flops(const feature_map *map);

/* ---- feature_apply.c ---- */

typedef struct feature_apply_plan {
    heed_tensor x, out;
    feature_map map;
    heed_feature_side side;
} feature_apply_plan;

int64_t heed_feature_apply_bytes(const feature_map *map);
void heed_feature_apply_run(heed_context *context, const feature_apply_plan *plan);

#endif
