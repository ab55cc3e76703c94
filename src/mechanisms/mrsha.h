/* Multiresolution-head attention: the plans that the API fills, and what runs them. */
#ifndef HEED_MECHANISMS_MRSHA_H
#define HEED_MECHANISMS_MRSHA_H

#include "mechanisms/groups.h"
#include "mechanisms/softmax.h"

/* Which query heads go together. */
typedef struct mrsha_heads {
    heed_resolutions resolutions;
    int64_t per_kv_head;
    heed_pooling pooling;
} mrsha_heads;

typedef struct mrsha_plan {
    softmax_plan coarse; /* its mask: lengths, and right = 0 where causal */
    softmax_plan fine;   /* the same tensors with options of their own */
    mrsha_heads heads;
    heed_mrsha_mode mode;
    heed_tensor weights; /* a row for each head; data NULL: none */
    int interpolates;
    int64_t grid_height, grid_width, class_tokens;
} mrsha_plan;

/* Query heads of one kv head that share its pooled keys and values. */
typedef struct mrsha_sharers {
    int64_t kv_head, size;
    int64_t n_heads; /* 0 where the head that was asked for is not the first of them */
} mrsha_sharers;

mrsha_sharers heed_mrsha_sharers(const mrsha_heads *heads, int64_t head);

/* Scratch of one worker for D query and Dv value channels, of a step too. */
int64_t heed_mrsha_worker_bytes(int64_t d, int64_t dv);

/* Runs the plan; the context holds enough scratch. */
void heed_mrsha_run(heed_context *context, const mrsha_plan *plan);

/* A step: causal VALUE. The plan's keys and values are the new tokens. */
void heed_mrsha_step_run(heed_context *context, const mrsha_plan *plan, const heed_mrsha_state *state);

#endif
