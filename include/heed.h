/* heed: attention kernels for CPUs.
 *
 * A tour
 * ------
 * A *tensor* is a view of the caller's memory: four sizes, four strides, nothing owned. A *context* holds
 * everything heed needs besides: the instruction set it computes with, the threads, and the scratch memory, all
 * taken once when it is made. A *mechanism* is a function of tensors and options:
 *
 *     heed_context *context;
 *     heed_context_create(NULL, &context, NULL, 0);
 *     heed_tensor q   = heed_tensor_bhnd(q_data, HEED_FLOAT32, 1, 8, 512, 64);
 *     heed_tensor k   = heed_tensor_bhnd(k_data, HEED_FLOAT32, 1, 2, 512, 64);
 *     heed_tensor v   = heed_tensor_bhnd(v_data, HEED_FLOAT32, 1, 2, 512, 64);
 *     heed_tensor out = heed_tensor_bhnd(o_data, HEED_FLOAT32, 1, 8, 512, 64);
 *     if (heed_softmax_forward(context, &q, &k, &v, NULL, &out, NULL) != HEED_OK)
 *         puts(heed_context_message(context));
 *     heed_context_destroy(context);
 *
 * Every mechanism has the same verbs: forward, backward, step (the next tokens, with a state) and merge (two partial
 * results over different keys). This version holds softmax attention, multiresolution-head attention (MrsHA) and the
 * Attention-Free Transformer (AFT), all forward, the steps of the latter two, merge, and linear attention with all verbs,
 * its feature maps and the weights to begin training them with.
 *
 * Rules that hold everywhere
 * --------------------------
 * - Shapes are (batch, head, token, channel), strides count elements, sizes are int64_t.
 * - A call that returns an error has written nothing to its outputs. heed_context_message() says in words what
 *   was wrong with the last call on that context.
 * - After a context is made heed allocates nothing, takes no lock, prints nothing, never aborts, and changes no
 *   global state. (The OpenMP runtime may allocate when a thread enters its first parallel region and does not
 *   survive fork(); contexts with one thread or with a hook do. OpenBLAS, where a function says that it calls it,
 *   follows its own rules in all of this.)
 * - One call at a time per context; a second one returns HEED_ERROR_BUSY. Any number of contexts at once.
 * - Data is never inspected for validity. A visible NaN in q, k or a bias makes its row NaN, in v its channel; a
 *   score of +inf gives NaN; a score of -inf counts as hidden. Hidden keys and values, and anything beyond the
 *   lengths, may hold NaN or Inf without effect. Nobody's NaN changes a neighbour's bits.
 * - For one instruction set and one build, an output row depends on its own inputs, its visible key range, the
 *   sizes Nq, D, Dv, Hq / Hkv, its index and the options; not on the batch size, other heads, padding, strides,
 *   the number of threads, the hook, or earlier calls. The same row gives the same bits.
 * - Inputs are never read outside their bounds. Float data is aligned to four bytes; no more is asked for.
 * - An output must not share an element with any other argument unless its description says "in place". (Views
 *   that interleave in one buffer without sharing an element are fine. A pair of views too tangled to decide in
 *   about a million steps counts as overlapping.)
 */
#ifndef HEED_H
#define HEED_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @defgroup version Version
 *  @{ */

#define HEED_VERSION_MAJOR 0 /**< The header's version: changes that break users, */
#define HEED_VERSION_MINOR 1 /**< changes that add, */
#define HEED_VERSION_PATCH 0 /**< and changes that mend. */
/** The header's version as text. */
#define HEED_VERSION "0.1.0"

#if defined(HEED_SHARED) && (defined(__GNUC__) || defined(__clang__))
/** Marks what a shared library exports. */
#define HEED_API __attribute__((visibility("default")))
#else
/** Marks what a shared library exports. */
#define HEED_API
#endif

/** The library's version, "major.minor.patch". Compare with #HEED_VERSION. Safe from any thread. */
HEED_API const char *heed_version(void);

/** @}
 *  @defgroup status Statuses
 *  @{ */

/** What a call returns. Everything but HEED_OK leaves all outputs untouched. */
typedef enum heed_status {
    HEED_OK = 0,
    HEED_ERROR_ARGUMENT,    /**< NULL, unknown enum or struct_size, misaligned pointer, value out of range */
    HEED_ERROR_SHAPE,       /**< sizes that are negative, zero where they must not be, disagree, or multiply to 2^60 */
    HEED_ERROR_STRIDE,      /**< negative, last one not 1, 0 in an output, or an offset of 2^60 bytes or more */
    HEED_ERROR_OVERLAP,     /**< an output shares an element with another argument or with itself */
    HEED_ERROR_DTYPE,       /**< a tensor of another type than the function takes */
    HEED_ERROR_UNSUPPORTED, /**< well formed, but this version or this build does not do it */
    HEED_ERROR_ISA,         /**< an instruction set that is unknown, not built in, or not on this machine */
    HEED_ERROR_SCRATCH,     /**< the context's scratch is too small; the message names the bytes */
    HEED_ERROR_MEMORY,      /**< the allocator returned NULL (only when a context is made) */
    HEED_ERROR_BUSY         /**< another call is running on this context; its message is left as it is */
} heed_status;

/** A short English text for a status; "unknown status" for anything else. Never NULL. Safe from any thread. */
HEED_API const char *heed_status_text(heed_status status);

/** @}
 *  @defgroup tensor Tensors
 *  @{ */

/** Element types. */
typedef enum heed_dtype {
    HEED_FLOAT32 = 1, /**< IEEE binary32 */
    HEED_BOOL = 2     /**< one byte, non-zero is true */
} heed_dtype;

/** A view of the caller's memory: (batch, head, token, channel).
 *
 *  Element (b, h, n, c) lies at data + b stride[0] + h stride[1] + n stride[2] + c stride[3] elements. The last
 *  stride is 1; where a size is 1 its stride is never looked at. Tensors of lower rank are right-aligned: their
 *  leading sizes are 1. Stride 0 repeats an input; outputs have no stride 0. data may be NULL where a size is 0. */
typedef struct heed_tensor {
    void *data;        /**< first element; inputs are only read */
    heed_dtype dtype;  /**< element type */
    int64_t shape[4];  /**< sizes: batch, head, token, channel */
    int64_t stride[4]; /**< distances in elements, >= 0 */
} heed_tensor;

/** A contiguous view in the order batch, head, token, channel. No errors: sizes are checked by the call that takes
 *  the view. Safe from any thread. */
HEED_API heed_tensor heed_tensor_bhnd(const void *data, heed_dtype dtype, int64_t batch, int64_t heads, int64_t tokens,
                                      int64_t channels);

/** A contiguous view in memory order batch, token, head, channel; its shape still reads (batch, head, token,
 *  channel). No errors, safe from any thread. */
HEED_API heed_tensor heed_tensor_bnhd(const void *data, heed_dtype dtype, int64_t batch, int64_t heads, int64_t tokens,
                                      int64_t channels);

/** @}
 *  @defgroup context Contexts
 *  @{ */

/** Instruction sets. */
typedef enum heed_isa {
    HEED_ISA_AUTO = 0,   /**< what the environment variable HEED_ISA names (scalar, avx2 ...), else the best */
    HEED_ISA_SCALAR = 1, /**< portable C */
    HEED_ISA_AVX2 = 2,   /**< x86 with AVX2 and FMA */
    HEED_ISA_AVX512 = 3, /**< x86 with AVX-512 F, BW, DQ and VL */
    HEED_ISA_NEON = 4    /**< 64-bit Arm */
} heed_isa;

/** "scalar", "avx2", "avx512", "neon" or "auto"; "unknown" for anything else. Safe from any thread. */
HEED_API const char *heed_isa_name(heed_isa isa);

/** 1 when this build holds kernels for `isa` and this machine and its operating system can run them, else 0. AUTO
 *  counts as supported. Safe from any thread. */
HEED_API int heed_isa_supported(heed_isa isa);

/** Runs task(job, index, worker) once for every index in [0, n_tasks), in any order, and returns when all have run.
 *  `worker` lies in [0, n_threads) and two tasks that run at one time have different workers. Tasks never wait for
 *  each other, so the hook may run them one by one. `pool` is what the config gave. */
typedef void (*heed_parallel_for_fn)(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker),
                                     void *job);

/** Returns `bytes` bytes aligned to `alignment` (a power of two), or NULL. `allocator` is what the config gave. */
typedef void *(*heed_allocate_fn)(void *allocator, size_t bytes, size_t alignment);

/** Gives back what heed_allocate_fn returned, with the same `bytes`. */
typedef void (*heed_release_fn)(void *allocator, void *memory, size_t bytes);

