/* Hiding in a tile of scores: hidden keys get -inf. */
#ifndef HEED_MECHANISMS_HIDE_H
#define HEED_MECHANISMS_HIDE_H

#include "core/mask.h"
#include "kernels/kernels.h"

/* Hides what lies outside each row's own range; only blocks that touch an edge have such keys. */
void heed_hide_outside(const heed_kernels *kernels, float *scores, const heed_key_range *sees, int n_rows,
                       int n_vectors, heed_key_range block);

/* Hides what the boolean mask hides; row r is query[r] of head[r]. */
void heed_hide_unseen(const heed_kernels *kernels, float *scores, const heed_tensor *visible, int64_t b,
                      const int64_t *head, const int64_t *query, int n_rows, heed_key_range block);

#endif
