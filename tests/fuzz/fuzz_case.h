/* One call of heed_softmax_forward(), made from bytes: shapes, strides, layouts, options, masks, lengths, contents, and
 * in about half of the cases something that may be wrong: a spoiled field, or an output inside another tensor.
 *
 * Every tensor lies in a heap block of exactly its size, so that AddressSanitizer sees any access beyond it. Cases
 * whose spoiled view would be right but far larger than a block are dropped. */
#ifndef HEED_FUZZ_CASE_H
#define HEED_FUZZ_CASE_H

#include "heed.h"

typedef struct byte_reader {
    const uint8_t *next, *end;
} byte_reader;

typedef enum { Q, K, V, OUT, LSE, BIAS, VISIBLE, N_TENSORS } tensor_id;

enum { MAX_BATCHES = 4, MAX_HEADS = 16 };

/* A heap block, and what it held before the call. */
typedef struct memory_block {
    unsigned char *data, *before;
    size_t bytes;
} memory_block;

typedef struct fuzz_case {
    int64_t b, hq, hkv, nq, nk, d, dv;
    heed_tensor tensor[N_TENSORS];
    memory_block block[N_TENSORS]; /* of a tensor that shares another one's block: empty */
    int has_lse, has_bias, has_visible, has_mask, has_options;
    int shares_block; /* an output was moved into the block of another tensor */
    int threads;      /* which of the contexts runs it */
    heed_softmax_options options;
    heed_mask mask;
    int64_t query_lengths[MAX_BATCHES], key_lengths[MAX_BATCHES], query_start[MAX_BATCHES], key_start[MAX_BATCHES];
    float slopes[MAX_HEADS], sinks[MAX_HEADS];
} fuzz_case;

/* Returns 0 when the bytes make no case that is worth running. free_case() in any event. */
int make_case(fuzz_case *c, byte_reader reader);
void free_case(fuzz_case *c);

/* What heed.h says of the arguments: 1 when the call must succeed. */
int is_valid(const fuzz_case *c);

/* Remembers all blocks; 1 when a tensor's block still holds the same bytes. */
void keep_blocks(fuzz_case *c);
int block_is_kept(const fuzz_case *c, tensor_id t);

/* Bytes from the first element of a view to the end of its last one; 0 when it is empty; -1 when that is no number
 * below 2^60. Sizes must not be negative. */
int64_t extent_bytes(const heed_tensor *t);

/* Calls visit(data, byte offset of an element, bytes of an element) for every element. */
void visit_elements(const heed_tensor *t, void (*visit)(void *data, int64_t offset, int64_t bytes), void *data);

#endif
