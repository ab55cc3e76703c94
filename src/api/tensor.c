/* Views, and small texts about versions and statuses. */
#include "heed.h"

static heed_tensor view(const void *data, heed_dtype dtype)
{
    /* Inputs and outputs share one type; the const of an input is kept by what heed does, not by the compiler. */
    union {
        const void *constant;
        void *plain;
    } memory = {data};
    return (heed_tensor){.data = memory.plain, .dtype = dtype};
}

/* Sizes are checked by the call that takes the view; unsigned products wrap instead of being undefined. */
static int64_t product(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }

heed_tensor heed_tensor_bhnd(const void *data, heed_dtype dtype, int64_t batch, int64_t heads, int64_t tokens,
                             int64_t channels)
{
    heed_tensor tensor = view(data, dtype);
    int64_t shape[4] = {batch, heads, tokens, channels};
    int64_t stride[4] = {product(heads, product(tokens, channels)), product(tokens, channels), channels, 1};
    for (int d = 0; d < 4; d++) {
        tensor.shape[d] = shape[d];
        tensor.stride[d] = stride[d];
    }
    return tensor;
}

heed_tensor heed_tensor_bnhd(const void *data, heed_dtype dtype, int64_t batch, int64_t heads, int64_t tokens,
                             int64_t channels)
{
    heed_tensor tensor = heed_tensor_bhnd(data, dtype, batch, heads, tokens, channels);
    tensor.stride[1] = channels;
    tensor.stride[2] = product(heads, channels);
    return tensor;
}

const char *heed_version(void) { return HEED_VERSION; }

const char *heed_status_text(heed_status status)
{
    static const char *const texts[] = {
        "ok",
        "bad argument",
        "sizes are wrong or disagree",
        "bad stride",
        "output overlaps another argument",
        "wrong dtype",
        "not supported",
        "instruction set not available",
        "scratch too small",
        "out of memory",
        "context is busy",
    };
    return (unsigned)status < sizeof texts / sizeof *texts ? texts[status] : "unknown status";
}
