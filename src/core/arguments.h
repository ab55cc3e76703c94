/* Checks at the door. Each returns HEED_OK, or a status with the message saying what was expected and what came.
 * Order within a call: options; tensor by tensor NULL, dtype, sizes, strides, data; then sizes that must agree (each
 * bias, mask and output of attention has them right after its own checks); then overlap, then scratch. */
#ifndef HEED_CORE_ARGUMENTS_H
#define HEED_CORE_ARGUMENTS_H

#include "core/message.h"
#include "heed.h"

/* Sizes and byte offsets stay below 2^60, so that sums of a few of them fit in int64. */
#define HEED_MAX_EXTENT ((int64_t)1 << 60)

/* Leaves the calling function with the status of the first check that fails. */
#define HEED_CHECK(check)                                                                                              \
    do {                                                                                                               \
        heed_status heed_check_status = (check);                                                                       \
        if (heed_check_status != HEED_OK)                                                                              \
            return heed_check_status;                                                                                  \
    } while (0)

/* A struct with struct_size as its first member; NULL fails. */
heed_status heed_check_struct(heed_message *message, const char *name, const void *options, size_t expected);

/* HEED_ERROR_UNSUPPORTED, with the argument's name and why. */
heed_status heed_unsupported(heed_message *message, const char *name, const char *why);

/* Sizes of a tensor that is not NULL: non-negative, their product below 2^60. */
heed_status heed_check_sizes(heed_message *message, const char *name, const heed_tensor *tensor);

/* One size of a tensor: `expected`, which is that of `as` ("q", ...). */
heed_status heed_check_size(heed_message *message, const char *name, const heed_tensor *tensor, int dimension,
                            int64_t expected, const char *as);

/* The same, or 1 where the tensor repeats. */
heed_status heed_check_repeated_size(heed_message *message, const char *name, const heed_tensor *tensor, int dimension,
                                     int64_t expected, const char *as);

/* All four sizes, which are those of `like`. */
heed_status heed_check_same_shape(heed_message *message, const char *name, const heed_tensor *tensor,
                                  const heed_tensor *like, const char *as);

/* v (B, Hkv, Nk, .) against q and k, each with a channel or more; Hq is a multiple of Hkv. */
heed_status heed_check_values(heed_message *message, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v);

/* Everything about one tensor but how its sizes relate to others: NULL, dtype, sizes, strides, data. */
heed_status heed_check_input(heed_message *message, const char *name, const heed_tensor *tensor, heed_dtype dtype);

/* The same for an output, which repeats nothing and does not overlap itself. */
heed_status heed_check_output(heed_message *message, const char *name, const heed_tensor *tensor, heed_dtype dtype);

/* `out` shares no element with `other`; NULL for other is fine. */
heed_status heed_check_apart(heed_message *message, const char *out_name, const heed_tensor *out, const char *name,
                             const heed_tensor *other);

/* The same for a plain array. */
heed_status heed_check_apart_bytes(heed_message *message, const char *out_name, const heed_tensor *out,
                                   const char *name, const void *memory, int64_t bytes);

/* Exactly the same view: an output in place. */
int heed_is_same_view(const heed_tensor *a, const heed_tensor *b);

/* The view with stride 0 wherever its size is 1, so that one index formula serves all; without data for NULL. */
heed_tensor heed_repeated(const heed_tensor *tensor);

#endif
