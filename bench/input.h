/* The input of a comparison: q, k and v with the options that come with them, laid out in memory as asked. */
#ifndef HEED_BENCH_INPUT_H
#define HEED_BENCH_INPUT_H

#include "heed.h"

/* B, Hq, Hkv, Nq, Nk, D, Dv: the seven numbers of an attention shape. */
typedef struct attention_shape {
    int64_t batch, n_query_heads, n_kv_heads, n_queries, n_keys, n_channels, n_value_channels;
} attention_shape;

/* Where elements lie. PACKED: one buffer [batch][token][q heads, k heads, v heads], as one projection writes it. */
typedef enum input_layout { LAYOUT_BHND, LAYOUT_BNHD, LAYOUT_PACKED } input_layout;

/* "bhnd", "bnhd" or "packed". */
const char *input_layout_name(input_layout layout);

/* Where q, k and v come from: three files (name: what the input is called), or random numbers of a shape. */
typedef struct input_source {
    char name[256];
    char *q_path, *k_path, *v_path; /* NULL: random */
    attention_shape shape;          /* random only */
    int causal;
} input_source;

/* What the Attention-Free Transformer is asked for beyond the input. */
typedef struct aft_settings {
    unsigned forms;    /* bit 1 << form for each oracle_aft_form that runs; 0: no AFT */
    int64_t window;    /* of the local form */
    int64_t n_factors; /* d' of the factors of w; 0: w is a matrix */
    int64_t conv_heads;
    int64_t filter_rows, filter_columns; /* rows: 1 without a grid */
    int64_t grid_height, grid_width;     /* 0: no grid */
} aft_settings;

/* What linear attention is asked for beyond the input. */
typedef struct linear_settings {
    unsigned kinds;     /* bit 1 << kind for each linear_kind that runs; 0: no linear attention */
    int64_t n_features; /* C; 0: as many as channels, of FAVOR 256 */
    int64_t n_layers;   /* of GLU maps; 0: 2, with gates of low rank 3 */
    int backward;       /* non-zero: gradients too */
} linear_settings;

enum { INPUT_MAX_GROUP_SIZES = 64 };

/* What multiresolution-head attention is asked for beyond the input. Group sizes and mode are those of MRSHA_ASKED. */
typedef struct mrsha_settings {
    unsigned kinds;                             /* bit 1 << kind for each mrsha_kind that runs; 0: no MrsHA */
    int64_t group_sizes[INPUT_MAX_GROUP_SIZES]; /* of the first heads, and again */
    int n_group_sizes;                          /* 0: as HEED_MRSHA_HALF */
    heed_mrsha_mode mode;
} mrsha_settings;

typedef struct aft_input aft_input;       /* see aft_input.h */
typedef struct linear_input linear_input; /* see linear_input.h */
typedef struct mrsha_input mrsha_input;   /* see mrsha_input.h */

/* What holds for all inputs of a run. */
typedef struct input_settings {
    int64_t window_left, window_right; /* -1: unbounded */
    input_layout layout;
    int bias;           /* a random bias [Hq, Nq, Nk], normal with deviation 1 */
    int bool_mask;      /* a random mask [Hq, Nq, Nk], about 90 % visible, at least one key in each row */
    int steps;          /* non-zero: what has a state takes one token with it */
    const char *folder; /* where learned parameters are read from; NULL: random */
    aft_settings aft;
    linear_settings linear;
    mrsha_settings mrsha;
    uint64_t seed;
} input_settings;

typedef struct attention_input {
    char name[256];
    attention_shape shape;
    int rank; /* 3 or 4: dimensions of the files; 4 where it is random */
    int random, causal;
    input_settings settings;
    heed_tensor q, k, v;
    heed_tensor bias, visible; /* data NULL where not asked for */
    heed_mask mask;            /* causal, window, visible */
    heed_softmax_options options;
    aft_input *aft;       /* NULL where no form of AFT runs */
    linear_input *linear; /* NULL where no linear attention runs */
    mrsha_input *mrsha;   /* NULL where no MrsHA runs */
    void *buffers[5];
} attention_input;

/* Reads or makes an input. Returns NULL with the reason in `message`. */
attention_input *input_create(const input_source *source, const input_settings *settings, char *message,
                              size_t message_bytes);
void input_destroy(attention_input *input);

/* Normal random numbers of four sizes, from a stream of the seed. Freed with free(); NULL without memory. */
float *input_make_normal(const int64_t sizes[4], uint64_t seed, uint64_t stream, float deviation);

/* The keys [begin, end) that query i may see by causality and window; empty where begin >= end. */
void input_visible_range(const attention_input *input, int64_t i, int64_t *begin, int64_t *end);

/* Query-key pairs that causality and window leave, over all batch elements and query heads. A boolean mask leaves
 * all: what it hides is not known before. */
double input_visible_pairs(const attention_input *input);

/* Tokens [first, first + n) of a view. */
heed_tensor input_take_tokens(const heed_tensor *t, int64_t first, int64_t n);

/* Makes a contiguous or token-major view for an output of this input with so many channels, as its layout asks, over
 * `data`. */
heed_tensor input_output_view(const attention_input *input, int64_t n_channels, float *data);

#endif
