/* A tile of query rows against blocks of keys: what softmax attention and its coarser relatives are made of. */
#ifndef HEED_MECHANISMS_SOFTMAX_TILE_H
#define HEED_MECHANISMS_SOFTMAX_TILE_H

#include "mechanisms/merge.h"
#include "mechanisms/softmax.h"

#include <stdatomic.h>

/* A tile of query rows with what each lane needs. Lanes without a row are computed with the others and never stored. */
typedef struct query_tile {
    int64_t b, kv_head;
    int n_rows, n_vectors;
    int by_rows; /* so few rows that queries and outputs stay rows: kernels/rows.c */
    int64_t head[HEED_MAX_TILE_LANES], query[HEED_MAX_TILE_LANES];
    heed_key_range sees[HEED_MAX_TILE_LANES];
    heed_key_range keys; /* what any lane sees, cut to one range of keys */
    int with_sinks;
    int counts[HEED_MAX_TILE_LANES]; /* the query lies within its length: only then it has a sink */
    float *queries, *outputs;        /* tiles [D], [Dv] */
    float m[HEED_MAX_TILE_LANES], l[HEED_MAX_TILE_LANES], rescale[HEED_MAX_TILE_LANES];
} query_tile;

/* Keys and values of a block as its tiles read them: the rows of its first key, and how far they are apart. `next`: what
 * the next block will be made of where these are other rows, or NULL; one tile after the other asks for a part of them. */
typedef struct key_block {
    const float *k, *v, *next_k, *next_v;
    int64_t begin, k_stride, v_stride, next_k_stride, next_v_stride, n_next;
    const float *score_shift; /* NULL, or what is added to the score of each key: [keys of the block] */
} key_block;

/* One worker's attention. */
typedef struct softmax_attention {
    const softmax_plan *plan;
    const heed_kernels *kernels;
    atomic_llong *exact_recomputations;
    float *scores;                   /* a tile [HEED_BLOCK_KEYS] */
    float *values;                   /* rows [HEED_BLOCK_KEYS][heed_copied_row(Dv)] */
    const struct key_source *source; /* NULL: keys as they lie */
} softmax_attention;

/* What stands in the place of keys as they lie. */
typedef struct key_source {
    key_block (*open)(const softmax_attention *a, const query_tile *tile, heed_key_range block);
    void (*begin)(const softmax_attention *a, query_tile *tile); /* what rows begin with, after their sinks; or NULL */
} key_source;

/* Floats from one copied row of keys or values to the next. */
int64_t heed_copied_row(int64_t n_channels);

/* n_vectors, by_rows and keys from the rows that have been filled in. */
void heed_tile_close(const heed_kernels *kernels, query_tile *t, int may_stay_rows);

/* Queries into the tile, times the scale. */
void heed_tile_load(const softmax_attention *a, const query_tile *t, const float *const *rows);

/* o = sum_j exp(s_j - m) v_j over each tile's keys, l = sum_j exp(s_j - m). The tiles have one kv head. */
void heed_tiles_attend(const softmax_attention *a, query_tile *tiles, int n_tiles, int careful);

/* out = o / l into the rows given, and their lse; after heed_tiles_attend(). */
void heed_tile_finish(const softmax_attention *a, query_tile *t, float *const *rows, log_sum *lse);

#endif