/** How to make a context. Fill with #HEED_CONFIG_INIT, then change what you need. */
typedef struct heed_config {
    size_t struct_size;                /**< sizeof(heed_config) */
    heed_isa isa;                      /**< instruction set; AUTO reads HEED_ISA here and only here */
    int n_threads;                     /**< 1: the calling thread alone; n <= 1024: up to n, by OpenMP or the hook;
                                            0: as many as OpenMP would use by itself (not with a hook) */
    heed_parallel_for_fn parallel_for; /**< runs the tasks in the caller's pool, or NULL */
    void *pool;                        /**< handed to parallel_for */
    heed_allocate_fn allocate;         /**< both hooks or none; NULL: aligned_alloc and free */
    heed_release_fn release;           /**< see allocate */
    void *allocator;                   /**< handed to allocate and release */
    int64_t scratch_bytes;             /**< scratch of each worker; 0: enough for the table at heed_context_create() */
} heed_config;

/* clang-format off */
/** One thread, AUTO, malloc, default scratch. */
#define HEED_CONFIG_INIT {sizeof(heed_config), HEED_ISA_AUTO, 1, NULL, NULL, NULL, NULL, NULL, 0}
/* clang-format on */

/** Holds the instruction set, the threads and the scratch. */
typedef struct heed_context heed_context;

/** Makes a context; all memory is taken here, in one allocation.
 *
 *  Default scratch (scratch_bytes = 0) is enough for:
 *
 *  | mechanism | sizes up to                                                                            |
 *  |-----------|----------------------------------------------------------------------------------------|
 *  | softmax   | D, Dv <= 1024                                                                          |
 *  | MrsHA     | D, Dv <= 1024                                                                          |
 *  | AFT       | D, d' <= 1024, windows of any size, filters of 512 taps, of 31 x 31 on grids 256 wide  |
 *  | linear    | D, Dv, C and the widths of layers <= 1024; backward: <= 256, 4 layers                  |
 *  | merge     | any (needs none)                                                                       |
 *
 *  @param config         NULL means #HEED_CONFIG_INIT
 *  @param context        receives the context; NULL on error
 *  @param message        receives what was wrong in words (empty on success), or NULL
 *  @param message_bytes  size of message
 *  @return HEED_OK; HEED_ERROR_ARGUMENT (NULL context, struct_size, n_threads, one allocator hook without the other,
 *          negative scratch_bytes); HEED_ERROR_ISA (unknown, not built in, or not on this machine, also when the
 *          name came from HEED_ISA); HEED_ERROR_UNSUPPORTED (n_threads > 1 without hook in a build without OpenMP);
 *          HEED_ERROR_MEMORY.
 *
 *  Safe from any thread, as long as nobody changes the environment meanwhile. */
HEED_API heed_status heed_context_create(const heed_config *config, heed_context **context, char *message,
                                         size_t message_bytes);

/** Gives the memory back. NULL is fine. No call may be running on the context. */
HEED_API void heed_context_destroy(heed_context *context);

/** What was wrong with the last call on this context, e.g. "k: 64 channels expected (as in q), got 32"; empty after
 *  a call that returned HEED_OK. Lives until the next call on the context. Not while a call runs on it. */
HEED_API const char *heed_context_message(const heed_context *context);

/** What the last successful call on a context did. Fill with #HEED_REPORT_INIT. */
typedef struct heed_report {
    size_t struct_size;           /**< sizeof(heed_report) */
    heed_isa isa;                 /**< the instruction set that ran; never AUTO */
    const char *path;             /**< the path taken, a constant string: "softmax-tiles", "softmax-ranges" (few query
                                       rows, keys cut into ranges), "mrsha" (with a coarse head), "mrsha-steps",
                                       "aft-rows" (key by key), "aft-scan" (one pass for all rows), "aft-blocks" (matrix
                                       products), "aft-window", "aft-conv", "aft-grid" (the same within a window),
                                       "aft-steps", "aft-filter", "aft-gate", "linear-sums" (all keys, then all rows),
                                       "linear-chunks" (causal), "linear-steps", "linear-merge", "feature-map",
                                       "feature-map-blas" (the product by OpenBLAS), "init-orthogonal", "init-he",
                                       "init-favor", "orthogonality", "merge", or "none" before the first call */
    int64_t n_tasks;              /**< independent tasks the work was cut into */
    int n_workers;                /**< most workers that may have run at once; 1: no thread was woken */
    int64_t scratch_bytes;        /**< scratch the call carved, all workers together */
    int64_t exact_recomputations; /**< results that were recomputed on an exact path */
} heed_report;

/* clang-format off */
/** An empty report. */
#define HEED_REPORT_INIT {sizeof(heed_report), HEED_ISA_AUTO, NULL, 0, 0, 0, 0}
/* clang-format on */

/** Fills `report`. Errors: HEED_ERROR_ARGUMENT (NULL, struct_size). Not while a call runs on the context. */
HEED_API heed_status heed_context_report(const heed_context *context, heed_report *report);

/** @}
 *  @defgroup mask Masks
 *  @{ */

/** Where queries and keys stand. Causal, windows and ALiBi compare these positions and nothing else, so that a part
 *  of the keys knows where it stands and parts can be merged. Lq and Lk are the lengths of the batch element. */
typedef enum heed_alignment {
    HEED_ALIGN_BOTTOM_RIGHT = 0, /**< query i at i + Lk - Lq, key j at j: the last query sees the last key */
    HEED_ALIGN_TOP_LEFT = 1,     /**< query i at i, key j at j */
    HEED_ALIGN_POSITIONS = 2     /**< query i at query_start[b] + i, key j at key_start[b] + j */
} heed_alignment;

/** Who sees whom. All conditions hold together. Fill with #HEED_MASK_INIT.
 *
 *  Query i sees key j when i < Lq, j < Lk, and with p the distance pos_k(j) - pos_q(i): p <= 0 if causal,
 *  p >= -window_left and p <= window_right where these are not -1, and visible(b, h, i, j) where given. A query that
 *  sees no key gives 0 and lse -inf (or its sink). */
typedef struct heed_mask {
    size_t struct_size;           /**< sizeof(heed_mask) */
    int causal;                   /**< non-zero: no key after the query's position */
    int64_t window_left;          /**< keys at most this far before the query, inclusive; -1: unbounded */
    int64_t window_right;         /**< keys at most this far after the query, inclusive; -1: unbounded */
    const int64_t *query_lengths; /**< [B], each in 0..Nq, or NULL: Nq */
    const int64_t *key_lengths;   /**< [B], each in 0..Nk, or NULL: Nk */
    const heed_tensor *visible;   /**< HEED_BOOL (B or 1, Hq or 1, Nq or 1, Nk), true: visible; or NULL */
    heed_alignment alignment;     /**< where queries and keys stand */
    const int64_t *query_start;   /**< [B], |start| <= 2^60, only with HEED_ALIGN_POSITIONS; NULL: 0 */
    const int64_t *key_start;     /**< [B], likewise */
} heed_mask;

/* clang-format off */
/** Everybody sees everybody; bottom right where it matters. */
#define HEED_MASK_INIT {sizeof(heed_mask), 0, -1, -1, NULL, NULL, NULL, HEED_ALIGN_BOTTOM_RIGHT, NULL, NULL}
/* clang-format on */

/** @}
 *  @defgroup softmax Softmax attention
 *  @{ */

/** Options of softmax attention. Fill with #HEED_SOFTMAX_OPTIONS_INIT.
 *
 *  The score of query i and key j (the order of ONNX Attention) is
 *
 *      s = scale q_i.k_j
 *      s = cap tanh(s / cap)                         if cap > 0
 *      s = s + bias_ij + slope_h (pos_k - pos_q)     causal; else - slope_h |pos_k - pos_q|
 *
 *  then hidden keys leave, and the sink of the head joins the denominator as one more key without a value. */
typedef struct heed_softmax_options {
    size_t struct_size;        /**< sizeof(heed_softmax_options) */
    float scale;               /**< finite; 0: 1 / sqrt(D) */
    float softcap;             /**< cap, finite and >= 0; 0: none */
    const heed_tensor *bias;   /**< float32 (B or 1, Hq or 1, Nq or 1, Nk), or NULL; a score of -inf hides */
    const float *alibi_slopes; /**< [Hq], or NULL */
    const float *sinks;        /**< [Hq], or NULL; -inf: no sink in that head */
    const heed_mask *mask;     /**< or NULL: everybody sees everybody */
} heed_softmax_options;

/* clang-format off */
/** Scale 1 / sqrt(D), nothing else. */
#define HEED_SOFTMAX_OPTIONS_INIT {sizeof(heed_softmax_options), 0.0f, 0.0f, NULL, NULL, NULL, NULL}
/* clang-format on */

