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

/* Scratch of one worker. */
int64_t heed_aft_worker_bytes(const aft_plan *plan);

/* The most that a plan needs with so many channels and factors. */
int64_t heed_aft_default_bytes(int64_t d, int64_t n_factors);

/* Runs the plan; the context holds enough scratch. */
void heed_aft_run(heed_context *context, const aft_plan *plan);

/* out = sigmoid(q) x */
void heed_aft_gate_run(heed_context *context, const heed_tensor *q, const heed_tensor *x, const heed_tensor *out);

#endif
