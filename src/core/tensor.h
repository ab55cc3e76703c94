/* Addresses in a view that has passed its checks. */
#ifndef HEED_CORE_TENSOR_H
#define HEED_CORE_TENSOR_H

#include "heed.h"

static inline int heed_is_empty(const heed_tensor *tensor)
{
    return tensor->shape[0] == 0 || tensor->shape[1] == 0 || tensor->shape[2] == 0 || tensor->shape[3] == 0;
}

static inline int64_t heed_offset(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n)
{
    return b * tensor->stride[0] + h * tensor->stride[1] + n * tensor->stride[2];
}

/* Row (b, h, n) of a float tensor; NULL where there is no data. */
static inline float *heed_row(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n)
{
    return tensor->data ? (float *)tensor->data + heed_offset(tensor, b, h, n) : NULL;
}

/* The same of a boolean tensor. */
static inline const uint8_t *heed_bool_row(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n)
{
    return (const uint8_t *)tensor->data + heed_offset(tensor, b, h, n);
}

#endif