/** Softmax attention: out_i = sum_j p_ij v_j, p_ij = exp(s_ij) / (sum_j exp(s_ij) + exp(sink_h)).
 *
 *  "Attention Is All You Need", equation 1; evaluated over blocks of keys as in FlashAttention, algorithm 1: nothing
 *  of size Nq x Nk exists. Query head h uses key and value head h / (Hq / Hkv), rounded down: multi-head, grouped and
 *  multi-query attention.
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, Hq, Nq, D)
 *  @param k    float32 (B, Hkv, Nk, D); Hq is a multiple of Hkv
 *  @param v    float32 (B, Hkv, Nk, Dv)
 *  @param options  or NULL: #HEED_SOFTMAX_OPTIONS_INIT
 *  @param out  float32 (B, Hq, Nq, Dv)
 *  @param lse  float32 (B, Hq, Nq, 1) or NULL; receives log(sum_j exp(s_ij) + exp(sink_h)), the natural logarithm
 *
 *  D, Dv >= 1; B, Hq, Nq or Nk = 0 is legal. Rows without a visible key give 0 and lse = its sink, or -inf without
 *  sinks; rows beyond query_lengths give 0 and -inf. Of parts that will be merged exactly one gets the sinks.
 *
 *  Error against float64 on random inputs, D <= 1024: at most 2e-6 max|v| for scores up to 30 and Nk <= 32768 (3e-6
 *  where every single row reaches 30), at most 2e-5 max|v| where one early score stands 17 above up to 16383 others.
 *  Beyond 30 it grows with the scores. Error of lse: as much (without max|v|), 1 ulp, and 2.5e-7 for every 128 keys
 *  over which the largest score so far goes on rising. v = 1 in all visible rows gives exactly 1 (without sinks), and
 *  a row that sees one key gives its value.
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _SCRATCH, _BUSY.
 *  Safe from any thread with a context of its own. */
HEED_API heed_status heed_softmax_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                          const heed_tensor *v, const heed_softmax_options *options,
                                          const heed_tensor *out, const heed_tensor *lse);

/** The scratch that heed_softmax_forward() carves for each worker, in bytes, the same for every instruction set. It
 *  follows from D, Dv and the options, never from B, H, Nq or Nk. Only the shapes of q, k and v are read.
 *  Errors: HEED_ERROR_ARGUMENT, _SHAPE; *bytes is then left as it is. Safe from any thread. */
HEED_API heed_status heed_softmax_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                                const heed_softmax_options *options, int64_t *bytes);

/** @}
 *  @defgroup aft Attention-Free Transformer
 *  @{ */

/** What the query does to its row of output. */
typedef enum heed_gate {
    HEED_GATE_SIGMOID = 0, /**< out = sigmoid(q) x, as in the paper */
    HEED_GATE_NONE = 1     /**< out = x; parts that will be merged are left so, and gated once afterwards */
} heed_gate;

/** Options of the four forms of AFT. Fill with #HEED_AFT_OPTIONS_INIT.
 *
 *  The position bias w of the full and the local form is given as numbers (`w`), or as the product of factors
 *  w_ij = u_i.v_j (equation 7: `query_factors` and `key_factors`), or not at all: 0. A bias of -inf hides. */
typedef struct heed_aft_options {
    size_t struct_size;               /**< sizeof(heed_aft_options) */
    heed_gate gate;                   /**< what the query does */
    const heed_mask *mask;            /**< or NULL: everybody sees everybody */
    const heed_tensor *w;             /**< float32 (B or 1, H or 1, Nq or 1, Nk), or NULL; full and local only */
    const heed_tensor *query_factors; /**< u, float32 (B or 1, H or 1, Nq, d'), or NULL; full and local only */
    const heed_tensor *key_factors;   /**< v, float32 (B or 1, H or 1, Nk, d'), with query_factors */
    int64_t window;                   /**< local: s >= 1, the bias counts where |pos_k - pos_q| < s; else 0 */
    int banded;                       /**< local: non-zero: w has 2 s - 1 columns (causal: s), and column c is the key
                                           at pos_q - s + 1 + c */
    int nothing_outside;              /**< local: non-zero: keys outside the window are hidden (the paper: bias 0) */
    int64_t grid_height; /**< conv with a filter of two dimensions: tokens are a grid, row by row; else 0 */
    int64_t grid_width;  /**< see grid_height */
} heed_aft_options;

/* clang-format off */
/** Gate sigmoid(q), no mask, no bias. */
#define HEED_AFT_OPTIONS_INIT {sizeof(heed_aft_options), HEED_GATE_SIGMOID, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0}
/* clang-format on */

/** AFT-full: for each channel d,
 *
 *      out_id = gate(q_id) sum_j exp(k_jd + w_ij) v_jd / sum_j exp(k_jd + w_ij)
 *
 *  "An Attention Free Transformer" (Zhai et al. 2021), equation 2.
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, H, Nq, D)
 *  @param k    float32 (B, H, Nk, D)
 *  @param v    float32 (B, H, Nk, D)
 *  @param options  or NULL: #HEED_AFT_OPTIONS_INIT
 *  @param out  float32 (B, H, Nq, D)
 *  @param lse  float32 (B, H, Nq, D) or NULL; receives log(sum_j exp(k_jd + w_ij)), of the value before the gate
 *
 *  D >= 1; B, H, Nq or Nk = 0 is legal. Channels that see no key, and rows beyond query_lengths, give 0 and lse -inf.
 *  A visible NaN in k, v or q makes its channel NaN, in w its row; a key of -inf hides that key from its channel.
 *
 *  One token at a time: this call with Nq = 1 over the caller's cache of keys and values, as in softmax attention. The
 *  other forms have steps with a state that does not grow.
 *
 *  Error against float64 for |k| <= 1e4, |w| <= 100, |v| <= 1e30 and Nk <= 32768: on random inputs 1e-5 max|v|; at most
 *  2e-5 max|v| where the keys of a row that count stand some 200 apart and the biases make up for it. v = 1 gives exactly
 *  the gate. Causal rows keep their bits when later tokens change.
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _SCRATCH, _BUSY; HEED_ERROR_ARGUMENT too
 *  for an option of another form. Safe from any thread with a context of its own. */
HEED_API heed_status heed_aft_full_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                           const heed_tensor *v, const heed_aft_options *options,
                                           const heed_tensor *out, const heed_tensor *lse);

/** AFT-local, equation 4: heed_aft_full_forward() where the bias counts within options.window only. Keys outside take
 *  part with a bias of 0, unless `nothing_outside`. In time O(Nq s D) for windows s <= 512, where the mask has no window,
 *  no `visible`, and nothing is hidden outside. Everything else as there. */
HEED_API heed_status heed_aft_local_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                            const heed_tensor *v, const heed_aft_options *options,
                                            const heed_tensor *out, const heed_tensor *lse);

/** AFT-simple, equation 5: heed_aft_full_forward() without a bias, in time O((Nq + Nk) D) where neither a window nor
 *  `visible` cuts the keys of single rows. Everything else as there. */
HEED_API heed_status heed_aft_simple_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                             const heed_tensor *v, const heed_aft_options *options,
                                             const heed_tensor *out, const heed_tensor *lse);

/** AFT-conv, equation 6: one scalar key for each head and token, and a bias that is a filter over the distance,
 *
 *      out_id = gate(q_id) sum_j exp(k_j + w_ij) v_jd / sum_j exp(k_j + w_ij)
 *
 *  with w_ij = filter[h][c] where key j stands at distance c - (s - 1) / 2 from query i (causal: c - s + 1), and 0 where
 *  it stands elsewhere: taps are not flipped. With a filter of two dimensions the tokens are a grid of grid_height x
 *  grid_width, Nq = Nk = their product, and the distance is taken along both.
 *
 *  @param context  what it runs on
 *  @param q       float32 (B, H, Nq, D)
 *  @param k       float32 (B, H, Nk, 1)
 *  @param v       float32 (B, H, Nk, D)
 *  @param filter  float32 (1, H or 1, 1, s), or with a grid (1, H or 1, s1, s2); odd sizes, unless causal
 *  @param options  or NULL: #HEED_AFT_OPTIONS_INIT
 *  @param out     float32 (B, H, Nq, D)
 *  @param lse     float32 (B, H, Nq, 1) or NULL
 *
 *  In time O(Nq s D) where the mask has neither a window nor `visible` and a grid is 3 wide or more; with two
 *  dimensions s is the number of all taps.
 *
 *  A grid with a causal mask or with another alignment than the default is HEED_ERROR_UNSUPPORTED. Everything else as
 *  in heed_aft_full_forward(). */
HEED_API heed_status heed_aft_conv_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                           const heed_tensor *v, const heed_tensor *filter,
                                           const heed_aft_options *options, const heed_tensor *out,
                                           const heed_tensor *lse);

