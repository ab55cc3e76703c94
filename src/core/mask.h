/* Who sees whom: heed_mask, checked and resolved once per call. */
#ifndef HEED_CORE_MASK_H
#define HEED_CORE_MASK_H

#include "core/message.h"
#include "core/sizes.h"
#include "heed.h"

typedef struct heed_mask_plan {
    int64_t n_queries, n_keys;
    int64_t left, right; /* window by position; -1: unbounded; causal is right = 0 */
    heed_mask mask;
    heed_tensor visible; /* data NULL: all visible; stride 0 where it repeats */
} heed_mask_plan;

/* A range of keys [begin, end). */
typedef struct heed_key_range {
    int64_t begin, end;
} heed_key_range;

static inline int heed_range_is_empty(heed_key_range range) { return range.begin >= range.end; }

/* What lies in both. */
static inline heed_key_range heed_range_common(heed_key_range a, heed_key_range b)
{
    return (heed_key_range){heed_larger(a.begin, b.begin), heed_smaller(a.end, b.end)};
}

/* The shortest range that holds both; an empty one counts for nothing. */
static inline heed_key_range heed_range_cover(heed_key_range a, heed_key_range b)
{
    if (heed_range_is_empty(a) || heed_range_is_empty(b))
        return heed_range_is_empty(a) ? b : a;
    return (heed_key_range){heed_smaller(a.begin, b.begin), heed_larger(a.end, b.end)};
}

/* The block behind `block`: up to the next multiple of `size`, counted from key 0, or to `end`. */
static inline heed_key_range heed_next_block(heed_key_range block, int64_t end, int64_t size)
{
    return (heed_key_range){block.end, heed_smaller(end, (block.end / size + 1) * size)};
}

/* Checks `mask` (NULL: everybody sees everybody) against q (B, Hq, Nq, .) and k (B, ., Nk, .). */
heed_status heed_mask_check(heed_message *message, const heed_mask *mask, const heed_tensor *q, const heed_tensor *k);

/* `out` overlaps nothing that the mask points to. */
heed_status heed_mask_check_apart(heed_message *message, const char *out_name, const heed_tensor *out,
                                  const heed_mask *mask, int64_t n_batches);

/* Resolves a checked mask. */
heed_mask_plan heed_mask_resolve(const heed_mask *mask, const heed_tensor *q, const heed_tensor *k);

/* Queries of batch element b that count. */
int64_t heed_query_length(const heed_mask_plan *plan, int64_t b);

/* Keys that count, likewise. */
int64_t heed_key_length(const heed_mask_plan *plan, int64_t b);

/* pos_k(0) - pos_q(0) in batch element b: the distance of key j from query i is j - i + this. */
int64_t heed_position_offset(const heed_mask_plan *plan, int64_t b);

/* The keys that query i of batch element b may see by length, causality and window; empty: {0, 0}. */
heed_key_range heed_visible_range(const heed_mask_plan *plan, int64_t b, int64_t i);

#endif
