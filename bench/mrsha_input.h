/* The resolutions that multiresolution-head attention gives the heads of an input. Made once for each input, before
 * anything is timed; q, k and v are those of the input. */
#ifndef HEED_BENCH_MRSHA_INPUT_H
#define HEED_BENCH_MRSHA_INPUT_H

#include "bench/variants.h"

/* All heads S = 2; S = 1, 2, 4, 8, and again; what --groups and --mrsha-mode say. */
typedef enum mrsha_kind { MRSHA_2, MRSHA_1248, MRSHA_ASKED, MRSHA_N_KINDS } mrsha_kind;

/* "both", "output" or "value". */
const char *mrsha_mode_name(heed_mrsha_mode mode);

struct mrsha_input {
    int64_t *group_sizes; /* [MRSHA_N_KINDS][Hq] */
};

/* Returns NULL with the reason in `message`. */
mrsha_input *mrsha_input_create(const attention_input *input, char *message, size_t message_bytes);
void mrsha_input_destroy(mrsha_input *mrsha);

/* The options of one kind; they point into the input. */
heed_mrsha_options mrsha_input_options(const attention_input *input, mrsha_kind kind);

/* 1 for the first query head of a kv head that has its group size: the state of MRSHA_ASKED has a cache for it. */
int mrsha_input_has_cache(const attention_input *input, int64_t h);

#endif
