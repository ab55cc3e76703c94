/* Do two views share an element? */
#ifndef HEED_CORE_OVERLAP_H
#define HEED_CORE_OVERLAP_H

#include "heed.h"

/* 1 when one element of `a` and one of `b` share a byte, 0 when not. Both have passed heed_check_input(). A pair that
 * is not decided within a million steps counts as sharing. */
int heed_views_overlap(const heed_tensor *a, const heed_tensor *b);

/* 1 when two different indices of `a` name the same element. */
int heed_view_overlaps_itself(const heed_tensor *a);

/* `bytes` plain bytes (lengths, slopes) as one side. */
int heed_view_overlaps_bytes(const heed_tensor *a, const void *memory, int64_t bytes);

/* Bytes of one element; 0 for an unknown type. */
int64_t heed_dtype_bytes(heed_dtype dtype);

#endif
