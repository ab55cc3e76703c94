/* One float in a vector: portable C, so that the tile code runs anywhere and under every checking tool. */
#ifndef HEED_VEC_SCALAR_H
#define HEED_VEC_SCALAR_H

#include <stdint.h>

#define VF_LANES 1
#define TILE_KEYS 4
#define TILE_CHANNELS 4
#define ROW_VECTORS 4
#define MIX_ROWS 6
#define MIX_VECTORS 4

typedef float vf;
typedef int vm;

static inline vf vf_zero(void) { return 0.0f; }
static inline vf vf_set1(float x) { return x; }
static inline vf vf_load(const float *p) { return *p; }
static inline void vf_store(float *p, vf x) { *p = x; }
static inline vf vf_load_n(const float *p, int n) { return n > 0 ? *p : 0.0f; }
static inline void vf_store_n(float *p, vf x, int n)
{
    if (n > 0)
        *p = x;
}
static inline vf vf_load_bool_n(const uint8_t *p, int n) { return n > 0 && *p ? 1.0f : 0.0f; }
static inline int vf_can_stream(const float *p) { return ((void)p, 0); }
static inline void vf_stream(float *p, vf x) { *p = x; }
static inline void vf_stream_fence(void) {}
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }

/* Without a fused multiply-add there is no exact remainder to correct with. */
static inline vf vf_reciprocal(vf x) { return 1.0f / x; }
static inline vf vf_divide(vf x, vf y, vf inverse)
{
    (void)inverse;
    return vf_div(x, y);
}
static inline vf vf_max(vf a, vf b) { return a > b ? a : b; }
static inline vf vf_min(vf a, vf b) { return a < b ? a : b; }
static inline vf vf_abs(vf x) { return __builtin_fabsf(x); }
static inline vf vf_minus_abs(vf x) { return -__builtin_fabsf(x); }

static inline vf vf_clamp_exponent(vf x, float low) { return vf_max(low, x); }

static inline vf vf_floor(vf x)
{
    vf nearest = (x + VF_ROUNDER) - VF_ROUNDER;
    return nearest > x ? nearest - 1.0f : nearest;
}

static inline vf vf_fraction(vf x) { return x - vf_floor(x); }

static inline vf vf_scale2(vf x, vf y)
{
    vf n = vf_floor(y);
    union {
        uint32_t bits;
        float value;
    } power = {(uint32_t)((n == n ? (int32_t)n : 0) + 127) << 23};
    return x * power.value;
}

static inline vm vf_eq(vf a, vf b) { return a == b; }
static inline vm vf_lt(vf a, vf b) { return a < b; }
static inline vm vf_unordered(vf a, vf b) { return a != a || b != b; }
static inline vf vf_select(vm m, vf a, vf b) { return m ? a : b; }
static inline float vf_largest(vf x) { return x; }
static inline float vf_sum(vf x) { return x; }
static inline int vm_any(vm m) { return m; }
HEED_INLINE void vf_transpose(vf x[VF_LANES]) { (void)x; }
static inline vf vf_keep(vf x) { return x; }

#endif