/** The scratch that heed_aft_full_forward() asks for, for each worker, in bytes, the same for every instruction set. It
 *  follows from D and the factors d', never from B, H, Nq or Nk; where the mask hides much, or rows are few, the call
 *  carves less. Only the shapes of tensors are read, those of the factors among them, and the mask is not.
 *  Errors: HEED_ERROR_ARGUMENT, _SHAPE; *bytes is then left as it is. Safe from any thread. */
HEED_API heed_status heed_aft_full_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                                 const heed_aft_options *options, int64_t *bytes);

/** As heed_aft_full_scratch_bytes(), for heed_aft_local_forward(): from D, d' and the window. */
HEED_API heed_status heed_aft_local_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                                  const heed_aft_options *options, int64_t *bytes);

/** As heed_aft_full_scratch_bytes(), for heed_aft_simple_forward(): from D. */
HEED_API heed_status heed_aft_simple_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                                   const heed_aft_options *options, int64_t *bytes);

/** As heed_aft_full_scratch_bytes(), for heed_aft_conv_forward(): from D, the taps, and the width of the grid. */
HEED_API heed_status heed_aft_conv_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                                 const heed_tensor *filter, const heed_aft_options *options,
                                                 int64_t *bytes);

/** out = sigmoid(q) x, all (B, H, N, D): the gate of AFT, once, after parts without one have been merged. out may be
 *  exactly x. sigmoid to 3 ulp (0 below 2^-126), the product rounded once more. Errors as in heed_merge(). */
HEED_API heed_status heed_aft_gate(heed_context *context, const heed_tensor *q, const heed_tensor *x,
                                   const heed_tensor *out);

/** The filter of heed_aft_conv_forward() as the paper learns it, equation 8, for each head h by itself:
 *
 *      filter = gamma_h (p - mean(p)) / (std(p) + 1e-5) + beta_h
 *
 *  with mean and standard deviation (of the population) over all taps of the head. gamma = beta = 0, where training
 *  starts, gives 0: AFT-simple with scalar keys. Taps that are all alike give beta.
 *
 *  @param context  what it runs on
 *  @param p       float32 (1, H, s1, s2), s1 = 1 for a filter of one dimension
 *  @param gamma   [H]
 *  @param beta    [H]
 *  @param filter  float32 (1, H, s1, s2)
 *
 *  Computed in float64 and rounded once. Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE,
 *  _BUSY. Safe from any thread with a context of its own. */
HEED_API heed_status heed_aft_conv_filter(heed_context *context, const heed_tensor *p, const float *gamma,
                                          const float *beta, const heed_tensor *filter);

/** @}
 *  @defgroup aft_steps Attention-Free Transformer, step by step
 *
 *  A step takes the next N >= 0 tokens of each sequence and gives their rows of the causal forward call over all tokens
 *  so far. What it needs of the earlier ones is a *state* of constant size, in the caller's memory:
 *
 *  - sums (B, H, 6, D): the two sums of equation 2 over all tokens that have left the window, for each channel. The six
 *    rows are the reference they stand against (a key, and its bias: they are num and den divided by exp of both), num
 *    and den, and num and den of the latest up to 64 tokens, which join the others together so that nothing small gets
 *    lost.
 *  - keys, values (B, H, s, ...): the last s tokens, token t in row t % s. Not in AFT-simple.
 *  - n_tokens [B]: the tokens so far. Sequences may stand at different tokens.
 *
 *  Making one: `_state_bytes` tells the bytes, `_state_view` places the parts in memory of that size, aligned to eight
 *  bytes, and `_state_reset` starts sequences. In that memory lie n_tokens, then for each batch element one behind the
 *  other its sums, keys and values, heads outermost, without gaps: so a sequence is one piece, state.sums.stride[0]
 *  floats long, which with its n_tokens can be copied, kept and sent, and goes on wherever the bytes are read the same
 *  way (with another instruction set up to rounding). But any views of the right shapes are a state, in any layout.
 *
 *  A sequence goes on with the options that it began with: s, `nothing_outside`.
 *
 *  The cost of a token is O(D) in AFT-simple, O(s D) in the others, whatever came before. The same tokens give the same
 *  bits, however they are cut into steps.
 *  @{ */

/** State of AFT-simple: every token goes into the sums. */
typedef struct heed_aft_simple_state {
    heed_tensor sums;  /**< float32 (B, H, 6, D) */
    int64_t *n_tokens; /**< [B] */
} heed_aft_simple_state;

/** State of AFT-local with a window of s. */
typedef struct heed_aft_local_state {
    heed_tensor sums;   /**< float32 (B, H, 6, D) */
    heed_tensor keys;   /**< float32 (B, H, s, D) */
    heed_tensor values; /**< float32 (B, H, s, D) */
    int64_t *n_tokens;  /**< [B] */
} heed_aft_local_state;

/** State of AFT-conv with a filter of s taps. */
typedef struct heed_aft_conv_state {
    heed_tensor sums;   /**< float32 (B, H, 6, D) */
    heed_tensor keys;   /**< float32 (B, H, s, 1) */
    heed_tensor values; /**< float32 (B, H, s, D) */
    int64_t *n_tokens;  /**< [B] */
} heed_aft_conv_state;

/** The memory of a state of AFT-simple: 8 B + 24 B H D bytes. Errors: HEED_ERROR_ARGUMENT (NULL), _SHAPE (negative sizes,
 *  no channel, 2^60 elements or more); *bytes is then left as it is. Safe from any thread. */
HEED_API heed_status heed_aft_simple_state_bytes(int64_t batch, int64_t heads, int64_t channels, int64_t *bytes);

/** The state in `memory`, which is neither read nor written. No errors: sizes are checked by the step. Safe from any
 *  thread. */
HEED_API heed_aft_simple_state heed_aft_simple_state_view(void *memory, int64_t batch, int64_t heads, int64_t channels);

/** Starts sequence b anew, or all of them with b = -1. Errors: HEED_ERROR_ARGUMENT (NULL, b), and those of the parts as
 *  in heed_aft_simple_step(); nothing is then written. Safe from any thread that nobody else races for the state. */
HEED_API heed_status heed_aft_simple_state_reset(const heed_aft_simple_state *state, int64_t b);

/** The next tokens of AFT-simple, equation 5: for each channel d of token t
 *
 *      out_td = gate(q_td) sum_{j <= t} exp(k_jd) v_jd / sum_{j <= t} exp(k_jd)
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, H, N, D), the new tokens
 *  @param k    float32 (B, H, N, D)
 *  @param v    float32 (B, H, N, D)
 *  @param options  or NULL: #HEED_AFT_OPTIONS_INIT. The mask is NULL or causal, and may have `query_lengths`: the new
 *                  tokens of each sequence that count, 0 for one that waits. Rows beyond give 0.
 *  @param state  of the tokens so far; goes on
 *  @param out  float32 (B, H, N, D)
 *
 *  Error bound, NaN and -inf as in heed_aft_full_forward(). No part of the state may overlap another one, or any other
 *  argument. An error leaves out and state as they are.
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT (n_tokens outside 0..2^60 among others), _SHAPE, _STRIDE, _OVERLAP, _DTYPE,
 *  _UNSUPPORTED (a mask that says more than the above), _SCRATCH (some 25 KiB are enough for any size), _BUSY. Safe from
 *  any thread with a context of its own, as long as nobody else uses the state. */
HEED_API heed_status heed_aft_simple_step(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                          const heed_tensor *v, const heed_aft_options *options,
                                          const heed_aft_simple_state *state, const heed_tensor *out);

/** The memory of a state of AFT-local: 8 B + 4 B H (6 + 2 s) D bytes, with s = window. Errors as in
 *  heed_aft_simple_state_bytes(); HEED_ERROR_SHAPE for a window below 1 too. */
HEED_API heed_status heed_aft_local_state_bytes(int64_t batch, int64_t heads, int64_t window, int64_t channels,
                                                int64_t *bytes);

/** As heed_aft_simple_state_view(). */
HEED_API heed_aft_local_state heed_aft_local_state_view(void *memory, int64_t batch, int64_t heads, int64_t window,
                                                        int64_t channels);

/** As heed_aft_simple_state_reset(). Keys and values stay as they are: what a sequence has not written it never reads. */
HEED_API heed_status heed_aft_local_state_reset(const heed_aft_local_state *state, int64_t b);

