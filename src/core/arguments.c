#include "core/arguments.h"

#include "core/overlap.h"
#include "core/tensor.h"

#include <inttypes.h>
#include <string.h>

static const char *const size_names[4] = {"batches", "heads", "tokens", "channels"};

heed_status heed_check_struct(heed_message *message, const char *name, const void *options, size_t expected)
{
    size_t size;
    if (!options)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: is NULL", name);
    memcpy(&size, options, sizeof size);
    if (size != expected)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: struct_size %zu expected, got %zu", name, expected,
                             size);
    return HEED_OK;
}

heed_status heed_unsupported(heed_message *message, const char *name, const char *why)
{
    return heed_complain(message, HEED_ERROR_UNSUPPORTED, "%s: %s", name, why);
}

heed_status heed_check_sizes(heed_message *message, const char *name, const heed_tensor *tensor)
{
    int64_t elements = 1;
    for (int d = 0; d < 4; d++) {
        if (tensor->shape[d] < 0)
            return heed_complain(message, HEED_ERROR_SHAPE, "%s: %" PRId64 " %s", name, tensor->shape[d],
                                 size_names[d]);
        int64_t size = tensor->shape[d] > 1 ? tensor->shape[d] : 1;
        if (__builtin_mul_overflow(elements, size, &elements) || elements >= HEED_MAX_EXTENT)
            return heed_complain(message, HEED_ERROR_SHAPE, "%s: 2^60 elements or more", name);
    }
    return HEED_OK;
}

heed_status heed_check_size(heed_message *message, const char *name, const heed_tensor *tensor, int dimension,
                            int64_t expected, const char *as)
{
    if (tensor->shape[dimension] == expected)
        return HEED_OK;
    return heed_complain(message, HEED_ERROR_SHAPE, "%s: %" PRId64 " %s expected (%s), got %" PRId64, name, expected,
                         size_names[dimension], as, tensor->shape[dimension]);
}

heed_status heed_check_repeated_size(heed_message *message, const char *name, const heed_tensor *tensor, int dimension,
                                     int64_t expected, const char *as)
{
    if (tensor->shape[dimension] == 1)
        return HEED_OK;
    return heed_check_size(message, name, tensor, dimension, expected, as);
}

heed_status heed_check_same_shape(heed_message *message, const char *name, const heed_tensor *tensor,
                                  const heed_tensor *like, const char *as)
{
    for (int d = 0; d < 4; d++)
        HEED_CHECK(heed_check_size(message, name, tensor, d, like->shape[d], as));
    return HEED_OK;
}

heed_status heed_check_values(heed_message *message, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v)
{
    HEED_CHECK(heed_check_size(message, "v", v, 0, q->shape[0], "as in q"));
    HEED_CHECK(heed_check_size(message, "v", v, 1, k->shape[1], "as in k"));
    HEED_CHECK(heed_check_size(message, "v", v, 2, k->shape[2], "as in k"));
    if (q->shape[3] == 0 || k->shape[3] == 0 || v->shape[3] == 0)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s: 1 channel or more expected, got 0",
                             q->shape[3] == 0   ? "q"
                             : k->shape[3] == 0 ? "k"
                                                : "v");
    if (k->shape[1] == 0 ? q->shape[1] != 0 : q->shape[1] % k->shape[1] != 0)
        return heed_complain(message, HEED_ERROR_SHAPE,
                             "q: a multiple of %" PRId64 " heads expected (the heads of k), got %" PRId64, k->shape[1],
                             q->shape[1]);
    return HEED_OK;
}

static const char *dtype_name(heed_dtype dtype) { return dtype == HEED_BOOL ? "HEED_BOOL" : "HEED_FLOAT32"; }

