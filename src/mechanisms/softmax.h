/* Softmax attention: the plan that the API fills, and what runs it. */
#ifndef HEED_MECHANISMS_SOFTMAX_H
#define HEED_MECHANISMS_SOFTMAX_H

#include "core/context.h"
#include "core/mask.h"
#include "heed.h"
#include "mechanisms/groups.h"

typedef struct softmax_plan {
    heed_tensor q, k, v, out, lse; /* lse.data is NULL where it is not wanted */
    float scale, softcap;          /* softcap 0: none */
    heed_tensor bias;              /* data NULL: none; stride 0 where it repeats */
    const float *slopes, *sinks;   /* [Hq] or NULL */
    heed_mask_plan mask;
    const heed_resolutions *only_fine; /* NULL, or other heads are not asked for: their rows may be written, or not */
} softmax_plan;

/* Scratch of one worker for D query and Dv value channels. */
int64_t heed_softmax_worker_bytes(int64_t d, int64_t dv);

/* Runs the plan; the context holds enough scratch. */
void heed_softmax_run(heed_context *context, const softmax_plan *plan);

/* The same as a part of another mechanism, which has started the report. */
void heed_softmax_add(heed_context *context, const softmax_plan *plan);

#endif