/** The next tokens of AFT-local, equation 4: for each channel d of token t
 *
 *      out_td = gate(q_td) sum_{j <= t} exp(k_jd + w_tj) v_jd / sum_{j <= t} exp(k_jd + w_tj)
 *
 *  where w_tj is the bias for t - s < j <= t, s = options.window, and 0 for earlier keys, or these are hidden
 *  (`nothing_outside`). The bias is
 *  - options.w, with options.banded, float32 (B or 1, H or 1, N or 1, s): column c is key t - s + 1 + c,
 *  - or options.query_factors (B or 1, H or 1, N, d') of the new tokens, with options.key_factors (B or 1, H or 1,
 *    s - 1 + N, d'), whose first row belongs to the key s - 1 before the first new token,
 *  - or 0.
 *
 *  Columns and rows of keys before the first token of a sequence are not read. A w that is not banded is
 *  HEED_ERROR_UNSUPPORTED. Everything else as in heed_aft_simple_step(). */
HEED_API heed_status heed_aft_local_step(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                         const heed_tensor *v, const heed_aft_options *options,
                                         const heed_aft_local_state *state, const heed_tensor *out);

/** The memory of a state of AFT-conv: 8 B + 4 B H ((6 + s) D + s) bytes, with s = taps. Errors as in
 *  heed_aft_simple_state_bytes(); HEED_ERROR_SHAPE for less than one tap too. */
HEED_API heed_status heed_aft_conv_state_bytes(int64_t batch, int64_t heads, int64_t taps, int64_t channels,
                                               int64_t *bytes);

/** As heed_aft_simple_state_view(). */
HEED_API heed_aft_conv_state heed_aft_conv_state_view(void *memory, int64_t batch, int64_t heads, int64_t taps,
                                                      int64_t channels);

/** As heed_aft_local_state_reset(). */
HEED_API heed_status heed_aft_conv_state_reset(const heed_aft_conv_state *state, int64_t b);

/** The next tokens of AFT-conv, equation 6, causal: as heed_aft_local_step() with k float32 (B, H, N, 1), one key for all
 *  channels of a head, and the bias filter[h][c] for key t - s + 1 + c, where filter is float32 (1, H or 1, 1, s). A grid
 *  is HEED_ERROR_UNSUPPORTED. Everything else as there. */
HEED_API heed_status heed_aft_conv_step(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                        const heed_tensor *v, const heed_tensor *filter,
                                        const heed_aft_options *options, const heed_aft_conv_state *state,
                                        const heed_tensor *out);

/** @}
 *  @defgroup mrsha Multiresolution-head attention
 *
 *  MrsHA gives each head a resolution of its own: a fine head attends from tokens to tokens, a coarse one between groups
 *  of S tokens ("Transformers with Multiresolution Attention Heads", OpenReview L8qKBr_bht, 2022). **Derived definition:**
 *  the part of that paper that defines the operators is not public, and no code is. What stands here is derived from what
 *  its abstract and introduction say; docs/mrsha.md tells what is quoted, what follows, and what was chosen.
 *  @{ */

/** Which of the two approximations a coarse head makes. A bar is the mean over a group, U repeats it for its tokens, and n
 *  are the sizes of the groups of keys. */
typedef enum heed_mrsha_mode {
    HEED_MRSHA_BOTH = 0,   /**< U softmax(scale q_bar k_bar^T + log n) v_bar: 1 / S^2 of a fine head's work */
    HEED_MRSHA_OUTPUT = 1, /**< U softmax(scale q_bar k^T) v: the output alone */
    HEED_MRSHA_VALUE = 2   /**< softmax(scale q k_bar^T + log n) v_bar: the values alone */
} heed_mrsha_mode;

/** What stands for a group of tokens. */
typedef enum heed_pooling {
    HEED_POOLING_MEAN = 0,   /**< their mean */
    HEED_POOLING_FIRST = 1,  /**< the first one that counts */
    HEED_POOLING_LEARNED = 2 /**< their mean with weights of the head, which are divided by their sum */
} heed_pooling;

/** How the rows of groups become rows of tokens. */
typedef enum heed_upsampling {
    HEED_UPSAMPLING_REPEAT = 0, /**< each token has the row of its group */
    HEED_UPSAMPLING_LINEAR = 1  /**< between the centres of neighbouring groups, the mean positions of the tokens that
                                     count, in a straight line; beyond the outer ones the row of the group */
} heed_upsampling;

/** Options of multiresolution-head attention. Fill with #HEED_MRSHA_OPTIONS_INIT.
 *
 *  Groups begin at the first token of q and of k, each on its own: tokens g S to g S + S - 1, the last one maybe shorter.
 *  With a class token this one is group 0, which no weight and no interpolation touches, and the others are counted from
 *  behind it. With a grid of grid_height x grid_width tokens, row by row, groups are patches of S x S, band by band. Tokens
 *  beyond the lengths of the mask belong to no group. */
typedef struct heed_mrsha_options {
    size_t struct_size;                  /**< sizeof(heed_mrsha_options) */
    const int64_t *group_sizes;          /**< S of each head, [Hq], >= 1; 1: a fine head. NULL: as #HEED_MRSHA_HALF */
    heed_mrsha_mode mode;                /**< what coarse heads do */
    heed_pooling pooling;                /**< of queries, keys and values alike */
    const heed_tensor *weights;          /**< LEARNED: float32 (1, 1, Hq, W), W >= the S of each coarse head (S^2 with a
                                          grid, row by row), of which it takes the first ones; else NULL */
    heed_upsampling upsampling;          /**< no effect in mode VALUE, which has a row for each token */
    int64_t grid_height;                 /**< tokens of q and of k are a grid, row by row; else 0 */
    int64_t grid_width;                  /**< see grid_height */
    int class_token;                     /**< non-zero: the first token of q and of k is a group by itself */
    const heed_softmax_options *softmax; /**< of all heads, or NULL: #HEED_SOFTMAX_OPTIONS_INIT */
    const heed_softmax_options *fine;    /**< of fine heads in its place, or NULL: `softmax`, like the others */
} heed_mrsha_options;

/* clang-format off */
/** Half of the heads fine, half S = 2, both approximations, mean, repeat. */
#define HEED_MRSHA_OPTIONS_INIT {sizeof(heed_mrsha_options), NULL, HEED_MRSHA_BOTH, HEED_POOLING_MEAN, NULL, \
                                 HEED_UPSAMPLING_REPEAT, 0, 0, 0, NULL, NULL}
/* clang-format on */

/** Resolutions that are ready to use. */
typedef enum heed_mrsha_preset {
    HEED_MRSHA_HALF = 1, /**< the first half of the heads, rounded up: S = 1, the others S = 2 */
    HEED_MRSHA_1248 = 2  /**< S = 1, 2, 4, 8, and again */
} heed_mrsha_preset;

/** Fills group_sizes [n_heads]. Errors: HEED_ERROR_ARGUMENT (NULL, unknown preset), _SHAPE (n_heads < 0). Safe from any
 *  thread. */
HEED_API heed_status heed_mrsha_group_sizes(heed_mrsha_preset preset, int64_t n_heads, int64_t *group_sizes);

/** Multiresolution-head attention: each head h with its own group size S_h, as options.mode says.
 *
 *  Fine heads (S = 1) are those of heed_softmax_forward() with the options `fine`, bit for bit. Coarse heads take of
 *  `softmax` the scale, softcap, sinks, and of its mask the lengths and `causal`; log n is added after the softcap.
 *
 *  Causal, a row depends on no later token:
 *  - VALUE: token i sees the groups before its own, and of its own the tokens up to itself, as one more group.
 *  - BOTH: group g has the mean query of group g - 1, and sees the groups before g. The tokens of group 0 attend to each
 *    other as in a fine head.
 *  - OUTPUT is HEED_ERROR_UNSUPPORTED. So are, with coarse heads, Nq != Nk, positions of queries and keys that differ, a
 *    grid, a class token, and LINEAR.
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, Hq, Nq, D)
 *  @param k    float32 (B, Hkv, Nk, D); Hq is a multiple of Hkv, and query head h uses kv head h / (Hq / Hkv)
 *  @param v    float32 (B, Hkv, Nk, Dv)
 *  @param options  or NULL: #HEED_MRSHA_OPTIONS_INIT
 *  @param out  float32 (B, Hq, Nq, Dv)
 *  @param lse  float32 (B, Hq, Nq, 1) or NULL, with LINEAR always NULL; receives log(sum_g n_g exp(s_ig)), and with sinks
 *              + exp(sink_h), of the row of attention that is the token's own or its group's
 *
 *  With a grid, Nq and Nk are grid_height x grid_width, and one more with a class token. LINEAR with a grid is
 *  HEED_ERROR_UNSUPPORTED. Results over keys that are cut at borders of groups are joined by heed_merge() (not with a grid
 *  or a class token, where rows were interpolated, or causal). Rows that see no key give 0 and lse = the sink, or -inf
 *  without sinks; rows beyond query_lengths 0 and -inf.
 *
 *  A NaN in a token makes what its group gives NaN: in q the rows of the group, in k the rows that see it, in v their
 *  channel. Weights that add up to 0 give NaN or infinity.
 *
 *  Error against float64 of the same definition: as in heed_softmax_forward(), and what the means add: for groups of up to
 *  4096 tokens 1e-6 max|v|, and 1e-6 of the largest score. Queries, keys and values that are constant in each group give in
 *  mode BOTH, not causal, what exact attention gives. v = 1 gives 1 to 2 ulp, and exactly where all groups hold a power of
 *  two of tokens; with LEARNED up to the rounding of the weighted means.
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _UNSUPPORTED (where there is a coarse head
 *  a bias, a window or `visible` in `softmax`, and slopes of coarse heads other than 0; and what is named above), _SCRATCH,
 *  _BUSY. Safe from any thread with a context of its own. */
