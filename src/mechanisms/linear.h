/* Linear attention: the plan that the API fills, and what runs it. */
#ifndef HEED_MECHANISMS_LINEAR_H
#define HEED_MECHANISMS_LINEAR_H

#include "core/context.h"
#include "core/mask.h"
#include "heed.h"
#include "mechanisms/features_gradient.h"

typedef struct linear_plan {
    heed_tensor q, k, v, out;
    feature_map key_map, query_map;
    int shared_map; /* the query map is that of the keys, of the kv head */
    float eps;
    heed_mask_plan mask;
    int has_state;
    heed_linear_state state;
} linear_plan;

/* Scratch of one worker, enough for forward and step. It follows from D, Dv, the features, and the widths of the layers. */
int64_t heed_linear_worker_bytes(const linear_plan *plan);

/* Run the plan; the context holds enough scratch. */
void heed_linear_run(heed_context *context, const linear_plan *plan);
void heed_linear_step_run(heed_context *context, const linear_plan *plan);

typedef struct linear_backward_plan {
    linear_plan forward;                  /* its state is that before the call, its out is not looked at */
    heed_tensor dout, dq, dk, dv;         /* data NULL: not wanted */
    feature_gradients key_map, query_map; /* of one map for both: in key_map */
    int has_dstate_out, has_dstate_in;
    heed_linear_state dstate_out, dstate_in;
    int accumulate;
    int serial; /* heads share a matrix whose gradient is wanted: their sum has an order */
} linear_backward_plan;

int64_t heed_linear_backward_worker_bytes(const linear_backward_plan *plan);
void heed_linear_backward_run(heed_context *context, const linear_backward_plan *plan);

/* The most that forward needs with sizes up to `widest`, and backward with sizes up to `widest_backward` and n_layers. */
int64_t heed_linear_default_bytes(int64_t widest, int64_t widest_backward, int n_layers);

/* out = a + b; each head's recent rows are taken in. */
void heed_linear_merge_run(heed_context *context, const heed_linear_state *a, const heed_linear_state *b,
                           const heed_linear_state *out);

#endif
