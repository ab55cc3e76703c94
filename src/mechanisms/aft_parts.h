/* What the ways of computing AFT share: the job, the bias, and one row over its keys. */
#ifndef HEED_MECHANISMS_AFT_PARTS_H
#define HEED_MECHANISMS_AFT_PARTS_H

#include "core/parallel.h"
#include "mechanisms/aft.h"

typedef struct aft_job {
    const aft_plan *plan;
    const heed_kernels *kernels;
    heed_context *context;
    int64_t heads, parts; /* a task has so many heads, over the batch, or a head so many tasks */
    atomic_llong exact_recomputations;
} aft_job;

/* Sums wait in rows of output until these are written: ref, num, den as aft_join makes them, or where channels share a
 * key num, and den and ref at the beginning of a row each. */
enum { AFT_PARKED_ROWS = 3 };

/* The channels [first, first + n) of a head, and the state of one query over the keys added so far. */
typedef struct aft_lane {
    int64_t b, h, first, n;
    float *state; /* [AFT_STATE_ROWS][n] */
} aft_lane;

/* ---- aft_bias.c ---- */

/* The keys within the window of query i, or of a filter of one dimension, whether they exist or not. */
heed_key_range heed_aft_window(const aft_plan *plan, int64_t b, int64_t i);

/* w of query i and keys [begin, end); -inf for a key that the boolean mask hides. */
void heed_aft_bias(const aft_plan *plan, int64_t b, int64_t h, int64_t i, heed_key_range keys, float *w);

/* Factors of many keys, transposed: row c holds factor c of all of them. Scratch for n_keys; packs those of `keys`. */
int64_t heed_aft_packed_floats(const aft_plan *plan, int64_t n_keys);
void heed_aft_pack_factors(const aft_job *job, const aft_lane *lane, heed_key_range keys, float *packed);

/* u.v of queries [first, first + n_rows) and `keys`, which are among those packed, into rows of w: rows of u are the
 * weights that mix the transposed rows of v. */
void heed_aft_factored_bias(const aft_job *job, const aft_lane *lane, int64_t first, int n_rows, heed_key_range keys,
                            const float *packed, heed_key_range packed_keys, float *w, int64_t stride);

/* 0 for those of the keys that lie outside the window of query i. */
void heed_aft_cut_window(const aft_plan *plan, int64_t b, int64_t i, heed_key_range keys, float *w);

/* ---- aft_rows.c ---- */

/* Slice `index` of `channels` channels of head `head`, counted over the batch. */
aft_lane heed_aft_slice(const aft_job *job, int64_t head, int64_t index, int64_t channels, float *state);

/* The lane's part of row i: out; lse or NULL; q, or NULL where it does not gate. */
float *heed_aft_out(const aft_plan *plan, const aft_lane *lane, int64_t i);
float *heed_aft_lse(const aft_plan *plan, const aft_lane *lane, int64_t i);
const float *heed_aft_query(const aft_plan *plan, const aft_lane *lane, int64_t i);

/* No key added yet. */
void heed_aft_reset(const aft_lane *lane);

/* Takes the first part of a range from it, or the last one where not `forward`: one that no multiple of HEED_FOLD_KEYS
 * cuts. Where it ends at one, *folds is set: the sums are folded behind it. */
heed_key_range heed_aft_take_part(heed_key_range *keys, int forward, int *folds);

/* Where sums wait: in rows [first, first + n_rows) of output, that of the lane, or where these are too few in `tail`
 * [AFT_PARKED_ROWS][n]; *stride apart. */
float *heed_aft_parked_rows(const aft_plan *plan, const aft_lane *lane, int64_t first, int64_t n_rows, float *tail,
                            int64_t *stride);

/* What aft_join made of a state is a state again. */
void heed_aft_load_state(const aft_lane *lane, const float *rows, int64_t stride);

/* Keys that lie one behind the other, from row `row` of k and v on. */
typedef struct aft_run {
    const heed_tensor *k, *v;
    int64_t row;
    heed_key_range keys;
} aft_run;

