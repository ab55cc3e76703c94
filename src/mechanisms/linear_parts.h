/* What the ways of computing linear attention share: the job, blocks of keys, and the sums S and z. */
#ifndef HEED_MECHANISMS_LINEAR_PARTS_H
#define HEED_MECHANISMS_LINEAR_PARTS_H

#include "core/parallel.h"
#include "mechanisms/linear.h"

/* S [C][Dv], in panels, and z [C] */
typedef struct linear_sums {
    float *s, *z;
} linear_sums;

typedef struct linear_job {
    const linear_plan *plan;
    const heed_kernels *kernels;
    const heed_context *context;
    int64_t n_features, n_values; /* C, Dv */
    int64_t group;                /* query heads of a kv head */
    int64_t b, kv_head;           /* where threads share a head: which one, */
    int64_t first_part, parts;    /* parts of its keys, and the first one of those that are under way */
} linear_job;

linear_job heed_linear_job(const heed_context *context, const linear_plan *plan);

/* ---- scratch ---- */

typedef struct linear_scratch {
    linear_sums total, part;
    float *features;       /* of keys [HEED_LINEAR_BLOCK][C], in panels */
    float *query_features; /* [HEED_LINEAR_BLOCK][C], in panels */
    float *keys, *values;  /* [HEED_LINEAR_BLOCK][D], [..][Dv]: where hidden ones must not be met */
    float *den;            /* [HEED_LINEAR_BLOCK] */
    float *ones;           /* [FEATURE_PANEL] */
    float *tile, *more;    /* products of a chunk [HEED_LINEAR_CHUNK][HEED_MAX_TILE_LANES]; those of one panel */
    float *packed;         /* rows [FEATURE_PANEL, or C for a step][HEED_MAX_TILE_LANES], transposed */
    float *rows, *sums;    /* of a step: [HEED_MAX_PLAIN_ROWS][Dv] */
    float *weights;        /* of a step: of recent rows [HEED_LINEAR_MAX_RECENT] */
    feature_scratch layers;
} linear_scratch;

/* Whether the bytes of a worker, of backward too, fit in int64; to be asked before they are counted. */
int heed_linear_fits(const linear_plan *plan);

int64_t heed_linear_carve(linear_scratch *s, char *memory, const linear_plan *plan);

/* The scratch of a worker, with what it holds all the time. */
linear_scratch heed_linear_scratch(const linear_job *job, int worker);

/* ---- keys ---- */

/* The keys of kv head `kv_head`, of batch element b. */
typedef struct linear_keys {
    int64_t b, kv_head;
    feature_head phi;
    int64_t n;     /* keys that count */
    int64_t first; /* the first one that is visible; n: none is */
    int64_t ahead; /* rows that are asked for lie so many rows further on; negative on a way back */
} linear_keys;

linear_keys heed_linear_keys(const linear_job *job, int64_t b, int64_t kv_head);

/* A block of keys: hidden ones, their values and features are 0. */
typedef struct linear_block {
    feature_rows k, v;
    const float *features; /* phi(k) [k.n][C], in panels */
} linear_block;

/* With phi in s->features, or recorded on `tape`. */
linear_block heed_linear_block(const linear_job *job, const linear_keys *keys, heed_key_range range,
                               const linear_scratch *s, const feature_tape *tape);

/* Whether key j is visible, its length aside. */
int heed_linear_is_visible(const linear_plan *plan, const linear_keys *keys, int64_t j);

/* phi(q) of rows [i, i + n) of a query head, in s->query_features. */
void heed_linear_queries(const linear_job *job, const feature_head *phi, int64_t b, int64_t head, int64_t i, int n,
                         const linear_scratch *s);

/* phi of queries of head `head`. */
feature_head heed_linear_query_map(const linear_job *job, int64_t head);

/* ---- sums ---- */

void heed_linear_clear(const linear_job *job, linear_sums sums);

/* The sums that a call starts from: 0, or those of the state, which its recent rows join for good. */
void heed_linear_start(const linear_job *job, int64_t b, int64_t kv_head, linear_sums sums);

/* S and z of a head of a state, without recent rows; and back. */
void heed_linear_load(const linear_job *job, const heed_linear_state *state, int64_t b, int64_t kv_head,
                      linear_sums sums);
void heed_linear_store(const linear_job *job, const heed_linear_state *state, int64_t b, int64_t kv_head,
                       linear_sums sums);

/* The recent rows of `from` join the sums and norms of `to`. */
void heed_linear_fold(const heed_kernels *kernels, const heed_linear_state *from, const heed_linear_state *to,
                      int64_t b, int64_t kv_head);

/* Recent rows that wait for nobody. */
void heed_linear_forget_recent(const heed_linear_state *state, int64_t b, int64_t kv_head);

/* to += from */
void heed_linear_add(const linear_job *job, linear_sums to, linear_sums from);

/* z += the n rows of features in panels; ones[0] is 1. */
void heed_linear_add_norms(const linear_job *job, float *z, const float *features, int n, const float *ones);

/* S += phi(k)^T v, z += phi(k) over the block; over keys [range), block by block. */
void heed_linear_add_block(const linear_job *job, linear_sums sums, const linear_block *block, const linear_scratch *s);
void heed_linear_add_keys(const linear_job *job, linear_sums sums, const linear_keys *keys, heed_key_range range,
                          const linear_scratch *s);

/* out = phi(q) S, den = eps + phi(q) z for n rows of s->query_features. */
void heed_linear_read(const linear_job *job, linear_sums sums, int n, float *out, int64_t out_stride,
                      const linear_scratch *s);

/* Rows [begin, end) of a query head see nothing, or do not count: 0. */
void heed_linear_store_nothing(const linear_job *job, int64_t b, int64_t head, int64_t begin, int64_t end);

/* Of the whole call, roughly. */
double heed_linear_flops(const linear_plan *plan);

/* Whether the state holds tokens. */
int heed_linear_has_past(const linear_plan *plan, int64_t b);

/* ---- linear_causal.c ---- */

/* Tasks: kv heads. */
void heed_linear_causal_task(void *job, int64_t index, int worker);

#endif
