/* What multiresolution-head attention costs: operations and bytes of one call. */
#ifndef HEED_BENCH_MRSHA_COSTS_H
#define HEED_BENCH_MRSHA_COSTS_H

#include "bench/mrsha_input.h"

/* For each head 2 (D + Dv) operations for each row of attention and key that it sees. In coarse heads rows and keys are
 * those of groups, where the mode makes groups of them. The means do not count. */
double mrsha_flops(const attention_input *input, mrsha_kind kind);

/* The same for the last token alone of MRSHA_ASKED. It sees all groups. */
double mrsha_step_flops(const attention_input *input);

/* q, k, v and out of the token; and of each cache of the state the rows read, the last one written, and the sum of the
 * latest group read and written. */
double mrsha_step_bytes(const attention_input *input);

#endif
