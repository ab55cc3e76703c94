/* Weights to begin training with. */
#ifndef HEED_MECHANISMS_INITIALISERS_H
#define HEED_MECHANISMS_INITIALISERS_H

#include "core/context.h"
#include "heed.h"

/* The number of a kind is that of its random stream, and so a part of the weights: it stays. */
typedef enum init_kind { INIT_ORTHOGONAL = 0, INIT_HE = 1, INIT_FAVOR = 2 } init_kind;

/* Scratch of one worker, from the rows and columns of w. */
int64_t heed_init_worker_bytes(init_kind kind, const heed_tensor *w);

/* Writes w, (1, H, in, out). */
void heed_init_run(heed_context *context, init_kind kind, uint64_t seed, const heed_tensor *w);

#endif
