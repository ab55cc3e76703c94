/* Sequences for the steps of the Attention-Free Transformer: the tensors of all tokens, and the state of those that have
 * been stepped over. Any form has its state as a heed_aft_local_state; AFT-simple has no keys and values in it. */
#ifndef HEED_TEST_AFT_STREAM_H
#define HEED_TEST_AFT_STREAM_H

#include "oracle/oracle.h"
#include "support/attention.h"

enum { MAX_TENSORS = 16 };

typedef struct stream {
    oracle_aft_form form;
    int64_t window; /* taps of a filter; 0: simple */
    heed_tensor q, k, v, out, filter;
    heed_tensor w;    /* the band of every token, or of one for all */
    heed_tensor u, f; /* factors; f begins window - 1 keys before the first token */
    heed_aft_options options;
    unsigned char *state; /* bytes as told by heed */
    int64_t state_bytes;
    guarded memory[MAX_TENSORS];
    int n_tensors;
} stream;

heed_tensor stream_tensor(stream *s, heed_dtype dtype, int64_t b, int64_t h, int64_t n, int64_t c,
                          tensor_layout layout);

/* The same number gives the same numbers. The state held NaN, and has been reset. */
stream *stream_create(oracle_aft_form form, int64_t batch, int64_t heads, int64_t tokens, int64_t channels,
                      int64_t window, uint64_t number);
void stream_destroy(stream *s);

/* AFT-local only. 0: none; 1: a band for each token; 2: one band for all; 3: factors. Columns and factors of keys before
 * the first token are NaN. */
void stream_give_bias(stream *s, int kind, uint64_t number);

/* The functions of states and steps, of the stream's form. */
heed_aft_local_state stream_state(const stream *s, void *memory);
heed_status stream_bytes(const stream *s, int64_t *bytes);
heed_status stream_reset(const stream *s, const heed_aft_local_state *x, int64_t b);
heed_status stream_call(const stream *s, heed_context *context, const heed_tensor *q, const heed_tensor *k,
                        const heed_tensor *v, const heed_aft_options *options, const heed_aft_local_state *x,
                        const heed_tensor *out);

/* Steps over tokens first .. first + n - 1 of every sequence, lengths[b] of them where lengths are given. */
void stream_step(const stream *s, heed_context *context, const heed_aft_local_state *x, int64_t first, int64_t n,
                 const int64_t *lengths);

#endif