static heed_status check_dtype(heed_message *message, const char *name, const heed_tensor *tensor, heed_dtype dtype)
{
    if (heed_dtype_bytes(tensor->dtype) == 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: unknown dtype %d", name, (int)tensor->dtype);
    if (tensor->dtype != dtype)
        return heed_complain(message, HEED_ERROR_DTYPE, "%s: %s expected, got %s", name, dtype_name(dtype),
                             dtype_name(tensor->dtype));
    return HEED_OK;
}

static heed_status check_strides(heed_message *message, const char *name, const heed_tensor *tensor)
{
    int64_t last = 0;
    for (int d = 0; d < 4; d++) {
        int64_t size = tensor->shape[d], stride = tensor->stride[d], way;
        if (size <= 1)
            continue;
        if (stride < 0)
            return heed_complain(message, HEED_ERROR_STRIDE, "%s: stride %" PRId64 " between %s is negative", name,
                                 stride, size_names[d]);
        if (d == 3 && stride != 1)
            return heed_complain(message, HEED_ERROR_STRIDE, "%s: stride 1 between channels expected, got %" PRId64,
                                 name, stride);
        if (__builtin_mul_overflow(stride, size - 1, &way) || __builtin_add_overflow(last, way, &last) ||
            last >= HEED_MAX_EXTENT / heed_dtype_bytes(tensor->dtype))
            return heed_complain(message, HEED_ERROR_STRIDE, "%s: reaches 2^60 bytes or more", name);
    }
    return HEED_OK;
}

heed_status heed_check_input(heed_message *message, const char *name, const heed_tensor *tensor, heed_dtype dtype)
{
    if (!tensor)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: is NULL", name);
    HEED_CHECK(check_dtype(message, name, tensor, dtype));
    HEED_CHECK(heed_check_sizes(message, name, tensor));
    HEED_CHECK(check_strides(message, name, tensor));
    if (heed_is_empty(tensor))
        return HEED_OK;
    if (!tensor->data)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: data is NULL", name);
    if ((uintptr_t)tensor->data % (uintptr_t)heed_dtype_bytes(dtype) != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "%s: data is not aligned to its elements", name);
    return HEED_OK;
}

heed_status heed_check_output(heed_message *message, const char *name, const heed_tensor *tensor, heed_dtype dtype)
{
    HEED_CHECK(heed_check_input(message, name, tensor, dtype));
    if (heed_is_empty(tensor))
        return HEED_OK;
    for (int d = 0; d < 4; d++) {
        if (tensor->shape[d] > 1 && tensor->stride[d] == 0)
            return heed_complain(message, HEED_ERROR_STRIDE, "%s: an output cannot repeat (stride 0 between %s)", name,
                                 size_names[d]);
    }
    if (heed_view_overlaps_itself(tensor))
        return heed_complain(message, HEED_ERROR_OVERLAP, "%s: overlaps itself", name);
    return HEED_OK;
}

heed_status heed_check_apart(heed_message *message, const char *out_name, const heed_tensor *out, const char *name,
                             const heed_tensor *other)
{
    if (other && heed_views_overlap(out, other))
        return heed_complain(message, HEED_ERROR_OVERLAP, "%s: overlaps %s", out_name, name);
    return HEED_OK;
}

heed_status heed_check_apart_bytes(heed_message *message, const char *out_name, const heed_tensor *out,
                                   const char *name, const void *memory, int64_t bytes)
{
    if (bytes > 0 && heed_view_overlaps_bytes(out, memory, bytes))
        return heed_complain(message, HEED_ERROR_OVERLAP, "%s: overlaps %s", out_name, name);
    return HEED_OK;
}

int heed_is_same_view(const heed_tensor *a, const heed_tensor *b)
{
    for (int d = 0; d < 4; d++) {
        if (a->shape[d] != b->shape[d] || (a->shape[d] > 1 && a->stride[d] != b->stride[d]))
            return 0;
    }
    return a->data == b->data;
}

heed_tensor heed_repeated(const heed_tensor *tensor)
{
    heed_tensor view = tensor ? *tensor : (heed_tensor){0};
    for (int d = 0; d < 4; d++) {
        if (view.shape[d] <= 1)
            view.stride[d] = 0;
    }
    return view;
}
