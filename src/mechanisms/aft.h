/* The Attention-Free Transformer: the plan that the API fills, and what runs it. */
#ifndef HEED_MECHANISMS_AFT_H
#define HEED_MECHANISMS_AFT_H

#include "core/context.h"
#include "core/mask.h"
#include "heed.h"

typedef enum aft_form { AFT_FULL, AFT_LOCAL, AFT_SIMPLE, AFT_CONV } aft_form;

typedef struct aft_plan {
    aft_form form;
    heed_gate gate;
    heed_tensor q, k, v, out, lse;          /* lse.data is NULL where it is not wanted */
    heed_tensor w;                          /* data NULL: none; stride 0 where it repeats, as in the next three */
    heed_tensor query_factors, key_factors; /* data NULL: none */
    heed_tensor filter;                     /* AFT_CONV only */
    int64_t window;                         /* AFT_LOCAL only */
    int banded, nothing_outside;
    int64_t grid_width; /* 0: the filter has one dimension */
    heed_mask_plan mask;
} aft_plan;

/* Scratch of one worker. It follows from the form, the channels, the factors, the window and the filter. */
int64_t heed_aft_worker_bytes(const aft_plan *plan);

/* The most that a plan needs with so many channels and factors, taps of a filter of one dimension, and taps along each
 * dimension of a grid so wide. */
int64_t heed_aft_default_bytes(int64_t d, int64_t n_factors, int64_t n_taps, int64_t grid_width, int64_t grid_taps);

/* Runs the plan; the context holds enough scratch. */
void heed_aft_run(heed_context *context, const aft_plan *plan);

/* New tokens, and the state of those before them. */
typedef struct aft_step_plan {
    aft_plan tokens;  /* its bias and mask count keys from the far end of the first new token's window */
    heed_tensor sums; /* (B, H, AFT_STATE_ROWS, D) of the tokens that have left the window */
    heed_tensor keys; /* (B, H, window, D or 1): token t in row t % window */
    heed_tensor values;
    int64_t *n_tokens;      /* [B] */
    const int64_t *lengths; /* [B], the new tokens that count; NULL: all */
    int64_t window;         /* 0: AFT_SIMPLE */
} aft_step_plan;

int64_t heed_aft_step_bytes(const aft_step_plan *plan);
void heed_aft_step_run(heed_context *context, const aft_step_plan *plan);

/* filter = gamma (p - mean) / (std + 1e-5) + beta for each head */
void heed_aft_filter_run(heed_context *context, const heed_tensor *p, const float *gamma, const float *beta,
                         const heed_tensor *filter);

/* out = sigmoid(q) x */
void heed_aft_gate_run(heed_context *context, const heed_tensor *q, const heed_tensor *x, const heed_tensor *out);

#endif
