/* Linear attention: the plan that the API fills, and what runs it. */
#ifndef HEED_MECHANISMS_LINEAR_H
#define HEED_MECHANISMS_LINEAR_H

#include "core/context.h"
#include "core/mask.h"
#include "heed.h"
#include "mechanisms/features.h"

typedef struct linear_plan {
    heed_tensor q, k, v, out;
    feature_map key_map, query_map;
    int shared_map; /* the query map is that of the keys, of the kv head */
    float eps;
    heed_mask_plan mask;
    int has_state;
    heed_linear_state state;
} linear_plan;

/* Scratch of one worker, enough for forward and step. It follows from Dv, the features, and the widths of the layers. */
int64_t heed_linear_worker_bytes(const linear_plan *plan);

/* Run the plan; the context holds enough scratch. */
void heed_linear_run(heed_context *context, const linear_plan *plan);
void heed_linear_step_run(heed_context *context, const linear_plan *plan);

/* out = a + b; each head's recent rows are taken in. */
void heed_linear_merge_run(heed_context *context, const heed_linear_state *a, const heed_linear_state *b,
                           const heed_linear_state *out);

#endif