/* Adds the keys, which end at the next multiple of HEED_FOLD_KEYS at the latest; w[0] is the bias of the first one. */
void heed_aft_add_run(const aft_job *job, const aft_lane *lane, aft_run run, const float *w);

/* Adds keys that query i sees; w is scratch for HEED_FOLD_KEYS. */
void heed_aft_add_keys(const aft_job *job, const aft_lane *lane, int64_t i, heed_key_range keys, float *w);

/* Starts anew and adds all keys that query i sees. */
void heed_aft_attend_row(const aft_job *job, const aft_lane *lane, int64_t i, float *w);

/* The log of channel c's sum of weights, c counted from `first`. */
float heed_aft_log_sum(const aft_lane *lane, int64_t c);

/* out and lse of query i from the state. A channel that saw no key is 0, whatever its gate. */
void heed_aft_store_row(const aft_job *job, const aft_lane *lane, int64_t i);

/* Row i sees no key: 0, -inf. */
void heed_aft_store_nothing(const aft_job *job, const aft_lane *lane, int64_t i);

/* Tasks: HEED_AFT_ROWS rows of a head each; HEED_AFT_CHANNELS channels of a head each, one state for all rows. */
void heed_aft_rows_task(void *job, int64_t index, int worker);
void heed_aft_scan_task(void *job, int64_t index, int worker);
int64_t heed_aft_rows_bytes(const aft_plan *plan);

/* ---- aft_sums.c ---- */

/* The sums of one row, against exp(reference + m). */
typedef struct aft_sums {
    const float *row; /* panels of num and den, */
    int64_t panel_stride;
    const float *reference; /* [n] */
    float m;
} aft_sums;

/* out and lse of row i; non-zero where they prove nothing (aft_ratio). */
int heed_aft_store_sums(const aft_job *job, const aft_lane *lane, int64_t i, const aft_sums *sums);

/* Replaces channels of row i by what the lane's state gives, which was found key by key: those where the sums prove
 * nothing, and, where the sums were spoiled, those that see what is not finite. Where they do not see it, what the sums
 * hold is right, and stays bit for bit. `row` is scratch for n channels. */
void heed_aft_replace_sums(aft_job *job, const aft_lane *lane, int64_t i, const aft_sums *sums, int spoiled,
                           float *row);

/* Rows in panels follow the reference: each num and den times the factor of its channel. */
void heed_aft_scale_panels(const aft_job *job, float *rows, int64_t panel_stride, const float *factor, int n_rows,
                           int64_t n_channels);

/* ---- aft_blocks.c ---- */

/* Tasks: groups of rows and slices of channels of a head, over blocks of keys. */
void heed_aft_blocks_task(void *job, int64_t index, int worker);
int64_t heed_aft_blocks_parts(const aft_plan *plan);
int64_t heed_aft_blocks_bytes(const aft_plan *plan);

/* ---- aft_window.c ---- */

/* Tasks: slices of channels of a head, all rows. AFT-local where each row sees all keys, or all up to its own. */
void heed_aft_window_task(void *job, int64_t index, int worker);
int64_t heed_aft_window_parts(const aft_plan *plan);
int64_t heed_aft_window_bytes(const aft_plan *plan);

/* ---- aft_conv.c ---- */

/* Tasks: heed_aft_conv_heads() heads, slices of their channels, all rows. Filters of one dimension, where each row sees
 * all keys, or all up to its own. */
void heed_aft_conv_task(void *job, int64_t index, int worker);
int64_t heed_aft_conv_heads(const aft_plan *plan, int n_threads);
int64_t heed_aft_conv_bytes(const aft_plan *plan);

/* ---- aft_grid.c ---- */

/* Tasks: slices of channels of a head, all rows. Filters of two dimensions, where each row sees all keys; the grid is
 * AFT_PARKED_ROWS wide or more. */
void heed_aft_grid_task(void *job, int64_t index, int worker);
int64_t heed_aft_grid_parts(const aft_plan *plan);
int64_t heed_aft_grid_bytes(const aft_plan *plan);

#endif