HEED_API heed_status heed_mrsha_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                        const heed_tensor *v, const heed_mrsha_options *options, const heed_tensor *out,
                                        const heed_tensor *lse);

/** The scratch that heed_mrsha_forward() and heed_mrsha_step() ask for, for each worker, in bytes, the same for every
 *  instruction set: from D and Dv. Only the shapes of q, k and v are read. Errors: HEED_ERROR_ARGUMENT, _SHAPE; *bytes is
 *  then left as it is. Safe from any thread. */
HEED_API heed_status heed_mrsha_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                              const heed_mrsha_options *options, int64_t *bytes);

/** What causal mode VALUE keeps of the tokens so far, in the caller's memory: a cache of keys and values with one row for
 *  each group of S tokens. A kv head has a cache for each distinct S of its query heads (LEARNED: for each coarse one, since
 *  each has weights of its own), in the order of the first heads that use them; a cache has max_tokens / S rows, rounded up,
 *  and the caches stand one behind the other: row t / S of its cache is the group of token t, and is that of the tokens so
 *  far while the group is not complete. R rows and n caches in all.
 *
 *  In the memory of `_state_view` lie n_tokens, then for each sequence one behind the other its keys, values, open_keys and
 *  open_values, without gaps: a sequence is one piece, state.keys.stride[0] floats long, which with its n_tokens can be
 *  copied, kept and sent. But any views of the right shapes are a state. */
typedef struct heed_mrsha_state {
    heed_tensor keys;      /**< float32 (B, 1, R, D) */
    heed_tensor values;    /**< float32 (B, 1, R, Dv) */
    heed_tensor open_keys; /**< float32 (B, 1, 2 n, D): the latest group of each cache, weighted sums of its tokens but
                                  the latest up to 64, and of these */
    heed_tensor open_values; /**< float32 (B, 1, 2 n, Dv) */
    int64_t max_tokens;      /**< the most tokens of a sequence */
    int64_t *n_tokens;       /**< [B], the tokens so far */
} heed_mrsha_state;

/** The memory of a state: 8 B + 4 B (R + 2 n) (D + Dv) bytes. It follows from group_sizes [n_heads] and pooling; options of
 *  NULL: #HEED_MRSHA_OPTIONS_INIT. Errors: HEED_ERROR_ARGUMENT (NULL, options), _SHAPE (negative sizes, heads, no channel,
 *  2^60 elements or more, counted as if each head had a cache of all tokens); *bytes is then left as it is. Safe from any
 *  thread. */
HEED_API heed_status heed_mrsha_state_bytes(const heed_mrsha_options *options, int64_t batch, int64_t n_heads,
                                            int64_t kv_heads, int64_t key_channels, int64_t value_channels,
                                            int64_t max_tokens, int64_t *bytes);

/** The state in `memory`, aligned to eight bytes, which is neither read nor written, for arguments of which
 *  heed_mrsha_state_bytes() has told the size. Safe from any thread. */
HEED_API heed_mrsha_state heed_mrsha_state_view(void *memory, const heed_mrsha_options *options, int64_t batch,
                                                int64_t n_heads, int64_t kv_heads, int64_t key_channels,
                                                int64_t value_channels, int64_t max_tokens);

/** Starts sequence b anew, or all of them with b = -1. Errors: HEED_ERROR_ARGUMENT (NULL, b). Safe from any thread that
 *  nobody else races for the state. */
HEED_API heed_status heed_mrsha_state_reset(const heed_mrsha_state *state, int64_t b);

/** The next N >= 0 tokens of each sequence, one by one: for each the row that causal heed_mrsha_forward() in mode VALUE
 *  gives over all tokens so far, up to rounding. The same tokens give the same bits, however they are cut into steps. Fine
 *  heads go the same way, with a cache of all tokens.
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, Hq, N, D), the new tokens
 *  @param k    float32 (B, Hkv, N, D)
 *  @param v    float32 (B, Hkv, N, Dv)
 *  @param options  with mode VALUE, and group_sizes, pooling and weights as at the beginning of the sequence. Of
 *                  `softmax` the scale, softcap and sinks; its mask is NULL or causal, and may have `query_lengths`: the new
 *                  tokens of each sequence that count, 0 for one that waits. Rows beyond give 0. `fine` is NULL.
 *  @param state  of the tokens so far; goes on
 *  @param out  float32 (B, Hq, N, Dv)
 *
 *  No part of the state may overlap another one, or any other argument. An error leaves out and state as they are.
 *
 *  Returns as heed_mrsha_forward(); HEED_ERROR_ARGUMENT for more tokens than max_tokens, HEED_ERROR_UNSUPPORTED for another
 *  mode, a grid, a class token, `fine`, a bias, ALiBi slopes other than 0, and a mask that says more than the above. Safe
 *  from any thread with a context of its own, as long as nobody else uses the state. */
HEED_API heed_status heed_mrsha_step(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                     const heed_tensor *v, const heed_mrsha_options *options,
                                     const heed_mrsha_state *state, const heed_tensor *out);

/** @}
 *  @defgroup features Feature maps
 *
 *  Linear attention puts phi(q).phi(k) in the place of exp(q.k). A feature map phi is data: a stack of layers, applied to
 *  the row of each token and head, each with weights of its own for every head, or one set for all.
 *  @{ */

/** What a layer computes from its row x: y = ..., element by element unless a matrix is named. sigmoid(s) of a unit with
 *  a gate is s = x wg, or s = (x a) b where a and b are given in its place: a gate of rank r (AOGLU). */
typedef enum heed_feature_kind {
    HEED_FEATURE_ELU1 = 1,      /**< elu(x) + 1: x + 1 where x > 0, else exp(x) (Katharopoulos et al. 2020, eq. 7) */
    HEED_FEATURE_RELU = 2,      /**< max(x, 0) + eps */
    HEED_FEATURE_SOFTPLUS = 3,  /**< softplus(x wf), the linear kernel of Yorsh and Kovalenko 2022 */
    HEED_FEATURE_GLU = 4,       /**< (x wf) sigmoid(s), their hidden unit; GLU, OGLU and AOGLU alike */
    HEED_FEATURE_GLU_LAST = 5,  /**< softplus(x wf) sigmoid(s), their last unit */
    HEED_FEATURE_FAVOR = 6,     /**< positive random features of exp(q.k / sqrt(D)), see heed_feature_layer.omega */
    HEED_FEATURE_FAVOR_RELU = 7 /**< max(x D^-1/4 omega, 0) + eps */
} heed_feature_kind;

/** One layer. Matrices are float32 (1, H or 1, in, out); those that the kind does not name are NULL. Start with {0}.
 *
 *  FAVOR+ (Choromanski et al. 2021, Lemma 1): with x' = x D^-1/4 and C columns w_c of omega
 *
 *      phi_c = (exp(w_c.x' - |x'|^2 / 2 - m) + eps) / sqrt(C)
 *
 *  where m is there for the range of float32 alone: for keys a constant of the map, max(0, max_c |w_c|^2 / 2 - 60), so
 *  that states can be kept and merged and no token depends on others; for queries what makes the largest exponent 0, which
 *  leaves the row of attention as it is. Only the last layer may be of this kind. */
typedef struct heed_feature_layer {
    heed_feature_kind kind;   /**< what it computes */
    float eps;                /**< RELU and FAVOR kinds: added to each feature, finite and >= 0; else 0 */
    const heed_tensor *wf;    /**< SOFTPLUS, GLU kinds: (1, H or 1, in, out) */
    const heed_tensor *wg;    /**< GLU kinds: (1, H or 1, in, out), or NULL with a and b */
    const heed_tensor *a;     /**< GLU kinds: (1, H or 1, in, r), with b */
    const heed_tensor *b;     /**< GLU kinds: (1, H or 1, r, out) */
    const heed_tensor *omega; /**< FAVOR kinds: (1, H or 1, in, out); a projection is a column */
} heed_feature_layer;

