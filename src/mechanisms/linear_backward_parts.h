/* What the ways of going backward through linear attention share: a kv head's walk, its blocks of keys and of rows. */
#ifndef HEED_MECHANISMS_LINEAR_BACKWARD_PARTS_H
#define HEED_MECHANISMS_LINEAR_BACKWARD_PARTS_H

#include "mechanisms/linear_parts.h"

typedef struct backward_scratch {
    linear_scratch base;
    feature_tape keys, queries;
    linear_sums t, ds, kept; /* S^T [Dv][C] and z; dS [C][Dv] and dz; kept: [HEED_LINEAR_KEPT_SUMS] of S^T and z */
    float *ds_transposed;    /* [Dv][C] */
    float *raw;              /* p, then dF, or dG: [HEED_LINEAR_BLOCK][C], in panels */
    float *douts;            /* do / den [HEED_LINEAR_BLOCK][Dv], in panels */
    float *dv;               /* [HEED_LINEAR_BLOCK][Dv], in panels */
    float *more_tile;        /* as linear_scratch's tile */
    float *along, *inverse;  /* F.p and 1 / den of a block [HEED_LINEAR_BLOCK] */
    float *slopes;           /* e of a chunk [HEED_MAX_TILE_LANES] */
    float *den, *slope;      /* den and e [HEED_LINEAR_KEPT_ROWS], or of a block */
} backward_scratch;

/* What one task works on. */
typedef struct backward_walk {
    const linear_job *job;
    const linear_backward_plan *plan;
    backward_scratch s;
    linear_keys keys;
    int64_t first_row, n_rows; /* rows that count and see a key: [first_row, n_rows) */
    int64_t *transposed;       /* the head whose matrices the tape of queries holds; -1: none */
} backward_walk;

/* ---- keys ---- */

/* A block of keys with phi recorded. */
typedef struct key_block {
    heed_key_range range;
    linear_block keys;
} key_block;

key_block heed_backward_keys(const backward_walk *w, heed_key_range range);

/* S^T = that before the call; S^T += v^T G, z += G over a block, and over keys [range). */
void heed_backward_start_sums(const backward_walk *w);
void heed_backward_add_block(const backward_walk *w, const key_block *block);
void heed_backward_add_keys(const backward_walk *w, heed_key_range range);

/* ds_transposed, which blocks of keys start from, = dS^T */
void heed_backward_turn(const backward_walk *w);

/* dG = v dS^T + dz in s.raw, dv = G dS in s.dv: what the rows that see all of the block, and the state, give it. */
void heed_backward_start_block(const backward_walk *w, const key_block *block);

/* From dG and dv: the gradients of the keys, and of their map. */
void heed_backward_finish_block(const backward_walk *w, const key_block *block);

/* All that for keys [range), which every row taken so far sees and no other does. */
void heed_backward_finish_keys(const backward_walk *w, heed_key_range range);

/* ---- rows ---- */

typedef struct row_block {
    int64_t head, first;
    int n;
    feature_head phi;
    feature_rows q, dout;
    const float *f; /* phi(q), in panels */
} row_block;

/* Rows [first, first + n) of a query head, with phi recorded, or not. */
row_block heed_backward_rows(const backward_walk *w, int64_t head, int64_t first, int n, int record);

/* From S^T and z: p in s.raw, F.p in s.along, den. */
void heed_backward_start_rows(const backward_walk *w, const row_block *block, float *den);

/* s.inverse = 1 / den, or 0. */
void heed_backward_invert(const backward_walk *w, const float *den, int n);

/* From s.inverse and s.along: e, and s.raw = s.raw / den + e z. */
void heed_backward_slopes(const backward_walk *w, const row_block *block, float *slope);

/* dS += F^T do / den, dz += e F; s.douts = do / den. */
void heed_backward_add_rows(const backward_walk *w, const row_block *block, const float *den, const float *slope);

/* From dF in s.raw: dq, and what the rows give their map. */
void heed_backward_finish_rows(const backward_walk *w, const row_block *block);

/* ---- storing ---- */

/* A row of a gradient: added to where the call accumulates. */
void heed_backward_store_row(const backward_walk *w, float *row, const float *from, int64_t n);

/* Rows [begin, end) of a head, which nothing reaches. */
void heed_backward_store_zeros(const backward_walk *w, const heed_tensor *to, int64_t head, int64_t begin, int64_t end);

/* ---- linear_backward_causal.c ---- */

void heed_backward_causal(backward_walk *w);

#endif
