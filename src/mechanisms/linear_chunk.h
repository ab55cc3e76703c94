/* Chunks of causal rows: the keys that some of their rows see and others do not, and products of rows with these. */
#ifndef HEED_MECHANISMS_LINEAR_CHUNK_H
#define HEED_MECHANISMS_LINEAR_CHUNK_H

#include "kernels/kernels.h"
#include "mechanisms/linear_parts.h"

typedef struct linear_chunk {
    int64_t first; /* its rows: [first, first + n), at most HEED_LINEAR_CHUNK */
    int n;
    heed_key_range keys; /* behind those that every row sees, up to the last row's */
    float ends
        [HEED_MAX_TILE_LANES]; /* row t sees the first ends[t] of these, no fewer than rows before it; 0 from n on */
} linear_chunk;

/* The rows from `first` on, before `end`. */
linear_chunk heed_linear_chunk(const linear_plan *plan, const linear_keys *keys, int64_t first, int64_t end);

/* A tile of the chunk: its rows from `from` on, tile_lanes of them or as many as there are, with the keys they see. */
typedef struct linear_tile {
    const linear_job *job;
    const linear_chunk *chunk;
    int from, n;
    int n_keys, n_vectors;
    const float *ends; /* of these rows */
} linear_tile;

linear_tile heed_linear_tile(const linear_job *job, const linear_chunk *chunk, int from);

/* tile[j][r] = a_r.b_j for the rows a of the chunk and its keys b, where row r sees key j; the rest may be anything. */
void heed_linear_products(const linear_tile *t, feature_rows a, feature_rows b, int64_t n_columns, float *tile,
                          const linear_scratch *s);

/* A matrix that is added to: rows `stride` apart, or stride 0: in panels, as a single row is both ways. And rows of which multiples are added. */
typedef struct linear_mix {
    float *o;
    int64_t stride;
    feature_rows e;
    int64_t n_columns;
    int finite; /* all of e: 0 times it is 0 */
} linear_mix;

/* A mix of e into o; looks whether e is finite. */
linear_mix heed_linear_mix(const linear_job *job, float *o, int64_t stride, feature_rows e, int64_t n_columns);

/* Rows of the chunk take from its keys: o_r += sum_j tile[j][r] e_j; and keys from its rows: o_j += sum_r tile[j][r] e_r.
 * Where row r does not see key j the tile holds 0, and e has no effect. */
void heed_linear_mix_keys(const linear_tile *t, const linear_mix *mix, const float *tile, const linear_scratch *s);
void heed_linear_mix_rows(const linear_tile *t, const linear_mix *mix, const float *tile, const linear_scratch *s);

#endif
