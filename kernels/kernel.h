/* What every kernel file includes: the contract, the vector type, and the names of this object. */
#ifndef HEED_KERNELS_KERNEL_H
#define HEED_KERNELS_KERNEL_H

#include "kernels/kernels.h"
#include "kernels/vec/vec.h"

#define HEED_JOIN2(a, b) a##_##b
#define HEED_JOIN(a, b) HEED_JOIN2(a, b)

/* The name of an exported kernel in this object: heed_<name>_<isa>. */
#define HEED_FN(name) HEED_JOIN(HEED_JOIN(heed, name), HEED_KERNEL_ISA)

#define HEED_KERNEL_PROTOTYPE(result, name, arguments) result HEED_FN(name) arguments;
HEED_KERNEL_LIST(HEED_KERNEL_PROTOTYPE)
#undef HEED_KERNEL_PROTOTYPE

enum { TILE_LANES = HEED_TILE_VECTORS * VF_LANES }; /* floats in a row of a tile */

/* How many lanes of a vector the next of n floats, n > 0, take. */
HEED_INLINE int lanes_left(int64_t n) { return n < VF_LANES ? (int)n : VF_LANES; }

/* K and V stream through: while a key is worked on, what lies KEYS_AHEAD keys further on is asked for, into L2, since
 * in L1 it would be in the way. 32 is as good, 8 is up to 6 % worse (decoding). */
enum { KEYS_AHEAD = 64, LINE_FLOATS = 16 /* of a cache line */ };

/* base[row * stride], to be asked for and nothing else. It may lie beyond the caller's memory, and a stride that is never
 * looked at may be any number: so the sum is unsigned and may wrap. */
HEED_INLINE const float *row_address(const float *base, int64_t row, int64_t stride)
{
    return (const float *)((uintptr_t)base + (uintptr_t)row * (uintptr_t)stride * sizeof *base);
}

/* Asks for the line of base[row * stride]. */
HEED_INLINE void prefetch(const float *base, int64_t row, int64_t stride)
{
    __builtin_prefetch(row_address(base, row, stride), 0, 2);
}

#endif
