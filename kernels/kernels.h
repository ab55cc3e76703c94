/* The tile kernels: what each one computes, and the table that holds them, one per instruction set (ISA).
 *
 * A tile is a matrix of floats whose lanes are rows of queries: element (r, lane) lies at t[r * tile_lanes + lane].
 * r counts channels (queries and outputs, transposed) or keys (scores and weights). A tile has 1 to
 * HEED_TILE_VECTORS vectors; a kernel told to work on n_vectors reads and writes the lanes of those vectors only, all
 * of them, whether or not a query stands there. Tiles are aligned to 64 bytes; everything else to its element.
 *
 * Lanes never mix: what is in one lane has no effect on the bits of another. */
#ifndef HEED_KERNELS_H
#define HEED_KERNELS_H

#include <stdint.h>

enum {
    HEED_TILE_VECTORS = 3,    /* vectors in the widest tile: 8 keys x 3 vectors fill the registers */
    HEED_MAX_TILE_LANES = 48, /* lanes of the widest tile on any ISA (AVX-512: 3 x 16) */
    HEED_BLOCK_KEYS = 128,    /* keys in a block of scores: 128 x 48 floats stay in L1 */
    FEATURE_PANEL = 64,       /* features whose rows lie together: one row fills the widest tile of mix_rows */
    AFT_PANEL = 32            /* channels whose num and den lie together: one row of both fills the widest tile of
                                 mix_rows, and a block of them, 32 KiB, stays in L1 */
};

/* A key that stands more than e^this above the reference of an AFT channel becomes the reference. */
#define AFT_MOVE_ABOVE 8.0f

/* Terms that underflow in a sum of N products are below N 2^-126 together: nothing beside a sum like this. */
#define AFT_SMALLEST_PROOF 1e-26f

/* And this much may still shrink by any factor that matters. */
#define AFT_LARGE_SUM 1e-20f

/* The rows of a state of aft_keys. */
enum { AFT_REF_K, AFT_REF_W, AFT_NUM, AFT_DEN, AFT_NEW_NUM, AFT_NEW_DEN, AFT_STATE_ROWS };

/* Rows that are needed soon: along with row t of a product, row first + t of `own` and row t of `next`. Any addresses. */
typedef struct heed_ahead {
    const float *own, *next;
    int64_t own_stride, next_stride, first;
} heed_ahead;

