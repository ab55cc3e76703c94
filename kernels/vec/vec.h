/* vec.h: the one vector of floats that the tile kernels are written with.
 *
 * HEED_VEC_HEADER names the header of the instruction set that an object is compiled for; each defines the same
 * operations on its own registers, one to three instructions each. Tile files hold no other intrinsics and no #ifdef.
 *
 * VF_LANES                floats in a vector
 * TILE_KEYS, TILE_CHANNELS  rows of the register tiles: with HEED_TILE_VECTORS vectors each they fill the registers
 * MIX_ROWS, MIX_VECTORS   rows and vectors of the register tile whose lanes are channels
 * ROW_VECTORS             vectors of a row of channels: two sums of so many fit the registers beside a row of values
 *
 * vf                      a vector of floats            vm                  one truth value per lane
 * vf_zero(), vf_set1(x)   all lanes 0, x
 * vf_load(p)  vf_store(p, x)          any alignment
 * vf_load_n(p, n)         lanes 0 .. n - 1 from p, the others 0; touches no other address; 0 <= n <= VF_LANES
 * vf_store_n(p, x, n)     stores lanes 0 .. n - 1 only
 * vf_can_stream(p)  vf_stream(p, x)   a store past the caches, where the ISA has one for p; ordered by vf_stream_fence()
 * vf_load_bool_n(p, n)    1.0 where byte p[lane] is not 0, 0.0 where it is; lanes n and up 0.0
 * vf_add, vf_sub, vf_mul, vf_div      lane by lane
 * vf_fma(a, b, c)         a b + c, rounded once where the ISA has it (scalar: twice)
 * vf_reciprocal(y)        1 / y to 1 ulp for normal y and 1 / y
 * vf_divide(x, y, 1 / y)  x / y to 1 ulp, exact where x = y or y = 1, for normal y and 1 / y or y NaN
 * vf_max(a, b)            a > b ? a : b: where either is NaN, b
 * vf_min(a, b)            a < b ? a : b: likewise
 * vf_abs(x)               sign cleared, NaN stays NaN
 * vf_minus_abs(x)         sign set, NaN stays NaN
 * vf_clamp_exponent(x, low)  at least low, NaN stays NaN; the identity where vf_scale2 takes any exponent
 * vf_fraction(x)          x - floor(x), rounded: in [0, 1]; any finite value for infinite x; NaN for NaN
 * vf_scale2(x, y)         x 2^floor(y) for x in [1/2, 2] and y as vf_clamp_exponent leaves it: 0 for y < -126, inf from
 *                         2^128 on; NaN x gives NaN, but 0 for y < -126 where vf_clamp_exponent is the identity
 * vf_eq, vf_lt, vf_unordered          comparisons; NaN compares false except in vf_unordered(a, b): either is NaN
 * vf_select(m, a, b)      a where m, else b
 * vf_sum(x)               the sum of the lanes, added pairwise
 * vf_largest(x)           the largest of the lanes, none of them NaN
 * vm_any(m)               is any lane true
 * vf_transpose(x)         x[VF_LANES] as the rows of a square matrix, transposed in place
 * vf_keep(x)              x; keeps the compiler from folding its load into several instructions */
#ifndef HEED_VEC_H
#define HEED_VEC_H

/* Before a loop over the vectors or rows of a register tile: unrolled, or its accumulators would live in memory. Not
 * with clang's AddressSanitizer, which takes minutes to compile what is unrolled. */
#ifndef __clang__
#define HEED_UNROLL _Pragma("GCC unroll 16")
#elif __has_feature(address_sanitizer)
#define HEED_UNROLL
#else
#define HEED_UNROLL _Pragma("clang loop unroll(full)")
#endif

/* 1.5 2^23: added to a number below 2^22 it pushes the fraction out of the significand, rounded to nearest. */
#define VF_ROUNDER 12582912.0f

#define HEED_NOINLINE __attribute__((noinline))
#define HEED_INLINE static inline __attribute__((always_inline))

#include HEED_VEC_HEADER

#endif
