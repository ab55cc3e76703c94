/* The comparator of all tests: is a float32 tensor what the float64 oracle says?
 *
 * An element is right when |got - want| <= tolerance x scale; where NaN is wanted only NaN is right, where an infinity
 * is wanted only that one. Nothing else is ever taken for right: a scale or tolerance that is NaN makes every element
 * wrong, and an output of zeros passes only where zeros are wanted. */
#ifndef HEED_TEST_COMPARE_H
#define HEED_TEST_COMPARE_H

#include "heed.h"

typedef struct compare_result {
    int equal;           /* 1: every element is right */
    int64_t n_wrong;     /* wrong elements */
    int64_t index[4];    /* batch, head, token, channel of the worst one */
    double got, want;    /* its values */
    double scaled_error; /* |got - want| / scale there, inf where NaN or an infinity was missed */
    char text[240];      /* all of this in words */
} compare_result;

/* `want` is contiguous in the order batch, head, token, channel. scale <= 0: the largest finite |want|. */
compare_result compare_tensor(const heed_tensor *got, const double *want, double tolerance, double scale);

/* For values of very different sizes: right where |got - want| <= absolute + relative |want|. The scaled error is then
 * a multiple of what is allowed. */
compare_result compare_each(const heed_tensor *got, const double *want, double absolute, double relative);

/* Two float32 tensors of one shape must hold the same bits; strides and padding do not matter. */
compare_result compare_bits(const heed_tensor *got, const heed_tensor *want);

/* The largest finite |value| of a float32 tensor; 0 when there is none. */
double tensor_max_abs(const heed_tensor *tensor);

/* Elements from the first one of a view to (b, h, n, c). Where a size is 1 the index is 0, and the stride counts for
 * nothing. */
int64_t tensor_offset(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c);

/* Address of element (b, h, n, c) of a float32 tensor. */
float *tensor_at(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c);

#endif
