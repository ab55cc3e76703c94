/* Problems for the tests of linear attention: tensors in guarded buffers of any layout, feature maps of every kind with
 * random matrices, masks, and states, all of one case of a table. */
#ifndef HEED_TEST_LINEAR_PROBLEM_H
#define HEED_TEST_LINEAR_PROBLEM_H

#include "oracle/oracle.h"
#include "support/attention.h"

/* ---- Maps ---- */

typedef enum map_kind {
    MAP_DEFAULT,  /* no map at all: elu(x) + 1 */
    MAP_IDENTITY, /* no layers; q and k are positive */
    MAP_ELU1,
    MAP_RELU,
    MAP_SOFTPLUS,
    MAP_GLU,    /* the last unit alone */
    MAP_GLU2,   /* a hidden unit before it */
    MAP_AOGLU3, /* two hidden units before it, all with gates of rank r */
    MAP_GLU8,   /* eight layers */
    MAP_FAVOR,
    MAP_FAVOR_RELU,
    MAP_GLU_FAVOR,   /* a hidden unit before FAVOR+ */
    MAP_ELU_RELU,    /* layers without matrices, one on the other */
    MAP_ELU_BETWEEN, /* and one between two that have some */
    N_MAP_KINDS
} map_kind;

const char *map_name(map_kind kind);

/* The eps of RELU and FAVOR layers in tables of problems. Features of a projection's ReLU are far above its rounding
 * error then. */
float map_usual_eps(map_kind kind);

/* 1 for kinds whose features have a number of their own: C may differ from D. */
int map_has_width(map_kind kind);

enum { MAP_MAX_TENSORS = 5 * ORACLE_MAX_LAYERS };

/* A map and what it points to: it stays where it was made. */
typedef struct test_map {
    heed_feature_map map;
    heed_feature_layer layers[ORACLE_MAX_LAYERS];
    heed_tensor tensors[MAP_MAX_TENSORS];
    guarded memory[MAP_MAX_TENSORS];
    int n_tensors;
} test_map;

/* Matrices of deviation 1 / sqrt(in), omega of 1: what layers read and make stays of the size of 1. eps is that of RELU
 * and FAVOR layers. */
void map_create(test_map *map, map_kind kind, int64_t heads, int64_t channels, int64_t n_features, float eps,
                uint64_t stream);

/* A map of the same layers and shapes, whose matrices hold NaN: for gradients. */
void map_create_like(test_map *map, const test_map *like);
void map_destroy(test_map *map);

/* ---- Problems ---- */

typedef enum linear_layout {
    LINEAR_BHND,
    LINEAR_BNHD,
    LINEAR_PADDED,
    LINEAR_PAGES, /* rows a page apart, one float beside the alignment */
    N_LINEAR_LAYOUTS
} linear_layout;

/* What hides keys, besides `causal`. */
typedef enum linear_hiding {
    HIDE_NOTHING,
    HIDE_LENGTHS,        /* of queries and keys */
    HIDE_TOP_LEFT,       /* alignment, and lengths of keys */
    HIDE_POSITIONS,      /* alignment: queries start a little before or behind the keys */
    HIDE_WINDOW,         /* window_right of 3 */
    HIDE_FLAGS,          /* of keys, for all heads */
    HIDE_FLAGS_OF_HEADS, /* for each head its own, where Hq = Hkv; else as HIDE_FLAGS */
    HIDE_MUCH,           /* flags, lengths, positions and a window of 0 */
    N_HIDINGS
} linear_hiding;

typedef struct linear_case {
    int64_t batch, q_heads, kv_heads, n_queries, n_keys, channels, value_channels;
    int64_t n_features;   /* of kinds that have a width; 0: as channels */
    map_kind map;         /* of keys, and of queries unless: */
    int has_query_map;    /* a second map of the same kind for queries */
    int one_head_for_all; /* weights with one head */
    int causal;
    linear_hiding hiding;
    float eps;        /* of the denominator */
    float map_eps;    /* of RELU and FAVOR layers */
    int has_state;    /* with sums and norms of some tokens before */
    int64_t n_recent; /* recent rows of the state */
    linear_layout layout;
    uint64_t stream; /* of random numbers: two problems of one stream hold the same */
} linear_case;

enum { LINEAR_MAX_TENSORS = 64, LINEAR_MAX_BATCH = 4 };

typedef struct linear_problem {
    linear_case c;
    int64_t n_features;
    heed_tensor q, k, v, out, visible;
    test_map key_map, query_map;
    heed_mask mask;
    int64_t query_lengths[LINEAR_MAX_BATCH], key_lengths[LINEAR_MAX_BATCH];
    int64_t query_start[LINEAR_MAX_BATCH], key_start[LINEAR_MAX_BATCH];
    heed_linear_options options;
    double tolerance;        /* of rows, as a factor of max|v|; 0: linear_tolerance() finds it */
    heed_linear_state state; /* all 0 unless has_state */
    int64_t n_tokens[LINEAR_MAX_BATCH];
    guarded memory[LINEAR_MAX_TENSORS];
    int n_tensors, out_at; /* out is tensor number out_at */
} linear_problem;

/* On the heap, so that options may point into it. q and k normal, v uniform on [-1, 1]; sums of the state at most norms,
 * so that rows of it stay within [-1, 1]. */
linear_problem *linear_create(const linear_case *c);
void linear_destroy(linear_problem *p);

/* One more tensor, given back with the problem; holds NaN. */
heed_tensor linear_tensor(linear_problem *p, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c,
                          linear_layout layout);
heed_tensor linear_tensor_like(linear_problem *p, const heed_tensor *tensor);

/* A state of the problem's sizes with n_recent rows, everything 0. n_tokens holds LINEAR_MAX_BATCH numbers. */
heed_linear_state linear_new_state(linear_problem *p, int64_t n_recent, int64_t *n_tokens);
void linear_copy_state(const heed_linear_state *to, const heed_linear_state *from);

/* The problem's state, or NULL. */
const heed_linear_state *linear_state(const linear_problem *p);

/* What the case is, in words. */
const char *linear_describe(const linear_problem *p);

#endif