/* X(result, name, arguments): declares, fills the table, tests and benchmarks every kernel.
 *
 * exp2_array     y[i] = 2^x[i], any x; <= 2 ulp on [-126, 16]; y may be x
 * exp_array      y[i] = e^x[i], any x; <= 2 ulp on [-87.3, 88]; y may be x
 *
 * pack_tile      t[c][r] = scale rows[r][c] for r < n_rows, c < n_columns; lanes n_rows .. end of their vector = 0
 * transpose      t[c * t_stride + r] = x[r * x_stride + c] for r < n_rows, c < n_columns
 * scores_tile    s[j][r] = sum_c q[c][r] k[j * k_stride + c], j < n_keys, c < n_channels; summed in chunks of channels
 *                that are added pairwise up to eights. Along with key j it asks for row j of `ahead`, any address, or
 *                where that is NULL for a key further on; so does values_tile
 * softcap_tile   s[j][r] = cap tanh(s[j][r] / cap); absolute error <= 2 ulp of cap
 * bias_tile      s[j][r] += bias[r][j], r < n_rows; the other lanes keep their scores
 * alibi_tile     s[j][r] -= slope[r] |distance[r] + j|                          (distance: first key minus query)
 * range_tile     s[j][r] = -inf unless begin[r] <= j < end[r]
 * visible_tile   s[j][r] = -inf where visible[r][j] is 0, r < n_rows
 *
 * softmax_tile   one step of online softmax, lane by lane (M = max(m, max_j s[j])):
 *                    rescale = e^(m - M), 0 where m = -inf
 *                    s[j]    = e^(s[j] - M), 0 where s[j] = -inf, exactly 1 where s[j] = M
 *                    l       = l rescale + sum_j s[j], the sum in the order of j from zero
 *                    m       = M
 *                NaN scores are passed over in M and give NaN weights; s = +inf gives NaN.
 * softmax_row    the same for one row of n_keys scores into p, which may be s, without l; asks for as many scores at
 *                `ahead`, any address
 * softmax_careful_tile  the same bits, but s[j] = -1 marks a score of -inf (it adds nothing to l)
 *
 * values_tile    o[c][r] = o[c][r] rescale[r] + sum_j p[j][r] v[j * v_stride + c], the sum in the order of j from zero
 * values_careful_tile   the same bits, but terms with p < 0 are left out, whatever v holds
 * output_tile    rows[r][c] = o[c][r] / l[r] to 1 ulp, exact for o = l and for l = 1, 0 where l[r] = 0; for r < n_rows,
 *                c < n_columns; l is 0, NaN or in [1, 2^64]. Returns non-zero when a value written was NaN.
 * scores_rows, values_rows, values_careful_rows, output_rows
 *                what scores_tile, values_tile, values_careful_tile and output_tile compute, for a few rows: queries q
 *                are rows q_stride apart, outputs o and the scratch `sums` are rows of n_channels; s and p stay tiles
 *                whose lane r is row r, r < n_rows. The other lanes keep what they hold. Scores are summed in
 *                chunks of vectors of channels, lane by lane, then pairwise.
 * aft_keys       AFT, one query, keys j < n_keys in their order, each channel c by itself: state rows n_channels apart
 *                hold the reference (k, w) of a key seen, sums num, den against it, and num, den of the keys since the
 *                last aft_fold. With a_j = (k_jc - ref_k) + (w[j] - ref_w), where k_jc = k[j * k_stride + c], or
 *                k[j * k_stride] with `scalar_keys`:
 *                    a_j > 8: the reference moves to this key, and the sums are multiplied by e^-a_j
 *                    den += e^a_j, num += e^a_j v[j * v_stride + c]
 *                w[j] = -inf passes over the key, k_jc = -inf over its channel, whatever v holds. NaN stays NaN, and
 *                +inf gives NaN. Starts from reference (-inf, 0) and sums of 0. e^a is off by 2 ulp and |a| 1.25 2^-24
 *                of itself, and by the roundings of a. Strides may be negative: then the keys go backwards.
 * aft_fold       num, den += those of the keys since the last fold, which start again from 0
 * aft_join       rows ref, num, den, `stride` apart: k + w of a state's reference, and its two levels added up. `other`,
 *                such rows too, or NULL, joins them: the larger ref stays, and the sums at the smaller are multiplied by
 *                e^(smaller - larger). Where the ref of other is -inf nothing joins. rows may be other.
 * aft_start      n_rows rows of sums, all the same, o_stride apart, in panels (aft_weigh): num and den of rows ref, num,
 *                den, n_channels apart, times e^(their ref - ref); 0 where den is 0, whatever the references
 * aft_refer      moves the reference of each channel of a state to (ref, 0), and its sums with it, where that changes
 *                nothing or ref is finite and den still AFT_LARGE_SUM or more; others keep all bits. Returns whether all
 *                channels stand at ref now.
 * aft_gather     new num, new den of a state += those of n_keys rows that aft_weigh made against the same references,
 *                in the order of the keys
 * aft_row        out[c] = gate all of num / all of den, 0 where den is 0; gate = sigmoid(q[c]), 1 where q is NULL
 * aft_move       where k[c] is finite and more than 8 above ref[c]: factor[c] = e^(ref[c] - k[c]), ref[c] = k[c]; elsewhere
 *                factor[c] = 1
 * aft_weigh      the rows [e^(k - ref) v, e^(k - ref)] of keys j < n_keys, up to the first that aft_move would take as
 *                reference, whose row may be written too; returns how many, and in *n_clean how many of these come before
 *                the first where something is not finite. Channel c stands in panel c / AFT_PANEL; panels are
 *                panel_stride apart, their rows 2 AFT_PANEL, and a row holds the e^(k - ref) v of the panel's channels,
 *                then its e^(k - ref), as exact as in aft_keys. Both are stored as 0 where one is not finite, and for a
 *                key of -inf, whatever v holds: that is clean.
 * aft_ratio      out[c] = gate num / den of channel c, whose sums stand in panels as aft_weigh lays them out; gate as in
 *                aft_row. Returns non-zero when a den lies below AFT_SMALLEST_PROOF or a num / den is not finite: those
 *                results prove nothing. Asks for out and q `ahead` floats further on.
 * mix_rows       o[t * o_stride + c] = that rescale[t], or where rescale is NULL nothing, whatever stood there,
 *                + sum_j p[t * p_stride + j * p_step] e[j * e_stride + c], t < n_rows, j < n_keys, c < n_channels; the
 *                sum in the order of j from zero, so that rows and channels have the same bits whatever goes with them.
 *                ahead != NULL: along with row t of a whole tile the first n_keys floats of its rows are asked for
 * pool_rows      o[g * o_stride + c] = factor (that where `adds`, else nothing, whatever stood there,
 *                + sum_t weights[t] x[g * group_stride + t * x_stride + c]), t < n_tokens, weights of 1 where NULL,
 *                g < n_groups, c < n_channels; the sum in the order of t from zero
 * ask_rows       rows t < n_rows of x, n_channels wide, any addresses, are asked for
 * scale_rows     o[t * o_stride + c] *= factor[c], t < n_rows, c < n_channels
 * tap_rows       AFT-conv: p[j * n_rows + t] = taps[j * n_rows + t] e[j], j < n_keys, t < n_rows;
 *                den[t * den_stride] += sum_j p[j * n_rows + t], with the bits that mix_rows has from values of 1
 * ratio_rows     out[r * out_stride + c] = gate num[c] / den for n_rows <= 32 rows of sums, num [n_channels] and den,
 *                `stride` apart; gate as in aft_row. Returns a bit for each row whose den lies below AFT_SMALLEST_PROOF
 *                or whose num / den is not finite. Asks for out and q of as many rows behind these.
 * elu1_array     y[i] = x[i] + 1 where x[i] > 0, else e^x[i]; <= 2 ulp, what would be denormal may be 0; y may be x
 * relu_array     y[i] = max(factor x[i], 0) + eps; y may be x
 * softplus_array y[i] = log(1 + e^x[i]), any x; <= 3 ulp, what would be denormal may be 0; y may be x
 * elu1_slope_array   dx[i] = dy[i] (1 where x[i] > 0, else e^x[i]); dx may be x or dy, as in the next three
 * relu_slope_array   dx[i] = dy[i] factor where x[i] > 0, else 0
 * gate_slope_array   ds[i] = dy[i] f[i] sigmoid(s[i]) sigmoid(-s[i]) to 6 ulp; ds may be any of them
 * favor_slope_array  du[i] = dy[i] y[i] factor
 * favor_rows     y = (e^(factor y - shift[t]) + eps) scale for n_rows rows of features in panels: channel c of row t stands
 *                in panel c / FEATURE_PANEL; panels are panel_stride apart, and their rows lie without gaps. shift = NULL:
 *                the row's largest factor y. factor > 0. Where shift is +inf, finite y give eps scale.
 * dot_rows       sums[t] += sum_c a[t * a_stride + c] b[t * b_stride + c], t < n_rows, c < n_channels
 * divide_rows    o[t * o_stride + c] = x[t * x_stride + c] / den[t], by its reciprocal; 0 where |den[t]| < 2^-126;
 *                o may be x
 * finite_rows    whether all of x[t * x_stride + c], t < n_rows, c < n_channels, are finite
 * prefix_tile    s[j][r] = 0 unless j < end[r]; sums[r] += sum_j s[j][r], the sum in the order of j from zero
 * weigh_tile     s[j][r] = s[j][r] factor[r] + more[r] where j < end[r], else 0
 * dot_tile       sums[r] += sum_j a[j][r] b[j][r] over j < end[r], in their order from zero
 * gate_array     out[i] = x[i] / (1 + e^-q[i]), sigmoid to 3 ulp, 0 where it is below 2^-126, any q; out may be x
 * stream_gate    the same, x instead where q is NULL, out no part of either; where out is aligned to a vector it goes past
 *                the caches, and other threads see it after this one's next stream_fence
 * stream_fence   what stream_gate stored comes before what is stored from here on
 * blend_rows     out[i] = a[i] weight_a + b[i] weight_b; out may be a or b */
