/* Partial results for the merge tests: out and lse over some of the keys. */
#ifndef HEED_TEST_PARTS_H
#define HEED_TEST_PARTS_H

#include "support/fixture.h"

/* One partial result. */
typedef struct part {
    heed_tensor out, lse;
    guarded out_memory, lse_memory;
} part;

static inline void open_part(part *p, const int64_t shape[4], int per_channel, tensor_layout layout)
{
    p->out = tensor_create(&p->out_memory, HEED_FLOAT32, shape[0], shape[1], shape[2], shape[3], layout, GUARD_END);
    p->lse = tensor_create(&p->lse_memory, HEED_FLOAT32, shape[0], shape[1], shape[2], per_channel ? shape[3] : 1,
                           layout, GUARD_END);
}

static inline void close_part(part *p)
{
    assert_true(guarded_intact(&p->out_memory));
    assert_true(guarded_intact(&p->lse_memory));
    guarded_destroy(&p->out_memory);
    guarded_destroy(&p->lse_memory);
}

static inline void merge_parts(const part *a, const part *b, const part *joined)
{
    const heed_status status =
        heed_merge(fixture_context, &a->out, &a->lse, &b->out, &b->lse, &joined->out, &joined->lse);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
}

#endif
