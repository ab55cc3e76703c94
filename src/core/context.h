/* The context: kernels, threads, scratch, and what the last call said and did. */
#ifndef HEED_CORE_CONTEXT_H
#define HEED_CORE_CONTEXT_H

#include "core/message.h"
#include "heed.h"
#include "kernels/kernels.h"

#include <stdatomic.h>

struct heed_context {
    const heed_kernels *kernels;
    heed_isa isa;
    int n_threads;
    heed_parallel_for_fn parallel_for; /* NULL: OpenMP, or the calling thread alone */
    void *pool;
    heed_release_fn release;
    void *allocator;
    size_t allocated_bytes;
    char *scratch;          /* n_threads slices of scratch_bytes each, */
    int64_t scratch_stride; /* this far apart */
    int64_t scratch_bytes;
    atomic_flag busy;
    heed_message message;
    heed_report report;
};

/* Takes the context for one call: BUSY when another one runs, else the message is cleared. */
heed_status heed_call_begin(heed_context *context);

/* Gives it back and returns the status. */
heed_status heed_call_end(heed_context *context, heed_status status);

/* Whether each worker's scratch holds `bytes` bytes: OK, or SCRATCH with the message. */
heed_status heed_check_scratch(heed_context *context, int64_t bytes);

/* The scratch of one worker. */
char *heed_scratch_slice(const heed_context *context, int worker);

/* Starts the report of a call that carves `bytes` of each worker's scratch; heed_parallel_for() goes on with it. */
void heed_report_start(heed_context *context, const char *path, int64_t bytes);

#endif