#define HEED_KERNEL_LIST(X)                                                                                            \
    X(void, exp2_array, (const float *x, float *y, int64_t n))                                                         \
    X(void, exp_array, (const float *x, float *y, int64_t n))                                                          \
    X(void, pack_tile, (float *t, const float *const *rows, int n_rows, int64_t n_columns, float scale))               \
    X(void, transpose,                                                                                                 \
      (float *restrict t, int64_t t_stride, const float *restrict x, int64_t x_stride, int64_t n_rows,                 \
       int64_t n_columns))                                                                                             \
    X(void, scores_tile,                                                                                               \
      (float *restrict s, const float *restrict q, const float *restrict k, int64_t k_stride, int n_keys,              \
       int64_t n_channels, int n_vectors, const float *ahead, int64_t ahead_stride))                                   \
    X(void, softcap_tile, (float *s, int n_keys, int n_vectors, float cap))                                            \
    X(void, bias_tile, (float *restrict s, const float *const *bias, int n_rows, int n_keys))                          \
    X(void, alibi_tile, (float *restrict s, const float *slope, const float *distance, int n_keys, int n_vectors))     \
    X(void, range_tile, (float *restrict s, const float *begin, const float *end, int n_keys, int n_vectors))          \
    X(void, visible_tile, (float *restrict s, const uint8_t *const *visible, int n_rows, int n_keys))                  \
    X(void, softmax_tile,                                                                                              \
      (float *restrict s, float *restrict m, float *restrict l, float *restrict rescale, int n_keys, int n_vectors))   \
    X(void, softmax_row, (float *p, const float *s, const float *ahead, int n_keys, float *m, float *rescale))         \
    X(void, softmax_careful_tile,                                                                                      \
      (float *restrict s, float *restrict m, float *restrict l, float *restrict rescale, int n_keys, int n_vectors))   \
    X(void, values_tile,                                                                                               \
      (float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,                          \
       const float *restrict rescale, int n_keys, int64_t n_channels, int n_vectors, const float *ahead,               \
       int64_t ahead_stride))                                                                                          \
    X(void, values_careful_tile,                                                                                       \
      (float *restrict o, const float *restrict p, const float *restrict v, int64_t v_stride,                          \
       const float *restrict rescale, int n_keys, int64_t n_channels, int n_vectors, const float *ahead,               \
       int64_t ahead_stride))                                                                                          \
    X(int, output_tile,                                                                                                \
      (float *const *rows, const float *restrict o, const float *restrict l, int n_rows, int64_t n_columns))           \
    X(void, scores_rows,                                                                                               \
      (float *restrict s, const float *restrict q, int64_t q_stride, const float *restrict k, int64_t k_stride,        \
       int n_keys, int64_t n_channels, int n_rows))                                                                    \
    X(void, values_rows,                                                                                               \
      (float *restrict o, float *restrict sums, const float *restrict p, const float *restrict v, int64_t v_stride,    \
       const float *restrict rescale, int n_keys, int64_t n_channels, int n_rows))                                     \
    X(void, values_careful_rows,                                                                                       \
      (float *restrict o, float *restrict sums, const float *restrict p, const float *restrict v, int64_t v_stride,    \
       const float *restrict rescale, int n_keys, int64_t n_channels, int n_rows))                                     \
    X(int, output_rows,                                                                                                \
      (float *const *rows, const float *restrict o, const float *restrict l, int n_rows, int64_t n_channels))          \
    X(void, aft_keys,                                                                                                  \
      (float *restrict state, const float *restrict k, int64_t k_stride, const float *restrict v, int64_t v_stride,    \
       const float *restrict w, int n_keys, int64_t n_channels, int scalar_keys))                                      \
    X(void, aft_fold, (float *state, int64_t n_channels))                                                              \
    X(void, aft_join,                                                                                                  \
      (float *rows, int64_t stride, const float *restrict state, const float *other, int64_t other_stride,             \
       int64_t n_channels))                                                                                            \
    X(void, aft_start,                                                                                                 \
      (float *restrict o, int64_t o_stride, int64_t panel_stride, const float *restrict rows,                          \
       const float *restrict ref, int n_rows, int64_t n_channels))                                                     \
    X(int, aft_refer, (float *restrict state, const float *restrict ref, int64_t n_channels))                          \
    X(void, aft_gather,                                                                                                \
      (float *restrict state, const float *restrict e, int64_t panel_stride, int n_keys, int64_t n_channels))          \
    X(void, aft_row, (float *restrict out, const float *restrict q, const float *restrict state, int64_t n_channels))  \
    X(int, aft_ratio,                                                                                                  \
      (float *restrict out, const float *restrict q, const float *restrict sums, int64_t panel_stride,                 \
       int64_t n_channels, int64_t ahead))                                                                             \
    X(void, aft_move, (float *restrict ref, float *restrict factor, const float *k, int64_t n_channels))               \
    X(int, aft_weigh,                                                                                                  \
      (float *restrict e, int64_t panel_stride, const float *ref, const float *k, int64_t k_stride, const float *v,    \
       int64_t v_stride, int n_keys, int64_t n_channels, int *n_clean))                                                \
    X(void, mix_rows,                                                                                                  \
      (float *restrict o, int64_t o_stride, const float *restrict rescale, const float *restrict p, int64_t p_stride,  \
       int64_t p_step, const float *restrict e, int64_t e_stride, int n_keys, int n_rows, int64_t n_channels,          \
       const heed_ahead *ahead))                                                                                       \
    X(void, pool_rows,                                                                                                 \
      (float *restrict o, int64_t o_stride, const float *restrict x, int64_t group_stride, int64_t x_stride,           \
       const float *restrict weights, float factor, int n_tokens, int n_groups, int64_t n_channels, int adds))         \
    X(void, ask_rows, (const float *x, int64_t x_stride, int n_rows, int64_t n_channels))                              \
    X(void, scale_rows,                                                                                                \
      (float *restrict o, int64_t o_stride, const float *restrict factor, int n_rows, int64_t n_channels))             \
    X(void, tap_rows,                                                                                                  \
      (float *restrict p, float *restrict den, int64_t den_stride, const float *restrict taps,                         \
       const float *restrict e, int n_keys, int n_rows))                                                               \
    X(unsigned, ratio_rows,                                                                                            \
      (float *restrict out, int64_t out_stride, const float *restrict q, int64_t q_stride, const float *restrict sums, \
       int64_t stride, int n_rows, int64_t n_channels))                                                                \
    X(void, favor_rows,                                                                                                \
      (float *y, int64_t panel_stride, const float *shift, float factor, float eps, float scale, int n_rows,           \
       int64_t n_channels))                                                                                            \
    X(void, dot_rows,                                                                                                  \
      (float *restrict sums, const float *a, int64_t a_stride, const float *b, int64_t b_stride, int n_rows,           \
       int64_t n_channels))                                                                                            \
    X(void, divide_rows,                                                                                               \
      (float *o, int64_t o_stride, const float *x, int64_t x_stride, const float *den, int n_rows,                     \
       int64_t n_channels))                                                                                            \
    X(int, finite_rows, (const float *x, int64_t x_stride, int n_rows, int64_t n_channels))                            \
    X(void, prefix_tile, (float *restrict s, float *restrict sums, const float *end, int n_keys, int n_vectors))       \
    X(void, weigh_tile,                                                                                                \
      (float *restrict s, const float *factor, const float *more, const float *end, int n_keys, int n_vectors))        \
    X(void, dot_tile,                                                                                                  \
      (float *restrict sums, const float *a, const float *b, const float *end, int n_keys, int n_vectors))             \
    X(void, elu1_array, (float *y, const float *x, int64_t n))                                                         \
    X(void, relu_array, (float *y, const float *x, float factor, float eps, int64_t n))                                \
    X(void, softplus_array, (float *y, const float *x, int64_t n))                                                     \
    X(void, elu1_slope_array, (float *dx, const float *x, const float *dy, int64_t n))                                 \
    X(void, relu_slope_array, (float *dx, const float *x, const float *dy, float factor, int64_t n))                   \
    X(void, gate_slope_array, (float *ds, const float *s, const float *f, const float *dy, int64_t n))                 \
    X(void, favor_slope_array, (float *du, const float *y, const float *dy, float factor, int64_t n))                  \
    X(void, gate_array, (float *out, const float *q, const float *x, int64_t n))                                       \
    X(void, stream_gate, (float *restrict out, const float *restrict q, const float *restrict x, int64_t n))           \
    X(void, stream_fence, (void))                                                                                      \
    X(void, blend_rows, (float *out, const float *a, float weight_a, const float *b, float weight_b, int64_t n))

typedef struct heed_kernels {
    const char *isa;
    int vector_lanes; /* floats in a vector */
    int tile_lanes;   /* HEED_TILE_VECTORS vectors */
#define HEED_KERNEL_FIELD(result, name, arguments) result(*name) arguments;
    HEED_KERNEL_LIST(HEED_KERNEL_FIELD)
#undef HEED_KERNEL_FIELD
} heed_kernels;

extern const heed_kernels heed_kernels_scalar;
#ifdef HEED_HAVE_AVX2
extern const heed_kernels heed_kernels_avx2;
#endif
#ifdef HEED_HAVE_AVX512
extern const heed_kernels heed_kernels_avx512;
#endif
#ifdef HEED_HAVE_NEON
extern const heed_kernels heed_kernels_neon;
#endif

#endif