/** A feature map: its layers, first to last. Without layers it is the identity, for features that were computed
 *  elsewhere. Fill with #HEED_FEATURE_MAP_INIT. */
typedef struct heed_feature_map {
    size_t struct_size;               /**< sizeof(heed_feature_map) */
    const heed_feature_layer *layers; /**< [n_layers]; may be NULL where there is none */
    int64_t n_layers;                 /**< 0 to 8 */
} heed_feature_map;

/* clang-format off */
/** The identity. */
#define HEED_FEATURE_MAP_INIT {sizeof(heed_feature_map), NULL, 0}
/* clang-format on */

/** Whose features: it matters to HEED_FEATURE_FAVOR alone. */
typedef enum heed_feature_side {
    HEED_FEATURES_OF_KEYS = 0,   /**< m is a constant of the map */
    HEED_FEATURES_OF_QUERIES = 1 /**< m follows from the row */
} heed_feature_side;

/** out = phi(x), row by row.
 *
 *  @param context   what it runs on
 *  @param x         float32 (B, H, N, D)
 *  @param features  the map; weights of H heads or 1
 *  @param side      whose features
 *  @param out       float32 (B, H, N, C), C as the last layer has it
 *
 *  softplus and sigmoid are within 4 ulp of the value at their float32 argument, whatever it is; what would come out
 *  below 2^-126 may be 0. Sums of products are float32 sums of `in` terms.
 *
 *  One layer without a gate, D and C of at least 512, N of at least 256: its product is OpenBLAS's, called from this
 *  thread with the threads that it has been given, where heed is built with it (path "feature-map-blas"). Its locks,
 *  buffers and bits are its own.
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _UNSUPPORTED (HEED_FEATURE_FAVOR before
 *  another layer), _SCRATCH, _BUSY. Safe from any thread with a context of its own. */
HEED_API heed_status heed_feature_map_apply(heed_context *context, const heed_tensor *x,
                                            const heed_feature_map *features, heed_feature_side side,
                                            const heed_tensor *out);

/** The scratch that heed_feature_map_apply() asks for, for each worker, in bytes: from D and the widths of the layers.
 *  Only the shapes of tensors are read. Errors: HEED_ERROR_ARGUMENT, _SHAPE, _UNSUPPORTED; *bytes is then left as it is.
 *  Safe from any thread. */
HEED_API heed_status heed_feature_map_scratch_bytes(const heed_tensor *x, const heed_feature_map *features,
                                                    int64_t *bytes);

/** @}
 *  @defgroup linear Linear attention
 *  @{ */

/** Options of linear attention. Fill with #HEED_LINEAR_OPTIONS_INIT. */
typedef struct heed_linear_options {
    size_t struct_size;                     /**< sizeof(heed_linear_options) */
    const heed_feature_map *features;       /**< phi of keys, and of queries unless query_features: weights of Hkv heads
                                                 or 1, and query head h takes those of its kv head. NULL: elu(x) + 1 */
    const heed_feature_map *query_features; /**< phi of queries: weights of Hq heads or 1; as many features. Or NULL */
    float eps;                              /**< added to each denominator; finite and >= 0 */
    const heed_mask *mask; /**< or NULL: everybody sees everybody. No window_left; `visible` hides keys:
                                                 (B or 1, 1, 1, Nk), or with Hq = Hkv (B or 1, Hq, 1, Nk) */
    int accumulate;        /**< backward: non-zero adds to the gradients, dstate_in too; else overwrites */
} heed_linear_options;

/* clang-format off */
/** phi(x) = elu(x) + 1, eps 1e-6, no mask. */
#define HEED_LINEAR_OPTIONS_INIT {sizeof(heed_linear_options), NULL, NULL, 1e-6f, NULL, 0}
/* clang-format on */

/** What linear attention keeps of the tokens so far: constant size, in the caller's memory.
 *
 *  sums and norms are S = sum_j phi(k_j)^T v_j and z = sum_j phi(k_j) over all tokens but the latest ones: these wait in
 *  `recent` rows, token t in row t % P, and join the sums together, so that a step reads the sums without writing them,
 *  and nothing small gets lost beside them. Rows that wait for nobody have features and values of 0.
 *  P is at most 256.
 *
 *  Two states over different tokens are merged by addition (heed_linear_state_merge()). heed_linear_forward() leaves no
 *  token waiting, and takes states without recent rows too (P = 0); so does heed_linear_backward(), which takes no others.
 *
 *  In the memory of `_state_view` lie n_tokens, then for each sequence one behind the other its sums, norms, recent
 *  features and recent values, heads outermost, without gaps: a sequence is one piece, state.sums.stride[0] floats long,
 *  which with its n_tokens can be copied, kept and sent. But any views of the right shapes are a state. */
typedef struct heed_linear_state {
    heed_tensor sums;            /**< S, float32 (B, Hkv, C, Dv) */
    heed_tensor norms;           /**< z, float32 (B, Hkv, 1, C) */
    heed_tensor recent_features; /**< float32 (B, Hkv, P, C) */
    heed_tensor recent_values;   /**< float32 (B, Hkv, P, Dv) */
    int64_t *n_tokens;           /**< [B], the tokens so far */
} heed_linear_state;

/** The memory of a state: 8 B + 4 B Hkv (C Dv + C + P (C + Dv)) bytes. P = 16 serves steps well. Errors:
 *  HEED_ERROR_ARGUMENT (NULL), _SHAPE (negative sizes, no feature or channel, 2^60 elements or more); *bytes is then left
 *  as it is. Safe from any thread. */
HEED_API heed_status heed_linear_state_bytes(int64_t batch, int64_t kv_heads, int64_t n_features, int64_t channels,
                                             int64_t recent_tokens, int64_t *bytes);

/** The state in `memory`, aligned to eight bytes, which is neither read nor written. No errors: sizes are checked by the
 *  call that takes the state. Safe from any thread. */
HEED_API heed_linear_state heed_linear_state_view(void *memory, int64_t batch, int64_t kv_heads, int64_t n_features,
                                                  int64_t channels, int64_t recent_tokens);

/** Starts sequence b anew, or all of them with b = -1: everything 0. Errors: HEED_ERROR_ARGUMENT (NULL, b), and those of
 *  the parts as in heed_linear_step(); nothing is then written. Safe from any thread that nobody else races for the
 *  state. */
HEED_API heed_status heed_linear_state_reset(const heed_linear_state *state, int64_t b);

/** The state over the tokens of both: sums, norms and numbers of tokens added up, recent rows of both taken in. All three
 *  have the same B, Hkv, C and Dv; P is each one's own. out may be exactly a or b; no other overlap.
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _BUSY. */
HEED_API heed_status heed_linear_state_merge(heed_context *context, const heed_linear_state *a,
                                             const heed_linear_state *b, const heed_linear_state *out);

/** Linear attention:
 *
 *      out_i = phi(q_i) S_i / (phi(q_i) z_i + eps),   S_i = sum_j phi(k_j)^T v_j,   z_i = sum_j phi(k_j)
 *
 *  over the keys j that query i sees, and those of the state. "Transformers are RNNs" (Katharopoulos et al. 2020),
 *  equations 5, and 9 to 12 where causal; with phi of "Linear Self-Attention with trainable feed-forward kernels" (Yorsh
 *  and Kovalenko 2022), or of "Rethinking Attention with Performers" (Choromanski et al. 2021). Keys are hidden after phi,
 *  as in no other way padding has no effect: phi(0) is not 0. phi(k) is never stored for more than a block of keys.
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, Hq, Nq, D)
 *  @param k    float32 (B, Hkv, Nk, D); Hq is a multiple of Hkv, and query head h uses kv head h / (Hq / Hkv)
 *  @param v    float32 (B, Hkv, Nk, Dv)
 *  @param options  or NULL: #HEED_LINEAR_OPTIONS_INIT
 *  @param state  or NULL; the keys of earlier calls, which every query sees. This call's keys join it, up to the key
 *                length and without those that `visible` hides, whether a row sees them or not; n_tokens grows by the
 *                length, hidden keys included
 *  @param out  float32 (B, Hq, Nq, Dv)
 *
 *  D, Dv >= 1; B, Hq, Nq or Nk = 0 is legal. Rows that see no key give 0, and so do rows whose denominator is 0 or
 *  denormal, and rows beyond query_lengths. q and k have as many channels as their maps take.
 *
 *  In time O((Nq + Nk) C (D + Dv)). Causal, and with window_right: blocks of rows, each over the sums before it.
 *
 *  Error against float64 where no feature is negative: on random inputs at most 1e-5 max|v|, Nk <= 32768. Features of
 *  both signs may cancel in the denominator; then it grows as their sum of sizes over the denominator.
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _UNSUPPORTED (window_left, a `visible` that
 *  hides single keys from single rows), _SCRATCH, _BUSY. Safe from any thread with a context of its own, as long as nobody
 *  else uses the state. */
