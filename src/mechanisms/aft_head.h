/* A head of AFT-conv, all of whose channels share one key, and sums over its keys.
 *
 * A row of sums has one more float than channels: num [n], den. den is summed with the operations of num, so that v = 1
 * gives exactly 1. Keys of -inf are left out, whatever their v holds. */
#ifndef HEED_MECHANISMS_AFT_HEAD_H
#define HEED_MECHANISMS_AFT_HEAD_H

#include "core/scratch.h"
#include "core/sizes.h"
#include "mechanisms/aft_parts.h"

/* Floats of a row of sums for n channels: num, den, and what fills the last line of the cache. */
static inline int64_t heed_aft_head_row(int64_t n) { return heed_divide_up(n + 1, 16) * 16; }

/* Of the keys since the last fold, and all before, against exp(reference). */
typedef struct aft_head_sums {
    float reference;
    float *added, *folded; /* side by side */
} aft_head_sums;

/* A finished row of sums. */
typedef struct aft_outside {
    float reference;
    const float *row;
} aft_outside;

typedef struct aft_head {
    aft_job *job;
    aft_lane x;             /* the state: of a row computed again */
    int64_t row;            /* heed_aft_head_row() */
    float m;                /* the largest w, that of keys outside the filter, 0, among them */
    float reference;        /* r: weights are exp(k - r) */
    heed_key_range held;    /* keys whose k and exp(k - r) are at hand */
    float *held_k, *held_e; /* [held] */
    float *k, *e;           /* scratch [HEED_FOLD_KEYS] */
    float *total;           /* scratch [row] */
    float *spread[2];       /* scratch [AFT_PARKED_ROWS][n] */
} aft_head;

/* Takes the scratch for n channels. */
void heed_aft_head_carve(aft_head *head, heed_arena *arena, int64_t n);

/* k of a range of keys; exp(k - reference) of n_keys of them; v of key j. */
void heed_aft_head_keys(const aft_head *head, heed_key_range keys, float *to);
void heed_aft_head_weigh(const aft_head *head, const float *k, float *e, int64_t n_keys, float reference);
const float *heed_aft_head_value(const aft_head *head, int64_t j);

/* The next of n_keys keys, from `from` on, that lie side by side and are not -inf. */
heed_key_range heed_aft_next_run(const float *k, int64_t from, int64_t n_keys);

/* No key yet; rows [2][row]. */
aft_head_sums heed_aft_head_empty(const aft_head *head, float *rows);

/* Adds keys with w = 0, in their order or against it. */
void heed_aft_head_add(const aft_head *head, aft_head_sums *sums, heed_key_range keys, int forward);

/* What was added joins what was folded; both in one row. */
void heed_aft_head_fold(const aft_head *head, aft_head_sums *sums);
void heed_aft_head_total(const aft_head *head, const aft_head_sums *sums, float *row);

/* What sums against `reference` with w = 0 are multiplied by among those of a row of queries. */
float heed_aft_head_factor(const aft_head *head, float reference);

/* Sums wait in rows [first, first + n_rows) of output, or in `tail` [AFT_PARKED_ROWS][n] where these are too few. */
void heed_aft_head_park(const aft_head *head, const aft_head_sums *sums, int64_t first, int64_t n_rows, float *tail);
void heed_aft_head_unpark(const aft_head *head, aft_head_sums *sums, int64_t first, int64_t n_rows, float *tail);

/* out and lse of queries [i, i + n_rows) from rows of sums; a bit for each whose sums prove nothing. */
unsigned heed_aft_head_store(const aft_head *head, int64_t i, const float *rows, int n_rows);

/* Query i again, key by key over `keys`, from what lies before and behind them; w is scratch for HEED_FOLD_KEYS. */
void heed_aft_head_recompute(const aft_head *head, int64_t i, const aft_outside *before, const aft_outside *behind,
                             heed_key_range keys, float *w);

#endif
