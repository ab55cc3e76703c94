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

/* ---- Multiresolution-head attention (oracle_mrsha.c); NULL options are HEED_MRSHA_OPTIONS_INIT ---- */

/* S of head h. */
int64_t oracle_mrsha_group_size(const heed_mrsha_options *options, int64_t n_heads, int64_t h);

/* Row (b, h, i): out receives Dv values, *lse one; either may be NULL. Fine heads are oracle_softmax_row(). */
void oracle_mrsha_row(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                      const heed_mrsha_options *options, int64_t b, int64_t h, int64_t i, double *out, double *lse);

/* All rows: out is contiguous (B, Hq, Nq, Dv), lse contiguous (B, Hq, Nq); either may be NULL. */
void oracle_mrsha(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v, const heed_mrsha_options *options,
                  double *out, double *lse);

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

/* ---- Feature maps (oracle_features.c) ----
 *
 * Their inputs are float64, so that a central difference can be taken of them: matrices are read from a heed_feature_map
 * once, rows are arrays. */

/* n zeros; ends the program when there is no memory. */
double *oracle_zeros(int64_t n);

/* (heads, in, out), contiguous, heads 1 where all share it; values NULL where the layer has no such matrix. */
typedef struct oracle_matrix {
    double *values;
    int64_t heads, in, out;
} oracle_matrix;

enum { ORACLE_WF, ORACLE_WG, ORACLE_A, ORACLE_B, ORACLE_OMEGA, ORACLE_N_MATRICES };

typedef struct oracle_layer {
    heed_feature_kind kind;
    double eps;
    oracle_matrix w[ORACLE_N_MATRICES];
} oracle_layer;

enum { ORACLE_MAX_LAYERS = 8 };

typedef struct oracle_map {
    oracle_layer layers[ORACLE_MAX_LAYERS];
    int64_t n_layers;
} oracle_map;

/* A copy of the map, or of its shapes, all matrices 0. NULL: elu(x) + 1. */
oracle_map oracle_map_read(const heed_feature_map *features);
oracle_map oracle_map_zeros(const oracle_map *map);
void oracle_map_free(oracle_map *map);

/* C for rows of so many channels. */
int64_t oracle_n_features(const oracle_map *map, int64_t channels);

/* phi(x) of a row of head h: C values. */
void oracle_features(const oracle_map *map, heed_feature_side side, int64_t h, const double *x, int64_t channels,
                     double *features);

/* From the gradient with respect to phi(x) those with respect to x and to the matrices, which are added to dx and dmap.
 * m of FAVOR counts as a constant. */
void oracle_features_backward(const oracle_map *map, heed_feature_side side, int64_t h, const double *x,
                              int64_t channels, const double *dfeatures, double *dx, oracle_map *dmap);

/* ---- Linear attention (oracle_linear.c) ---- */

/* A problem in float64, all arrays contiguous. Whoever changes q, k, v, the state or a map calls
 * oracle_linear_refresh() afterwards. */
typedef struct oracle_linear {
    int64_t batch, q_heads, kv_heads, n_queries, n_keys, channels, value_channels, n_features;
    double *q, *k, *v;     /* (B, Hq, Nq, D), (B, Hkv, Nk, D), (B, Hkv, Nk, Dv) */
    double *sums, *norms;  /* the state before, (B, Hkv, C, Dv) and (B, Hkv, C); 0 without one */
    oracle_map key_map;    /* phi of keys, and of queries unless there is a map of their own */
    oracle_map query_map;  /* phi of queries */
    int has_query_map;     /* else query_map is empty */
    int has_state;         /* else a row that sees no key of the call is 0 */
    double eps;            /* added to denominators */
    const heed_mask *mask; /* the caller's; or NULL */
    double *key_features;  /* (B, Hkv, Nk, C), by oracle_linear_refresh() */
} oracle_linear;

/* Reads a problem: recent rows of the state are taken into its sums. NULL options are HEED_LINEAR_OPTIONS_INIT. */
void oracle_linear_open(oracle_linear *problem, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                        const heed_linear_options *options, const heed_linear_state *state);
void oracle_linear_refresh(oracle_linear *problem);
void oracle_linear_close(oracle_linear *problem);

/* phi(q) of row (b, h, i). */
void oracle_linear_query_features(const oracle_linear *problem, int64_t b, int64_t h, int64_t i, double *features);

/* 1 when key j of kv head h belongs to the state after the call: it is no padding, and no flag hides it. */
int oracle_linear_joins(const oracle_linear *problem, int64_t b, int64_t h, int64_t j);

/* Row (b, h, i): out receives Dv values. Returns the denominator, or 0 where the row is 0 without looking at anything:
 * it sees no key, or its denominator is 0 or denormal as a float32. */
double oracle_linear_row(const oracle_linear *problem, int64_t b, int64_t h, int64_t i, double *out);

/* All rows: out is contiguous (B, Hq, Nq, Dv). */
void oracle_linear_forward(const oracle_linear *problem, double *out);

/* The state after the call: sums (B, Hkv, C, Dv), norms (B, Hkv, C). */
void oracle_linear_state(const oracle_linear *problem, double *sums, double *norms);

/* Gradients, shaped as what they belong to. */
typedef struct oracle_linear_gradients {
    double *q, *k, *v, *sums, *norms;
    oracle_map key_map, query_map; /* with a shared map key_map holds both parts */
} oracle_linear_gradients;

/* From dout (B, Hq, Nq, Dv), and where not NULL the gradient with respect to the state after the call. */
void oracle_linear_backward(const oracle_linear *problem, const double *dout, const double *dsums, const double *dnorms,
                            oracle_linear_gradients *gradients);
void oracle_linear_gradients_free(oracle_linear_gradients *gradients);

/* ---- Merge (oracle_merge.c) ---- */

/* One pair of partial results. A part whose lse is -inf is absent. */
void oracle_merge_pair(double out_a, double lse_a, double out_b, double lse_b, double *out, double *lse);

/* All elements: out is contiguous (B, H, N, Dv), lse contiguous like lse_a (B, H, N, 1 or Dv); either may be NULL. */
void oracle_merge(const heed_tensor *out_a, const heed_tensor *lse_a, const heed_tensor *out_b,
                  const heed_tensor *lse_b, double *out, double *lse);

#endif
