/* The kernel table of one instruction set. A slot without a kernel is a link error. */
#include "kernels/kernel.h"

#define HEED_TEXT2(x) #x
#define HEED_TEXT(x) HEED_TEXT2(x)

#define HEED_KERNEL_ENTRY(result, name, arguments) .name = HEED_FN(name),

/* clang-format off */
const heed_kernels HEED_JOIN(heed_kernels, HEED_KERNEL_ISA) = {
    .isa = HEED_TEXT(HEED_KERNEL_ISA),
    .vector_lanes = VF_LANES,
    .tile_lanes = TILE_LANES,
    HEED_KERNEL_LIST(HEED_KERNEL_ENTRY)
};
/* clang-format on */
