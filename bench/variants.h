/* The attention variants that are compared: one row in the list of variants.c and one file variant_<name>.c each. */
#ifndef HEED_BENCH_VARIANTS_H
#define HEED_BENCH_VARIANTS_H

#include "bench/input.h"

/* How one row of the comparison runs. */
typedef struct variant_setup {
    const attention_input *input;
    heed_isa isa;
    int n_threads;
    heed_tensor out; /* receives the result of each run */
} variant_setup;

/* Arithmetic; reading; three arrays read while a fourth is written; or an array read and written in place. */
typedef enum limit_kind { LIMIT_FMA, LIMIT_BANDWIDTH, LIMIT_STREAMS, LIMIT_UPDATE } limit_kind;

/* Bits 1 << form for each oracle_aft_form, and 1 << kind for each linear_kind and mrsha_kind. */
typedef struct variant_kinds {
    unsigned aft, linear, mrsha;
} variant_kinds;

/* A row of the output. */
typedef struct row_place {
    int64_t b, h, i;
} row_place;

/* What setup.out receives: the output, or of gradients that of q. */
typedef enum result_kind { RESULT_OUT, RESULT_DQ } result_kind;

typedef struct variant variant;
struct variant {
    const char *name, *mode; /* mode: "forward", "backward" or "step" */
    const char *summary;     /* one line for --help */
    const char *unavailable; /* NULL, or why this build cannot run it */
    int on_request;          /* runs only where it is named */
    variant_kinds kinds;     /* its own bit; none: softmax attention */
    int has_parameters;      /* learned ones, made at random or read from files */

    /* Takes all memory. Returns NULL with the reason in `message`. */
    void *(*prepare)(const variant_setup *setup, char *message, size_t message_bytes);
    /* One run, the only thing that is timed. Returns 0, or -1 with the reason in `message`. */
    int (*run)(void *state, char *message, size_t message_bytes);
    int n_calls; /* of one run, which its time is divided by; 0: one */
    /* After the last run: puts the result into setup.out, untimed. NULL: the runs do. */
    void (*finish)(void *state);
    /* Scratch of the last run, all threads together. */
    int64_t (*scratch_bytes)(const void *state);
    void (*release)(void *state);

    /* Operations and bytes of one call; see variant_softmax.c. flops NULL: operations are no measure of it. */
    double (*flops)(const attention_input *input);
    double (*bytes)(const attention_input *input);
    limit_kind limit; /* what its time is held against; for one query row see row_limit() */

    result_kind result;

    /* Tokens in a group of head h: its resolution. NULL where heads have none. */
    int64_t (*group_size)(const attention_input *input, int64_t h);

    /* Row (b, h, i) of the same mechanism in float64. */
    void (*reference_row)(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out);
    /* Or n rows at once, whose heads share one kv head. One of the two. */
    void (*reference_rows)(const attention_input *input, const row_place *places, int64_t n, double *out);
    /* What that row costs, in multiply-adds of the softmax oracle; NULL: as much as there. */
    double (*reference_cost)(const attention_input *input);

    /* Its library keeps threads busy for some time after a run with several threads: a pause must follow. */
    int needs_pause;

    /* The same mechanism token by token, with a state. NULL where it has none: one query row is its step. */
    const variant *step;
    /* Its gradients. NULL where it has none. */
    const variant *backward;
};

/* All variants, in the order of the table; ends with NULL. */
extern const variant *const variant_list[];

/* Channels of its result: Dv, or D. */
int64_t variant_n_channels(const variant *v, const attention_input *input);

/* NULL when there is none of that name. */
const variant *variant_find(const char *name);

/* For variants that call the library. A context for a row, with that scratch for each worker; NULL with the reason in
 * `message`. And what its last call carved. */
heed_context *variant_create_context(const variant_setup *setup, int64_t scratch_bytes, char *message,
                                     size_t message_bytes);
int64_t variant_carved_bytes(const heed_context *context);

extern const variant variant_softmax;
extern const variant variant_gemm;
extern const variant variant_aft_full;
extern const variant variant_aft_local;
extern const variant variant_aft_simple;
extern const variant variant_aft_conv;
extern const variant variant_linear_elu1;
extern const variant variant_linear_softplus;
extern const variant variant_linear_oglu;
extern const variant variant_linear_aoglu;
extern const variant variant_linear_favor;
extern const variant variant_linear_blas;
extern const variant variant_mrsha_2;
extern const variant variant_mrsha_1248;
extern const variant variant_mrsha;

/* What softmax attention costs and gives, however it is computed. */
double softmax_flops(const attention_input *input);
double softmax_bytes(const attention_input *input);
void softmax_reference_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out);

#endif
