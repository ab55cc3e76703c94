/* The equations of the mechanisms in float64 and plain loops: what the library and its benchmarks are compared with.
 *
 * The functions take the same views and options as the library and expect well-formed arguments. Nothing here is
 * blocked, reordered or made fast: every output row is computed by itself, in two passes over its keys, so that a
 * sample of the rows of a large problem costs no more than those rows. They write nothing but their results and may
 * run in several threads at once. */
#ifndef HEED_ORACLE_H
#define HEED_ORACLE_H

#include "heed.h"

/* ---- Views ---- */

/* Element (b, h, n, c) of a float32 view. */
double oracle_value(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c);

/* The same where a size of 1 stands for any index, as in a bias. */
double oracle_broadcast_value(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c);

/* ---- Masks (oracle_mask.c); a NULL mask is HEED_MASK_INIT ---- */

/* Lq and Lk of batch element b. */
int64_t oracle_query_length(const heed_mask *mask, int64_t b, int64_t n_queries);
int64_t oracle_key_length(const heed_mask *mask, int64_t b, int64_t n_keys);

/* pos_k(j) - pos_q(i) in batch element b. */
int64_t oracle_distance(const heed_mask *mask, int64_t b, int64_t i, int64_t j, int64_t n_queries, int64_t n_keys);

/* 1 when query i sees key j, else 0. Hiding by a score of -inf is a matter of the mechanism, not of the mask. */
int oracle_visible(const heed_mask *mask, int64_t b, int64_t h, int64_t i, int64_t j, int64_t n_queries,
                   int64_t n_keys);

/* ---- Softmax attention (oracle_softmax.c) ---- */

/* The score of query i and key j in head h, whether or not the pair is visible. */
double oracle_softmax_score(const heed_tensor *q, const heed_tensor *k, const heed_softmax_options *options, int64_t b,
                            int64_t h, int64_t i, int64_t j);

/* Row (b, h, i): out receives Dv values, *lse one; either may be NULL. */
void oracle_softmax_row(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                        const heed_softmax_options *options, int64_t b, int64_t h, int64_t i, double *out, double *lse);

/* All rows: out is contiguous (B, Hq, Nq, Dv), lse contiguous (B, Hq, Nq); either may be NULL. */
void oracle_softmax(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                    const heed_softmax_options *options, double *out, double *lse);

/* ---- The Attention-Free Transformer (oracle_aft.c); NULL options are HEED_AFT_OPTIONS_INIT ---- */

typedef enum oracle_aft_form { ORACLE_AFT_FULL, ORACLE_AFT_LOCAL, ORACLE_AFT_SIMPLE, ORACLE_AFT_CONV } oracle_aft_form;

/* w_ij, whether or not the pair is visible; -inf outside the window with nothing_outside. filter: conv only. */
double oracle_aft_bias(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k, const heed_tensor *filter,
                       const heed_aft_options *options, int64_t b, int64_t h, int64_t i, int64_t j);

/* Row (b, h, i): out receives D values, after the gate, lse as many (conv: one); either may be NULL. */
void oracle_aft_row(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                    const heed_tensor *filter, const heed_aft_options *options, int64_t b, int64_t h, int64_t i,
                    double *out, double *lse);

/* All rows: out is contiguous (B, H, Nq, D), lse contiguous (B, H, Nq, D; conv: 1); either may be NULL. */
void oracle_aft(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                const heed_tensor *filter, const heed_aft_options *options, double *out, double *lse);

/* ---- Merge (oracle_merge.c) ---- */

/* One pair of partial results. A part whose lse is -inf is absent. */
void oracle_merge_pair(double out_a, double lse_a, double out_b, double lse_b, double *out, double *lse);

/* All elements: out is contiguous (B, H, N, Dv), lse contiguous like lse_a (B, H, N, 1 or Dv); either may be NULL. */
void oracle_merge(const heed_tensor *out_a, const heed_tensor *lse_a, const heed_tensor *out_b,
                  const heed_tensor *lse_b, double *out, double *lse);

#endif
