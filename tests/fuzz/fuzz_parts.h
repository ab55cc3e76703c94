/* What the fuzz targets share. From bytes they make views, blocks of memory, masks, and in about half of the cases
 * something that may be wrong: a spoiled field, or an output inside another tensor. The rules of heed.h that hold for all
 * of them are said here a second time, in the plainest way.
 *
 * Every tensor lies in a heap block of exactly its size, so that AddressSanitizer sees any access beyond it. Cases
 * whose spoiled view would be right but far larger than a block are dropped. */
#ifndef HEED_FUZZ_PARTS_H
#define HEED_FUZZ_PARTS_H

#include "heed.h"

enum { MAX_BATCHES = 4 };

/* ---- Bytes ---- */

typedef struct byte_reader {
    const uint8_t *next, *end;
} byte_reader;

/* 0 .. n - 1; 0 when the bytes have run out, so that short inputs make plain cases. */
int64_t take(byte_reader *r, int64_t n);
int one_in(byte_reader *r, int64_t n);
float take_float(byte_reader *r, float low, float high);

/* ---- Views ---- */

/* Bytes from the first element of a view to the end of its last one; 0 when it is empty; -1 when that is no number
 * below 2^60. Sizes must not be negative. */
int64_t extent_bytes(const heed_tensor *t);

/* Gaps after rows, heads and batch elements; where inputs may repeat, sometimes stride 0. */
void choose_strides(heed_tensor *t, int may_repeat, byte_reader *r);

/* Changes one field. */
void spoil_tensor(heed_tensor *t, byte_reader *r);

void print_tensor(const char *name, const heed_tensor *t);

/* ---- Memory ---- */

/* A heap block, and what it held before the call. */
typedef struct memory_block {
    unsigned char *data, *before;
    size_t bytes;
} memory_block;

/* Numbers up to `size`, and a few that are no ordinary ones; true more often than not for booleans. Returns 0 where there
 * is no such block. */
int make_block(heed_tensor *view, memory_block *block, int is_flags, float size, uint64_t number, byte_reader *r);

/* Moves an output into the block of another one of n tensors, at a random place: into its gaps, or onto its elements.
 * *moved says whether it did. Returns 0 without memory. */
int share_block(heed_tensor *tensors, memory_block *blocks, int n, int output, int *moved, byte_reader *r);

/* Some of n tensors lose their data, or are moved to an odd address: not those of booleans, which an odd address does
 * not spoil, and which would leave their block. */
void spoil_data(heed_tensor *tensors, int n, byte_reader *r);

void free_blocks(const memory_block *blocks, int n);

/* Remembers all blocks; gives them back what they held; 1 when one still holds the same bytes. */
void keep_blocks(const memory_block *blocks, int n);
void restore_blocks(const memory_block *blocks, int n);
int block_is_kept(const memory_block *block);

/* What all blocks hold, one behind the other; the caller frees it. 1 when they hold the same again. */
unsigned char *copy_blocks(const memory_block *blocks, int n);
int blocks_hold(const memory_block *blocks, int n, const unsigned char *copy);

/* Bytes of the block of a view that belong to no element hold what they held. */
int are_gaps_kept(const heed_tensor *t, const memory_block *block);

/* Floats of the block that belong to no element of a token n < lengths[b] become NaN. */
void poison_rest(const heed_tensor *t, const memory_block *block, const int64_t *lengths);

/* ---- Masks ---- */

typedef struct fuzz_mask {
    heed_mask mask;
    int64_t query_lengths[MAX_BATCHES], key_lengths[MAX_BATCHES], query_start[MAX_BATCHES], key_start[MAX_BATCHES];
} fuzz_mask;

/* All but `visible`. */
void choose_mask(fuzz_mask *m, int64_t n_queries, int64_t n_keys, byte_reader *r);

enum { N_MASK_SPOILS = 9 };
void spoil_mask(fuzz_mask *m, int64_t which, int64_t number, byte_reader *r);

void print_mask(const heed_mask *m);

/* ---- Calls ---- */

/* Changes one field of the options of softmax attention, or of their mask; it clears the slopes where positions may be
 * far apart then, and so would be the scores. */
void spoil_softmax_option(heed_softmax_options *o, fuzz_mask *m, byte_reader *r);

void print_softmax_options(const char *name, const heed_softmax_options *o);

/* Changes one field of the options of AFT; w and key_factors are what they may point to. */
enum { N_AFT_SPOILS = 9 };
void spoil_aft_option(heed_aft_options *o, int64_t which, int64_t number, const heed_tensor *w,
                      const heed_tensor *key_factors);

/* Two contexts for the whole run: 0, one thread, and 1, a hook that turns the order of the tasks round. */
heed_context *fuzz_context(int which);

/* ---- The rules (fuzz_rules.c) ---- */

int has_elements(const heed_tensor *t);
int has_shape(const heed_tensor *t, int64_t b, int64_t h, int64_t n, int64_t c);

/* 1 when any byte belongs to two elements of the views (one view: b is NULL). Elements of an input may repeat. */
int shares_elements(const heed_tensor *a, const heed_tensor *b);

int is_valid_view(const heed_tensor *t, heed_dtype dtype);
int is_valid_output(const heed_tensor *t);

/* Batch and head are those of q, or 1. */
int is_valid_repeated_view(const heed_tensor *t, heed_dtype dtype, const heed_tensor *q);

int is_valid_mask(const fuzz_mask *m, const heed_tensor *q, const heed_tensor *k);

/* Causal, and the new tokens that count. */
int is_valid_step_mask(const fuzz_mask *m, const heed_tensor *q, const heed_tensor *k);

/* q, k and v of softmax attention, and its options, whose mask, if any, is that of m. */
int are_valid_softmax_inputs(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v);
int are_valid_softmax_options(const heed_softmax_options *o, const fuzz_mask *m, const heed_tensor *q,
                              const heed_tensor *k);

/* The numbers of tokens in the state of a call for n batch elements. */
int are_valid_tokens(const int64_t *n_tokens, int64_t n);

#endif