HEED_API heed_status heed_linear_forward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                         const heed_tensor *v, const heed_linear_options *options,
                                         const heed_linear_state *state, const heed_tensor *out);

/** The next N >= 0 tokens of each sequence, one by one: for each the row that causal heed_linear_forward() gives over all
 *  tokens so far, up to rounding. In time O(C (D + Dv)) for a token, whatever came before; many tokens at once are faster
 *  in heed_linear_forward() with the state. The same tokens give the same bits, however they are cut into steps.
 *
 *  @param context  what it runs on
 *  @param q    float32 (B, Hq, N, D), the new tokens
 *  @param k    float32 (B, Hkv, N, D)
 *  @param v    float32 (B, Hkv, N, Dv)
 *  @param options  or NULL: #HEED_LINEAR_OPTIONS_INIT. The mask is NULL or causal, and may have `query_lengths`: the new
 *                  tokens of each sequence that count, 0 for one that waits. Rows beyond give 0.
 *  @param state  of the tokens so far, with one recent row or more; goes on
 *  @param out  float32 (B, Hq, N, Dv)
 *
 *  No part of the state may overlap another one, or any other argument. Errors and all else as in heed_linear_forward(). */
HEED_API heed_status heed_linear_step(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                      const heed_tensor *v, const heed_linear_options *options,
                                      const heed_linear_state *state, const heed_tensor *out);

/** Gradients of a loss with respect to everything that heed_linear_forward() reads, from `dout`, that with respect to its
 *  out. Everything is computed again in blocks: nothing of size N x C is kept.
 *
 *  @param context  what it runs on
 *  @param q        as in heed_linear_forward(), like k, v and options
 *  @param k        see q
 *  @param v        see q
 *  @param options  see q; with `accumulate`
 *  @param dout     float32 (B, Hq, Nq, Dv)
 *  @param state_in    the state before the call, or NULL; without recent rows
 *  @param dstate_out  the gradient with respect to the state after it, or NULL: that of the later part of a sequence
 *  @param dq       float32 like q, or NULL where it is not wanted; so are all that follow
 *  @param dk       float32 like k
 *  @param dv       float32 like v
 *  @param dfeatures  a map of the same kinds and shapes as options.features, whose matrices receive gradients; NULL ones
 *                    are not wanted. Summed over batch, tokens, and the heads that share a weight, in a fixed order.
 *  @param dquery_features  the same for options.query_features
 *  @param dstate_in  receives the gradient with respect to state_in: sums and norms; n_tokens is not looked at
 *
 *  A sequence cut into parts, each with the state of the one before, has the gradients of the whole: the parts are gone
 *  through backwards, and dstate_in of one is dstate_out of the one before. m of HEED_FEATURE_FAVOR counts as a constant:
 *  exact where eps is 0.
 *
 *  Error against float64 on random inputs where no feature is negative: at most 2e-5 of the largest element of each
 *  gradient.
 *
 *  Returns as heed_linear_forward(). */
HEED_API heed_status heed_linear_backward(heed_context *context, const heed_tensor *q, const heed_tensor *k,
                                          const heed_tensor *v, const heed_linear_options *options,
                                          const heed_tensor *dout, const heed_linear_state *state_in,
                                          const heed_linear_state *dstate_out, const heed_tensor *dq,
                                          const heed_tensor *dk, const heed_tensor *dv,
                                          const heed_feature_map *dfeatures, const heed_feature_map *dquery_features,
                                          const heed_linear_state *dstate_in);

/** The scratch that heed_linear_forward() and heed_linear_step() ask for, for each worker, in bytes: from D, Dv, C and the
 *  widths of the layers, never from B, H, Nq or Nk. Only shapes are read. Errors: HEED_ERROR_ARGUMENT, _SHAPE,
 *  _UNSUPPORTED; *bytes is then left as it is. Safe from any thread. */
HEED_API heed_status heed_linear_scratch_bytes(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                                               const heed_linear_options *options, int64_t *bytes);

/** The same for heed_linear_backward(). */
HEED_API heed_status heed_linear_backward_scratch_bytes(const heed_tensor *q, const heed_tensor *k,
                                                        const heed_tensor *v, const heed_linear_options *options,
                                                        int64_t *bytes);

/** @}
 *  @defgroup initialisers Weights to begin with
 *
 *  For feature maps that are trained. Numbers come from Philox (Salmon et al. 2011) and the Box-Muller transform, in
 *  float64: the same seed gives the same weights on every machine, to 1 ulp. Heads, rows and columns are counted on their
 *  own, so a head has the same weights whatever the number of heads. Each of the three kinds has numbers of its own; two
 *  matrices of one kind want two seeds. At most 2^32 heads, rows and columns; in, out >= 1; H = 0 is legal.
 *
 *  Scratch of a worker: 8 in out bytes for orthogonal, 8 in min(in, out) for FAVOR+, none for He, and for the penalty 8 in
 *  and 8 out, each rounded up to 64; the default has room for 512 x 512. The report says "init-orthogonal", "init-he",
 *  "init-favor" and "orthogonality".
 *  @{ */

/** w with orthonormal rows, or columns where it has more rows than columns, for each head: a Gaussian matrix,
 *  orthogonalised by the modified Gram-Schmidt process, twice, in float64. The wf of OGLU and AOGLU units.
 *
 *  @param context  what it runs on
 *  @param seed     any number
 *  @param w        float32 (1, H, in, out)
 *
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _SCRATCH, _BUSY. Safe from any thread with a
 *  context of its own. */
HEED_API heed_status heed_init_orthogonal(heed_context *context, uint64_t seed, const heed_tensor *w);

/** w from N(0, 2 / in), as He et al. 2015: the gates wg, a and b. Arguments and errors as in heed_init_orthogonal(). */
HEED_API heed_status heed_init_he(heed_context *context, uint64_t seed, const heed_tensor *w);

/** omega of FAVOR+: Gaussian columns, those of each block of `in` orthogonal to each other: orthonormal ones, each as long
 *  as an independent Gaussian vector of `in` numbers (Choromanski et al. 2021, section 2.4). Arguments and errors as in
 *  heed_init_orthogonal(). */
HEED_API heed_status heed_init_favor(heed_context *context, uint64_t seed, const heed_tensor *omega);

/** The penalty that keeps w orthogonal in training,
 *
 *      lambda / (H in^2) sum_h |w_h w_h^T - I|^2        (the squared Frobenius norm; Yorsh and Kovalenko 2022)
 *
 *  and its gradient 4 lambda / (H in^2) (w_h w_h^T - I) w_h.
 *
 *  @param context  what it runs on
 *  @param w        float32 (1, H, in, out)
 *  @param lambda   finite
 *  @param penalty  receives the value, or NULL
 *  @param dw       float32 like w, or NULL; the gradient is added to it with `accumulate`, else it is overwritten
 *  @param accumulate  see dw
 *
 *  Computed in float64 and rounded once. Errors as in heed_init_orthogonal(). */
HEED_API heed_status heed_orthogonality_penalty(heed_context *context, const heed_tensor *w, float lambda,
                                                double *penalty, const heed_tensor *dw, int accumulate);

/** @}
 *  @defgroup merge Merge
 *  @{ */

/** Joins two results over different keys of the same queries:
 *
 *      lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b
 *
 *  (0, -inf) is the empty part: a part with lse = -inf leaves the other one as it is, bit for bit. A part with lse =
 *  +inf or NaN gives NaN. Associative and commutative up to rounding; a fixed order gives the same bits.
 *
 *  @param context            what it runs on
 *  @param out_a, out_b, out  float32 (B, H, N, Dv)
 *  @param lse_a, lse_b, lse  float32 (B, H, N, 1): one per row, or (B, H, N, Dv): one per channel; all three alike.
 *                            lse may be NULL where it is not needed.
 *
 *  In place: out and lse may be exactly out_a and lse_a (same data and strides); no other overlap.
 *  Error of one merge: out 4e-7 max(|out_a|, |out_b|) plus what an error of 1 ulp in the two lse makes of it;
 *  lse 1 ulp.
 *  Returns HEED_OK or HEED_ERROR_ARGUMENT, _SHAPE, _STRIDE, _OVERLAP, _DTYPE, _BUSY.
 *  Safe from any thread with a context of its own. */
HEED_API heed_status heed_merge(heed_context *context, const heed_tensor *out_a, const heed_tensor *lse_a,
                                const heed_tensor *out_b, const heed_tensor *lse_b, const heed_tensor *out,
                                const heed_tensor *lse);

/** @} */

#ifdef __cplusplus
}
#endif

#endif
