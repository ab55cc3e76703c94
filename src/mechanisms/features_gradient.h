/* Gradients through feature maps: phi once more with all that its layers hand on, and back again. */
#ifndef HEED_MECHANISMS_FEATURES_GRADIENT_H
#define HEED_MECHANISMS_FEATURES_GRADIENT_H

#include "mechanisms/features.h"

/* Where the gradients of a map's matrices are added up: the caller's tensors; data NULL: not wanted. */
typedef struct feature_gradients {
    heed_tensor w[HEED_MAX_FEATURE_LAYERS], wg[HEED_MAX_FEATURE_LAYERS];
    heed_tensor a[HEED_MAX_FEATURE_LAYERS], b[HEED_MAX_FEATURE_LAYERS];
} feature_gradients;

/* What one layer left behind, in panels [n rows][out], low [n rows][rank]. */
typedef struct feature_trace {
    float *before, *gate, *low, *y; /* x w, or x itself; the gate's argument; x a; what comes out */
} feature_trace;

typedef struct feature_tape {
    feature_trace layers[HEED_MAX_FEATURE_LAYERS];
    float *dx[2];      /* [n_rows][widest of in and out] */
    float *more;       /* likewise */
    float *low;        /* [n_rows][widest rank] */
    float *transposed; /* of all matrices, one behind the other */
    float *row_sums;   /* [n_rows] */
} feature_tape;

/* Carves room for blocks of so many rows. */
void heed_feature_tape_carve(feature_tape *tape, heed_arena *arena, const feature_map *map, int64_t n_rows);

/* Transposes the matrices of the head that phi is of. */
void heed_feature_tape_start(const feature_tape *tape, const feature_head *phi);

/* phi(x), recorded; returns y [x.n][map.out] in panels. */
float *heed_features_record(const feature_head *phi, feature_rows x, const feature_tape *tape,
                            const feature_scratch *s);

/* From dy = d loss / d phi(x), in panels, which is overwritten: the gradients of the matrices are added to; returns that
 * of x [x.n][map.in] in panels. x is what was recorded. */
float *heed_features_gradient(const feature_head *phi, feature_rows x, float *dy, const feature_tape *tape,
                              const feature_gradients *gradients, const feature_scratch *s);

/* o [n_rows][n_columns], rows `stride` apart, += x^T y: x [n][n_rows], y [n][n_columns] in panels. */
void heed_feature_outer(const heed_kernels *kernels, feature_rows x, int64_t n_rows, const float *y, int64_t n_columns,
                        float *o, int64_t stride, const float *ones);

#endif
