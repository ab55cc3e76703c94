/* Whole attention problems for the tests: tensors of every layout in guarded buffers, random contents, and the
 * comparison of what heed_softmax_forward() makes of them with the float64 oracle. */
#ifndef HEED_TEST_ATTENTION_H
#define HEED_TEST_ATTENTION_H

#include "support/compare.h"
#include "support/guard.h"
#include "support/random.h"

typedef struct attention_shape {
    int64_t batch, q_heads, kv_heads, n_queries, n_keys, channels, value_channels;
} attention_shape;

typedef enum tensor_layout {
    LAYOUT_BHND,   /* batch, head, token, channel */
    LAYOUT_BNHD,   /* batch, token, head, channel */
    LAYOUT_PADDED, /* BHND with unused elements after each row, head and batch element */
    LAYOUT_PACKED, /* q, k and v of a token side by side: [B][N][q heads | k heads | v heads] */
    N_LAYOUTS
} tensor_layout;

/* A float32 or bool view of a new guarded buffer that ends with the view's last element. Not LAYOUT_PACKED. */
heed_tensor tensor_create(guarded *memory, heed_dtype dtype, int64_t batch, int64_t heads, int64_t tokens,
                          int64_t channels, tensor_layout layout, guard_side side);

void tensor_fill(const heed_tensor *tensor, float value);
void tensor_fill_normal(const heed_tensor *tensor, random_stream *random, float deviation);
void tensor_fill_uniform(const heed_tensor *tensor, random_stream *random, float low, float high);

/* Copies the elements of a view of the same shape. */
void tensor_copy(const heed_tensor *to, const heed_tensor *from);

/* Flags of a HEED_BOOL view: true (any non-zero byte) with a probability of n_true in 16. */
void tensor_fill_flags(const heed_tensor *tensor, random_stream *random, int n_true);
unsigned char *tensor_flag_at(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c);

/* Part of a view: `count` indices from `first` on along an axis whose stride counts. */
heed_tensor tensor_slice(const heed_tensor *tensor, int axis, int64_t first, int64_t count);

/* 1 when everything in the buffer beside the elements of the view still holds the pattern it was made with. */
int tensor_padding_is_whole(const guarded *memory, const heed_tensor *tensor);

typedef struct attention {
    attention_shape shape;
    tensor_layout layout;
    heed_tensor q, k, v, out, lse;
    guarded q_memory, k_memory, v_memory, out_memory, lse_memory; /* packed: q_memory or k_memory holds the others */
} attention;

/* Makes the tensors; q, k and v hold NaN. LAYOUT_PACKED packs q, k and v together where Nq = Nk, else k and v. */
void attention_create(attention *problem, attention_shape shape, tensor_layout layout, guard_side side);
void attention_destroy(attention *problem);

/* k normal, q normal with the given deviation (which is then that of the scores, if the scale is 1 / sqrt(D)), v
 * uniform on [-1, 1]. */
void attention_fill(attention *problem, random_stream *random, float deviation);

/* heed_softmax_forward() after out and lse were overwritten with NaN. */
heed_status attention_run(attention *problem, heed_context *context, const heed_softmax_options *options);

/* Runs the problem and compares out and lse with the oracle, within the bound of heed.h for visible scores up to
 * max_score in absolute value. Rows that the oracle makes zero must be exactly zero; canaries and the padding of the
 * outputs must be whole. Returns 1, or 0 and says in `text` what was wrong. */
int attention_matches(attention *problem, heed_context *context, const heed_softmax_options *options, double max_score,
                      char *text, size_t text_bytes);

/* 1 when both problems, of one shape, hold the same bits in out and in lse; else 0 and `text`. */
int attention_same_bits(const attention *a, const attention *b, char *text, size_t text_bytes);

/* The bound of heed.h, as a factor of max|v|, for scores up to max_score in absolute value. */
double attention_bound(double max_score);

#endif
